/* IPv4 and IPv6: frames in, frames out, byte for byte where it matters; whose packets they are, and where they go. */
#include "arrivals.h"

/* ---- Numbers ------------------------------------------------------------------------------------------------- */

TEST(keyed_hashes_are_the_published_ones_of_siphash_2_4)
{
    static const uint64_t wanted[] = {0x726fdb47dd0e0e31, 0x74f839c593dc67fd, 0x0d6c8009d9a94f5a, 0x85676696d7fb7e2d, 0xcf2794e0277187b7, 0x18765564cd99a68d,
                                      0xcbc9466e58fee3ce, 0xab0200f58b01d137, 0x93f5f5799a932462, 0x9e0082df0ba9e4b0, 0x7a5dbbc594ddb9f3, 0xf4b32f46226bada7,
                                      0x751e8fbc860ee5fb, 0x14ea5627c0843d90, 0xf723ca908e7af2ee, 0xa129ca6149be45e5};
    uint8_t bytes[16];
    uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    for (uint8_t i = 0; i < 16; i++) {
        bytes[i] = i;
        CHECK_EQ(cr__siphash(key, bytes, i), wanted[i]);
    }
}

TEST(the_same_seed_gives_the_same_numbers_and_another_one_others)
{
    static struct cr__host a, b, c;
    struct cr__host_config config = pair_config(1, 5), other = pair_config(1, 6);
    CHECK(cr__host_init(&a, &config, 0) == 0 && cr__host_init(&b, &config, 0) == 0 && cr__host_init(&c, &other, 0) == 0);
    unsigned equal = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t number = cr__host_random(&a);
        CHECK(number == cr__host_random(&b));
        equal += number == cr__host_random(&c);
    }
    CHECK_EQ(equal, 0);
    cr__host_fini(&a);
    cr__host_fini(&b);
    cr__host_fini(&c);
}

TEST(what_makes_no_host_is_refused)
{
    static struct cr__host host;
    struct cr__host_config good = pair_config(1, 1), bad = good;
    bad.mtu_bytes = 500;
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
    bad.mtu_bytes = 1279; /* too little for its address of IPv6 (RFC 8200, 5) */
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
    bad.mtu_bytes = 1801;
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
    bad = good;
    bad.ethernet[0] = 1;
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
    bad = good;
    bad.address_count = CR__HOST_ADDRESSES;
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
    bad = good;
    bad.addresses[0].prefix_bits = 24; /* of an IPv4's: 96 more */
    CHECK_EQ(cr__host_init(&host, &bad, 0), -EINVAL);
}

TEST(a_link_local_address_comes_from_that_of_ethernet)
{
    static struct cr__host host;
    struct cr__host_config config = pair_config(1, 1);
    struct cr__ip wanted = {.bytes = {0xfe, 0x80, [8] = 0x00, 0, 0, 0xff, 0xfe, 0, 0, 1}};
    CHECK_EQ(cr__host_init(&host, &config, 0), 0);
    CHECK_EQ(host.config.address_count, 3);
    CHECK(cr__ip_is_ours(&host, &wanted));
    cr__host_fini(&host);
}

/* ---- Sending and receiving ----------------------------------------------------------------------------------- */

TEST(a_segment_of_ipv4_leaves_as_rfc_791_has_it)
{
    static struct pair pair;
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &(struct cr__ip){.bytes = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 2}}, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    CHECK_EQ(send_to_b(&pair, true, CR__IP_TCP, "segment!", 8), 0);
    CHECK(pair_is(&pair.packets, pair_pop(&pair, &pair.a), "020000000002 020000000001 0800  4500 001c 0000 4000 4006 26da 0a000001 0a000002  7365676d656e7421"));
    pair_fini(&pair);
}

TEST(a_segment_of_ipv6_leaves_as_rfc_8200_has_it)
{
    static struct pair pair;
    struct cr__ip from = pair_ip6(1), to = pair_ip6(2);
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &to, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    struct cr_packet *packet = pair_hex(&pair.packets, "7365676d656e7421");
    CHECK_EQ(cr__ip_send(&pair.a, packet, &from, &to, CR__IP_TCP, 0x02, false), 0);
    CHECK(pair_is(&pair.packets, pair_pop(&pair, &pair.a),
                  "020000000002 020000000001 86dd  60200000 0008 06 40 20010db8000000000000000000000001 20010db8000000000000000000000002  7365676d656e7421"));
    pair_fini(&pair);
}

TEST(segments_get_from_one_host_to_the_other_and_say_from_whom_they_are)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        memset(&seen, 0, sizeof(seen));
        struct cr__ip a = v4 ? pair_ip4(1) : pair_ip6(1), b = v4 ? pair_ip4(2) : pair_ip6(2);
        struct cr_packet *packet = pair_hex(&pair.packets, "68656c6c6f");
        CHECK_EQ(cr__ip_send(&pair.a, packet, &a, &b, CR__IP_TCP, 0x29, false), 0);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(seen.arrivals, 1);
        CHECK(cr__ip_equal(&seen.from, &a) && cr__ip_equal(&seen.to, &b));
        CHECK(seen.size_bytes == 5 && memcmp(seen.data, "hello", 5) == 0);
        CHECK_EQ(seen.tos, 0x29);
        CHECK_EQ(seen.hops, 64);
        CHECK(!seen.broadcast);
        CHECK_EQ(drops(&pair.a) + drops(&pair.b), 0);
        pair_fini(&pair);
    }
}

TEST(who_holds_another_reference_finds_its_bytes_where_they_were)
{
    static struct pair pair;
    struct cr__ip a = pair_ip4(1), b = pair_ip4(2);
    struct cr_packet *other = NULL;
    start(&pair);
    other = cr__packet_get(&pair.packets);
    struct cr_packet *packet = pair_hex(&pair.packets, "68656c6c6f");
    unsigned char *payload = packet->data;
    packet->next = other; /* a send queue's */
    packet->_references++;
    CHECK_EQ(cr__ip_send(&pair.a, packet, &a, &b, CR__IP_TCP, 0, false), 0);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(seen.arrivals, 1);
    CHECK(memcmp(payload, "hello", 5) == 0 && packet->next == other && packet->_references == 1);
    cr__packet_put(&pair.packets, packet);
    cr__packet_put(&pair.packets, other);
    pair_fini(&pair);
}

TEST(ethernets_padding_is_cut_off)
{
    static struct pair pair;
    start(&pair);
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, true, CR__IP_TCP, "abc", 3, -1);
    frame->size_bytes += 20;
    input(&pair, &pair.b, frame);
    CHECK_EQ(seen.size_bytes, 3);
    frame = pair_frame(&pair.packets, 1, 2, false, CR__IP_TCP, "abc", 3, -1);
    frame->size_bytes += 20;
    input(&pair, &pair.b, frame);
    CHECK_EQ(seen.size_bytes, 3);
    CHECK_EQ(seen.arrivals, 2);
    pair_fini(&pair);
}

/* A frame for b with one of its bytes, counted from Ethernet's first, set to something else; the header's checksum mended if that is wanted. */
static struct cr_packet *spoiled(struct pair *pair, bool v4, size_t at, uint8_t value, bool mend)
{
    struct cr_packet *frame = pair_frame(&pair->packets, 1, 2, v4, CR__IP_TCP, "0123456789abcdef0123456789abcdef0123456789abcdef", 48, -1);
    frame->data[at] = value;
    if (mend && v4) {
        size_t size_bytes = 4u * (frame->data[14] & 15);
        memset(frame->data + 24, 0, 2);
        cr__wire_put16(frame->data + 24, cr__wire_checksum(cr__wire_sum(0, frame->data + 14, size_bytes)));
    }
    return frame;
}

TEST(malformed_and_foreign_packets_of_ipv4_are_dropped_by_cause)
{
    static const struct {
        size_t at;
        uint8_t value;
        bool mend;
        enum cr__drop cause;
    } cases[] = {
        {0, 4, false, CR__DROP_FRAME_OTHERS},        {6, 3, false, CR__DROP_FRAME_OTHERS},   {12, 0x12, false, CR__DROP_FRAME_TYPE}, {14, 0x65, true, CR__DROP_IP_HEADER},
        {14, 0x44, true, CR__DROP_IP_HEADER},        {17, 19, true, CR__DROP_IP_HEADER},     {17, 200, true, CR__DROP_IP_HEADER},    {22, 63, false, CR__DROP_IP_CHECKSUM},
        {33, 3, true, CR__DROP_IP_OTHERS},           {26, 127, true, CR__DROP_IP_SOURCE},    {26, 224, true, CR__DROP_IP_SOURCE},    {26, 0, true, CR__DROP_IP_SOURCE},
        {29, 2, true, CR__DROP_IP_SOURCE} /* LAND */, {29, 255, true, CR__DROP_IP_SOURCE},   {26, 255, true, CR__DROP_IP_SOURCE},    {30, 127, true, CR__DROP_IP_OTHERS},
        {33, 255, true, CR__DROP_IP_OTHERS} /* TCP to many */,
    };
    static struct pair pair;
    start(&pair);
    for (size_t i = 0; i < CR__COUNT(cases); i++) {
        uint64_t before = pair.b.drops[cases[i].cause];
        input(&pair, &pair.b, spoiled(&pair, true, cases[i].at, cases[i].value, cases[i].mend));
        if (pair.b.drops[cases[i].cause] != before + 1)
            printf("# case %zu\n", i);
        CHECK_EQ(pair.b.drops[cases[i].cause], before + 1);
    }
    CHECK_EQ(seen.arrivals, 0);
    CHECK_EQ(drops(&pair.b), CR__COUNT(cases));
    CHECK_EQ(pair.b.out.count, 0);
    pair_fini(&pair);
}

TEST(malformed_and_foreign_packets_of_ipv6_are_dropped_by_cause)
{
    static const struct {
        size_t at;
        uint8_t value;
        enum cr__drop cause;
    } cases[] = {
        {14, 0x45, CR__DROP_IP_HEADER}, {19, 200, CR__DROP_IP_HEADER},  {53, 3, CR__DROP_IP_OTHERS}, {22, 0xff, CR__DROP_IP_SOURCE}, {37, 2, CR__DROP_IP_SOURCE},
        {38, 0xff, CR__DROP_IP_OTHERS},
    };
    static struct pair pair;
    start(&pair);
    for (size_t i = 0; i < CR__COUNT(cases); i++) {
        input(&pair, &pair.b, spoiled(&pair, false, cases[i].at, cases[i].value, false));
        CHECK(pair.b.drops[cases[i].cause] > 0);
        CHECK_EQ(drops(&pair.b), i + 1);
    }
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, false, CR__IP_TCP, "abc", 3, -1);
    memcpy(frame->data + 22, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\1", 16); /* IPv4 in disguise */
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_SOURCE], 3);
    frame = pair_frame(&pair.packets, 1, 2, false, CR__IP_TCP, "abc", 3, -1);
    memset(frame->data + 22, 0, 16); /* from no address */
    input(&pair, &pair.b, frame);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_SOURCE], 4);
    CHECK_EQ(seen.arrivals, 0);
    pair_fini(&pair);
}

TEST(frames_cut_at_any_length_are_dropped_and_no_byte_beyond_is_read)
{
    static struct pair pair;
    start(&pair);
    for (int v4 = 0; v4 < 2; v4++)
        for (uint16_t size = 0; size < (v4 ? 34 : 54); size++) {
            struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, v4, CR__IP_TCP, "abc", 3, -1);
            frame->size_bytes = size;
            input(&pair, &pair.b, frame);
        }
    CHECK_EQ(drops(&pair.b), 34 + 54);
    CHECK_EQ(seen.arrivals, 0);
    pair_fini(&pair);
}

TEST(what_has_come_far_is_not_dropped_for_its_ttl)
{
    static struct pair pair;
    start(&pair);
    for (uint8_t ttl = 0; ttl < 3; ttl++) {
        input(&pair, &pair.b, spoiled(&pair, true, 22, ttl, true));
        input(&pair, &pair.b, spoiled(&pair, false, 21, ttl, false));
        CHECK_EQ(seen.hops, ttl);
    }
    CHECK_EQ(seen.arrivals, 6);
    pair_fini(&pair);
}

TEST(identifications_mean_nothing_where_df_is_set_and_are_not_used_again_soon_elsewhere)
{
    static struct pair pair;
    static bool used[65536];
    struct cr__ip from = pair_ip4(1), to = pair_ip4(2);
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &to, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    for (int i = 0; i < 65536; i++) {
        CHECK_EQ(send(&pair.a, &from, &to, CR__IP_UDP, "datagram", 8, true), 0);
        struct cr_packet *frame = pair_pop(&pair, &pair.a);
        uint16_t id = cr__wire_get16(frame->data + 18);
        CHECK(cr__wire_get16(frame->data + 20) == 0 && !used[id]);
        used[id] = true;
        cr__packet_put(&pair.packets, frame);
    }
    CHECK_EQ(send(&pair.a, &from, &to, CR__IP_TCP, "segment!", 8, false), 0);
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    CHECK(cr__wire_get32(frame->data + 18) == CR__IP4_DONT_FRAGMENT);
    cr__packet_put(&pair.packets, frame);
    pair_fini(&pair);
}

TEST(options_are_skipped_and_source_routes_dropped)
{
    static struct pair pair;
    start(&pair);
    for (int i = 0; i < 2; i++) {
        struct cr_packet *frame = pair_frame(&pair.packets, 1, 2, true, CR__IP_TCP, i == 0 ? "\x94\x04\0\0data" : "\x83\x03\x04\0data", 8, -1);
        frame->data[14] = 0x46;
        memset(frame->data + 24, 0, 2);
        cr__wire_put16(frame->data + 24, cr__wire_checksum(cr__wire_sum(0, frame->data + 14, 24)));
        input(&pair, &pair.b, frame);
    }
    CHECK_EQ(seen.arrivals, 1);
    CHECK(seen.size_bytes == 4 && memcmp(seen.data, "data", 4) == 0);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_OPTIONS], 1);
    pair_fini(&pair);
}

TEST(extension_headers_are_skipped_and_an_unknown_one_is_answered_by_a_problem)
{
    static struct pair pair;
    start(&pair);
    struct cr__ip a = pair_ip6(1);
    CHECK_EQ(cr__neighbour_add(&pair.b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, false, 0, "\x3c\x00\x01\x04\x00\x00\x00\x00\x06\x00\x01\x04\x00\x00\x00\x00tcp", 19, -1));
    CHECK_EQ(seen.arrivals, 1);
    CHECK(seen.size_bytes == 3 && memcmp(seen.data, "tcp", 3) == 0);
    input(&pair, &pair.b, pair_frame(&pair.packets, 1, 2, false, 60, "\xfd\x00\x01\x04\x00\x00\x00\x00", 8, -1));
    struct cr_packet *answer = pair_pop(&pair, &pair.b);
    CHECK(answer != NULL);
    CHECK(answer->data[54] == CR__ICMP6_PROBLEM && answer->data[55] == 1 && cr__wire_get32(answer->data + 58) == 40);
    CHECK(answer->size_bytes == 54 + 8 + 48 && answer->data[20] == CR__IP_ICMP6);
    cr__packet_put(&pair.packets, answer);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_PROTOCOL], 1);
    pair_fini(&pair);
}

TEST(what_a_host_sends_to_itself_arrives_later_not_within_the_call)
{
    static struct pair pair;
    start(&pair);
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip own = v4 ? pair_ip4(1) : pair_ip6(1);
        CHECK_EQ(send(&pair.a, &own, &own, CR__IP_TCP, "to me", 5, false), 0);
        CHECK_EQ(seen.arrivals, v4);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(seen.arrivals, v4 + 1);
        CHECK(cr__ip_equal(&seen.from, &own));
    }
    CHECK_EQ(pair.a.sent, 0);
    pair_fini(&pair);
}

TEST(what_is_held_by_its_sender_arrives_there_as_a_copy)
{
    static struct pair pair;
    struct cr__ip own = pair_ip4(1);
    start(&pair);
    struct cr_packet *packet = pair_hex(&pair.packets, "68656c6c6f");
    unsigned char *payload = packet->data;
    packet->_references++;
    CHECK_EQ(cr__ip_send(&pair.a, packet, &own, &own, CR__IP_TCP, 0, false), 0);
    pair_run(&pair, PAIR_MS);
    CHECK(seen.arrivals == 1 && seen.size_bytes == 5 && memcmp(seen.data, "hello", 5) == 0);
    CHECK(seen.packet != packet && packet->_references == 1 && memcmp(payload, "hello", 5) == 0);
    cr__packet_put(&pair.packets, packet);
    pair_fini(&pair);
}

TEST(frames_beyond_what_may_wait_for_the_link_are_dropped_and_counted)
{
    static struct pair pair;
    struct cr__ip to = pair_ip4(2);
    start(&pair);
    CHECK_EQ(cr__neighbour_add(&pair.a, &to, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    for (int i = 0; i < CR__HOST_OUT_MOST + 10; i++)
        CHECK_EQ(send_to_b(&pair, true, CR__IP_TCP, "x", 1), 0);
    CHECK_EQ(pair.a.out.count, CR__HOST_OUT_MOST);
    CHECK_EQ(pair.a.drops[CR__DROP_LINK_FULL], 10);
    pair_fini(&pair);
}

/* ---- Where to, where from ------------------------------------------------------------------------------------ */

static struct cr__host_config routed(void)
{
    struct cr__host_config config = pair_config(1, 1);
    config.addresses[config.address_count++] = (struct cr__host_address){cr__ip_v4(__builtin_bswap32(0xc0a80105)), 96 + 24};
    config.routes[0] = (struct cr__host_route){.to = cr__ip_v4(0), .prefix_bits = 96, .via = true, .gateway = pair_ip4(254)};
    config.routes[1] = (struct cr__host_route){.to = cr__ip_v4(__builtin_bswap32(0xac100000)), .prefix_bits = 96 + 12, .via = true, .gateway = pair_ip4(253)};
    config.routes[2] = (struct cr__host_route){.to = cr__ip_v4(__builtin_bswap32(0xac100100)), .prefix_bits = 96 + 24, .via = false};
    config.routes[3] = (struct cr__host_route){.prefix_bits = 0, .via = true, .gateway = pair_ip6(254)};
    config.route_count = 4;
    return config;
}

TEST(the_longest_prefix_says_who_is_next)
{
    static struct cr__host host;
    struct cr__host_config config = routed();
    struct cr__ip hop, far6 = {.bytes = {0x2a, 1}}, gateway = pair_ip4(254), other = pair_ip4(253), gateway6 = pair_ip6(254), near = pair_ip4(77), on_link = ip4(0xac100107);
    CHECK_EQ(cr__host_init(&host, &config, 0), 0);
    CHECK(cr__ip_next_hop(&host, &(struct cr__ip){.halves = {ip4(0x08080808).halves[0], ip4(0x08080808).halves[1]}}, &hop) == 0 && cr__ip_equal(&hop, &gateway));
    struct cr__ip to = ip4(0xac1f0001);
    CHECK(cr__ip_next_hop(&host, &to, &hop) == 0 && cr__ip_equal(&hop, &other));
    CHECK(cr__ip_next_hop(&host, &on_link, &hop) == 0 && cr__ip_equal(&hop, &on_link));
    CHECK(cr__ip_next_hop(&host, &near, &hop) == 0 && cr__ip_equal(&hop, &near));
    CHECK(cr__ip_next_hop(&host, &far6, &hop) == 0 && cr__ip_equal(&hop, &gateway6));
    cr__host_fini(&host);
}

TEST(without_a_route_there_is_nothing_to_send_to)
{
    static struct pair pair;
    struct cr__ip from = pair_ip4(1), far = ip4(0x08080808), none = {0}, self = ip4(0x7f000001), source;
    start(&pair);
    CHECK_EQ(send(&pair.a, &from, &far, CR__IP_TCP, "x", 1, false), -ENETUNREACH);
    CHECK_EQ(send(&pair.a, &from, &none, CR__IP_TCP, "x", 1, false), -ENETUNREACH);
    CHECK_EQ(send(&pair.a, &from, &self, CR__IP_TCP, "x", 1, false), -ENETUNREACH);
    CHECK_EQ(cr__ip_source(&pair.a, &far, &source), -ENETUNREACH);
    CHECK_EQ(pair.a.drops[CR__DROP_NO_ROUTE], 3);
    pair_fini(&pair);
}

TEST(the_source_is_the_address_that_has_most_in_common_with_where_it_goes)
{
    static struct cr__host host;
    struct cr__host_config config = routed();
    struct cr__ip out, want, to;
    CHECK_EQ(cr__host_init(&host, &config, 0), 0);
    to = ip4(0xc0a80163), want = ip4(0xc0a80105);
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_equal(&out, &want));
    to = pair_ip4(9), want = pair_ip4(1);
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_equal(&out, &want));
    to = pair_ip6(9), want = pair_ip6(1);
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_equal(&out, &want));
    to = (struct cr__ip){.bytes = {0xfe, 0x80, [15] = 9}};
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_is_link_local(&out));
    to = (struct cr__ip){.bytes = {0xff, 2, [15] = 1}};
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_is_link_local(&out));
    to = want = ip4(0xc0a80105); /* ourselves */
    CHECK(cr__ip_source(&host, &to, &out) == 0 && cr__ip_equal(&out, &want));
    cr__host_fini(&host);
}

TEST(what_goes_to_many_leaves_by_ethernets_addresses_for_many)
{
    static const struct {
        struct cr__ip to;
        uint8_t ethernet[6];
    } cases[] = {
        {{.bytes = {[10] = 0xff, [11] = 0xff, 255, 255, 255, 255}}, {255, 255, 255, 255, 255, 255}},
        {{.bytes = {[10] = 0xff, [11] = 0xff, 10, 0, 0, 255}}, {255, 255, 255, 255, 255, 255}},
        {{.bytes = {[10] = 0xff, [11] = 0xff, 239, 129, 2, 3}}, {1, 0, 0x5e, 1, 2, 3}},
        {{.bytes = {0xff, 2, [12] = 0xab, 0xcd, 0xef, 1}}, {0x33, 0x33, 0xab, 0xcd, 0xef, 1}},
    };
    static struct pair pair;
    start(&pair);
    for (size_t i = 0; i < CR__COUNT(cases); i++) {
        struct cr__ip from;
        CHECK_EQ(cr__ip_source(&pair.a, &cases[i].to, &from), 0);
        CHECK_EQ(send(&pair.a, &from, &cases[i].to, CR__IP_UDP, "datagram", 8, true), 0);
        struct cr_packet *frame = pair_pop(&pair, &pair.a);
        CHECK(frame && memcmp(frame->data, cases[i].ethernet, 6) == 0);
        cr__packet_put(&pair.packets, frame);
    }
    pair_fini(&pair);
}

TEST(a_broadcast_datagram_arrives_as_one_and_one_to_our_address_in_a_frame_for_all_does_not)
{
    static struct pair pair;
    start(&pair);
    struct cr_packet *frame = pair_frame(&pair.packets, 1, 255, true, CR__IP_UDP, "datagram", 8, -1);
    memset(frame->data, 255, 6);
    input(&pair, &pair.b, frame);
    CHECK(seen.arrivals == 1 && seen.broadcast);
    frame = pair_frame(&pair.packets, 1, 2, true, CR__IP_UDP, "datagram", 8, -1);
    memset(frame->data, 255, 6);
    input(&pair, &pair.b, frame);
    CHECK_EQ(seen.arrivals, 1);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_OTHERS], 1);
    pair_fini(&pair);
}

/* ---- Anything at all ------------------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t dice(uint32_t sides)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % sides;
}

/* A frame for b that would be good, of some kind. */
static struct cr_packet *some_frame(struct pair *pair)
{
    static const uint8_t protocols[] = {CR__IP_TCP,     CR__IP_UDP,      CR__IP_ICMP,        CR__IP_ICMP6,   CR__IP_HOP_BY_HOP,
                                        CR__IP_ROUTING, CR__IP_FRAGMENT, CR__IP_DESTINATION, CR__IP_NOTHING, 99};
    static const uint8_t types[] = {0, 1, 2, 3, 4, 8, 11, 12, 128, 129, 133, 134, 135, 136, 137};
    uint8_t payload[1400];
    size_t size = dice(10) == 0 ? dice(1400) : dice(120);
    uint8_t protocol = protocols[dice(CR__COUNT(protocols))];
    bool v4 = dice(2), icmp = protocol == CR__IP_ICMP || protocol == CR__IP_ICMP6;
    for (size_t i = 0; i < size; i++)
        payload[i] = dice(3) ? (uint8_t)dice(4) : (uint8_t)dice(256);
    payload[0] = icmp ? types[dice(CR__COUNT(types))] : protocols[dice(CR__COUNT(protocols))];
    if (icmp && size > 80 && dice(2)) { /* an error that quotes something */
        struct cr_packet *quoted = pair_frame(&pair->packets, 2, 1, v4, dice(2) ? CR__IP_TCP : CR__IP_UDP, "12345678", 8, -1);
        memcpy(payload + 8, quoted->data + 14, quoted->size_bytes - 14u);
        cr__packet_put(&pair->packets, quoted);
    }
    if (icmp && size >= 32 && (payload[0] == CR__NDP_SOLICITATION || payload[0] == CR__NDP_ADVERTISEMENT)) {
        struct cr__ip target = pair_ip6((uint8_t)(1 + dice(3)));
        memcpy(payload + 8, target.bytes, 16);
    }
    struct cr_packet *frame = pair_frame(&pair->packets, 1, 2, v4, protocol, payload, size, icmp && size >= 4 ? 2 : -1);
    if (!v4 && dice(2))
        frame->data[21] = 255;
    return frame;
}

TEST(frames_of_any_kind_spoiled_at_random_do_no_harm_and_no_packet_is_lost)
{
    static struct pair pair;
    start(&pair);
    uint64_t arrived = 0;
    for (random_state = 1; arrived < 200000; arrived++) {
        struct cr_packet *frame = some_frame(&pair);
        for (uint32_t i = dice(4); i > 0 && frame->size_bytes > 0; i--)
            frame->data[dice(dice(2) && frame->size_bytes > 60 ? 60 : frame->size_bytes)] = (uint8_t)dice(256);
        if (dice(8) == 0)
            frame->size_bytes = (uint16_t)dice(frame->size_bytes + 1u);
        if (dice(2) && frame->size_bytes >= 34 && frame->data[14] == 0x45) { /* a header that adds up gets further */
            memset(frame->data + 24, 0, 2);
            cr__wire_put16(frame->data + 24, cr__wire_checksum(cr__wire_sum(0, frame->data + 14, 20)));
        }
        input(&pair, &pair.b, frame);
        pair.now_ns += dice(3 * (uint32_t)PAIR_MS);
        cr__host_tick(&pair.b, pair.now_ns);
        for (struct cr_packet *answer; (answer = pair_pop(&pair, &pair.b)) != NULL;)
            cr__packet_put(&pair.packets, answer);
    }
    CHECK_EQ(pair.b.received, arrived);
    CHECK(seen.arrivals > 1000 && seen.errors > 100 && pair.b.sent > 1000);
    pair_fini(&pair);
}

/* ---- Cost ---------------------------------------------------------------------------------------------------- */

TEST(the_usual_send_finds_its_way_without_a_search)
{
    static struct pair pair;
    start(&pair);
    CHECK_EQ(send_to_b(&pair, true, CR__IP_TCP, "x", 1), 0);
    pair_run(&pair, PAIR_MS);
    double best_ns = 1e9;
    struct cr__ip from = pair_ip4(1), to = pair_ip4(2);
    struct cr_packet *packet = pair_hex(&pair.packets, "00");
    unsigned char *data = packet->data;
    enum { TIMES = 10000, ROUNDS = 50 };
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int i = 0; i < TIMES; i++) {
            packet->data = data;
            packet->size_bytes = 20;
            cr__ip_send(&pair.a, packet, &from, &to, CR__IP_TCP, 0, false);
            cr__host_pop(&pair.a); /* as who drives it does: it is timed */
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        double ns = ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / TIMES;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    printf("# %.1f ns a packet\n", best_ns);
    cr__packet_put(&pair.packets, packet);
    CHECK_EQ(pair.a.sent, TIMES * ROUNDS + 2);
    struct cr__way *way = cr__way_slot(pair.a.ip, &to);
    CHECK(cr__ip_equal(&way->to, &to) && way->epoch == pair.a.ip->epoch);
    pair_fini(&pair);
}
