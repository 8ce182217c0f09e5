/* The runtime's memory as a user sees it: what it holds, what it gives back, and the budget. */
#include <crore/crore.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>

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

/* ---- Deep once ------------------------------------------------------------------------------------------------ */

static char *lowest;

static void goes_deep(void *unused)
{
    volatile char touched[48 << 10];
    (void)unused;
    memset((char *)touched, 1, sizeof(touched));
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(touched[0], 1);
    lowest = (char *)((uintptr_t)touched & ~(uintptr_t)4095);
}

static void stays_shallow(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_yield(), 0);
}

static bool any_there(void)
{
    unsigned char pages[8]; /* of the 12 that were touched */
    CHECK_EQ(mincore(lowest, sizeof(pages) * 4096, pages), 0);
    return memchr(pages, 1, sizeof(pages)) != NULL;
}

static void was_deep_once(void *attr)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, goes_deep, NULL, attr), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK(any_there());
    for (int64_t deadline_ns = cr_after(20000 * CR_MS); any_there() && cr_now() < deadline_ns;) {
        CHECK_EQ(cr_spawn(&co, stays_shallow, NULL, attr), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    }
    CHECK(!any_there());
}

TEST(what_one_deep_coroutine_touched_goes_back_while_shallow_ones_use_its_stack)
{
    SKIP_WITH_THREAD_SANITIZER();
    if (getenv("CR_STACK"))
        SKIP("it names the kinds of stack itself, and is the same for each");
    for (enum cr_stack_kind kind = CR_STACK_STATIC; kind <= CR_STACK_VIRTUAL; kind++) {
        struct cr_attr attr = {.stack = kind};
        CHECK_EQ(cr_run(was_deep_once, &attr, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .freeze_after_ns = -1}), 0);
    }
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

/* ---- What comes home to a worker that sleeps ------------------------------------------------------------------ */

struct frame {
    struct cr_task task;
    char locals[1000];
    int result;
};

static int waits_in_frame(struct cr_task *task)
{
    struct frame *me = (struct frame *)(void *)task;
    CR_TASK_BEGIN(task, waits_in_frame);
    CR_AWAIT(me->result, cr_task_waitgroup_wait(task, &gate, CR_FOREVER));
    CHECK_EQ(me->result, 0);
    return 0;
}

static uint64_t frames_bytes(void)
{
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    return stats.frames_bytes;
}

static void ends_them(void *count)
{
    uint64_t before = frames_bytes();
    CHECK(before > (uintptr_t)count * sizeof(struct frame));
    CHECK_EQ(cr_waitgroup_done(&gate), 0);
    for (int64_t deadline_ns = cr_after(20 * CR_SEC); frames_bytes() > before / 10 && cr_now() < deadline_ns;)
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    CHECK(frames_bytes() <= before / 10);
}

static void spawns_elsewhere(void *unused)
{
    enum { COUNT = 20000 };
    struct frame frame = {.task = CR_TASK(waits_in_frame)};
    struct cr_co *ender;
    (void)unused;
    gate = (struct cr_waitgroup){0};
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(cr_task_spawn_on(NULL, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    CHECK_EQ(cr_spawn_on(&ender, !cr_worker_index(), ends_them, (void *)(uintptr_t)COUNT, NULL), 0);
    CHECK_EQ(cr_join(ender), 0); /* this worker, from whose memory they are, sleeps meanwhile */
}

TEST(frames_of_tasks_that_end_elsewhere_go_back_though_their_worker_sleeps)
{
    CHECK_EQ(cr_run(spawns_elsewhere, NULL, &(struct cr_config){.workers = 2}), 0);
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

static void tasks_keep_to_it(void *unused)
{
    struct frame frame = {.task = CR_TASK(waits_in_frame)};
    (void)unused;
    int expected = BUDGET / (int)(sizeof(frame) + sizeof(struct cr__record));
    for (int round = 0; round < 3; round++) {
        int count = 0, r;
        gate = (struct cr_waitgroup){0};
        CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
        while ((r = cr_task_go(&frame.task, sizeof(frame))) == 0)
            count++;
        CHECK_EQ(r, -ENOMEM);
        CHECK(count > expected * 3 / 4 && count < expected * 5 / 4);
        CHECK_EQ(cr_waitgroup_done(&gate), 0);
        while (frames_bytes() > BUDGET / 10) /* what has ended counts until it has gone back */
            CHECK_EQ(cr_sleep(CR_MS), 0);
    }
}

TEST(at_the_memory_budget_spawning_tasks_fails_too)
{
    CHECK_EQ(cr_run(tasks_keep_to_it, NULL, &(struct cr_config){.workers = 1, .memory_budget_bytes = BUDGET}), 0);
    CHECK_EQ(cr_run(tasks_keep_to_it, NULL, &(struct cr_config){.workers = 3, .memory_budget_bytes = BUDGET}), 0);
}

static void others_keep_to_it(void *unused)
{
    (void)unused;
    int count = spawn_up_to_the_bound();
    CHECK_EQ(cr_go_remote(cr_rt_here(), parks, NULL), -ENOMEM);
    CHECK(count > 0);
    open_gate();
}

TEST(at_the_memory_budget_others_can_spawn_nothing_either)
{
    CHECK_EQ(cr_run(others_keep_to_it, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = BUDGET}), 0);
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

/* What is written to the file, or SKIP; returns what was there. */
static long pool_of_huge_pages(long count)
{
    FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+e");
    long before = 0;
    if (!f || fscanf(f, "%ld", &before) != 1)
        SKIP("the system's pool of huge pages is not ours to fill");
    rewind(f);
    bool set = fprintf(f, "%ld\n", count) > 0 && fflush(f) == 0;
    fclose(f);
    if (!set)
        SKIP("the system's pool of huge pages is not ours to fill");
    return before;
}

/* Of its pages of 2 MiB. */
static long free_huge_pages(void)
{
    FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
    long count = 0;
    if (f) {
        (void)!fscanf(f, "%ld", &count);
        fclose(f);
    }
    return count;
}

static bool dump_says(const char *what)
{
    FILE *f = tmpfile();
    char line[512];
    bool found = false;
    CHECK_EQ(cr_dump(fileno(f)), 0);
    rewind(f);
    while (fgets(line, sizeof(line), f))
        found |= strstr(line, what) != NULL;
    fclose(f);
    return found;
}

static void fills_more_than_the_pool(void *unused)
{
    (void)unused;
    struct cr_mem_stats stats;
    peak(100000); /* records: 12.8 MB */
    cr_mem_stats_get(&stats);
    if (stats.hugetlb_bytes == 0)
        _exit(TEST_SKIPPED); /* another program was faster */
    CHECK(stats.hugetlb_bytes <= 3u << 21);
    CHECK(stats.records_bytes > stats.hugetlb_bytes); /* so what the pool lacked came from elsewhere */
    CHECK(dump_says("huge pages from the system's pool for"));
    open_gate();
}

static void leaves_the_pool_alone(void *unused)
{
    (void)unused;
    struct cr_mem_stats stats;
    peak(100000);
    cr_mem_stats_get(&stats);
    CHECK_EQ(stats.hugetlb_bytes, 0);
    CHECK(dump_says(stats.transparent_bytes > 0 ? "transparent huge pages asked for" : "no huge pages"));
    open_gate();
}

/* Others on this machine may take from the pool, too, and give back: so it is tried some times, and skipped if nothing is left to be had. */
TEST(huge_pages_come_from_the_systems_pool_then_from_where_the_kernel_finds_some)
{
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind does not move pages of the pool");
#ifdef TEST_SANITIZED
    SKIP("a sanitizer's own mappings find the pool's pages in their way");
#endif
    int one_at_a_time = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC);
    if (flock(one_at_a_time, LOCK_EX | LOCK_NB) < 0)
        SKIP("another program does the same just now");
    enum { ATTEMPTS = 20 };
    long before = pool_of_huge_pages(3), there = pool_of_huge_pages(3);
    bool left = false;
    int status = TEST_SKIPPED << 8;
    for (int i = 0; i < ATTEMPTS && there == 3 && WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            _exit(cr_run(fills_more_than_the_pool, NULL, NULL) == 0 ? 0 : 1);
        CHECK(waitpid(child, &status, 0) == child);
        left = free_huge_pages() > 0;
    }
    (void)!pool_of_huge_pages(before);
    if (there != 3 || (!left && WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED))
        SKIP("the system has no three huge pages to spare");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (before == 0)
        CHECK_EQ(cr_run(leaves_the_pool_alone, NULL, NULL), 0);
    close(one_at_a_time);
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
