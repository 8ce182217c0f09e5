/* Readers-writer lock: strictly in the order of arrival.
 *
 * Who reads is known, each by a hold: so nobody gives back what another one holds, and it can be told, and followed, for whom a writer waits. A reader's
 * hold is made before it may have to wait, and is in its own list from then on; whoever lets it in finds it where a value would be (cr__record_value).
 *
 * Rejected: counting the readers only (one unlock too many, somewhere, lets a writer in beside a reader); holds in the lock (it would have to be
 * freed). */
#include "sync/sync.h"

static bool wants_to_write(const struct cr__record *record)
{
    return cr__waits_for(record) == CR__WAIT_WRITE_LOCK;
}

static bool may_enter(const struct cr_rwlock *l, bool to_write)
{
    return to_write ? l->_holders == 0 : l->_holders >= 0;
}

/* ---- Holds: the youngest comes first in its coroutine's own list --------------------------------------------- */

/* Where that list begins: at the top of its stack, or, if its stack is not its alone, or it has none, in what is made on demand. NULL: it has none; after `make`: no memory. */
static inline struct cr__hold **reads_of(struct cr__record *me, bool make)
{
    if (CR__LIKELY(cr__co_owns_stack(&me->co)))
        return (struct cr__hold **)(void *)&cr__co_top(&me->co)->reads;
    struct cr__extra *extra = make ? cr__extra_of(&me->co) : cr__extra_if_any(&me->co);
    return extra ? &extra->reads : NULL;
}

/* The youngest one of that lock, from `at` on: where it is linked, or NULL. */
static inline struct cr__hold **find(struct cr__hold **at, const struct cr_rwlock *l)
{
    while (at && *at && (*at)->lock != l)
        at = &(*at)->older;
    return at && *at ? at : NULL;
}

static inline struct cr__hold *hold_make(struct cr__worker *w, struct cr_rwlock *l, struct cr__record *me, struct cr__hold **reads)
{
    struct cr__hold *hold = cr__slab_get(&w->holds);
    if (CR__LIKELY(hold != NULL)) {
        *hold = (struct cr__hold){.who = me, .lock = l, .older = *reads};
        *reads = hold;
    }
    return hold;
}

static inline struct cr__hold *hold_unlink(struct cr__record *me, const struct cr_rwlock *l)
{
    struct cr__hold **at = find(reads_of(me, false), l), *hold = at ? *at : NULL;
    if (hold)
        *at = hold->older;
    return hold;
}

static inline void hold_free(struct cr__hold *hold)
{
    if (hold)
        cr__slab_put(&cr__worker_here()->holds, hold);
}

/* ---- Going in and out, under the lock ----------------------------------------------------------------------- */

/* hold: NULL: to write. */
static inline void enter(struct cr_rwlock *l, struct cr__record *who, struct cr__hold *hold)
{
    if (!hold) {
        l->_holders = -1;
        l->_writer = &who->co;
        return;
    }
    l->_holders++;
    hold->prev = NULL;
    hold->next = l->_readers;
    if (hold->next)
        hold->next->prev = hold;
    l->_readers = hold;
}

static inline void leave(struct cr_rwlock *l, struct cr__hold *hold)
{
    if (!hold) {
        l->_holders = 0;
        l->_writer = NULL;
        return;
    }
    l->_holders--;
    if (hold->next)
        hold->next->prev = hold->prev;
    if (hold->prev)
        hold->prev->next = hold->next;
    else
        l->_readers = hold->next;
}

/* Lets in whoever may: the first one, and, if it reads, the readers right behind it. The lock is held, and given back. */
static void let_in(struct cr__worker *w, struct cr_rwlock *l)
{
    struct cr__woken woken = {0};
    while (!cr__waiters_empty(&l->_waiters)) {
        struct cr__wait_node *node = l->_waiters._first;
        struct cr__record *first = cr__waiter_of(node);
        bool to_write = wants_to_write(first);
        if (!may_enter(l, to_write))
            break;
        cr__waiters_remove(&l->_waiters, node);
        if (!cr__park_claim(&first->word, CR__WOKEN, w->alone))
            continue;
        enter(l, first, to_write ? NULL : *cr__record_value(first));
        cr__woken_add(&woken, first);
    }
    cr__unlock(w, cr__spin_of(&l->_spin));
    cr__woken_ready(w, &woken);
}

/* ---- The calls, in halves (sync.h) ---------------------------------------------------------------------------- */

/* Whether it is worth following. We wait already, and that comes before the look (cycles.c). */
static bool holder_waits(const struct cr__worker *w, const struct cr_rwlock *l)
{
    if (!w->alone)
        atomic_thread_fence(memory_order_seq_cst);
    if (l->_writer)
        return cr__waits_for_lock(cr__record_of(l->_writer));
    const struct cr__hold *hold = l->_readers;
    for (int i = 0; hold && i < CR__CYCLE_MAX && !cr__waits_for_lock(hold->who); i++)
        hold = hold->next;
    return hold != NULL;
}

/* It is in the queue no more. Those behind may have waited for it only. */
static void give_up(struct cr__record *me, struct cr_rwlock *l)
{
    struct cr__worker *w = cr__worker_here();
    cr__lock(w, cr__spin_of(&l->_spin));
    cr__waiters_remove(&l->_waiters, &me->node);
    let_in(w, l);
}

/* The lock is held, and given back. */
static int begin_to_wait(struct cr__worker *w, struct cr__record *me, struct cr_rwlock *l, struct cr__hold *hold, int64_t deadline_ns)
{
    bool look = false;
    *cr__record_value(me) = hold;
    int r = cr__wait_begin(w, me, hold ? CR__WAIT_READ_LOCK : CR__WAIT_WRITE_LOCK, l, deadline_ns);
    if (r == 0) {
        cr__waiters_push(&l->_waiters, &me->node);
        look = holder_waits(w, l);
    }
    cr__unlock(w, cr__spin_of(&l->_spin));
    if (r < 0)
        return r;
    if (CR__LIKELY(!look) || !cr__closes_cycle(w, me, CR__YIELDING))
        return CR_WAITS;
    give_up(me, l);
    return -EDEADLK;
}

static inline int take(struct cr__worker *w, struct cr__record *me, struct cr_rwlock *l, struct cr__hold *hold, struct cr__hold **held,
                       int64_t deadline_ns)
{
    cr__lock(w, cr__spin_of(&l->_spin));
    bool mine = l->_writer == &me->co, free = cr__waiters_empty(&l->_waiters) && may_enter(l, !hold);
    if (free)
        enter(l, me, hold);
    else if (!mine && !find(held, l))
        return begin_to_wait(w, me, l, hold, deadline_ns);
    cr__unlock(w, cr__spin_of(&l->_spin));
    return free ? 0 : -EDEADLK; /* it would wait for itself, if not for somebody who waits for it */
}

/* What it has got, or not. */
static inline int settle(struct cr__record *me, struct cr_rwlock *l, bool to_write, int r)
{
    if (CR__LIKELY(r == 0))
        cr__lock_taken(me, (uintptr_t)l | CR__LOCK_OF_MANY);
    else if (!to_write)
        hold_free(hold_unlink(me, l));
    return r;
}

static inline int begin(struct cr__worker *w, struct cr__record *me, struct cr_rwlock *l, bool to_write, int64_t deadline_ns)
{
    struct cr__hold **reads = reads_of(me, !to_write), *hold = to_write || !reads ? NULL : hold_make(w, l, me, reads);
    if (CR__UNLIKELY(!to_write && !hold))
        return -ENOMEM;
    int r = take(w, me, l, hold, hold ? &hold->older : reads, deadline_ns);
    return r == CR_WAITS ? r : settle(me, l, to_write, r);
}

static inline int end(struct cr__record *me, struct cr_rwlock *l, bool to_write, int r)
{
    if (CR__UNLIKELY(r < 0))
        give_up(me, l);
    return settle(me, l, to_write, r);
}

static inline int rwlock(struct cr_rwlock *l, bool to_write, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    int r = begin(w, me, l, to_write, deadline_ns);
    return r == CR_WAITS ? end(me, l, to_write, cr__wait_suspend_here(w, me, deadline_ns)) : r;
}

static int rwlock_leaf(struct cr_task *task, struct cr_rwlock *l, bool to_write, int64_t deadline_ns)
{
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(to_write ? CR__WAIT_WRITE_LOCK : CR__WAIT_READ_LOCK));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return end(leaf.me, l, to_write, cr__leaf_arrive(&leaf, deadline_ns));
    return cr__leaf_left(&leaf, begin(leaf.worker, leaf.me, l, to_write, deadline_ns), deadline_ns);
}

int cr_task_rwlock_rdlock(struct cr_task *task, struct cr_rwlock *l, int64_t deadline_ns)
{
    cr__handed(l);
    return rwlock_leaf(task, l, false, deadline_ns);
}

int cr_task_rwlock_wrlock(struct cr_task *task, struct cr_rwlock *l, int64_t deadline_ns)
{
    cr__handed(l);
    return rwlock_leaf(task, l, true, deadline_ns);
}

int cr_rwlock_rdlock_until(struct cr_rwlock *l, int64_t deadline_ns)
{
    cr__handed(l);
    return rwlock(l, false, deadline_ns);
}

int cr_rwlock_rdlock(struct cr_rwlock *l)
{
    cr__handed(l);
    return rwlock(l, false, CR_FOREVER);
}

int cr_rwlock_rdlock_try(struct cr_rwlock *l)
{
    cr__handed(l);
    return cr__try(rwlock(l, false, CR__NOW), -EBUSY);
}

int cr_rwlock_wrlock_until(struct cr_rwlock *l, int64_t deadline_ns)
{
    cr__handed(l);
    return rwlock(l, true, deadline_ns);
}

int cr_rwlock_wrlock(struct cr_rwlock *l)
{
    cr__handed(l);
    return rwlock(l, true, CR_FOREVER);
}

int cr_rwlock_wrlock_try(struct cr_rwlock *l)
{
    cr__handed(l);
    return cr__try(rwlock(l, true, CR__NOW), -EBUSY);
}

int cr_rwlock_unlock(struct cr_rwlock *l)
{
    cr__handed(l);
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return -EPERM;
    struct cr__hold *hold = hold_unlink(me, l); /* a writer has none: it would have waited for itself */
    cr__lock(w, cr__spin_of(&l->_spin));
    if (!hold && l->_writer != &me->co) {
        cr__unlock(w, cr__spin_of(&l->_spin));
        return -EPERM;
    }
    cr__lock_given(me);
    leave(l, hold);
    let_in(w, l);
    hold_free(hold);
    return 0;
}
