#include "sync/sync.h"

int cr__waiters_wait(struct cr__worker *w, struct cr__record *me, unsigned *spin, struct cr_waiters *q, enum cr__wait_kind kind,
                     const void *object, int64_t deadline_ns)
{
    int r = cr__wait_begin(w, me, kind, object, deadline_ns);
    if (r == 0)
        cr__waiters_push(q, &me->node);
    cr__unlock(w, cr__spin_of(spin));
    if (r < 0)
        return r;
    r = cr__wait_suspend(w, me, deadline_ns);
    if (r < 0) {
        w = cr__worker_here();
        cr__lock(w, cr__spin_of(spin));
        cr__waiters_remove(q, &me->node);
        cr__unlock(w, cr__spin_of(spin));
    }
    return r;
}
