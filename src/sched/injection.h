/* The injection queue: what fits no ring, for whichever worker has nothing to do. Batches, each a chain of records by co.next; the first one's node links
 * it to the next batch. Multi producer, multi consumer, first in, first out, under a lock that is held for some loads and stores. */
#ifndef CR__INJECTION_H
#define CR__INJECTION_H

#include "sched/sched.h"

static inline struct cr__record **cr__injection_next(struct cr__record *first)
{
    return (struct cr__record **)(void *)&first->node.next;
}

static inline void cr__injection_put(struct cr__injection *q, struct cr__record *first)
{
    *cr__injection_next(first) = NULL;
    cr__spin_lock(&q->lock);
    if (q->first)
        *cr__injection_next(q->last) = first;
    else
        q->first = first;
    q->last = first;
    atomic_fetch_add_explicit(&q->batches, 1, memory_order_relaxed);
    cr__spin_unlock(&q->lock);
}

/* A batch; NULL: none. */
static inline struct cr__record *cr__injection_take(struct cr__injection *q)
{
    if (atomic_load_explicit(&q->batches, memory_order_relaxed) == 0) /* a look without the lock: what is put now is found the next time */
        return NULL;
    cr__spin_lock(&q->lock);
    struct cr__record *first = q->first;
    if (first) {
        q->first = *cr__injection_next(first);
        atomic_fetch_sub_explicit(&q->batches, 1, memory_order_relaxed);
    }
    cr__spin_unlock(&q->lock);
    return first;
}

#endif
