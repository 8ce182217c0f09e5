/* Code under test for explorer_test.c: a message that is handed over, with one order more than it needs. Being no test itself, its operations
 * are sites. */
#ifndef MODEL_SAMPLE_H
#define MODEL_SAMPLE_H

#include <stdatomic.h>
#include <stdbool.h>

struct sample {
    _Atomic int state; /* 0: nothing; 1: a message; 2: taken */
    int message;
};

static inline void sample_put(struct sample *sample, int message)
{
    sample->message = message;
    atomic_store_explicit(&sample->state, 1, memory_order_release); /* pairs with the acquire in take */
}

static inline bool sample_take(struct sample *sample, int *message)
{
    int there = 1;
    if (!atomic_compare_exchange_strong_explicit(&sample->state, &there, 2, memory_order_acq_rel, memory_order_relaxed))
        return false;
    *message = sample->message;
    return true;
}

#endif
