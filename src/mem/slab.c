#include "mem/mem.h"

#include <string.h>

struct cr__slab_chunk {
    struct cr__slab_chunk *next;
    char *used_end; /* objects lie between the header and here; of the newest chunk, slab->fresh says it */
};

#define HEADER_BYTES CR__CACHE_LINE
_Static_assert(sizeof(struct cr__slab_chunk) <= HEADER_BYTES, "objects start on a cache line");

void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, uint32_t chunk_size_bytes, enum cr__mem_kind kind)
{
    CR__ASSERT(object_size_bytes % 16 == 0 && object_size_bytes + HEADER_BYTES <= chunk_size_bytes);
    *slab = (struct cr__slab){.object_size_bytes = object_size_bytes, .chunk_size_bytes = chunk_size_bytes, .kind = kind};
}

void cr__slab_fini(struct cr__slab *slab)
{
    for (struct cr__slab_chunk *chunk = slab->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
#ifdef CR__ASAN
        extern void __asan_unpoison_memory_region(const volatile void *, size_t);
        __asan_unpoison_memory_region(chunk, slab->chunk_size_bytes);
#endif
        cr__mem_unmap(chunk, slab->chunk_size_bytes, slab->kind);
    }
    memset(slab, 0, sizeof(*slab));
}

void *cr__slab_get_slow(struct cr__slab *slab)
{
    if ((size_t)(slab->end - slab->fresh) < slab->object_size_bytes) {
        struct cr__slab_chunk *chunk = cr__mem_map(slab->chunk_size_bytes, slab->kind);
        if (!chunk)
            return NULL;
        if (slab->chunks)
            slab->chunks->used_end = slab->fresh;
        chunk->next = slab->chunks;
        slab->chunks = chunk;
        slab->fresh = (char *)chunk + HEADER_BYTES;
        slab->end = (char *)chunk + slab->chunk_size_bytes;
    }
    void *object = slab->fresh;
    slab->fresh += slab->object_size_bytes;
    return object;
}

void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg)
{
    for (struct cr__slab_chunk *chunk = slab->chunks; chunk; chunk = chunk->next) {
        char *end = chunk == slab->chunks ? slab->fresh : chunk->used_end;
        for (char *object = (char *)chunk + HEADER_BYTES; object < end; object += slab->object_size_bytes)
            fn(object, arg);
    }
}
