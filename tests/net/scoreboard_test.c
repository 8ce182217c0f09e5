/* What SACK says has arrived (RFC 2018, 2883, 6675), and who uses the scoreboard. Each test is named after the RFC's section that it shows. */
#include "path.h"

/* ---- RFC 2018, 2883, 6675: the scoreboard -------------------------------------------------------------------- */

TEST(rfc6675_4_pipe_is_what_is_neither_sacked_nor_lost)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 10);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 10 * MSS);
    pass(path, 10 * MS);
    HEAR(path, 1, 2, 4);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 8 * MSS);
    CHECK(is_marked(path, 2, CR__SENT_SACKED) && is_marked(path, 3, CR__SENT_SACKED));
    HEAR(path, 1, 2, 5); /* the third: 1 is lost */
    CHECK(is_marked(path, 1, CR__SENT_LOST));
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 6 * MSS);
    CHECK_EQ(output(path), 1);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 7 * MSS);
    path_close(path);
}

TEST(rfc2018_5_blocks_that_make_no_sense_change_nothing)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 10);
    const uint32_t blocks[][2] = {
        {seq_of(5), seq_of(5)},   {seq_of(5), seq_of(4)},    {seq_of(8), seq_of(12)},           {seq_of(11), seq_of(12)},
        {seq_of(1), seq_of(2)},   {seq_of(20), seq_of(200)}, {seq_of(3), seq_of(3) + 0x7fffffff}, {seq_of(0), seq_of(3)},
        {seq_of(3) + 1, seq_of(4)}, {seq_of(3), seq_of(4) - 1},
    };
    pass(path, 10 * MS);
    for (unsigned i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        struct cr__segment seg = {.ack = seq_of(1), .sack_count = 1};
        seg.sack[0].from = blocks[i][0];
        seg.sack[0].to = blocks[i][1];
        CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 0);
        check(path);
        CHECK_EQ(path->flight.sacked_bytes, 0);
        CHECK_EQ(cr__recovery_in_flight(&path->tcp), 10 * MSS);
    }
    struct cr__segment seg = {.ack = seq_of(1), .sack_count = 255};
    CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 0);
    check(path);
    path_close(path);
}

TEST(rfc2018_8_after_a_timeout_sack_is_forgotten_and_the_left_edge_is_sent)
{
    struct path *path = path_flying(CR__TCP_SACK, 6);
    HEAR(path, 1, 3, 5);
    CHECK_EQ(path->flight.sacked_count, 2);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    check(path);
    CHECK_EQ(path->flight.sacked_bytes, 0);
    for (int i = 1; i < 7; i++)
        CHECK(is_marked(path, i, CR__SENT_LOST));
    CHECK_EQ(output(path), 1);
    CHECK_EQ(path->log[path->logged - 1], -1 - 1);
    path_close(path);
}

TEST(rfc2018_8_a_peer_that_reneges_gets_all_in_the_end)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->delay_ns = 5 * MS;
    send_packets(path, 10);
    pass(path, 1 * MS);
    path->event_count = 0; /* all are lost, whatever the peer says: */
    HEAR(path, 1, 2, 11);
    path->rcv_nxt = path->last_ack = seq_of(1);
    run_until(path, path->host.now_ns + 20000 * MS);
    CHECK_EQ(path->rcv_nxt, seq_of(11));
    CHECK_EQ(path->tcp.snd_una, seq_of(11));
    path_close(path);
}

TEST(a_packet_that_is_sacked_in_part_counts_as_not_sacked_and_one_acknowledged_in_part_as_the_rest)
{
    struct path *path = path_flying(CR__TCP_SACK, 4);
    struct cr__segment seg = {.ack = seq_of(1) + 400, .sack_count = 1};
    seg.sack[0].from = seq_of(3) - 500;
    seg.sack[0].to = seq_of(4);
    CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 400);
    check(path);
    CHECK_EQ(path->flight.head_acked_bytes, 400);
    CHECK_EQ(path->flight.sacked_bytes, MSS);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 4 * MSS - 400 - MSS);
    cr__recovery_timeout(&path->tcp); /* the half one is lost, too: counts stay true */
    check(path);
    seg = (struct cr__segment){.ack = seq_of(1) + 700};
    CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 300);
    check(path);
    CHECK_EQ(HEAR_PLAIN(path, 5), 300 + 3 * MSS);
    path_close(path);
}

TEST(rfc2883_4_1_a_first_block_below_the_ack_is_a_duplicate_and_sacks_nothing)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 6);
    path->flight.retransmits = 1;
    pass(path, 10 * MS);
    HEAR(path, 3, 1, 2);
    CHECK(path->flight.rack_dsack_is_set);
    CHECK_EQ(path->flight.sacked_bytes, 0);
    path_close(path);
}

TEST(rfc2883_4_2_a_first_block_within_the_second_is_a_duplicate)
{
    struct path *path = path_known(CR__TCP_SACK);
    send_packets(path, 6);
    path->flight.retransmits = 1;
    pass(path, 10 * MS);
    HEAR(path, 1, 4, 5, 3, 6);
    CHECK(path->flight.rack_dsack_is_set);
    CHECK_EQ(path->flight.sacked_count, 3);
    path_close(path);
}

/* ---- What calls it ------------------------------------------------------------------------------------------- */

TEST(a_packet_that_is_cut_is_two_in_the_same_state)
{
    struct path *path = path_flying(CR__TCP_SACK, 4);
    HEAR(path, 1, 2, 3);
    struct cr_packet *cut = path->flight.sent_last;
    for (int round = 0; round < 2; round++) { /* the last one under way; then, lost */
        struct cr_packet *rest = packet_new(path);
        struct cr__sent *sent = cr__sent_of(cut);
        uint32_t kept = sent->payload_bytes / 2;
        *cr__sent_of(rest) = (struct cr__sent){.seq = sent->seq + kept, .payload_bytes = sent->payload_bytes - kept, .next = sent->next};
        sent->payload_bytes = kept;
        sent->next = rest;
        if (path->flight.send.last == cut)
            path->flight.send.last = rest;
        path->flight.send.count++;
        cr__recovery_split(&path->tcp, cut, rest);
        check(path);
        CHECK_EQ(cr__recovery_in_flight(&path->tcp), round == 0 ? 3 * MSS : 0);
        if (round == 0) {
            pass(path, 300 * MS);
            cr__recovery_timeout(&path->tcp);
        }
    }
    output(path);
    CHECK_EQ(HEAR_PLAIN(path, 5), 4 * MSS);
    path_close(path);
}

TEST(when_the_queue_is_dropped_nothing_leads_to_its_packets_any_more)
{
    struct path *path = path_flying(CR__TCP_SACK, 6);
    HEAR(path, 1, 3, 6);
    struct cr_packet *packet;
    while ((packet = cr__sendq_pop(&path->flight.send)) != NULL)
        cr__packet_put(path->host.packets, packet);
    path->flight.send_bytes = path->flight.head_acked_bytes = 0;
    cr__recovery_drop(&path->tcp);
    cr__recovery_check(&path->tcp);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 0);
    CHECK(cr__recovery_next(&path->tcp) == NULL);
    path_close(path);
}

TEST(without_a_flight_an_ack_moves_snd_una_only)
{
    struct path *path = path_open(CR__TCP_SACK);
    path->tcp.flight = NULL;
    path->tcp.snd_nxt++;
    struct cr__segment seg = {.ack = BEGIN + 1};
    CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 0);
    CHECK_EQ(path->tcp.snd_una, BEGIN + 1);
    CHECK_EQ(cr__recovery_in_flight(&path->tcp), 0);
    CHECK(cr__recovery_next(&path->tcp) == NULL);
    cr__recovery_timeout(&path->tcp);
    cr__recovery_probe(&path->tcp);
    cr__recovery_reorder(&path->tcp);
    cr__recovery_forget_sack(&path->tcp);
    cr__recovery_arm(&path->tcp);
    path->tcp.flight = &path->flight;
    path_close(path);
}

TEST(a_fin_alone_in_flight_has_a_probe_then_an_rto_and_a_probe_of_a_window_is_left_alone)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->flight.resend_kind = CR__RESEND_PROBE;
    path->flight.resend_ns = 77;
    cr__recovery_arm(&path->tcp);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_PROBE);
    CHECK_EQ(path->flight.resend_ns, 77);
    path->tcp.snd_nxt++;
    path->tcp.flags |= CR__TCP_FIN_SENT;
    cr__recovery_arm(&path->tcp);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_TLP);
    int64_t at_ns = path->flight.resend_ns;
    pass(path, 50 * MS);
    cr__recovery_arm(&path->tcp);
    CHECK_EQ(path->flight.resend_ns, at_ns);
    pass(path, at_ns - path->host.now_ns);
    cr__recovery_probe(&path->tcp);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_RTO);
    CHECK_EQ(path->flight.resend_ns, path->host.now_ns + 210 * MS);
    pass(path, 210 * MS);
    cr__recovery_timeout(&path->tcp);
    CHECK_EQ(path->flight.recovery, CR__OPEN);
    CHECK_EQ(path->flight.resend_ns, path->host.now_ns + 2 * 210 * MS);
    struct cr__segment seg = {.ack = seq_of(1) + 1};
    CHECK_EQ(cr__recovery_ack(&path->tcp, &seg), 0);
    CHECK_EQ(path->flight.resend_kind, CR__RESEND_NOTHING);
    path_close(path);
}

/* ---- Bounds -------------------------------------------------------------------------------------------------- */

#define MANY 12000

TEST(a_block_that_takes_more_steps_than_one_ack_may_is_taken_with_the_next)
{
    struct path *path = path_known(CR__TCP_SACK);
    path->tcp.cwnd_bytes = 2 * MANY * MSS;
    write_packets(path, MANY);
    while (path->flight.unsent) {
        struct cr_packet *packet = path->flight.unsent;
        path->flight.unsent = cr__sent_next(packet);
        path->tcp.snd_nxt += MSS;
        cr__recovery_sent(&path->tcp, packet);
    }
    path->tcp.flags |= CR__TCP_REORDERED;
    path->tcp.min_rtt_us = path->tcp.srtt_us = 1000000;
    int acks = 0;
    while (path->flight.sacked_count == 0 && acks < 100) {
        HEAR(path, 1, MANY - 1, MANY);
        acks++;
    }
    CHECK_EQ(acks, MANY / (256 - 1) + 1); /* each begins where the last one has ended */
    path_close(path);
}
