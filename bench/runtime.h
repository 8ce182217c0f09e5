/* What the benchmarks of several workers share: a runtime with as many workers as the case's name ends with. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <crore/crore.h>
#include "bench.h"

static const char *case_name;
static int case_milliseconds;

static inline void bench_run(const char *name, int milliseconds, void (*measure)(void *unused))
{
    struct cr_config config = {.workers = (unsigned)atoi(strrchr(name, '-') + 1)};
    case_name = name;
    case_milliseconds = milliseconds;
    bench_need(cr_run(measure, NULL, &config) == 0, "cr_run");
}

/* Ends the program: in a coroutine there is nobody to tell. */
static inline void bench_must(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(-result));
    exit(1);
}

#endif
