/* A dump: all coroutines of a runtime, by what they do and where, while it runs.
 *
 * The runtime's monitor thread conducts it. Each worker walks the records in its own slab, and those of tasks in the slabs of frames, some at each turn of its loop, by a post that posts itself again. What it may
 * read of a record depends on whose that is just now:
 *     anybody                    the word (atomic); the mode (atomic)
 *     the worker whose slab      number and function: written when it spawns, which only that worker does there
 *     it is in ("home")
 *     the worker that it is on   the rest, if by its word it has waited once: then it has started, and, unless it may migrate, nobody else resumes it;
 *                                this worker does not either while it does this
 * So what has not started, is ready or runs is counted by the home worker, and what waits is handed to the worker that it is on, in batches; that one looks at the word
 * again, since it may have gone on, or ended. One that may migrate is held meanwhile: LEFT is taken from it, as if it had not left its stack yet, so who wakes it
 * leaves it to us to make it ready (park.h).
 *
 * All that is under way is counted: `outstanding` of a part is its walk and the batches on their way to it. A worker that does not answer for a second is given up: its
 * part is closed, under the part's lock, and what it finds out later is dropped. The walk's memory goes when the last post of it has been done.
 *
 * The numbers add up to what was found; it is no picture of one moment. */
#include "sched/monitor.h"

#include <string.h>

#include "obs/obs.h"
#include "os/os.h"
#include "sched/worker.h"

#define SLICE_RECORDS 256    /* looked at per turn */
#define SLICE_UNWOUND 2      /* backtraces made per turn: tens of microseconds each */
#define SLICE_NS (50 * 1000)
#define BATCH_RECORDS 32
#define BATCHES_OPEN 4       /* being filled, for different workers */
#define BATCHES_UNDERWAY 8   /* of one home worker */
#define SERVICES_BYTES 16384
#define SILENCE_NS (1000ll * 1000000)
#define LOOK_NS (20ll * 1000000)

struct item {
    struct cr__record *record;
    void (*entry)(void);
    uint32_t id;
};

struct part {
    struct cr__post post;
    struct walk *walk;
    struct cr__worker *worker;
    _Atomic uint8_t lock;           /* who looks at, or changes, what follows: the worker, or the conductor in the end */
    bool closed;
    struct cr__tally tally;
    unsigned slabs;                 /* that it has walked through: the records', and then those of frames */
    struct cr__slab_walk walk_at;
    struct batch *open[BATCHES_OPEN];
    char *services;                 /* what they say of themselves, in SERVICES_BYTES; NULL: there are none */

    _Atomic bool given_up;          /* nobody sends it anything any more */
    _Atomic bool paused;            /* its walk goes on when a batch comes back: whoever clears this sends it on */
    _Atomic unsigned underway;      /* batches of its own that others have */
    _Atomic unsigned outstanding;
    _Atomic unsigned progress;
};

/* What waits on `to`, found by `from`. */
struct batch {
    struct cr__post post;
    struct part *from, *to;
    unsigned count;
    struct item items[BATCH_RECORDS];
};

struct walk {
    struct cr__sched *sched;
    _Atomic int references; /* the conductor's, each part's until its walk is over, each batch's */
    _Atomic uint32_t bell;  /* a futex: something is no longer outstanding */
    unsigned count;
    struct part parts[];
};

static size_t walk_bytes(unsigned count)
{
    return sizeof(struct walk) + count * sizeof(struct part);
}

static void walk_put(struct walk *walk)
{
    if (atomic_fetch_sub_explicit(&walk->references, 1, memory_order_acq_rel) > 1)
        return;
    for (unsigned i = 0; i < walk->count; i++) {
        struct part *part = &walk->parts[i];
        cr__tally_fini(&part->tally);
        cr__mem_free(part->services, SERVICES_BYTES, CR__MEM_OTHER);
        for (unsigned b = 0; b < BATCHES_OPEN; b++)
            cr__mem_free(part->open[b], sizeof(struct batch), CR__MEM_OTHER);
    }
    cr__mem_free(walk, walk_bytes(walk->count), CR__MEM_OTHER);
}

static void settled(struct part *part)
{
    /* release: the conductor adds up what we have counted; pairs with the acquire in is_over */
    if (atomic_fetch_sub_explicit(&part->outstanding, 1, memory_order_release) == 1) {
        atomic_fetch_add_explicit(&part->walk->bell, 1, memory_order_release);
        cr__os_futex_wake_all(&part->walk->bell);
    }
}

static bool ended(struct cr__sched *s)
{
    return atomic_load_explicit(&s->done, memory_order_relaxed);
}

static void post_promised(struct cr__worker *to, struct cr__post *post)
{
    post->promised = true;
    cr__sched_promise(to->sched);
    cr__post(to, post);
}

/* ---- What waits, on the worker that it is on ---------------------------------------------------------------- */

/* Takes LEFT from one that may migrate, and waits: until cr__park_second nobody resumes it. */
static bool hold(struct cr__record *record)
{
    uint32_t old = atomic_load_explicit(&record->word, memory_order_relaxed);
    do {
        if ((old & CR__STATE) != CR__WAITING || !(old & CR__LEFT))
            return false;
        /* acquire: what its last worker wrote; pairs with the release in cr__park_second */
    } while (!atomic_compare_exchange_weak_explicit(&record->word, &old, old & ~(uint32_t)CR__LEFT, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

static void look_at_held(struct part *part, struct cr__record *record)
{
    cr__tally_look(&part->tally, part->worker, record, true);
    if (cr__park_second(&record->word, CR__LEFT))
        cr__ready_here(part->worker, record); /* it was woken meanwhile */
}

/* One that was, by its word, parked or ready here. */
static void look(struct part *part, const struct item *item)
{
    struct cr__record *record = item->record;
    uint32_t word = atomic_load_explicit(&record->word, memory_order_acquire);
    enum cr__wait_state state = word & CR__STATE;
    if (state == CR__FREE)
        return; /* it has ended: not live */
    bool here = cr__park_worker_in(word) == part->worker->index;
    if (here && (word & CR__LEFT) && hold(record))
        look_at_held(part, record);
    else if (here && state >= CR__WAITING && !(word & CR__LEFT))
        cr__tally_look(&part->tally, part->worker, record, state == CR__WAITING);
    else
        cr__tally_plain(&part->tally, item->entry, item->id, CR__DOING_READY, 0, 1);
}

static void go_on(struct part *part);

static void do_batch(struct cr__worker *w, struct cr__post *post)
{
    struct batch *batch = CR__CONTAINER(post, struct batch, post);
    struct part *to = batch->to, *from = batch->from;
    (void)w;
    cr__spin_lock(&to->lock);
    for (unsigned i = 0; i < batch->count && !to->closed; i++)
        look(to, &batch->items[i]);
    cr__spin_unlock(&to->lock);
    cr__mem_free(batch, sizeof(*batch), CR__MEM_OTHER);
    atomic_fetch_add_explicit(&to->progress, 1, memory_order_relaxed);
    atomic_fetch_sub(&from->underway, 1); /* sequentially consistent, as are `paused` and the look at it: one of the two sees the other */
    go_on(from);
    settled(to);
    walk_put(to->walk);
}

/* ---- The walk through a slab -------------------------------------------------------------------------------- */

static void count_silent(struct part *part, struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++)
        cr__tally_plain(&part->tally, batch->items[i].entry, batch->items[i].id, CR__DOING_SILENT, batch->to->worker->index, 1);
}

static void send_batch(struct part *part, struct batch *batch)
{
    if (atomic_load_explicit(&batch->to->given_up, memory_order_relaxed)) {
        count_silent(part, batch);
        cr__mem_free(batch, sizeof(*batch), CR__MEM_OTHER);
        return;
    }
    atomic_fetch_add_explicit(&part->walk->references, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&batch->to->outstanding, 1, memory_order_relaxed);
    atomic_fetch_add(&part->underway, 1);
    batch->post.fn = do_batch;
    post_promised(batch->to->worker, &batch->post);
}

static void send_all(struct part *part)
{
    for (unsigned b = 0; b < BATCHES_OPEN; b++) {
        if (part->open[b])
            send_batch(part, part->open[b]);
        part->open[b] = NULL;
    }
}

/* One that waits, or has, on another worker. */
static void hand_over(struct part *part, unsigned index, const struct item *item)
{
    struct batch **open = &part->open[index % BATCHES_OPEN];
    struct part *to = &part->walk->parts[index];
    if (*open && (*open)->to != to) {
        send_batch(part, *open);
        *open = NULL;
    }
    if (!*open)
        *open = cr__mem_alloc(sizeof(**open), CR__MEM_OTHER);
    if (!*open) {
        cr__tally_plain(&part->tally, item->entry, item->id, CR__DOING_SILENT, index, 1);
        return;
    }
    (*open)->from = part;
    (*open)->to = to;
    (*open)->items[(*open)->count++] = *item;
    if ((*open)->count == BATCH_RECORDS) {
        send_batch(part, *open);
        *open = NULL;
    }
}

static void visit(struct part *part, struct cr__record *record)
{
    /* acquire: if it has started, the word tells where; pairs with the release in cr__co_flags_set */
    unsigned mode = __atomic_load_n(&record->co.mode, __ATOMIC_ACQUIRE), flags = mode >> 8;
    uint32_t word = atomic_load_explicit(&record->word, memory_order_relaxed);
    enum cr__wait_state state = word & CR__STATE;
    unsigned index = cr__park_worker_in(word);
    if (state == CR__FREE)
        return;
    struct item item = {.record = record, .entry = record->co.entry, .id = record->co.id};
    bool stays_here = index == part->worker->index && (flags & CR__CO_STARTED) && !(flags & CR_MIGRATABLE);
    if (state >= CR__WAITING && index != part->worker->index)
        hand_over(part, index, &item);
    else if (state >= CR__WAITING)
        look(part, &item);
    else if (stays_here) /* it yielded, and has never waited */
        cr__tally_look(&part->tally, part->worker, record, false);
    else if (flags & CR__CO_STARTED)
        cr__tally_plain(&part->tally, item.entry, item.id, CR__DOING_READY, 0, 1);
    else if (flags & CR__CO_STARVES)
        cr__tally_starving(&part->tally, item.entry, item.id);
    else
        cr__tally_plain(&part->tally, item.entry, item.id, CR__DOING_NEW, 0, 1);
}

/* The next record; NULL: that was all. */
static struct cr__record *next_record(struct part *part)
{
    struct cr__frames *frames = &part->worker->frames;
    for (; part->slabs <= frames->used_count; part->slabs++) {
        bool plain = part->slabs == 0;
        char *object = cr__slab_walk(plain ? &part->worker->records : &frames->slabs[frames->used[part->slabs - 1]], &part->walk_at);
        if (object)
            return (struct cr__record *)(void *)(object - (plain ? 0 : CR__CO_STACKFUL_BYTES));
        part->walk_at = (struct cr__slab_walk){0};
    }
    return NULL;
}

/* Returns whether that was all. */
static bool walk_some(struct part *part)
{
    int64_t end_ns = cr__os_kernel_ns() + SLICE_NS;
    unsigned unwound = part->tally.unwound;
    for (unsigned i = 1; i <= SLICE_RECORDS; i++) {
        struct cr__record *record = next_record(part);
        if (!record)
            return true;
        visit(part, record);
        if (part->tally.unwound - unwound >= SLICE_UNWOUND || (i % 16 == 0 && cr__os_kernel_ns() > end_ns))
            break;
    }
    return false;
}

static bool may_go_on(struct part *part)
{
    return atomic_load(&part->underway) < BATCHES_UNDERWAY;
}

/* If a walk has paused, and may go on, or has to end: sends it on. */
static void go_on(struct part *part)
{
    struct cr__sched *s = part->walk->sched;
    if (!atomic_load(&part->paused) || !may_go_on(part) || !atomic_exchange(&part->paused, false))
        return;
    if (!ended(s)) {
        post_promised(part->worker, &part->post);
        return;
    }
    settled(part); /* nobody will do it any more */
    walk_put(part->walk);
}

/* Where memory is lacking they are left out. */
static void have_services_tell(struct part *part)
{
    struct cr__service *service = part->worker->services;
    part->services = service ? cr__mem_alloc(SERVICES_BYTES, CR__MEM_OTHER) : NULL;
    for (size_t used = 0; service && part->services; service = service->next) {
        if (service->tell)
            service->tell(service, part->services + used, SERVICES_BYTES - used);
        used += strlen(part->services + used);
    }
}

static void do_slice(struct cr__worker *w, struct cr__post *post)
{
    struct part *part = CR__CONTAINER(post, struct part, post);
    cr__spin_lock(&part->lock);
    bool over = part->closed || ended(w->sched) || walk_some(part);
    if (over && !part->closed && !ended(w->sched)) {
        send_all(part);
        have_services_tell(part);
    }
    cr__spin_unlock(&part->lock);
    atomic_fetch_add_explicit(&part->progress, 1, memory_order_relaxed);
    if (over) {
        settled(part);
        walk_put(part->walk);
    } else if (may_go_on(part)) {
        post_promised(w, &part->post);
    } else {
        atomic_store(&part->paused, true);
        go_on(part); /* if they came back meanwhile */
    }
}

/* ---- The conductor ------------------------------------------------------------------------------------------ */

static bool is_over(struct part *part)
{
    return part->closed || atomic_load_explicit(&part->outstanding, memory_order_acquire) == 0;
}

/* Whoever has paused because of it goes on. */
static void give_up(struct walk *walk, struct part *part)
{
    atomic_store_explicit(&part->given_up, true, memory_order_relaxed);
    cr__spin_lock(&part->lock);
    part->closed = true;
    cr__spin_unlock(&part->lock);
    for (unsigned i = 0; i < walk->count; i++) {
        struct part *other = &walk->parts[i];
        if (!atomic_exchange(&other->paused, false))
            continue;
        other->post.promised = true;
        if (!cr__post_from_outside(walk->sched, other->worker, &other->post)) {
            settled(other);
            walk_put(walk);
        }
    }
}

static struct walk *walk_begin(struct cr__sched *s)
{
    struct walk *walk = cr__mem_alloc(walk_bytes(s->count), CR__MEM_OTHER);
    if (!walk)
        return NULL;
    walk->sched = s;
    walk->count = s->count;
    walk->references = 1;
    for (unsigned i = 0; i < s->count; i++) {
        struct part *part = &walk->parts[i];
        *part = (struct part){.walk = walk, .worker = s->workers[i], .outstanding = 1, .post.fn = do_slice};
        cr__tally_init(&part->tally, cr__os_now_ns());
    }
    for (unsigned i = 0; i < s->count; i++) {
        struct part *part = &walk->parts[i];
        atomic_fetch_add_explicit(&walk->references, 1, memory_order_relaxed);
        if (!cr__post_from_outside(s, part->worker, &part->post)) {
            settled(part);
            walk_put(walk);
        }
    }
    return walk;
}

static bool all_over(struct walk *walk)
{
    for (unsigned i = 0; i < walk->count; i++) {
        if (!is_over(&walk->parts[i]))
            return false;
    }
    return true;
}

/* Gives up whose progress has not changed for a second. */
static void look_for_silence(struct walk *walk, unsigned *progress, int64_t *since_ns, bool hurry)
{
    int64_t now_ns = cr__os_kernel_ns();
    for (unsigned i = 0; i < walk->count; i++) {
        struct part *part = &walk->parts[i];
        unsigned made = atomic_load_explicit(&part->progress, memory_order_relaxed);
        bool paused = atomic_load_explicit(&part->paused, memory_order_relaxed); /* another one is waited for */
        if (made != progress[i] || since_ns[i] == 0 || paused) {
            progress[i] = made;
            since_ns[i] = now_ns;
        }
        if (!is_over(part) && (hurry || now_ns - since_ns[i] >= SILENCE_NS))
            give_up(walk, part);
    }
}

static void wait_for_all(struct cr__watch *watch, struct walk *walk, unsigned *progress, int64_t *since_ns, const _Atomic bool *hurry)
{
    for (;;) {
        int64_t look_ns = cr__watch_look(watch);
        uint32_t bell = atomic_load_explicit(&walk->bell, memory_order_acquire);
        if (all_over(walk))
            return;
        look_for_silence(walk, progress, since_ns, hurry && atomic_load_explicit(hurry, memory_order_relaxed));
        if (all_over(walk))
            return;
        cr__os_futex_wait(&walk->bell, bell, look_ns < LOOK_NS ? look_ns : LOOK_NS);
    }
}

/* What is theirs no more: they have all ended, or are closed. */
static void add_up(struct walk *walk, struct cr__tally *sum)
{
    for (unsigned i = 0; i < walk->count; i++) {
        struct part *part = &walk->parts[i];
        cr__spin_lock(&part->lock);
        part->closed = true;
        for (unsigned b = 0; b < BATCHES_OPEN; b++) {
            if (part->open[b])
                count_silent(part, part->open[b]);
        }
        cr__tally_add(sum, &part->tally);
        cr__spin_unlock(&part->lock);
    }
}

/* ---- Cycles ------------------------------------------------------------------------------------------------- */

struct suspicion {
    struct cr__sched *sched;
    struct cr__out *out;
    const _Atomic bool *hurry;
};

/* A cycle whose parts were seen one after the other need never have been one. So its members are looked at again: if each of them still waits, in the same wait, for the
 * same one, then all of them did at the moment between the last first look and the first second one. */
struct second_look {
    struct cr__post post;
    _Atomic int references;
    _Atomic uint32_t done;
    bool same;
    struct cr__edge edge;
};

static void second_look_put(struct second_look *look)
{
    if (atomic_fetch_sub_explicit(&look->references, 1, memory_order_acq_rel) == 1)
        cr__mem_free(look, sizeof(*look), CR__MEM_OTHER);
}

static void do_second_look(struct cr__worker *w, struct cr__post *post)
{
    struct second_look *look_again = CR__CONTAINER(post, struct second_look, post);
    struct part part = {.worker = w};
    cr__tally_init(&part.tally, cr__os_now_ns());
    struct item item = {.record = look_again->edge.record};
    look(&part, &item);
    const struct cr__edge *before = &look_again->edge, *now = part.tally.edges;
    look_again->same = part.tally.edges_used == 1 && now->from == before->from && now->to == before->to &&
                       now->object == before->object && now->kind == before->kind && now->since == before->since;
    cr__tally_fini(&part.tally);
    atomic_store_explicit(&look_again->done, 1, memory_order_release);
    cr__os_futex_wake_all(&look_again->done);
    second_look_put(look_again);
}

static bool still_so(const struct suspicion *suspicion, const struct cr__edge *edge)
{
    struct second_look *look_again = cr__mem_alloc(sizeof(*look_again), CR__MEM_OTHER);
    if (!look_again)
        return false;
    look_again->references = 2;
    look_again->edge = *edge;
    look_again->post.fn = do_second_look;
    bool same = false;
    if (!cr__post_from_outside(suspicion->sched, suspicion->sched->workers[edge->worker], &look_again->post)) {
        second_look_put(look_again);
    } else {
        int64_t end_ns = cr__os_kernel_ns() + SILENCE_NS;
        while (atomic_load_explicit(&look_again->done, memory_order_acquire) == 0 && cr__os_kernel_ns() < end_ns &&
               !atomic_load_explicit(suspicion->hurry, memory_order_relaxed))
            cr__os_futex_wait(&look_again->done, 0, LOOK_NS);
        same = atomic_load_explicit(&look_again->done, memory_order_acquire) != 0 && look_again->same;
    }
    second_look_put(look_again);
    return same;
}

static void tell_if_so(const struct cr__edge *const *edges, unsigned count, void *arg)
{
    struct suspicion *suspicion = arg;
    for (unsigned i = 0; i < count; i++) {
        if (!still_so(suspicion, edges[i]))
            return;
    }
    cr__out_cycle(suspicion->out, edges, count);
}

/* ---- What is written ---------------------------------------------------------------------------------------- */

static void tell_runs(struct cr__out *out, const struct cr__sight *sight)
{
    char function[128];
    cr__out_who(out, sight->id, sight->name);
    cr__out_put(out, " in %s", cr__symbol_of((void *)sight->entry, function, sizeof(function)));
}

static void tell_silent(struct cr__watch *watch, struct cr__worker *w, struct cr__out *out)
{
    struct cr__sight sight;
    void *pcs[CR__TALLY_FRAMES];
    const char *why = NULL;
    cr__sight_take(w, &sight);
    cr__out_put(out, "  worker %u does not answer", w->index);
    if (!sight.coroutine) {
        cr__out_put(out, "\n");
        return;
    }
    cr__out_put(out, ": it has been running ");
    tell_runs(out, &sight);
    cr__out_put(out, " for %.1f s\n", (double)cr__watch_ran_ns(watch, w->index, &sight) / 1e9);
    unsigned frames = cr__sight_frames(w, &sight, pcs, CR__TALLY_FRAMES, &why);
    cr__out_frames(out, pcs, frames, true);
    if (frames == 0)
        cr__out_put(out, "    (no backtrace: %s)\n", why);
}

/* sights: what they did when the dump began. */
static void tell_workers(struct cr__watch *watch, struct walk *walk, const struct cr__sight *sights, struct cr__out *out)
{
    for (unsigned i = 0; i < walk->count; i++) {
        if (atomic_load_explicit(&walk->parts[i].given_up, memory_order_relaxed)) {
            tell_silent(watch, walk->parts[i].worker, out);
        } else if (sights && sights[i].coroutine) {
            cr__out_put(out, "  worker %u was running ", i);
            tell_runs(out, &sights[i]);
            cr__out_put(out, "\n");
        }
    }
}

/* All parts are closed: nobody writes there any more. */
static void tell_services(struct walk *walk, struct cr__out *out)
{
    for (unsigned i = 0; i < walk->count; i++) {
        const struct part *part = &walk->parts[i];
        for (const char *line = part->services ? part->services : "", *end; *line; line = end) {
            end = strchrnul(line, '\n');
            end += *end != '\0';
            cr__out_put(out, "%.*s", (int)(end - line), line);
        }
    }
}

/* Of all that live by the counters, those that no worker has told of; counters move, so it is about so many. */
static uint64_t not_found(struct cr__sched *s, uint64_t found)
{
    uint64_t spawned = 0, done = 0;
    for (unsigned i = 0; i < s->count; i++) {
        done += atomic_load_explicit(&s->workers[i]->counters.ended, memory_order_relaxed);
        spawned += atomic_load_explicit(&s->workers[i]->counters.spawned, memory_order_relaxed);
    }
    return spawned > done + found ? spawned - done - found : 0;
}

static void tell(struct cr__watch *watch, struct walk *walk, const struct cr__sight *sights, struct cr__out *out,
                 const _Atomic bool *hurry)
{
    struct cr__sched *s = walk->sched;
    struct cr__tally sum;
    bool all = true;
    cr__tally_init(&sum, cr__os_now_ns());
    for (unsigned i = 0; i < walk->count; i++)
        all &= !atomic_load_explicit(&walk->parts[i].given_up, memory_order_relaxed);
    add_up(walk, &sum);
    cr__out_put(out, "crore: %llu coroutine%s on %u worker%s\n", (unsigned long long)sum.live, sum.live == 1 ? "" : "s", s->count,
                s->count == 1 ? "" : "s");
    if (s->seed)
        cr__out_put(out, "  under a seed: CR_SEED=%llu repeats it\n", (unsigned long long)s->seed);
    cr__memory_tell(out);
    tell_workers(watch, walk, sights, out);
    tell_services(walk, out);
    struct suspicion suspicion = {.sched = s, .out = out, .hurry = hurry};
    cr__tally_cycles(&sum, tell_if_so, &suspicion);
    if (sum.edges_lost)
        cr__out_put(out, "  (of %llu that wait for another one it was not looked whether they do so in a circle)\n",
                    (unsigned long long)sum.edges_lost);
    uint64_t missing = all ? 0 : not_found(s, sum.live);
    cr__tally_tell(&sum, out);
    if (missing)
        cr__out_put(out, "  and about %llu more that only those workers know which do not answer\n", (unsigned long long)missing);
    cr__tally_fini(&sum);
}

static struct cr__sight *look_at_workers(struct cr__sched *s)
{
    struct cr__sight *sights = cr__mem_alloc(s->count * sizeof(*sights), CR__MEM_OTHER);
    for (unsigned i = 0; sights && i < s->count; i++)
        cr__sight_take(s->workers[i], &sights[i]);
    return sights;
}

void cr__dump_conduct(struct cr__watch *watch, struct cr__sched *s, int fd, const _Atomic bool *hurry)
{
    struct cr__out out;
    cr__out_init(&out, fd, hurry);
    size_t progress_bytes = s->count * sizeof(unsigned), since_bytes = s->count * sizeof(int64_t);
    unsigned *progress = cr__mem_alloc(progress_bytes, CR__MEM_OTHER);
    int64_t *since_ns = cr__mem_alloc(since_bytes, CR__MEM_OTHER);
    struct cr__sight *sights = look_at_workers(s);
    struct walk *walk = progress && since_ns ? walk_begin(s) : NULL;
    if (walk) {
        wait_for_all(watch, walk, progress, since_ns, hurry);
        tell(watch, walk, sights, &out, hurry);
        walk_put(walk);
    } else {
        cr__out_put(&out, "crore: no memory for a dump\n");
    }
    cr__out_flush(&out);
    cr__mem_free(sights, s->count * sizeof(*sights), CR__MEM_OTHER);
    cr__mem_free(progress, progress_bytes, CR__MEM_OTHER);
    cr__mem_free(since_ns, since_bytes, CR__MEM_OTHER);
}
