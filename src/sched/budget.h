/* The budget: a bound on what the runtime holds by its own books. At the bound nothing new is begun: spawning fails with -ENOMEM, and so does accepting. What
 * has begun goes on, and gets what it needs for that: room for images, buffers, its first stack. So back-pressure never becomes a standstill.
 *
 * When little is left, virtual stacks are frozen without waiting for their limit (freezer.c).
 *
 * What counts: chunks of slabs in use, small objects of the runtime's, and for each static or virtual stack in use a page and its page tables, for a packed one half of that; also for
 * each coroutine that has not started, since it will want one. A frozen stack counts its page tables, and its image. What the depot holds back does not: it is used before anything new is.
 *
 * A worker looks at the books, which all share, once for many spawns: it grants itself an allowance, a part of what is left, and spends it. So the bound may be exceeded
 * by an allowance a worker. Any worker's own thread. */
#ifndef CR__BUDGET_H
#define CR__BUDGET_H

#include "sched/sched.h"

#define CR__BUDGET_STACK_BYTES (4096 + 256)
#define CR__BUDGET_FROZEN_BYTES 4096 /* what freezing a stack gives back of that; its image counts among the slabs */
#define CR__BUDGET_PACKED_IN_ONE 2 /* packed stacks that take as much */
#define CR__BUDGET_SPAWN_BYTES ((int64_t)sizeof(struct cr__record) + CR__BUDGET_STACK_BYTES)

CR__COLD bool cr__budget_renew(struct cr__worker *worker, int64_t bytes);

/* Before something is begun: whether there is room for it. */
static inline bool cr__budget_spend_bytes(struct cr__worker *worker, int64_t bytes)
{
    worker->allowance_bytes -= bytes;
    if (CR__UNLIKELY(worker->allowance_bytes < 0))
        return cr__budget_renew(worker, bytes);
    return true;
}

/* The same before a coroutine is spawned. */
static inline bool cr__budget_spend(struct cr__worker *worker)
{
    return cr__budget_spend_bytes(worker, CR__BUDGET_SPAWN_BYTES);
}

/* Whether there is room for one, by the books as they are. Any thread. */
bool cr__budget_has_room(const struct cr__sched *sched);

/* Before a spawn that is part of what has begun, and can't be put off: the next one is granted. */
static inline void cr__budget_exceed(struct cr__worker *worker)
{
    if (worker->allowance_bytes < CR__BUDGET_SPAWN_BYTES)
        worker->allowance_bytes = CR__BUDGET_SPAWN_BYTES;
}

/* Whether the bound has been reached. */
static inline bool cr__budget_reached(struct cr__worker *worker)
{
    return CR__UNLIKELY(worker->allowance_bytes < CR__BUDGET_SPAWN_BYTES) && !cr__budget_renew(worker, CR__BUDGET_SPAWN_BYTES);
}

/* With each turn of the loop: what is in use here becomes known to all. */
void cr__budget_tell(struct cr__worker *worker);

/* Whether little is left: for who can make do with less. */
bool cr__budget_tight(const struct cr__worker *worker);

#endif
