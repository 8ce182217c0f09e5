/* How much may be in flight: CUBIC (RFC 9438) by default, NewReno (RFC 5681) by a flag of the connection's. Bytes and integers only.
 *
 * Slow start counts bytes (RFC 3465): an ACK adds what it acknowledges, at most two segments (one after an RTO); CUBIC at most eight, with HyStart++ (RFC 9406), which ends slow
 * start when the RTT rises, before something is lost.
 *
 * CUBIC. In congestion avoidance the window follows W(t) = C (t - K)^3 + W_max, with C = 0.4 segments/s^3, from where the last reduction has left it: t is the time since then,
 * in milliseconds, less the time in which the window was not used; K is how long the curve takes up to W_max. Each acknowledged byte adds (W(t + RTT) - cwnd) / cwnd bytes; what
 * is less than a byte is kept (`grown`). Where Reno, with CUBIC's beta, would have more (W_est), the window is that: on paths with short RTTs this is always so. After a timeout
 * W_max is 0, so the curve begins flat at wherever slow start ended (RFC 9438, 4.8).
 *
 * The window grows only while it is used (RFC 9438, 5.8; RFC 7661): when there was no room for one more segment before the ACK, or had been within the last window (several ACKs
 * may come before something is sent again); in slow start, when half of it was in use.
 *
 * ssthresh goes by what was in flight or the window, whichever is less (RFC 5681, equation 4; RFC 9438, 4.6): a window that was not used says nothing of the path. ECN reduces by
 * the same factor as a loss (RFC 9438, 4.6). RFC 8511 has a gentler one for CUBIC, 0.85: it is experimental, and takes for granted that who marks does so early. */
#include "net/tcp/tcp.h"

#define WINDOW_FIRST 10 /* segments (RFC 6928) */
#define WINDOW_MOST_BYTES (1u << 30) /* as much as windows can be (RFC 7323, 2.3) */
#define CURVE_MOST_MS 100000 /* from W_max: 0.4 * 100^3 segments are more than any window */
#define HYSTART_LEAST_US 4000
#define HYSTART_MOST_US 16000
#define HYSTART_SAMPLES 8
#define HYSTART_CSS_DIVISOR 4
#define HYSTART_CSS_ROUNDS 5

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool is_reno(const struct cr__tcp *tcp)
{
    return tcp->flags & CR__TCP_NEWRENO;
}

static uint32_t first_window(const struct cr__tcp *tcp)
{
    uint32_t segments = tcp->host->tcp ? tcp->host->tcp->config.initial_window : 0;
    return (segments ? segments : WINDOW_FIRST) * tcp->mss_bytes;
}

/* After a SYN that was lost twice: one segment (RFC 5681, 3.1). Once may be a timeout that came too early (RFC 6928, 2), which the first RTO of a second makes likelier. */
void cr__congestion_init(struct cr__tcp *tcp)
{
    tcp->cwnd_bytes = tcp->backoff > 1 ? tcp->mss_bytes : first_window(tcp);
    tcp->ssthresh_bytes = UINT32_MAX;
    tcp->w_max_bytes = 0;
}

/* ---- CUBIC -------------------------------------------------------------------------------------------------- */

static uint32_t cube_root(uint64_t n)
{
    uint64_t root = 0;
    for (int bit = 21; bit >= 0; bit--) {
        uint64_t more = root | (uint64_t)1 << bit;
        if ((unsigned __int128)more * more * more <= n)
            root = more;
    }
    return (uint32_t)root;
}

/* W(t), in bytes. Thousandths of a segment are lost in between. */
static uint32_t curve(const struct cr__cubic *cubic, uint32_t mss_bytes, int64_t t_ms)
{
    int64_t d_ms = t_ms - cubic->k_ms;
    if (d_ms > CURVE_MOST_MS)
        d_ms = CURVE_MOST_MS;
    if (d_ms < -CURVE_MOST_MS)
        d_ms = -CURVE_MOST_MS;
    int64_t bytes = cubic->origin_bytes + d_ms * d_ms * d_ms / 1000 * mss_bytes * 4 / 10 / 1000000;
    return bytes < (int64_t)mss_bytes ? mss_bytes : bytes > WINDOW_MOST_BYTES ? WINDOW_MOST_BYTES : (uint32_t)bytes;
}

static void cubic_begin(struct cr__tcp *tcp)
{
    struct cr__cubic *cubic = &tcp->flight->cubic;
    cubic->epoch_ns = cubic->last_ns = tcp->host->now_ns;
    cubic->grown = cubic->friendly_grown = 0;
    cubic->friendly_bytes = tcp->cwnd_bytes;
    if (!cubic->prior_bytes)
        cubic->prior_bytes = tcp->w_max_bytes; /* the flight that knew it is gone: W_max is it, or not much less */
    if (tcp->w_max_bytes > tcp->cwnd_bytes) {
        cubic->origin_bytes = tcp->w_max_bytes;
        cubic->k_ms = cube_root((uint64_t)(tcp->w_max_bytes - tcp->cwnd_bytes) * 2500000000u / tcp->mss_bytes);
    } else {
        cubic->origin_bytes = tcp->w_max_bytes = tcp->cwnd_bytes;
        cubic->k_ms = 0;
    }
}

/* Adds bytes of `gain` to *grown, in parts of `whole`; returns how many whole bytes have come together. */
static uint32_t grow_window(uint64_t *grown, uint64_t gain, uint64_t whole)
{
    *grown += gain;
    uint64_t bytes = *grown / whole;
    *grown %= whole;
    return cr__tcp_least(bytes, WINDOW_MOST_BYTES);
}

static void cubic_acked(struct cr__tcp *tcp, uint32_t acked_bytes)
{
    struct cr__cubic *cubic = &tcp->flight->cubic;
    uint32_t mss_bytes = tcp->mss_bytes, cwnd_bytes = tcp->cwnd_bytes;
    if (!cubic->epoch_ns)
        cubic_begin(tcp);
    int64_t t_ms = (tcp->host->now_ns - cubic->epoch_ns) / 1000000;
    uint32_t target_bytes = curve(cubic, mss_bytes, t_ms + tcp->srtt_us / 1000);
    target_bytes = cr__tcp_least((uint64_t)cwnd_bytes * 3 / 2, target_bytes); /* RFC 9438, 4.2 */
    uint64_t ahead_bytes = target_bytes > cwnd_bytes ? target_bytes - cwnd_bytes : 0;
    tcp->cwnd_bytes += grow_window(&cubic->grown, ahead_bytes * acked_bytes, cwnd_bytes);
    /* alpha is 3 (1 - beta) / (1 + beta) = 9/17 until W_est is where the window was before, and 1 from there (RFC 9438, 4.3) */
    unsigned alpha = cubic->friendly_bytes < cubic->prior_bytes ? 9 : 17;
    uint32_t more_bytes = grow_window(&cubic->friendly_grown, (uint64_t)alpha * mss_bytes * acked_bytes, (uint64_t)17 * cwnd_bytes);
    cubic->friendly_bytes = cr__tcp_least((uint64_t)cubic->friendly_bytes + more_bytes, WINDOW_MOST_BYTES);
    if (curve(cubic, mss_bytes, t_ms) < cubic->friendly_bytes)
        tcp->cwnd_bytes = larger(tcp->cwnd_bytes, cubic->friendly_bytes);
}

/* Fast convergence: who has to give way before it was up where it had been leaves room for others (RFC 9438, 4.7). */
static void cubic_reduce(struct cr__tcp *tcp)
{
    uint32_t cwnd_bytes = tcp->cwnd_bytes;
    tcp->w_max_bytes = cwnd_bytes < tcp->w_max_bytes ? (uint32_t)((uint64_t)cwnd_bytes * 17 / 20) : cwnd_bytes;
    tcp->flight->cubic = (struct cr__cubic){.prior_bytes = cwnd_bytes};
}

/* ---- HyStart++ ---------------------------------------------------------------------------------------------- */

static bool hystart_works(const struct cr__tcp *tcp)
{
    return tcp->flight && !is_reno(tcp) && tcp->ssthresh_bytes == UINT32_MAX; /* the first slow start (RFC 9406, 4.3) */
}

static void hystart_round(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    flight->hystart_last_us = flight->hystart_is_set ? flight->hystart_now_us : UINT32_MAX;
    flight->hystart_now_us = UINT32_MAX;
    flight->hystart_samples = 0;
    flight->hystart_end = tcp->snd_nxt;
    flight->hystart_is_set = true;
}

static void hystart_sample(struct cr__flight *flight, uint32_t rtt_us)
{
    flight->hystart_now_us = cr__tcp_least(rtt_us, flight->hystart_now_us);
    if (flight->hystart_samples < HYSTART_SAMPLES)
        flight->hystart_samples++;
    if (flight->hystart_samples < HYSTART_SAMPLES || flight->hystart_last_us == UINT32_MAX)
        return;
    uint32_t slack_us = flight->hystart_last_us / 8;
    slack_us = slack_us < HYSTART_LEAST_US ? HYSTART_LEAST_US : slack_us > HYSTART_MOST_US ? HYSTART_MOST_US : slack_us;
    if (flight->hystart_css_rounds == 0 && flight->hystart_now_us >= flight->hystart_last_us + slack_us) {
        flight->hystart_css_rounds = 1;
        flight->hystart_base_us = flight->hystart_now_us;
    } else if (flight->hystart_css_rounds > 0 && flight->hystart_now_us < flight->hystart_base_us) {
        flight->hystart_css_rounds = 0; /* it was jitter */
    }
}

void cr__congestion_rtt(struct cr__tcp *tcp, uint32_t rtt_us)
{
    struct cr__flight *flight = tcp->flight;
    if (!hystart_works(tcp))
        return;
    if (!flight->hystart_is_set)
        hystart_round(tcp);
    hystart_sample(flight, rtt_us);
    if (cr__seq_before(tcp->snd_una, flight->hystart_end))
        return;
    if (flight->hystart_css_rounds > 0 && ++flight->hystart_css_rounds > HYSTART_CSS_ROUNDS)
        tcp->ssthresh_bytes = tcp->cwnd_bytes;
    hystart_round(tcp);
}

/* ---- Growing ------------------------------------------------------------------------------------------------ */

static void slow_start(struct cr__tcp *tcp, uint32_t acked_bytes)
{
    const struct cr__flight *flight = tcp->flight;
    uint32_t most = flight->after_timeout ? 1 : is_reno(tcp) ? 2 : 8;
    uint32_t bytes = cr__tcp_least(acked_bytes, most * tcp->mss_bytes);
    if (flight->hystart_css_rounds > 0)
        bytes /= HYSTART_CSS_DIVISOR;
    tcp->cwnd_bytes = cr__tcp_least((uint64_t)tcp->cwnd_bytes + bytes, tcp->ssthresh_bytes);
}

/* Whether the window was used. */
static bool is_limited(struct cr__tcp *tcp, uint32_t before_bytes)
{
    struct cr__flight *flight = tcp->flight;
    if ((uint64_t)before_bytes + tcp->mss_bytes > tcp->cwnd_bytes) {
        flight->limited_end = tcp->snd_nxt;
        flight->limited_is_set = true;
    } else if (flight->limited_is_set && cr__seq_before(flight->limited_end, tcp->snd_una)) {
        flight->limited_is_set = false;
    }
    return flight->limited_is_set || (tcp->cwnd_bytes < tcp->ssthresh_bytes && (uint64_t)before_bytes * 2 >= tcp->cwnd_bytes);
}

void cr__congestion_acked(struct cr__tcp *tcp, uint32_t acked_bytes, uint32_t before_bytes)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight || acked_bytes == 0)
        return;
    if (flight->cwr_is_set && cr__seq_not_after(flight->cwr_end, tcp->snd_una))
        flight->cwr_is_set = false;
    struct cr__cubic *cubic = &flight->cubic;
    bool limited = is_limited(tcp, before_bytes);
    if (!limited && cubic->epoch_ns)
        cubic->epoch_ns += tcp->host->now_ns - cubic->last_ns; /* the curve waits meanwhile */
    cubic->last_ns = tcp->host->now_ns;
    if (!limited)
        return;
    if (tcp->cwnd_bytes < tcp->ssthresh_bytes) {
        slow_start(tcp, acked_bytes);
    } else if (is_reno(tcp)) {
        tcp->cwnd_bytes += grow_window(&cubic->grown, (uint64_t)tcp->mss_bytes * acked_bytes, tcp->cwnd_bytes);
    } else {
        cubic_acked(tcp, acked_bytes);
    }
    tcp->cwnd_bytes = cr__tcp_least(tcp->cwnd_bytes, WINDOW_MOST_BYTES);
}

/* ---- Reducing, and undoing ---------------------------------------------------------------------------------- */

static void keep_for_undo(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    flight->undo_cwnd_bytes = tcp->cwnd_bytes;
    flight->undo_ssthresh_bytes = tcp->ssthresh_bytes;
    flight->undo_w_max_bytes = tcp->w_max_bytes;
    flight->undo_cubic = flight->cubic;
}

/* ssthresh; and, with ECN, that the peer is to be told (RFC 3168, 6.1.2), and that what is marked within this window counts with it. */
static void reduce(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    uint32_t used_bytes = cr__tcp_least(larger(tcp->snd_nxt - tcp->snd_una, flight->outstanding_bytes), tcp->cwnd_bytes);
    uint32_t less_bytes = is_reno(tcp) ? used_bytes / 2 : (uint32_t)((uint64_t)used_bytes * 7 / 10);
    cubic_reduce(tcp);
    tcp->ssthresh_bytes = larger(less_bytes, 2u * tcp->mss_bytes);
    flight->after_timeout = false;
    flight->hystart_css_rounds = 0;
    flight->cwr_is_set = true;
    flight->cwr_end = tcp->snd_nxt;
    if (tcp->flags & CR__TCP_ECN)
        tcp->flags |= CR__TCP_SEND_CWR;
}

void cr__congestion_lost(struct cr__tcp *tcp)
{
    keep_for_undo(tcp);
    reduce(tcp);
    tcp->cwnd_bytes = tcp->ssthresh_bytes; /* where PRR takes it */
}

void cr__congestion_timeout(struct cr__tcp *tcp)
{
    keep_for_undo(tcp);
    reduce(tcp);
    tcp->cwnd_bytes = tcp->mss_bytes;
    tcp->w_max_bytes = 0;
    tcp->flight->after_timeout = true;
}

void cr__congestion_ecn(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight || (flight->cwr_is_set && cr__seq_before(tcp->snd_una, flight->cwr_end)))
        return;
    reduce(tcp);
    tcp->cwnd_bytes = cr__tcp_least(tcp->ssthresh_bytes, tcp->cwnd_bytes);
    flight->undo_is_set = false; /* that would take this reduction back, too */
}

void cr__congestion_undo(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    tcp->cwnd_bytes = larger(tcp->cwnd_bytes, flight->undo_cwnd_bytes);
    tcp->ssthresh_bytes = flight->undo_ssthresh_bytes;
    tcp->w_max_bytes = flight->undo_w_max_bytes;
    flight->cubic = flight->undo_cubic;
    flight->after_timeout = false;
}

/* RFC 5681, 4.1. Slow start goes up to near where the window was (RFC 7661, 4.4.3). */
void cr__congestion_idle(struct cr__tcp *tcp, uint32_t idle_us)
{
    if (idle_us <= cr__recovery_rto_us(tcp))
        return;
    if (tcp->ssthresh_bytes != UINT32_MAX)
        tcp->ssthresh_bytes = larger(tcp->ssthresh_bytes, (uint32_t)((uint64_t)tcp->cwnd_bytes * 3 / 4));
    tcp->cwnd_bytes = cr__tcp_least(first_window(tcp), tcp->cwnd_bytes);
    if (tcp->flight)
        tcp->flight->cubic.epoch_ns = 0;
}
