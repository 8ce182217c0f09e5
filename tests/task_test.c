/* Tasks: coroutines without a stack. */
#include <crore/crore.h>

#include "test.h"

static const struct cr_config several = {.workers = 2};

/* Each test runs on one worker and on two. */
#define TEST_BOTH(name)                                 \
    static void name(void *unused);                     \
    TEST(name##_on_one_worker)                          \
    {                                                   \
        CHECK_EQ(cr_run(name, NULL, NULL), 0);          \
    }                                                   \
    TEST(name##_on_two_workers)                         \
    {                                                   \
        CHECK_EQ(cr_run(name, NULL, &several), 0);      \
    }                                                   \
    static void name(void *unused __attribute__((unused)))

#define GO(frame) CHECK_EQ(cr_task_go(&(frame).task, sizeof(frame)), 0)
#define SPAWN(co, frame) CHECK_EQ(cr_task_spawn(&(co), &(frame).task, sizeof(frame), NULL), 0)

/* Waits for a task; its result. */
static int result_of(struct cr_co *co)
{
    int result = -1;
    CHECK_EQ(cr_join_task(co, &result), 0);
    return result;
}

/* ---- The protocol, and the macros --------------------------------------------------------------------------- */

struct sleeper {
    struct cr_task task;
    int64_t deadline_ns;
    int i, r;
};

static int sleeps(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    CR_TASK_BEGIN(task, sleeps);
    me->deadline_ns = cr_after(2 * CR_MS);
    CR_AWAIT(me->r, cr_task_sleep(task, me->deadline_ns));
    CHECK_EQ(me->r, 0);
    CHECK(cr_now() >= me->deadline_ns);
    CR_AWAIT(me->r, cr_task_sleep(task, 0));
    return me->r == 0 ? 42 : 0;
}

TEST_BOTH(a_task_sleeps_and_its_result_is_joined)
{
    struct sleeper frame = {.task = CR_TASK(sleeps)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 42);
}

static int yields_a_hundred_times(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    CR_TASK_BEGIN(task, yields_a_hundred_times);
    for (me->i = 0; me->i < 100; me->i++)
        CR_AWAIT(me->r, cr_task_yield(task));
    return me->i;
}

TEST_BOTH(tasks_take_turns_with_coroutines)
{
    struct sleeper frame = {.task = CR_TASK(yields_a_hundred_times)};
    struct cr_co *all[10];
    for (int i = 0; i < 10; i++)
        SPAWN(all[i], frame);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_yield(), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(result_of(all[i]), 100);
}

static int cleaned;

static int switches(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    int twice; /* not kept across an await */
    CR_TASK_BEGIN(task, switches);
    for (me->i = 0;; me->i++) {
        switch (me->i) {
        case 0:
            CR_AWAIT(me->r, cr_task_yield(task));
            break;
        case 1:
            CR_AWAIT(me->r, cr_task_yield(task)); CR_AWAIT(me->r, cr_task_yield(task));
            continue;
        case 2:
            if (me->deadline_ns)
                return 5;
            break;
        default:
            CR_AWAIT(twice, cr_task_sleep(task, cr_after(CR_MS)));
            if (twice == 0)
                goto out;
        }
    }
out:
    cleaned++;
    return me->i;
}

TEST_CO(a_switch_an_early_return_and_a_clean_up_label_work_in_a_body)
{
    struct sleeper frame = {.task = CR_TASK(switches)}, early = frame;
    struct cr_co *co;
    early.deadline_ns = 1;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 3);
    CHECK_EQ(cleaned, 1);
    SPAWN(co, early);
    CHECK_EQ(result_of(co), 5);
    CHECK_EQ(cleaned, 1);
}

/* By hand: a state variable, and no macro. */
struct by_hand {
    struct cr_task task;
    enum { FIRST, SECOND, LAST } state;
};

static int goes_on(struct cr_task *task)
{
    struct by_hand *me = (struct by_hand *)task;
    switch (me->state) {
    case FIRST:
        if (cr_task_yield(task) == CR_WAITS)
            return CR_WAITS;
        me->state = SECOND;
        /* fall through */
    case SECOND:
        if (cr_task_sleep(task, cr_after(CR_MS)) == CR_WAITS)
            return CR_WAITS;
        me->state = LAST;
        /* fall through */
    default:
        return 9;
    }
}

static const struct cr_point by_hand_point = {.next = goes_on, .function = "goes_on", .file = __FILE__, .line = __LINE__};

TEST_BOTH(the_protocol_can_be_implemented_by_hand)
{
    struct by_hand frame = {.task.at = &by_hand_point};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 9);
}

struct of_generator {
    struct cr_task task;
    int i, r;
};

/* A leaf of one's own. */
static int hand_out(struct of_generator *me, int *value, bool *taken)
{
    if (*taken)
        return *taken = false;
    *value = me->i;
    *taken = true;
    return CR_WAITS;
}

static int generated;
static bool generated_taken;

static int generates(struct cr_task *task)
{
    struct of_generator *me = (struct of_generator *)task;
    CR_TASK_BEGIN(task, generates);
    for (me->i = 0; me->i < 3; me->i++)
        CR_AWAIT(me->r, hand_out(me, &generated, &generated_taken));
    return 0;
}

TEST(without_a_runtime_whoever_calls_next_drives_it)
{
    struct of_generator frame = {.task = CR_TASK(generates)};
    int sum = 0, rounds = 0;
    while (frame.task.at->next(&frame.task) == CR_WAITS) {
        sum += 10 * generated + 1;
        rounds++;
    }
    CHECK_EQ(sum, 33);
    CHECK_EQ(rounds, 3);
}

/* ---- Sub-tasks ---------------------------------------------------------------------------------------------- */

struct tree {
    struct cr_task task;
    int depth, sum, r, i;
    struct tree *child;
};

/* Yields at each level, on the way down and on the way up. */
static int grows(struct cr_task *task)
{
    struct tree *me = (struct tree *)task;
    CR_TASK_BEGIN(task, grows);
    if (me->depth == 0)
        return 1;
    CR_AWAIT(me->r, cr_task_yield(task));
    me->child = malloc(sizeof(*me->child));
    CHECK(me->child != NULL);
    for (me->i = 0; me->i < 2; me->i++) {
        *me->child = (struct tree){.task = CR_TASK(grows), .depth = me->depth - 1};
        CR_AWAIT(me->r, cr_task_call(task, &me->child->task));
        me->sum += me->r;
        CR_AWAIT(me->r, cr_task_yield(task));
    }
    free(me->child);
    return me->sum;
}

TEST_BOTH(a_task_calls_others_to_any_depth)
{
    struct tree frame = {.task = CR_TASK(grows), .depth = 8};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 256);
}

struct in_frame {
    struct cr_task task;
    struct sleeper first;
    struct by_hand second;
    int r, sum;
};

static int calls_both(struct cr_task *task)
{
    struct in_frame *me = (struct in_frame *)task;
    CR_TASK_BEGIN(task, calls_both);
    me->first = (struct sleeper){.task = CR_TASK(sleeps)};
    CR_AWAIT(me->r, cr_task_call(task, &me->first.task));
    me->sum = me->r;
    me->second = (struct by_hand){.task.at = &by_hand_point};
    CR_AWAIT(me->r, cr_task_call(task, &me->second.task));
    return me->sum + me->r;
}

TEST_CO(a_frame_may_hold_those_of_the_tasks_that_it_calls)
{
    struct in_frame frame = {.task = CR_TASK(calls_both)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 51);
}
