/* What coroutines share and say to each other: locks, channels, scopes. Everything is built of the same three: a one-byte lock around a few
 * fields, a queue of waiters, and parking.
 *
 * A queue holds nodes, which lie in the records of those who wait (or, for select, beside them). Invariants:
 *   1. A waker takes a node out of the queue, claims its coroutine's wait, hands over: all under the lock. If the claim is lost (timeout, cancellation),
 *      the next one's turn has come. It makes ready whom it has claimed when it has given the lock back, since then what they waited for may be gone: on
 *      another worker they may free it at once. (Not so where freeing takes the lock, too: channels, broadcast, scopes.)
 *   2. Whoever waited and was not woken takes its node out itself, under the lock, before it goes on.
 *   3. After a wake the coroutine touches what it waited for no more, unless the call says so: it may be gone. */
#ifndef CR__SYNC_H
#define CR__SYNC_H

#include "sched/sched.h"
#include "sched/task.h"

#include <crore/chan.h>
#include <crore/scope.h>
#include <crore/sync.h>

/* What `sync` keeps with a coroutine, made on demand (scope.c). */
struct cr__extra {
    struct cr__co_above above;
    struct cr_co *co;
    struct cr_scope *member_of;          /* the scope that joins it */
    struct cr__extra *next, **link;      /* among that scope's */
    struct cr_scope *innermost;          /* that it has opened */
    unsigned masks;                      /* open brackets of cr_cancel_mask */
    struct cr__mask mask;                /* of the outermost one */
    struct cr__select_node *cases;       /* select's; the node's type is the room's own (chan.h) */
    int case_count, case_won, case_result;
    int cases_enlisted;
    struct cr__hold *reads;              /* rwlock.c's: of a task, or of a coroutine on a shared stack */
};

/* NULL: no memory. */
struct cr__extra *cr__extra_of(struct cr_co *co);

static inline struct cr__extra *cr__extra_if_any(const struct cr_co *co)
{
    return co->cold ? (struct cr__extra *)co->cold->above : NULL;
}

/* ---- Who holds what ----------------------------------------------------------------------------------------- */

/* Written by who holds it; others look for cycles, and for who is to blame. */
static inline struct cr_co *cr__mutex_owner(const struct cr_mutex *m)
{
    return atomic_load_explicit((struct cr_co *_Atomic *)(void *)&m->_owner, memory_order_relaxed);
}

/* That a coroutine reads under a readers-writer lock: one of the lock's `_readers`, under its lock; and of the coroutine's own, which begin at the top of its
 * stack (struct cr__co_top), or in struct cr__extra. From a slab of the worker's on which it asked. */
struct cr__hold {
    struct cr__hold *older; /* of the coroutine */
    struct cr__record *who;
    struct cr_rwlock *lock;
    struct cr__hold *next, *prev; /* of the lock */
};
_Static_assert(sizeof(struct cr__hold) <= CR__HOLD_BYTES, "the slab's objects");

/* Whether it waits for a mutex or a readers-writer lock. */
static inline bool cr__waits_for_lock(const struct cr__record *record)
{
    uint32_t word = atomic_load_explicit(&record->word, memory_order_relaxed);
    unsigned kind = cr__park_kind(word);
    return (word & CR__STATE) == CR__WAITING && (kind == CR__WAIT_MUTEX || kind == CR__WAIT_READ_LOCK || kind == CR__WAIT_WRITE_LOCK);
}

/* Called by `me`, which waits for such a lock already, and has not suspended: if that closes a cycle of waiters (cycles.c), this is reported, and, unless
 * it insists, its wait is over. Returns whether it is. Between the beginning of the wait and the call lies a fence, where there are several workers. */
enum cr__manner { CR__YIELDING, CR__INSISTING };
#ifndef CR__CYCLE_MAX
#define CR__CYCLE_MAX 1024
#endif
CR__COLD bool cr__closes_cycle(struct cr__worker *w, struct cr__record *me, enum cr__manner manner);

/* ---- Queues of waiters -------------------------------------------------------------------------------------- */

static inline _Atomic uint8_t *cr__spin_of(unsigned *spin)
{
    return (_Atomic uint8_t *)(void *)spin;
}

static inline bool cr__waiters_empty(const struct cr_waiters *q)
{
    return !q->_first;
}

static inline void cr__waiters_push(struct cr_waiters *q, struct cr__wait_node *node)
{
    node->next = NULL;
    node->prev = q->_last;
    if (node->prev)
        node->prev->next = node;
    else
        q->_first = node;
    q->_last = node;
}

static inline void cr__waiters_push_front(struct cr_waiters *q, struct cr__wait_node *node)
{
    node->prev = NULL;
    node->next = q->_first;
    if (node->next)
        node->next->prev = node;
    else
        q->_last = node;
    q->_first = node;
}

/* A node that is in no queue points to itself. */
static inline void cr__waiters_remove(struct cr_waiters *q, struct cr__wait_node *node)
{
    if (node->prev == node)
        return;
    if (node->prev)
        node->prev->next = node->next;
    else
        q->_first = node->next;
    if (node->next)
        node->next->prev = node->prev;
    else
        q->_last = node->prev;
    node->prev = node;
}

static inline struct cr__wait_node *cr__waiters_pop(struct cr_waiters *q)
{
    struct cr__wait_node *node = q->_first;
    if (node)
        cr__waiters_remove(q, node);
    return node;
}

/* The record whose own node it is. */
static inline struct cr__record *cr__waiter_of(struct cr__wait_node *node)
{
    return CR__CONTAINER(node, struct cr__record, node);
}

/* Takes the first one out that still waits, its wait claimed: the caller makes it ready. NULL: nobody. For queues of records' own nodes. */
static inline struct cr__record *cr__waiters_claim(struct cr__worker *w, struct cr_waiters *q, enum cr__wait_state outcome)
{
    struct cr__wait_node *node;
    while ((node = cr__waiters_pop(q)) != NULL) {
        struct cr__record *record = cr__waiter_of(node);
        if (cr__park_claim(&record->word, outcome, w->alone))
            return record;
    }
    return NULL;
}

/* Those whose waits have been claimed, by their nodes; to be made ready. */
struct cr__woken {
    struct cr__wait_node *first, *last;
};

static inline void cr__woken_add(struct cr__woken *woken, struct cr__record *record)
{
    record->node.next = NULL;
    if (woken->first)
        woken->last->next = &record->node;
    else
        woken->first = &record->node;
    woken->last = &record->node;
}

/* In the order in which they were claimed. The lock is no longer held. */
static inline void cr__woken_ready(struct cr__worker *w, const struct cr__woken *woken)
{
    for (struct cr__wait_node *node = woken->first, *next; node; node = next) {
        next = node->next; /* before: it may be gone */
        cr__ready(w, cr__waiter_of(node));
    }
}

/* Out of the queue after a wait that was not woken. */
CR__COLD void cr__waiters_leave(struct cr__record *me, unsigned *spin, struct cr_waiters *q);

/* Each call that waits is made of two halves. The first one says CR_WAITS when the wait has begun; the second one takes up when it is over. A coroutine suspends
 * between the two (and all is inlined into one function); a task's leaf ends with the first, and is called again for the second. */

/* Begins to wait at the end of q. The caller holds the lock, which is given back. CR_WAITS; -ETIMEDOUT, -ECANCELED. */
__attribute__((always_inline)) static inline int cr__waiters_begin(struct cr__worker *w, struct cr__record *me, unsigned *spin, struct cr_waiters *q,
                                                                   enum cr__wait_kind kind, const void *object, int64_t deadline_ns)
{
    int r = cr__wait_begin(w, me, kind, object, deadline_ns);
    if (r == 0)
        cr__waiters_push(q, &me->node);
    cr__unlock(w, cr__spin_of(spin));
    return r < 0 ? r : CR_WAITS;
}

/* Afterwards: 0; -ETIMEDOUT, -ECANCELED: it is in the queue no more. */
static inline int cr__waiters_end(struct cr__record *me, unsigned *spin, struct cr_waiters *q, int r)
{
    if (CR__UNLIKELY(r < 0))
        cr__waiters_leave(me, spin, q);
    return r;
}

/* The coroutine's way from the first half to the second. begun: what the first one has said. */
__attribute__((always_inline)) static inline int cr__waiters_wait(struct cr__worker *w, struct cr__record *me, unsigned *spin, struct cr_waiters *q,
                                                                  int begun, int64_t deadline_ns)
{
    return begun == CR_WAITS ? cr__waiters_end(me, spin, q, cr__wait_suspend_here(w, me, deadline_ns)) : begun;
}

/* A whole leaf that waits once, at q; begin: its first half. */
#define CR__LEAF_AT(task, spin, q, kinds, deadline_ns, begin)                                                              struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, kinds);                                                       if (leaf.turn == CR__BREATHES)                                                                                             return CR_WAITS;                                                                                                   if (leaf.turn == CR__RESUMES)                                                                                              return cr__waiters_end(leaf.me, spin, q, cr__leaf_arrive(&leaf, deadline_ns));                                     return cr__leaf_left(&leaf, begin, deadline_ns)

/* The _try form of a call's _until form. */
static inline int cr__try(int r, int busy)
{
    return r == -ETIMEDOUT || r == -ECANCELED ? busy : r;
}
#define CR__NOW ((int64_t)0) /* a deadline that has passed */

/* Begins a call that may not have to suspend: the running coroutine, or NULL outside of any. Every 64th yields, but not one that only tries. */
static inline struct cr__record *cr__enter(struct cr__worker **worker, int64_t deadline_ns)
{
    struct cr__record *me = cr__running(worker);
    if (CR__UNLIKELY(!me))
        return *worker && deadline_ns <= (*worker)->now_ns ? cr__acting(worker) : NULL; /* a task, too, may try */
    if (CR__UNLIKELY(--(*worker)->io_budget <= 0) && deadline_ns > (*worker)->now_ns) {
        cr_yield();
        *worker = cr__worker_here(); /* it may have migrated */
    }
    return me;
}

#endif
