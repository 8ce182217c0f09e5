/* A ring of packets from one worker to another. Single producer, single consumer; each keeps what it last saw of the other's index, so it looks at the other's line only when that
 * is used up.
 *
 * What is written: each slot, then `tail`, once for a batch (release); the consumer reads `tail` (acquire), the slots, then writes `head` (release), and the producer reads that
 * (acquire) before it writes the slots anew. So a packet, and what it carries, is handed over whole. */
#ifndef CR__RING_H
#define CR__RING_H

#include <stdatomic.h>

#include <crore/packet.h>

#include "base/base.h"

#ifndef CR__RING_SLOTS /* the model has a small one */
#define CR__RING_SLOTS 1024u
#endif

struct cr__ring {
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t tail; /* the producer's */
    uint32_t head_seen;
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t head; /* the consumer's */
    uint32_t tail_seen;
    _Alignas(CR__CACHE_LINE) struct cr_packet *slots[CR__RING_SLOTS];
};
_Static_assert((CR__RING_SLOTS & (CR__RING_SLOTS - 1)) == 0, "indices wrap");

/* By the producer: how many slots are free, as far as `wanted` matters. */
static inline unsigned cr__ring_room(struct cr__ring *ring, unsigned wanted)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (CR__UNLIKELY(CR__RING_SLOTS - (tail - ring->head_seen) < wanted))
        ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire); /* pairs with the release in pop */
    return CR__RING_SLOTS - (tail - ring->head_seen);
}

/* By the producer: the i-th slot that is free, and that the first n of them are filled. */
static inline struct cr_packet **cr__ring_slot(struct cr__ring *ring, unsigned i)
{
    return &ring->slots[(atomic_load_explicit(&ring->tail, memory_order_relaxed) + i) % CR__RING_SLOTS];
}

static inline void cr__ring_publish(struct cr__ring *ring, unsigned n)
{
    atomic_store_explicit(&ring->tail, atomic_load_explicit(&ring->tail, memory_order_relaxed) + n, memory_order_release); /* pairs with the acquire in cr__ring_empty */
}

/* By the consumer. */
static inline bool cr__ring_empty(struct cr__ring *ring)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (ring->tail_seen == head)
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire); /* pairs with the release in publish */
    return ring->tail_seen == head;
}

/* By the consumer: takes up to `most`. */
static inline unsigned cr__ring_pop(struct cr__ring *ring, struct cr_packet **packets, unsigned most)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (ring->tail_seen - head < most)
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire); /* pairs with the release in publish */
    unsigned n = ring->tail_seen - head;
    n = n < most ? n : most;
    for (unsigned i = 0; i < n; i++)
        packets[i] = ring->slots[(head + i) % CR__RING_SLOTS];
    atomic_store_explicit(&ring->head, head + n, memory_order_release); /* pairs with the acquire in room */
    return n;
}

#endif
