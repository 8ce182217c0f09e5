/* UDP between two hosts in virtual time, and datagrams made by hand. */
#include "net/udp/udp.h"
#include "net/ip/ip.h"
#include "pair.h"

static unsigned events_of_a, events_of_b;

static void on_event_a(struct cr__udp *udp, unsigned events)
{
    (void)udp;
    events_of_a |= events;
}

static void on_event_b(struct cr__udp *udp, unsigned events)
{
    (void)udp;
    events_of_b |= events;
}

static void start_with(struct pair *pair, const struct cr__host_config *a, const struct cr__host_config *b)
{
    pair_init_with(pair, a, b, PAIR_SECOND);
    CHECK_EQ(cr__udp_init(&pair->a, &(struct cr__udp_config){.event = on_event_a}), 0);
    CHECK_EQ(cr__udp_init(&pair->b, &(struct cr__udp_config){.event = on_event_b}), 0);
}

static void start(struct pair *pair)
{
    struct cr__host_config a = pair_config(1, 3), b = pair_config(2, 3);
    start_with(pair, &a, &b);
}

static void end(struct pair *pair)
{
    cr__udp_fini(&pair->a);
    cr__udp_fini(&pair->b);
    pair_fini(pair);
}

static ssize_t send(struct cr__udp *udp, const void *bytes, size_t size_bytes, const struct cr__ip *to, uint16_t port)
{
    return cr__udp_send(udp, &(struct iovec){(void *)(uintptr_t)bytes, size_bytes}, 1, to, port, NULL);
}

static ssize_t recv_(struct cr__udp *udp, void *bytes, size_t size_bytes, struct cr__udp_from *from)
{
    return cr__udp_recv(udp, &(struct iovec){bytes, size_bytes}, 1, from);
}

TEST(a_datagram_arrives_and_says_from_whom_and_an_answer_finds_its_way_back)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip a = v4 ? pair_ip4(1) : pair_ip6(1), b = v4 ? pair_ip4(2) : pair_ip6(2);
        struct cr__udp *client, *server;
        struct cr__udp_from from;
        char bytes[100];
        events_of_b = 0;
        start(&pair);
        CHECK_EQ(cr__udp_open(&pair.b, &server, NULL, 53), 0);
        CHECK_EQ(cr__udp_open(&pair.a, &client, NULL, 0), 0);
        CHECK_EQ(send(client, "what?", 5, &b, 53), 5);
        CHECK_EQ(recv_(server, bytes, sizeof(bytes), &from), -EAGAIN);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(events_of_b, CR__UDP_READABLE);
        CHECK_EQ(recv_(server, bytes, sizeof(bytes), &from), 5);
        CHECK(memcmp(bytes, "what?", 5) == 0);
        CHECK(cr__ip_equal(&from.from, &a) && cr__ip_equal(&from.to, &b) && from.port == client->local_port && from.size_bytes == 5);
        CHECK_EQ(send(server, "that.", 5, &from.from, from.port), 5);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(recv_(client, bytes, sizeof(bytes), &from), 5);
        CHECK(memcmp(bytes, "that.", 5) == 0 && from.port == 53);
        end(&pair);
    }
}

TEST(a_datagram_leaves_as_rfc_768_has_it)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *udp;
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &b, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0x1234), 0);
    CHECK_EQ(send(udp, "abc", 3, &b, 53), 3);
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    memset(frame->data + 18, 0, 2); /* identification */
    memset(frame->data + 24, 0, 2);
    CHECK(pair_is(&pair.packets, frame, "020000000002 020000000001 0800  4500 001f 0000 0000 4011 0000 0a000001 0a000002  1234 0035 000b 150a 616263"));
    end(&pair);
}

TEST(a_checksum_that_comes_out_as_nothing_is_sent_as_all_ones)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *udp;
    uint8_t bytes[2];
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &b, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0x1234), 0);
    for (unsigned i = 0; i < 65536; i++) {
        cr__wire_put16(bytes, (uint16_t)i);
        CHECK_EQ(send(udp, bytes, 2, &b, 53), 2);
        struct cr_packet *frame = pair_pop(&pair, &pair.a);
        CHECK(cr__wire_get16(frame->data + 40) != 0);
        cr__packet_put(&pair.packets, frame);
    }
    end(&pair);
}

TEST(messages_are_gathered_from_many_places_and_scattered_to_many)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *client, *server;
    char parts[3][4] = {"", "", ""};
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
    struct iovec out[] = {{"ab", 2}, {"", 0}, {"cdefg", 5}}, in[] = {{parts[0], 3}, {parts[1], 0}, {parts[2], 3}};
    CHECK_EQ(cr__udp_send(client, out, 3, &b, 53, NULL), 7);
    pair_run(&pair, PAIR_MS);
    struct cr__udp_from from;
    CHECK_EQ(cr__udp_recv(server, in, 3, &from), 6); /* one byte is cut off */
    CHECK_EQ(from.size_bytes, 7);
    CHECK(memcmp(parts[0], "abc", 3) == 0 && memcmp(parts[2], "def", 3) == 0);
    CHECK_EQ(cr__udp_recv(server, in, 3, &from), -EAGAIN);
    CHECK_EQ(cr__udp_send(client, NULL, 0, &b, 53, NULL), 0); /* an empty one is one, too */
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(cr__udp_recv(server, in, 3, &from), 0);
    CHECK_EQ(from.size_bytes, 0);
    end(&pair);
}

TEST(datagrams_of_all_sizes_up_to_the_largest_come_through_in_both_families)
{
    static struct pair pair;
    static uint8_t sent[CR__UDP_MOST6 + 1], got[CR__UDP_MOST6 + 1];
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = (uint8_t)(i * 31 + i / 251);
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip b = v4 ? pair_ip4(2) : pair_ip6(2);
        struct cr__udp *client, *server;
        size_t most = v4 ? CR__UDP_MOST4 : CR__UDP_MOST6;
        start(&pair);
        CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
        CHECK_EQ(send(client, sent, most, &b, 53), most); /* before anybody knows where b is */
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(recv_(server, got, sizeof(got), NULL), most);
        for (size_t size = 0; size <= most; size = size == most ? most + 1 : size < 3100 ? size + 1 : size + 4099 > most ? most : size + 4099) {
            CHECK_EQ(send(client, sent, size, &b, 53), size);
            pair_run(&pair, PAIR_MS);
            memset(got, 0, size);
            CHECK_EQ(recv_(server, got, sizeof(got), NULL), size);
            CHECK(memcmp(sent, got, size) == 0);
        }
        CHECK_EQ(send(client, sent, most + 1, &b, 53), -EMSGSIZE);
        end(&pair);
    }
}

TEST(a_connected_socket_hears_its_peer_only_and_is_told_that_nobody_listens)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2), a = pair_ip4(1);
    struct cr__udp *client, *server, *other;
    char bytes[10];
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.b, &other, NULL, 54) == 0 && cr__udp_open(&pair.a, &client, NULL, 7777) == 0);
    CHECK_EQ(send(client, "x", 1, NULL, 0), -EDESTADDRREQ);
    CHECK_EQ(cr__udp_connect(client, &b, 53), 0);
    CHECK_EQ(send(other, "no", 2, &a, 7777), 2);
    CHECK_EQ(send(server, "yes", 3, &a, 7777), 3);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(client, bytes, 10, NULL), 3);
    CHECK_EQ(recv_(client, bytes, 10, NULL), -EAGAIN);
    CHECK_EQ(pair.a.drops[CR__DROP_UDP_NO_PORT], 1);
    cr__udp_close(server);
    events_of_a = 0;
    CHECK_EQ(send(client, "x", 1, NULL, 0), 1);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(events_of_a, CR__UDP_ERROR);
    CHECK_EQ(recv_(client, bytes, 10, NULL), -ECONNREFUSED);
    CHECK_EQ(recv_(client, bytes, 10, NULL), -EAGAIN);
    CHECK_EQ(cr__udp_connect(client, NULL, 0), 0);
    CHECK_EQ(send(client, "x", 1, &b, 53), 1); /* not connected: it does not hear of it */
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(client, bytes, 10, NULL), -EAGAIN);
    end(&pair);
}

/* Else a datagram of the peer's would get to one of them, and the other one never hear of it. */
TEST(two_sockets_are_not_connected_to_one_peer_from_one_address_and_port)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1), b = pair_ip4(2), b6 = pair_ip6(2);
    struct cr__udp *server, *other, *first, *second, *chosen;
    char bytes[10];
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.b, &other, NULL, 54) == 0);
    CHECK_EQ(cr__udp_open(&pair.a, &first, &a, 7777), 0);
    CHECK_EQ(cr__udp_connect(first, &b, 53), 0);
    CHECK_EQ(cr__udp_open(&pair.a, &second, NULL, 7777), 0);
    CHECK_EQ(cr__udp_connect(second, &b, 53), -EADDRINUSE);
    CHECK_EQ(send(second, "x", 1, NULL, 0), -EDESTADDRREQ); /* it has no peer */
    CHECK_EQ(cr__udp_connect(second, &b6, 53), 0);
    CHECK_EQ(cr__udp_connect(second, &b, 54), 0);
    CHECK_EQ(send(server, "to one", 6, &a, 7777), 6);
    CHECK_EQ(send(other, "to two", 6, &a, 7777), 6);
    pair_run(&pair, PAIR_MS);
    CHECK(recv_(first, bytes, 10, NULL) == 6 && memcmp(bytes, "to one", 6) == 0);
    CHECK(recv_(second, bytes, 10, NULL) == 6 && memcmp(bytes, "to two", 6) == 0);
    CHECK_EQ(cr__udp_connect(first, &b, 53), 0); /* it is not in its own way */
    /* who did not ask for his port gets another one, and is at that */
    CHECK_EQ(cr__udp_open(&pair.a, &chosen, NULL, 0), 0);
    uint16_t port = chosen->local_port;
    CHECK_EQ(cr__udp_connect(chosen, &b, 54), 0);
    CHECK_EQ(chosen->local_port, port);
    cr__udp_close(first);
    CHECK_EQ(cr__udp_open(&pair.a, &first, NULL, port), 0);
    CHECK_EQ(cr__udp_connect(first, &b, 53), 0);
    CHECK_EQ(cr__udp_connect(chosen, &b, 53), 0);
    CHECK(chosen->local_port != port && chosen->local_port >= CR__UDP_PORT_FIRST);
    CHECK_EQ(send(server, "again", 5, &a, chosen->local_port), 5);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(chosen, bytes, 10, NULL), 5);
    end(&pair);
}

TEST(who_answers_may_do_so_from_the_address_that_was_asked)
{
    static struct pair pair;
    struct cr__host_config a = pair_config(1, 3), b = pair_config(2, 3);
    struct cr__ip asked = pair_ip4(3), not_ours = pair_ip4(9), six = pair_ip6(2);
    struct cr__udp *client, *server;
    struct cr__udp_from from;
    struct iovec answer = {"here", 4};
    char bytes[10];
    b.addresses[b.address_count++] = (struct cr__host_address){asked, 96 + 24};
    start_with(&pair, &a, &b);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
    CHECK_EQ(cr__udp_connect(client, &asked, 53), 0); /* hears nobody else */
    CHECK_EQ(send(client, "x", 1, NULL, 0), 1);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(server, bytes, 10, &from), 1);
    CHECK(cr__ip_equal(&from.to, &asked));
    CHECK_EQ(cr__udp_send(server, &answer, 1, &from.from, from.port, &from.to), 4);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(client, bytes, 10, NULL), 4);
    CHECK_EQ(cr__udp_send(server, &answer, 1, &from.from, from.port, &not_ours), -EADDRNOTAVAIL);
    CHECK_EQ(cr__udp_send(server, &answer, 1, &from.from, from.port, &six), -EAFNOSUPPORT);
    end(&pair);
}

TEST(who_does_not_answer_arp_is_told_of_as_unreachable)
{
    static struct pair pair;
    struct cr__ip nobody = pair_ip4(99);
    struct cr__udp *client;
    start(&pair);
    CHECK_EQ(cr__udp_open(&pair.a, &client, NULL, 0), 0);
    CHECK_EQ(cr__udp_connect(client, &nobody, 53), 0);
    CHECK_EQ(send(client, "x", 1, NULL, 0), 1);
    pair_run(&pair, 4 * PAIR_SECOND);
    CHECK_EQ(send(client, "x", 1, NULL, 0), -EHOSTUNREACH); /* told */
    CHECK_EQ(send(client, "x", 1, NULL, 0), -EHOSTUNREACH); /* and not asked again so soon */
    end(&pair);
}

TEST(of_sockets_at_one_port_the_one_that_fits_best_gets_the_datagram)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2), b6 = pair_ip6(2);
    struct cr__udp *client, *exact, *exact6, *extra;
    char bytes[10];
    start(&pair);
    CHECK_EQ(cr__udp_open(&pair.b, &exact, &b, 53), 0);
    CHECK_EQ(cr__udp_open(&pair.b, &exact6, &b6, 53), 0);
    CHECK_EQ(cr__udp_open(&pair.b, &extra, &b, 53), -EADDRINUSE);
    CHECK_EQ(cr__udp_open(&pair.b, &extra, NULL, 53), -EADDRINUSE);
    CHECK_EQ(cr__udp_open(&pair.b, &extra, &(struct cr__ip){.bytes = {1}}, 53), -EADDRNOTAVAIL);
    CHECK_EQ(cr__udp_open(&pair.a, &client, NULL, 0), 0);
    CHECK_EQ(send(client, "four", 4, &b, 53), 4);
    CHECK_EQ(send(client, "six", 3, &b6, 53), 3);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(exact, bytes, 10, NULL), 4);
    CHECK_EQ(recv_(exact6, bytes, 10, NULL), 3);
    CHECK_EQ(recv_(exact, bytes, 10, NULL), -EAGAIN);
    end(&pair);
}

TEST(a_broadcast_gets_to_each_socket_that_is_open_for_all)
{
    static struct pair pair;
    struct cr__ip all = {.bytes = {[10] = 0xff, [11] = 0xff, 255, 255, 255, 255}}, b = pair_ip4(2), nodes = {.bytes = {0xff, 2, [15] = 1}};
    struct cr__udp *client, *one, *two, *connected;
    struct cr__udp_from from;
    char bytes[10];
    start(&pair);
    CHECK_EQ(cr__udp_open(&pair.a, &client, NULL, 0), 0);
    CHECK_EQ(cr__udp_open(&pair.b, &one, NULL, 67), 0);
    CHECK_EQ(cr__udp_open(&pair.b, &two, NULL, 68), 0);
    CHECK_EQ(cr__udp_open(&pair.b, &connected, &b, 69), 0);
    CHECK_EQ(send(client, "all", 3, &all, 67), 3);
    CHECK_EQ(send(client, "nodes", 5, &nodes, 68), 5);
    CHECK_EQ(send(client, "not", 3, &all, 69), 3);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(one, bytes, 10, &from), 3);
    CHECK_EQ(from.to.halves[0] + from.to.halves[1], 0);
    CHECK_EQ(recv_(two, bytes, 10, &from), 5);
    CHECK(cr__ip_is_link_local(&from.from));
    CHECK_EQ(recv_(connected, bytes, 10, &from), -EAGAIN);
    CHECK_EQ(pair.frames, 3); /* no ICMP about what went to many */
    end(&pair);
}

TEST(a_queue_is_bounded_in_buffers_however_little_is_in_them)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *client, *server;
    char bytes[10];
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
    server->limit_bytes = 10 * CR_PACKET_BYTES;
    CHECK_EQ(send(client, "x", 1, &b, 53), 1);
    pair_run(&pair, PAIR_MS);
    for (int i = 0; i < 14; i++)
        CHECK_EQ(send(client, "x", 1, &b, 53), 1);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(server->full, 5);
    CHECK_EQ(pair.b.drops[CR__DROP_UDP_FULL], 5);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(recv_(server, bytes, 10, NULL), 1);
    CHECK_EQ(recv_(server, bytes, 10, NULL), -EAGAIN);
    CHECK_EQ(server->held_bytes, 0);
    end(&pair);
}

TEST(what_is_lent_outlives_the_socket)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *client, *server;
    struct cr_packet *lent;
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
    CHECK_EQ(send(client, "lent", 4, &b, 53), 4);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(cr__udp_recv_lend(server, &lent, NULL), 4);
    cr__udp_close(server);
    CHECK(lent->size_bytes == 4 && memcmp(lent->data, "lent", 4) == 0);
    cr__udp_recv_return(&pair.b, lent);
    end(&pair);
}

/* A datagram by hand for b's port 53, with its length field and its checksum as said (-1: right). */
static void by_hand(struct pair *pair, bool v4, unsigned length, int checksum, uint16_t flags)
{
    uint8_t bytes[12] = {0x12, 0x34, 0, 53, (uint8_t)(length >> 8), (uint8_t)length, 0, 0, 'd', 'a', 't', 'a'};
    struct cr_packet *frame = pair_frame(&pair->packets, 1, 2, v4, CR__IP_UDP, bytes, 12, checksum < 0 ? 6 : -1);
    if (checksum >= 0)
        cr__wire_put16(frame->data + frame->size_bytes - 6, (uint16_t)checksum);
    frame->flags = flags;
    cr__host_input(&pair->b, frame, pair->now_ns);
}

TEST(malformed_datagrams_and_bad_checksums_are_dropped_and_a_missing_one_passes_in_ipv4_only)
{
    static struct pair pair;
    struct cr__udp *server;
    char bytes[10];
    start(&pair);
    CHECK_EQ(cr__udp_open(&pair.b, &server, NULL, 53), 0);
    by_hand(&pair, true, 12, -1, 0);
    CHECK_EQ(recv_(server, bytes, 10, NULL), 4);
    by_hand(&pair, true, 12, 0, 0); /* none */
    CHECK_EQ(recv_(server, bytes, 10, NULL), 4);
    by_hand(&pair, false, 12, 0, 0);
    by_hand(&pair, true, 12, 0x1111, 0);
    by_hand(&pair, false, 12, 0x1111, 0);
    CHECK_EQ(pair.b.drops[CR__DROP_UDP_CHECKSUM], 3);
    by_hand(&pair, true, 12, 0x1111, CR_PACKET_CHECKED); /* somebody has looked already */
    CHECK_EQ(recv_(server, bytes, 10, NULL), 4);
    by_hand(&pair, true, 13, -1, 0);
    by_hand(&pair, true, 7, -1, 0);
    by_hand(&pair, false, 13, -1, 0);
    CHECK_EQ(pair.b.drops[CR__DROP_UDP_MALFORMED], 3);
    cr__host_input(&pair.b, pair_frame(&pair.packets, 1, 2, true, CR__IP_UDP, "\x12\x34\0\x35\0\x08\0", 7, -1), pair.now_ns);
    CHECK_EQ(pair.b.drops[CR__DROP_UDP_MALFORMED], 4);
    by_hand(&pair, true, 10, 0, 0); /* shorter than what IP carries: the rest is no part of it */
    CHECK_EQ(recv_(server, bytes, 10, NULL), 2);
    end(&pair);
}

TEST(a_path_that_is_too_narrow_is_noted_for_who_sends_there_and_for_nobody_else)
{
    static struct pair pair;
    struct cr__ip b = pair_ip6(2);
    struct cr__udp *client, *server;
    static uint8_t bytes[1400], got[1400];
    start(&pair);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0x1234) == 0);
    for (int sent = 0; sent < 2; sent++) {
        uint8_t icmp[8 + 40 + 12] = {CR__ICMP6_TOO_BIG, [6] = 5, 0};
        struct cr_packet *quoted = pair_frame(&pair.packets, 1, 2, false, CR__IP_UDP, "\x12\x34\x00\x35\x00\x0c\0\0data", 12, -1);
        cr__wire_put16(quoted->data + 18, 1400); /* how long it was */
        memcpy(icmp + 8, quoted->data + 14, 52);
        cr__packet_put(&pair.packets, quoted);
        cr__host_input(&pair.a, pair_frame(&pair.packets, 2, 1, false, CR__IP_ICMP6, icmp, sizeof(icmp), 2), pair.now_ns);
        CHECK_EQ(cr__ip_mtu(&pair.a, &b), sent ? 1280 : 1500);
        CHECK_EQ(send(client, "data", 4, &b, 53), 4);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(recv_(server, got, sizeof(got), NULL), 4);
    }
    CHECK_EQ(send(client, bytes, 1400, &b, 53), 1400); /* leaves in two pieces now */
    CHECK_EQ(pair.a.out.count, 2);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(server, got, sizeof(got), NULL), 1400);
    end(&pair);
}

TEST(ports_that_nobody_asked_for_differ_and_follow_no_order)
{
    static struct pair pair;
    struct cr__udp *udp;
    static bool used[65536];
    unsigned rising = 0;
    uint16_t before = 0;
    start(&pair);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0), 0);
        CHECK(udp->local_port >= CR__UDP_PORT_FIRST && udp->local_port < CR__UDP_PORT_FIRST + CR__UDP_PORTS && !used[udp->local_port]);
        used[udp->local_port] = true;
        rising += udp->local_port > before;
        before = udp->local_port;
    }
    CHECK(rising > 400 && rising < 600);
    for (int i = 1000; i < CR__UDP_PORTS; i++)
        CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0), 0);
    CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0), -EADDRNOTAVAIL);
    end(&pair);
}

TEST(without_memory_or_packets_nothing_is_sent_and_nothing_is_lost)
{
    static struct pair pair;
    struct cr__ip b = pair_ip4(2);
    struct cr__udp *udp, *other;
    struct cr_packet *all = NULL;
    CHECK_EQ(cr_packets_bound(64), 0);
    start(&pair);
    CHECK_EQ(cr__udp_open(&pair.a, &udp, NULL, 0), 0);
    for (struct cr_packet *packet; (packet = cr__packet_get(&pair.packets)) != NULL; all = packet)
        packet->next = all;
    CHECK_EQ(send(udp, "x", 1, &b, 53), -ENOBUFS);
    CHECK_EQ(pair.a.drops[CR__DROP_NO_PACKET], 1);
    while (all) {
        struct cr_packet *next = all->next;
        cr__packet_put(&pair.packets, all);
        all = next;
    }
    CHECK_EQ(send(udp, "x", 1, &b, 53), 1);
    (void)other;
    end(&pair);
}

TEST(a_link_that_spoils_nothing_needs_no_checksums)
{
    static struct pair pair;
    struct cr__host_config a = pair_config(1, 3), b = pair_config(2, 3);
    struct cr__ip to = pair_ip4(2);
    struct cr__udp *client, *server;
    static uint8_t bytes[5000], got[5000];
    a.no_checksums = b.no_checksums = true;
    start_with(&pair, &a, &b);
    CHECK(cr__udp_open(&pair.b, &server, NULL, 53) == 0 && cr__udp_open(&pair.a, &client, NULL, 0) == 0);
    CHECK_EQ(send(client, "x", 1, &to, 53), 1);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(server, got, sizeof(got), NULL), 1);
    CHECK_EQ(send(client, bytes, sizeof(bytes), &to, 53), sizeof(bytes));
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_(server, got, sizeof(got), NULL), sizeof(bytes));
    end(&pair);
}
