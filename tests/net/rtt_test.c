/* RTT and RTO (RFC 6298), and the shortest RTT. Each test is named after the RFC's section that it shows. */
#include "path.h"

TEST(rfc6298_2_1_before_a_sample_rto_is_a_second)
{
    struct path *path = path_open(CR__TCP_SACK);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 1000000);
    send_packets(path, 1);
    CHECK_EQ(path->flight.resend_ns - path->host.now_ns, 1000 * MS);
    path_close(path);
}

TEST(rfc6298_2_2_the_first_sample_is_srtt_and_half_of_it_rttvar)
{
    struct path *path = path_open(0);
    cr__recovery_rtt(&path->tcp, 400000);
    CHECK_EQ(path->tcp.srtt_us, 400000);
    CHECK_EQ(path->tcp.rttvar_us, 200000);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 400000 + 4 * 200000);
    path_close(path);
}

TEST(rfc6298_2_3_later_samples_count_an_eighth_and_a_quarter)
{
    struct path *path = path_open(0);
    cr__recovery_rtt(&path->tcp, 400000);
    cr__recovery_rtt(&path->tcp, 800000);
    CHECK_EQ(path->tcp.rttvar_us, (3 * 200000 + 400000) / 4);
    CHECK_EQ(path->tcp.srtt_us, (7 * 400000 + 800000) / 8);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 450000 + 4 * 250000);
    path_close(path);
}

TEST(rfc6298_2_4_rto_is_200_ms_more_than_srtt_at_least)
{
    struct path *path = path_open(0);
    for (int i = 0; i < 100; i++)
        cr__recovery_rtt(&path->tcp, 10000);
    CHECK_EQ(path->tcp.srtt_us, 10000);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 210000);
    path_close(path);
}

TEST(rfc6298_2_5_rto_is_120_s_at_most)
{
    struct path *path = path_open(0);
    cr__recovery_rtt(&path->tcp, 60000000);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 120000000);
    path->tcp.backoff = 9;
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 120000000);
    path_close(path);
}

TEST(rfc6298_3_karn_what_was_sent_twice_gives_no_sample)
{
    struct path *path = path_open(CR__TCP_SACK);
    send_packets(path, 1);
    pass(path, 1000 * MS);
    due(path);
    CHECK_EQ(path->log[1], -1);
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 1);
    CHECK_EQ(path->tcp.srtt_us, 0);
    send_packets(path, 1);
    pass(path, 30 * MS);
    HEAR_PLAIN(path, 2);
    CHECK_EQ(path->tcp.srtt_us, 30000);
    path_close(path);
}

TEST(rfc7323_4_1_a_timestamp_gives_a_sample_of_what_was_sent_twice)
{
    struct path *path = path_open(SACK_TS);
    send_packets(path, 1);
    pass(path, 1000 * MS);
    due(path);
    pass(path, 10 * MS);
    hear_at(path, 1, NULL, 10);
    CHECK_EQ(path->tcp.srtt_us, 10000);
    path_close(path);
}

TEST(rfc6298_3_a_round_trip_gives_one_sample)
{
    struct path *path = path_open(CR__TCP_SACK);
    send_packets(path, 4);
    pass(path, 100 * MS);
    HEAR_PLAIN(path, 1);
    CHECK_EQ(path->tcp.srtt_us, 100000);
    pass(path, 50 * MS);
    HEAR_PLAIN(path, 2); /* of the same round */
    CHECK_EQ(path->tcp.srtt_us, 100000);
    send_packets(path, 1);
    pass(path, 180 * MS);
    HEAR_PLAIN(path, 5);
    CHECK(path->tcp.srtt_us > 100000);
    path_close(path);
}

TEST(rfc6298_5_1_and_5_3_the_timer_runs_from_the_first_sending_and_from_each_ack_that_advances)
{
    struct path *path = path_open(0);
    int64_t begin_ns = path->host.now_ns;
    send_packets(path, 1);
    pass(path, 100 * MS);
    send_packets(path, 1); /* does not put it off */
    cr__recovery_arm(&path->tcp);
    CHECK_EQ(path->flight.resend_ns, begin_ns + 1000 * MS);
    HEAR_PLAIN(path, 1);
    CHECK_EQ(path->flight.resend_ns, path->host.now_ns + 300 * MS); /* 100 + 4 * 50 */
    pass(path, 10 * MS);
    HEAR_PLAIN(path, 1); /* a duplicate does not, either */
    CHECK_EQ(path->flight.resend_ns, path->host.now_ns + 290 * MS);
    path_close(path);
}

TEST(rfc6298_5_2_when_all_is_acknowledged_no_timer_runs)
{
    struct path *path = path_open(CR__TCP_SACK);
    send_packets(path, 3);
    pass(path, 10 * MS);
    CHECK_EQ(HEAR_PLAIN(path, 3), 3 * MSS);
    CHECK_EQ(path->flight.resend_ns, 0);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_NOTHING);
    CHECK_EQ(path->flight.send_bytes, 0);
    CHECK(path->flight.send.first == NULL);
    path_close(path);
}

TEST(rfc6298_5_5_and_5_7_each_timeout_doubles_rto_until_there_is_a_new_sample)
{
    struct path *path = path_open(CR__TCP_SACK);
    send_packets(path, 1);
    pass(path, 40 * MS);
    HEAR_PLAIN(path, 1);
    uint32_t rto_us = cr__recovery_rto_us(&path->tcp);
    CHECK_EQ(rto_us, 240000);
    send_packets(path, 2);
    for (int i = 1; i <= 12; i++) {
        cr__recovery_timeout(&path->tcp);
        output(path);
        check(path);
        uint64_t expected_us = (uint64_t)rto_us << i;
        CHECK_EQ(path->flight.resend_ns - path->host.now_ns, (int64_t)(expected_us < 120000000 ? expected_us : 120000000) * 1000);
        pass(path, path->flight.resend_ns - path->host.now_ns);
    }
    HEAR_PLAIN(path, 3); /* sent often: no sample, so still backed off */
    CHECK_EQ(path->tcp.backoff, 12);
    send_packets(path, 1);
    pass(path, 40 * MS);
    HEAR_PLAIN(path, 4);
    CHECK_EQ(path->tcp.backoff, 0);
    path_close(path);
}

TEST(rfc6298_5_7_after_a_syn_that_was_lost_rto_is_3_s)
{
    struct path *path = path_open(0);
    path->tcp.snd_una = BEGIN - 1;
    path->tcp.backoff = 1;
    cr__recovery_arm(&path->tcp);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    CHECK_EQ(path->flight.resend_ns, path->host.now_ns + 2000 * MS);
    HEAR_PLAIN(path, 0);
    CHECK_EQ(cr__recovery_rto_us(&path->tcp), 3000000);
    path_close(path);
}

TEST(the_shortest_rtt_is_of_the_last_minutes)
{
    struct path *path = path_open(CR__TCP_SACK);
    const int rtts_ms[] = {30, 10, 20};
    for (int i = 0; i < 3; i++) {
        send_packets(path, 1);
        pass(path, rtts_ms[i] * MS);
        HEAR_PLAIN(path, i + 1);
    }
    CHECK_EQ(path->tcp.min_rtt_us, 10000);
    pass(path, 300000 * MS);
    send_packets(path, 1);
    pass(path, 20 * MS);
    HEAR_PLAIN(path, 4);
    CHECK_EQ(path->tcp.min_rtt_us, 20000);
    path_close(path);
}
