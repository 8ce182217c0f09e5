/* The run queue of what may be stolen: coroutines that have not started, and those that may migrate. A ring, first in, first out: the owner
 * pushes and pops, thieves take half. What has started and stays is not here, but in a list that nobody else sees.
 *
 * head and tail count up and wrap; the entries are [head, tail). Invariants:
 *   1. Only the owner moves tail. head is moved by a compare-and-swap, the owner's or a thief's: who moves it owns the entries that it passed.
 *   2. A slot is overwritten only after head has passed it: a thief that copied it before that and loses the swap throws its copy away.
 *   3. A thief copies into free slots of its own ring, where nobody looks before it moves its tail.
 *
 * Source: the run queue of Go's scheduler (Vyukov, 2012); the ring of fixed size never grows, what does not fit goes to the injection queue.
 * Rejected: Chase and Lev's deque (the owner takes the newest first: unfair to the oldest; and it needs a sequentially consistent fence at each pop). */
#ifndef CR__RUNQ_H
#define CR__RUNQ_H

#include <stdatomic.h>

#include "base/base.h"

#ifndef CR__RUNQ_SLOTS
#define CR__RUNQ_SLOTS 256u /* a power of two; the model tests take 4 */
#endif

struct cr_co;

struct cr__runq {
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t head;
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t tail;
    _Atomic(struct cr_co *) slots[CR__RUNQ_SLOTS];
};

static inline _Atomic(struct cr_co *) *cr__runq_slot(struct cr__runq *q, uint32_t i)
{
    return &q->slots[i % CR__RUNQ_SLOTS];
}

/* How many there seem to be; others change it at any time. */
static inline uint32_t cr__runq_length(struct cr__runq *q)
{
    uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    uint32_t n = atomic_load_explicit(&q->tail, memory_order_relaxed) - head;
    return n <= CR__RUNQ_SLOTS ? n : 0;
}

/* By the owner. False: full. */
static inline bool cr__runq_push(struct cr__runq *q, struct cr_co *co)
{
    uint32_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    /* acquire: a thief has read the slots that it freed; pairs with the release of the swaps of head */
    if (tail - atomic_load_explicit(&q->head, memory_order_acquire) >= CR__RUNQ_SLOTS)
        return false;
    atomic_store_explicit(cr__runq_slot(q, tail), co, memory_order_relaxed);
    atomic_store_explicit(&q->tail, tail + 1, memory_order_release); /* pairs with the acquire in steal */
    return true;
}

/* By the owner. NULL: empty. */
static inline struct cr_co *cr__runq_pop(struct cr__runq *q)
{
    uint32_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    while (head != tail) {
        struct cr_co *co = atomic_load_explicit(cr__runq_slot(q, head), memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&q->head, &head, head + 1, memory_order_relaxed, memory_order_relaxed))
            return co;
    }
    return NULL;
}

/* By the owner, to make room: takes up to `most` of the oldest; returns how many. */
static inline uint32_t cr__runq_pop_some(struct cr__runq *q, struct cr_co **out, uint32_t most)
{
    uint32_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed), n;
    do {
        n = tail - head < most ? tail - head : most;
        for (uint32_t i = 0; i < n; i++)
            out[i] = atomic_load_explicit(cr__runq_slot(q, head + i), memory_order_relaxed);
    } while (n > 0 && !atomic_compare_exchange_weak_explicit(&q->head, &head, head + n, memory_order_relaxed, memory_order_relaxed));
    return n;
}

/* Moves half of the victim's entries, rounded up, to the end of the caller's own, empty ring. Returns how many. */
static inline uint32_t cr__runq_steal(struct cr__runq *mine, struct cr__runq *victim)
{
    uint32_t to = atomic_load_explicit(&mine->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&victim->head, memory_order_relaxed), n;
    do {
        /* acquire: the entries, and what they point to; pairs with the release in push */
        uint32_t available = atomic_load_explicit(&victim->tail, memory_order_acquire) - head;
        if (available > CR__RUNQ_SLOTS) { /* head is older than tail: both are looked at again */
            head = atomic_load_explicit(&victim->head, memory_order_relaxed);
            n = 0;
            continue;
        }
        n = available - available / 2;
        if (n == 0)
            return 0;
        for (uint32_t i = 0; i < n; i++)
            atomic_store_explicit(cr__runq_slot(mine, to + i),
                                  atomic_load_explicit(cr__runq_slot(victim, head + i), memory_order_relaxed),
                                  memory_order_relaxed);
        /* release: we have read the slots before their owner may fill them again; pairs with the acquire in push */
    } while (n == 0 || !atomic_compare_exchange_weak_explicit(&victim->head, &head, head + n, memory_order_release,
                                                              memory_order_relaxed));
    atomic_store_explicit(&mine->tail, to + n, memory_order_release);
    return n;
}

#endif
