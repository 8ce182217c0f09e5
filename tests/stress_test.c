/* All that coroutines can do to each other, in random mixes, with cancellation and deadlines all over; and at the end everything is accounted for.
 *
 * Some hundred coroutines each do random steps. A step ends by itself, or has a deadline, or lies in a scope that has one; so a run that hangs has found
 * something: a thread that watches then has all coroutines' places written (cr_dump), and ends the program.
 *
 *     CR_STRESS_SEED     what the random numbers begin with; else the clock says it, and it is printed
 *     CR_STRESS_STEPS    steps of each run, together
 *
 * Not repeatable to the step: the order in which workers, timers and the kernel do their part is theirs. The same seed gives similar mixes. */
#include "stress_calls.h"
#include "stress_channels.h"
#include "stress_locks.h"
#include "stress_spawning.h"

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

static void does_nothing_on_each(void *unused)
{
    for (unsigned i = 0; i < (unsigned)cr_worker_count(); i++)
        CHECK_EQ(cr_go_on(i, does_nothing, unused), 0);
}

static void run_with(unsigned workers, enum cr_policy policy)
{
    if (workers > 1)
        SKIP_SEVERAL_UNDER_SEED();
    pthread_t watcher;
    struct cr_mem_stats before, after;
    int64_t steps_wanted = number_from("CR_STRESS_STEPS", STEPS);
    first_seed = (uint64_t)number_from("CR_STRESS_SEED", cr_now() / 1000);
    alarm(0); /* however many steps were asked for: who watches sees whether they go on */
    printf("# %u workers, CR_STRESS_SEED=%llu CR_STRESS_STEPS=%lld\n", workers, (unsigned long long)first_seed, (long long)steps_wanted);
    fflush(stdout);
    CHECK(pthread_create(&watcher, NULL, watches, NULL) == 0);
    CHECK_EQ(cr_run(does_nothing_on_each, NULL, &(struct cr_config){.workers = workers}), 0); /* some tables are the process's, or this thread's, and stay */
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
