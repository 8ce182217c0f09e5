#include "sync/sync.h"

void cr__waiters_leave(struct cr__record *me, unsigned *spin, struct cr_waiters *q)
{
    struct cr__worker *w = cr__worker_here();
    cr__lock(w, cr__spin_of(spin));
    cr__waiters_remove(q, &me->node);
    cr__unlock(w, cr__spin_of(spin));
}
