/* A worker's loop: runs what is ready, polls, fires timers, takes what others have sent, and sleeps when there is nothing (idle.c). And what a worker is set up of. */
#include <string.h>

#include "os/os.h"
#include "sched/budget.h"
#include "sched/idle.h"
#include "sched/monitor.h"

#define FIRST_CHAIN_BUDGET 64
#define MAX_CHAIN_BUDGET 4096
#define POLL_INTERVAL_NS (100 * 1000) /* how long a chain should run between two looks at the poller */
#define AGE_NS (5 * CR_MS)            /* what has not started waits no longer for a turn, however much is spawned after it */
#define JOURNEY_NS 2000               /* what it costs to go on on another worker: waking that, and fetching what is in this one's caches */
#define FREEZE_AFTER_NS CR_SEC
#define PATIENCE_NS (100 * CR_MS)     /* of the kernel's time: so long what may come from outside is waited for before the time of a runtime under a seed jumps */
#define PUT_OFF_NS CR_MS              /* who lacked memory, or a stack that is pinned, tries again */

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
    if (CR__UNLIKELY(w->fate != NULL))
        w->chain_budget = 1 + (int)w->fate->below(FIRST_CHAIN_BUDGET);
    else if (ran_ns > 2 * POLL_INTERVAL_NS && w->chain_budget > 1)
        w->chain_budget /= 2;
    else if (w->used_up && ran_ns < POLL_INTERVAL_NS / 2 && w->chain_budget < MAX_CHAIN_BUDGET)
        w->chain_budget *= 2;
}

static bool anything_ready(const struct cr__worker *w)
{
    return w->ready.head || cr__anything_elsewhere(w) || w->services_poked;
}

static void tick(struct cr__worker *w)
{
    w->now_ns = cr__os_now_ns();
    cr__wheel_fire(&w->wheel, w->now_ns, fire, w);
}

static int poll_for(struct cr__worker *w, int64_t timeout_ns)
{
    cr__count(&w->counters.polls, 1);
    w->polled_ns = w->now_ns;
    return w->poller_ops->poll(w, timeout_ns);
}

/* A look. Where a service brings work turn by turn, each but a few microseconds long, not in each of them: it is a system call. */
static int look_at_poller(struct cr__worker *w)
{
    if (CR__UNLIKELY(w->services != NULL) && w->now_ns - w->polled_ns < POLL_INTERVAL_NS / 2)
        return 0;
    return poll_for(w, 0);
}

/* Negative: never. */
static int64_t sooner(int64_t a_ns, int64_t b_ns)
{
    return a_ns < 0 || (b_ns >= 0 && b_ns < a_ns) ? b_ns : a_ns;
}

/* A coroutine, or a service. */
static int64_t until_someone_is_due(struct cr__worker *w)
{
    int64_t soonest_ns = cr__wheel_next(&w->wheel, w->now_ns);
    if (CR__UNLIKELY(w->put_off.head != NULL))
        soonest_ns = sooner(soonest_ns, PUT_OFF_NS);
    return CR__UNLIKELY(w->services != NULL) ? sooner(soonest_ns, cr__services_due_in(w)) : soonest_ns;
}

static int64_t until_something_is_due(struct cr__worker *w)
{
    int64_t soonest_ns = sooner(until_someone_is_due(w), cr__worker_shrinks_in(w));
    return sooner(soonest_ns, cr__freezer_due_in(w));
}

/* Whether something may come that no coroutine here does: for an fd, from another thread. */
static bool anything_outside(const struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    return s->stoppable || atomic_load_explicit(&w->waits_outside, memory_order_relaxed) != 0 || atomic_load_explicit(&s->promised, memory_order_relaxed) != 0;
}

/* As poll_for until something is due. Under a seed no time passes meanwhile: it jumps to when a coroutine or a service is due (what is due for the memory's sake depends on more than
 * the seed, and is done by the way). What may come from outside, of which the seed knows nothing, is waited for first, but not for long. *jumps_ns: how far, 0 for not at
 * all. */
static int poll_under_seed(struct cr__worker *w, int64_t *jumps_ns)
{
    int64_t due_ns = until_someone_is_due(w), wait_ns = due_ns > 0 && !anything_outside(w) ? 0 : sooner(due_ns, PATIENCE_NS);
    if (due_ns < 0)
        wait_ns = -1;
    int64_t began_ns = cr__os_kernel_ns();
    int r = poll_for(w, wait_ns);
    bool came = due_ns < 0 || anything_ready(w) || (wait_ns > 0 && cr__os_kernel_ns() - began_ns < wait_ns);
    *jumps_ns = came ? 0 : due_ns;
    return r;
}

/* Nothing is ready here. */
static int sleep_until_something(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    for (struct cr__slab *slab = w->slabs; slab; slab = slab->next)
        cr__slab_flush(slab);
    cr__images_flush(&w->images);
    cr__frames_flush(&w->frames);
    if (CR__UNLIKELY(cr__packets_left(&w->packets) < CR__PACKETS_PLENTY))
        cr__packet_flush(&w->packets);
    if (!cr__worker_fall_asleep(w))
        return poll_for(w, 0);
    int r = 0;
    int64_t jumps_ns = 0;
    if (!atomic_load_explicit(&s->done, memory_order_relaxed))
        r = CR__UNLIKELY(w->fate != NULL) ? poll_under_seed(w, &jumps_ns) : poll_for(w, until_something_is_due(w));
    cr__worker_get_up(w);
    if (jumps_ns > 0 && cr__inbox_empty(&w->inbox))
        w->fate->pass(w->now_ns + jumps_ns);
    tick(w);
    return r;
}

/* Those that lacked something to go on. */
static void try_again(struct cr__worker *w)
{
    uint64_t switches = atomic_load_explicit(&w->counters.switches, memory_order_relaxed);
    w->put_off_in_vain = switches == w->put_off_switches ? w->put_off_in_vain + 1 : 0;
    w->put_off_switches = switches;
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
    if (!w->alone)
        cr__worker_take_injected(w);
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
    cr__worker_receive(w);
    if (CR__UNLIKELY(cr__sched_anything_told(w->sched)))
        cr__sched_do_told(w->sched, w);
    if (CR__UNLIKELY(w->services != NULL)) /* last: what has just come may have poked one */
        cr__services_turn(w);
}

int cr__worker_run(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    int r = 0;
    if (w->index == 0)
        cr__sched_open(s);
    while (r == 0 && !atomic_load_explicit(&s->done, memory_order_acquire)) { /* pairs with the release in finish_locked (idle.c) */
        int64_t before_ns = w->now_ns;
        cr__run_ready(w);
        tick(w);
        if (!w->alone)
            be_generous(w, w->now_ns - before_ns);
        adapt_budget(w, w->now_ns - before_ns);
        house_keeping(w);
        if (anything_ready(w) || cr__worker_search(w))
            r = look_at_poller(w);
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
    w->fate = s->fate;
    if (w->fate) {
        w->elsewhere = CR__FATED;
        w->random = w->fate->below(UINT32_MAX) | 1; /* idle.c's must not become 0 */
    }
    w->chain = config->policy != CR_POLICY_STAR;
    w->chain_budget = FIRST_CHAIN_BUDGET;
    w->io_budget_next = CR__IO_BUDGET;
    w->default_kind = config->stack;
    (void)!cr__attr_check(NULL, config->stack, config->stack_size_bytes, &w->default_flags, &w->default_stack_bytes); /* config has been checked */
    w->outside = self->current; /* a bare coroutine, perhaps */
    w->loop.mode = CR__MODE(CR__CO_ROOT, 0);
    w->loop.stack = self->current->stack;
#ifdef CR__TSAN
    w->loop.tsan_fiber = self->current->tsan_fiber;
#endif
    cr__slab_init(&w->records, sizeof(struct cr__record), CR__MEM_RECORDS);
    cr__worker_keeps(w, &w->records);
    cr__images_init(&w->images);
    cr__slab_init(&w->holds, CR__HOLD_BYTES, CR__MEM_RECORDS);
    cr__worker_keeps(w, &w->holds);
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
    cr__slab_fini(&w->holds);
    cr__stack_pool_fini(&w->stacks);
    cr__stack_pool_fini(&w->virtuals);
    cr__packed_fini(&w->packed);
    cr__packet_flush(&w->packets);
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
    out->seed = here->sched->seed;
    out->trace = here->fate ? here->fate->trace() : 0;
    out->frozen = atomic_load_explicit(&cr__freeze_counts.frozen, memory_order_relaxed);
    out->thawed = atomic_load_explicit(&cr__freeze_counts.resumed, memory_order_relaxed) +
                  atomic_load_explicit(&cr__freeze_counts.touched, memory_order_relaxed);
    return 0;
}
