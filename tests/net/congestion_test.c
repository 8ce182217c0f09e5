/* The congestion window: CUBIC, NewReno, ECN. Each test is named after the RFC's section that it shows. */
#include <math.h>

#include "pair.h"
#include "path.h"

/* Acknowledges so many bytes, of a window that is in use. */
static void acked(struct path *path, uint32_t bytes)
{
    cr__congestion_acked(&path->tcp, bytes, path->tcp.cwnd_bytes);
}

static struct path *with_window(uint32_t flags, uint32_t segments, uint32_t rtt_us)
{
    struct path *path = path_open(flags);
    path->tcp.cwnd_bytes = segments * MSS;
    path->tcp.srtt_us = rtt_us;
    path->tcp.snd_nxt = path->tcp.snd_una + segments * MSS;
    return path;
}

static void use_whole(struct path *path)
{
    path->tcp.snd_nxt = path->tcp.snd_una + path->tcp.cwnd_bytes;
}

/* One segment's ACK after the other, as often as a window comes back in each RTT, until then. */
static void go_on_until(struct path *path, int64_t until_ns)
{
    while (path->host.now_ns < until_ns) {
        pass(path, (int64_t)path->tcp.srtt_us * 1000 * MSS / path->tcp.cwnd_bytes);
        acked(path, MSS);
    }
}

static void lose(struct path *path)
{
    use_whole(path);
    cr__congestion_lost(&path->tcp);
}

/* ---- The first window, and slow start ------------------------------------------------------------------------- */

TEST(rfc6928_2_the_first_window_is_ten_segments_or_what_is_configured)
{
    struct path *path = path_open(0);
    CHECK_EQ(path->tcp.cwnd_bytes, 10 * MSS);
    path->layer.config.initial_window = 4;
    cr__congestion_init(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, 4 * MSS);
    path->tcp.backoff = 1;
    cr__congestion_init(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, 4 * MSS);
    path->tcp.backoff = 2; /* the SYN was lost twice */
    cr__congestion_init(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    path_close(path);
}

TEST(rfc3465_2_3_slow_start_counts_bytes_two_segments_an_ack_at_most_and_one_after_a_timeout)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 10, 10000);
    acked(path, 300);
    CHECK_EQ(path->tcp.cwnd_bytes, 10 * MSS + 300);
    acked(path, 5 * MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 12 * MSS + 300);
    use_whole(path);
    cr__congestion_timeout(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    acked(path, 5 * MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 2 * MSS);
    path_close(path);
}

TEST(rfc5681_3_1_slow_start_ends_at_ssthresh)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 10, 10000);
    path->tcp.ssthresh_bytes = 11 * MSS + 500;
    acked(path, 2 * MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 11 * MSS + 500);
    acked(path, 2 * MSS);
    CHECK(path->tcp.cwnd_bytes < 12 * MSS);
    path_close(path);
}

/* ---- RFC 5681: Reno ------------------------------------------------------------------------------------------- */

TEST(rfc5681_3_1_congestion_avoidance_adds_a_segment_a_window)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 20, 10000);
    path->tcp.ssthresh_bytes = 20 * MSS;
    for (int i = 0; i < 200; i++) /* in tenths of segments: what is less than a byte is not lost */
        acked(path, MSS / 10);
    CHECK(path->tcp.cwnd_bytes > 20 * MSS + MSS * 95 / 100 && path->tcp.cwnd_bytes <= 21 * MSS);
    path_close(path);
}

TEST(rfc5681_3_1_equation_4_ssthresh_is_half_of_what_was_in_flight_and_two_segments_at_least)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 20, 10000);
    cr__congestion_lost(&path->tcp);
    CHECK_EQ(path->tcp.ssthresh_bytes, 10 * MSS);
    path->tcp.cwnd_bytes = 20 * MSS;
    path->tcp.snd_nxt = path->tcp.snd_una + 8 * MSS; /* the window was not used */
    cr__congestion_lost(&path->tcp);
    CHECK_EQ(path->tcp.ssthresh_bytes, 4 * MSS);
    path->tcp.snd_nxt = path->tcp.snd_una + MSS;
    cr__congestion_lost(&path->tcp);
    CHECK_EQ(path->tcp.ssthresh_bytes, 2 * MSS);
    path_close(path);
}

TEST(rfc5681_4_1_after_an_idle_time_longer_than_rto_the_window_is_the_first_again)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 40, 10000);
    path->tcp.rto_us = 210000;
    cr__congestion_idle(&path->tcp, 200000);
    CHECK_EQ(path->tcp.cwnd_bytes, 40 * MSS);
    path->tcp.ssthresh_bytes = 20 * MSS;
    cr__congestion_idle(&path->tcp, 220000);
    CHECK_EQ(path->tcp.cwnd_bytes, 10 * MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, 30 * MSS);
    path->tcp.cwnd_bytes = 3 * MSS;
    path->tcp.flight = NULL;
    cr__congestion_idle(&path->tcp, 1000000);
    CHECK_EQ(path->tcp.cwnd_bytes, 3 * MSS);
    path->tcp.flight = &path->flight;
    path_close(path);
}

TEST(rfc9438_5_8_a_window_that_is_not_used_does_not_grow)
{
    for (uint32_t flags = 0; flags <= CR__TCP_NEWRENO; flags += CR__TCP_NEWRENO) {
        struct path *path = with_window(flags, 40, 10000);
        for (int i = 0; i < 100; i++)
            cr__congestion_acked(&path->tcp, MSS, 10 * MSS); /* slow start: less than half */
        CHECK_EQ(path->tcp.cwnd_bytes, 40 * MSS);
        path->tcp.ssthresh_bytes = 20 * MSS;
        for (int i = 0; i < 1000; i++) {
            pass(path, 10 * MS);
            cr__congestion_acked(&path->tcp, MSS, 30 * MSS);
        }
        CHECK_EQ(path->tcp.cwnd_bytes, 40 * MSS);
        path_close(path);
    }
}

TEST(a_window_that_was_full_before_several_acks_grows_by_each_of_them)
{
    struct path *path = with_window(CR__TCP_NEWRENO, 10, 10000);
    uint32_t before_bytes = 10 * MSS;
    for (int i = 0; i < 4; i++) {
        path->tcp.snd_una += 2 * MSS;
        cr__congestion_acked(&path->tcp, 2 * MSS, before_bytes);
        before_bytes -= 2 * MSS;
    }
    CHECK_EQ(path->tcp.cwnd_bytes, 18 * MSS);
    path_close(path);
}

/* ---- RFC 9438: CUBIC ------------------------------------------------------------------------------------------ */

TEST(rfc9438_4_6_a_loss_takes_the_window_to_seven_tenths)
{
    struct path *path = with_window(0, 100, 100000);
    lose(path);
    CHECK_EQ(path->tcp.ssthresh_bytes, 70 * MSS);
    CHECK_EQ(path->tcp.w_max_bytes, 100 * MSS);
    path_close(path);
}

TEST(rfc9438_4_2_after_a_loss_the_window_follows_the_curve)
{
    struct path *path = with_window(0, 1000, 100000);
    lose(path);
    int64_t begin_ns = path->host.now_ns;
    acked(path, 1);
    double w_max = 1000, k = cbrt((w_max - 700) / 0.4);
    const double times[] = {0.5, 1, 2, 4, 6, 8, 9, 9.5, 10, 12, 15, 18, 20};
    for (unsigned i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        go_on_until(path, begin_ns + (int64_t)(times[i] * 1e9));
        double expected = 0.4 * pow(times[i] - k, 3) + w_max, is = (double)path->tcp.cwnd_bytes / MSS;
        if (fabs(is / expected - 1) > 0.02)
            printf("# at %.1f s: %.1f segments, not %.1f\n", times[i], is, expected);
        CHECK(fabs(is / expected - 1) <= 0.02);
    }
    path_close(path);
}

TEST(rfc9438_4_2_k_is_the_cube_root_for_small_windows_and_large)
{
    for (uint32_t segments = 2; segments < 400000; segments = segments * 3 + 1) {
        struct path *path = with_window(0, segments, 10000);
        path->tcp.w_max_bytes = segments * MSS * 2;
        path->tcp.ssthresh_bytes = segments * MSS;
        acked(path, 1);
        double k_ms = 1000 * cbrt(segments / 0.4);
        CHECK(fabs(path->flight.cubic.k_ms - k_ms) <= 1.0);
        path_close(path);
    }
}

TEST(rfc9438_4_2_it_grows_by_half_in_a_round_trip_at_most)
{
    struct path *path = with_window(0, 100, 10000);
    path->tcp.w_max_bytes = 100 * MSS;
    path->tcp.ssthresh_bytes = 100 * MSS;
    acked(path, MSS);
    pass(path, 60000 * MS); /* the curve is far above by now */
    uint32_t before_bytes = path->tcp.cwnd_bytes;
    for (int i = 0; i < 100; i++)
        acked(path, MSS);
    CHECK(path->tcp.cwnd_bytes > before_bytes * 13 / 10);
    CHECK(path->tcp.cwnd_bytes <= before_bytes * 33 / 20); /* e^(1/2): by half of what it is at each ACK */
    path_close(path);
}

TEST(rfc9438_4_3_with_a_short_rtt_the_window_is_renos)
{
    struct path *path = with_window(0, 20, 10000);
    lose(path);
    CHECK_EQ(path->tcp.cwnd_bytes, 14 * MSS);
    int64_t begin_ns = path->host.now_ns;
    acked(path, 1);
    go_on_until(path, begin_ns + 10 * 10 * MS); /* ten round trips */
    double expected = 14 + 10 * 9.0 / 17;
    CHECK(fabs((double)path->tcp.cwnd_bytes / MSS / expected - 1) < 0.02);
    go_on_until(path, begin_ns + 12 * 10 * MS); /* where it was: from here on a segment a round trip */
    double there = (double)path->tcp.cwnd_bytes / MSS;
    CHECK(there > 20 && there < 21);
    go_on_until(path, begin_ns + 32 * 10 * MS);
    CHECK(fabs((double)path->tcp.cwnd_bytes / MSS - there - 20) < 1);
    path_close(path);
}

TEST(rfc9438_4_7_who_has_to_give_way_before_it_was_back_leaves_room)
{
    struct path *path = with_window(0, 100, 100000);
    lose(path);
    path->tcp.cwnd_bytes = 80 * MSS; /* on its way to 100 */
    lose(path);
    CHECK_EQ(path->tcp.w_max_bytes, 80 * MSS * 17 / 20);
    path->tcp.cwnd_bytes = 90 * MSS;
    lose(path);
    CHECK_EQ(path->tcp.w_max_bytes, 90 * MSS);
    path_close(path);
}

TEST(rfc9438_4_8_after_a_timeout_the_curve_begins_flat_where_slow_start_ended)
{
    struct path *path = with_window(0, 100, 100000);
    cr__congestion_timeout(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, 70 * MSS);
    for (int i = 0; i < 69; i++)
        acked(path, MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 70 * MSS);
    acked(path, MSS);
    CHECK_EQ(path->flight.cubic.k_ms, 0);
    CHECK_EQ(path->flight.cubic.origin_bytes, 70 * MSS);
    path_close(path);
}

TEST(rfc9438_5_8_the_curve_waits_while_the_window_is_not_used)
{
    struct path *path = with_window(0, 1000, 100000);
    lose(path);
    acked(path, 1);
    go_on_until(path, path->host.now_ns + 2000 * MS);
    uint32_t before_bytes = path->tcp.cwnd_bytes;
    path->tcp.snd_una += 2000 * MSS; /* what had been limited is acknowledged */
    path->tcp.snd_nxt = path->tcp.snd_una + 100 * MSS;
    for (int i = 0; i < 100; i++) {
        pass(path, 100 * MS);
        cr__congestion_acked(&path->tcp, MSS, 100 * MSS);
    }
    CHECK_EQ(path->tcp.cwnd_bytes, before_bytes);
    go_on_until(path, path->host.now_ns + 100 * MS);
    CHECK(path->tcp.cwnd_bytes < before_bytes * 103 / 100); /* no leap for the ten seconds */
    path_close(path);
}

TEST(rfc9438_4_9_undoing_gives_back_all_of_it)
{
    struct path *path = with_window(0, 1000, 100000);
    lose(path);
    acked(path, 1);
    go_on_until(path, path->host.now_ns + 3000 * MS);
    struct cr__cubic cubic = path->flight.cubic;
    uint32_t cwnd_bytes = path->tcp.cwnd_bytes, ssthresh_bytes = path->tcp.ssthresh_bytes, w_max_bytes = path->tcp.w_max_bytes;
    for (int i = 0; i < 2; i++) {
        use_whole(path);
        if (i == 0)
            cr__congestion_lost(&path->tcp);
        else
            cr__congestion_timeout(&path->tcp);
        CHECK(path->tcp.cwnd_bytes < cwnd_bytes);
        cr__congestion_undo(&path->tcp);
        CHECK_EQ(path->tcp.cwnd_bytes, cwnd_bytes);
        CHECK_EQ(path->tcp.ssthresh_bytes, ssthresh_bytes);
        CHECK_EQ(path->tcp.w_max_bytes, w_max_bytes);
        CHECK(memcmp(&path->flight.cubic, &cubic, sizeof(cubic)) == 0);
    }
    path_close(path);
}

/* ---- RFC 3168: ECN -------------------------------------------------------------------------------------------- */

TEST(rfc3168_6_1_2_ece_reduces_once_a_window_and_the_peer_is_told)
{
    struct path *path = with_window(CR__TCP_ECN, 100, 100000);
    uint32_t end = path->tcp.snd_nxt;
    cr__congestion_ecn(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, 70 * MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, 70 * MSS);
    CHECK(path->tcp.flags & CR__TCP_SEND_CWR);
    path->tcp.flags &= ~(uint32_t)CR__TCP_SEND_CWR;
    for (int i = 0; i < 10; i++) {
        path->tcp.snd_una += MSS;
        cr__congestion_ecn(&path->tcp);
    }
    CHECK_EQ(path->tcp.cwnd_bytes, 70 * MSS);
    CHECK(!(path->tcp.flags & CR__TCP_SEND_CWR));
    path->tcp.snd_una = end;
    use_whole(path);
    cr__congestion_ecn(&path->tcp);
    CHECK_EQ(path->tcp.cwnd_bytes, 49 * MSS);
    path_close(path);
}

TEST(rfc3168_6_1_2_a_loss_within_the_same_window_is_no_second_reason)
{
    struct path *path = with_window(CR__TCP_ECN | CR__TCP_NEWRENO, 100, 100000);
    lose(path);
    CHECK(path->tcp.flags & CR__TCP_SEND_CWR);
    cr__congestion_ecn(&path->tcp);
    CHECK_EQ(path->tcp.ssthresh_bytes, 50 * MSS);
    path_close(path);
}

/* ---- RFC 9406: HyStart++ -------------------------------------------------------------------------------------- */

/* A round trip of slow start with that RTT. */
static void round_trip(struct path *path, uint32_t rtt_us)
{
    uint32_t end = path->tcp.snd_nxt;
    while (cr__seq_before(path->tcp.snd_una, end)) {
        path->tcp.snd_una += MSS;
        cr__congestion_rtt(&path->tcp, rtt_us);
        acked(path, MSS);
        use_whole(path);
    }
}

TEST(rfc9406_4_2_slow_start_ends_when_the_rtt_has_risen_for_five_rounds)
{
    struct path *path = with_window(0, 10, 50000);
    round_trip(path, 50000);
    CHECK_EQ(path->tcp.cwnd_bytes, 20 * MSS);
    round_trip(path, 52000); /* less than an eighth more */
    CHECK_EQ(path->tcp.cwnd_bytes, 40 * MSS);
    round_trip(path, 60000);
    uint32_t before_bytes = path->tcp.cwnd_bytes;
    CHECK_EQ(path->tcp.ssthresh_bytes, UINT32_MAX);
    round_trip(path, 60000);
    CHECK(path->tcp.cwnd_bytes <= before_bytes * 5 / 4 + MSS);
    for (int i = 0; i < 5; i++)
        round_trip(path, 60000);
    CHECK(path->tcp.ssthresh_bytes != UINT32_MAX);
    path_close(path);
}

TEST(rfc9406_4_2_an_ack_adds_eight_segments_at_most)
{
    struct path *path = with_window(0, 40, 50000);
    acked(path, 7 * MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 47 * MSS);
    acked(path, 20 * MSS);
    CHECK_EQ(path->tcp.cwnd_bytes, 55 * MSS);
    path_close(path);
}

TEST(rfc9406_4_2_if_the_rtt_falls_again_slow_start_goes_on)
{
    struct path *path = with_window(0, 10, 50000);
    round_trip(path, 50000);
    round_trip(path, 60000);
    CHECK(path->flight.hystart_css_rounds > 0);
    round_trip(path, 50000);
    CHECK_EQ(path->flight.hystart_css_rounds, 0);
    uint32_t before_bytes = path->tcp.cwnd_bytes;
    round_trip(path, 50000);
    CHECK(path->tcp.cwnd_bytes >= 2 * before_bytes && path->tcp.cwnd_bytes <= 2 * before_bytes + MSS);
    CHECK_EQ(path->tcp.ssthresh_bytes, UINT32_MAX);
    path_close(path);
}

/* ---- Throughput ------------------------------------------------------------------------------------------------ */

static double loss_rate;
static int by_chance(struct path *path, int packet, unsigned times)
{
    (void)packet;
    (void)times;
    return chance(path) < loss_rate ? -1 : 0;
}

static int each_so_many(struct path *path, int packet, unsigned times)
{
    (void)path;
    (void)times;
    return packet % (int)(1 / loss_rate) == 777 % (int)(1 / loss_rate) && times == 1 ? -1 : 0;
}

/* Segments in a round trip, in the mean. */
static double mean_window(uint32_t flags, int64_t rtt_ms, double rate, int (*fate)(struct path *, int, unsigned), int64_t seconds)
{
    struct path *path = path_open(flags | CR__TCP_SACK | CR__TCP_TIMESTAMPS);
    path->delay_ns = rtt_ms * MS / 2;
    path->fate = fate;
    path->endless = true;
    path->checks_each = 1000;
    loss_rate = rate;
    run_until(path, path->host.now_ns + seconds * 100 * MS); /* a tenth, until it has settled */
    uint64_t before = path->received_bytes;
    run_until(path, path->host.now_ns + seconds * 1000 * MS);
    double segments = (double)(path->received_bytes - before) / MSS;
    CHECK(path->timeouts < segments / 2000);
    path_close(path);
    return segments / (double)seconds * (double)rtt_ms / 1000;
}

/* RFC 5681's by the inverse square root (Mathis, Semke, Mahdavi and Ott 1997): sqrt(3/2) / sqrt(p); RFC 9438's W_est is made to have the same (its equation 3 and 4), and rules
 * while it is above CUBIC's own mean, RFC 9438, 5.1, equation 5: (C (3 + beta) / (4 (1 - beta)))^(1/4) (RTT / p)^(3/4). */
static double reno_equation(double rate)
{
    return sqrt(1.5 / rate);
}

static double cubic_equation(double rtt_s, double rate)
{
    return pow(0.4 * 3.7 / (4 * 0.3), 0.25) * pow(rtt_s / rate, 0.75);
}

static void check_throughput(const char *what, double is, double expected)
{
    printf("# %s: %.1f segments a round trip; by the equation %.1f: %.2f\n", what, is, expected, is / expected);
    CHECK(is / expected >= 0.8 && is / expected <= 1.25);
}

TEST(mathis_reno_has_its_equations_throughput_at_10_ms_and_1_percent)
{
    check_throughput("Reno", mean_window(CR__TCP_NEWRENO, 10, 0.01, by_chance, 300), reno_equation(0.01));
}

TEST(rfc9438_5_1_cubic_has_renos_throughput_at_10_ms_and_1_percent)
{
    CHECK(cubic_equation(0.01, 0.01) < reno_equation(0.01)); /* the region where Reno's equation holds */
    check_throughput("CUBIC", mean_window(0, 10, 0.01, by_chance, 300), reno_equation(0.01));
}

TEST(rfc9438_5_1_cubic_has_its_own_equations_throughput_at_100_ms_and_1_in_10000)
{
    CHECK(cubic_equation(0.1, 0.0001) > 1.5 * reno_equation(0.0001));
    check_throughput("CUBIC, regular losses", mean_window(0, 100, 0.0001, each_so_many, 600), cubic_equation(0.1, 0.0001));
}

/* ---- Throughput between two hosts ------------------------------------------------------------------------------- */

static bool loses_data(struct pair *pair, struct cr__host *from, struct cr_packet *frame)
{
    struct path *dice = pair->user;
    return from == &pair->b || frame->size_bytes < 200 || chance(dice) >= 0.01;
}

static void told(struct cr__tcp *tcp, unsigned events)
{
    (void)tcp;
    (void)events;
}

static void has_accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
}

/* Writes and reads as much as goes, so long. Bytes read. */
static uint64_t go_on(struct pair *pair, struct cr__tcp *from, struct cr__tcp *to, int64_t seconds)
{
    static char bytes[65536];
    uint64_t got = 0;
    for (int64_t until_ns = pair->now_ns + seconds * PAIR_SECOND; pair->now_ns < until_ns; pair_run(pair, 5 * PAIR_MS)) {
        struct iovec iov = {bytes, sizeof(bytes)};
        while (cr__tcp_send(from, &iov, 1, false) > 0)
            ;
        ssize_t n;
        while ((n = cr__tcp_recv(to, &iov, 1)) > 0)
            got += (uint64_t)n;
        cr__tcp_check(from);
    }
    return got;
}

TEST(between_two_hosts_at_10_ms_and_1_percent_cubic_and_reno_have_their_equations_throughput)
{
    for (int reno = 0; reno <= 1; reno++) {
        static struct pair pair;
        struct path dice = {.seed = 42};
        struct cr__tcp_config config = {.above = {told, has_accepted}, .newreno = reno};
        struct cr__tcp_listener *listener;
        struct cr__tcp *a, *b;
        struct cr__ip to = pair_ip4(2);
        pair_init(&pair, 7);
        CHECK_EQ(cr__tcp_init(&pair.a, &config), 0);
        CHECK_EQ(cr__tcp_init(&pair.b, &config), 0);
        pair.delay_ns = 5 * PAIR_MS;
        CHECK_EQ(cr__tcp_listen(&pair.b, &listener, NULL, 80, NULL), 0);
        CHECK_EQ(cr__tcp_dial(&pair.a, &a, NULL, 0, &to, 80, NULL), 0);
        pair_run(&pair, 100 * PAIR_MS);
        CHECK((b = cr__tcp_accept(listener)) != NULL);
        pair.user = &dice;
        pair.passes = loses_data;
        go_on(&pair, a, b, 10);
        double segments = (double)go_on(&pair, a, b, 200) / a->mss_bytes;
        check_throughput(reno ? "Reno" : "CUBIC", segments / 200 * 0.010, reno_equation(0.01));
        cr__tcp_fini(&pair.a);
        cr__tcp_fini(&pair.b);
        pair_fini(&pair);
    }
}
