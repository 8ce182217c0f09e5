/* Tasks that use a network, of its own worker and of others. */
#include "read_task.h"

/* ---- Tasks ------------------------------------------------------------------------------------------------------ */

struct echo_task {
    struct cr_task task;
    struct cr_conn *conn;
    struct cr_lent data;
    size_t sent;
    ssize_t n;
};

static int echoes_as_task(struct cr_task *task)
{
    struct echo_task *me = (struct echo_task *)task;
    CR_TASK_BEGIN(task, echoes_as_task);
    for (;;) {
        CR_AWAIT(me->n, cr_task_recv_lend(task, me->conn, &me->data, CR_FOREVER));
        if (me->n <= 0)
            break;
        CR_AWAIT(me->n, cr_task_write_all(task, me->conn, me->data.bytes, me->data.size_bytes, &me->sent, CR_FOREVER));
        CHECK(me->n > 0);
        cr_recv_return(me->conn, &me->data);
    }
    cr_close(me->conn);
    return 0;
}

static void accepts_for_tasks(void *listener)
{
    struct cr_conn *conn;
    while (cr_accept(listener, &conn) == 0) {
        struct echo_task frame = {.task = CR_TASK(echoes_as_task), .conn = conn};
        CHECK_EQ(cr_task_go(&frame.task, sizeof(frame)), 0);
    }
}

TEST_CO(tasks_echo_a_hundred_clients)
{
    struct cr_co *acceptor;
    open_both();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_spawn(&acceptor, accepts_for_tasks, l, NULL), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_go(talks, (void *)(intptr_t)i), 0);
    while (done < 100)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cr_listener_close(l);
    close_both();
}

static struct cr_co *go_read(unsigned worker, struct cr_conn *conn, int64_t deadline_ns)
{
    struct read_task frame = {.task = CR_TASK(reads_as_task), .conn = conn, .deadline_ns = deadline_ns};
    struct cr_co *co;
    CHECK_EQ(cr_task_spawn_on(&co, worker, &frame.task, sizeof(frame), NULL), 0);
    CHECK_EQ(cr_sleep(3 * CR_MS), 0);
    return co;
}

static void await_call(struct cr_conn *conn)
{
    const struct cr__tcp *tcp = cr__tcp_of(conn);
    while (atomic_load(&tcp->visits) == 0 && !tcp->user[CR__IN])
        CHECK_EQ(cr_sleep(10 * CR_US), 0);
}

static void reads_of_tasks_end(unsigned worker)
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    int result;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_join_task(go_read(worker, client, cr_after(5 * CR_MS)), &result), 0);
    CHECK_EQ(result, -ETIMEDOUT);
    CHECK_EQ(cr_join_task(go_read(worker, client, 0), &result), 0);
    CHECK_EQ(result, -ETIMEDOUT);
    co = go_read(worker, client, CR_FOREVER);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, -ECANCELED);
    co = go_read(worker, client, CR_FOREVER);
    CHECK_EQ(cr_write_all(server, "abc", 3), 3);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, 3);
    co = go_read(worker, client, CR_FOREVER);
    await_call(client);
    cr_close(client);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, -EBADF);
    cr_close(server);
    close_both();
}

TEST_CO(a_tasks_read_ends_by_deadline_cancelling_and_closing)
{
    reads_of_tasks_end(0);
}

/* ---- Tasks of other workers --------------------------------------------------------------------------------------- */

TEST_CO_CONFIG(a_tasks_read_on_another_worker_ends_in_the_same_ways, &(struct cr_config){.workers = 2})
{
    reads_of_tasks_end(!cr_worker_index());
}

/* Buffers are where the function is called last, not where it was called first. */
struct local_task {
    struct cr_task task;
    struct cr_conn *conn;
};

static int reads_into_what_is_local(struct cr_task *task)
{
    struct local_task *me = (struct local_task *)task;
    char buf[3][4] = {"..."};
    static int turns;
    ssize_t n = cr_task_readv(task, me->conn, (struct iovec[2]){{buf[turns % 2], 2}, {buf[2], 2}}, 2, CR_FOREVER);
    int here = turns++ % 2;
    if (n == CR_WAITS)
        return CR_WAITS;
    return n == 4 && buf[here][0] == 'a' && buf[here][1] == 'b' && buf[2][0] == 'c' && buf[2][1] == 'd';
}

TEST_CO_CONFIG(what_a_task_elsewhere_reads_goes_to_where_it_asks_for_it_last, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct local_task frame = {.task = CR_TASK(reads_into_what_is_local)};
    struct cr_co *co;
    int result;
    open_both();
    connect_pair(&client, &server);
    frame.conn = client;
    CHECK_EQ(cr_task_spawn_on(&co, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_write_all(server, "abcd", 4), 4);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, 1);
    cr_close(client), cr_close(server);
    close_both();
}

struct accept_task {
    struct cr_task task;
    struct cr_listener *listener;
    struct cr_conn *conn;
    int r;
};

/* Sessions are tasks of whichever worker. */
static int accepts_as_task(struct cr_task *task)
{
    struct accept_task *me = (struct accept_task *)task;
    CR_TASK_BEGIN(task, accepts_as_task);
    for (;;) {
        CR_AWAIT(me->r, cr_task_accept(task, me->listener, &me->conn, CR_FOREVER));
        if (me->r < 0)
            return me->r;
        struct echo_task frame = {.task = CR_TASK(echoes_as_task), .conn = me->conn};
        CHECK_EQ(cr_task_go(&frame.task, sizeof(frame)), 0);
    }
}

TEST_CO_CONFIG(tasks_of_another_worker_accept_and_echo_a_hundred_clients, &(struct cr_config){.workers = 2})
{
    struct cr_co *acceptor;
    int result;
    open_both();
    struct accept_task frame = {.task = CR_TASK(accepts_as_task), .listener = listen_right("tcp://10.0.0.2:0")};
    CHECK_EQ(cr_task_spawn_on(&acceptor, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_go_on((unsigned)cr_worker_index(), talks, (void *)(intptr_t)i), 0);
    while (done < 100)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_listener_close(frame.listener);
    CHECK_EQ(cr_join_task(acceptor, &result), 0);
    CHECK_EQ(result, -EBADF);
    close_both();
}

#define MUCH 300000 /* more than is taken at once */

struct send_task {
    struct cr_task task;
    struct cr_conn *conn;
    const char *much;
    size_t sent;
    ssize_t n;
    int r;
};

static int sends_much(struct cr_task *task)
{
    struct send_task *me = (struct send_task *)task;
    CR_TASK_BEGIN(task, sends_much);
    CR_AWAIT(me->n, cr_task_write_all(task, me->conn, me->much, MUCH, &me->sent, CR_FOREVER));
    CHECK_EQ(me->n, MUCH);
    CR_AWAIT(me->r, cr_task_wait_writable(task, me->conn, CR_FOREVER));
    CHECK_EQ(me->r, 0);
    CHECK_EQ(cr_close_write(me->conn), 0);
    CR_AWAIT(me->r, cr_task_wait_readable(task, me->conn, CR_FOREVER));
    return me->r;
}

TEST_CO_CONFIG(a_task_of_another_worker_sends_much_and_its_end, &(struct cr_config){.workers = 2})
{
    static char much[MUCH], back[MUCH];
    struct cr_conn *client, *server;
    struct cr_co *co;
    int result;
    open_both_as(LEFT " sndbuf=64K", RIGHT);
    connect_pair(&client, &server);
    for (size_t i = 0; i < MUCH; i++)
        much[i] = (char)(i * 2654435761u >> 13);
    struct send_task frame = {.task = CR_TASK(sends_much), .conn = client, .much = much};
    CHECK_EQ(cr_task_spawn_on(&co, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    read_exactly(server, back, MUCH);
    CHECK(memcmp(much, back, MUCH) == 0);
    CHECK_EQ(cr_read(server, back, 1), 0);
    CHECK_EQ(cr_write_all(server, "x", 1), 1);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, 0);
    cr_close(client), cr_close(server);
    close_both();
}

struct datagram_task {
    struct cr_task task;
    struct cr_conn *conn;
    struct cr_addr from;
    struct cr_lent lent;
    ssize_t n;
    char buf[64];
};

static int answers_datagrams(struct cr_task *task)
{
    struct datagram_task *me = (struct datagram_task *)task;
    CR_TASK_BEGIN(task, answers_datagrams);
    for (;;) {
        CR_AWAIT(me->n, cr_task_recv_from(task, me->conn, me->buf, 4, &me->from, CR_FOREVER));
        if (me->n < 0)
            return (int)me->n;
        me->buf[4] = (char)('0' + me->n); /* of which 4 are kept */
        CR_AWAIT(me->n, cr_task_send_to(task, me->conn, me->buf, 5, &me->from, CR_FOREVER));
        CHECK_EQ(me->n, 5);
        CR_AWAIT(me->n, cr_task_recv_lend(task, me->conn, &me->lent, CR_FOREVER));
        CHECK_EQ(me->n, 5);
        CHECK(memcmp(me->lent.bytes, "again", 5) == 0);
        cr_recv_return(me->conn, &me->lent);
    }
}

TEST_CO_CONFIG(a_task_of_another_worker_answers_datagrams, &(struct cr_config){.workers = 2})
{
    struct cr_conn *bound, *from;
    struct cr_co *co;
    char buf[16];
    int result;
    open_both();
    CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:9", &at_right), 0);
    CHECK_EQ(cr_dial(&from, "udp://10.0.0.2:9", &at_left), 0);
    struct datagram_task frame = {.task = CR_TASK(answers_datagrams), .conn = bound};
    CHECK_EQ(cr_task_spawn_on(&co, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(cr_write(from, "question", 8), 8);
        CHECK_EQ(cr_read_until(from, buf, sizeof(buf), cr_after(5 * CR_SEC)), 5);
        CHECK(memcmp(buf, "ques8", 5) == 0);
        CHECK_EQ(cr_write(from, "again", 5), 5);
    }
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    cr_close(bound);
    CHECK_EQ(cr_join_task(co, &result), 0);
    CHECK_EQ(result, -EBADF);
    cr_close(from);
    close_both();
}

TEST_CO_CONFIG(a_task_elsewhere_that_is_cancelled_at_any_time_has_taken_nothing_or_says_so, &(struct cr_config){.workers = 2})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    char buf[8];
    int result, taken = 0, left_there = 0;
    open_both();
    connect_pair(&client, &server);
    for (int i = 0; i < 400; i++) {
        struct read_task frame = {.task = CR_TASK(reads_as_task), .conn = client, .deadline_ns = i % 3 ? CR_FOREVER : cr_after(i % 50 * CR_US)};
        CHECK_EQ(cr_task_spawn_on(&co, !cr_worker_index(), &frame.task, sizeof(frame), NULL), 0);
        CHECK_EQ(cr_sleep(i % 7 * 5 * CR_US), 0);
        CHECK_EQ(cr_write_all(server, "abcd", 4), 4);
        if (i % 3 && i % 5)
            CHECK_EQ(cr_sleep(i % 11 * 5 * CR_US), 0);
        if (i % 3)
            CHECK_EQ(cr_cancel(co), 0);
        CHECK_EQ(cr_join_task(co, &result), 0);
        CHECK(result == 4 || result == (i % 3 ? -ECANCELED : -ETIMEDOUT));
        if (result < 0)
            CHECK_EQ(cr_read_until(client, buf, sizeof(buf), cr_after(5 * CR_SEC)), 4);
        result < 0 ? left_there++ : taken++;
    }
    printf("# %d times it was taken, %d times left\n", taken, left_there);
    cr_close(client), cr_close(server);
    close_both();
}

/* Closing, from this worker or that of the tasks, while tasks come, wait and go: each is told, and what is lent and kept is given back. */
static int borrows_and_keeps(struct cr_task *task)
{
    struct echo_task *me = (struct echo_task *)task;
    CR_TASK_BEGIN(task, borrows_and_keeps);
    CR_AWAIT(me->n, cr_task_recv_lend(task, me->conn, &me->data, CR_FOREVER));
    CHECK(me->n == -EBADF || me->n == 4);
    return 0;
}

static void closes(void *conn)
{
    cr_close(conn);
}

/* Until its call has begun: a connection may be closed then. */
TEST_CO_CONFIG(tasks_elsewhere_whose_connections_are_closed_at_any_time_lose_nothing, &(struct cr_config){.workers = 3})
{
    struct cr_conn *client, *server;
    struct cr_co *co, *closer;
    uint64_t before = cr__packets_in_use();
    open_both();
    for (int i = 0; i < 300; i++) {
        connect_pair(&client, &server);
        struct echo_task frame = {.task = CR_TASK(borrows_and_keeps), .conn = client};
        CHECK_EQ(cr_task_spawn_on(&co, (unsigned)i % 3, &frame.task, sizeof(frame), NULL), 0);
        await_call(client);
        CHECK_EQ(cr_write_all(server, "lent", 4), 4);
        CHECK_EQ(cr_sleep(i % 11 * 10 * CR_US), 0);
        CHECK_EQ(cr_spawn_on(&closer, (unsigned)(i + 1) % 3, closes, client, NULL), 0);
        CHECK_EQ(cr_join(closer), 0);
        CHECK_EQ(cr_join(co), 0);
        cr_close(server);
    }
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
    CHECK(cr__packets_in_use() <= before + 3 * 256);
}
