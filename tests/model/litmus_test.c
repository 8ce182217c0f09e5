/* The explorer, by litmus tests whose outcomes are known: what must be found is, and what can't happen isn't. (That exactly the right
 * executions are explored is axioms_test.c's.) */
#include "expect.h"

/* ---- Message passing ---------------------------------------------------------------------------------------- */

THREAD(write_and_release)
{
    data = 1;
    STORE(x, 1, RELEASE);
}

THREAD(write_and_store)
{
    data = 1;
    STORE(x, 1, RELAXED);
}

THREAD(write_fence_store)
{
    data = 1;
    atomic_thread_fence(RELEASE);
    STORE(x, 1, RELAXED);
}

THREAD(acquire_and_read)
{
    if (LOAD(x, ACQUIRE))
        model_assert(data == 1);
}

THREAD(load_and_read)
{
    if (LOAD(x, RELAXED))
        model_assert(data == 1);
}

THREAD(load_fence_read)
{
    if (LOAD(x, RELAXED)) {
        atomic_thread_fence(ACQUIRE);
        model_assert(data == 1);
    }
}

THREADS(release_acquire, write_and_release, acquire_and_read)
THREADS(release_relaxed, write_and_release, load_and_read)
THREADS(relaxed_acquire, write_and_store, acquire_and_read)
THREADS(fence_fence, write_fence_store, load_fence_read)
THREADS(fence_acquire, write_fence_store, acquire_and_read)
THREADS(fence_relaxed, write_fence_store, load_and_read)
THREADS(release_fence, write_and_release, load_fence_read)
THREADS(relaxed_fence, write_and_store, load_fence_read)

TEST(what_is_written_before_a_release_is_seen_behind_an_acquire)
{
    expect(MODEL_HOLDS, release_acquire, NULL);
    CHECK_EQ(last.executions, 2);
    expect(MODEL_RACE, release_relaxed, NULL);
    expect(MODEL_RACE, relaxed_acquire, NULL);
}

TEST(fences_do_the_same_around_relaxed_accesses)
{
    expect(MODEL_HOLDS, fence_fence, NULL);
    expect(MODEL_HOLDS, fence_acquire, NULL);
    expect(MODEL_HOLDS, release_fence, NULL);
    expect(MODEL_RACE, fence_relaxed, NULL);
    expect(MODEL_RACE, relaxed_fence, NULL);
}

/* ---- Store buffering ---------------------------------------------------------------------------------------- */

#define STORE_BUFFERING(name, order, fence)                                                                            \
    THREAD(name##_0)                                                                                                   \
    {                                                                                                                  \
        STORE(x, 1, order);                                                                                            \
        fence;                                                                                                         \
        seen[0] = LOAD(y, order);                                                                                      \
    }                                                                                                                  \
    THREAD(name##_1)                                                                                                   \
    {                                                                                                                  \
        STORE(y, 1, order);                                                                                            \
        fence;                                                                                                         \
        seen[1] = LOAD(x, order);                                                                                      \
    }                                                                                                                  \
    THREADS(name, name##_0, name##_1)

STORE_BUFFERING(sb_relaxed, RELAXED, )
STORE_BUFFERING(sb_fences, RELAXED, atomic_thread_fence(SEQ_CST))
STORE_BUFFERING(sb_weak_fences, RELAXED, atomic_thread_fence(memory_order_acq_rel))
STORE_BUFFERING(sb_seq_cst, SEQ_CST, )

static void one_saw_the_other(void)
{
    model_assert(seen[0] || seen[1]);
}

TEST(stores_are_buffered_unless_something_is_sequentially_consistent)
{
    expect(MODEL_ASSERTION, sb_relaxed, one_saw_the_other);
    expect(MODEL_ASSERTION, sb_weak_fences, one_saw_the_other);
    expect(MODEL_HOLDS, sb_fences, one_saw_the_other);
    CHECK_EQ(last.executions, 3);
    expect(MODEL_HOLDS, sb_seq_cst, one_saw_the_other);
    CHECK_EQ(last.executions, 3);
}

/* ---- Coherence ---------------------------------------------------------------------------------------------- */

THREAD(store_1_2)
{
    STORE(x, 1, RELAXED);
    STORE(x, 2, RELAXED);
}

THREAD(load_twice)
{
    int first = LOAD(x, RELAXED), second = LOAD(x, RELAXED);
    model_assert(second >= first);
}

THREAD(store_x_1_y_2)
{
    STORE(x, 1, RELAXED);
    STORE(y, 2, RELAXED);
}

THREAD(store_y_1_x_2)
{
    STORE(y, 1, RELAXED);
    STORE(x, 2, RELAXED);
}

static void not_both_1(void)
{
    model_assert(LOAD(x, RELAXED) != 1 || LOAD(y, RELAXED) != 1);
}

THREAD(store_x)
{
    STORE(x, 1, SEQ_CST);
}

THREAD(store_y)
{
    STORE(y, 1, SEQ_CST);
}

#define READ_BOTH(name, order)                                                                                         \
    THREAD(name##_xy)                                                                                                  \
    {                                                                                                                  \
        seen[0] = LOAD(x, order);                                                                                      \
        seen[1] = LOAD(y, order);                                                                                      \
    }                                                                                                                  \
    THREAD(name##_yx)                                                                                                  \
    {                                                                                                                  \
        seen[2] = LOAD(y, order);                                                                                      \
        seen[3] = LOAD(x, order);                                                                                      \
    }                                                                                                                  \
    THREADS(name, store_x, store_y, name##_xy, name##_yx)

READ_BOTH(iriw_acquire, ACQUIRE)
READ_BOTH(iriw_seq_cst, SEQ_CST)
THREADS(coherence, store_1_2, load_twice, load_twice)
THREADS(two_plus_two, store_x_1_y_2, store_y_1_x_2)

static void one_order(void)
{
    model_assert(!(seen[0] && !seen[1] && seen[2] && !seen[3]));
}

TEST(reads_of_one_location_never_go_back)
{
    expect(MODEL_HOLDS, coherence, NULL);
    CHECK_EQ(last.executions, 36); /* 0, 1 or 2, and then not older: 6 for each reader */
}

TEST(the_order_of_stores_need_not_be_that_of_execution)
{
    expect(MODEL_ASSERTION, two_plus_two, not_both_1);
}

TEST(independent_writes_are_seen_in_different_orders_unless_sequentially_consistent)
{
    expect(MODEL_ASSERTION, iriw_acquire, one_order);
    expect(MODEL_HOLDS, iriw_seq_cst, one_order);
    CHECK_EQ(last.executions, 15);
}

/* ---- Release sequences -------------------------------------------------------------------------------------- */

THREAD(add_relaxed)
{
    ADD(x, 1, RELAXED);
}

THREAD(store_2_relaxed)
{
    STORE(x, 2, RELAXED);
}

THREAD(read_at_2)
{
    if (LOAD(x, ACQUIRE) == 2)
        model_assert(data == 1);
}

THREAD(release_and_store_again)
{
    data = 1;
    STORE(x, 1, RELEASE);
    STORE(x, 2, RELAXED);
}

THREAD(add_if_1)
{
    int one = 1;
    atomic_compare_exchange_strong_explicit(&x, &one, 2, RELAXED, RELAXED);
}

THREADS(sequence_by_add, write_and_release, add_if_1, read_at_2)
THREADS(sequence_by_store, write_and_release, store_2_relaxed, read_at_2)
THREADS(sequence_by_own_store, release_and_store_again, read_at_2)

TEST(rmws_continue_a_release_sequence_and_stores_do_not)
{
    expect(MODEL_HOLDS, sequence_by_add, NULL);
    expect(MODEL_RACE, sequence_by_store, NULL);
    expect(MODEL_RACE, sequence_by_own_store, NULL); /* since C++20 */
}

/* ---- Each execution once ------------------------------------------------------------------------------------- */

static void sum_is_4(void)
{
    model_assert(LOAD(x, RELAXED) == 4);
}

THREAD(store_own)
{
    STORE(x, model_self(), RELAXED);
}

THREAD(load_x)
{
    seen[0] = LOAD(x, RELAXED);
}

THREADS(four_adds, add_relaxed, add_relaxed, add_relaxed, add_relaxed)
THREADS(four_stores, store_own, store_own, store_own, store_own)
THREADS(three_stores_and_a_load, store_own, store_own, store_own, load_x)

TEST(each_execution_is_explored_once)
{
    expect(MODEL_HOLDS, four_adds, sum_is_4);
    CHECK_EQ(last.executions, 24);
    expect(MODEL_HOLDS, four_stores, NULL);
    CHECK_EQ(last.executions, 24);
    expect(MODEL_HOLDS, three_stores_and_a_load, NULL);
    CHECK_EQ(last.executions, 24); /* 6 orders, 4 writes to read from */
    CHECK_EQ(last.cut, 0);
}

/* ---- Locks -------------------------------------------------------------------------------------------------- */

#define LOCKED(name, lock, unlock)                                                                                     \
    THREAD(name##_user)                                                                                                \
    {                                                                                                                  \
        lock;                                                                                                          \
        data++;                                                                                                        \
        unlock;                                                                                                        \
    }                                                                                                                  \
    THREADS(name, name##_user, name##_user, name##_user)

static void lock_by_exchange(int order)
{
    while (order == ACQUIRE ? atomic_exchange_explicit(&x, 1, ACQUIRE) : atomic_exchange_explicit(&x, 1, RELAXED))
        model_spin();
}

static void lock_by_compare(void)
{
    int free = 0;
    while (!atomic_compare_exchange_strong_explicit(&x, &free, 1, ACQUIRE, RELAXED)) {
        free = 0;
        model_spin();
    }
}

static void lock_without_telling(void)
{
    do
        while (LOAD(x, RELAXED))
            ;
    while (atomic_exchange_explicit(&x, 1, ACQUIRE));
}

static void lock_by_ticket(void)
{
    int mine = ADD(x, 1, RELAXED);
    model_wait(LOAD(y, ACQUIRE) == mine);
}

LOCKED(locked, lock_by_exchange(ACQUIRE), STORE(x, 0, RELEASE))
LOCKED(locked_relaxed, lock_by_exchange(RELAXED), STORE(x, 0, RELEASE))
LOCKED(unlocked_relaxed, lock_by_exchange(ACQUIRE), STORE(x, 0, RELAXED))
LOCKED(compared, lock_by_compare(), STORE(x, 0, RELEASE))
LOCKED(untold, lock_without_telling(), STORE(x, 0, RELEASE))
LOCKED(ticketed, lock_by_ticket(), ADD(y, 1, RELEASE))
LOCKED(forgotten, lock_by_exchange(ACQUIRE), (void)0)

static void three(void)
{
    model_assert(data == 3);
}

TEST(locks_protect_plain_data)
{
    expect(MODEL_HOLDS, locked, three);
    expect(MODEL_HOLDS, compared, three);
    expect(MODEL_HOLDS, ticketed, three);
    expect(MODEL_RACE, locked_relaxed, three);
    expect(MODEL_RACE, unlocked_relaxed, three);
}

TEST(loops_that_spin_end_also_if_they_do_not_say_so)
{
    expect_with(&(struct model_options){.spin_rounds = 2}, MODEL_HOLDS, untold, three);
}

TEST(a_lock_that_is_never_given_back_is_a_deadlock)
{
    expect(MODEL_DEADLOCK, forgotten, three);
    CHECK_STR(last.what, "(forgotten_user) spins at tests/model/litmus_test.c:");
}

#define DEKKER(name, order)                                                                                            \
    THREAD(name##_0)                                                                                                   \
    {                                                                                                                  \
        STORE(x, 1, order == SEQ_CST ? SEQ_CST : RELEASE);                                                             \
        if (!LOAD(y, order))                                                                                           \
            data++;                                                                                                    \
    }                                                                                                                  \
    THREAD(name##_1)                                                                                                   \
    {                                                                                                                  \
        STORE(y, 1, order == SEQ_CST ? SEQ_CST : RELEASE);                                                             \
        if (!LOAD(x, order))                                                                                           \
            data++;                                                                                                    \
    }                                                                                                                  \
    THREADS(name, name##_0, name##_1)

DEKKER(dekker, SEQ_CST)
DEKKER(dekker_weak, ACQUIRE)

TEST(dekker_excludes_only_by_sequential_consistency)
{
    expect(MODEL_HOLDS, dekker, NULL);
    expect(MODEL_RACE, dekker_weak, NULL);
}

/* ---- A stack, and ABA --------------------------------------------------------------------------------------- */

#define NODES 3
static _Atomic uint32_t next_of[NODES + 1]; /* nodes have numbers from 1 */
static _Atomic uint32_t top;                /* the number of the newest, and above it how often it has changed, if that is counted */
static bool counted;
static _Atomic int holders[NODES + 1];

static uint32_t changed_top(uint32_t old, uint32_t node)
{
    return counted ? (old & ~0xffu) + 0x100 + node : node;
}

static void stack_push(uint32_t node)
{
    uint32_t old = LOAD(top, RELAXED);
    do
        STORE(next_of[node], old & 0xff, RELAXED);
    while (!atomic_compare_exchange_strong_explicit(&top, &old, changed_top(old, node), RELEASE, RELAXED));
}

static uint32_t stack_pop(void)
{
    uint32_t old = LOAD(top, ACQUIRE);
    while (old & 0xff) {
        uint32_t next = LOAD(next_of[old & 0xff], RELAXED);
        if (atomic_compare_exchange_strong_explicit(&top, &old, changed_top(old, next), ACQUIRE, ACQUIRE)) {
            model_assert(ADD(holders[old & 0xff], 1, RELAXED) == 0); /* nobody else has it */
            return old & 0xff;
        }
    }
    return 0;
}

THREAD(pop_one)
{
    stack_pop();
}

THREAD(pop_two_push_first)
{
    uint32_t first = stack_pop();
    stack_pop();
    if (first) {
        ADD(holders[first], -1, RELAXED);
        stack_push(first);
    }
}

static void stack_of_three(void)
{
    for (uint32_t i = 1; i < NODES; i++)
        next_of[i] = i + 1;
    top = 1;
    model_thread(pop_one, NULL);
    model_thread(pop_two_push_first, NULL);
}

static void nobody_lost(void)
{
    while (stack_pop())
        ;
    for (int i = 1; i <= NODES; i++)
        model_assert(holders[i] == 1);
}

TEST(a_stack_without_counter_falls_for_aba)
{
    counted = false;
    expect(MODEL_ASSERTION, stack_of_three, nobody_lost);
}

TEST(a_stack_with_counter_does_not)
{
    counted = true;
    expect(MODEL_HOLDS, stack_of_three, nobody_lost);
}
