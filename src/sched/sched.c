/* Running coroutines: spawn, yield, park, end, and the worker's loop. sched.h has the picture and the invariants. */
#include "sched/sched.h"

#include <string.h>

#include "obs/obs.h"
#include "os/os.h"

#define RECORD_CHUNK_BYTES (256u << 10)
#define FIRST_CHAIN_BUDGET 64
#define MAX_CHAIN_BUDGET 4096
#define POLL_INTERVAL_NS (100 * 1000) /* how long a chain should run between two looks at the poller */
#define IO_BUDGET 64
#define YIELDED_LINES 2 /* of a stack, which a coroutine that yielded needs first */
#define PARKED_LINES 8  /* one that comes back from a call that waited: its frames and the caller's */

static struct cr__record *record_of(struct cr_co *co)
{
    return CR__CONTAINER(co, struct cr__record, co);
}

static inline void make_ready(struct cr__worker *w, struct cr__record *record)
{
    cr__queue_push(&w->ready, &record->co);
}

/* ---- Switching ---------------------------------------------------------------------------------------------- */

static void end_running(struct cr__worker *w, struct cr__record *me);

/* The first frame of every scheduled coroutine. */
__attribute__((noreturn)) static void run_record(void *arg, void *value, uint64_t note)
{
    struct cr__record *me = arg;
    (void)value;
    cr__co_arrive(&me->co, note);
    ((void (*)(void *))me->co.entry)(*cr__co_word(&me->co));
    end_running(cr__worker_here(), me);
    __builtin_unreachable();
}

/* Gives a coroutine whose turn has come for the first time its stack; if there is none, it waits for one. */
static bool start(struct cr__worker *w, struct cr__record *record)
{
    void *arg = record->co.sp;
    if (CR__LIKELY(cr__co_prepare(&record->co, &w->stacks, record->stack_bytes, run_record) == 0)) {
        *cr__co_word(&record->co) = arg;
        return true;
    }
    w->stats.stack_waits++;
    record->co.sched_wait = CR__WAIT_STACK;
    cr__queue_push(&w->starved[cr__stack_class(&w->stacks, record->stack_bytes)], &record->co);
    w->starving++;
    return false;
}

/* By its turn, what it needs will have come: its stack, from the innermost frame on, and its successor's record. (The last one's next may be
 * anything: a prefetch does not mind.) */
static inline void prefetch(const struct cr_co *after, int stack_lines)
{
    for (int i = 0; i < stack_lines; i++)
        __builtin_prefetch((char *)after->sp + i * CR__CACHE_LINE);
    __builtin_prefetch(after->next);
}

/* Takes the next ready coroutine that has, or gets, a stack. */
static inline struct cr__record *take_ready(struct cr__worker *w)
{
    struct cr_co *co;
    while (w->ready.head) {
        co = cr__queue_pop(&w->ready);
        struct cr_co *after = w->ready.head;
        if (CR__LIKELY(after != NULL) && CR__LIKELY(after->stack.top != NULL))
            prefetch(after, PARKED_LINES);
        if (CR__LIKELY(co->stack.top != NULL) || CR__LIKELY(start(w, record_of(co))))
            return record_of(co);
    }
    return NULL;
}

/* What to switch to when a coroutine stops: the next one of the chain, or the loop. */
static inline struct cr_co *next_context(struct cr__worker *w, struct cr__self *self)
{
    struct cr__record *next = NULL;
    if (CR__LIKELY(--w->budget > 0))
        next = take_ready(w);
    if (CR__UNLIKELY(w->io_budget != IO_BUDGET))
        w->io_budget = IO_BUDGET;
    return self->current = next ? next->co.below : &w->loop;
}

/* Leaves the running coroutine; returns when it is switched to again. What stops may be a bare coroutine that runs inside it: that one's
 * context is what is left and found again. One that shares its control words shares them with me. */
__attribute__((always_inline)) static inline void switch_away(struct cr__self *self, struct cr__worker *w,
                                                              struct cr__record *me)
{
    struct cr_co *from = me->co.below = self->current, *to = next_context(w, self);
    uint64_t note = 0;
    if (CR__LIKELY(to != from)) /* else it was the only one ready */
        cr__co_switch(from, to, cr__co_own_fpu(from) || cr__co_own_fpu(&me->co), NULL, &note);
    me->co.below = &me->co;
}

static void free_record(struct cr__worker *w, struct cr__record *record)
{
    cr__co_state_set(&record->co, CR__CO_FREE);
    record->co.sched_flags = 0; /* a handle that is used once more is no handle */
    cr__slab_put(&w->records, record);
}

/* A stack of that size is free again: for who waits for one of its size, else another tries its luck. */
static CR__COLD void feed(struct cr__worker *w, uint32_t stack_bytes)
{
    unsigned class = cr__stack_class(&w->stacks, stack_bytes);
    while (!w->starved[class].head)
        class = (class + 1) % CR__STACK_CLASSES;
    struct cr_co *waits = cr__queue_pop(&w->starved[class]);
    w->starving--;
    waits->sched_wait = CR__WAIT_NONE;
    make_ready(w, record_of(waits));
}

/* The stack goes back while we run on it, which stack.h allows: we leave it before anyone else of this worker arrives there. */
static void end_running(struct cr__worker *w, struct cr__record *me)
{
    if (CR__UNLIKELY(me->co.cold != NULL))
        cr__co_cold_free(&me->co);
    w->live--;
    w->stats.ended++;
    cr__stack_put(&w->stacks, me->co.stack);
    if (CR__UNLIKELY(w->starving > 0))
        feed(w, me->stack_bytes);
    struct cr_co from = {.mode = CR__MODE(CR__CO_ENDED, CR_FPU_SHARED)}; /* nobody comes back to it */
    cr__san_bury(&me->co);
    if (me->co.sched_flags & CR__HANDLE) {
        cr__co_state_set(&me->co, CR__CO_DONE);
        if (me->joiner)
            cr__wake(w, me->joiner, CR__WOKEN);
    } else {
        free_record(w, me);
    }
    struct cr_co *to = next_context(w, cr__self_get());
    uint64_t note = CR__NOTE_ENDED;
    cr__co_switch(&from, to, false, NULL, &note);
    cr__panic("a coroutine was resumed after its end");
}

/* From the loop into a coroutine; returns when it, or the chain that it began, comes back. */
static void run_from_loop(struct cr__worker *w, struct cr__record *record)
{
    struct cr__self *self = cr__self_get();
    w->io_budget = IO_BUDGET;
    self->current = record->co.below;
    uint64_t note = 0;
    cr__co_switch(&w->loop, record->co.below, true, NULL, &note);
}

/* ---- Spawn and end ------------------------------------------------------------------------------------------ */

int cr__spawn(struct cr__worker *w, struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    unsigned flags = 0;
    uint32_t stack_bytes = w->default_stack_bytes;
    if (!fn || (attr && cr__attr_check(attr, w->default_stack_bytes, &flags, &stack_bytes) < 0))
        return -EINVAL;
    if (attr && !cr__stack_fits(&w->stacks, stack_bytes))
        return -EINVAL;
    struct cr__record *record = cr__slab_get(&w->records);
    if (!record)
        return -ENOMEM;
    record->co = (struct cr_co){
        .below = &record->co,
        .mode = CR__MODE(CR__CO_SCHEDULED, flags),
        .sched_flags = (uint8_t)((out ? CR__HANDLE : 0) | (w->stopping ? CR__CANCEL : 0)),
        .id = ++w->last_id,
        .entry = (void (*)(void))fn,
        .sp = arg,
    };
    record->timer.link = NULL;
    record->wait_object = NULL;
    record->joiner = NULL;
    atomic_store_explicit(&record->wait_word, CR__RUNNING, memory_order_relaxed);
    record->stack_bytes = stack_bytes;
    if (attr && attr->name && cr__co_name_set(&record->co, attr->name) < 0) {
        free_record(w, record);
        return -ENOMEM;
    }
    w->live++;
    w->stats.spawned++;
    make_ready(w, record);
    if (out)
        *out = &record->co;
    return 0;
}

int cr_spawn(struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    return cr__spawn(w, out, fn, arg, attr);
}

int cr_go(void (*fn)(void *), void *arg)
{
    return cr_spawn(NULL, fn, arg, NULL);
}

static bool ended(const struct cr__record *record)
{
    return cr__co_state(&record->co) == CR__CO_DONE;
}

int cr_join_until(struct cr_co *co, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || !co || !(co->sched_flags & CR__HANDLE))
        return -EPERM;
    struct cr__record *target = record_of(co);
    if (target == me)
        return -EDEADLK;
    if (target->joiner)
        return -EBUSY;
    if (!ended(target)) {
        cr__wait_begin(me, CR__WAIT_JOIN, target);
        target->joiner = me;
        int r = cr__wait_suspend(w, me, deadline_ns);
        target->joiner = NULL;
        if (r < 0)
            return r;
        w = cr__worker_here();
    }
    free_record(w, target);
    return 0;
}

int cr_join(struct cr_co *co)
{
    return cr_join_until(co, CR_FOREVER);
}

int cr_detach(struct cr_co *co)
{
    struct cr__worker *w = cr__worker_here();
    if (!w || !co || !(co->sched_flags & CR__HANDLE))
        return -EPERM;
    struct cr__record *target = record_of(co);
    if (target->joiner)
        return -EBUSY;
    co->sched_flags &= (uint8_t)~CR__HANDLE;
    if (ended(target))
        free_record(w, target);
    return 0;
}

static void cancel(struct cr__worker *w, struct cr__record *record)
{
    record->co.sched_flags |= CR__CANCEL;
    cr__wake(w, record, CR__CANCELLED);
}

int cr_cancel(struct cr_co *co)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || !co || !((co->sched_flags & CR__HANDLE) || co == &me->co))
        return -EPERM;
    if (!ended(record_of(co)))
        cancel(w, record_of(co));
    return 0;
}

static void cancel_if_live(void *object, void *arg)
{
    struct cr__record *record = object;
    if (cr__co_state(&record->co) == CR__CO_SCHEDULED)
        cancel(arg, record);
}

void cr__worker_cancel_all(struct cr__worker *w)
{
    w->stopping = true;
    cr__slab_each(&w->records, cancel_if_live, w);
}

int cr_shutdown(void)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    cr__worker_cancel_all(w);
    return 0;
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

int cr_yield(void)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    make_ready(w, me);
    switch_away(cr__self_get(), w, me);
    return 0;
}

/* Apart, so that what is common has no call in it, and saves no registers. */
static CR__NOINLINE struct cr__leave yield_here(void)
{
    return (struct cr__leave){NULL, (void *)(intptr_t)cr_yield()};
}

/* What is common: from a scheduled coroutine to one that has begun. (io_budget is left as it is: the loop renews it.) */
struct cr__leave cr__yield_begin(void)
{
    struct cr__self *self = cr__self_get();
    struct cr__worker *w = self ? self->worker : NULL;
    if (CR__UNLIKELY(!w))
        return yield_here();
    struct cr_co *me = self->current, *to = w->ready.head;
    if (CR__UNLIKELY(!to) || CR__UNLIKELY(!to->stack.top) || CR__UNLIKELY(w->budget <= 1) ||
        CR__UNLIKELY(cr__co_state(me) != CR__CO_SCHEDULED))
        return yield_here();
    w->budget--;
    cr__queue_push(&w->ready, me);
    struct cr_co *after = w->ready.head = to->next; /* me, if no other is ready */
    prefetch(after, YIELDED_LINES);
    self->current = to->below;
    return (struct cr__leave){(struct cr__co_head *)me, to->below->sp};
}

int cr__wait_suspend(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    static const int16_t answers[] = {
        [CR__WOKEN] = 0, [CR__TIMED_OUT] = -ETIMEDOUT, [CR__CANCELLED] = -ECANCELED, [CR__CLOSED] = -EBADF};

    if (CR__UNLIKELY(me->co.sched_flags & CR__CANCEL)) {
        cr__wait_abandon(me);
        cr__breathe(w); /* one that does not take no for an answer must not keep the others from ending */
        return -ECANCELED;
    }
    if (deadline_ns != CR_FOREVER) {
        if (deadline_ns <= w->now_ns) { /* one that has passed since is found by the loop */
            cr__wait_abandon(me);
            return -ETIMEDOUT;
        }
        cr__wheel_arm(&w->wheel, &me->timer, deadline_ns);
    }
    w->stats.parks++;
    switch_away(cr__self_get(), w, me);
    uint32_t outcome = atomic_load_explicit(&me->wait_word, memory_order_acquire); /* pairs with the CAS in cr__wake */
    CR__ASSERT(outcome > CR__WAITING);
    cr__wait_abandon(me);
    return answers[outcome];
}

bool cr__wake(struct cr__worker *w, struct cr__record *record, enum cr__wait_state outcome)
{
    uint32_t waiting = CR__WAITING;
    /* one of wake, timeout, cancel and close wins; release: what the waker did before is seen by the woken (acquire in
     * cr__wait_suspend) */
    if (!atomic_compare_exchange_strong_explicit(&record->wait_word, &waiting, outcome, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    if (cr__timer_armed(&record->timer))
        cr__wheel_cancel(&w->wheel, &record->timer);
    make_ready(w, record);
    return true;
}

static void fire(struct cr__timer *timer, void *arg)
{
    struct cr__worker *w = arg;
    struct cr__record *record = CR__CONTAINER(timer, struct cr__record, timer);
    /* a sleeper's time coming is what it waits for */
    bool sleeps = record->co.sched_wait == CR__WAIT_SLEEP;
    w->stats.timeouts += !sleeps;
    cr__wake(w, record, sleeps ? CR__WOKEN : CR__TIMED_OUT);
}

int cr_sleep_until(int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    cr__wait_begin(me, CR__WAIT_SLEEP, NULL);
    int r = cr__wait_suspend(w, me, deadline_ns);
    if (r != -ETIMEDOUT)
        return r;
    cr__breathe(cr__worker_here()); /* the time had come before we slept */
    return 0;
}

int cr_sleep(int64_t duration_ns)
{
    return cr_sleep_until(cr_after(duration_ns));
}

int64_t cr_now(void)
{
    return cr__os_now_ns();
}

int64_t cr_after(int64_t duration_ns)
{
    int64_t deadline_ns;
    if (__builtin_add_overflow(cr__os_now_ns(), duration_ns, &deadline_ns))
        return duration_ns < 0 ? INT64_MIN : CR_FOREVER;
    return deadline_ns;
}

/* ---- The loop ----------------------------------------------------------------------------------------------- */

/* Runs what is ready, until nothing is or the budget is used up. A star's coroutines find the budget at its end, so each
 * comes back here; `turns` is the budget then. */
static void run_ready(struct cr__worker *w)
{
    struct cr__record *next;
    int turns = w->chain_budget;
    w->used_up = false;
    while ((next = take_ready(w)) != NULL) {
        w->budget = w->chain ? turns : 1;
        run_from_loop(w, next);
        turns = w->chain ? w->budget : turns - 1;
        w->stats.switches += 1;
        if (turns <= 0) {
            w->used_up = true;
            break;
        }
    }
    w->stats.switches += (uint64_t)(w->chain_budget - turns);
}

/* Chains get longer while they return early, and shorter while they keep the poller waiting. */
static void adapt_budget(struct cr__worker *w, int64_t ran_ns)
{
    if (ran_ns > 2 * POLL_INTERVAL_NS && w->chain_budget > 1)
        w->chain_budget /= 2;
    else if (w->used_up && ran_ns < POLL_INTERVAL_NS / 2 && w->chain_budget < MAX_CHAIN_BUDGET)
        w->chain_budget *= 2;
}

/* How long the poller may wait; -1: without end. */
static int64_t poll_timeout(struct cr__worker *w)
{
    return !w->ready.head ? cr__wheel_next(&w->wheel, w->now_ns) : 0;
}

int cr__worker_run(struct cr__worker *w)
{
    while (w->live > 0) {
        int64_t before_ns = w->now_ns;
        run_ready(w);
        w->now_ns = cr__os_now_ns();
        adapt_budget(w, w->now_ns - before_ns);
        cr__wheel_fire(&w->wheel, w->now_ns, fire, w);
        if (w->live == 0)
            break;
        int64_t timeout_ns = poll_timeout(w);
        if (timeout_ns < 0 && w->poller_ops->waiters(w) == 0 && !w->reported) {
            cr__worker_report(w, w->report_fd);
            if (!w->stoppable)
                return -EDEADLK;
            w->reported = true;
        }
        w->stats.polls++;
        int r = w->poller_ops->poll(w, timeout_ns);
        if (r < 0)
            return r;
        if (timeout_ns != 0) {
            w->now_ns = cr__os_now_ns();
            cr__wheel_fire(&w->wheel, w->now_ns, fire, w);
        }
    }
    return 0;
}

/* ---- Setting up --------------------------------------------------------------------------------------------- */

void cr__worker_init(struct cr__worker *w, const struct cr_config *config)
{
    struct cr__self *self = cr__self_here();
    memset(w, 0, sizeof(*w));
    w->chain = config->policy != CR_POLICY_STAR;
    w->chain_budget = FIRST_CHAIN_BUDGET;
    w->default_stack_bytes = cr__stack_size(config->stack_size_bytes);
    w->report_fd = config->report_fd ? config->report_fd : STDERR_FILENO;
    w->outside = self->current; /* a bare coroutine, perhaps */
    w->loop.mode = CR__MODE(CR__CO_ROOT, 0);
    w->loop.stack = self->current->stack;
#ifdef CR__TSAN
    w->loop.tsan_fiber = self->current->tsan_fiber;
#endif
    cr__slab_init(&w->records, sizeof(struct cr__record), RECORD_CHUNK_BYTES, CR__MEM_RECORDS);
    cr__stack_pool_init(&w->stacks, config->guard_size_bytes ? config->guard_size_bytes : CR__STACK_GUARD_BYTES,
                        config->max_stacks_bytes);
    w->now_ns = cr__os_now_ns();
    cr__wheel_init(&w->wheel, w->now_ns);
    cr__stack_class(&w->stacks, w->default_stack_bytes); /* the first to be looked at */
    self->worker = w;
    self->current = &w->loop;
}

static void drop(void *object, void *arg)
{
    struct cr__record *record = object;
    (void)arg;
    if (cr__co_state(&record->co) == CR__CO_SCHEDULED)
        cr__co_cold_free(&record->co);
}

void cr__worker_drop(struct cr__worker *w)
{
    cr__slab_each(&w->records, drop, w);
}

void cr__worker_fini(struct cr__worker *w)
{
    struct cr__self *self = cr__self_here();
    cr__slab_fini(&w->records);
    cr__stack_pool_fini(&w->stacks);
    self->worker = NULL;
    self->current = w->outside;
}

int cr_stats_get(struct cr_stats *out)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    *out = w->stats;
    return 0;
}

void cr_mem_stats_get(struct cr_mem_stats *out)
{
    *out = (struct cr_mem_stats){
        .records_bytes = cr__mem_bytes(CR__MEM_RECORDS),
        .stacks_bytes = cr__mem_bytes(CR__MEM_STACKS),
        .conns_bytes = cr__mem_bytes(CR__MEM_CONNS),
        .buffers_bytes = cr__mem_bytes(CR__MEM_BUFFERS),
        .other_bytes = cr__mem_bytes(CR__MEM_OTHER),
        .kernel_calls = cr__mem_kernel_calls(),
    };
}
