/* Packet buffers: one area for the process, cut into packets of 2,048 bytes (crore/packet.h), which AF_XDP can be given as a whole. Part of mem.h.
 *
 * Each worker has a cache, two magazines as a slab has; full ones go to a depot that all share, which is a stack of magazines behind one word (index and version: compare-and-swap,
 * no lock), and come from there. What another worker puts stays with that one's cache: packets have no home. The area is reserved whole and touched from its beginning, as far as
 * packets were ever in use at once.
 *
 *     get: cache < depot < fresh        put: cache > depot
 *
 * A reference count is no atomic: a packet with more than one reference stays with its worker. Of one that is free it is 0, so that putting it twice, or holding what has been put,
 * is found out.
 *
 * Under ASan a free packet is poisoned but for the part of its head that links it and tells that it is free; and only every second place of the area is used, so there is a gap
 * between packets. */
#ifndef CR__PACKET_H
#define CR__PACKET_H

#include <crore/packet.h>

#include "base/base.h"

#define CR__PACKETS_DEFAULT 131072
#define CR__PACKETS_MOST ((size_t)1 << 24)
#ifndef CR__PACKET_MAGAZINE /* the model has small ones */
#define CR__PACKET_MAGAZINE 64
#endif
#define CR__PACKET_READABLE_FROM 8 /* of a free packet, under ASan: next, the reference count and what is between and behind */
#define CR__PACKET_READABLE_TO 32

_Static_assert(sizeof(struct cr_packet) == CR_PACKET_HEAD_BYTES, "the head is a cache line");
_Static_assert(offsetof(struct cr_packet, next) == CR__PACKET_READABLE_FROM && offsetof(struct cr_packet, own) == CR__PACKET_READABLE_TO, "what ASan leaves");

struct cr__packet_cache {
    struct cr_packet *free, *spare; /* chains of at most CR__PACKET_MAGAZINE; spare: as `free` was when it was full, or came from the depot; or empty */
    uint32_t free_count, spare_count;
};

CR__COLD struct cr_packet *cr__packet_get_slow(struct cr__packet_cache *cache);
CR__COLD void cr__packet_turn(struct cr__packet_cache *cache); /* `free` is full: room is made */

static inline void cr__packet_poison(struct cr_packet *packet)
{
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t);
    __asan_poison_memory_region(packet, CR__PACKET_READABLE_FROM);
    __asan_poison_memory_region((char *)packet + CR__PACKET_READABLE_TO, CR_PACKET_BYTES - CR__PACKET_READABLE_TO);
#else
    (void)packet;
#endif
}

static inline void cr__packet_unpoison(struct cr_packet *packet)
{
#ifdef CR__ASAN
    extern void __asan_unpoison_memory_region(const volatile void *, size_t);
    __asan_unpoison_memory_region(packet, CR_PACKET_BYTES);
#else
    (void)packet;
#endif
}

/* As cr_packet_get, cr_packet_put and cr_packet_copy, from and into that cache. */
static inline struct cr_packet *cr__packet_get(struct cr__packet_cache *cache)
{
    struct cr_packet *packet = cache->free;
    if (CR__UNLIKELY(!packet)) {
        packet = cr__packet_get_slow(cache);
        if (!packet)
            return NULL;
    } else {
        cache->free = packet->next;
        cache->free_count--;
    }
    CR__ASSERT(packet->_references == 0);
    cr__packet_unpoison(packet);
    packet->data = (unsigned char *)packet + CR_PACKET_HEAD_BYTES + CR_PACKET_FRONT_BYTES;
    packet->next = NULL;
    packet->size_bytes = 0;
    packet->flags = 0;
    packet->_references = 1;
    return packet;
}

static inline struct cr_packet *cr__packet_hold(struct cr_packet *packet)
{
    CR__ASSERT(packet->_references > 0 && packet->_references < UINT32_MAX); /* free, or held without end */
    packet->_references++;
    return packet;
}

static inline void cr__packet_put(struct cr__packet_cache *cache, struct cr_packet *packet)
{
    if (CR__UNLIKELY(!packet))
        return;
    CR__ASSERT(packet->_references > 0); /* else it has been put already */
    if (--packet->_references > 0)
        return;
    cr__packet_poison(packet);
    if (CR__UNLIKELY(cache->free_count == CR__PACKET_MAGAZINE)) /* before, not after: so one that is taken and put again at the border turns no magazine */
        cr__packet_turn(cache);
    packet->next = cache->free;
    cache->free = packet;
    cache->free_count++;
}

struct cr_packet *cr__packet_copy(struct cr__packet_cache *cache, const struct cr_packet *packet);

/* Gives all that the cache holds to the depot. */
void cr__packet_flush(struct cr__packet_cache *cache);

/* Where the area lies, for who registers it, as links by AF_XDP will (later: nobody does yet); size_bytes is what is reserved. NULL: no memory. */
void *cr__packet_area(size_t *size_bytes);

/* How many sixteenths of all that there may be are left to who has that cache: 16 until less than CR__PACKETS_PLENTY are, for then nobody needs to know. What other workers' caches hold counts as used; they give it
 * up before they sleep while packets are scarce. It is what those who keep packets for long go by: the more that can wait, the earlier it has to, so that there are always some for what lets others go
 * (net/tcp/tcp.h, CR__LEFT_...). */
#define CR__PACKETS_PLENTY 6
extern _Atomic uint32_t cr__packets_fresh, cr__packets_calm;
CR__COLD uint32_t cr__packets_left_slow(const struct cr__packet_cache *cache);
static inline uint32_t cr__packets_left(const struct cr__packet_cache *cache)
{
    bool calm = atomic_load_explicit(&cr__packets_fresh, memory_order_relaxed) <= atomic_load_explicit(&cr__packets_calm, memory_order_relaxed);
    return CR__LIKELY(calm) ? 16 : cr__packets_left_slow(cache);
}

/* How many are in use: neither free nor fresh. Exact while nobody gets or puts and all caches have been flushed. */
uint64_t cr__packets_in_use(void);

#endif
