/* What tasks await, each call by its leaf: it waits, finds, gives up, is cancelled; and what they may do that does not suspend. */
#include <sys/socket.h>

#include "tasks.h"

/* ---- Each leaf ---------------------------------------------------------------------------------------------- */

/* What there is to wait for, one of each. */
static struct cr_chan *to_recv, *to_send, *none;
static struct cr_broadcast *news;
static struct cr_subscriber subscriber;
static struct cr_mutex mutex;
static struct cr_cond cond;
static struct cr_rwlock rwlock;
static struct cr_sem sem;
static struct cr_waitgroup group;
static struct cr_once once;
static struct cr_barrier barrier;
static struct cr_event event;
static struct cr_co *other;
static struct cr_conn *ends[2];
static struct cr_listener *listener;
static struct cr_sem go_on;
static int received;
static char text[16];

/* A task that awaits one thing. */
struct shot {
    struct cr_task task;
    int64_t (*leaf)(struct shot *me);
    int64_t deadline_ns;
    int64_t result;
    struct cr_case cases[3];
    struct cr_lent lent;
    struct cr_conn *conn;
    size_t sent;
    int r;
};

static int64_t a_recv(struct shot *me) { return cr_task_chan_recv(&me->task, to_recv, &received, me->deadline_ns); }
static int64_t a_send(struct shot *me) { return cr_task_chan_send(&me->task, to_send, &received, me->deadline_ns); }
static int64_t a_broadcast(struct shot *me) { return cr_task_broadcast_recv(&me->task, &subscriber, &received, me->deadline_ns); }
static int64_t a_lock(struct shot *me) { return cr_task_mutex_lock(&me->task, &mutex, me->deadline_ns); }
static int64_t a_rdlock(struct shot *me) { return cr_task_rwlock_rdlock(&me->task, &rwlock, me->deadline_ns); }
static int64_t a_wrlock(struct shot *me) { return cr_task_rwlock_wrlock(&me->task, &rwlock, me->deadline_ns); }
static int64_t a_sem(struct shot *me) { return cr_task_sem_wait(&me->task, &sem, me->deadline_ns); }
static int64_t a_group(struct shot *me) { return cr_task_waitgroup_wait(&me->task, &group, me->deadline_ns); }
static int64_t a_once(struct shot *me) { return cr_task_once(&me->task, &once, NULL, NULL, me->deadline_ns); }
static int64_t a_barrier(struct shot *me) { return cr_task_barrier_wait(&me->task, &barrier, 2, me->deadline_ns); }
static int64_t an_event(struct shot *me) { return cr_task_event_wait(&me->task, &event, me->deadline_ns); }
static int64_t a_join(struct shot *me) { return cr_task_join(&me->task, other, NULL, me->deadline_ns); }
static int64_t a_read(struct shot *me) { return cr_task_read(&me->task, ends[0], text, sizeof(text), me->deadline_ns); }
static int64_t a_readable(struct shot *me) { return cr_task_wait_readable(&me->task, ends[0], me->deadline_ns); }
static int64_t an_accept(struct shot *me) { return cr_task_accept(&me->task, listener, &me->conn, me->deadline_ns); }

static int64_t a_lend(struct shot *me)
{
    ssize_t n = cr_task_recv_lend(&me->task, ends[0], &me->lent, me->deadline_ns);
    if (n > 0)
        cr_recv_return(ends[0], &me->lent);
    return n;
}

static int64_t a_readv(struct shot *me)
{
    struct iovec iov[2] = {{text, 2}, {text + 2, 2}};
    return cr_task_readv(&me->task, ends[0], iov, 2, me->deadline_ns);
}

static int64_t a_select(struct shot *me)
{
    me->cases[0] = (struct cr_case){.op = CR_RECV, .chan = none, .item = &received};
    me->cases[1] = (struct cr_case){.op = CR_RECV, .chan = to_recv, .item = &received};
    me->cases[2] = (struct cr_case){.op = CR_SEND, .chan = NULL};
    int at = cr_task_select(&me->task, me->cases, 3, me->deadline_ns);
    return at == 1 ? me->cases[1].result : at;
}

static int shoots(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, shoots);
    CR_AWAIT(me->result, me->leaf(me));
    if (me->result == 0 && me->leaf == a_lock)
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    if (me->result == 0 && (me->leaf == a_rdlock || me->leaf == a_wrlock))
        CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    return (int)me->result;
}

static void nothing(void *unused)
{
    (void)unused;
}

static void waits_to_go_on(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sem_wait(&go_on), 0);
}

static void open_chan(void)
{
    received = 0;
    CHECK_EQ(cr_chan_create(&to_recv, sizeof(int), 1), 0);
    CHECK_EQ(cr_chan_create(&none, sizeof(int), 1), 0);
}

static void give_item(void)
{
    int item = 77;
    CHECK_EQ(cr_chan_send(to_recv, &item), 0);
}

static void close_chan(void)
{
    CHECK_EQ(received, 77);
    CHECK_EQ(cr_chan_destroy(to_recv), 0);
    CHECK_EQ(cr_chan_destroy(none), 0);
}

static void open_full(void)
{
    CHECK_EQ(cr_chan_create(&to_send, sizeof(int), 1), 0);
    CHECK_EQ(cr_chan_send(to_send, &(int){1}), 0);
}

static void take_item(void)
{
    int item;
    CHECK_EQ(cr_chan_recv(to_send, &item), 0);
}

static void close_full(void) { CHECK_EQ(cr_chan_destroy(to_send), 0); }

static void open_news(void)
{
    CHECK_EQ(cr_broadcast_create(&news, sizeof(int), 4), 0);
    cr_broadcast_subscribe(news, &subscriber);
}

static void tell_news(void) { CHECK_EQ(cr_broadcast_send(news, &(int){5}), 0); }
static void close_news(void) { CHECK_EQ(cr_broadcast_destroy(news), 0); }
static void lock(void) { CHECK_EQ(cr_mutex_lock(&mutex), 0); }
static void unlock(void) { CHECK_EQ(cr_mutex_unlock(&mutex), 0); }
static void wrlock(void) { CHECK_EQ(cr_rwlock_wrlock(&rwlock), 0); }
static void wrunlock(void) { CHECK_EQ(cr_rwlock_unlock(&rwlock), 0); }
static void post(void) { CHECK_EQ(cr_sem_post(&sem, 1), 0); }
static void add(void) { CHECK_EQ(cr_waitgroup_add(&group, 1), 0); }
static void done(void) { CHECK_EQ(cr_waitgroup_done(&group), 0); }

static void runs_once(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_once(&once, waits_to_go_on, NULL), 0);
}

static void begin_once(void)
{
    once = (struct cr_once){0};
    CHECK_EQ(cr_spawn(&other, runs_once, NULL, NULL), 0);
    while (!__atomic_load_n(&once._state, __ATOMIC_RELAXED))
        cr_yield();
}

static void let_go_on(void) { CHECK_EQ(cr_sem_post(&go_on, 1), 0); }
static void join_other(void) { CHECK_EQ(cr_join(other), 0); }
static void come_too(void) { CHECK(cr_barrier_wait(&barrier, 2) >= 0); }
static void set(void) { CHECK_EQ(cr_event_set(&event), 0); }
static void clear(void) { cr_event_clear(&event); }
static void begin_other(void) { CHECK_EQ(cr_spawn(&other, waits_to_go_on, NULL, NULL), 0); }

static void open_pair(void)
{
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(cr_conn_from_fd(&ends[0], fds[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&ends[1], fds[1]), 0);
}

static void say(void) { CHECK_EQ(cr_write(ends[1], "abcd", 4), 4); }

static void close_pair(void)
{
    cr_close(ends[0]);
    cr_close(ends[1]);
}

static void open_listener(void) { CHECK_EQ(cr_listen(&listener, "tcp://127.0.0.1:0", NULL), 0); }

static void dial(void)
{
    char url[64];
    CHECK(cr_listener_url(listener, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&ends[1], url, NULL), 0);
}

static void close_listener(void)
{
    cr_close(ends[1]);
    cr_listener_close(listener);
}

static const struct thing {
    const char *name;
    int64_t (*leaf)(struct shot *me);
    void (*open)(void), (*give)(void), (*close)(void);
    int result, at_once; /* when it waits, and when it need not */
} things[] = {
    {"recv", a_recv, open_chan, give_item, close_chan, 0, 0},
    {"select", a_select, open_chan, give_item, close_chan, 0, 0},
    {"send", a_send, open_full, take_item, close_full, 0, 0},
    {"broadcast", a_broadcast, open_news, tell_news, close_news, 0, 0},
    {"mutex", a_lock, lock, unlock, NULL, 0, 0},
    {"rdlock", a_rdlock, wrlock, wrunlock, NULL, 0, 0},
    {"wrlock", a_wrlock, wrlock, wrunlock, NULL, 0, 0},
    {"sem", a_sem, NULL, post, NULL, 0, 0},
    {"group", a_group, add, done, NULL, 0, 0},
    {"once", a_once, begin_once, let_go_on, join_other, 0, 0},
    {"barrier", a_barrier, NULL, come_too, NULL, 0, -1},
    {"event", an_event, NULL, set, clear, 0, 0},
    {"join", a_join, begin_other, let_go_on, NULL, 0, 0},
    {"read", a_read, open_pair, say, close_pair, 4, 4},
    {"readv", a_readv, open_pair, say, close_pair, 4, 4},
    {"recv_lend", a_lend, open_pair, say, close_pair, 4, 4},
    {"wait_readable", a_readable, open_pair, say, close_pair, 0, 0},
    {"accept", an_accept, open_listener, dial, close_listener, 0, 0},
};

static void call(void (*fn)(void))
{
    if (fn)
        fn();
}

static struct cr_co *shoot(const struct thing *thing, int64_t deadline_ns)
{
    struct shot frame = {.task = CR_TASK(shoots), .leaf = thing->leaf, .deadline_ns = deadline_ns};
    struct cr_co *co;
    SPAWN(co, frame);
    return co;
}

static void check_each(void (*try)(const struct thing *thing))
{
    for (size_t i = 0; i < sizeof(things) / sizeof(things[0]); i++) {
        printf("# %s\n", things[i].name); /* so that a failure names it */
        call(things[i].open);
        try(&things[i]);
        call(things[i].close);
    }
}

static void gets_it(const struct thing *thing)
{
    struct cr_co *co = shoot(thing, CR_FOREVER);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    thing->give();
    CHECK_EQ(result_of(co), thing->result);
}

TEST_BOTH(a_leaf_waits_and_gets_what_comes)
{
    check_each(gets_it);
}

static void finds_it(const struct thing *thing)
{
    if (thing->at_once >= 0)
        thing->give();
    if (thing->leaf == a_join || thing->leaf == a_once) /* has begun to end */
        CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    struct cr_co *co = shoot(thing, CR_FOREVER);
    if (thing->at_once < 0)
        thing->give();
    int r = result_of(co);
    CHECK(r == thing->at_once || (thing->at_once < 0 && r >= 0));
}

TEST_BOTH(a_leaf_finds_what_is_there)
{
    check_each(finds_it);
}

/* After the deadline nothing has been taken: what comes then is another one's. */
static void is_late(const struct thing *thing)
{
    CHECK_EQ(result_of(shoot(thing, 0)), -ETIMEDOUT);
    CHECK_EQ(result_of(shoot(thing, cr_after(2 * CR_MS))), -ETIMEDOUT);
    gets_it(thing);
}

TEST_BOTH(a_leaf_ends_at_its_deadline)
{
    check_each(is_late);
}

static void is_cut(const struct thing *thing)
{
    struct cr_co *co = shoot(thing, CR_FOREVER);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(result_of(co), -ECANCELED);
    co = shoot(thing, CR_FOREVER);
    CHECK_EQ(cr_cancel(co), 0); /* before it has begun */
    CHECK_EQ(result_of(co), -ECANCELED);
    gets_it(thing);
}

TEST_BOTH(a_leaf_ends_when_its_task_is_cancelled)
{
    check_each(is_cut);
}

/* Many on one thing: some give up while others get it. */
static void in_a_crowd(const struct thing *thing)
{
    struct cr_co *all[4];
    if (thing->leaf == a_join || thing->leaf == a_read || thing->leaf == a_readv || thing->leaf == a_lend || thing->leaf == a_readable ||
        thing->leaf == an_accept || thing->leaf == a_barrier) {
        gets_it(thing); /* one at a time */
        return;
    }
    for (int i = 0; i < 3; i++)
        all[i] = shoot(thing, cr_after(3 * CR_MS));
    CHECK_EQ(cr_sleep(CR_MS), 0);
    all[3] = shoot(thing, CR_FOREVER);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(result_of(all[i]), -ETIMEDOUT);
    thing->give();
    CHECK_EQ(result_of(all[3]), thing->result);
}

TEST_BOTH(those_behind_one_that_gives_up_are_served)
{
    check_each(in_a_crowd);
}

/* ---- Closing ------------------------------------------------------------------------------------------------ */

TEST_BOTH(closing_ends_what_waits)
{
    struct thing recv = {.leaf = a_recv}, send = {.leaf = a_send}, select = {.leaf = a_select}, broadcast = {.leaf = a_broadcast},
                 read = {.leaf = a_read}, accept = {.leaf = an_accept}, readable = {.leaf = a_readable};
    struct cr_co *co[7];
    open_chan();
    open_full();
    open_news();
    open_pair();
    open_listener();
    co[0] = shoot(&recv, CR_FOREVER);
    co[1] = shoot(&send, CR_FOREVER);
    co[2] = shoot(&select, CR_FOREVER);
    co[3] = shoot(&broadcast, CR_FOREVER);
    co[4] = shoot(&read, CR_FOREVER);
    co[5] = shoot(&accept, CR_FOREVER);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_chan_close(to_recv), 0);
    CHECK_EQ(cr_chan_close(to_send), 0);
    CHECK_EQ(cr_broadcast_close(news), 0);
    cr_close(ends[0]);
    cr_listener_close(listener);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(result_of(co[i]), -EPIPE);
    CHECK_EQ(result_of(co[4]), -EBADF);
    CHECK_EQ(result_of(co[5]), -EBADF);
    cr_close(ends[1]);
    open_pair();
    co[6] = shoot(&readable, CR_FOREVER);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    cr_close(ends[1]); /* the peer: an end can be read */
    CHECK_EQ(result_of(co[6]), 0);
    cr_close(ends[0]);
    CHECK_EQ(cr_chan_destroy(to_recv), 0);
    CHECK_EQ(cr_chan_destroy(to_send), 0);
    CHECK_EQ(cr_chan_destroy(none), 0);
    CHECK_EQ(cr_broadcast_destroy(news), 0);
}

/* ---- Condition variable ------------------------------------------------------------------------------------- */

static bool ready_to_go;
static int at_the_condition; /* how many have come there */

static int waits_for_condition(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, waits_for_condition);
    CR_AWAIT(me->r, cr_task_mutex_lock(task, &mutex, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    __atomic_add_fetch(&at_the_condition, 1, __ATOMIC_RELAXED);
    while (!ready_to_go && me->r == 0)
        CR_AWAIT(me->r, cr_task_cond_wait(task, &cond, &mutex, me->deadline_ns));
    CHECK_EQ(cr_mutex_unlock(&mutex), 0); /* it holds it, whatever came */
    return me->r;
}

TEST_BOTH(a_condition_is_waited_for)
{
    struct shot frame = {.task = CR_TASK(waits_for_condition), .deadline_ns = CR_FOREVER}, late = frame;
    struct cr_co *all[5];
    ready_to_go = false;
    at_the_condition = 0;
    late.deadline_ns = cr_after(2 * CR_MS);
    for (int i = 0; i < 3; i++)
        SPAWN(all[i], frame);
    SPAWN(all[3], late);
    SPAWN(all[4], frame);
    CHECK_EQ(result_of(all[3]), -ETIMEDOUT);
    while (__atomic_load_n(&at_the_condition, __ATOMIC_RELAXED) < 5)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_cancel(all[4]), 0); /* it has to wait for the mutex then */
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(result_of(all[4]), -ECANCELED);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    ready_to_go = true;
    cr_cond_broadcast(&cond);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(result_of(all[i]), 0);
}

static int counts(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    static int shared;
    CR_TASK_BEGIN(task, counts);
    for (me->i = 0; me->i < 300; me->i++) {
        CR_AWAIT(me->r, cr_task_mutex_lock(task, &mutex, CR_FOREVER));
        CHECK_EQ(me->r, 0);
        CHECK_EQ(shared++, 0);
        if (me->i % 50 == 0)
            CR_AWAIT(me->r, cr_task_sleep(task, cr_after(CR_MS)));
        else
            CR_AWAIT(me->r, cr_task_yield(task));
        CHECK_EQ(--shared, 0);
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    }
    return 0;
}

static void counts_too(void *unused)
{
    (void)unused;
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(cr_mutex_lock(&mutex), 0);
        if (i % 7 == 0)
            CHECK_EQ(cr_yield(), 0);
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    }
}

TEST_BOTH(tasks_and_coroutines_exclude_each_other)
{
    struct sleeper frame = {.task = CR_TASK(counts)};
    struct cr_co *all[8];
    for (int i = 0; i < 8; i += 2) {
        SPAWN(all[i], frame);
        CHECK_EQ(cr_spawn(&all[i + 1], counts_too, NULL, NULL), 0);
    }
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_join(all[i]), 0);
}

/* ---- Who holds locks ---------------------------------------------------------------------------------------- */

struct holder {
    struct cr_task task;
    int r;
};

static int reads_what_another_reads(struct cr_task *task)
{
    struct holder *me = (struct holder *)task;
    CR_TASK_BEGIN(task, reads_what_another_reads);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), -EPERM);
    CR_AWAIT(me->r, cr_task_rwlock_rdlock(task, &rwlock, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    CR_AWAIT(me->r, cr_task_rwlock_wrlock(task, &rwlock, CR_FOREVER));
    CHECK_EQ(me->r, -EDEADLK);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), -EPERM);
    CR_AWAIT(me->r, cr_task_rwlock_wrlock(task, &rwlock, cr_after(CR_MS)));
    return me->r;
}

TEST_BOTH(a_task_gives_back_only_what_it_holds)
{
    struct holder frame = {.task = CR_TASK(reads_what_another_reads)};
    struct cr_co *co;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), -ETIMEDOUT);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), -EPERM);
}

static struct cr_event task_reads;

static int reads_and_locks(struct cr_task *task)
{
    struct holder *me = (struct holder *)task;
    CR_TASK_BEGIN(task, reads_and_locks);
    CR_AWAIT(me->r, cr_task_rwlock_rdlock(task, &rwlock, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    CHECK_EQ(cr_event_set(&task_reads), 0);
    CR_AWAIT(me->r, cr_task_mutex_lock(task, &mutex, CR_FOREVER));
    if (me->r == 0)
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    return me->r;
}

TEST_BOTH(a_cycle_of_a_task_and_a_coroutine_is_found)
{
    struct holder frame = {.task = CR_TASK(reads_and_locks)};
    struct cr_co *co;
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    SPAWN(co, frame);
    CHECK_EQ(cr_event_wait(&task_reads), 0);
    int r = cr_rwlock_wrlock(&rwlock);
    CHECK(r == 0 || r == -EDEADLK);
    if (r == 0)
        CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    int of_task = result_of(co);
    CHECK_EQ(of_task, r == 0 ? -EDEADLK : 0);
}

/* ---- Writing ------------------------------------------------------------------------------------------------ */

enum { LOTS = 3 << 20 };
static char lots[LOTS];

static int writes_lots(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, writes_lots);
    CR_AWAIT(me->result, cr_task_write_all(task, ends[0], lots, LOTS, &me->sent, CR_FOREVER));
    CHECK_EQ(me->result, LOTS);
    CHECK_EQ(me->sent, 0);
    CR_AWAIT(me->result, cr_task_wait_writable(task, ends[0], CR_FOREVER));
    CHECK_EQ(me->result, 0);
    CR_AWAIT(me->result, cr_task_write(task, ends[0], "end", 3, CR_FOREVER));
    CHECK_EQ(cr_close_write(ends[0]), 0);
    return (int)me->result;
}

TEST_BOTH(a_task_writes_more_than_fits)
{
    struct shot frame = {.task = CR_TASK(writes_lots)};
    struct cr_co *co;
    char buf[8192];
    size_t sum = 0;
    open_pair();
    SPAWN(co, frame);
    for (ssize_t n; (n = cr_read(ends[1], buf, sizeof(buf))) > 0;)
        sum += (size_t)n;
    CHECK_EQ(sum, LOTS + 3);
    CHECK_EQ(result_of(co), 3);
    close_pair();
}

static int writes_too_much(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, writes_too_much);
    CR_AWAIT(me->result, cr_task_write_all(task, ends[0], lots, LOTS, &me->sent, me->deadline_ns));
    return (int)me->result;
}

TEST_BOTH(writing_ends_at_its_deadline)
{
    struct shot frame = {.task = CR_TASK(writes_too_much), .deadline_ns = cr_after(3 * CR_MS)};
    struct cr_co *co;
    open_pair();
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), -ETIMEDOUT);
    close_pair();
}

/* An echo over TCP, all of it by tasks. */
struct session {
    struct cr_task task;
    struct cr_conn *conn;
    struct cr_lent data;
    size_t sent;
    ssize_t n;
};

static int serves(struct cr_task *task)
{
    struct session *me = (struct session *)task;
    CR_TASK_BEGIN(task, serves);
    for (;;) {
        CR_AWAIT(me->n, cr_task_recv_lend(task, me->conn, &me->data, CR_FOREVER));
        if (me->n <= 0)
            break;
        CR_AWAIT(me->n, cr_task_write_all(task, me->conn, me->data.bytes, me->data.size_bytes, &me->sent, CR_FOREVER));
        if (me->n < 0)
            break;
        cr_recv_return(me->conn, &me->data);
    }
    cr_close(me->conn);
    return (int)me->n;
}

static int accepts(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, accepts);
    for (;;) {
        CR_AWAIT(me->r, cr_task_accept(task, listener, &me->conn, CR_FOREVER));
        if (me->r < 0)
            return me->r;
        struct session frame = {.task = CR_TASK(serves), .conn = me->conn};
        GO(frame);
    }
}

static void talks(void *arg)
{
    const char *url = arg;
    char buf[100];
    struct cr_conn *conn;
    CHECK_EQ(cr_dial(&conn, url, NULL), 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(cr_write_all(conn, "hello", 5), 5);
        for (ssize_t got = 0, n; got < 5; got += n) {
            n = cr_read(conn, buf, sizeof(buf));
            CHECK(n > 0);
        }
    }
    cr_close(conn);
}

TEST_BOTH(a_server_of_tasks_echoes)
{
    struct shot frame = {.task = CR_TASK(accepts)};
    struct cr_co *acceptor, *all[20];
    static char url[64];
    open_listener();
    CHECK(cr_listener_url(listener, url, sizeof(url)) > 0);
    SPAWN(acceptor, frame);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_spawn(&all[i], talks, url, NULL), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_join(all[i]), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(result_of(acceptor), -ECANCELED);
    cr_listener_close(listener);
}

static int talks_over_udp(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    static struct cr_addr from;
    CR_TASK_BEGIN(task, talks_over_udp);
    CR_AWAIT(me->result, cr_task_recv_from(task, ends[0], text, sizeof(text), &from, CR_FOREVER));
    CR_AWAIT(me->result, cr_task_send_to(task, ends[0], text, (size_t)me->result, &from, CR_FOREVER));
    return (int)me->result;
}

TEST_CO(datagrams_and_files)
{
    struct shot frame = {.task = CR_TASK(talks_over_udp)};
    struct cr_co *co;
    char url[64];
    CHECK_EQ(cr_bind(&ends[0], "udp://127.0.0.1:0", NULL), 0);
    CHECK(cr_local_url(ends[0], url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&ends[1], url, NULL), 0);
    SPAWN(co, frame);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_write(ends[1], "dgram", 5), 5);
    CHECK_EQ(result_of(co), 5);
    CHECK_EQ(cr_read(ends[1], url, sizeof(url)), 5);
    close_pair();
    CHECK_EQ(cr_file_open(&ends[0], "/etc/hostname", O_RDONLY, 0), 0);
    CHECK_EQ(result_of(shoot(&(struct thing){.leaf = a_read}, CR_FOREVER)), -EOPNOTSUPP);
    cr_close(ends[0]);
}

/* ---- What else a task is ------------------------------------------------------------------------------------ */

static unsigned key;
static int destroyed;

static void destroys(void *value)
{
    destroyed += (int)(intptr_t)value;
}

static int has_locals(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    char name[32];
    CR_TASK_BEGIN(task, has_locals);
    CHECK(cr_co_current() != NULL);
    CHECK_EQ(cr_co_status(cr_co_current()), CR_CO_SCHEDULED);
    CHECK_EQ(strcmp(cr_name_get(cr_co_current(), name, sizeof(name)), "locals"), 0);
    CHECK_EQ(cr_local_set(key, (void *)7), 0);
    CR_AWAIT(me->r, cr_task_yield(task));
    CHECK_EQ((intptr_t)cr_local_get(key), 7);
    /* what would suspend is refused, what need not is done */
    CHECK_EQ(cr_yield(), -EPERM);
    CHECK_EQ(cr_sleep(CR_MS), -EPERM);
    CHECK_EQ(cr_sem_wait(&sem), -EPERM);
    CHECK_EQ(cr_sem_wait_try(&sem), -EBUSY);
    CHECK_EQ(cr_sem_post(&sem, 1), 0);
    CHECK_EQ(cr_sem_wait_try(&sem), 0);
    CHECK_EQ(cr_mutex_lock_try(&mutex), 0);
    CHECK_EQ(cr_mutex_lock_try(&mutex), -EDEADLK);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_rwlock_rdlock_try(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_chan_send_try(to_recv, &(int){77}), 0);
    CHECK_EQ(cr_chan_recv_try(to_recv, &received), 0);
    CHECK_EQ(cr_chan_recv_try(to_recv, &received), -EAGAIN);
    CHECK_EQ(cr_event_set(&event), 0);
    CHECK_EQ(cr_join(cr_co_current()), -EPERM);
    CHECK(!cr_cancelled());
    CHECK_EQ(cr_go(nothing, NULL), 0);
    CR_AWAIT(me->r, cr_task_join(task, cr_co_current(), NULL, CR_FOREVER));
    CHECK_EQ(me->r, -EDEADLK);
    CHECK_EQ(cr_cancel(cr_co_current()), 0);
    CHECK(cr_cancelled());
    CR_AWAIT(me->r, cr_task_sleep(task, CR_FOREVER));
    CHECK_EQ(me->r, -ECANCELED);
    return 3;
}

TEST_CO(a_task_may_do_what_does_not_suspend)
{
    struct shot frame = {.task = CR_TASK(has_locals)};
    struct cr_co *co;
    CHECK_EQ(cr_local_key(&key, destroys), 0);
    open_chan();
    CHECK_EQ(cr_task_spawn(&co, &frame.task, sizeof(frame), &(struct cr_attr){.name = "locals"}), 0);
    CHECK_EQ(result_of(co), 3);
    CHECK_EQ(destroyed, 7);
    received = 77;
    close_chan();
}

static void *doubles(void *value)
{
    for (;;) {
        value = (void *)(2 * (intptr_t)value);
        CHECK_EQ(cr_sleep(CR_MS), -EPERM); /* the task around it has no stack */
        if (cr_co_yield(&value) < 0)
            return NULL;
    }
}

static int resumes(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    struct cr_co *co;
    void *value = (void *)21;
    CR_TASK_BEGIN(task, resumes);
    CR_AWAIT(me->r, cr_task_yield(task));
    CHECK_EQ(cr_co_create(&co, doubles, NULL), 0);
    CHECK_EQ(cr_co_resume(co, &value), 0);
    CHECK_EQ(cr_co_destroy(co), 0);
    return (int)(intptr_t)value;
}

TEST_CO(a_task_may_resume_bare_coroutines)
{
    struct shot frame = {.task = CR_TASK(resumes)};
    struct cr_co *co;
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 42);
}

TEST_CO(bad_frames_are_refused)
{
    struct shot frame = {.task = CR_TASK(shoots)}, empty = {0};
    CHECK_EQ(cr_task_go(NULL, sizeof(frame)), -EINVAL);
    CHECK_EQ(cr_task_go(&empty.task, sizeof(empty)), -EINVAL);
    CHECK_EQ(cr_task_go(&frame.task, 8), -EINVAL);
    CHECK_EQ(cr_task_go(&frame.task, (64 << 10) + 1), -EINVAL);
    CHECK_EQ(cr_task_spawn_on(NULL, 7, &frame.task, sizeof(frame), NULL), -EINVAL);
}

TEST(outside_of_a_runtime_nothing_is_spawned)
{
    struct shot frame = {.task = CR_TASK(shoots)};
    CHECK_EQ(cr_task_go(&frame.task, sizeof(frame)), -EPERM);
    CHECK_EQ(cr_task_backtrace(2), -EPERM);
}

/* Frames of all sizes lie where they want to, and keep what is in them. */
struct sized {
    struct cr_task task;
    size_t size_bytes;
    int r;
    char rest[64 << 10];
};

static int keeps(struct cr_task *task)
{
    struct sized *me = (struct sized *)task;
    CR_TASK_BEGIN(task, keeps);
    CHECK_EQ((uintptr_t)me % (me->size_bytes % 16 == 0 ? 16 : 8), 0);
    memset(me->rest, (int)me->size_bytes, me->size_bytes - offsetof(struct sized, rest));
    CR_AWAIT(me->r, cr_task_sleep(task, cr_after(CR_MS)));
    for (size_t i = 0; i < me->size_bytes - offsetof(struct sized, rest); i++)
        CHECK_EQ(me->rest[i], (char)me->size_bytes);
    return 0;
}

TEST_BOTH(frames_of_all_sizes_keep_what_is_in_them)
{
    static struct sized frame;
    struct cr_co *all[4 * 17];
    int count = 0;
    for (size_t size = 64; size <= 64 << 10; size = size * 5 / 4 + 7) {
        frame = (struct sized){.task = CR_TASK(keeps), .size_bytes = size};
        CHECK_EQ(cr_task_spawn(&all[count++], &frame.task, size, NULL), 0);
        frame.size_bytes = size / 16 * 16;
        CHECK_EQ(cr_task_spawn(&all[count++], &frame.task, frame.size_bytes, NULL), 0);
    }
    while (count > 0)
        CHECK_EQ(result_of(all[--count]), 0);
}

static bool other_ran;

static void runs(void *unused)
{
    (void)unused;
    other_ran = true;
}

static int always_gets_it(struct cr_task *task)
{
    struct shot *me = (struct shot *)task;
    CR_TASK_BEGIN(task, always_gets_it);
    CHECK_EQ(cr_go(runs, NULL), 0);
    while (!other_ran) {
        CR_AWAIT(me->r, cr_task_sem_wait(task, &sem, CR_FOREVER));
        CHECK_EQ(cr_sem_post(&sem, 1), 0);
    }
    return 0;
}

TEST_CO(one_that_never_waits_lets_others_run)
{
    struct shot frame = {.task = CR_TASK(always_gets_it)};
    struct cr_co *co;
    post();
    SPAWN(co, frame);
    CHECK_EQ(result_of(co), 0);
}
