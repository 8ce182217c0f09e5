/* Stacks: fixed size, pooled, guarded; beside them packed ones (packed.h), which are neither, and virtual ones, which lie in a reservation (virtual.h).
 *
 * A pool hands out stacks of any size, one class per size; what is put back is handed out again, last in, first out,
 * without a kernel call. Stacks are cut from chunks of address space:
 *
 *     chunk: | guard | stack | guard | stack | ... |      addresses grow to the right, stacks to the left
 *
 * A guard is installed when its stack is handed out for the first time, with MADV_GUARD_INSTALL (Linux 6.13: no
 * mapping of its own), else with mprotect, which ends where the process has vm.max_map_count mappings: at about half as many stacks.
 * Running into a guard ends the program with a message that names the coroutine (overflow.c).
 *
 * Tops are coloured: stacks that begin at the same offset in their pages would all compete for the same few sets
 * of the caches. The top word of a stack that is not in use links it to the next free one; it lies in the CR__ARCH_TOP_BYTES
 * that no frame overlaps, so a coroutine that ends may put its own stack back while it still runs on it, as
 * long as it is the one that takes it out again, or has left it by then.
 *
 * A pool has no lock: it serves one worker, or is locked by its owner. What another worker gives back is chained through the same top words. */
#ifndef CR__STACK_H
#define CR__STACK_H

#include <stdatomic.h>

#include "arch/arch.h"
#include "base/base.h"
#include "stack/packed.h"
#include "stack/virtual.h"

#define CR__STACK_DEFAULT_BYTES (64u * 1024)
#define CR__STACK_GUARD_BYTES (32u * 1024)
#define CR__STACK_MAX_BYTES (1u << 30)
#define CR__STACK_CLASSES 68 /* as many as cr__stack_size has answers */
#define CR__STACK_COLOUR_BYTES 64
#define CR__STACK_COLOURS 16
#define CR__STACK_PAST 5
#define CR__STACK_WATERMARK_BYTES (16u * 1024) /* of a free stack, what stays: holds what most code needs, printf and lazily bound calls too, but not names' resolution and TLS */
#define CR__STACK_FIRST_LINES 4 /* what a coroutine writes to at once when it starts */

/* What a coroutine knows of a shared stack on which it has started, beside where that is: what an image would say, if it did not cost each parked one a word. */
struct cr__shared_place {
    uint32_t words : 15;   /* of the image that are live, while it is AWAY: */
    uint32_t with_top : 1; /* the top's CR__ARCH_TOP_BYTES are among them */
    uint32_t room : 14;    /* of the image, in CR__PLACE_ROOM_UNITs */
    uint32_t size : 2;     /* of the stack: 1 for 64 KiB, 2 for twice that, 3: so a size_bytes of this is more than any other's */
};
#define CR__PLACE_ROOM_UNIT 16u

/* A stack in use. Its end less its size (cr__stack_bytes) is the guard's end, but for the colour: up to 960 bytes less are usable. */
struct cr__stack {
    char *top; /* NULL: none */
    union {
        uint32_t size_bytes;           /* as asked for, rounded up to pages: names the class; CR__PACKED_BYTES: none of a pool's (packed.h) */
        struct cr__shared_place place; /* of a shared one, from its start on */
    };
    uint32_t image; /* of a shared one: its last image (mem's handle), where its live bytes are while it is AWAY. A frozen one's is in its slot (virtual.h) */
};
_Static_assert(sizeof(struct cr__stack) == 16, "a quarter of a line");

static inline uint32_t cr__stack_bytes(struct cr__stack stack)
{
    return stack.size_bytes <= CR__STACK_MAX_BYTES ? stack.size_bytes : UINT32_C(1) << 15 << stack.place.size;
}

struct cr__stack_class {
    uint32_t size_bytes; /* 0: class not in use */
    char *free;          /* top of the first free stack that has been used since it was looked at */
    char *shallow;       /* and of the first of those that have not: nothing is touched below the watermark */
    uint32_t shallow_count;
    uint32_t to_look_at; /* so many of those in `free`, for how deep they are */
    uint32_t looks;      /* since the last look at depths */
    char *fresh;         /* slots of the newest chunk that were never handed out: [fresh, end) */
    char *end;
    uint32_t in_use;     /* but for those that are frozen, which have no pages: */
    uint32_t frozen;
    uint32_t peak;       /* the most that were in use since the last look, */
    uint32_t past[CR__STACK_PAST]; /* and between looks before: the latest first */
    uint32_t warm;       /* in use, in `free` or in `shallow` */
    uint32_t doomed;     /* so many of those in the lists are to lose their pages */
    char **cold;         /* tops of those that have lost them: no link can lie in them */
    uint32_t cold_count, cold_capacity;
};

struct cr__stack_pool {
    struct cr__stack_class classes[CR__STACK_CLASSES];
    struct cr__stack_chunk *chunks;
    uint32_t chunks_lost; /* how often some have been unmapped: who keeps a pointer to one looks here */
    uint64_t trimmed;     /* how often a free one has lost what lay below the watermark */
    size_t guard_bytes;
    void *owner; /* whose pool it is */
    bool is_virtual;
    size_t bytes, max_bytes; /* address space taken, and its bound (0: none) */
    _Atomic(char *) returned; /* tops of stacks that another thread has put: multi producer, single consumer */
};

/* guard_bytes: a multiple of the page size; max_bytes as in struct cr_config. */
void cr__stack_pool_init(struct cr__stack_pool *pool, size_t guard_bytes, size_t max_bytes);

/* Unmaps everything, stacks in use included. */
void cr__stack_pool_fini(struct cr__stack_pool *pool);

/* The usable size for a wish: 0 is the default; rounded up (static.c); 0 for more than CR__STACK_MAX_BYTES. */
uint32_t cr__stack_size(size_t wish_bytes);

/* The class of a size as cr__stack_size gives it, claimed if it is new: 0 to CR__STACK_CLASSES - 1. */
unsigned cr__stack_class(struct cr__stack_pool *pool, uint32_t size_bytes);

/* Whether there can ever be one of that size. */
bool cr__stack_fits_bound(const struct cr__stack_pool *pool, uint32_t size_bytes);
static inline bool cr__stack_fits(const struct cr__stack_pool *pool, uint32_t size_bytes)
{
    return CR__LIKELY(pool->max_bytes == 0) || cr__stack_fits_bound(pool, size_bytes);
}

CR__COLD int cr__stack_get_slow(struct cr__stack_pool *pool, uint32_t size_bytes, struct cr__stack *out);

/* Takes a stack. 0; -ENOMEM (bound reached, no address space, no guard to be had). */
static inline int cr__stack_get(struct cr__stack_pool *pool, uint32_t size_bytes, struct cr__stack *out)
{
    for (struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES; c++) {
        if (c->size_bytes != size_bytes)
            continue;
        char *top = c->free;
        if (CR__UNLIKELY(!top))
            break;
        char *next = c->free = *(char **)(void *)(top - sizeof(char *));
        for (int line = 1; next && line <= CR__STACK_FIRST_LINES; line++)
            __builtin_prefetch(next - line * CR__CACHE_LINE, 1); /* where the next one to start will write. Not of NULL: looking for no page costs more than a miss */
        if (++c->in_use > c->peak)
            c->peak = c->in_use;
        *out = (struct cr__stack){.top = top, .size_bytes = size_bytes};
        return 0;
    }
    return cr__stack_get_slow(pool, size_bytes, out);
}

/* Gives it back. */
void cr__stack_put(struct cr__stack_pool *pool, struct cr__stack stack);

/* The same by another thread than the pool's: goes to a list that the owner empties when it has nothing else. Nobody runs on it. */
void cr__stack_put_remote(struct cr__stack_pool *pool, struct cr__stack stack);

/* By the owner: takes over what others have put. Returns whether there was any. */
bool cr__stack_take_returned(struct cr__stack_pool *pool);
static inline bool cr__stack_any_returned(const struct cr__stack_pool *pool)
{
    return atomic_load_explicit(&pool->returned, memory_order_relaxed) != NULL;
}

/* Those that are frozen, too. */
uint64_t cr__stack_pool_in_use(const struct cr__stack_pool *pool);

/* One in use has been frozen; and has thawed. By the owner. */
void cr__stack_freezes(struct cr__stack_pool *pool, struct cr__stack stack);
void cr__stack_thaws(struct cr__stack_pool *pool, struct cr__stack stack);

/* Pages of free stacks go back to the kernel. _look, about twice a second: what was not in use since CR__STACK_PAST looks before the last one, but for a few, is to lose its pages (so a
 * load that comes and goes within three seconds finds its stacks warm: a first touch costs 1 to 25 us), and as seldom what those that stay warm have touched below the watermark; _hurry: all that are free.
 * _shrink takes them from some of these; returns whether there are more. _restless: whether another look might find some. _behind: whether so many are to lose theirs that this must not
 * wait for a pause. By the owner, on a stack that is in use. */
void cr__stack_pool_look(struct cr__stack_pool *pool);
void cr__stack_pool_hurry(struct cr__stack_pool *pool);
bool cr__stack_pool_shrink(struct cr__stack_pool *pool);
bool cr__stack_pool_restless(const struct cr__stack_pool *pool);
bool cr__stack_pool_behind(const struct cr__stack_pool *pool);

/* The lowest usable address. */
char *cr__stack_low(struct cr__stack stack);

/* Whether guards cost no mapping here; page: one that may serve for trying. */
bool cr__stack_guards_light(char *page);

/* Of virtual stacks: the one at addr, and where it begins and ends; the i-th of a chunk, of which there may be none: NULL. The chunks of a pool: NULL first. */
struct cr__slot *cr__stack_slot(struct cr__stack_chunk *chunk, const void *addr, char **low, char **top);
struct cr__slot *cr__stack_slot_number(struct cr__stack_chunk *chunk, uint32_t i);
void cr__stack_slot_place(const struct cr__stack_chunk *chunk, uint32_t i, char **low, char **top);
struct cr__stack_chunk *cr__stack_chunk_next(const struct cr__stack_pool *pool, const struct cr__stack_chunk *after);

/* Whether addr lies in a guard of any pool's; out receives that stack. For the fault handler: async-signal-safe. */
bool cr__stack_guard_hit(const void *addr, struct cr__stack *out);

/* Describes the running coroutine for the overflow message. Set by `co`. False: none runs. */
struct cr__stack_user {
    bool lost;        /* its record has been written over, so nothing else is known */
    char *top;        /* of its stack, */
    uint32_t size_bytes; /* and how large that is */
    const char *name; /* or NULL */
    const char *kind; /* of its stack */
    uint32_t id;
    void *entry;
};
typedef bool cr__stack_describe(struct cr__stack_user *out);

/* Ends the program: user has run off a stack without a guard, which a look has shown. Needs some hundred bytes of stack: what it says is said on the alternate one. */
__attribute__((noreturn)) CR__COLD void cr__stack_overflowed(const struct cr__stack *stack, const struct cr__stack_user *user);

/* Called when a fault that is none of ours is about to end the program, on the alternate stack; filled in by `sim`. NULL: nothing to add. */
extern void (*_Atomic cr__stack_last_words)(void);

/* Makes the calling thread take its faults on an alternate stack and the process explain overflows. Undo with _leave on
 * the same thread. 0 or -ENOMEM. */
int cr__overflow_enter(cr__stack_describe *describe, void **saved);
void cr__overflow_leave(void *saved);

#endif
