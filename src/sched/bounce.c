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
