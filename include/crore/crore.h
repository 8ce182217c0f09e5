/* crore: straight-line blocking code, ten million conversations on one machine. This includes all of it. */
#ifndef CRORE_CRORE_H
#define CRORE_CRORE_H

#include <crore/chan.h>
#include <crore/co.h>
#include <crore/conn.h>
#include <crore/link.h>
#include <crore/net.h>
#include <crore/outside.h>
#include <crore/packet.h>
#include <crore/rt.h>
#include <crore/scope.h>
#include <crore/server.h>
#include <crore/sync.h>
#include <crore/task.h>

#endif
