/* The runtime's memory as a user sees it: what it holds, what it gives back, and the budget. */
#include <crore/crore.h>

#include "mem/mem.h"
#include "sched/budget.h"
#include "test.h"

#define MIB ((size_t)1 << 20)

#ifdef CR__ASAN
#define SHADOWED 1 /* shadow memory stays */
#else
#define SHADOWED 0
#endif

static size_t resident_bytes(void)
{
    unsigned long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu %lu", &size, &resident) == 2);
    fclose(f);
    return resident * 4096 + cr__mem_pages_bytes(CR__PAGES_HUGETLB);
}

static _Atomic int parked;
static struct cr_waitgroup gate;

static void parks(void *unused)
{
    (void)unused;
    volatile char touched[3000];
    memset((char *)touched, 1, sizeof(touched));
    parked++;
    CHECK_EQ(cr_waitgroup_wait(&gate), 0);
    CHECK_EQ(touched[2999], 1);
    parked--;
}

/* All of them parked at once. */
static void peak(int count)
{
    gate = (struct cr_waitgroup){0};
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(cr_go(parks, NULL), 0);
        if (i % 256 == 0)
            cr_yield();
    }
    while (parked < count)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static void open_gate(void)
{
    CHECK_EQ(cr_waitgroup_done(&gate), 0);
    while (parked > 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
}

#define PEAK 20000

static void rises_and_falls(void *unused)
{
    (void)unused;
    size_t before = resident_bytes();
    peak(PEAK);
    size_t top = resident_bytes() - before;
    CHECK(top > PEAK * (size_t)(test_stacks_are("shared") ? 200 : 4096));
    open_gate();
    int64_t deadline_ns = cr_after(20000 * CR_MS);
    while (resident_bytes() > before + top / (SHADOWED ? 1 : 10) && cr_now() < deadline_ns)
        CHECK_EQ(cr_sleep(100 * CR_MS), 0);
    CHECK(cr_now() < deadline_ns);
}

TEST(memory_goes_back_to_the_system_after_a_peak_by_itself)
{
    SKIP_WITH_THREAD_SANITIZER();
    SKIP_WHILE_FREEZING();
    CHECK_EQ(cr_run(rises_and_falls, NULL, &(struct cr_config){.workers = 1}), 0);
}

TEST(so_it_does_with_several_workers)
{
    SKIP_WITH_THREAD_SANITIZER();
    SKIP_WHILE_FREEZING();
    CHECK_EQ(cr_run(rises_and_falls, NULL, &(struct cr_config){.workers = 3}), 0);
}

static void trims(void *unused)
{
    (void)unused;
    size_t before = resident_bytes();
    peak(PEAK);
    size_t top = resident_bytes() - before;
    open_gate();
    cr_mem_trim();
    CHECK(resident_bytes() < before + top / (SHADOWED ? 1 : 10));
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    CHECK(stats.spare_bytes <= CR__MEM_KINDS * CR__DEPOT_KEPT * CR__CHUNK_BYTES);
    CHECK(stats.records_bytes <= MIB);
    peak(1000);
    open_gate();
}

TEST(memory_goes_back_at_once_when_it_is_told_to)
{
    SKIP_WITH_THREAD_SANITIZER();
    SKIP_WHILE_FREEZING();
    CHECK_EQ(cr_run(trims, NULL, &(struct cr_config){.workers = 1}), 0);
}

static void comes_and_goes(void *unused)
{
    (void)unused;
    struct cr_mem_stats before, after;
    for (int64_t end_ns = cr_after(300 * CR_MS); cr_now() < end_ns;) {
        peak(5000);
        open_gate();
    }
    cr_mem_stats_get(&before);
    int rounds = 0;
    for (int64_t end_ns = cr_after(1500 * CR_MS); cr_now() < end_ns; rounds++) {
        peak(5000);
        open_gate();
    }
    cr_mem_stats_get(&after);
    CHECK(rounds > 0);
    CHECK_EQ(after.kernel_calls, before.kernel_calls);
}

TEST(a_steady_load_makes_no_kernel_calls_for_memory)
{
    SKIP_WITH_THREAD_SANITIZER();
    SKIP_WHILE_FREEZING();
    CHECK_EQ(cr_run(comes_and_goes, NULL, &(struct cr_config){.workers = 1}), 0);
}

/* ---- The budget --------------------------------------------------------------------------------------------- */

/* With static stacks: those of the other kinds, once parked, take less than they count for before they have started (stacks_test.c). */
#define BUDGET (64 * MIB)

static int spawn_up_to_the_bound(void)
{
    int count = 0, r;
    gate = (struct cr_waitgroup){0};
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    while ((r = cr_go(parks, NULL)) == 0)
        count++;
    CHECK_EQ(r, -ENOMEM);
    while (parked < count)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    return count;
}

static void keeps_to_it(void *unused)
{
    (void)unused;
    int expected = BUDGET / (CR__BUDGET_STACK_BYTES + (int)sizeof(struct cr__record));
    for (int round = 0; round < 3; round++) {
        int count = spawn_up_to_the_bound();
        CHECK(count > expected * 3 / 4 && count < expected + 200);
        CHECK_EQ(cr_go(parks, NULL), -ENOMEM); /* parked or not started: they count the same */
        struct cr_co *co = NULL;
        CHECK_EQ(cr_spawn(&co, parks, NULL, NULL), -ENOMEM);
        CHECK(co == NULL);
        open_gate();
    }
}

TEST(at_the_memory_budget_spawning_fails_and_what_was_spawned_runs)
{
    CHECK_EQ(cr_run(keeps_to_it, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = BUDGET}), 0);
    CHECK_EQ(cr_run(keeps_to_it, NULL, &(struct cr_config){.workers = 3, .stack = CR_STACK_STATIC, .memory_budget_bytes = BUDGET}), 0);
}

TEST(a_budget_that_is_too_small_for_the_first_coroutine_is_an_error)
{
    CHECK_EQ(cr_run(keeps_to_it, NULL, &(struct cr_config){.memory_budget_bytes = 1000}), -ENOMEM);
}

static void accepts_within_it(void *unused)
{
    (void)unused;
    struct cr_listener *l;
    struct cr_conn *client, *server;
    char where[64];
    CHECK_EQ(cr_listen(&l, "tcp://127.0.0.1:0", NULL), 0);
    CHECK(cr_listener_url(l, where, sizeof(where)) > 0);
    CHECK_EQ(cr_dial(&client, where, NULL), 0);
    spawn_up_to_the_bound();
    CHECK_EQ(cr_accept(l, &server), -ENOMEM);
    CHECK_EQ(cr_accept(l, &server), -ENOMEM);
    open_gate();
    CHECK_EQ(cr_accept(l, &server), 0); /* nothing was lost */
    cr_close(server);
    cr_close(client);
    cr_listener_close(l);
}

TEST(at_the_budget_connections_stay_in_the_backlog)
{
    CHECK_EQ(cr_run(accepts_within_it, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = BUDGET}), 0);
}

static _Atomic int sessions, pauses;

static void session(struct cr_conn *conn, void *arg)
{
    (void)arg;
    sessions++;
    cr_close(conn);
}

static void paused(void *arg, int why)
{
    (void)arg;
    CHECK(why == 0 || why == -ENOMEM);
    pauses += why < 0;
}

static void serves_within_it(void *unused)
{
    (void)unused;
    struct cr_server *server;
    struct cr_conn *client;
    char where[64];
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", session, NULL, &(struct cr_serve_opts){.paused = paused}), 0);
    CHECK(cr_server_url(server, where, sizeof(where)) > 0);
    CHECK_EQ(cr_dial(&client, where, NULL), 0);
    while (sessions < 1)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_close(client);
    spawn_up_to_the_bound();
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cr_dial(&client, where, NULL), 0);
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
        cr_close(client);
    }
    CHECK(sessions <= 2); /* the acceptor may have been waiting in accept when the bound was reached */
    open_gate();
    while (sessions < 4)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(pauses > 0);
    CHECK_EQ(cr_server_close(server), 0);
}

TEST(a_server_at_the_budget_pauses_and_goes_on)
{
    CHECK_EQ(cr_run(serves_within_it, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = BUDGET}), 0);
}

/* ---- What is told ------------------------------------------------------------------------------------------- */

static void tells(void *unused)
{
    (void)unused;
    struct cr_mem_stats stats;
    peak(20000);
    cr_mem_stats_get(&stats);
    CHECK(stats.records_bytes >= 20000 * sizeof(struct cr__record));
    CHECK(stats.stacks_bytes > stats.records_bytes);
    CHECK(stats.page_tables_bytes > 0);
    FILE *f = tmpfile();
    char line[512];
    bool found = false;
    CHECK_EQ(cr_dump(fileno(f)), 0);
    rewind(f);
    while (fgets(line, sizeof(line), f))
        found |= strstr(line, "memory in MiB: records ") && strstr(line, "page tables ") && strstr(line, "huge pages");
    CHECK(found);
    fclose(f);
    open_gate();
}

TEST(statistics_and_dump_tell_of_memory_by_kind)
{
    CHECK_EQ(cr_run(tells, NULL, NULL), 0);
}

/* ---- Shared stacks and the budget ---------------------------------------------------------------------------- */

static void ends_at_once(void *unused)
{
    (void)unused;
}

static void spawns_shared_ones_for_long(void *unused)
{
    struct cr_co *co;
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        CHECK_EQ(cr_spawn(&co, ends_at_once, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED}), 0);
        CHECK_EQ(cr_join(co), 0);
    }
}

TEST(those_on_shared_stacks_that_have_ended_take_nothing_of_a_budget)
{
    CHECK_EQ(cr_run(spawns_shared_ones_for_long, NULL, &(struct cr_config){.memory_budget_bytes = 16 << 20}), 0);
}
