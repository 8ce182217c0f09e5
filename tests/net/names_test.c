/* What an outsider must not guess: ISNs (RFC 6528), ports (RFC 6056), where timestamps begin (RFC 7323, 7.1); and who may be dialled, from where. */
#include "frames.h"
#include "net/tcp/tcp.h"
#include "test.h"

#define START_NS 1000000000000ll

static struct cr__ip ip(uint32_t address)
{
    return cr__ip_v4(htonl(address));
}

static void told(struct cr__tcp *tcp, unsigned events)
{
    (void)tcp;
    (void)events;
}

static void begin(struct cr__host *host, uint64_t seed)
{
    struct cr__host_config config = {.ethernet = {2, 0, 0, 0, 0, 1}, .address_count = 2, .seed = {seed, seed + 1}};
    config.addresses[0] = (struct cr__host_address){ip(0x0a000001), 96 + 24};
    config.addresses[1] = (struct cr__host_address){ip(0x0a000003), 96 + 24};
    CHECK_EQ(cr__host_init(host, &config, START_NS), 0);
    CHECK_EQ(cr__tcp_init(host, &(struct cr__tcp_config){.above = {.event = told}}), 0);
}

static void end(struct cr__host *host)
{
    cr__tcp_fini(host);
    cr__host_fini(host);
}

TEST(isns_go_with_the_clock_and_differ_by_name_and_by_secret)
{
    static struct cr__host a, b;
    begin(&a, 1);
    begin(&b, 2);
    struct cr__tcp_name name = {.peer = ip(0x0a000002), .local_port = 5000, .peer_port = 80}, other = name;
    other.peer_port = 81;
    uint32_t first = cr__tcp_isn(&a, &name);
    CHECK_EQ(cr__tcp_isn(&a, &name), first);
    CHECK(cr__tcp_isn(&a, &other) != first);
    CHECK(cr__tcp_isn(&b, &name) != first);
    a.now_ns += 1000000000;
    CHECK_EQ(cr__tcp_isn(&a, &name) - first, 250000); /* one each 4 µs */
    end(&a);
    end(&b);
}

TEST(timestamps_begin_elsewhere_for_each_peer)
{
    static struct cr__host a, b;
    begin(&a, 1);
    begin(&b, 2);
    struct cr__tcp_name name = {.peer = ip(0x0a000002), .local_port = 5000, .peer_port = 80}, other = name;
    other.peer = ip(0x0a000009);
    CHECK(cr__tcp_ts_offset(&a, &name) != cr__tcp_ts_offset(&a, &other));
    CHECK(cr__tcp_ts_offset(&a, &name) != cr__tcp_ts_offset(&b, &name));
    end(&a);
    end(&b);
}

TEST(ports_that_nobody_asked_for_follow_no_order_that_shows)
{
    static struct cr__host a, b;
    unsigned near = 0, same = 0;
    uint16_t before = 0;
    begin(&a, 1);
    begin(&b, 2);
    for (uint32_t i = 0; i < 200; i++) {
        struct cr__tcp_name name = {.peer = ip(0x0a000010 + i), .peer_port = 80}, again = name;
        uint16_t port = cr__tcp_port(&a, &name);
        CHECK(port >= 1024);
        near += (uint16_t)(port - before + 8) < 16;
        same += port == cr__tcp_port(&b, &again);
        before = port;
    }
    CHECK(near < 5); /* to another peer it is from elsewhere */
    CHECK(same < 5); /* and from elsewhere with another secret */
    end(&a);
    end(&b);
}

TEST(nobody_dials_what_is_nobodys)
{
    static struct cr__host a;
    static const uint32_t bad[] = {0xffffffff, 0xe0000001, 0x0a0000ff, 0};
    begin(&a, 1);
    for (size_t i = 0; i < CR__COUNT(bad); i++) {
        struct cr__tcp *tcp = NULL;
        struct cr__ip to = ip(bad[i]);
        CHECK(cr__tcp_dial(&a, &tcp, NULL, 0, &to, 80, &(struct cr__tcp_opts){0}) < 0);
    }
    end(&a);
}

TEST(who_dials_may_say_from_where)
{
    static struct cr__host a;
    struct cr__tcp *tcp = NULL, *second = NULL;
    struct cr__tcp_listener *listener;
    struct cr__ip from = ip(0x0a000003), to = ip(0x0a000002), others = ip(0x0a000004);
    begin(&a, 1);
    CHECK_EQ(cr__tcp_dial(&a, &tcp, &from, 5555, &to, 80, &(struct cr__tcp_opts){0}), 0);
    CHECK_EQ(tcp->local_port, 5555);
    CHECK(cr__ip_equal(&a.config.addresses[tcp->local].ip, &from));
    CHECK_EQ(cr__tcp_dial(&a, &second, &from, 5555, &to, 80, &(struct cr__tcp_opts){0}), -EADDRNOTAVAIL);
    CHECK_EQ(cr__tcp_listen(&a, &listener, &from, 5556, NULL), 0);
    CHECK_EQ(cr__tcp_dial(&a, &second, &from, 5556, &to, 80, &(struct cr__tcp_opts){0}), -EADDRINUSE);
    CHECK_EQ(cr__tcp_dial(&a, &second, &others, 0, &to, 80, &(struct cr__tcp_opts){0}), -EADDRNOTAVAIL);
    cr__tcp_abort(tcp);
    end(&a);
}

#define PORTS 64512

static struct cr__tcp *conns[65536]; /* by port */

static int dial_any(struct cr__host *host, struct cr__tcp **out)
{
    struct cr__ip to = ip(0x0a000002);
    int r = cr__tcp_dial(host, out, NULL, 0, &to, 80, &(struct cr__tcp_opts){0});
    for (struct cr_packet *packet; (packet = cr__host_pop(host)) != NULL;)
        cr__packet_put(host->packets, packet);
    return r;
}

static void dial_all(struct cr__host *host)
{
    struct cr__tcp *tcp;
    for (int i = 0; i < PORTS; i++) {
        CHECK_EQ(dial_any(host, &tcp), 0);
        conns[tcp->local_port] = tcp;
    }
}

/* All in use: that is said after so much work. Some in a hundred free, wherever they are: one is found. */
TEST(where_all_ports_are_taken_the_search_ends_soon)
{
    static struct cr__host a;
    struct cr__tcp *tcp;
    begin(&a, 1);
    dial_all(&a);
    for (int i = 0; i < 100; i++) {
        uint32_t before = a.tcp->port_counter;
        CHECK_EQ(dial_any(&a, &tcp), -EADDRNOTAVAIL);
        CHECK(a.tcp->port_counter - before <= 16); /* and the rest is drawn, 2,048 at most: it does not go on from all of them */
    }
    for (uint32_t port = 40000; port < 40000 + PORTS / 100; port++)
        cr__tcp_abort(conns[port]);
    for (int i = 0; i < 64; i++)
        CHECK_EQ(dial_any(&a, &tcp), 0);
    end(&a);
}

/* They lie there for a minute each, so who dials one place often enough would find none. */
TEST(ports_in_time_wait_are_taken_again_where_others_are_not_free)
{
    static struct cr__host a;
    struct cr__tcp *tcp;
    begin(&a, 1);
    dial_all(&a);
    for (uint32_t port = 50000; port < 50000 + PORTS / 10; port++) {
        conns[port]->state = CR__TCP_ESTABLISHED;
        conns[port]->flags |= CR__TCP_TIMESTAMPS;
        cr__tcp_wait_enter(conns[port]);
    }
    CHECK_EQ(dial_any(&a, &tcp), -EADDRNOTAVAIL); /* they have not lain there for a second */
    a.now_ns += 1000000000;
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(dial_any(&a, &tcp), 0);
        CHECK(tcp->local_port >= 50000 && tcp->local_port < 50000 + PORTS / 10);
    }
    CHECK_EQ(a.tcp->waiting, PORTS / 10 - 100);
    CHECK_EQ(a.tcp->table.count, PORTS);
    end(&a);
}

TEST(what_can_come_to_nothing_is_refused_at_once_and_leaves_no_packet)
{
    static struct cr__host a;
    struct cr__tcp *tcp;
    struct cr__ip four = ip(0x0a000001), to = ip(0x0a000002), six = {.bytes = {0xfd, [15] = 1}}, to_six = {.bytes = {0xfd, [15] = 2}};
    begin(&a, 1);
    a.config.addresses[a.config.address_count++] = (struct cr__host_address){six, 64};
    CHECK_EQ(cr__tcp_dial(&a, &tcp, &six, 0, &to, 80, NULL), -EAFNOSUPPORT);
    CHECK_EQ(cr__tcp_dial(&a, &tcp, &six, 9, &to, 80, NULL), -EAFNOSUPPORT);
    CHECK_EQ(cr__tcp_dial(&a, &tcp, &four, 9, &to_six, 80, NULL), -EAFNOSUPPORT);
    CHECK_EQ(cr__tcp_dial(&a, &tcp, NULL, 0, &to, 0, NULL), -ECONNREFUSED);
    CHECK_EQ(a.out.count, 0);
    CHECK_EQ(a.tcp->table.count, 0);
    end(&a);
}
