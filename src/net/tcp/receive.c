/* Text and FIN that have arrived (RFC 9293, 3.10.7.4, sixth to eighth), and what is owed for them.
 *
 * The receive queue takes what is in order; a small segment goes into the room behind the last one, so that a peer that sends bytes one by one does not fill packets of 2 KiB
 * with them. What is early waits in early.c.
 *
 * An ACK is owed at once for two of the largest segments, for whatever is out of order, fills a gap, comes twice, or ends the stream; else after 40 ms (RFC 9293, 3.8.6.3;
 * 5681, 4.2). And for each of the first sixteen segments of a connection, as Linux does, unless it has answered in between: the peer's window is small yet, and whoever holds a
 * small segment back behind another (Nagle) would wait for 40 ms. Who answers has something to carry ACKs. */
#include "net/tcp/tcp.h"

#include <string.h>

#define DELAYED_ACK_NS 40000000
#define GATHERED_BYTES 512        /* up to so many are copied behind what waits already */

/* ---- The queues -------------------------------------------------------------------------------------------------- */

/* A compiler that knows it to be little makes string instructions of it, which take tens of cycles to begin. */
static inline void copy(void *to, const void *from, size_t size_bytes)
{
    __asm__("" : "+r"(size_bytes));
    memcpy(to, from, size_bytes);
}

/* In order: seq is rcv_nxt. */
static void append(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    uint16_t bytes = packet->size_bytes;
    struct cr_packet *last = flight->receive.first ? flight->receive.last : NULL;
    tcp->rcv_nxt += bytes;
    flight->receive_bytes += bytes;
    if (last && bytes <= GATHERED_BYTES && bytes <= cr_packet_back(last)) {
        copy(last->data + last->size_bytes, packet->data, bytes);
        last->size_bytes = (uint16_t)(last->size_bytes + bytes);
        cr__packet_put(tcp->host->packets, packet);
        return;
    }
    cr__packets_push(&flight->receive, packet);
}

void cr__tcp_note_duplicate(struct cr__tcp *tcp, uint32_t from, uint32_t to)
{
    if ((tcp->flags & CR__TCP_SACK) && tcp->flight && from != to) {
        tcp->flight->duplicate.from = from;
        tcp->flight->duplicate.to = to;
    }
}

/* The block that has just grown, or come, goes first (RFC 2018, 4). */
static void note_sack(struct cr__flight *flight, uint32_t from, uint32_t to)
{
    uint8_t kept = 0;
    uint32_t older[CR__SACK_BLOCKS][2];
    for (uint8_t i = 0; i < flight->sack_count; i++) {
        uint32_t a = flight->sack[i].from, b = flight->sack[i].to;
        if (cr__seq_not_after(a, to) && cr__seq_not_after(from, b)) {
            from = cr__seq_before(a, from) ? a : from;
            to = cr__seq_later(b, to);
        } else {
            older[kept][0] = a;
            older[kept++][1] = b;
        }
    }
    flight->sack[0].from = from;
    flight->sack[0].to = to;
    flight->sack_count = 1;
    for (uint8_t i = 0; i < kept && flight->sack_count < CR__SACK_BLOCKS; i++) {
        flight->sack[flight->sack_count].from = older[i][0];
        flight->sack[flight->sack_count++].to = older[i][1];
    }
}

/* What has become in order is no block any more. */
static void forget_sack(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    uint8_t kept = 0;
    for (uint8_t i = 0; i < flight->sack_count; i++) {
        if (cr__seq_before(tcp->rcv_nxt, flight->sack[i].to))
            flight->sack[kept++] = flight->sack[i];
    }
    flight->sack_count = flight->early.first ? kept : 0;
}

/* Out of order. */
static void take_early(struct cr__tcp *tcp, struct cr_packet *packet)
{
    uint32_t from = cr__received_of(packet)->seq, to = from + packet->size_bytes;
    if (cr__early_insert(tcp, packet) && from != to)
        note_sack(tcp->flight, from, to);
}

/* Whether the FIN has come to be in order with what was early. */
static bool early_merge(struct cr__tcp *tcp)
{
    struct cr__packets *early = &tcp->flight->early;
    bool fin = false;
    while (early->first && cr__seq_not_after(cr__received_of(early->first)->seq, tcp->rcv_nxt) && !fin) {
        struct cr_packet *packet = cr__early_pop(tcp);
        uint32_t old = tcp->rcv_nxt - cr__received_of(packet)->seq;
        fin = cr__received_of(packet)->fin && old <= packet->size_bytes;
        if (old >= packet->size_bytes) {
            cr__packet_put(tcp->host->packets, packet);
            continue;
        }
        cr_packet_pull(packet, old);
        append(tcp, packet);
    }
    if (fin)
        cr__early_drop(tcp); /* behind the end there is nothing: the same FIN again, or what no honest peer sends */
    forget_sack(tcp);
    return fin;
}

/* ---- Sixth and seventh: text, and FIN ------------------------------------------------------------------------------ */

static void owe_ack(struct cr__tcp *tcp, uint32_t payload_bytes)
{
    struct cr__flight *flight = tcp->flight;
    if (payload_bytes > tcp->rcv_mss_bytes)
        tcp->rcv_mss_bytes = (uint16_t)payload_bytes;
    if (tcp->rcv_nxt - tcp->last_ack_sent >= 2u * tcp->rcv_mss_bytes || (tcp->flags & CR__TCP_QUICK_ACK) || CR__UNLIKELY(tcp->quick_acks > 0))
        tcp->flags |= CR__TCP_ACK_NOW;
    else if (!flight->ack_ns)
        flight->ack_ns = tcp->host->now_ns + DELAYED_ACK_NS;
    if (CR__UNLIKELY(tcp->quick_acks > 0))
        tcp->quick_acks--;
}

static void take_fin(struct cr__tcp *tcp)
{
    tcp->rcv_nxt++;
    tcp->rcv_edge = cr__seq_later(tcp->rcv_edge, tcp->rcv_nxt); /* a FIN is taken even if the window is full of text */
    tcp->flags |= CR__TCP_FIN_RECEIVED | CR__TCP_ACK_NOW;
    if (tcp->flight)
        cr__early_drop(tcp); /* there is nothing beyond it */
    if (tcp->state == CR__TCP_ESTABLISHED)
        tcp->state = CR__TCP_CLOSE_WAIT;
    else if (tcp->state == CR__TCP_FIN_WAIT_1)
        tcp->state = CR__TCP_CLOSING;
    cr__tcp_told(tcp, CR__TCP_READABLE);
    if (tcp->state == CR__TCP_FIN_WAIT_2) {
        cr__tcp_ack(tcp);
        cr__tcp_wait_enter(tcp);
    }
}

/* The packet with its payload alone, cut to what is new and within the window; NULL: nothing is. */
static struct cr_packet *cut(struct cr__tcp *tcp, struct cr_packet *packet, const struct cr__segment *seg, bool *fin)
{
    uint32_t seq = seg->seq, end = seq + seg->payload_bytes;
    cr_packet_pull(packet, packet->size_bytes - seg->payload_bytes);
    if (cr__seq_before(seq, tcp->rcv_nxt)) {
        uint32_t old = tcp->rcv_nxt - seq < seg->payload_bytes ? tcp->rcv_nxt - seq : seg->payload_bytes;
        if (old > 0) {
            cr__tcp_flight(tcp); /* to say so */
            cr__tcp_note_duplicate(tcp, seq, seq + old);
            tcp->flags |= CR__TCP_ACK_NOW;
        }
        cr_packet_pull(packet, old);
        seq += old;
    }
    if (cr__seq_before(tcp->rcv_edge, end)) {
        uint32_t beyond = end - tcp->rcv_edge < packet->size_bytes ? end - tcp->rcv_edge : packet->size_bytes;
        packet->size_bytes = (uint16_t)(packet->size_bytes - beyond);
        *fin = false;
        tcp->flags |= CR__TCP_ACK_NOW;
    }
    cr__received_of(packet)->seq = seq;
    cr__received_of(packet)->fin = *fin;
    if (packet->size_bytes > 0 || *fin)
        return packet;
    cr__host_drop(tcp->host, packet, cr__seq_before(seq, tcp->rcv_edge) ? CR__DROP_TCP_DUPLICATE : CR__DROP_TCP_FULL);
    return NULL;
}

/* While there are packets for it. */
static bool may_keep(const struct cr__tcp *tcp)
{
    uint32_t left = cr__packets_left(tcp->host->packets);
    if (CR__LIKELY(left > CR__LEFT_NO_SYN))
        return true;
    return left > CR__LEFT_NO_TEXT && (!tcp->flight || tcp->flight->receive.count < CR__LITTLE_PACKETS);
}

static void take_text(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    bool fin = seg->flags & CR__FIN;
    struct cr_packet *packet = cut(tcp, in->packet, seg, &fin);
    if (!packet)
        return;
    if (packet->size_bytes > 0 && (tcp->flags & CR__TCP_ORPHAN)) { /* nobody will read it, and the peer is to know (RFC 9293, 3.6.1) */
        cr__host_drop(tcp->host, packet, CR__DROP_TCP_FULL);
        cr__tcp_reset(tcp->host, in, seg);
        cr__tcp_end(tcp, ECONNRESET);
        return;
    }
    bool scarce = packet->size_bytes > 0 && !may_keep(tcp);
    if (CR__UNLIKELY(scarce) || !cr__tcp_flight(tcp)) {
        cr__host_drop(tcp->host, packet, scarce ? CR__DROP_NO_PACKET : CR__DROP_TCP_FULL);
        return;
    }
    uint32_t seq = cr__received_of(packet)->seq, bytes = packet->size_bytes;
    if (CR__UNLIKELY(seq != tcp->rcv_nxt)) {
        tcp->flags |= CR__TCP_ACK_NOW;
        take_early(tcp, packet);
        return;
    }
    if (bytes > 0)
        append(tcp, packet);
    else
        cr__packet_put(tcp->host->packets, packet);
    if (CR__UNLIKELY(tcp->flight->early.first != NULL)) {
        tcp->flags |= CR__TCP_ACK_NOW; /* a gap is filled, or a part of it (RFC 5681, 4.2) */
        fin |= early_merge(tcp);
    }
    if (bytes > 0) {
        owe_ack(tcp, seg->payload_bytes);
        cr__tcp_told(tcp, CR__TCP_READABLE);
    }
    if (fin)
        take_fin(tcp);
}

struct cr_packet *cr__tcp_text(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (cr__segment_length(seg) == 0)
        return in->packet;
    take_text(tcp, in, seg);
    return NULL;
}
