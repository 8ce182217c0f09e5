/* From outside: other threads' calls, how a runtime ends whatever waits in it, the quota of a cgroup, and who is served while a worker is stuck. */
#include <sys/stat.h>

#include "outside.h"
#include "rt/rt.h"

/* ---- Other threads: spawning -------------------------------------------------------------------------------- */

struct spawner {
    struct cr_rt *rt;
    pthread_t thread;
    long accepted;
    int end;
};

#ifdef TEST_SANITIZED
#define AT_ONCE 2 /* each coroutine is a fiber of ThreadSanitizer's, which takes it a tenth of a millisecond */
#else
#define AT_ONCE 64
#endif

static void *spawns_until_the_end(void *arg)
{
    struct spawner *spawner = arg;
    while ((spawner->end = cr_go_remote(spawner->rt, counts, NULL)) == 0) {
        if (++spawner->accepted % AT_ONCE == 0)
            usleep(50); /* six are faster than the one worker that takes what they send */
    }
    return NULL;
}

#define SPAWNERS 6

TEST(threads_spawn_while_the_runtime_is_stopped_and_nothing_is_lost)
{
    struct cr_mem_stats before;
    measure(&before);
    for (int round = 0; round < 20; round++) {
        struct spawner spawners[SPAWNERS];
        struct cr_rt *rt;
        long accepted = 0;
        counter = 0;
        CHECK_EQ(cr_rt_create(&rt, &(struct cr_config){.workers = round % 3 + 1u}), 0);
        for (int i = 0; i < SPAWNERS; i++) {
            spawners[i] = (struct spawner){.rt = rt};
            CHECK_EQ(pthread_create(&spawners[i].thread, NULL, spawns_until_the_end, &spawners[i]), 0);
        }
        CHECK_EQ(cr_rt_start(rt, sleeps_until_cancelled, NULL), 0);
        usleep((unsigned)(round % 5) * 400);
        CHECK_EQ(cr_rt_stop(rt), 0);
        for (int i = 0; i < SPAWNERS; i++) {
            CHECK_EQ(pthread_join(spawners[i].thread, NULL), 0);
            CHECK_EQ(spawners[i].end, -ESHUTDOWN);
            accepted += spawners[i].accepted;
        }
        CHECK_EQ(counter, accepted);
        CHECK_EQ(cr_go_remote(rt, counts, NULL), -ESHUTDOWN);
        cr_rt_destroy(rt);
    }
    check_nothing_leaked(&before);
}

TEST(a_runtime_that_is_never_started_drops_what_was_sent)
{
    struct cr_mem_stats before;
    struct cr_rt *rt;
    measure(&before);
    CHECK_EQ(cr_rt_create(&rt, NULL), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_go_remote(rt, counts, NULL), 0);
    cr_rt_destroy(rt);
    CHECK_EQ(counter, 0);
    check_nothing_leaked(&before);
    CHECK_EQ(cr_go_remote(NULL, counts, NULL), -EINVAL);
}

/* Nobody but the thread keeps the runtime awake: that it ends is seen by whoever leaves last. */
static void *spawns_one(void *rt)
{
    CHECK_EQ(cr_go_remote(rt, counts, NULL), 0);
    return NULL;
}

TEST(a_runtime_ends_after_the_last_remote_spawn)
{
    for (int round = 0; round < 300; round++) {
        struct cr_rt *rt;
        pthread_t threads[3];
        counter = 0;
        CHECK_EQ(cr_rt_create(&rt, &(struct cr_config){.workers = round % 3 + 1u}), 0);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, spawns_one, rt), 0);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(cr_rt_start(rt, counts, NULL), 0);
        CHECK_EQ(cr_rt_wait(rt), 0);
        CHECK_EQ(counter, 4);
        cr_rt_destroy(rt);
    }
}

/* ---- Other threads: events ---------------------------------------------------------------------------------- */

struct answer {
    struct cr_rt *rt;
    struct cr_event there;
    int value;
};

static void *answers(void *arg)
{
    struct answer *answer = arg;
    answer->value = 42;
    CHECK_EQ(cr_event_set_remote(answer->rt, &answer->there), 0);
    return NULL; /* answer is gone */
}

static void asks(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        struct answer on_stack, *answer = test_stacks_are("shared") ? malloc(sizeof(*answer)) : &on_stack;
        pthread_t thread;
        *answer = (struct answer){.rt = cr_rt_here()};
        CHECK_EQ(pthread_create(&thread, NULL, answers, answer), 0);
        CHECK_EQ(pthread_detach(thread), 0);
        CHECK_EQ(cr_event_wait(&answer->there), 0);
        CHECK_EQ(answer->value, 42);
        memset(answer, 0x55, sizeof(*answer));
        if (answer != &on_stack)
            free(answer);
    }
    counts(NULL);
}

static void many_ask(void *unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_go(asks, NULL), 0);
}

TEST(an_event_may_leave_its_stack_when_it_has_been_waited_for)
{
    CHECK_EQ(cr_run(asks, NULL, NULL), 0);
    CHECK_EQ(cr_run(many_ask, NULL, &two), 0);
    CHECK_EQ(counter, 9);
}

TEST_CO(an_event_stays_set_until_it_is_cleared)
{
    struct cr_event event = {0};
    CHECK_EQ(cr_event_wait_until(&event, 0), -ETIMEDOUT);
    CHECK_EQ(cr_event_wait_until(&event, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_event_set(&event), 0);
    CHECK(cr_event_is_set(&event));
    CHECK_EQ(cr_event_wait_until(&event, 0), 0);
    CHECK_EQ(cr_event_wait(&event), 0);
    cr_event_clear(&event);
    CHECK(!cr_event_is_set(&event));
    CHECK_EQ(cr_event_set_remote(cr_rt_here(), &event), 0);
    CHECK_EQ(cr_event_wait(&event), 0);
    CHECK_EQ(cr_event_set_remote(NULL, &event), -EINVAL);
}

TEST(outside_of_coroutines_only_remote_calls_are_answered)
{
    struct cr_event event = {0};
    CHECK_EQ(cr_event_wait(&event), -EPERM);
    CHECK_EQ(cr_event_set(&event), -EPERM);
    CHECK(cr_rt_here() == NULL);
    CHECK_EQ(cr_signal_mask(&(sigset_t){0}), -EPERM);
    CHECK_EQ(cr_child_wait(1, NULL), -EPERM);
}

/* A queue in the program's own way: an event tells of it. */
static struct cr_event more;
static _Atomic long produced, consumed, producing;

static void *produces(void *rt)
{
    for (int i = 0; i < 5000; i++) {
        atomic_fetch_add(&produced, 1);
        CHECK_EQ(cr_event_set_remote(rt, &more), 0);
    }
    atomic_fetch_sub(&producing, 1);
    CHECK_EQ(cr_event_set_remote(rt, &more), 0);
    return NULL;
}

static void joins_thread(void *arg)
{
    CHECK_EQ(pthread_join(*(pthread_t *)arg, NULL), 0);
}

static void consumes(void *unused)
{
    (void)unused;
    pthread_t threads[4];
    produced = consumed = 0;
    producing = 4;
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, produces, cr_rt_here()), 0);
    do {
        CHECK_EQ(cr_event_wait(&more), 0);
        cr_event_clear(&more);
        consumed = produced;
    } while (producing > 0);
    consumed = produced;
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cr_blocking(joins_thread, &threads[i]), 0);
    CHECK_EQ(consumed, 20000);
}

TEST(no_set_is_lost)
{
    CHECK_EQ(cr_run(consumes, NULL, NULL), 0);
    CHECK_EQ(cr_run(consumes, NULL, &two), 0);
}

/* Waits, on whichever worker, that are ended by deadlines and cancellations at the moment at which others set the event. */
static struct cr_event contended;
static _Atomic bool over;

static void *sets_and_clears(void *rt)
{
    int r = 0;
    while (!over && r == 0) {
        r = cr_event_set_remote(rt, &contended);
        cr_event_clear(&contended);
    }
    CHECK(r == 0 || r == -ESHUTDOWN);
    return NULL;
}

static void waits_a_little(void *unused)
{
    (void)unused;
    for (int i = 0; i < 60; i++) {
        int r = cr_event_wait_until(&contended, cr_after(i % 4 * 10 * CR_US));
        CHECK(r == 0 || r == -ETIMEDOUT || r == -ECANCELED);
    }
    counts(NULL);
}

static void contends(void *arg)
{
    pthread_t threads[2];
    struct cr_co *cos[24];
    over = false;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, sets_and_clears, cr_rt_here()), 0);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 24; i++)
            CHECK_EQ(cr_spawn(&cos[i], waits_a_little, NULL, &(struct cr_attr){.flags = arg && i % 2 ? CR_MIGRATABLE : 0}), 0);
        CHECK_EQ(cr_sleep(CR_MS), 0);
        for (int i = 0; i < 24; i += 3)
            CHECK_EQ(cr_cancel(cos[i]), 0);
        for (int i = 0; i < 24; i++)
            CHECK_EQ(cr_join(cos[i]), 0);
    }
    over = true;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_blocking(joins_thread, &threads[i]), 0);
}

TEST(setting_races_with_deadlines_and_cancellations)
{
    struct cr_mem_stats before;
    measure(&before);
    CHECK_EQ(cr_run(contends, NULL, NULL), 0);
    CHECK_EQ(cr_run(contends, &over, &(struct cr_config){.workers = 3}), 0);
    CHECK_EQ(counter, 2 * 6 * 24);
    check_nothing_leaked(&before);
}

static void *sets_until_the_end(void *rt)
{
    int r;
    while ((r = cr_event_set_remote(rt, &contended)) == 0)
        cr_event_clear(&contended);
    CHECK_EQ(r, -ESHUTDOWN);
    return NULL;
}

static void waits_until_cancelled(void *unused)
{
    (void)unused;
    while (cr_event_wait(&contended) != -ECANCELED)
        cr_yield();
}

static void many_wait(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_go(waits_until_cancelled, NULL), 0);
}

TEST(threads_set_events_while_the_runtime_is_stopped)
{
    for (int round = 0; round < 20; round++) {
        struct cr_rt *rt;
        pthread_t threads[4];
        CHECK_EQ(cr_rt_create(&rt, &(struct cr_config){.workers = round % 3 + 1u}), 0);
        CHECK_EQ(cr_rt_start(rt, many_wait, NULL), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, sets_until_the_end, rt), 0);
        usleep((unsigned)(round % 5) * 400);
        CHECK_EQ(cr_rt_stop(rt), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        cr_rt_destroy(rt);
        contended = (struct cr_event){0};
    }
}

/* ---- The end, from any state -------------------------------------------------------------------------------- */

static struct cr_event never;

static void blocks(void *unused)
{
    (void)unused;
    usleep(2000);
}

static void waits_for_a_thread(void *unused)
{
    (void)unused;
    int r = cr_blocking(blocks, NULL);
    CHECK(r == 0 || r == -ECANCELED);
}

static void waits_for_an_event(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_event_wait(&never), -ECANCELED);
}

static void waits_for_a_signal(void *unused)
{
    sigset_t usr1 = set_of(SIGUSR1);
    (void)unused;
    CHECK_EQ(cr_signal_wait(&usr1, NULL), -ECANCELED);
}

static pid_t sleeping_child;

static void waits_for_the_child(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_child_wait(sleeping_child, NULL), -ECANCELED);
}

static void in_every_state(void *unused)
{
    static void (*const states[])(void *) = {waits_for_a_thread, waits_for_an_event, waits_for_a_signal, waits_for_the_child,
                                             sleeps_until_cancelled, nothing};
    (void)unused;
    for (int i = 0; i < 120; i++) /* of which few find a stack */
        CHECK_EQ(cr_go(states[i % 6], NULL), 0);
}

TEST(a_runtime_is_stopped_whatever_its_coroutines_wait_for)
{
    sigset_t usr1 = set_of(SIGUSR1);
    struct cr_mem_stats before;
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);
    sleeping_child = fork();
    if (sleeping_child == 0) {
        pause();
        _exit(0);
    }
    measure(&before);
    for (int round = 0; round < 30; round++) {
        struct cr_rt *rt;
        struct cr_config config = {.workers = round % 3 + 1u, .max_blocking_threads = 3, .max_stacks_bytes = round % 2 ? 0 : (size_t)8 << 20};
        CHECK_EQ(cr_rt_create(&rt, &config), 0);
        CHECK_EQ(cr_rt_start(rt, in_every_state, NULL), 0);
        if (round % 4)
            usleep((unsigned)(round % 4) * 700);
        CHECK_EQ(cr_rt_stop(rt), 0);
        cr_rt_destroy(rt);
    }
    check_nothing_leaked(&before);
    CHECK_EQ(kill(sleeping_child, SIGKILL), 0);
}

/* ---- How many processors ------------------------------------------------------------------------------------ */

static void put(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    CHECK(f != NULL);
    fputs(text, f);
    fclose(f);
}

TEST(the_least_quota_of_the_cgroup_and_those_above_it_counts)
{
    char folder[64];
    snprintf(folder, sizeof(folder), "/tmp/crore-cgroup-%d", (int)getpid());
    CHECK_EQ(mkdir(folder, 0700), 0);
    CHECK_EQ(chdir(folder), 0);
    CHECK_EQ(mkdir("a", 0700) | mkdir("a/b", 0700), 0);
    CHECK_EQ(cr__cgroup_processors("membership", "."), 0);
    put("membership", "12:cpu,cpuacct:/x0::/\n0::/a/b\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 0);
    put("a/b/cpu.max", "max 100000\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 0);
    put("a/cpu.max", "250000 100000\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 3);
    put("a/b/cpu.max", "50000 100000\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 1);
    put("a/b/cpu.max", "400000 100000\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 3);
    put("cpu.max", "200000 100000\n"); /* in a container the root has one, too */
    CHECK_EQ(cr__cgroup_processors("membership", "."), 2);
    put("membership", "0::/\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 2);
    put("cpu.max", "nonsense\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 0);
    put("membership", "1:cpu:/a\n");
    CHECK_EQ(cr__cgroup_processors("membership", "."), 0);
    CHECK_EQ(system("rm -r membership cpu.max a && rmdir $PWD"), 0);
}

/* ---- While worker 0 is stuck -------------------------------------------------------------------------------- */

static struct cr_rt *runtime_here;
static struct cr_chan *calls;
static _Atomic int arrived;

static void arrives(void *unused)
{
    (void)unused;
    arrived++;
}

static void receives(void *unused)
{
    int value;
    (void)unused;
    CHECK_EQ(cr_chan_recv(calls, &value), 0);
    CHECK_EQ(value, 7);
    arrived++;
}

static void *calls_from_outside(void *unused)
{
    int value = 7;
    (void)unused;
    CHECK_EQ(cr_go_remote(runtime_here, arrives, NULL), 0);
    CHECK_EQ(cr_chan_send_remote(runtime_here, calls, &value), 0);
    CHECK_EQ(cr_chan_close_remote(runtime_here, calls), 0);
    arrived++;
    return NULL;
}

/* Does not suspend before all has arrived. */
static void is_stuck_meanwhile(void *unused)
{
    (void)unused;
    pthread_t thread;
    int64_t end = cr_after(10 * CR_SEC);
    CHECK_EQ(cr_worker_index(), 0);
    CHECK_EQ(pthread_create(&thread, NULL, calls_from_outside, NULL), 0);
    while (arrived < 3 && cr_now() < end)
        ;
    CHECK_EQ(arrived, 3);
    pthread_join(thread, NULL);
}

static void has_worker_0_stuck(void *unused)
{
    struct cr_co *co;
    (void)unused;
    runtime_here = cr_rt_here();
    CHECK_EQ(cr_chan_create(&calls, sizeof(int), 0), 0);
    CHECK_EQ(cr_go_on(1, receives, NULL), 0);
    CHECK_EQ(cr_spawn_on(&co, 0, is_stuck_meanwhile, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_chan_destroy(calls), 0);
}

TEST(calls_from_outside_reach_a_worker_that_is_not_stuck)
{
    CHECK_EQ(cr_run(has_worker_0_stuck, NULL, &(struct cr_config){.workers = 2, .slow_ns = -1}), 0);
}

/* ---- A channel that is fed from outside --------------------------------------------------------------------- */

static struct cr_event sends_no_more;

static void *sends_after_a_while(void *unused)
{
    int value = 7;
    (void)unused;
    usleep(50 * 1000); /* all coroutines wait by now */
    CHECK_EQ(cr_chan_send_remote(runtime_here, calls, &value), 0);
    CHECK_EQ(cr_event_set_remote(runtime_here, &sends_no_more), 0);
    return NULL;
}

static void waits_for_what_comes_from_outside(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_event_wait(&sends_no_more), 0);
}

static void is_fed(void *unused)
{
    pthread_t thread;
    int value = 0;
    (void)unused;
    runtime_here = cr_rt_here();
    cr_event_clear(&sends_no_more);
    CHECK_EQ(cr_chan_create(&calls, sizeof(int), 0), 0);
    CHECK_EQ(cr_go(waits_for_what_comes_from_outside, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, sends_after_a_while, NULL), 0);
    CHECK_EQ(cr_chan_recv(calls, &value), 0);
    CHECK_EQ(value, 7);
    CHECK_EQ(cr_blocking(joins_thread, &thread), 0);
    CHECK_EQ(cr_chan_destroy(calls), 0);
}

TEST(a_coroutine_that_waits_for_an_event_keeps_a_channel_open_to_threads)
{
    CHECK_EQ(cr_run(is_fed, NULL, NULL), 0);
    CHECK_EQ(cr_run(is_fed, NULL, &two), 0);
}
