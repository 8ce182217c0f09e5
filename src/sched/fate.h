/* What the runtime leaves open, and who decides it, if not chance: time, and the order of what is ready. Filled in by `sim` for a runtime that runs under a seed.
 *
 * The scheduler asks only where its promises leave a choice: where among the ready ones one is put that was woken or spawned (one that yields goes behind all of them: so those go
 * first, as cr_yield promises), whether one that is handed over goes first, after how many calls that need not wait one yields, and after how many switches the loop looks around.
 * Queues of waiters stay first come, first served. */
#ifndef CR__FATE_H
#define CR__FATE_H

#include "base/base.h"

struct cr__record;
struct cr__sched;

struct cr__fate {
    /* Around the life of a runtime whose seed is not 0, by whoever runs its worker. 0 or -errno, after a message. result: what the runtime returns. */
    int (*open)(struct cr__sched *sched);
    void (*close)(struct cr__sched *sched, int result);

    /* What follows is for the worker's thread. One of 0 to n - 1; n is not 0. */
    uint32_t (*below)(uint32_t n);
    /* It is this one's turn. */
    void (*turn)(const struct cr__record *record);
    /* Nothing happens until then. */
    void (*pass)(int64_t until_ns);
    /* A number that tells all turns so far, and when they were. */
    uint64_t (*trace)(void);
};

extern const struct cr__fate cr__fate; /* sim's. Only `rt` names it: so what tests make of parts of the scheduler needs no simulation */

#endif
