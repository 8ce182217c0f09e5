/* Memory that crore manages itself: mapped regions and slabs of equal objects, with bytes counted by kind. What
 * applications allocate stays malloc's.
 *
 * (Stacks are in stack.h, on top of regions.) */
#ifndef CR__MEM_H
#define CR__MEM_H

#include <stdatomic.h>

#include "base/base.h"

enum cr__mem_kind {
    CR__MEM_RECORDS,
    CR__MEM_FRAMES, /* of tasks, with their records */
    CR__MEM_STACKS,
    CR__MEM_CONNS,
    CR__MEM_BUFFERS,
    CR__MEM_OTHER,
    CR__MEM_KINDS
};

/* Maps zeroed, page-aligned memory, and counts it. NULL when there is none. Any thread. */
void *cr__mem_map(size_t size_bytes, enum cr__mem_kind kind);
void *cr__mem_map_aligned(size_t size_bytes, enum cr__mem_kind kind); /* to its size, a power of two */
void cr__mem_unmap(void *addr, size_t size_bytes, enum cr__mem_kind kind);

/* madvise and mprotect on such memory; counted as kernel calls. 0 or -errno. */
int cr__mem_advise(void *addr, size_t size_bytes, int advice);
int cr__mem_protect(void *addr, size_t size_bytes, int protection);

/* Small objects of which there are few, from malloc, zeroed and counted. NULL when there is no memory. */
void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind);
void *cr__mem_alloc_aligned(size_t size_bytes, enum cr__mem_kind kind); /* on a cache line */
void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind);

uint64_t cr__mem_bytes(enum cr__mem_kind kind);
uint64_t cr__mem_kernel_calls(void);

/* Fault injection for tests: the n-th allocation from now on (1: the next), and all after it, fail; 0: none. Counts mappings
 * and cr__mem_alloc. Any thread. */
void cr__mem_fail_after(unsigned n);

/* Equal objects, cut from chunks; freed ones are reused last in, first out. A slab belongs to one worker, which alone takes from it. What another worker
 * frees goes home to the slab that it came from: chunks are aligned, so an object's address leads to its chunk's head, and that to the slab.
 * Objects on their way home are gathered and sent as chains, so that a producer and a consumer on two workers do not fight for a line each time. */
#define CR__SLAB_CHUNK_BYTES ((size_t)256 << 10)
#define CR__SLAB_HEADER_BYTES CR__CACHE_LINE /* objects start on a cache line */
#define CR__SLAB_AWAY_MAX 32
#define CR__SLAB_READABLE_BYTES (3 * CR__CACHE_LINE) /* of a freed object, under ASan */

struct cr__slab_chunk {
    struct cr__slab_chunk *next;
    struct cr__slab *slab;
    char *used_end; /* objects lie between the header and here; of the newest chunk, slab->fresh says it */
};

struct cr__slab {
    /* its owner's alone */
    void *free;          /* linked through each object's first word */
    char *fresh, *end;   /* the rest of the newest chunk, never handed out yet */
    struct cr__slab_chunk *chunks;
    uint32_t object_size_bytes;
    enum cr__mem_kind kind;

    /* objects of another slab that its owner has freed: a chain that has not been sent yet */
    struct cr__slab *away_home;
    void *away_first, *away_last;
    unsigned away_count;

    /* what others have sent: multi producer (chains), single consumer (all at once) */
    _Alignas(CR__CACHE_LINE) _Atomic(void *) returned;
};

/* object_size_bytes: a multiple of 8. Objects are aligned to 16, or 64, bytes where their size is. */
void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, enum cr__mem_kind kind);

/* Unmaps all chunks; objects still in use are gone with them. Nobody may send any more. */
void cr__slab_fini(struct cr__slab *slab);

CR__COLD void *cr__slab_get_slow(struct cr__slab *slab);
void cr__slab_put_away(struct cr__slab *slab, struct cr__slab *home, void *object);

/* Sends what is gathered. Its owner calls it before it sleeps, and now and then. */
void cr__slab_flush(struct cr__slab *slab);

static inline struct cr__slab *cr__slab_of(const void *object)
{
    return ((const struct cr__slab_chunk *)((uintptr_t)object & ~(CR__SLAB_CHUNK_BYTES - 1)))->slab;
}

static inline void cr__slab_poison(const struct cr__slab *slab, void *object)
{
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t);
    /* the first lines stay readable: they hold the link, and what cr__slab_each tells the dead by */
    if (slab->object_size_bytes > CR__SLAB_READABLE_BYTES)
        __asan_poison_memory_region((char *)object + CR__SLAB_READABLE_BYTES, slab->object_size_bytes - CR__SLAB_READABLE_BYTES);
#else
    (void)slab;
    (void)object;
#endif
}

static inline void cr__slab_unpoison(const struct cr__slab *slab, void *object)
{
#ifdef CR__ASAN
    extern void __asan_unpoison_memory_region(const volatile void *, size_t);
    __asan_unpoison_memory_region(object, slab->object_size_bytes);
#else
    (void)slab;
    (void)object;
#endif
}

/* An object with whatever its last user left in it, zeroed if it is new. NULL when there is no memory. */
static inline void *cr__slab_get(struct cr__slab *slab)
{
    void *object = slab->free;
    if (CR__UNLIKELY(!object))
        return cr__slab_get_slow(slab);
    cr__slab_unpoison(slab, object);
    slab->free = *(void **)object;
    return object;
}

/* Frees an object, of this slab or of another worker's of the same kind. */
static inline void cr__slab_put(struct cr__slab *slab, void *object)
{
    struct cr__slab *home = cr__slab_of(object);
    cr__slab_poison(slab, object);
    if (CR__UNLIKELY(home != slab)) {
        cr__slab_put_away(slab, home, object);
        return;
    }
    *(void **)object = slab->free;
    slab->free = object;
}

/* Calls fn for each object that was ever handed out, freed ones included: the caller must tell them apart. */
void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg);

#endif
