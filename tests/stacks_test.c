/* What all kinds of stack have in common, and what each does with it: budgets, bare coroutines inside others, sizes, what is said when one is run off. Freezing and common stacks have tests of
 * their own (freezing_test.c, sharing_test.c); that the whole suite runs on each kind is shown by running it so (meson.build). */
#include <sys/resource.h>

#include "dig.h"
#include "stacks.h"

/* ---- The budget --------------------------------------------------------------------------------------------- */

static struct cr_waitgroup gate;
static int parked, gone;

static void waits_at_the_gate(void *arg)
{
    unsigned char bytes[200];
    fill(bytes, sizeof(bytes), (unsigned)(uintptr_t)arg);
    parked++;
    CHECK_EQ(cr_waitgroup_wait(&gate), 0);
    check_filled(bytes, sizeof(bytes), (unsigned)(uintptr_t)arg);
    gone++;
}

#define MANY_TIMES 12000
#define SMALL_BUDGET ((uint64_t)20 << 20) /* as static stacks they would count 54 MiB */

static void spawns_more_than_fit(void *attr)
{
    int refused = 0;
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    for (int i = 0; i < MANY_TIMES; i++) {
        int r;
        while ((r = cr_spawn(NULL, waits_at_the_gate, (void *)(intptr_t)i, attr)) == -ENOMEM) {
            refused++;
            CHECK_EQ(cr_sleep(CR_MS), 0); /* those that there are begin, and park */
        }
        CHECK_EQ(r, 0);
    }
    while (parked < MANY_TIMES)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(refused > 0);
    CHECK_EQ(cr_waitgroup_done(&gate), 0);
    while (gone < MANY_TIMES)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

TEST(when_the_budget_is_nearly_used_up_parked_stacks_are_frozen_before_their_time)
{
    needs_freezing();
    CHECK_EQ(cr_run(spawns_more_than_fit, (void *)&on_virtual,
                    &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = SMALL_BUDGET, .freeze_after_ns = 3600 * CR_SEC}), 0);
    CHECK(counts_now().frozen > MANY_TIMES / 2);
}

TEST(parked_on_shared_stacks_they_count_their_images)
{
    NEEDS_SHARED();
    CHECK_EQ(cr_run(spawns_more_than_fit, (void *)&on_shared, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = SMALL_BUDGET}), 0);
}

/* ---- Bare coroutines inside others -------------------------------------------------------------------------- */

static void *counts_up(void *first)
{
    unsigned char bytes[400];
    uintptr_t n = (uintptr_t)first;
    fill(bytes, sizeof(bytes), (unsigned)n);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(i % 2 ? cr_sleep(CR_MS) : cr_yield(), 0);
        check_filled(bytes, sizeof(bytes), (unsigned)(uintptr_t)first);
        void *value = (void *)n++;
        CHECK_EQ(cr_co_yield(&value), 0);
    }
    return (void *)n;
}

static enum cr_stack_kind inner;
static int arrived;

static void uses_bare_ones(void *arg)
{
    uintptr_t first = (uintptr_t)arg * 1000;
    unsigned char bytes[500];
    struct cr_co *a, *b;
    const struct cr_attr attr = {.stack = inner};
    fill(bytes, sizeof(bytes), (unsigned)first);
    CHECK_EQ(cr_co_create(&a, counts_up, &attr), 0);
    CHECK_EQ(cr_co_create(&b, counts_up, &attr), 0);
    for (uintptr_t i = 0; i <= 10; i++) {
        void *va = (void *)first, *vb = (void *)(first + 500);
        CHECK(cr_co_resume(a, &va) >= 0);
        CHECK(cr_co_resume(b, &vb) >= 0);
        CHECK_EQ((uintptr_t)va, first + i);
        CHECK_EQ((uintptr_t)vb, first + 500 + i);
        check_filled(bytes, sizeof(bytes), (unsigned)first);
    }
    CHECK_EQ(cr_co_status(a), CR_CO_ENDED);
    CHECK_EQ(cr_co_destroy(a), 0);
    CHECK_EQ(cr_co_destroy(b), 0);
    arrived++;
}

static void nests(void *attr)
{
    arrived = 0;
    for (uintptr_t i = 0; i < 12; i++)
        CHECK_EQ(cr_spawn(NULL, uses_bare_ones, (void *)i, attr), 0);
    while (arrived < 12)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

TEST(bare_coroutines_of_each_kind_inside_scheduled_ones_of_each_kind)
{
    for (inner = CR_STACK_STATIC; inner <= CR_STACK_SHARED; inner++) {
        for (enum cr_stack_kind outer = CR_STACK_STATIC; outer <= CR_STACK_SHARED; outer++) {
            struct cr_attr attr = {.stack = outer};
            CHECK_EQ(cr_run(nests, &attr, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .freeze_after_ns = 1, .shared_stacks = 2}), 0);
        }
    }
}

/* ---- Sizes --------------------------------------------------------------------------------------------------- */

static int ran;

static void runs(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_yield(), 0);
    ran++;
}

static void asks_for_all_sizes(void *unused)
{
    (void)unused;
    ran = 0;
    for (size_t size = 4096; size <= (size_t)64 << 20; size *= 2) {
        for (enum cr_stack_kind kind = CR_STACK_STATIC; kind <= CR_STACK_VIRTUAL; kind++)
            CHECK_EQ(cr_spawn(NULL, runs, NULL, &(struct cr_attr){.stack = kind, .stack_size_bytes = size < 16384 ? 16384 : size + 1}), 0);
        int r = cr_spawn(NULL, runs, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED, .stack_size_bytes = size});
        CHECK_EQ(r, size <= CR_STACK_SHARED_MOST_BYTES ? 0 : -EINVAL);
    }
    while (ran < 15 * 2 + 7)
        CHECK_EQ(cr_yield(), 0);
}

TEST(each_kind_has_any_size_and_shared_ones_any_that_can_be_copied)
{
    CHECK_EQ(cr_run(asks_for_all_sizes, NULL, &one_shared), 0);
    CHECK_EQ(cr_run(asks_for_all_sizes, NULL, &(struct cr_config){.stack = CR_STACK_SHARED, .stack_size_bytes = CR_STACK_SHARED_MOST_BYTES + 1}), -EINVAL);
}

/* ---- What the environment says ------------------------------------------------------------------------------- */

static uintptr_t places[2];

static void notes_where_it_is(void *place)
{
    volatile char here = 1;
    *(uintptr_t *)place = (uintptr_t)&here;
    CHECK_EQ(cr_waitgroup_wait(&gate), 0);
    CHECK_EQ(here, 1);
}

static void two_note_it(void *frozen)
{
    struct cr_co *co[2];
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_spawn(&co[i], notes_where_it_is, &places[i], NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    if (frozen)
        wait_until_frozen(*(uint64_t *)frozen + 1);
    CHECK_EQ(cr_waitgroup_done(&gate), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_join(co[i]), 0);
}

/* Those that take turns on one stack are at one place; those that can freeze do. */
TEST(the_environment_chooses_the_kind_for_those_that_leave_it_open)
{
    NEEDS_SHARED();
    needs_freezing();
    static const char *const kinds[] = {"static", "virtual", "shared"};
    setenv("CR_SHARED_STACKS", "1", 1);
    setenv("CR_FREEZE_AFTER_NS", "1", 1);
    for (int i = 0; i < 3; i++) {
        uint64_t frozen = counts_now().frozen;
        setenv("CR_STACK", kinds[i], 1);
        CHECK_EQ(cr_run(two_note_it, i == 1 ? &frozen : NULL, &(struct cr_config){.workers = 1}), 0);
        CHECK_EQ(places[0] == places[1], i == 2);
        CHECK_EQ(counts_now().frozen > frozen, i == 1);
    }
}

static void wishes_nonsense(void)
{
    setenv("CR_STACK", "packed", 1); /* a kind, but not one for all */
    _exit(cr_run(two_note_it, NULL, NULL) == -EINVAL ? 0 : 1);
}

TEST(a_kind_in_the_environment_that_there_is_not_is_refused_and_told)
{
    static char text[1024];
    int status = test_capture(wishes_nonsense, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_STR(text, "CR_STACK=packed: static, virtual or shared is meant");
}

/* ---- Running off -------------------------------------------------------------------------------------------- */

static enum cr_stack_kind kind_to_run_off;

static void overflows(void *unused)
{
    CHECK_EQ(cr_yield(), 0);
    (void)digger(unused);
}

static void spawns_overflow(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_spawn(NULL, overflows, NULL, &(struct cr_attr){.name = "the digger", .stack = kind_to_run_off, .stack_size_bytes = 128 << 10}), 0);
}

static void runs_off(void)
{
    _exit(cr_run(spawns_overflow, NULL, &one_shared));
}

static void runs_off_a_bare_one(void)
{
    struct cr_co *co;
    CHECK_EQ(cr_co_create(&co, digger, &(struct cr_attr){.name = "the digger", .stack = kind_to_run_off, .stack_size_bytes = 128 << 10}), 0);
    _exit(cr_co_resume(co, NULL));
}

TEST(an_overflow_of_each_kind_is_named_with_kind_size_and_call)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192], said[128];
    static const char *const names[] = {[CR_STACK_STATIC] = "static", [CR_STACK_VIRTUAL] = "virtual", [CR_STACK_SHARED] = "shared"};
    for (kind_to_run_off = CR_STACK_STATIC; kind_to_run_off <= CR_STACK_SHARED; kind_to_run_off++) {
        snprintf(said, sizeof(said), "\"the digger\" ran off its %s stack of 131072 bytes", names[kind_to_run_off]);
        for (int bare = 0; bare < 2; bare++) {
            int status = test_capture(bare ? runs_off_a_bare_one : runs_off, text, sizeof(text));
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
            CHECK_STR(text, said);
#ifdef CR_TEST_SYMBOLS
            CHECK_STR(text, "dig+0x");
#endif
        }
    }
}

static void never_starts(void *unused)
{
    (void)unused;
    CHECK(!"starts");
}

static void has_no_addresses(void)
{
    struct rlimit limit = {.rlim_cur = (rlim_t)70 << 30, .rlim_max = (rlim_t)70 << 30}; /* slabs' own reservation, and little more */
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_EQ(cr_run(never_starts, NULL, &(struct cr_config){.stack = CR_STACK_VIRTUAL}), -EDEADLK);
}

TEST(without_addresses_for_virtual_stacks_the_report_says_what_to_look_at)
{
    static char text[4096];
#ifdef TEST_SANITIZED
    SKIP("sanitizers reserve more than that themselves");
#endif
    if (RUNNING_ON_VALGRIND)
        SKIP("so does valgrind");
    int status = test_capture(has_no_addresses, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_STR(text, "waits for a stack");
    CHECK_STR(text, "no addresses are left for one");
}
