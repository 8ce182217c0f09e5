/* What somebody who means harm can do: floods, segments in another's name, packets that are no packets, peers that stall, lie, or ask for more than they are due. Each is answered as the RFCs say, costs a bounded amount of work and
 * memory, is counted by its cause, and leaves alone whoever else is connected. */
#include "field.h"
#include "instructions.h"

#define SEGMENT_BYTES 1448
#define RATE_BYTES (20 * SEGMENT_BYTES) /* of the connection that goes on, in a millisecond */
#define FLOOD 100                       /* frames of the attacker's in a millisecond: as many as the link carries */
#define ESTABLISHED_IN 500

static const struct cr__tcp_config none;

static void start_talking(bool v4)
{
    field_start(&none);
    field.rate_bytes = RATE_BYTES;
    field_connect(v4, NULL);
    CHECK(field_rate(ESTABLISHED_IN) > 0.9 * RATE_BYTES);
}

/* Whether there is time for as many as it takes to be sure. */
static bool runs_natively(void)
{
#ifdef TEST_SANITIZED
    return false;
#else
    return !RUNNING_ON_VALGRIND;
#endif
}

/* What the flood leaves of the throughput. */
static double share_under(void (*flood)(struct field *field), unsigned ms)
{
    field.flood = NULL;
    double before = field_rate(ESTABLISHED_IN);
    field.flood = flood;
    double during = field_rate(ms);
    cr__tcp_check(field.a);
    cr__tcp_check(field.b);
    return during / before;
}

static uint32_t number(void)
{
    return (uint32_t)(++field.numbers * 2654435761u);
}

/* Somebody who is not on the link. */
static struct cr__ip anybody4(void)
{
    return cr__ip_v4(htobe32(0x40000000u | (number() >> 3)));
}

static struct cr__ip anybody6(void)
{
    struct cr__ip ip = pair_ip6(0);
    uint32_t high = number(), low = number();
    memcpy(ip.bytes + 8, &high, 4);
    memcpy(ip.bytes + 12, &low, 4);
    return ip;
}

/* ---- SYN floods -------------------------------------------------------------------------------------------------------- */

static void flood_of_syns(struct field *unused)
{
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++) {
        struct cr__ip from = anybody4();
        uint32_t seq = number();
        field_queue(field_forge(&from, (struct cr__segment){.from_port = (uint16_t)(seq | 1), .flags = CR__SYN, .seq = seq, .window = 1000, .mss_bytes = 1460}, NULL, 0));
    }
}

static void flood_of_syns_from_the_link(struct field *unused)
{
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++) {
        struct cr__ip from = anybody6();
        uint32_t seq = number();
        field_queue(field_forge(&from, (struct cr__segment){.from_port = (uint16_t)(seq | 1), .flags = CR__SYN, .seq = seq, .window = 1000, .mss_bytes = 1440}, NULL, 0));
    }
}

/* A new one gets in, and what it says arrives. */
static void new_one_gets_in(bool v4)
{
    struct cr__tcp *dialled, *accepted = NULL;
    struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
    uint64_t good = field.pair.b.tcp->cookies_good;
    CHECK_EQ(cr__tcp_dial(&field.pair.a, &dialled, NULL, 0, &to, FIELD_PORT, NULL), 0);
    field_run(100);
    CHECK_EQ(dialled->state, CR__TCP_ESTABLISHED);
    CHECK(field.pair.b.tcp->cookies_good > good);
    CHECK_EQ(cr__tcp_send(dialled, &(struct iovec){(void *)(uintptr_t)"hello", 5}, 1, false), 5);
    field_run(100);
    accepted = cr__tcp_accept(field.listener);
    char text[8];
    CHECK(accepted && cr__tcp_recv(accepted, &(struct iovec){text, sizeof(text)}, 1) == 5 && memcmp(text, "hello", 5) == 0);
    cr__tcp_close(accepted);
    cr__tcp_close(dialled);
    field_run(100);
}

static void syn_flood(bool v4)
{
    start_talking(v4);
    uint64_t packets = field_packets(), conns;
    struct cr_mem_stats mem;
    double share = share_under(v4 ? flood_of_syns : flood_of_syns_from_the_link, 200);
    CHECK_EQ(field.pair.b.tcp->half_open, 4096);
    CHECK(field.pair.b.tcp->cookies_sent > 10000);
    cr_mem_stats_get(&mem);
    conns = mem.conns_bytes;
    for (int i = 0; i < (runs_natively() ? 5 : 1); i++) {
        new_one_gets_in(v4);
        share = share_under(v4 ? flood_of_syns : flood_of_syns_from_the_link, runs_natively() ? 1000 : 200);
        printf("# %.1f %% of the throughput, %llu cookies\n", 100 * share, (unsigned long long)field.pair.b.tcp->cookies_sent);
        CHECK(share >= 0.8);
    }
    cr_mem_stats_get(&mem);
    CHECK(mem.conns_bytes <= conns + (1 << 20)); /* a chunk for each kind that has come since */ /* nothing is kept of half a million SYNs */
    CHECK_EQ(field.pair.b.tcp->half_open <= 4096, true);
    CHECK(field_packets() < packets + 2048); /* what waits for addresses of neighbours that there are not has a bound */
    field_settle();
    field.rate_bytes = 0;
    field_run(70000); /* what is half open goes away by itself */
    CHECK(field.pair.b.tcp->half_open == 0);
    field_finish();
}

TEST(under_a_flood_of_syns_who_is_connected_keeps_the_throughput_and_new_ones_get_in)
{
    syn_flood(true);
}

TEST(a_flood_of_syns_from_neighbours_that_there_are_not_does_no_more)
{
    syn_flood(false);
}

/* ---- In another's name ------------------------------------------------------------------------------------------------ */

/* Everything but the sequence numbers is known of the connection. */
static struct cr__segment as_a(uint8_t flags, uint32_t seq, uint32_t ack)
{
    return (struct cr__segment){.from_port = field.a->local_port, .flags = flags, .seq = seq, .ack = ack, .window = 1000, .has_timestamp = true, .ts_value = cr__tcp_ms(&field.pair.a) + field.a->ts_offset, .ts_echo = 0};
}

static void flood_of_blind_resets(struct field *unused)
{
    struct cr__ip from = pair_ip4(1);
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++)
        field_queue(field_forge(&from, as_a(i & 1 ? CR__RST : CR__SYN, field.b->rcv_nxt + 1 + number() % (1u << 20), 0), NULL, 0));
}

TEST(blind_resets_and_syns_within_the_window_are_challenged_at_a_bounded_rate_and_reset_nobody)
{
    start_talking(true);
    uint64_t challenges = field.pair.b.tcp->challenges;
    double share = share_under(flood_of_blind_resets, 3000);
    printf("# %.1f %% of the throughput\n", 100 * share);
    CHECK(share >= 0.8);
    CHECK_EQ(field.b->state, CR__TCP_ESTABLISHED);
    CHECK(field.pair.b.tcp->challenges > challenges);
    CHECK(field.pair.b.tcp->challenges - challenges <= 5 * CR__TCP_ANSWERS_A_SECOND * 3 / 2);
    CHECK(field.pair.b.drops[CR__DROP_TCP_LIMIT] > 1000);
    field_settle();
    field_finish();
}

static void flood_of_blind_data(struct field *unused)
{
    struct cr__ip from = pair_ip4(1);
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++) {
        uint32_t ack = field.b->snd_nxt + (i & 1 ? 1 + number() % (1u << 30) : 0x80000000u + number() % (1u << 30));
        field_queue(field_forge(&from, as_a(CR__ACK | CR__PSH, field.b->rcv_nxt + number() % (1u << 16), ack), "injected", 8));
    }
}

TEST(blind_data_whose_ack_is_not_of_what_was_sent_lately_is_not_taken)
{
    start_talking(true);
    double share = share_under(flood_of_blind_data, 2000); /* each byte that is read is looked at */
    printf("# %.1f %% of the throughput\n", 100 * share);
    CHECK(share >= 0.8);
    CHECK(field.pair.b.drops[CR__DROP_TCP_ACK] > 100000);
    field_settle();
    field_finish();
}

TEST(a_segment_from_ourselves_to_ourselves_is_dropped_without_an_answer)
{
    start_talking(true);
    struct cr__ip self4 = pair_ip4(2), self6 = pair_ip6(2);
    uint64_t dropped = field.pair.b.drops[CR__DROP_IP_SOURCE], sent = field.pair.b.sent;
    for (unsigned i = 0; i < 1000; i++)
        field_inject(field_forge(i & 1 ? &self4 : &self6, (struct cr__segment){.from_port = FIELD_PORT, .flags = i & 2 ? CR__SYN : CR__SYN | CR__ACK, .seq = i}, NULL, 0));
    CHECK_EQ(field.pair.b.drops[CR__DROP_IP_SOURCE], dropped + 1000);
    CHECK_EQ(field.pair.b.sent, sent);
    CHECK_EQ(field.pair.b.tcp->half_open, 0);
    CHECK(field_rate(100) > 0.9 * RATE_BYTES);
    field_settle();
    field_finish();
}

/* ---- ACKs -------------------------------------------------------------------------------------------------------------- */

/* Somebody has put text into the connection whose numbers he knows: b acknowledges what a has never sent. */
TEST(two_ends_that_are_out_of_step_do_not_answer_each_other_without_end)
{
    field_start(&none);
    field_connect(true, NULL);
    struct cr__ip from = pair_ip4(1);
    field.stall = true;
    field_inject(field_forge(&from, as_a(CR__ACK | CR__PSH, field.b->rcv_nxt, field.b->snd_nxt), "injected", 8));
    field_run(1000);
    uint64_t sent = field.pair.a.sent + field.pair.b.sent;
    field_run(10000);
    printf("# %llu frames in ten seconds\n", (unsigned long long)(field.pair.a.sent + field.pair.b.sent - sent));
    CHECK(field.pair.a.sent + field.pair.b.sent - sent <= 10);
    CHECK_EQ(cr__tcp_send(field.a, &(struct iovec){(void *)(uintptr_t)"1234", 4}, 1, false), 4); /* b takes it for what has come already, and says so in its way */
    sent = field.pair.a.sent + field.pair.b.sent;
    field_run(10000);
    printf("# %llu with text\n", (unsigned long long)(field.pair.a.sent + field.pair.b.sent - sent));
    CHECK(field.pair.a.sent + field.pair.b.sent - sent <= 100); /* resent by the RTO, each time with one answer */
    CHECK(field.pair.a.drops[CR__DROP_TCP_ACK] > 0);
    field_finish();
}

static void flood_of_acks(struct field *unused)
{
    struct cr__ip from = pair_ip4(1);
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++) {
        uint32_t seq = i & 1 ? field.b->rcv_nxt - 1 - number() % 1000 : field.b->rcv_edge + 1 + number() % 1000;
        field_queue(field_forge(&from, as_a(CR__ACK, seq, field.b->snd_nxt), NULL, 0));
    }
}

TEST(a_storm_of_acks_that_are_not_acceptable_is_answered_ten_times_a_second)
{
    start_talking(true);
    field.rate_bytes = 0;
    field_run(300);
    uint64_t sent = field.pair.b.sent;
    field.flood = flood_of_acks;
    field_run(2000);
    field.flood = NULL;
    printf("# %llu answers to 200,000\n", (unsigned long long)(field.pair.b.sent - sent));
    CHECK(field.pair.b.sent - sent <= 25);
    CHECK(field.pair.b.drops[CR__DROP_TCP_LIMIT] > 190000);
    field.rate_bytes = RATE_BYTES;
    CHECK(share_under(flood_of_acks, 2000) >= 0.8);
    field_settle();
    field_finish();
}

/* A peer by hand: connected to b from the attacker's address. */
struct peer {
    struct cr__ip ip;
    uint16_t port;
    uint32_t seq, ack;
    struct cr__tcp *tcp;
};

static struct cr__segment from_peer(const struct peer *peer, uint8_t flags)
{
    return (struct cr__segment){.from_port = peer->port, .flags = flags, .seq = peer->seq, .ack = peer->ack, .window = 65535};
}

static void say(const struct peer *peer, struct cr__segment seg, const void *text, size_t size_bytes)
{
    field_inject(field_forge(&peer->ip, seg, text, size_bytes));
}

static struct peer peer_connects(uint16_t port, uint16_t mss_bytes, bool sack, uint16_t window)
{
    struct peer peer = {.ip = pair_ip4(FIELD_ATTACKER), .port = port, .seq = 0xffffff00u};
    struct cr__segment syn = from_peer(&peer, CR__SYN);
    syn.mss_bytes = mss_bytes;
    syn.sack_permitted = sack;
    syn.window = window;
    syn.has_scale = true;
    syn.scale = window == 65535 ? 8 : 0;
    say(&peer, syn, NULL, 0);
    CHECK_EQ(field_answer()->flags & (CR__SYN | CR__ACK), CR__SYN | CR__ACK);
    peer.seq++;
    peer.ack = field_answer()->seq + 1;
    struct cr__segment ack = from_peer(&peer, CR__ACK);
    ack.window = window;
    say(&peer, ack, NULL, 0);
    peer.tcp = cr__tcp_accept(field.listener);
    CHECK(peer.tcp && peer.tcp->state == CR__TCP_ESTABLISHED);
    return peer;
}

static size_t fill(struct cr__tcp *tcp)
{
    static char bytes[1 << 20];
    size_t written = 0;
    ssize_t n;
    while ((n = cr__tcp_send(tcp, &(struct iovec){bytes, sizeof(bytes)}, 1, false)) > 0)
        written += (size_t)n;
    CHECK_EQ(n, -EAGAIN);
    field_collect();
    cr__tcp_check(tcp);
    return written;
}

TEST(an_ack_of_what_was_never_sent_opens_no_window)
{
    start_talking(true);
    struct peer peer = peer_connects(1000, 1460, true, 65535);
    fill(peer.tcp);
    uint32_t cwnd_bytes = peer.tcp->cwnd_bytes, nxt = peer.tcp->snd_nxt;
    uint64_t dropped = field.pair.b.drops[CR__DROP_TCP_ACK], challenges = field.pair.b.tcp->challenges;
    for (unsigned i = 1; i <= 10000; i++) {
        struct cr__segment ack = from_peer(&peer, CR__ACK);
        ack.ack = nxt + i * 100;
        say(&peer, ack, NULL, 0);
    }
    CHECK_EQ(peer.tcp->cwnd_bytes, cwnd_bytes);
    CHECK_EQ(peer.tcp->snd_nxt, nxt);
    CHECK_EQ(field.pair.b.drops[CR__DROP_TCP_ACK], dropped + 10000);
    CHECK(field.pair.b.tcp->challenges - challenges <= CR__TCP_ANSWERS_A_SECOND * 3 / 2);
    CHECK(field_rate(100) > 0.9 * RATE_BYTES);
    field_settle();
    field_finish();
}

/* RFC 5681, 3.1 (Savage et al. 1999): many ACKs for parts of a segment let out no more than one for all of it. */
TEST(acks_of_a_byte_each_open_the_window_no_further_than_one_of_all)
{
    uint32_t cwnd_bytes[2];
    for (unsigned divided = 0; divided < 2; divided++) {
        field_start(&none);
        field_connect(true, NULL);
        struct peer peer = peer_connects(1000, 1460, true, 65535);
        fill(peer.tcp);
        for (unsigned i = 1; i <= 1460; i += divided ? 1 : 1459) {
            struct cr__segment ack = from_peer(&peer, CR__ACK);
            ack.ack = peer.ack + i;
            say(&peer, ack, NULL, 0);
            cr__tcp_check(peer.tcp);
        }
        cwnd_bytes[divided] = peer.tcp->cwnd_bytes;
        field_finish();
    }
    CHECK(cwnd_bytes[1] <= cwnd_bytes[0]);
}

/* ---- Peers that hold on ------------------------------------------------------------------------------------------------ */

TEST(peers_that_close_their_windows_hold_what_may_be_queued_until_the_user_timeout)
{
    enum { PEERS = 100, SLOW_BYTES = 2 * SEGMENT_BYTES };
    struct cr__tcp_opts opts = {.user_timeout_ms = 30000, .send_limit_bytes = 64 << 10};
    field_start(&none);
    field.rate_bytes = SLOW_BYTES;
    field_connect(true, &opts);
    field_run(200);
    static struct peer peers[PEERS];
    uint64_t before = field_packets();
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i] = peer_connects((uint16_t)(1000 + i), 1460, true, 0);
        fill(peers[i].tcp);
    }
    CHECK(field_packets() - before <= PEERS * ((64 << 10) / 1448 + 8) + 200);
    for (unsigned second = 0; second < 29; second++) { /* each probe is answered, by a window of 0 */
        field_run(1000);
        for (unsigned i = 0; i < PEERS; i++) {
            struct cr__segment ack = from_peer(&peers[i], CR__ACK);
            ack.window = 0;
            CHECK_EQ(peers[i].tcp->state, CR__TCP_ESTABLISHED);
            say(&peers[i], ack, NULL, 0);
        }
    }
    CHECK(field.others <= PEERS * 29 * 2);
    CHECK(field_rate(1000) > 0.8 * SLOW_BYTES);
    field_run(1500);
    for (unsigned i = 0; i < PEERS; i++) {
        CHECK_EQ(peers[i].tcp->state, CR__TCP_CLOSED);
        CHECK_EQ(peers[i].tcp->error, ETIMEDOUT);
        cr__tcp_close(peers[i].tcp);
    }
    CHECK(field_packets() <= before + 200);
    field_settle();
    field_finish();
}

TEST(what_was_closed_does_not_wait_for_ever_behind_a_closed_window)
{
    field_start(&none);
    field_connect(true, NULL);
    struct peer peer = peer_connects(1000, 1460, true, 0);
    fill(peer.tcp);
    cr__tcp_close(peer.tcp);
    CHECK_EQ(field.pair.b.tcp->orphans, 1);
    for (unsigned second = 0; second < 600 && field.pair.b.tcp->orphans > 0; second++) {
        field_run(1000);
        struct cr__segment ack = from_peer(&peer, CR__ACK);
        ack.window = 0;
        say(&peer, ack, NULL, 0);
    }
    CHECK_EQ(field.pair.b.tcp->orphans, 0);
    CHECK(field_packets() < 200);
    field_finish();
}

/* Bytes of packets that are held, more than before. */
static uint64_t held_bytes(uint64_t before)
{
    return (field_packets() - before) * CR_PACKET_BYTES;
}

TEST(segments_of_a_byte_out_of_order_hold_no_more_than_some_times_the_buffer)
{
    const uint32_t limit = 64 << 10;
    start_talking(true);
    field.listener->recv_limit_bytes = limit;
    struct peer peer = peer_connects(1000, 1460, true, 65535);
    uint64_t before = field_packets();
    for (uint32_t at = 1; at < limit; at += 2) { /* every second one */
        struct cr__segment seg = from_peer(&peer, CR__ACK);
        seg.seq += at;
        say(&peer, seg, "x", 1);
    }
    cr__tcp_check(peer.tcp);
    printf("# %llu bytes held for a buffer of %u\n", (unsigned long long)held_bytes(before), limit);
    CHECK(held_bytes(before) <= 2 * limit + (40 << 10));
    CHECK(field.pair.b.drops[CR__DROP_TCP_FULL] > 30000);
    for (uint32_t at = 0; at < limit; at++) { /* all of it, in order: it is taken, once */
        struct cr__segment seg = from_peer(&peer, CR__ACK);
        seg.seq += at;
        say(&peer, seg, "x", 1);
    }
    cr__tcp_check(peer.tcp);
    CHECK(held_bytes(before) <= 2 * limit);
    CHECK_EQ(peer.tcp->flight->receive_bytes, peer.tcp->rcv_nxt - peer.seq);
    CHECK(field_rate(100) > 0.9 * RATE_BYTES);
    cr__tcp_abort(peer.tcp);
    field_settle();
    field_finish();
}

TEST(bytes_that_come_backwards_are_put_in_order)
{
    start_talking(true);
    struct peer peer = peer_connects(1000, 1460, true, 65535);
    uint64_t before = field_packets();
    char text[2000];
    for (unsigned i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 7);
    for (unsigned at = sizeof(text); at-- > 1;) {
        struct cr__segment seg = from_peer(&peer, CR__ACK);
        seg.seq += at;
        say(&peer, seg, text + at, 1);
        cr__tcp_check(peer.tcp);
    }
    say(&peer, from_peer(&peer, CR__ACK), text, 1);
    CHECK(held_bytes(before) <= (2 << 20) + (40 << 10));
    unsigned got = 0;
    char read[2000];
    ssize_t n = cr__tcp_recv(peer.tcp, &(struct iovec){read, sizeof(read)}, 1);
    CHECK(n > 0 && memcmp(read, text, (size_t)n) == 0);
    for (got = (unsigned)n; got < sizeof(text);) { /* what there was no room for comes again */
        struct cr__segment seg = from_peer(&peer, CR__ACK);
        seg.seq += got;
        say(&peer, seg, text + got, 1);
        n = cr__tcp_recv(peer.tcp, &(struct iovec){read, sizeof(read)}, 1);
        CHECK(n > 0 && memcmp(read, text + got, (size_t)n) == 0);
        got += (unsigned)n;
    }
    cr__tcp_check(peer.tcp);
    field_settle();
    field_finish();
}

TEST(segments_of_any_size_hold_no_more_than_four_times_the_buffer)
{
    const uint32_t limit = 256 << 10;
    static const uint32_t sizes[] = {1, 7, 100, 511, 512, 513, 900, 1448};
    start_talking(true);
    field.listener->recv_limit_bytes = limit;
    for (unsigned s = 0; s < CR__COUNT(sizes); s++) {
        struct peer peer = peer_connects((uint16_t)(1000 + s), 1460, true, 65535);
        uint64_t before = field_packets();
        static char text[1460];
        for (uint32_t at = 0; at < limit; at += sizes[s]) {
            struct cr__segment seg = from_peer(&peer, CR__ACK);
            seg.seq += at;
            say(&peer, seg, text, sizes[s]);
        }
        cr__tcp_check(peer.tcp);
        CHECK(peer.tcp->flight->receive_bytes > limit / 2);
        CHECK(held_bytes(before) <= 4 * limit);
        cr__tcp_abort(peer.tcp);
    }
    field_settle();
    field_finish();
}

TEST(a_peer_that_takes_tiny_segments_only_does_not_multiply_what_is_queued_for_it)
{
    const uint32_t limit = 256 << 10;
    start_talking(true);
    uint64_t before = field_packets();
    struct peer peer = peer_connects(1000, 1, true, 0);
    size_t queued = fill(peer.tcp);
    printf("# %zu bytes queued in %llu\n", queued, (unsigned long long)held_bytes(before));
    CHECK(held_bytes(before) <= limit / CR__SENT_LEAST_BYTES * CR_PACKET_BYTES + (256 << 10));
    CHECK(queued >= 16 << 10);
    cr__tcp_abort(peer.tcp);
    field_settle();
    field_finish();
}

/* ---- Work -------------------------------------------------------------------------------------------------------------- */

static void arrives(void *frame)
{
    cr__host_input(&field.pair.b, frame, field.pair.now_ns);
}

/* What b does with a frame, in instructions: it has not seen it afterwards. */
static uint64_t cost_of(struct cr_packet *frame)
{
    uint64_t cost = test_instructions(arrives, frame);
    cr__packet_put(&field.pair.packets, frame);
    return cost;
}

static struct cr_packet *said_by(const struct peer *peer, struct cr__segment seg, const void *text, size_t size_bytes)
{
    return field_forge(&peer->ip, seg, text, size_bytes);
}

/* A segment that is there already, just before the last of those that wait: a walk would meet all of them. */
static uint64_t cost_of_overlap(unsigned waiting)
{
    field_start(&none);
    field_connect(true, NULL);
    struct peer peer = peer_connects(1000, 1460, true, 65535);
    struct cr__segment seg = from_peer(&peer, CR__ACK);
    for (unsigned i = 0; i < waiting; i++) {
        seg.seq = peer.seq + 1 + 4 * i;
        say(&peer, seg, "x", 1);
    }
    CHECK_EQ(peer.tcp->flight->early.count, waiting);
    seg.seq = peer.seq + 1 + 4 * (waiting - 2);
    uint64_t cost = cost_of(said_by(&peer, seg, "x", 1)), duplicates = field.pair.b.drops[CR__DROP_TCP_DUPLICATE];
    say(&peer, seg, "x", 1);
    CHECK_EQ(field.pair.b.drops[CR__DROP_TCP_DUPLICATE], duplicates + 1); /* it was what it should be */
    field_finish();
    return cost;
}

TEST(a_segment_out_of_order_costs_the_same_however_many_wait)
{
    uint64_t few = cost_of_overlap(8), many = cost_of_overlap(1000);
    printf("# %llu instructions with 8, %llu with 1000\n", (unsigned long long)few, (unsigned long long)many);
    CHECK(many <= 2 * few);
}

/* Four blocks far apart, of what is not lost. */
static struct cr_packet *lie_of_sack(const struct peer *peer)
{
    struct cr__segment seg = from_peer(peer, CR__ACK);
    uint32_t out = peer->tcp->snd_nxt - peer->tcp->snd_una, step = out / 8;
    seg.sack_count = 4;
    for (unsigned i = 0; i < 4; i++) {
        seg.sack[i].from = peer->tcp->snd_una + (7 - 2 * i) * step + number() % (step / 2 + 1);
        seg.sack[i].to = seg.sack[i].from + 10;
    }
    return said_by(peer, seg, NULL, 0);
}

static uint64_t cost_of_sack(uint32_t limit_bytes)
{
    field_start(&(struct cr__tcp_config){.initial_window = 30000, .send_limit_bytes = limit_bytes});
    field_connect(true, NULL);
    struct peer peer = peer_connects(1000, 64, true, 65535);
    fill(peer.tcp);
    CHECK_EQ(peer.tcp->flight->unsent == NULL, true);
    uint64_t cost = cost_of(lie_of_sack(&peer));
    for (unsigned i = 0; i < 200; i++)
        field_inject(lie_of_sack(&peer));
    cr__tcp_check(peer.tcp);
    field_finish();
    return cost;
}

TEST(sack_blocks_far_apart_cost_a_bounded_number_of_steps)
{
#ifdef TEST_THREADS_SANITIZED
    SKIP("with ThreadSanitizer a step is so many instructions that one by one they take half a minute");
#endif
    uint64_t few = cost_of_sack(16 << 10), usual = cost_of_sack(256 << 10), many = cost_of_sack(4 << 20);
    printf("# %llu instructions with 64 segments under way, %llu with 1024, %llu with 16384\n", (unsigned long long)few, (unsigned long long)usual, (unsigned long long)many);
    CHECK(many <= 2 * usual); /* sixteen times as many: the steps come to an end */
}

enum spoiled { SHORT_FRAME, UNKNOWN_TYPE, NOT_OURS, BAD_VERSION, BAD_LENGTH, BAD_IP_SUM, BAD_TCP_SUM, BAD_OFFSET, BAD_OPTION, NO_PORT_FROM, FRAGMENT_TINY, SPOILED };

static struct cr_packet *spoil(enum spoiled how)
{
    struct cr__ip from = pair_ip4(FIELD_ATTACKER);
    struct cr_packet *frame = field_forge(&from, (struct cr__segment){.from_port = how == NO_PORT_FROM ? 0 : 1000, .flags = CR__SYN, .mss_bytes = 1460}, NULL, 0);
    uint8_t *ip = frame->data + 14, *tcp = ip + 20;
    switch (how) {
    case SHORT_FRAME: frame->size_bytes = 13; break;
    case UNKNOWN_TYPE: frame->data[12] = 0x12; break;
    case NOT_OURS: frame->data[5] = 77; break;
    case BAD_VERSION: ip[0] = 0x55; break;
    case BAD_LENGTH: ip[3] = 200; break;
    case BAD_IP_SUM: ip[10] ^= 1; break;
    case BAD_TCP_SUM: tcp[16] ^= 1; break;
    case BAD_OFFSET: tcp[12] = 0x40; break;
    case BAD_OPTION: tcp[21] = 1; break;
    case FRAGMENT_TINY:
        ip[6] = 0x20; /* the first of several, with a part of the header */
        ip[3] = 36;
        frame->size_bytes = 14 + 36;
        memset(ip + 10, 0, 2);
        cr__wire_put16(ip + 10, cr__wire_checksum(cr__wire_sum(0, ip, 20)));
        break;
    case NO_PORT_FROM:
    case SPOILED: break;
    }
    return frame;
}

TEST(a_malformed_packet_costs_its_drop_whoever_is_connected)
{
    static const enum cr__drop causes[SPOILED] = {
        [SHORT_FRAME] = CR__DROP_FRAME_SHORT,  [UNKNOWN_TYPE] = CR__DROP_FRAME_TYPE,       [NOT_OURS] = CR__DROP_FRAME_OTHERS,      [BAD_VERSION] = CR__DROP_IP_HEADER,
        [BAD_LENGTH] = CR__DROP_IP_HEADER,     [BAD_IP_SUM] = CR__DROP_IP_CHECKSUM,        [BAD_TCP_SUM] = CR__DROP_TCP_CHECKSUM,   [BAD_OFFSET] = CR__DROP_TCP_MALFORMED,
        [BAD_OPTION] = CR__DROP_TCP_MALFORMED, [NO_PORT_FROM] = CR__DROP_IP_SOURCE,        [FRAGMENT_TINY] = CR__DROP_FRAGMENT_TINY,
    };
    start_talking(true);
    struct cr_mem_stats before, after;
    uint64_t sent = field.pair.b.sent, packets = field_packets();
    cr_mem_stats_get(&before);
    for (unsigned how = 0; how < SPOILED; how++) {
        uint64_t dropped = field.pair.b.drops[causes[how]], all = field_drops();
        for (unsigned i = 0; i < 1000; i++)
            field_inject(spoil(how));
        CHECK_EQ(field.pair.b.drops[causes[how]], dropped + 1000);
        CHECK_EQ(field_drops(), all + 1000); /* one cause each */
    }
    cr_mem_stats_get(&after);
    CHECK_EQ(field.pair.b.sent, sent);
    CHECK_EQ(field_packets(), packets);
    CHECK_EQ(after.conns_bytes, before.conns_bytes);
    CHECK_EQ(after.buffers_bytes, before.buffers_bytes);
    CHECK(field_rate(100) > 0.9 * RATE_BYTES);
    field_settle();
    field_finish();
}

TEST(what_a_malformed_packet_costs_does_not_depend_on_how_many_are_connected)
{
    uint64_t cost[2][SPOILED];
    for (unsigned many = 0; many < 2; many++) {
        field_start(&none);
        field_connect(true, NULL);
        for (unsigned i = 0; i < (many ? 3000 : 1); i++)
            peer_connects((uint16_t)(1000 + i), 1460, true, 65535);
        for (enum spoiled how = 0; how < SPOILED; how++)
            cost[many][how] = cost_of(spoil(how));
        field_finish();
    }
    for (enum spoiled how = 0; how < SPOILED; how++) {
        printf("# %u: %llu instructions with one connection, %llu with 3000\n", how, (unsigned long long)cost[0][how], (unsigned long long)cost[1][how]);
        CHECK(cost[1][how] <= cost[0][how] + cost[0][how] / 10); /* the same, but for what a sanitizer does */
    }
}

/* ---- Scans and pieces -------------------------------------------------------------------------------------------------- */

TEST(a_scan_of_all_ports_gets_a_bounded_number_of_answers_and_leaves_nothing)
{
    start_talking(true);
    struct cr__ip from = pair_ip4(FIELD_ATTACKER);
    struct cr_mem_stats before, after;
    uint64_t dropped = field.pair.b.drops[CR__DROP_TCP_NO_PORT], packets = field_packets();
    cr_mem_stats_get(&before);
    for (unsigned port = 1; port < 65536; port++) {
        if (port == FIELD_PORT)
            continue;
        static const uint8_t kinds[] = {CR__SYN, CR__FIN, 0, CR__FIN | CR__PSH | CR__URG, CR__ACK, CR__SYN | CR__FIN};
        field_inject(field_forge(&from, (struct cr__segment){.from_port = 1000, .to_port = (uint16_t)port, .flags = kinds[port % CR__COUNT(kinds)], .seq = port}, NULL, 0));
        if (port % 1000 == 0)
            field_run(10);
    }
    cr_mem_stats_get(&after);
    printf("# %llu RSTs in 0.65 s\n", (unsigned long long)field.resets);
    CHECK_EQ(field.pair.b.drops[CR__DROP_TCP_NO_PORT], dropped + 65534);
    CHECK(field.resets > 0 && field.resets <= 2 * CR__TCP_ANSWERS_A_SECOND * 3 / 2);
    CHECK_EQ(field.syn_acks, 0);
    CHECK_EQ(after.conns_bytes, before.conns_bytes);
    CHECK(field_packets() <= packets + 64);
    CHECK(field_rate(100) > 0.9 * RATE_BYTES);
    field_settle();
    field_finish();
}

/* Pieces of datagrams that are never whole, pieces that overlap, tiny first ones. */
static void flood_of_pieces(struct field *unused)
{
    (void)unused;
    for (unsigned i = 0; i < FLOOD; i++) {
        struct cr__ip from = i & 1 ? anybody4() : pair_ip4(FIELD_ATTACKER);
        struct cr_packet *frame = field_forge(&from, (struct cr__segment){.from_port = 1000, .flags = CR__ACK}, "0123456789012345678901234567", 28);
        uint32_t at = number() % 4;
        if (!frame)
            continue;
        uint8_t *ip = frame->data + 14;
        cr__wire_put16(ip + 4, (uint16_t)(i & 1 ? number() % 1000 : number() % 8));
        cr__wire_put16(ip + 6, (uint16_t)(0x2000 | at * 3)); /* of 48 bytes, at multiples of 24 */
        memset(ip + 10, 0, 2);
        cr__wire_put16(ip + 10, cr__wire_checksum(cr__wire_sum(0, ip, 20)));
        field_queue(frame);
    }
}

TEST(a_flood_of_pieces_holds_a_bounded_number_of_packets_and_hurts_nobody)
{
    start_talking(true);
    uint64_t packets = field_packets();
    double share = share_under(flood_of_pieces, 3000);
    printf("# %.1f %% of the throughput, %u packets held\n", 100 * share, field.pair.b.ip->fragments_held);
    CHECK(share >= 0.8);
    CHECK(field_packets() <= packets + CR__REASSEMBLY_PACKETS_HOST + 256);
    CHECK(field.pair.b.drops[CR__DROP_FRAGMENT_OVERLAP] > 0);
    CHECK(field.pair.b.drops[CR__DROP_FRAGMENT_LIMIT] > 0);
    field_settle();
    field.rate_bytes = 0;
    field_run(61000);
    CHECK_EQ(field.pair.b.ip->fragments_held, 0);
    field_finish();
}

/* ---- Costs ------------------------------------------------------------------------------------------------------------- */

TEST(a_syn_that_gets_a_cookie_costs_about_a_segment)
{
    field_start(&(struct cr__tcp_config){.half_open_most = 1});
    field_connect(true, NULL);
    struct peer peer = peer_connects(1000, 1460, true, 65535);
    struct cr__ip from = anybody4();
    struct cr__segment syn = {.from_port = 1000, .flags = CR__SYN, .window = 1000, .mss_bytes = 1460};
    field_inject(field_forge(&from, syn, NULL, 0)); /* is half open, alone */
    uint64_t sent = field.pair.b.tcp->cookies_sent, answers = field.answer_count;
    struct cr__segment fin = from_peer(&peer, CR__FIN | CR__ACK); /* is answered at once, as a SYN is */
    uint64_t segment = cost_of(said_by(&peer, fin, "text", 4));
    say(&peer, fin, "text", 4);
    CHECK_EQ(field.answer_count, answers + 1);
    from = anybody4();
    uint64_t cookie = cost_of(field_forge(&from, syn, NULL, 0));
    field_inject(field_forge(&from, syn, NULL, 0));
    CHECK_EQ(field.pair.b.tcp->cookies_sent, sent + 1);
    printf("# %llu instructions for a SYN and its cookie, %llu for a segment and its ACK\n", (unsigned long long)cookie, (unsigned long long)segment);
    CHECK(cookie <= 3 * segment);
    field_finish();
}
