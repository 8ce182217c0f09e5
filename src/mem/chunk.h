/* The process's one reservation of addresses, and the chunks of 256 KiB that slabs are made of. Part of mem.h.
 *
 *     base: | a struct cr__chunk for each chunk | block of 8 chunks | block | ... |
 *
 * What is known of a chunk lies in that table, not in the chunk: heads at the same place of each chunk would compete for one set of the caches, and
 * reading a chunk's entry is allowed whatever has become of its memory. Objects in chunks have handles of 32 bits, which
 * are 16 bytes apart, so the reservation ends at 64 GiB. Where that many addresses are not to be had (a limit, an emulator) it is smaller.
 *
 * A block serves one kind of memory for good: an object of a kind that is looked at after it was freed (records and connections, by handles, dumps, late
 * events) is then still one of its kind, or reads as zeroes.
 *
 * A chunk that no slab wants lies in the depot (chunk.c), warm (its memory is still there) or cold (the kernel has it back). */
#ifndef CR__CHUNK_H
#define CR__CHUNK_H

#include <stdatomic.h>

#include "base/base.h"

#define CR__CHUNK_BYTES ((size_t)256 << 10)
#define CR__RESERVE_MAX_BYTES ((size_t)64 << 30)
#define CR__HANDLE_STEP_BYTES 16
#define CR__DEPOT_KEPT 4 /* warm chunks of each kind, whatever is given back */

struct cr__slab;

enum cr__chunk_place { CR__CHUNK_FREE, CR__CHUNK_CURRENT, CR__CHUNK_PARTIAL, CR__CHUNK_FULL };

struct cr__chunk {
    /* its slab's, or the depot's */
    _Atomic(struct cr__slab *) slab; /* NULL: the depot's. Others look whether it is theirs */
    void *free;                      /* objects, linked through their first words */
    char *fresh;                     /* from here on it was never handed out by that slab */
    struct cr__chunk *next, *prev;   /* in the list that it is in, if it is in one */
    uint32_t used;                   /* objects that are neither in `free` nor fresh */
    uint32_t object_size_bytes;      /* of the last slab's */
    uint8_t kind;                    /* of enum cr__mem_kind */
    uint8_t place;                   /* of enum cr__chunk_place */
    bool cold;                       /* free: without memory */

    /* of a block's first chunk, for the block: the depot's */
    uint8_t block_pages;             /* of enum cr__pages */
    uint8_t block_warm;              /* chunks that are free and warm */
};
_Static_assert(sizeof(struct cr__chunk) <= CR__CACHE_LINE, "the table takes a small part of what it describes");

/* What a block's memory is made of. */
enum cr__pages {
    CR__PAGES_SMALL,
    CR__PAGES_TRANSPARENT, /* huge where the kernel finds some */
    CR__PAGES_HUGETLB      /* huge for sure, from the system's pool */
};

struct cr__reserve {
    char *base; /* NULL: nothing has been reserved yet; a multiple of 2 MiB */
    _Atomic size_t size_bytes; /* 0 until base is there */
    _Atomic uint32_t chunks; /* entries of the table up to here may be in use */
};
extern struct cr__reserve cr__reserve __attribute__((visibility("hidden")));

/* Whether addr lies in it. Any thread, whatever it has done before. */
static inline bool cr__mem_reserved(const void *addr)
{
    size_t size_bytes = atomic_load_explicit(&cr__reserve.size_bytes, memory_order_acquire); /* pairs with the release in reserve_locked */
    return size_bytes > 0 && (uintptr_t)addr - (uintptr_t)cr__reserve.base < size_bytes;
}

static inline struct cr__chunk *cr__chunk_at(uint32_t index)
{
    return (struct cr__chunk *)(void *)cr__reserve.base + index;
}

/* The entry of the chunk that holds addr; addr must lie in a chunk. */
static inline struct cr__chunk *cr__chunk_of(const void *addr)
{
    return (struct cr__chunk *)(void *)cr__reserve.base + ((size_t)((const char *)addr - cr__reserve.base) / CR__CHUNK_BYTES);
}

static inline char *cr__chunk_begin(const struct cr__chunk *chunk)
{
    return cr__reserve.base + (size_t)(chunk - cr__chunk_at(0)) * CR__CHUNK_BYTES;
}

/* A chunk for a slab, counted, NULL when there is no memory; and back. What is in it: zeroes, or what the last slab of its kind left. Any thread. */
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

/* Gives back to the kernel some of what no slab has wanted for a while, at most a slice. Whoever has time calls it, now and then. Returns whether there is
 * more to do at once. cr__depot_restless: whether there will be, if nobody wants it. cr__depot_hurry: all of it is to go with the next ticks, however lately it was wanted; cr__depot_trim gives it back at once.
 * Any thread. */
bool cr__depot_tick(int64_t now_ns);
bool cr__depot_restless(void);
void cr__depot_hurry(void);
void cr__depot_trim(void);

/* For who has reserved addresses of its own (PROT_NONE): makes a block of CR__BLOCK_BYTES accessible, at a multiple of that, of the pages that chunks get once there are several, and counts which. False: no
 * memory, and it is as it was. Any thread. */
#define CR__BLOCK_BYTES ((size_t)2 << 20)
bool cr__block_open(char *block);

/* Bytes of blocks made of such pages; bytes that lie warm in the depot. */
uint64_t cr__mem_pages_bytes(enum cr__pages pages);
uint64_t cr__mem_spare_bytes(void);

#endif
