/* What coroutines share: locks and the like. All are usable from zeroed memory (`static struct cr_mutex m;`), need no
 * clean-up, and must stay where they are while somebody uses them. What is held, or waited for, when a runtime ends (cr_run has returned -EDEADLK, say) is
 * zeroed again before another runtime uses it. Objects must not be NULL.
 *
 * For the coroutines of one runtime, on whichever workers. Each call that waits suspends the coroutine, never the
 * worker, and has an _until form (deadline as in crore/rt.h) and, but for those of condition variable, once and barrier, a _try form (does not suspend:
 * -EBUSY where it would).
 * Besides what is named below, calls that wait return 0; -ETIMEDOUT; -ECANCELED; -EPERM outside a scheduled
 * coroutine. After -ETIMEDOUT and -ECANCELED nothing was taken. Waiters are served first come, first served, but for the mutex, which a
 * running coroutine may take before one that has just been woken, up to a millisecond long. */
#ifndef CRORE_SYNC_H
#define CRORE_SYNC_H

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Not for use: a queue of waiting coroutines. */
struct cr_waiters {
    void *_first, *_last;
};

/* ---- Mutual exclusion --------------------------------------------------------------------------------------- */

struct cr_mutex {
    unsigned _word, _spin;
    struct cr_co *_owner;
    struct cr_waiters _waiters;
};

/* Locks. -EDEADLK if the caller holds it already, or if it is part of a cycle of coroutines each of which waits for a mutex or a readers-writer lock that the
 * next one holds: the cycle is reported with their names, and the caller, who would have closed it, gets the error. Up to 1024 coroutines are looked at: a
 * longer cycle goes unnoticed (until nothing else can run, or in a dump). */
CR_API CR_CHECKED int cr_mutex_lock(struct cr_mutex *mutex);
CR_API CR_CHECKED int cr_mutex_lock_until(struct cr_mutex *mutex, int64_t deadline_ns);
CR_API CR_CHECKED int cr_mutex_lock_try(struct cr_mutex *mutex);

/* Unlocks. Returns 0; -EPERM if the caller does not hold it. Does not suspend. Once it has been locked by one who knows that nobody else will lock it again, and
 * unlocked, it may be freed: also while the call by which another one had unlocked it before has not returned. A coroutine that ends while it holds mutexes
 * or readers-writer locks ends the program, with a message that names it and the last lock that it took. (If their number is a multiple of 256, nobody sees it.) */
CR_API int cr_mutex_unlock(struct cr_mutex *mutex);

/* ---- Condition variable ------------------------------------------------------------------------------------- */

struct cr_cond {
    unsigned _spin;
    struct cr_waiters _waiters;
};

/* Gives the mutex, which the caller holds, back, waits for a signal, and takes it again: also when it returns -ETIMEDOUT or
 * -ECANCELED (then it waits for the mutex without regard to deadline and cancellation). As everywhere, look at the condition in a loop.
 * -EPERM if the caller does not hold the mutex. */
CR_API CR_CHECKED int cr_cond_wait(struct cr_cond *cond, struct cr_mutex *mutex);
CR_API CR_CHECKED int cr_cond_wait_until(struct cr_cond *cond, struct cr_mutex *mutex, int64_t deadline_ns);

/* Wakes one waiter, or all; with or without holding the mutex. Do not suspend; on worker threads only (nothing happens elsewhere). */
CR_API void cr_cond_signal(struct cr_cond *cond);
CR_API void cr_cond_broadcast(struct cr_cond *cond);

/* ---- Many readers, one writer ------------------------------------------------------------------------------- */

struct cr_rwlock {
    unsigned _spin;
    int _holders; /* -1: a writer */
    struct cr_co *_writer;
    struct cr_waiters _waiters;
    void *_readers;
};

/* In the order in which they came: readers that wait behind a writer wait, too, so that neither starves. One that reads may do so a second time, and unlocks
 * twice. -EDEADLK if the caller would wait for itself: it holds the lock already, to write; or to read, and asks to write, or a writer waits; or if it would close a
 * cycle, as with a mutex. The _try forms say so, too. To read takes some memory: -ENOMEM. */
CR_API CR_CHECKED int cr_rwlock_rdlock(struct cr_rwlock *lock);
CR_API CR_CHECKED int cr_rwlock_rdlock_until(struct cr_rwlock *lock, int64_t deadline_ns);
CR_API CR_CHECKED int cr_rwlock_rdlock_try(struct cr_rwlock *lock);
CR_API CR_CHECKED int cr_rwlock_wrlock(struct cr_rwlock *lock);
CR_API CR_CHECKED int cr_rwlock_wrlock_until(struct cr_rwlock *lock, int64_t deadline_ns);
CR_API CR_CHECKED int cr_rwlock_wrlock_try(struct cr_rwlock *lock);

/* Gives back what the caller holds, for reading or for writing. Returns 0; -EPERM if it holds nothing of it. Does not suspend. */
CR_API int cr_rwlock_unlock(struct cr_rwlock *lock);

/* ---- Semaphore ---------------------------------------------------------------------------------------------- */

struct cr_sem {
    unsigned _spin;
    unsigned count; /* permits that are left; set it before the first use, only read it afterwards */
    struct cr_waiters _waiters;
};

/* Takes a permit, waiting for one. */
CR_API CR_CHECKED int cr_sem_wait(struct cr_sem *sem);
CR_API CR_CHECKED int cr_sem_wait_until(struct cr_sem *sem, int64_t deadline_ns);
CR_API CR_CHECKED int cr_sem_wait_try(struct cr_sem *sem);

/* Gives n permits. Returns 0; -EOVERFLOW above UINT_MAX (nothing given); -EPERM. Does not suspend. */
CR_API int cr_sem_post(struct cr_sem *sem, unsigned n);

/* ---- Wait group --------------------------------------------------------------------------------------------- */

struct cr_waitgroup {
    unsigned _spin;
    int64_t _count;
    struct cr_waiters _waiters;
};

/* Adds n, which may be negative, to the count; at 0 all waiters go on. Returns 0; -EINVAL if the count would fall below 0 (it stays);
 * -EPERM outside of a runtime. Do not suspend. */
CR_API int cr_waitgroup_add(struct cr_waitgroup *group, int64_t n);
CR_API int cr_waitgroup_done(struct cr_waitgroup *group); /* adds -1 */

/* Waits until the count is 0. */
CR_API CR_CHECKED int cr_waitgroup_wait(struct cr_waitgroup *group);
CR_API CR_CHECKED int cr_waitgroup_wait_until(struct cr_waitgroup *group, int64_t deadline_ns);
CR_API CR_CHECKED int cr_waitgroup_wait_try(struct cr_waitgroup *group);

/* ---- Once --------------------------------------------------------------------------------------------------- */

struct cr_once {
    unsigned _state, _spin;
    struct cr_co *_runner;
    struct cr_waiters _waiters;
};

/* Has fn(arg) run once in the lifetime of *once: the first caller runs it (it may suspend), others wait until it has returned.
 * -EDEADLK if fn itself calls it. */
CR_API CR_CHECKED int cr_once(struct cr_once *once, void (*fn)(void *arg), void *arg);
CR_API CR_CHECKED int cr_once_until(struct cr_once *once, void (*fn)(void *arg), void *arg, int64_t deadline_ns);

/* ---- Barrier ------------------------------------------------------------------------------------------------ */

struct cr_barrier {
    unsigned _spin;
    unsigned _arrived;
    struct cr_waiters _waiters;
};

/* Waits until `parties` coroutines wait here; then all go on, and the next round begins. Returns 1 to the last one to arrive, 0 to the others;
 * -EINVAL (parties is 0). Who gives up (-ETIMEDOUT, -ECANCELED) has not arrived. */
CR_API CR_CHECKED int cr_barrier_wait(struct cr_barrier *barrier, unsigned parties);
CR_API CR_CHECKED int cr_barrier_wait_until(struct cr_barrier *barrier, unsigned parties, int64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
