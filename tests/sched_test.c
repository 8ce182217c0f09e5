/* The scheduler, by behaviour: order, waiting, ending, and what it says when it can't go on. */
#include <crore/crore.h>
#include <fenv.h>
#include <pthread.h>

#include "test.h"

static char trace[256];

static void note(const char *what)
{
    strncat(trace, what, sizeof(trace) - strlen(trace) - 1);
}

static void says(void *what)
{
    note(what);
    cr_yield();
    note(what);
}

static void check_order(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_go(says, "a"), 0);
    CHECK_EQ(cr_go(says, "b"), 0);
    CHECK_EQ(cr_go(says, "c"), 0);
    note("0");
}

TEST(coroutines_take_turns_in_the_order_in_which_they_became_ready)
{
    SKIP_UNDER_SEED();
    CHECK_EQ(cr_run(check_order, NULL, NULL), 0);
    CHECK(strcmp(trace, "0abcabc") == 0);
}

TEST(star_keeps_the_same_order)
{
    SKIP_UNDER_SEED();
    CHECK_EQ(cr_run(check_order, NULL, &(struct cr_config){.policy = CR_POLICY_STAR}), 0);
    CHECK(strcmp(trace, "0abcabc") == 0);
}

TEST(outside_a_coroutine_calls_are_refused)
{
    struct cr_co *co = NULL;
    struct cr_conn *conn;
    struct cr_listener *l;
    CHECK_EQ(cr_yield(), -EPERM);
    CHECK_EQ(cr_sleep(1), -EPERM);
    CHECK_EQ(cr_go(says, "x"), -EPERM);
    CHECK_EQ(cr_spawn(&co, says, "x", NULL), -EPERM);
    CHECK_EQ(cr_join(co), -EPERM);
    CHECK_EQ(cr_detach(co), -EPERM);
    CHECK_EQ(cr_cancel(co), -EPERM);
    CHECK_EQ(cr_park(), -EPERM);
    CHECK_EQ(cr_unpark(co), -EPERM);
    CHECK_EQ(cr_shutdown(), -EPERM);
    CHECK_EQ(cr_dial(&conn, "tcp://127.0.0.1:1", NULL), -EPERM);
    CHECK_EQ(cr_listen(&l, "tcp://127.0.0.1:0", NULL), -EPERM);
    CHECK_EQ(cr_conn_from_fd(&conn, 0), -EPERM);
    struct cr_addr addr;
    CHECK_EQ(cr_resolve("127.0.0.1", 1, &addr, 1), -EPERM);
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), -EPERM);
}

TEST(configurations_that_make_no_sense_are_refused)
{
    CHECK_EQ(cr_run(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(cr_run(check_order, NULL, &(struct cr_config){.workers = CR_WORKERS_MAX + 1}), -EINVAL);
    CHECK_EQ(cr_run(check_order, NULL, &(struct cr_config){.policy = 9}), -EINVAL);
    CHECK_EQ(cr_run(check_order, NULL, &(struct cr_config){.stack_size_bytes = SIZE_MAX}), -EINVAL);
    CHECK_EQ(cr_run(check_order, NULL, &(struct cr_config){.guard_size_bytes = 100}), -EINVAL);
}

TEST_CO(a_runtime_within_a_runtime_is_refused)
{
    CHECK_EQ(cr_run(check_order, NULL, NULL), -EBUSY);
}

static void sleeps(void *arg)
{
    int64_t duration = (intptr_t)arg, before = cr_now();
    CHECK_EQ(cr_sleep(duration), 0);
    CHECK(cr_now() - before >= duration);
    note(duration > 15 * CR_MS ? "z" : "y");
}

TEST_CO(sleepers_wake_in_the_order_of_their_deadlines_and_never_early)
{
    CHECK_EQ(cr_go(sleeps, (void *)(intptr_t)(20 * CR_MS)), 0);
    CHECK_EQ(cr_go(sleeps, (void *)(intptr_t)(2 * CR_MS)), 0);
    CHECK_EQ(cr_sleep(40 * CR_MS), 0);
    CHECK(strcmp(trace, "yz") == 0);
    CHECK_EQ(cr_sleep(0), 0);
    CHECK_EQ(cr_sleep(-5), 0);
    CHECK_EQ(cr_sleep_until(0), 0);
}

static void spins(void *done)
{
    while (!*(bool *)done)
        cr_yield();
}

TEST_CO(timers_fire_while_others_keep_the_worker_busy)
{
    static bool done;
    CHECK_EQ(cr_go(spins, &done), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    done = true;
    cr_yield();
}

TEST_CO(join_waits_for_the_end)
{
    struct cr_co *a, *b;
    CHECK_EQ(cr_spawn(&a, sleeps, (void *)(intptr_t)(5 * CR_MS), NULL), 0);
    CHECK_EQ(cr_spawn(&b, says, "b", NULL), 0);
    CHECK_EQ(cr_co_status(a), CR_CO_SCHEDULED);
    CHECK_EQ(cr_join(a), 0);
    CHECK(strcmp(trace, "bby") == 0);
    CHECK_EQ(cr_co_status(b), CR_CO_ENDED);
    CHECK_EQ(cr_join(b), 0); /* had ended long before */
}

static void joins(void *co)
{
    CHECK_EQ(cr_join(co), -EBUSY);
}

TEST_CO(join_refuses_oneself_and_a_second_joiner_and_times_out)
{
    struct cr_co *co, *other;
    CHECK_EQ(cr_join(cr_co_current()), -EDEADLK); /* with a handle or, as here, without */
    CHECK_EQ(cr_spawn(&co, sleeps, (void *)(intptr_t)(30 * CR_MS), NULL), 0);
    CHECK_EQ(cr_join_until(co, cr_after(2 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_join_until(co, 0), -ETIMEDOUT);
    CHECK_EQ(cr_spawn(&other, joins, co, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_join(other), 0);
}

static void joins_itself(void *handle)
{
    CHECK_EQ(cr_join(*(struct cr_co **)handle), -EDEADLK);
}

TEST_CO(joining_oneself_is_a_deadlock)
{
    static struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, joins_itself, &co, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
}

TEST_CO(a_detached_coroutine_goes_on)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, says, "d", NULL), 0);
    CHECK_EQ(cr_detach(co), 0);
    CHECK_EQ(cr_spawn(&co, says, "e", NULL), 0);
    while (cr_co_status(co) != CR_CO_ENDED)
        cr_yield();
    CHECK_EQ(cr_detach(co), 0);
    CHECK(test_under_seed() ? strlen(trace) == 4 : strcmp(trace, "dede") == 0);
}

static void waits_forever(void *answer)
{
    *(int *)answer = cr_sleep(CR_FOREVER);
    *(int *)answer += cr_sleep(1); /* and each later one */
}

TEST_CO(cancel_ends_the_present_wait_and_each_later_one)
{
    struct cr_co *co;
    static int answer;
    CHECK_EQ(cr_spawn(&co, waits_forever, &answer, NULL), 0);
    cr_yield();
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(answer, 2 * -ECANCELED);
}

TEST_CO(cancelled_before_it_ran_it_still_runs)
{
    struct cr_co *co;
    static int answer;
    CHECK_EQ(cr_spawn(&co, waits_forever, &answer, NULL), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(answer, 2 * -ECANCELED);
}

static int answers[3];

static void shuts_down(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_go(waits_forever, &answers[i]), 0);
    cr_yield();
    CHECK_EQ(cr_shutdown(), 0);
    CHECK_EQ(cr_sleep(CR_FOREVER), -ECANCELED);
}

TEST(shutdown_cancels_everyone_and_the_runtime_ends)
{
    CHECK_EQ(cr_run(shuts_down, NULL, NULL), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(answers[i], 2 * -ECANCELED);
}

static void counts(void *counter)
{
    ++*(long *)counter;
}

TEST_CO(a_hundred_thousand_coroutines_start_run_and_end)
{
    static long counter;
    for (int i = 0; i < 100000; i++)
        CHECK_EQ(cr_go(counts, &counter), 0);
    while (counter < 100000)
        cr_yield();
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK(stats.spawned >= 100001);
    CHECK_EQ(stats.ended, 100000);
}

static unsigned have_run;

static void runs(void *unused)
{
    (void)unused;
    have_run++;
}

/* Who yields is always ready; each of its turns leaves a batch unfinished behind the next one. */
TEST_CO(what_was_spawned_earlier_is_not_kept_waiting_by_one_that_always_yields)
{
    enum { BATCHES = 10, OF = 200 };
    for (int b = 0; b < BATCHES; b++) {
        for (int i = 0; i < OF; i++)
            CHECK_EQ(cr_go(runs, NULL), 0);
        cr_yield();
    }
    int yields = 0;
    for (; have_run < BATCHES * OF && yields < 10 * BATCHES * OF; yields++)
        cr_yield();
    CHECK_EQ(have_run, BATCHES * OF);
    CHECK(yields < BATCHES * OF);
}

TEST_CO(a_spawn_that_the_pool_can_serve_makes_no_kernel_call)
{
    static long counter;
    struct cr_mem_stats before, after;
    for (int round = 0; round < 3; round++) {
        cr_mem_stats_get(&before);
        for (int i = 0; i < 1000; i++) {
            CHECK_EQ(cr_go(counts, &counter), 0);
            cr_yield();
        }
        cr_mem_stats_get(&after);
    }
    CHECK_EQ(counter, 3000);
    CHECK_EQ(after.kernel_calls, before.kernel_calls);
}

static int awake;

static void holds_a_stack(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    awake++;
}

TEST_CO_CONFIG(without_a_stack_a_coroutine_waits_its_turn, &(struct cr_config){.max_stacks_bytes = 6 * (64 + 32) << 10})
{
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_go(holds_a_stack, NULL), 0);
    while (awake < 20)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK(stats.stack_waits >= 15 || test_stacks_are("shared"));
}

static void ends_at_once(void *unused)
{
    (void)unused;
}

static void parks_for_ever(void *unused)
{
    struct cr_co *co;
    (void)unused;
    CHECK_EQ(cr_spawn(&co, ends_at_once, NULL, NULL), 0);
    struct cr_co *mine = NULL;
    CHECK_EQ(cr_spawn(&mine, waits_forever, &awake, &(struct cr_attr){.name = "the waiter"}), 0);
    CHECK_EQ(cr_join(mine), 0);
}

static void run_into_deadlock(void)
{
    _exit(cr_run(parks_for_ever, NULL, NULL) == -EDEADLK ? 42 : 1);
}

TEST(a_hang_explains_itself)
{
    static char text[4096];
    int status = test_capture(run_into_deadlock, text, sizeof(text));
    CHECK_EQ(WEXITSTATUS(status), 42);
    CHECK_STR(text, "nothing can ever run again: 2 coroutines parked");
    CHECK_STR(text, "\"the waiter\"");
    CHECK_STR(text, "a point in time");
    CHECK_STR(text, "the end of another coroutine");
#ifdef CR_TEST_SYMBOLS
    CHECK_STR(text, "parks_for_ever");
#endif
}

static void *fibonacci(void *unused)
{
    intptr_t a = 0, b = 1;
    (void)unused;
    for (;;) {
        CHECK_EQ(cr_sleep(CR_MS / 10), 0); /* a bare coroutine may suspend: its whole chain parks */
        void *value = (void *)a;
        if (cr_co_yield(&value) < 0)
            return NULL;
        intptr_t next = a + b;
        a = b;
        b = next;
    }
}

static void uses_generator(void *expected)
{
    struct cr_co *generator;
    void *value = NULL;
    CHECK_EQ(cr_co_create(&generator, fibonacci, NULL), 0);
    for (int i = 0; i <= 20; i++)
        CHECK_EQ(cr_co_resume(generator, &value), 0);
    CHECK_EQ((intptr_t)value, (intptr_t)expected);
    CHECK_EQ(cr_co_destroy(generator), 0);
}

TEST_CO(a_bare_coroutine_inside_a_scheduled_one_may_wait)
{
    struct cr_co *cos[10];
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_spawn(&cos[i], uses_generator, (void *)(intptr_t)6765, NULL), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
}

static void never_takes_no(void *ended)
{
    while (!*(bool *)ended)
        cr_sleep(CR_SEC); /* -ECANCELED, each time */
}

static void ends_a_little_later(void *ended)
{
    for (int i = 0; i < 100; i++)
        cr_yield();
    *(bool *)ended = true;
}

TEST_CO(one_that_ignores_its_cancellation_does_not_keep_the_others_from_ending)
{
    static bool ended;
    CHECK_EQ(cr_go(never_takes_no, &ended), 0);
    CHECK_EQ(cr_go(ends_a_little_later, &ended), 0);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_shutdown(), 0);
    while (!ended)
        CHECK_EQ(cr_yield(), 0);
}

static int ended_with_a_stack;

static void ends_with_a_stack(void *unused)
{
    (void)unused;
    ended_with_a_stack++;
}

TEST_CO_CONFIG(who_waits_for_a_stack_of_another_size_is_not_in_the_way, &(struct cr_config){.max_stacks_bytes = 1 << 20})
{
    struct cr_co *cos[40];
    for (int i = 0; i < 40; i++) {
        struct cr_attr attr = {.stack_size_bytes = i % 3 == 0 ? 256 << 10 : 64 << 10};
        CHECK_EQ(cr_spawn(&cos[i], ends_with_a_stack, NULL, &attr), 0);
    }
    for (int i = 0; i < 40; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    CHECK_EQ(ended_with_a_stack, 40);
}

static void yields_and_ends(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_yield(), 0);
    ended_with_a_stack++;
}

TEST_CO_CONFIG(what_a_size_has_unused_goes_to_another, &(struct cr_config){.max_stacks_bytes = 1 << 20})
{
    struct cr_co *small[8], *large;
    for (int round = 0; round < 3; round++) {
        ended_with_a_stack = 0;
        for (int i = 0; i < 8; i++)
            CHECK_EQ(cr_spawn(&small[i], yields_and_ends, NULL, &(struct cr_attr){.stack_size_bytes = 64 << 10}), 0);
        CHECK_EQ(cr_spawn(&large, yields_and_ends, NULL, &(struct cr_attr){.stack_size_bytes = 256 << 10}), 0);
        for (int i = 0; i < 8; i++)
            CHECK_EQ(cr_join(small[i]), 0);
        CHECK_EQ(cr_join(large), 0);
        CHECK_EQ(ended_with_a_stack, 9);
    }
    CHECK_EQ(cr_spawn(NULL, yields_and_ends, NULL, &(struct cr_attr){.stack_size_bytes = 2 << 20}), -EINVAL);
}

TEST_CO(any_size_may_be_asked_for)
{
    ended_with_a_stack = 0;
    for (size_t i = 4; i < 200; i++)
        CHECK_EQ(cr_spawn(NULL, ends_with_a_stack, NULL, &(struct cr_attr){.stack_size_bytes = i * 4096}), 0);
    while (ended_with_a_stack < 196)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_spawn(NULL, ends_with_a_stack, NULL, &(struct cr_attr){.stack_size_bytes = (size_t)2 << 30}), -EINVAL);
}

static void sleeps_for_ever(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep_until(CR_FOREVER), -ECANCELED);
}

TEST(a_started_runtime_in_which_nothing_can_run_waits_for_who_is_outside)
{
    struct cr_rt *rt;
    CHECK_EQ(cr_rt_create(&rt, NULL), 0);
    CHECK_EQ(cr_rt_start(rt, sleeps_for_ever, NULL), 0);
    usleep(20000);
    CHECK_EQ(cr_rt_stop(rt), 0);
    cr_rt_destroy(rt);
}

static void stops_its_own(void *rt)
{
    CHECK_EQ(cr_rt_stop(*(struct cr_rt **)rt), -EPERM);
    CHECK_EQ(cr_rt_wait(*(struct cr_rt **)rt), -EPERM);
    CHECK_EQ(cr_sleep(CR_MS), 0); /* nothing was cancelled */
}

TEST(a_runtime_is_not_stopped_from_inside)
{
    struct cr_rt *rt;
    CHECK_EQ(cr_rt_create(&rt, NULL), 0);
    CHECK_EQ(cr_rt_start(rt, stops_its_own, &rt), 0);
    CHECK_EQ(cr_rt_wait(rt), 0);
    cr_rt_destroy(rt);
}

static void *shares_and_sleeps(void *unused)
{
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    return unused;
}

static void rounds_up_meanwhile(void *unused)
{
    (void)unused;
    fesetround(FE_UPWARD);
    CHECK_EQ(cr_sleep(30 * CR_MS), 0);
    CHECK_EQ(fegetround(), FE_UPWARD);
}

TEST_CO(control_words_stay_also_while_one_inside_shares_them)
{
    struct cr_co *inside;
    CHECK_EQ(cr_co_create(&inside, shares_and_sleeps, &(struct cr_attr){.flags = CR_FPU_SHARED}), 0);
    CHECK_EQ(cr_go(rounds_up_meanwhile, NULL), 0);
    CHECK_EQ(cr_co_resume(inside, NULL), 1);
    CHECK_EQ(fegetround(), FE_TONEAREST);
    cr_co_destroy(inside);
}

static void *runs_a_runtime(void *unused)
{
    CHECK_EQ(cr_run(ends_with_a_stack, NULL, NULL), 0);
    CHECK(cr_co_current() != NULL);
    CHECK_EQ(cr_co_yield(NULL), 0);
    return unused;
}

TEST(a_bare_coroutine_may_run_a_runtime)
{
    struct cr_co *co;
    CHECK_EQ(cr_co_create(&co, runs_a_runtime, &(struct cr_attr){.stack_size_bytes = 256 << 10}), 0);
    CHECK_EQ(cr_co_resume(co, NULL), 0);
    CHECK_EQ(cr_co_resume(co, NULL), 1);
    cr_co_destroy(co);
}

TEST_CO(a_scheduled_coroutine_is_not_resumed_by_hand)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, says, "s", NULL), 0);
    CHECK_EQ(cr_co_resume(co, NULL), -EPERM);
    CHECK_EQ(cr_co_destroy(co), -EPERM);
    CHECK_EQ(cr_co_yield(NULL), -EPERM);
    while (cr_co_status(co) != CR_CO_ENDED)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_co_resume(co, NULL), -EPERM);
    CHECK_EQ(cr_co_destroy(co), -EPERM);
    CHECK_EQ(cr_join(co), 0);
}

static unsigned key;
static int destroyed;

static void destroy_local(void *value)
{
    (void)value;
    destroyed++;
}

static void sets_local(void *value)
{
    CHECK_EQ(cr_local_set(key, value), 0);
    cr_yield();
    CHECK(cr_local_get(key) == value);
}

TEST_CO(local_storage_works_in_scheduled_coroutines)
{
    CHECK_EQ(cr_local_key(&key, destroy_local), 0);
    struct cr_co *a, *b;
    CHECK_EQ(cr_spawn(&a, sets_local, &a, NULL), 0);
    CHECK_EQ(cr_spawn(&b, sets_local, &b, NULL), 0);
    CHECK_EQ(cr_join(a), 0);
    CHECK_EQ(cr_join(b), 0);
    CHECK_EQ(destroyed, 2);
}

static void loops_until_cancelled(void *flag)
{
    while (cr_sleep(CR_MS) == 0)
        __atomic_store_n((bool *)flag, true, __ATOMIC_RELAXED);
}

TEST(a_program_with_its_own_loop_starts_and_stops_a_runtime)
{
    struct cr_rt *rt;
    bool ran = false;
    CHECK_EQ(cr_rt_create(&rt, NULL), 0);
    CHECK_EQ(cr_rt_stop(rt), -EINVAL);
    CHECK_EQ(cr_rt_start(rt, loops_until_cancelled, &ran), 0);
    CHECK_EQ(cr_rt_start(rt, loops_until_cancelled, &ran), -EALREADY);
    while (!__atomic_load_n(&ran, __ATOMIC_RELAXED))
        usleep(1000);
    CHECK_EQ(cr_rt_stop(rt), 0);
    CHECK_EQ(cr_rt_stop(rt), -EINVAL);
    CHECK_EQ(cr_rt_start(rt, loops_until_cancelled, &ran), -EALREADY); /* one start per runtime */
    cr_rt_destroy(rt);
    CHECK_EQ(cr_rt_create(&rt, NULL), 0);
    CHECK_EQ(cr_rt_start(rt, check_order, NULL), 0);
    CHECK_EQ(cr_rt_wait(rt), 0);
    cr_rt_destroy(rt);
    cr_rt_destroy(NULL);
}

static volatile sig_atomic_t handled;
static char *handler_sp;

static void on_signal(int signo)
{
    handled = signo;
    handler_sp = __builtin_frame_address(0);
}

TEST_CO(signals_are_taken_between_coroutines_on_the_workers_own_stack)
{
    char here;
    struct sigaction action = {.sa_handler = on_signal};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(handled, 0); /* not in the middle of a coroutine */
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(handled, SIGUSR1);
    intptr_t distance = (intptr_t)handler_sp - (intptr_t)&here;
    CHECK(distance < -(1 << 20) || distance > 1 << 20);
}

static void dies_by_sigterm(void *unused)
{
    (void)unused;
    kill(getpid(), SIGTERM);
    CHECK_EQ(cr_sleep(CR_SEC), 0);
}

static void run_sigterm(void)
{
    _exit(cr_run(dies_by_sigterm, NULL, NULL));
}

TEST(a_signal_without_a_handler_does_what_it_always_does)
{
    char text[256];
    int status = test_capture(run_sigterm, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

__attribute__((noinline)) static int dig(volatile int *depth)
{
    volatile char frame[1024];
    frame[0] = (char)(*depth += 1);
    return *depth == 0 ? 0 : dig(depth) + frame[0];
}

static void overflows(void *unused)
{
    volatile int depth = 0;
    (void)unused;
    printf("%d", dig(&depth));
}

static void spawns_overflow(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_spawn(NULL, overflows, NULL, &(struct cr_attr){.name = "deep one", .stack_size_bytes = 32 << 10}), 0);
}

static void run_overflow(void)
{
    _exit(cr_run(spawns_overflow, NULL, NULL) == 0 ? 0 : 1);
}

TEST(an_overflow_names_the_coroutine_its_stack_and_the_call)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[4096];
    int status = test_capture(run_overflow, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, test_stacks_are("virtual")  ? "\"deep one\" ran off its virtual stack of 32768 bytes"
                    : test_stacks_are("shared") ? "\"deep one\" ran off its shared stack of 65536 bytes"
                                                : "\"deep one\" ran off its static stack of 32768 bytes");
#ifdef CR_TEST_SYMBOLS
    CHECK_STR(text, "dig+0x");
    CHECK_STR(text, "overflows+0x");
#endif
}

static int parked_rounds;

static void parks_often(void *rounds)
{
    for (int i = 0; i < (int)(intptr_t)rounds; i++) {
        CHECK_EQ(cr_park(), 0);
        parked_rounds++;
    }
}

TEST_CO(what_parks_goes_on_when_it_is_unparked)
{
    struct cr_co *co;
    parked_rounds = 0;
    CHECK_EQ(cr_spawn(&co, parks_often, (void *)2, NULL), 0);
    cr_yield();
    CHECK_EQ(parked_rounds, 0);
    CHECK_EQ(cr_unpark(co), 0);
    cr_yield();
    CHECK_EQ(parked_rounds, 1);
    CHECK_EQ(cr_unpark(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(parked_rounds, 2);
}

TEST_CO(an_unpark_before_the_park_is_not_lost_and_several_count_as_one)
{
    struct cr_co *co;
    parked_rounds = 0;
    CHECK_EQ(cr_spawn(&co, parks_often, (void *)2, NULL), 0);
    CHECK_EQ(cr_unpark(co), 0); /* it has not even begun */
    CHECK_EQ(cr_unpark(co), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(parked_rounds, 1);
    CHECK_EQ(cr_unpark(co), 0);
    CHECK_EQ(cr_join(co), 0);
}

static void parks_and_sleeps(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_park_until(cr_after(2 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_park_until(0), -ETIMEDOUT);
    parked_rounds = 1;
    CHECK_EQ(cr_sleep(200 * CR_MS), 0); /* an unpark ends no other wait, */
    CHECK_EQ(cr_park_until(0), 0);      /* and is there afterwards */
    parked_rounds = 2;
    CHECK_EQ(cr_park(), -ECANCELED);
}

TEST_CO(a_park_ends_by_its_deadline_and_by_cancellation_and_other_waits_not_by_an_unpark)
{
    struct cr_co *co;
    parked_rounds = 0;
    CHECK_EQ(cr_spawn(&co, parks_and_sleeps, NULL, NULL), 0);
    while (parked_rounds < 1)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_unpark(co), 0);
    while (parked_rounds < 2)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    cr_yield();
    CHECK_EQ(cr_unpark(co), 0); /* it has ended */
    CHECK_EQ(cr_join(co), 0);
}

TEST_CO(many_are_unparked_at_once)
{
    enum { MANY = 100 };
    struct cr_co *cos[MANY];
    parked_rounds = 0;
    for (int i = 0; i < MANY; i++) {
        struct cr_attr attr = {.stack = i % 2 ? CR_STACK_SHARED : CR_STACK_STATIC};
        CHECK_EQ(cr_spawn(&cos[i], parks_often, (void *)1, &attr), 0);
    }
    cr_yield();
    CHECK_EQ(cr_unpark_many(cos, 0), 0);
    CHECK_EQ(cr_unpark_many(cos, MANY), 0);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    CHECK_EQ(parked_rounds, MANY);
}

static void keeps_rounding(void *unused)
{
    (void)unused;
#if defined(__x86_64__)
    unsigned up = 0x5f80, mxcsr;
    __asm__ volatile("ldmxcsr %0" : : "m"(up));
    for (int i = 0; i < 5; i++) {
        cr_yield();
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        CHECK_EQ(mxcsr & 0xffc0, 0x5f80);
    }
#endif
}

static void has_default_rounding(void *unused)
{
    (void)unused;
#if defined(__x86_64__)
    unsigned mxcsr;
    for (int i = 0; i < 5; i++) {
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        CHECK_EQ(mxcsr & 0xffc0, 0x1f80);
        cr_yield();
    }
#endif
}

TEST_CO(control_words_stay_with_their_coroutine)
{
    CHECK_EQ(cr_go(keeps_rounding, NULL), 0);
    CHECK_EQ(cr_go(has_default_rounding, NULL), 0);
    CHECK_EQ(cr_go(keeps_rounding, NULL), 0);
    CHECK_EQ(cr_go(has_default_rounding, NULL), 0);
    for (int i = 0; i < 10; i++)
        cr_yield();
}
