/* Shared stacks: many coroutines take turns on few. What a coroutine has on its stack is copied out, into an image, when another one needs that
 * stack, and back, to the same address, before it goes on.
 *
 * A stack and who is on it belong to one thread: a coroutine that has begun goes on there only. Its live bytes reach from its stack pointer to the top.
 *
 * Invariants:
 *   1. Who is in place is stack->occupant; all others that have begun there are AWAY, with an image, and the mover's stack as their stack pointer.
 *   2. Nobody is copied out while it runs: bytes are moved on the mover's stack (co.h), when who ran has been left.
 *   3. Before a switch to one that is away cr__shared_reserve has seen to it that there is a spare image large enough for the occupant: so moving can't fail
 *      for want of memory.
 *   4. A pinned stack keeps its occupant: somebody outside works with what lies on it.
 *
 * An image is as large as what lies in it, by its slab's classes, and a coroutine that is in place keeps its last one for the next time.
 * Rejected: copying out whenever a coroutine stops (the last occupant, when it comes back, needs no copy); images that only grow. */
#include "co/co.h"

#include <string.h>

#include "mem/mem.h"

#define SPARE_BYTES 8192
#define GROWTH_BYTES 512 /* how much deeper than its caller's frame the running coroutine may be when it is left */

struct cr__image {
    char *sp; /* where it goes on, and where the bytes belong */
    char bytes[];
};

/* Lies at the top of its stack, above all frames. */
struct cr__shared_stack {
    struct cr_co *occupant; /* NULL: nobody's bytes are there */
    unsigned pins;
    struct cr__stack stack; /* the pool's, within which this is */
    struct cr__shared *shared;
    struct cr__shared_stack *next;
};
_Static_assert(sizeof(struct cr__shared_stack) <= CR__CACHE_LINE, "a line at the top");

static struct cr__shared_stack *stack_of(const struct cr_co *co)
{
    return (struct cr__shared_stack *)(void *)co->stack.top;
}

static struct cr__image *image_of(const struct cr_co *co)
{
    return co->stack.image ? cr__mem_at(co->stack.image) : NULL;
}

void cr__shared_init(struct cr__shared *shared, struct cr__images *images, struct cr__stack_pool *pool, unsigned stacks_count)
{
    *shared = (struct cr__shared){.images = images, .pool = pool, .count = stacks_count};
}

/* ---- A stack ------------------------------------------------------------------------------------------------- */

static struct cr__shared_stack *stack_make(struct cr__shared *shared, uint32_t size_bytes)
{
    struct cr__stack stack;
    if (cr__stack_get(shared->pool, size_bytes, &stack) < 0)
        return NULL;
    struct cr__shared_stack *s = (struct cr__shared_stack *)(void *)(stack.top - CR__CACHE_LINE);
    *s = (struct cr__shared_stack){.stack = stack, .shared = shared};
    return s;
}

static struct cr__shared_set *set_of(struct cr__shared *shared, uint32_t size_bytes)
{
    for (unsigned i = 0; i < CR__COUNT(shared->sets); i++) {
        struct cr__shared_set *set = &shared->sets[i];
        if (set->size_bytes == 0)
            set->size_bytes = size_bytes;
        if (set->size_bytes >= size_bytes)
            return set;
    }
    return NULL;
}

/* One of a size, each in its turn. NULL: there is none, and none can be had. */
static struct cr__shared_stack *choose(struct cr__shared *shared, uint32_t size_bytes)
{
    struct cr__shared_set *set = set_of(shared, size_bytes);
    struct cr__shared_stack *s = set->count < shared->count ? stack_make(shared, set->size_bytes) : NULL;
    if (!s)
        return set->turn ? set->turn = set->turn->next : NULL;
    s->next = set->turn ? set->turn->next : s;
    if (set->turn)
        set->turn->next = s;
    set->count++;
    return set->turn = s;
}

/* ---- Moving -------------------------------------------------------------------------------------------------- */

static size_t live_bytes(const struct cr_co *co)
{
    return (size_t)(co->stack.top - (char *)co->sp);
}

/* Not more than the bytes need, so that a stack that was deep once does not cost for ever. */
static bool image_fits(const struct cr__image *image, size_t live)
{
    return image && cr__image_room(image) >= sizeof(*image) + live && cr__image_room(image) / 2 < sizeof(*image) + live + CR__IMAGE_MIN_BYTES;
}

static bool has_room(const struct cr__image *image, size_t live)
{
    return image && cr__image_room(image) >= sizeof(*image) + live;
}

static struct cr__image *image_for(struct cr__shared *shared, struct cr_co *co, size_t live)
{
    struct cr__image *image = image_of(co);
    if (CR__LIKELY(image_fits(image, live)))
        return image;
    struct cr__image *fitting = cr__image_get(shared->images, sizeof(*image) + live);
    if (!fitting && has_room(image, live))
        return image;
    if (!fitting && has_room(shared->spare, live)) {
        fitting = shared->spare;
        shared->spare = NULL;
    }
    if (!fitting)
        return NULL;
    if (image)
        cr__image_put(shared->images, image);
    co->stack.image = cr__mem_handle(fitting);
    return fitting;
}

static void copy_out(struct cr__self *self, struct cr__shared *shared, struct cr_co *co)
{
    size_t live = live_bytes(co);
    struct cr__image *image = image_for(shared, co, live);
    if (CR__UNLIKELY(!image)) /* only of one that a bare coroutine yields to inside a scheduled one: nobody reserves for that */
        cr__panic("no memory for the %zu bytes on its stack of coroutine %u, which must make room", live, co->id);
    image->sp = co->sp;
    memcpy(image->bytes, co->sp, live);
    if (CR__UNLIKELY(shared->clears))
        memset(co->sp, 0, live);
    co->sp = self->mover;
    cr__co_away_set(co, true);
}

static void *copy_in(struct cr_co *co)
{
    struct cr__image *image = image_of(co);
    memcpy(image->sp, image->bytes, (size_t)(co->stack.top - image->sp));
    cr__co_away_set(co, false);
    return co->sp = image->sp;
}

void *cr__co_bring(void)
{
    struct cr__self *self = cr__self_get();
    struct cr_co *co = self->current;
    struct cr__shared_stack *s = stack_of(co);
    CR__ASSERT(cr__co_kind(co) == CR_STACK_SHARED && s->occupant != co);
    if (s->occupant)
        copy_out(self, s->shared, s->occupant);
    s->occupant = co;
    return copy_in(co);
}

/* ---- For who switches ---------------------------------------------------------------------------------------- */

int cr__shared_reserve(struct cr__self *self, struct cr_co *co)
{
    struct cr__shared_stack *s = stack_of(co);
    struct cr_co *occupant = s->occupant;
    if (!occupant)
        return 0;
    if (CR__UNLIKELY(s->pins > 0))
        return -EBUSY;
    const char *here = __builtin_frame_address(0); /* the running one is not left yet: it may go some frames deeper */
    size_t live = occupant == self->current ? (size_t)(occupant->stack.top - here) + GROWTH_BYTES : live_bytes(occupant);
    struct cr__shared *shared = s->shared;
    if (CR__LIKELY(has_room(shared->spare, live)))
        return 0;
    struct cr__image *larger = cr__image_get(shared->images, cr__round_up(sizeof(*larger) + live, SPARE_BYTES));
    if (!larger)
        return has_room(image_of(occupant), live) ? 0 : -ENOMEM;
    if (shared->spare)
        cr__image_put(shared->images, shared->spare);
    shared->spare = larger;
    return 0;
}

void cr__shared_prefetch(const struct cr_co *co)
{
    const struct cr__image *image = image_of(co);
    for (int i = 0; i < 6; i++)
        __builtin_prefetch((const char *)image + i * CR__CACHE_LINE);
}

int cr__shared_start(struct cr__shared *shared, struct cr_co *co, uint32_t stack_bytes, void (*fn)(void *co, void *value, uint64_t note), void *word)
{
    void *mover = cr__mover_here();
    if (!mover)
        return -ENOMEM;
    struct cr__shared_stack *s = choose(shared, stack_bytes);
    struct cr__image *image = s ? cr__image_get(shared->images, sizeof(*image) + CR__ARCH_TOP_BYTES) : NULL;
    if (!image)
        return -ENOMEM;
    char *top = (char *)s;
    cr__arch_prepare(image->bytes + CR__ARCH_TOP_BYTES, fn, co);
    *(void **)(void *)(image->bytes + CR__ARCH_TOP_BYTES - sizeof(void *)) = word;
    image->sp = top - CR__ARCH_TOP_BYTES;
    co->stack = (struct cr__stack){.top = top, .size_bytes = s->stack.size_bytes, .image = cr__mem_handle(image)};
    co->sp = mover;
    cr__co_away_set(co, true);
    cr__san_start(co);
    return 0;
}

void cr__shared_end(struct cr_co *co)
{
    struct cr__shared_stack *s = stack_of(co);
    if (s->occupant == co)
        s->occupant = NULL; /* we may run there still: its next occupant comes by the mover */
    cr__image_put(s->shared->images, image_of(co));
    co->stack.image = 0;
}

/* ---- What others need to know -------------------------------------------------------------------------------- */

void cr__shared_pin(struct cr_co *co)
{
    CR__ASSERT(stack_of(co)->occupant == co);
    stack_of(co)->pins++;
}

void cr__shared_unpin(struct cr_co *co)
{
    CR__ASSERT(stack_of(co)->pins > 0);
    stack_of(co)->pins--;
}

const char *cr__shared_image(const struct cr_co *co, char **sp)
{
    struct cr__image *image = image_of(co);
    *sp = image->sp;
    return image->bytes;
}
