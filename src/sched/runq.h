/* The run queue of what may be stolen: coroutines that have not started, and those that may migrate. A bounded deque: the owner pushes and pops at the
 * young end, so that a tree of spawns is worked off depth first, in memory that is warm, with few stacks open; thieves take half from the old end,
 * where the large parts of such a tree lie. What has started and stays is not here, but in a list that nobody else sees.
 *
 * Both ends and a version are one word, and each change of it is one compare-and-swap. Invariants:
 *   1. Who moves an end over an entry owns it.
 *   2. The version counts each change: a thief whose copies are of an older state, even if both ends are where they were, loses its swap and throws the
 *      copies away.
 *   3. A thief writes its copies into free slots of its own deque, where nobody looks before it moves the end.
 *
 * Source: the bounded ring whose thieves take half is that of Go's scheduler (Vyukov, 2012); the ends, youngest for the owner and oldest for thieves, are Blumofe and
 * Leiserson's, "Scheduling Multithreaded Computations by Work Stealing", JACM 1999. Rejected: first in, first out for the owner, too (a tree of a million is
 * opened breadth first: a hundred thousand stacks at once, instead of sixty); Chase and Lev's deque (a sequentially consistent fence at each pop, one
 * entry a theft). */
#ifndef CR__RUNQ_H
#define CR__RUNQ_H

#include <stdatomic.h>

#include "base/base.h"

#ifndef CR__RUNQ_SLOTS
#define CR__RUNQ_SLOTS 256u /* a power of two below 2^15; the model tests take 4 */
#endif

struct cr_co;

struct cr__runq {
    _Alignas(CR__CACHE_LINE) _Atomic uint64_t ends; /* struct cr__runq_ends, packed */
    _Atomic(struct cr_co *) slots[CR__RUNQ_SLOTS];
};

/* The entries are [oldest, next): both count up, and wrap. */
struct cr__runq_ends {
    uint16_t oldest, next;
    uint32_t version;
};

static inline struct cr__runq_ends cr__runq_unpack(uint64_t word)
{
    return (struct cr__runq_ends){(uint16_t)word, (uint16_t)(word >> 16), (uint32_t)(word >> 32)};
}

static inline uint64_t cr__runq_pack(struct cr__runq_ends ends)
{
    return (uint64_t)(ends.version + 1) << 32 | (uint64_t)ends.next << 16 | ends.oldest;
}

static inline _Atomic(struct cr_co *) *cr__runq_slot(struct cr__runq *q, uint16_t i)
{
    return &q->slots[i % CR__RUNQ_SLOTS];
}

static inline unsigned cr__runq_count(struct cr__runq_ends ends)
{
    return (uint16_t)(ends.next - ends.oldest);
}

/* How many there seem to be; others change it at any time. */
static inline unsigned cr__runq_length(struct cr__runq *q)
{
    return cr__runq_count(cr__runq_unpack(atomic_load_explicit(&q->ends, memory_order_relaxed)));
}

/* By the owner. False: full. */
static inline bool cr__runq_push(struct cr__runq *q, struct cr_co *co)
{
    /* acquire: a thief has read the slots that it freed; pairs with the release in steal */
    uint64_t word = atomic_load_explicit(&q->ends, memory_order_acquire), new;
    do {
        struct cr__runq_ends ends = cr__runq_unpack(word);
        if (cr__runq_count(ends) == CR__RUNQ_SLOTS)
            return false;
        atomic_store_explicit(cr__runq_slot(q, ends.next), co, memory_order_relaxed);
        ends.next++;
        new = cr__runq_pack(ends);
        /* release: the entry, and what it points to; pairs with the acquire in steal */
    } while (!atomic_compare_exchange_weak_explicit(&q->ends, &word, new, memory_order_release, memory_order_acquire));
    return true;
}

/* By the owner: the youngest. NULL: empty. */
static inline struct cr_co *cr__runq_pop(struct cr__runq *q)
{
    uint64_t word = atomic_load_explicit(&q->ends, memory_order_relaxed), new;
    struct cr_co *co;
    do {
        struct cr__runq_ends ends = cr__runq_unpack(word);
        if (cr__runq_count(ends) == 0)
            return NULL;
        ends.next--;
        co = atomic_load_explicit(cr__runq_slot(q, ends.next), memory_order_relaxed); /* the owner's own store */
        new = cr__runq_pack(ends);
    } while (!atomic_compare_exchange_weak_explicit(&q->ends, &word, new, memory_order_relaxed, memory_order_relaxed));
    return co;
}

/* By the owner, to prefetch: what it would pop now. Anything, if the deque is empty or being stolen from. */
static inline const struct cr_co *cr__runq_peek(struct cr__runq *q)
{
    struct cr__runq_ends ends = cr__runq_unpack(atomic_load_explicit(&q->ends, memory_order_relaxed));
    return atomic_load_explicit(cr__runq_slot(q, (uint16_t)(ends.next - 1)), memory_order_relaxed);
}

/* By the owner: up to `most` of the oldest, in their order; returns how many. */
static inline unsigned cr__runq_pop_oldest(struct cr__runq *q, struct cr_co **out, unsigned most)
{
    uint64_t word = atomic_load_explicit(&q->ends, memory_order_relaxed), new;
    unsigned n;
    do {
        struct cr__runq_ends ends = cr__runq_unpack(word);
        n = cr__runq_count(ends) < most ? cr__runq_count(ends) : most;
        if (n == 0)
            return 0;
        for (unsigned i = 0; i < n; i++)
            out[i] = atomic_load_explicit(cr__runq_slot(q, (uint16_t)(ends.oldest + i)), memory_order_relaxed);
        ends.oldest = (uint16_t)(ends.oldest + n);
        new = cr__runq_pack(ends);
    } while (!atomic_compare_exchange_weak_explicit(&q->ends, &word, new, memory_order_relaxed, memory_order_relaxed));
    return n;
}

/* Moves half of the victim's entries, the older ones, rounded up, to the end of the caller's own, empty deque. Returns how many. */
static inline unsigned cr__runq_steal(struct cr__runq *mine, struct cr__runq *victim)
{
    /* acquire: others have read the slots of ours that they freed */
    uint64_t my_word = atomic_load_explicit(&mine->ends, memory_order_acquire);
    struct cr__runq_ends to = cr__runq_unpack(my_word);
    /* acquire: the entries, and what they point to; pairs with the release in push */
    uint64_t word = atomic_load_explicit(&victim->ends, memory_order_acquire), new;
    unsigned n;
    do {
        struct cr__runq_ends ends = cr__runq_unpack(word);
        n = cr__runq_count(ends) - cr__runq_count(ends) / 2;
        if (n == 0)
            return 0;
        for (unsigned i = 0; i < n; i++)
            atomic_store_explicit(cr__runq_slot(mine, (uint16_t)(to.next + i)),
                                  atomic_load_explicit(cr__runq_slot(victim, (uint16_t)(ends.oldest + i)), memory_order_relaxed),
                                  memory_order_relaxed);
        ends.oldest = (uint16_t)(ends.oldest + n);
        new = cr__runq_pack(ends);
        /* release: we have read the slots before their owner may fill them again; pairs with the acquire in push */
    } while (!atomic_compare_exchange_weak_explicit(&victim->ends, &word, new, memory_order_release, memory_order_acquire));
    to.next = (uint16_t)(to.next + n);
    /* empty until now: nobody else changes it */
    atomic_store_explicit(&mine->ends, cr__runq_pack(to), memory_order_release);
    return n;
}

#endif
