/* ICMP and ICMPv6: echo, errors that are sent, errors that are believed, and path MTU. */
#include "arrivals.h"

/* ---- ICMP ---------------------------------------------------------------------------------------------------- */

TEST(a_ping_of_ipv4_is_answered_byte_for_byte)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1);
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    pair.b.ip->ids[0] = 0;
    input(&pair, &pair.b, pair_hex(&pair.packets, "020000000002 020000000001 0800  4500 0020 1234 0000 4001 54a7 0a000001 0a000002  0800 3336 0001 0002 61626364"));
    struct cr_packet *answer = pair_pop(&pair, &pair.b);
    CHECK(answer != NULL);
    memset(answer->data + 18, 0, 2); /* identification: any */
    memset(answer->data + 24, 0, 2);
    CHECK(pair_is(&pair.packets, answer, "020000000001 020000000002 0800  4500 0020 0000 0000 4001 0000 0a000002 0a000001  0000 3b36 0001 0002 61626364"));
    pair_fini(&pair);
}

TEST(pings_of_any_size_that_fits_are_answered_with_what_they_carry)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        for (size_t size = 8; size <= 1450; size += 103) {
            uint8_t ping[1500] = {v4 ? CR__ICMP_ECHO : CR__ICMP6_ECHO, 0, 0, 0, 0, 7, 0, (uint8_t)size};
            for (size_t i = 8; i < size; i++)
                ping[i] = (uint8_t)(i * 7);
            input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, v4, v4 ? CR__IP_ICMP : CR__IP_ICMP6, ping, size, 2));
            struct cr_packet *answer;
            while ((answer = pair_pop(&pair, &pair.b)) != NULL) {
                size_t at = v4 ? 34 : 54;
                if (answer->data[12] == 8 && answer->data[13] == 6) { /* b asks who a is */
                    input(&pair, &pair.a, answer);
                    input(&pair, &pair.b, pair_pop(&pair, &pair.a));
                } else if (!v4 && answer->data[54] == CR__NDP_SOLICITATION) {
                    input(&pair, &pair.a, answer);
                    input(&pair, &pair.b, pair_pop(&pair, &pair.a));
                } else {
                    CHECK_EQ(answer->size_bytes, at + size);
                    CHECK_EQ(answer->data[at], v4 ? CR__ICMP_ECHO_REPLY : CR__ICMP6_ECHO_REPLY);
                    CHECK(memcmp(answer->data + at + 4, ping + 4, size - 4) == 0);
                    struct cr__ip from = pair_ip6(2), to = pair_ip6(1);
                    uint32_t pseudo = v4 ? 0 : cr__ip_pseudo_sum(&from, &to, 58, (uint32_t)size);
                    CHECK_EQ(cr__wire_checksum(cr__wire_sum(pseudo, answer->data + at, size)), 0);
                    cr__packet_put(&pair.packets, answer);
                    seen.arrivals++;
                }
            }
        }
        pair_fini(&pair);
    }
    CHECK_EQ(seen.arrivals, 2 * 15);
}

TEST(a_ping_with_a_bad_checksum_or_to_a_broadcast_is_not_answered)
{
    static struct pair pair;
    start(&pair);
    input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, true, CR__IP_ICMP, "\x08\0\0\0\0\1\0\1", 8, -1));
    input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, false, CR__IP_ICMP6, "\x80\0\0\0\0\1\0\1", 8, -1));
    CHECK_EQ(pair.b.drops[CR__DROP_ICMP_MALFORMED], 2);
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 255, true, CR__IP_ICMP, "\x08\0\0\0\0\1\0\1", 8, 2);
    memset(frame->data, 255, 6);
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.drops[CR__DROP_ICMP_TYPE], 1);
    CHECK_EQ(pair.b.out.count, 0);
    pair_fini(&pair);
}

TEST(pings_beyond_the_rate_are_counted_not_answered)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1);
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    for (int i = 0; i < 1500; i++)
        input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, true, CR__IP_ICMP, "\x08\0\0\0\0\1\0\1", 8, 2));
    CHECK_EQ(pair.b.out.count, 1000);
    CHECK_EQ(pair.b.drops[CR__DROP_ICMP_LIMIT], 500);
    pair.now_ns += PAIR_MS; /* 20 more */
    for (int i = 0; i < 30; i++)
        input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, true, CR__IP_ICMP, "\x08\0\0\0\0\1\0\1", 8, 2));
    CHECK_EQ(pair.b.out.count, 1020);
    pair_fini(&pair);
}

TEST(an_error_quotes_the_packet_that_it_is_about_and_reaches_who_has_sent_it)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        memset(&seen, 0, sizeof(seen));
        seen.unreachable = true;
        CHECK_EQ(send_to_b(&pair, v4, CR__IP_UDP, "\x12\x34\x00\x35\x00\x08\x00\x00", 8), 0);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(seen.arrivals, 1);
        CHECK_EQ(seen.errors, 1);
        CHECK_EQ(seen.error.trouble, CR__PORT_UNREACHABLE);
        struct cr__ip a = v4 ? pair_ip4(1) : pair_ip6(1), b = v4 ? pair_ip4(2) : pair_ip6(2);
        CHECK(cr__ip_equal(&seen.error.from, &a) && cr__ip_equal(&seen.error.to, &b));
        CHECK_EQ(seen.error.protocol, CR__IP_UDP);
        CHECK(memcmp(seen.quoted, "\x12\x34\x00\x35\x00\x08\x00\x00", 8) == 0);
        pair_fini(&pair);
    }
}

TEST(no_error_is_sent_about_errors_or_about_what_went_to_many)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1), a6 = pair_ip6(1);
    start(&pair);
    seen.unreachable = true;
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    CHECK_EQ(cr__neighbour_add(&pair.b, &a6, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 255, true, CR__IP_UDP, "datagram", 8, -1);
    memset(frame->data, 255, 6);
    input(&pair, &pair.b, frame);
    CHECK_EQ(seen.arrivals, 1);
    frame = pair_frame(&pair.packets, 1, 2, true, 99, "protocol", 8, -1); /* an unknown one is answered */
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.out.count, 1);
    frame = pair_frame(&pair.packets, 1, 2, false, 60, "\x3a\x00\xde\x04\0\0\0\0\x01\0\0\0\0\0\0\0", 16, -1); /* an option in front of an error: the walk ends before that */
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.out.count, 2);
    frame = pair_frame(&pair.packets, 1, 2, false, CR__IP_ICMP6, "\x7f\0\0\0\0\0\0\0", 8, 2); /* an error of an unknown type */
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.out.count, 2);
    pair_fini(&pair);
}

TEST(an_error_is_576_bytes_at_most_and_of_ipv6_1280_whatever_it_is_about_and_of_no_class)
{
    static struct pair pair;
    static const char datagram[1400];
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip a = v4 ? pair_ip4(1) : pair_ip6(1);
        start(&pair);
        seen.unreachable = true;
        CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
        struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, v4, CR__IP_UDP, datagram, sizeof(datagram), -1);
        if (v4) {
            frame->data[15] = 0xb8;
            memset(frame->data + 24, 0, 2);
            cr__wire_put16(frame->data + 24, cr__wire_checksum(cr__wire_sum(0, frame->data + 14, 20)));
        } else {
            memcpy(frame->data + 14, "\x6b\x80", 2);
        }
        input(&pair, &pair.b, frame);
        struct cr_packet *told = pair_pop(&pair, &pair.b);
        CHECK(told != NULL);
        CHECK_EQ(told->size_bytes, 14 + (v4 ? 576 : 1280));
        CHECK(v4 ? told->data[15] == 0 : told->data[14] == 0x60 && told->data[15] == 0);
        cr__packet_put(&pair.packets, told);
        pair_fini(&pair);
    }
}

TEST(messages_of_types_that_nobody_knows_are_dropped_without_a_word)
{
    static const uint8_t types4[] = {13, 15, 17, 200}, types6[] = {133, 134, 137, 200};
    static struct pair pair;
    start(&pair);
    for (int v4 = 0; v4 < 2; v4++)
        for (unsigned i = 0; i < 4; i++) {
            uint8_t message[48] = {v4 ? types4[i] : types6[i]};
            input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, v4, v4 ? CR__IP_ICMP : CR__IP_ICMP6, message, sizeof(message), 2));
        }
    CHECK_EQ(pair.b.drops[CR__DROP_ICMP_TYPE], 8);
    CHECK_EQ(pair.b.out.count, 0);
    CHECK_EQ(seen.errors, 0);
    pair_fini(&pair);
}

TEST(a_ping_to_all_nodes_of_ipv6_is_answered_from_an_address_of_ours)
{
    static struct pair pair;
    struct cr__ip a = pair_ip6(1), b = pair_ip6(2), all = {.bytes = {0xff, 2, [15] = 1}};
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, false, CR__IP_ICMP6, "\x80\0\0\0\0\1\0\1", 8, -1);
    memcpy(frame->data, "\x33\x33\0\0\0\1", 6);
    memcpy(frame->data + 38, all.bytes, 16);
    cr__wire_put16(frame->data + 56, cr__wire_checksum(cr__wire_sum(cr__ip_pseudo_sum(&a, &all, CR__IP_ICMP6, 8), frame->data + 54, 8)));
    input(&pair, &pair.b, frame);
    struct cr_packet *answer = pair_pop(&pair, &pair.b);
    CHECK(answer && answer->data[54] == CR__ICMP6_ECHO_REPLY);
    CHECK(memcmp(answer->data + 22, b.bytes, 16) == 0 && memcmp(answer->data + 38, a.bytes, 16) == 0);
    cr__packet_put(&pair.packets, answer);
    pair_fini(&pair);
}

TEST(errors_beyond_the_rate_are_not_sent)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1);
    start(&pair);
    seen.unreachable = true;
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    for (int i = 0; i < 80; i++)
        input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, true, CR__IP_UDP, "datagram", 8, -1));
    CHECK_EQ(pair.b.out.count, 50);
    CHECK_EQ(pair.b.drops[CR__DROP_ICMP_LIMIT], 30);
    pair_fini(&pair);
}

static uint16_t quoted_bytes = 1500; /* how long it was, by its header */

/* An ICMP from b about a segment of a's: type, code, value, then what is quoted. */
static void trouble(struct pair *pair, bool v4, uint8_t type, uint8_t code, uint32_t value, uint8_t quoted_from, uint8_t protocol)
{
    uint8_t icmp[8 + 54 + 8] = {type, code};
    struct cr_packet *quoted = pair_frame(&pair->packets, quoted_from, 2, v4, protocol, "\x04\xd2\x00\x50seqn", 8, -1);
    cr__wire_put32(icmp + 4, value);
    cr__wire_put16(quoted->data + 14 + (v4 ? 2 : 4), v4 ? quoted_bytes : (uint16_t)(quoted_bytes - 40));
    memcpy(icmp + 8, quoted->data + 14, quoted->size_bytes - 14u);
    input(pair, &pair->a, pair_frame(&pair->packets, 2, 1, v4, v4 ? CR__IP_ICMP : CR__IP_ICMP6, icmp, 8u + quoted->size_bytes - 14u, 2));
    cr__packet_put(&pair->packets, quoted);
}

TEST(errors_are_handed_up_by_what_they_mean)
{
    static const struct {
        bool v4;
        uint8_t type, code;
        enum cr__ip_trouble trouble;
    } cases[] = {
        {true, 3, 0, CR__NET_UNREACHABLE},       {true, 3, 1, CR__HOST_UNREACHABLE},  {true, 3, 2, CR__PROTOCOL_UNREACHABLE}, {true, 3, 3, CR__PORT_UNREACHABLE},
        {true, 3, 13, CR__PROHIBITED},           {true, 11, 0, CR__TIME_EXCEEDED},    {false, 1, 0, CR__NET_UNREACHABLE},     {false, 1, 1, CR__PROHIBITED},
        {false, 1, 3, CR__HOST_UNREACHABLE},     {false, 1, 4, CR__PORT_UNREACHABLE}, {false, 3, 0, CR__TIME_EXCEEDED},       {false, 4, 1, CR__PROTOCOL_UNREACHABLE},
    };
    static struct pair pair;
    start(&pair);
    for (unsigned i = 0; i < CR__COUNT(cases); i++) {
        trouble(&pair, cases[i].v4, cases[i].type, cases[i].code, 0, 1, CR__IP_TCP);
        CHECK_EQ(seen.errors, i + 1);
        CHECK_EQ(seen.error.trouble, cases[i].trouble);
        CHECK(memcmp(seen.quoted, "\x04\xd2\x00\x50seqn", 8) == 0);
    }
    trouble(&pair, true, 3, 3, 0, 9, CR__IP_TCP);    /* about a packet that was not ours */
    trouble(&pair, true, 3, 99, 0, 1, CR__IP_TCP);   /* a code that nobody knows */
    trouble(&pair, true, 3, 3, 0, 1, CR__IP_ICMP);   /* of a protocol that nobody waits for */
    CHECK_EQ(seen.errors, CR__COUNT(cases));
    pair_fini(&pair);
}

/* ---- Path MTU ------------------------------------------------------------------------------------------------ */

TEST(too_big_is_believed_only_when_the_transport_says_so_and_forgotten_after_ten_minutes)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
        CHECK_EQ(cr__neighbour_add(&pair.a, &to, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0); /* so that nothing else makes it look again */
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1500);
        trouble(&pair, v4, v4 ? 3 : 2, v4 ? 4 : 0, 1400, 1, CR__IP_TCP);
        CHECK_EQ(seen.error.trouble, CR__TOO_BIG);
        CHECK_EQ(seen.error.mtu_bytes, 1400);
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1500);
        cr__ip_too_big(&pair.a, &to, seen.error.mtu_bytes);
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1400);
        CHECK_EQ(send_to_b(&pair, v4, CR__IP_TCP, NULL, 1400), -EMSGSIZE);
        CHECK_EQ(send_to_b(&pair, v4, CR__IP_TCP, NULL, v4 ? 1380 : 1360), 0);
        cr__ip_too_big(&pair.a, &to, 1450); /* it never grows by that */
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1400);
        pair_run(&pair, 599 * PAIR_SECOND);
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1400);
        pair_run(&pair, 2 * PAIR_SECOND);
        CHECK_EQ(cr__ip_mtu(&pair.a, &to), 1500);
        CHECK_EQ(send_to_b(&pair, v4, CR__IP_TCP, NULL, 1400), 0);
        pair_fini(&pair);
    }
}

TEST(a_path_mtu_is_kept_within_sense)
{
    static struct pair pair;
    struct cr__ip to = pair_ip4(2), to6 = pair_ip6(2);
    start(&pair);
    trouble(&pair, true, 3, 4, 68, 1, CR__IP_TCP);
    CHECK_EQ(seen.error.mtu_bytes, CR__PATH_LEAST4);
    trouble(&pair, true, 3, 4, 0, 1, CR__IP_TCP); /* says nothing: the next plateau below what was sent */
    CHECK(seen.errors == 2 && seen.error.mtu_bytes == 1492);
    quoted_bytes = 1300; /* which fits into what is said to fit */
    trouble(&pair, true, 3, 4, 1300, 1, CR__IP_TCP);
    trouble(&pair, false, 2, 0, 1300, 1, CR__IP_TCP);
    CHECK_EQ(seen.errors, 2);
    quoted_bytes = 1500;
    trouble(&pair, true, 3, 4, 1500, 1, CR__IP_TCP); /* that much does fit */
    trouble(&pair, false, 2, 0, 1279, 1, CR__IP_TCP);
    CHECK_EQ(seen.errors, 2);
    CHECK_EQ(cr__path_plateau(1500), 1492);
    CHECK_EQ(cr__path_plateau(1492), 1006);
    CHECK_EQ(cr__path_plateau(600), 552);
    cr__ip_too_big(&pair.a, &to, 100);
    cr__ip_too_big(&pair.a, &to6, 100);
    CHECK_EQ(cr__ip_mtu(&pair.a, &to), 552);
    CHECK_EQ(cr__ip_mtu(&pair.a, &to6), 1280);
    trouble(&pair, false, 2, 0, 1280, 1, CR__IP_TCP); /* known already: another connection may not have heard of it */
    CHECK_EQ(seen.errors, 3);
    trouble(&pair, false, 2, 0, 1400, 1, CR__IP_TCP); /* it does not grow by that */
    CHECK_EQ(seen.errors, 3);
    pair_fini(&pair);
}

TEST(the_table_of_paths_is_bounded_and_the_newest_is_kept)
{
    static struct cr__host host;
    struct cr__host_config config = pair_config(1, 1);
    config.routes[config.route_count++] = (struct cr__host_route){.to = cr__ip_v4(0), .prefix_bits = 96, .via = true, .gateway = pair_ip4(254)};
    CHECK_EQ(cr__host_init(&host, &config, 0), 0);
    for (uint32_t i = 0; i < 10000; i++) {
        struct cr__ip to = ip4(0x0b000000 + i);
        host.now_ns++;
        cr__ip_too_big(&host, &to, 1300);
        CHECK_EQ(cr__ip_mtu(&host, &to), 1300);
    }
    cr__host_fini(&host);
}
