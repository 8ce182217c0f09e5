/* crore: straight-line blocking code, ten million conversations on one machine. This includes all of it. */
#ifndef CRORE_CRORE_H
#define CRORE_CRORE_H

#include <crore/co.h>
#include <crore/conn.h>
#include <crore/rt.h>

#endif
