/* malloc and free of the code under test.
 *
 * Addresses are values, and values are in the graphs of which one execution is made from another. So what a thread gets must depend on
 * nothing but what it has done itself: each thread has an arena, and gets from there, or (heap_reuses) what it has freed last itself, whoever had
 * allocated it. What setup allocates is in an arena of its own.
 *
 * Between blocks there is a gap, and what was freed stays known: touching either is a failure. */
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>

#define ARENA_BYTES (256u << 10)
#define ARENAS (MODEL_THREADS + 2) /* threads, check, setup */
#define SETUP (MODEL_THREADS + 1)
#define BLOCKS 1024                /* of an arena */
#define GAP_BYTES 64

struct block {
    char *start;
    size_t size;
    bool freed;
    struct block *below; /* freed before, by the same thread */
};

struct arena {
    struct block blocks[BLOCKS]; /* by address */
    unsigned used;
    size_t bytes;
    struct block *freed;
};

static char *base;
static struct arena arenas[ARENAS];

static void arena_reset(struct arena *arena)
{
    arena->used = 0;
    arena->bytes = 0;
    arena->freed = NULL;
}

void model__heap_init(void)
{
    if (!base)
        base = mmap(NULL, (size_t)ARENA_BYTES * ARENAS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        abort();
    arena_reset(&arenas[SETUP]);
    model__heap_reset();
}

void model__heap_reset(void)
{
    for (unsigned i = 0; i < SETUP; i++)
        arena_reset(&arenas[i]);
    for (unsigned i = 0; i < arenas[SETUP].used; i++)
        arenas[SETUP].blocks[i].freed = false;
}

static struct arena *arena_here(void)
{
    return &arenas[model__user == MODEL_SETUP ? SETUP : model__run.current];
}

bool model__heap_has(const volatile void *addr)
{
    return base && (uintptr_t)addr - (uintptr_t)base < (size_t)ARENA_BYTES * ARENAS;
}

static struct block *block_of(const volatile void *addr)
{
    struct arena *arena = &arenas[((uintptr_t)addr - (uintptr_t)base) / ARENA_BYTES];
    unsigned low = 0, high = arena->used;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if ((uintptr_t)arena->blocks[mid].start <= (uintptr_t)addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low ? &arena->blocks[low - 1] : NULL;
}

void *model__heap_alloc(size_t size, size_t alignment)
{
    struct arena *arena = arena_here();
    for (struct block **at = &arena->freed; model__options->heap_reuses && *at; at = &(*at)->below) {
        struct block *block = *at;
        if (block->size != size || (uintptr_t)block->start % alignment)
            continue;
        *at = block->below;
        block->freed = false;
        return block->start;
    }
    size_t start = (arena->bytes + GAP_BYTES + alignment - 1) & ~(alignment - 1);
    if (arena->used == BLOCKS || start + size > ARENA_BYTES)
        model__fail(MODEL_MISUSE, "the test allocates too much");
    struct block *block = &arena->blocks[arena->used++];
    block->start = base + (size_t)(arena - arenas) * ARENA_BYTES + start;
    block->size = size;
    block->freed = false;
    arena->bytes = start + size;
    return block->start;
}

void model__heap_free(void *addr, const void *pc)
{
    if (!addr)
        return;
    struct block *block = model__heap_has(addr) ? block_of(addr) : NULL;
    if (!block || block->start != addr || block->freed) {
        struct model__line line = model__line(pc);
        model__fail(MODEL_MEMORY, "freed at %s (%s), but %s", line.where, line.function,
                    block && block->start == addr ? "freed before" : "never allocated");
    }
    if (model__user != MODEL_SETUP && block->size > 0)
        model__access(addr, block->size, MODEL_PLAIN_WRITE, pc); /* all that others do with it must happen before */
    block->freed = true;
    block->below = arena_here()->freed;
    arena_here()->freed = block;
}

size_t model__heap_size(const void *addr)
{
    return block_of(addr)->size;
}

const char *model__heap_check(const volatile void *addr, size_t size)
{
    if (!model__heap_has(addr))
        return NULL;
    const struct block *block = block_of(addr);
    if (!block || (const volatile char *)addr + size > block->start + block->size)
        return "beyond what was allocated";
    return block->freed ? "used after it was freed" : NULL;
}
