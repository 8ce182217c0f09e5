/* SYN cookies (RFC 4987, 3.6; Bernstein 1996): an ISN that says what has to be known, so that a flood of SYNs makes us keep nothing.
 *
 *     cookie = H1(names) + peer's ISN + minute * 2^24 + (H2(names, minute) + MSS class) mod 2^24
 *
 * and with timestamps the lowest six bits of ours say window scale (15: none), SACK and ECN, as Linux does it. Who guesses a cookie has a connection, as he could have for a
 * SYN anyway, but not from an address that is not his. One is good for one to two minutes (of 64 s), and looked at only if one has been sent in that time. */
#include "net/tcp/tcp.h"

#define MINUTE_NS (64 * (int64_t)1000000000)
#define MINUTES 2
#define COOKIE_BITS 24
#define COOKIE_MASK (((uint32_t)1 << COOKIE_BITS) - 1)
#define TS_MASK 63u
#define TS_NO_SCALE 15u
#define TS_SACK 16u
#define TS_ECN 32u

static const uint16_t mss_classes[] = {64, 536, 1220, 1300, 1360, 1400, 1440, 1460};

static uint32_t hash(const struct cr__host *host, const struct cr__tcp_half *half, uint32_t of, uint32_t minute)
{
    struct {
        struct cr__ip local, peer;
        uint16_t local_port, peer_port;
        uint32_t of, minute, zero;
    } named = {host->config.addresses[half->local].ip, half->peer, half->local_port, half->peer_port, of, minute, 0};
    return (uint32_t)cr__host_hash(host, &named, sizeof(named));
}

static uint32_t minute_of(const struct cr__host *host)
{
    return (uint32_t)(host->now_ns / MINUTE_NS);
}

static uint32_t make_cookie(const struct cr__host *host, const struct cr__tcp_half *half)
{
    uint32_t minute = minute_of(host), class = 0;
    while (class + 1 < CR__COUNT(mss_classes) && mss_classes[class + 1] <= half->peer_mss_bytes)
        class++;
    return hash(host, half, 4, 0) + half->irs + (minute << COOKIE_BITS) + ((hash(host, half, 5, minute) + class) & COOKIE_MASK);
}

/* Ours, with what there is no room for elsewhere; never later than it is. */
static uint32_t timestamp(const struct cr__host *host, const struct cr__tcp_half *half)
{
    uint32_t said = half->flags & CR__TCP_SCALED ? half->snd_scale : TS_NO_SCALE, now_ms = cr__tcp_ms(host);
    said |= (half->flags & CR__TCP_SACK ? TS_SACK : 0) | (half->flags & CR__TCP_ECN ? TS_ECN : 0);
    uint32_t value = (now_ms & ~TS_MASK) | said;
    return (cr__seq_before(now_ms, value) ? value - TS_MASK - 1 : value) + half->ts_offset;
}

void cr__tcp_cookie_send(struct cr__host *host, struct cr__tcp_half *half)
{
    if (!(half->flags & CR__TCP_TIMESTAMPS)) /* nowhere to keep them */
        half->flags &= ~(uint32_t)(CR__TCP_SACK | CR__TCP_SCALED | CR__TCP_ECN);
    half->iss = make_cookie(host, half);
    host->tcp->cookie_ns = host->now_ns;
    host->tcp->cookies_sent++;
    cr__tcp_syn_ack(host, half, timestamp(host, half));
}

static bool check_cookie(const struct cr__host *host, struct cr__tcp_half *half)
{
    uint32_t left = half->iss - hash(host, half, 4, 0) - half->irs, minute = minute_of(host);
    uint32_t age = (minute - (left >> COOKIE_BITS)) & 0xff;
    if (age >= MINUTES)
        return false;
    uint32_t class = (left - hash(host, half, 5, minute - age)) & COOKIE_MASK;
    if (class >= CR__COUNT(mss_classes))
        return false;
    half->peer_mss_bytes = mss_classes[class];
    return true;
}

/* What the SYN had said. */
static void remember(struct cr__host *host, const struct cr__tcp_listener *listener, struct cr__tcp_half *half, const struct cr__segment *seg)
{
    half->flags = 0;
    half->snd_scale = half->rcv_scale = 0;
    if (!seg->has_timestamp || host->tcp->config.no_timestamps)
        return;
    uint32_t said = (seg->ts_echo - half->ts_offset) & TS_MASK;
    half->flags = CR__TCP_TIMESTAMPS | (said & TS_SACK ? CR__TCP_SACK : 0) | (said & TS_ECN ? CR__TCP_ECN : 0);
    if ((said & 15) != TS_NO_SCALE) {
        half->flags |= CR__TCP_SCALED;
        half->snd_scale = said & 15;
        half->rcv_scale = cr__tcp_rcv_scale(host->tcp, listener->recv_limit_bytes);
    }
}

bool cr__tcp_cookie_input(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg)
{
    struct cr__tcp_layer *layer = host->tcp;
    if (!layer->cookie_ns || host->now_ns - layer->cookie_ns > MINUTES * MINUTE_NS)
        return false;
    struct cr__tcp_half half = cr__tcp_half_of(host, listener, in, seg);
    half.irs = seg->seq - 1;
    half.iss = seg->ack - 1;
    if (!check_cookie(host, &half)) {
        cr__host_count(host, CR__DROP_TCP_COOKIE);
        return false;
    }
    remember(host, listener, &half, seg);
    struct cr__tcp *tcp = cr__tcp_make(host, listener, &half);
    if (!tcp) { /* what the peer sends next has the cookie, too */
        cr__packet_put(host->packets, in->packet);
        return true;
    }
    layer->cookies_good++;
    cr__tcp_begin(listener, tcp, in, seg);
    return true;
}
