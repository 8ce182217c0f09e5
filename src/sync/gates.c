/* Semaphore, wait group, once, barrier: a few fields under a one-byte lock, and a queue. */
#include <limits.h>

#include "sync/sync.h"

/* ---- Semaphore ---------------------------------------------------------------------------------------------- */

static inline int sem_begin(struct cr__worker *w, struct cr__record *me, struct cr_sem *sem, int64_t deadline_ns)
{
    cr__lock(w, cr__spin_of(&sem->_spin));
    if (sem->count == 0) /* then only, somebody may wait before us */
        return cr__waiters_begin(w, me, &sem->_spin, &sem->_waiters, CR__WAIT_SEM, sem, deadline_ns);
    sem->count--;
    cr__unlock(w, cr__spin_of(&sem->_spin));
    return 0;
}

int cr_sem_wait_until(struct cr_sem *sem, int64_t deadline_ns)
{
    cr__handed(sem);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    return cr__waiters_wait(w, me, &sem->_spin, &sem->_waiters, sem_begin(w, me, sem, deadline_ns), deadline_ns);
}

int cr_task_sem_wait(struct cr_task *task, struct cr_sem *sem, int64_t deadline_ns)
{
    cr__handed(sem);
    CR__LEAF_AT(task, &sem->_spin, &sem->_waiters, CR__KIND_BIT(CR__WAIT_SEM), deadline_ns,
                sem_begin(leaf.worker, leaf.me, sem, deadline_ns));
}

int cr_sem_wait(struct cr_sem *sem)
{
    cr__handed(sem);
    return cr_sem_wait_until(sem, CR_FOREVER);
}

int cr_sem_wait_try(struct cr_sem *sem)
{
    cr__handed(sem);
    return cr__try(cr_sem_wait_until(sem, CR__NOW), -EBUSY);
}

int cr_sem_post(struct cr_sem *sem, unsigned n)
{
    cr__handed(sem);
    struct cr__worker *w = cr__worker_here();
    struct cr__record *record;
    struct cr__woken woken = {0};
    if (!w)
        return -EPERM;
    cr__lock(w, cr__spin_of(&sem->_spin));
    int r = n > UINT_MAX - sem->count ? -EOVERFLOW : 0;
    while (r == 0 && n > 0 && (record = cr__waiters_claim(w, &sem->_waiters, CR__WOKEN)) != NULL) {
        cr__woken_add(&woken, record);
        n--;
    }
    sem->count += r == 0 ? n : 0;
    cr__unlock(w, cr__spin_of(&sem->_spin));
    cr__woken_ready(w, &woken);
    return r;
}

/* ---- Wait group --------------------------------------------------------------------------------------------- */

static struct cr__woken claim_all(struct cr__worker *w, struct cr_waiters *q)
{
    struct cr__woken woken = {0};
    struct cr__record *record;
    while ((record = cr__waiters_claim(w, q, CR__WOKEN)) != NULL)
        cr__woken_add(&woken, record);
    return woken;
}

static inline _Atomic int64_t *count_of(struct cr_waitgroup *group)
{
    return (_Atomic int64_t *)(void *)&group->_count;
}

/* Ordinary steps are one atomic operation. The one to 0 is taken under the lock: who sees 0 there may free the group, since whoever brought it to 0 has let go. */
int cr_waitgroup_add(struct cr_waitgroup *group, int64_t n)
{
    cr__handed(group);
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    if (!w->alone)
        cr__fetch_to_write(count_of(group));
    int64_t old = atomic_load_explicit(count_of(group), memory_order_relaxed), new;
    do {
        if (__builtin_add_overflow(old, n, &new) || new < 0)
            return -EINVAL;
        if (new == 0)
            break;
        if (w->alone) {
            atomic_store_explicit(count_of(group), new, memory_order_relaxed);
            return 0;
        }
        /* release: what was done before is seen by who waits; pairs with the acquire in _wait, and below with the next one's release */
    } while (!atomic_compare_exchange_weak_explicit(count_of(group), &old, new, memory_order_acq_rel, memory_order_relaxed));
    if (new > 0)
        return 0;
    struct cr__woken woken = {0};
    cr__lock(w, cr__spin_of(&group->_spin));
    old = atomic_fetch_add_explicit(count_of(group), n, memory_order_acq_rel);
    int r = old + n < 0 ? -EINVAL : 0;
    if (r < 0)
        atomic_fetch_sub_explicit(count_of(group), n, memory_order_relaxed);
    else if (old + n == 0)
        woken = claim_all(w, &group->_waiters);
    cr__unlock(w, cr__spin_of(&group->_spin));
    cr__woken_ready(w, &woken);
    return r;
}

int cr_waitgroup_done(struct cr_waitgroup *group)
{
    cr__handed(group);
    return cr_waitgroup_add(group, -1);
}

static inline int waitgroup_begin(struct cr__worker *w, struct cr__record *me, struct cr_waitgroup *group, int64_t deadline_ns)
{
    cr__lock(w, cr__spin_of(&group->_spin));
    if (atomic_load_explicit(count_of(group), memory_order_acquire) > 0)
        return cr__waiters_begin(w, me, &group->_spin, &group->_waiters, CR__WAIT_GROUP, group, deadline_ns);
    cr__unlock(w, cr__spin_of(&group->_spin));
    return 0;
}

int cr_waitgroup_wait_until(struct cr_waitgroup *group, int64_t deadline_ns)
{
    cr__handed(group);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    return cr__waiters_wait(w, me, &group->_spin, &group->_waiters, waitgroup_begin(w, me, group, deadline_ns), deadline_ns);
}

int cr_task_waitgroup_wait(struct cr_task *task, struct cr_waitgroup *group, int64_t deadline_ns)
{
    cr__handed(group);
    CR__LEAF_AT(task, &group->_spin, &group->_waiters, CR__KIND_BIT(CR__WAIT_GROUP), deadline_ns,
                waitgroup_begin(leaf.worker, leaf.me, group, deadline_ns));
}

int cr_waitgroup_wait(struct cr_waitgroup *group)
{
    cr__handed(group);
    return cr_waitgroup_wait_until(group, CR_FOREVER);
}

int cr_waitgroup_wait_try(struct cr_waitgroup *group)
{
    cr__handed(group);
    return cr__try(cr_waitgroup_wait_until(group, CR__NOW), -EBUSY);
}

/* ---- Once --------------------------------------------------------------------------------------------------- */

enum { NOT_YET, UNDER_WAY, DONE };

static inline _Atomic unsigned *state_of(struct cr_once *once)
{
    return (_Atomic unsigned *)(void *)&once->_state;
}

/* Who sees that it is done may free it: so not before whoever ran fn has let go of the lock, under which it says so. */
static inline bool is_over(struct cr_once *once)
{
    return atomic_load_explicit(state_of(once), memory_order_acquire) == DONE &&
           atomic_load_explicit(cr__spin_of(&once->_spin), memory_order_acquire) == 0; /* pairs with the release in cr__spin_unlock */
}

static void run_once(struct cr_once *once, void (*fn)(void *), void *arg)
{
    fn(arg);
    struct cr__worker *w = cr__worker_here();
    cr__lock(w, cr__spin_of(&once->_spin));
    once->_runner = NULL;
    atomic_store_explicit(state_of(once), DONE, memory_order_release); /* pairs with the acquire in is_over */
    struct cr__woken woken = claim_all(w, &once->_waiters);
    cr__unlock(w, cr__spin_of(&once->_spin));
    cr__woken_ready(w, &woken);
}

static inline int once_begin(struct cr__worker *w, struct cr__record *me, struct cr_once *once, void (*fn)(void *), void *arg, int64_t deadline_ns)
{
    if (CR__LIKELY(is_over(once)))
        return 0;
    cr__lock(w, cr__spin_of(&once->_spin));
    unsigned state = atomic_load_explicit(state_of(once), memory_order_relaxed);
    bool mine = once->_runner == &me->co;
    if (state == UNDER_WAY && !mine)
        return cr__waiters_begin(w, me, &once->_spin, &once->_waiters, CR__WAIT_ONCE, once, deadline_ns);
    if (state == NOT_YET) {
        atomic_store_explicit(state_of(once), UNDER_WAY, memory_order_relaxed);
        once->_runner = &me->co;
    }
    cr__unlock(w, cr__spin_of(&once->_spin));
    if (state == NOT_YET)
        run_once(once, fn, arg);
    return mine ? -EDEADLK : 0;
}

int cr_once_until(struct cr_once *once, void (*fn)(void *), void *arg, int64_t deadline_ns)
{
    cr__handed(once);
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    return cr__waiters_wait(w, me, &once->_spin, &once->_waiters, once_begin(w, me, once, fn, arg, deadline_ns), deadline_ns);
}

int cr_task_once(struct cr_task *task, struct cr_once *once, void (*fn)(void *), void *arg, int64_t deadline_ns)
{
    cr__handed(once);
    CR__LEAF_AT(task, &once->_spin, &once->_waiters, CR__KIND_BIT(CR__WAIT_ONCE), deadline_ns,
                once_begin(leaf.worker, leaf.me, once, fn, arg, deadline_ns));
}

int cr_once(struct cr_once *once, void (*fn)(void *), void *arg)
{
    cr__handed(once);
    return cr_once_until(once, fn, arg, CR_FOREVER);
}

/* ---- Barrier ------------------------------------------------------------------------------------------------ */

static int barrier_begin(struct cr__worker *w, struct cr__record *me, struct cr_barrier *b, unsigned parties, int64_t deadline_ns)
{
    if (parties == 0)
        return -EINVAL;
    cr__lock(w, cr__spin_of(&b->_spin));
    if (b->_arrived + 1 >= parties) {
        b->_arrived = 0;
        struct cr__woken woken = claim_all(w, &b->_waiters);
        cr__unlock(w, cr__spin_of(&b->_spin));
        cr__woken_ready(w, &woken);
        return 1;
    }
    int r = cr__wait_begin(w, me, CR__WAIT_BARRIER, b, deadline_ns);
    if (r == 0) {
        b->_arrived++;
        cr__waiters_push(&b->_waiters, &me->node);
    }
    cr__unlock(w, cr__spin_of(&b->_spin));
    return r < 0 ? r : CR_WAITS;
}

static int barrier_end(struct cr__record *me, struct cr_barrier *b, int r)
{
    if (r < 0) {
        struct cr__worker *w = cr__worker_here();
        cr__lock(w, cr__spin_of(&b->_spin));
        if (me->node.prev == &me->node)
            r = 0; /* the last one has come all the same, and has counted us */
        else
            b->_arrived--;
        cr__waiters_remove(&b->_waiters, &me->node);
        cr__unlock(w, cr__spin_of(&b->_spin));
    }
    return r;
}

int cr_barrier_wait_until(struct cr_barrier *b, unsigned parties, int64_t deadline_ns)
{
    cr__handed(b);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    int r = barrier_begin(w, me, b, parties, deadline_ns);
    return r == CR_WAITS ? barrier_end(me, b, cr__wait_suspend(w, me, deadline_ns)) : r;
}

int cr_task_barrier_wait(struct cr_task *task, struct cr_barrier *b, unsigned parties, int64_t deadline_ns)
{
    cr__handed(b);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_BARRIER));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return barrier_end(leaf.me, b, cr__leaf_arrive(&leaf, deadline_ns));
    return cr__leaf_left(&leaf, barrier_begin(leaf.worker, leaf.me, b, parties, deadline_ns), deadline_ns);
}

int cr_barrier_wait(struct cr_barrier *b, unsigned parties)
{
    cr__handed(b);
    return cr_barrier_wait_until(b, parties, CR_FOREVER);
}
