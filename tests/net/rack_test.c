/* RACK-TLP (RFC 8985): what is lost, and what is sent to find out. Each test is named after the RFC's section that it shows. */
#include "path.h"

/* ---- RFC 8985: RACK ------------------------------------------------------------------------------------------ */

TEST(rfc8985_6_2_what_was_sent_before_what_has_arrived_is_lost_a_reordering_window_later)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 1);
    pass(path, 1 * MS);
    send_packets(path, 1);
    pass(path, 10 * MS);
    HEAR(path, 1, 2, 3);
    CHECK(!is_marked(path, 1, CR__SENT_LOST)); /* it is 11 ms old: RTT 10, and a quarter of the shortest */
    CHECK_EQ(path->flight.reorder_ns, path->host.now_ns + MS + MS / 2);
    pass(path, path->flight.reorder_ns - path->host.now_ns);
    due(path);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK_EQ(path->log[path->logged - 1], -1 - 1);
    path_close(path);
}

TEST(rfc8985_6_2_with_three_sacked_and_no_reordering_seen_it_is_lost_at_once)
{
    struct path *path = path_flying(CR__TCP_SACK, 5);
    HEAR(path, 1, 2, 4);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    HEAR(path, 1, 2, 5);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK(is_marked(path, 1, CR__SENT_LOST));
    CHECK(!is_marked(path, 5, CR__SENT_LOST)); /* after the newest that has arrived */
    path_close(path);
}

TEST(rfc8985_6_2_once_reordering_was_seen_three_sacked_are_not_enough)
{
    struct path *path = path_flying(CR__TCP_SACK, 3);
    HEAR(path, 1, 2, 3);
    CHECK(!(path->tcp.flags & CR__TCP_REORDERED));
    HEAR_PLAIN(path, 4); /* 1 came after 2, and had been sent but once */
    CHECK(path->tcp.flags & CR__TCP_REORDERED);
    send_packets(path, 6);
    pass(path, 10 * MS);
    HEAR(path, 4, 5, 9);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    pass(path, 3 * MS);
    due(path);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    path_close(path);
}

TEST(rfc8985_6_2_a_resent_packet_that_is_lost_again_is_sent_again)
{
    struct path *path = path_flying(CR__TCP_SACK, 8);
    HEAR(path, 1, 2, 6);
    CHECK(output(path) >= 1);
    CHECK_EQ(path->log[path->logged - 1], -1 - 1);
    pass(path, 1 * MS);
    send_packets(path, 1); /* 9, sent after 1 was again */
    pass(path, 10 * MS);
    HEAR(path, 1, 9, 10, 2, 6);
    CHECK(is_marked(path, 1, CR__SENT_LOST) && !is_marked(path, 1, CR__SENT_RESENT));
    output(path);
    CHECK_EQ(sent_at(path, 1)->times, 3);
    path_close(path);
}

TEST(rfc8985_6_2_dsack_widens_the_window_once_a_round_and_16_recoveries_without_narrow_it)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->flight.retransmits = 1;
    path->tcp.flags |= CR__TCP_REORDERED;
    send_packets(path, 4);
    HEAR(path, 2, 0, 1);
    CHECK_EQ(path->tcp.rack_more, 1);
    HEAR(path, 3, 1, 2); /* of the same round */
    CHECK_EQ(path->tcp.rack_more, 1);
    pass(path, 10 * MS);
    HEAR(path, 5, 1, 2);
    CHECK_EQ(path->tcp.rack_more, 2);
    int next = 5;
    for (int recoveries = 0; recoveries < 16; recoveries++) {
        CHECK_EQ(path->tcp.rack_more, 2);
        send_packets(path, 4);
        pass(path, 10 * MS);
        HEAR(path, next, next + 1, next + 4);
        pass(path, 20 * MS);
        cr__recovery_reorder(&path->tcp);
        output(path);
        CHECK_EQ(path->flight.recovery, CR__RECOVERY);
        pass(path, 10 * MS);
        next += 4;
        HEAR_PLAIN(path, next);
        CHECK_EQ(path->flight.recovery, CR__OPEN);
    }
    CHECK_EQ(path->tcp.rack_more, 0);
    path_close(path);
}

TEST(rfc8985_6_2_a_round_of_dsack_ends_with_what_was_sent_in_it_and_not_3_gb_later)
{
    struct path *path = path_known(CR__TCP_SACK);
    int next = 5; /* one was sent before */
    path->flight.retransmits = 1;
    send_packets(path, 4);
    HEAR(path, 2, 0, 1);
    CHECK_EQ(path->flight.rack_dsack_round, seq_of(next));
    HEAR(path, 3, 1, 2); /* within the round */
    HEAR_PLAIN(path, next);
    path->tcp.snd_una = path->tcp.snd_nxt = path->written = seq_of(next += 3000000); /* as if so many had been sent and acknowledged */
    send_packets(path, 2);
    HEAR(path, next + 1, next - 1, next);
    CHECK_EQ(path->flight.rack_dsack_round, seq_of(next + 2));
    path_close(path);
}

TEST(rfc8985_6_2_the_window_is_srtt_at_most)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->tcp.flags |= CR__TCP_REORDERED;
    path->tcp.rack_more = 100;
    send_packets(path, 1);
    pass(path, 1 * MS);
    send_packets(path, 1);
    pass(path, 10 * MS);
    HEAR(path, 1, 2, 3);
    CHECK_EQ(path->flight.reorder_ns, path->host.now_ns - 11 * MS + 10 * MS + (int64_t)path->tcp.srtt_us * 1000);
    path_close(path);
}

TEST(rfc8985_6_2_an_ack_of_the_first_sending_tells_nothing_of_the_second)
{
    struct path *path = path_flying(SACK_TS, 5);
    hear_at(path, 1, (const int[]){2, 5, -1}, 10);
    output(path);
    int64_t before_ns = path->flight.rack_sent_ns;
    pass(path, 12 * MS); /* longer than the shortest RTT, but the timestamp says which it is */
    hear_at(path, 2, (const int[]){2, 5, -1}, 22);
    CHECK_EQ(path->flight.rack_sent_ns, before_ns);
    path_close(path);
}

TEST(rfc8985_6_2_nor_does_one_that_comes_sooner_than_the_shortest_round_trip)
{
    struct path *path = path_flying(CR__TCP_SACK, 5);
    HEAR(path, 1, 2, 5);
    output(path);
    int64_t before_ns = path->flight.rack_sent_ns;
    pass(path, 9 * MS);
    HEAR(path, 2, 2, 5);
    CHECK_EQ(path->flight.rack_sent_ns, before_ns);
    path_close(path);
}

TEST(rfc8985_6_3_an_rto_leaves_what_was_sent_a_moment_ago)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 4);
    pass(path, 205 * MS);
    send_packets(path, 1);
    pass(path, 5 * MS);
    cr__recovery_timeout(&path->tcp);
    check(path);
    for (int i = 1; i < 5; i++)
        CHECK(is_marked(path, i, CR__SENT_LOST));
    CHECK(!is_marked(path, 5, CR__SENT_LOST));
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    CHECK_EQ(output(path), 1); /* the left edge, though the pipe is full */
    CHECK_EQ(path->log[path->logged - 1], -1 - 1);
    path_close(path);
}

/* ---- RFC 8985: TLP ------------------------------------------------------------------------------------------- */

TEST(rfc8985_7_2_pto_is_two_round_trips_and_for_a_single_packet_the_peers_delay_more)
{
    struct path *path = path_known(CR__TCP_SACK);
    cr__recovery_rtt(&path->tcp, 100000); /* so that RTO is further off */
    uint32_t srtt_us = path->tcp.srtt_us;
    send_packets(path, 2);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_TLP);
    CHECK_EQ(path->flight.resend_ns - path->host.now_ns, (2 * (int64_t)srtt_us + 2000) * 1000);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 2);
    int64_t pto_ns = (2 * (int64_t)path->tcp.srtt_us + 200000) * 1000, rto_ns = (int64_t)cr__recovery_rto_us(&path->tcp) * 1000;
    CHECK_EQ(path->flight.resend_ns - path->host.now_ns, pto_ns < rto_ns ? pto_ns : rto_ns);
    path_close(path);
}

TEST(rfc8985_7_2_while_something_is_sacked_or_lost_there_is_no_probe)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 4);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_TLP);
    HEAR(path, 1, 3, 4);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    path_close(path);
}

TEST(rfc8985_7_3_a_probe_is_new_data_if_there_is_some_even_beyond_the_window)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->tcp.cwnd_bytes = 4 * MSS;
    write_packets(path, 8);
    CHECK_EQ(output(path), 4);
    pass(path, path->flight.resend_ns - path->host.now_ns);
    due(path);
    CHECK_EQ(path->probes, 1);
    CHECK_EQ(path->log[path->logged - 1], 5);
    CHECK_EQ(path->logged, 1 + 5); /* one, and no more */
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    CHECK_EQ(path->flight.resend_ns - path->host.now_ns, (int64_t)cr__recovery_rto_us(&path->tcp) * 1000);
    path_close(path);
}

TEST(rfc8985_7_3_else_it_is_the_last_packet_again)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 4);
    pass(path, path->flight.resend_ns - path->host.now_ns);
    due(path);
    CHECK_EQ(path->log[path->logged - 1], -1 - 4);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    path_close(path);
}

/* Four packets, and the last again as a probe. */
static struct path *probed(uint32_t flags)
{
    struct path *path = path_known(flags);
    send_packets(path, 4);
    pass(path, path->flight.resend_ns - path->host.now_ns);
    due(path);
    CHECK_EQ(path->probes, 1);
    pass(path, 10 * MS);
    return path;
}

TEST(rfc8985_7_4_2_a_probe_that_mended_a_loss_makes_the_window_smaller)
{
    struct path *path = probed(CR__TCP_SACK);
    HEAR_PLAIN(path, 5); /* not yet known */
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes;
    CHECK_EQ(path->tcp.ssthresh_bytes, UINT32_MAX);
    send_packets(path, 1);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 6); /* no second copy was told of */
    CHECK(path->tcp.cwnd_bytes < cwnd_bytes);
    CHECK_EQ(path->flight.tlp_out, CR__TLP_NONE);
    path_close(path);
}

TEST(rfc8985_7_4_2_a_probe_of_which_dsack_tells_has_mended_nothing)
{
    struct path *path = probed(CR__TCP_SACK);
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes;
    HEAR_PLAIN(path, 5);
    HEAR(path, 5, 4, 5);
    CHECK_EQ(path->flight.tlp_out, CR__TLP_NONE);
    send_packets(path, 1);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 6);
    CHECK(path->tcp.cwnd_bytes >= cwnd_bytes);
    path_close(path);
}

TEST(rfc8985_7_4_2_nor_has_one_that_a_plain_duplicate_ack_tells_of)
{
    struct path *path = probed(CR__TCP_SACK);
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes;
    HEAR_PLAIN(path, 5);
    send_packets(path, 1);
    HEAR_PLAIN(path, 5);
    CHECK_EQ(path->flight.tlp_out, CR__TLP_NONE);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 6);
    CHECK(path->tcp.cwnd_bytes >= cwnd_bytes);
    path_close(path);
}

TEST(rfc8985_7_a_probe_finds_that_the_packets_before_it_are_lost)
{
    struct path *path = probed(CR__TCP_SACK);
    HEAR(path, 1, 4, 5);
    pass(path, 3 * MS);
    due(path);
    CHECK_EQ(path->flight.recovery, CR__RECOVERY);
    CHECK_EQ(path->timeouts, 0);
    for (int i = 1; i < 4; i++)
        CHECK(is_marked(path, i, CR__SENT_LOST));
    path_close(path);
}

TEST(rfc8985_7_2_one_probe_and_no_more_before_a_new_sample)
{
    struct path *path = probed(CR__TCP_SACK);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    send_packets(path, 2);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    HEAR_PLAIN(path, 5); /* of what was sent twice: no sample */
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    HEAR(path, 5, 4, 5);
    CHECK_EQ(path->flight.tlp_out, CR__TLP_NONE);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    HEAR_PLAIN(path, 6);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_TLP);
    path_close(path);
}

/* ---- Over a path --------------------------------------------------------------------------------------------- */

static int reordered(struct path *path, int packet, unsigned times)
{
    (void)packet;
    (void)times;
    return chance(path) < 0.05 ? (int)(2 * MS) : 0; /* less than a quarter of the RTT */
}

TEST(rfc8985_6_2_reordering_within_the_window_makes_nothing_lost_once_it_was_seen)
{
    struct path *path = path_open(SACK_TS);
    path->delay_ns = 5 * MS;
    path->gap_ns = MS / 10;
    path->fate = reordered;
    path->endless = true;
    path->tcp.ssthresh_bytes = 40 * MSS;
    run_until(path, path->host.now_ns + 200 * MS);
    uint64_t early = path->resent_packets;
    path->tcp.cwnd_bytes = 40 * MSS;
    path->tcp.snd_wnd = 60 * MSS;
    run_until(path, path->host.now_ns + 5000 * MS);
    CHECK(path->tcp.flags & CR__TCP_REORDERED);
    printf("# again: %llu at first, %llu of %llu then\n", (unsigned long long)early, (unsigned long long)(path->resent_packets - early), (unsigned long long)path->sent_packets);
    CHECK(path->resent_packets - early <= path->sent_packets / 1000);
    path_close(path);
}

static bool tail_is_lost;
static int lose_tail(struct path *path, int packet, unsigned times)
{
    (void)path;
    return tail_is_lost && packet >= 7 && times == 1 ? -1 : 0;
}

TEST(rfc8985_7_a_lost_tail_is_mended_in_a_few_round_trips_without_a_timeout)
{
    struct path *path = path_open(SACK_TS);
    path->delay_ns = 5 * MS;
    write_packets(path, 1);
    run_until(path, path->host.now_ns + 100 * MS);
    tail_is_lost = true;
    path->fate = lose_tail;
    write_packets(path, 9);
    int64_t begin_ns = path->host.now_ns;
    while (path->tcp.snd_una != path->written)
        run_until(path, path->host.now_ns + MS);
    CHECK_EQ(path->timeouts, 0);
    CHECK_EQ(path->probes, 1);
    CHECK(path->host.now_ns - begin_ns < 80 * MS);
    path_close(path);
}
