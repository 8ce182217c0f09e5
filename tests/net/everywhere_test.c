/* A network on all workers, with another one at the other end. (With a peer made by hand: spread_test.) */
#include "networks.h"

/* ---- On all workers ----------------------------------------------------------------------------------------------- */

#define LEFT_ALL LEFT " workers=all"
#define RIGHT_ALL RIGHT " workers=all"
#define DIALLERS 8 /* on each worker */

static _Atomic int ended, on_worker[8], spread_rounds;

static void talks_on_its_worker(void *arg)
{
    int me = (int)(intptr_t)arg, worker = cr_worker_index();
    for (int i = 0; i < spread_rounds; i++) {
        struct cr_conn *conn;
        char text[6000], back[6000];
        CHECK_EQ(cr_dial(&conn, url, &at_left), 0);
        CHECK_EQ(cr__net_here(cr__network_of(cr__tcp_of(conn)->host)), true); /* its answers come to where it was dialled */
        size_t size = (size_t)(1 + (me * 7919 + i * 104729) % (int)sizeof(text));
        for (size_t k = 0; k < size; k++)
            text[k] = (char)(k * 31 + (size_t)me * 7 + (size_t)i);
        CHECK_EQ(cr_write_all(conn, text, size), (ssize_t)size);
        read_exactly(conn, back, size);
        CHECK(memcmp(text, back, size) == 0);
        CHECK_EQ(cr_close_write(conn), 0);
        CHECK_EQ(cr_read(conn, back, 1), 0);
        CHECK_EQ(cr_worker_index(), worker);
        cr_close(conn);
    }
    ended++;
}

static void serves_here(struct cr_conn *conn, void *unused)
{
    (void)unused;
    CHECK(cr__net_here(cr__network_of(cr__tcp_of(conn)->host))); /* no visits */
    on_worker[cr_worker_index()]++;
    echoes(conn);
}

static void dial_from_all(int workers, int rounds)
{
    spread_rounds = rounds;
    for (int i = 0; i < workers * DIALLERS; i++)
        CHECK_EQ(cr_go_on((unsigned)(i % workers), talks_on_its_worker, (void *)(intptr_t)i), 0);
    while (ended < workers * DIALLERS)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

/* But what was sent again because a thread had to wait for the processor, and SYNs that came while a neighbour was asked for. */
static void check_nothing_was_dropped(struct cr_net *net)
{
    static const unsigned harmless[] = {CR__DROP_TCP_DUPLICATE, CR__DROP_TCP_WINDOW, CR__DROP_NEIGHBOUR_FULL};
    struct cr_net_stats stats;
    const char *name;
    uint64_t count, sum = 0;
    CHECK_EQ(cr_net_stats_get(net, &stats), 0);
    for (unsigned cause = 0; (name = cr_net_cause(net, cause, &count)) != NULL; cause++) {
        sum += count;
        if (count > 0 && cause != harmless[0] && cause != harmless[1] && cause != harmless[2])
            test_fail(__FILE__, __LINE__, name);
    }
    CHECK(sum >= stats.dropped);
}

static void serve_on_all(int workers, const char *where)
{
    struct cr_server *server;
    int rounds = 2000 / (workers * DIALLERS), sum = 0;
    open_both_as(LEFT_ALL, RIGHT_ALL);
    CHECK_EQ(cr_serve(&server, where, serves_here, NULL, &(struct cr_serve_opts){.conn.net = right}), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    dial_from_all(workers, rounds);
    for (int i = 0; i < workers; i++) {
        printf("# worker %d has served %d\n", i, on_worker[i]);
        CHECK(on_worker[i] > rounds * DIALLERS / 2); /* of rounds * DIALLERS, on average */
        sum += on_worker[i];
    }
    CHECK_EQ(sum, rounds * workers * DIALLERS);
    check_nothing_was_dropped(left), check_nothing_was_dropped(right);
    CHECK_EQ(cr_server_close(server), 0);
    close_both();
}

TEST_CO_CONFIG(two_workers_share_what_comes_and_each_serves_its_own, &(struct cr_config){.workers = 2})
{
    serve_on_all(2, "tcp://10.0.0.2:0");
}

TEST_CO_CONFIG(four_workers_share_what_comes_and_each_serves_its_own, &(struct cr_config){.workers = 4})
{
    serve_on_all(4, "tcp://10.0.0.2:0");
}

TEST_CO_CONFIG(the_same_over_ipv6_on_three_workers, &(struct cr_config){.workers = 3})
{
    serve_on_all(3, "tcp://[fd00::2]:0");
}

TEST_CO_CONFIG(one_acceptor_takes_what_came_to_any_worker, &(struct cr_config){.workers = 3})
{
    struct cr_co *acceptor;
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_spawn_on(&acceptor, 1, accepts, l, NULL), 0);
    dial_from_all(3, 10);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cr_listener_close(l);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
}

struct accept_task {
    struct cr_task task;
    struct cr_listener *listener;
    struct cr_conn *conn;
    int64_t pause_ns, deadline_ns;
    int r;
};

static int accepts_as_task(struct cr_task *task)
{
    struct accept_task *me = (struct accept_task *)task;
    CR_TASK_BEGIN(task, accepts_as_task);
    for (;;) {
        me->deadline_ns = me->pause_ns ? cr_after(me->pause_ns) : CR_FOREVER;
        CR_AWAIT(me->r, cr_task_accept(task, me->listener, &me->conn, me->deadline_ns));
        if (me->r == 0)
            CHECK_EQ(cr_go(echoes, me->conn), 0);
        else if (me->r != -ETIMEDOUT)
            break;
    }
    ended++;
    return me->r;
}

static void tasks_accept(unsigned first, unsigned count, unsigned flags, int64_t pause_ns)
{
    struct cr_co *cos[4];
    int result;
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct accept_task frame = {.task = CR_TASK(accepts_as_task), .listener = listen_right("tcp://10.0.0.2:0"), .pause_ns = pause_ns};
    for (unsigned i = 0; i < count; i++)
        CHECK_EQ(cr_task_spawn_on(&cos[i], first + i, &frame.task, sizeof(frame), &(struct cr_attr){.flags = flags}), 0);
    dial_from_all(3, 10);
    for (unsigned i = 1; i < count; i++) { /* what one of them was told of goes to another */
        CHECK_EQ(cr_cancel(cos[i]), 0);
        CHECK_EQ(cr_join_task(cos[i], &result), 0);
        CHECK_EQ(result, -ECANCELED);
        ended = 0;
        spread_rounds = 12;
        CHECK_EQ(cr_go(talks_on_its_worker, NULL), 0); /* one after the other, so that no later one makes up for it */
        while (ended < 1)
            CHECK_EQ(cr_sleep(CR_MS), 0);
    }
    cr_listener_close(frame.listener);
    CHECK_EQ(cr_join_task(cos[0], &result), 0);
    CHECK_EQ(result, -EBADF);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
}

TEST_CO_CONFIG(one_task_accepts_what_came_to_any_worker, &(struct cr_config){.workers = 3})
{
    tasks_accept(1, 1, 0, 0);
}

TEST_CO_CONFIG(tasks_on_all_workers_that_accept_and_give_up_leave_nobody_waiting, &(struct cr_config){.workers = 3})
{
    tasks_accept(0, 3, 0, 3 * CR_MS);
}

TEST_CO_CONFIG(tasks_that_accept_and_are_cancelled_leave_what_comes_to_the_others, &(struct cr_config){.workers = 3})
{
    tasks_accept(0, 3, 0, 0);
}

TEST_CO_CONFIG(a_migratable_task_accepts_what_came_to_any_worker, &(struct cr_config){.workers = 3})
{
    tasks_accept(0, 1, CR_MIGRATABLE, 0);
}

static int accept_those_of(struct cr_listener *l, struct cr_conn **conns)
{
    int count = 0;
    while (cr_accept_until(l, &conns[count], cr_after(50 * CR_MS)) == 0)
        count++;
    return count;
}

TEST_CO_CONFIG(listeners_on_all_workers_share_a_port_too, &(struct cr_config){.workers = 3})
{
    enum { MANY = 60 };
    struct cr_conn *clients[MANY], *servers[MANY + 1];
    struct cr_listener *first, *second;
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct cr_conn_opts shares = {.net = right, .flags = CR_REUSE_PORT};
    CHECK_EQ(cr_listen(&first, "tcp://10.0.0.2:0", &shares), 0);
    CHECK(cr_listener_url(first, url, sizeof(url)) > 0);
    CHECK_EQ(cr_listen(&second, url, &shares), 0);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_dial(&clients[i], url, &at_left), 0);
    int of_first = accept_those_of(first, servers), of_second = accept_those_of(second, servers + of_first);
    CHECK(of_first > 10 && of_second > 10);
    CHECK_EQ(of_first + of_second, MANY);
    for (int i = 0; i < MANY; i++)
        cr_close_reset(clients[i]), cr_close_reset(servers[i]);
    cr_listener_close(first), cr_listener_close(second);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
}

static void accepts_until_closed(void *listener)
{
    struct cr_conn *conn;
    int r;
    while ((r = cr_accept_until(listener, &conn, cr_after(3 * CR_MS))) == 0 || r == -ETIMEDOUT) {
        if (r == 0)
            CHECK_EQ(cr_go(echoes, conn), 0);
    }
    CHECK_EQ(r, -EBADF);
    ended++;
}

TEST_CO_CONFIG(acceptors_on_all_workers_that_come_and_go_leave_nobody_waiting, &(struct cr_config){.workers = 4})
{
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    for (unsigned i = 1; i < 4; i++) /* not on 0 */
        CHECK_EQ(cr_go_on(i, accepts_until_closed, l), 0);
    dial_from_all(4, 10);
    ended = 0;
    cr_listener_close(l);
    while (ended < 3)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    close_both();
}

static void reads_until_the_end(void *conn)
{
    char buf[16];
    ssize_t n = cr_read(conn, buf, sizeof(buf));
    CHECK(n == -EBADF || n == -ECONNRESET);
    cr_close(conn);
    ended++;
}

TEST_CO_CONFIG(closing_one_that_is_on_all_workers_resets_the_peers_of_each, &(struct cr_config){.workers = 4})
{
    struct cr_conn *client, *server;
    for (int round = 0; round < 3; round++) {
        ended = 0;
        open_both_as(LEFT_ALL, RIGHT_ALL);
        struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
        for (int i = 0; i < 40; i++) {
            CHECK_EQ(cr_dial(&client, url, &at_left), 0);
            CHECK_EQ(cr_accept(l, &server), 0);
            CHECK_EQ(cr_go_on((unsigned)i % 4, reads_until_the_end, client), 0);
            CHECK_EQ(cr_go_on((unsigned)(i + 1) % 4, reads_until_the_end, server), 0);
        }
        CHECK_EQ(cr_sleep(5 * CR_MS), 0);
        cr_net_close(left);
        while (ended < 80)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        cr_listener_close(l);
        cr_net_close(right);
    }
}

TEST_CO_CONFIG(who_names_his_port_is_answered_too, &(struct cr_config){.workers = 4})
{
    struct cr_conn *client, *server;
    char from[32], buf[8];
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    for (int i = 0; i < 32; i++) {
        snprintf(from, sizeof(from), "10.0.0.1:%d", 5000 + i);
        CHECK_EQ(cr_dial(&client, url, &(struct cr_conn_opts){.net = left, .source = from}), 0);
        CHECK_EQ(cr_accept(l, &server), 0);
        CHECK_EQ(cr_write_all(client, "hello", 5), 5);
        CHECK_EQ(cr_read(server, buf, sizeof(buf)), 5);
        cr_close(client), cr_close(server);
    }
    cr_listener_close(l);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
}

static char bound_at[4][64];

/* Long ones, which come in fragments, too. */
static void answers_datagrams(void *arg)
{
    static _Thread_local char buf[9000];
    int worker = (int)(intptr_t)arg;
    struct cr_addr from;
    struct cr_conn *bound;
    CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:0", &at_right), 0);
    CHECK(cr_local_url(bound, bound_at[worker], sizeof(bound_at[worker])) > 0);
    ended++;
    for (int i = 0; i < 20; i++) {
        ssize_t n = cr_recv_from_until(bound, buf, sizeof(buf), &from, cr_after(10 * CR_SEC));
        CHECK(n > 0);
        CHECK_EQ(cr_send_to(bound, buf, (size_t)n, &from), n);
    }
    CHECK_EQ(cr_worker_index(), worker);
    cr_close(bound);
    ended++;
}

static void asks_by_datagrams(void *arg)
{
    int worker = (int)(intptr_t)arg;
    struct cr_conn *conn;
    struct cr_lent lent;
    static _Thread_local char text[8000];
    CHECK_EQ(cr_dial(&conn, bound_at[(worker + 1) % 4], &at_left), 0);
    for (int i = 0; i < 20; i++) {
        size_t size = i < 4 || i % 2 ? 100 : sizeof(text);
        memset(text, 'a' + worker * 5 + i % 5, size);
        CHECK_EQ(cr_write(conn, text, size), (ssize_t)size);
        CHECK_EQ(cr_recv_lend_until(conn, &lent, cr_after(10 * CR_SEC)), (ssize_t)size);
        CHECK(memcmp(lent.bytes, text, size) == 0);
        cr_recv_return(conn, &lent);
    }
    cr_close(conn);
    ended++;
}

TEST_CO_CONFIG(datagram_sockets_are_bound_and_dialled_from_any_worker, &(struct cr_config){.workers = 4})
{
    open_both_as(LEFT_ALL, RIGHT_ALL);
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(cr_go_on(i, answers_datagrams, (void *)(intptr_t)i), 0);
    while (ended < 4)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(cr_go_on(i, asks_by_datagrams, (void *)(intptr_t)i), 0);
    while (ended < 12)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    close_both();
}

static void leaves_all_open_on_all(void *unused)
{
    (void)unused;
    open_both_as(LEFT_ALL, RIGHT_ALL);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    for (int i = 0; i < 20; i++) {
        struct cr_conn *client, *server;
        CHECK_EQ(cr_dial(&client, url, &at_left), 0);
        if (i % 2)
            CHECK_EQ(cr_accept(l, &server), 0);
        CHECK_EQ(cr_write_all(client, "never read", 10), 10);
    }
}

TEST(what_was_left_open_on_all_workers_is_closed_with_the_runtime)
{
    SKIP_SEVERAL_UNDER_SEED();
    uint64_t before = cr__packets_in_use();
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_run(leaves_all_open_on_all, NULL, &(struct cr_config){.workers = 4}), 0);
    CHECK_EQ(cr__packets_in_use(), before);
}

#define RECORDING "/tmp/crore-everywhere-test-%d.pcap"
#define DIALLED 24

static void dials_and_leaves(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    CHECK_EQ(cr_dial(&conn, url, &at_left), 0);
    ended++;
}

static void leaves_many_open_and_recorded(void *unused)
{
    char path[64], spec[256];
    struct cr_listener *l;
    (void)unused;
    snprintf(path, sizeof(path), RECORDING, (int)getpid());
    snprintf(spec, sizeof(spec), "pcap:%s,%s", path, LEFT_ALL);
    CHECK_EQ(cr_net_open(&left, spec), 0);
    CHECK_EQ(cr_net_open(&right, RIGHT_ALL), 0);
    at_left.net = left;
    at_right.net = right;
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:0", &at_right), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    for (unsigned i = 0; i < DIALLED; i++)
        CHECK_EQ(cr_go_on(i % 4, dials_and_leaves, NULL), 0);
    while (ended < DIALLED)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

/* Whose last byte of the source address is 1. */
static int resets_recorded(const char *path)
{
    static unsigned char bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    int resets = 0;
    CHECK(file != NULL);
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    for (size_t at = 24; at + 16 + 54 <= size;) {
        const unsigned char *frame = bytes + at + 16;
        uint32_t captured;
        memcpy(&captured, bytes + at + 8, sizeof(captured));
        resets += frame[12] == 8 && frame[13] == 0 && frame[23] == 6 && frame[29] == 1 && (frame[47] & 4);
        at += 16 + captured;
    }
    return resets;
}

TEST(peers_of_connections_of_all_workers_are_reset_when_the_runtime_ends)
{
    SKIP_SEVERAL_UNDER_SEED();
    char path[64];
    snprintf(path, sizeof(path), RECORDING, (int)getpid());
    CHECK_EQ(cr_run(leaves_many_open_and_recorded, NULL, &(struct cr_config){.workers = 4}), 0);
    int resets = resets_recorded(path);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(resets, DIALLED);
}

/* ---- Closing while it is used ---------------------------------------------------------------------------------------- */

static _Atomic bool is_closed;

static void asks_until_closed(void *unused)
{
    struct cr_net_stats stats;
    uint64_t count;
    int r = 0;
    (void)unused;
    while (!is_closed && (r == 0 || r == -EBADF)) {
        r = cr_net_stats_get(left, &stats);
        if (!is_closed)
            CHECK(cr_net_cause(left, 0, &count) != NULL);
        CHECK_EQ(cr_yield(), 0);
    }
    CHECK(r == 0 || r == -EBADF);
}

static void listens_until_closed(void *unused)
{
    struct cr_listener *l;
    int r = 0;
    (void)unused;
    while (!is_closed && (r == 0 || r == -EBADF)) {
        r = cr_listen(&l, "tcp://10.0.0.1:80", &at_left);
        if (r == 0)
            cr_listener_close(l);
        CHECK_EQ(cr_yield(), 0);
        CHECK_EQ(cr_yield(), 0);
    }
    CHECK(r == 0 || r == -EBADF || r == -EADDRINUSE);
}

static const struct cr_attr on_static = {.stack = CR_STACK_STATIC};

static void close_while(void (*fn)(void *unused))
{
    struct cr_co *co;
    for (int i = 0; i < 20; i++) {
        is_closed = false;
        CHECK_EQ(cr_net_open(&left, LEFT_ALL), 0);
        at_left.net = left;
        CHECK_EQ(cr_spawn_on(&co, (unsigned)cr_worker_index(), fn, NULL, &on_static), 0); /* a shared one would be in place most of the time, and needed here */
        CHECK_EQ(cr_sleep(CR_MS), 0);
        cr_net_close(left);
        is_closed = true;
        CHECK_EQ(cr_join(co), 0);
    }
}

TEST_CO_CONFIG(who_asks_while_it_is_closed_on_all_workers_is_told_so, &(struct cr_config){.workers = 4})
{
    close_while(asks_until_closed);
}

TEST_CO_CONFIG(who_listens_while_it_is_closed_on_all_workers_is_told_so, &(struct cr_config){.workers = 4})
{
    close_while(listens_until_closed);
}

static char by_name[128];

static void dials_by_name(void *unused)
{
    struct cr_conn *conn;
    struct cr_conn_opts from = {.net = left, .source = "10.0.0.1:4000"};
    (void)unused;
    CHECK(cr_dial_until(&conn, by_name, &from, cr_after(CR_SEC)) < 0);
}

TEST_CO_CONFIG(who_dials_by_name_and_port_is_told_that_it_was_closed_on_all_workers, &(struct cr_config){.workers = 3})
{
    char host[100];
    struct cr_addr addr;
    struct cr_co *co;
    CHECK_EQ(gethostname(host, sizeof(host)), 0);
    if (cr_resolve(host, 80, &addr, 1) != 1)
        SKIP("this machine's name is not known here");
    CHECK(snprintf(by_name, sizeof(by_name), "tcp://%s:80", host) < (int)sizeof(by_name));
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(cr_net_open(&left, LEFT_ALL " gw=10.0.0.2"), 0);
        CHECK_EQ(cr_spawn_on(&co, (unsigned)cr_worker_index(), dials_by_name, NULL, NULL), 0);
        CHECK_EQ(cr_yield(), 0); /* it has called, and looks the name up */
        cr_net_close(left);
        CHECK_EQ(cr_join(co), 0);
    }
}

struct idle_task {
    struct cr_task task;
    char more[240];
};

static int waits_for_the_end(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, waits_for_the_end);
    while (!is_closed)
        CR_AWAIT(r, cr_task_yield(task));
    (void)r;
    return 0;
}

TEST_CO_CONFIG(it_is_closed_on_all_workers_though_there_is_no_memory, &(struct cr_config){.workers = 3})
{
    struct idle_task frame = {.task = CR_TASK(waits_for_the_end)};
    for (int i = 0; i < 10; i++) {
        is_closed = false;
        CHECK_EQ(cr_net_open(&left, LEFT_ALL), 0);
        cr__mem_fail_after(1);
        for (size_t size = sizeof(struct cr_task); size <= sizeof(frame); size += 8) {
            while (cr_task_go(&frame.task, size) == 0)
                ; /* as long as there is a record left */
        }
        cr_net_close(left);
        cr__mem_fail_after(0);
        is_closed = true;
        CHECK_EQ(cr_yield(), 0);
    }
}

static const struct cr_attr migratable = {.flags = CR_MIGRATABLE, .stack = CR_STACK_STATIC};

static void closes_left(void *unused)
{
    (void)unused;
    cr_net_close(left);
}

TEST_CO_CONFIG(who_may_migrate_closes_it_on_all_workers, &(struct cr_config){.workers = 3})
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    char buf[8];
    for (int i = 0; i < 10; i++) {
        open_both_as(LEFT_ALL, RIGHT);
        connect_pair(&client, &server);
        CHECK_EQ(cr_spawn_on(&co, (unsigned)cr_worker_index(), closes_left, NULL, &migratable), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(cr_read_until(server, buf, sizeof(buf), cr_after(5 * CR_SEC)), -ECONNRESET);
        CHECK_EQ(cr_read(client, buf, sizeof(buf)), -EBADF);
        cr_close(client), cr_close(server);
        cr_net_close(right);
    }
}

static void opens_migratable(void *spec)
{
    struct cr_net *net;
    read_result = cr_net_open(&net, spec);
    if (read_result == 0)
        cr_net_close(net);
}

static ssize_t opened_by_a_migratable_one(const char *spec)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, opens_migratable, (void *)spec, &migratable), 0);
    CHECK_EQ(cr_join(co), 0);
    return read_result;
}

TEST_CO_CONFIG(who_may_migrate_opens_none_on_all_workers, &(struct cr_config){.workers = 3})
{
    CHECK_EQ(opened_by_a_migratable_one(LEFT_ALL), -EPERM);
    CHECK_EQ(opened_by_a_migratable_one(LEFT), 0);
}

static void asks_often(void *unused)
{
    struct cr_net_stats stats;
    (void)unused;
    for (int64_t until_ns = cr_after(200 * CR_MS); cr_now() < until_ns;) {
        int r = cr_net_stats_get(left, &stats);
        CHECK(r == -EPERM || (r == 0 && stats.listeners == 1));
        CHECK_EQ(cr_yield(), 0);
    }
    ended++;
}

static void is_busy(void *unused)
{
    (void)unused;
    while (ended < 3)
        CHECK_EQ(cr_yield(), 0);
}

TEST_CO_CONFIG(who_may_migrate_asks_each_worker_on_its_own, &(struct cr_config){.workers = 3})
{
    struct cr_listener *l;
    CHECK_EQ(cr_net_open(&left, LEFT_ALL), 0);
    at_left.net = left;
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.1:80", &at_left), 0);
    for (int i = 0; i < 6; i++)
        CHECK_EQ(cr_spawn(NULL, is_busy, NULL, &migratable), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_spawn_on(NULL, (unsigned)cr_worker_index(), asks_often, NULL, &migratable), 0);
    while (ended < 3)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_listener_close(l);
    cr_net_close(left);
}

TEST_CO_CONFIG(a_port_that_could_not_be_listened_on_everywhere_is_free_again, &(struct cr_config){.workers = 3})
{
    struct cr_listener *l;
    int failed = 0;
    CHECK_EQ(cr_net_open(&left, LEFT_ALL), 0);
    at_left.net = left;
    for (unsigned n = 1; n <= 12; n++) {
        cr__mem_fail_after(n);
        int r = cr_listen(&l, "tcp://10.0.0.1:80", &at_left);
        cr__mem_fail_after(0);
        failed += r != 0;
        CHECK(r == 0 || r == -ENOMEM);
        if (r == 0)
            cr_listener_close(l);
        CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    }
    CHECK(failed > 2);
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.1:80", &at_left), 0);
    cr_listener_close(l);
    cr_net_close(left);
}
