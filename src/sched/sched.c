/* Running coroutines: what is ready, switching, yielding, ending. How they are spawned is in spawn.c, how they wait in wait.c. sched.h has the picture and the invariants. */
#include "sched/idle.h"

#include <stdio.h>

#include "obs/obs.h"
#include "os/os.h"
#include "sched/census.h"
#include "sched/injection.h"
#include "sched/task.h"

#define YIELDED_LINES 2 /* of a stack, which a coroutine that yielded needs first */
#define OTHERS_TURN 16  /* after so many in a row it is the turn of what would else wait: the ring behind the list, the list behind what is fresh */
#define AGED 8          /* every few milliseconds, so many of the oldest in the ring get into the list */
#define OVERFLOW_PARTS 8 /* what a full ring is relieved of, in so many steps: lists of pointers take room on the stack of who spawns */
#define PLACES 8        /* under a seed: among so many of the ready ones goes one that comes later, or behind all of them */
#define NEXT_LIMIT 16   /* how often in a row what was handed over goes before the others */

/* Of the worker that it is on. */
static inline struct cr__stack_pool *pool_of(struct cr__worker *w, const struct cr_co *co)
{
    return cr__co_kind(co) == CR_STACK_VIRTUAL ? &w->virtuals : &w->stacks;
}

/* ---- What is ready ------------------------------------------------------------------------------------------ */

/* No room: the older half goes to the runtime's injection queue, as one batch. */
static CR__COLD void overflow(struct cr__worker *w)
{
    struct cr__queue older = {0};
    for (int part = 0; part < OVERFLOW_PARTS; part++) {
        struct cr_co *batch[CR__RUNQ_SLOTS / 2 / OVERFLOW_PARTS];
        unsigned n = cr__runq_pop_oldest(&w->stealable, batch, CR__COUNT(batch));
        for (unsigned i = 0; i < n; i++)
            cr__queue_push(&older, batch[i]);
    }
    if (older.head) {
        older.tail->next = NULL;
        cr__inject(w->sched, cr__record_of(older.head));
    }
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
    if (!cr__co_started(&record->co))
        return !(record->co.sched_flags & CR__PLACED);
    return cr__migrates(w, &record->co) && !(record->co.sched_flags & CR__TIMED);
}

/* How many are in the list, up to `most`. */
static uint32_t length_up_to(const struct cr__queue *queue, uint32_t most)
{
    uint32_t length = 0;
    for (const struct cr_co *co = queue->head; co && length < most; co = co == queue->tail ? NULL : co->next)
        length++;
    return length;
}

static void insert_at(struct cr__queue *queue, struct cr_co *co, uint32_t at)
{
    struct cr_co **link = &queue->head;
    while (at-- > 0)
        link = &(*link)->next;
    co->next = *link;
    *link = co;
}

/* Under a seed: one that was woken or spawned goes anywhere among the ready ones; of many, among the first or, half of the time, to the end, so that whoever is far behind
 * is not passed by more than go. One that was spawned may as well go where they go else. */
static CR__COLD void place(struct cr__worker *w, struct cr_co *co)
{
    if (!cr__co_started(co) && w->fate->below(4) == 0) {
        cr__queue_push(&w->spawned, co);
        w->elsewhere |= CR__IN_FRESH;
        return;
    }
    uint32_t length = length_up_to(&w->ready, PLACES), at = w->fate->below(length < PLACES ? length + 1 : 2 * PLACES);
    if (at < length)
        insert_at(&w->ready, co, at);
    else
        cr__queue_push(&w->ready, co);
}

/* Onto this worker's own list or ring. */
void cr__ready_here(struct cr__worker *w, struct cr__record *record)
{
    if (CR__UNLIKELY((w->elsewhere & CR__FATED) != 0)) {
        place(w, &record->co);
    } else if (is_stealable(w, record)) {
        (cr__co_started(&record->co) ? push_wanderer : push_stealable)(w, &record->co);
    } else if (cr__co_started(&record->co) || !w->alone) {
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

CR__COLD void cr__deliver(struct cr__worker *w, struct cr__worker *to, struct cr__record *record)
{
    cr__count(&w->counters.sent, 1);
    if (cr__inbox_push(&to->inbox, (struct cr__inbox_link *)(void *)&record->co.next, 1))
        to->poller_ops->kick(to);
}

/* One that may migrate is resumed by the second of its waker and the worker whose stack it leaves. */
static inline bool must_leave_it(struct cr__worker *w, struct cr__record *record)
{
    return cr__migrates(w, &record->co) && cr__co_started(&record->co) && !cr__park_second(&record->word, CR__READY);
}

void cr__ready(struct cr__worker *w, struct cr__record *record)
{
    if (CR__UNLIKELY(!w->alone)) {
        if (must_leave_it(w, record))
            return;
        struct cr__worker *to = elsewhere(w, record);
        if (to) {
            cr__deliver(w, to, record);
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
            cr__deliver(w, to, record);
            return;
        }
    }
    if (CR__UNLIKELY((w->elsewhere & CR__FATED) != 0) && w->fate->below(2)) {
        place(w, &record->co);
        return;
    }
    if (w->next)
        cr__ready_here(w, cr__record_of(w->next));
    w->next = &record->co;
    w->elsewhere |= CR__IN_NEXT;
}

/* ---- Switching ---------------------------------------------------------------------------------------------- */

/* What runs on a scheduled coroutine's stack. */
static struct cr__arch_call begin_running(void *arg, void *value, uint64_t note)
{
    struct cr__record *me = arg;
    (void)value;
    cr__co_arrive(&me->co, note);
    struct cr__co_top *top = cr__co_top(&me->co);
    void *user_arg = top->word;
    *top = (struct cr__co_top){.word = pool_of(cr__worker_here(), &me->co)}; /* where the stack comes from: it may end elsewhere */
    return (struct cr__arch_call){(void *(*)(void *))me->co.entry, user_arg};
}

static void end_running(void *unused);
static const struct cr__arch_life life = {begin_running, end_running};

/* Whether one that has begun, and a bare coroutine that it waits inside, are in place, as most are. */
static inline bool all_in_place(const struct cr_co *co)
{
    return CR__LIKELY(cr__co_in_place(co)) && CR__LIKELY(co->below == co);
}

/* It goes on in the innermost; the others come when that one, and so on, yields to them: nobody else runs here until it parks again. */
static int reserve_all(struct cr__worker *w, struct cr__record *record)
{
    int r = 0;
    for (struct cr_co *co = record->co.below; r == 0; co = co->below) {
        if (cr__co_kind(co) == CR_STACK_SHARED && (cr__co_flags(co) & CR__CO_AWAY))
            r = cr__shared_reserve(w->self, co);
        if (co == &record->co)
            break;
    }
    return r;
}

/* One that has begun, but not all of it is on its stack: whether it can be put there. Else it gets its turn later. */
static CR__NOINLINE bool prepare_away(struct cr__worker *w, struct cr__record *record)
{
    bool frozen = cr__co_kind(&record->co) == CR_STACK_VIRTUAL && !cr__co_in_place(&record->co);
    if (CR__LIKELY((frozen ? cr__freezer_thaw(w, record) : reserve_all(w, record)) == 0))
        return true;
    cr__count(&w->counters.stack_waits, 1);
    cr__queue_push(&w->put_off, &record->co);
    return false;
}

/* It has its stack. */
static inline void started(struct cr__worker *w, struct cr__record *record, void *arg)
{
    cr__co_top(&record->co)->word = arg;
    w->unstarted--;
    if (CR__UNLIKELY((cr__co_flags(&record->co) & CR__CO_CHECKED) != 0) && w->census)
        cr__census_started(&record->co);
    cr__co_flags_set(&record->co, CR__CO_STARTED);
}

/* There is no bound on them, so without memory it does not wait for another one's, but tries again. */
static bool start_packed(struct cr__worker *w, struct cr__record *record, void *arg)
{
    if (cr__co_prepare_packed(&record->co, &w->packed, &life) < 0) {
        cr__count(&w->counters.stack_waits, 1);
        cr__queue_push(&w->put_off, &record->co);
        return false;
    }
    started(w, record, arg);
    return true;
}

/* Gives a coroutine whose turn has come for the first time its stack; if there is none, it waits for one. */
static bool start(struct cr__worker *w, struct cr__record *record)
{
    void *arg = record->co.sp;
    uint32_t stack_bytes = record->co.stack.size_bytes;
    if (cr__co_kind(&record->co) == CR_STACK_SHARED) {
        if (cr__shared_start(&w->shared, &record->co, stack_bytes, &life, arg) == 0) {
            w->unstarted--; /* what it takes from now on is in images */
            cr__co_flags_set(&record->co, CR__CO_STARTED);
            return prepare_away(w, record);
        }
        cr__count(&w->counters.stack_waits, 1);
        cr__queue_push(&w->put_off, &record->co);
        return false;
    }
    if (cr__co_is_packed(&record->co))
        return start_packed(w, record, arg);
    if (CR__LIKELY(cr__co_prepare(&record->co, pool_of(w, &record->co), stack_bytes, &life) == 0)) {
        started(w, record, arg);
        if (cr__co_kind(&record->co) == CR_STACK_VIRTUAL)
            cr__freezer_add(w, record);
        return true;
    }
    cr__count(&w->counters.stack_waits, 1);
    cr__co_flags_set(&record->co, CR__CO_STARVES);
    cr__queue_push(&w->starved[cr__stack_class(&w->stacks, stack_bytes)], &record->co);
    atomic_store_explicit(&w->starving, w->starving + 1, memory_order_relaxed);
    return false;
}

/* By its turn, what it needs will have come: its stack, from the innermost frame on, and its successor's record. (The last one's next may be
 * anything: a prefetch does not mind. Nor does it that a task has no sp, but sanitizers do that we read it.) */
static inline void prefetch(const struct cr_co *after, int stack_lines)
{
#if !defined(CR__ASAN) && !defined(CR__TSAN)
    for (int i = 0; i < stack_lines; i++)
        __builtin_prefetch((char *)after->sp + i * CR__CACHE_LINE);
    __builtin_prefetch(after->next);
#else
    (void)after;
    (void)stack_lines;
#endif
}

/* A task's turn: the loop's business. `after` comes next: its record's rest, and its frame, will have come by then. */
static struct cr__record *leave_to_loop(struct cr__worker *w, struct cr_co *task, const struct cr_co *after)
{
    if (!cr__co_started(task))
        cr__co_flags_set(task, CR__CO_STARTED);
    w->task = cr__record_of(task);
    if (CR__LIKELY(after != NULL)) {
        __builtin_prefetch((const char *)after + sizeof(struct cr__record) - CR__CACHE_LINE);
        __builtin_prefetch((const char *)after + sizeof(struct cr__record));
    }
    return NULL;
}

static inline void prefetch_away(const struct cr_co *after)
{
    if (cr__co_kind(after) == CR_STACK_SHARED)
        cr__shared_prefetch(after);
    __builtin_prefetch(after->next);
}

/* The one that will be taken next, if nobody else takes it: both lines will be written. */
static inline void prefetch_fresh(struct cr__worker *w)
{
    const struct cr_co *after = cr__runq_peek(&w->stealable);
    cr__fetch_to_write(after);
    cr__fetch_to_write((const void *)((uintptr_t)after + CR__CACHE_LINE));
}

static struct cr_co *take_stealable(struct cr__worker *w)
{
    struct cr_co *co = cr__runq_pop(&w->stealable);
    if (!co) {
        w->elsewhere &= (uint8_t)~CR__IN_RING;
        return NULL;
    }
    if (cr__runq_length(&w->stealable) > 0) {
        prefetch_fresh(w);
        cr__sched_offer(w->sched);
    }
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
    struct cr__record *injected = w->alone ? NULL : cr__injection_take(&w->sched->injection); /* a ring that is never empty does not keep them from starting, either */
    for (struct cr_co *co = injected ? &injected->co : NULL, *next; co; co = next) {
        next = co->next;
        adopt(w, co);
        cr__queue_push(&w->ready, co);
    }
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

/* One worker: what the last one has spawned, then what has started, then older batches. Neither an endless chain of spawns nor those that always yield keep the others waiting. */
static struct cr_co *take_alone(struct cr__worker *w)
{
    if (w->spawned.head)
        take_batch(w);
    if (w->fresh.head && !(w->streak >= OTHERS_TURN && w->ready.head)) {
        w->streak++;
        return cr__queue_pop(&w->fresh);
    }
    w->streak = 0;
    if (!w->fresh.head && !w->youngest)
        w->elsewhere &= (uint8_t)~CR__IN_FRESH;
    if (w->ready.head && (w->fresh.head || !w->youngest || w->passed_over++ < OTHERS_TURN))
        return cr__queue_pop(&w->ready);
    if (!w->youngest)
        return NULL;
    w->passed_over = 0;
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
static inline struct cr_co *take_from_elsewhere(struct cr__worker *w)
{
    if (w->next && w->next_streak++ < NEXT_LIMIT)
        return take_next(w);
    w->next_streak = 0;
    struct cr_co *co = w->alone ? take_alone(w) : take_among_several(w);
    return co || !w->next ? co : take_next(w);
}

/* Under a seed. How many calls it may make that need not wait is mostly few, so that it yields where one seldom does. */
static CR__COLD void begin_turn(struct cr__worker *w, struct cr_co *co)
{
    w->fate->turn(cr__record_of(co));
    w->io_budget_next = 1 + (int)w->fate->below(1 + w->fate->below(CR__IO_BUDGET));
}

static CR__NOINLINE struct cr_co *take_elsewhere(struct cr__worker *w)
{
    struct cr_co *co = take_from_elsewhere(w);
    if (CR__UNLIKELY((w->elsewhere & CR__FATED) != 0) && co)
        begin_turn(w, co);
    return co;
}

static bool prepare_record(struct cr__worker *w, struct cr__record *record)
{
    return cr__co_started(&record->co) ? prepare_away(w, record) : start(w, record);
}

/* Takes the next ready coroutine that has, or gets, a stack. NULL: there is none, or it is the turn of w->task. */
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
        if (CR__LIKELY(after != NULL)) {
            if (CR__LIKELY(cr__co_in_place(after)))
                prefetch(after, CR__PARKED_LINES);
            else if (cr__co_started(after) && !cr__co_is_task(after))
                prefetch_away(after);
        }
        if (CR__LIKELY(all_in_place(co)))
            return cr__record_of(co);
        if (cr__co_is_task(co))
            return leave_to_loop(w, co, after);
        if (CR__LIKELY(prepare_record(w, cr__record_of(co))))
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
    w->io_budget = w->io_budget_next;
    return self->current = next ? next->co.below : &w->loop;
}

/* To the loop, as one whose chain ends there. */
static CR__NOINLINE struct cr_co *to_loop(struct cr__worker *w, struct cr__self *self)
{
    budget_set(w, budget_of(w) - 1);
    return self->current = &w->loop;
}

/* A packed stack is looked at before it is left. */
static CR__COLD void look_at_packed(struct cr__worker *w, struct cr__record *me)
{
    bool inner = w->self->current != &me->co; /* it stops in a bare coroutine, on that one's stack */
    cr__co_check_packed(&me->co, inner ? me->co.stack.top : __builtin_frame_address(0));
}

/* Before the running coroutine is left: what to switch from, and to. What stops may be a bare coroutine that runs inside it: that one's context is what
 * is left and found again. One that may migrate, or of which a census is taken, goes to the loop, which finds it in w->leaving, and knows that it has left. One on a packed stack goes to
 * the loop, since there is no room for what starting the next one takes. */
__attribute__((always_inline)) static inline struct cr__hop leave(struct cr__self *self, struct cr__worker *w, struct cr__record *me, bool ready)
{
    struct cr__hop hop = {.from = self->current};
    me->co.below = hop.from;
    bool packed = false;
    if (CR__UNLIKELY((cr__co_flags(&me->co) & (CR_MIGRATABLE | CR__CO_CHECKED)) != 0)) {
        packed = cr__co_is_packed(&me->co);
        if (packed)
            look_at_packed(w, me);
        if (cr__migrates(w, &me->co) || w->census) {
            w->leaving = &me->co;
            w->leaving_ready = ready;
            hop.to = to_loop(w, self);
            return hop;
        }
    }
    if (ready)
        cr__queue_push(&w->ready, &me->co);
    hop.to = CR__UNLIKELY(packed) ? to_loop(w, self) : next_context(w, self);
    return hop;
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
    struct cr__worker *home = w->last_stack_home->owner;
    cr__stack_put_remote(w->last_stack_home, w->last_stack);
    w->last_stack.top = NULL;
    atomic_thread_fence(memory_order_seq_cst); /* it sees the stack, or we see it starve, and asleep: house_keeping, cr__worker_fall_asleep */
    if (atomic_load_explicit(&home->starving, memory_order_relaxed) > 0)
        cr__worker_rouse(home);
}

/* Of one that is not as most are: whether its stack is none of a pool's. */
static CR__NOINLINE bool put_unusual(struct cr__worker *w, struct cr__record *me)
{
    if (cr__co_kind(&me->co) == CR_STACK_SHARED) {
        cr__shared_end(&me->co);
        return true;
    }
    if (!cr__co_is_packed(&me->co))
        return false;
    cr__co_check_packed(&me->co, __builtin_frame_address(0));
    cr__packed_put(&w->packed, me->co.stack.top);
    return true;
}

/* The stack goes back while we run on it, which stack.h allows: we leave it before anyone else of this worker arrives there. Another worker's
 * waits until we have. */
static void put_stack(struct cr__worker *w, struct cr__record *me)
{
    unsigned kind = cr__co_kind(&me->co);
    if (CR__UNLIKELY((cr__co_flags(&me->co) & (CR__CO_SHARED | CR__CO_CHECKED)) != 0) && put_unusual(w, me))
        return;
    struct cr__stack_pool *home = cr__co_top(&me->co)->word;
    if (CR__UNLIKELY(kind == CR_STACK_VIRTUAL))
        cr__freezer_remove(w, me);
    if (CR__LIKELY(home == (kind == CR_STACK_VIRTUAL ? &w->virtuals : &w->stacks))) {
        cr__stack_put(home, me->co.stack);
        if (CR__UNLIKELY(w->starving > 0))
            cr__feed(w, cr__stack_class(&w->stacks, me->co.stack.size_bytes));
        return;
    }
    cr__send_stack_home(w);
    w->last_stack = me->co.stack;
    w->last_stack_home = home;
}

/* Tells whoever holds a handle, or puts the record back. After that the record is another's. */
static inline void give_up_record(struct cr__worker *w, struct cr__record *me)
{
    if (CR__LIKELY(cr__park_unheld(&me->word))) {
        cr__record_free(w, me);
        return;
    }
    cr__park_lock(&me->word, w->alone);
    bool held = cr__park_held(&me->word);
    if (held) {
        cr__co_state_set(&me->co, CR__CO_DONE | (cr__co_state(&me->co) & CR__CO_TASK));
        if (me->joiner)
            cr__wake(w, me->joiner, CR__WOKEN);
    }
    cr__park_unlock(&me->word, held ? CR__STATE : 0, w->alone); /* CR__FREE: it lives no more, and a dump need not look further */
    if (!held)
        cr__record_free(w, me);
}

/* Who waits for such a lock would wait for ever, and whoever has the record next would be taken for the holder. What local storage's destructors unlock is well. */
static CR__COLD void end_with_locks(struct cr__record *me)
{
    char name[CR__NAME_BYTES], function[128], which[96] = "";
    cr_name_get(&me->co, name, sizeof(name));
    cr__co_cold_free(&me->co);
    if (me->co.locks == 0)
        return;
    bool is_task = cr__co_is_task(&me->co);
    uintptr_t last = is_task ? 0 : (uintptr_t)cr__co_top(&me->co)->last_lock;
    if (last)
        snprintf(which, sizeof(which), "; the last one that it took is the %s at %p",
                 last & CR__LOCK_OF_MANY ? "readers-writer lock" : "mutex", (void *)(last & ~CR__LOCK_OF_MANY));
    cr__panic("%s %u%s%s%s in %s has ended without unlocking %u lock%s that it holds%s", is_task ? "task" : "coroutine", me->co.id,
              name[0] ? " \"" : "", name, name[0] ? "\"" : "", cr__symbol_of((void *)me->co.entry, function, sizeof(function)), me->co.locks,
              me->co.locks == 1 ? "" : "s", which);
}

void cr__task_end(struct cr__worker *w, struct cr__record *me)
{
    if (CR__UNLIKELY(me->co.locks != 0))
        end_with_locks(me);
    cr__co_cold_free(&me->co);
    w->self->task = NULL;
    w->live--;
    cr__count(&w->counters.ended, 1);
    give_up_record(w, me);
}

static void end_running(void *unused)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    (void)unused;
    if (CR__UNLIKELY(!w))
        cr__panic("a coroutine's function returned in a child of fork(), where there is no runtime: exec or _exit was meant");
    if (CR__UNLIKELY(me->co.locks != 0)) {
        end_with_locks(me);
        w = cr__worker_here();
    }
    if (CR__UNLIKELY(me->co.cold != NULL)) {
        if (cr__co_is_packed(&me->co))
            cr__co_check_packed(&me->co, __builtin_frame_address(0)); /* while it has its name */
        w->ended_site = me->co.cold->site;
        cr__co_cold_free(&me->co);
        w = cr__worker_here(); /* the user's destructors ran */
    }
    w->live--;
    cr__count(&w->counters.ended, 1);
    put_stack(w, me);
    struct cr_co from = {.mode = CR__MODE(CR__CO_ENDED, CR_FPU_SHARED)}; /* nobody comes back to it */
    bool loops = (cr__co_flags(&me->co) & CR__CO_CHECKED) != 0; /* as in `leave` */
    if (CR__UNLIKELY(w->census != NULL)) {
        w->ended_stack = me->co.stack;
        w->leaving = &w->loop;
    }
    cr__san_bury(&me->co);
    give_up_record(w, me);
    struct cr_co *to = CR__UNLIKELY(loops) ? to_loop(w, cr__self_get()) : next_context(w, cr__self_get());
    uint64_t note = CR__NOTE_ENDED;
    cr__co_switch(&from, to, false, NULL, &note);
    cr__panic("a coroutine was resumed after its end");
}

/* What has left its stack by switching to the loop: from now on another worker may resume it. */
static void publish(struct cr__worker *w)
{
    struct cr_co *co = w->leaving;
    w->leaving = NULL;
    if (CR__UNLIKELY(w->census != NULL)) {
        if (co == &w->loop) {
            cr__census_ended(w);
            return;
        }
        cr__census_stopped(w, co, !w->leaving_ready);
    }
    struct cr__record *record = cr__record_of(co);
    if (w->leaving_ready)
        cr__ready_here(w, record);
    else if (cr__migrates(w, co) && cr__park_second(&record->word, CR__LEFT))
        cr__ready_here(w, record); /* it has been woken meanwhile */
}

/* From the loop into a coroutine; returns when it, or the chain that it began, comes back. */
static void run_from_loop(struct cr__worker *w, struct cr__record *record)
{
    struct cr__self *self = cr__self_get();
    w->io_budget = w->io_budget_next;
    self->current = record->co.below;
    uint64_t note = 0;
    cr__co_switch(&w->loop, record->co.below, true, NULL, &note);
    if (CR__UNLIKELY(w->leaving != NULL))
        publish(w);
}

static void run_task(struct cr__worker *w)
{
    struct cr__record *task = w->task;
    w->task = NULL;
    w->io_budget = w->io_budget_next;
    cr__task_run(w, task);
    if (CR__UNLIKELY(w->leaving != NULL))
        publish(w);
}

/* Runs what is ready, until nothing is or the budget is used up. A star's coroutines find the budget at its end, so each
 * comes back here; `turns` is the budget then. A chain comes back, too, when it is a task's turn. */
void cr__run_ready(struct cr__worker *w)
{
    struct cr__record *next;
    int turns = w->chain_budget;
    uint64_t switches = 0;
    w->used_up = false;
    while ((next = w->task ? NULL : take_ready(w)) != NULL || w->task) {
        budget_set(w, w->chain ? turns : 1);
        if (!w->chain)
            cr__count(&w->turns, 1); /* a star's budget does not show that something moves */
        if (next) {
            run_from_loop(w, next);
            turns = w->chain ? budget_of(w) : turns - 1;
            switches++;
        } else {
            run_task(w);
            turns--;
        }
        if (turns <= 0 && !w->task) {
            w->used_up = true;
            break;
        }
    }
    cr__count(&w->counters.switches, switches + (uint64_t)(w->chain_budget - turns));
}

/* ---- Stopping ----------------------------------------------------------------------------------------------- */

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
    if (CR__UNLIKELY(!to) || CR__UNLIKELY(!all_in_place(to)) || CR__UNLIKELY(budget <= 1) || CR__UNLIKELY(w->elsewhere != 0) ||
        CR__UNLIKELY((me->mode & CR__MODE(0xff, CR_MIGRATABLE | CR__CO_CHECKED)) != CR__CO_SCHEDULED))
        return yield_here();
    budget_set(w, budget - 1);
    cr__queue_push(&w->ready, me);
    struct cr_co *after = w->ready.head = to->next; /* me, if no other is ready */
    prefetch(after, YIELDED_LINES);
    self->current = to->below;
    return (struct cr__leave){(struct cr__co_head *)me, to->below->sp};
}

static inline void arm(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    int64_t until_ns = cr__bounded(me, deadline_ns);
    if (until_ns != CR_FOREVER) {
        cr__wheel_arm(&w->wheel, &me->timer, until_ns);
        me->co.sched_flags |= CR__TIMED;
    }
    me->since = (uint32_t)((uint64_t)w->now_ns >> CR__SINCE_SHIFT);
    cr__count(&w->counters.parks, 1);
}

void cr__wait_arm(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    arm(w, me, deadline_ns);
}

struct cr__hop cr__wait_leave(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    arm(w, me, deadline_ns);
    return leave(cr__self_get(), w, me, false);
}
