/* Slabs: equal objects, cut from chunks. Part of mem.h.
 *
 * A slab belongs to one worker, which alone takes from it. What another worker frees goes home to the slab that it came from: an object's address leads
 * to its chunk, and that to the slab. Objects on their way home are gathered and sent as chains, so that a producer and a consumer on two workers do not
 * fight for a line each time.
 *
 * What is freed is reused last in, first out, from one of two small lists, the magazines (Bonwick and Adams 2001). Only what these can't hold or
 * give goes to, or comes from, the chunks: each has a list of its free objects, and counts the others. So a chunk of which nothing is in use is known at
 * once, and goes to the depot.
 *
 *     get: `free` < `spare` < `arrived` < chunk `current` < the chunks in `partial` < fresh objects < the depot
 *     put: `free` > `spare` > its chunk > if that is empty: the depot
 *
 * Under ASan freed objects are poisoned, but for a head, in which the link is, and what cr__slab_each and late looks tell the dead by; and there is a
 * gap between objects. */
#ifndef CR__SLAB_H
#define CR__SLAB_H

#include <stdatomic.h>

#include "mem/chunk.h"

#define CR__SLAB_OBJECT_MAX_BYTES CR__CHUNK_BYTES
#define CR__SLAB_MAGAZINE_MAX 256
#define CR__SLAB_MAGAZINE_BYTES ((size_t)64 << 10) /* of large objects it holds fewer, but two */
#define CR__SLAB_AWAY_MAX 32
#define CR__SLAB_READABLE_BYTES (3 * CR__CACHE_LINE) /* of a freed object, under ASan */

struct cr__slab {
    /* its owner's alone */
    void *free;           /* the first magazine, linked through each object's first word */
    uint32_t free_count;
    uint32_t free_max;
    void *spare;          /* the second one; it is full, or empty */
    void *arrived;        /* what has come home and has not been looked at yet */
    struct cr__chunk *current, *partial;
    uint32_t object_size_bytes, stride_bytes;
    enum cr__mem_kind kind;
    uint8_t stir;         /* looks until it is left alone: it has been in use not long ago */
    struct cr__slab *next; /* of the same owner's: for who has several */

    /* objects of another slab that its owner has freed: a chain that has not been sent yet */
    struct cr__slab *away_home;
    void *away_first, *away_last;
    unsigned away_count;

    /* what others have sent: multi producer (chains), single consumer (all at once) */
    _Alignas(CR__CACHE_LINE) _Atomic(void *) returned;
};

/* object_size_bytes: a multiple of 8, up to CR__SLAB_OBJECT_MAX_BYTES. Objects are aligned to 16 bytes where their size is a multiple of that, and so on up to 64. */
void cr__slab_init(struct cr__slab *slab, uint32_t object_size_bytes, enum cr__mem_kind kind);

/* Gives back all chunks; objects still in use are gone with them. Nobody may send any more. */
void cr__slab_fini(struct cr__slab *slab);

CR__COLD void *cr__slab_get_slow(struct cr__slab *slab);
CR__COLD void cr__slab_turn(struct cr__slab *slab);
void cr__slab_put_away(struct cr__slab *slab, struct cr__slab *home, void *object);

/* Sends what is gathered. Its owner calls it before it sleeps, and now and then. */
void cr__slab_flush(struct cr__slab *slab);

/* Shrinking, by the owner. _look, about twice a second: if nobody has turned a magazine for two looks, what lies in them goes into the chunks. _shrink: some of what has come home
 * goes into the chunks; returns whether there is more. _trim: all of that, however lately it was used. _restless: whether a look or a shrinking may find something. */
void cr__slab_look(struct cr__slab *slab);
bool cr__slab_shrink(struct cr__slab *slab);
void cr__slab_trim(struct cr__slab *slab);

/* Whether others have sent it something. Any thread. */
static inline bool cr__slab_returned(const struct cr__slab *slab)
{
    return atomic_load_explicit(&slab->returned, memory_order_relaxed) != NULL;
}

static inline bool cr__slab_restless(const struct cr__slab *slab)
{
    return slab->stir > 0 || slab->arrived || cr__slab_returned(slab);
}

static inline struct cr__slab *cr__slab_of(const void *object)
{
    return atomic_load_explicit(&cr__chunk_of(object)->slab, memory_order_relaxed);
}

static inline void cr__slab_poison(const struct cr__slab *slab, void *object)
{
#ifdef CR__ASAN
    extern void __asan_poison_memory_region(const volatile void *, size_t);
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

/* An object with whatever the last user of its kind left in it, zeroes if there was none. NULL when there is no memory. */
static inline void *cr__slab_get(struct cr__slab *slab)
{
    void *object = slab->free;
    if (CR__UNLIKELY(!object))
        return cr__slab_get_slow(slab);
    cr__slab_unpoison(slab, object);
    slab->free = *(void **)object;
    slab->free_count--;
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
    if (CR__UNLIKELY(slab->free_count == slab->free_max)) /* before, not after: so one that is taken and put again at the border turns no magazine */
        cr__slab_turn(slab);
    *(void **)object = slab->free;
    slab->free = object;
    slab->free_count++;
}

/* A walk through the objects that were ever handed out, freed ones included: the caller must tell them apart. By the owner, or while it does nothing; a walk
 * may stop and go on later, and skips what has left the slab meanwhile, and what joined it behind the walker's back. Begins zeroed. NULL: that was all. */
struct cr__slab_walk {
    uint32_t chunk, end; /* end: chunks that were made after the beginning are not visited, so it ends */
    char *at;
};
void *cr__slab_walk(const struct cr__slab *slab, struct cr__slab_walk *walk);

/* Calls fn for each. */
void cr__slab_each(struct cr__slab *slab, void (*fn)(void *object, void *arg), void *arg);

#endif
