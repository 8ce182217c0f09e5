/* TCP between two hosts back to back in virtual time, and against a peer whose segments are made by hand (by_hand.h). */
#define PAIR_NET capture_net()

#include "net/tcp/tcp.h"
#include <crore/net.h>
#include "pair.h"

/* ---- Two hosts ---------------------------------------------------------------------------------------------------- */

static unsigned events_of_a, events_of_b, accepted;

static void note_event(struct cr__tcp *tcp, unsigned events)
{
    *(tcp->host->config.ethernet[5] == 1 ? &events_of_a : &events_of_b) |= events;
}

static void note_accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
    accepted++;
}

static struct cr__tcp_config config(void)
{
    return (struct cr__tcp_config){.above = {note_event, note_accepted}};
}

/* Starts near the end of sequence numbers, so that all wrap. */
static void start(struct pair *pair, struct cr__tcp_config a, struct cr__tcp_config b)
{
    events_of_a = events_of_b = accepted = 0;
    pair_init(pair, 7);
    a.isn_is_fixed = b.isn_is_fixed = true;
    a.isn_for_tests = 0xfffffff0;
    b.isn_for_tests = 0xfffffc00;
    CHECK_EQ(cr__tcp_init(&pair->a, &a), 0);
    CHECK_EQ(cr__tcp_init(&pair->b, &b), 0);
}

static void finish(struct pair *pair)
{
    cr__tcp_fini(&pair->a);
    cr__tcp_fini(&pair->b);
    pair_fini(pair);
}

/* Two that are connected: *a has dialled. */
static struct cr__tcp_listener *connect_with(struct pair *pair, struct cr__tcp **a, struct cr__tcp **b, const struct cr__tcp_opts *opts, bool v4)
{
    struct cr__tcp_listener *listener;
    struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
    CHECK_EQ(cr__tcp_listen(&pair->b, &listener, NULL, 80, opts), 0);
    CHECK_EQ(cr__tcp_dial(&pair->a, a, NULL, 0, &to, 80, opts), 0);
    pair_run(pair, 10 * PAIR_MS);
    CHECK(events_of_a & CR__TCP_OPENED);
    CHECK_EQ((*a)->state, CR__TCP_ESTABLISHED);
    CHECK_EQ(accepted, 1);
    *b = cr__tcp_accept(listener);
    CHECK(*b && (*b)->state == CR__TCP_ESTABLISHED);
    cr__tcp_check(*a);
    cr__tcp_check(*b);
    return listener;
}

static void connect_both(struct pair *pair, struct cr__tcp **a, struct cr__tcp **b)
{
    connect_with(pair, a, b, NULL, true);
}

static ssize_t send_text(struct cr__tcp *tcp, const char *text)
{
    struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
    ssize_t n = cr__tcp_send(tcp, &iov, 1, false);
    cr__tcp_check(tcp);
    return n;
}

static ssize_t recv_some(struct cr__tcp *tcp, char *buf, size_t size)
{
    struct iovec iov = {buf, size};
    ssize_t n = cr__tcp_recv(tcp, &iov, 1);
    cr__tcp_check(tcp);
    return n;
}

/* The next that is read is that. */
static void expect_text(struct cr__tcp *tcp, const char *text)
{
    char buf[4096] = {0};
    CHECK_EQ(recv_some(tcp, buf, sizeof(buf)), (ssize_t)strlen(text));
    CHECK(memcmp(buf, text, strlen(text)) == 0);
}

TEST(what_one_host_writes_the_other_reads)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    CHECK_EQ(send_text(a, "hello"), 5);
    pair_run(&pair, PAIR_MS);
    CHECK(events_of_b & CR__TCP_READABLE);
    expect_text(b, "hello");
    CHECK_EQ(send_text(b, "and back"), 8);
    pair_run(&pair, PAIR_MS);
    expect_text(a, "and back");
    finish(&pair);
}

TEST(what_one_host_writes_the_other_reads_over_ipv6)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_with(&pair, &a, &b, NULL, false);
    CHECK_EQ(a->mss_bytes, 1500 - 60 - 12);
    CHECK_EQ(send_text(a, "hello"), 5);
    pair_run(&pair, PAIR_MS);
    expect_text(b, "hello");
    finish(&pair);
}

TEST(an_idle_connection_has_no_flight_and_no_packet)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    CHECK(!a->flight && !b->flight);
    send_text(a, "hello");
    CHECK(a->flight != NULL);
    pair_run(&pair, PAIR_MS);
    expect_text(b, "hello");
    pair_run(&pair, 300 * PAIR_MS);
    CHECK(!a->flight && !b->flight);
    cr__packet_flush(&pair.packets);
    CHECK_EQ(cr__packets_in_use(), 0);
    CHECK(!cr__timer_armed(&a->timer) && !cr__timer_armed(&b->timer));
    finish(&pair);
}

static char pattern(size_t at)
{
    return (char)(at * 7 + (at >> 8) + (at >> 16));
}

/* Sends size bytes from one to the other, while time goes by. */
static void transfer(struct pair *pair, struct cr__tcp *from, struct cr__tcp *to, size_t size)
{
    static char out[65536], in[65536];
    size_t sent = 0, got = 0;
    for (int rounds = 0; got < size && rounds < 1000000; rounds++) {
        size_t n = size - sent < sizeof(out) ? size - sent : sizeof(out);
        for (size_t i = 0; i < n; i++)
            out[i] = pattern(sent + i);
        struct iovec iov = {out, n};
        ssize_t taken = n ? cr__tcp_send(from, &iov, 1, false) : 0;
        CHECK(taken >= 0 || taken == -EAGAIN);
        sent += taken > 0 ? (size_t)taken : 0;
        ssize_t read;
        while ((read = recv_some(to, in, sizeof(in))) > 0) {
            for (ssize_t i = 0; i < read; i++)
                CHECK(in[i] == pattern(got + (size_t)i));
            got += (size_t)read;
        }
        CHECK(read == -EAGAIN);
        cr__tcp_check(from);
        pair_run(pair, PAIR_MS);
    }
    CHECK_EQ(got, size);
}

TEST(megabytes_arrive_in_order_across_the_wrap_of_sequence_numbers)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    transfer(&pair, a, b, 5000000);
    transfer(&pair, b, a, 5000000);
    finish(&pair);
}

static uint64_t loss_state;

static bool drops_some(struct pair *pair, struct cr__host *from, struct cr_packet *frame)
{
    (void)from;
    (void)frame;
    loss_state = loss_state * 6364136223846793005u + 1442695040888963407u;
    return (loss_state >> 33) % 100 >= (uint64_t)(uintptr_t)pair->user;
}

TEST(a_line_that_loses_packets_loses_no_byte)
{
    for (uintptr_t percent = 1; percent <= 20; percent += 6) {
        static struct pair pair;
        struct cr__tcp *a, *b;
        start(&pair, config(), config());
        connect_both(&pair, &a, &b);
        loss_state = percent;
        pair.user = (void *)percent;
        pair.passes = drops_some;
        pair.delay_ns = 2 * PAIR_MS;
        transfer(&pair, a, b, 500000);
        transfer(&pair, b, a, 300000);
        CHECK(pair.lost > 0);
        finish(&pair);
    }
}

TEST(without_sack_and_timestamps_a_lossy_line_loses_no_byte)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    struct cr__tcp_config plain = config();
    plain.no_sack = plain.no_timestamps = plain.no_scaling = true;
    start(&pair, plain, config());
    connect_both(&pair, &a, &b);
    CHECK_EQ(b->flags & (CR__TCP_SACK | CR__TCP_TIMESTAMPS | CR__TCP_SCALED), 0);
    loss_state = 5;
    pair.user = (void *)(uintptr_t)5;
    pair.passes = drops_some;
    pair.delay_ns = 2 * PAIR_MS;
    transfer(&pair, a, b, 300000);
    finish(&pair);
}

/* b has another Ethernet address from now on, and says nothing of it. */
static void move_b(struct pair *pair, struct cr__tcp *a, struct cr__tcp *b)
{
    pair_run(pair, 6 * PAIR_SECOND); /* b, who has been told where a is, has asked itself whether that is so */
    send_text(a, "here");
    pair_run(pair, 100 * PAIR_MS);
    expect_text(b, "here");
    pair->b.config.ethernet[5] = 9;
}

TEST(rfc9293_3_8_3_after_three_timeouts_ip_is_told_and_finds_a_peer_that_has_moved)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    move_b(&pair, a, b);
    send_text(a, "still there?");
    pair_run(&pair, 8 * PAIR_SECOND); /* before his address would be doubted of itself: that takes 23 at least */
    expect_text(b, "still there?");
    pair_run(&pair, PAIR_SECOND);
    CHECK_EQ(a->snd_una, a->snd_nxt);
    finish(&pair);
}

TEST(a_dialler_finds_a_peer_that_has_moved_too)
{
    static struct pair pair;
    struct cr__tcp *a, *b, *again;
    struct cr__ip to = pair_ip4(2);
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    move_b(&pair, a, b);
    CHECK_EQ(cr__tcp_dial(&pair.a, &again, NULL, 0, &to, 80, NULL), 0);
    pair_run(&pair, 18 * PAIR_SECOND); /* SYNs at 1, 3, 7 and 15 s */
    CHECK_EQ(again->state, CR__TCP_ESTABLISHED);
    finish(&pair);
}

static void note_state(const struct cr__neighbour_told *neighbour, void *state)
{
    *(const char **)state = neighbour->state;
}

/* Whoever asked for us first is known from his question only, which anybody may ask; that he has answered our SYN says that he is there. */
TEST(rfc4861_7_3_1_who_has_answered_our_syn_is_reachable)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    for (int i = 0; i < 2; i++) {
        const char *state = "";
        cr__host_neighbours(i ? &pair.b : &pair.a, 1, note_state, &state);
        CHECK(strcmp(state, "reachable") == 0);
    }
    finish(&pair);
}

/* ---- Ends --------------------------------------------------------------------------------------------------------- */

TEST(both_close_one_after_the_other_and_one_waits)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    char buf[8];
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    CHECK_EQ(cr__tcp_shutdown(a), 0);
    CHECK_EQ(a->state, CR__TCP_FIN_WAIT_1);
    CHECK_EQ(send_text(a, "x"), -EPIPE);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(a->state, CR__TCP_FIN_WAIT_2);
    CHECK_EQ(b->state, CR__TCP_CLOSE_WAIT);
    CHECK_EQ(recv_some(b, buf, sizeof(buf)), 0);
    send_text(b, "still"); /* half close */
    pair_run(&pair, PAIR_MS);
    expect_text(a, "still");
    cr__tcp_close(b);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(recv_some(a, buf, sizeof(buf)), 0);
    CHECK_EQ(a->state, CR__TCP_CLOSED);
    CHECK_EQ(pair.a.tcp->waiting, 1);
    CHECK_EQ(pair.b.tcp->waiting, 0);
    CHECK_EQ(pair.b.tcp->table.count, 0);
    cr__tcp_close(a);
    pair_run(&pair, 61 * PAIR_SECOND);
    CHECK_EQ(pair.a.tcp->waiting, 0);
    CHECK_EQ(pair.a.tcp->table.count, 0);
    CHECK_EQ(pair.a.tcp->orphans, 0);
    CHECK_EQ(pair.b.tcp->orphans, 0);
    finish(&pair);
}

TEST(both_close_at_once_and_both_wait)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    pair.delay_ns = PAIR_MS;
    connect_both(&pair, &a, &b);
    CHECK_EQ(cr__tcp_shutdown(a), 0);
    CHECK_EQ(cr__tcp_shutdown(b), 0);
    pair_run(&pair, PAIR_MS);
    CHECK_EQ(a->state, CR__TCP_CLOSING);
    CHECK_EQ(b->state, CR__TCP_CLOSING);
    pair_run(&pair, 2 * PAIR_MS);
    CHECK_EQ(a->state, CR__TCP_CLOSED);
    CHECK_EQ(pair.a.tcp->waiting, 1);
    CHECK_EQ(pair.b.tcp->waiting, 1);
    finish(&pair);
}

TEST(both_dial_at_once_and_are_connected)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    struct cr__ip to_a = pair_ip4(1), to_b = pair_ip4(2);
    start(&pair, config(), config());
    pair.delay_ns = PAIR_MS;
    CHECK_EQ(cr__tcp_dial(&pair.a, &a, NULL, 1000, &to_b, 2000, NULL), 0);
    CHECK_EQ(cr__tcp_dial(&pair.b, &b, NULL, 2000, &to_a, 1000, NULL), 0);
    pair_run(&pair, 3 * PAIR_MS);
    CHECK(a->state == CR__TCP_SYN_RECEIVED || a->state == CR__TCP_ESTABLISHED);
    pair_run(&pair, 20 * PAIR_MS);
    CHECK_EQ(a->state, CR__TCP_ESTABLISHED);
    CHECK_EQ(b->state, CR__TCP_ESTABLISHED);
    CHECK(events_of_a & events_of_b & CR__TCP_OPENED);
    send_text(a, "hello");
    pair_run(&pair, 2 * PAIR_MS);
    expect_text(b, "hello");
    finish(&pair);
}

TEST(closing_with_something_unread_resets)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    char buf[8];
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    send_text(a, "unread");
    pair_run(&pair, PAIR_MS);
    cr__tcp_close(b);
    pair_run(&pair, PAIR_MS);
    CHECK(events_of_a & CR__TCP_ENDED);
    CHECK_EQ(recv_some(a, buf, sizeof(buf)), -ECONNRESET); /* told once */
    CHECK_EQ(recv_some(a, buf, sizeof(buf)), 0);
    CHECK_EQ(send_text(a, "x"), -EPIPE);
    CHECK_EQ(pair.a.tcp->table.count + pair.b.tcp->table.count, 0);
    cr__tcp_close(a);
    finish(&pair);
}

static bool pair_passes_nothing(struct pair *pair, struct cr__host *from, struct cr_packet *frame)
{
    (void)pair, (void)from, (void)frame;
    return false;
}

/* As many as wait for one's address, and more, who did not come all at once. */
TEST(who_dials_where_nobody_answers_to_the_address_is_told_when_that_is_known)
{
    enum { MANY = 60 };
    static struct pair pair;
    struct cr__tcp *tcps[MANY], *late;
    for (int v4 = 0; v4 < 2; v4++) {
        struct cr__ip to = v4 ? pair_ip4(99) : pair_ip6(99);
        start(&pair, config(), config());
        for (int i = 0; i < MANY; i++, pair_run(&pair, PAIR_MS))
            CHECK_EQ(cr__tcp_dial(&pair.a, &tcps[i], NULL, 0, &to, 80, NULL), 0);
        pair_run(&pair, 2900 * PAIR_MS);
        CHECK_EQ(events_of_a, 0);
        pair_run(&pair, 200 * PAIR_MS);
        CHECK_EQ(cr__tcp_dial(&pair.a, &late, NULL, 0, &to, 80, NULL), 0); /* he is not asked again so soon */
        for (int i = 0; i < MANY; i++) {
            CHECK_EQ(tcps[i]->state, CR__TCP_CLOSED);
            CHECK_EQ(tcps[i]->error, EHOSTUNREACH);
            cr__tcp_close(tcps[i]);
        }
        pair_run(&pair, 1100 * PAIR_MS);
        CHECK_EQ(late->error, EHOSTUNREACH);
        CHECK_EQ(late->state, CR__TCP_CLOSED);
        cr__tcp_close(late);
        finish(&pair);
    }
}

/* RFC 9293, 3.9.2.2: one that is open outlives it. */
TEST(an_address_that_is_not_answered_any_more_ends_no_open_connection)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    start(&pair, config(), config());
    connect_both(&pair, &a, &b);
    pair.passes = pair_passes_nothing;
    pair_run(&pair, 1300 * PAIR_SECOND); /* the neighbour is forgotten */
    CHECK_EQ(send_text(a, "x"), 1);
    pair_run(&pair, 10 * PAIR_SECOND);
    CHECK_EQ(a->state, CR__TCP_ESTABLISHED);
    pair.passes = NULL;
    pair_run(&pair, 60 * PAIR_SECOND);
    expect_text(b, "x");
    finish(&pair);
}

TEST(nobody_listens_there_and_the_dialler_is_told)
{
    static struct pair pair;
    struct cr__tcp *a;
    struct cr__ip to = pair_ip4(2);
    char buf[8];
    start(&pair, config(), config());
    CHECK_EQ(cr__tcp_dial(&pair.a, &a, NULL, 0, &to, 81, NULL), 0);
    pair_run(&pair, PAIR_MS);
    CHECK(events_of_a & CR__TCP_ENDED);
    CHECK_EQ(recv_some(a, buf, sizeof(buf)), -ECONNREFUSED);
    cr__tcp_close(a);
    finish(&pair);
}

TEST(a_reader_who_does_not_read_closes_the_window_and_opens_it_again)
{
    static struct pair pair;
    struct cr__tcp *a, *b;
    struct cr__tcp_opts opts = {.recv_limit_bytes = 20000, .send_limit_bytes = 100000};
    char buf[30000];
    start(&pair, config(), config());
    connect_with(&pair, &a, &b, &opts, true);
    struct iovec iov = {buf, sizeof(buf)};
    memset(buf, 'z', sizeof(buf));
    CHECK_EQ(cr__tcp_send(a, &iov, 1, false), 30000);
    pair_run(&pair, 100 * PAIR_MS);
    CHECK(b->flight->receive_bytes <= 20000);
    CHECK(a->flight != NULL && a->snd_wnd < 1448);
    pair_run(&pair, 10 * PAIR_SECOND); /* probes, answered, and none is taken for a loss */
    cr__tcp_check(a);
    CHECK(b->flight->receive_bytes <= 20000);
    CHECK(a->probes > 1 && a->backoff == 0 && a->snd_wnd == 0);
    size_t got = 0;
    for (int i = 0; i < 100 && got < 30000; i++) {
        ssize_t n = recv_some(b, buf, sizeof(buf));
        got += n > 0 ? (size_t)n : 0;
        pair_run(&pair, PAIR_MS);
    }
    CHECK_EQ(got, 30000);
    finish(&pair);
}
