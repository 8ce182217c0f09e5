/* Listeners: half-open connections, cookies, TIME-WAIT and what reopens it, against a peer made by hand. */
#include "by_hand.h"

static unsigned accepted;

static void note_accepted(struct cr__tcp_listener *listener)
{
    CHECK(listener != NULL);
    accepted++;
}

static void note_event(struct cr__tcp *tcp, unsigned events)
{
    CHECK(!(tcp->flags & CR__TCP_WAITS) && events); /* nobody above knows of such a one */
}

static struct pair pair;

static struct cr__tcp_listener *start_with(const struct cr__tcp_config *config, int backlog)
{
    struct cr__tcp_config own = *config;
    struct cr__tcp_listener *listener;
    accepted = 0;
    own.above = (struct cr__tcp_above){note_event, note_accepted};
    hand_start(&pair, &own);
    CHECK_EQ(cr__tcp_listen(&pair.a, &listener, NULL, HAND_PORT, &(struct cr__tcp_opts){.backlog = backlog}), 0);
    return listener;
}

static struct cr__tcp_listener *start(void)
{
    return start_with(&(struct cr__tcp_config){0}, 0);
}

static void syn_from(uint16_t port)
{
    hand_send(&pair, (struct cr__segment){.from_port = port, .flags = CR__SYN, .seq = HAND_PEER_ISN, .window = 20000, .mss_bytes = 1000}, NULL);
}

static void ack_from(uint16_t port, uint32_t ack)
{
    hand_send(&pair, (struct cr__segment){.from_port = port, .flags = CR__ACK, .seq = HAND_PEER_ISN + 1, .ack = ack, .window = 20000}, NULL);
}

static struct cr__tcp *open_one(struct cr__tcp_listener *listener)
{
    syn_from(HAND_PEER_PORT);
    HAND_EXPECT(CR__SYN | CR__ACK, HAND_ISN, HAND_PEER_ISN + 1);
    ack_from(HAND_PEER_PORT, HAND_ISN + 1);
    struct cr__tcp *tcp = cr__tcp_accept(listener);
    CHECK(tcp && tcp->state == CR__TCP_ESTABLISHED);
    return tcp;
}

TEST(a_syn_makes_a_small_entry_and_the_ack_a_connection)
{
    struct cr__tcp_listener *listener = start();
    syn_from(HAND_PEER_PORT);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    CHECK(!cr__tcp_accept(listener));
    HAND_EXPECT(CR__SYN | CR__ACK, HAND_ISN, HAND_PEER_ISN + 1);
    ack_from(HAND_PEER_PORT, HAND_ISN + 1);
    CHECK_EQ(pair.a.tcp->half_open, 0);
    CHECK_EQ(accepted, 1);
    struct cr__tcp *tcp = cr__tcp_accept(listener);
    cr__tcp_check(tcp);
    CHECK_EQ(tcp->snd_wnd, 20000);
    CHECK_EQ(tcp->mss_bytes, 1000);
    HAND_QUIET();
    hand_finish(&pair);
}

TEST(text_that_comes_with_the_ack_is_taken)
{
    struct cr__tcp_listener *listener = start();
    syn_from(HAND_PEER_PORT);
    hand_next(NULL);
    hand_flags(&pair, CR__ACK | CR__PSH, HAND_PEER_ISN + 1, HAND_ISN + 1, "early");
    struct cr__tcp *tcp = cr__tcp_accept(listener);
    char buf[8];
    CHECK_EQ(cr__tcp_recv(tcp, &(struct iovec){buf, sizeof(buf)}, 1), 5);
    hand_finish(&pair);
}

TEST(syn_ack_is_sent_five_times_more_and_then_forgotten)
{
    start();
    syn_from(HAND_PEER_PORT);
    pair_run(&pair, 62 * PAIR_SECOND);
    CHECK_EQ(hand.count, 6);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    pair_run(&pair, 5 * PAIR_SECOND);
    CHECK_EQ(pair.a.tcp->half_open, 0);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    ack_from(HAND_PEER_PORT, HAND_ISN + 1); /* too late */
    hand.first += 6, hand.count -= 6;
    HAND_EXPECT(CR__RST, HAND_ISN + 1, 0);
    hand_finish(&pair);
}

TEST(a_half_open_one_answers_its_syn_again_and_resets_a_wrong_ack)
{
    struct cr__tcp_listener *listener = start();
    syn_from(HAND_PEER_PORT);
    hand_next(NULL);
    syn_from(HAND_PEER_PORT);
    HAND_EXPECT(CR__SYN | CR__ACK, HAND_ISN, HAND_PEER_ISN + 1);
    ack_from(HAND_PEER_PORT, HAND_ISN + 2);
    HAND_EXPECT(CR__RST, HAND_ISN + 2, 0);
    ack_from(HAND_PEER_PORT, HAND_ISN);
    HAND_EXPECT(CR__RST, HAND_ISN, 0);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    hand_flags(&pair, CR__RST, HAND_PEER_ISN + 5, 0, NULL); /* in the window, not exact */
    HAND_EXPECT(CR__ACK, HAND_ISN + 1, HAND_PEER_ISN + 1);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    hand_flags(&pair, CR__RST, HAND_PEER_ISN + 1, 0, NULL);
    HAND_QUIET();
    CHECK_EQ(pair.a.tcp->half_open, 0);
    CHECK(!cr__tcp_accept(listener));
    hand_finish(&pair);
}

TEST(what_is_no_syn_is_reset_or_ignored_by_a_listener)
{
    start();
    hand_flags(&pair, CR__ACK, 5, 77, NULL);
    HAND_EXPECT(CR__RST, 77, 0);
    hand_flags(&pair, CR__SYN | CR__ACK, 5, 77, NULL);
    HAND_EXPECT(CR__RST, 77, 0);
    hand_flags(&pair, CR__RST, 5, 0, NULL);
    hand_flags(&pair, CR__FIN, 5, 0, NULL);
    hand_flags(&pair, CR__SYN | CR__FIN, 5, 0, NULL);
    hand_flags(&pair, CR__SYN | CR__RST, 5, 0, NULL);
    hand_flags(&pair, 0, 5, 0, NULL);
    HAND_QUIET();
    CHECK_EQ(pair.a.tcp->table.count, 0);
    hand_finish(&pair);
}

TEST(with_the_table_of_half_open_ones_full_cookies_let_new_ones_in)
{
    struct cr__tcp_listener *listener = start_with(&(struct cr__tcp_config){.half_open_most = 4}, 0);
    for (uint16_t port = 1000; port < 1004; port++)
        syn_from(port);
    while (hand.count)
        hand_next(NULL);
    hand_send(&pair,
              (struct cr__segment){.flags = CR__SYN, .seq = HAND_PEER_ISN, .window = 20000, .mss_bytes = 1441, .has_timestamp = true, .ts_value = 9, .has_scale = true, .scale = 9, .sack_permitted = true},
              NULL);
    struct cr__segment answer = hand_next(NULL);
    CHECK_EQ(answer.flags, CR__SYN | CR__ACK);
    CHECK(answer.seq != HAND_ISN);
    CHECK(answer.has_timestamp && answer.has_scale && answer.sack_permitted);
    CHECK_EQ(pair.a.tcp->half_open, 4);
    CHECK_EQ(pair.a.tcp->cookies_sent, 1);
    pair_run(&pair, 30 * PAIR_SECOND);
    hand_send(&pair,
              (struct cr__segment){.flags = CR__ACK, .seq = HAND_PEER_ISN + 1, .ack = answer.seq + 1, .window = 20, .has_timestamp = true, .ts_value = 10, .ts_echo = answer.ts_value}, "hi");
    CHECK_EQ(pair.a.tcp->cookies_good, 1);
    struct cr__tcp *tcp = cr__tcp_accept(listener);
    CHECK(tcp != NULL);
    cr__tcp_check(tcp);
    CHECK_EQ(tcp->peer_mss_bytes, 1440); /* the class below */
    CHECK_EQ(tcp->snd_scale, 9);
    CHECK_EQ(tcp->snd_wnd, 20 << 9);
    CHECK(tcp->flags & CR__TCP_SACK && tcp->flags & CR__TCP_TIMESTAMPS);
    CHECK_EQ(tcp->flight->receive_bytes, 2);
    hand_finish(&pair);
}

TEST(a_wrong_cookie_and_one_that_is_old_are_reset)
{
    struct cr__tcp_listener *listener = start_with(&(struct cr__tcp_config){.half_open_most = 1}, 0);
    syn_from(1000);
    hand_next(NULL);
    syn_from(1001);
    uint32_t cookie = hand_next(NULL).seq;
    ack_from(1001, cookie + 0x01000002);
    HAND_EXPECT(CR__RST, cookie + 0x01000002, 0);
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_COOKIE], 1);
    ack_from(1002, cookie + 1); /* another's */
    HAND_EXPECT(CR__RST, cookie + 1, 0);
    CHECK(!cr__tcp_accept(listener));
    ack_from(1001, cookie + 1);
    CHECK(cr__tcp_accept(listener) != NULL);
    syn_from(1003);
    while (hand.count > 1)
        hand_next(NULL);
    cookie = hand_next(NULL).seq;
    pair_run(&pair, 140 * PAIR_SECOND);
    while (hand.count)
        hand_next(NULL);
    ack_from(1003, cookie + 1);
    HAND_EXPECT(CR__RST, cookie + 1, 0);
    CHECK(!cr__tcp_accept(listener));
    hand_finish(&pair);
}

TEST(no_more_wait_than_the_backlog_and_the_next_gets_in_when_there_is_room)
{
    struct cr__tcp_listener *listener = start_with(&(struct cr__tcp_config){0}, 2);
    syn_from(1000), syn_from(1001), syn_from(1002);
    while (hand.count)
        hand_next(NULL);
    ack_from(1000, HAND_ISN + 1), ack_from(1001, HAND_ISN + 1), ack_from(1002, HAND_ISN + 1);
    CHECK_EQ(listener->waiting, 2);
    CHECK_EQ(pair.a.drops[CR__DROP_TCP_BACKLOG], 1);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    CHECK(cr__tcp_accept(listener) && cr__tcp_accept(listener) && !cr__tcp_accept(listener));
    pair_run(&pair, 2 * PAIR_SECOND); /* SYN+ACK again */
    CHECK_EQ(hand_next(NULL).to_port, 1002);
    ack_from(1002, HAND_ISN + 1);
    CHECK(cr__tcp_accept(listener) != NULL);
    hand_finish(&pair);
}

TEST(who_is_not_accepted_is_reset_when_the_listener_goes)
{
    struct cr__tcp_listener *listener = start();
    syn_from(1000), syn_from(1001);
    while (hand.count)
        hand_next(NULL);
    ack_from(1000, HAND_ISN + 1);
    cr__tcp_unlisten(listener);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__RST | CR__ACK, HAND_ISN + 1, HAND_PEER_ISN + 1);
    ack_from(1001, HAND_ISN + 1); /* half open still: finds nobody */
    HAND_EXPECT(CR__RST, HAND_ISN + 1, 0);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    hand_finish(&pair);
}

static unsigned take_all(struct cr__tcp_listener *listener)
{
    unsigned count = 0;
    for (struct cr__tcp *tcp; (tcp = cr__tcp_accept(listener)) != NULL; count++)
        cr__tcp_abort(tcp);
    return count;
}

static void open_from(uint16_t first, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        syn_from((uint16_t)(first + i));
        ack_from((uint16_t)(first + i), HAND_ISN + 1);
    }
}

TEST(listeners_that_share_a_port_get_some_of_its_connections_each)
{
    const struct cr__tcp_opts shares = {.shares = true}, four = {.shares = true, .families = CR__TCP_IP4_ONLY};
    struct cr__tcp_listener *each[3], *other, *one;
    struct cr__ip ip = pair_ip4(1);
    start();
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr__tcp_listen(&pair.a, &each[i], NULL, HAND_PORT + 1, i == 2 ? &four : &shares), 0);
    CHECK_EQ(cr__tcp_listen(&pair.a, &other, NULL, HAND_PORT + 1, NULL), -EADDRINUSE);
    CHECK_EQ(cr__tcp_listen(&pair.a, &other, NULL, HAND_PORT, &shares), -EADDRINUSE);
    for (int i = 0; i < 3; i++)
        cr__tcp_unlisten(each[i]);
    hand_finish(&pair);
    cr__tcp_unlisten(start());
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr__tcp_listen(&pair.a, &each[i], NULL, HAND_PORT, i == 2 ? &four : &shares), 0);
    open_from(1000, 90);
    CHECK_EQ(accepted, 90);
    unsigned first = take_all(each[0]), second = take_all(each[1]), third = take_all(each[2]);
    CHECK_EQ(first + second + third, 90);
    CHECK(first > 10 && second > 10 && third > 10);
    syn_from(500);
    cr__tcp_unlisten(each[1]); /* who is half open finds one of the others */
    ack_from(500, HAND_ISN + 1);
    open_from(2000, 90);
    first = take_all(each[0]), third = take_all(each[2]);
    CHECK_EQ(first + third, 91);
    CHECK(first > 20 && third > 20);
    CHECK_EQ(cr__tcp_listen(&pair.a, &one, &ip, HAND_PORT, &shares), 0); /* of one address: before them all, as ever */
    open_from(3000, 10);
    CHECK_EQ(take_all(one), 10);
    while (hand.count)
        hand_next(NULL);
    hand_finish(&pair);
}

TEST(a_listener_of_one_address_comes_before_one_of_all)
{
    struct cr__tcp_listener *all = start(), *one, *third;
    struct cr__ip ip = pair_ip4(1), other = pair_ip4(77);
    CHECK_EQ(cr__tcp_listen(&pair.a, &one, &ip, HAND_PORT, NULL), 0);
    CHECK_EQ(cr__tcp_listen(&pair.a, &third, &ip, HAND_PORT, NULL), -EADDRINUSE);
    CHECK_EQ(cr__tcp_listen(&pair.a, &third, &other, HAND_PORT, NULL), -EADDRNOTAVAIL);
    CHECK_EQ(cr__tcp_listen(&pair.a, &third, NULL, 0, NULL), 0);
    CHECK(cr__tcp_listener_port(third) >= 1024);
    syn_from(HAND_PEER_PORT);
    ack_from(HAND_PEER_PORT, HAND_ISN + 1);
    CHECK(!cr__tcp_accept(all) && cr__tcp_accept(one));
    hand_finish(&pair);
}

/* ---- TIME-WAIT --------------------------------------------------------------------------------------------------- */

static struct cr__tcp_listener *waiting(void)
{
    struct cr__tcp_listener *listener = start();
    struct cr__tcp *tcp = open_one(listener);
    cr__tcp_close(tcp);
    pair_run(&pair, 0);
    HAND_EXPECT(CR__FIN | CR__ACK, HAND_ISN + 1, HAND_PEER_ISN + 1);
    hand_flags(&pair, CR__FIN | CR__ACK, HAND_PEER_ISN + 1, HAND_ISN + 2, NULL);
    HAND_EXPECT(CR__ACK, HAND_ISN + 2, HAND_PEER_ISN + 2);
    CHECK_EQ(pair.a.tcp->waiting, 1);
    CHECK_EQ(pair.a.tcp->orphans, 0);
    return listener;
}

TEST(time_wait_answers_the_fin_again_and_ignores_resets)
{
    waiting();
    pair_run(&pair, 50 * PAIR_SECOND);
    hand_flags(&pair, CR__FIN | CR__ACK, HAND_PEER_ISN + 1, HAND_ISN + 2, NULL);
    HAND_EXPECT(CR__ACK, HAND_ISN + 2, HAND_PEER_ISN + 2);
    hand_flags(&pair, CR__RST, HAND_PEER_ISN + 2, 0, NULL);
    HAND_QUIET();
    pair_run(&pair, 50 * PAIR_SECOND); /* from the FIN on again */
    CHECK_EQ(pair.a.tcp->waiting, 1);
    pair_run(&pair, 11 * PAIR_SECOND);
    CHECK_EQ(pair.a.tcp->waiting, 0);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    hand_finish(&pair);
}

TEST(time_wait_gives_way_to_a_newer_syn_with_an_isn_beyond_the_old)
{
    waiting();
    hand_flags(&pair, CR__SYN, HAND_PEER_ISN, 0, NULL); /* an old one */
    HAND_EXPECT(CR__ACK, HAND_ISN + 2, HAND_PEER_ISN + 2);
    CHECK_EQ(pair.a.tcp->waiting, 1);
    hand_flags(&pair, CR__SYN, HAND_PEER_ISN + 100000, 0, NULL);
    struct cr__segment answer = hand_next(NULL);
    CHECK_EQ(answer.flags, CR__SYN | CR__ACK);
    CHECK_EQ(answer.ack, HAND_PEER_ISN + 100001);
    CHECK(cr__seq_before(HAND_ISN + 2 + 65535, answer.seq));
    CHECK_EQ(pair.a.tcp->waiting, 0);
    CHECK_EQ(pair.a.tcp->half_open, 1);
    hand_finish(&pair);
}

TEST(ten_thousand_connections_are_found_while_the_table_grows)
{
    struct cr__tcp_listener *listener = start_with(&(struct cr__tcp_config){.half_open_most = 100000}, 100000);
    for (uint32_t i = 0; i < 10000; i++) {
        syn_from((uint16_t)(1000 + i));
        ack_from((uint16_t)(1000 + i), HAND_ISN + 1);
        while (hand.count)
            hand_next(NULL);
    }
    CHECK_EQ(pair.a.tcp->table.count, 10000);
    for (uint32_t i = 0; i < 10000; i++)
        hand_send(&pair, (struct cr__segment){.from_port = (uint16_t)(1000 + i), .flags = CR__RST, .seq = HAND_PEER_ISN + 1}, NULL);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    struct cr__tcp *tcp;
    unsigned count = 0;
    while ((tcp = cr__tcp_accept(listener)) != NULL) {
        CHECK_EQ(tcp->error, ECONNRESET);
        cr__tcp_close(tcp);
        count++;
    }
    CHECK_EQ(count, 10000);
    hand_finish(&pair);
}

TEST(without_memory_for_half_open_ones_a_cookie_answers)
{
    struct cr__tcp_listener *listener = start();
    struct cr_packet *some[8];
    for (int i = 0; i < 8; i++)
        some[i] = cr__packet_get(&pair.packets);
    for (int i = 0; i < 8; i++)
        cr__packet_put(&pair.packets, some[i]); /* so of those there are enough */
    cr__mem_fail_after(1);
    syn_from(HAND_PEER_PORT);
    CHECK_EQ(pair.a.tcp->half_open, 0);
    uint32_t cookie = hand_next(NULL).seq;
    ack_from(HAND_PEER_PORT, cookie + 1);
    CHECK(!cr__tcp_accept(listener));
    cr__mem_fail_after(0);
    ack_from(HAND_PEER_PORT, cookie + 1);
    CHECK(cr__tcp_accept(listener) != NULL);
    hand_finish(&pair);
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static void put_name(struct cr__host *host, uint32_t i)
{
    struct cr__tcp_wait *wait = cr__slab_get(&host->tcp->waits);
    *wait = (struct cr__tcp_wait){.peer = pair_ip4(2), .local_port = (uint16_t)(i % 4), .peer_port = (uint16_t)(i / 4)};
    cr__tcp_insert(host, wait, CR__KIND_WAIT);
}

TEST(names_that_differ_by_a_port_are_found_in_short_chains)
{
    start();
    struct cr__host *host = &pair.a;
    for (uint32_t i = 0; i < 200000; i++)
        put_name(host, i);
    while (host->tcp->table.old)
        put_name(host, host->tcp->table.count);
    for (uint32_t i = 0; i < 200000; i++) {
        struct cr__tcp_name name = {.peer = pair_ip4(2), .local_port = (uint16_t)(i % 4), .peer_port = (uint16_t)(i / 4)};
        CHECK_EQ(cr__tcp_find(host->tcp, host, &name) & 3u, CR__KIND_WAIT);
    }
    for (uint32_t i = 0; i <= host->tcp->table.mask; i++) {
        unsigned length = 0;
        for (uint32_t at = host->tcp->table.slots[i]; at; at = ((struct cr__tcp_wait *)cr__mem_at(at & ~3u))->next)
            length++;
        CHECK(length <= 16);
    }
    hand_finish(&pair);
}
