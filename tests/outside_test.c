/* Off the worker, and from outside: blocking calls on threads, other threads' calls, signals, child processes, fork, and how all of it ends. */
#include <crore/crore.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "rt/rt.h"
#include "sched/sched.h"
#include "test.h"

static _Atomic long counter;

static const struct cr_config two = {.workers = 2}, two_threads = {.workers = 1, .max_blocking_threads = 2};

static void nothing(void *unused)
{
    (void)unused;
}

static void check_nothing_leaked(const struct cr_mem_stats *before)
{
    struct cr_mem_stats after;
    cr_mem_stats_get(&after);
    CHECK_EQ(after.records_bytes, before->records_bytes);
    CHECK_EQ(after.stacks_bytes, before->stacks_bytes);
    CHECK_EQ(after.conns_bytes, before->conns_bytes);
    CHECK_EQ(after.buffers_bytes, before->buffers_bytes);
    CHECK_EQ(after.other_bytes, before->other_bytes);
}

/* What is made once per process is made. */
static void measure(struct cr_mem_stats *before)
{
    CHECK_EQ(cr_run(nothing, NULL, NULL), 0);
    cr_mem_stats_get(before);
}

static unsigned pool_threads(void)
{
    struct cr__pool *pool = &cr__worker_here()->sched->pool;
    pthread_mutex_lock(&pool->lock);
    unsigned n = pool->threads;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

/* ---- Blocking calls ----------------------------------------------------------------------------------------- */

struct call {
    int ms, worker, result;
    pthread_t thread;
};

static void blocks(void *arg)
{
    struct call *call = arg;
    call->thread = pthread_self();
    call->worker = cr_worker_index();
    usleep((unsigned)call->ms * 1000);
    call->result = 42;
    atomic_fetch_add(&counter, 1);
}

TEST_CO(a_blocking_call_runs_on_another_thread)
{
    struct call call = {0};
    CHECK_EQ(cr_blocking(blocks, &call), 0);
    CHECK_EQ(call.result, 42);
    CHECK_EQ(call.worker, -EPERM);
    CHECK(!pthread_equal(call.thread, pthread_self()));
    CHECK_EQ(cr_blocking(NULL, NULL), -EINVAL);
}

TEST(a_blocking_call_outside_a_coroutine_is_refused)
{
    CHECK_EQ(cr_blocking(blocks, NULL), -EPERM);
}

static void counts_for_a_while(void *arg)
{
    while (cr_sleep(CR_MS) == 0)
        ++*(int *)arg;
}

TEST_CO(others_run_meanwhile)
{
    static int ticks;
    struct cr_co *ticker;
    struct call call = {.ms = 300};
    CHECK_EQ(cr_spawn(&ticker, counts_for_a_while, &ticks, NULL), 0);
    CHECK_EQ(cr_blocking(blocks, &call), 0);
    CHECK(ticks > 5);
    CHECK_EQ(cr_cancel(ticker), 0);
    CHECK_EQ(cr_join(ticker), 0);
}

static void blocks_for(void *arg)
{
    struct call call = {.ms = (int)(intptr_t)arg};
    CHECK_EQ(cr_blocking(blocks, &call), 0);
    CHECK_EQ(call.result, 42);
}

TEST_CO_CONFIG(jobs_beyond_the_number_of_threads_wait_their_turn, &two_threads)
{
    struct cr_co *callers[40];
    int64_t begin = cr_now();
    for (int i = 0; i < 40; i++)
        CHECK_EQ(cr_spawn(&callers[i], blocks_for, (void *)(intptr_t)2, NULL), 0);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(cr_join(callers[i]), 0);
    CHECK_EQ(counter, 40);
    CHECK(cr_now() - begin >= 40 * CR_MS);
    CHECK(pool_threads() <= 2);
}

static void blocks_short_and_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++)
        blocks_for((void *)(intptr_t)(i % 16 == 0));
}

static void storms(void *arg)
{
    struct cr_attr attr = {.flags = arg ? CR_MIGRATABLE : 0};
    struct cr_co *callers[100];
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_spawn(&callers[i], blocks_short_and_often, NULL, &attr), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_join(callers[i]), 0);
}

TEST(many_blocking_calls_from_several_workers)
{
    struct cr_mem_stats before;
    measure(&before);
    CHECK_EQ(cr_run(storms, NULL, &(struct cr_config){.workers = 3, .max_blocking_threads = 8}), 0);
    CHECK_EQ(cr_run(storms, &before, &(struct cr_config){.workers = 3, .max_blocking_threads = 8}), 0);
    CHECK_EQ(counter, 10000);
    check_nothing_leaked(&before);
}

static void is_cancelled_while_queued(void *unused)
{
    struct call call = {0};
    (void)unused;
    CHECK_EQ(cr_blocking(blocks, &call), -ECANCELED);
    CHECK_EQ(call.result, 0);
}

TEST_CO_CONFIG(a_call_that_waits_for_a_thread_can_be_cancelled_and_has_a_deadline, &two_threads)
{
    struct cr_co *busy[2], *queued;
    struct call call = {0};
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_spawn(&busy[i], blocks_for, (void *)(intptr_t)1000, NULL), 0);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_spawn(&queued, is_cancelled_while_queued, NULL, NULL), 0);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_cancel(queued), 0);
    CHECK_EQ(cr_join(queued), 0);
    CHECK_EQ(cr_blocking_until(blocks, &call, cr_after(5 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_blocking_until(blocks, &call, 0), -ETIMEDOUT);
    CHECK_EQ(call.result, 0);
    CHECK_EQ(counter, 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_join(busy[i]), 0);
    CHECK_EQ(cr_blocking_until(blocks, &call, 0), 0); /* a thread is free: there is nothing to wait for */
    CHECK_EQ(call.result, 42);
}

static void ignores_it(void *unused)
{
    struct call call = {.ms = 20};
    (void)unused;
    CHECK_EQ(cr_blocking_until(blocks, &call, cr_after(CR_MS)), 0);
    CHECK_EQ(call.result, 42);
    CHECK_EQ(cr_sleep(CR_SEC), -ECANCELED);
    CHECK_EQ(cr_blocking(blocks, &call), -ECANCELED);
}

TEST_CO_CONFIG(a_call_that_has_begun_is_waited_for, &two)
{
    for (int i = 0; i < 20; i++) {
        struct cr_co *co;
        CHECK_EQ(cr_spawn(&co, ignores_it, NULL, &(struct cr_attr){.flags = i % 2 ? CR_MIGRATABLE : 0}), 0);
        CHECK_EQ(cr_sleep(2 * CR_MS), 0);
        CHECK_EQ(cr_cancel(co), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(counter, i + 1);
    }
}

static void race(void *unused)
{
    struct call call = {0};
    (void)unused;
    int r = cr_blocking(blocks, &call);
    CHECK(r == 0 || r == -ECANCELED);
    CHECK_EQ(call.result, r == 0 ? 42 : 0);
}

static void races(void *arg)
{
    struct cr_co *cos[32];
    struct cr_attr attr = {.flags = arg ? CR_MIGRATABLE : 0};
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < 32; i++)
            CHECK_EQ(cr_spawn(&cos[i], race, NULL, &attr), 0);
        if (round % 3)
            CHECK_EQ(cr_sleep(round % 3 * 50 * CR_US), 0);
        for (int i = 0; i < 32; i++)
            CHECK_EQ(cr_cancel(cos[i]), 0);
        for (int i = 0; i < 32; i++)
            CHECK_EQ(cr_join(cos[i]), 0);
    }
}

TEST(cancelling_races_with_beginning_and_ending)
{
    CHECK_EQ(cr_run(races, NULL, &two_threads), 0);
    CHECK_EQ(cr_run(races, NULL, &(struct cr_config){.workers = 3, .max_blocking_threads = 3}), 0);
    CHECK_EQ(cr_run(races, &counter, &(struct cr_config){.workers = 3, .max_blocking_threads = 3}), 0);
}

TEST_CO(threads_that_have_nothing_to_do_end)
{
    cr__worker_here()->sched->pool.idle_ns = 200 * CR_MS;
    struct cr_co *callers[10];
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_spawn(&callers[i], blocks_for, (void *)(intptr_t)5, NULL), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_join(callers[i]), 0);
    CHECK(pool_threads() > 1);
    while (pool_threads() > 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    blocks_for(NULL); /* there will be one again */
    CHECK(pool_threads() == 1);
}

static void asks_for_the_mask(void *arg)
{
    pthread_sigmask(SIG_BLOCK, NULL, arg);
}

TEST_CO(threads_block_asynchronous_signals)
{
    sigset_t set;
    CHECK_EQ(cr_blocking(asks_for_the_mask, &set), 0);
    CHECK(sigismember(&set, SIGTERM) && sigismember(&set, SIGUSR1));
    CHECK(!sigismember(&set, SIGSEGV));
}

/* ---- Other threads: spawning -------------------------------------------------------------------------------- */

static void counts(void *unused)
{
    (void)unused;
    atomic_fetch_add(&counter, 1);
}

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

static void sleeps_until_cancelled(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED);
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

/* ---- Signals ------------------------------------------------------------------------------------------------ */

static sigset_t set_of(int signo)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signo);
    return set;
}

static void waits_for_signals(void *unused)
{
    sigset_t usr1 = set_of(SIGUSR1), usr2 = set_of(SIGUSR2), kill_set = set_of(SIGKILL), mask;
    siginfo_t info;
    (void)unused;
    CHECK_EQ(cr_signal_wait_until(&usr1, &info, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 7}), 0);
    CHECK_EQ(cr_signal_wait(&usr1, &info), SIGUSR1);
    CHECK_EQ(info.si_pid, getpid());
    CHECK_EQ(info.si_value.sival_int, 7);
    CHECK_EQ(cr_signal_wait_until(&usr1, NULL, 0), -ETIMEDOUT);
    CHECK_EQ(cr_signal_wait(&usr2, NULL), -EINVAL); /* not blocked */
    CHECK_EQ(cr_signal_wait(&kill_set, NULL), -EINVAL);
    CHECK_EQ(cr_signal_mask(&mask), 0);
    CHECK(sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGTERM));
}

static void sends_one_later(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
}

static void takes_one(void *unused)
{
    sigset_t usr1 = set_of(SIGUSR1);
    (void)unused;
    int r = cr_signal_wait(&usr1, NULL);
    if (r == SIGUSR1) {
        counts(NULL);
        CHECK_EQ(cr_shutdown(), 0);
    } else {
        CHECK_EQ(r, -ECANCELED);
    }
}

static void several_wait_for_signals(void *unused)
{
    (void)unused;
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_go(takes_one, NULL), 0);
    CHECK_EQ(cr_go(sends_one_later, NULL), 0);
}

TEST(signals_that_the_program_blocks_are_waited_for)
{
    sigset_t usr1 = set_of(SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);
    CHECK_EQ(cr_run(waits_for_signals, NULL, NULL), 0);
    CHECK_EQ(cr_run(waits_for_signals, NULL, &two), 0);
    CHECK_EQ(cr_run(several_wait_for_signals, NULL, NULL), 0);
    CHECK_EQ(counter, 1);
    CHECK_EQ(cr_run(several_wait_for_signals, NULL, &two), 0);
    CHECK_EQ(counter, 2);
}

/* ---- Child processes ---------------------------------------------------------------------------------------- */

static pid_t child_that_sleeps(unsigned ms, int code)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        usleep(ms * 1000);
        _exit(code);
    }
    return pid;
}

static void waits_for_children(void *unused)
{
    int status = -1;
    (void)unused;
    pid_t pid = child_that_sleeps(500, 3);
    CHECK_EQ(cr_child_wait_until(pid, &status, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(status, -1);
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    CHECK_EQ(cr_child_wait(pid, &status), -ECHILD);
    pid = child_that_sleeps(10000, 0);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK_EQ(cr_child_wait(getppid(), NULL), -ECHILD);
    CHECK_EQ(cr_child_wait(0, NULL), -EINVAL);
}

static void waits_for_child(void *pid)
{
    CHECK_EQ(cr_child_wait((pid_t)(intptr_t)pid, NULL), -ECANCELED);
}

TEST_CO(a_child_is_waited_for)
{
    waits_for_children(NULL);
}

TEST_CO_CONFIG(a_child_is_waited_for_with_several_workers, &two)
{
    waits_for_children(NULL);
}

TEST_CO(a_cancelled_wait_reaps_no_child)
{
    struct cr_co *waiter;
    int status;
    pid_t pid = child_that_sleeps(500, 5);
    CHECK_EQ(cr_spawn(&waiter, waits_for_child, (void *)(intptr_t)pid, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(waiter), 0);
    CHECK_EQ(cr_join(waiter), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(WEXITSTATUS(status), 5);
}

/* ---- fork --------------------------------------------------------------------------------------------------- */

static int exit_code_of(pid_t pid)
{
    int status = -1;
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void executes(void *unused)
{
    (void)unused;
    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            /* dies of the signal, if that is not blocked */
            execl("/bin/sh", "sh", "-c", "kill -TERM $$; exit 1", (char *)NULL);
            _exit(99);
        }
        CHECK_EQ(exit_code_of(pid), 128 + SIGTERM);
        CHECK_EQ(cr_sleep(100 * CR_US), 0);
    }
    counts(NULL);
}

static void many_execute(void *unused)
{
    (void)unused;
    for (int i = 0; i < 6; i++)
        CHECK_EQ(cr_go(executes, NULL), 0);
}

TEST(fork_and_exec_work_from_any_coroutine_with_the_programs_signals)
{
    CHECK_EQ(cr_run(many_execute, NULL, NULL), 0);
    CHECK_EQ(cr_run(many_execute, NULL, &(struct cr_config){.workers = 3}), 0);
    CHECK_EQ(counter, 12);
}

static void forks_to_exec(void *arg)
{
    *(pid_t *)arg = fork();
    if (*(pid_t *)arg == 0) {
        execl("/bin/sh", "sh", "-c", "kill -TERM $$; exit 1", (char *)NULL);
        _exit(99);
    }
}

TEST_CO(fork_and_exec_work_in_a_blocking_call)
{
    pid_t pid;
    CHECK_EQ(cr_blocking(forks_to_exec, &pid), 0);
    CHECK_EQ(exit_code_of(pid), 128 + SIGTERM);
}

#define REFUSED(call) ((call) == -EPERM ? 0 : (printf("# not refused: %s\n", #call), fflush(stdout), _exit(1)))

static void uses_the_runtime(struct cr_conn *conn, struct cr_co *co, struct cr_rt *other)
{
    char byte;
    struct cr_event event = {0};
    struct cr_conn *out;
    struct cr_rt *rt;
    struct cr_stats stats;
    struct cr_chan *chan;
    sigset_t set = set_of(SIGUSR1);
    CHECK_EQ(cr_chan_create(&chan, 1, 1), 0);
    REFUSED(cr_yield());
    REFUSED(cr_sleep(0));
    REFUSED(cr_go(counts, NULL));
    REFUSED(cr_go_on(0, counts, NULL));
    REFUSED(cr_join(co));
    REFUSED(cr_detach(co));
    REFUSED(cr_cancel(co));
    REFUSED(cr_shutdown());
    REFUSED(cr_blocking(counts, NULL));
    REFUSED((int)cr_read(conn, &byte, 1));
    REFUSED((int)cr_write(conn, &byte, 1));
    REFUSED(cr_dial(&out, "tcp://127.0.0.1:1", NULL));
    REFUSED(cr_file_open(&out, "/dev/null", O_RDONLY, 0));
    REFUSED(cr_stats_get(&stats));
    REFUSED(cr_worker_index());
    REFUSED(cr_run(counts, NULL, NULL));
    REFUSED(cr_rt_create(&rt, NULL));
    REFUSED(cr_rt_stop(other));
    REFUSED(cr_rt_wait(other));
    REFUSED(cr_go_remote(other, counts, NULL));
    REFUSED(cr_event_wait(&event));
    REFUSED(cr_event_set(&event));
    REFUSED(cr_event_set_remote(other, &event));
    REFUSED(cr_signal_wait(&set, NULL));
    REFUSED(cr_child_wait(1, NULL));
    REFUSED(cr_chan_send(chan, &byte));
    REFUSED(cr_chan_send_remote(other, chan, &byte));
    REFUSED(cr_chan_close_remote(other, chan));
    REFUSED(cr_dump(STDOUT_FILENO));
    cr_close(conn); /* ignored */
    cr_rt_destroy(other);
    _exit(7);
}

static void forks_without_exec(void *other)
{
    int pair[2];
    struct cr_conn *conn;
    struct cr_co *co;
    CHECK_EQ(pipe(pair), 0);
    CHECK_EQ(cr_conn_from_fd(&conn, pair[0]), 0);
    CHECK_EQ(cr_spawn(&co, sleeps_until_cancelled, NULL, NULL), 0);
    pid_t pid = fork();
    if (pid == 0)
        uses_the_runtime(conn, co, other);
    CHECK_EQ(exit_code_of(pid), 7);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_close(conn);
    close(pair[1]);
}

TEST(a_child_that_uses_the_runtime_is_refused)
{
    struct cr_rt *other;
    CHECK_EQ(cr_rt_create(&other, NULL), 0);
    CHECK_EQ(cr_rt_start(other, sleeps_until_cancelled, NULL), 0);
    CHECK_EQ(cr_run(forks_without_exec, other, NULL), 0);
    CHECK_EQ(cr_run(forks_without_exec, other, &two), 0);
    int status;
    pid_t pid = fork(); /* not from a worker */
    if (pid == 0)
        uses_the_runtime(NULL, NULL, other);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 7 << 8);
    CHECK_EQ(cr_rt_stop(other), 0);
    cr_rt_destroy(other);
}

static int error_text[2];

static void returns_in_the_child(void *unused)
{
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(error_text[1], STDERR_FILENO);
        return;
    }
    CHECK_EQ(exit_code_of(pid), 128 + SIGABRT);
}

TEST(a_coroutine_that_returns_in_a_child_ends_it_with_a_message)
{
    char text[256] = "";
    CHECK_EQ(pipe(error_text), 0);
    CHECK_EQ(cr_run(returns_in_the_child, NULL, NULL), 0);
    CHECK(read(error_text[0], text, sizeof(text) - 1) > 0);
    CHECK_STR(text, "in a child of fork()");
}

TEST(a_child_forked_while_no_runtime_runs_may_use_one)
{
    int status;
#ifdef TEST_SANITIZED
    SKIP("ThreadSanitizer makes no threads in a child of a process that has had several");
#endif
    CHECK_EQ(cr_run(counts, NULL, NULL), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(cr_run(counts, NULL, NULL) == 0 ? 0 : 1);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

/* ---- Files -------------------------------------------------------------------------------------------------- */

static char path[64];

static void make_file(const char *folder)
{
    snprintf(path, sizeof(path), "%s/crore-outside-%d", folder, (int)getpid());
}

static void drop_from_the_cache(struct cr_conn *file)
{
    CHECK_EQ(fdatasync(cr_conn_fd(file)), 0);
    CHECK_EQ(posix_fadvise(cr_conn_fd(file), 0, 0, POSIX_FADV_DONTNEED), 0);
}

#define FILE_BYTES (1 << 20)

static char written[FILE_BYTES], back[FILE_BYTES];

/* Part of it in the page cache, part not. */
static void reads_what_it_wrote(void *folder)
{
    struct cr_conn *file;
    struct cr_lent lent;
    make_file(folder);
    for (int i = 0; i < FILE_BYTES; i++)
        written[i] = (char)(i * 7 + i / 4096);
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(unlink(path), 0);
    struct iovec parts[3] = {{written, 5000}, {written + 5000, 0}, {written + 5000, 3000}};
    CHECK_EQ(cr_writev(file, parts, 3), 8000);
    CHECK_EQ(cr_write_all(file, written + 8000, FILE_BYTES - 8000), FILE_BYTES - 8000);
    for (int warm = 0; warm < 5; warm++) {
        drop_from_the_cache(file);
        for (int i = 0; i < warm; i++)
            CHECK_EQ(cr_pread(file, back, 4096, i * 200000), 4096);
        memset(back, 0, sizeof(back));
        CHECK_EQ(cr_pread(file, back, FILE_BYTES, 0), FILE_BYTES);
        CHECK(memcmp(written, back, FILE_BYTES) == 0);
        CHECK_EQ(cr_pread(file, back, FILE_BYTES, FILE_BYTES - 10), 10);
        CHECK_EQ(cr_pread(file, back, 1, FILE_BYTES), 0);
        drop_from_the_cache(file);
        memset(back, 0, sizeof(back));
        if (warm)
            CHECK_EQ(cr_pread(file, back, 4096, 4096), 4096);
        CHECK_EQ(lseek(cr_conn_fd(file), 0, SEEK_SET), 0);
        struct iovec into[3] = {{back, 10000}, {back + 10000, 700000}, {back + 710000, FILE_BYTES - 710000}};
        CHECK_EQ(cr_readv(file, into, 3), FILE_BYTES);
        CHECK(memcmp(written, back, FILE_BYTES) == 0);
        CHECK_EQ(cr_read(file, back, 1), 0);
    }
    CHECK_EQ(cr_pwrite(file, "abc", 3, 10), 3);
    CHECK_EQ(lseek(cr_conn_fd(file), 10, SEEK_SET), 10);
    CHECK(cr_recv_lend(file, &lent) > 3);
    CHECK( memcmp(lent.bytes, "abc", 3) == 0);
    cr_recv_return(file, &lent);
    CHECK_EQ(cr_wait_readable(file), 0);
    CHECK_EQ(cr_pread(file, back, 1, -1), -EINVAL);
    cr_close(file);
    CHECK_EQ(cr_file_open(&file, "/nowhere/at/all", O_RDONLY, 0), -ENOENT);
}

TEST(files_are_read_and_written_whole_whatever_the_page_cache_has)
{
    CHECK_EQ(cr_run(reads_what_it_wrote, "/tmp", NULL), 0);
    CHECK_EQ(cr_run(reads_what_it_wrote, "/dev/shm", NULL), 0);
    CHECK_EQ(cr_run(reads_what_it_wrote, ".", &two), 0);
}

TEST_CO(what_the_page_cache_has_is_read_without_a_thread)
{
    struct cr_stats before, after;
    struct cr_conn *file;
    char bytes[4096] = {1};
    make_file(".");
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(cr_pwrite(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_pread(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_stats_get(&before), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(cr_pread(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_stats_get(&after), 0);
    cr_close(file);
    if (after.parks - before.parks == 1000)
        SKIP("this file system does not know RWF_NOWAIT");
    CHECK_EQ(after.parks, before.parks);
}

static struct cr_conn *shared;

static void writes_in_pieces(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_pwrite(shared, written, 100000, i * 100000), 100000);
    counts(NULL);
}

static void have_it_written(void *unused)
{
    (void)unused;
    for (int round = 0; round < 20; round++) {
        struct cr_co *writers[4];
        long before = counter;
        make_file("/tmp");
        CHECK_EQ(cr_file_open(&shared, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
        CHECK_EQ(unlink(path), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_spawn(&writers[i], writes_in_pieces, NULL, NULL), 0);
        while (counter == before)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_join(writers[i]), 0);
        cr_close(shared);
    }
}

TEST(several_write_one_file)
{
    CHECK_EQ(cr_run(have_it_written, NULL, NULL), 0);
    CHECK_EQ(cr_run(have_it_written, NULL, &two), 0);
}

static void writes_once(void *arg)
{
    *(ssize_t *)arg = cr_pwrite(shared, written, FILE_BYTES, 0);
}

TEST_CO_CONFIG(closing_leaves_the_fd_to_what_has_begun, &two)
{
    for (int round = 0; round < 20; round++) {
        struct cr_co *writer;
        static ssize_t result;
        make_file("/tmp");
        CHECK_EQ(cr_file_open(&shared, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
        int fd = cr_conn_fd(shared);
        CHECK_EQ(cr_spawn_on(&writer, (unsigned)cr_worker_index(), writes_once, &result, NULL), 0);
        cr_yield(); /* it waits for its thread now */
        cr_close(shared);
        CHECK_EQ(cr_join(writer), 0);
        CHECK_EQ(result, FILE_BYTES);
        CHECK_EQ(fcntl(fd, F_GETFD), -1);
        CHECK_EQ(unlink(path), 0);
    }
}

/* ---- The end, from any state -------------------------------------------------------------------------------- */

static struct cr_event never;

static void waits_for_a_thread(void *unused)
{
    struct call call = {.ms = 2};
    (void)unused;
    int r = cr_blocking(blocks, &call);
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
    char folder[] = "/tmp/crore-cgroup-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
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

TEST(many_workers_on_one_processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    CHECK_EQ(cr_run(storms, NULL, &(struct cr_config){.workers = 8, .max_blocking_threads = 16}), 0);
    CHECK_EQ(counter, 5000);
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
