/* The pools of static and virtual stacks; stack.h has the picture. */
#include "stack/stack.h"

#include <stdatomic.h>
#include <string.h>

#include "mem/mem.h"
#include "os/os.h"

#ifdef CR__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
#endif
#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(low, top) 0
#endif

#define CHUNK_TARGET_BYTES ((size_t)8 << 20)
#define CHUNK_MIN_SLOTS 4
#define CHUNK_MAX_SLOTS 1024

struct cr__stack_chunk {
    struct cr__stack_chunk *next; /* in its pool */
    char *base;
    size_t slot_bytes, guard_bytes;
    uint32_t slots;
    uint32_t stack_bytes;
    struct cr__slot *states; /* of virtual stacks: one for each */
};

/* All chunks of all pools, for the fault handler, which can't lock: entries are filled before they are counted,
 * and emptied in place. A chunk that finds no entry has guards that work, but a bare SIGSEGV. */
#define DIRECTORY_ENTRIES 65536
static _Atomic(struct cr__stack_chunk *) directory[DIRECTORY_ENTRIES];
static _Atomic uint32_t directory_used;
static _Atomic int32_t directory_holes; /* about how many entries below that are empty: none, and nothing is searched */

/* How guards are made, learned at the first one; any thread may find out, all find the same. */
static _Atomic enum { GUARDS_UNKNOWN, GUARDS_LIGHT, GUARDS_BY_MPROTECT } guard_kind;

/* Up to 8 pages each number of them, above that four sizes to a power of two: few enough for a class each, and what is more than was
 * wished for is untouched. */
uint32_t cr__stack_size(size_t wish_bytes)
{
    if (wish_bytes == 0)
        return CR__STACK_DEFAULT_BYTES;
    if (wish_bytes > CR__STACK_MAX_BYTES)
        return 0;
    size_t step = 4096, pages = (wish_bytes + 4095) / 4096;
    if (pages > 8)
        step <<= cr__bits_highest(pages - 1) - 2;
    return (uint32_t)cr__round_up(wish_bytes, step);
}

void cr__stack_pool_init(struct cr__stack_pool *pool, size_t guard_bytes, size_t max_bytes)
{
    CR__ASSERT(guard_bytes % 4096 == 0);
    *pool = (struct cr__stack_pool){.guard_bytes = guard_bytes, .max_bytes = max_bytes};
}

static void directory_add(struct cr__stack_chunk *chunk)
{
    uint32_t used = atomic_load_explicit(&directory_holes, memory_order_relaxed) > 0 ? atomic_load(&directory_used) : 0;
    for (uint32_t i = 0; i < used && i < DIRECTORY_ENTRIES; i++) {
        struct cr__stack_chunk *empty = NULL;
        if (atomic_load_explicit(&directory[i], memory_order_relaxed) == NULL &&
            atomic_compare_exchange_strong(&directory[i], &empty, chunk)) {
            atomic_fetch_sub(&directory_holes, 1);
            return;
        }
    }
    uint32_t i = atomic_fetch_add(&directory_used, 1);
    if (i < DIRECTORY_ENTRIES)
        atomic_store(&directory[i], chunk);
    else
        atomic_fetch_sub(&directory_used, 1);
}

static void directory_remove(struct cr__stack_chunk *chunk)
{
    uint32_t used = atomic_load(&directory_used);
    for (uint32_t i = 0; i < used && i < DIRECTORY_ENTRIES; i++) {
        struct cr__stack_chunk *self = chunk;
        if (atomic_compare_exchange_strong(&directory[i], &self, NULL)) {
            atomic_fetch_add(&directory_holes, 1);
            return;
        }
    }
}

/* Whether addr lies in one of the chunk's slots; then *out is its stack. */
static bool slot_at(const struct cr__stack_chunk *chunk, const void *addr, struct cr__stack *out, size_t *offset)
{
    size_t at = (size_t)((const char *)addr - chunk->base);
    if (at >= chunk->slots * chunk->slot_bytes)
        return false;
    char *slot = chunk->base + at / chunk->slot_bytes * chunk->slot_bytes;
    *out = (struct cr__stack){.top = slot + chunk->slot_bytes, .size_bytes = chunk->stack_bytes};
    *offset = at % chunk->slot_bytes;
    return true;
}

bool cr__stack_guard_hit(const void *addr, struct cr__stack *out)
{
    size_t at;
    struct cr__stack_chunk *virtual = cr__virtual_chunk(addr);
    if (virtual)
        return slot_at(virtual, addr, out, &at) && at < virtual->guard_bytes;
    uint32_t used = atomic_load(&directory_used);
    for (uint32_t i = 0; i < used && i < DIRECTORY_ENTRIES; i++) {
        struct cr__stack_chunk *chunk = atomic_load(&directory[i]);
        if (!chunk || (const char *)addr < chunk->base)
            continue;
        if (slot_at(chunk, addr, out, &at))
            return at < chunk->guard_bytes;
    }
    return false;
}

static struct cr__stack_class *class_of(struct cr__stack_pool *pool, uint32_t size_bytes)
{
    for (struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES; c++) {
        if (c->size_bytes == 0)
            c->size_bytes = size_bytes;
        if (c->size_bytes == size_bytes)
            return c;
    }
    return NULL;
}

/* The leak checker looks for pointers on stacks, too, but must not look at guards. */
static void leak_check(const struct cr__stack_chunk *chunk, bool begin)
{
#ifdef CR__ASAN
    for (uint32_t i = 0; i < chunk->slots; i++) {
        const char *low = chunk->base + i * chunk->slot_bytes + chunk->guard_bytes;
        (begin ? __lsan_register_root_region : __lsan_unregister_root_region)(low, chunk->stack_bytes);
    }
#else
    (void)chunk;
    (void)begin;
#endif
}

/* The guard below a stack of that size: a page wider if the stacks would else be an even number of pages apart. Tops that are, say, 24
 * pages apart share an eighth of the TLB's sets, and a thousand coroutines in turn miss it each time. */
static size_t guard_of(const struct cr__stack_pool *pool, size_t size_bytes)
{
    bool even = (pool->guard_bytes + size_bytes) / 4096 % 2 == 0;
    return pool->guard_bytes + (even ? 4096 : 0);
}

unsigned cr__stack_class(struct cr__stack_pool *pool, uint32_t size_bytes)
{
    return (unsigned)(class_of(pool, size_bytes) - pool->classes);
}

static int chunk_add(struct cr__stack_pool *pool, struct cr__stack_class *c)
{
    size_t guard_bytes = guard_of(pool, c->size_bytes), slot_bytes = guard_bytes + c->size_bytes;
    size_t slots = CHUNK_TARGET_BYTES / slot_bytes;
    slots = slots < CHUNK_MIN_SLOTS ? CHUNK_MIN_SLOTS : slots > CHUNK_MAX_SLOTS ? CHUNK_MAX_SLOTS : slots;
    if (pool->max_bytes) {
        size_t room = pool->bytes < pool->max_bytes ? (pool->max_bytes - pool->bytes) / slot_bytes : 0;
        slots = slots < room ? slots : room;
        size_t share = pool->max_bytes / 16 / slot_bytes + 1; /* one size must not take all at once */
        slots = slots < share ? slots : share;
    }
    if (slots == 0)
        return -ENOMEM;
    struct cr__stack_chunk *chunk = cr__mem_alloc(sizeof(*chunk), CR__MEM_OTHER);
    if (!chunk)
        return -ENOMEM;
    struct cr__slot *states = pool->is_virtual ? cr__mem_alloc(slots * sizeof(*states), CR__MEM_RECORDS) : NULL;
    char *base = states ? cr__virtual_map(slots * slot_bytes) : NULL;
    if (!base && !pool->is_virtual && (base = cr__mem_map(slots * slot_bytes, CR__MEM_STACKS)) != NULL)
        cr__mem_advise(base, slots * slot_bytes, MADV_NOHUGEPAGE); /* one touched page must cost one page; a refusal is harmless */
    if (!base) {
        cr__mem_free(states, slots * sizeof(*states), CR__MEM_RECORDS);
        cr__mem_free(chunk, sizeof(*chunk), CR__MEM_OTHER);
        return -ENOMEM;
    }
    *chunk = (struct cr__stack_chunk){
        .next = pool->chunks,
        .base = base,
        .slot_bytes = slot_bytes,
        .guard_bytes = guard_bytes,
        .slots = (uint32_t)slots,
        .stack_bytes = c->size_bytes,
        .states = states,
    };
    pool->chunks = chunk;
    pool->bytes += slots * slot_bytes;
    c->fresh = base;
    c->end = base + slots * slot_bytes;
    if (states)
        cr__virtual_enter(base, slots * slot_bytes, chunk);
    else
        directory_add(chunk);
    leak_check(chunk, true);
    return 0;
}

/* Old kernels refuse the advice; emulators of user programs accept what they don't know and do nothing: so the first guard is tried. */
static int guard_learn(char *addr, size_t size_bytes)
{
    int r = cr__mem_advise(addr, size_bytes, MADV_GUARD_INSTALL);
    if (r < 0 && r != -EINVAL)
        return r;
    bool light = r == 0 && cr__os_probe_write(addr) == -EFAULT;
    atomic_store_explicit(&guard_kind, light ? GUARDS_LIGHT : GUARDS_BY_MPROTECT, memory_order_relaxed);
    return light ? 0 : cr__mem_protect(addr, size_bytes, PROT_NONE);
}

bool cr__stack_guards_light(char *page)
{
    if (atomic_load_explicit(&guard_kind, memory_order_relaxed) == GUARDS_UNKNOWN && guard_learn(page, 4096) == 0)
        cr__mem_advise(page, 4096, MADV_GUARD_REMOVE);
    return atomic_load_explicit(&guard_kind, memory_order_relaxed) == GUARDS_LIGHT;
}

static int guard_install(char *addr, size_t size_bytes)
{
    switch (atomic_load_explicit(&guard_kind, memory_order_relaxed)) {
    case GUARDS_LIGHT: {
        int r = cr__mem_advise(addr, size_bytes, MADV_GUARD_INSTALL);
        return r == -EINVAL ? cr__mem_protect(addr, size_bytes, PROT_NONE) : r; /* locked memory (mlockall) takes none */
    }
    case GUARDS_BY_MPROTECT:
        return cr__mem_protect(addr, size_bytes, PROT_NONE);
    default:
        return guard_learn(addr, size_bytes);
    }
}

static void chunk_unmap(struct cr__stack_chunk *chunk)
{
    size_t bytes = chunk->slots * chunk->slot_bytes;
    if (!chunk->states)
        directory_remove(chunk);
    leak_check(chunk, false);
#ifdef CR__ASAN
    __asan_unpoison_memory_region(chunk->base, bytes);
#endif
    if (chunk->states)
        cr__virtual_unmap(chunk->base, bytes);
    else
        cr__mem_unmap(chunk->base, bytes, CR__MEM_STACKS);
    cr__mem_free(chunk->states, chunk->slots * sizeof(*chunk->states), CR__MEM_RECORDS);
    cr__mem_free(chunk, sizeof(*chunk), CR__MEM_OTHER);
}

static bool lies_in(const struct cr__stack_chunk *chunk, const char *addr)
{
    return addr >= chunk->base && addr < chunk->base + chunk->slots * chunk->slot_bytes;
}

static char **link_of(char *top)
{
    return (char **)(void *)(top - sizeof(char *));
}

static char *pop(char **list)
{
    char *top = *list;
    if (top)
        *list = *link_of(top);
    return top;
}

static void push(char **list, char *top)
{
    *link_of(top) = *list;
    *list = top;
}

static uint32_t count_in(char *list, const struct cr__stack_chunk *chunk)
{
    uint32_t count = 0;
    for (char *top = list; top; top = *link_of(top))
        count += lies_in(chunk, top - 1);
    return count;
}

static uint32_t take_out(char **list, const struct cr__stack_chunk *chunk)
{
    uint32_t count = 0;
    for (char **link = list, *top; (top = *link) != NULL;) {
        bool there = lies_in(chunk, top - 1);
        count += there;
        if (there)
            *link = *link_of(top);
        else
            link = link_of(top);
    }
    return count;
}

/* How many of a chunk's stacks nobody uses. */
static uint32_t unused(const struct cr__stack_class *c, const struct cr__stack_chunk *chunk)
{
    uint32_t count = 0;
    if (c->end && lies_in(chunk, c->end - 1))
        count = (uint32_t)((size_t)(c->end - c->fresh) / chunk->slot_bytes);
    count += count_in(c->free, chunk) + count_in(c->shallow, chunk);
    for (uint32_t i = 0; i < c->cold_count; i++)
        count += lies_in(chunk, c->cold[i] - 1);
    return count;
}

static void forget(struct cr__stack_class *c, const struct cr__stack_chunk *chunk)
{
    if (c->end && lies_in(chunk, c->end - 1))
        c->fresh = c->end = NULL;
    uint32_t shallow = take_out(&c->shallow, chunk);
    c->shallow_count -= shallow;
    c->warm -= shallow + take_out(&c->free, chunk);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->cold_count; i++) {
        if (!lies_in(chunk, c->cold[i] - 1))
            c->cold[kept++] = c->cold[i];
    }
    c->cold_count = kept;
}

/* Unmaps the chunks of which no stack is in use, for a size that finds no room; but not the one that we run on: a coroutine that ends has
 * given its stack back already. Returns whether there were any. */
static bool reclaim(struct cr__stack_pool *pool)
{
    const char *here = __builtin_frame_address(0);
    bool any = false;
    for (struct cr__stack_chunk **link = &pool->chunks, *chunk; (chunk = *link) != NULL;) {
        struct cr__stack_class *c = class_of(pool, chunk->stack_bytes);
        if (lies_in(chunk, here) || unused(c, chunk) < chunk->slots) {
            link = &chunk->next;
            continue;
        }
        forget(c, chunk);
        *link = chunk->next;
        pool->bytes -= chunk->slots * chunk->slot_bytes;
        chunk_unmap(chunk);
        any = true;
    }
    pool->chunks_lost += any;
    return any;
}

bool cr__stack_fits_bound(const struct cr__stack_pool *pool, uint32_t size_bytes)
{
    return guard_of(pool, size_bytes) + size_bytes <= pool->max_bytes;
}

static char *top_of(char *slot, size_t slot_bytes)
{
    size_t colour = ((uintptr_t)slot / slot_bytes) % CR__STACK_COLOURS;
    return slot + slot_bytes - colour * CR__STACK_COLOUR_BYTES;
}

void cr__stack_slot_place(const struct cr__stack_chunk *chunk, uint32_t i, char **low, char **top)
{
    char *slot = chunk->base + i * chunk->slot_bytes;
    *low = slot + chunk->guard_bytes;
    *top = top_of(slot, chunk->slot_bytes);
}

struct cr__slot *cr__stack_slot(struct cr__stack_chunk *chunk, const void *addr, char **low, char **top)
{
    size_t i = (size_t)((const char *)addr - chunk->base) / chunk->slot_bytes;
    if (i >= chunk->slots)
        return NULL;
    cr__stack_slot_place(chunk, (uint32_t)i, low, top);
    return &chunk->states[i];
}

struct cr__stack_chunk *cr__stack_chunk_next(const struct cr__stack_pool *pool, const struct cr__stack_chunk *after)
{
    return after ? after->next : pool->chunks;
}

struct cr__slot *cr__stack_slot_number(struct cr__stack_chunk *chunk, uint32_t i)
{
    return i < chunk->slots ? &chunk->states[i] : NULL;
}

static int taken(struct cr__stack_class *c, char *top, struct cr__stack *out)
{
    c->warm++;
    if (++c->in_use > c->peak)
        c->peak = c->in_use;
    *out = (struct cr__stack){.top = top, .size_bytes = c->size_bytes};
    return 0;
}

int cr__stack_get_slow(struct cr__stack_pool *pool, uint32_t size_bytes, struct cr__stack *out)
{
    struct cr__stack_class *c = class_of(pool, size_bytes);
    size_t guard_bytes = guard_of(pool, size_bytes), slot_bytes = guard_bytes + size_bytes;
    if (cr__stack_take_returned(pool) && c->free)
        return cr__stack_get(pool, size_bytes, out);
    if (c->shallow) {
        c->shallow_count--;
        push(&c->free, pop(&c->shallow));
        return cr__stack_get(pool, size_bytes, out);
    }
    if (c->cold_count > 0)
        return taken(c, c->cold[--c->cold_count], out);
    if (c->fresh == c->end) {
        int r = chunk_add(pool, c);
        if (r == -ENOMEM && reclaim(pool))
            r = chunk_add(pool, c);
        if (r < 0)
            return r;
    }
    if (guard_install(c->fresh, guard_bytes) < 0)
        return -ENOMEM;
    char *top = top_of(c->fresh, slot_bytes);
    (void)VALGRIND_STACK_REGISTER(c->fresh + guard_bytes, c->fresh + slot_bytes); /* a switch is no allocation of locals */
    c->fresh += slot_bytes;
    return taken(c, top, out);
}

char *cr__stack_low(struct cr__stack stack)
{
    if (stack.size_bytes == CR__PACKED_BYTES)
        return cr__packed_low(stack.top);
    /* the slot's end is the next page boundary: colours are less than a page */
    char *end = (char *)cr__round_up((uintptr_t)stack.top, 4096);
    return end - cr__stack_bytes(stack);
}

void cr__stack_put(struct cr__stack_pool *pool, struct cr__stack stack)
{
    struct cr__stack_class *c = class_of(pool, stack.size_bytes);
    CR__ASSERT(c->in_use > 0);
#ifdef CR__ASAN
    char *low = cr__stack_low(stack);
    __asan_unpoison_memory_region(low, (size_t)(stack.top - low)); /* frames may have been dropped, not left */
#endif
    push(&c->free, stack.top);
    c->in_use--;
}

/* Where the chain of returned stacks keeps the size, beside the link. */
static uint32_t *returned_size(char *top)
{
    return (uint32_t *)(void *)(top - 2 * sizeof(char *));
}

void cr__stack_put_remote(struct cr__stack_pool *pool, struct cr__stack stack)
{
    *returned_size(stack.top) = stack.size_bytes;
    char *first = atomic_load_explicit(&pool->returned, memory_order_relaxed);
    do
        *link_of(stack.top) = first;
    while (!atomic_compare_exchange_weak_explicit(&pool->returned, &first, stack.top, memory_order_release, memory_order_relaxed));
}

bool cr__stack_take_returned(struct cr__stack_pool *pool)
{
    if (!cr__stack_any_returned(pool))
        return false;
    /* pairs with the release in put_remote */
    char *top = atomic_exchange_explicit(&pool->returned, NULL, memory_order_acquire);
    while (top) {
        char *next = *link_of(top);
        cr__stack_put(pool, (struct cr__stack){.top = top, .size_bytes = *returned_size(top)});
        top = next;
    }
    return true;
}

/* ---- Giving pages back -------------------------------------------------------------------------------------- *
 *
 * Two things go: all pages of free stacks that are not needed, and of those that stay what a deep use has left below the watermark. The second is looked for with every sixth look, among those
 * that have been used since: who is put goes to `free`, who has been looked at to `shallow`, from where it is taken when `free` is empty. So recycling makes no call, and a stack is asked about
 * once in three seconds at most, however often it is used. Where deep use is the rule that costs a fault for each page in that time.
 *
 * Rejected: a word that is looked at when a stack is put (to read a page that was never touched is a fault, and to touch it beforehand takes the page that is to be saved); giving back with each
 * put (a call each); advising without asking (as dear, and nobody could tell how often there was something). */

#define FREE_KEPT 64     /* of each size */
#define SLICE_STACKS 64
#define DEPTH_LOOKS (CR__STACK_PAST + 1)
#define BEHIND_STACKS 16384 /* 64 MiB at least */

uint64_t cr__stack_pool_in_use(const struct cr__stack_pool *pool)
{
    uint64_t sum = 0;
    for (const struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++)
        sum += c->in_use + c->frozen;
    return sum;
}

void cr__stack_freezes(struct cr__stack_pool *pool, struct cr__stack stack)
{
    struct cr__stack_class *c = class_of(pool, stack.size_bytes);
    c->in_use--;
    c->warm--;
    c->frozen++;
}

void cr__stack_thaws(struct cr__stack_pool *pool, struct cr__stack stack)
{
    struct cr__stack_class *c = class_of(pool, stack.size_bytes);
    c->frozen--;
    c->warm++;
    if (++c->in_use > c->peak)
        c->peak = c->in_use;
}

static void doom(struct cr__stack_class *c, uint32_t needed)
{
    c->doomed = c->warm > needed + FREE_KEPT ? c->warm - needed - FREE_KEPT : 0;
}

static void look_at_depths(struct cr__stack_class *c)
{
    c->looks = 0;
    if (c->size_bytes > CR__STACK_WATERMARK_BYTES)
        c->to_look_at = c->warm - c->in_use - c->shallow_count;
}

void cr__stack_pool_look(struct cr__stack_pool *pool)
{
    cr__stack_take_returned(pool);
    for (struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++) {
        uint32_t needed = c->peak;
        for (int i = CR__STACK_PAST - 1; i >= 0; i--) {
            needed = c->past[i] > needed ? c->past[i] : needed;
            c->past[i] = i > 0 ? c->past[i - 1] : c->peak;
        }
        doom(c, needed);
        c->peak = c->in_use;
        if (++c->looks >= DEPTH_LOOKS)
            look_at_depths(c);
    }
}

void cr__stack_pool_hurry(struct cr__stack_pool *pool)
{
    for (struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++) {
        c->peak = c->in_use;
        memset(c->past, 0, sizeof(c->past));
        doom(c, c->in_use);
        look_at_depths(c);
    }
}

static bool has_room(struct cr__stack_class *c)
{
    if (c->cold_count < c->cold_capacity)
        return true;
    uint32_t capacity = c->cold_capacity ? 2 * c->cold_capacity : 512;
    char **cold = cr__mem_alloc(capacity * sizeof(*cold), CR__MEM_OTHER);
    if (!cold)
        return false;
    if (c->cold)
        memcpy(cold, c->cold, c->cold_count * sizeof(*cold));
    cr__mem_free(c->cold, c->cold_capacity * sizeof(*cold), CR__MEM_OTHER);
    c->cold = cold;
    c->cold_capacity = capacity;
    return true;
}

/* Pages that go back together: a call for each would flush the processors' tables each time. */
struct dropped {
    unsigned count;
    struct iovec ranges[SLICE_STACKS];
};

static void drop(struct dropped *d, char *low, size_t size_bytes)
{
    d->ranges[d->count++] = (struct iovec){low, size_bytes};
}

/* The link in the top word goes, too: the kernel hands out zeroes. */
static bool cool_one(struct cr__stack_class *c, struct dropped *d)
{
    if ((!c->shallow && !c->free) || !has_room(c))
        return false;
    c->shallow_count -= c->shallow != NULL;
    char *top = pop(c->shallow ? &c->shallow : &c->free);
    c->warm--;
    c->cold[c->cold_count++] = top;
    drop(d, cr__stack_low((struct cr__stack){.top = top, .size_bytes = c->size_bytes}), c->size_bytes);
    return true;
}

#define ASKED_PAGES 256 /* at once */

static bool any_touched(char *low, const char *end)
{
    unsigned char pages[ASKED_PAGES];
    for (size_t bytes; low < end; low += bytes) {
        bytes = (size_t)(end - low) < sizeof(pages) * 4096 ? (size_t)(end - low) : sizeof(pages) * 4096;
        if (cr__os_resident(low, bytes, pages) == 0 && memchr(pages, 1, bytes / 4096))
            return true;
    }
    return false;
}

static void trim_one(struct cr__stack_pool *pool, struct cr__stack_class *c, struct dropped *d)
{
    char *top = pop(&c->free), *low = cr__stack_low((struct cr__stack){.top = top, .size_bytes = c->size_bytes});
    size_t below_bytes = c->size_bytes - CR__STACK_WATERMARK_BYTES;
    push(&c->shallow, top);
    c->shallow_count++;
    if (any_touched(low, low + below_bytes)) {
        drop(d, low, below_bytes);
        pool->trimmed++;
    }
}

/* Returns whether there is more of that class. What is left of the slice goes down by stacks, and, of large ones, by the calls that they take. */
static bool shrink_class(struct cr__stack_pool *pool, struct cr__stack_class *c, unsigned *left, struct dropped *d)
{
    uint32_t spare = c->warm > c->peak + FREE_KEPT ? c->warm - c->peak - FREE_KEPT : 0;
    if (c->doomed > spare)
        c->doomed = spare; /* more have come into use since */
    for (; c->doomed > 0 && *left > 0; (*left)--)
        c->doomed = cool_one(c, d) ? c->doomed - 1 : 0;
    unsigned calls = c->size_bytes / (ASKED_PAGES * 4096) + 1;
    for (; c->to_look_at > 0 && c->free && *left > 0; *left -= calls < *left ? calls : *left, c->to_look_at--)
        trim_one(pool, c, d);
    if (!c->free)
        c->to_look_at = 0;
    return c->doomed > 0 || c->to_look_at > 0;
}

bool cr__stack_pool_shrink(struct cr__stack_pool *pool)
{
    unsigned left = SLICE_STACKS;
    struct dropped d = {.count = 0};
    bool more = false;
    for (struct cr__stack_class *c = pool->classes; !more && c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++)
        more = shrink_class(pool, c, &left, &d);
    if (d.count > 0)
        cr__mem_drop_many(d.ranges, d.count);
    return more;
}

bool cr__stack_pool_behind(const struct cr__stack_pool *pool)
{
    uint64_t doomed = 0;
    for (const struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++)
        doomed += c->doomed;
    return doomed > BEHIND_STACKS;
}

bool cr__stack_pool_restless(const struct cr__stack_pool *pool)
{
    if (cr__stack_any_returned(pool))
        return true;
    for (const struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES && c->size_bytes; c++) {
        if (c->warm > c->in_use + FREE_KEPT || (c->free && c->size_bytes > CR__STACK_WATERMARK_BYTES))
            return true;
    }
    return false;
}

void cr__stack_pool_fini(struct cr__stack_pool *pool)
{
    for (struct cr__stack_class *c = pool->classes; c < pool->classes + CR__STACK_CLASSES; c++)
        cr__mem_free(c->cold, c->cold_capacity * sizeof(*c->cold), CR__MEM_OTHER);
    for (struct cr__stack_chunk *chunk = pool->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        chunk_unmap(chunk);
    }
    memset(pool, 0, sizeof(*pool));
}
