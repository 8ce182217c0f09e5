/* Tasks, coroutines without a stack: the protocol, tasks that call others, scopes, workers, all at once. What they await is in task_await_test.c, misuse in task_misuse_test.c. */
#include "tasks.h"

/* ---- The protocol, and the macros --------------------------------------------------------------------------- */

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

/* ---- Coroutines and scopes ---------------------------------------------------------------------------------- */

struct reading {
    struct cr_task task;
    char text[8];
    ssize_t n;
    int r;
    int64_t deadline_ns;
};

static void reads_a_file(void *arg)
{
    struct reading *me = arg;
    struct cr_conn *file;
    CHECK_EQ(cr_file_open(&file, "/proc/self/comm", O_RDONLY, 0), 0);
    me->n = cr_read(file, me->text, sizeof(me->text));
    cr_close(file);
}

static int has_a_file_read(struct cr_task *task)
{
    struct reading *me = (struct reading *)task;
    CR_TASK_BEGIN(task, has_a_file_read);
    CR_AWAIT(me->r, cr_task_run(task, reads_a_file, me, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    return (int)me->n;
}

static void sleeps_long(void *arg)
{
    ((struct reading *)arg)->n = cr_sleep(100 * CR_SEC);
    CHECK_EQ(cr_cancel_mask(CR_SEC), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
}

static int has_it_sleep_long(struct cr_task *task)
{
    struct reading *me = (struct reading *)task;
    CR_TASK_BEGIN(task, has_it_sleep_long);
    CR_AWAIT(me->r, cr_task_run(task, sleeps_long, me, me->deadline_ns));
    CHECK_EQ(me->r, 0);
    CHECK_EQ(me->n, -ECANCELED);
    CR_AWAIT(me->r, cr_task_sleep(task, cr_after(CR_MS)));
    return me->r;
}

TEST_BOTH(what_has_no_leaf_runs_on_a_coroutine)
{
    struct reading frame = {.task = CR_TASK(has_a_file_read)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK(result_of(co) > 0);
    frame = (struct reading){.task = CR_TASK(has_it_sleep_long), .deadline_ns = cr_after(2 * CR_MS)};
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 0);
    frame.deadline_ns = CR_FOREVER;
    SPAWN(co, frame);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(result_of(co), -ECANCELED); /* its own sleep: that it is cancelled stays */
}

struct family {
    struct cr_task task;
    struct cr_scope *scope;
    int64_t deadline_ns;
    struct sleeper child;
    int r, i;
};

static int children_ended;

static int is_a_child(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    CR_TASK_BEGIN(task, is_a_child);
    CR_AWAIT(me->r, cr_task_sleep(task, me->deadline_ns));
    __atomic_add_fetch(&children_ended, 1, __ATOMIC_RELAXED);
    return me->r;
}

static void is_a_stackful_child(void *unused)
{
    (void)unused;
    cr_sleep(2 * CR_MS);
    __atomic_add_fetch(&children_ended, 1, __ATOMIC_RELAXED);
}

static int has_children(struct cr_task *task)
{
    struct family *me = (struct family *)task;
    CR_TASK_BEGIN(task, has_children);
    CHECK_EQ(cr_scope_open(&me->scope, me->deadline_ns), 0);
    CHECK_EQ(cr_scope_close(me->scope), -EPERM); /* that would suspend */
    for (me->i = 0; me->i < 10; me->i++) {
        struct sleeper child = {.task = CR_TASK(is_a_child), .deadline_ns = me->deadline_ns == CR_FOREVER ? cr_after(CR_MS) : CR_FOREVER};
        CHECK_EQ(cr_scope_spawn_task(me->scope, &child.task, sizeof(child), NULL), 0);
        CHECK_EQ(cr_scope_go(me->scope, is_a_stackful_child, NULL), 0);
    }
    CR_AWAIT(me->r, cr_task_scope_wait(task, me->scope, cr_after(0)));
    CHECK(me->r == -ETIMEDOUT || me->r == -ECANCELED);
    CR_AWAIT(me->r, cr_task_scope_close(task, me->scope));
    CHECK_EQ(children_ended, 20);
    return me->r;
}

TEST_BOTH(a_task_owns_a_scope)
{
    struct family frame = {.task = CR_TASK(has_children), .deadline_ns = CR_FOREVER};
    struct cr_co *co;
    children_ended = 0;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 0);
    children_ended = 0;
    frame.deadline_ns = cr_after(100 * CR_MS);
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), -ECANCELED);
    children_ended = 0;
    frame.deadline_ns = cr_after(100 * CR_SEC);
    SPAWN(co, frame);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(result_of(co), -ECANCELED);
}

TEST_BOTH(a_coroutines_scope_joins_tasks)
{
    struct cr_scope *scope;
    struct sleeper child = {.task = CR_TASK(is_a_child), .deadline_ns = cr_after(2 * CR_MS)};
    children_ended = 0;
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_scope_spawn_task(scope, &child.task, sizeof(child), NULL), 0);
    CHECK_EQ(cr_scope_close(scope), 0);
    CHECK_EQ(children_ended, 10);
}

static void spawn_many(void *unused)
{
    (void)unused;
    struct sleeper frame = {.task = CR_TASK(is_a_child), .deadline_ns = CR_FOREVER};
    for (int i = 0; i < 1000; i++)
        GO(frame);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    cr_shutdown();
}

TEST(shutting_down_ends_tasks)
{
    children_ended = 0;
    CHECK_EQ(cr_run(spawn_many, NULL, NULL), 0);
    CHECK_EQ(children_ended, 1000);
    if (test_under_seed())
        return;
    children_ended = 0;
    CHECK_EQ(cr_run(spawn_many, NULL, &several), 0);
    CHECK_EQ(children_ended, 1000);
}

/* ---- Several workers ---------------------------------------------------------------------------------------- */

static int ran_on[4];

struct work {
    struct cr_task task;
    int worker, rounds, r;
};

static void spin(int64_t duration_ns)
{
    for (int64_t end_ns = cr_now() + duration_ns; cr_now() < end_ns;)
        ;
}

static int works(struct cr_task *task)
{
    struct work *me = (struct work *)task;
    CR_TASK_BEGIN(task, works);
    me->worker = cr_worker_index();
    for (me->rounds = 0; me->rounds < 5; me->rounds++) {
        spin(20 * CR_US);
        CR_AWAIT(me->r, cr_task_sleep(task, cr_after(10 * CR_US)));
        CHECK_EQ(cr_worker_index(), me->worker);
    }
    __atomic_add_fetch(&ran_on[me->worker], 1, __ATOMIC_RELAXED);
    return 0;
}

static const struct cr_config two = {.workers = 2};

TEST_CO_CONFIG(tasks_are_stolen_before_they_start_and_stay_afterwards, &two)
{
    struct work frame = {.task = CR_TASK(works)};
    struct cr_co *all[400];
    for (int i = 0; i < 400; i++)
        SPAWN(all[i], frame);
    for (int i = 0; i < 400; i++)
        CHECK_EQ(result_of(all[i]), 0);
    CHECK_EQ(ran_on[0] + ran_on[1], 400);
    CHECK(ran_on[0] > 0 && ran_on[1] > 0);
}

TEST_CO_CONFIG(a_task_runs_on_the_worker_that_it_is_spawned_on, &two)
{
    struct work frame = {.task = CR_TASK(works)};
    struct cr_co *all[20];
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_task_spawn_on(&all[i], 1, &frame.task, sizeof(frame), NULL), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(result_of(all[i]), 0);
    CHECK_EQ(ran_on[1], 20);
}

struct ping {
    struct cr_task task;
    struct cr_chan *in, *out;
    int i, r, item;
};

enum { PINGS = 2000 };

static int pings(struct cr_task *task)
{
    struct ping *me = (struct ping *)task;
    CR_TASK_BEGIN(task, pings);
    for (me->i = 0; me->i < PINGS; me->i++) {
        CR_AWAIT(me->r, cr_task_chan_recv(task, me->in, &me->item, cr_after(10 * CR_SEC)));
        CHECK_EQ(me->r, 0);
        me->item++;
        CR_AWAIT(me->r, cr_task_chan_send(task, me->out, &me->item, CR_FOREVER));
        CHECK_EQ(me->r, 0);
    }
    return me->item;
}

static void run_ring(unsigned flags)
{
    enum { RING = 5 };
    struct cr_chan *chans[RING];
    struct cr_co *all[RING];
    const struct cr_attr attr = {.flags = flags};
    int item = 0;
    for (int i = 0; i < RING; i++)
        CHECK_EQ(cr_chan_create(&chans[i], sizeof(int), 1), 0);
    for (int i = 0; i < RING; i++) {
        struct ping frame = {.task = CR_TASK(pings), .in = chans[i], .out = chans[(i + 1) % RING]};
        CHECK_EQ(cr_task_spawn(&all[i], &frame.task, sizeof(frame), &attr), 0);
    }
    CHECK_EQ(cr_chan_send(chans[0], &item), 0);
    for (int i = 0; i < RING; i++)
        CHECK(result_of(all[i]) > 0);
    CHECK_EQ(cr_chan_recv(chans[0], &item), 0);
    CHECK_EQ(item, RING * PINGS);
    for (int i = 0; i < RING; i++)
        CHECK_EQ(cr_chan_destroy(chans[i]), 0);
}

TEST_BOTH(values_go_round_among_tasks)
{
    run_ring(0);
}

TEST_BOTH(tasks_that_may_migrate_get_what_they_wait_for)
{
    run_ring(CR_MIGRATABLE);
}

/* ---- All at once -------------------------------------------------------------------------------------------- */

enum { CROWD = 60, STEPS = 150, PERMITS = 5 };
static struct cr_mutex mutex;
static struct cr_rwlock rwlock;
static struct cr_chan *crowd_chan;
static struct cr_sem crowd_sem;
static int64_t sent_in_crowd, received_in_crowd;

struct member {
    struct cr_task task;
    uint32_t random;
    int i, r, item;
    bool holds;
    struct cr_case cases[2];
};

static uint32_t random_of(struct member *me, uint32_t below)
{
    me->random = me->random * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)me->random * below >> 32);
}

static int64_t soon(struct member *me)
{
    return random_of(me, 4) == 0 ? 0 : cr_after((int64_t)random_of(me, 300) * CR_US);
}

/* What it does is by chance; that sums agree in the end is not. A deadline may be made anew by each resume. */
static int takes_part(struct cr_task *task)
{
    struct member *me = (struct member *)task;
    CR_TASK_BEGIN(task, takes_part);
    for (me->i = 0; me->i < STEPS; me->i++) {
        switch (random_of(me, 6)) {
        case 0:
            CR_AWAIT(me->r, cr_task_chan_send(task, crowd_chan, &me->item, soon(me)));
            if (me->r == 0)
                __atomic_add_fetch(&sent_in_crowd, 1, __ATOMIC_RELAXED);
            break;
        case 1:
            CR_AWAIT(me->r, cr_task_chan_recv(task, crowd_chan, &me->item, soon(me)));
            if (me->r == 0)
                __atomic_add_fetch(&received_in_crowd, 1, __ATOMIC_RELAXED);
            break;
        case 2:
            me->item = 1;
            me->cases[0] = (struct cr_case){.op = CR_RECV, .chan = crowd_chan, .item = &me->r};
            me->cases[1] = (struct cr_case){.op = CR_SEND, .chan = crowd_chan, .item = &me->item};
            CR_AWAIT(me->r, cr_task_select(task, me->cases, 2, soon(me)));
            if (me->r >= 0)
                __atomic_add_fetch(me->r == 0 ? &received_in_crowd : &sent_in_crowd, 1, __ATOMIC_RELAXED);
            break;
        case 3:
            CR_AWAIT(me->r, cr_task_mutex_lock(task, &mutex, soon(me)));
            me->holds = me->r == 0;
            CR_AWAIT(me->r, cr_task_yield(task));
            if (me->holds)
                CHECK_EQ(cr_mutex_unlock(&mutex), 0);
            break;
        case 4:
            CR_AWAIT(me->r, cr_task_sem_wait(task, &crowd_sem, soon(me)));
            me->holds = me->r == 0;
            CR_AWAIT(me->r, cr_task_sleep(task, soon(me)));
            if (me->holds)
                CHECK_EQ(cr_sem_post(&crowd_sem, 1), 0);
            break;
        default:
            me->holds = random_of(me, 4) > 0;
            CR_AWAIT(me->r, me->holds ? cr_task_rwlock_rdlock(task, &rwlock, soon(me)) : cr_task_rwlock_wrlock(task, &rwlock, soon(me)));
            me->holds = me->r == 0;
            CR_AWAIT(me->r, cr_task_yield(task));
            if (me->holds)
                CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
        }
    }
    return 0;
}

static void run_crowd(unsigned flags)
{
    struct cr_co *all[CROWD];
    const struct cr_attr attr = {.flags = flags};
    CHECK_EQ(cr_chan_create(&crowd_chan, sizeof(int), 2), 0);
    crowd_sem = (struct cr_sem){.count = PERMITS};
    sent_in_crowd = received_in_crowd = 0;
    for (int i = 0; i < CROWD; i++) {
        struct member frame = {.task = CR_TASK(takes_part), .random = (uint32_t)i * 7919u + 1};
        CHECK_EQ(cr_task_spawn(&all[i], &frame.task, sizeof(frame), &attr), 0);
    }
    for (int i = 0; i < CROWD; i += 6) { /* at any time */
        CHECK_EQ(cr_sleep(300 * CR_US), 0);
        CHECK_EQ(cr_cancel(all[i]), 0);
    }
    for (int i = 0; i < CROWD; i++)
        CHECK_EQ(result_of(all[i]), 0);
    CHECK_EQ(sent_in_crowd, received_in_crowd + (int64_t)cr_chan_length(crowd_chan));
    CHECK_EQ(crowd_sem.count, PERMITS);
    CHECK_EQ(cr_mutex_lock_try(&mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_chan_destroy(crowd_chan), 0);
}

TEST_BOTH(in_a_crowd_nothing_is_lost)
{
    run_crowd(0);
}

TEST_BOTH(nor_in_one_that_migrates)
{
    run_crowd(CR_MIGRATABLE);
}
