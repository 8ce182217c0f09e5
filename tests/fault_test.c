/* Injected faults: whichever allocation fails, the caller gets an error, and nothing is lost. */
#include <crore/crore.h>

#include "mem/mem.h"
#include "test.h"

static int ran;

static void runs(void *unused)
{
    (void)unused;
    ran++;
}

static void spawns_until_full(void *unused)
{
    (void)unused;
    int spawned = 0, r;
    cr__mem_fail_after(1);
    while ((r = cr_go(runs, NULL)) == 0)
        spawned++;
    CHECK_EQ(r, -ENOMEM);
    CHECK(spawned > 0);
    struct cr_co *co = NULL;
    CHECK_EQ(cr_spawn(&co, runs, NULL, NULL), -ENOMEM);
    CHECK(co == NULL);
    cr__mem_fail_after(0);
    CHECK_EQ(cr_spawn(&co, runs, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(ran, spawned + 1);
}

TEST(a_spawn_without_memory_fails_and_those_spawned_before_all_run)
{
    CHECK_EQ(cr_run(spawns_until_full, NULL, NULL), 0);
}

static int runs_as_task(struct cr_task *task)
{
    (void)task;
    ran++;
    return 0;
}

static void spawns_tasks_until_full(void *unused)
{
    (void)unused;
    struct cr_task frame = CR_TASK(runs_as_task);
    int spawned = 0, r;
    cr__mem_fail_after(1);
    while ((r = cr_task_go(&frame, sizeof(frame))) == 0)
        spawned++;
    CHECK_EQ(r, -ENOMEM);
    struct cr_co *co = NULL;
    CHECK_EQ(cr_task_spawn(&co, &frame, sizeof(frame), NULL), -ENOMEM);
    CHECK(co == NULL);
    cr__mem_fail_after(0);
    for (unsigned n = 1; n < 3; n++) { /* the object, its name */
        cr__mem_fail_after(n);
        CHECK(cr_task_spawn(&co, &frame, sizeof(frame), &(struct cr_attr){.name = "named"}) == -ENOMEM || n > 1);
        cr__mem_fail_after(0);
    }
    spawned += co != NULL;
    CHECK(!co || cr_join(co) == 0);
    CHECK_EQ(cr_task_spawn(&co, &frame, sizeof(frame), NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(ran, spawned + 1);
}

TEST(a_task_without_memory_is_not_spawned)
{
    CHECK_EQ(cr_run(spawns_tasks_until_full, NULL, NULL), 0);
}

static void sleeps(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    ran++;
}

static void stacks_run_out(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(cr_go(sleeps, NULL), 0);
    cr__mem_fail_after(1); /* the present chunk of stacks still serves some */
    while (ran < 1000)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr__mem_fail_after(0);
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK(stats.stack_waits > 0);
}

TEST(without_memory_for_stacks_coroutines_wait_their_turn_and_all_run)
{
    CHECK_EQ(cr_run(stacks_run_out, NULL, NULL), 0);
    CHECK_EQ(ran, 1000);
}

TEST(a_runtime_that_can_not_be_set_up_leaves_nothing_behind)
{
    struct cr_mem_stats before, after;
    CHECK_EQ(cr_run(runs, NULL, NULL), 0); /* what is made once per process */
    cr_mem_stats_get(&before);
    int failures = 0;
    for (unsigned n = 1; n < 50; n++) {
        cr__mem_fail_after(n);
        int r = cr_run(runs, NULL, NULL);
        cr__mem_fail_after(0);
        CHECK(r == 0 || r == -ENOMEM || r == -EDEADLK);
        failures += r < 0;
        cr_mem_stats_get(&after);
        CHECK_EQ(after.records_bytes, before.records_bytes);
        CHECK_EQ(after.stacks_bytes, before.stacks_bytes);
        CHECK_EQ(after.conns_bytes, before.conns_bytes);
        CHECK_EQ(after.buffers_bytes, before.buffers_bytes);
        CHECK_EQ(after.other_bytes, before.other_bytes);
    }
    CHECK(failures >= 5);
}

static void talks(void *result)
{
    struct cr_listener *l;
    struct cr_conn *client, *server;
    struct cr_lent lent;
    char where[64];
    int r = cr_listen(&l, "tcp://127.0.0.1:0", NULL);
    if (r == 0) {
        cr_listener_url(l, where, sizeof(where));
        r = cr_dial(&client, where, NULL);
        if (r == 0) {
            r = cr_accept(l, &server);
            if (r == 0) {
                CHECK_EQ(cr_write_all(client, "x", 1), 1);
                ssize_t n = cr_recv_lend(server, &lent);
                if (n == -ENOMEM) { /* nothing was received: it is still there */
                    cr__mem_fail_after(0);
                    n = cr_recv_lend(server, &lent);
                    *(int *)result += 100;
                }
                CHECK_EQ(n, 1);
                cr_close(server);
            }
            cr_close(client);
        }
        cr_listener_close(l);
    }
    if (r < 0) {
        CHECK_EQ(r, -ENOMEM);
        *(int *)result += 1;
    }
}

TEST(connections_without_memory_are_errors_and_nothing_leaks)
{
    int result = 0;
    for (unsigned n = 1; n < 30; n++) {
        cr__mem_fail_after(n);
        int r = cr_run(talks, &result, NULL);
        cr__mem_fail_after(0);
        CHECK(r == 0 || r == -ENOMEM || r == -EDEADLK);
    }
    CHECK(result > 0);
}

static void looks_up(void *unused)
{
    struct cr_addr addr;
    (void)unused;
    cr__mem_fail_after(1);
    CHECK_EQ(cr_resolve("no-such-host.invalid", 1, &addr, 1), -ENOMEM);
    cr__mem_fail_after(0);
    CHECK_EQ(cr_resolve("localhost", 1, &addr, 1), 1);
}

TEST(a_lookup_without_memory_is_an_error)
{
    CHECK_EQ(cr_run(looks_up, NULL, NULL), 0);
}
