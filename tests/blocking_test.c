/* Blocking calls: on which threads they run, how many of those there are, and what ends a call. */
#include <sched.h>

#include "outside.h"
#include "sched/sched.h"

static const struct cr_config two_threads = {.workers = 1, .max_blocking_threads = 2};

static unsigned pool_threads(void)
{
    struct cr__pool *pool = &cr__worker_here()->sched->pool;
    pthread_mutex_lock(&pool->lock);
    unsigned n = pool->threads;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

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

TEST(many_workers_on_one_processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    CHECK_EQ(cr_run(storms, NULL, &(struct cr_config){.workers = 8, .max_blocking_threads = 16}), 0);
    CHECK_EQ(counter, 5000);
}
