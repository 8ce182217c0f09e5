#include "sched/census.h"

#include <stdlib.h>
#include <string.h>

#include "obs/obs.h"
#include "sched/tally.h"

#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#define SLOTS (2 * CR__CENSUS_SITES)
#define FINE_BYTES 16u      /* classes of live bytes: in steps of 16 up to 8 KiB, */
#define FINE_CLASSES 512u
#define COARSE_BITS 13      /* then eight to a power of two, up to 1 GiB */
#define COARSE_CLASSES (8 * (30 - COARSE_BITS))
#define ZEROES_BYTES ((size_t)64 << 10)
#define AHEAD_BYTES 1024    /* what the runtime does between two turns, on a stack that is not packed */

struct site {
    void (*entry)(void);
    const void *from; /* the return address of the call that spawned; NULL: the runtime itself */
    uint32_t stack_bytes;
    enum cr_stack_kind kind;
    uint64_t spawned, ended, most; /* most: at once */
    uint32_t deepest;
    uint64_t parks;
    uint32_t live[FINE_CLASSES + COARSE_CLASSES]; /* how often a coroutine parked with so much */
};

struct cr__census {
    _Atomic uint8_t lock;
    unsigned used;
    uint64_t others; /* spawned from places that have found no room */
    struct site *sites[CR__CENSUS_SITES];
    uint16_t slots[SLOTS]; /* index of a site, plus 1 */
};

/* ---- What it would recommend --------------------------------------------------------------------------------- */

/* docs/stacks.md says why. */
struct cr__census_advice cr__census_advise(uint32_t deepest_bytes, uint32_t live_bytes, uint64_t at_once)
{
    uint32_t size = cr__stack_size(deepest_bytes + deepest_bytes / 2 + AHEAD_BYTES);
    bool packs = deepest_bytes + deepest_bytes / 4 <= CR__PACKED_ROOM_BYTES - CR__PACKED_CANARY_WORDS * sizeof(uint64_t);
    uint32_t touched = packs ? 4096 : size;
    if (at_once * touched <= CR__CENSUS_FEW_BYTES)
        return (struct cr__census_advice){CR_STACK_STATIC, size};
    if (packs)
        return (struct cr__census_advice){CR_STACK_STATIC, CR__PACKED_BYTES};
    if (live_bytes <= CR__CENSUS_COPY_BYTES && size <= CR_STACK_SHARED_MOST_BYTES)
        return (struct cr__census_advice){CR_STACK_SHARED, size};
    return (struct cr__census_advice){CR_STACK_VIRTUAL, size > CR__STACK_DEFAULT_BYTES ? size : CR__STACK_DEFAULT_BYTES};
}

/* ---- Sites --------------------------------------------------------------------------------------------------- */

static bool is_same(const struct site *site, const struct cr_co *co, const void *from)
{
    return site->entry == co->entry && site->from == from && site->stack_bytes == co->stack.size_bytes && site->kind == cr__co_kind(co);
}

static struct site *site_make(struct cr__census *census, const struct cr_co *co, const void *from)
{
    struct site *site = census->used < CR__CENSUS_SITES ? cr__mem_alloc(sizeof(*site), CR__MEM_OTHER) : NULL;
    if (site) {
        site->entry = co->entry;
        site->from = from;
        site->stack_bytes = co->stack.size_bytes;
        site->kind = cr__co_kind(co);
        census->sites[census->used++] = site;
    }
    return site;
}

/* Its number, from 1 on; 0: there is no room for another one. Under the lock. */
static uint16_t site_of(struct cr__census *census, const struct cr_co *co, const void *from)
{
    uintptr_t hash = ((uintptr_t)co->entry ^ (uintptr_t)from * 31 ^ co->stack.size_bytes) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    for (;; hash++) {
        uint16_t *slot = &census->slots[hash % SLOTS];
        if (*slot == 0)
            return site_make(census, co, from) ? *slot = (uint16_t)census->used : 0;
        if (is_same(census->sites[*slot - 1], co, from))
            return *slot;
    }
}

void cr__census_spawned(struct cr__worker *w, struct cr_co *co)
{
    struct cr__census *census = w->census;
    struct cr__co_cold *cold = cr__co_cold_of(co);
    cr__spin_lock(&census->lock);
    uint16_t number = cold ? site_of(census, co, w->spawned_from) : 0;
    if (number > 0) {
        struct site *site = census->sites[number - 1];
        uint64_t alive = ++site->spawned - site->ended;
        site->most = alive > site->most ? alive : site->most;
        cold->site = number;
    } else {
        census->others++;
    }
    cr__spin_unlock(&census->lock);
    w->spawned_from = NULL;
    co->mode |= CR__MODE(0, CR__CO_CHECKED);
}

/* ---- How deep ------------------------------------------------------------------------------------------------ */

/* Zeroes what lies below `end`; returns the lowest word that was not zero, or NULL. */
static uint64_t *clear_below(uint64_t *end, const uint64_t *low)
{
    uint64_t *lowest = NULL;
    size_t zeroes = 0;
    for (uint64_t *at = end; at > low && zeroes < ZEROES_BYTES; zeroes += sizeof(*at)) {
        if (*--at != 0) {
            *at = 0;
            lowest = at;
            zeroes = 0;
        }
    }
    return lowest;
}

static const uint64_t *low_of(struct cr__stack stack)
{
    const char *low = cr__stack_low(stack);
    if (stack.size_bytes == CR__PACKED_BYTES)
        low += CR__PACKED_CANARY_WORDS * sizeof(uint64_t);
    return (const uint64_t *)(const void *)low;
}

/* How deep has been what is below sp; it is zeroes afterwards. */
static uint32_t depth(struct cr__stack stack, void *sp)
{
    char *lowest = (char *)clear_below(sp, low_of(stack));
    return (uint32_t)(stack.top - (lowest ? lowest : (char *)sp));
}

/* What lies in memory of a slab's may be anybody's. */
void cr__census_started(const struct cr_co *co)
{
    if (cr__co_is_packed(co))
        memset((void *)(uintptr_t)low_of(co->stack), 0, (size_t)((char *)co->sp - (char *)(uintptr_t)low_of(co->stack)));
}

static unsigned class_of(uint32_t live)
{
    if (live < FINE_BYTES * FINE_CLASSES)
        return live / FINE_BYTES;
    unsigned power = cr__bits_highest(live), class = FINE_CLASSES + 8 * (power - COARSE_BITS) + (live >> (power - 3) & 7);
    return class < FINE_CLASSES + COARSE_CLASSES ? class : FINE_CLASSES + COARSE_CLASSES - 1;
}

static uint32_t class_bytes(unsigned class)
{
    if (class < FINE_CLASSES)
        return class * FINE_BYTES;
    class -= FINE_CLASSES;
    return (8 + class % 8) << (class / 8 + COARSE_BITS - 3);
}

static struct site *lock_site(struct cr__census *census, unsigned number)
{
    cr__spin_lock(&census->lock);
    return census->sites[number - 1];
}

static void deepen(struct site *site, uint32_t deepest)
{
    site->deepest = deepest > site->deepest ? deepest : site->deepest;
}

void cr__census_stopped(struct cr__worker *w, const struct cr_co *co, bool parked)
{
    unsigned number = co->cold ? co->cold->site : 0;
    if (number == 0 || (cr__co_flags(co) & CR__CO_AWAY)) /* away: a bare one inside it has its stack */
        return;
    uint32_t deepest = depth(co->stack, co->sp);
    struct site *site = lock_site(w->census, number);
    deepen(site, deepest);
    if (parked) {
        site->parks++;
        site->live[class_of((uint32_t)(co->stack.top - (char *)co->sp))]++;
    }
    cr__spin_unlock(&w->census->lock);
}

void cr__census_ended(struct cr__worker *w)
{
    unsigned number = w->ended_site;
    uint32_t deepest = depth(w->ended_stack, w->ended_stack.top - CR__ARCH_TOP_BYTES);
    w->ended_site = 0;
    if (number == 0)
        return;
    struct site *site = lock_site(w->census, number);
    deepen(site, deepest);
    site->ended++;
    cr__spin_unlock(&w->census->lock);
}

/* ---- A runtime's census -------------------------------------------------------------------------------------- */

int cr__census_open(struct cr__sched *s)
{
#if defined(CR__ASAN) || defined(CR__TSAN)
    bool possible = false;
#else
    bool possible = !RUNNING_ON_VALGRIND;
#endif
    if (!possible) {
        cr__report(s->report_fd, "crore: no census of stacks is taken: they are not here what they are without sanitizers and valgrind\n");
        return 0;
    }
    s->census = cr__mem_alloc(sizeof(*s->census), CR__MEM_OTHER);
    return s->census ? 0 : -ENOMEM;
}

static uint32_t median(const struct site *site)
{
    uint64_t seen = 0;
    unsigned class = 0;
    while (class < CR__COUNT(site->live) && (seen += site->live[class]) <= site->parks / 2)
        class++;
    return site->parks ? class_bytes(class) : 0;
}

static void tell_site(const struct site *site, struct cr__out *out)
{
    char function[128], from[128];
    uint32_t live = median(site);
    struct cr__census_advice advice = cr__census_advise(site->deepest, live, site->most);
    cr__out_put(out, "  %llu of %s, spawned %s%s: at most %llu at once\n", (unsigned long long)site->spawned,
                cr__symbol_of((void *)site->entry, function, sizeof(function)), site->from ? "at " : "by the runtime",
                site->from ? cr__symbol_at(site->from, from, sizeof(from)) : "", (unsigned long long)site->most);
    cr__out_put(out, "    deepest %u bytes; ", site->deepest);
    if (site->parks)
        cr__out_put(out, "live when parked %u bytes (median of %llu times)\n", live, (unsigned long long)site->parks);
    else
        cr__out_put(out, "never parked\n");
    cr__out_put(out, "    %s of %u bytes; recommended: %s of %u bytes%s\n", cr__stack_kind_names[site->kind], site->stack_bytes, cr__stack_kind_names[advice.kind], advice.size_bytes,
                advice.kind == CR_STACK_SHARED ? ", if nobody else has pointers to their locals, else virtual" : "");
}

static int by_memory(const void *a, const void *b)
{
    const struct site *left = *(struct site *const *)a, *right = *(struct site *const *)b;
    uint64_t l = left->most * left->deepest, r = right->most * right->deepest;
    return l < r ? 1 : l > r ? -1 : 0;
}

static void tell(struct cr__sched *s, struct cr__census *census)
{
    struct cr__out out;
    uint64_t spawned = census->others;
    for (unsigned i = 0; i < census->used; i++)
        spawned += census->sites[i]->spawned;
    qsort(census->sites, census->used, sizeof(*census->sites), by_memory);
    cr__out_init(&out, s->report_fd, NULL);
    cr__out_put(&out, "crore: census of stacks: %llu coroutine%s from %u place%s\n", (unsigned long long)spawned, spawned == 1 ? "" : "s", census->used,
                census->used == 1 ? "" : "s");
    for (unsigned i = 0; i < census->used; i++)
        tell_site(census->sites[i], &out);
    if (census->others)
        cr__out_put(&out, "  and %llu from other places, for which there was no room\n", (unsigned long long)census->others);
    cr__out_flush(&out);
}

void cr__census_close(struct cr__sched *s)
{
    struct cr__census *census = s->census;
    if (!census)
        return;
    tell(s, census);
    for (unsigned i = 0; i < census->used; i++)
        cr__mem_free(census->sites[i], sizeof(struct site), CR__MEM_OTHER);
    cr__mem_free(census, sizeof(*census), CR__MEM_OTHER);
    s->census = NULL;
}
