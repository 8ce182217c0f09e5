/* The process's one reservation of addresses, and the chunks of 256 KiB that slabs are made of. Part of mem.h.
 *
 *     base: | a struct cr__chunk for each chunk | chunk | chunk | ... |
 *
 * What is known of a chunk lies in that table, not in the chunk: heads at the same place of each chunk would compete for one set of the caches, and
 * reading a chunk's head is allowed whatever has become of its memory. Objects in chunks have handles of 32 bits, which
 * are 16 bytes apart, so the reservation ends at 64 GiB. Where that many addresses are not to be had (a limit, an emulator) it is smaller.
 *
 * A chunk serves one kind of memory for good: an object of a kind that is looked at after it was freed (records, connections: by handles, dumps, late
 * events) is then still one of its kind, or reads as zeroes. */
#ifndef CR__CHUNK_H
#define CR__CHUNK_H

#include <stdatomic.h>

#include "base/base.h"

#define CR__CHUNK_BYTES ((size_t)256 << 10)
#define CR__RESERVE_MAX_BYTES ((size_t)64 << 30)
#define CR__HANDLE_STEP_BYTES 16

struct cr__slab;

struct cr__chunk {
    _Atomic(struct cr__slab *) slab; /* whose it is; NULL: nobody's. Others look whether it is theirs */
    char *fresh;                     /* from here on it was never handed out by that slab */
    struct cr__chunk *next;          /* in its slab, or among the free ones */
    uint8_t kind;                    /* of enum cr__mem_kind */
};

struct cr__reserve {
    char *base; /* NULL: nothing has been reserved yet; a multiple of 2 MiB */
    size_t size_bytes;
};
extern struct cr__reserve cr__reserve __attribute__((visibility("hidden")));

/* The entry of the chunk that holds addr; addr must lie in a chunk. */
static inline struct cr__chunk *cr__chunk_of(const void *addr)
{
    return (struct cr__chunk *)(void *)cr__reserve.base + ((size_t)((const char *)addr - cr__reserve.base) / CR__CHUNK_BYTES);
}

static inline char *cr__chunk_begin(const struct cr__chunk *chunk)
{
    return cr__reserve.base + (size_t)(chunk - (struct cr__chunk *)(void *)cr__reserve.base) * CR__CHUNK_BYTES;
}

/* A chunk for a slab, counted, NULL when there is no memory; and back. Any thread. */
struct cr__chunk *cr__chunk_get(struct cr__slab *slab);
void cr__chunk_put(struct cr__chunk *chunk);

/* An object of a slab's, aligned to 16 bytes, as a number that is not 0; and back. */
static inline uint32_t cr__mem_handle(const void *object)
{
    return (uint32_t)((size_t)((const char *)object - cr__reserve.base) / CR__HANDLE_STEP_BYTES);
}

static inline void *cr__mem_at(uint32_t handle)
{
    return cr__reserve.base + (size_t)handle * CR__HANDLE_STEP_BYTES;
}

#endif
