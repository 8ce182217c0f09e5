/* Half open at a listener: SYN-RECEIVED (RFC 9293, 3.10.7.4) in an entry of its own, smaller than a connection, for of these anybody can make many. */
#include "net/tcp/tcp.h"

#define FIRST_RTO_NS 1000000000

/* ---- SYN+ACK ------------------------------------------------------------------------------------------------------------ */

void cr__tcp_syn_ack(struct cr__host *host, const struct cr__tcp_half *half, uint32_t ts_value)
{
    struct cr_packet *packet = cr__packet_get(host->packets);
    if (!packet) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return;
    }
    struct cr__segment seg = {
        .from_port = half->local_port,
        .to_port = half->peer_port,
        .seq = half->iss,
        .ack = half->irs + 1,
        .window = (uint16_t)half->window_bytes,
        .flags = CR__SYN | CR__ACK | (half->flags & CR__TCP_ECN ? CR__ECE : 0),
        .has_timestamp = half->flags & CR__TCP_TIMESTAMPS,
        .ts_value = ts_value,
        .ts_echo = half->ts_recent,
        .sack_permitted = half->flags & CR__TCP_SACK,
        .has_scale = half->flags & CR__TCP_SCALED,
        .scale = half->rcv_scale,
        .mss_bytes = cr__tcp_our_mss(host, &half->peer),
    };
    cr__tcp_transmit(host, packet, &seg, &host->config.addresses[half->local].ip, &half->peer, 0);
}

/* What a SYN says, and what is answered, but for the ISN. */
struct cr__tcp_half cr__tcp_half_of(struct cr__host *host, const struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg)
{
    struct cr__tcp_half half = {
        .peer = in->from,
        .local_port = seg->to_port,
        .peer_port = seg->from_port,
        .local = (uint8_t)cr__tcp_local(host, &in->to),
        .host = host,
        .irs = seg->seq,
        .ts_recent = seg->ts_value,
        .peer_window = seg->window,
        .peer_mss_bytes = cr__tcp_peer_mss(&in->from, seg),
        .window_bytes = listener->recv_limit_bytes < 65535 ? listener->recv_limit_bytes : 65535,
        .flags = cr__tcp_negotiate(&host->tcp->config, seg),
    };
    if ((seg->flags & (CR__ECE | CR__CWR)) == (CR__ECE | CR__CWR)) /* RFC 3168, 6.1.1 */
        half.flags |= CR__TCP_ECN;
    half.snd_scale = half.flags & CR__TCP_SCALED ? seg->scale : 0;
    half.rcv_scale = half.flags & CR__TCP_SCALED ? cr__tcp_rcv_scale(host->tcp, listener->recv_limit_bytes) : 0;
    half.ts_offset = cr__tcp_ts_offset(host, (struct cr__tcp_name *)&half);
    return half;
}

/* ---- Half open ------------------------------------------------------------------------------------------------------------ */

/* false: no memory. */
bool cr__tcp_half_keep(struct cr__host *host, const struct cr__tcp_half *half)
{
    struct cr__tcp_half *kept = cr__slab_get(&host->tcp->halves);
    if (!kept)
        return false;
    *kept = *half;
    cr__tcp_insert(host, kept, CR__KIND_HALF);
    host->tcp->half_open++;
    cr__tcp_syn_ack(host, kept, cr__tcp_ms(host) + kept->ts_offset);
    cr__wheel_arm(&host->wheel, &kept->timer, host->now_ns + FIRST_RTO_NS);
    return true;
}

void cr__tcp_half_drop(struct cr__host *host, struct cr__tcp_half *half)
{
    if (cr__timer_armed(&half->timer))
        cr__wheel_cancel(&host->wheel, &half->timer);
    cr__tcp_remove(host, half, CR__KIND_HALF);
    host->tcp->half_open--;
    half->host = NULL;
    cr__slab_put(&host->tcp->halves, half);
}

void cr__tcp_half_due(struct cr__tcp_half *half)
{
    struct cr__host *host = half->host;
    if (half->tries >= CR__SYN_ACK_TRIES) {
        cr__tcp_half_drop(host, half);
        return;
    }
    half->tries++;
    host->tcp->retransmits++;
    cr__tcp_syn_ack(host, half, cr__tcp_ms(host) + half->ts_offset);
    cr__wheel_arm(&host->wheel, &half->timer, host->now_ns + ((int64_t)FIRST_RTO_NS << half->tries));
}

static void half_ack(struct cr__host *host, const struct cr__tcp_half *half)
{
    struct cr_packet *packet = cr__tcp_may_answer(host, false) ? cr__packet_get(host->packets) : NULL;
    if (!packet)
        return;
    struct cr__segment seg = {
        .from_port = half->local_port,
        .to_port = half->peer_port,
        .seq = half->iss + 1,
        .ack = half->irs + 1,
        .flags = CR__ACK,
        .window = (uint16_t)(half->window_bytes >> half->rcv_scale),
        .has_timestamp = half->flags & CR__TCP_TIMESTAMPS,
        .ts_value = cr__tcp_ms(host) + half->ts_offset,
        .ts_echo = half->ts_recent,
    };
    cr__tcp_transmit(host, packet, &seg, &host->config.addresses[half->local].ip, &half->peer, 0);
}

/* Takes the packet. */
static void half_becomes(struct cr__host *host, struct cr__tcp_half *half, const struct cr__arrival *in, const struct cr__segment *seg)
{
    struct cr__tcp_listener *listener = cr__tcp_listener_of(host, &in->to, (const struct cr__tcp_name *)half);
    struct cr__tcp *tcp = listener ? cr__tcp_make(host, listener, half) : NULL;
    if (!tcp) {
        if (!listener) {
            cr__tcp_reset(host, in, seg);
            cr__tcp_half_drop(host, half);
        }
        cr__packet_put(host->packets, in->packet);
        return;
    }
    int64_t sent_ns = half->timer.deadline_ns - FIRST_RTO_NS;
    cr__tcp_after_syn(tcp, host->now_ns - sent_ns, half->tries > 0);
    cr__tcp_half_drop(host, half);
    cr__tcp_begin(listener, tcp, in, seg);
}

enum half_verdict { HALF_DROP, HALF_RESET, HALF_ACK, HALF_SYN_ACK, HALF_GONE, HALF_BECOMES };

/* 3.10.7.4 for SYN-RECEIVED, in its order. */
static enum half_verdict half_judge(const struct cr__tcp_half *half, const struct cr__segment *seg)
{
    uint32_t rcv_nxt = half->irs + 1, length = cr__segment_length(seg);
    bool timestamps = half->flags & CR__TCP_TIMESTAMPS;
    if (timestamps && !(seg->flags & CR__RST) && (!seg->has_timestamp || cr__seq_before(seg->ts_value, half->ts_recent)))
        return seg->has_timestamp ? HALF_ACK : HALF_DROP;
    if ((seg->flags & (CR__SYN | CR__ACK | CR__RST)) == CR__SYN && seg->seq == half->irs)
        return HALF_SYN_ACK; /* the SYN again: ours was lost */
    bool within = seg->seq - rcv_nxt < half->window_bytes || (length > 0 && seg->seq + length - 1 - rcv_nxt < half->window_bytes);
    if (!within)
        return seg->flags & CR__RST ? HALF_DROP : HALF_ACK;
    if (seg->flags & CR__RST)
        return seg->seq == rcv_nxt ? HALF_GONE : HALF_ACK;
    if (seg->flags & CR__SYN)
        return HALF_ACK;
    if (!(seg->flags & CR__ACK))
        return HALF_DROP;
    return seg->ack == half->iss + 1 ? HALF_BECOMES : HALF_RESET;
}

void cr__tcp_half_input(struct cr__host *host, struct cr__tcp_half *half, const struct cr__arrival *in, const struct cr__segment *seg)
{
    enum half_verdict verdict = half_judge(half, seg);
    if (verdict == HALF_BECOMES) {
        half_becomes(host, half, in, seg);
        return;
    }
    if (verdict == HALF_GONE)
        cr__tcp_half_drop(host, half);
    else if (verdict == HALF_RESET)
        cr__tcp_reset(host, in, seg);
    else if (verdict == HALF_ACK)
        half_ack(host, half);
    else if (verdict == HALF_SYN_ACK && cr__tcp_may_answer(host, false))
        cr__tcp_syn_ack(host, half, cr__tcp_ms(host) + half->ts_offset);
    cr__host_drop(host, in->packet, CR__DROP_TCP_WINDOW);
}
