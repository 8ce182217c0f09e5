/* Which virtual stacks are frozen, and when: those of coroutines that have been parked on this worker for longer than a limit, or at all when the memory budget is
 * nearly used up. A hand goes round the worker's slots, chunk by chunk, in each in the order of their addresses, some at each turn of the loop, so that neighbours are frozen by one call.
 *
 * Not frozen: one that may migrate (another worker could resume it meanwhile), that waits inside a bare coroutine, or that waits for a thread or the kernel to
 * be done with what may lie on its stack. Claims may come from anywhere while its stack is being frozen; only this worker resumes it, and it thaws it first. */
#include "sched/worker.h"

#include "obs/obs.h"
#include "os/os.h"
#include "sched/budget.h"

#define SLICE_SLOTS 1024
#define SLOTS_AHEAD 8 /* misses that are under way at once: those that are looked at have waited for long, and are cold */
#define ROUND_MOST_NS (CR_SEC / 4) /* between the end of one round and the next: the limit, within these */
#define ROUND_LEAST_NS CR_MS

/* Whether its coroutine could be frozen now, if it were for its kind of wait; and since when it waits. */
static bool is_idle(const struct cr__worker *w, const struct cr__record *record, uint32_t *idle_units)
{
    uint32_t word = atomic_load_explicit(&record->word, memory_order_relaxed);
    if ((word & CR__STATE) != CR__WAITING || cr__park_worker_in(word) != w->index || cr__park_kind(word) == CR__WAIT_BLOCKING)
        return false;
    *idle_units = (uint32_t)((uint64_t)w->now_ns >> CR__SINCE_SHIFT) - record->since;
    return record->co.below == &record->co && !(cr__co_flags(&record->co) & (CR_MIGRATABLE | CR__CO_AWAY));
}

static void freeze(struct cr__worker *w, struct cr__freezing *f)
{
    unsigned frozen = cr__freeze(f);
    for (unsigned i = 0; i < frozen; i++) {
        struct cr_co *co = &((struct cr__record *)f->stacks[i].slot->owner)->co;
        cr__co_away_set(co, true);
        cr__stack_freezes(&w->virtuals, co->stack);
    }
    w->frozen += frozen;
    f->count = 0;
}

/* What is_idle reads, of the one whose turn comes soon. */
static inline void look_ahead(struct cr__worker *w)
{
    const struct cr__slot *slot = cr__stack_slot_number(w->hand, w->hand_at + SLOTS_AHEAD);
    if (slot) {
        const struct cr__record *record = slot->owner;
        __builtin_prefetch(&record->word);
        __builtin_prefetch(&record->co.sp);
    }
}

/* Goes on where it stopped. Returns how many slots it has looked at: fewer than most when the round is over. */
static unsigned look_round(struct cr__worker *w, unsigned most, uint32_t limit_units)
{
    struct cr__freezing f = {.images = &w->images};
    unsigned looked = 0;
    if (w->hand_lost != w->virtuals.chunks_lost)
        w->hand = NULL;
    w->hand_lost = w->virtuals.chunks_lost;
    while (looked < most && f.count < CR__FREEZE_MOST) {
        struct cr__slot *slot = w->hand ? cr__stack_slot_number(w->hand, w->hand_at++) : NULL;
        if (!slot) {
            w->hand_at = 0;
            w->hand = cr__stack_chunk_next(&w->virtuals, w->hand);
            if (!w->hand || f.count > CR__FREEZE_MOST / 2) /* neighbours end here */
                break;
            continue;
        }
        looked++;
        look_ahead(w);
        struct cr__record *record = slot->owner;
        uint32_t idle_units;
        if (!record || !is_idle(w, record, &idle_units) || idle_units < limit_units)
            continue;
        char *low, *top;
        cr__stack_slot_place(w->hand, w->hand_at - 1, &low, &top);
        if (cr__freeze_add(&f, slot, low, record->co.sp, top) < 0)
            break;
    }
    if (f.count > 0)
        freeze(w, &f);
    return w->hand ? looked : 0;
}

static inline bool anything_to_do(const struct cr__worker *w)
{
    return w->on_virtual > w->frozen && w->freeze_after_ns >= 0;
}

static int64_t round_ns(int64_t limit_ns)
{
    if (limit_ns < ROUND_LEAST_NS)
        return ROUND_LEAST_NS;
    return limit_ns < ROUND_MOST_NS ? limit_ns : ROUND_MOST_NS;
}

static int64_t limit_now_ns(const struct cr__worker *w)
{
    return CR__UNLIKELY(cr__budget_tight(w)) ? 0 : w->freeze_after_ns;
}

void cr__freezer_turn(struct cr__worker *w)
{
    if (CR__LIKELY(!anything_to_do(w)))
        return;
    int64_t limit_ns = limit_now_ns(w);
    if (!w->hand && w->now_ns - w->round_ns < round_ns(limit_ns))
        return;
    uint32_t limit_units = limit_ns >> CR__SINCE_SHIFT < UINT32_MAX ? (uint32_t)(limit_ns >> CR__SINCE_SHIFT) : UINT32_MAX;
    bool over = look_round(w, SLICE_SLOTS, limit_units) == 0;
    if (!w->fate) /* under a seed it takes none: how often it looks depends on where stacks lie */
        w->now_ns = cr__os_now_ns(); /* this is not to be taken for the coroutines' time */
    if (over)
        w->round_ns = w->now_ns;
}

int64_t cr__freezer_due_in(const struct cr__worker *w)
{
    if (!anything_to_do(w))
        return -1;
    return w->hand ? 0 : round_ns(limit_now_ns(w));
}

static struct cr__slot *slot_of(const struct cr__record *record)
{
    char *low, *top;
    return cr__stack_slot(cr__virtual_chunk(record->co.stack.top - 1), record->co.stack.top - 1, &low, &top);
}

int cr__freezer_thaw(struct cr__worker *w, struct cr__record *record)
{
    int r = cr__thaw(slot_of(record), &w->images, record->co.stack.top, w->staged);
    if (r == 0) {
        cr__co_away_set(&record->co, false);
        cr__stack_thaws(&w->virtuals, record->co.stack);
        w->frozen--;
    }
    return r;
}

/* Found out when there is something to freeze. */
static void begin(struct cr__worker *w)
{
    const char *why;
    w->freezer_begun = true;
    if (w->freeze_after_ns < 0 || cr__virtual_freezes(&why))
        return;
    w->freeze_after_ns = -1;
    if (!atomic_exchange_explicit(&w->sched->told_not_frozen, true, memory_order_relaxed))
        cr__report(w->sched->report_fd, "crore: virtual stacks are not frozen: %s\n", why);
}

void cr__freezer_add(struct cr__worker *w, struct cr__record *record)
{
    if (cr__co_flags(&record->co) & CR_MIGRATABLE)
        return;
    slot_of(record)->owner = record;
    w->on_virtual++;
    if (CR__UNLIKELY(!w->freezer_begun))
        begin(w);
}

void cr__freezer_remove(struct cr__worker *w, struct cr__record *record)
{
    if (cr__co_flags(&record->co) & CR_MIGRATABLE)
        return;
    slot_of(record)->owner = NULL;
    w->on_virtual--;
}
