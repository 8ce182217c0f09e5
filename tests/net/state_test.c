/* TCP's states, one event at a time (RFC 9293, 3.10), against a peer made by hand whose sequence numbers, and ours, are about to wrap. */
#include "by_hand.h"

static struct pair pair;
static unsigned events;

static void note_event(struct cr__tcp *tcp, unsigned told)
{
    CHECK(tcp != NULL);
    events |= told;
}

static const struct cr__tcp_config none;
static const struct cr__tcp_opts no_opts;

#define OURS (HAND_ISN + 1)         /* the first byte that a sends */
#define THEIRS (HAND_PEER_ISN + 1)  /* and the first that comes */

/* One that has said SYN. */
static struct cr__tcp *syn_sent(const struct cr__tcp_config *config, const struct cr__tcp_opts *opts)
{
    struct cr__tcp_config own = *config;
    struct cr__tcp *tcp;
    struct cr__ip to = pair_ip4(2);
    events = 0;
    own.above.event = note_event;
    hand_start(&pair, &own);
    CHECK_EQ(cr__tcp_dial(&pair.a, &tcp, NULL, HAND_PORT, &to, HAND_PEER_PORT, opts), 0);
    pair_run(&pair, PAIR_MS);
    return tcp;
}

/* One that is established, by dialling. The peer says those options. */
static struct cr__tcp *dial_with(const struct cr__tcp_config *config, const struct cr__tcp_opts *opts, struct cr__segment answer)
{
    struct cr__tcp *tcp = syn_sent(config, opts);
    hand_next(NULL);
    answer.flags |= CR__SYN | CR__ACK;
    answer.seq = HAND_PEER_ISN;
    answer.ack = OURS;
    answer.window = 20000;
    hand_send(&pair, answer, NULL);
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    CHECK(events & CR__TCP_OPENED);
    events = 0;
    cr__tcp_check(tcp);
    return tcp;
}

static struct cr__tcp *dial(void)
{
    return dial_with(&none, &no_opts, (struct cr__segment){.mss_bytes = 1000});
}

static ssize_t write_text(struct cr__tcp *tcp, const char *text, bool more)
{
    ssize_t n = cr__tcp_send(tcp, &(struct iovec){(void *)(uintptr_t)text, strlen(text)}, 1, more);
    pair_run(&pair, 0);
    cr__tcp_check(tcp);
    return n;
}

static ssize_t write_bytes(struct cr__tcp *tcp, size_t size)
{
    static char bytes[100000];
    ssize_t n = cr__tcp_send(tcp, &(struct iovec){bytes, size}, 1, false);
    pair_run(&pair, 0);
    cr__tcp_check(tcp);
    return n;
}

static ssize_t read_all(struct cr__tcp *tcp, char *buf, size_t size)
{
    ssize_t n = cr__tcp_recv(tcp, &(struct iovec){buf, size}, 1);
    pair_run(&pair, 0);
    return n;
}

/* All that there are. */
static struct cr_packet *taken[200000];
static uint32_t taken_count;

static void take_packets(void)
{
    while ((taken[taken_count] = cr__packet_get(&pair.packets)) != NULL)
        taken_count++;
}

static void give_packets(void)
{
    while (taken_count > 0)
        cr__packet_put(&pair.packets, taken[--taken_count]);
}

static void forget_all(void)
{
    while (hand.count)
        hand_next(NULL);
}

/* ---- SYN-SENT and SYN-RECEIVED ------------------------------------------------------------------------------------ */

TEST(a_syn_says_what_linux_says)
{
    syn_sent(&none, NULL);
    struct cr__segment syn = hand_next(NULL);
    CHECK_EQ(syn.flags, CR__SYN);
    CHECK_EQ(syn.seq, HAND_ISN);
    CHECK(syn.mss_bytes == 1460 && syn.sack_permitted && syn.has_timestamp && syn.has_scale && syn.ts_echo == 0);
    CHECK_EQ(syn.scale, 5); /* 1 MiB */
    hand_finish(&pair);
}

TEST(a_syn_is_sent_six_times_more_and_then_the_dialler_is_told)
{
    struct cr__tcp *tcp = syn_sent(&none, NULL);
    pair_run(&pair, 126 * PAIR_SECOND);
    CHECK_EQ(hand.count, 7);
    CHECK_EQ(events, 0);
    pair_run(&pair, 2 * PAIR_SECOND);
    CHECK(events & CR__TCP_ENDED);
    CHECK_EQ(tcp->error, ETIMEDOUT);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(syn_sent_resets_a_wrong_ack_and_ignores_a_reset_without_one)
{
    struct cr__tcp *tcp = syn_sent(&none, NULL);
    forget_all();
    hand_flags(&pair, CR__SYN | CR__ACK, HAND_PEER_ISN, HAND_ISN, NULL);
    HAND_EXPECT(CR__RST, HAND_ISN, 0);
    hand_flags(&pair, CR__ACK, HAND_PEER_ISN, HAND_ISN + 2, NULL);
    HAND_EXPECT(CR__RST, HAND_ISN + 2, 0);
    hand_flags(&pair, CR__RST | CR__ACK, 0, HAND_ISN + 2, NULL);
    hand_flags(&pair, CR__RST, 0, 0, NULL);
    hand_flags(&pair, CR__ACK, HAND_PEER_ISN, OURS, NULL); /* neither SYN nor RST */
    HAND_QUIET();
    CHECK_EQ(tcp->state, CR__TCP_SYN_SENT);
    hand_flags(&pair, CR__RST | CR__ACK, 0, OURS, NULL);
    CHECK_EQ(tcp->error, ECONNREFUSED);
    CHECK(events & CR__TCP_ENDED);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(syn_received_after_both_dialled_is_left_by_ack_or_reset)
{
    struct cr__tcp *tcp = syn_sent(&none, NULL);
    forget_all();
    hand_flags(&pair, CR__SYN, HAND_PEER_ISN, 0, NULL);
    CHECK_EQ(tcp->state, CR__TCP_SYN_RECEIVED);
    HAND_EXPECT(CR__SYN | CR__ACK, HAND_ISN, THEIRS);
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1, NULL);
    HAND_EXPECT(CR__RST, OURS + 1, 0);
    pair_run(&pair, 1100 * PAIR_MS);
    HAND_EXPECT(CR__SYN | CR__ACK, HAND_ISN, THEIRS); /* again */
    hand_flags(&pair, CR__ACK, THEIRS, OURS, NULL);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    CHECK(events & CR__TCP_OPENED);
    HAND_QUIET();
    cr__tcp_check(tcp);
    hand_finish(&pair);
    tcp = syn_sent(&none, NULL);
    forget_all();
    hand_flags(&pair, CR__SYN, HAND_PEER_ISN, 0, NULL);
    hand_flags(&pair, CR__RST, THEIRS, 0, NULL);
    CHECK_EQ(tcp->error, ECONNREFUSED);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

/* ---- Checks of synchronized states (RFC 5961) ----------------------------------------------------------------------- */

TEST(only_an_exact_reset_ends_it_and_others_in_the_window_are_challenged)
{
    struct cr__tcp *tcp = dial();
    hand_flags(&pair, CR__RST, THEIRS + 1, 0, NULL);
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    hand_flags(&pair, CR__RST, THEIRS - 1, 0, NULL); /* outside */
    hand_flags(&pair, CR__RST, THEIRS + 0x10000000, 0, NULL);
    HAND_QUIET();
    hand_flags(&pair, CR__SYN, THEIRS + 5, 0, NULL);
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    hand_flags(&pair, CR__RST, THEIRS, 0, NULL);
    CHECK_EQ(tcp->state, CR__TCP_CLOSED);
    CHECK_EQ(tcp->error, ECONNRESET);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(an_ack_of_what_was_not_sent_or_long_ago_is_challenged)
{
    struct cr__tcp *tcp = dial();
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1, "x");
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    hand_flags(&pair, CR__ACK, THEIRS, OURS - 20001, "x");
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_ACK], 2);
    CHECK_EQ(tcp->rcv_nxt, THEIRS);
    hand_flags(&pair, CR__ACK, THEIRS, OURS - 20000, "x"); /* old, but within what may have been sent */
    CHECK_EQ(tcp->rcv_nxt, THEIRS + 1);
    hand_flags(&pair, 0, THEIRS + 1, 0, "y"); /* no ACK */
    CHECK_EQ(tcp->rcv_nxt, THEIRS + 1);
    hand_finish(&pair);
}

TEST(challenges_are_limited_each_second)
{
    dial();
    for (int i = 0; i < 1000; i++) {
        hand_flags(&pair, CR__SYN, THEIRS + 5, 0, NULL);
        CHECK(hand.count < 300);
    }
    CHECK(hand.count >= 100);
    CHECK_EQ(hand.count + pair.a.drops[CR__DROP_TCP_LIMIT], 1000);
    hand_finish(&pair);
}

/* ---- Text -------------------------------------------------------------------------------------------------------------- */

TEST(text_out_of_order_is_kept_and_told_of_the_most_recent_first)
{
    struct cr__tcp *tcp = dial_with(&none, &no_opts, (struct cr__segment){.sack_permitted = true});
    hand_flags(&pair, CR__ACK, THEIRS + 4, OURS, "45");
    hand_flags(&pair, CR__ACK, THEIRS + 8, OURS, "89");
    forget_all();
    hand_flags(&pair, CR__ACK, THEIRS + 2, OURS, "2");
    struct cr__segment ack = hand_next(NULL);
    CHECK_EQ(ack.sack_count, 3);
    CHECK(ack.sack[0].from == THEIRS + 2 && ack.sack[0].to == THEIRS + 3);
    CHECK(ack.sack[1].from == THEIRS + 8 && ack.sack[1].to == THEIRS + 10);
    hand_flags(&pair, CR__ACK, THEIRS + 3, OURS, "3456"); /* fills, and laps over */
    ack = hand_next(NULL);
    CHECK(ack.sack[0].from == THEIRS + 4 && ack.sack[0].to == THEIRS + 6); /* D-SACK */
    CHECK(ack.sack[1].from == THEIRS + 2 && ack.sack[1].to == THEIRS + 7);
    cr__tcp_check(tcp);
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "01");
    ack = hand_next(NULL);
    CHECK_EQ(ack.ack, THEIRS + 7);
    CHECK(ack.sack_count == 1 && ack.sack[0].from == THEIRS + 8);
    hand_flags(&pair, CR__ACK | CR__FIN, THEIRS + 10, OURS, NULL); /* a FIN waits, too */
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    hand_flags(&pair, CR__ACK, THEIRS + 7, OURS, "7");
    CHECK_EQ(tcp->state, CR__TCP_CLOSE_WAIT);
    char buf[32] = {0};
    CHECK_EQ(read_all(tcp, buf, sizeof(buf)), 10);
    CHECK(strcmp(buf, "0123456789") == 0);
    CHECK_EQ(read_all(tcp, buf, sizeof(buf)), 0);
    hand_finish(&pair);
}

TEST(what_comes_twice_is_acknowledged_at_once_and_told_of)
{
    struct cr__tcp *tcp = dial_with(&none, &no_opts, (struct cr__segment){.sack_permitted = true});
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "0123");
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 4);
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "0123");
    struct cr__segment ack = hand_next(NULL);
    CHECK_EQ(ack.ack, THEIRS + 4);
    CHECK(ack.sack_count == 1 && ack.sack[0].from == THEIRS && ack.sack[0].to == THEIRS + 4);
    CHECK_EQ(tcp->flight->receive_bytes, 4);
    hand_finish(&pair);
}

TEST(an_ack_is_delayed_by_40_ms_at_most_and_two_full_segments_have_one_at_once)
{
    struct cr__tcp *tcp = dial();
    char text[1001];
    tcp->quick_acks = 0; /* it is not at its beginning any more */
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "0");
    pair_run(&pair, 39 * PAIR_MS);
    HAND_QUIET();
    pair_run(&pair, 2 * PAIR_MS);
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 1);
    memset(text, 'x', 1000);
    text[1000] = '\0';
    hand_flags(&pair, CR__ACK, THEIRS + 1, OURS, text);
    HAND_QUIET();
    hand_flags(&pair, CR__ACK, THEIRS + 1001, OURS, text);
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 2001);
    hand_flags(&pair, CR__ACK, THEIRS + 2001, OURS, "0");
    write_text(tcp, "answer", false);
    HAND_EXPECT(CR__ACK | CR__PSH, OURS, THEIRS + 2002); /* carried */
    pair_run(&pair, 50 * PAIR_MS);
    HAND_QUIET();
    hand_finish(&pair);
}

TEST(no_ack_is_delayed_where_that_is_not_wanted)
{
    dial_with(&(struct cr__tcp_config){.no_delayed_acks = true}, &no_opts, (struct cr__segment){0});
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "0");
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 1);
    hand_finish(&pair);
}

TEST(without_packets_nothing_is_lost_and_a_send_is_told_when_to_try_again)
{
    struct cr__tcp *tcp = dial();
    take_packets();
    CHECK_EQ(write_text(tcp, "hello", false), -ENOBUFS);
    events = 0;
    give_packets();
    pair_run(&pair, 20 * PAIR_MS);
    CHECK(events & CR__TCP_WRITABLE);
    CHECK_EQ(write_text(tcp, "hello", false), 5);
    CHECK_EQ(hand_next(NULL).payload_bytes, 5);
    hand_finish(&pair);
}

TEST(a_fin_for_which_there_is_no_packet_leaves_later)
{
    struct cr__tcp *tcp = dial();
    take_packets();
    CHECK_EQ(cr__tcp_shutdown(tcp), 0);
    cr__tcp_check(tcp);
    give_packets();
    HAND_QUIET();
    pair_run(&pair, 20 * PAIR_MS);
    HAND_EXPECT(CR__FIN | CR__ACK, OURS, THEIRS);
    hand_finish(&pair);
}

TEST(small_segments_gather_in_few_packets)
{
    struct cr__tcp *tcp = dial();
    for (uint32_t i = 0; i < 1000; i++)
        hand_flags(&pair, CR__ACK, THEIRS + i, OURS, "x");
    CHECK_EQ(tcp->flight->receive_bytes, 1000);
    CHECK_EQ(tcp->flight->receive.count, 1);
    hand_finish(&pair);
}

TEST(what_goes_beyond_the_window_is_cut_and_comes_again)
{
    struct cr__tcp *tcp = dial_with(&none, &(struct cr__tcp_opts){.recv_limit_bytes = 8}, (struct cr__segment){0});
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "0123456789");
    struct cr__segment ack = hand_next(NULL);
    CHECK_EQ(ack.ack, THEIRS + 8);
    CHECK_EQ(ack.window, 0);
    hand_flags(&pair, CR__ACK, THEIRS + 8, OURS, "8"); /* a probe */
    ack = hand_next(NULL);
    CHECK(ack.ack == THEIRS + 8 && ack.window == 0);
    char buf[16];
    CHECK_EQ(read_all(tcp, buf, 2), 2);
    HAND_QUIET(); /* not worth it yet */
    CHECK_EQ(read_all(tcp, buf, 6), 6);
    ack = hand_next(NULL);
    CHECK(ack.ack == THEIRS + 8 && ack.window == 8);
    hand_finish(&pair);
}

TEST(a_lent_packet_counts_until_it_is_returned)
{
    struct cr__tcp *tcp = dial();
    struct cr_packet *packet;
    hand_flags(&pair, CR__ACK, THEIRS, OURS, "lent");
    CHECK_EQ(cr__tcp_recv_lend(tcp, &packet), 4);
    CHECK(memcmp(packet->data, "lent", 4) == 0);
    CHECK_EQ(tcp->flight->lent_bytes, 4);
    pair_run(&pair, 100 * PAIR_MS);
    CHECK(tcp->flight != NULL);
    CHECK_EQ(cr__tcp_recv_lend(tcp, &packet), -EAGAIN);
    cr__tcp_recv_return(tcp, packet);
    CHECK(!tcp->flight);
    hand_finish(&pair);
}

/* ---- Timestamps ---------------------------------------------------------------------------------------------------------- */

static void stamped(uint8_t flags, uint32_t seq, uint32_t value, const char *text)
{
    hand_send(&pair, (struct cr__segment){.flags = flags, .seq = seq, .ack = OURS, .window = 20000, .has_timestamp = true, .ts_value = value}, text);
}

TEST(an_old_timestamp_is_dropped_unless_24_days_have_gone_by)
{
    struct cr__tcp *tcp = dial_with(&none, &no_opts, (struct cr__segment){.has_timestamp = true, .ts_value = 0xfffffff0});
    stamped(CR__ACK, THEIRS, 5, "a"); /* later, across the wrap */
    CHECK_EQ(tcp->ts_recent, 5);
    stamped(CR__ACK, THEIRS + 1, 4, "b");
    CHECK_EQ(tcp->rcv_nxt, THEIRS + 1);
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_PAWS], 1);
    struct cr__segment ack = hand_next(NULL);
    CHECK(ack.has_timestamp && ack.ts_echo == 5 && ack.ack == THEIRS + 1);
    hand_flags(&pair, CR__ACK, THEIRS + 1, OURS, "b"); /* none at all */
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_PAWS], 2);
    stamped(CR__ACK, THEIRS + 2, 9, "c"); /* early: what is echoed is not changed by it */
    CHECK_EQ(tcp->ts_recent, 5);
    stamped(CR__ACK, THEIRS + 1, 8, "b");
    CHECK_EQ(tcp->ts_recent, 8);
    CHECK_EQ(tcp->rcv_nxt, THEIRS + 3);
    pair_run(&pair, 25ll * 86400 * PAIR_SECOND);
    stamped(CR__ACK, THEIRS + 3, 7, "d");
    CHECK_EQ(tcp->rcv_nxt, THEIRS + 4);
    CHECK_EQ(tcp->ts_recent, 7);
    hand_finish(&pair);
}

/* ---- Sending --------------------------------------------------------------------------------------------------------------- */

TEST(nagle_holds_back_what_is_small_while_something_is_out)
{
    struct cr__tcp *tcp = dial_with(&none, &(struct cr__tcp_opts){.nagle = true}, (struct cr__segment){.mss_bytes = 1000});
    write_text(tcp, "one", false);
    write_text(tcp, "two", false);
    HAND_EXPECT(CR__ACK | CR__PSH, OURS, THEIRS);
    HAND_QUIET();
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 3, NULL);
    HAND_EXPECT(CR__ACK | CR__PSH, OURS + 3, THEIRS);
    hand_finish(&pair);
    tcp = dial(); /* and does not unless it is asked to */
    write_text(tcp, "one", false);
    write_text(tcp, "two", false);
    CHECK_EQ(hand.count, 2);
    hand_finish(&pair);
}

TEST(more_holds_back_for_200_ms_or_until_a_segment_is_full)
{
    struct cr__tcp *tcp = dial();
    const char *text;
    write_text(tcp, "one", true);
    HAND_QUIET();
    write_text(tcp, "two", false);
    CHECK_EQ(hand_next(&text).payload_bytes, 6);
    CHECK(strcmp(text, "onetwo") == 0);
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 6, NULL);
    write_text(tcp, "three", true);
    pair_run(&pair, 199 * PAIR_MS);
    HAND_QUIET();
    pair_run(&pair, 2 * PAIR_MS);
    CHECK_EQ(hand_next(&text).payload_bytes, 5);
    hand_finish(&pair);
}

TEST(a_small_window_is_filled_only_when_half_of_the_largest_or_when_time_has_gone_by)
{
    struct cr__tcp *tcp = dial();
    hand_send(&pair, (struct cr__segment){.flags = CR__ACK, .seq = THEIRS, .ack = OURS, .window = 500}, NULL);
    write_bytes(tcp, 1000);
    HAND_QUIET();
    pair_run(&pair, 1100 * PAIR_MS);
    struct cr__segment seg = hand_next(NULL);
    CHECK_EQ(seg.payload_bytes, 500);
    hand_finish(&pair);
}

TEST(a_closed_window_is_probed_ever_more_seldom_and_for_as_long_as_the_peer_answers)
{
    struct cr__tcp *tcp = dial();
    hand_send(&pair, (struct cr__segment){.flags = CR__ACK, .seq = THEIRS, .ack = OURS, .window = 0}, NULL);
    write_bytes(tcp, 1000);
    HAND_QUIET();
    for (int i = 0; i < 60; i++) {
        for (int waited = 0; hand.count == 0; waited++) {
            CHECK(waited < 700);
            pair_run(&pair, 100 * PAIR_MS);
        }
        HAND_EXPECT(CR__ACK, OURS - 1, THEIRS);
        hand_send(&pair, (struct cr__segment){.flags = CR__ACK, .seq = THEIRS, .ack = OURS, .window = 0}, NULL);
        cr__tcp_check(tcp);
    }
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    hand_flags(&pair, CR__ACK, THEIRS, OURS, NULL);
    CHECK_EQ(hand_next(NULL).payload_bytes, 1000);
    CHECK_EQ(tcp->probes, 0);
    hand_finish(&pair);
}

TEST(a_peer_that_answers_no_more_is_given_up_after_fifteen_timeouts)
{
    struct cr__tcp *tcp = dial();
    write_text(tcp, "hello", false);
    pair_run(&pair, 900 * PAIR_SECOND);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    pair_run(&pair, 600 * PAIR_SECOND);
    CHECK_EQ(tcp->error, ETIMEDOUT);
    CHECK_EQ(hand.count, 16);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(a_user_timeout_ends_it_earlier)
{
    struct cr__tcp *tcp = dial_with(&none, &(struct cr__tcp_opts){.user_timeout_ms = 5000}, (struct cr__segment){0});
    pair_run(&pair, 60 * PAIR_SECOND); /* nothing is out: nothing times out */
    write_text(tcp, "hello", false);
    pair_run(&pair, 4900 * PAIR_MS);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    pair_run(&pair, 200 * PAIR_MS);
    CHECK_EQ(tcp->error, ETIMEDOUT);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(keep_alives_are_sent_if_asked_for_and_nine_unanswered_end_it)
{
    struct cr__tcp *tcp = dial_with(&none, &(struct cr__tcp_opts){.keepalive = true}, (struct cr__segment){0});
    pair_run(&pair, 7199 * PAIR_SECOND);
    HAND_QUIET();
    pair_run(&pair, 2 * PAIR_SECOND);
    HAND_EXPECT(CR__ACK, OURS - 1, THEIRS);
    hand_flags(&pair, CR__ACK, THEIRS, OURS, NULL);
    CHECK_EQ(tcp->probes, 0);
    CHECK(!tcp->flight);
    pair_run(&pair, (7200 + 8 * 75 + 1) * PAIR_SECOND);
    CHECK_EQ(hand.count, 9);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    pair_run(&pair, 75 * PAIR_SECOND);
    CHECK_EQ(tcp->error, ETIMEDOUT);
    cr__tcp_close(tcp);
    hand_finish(&pair);
    dial();
    pair_run(&pair, 100000 * PAIR_SECOND);
    HAND_QUIET();
    hand_finish(&pair);
}

TEST(a_keep_alive_of_the_peers_is_answered)
{
    struct cr__tcp *tcp = dial();
    hand_flags(&pair, CR__ACK, THEIRS - 1, OURS, NULL);
    HAND_EXPECT(CR__ACK, OURS, THEIRS);
    CHECK(!tcp->flight);
    hand_finish(&pair);
}

TEST(ecn_is_asked_for_marks_data_and_echoes)
{
    struct cr__tcp *tcp = dial_with(&(struct cr__tcp_config){.ecn = true}, &no_opts, (struct cr__segment){.flags = CR__ECE, .mss_bytes = 1000});
    CHECK(tcp->flags & CR__TCP_ECN);
    write_bytes(tcp, 5000);
    forget_all();
    uint32_t before = tcp->cwnd_bytes;
    hand_flags(&pair, CR__ACK | CR__ECE, THEIRS, OURS + 1000, NULL);
    CHECK(tcp->cwnd_bytes < before);
    hand_flags(&pair, CR__ACK | CR__ECE, THEIRS, OURS + 2000, NULL);
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 5000, NULL);
    write_bytes(tcp, 1000);
    CHECK(hand_next(NULL).flags & CR__CWR); /* once */
    write_bytes(tcp, 1000);
    CHECK(!(hand_next(NULL).flags & CR__CWR));
    hand_finish(&pair);
}

/* ---- Closing ------------------------------------------------------------------------------------------------------------- */

TEST(close_wait_goes_by_last_ack_and_leaves_nothing)
{
    struct cr__tcp *tcp = dial();
    hand_flags(&pair, CR__FIN | CR__ACK, THEIRS, OURS, "bye");
    CHECK_EQ(tcp->state, CR__TCP_CLOSE_WAIT);
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 4); /* at once */
    hand_flags(&pair, CR__FIN | CR__ACK, THEIRS + 3, OURS, NULL); /* again */
    HAND_EXPECT(CR__ACK, OURS, THEIRS + 4);
    char buf[8];
    CHECK_EQ(read_all(tcp, buf, sizeof(buf)), 3);
    write_text(tcp, "you", false);
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    CHECK_EQ(tcp->state, CR__TCP_LAST_ACK);
    HAND_EXPECT(CR__ACK | CR__PSH, OURS, THEIRS + 4);
    HAND_EXPECT(CR__ACK | CR__FIN, OURS + 3, THEIRS + 4);
    hand_flags(&pair, CR__ACK, THEIRS + 4, OURS + 4, NULL);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    CHECK_EQ(pair.a.tcp->orphans, 0);
    hand_finish(&pair);
}

TEST(a_fin_rides_on_the_last_data_and_is_sent_again)
{
    struct cr__tcp *tcp = dial();
    write_text(tcp, "a", true);
    CHECK_EQ(cr__tcp_shutdown(tcp), 0);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__FIN | CR__ACK | CR__PSH, OURS, THEIRS);
    pair_run(&pair, 1500 * PAIR_MS);
    HAND_EXPECT(CR__FIN | CR__ACK | CR__PSH, OURS, THEIRS);
    forget_all();
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1, NULL); /* the data alone */
    CHECK_EQ(tcp->state, CR__TCP_FIN_WAIT_1);
    pair_run(&pair, 5 * PAIR_SECOND);
    HAND_EXPECT(CR__FIN | CR__ACK, OURS + 1, THEIRS);
    forget_all();
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 2, NULL);
    CHECK_EQ(tcp->state, CR__TCP_FIN_WAIT_2);
    cr__tcp_check(tcp);
    hand_finish(&pair);
}

TEST(an_orphan_stays_a_minute_in_fin_wait_2_and_text_resets_it)
{
    struct cr__tcp *tcp = dial();
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__FIN | CR__ACK, OURS, THEIRS);
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1, NULL);
    CHECK_EQ(tcp->state, CR__TCP_FIN_WAIT_2);
    pair_run(&pair, 59 * PAIR_SECOND);
    CHECK_EQ(pair.a.tcp->orphans, 1);
    pair_run(&pair, 2 * PAIR_SECOND);
    CHECK_EQ(pair.a.tcp->orphans, 0);
    hand_finish(&pair);
    tcp = dial();
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    forget_all();
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1, "for nobody");
    HAND_EXPECT(CR__RST, OURS + 1, 0);
    CHECK_EQ(pair.a.tcp->orphans, 0);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    hand_finish(&pair);
}

/* A FIN that nobody acknowledges, from each state in which there is one: eight times, then a reset. */
TEST(an_orphan_whose_fin_nobody_acknowledges_is_given_up_after_eight_times)
{
    for (int state = 0; state < 3; state++) {
        struct cr__tcp *tcp = dial();
        if (state == 1)
            hand_flags(&pair, CR__FIN | CR__ACK, THEIRS, OURS, NULL);
        forget_all();
        cr__tcp_close(tcp);
        pair_run(&pair, 0);
        if (state == 2)
            hand_flags(&pair, CR__FIN | CR__ACK, THEIRS, OURS, NULL);
        CHECK_EQ(tcp->state, state == 0 ? CR__TCP_FIN_WAIT_1 : state == 1 ? CR__TCP_LAST_ACK : CR__TCP_CLOSING);
        unsigned fins = 0;
        int64_t begun_ns = pair.now_ns;
        while (pair.a.tcp->orphans > 0) {
            pair_run(&pair, PAIR_SECOND);
            CHECK(pair.now_ns - begun_ns < 600 * PAIR_SECOND);
            while (hand.count > 1 || (hand.count > 0 && pair.a.tcp->orphans > 0))
                fins += (hand_next(NULL).flags & CR__FIN) != 0;
        }
        CHECK_EQ(fins, 1 + 8);
        CHECK(pair.now_ns - begun_ns > 100 * PAIR_SECOND); /* R2 (RFC 9293, 3.8.3) */
        HAND_EXPECT(CR__RST | CR__ACK, OURS + 1, THEIRS + (state > 0));
        CHECK_EQ(pair.a.drops[CR__DROP_TCP_ORPHAN], 1);
        CHECK_EQ(pair.a.tcp->table.count, 0);
        hand_finish(&pair);
    }
}

/* One that asks whether we are there, though nothing else reaches either side, may take it yet. */
TEST(an_orphan_whose_peer_is_heard_of_is_tried_fifteen_times)
{
    struct cr__tcp *tcp = dial();
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    unsigned fins = 0;
    int64_t begun_ns = pair.now_ns;
    while (pair.a.tcp->orphans > 0) {
        CHECK(pair.now_ns - begun_ns < 3600 * PAIR_SECOND);
        hand_flags(&pair, CR__ACK, THEIRS - 1, OURS, NULL);
        pair_run(&pair, 120 * PAIR_MS);
        while (hand.count > 0)
            fins += (hand_next(NULL).flags & CR__FIN) != 0;
    }
    CHECK_EQ(fins, 1 + 15);
    hand_finish(&pair);
}

TEST(beyond_so_many_orphans_who_closes_resets_and_that_is_counted)
{
    struct cr__tcp *tcp = dial();
    pair.a.tcp->orphans += 65536;
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__RST | CR__ACK, OURS, THEIRS);
    CHECK_EQ(pair.a.tcp->orphans, 65536);
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_ORPHAN], 1);
    pair.a.tcp->orphans = 0;
    hand_finish(&pair);
}

/* One that has been closed here first, and lies in TIME-WAIT. */
static void leave_in_time_wait(bool timestamps)
{
    struct cr__segment seg = {.mss_bytes = 1000, .has_timestamp = timestamps, .ts_value = 5000};
    struct cr__tcp *tcp = dial_with(&none, &no_opts, seg);
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__FIN | CR__ACK, OURS, THEIRS);
    seg.mss_bytes = 0;
    seg.flags = CR__FIN | CR__ACK;
    seg.seq = THEIRS;
    seg.ack = OURS + 1;
    hand_send(&pair, seg, NULL);
    HAND_EXPECT(CR__ACK, OURS + 1, THEIRS + 1);
    CHECK_EQ(pair.a.tcp->waiting, 1);
}

TEST(rfc6191_who_dials_may_take_a_name_out_of_time_wait_after_a_second_if_there_are_timestamps)
{
    struct cr__ip to = pair_ip4(2);
    for (int timestamps = 0; timestamps < 2; timestamps++) {
        struct cr__tcp *tcp;
        leave_in_time_wait(timestamps);
        pair_run(&pair, 990 * PAIR_MS);
        CHECK_EQ(cr__tcp_dial(&pair.a, &tcp, NULL, HAND_PORT, &to, HAND_PEER_PORT, &no_opts), -EADDRNOTAVAIL);
        pair_run(&pair, 20 * PAIR_MS);
        CHECK_EQ(cr__tcp_dial(&pair.a, &tcp, NULL, HAND_PORT, &to, HAND_PEER_PORT, &no_opts), timestamps ? 0 : -EADDRNOTAVAIL);
        CHECK_EQ(pair.a.tcp->waiting, timestamps ? 0 : 1);
        CHECK_EQ(pair.a.tcp->table.count, 1);
        if (timestamps) {
            pair_run(&pair, 0);
            HAND_EXPECT(CR__SYN, OURS + 1 + 65537, 0); /* beyond what could still be on its way */
            hand_send(&pair, (struct cr__segment){.flags = CR__SYN | CR__ACK, .seq = 77, .ack = OURS + 65539, .window = 20000, .has_timestamp = true, .ts_value = 6000}, NULL);
            CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
        }
        hand_finish(&pair);
    }
}

TEST(abort_resets)
{
    struct cr__tcp *tcp = dial();
    write_bytes(tcp, 3000);
    forget_all();
    cr__tcp_abort(tcp);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__RST | CR__ACK, OURS + 3000, THEIRS);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    hand_finish(&pair);
}

/* ---- ICMP ------------------------------------------------------------------------------------------------------------------ */

static void trouble(enum cr__ip_trouble kind, uint32_t seq, uint16_t mtu)
{
    uint8_t quoted[8];
    cr__wire_put16(quoted, HAND_PORT);
    cr__wire_put16(quoted + 2, HAND_PEER_PORT);
    cr__wire_put32(quoted + 4, seq);
    struct cr__ip_error error = {.trouble = kind, .mtu_bytes = mtu, .from = pair_ip4(1), .to = pair_ip4(2), .protocol = 6, .transport = quoted, .transport_bytes = 8};
    pair.a.above.tcp_error(&pair.a, &error);
    pair_run(&pair, 0);
}

TEST(icmp_ends_no_established_connection_but_says_why_it_timed_out)
{
    struct cr__tcp *tcp = dial();
    write_text(tcp, "hello", false);
    trouble(CR__PORT_UNREACHABLE, OURS, 0);
    trouble(CR__HOST_UNREACHABLE, OURS, 0);
    CHECK_EQ(tcp->state, CR__TCP_ESTABLISHED);
    CHECK_EQ(events, 0);
    pair_run(&pair, 2000 * PAIR_SECOND);
    CHECK_EQ(tcp->error, EHOSTUNREACH);
    cr__tcp_close(tcp);
    hand_finish(&pair);
    tcp = syn_sent(&none, NULL);
    trouble(CR__PORT_UNREACHABLE, HAND_ISN + 5, 0); /* of nothing that was sent */
    CHECK_EQ(tcp->state, CR__TCP_SYN_SENT);
    trouble(CR__PORT_UNREACHABLE, HAND_ISN, 0);
    CHECK_EQ(tcp->error, ECONNREFUSED);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

/* RFC 9293, 3.9.2.2 (MUST-56). */
TEST(icmp_that_is_a_hint_ends_no_dial_but_says_why_it_timed_out)
{
    struct cr__tcp *tcp = syn_sent(&none, NULL);
    for (int i = 0; i < 12; i++) {
        trouble(i % 2 ? CR__NET_UNREACHABLE : CR__HOST_UNREACHABLE, HAND_ISN, 0);
        CHECK_EQ(tcp->state, CR__TCP_SYN_SENT);
        pair_run(&pair, 10 * PAIR_SECOND);
    }
    CHECK_EQ(events, 0);
    trouble(CR__HOST_UNREACHABLE, HAND_ISN, 0);
    pair_run(&pair, 10 * PAIR_SECOND);
    CHECK_EQ(tcp->state, CR__TCP_CLOSED);
    CHECK_EQ(tcp->error, EHOSTUNREACH);
    cr__tcp_close(tcp);
    hand_finish(&pair);
}

TEST(a_narrower_path_has_what_was_too_big_sent_again_in_parts)
{
    struct cr__tcp *tcp = dial_with(&none, &no_opts, (struct cr__segment){.mss_bytes = 1460});
    write_bytes(tcp, 1460);
    CHECK_EQ(hand_next(NULL).payload_bytes, 1460);
    trouble(CR__TOO_BIG, OURS + 1460, 1000); /* not in flight */
    HAND_QUIET();
    trouble(CR__TOO_BIG, OURS, 1000);
    CHECK_EQ(tcp->mss_bytes, 960);
    CHECK_EQ(hand_next(NULL).payload_bytes, 960);
    CHECK_EQ(hand_next(NULL).payload_bytes, 500);
    cr__tcp_check(tcp);
    hand_flags(&pair, CR__ACK, THEIRS, OURS + 1460, NULL);
    CHECK(!tcp->flight);
    hand_finish(&pair);
}

TEST(what_is_told_of_a_connection)
{
    struct cr__tcp *tcp = dial();
    struct cr_tcp_info info;
    write_bytes(tcp, 15000);
    cr__tcp_info(tcp, &info);
    CHECK_EQ(info.state, CR_TCP_ESTABLISHED);
    CHECK_EQ(info.unacked, 10);
    CHECK_EQ(info.notsent_bytes, 5000);
    CHECK_EQ(info.snd_cwnd, 10);
    CHECK_EQ(info.snd_mss_bytes, 1000);
    CHECK_EQ(info.snd_wnd_bytes, 20000);
    hand_finish(&pair);
}
