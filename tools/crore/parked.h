/* `crore demo --parked`: very many parked coroutines of one kind of stack. */
#ifndef CRORE_PARKED_H
#define CRORE_PARKED_H

#include <stdint.h>
#include <stdio.h>

/* kind: "static", "packed", "virtual", "shared" or "stackless"; freeze_after_ns: of struct cr_config. json: where the figures go; NULL: nowhere. Returns the exit status. */
int parked_run(int64_t count, const char *kind, int64_t freeze_after_ns, FILE *json);

#endif
