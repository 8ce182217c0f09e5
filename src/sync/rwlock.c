/* Readers-writer lock: strictly in the order of arrival.
 *
 * Who reads is known, each by a hold: so nobody gives back what another one holds, and it can be told, and followed, for whom a writer waits. A reader's
 * hold is made before it may have to wait; whoever lets it in finds it where a value would be (cr__record_value).
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

/* ---- Holds -------------------------------------------------------------------------------------------------- */

static inline struct cr__hold *hold_make(struct cr__worker *w, struct cr_rwlock *l, struct cr__record *me)
{
    struct cr__hold *hold = cr__slab_get(&w->holds);
    if (CR__LIKELY(hold != NULL)) {
        hold->who = me;
        hold->lock = l;
    }
    return hold;
}

static inline void hold_free(struct cr__hold *hold)
{
    if (hold)
        cr__slab_put(&cr__worker_here()->holds, hold);
}

/* Where in the running coroutine's own list its youngest hold of that lock is linked, or NULL is. */
static inline struct cr__hold **find_own(struct cr__record *me, const struct cr_rwlock *l)
{
    struct cr__hold **at = (struct cr__hold **)(void *)&cr__co_top(&me->co)->reads;
    while (*at && (*at)->lock != l)
        at = &(*at)->older;
    return at;
}

static inline struct cr__hold *take_own(struct cr__record *me, const struct cr_rwlock *l)
{
    struct cr__hold **at = find_own(me, l), *hold = *at;
    if (hold)
        *at = hold->older;
    return hold;
}

/* What the running coroutine has got. */
static inline void own(struct cr__record *me, struct cr_rwlock *l, struct cr__hold *hold)
{
    if (hold) {
        struct cr__co_top *top = cr__co_top(&me->co);
        hold->older = top->reads;
        top->reads = hold;
    }
    cr__lock_taken(me, (uintptr_t)l | CR__LOCK_OF_MANY);
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

/* ---- The calls ---------------------------------------------------------------------------------------------- */

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

/* The lock is held, and given back. */
static int wait_turn(struct cr__worker *w, struct cr__record *me, struct cr_rwlock *l, struct cr__hold *hold, int64_t deadline_ns)
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
    if (CR__UNLIKELY(look) && cr__closes_cycle(w, me, CR__YIELDING))
        r = -EDEADLK;
    else
        r = cr__wait_suspend_here(w, me, deadline_ns);
    if (r < 0) { /* those behind may have waited for us only */
        w = cr__worker_here();
        cr__lock(w, cr__spin_of(&l->_spin));
        cr__waiters_remove(&l->_waiters, &me->node);
        let_in(w, l);
    }
    return r;
}

static inline int take(struct cr__worker *w, struct cr__record *me, struct cr_rwlock *l, struct cr__hold *hold, int64_t deadline_ns)
{
    cr__lock(w, cr__spin_of(&l->_spin));
    if (cr__waiters_empty(&l->_waiters) && may_enter(l, !hold))
        enter(l, me, hold);
    else if (l->_writer != &me->co && !*find_own(me, l))
        return wait_turn(w, me, l, hold, deadline_ns);
    else {
        cr__unlock(w, cr__spin_of(&l->_spin));
        return -EDEADLK; /* it would wait for itself, if not for somebody who waits for it */
    }
    cr__unlock(w, cr__spin_of(&l->_spin));
    return 0;
}

static inline int rwlock(struct cr_rwlock *l, bool to_write, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    struct cr__hold *hold = to_write ? NULL : hold_make(w, l, me);
    if (CR__UNLIKELY(!to_write && !hold))
        return -ENOMEM;
    int r = take(w, me, l, hold, deadline_ns);
    if (CR__LIKELY(r == 0))
        own(me, l, hold);
    else
        hold_free(hold);
    return r;
}

int cr_rwlock_rdlock_until(struct cr_rwlock *l, int64_t deadline_ns)
{
    return rwlock(l, false, deadline_ns);
}

int cr_rwlock_rdlock(struct cr_rwlock *l)
{
    return rwlock(l, false, CR_FOREVER);
}

int cr_rwlock_rdlock_try(struct cr_rwlock *l)
{
    return cr__try(rwlock(l, false, CR__NOW), -EBUSY);
}

int cr_rwlock_wrlock_until(struct cr_rwlock *l, int64_t deadline_ns)
{
    return rwlock(l, true, deadline_ns);
}

int cr_rwlock_wrlock(struct cr_rwlock *l)
{
    return rwlock(l, true, CR_FOREVER);
}

int cr_rwlock_wrlock_try(struct cr_rwlock *l)
{
    return cr__try(rwlock(l, true, CR__NOW), -EBUSY);
}

int cr_rwlock_unlock(struct cr_rwlock *l)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    struct cr__hold *hold = take_own(me, l);
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
