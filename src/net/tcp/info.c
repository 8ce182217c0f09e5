/* What is told of a connection, and what must be true of one. */
#include "net/tcp/recovery.h"

#include <crore/net.h>

static const uint8_t states[] = {
    [CR__TCP_CLOSED] = CR_TCP_CLOSE,           [CR__TCP_SYN_SENT] = CR_TCP_SYN_SENT,     [CR__TCP_SYN_RECEIVED] = CR_TCP_SYN_RECV, [CR__TCP_ESTABLISHED] = CR_TCP_ESTABLISHED,
    [CR__TCP_FIN_WAIT_1] = CR_TCP_FIN_WAIT1,   [CR__TCP_FIN_WAIT_2] = CR_TCP_FIN_WAIT2,  [CR__TCP_CLOSE_WAIT] = CR_TCP_CLOSE_WAIT, [CR__TCP_CLOSING] = CR_TCP_CLOSING,
    [CR__TCP_LAST_ACK] = CR_TCP_LAST_ACK,      [CR__TCP_TIME_WAIT] = CR_TCP_TIME_WAIT,
};

static uint8_t options_of(const struct cr__tcp *tcp)
{
    return (uint8_t)((tcp->flags & CR__TCP_TIMESTAMPS ? CR_TCP_OPT_TIMESTAMPS : 0) | (tcp->flags & CR__TCP_SACK ? CR_TCP_OPT_SACK : 0) |
                     (tcp->flags & CR__TCP_SCALED ? CR_TCP_OPT_WSCALE : 0) | (tcp->flags & CR__TCP_ECN ? CR_TCP_OPT_ECN : 0));
}

static void count_sent(const struct cr__flight *flight, struct cr_tcp_info *out)
{
    for (struct cr_packet *packet = flight->send.first; packet && packet != flight->unsent; packet = cr__sent_next(packet)) {
        uint8_t flags = cr__sent_of(packet)->flags;
        out->unacked++;
        out->sacked += (flags & CR__SENT_SACKED) != 0;
        out->lost += (flags & CR__SENT_LOST) != 0;
        out->retrans += (flags & CR__SENT_RESENT) != 0;
    }
    for (struct cr_packet *packet = flight->unsent; packet; packet = cr__sent_next(packet))
        out->notsent_bytes += cr__sent_of(packet)->payload_bytes;
}

static void tell_flight(const struct cr__tcp *tcp, struct cr_tcp_info *out)
{
    const struct cr__flight *flight = tcp->flight;
    static const uint8_t recovering[] = {[CR__OPEN] = CR_TCP_CA_OPEN, [CR__RECOVERY] = CR_TCP_CA_RECOVERY, [CR__LOSS] = CR_TCP_CA_LOSS};
    out->ca_state = flight->recovery < CR__COUNT(recovering) ? recovering[flight->recovery] : CR_TCP_CA_OPEN;
    if (out->ca_state == CR_TCP_CA_OPEN && flight->sacked_bytes > 0)
        out->ca_state = CR_TCP_CA_DISORDER;
    out->ato_us = flight->ack_ns > tcp->host->now_ns ? (uint32_t)((flight->ack_ns - tcp->host->now_ns) / 1000) : 0;
    out->total_retrans += flight->retransmits;
    out->rcv_ooo_bytes = flight->early_bytes;
    out->rcv_queued_bytes = flight->receive_bytes;
    count_sent(flight, out);
}

void cr__tcp_info(const struct cr__tcp *tcp, struct cr_tcp_info *out)
{
    uint32_t now_ms = cr__tcp_ms(tcp->host), mss = tcp->mss_bytes ? tcp->mss_bytes : 536;
    *out = (struct cr_tcp_info){
        .state = states[tcp->state],
        .retransmits = tcp->backoff,
        .probes = tcp->probes,
        .backoff = tcp->backoff,
        .options = options_of(tcp),
        .snd_wscale = tcp->snd_scale,
        .rcv_wscale = tcp->rcv_scale,
        .rto_us = tcp->rto_us,
        .snd_mss_bytes = mss,
        .rcv_mss_bytes = tcp->rcv_mss_bytes,
        .advmss_bytes = cr__tcp_our_mss(tcp->host, &tcp->peer),
        .pmtu_bytes = cr__ip_mtu(tcp->host, &tcp->peer),
        .last_data_sent_ms = tcp->last_sent_ms ? now_ms - tcp->last_sent_ms : 0,
        .last_data_recv_ms = now_ms - tcp->last_heard_ms,
        .rtt_us = tcp->srtt_us,
        .rttvar_us = tcp->rttvar_us,
        .min_rtt_us = tcp->min_rtt_us,
        .snd_ssthresh = tcp->ssthresh_bytes >= INT32_MAX ? INT32_MAX : tcp->ssthresh_bytes / mss,
        .snd_cwnd = tcp->cwnd_bytes / mss,
        .reordering = 3,
        .rcv_space_bytes = tcp->rcv_limit_bytes,
        .total_retrans = tcp->retransmits,
        .snd_wnd_bytes = tcp->snd_wnd,
        .rcv_wnd_bytes = tcp->state >= CR__TCP_SYN_RECEIVED ? tcp->rcv_edge - tcp->rcv_nxt : 0,
    };
    if (tcp->flight)
        tell_flight(tcp, out);
}

/* ---- Invariants --------------------------------------------------------------------------------------------------------- */

static void check_send(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    uint32_t bytes = 0, count = 0, seq = 0;
    bool unsent = false;
    for (struct cr_packet *packet = flight->send.first; packet; packet = cr__sent_next(packet)) {
        const struct cr__sent *sent = cr__sent_of(packet);
        CR__ASSERT(count == 0 || sent->seq == seq); /* no gaps */
        CR__ASSERT(sent->payload_bytes > 0);
        unsent |= packet == flight->unsent;
        CR__ASSERT(cr__seq_before(sent->seq, tcp->snd_nxt) != unsent);
        seq = sent->seq + sent->payload_bytes;
        bytes += sent->payload_bytes;
        count++;
        CR__ASSERT(cr__sent_next(packet) || packet == flight->send.last);
    }
    CR__ASSERT(count == flight->send.count && unsent == (flight->unsent != NULL));
    CR__ASSERT(bytes == flight->send_bytes + flight->head_acked_bytes);
    if (count > 0)
        CR__ASSERT(cr__sent_of(flight->send.first)->seq + flight->head_acked_bytes == tcp->snd_una);
}

static void check_receive(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    uint32_t bytes = 0, seq = tcp->rcv_nxt, count = 0;
    for (struct cr_packet *packet = flight->receive.first; packet; packet = packet->next)
        bytes += packet->size_bytes;
    CR__ASSERT(bytes == flight->receive_bytes);
    bytes = 0;
    for (struct cr_packet *packet = flight->early.first; packet; packet = packet->next) {
        CR__ASSERT(cr__seq_not_after(seq, cr__received_of(packet)->seq)); /* sorted, beyond rcv_nxt, no overlap */
        seq = cr__received_of(packet)->seq + packet->size_bytes;
        bytes += packet->size_bytes;
        CR__ASSERT(packet->next || packet == flight->early.last);
        count++;
    }
    CR__ASSERT(bytes == flight->early_bytes && count == flight->early.count);
    for (int level = 0; level < CR__EARLY_LEVELS; level++) { /* fewer on each level, in the same order */
        uint32_t above = 0;
        for (struct cr_packet *packet = flight->early_up[level], *next; packet; packet = next, above++) {
            next = cr__sent_at(packet, cr__received_of(packet)->up[level]);
            CR__ASSERT(!next || cr__seq_not_after(cr__received_of(packet)->seq, cr__received_of(next)->seq));
        }
        CR__ASSERT(above <= count);
        count = above;
    }
}

void cr__tcp_check(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    CR__ASSERT(cr__seq_not_after(tcp->snd_una, tcp->snd_nxt));
    if (flight) {
        check_send(tcp);
        cr__recovery_check(tcp);
        check_receive(tcp);
        CR__ASSERT(flight->lent > 0 || flight->lent_bytes == 0);
    } else {
        CR__ASSERT(tcp->snd_una == tcp->snd_nxt || tcp->state < CR__TCP_ESTABLISHED);
    }
    if (tcp->state == CR__TCP_CLOSED) {
        CR__ASSERT(!cr__timer_armed(&tcp->timer) && (!flight || !flight->send.first));
        return;
    }
    if (tcp->state >= CR__TCP_SYN_RECEIVED)
        CR__ASSERT(cr__seq_not_after(tcp->rcv_nxt, tcp->rcv_edge));
    bool waits = tcp->snd_una != tcp->snd_nxt || (flight && flight->unsent);
    if (waits) /* so it is never stuck */
        CR__ASSERT(cr__timer_armed(&tcp->timer) && (tcp->due_ns || (flight && (flight->resend_ns || flight->reorder_ns || flight->hold_ns))));
    if (flight && flight->ack_ns)
        CR__ASSERT(cr__timer_armed(&tcp->timer));
}
