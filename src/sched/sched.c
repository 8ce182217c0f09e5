/* Running coroutines: spawn, yield, park, end. sched.h has the picture and the invariants. */
#include "sched/worker.h"

#include "obs/obs.h"
#include "os/os.h"

#define YIELDED_LINES 2 /* of a stack, which a coroutine that yielded needs first */
#define PARKED_LINES 8  /* one that comes back from a call that waited: its frames and the caller's */
#define OTHERS_TURN 16  /* after so many in a row it is the turn of what would else wait: the ring behind the list, the list behind what is fresh */
#define AGED 8          /* every few milliseconds, so many of the oldest in the ring get into the list */
#define NEXT_LIMIT 16   /* how often in a row what was handed over goes before the others */

static inline bool migrates(const struct cr__worker *w, const struct cr_co *co)
{
    return (cr__co_flags(co) & CR_MIGRATABLE) != 0 && !w->alone;
}

/* ---- What is ready ------------------------------------------------------------------------------------------ */

/* No room: the older half goes to the runtime's injection queue, as one batch. */
static CR__COLD void overflow(struct cr__worker *w)
{
    struct cr_co *batch[CR__RUNQ_SLOTS / 2];
    unsigned n = cr__runq_pop_oldest(&w->stealable, batch, CR__COUNT(batch));
    struct cr_co *first = NULL;
    while (n > 0) {
        batch[--n]->next = first;
        first = batch[n];
    }
    if (first)
        cr__inject(w->sched, cr__record_of(first));
}

static inline void push_stealable(struct cr__worker *w, struct cr_co *co)
{
    w->elsewhere |= CR__IN_RING;
    while (CR__UNLIKELY(!cr__runq_push(&w->stealable, co)))
        overflow(w);
    if (cr__runq_length(&w->stealable) > 1)
        cr__sched_offer(w->sched);
}

/* Where it is, from now on. */
static void adopt(struct cr__worker *w, struct cr_co *co)
{
    cr__park_word *word = &cr__record_of(co)->word;
    if (cr__park_worker(word) != w->index)
        cr__park_worker_set(word, w->index);
}

static void push_wanderer(struct cr__worker *w, struct cr_co *co)
{
    if (CR__LIKELY(cr__runq_push(&w->wanderers, co))) {
        w->elsewhere |= CR__IN_WANDERERS;
    } else { /* it stays here, this time, wherever it has come from */
        adopt(w, co);
        cr__queue_push(&w->ready, co);
    }
}

static inline bool is_stealable(const struct cr__worker *w, const struct cr__record *record)
{
    if (w->alone)
        return false;
    if (!record->co.stack.top)
        return !(record->co.sched_flags & CR__PLACED);
    return migrates(w, &record->co) && !(record->co.sched_flags & CR__TIMED);
}

/* Onto this worker's own list or ring. */
void cr__ready_here(struct cr__worker *w, struct cr__record *record)
{
    if (is_stealable(w, record)) {
        (record->co.stack.top ? push_wanderer : push_stealable)(w, &record->co);
    } else if (record->co.stack.top || !w->alone) {
        cr__queue_push(&w->ready, &record->co);
    } else {
        cr__queue_push(&w->spawned, &record->co);
        w->elsewhere |= CR__IN_FRESH;
    }
}

/* Where a coroutine that has been woken belongs: NULL: to the caller's worker. */
static inline struct cr__worker *elsewhere(struct cr__worker *w, struct cr__record *record)
{
    unsigned index = cr__park_worker(&record->word);
    if (index == w->index || is_stealable(w, record))
        return NULL;
    return w->sched->workers[index];
}

static CR__COLD void deliver(struct cr__worker *w, struct cr__worker *to, struct cr__record *record)
{
    cr__count(&w->counters.sent, 1);
    if (cr__inbox_push(&to->inbox, (struct cr__inbox_link *)(void *)&record->co.next, 1))
        to->poller_ops->kick(to);
}

/* One that may migrate is resumed by the second of its waker and the worker whose stack it leaves. */
static inline bool must_leave_it(struct cr__worker *w, struct cr__record *record)
{
    return migrates(w, &record->co) && record->co.stack.top && !cr__park_second(&record->word, CR__READY);
}

void cr__ready(struct cr__worker *w, struct cr__record *record)
{
    if (CR__UNLIKELY(!w->alone)) {
        if (must_leave_it(w, record))
            return;
        struct cr__worker *to = elsewhere(w, record);
        if (to) {
            deliver(w, to, record);
            return;
        }
    }
    cr__ready_here(w, record);
}

void cr__ready_next(struct cr__worker *w, struct cr__record *record)
{
    if (CR__UNLIKELY(!w->alone)) {
        if (must_leave_it(w, record))
            return;
        struct cr__worker *to = elsewhere(w, record);
        if (to) {
            deliver(w, to, record);
            return;
        }
    }
    if (w->next)
        cr__ready_here(w, cr__record_of(w->next));
    w->next = &record->co;
    w->elsewhere |= CR__IN_NEXT;
}

/* ---- Switching ---------------------------------------------------------------------------------------------- */

static void end_running(struct cr__worker *w, struct cr__record *me);

/* The first frame of every scheduled coroutine. */
__attribute__((noreturn)) static void run_record(void *arg, void *value, uint64_t note)
{
    struct cr__record *me = arg;
    (void)value;
    cr__co_arrive(&me->co, note);
    struct cr__co_top *top = cr__co_top(&me->co);
    void *user_arg = top->word;
    *top = (struct cr__co_top){.word = &cr__worker_here()->stacks}; /* where the stack comes from: it may end elsewhere */
    ((void (*)(void *))me->co.entry)(user_arg);
    if (CR__UNLIKELY(!cr__worker_here()))
        cr__panic("a coroutine's function returned in a child of fork(), where there is no runtime: exec or _exit was meant");
    end_running(cr__worker_here(), me);
    __builtin_unreachable();
}

/* Gives a coroutine whose turn has come for the first time its stack; if there is none, it waits for one. */
static bool start(struct cr__worker *w, struct cr__record *record)
{
    void *arg = record->co.sp;
    uint32_t stack_bytes = record->co.stack.size_bytes;
    if (CR__LIKELY(cr__co_prepare(&record->co, &w->stacks, stack_bytes, run_record) == 0)) {
        cr__co_top(&record->co)->word = arg;
        cr__co_flags_set(&record->co, CR__CO_STARTED);
        return true;
    }
    cr__count(&w->counters.stack_waits, 1);
    cr__co_flags_set(&record->co, CR__CO_STARVES);
    cr__queue_push(&w->starved[cr__stack_class(&w->stacks, stack_bytes)], &record->co);
    atomic_store_explicit(&w->starving, w->starving + 1, memory_order_relaxed);
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

static struct cr_co *take_stealable(struct cr__worker *w)
{
    struct cr_co *co = cr__runq_pop(&w->stealable);
    if (!co) {
        w->elsewhere &= (uint8_t)~CR__IN_RING;
        return NULL;
    }
    if (cr__runq_length(&w->stealable) > 0)
        cr__sched_offer(w->sched);
    adopt(w, co);
    return co;
}

static struct cr_co *take_wanderer(struct cr__worker *w)
{
    struct cr_co *co;
    if (cr__runq_pop_oldest(&w->wanderers, &co, 1) == 0) {
        w->elsewhere &= (uint8_t)~CR__IN_WANDERERS;
        return NULL;
    }
    adopt(w, co);
    return co;
}

/* What one coroutine has spawned before it stopped is a batch, which starts in that order, before older batches. Those are a list by their first ones' nodes:
 * next leads to the next older one, prev to the next younger one, object to the batch's last. */
static void take_batch(struct cr__worker *w)
{
    if (w->fresh.head) {
        struct cr__wait_node *batch = &cr__record_of(w->fresh.head)->node;
        *batch = (struct cr__wait_node){.next = w->youngest, .object = (uintptr_t)w->fresh.tail};
        if (batch->next)
            batch->next->prev = batch;
        else
            w->oldest = batch;
        w->youngest = batch;
    }
    w->fresh = w->spawned;
    w->spawned.head = NULL;
}

static struct cr__queue batch_of(struct cr__wait_node *batch)
{
    return (struct cr__queue){&CR__CONTAINER(batch, struct cr__record, node)->co, (struct cr_co *)batch->object};
}

static void take_youngest(struct cr__worker *w)
{
    struct cr__wait_node *batch = w->youngest;
    w->youngest = batch->next;
    if (batch->next)
        batch->next->prev = NULL;
    else
        w->oldest = NULL;
    w->fresh = batch_of(batch);
}

/* The oldest batch goes behind what has started, if it was the oldest the last time, too. */
static void age_batches(struct cr__worker *w)
{
    struct cr__wait_node *batch = w->oldest;
    bool waits_long = batch && batch == w->aged;
    w->aged = batch;
    if (!waits_long)
        return;
    w->oldest = w->aged = batch->prev;
    if (w->oldest)
        w->oldest->next = NULL;
    else
        w->youngest = NULL;
    struct cr__queue queue = batch_of(batch);
    if (w->ready.head)
        w->ready.tail->next = queue.head;
    else
        w->ready.head = queue.head;
    w->ready.tail = queue.tail;
}

void cr__age(struct cr__worker *w)
{
    age_batches(w);
    struct cr_co *oldest[AGED];
    unsigned n = w->elsewhere & CR__IN_RING ? cr__runq_pop_oldest(&w->stealable, oldest, AGED) : 0;
    for (unsigned i = 0; i < n; i++) {
        adopt(w, oldest[i]);
        cr__queue_push(&w->ready, oldest[i]);
    }
}

static inline struct cr_co *take_next(struct cr__worker *w)
{
    struct cr_co *co = w->next;
    w->next = NULL;
    w->elsewhere &= (uint8_t)~CR__IN_NEXT;
    if (!w->alone)
        adopt(w, co);
    return co;
}

/* What has started: list and wanderers in turns. */
static struct cr_co *take_started(struct cr__worker *w)
{
    struct cr_co *co = NULL;
    w->wanderers_turn = !w->wanderers_turn;
    if ((w->elsewhere & CR__IN_WANDERERS) && (w->wanderers_turn || !w->ready.head))
        co = take_wanderer(w);
    return co || !w->ready.head ? co : cr__queue_pop(&w->ready);
}

/* One worker: what the last one has spawned, then what has started, then older batches. An endless chain of spawns does not keep the others waiting. */
static struct cr_co *take_alone(struct cr__worker *w)
{
    if (w->spawned.head)
        take_batch(w);
    if (w->fresh.head && !(w->streak >= OTHERS_TURN && w->ready.head)) {
        w->streak++;
        return cr__queue_pop(&w->fresh);
    }
    w->streak = 0;
    if (w->ready.head)
        return cr__queue_pop(&w->ready);
    if (!w->youngest) {
        w->elsewhere &= (uint8_t)~CR__IN_FRESH;
        return NULL;
    }
    take_youngest(w);
    return cr__queue_pop(&w->fresh);
}

/* Several: what has started, then what has not. Those that always yield do not keep the others from starting. */
static struct cr_co *take_among_several(struct cr__worker *w)
{
    struct cr_co *co = w->streak < OTHERS_TURN ? take_started(w) : NULL;
    if (co) {
        w->streak++;
        return co;
    }
    w->streak = 0;
    if (w->elsewhere & CR__IN_RING)
        co = take_stealable(w);
    return co ? co : take_started(w);
}

/* What was handed over goes first, but not always. NULL: nothing. */
static CR__NOINLINE struct cr_co *take_elsewhere(struct cr__worker *w)
{
    if (w->next && w->next_streak++ < NEXT_LIMIT)
        return take_next(w);
    w->next_streak = 0;
    struct cr_co *co = w->alone ? take_alone(w) : take_among_several(w);
    return co || !w->next ? co : take_next(w);
}

/* Takes the next ready coroutine that has, or gets, a stack. */
static inline struct cr__record *take_ready(struct cr__worker *w)
{
    for (;;) {
        struct cr_co *co;
        if (w->elsewhere == CR__IN_NEXT && w->next_streak < NEXT_LIMIT) {
            w->next_streak++;
            co = take_next(w);
        } else if (CR__UNLIKELY(w->elsewhere != 0)) {
            co = take_elsewhere(w);
            if (!co)
                return NULL;
        } else {
            if (!w->ready.head)
                return NULL;
            co = cr__queue_pop(&w->ready);
        }
        struct cr_co *after = w->ready.head;
        if (CR__LIKELY(after != NULL) && CR__LIKELY(after->stack.top != NULL))
            prefetch(after, PARKED_LINES);
        if (CR__LIKELY(co->stack.top != NULL) || CR__LIKELY(start(w, cr__record_of(co))))
            return cr__record_of(co);
    }
}

static inline int budget_of(struct cr__worker *w)
{
    return atomic_load_explicit(&w->budget, memory_order_relaxed);
}

static inline void budget_set(struct cr__worker *w, int budget)
{
    atomic_store_explicit(&w->budget, budget, memory_order_relaxed);
}

/* What to switch to when a coroutine stops: the next one of the chain, or the loop. */
static inline struct cr_co *next_context(struct cr__worker *w, struct cr__self *self)
{
    struct cr__record *next = NULL;
    int budget = budget_of(w) - 1;
    budget_set(w, budget);
    if (CR__LIKELY(budget > 0))
        next = take_ready(w);
    if (CR__UNLIKELY(w->io_budget != CR__IO_BUDGET))
        w->io_budget = CR__IO_BUDGET;
    return self->current = next ? next->co.below : &w->loop;
}

/* Before the running coroutine is left: what to switch from, and to. What stops may be a bare coroutine that runs inside it: that one's context is what
 * is left and found again. One that may migrate goes to the loop, which finds it in w->leaving, and knows that it has left. */
__attribute__((always_inline)) static inline struct cr__hop leave(struct cr__self *self, struct cr__worker *w, struct cr__record *me, bool ready)
{
    struct cr__hop hop = {.from = self->current};
    me->co.below = hop.from;
    if (CR__UNLIKELY(migrates(w, &me->co))) {
        w->leaving = &me->co;
        w->leaving_ready = ready;
        budget_set(w, budget_of(w) - 1);
        hop.to = self->current = &w->loop;
    } else {
        if (ready)
            cr__queue_push(&w->ready, &me->co);
        hop.to = next_context(w, self);
    }
    return hop;
}

static void free_record(struct cr__worker *w, struct cr__record *record)
{
    cr__co_state_set(&record->co, CR__CO_FREE);
    atomic_store_explicit(&record->word, CR__FREE, memory_order_relaxed); /* a handle that is used once more is no handle */
    cr__slab_put(&w->records, record);
}

/* A stack of that class is free again: for who waits for one of its size, else another tries its luck. */
CR__COLD void cr__feed(struct cr__worker *w, unsigned class)
{
    while (!w->starved[class].head)
        class = (class + 1) % CR__STACK_CLASSES;
    struct cr_co *waits = cr__queue_pop(&w->starved[class]);
    atomic_store_explicit(&w->starving, w->starving - 1, memory_order_relaxed);
    cr__co_flags_set(waits, 0);
    cr__queue_push(&w->ready, waits); /* it has been started here, as far as others are concerned */
}

/* Sends home the stack on which one that had come from another worker ended. */
CR__COLD void cr__send_stack_home(struct cr__worker *w)
{
    if (!w->last_stack.top)
        return;
    struct cr__worker *home = CR__CONTAINER(w->last_stack_home, struct cr__worker, stacks);
    cr__stack_put_remote(&home->stacks, w->last_stack);
    w->last_stack.top = NULL;
    atomic_thread_fence(memory_order_seq_cst); /* it sees the stack, or we see it starve, and asleep: house_keeping, fall_asleep */
    if (atomic_load_explicit(&home->starving, memory_order_relaxed) > 0)
        cr__worker_rouse(home);
}

/* The stack goes back while we run on it, which stack.h allows: we leave it before anyone else of this worker arrives there. Another worker's
 * waits until we have. */
static void put_stack(struct cr__worker *w, struct cr__record *me)
{
    struct cr__stack_pool *home = cr__co_top(&me->co)->word;
    if (CR__LIKELY(home == &w->stacks)) {
        cr__stack_put(&w->stacks, me->co.stack);
        if (CR__UNLIKELY(w->starving > 0))
            cr__feed(w, cr__stack_class(&w->stacks, me->co.stack.size_bytes));
        return;
    }
    cr__send_stack_home(w);
    w->last_stack = me->co.stack;
    w->last_stack_home = home;
}

/* Tells whoever holds a handle, or puts the record back. After that the record is another's. */
static void give_up_record(struct cr__worker *w, struct cr__record *me)
{
    if (CR__LIKELY(cr__park_unheld(&me->word))) {
        free_record(w, me);
        return;
    }
    cr__park_lock(&me->word, w->alone);
    bool held = cr__park_held(&me->word);
    if (held) {
        cr__co_state_set(&me->co, CR__CO_DONE);
        if (me->joiner)
            cr__wake(w, me->joiner, CR__WOKEN);
    }
    cr__park_unlock(&me->word, held ? CR__STATE : 0, w->alone); /* CR__FREE: it lives no more, and a dump need not look further */
    if (!held)
        free_record(w, me);
}

/* Who waits for such a lock would wait for ever, and whoever has the record next would be taken for the holder. What local storage's destructors unlock is well. */
static CR__COLD void end_with_locks(struct cr__record *me)
{
    char name[CR__NAME_BYTES], function[128];
    cr_name_get(&me->co, name, sizeof(name));
    cr__co_cold_free(&me->co);
    if (me->co.locks == 0)
        return;
    uintptr_t last = (uintptr_t)cr__co_top(&me->co)->last_lock;
    cr__panic("coroutine %u%s%s%s in %s has ended without unlocking %u lock%s that it holds; the last one that it took is the %s at %p", me->co.id,
              name[0] ? " \"" : "", name, name[0] ? "\"" : "", cr__symbol_of((void *)me->co.entry, function, sizeof(function)), me->co.locks,
              me->co.locks == 1 ? "" : "s", last & CR__LOCK_OF_MANY ? "readers-writer lock" : "mutex", (void *)(last & ~CR__LOCK_OF_MANY));
}

static void end_running(struct cr__worker *w, struct cr__record *me)
{
    if (CR__UNLIKELY(me->co.locks != 0)) {
        end_with_locks(me);
        w = cr__worker_here();
    }
    if (CR__UNLIKELY(me->co.cold != NULL)) {
        cr__co_cold_free(&me->co);
        w = cr__worker_here(); /* the user's destructors ran */
    }
    w->live--;
    cr__count(&w->counters.ended, 1);
    put_stack(w, me);
    struct cr_co from = {.mode = CR__MODE(CR__CO_ENDED, CR_FPU_SHARED)}; /* nobody comes back to it */
    cr__san_bury(&me->co);
    give_up_record(w, me);
    struct cr_co *to = next_context(w, cr__self_get());
    uint64_t note = CR__NOTE_ENDED;
    cr__co_switch(&from, to, false, NULL, &note);
    cr__panic("a coroutine was resumed after its end");
}

/* What has left its stack by switching to the loop: from now on another worker may resume it. */
static void publish(struct cr__worker *w)
{
    struct cr__record *record = cr__record_of(w->leaving);
    w->leaving = NULL;
    if (w->leaving_ready)
        cr__ready_here(w, record);
    else if (cr__park_second(&record->word, CR__LEFT))
        cr__ready_here(w, record); /* it has been woken meanwhile */
}

/* From the loop into a coroutine; returns when it, or the chain that it began, comes back. */
static void run_from_loop(struct cr__worker *w, struct cr__record *record)
{
    struct cr__self *self = cr__self_get();
    w->io_budget = CR__IO_BUDGET;
    self->current = record->co.below;
    uint64_t note = 0;
    cr__co_switch(&w->loop, record->co.below, true, NULL, &note);
    if (CR__UNLIKELY(w->leaving != NULL))
        publish(w);
}

/* Runs what is ready, until nothing is or the budget is used up. A star's coroutines find the budget at its end, so each
 * comes back here; `turns` is the budget then. */
void cr__run_ready(struct cr__worker *w)
{
    struct cr__record *next;
    int turns = w->chain_budget;
    uint64_t switches = 0;
    w->used_up = false;
    while ((next = take_ready(w)) != NULL) {
        budget_set(w, w->chain ? turns : 1);
        if (!w->chain)
            cr__count(&w->turns, 1); /* a star's budget does not show that something moves */
        run_from_loop(w, next);
        turns = w->chain ? budget_of(w) : turns - 1;
        switches++;
        if (turns <= 0) {
            w->used_up = true;
            break;
        }
    }
    cr__count(&w->counters.switches, switches + (uint64_t)(w->chain_budget - turns));
}

/* ---- Spawning ----------------------------------------------------------------------------------------------- */

int cr__spawn_with(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where)
{
    unsigned flags;
    uint32_t stack_bytes;
    if (!fn || cr__attr_check(attr, w->default_stack_bytes, &flags, &stack_bytes) < 0)
        return -EINVAL;
    if (!cr__stack_fits(&w->stacks, stack_bytes))
        return -EINVAL;
    struct cr__record *record = cr__slab_get(&w->records);
    if (!record)
        return -ENOMEM;
    bool stopping = atomic_load_explicit(&w->sched->stopping, memory_order_relaxed);
    record->co = (struct cr_co){
        .below = &record->co,
        .mode = CR__MODE(CR__CO_SCHEDULED, flags),
        .sched_flags = placed ? CR__PLACED : 0,
        .id = w->last_id += w->sched->count,
        .entry = (void (*)(void))fn,
        .sp = arg,
        .stack.size_bytes = stack_bytes,
        .cold = cold,
    };
    record->timer.link = NULL;
    record->joiner = NULL;
    atomic_store_explicit(&record->word,
                          CR__RUNNING | (stopping ? CR__CANCEL : 0u) | (out ? CR__HELD : 0u) | (placed ? placed : w)->index * CR__WORKER,
                          memory_order_relaxed);
    if (attr && attr->name && cr__co_name_set(&record->co, attr->name) < 0) {
        record->co.cold = NULL; /* if there is one, it is the caller's */
        free_record(w, record);
        return -ENOMEM;
    }
    w->live++;
    cr__count(&w->counters.spawned, 1);
    if (out)
        *out = &record->co; /* before it can run, and end */
    if (where)
        *where = &record->co;
    if (placed && placed != w)
        deliver(w, placed, record);
    else
        cr__ready_here(w, record);
    return 0;
}

int cr__spawn(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
              const struct cr_attr *attr)
{
    return cr__spawn_with(w, placed, out, fn, arg, attr, NULL, NULL);
}

int cr_spawn(struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    return cr__spawn(w, NULL, out, fn, arg, attr);
}

int cr_spawn_on(struct cr_co **out, unsigned worker, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    if (worker >= w->sched->count)
        return -EINVAL;
    return cr__spawn(w, w->sched->workers[worker], out, fn, arg, attr);
}

int cr_go(void (*fn)(void *), void *arg)
{
    return cr_spawn(NULL, fn, arg, NULL);
}

int cr_go_on(unsigned worker, void (*fn)(void *), void *arg)
{
    return cr_spawn_on(NULL, worker, fn, arg, NULL);
}

int cr_worker_index(void)
{
    struct cr__worker *w = cr__worker_here();
    return w ? w->index : -EPERM;
}

int cr_worker_count(void)
{
    struct cr__worker *w = cr__worker_here();
    return w ? (int)w->sched->count : -EPERM;
}

/* ---- Handles ------------------------------------------------------------------------------------------------ */

/* What keeps another coroutine from being joined or detached, or 0. Its word is locked. */
static int check_handle(const struct cr__record *target)
{
    if (!cr__park_held(&target->word))
        return -EPERM;
    return target->joiner ? -EBUSY : 0;
}

static bool ended(const struct cr__record *record)
{
    return cr__co_state(&record->co) == CR__CO_DONE;
}

static int join_begin(struct cr__worker *w, struct cr__record *me, struct cr__record *target, int64_t deadline_ns, bool *done)
{
    cr__park_lock(&target->word, w->alone);
    int r = check_handle(target);
    *done = r == 0 && ended(target);
    if (r == 0 && !*done)
        r = cr__wait_begin(w, me, CR__WAIT_JOIN, target, deadline_ns);
    if (r == 0 && !*done)
        target->joiner = me;
    cr__park_unlock(&target->word, 0, w->alone);
    return r;
}

int cr_join_until(struct cr_co *co, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    if (target == me)
        return -EDEADLK;
    bool done;
    int r = join_begin(w, me, target, deadline_ns, &done);
    if (r < 0) {
        cr__breathe(w);
        return r;
    }
    if (!done) {
        r = cr__wait_suspend(w, me, deadline_ns);
        w = cr__worker_here();
        cr__park_lock(&target->word, w->alone);
        target->joiner = NULL;
        cr__park_unlock(&target->word, 0, w->alone);
        if (r < 0)
            return r;
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
    if (!w || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    cr__park_lock(&target->word, w->alone);
    int r = check_handle(target);
    bool done = r == 0 && ended(target);
    cr__park_unlock(&target->word, r == 0 ? CR__HELD : 0, w->alone);
    if (done)
        free_record(w, target);
    return r;
}

void cr__cancel(struct cr__worker *w, struct cr__record *record, uint32_t flag)
{
    cr__park_cancel(&record->word, flag);
    cr__wake(w, record, CR__CANCELLED);
}

int cr_cancel(struct cr_co *co)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    if (target == me) {
        cr__park_cancel(&me->word, CR__CANCEL);
        return 0;
    }
    cr__park_lock(&target->word, w->alone);
    bool held = cr__park_held(&target->word);
    if (held && !ended(target))
        cr__cancel(w, target, CR__CANCEL);
    cr__park_unlock(&target->word, 0, w->alone);
    return held ? 0 : -EPERM;
}

int cr_shutdown(void)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    cr__sched_cancel_all(w->sched, w);
    return 0;
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

int cr_yield(void)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    cr__hop(me, leave(cr__self_get(), w, me, true));
    return 0;
}

/* Apart, so that what is common has no call in it, and saves no registers. */
static CR__NOINLINE struct cr__leave yield_here(void)
{
    return (struct cr__leave){NULL, (void *)(intptr_t)cr_yield()};
}

/* What is common: from a scheduled coroutine that stays to one that has begun. (io_budget is left as it is: the loop renews it.) */
struct cr__leave cr__yield_begin(void)
{
    struct cr__self *self = cr__self_get();
    struct cr__worker *w = self ? self->worker : NULL;
    if (CR__UNLIKELY(!w))
        return yield_here();
    struct cr_co *me = self->current, *to = w->ready.head;
    int budget = budget_of(w);
    if (CR__UNLIKELY(!to) || CR__UNLIKELY(!to->stack.top) || CR__UNLIKELY(budget <= 1) || CR__UNLIKELY(w->elsewhere != 0) ||
        CR__UNLIKELY((me->mode & CR__MODE(0xff, CR_MIGRATABLE)) != CR__CO_SCHEDULED))
        return yield_here();
    budget_set(w, budget - 1);
    cr__queue_push(&w->ready, me);
    struct cr_co *after = w->ready.head = to->next; /* me, if no other is ready */
    prefetch(after, YIELDED_LINES);
    self->current = to->below;
    return (struct cr__leave){(struct cr__co_head *)me, to->below->sp};
}

int cr__too_late(const struct cr__worker *w, const struct cr__record *me)
{
    bool bound = me->co.cold && me->co.cold->bound_ns <= w->now_ns;
    return bound || cr__park_cancelled(atomic_load_explicit(&me->word, memory_order_relaxed)) ? -ECANCELED : -ETIMEDOUT;
}

struct cr__hop cr__wait_leave(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    int64_t until_ns = cr__bounded(me, deadline_ns);
    if (until_ns != CR_FOREVER) {
        cr__wheel_arm(&w->wheel, &me->timer, until_ns);
        me->co.sched_flags |= CR__TIMED;
    }
    me->since = (uint32_t)((uint64_t)w->now_ns >> CR__SINCE_SHIFT);
    cr__count(&w->counters.parks, 1);
    return leave(cr__self_get(), w, me, false);
}

int cr__wait_arrive(struct cr__record *me, int64_t deadline_ns)
{
    static const int16_t answers[] = {
        [CR__WOKEN] = 0, [CR__TIMED_OUT] = -ETIMEDOUT, [CR__CANCELLED] = -ECANCELED, [CR__CLOSED] = -EBADF};

    if (cr__timer_armed(&me->timer))
        cr__wheel_cancel(&cr__worker_here()->wheel, &me->timer); /* on the same worker: is_stealable says so */
    me->co.sched_flags &= (uint8_t)~CR__TIMED;
    enum cr__wait_state outcome = cr__park_state(&me->word);
    bool sleeps = cr__waits_for(me) == CR__WAIT_SLEEP;
    CR__ASSERT(outcome > CR__WAITING);
    if (CR__UNLIKELY(cr__bounded(me, deadline_ns) != deadline_ns) && (outcome == CR__TIMED_OUT || (sleeps && outcome == CR__WOKEN)))
        return -ECANCELED; /* what bounds it came first */
    return answers[outcome];
}

int cr__wait_suspend(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    return cr__wait_suspend_here(w, me, deadline_ns);
}

struct cr__mask cr__mask(struct cr__record *me, int64_t bound_ns)
{
    struct cr__co_cold *cold = me->co.cold; /* without one, there is no bound to lift */
    struct cr__mask before = {(cr__flag_set(me, CR__MASKED, true) & CR__MASKED) != 0, cold ? cold->bound_ns : CR_FOREVER};
    if (cold)
        cold->bound_ns = bound_ns;
    return before;
}

void cr__unmask(struct cr__record *me, struct cr__mask before)
{
    if (!before.masked)
        cr__flag_set(me, CR__MASKED, false);
    if (me->co.cold)
        me->co.cold->bound_ns = before.bound_ns;
}

int cr_sleep_until(int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    int r = cr__wait_begin(w, me, CR__WAIT_SLEEP, NULL, deadline_ns);
    if (r == 0)
        return cr__wait_suspend(w, me, deadline_ns);
    cr__breathe(w);
    return r == -ETIMEDOUT ? 0 : r; /* the time had come before we slept */
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
