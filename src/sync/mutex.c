/* Mutex.
 *
 * One word says whether it is locked, whether somebody waits, and whether one who has waited is on its way (WOKEN). Unlocking makes the mutex free and
 * wakes one waiter, which competes with whoever comes: a coroutine that runs may have it back before the woken one is there, so no switch, and no wake
 * across processors, lies between two holders ("barging"). Who has waited for STARVED_NS and finds it taken again says so (STARVING), and the next unlock
 * hands it over: locked all the time, with a new owner.
 *
 * A lost wake would be an unlock that sees WOKEN, and leaves the waking to one that goes back to wait: so that one clears WOKEN in the same step in
 * which it sees that the mutex is still locked. That holder's unlock is yet to come.
 *
 * Whoever has locked it may free it once he has unlocked it, if he knows that nobody else will lock it: as the last one does who drops a reference to what
 * holds the mutex. So to clear LOCKED is the last that unlocking does with it. A waiter is chosen before that, while the mutex is still locked.
 *
 * Who is about to wait looks whether that closes a cycle of holders (cycles.c).
 *
 * Source: the two modes are those of Go's sync.Mutex. Rejected: handing over always (a convoy: with 100 contenders on two workers each operation costs a switch). */
#include "sync/sync.h"

#include <stdio.h>

#include "obs/obs.h"
#include "os/os.h"

enum { LOCKED = 1, WAITERS = 2, WOKEN = 4, STARVING = 8 };

#define STARVED_NS (1 * CR_MS)

static inline _Atomic unsigned *word_of(struct cr_mutex *m)
{
    return (_Atomic unsigned *)(void *)&m->_word;
}

static inline void owner_set(struct cr_mutex *m, struct cr_co *co)
{
    atomic_store_explicit((struct cr_co *_Atomic *)(void *)&m->_owner, co, memory_order_relaxed);
}

static inline unsigned word_get(struct cr_mutex *m)
{
    return atomic_load_explicit(word_of(m), memory_order_relaxed);
}

/* From old to new, if it is still old; else reads it again. Acquire: it may take the mutex; pairs with the release in give_back. */
static inline bool word_swap(const struct cr__worker *w, struct cr_mutex *m, unsigned *old, unsigned new)
{
    if (w->alone) {
        atomic_store_explicit(word_of(m), new, memory_order_relaxed);
        return true;
    }
    return atomic_compare_exchange_weak_explicit(word_of(m), old, new, memory_order_acquire, memory_order_relaxed);
}

/* Under the lock. Not release: nobody gives the mutex back by this. */
static inline void word_clear(const struct cr__worker *w, struct cr_mutex *m, unsigned bits)
{
    if (!w->alone)
        atomic_fetch_and_explicit(word_of(m), ~bits, memory_order_relaxed);
    else
        atomic_store_explicit(word_of(m), word_get(m) & ~bits, memory_order_relaxed);
}

static inline bool take(const struct cr__worker *w, struct cr_mutex *m, struct cr__record *me)
{
    unsigned old = word_get(m);
    while (!(old & LOCKED)) {
        if (word_swap(w, m, &old, old | LOCKED)) {
            owner_set(m, &me->co);
            return true;
        }
    }
    return false;
}

static bool owner_waits(const struct cr_mutex *m)
{
    struct cr_co *owner = cr__mutex_owner(m);
    return owner && cr__waits_for_lock(cr__record_of(owner));
}

/* ---- Locking ------------------------------------------------------------------------------------------------ */

struct attempt {
    struct cr_mutex *m;
    struct cr__record *me;
    int64_t deadline_ns;
    int64_t since_ns;
    bool woken;    /* it has waited, and is the one that WOKEN speaks of */
    enum cr__manner manner; /* insisting: waits on though it closes a cycle: that has been told */
};

/* Out of the queue, without the mutex. */
static void leave(struct cr__worker *w, struct attempt *a)
{
    cr__lock(w, cr__spin_of(&a->m->_spin));
    cr__waiters_remove(&a->m->_waiters, &a->me->node);
    if (cr__waiters_empty(&a->m->_waiters))
        word_clear(w, a->m, WAITERS);
    cr__unlock(w, cr__spin_of(&a->m->_spin));
}

/* Says that it waits, and is no longer on its way; or takes the mutex, if that is free after all. */
static bool take_or_announce(struct cr__worker *w, struct attempt *a)
{
    unsigned woken = a->woken ? WOKEN : 0, old = word_get(a->m), new;
    bool starved = a->woken && w->now_ns - a->since_ns > STARVED_NS;
    do
        new = old & LOCKED ? ((old | WAITERS) & ~woken) | (starved ? STARVING : 0) : (old | LOCKED) & ~woken;
    while (!word_swap(w, a->m, &old, new));
    if (old & LOCKED)
        return false;
    owner_set(a->m, &a->me->co);
    return true;
}

/* Gives up before it has suspended. The lock is held. */
static void retract(struct cr__worker *w, struct attempt *a)
{
    if (cr__waiters_empty(&a->m->_waiters))
        word_clear(w, a->m, WAITERS | STARVING);
}

/* One round, in halves (sync.h): takes the mutex (0), or begins to wait (CR_WAITS). */
static int round_begin(struct cr__worker *w, struct attempt *a)
{
    struct cr_mutex *m = a->m;
    cr__lock(w, cr__spin_of(&m->_spin));
    int r = take_or_announce(w, a);
    if (!r) {
        r = cr__wait_begin(w, a->me, CR__WAIT_MUTEX, m, a->deadline_ns);
        if (r < 0)
            retract(w, a);
        else if (a->woken)
            cr__waiters_push_front(&m->_waiters, &a->me->node);
        else
            cr__waiters_push(&m->_waiters, &a->me->node);
        a->woken = false;
    } else {
        r = 1;
    }
    cr__unlock(w, cr__spin_of(&m->_spin));
    if (r != 0)
        return r < 0 ? r : 0;
    if (!w->alone)
        atomic_thread_fence(memory_order_seq_cst); /* waiting comes before looking: see above */
    if (CR__UNLIKELY(owner_waits(m)) && cr__closes_cycle(w, a->me, a->manner)) {
        leave(w, a);
        return -EDEADLK;
    }
    return CR_WAITS;
}

/* The wait is over: it has been woken to try again (1), or has had the mutex handed over (0). */
static int round_end(struct attempt *a, int r)
{
    if (r < 0) {
        leave(cr__worker_here(), a);
        return r;
    }
    if (cr__mutex_owner(a->m) == &a->me->co)
        return 0;
    a->woken = true;
    return 1;
}

static inline int wait_round(struct cr__worker *w, struct attempt *a)
{
    int r = round_begin(w, a);
    return r == CR_WAITS ? round_end(a, cr__wait_suspend(w, a->me, a->deadline_ns)) : r;
}

static CR__NOINLINE int lock_slowly(struct cr__worker *w, struct attempt a)
{
    int r;
    if (cr__mutex_owner(a.m) == &a.me->co)
        return -EDEADLK;
    a.since_ns = w->now_ns;
    while ((r = wait_round(w, &a)) == 1)
        w = cr__worker_here();
    if (r == 0)
        cr__lock_taken(a.me, (uintptr_t)a.m);
    return r;
}

int cr_mutex_lock_until(struct cr_mutex *m, int64_t deadline_ns)
{
    cr__handed(m);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    if (CR__LIKELY(take(w, m, me))) {
        cr__lock_taken(me, (uintptr_t)m);
        return 0;
    }
    return lock_slowly(w, (struct attempt){.m = m, .me = me, .deadline_ns = deadline_ns});
}

int cr_mutex_lock(struct cr_mutex *m)
{
    cr__handed(m);
    return cr_mutex_lock_until(m, CR_FOREVER);
}

/* Since when it has waited is kept where reports look for that. */
static int64_t since_ns(const struct cr__leaf *leaf)
{
    uint32_t passed = (uint32_t)((uint64_t)leaf->worker->now_ns >> CR__SINCE_SHIFT) - leaf->me->since;
    return leaf->worker->now_ns - ((int64_t)passed << CR__SINCE_SHIFT);
}

static inline int counted(const struct attempt *a, int r)
{
    if (r == 0)
        cr__lock_taken(a->me, (uintptr_t)a->m);
    return r;
}

/* A leaf's next round, the first one or, after a wait, another. */
static int leaf_round(const struct cr__leaf *leaf, struct attempt *a)
{
    uint32_t since = leaf->me->since;
    bool again = a->woken;
    int r = cr__leaf_left(leaf, round_begin(leaf->worker, a), a->deadline_ns);
    if (r == CR_WAITS && again)
        leaf->me->since = since;
    return r;
}

/* After a wait. */
static int leaf_lock_again(const struct cr__leaf *leaf, struct attempt *a)
{
    a->since_ns = since_ns(leaf);
    int r = round_end(a, cr__leaf_arrive(leaf, a->deadline_ns));
    return counted(a, r == 1 ? leaf_round(leaf, a) : r);
}

static int leaf_lock(const struct cr__leaf *leaf, struct attempt *a)
{
    if (CR__LIKELY(take(leaf->worker, a->m, leaf->me)))
        return counted(a, 0);
    if (cr__mutex_owner(a->m) == &leaf->me->co)
        return -EDEADLK;
    a->since_ns = leaf->worker->now_ns;
    return counted(a, leaf_round(leaf, a));
}

int cr_task_mutex_lock(struct cr_task *task, struct cr_mutex *m, int64_t deadline_ns)
{
    cr__handed(m);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_MUTEX));
    struct attempt a = {.m = m, .me = leaf.me, .deadline_ns = deadline_ns};
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    return leaf.turn == CR__RESUMES ? leaf_lock_again(&leaf, &a) : leaf_lock(&leaf, &a);
}

int cr_mutex_lock_try(struct cr_mutex *m)
{
    cr__handed(m);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, CR__NOW);
    if (!me)
        return -EPERM;
    if (!take(w, m, me))
        return cr__mutex_owner(m) == &me->co ? -EDEADLK : -EBUSY;
    cr__lock_taken(me, (uintptr_t)m);
    return 0;
}

/* ---- Unlocking ---------------------------------------------------------------------------------------------- */

/* Somebody starves: the mutex stays locked, and is the first waiter's from now on. Returns whether there was one. */
static bool hand_over(struct cr__worker *w, struct cr_mutex *m)
{
    cr__lock(w, cr__spin_of(&m->_spin));
    struct cr__record *next = cr__waiters_claim(w, &m->_waiters, CR__WOKEN);
    owner_set(m, next ? &next->co : NULL);
    word_clear(w, m, STARVING | (cr__waiters_empty(&m->_waiters) ? WAITERS : 0));
    cr__unlock(w, cr__spin_of(&m->_spin));
    if (next)
        cr__ready(w, next);
    return next != NULL;
}

/* It is still locked, somebody waits, and nobody is on its way: that one will be, who is to be made ready once it is unlocked. NULL: none waits any more. */
static struct cr__record *choose(struct cr__worker *w, struct cr_mutex *m)
{
    cr__lock(w, cr__spin_of(&m->_spin));
    struct cr__record *next = cr__waiters_claim(w, &m->_waiters, CR__WOKEN);
    /* a plain store would do: of what is locked, only who has the lock changes the word */
    unsigned old = word_get(m), gone = cr__waiters_empty(&m->_waiters) ? WAITERS : 0;
    atomic_store_explicit(word_of(m), (old & ~gone) | (next ? WOKEN : 0), memory_order_relaxed);
    cr__unlock(w, cr__spin_of(&m->_spin));
    return next;
}

static inline bool nobody_comes(unsigned word)
{
    return (word & (WAITERS | WOKEN)) == WAITERS;
}

/* Returns whether it is unlocked: not if somebody waits, and nobody is on its way; nor if the word is not `old` any more. */
static inline bool give_back(const struct cr__worker *w, struct cr_mutex *m, unsigned old)
{
    if (CR__UNLIKELY(nobody_comes(old)))
        return false;
    if (w->alone) {
        atomic_store_explicit(word_of(m), old & ~LOCKED, memory_order_relaxed);
        return true;
    }
    /* release: pairs with the acquire in word_swap */
    return atomic_compare_exchange_strong_explicit(word_of(m), &old, old & ~LOCKED, memory_order_release, memory_order_relaxed);
}

static CR__NOINLINE void unlock_slowly(struct cr__worker *w, struct cr_mutex *m)
{
    struct cr__record *next = NULL;
    while (!give_back(w, m, word_get(m))) {
        if (nobody_comes(word_get(m)))
            next = choose(w, m);
    }
    if (next)
        cr__ready(w, next);
}

int cr_mutex_unlock(struct cr_mutex *m)
{
    cr__handed(m);
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me || cr__mutex_owner(m) != &me->co)
        return -EPERM;
    cr__lock_given(me);
    if (CR__UNLIKELY(word_get(m) & STARVING) && hand_over(w, m))
        return 0;
    owner_set(m, NULL);
    if (CR__UNLIKELY(!give_back(w, m, word_get(m))))
        unlock_slowly(w, m);
    return 0;
}

/* ---- Condition variable ------------------------------------------------------------------------------------- */

/* Locks it whatever comes. */
static void lock_again(struct cr_mutex *m)
{
    struct cr__worker *w = NULL;
    struct cr__record *me = cr__running(&w);
    struct cr__mask mask = cr__mask(me, CR_FOREVER);
    if (take(w, m, me))
        cr__lock_taken(me, (uintptr_t)m);
    else
        (void)!lock_slowly(w, (struct attempt){.m = m, .me = me, .deadline_ns = CR_FOREVER, .manner = CR__INSISTING});
    cr__unmask(me, mask);
}

/* CR_WAITS: it waits, and has given the mutex back. */
static int cond_begin(struct cr__worker *w, struct cr__record *me, struct cr_cond *cond, struct cr_mutex *m, int64_t deadline_ns)
{
    if (cr__mutex_owner(m) != &me->co)
        return -EPERM;
    cr__lock(w, cr__spin_of(&cond->_spin));
    int r = cr__wait_begin(w, me, CR__WAIT_COND, cond, deadline_ns);
    if (r == 0)
        cr__waiters_push(&cond->_waiters, &me->node);
    cr__unlock(w, cr__spin_of(&cond->_spin));
    if (r < 0)
        return r;
    (void)!cr_mutex_unlock(m);
    return CR_WAITS;
}

int cr_cond_wait_until(struct cr_cond *cond, struct cr_mutex *m, int64_t deadline_ns)
{
    cr__handed(cond);
    cr__handed(m);
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    int r = cond_begin(w, me, cond, m, deadline_ns);
    if (r != CR_WAITS)
        return r;
    r = cr__waiters_end(me, &cond->_spin, &cond->_waiters, cr__wait_suspend(w, me, deadline_ns));
    lock_again(m);
    return r;
}

/* How its first wait ended: kept in two flags while it waits for the mutex, whatever comes. */
static int cond_over(struct cr__record *me)
{
    uint8_t flags = me->co.sched_flags;
    cr__leaf_relent(me);
    me->co.sched_flags &= (uint8_t)~(CR__LATE | CR__CUT);
    return flags & CR__LATE ? -ETIMEDOUT : flags & CR__CUT ? -ECANCELED : 0;
}

int cr_task_cond_wait(struct cr_task *task, struct cr_cond *cond, struct cr_mutex *m, int64_t deadline_ns)
{
    cr__handed(cond);
    cr__handed(m);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_COND) | CR__KIND_BIT(CR__WAIT_MUTEX));
    struct attempt a = {.m = m, .me = leaf.me, .deadline_ns = CR_FOREVER, .manner = CR__INSISTING};
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__BEGINS)
        return cr__leaf_left(&leaf, cond_begin(leaf.worker, leaf.me, cond, m, deadline_ns), deadline_ns);
    int r;
    if (cr__waits_for(leaf.me) == CR__WAIT_COND) {
        r = cr__waiters_end(leaf.me, &cond->_spin, &cond->_waiters, cr__leaf_arrive(&leaf, deadline_ns));
        leaf.me->co.sched_flags |= (uint8_t)(r == -ETIMEDOUT ? CR__LATE : r == -ECANCELED ? CR__CUT : 0);
        cr__leaf_stubborn(leaf.me);
        r = leaf_lock(&leaf, &a);
    } else {
        r = leaf_lock_again(&leaf, &a);
    }
    return r == CR_WAITS ? CR_WAITS : cond_over(leaf.me);
}

int cr_cond_wait(struct cr_cond *cond, struct cr_mutex *m)
{
    cr__handed(cond);
    cr__handed(m);
    return cr_cond_wait_until(cond, m, CR_FOREVER);
}

static void wake_waiters(struct cr_cond *cond, bool all)
{
    struct cr__worker *w = cr__worker_here();
    struct cr__record *record;
    struct cr__woken woken = {0};
    if (!w)
        return;
    cr__lock(w, cr__spin_of(&cond->_spin));
    while ((record = cr__waiters_claim(w, &cond->_waiters, CR__WOKEN)) != NULL) {
        cr__woken_add(&woken, record);
        if (!all)
            break;
    }
    cr__unlock(w, cr__spin_of(&cond->_spin));
    cr__woken_ready(w, &woken);
}

void cr_cond_signal(struct cr_cond *cond)
{
    cr__handed(cond);
    wake_waiters(cond, false);
}

void cr_cond_broadcast(struct cr_cond *cond)
{
    cr__handed(cond);
    wake_waiters(cond, true);
}
