/* What a segment does to a connection: RFC 9293, 3.10.7.4, in its order. The checks that an attacker could use are RFC 5961's: only a RST at exactly RCV.NXT resets, any other
 * one in the window and any SYN are answered by a challenge, and an ACK must lie within what was sent lately. Timestamps are RFC 7323's: PAWS before the sequence number, RTTM
 * in recovery.c. What becomes of text and FIN is receive.c's.
 *
 * Urgent data is data like any other (RFC 6093): its pointer is ignored. */
#include "net/tcp/tcp.h"

#define OUTDATED_MS (24u * 86400 * 1000) /* RFC 7323, 5.5 */
#define ANSWER_MS 100 /* from one empty segment that is not acceptable, and is answered, to the next */
#define CE 3

static bool acceptable(const struct cr__tcp *tcp, const struct cr__segment *seg)
{
    uint32_t length = cr__segment_length(seg), window = tcp->rcv_edge - tcp->rcv_nxt, from = seg->seq - tcp->rcv_nxt;
    if (CR__LIKELY(from == 0 && (length <= window || window == 0)))
        return length == 0 || window > 0 || (seg->flags & (CR__ACK | CR__RST)); /* of a closed window ACKs and RSTs are taken, though not the text */
    if (length == 0)
        return from < window || (from == window && !(seg->flags & CR__RST)); /* the last: whose text fills the window has only ACKs beyond it */
    return window > 0 && (from < window || from + length - 1 < window);
}

/* RFC 7323, 5.3. false: it is old. */
static bool paws(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    if (!(tcp->flags & CR__TCP_TIMESTAMPS) || (seg->flags & CR__RST))
        return true;
    if (CR__UNLIKELY(!seg->has_timestamp)) { /* 3.2: such are dropped, without an answer */
        cr__host_count(tcp->host, CR__DROP_TCP_PAWS);
        return false;
    }
    if (CR__UNLIKELY(cr__seq_before(seg->ts_value, tcp->ts_recent) && cr__tcp_ms(tcp->host) - tcp->ts_recent_ms < OUTDATED_MS)) {
        cr__host_count(tcp->host, CR__DROP_TCP_PAWS);
        if (seg->payload_bytes > 0)
            tcp->flags |= CR__TCP_ACK_NOW;
        else
            cr__tcp_challenge(tcp);
        return false;
    }
    return true;
}

static void note_timestamp(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    if (!seg->has_timestamp || !(tcp->flags & CR__TCP_TIMESTAMPS) || cr__seq_before(tcp->last_ack_sent, seg->seq))
        return;
    uint32_t now_ms = cr__tcp_ms(tcp->host);
    if (cr__seq_not_after(tcp->ts_recent, seg->ts_value) || now_ms - tcp->ts_recent_ms >= OUTDATED_MS) {
        tcp->ts_recent = seg->ts_value;
        tcp->ts_recent_ms = now_ms;
    }
}

/* Not acceptable: an ACK, so that the other side learns where we are. Text that has come before is told by D-SACK. */
static void answer_unacceptable(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    bool old = cr__seq_before(seg->seq, tcp->rcv_nxt);
    cr__host_count(tcp->host, old && seg->payload_bytes > 0 ? CR__DROP_TCP_DUPLICATE : CR__DROP_TCP_WINDOW);
    if (seg->flags & CR__RST)
        return;
    if (old && seg->payload_bytes > 0 && cr__tcp_flight(tcp))
        cr__tcp_note_duplicate(tcp, seg->seq, seg->seq + seg->payload_bytes);
    if (cr__segment_length(seg) > 0 && (!(seg->flags & CR__SYN) || tcp->state == CR__TCP_SYN_RECEIVED)) {
        tcp->flags |= CR__TCP_ACK_NOW;
    } else if (cr__segment_length(seg) == 0) { /* a keep-alive, or a probe of our window: each connection may be asked, but two that ask each other come to an end */
        if (cr__tcp_ms(tcp->host) - tcp->answered_ms < ANSWER_MS) {
            cr__host_count(tcp->host, CR__DROP_TCP_LIMIT);
            return;
        }
        tcp->answered_ms = cr__tcp_ms(tcp->host);
        if (seg->seq == tcp->rcv_nxt - 1 && cr__seq_not_after(tcp->snd_una, seg->ack) && cr__seq_not_after(seg->ack, tcp->snd_nxt))
            tcp->last_heard_ms = cr__tcp_ms(tcp->host); /* it asks whether we are there, so it is */
        if (old)
            tcp->flags |= CR__TCP_ACK_NOW;
        else
            cr__tcp_challenge(tcp);
    } else {
        cr__tcp_challenge(tcp);
    }
}

static void take_reset(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    if (seg->seq != tcp->rcv_nxt) {
        cr__host_count(tcp->host, CR__DROP_TCP_WINDOW);
        cr__tcp_challenge(tcp);
    } else if (tcp->state == CR__TCP_SYN_RECEIVED) {
        cr__tcp_end(tcp, ECONNREFUSED);
    } else if (tcp->state == CR__TCP_CLOSING || tcp->state == CR__TCP_LAST_ACK) {
        cr__tcp_end(tcp, 0);
    } else {
        cr__tcp_end(tcp, tcp->state == CR__TCP_CLOSE_WAIT ? EPIPE : ECONNRESET); /* as Linux: all that he sent was taken, so what is broken is our half */
    }
}

static void note_window(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    if (cr__seq_before(seg->seq, tcp->snd_wl1) || (seg->seq == tcp->snd_wl1 && cr__seq_before(seg->ack, tcp->snd_wl2)))
        return;
    tcp->snd_wnd = (uint32_t)seg->window << tcp->snd_scale;
    tcp->snd_wl1 = seg->seq;
    tcp->snd_wl2 = seg->ack;
    if (tcp->snd_wnd > tcp->snd_max_wnd)
        tcp->snd_max_wnd = tcp->snd_wnd;
}

/* SYN-RECEIVED: of a simultaneous open. */
static bool take_ack_of_syn(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (seg->ack != tcp->snd_nxt) {
        cr__tcp_reset(tcp->host, in, seg);
        return false;
    }
    tcp->snd_una = seg->ack;
    tcp->snd_wnd = tcp->snd_max_wnd = (uint32_t)seg->window << tcp->snd_scale;
    tcp->snd_wl1 = seg->seq;
    tcp->snd_wl2 = seg->ack;
    tcp->state = tcp->flags & CR__TCP_FIN_QUEUED ? CR__TCP_FIN_WAIT_1 : CR__TCP_ESTABLISHED;
    tcp->due_ns = 0;
    tcp->backoff = 0;
    cr__tcp_told(tcp, CR__TCP_OPENED | CR__TCP_WRITABLE);
    return true;
}

static void fin_acked(struct cr__tcp *tcp)
{
    if (tcp->state == CR__TCP_FIN_WAIT_1) {
        tcp->state = CR__TCP_FIN_WAIT_2;
        cr__tcp_fin_wait(tcp);
    } else if (tcp->state == CR__TCP_CLOSING) {
        cr__tcp_wait_enter(tcp);
    } else if (tcp->state == CR__TCP_LAST_ACK) {
        cr__tcp_end(tcp, 0);
    }
}

/* Whether an ACK may tell recovery something: not one that says what is known, of a connection that has nothing in flight, as all do that come with the text of a peer to whom nothing is sent. */
static bool tells_recovery(const struct cr__tcp *tcp, const struct cr__segment *seg)
{
    return tcp->snd_una != tcp->snd_nxt || seg->ack != tcp->snd_una || seg->sack_count > 0 || (seg->flags & CR__ECE) || tcp->flight->tlp_out != CR__TLP_NONE;
}

/* What an ACK at or beyond snd_una does. */
static void take_news(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    struct cr__flight *flight = tcp->flight;
    bool news = tcp->snd_una != seg->ack;
    if (flight ? tells_recovery(tcp, seg) : CR__UNLIKELY(seg->sack_count > 0))
        cr__recovery_ack(tcp, seg);
    if (cr__seq_before(tcp->snd_una, seg->ack))
        tcp->snd_una = seg->ack;
    note_window(tcp, seg);
    if ((seg->flags & CR__ECE) && (tcp->flags & CR__TCP_ECN) && flight)
        cr__congestion_ecn(tcp);
    if (!news)
        return;
    if (CR__UNLIKELY(tcp->flags & CR__TCP_SOFT)) {
        tcp->flags &= ~(uint32_t)CR__TCP_SOFT;
        tcp->error = 0;
    }
    if (flight) {
        flight->since_ns = tcp->host->now_ns;
        if (CR__UNLIKELY(tcp->flags & CR__TCP_WANTS_ROOM) && cr__send_used(flight) <= tcp->snd_limit_bytes / 3 * 2) {
            tcp->flags &= ~(uint32_t)CR__TCP_WANTS_ROOM;
            cr__tcp_told(tcp, CR__TCP_WRITABLE);
        }
    }
    if ((tcp->flags & CR__TCP_FIN_SENT) && tcp->snd_una == tcp->snd_nxt)
        fin_acked(tcp);
}

/* Fifth: ACK. false: the segment is of no use. */
static bool take_ack(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (!(seg->flags & CR__ACK))
        return false;
    if (tcp->state == CR__TCP_SYN_RECEIVED && !take_ack_of_syn(tcp, in, seg))
        return false;
    if (CR__UNLIKELY(cr__seq_before(tcp->snd_nxt, seg->ack) || cr__seq_before(seg->ack, tcp->snd_una - tcp->snd_max_wnd))) { /* RFC 5961, 5.2 */
        cr__host_count(tcp->host, CR__DROP_TCP_ACK);
        cr__tcp_challenge(tcp);
        return false;
    }
    if (cr__seq_not_after(tcp->snd_una, seg->ack))
        take_news(tcp, seg);
    return true;
}

static void note_ecn(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (seg->flags & CR__CWR)
        tcp->flags &= ~(uint32_t)CR__TCP_ECHO_CE;
    if ((in->tos & 3) == CE && seg->payload_bytes > 0)
        tcp->flags |= CR__TCP_ECHO_CE | CR__TCP_ACK_NOW;
}

/* Heard of: it lives, and so does its neighbour. */
static inline void note_heard(struct cr__tcp *tcp, uint32_t now_ms)
{
    if (CR__UNLIKELY((now_ms ^ tcp->last_heard_ms) >> 10))
        cr__ip_reachable(tcp->host, &tcp->peer);
    tcp->last_heard_ms = now_ms;
    if (CR__UNLIKELY(tcp->probes > 0) && !(tcp->flight && tcp->flight->resend_kind == CR__RESEND_PROBE))
        tcp->probes = 0;
}

/* 3.10.7.4. Returns the packet if nobody has taken it. */
static struct cr_packet *synchronized(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (!paws(tcp, seg))
        return in->packet;
    if (CR__UNLIKELY(!acceptable(tcp, seg))) {
        answer_unacceptable(tcp, seg);
        return in->packet;
    }
    if (CR__UNLIKELY(seg->flags & (CR__RST | CR__SYN))) {
        if (seg->flags & CR__RST)
            take_reset(tcp, seg);
        else
            cr__tcp_challenge(tcp);
        return in->packet;
    }
    note_timestamp(tcp, seg);
    note_heard(tcp, cr__tcp_ms(tcp->host));
    if (!take_ack(tcp, in, seg) || tcp->state == CR__TCP_CLOSED)
        return in->packet;
    if (tcp->flags & CR__TCP_ECN)
        note_ecn(tcp, in, seg);
    bool open = tcp->state == CR__TCP_ESTABLISHED || tcp->state == CR__TCP_FIN_WAIT_1 || tcp->state == CR__TCP_FIN_WAIT_2;
    if (!open)
        return in->packet;
    return cr__tcp_text(tcp, in, seg);
}

void cr__tcp_segment(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    struct cr_packet *rest = tcp->state == CR__TCP_SYN_SENT ? cr__tcp_syn_sent(tcp, in, seg) : synchronized(tcp, in, seg);
    if (rest)
        cr__packet_put(tcp->host->packets, rest);
    cr__tcp_finish(tcp);
}
