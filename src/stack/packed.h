/* Packed stacks: static ones below a page, 2 KiB each, side by side in a slab. Part of stack.h.
 *
 *     object: | canary | stack          live| top bytes |      31 cache lines: an odd number, so that tops spread over all sets of the caches
 *
 * There is no guard: who runs off its stack writes over the next one's top. So a canary lies at the low end, and is looked at each time the coroutine stops (a bare one: when it
 * is resumed the next time, and when it is destroyed) and when it ends, before anybody else of its worker runs. What it can't see is a frame that jumps over it and leaves it whole: so where the stack pointer is is looked at, too. That
 * is why nobody gets one who has not asked for it.
 *
 * What the runtime does between two coroutines (starting another one, thawing) is not done on such a stack: who stops there goes to the worker's loop. Signals are taken
 * on alternate stacks, or not at all while a coroutine runs (rt/signals.c).
 *
 * While a stack is free its slab's link lies where the canary was. What is put is in a magazine, or in the chain that goes home, until its worker puts another one: so a
 * coroutine that ends may put its own stack back while it still runs on it.
 *
 * Rejected: 2,048 bytes apart (all tops in two sets of the first cache; with a line more each would cost what a page's half may not); a page of PROT_NONE every so many
 * stacks (it would find one overflow in so many, and cost mappings). */
#ifndef CR__PACKED_H
#define CR__PACKED_H

#include <crore/attr.h>

#include "mem/mem.h"

#define CR__PACKED_BYTES ((uint32_t)CR_STACK_PACKED_BYTES) /* what it is called, and what it takes of a budget */
#define CR__PACKED_ROOM_BYTES 1984u /* what there is, the canary and CR__ARCH_TOP_BYTES included */
#define CR__PACKED_CANARY_WORDS 4
#define CR__PACKED_ELSE_BYTES 16384 /* where it is not usable: guarded; frames are larger there */

struct cr__packed {
    struct cr__slab slab;
    int64_t in_use; /* taken minus put here: so of several workers only the sum says something */
};

void cr__packed_init(struct cr__packed *packed);
void cr__packed_fini(struct cr__packed *packed);

/* Whether there are such stacks here: not where sanitizers or valgrind would take a switch between neighbours for a call, nor without optimization: frames are too large. Else
 * who asks for one gets CR__PACKED_ELSE_BYTES, guarded. */
bool cr__packed_usable(void);

static inline char *cr__packed_low(const char *top)
{
    return (char *)(uintptr_t)top - CR__PACKED_ROOM_BYTES;
}

static inline uint64_t cr__packed_canary(const uint64_t *at)
{
    return UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)at;
}

/* Takes one: its top. NULL: no memory. */
static inline char *cr__packed_get(struct cr__packed *packed)
{
    uint64_t *low = cr__slab_get(&packed->slab);
    if (CR__UNLIKELY(!low))
        return NULL;
    for (int i = 0; i < CR__PACKED_CANARY_WORDS; i++)
        low[i] = cr__packed_canary(low + i);
    packed->in_use++;
    return (char *)low + CR__PACKED_ROOM_BYTES;
}

/* Puts it back; it may be another worker's. */
static inline void cr__packed_put(struct cr__packed *packed, char *top)
{
    packed->in_use--;
    cr__slab_put(&packed->slab, cr__packed_low(top));
}

/* Whether nobody has run off it. */
static inline bool cr__packed_whole(const char *top)
{
    const uint64_t *low = (const uint64_t *)(const void *)cr__packed_low(top);
    uint64_t differs = 0;
    for (int i = 0; i < CR__PACKED_CANARY_WORDS; i++)
        differs |= low[i] ^ cr__packed_canary(low + i);
    return differs == 0;
}

#endif
