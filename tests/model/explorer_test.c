/* The explorer, by what it offers to tests, and what it says: parking, spinning, memory, choices, traces, mutants. */
#include "expect.h"

#include "internal.h"
#include "sample.h"

THREAD(add_relaxed)
{
    ADD(x, 1, RELAXED);
}

/* ---- Choices and operations --------------------------------------------------------------------------------- */

THREAD(choose_twice)
{
    seen[0] = model_choose(3);
    seen[1] = model_choose(2);
}

THREADS(chooser, choose_twice)

static void not_2_1(void)
{
    model_assert(seen[0] != 2 || seen[1] != 1);
}

TEST(choices_are_all_explored)
{
    expect(MODEL_HOLDS, chooser, NULL);
    CHECK_EQ(last.executions, 6);
    expect(MODEL_ASSERTION, chooser, not_2_1);
}

static _Atomic uint8_t byte;
static _Atomic int16_t small;
static _Atomic uint64_t big;
static _Atomic(int *) pointer;

THREAD(all_operations)
{
    uint64_t expected = 7;
    atomic_store(&byte, 250);
    model_assert(atomic_fetch_add(&byte, 10) == 250 && atomic_load(&byte) == 4);
    model_assert(atomic_fetch_sub(&byte, 5) == 4 && atomic_load(&byte) == 255);
    model_assert(atomic_fetch_and(&byte, 0x3c) == 255 && atomic_fetch_or(&byte, 1) == 0x3c && atomic_fetch_xor(&byte, 0xff) == 0x3d);
    model_assert(atomic_exchange(&byte, 9) == 0xc2 && byte == 9);
    model_assert(atomic_fetch_sub(&small, 3) == 0 && atomic_load(&small) == -3);
    model_assert(atomic_fetch_add(&big, UINT64_MAX) == 0 && atomic_load(&big) == UINT64_MAX);
    model_assert(!atomic_compare_exchange_strong(&big, &expected, 1) && expected == UINT64_MAX);
    model_assert(atomic_compare_exchange_weak(&big, &expected, 1) && big == 1);
    atomic_store(&pointer, &data);
    model_assert(atomic_load(&pointer) == &data);
}

THREADS(operations, all_operations)

static void memory_has_it(void)
{
    model_assert(byte == 9 && small == -3 && big == 1 && pointer == &data);
}

TEST(operations_of_all_sizes_do_what_they_should)
{
    expect(MODEL_HOLDS, operations, memory_has_it);
    CHECK_EQ(last.executions, 1);
    CHECK(byte == 0 && small == 0 && big == 0 && pointer == NULL); /* as before */
}

THREAD(try_once)
{
    int none = 0;
    seen[0] = atomic_compare_exchange_weak(&x, &none, 1);
}

THREADS(weak, try_once)

static void succeeded(void)
{
    model_assert(seen[0]);
}

TEST(weak_ones_fail_for_no_reason_if_asked_to)
{
#ifdef __clang__
    SKIP("clang does not say which are weak");
#endif
    expect(MODEL_HOLDS, weak, succeeded);
    CHECK_EQ(last.executions, 1);
    expect_with(&(struct model_options){.weak_fails = true}, MODEL_ASSERTION, weak, succeeded);
}

/* ---- Parking ------------------------------------------------------------------------------------------------ */

#define PARKING(name, order, fence)                                                                                    \
    THREAD(name##_sleeper)                                                                                             \
    {                                                                                                                  \
        STORE(y, 1, order);                                                                                            \
        fence;                                                                                                         \
        if (!LOAD(x, order))                                                                                           \
            model_park();                                                                                              \
        model_assert(LOAD(x, RELAXED));                                                                                \
    }                                                                                                                  \
    THREAD(name##_waker)                                                                                               \
    {                                                                                                                  \
        STORE(x, 1, order);                                                                                            \
        fence;                                                                                                         \
        if (LOAD(y, order))                                                                                            \
            model_unpark(0);                                                                                           \
    }                                                                                                                  \
    THREADS(name, name##_sleeper, name##_waker)

PARKING(wakes, RELAXED, atomic_thread_fence(SEQ_CST))
PARKING(loses, RELAXED, )

TEST(a_lost_wake_up_is_a_deadlock)
{
    expect(MODEL_HOLDS, wakes, NULL);
    expect(MODEL_DEADLOCK, loses, NULL);
    CHECK_STR(last.what, "thread 0 (loses_sleeper) is parked at tests/model/explorer_test.c:");
}

THREAD(unpark_relaxed)
{
    data = 1;
    model_unpark_relaxed(0);
}

THREAD(unpark)
{
    data = 1;
    model_unpark(0);
}

THREAD(park_and_read)
{
    model_park();
    model_assert(data == 1);
}

THREADS(unparked, park_and_read, unpark)
THREADS(unparked_relaxed, park_and_read, unpark_relaxed)

TEST(unpark_publishes_unless_relaxed)
{
    expect(MODEL_HOLDS, unparked, NULL);
    expect(MODEL_RACE, unparked_relaxed, NULL);
}

THREAD(serve)
{
    for (;;) {
        model_park();
        data++;
    }
}

THREAD(ask_once)
{
    model_unpark(0);
}

static void server_and_client(void)
{
    model_daemon(model_thread(serve, NULL));
    model_thread(ask_once, NULL);
}

static void served(void)
{
    model_assert(data == 1);
}

TEST(a_daemon_may_stay_parked)
{
    expect(MODEL_HOLDS, server_and_client, served);
    CHECK_EQ(last.executions, 1);
}

/* ---- Loops -------------------------------------------------------------------------------------------------- */

THREAD(wait_for_2)
{
    model_wait(LOAD(x, ACQUIRE) == 2);
}

THREAD(add_and_spin_between)
{
    int old = 7; /* at first the wrong one: the second round differs from the first, though nothing new is to be seen */
    while (!atomic_compare_exchange_weak_explicit(&x, &old, old + 1, RELAXED, RELAXED))
        model_spin();
}

THREAD(count_to_20)
{
    for (int i = 0; i < 20 && !LOAD(x, RELAXED); i++)
        ;
    seen[0] = 1;
}

THREAD(add_for_ever)
{
    for (;;)
        ADD(x, 1, RELAXED);
}

THREADS(waiting, wait_for_2, add_relaxed, add_relaxed)
THREADS(waiting_in_vain, wait_for_2, add_relaxed)
THREADS(rounds_differ, add_and_spin_between, add_and_spin_between)
THREADS(counting, count_to_20)
THREADS(endless, add_for_ever)

static void sum_is_2(void)
{
    model_assert(LOAD(x, RELAXED) == 2);
}

static void seen_0(void)
{
    model_assert(seen[0]);
}

TEST(who_spins_is_released_by_a_later_write_or_never)
{
    expect(MODEL_HOLDS, waiting, NULL);
    CHECK_EQ(last.executions, 2);
    expect(MODEL_DEADLOCK, waiting_in_vain, NULL);
}

TEST(rounds_that_differ_are_noticed)
{
    expect(MODEL_HOLDS, rounds_differ, sum_is_2);
    CHECK(last.executions >= 2);
    expect(MODEL_HOLDS, counting, seen_0);
    CHECK_EQ(last.executions, 1);
}

TEST(loops_without_end_are_found)
{
    expect(MODEL_ENDLESS, endless, NULL);
}

/* ---- Memory ------------------------------------------------------------------------------------------------- */

struct node {
    _Atomic int state;
    int value;
};

static _Atomic(struct node *) handed;

THREAD(hand_over)
{
    struct node *node = malloc(sizeof(*node));
    memset(node, 0, sizeof(*node));
    node->value = 5;
    atomic_store_explicit(&handed, node, RELEASE);
}

THREAD(take_and_free)
{
    struct node *node = atomic_load_explicit(&handed, ACQUIRE);
    if (node) {
        model_assert(node->value == 5 && LOAD(node->state, RELAXED) == 0);
        free(node);
    }
}

THREAD(take_and_look)
{
    struct node *node = atomic_load_explicit(&handed, ACQUIRE);
    if (node)
        seen[0] = node->value;
}

THREAD(free_and_look)
{
    static struct node *volatile node;
    free(node = malloc(sizeof(*node)));
    seen[0] = node->value;
}

THREAD(look_beyond)
{
    char *bytes = calloc(3, 5);
    seen[0] = bytes[15];
}

THREAD(free_twice)
{
    static void *volatile block;
    free(block = malloc(1));
    free(block);
}

THREAD(use_again)
{
    struct node *node = malloc(sizeof(*node));
    *node = (struct node){.value = 1};
    ADD(node->state, 7, RELAXED);
    uintptr_t former = (uintptr_t)node;
    free(node);
    struct node *other = malloc(sizeof(*other));
    seen[0] = (uintptr_t)other == former;
    *other = (struct node){.value = 2};
    model_assert(LOAD(other->state, RELAXED) == 0); /* nothing of its former life */
}

THREAD(copy)
{
    char bytes[sizeof(data)];
    memcpy(bytes, &data, sizeof(bytes));
    seen[0] = bytes[0];
}

THREAD(set)
{
    memset(&data, 1, sizeof(data));
}

THREADS(handing, hand_over, take_and_free)
THREADS(freeing_too_early, hand_over, take_and_free, take_and_look)
THREADS(freed, free_and_look)
THREADS(beyond, look_beyond)
THREADS(twice, free_twice)
THREADS(again, use_again)
THREADS(copying, copy, set)

TEST(what_is_freed_is_not_touched)
{
    expect(MODEL_HOLDS, handing, NULL);
    expect(MODEL_MEMORY, freeing_too_early, NULL);
    expect(MODEL_MEMORY, freed, NULL);
    CHECK_STR(last.what, "used after it was freed, plain read");
    expect(MODEL_MEMORY, beyond, NULL);
    CHECK_STR(last.what, "beyond what was allocated");
    expect(MODEL_MEMORY, twice, NULL);
}

TEST(memory_that_is_used_again_has_no_past)
{
    expect(MODEL_HOLDS, again, NULL);
    expect_with(&(struct model_options){.heap_reuses = true}, MODEL_HOLDS, again, seen_0);
}

TEST(copying_and_setting_memory_races_too)
{
    expect(MODEL_RACE, copying, NULL);
}

/* ---- What else ---------------------------------------------------------------------------------------------- */

static int here = -1; /* as if thread-local */

static void switch_here(int thread)
{
    here = thread;
}

THREAD(stay_here)
{
    model_assert(here == model_self());
    ADD(x, 1, RELAXED);
    model_wait(LOAD(x, RELAXED) == 2);
    model_assert(here == model_self());
}

static void with_here(void)
{
    model_on_switch(switch_here);
    model_thread(stay_here, NULL);
    model_thread(stay_here, NULL);
}

TEST(thread_local_variables_follow_the_simulated_thread)
{
    expect(MODEL_HOLDS, with_here, NULL);
}

THREAD(follow_nothing)
{
    struct node *node = atomic_load_explicit(&handed, ACQUIRE);
    seen[0] = node->value;
}

THREADS(crashing, follow_nothing)

static void crash(void)
{
    expect(MODEL_HOLDS, crashing, NULL);
}

TEST(a_crash_fails)
{
    static char text[1024];
    fflush(stdout);
    int status = test_capture(crash, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

static int begun, begun_behind_our_back;

__attribute__((no_sanitize("thread"))) static int count_behind_our_back(void)
{
    return begun_behind_our_back++;
}

THREAD(begin)
{
    model_assert(begun++ == 0);
    ADD(y, 1, RELAXED);
}

THREAD(begin_otherwise)
{
    if (count_behind_our_back() % 3 == 2)
        LOAD(x, RELAXED);
    ADD(y, 1, RELAXED);
}

THREADS(forgetful, begin, add_relaxed, add_relaxed)
THREADS(remembering, begin_otherwise, begin_otherwise)

TEST(executions_begin_alike_or_are_refused)
{
    expect(MODEL_HOLDS, forgetful, NULL);
    expect(MODEL_MISUSE, remembering, NULL);
    CHECK_STR(last.what, "does not do the same each time");
}

/* ---- What it says ------------------------------------------------------------------------------------------- */

THREAD(write_and_store)
{
    data = 1;
    STORE(x, 1, RELAXED);
}

THREAD(load_and_read)
{
    if (LOAD(x, RELAXED))
        seen[0] = data;
}

THREADS(racing, write_and_store, load_and_read)

TEST(a_race_names_both_places)
{
    expect(MODEL_RACE, racing, NULL);
    CHECK_STR(last.what, "data race on data: plain write by thread 0 (write_and_store) at tests/model/explorer_test.c:");
    CHECK_STR(last.what, "and plain read by thread 1 (load_and_read) at tests/model/explorer_test.c:");
    CHECK_STR(last.trace, "choices: ab\n");
    CHECK_STR(last.trace, "thread 0 (write_and_store)");
    CHECK_STR(last.trace, "store 1 relaxed");
    CHECK_STR(last.trace, "load 1 relaxed of 1");
}

static struct sample sample;

THREAD(put_sample)
{
    sample_put(&sample, 5);
}

THREAD(take_sample)
{
    int message;
    if (sample_take(&sample, &message))
        model_assert(message == 5);
}

THREADS(sampling, put_sample, take_sample, take_sample)

static void sample_twice(void)
{
    sampling();
    model_thread(put_sample, NULL);
}

TEST(what_is_handed_over_arrives)
{
    model_run(sampling, NULL);
}

static void run_self(char *text, size_t size, const char *options)
{
    char command[512], exe[256] = "";
    CHECK(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
    snprintf(command, sizeof(command), "'%s' %s", exe, options);
    FILE *answer = popen(command, "r");
    CHECK(answer != NULL);
    text[fread(text, 1, size - 1, answer)] = '\0';
    pclose(answer);
}

TEST(mutants_that_matter_are_killed)
{
    static char text[65536];
    run_self(text, sizeof(text), "--mutate what_is_handed_over_arrives");
    CHECK_STR(text, "# mutant\tkilled\ttests/model/sample.h\tsample_put\tstore\t1\trelease\trelaxed\t");
    CHECK_STR(text, "# mutant\tsurvived\ttests/model/sample.h\tsample_take\tcompare\t1\tacq_rel\tacquire\t");
    CHECK_STR(text, "# mutant\tkilled\ttests/model/sample.h\tsample_take\tcompare\t1\tacq_rel\trelease\t");
    CHECK_STR(text, "\nok 1 - ");
}

TEST(an_execution_is_shown_again_by_its_choices)
{
    static char text[65536];
    run_self(text, sizeof(text), "--repeat=aab1 what_is_handed_over_arrives");
    CHECK_STR(text, "these choices are not of this test");
    run_self(text, sizeof(text), "--repeat=ab1c what_is_handed_over_arrives");
    CHECK_STR(text, "store 1 release");
    CHECK_STR(text, "fails: 0 relaxed, 1 newer");
    CHECK_STR(text, "update 1 acq_rel of 1");
    CHECK_STR(text, "and writes 2");
    CHECK_STR(text, "sample");
}

TEST(a_failure_is_repeated_by_the_choices_that_it_printed)
{
    static struct model_result repeated;
    void (*const setups[])(void) = {racing, loses, waiting_in_vain, chooser, freeing_too_early, sample_twice};
    void (*const checks[])(void) = {NULL, NULL, NULL, not_2_1, NULL, NULL};
    for (size_t i = 0; i < sizeof(setups) / sizeof(*setups); i++) {
        char choices[512];
        struct model_result found = model_explore(NULL, setups[i], checks[i]);
        CHECK(found.outcome != MODEL_HOLDS);
        snprintf(choices, sizeof(choices), "%.*s", (int)strcspn(found.trace + 9, "\n"), found.trace + 9);
        model__explore(NULL, setups[i], checks[i], choices, true, &repeated);
        CHECK_EQ(repeated.outcome, found.outcome);
        CHECK(strcmp(repeated.what, found.what) == 0);
    }
}
