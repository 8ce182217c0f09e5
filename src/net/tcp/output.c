/* What leaves, and when: segmentation, Nagle (RFC 9293, 3.7.4), silly windows on both sides (3.8.6.2), probes of a closed window (3.8.6.1), acknowledgements with SACK and
 * D-SACK. Not in it: what is lost, and how much may be in flight, which recovery.c and congestion.c say.
 *
 * cr__tcp_output sends whatever may be sent: what is lost first, then what is new, then the FIN, and an ACK if one is owed that nothing has carried. It is called once for
 * each arrival, call and timer, when that has done all that it does (cr__tcp_finish).
 *
 * A probe of a closed window is, as Linux', an empty segment from before snd_una, which has to be answered by an ACK since it is not acceptable. (3.8.6.1 has an octet of new
 * data, or of old; then that is in flight and is lost each time, of which recovery would have to be told that it means nothing.) A window that is open, but too small for what
 * the silly-window rules want, is used up instead when the probe's time comes.
 *
 * The window that is offered. Its right edge never moves left by more than what scaling cuts off, and that only where there is no room at all; what was offered is accepted.
 * With scaling it is rounded up as long as the buffer takes it; for that a sixteenth is kept back when it opens, so that a window that is being filled by full segments does
 * not have to move (RFC 7323, 2.4). */
#include "net/tcp/tcp.h"

#include <string.h>

#define TCP_PROTOCOL 6
#define ECT_0 2
#define HOLD_NS 200000000       /* override of what is held back: 0.1 to 1 s (RFC 9293, 3.8.6.2.1) */
#define NO_PACKET_NS 10000000   /* until it is tried again */
#define PROBE_MOST_NS (60 * (int64_t)1000000000)

/* ---- One segment ----------------------------------------------------------------------------------------------- */

int cr__tcp_transmit(struct cr__host *host, struct cr_packet *packet, const struct cr__segment *seg, const struct cr__ip *from, const struct cr__ip *to, uint8_t tos)
{
    cr__segment_push(packet, seg);
    packet->flags = 0;
    if (host->config.no_checksums) {
        packet->flags = CR_PACKET_CHECKED;
    } else {
        uint32_t sum = cr__ip_pseudo_sum(from, to, TCP_PROTOCOL, packet->size_bytes);
        cr__wire_put16(packet->data + 16, cr__wire_checksum(cr__wire_sum(sum, packet->data, packet->size_bytes)));
    }
    return cr__ip_send(host, packet, from, to, TCP_PROTOCOL, tos, false);
}

uint32_t cr__tcp_window(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    uint32_t queued = flight ? flight->receive_bytes + flight->lent_bytes : 0, limit = tcp->rcv_limit_bytes;
    uint32_t room = queued < limit ? limit - queued : 0, offered = tcp->rcv_edge - tcp->rcv_nxt;
    uint32_t step = (uint32_t)1 << tcp->rcv_scale, most = (uint32_t)65535 << tcp->rcv_scale;
    bool little = cr__packets_left(tcp->host->packets) <= CR__LEFT_LITTLE;
    if (CR__UNLIKELY(little))
        room = queued > 0 ? 0 : cr__tcp_least(room, CR__LITTLE_PACKETS * (uint32_t)tcp->mss_bytes);
    uint32_t kept = step > 1 && !little ? limit / 16 : 0, opens = room > kept ? room - kept : 0;
    uint32_t gain = tcp->mss_bytes < limit / 2 ? tcp->mss_bytes : limit / 2; /* RFC 9293, 3.8.6.2.2 */
    if (opens > most)
        opens = most;
    if (opens == most || opens >= offered + gain)
        return opens & ~(step - 1);
    uint32_t rounded = (offered + step - 1) & ~(step - 1);
    if (rounded > room || rounded > most)
        rounded = offered & ~(step - 1);
    return rounded < most ? rounded : most;
}

/* What we have out of order, the most recent first; before that what came twice (RFC 2883, 4). */
static void fill_sack(struct cr__flight *flight, struct cr__segment *seg)
{
    uint8_t most = seg->has_timestamp ? 3 : CR__SACK_BLOCKS, count = 0;
    if (flight->duplicate.from != flight->duplicate.to) {
        seg->sack[count].from = flight->duplicate.from;
        seg->sack[count++].to = flight->duplicate.to;
        flight->duplicate.to = flight->duplicate.from;
    }
    for (uint8_t i = 0; i < flight->sack_count && count < most; i++) {
        seg->sack[count].from = flight->sack[i].from;
        seg->sack[count++].to = flight->sack[i].to;
    }
    seg->sack_count = count;
}

static void fill_syn(const struct cr__tcp *tcp, struct cr__segment *seg)
{
    const struct cr__tcp_config *config = &tcp->host->tcp->config;
    bool answer = seg->flags & CR__ACK; /* says only what the peer has said */
    seg->mss_bytes = cr__tcp_our_mss(tcp->host, &tcp->peer);
    seg->has_timestamp = answer ? tcp->flags & CR__TCP_TIMESTAMPS : !config->no_timestamps;
    seg->sack_permitted = answer ? tcp->flags & CR__TCP_SACK : !config->no_sack;
    seg->has_scale = answer ? tcp->flags & CR__TCP_SCALED : !config->no_scaling;
    seg->scale = tcp->rcv_scale;
    seg->window = (uint16_t)(tcp->rcv_limit_bytes < 65535 ? tcp->rcv_limit_bytes : 65535); /* never scaled */
}

/* Whatever leaves acknowledges, too: what that changes is noted here. */
static void note_ack(struct cr__tcp *tcp, uint32_t window)
{
    tcp->rcv_edge = cr__seq_later(tcp->rcv_edge, tcp->rcv_nxt + window);
    tcp->last_ack_sent = tcp->rcv_nxt;
    tcp->flags &= ~(uint32_t)CR__TCP_ACK_NOW;
    if (tcp->flight)
        tcp->flight->ack_ns = 0;
}

static inline void fill(struct cr__tcp *tcp, struct cr__segment *seg, uint8_t flags, uint32_t seq)
{
    seg->from_port = tcp->local_port;
    seg->to_port = tcp->peer_port;
    seg->seq = seq;
    seg->ack = flags & CR__ACK ? tcp->rcv_nxt : 0;
    seg->flags = flags;
    seg->mss_bytes = 0;
    seg->has_scale = seg->sack_permitted = false;
    seg->sack_count = 0;
    seg->has_timestamp = tcp->flags & CR__TCP_TIMESTAMPS;
    seg->ts_value = cr__tcp_ms(tcp->host) + tcp->ts_offset;
    seg->ts_echo = flags & CR__ACK ? tcp->ts_recent : 0;
    if (CR__UNLIKELY(flags & CR__SYN)) {
        fill_syn(tcp, seg);
        return;
    }
    uint32_t window = cr__tcp_window(tcp);
    seg->window = (uint16_t)(window >> tcp->rcv_scale);
    if (flags & CR__ACK) {
        if (tcp->flags & CR__TCP_ECHO_CE)
            seg->flags |= CR__ECE;
        note_ack(tcp, window);
    }
}

/* 0, or what ip answered, or -ENOBUFS. */
static int send_empty(struct cr__tcp *tcp, uint8_t flags, uint32_t seq)
{
    struct cr__host *host = tcp->host;
    struct cr_packet *packet = cr__packet_get(host->packets);
    if (!packet) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return -ENOBUFS;
    }
    struct cr__segment seg;
    fill(tcp, &seg, flags, seq);
    if (tcp->flight && (tcp->flags & CR__TCP_SACK) && (flags & (CR__ACK | CR__SYN | CR__RST)) == CR__ACK)
        fill_sack(tcp->flight, &seg);
    return cr__tcp_transmit(host, packet, &seg, cr__tcp_local_ip(tcp), &tcp->peer, 0);
}

int cr__tcp_send_empty(struct cr__tcp *tcp, uint8_t flags, uint32_t seq)
{
    int error = send_empty(tcp, flags, seq);
    if (error == -EHOSTUNREACH || error == -ENETUNREACH) {
        tcp->error = (uint16_t)-error;
        tcp->flags |= CR__TCP_SOFT;
    }
    return error;
}

void cr__tcp_ack(struct cr__tcp *tcp)
{
    if (send_empty(tcp, CR__ACK, tcp->snd_nxt) == -ENOBUFS && tcp->flight)
        tcp->flight->ack_ns = tcp->host->now_ns + NO_PACKET_NS; /* else the peer asks again */
    tcp->flags &= ~(uint32_t)CR__TCP_ACK_NOW;
}

/* ---- Answers that an outsider can provoke ---------------------------------------------------------------------- */

/* RSTs and challenge ACKs have a bucket each. How much is in it varies, so that nobody can count what others have taken out of it (the fault of a constant one: CVE-2016-5696). */
bool cr__tcp_may_answer(struct cr__host *host, bool reset)
{
    struct cr__tcp_layer *layer = host->tcp;
    if (host->now_ns >= layer->limit_ns) {
        layer->limit_ns = host->now_ns + 1000000000;
        layer->reset_tokens = layer->challenge_tokens = CR__TCP_ANSWERS_A_SECOND / 2 + (uint32_t)(cr__host_random(host) % CR__TCP_ANSWERS_A_SECOND);
    }
    uint32_t *tokens = reset ? &layer->reset_tokens : &layer->challenge_tokens;
    if (*tokens == 0) {
        cr__host_count(host, CR__DROP_TCP_LIMIT);
        return false;
    }
    --*tokens;
    ++*(reset ? &layer->resets_sent : &layer->challenges);
    return true;
}

void cr__tcp_challenge(struct cr__tcp *tcp)
{
    if (cr__tcp_may_answer(tcp->host, false))
        cr__tcp_ack(tcp);
}

void cr__tcp_reset(struct cr__host *host, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if ((seg->flags & CR__RST) || in->broadcast || !cr__tcp_may_answer(host, true))
        return;
    struct cr_packet *packet = cr__packet_get(host->packets);
    if (!packet) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return;
    }
    struct cr__segment out = {.from_port = seg->to_port, .to_port = seg->from_port};
    if (seg->flags & CR__ACK) {
        out.seq = seg->ack;
        out.flags = CR__RST;
    } else {
        out.ack = seg->seq + cr__segment_length(seg);
        out.flags = CR__RST | CR__ACK;
    }
    cr__tcp_transmit(host, packet, &out, &in->to, &in->from, 0);
}

/* ---- Data ------------------------------------------------------------------------------------------------------ */

/* Cuts a packet of the send queue in two. false: no packet. */
static bool split(struct cr__tcp *tcp, struct cr_packet *packet, uint32_t at_bytes)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__sent *sent = cr__sent_of(packet);
    struct cr_packet *rest = cr__packet_get(tcp->host->packets);
    if (!rest) {
        cr__host_count(tcp->host, CR__DROP_NO_PACKET);
        return false;
    }
    uint32_t rest_bytes = sent->payload_bytes - at_bytes;
    rest->size_bytes = (uint16_t)rest_bytes;
    memcpy(rest->data, (unsigned char *)packet + sent->payload_at + at_bytes, rest_bytes);
    *cr__sent_of(rest) = (struct cr__sent){
        .seq = sent->seq + at_bytes,
        .payload_bytes = (uint16_t)rest_bytes,
        .payload_at = (uint16_t)(rest->data - (unsigned char *)rest),
        .flags = sent->flags & CR__SENT_PUSH,
        .next = sent->next,
    };
    sent->payload_bytes = (uint16_t)at_bytes;
    sent->flags &= (uint8_t)~CR__SENT_PUSH;
    sent->next = rest;
    if (flight->send.last == packet)
        flight->send.last = rest;
    flight->send.count++;
    cr__recovery_split(tcp, packet, rest);
    return true;
}

/* The packet, or a copy in its place in the queue's stead, with nothing but payload in it: what somebody below still holds is not written to. NULL: no packet. */
static struct cr_packet *bare(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__sent *sent = cr__sent_of(packet);
    struct cr_packet *out = packet;
    if (CR__UNLIKELY(packet->_references > 1)) {
        out = cr__packet_copy(tcp->host->packets, packet);
        if (!out) {
            cr__host_count(tcp->host, CR__DROP_NO_PACKET);
            return NULL;
        }
    } else {
        packet->_references++; /* the queue's, and ip's */
    }
    out->data = (unsigned char *)out + sent->payload_at;
    out->size_bytes = sent->payload_bytes;
    return out;
}

/* Sends one of the send queue. false: there was no packet for it. */
static bool send_packet(struct cr__tcp *tcp, struct cr_packet *packet, bool again)
{
    struct cr__sent *sent = cr__sent_of(packet);
    struct cr_packet *out = bare(tcp, packet);
    if (!out)
        return false;
    uint8_t flags = CR__ACK, tos = 0;
    uint32_t end = sent->seq + sent->payload_bytes, flags_before = tcp->flags, nxt_before = tcp->snd_nxt;
    bool last = tcp->flight->send.last == packet;
    if (last && (tcp->flags & CR__TCP_FIN_QUEUED)) {
        flags |= CR__FIN;
        if (!(tcp->flags & CR__TCP_FIN_SENT)) {
            tcp->flags |= CR__TCP_FIN_SENT;
            end++;
        }
    }
    if (last || (sent->flags & CR__SENT_PUSH))
        flags |= CR__PSH;
    if ((tcp->flags & CR__TCP_ECN) && !again) { /* RFC 3168, 6.1.2 and 6.1.5 */
        tos = ECT_0;
        if (tcp->flags & CR__TCP_SEND_CWR)
            flags |= CR__CWR;
        tcp->flags &= ~(uint32_t)CR__TCP_SEND_CWR;
    }
    struct cr__segment seg;
    fill(tcp, &seg, flags, sent->seq);
    if (!again) {
        if (tcp->snd_nxt == tcp->snd_una)
            tcp->flight->since_ns = tcp->host->now_ns;
        tcp->flight->unsent = sent->next;
    }
    tcp->snd_nxt = cr__seq_later(tcp->snd_nxt, end); /* sent again, too: with a FIN that had no packet of its own before */
    int error = cr__tcp_transmit(tcp->host, out, &seg, cr__tcp_local_ip(tcp), &tcp->peer, tos);
    if (CR__UNLIKELY(error == -EMSGSIZE)) { /* the path has become narrower, as another connection was told */
        cr__tcp_set_mss(tcp);
        if (sent->payload_bytes > tcp->mss_bytes && split(tcp, packet, tcp->mss_bytes)) { /* nothing has left: once more, shorter */
            tcp->flags = flags_before;
            tcp->snd_nxt = nxt_before;
            return send_packet(tcp, packet, again);
        }
    }
    tcp->last_sent_ms = cr__tcp_ms(tcp->host);
    if (CR__UNLIKELY(tcp->quick_acks > 0) && tcp->quick_acks < CR__QUICK_ACKS)
        tcp->quick_acks = 0; /* an answer */
    cr__recovery_sent(tcp, packet);
    return true;
}

static void send_lost(struct cr__tcp *tcp)
{
    struct cr_packet *packet;
    while ((packet = cr__recovery_next(tcp)) != NULL) {
        bool whole = cr__sent_of(packet)->payload_bytes <= tcp->mss_bytes || split(tcp, packet, tcp->mss_bytes); /* the path has become narrower */
        if (!whole || !send_packet(tcp, packet, true)) {
            tcp->flight->hold_ns = tcp->host->now_ns + NO_PACKET_NS;
            return;
        }
    }
}

enum verdict { VERDICT_SEND, VERDICT_WAIT, VERDICT_NO_PACKET };

/* Whether the first of what is unsent may leave (RFC 9293, 3.8.6.2.1), cut to what the window takes. forced: the override's timer has come. */
static enum verdict judge(struct cr__tcp *tcp, struct cr_packet *packet, bool forced)
{
    struct cr__sent *sent = cr__sent_of(packet);
    int32_t usable = (int32_t)(tcp->snd_una + tcp->snd_wnd - sent->seq);
    uint32_t bytes = sent->payload_bytes, in_flight = cr__recovery_in_flight(tcp);
    uint32_t most = bytes < tcp->mss_bytes ? bytes : tcp->mss_bytes;
    if (usable <= 0)
        return VERDICT_WAIT;
    if (most > (uint32_t)usable) {
        if ((uint32_t)usable < tcp->snd_max_wnd / 2 && !forced)
            return VERDICT_WAIT;
        most = (uint32_t)usable;
    }
    if (in_flight > 0 && in_flight + most > tcp->cwnd_bytes)
        return VERDICT_WAIT;
    bool tail = !sent->next && most == bytes && bytes < tcp->mss_bytes && !(tcp->flags & CR__TCP_FIN_QUEUED);
    if (tail && !forced && ((tcp->flags & CR__TCP_MORE) || ((tcp->flags & CR__TCP_NAGLE) && tcp->snd_nxt != tcp->snd_una)))
        return VERDICT_WAIT;
    if (CR__UNLIKELY(most < bytes) && !split(tcp, packet, most))
        return VERDICT_NO_PACKET;
    return VERDICT_SEND;
}

static void restart_after_idle(struct cr__tcp *tcp)
{
    uint32_t idle_ms = cr__tcp_ms(tcp->host) - tcp->last_sent_ms;
    if (tcp->last_sent_ms && tcp->snd_nxt == tcp->snd_una && idle_ms > 0)
        cr__congestion_idle(tcp, idle_ms < UINT32_MAX / 1000 ? idle_ms * 1000 : UINT32_MAX);
}

static bool send_fin(struct cr__tcp *tcp)
{
    if (send_empty(tcp, CR__FIN | CR__ACK, tcp->snd_nxt) == -ENOBUFS)
        return false;
    if (tcp->snd_nxt == tcp->snd_una)
        tcp->flight->since_ns = tcp->host->now_ns;
    tcp->flags |= CR__TCP_FIN_SENT;
    tcp->snd_nxt++;
    return true;
}

/* Whether anything that is new has left. */
static bool send_new(struct cr__tcp *tcp, bool forced)
{
    struct cr__flight *flight = tcp->flight;
    enum verdict verdict = VERDICT_SEND;
    bool sent = false;
    if (flight->unsent)
        restart_after_idle(tcp);
    while (flight->unsent && (verdict = judge(tcp, flight->unsent, forced)) == VERDICT_SEND) {
        if (!send_packet(tcp, flight->unsent, false)) {
            verdict = VERDICT_NO_PACKET;
            break;
        }
        sent = true;
    }
    if (!flight->unsent && (tcp->flags & (CR__TCP_FIN_QUEUED | CR__TCP_FIN_SENT)) == CR__TCP_FIN_QUEUED) {
        verdict = send_fin(tcp) ? VERDICT_SEND : VERDICT_NO_PACKET;
        sent = true;
    }
    if (CR__UNLIKELY(verdict == VERDICT_NO_PACKET))
        flight->hold_ns = tcp->host->now_ns + NO_PACKET_NS;
    else if (verdict == VERDICT_WAIT && (tcp->flags & CR__TCP_MORE) && !flight->hold_ns && cr__seq_before(cr__sent_of(flight->unsent)->seq, tcp->snd_una + tcp->snd_wnd))
        flight->hold_ns = tcp->host->now_ns + HOLD_NS; /* not behind a closed window: that is probed */
    return sent;
}

/* The path has become narrower: what is out and does not fit is gone, and is sent again in parts that do. */
void cr__tcp_resend_big(struct cr__tcp *tcp)
{
    struct cr_packet *packet = tcp->flight->send.first;
    bool rest = false; /* of one that was too big */
    while (packet && packet != tcp->flight->unsent) {
        const struct cr__sent *sent = cr__sent_of(packet);
        bool big = sent->payload_bytes > tcp->mss_bytes && !(sent->flags & CR__SENT_SACKED);
        if (big && !split(tcp, packet, tcp->mss_bytes))
            return; /* the RTO will */
        if ((big || rest) && !send_packet(tcp, packet, true))
            return;
        rest = big;
        packet = cr__sent_next(packet);
    }
}

/* ---- A closed window -------------------------------------------------------------------------------------------- */

static void arm_probe(struct cr__tcp *tcp)
{
    int64_t after_ns = ((int64_t)tcp->rto_us * 1000) << (tcp->probes < 12 ? tcp->probes : 12);
    tcp->flight->resend_kind = CR__RESEND_PROBE;
    tcp->flight->resend_ns = tcp->host->now_ns + (after_ns < PROBE_MOST_NS ? after_ns : PROBE_MOST_NS);
}

void cr__tcp_probe(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    flight->resend_kind = CR__RESEND_NOTHING;
    if (!flight->unsent || tcp->snd_una != tcp->snd_nxt)
        return;
    if (tcp->snd_wnd > 0 && send_new(tcp, true)) { /* in flight like any other */
        cr__recovery_arm(tcp);
        return;
    }
    if (tcp->probes < UINT8_MAX)
        tcp->probes++;
    cr__tcp_send_empty(tcp, CR__ACK, tcp->snd_una - 1);
    arm_probe(tcp);
}

/* ---- All of it -------------------------------------------------------------------------------------------------- */

static inline bool sends(const struct cr__tcp *tcp)
{
    return tcp->state >= CR__TCP_ESTABLISHED && tcp->state <= CR__TCP_LAST_ACK;
}

static void output_data(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    bool forced = flight->hold_ns && flight->hold_ns <= tcp->host->now_ns;
    if (forced)
        flight->hold_ns = 0;
    send_lost(tcp);
    bool sent = send_new(tcp, forced);
    if (sent) {
        flight->resend_kind = flight->resend_kind == CR__RESEND_PROBE ? CR__RESEND_NOTHING : flight->resend_kind;
        tcp->probes = 0;
        if (CR__UNLIKELY(tcp->flags & CR__TCP_FIN_SENT))
            cr__recovery_arm(tcp); /* packets have done so themselves (cr__recovery_sent) */
    }
    if (tcp->snd_nxt != tcp->snd_una)
        return;
    if (flight->unsent && !flight->hold_ns) { /* nothing in flight, and only the window holds it back */
        if (flight->resend_kind != CR__RESEND_PROBE) {
            flight->since_ns = tcp->host->now_ns;
            arm_probe(tcp);
        }
    } else {
        flight->resend_kind = CR__RESEND_NOTHING;
        flight->resend_ns = 0;
    }
}

void cr__tcp_output(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (flight && sends(tcp) && (flight->send.first || (tcp->flags & (CR__TCP_FIN_QUEUED | CR__TCP_FIN_SENT)) == CR__TCP_FIN_QUEUED))
        output_data(tcp);
    else if (flight)
        flight->hold_ns = 0; /* there is nothing that could be held back */
    if (tcp->flight && tcp->flight->hold_ns <= tcp->host->now_ns)
        tcp->flight->hold_ns = 0; /* or it waits for something else: else the timer would come again at once, and for ever */
    if (tcp->flags & CR__TCP_ACK_NOW)
        cr__tcp_ack(tcp);
}
