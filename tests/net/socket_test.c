/* A network of our own as programs use it: opened, served on, told of, closed. */
#include "networks.h"

/* ---- Opening ---------------------------------------------------------------------------------------------------- */

TEST_CO(a_network_is_opened_by_a_line_and_closed_again)
{
    for (int i = 0; i < 3; i++) {
        open_both();
        close_both();
    }
    open_both_as("mem:b addr=10.1.0.1/16 gw=10.1.0.2 route=192.168.0.0/16,10.1.0.3 mtu=1400 cc=newreno ecn=1 sndbuf=64K rcvbuf=1M",
                 "mem:b addr=10.1.0.2/16 cc=cubic ecn=0");
    close_both();
}

/* Lines, and what is said of them. */
static const struct {
    const char *spec, *said;
} wrong[] = {
    {"", "\"\": not a link"},
    {"addr=10.0.0.1/24", "\"addr=10.0.0.1/24\": not a link"},
    {"mem:a", "\"addr=\": it has no address"},
    {"mem:a addr=10.0.0.1", "\"addr=10.0.0.1\": wants the form IP/BITS"},
    {"mem:a addr=10.0.0.1/33", "\"addr=10.0.0.1/33\": so many bits an address does not have"},
    {"mem:a addr=10.0.0.999/24", "\"addr=10.0.0.999/24\": not an address"},
    {"mem:a addr=127.0.0.1/8", "\"addr=127.0.0.1/8\": is a loopback address"},
    {"mem:a addr=::1/128", "\"addr=::1/128\": is a loopback address"},
    {"mem:a addr=10.0.0.0/24", "\"addr=10.0.0.0/24\": is its net's own address"},
    {"mem:a addr=10.0.0.255/24", "\"addr=10.0.0.255/24\": is its net's broadcast address"},
    {"mem:a addr=255.255.255.255/32", "\"addr=255.255.255.255/32\": is no host's address"},
    {"mem:a addr=0.0.0.0/0", "\"addr=0.0.0.0/0\": is no host's address"},
    {"mem:a addr=::/0", "\"addr=::/0\": is no host's address"},
    {"mem:a addr=224.0.0.1/24", "\"addr=224.0.0.1/24\": is a multicast address"},
    {"mem:a addr=ff02::1/64", "\"addr=ff02::1/64\": is a multicast address"},
    {"mem:a addr=10.0.0.1/24 addr=10.0.0.1/16", "\"addr=10.0.0.1/16\": is there already"},
    {"mem:a addr=10.0.0.1/24 mtu=100", "\"mtu=100\": wants 1280 to 1800"},
    {"mem:a?mtu=68 addr=10.0.0.1/24", "\"mem:a?mtu=68\": carries too little"},
    {"mem:a?mtu=1000 addr=fd00::1/64", "\"mem:a?mtu=1000\": carries too little"},
    {"mem:a addr=10.0.0.1/24 cc=vegas", "\"cc=vegas\": wants cubic or newreno"},
    {"mem:a addr=10.0.0.1/24 ecn=2", "\"ecn=2\": wants 0 or 1"},
    {"mem:a addr=10.0.0.1/24 gw=here", "\"gw=here\": not an address"},
    {"mem:a gw=224.0.0.1 addr=10.0.0.1/24", "\"gw=224.0.0.1\": the gateway is no host's address"},
    {"mem:a addr=10.0.0.1/24 gw=255.255.255.255", "\"gw=255.255.255.255\": the gateway is no host's address"},
    {"mem:a addr=10.0.0.1/24 gw=10.0.0.255", "\"gw=10.0.0.255\": the gateway is no host's address"},
    {"mem:a gw=10.0.0.1 addr=10.0.0.1/24", "\"gw=10.0.0.1\": the gateway is this host itself"},
    {"mem:a addr=10.0.0.1/24 gw=11.0.0.1", "\"gw=11.0.0.1\": the gateway is not on the link"},
    {"mem:a addr=10.0.0.1/24 gw=fd00::9", "\"gw=fd00::9\": the gateway is not on the link"},
    {"mem:a addr=10.0.0.1/24 gw=10.0.0.2 gw=10.0.0.3", "\"gw=10.0.0.3\": there is a gateway to there already"},
    {"mem:a addr=10.0.0.1/24 route=10.0.0.0/8", "\"route=10.0.0.0/8\": wants the form IP/BITS,GATEWAY"},
    {"mem:a addr=10.0.0.1/24 route=10.2.0.0/16,10.1.0.1", "\"route=10.2.0.0/16,10.1.0.1\": the gateway is not on the link"},
    {"mem:a addr=10.0.0.1/24 colour=blue", "\"colour=blue\": not known"},
    {"mem:a addr=10.0.0.1/24 sndbuf=0", "\"sndbuf=0\": wants a number of bytes, 1 to 1G"},
    {"mem:a addr=10.0.0.1/24 sndbuf=2G", "\"sndbuf=2G\": wants a number of bytes, 1 to 1G"},
    {"bus:a addr=10.0.0.1/24", "\"bus:a\": no such link"},
    {"mem: addr=10.0.0.1/24", "\"mem:\": it has no name"},
    {"mem:a,b addr=10.0.0.1/24", "\"mem:a,b\": its name has a comma in it"},
    {"mem:a?mtu=67 addr=10.0.0.1/24", "\"mem:a?mtu=67\": its mtu= is not a number of 68"},
    {"mem:a?colour=blue addr=10.0.0.1/24", "\"mem:a?colour=blue\": behind a ? it takes mtu=BYTES only"},
    {"mem:0123456789012345678901234567890123456789012345678901234567890123 addr=10.0.0.1/24", "01234567890123\": its name is too long"},
    {"pcap: addr=10.0.0.1/24", "\"pcap:\": it names no file"},
    {"pcap:/dev/null addr=10.0.0.1/24", "\"pcap:/dev/null\": its file is no recording"},
    {"pcap:/dev/null,bus:a addr=10.0.0.1/24", "\"pcap:/dev/null,bus:a\": no such link"},
    {"impair:drop=101%,mem:a addr=10.0.0.1/24", "\"impair:drop=101%,mem:a\": drop= wants 0 to 1"},
    {"impair:drop=1%,delay=10,mem:a addr=10.0.0.1/24", "\"impair:drop=1%,delay=10,mem:a\": delay= wants 0s to 60s"},
    {"impair:drop=1% addr=10.0.0.1/24", "\"impair:drop=1%\": no link follows its options"},
    {"impair:drop=1%,mem: addr=10.0.0.1/24", "\"impair:drop=1%,mem:\": it has no name"},
};

static void open_wrong_ones(void *unused)
{
    static char too_long[2000];
    (void)unused;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        CHECK_EQ(cr_net_open(&left, wrong[i].spec), -EINVAL);
    CHECK(snprintf(too_long, sizeof(too_long), "mem:a addr=10.0.0.1/24 %1900s", "") < (int)sizeof(too_long));
    CHECK_EQ(cr_net_open(&left, too_long), -EINVAL);
    CHECK_EQ(cr_net_open(&left, LEFT " sndbuf=1G"), 0); /* and nothing of them is left */
    CHECK_EQ(cr_net_open(&right, RIGHT), 0);
    CHECK_EQ(cr_net_open(&right, RIGHT), -EADDRINUSE);
}

static void run_wrong_ones(void)
{
    if (cr_run(open_wrong_ones, NULL, NULL) != 0)
        _exit(1);
}

TEST(what_is_wrong_with_a_line_is_said_of_the_word)
{
    static char text[16384];
    CHECK_EQ(test_capture(run_wrong_ones, text, sizeof(text)), 0);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        CHECK_STR(text, wrong[i].said);
    CHECK_STR(text, "...\": \"\": more than 511 characters\n");
}

TEST(outside_a_coroutine_none_is_opened)
{
    CHECK_EQ(cr_net_open(&left, LEFT), -EPERM);
}

TEST_CO(urls_and_options_that_make_no_sense_are_refused)
{
    struct cr_listener *l;
    struct cr_conn *conn;
    open_both();
    CHECK_EQ(cr_listen(&l, "udp://10.0.0.2:0", &at_right), -EINVAL);
    CHECK_EQ(cr_listen(&l, "unix:/tmp/x", &at_right), -EPROTONOSUPPORT);
    CHECK_EQ(cr_dial(&conn, "unix:/tmp/x", &at_left), -EPROTONOSUPPORT);
    CHECK_EQ(cr_dial(&conn, "tcp://:80", &at_left), -EINVAL);
    CHECK_EQ(cr_bind(&conn, "tcp://10.0.0.2:0", &at_right), -EINVAL);
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.77:0", &at_right), -EADDRNOTAVAIL);
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:0", &(struct cr_conn_opts){.net = right, .backlog = -1}), -EINVAL);
    close_both();
}

/* ---- What is told ----------------------------------------------------------------------------------------------- */

TEST_CO(numbers_causes_and_text_tell_of_a_network)
{
    static char text[16384];
    struct cr_conn *client, *server, *none;
    struct cr_net_stats stats;
    struct cr_tcp_info info;
    uint64_t count, refused = 0;
    const char *name;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_dial(&none, "tcp://10.0.0.2:9", &at_left), -ECONNREFUSED);
    CHECK_EQ(cr_net_stats_get(right, &stats), 0);
    CHECK_EQ(stats.accepted, 1);
    CHECK_EQ(stats.connections, 1);
    CHECK(stats.received >= 3 && stats.sent >= 2 && stats.link.up);
    for (unsigned i = 0; (name = cr_net_cause(right, i, &count)) != NULL; i++)
        refused += strcmp(name, "no such TCP port") == 0 ? count : 0;
    CHECK_EQ(refused, 1);
    CHECK_EQ(cr_tcp_info_get(client, &info), 0);
    CHECK_EQ(info.state, CR_TCP_ESTABLISHED);
    CHECK_EQ(info.snd_cwnd, 10);
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK_EQ(cr_net_tell(right, fileno(file), 0), 0);
    CHECK_EQ(cr_dump(fileno(file)), 0);
    rewind(file);
    CHECK(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    CHECK_STR(text, "network \"" RIGHT "\"");
    CHECK_STR(text, "10.0.0.1:");
    CHECK_STR(text, "established");
    CHECK_STR(text, "neighbour 10.0.0.1 at ");
    CHECK_STR(text, "dropped: no such TCP port: 1");
    CHECK_STR(text, "network \"" LEFT "\""); /* in the dump */
    cr_close(client), cr_close(server);
    close_both();
}

static void count_one(struct cr__tcp *tcp, void *count)
{
    (void)tcp;
    ++*(uint32_t *)count;
}

/* By the counter, and by looking at each. */
static uint32_t connections_of(struct cr_net *net)
{
    struct cr_net_stats stats;
    uint32_t count = 0;
    CHECK_EQ(cr_net_stats_get(net, &stats), 0);
    cr__tcp_each(&CR__CONTAINER(net, struct cr__network, net)->host, count_one, &count);
    CHECK_EQ(stats.connections, count);
    return count;
}

TEST_CO(connections_are_counted_as_they_come_and_go_in_whatever_way)
{
    struct cr_conn *clients[60], *servers[60], *none;
    struct cr_listener *l;
    open_both();
    for (int i = 0; i < 60; i++)
        connect_pair(&clients[i], &servers[i]);
    CHECK_EQ(connections_of(left), 60);
    CHECK_EQ(cr_dial(&none, "tcp://10.0.0.2:9", &at_left), -ECONNREFUSED);
    CHECK_EQ(cr_dial(&none, "tcp://192.168.7.7:9", &at_left), -ENETUNREACH);
    CHECK_EQ(cr_dial_until(&none, "tcp://10.0.0.99:9", &at_left, cr_after(10 * CR_MS)), -ETIMEDOUT);
    for (int i = 0; i < 20; i++)
        cr_close(clients[i]), cr_close(servers[i]);
    for (int i = 20; i < 40; i++)
        cr_close_reset(clients[i]), cr_close(servers[i]);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(connections_of(left), 20);
    CHECK_EQ(connections_of(right), 20);
    l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_dial(&none, url, &at_left), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(connections_of(right), 21); /* one waits to be accepted */
    cr_listener_close(l);
    cr_close(none);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 40; i < 60; i++)
        cr_close(clients[i]);
    CHECK_EQ(connections_of(left), 20); /* nobody's, but not over */
    for (int i = 40; i < 60; i++)
        cr_close(servers[i]);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(connections_of(left), 0);
    CHECK_EQ(connections_of(right), 0);
    close_both();
}

TEST_CO(of_many_connections_a_few_are_told_and_how_many_more_there_are)
{
    static char text[16384];
    struct cr_conn *clients[30], *servers[30];
    uint32_t looked = 0;
    open_both();
    for (int i = 0; i < 30; i++)
        connect_pair(&clients[i], &servers[i]);
    CHECK_EQ(cr__tcp_some(&CR__CONTAINER(right, struct cr__network, net)->host, 7, count_one, &looked), 7);
    CHECK_EQ(looked, 7);
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK_EQ(cr_net_tell(right, fileno(file), 7), 0);
    rewind(file);
    CHECK(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    CHECK_STR(text, "and 23 more connections");
    int told = 0;
    for (const char *at = text; (at = strstr(at, "established")) != NULL; at++)
        told++;
    CHECK_EQ(told, 7);
    for (int i = 0; i < 30; i++)
        cr_close(clients[i]), cr_close(servers[i]);
    close_both();
}

static void waits_to_read(void *conn)
{
    char c;
    CHECK_EQ(cr_read(conn, &c, 1), 1);
}

TEST_CO(a_dump_says_who_waits_for_a_network)
{
    static char text[16384];
    struct cr_conn *client, *server;
    struct cr_co *co;
    open_both();
    connect_pair(&client, &server);
    CHECK_EQ(cr_spawn(&co, waits_to_read, client, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK_EQ(cr_dump(fileno(file)), 0);
    rewind(file);
    CHECK(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    CHECK_STR(text, "something to read from a network");
    CHECK_EQ(cr_write_all(server, "x", 1), 1);
    CHECK_EQ(cr_join(co), 0);
    cr_close(client), cr_close(server);
    close_both();
}

static void serves(struct cr_conn *conn, void *unused)
{
    (void)unused;
    echoes(conn);
}

TEST_CO_CONFIG(a_server_serves_on_the_networks_worker, &(struct cr_config){.workers = 2})
{
    struct cr_server *server;
    open_both();
    CHECK_EQ(cr_serve(&server, "tcp://10.0.0.2:0", serves, NULL, &(struct cr_serve_opts){.conn.net = right}), 0);
    CHECK(cr_server_url(server, url, sizeof(url)) > 0);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_go_on((unsigned)cr_worker_index(), talks, (void *)(intptr_t)i), 0);
    while (done < 50)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_server_close(server), 0);
    close_both();
}

/* ---- The network's end ------------------------------------------------------------------------------------------ */

TEST_CO(closing_a_network_ends_all_calls_on_it_and_resets_the_peers)
{
    struct cr_conn *server;
    char buf[16];
    open_both();
    connect_pair(&shared_conn, &server);
    struct cr_listener *l = listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_go(reads, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_net_close(left);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(read_result, -EBADF);
    CHECK_EQ(cr_read(shared_conn, buf, sizeof(buf)), -EBADF);
    CHECK_EQ(cr_write(shared_conn, "x", 1), -EBADF);
    CHECK_EQ(cr_wait_writable(shared_conn), -EBADF);
    CHECK_EQ(cr_close_write(shared_conn), -EBADF);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), -ECONNRESET);
    cr_net_close(right);
    CHECK_EQ(cr_accept(l, &server), -EBADF);
    cr_close(shared_conn);
    cr_listener_close(l);
}

static void leaves_all_open(void *unused)
{
    struct cr_conn *client, *server;
    (void)unused;
    open_both();
    connect_pair(&client, &server);
    listen_right("tcp://10.0.0.2:0");
    CHECK_EQ(cr_write_all(client, "never read", 10), 10);
}

TEST(what_was_left_open_is_closed_with_the_runtime)
{
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_run(leaves_all_open, NULL, NULL), 0);
}

static void opens_right(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_net_open(&right, RIGHT), 0);
    at_right.net = right;
    listen_right("tcp://10.0.0.2:0");
}

/* Each on a worker of its own: what one sends when it is closed rouses the other. */
static void leaves_two_open_that_talk(void *unused)
{
    struct cr_conn *client;
    struct cr_co *co;
    (void)unused;
    CHECK_EQ(cr_net_open(&left, LEFT), 0);
    at_left.net = left;
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), opens_right, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_dial_until(&client, url, &at_left, cr_after(10 * CR_SEC)), 0);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0); /* both have nothing to do */
}

TEST(networks_of_two_workers_that_were_left_open_leave_nothing_behind)
{
    SKIP_SEVERAL_UNDER_SEED();
    uint64_t before = 0;
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(cr_run(leaves_two_open_that_talk, NULL, (&(struct cr_config){.workers = 2})), 0);
        CHECK_EQ(cr__packets_in_use(), 0);
        before = i == 0 ? cr__mem_bytes(CR__MEM_OTHER) : before;
        CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER), before);
    }
}

/* Some of all that may hold packets when a network goes: lent, unread, unsent, a datagram, a reader and a writer that wait. */
static void leaves_packets_everywhere(void *close)
{
    static char much[400000];
    struct cr_conn *client, *server, *second, *second_server, *bound, *sender;
    struct cr_lent lent;
    struct cr_listener *l;
    open_both();
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:99", &at_right), 0);
    connect_pair(&client, &server);
    connect_pair(&second, &second_server);
    CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:0", &at_right), 0);
    CHECK(cr_local_url(bound, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&sender, url, &at_left), 0);
    CHECK_EQ(cr_write(sender, much, 5000), 5000);
    CHECK_EQ(cr_write_all(client, "lent", 4), 4);
    CHECK_EQ(cr_recv_lend(server, &lent), 4);
    CHECK(cr_write(second, much, sizeof(much)) > 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    if (!close)
        return;
    close_both();
    cr_close(client), cr_close(server), cr_close(second), cr_close(second_server), cr_close(bound), cr_close(sender);
    cr_listener_close(l);
}

TEST(no_packet_and_no_memory_is_lost_however_a_network_ends)
{
    static char yes;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(cr_run(leaves_packets_everywhere, i % 2 ? &yes : NULL, NULL), 0);
        CHECK_EQ(cr__packets_in_use(), 0);
        CHECK_EQ(cr__mem_bytes(CR__MEM_CONNS), 0);
    }
}

TEST_CO(what_a_closed_connection_still_has_to_send_arrives)
{
    static char much[100000], back[100000];
    struct cr_conn *client, *server;
    open_both();
    connect_pair(&client, &server);
    memset(much, 'm', sizeof(much));
    CHECK_EQ(cr_write_all(client, much, sizeof(much)), (ssize_t)sizeof(much));
    cr_close(client);
    read_exactly(server, back, sizeof(back));
    CHECK_EQ(cr_read(server, back, 1), 0);
    CHECK(memcmp(much, back, sizeof(back)) == 0);
    cr_close(server);
    close_both();
}
