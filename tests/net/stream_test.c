/* Streams of a network of our own: the calls of crore/conn.h over TCP. */
#include "networks.h"

/* ---- Streams ---------------------------------------------------------------------------------------------------- */

static void echo_with_many(const char *where, int clients)
{
    struct cr_co *acceptor;
    open_both();
    struct cr_listener *l = listen_right(where);
    CHECK_EQ(cr_spawn(&acceptor, accepts, l, NULL), 0);
    for (int i = 0; i < clients; i++)
        CHECK_EQ(cr_go(talks, (void *)(intptr_t)i), 0);
    while (done < clients)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cr_listener_close(l);
    close_both();
}

TEST_CO(two_hundred_clients_are_echoed)
{
    echo_with_many("tcp://10.0.0.2:0", 200);
}

TEST_CO_CONFIG(the_same_with_the_star_policy, &(struct cr_config){.policy = CR_POLICY_STAR})
{
    echo_with_many("tcp://10.0.0.2:0", 200);
}

TEST_CO(the_same_over_ipv6)
{
    echo_with_many("tcp://[fd00::2]:0", 200);
}

TEST_CO(a_thousand_connections_at_once)
{
    echo_with_many("tcp://10.0.0.2:0", 1000);
}

TEST_CO(who_listens_on_all_addresses_is_reached_by_each)
{
    struct cr_conn *a, *b, *c, *d;
    struct cr_listener *l;
    open_both();
    CHECK_EQ(cr_listen(&l, "tcp://:7000", &at_right), 0);
    CHECK_EQ(cr_dial(&a, "tcp://10.0.0.2:7000", &at_left), 0);
    CHECK_EQ(cr_dial(&b, "tcp://[fd00::2]:7000", &at_left), 0);
    CHECK_EQ(cr_accept(l, &c), 0);
    CHECK_EQ(cr_accept(l, &d), 0);
    CHECK(cr_peer_url(c, url, sizeof(url)) > 0);
    CHECK_STR(url, "tcp://10.0.0.1:");
    CHECK(cr_peer_url(d, url, sizeof(url)) > 0);
    CHECK_STR(url, "tcp://[fd00::1]:");
    CHECK(cr_local_url(d, url, sizeof(url)) > 0);
    CHECK_STR(url, "tcp://[fd00::2]:7000");
    cr_listener_close(l);
    cr_close(a), cr_close(b), cr_close(c), cr_close(d);
    close_both();
}

TEST_CO(listeners_of_one_family_share_a_port_and_each_has_its_own)
{
    struct cr_conn *a, *b, *c;
    struct cr_listener *four, *six, *both;
    struct cr_conn_opts six_only = {.flags = CR_V6_ONLY};
    open_both();
    six_only.net = right;
    CHECK_EQ(cr_listen(&six, "tcp://[::]:7000", &six_only), 0);
    CHECK_EQ(cr_dial(&a, "tcp://10.0.0.2:7000", &at_left), -ECONNREFUSED);
    CHECK_EQ(cr_listen(&both, "tcp://:7000", &at_right), -EADDRINUSE);
    CHECK_EQ(cr_listen(&four, "tcp://0.0.0.0:7000", &at_right), 0);
    CHECK_EQ(cr_listen(&both, "tcp://0.0.0.0:7000", &at_right), -EADDRINUSE);
    CHECK_EQ(cr_dial(&a, "tcp://10.0.0.2:7000", &at_left), 0);
    CHECK_EQ(cr_accept_until(four, &b, cr_after(CR_SEC)), 0);
    CHECK_EQ(cr_dial(&c, "tcp://[fd00::2]:7000", &at_left), 0);
    cr_close(a), cr_close(b);
    CHECK_EQ(cr_accept_until(six, &a, cr_after(CR_SEC)), 0);
    cr_close(a), cr_close(c);
    cr_listener_close(four), cr_listener_close(six);
    close_both();
}

#define MEGABYTES 8

static void sends_megabytes(void *arg)
{
    static char chunk[100000];
    uint64_t at = 0;
    for (int i = 0; i < MEGABYTES * 10; i++) {
        for (size_t k = 0; k < sizeof(chunk); k++, at++)
            chunk[k] = (char)(at * 2654435761u >> 13);
        CHECK_EQ(cr_write_all(arg, chunk, sizeof(chunk)), (ssize_t)sizeof(chunk));
    }
    CHECK_EQ(cr_close_write(arg), 0);
}

/* Returns how many segments had to be sent again. */
static uint64_t megabytes_arrive(void)
{
    struct cr_net_stats stats;
    static char buf[50000];
    struct cr_conn *client, *server;
    uint64_t at = 0;
    ssize_t n;
    connect_pair(&client, &server);
    CHECK_EQ(cr_go(sends_megabytes, client), 0);
    while ((n = cr_read(server, buf, sizeof(buf))) > 0) {
        for (ssize_t k = 0; k < n; k++, at++)
            CHECK(buf[k] == (char)(at * 2654435761u >> 13));
    }
    CHECK_EQ(n, 0);
    CHECK_EQ(at, MEGABYTES * 1000000);
    CHECK_EQ(cr_net_stats_get(left, &stats), 0);
    cr_close(client), cr_close(server);
    close_both();
    return stats.retransmits;
}

TEST_CO(megabytes_arrive_whole_and_in_order)
{
    open_both();
    CHECK_EQ(megabytes_arrive(), 0);
}

TEST_CO(the_same_over_a_line_that_loses_doubles_and_reorders)
{
    open_both_as("impair:drop=1%,dup=1%,reorder=1%,seed=7,mem:a addr=10.0.0.1/24", "impair:drop=1%,dup=1%,reorder=1%,seed=8,mem:a addr=10.0.0.2/24");
    CHECK(megabytes_arrive() > 10); /* of about 5,800, one in a hundred is lost */
}

static void writes_more_than_fits(void *arg)
{
    static char much[3 << 20];
    memset(much, 'x', sizeof(much));
    CHECK_EQ(cr_write_all(arg, much, sizeof(much)), (ssize_t)sizeof(much));
    done = 1;
}

TEST_CO(who_writes_more_than_is_read_waits)
{
    static char buf[65536];
    struct cr_conn *client, *server;
    open_both_as("mem:a addr=10.0.0.1/24 sndbuf=64K", "mem:a addr=10.0.0.2/24 rcvbuf=64K");
    connect_pair(&client, &server);
    CHECK_EQ(cr_go(writes_more_than_fits, client), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    CHECK_EQ(done, 0);
    for (size_t got = 0; got < 3 << 20;) {
        ssize_t n = cr_read(server, buf, sizeof(buf));
        CHECK(n > 0);
        got += (size_t)n;
    }
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(done, 1);
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(an_exchange_as_of_http)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: there\r\n\r\n", answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    struct cr_conn *client, *server;
    char buf[256];
    open_both();
    connect_pair(&client, &server);
    for (int i = 0; i < 50; i++) {
        struct iovec parts[2] = {{(void *)request, 10}, {(void *)(request + 10), sizeof(request) - 11}};
        CHECK_EQ(cr_writev(client, parts, 2), (ssize_t)sizeof(request) - 1);
        read_exactly(server, buf, sizeof(request) - 1);
        CHECK(memcmp(buf, request, sizeof(request) - 1) == 0);
        CHECK_EQ(cr_write_all(server, answer, sizeof(answer) - 1), (ssize_t)sizeof(answer) - 1);
        struct iovec halves[2] = {{buf, 7}, {buf + 100, 100}};
        CHECK_EQ(cr_readv(client, halves, 2), (ssize_t)sizeof(answer) - 1);
        CHECK(memcmp(buf, answer, 7) == 0 && memcmp(buf + 100, answer + 7, sizeof(answer) - 8) == 0);
    }
    CHECK_EQ(cr_write(client, buf, 0), 0);
    cr_close(client), cr_close(server);
    close_both();
}

/* As if no packet had been left for what tells the peer of the room: so that is tried again by a timer, which is due before the worker sleeps that long. */
TEST_CO(a_timer_that_receiving_arms_is_noticed)
{
    struct cr_conn *client, *server;
    struct cr_lent lent;
    char buf[2];
    open_both();
    connect_pair(&client, &server);
    struct cr__tcp *tcp = cr__tcp_of(client);
    const struct cr__service *service = &cr__network_of(tcp->host)->service;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(cr_write_all(server, "abcd", 4), 4);
        do
            CHECK_EQ(cr_sleep(100 * CR_MS), 0); /* it is there, and its ACK has left; nothing else is due */
        while (service->poked || service->due_ns <= cr_after(50 * CR_MS));
        if (i == 0)
            CHECK_EQ(cr_read(client, buf, 2), 2);
        else
            CHECK_EQ(cr_recv_lend(client, &lent), 4);
        tcp->flight->hold_ns = cr_after(CR_MS);
        cr__tcp_arm(tcp);
        CHECK(!service->poked);
        if (i == 0)
            CHECK_EQ(cr_read(client, buf, 1), 1);
        else
            cr_recv_return(client, &lent);
        CHECK(service->poked);
        if (i == 0)
            CHECK_EQ(cr_read(client, buf, 1), 1);
    }
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(a_deadline_ends_a_read_and_nothing_is_lost)
{
    struct cr_conn *client, *server;
    char buf[16];
    open_both();
    connect_pair(&client, &server);
    int64_t deadline = cr_after(10 * CR_MS);
    CHECK_EQ(cr_read_until(client, buf, sizeof(buf), deadline), -ETIMEDOUT);
    CHECK(cr_now() >= deadline);
    CHECK_EQ(cr_read_until(client, buf, sizeof(buf), 0), -ETIMEDOUT);
    CHECK_EQ(cr_wait_readable_until(client, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_write_all(server, "late", 4), 4);
    CHECK_EQ(cr_wait_readable(client), 0);
    CHECK_EQ(cr_read_until(client, buf, sizeof(buf), 0), 4); /* too late, but there it is */
    CHECK(memcmp(buf, "late", 4) == 0);
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(half_close_lets_the_other_side_finish)
{
    struct cr_conn *client, *server;
    char buf[16];
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_write_all(client, "question", 8), 8);
    CHECK_EQ(cr_close_write(client), 0);
    CHECK_EQ(cr_write(client, "x", 1), -EPIPE);
    read_exactly(server, buf, 8);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), 0);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), 0);
    CHECK_EQ(cr_write_all(server, "answer", 6), 6);
    cr_close(server);
    read_exactly(client, buf, 6);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), 0);
    cr_close(client);
    close_both();
}

TEST_CO(a_reset_is_an_error_after_what_came_before_it_was_not_read)
{
    struct cr_conn *client, *server;
    char buf[16];
    open_both();
    connect_pair(&client, &server);
    cr_close_reset(server);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), -ECONNRESET);
    CHECK(cr_write(client, "x", 1) < 0);
    cr_close(client);
    close_both();
}

TEST_CO(a_second_reader_is_refused)
{
    struct cr_conn *client, *server;
    char buf[16];
    open_both();
    connect_pair(&client, &server);
    shared_conn = client;
    CHECK_EQ(cr_go(reads, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), -EBUSY);
    CHECK_EQ(cr_wait_readable(client), -EBUSY);
    CHECK_EQ(cr_write_all(client, "x", 1), 1); /* the other direction is free */
    CHECK_EQ(cr_write_all(server, "yy", 2), 2);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(read_result, 2);
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(closing_wakes_who_waits)
{
    struct cr_conn *server;
    open_both();
    connect_pair(&shared_conn, &server);
    CHECK_EQ(cr_go(reads, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_close(shared_conn);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(read_result, -EBADF);
    cr_close(server);
    close_both();
}

TEST_CO(closing_between_wake_up_and_turn_is_told_and_safe)
{
    struct cr_conn *server, *other, *other_server;
    open_both();
    for (int i = 0; i < 20; i++) {
        done = 0;
        connect_pair(&shared_conn, &server);
        CHECK_EQ(cr_go(reads, NULL), 0);
        CHECK_EQ(cr_sleep(CR_MS), 0);
        CHECK_EQ(cr_write_all(server, "x", 1), 1);
        while (cr_wait_readable_until(server, 0) == 0) /* turns of the loop may have made it ready */
            ;
        if (!done) {
            cr_close(shared_conn);
            connect_pair(&other, &other_server); /* in its memory, perhaps */
            CHECK_EQ(cr_write_all(other_server, "zz", 2), 2);
            while (!done)
                CHECK_EQ(cr_sleep(CR_MS), 0);
            CHECK_EQ(read_result, read_result == 1 ? 1 : -EBADF);
            cr_close(other), cr_close(other_server);
        } else {
            cr_close(shared_conn);
        }
        cr_close(server);
    }
    close_both();
}

TEST_CO(cancel_ends_a_read_and_takes_nothing)
{
    struct cr_conn *server;
    struct cr_co *reader;
    char buf[16];
    open_both();
    connect_pair(&shared_conn, &server);
    CHECK_EQ(cr_spawn(&reader, reads, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(reader), 0);
    CHECK_EQ(cr_join(reader), 0);
    CHECK_EQ(read_result, -ECANCELED);
    CHECK_EQ(cr_write_all(server, "there", 5), 5);
    CHECK_EQ(cr_read(shared_conn, buf, sizeof(buf)), 5);
    cr_close(shared_conn), cr_close(server);
    close_both();
}

TEST_CO(cancel_and_close_together_are_safe)
{
    struct cr_conn *server;
    struct cr_co *reader;
    open_both();
    connect_pair(&shared_conn, &server);
    CHECK_EQ(cr_spawn(&reader, reads, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(reader), 0);
    cr_close(shared_conn);
    CHECK_EQ(cr_join(reader), 0);
    CHECK_EQ(read_result, -EBADF);
    cr_close(server);
    close_both();
}

TEST_CO(lent_packets_may_be_kept_and_close_gives_them_back)
{
    struct cr_conn *client, *server;
    struct cr_lent kept[3];
    open_both();
    connect_pair(&client, &server);
    for (int i = 0; i < 3; i++) {
        char text[16];
        int size = snprintf(text, sizeof(text), "part %d", i);
        CHECK_EQ(cr_write_all(client, text, (size_t)size), size);
        CHECK_EQ(cr_recv_lend(server, &kept[i]), size);
    }
    CHECK(memcmp(kept[0].bytes, "part 0", 6) == 0 && memcmp(kept[2].bytes, "part 2", 6) == 0);
    kept[1].bytes[0] = 'P'; /* may be changed in place */
    cr_recv_return(server, &kept[1]);
    cr_recv_return(server, &kept[1]); /* is ignored */
    cr_close(server);
    cr_close(client);
    close_both();
}

#define KEPT 5000

/* Of a few connections each of which has something lent, as fast as it once was: others want the processor, too. */
static int64_t cost_of_closing_ns(void)
{
    struct cr_conn *clients[20], *servers[20];
    struct cr_lent kept;
    int64_t least_ns = INT64_MAX;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 20; i++) {
            connect_pair(&clients[i], &servers[i]);
            CHECK_EQ(cr_write(clients[i], "x", 1), 1);
            CHECK_EQ(cr_recv_lend(servers[i], &kept), 1);
        }
        int64_t began_ns = cr_now();
        for (int i = 0; i < 20; i++)
            cr_close(servers[i]);
        int64_t took_ns = cr_now() - began_ns;
        least_ns = took_ns < least_ns ? took_ns : least_ns;
        for (int i = 0; i < 20; i++)
            cr_close(clients[i]);
    }
    return least_ns;
}

TEST_CO(closing_costs_the_same_however_much_others_keep)
{
    static struct cr_lent kept[KEPT];
    struct cr_conn *client, *server;
    open_both();
    connect_pair(&client, &server);
    int64_t alone_ns = cost_of_closing_ns();
    for (int i = 0; i < KEPT; i++) {
        CHECK_EQ(cr_write(client, "x", 1), 1);
        CHECK_EQ(cr_recv_lend(server, &kept[i]), 1);
    }
    int64_t among_ns = cost_of_closing_ns();
    printf("# closing 20 takes %lld us, while others keep %d packets %lld us\n", (long long)alone_ns / 1000, KEPT, (long long)among_ns / 1000);
    CHECK(among_ns < 5 * alone_ns + 50 * CR_US);
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(what_can_not_be_reached_says_why)
{
    struct cr_conn *conn;
    open_both();
    CHECK_EQ(cr_dial(&conn, "tcp://10.0.0.2:9", &at_left), -ECONNREFUSED);
    CHECK_EQ(cr_dial(&conn, "tcp://[fd00::2]:9", &at_left), -ECONNREFUSED);
    CHECK_EQ(cr_dial(&conn, "tcp://192.168.7.7:9", &at_left), -ENETUNREACH);
    CHECK_EQ(cr_dial_until(&conn, "tcp://10.0.0.99:9", &at_left, cr_after(20 * CR_MS)), -ETIMEDOUT);
    close_both();
}

TEST_CO(a_dial_may_choose_where_it_comes_from)
{
    struct cr_conn *client, *server;
    open_both();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_dial(&client, url, &(struct cr_conn_opts){.net = left, .source = "10.0.0.1:4000"}), 0);
    CHECK_EQ(cr_accept(l, &server), 0);
    CHECK(cr_peer_url(server, url, sizeof(url)) > 0);
    CHECK(strcmp(url, "tcp://10.0.0.1:4000") == 0);
    cr_close(client), cr_close(server);
    CHECK_EQ(cr_dial(&client, url, &(struct cr_conn_opts){.net = left, .source = "10.0.0.55"}), -EADDRNOTAVAIL);
    cr_listener_close(l);
    close_both();
}

static void accepts_once(void *listener)
{
    struct cr_conn *conn;
    read_result = cr_accept(listener, &conn);
    done++;
}

TEST_CO(an_accept_may_time_out_and_closing_ends_it)
{
    struct cr_conn *conn;
    open_both();
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_accept_until(l, &conn, cr_after(5 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_go(accepts_once, l), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_accept_until(l, &conn, cr_after(CR_MS)), -EBUSY);
    cr_listener_close(l);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(read_result, -EBADF);
    close_both();
}

TEST_CO(a_port_is_listened_on_once)
{
    struct cr_listener *l, *second;
    open_both();
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:80", &at_right), 0);
    CHECK_EQ(cr_listen(&second, "tcp://10.0.0.2:80", &at_right), -EADDRINUSE);
    cr_listener_close(l);
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:80", &at_right), 0);
    cr_listener_close(l);
    close_both();
}

static int dialled;

static void dials(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    if (cr_dial_until(&conn, url, &at_left, cr_after(10 * CR_SEC)) == 0) {
        dialled++;
        char c;
        CHECK_EQ(cr_read(conn, &c, 1), 0);
        cr_close(conn);
    }
    done++;
}

TEST_CO(those_beyond_the_backlog_wait_and_are_accepted_in_the_end)
{
    struct cr_listener *l;
    struct cr_conn *conn;
    open_both();
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:81", &(struct cr_conn_opts){.net = right, .backlog = 4}), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    for (int i = 0; i < 12; i++)
        CHECK_EQ(cr_go(dials, NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    for (int i = 0; i < 12; i++) {
        CHECK_EQ(cr_accept_until(l, &conn, cr_after(8 * CR_SEC)), 0);
        cr_close(conn);
    }
    while (done < 12)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(dialled, 12);
    cr_listener_close(l);
    close_both();
}

static bool had_a_turn;

static void has_a_turn(void *unused)
{
    (void)unused;
    had_a_turn = true;
}

TEST_CO(a_connection_that_is_always_ready_does_not_keep_the_worker)
{
    static char buf[300];
    struct cr_conn *client, *server;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_write_all(server, buf, sizeof(buf)), (ssize_t)sizeof(buf));
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_go(has_a_turn, NULL), 0);
    for (size_t i = 0; i < sizeof(buf) && !had_a_turn; i++)
        CHECK_EQ(cr_read(client, buf, 1), 1);
    CHECK(had_a_turn);
    cr_close(client), cr_close(server);
    close_both();
}

TEST_CO(files_are_sent)
{
    static char much[200000], back[200000];
    struct cr_conn *client, *server, *file;
    open_both();
    connect_pair(&client, &server);
    int fd = test_file("/tmp");
    for (size_t i = 0; i < sizeof(much); i++)
        much[i] = (char)(i * 7 >> 3);
    CHECK_EQ(write(fd, much, sizeof(much)), (ssize_t)sizeof(much));
    CHECK_EQ(cr_conn_from_fd(&file, fd), 0);
    CHECK_EQ(cr_sendfile(client, file, 1000, sizeof(much)), (ssize_t)sizeof(much) - 1000); /* to its end */
    read_exactly(server, back, sizeof(much) - 1000);
    CHECK(memcmp(back, much + 1000, sizeof(much) - 1000) == 0);
    CHECK_EQ(cr_sendfile(client, client, 0, 10), -EINVAL);
    cr_close(file), cr_close(client), cr_close(server);
    close_both();
}
