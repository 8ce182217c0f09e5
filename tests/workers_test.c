/* Several workers: stealing, waking across, migrating, placing, ending. The numbers of workers are above and at what this machine has. */
#include <crore/crore.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "test.h"

#define WORKERS 4

static const struct cr_config several = {.workers = WORKERS}, star = {.workers = WORKERS, .policy = CR_POLICY_STAR};

#define TEST_SEVERAL(name) TEST_CO_CONFIG(name, &several)

/* Under either policy. */
#define TEST_POLICIES(name)                                                       \
    static void name(void *unused);                                               \
    TEST_SEVERAL(name##_in_a_chain)                                               \
    {                                                                             \
        name(NULL);                                                               \
    }                                                                             \
    TEST_CO_CONFIG(name##_in_a_star, &star)                                       \
    {                                                                             \
        name(NULL);                                                               \
    }                                                                             \
    static void name(__attribute__((unused)) void *unused)

static _Atomic long counter;
static _Atomic unsigned long seen_workers;

static void counts(void *unused)
{
    (void)unused;
    atomic_fetch_or(&seen_workers, 1ul << cr_worker_index());
    atomic_fetch_add(&counter, 1);
}

static void burns(void *arg)
{
    int64_t end = cr_now() + (int64_t)(intptr_t)arg;
    while (cr_now() < end)
        ;
    counts(NULL);
}

static void count_workers(void *arg)
{
    *(int *)arg = cr_worker_count();
}

TEST(as_many_workers_as_processors_unless_told_otherwise)
{
    unsetenv("CR_WORKERS");
    int count = 0;
    CHECK_EQ(cr_run(count_workers, &count, NULL), 0);
    CHECK_EQ(count, (int)sysconf(_SC_NPROCESSORS_ONLN));
}

TEST(the_environment_chooses_where_the_program_leaves_it_open)
{
    int count = 0;
    setenv("CR_WORKERS", "3", 1);
    CHECK_EQ(cr_run(count_workers, &count, NULL), 0);
    CHECK_EQ(count, 3);
    CHECK_EQ(cr_run(count_workers, &count, &(struct cr_config){.workers = 2}), 0);
    CHECK_EQ(count, 2);
    setenv("CR_WORKERS", "many", 1);
    CHECK_EQ(cr_run(count_workers, &count, NULL), -EINVAL);
}

TEST(affinity_limits_the_workers)
{
    int count = 0;
    cpu_set_t one;
    unsetenv("CR_WORKERS");
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    CHECK_EQ(cr_run(count_workers, &count, NULL), 0);
    CHECK_EQ(count, 1);
}

TEST_POLICIES(what_has_not_started_is_stolen_by_idle_workers)
{
    do {
        counter = 0;
        for (int i = 0; i < 2000; i++)
            CHECK_EQ(cr_go(burns, (void *)(intptr_t)(20 * CR_US)), 0);
        while (counter < 2000)
            cr_yield();
    } while (__builtin_popcountl(seen_workers) < 2); /* a busy machine may give one worker all the time */
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK(stats.steals > 0);
}

static void stays(void *unused)
{
    (void)unused;
    int here = cr_worker_index();
    for (int i = 0; i < 50; i++) {
        cr_yield();
        CHECK_EQ(cr_worker_index(), here);
        CHECK_EQ(cr_sleep(i % 5 * 10 * CR_US), 0);
        CHECK_EQ(cr_worker_index(), here);
    }
    atomic_fetch_add(&counter, 1);
}

TEST_POLICIES(what_has_started_stays_on_its_worker)
{
    for (int i = 0; i < 500; i++)
        CHECK_EQ(cr_go(stays, NULL), 0);
    while (counter < 500)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static void is_on(void *arg)
{
    CHECK_EQ(cr_worker_index(), (int)(intptr_t)arg);
    atomic_fetch_add(&counter, 1);
}

TEST_POLICIES(a_coroutine_is_placed_on_the_worker_that_one_names)
{
    for (int i = 0; i < 400; i++)
        CHECK_EQ(cr_go_on((unsigned)i % WORKERS, is_on, (void *)(intptr_t)(i % WORKERS)), 0);
    while (counter < 400)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_go_on(WORKERS, is_on, NULL), -EINVAL);
}

static void wanders(void *unused)
{
    (void)unused;
    char mark[64];
    for (int i = 0; i < 300; i++) {
        memset(mark, i, sizeof(mark));
        if (i % 7 == 0)
            CHECK_EQ(cr_sleep(20 * CR_US), 0);
        else
            cr_yield();
        for (size_t k = 0; k < sizeof(mark); k++)
            CHECK_EQ(mark[k], (char)i);
        atomic_fetch_or(&seen_workers, 1ul << cr_worker_index());
    }
    atomic_fetch_add(&counter, 1);
}

TEST_POLICIES(what_may_migrate_does_and_keeps_its_variables)
{
    static const struct cr_attr attr = {.flags = CR_MIGRATABLE};
    do {
        counter = 0;
        for (int i = 0; i < 200; i++)
            CHECK_EQ(cr_spawn(NULL, wanders, NULL, &attr), 0);
        while (counter < 200)
            CHECK_EQ(cr_sleep(CR_MS), 0);
    } while (__builtin_popcountl(seen_workers) < 2); /* a busy machine may give one worker all the time */
}

/* More than a ring holds, woken from another worker at once. */
#define CROWD 600
static struct cr_waitgroup first_gate, second_gate;

static void passes_two_gates(void *unused)
{
    (void)unused;
    counts(NULL);
    CHECK_EQ(cr_waitgroup_wait(&first_gate), 0);
    int here = cr_worker_index();
    counts(NULL);
    CHECK_EQ(cr_waitgroup_wait_until(&second_gate, cr_after(100 * CR_SEC)), 0);
    CHECK_EQ(cr_worker_index(), here);
    counts(NULL);
}

TEST_CO_CONFIG(a_timed_wait_ends_where_its_timer_is_however_many_were_woken_from_elsewhere, &(struct cr_config){.workers = 2})
{
    static const struct cr_attr attr = {.flags = CR_MIGRATABLE};
    unsigned other = 1 - (unsigned)cr_worker_index();
    counter = 0;
    CHECK_EQ(cr_waitgroup_add(&first_gate, 1), 0);
    CHECK_EQ(cr_waitgroup_add(&second_gate, 1), 0);
    for (int i = 0; i < CROWD; i++)
        CHECK_EQ(cr_spawn_on(NULL, other, passes_two_gates, NULL, &attr), 0);
    while (counter < CROWD)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_sleep(10 * CR_MS), 0); /* the last ones have begun to wait, too */
    CHECK_EQ(cr_waitgroup_done(&first_gate), 0);
    while (counter < 2 * CROWD)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    CHECK_EQ(cr_waitgroup_done(&second_gate), 0);
    while (counter < 3 * CROWD)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static void tree(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct cr_co *children[4];
    if (depth > 0) {
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_spawn(&children[i], tree, (void *)(depth - 1), NULL), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_join(children[i]), 0);
    }
    atomic_fetch_add(&counter, 1);
}

TEST_POLICIES(joins_across_workers)
{
    for (int i = 0; i < 10; i++) {
        counter = 0;
        tree((void *)(intptr_t)5);
        CHECK_EQ(counter, 1365);
    }
}

static void sleeps_long(void *unused)
{
    (void)unused;
    int r = cr_sleep(100 * CR_SEC);
    CHECK_EQ(r, -ECANCELED);
    atomic_fetch_add(&counter, 1);
}

TEST_POLICIES(cancel_and_detach_across_workers)
{
    struct cr_co *sleepers[64];
    for (int round = 0; round < 50; round++) {
        counter = 0;
        for (int i = 0; i < 64; i++)
            CHECK_EQ(cr_spawn_on(&sleepers[i], (unsigned)i % WORKERS, sleeps_long, NULL, NULL), 0);
        if (round % 2)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
        for (int i = 0; i < 64; i++)
            CHECK_EQ(cr_cancel(sleepers[i]), 0);
        for (int i = 0; i < 64; i++) {
            if (i % 2)
                CHECK_EQ(cr_join(sleepers[i]), 0);
            else
                CHECK_EQ(cr_detach(sleepers[i]), 0);
        }
        while (counter < 64)
            cr_yield();
    }
}

static void shuts_down(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_shutdown(), 0);
}

TEST(shutdown_reaches_every_worker)
{
    for (int round = 0; round < 20; round++) {
        struct cr_rt *rt;
        CHECK_EQ(cr_rt_create(&rt, &several), 0);
        CHECK_EQ(cr_rt_start(rt, tree, (void *)(intptr_t)3), 0);
        CHECK_EQ(cr_rt_wait(rt), 0);
        cr_rt_destroy(rt);
    }
    CHECK_EQ(cr_run(shuts_down, NULL, &several), 0);
}

static void many_sleepers(void *unused)
{
    (void)unused;
    for (int i = 0; i < 400; i++)
        CHECK_EQ(cr_go_on((unsigned)i % WORKERS, sleeps_long, NULL), 0);
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED);
}

TEST(stop_from_outside_reaches_every_worker_at_any_time)
{
    for (int round = 0; round < 40; round++) {
        struct cr_rt *rt;
        counter = 0;
        CHECK_EQ(cr_rt_create(&rt, &several), 0);
        CHECK_EQ(cr_rt_start(rt, many_sleepers, NULL), 0);
        if (round % 4)
            usleep((unsigned)(round % 4 * 500));
        CHECK_EQ(cr_rt_stop(rt), 0);
        CHECK_EQ(counter, 400);
        cr_rt_destroy(rt);
    }
}

/* Whichever comes first: the wish to stop, or that there is no poller. */
TEST(what_can_not_be_set_up_can_be_stopped)
{
    struct rlimit before, tight;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = 3;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (int round = 0; round < 200; round++) {
        struct cr_rt *rt;
        CHECK_EQ(cr_rt_create(&rt, &(struct cr_config){.workers = round % 2 + 1u, .poller = CR_POLLER_EPOLL}), 0);
        CHECK_EQ(cr_rt_start(rt, many_sleepers, NULL), 0);
        CHECK_EQ(cr_rt_stop(rt), -EMFILE);
        cr_rt_destroy(rt);
    }
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void parks_for_ever(void *unused)
{
    (void)unused;
    struct cr_co *other = cr_local_get(0);
    (void)other;
    (void)!cr_sleep_until(CR_FOREVER);
}

static void parks_them(void *unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_go_on((unsigned)i % WORKERS, parks_for_ever, NULL), 0);
    (void)!cr_sleep_until(CR_FOREVER);
}

TEST(when_nothing_can_run_on_any_worker_it_is_reported)
{
    int ends[2];
    char text[2048] = "";
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_run(parks_them, NULL, &(struct cr_config){.workers = WORKERS, .report_fd = ends[1]}), -EDEADLK);
    CHECK(read(ends[0], text, sizeof(text) - 1) > 0);
    CHECK(strstr(text, "9 coroutines parked"));
}

static void serves_one(void *arg)
{
    struct cr_conn *conn = arg;
    char buf[64];
    ssize_t n;
    while ((n = cr_read(conn, buf, sizeof(buf))) > 0)
        CHECK_EQ(cr_write_all(conn, buf, (size_t)n), n);
    cr_close(conn);
    atomic_fetch_add(&counter, 1);
}

static char server_url[64];

static void dials(void *unused)
{
    (void)unused;
    struct cr_conn *conn;
    char buf[64] = "hello";
    CHECK_EQ(cr_dial(&conn, server_url, NULL), 0);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(cr_write_all(conn, buf, 6), 6);
        CHECK_EQ(cr_read(conn, buf, sizeof(buf)), 6);
        CHECK(strcmp(buf, "hello") == 0);
    }
    cr_close(conn);
}

static void accepts(void *arg)
{
    struct cr_listener *l = arg;
    struct cr_conn *conn;
    while (cr_accept(l, &conn) == 0)
        CHECK_EQ(cr_go(serves_one, conn), 0);
}

TEST_SEVERAL(connections_are_served_where_there_is_time)
{
    struct cr_listener *l;
    CHECK_EQ(cr_listen(&l, "tcp://127.0.0.1:0", NULL), 0);
    CHECK(cr_listener_url(l, server_url, sizeof(server_url)) > 0);
    CHECK_EQ(cr_go(accepts, l), 0);
    for (int i = 0; i < 200; i++)
        CHECK_EQ(cr_go(dials, NULL), 0);
    while (counter < 200)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_listener_close(l);
}

static struct cr_conn *shared_conn;
static _Atomic bool reading;

static void closes_elsewhere(void *unused)
{
    (void)unused;
    do /* who is about to read must not find it gone */
        CHECK_EQ(cr_sleep(200 * CR_US), 0);
    while (!reading);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_close(shared_conn);
}

static void reads_until_closed(void *unused)
{
    (void)unused;
    char byte;
    reading = true;
    CHECK_EQ(cr_read(shared_conn, &byte, 1), -EBADF);
    atomic_fetch_add(&counter, 1);
}

TEST_SEVERAL(a_connection_closed_on_another_worker_wakes_who_reads)
{
    for (int i = 0; i < 100; i++) {
        int pair[2];
        counter = 0;
        reading = false;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        CHECK_EQ(cr_conn_from_fd(&shared_conn, pair[0]), 0);
        CHECK_EQ(cr_go_on(1, reads_until_closed, NULL), 0);
        CHECK_EQ(cr_sleep(100 * CR_US), 0);
        CHECK_EQ(cr_go_on(2, closes_elsewhere, NULL), 0);
        while (counter < 1)
            cr_yield();
        close(pair[1]);
    }
}


static _Atomic bool enough;

static void goes_on(void *unused)
{
    (void)unused;
    if (!enough)
        CHECK_EQ(cr_go(goes_on, NULL), 0);
}

static void spawns_without_end(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_go(goes_on, NULL), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(i % 2 ? cr_yield() : cr_sleep(CR_US), 0);
    enough = true;
}

TEST(an_endless_chain_of_spawns_lets_others_run)
{
    CHECK_EQ(cr_run(spawns_without_end, NULL, &(struct cr_config){.workers = 1}), 0);
    enough = false;
    CHECK_EQ(cr_run(spawns_without_end, NULL, &(struct cr_config){.workers = 2}), 0);
}

static void yields_until_enough(void *unused)
{
    (void)unused;
    while (!enough)
        cr_yield();
}

static void yields_without_end(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_go_on((unsigned)(i % cr_worker_count()), yields_until_enough, NULL), 0);
    for (int i = 0; i < 100; i++) {
        counter = 0;
        CHECK_EQ(cr_go(counts, NULL), 0);
        while (counter == 0)
            cr_yield();
    }
    enough = true;
}

TEST(those_that_always_yield_let_others_start)
{
    CHECK_EQ(cr_run(yields_without_end, NULL, &(struct cr_config){.workers = 1}), 0);
    enough = false;
    CHECK_EQ(cr_run(yields_without_end, NULL, &(struct cr_config){.workers = 2}), 0);
}

static void is_done(void *group)
{
    CHECK_EQ(cr_waitgroup_done(group), 0);
}

static void check_untouched(void *bytes, size_t size)
{
    memset(bytes, 0xa5, size);
    for (int64_t end = cr_now() + 30 * CR_US; cr_now() < end;)
        ;
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(((unsigned char *)bytes)[i], 0xa5);
}

static void waits_for_what_is_on_its_stack(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++) {
        struct cr_waitgroup group = {0};
        CHECK_EQ(cr_waitgroup_add(&group, 1), 0);
        CHECK_EQ(cr_go_on((unsigned)i % (WORKERS - 1), is_done, &group), 0);
        CHECK_EQ(cr_waitgroup_wait(&group), 0);
        check_untouched(&group, sizeof(group));
    }
    atomic_fetch_add(&counter, 1);
}

TEST_SEVERAL(what_a_coroutine_has_waited_for_may_be_gone_when_it_goes_on)
{
    if (test_stacks_are("shared"))
        SKIP("nobody else may touch what lies on a shared stack");
    CHECK_EQ(cr_go_on(WORKERS - 1, waits_for_what_is_on_its_stack, NULL), 0);
    while (counter == 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

/* ---- Starting among those that always yield ------------------------------------------------------------------ */

enum { MANY_THAT_YIELD = 1000 };
static _Atomic int have_begun;
static _Atomic bool all_have;

static void yields_until_all_have(void *unused)
{
    (void)unused;
    have_begun++;
    while (!all_have)
        CHECK_EQ(cr_yield(), 0);
}

static void spawns_what_yields(void *unused)
{
    (void)unused;
    int64_t deadline_ns = cr_after(60 * CR_SEC);
    have_begun = 0;
    all_have = false;
    for (int i = 0; i < MANY_THAT_YIELD; i++)
        CHECK_EQ(cr_go(yields_until_all_have, NULL), 0);
    while (have_begun < MANY_THAT_YIELD && cr_now() < deadline_ns)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(have_begun, MANY_THAT_YIELD);
    all_have = true;
}

TEST(those_that_always_yield_do_not_keep_others_from_starting)
{
    for (unsigned workers = 1; workers <= 4; workers *= 2) {
        struct cr_config config = {.workers = workers};
        CHECK_EQ(cr_run(spawns_what_yields, NULL, &config), 0);
    }
}

/* ---- Parking and unparking across workers ---- */

enum { HANDOVERS = 20000 };
static _Atomic int handed;

static void takes_handovers(void *unused)
{
    (void)unused;
    for (int seen = 0; seen < HANDOVERS;) {
        int now = atomic_exchange(&handed, 0);
        seen += now;
        if (now == 0)
            CHECK_EQ(cr_park(), 0);
    }
}

static void hands_over(void *taker)
{
    for (int i = 0; i < HANDOVERS / 2; i++) {
        atomic_fetch_add(&handed, 1);
        CHECK_EQ(cr_unpark(taker), 0);
        if (i % 64 == 0)
            cr_yield();
    }
}

static void race_unparks(unsigned flags)
{
    struct cr_co *taker, *givers[2];
    CHECK_EQ(cr_spawn_on(&taker, 0, takes_handovers, NULL, &(struct cr_attr){.flags = flags}), 0);
    CHECK_EQ(cr_spawn_on(&givers[0], 1, hands_over, taker, NULL), 0);
    CHECK_EQ(cr_spawn_on(&givers[1], 2, hands_over, taker, NULL), 0);
    CHECK_EQ(cr_join(givers[0]), 0);
    CHECK_EQ(cr_join(givers[1]), 0);
    CHECK_EQ(cr_join(taker), 0);
}

TEST_SEVERAL(no_unpark_is_lost_between_workers)
{
    race_unparks(0);
    race_unparks(CR_MIGRATABLE);
}
