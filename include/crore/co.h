/* Bare coroutines: made, resumed and destroyed by hand, with or without the runtime.
 *
 * A coroutine is a function with a stack of its own. cr_co_resume runs it until it yields or ends;
 * cr_co_yield goes back to whoever resumed it; cr_co_yield_to goes straight to another one, which
 * inherits the resumer. A value travels with each switch, both ways.
 *
 *     static void *squares(void *first)
 *     {
 *         void *value = NULL;
 *         for (intptr_t n = (intptr_t)first;; n++) {
 *             value = (void *)(n * n);
 *             if (cr_co_yield(&value) < 0)
 *                 return NULL;
 *         }
 *     }
 *
 * One thread at a time may work with a coroutine; which thread may change between two resumes, unless
 * its stack is shared: then all are its first resumer's, and when that has ended it may only be
 * destroyed. A bare coroutine that runs inside a scheduled one (crore/rt.h) may call what suspends:
 * its whole chain parks. Nothing here suspends in the scheduler's sense. */
#ifndef CRORE_CO_H
#define CRORE_CO_H

#include <crore/attr.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_co;

enum cr_co_status {
    CR_CO_NEW,       /* made, has never run; holds no stack yet, unless its first resume was refused */
    CR_CO_SUSPENDED, /* yielded; may be resumed */
    CR_CO_RUNNING,   /* running now, or waiting for one that it resumed */
    CR_CO_ENDED,     /* its function has returned; may only be destroyed */
    CR_CO_SCHEDULED, /* belongs to the runtime (crore/rt.h) */
};

/* Makes a coroutine that will run fn. Costs its record; the stack is taken when it first runs.
 *   out:   receives the coroutine; destroy it with cr_co_destroy
 *   fn:    gets the value of the first resume; what it returns is the value of the last one
 *   attr:  NULL for defaults
 * Returns 0, -EINVAL (attributes that make no sense), -ENOMEM. On an error *out is untouched. */
CR_API CR_CHECKED int cr_co_create(struct cr_co **out, void *(*fn)(void *value), const struct cr_attr *attr);

/* Runs co until it yields or ends.
 *   value: in, what co's cr_co_yield (or its function, the first time) gets; out, what it yielded or
 *          returned. NULL passes NULL and drops what comes back
 * Returns 0 when it yielded, 1 when it ended; -EINVAL if it had ended before, -EBUSY if it is
 * running or waits for one that it resumed, or who is on its shared stack is in cr_blocking; -EPERM
 * if it belongs to the scheduler, -ENOMEM if there was no stack for its first run, or no memory for
 * the bytes of who has to make room on its shared stack, -EXDEV if that is another thread's. On an
 * error it stays what it was, CR_CO_NEW too, and *value is untouched; after -ENOMEM, or when that
 * cr_blocking is over, it may be resumed again. After a cr_co_yield_to within, the answer is that of
 * whichever coroutine came back. */
CR_API CR_CHECKED int cr_co_resume(struct cr_co *co, void **value);

/* Back to whoever resumed the running coroutine; returns when it is resumed again.
 *   value: in, what the resumer gets; out, what it passes next time. NULL as above
 * Returns 0, or -EPERM outside a bare coroutine. */
CR_API CR_CHECKED int cr_co_yield(void **value);

/* Suspends the running coroutine and goes straight to `to`, which inherits its resumer.
 * Returns 0 once the caller is resumed or yielded to again; -EPERM outside a bare coroutine, and for
 * `to` the errors of cr_co_resume, -EBUSY for its shared stack included: then the caller goes on.
 * Yielding to oneself returns 0 at once, value untouched. */
CR_API CR_CHECKED int cr_co_yield_to(struct cr_co *to, void **value);

/* What co is doing. Any thread, but the answer is only stable where nobody else works with co. */
CR_API enum cr_co_status cr_co_status(const struct cr_co *co);

/* The coroutine that runs on this thread, bare or scheduled; NULL outside of any. */
CR_API struct cr_co *cr_co_current(void);

/* Ends co's life and gives back its stack, also if it never finished: its frames are dropped, not
 * unwound; destructors of its local storage run (on the caller's stack). NULL is ignored.
 * Returns 0; -EBUSY if it is running; -EPERM if it belongs to the scheduler; -EXDEV if its shared
 * stack is another thread's that has not ended. When that has, any thread may destroy it: what all
 * on that thread's shared stacks had in common goes with the last of them. */
CR_API int cr_co_destroy(struct cr_co *co);

/* Coroutine-local storage: one pointer per coroutine and key, for bare and scheduled ones.
 *   destroy: called with the value, if it is not NULL, when a scheduled coroutine ends or is dropped, and when a bare one
 *            is destroyed; may be NULL. It must neither suspend nor set local values
 * Returns 0, or -EAGAIN when all CR_LOCAL_MAX keys are taken. Keys live as long as the program. Any thread. */
#define CR_LOCAL_MAX 64
CR_API CR_CHECKED int cr_local_key(unsigned *key, void (*destroy)(void *value));

/* The running coroutine's value for key: NULL if none was set, or outside a coroutine. */
CR_API void *cr_local_get(unsigned key);

/* Sets it. Returns 0, -EPERM outside a coroutine, -EINVAL (no such key), -ENOMEM (old value kept). */
CR_API CR_CHECKED int cr_local_set(unsigned key, void *value);

/* Names co for messages and dumps; copied, cut to 31 bytes. Returns 0 or -ENOMEM (old name kept). */
CR_API int cr_name_set(struct cr_co *co, const char *name);

/* Writes co's name, "" if it has none, into buf (always terminated). Returns buf. */
CR_API const char *cr_name_get(const struct cr_co *co, char *buf, size_t size_bytes);

#ifdef __cplusplus
}
#endif

#include <crore/co_inline.h>

#endif
