#include "mem/mem.h"

#include <string.h>

_Static_assert(sizeof(struct cr__slab_chunk) <= CR__SLAB_HEADER_BYTES, "objects start on a cache line");

void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, enum cr__mem_kind kind)
{
    CR__ASSERT(object_size_bytes % 8 == 0 && object_size_bytes + CR__SLAB_HEADER_BYTES <= CR__SLAB_CHUNK_BYTES);
    *slab = (struct cr__slab){.object_size_bytes = object_size_bytes, .kind = kind};
}

/* The leak checker looks for pointers in objects, too. */
static void leak_check(const struct cr__slab_chunk *chunk, bool begin)
{
#ifdef CR__ASAN
    extern void __lsan_register_root_region(const void *, size_t), __lsan_unregister_root_region(const void *, size_t);
    (begin ? __lsan_register_root_region : __lsan_unregister_root_region)(chunk, CR__SLAB_CHUNK_BYTES);
#else
    (void)chunk;
    (void)begin;
#endif
}

void cr__slab_fini(struct cr__slab *slab)
{
    for (struct cr__slab_chunk *chunk = slab->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
#ifdef CR__ASAN
        extern void __asan_unpoison_memory_region(const volatile void *, size_t);
        __asan_unpoison_memory_region(chunk, CR__SLAB_CHUNK_BYTES);
#endif
        leak_check(chunk, false);
        cr__mem_unmap(chunk, CR__SLAB_CHUNK_BYTES, slab->kind);
    }
    memset(slab, 0, sizeof(*slab));
}

static bool take_returned(struct cr__slab *slab)
{
    /* acquire: what those who freed them did before; pairs with the release in cr__slab_flush */
    slab->free = atomic_exchange_explicit(&slab->returned, NULL, memory_order_acquire);
    return slab->free != NULL;
}

static bool chunk_add(struct cr__slab *slab)
{
    struct cr__slab_chunk *chunk = cr__mem_map_aligned(CR__SLAB_CHUNK_BYTES, slab->kind);
    if (!chunk)
        return false;
    if (slab->chunks)
        slab->chunks->used_end = slab->fresh;
    leak_check(chunk, true);
    chunk->next = slab->chunks;
    chunk->slab = slab;
    slab->chunks = chunk;
    slab->fresh = (char *)chunk + CR__SLAB_HEADER_BYTES;
    slab->end = (char *)chunk + CR__SLAB_CHUNK_BYTES;
    return true;
}

void *cr__slab_get_slow(struct cr__slab *slab)
{
    if (atomic_load_explicit(&slab->returned, memory_order_relaxed) && take_returned(slab))
        return cr__slab_get(slab);
    if ((size_t)(slab->end - slab->fresh) < slab->object_size_bytes && !chunk_add(slab))
        return NULL;
    void *object = slab->fresh;
    slab->fresh += slab->object_size_bytes;
    return object;
}

void cr__slab_put_away(struct cr__slab *slab, struct cr__slab *home, void *object)
{
    if (slab->away_home != home || slab->away_count == CR__SLAB_AWAY_MAX)
        cr__slab_flush(slab);
    if (!slab->away_first)
        slab->away_last = object;
    *(void **)object = slab->away_first;
    slab->away_first = object;
    slab->away_home = home;
    slab->away_count++;
}

void cr__slab_flush(struct cr__slab *slab)
{
    if (!slab->away_first)
        return;
    _Atomic(void *) *returned = &slab->away_home->returned;
    void *first = atomic_load_explicit(returned, memory_order_relaxed);
    do
        *(void **)slab->away_last = first; /* no ABA: chains are only ever taken whole */
    while (!atomic_compare_exchange_weak_explicit(returned, &first, slab->away_first, memory_order_release, memory_order_relaxed));
    slab->away_first = slab->away_last = NULL;
    slab->away_count = 0;
}

void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg)
{
    for (struct cr__slab_chunk *chunk = slab->chunks; chunk; chunk = chunk->next) {
        char *end = chunk == slab->chunks ? slab->fresh : chunk->used_end;
        for (char *object = (char *)chunk + CR__SLAB_HEADER_BYTES; object < end; object += slab->object_size_bytes)
            fn(object, arg);
    }
}
