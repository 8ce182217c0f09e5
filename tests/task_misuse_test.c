/* Tasks: misuse is named, and dumps and reports tell where they are. */
#include "tasks.h"

/* ---- Misuse, and what is told ------------------------------------------------------------------------------- */

static char told[4096];

static void check_abort(void (*fn)(void), const char *part)
{
    int status = test_capture(fn, told, sizeof(told));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(told, "crore: ");
    if (!strstr(told, part)) {
        printf("# in: %s\n", told);
        test_fail(__FILE__, __LINE__, part);
    }
}

/* Room for any of these tasks. */
struct caller {
    struct cr_task task;
    struct sleeper first;
    int r;
};

static void run_task(struct cr_task task)
{
    static struct caller frame;
    frame.task = task;
    struct cr_co *co;
    SPAWN(co, frame);
    result_of(co);
}

static struct cr_mutex mutex;

static int ends_with_a_lock(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    CR_TASK_BEGIN(task, ends_with_a_lock);
    CR_AWAIT(me->r, cr_task_mutex_lock(task, &mutex, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    return 0;
}

static void runs_what_ends_with_a_lock(void *unused)
{
    (void)unused;
    run_task(CR_TASK(ends_with_a_lock));
}

static void end_with_a_lock(void)
{
    (void)!cr_run(runs_what_ends_with_a_lock, NULL, NULL);
}

TEST(a_task_that_ends_with_a_mutex_ends_the_program)
{
    check_abort(end_with_a_lock, "crore: task ");
    CHECK_STR(told, "has ended without unlocking 1 lock that it holds\n");
}

static void awaits_alone(void *unused)
{
    (void)unused;
    struct sleeper frame = {.task = CR_TASK(sleeps)};
    (void)!frame.task.at->next(&frame.task);
}

static void await_outside(void)
{
    (void)!cr_run(awaits_alone, NULL, NULL);
}

TEST(an_await_outside_of_a_task_is_named)
{
    check_abort(await_outside, "sleeps (");
    CHECK_STR(told, "tests/tasks.h:");
    CHECK_STR(told, "where no task runs");
}

static int calls_twice(struct cr_task *task)
{
    struct caller *me = (struct caller *)task;
    static struct sleeper callee;
    CR_TASK_BEGIN(task, calls_twice);
    callee = (struct sleeper){.task = CR_TASK(sleeps)};
    CR_AWAIT(me->r, cr_task_call(task, &callee.task));
    CR_AWAIT(me->r, cr_task_call(task, &callee.task));
    return 0;
}

static int calls_nothing(struct cr_task *task)
{
    struct caller *me = (struct caller *)task;
    CR_TASK_BEGIN(task, calls_nothing);
    me->first.task = (struct cr_task){0};
    CR_AWAIT(me->r, cr_task_call(task, &me->first.task));
    return 0;
}

static int gives_seven(struct cr_task *task)
{
    (void)task;
    return 7;
}

static struct cr_task *its_frame;

static int tells_its_frame(struct cr_task *task)
{
    its_frame = task;
    return 0;
}

static void resumes_an_ended_one(void *unused)
{
    (void)unused;
    struct sleeper frame = {.task = CR_TASK(tells_its_frame)};
    struct cr_co *co; /* keeps it */
    SPAWN(co, frame);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    (void)!its_frame->at->next(its_frame);
}

static void resume_an_ended_one(void)
{
    (void)!cr_run(resumes_an_ended_one, NULL, NULL);
}

TEST(a_spawned_task_that_is_resumed_after_its_end_is_named)
{
    check_abort(resume_an_ended_one, "task tells_its_frame was resumed after its end (it was last at " __FILE__ ":");
}

static int spawns_used_frames(struct cr_task *task)
{
    struct caller *me = (struct caller *)task;
    CR_TASK_BEGIN(task, spawns_used_frames);
    me->first = (struct sleeper){.task = CR_TASK(gives_seven)};
    CR_AWAIT(me->r, cr_task_call(task, &me->first.task));
    CHECK_EQ(me->r, 7);
    CHECK_EQ(cr_task_go(&me->first.task, sizeof(me->first)), -EINVAL); /* has ended */
    CHECK_EQ(cr_task_go(task, sizeof(*me)), -EINVAL);                  /* runs */
    static const struct cr_point nowhere = {.file = __FILE__};
    CHECK_EQ(cr_task_go(&(struct cr_task){.at = &nowhere}, sizeof(struct cr_task)), -EINVAL);
    return 1;
}

TEST_BOTH(what_has_begun_or_ended_is_not_spawned)
{
    struct caller frame = {.task = CR_TASK(spawns_used_frames)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 1);
}

static int backtrace_at_end = -1;

static void tells_where_it_is(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_task_backtrace(backtrace_at_end), 0);
}

static int has_something_to_destroy(struct cr_task *task)
{
    static unsigned key;
    CR_TASK_BEGIN(task, has_something_to_destroy);
    CHECK_EQ(cr_local_key(&key, tells_where_it_is), 0);
    CHECK_EQ(cr_local_set(key, &key), 0);
    return 1;
}

TEST_CO(a_task_can_tell_where_it_was_while_its_local_storage_is_destroyed)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    backtrace_at_end = fds[1];
    struct sleeper frame = {.task = CR_TASK(has_something_to_destroy)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 1);
    ssize_t n = read(fds[0], told, sizeof(told) - 1);
    CHECK(n > 0);
    told[n] = '\0';
    CHECK_STR(told, "in has_something_to_destroy at " __FILE__ ":");
}

static int only_waits(struct cr_task *task)
{
    (void)task;
    return CR_WAITS;
}

static int ends_waiting(struct cr_task *task)
{
    return cr_task_yield(task) == CR_WAITS ? 0 : 1;
}

static int forgets(struct cr_task *task)
{
    static struct cr_sem sem;
    struct sleeper *me = (struct sleeper *)task;
    return me->i++ == 0 ? cr_task_sleep(task, cr_after(CR_MS)) : cr_task_sem_wait(task, &sem, CR_FOREVER);
}

static int awaits_for_another(struct cr_task *task)
{
    static struct sleeper another;
    (void)task;
    another = (struct sleeper){.task = CR_TASK(sleeps)};
    return cr_task_yield(&another.task);
}

/* A hand-written one that goes on with something else when what it called has ended. */
static int does_not_ask_again(struct cr_task *task)
{
    static struct sleeper called;
    static int state;
    if (state++ == 0) {
        called = (struct sleeper){.task = CR_TASK(sleeps)};
        return cr_task_call(task, &called.task);
    }
    return cr_task_sleep(task, cr_after(CR_MS));
}

static void *awaits_in_bare(void *task)
{
    (void)!cr_task_yield(task);
    return NULL;
}

static int awaits_inside(struct cr_task *task)
{
    struct cr_co *co;
    void *value = task;
    CHECK_EQ(cr_co_create(&co, awaits_in_bare, NULL), 0);
    return cr_co_resume(co, &value);
}

#define MISUSE(fn)                                                  \
    static void body_of_##fn(void *unused __attribute__((unused))) \
    {                                                               \
        run_task(CR_TASK(fn));                                      \
    }                                                               \
    static void run_##fn(void)                                      \
    {                                                               \
        (void)!cr_run(body_of_##fn, NULL, NULL);                    \
    }
MISUSE(calls_twice)
MISUSE(calls_nothing)
MISUSE(only_waits)
MISUSE(ends_waiting)
MISUSE(forgets)
MISUSE(awaits_for_another)
MISUSE(awaits_inside)
MISUSE(does_not_ask_again)

TEST(misuse_is_named)
{
    check_abort(run_calls_twice, "task sleeps was resumed after its end (it was last at ");
    CHECK_STR(told, "tests/tasks.h:");
    check_abort(run_calls_nothing, "calls_nothing (" __FILE__ ":");
    CHECK_STR(told, "calls a task whose frame does not say what it runs");
    check_abort(run_only_waits, "task only_waits (" __FILE__ ":");
    CHECK_STR(told, "says that it waits, and awaits nothing");
    check_abort(run_ends_waiting, "has ended while it waits");
    check_abort(run_forgets, "did not call again what it awaits");
    check_abort(run_awaits_for_another, "is not the task that runs: that is awaits_for_another");
    check_abort(run_awaits_inside, "inside a bare coroutine");
    check_abort(run_does_not_ask_again, "did not call again what it awaits");
}

struct deep {
    struct cr_task task;
    struct tree *unused;
    struct inner {
        struct cr_task task;
        int r;
    } inner;
    int r;
};

static struct cr_sem never;
static int backtrace_fd = -1;

static int waits_inside(struct cr_task *task)
{
    struct inner *me = (struct inner *)task;
    CR_TASK_BEGIN(task, waits_inside);
    if (backtrace_fd >= 0)
        CHECK_EQ(cr_task_backtrace(backtrace_fd), 0);
    CR_AWAIT(me->r, cr_task_sem_wait(task, &never, CR_FOREVER));
    return me->r;
}

static int calls_one_that_waits(struct cr_task *task)
{
    struct deep *me = (struct deep *)task;
    CR_TASK_BEGIN(task, calls_one_that_waits);
    me->inner = (struct inner){.task = CR_TASK(waits_inside)};
    CR_AWAIT(me->r, cr_task_call(task, &me->inner.task));
    return me->r;
}

static void spawns_those_that_wait(void *unused)
{
    (void)unused;
    struct deep frame = {.task = CR_TASK(calls_one_that_waits)};
    for (int i = 0; i < 5; i++)
        GO(frame);
}

static void stay_for_ever(void)
{
    CHECK_EQ(cr_run(spawns_those_that_wait, NULL, NULL), -EDEADLK);
}

TEST(when_nothing_can_run_any_more_the_chain_of_awaits_is_told)
{
    CHECK_EQ(test_capture(stay_for_ever, told, sizeof(told)), 0);
    CHECK_STR(told, "nothing can ever run again: 5 coroutines parked");
    CHECK_STR(told, "5 in calls_one_that_waits wait for a semaphore");
    CHECK_STR(told, "in waits_inside at " __FILE__ ":");
    CHECK_STR(told, "from calls_one_that_waits at " __FILE__ ":");
}

TEST_BOTH(a_dump_shows_the_chain_of_awaits)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct deep frame = {.task = CR_TASK(calls_one_that_waits)};
    struct cr_co *all[20];
    for (int i = 0; i < 20; i++)
        SPAWN(all[i], frame);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_dump(fds[1]), 0);
    ssize_t n = read(fds[0], told, sizeof(told) - 1);
    CHECK(n > 0);
    told[n] = '\0';
    CHECK_STR(told, "20 in calls_one_that_waits wait for a semaphore");
    CHECK_STR(told, "in waits_inside at " __FILE__ ":");
    CHECK_STR(told, "from calls_one_that_waits at " __FILE__ ":");
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_cancel(all[i]), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(result_of(all[i]), -ECANCELED);
}

TEST_CO(a_task_can_tell_where_it_is)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    backtrace_fd = fds[1];
    struct deep frame = {.task = CR_TASK(calls_one_that_waits)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(cr_yield(), 0);
    ssize_t n = read(fds[0], told, sizeof(told) - 1);
    CHECK(n > 0);
    told[n] = '\0';
    CHECK_STR(told, "in waits_inside at " __FILE__ ":");
    CHECK_STR(told, "from calls_one_that_waits at " __FILE__ ":");
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(result_of(co), -ECANCELED);
}

static int spins(struct cr_task *task)
{
    (void)task;
    for (int64_t end_ns = cr_after(60 * CR_MS); cr_now() < end_ns;)
        ;
    return 0;
}

static void is_slow(void *unused)
{
    (void)unused;
    struct sleeper frame = {.task = CR_TASK(spins)};
    GO(frame);
}

static void run_slow(void)
{
    CHECK_EQ(cr_run(is_slow, NULL, &(struct cr_config){.slow_ns = 20 * CR_MS}), 0);
}

TEST(a_task_that_runs_for_too_long_is_reported)
{
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind lets one thread run at a time");
    CHECK_EQ(test_capture(run_slow, told, sizeof(told)), 0);
    CHECK_STR(told, "in spins has run for");
}

/* Whoever finds always what it wants lets others run nevertheless. */
