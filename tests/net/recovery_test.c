/* Fast recovery, timeouts, and undoing what was spurious; whatever happens on the way, and whatever a peer says. Each test is named after the RFC's section that it shows. */
#include "path.h"

/* ---- RFC 9937: the rate in recovery -------------------------------------------------------------------------- */

TEST(rfc9937_6_what_leaves_in_recovery_is_to_what_arrives_as_ssthresh_is_to_the_flight)
{
    struct path *path = path_known(CR__TCP_SACK | CR__TCP_NEWRENO);
    path->tcp.cwnd_bytes = 20 * MSS;
    path->endless = true;
    output(path); /* 1 to 20 */
    pass(path, 10 * MS);
    for (int i = 1; i <= 19; i++) { /* 1 is lost, each ACK tells of one more */
        HEAR(path, 1, 2, 2 + i);
        output(path);
        if (path->flight.recovery == CR__RECOVERY) {
            CHECK(path->flight.prr_out <= (uint64_t)path->flight.prr_delivered * path->tcp.ssthresh_bytes / path->flight.prr_flight_bytes + MSS);
            CHECK(cr__recovery_in_flight(&path->tcp) <= path->tcp.cwnd_bytes);
        }
    }
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK(cr__recovery_in_flight(&path->tcp) + 2 * MSS > path->tcp.ssthresh_bytes);
    CHECK(cr__recovery_in_flight(&path->tcp) <= path->tcp.ssthresh_bytes);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 24);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK_EQ(path->tcp.cwnd_bytes, path->tcp.ssthresh_bytes);
    path_close(path);
}

TEST(rfc9937_6_below_ssthresh_an_ack_that_tells_of_losses_lets_no_more_out_than_arrived)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->tcp.cwnd_bytes = 40 * MSS;
    path->endless = true;
    output(path);
    pass(path, 10 * MS);
    HEAR(path, 1, 30, 31); /* nearly all is gone */
    HEAR(path, 1, 30, 32);
    int before = path->logged;
    HEAR(path, 1, 30, 33);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    output(path);
    CHECK(cr__recovery_in_flight(&path->tcp) < path->tcp.ssthresh_bytes);
    CHECK_EQ(path->logged - before, 1);
    for (int i = 0; i < 5; i++) {
        int sent = path->logged;
        HEAR(path, 1, 30, 34 + i);
        output(path);
        CHECK(path->logged - sent <= 1);
    }
    path_close(path);
}

TEST(rfc9937_6_below_ssthresh_an_ack_that_advances_lets_one_more_out)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->tcp.cwnd_bytes = 40 * MSS;
    path->endless = true;
    output(path);
    pass(path, 10 * MS);
    HEAR(path, 1, 30, 41);
    output(path);
    CHECK(cr__recovery_in_flight(&path->tcp) < path->tcp.ssthresh_bytes);
    pass(path, 10 * MS);
    int before = path->logged;
    HEAR(path, 2, 30, 41);
    output(path);
    CHECK_EQ(path->logged - before, 2); /* as slow start */
    path_close(path);
}

/* ---- RFC 6582, 3042: without SACK ---------------------------------------------------------------------------- */

TEST(rfc3042_2_the_first_two_duplicate_acks_let_a_new_packet_out_each)
{
    for (uint32_t flags = 0; flags <= CR__TCP_SACK; flags += CR__TCP_SACK) {
        struct path *path = path_known(flags);
        path->tcp.cwnd_bytes = 5 * MSS;
        write_packets(path, 20);
        CHECK_EQ(output(path), 5);
        pass(path, 10 * MS);
        for (int i = 1; i <= 2; i++) {
            if (flags)
                HEAR(path, 1, 2, 2 + i);
            else
                HEAR_PLAIN(path, 1);
            CHECK_EQ(output(path), 1);
            CHECK_EQ(path->log[path->logged - 1], 5 + i);
        }
        CHECK_EQ(path->tcp.cwnd_bytes, 5 * MSS);
        path_close(path);
    }
}

TEST(rfc6582_3_2_the_third_duplicate_ack_begins_recovery_and_partial_acks_go_through_the_holes)
{
    struct path *path = path_known(CR__TCP_NEWRENO);
    path->tcp.cwnd_bytes = 10 * MSS;
    write_packets(path, 10);
    output(path);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 1);
    HEAR_PLAIN(path, 1);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    HEAR_PLAIN(path, 1);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK_EQ(path->tcp.ssthresh_bytes, 5 * MSS);
    CHECK_EQ(output(path), 1);
    CHECK_EQ(path->log[path->logged - 1], -1 - 1);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 5); /* 5 is missing, too */
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    output(path);
    CHECK_EQ(path->log[path->logged - 1], -1 - 5);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 11);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK_EQ(path->tcp.cwnd_bytes, 5 * MSS);
    path_close(path);
}

TEST(rfc6582_4_duplicates_of_what_recovery_has_sent_begin_no_other)
{
    struct path *path = path_known(CR__TCP_NEWRENO);
    path->tcp.cwnd_bytes = 8 * MSS;
    write_packets(path, 8);
    output(path);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    output(path);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 9); /* `recover`, and no more */
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    send_packets(path, 4);
    uint32_t ssthresh_bytes = path->tcp.ssthresh_bytes;
    for (int i = 0; i < 5; i++)
        HEAR_PLAIN(path, 9);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK_EQ(path->tcp.ssthresh_bytes, ssthresh_bytes);
    path_close(path);
}

TEST(without_sack_a_flood_of_duplicate_acks_lets_no_more_out_than_was_in_flight)
{
    struct path *path = path_known(CR__TCP_NEWRENO);
    path->tcp.cwnd_bytes = 10 * MSS;
    path->endless = true;
    output(path);
    pass(path, 10 * MS);
    for (int i = 0; i < 1000; i++) {
        HEAR_PLAIN(path, 1);
        output(path);
    }
    CHECK(path->sent_packets < 60);
    path_close(path);
}

/* ---- RFC 5681, 4015, 5682: timeouts, and those that were none ------------------------------------------------- */

TEST(rfc5681_3_1_a_timeout_brings_the_window_to_one_segment_and_ssthresh_down_once)
{
    struct path *path = path_timed_out(CR__TCP_SACK | CR__TCP_NEWRENO, 10);
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, 5 * MSS);
    output(path);
    pass(path, 600 * MS);
    cr__recovery_timeout(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, 5 * MSS);
    CHECK_EQ(output(path), 1);
    path_close(path);
}

TEST(rfc6298_5_4_after_a_timeout_what_is_lost_is_sent_with_slow_start)
{
    struct path *path = path_timed_out(CR__TCP_SACK, 8);
    CHECK_EQ(output(path), 1);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 2);
    CHECK_EQ(output(path), 2);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 3);
    CHECK_EQ(output(path), 2);
    HEAR_PLAIN(path, 4);
    CHECK_EQ(output(path), 2);
    CHECK_EQ(path->flight.recovery, CR__LOSS);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 9);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    path_close(path);
}

TEST(rfc4015_3_1_a_timeout_of_which_the_timestamp_says_that_it_came_too_early_is_undone)
{
    struct path *path = path_known(CR__TCP_TIMESTAMPS); /* without SACK */
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes, ssthresh_bytes = path->tcp.ssthresh_bytes;
    send_packets(path, 6);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    CHECK_EQ(output(path), 1);
    pass(path, 2 * MS);
    hear_at(path, 2, NULL, 302);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK(path->tcp.cwnd_bytes >= cwnd_bytes);
    CHECK_EQ(path->tcp.ssthresh_bytes, ssthresh_bytes);
    CHECK_EQ(path->flight.lost_bytes, 0);
    CHECK_EQ(output(path), 0); /* the others are under way */
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 5 * MSS);
    path_close(path);
}

TEST(rfc4015_3_1_a_timeout_that_was_right_is_not)
{
    struct path *path = path_timed_out(SACK_TS, 6);
    output(path);
    pass(path, 10 * MS);
    hear_at(path, 2, NULL, 10);
    CHECK_EQ(path->flight.recovery, CR__LOSS);
    CHECK(path->tcp.ssthresh_bytes != UINT32_MAX);
    path_close(path);
}

TEST(rfc5682_3_a_timeout_after_which_something_sent_before_it_arrives_is_undone)
{
    struct path *path = path_known(CR__TCP_SACK); /* without timestamps */
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes;
    send_packets(path, 6);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    output(path);
    pass(path, 2 * MS);
    HEAR_PLAIN(path, 3); /* 2 was sent but once */
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK(path->tcp.cwnd_bytes >= cwnd_bytes);
    path_close(path);
}

TEST(rfc5682_3_what_had_been_sacked_before_the_timeout_does_not_make_it_spurious)
{
    struct path *path = path_flying(CR__TCP_SACK, 6);
    HEAR(path, 1, 3, 4);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    output(path);
    pass(path, 10 * MS);
    HEAR(path, 2, 3, 4);
    CHECK_EQ(path->flight.recovery, CR__LOSS);
    CHECK(is_marked(path, 3, CR__SENT_SACKED));
    path_close(path);
}

TEST(rfc3708_2_a_recovery_of_which_all_that_was_resent_was_not_needed_is_undone)
{
    struct path *path = path_known(CR__TCP_SACK);
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes;
    send_packets(path, 6);
    pass(path, 10 * MS);
    HEAR(path, 1, 3, 6);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK_EQ(output(path), 2); /* 1 and 2 */
    pass(path, 1 * MS);
    HEAR_PLAIN(path, 7); /* they came late */
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK(path->tcp.cwnd_bytes < cwnd_bytes);
    pass(path, 9 * MS);
    HEAR(path, 7, 1, 2);
    CHECK(path->tcp.cwnd_bytes < cwnd_bytes);
    HEAR(path, 7, 2, 3);
    CHECK(path->tcp.cwnd_bytes >= cwnd_bytes);
    CHECK_EQ(path->tcp.ssthresh_bytes, UINT32_MAX);
    path_close(path);
}

TEST(rfc3708_2_but_not_by_dsack_a_round_trip_after_it)
{
    struct path *path = path_flying(CR__TCP_SACK, 6);
    HEAR(path, 1, 2, 6);
    output(path);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 7);
    send_packets(path, 2);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 9);
    HEAR(path, 9, 1, 2);
    CHECK(path->tcp.ssthresh_bytes != UINT32_MAX);
    path_close(path);
}

/* ---- Over a path --------------------------------------------------------------------------------------------- */

static int by_chance(struct path *path, int packet, unsigned times)
{
    (void)packet;
    (void)times;
    double what = chance(path);
    return what < 0.05 ? -1 : what < 0.10 ? (int)(chance(path) * 8 * MS) : 0;
}

/* Lost ACKs, too: what is not about an ACK's content is as if it had not come. */
static void lose_acks(struct path *path)
{
    for (int i = 0; i < path->event_count; i++) {
        if (path->events[i].is_ack && !path->events[i].doubled) {
            path->events[i].doubled = true; /* looked at */
            if (chance(path) < 0.05)
                path->events[i].seg = (struct cr__segment){.ack = path->tcp.snd_una - 1}; /* old: is not looked at */
        }
    }
}

TEST(through_loss_and_reordering_everything_arrives_and_every_count_stays_true)
{
    const uint32_t flags[] = {0, CR__TCP_SACK, SACK_TS, CR__TCP_TIMESTAMPS | CR__TCP_NEWRENO};
    for (unsigned kind = 0; kind < 4; kind++) {
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct path *path = path_open(flags[kind]);
            path->seed = seed * 7919;
            path->delay_ns = 5 * MS;
            path->fate = by_chance;
            path->no_dsack = seed % 4 == 0;
            write_packets(path, 400);
            write_bytes(path, 123);
            for (int i = 0; i < 100000 && path->tcp.snd_una != path->written; i++) {
                run_until(path, path->host.now_ns + 3 * MS);
                lose_acks(path);
            }
            CHECK_EQ(path->rcv_nxt, path->written);
            CHECK_EQ(path->tcp.snd_una, path->written);
            CHECK_EQ(cr__recovery_in_flight(&path->tcp), 0);
            CHECK_EQ(path->flight.resend_kind, CR__RESEND_NOTHING);
            path_close(path);
        }
    }
}

static int one_in_a_hundred(struct path *path, int packet, unsigned times)
{
    (void)packet;
    (void)times;
    return chance(path) < 0.01 ? -1 : 0;
}

TEST(with_sack_random_loss_is_mended_without_timeouts_and_nearly_nothing_is_sent_in_vain)
{
    struct path *path = path_open(SACK_TS);
    path->delay_ns = 5 * MS;
    path->fate = one_in_a_hundred;
    path->endless = true;
    run_until(path, path->host.now_ns + 30000 * MS);
    printf("# %llu packets, %llu again, %llu timeouts, %llu probes\n", (unsigned long long)path->sent_packets,
           (unsigned long long)path->resent_packets, (unsigned long long)path->timeouts, (unsigned long long)path->probes);
    CHECK(path->sent_packets > 20000);
    CHECK(path->resent_packets < path->sent_packets / 80);
    CHECK(path->timeouts <= path->sent_packets / 5000);
    path_close(path);
}

/* ---- A peer that says anything --------------------------------------------------------------------------------- */

static uint32_t up_to(struct path *path, uint32_t n)
{
    return (uint32_t)(chance(path) * n);
}

/* An edge near what is outstanding, mostly of a packet. */
static uint32_t some_edge(struct path *path)
{
    uint32_t out = path->tcp.snd_nxt - path->tcp.snd_una + 4 * MSS;
    uint32_t edge = path->tcp.snd_una - 2 * MSS + up_to(path, out);
    return chance(path) < 0.8 ? edge - (edge - BEGIN) % MSS : chance(path) < 0.9 ? edge : (uint32_t)(chance(path) * 4294967295.0);
}

static void say_anything(struct path *path)
{
    struct cr__segment seg = {.ack = path->tcp.snd_una, .flags = CR__ACK, .window = (uint16_t)up_to(path, 2)};
    if (chance(path) < 0.3) {
        uint32_t ack = some_edge(path);
        if (cr__seq_not_after(path->tcp.snd_una, ack) && cr__seq_not_after(ack, path->tcp.snd_nxt) && ack - path->tcp.snd_una < 5 * MSS)
            seg.ack = ack;
    }
    seg.sack_count = (uint8_t)up_to(path, 5);
    for (int i = 0; i < seg.sack_count; i++) {
        seg.sack[i].from = some_edge(path);
        seg.sack[i].to = chance(path) < 0.7 ? seg.sack[i].from + MSS * (1 + up_to(path, 4)) : some_edge(path);
    }
    seg.has_timestamp = chance(path) < 0.9;
    seg.ts_echo = cr__tcp_ms(&path->host) + path->tcp.ts_offset - (chance(path) < 0.9 ? up_to(path, 100) : (uint32_t)(chance(path) * 4294967295.0));
    uint32_t una = path->tcp.snd_una, queued = path->flight.send_bytes;
    uint32_t bytes = cr__recovery_ack(&path->tcp, &seg);
    CHECK_EQ(path->tcp.snd_una, seg.ack);
    CHECK(bytes == seg.ack - una && bytes == queued - path->flight.send_bytes);
}

static void cut_one(struct path *path)
{
    struct cr_packet *packet = path->flight.send.first;
    for (uint32_t n = up_to(path, path->flight.send.count); n > 0 && cr__sent_next(packet); n--)
        packet = cr__sent_next(packet);
    struct cr__sent *sent = packet ? cr__sent_of(packet) : NULL;
    if (!sent || sent->times == 0 || sent->payload_bytes < 2 || packet == path->flight.send.first)
        return;
    struct cr_packet *rest = packet_new(path);
    uint32_t kept = sent->payload_bytes / 2;
    *cr__sent_of(rest) = (struct cr__sent){.seq = sent->seq + kept, .payload_bytes = sent->payload_bytes - kept, .next = sent->next};
    sent->payload_bytes = kept;
    sent->next = rest;
    if (path->flight.send.last == packet)
        path->flight.send.last = rest;
    path->flight.send.count++;
    cr__recovery_split(&path->tcp, packet, rest);
}

TEST(whatever_a_peer_says_and_whenever_timers_come_every_count_stays_true)
{
    const uint32_t flags[] = {0, CR__TCP_SACK, SACK_TS, SACK_TS | CR__TCP_NEWRENO | CR__TCP_ECN};
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct path *path = path_open(flags[seed % 4]);
        path->seed = seed * 7919;
        path->endless = true;
        path->tcp.cwnd_bytes = 40 * MSS;
        for (int step = 0; step < 400; step++) {
            double what = chance(path);
            pass(path, up_to(path, 3) == 0 ? (int64_t)up_to(path, 20000000) : 0);
            if (what < 0.80)
                say_anything(path);
            else if (what < 0.84)
                cut_one(path);
            else if (what < 0.88)
                cr__recovery_reorder(&path->tcp);
            else if (what < 0.90)
                cr__congestion_ecn(&path->tcp);
            else if (what < 0.92)
                cr__recovery_probe(&path->tcp);
            else if (what < 0.93)
                cr__recovery_timeout(&path->tcp);
            check(path);
            if (chance(path) < 0.6)
                output(path);
            CHECK(path->tcp.cwnd_bytes > 0 && path->tcp.ssthresh_bytes >= 2 * MSS);
        }
        struct cr__segment all = {.ack = path->tcp.snd_nxt, .flags = CR__ACK};
        cr__recovery_ack(&path->tcp, &all);
        check(path);
        CHECK_EQ(cr__recovery_in_flight(&path->tcp), 0);
        path_close(path);
    }
}
