/* Buffers that data is received into and that are lent to users. Each poller has a slab of them; who frees one that is another worker's sends it
 * home (mem.h).
 *
 * They are an odd number of cache lines long, so that their first lines, which most messages fit in, spread over the caches' sets. */
#ifndef CR__BUFFER_H
#define CR__BUFFER_H

#include "mem/mem.h"

#define CR__BUFFER_BYTES (16u << 10)

enum cr__buffer_state { CR__HELD_BACK, CR__LENT };

struct cr__buffer {
    struct cr__buffer *next; /* in the ring of its pollable's: the newest's next is the oldest */
    uint16_t at, end;        /* what has not been taken yet */
    uint8_t state;           /* of enum cr__buffer_state */
    char bytes[CR__BUFFER_BYTES + CR__CACHE_LINE - 16] __attribute__((aligned(16)));
};
_Static_assert(sizeof(struct cr__buffer) == CR__BUFFER_BYTES + CR__CACHE_LINE, "an odd number of lines");

struct cr__buffers {
    struct cr__slab slab;
    _Atomic unsigned out; /* of this slab's, in use */
};

static inline struct cr__buffer *cr__buffer_get(struct cr__buffers *buffers)
{
    struct cr__buffer *buffer = cr__slab_get(&buffers->slab);
    if (CR__LIKELY(buffer != NULL))
        atomic_fetch_add_explicit(&buffers->out, 1, memory_order_relaxed);
    return buffer;
}

/* From any worker; `buffers` is the calling one's. */
static inline void cr__buffer_put(struct cr__buffers *buffers, struct cr__buffer *buffer)
{
    struct cr__buffers *home = CR__CONTAINER(cr__slab_of(buffer), struct cr__buffers, slab);
    atomic_fetch_sub_explicit(&home->out, 1, memory_order_relaxed);
    cr__slab_put(&buffers->slab, buffer);
}

#endif
