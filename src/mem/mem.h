/* Memory that crore manages itself: mapped regions and slabs of equal objects, with bytes counted by kind. What
 * applications allocate stays malloc's.
 *
 * A slab serves one worker: it has no lock. (Stacks are in stack.h, on top of regions.) */
#ifndef CR__MEM_H
#define CR__MEM_H

#include "base/base.h"

enum cr__mem_kind {
    CR__MEM_RECORDS,
    CR__MEM_STACKS,
    CR__MEM_CONNS,
    CR__MEM_BUFFERS,
    CR__MEM_OTHER,
    CR__MEM_KINDS
};

/* Maps zeroed, page-aligned memory, and counts it. NULL when there is none. Any thread. */
void *cr__mem_map(size_t size_bytes, enum cr__mem_kind kind);
void cr__mem_unmap(void *addr, size_t size_bytes, enum cr__mem_kind kind);

/* madvise and mprotect on such memory; counted as kernel calls. 0 or -errno. */
int cr__mem_advise(void *addr, size_t size_bytes, int advice);
int cr__mem_protect(void *addr, size_t size_bytes, int protection);

/* Small objects of which there are few, from malloc, zeroed and counted. NULL when there is no memory. */
void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind);
void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind);

uint64_t cr__mem_bytes(enum cr__mem_kind kind);
uint64_t cr__mem_kernel_calls(void);

/* Fault injection for tests: the n-th allocation from now on (1: the next), and all after it, fail; 0: none. Counts mappings
 * and cr__mem_alloc. Any thread. */
void cr__mem_fail_after(unsigned n);

/* Equal objects, cut from chunks; freed ones are reused last in, first out. */
struct cr__slab {
    void *free;          /* linked through each object's first word */
    char *fresh, *end;   /* the rest of the newest chunk, never handed out yet */
    struct cr__slab_chunk *chunks;
    uint32_t object_size_bytes;
    uint32_t chunk_size_bytes;
    enum cr__mem_kind kind;
};

/* object_size_bytes: a multiple of 16. Objects are aligned to 64 bytes where their size is. */
void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, uint32_t chunk_size_bytes, enum cr__mem_kind kind);

/* Unmaps all chunks; objects still in use are gone with them. */
void cr__slab_fini(struct cr__slab *slab);

CR__COLD void *cr__slab_get_slow(struct cr__slab *slab);

/* An object with whatever its last user left in it, zeroed if it is new. NULL when there is no memory. */
static inline void *cr__slab_get(struct cr__slab *slab)
{
    void *object = slab->free;
    if (CR__UNLIKELY(!object))
        return cr__slab_get_slow(slab);
#ifdef CR__ASAN
    extern void __asan_unpoison_memory_region(const volatile void *, size_t);
    __asan_unpoison_memory_region(object, slab->object_size_bytes);
#endif
    slab->free = *(void **)object;
    return object;
}

static inline void cr__slab_put(struct cr__slab *slab, void *object)
{
    *(void **)object = slab->free;
    slab->free = object;
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t);
    /* the first cache line stays readable: it holds the link, and what cr__slab_each tells the dead by */
    if (slab->object_size_bytes > CR__CACHE_LINE)
        __asan_poison_memory_region((char *)object + CR__CACHE_LINE, slab->object_size_bytes - CR__CACHE_LINE);
#endif
}

/* Calls fn for each object that was ever handed out, freed ones included: the caller must tell them apart. */
void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg);

#endif
