/* Scopes: coroutines that do not outlive a block of code.
 *
 *     struct cr_scope *scope;
 *     if (cr_scope_open(&scope, cr_after(2 * CR_SEC)) < 0)
 *         return;
 *     if (cr_scope_go(scope, fetch, &left) < 0 || cr_scope_go(scope, fetch, &right) < 0)
 *         cr_scope_cancel(scope);
 *     int r = cr_scope_close(scope);      both have ended
 *
 * A scope belongs to the coroutine that opened it, which opens and closes its scopes like brackets. Leaving it joins
 * what was spawned into it. Cancelling it makes each one's present wait, and each later one, return -ECANCELED, and reaches the scopes
 * that they have opened in turn. A scope's deadline bounds every wait in it, its owner's own as well as its coroutines' (they get -ECANCELED
 * when it comes), and that of the scopes inside it.
 *
 * Source: libdill's bundles; Smith, "Notes on structured concurrency", 2018. */
#ifndef CRORE_SCOPE_H
#define CRORE_SCOPE_H

#include <crore/rt.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_scope;

/* Opens a scope. deadline_ns: when it is cancelled by itself; CR_FOREVER: never. A surrounding scope's earlier deadline counts, too.
 * Returns 0, -ENOMEM, -EPERM. Does not suspend. */
CR_API CR_CHECKED int cr_scope_open(struct cr_scope **out, int64_t deadline_ns);

/* Spawns into it, as cr_go and cr_spawn; no handle: the scope joins. May also be called by the coroutines in it, since they keep it open; by another one
 * only if that is sure that the owner does not close it meanwhile.
 * Returns 0; -ECANCELED when it is cancelled, or its deadline has come; -EINVAL, -ENOMEM, -EPERM. Does not suspend. */
CR_API CR_CHECKED int cr_scope_go(struct cr_scope *scope, void (*fn)(void *arg), void *arg);
CR_API CR_CHECKED int cr_scope_spawn(struct cr_scope *scope, void (*fn)(void *arg), void *arg, const struct cr_attr *attr);

/* Waits until all coroutines in it have ended; it stays open. Returns 0; -ETIMEDOUT; -ECANCELED (the caller was cancelled, or the scope
 * was); -EPERM (not the owner). Suspends. */
CR_API CR_CHECKED int cr_scope_wait(struct cr_scope *scope);
CR_API CR_CHECKED int cr_scope_wait_until(struct cr_scope *scope, int64_t deadline_ns);

/* Cancels all that is in it, now and later. The owner's own waits inside it fail, too, until it has closed it. Any coroutine of the runtime that
 * knows it to be open. Returns 0, -EPERM. Does not suspend. */
CR_API int cr_scope_cancel(struct cr_scope *scope);

/* Leaves it: waits, whatever the deadline and also when cancelled, until all in it have ended, and frees it. Being cancelled itself, it passes that on to
 * what is in it. Returns 0; -ECANCELED if it was cancelled or its deadline came; -EPERM: another coroutine owns it; -EBUSY: a
 * scope that was opened inside it is still open. */
CR_API int cr_scope_close(struct cr_scope *scope);

/* For clean-up: until cr_cancel_unmask, waits of the calling coroutine do not fail because it is cancelled; but each that has no earlier deadline returns
 * -ECANCELED when grace_ns have passed since the call. Brackets; the outermost counts. Return 0; -EPERM, also of an unmask that has
 * no mask; cr_cancel_mask also -ENOMEM (nothing is masked). Do not suspend. */
CR_API int cr_cancel_mask(int64_t grace_ns);
CR_API int cr_cancel_unmask(void);

/* Whether the calling coroutine has been asked to end. Does not suspend. */
CR_API bool cr_cancelled(void);

#ifdef __cplusplus
}
#endif
#endif
