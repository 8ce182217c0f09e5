/* Shared stacks: many coroutines take turns on few. What a coroutine has on its stack is copied out, into an image, when another one needs that
 * stack, and back, to the same address, before it goes on.
 *
 * A stack and who is on it belong to one thread: a coroutine that has begun goes on there only; when the thread has gone, it is only
 * put away (bare.c). Its live bytes reach from its stack pointer to the top.
 *
 * Invariants:
 *   1. Who is in place is stack->occupant; all others that have begun there are AWAY, with an image, and the mover's stack as their stack pointer.
 *   2. Nobody is copied out while it runs: bytes are moved on the mover's stack (co.h), when who ran has been left.
 *   3. Before a switch to one that is away cr__shared_reserve has seen to it that there is a spare image large enough for the occupant: so moving can't fail
 *      for want of memory.
 *   4. A pinned stack keeps its occupant: somebody outside works with what lies on it.
 *
 * An image is as large as what lies in it, by its slab's classes, and a coroutine that is in place keeps its last one for the next time. It is bytes and nothing else: how many, and
 * where they belong, is in the coroutine's record (struct cr__shared_place). It leaves out what lies at the stack's very top (struct cr__co_top), unless somebody holds a lock, since else there is nothing.
 * A checked build (CR__CHECKED) knows all such stacks, and who is away from which, under one lock: to tell whose a pointer is.
 *
 * Rejected: copying out whenever a coroutine stops (the last occupant, when it comes back, needs no copy); images that only grow. */
#include "co/co.h"

#include <string.h>

#include "mem/mem.h"

#ifdef CR__CHECKED
#include <pthread.h>
#endif

#define SPARE_BYTES 8192
#define SMALLEST_BITS 16
_Static_assert(CR_STACK_SHARED_MOST_BYTES >> SMALLEST_BITS == 1u << (CR__SHARED_SETS - 1), "a set for each power of two");
_Static_assert(CR_STACK_SHARED_MOST_BYTES <= CR__IMAGE_MAX_BYTES, "who is on a stack can always make room: an image is smaller than the line at the top and what it holds");
#define PIECE_BYTES ((size_t)2048)
#define LITTLE_BYTES ((size_t)768) /* copied in place: a call costs more than it saves */
#define PREFETCH_BYTES ((size_t)6 * CR__CACHE_LINE) /* of an image: as many as are under way at once */
#define GROWTH_BYTES 512 /* how much deeper than its caller's frame the running coroutine may be when it is left */

#define MOST_ROOM 16383u /* that place.room can say: an image of the largest class is used but for its last bytes */
_Static_assert(CR_STACK_SHARED_MOST_BYTES / sizeof(uint64_t) <= 1u << 15, "place.words: a line less than that many");

#ifdef CR__CHECKED
struct away { /* at an image's beginning */
    struct cr_co *co;
    struct away *next, **link; /* of those that are away from the stack, the last one to leave it first */
};
#define HEAD_BYTES sizeof(struct away)
#else
#define HEAD_BYTES ((size_t)0)
#endif

/* Lies at the top of its stack, above all frames. */
struct cr__shared_stack {
    struct cr_co *occupant; /* NULL: nobody's bytes are there */
    unsigned pins;
    struct cr__stack stack; /* the pool's, within which this is */
    struct cr__shared *shared;
    struct cr__shared_stack *next;
#ifdef CR__CHECKED
    struct away *away;
    struct cr__shared_stack *next_of_all;
#endif
};
_Static_assert(sizeof(struct cr__shared_stack) <= CR__CACHE_LINE, "a line at the top");

static struct cr__shared_stack *stack_of(const struct cr_co *co)
{
    return (struct cr__shared_stack *)(void *)co->stack.top;
}

static inline struct cr__image image_of(const struct cr_co *co)
{
    return (struct cr__image){co->stack.image ? cr__mem_at(co->stack.image) : NULL, co->stack.place.room * CR__PLACE_ROOM_UNIT};
}

static void image_set(struct cr_co *co, struct cr__image image)
{
    co->stack.image = cr__mem_handle(image.start);
    co->stack.place.room = image.room_bytes / CR__PLACE_ROOM_UNIT < MOST_ROOM ? image.room_bytes / CR__PLACE_ROOM_UNIT : MOST_ROOM;
}

/* Whose top is left out has there what one has that has just begun. */
static inline char *end_of(const struct cr_co *co, bool with_top)
{
    return co->stack.top - (with_top ? 0 : CR__ARCH_TOP_BYTES);
}

/* The live bytes of one that is away: where they belong, how many they are, and where they lie, which is the image's end: of all but small ones that begins a cache line. */
struct live {
    char *sp, *bytes;
    size_t count;
};

static inline struct live live_of(const struct cr_co *co)
{
    struct cr__image image = image_of(co);
    size_t count = co->stack.place.words * sizeof(uint64_t);
    return (struct live){end_of(co, co->stack.place.with_top) - count, image.start + image.room_bytes - count, count};
}

/* .start NULL: no memory. */
static struct cr__image image_get(struct cr__shared *shared, size_t live)
{
    char *start = cr__image_get(shared->images, HEAD_BYTES + live);
    return (struct cr__image){start, start ? (uint32_t)cr__image_room(start) : 0};
}

void cr__shared_init(struct cr__shared *shared, struct cr__images *images, struct cr__stack_pool *pool, unsigned stacks_count)
{
    *shared = (struct cr__shared){.images = images, .pool = pool, .count = stacks_count};
}

/* ---- Known to all, in a checked build ------------------------------------------------------------------------ */

#ifdef CR__CHECKED

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cr__shared_stack *all;

static void register_stack(struct cr__shared_stack *s)
{
    pthread_mutex_lock(&lock);
    s->next_of_all = all;
    all = s;
    pthread_mutex_unlock(&lock);
}

void cr__shared_fini(struct cr__shared *shared)
{
    pthread_mutex_lock(&lock);
    for (struct cr__shared_stack **link = &all; *link;) {
        if ((*link)->shared == shared)
            *link = (*link)->next_of_all;
        else
            link = &(*link)->next_of_all;
    }
    pthread_mutex_unlock(&lock);
}

static void occupy(struct cr__shared_stack *s, struct cr_co *co)
{
    pthread_mutex_lock(&lock);
    s->occupant = co;
    pthread_mutex_unlock(&lock);
}

static struct away *away_of(const struct cr_co *co)
{
    return (struct away *)(void *)image_of(co).start;
}

/* co's bytes are in its image from now on. */
static void goes_away(struct cr_co *co)
{
    struct cr__shared_stack *s = stack_of(co);
    struct away *away = away_of(co);
    pthread_mutex_lock(&lock);
    *away = (struct away){co, s->away, &s->away};
    if (away->next)
        away->next->link = &away->next;
    s->away = away;
    pthread_mutex_unlock(&lock);
}

static void comes_back(struct cr_co *co)
{
    struct away *away = away_of(co);
    pthread_mutex_lock(&lock);
    *away->link = away->next;
    if (away->next)
        away->next->link = away->link;
    pthread_mutex_unlock(&lock);
}

static bool lies_on(const struct cr__shared_stack *s, const char *addr)
{
    return addr < (const char *)s && addr >= cr__stack_low(s->stack);
}

/* Whether addr is on s, above the stack pointer of the running coroutine, or of one that it runs inside. frame: where the running one's is. */
static bool is_own(const struct cr__self *self, const struct cr__shared_stack *s, const char *addr, const char *frame)
{
    for (const struct cr_co *co = self->current; cr__co_state(co) != CR__CO_ROOT; co = co->below) {
        bool in_place = cr__co_kind(co) == CR_STACK_SHARED && s->occupant == co;
        if (in_place && addr >= (co == self->current ? frame : (const char *)co->sp))
            return true;
        if (cr__co_state(co) != CR__CO_RUNNING)
            break;
    }
    return false;
}

static struct cr__shared_owner owner_of(const struct cr__shared_stack *s, const char *addr)
{
    const struct cr_co *co = s->occupant && addr >= (const char *)s->occupant->sp ? s->occupant : NULL; /* of one that runs just now: where it last stopped */
    for (const struct away *away = s->away; away && !co; away = away->next)
        co = addr >= live_of(away->co).sp ? away->co : NULL;
    if (!co)
        return (struct cr__shared_owner){0};
    struct cr__shared_owner owner = {.known = true, .id = co->id, .entry = co->entry};
    cr_name_get(co, owner.name, sizeof(owner.name));
    return owner;
}

bool cr__shared_foreign(const struct cr__self *self, const void *addr, struct cr__shared_owner *owner)
{
    pthread_mutex_lock(&lock);
    const struct cr__shared_stack *s = all;
    while (s && !lies_on(s, addr))
        s = s->next_of_all;
    bool foreign = s && !is_own(self, s, addr, __builtin_frame_address(0));
    if (foreign)
        *owner = owner_of(s, addr);
    pthread_mutex_unlock(&lock);
    return foreign;
}

#else

static inline void register_stack(struct cr__shared_stack *s)
{
    (void)s;
}

void cr__shared_fini(struct cr__shared *shared)
{
    (void)shared;
}

static inline void occupy(struct cr__shared_stack *s, struct cr_co *co)
{
    s->occupant = co;
}

static inline void goes_away(struct cr_co *co)
{
    (void)co;
}

static inline void comes_back(struct cr_co *co)
{
    (void)co;
}

#endif

/* ---- A stack ------------------------------------------------------------------------------------------------- */

static struct cr__shared_stack *stack_make(struct cr__shared *shared, uint32_t size_bytes)
{
    struct cr__stack stack;
    if (cr__stack_get(shared->pool, size_bytes, &stack) < 0)
        return NULL;
    struct cr__shared_stack *s = (struct cr__shared_stack *)(void *)(stack.top - CR__CACHE_LINE);
    *s = (struct cr__shared_stack){.stack = stack, .shared = shared};
    register_stack(s);
    return s;
}

static struct cr__shared_set *set_of(struct cr__shared *shared, uint32_t size_bytes)
{
    uint32_t size = cr__shared_size(size_bytes);
    struct cr__shared_set *set = &shared->sets[cr__bits_highest(size) - SMALLEST_BITS];
    set->size_bytes = size;
    return set;
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

static inline bool has_room(struct cr__image image, size_t live)
{
    return image.start && image.room_bytes >= HEAD_BYTES + live;
}

/* Not more than the bytes need, so that a stack that was deep once does not cost for ever. */
static inline bool fits(struct cr__image image, size_t live)
{
    return has_room(image, live) && image.room_bytes / 2 < HEAD_BYTES + live + CR__IMAGE_MIN_BYTES;
}

/* Gives co another one, unless that one does. False: no memory. */
static bool image_fit(struct cr__shared *shared, struct cr_co *co, size_t live)
{
    struct cr__image image = image_of(co);
    if (CR__LIKELY(fits(image, live)))
        return true;
    struct cr__image fitting = image_get(shared, live);
    if (!fitting.start && has_room(image, live))
        return true;
    if (!fitting.start && has_room(shared->spare, live)) {
        fitting = shared->spare;
        shared->spare = (struct cr__image){0};
    }
    if (!fitting.start)
        return false;
    if (image.start)
        cr__image_put(shared->images, image.start);
    image_set(co, fitting);
    return true;
}

/* What is larger is memcpy's, in pieces, for which that takes a loop: what takes one instruction instead begins slowly (rep movsb from 2,112 bytes on: 30 ns). */
static CR__NOINLINE void copy_much(char *to, const char *from, size_t bytes)
{
    size_t piece = PIECE_BYTES;
    __asm__("" : "+r"(piece), "+r"(bytes)); /* a compiler that knew a bound would take that instruction, too */
    for (; CR__UNLIKELY(bytes > piece); bytes -= piece, to += piece, from += piece)
        memcpy(to, from, piece);
    memcpy(to, from, bytes);
}

typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));
typedef uint64_t one __attribute__((may_alias));

/* Whole words, up to `end`. The youngest ones by themselves: they have just been written so, and a processor that reads several of them at once waits until they have left its store buffer. */
__attribute__((always_inline)) static inline void copy(char *to, const char *from, const char *end)
{
    size_t bytes = (size_t)(end - from);
    if (CR__UNLIKELY(bytes > LITTLE_BYTES)) {
        copy_much(to, from, bytes);
        return;
    }
    for (const char *few = from + bytes % CR__CACHE_LINE; from < few; from += sizeof(one), to += sizeof(one)) {
        one word = *(const one *)(const void *)from;
        __asm__("" : "+r"(word)); /* a compiler that saw what this does would have several at once */
        *(one *)(void *)to = word;
    }
    for (; from < end; from += CR__CACHE_LINE, to += CR__CACHE_LINE) {
        const pair *in = (const pair *)(const void *)from;
        pair *out = (pair *)(void *)to, a = in[0], b = in[1], c = in[2], d = in[3];
        out[0] = a, out[1] = b, out[2] = c, out[3] = d;
    }
}

static void copy_out(struct cr__self *self, struct cr__shared *shared, struct cr_co *co)
{
    bool with_top = co->locks != 0;
    char *sp = co->sp, *end = end_of(co, with_top);
    size_t live = (size_t)(end - sp);
    if (CR__UNLIKELY(!image_fit(shared, co, live))) /* only when a bare coroutine yields to another that is away, too: there is one spare image, and both need it */
        cr__panic("no memory for the %zu bytes on its stack of coroutine %u, which must make room", live, co->id);
    struct cr__image image = image_of(co);
    copy(image.start + image.room_bytes - live, sp, end);
    struct cr__shared_place place = co->stack.place;
    place.words = live / sizeof(uint64_t) & 0x7fff;
    place.with_top = with_top;
    co->stack.place = place;
    if (CR__UNLIKELY(shared->clears))
        memset(sp, 0, live);
    goes_away(co);
    co->sp = self->mover;
    cr__co_away_set(co, true);
}

static void *copy_in(struct cr_co *co)
{
    struct live live = live_of(co);
    comes_back(co);
    copy(live.sp, live.bytes, live.bytes + live.count);
    if (CR__LIKELY(!co->stack.place.with_top))
        memset(end_of(co, false), 0, CR__ARCH_TOP_BYTES);
    cr__co_away_set(co, false);
    return co->sp = live.sp;
}

void *cr__co_bring(void)
{
    struct cr__self *self = cr__self_get();
    struct cr_co *co = self->current;
    struct cr__shared_stack *s = stack_of(co);
    CR__ASSERT(cr__co_kind(co) == CR_STACK_SHARED && s->occupant != co && s->pins == 0);
    if (s->occupant)
        copy_out(self, s->shared, s->occupant);
    occupy(s, co);
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
    size_t live = (size_t)(occupant->stack.top - (occupant == self->current ? here - GROWTH_BYTES : (const char *)occupant->sp));
    struct cr__shared *shared = s->shared;
    if (CR__LIKELY(has_room(shared->spare, live)))
        return 0;
    struct cr__image larger = image_get(shared, cr__round_up(HEAD_BYTES + live, SPARE_BYTES) - HEAD_BYTES);
    if (!larger.start)
        return has_room(image_of(occupant), live) ? 0 : -ENOMEM;
    if (shared->spare.start)
        cr__image_put(shared->images, shared->spare.start);
    shared->spare = larger;
    return 0;
}

void cr__shared_prefetch(const struct cr_co *co)
{
    struct live live = live_of(co);
    for (size_t at = 0; at < live.count && at < PREFETCH_BYTES; at += CR__CACHE_LINE)
        __builtin_prefetch(live.bytes + at);
}

int cr__shared_start(struct cr__shared *shared, struct cr_co *co, uint32_t stack_bytes, const struct cr__arch_life *life, void *word)
{
    void *mover = cr__mover_here();
    if (!mover)
        return -ENOMEM;
    if (!shared->spare.start) /* early, and without it: as long as there was one once, whoever is on a stack can leave it, so that memory that runs out later stops nobody for good */
        shared->spare = image_get(shared, SPARE_BYTES - HEAD_BYTES);
    struct cr__shared_stack *s = choose(shared, stack_bytes);
    struct cr__image image = s ? image_get(shared, CR__ARCH_TOP_BYTES) : (struct cr__image){0};
    if (!image.start)
        return -ENOMEM;
    co->stack = (struct cr__stack){.top = (char *)s, .place = {.size = (cr__bits_highest(s->stack.size_bytes) - SMALLEST_BITS + 1) & 3}};
    image_set(co, image);
    co->stack.place.words = CR__ARCH_TOP_BYTES / sizeof(uint64_t);
    co->stack.place.with_top = true;
    char *image_top = live_of(co).bytes + CR__ARCH_TOP_BYTES;
    cr__arch_prepare(image_top, life, co);
    *(void **)(void *)(image_top - sizeof(void *)) = word;
    co->sp = mover;
    goes_away(co);
    cr__co_away_set(co, true);
    cr__san_start(co);
    return 0;
}

void cr__shared_end(struct cr_co *co)
{
    struct cr__shared_stack *s = stack_of(co);
    if (cr__co_flags(co) & CR__CO_AWAY)
        comes_back(co);
    if (s->occupant == co)
        occupy(s, NULL); /* we may run there still: its next occupant comes by the mover */
    cr__image_put(s->shared->images, image_of(co).start);
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

const char *cr__shared_image(const struct cr_co *co, char **sp, size_t *live_bytes)
{
    struct live live = live_of(co);
    *sp = live.sp;
    *live_bytes = live.count;
    return live.bytes;
}
