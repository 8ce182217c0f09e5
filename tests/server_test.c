/* cr_serve: a listener on each worker, placement, pauses, closing. */
#include <crore/crore.h>
#include <stdatomic.h>

#include "test.h"

static const struct cr_config several = {.workers = 3};

static _Atomic long clients_done, sessions_done;
static _Atomic unsigned long seen;
static char url[128];

static void echo(struct cr_conn *conn, void *arg)
{
    char buf[64];
    ssize_t n;
    CHECK(arg == &seen);
    atomic_fetch_or(&seen, 1ul << cr_worker_index());
    while ((n = cr_read(conn, buf, sizeof(buf))) > 0) {
        if (cr_write_all(conn, buf, (size_t)n) < 0)
            break;
    }
    cr_close(conn);
    sessions_done++;
}

static void talks(void *unused)
{
    (void)unused;
    struct cr_conn *conn;
    char buf[8] = "ping";
    CHECK_EQ(cr_dial(&conn, url, NULL), 0);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(cr_write_all(conn, buf, 5), 5);
        CHECK_EQ(cr_read(conn, buf, sizeof(buf)), 5);
    }
    cr_close(conn);
    clients_done++;
}

static void wait_for(_Atomic long *counter, long n)
{
    while (*counter < n)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static void serve_clients(const char *where, enum cr_placement placement, int count)
{
    struct cr_server *server;
    struct cr_serve_opts opts = {.placement = placement, .attr = &(struct cr_attr){.name = "session"}};
    CHECK_EQ(cr_serve(&server, where, echo, &seen, &opts), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    for (int i = 0; i < count; i++)
        CHECK_EQ(cr_go(talks, NULL), 0);
    wait_for(&clients_done, count);
    wait_for(&sessions_done, count);
    while (cr_server_sessions(server) > 0)
        cr_yield();
    CHECK_EQ(cr_server_close(server), 0);
}

TEST_BOTH(each_connection_is_served)
{
    serve_clients("tcp://127.0.0.1:0", CR_PLACE_DEFAULT, 200);
}

TEST_BOTH(each_connection_is_served_where_it_was_accepted)
{
    serve_clients("tcp://127.0.0.1:0", CR_PLACE_HERE, 200);
}

TEST_BOTH(a_unix_socket_is_served_by_all_workers)
{
    char url[64];
    snprintf(url, sizeof(url), "unix:@crore-server-test-%d", (int)getpid()); /* others run at the same time */
    for (int i = 0; i < 50 && __builtin_popcountl(seen) < cr_worker_count(); i++) { /* one that the system does not run steals nothing */
        clients_done = sessions_done = 0;
        serve_clients(url, CR_PLACE_DEFAULT, 100);
    }
    CHECK_EQ(__builtin_popcountl(seen), cr_worker_count());
}

static void holds_on(struct cr_conn *conn, void *unused)
{
    char byte;
    (void)unused;
    (void)!cr_read(conn, &byte, 1);
    cr_close(conn);
}

TEST_BOTH(the_least_loaded_worker_gets_the_next_one)
{
    struct cr_server *server;
    struct cr_conn *conns[30];
    int n = cr_worker_count();
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", holds_on, NULL, &(struct cr_serve_opts){.placement = CR_PLACE_LEAST_LOADED}), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    for (int i = 0; i < 10 * n; i++) {
        CHECK_EQ(cr_dial(&conns[i], url, NULL), 0);
        while (cr_server_sessions(server) <= i)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
    }
    for (int i = 0; i < n; i++)
        CHECK_EQ(cr_server_sessions_on(server, (unsigned)i), 10);
    CHECK_EQ(cr_server_close(server), 0);
    struct cr_conn *refused;
    CHECK_EQ(cr_dial(&refused, url, NULL), -ECONNREFUSED);
    for (int i = 0; i < 10 * n; i++) /* sessions go on */
        cr_close(conns[i]);
}

TEST_BOTH(what_a_stopped_server_has_begun_can_be_waited_for)
{
    struct cr_server *server;
    struct cr_conn *conns[20], *refused;
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", holds_on, NULL, NULL), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_dial(&conns[i], url, NULL), 0);
    while (cr_server_sessions(server) < 20)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_server_stop(server), 0);
    CHECK_EQ(cr_server_stop(server), 0);
    CHECK_EQ(cr_dial(&refused, url, NULL), -ECONNREFUSED);
    CHECK_EQ(cr_server_sessions(server), 20);
    for (int i = 0; i < 20; i++)
        cr_close(conns[i]);
    while (cr_server_sessions(server) > 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_server_close(server), 0);
}

TEST_BOTH(a_port_that_somebody_serves_is_refused)
{
    struct cr_server *server, *other;
    struct cr_serve_opts shared = {.conn.flags = CR_REUSE_PORT};
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", holds_on, NULL, NULL), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    CHECK_EQ(cr_serve(&other, url, holds_on, NULL, NULL), -EADDRINUSE);
    CHECK_EQ(cr_server_close(server), 0);
    CHECK_EQ(cr_serve(&server, url, holds_on, NULL, &shared), 0);
    CHECK_EQ(cr_serve(&other, url, holds_on, NULL, NULL), -EADDRINUSE);
    CHECK_EQ(cr_serve(&other, url, holds_on, NULL, &shared), 0); /* both say so */
    CHECK_EQ(cr_server_close(server), 0);
    CHECK_EQ(cr_server_close(other), 0);
}

static _Atomic int pauses, resumptions;
static _Atomic bool is_full;

static int full(void *unused)
{
    (void)unused;
    return is_full ? -EMFILE : 0;
}

static void paused(void *unused, int why)
{
    (void)unused;
    CHECK(why == 0 || why == -EMFILE);
    if (why)
        pauses++;
    else
        resumptions++;
}

TEST_BOTH(while_it_is_full_connections_wait)
{
    struct cr_server *server;
    struct cr_serve_opts opts = {.full = full, .paused = paused};
    struct cr_conn *conn;
    is_full = true;
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", holds_on, NULL, &opts), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&conn, url, NULL), 0);
    while (pauses < cr_worker_count())
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_server_sessions(server), 0);
    is_full = false;
    while (cr_server_sessions(server) < 1)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    while (resumptions < 1)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_close(conn);
    CHECK_EQ(cr_server_close(server), 0);
}

TEST_BOTH(what_makes_no_sense_is_refused)
{
    struct cr_server *server;
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1", echo, NULL, NULL), -EINVAL);
    CHECK_EQ(cr_serve(&server, "ftp://127.0.0.1:1", echo, NULL, NULL), -EPROTONOSUPPORT);
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", echo, NULL, &(struct cr_serve_opts){.placement = 7}), -EINVAL);
    CHECK_EQ(cr_server_close(NULL), 0);
    struct cr_mem_stats before, after;
    cr_mem_stats_get(&before);
    CHECK_EQ(cr_serve(&server, "tcp://192.0.2.1:1", echo, NULL, NULL), -EADDRNOTAVAIL);
    cr_mem_stats_get(&after);
    CHECK_EQ(before.conns_bytes, after.conns_bytes);
}

static _Atomic bool served;

static void is_stuck(void *unused)
{
    (void)unused;
    int64_t end = cr_after(20 * CR_SEC);
    while (!served && cr_now() < end)
        ; /* and does not suspend */
    CHECK(served);
}

static _Atomic bool stopped;

static int asks_before_it_stops(void *unused)
{
    (void)unused;
    CHECK(!stopped);
    return 0;
}

static void serves_for_another(void *asks)
{
    struct cr_server *server;
    struct cr_serve_opts opts = {.placement = CR_PLACE_HERE, .full = asks ? asks_before_it_stops : NULL};
    CHECK_EQ(cr_serve(&server, "tcp://127.0.0.1:0", echo, &seen, &opts), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    CHECK_EQ(cr_go_on(!cr_worker_index(), is_stuck, NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    for (int i = 0; i < 60; i++) /* about half of them arrive at the stuck worker's listener */
        CHECK_EQ(cr_go_on((unsigned)cr_worker_index(), talks, NULL), 0);
    wait_for(&clients_done, 60);
    served = true;
    CHECK_EQ(cr_server_close(server), 0);
    stopped = true;
    CHECK_EQ(cr_sleep(20 * CR_MS), 0); /* nobody who has accepted is left */
    CHECK_EQ(seen, 1ul << cr_worker_index());
}

TEST(while_a_worker_is_stuck_another_accepts_in_its_place)
{
    SKIP_SEVERAL_UNDER_SEED();
    CHECK_EQ(cr_run(serves_for_another, NULL, &(struct cr_config){.workers = 2, .slow_ns = 10 * CR_MS}), 0);
}

TEST(who_accepted_in_its_place_stops_with_the_others)
{
    SKIP_SEVERAL_UNDER_SEED();
    CHECK_EQ(cr_run(serves_for_another, &stopped, &(struct cr_config){.workers = 2, .slow_ns = 10 * CR_MS}), 0);
}
