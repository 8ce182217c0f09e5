/* What comes from outside of the runtime: other threads' calls, signals, child processes.
 *
 * The calls named _remote are for any thread: one that crore knows nothing of, a worker of this runtime or of another. They neither block nor
 * suspend. (Not so those of crore/chan.h: they are not for workers, and cr_chan_send_remote blocks the thread until its item has been taken.) They return -ESHUTDOWN when the runtime has ended; what they were told would be done (0) is done before it ends. */
#ifndef CRORE_OUTSIDE_H
#define CRORE_OUTSIDE_H

#include <signal.h>

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Other threads ------------------------------------------------------------------------------------------ */

/* The runtime that the calling coroutine runs in, to be handed to other threads; NULL outside of any. One that cr_rt_create made is valid until
 * cr_rt_destroy; one of cr_run until cr_run returns: there, a coroutine stays that waits until the other threads are done with it (joins them, by
 * cr_blocking, say, or waits for an event). Does not suspend. */
CR_API struct cr_rt *cr_rt_here(void);

/* Spawns a coroutine that nobody waits for, as cr_go does. Into a runtime that has not been started yet, too: it begins once that has. (A runtime
 * that can't be started, that fails, or is destroyed instead, drops it.)
 * Returns 0; -ESHUTDOWN, also from when all its coroutines are being cancelled; -ENOMEM; -EINVAL (rt or fn is NULL); -EPERM in a child of fork. */
CR_API CR_CHECKED int cr_go_remote(struct cr_rt *rt, void (*fn)(void *arg), void *arg);

/* Something that happens: coroutines wait until it is set, and it stays set until it is cleared. Usable from zeroed memory, needs no clean-up. It may be
 * freed, or leave its stack, once a wait for it has returned 0 and no other one goes on, or when nobody will wait for it or set it any more.
 *
 * One that tells of something that is to be fetched from elsewhere is cleared first, and then the thing is looked for:
 *     while (cr_event_wait(&ev) == 0) { cr_event_clear(&ev); while (take(&thing)) use(thing); } */
struct cr_event {
    unsigned _lock, _set;
    void *_first, *_last;
};

/* Waits until it is set. Suspends. While a coroutine waits, crore does not take it that nothing can happen any more: somebody outside may set it.
 * Return 0; -ETIMEDOUT; -ECANCELED; -EPERM. */
CR_API CR_CHECKED int cr_event_wait(struct cr_event *event);
CR_API CR_CHECKED int cr_event_wait_until(struct cr_event *event, int64_t deadline_ns);

/* Sets it, from a coroutine of the same runtime. All that wait go on. Returns 0 or -EPERM. Does not suspend. */
CR_API int cr_event_set(struct cr_event *event);

/* Sets it, from any thread; rt is the runtime whose coroutines wait for it.
 * Returns 0; -ESHUTDOWN; -ENOMEM; -EINVAL (NULL; coroutines of another runtime wait for it); -EPERM in a child of fork. On an error it is not set. */
CR_API CR_CHECKED int cr_event_set_remote(struct cr_rt *rt, struct cr_event *event);

/* Whether it is set; and no longer. Any thread, do not suspend. */
CR_API int cr_event_is_set(struct cr_event *event);
CR_API void cr_event_clear(struct cr_event *event);

/* ---- Signals ------------------------------------------------------------------------------------------------ */

#ifdef SIG_SETMASK /* as <signal.h> has it with POSIX: not under a strict -std=c11 without _POSIX_C_SOURCE */

/* Waits for a signal of a set, and takes it. The program must have blocked these signals before the runtime was started, in all of its threads: so, best,
 * first thing in main. Suspends.
 *   info: receives who sent it, and why, as of sigwaitinfo(2); may be NULL
 * Returns the signal's number; -ETIMEDOUT, -ECANCELED (none was taken); -EINVAL (one of them was not blocked, or can't be); -EMFILE, -ENFILE, -ENOMEM,
 * -EPERM. Several may wait for the same signal: each one that comes is taken by one of them. */
CR_API CR_CHECKED int cr_signal_wait(const sigset_t *set, siginfo_t *info);
CR_API CR_CHECKED int cr_signal_wait_until(const sigset_t *set, siginfo_t *info, int64_t deadline_ns);

/* The signals that the program itself had blocked when the calling coroutine's runtime was started. The worker blocks more. fork(2) gives a child the
 * program's mask; for posix_spawn(3) give this one to posix_spawnattr_setsigmask; system(3) and popen(3) pass on the worker's.
 * Returns 0 or -EPERM. Does not suspend. */
CR_API int cr_signal_mask(sigset_t *set);

#endif

/* ---- Child processes ---------------------------------------------------------------------------------------- */

/* Waits until a child has ended, and reaps it. Suspends.
 *   pid:    a child of this process
 *   status: receives how it ended, as of waitpid(2); may be NULL
 * Returns 0; -ETIMEDOUT, -ECANCELED (it was not reaped); -ECHILD (no such child, or it was reaped by someone else); -EINVAL (pid < 1); -ENOSYS
 * (Linux before 5.4); -EMFILE, -ENFILE, -ENOMEM, -EPERM.
 *
 * fork(2) may be called anywhere. The child is there to call exec or _exit: it has the program's signal mask, and no runtime any more. What is called
 * of crore there returns -EPERM, what cannot is ignored, and a coroutine's function that returns there ends the process with a message. That
 * holds for each child that is forked while a runtime runs in the process, on whichever thread. */
CR_API CR_CHECKED int cr_child_wait(pid_t pid, int *status);
CR_API CR_CHECKED int cr_child_wait_until(pid_t pid, int *status, int64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
