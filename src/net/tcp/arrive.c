/* Whom a segment is for (RFC 9293, 3.10.7.1), and a connection's beginning on the side that dials (3.10.7.3). */
#include "net/tcp/tcp.h"

#define DEFAULT_MSS_4 536  /* of who says none (RFC 9293, 3.7.1) */
#define DEFAULT_MSS_6 1220
#define LEAST_MSS 64       /* of who says less: with segments of a few bytes a peer could have us spend a packet on each */

uint16_t cr__tcp_peer_mss(const struct cr__ip *peer, const struct cr__segment *seg)
{
    uint16_t mss = seg->mss_bytes ? seg->mss_bytes : cr__ip_is_v4(peer) ? DEFAULT_MSS_4 : DEFAULT_MSS_6;
    return mss < LEAST_MSS ? LEAST_MSS : mss;
}

uint32_t cr__tcp_negotiate(const struct cr__tcp_config *config, const struct cr__segment *seg)
{
    uint32_t flags = 0;
    if (seg->has_timestamp && !config->no_timestamps)
        flags |= CR__TCP_TIMESTAMPS;
    if (seg->sack_permitted && !config->no_sack)
        flags |= CR__TCP_SACK;
    if (seg->has_scale && !config->no_scaling)
        flags |= CR__TCP_SCALED;
    return flags;
}

static void take_syn(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    const struct cr__tcp_config *config = &tcp->host->tcp->config;
    uint32_t window = tcp->rcv_limit_bytes < 65535 ? tcp->rcv_limit_bytes : 65535; /* as our SYN has said */
    tcp->flags |= cr__tcp_negotiate(config, seg);
    tcp->snd_scale = tcp->flags & CR__TCP_SCALED ? seg->scale : 0;
    tcp->rcv_scale = tcp->flags & CR__TCP_SCALED ? tcp->rcv_scale : 0;
    tcp->ts_recent = seg->ts_value;
    tcp->ts_recent_ms = cr__tcp_ms(tcp->host);
    tcp->peer_mss_bytes = cr__tcp_peer_mss(&tcp->peer, seg);
    tcp->rcv_nxt = tcp->last_ack_sent = seg->seq + 1;
    tcp->rcv_edge = tcp->rcv_nxt + window;
    tcp->snd_wnd = tcp->snd_max_wnd = seg->window;
    tcp->snd_wl1 = seg->seq;
    tcp->snd_wl2 = seg->ack;
    tcp->last_heard_ms = cr__tcp_ms(tcp->host);
    cr__tcp_set_mss(tcp);
    cr__congestion_init(tcp);
}

/* RFC 6298, 5.7: of a SYN that had to be sent again nothing is measured. (The window that it begins with is cr__congestion_init's, which looks at `backoff`.) */
void cr__tcp_after_syn(struct cr__tcp *tcp, int64_t rtt_ns, bool again)
{
    if (again) {
        tcp->rto_us = 3000000;
    } else {
        cr__recovery_rtt(tcp, rtt_ns < 1000 ? 1 : (uint32_t)(rtt_ns / 1000));
    }
    tcp->backoff = 0;
    cr__ip_reachable(tcp->host, &tcp->peer); /* his answer to what we sent him (RFC 4861, 7.3.1): else each of our packets would have to find its way for the first second */
}

static struct cr_packet *established(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    int64_t sent_ns = tcp->due_ns - (int64_t)tcp->rto_us * 1000;
    tcp->snd_una = seg->ack;
    tcp->state = CR__TCP_ESTABLISHED;
    if ((seg->flags & (CR__ECE | CR__CWR)) == CR__ECE && tcp->host->tcp->config.ecn && tcp->backoff == 0)
        tcp->flags |= CR__TCP_ECN;
    cr__tcp_after_syn(tcp, tcp->host->now_ns - sent_ns, tcp->backoff > 0);
    tcp->due_ns = 0;
    tcp->error = 0;
    tcp->flags &= ~(uint32_t)CR__TCP_SOFT;
    tcp->flags |= CR__TCP_ACK_NOW;
    cr__tcp_told(tcp, CR__TCP_OPENED | CR__TCP_WRITABLE);
    struct cr__segment rest = *seg;
    rest.seq++;
    rest.flags &= (uint8_t)~CR__SYN;
    return cr__tcp_text(tcp, in, &rest); /* "processing at the sixth step" */
}

struct cr_packet *cr__tcp_syn_sent(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    bool acks = seg->flags & CR__ACK;
    if (acks && seg->ack != tcp->snd_nxt) {
        cr__host_count(tcp->host, CR__DROP_TCP_ACK);
        cr__tcp_reset(tcp->host, in, seg);
        return in->packet;
    }
    if (seg->flags & CR__RST) {
        if (acks)
            cr__tcp_end(tcp, ECONNREFUSED);
        else
            cr__host_count(tcp->host, CR__DROP_TCP_WINDOW);
        return in->packet;
    }
    if (!(seg->flags & CR__SYN))
        return in->packet;
    take_syn(tcp, seg);
    if (acks)
        return established(tcp, in, seg);
    tcp->state = CR__TCP_SYN_RECEIVED; /* both have dialled */
    tcp->backoff = 0;
    tcp->due_ns = tcp->host->now_ns + (int64_t)tcp->rto_us * 1000;
    cr__tcp_send_empty(tcp, CR__SYN | CR__ACK, tcp->snd_una);
    return in->packet;
}

/* 3.10.7.1: nobody's. */
static void closed(struct cr__host *host, const struct cr__arrival *in, const struct cr__segment *seg)
{
    cr__host_count(host, CR__DROP_TCP_NO_PORT);
    cr__tcp_reset(host, in, seg);
}

static bool checksum_good(struct cr__host *host, const struct cr__arrival *in)
{
    const struct cr_packet *packet = in->packet;
    if (packet->flags & CR_PACKET_CHECKED)
        return true;
    if (host->config.no_checksums)
        return true;
    uint32_t sum = cr__ip_pseudo_sum(&in->from, &in->to, 6, packet->size_bytes);
    return cr__wire_checksum(cr__wire_sum(sum, packet->data, packet->size_bytes)) == 0;
}

static void deliver(struct cr__host *host, const struct cr__arrival *in, const struct cr__segment *seg, const struct cr__tcp_name *name)
{
    uint32_t handle = cr__tcp_find(host->tcp, host, name);
    if (CR__LIKELY(handle && (handle & 3u) == CR__KIND_CONN)) {
        cr__tcp_segment(cr__mem_at(handle), in, seg);
        return;
    }
    if (handle) {
        void *object = cr__mem_at(handle & ~3u);
        if ((handle & 3u) == CR__KIND_WAIT)
            cr__tcp_wait_input(host, object, in, seg);
        else
            cr__tcp_half_input(host, object, in, seg);
        return;
    }
    struct cr__tcp_listener *listener = cr__tcp_listener_of(host, &in->to, name);
    if (listener) {
        cr__tcp_listen_input(host, listener, in, seg, 0);
        return;
    }
    closed(host, in, seg);
    cr__packet_put(host->packets, in->packet);
}

void cr__tcp_input(struct cr__host *host, const struct cr__arrival *in)
{
    struct cr__segment seg;
    if (CR__UNLIKELY(cr__segment_parse(&seg, in->packet->data, in->packet->size_bytes) != 0)) {
        cr__host_drop(host, in->packet, CR__DROP_TCP_MALFORMED);
        return;
    }
    if (CR__UNLIKELY(!checksum_good(host, in))) {
        cr__host_drop(host, in->packet, CR__DROP_TCP_CHECKSUM);
        return;
    }
    int local = in->broadcast ? -1 : cr__tcp_local(host, &in->to);
    if (CR__UNLIKELY(local < 0 || seg.from_port == 0 || (seg.from_port == seg.to_port && cr__ip_equal(&in->from, &in->to)))) { /* many's, nobody's, LAND */
        cr__host_drop(host, in->packet, CR__DROP_IP_SOURCE);
        return;
    }
    struct cr__tcp_name name = {.peer = in->from, .local_port = seg.to_port, .peer_port = seg.from_port, .local = (uint8_t)local};
    deliver(host, in, &seg, &name);
}
