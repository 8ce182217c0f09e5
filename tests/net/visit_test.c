/* Who is no coroutine of the network's own worker: coroutines of other workers, and what may migrate. What tasks do is in visit_task_test.c. */
#include "read_task.h"

/* ---- Who waits elsewhere holds no stack ------------------------------------------------------------------------------ */

static void receives_one(void *conn)
{
    char buf[16];
    CHECK_EQ(cr_recv_from(conn, buf, sizeof(buf), NULL), 4); /* onto that stack */
    CHECK(memcmp(buf, "ping", 4) == 0);
    done++;
}

static void sends_one(void *conn)
{
    CHECK_EQ(cr_write(conn, "ping", 4), 4);
}

static void accepts_one(void *listener)
{
    struct cr_conn *conn;
    CHECK_EQ(cr_accept(listener, &conn), 0);
    cr_close(conn);
    done++;
}

static void dials_one(void *unused)
{
    struct cr_conn *conn;
    char c;
    (void)unused;
    CHECK_EQ(cr_dial(&conn, url, &at_left), 0);
    CHECK_EQ(cr_read(conn, &c, 1), 0);
    cr_close(conn);
    done++;
}

static void dials_nobody(void *unused)
{
    struct cr_conn *conn;
    char to[] = "tcp://10.0.0.99:9", from[] = "10.0.0.1";
    (void)unused;
    CHECK_EQ(cr_dial(&conn, to, &(struct cr_conn_opts){.net = left, .source = from}), -ECANCELED);
    done++;
}

static const struct cr_attr on_shared = {.stack = CR_STACK_SHARED};
static const struct cr_config one_shared_stack = {.workers = 2, .shared_stacks = 1};

TEST_CO_CONFIG(who_waits_for_a_datagram_elsewhere_leaves_the_shared_stack_to_who_sends_it, &one_shared_stack)
{
    struct cr_conn *bound, *from;
    struct cr_co *receiver, *sender;
    unsigned other = !cr_worker_index();
    open_both();
    CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:9", &at_right), 0);
    CHECK_EQ(cr_dial(&from, "udp://10.0.0.2:9", &at_left), 0);
    CHECK_EQ(cr_spawn_on(&receiver, other, receives_one, bound, &on_shared), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_spawn_on(&sender, other, sends_one, from, &on_shared), 0);
    CHECK_EQ(cr_join_until(receiver, cr_after(5 * CR_SEC)), 0);
    CHECK_EQ(cr_join(sender), 0);
    cr_close(bound), cr_close(from);
    close_both();
}

TEST_CO_CONFIG(who_accepts_elsewhere_leaves_the_shared_stack_to_who_dials, &one_shared_stack)
{
    struct cr_co *acceptor, *dialler;
    unsigned other = !cr_worker_index();
    open_both();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_spawn_on(&acceptor, other, accepts_one, l, &on_shared), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_spawn_on(&dialler, other, dials_one, NULL, &on_shared), 0);
    CHECK_EQ(cr_join_until(acceptor, cr_after(5 * CR_SEC)), 0);
    CHECK_EQ(cr_join_until(dialler, cr_after(5 * CR_SEC)), 0);
    cr_listener_close(l);
    close_both();
}

TEST_CO_CONFIG(who_dials_elsewhere_in_vain_leaves_the_shared_stack_to_others, &one_shared_stack)
{
    struct cr_co *in_vain, *acceptor, *dialler;
    unsigned other = !cr_worker_index();
    open_both();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_spawn_on(&in_vain, other, dials_nobody, NULL, &on_shared), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_spawn_on(&acceptor, other, accepts_one, l, &on_shared), 0);
    CHECK_EQ(cr_spawn_on(&dialler, other, dials_one, NULL, &on_shared), 0);
    CHECK_EQ(cr_join_until(acceptor, cr_after(2 * CR_SEC)), 0);
    CHECK_EQ(cr_join_until(dialler, cr_after(2 * CR_SEC)), 0);
    CHECK_EQ(cr_cancel(in_vain), 0);
    CHECK_EQ(cr_join(in_vain), 0);
    cr_listener_close(l);
    close_both();
}

#define WAITERS 200

TEST_CO_CONFIG(many_calls_that_wait_elsewhere_take_no_stacks, &(struct cr_config){.workers = 2})
{
    static struct cr_conn *conns[WAITERS];
    static struct cr_co *cos[WAITERS];
    struct read_task frame = {.task = CR_TASK(reads_as_task), .deadline_ns = CR_FOREVER};
    int result;
    open_both();
    for (int i = 0; i < WAITERS; i++)
        CHECK_EQ(cr_bind(&conns[i], "udp://10.0.0.2:0", &at_right), 0);
    uint64_t before = cr__mem_bytes(CR__MEM_STACKS);
    for (int i = 0; i < WAITERS; i++) {
        frame.conn = conns[i];
        CHECK_EQ(cr_task_spawn_on(&cos[i], !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    }
    for (int i = 0; i < WAITERS; i++) {
        while (cr_wait_readable_until(conns[i], 0) == -ETIMEDOUT)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        CHECK_EQ(cr_wait_readable_until(conns[i], cr_after(CR_SEC)), -EBUSY); /* there it waits */
    }
    CHECK_EQ(cr__mem_bytes(CR__MEM_STACKS), before);
    for (int i = 0; i < WAITERS; i++) {
        cr_close(conns[i]);
        CHECK_EQ(cr_join_task(cos[i], &result), 0);
        CHECK_EQ(result, -EBADF);
    }
    close_both();
}

/* ---- Without memory ----------------------------------------------------------------------------------------------- */

static void closes_without_memory(void *conn)
{
    struct cr_lent lent;
    CHECK_EQ(cr_recv_lend(conn, &lent), 4);
    cr__mem_fail_after(1);
    cr_recv_return(conn, &lent);
    cr_close(conn);
    cr__mem_fail_after(0);
}

static void closes_listener_without_memory(void *listener)
{
    cr__mem_fail_after(1);
    cr_listener_close(listener);
    cr__mem_fail_after(0);
}

TEST_CO_CONFIG(what_is_closed_elsewhere_is_closed_though_there_is_no_memory, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server, *bound, *from;
    struct cr_co *co;
    struct cr_net_stats stats;
    char buf[8];
    unsigned other = !cr_worker_index();
    const char *poller = getenv("CR_POLLER");
    open_both();
    for (int i = 0; i < 20; i++) {
        connect_pair(&client, &server);
        CHECK_EQ(cr_write_all(client, "text", 4), 4);
        CHECK_EQ(cr_spawn_on(&co, other, closes_without_memory, server, NULL), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(cr_read_until(client, buf, sizeof(buf), cr_after(5 * CR_SEC)), 0);
        cr_close(client);
        CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:9", &at_right), 0); /* which is free again, each time */
        CHECK_EQ(cr_dial(&from, "udp://10.0.0.2:9", &at_left), 0);
        CHECK_EQ(cr_write(from, "text", 4), 4);
        CHECK_EQ(cr_spawn_on(&co, other, closes_without_memory, bound, NULL), 0);
        CHECK_EQ(cr_join(co), 0);
        cr_close(from);
        CHECK_EQ(cr_spawn_on(&co, other, closes_listener_without_memory, listen_right("tcp://10.0.0.2:99"), NULL), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(cr_sleep(CR_MS), 0);
    }
    CHECK_EQ(cr_net_stats_get(right, &stats), 0);
    CHECK_EQ(stats.listeners, 0);
    close_both();
    if (!poller || strcmp(poller, "uring") != 0) /* which has some of its own */
        CHECK_EQ(cr__mem_bytes(CR__MEM_BUFFERS), 0);
}

/* On a shared stack, so that the call needs memory: one allocation after the other fails, here and there. */
static void reads_with_little_memory(void *conn)
{
    char buf[8];
    int failed = 0;
    for (unsigned n = 1; n <= 8; n++) {
        cr__mem_fail_after(n);
        ssize_t r = cr_read(conn, buf, 1);
        cr__mem_fail_after(0);
        CHECK(r == 1 || r == -ENOMEM);
        failed += r < 0;
        if (r < 0)
            CHECK_EQ(cr_read(conn, buf, 1), 1);
        CHECK_EQ(buf[0], (char)('a' + n - 1));
    }
#ifndef CR__ASAN /* with which there are no shared stacks */
    CHECK(failed >= 2);
#endif
    done++;
}

static void accepts_with_little_memory(void *listener)
{
    struct cr_conn *conn = NULL;
    cr__mem_fail_after(1);
    CHECK_EQ(cr_accept(listener, &conn), -ENOMEM);
    cr__mem_fail_after(0);
    CHECK_EQ(cr_accept(listener, &conn), 0);
    cr_close(conn);
    done++;
}

TEST_CO_CONFIG(a_call_elsewhere_for_which_there_is_no_memory_says_so_and_has_taken_nothing, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_write_all(server, "abcdefgh", 8), 8);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), reads_with_little_memory, client, &on_shared), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_close(client), cr_close(server);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_dial(&client, url, &at_left), 0);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), accepts_with_little_memory, l, &on_shared), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(done, 2);
    cr_close(client);
    cr_listener_close(l);
    close_both();
}

/* ---- Other workers ---------------------------------------------------------------------------------------------- */

static void talks_and_waits(void *number)
{
    struct cr_conn *conn;
    char c;
    CHECK_EQ(cr_dial(&conn, url, &at_left), 0);
    talk(conn, (int)(intptr_t)number);
    CHECK_EQ(cr_read_until(conn, &c, 1, cr_after(CR_MS)), -ETIMEDOUT);
    cr_close(conn);
}

TEST_CO_CONFIG(coroutines_of_other_workers_have_their_calls_made_on_the_networks_own, &(struct cr_config){.workers = 3})
{
    struct cr_co *acceptor, *talkers[20];
    open_both();
    unsigned here = (unsigned)cr_worker_index();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_spawn_on(&acceptor, here, accepts, l, NULL), 0); /* whose sessions may go anywhere */
    for (unsigned i = 0; i < 20; i++)
        CHECK_EQ(cr_spawn_on(&talkers[i], i % 3, talks_and_waits, (void *)(intptr_t)i, NULL), 0);
    for (unsigned i = 0; i < 20; i++)
        CHECK_EQ(cr_join(talkers[i]), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cr_listener_close(l);
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    close_both();
}

static void reads_elsewhere(void *conn)
{
    char buf[16];
    read_result = cr_read(conn, buf, sizeof(buf));
}

TEST_CO_CONFIG(a_call_from_another_worker_is_cancelled_as_others_are, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    char buf[16];
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), reads_elsewhere, client, NULL), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(read_result, -ECANCELED);
    CHECK_EQ(cr_write_all(server, "there", 5), 5);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), 5);
    cr_close(client), cr_close(server);
    close_both();
}

/* Until a call from another worker has begun; nothing else runs here meanwhile, so it has not come. */
static void await_visit(_Atomic uint32_t *visits)
{
    while (atomic_load_explicit(visits, memory_order_relaxed) == 0)
        ;
}

TEST_CO_CONFIG(a_call_that_has_begun_on_another_worker_is_told_of_a_close_that_comes_before_it, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    char buf[16];
    open_both();
    for (int i = 0; i < 500; i++) {
        connect_pair(&client, &server);
        CHECK_EQ(cr_write_all(server, "there", 5), 5);
        CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), reads_elsewhere, client, NULL), 0);
        await_visit(&cr__tcp_of(client)->visits);
        if (i % 2)
            cr_close(client);
        else
            cr_close_reset(client);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(read_result, -EBADF);
        CHECK(cr_read(server, buf, sizeof(buf)) <= 0);
        cr_close(server);
    }
    close_both();
}

static void accepts_elsewhere(void *listener)
{
    struct cr_conn *conn;
    read_result = cr_accept(listener, &conn);
}

TEST_CO_CONFIG(an_accept_that_has_begun_on_another_worker_is_told_of_a_close_that_comes_before_it, &(struct cr_config){.workers = 2})
{
    struct cr_co *co;
    open_both();
    for (int i = 0; i < 200; i++) {
        struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
        CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), accepts_elsewhere, l, NULL), 0);
        await_visit(&CR__CONTAINER(l, struct cr__listening, listener)->visits);
        cr_listener_close(l);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(read_result, -EBADF);
    }
    close_both();
}

TEST_CO(a_migratable_coroutine_may_use_it_too)
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_spawn(&co, reads_elsewhere, client, &(struct cr_attr){.flags = CR_MIGRATABLE}), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_write_all(server, "there", 5), 5);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(read_result, 5);
    cr_close(client), cr_close(server);
    close_both();
}

/* ---- Who waits for a turn there ------------------------------------------------------------------------------------ */

static const struct cr_config not_watched = {.workers = 2, .slow_ns = -1}, few_stacks = {.workers = 2, .max_stacks_bytes = 64 << 20},
                              small_budget = {.workers = 2, .memory_budget_bytes = 32 << 20};
static _Atomic int came_back, parked;
static _Atomic bool leave;
static struct cr_listener *listened;
static int64_t patience_ns; /* 0: until cancelled */

static int64_t out_of_patience_at(void)
{
    return patience_ns ? cr_after(patience_ns) : CR_FOREVER;
}

static int expected(void)
{
    return patience_ns ? -ETIMEDOUT : -ECANCELED;
}

static void reads_impatiently(void *conn)
{
    char buf[8];
    CHECK_EQ(cr_read_until(conn, buf, sizeof(buf), out_of_patience_at()), expected());
    came_back++;
}

static void accepts_impatiently(void *listener)
{
    struct cr_conn *conn;
    CHECK_EQ(cr_accept_until(listener, &conn, out_of_patience_at()), expected());
    came_back++;
}

static void dials_impatiently(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    CHECK_EQ(cr_dial_until(&conn, url, &at_left, out_of_patience_at()), expected());
    came_back++;
}

static int reads_impatiently_as_task(struct cr_task *task)
{
    struct read_task *me = (struct read_task *)task;
    CR_TASK_BEGIN(task, reads_impatiently_as_task);
    me->deadline_ns = out_of_patience_at();
    CR_AWAIT(me->n, cr_task_read(task, me->conn, me->buf, sizeof(me->buf), me->deadline_ns));
    CHECK_EQ(me->n, expected());
    came_back++;
    return 0;
}

#define IMPATIENT 4

static void cancels_all(void *cos)
{
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    for (int i = 0; i < IMPATIENT; i++)
        CHECK_EQ(cr_cancel(((struct cr_co **)cos)[i]), 0);
}

/* Nobody else has a turn on this worker before it yields. */
static void come_back_without_a_turn(void)
{
    struct cr_conn *client, *server, *of_task, *its_server;
    struct cr_co *cos[IMPATIENT], *canceller;
    unsigned other = !cr_worker_index();
    char buf[8];
    open_both();
    connect_pair(&client, &server);
    connect_pair(&of_task, &its_server);
    listened = listen_right("tcp://10.0.0.2:0");
    struct read_task frame = {.task = CR_TASK(reads_impatiently_as_task), .conn = of_task};
    CHECK_EQ(cr_spawn_on(&cos[0], other, reads_impatiently, client, NULL), 0);
    CHECK_EQ(cr_spawn_on(&cos[1], other, accepts_impatiently, listened, NULL), 0);
    CHECK_EQ(cr_spawn_on(&cos[2], other, dials_impatiently, NULL, NULL), 0);
    CHECK_EQ(cr_task_spawn_on(&cos[3], other, &frame.task, sizeof(frame), NULL), 0);
    if (!patience_ns)
        CHECK_EQ(cr_spawn_on(&canceller, other, cancels_all, cos, NULL), 0);
    for (int64_t until_ns = cr_now() + 5 * CR_SEC; came_back < IMPATIENT && cr_now() < until_ns;)
        ;
    CHECK_EQ(came_back, IMPATIENT);
    for (int i = 0; i < IMPATIENT; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    if (!patience_ns)
        CHECK_EQ(cr_join(canceller), 0);
    CHECK_EQ(cr_write_all(server, "there", 5), 5); /* for none of those */
    CHECK_EQ(cr_read_until(client, buf, sizeof(buf), cr_after(5 * CR_SEC)), 5);
    CHECK_EQ(cr_write_all(its_server, "there", 5), 5);
    CHECK_EQ(cr_read_until(of_task, buf, sizeof(buf), cr_after(5 * CR_SEC)), 5);
    cr_close(client), cr_close(server), cr_close(of_task), cr_close(its_server);
    cr_listener_close(listened);
    close_both();
}

TEST_CO_CONFIG(a_call_from_elsewhere_ends_at_its_deadline_though_it_has_had_no_turn, &not_watched)
{
    patience_ns = 20 * CR_MS;
    come_back_without_a_turn();
}

TEST_CO_CONFIG(a_call_from_elsewhere_is_cancelled_though_it_has_had_no_turn, &not_watched)
{
    come_back_without_a_turn();
}

TEST_CO_CONFIG(what_is_closed_while_a_call_that_has_given_up_is_under_way_to_it_goes_with_that, &not_watched)
{
    struct cr_conn *client, *server;
    struct cr_co *reader, *dialler;
    unsigned other = !cr_worker_index();
    open_both();
    connect_pair(&client, &server);
    patience_ns = CR_MS;
    CHECK_EQ(cr_spawn_on(&reader, other, reads_impatiently, client, NULL), 0);
    CHECK_EQ(cr_spawn_on(&dialler, other, dials_impatiently, NULL, NULL), 0);
    while (came_back < 2)
        ;
    cr_close(client), cr_close(server);
    close_both();
    CHECK_EQ(cr_join(reader), 0);
    CHECK_EQ(cr_join(dialler), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr__mem_bytes(CR__MEM_CONNS), 0);
}

static void tries_to_read(void *conn)
{
    char buf[8];
    CHECK_EQ(cr_read_until(conn, buf, sizeof(buf), 0), 5);
    CHECK_EQ(cr_read_until(conn, buf, sizeof(buf), 0), -ETIMEDOUT);
}

TEST_CO_CONFIG(a_call_from_elsewhere_whose_deadline_has_passed_tries_all_the_same, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_write_all(server, "there", 5), 5);
    CHECK_EQ(cr_wait_readable(client), 0);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), tries_to_read, client, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_close(client), cr_close(server);
    close_both();
}

static void parks(void *unused)
{
    (void)unused;
    parked++;
    while (!leave && cr_sleep(10 * CR_MS) == 0)
        ;
}

#define PARKED 400

TEST_CO_CONFIG(who_dials_from_elsewhere_ends_at_his_deadline_though_there_is_no_stack_for_him, &few_stacks)
{
    struct cr_co *dialler;
    open_both();
    listened = listen_right("tcp://10.0.0.2:0");
    for (int i = 0; i < PARKED; i++)
        CHECK_EQ(cr_spawn_on(NULL, (unsigned)cr_worker_index(), parks, NULL, &(struct cr_attr){.stack = CR_STACK_STATIC}), 0);
    CHECK_EQ(cr_sleep(50 * CR_MS), 0);
    CHECK(parked < PARKED);
    patience_ns = 50 * CR_MS;
    CHECK_EQ(cr_spawn_on(&dialler, !cr_worker_index(), dials_impatiently, NULL, NULL), 0);
    CHECK_EQ(cr_join_until(dialler, cr_after(5 * CR_SEC)), 0);
    leave = true;
    cr_listener_close(listened);
    CHECK_EQ(cr_sleep(50 * CR_MS), 0);
    close_both();
}

/* ---- At the budget ------------------------------------------------------------------------------------------------- */

struct park_task {
    struct cr_task task;
    int64_t deadline_ns;
};

static int parks_as_task(struct cr_task *task)
{
    struct park_task *me = (struct park_task *)task;
    int r;
    CR_TASK_BEGIN(task, parks_as_task);
    while (!leave) {
        me->deadline_ns = cr_after(10 * CR_MS);
        CR_AWAIT(r, cr_task_sleep(task, me->deadline_ns));
        CHECK_EQ(r, 0);
    }
    return 0;
}

/* Until there is no room for a task either. */
static void fills_the_budget(void)
{
    struct park_task frame = {.task = CR_TASK(parks_as_task)};
    for (int i = 1; cr_spawn_on(NULL, (unsigned)cr_worker_index(), parks, NULL, &(struct cr_attr){.stack = CR_STACK_STATIC}) == 0; i++) {
        if (i % 200 == 0)
            CHECK_EQ(cr_yield(), 0);
    }
    CHECK_EQ(cr_yield(), 0);
    while (cr_task_go(&frame.task, sizeof(frame)) == 0)
        ;
}

static void goes_on_at_the_budget(void *conn)
{
    struct cr_lent lent;
    char buf[8];
    CHECK_EQ(cr_recv_lend(conn, &lent), 5);
    fills_the_budget();
    cr_recv_return(conn, &lent);
    CHECK_EQ(cr_write(conn, "again", 5), 5);
    CHECK_EQ(cr_read_until(conn, buf, sizeof(buf), cr_after(5 * CR_SEC)), 5);
    CHECK_EQ(cr_close_write(conn), 0);
}

TEST_CO_CONFIG(at_the_budget_calls_from_elsewhere_on_what_is_open_go_on, &small_budget)
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    char buf[8];
    SKIP_WITH_THREAD_SANITIZER();
    SKIP_WHILE_FREEZING();
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_write_all(server, "first", 5), 5);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), goes_on_at_the_budget, client, NULL), 0);
    CHECK_EQ(cr_read_until(server, buf, sizeof(buf), cr_after(20 * CR_SEC)), 5);
    CHECK_EQ(cr__tcp_of(client)->flight ? cr__tcp_of(client)->flight->lent : 0, 0);
    CHECK_EQ(cr_write_all(server, "third", 5), 5);
    CHECK_EQ(cr_read_until(server, buf, sizeof(buf), cr_after(20 * CR_SEC)), 0);
    CHECK_EQ(cr_join(co), 0);
    leave = true;
    cr_close(client), cr_close(server);
    close_both();
}

/* ---- A network that is closed meanwhile ------------------------------------------------------------------------------ */

static _Atomic int opened_result;

static void dials_what_is_closed(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    opened_result = cr_dial_until(&conn, "tcp://10.0.0.2:80", &at_left, cr_after(CR_SEC));
}

static void listens_at_what_is_closed(void *unused)
{
    struct cr_listener *l;
    (void)unused;
    opened_result = cr_listen(&l, "tcp://10.0.0.1:80", &at_left);
}

static void binds_at_what_is_closed(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    opened_result = cr_bind(&conn, "udp://10.0.0.1:80", &at_left);
}

TEST_CO_CONFIG(who_is_about_to_open_something_elsewhere_is_told_that_the_network_was_closed, &(struct cr_config){.workers = 2})
{
    static void (*const opens[])(void *unused) = {dials_what_is_closed, listens_at_what_is_closed, binds_at_what_is_closed};
    struct cr_co *co;
    for (int i = 0; i < 30; i++) {
        CHECK_EQ(cr_net_open(&left, LEFT), 0);
        at_left.net = left;
        CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), opens[i % 3], NULL, NULL), 0);
        await_visit(&CR__CONTAINER(left, struct cr__network, net)->visits);
        cr_net_close(left);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(opened_result, -EBADF);
    }
}
