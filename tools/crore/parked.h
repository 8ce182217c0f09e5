/* `crore demo --parked`: very many parked coroutines of one kind of stack. */
#ifndef CRORE_PARKED_H
#define CRORE_PARKED_H

#include <stdint.h>

/* kind: "static", "virtual", "shared" or "stackless". json: a file for the figures; NULL: none. Returns the exit status. */
int parked_run(int64_t count, const char *kind, const char *json);

#endif
