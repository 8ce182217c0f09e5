/* A checked build: who hands the runtime a pointer to what lies on another one's shared stack is found, and both are named. Linked with such a build. */
#include "test.h"

#include <sys/socket.h>

#include <crore/crore.h>
#include <crore/outside.h>

#include "sched/sched.h"

static const struct cr_attr owners = {.name = "owner", .stack = CR_STACK_SHARED};

/* All that is to lie on the owner's stack. Large, so that it reaches below what the thief has at the same place. */
struct locals {
    char room[4096];
    char bytes[64];
    struct cr_mutex mutex;
    struct cr_cond cond;
    struct cr_rwlock rwlock;
    struct cr_sem sem;
    struct cr_waitgroup group;
    struct cr_once once;
    struct cr_barrier barrier;
    struct cr_event event;
    struct cr_task task;
    char path[16];
    char padding[4096];
};

static struct locals *theirs;
static struct cr_chan *chan;
static struct cr_broadcast *broadcast;
static struct cr_subscriber subscriber;
static struct cr_conn *ends[2];
static int calls;

static void does_nothing(void *unused)
{
    (void)unused;
}

static int opens(const char *path)
{
    struct cr_conn *conn;
    int r = cr_file_open(&conn, path, O_RDONLY, 0);
    if (r == 0)
        cr_close(conn);
    return r;
}

static int ends_at_once(struct cr_task *task)
{
    (void)task;
    return 0;
}

/* Each of them once, with what is handed to it in *l; the n-th, or all. Answers do not matter, if it comes to answers. */
__attribute__((noinline)) static const char *call(int n, struct locals *l)
{
    static struct cr_mutex mutex;
    struct cr_case cases[1] = {{.chan = chan, .op = CR_SEND, .item = l->bytes}};
    struct iovec iov = {.iov_base = l->bytes, .iov_len = 1};
    switch (n) {
#define CASE(number, name, expression)                                                                                 \
    case number:                                                                                                       \
        calls += (expression) >= 0;                                                                                    \
        return name;
        CASE(0, "cr_chan_send", cr_chan_send(chan, l->bytes))
        CASE(1, "cr_chan_recv", cr_chan_recv(chan, l->bytes))
        CASE(2, "cr_select", cr_select(cases, 1))
        CASE(3, "cr_broadcast_send", cr_broadcast_send(broadcast, l->bytes))
        CASE(4, "cr_broadcast_recv", cr_broadcast_recv(&subscriber, l->bytes))
        CASE(5, "cr_mutex_lock", cr_mutex_lock(&l->mutex))
        CASE(6, "cr_mutex_unlock", cr_mutex_unlock(&l->mutex))
        CASE(7, "cr_cond_wait", cr_cond_wait_until(&l->cond, &mutex, cr_after(CR_MS)))
        CASE(8, "cr_cond_signal", (cr_cond_signal(&l->cond), 0))
        CASE(9, "cr_rwlock_rdlock", cr_rwlock_rdlock(&l->rwlock))
        CASE(10, "cr_rwlock_unlock", cr_rwlock_unlock(&l->rwlock))
        CASE(11, "cr_rwlock_wrlock", cr_rwlock_wrlock(&l->rwlock))
        CASE(12, "cr_rwlock_unlock", cr_rwlock_unlock(&l->rwlock))
        CASE(13, "cr_sem_post", cr_sem_post(&l->sem, 1))
        CASE(14, "cr_sem_wait", cr_sem_wait(&l->sem))
        CASE(15, "cr_waitgroup_add", cr_waitgroup_add(&l->group, 1))
        CASE(16, "cr_waitgroup_done", cr_waitgroup_done(&l->group))
        CASE(17, "cr_waitgroup_wait", cr_waitgroup_wait(&l->group))
        CASE(18, "cr_once", cr_once(&l->once, does_nothing, NULL))
        CASE(19, "cr_barrier_wait", cr_barrier_wait(&l->barrier, 1))
        CASE(20, "cr_event_set", cr_event_set(&l->event))
        CASE(21, "cr_event_wait", cr_event_wait(&l->event))
        CASE(22, "cr_write", cr_write(ends[0], l->bytes, 1))
        CASE(23, "cr_read", cr_read(ends[1], l->bytes, 1))
        CASE(24, "cr_writev", cr_writev(ends[0], &iov, 1))
        CASE(25, "cr_readv", cr_readv(ends[1], &iov, 1))
        CASE(26, "cr_write_all", cr_write_all(ends[0], l->bytes, 1))
        CASE(27, "cr_read", cr_read(ends[1], l->bytes, 1))
        CASE(28, "cr_blocking", cr_blocking(does_nothing, l->bytes))
        CASE(29, "cr_unpark_many", cr_unpark_many((struct cr_co *const *)(void *)l->bytes, 0))
        CASE(30, "cr_task_go", cr_task_go(&l->task, sizeof(l->task)))
        CASE(31, "cr_task_spawn_on", cr_task_spawn_on(NULL, 0, &l->task, sizeof(l->task), NULL))
        CASE(32, "cr_file_open", opens(l->path))
#undef CASE
    default:
        return NULL;
    }
}

static void prepare(void)
{
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_conn_from_fd(&ends[i], fds[i]), 0);
    CHECK_EQ(cr_chan_create(&chan, 1, 64), 0);
    CHECK_EQ(cr_broadcast_create(&broadcast, 1, 4), 0);
    cr_broadcast_subscribe(broadcast, &subscriber);
}

/* ---- One's own ----------------------------------------------------------------------------------------------- */

static void hands_its_own(void *unused)
{
    struct locals mine = {0};
    (void)unused;
    mine.task = CR_TASK(ends_at_once);
    strcpy(mine.path, "/dev/null");
    int n = 0;
    while (call(n, &mine))
        n++;
    CHECK(calls >= n - 1); /* all but the wait that its deadline ends, at least */
}

static void own_with_neighbours(void *unused)
{
    struct cr_co *co[6];
    (void)unused;
    prepare();
    for (int i = 0; i < 6; i++) { /* they take turns on their stacks, in between */
        calls = 0;
        CHECK_EQ(cr_spawn(&co[i], hands_its_own, NULL, &owners), 0);
        CHECK_EQ(cr_join(co[i]), 0);
    }
}

TEST(what_lies_on_ones_own_stack_may_be_handed_over)
{
    CHECK_EQ(cr_run(own_with_neighbours, NULL, NULL), 0);
}

static void *hands_what_its_resumer_has(void *locals)
{
    struct locals *l = locals;
    CHECK_EQ(cr_mutex_lock(&l->mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&l->mutex), 0);
    return NULL;
}

static void resumes_a_bare_one(void *unused)
{
    struct locals mine = {0};
    struct cr_co *bare;
    void *value = &mine;
    (void)unused;
    CHECK_EQ(cr_co_create(&bare, hands_what_its_resumer_has, &(struct cr_attr){.stack = CR_STACK_STATIC}), 0);
    CHECK_EQ(cr_co_resume(bare, &value), 1);
    CHECK_EQ(cr_co_destroy(bare), 0);
}

static void spawns_a_resumer(void *unused)
{
    struct cr_co *co;
    (void)unused;
    CHECK_EQ(cr_spawn(&co, resumes_a_bare_one, NULL, &owners), 0);
    CHECK_EQ(cr_join(co), 0);
}

TEST(a_bare_coroutine_may_hand_over_what_its_resumer_has)
{
    CHECK_EQ(cr_run(spawns_a_resumer, NULL, NULL), 0);
}

/* ---- Others' ------------------------------------------------------------------------------------------------- */

static void owns(void *unused)
{
    struct locals mine = {0};
    (void)unused;
    theirs = &mine;
    __asm__ volatile("" : : "r"(&mine) : "memory");
    if (cr_park() < 0)
        return;
    __asm__ volatile("" : : "r"(&mine) : "memory");
}

static int number;
static struct cr_attr thiefs; /* its attributes */
static unsigned workers = 1;
static bool crowded; /* others have come to the owner's stack since */

static void steals(void *unused)
{
    (void)unused;
    call(number, theirs);
    _exit(0);
}

static void parks(void *unused)
{
    (void)unused;
    (void)!cr_park();
}

static void has_something_stolen(void *unused)
{
    (void)unused;
    prepare();
    CHECK_EQ(cr_spawn_on(NULL, 0, owns, NULL, &owners), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 0; crowded && i < 8; i++)
        CHECK_EQ(cr_spawn_on(NULL, 0, parks, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED}), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_spawn_on(NULL, workers - 1, steals, NULL, &thiefs), 0);
    CHECK_EQ(cr_sleep(CR_SEC), 0);
    _exit(0);
}

static void run_a_theft(void)
{
    _exit(cr_run(has_something_stolen, NULL, &(struct cr_config){.workers = workers}) == 0 ? 0 : 1);
}

static void check_found(void)
{
    static char text[4096];
    int status = test_capture(run_a_theft, text, sizeof(text));
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        printf("# not found: call %d\n# %s\n", number, text);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "\"thief\" in ");
    CHECK_STR(text, "among the locals of coroutine");
    CHECK_STR(text, "\"owner\" in ");
}

static void check_all_calls(void)
{
    for (number = 0; number <= 32; number++)
        check_found();
}

TEST(each_call_finds_what_a_parked_one_has_while_it_is_in_place)
{
    thiefs = (struct cr_attr){.name = "thief", .stack = CR_STACK_STATIC};
    check_all_calls();
}

TEST(each_call_finds_what_a_parked_one_has_that_is_away)
{
    crowded = true;
    thiefs = (struct cr_attr){.name = "thief", .stack = CR_STACK_STATIC};
    check_all_calls();
}

TEST(one_on_a_shared_stack_itself_is_found_too)
{
    thiefs = (struct cr_attr){.name = "thief", .stack = CR_STACK_SHARED};
    number = 5;
    check_found();
    crowded = true;
    check_found();
}

TEST(what_is_on_another_workers_stack_is_found)
{
    thiefs = (struct cr_attr){.name = "thief", .stack = CR_STACK_STATIC};
    workers = 2;
    number = 22;
    check_found();
    crowded = true;
    check_found();
}

static int takes(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, takes);
    CR_AWAIT(r, cr_task_mutex_lock(task, &theirs->mutex, CR_FOREVER));
    _exit(r == 0 ? 0 : 1);
}

static int calls_theirs(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, calls_theirs);
    CR_AWAIT(r, cr_task_call(task, &theirs->task));
    _exit(r == 0 ? 0 : 1);
}

static bool by_a_call;

static void has_something_stolen_by_a_task(void *unused)
{
    struct cr_task frame = by_a_call ? CR_TASK(calls_theirs) : CR_TASK(takes);
    (void)unused;
    CHECK_EQ(cr_spawn(NULL, owns, NULL, &owners), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_task_spawn(NULL, &frame, sizeof(frame), &(struct cr_attr){.name = "thief"}), 0);
    CHECK_EQ(cr_sleep(CR_SEC), 0);
    _exit(0);
}

static void run_a_tasks_theft(void)
{
    _exit(cr_run(has_something_stolen_by_a_task, NULL, NULL) == 0 ? 0 : 1);
}

TEST(a_task_is_found_and_named_too)
{
    static char text[4096];
    int status = test_capture(run_a_tasks_theft, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "\"thief\" in takes");
    CHECK_STR(text, "cr_task_mutex_lock");
    CHECK_STR(text, "\"owner\" in owns");
    by_a_call = true;
    CHECK(WIFSIGNALED(test_capture(run_a_tasks_theft, text, sizeof(text))));
    CHECK_STR(text, "\"thief\" in calls_theirs");
    CHECK_STR(text, "cr_task_call");
}

static void hands_the_call_that_was_made(void)
{
    number = 5;
    run_a_theft();
}

TEST(the_report_names_the_call)
{
    static char text[4096];
    thiefs = (struct cr_attr){.name = "thief", .stack = CR_STACK_STATIC};
    CHECK(WIFSIGNALED(test_capture(hands_the_call_that_was_made, text, sizeof(text))));
    CHECK_STR(text, "to cr_mutex_lock: that lies on a shared stack");
}
