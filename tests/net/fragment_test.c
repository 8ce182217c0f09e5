/* Reassembly: what is put together, what is refused, and that all of it has a bound. */
#include "net/ip/ip.h"
#include "pair.h"

static struct {
    unsigned arrivals, packets;
    uint8_t bytes[70000];
    size_t size_bytes;
    uint8_t tos;
    bool unreachable;
} seen;

static void on_arrival(struct cr__host *host, const struct cr__arrival *in)
{
    seen.arrivals++;
    seen.size_bytes = 0;
    seen.packets = 0;
    seen.tos = in->tos;
    for (const struct cr_packet *packet = in->packet; packet; packet = packet->next) {
        memcpy(seen.bytes + seen.size_bytes, packet->data, packet->size_bytes);
        seen.size_bytes += packet->size_bytes;
        seen.packets++;
    }
    if (seen.unreachable)
        cr__icmp_unreachable(host, in, CR__PORT_UNREACHABLE);
    cr__host_put(host, in->packet);
}

static uint8_t pattern[65536];

static void start(struct pair *pair)
{
    struct cr__ip a = pair_ip4(1), a6 = pair_ip6(1);
    pair_init(pair, 5);
    memset(&seen, 0, sizeof(seen));
    pair->b.above = (struct cr__host_above){.udp = on_arrival, .tcp = on_arrival};
    CHECK_EQ(cr__neighbour_add(&pair->b, &a, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    CHECK_EQ(cr__neighbour_add(&pair->b, &a6, (const uint8_t[]){2, 0, 0, 0, 0, 1}), 0);
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)(i * 7 + i / 256);
}

struct piece {
    bool v4;
    uint8_t protocol;
    uint32_t id;
    uint8_t from; /* host's number; 0: 1 */
    uint8_t tos;
};

/* [from, to) of the pattern, as a fragment for b. */
static void piece(struct pair *pair, const struct piece *p, size_t from, size_t to, bool more)
{
    uint8_t bytes[2000];
    size_t header = p->v4 ? 0 : 8;
    memcpy(bytes + header, pattern + from, to - from);
    if (!p->v4) {
        bytes[0] = p->protocol;
        bytes[1] = 0;
        cr__wire_put16(bytes + 2, (uint16_t)(from | more));
        cr__wire_put32(bytes + 4, p->id);
    }
    struct cr_packet *frame = pair_frame(&pair->packets, p->from ? p->from : 1, 2, p->v4, p->v4 ? p->protocol : CR__IP_FRAGMENT, bytes, header + to - from, -1);
    if (p->v4) {
        uint8_t *ip = frame->data + 14;
        ip[1] = p->tos;
        cr__wire_put16(ip + 4, (uint16_t)p->id);
        cr__wire_put16(ip + 6, (uint16_t)(from / 8 | (more ? CR__IP4_MORE : 0)));
        memset(ip + 10, 0, 2);
        cr__wire_put16(ip + 10, cr__wire_checksum(cr__wire_sum(0, ip, 20)));
    }
    cr__host_input(&pair->b, frame, pair->now_ns);
}

static bool is_pattern(size_t size_bytes)
{
    return seen.size_bytes == size_bytes && memcmp(seen.bytes, pattern, size_bytes) == 0;
}

#define UDP4 (&(struct piece){true, CR__IP_UDP, 1, 0, 0})
#define UDP6 (&(struct piece){false, CR__IP_UDP, 1, 0, 0})

TEST(pieces_in_any_order_make_one_packet)
{
    static const uint8_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static struct pair pair;
    start(&pair);
    for (int v4 = 0; v4 < 2; v4++)
        for (unsigned i = 0; i < 6; i++)
            for (unsigned j = 0; j < 3; j++)
                piece(&pair, &(struct piece){v4, CR__IP_UDP, i, 0, 0}, 400 * orders[i][j], orders[i][j] == 2 ? 1111 : 400 * (orders[i][j] + 1u), orders[i][j] != 2);
    CHECK_EQ(seen.arrivals, 12);
    CHECK(is_pattern(1111) && seen.packets == 1);
    CHECK_EQ(pair.b.ip->fragments_held, 0);
    pair_fini(&pair);
}

TEST(a_datagram_longer_than_a_packet_is_a_chain_for_udp_and_nothing_for_others)
{
    static struct pair pair;
    start(&pair);
    for (int v4 = 0; v4 < 2; v4++) {
        for (size_t at = 0; at < 65000; at += 1000)
            piece(&pair, &(struct piece){v4, CR__IP_UDP, 3, 0, 0}, at, at + 1000, at + 1000 < 65000);
        CHECK_EQ(seen.arrivals, v4 + 1);
        CHECK(is_pattern(65000) && seen.packets > 1);
        for (size_t at = 0; at < 3000; at += 1000)
            piece(&pair, &(struct piece){v4, CR__IP_TCP, 4, 0, 0}, at, at + 1000, at + 1000 < 3000);
        CHECK_EQ(seen.arrivals, v4 + 1);
    }
    CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_LONG], 6);
    pair_fini(&pair);
}

TEST(the_same_piece_twice_does_no_harm)
{
    static struct pair pair;
    start(&pair);
    piece(&pair, UDP4, 0, 400, true);
    piece(&pair, UDP4, 0, 400, true);
    piece(&pair, UDP4, 400, 500, false);
    CHECK(seen.arrivals == 1 && is_pattern(500));
    CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_OVERLAP], 1);
    pair_fini(&pair);
}

TEST(pieces_that_overlap_spoil_the_whole_datagram_for_as_long_as_it_could_take)
{
    static const struct {
        size_t from, to;
        bool more;
    } bad[] = {{0, 408, true}, {8, 400, true}, {392, 800, true}, {0, 1600, true}, {200, 208, true}, {400, 500, false}, {1200, 1304, true}};
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++)
        for (size_t i = 0; i < CR__COUNT(bad); i++) {
            const struct piece *p = v4 ? UDP4 : UDP6;
            start(&pair);
            piece(&pair, p, 0, 400, true);
            piece(&pair, p, 800, 1200, false);
            piece(&pair, p, bad[i].from, bad[i].to, bad[i].more);
            CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_OVERLAP], 3);
            CHECK_EQ(pair.b.ip->fragments_held, 0);
            piece(&pair, p, 0, 400, true); /* nor what still comes */
            piece(&pair, p, 400, 800, true);
            piece(&pair, p, 800, 1200, false);
            CHECK_EQ(seen.arrivals, 0);
            pair_run(&pair, 61 * PAIR_SECOND);
            CHECK_EQ(pair.b.sent, 0); /* and nobody is told */
            piece(&pair, p, 0, 400, true);
            piece(&pair, p, 400, 800, false);
            CHECK(seen.arrivals == 1 && is_pattern(800));
            pair_fini(&pair);
        }
}

TEST(what_is_not_whole_in_time_is_dropped_and_its_sender_told_if_the_first_piece_had_come)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        piece(&pair, &(struct piece){v4, CR__IP_UDP, 1, 0, 0}, 0, 400, true);
        piece(&pair, &(struct piece){v4, CR__IP_UDP, 2, 0, 0}, 400, 800, true); /* of this one it has not */
        pair_run(&pair, (v4 ? 29 : 59) * PAIR_SECOND);
        CHECK_EQ(pair.b.ip->fragments_held, 2);
        pair.now_ns += 2 * PAIR_SECOND;
        cr__host_tick(&pair.b, pair.now_ns);
        CHECK_EQ(pair.b.ip->fragments_held, 0);
        CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_TIMEOUT], 2);
        struct cr_packet *told = pair_pop(&pair, &pair.b);
        size_t at = v4 ? 34 : 54;
        CHECK(told && pair_pop(&pair, &pair.b) == NULL);
        CHECK(told->data[at] == (v4 ? CR__ICMP_TIME_EXCEEDED : CR__ICMP6_TIME_EXCEEDED) && told->data[at + 1] == 1);
        CHECK_EQ(told->size_bytes, at + 8 + (v4 ? 20 : 48) + 400);
        cr__packet_put(&pair.packets, told);
        pair_fini(&pair);
    }
}

TEST(tiny_and_impossible_pieces_are_refused)
{
    static struct pair pair;
    start(&pair);
    piece(&pair, &(struct piece){true, CR__IP_TCP, 1, 0, 0}, 0, 16, true);   /* no whole header of TCP's */
    piece(&pair, &(struct piece){true, CR__IP_TCP, 2, 0, 0}, 8, 400, false); /* which begins in it */
    piece(&pair, &(struct piece){false, CR__IP_TCP, 3, 0, 0}, 0, 16, true);
    piece(&pair, &(struct piece){false, 60, 4, 0, 0}, 0, 8, true);           /* extension headers without an end */
    piece(&pair, UDP4, 800, 800, false);                                     /* nothing in it */
    CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_TINY], 5);
    for (struct cr_packet *told; (told = pair_pop(&pair, &pair.b)) != NULL;) /* of IPv6's: the next test */
        cr__packet_put(&pair.packets, told);
    piece(&pair, UDP4, 0, 401, true); /* no multiple of 8 */
    piece(&pair, UDP4, 65528, 65536, false);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_HEADER], 2);
    piece(&pair, UDP6, 0, 401, true); /* of IPv6 the sender is told */
    CHECK_EQ(pair.b.drops[CR__DROP_IP_HEADER], 3);
    struct cr_packet *told = pair_pop(&pair, &pair.b);
    CHECK(told && told->data[54] == CR__ICMP6_PROBLEM && told->data[55] == 0 && cr__wire_get32(told->data + 58) == 4);
    cr__packet_put(&pair.packets, told);
    piece(&pair, UDP6, 65528, 65536, false);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_HEADER], 4);
    told = cr__host_pop(&pair.b);
    CHECK(told && told->data[54] == CR__ICMP6_PROBLEM && told->data[55] == 0 && cr__wire_get32(told->data + 58) == 42);
    cr__packet_put(&pair.packets, told);
    CHECK_EQ(pair.b.ip->fragments_held, 0);
    pair_fini(&pair);
}

/* A first piece of IPv6's for b, with these bytes behind the fragment header. */
static void first_piece(struct pair *pair, uint8_t protocol, const uint8_t *bytes, size_t size_bytes)
{
    uint8_t piece[200] = {protocol, [3] = 1, [7] = 77};
    memcpy(piece + 8, bytes, size_bytes);
    cr__host_input(&pair->b, pair_frame(&pair->packets, 1, 2, false, CR__IP_FRAGMENT, piece, 8 + size_bytes, -1), pair->now_ns);
}

/* What b has said of it, as type << 16 | code << 8 | pointer; 0: nothing. */
static uint32_t said(struct pair *pair)
{
    struct cr_packet *told = pair_pop(pair, &pair->b);
    if (!told)
        return 0;
    uint32_t what = (uint32_t)told->data[54] << 16 | (uint32_t)told->data[55] << 8 | cr__wire_get32(told->data + 58);
    cr__packet_put(&pair->packets, told);
    return what;
}

TEST(rfc7112_5_whose_first_piece_has_not_all_headers_is_told_so)
{
    static struct pair pair;
    uint32_t incomplete = CR__ICMP6_PROBLEM << 16 | CR__ICMP6_INCOMPLETE << 8;
    start(&pair);
    first_piece(&pair, CR__IP_TCP, (const uint8_t[16]){0}, 16); /* a part of TCP's */
    CHECK_EQ(said(&pair), incomplete);
    first_piece(&pair, CR__IP_DESTINATION, (const uint8_t[8]){CR__IP_UDP, 0, 1, 4}, 8); /* nothing of UDP's */
    CHECK_EQ(said(&pair), incomplete);
    first_piece(&pair, CR__IP_DESTINATION, (const uint8_t[8]){CR__IP_UDP, 1, 1, 4}, 8); /* half of the options */
    CHECK_EQ(said(&pair), incomplete);
    CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_TINY], 3);
    first_piece(&pair, CR__IP_DESTINATION, (const uint8_t[16]){CR__IP_UDP, 0, 1, 9}, 16); /* malformed, not incomplete: as of what comes whole */
    CHECK_EQ(said(&pair), 0);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_HEADER], 1);
    first_piece(&pair, CR__IP_DESTINATION, (const uint8_t[16]){CR__IP_UDP, 0, 0x80, 4}, 16); /* an option that wants its sender told */
    CHECK_EQ(said(&pair), CR__ICMP6_PROBLEM << 16 | 2 << 8 | 50);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_OPTIONS], 1);
    first_piece(&pair, CR__IP_DESTINATION, (const uint8_t[16]){CR__IP_UDP, 0, 1, 4}, 16); /* all of them */
    CHECK_EQ(said(&pair), 0);
    CHECK_EQ(pair.b.ip->fragments_held, 1);
    pair_fini(&pair);
}

TEST(an_atomic_fragment_is_whole_whatever_else_has_its_identification)
{
    static struct pair pair;
    start(&pair);
    piece(&pair, UDP6, 0, 400, true);
    piece(&pair, UDP6, 0, 200, false);
    CHECK(seen.arrivals == 1 && is_pattern(200));
    piece(&pair, UDP6, 400, 600, false);
    CHECK(seen.arrivals == 2 && is_pattern(600));
    pair_fini(&pair);
}

TEST(fragment_headers_do_not_nest)
{
    static struct pair pair;
    start(&pair);
    uint8_t bytes[64] = {CR__IP_FRAGMENT, [8] = CR__IP_UDP};
    cr__host_input(&pair.b, pair_frame(&pair.packets, 1, 2, false, CR__IP_FRAGMENT, bytes, sizeof(bytes), -1), pair.now_ns);
    CHECK_EQ(seen.arrivals, 0);
    CHECK_EQ(pair.b.drops[CR__DROP_IP_HEADER], 1);
    pair_fini(&pair);
}

TEST(congestion_that_one_piece_has_met_the_datagram_has)
{
    static struct pair pair;
    start(&pair);
    piece(&pair, &(struct piece){true, CR__IP_UDP, 1, 0, 0x2a}, 0, 400, true);
    piece(&pair, &(struct piece){true, CR__IP_UDP, 1, 0, 0x2b}, 400, 500, false);
    CHECK_EQ(seen.tos, 0x2b);
    piece(&pair, &(struct piece){true, CR__IP_UDP, 2, 0, 0x2a}, 0, 400, true);
    piece(&pair, &(struct piece){true, CR__IP_UDP, 2, 0, 0x2a}, 400, 500, false);
    CHECK_EQ(seen.tos, 0x2a);
    pair_fini(&pair);
}

TEST(an_error_about_a_datagram_of_pieces_quotes_it_as_if_it_had_come_whole)
{
    static struct pair pair;
    for (int v4 = 0; v4 < 2; v4++) {
        start(&pair);
        seen.unreachable = true;
        piece(&pair, v4 ? UDP4 : UDP6, 400, 500, false);
        piece(&pair, v4 ? UDP4 : UDP6, 0, 400, true);
        struct cr_packet *told = pair_pop(&pair, &pair.b);
        CHECK(told != NULL);
        const uint8_t *quoted = told->data + (v4 ? 34 : 54) + 8;
        if (v4) {
            CHECK_EQ(cr__wire_get16(quoted + 2), 520);
            CHECK_EQ(cr__wire_get16(quoted + 6), 0);
            CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, quoted, 20)), 0);
        } else {
            CHECK_EQ(cr__wire_get16(quoted + 4), 500);
            CHECK_EQ(quoted[6], CR__IP_UDP);
        }
        CHECK(memcmp(quoted + (v4 ? 20 : 40), pattern, 500) == 0);
        cr__packet_put(&pair.packets, told);
        pair_fini(&pair);
    }
}

TEST(nobody_is_told_of_a_later_piece)
{
    static struct pair pair;
    start(&pair);
    piece(&pair, &(struct piece){true, 99, 1, 0, 0}, 400, 800, false); /* a protocol that is not known: told when it is whole */
    piece(&pair, &(struct piece){false, 99, 1, 0, 0}, 400, 800, false);
    CHECK_EQ(pair.b.out.count, 0);
    pair_run(&pair, 61 * PAIR_SECOND);
    CHECK_EQ(pair.b.sent, 0);
    piece(&pair, &(struct piece){true, 99, 2, 0, 0}, 400, 800, false);
    piece(&pair, &(struct piece){true, 99, 2, 0, 0}, 0, 400, true);
    CHECK_EQ(pair.b.out.count, 1);
    pair_fini(&pair);
}

TEST(one_source_holds_so_many_packets_and_hurts_nobody_else)
{
    static struct pair pair;
    start(&pair);
    for (uint32_t id = 10; id < 40; id++)
        for (size_t at = 0; at < 30; at++)
            piece(&pair, &(struct piece){true, CR__IP_UDP, id, 66, 0}, at * 8, at * 8 + 8, true);
    CHECK_EQ(pair.b.ip->fragments_held, CR__REASSEMBLY_PACKETS_SOURCE);
    CHECK_EQ(pair.b.drops[CR__DROP_FRAGMENT_LIMIT], 30 * 30 - CR__REASSEMBLY_PACKETS_SOURCE);
    piece(&pair, UDP4, 0, 400, true);
    piece(&pair, UDP4, 400, 500, false);
    CHECK(seen.arrivals == 1 && is_pattern(500));
    pair_fini(&pair);
}

TEST(a_flood_from_many_sources_is_bounded_and_the_oldest_goes_first)
{
    static struct pair pair;
    start(&pair);
    for (unsigned source = 3; source < 253; source++) {
        pair.now_ns += PAIR_MS;
        for (size_t at = 0; at < 40; at++)
            piece(&pair, &(struct piece){true, CR__IP_UDP, 9, (uint8_t)source, 0}, at * 8, at * 8 + 8, true);
        CHECK(pair.b.ip->fragments_held <= CR__REASSEMBLY_PACKETS_HOST);
    }
    piece(&pair, &(struct piece){true, CR__IP_UDP, 9, 252, 0}, 320, 328, false); /* the newest is still there */
    CHECK(seen.arrivals == 1 && is_pattern(328));
    piece(&pair, &(struct piece){true, CR__IP_UDP, 9, 3, 0}, 320, 328, false); /* the oldest is not */
    CHECK_EQ(seen.arrivals, 1);
    uint64_t in_use = pair.b.ip->fragments_held;
    pair_run(&pair, 31 * PAIR_SECOND);
    CHECK(in_use > 0 && pair.b.ip->fragments_held == 0);
    pair_fini(&pair);
}

TEST(pieces_made_at_random_never_make_anything_but_what_they_were_cut_from)
{
    static struct pair pair;
    uint64_t random = 12345;
    start(&pair);
    for (uint32_t id = 0; id < 3000; id++) {
        struct piece p = {id % 2, CR__IP_UDP, id, 0, 0};
        for (int i = 0; i < 8; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            size_t from = (random >> 33) % 40 * 8, size = ((random >> 50) % 30 + 1) * 8;
            piece(&pair, &p, from, from + size, (random >> 60) > 3);
            CHECK(seen.size_bytes == 0 || is_pattern(seen.size_bytes));
        }
        pair.now_ns += 100 * PAIR_MS;
        cr__host_tick(&pair.b, pair.now_ns);
        while (pair.b.out.count)
            cr__packet_put(&pair.packets, pair_pop(&pair, &pair.b));
    }
    CHECK(seen.arrivals > 50);
    pair_fini(&pair);
}
