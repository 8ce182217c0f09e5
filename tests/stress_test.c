/* All that coroutines can do to each other, in random mixes, with cancellation and deadlines all over; and at the end everything is accounted for.
 *
 * Some hundred coroutines each do random steps. A step ends by itself, or has a deadline, or lies in a scope that has one; so a run that hangs has found
 * something: a thread that watches then has all coroutines' places written (cr_dump), and ends the program.
 *
 *     CR_STRESS_SEED     what the random numbers begin with; else the clock says it, and it is printed
 *     CR_STRESS_STEPS    steps of each run, together
 *
 * Not repeatable to the step: the order in which workers, timers and the kernel do their part is theirs. The same seed gives similar mixes. */
#include <crore/crore.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "test.h"

#ifdef TEST_SANITIZED
#define STEPS 60000
#else
#define STEPS 300000
#endif
#define FIRST 100            /* coroutines, each of which is followed by another one when it ends */
#define MOST_LIVE 400
#define DEEPEST 3            /* spawns within spawns */
#define STUCK_SECONDS 20
#define CLEAN_UP_NS (100 * CR_SEC)

#define MUTEXES 4
#define RWLOCKS 2
#define PERMITS 3
#define ONCES 4096
#define PARTIES 3
#define CHANS 6
#define SHARED 8             /* handles that anybody may use */
#define CASES 6

/* ---- What they share ---------------------------------------------------------------------------------------- */

/* Counts of items, and a sum that tells them apart. */
struct sum {
    _Atomic uint64_t count, sum;
};

static void sum_add(struct sum *sum, uint64_t item)
{
    atomic_fetch_add(&sum->count, 1);
    atomic_fetch_add(&sum->sum, item);
}

/* A channel that is replaced now and then: the last of its users destroys it. */
struct box {
    struct cr_chan *chan;
    _Atomic int users;
};

/* Freed by nobody but who takes the box out, so a flag is lock enough. */
struct slot {
    atomic_flag lock;
    struct box *box;
};

static struct {
    struct cr_mutex mutex[MUTEXES];
    uint64_t guarded[MUTEXES]; /* plain: a race detector sees when two are inside */
    struct cr_mutex tokens_lock;
    struct cr_cond tokens_come;
    uint64_t tokens, tokens_made, tokens_taken;
    struct cr_rwlock rwlock[RWLOCKS];
    uint64_t left[RWLOCKS], right[RWLOCKS]; /* equal whenever nobody writes */
    struct cr_sem sem;
    _Atomic int inside;
    struct cr_once once[ONCES];
    unsigned once_runs[ONCES];
    struct cr_barrier barrier;
    _Atomic uint64_t last_ones, other_ones;
    struct slot slots[CHANS];
    struct sum sent, received, dropped;
    struct cr_broadcast *broadcast;
    struct cr_mutex broadcast_lock;
    uint64_t broadcast_next;
    struct cr_event event;
    struct cr_co *_Atomic shared[SHARED];
    struct cr_waitgroup all;
    _Atomic int64_t steps_left;
    _Atomic uint64_t steps_done;
    _Atomic int live;
    _Atomic uint64_t begun, ended, remote_asked, remote_ran;
    _Atomic bool over, thread_over;
    struct cr_rt *rt;
    struct cr_listener *listener;
    char url[64];
    int workers;
} g;

/* Who does the steps. Lies on its stack. */
struct self {
    uint64_t random;
    int depth;
    bool bounded; /* in a scope with a deadline: may wait without one of its own */
    bool masked;  /* for a short time: cleaning up could not take longer */
    uint64_t pattern[16];
};

struct child {
    uint64_t seed;
    int depth;
    bool bounded;
    struct cr_waitgroup *group; /* NULL: the child is joined in another way */
    _Atomic int *ended;
    bool on_heap; /* is the child's to free */
};

static uint64_t first_seed;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u; /* splitmix64, Steele, Lea and Flood 2014 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t rnd(struct self *me)
{
    return mix(me->random++);
}

static unsigned below(struct self *me, unsigned n)
{
    return (unsigned)(rnd(me) % n);
}

static bool one_in(struct self *me, unsigned n)
{
    return below(me, n) == 0;
}

static int64_t soon(struct self *me)
{
    static const int64_t longest[] = {1, 20 * CR_US, 200 * CR_US, 3 * CR_MS};
    return cr_after((int64_t)(rnd(me) % (uint64_t)longest[below(me, 4)]));
}

/* Mostly soon; for ever where something else ends the wait. */
static int64_t deadline(struct self *me)
{
    return me->bounded && one_in(me, 3) ? CR_FOREVER : soon(me);
}

static void begin(struct self *me, uint64_t seed, int depth, bool bounded)
{
    *me = (struct self){.random = mix(seed), .depth = depth, .bounded = bounded};
    for (int i = 0; i < 16; i++)
        me->pattern[i] = mix(seed + (uint64_t)i);
    for (int i = 0; i < 16; i++)
        me->pattern[i] ^= (uint64_t)(uintptr_t)me;
    me->pattern[0] = seed;
}

static void check_pattern(const struct self *me)
{
    for (int i = 1; i < 16; i++)
        CHECK(me->pattern[i] == (mix(me->pattern[0] + (uint64_t)i) ^ (uint64_t)(uintptr_t)me));
}

/* What a call that waits may return besides success: that its time is over, which it then is; that it was cancelled, which it then was; or `other`. */
static void check_answer(int64_t r, int64_t deadline_ns, int other)
{
    if (r == -ETIMEDOUT)
        CHECK(deadline_ns <= cr_now());
    else if (r == -ECANCELED)
        CHECK(cr_cancelled());
    else if (r < 0)
        CHECK_EQ(r, other);
}

/* A pause while something is held. */
static void dawdle(struct self *me)
{
    switch (below(me, 4)) {
    case 0: cr_yield(); break;
    case 1: cr_sleep((int64_t)below(me, 100) * CR_US); break;
    default: break;
    }
}

static void mask(int64_t grace_ns)
{
    CHECK_EQ(cr_cancel_mask(grace_ns), 0);
}

/* ---- Locks -------------------------------------------------------------------------------------------------- */

static int lock_somehow(struct self *me, struct cr_mutex *m)
{
    int64_t until_ns = soon(me);
    switch (below(me, 3)) {
    case 0: until_ns = CR_FOREVER; break; /* who holds it will give it back */
    case 1: {
        int r = cr_mutex_lock_try(m);
        CHECK(r == 0 || r == -EBUSY);
        return r;
    }
    }
    int r = cr_mutex_lock_until(m, until_ns);
    check_answer(r, until_ns, 0);
    return r;
}

static void add_guarded(struct self *me, int i)
{
    uint64_t before = g.guarded[i];
    dawdle(me);
    CHECK(g.guarded[i] == before);
    g.guarded[i] = before + 1;
}

static void step_mutex(struct self *me)
{
    int i = (int)below(me, MUTEXES), j = (int)below(me, MUTEXES);
    if (lock_somehow(me, &g.mutex[i]) != 0)
        return;
    add_guarded(me, i);
    if (j > i && lock_somehow(me, &g.mutex[j]) == 0) {
        add_guarded(me, j);
        CHECK_EQ(cr_mutex_unlock(&g.mutex[j]), 0);
    }
    CHECK_EQ(cr_mutex_unlock(&g.mutex[i]), 0);
}

static void give_token(struct self *me)
{
    bool inside = one_in(me, 2), all = one_in(me, 4);
    g.tokens++;
    g.tokens_made++;
    if (!inside)
        CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
    if (all)
        cr_cond_broadcast(&g.tokens_come);
    else
        cr_cond_signal(&g.tokens_come);
    if (inside)
        CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
}

static void step_cond(struct self *me)
{
    if (lock_somehow(me, &g.tokens_lock) != 0)
        return;
    if (one_in(me, 2)) {
        give_token(me);
        return;
    }
    int64_t until_ns = deadline(me);
    int r = 0;
    while (g.tokens == 0 && r == 0)
        r = cr_cond_wait_until(&g.tokens_come, &g.tokens_lock, until_ns);
    check_answer(r, until_ns, 0);
    if (g.tokens > 0) {
        g.tokens--;
        g.tokens_taken++;
    }
    CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
}

static void step_rwlock(struct self *me)
{
    int i = (int)below(me, RWLOCKS);
    bool writes = one_in(me, 3), tries = one_in(me, 4);
    struct cr_rwlock *l = &g.rwlock[i];
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = tries ? (writes ? cr_rwlock_wrlock_try(l) : cr_rwlock_rdlock_try(l))
                  : (writes ? cr_rwlock_wrlock_until(l, until_ns) : cr_rwlock_rdlock_until(l, until_ns));
    if (tries)
        CHECK(r == 0 || r == -EBUSY);
    else
        check_answer(r, until_ns, 0);
    if (r != 0)
        return;
    CHECK(g.left[i] == g.right[i]);
    if (writes)
        g.left[i]++;
    dawdle(me);
    if (writes)
        g.right[i]++;
    CHECK(g.left[i] == g.right[i]);
    CHECK_EQ(cr_rwlock_unlock(l), 0);
}

static void step_sem(struct self *me)
{
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = one_in(me, 4) ? cr_sem_wait_try(&g.sem) : cr_sem_wait_until(&g.sem, until_ns);
    if (r != -EBUSY)
        check_answer(r, until_ns, 0);
    if (r != 0)
        return;
    CHECK(atomic_fetch_add(&g.inside, 1) < PERMITS);
    dawdle(me);
    atomic_fetch_sub(&g.inside, 1);
    CHECK_EQ(cr_sem_post(&g.sem, 1), 0);
}

static void runs_once(void *arg)
{
    unsigned *runs = arg;
    ++*runs;
    cr_yield();
}

static void step_once(struct self *me)
{
    unsigned i = below(me, ONCES);
    int64_t until_ns = soon(me);
    int r = cr_once_until(&g.once[i], runs_once, &g.once_runs[i], until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        CHECK_EQ(g.once_runs[i], 1);
}

static void step_barrier(struct self *me)
{
    int64_t until_ns = deadline(me);
    int r = cr_barrier_wait_until(&g.barrier, PARTIES, until_ns);
    check_answer(r, until_ns, 0);
    if (r == 1)
        atomic_fetch_add(&g.last_ones, 1);
    if (r == 0)
        atomic_fetch_add(&g.other_ones, 1);
}

static void step_event(struct self *me)
{
    if (one_in(me, 4)) {
        CHECK_EQ(cr_event_set(&g.event), 0);
        return;
    }
    int64_t until_ns = deadline(me);
    int r = cr_event_wait_until(&g.event, until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        cr_event_clear(&g.event);
}

/* ---- Channels ----------------------------------------------------------------------------------------------- */

static void lock_slot(struct slot *slot)
{
    while (atomic_flag_test_and_set_explicit(&slot->lock, memory_order_acquire))
        sched_yield();
}

static void unlock_slot(struct slot *slot)
{
    atomic_flag_clear_explicit(&slot->lock, memory_order_release);
}

static struct box *box_new(uint64_t random)
{
    static const size_t capacities[] = {0, 0, 1, 2, 16};
    struct box *box = malloc(sizeof(*box));
    CHECK(box);
    CHECK_EQ(cr_chan_create(&box->chan, sizeof(uint64_t), capacities[random % 5]), 0);
    atomic_init(&box->users, 1);
    return box;
}

static struct box *box_get(struct slot *slot)
{
    lock_slot(slot);
    struct box *box = slot->box;
    atomic_fetch_add(&box->users, 1);
    unlock_slot(slot);
    return box;
}

/* The last one counts what nobody has received. On a worker. */
static void box_put(struct box *box)
{
    uint64_t item;
    if (atomic_fetch_sub(&box->users, 1) > 1)
        return;
    while (cr_chan_recv_try(box->chan, &item) == 0)
        sum_add(&g.dropped, item);
    CHECK_EQ(cr_chan_destroy(box->chan), 0);
    free(box);
}

static void count_transfer(enum cr_case_op op, int64_t r, uint64_t item)
{
    if (r == 0)
        sum_add(op == CR_SEND ? &g.sent : &g.received, item);
    else if (r == -EPIPE && op == CR_RECV)
        CHECK(item == 0);
}

static void step_chan(struct self *me)
{
    struct box *box = box_get(&g.slots[below(me, CHANS)]);
    uint64_t item = rnd(me), before = item;
    int64_t until_ns = deadline(me);
    enum cr_case_op op = one_in(me, 2) ? CR_SEND : CR_RECV;
    bool tries = one_in(me, 4);
    int r;
    if (tries)
        r = op == CR_SEND ? cr_chan_send_try(box->chan, &item) : cr_chan_recv_try(box->chan, &item);
    else
        r = op == CR_SEND ? cr_chan_send_until(box->chan, &item, until_ns) : cr_chan_recv_until(box->chan, &item, until_ns);
    if (r != -EPIPE && !(tries && r == -EAGAIN))
        check_answer(r, until_ns, 0);
    if (op == CR_SEND || (r < 0 && r != -EPIPE))
        CHECK(item == before); /* nothing was taken */
    count_transfer(op, r, item);
    box_put(box);
}

static void step_select(struct self *me)
{
    struct cr_case cases[CASES];
    struct box *boxes[CASES];
    uint64_t items[CASES], before[CASES];
    int count = 1 + (int)below(me, CASES);
    for (int i = 0; i < count; i++) {
        boxes[i] = i > 0 && one_in(me, 8) ? NULL : box_get(&g.slots[below(me, CHANS)]);
        items[i] = before[i] = rnd(me);
        cases[i] = (struct cr_case){one_in(me, 2) ? CR_SEND : CR_RECV, boxes[i] ? boxes[i]->chan : NULL, &items[i], 1};
    }
    int64_t until_ns = deadline(me);
    bool tries = one_in(me, 6);
    int r = tries ? cr_select_try(cases, count) : cr_select_until(cases, count, until_ns);
    CHECK(r < count);
    if (!(tries && r == -EAGAIN))
        check_answer(r, until_ns, 0);
    if (r >= 0) {
        CHECK(cases[r].chan && (cases[r].result == 0 || cases[r].result == -EPIPE));
        count_transfer(cases[r].op, cases[r].result, items[r]);
    }
    for (int i = 0; i < count; i++) {
        CHECK(items[i] == before[i] || (i == r && cases[i].op == CR_RECV));
        if (boxes[i])
            box_put(boxes[i]);
    }
}

static void step_replace(struct self *me)
{
    struct slot *slot = &g.slots[below(me, CHANS)];
    struct box *new = box_new(rnd(me));
    lock_slot(slot);
    struct box *old = slot->box;
    slot->box = new;
    unlock_slot(slot);
    CHECK_EQ(cr_chan_close(old->chan), 0);
    box_put(old);
}

static void step_broadcast(struct self *me)
{
    if (one_in(me, 3)) {
        if (cr_mutex_lock(&g.broadcast_lock) != 0)
            return;
        for (unsigned i = below(me, 6); i > 0; i--) {
            uint64_t number = g.broadcast_next++;
            CHECK_EQ(cr_broadcast_send(g.broadcast, &number), 0);
        }
        CHECK_EQ(cr_mutex_unlock(&g.broadcast_lock), 0);
        return;
    }
    struct cr_subscriber s;
    cr_broadcast_subscribe(g.broadcast, &s);
    uint64_t next = s.next, got = 0;
    int64_t r = 0, until_ns = deadline(me);
    for (unsigned i = below(me, 6); i > 0 && r >= 0; i--) {
        r = cr_broadcast_recv_until(&s, &got, until_ns);
        check_answer(r, until_ns, 0);
        if (r == 0)
            CHECK(got == next);
        next += r == 0 ? 1 : r > 0 ? (uint64_t)r : 0;
    }
}

/* ---- Spawning, joining, scopes ------------------------------------------------------------------------------ */

static void steps(struct self *me, unsigned most);

static void child_main(void *arg)
{
    struct child *child = arg;
    struct self me;
    atomic_fetch_add(&g.begun, 1);
    begin(&me, child->seed, child->depth, child->bounded);
    steps(&me, 1 + below(&me, 8));
    check_pattern(&me);
    struct cr_waitgroup *group = child->group;
    if (child->ended)
        atomic_fetch_add(child->ended, 1);
    if (child->on_heap)
        free(child);
    atomic_fetch_sub(&g.live, 1);
    atomic_fetch_add(&g.ended, 1);
    if (group)
        CHECK_EQ(cr_waitgroup_done(group), 0);
}

static struct cr_attr any_attr(struct self *me)
{
    return (struct cr_attr){.name = one_in(me, 4) ? "stressed" : NULL,
                            .stack = one_in(me, 4) ? one_in(me, 2) ? CR_STACK_STATIC : CR_STACK_VIRTUAL : CR_STACK_DEFAULT,
                            .flags = one_in(me, 3) ? CR_MIGRATABLE : one_in(me, 8) ? CR_FPU_SHARED : 0,
#ifndef TEST_SANITIZED
                            .stack_size_bytes = one_in(me, 3) ? 24 << 10 : 0,
#endif
    };
}

static void child_spawn(struct self *me, struct cr_co **out, struct child *child)
{
    struct cr_attr attr = any_attr(me);
    atomic_fetch_add(&g.live, 1);
    child->seed = rnd(me);
    child->depth = me->depth + 1;
    if (one_in(me, 3))
        CHECK_EQ(cr_spawn_on(out, below(me, (unsigned)g.workers), child_main, child, &attr), 0);
    else
        CHECK_EQ(cr_spawn(out, child_main, child, &attr), 0);
}

static bool may_spawn(const struct self *me)
{
    return me->depth < DEEPEST && atomic_load(&g.live) < MOST_LIVE;
}

/* Room for what a coroutine hands to others: on its own stack, but with shared stacks on the heap. */
static void *lend(void *on_stack, size_t size)
{
    void *room = test_stacks_are("shared") ? malloc(size) : on_stack;
    CHECK(room);
    memset(room, 0, size);
    return room;
}

static void lent_back(void *room, const void *on_stack)
{
    if (room != on_stack)
        free(room);
}

/* The group lies on the stack, and is gone as soon as its waiter has been told. */
static void step_group(struct self *me)
{
    if (!may_spawn(me) || me->masked)
        return;
    struct {
        struct cr_waitgroup group;
        struct child children[4];
    } on_stack, *here = lend(&on_stack, sizeof(on_stack));
    int n = 1 + (int)below(me, 4);
    CHECK_EQ(cr_waitgroup_add(&here->group, n), 0);
    for (int i = 0; i < n; i++) {
        here->children[i].group = &here->group;
        child_spawn(me, NULL, &here->children[i]);
    }
    int64_t until_ns = deadline(me);
    int r = cr_waitgroup_wait_until(&here->group, until_ns);
    check_answer(r, until_ns, 0);
    if (r < 0) {
        mask(CLEAN_UP_NS);
        CHECK_EQ(cr_waitgroup_wait(&here->group), 0);
        CHECK_EQ(cr_cancel_unmask(), 0);
    }
    memset(here, 0xa5, sizeof(*here));
    dawdle(me);
    for (size_t i = 0; i < sizeof(*here); i++)
        CHECK(((unsigned char *)here)[i] == 0xa5);
    lent_back(here, &on_stack);
}

/* Another one takes the handle over, or finds it there. */
static void share(struct self *me, struct cr_co *co)
{
    struct cr_co *before = atomic_exchange(&g.shared[below(me, SHARED)], co);
    if (before)
        CHECK_EQ(cr_detach(before), 0);
}

static void join_anyhow(struct cr_co *co)
{
    mask(CLEAN_UP_NS);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
}

static void step_handle(struct self *me)
{
    if (!may_spawn(me) || me->masked)
        return;
    struct cr_co *co;
    struct child *child = malloc(sizeof(*child));
    CHECK(child);
    *child = (struct child){.on_heap = true};
    child_spawn(me, &co, child);
    dawdle(me);
    if (one_in(me, 2))
        CHECK_EQ(cr_cancel(co), 0);
    if (one_in(me, 4)) {
        share(me, co);
    } else if (one_in(me, 4)) {
        CHECK_EQ(cr_detach(co), 0);
    } else {
        int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
        int r = cr_join_until(co, until_ns);
        check_answer(r, until_ns, 0);
        if (r < 0)
            join_anyhow(co);
    }
}

/* With a handle of somebody's: two that waited for each other's end would wait for ever, so only with a deadline. */
static void step_shared(struct self *me)
{
    struct cr_co *co = atomic_exchange(&g.shared[below(me, SHARED)], NULL);
    if (!co)
        return;
    if (one_in(me, 2))
        CHECK_EQ(cr_cancel(co), 0);
    int64_t until_ns = soon(me);
    int r = one_in(me, 2) ? cr_join_until(co, until_ns) : -ETIMEDOUT;
    if (r == -EDEADLK) { /* it is the caller */
        CHECK_EQ(cr_detach(co), 0);
        return;
    }
    if (r < 0)
        share(me, co);
}

static void step_scope(struct self *me)
{
    if (!may_spawn(me))
        return;
    struct cr_scope *scope;
    struct {
        struct child children[4];
        _Atomic int ended;
    } on_stack, *here = lend(&on_stack, sizeof(on_stack));
    int spawned = 0, wished = (int)below(me, 5);
    bool bounded = !one_in(me, 3), before = me->bounded, cancelled = false;
    int64_t until_ns = bounded ? soon(me) : CR_FOREVER;
    CHECK_EQ(cr_scope_open(&scope, until_ns), 0);
    me->bounded = bounded || before;
    for (int i = 0; i < wished; i++) {
        struct cr_attr attr = any_attr(me);
        here->children[i] = (struct child){.seed = rnd(me), .depth = me->depth + 1, .bounded = me->bounded, .ended = &here->ended};
        atomic_fetch_add(&g.live, 1);
        int r = cr_scope_spawn(scope, child_main, &here->children[i], &attr);
        if (r < 0) {
            atomic_fetch_sub(&g.live, 1);
            CHECK_EQ(r, -ECANCELED);
            CHECK(cr_cancelled() || cancelled);
        } else {
            spawned++;
        }
        if (one_in(me, 16)) {
            CHECK_EQ(cr_scope_cancel(scope), 0);
            cancelled = true;
        }
    }
    me->depth++;
    steps(me, below(me, 4));
    me->depth--;
    me->bounded = before;
    if (one_in(me, 3)) {
        int64_t wait_ns = soon(me);
        check_answer(cr_scope_wait_until(scope, wait_ns), wait_ns, 0);
    }
    if (one_in(me, 4)) {
        CHECK_EQ(cr_scope_cancel(scope), 0);
        cancelled = true;
    }
    int r = cr_scope_close(scope);
    CHECK(r == -ECANCELED || (r == 0 && !cancelled));
    CHECK_EQ(here->ended, spawned);
    lent_back(here, &on_stack);
}

/* ---- Everything else ---------------------------------------------------------------------------------------- */

static void step_sleep(struct self *me)
{
    int64_t until_ns = soon(me);
    int r = cr_sleep_until(until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        CHECK(cr_now() >= until_ns);
}

static void step_yield(struct self *me)
{
    for (unsigned i = below(me, 10); i > 0; i--)
        CHECK_EQ(cr_yield(), 0);
}

static void step_mask(struct self *me)
{
    bool before = me->masked;
    if (me->depth > DEEPEST)
        return;
    mask((int64_t)below(me, 3000) * CR_US);
    me->depth++;
    me->masked = true;
    steps(me, below(me, 3));
    me->masked = before;
    me->depth--;
    CHECK_EQ(cr_cancel_unmask(), 0);
}

static void adds_one(void *arg)
{
    ++*(unsigned *)arg;
}

static void step_blocking(struct self *me)
{
    unsigned ran = 0;
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = cr_blocking_until(adds_one, &ran, until_ns);
    check_answer(r, until_ns, 0);
    CHECK_EQ(ran, r == 0);
}

struct reader {
    struct cr_conn *conn;
    size_t got;
    int64_t r;
    bool begun, done;
};

static void reads(void *arg)
{
    struct reader *reader = arg;
    unsigned char bytes[300];
    reader->begun = true;
    while ((reader->r = cr_read(reader->conn, bytes, sizeof(bytes))) > 0) {
        for (ssize_t i = 0; i < reader->r; i++)
            CHECK_EQ(bytes[i], (reader->got + (size_t)i) % 251);
        reader->got += (size_t)reader->r;
    }
    reader->done = true;
}

static void fill(unsigned char *bytes, size_t size, size_t from)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)((from + i) % 251);
}

/* Both ends of a pair: what is read is what was written, in its order, as far as it came. The reader ends by the end of the stream, by being cancelled, or
 * since its end is closed under it: by its own worker, since else it might be just about to read. */
static void step_sockets(struct self *me)
{
    if (!may_spawn(me))
        return;
    int fds[2];
    struct cr_conn *a, *b;
    struct cr_scope *scope;
    CHECK(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0); /* a race detector that knows of the fds misses how they are closed */
    CHECK_EQ(cr_conn_from_fd(&a, fds[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&b, fds[1]), 0);
    CHECK_EQ(cr_scope_open(&scope, one_in(me, 2) ? soon(me) : CR_FOREVER), 0);
    struct reader on_stack, *reader = lend(&on_stack, sizeof(on_stack));
    reader->conn = b;
    struct cr_attr attr = {.flags = one_in(me, 2) ? CR_MIGRATABLE : 0};
    int spawned = cr_scope_spawn(scope, reads, reader, &attr);
    size_t sent = 0;
    ssize_t n = 0;
    unsigned char bytes[500];
    for (unsigned i = below(me, 8); i > 0 && n >= 0; i--) {
        int64_t until_ns = soon(me);
        fill(bytes, sizeof(bytes), sent);
        n = cr_write_until(a, bytes, 1 + below(me, sizeof(bytes)), until_ns);
        check_answer(n, until_ns, 0);
        sent += n > 0 ? (size_t)n : 0;
        dawdle(me);
    }
    bool ends = !one_in(me, 3), under_it = false;
    if (ends)
        CHECK_EQ(cr_close_write(a), 0);
    else if (g.workers == 1 && spawned == 0 && one_in(me, 2) && cr_sleep(100 * CR_US) == 0 && reader->begun && !reader->done && reader->got == sent)
        cr_close(b), under_it = true;
    else
        CHECK_EQ(cr_scope_cancel(scope), 0);
    (void)cr_scope_close(scope);
    if (spawned == 0) {
        CHECK(reader->got <= sent && reader->r <= 0);
        if (ends && reader->r == 0)
            CHECK_EQ(reader->got, sent);
        CHECK(reader->r == 0 ? ends : reader->r == -EBADF ? under_it : reader->r == -ECANCELED);
    }
    if (!under_it)
        cr_close(b);
    cr_close(a);
    lent_back(reader, &on_stack);
}

static void echoes(void *arg)
{
    struct cr_conn *conn = arg;
    unsigned char bytes[200];
    ssize_t n;
    while ((n = cr_read(conn, bytes, sizeof(bytes))) > 0) {
        if (cr_write_all(conn, bytes, (size_t)n) < 0)
            break;
    }
    cr_close(conn);
    CHECK_EQ(cr_waitgroup_done(&g.all), 0);
}

static void accepts(void *unused)
{
    (void)unused;
    struct cr_conn *conn;
    int r;
    while ((r = cr_accept(g.listener, &conn)) != -ECANCELED) {
        CHECK_EQ(r, 0);
        CHECK_EQ(cr_waitgroup_add(&g.all, 1), 0);
        CHECK_EQ(cr_go(echoes, conn), 0);
    }
    cr_listener_close(g.listener);
}

static void step_dial(struct self *me)
{
    struct cr_conn *conn;
    unsigned char bytes[150], back[150];
    int64_t until_ns = cr_after(CR_MS + (int64_t)(rnd(me) % (20 * CR_MS)));
    int r = cr_dial_until(&conn, g.url, NULL, until_ns);
    check_answer(r, until_ns, 0);
    if (r < 0)
        return;
    size_t sent = 0, got = 0;
    for (unsigned i = below(me, 4); i > 0; i--) {
        fill(bytes, sizeof(bytes), sent);
        ssize_t n = cr_write_until(conn, bytes, sizeof(bytes), until_ns);
        check_answer(n, until_ns, 0);
        if (n < 0)
            break;
        sent += (size_t)n;
        n = cr_read_until(conn, back, sizeof(back), until_ns);
        check_answer(n, until_ns, 0);
        CHECK(n != 0);
        for (ssize_t k = 0; k < n; k++)
            CHECK_EQ(back[k], (got + (size_t)k) % 251);
        got += n > 0 ? (size_t)n : 0;
    }
    CHECK(got <= sent);
    if (one_in(me, 2))
        cr_close(conn);
    else
        cr_close_reset(conn);
}

/* ---- One coroutine's steps ---------------------------------------------------------------------------------- */

static const struct {
    void (*fn)(struct self *me);
    int weight;
} kinds[] = {
    {step_mutex, 12}, {step_cond, 10}, {step_rwlock, 10}, {step_sem, 8}, {step_once, 4}, {step_barrier, 8}, {step_event, 6},
    {step_chan, 20}, {step_select, 14}, {step_replace, 3}, {step_broadcast, 8}, {step_group, 4}, {step_handle, 6}, {step_shared, 4},
    {step_scope, 6}, {step_sleep, 6}, {step_yield, 6}, {step_mask, 4}, {step_blocking, 2}, {step_sockets, 3}, {step_dial, 1},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void step(struct self *me)
{
    int sum = 0;
    for (size_t i = 0; i < KINDS; i++)
        sum += kinds[i].weight;
    int at = (int)below(me, (unsigned)sum);
    size_t i = 0;
    while ((at -= kinds[i].weight) >= 0)
        i++;
    kinds[i].fn(me);
    atomic_fetch_add(&g.steps_done, 1);
}

static void steps(struct self *me, unsigned most)
{
    for (unsigned i = 0; i < most && atomic_fetch_sub(&g.steps_left, 1) > 0; i++) {
        step(me);
        check_pattern(me);
    }
}

/* One of the first, or of those that follow them. */
static void top_main(void *arg)
{
    struct self me;
    atomic_fetch_add(&g.begun, 1);
    begin(&me, (uint64_t)(uintptr_t)arg, 0, false);
    steps(&me, 1 + below(&me, 60));
    check_pattern(&me);
    if (atomic_load(&g.steps_left) > 0) {
        struct cr_attr attr = any_attr(&me);
        CHECK_EQ(cr_waitgroup_add(&g.all, 1), 0);
        CHECK_EQ(cr_spawn(NULL, top_main, (void *)(uintptr_t)rnd(&me), &attr), 0);
    }
    atomic_fetch_add(&g.ended, 1);
    CHECK_EQ(cr_waitgroup_done(&g.all), 0);
}

/* ---- Other threads ------------------------------------------------------------------------------------------ */

static void runs_for_a_thread(void *unused)
{
    (void)unused;
    atomic_fetch_add(&g.remote_ran, 1);
}

static void puts_for_a_thread(void *arg)
{
    box_put(arg);
    atomic_fetch_add(&g.remote_ran, 1);
}

/* What a thread has sent may find no receiver until the channel is closed: that one must not be the last to touch it, so a coroutine puts the box. */
static void *outside(void *unused)
{
    (void)unused;
    struct self me;
    begin(&me, first_seed ^ 77, 0, false);
    while (!atomic_load(&g.over)) {
        unsigned what = below(&me, 3);
        if (what == 0) {
            CHECK_EQ(cr_event_set_remote(g.rt, &g.event), 0);
        } else if (what == 1) {
            atomic_fetch_add(&g.remote_asked, 1);
            CHECK_EQ(cr_go_remote(g.rt, runs_for_a_thread, NULL), 0);
        } else {
            struct box *box = box_get(&g.slots[below(&me, CHANS)]);
            uint64_t item = rnd(&me);
            int r = cr_chan_send_remote(g.rt, box->chan, &item);
            CHECK(r == 0 || r == -EPIPE);
            count_transfer(CR_SEND, r, item);
            atomic_fetch_add(&g.remote_asked, 1);
            CHECK_EQ(cr_go_remote(g.rt, puts_for_a_thread, box), 0);
        }
        usleep((useconds_t)below(&me, 300));
    }
    atomic_store(&g.thread_over, true);
    return NULL;
}

static void *watches(void *unused)
{
    (void)unused;
    uint64_t before = 0;
    for (int same = 0; same < STUCK_SECONDS * 10; usleep(100 * 1000)) {
        uint64_t now = atomic_load(&g.steps_done);
        same = now == before ? same + 1 : 0;
        before = now;
    }
    printf("# nothing has moved for %d s; the seed is %llu\n", STUCK_SECONDS, (unsigned long long)first_seed);
    fflush(stdout);
    if (cr_dump(STDERR_FILENO) < 0)
        fprintf(stderr, "there is nothing to dump\n");
    abort();
}

/* ---- A run -------------------------------------------------------------------------------------------------- */

static void join_thread(void *arg)
{
    pthread_join(*(pthread_t *)arg, NULL);
}

static void check_sums(void)
{
    CHECK_EQ(g.sent.count, g.received.count + g.dropped.count);
    CHECK(g.sent.sum == g.received.sum + g.dropped.sum);
    CHECK_EQ(g.tokens_made, g.tokens_taken + g.tokens);
    CHECK_EQ(g.other_ones, (PARTIES - 1) * g.last_ones);
    CHECK_EQ(g.sem.count, PERMITS);
    CHECK_EQ(g.inside, 0);
    CHECK_EQ(g.begun, g.ended);
    CHECK_EQ(g.remote_asked, g.remote_ran);
    CHECK_EQ(g.live, 0);
    for (int i = 0; i < MUTEXES; i++)
        CHECK(!g.mutex[i]._waiters._first && !g.mutex[i]._owner && !g.mutex[i]._word);
    for (int i = 0; i < RWLOCKS; i++)
        CHECK(!g.rwlock[i]._waiters._first && !g.rwlock[i]._holders);
    CHECK(!g.tokens_come._waiters._first && !g.sem._waiters._first && !g.barrier._waiters._first && !g.event._first);
}

/* A coroutine is counted as ended a moment after it has told whoever waits for it. */
static void wait_until_alone(void)
{
    struct cr_stats stats;
    do {
        CHECK_EQ(cr_sleep(CR_MS), 0);
        CHECK_EQ(cr_stats_get(&stats), 0);
    } while (stats.spawned != stats.ended + 1 || atomic_load(&g.remote_ran) != atomic_load(&g.remote_asked));
}

static void set_up(int64_t steps_wanted)
{
    g.rt = cr_rt_here();
    g.workers = cr_worker_count();
    g.sem.count = PERMITS;
    atomic_store(&g.steps_left, steps_wanted);
    for (int i = 0; i < CHANS; i++)
        g.slots[i].box = box_new((uint64_t)i);
    CHECK_EQ(cr_broadcast_create(&g.broadcast, sizeof(uint64_t), 8), 0);
    CHECK_EQ(cr_listen(&g.listener, "tcp://127.0.0.1:0", NULL), 0);
    CHECK(cr_listener_url(g.listener, g.url, sizeof(g.url)) > 0);
}

static void stress(void *arg)
{
    pthread_t thread;
    struct cr_co *acceptor;
    struct self me;
    set_up(*(int64_t *)arg);
    begin(&me, first_seed, 0, false);
    CHECK_EQ(cr_spawn(&acceptor, accepts, NULL, NULL), 0);
    CHECK(pthread_create(&thread, NULL, outside, NULL) == 0);
    CHECK_EQ(cr_waitgroup_add(&g.all, FIRST), 0);
    for (int i = 0; i < FIRST; i++) {
        struct cr_attr attr = any_attr(&me);
        CHECK_EQ(cr_spawn_on(NULL, below(&me, (unsigned)g.workers), top_main, (void *)(uintptr_t)rnd(&me), &attr), 0);
    }
    while (atomic_load(&g.steps_left) > 0)
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    atomic_store(&g.over, true);
    for (int i = 0; i < CHANS; i++) { /* the thread may wait for a receiver */
        lock_slot(&g.slots[i]);
        struct box *old = g.slots[i].box;
        g.slots[i].box = box_new(0);
        CHECK_EQ(cr_chan_close(g.slots[i].box->chan), 0);
        unlock_slot(&g.slots[i]);
        CHECK_EQ(cr_chan_close(old->chan), 0);
        box_put(old);
    }
    while (!atomic_load(&g.thread_over)) /* not in cr_blocking, which would keep a shared stack from those that the thread waits for */
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_blocking(join_thread, &thread), 0);
    for (int i = 0; i < SHARED; i++) {
        struct cr_co *co = atomic_exchange(&g.shared[i], NULL);
        if (co)
            CHECK_EQ(cr_join(co), 0);
    }
    CHECK_EQ(cr_waitgroup_wait(&g.all), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    wait_until_alone();
    CHECK_EQ(cr_waitgroup_wait_try(&g.all), 0);
    for (int i = 0; i < CHANS; i++)
        box_put(g.slots[i].box);
    CHECK_EQ(cr_broadcast_close(g.broadcast), 0);
    CHECK_EQ(cr_broadcast_destroy(g.broadcast), 0);
    check_sums();
}

static int64_t number_from(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? (int64_t)strtoull(text, NULL, 0) : otherwise;
}

static void does_nothing(void *unused)
{
    (void)unused;
}

static void run_with(unsigned workers, enum cr_policy policy)
{
    pthread_t watcher;
    struct cr_mem_stats before, after;
    int64_t steps_wanted = number_from("CR_STRESS_STEPS", STEPS);
    first_seed = (uint64_t)number_from("CR_STRESS_SEED", cr_now() / 1000);
    alarm(0); /* however many steps were asked for: who watches sees whether they go on */
    printf("# %u workers, CR_STRESS_SEED=%llu CR_STRESS_STEPS=%lld\n", workers, (unsigned long long)first_seed, (long long)steps_wanted);
    fflush(stdout);
    CHECK(pthread_create(&watcher, NULL, watches, NULL) == 0);
    CHECK_EQ(cr_run(does_nothing, NULL, &(struct cr_config){.workers = workers}), 0); /* some tables are the process's, and stay */
    cr_mem_stats_get(&before);
    CHECK_EQ(cr_run(stress, &steps_wanted, &(struct cr_config){.workers = workers, .policy = policy, .slow_ns = -1}), 0);
    cr_mem_stats_get(&after);
    CHECK_EQ(after.records_bytes, before.records_bytes);
    CHECK_EQ(after.conns_bytes, before.conns_bytes);
    CHECK_EQ(after.buffers_bytes, before.buffers_bytes);
    CHECK_EQ(after.other_bytes, before.other_bytes);
    CHECK_EQ(after.stacks_bytes, before.stacks_bytes);
}

TEST(everything_at_once_is_accounted_for_on_one_worker)
{
    run_with(1, CR_POLICY_CHAIN);
}

TEST(everything_at_once_is_accounted_for_on_one_worker_by_way_of_the_loop)
{
    run_with(1, CR_POLICY_STAR);
}

TEST(everything_at_once_is_accounted_for_on_several_by_way_of_the_loop)
{
    run_with(4, CR_POLICY_STAR);
}

TEST(everything_at_once_is_accounted_for_on_two_workers)
{
    run_with(2, CR_POLICY_CHAIN);
}

TEST(everything_at_once_is_accounted_for_on_four_workers)
{
    run_with(4, CR_POLICY_CHAIN);
}
