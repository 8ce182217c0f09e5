/* ARP and NDP: who is asked, who is answered, and what becomes of who does not answer. */
#include "net/ip/ip.h"
#include "pair.h"

static struct pair pair;
static struct {
    unsigned arrivals, errors;
    enum cr__ip_trouble trouble;
} seen;

static void on_arrival(struct cr__host *host, const struct cr__arrival *in)
{
    seen.arrivals++;
    cr__host_put(host, in->packet);
}

static void on_error(struct cr__host *host, const struct cr__ip_error *error)
{
    (void)host;
    seen.errors++;
    seen.trouble = error->trouble;
}

static void start(void)
{
    pair_init(&pair, 11);
    memset(&seen, 0, sizeof(seen));
    pair.a.above = pair.b.above = (struct cr__host_above){.tcp = on_arrival, .tcp_error = on_error};
}

/* With 16 million addresses on the link. */
static void start_wide(void)
{
    struct cr__host_config a = pair_config(1, 1), b = pair_config(2, 1);
    a.addresses[0].prefix_bits = 96 + 8;
    pair_init_with(&pair, &a, &b, PAIR_SECOND);
}

static int send(bool v4, uint8_t to)
{
    struct cr_packet *packet = pair_hex(&pair.packets, "3031323334353637");
    struct cr__ip from = v4 ? pair_ip4(1) : pair_ip6(1), target = v4 ? pair_ip4(to) : pair_ip6(to);
    return cr__ip_send(&pair.a, packet, &from, &target, CR__IP_TCP, 0, false);
}

/* Comes to a. */
static void input(const char *hex)
{
    cr__host_input(&pair.a, pair_hex(&pair.packets, hex), pair.now_ns);
}

static struct cr__neighbour *b_of(bool v4)
{
    struct cr__ip ip = v4 ? pair_ip4(2) : pair_ip6(2);
    return cr__neighbour_find(&pair.a, &ip);
}

/* How many frames a had to send. */
static unsigned drain(void)
{
    unsigned count = 0;
    for (struct cr_packet *frame; (frame = cr__host_pop(&pair.a)) != NULL; count++)
        cr__packet_put(&pair.packets, frame);
    return count;
}

/* a has sent to b, and knows it from then on. */
static void start_known(bool v4)
{
    start();
    CHECK_EQ(send(v4, 2), 0);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
}

/* What a sends next. */
static void goes_to(const char *ethernet)
{
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    CHECK(frame && memcmp(frame->data, ethernet, 6) == 0);
    cr__packet_put(&pair.packets, frame);
}

#define LEAVES(is) CHECK(pair_is(&pair.packets, pair_pop(&pair, &pair.a), is))

/* What b says, by hand. */
#define ARP_REPLY_B "020000000001 020000000002 0806  0001 0800 06 04 0002 020000000002 0a000002 020000000001 0a000001"
#define ARP_REQUEST_B "ffffffffffff 020000000002 0806  0001 0800 06 04 0001 020000000002 0a000002 000000000000 0a000001"

TEST(who_is_not_known_is_asked_for_by_arp_and_what_waits_follows_the_answer)
{
    start();
    CHECK_EQ(send(true, 2), 0);
    LEAVES("ffffffffffff 020000000001 0806  0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002");
    CHECK(pair_pop(&pair, &pair.a) == NULL);
    input(ARP_REPLY_B);
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    CHECK(frame && memcmp(frame->data, "\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0", 14) == 0 && frame->size_bytes == 14 + 20 + 8);
    cr__packet_put(&pair.packets, frame);
    CHECK_EQ(b_of(true)->state, CR__NEIGHBOUR_REACHABLE);
    pair_fini(&pair);
}

TEST(a_request_for_our_address_is_answered_and_teaches_us_who_asks)
{
    start();
    input(ARP_REQUEST_B);
    LEAVES("020000000002 020000000001 0806  0001 0800 06 04 0002 020000000001 0a000001 020000000002 0a000002");
    CHECK_EQ(b_of(true)->state, CR__NEIGHBOUR_STALE);
    CHECK_EQ(send(true, 2), 0); /* no question first */
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    CHECK(frame && frame->data[12] == 8 && frame->data[13] == 0);
    cr__packet_put(&pair.packets, frame);
    CHECK_EQ(b_of(true)->state, CR__NEIGHBOUR_DELAY);
    pair_fini(&pair);
}

TEST(a_probe_for_our_address_is_answered_and_teaches_nothing)
{
    start();
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0001 020000000002 00000000 000000000000 0a000001");
    LEAVES("020000000002 020000000001 0806  0001 0800 06 04 0002 020000000001 0a000001 020000000002 00000000");
    CHECK_EQ(pair.a.ip->neighbours_used, 0);
    pair_fini(&pair);
}

TEST(who_says_that_our_address_is_its_own_is_counted_and_not_believed)
{
    start();
    input("ffffffffffff 020000000009 0806  0001 0800 06 04 0001 020000000009 0a000001 000000000000 0a000001");
    CHECK_EQ(pair.a.drops[CR__DROP_ARP_CONFLICT], 1);
    CHECK_EQ(pair.a.out.count, 0);
    CHECK_EQ(pair.a.ip->neighbours_used, 0);
    pair_fini(&pair);
}

TEST(requests_for_others_and_answers_that_nobody_wants_leave_no_trace)
{
    start();
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0001 020000000002 0a000002 000000000000 0a000003");
    input(ARP_REPLY_B);
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0001 020000000002 0b000002 000000000000 0a000001"); /* from another net */
    CHECK_EQ(pair.a.ip->neighbours_used, 0);
    CHECK_EQ(pair.a.out.count, 0);
    pair_fini(&pair);
}

TEST(who_is_sent_to_all_the_time_stays_when_all_others_are_sent_to_once)
{
    struct cr__ip from = pair_ip4(1);
    start_wide();
    CHECK_EQ(send(true, 2), 0);
    pair_run(&pair, PAIR_MS);
    for (uint32_t i = 0; i < 3 * CR__NEIGHBOURS; i++) {
        struct cr__ip to = cr__ip_v4(__builtin_bswap32(0x0a010000 + i));
        CHECK_EQ(cr__ip_send(&pair.a, pair_hex(&pair.packets, "3031323334353637"), &from, &to, CR__IP_TCP, 0, false), 0);
        CHECK_EQ(send(true, 2), 0);
        CHECK(b_of(true) && b_of(true)->state == CR__NEIGHBOUR_REACHABLE);
        drain();
    }
    pair_fini(&pair);
}

TEST(malformed_arp_is_counted)
{
    start();
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0001 020000000002 0a000002 000000000000 0a0000");
    input("ffffffffffff 020000000002 0806  0006 0800 06 04 0001 020000000002 0a000002 000000000000 0a000001");
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0003 020000000002 0a000002 000000000000 0a000001");
    input("ffffffffffff 020000000002 0806  0001 0800 06 04 0001 010000000002 0a000002 000000000000 0a000001");
    CHECK_EQ(pair.a.drops[CR__DROP_ARP_MALFORMED], 4);
    pair_fini(&pair);
}

TEST(some_packets_wait_for_an_answer_and_the_oldest_makes_room)
{
    start();
    for (int i = 0; i < CR__NEIGHBOUR_WAITING + 2; i++)
        CHECK_EQ(send(true, 2), 0);
    CHECK_EQ(pair.a.drops[CR__DROP_NEIGHBOUR_FULL], 2);
    CHECK_EQ(drain(), 1); /* asked once */
    input(ARP_REPLY_B);
    CHECK_EQ(drain(), CR__NEIGHBOUR_WAITING);
    pair_fini(&pair);
}

TEST(so_many_packets_wait_in_all)
{
    struct cr__ip from = pair_ip4(1);
    start_wide();
    for (uint32_t i = 0; i < 1000; i++) {
        struct cr__ip to = cr__ip_v4(__builtin_bswap32(0x0a010000 + i));
        for (int j = 0; j < 3; j++)
            CHECK_EQ(cr__ip_send(&pair.a, pair_hex(&pair.packets, "3031323334353637"), &from, &to, CR__IP_TCP, 0, false), 0);
        drain();
        CHECK(pair.a.ip->packets_waiting <= CR__NEIGHBOURS_WAITING);
    }
    CHECK_EQ(pair.a.drops[CR__DROP_NEIGHBOUR_FULL], 3000 - CR__NEIGHBOURS_WAITING);
    pair_run(&pair, 10 * PAIR_SECOND);
    CHECK_EQ(pair.a.ip->packets_waiting, 0);
    pair_fini(&pair);
}

TEST(who_does_not_answer_is_asked_three_times_a_second_apart_then_those_above_are_told_and_he_is_left_alone)
{
    for (int v4 = 0; v4 < 2; v4++) {
        start();
        CHECK_EQ(send(v4, 99), 0);
        CHECK_EQ(send(v4, 99), 0);
        pair_run(&pair, 500 * PAIR_MS);
        CHECK_EQ(pair.frames, 1);
        pair_run(&pair, PAIR_SECOND);
        CHECK_EQ(pair.frames, 2);
        pair_run(&pair, PAIR_SECOND);
        CHECK_EQ(pair.frames, 3);
        CHECK_EQ(seen.errors, 0);
        pair_run(&pair, PAIR_SECOND);
        CHECK_EQ(pair.frames, 3);
        CHECK_EQ(seen.errors, 2); /* one for each packet */
        CHECK_EQ(seen.trouble, CR__HOST_UNREACHABLE);
        CHECK_EQ(send(v4, 99), -EHOSTUNREACH);
        CHECK_EQ(pair.a.drops[CR__DROP_NEIGHBOUR_FAILED], 3);
        pair_run(&pair, 3 * PAIR_SECOND);
        CHECK_EQ(pair.a.ip->neighbours_used, 0);
        CHECK_EQ(send(v4, 99), 0); /* asked again */
        CHECK_EQ(pair.a.out.count, 1);
        pair_fini(&pair);
    }
}

TEST(who_is_not_heard_of_becomes_stale_is_used_then_probed_directly_and_confirmed)
{
    for (int v4 = 0; v4 < 2; v4++) {
        start_known(v4);
        CHECK_EQ(seen.arrivals, 1);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
        pair_run(&pair, 46 * PAIR_SECOND);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_STALE);
        uint64_t before = pair.frames;
        CHECK_EQ(send(v4, 2), 0);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_DELAY);
        pair_run(&pair, 4900 * PAIR_MS);
        CHECK_EQ(pair.frames, before + 1);
        pair_run(&pair, 200 * PAIR_MS);
        CHECK_EQ(pair.frames, before + 3); /* question and answer */
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
        pair_fini(&pair);
    }
}

TEST(who_is_doubted_from_above_is_asked_at_once)
{
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
        start_known(v4);
        uint64_t before = pair.frames;
        cr__ip_doubt(&pair.a, &to);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_PROBE);
        cr__ip_doubt(&pair.a, &to); /* as soon as he is asked that is all */
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(pair.frames, before + 2); /* and he has answered */
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
        pair.b.config.ethernet[5] = 9; /* he has moved */
        cr__ip_doubt(&pair.a, &to);
        pair_run(&pair, 4 * PAIR_SECOND);
        CHECK(b_of(v4) == NULL);
        CHECK_EQ(send(v4, 2), 0);
        pair_run(&pair, PAIR_MS);
        CHECK_EQ(b_of(v4)->ethernet[5], 9);
        pair_fini(&pair);
    }
    struct cr__ip nobody = pair_ip4(77);
    start();
    cr__ip_doubt(&pair.a, &nobody);
    pair_fini(&pair);
}

TEST(who_is_heard_of_from_above_is_not_probed)
{
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
        start_known(v4);
        uint64_t before = pair.frames;
        for (int i = 0; i < 200; i++) {
            CHECK_EQ(send(v4, 2), 0);
            pair_run(&pair, PAIR_SECOND);
            cr__ip_reachable(&pair.a, &to);
        }
        CHECK_EQ(pair.frames, before + 200);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
        pair_run(&pair, 100 * PAIR_SECOND);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_STALE);
        CHECK_EQ(send(v4, 2), 0);
        pair_run(&pair, PAIR_SECOND);
        cr__ip_reachable(&pair.a, &to);
        CHECK_EQ(b_of(v4)->state, CR__NEIGHBOUR_REACHABLE);
        pair_fini(&pair);
    }
}

static bool lost(struct pair *pair, struct cr__host *from, struct cr_packet *frame)
{
    (void)pair, (void)from, (void)frame;
    return false;
}

TEST(who_answers_no_probe_is_forgotten_and_asked_for_anew)
{
    start();
    CHECK_EQ(send(true, 2), 0);
    pair_run(&pair, 46 * PAIR_SECOND);
    pair.passes = lost;
    CHECK_EQ(send(true, 2), 0);
    pair_run(&pair, 9 * PAIR_SECOND);
    CHECK_EQ(pair.lost, 1 + 3);
    CHECK(b_of(true) == NULL);
    CHECK_EQ(send(true, 2), 0);
    struct cr_packet *frame = pair_pop(&pair, &pair.a);
    CHECK(frame && frame->data[0] == 0xff && frame->data[13] == 6);
    cr__packet_put(&pair.packets, frame);
    pair_fini(&pair);
}

TEST(a_new_ethernet_address_is_used_by_the_next_packet)
{
    start_known(true);
    input("ffffffffffff 020000000022 0806  0001 0800 06 04 0001 020000000022 0a000002 000000000000 0a000002"); /* gratuitous */
    CHECK_EQ(send(true, 2), 0);
    goes_to("\x02\0\0\0\0\x22");
    input(ARP_REPLY_B);
    CHECK_EQ(send(true, 2), 0);
    drain();
    input("020000000001 020000000033 0806  0001 0800 06 04 0002 020000000033 0a000002 020000000001 0a000001"); /* an answer: he stays reachable */
    CHECK_EQ(b_of(true)->state, CR__NEIGHBOUR_REACHABLE);
    CHECK_EQ(send(true, 2), 0);
    goes_to("\x02\0\0\0\0\x33");
    pair_fini(&pair);
}

TEST(a_permanent_neighbour_is_overwritten_by_nobody_and_never_grows_old)
{
    struct cr__ip b = pair_ip4(2);
    start();
    CHECK_EQ(cr__neighbour_add(&pair.a, &b, (const uint8_t[]){2, 0, 0, 0, 0, 2}), 0);
    input("ffffffffffff 020000000022 0806  0001 0800 06 04 0001 020000000022 0a000002 000000000000 0a000001");
    drain();
    pair_run(&pair, 5000 * PAIR_SECOND);
    CHECK_EQ(send(true, 2), 0);
    goes_to("\x02\0\0\0\0\x02");
    for (uint32_t i = 0; i < 2 * CR__NEIGHBOURS; i++) {
        struct cr__ip other = cr__ip_v4(__builtin_bswap32(0x0a000100 + i));
        CHECK_EQ(cr__neighbour_add(&pair.a, &other, (const uint8_t[]){2, 0, 0, 0, 0, 3}), i < CR__NEIGHBOURS / 2 - 1 ? 0 : -ENOSPC);
    }
    pair_fini(&pair);
}

TEST(a_flood_of_strangers_fills_the_table_no_further_and_leaves_those_in_use)
{
    start_wide();
    CHECK_EQ(send(true, 2), 0);
    pair_run(&pair, PAIR_MS);
    for (uint32_t i = 0; i < 5000; i++) {
        struct cr_packet *frame = pair_hex(&pair.packets, ARP_REQUEST_B);
        cr__wire_put32(frame->data + 28, 0x0a010000 + i);
        cr__host_input(&pair.a, frame, pair.now_ns);
        drain();
        if (i % 100 == 0) {
            CHECK_EQ(send(true, 2), 0);
            struct cr_packet *sent = pair_pop(&pair, &pair.a);
            CHECK(sent && sent->data[13] == 0); /* not asked for again */
            cr__packet_put(&pair.packets, sent);
        }
    }
    CHECK_EQ(pair.a.ip->neighbours_used, CR__NEIGHBOURS);
    CHECK_EQ(b_of(true)->state, CR__NEIGHBOUR_REACHABLE);
    pair_fini(&pair);
}

/* ---- NDP ----------------------------------------------------------------------------------------------------- */

TEST(who_is_not_known_is_asked_for_by_a_solicitation_to_his_group)
{
    start();
    CHECK_EQ(send(false, 2), 0);
    LEAVES("3333ff000002 020000000001 86dd  60000000 0020 3a ff 20010db8000000000000000000000001 ff0200000000000000000001ff000002"
           "8700 1c27 00000000 20010db8000000000000000000000002 0101 020000000001");
    pair_fini(&pair);
}

/* A neighbour message to a, from b or from no address, its checksum right. */
static void ndp(uint8_t type, uint32_t flags, const struct cr__ip *from, const struct cr__ip *to, const struct cr__ip *target, const uint8_t *option, uint8_t hops)
{
    struct cr_packet *frame = pair_hex(&pair.packets, "");
    frame->size_bytes = option ? 32 : 24;
    memset(frame->data, 0, 32);
    frame->data[0] = type;
    cr__wire_put32(frame->data + 4, flags);
    memcpy(frame->data + 8, target->bytes, 16);
    if (option)
        memcpy(frame->data + 24, option, 8);
    cr__wire_put16(frame->data + 2, cr__wire_checksum(cr__wire_sum(cr__ip_pseudo_sum(from, to, CR__IP_ICMP6, frame->size_bytes), frame->data, frame->size_bytes)));
    cr__ip6_push(frame, &(struct cr__sending){.from = *from, .to = *to, .protocol = CR__IP_ICMP6, .hops = hops});
    memcpy(cr_packet_push(frame, 14), to->bytes[0] == 0xff ? "\x33\x33\0\0\0\x01\x02\0\0\0\0\x02\x86\xdd" : "\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x86\xdd", 14);
    cr__host_input(&pair.a, frame, pair.now_ns);
}

static const struct cr__ip nobody;

TEST(a_solicitation_for_our_address_is_answered_and_teaches_us_who_asks)
{
    struct cr__ip a = pair_ip6(1), b = pair_ip6(2), group = cr__ip_solicited_node(&a);
    start();
    ndp(CR__NDP_SOLICITATION, 0, &b, &group, &a, (const uint8_t *)"\x01\x01\x02\0\0\0\0\x02", 255);
    LEAVES("020000000002 020000000001 86dd  60000000 0020 3a ff 20010db8000000000000000000000001 20010db8000000000000000000000002"
           "8800 8a73 60000000 20010db8000000000000000000000001 0201 020000000001");
    CHECK_EQ(b_of(false)->state, CR__NEIGHBOUR_STALE);
    pair_fini(&pair);
}

TEST(who_asks_without_saying_where_he_is_is_asked_first_then_answered)
{
    struct cr__ip a = pair_ip6(1), b = pair_ip6(2);
    start();
    ndp(CR__NDP_SOLICITATION, 0, &b, &a, &a, NULL, 255);
    struct cr_packet *question = pair_pop(&pair, &pair.a);
    CHECK(question && question->data[54] == CR__NDP_SOLICITATION && pair_pop(&pair, &pair.a) == NULL);
    cr__packet_put(&pair.packets, question);
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED | CR__NDP_OVERRIDE, &b, &a, &b, (const uint8_t *)"\x02\x01\x02\0\0\0\0\x02", 255);
    struct cr_packet *answer = pair_pop(&pair, &pair.a);
    CHECK(answer && answer->data[54] == CR__NDP_ADVERTISEMENT && answer->data[21] == 255 && answer->data[5] == 2);
    cr__packet_put(&pair.packets, answer);
    pair_fini(&pair);
}

TEST(a_probe_for_our_address_is_answered_to_all_nodes)
{
    struct cr__ip a = pair_ip6(1), group = cr__ip_solicited_node(&a);
    start();
    ndp(CR__NDP_SOLICITATION, 0, &nobody, &group, &a, NULL, 255);
    struct cr_packet *answer = pair_pop(&pair, &pair.a);
    CHECK(answer && memcmp(answer->data, "\x33\x33\0\0\0\x01", 6) == 0 && answer->data[54] == CR__NDP_ADVERTISEMENT);
    CHECK_EQ(cr__wire_get32(answer->data + 58), CR__NDP_OVERRIDE);
    cr__packet_put(&pair.packets, answer);
    CHECK_EQ(pair.a.ip->neighbours_used, 0);
    pair_fini(&pair);
}

TEST(messages_from_beyond_the_link_or_malformed_are_counted_not_believed)
{
    struct cr__ip a = pair_ip6(1), b = pair_ip6(2), group = cr__ip_solicited_node(&a), all = {.bytes = {0xff, 2, [15] = 1}};
    const uint8_t *option = (const uint8_t *)"\x01\x01\x02\0\0\0\0\x02", *empty = (const uint8_t *)"\x01\x00\x02\0\0\0\0\x02";
    start();
    ndp(CR__NDP_SOLICITATION, 0, &b, &group, &a, option, 254);
    ndp(CR__NDP_SOLICITATION, 0, &b, &group, &a, empty, 255);
    ndp(CR__NDP_SOLICITATION, 0, &nobody, &group, &a, option, 255); /* who has no address names no other */
    ndp(CR__NDP_SOLICITATION, 0, &nobody, &all, &a, NULL, 255);
    ndp(CR__NDP_SOLICITATION, 0, &b, &group, &group, option, 255);
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED, &b, &all, &b, option, 255);
    CHECK_EQ(pair.a.drops[CR__DROP_NDP_MALFORMED], 6);
    CHECK_EQ(pair.a.out.count, 0);
    CHECK_EQ(pair.a.ip->neighbours_used, 0);
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_OVERRIDE, &b, &all, &a, NULL, 255); /* says that it has our address */
    CHECK_EQ(pair.a.drops[CR__DROP_ARP_CONFLICT], 1);
    pair_fini(&pair);
}

TEST(advertisements_change_what_is_known_as_rfc_4861_7_2_5_says)
{
    struct cr__ip a = pair_ip6(1), b = pair_ip6(2), all = {.bytes = {0xff, 2, [15] = 1}};
    const uint8_t *own = (const uint8_t *)"\x02\x01\x02\0\0\0\0\x02", *other = (const uint8_t *)"\x02\x01\x02\0\0\0\0\x22";
    start();
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED, &b, &a, &b, own, 255);
    CHECK(b_of(false) == NULL); /* nobody has asked */
    CHECK_EQ(send(false, 2), 0);
    drain();
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED, &b, &a, &b, NULL, 255);
    CHECK_EQ(b_of(false)->state, CR__NEIGHBOUR_INCOMPLETE); /* without an address it is no answer */
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED | CR__NDP_OVERRIDE, &b, &a, &b, own, 255);
    CHECK_EQ(b_of(false)->state, CR__NEIGHBOUR_REACHABLE);
    CHECK_EQ(drain(), 1);
    ndp(CR__NDP_ADVERTISEMENT, 0, &b, &all, &b, other, 255); /* no override: doubt only */
    CHECK(b_of(false)->state == CR__NEIGHBOUR_STALE && b_of(false)->ethernet[5] == 2);
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED, &b, &a, &b, NULL, 255);
    CHECK_EQ(b_of(false)->state, CR__NEIGHBOUR_REACHABLE);
    ndp(CR__NDP_ADVERTISEMENT, CR__NDP_OVERRIDE, &b, &all, &b, other, 255);
    CHECK(b_of(false)->state == CR__NEIGHBOUR_STALE && b_of(false)->ethernet[5] == 0x22);
    pair_fini(&pair);
}
