#include "mem/mem.h"

#include <string.h>

#define STIR_LOOKS 2
#define SLICE_OBJECTS 2048 /* that are put into their chunks at once */

/* Between two objects, under ASan; so long that their alignment stays what it is. */
static uint32_t gap_of(uint32_t object_size_bytes)
{
#ifdef CR__ASAN
    uint32_t alignment = object_size_bytes & -object_size_bytes, gap = alignment < CR__CACHE_LINE ? alignment : CR__CACHE_LINE;
    return 2 * (object_size_bytes + gap) <= CR__CHUNK_BYTES ? gap : 0;
#else
    (void)object_size_bytes;
    return 0;
#endif
}

void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, enum cr__mem_kind kind)
{
    CR__ASSERT(object_size_bytes % 8 == 0 && object_size_bytes > 0 && object_size_bytes <= CR__SLAB_OBJECT_MAX_BYTES);
    size_t fit = CR__SLAB_MAGAZINE_BYTES / object_size_bytes;
    *slab = (struct cr__slab){
        .object_size_bytes = object_size_bytes,
        .stride_bytes = object_size_bytes + gap_of(object_size_bytes),
        .free_max = fit < 2 ? 2 : fit > CR__SLAB_MAGAZINE_MAX ? CR__SLAB_MAGAZINE_MAX : (uint32_t)fit,
        .kind = kind,
    };
}

/* The leak checker looks for pointers in objects, too. Of records and connections heads are looked at whenever: they are poisoned only from when they were freed. */
static void sanitize(const struct cr__slab *slab, const struct cr__chunk *chunk, bool begin)
{
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t), __asan_unpoison_memory_region(const volatile void *, size_t);
    extern void __lsan_register_root_region(const void *, size_t), __lsan_unregister_root_region(const void *, size_t);
    bool heads = slab->kind == CR__MEM_RECORDS || slab->kind == CR__MEM_CONNS;
    char *from = cr__chunk_begin(chunk);
    (begin ? __lsan_register_root_region : __lsan_unregister_root_region)(from, CR__CHUNK_BYTES);
    (begin && !heads ? __asan_poison_memory_region : __asan_unpoison_memory_region)(from, CR__CHUNK_BYTES);
    for (char *at = from; begin && heads && at + slab->stride_bytes <= from + CR__CHUNK_BYTES; at += slab->stride_bytes)
        __asan_poison_memory_region(at + slab->object_size_bytes, slab->stride_bytes - slab->object_size_bytes);
#else
    (void)slab;
    (void)chunk;
    (void)begin;
#endif
}

/* ---- Chunks ------------------------------------------------------------------------------------------------- */

static void give_up(struct cr__slab *slab, struct cr__chunk *chunk)
{
    sanitize(slab, chunk, false);
    cr__chunk_put(chunk);
}

static bool has_fresh(const struct cr__slab *slab, const struct cr__chunk *chunk)
{
    return (size_t)(cr__chunk_begin(chunk) + CR__CHUNK_BYTES - chunk->fresh) >= slab->stride_bytes;
}

static void partial_add(struct cr__slab *slab, struct cr__chunk *chunk)
{
    chunk->place = CR__CHUNK_PARTIAL;
    chunk->prev = NULL;
    chunk->next = slab->partial;
    if (chunk->next)
        chunk->next->prev = chunk;
    slab->partial = chunk;
}

static void partial_remove(struct cr__slab *slab, struct cr__chunk *chunk)
{
    if (chunk->prev)
        chunk->prev->next = chunk->next;
    else
        slab->partial = chunk->next;
    if (chunk->next)
        chunk->next->prev = chunk->prev;
}

static void object_back(struct cr__slab *slab, void *object)
{
    struct cr__chunk *chunk = cr__chunk_of(object);
    *(void **)object = chunk->free;
    chunk->free = object;
    CR__ASSERT(chunk->used > 0);
    chunk->used--;
    if (chunk->place == CR__CHUNK_FULL)
        partial_add(slab, chunk);
    if (chunk->used == 0 && chunk->place == CR__CHUNK_PARTIAL) {
        partial_remove(slab, chunk);
        give_up(slab, chunk);
    }
}

/* Up to `most` objects of a chain, into their chunks. Returns the rest. */
static void *chain_back(struct cr__slab *slab, void *object, unsigned most)
{
    for (; object && most > 0; most--) {
        void *next = *(void **)object;
        object_back(slab, object);
        object = next;
    }
    return object;
}

/* The next chunk to take from: one in use, else one of the depot's. */
static bool chunk_next(struct cr__slab *slab)
{
    struct cr__chunk *chunk = slab->partial;
    if (chunk) {
        partial_remove(slab, chunk);
    } else {
        chunk = cr__chunk_get(slab);
        if (!chunk)
            return false;
        sanitize(slab, chunk, true);
    }
    if (slab->current)
        slab->current->place = CR__CHUNK_FULL;
    chunk->place = CR__CHUNK_CURRENT;
    slab->current = chunk;
    return true;
}

/* ---- Magazines ---------------------------------------------------------------------------------------------- */

/* From a chain into the empty magazine. Returns the rest. */
static void *load(struct cr__slab *slab, void *chain)
{
    void *last = chain;
    slab->free = chain;
    for (slab->free_count = 1; slab->free_count < slab->free_max && *(void **)last; slab->free_count++)
        last = *(void **)last;
    void *rest = *(void **)last;
    *(void **)last = NULL;
    return rest;
}

static void take_returned(struct cr__slab *slab)
{
    /* acquire: what those who freed them did before; pairs with the release in cr__slab_flush */
    if (!slab->arrived && atomic_load_explicit(&slab->returned, memory_order_relaxed))
        slab->arrived = atomic_exchange_explicit(&slab->returned, NULL, memory_order_acquire);
}

static void *get_fresh(struct cr__slab *slab)
{
    struct cr__chunk *chunk = slab->current;
    void *object = chunk->fresh;
    chunk->fresh += slab->stride_bytes;
    chunk->used++;
    return object;
}

/* The magazine is empty. Fills it; or returns a fresh object, which nothing has to be read of; or NULL. */
static void *refill(struct cr__slab *slab)
{
    take_returned(slab);
    if (slab->arrived) {
        slab->arrived = load(slab, slab->arrived);
        return NULL;
    }
    if (slab->current && !slab->current->free && slab->partial && !has_fresh(slab, slab->current))
        chunk_next(slab);
    if (slab->current && slab->current->free) {
        slab->current->free = load(slab, slab->current->free);
        slab->current->used += slab->free_count;
        return NULL;
    }
    if ((slab->current && has_fresh(slab, slab->current)) || chunk_next(slab))
        return slab->current->free ? refill(slab) : get_fresh(slab);
    return NULL;
}

void *cr__slab_get_slow(struct cr__slab *slab)
{
    void *object = NULL;
    slab->stir = STIR_LOOKS;
    if (slab->spare) {
        slab->free = slab->spare;
        slab->free_count = slab->free_max;
        slab->spare = NULL;
    } else {
        object = refill(slab);
    }
    if (object) {
        cr__slab_unpoison(slab, object);
        return object;
    }
    return slab->free ? cr__slab_get(slab) : NULL;
}

/* The full magazine becomes the spare one, whose objects go into their chunks. */
void cr__slab_turn(struct cr__slab *slab)
{
    slab->stir = STIR_LOOKS;
    chain_back(slab, slab->spare, slab->free_max);
    slab->spare = slab->free;
    slab->free = NULL;
    slab->free_count = 0;
}

/* ---- Going home --------------------------------------------------------------------------------------------- */

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

/* ---- Shrinking ---------------------------------------------------------------------------------------------- */

/* What lies in the magazines goes back; so does the current chunk, if nothing of it is in use. */
static void empty_magazines(struct cr__slab *slab)
{
    chain_back(slab, slab->free, UINT32_MAX);
    chain_back(slab, slab->spare, UINT32_MAX);
    slab->free = slab->spare = NULL;
    slab->free_count = 0;
    if (slab->current && slab->current->used == 0) {
        give_up(slab, slab->current);
        slab->current = NULL;
    }
}

void cr__slab_look(struct cr__slab *slab)
{
    if (slab->stir > 0 && --slab->stir == 0)
        empty_magazines(slab);
}

bool cr__slab_shrink(struct cr__slab *slab)
{
    take_returned(slab);
    slab->arrived = chain_back(slab, slab->arrived, SLICE_OBJECTS);
    return slab->arrived != NULL;
}

void cr__slab_trim(struct cr__slab *slab)
{
    for (take_returned(slab); slab->arrived; take_returned(slab))
        slab->arrived = chain_back(slab, slab->arrived, UINT32_MAX);
    empty_magazines(slab);
}

/* ---- All objects -------------------------------------------------------------------------------------------- */

static uint32_t chunks_end(void)
{
    return atomic_load_explicit(&cr__reserve.chunks, memory_order_acquire); /* pairs with the release in chunk.c */
}

/* The slab's next chunk from that index on, itself included; NULL: none. */
static struct cr__chunk *own_chunk(const struct cr__slab *slab, uint32_t *index, uint32_t end)
{
    for (; *index < end; ++*index) {
        struct cr__chunk *chunk = cr__chunk_at(*index);
        if (atomic_load_explicit(&chunk->slab, memory_order_relaxed) == slab)
            return chunk;
    }
    return NULL;
}

void *cr__slab_walk(const struct cr__slab *slab, struct cr__slab_walk *walk)
{
    uint32_t before = walk->chunk;
    struct cr__chunk *chunk;
    if (walk->end == 0)
        walk->end = chunks_end();
    while ((chunk = own_chunk(slab, &walk->chunk, walk->end)) != NULL) {
        if (walk->chunk != before || !walk->at)
            walk->at = cr__chunk_begin(chunk);
        if (walk->at < chunk->fresh) {
            walk->at += slab->stride_bytes;
            return walk->at - slab->stride_bytes;
        }
        walk->at = NULL;
        walk->chunk++;
    }
    return NULL;
}

void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg)
{
    struct cr__slab_walk walk = {0};
    for (void *object; (object = cr__slab_walk(slab, &walk)) != NULL;)
        fn(object, arg);
}

void cr__slab_fini(struct cr__slab *slab)
{
    uint32_t index = 0, end = chunks_end();
    for (struct cr__chunk *chunk; (chunk = own_chunk(slab, &index, end)) != NULL;)
        give_up(slab, chunk);
    memset(slab, 0, sizeof(*slab));
}
