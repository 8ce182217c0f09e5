/* What a runtime tells of its coroutines: by cr_dump, at SIGQUIT, and when nothing can run any more. */
#include <crore/crore.h>
#include <pthread.h>
#include <stdatomic.h>

#include "sched/sched.h"
#include "test.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_LATE_SIGNALS 1
#endif
#endif

#define WORKERS 4

static const struct cr_config several = {.workers = WORKERS, .slow_ns = -1};

static char text[1 << 16];
static _Atomic long counter;
static _Atomic bool over;

/* Into `text`, by a file: it may be more than a pipe holds. */
static void dump(void)
{
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK_EQ(cr_dump(fileno(file)), 0);
    size_t n = (size_t)pread(fileno(file), text, sizeof(text) - 1, 0);
    CHECK(n > 0 && n < sizeof(text));
    text[n] = '\0';
    fclose(file);
}

/* How many coroutines the groups add up to. */
static long total(void)
{
    long sum = 0, n;
    char *at = strchr(text, '\n');
    for (; at; at = strchr(at + 1, '\n')) {
        if (sscanf(at + 1, "  %ld", &n) == 1 && at[3] != ' ')
            sum += n;
        else if (sscanf(at + 1, "  and %ld in other", &n) == 1)
            sum += n;
    }
    return sum;
}

static long live(void)
{
    long n = 0;
    CHECK_EQ(sscanf(text, "crore: %ld coroutine", &n), 1);
    return n;
}

/* Whether a line that begins like this one, after a number, also contains the other text. */
#define CHECK_GROUP(begins, contains) CHECK(group_has(begins, contains))
static bool group_has(const char *begins, const char *contains)
{
    char line[1024];
    for (char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
        if (strstr(line, begins) && strstr(line, contains))
            return true;
    }
    printf("# no '%s' with '%s' in:\n# %s\n", begins, contains, text);
    return false;
}

#if defined(CR_TEST_SYMBOLS) && defined(__x86_64__)
#define CHECK_FRAMES(part) CHECK_STR(text, part)
#else
#define CHECK_FRAMES(part) (void)0
#endif

/* ---- One for each kind of wait ------------------------------------------------------------------------------ */

__attribute__((noinline)) static int deep_inside(int64_t deadline_ns)
{
    int r = cr_sleep_until(deadline_ns);
    __asm__ volatile("" ::: "memory"); /* no tail call */
    return r;
}

static void sleeps(void *unused)
{
    (void)unused;
    (void)!deep_inside(cr_after(1000 * CR_SEC));
    atomic_fetch_add(&counter, 1);
}

TEST_CO(sleepers_are_told_with_their_number_their_deadline_and_where_they_sleep)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, sleeps, NULL, &(struct cr_attr){.name = "the sleeper"}), 0);
    cr_yield();
    dump();
    CHECK_STR(text, "crore: 2 coroutines on 1 worker");
    CHECK_GROUP("1 in sleeps waits for a point in time", " s, with a deadline; coroutine 2 \"the sleeper\"");
    CHECK_FRAMES("deep_inside");
    CHECK_FRAMES("from sleeps+");
    CHECK_GROUP("waits for a blocking call on another thread", "coroutine 1"); /* who asked */
    CHECK_EQ(total(), live());
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
}

static void joins(void *co)
{
    CHECK_EQ(cr_join(co), 0);
}

TEST_CO(a_joiner_is_told_with_whom_it_joins)
{
    struct cr_co *co, *joiner;
    CHECK_EQ(cr_spawn(&co, sleeps, NULL, NULL), 0);
    CHECK_EQ(cr_spawn(&joiner, joins, co, NULL), 0);
    cr_yield();
    dump();
    CHECK_GROUP("1 in joins waits for the end of another coroutine", "(coroutine 2)");
    CHECK_FRAMES("cr_join");
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(joiner), 0);
}

static void reads(void *conn)
{
    char byte;
    CHECK_EQ(cr_read(conn, &byte, 1), -ECANCELED);
}

TEST_CO(a_reader_is_told_with_its_fd)
{
    int ends[2];
    struct cr_conn *conn;
    struct cr_co *co;
    char fd[32];
    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    CHECK_EQ(cr_conn_from_fd(&conn, ends[0]), 0);
    CHECK_EQ(cr_spawn(&co, reads, conn, NULL), 0);
    cr_yield();
    dump();
    snprintf(fd, sizeof(fd), "(fd %d)", ends[0]);
    CHECK_GROUP("1 in reads waits for something to read", fd);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_close(conn);
    close(ends[1]);
}

TEST_CO_CONFIG(who_waits_for_a_stack_is_told, &((struct cr_config){.stack = test_stacks_are("shared") ? CR_STACK_STATIC : CR_STACK_DEFAULT, .max_stacks_bytes = (size_t)1 << 20}))
{
    enum { MANY = 100 };
    struct cr_co *co[MANY];
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_spawn(&co[i], sleeps, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    dump();
    CHECK_STR(text, "in sleeps wait for a stack");
    CHECK_STR(text, "in sleeps wait for a point in time");
    CHECK_EQ(live(), MANY + 1);
    CHECK_EQ(total(), live());
    for (int i = 0; i < MANY; i++)
        cr_cancel(co[i]);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_join(co[i]), 0);
}

static void yields(void *unused)
{
    (void)unused;
    while (!over)
        cr_yield();
}

static void *sleeps_inside(void *unused)
{
    (void)unused;
    (void)!deep_inside(cr_after(1000 * CR_SEC));
    return NULL;
}

static void resumes(void *unused)
{
    struct cr_co *bare;
    (void)unused;
    CHECK_EQ(cr_co_create(&bare, sleeps_inside, NULL), 0);
    CHECK_EQ(cr_co_resume(bare, NULL), 1);
    CHECK_EQ(cr_co_destroy(bare), 0);
}

TEST_CO(ready_ones_are_told_and_those_parked_in_a_bare_one)
{
    struct cr_co *co;
    CHECK_EQ(cr_go(yields, NULL), 0);
    CHECK_EQ(cr_spawn(&co, resumes, NULL, NULL), 0);
    cr_yield();
    dump();
    CHECK_GROUP("1 in yields is ready", "coroutine 2");
    CHECK_FRAMES("from yields+");
    CHECK_GROUP("1 in resumes waits for a point in time", "coroutine 3");
    CHECK_STR(text, "in a bare coroutine that runs sleeps_inside");
    CHECK_FRAMES("from sleeps_inside+");
    over = true;
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
}

/* ---- Locks -------------------------------------------------------------------------------------------------- */

static struct cr_mutex mutex;
static struct cr_rwlock rwlock;

static void locks(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&mutex), -ECANCELED);
}

TEST_CO(who_waits_for_a_mutex_is_told_with_who_holds_it)
{
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_go(locks, NULL), 0);
    CHECK_EQ(cr_go(locks, NULL), 0);
    cr_yield();
    dump();
    CHECK_GROUP("2 in locks wait for a mutex (at ", "held by coroutine 1)");
    cr_shutdown();
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

static struct cr_once once;
static _Atomic int holding;

static void wait_for_the_other(void)
{
    holding++;
    while (holding < 2)
        CHECK_EQ(cr_sleep(100 * CR_US), 0);
}

/* Who is cancelled first gives back what the other one waits for, who may get it before it is cancelled. */
static bool got(int r)
{
    CHECK(r == 0 || r == -ECANCELED);
    return r == 0;
}

static void locks_inside(void *unused)
{
    (void)unused;
    wait_for_the_other();
    if (got(cr_mutex_lock(&mutex)))
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

static void runs_once(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_once(&once, locks_inside, NULL), 0);
}

static void locks_then_waits_for_once(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    wait_for_the_other();
    got(cr_once(&once, locks_inside, NULL));
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

TEST_CO_CONFIG(a_circle_of_different_things_is_told, &several)
{
    CHECK_EQ(cr_go(runs_once, NULL), 0);
    CHECK_EQ(cr_go(locks_then_waits_for_once, NULL), 0);
    CHECK_EQ(cr_sleep(50 * CR_MS), 0);
    dump();
    CHECK_STR(text, "deadlock: 2 coroutines wait for each other");
    CHECK_GROUP("in runs_once waits for a mutex at ", "that coroutine");
    CHECK_GROUP("in locks_then_waits_for_once waits for another one's cr_once at ", "that coroutine");
    cr_shutdown();
}

static void reads_until_cancelled(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_sleep(3600 * CR_SEC), -ECANCELED);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

static void waits_to_write(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), -ECANCELED);
}

TEST_CO(who_waits_to_write_is_told_with_the_readers)
{
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_go(reads_until_cancelled, NULL), 0);
    cr_yield();
    CHECK_EQ(cr_go(waits_to_write, NULL), 0);
    cr_yield();
    dump();
    CHECK_GROUP("1 in waits_to_write waits for a readers-writer lock, to write (at ", " and 2 more)");
    cr_shutdown();
}

/* ---- Many --------------------------------------------------------------------------------------------------- */

TEST_CO(those_at_the_same_place_are_one_group)
{
    enum { MANY = 2000 };
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_go(sleeps, NULL), 0);
    do {
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
        dump();
        CHECK_EQ(live(), MANY + 1);
        CHECK_EQ(total(), live());
    } while (strstr(text, "started"));
    CHECK_GROUP("2000 in sleeps wait for a point in time", "all with a deadline; one is coroutine ");
    cr_shutdown();
}

/* Each with another depth of stack, so that no two have the same backtrace, nor the same frames. */
static void digs(void *depth)
{
    if ((intptr_t)depth > 0) {
        digs((void *)((intptr_t)depth - 1));
        __asm__ volatile("" ::: "memory");
        return;
    }
    (void)!deep_inside(cr_after(1000 * CR_SEC));
}

TEST_CO(groups_are_bounded_and_the_rest_is_counted)
{
    for (intptr_t i = 0; i < 400; i++)
        CHECK_EQ(cr_go(digs, (void *)i), 0);
    cr_yield();
    dump();
    CHECK_EQ(live(), 401);
    CHECK_EQ(total(), 401);
    cr_shutdown();
}

static _Atomic int begun;

static void lives_shortly(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++) {
        cr_yield();
        if (cr_sleep(i * 50 * CR_US) < 0)
            break;
    }
    atomic_fetch_add(&counter, 1);
}

static void lives_on(void *unused)
{
    (void)unused;
    while (!over) {
        cr_yield();
        if (cr_sleep(100 * CR_US) < 0)
            return;
    }
}

static void spawns(void *unused)
{
    struct cr_attr wanders = {.flags = CR_MIGRATABLE, .name = "wanderer"};
    (void)unused;
    while (!over) {
        if (begun - counter > 2000 && cr_sleep(CR_MS) == 0) /* not more than can be told of */
            continue;
        for (int i = 0; i < 20; i++) {
            begun += 3;
            struct cr_co *co;
            CHECK_EQ(cr_go(lives_shortly, NULL), 0);
            CHECK_EQ(cr_spawn(NULL, lives_shortly, NULL, &wanders), 0);
            CHECK_EQ(cr_spawn(&co, lives_shortly, NULL, NULL), 0);
            if (cr_join(co) < 0)
                cr_detach(co);
        }
    }
}

TEST_CO_CONFIG(while_coroutines_run_and_end_on_all_workers, &several)
{
    struct cr_attr wanders = {.flags = CR_MIGRATABLE};
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(cr_go(lives_on, NULL), 0);
        CHECK_EQ(cr_spawn(NULL, lives_on, NULL, &wanders), 0);
        CHECK_EQ(cr_go(sleeps, NULL), 0);
    }
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_go(spawns, NULL), 0);
    for (int i = 0; i < 30; i++) {
        dump();
        CHECK_EQ(total(), live());
        if (live() < 600) /* a machine that is very busy */
            CHECK_STR(text, "does not answer");
        CHECK_STR(text, " in lives_on ");
    }
    over = true;
    cr_shutdown();
}

TEST_CO_CONFIG(what_was_spawned_here_and_waits_there_is_looked_at_there, &several)
{
    enum { MANY = 3000 };
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_go_on((unsigned)i % WORKERS, sleeps, NULL), 0);
    do {
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
        dump();
    } while (!strstr(text, "3000 in sleeps wait for a point in time"));
    CHECK_EQ(total(), live());
    CHECK_FRAMES("deep_inside");
    cr_shutdown();
}

/* ---- From elsewhere ----------------------------------------------------------------------------------------- */

static void sleeps_three(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_go(sleeps, NULL), 0);
    CHECK_EQ(cr_sleep(1 * CR_MS), 0);
    atomic_store(&over, true);
    (void)!cr_sleep_until(CR_FOREVER);
}

TEST(from_any_thread_of_the_program)
{
    struct cr_rt *rt, *other;
    CHECK_EQ(cr_dump(STDERR_FILENO), -ESRCH);
    CHECK_EQ(cr_rt_create(&rt, &several), 0);
    CHECK_EQ(cr_rt_create(&other, &(struct cr_config){.workers = 1, .slow_ns = -1, .flags = CR_NO_SIGQUIT}), 0);
    CHECK_EQ(cr_rt_start(rt, sleeps_three, NULL), 0);
    while (!over)
        usleep(1000);
    over = false;
    CHECK_EQ(cr_rt_start(other, sleeps_three, NULL), 0);
    while (!over)
        usleep(1000);
    dump();
    CHECK_STR(text, "4 coroutines on 4 workers");
    CHECK_STR(text, "4 coroutines on 1 worker");
    CHECK_STR(text, "3 in sleeps");
    CHECK_EQ(cr_dump(-1), -EBADF);
    CHECK_EQ(cr_rt_stop(rt), 0);
    CHECK_EQ(cr_rt_stop(other), 0);
    cr_rt_destroy(rt);
    cr_rt_destroy(other);
}

static void *dumps_on(void *unused)
{
    (void)unused;
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    while (!over) {
        int r = cr_dump(fd);
        CHECK(r == 0 || r == -ESRCH);
    }
    close(fd);
    return NULL;
}

static void sleeps_a_little(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_go(lives_shortly, NULL), 0);
    (void)!cr_sleep(200 * CR_US);
}

TEST(runtimes_may_end_while_a_dump_is_under_way)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, dumps_on, NULL), 0);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_run(sleeps_a_little, NULL, i % 2 ? &several : NULL), 0);
    over = true;
    pthread_join(thread, NULL);
}

TEST_CO(a_cancelled_coroutine_does_not_wait_for_its_dump)
{
    CHECK_EQ(cr_shutdown(), 0);
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK_EQ(cr_dump(fd), -ECANCELED);
    close(fd);
}

TEST_CO(a_pipe_that_nobody_reads_keeps_nobody_from_ending)
{
    int ends[2];
    struct cr_co *co;
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
    char full[4096] = "";
    CHECK_EQ(write(ends[1], full, sizeof(full)), 4096);
    CHECK_EQ(cr_spawn(&co, (void (*)(void *))(uintptr_t)cr_dump, (void *)(intptr_t)ends[1], NULL), 0);
    cr_yield();
    CHECK_EQ(cr_detach(co), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_shutdown();
}

static void kills_itself(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_go(sleeps, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    kill(getpid(), SIGQUIT);
    CHECK_EQ(cr_sleep(300 * CR_MS), 0);
    cr_shutdown();
}

static void runs_and_quits(void)
{
    _exit(cr_run(kills_itself, NULL, NULL) == 0 ? 42 : 1);
}

TEST(sigquit_has_a_dump_written_and_ends_nothing)
{
    int status = test_capture(runs_and_quits, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_STR(text, "crore: 2 coroutines on 1 worker");
    CHECK_STR(text, "1 in sleeps waits for a point in time");
}

static void kills_and_spins(void *unused)
{
    (void)unused;
    kill(getpid(), SIGQUIT);
    int64_t end = cr_after(1500 * CR_MS);
    while (cr_now() < end)
        ;
}

static void spins_and_quits(void)
{
    _exit(cr_run(kills_and_spins, NULL, &(struct cr_config){.slow_ns = -1}) == 0 ? 42 : 1);
}

TEST(sigquit_tells_of_a_coroutine_that_never_suspends)
{
#ifdef TEST_LATE_SIGNALS
    SKIP("ThreadSanitizer calls a handler when its thread does something else");
#endif
    int status = test_capture(spins_and_quits, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_STR(text, "worker 0 does not answer: it has been running coroutine 1 in kills_and_spins for ");
    CHECK_STR(text, "and about 1 more that only those workers know which do not answer");
}

static void quits_by_default(void)
{
    (void)!cr_run(kills_itself, NULL, &(struct cr_config){.flags = CR_NO_SIGQUIT});
}

static volatile sig_atomic_t caught;

static void catches(int number)
{
    (void)number;
    caught++;
}

static void quits_by_a_handler(void)
{
    signal(SIGQUIT, catches);
    int r = cr_run(kills_itself, NULL, NULL);
    _exit(r == 0 && caught == 1 ? 42 : 1);
}

TEST(sigquit_is_the_programs_where_it_says_so)
{
    int status = test_capture(quits_by_default, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT);
    status = test_capture(quits_by_a_handler, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK(!strstr(text, "coroutines on ")); /* a dump; with CR_STACK_CENSUS there is something else to be read */
    CHECK_EQ(cr_run(sleeps_a_little, NULL, NULL), 0);
    struct sigaction present;
    CHECK_EQ(sigaction(SIGQUIT, NULL, &present), 0);
    CHECK(present.sa_handler == SIG_DFL);
}

/* ---- A worker that does not answer -------------------------------------------------------------------------- */

static _Atomic int spinning = -1;

static void spins(void *unused)
{
    (void)unused;
    spinning = cr_worker_index();
    while (!over)
        (void)cr_now();
}

TEST_CO_CONFIG(a_worker_that_does_not_answer_is_named_with_what_it_runs, &several)
{
    char expected[128];
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_go_on((unsigned)i % WORKERS, sleeps, NULL), 0);
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    unsigned other = ((unsigned)cr_worker_index() + 1) % WORKERS;
    CHECK_EQ(cr_spawn_on(NULL, other, spins, NULL, &(struct cr_attr){.name = "the spinner"}), 0);
    while (spinning < 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    dump();
    over = true;
    snprintf(expected, sizeof(expected), "worker %u does not answer: it has been running coroutine ", other);
    CHECK_GROUP(expected, "\"the spinner\" in spins for ");
    CHECK_STR(text, "in sleeps wait for a point in time");
#if defined(CR_TEST_SYMBOLS) && !defined(__SANITIZE_THREAD__)
    if (!RUNNING_ON_VALGRIND && !strstr(text, "(no backtrace"))
        CHECK_STR(text, " spins+"); /* in it, or in what it calls */
#endif
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_shutdown();
}

/* ---- Nothing can run any more, and circles ------------------------------------------------------------------ */

static struct cr_co *first, *second;

static void joins_the_other(void *which)
{
    (void)!cr_join(*(struct cr_co **)which);
    __asm__ volatile("" ::: "memory");
}

static void joins_in_a_circle(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_spawn(&first, joins_the_other, &second, &(struct cr_attr){.name = "first"}), 0);
    CHECK_EQ(cr_spawn(&second, joins_the_other, &first, NULL), 0);
}

static void ends_in_a_circle(void)
{
    _exit(cr_run(joins_in_a_circle, NULL, NULL) == -EDEADLK ? 42 : 1);
}

TEST(when_nothing_can_run_any_more_the_circle_is_told_with_backtraces)
{
    int status = test_capture(ends_in_a_circle, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_STR(text, "nothing can ever run again: 2 coroutines parked");
    CHECK_STR(text, "deadlock: 2 coroutines wait for each other");
    CHECK_STR(text, "coroutine 2 \"first\" in joins_the_other waits for the end of another coroutine, coroutine 3");
    CHECK_STR(text, "coroutine 3 in joins_the_other waits for the end of another coroutine, coroutine 2");
    CHECK_FRAMES("in cr_join_until");
    CHECK_FRAMES("joins_the_other+");
}

TEST_CO_CONFIG(a_circle_is_told_while_others_run, &several)
{
    joins_in_a_circle(NULL);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    dump();
    CHECK_STR(text, "deadlock: 2 coroutines wait for each other");
    CHECK(!strstr(text, "until a deadline"));
    cr_shutdown();
}

static bool holder_of_it(const struct cr__record *waits, struct cr__holder *out)
{
    (void)waits;
    *out = (struct cr__holder){.id = 1};
    return true;
}

static void describes_it(const struct cr__record *waits, char *out, size_t size_bytes)
{
    (void)waits;
    snprintf(out, size_bytes, "barrier nine");
}

static const struct cr__wait_ops made_up = {holder_of_it, describes_it};

static void waits_for_it(void *object)
{
    struct cr__worker *w = cr__worker_here();
    struct cr__record *me = cr__running(&w);
    CHECK_EQ(cr__wait_begin(w, me, CR__WAIT_BARRIER, object, CR_FOREVER), 0);
    CHECK_EQ(cr__wait_suspend(w, me, CR_FOREVER), -ECANCELED);
}

TEST_CO(rooms_above_say_who_holds_what)
{
    cr__holder_of(CR__WAIT_BARRIER, &made_up);
    CHECK_EQ(cr_go(waits_for_it, text), 0);
    CHECK_EQ(cr_go(waits_for_it, NULL), 0);
    cr_yield();
    dump();
    CHECK_GROUP("2 in waits_for_it wait for others at a barrier", "(barrier nine, held by coroutine 1, and others)");
    cr_shutdown();
}
