/* A worker's loop, and what the workers of a runtime do for each other: stealing, sleeping, waking, ending.
 *
 * A worker that finds nothing ready searches: first the injection queue, then the others' rings, in turns, from a random one on. Not more search
 * than sleep; who searches does so for a bounded number of rounds. Before it sleeps, it adds itself to `idle` and looks once more. Who puts
 * something into a ring looks at `idle` afterwards, but without a fence, which each spawn would pay for: one that falls asleep at that moment may be missed, until
 * the ring's owner offers again (cr__sched_offer).
 *
 * The last one to become idle looks whether anything can happen any more. If no coroutine lives, the runtime ends. If coroutines live, but all timers are
 * unarmed and nobody waits for what comes from outside, nothing can ever run again. */
#include <string.h>

#include "os/os.h"
#include "sched/budget.h"
#include "sched/monitor.h"
#include "sched/injection.h"
#include "sched/worker.h"

#define FIRST_CHAIN_BUDGET 64
#define MAX_CHAIN_BUDGET 4096
#define POLL_INTERVAL_NS (100 * 1000) /* how long a chain should run between two looks at the poller */
#define AGE_NS (5 * CR_MS)            /* what has not started waits no longer for a turn, however much is spawned after it */
#define JOURNEY_NS 2000               /* what it costs to go on on another worker: waking that, and fetching what is in this one's caches */
#define FREEZE_AFTER_NS CR_SEC
#define PUT_OFF_NS CR_MS              /* who lacked memory, or a stack that is pinned, tries again */
#define SEARCH_ROUNDS 16
#define SEARCH_PAUSES 32 /* between two rounds */

/* ---- The injection queue ------------------------------------------------------------------------------------ */

void cr__inject(struct cr__sched *s, struct cr__record *first)
{
    cr__injection_put(&s->injection, first);
    cr__sched_offer(s);
}

/* Only into an empty ring: there it fits. */
static bool take_injected(struct cr__worker *w)
{
    if (cr__runq_length(&w->stealable) > 0)
        return false;
    struct cr__record *first = cr__injection_take(&w->sched->injection);
    for (struct cr_co *co = first ? &first->co : NULL, *next; co; co = next) {
        next = co->next;
        cr__ready_here(w, cr__record_of(co));
    }
    return first != NULL;
}

/* ---- What others have sent ---------------------------------------------------------------------------------- */

static void receive(struct cr__worker *w, uintptr_t item)
{
    if (item & CR__INBOX_TAGS) {
        struct cr_co *co = CR__CONTAINER((void *)(item & ~CR__INBOX_TAGS), struct cr_co, next);
        cr__queue_push(&w->ready, co);
    } else {
        struct cr__post *post = CR__CONTAINER((void *)item, struct cr__post, link);
        bool promised = post->promised;
        post->fn(w, post);
        if (promised)
            cr__sched_promise_kept(w->sched);
    }
}

/* Returns whether there was anything. */
static bool empty_inbox(struct cr__worker *w)
{
    uintptr_t item = cr__inbox_take(&w->inbox), oldest = 0;
    if (item == 0)
        return false;
    while (item) { /* it came newest first */
        struct cr__inbox_link *link = (void *)(item & ~CR__INBOX_TAGS);
        uintptr_t older = link->next;
        link->next = oldest;
        oldest = item;
        item = older;
    }
    while (oldest) {
        struct cr__inbox_link *link = (void *)(oldest & ~CR__INBOX_TAGS);
        uintptr_t newer = link->next;
        receive(w, oldest);
        oldest = newer;
    }
    return true;
}

void cr__post(struct cr__worker *to, struct cr__post *post)
{
    if (cr__inbox_push(&to->inbox, &post->link, 0))
        to->poller_ops->kick(to);
}

void cr__worker_rouse(struct cr__worker *w)
{
    if (cr__inbox_rouse(&w->inbox))
        w->poller_ops->kick(w);
}

/* ---- Searching ---------------------------------------------------------------------------------------------- */

static uint32_t random_next(struct cr__worker *w)
{
    uint32_t x = w->random; /* xorshift32, Marsaglia 2003 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return w->random = x;
}

static bool offers_wanderers(struct cr__worker *w)
{
    return atomic_load_explicit(&w->generous, memory_order_relaxed) && cr__runq_length(&w->wanderers) > 0;
}

static bool steal_from(struct cr__worker *w, struct cr__worker *victim)
{
    unsigned n = cr__runq_length(&victim->stealable) > 0 ? cr__runq_steal(&w->stealable, &victim->stealable) : 0;
    if (n > 0)
        w->elsewhere |= CR__IN_RING;
    else if (offers_wanderers(victim) && (n = cr__runq_steal(&w->wanderers, &victim->wanderers)) > 0)
        w->elsewhere |= CR__IN_WANDERERS;
    cr__count(&w->counters.steals, n);
    return n > 0;
}

static bool steal_from_any(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    unsigned first = random_next(w) % s->count;
    for (unsigned i = 0; i < s->count; i++) {
        struct cr__worker *victim = s->workers[(first + i) % s->count];
        if (victim != w && steal_from(w, victim))
            return true;
    }
    return false;
}

static bool may_search(struct cr__sched *s)
{
    unsigned idle = atomic_load_explicit(&s->idle, memory_order_relaxed);
    unsigned searching = atomic_load_explicit(&s->searching, memory_order_relaxed);
    return s->count > 1 && searching <= idle;
}

/* Looks for work elsewhere. Returns whether there may be something to do now. */
static bool search(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    bool found = take_injected(w);
    if (found || !may_search(s))
        return found;
    atomic_fetch_add_explicit(&s->searching, 1, memory_order_relaxed);
    for (int round = 0; round < SEARCH_ROUNDS && !found; round++) {
        found = take_injected(w) || steal_from_any(w) || !cr__inbox_empty(&w->inbox);
        for (int i = 0; i < SEARCH_PAUSES && !found; i++)
            cr__spin_hint();
    }
    atomic_fetch_sub_explicit(&s->searching, 1, memory_order_relaxed);
    return found;
}

CR__COLD void cr__sched_wake_one(struct cr__sched *s)
{
    if (atomic_exchange_explicit(&s->waking, true, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__inbox_rouse(&s->workers[i]->inbox)) {
            s->workers[i]->poller_ops->kick(s->workers[i]);
            return; /* it clears `waking` when it is up */
        }
    }
    atomic_store_explicit(&s->waking, false, memory_order_relaxed);
}

/* ---- Going to sleep, and ending ----------------------------------------------------------------------------- */

/* Under end_lock: who promises something sees it, or is seen. */
static void finish_locked(struct cr__sched *s, int result)
{
    atomic_store_explicit(&s->result, result, memory_order_relaxed);
    atomic_store_explicit(&s->done, true, memory_order_release); /* pairs with the acquire in cr__worker_run */
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in fall_asleep: it sees `done`, or we see it asleep */
    for (unsigned i = 0; i < s->count; i++)
        cr__worker_rouse(s->workers[i]);
}

static bool anything_to_steal(struct cr__sched *s)
{
    if (atomic_load_explicit(&s->injection.batches, memory_order_relaxed) > 0)
        return true;
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__runq_length(&s->workers[i]->stealable) > 0 || offers_wanderers(s->workers[i]))
            return true;
    }
    return false;
}

/* All workers are idle. Whether nothing can happen but by a call from a thread outside. One that has been roused, for a stack that came home say, but
 * is not up yet, will look here itself when it sleeps again. `idle` may still count one that has run since then, and sleeps again: so that it is asleep is looked at
 * first, and what it has done is seen by that. */
static bool all_hopeless(struct cr__sched *s)
{
    int64_t waits_outside = 0;
    for (unsigned i = 0; i < s->count; i++) {
        struct cr__worker *w = s->workers[i];
        if (!cr__inbox_asleep(&w->inbox) || !atomic_load_explicit(&w->hopeless, memory_order_relaxed))
            return false;
        waits_outside += atomic_load_explicit(&w->waits_outside, memory_order_relaxed);
    }
    return waits_outside == 0 && !anything_to_steal(s);
}

/* By the last worker that has fallen asleep; of several at the same time, by one that sees all others asleep. All that the others did before they became so is seen here. */
static void look_for_the_end(struct cr__sched *s)
{
    bool hopeless = false;
    cr__spin_lock(&s->end_lock);
    if (atomic_load_explicit(&s->idle, memory_order_acquire) == s->count &&
        atomic_load_explicit(&s->promised, memory_order_acquire) == 0) {
        if (atomic_load_explicit(&s->live, memory_order_relaxed) == 0) {
            finish_locked(s, 0);
        } else if (!s->stoppable && all_hopeless(s)) { /* else a thread may still send, spawn or stop */
            /* once more: one that was about to run its last coroutine when we looked, and sleeps now, has counted that before */
            hopeless = atomic_load_explicit(&s->live, memory_order_relaxed) != 0;
            finish_locked(s, hopeless ? -EDEADLK : 0);
        }
    }
    cr__spin_unlock(&s->end_lock);
    if (hopeless)
        cr__sched_report(s); /* threads outside do not wait for this. The workers have run their last coroutine, and wait for us before they drop any */
}

void cr__sched_finish(struct cr__sched *s, int result)
{
    cr__spin_lock(&s->end_lock);
    finish_locked(s, result);
    cr__spin_unlock(&s->end_lock);
}

/* ---- From outside ------------------------------------------------------------------------------------------- */

int cr__sched_enter(struct cr__sched *s)
{
    if (cr__forked())
        return -EPERM;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed);
    if (!done)
        atomic_fetch_add_explicit(&s->inside, 1, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    return done ? -ESHUTDOWN : 0;
}

/* Under the lock, which is the last that is touched: who frees the runtime has taken it after us (cr__sched_abandon). */
void cr__sched_leave(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    atomic_fetch_sub_explicit(&s->inside, 1, memory_order_release); /* pairs with the acquire in cr__worker_drain */
    cr__spin_unlock(&s->end_lock);
}

/* Under end_lock. Returns whether it is the first one, for which somebody is to be roused. */
static bool append_told_locked(struct cr__sched *s, struct cr__post *post)
{
    post->link.next = 0;
    if (s->told)
        s->told_last->link.next = (uintptr_t)post;
    else
        s->told = post;
    s->told_last = post;
    bool first = s->open && !atomic_load_explicit(&s->any_told, memory_order_relaxed);
    if (first)
        atomic_store_explicit(&s->any_told, true, memory_order_relaxed);
    return first;
}

/* If nobody sleeps, the next one that comes by its loop takes it. */
static void rouse_one(struct cr__sched *s)
{
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in fall_asleep: it sees any_told, or we see it asleep */
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__inbox_rouse(&s->workers[i]->inbox)) {
            s->workers[i]->poller_ops->kick(s->workers[i]);
            return;
        }
    }
}

int cr__sched_tell(struct cr__sched *s, struct cr__post *post)
{
    if (cr__forked())
        return -EPERM;
    post->promised = true;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed), first = false;
    if (!done) {
        cr__sched_promise(s);
        first = append_told_locked(s, post);
    }
    if (first)
        atomic_fetch_add_explicit(&s->inside, 1, memory_order_relaxed); /* the workers are there until we have kicked one */
    cr__spin_unlock(&s->end_lock);
    if (first) {
        rouse_one(s);
        cr__sched_leave(s);
    }
    return done ? -ESHUTDOWN : 0;
}

bool cr__post_from_outside(struct cr__sched *s, struct cr__worker *to, struct cr__post *post)
{
    post->promised = true;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed);
    if (!done) {
        cr__sched_promise(s);
        cr__post(to, post); /* under the lock: so it is there before the worker leaves its loop, and is drained */
    }
    cr__spin_unlock(&s->end_lock);
    return !done;
}

void cr__sched_promise_kept(struct cr__sched *s)
{
    atomic_fetch_sub_explicit(&s->promised, 1, memory_order_release); /* pairs with the acquire in look_for_the_end */
}

static struct cr__post *take_told(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    struct cr__post *first = s->told;
    s->told = NULL;
    atomic_store_explicit(&s->any_told, false, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    return first;
}

static void do_told(struct cr__sched *s, struct cr__worker *w)
{
    for (struct cr__post *post = take_told(s), *next; post; post = next) {
        next = (struct cr__post *)post->link.next;
        post->fn(w, post);
        cr__sched_promise_kept(s);
    }
}

static bool anything_told(struct cr__sched *s)
{
    return atomic_load_explicit(&s->any_told, memory_order_relaxed);
}

/* By worker 0: from now on somebody runs who does what is told; what came before that, too. */
static void open_to_outside(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    s->open = true;
    atomic_store_explicit(&s->any_told, s->told != NULL, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
}

void cr__sched_abandon(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    atomic_store_explicit(&s->done, true, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    do_told(s, NULL);
}

/* All workers have stopped: what was still under way to this one. Afterwards nobody outside is about to touch a worker. */
void cr__worker_drain(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    empty_inbox(w);
    do_told(s, w);
    while (atomic_load_explicit(&s->promised, memory_order_acquire) > 0 || atomic_load_explicit(&s->inside, memory_order_acquire) > 0) {
        sched_yield();
        empty_inbox(w);
    }
}

/* Returns whether the worker may sleep in its poller; if so, cr__inbox_take wakes it up, and `idle` is to be left. */
static bool fall_asleep(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    atomic_store_explicit(&w->hopeless, w->wheel.armed == 0 && !w->put_off.head, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->live, w->live, memory_order_relaxed);
    w->live = 0;
    /* sequentially consistent: all that was in a ring before is seen. What is put into one right now may be missed: cr__sched_offer says why that does no harm */
    atomic_fetch_add(&s->idle, 1);
    if (anything_to_steal(s) || !cr__inbox_sleep(&w->inbox)) {
        atomic_fetch_sub_explicit(&s->idle, 1, memory_order_relaxed);
        return false;
    }
    /* asleep comes before the look at the others, of whom one sees all asleep; at `done`: see finish_locked; and at stacks: see cr__send_stack_home */
    atomic_thread_fence(memory_order_seq_cst);
    if (CR__UNLIKELY(w->starving > 0) && (cr__stack_any_returned(&w->stacks) || cr__stack_any_returned(&w->virtuals)))
        cr__worker_rouse(w); /* before the look for the end: one that is roused has something to do */
    if (anything_told(s)) {
        (void)!cr__inbox_rouse(&w->inbox);
        atomic_fetch_sub_explicit(&s->idle, 1, memory_order_relaxed);
        return false;
    }
    if (atomic_load_explicit(&s->idle, memory_order_relaxed) == s->count)
        look_for_the_end(s);
    return true;
}

/* ---- The loop ----------------------------------------------------------------------------------------------- */

static void fire(struct cr__timer *timer, void *arg)
{
    struct cr__worker *w = arg;
    struct cr__record *record = CR__CONTAINER(timer, struct cr__record, timer);
    /* a sleeper's time coming is what it waits for */
    bool sleeps = cr__waits_for(record) == CR__WAIT_SLEEP;
    if (!sleeps)
        cr__count(&w->counters.timeouts, 1);
    if (cr__park_claim(&record->word, sleeps ? CR__WOKEN : CR__TIMED_OUT, w->alone)) {
        record->co.sched_flags &= (uint8_t)~CR__TIMED; /* nobody else looks: the wait is ours */
        cr__ready(w, record);
    }
}

/* Busy, with coroutines that run for longer than a journey costs: others may have some of those that may migrate. */
static void be_generous(struct cr__worker *w, int64_t ran_ns)
{
    bool generous = w->used_up && ran_ns > JOURNEY_NS * w->chain_budget;
    if (generous != atomic_load_explicit(&w->generous, memory_order_relaxed))
        atomic_store_explicit(&w->generous, generous, memory_order_relaxed);
    if (generous && cr__runq_length(&w->wanderers) > 0)
        cr__sched_offer(w->sched);
}

/* Chains get longer while they return early, and shorter while they keep the poller waiting. */
static void adapt_budget(struct cr__worker *w, int64_t ran_ns)
{
    if (ran_ns > 2 * POLL_INTERVAL_NS && w->chain_budget > 1)
        w->chain_budget /= 2;
    else if (w->used_up && ran_ns < POLL_INTERVAL_NS / 2 && w->chain_budget < MAX_CHAIN_BUDGET)
        w->chain_budget *= 2;
}

static bool anything_ready(const struct cr__worker *w)
{
    return w->ready.head || w->elsewhere != 0;
}

static void tick(struct cr__worker *w)
{
    w->now_ns = cr__os_now_ns();
    cr__wheel_fire(&w->wheel, w->now_ns, fire, w);
}

static int poll_for(struct cr__worker *w, int64_t timeout_ns)
{
    cr__count(&w->counters.polls, 1);
    return w->poller_ops->poll(w, timeout_ns);
}

/* Negative: never. */
static int64_t sooner(int64_t a_ns, int64_t b_ns)
{
    return a_ns < 0 || (b_ns >= 0 && b_ns < a_ns) ? b_ns : a_ns;
}

static int64_t until_something_is_due(struct cr__worker *w)
{
    int64_t soonest_ns = sooner(cr__wheel_next(&w->wheel, w->now_ns), cr__worker_shrinks_in(w));
    if (CR__UNLIKELY(w->put_off.head != NULL))
        soonest_ns = sooner(soonest_ns, PUT_OFF_NS);
    return sooner(soonest_ns, cr__freezer_due_in(w));
}

/* Nothing is ready here. */
static int sleep_until_something(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    for (struct cr__slab *slab = w->slabs; slab; slab = slab->next)
        cr__slab_flush(slab);
    cr__images_flush(&w->images);
    cr__frames_flush(&w->frames);
    if (!fall_asleep(w))
        return poll_for(w, 0);
    int r = atomic_load_explicit(&s->done, memory_order_relaxed) ? 0 : poll_for(w, until_something_is_due(w));
    (void)!cr__inbox_rouse(&w->inbox); /* if a timer woke us: nobody shall take us for asleep, and wake us instead of another one */
    atomic_fetch_sub_explicit(&s->idle, 1, memory_order_relaxed);
    atomic_store_explicit(&s->waking, false, memory_order_relaxed);
    tick(w);
    return r;
}

/* Those that lacked something to go on. */
static void try_again(struct cr__worker *w)
{
    w->put_off_ns = w->now_ns;
    while (w->put_off.head)
        cr__queue_push(&w->ready, cr__queue_pop(&w->put_off));
}

static bool take_returned_stacks(struct cr__worker *w)
{
    bool any = cr__stack_take_returned(&w->stacks);
    return cr__stack_take_returned(&w->virtuals) || any;
}

/* What has gathered since the last turn. */
static void house_keeping(struct cr__worker *w)
{
    cr__count(&w->turns, 1);
    if ((w->elsewhere & (CR__IN_FRESH | CR__IN_RING)) && w->now_ns - w->aged_ns > AGE_NS) {
        w->aged_ns = w->now_ns;
        cr__age(w);
    }
    cr__budget_tell(w);
    if (CR__UNLIKELY(cr__worker_shrinks_now(w)))
        cr__worker_shrink(w);
    cr__send_stack_home(w);
    if (CR__UNLIKELY(w->starving > 0))
        atomic_thread_fence(memory_order_seq_cst); /* who brings a stack home sees that we starve, or we see the stack: here, or when we fall asleep */
    cr__freezer_turn(w);
    if (CR__UNLIKELY(w->put_off.head != NULL) && w->now_ns - w->put_off_ns > PUT_OFF_NS)
        try_again(w);
    if (CR__UNLIKELY(w->starving > 0) && take_returned_stacks(w)) {
        while (w->starving > 0)
            cr__feed(w, 0);
    }
    empty_inbox(w);
    if (CR__UNLIKELY(anything_told(w->sched)))
        do_told(w->sched, w);
}

int cr__worker_run(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    int r = 0;
    if (w->index == 0)
        open_to_outside(s);
    while (r == 0 && !atomic_load_explicit(&s->done, memory_order_acquire)) { /* pairs with the release in finish */
        int64_t before_ns = w->now_ns;
        cr__run_ready(w);
        tick(w);
        if (!w->alone)
            be_generous(w, w->now_ns - before_ns);
        adapt_budget(w, w->now_ns - before_ns);
        house_keeping(w);
        if (anything_ready(w) || search(w))
            r = poll_for(w, 0);
        else
            r = sleep_until_something(w);
    }
    if (r < 0)
        cr__sched_finish(s, r);
    return atomic_load_explicit(&s->result, memory_order_relaxed);
}

/* ---- Cancelling everything ---------------------------------------------------------------------------------- */

static void cancel_if_live(void *object, void *arg)
{
    cr__cancel(arg, object, CR__CANCEL);
}

/* Each worker cancels what lies in its own slab, wherever it runs. A record that is being used anew meanwhile: that is cancelled, too, as `stopping` says. */
static void cancel_own(struct cr__worker *w, struct cr__post *post)
{
    (void)post;
    cr__slab_each(&w->records, cancel_if_live, w);
    cr__frames_each(&w->frames, cancel_if_live, w);
}

void cr__sched_cancel_all(struct cr__sched *s, struct cr__worker *here)
{
    if (atomic_exchange_explicit(&s->stopping, true, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < s->count; i++) {
        struct cr__worker *w = s->workers[i];
        if (w == here) {
            cancel_own(w, &w->cancel_post);
            continue;
        }
        w->cancel_post.fn = cancel_own;
        cr__post(w, &w->cancel_post);
    }
}

/* ---- Setting up --------------------------------------------------------------------------------------------- */

void cr__worker_init(struct cr__worker *w, struct cr__sched *s, unsigned index, const struct cr_config *config)
{
    struct cr__self *self = cr__self_here();
    memset(w, 0, sizeof(*w));
    w->sched = s;
    w->index = (uint16_t)index;
    w->alone = s->count == 1;
    w->last_id = index + 1 - s->count; /* ids: 1, 2, 3, dealt out in turns */
    w->random = 2463534242u + index;
    w->chain = config->policy != CR_POLICY_STAR;
    w->chain_budget = FIRST_CHAIN_BUDGET;
    w->default_kind = config->stack;
    w->default_stack_bytes = cr__stack_size(config->stack_size_bytes);
    w->outside = self->current; /* a bare coroutine, perhaps */
    w->loop.mode = CR__MODE(CR__CO_ROOT, 0);
    w->loop.stack = self->current->stack;
#ifdef CR__TSAN
    w->loop.tsan_fiber = self->current->tsan_fiber;
#endif
    cr__slab_init(&w->records, sizeof(struct cr__record), CR__MEM_RECORDS);
    cr__worker_keeps(w, &w->records);
    cr__images_init(&w->images);
    cr__pool_worker_init(w);
    cr__stack_pool_init(&w->stacks, config->guard_size_bytes ? config->guard_size_bytes : CR__STACK_GUARD_BYTES,
                        config->max_stacks_bytes / s->count);
    w->now_ns = w->shrunk_ns = cr__os_now_ns();
    cr__wheel_init(&w->wheel, w->now_ns);
    cr__stack_pool_init(&w->virtuals, w->stacks.guard_bytes, w->stacks.max_bytes);
    w->stacks.owner = w->virtuals.owner = w;
    w->virtuals.is_virtual = true;
    w->census = s->census;
    w->freeze_after_ns = w->census ? -1 : config->freeze_after_ns ? config->freeze_after_ns : FREEZE_AFTER_NS;
    cr__packed_init(&w->packed);
    cr__worker_keeps(w, &w->packed.slab);
    cr__shared_init(&w->shared, &w->images, &w->stacks, config->shared_stacks ? config->shared_stacks : CR__SHARED_STACKS);
    w->shared.clears = w->census != NULL;
    cr__stack_class(&w->stacks, w->default_stack_bytes); /* the first to be looked at */
    cr__stack_class(&w->virtuals, w->default_stack_bytes);
    w->self = self;
    w->tid = cr__os_tid();
    self->worker = w;
    self->current = &w->loop;
}

void cr__worker_keeps(struct cr__worker *w, struct cr__slab *slab)
{
    slab->next = w->slabs;
    w->slabs = slab;
}

static void drop(void *object, void *arg)
{
    struct cr__record *record = object;
    (void)arg;
    if (cr__record_lives(record))
        cr__co_cold_free(&record->co);
}

void cr__worker_drop(struct cr__worker *w)
{
    cr__slab_each(&w->records, drop, w);
    cr__frames_each(&w->frames, drop, w);
}

void cr__worker_fini(struct cr__worker *w)
{
    struct cr__self *self = cr__self_here();
    cr__slab_fini(&w->records);
    cr__frames_fini(&w->frames);
    cr__slab_fini(&w->jobs);
    cr__shared_fini(&w->shared);
    cr__images_fini(&w->images);
    cr__stack_pool_fini(&w->stacks);
    cr__stack_pool_fini(&w->virtuals);
    cr__packed_fini(&w->packed);
    self->worker = NULL;
    self->current = w->outside;
}

int cr_stats_get(struct cr_stats *out)
{
    struct cr__worker *here = cr__worker_here();
    if (!here)
        return -EPERM;
    *out = (struct cr_stats){0};
    for (unsigned i = 0; i < here->sched->count; i++) {
        const struct cr__counters *c = &here->sched->workers[i]->counters;
#define ADD(field) out->field += atomic_load_explicit(&c->field, memory_order_relaxed)
        ADD(spawned), ADD(ended), ADD(switches), ADD(parks), ADD(timeouts), ADD(polls), ADD(events), ADD(stack_waits);
        ADD(steals), ADD(sent), ADD(slow);
#undef ADD
    }
    out->frozen = atomic_load_explicit(&cr__freeze_counts.frozen, memory_order_relaxed);
    out->thawed = atomic_load_explicit(&cr__freeze_counts.resumed, memory_order_relaxed) +
                  atomic_load_explicit(&cr__freeze_counts.touched, memory_order_relaxed);
    return 0;
}
