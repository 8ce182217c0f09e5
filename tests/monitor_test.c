/* The thread that looks at the workers from outside. */
#include <crore/crore.h>
#include <stdatomic.h>

#include "sched/monitor.h"
#include "test.h"

static char text[1 << 14];
static _Atomic long counter;

__attribute__((noinline)) static void burn(int64_t duration_ns)
{
    int64_t end = cr_now() + duration_ns;
    while (cr_now() < end)
        ;
    __asm__ volatile("" ::: "memory");
}

static void is_slow(void *unused)
{
    (void)unused;
    burn(150 * CR_MS);
    atomic_fetch_add(&counter, 1);
}

static void spawns_slow_ones(void *slow)
{
    struct cr_stats stats;
    struct cr_co *co;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cr_spawn(&co, is_slow, NULL, &(struct cr_attr){.name = "slowpoke"}), 0);
        CHECK_EQ(cr_join(co), 0);
    }
    CHECK_EQ(cr_stats_get(&stats), 0);
    *(uint64_t *)slow = stats.slow;
}

static void runs_slow_ones(void)
{
    uint64_t slow = 0;
    CHECK_EQ(cr_run(spawns_slow_ones, &slow, &(struct cr_config){.slow_ns = 30 * CR_MS}), 0);
    uint64_t least = RUNNING_ON_VALGRIND ? 1 : 2; /* the monitor itself may be late on a busy machine */
    _exit(slow >= least && slow <= 3 ? 42 : (int)slow);
}

static int occurrences(const char *what)
{
    int n = 0;
    for (char *at = strstr(text, what); at; at = strstr(at + 1, what))
        n++;
    return n;
}

TEST(a_slow_coroutine_is_counted_each_time_and_told_once)
{
    int status = test_capture(runs_slow_ones, text, sizeof(text));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 42);
    CHECK_STR(text, "\"slowpoke\" in is_slow has run for ");
    CHECK_EQ(occurrences("slowpoke"), 1);
#if defined(CR_TEST_SYMBOLS) && !defined(TEST_SANITIZED)
    if (!RUNNING_ON_VALGRIND && !strstr(text, "(no backtrace")) {
        CHECK_STR(text, "from is_slow+");
        CHECK_STR(text, "burn+");
    }
#endif
}

static void runs_slow_ones_unwatched(void)
{
    uint64_t slow = 0;
    CHECK_EQ(cr_run(spawns_slow_ones, &slow, &(struct cr_config){.workers = 2, .slow_ns = -1}), 0);
    _exit(slow == 0 ? 42 : 1);
}

TEST(a_negative_bound_means_that_nothing_is_slow)
{
    int status = test_capture(runs_slow_ones_unwatched, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_EQ(text[0], '\0');
}

static void yields_for_long(void *slow)
{
    int64_t end = cr_after(100 * CR_MS);
    while (cr_now() < end)
        cr_yield();
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    *(uint64_t *)slow = stats.slow;
}

static const struct cr_config quick = {.workers = 1, .slow_ns = 40 * CR_MS};
static const struct cr_config star = {.workers = 1, .slow_ns = 40 * CR_MS, .policy = CR_POLICY_STAR};

static void run_yielders(const struct cr_config *config)
{
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind runs one thread at a time");
    uint64_t slow = 1;
    for (int i = 0; i < 20 && slow > 0; i++) /* where the system lets it not run for 40 ms, it is slow; if yielding were, it would be each time */
        CHECK_EQ(cr_run(yields_for_long, &slow, config), 0);
    CHECK_EQ(slow, 0);
}

TEST(who_yields_is_not_slow)
{
    run_yielders(&quick);
}

TEST(who_yields_in_a_star_is_not_slow)
{
    run_yielders(&star);
}

static void sleeps_in_the_kernel(void *interrupted)
{
    struct timespec left = {0, 0}, duration = {0, 200 * 1000 * 1000};
    *(int *)interrupted = nanosleep(&duration, &left);
}

static int nanosleep_result = -1;

static void runs_a_sleeper_in_the_kernel(void)
{
    CHECK_EQ(cr_run(sleeps_in_the_kernel, &nanosleep_result, &(struct cr_config){.slow_ns = 30 * CR_MS}), 0);
    _exit(nanosleep_result == 0 ? 42 : 1);
}

TEST(who_blocks_in_a_system_call_is_told_and_the_call_goes_on)
{
    int status = test_capture(runs_a_sleeper_in_the_kernel, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_STR(text, "in sleeps_in_the_kernel has run for");
    CHECK_STR(text, "(no backtrace");
}

static const struct cr_config two = {.workers = 2, .slow_ns = -1};

static void counts(void *unused)
{
    (void)unused;
    atomic_fetch_add(&counter, 1);
}

TEST_CO_CONFIG(what_has_not_started_behind_a_stuck_one_starts_elsewhere, &two)
{
    for (int round = 0; round < 3; round++) {
        counter = 0;
        CHECK_EQ(cr_sleep(20 * CR_MS), 0); /* the other one sleeps now */
        CHECK_EQ(cr_go(counts, NULL), 0);  /* one alone: nobody is woken for it */
        int64_t end = cr_after(5 * CR_SEC);
        while (counter < 1 && cr_now() < end)
            ; /* and we do not suspend */
        CHECK_EQ(counter, 1);
    }
}

static _Atomic(struct cr__worker *) taken_from, taken_by;

static void takes_over(struct cr__worker *here, struct cr__worker *stuck)
{
    CHECK(here == cr__worker_here());
    atomic_store(&taken_by, here);
    atomic_store(&taken_from, stuck);
    atomic_fetch_add(&counter, 1);
}

TEST_CO_CONFIG(an_idle_worker_takes_over_what_a_stuck_one_had, &two)
{
    struct cr__worker *here = cr__worker_here();
    atomic_store(&here->sched->take_over, takes_over);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    int64_t end = cr_after(5 * CR_SEC);
    while (counter == 0 && cr_now() < end)
        ;
    CHECK_EQ(counter, 1);
    CHECK(taken_from == here && taken_by != here && taken_by != NULL);
    burn(50 * CR_MS);
    CHECK_EQ(counter, 1); /* once */
    atomic_store(&here->sched->take_over, NULL);
}

static void idles(void *looks)
{
    struct cr__sched *s = cr__worker_here()->sched;
    CHECK_EQ(cr_sleep(500 * CR_MS), 0); /* it looks less and less often */
    uint64_t before = cr__watch_looks(s);
    CHECK_EQ(cr_sleep(1 * CR_SEC), 0);
    *(uint64_t *)looks = cr__watch_looks(s) - before;
}

TEST(an_idle_runtime_is_looked_at_seldom)
{
    uint64_t looks = 0;
    CHECK_EQ(cr_run(idles, &looks, &(struct cr_config){.workers = 4}), 0);
    CHECK(looks <= 10);
}

static void has_no_monitor(void *unused)
{
    (void)unused;
    CHECK(cr__worker_here()->sched->watch == NULL);
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK_EQ(cr_dump(fd), 0); /* makes one */
    close(fd);
    CHECK(cr__worker_here()->sched->watch != NULL);
}

TEST(there_is_no_monitor_where_nobody_wants_one)
{
    CHECK_EQ(cr_run(has_no_monitor, NULL, &(struct cr_config){.workers = 1, .slow_ns = -1, .flags = CR_NO_SIGQUIT}), 0);
}

static void checks_mask(void *unused)
{
    (void)unused;
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(sigismember(&set, SIGTERM));
    if (cr__probe_signal())
        CHECK(!sigismember(&set, cr__probe_signal()));
}

TEST(only_workers_take_the_signal_that_asks_for_a_backtrace)
{
    sigset_t all, after;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    CHECK_EQ(cr_run(checks_mask, NULL, NULL), 0);
    sigprocmask(SIG_SETMASK, NULL, &after);
    if (cr__probe_signal())
        CHECK(sigismember(&after, cr__probe_signal()));
}

/* ---- Signals while worker 0 is stuck ------------------------------------------------------------------------ */

static void is_killed_while_it_runs(void *unused)
{
    (void)unused;
    kill(getpid(), SIGTERM);
    burn(20 * CR_SEC);
}

static void runs_what_is_killed(void)
{
    (void)!cr_run(is_killed_while_it_runs, NULL, NULL);
    _exit(1);
}

static void runs_what_is_killed_on_one_of_two(void)
{
    (void)!cr_run(is_killed_while_it_runs, NULL, &two);
    _exit(1);
}

TEST(a_signal_ends_a_program_whose_coroutine_never_suspends)
{
    int status = test_capture(runs_what_is_killed, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    status = test_capture(runs_what_is_killed_on_one_of_two, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static _Atomic int handled_on; /* its worker, and one */

static void on_usr1(int number)
{
    (void)number;
    handled_on = cr_worker_index() + 1;
}

static void is_sent_a_signal(void *unused)
{
    int64_t end = cr_after(10 * CR_SEC);
    (void)unused;
    kill(getpid(), SIGUSR1);
    while (handled_on == 0 && cr_now() < end)
        ;
    CHECK_EQ(handled_on, 2);
}

TEST_CO_CONFIG(a_handler_runs_on_another_worker_while_the_first_is_stuck, &two)
{
    struct cr_co *co;
    CHECK(signal(SIGUSR1, on_usr1) != SIG_ERR);
    CHECK_EQ(cr_spawn_on(&co, 0, is_sent_a_signal, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
}
