/* What others touch while a coroutine waits must not lie on a shared stack: it may be somebody else's by then. So calls that hand a caller's buffer to
 * another coroutine, or to the kernel, hand over a copy beside the stack instead. */
#include <string.h>

#include "sched/sched.h"

void *cr__bounce_copy(struct cr__worker *worker, const void *buf, size_t size_bytes)
{
    void *copy = cr__image_get(&worker->images, size_bytes);
    if (copy)
        memcpy(copy, buf, size_bytes); /* of what is received, too: what is not written stays */
    return copy;
}

void cr__bounce_back(void *copy, void *buf, size_t size_bytes)
{
    memcpy(buf, copy, size_bytes);
    cr__image_put(&cr__worker_here()->images, copy);
}

/* Of one that is away nobody can reach what lies on its stack, and it does not come back before the innermost one has gone on. */
static bool keeps_stack(const struct cr_co *co)
{
    return cr__co_kind(co) == CR_STACK_SHARED && !(cr__co_flags(co) & CR__CO_AWAY);
}

void cr__pin_stacks(const struct cr__worker *worker, const struct cr__record *me)
{
    for (struct cr_co *co = worker->self->current;; co = co->below) {
        if (keeps_stack(co))
            cr__shared_pin(co);
        if (co == &me->co)
            return;
    }
}

void cr__unpin_stacks(const struct cr__worker *worker, const struct cr__record *me)
{
    for (struct cr_co *co = worker->self->current;; co = co->below) {
        if (keeps_stack(co))
            cr__shared_unpin(co);
        if (co == &me->co)
            return;
    }
}
