/* The area of packets, what is fresh of it, and the depot of magazines.
 *
 * The depot's word names the top magazine by its first packet (index + 1; 0: none), and counts up each time it changes: so a pop whose magazine has been taken and brought back
 * meanwhile fails. A magazine is a chain through `next`, its first packet's size_bytes says how long it is, and its `_reserved` names the magazine below. That field alone is
 * looked at by others than who has the packet: a pop that comes too late reads it of a packet that is in use. So it is never written by anybody but who pushes.
 *
 * The lock is for what is fresh, and for making the area: after a while nobody takes it.
 *
 * Rejected: reference counts that are atomic (each hold and put would cost as much as all the rest of a packet's way); giving memory back after a peak (packets have no home, so no
 * block is ever wholly free for long). */
#include "mem/mem.h"

#include <pthread.h>
#include <string.h>

#include "os/os.h"

#ifdef CR__ASAN
#define STRIDE_BYTES ((size_t)2 * CR_PACKET_BYTES)
#else
#define STRIDE_BYTES ((size_t)CR_PACKET_BYTES)
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t bound = CR__PACKETS_DEFAULT; /* this and what follows: under the lock, */
static char *area;                           /* but that is read by who has a packet: it does not change any more */
static size_t area_bytes, open_bytes;

_Atomic uint32_t cr__packets_fresh;  /* packets before this one have been handed out; written under the lock */
_Atomic uint32_t cr__packets_calm = UINT32_MAX; /* while it is not beyond that there is plenty, whatever is in use; written once, with the area */
static _Atomic uint32_t in_depot;    /* packets */
_Alignas(CR__CACHE_LINE) static _Atomic uint64_t depot;

int cr_packets_bound(size_t count)
{
    if (count > CR__PACKETS_MOST)
        return -EINVAL;
    pthread_mutex_lock(&lock);
    int r = area ? -EBUSY : 0;
    if (r == 0)
        bound = count > 0 ? (uint32_t)count : CR__PACKETS_DEFAULT;
    pthread_mutex_unlock(&lock);
    return r;
}

static struct cr_packet *packet_at(uint32_t index)
{
    return (struct cr_packet *)(void *)(area + index * STRIDE_BYTES);
}

/* ---- Fresh packets ------------------------------------------------------------------------------------------ */

static bool reserve_locked(void)
{
    size_t size_bytes = cr__round_up(bound * STRIDE_BYTES, CR__BLOCK_BYTES);
    cr__mem_count_call();
    char *addr = cr__os_map(size_bytes + CR__BLOCK_BYTES, PROT_NONE); /* some more, to be aligned */
    if (!addr)
        return false;
    area = (char *)cr__round_up((uintptr_t)addr, CR__BLOCK_BYTES);
    area_bytes = size_bytes;
    atomic_store_explicit(&cr__packets_calm, bound - bound / 16 * CR__PACKETS_PLENTY, memory_order_relaxed);
    return true;
}

static bool open_block_locked(void)
{
    char *block = area + open_bytes;
    if (open_bytes == area_bytes || !cr__block_open(block))
        return false;
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t);
    __asan_poison_memory_region(block, CR__BLOCK_BYTES);
#endif
    open_bytes += CR__BLOCK_BYTES;
    return true;
}

/* A magazine of them, or what is left, in `free`, which is empty. */
static void take_fresh_locked(struct cr__packet_cache *cache)
{
    uint32_t from = atomic_load_explicit(&cr__packets_fresh, memory_order_relaxed), n = CR__PACKET_MAGAZINE;
    if ((!area && !reserve_locked()) || from == bound)
        return;
    if (from * STRIDE_BYTES == open_bytes && !open_block_locked())
        return;
    size_t open = (open_bytes - from * STRIDE_BYTES) / STRIDE_BYTES;
    n = n < open ? n : (uint32_t)open;
    n = n < bound - from ? n : bound - from;
    for (uint32_t i = n; i-- > 0;) { /* the first one is used first */
        struct cr_packet *packet = packet_at(from + i);
        cr__packet_unpoison(packet);
        packet->_index = from + i;
        packet->next = cache->free;
        cr__packet_poison(packet);
        cache->free = packet;
    }
    cache->free_count = n;
    atomic_store_explicit(&cr__packets_fresh, from + n, memory_order_relaxed);
    cr__mem_count(CR__MEM_PACKETS, n * (size_t)CR_PACKET_BYTES);
}

void *cr__packet_area(size_t *size_bytes)
{
    pthread_mutex_lock(&lock);
    void *there = area || reserve_locked() ? area : NULL;
    *size_bytes = area_bytes;
    pthread_mutex_unlock(&lock);
    return there;
}

/* ---- The depot ---------------------------------------------------------------------------------------------- */

static _Atomic uint32_t *below(struct cr_packet *packet)
{
    return (_Atomic uint32_t *)(void *)&packet->_reserved;
}

static uint64_t word_after(uint64_t word, uint32_t top)
{
    return ((word >> 32) + 1) << 32 | top;
}

static void push(struct cr_packet *first, uint32_t count)
{
    first->size_bytes = (uint16_t)count;
    uint64_t word = atomic_load_explicit(&depot, memory_order_relaxed);
    atomic_fetch_add_explicit(&in_depot, count, memory_order_relaxed);
    do
        atomic_store_explicit(below(first), (uint32_t)word, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&depot, &word, word_after(word, first->_index + 1), memory_order_release, /* pairs with the acquire in pop */
                                                  memory_order_relaxed));
}

static struct cr_packet *pop(uint32_t *count)
{
    /* acquire: what the packets' last users did, and the chain; pairs with the release in push. Also where it fails: the next round looks into another magazine */
    uint64_t word = atomic_load_explicit(&depot, memory_order_acquire);
    struct cr_packet *first;
    do {
        if ((uint32_t)word == 0)
            return NULL;
        first = packet_at((uint32_t)word - 1);
    } while (!atomic_compare_exchange_weak_explicit(&depot, &word, word_after(word, atomic_load_explicit(below(first), memory_order_relaxed)), memory_order_acquire,
                                                    memory_order_acquire));
    *count = first->size_bytes;
    atomic_fetch_sub_explicit(&in_depot, *count, memory_order_relaxed);
    return first;
}

/* ---- Caches ------------------------------------------------------------------------------------------------- */

/* `free` is empty. */
static void refill(struct cr__packet_cache *cache)
{
    cache->free = cache->spare;
    cache->free_count = cache->spare_count;
    cache->spare = NULL;
    cache->spare_count = 0;
    if (!cache->free)
        cache->free = pop(&cache->free_count);
    if (cache->free || cr__mem_fails_by_injection())
        return;
    pthread_mutex_lock(&lock);
    take_fresh_locked(cache);
    pthread_mutex_unlock(&lock);
}

struct cr_packet *cr__packet_get_slow(struct cr__packet_cache *cache)
{
    refill(cache);
    struct cr_packet *packet = cache->free;
    if (packet) {
        cache->free = packet->next;
        cache->free_count--;
    }
    return packet;
}

void cr__packet_turn(struct cr__packet_cache *cache)
{
    if (cache->spare)
        push(cache->spare, cache->spare_count);
    cache->spare = cache->free;
    cache->spare_count = cache->free_count;
    cache->free = NULL;
    cache->free_count = 0;
}

void cr__packet_flush(struct cr__packet_cache *cache)
{
    cr__packet_turn(cache);
    cr__packet_turn(cache);
}

struct cr_packet *cr__packet_copy(struct cr__packet_cache *cache, const struct cr_packet *packet)
{
    struct cr_packet *copy = cr__packet_get(cache);
    if (!copy)
        return NULL;
    copy->data = (unsigned char *)copy + (packet->data - (const unsigned char *)packet);
    copy->size_bytes = packet->size_bytes;
    copy->flags = packet->flags;
    memcpy(copy->data, packet->data, packet->size_bytes);
    return copy;
}

uint64_t cr__packets_in_use(void)
{
    return (uint64_t)atomic_load_explicit(&cr__packets_fresh, memory_order_relaxed) - atomic_load_explicit(&in_depot, memory_order_relaxed);
}

uint32_t cr__packets_left_slow(const struct cr__packet_cache *cache)
{
    uint64_t calm = atomic_load_explicit(&cr__packets_calm, memory_order_relaxed), all = calm * 16 / (16 - CR__PACKETS_PLENTY);
    uint64_t used = cr__packets_in_use() - cache->free_count - cache->spare_count;
    uint32_t left = used < all ? (uint32_t)((all - used) * 16 / all) : 0;
    return left < CR__PACKETS_PLENTY ? left : 16;
}
