/* A connection's beginning and end, and what lies beside it while it works.
 *
 * It is in the table until it is CLOSED. From then on it belongs to whoever holds it: the user, until cr__tcp_close, or the queue of those that wait to be accepted. One that
 * nobody holds (an orphan) is freed by cr__tcp_finish, which is the last thing that any arrival, timer or call does, so nobody above it on the stack has it in hand any more. */
#include "net/tcp/tcp.h"

#include <string.h>

#define FIN_WAIT_2_NS (60 * (int64_t)1000000000)
#define SOME_LOOKS 10000 /* a millisecond, where all is cold */
#define HEADER_4_BYTES 40 /* IP's and TCP's, without options */
#define HEADER_6_BYTES 60

struct cr__tcp *cr__tcp_new(struct cr__host *host, const struct cr__tcp_name *name)
{
    const struct cr__tcp_config *config = &host->tcp->config;
    struct cr__tcp *tcp = cr__slab_get(&host->tcp->conns);
    if (!tcp)
        return NULL;
    host->tcp->connections++;
    *tcp = (struct cr__tcp){
        .host = host,
        .peer = name->peer,
        .local_port = name->local_port,
        .peer_port = name->peer_port,
        .local = name->local,
        .snd_limit_bytes = config->send_limit_bytes,
        .rcv_limit_bytes = config->recv_limit_bytes,
        .rto_us = 1000000, /* RFC 6298, 2.1 */
        .rcv_mss_bytes = 536,
        .quick_acks = CR__QUICK_ACKS,
        .flags = (config->newreno ? CR__TCP_NEWRENO : 0) | (config->no_delayed_acks ? CR__TCP_QUICK_ACK : 0),
        .last_heard_ms = cr__tcp_ms(host),
        .answered_ms = cr__tcp_ms(host) - 60000,
    };
    return tcp;
}

/* ---- What lies beside it ------------------------------------------------------------------------------------------ */

struct cr__flight *cr__tcp_flight(struct cr__tcp *tcp)
{
    if (CR__LIKELY(tcp->flight != NULL))
        return tcp->flight;
    struct cr__flight *flight = cr__slab_get(&tcp->host->tcp->flights);
    if (flight)
        memset(flight, 0, sizeof(*flight));
    tcp->flight = flight;
    return flight;
}

void cr__tcp_sent_drop(struct cr__tcp *tcp)
{
    struct cr_packet *packet;
    while ((packet = cr__sendq_pop(&tcp->flight->send)) != NULL)
        cr__packet_put(tcp->host->packets, packet);
    cr__recovery_drop(tcp);
    tcp->flight->unsent = NULL;
    tcp->flight->send_bytes = tcp->flight->head_acked_bytes = 0;
}

static void drop_list(struct cr__host *host, struct cr__packets *list)
{
    struct cr_packet *packet;
    while ((packet = cr__packets_pop(list)) != NULL)
        cr__packet_put(host->packets, packet);
}

static void flight_put(struct cr__tcp *tcp)
{
    tcp->retransmits += tcp->flight->retransmits;
    cr__slab_put(&tcp->host->tcp->flights, tcp->flight);
    tcp->flight = NULL;
}

static void flight_drop(struct cr__tcp *tcp)
{
    if (!tcp->flight)
        return;
    cr__tcp_sent_drop(tcp);
    drop_list(tcp->host, &tcp->flight->receive);
    cr__early_drop(tcp);
    flight_put(tcp);
}

void cr__tcp_settle(struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (!flight || flight->send.first || flight->receive.first || flight->early.first || flight->lent)
        return;
    if (tcp->state != CR__TCP_CLOSED) {
        bool fin_due = (tcp->flags & (CR__TCP_FIN_QUEUED | CR__TCP_FIN_SENT)) == CR__TCP_FIN_QUEUED;
        if (tcp->snd_una != tcp->snd_nxt || fin_due || flight->ack_ns || flight->duplicate.from != flight->duplicate.to)
            return;
        if (flight->tlp_out == CR__TLP_AGAIN && !(tcp->flags & CR__TCP_FIN_SENT))
            return; /* whether the probe has mended a loss is told by the next ACK (RFC 8985, 7.4), and the window of what comes depends on it */
    }
    flight_put(tcp);
}

/* ---- Of all --------------------------------------------------------------------------------------------------------- */

uint16_t cr__tcp_our_mss(const struct cr__host *host, const struct cr__ip *peer)
{
    uint16_t mtu = host->config.mtu_bytes ? host->config.mtu_bytes : 1500;
    return (uint16_t)(mtu - (cr__ip_is_v4(peer) ? HEADER_4_BYTES : HEADER_6_BYTES));
}

void cr__tcp_set_mss(struct cr__tcp *tcp)
{
    uint16_t headers = cr__ip_is_v4(&tcp->peer) ? HEADER_4_BYTES : HEADER_6_BYTES, mtu = cr__ip_mtu(tcp->host, &tcp->peer);
    uint16_t fits = mtu > headers ? (uint16_t)(mtu - headers) : 0;
    uint16_t options = tcp->flags & CR__TCP_TIMESTAMPS ? 12 : 0;
    uint16_t mss = fits < tcp->peer_mss_bytes ? fits : tcp->peer_mss_bytes;
    tcp->mss_bytes = mss > options + 32 ? (uint16_t)(mss - options) : 32;
}

/* As Linux: so much that the limit fits. */
uint8_t cr__tcp_rcv_scale(const struct cr__tcp_layer *layer, uint32_t limit_bytes)
{
    uint8_t scale = 0;
    while (!layer->config.no_scaling && scale < 14 && ((uint64_t)65535 << scale) < limit_bytes)
        scale++;
    return scale;
}

void cr__tcp_told(struct cr__tcp *tcp, unsigned events)
{
    const struct cr__tcp_above *above = &tcp->host->tcp->config.above;
    if (!(tcp->flags & (CR__TCP_WAITS | CR__TCP_ORPHAN)) && above->event)
        above->event(tcp, events);
}

void cr__tcp_fin_wait(struct cr__tcp *tcp)
{
    if (tcp->state == CR__TCP_FIN_WAIT_2 && (tcp->flags & CR__TCP_ORPHAN))
        tcp->due_ns = tcp->host->now_ns + FIN_WAIT_2_NS;
}

void cr__tcp_end(struct cr__tcp *tcp, int error)
{
    CR__ASSERT(tcp->state != CR__TCP_CLOSED);
    if (error == ETIMEDOUT && (tcp->flags & CR__TCP_SOFT) && tcp->error)
        error = tcp->error; /* why it was (RFC 9293, 3.9.2.2) */
    cr__tcp_remove(tcp->host, tcp, CR__KIND_CONN);
    tcp->state = CR__TCP_CLOSED;
    tcp->error = (uint16_t)error;
    tcp->flags &= ~(uint32_t)(CR__TCP_SOFT | CR__TCP_ACK_NOW | CR__TCP_NO_PACKET | CR__TCP_MORE);
    tcp->due_ns = 0;
    tcp->snd_una = tcp->snd_nxt;
    if (cr__timer_armed(&tcp->timer))
        cr__wheel_cancel(&tcp->host->wheel, &tcp->timer);
    struct cr__flight *flight = tcp->flight;
    if (flight) {
        cr__tcp_sent_drop(tcp);
        cr__early_drop(tcp);
        flight->resend_ns = flight->reorder_ns = flight->ack_ns = flight->hold_ns = 0;
    }
    if (error)
        cr__tcp_told(tcp, CR__TCP_ENDED | CR__TCP_READABLE | CR__TCP_WRITABLE);
}

void cr__tcp_free(struct cr__tcp *tcp)
{
    struct cr__tcp_layer *layer = tcp->host->tcp;
    CR__ASSERT(tcp->state == CR__TCP_CLOSED);
    flight_drop(tcp);
    if (tcp->flags & CR__TCP_ORPHAN)
        layer->orphans--;
    layer->connections--;
    tcp->host = NULL; /* so cr__tcp_each tells it from the living */
    cr__slab_put(&layer->conns, tcp);
}

/* Not of who only receives, and owes no ACK yet. */
static inline bool has_output(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    return (tcp->flags & (CR__TCP_ACK_NOW | CR__TCP_FIN_QUEUED)) || (flight && (flight->send.first || flight->hold_ns));
}

bool cr__tcp_finish(struct cr__tcp *tcp)
{
    if (CR__LIKELY(tcp->state != CR__TCP_CLOSED)) {
        if (has_output(tcp))
            cr__tcp_output(tcp);
        cr__tcp_settle(tcp);
        cr__tcp_arm(tcp);
        return true;
    }
    if (tcp->flags & CR__TCP_ORPHAN) {
        cr__tcp_free(tcp);
        return false;
    }
    cr__tcp_settle(tcp);
    return true;
}

static uint32_t some(struct cr__host *host, uint32_t most, uint64_t looks, void (*fn)(struct cr__tcp *tcp, void *arg), void *arg)
{
    struct cr__slab_walk walk = {0};
    struct cr__tcp *tcp;
    uint32_t found = 0;
    while (found < most && looks-- > 0 && (tcp = cr__slab_walk(&host->tcp->conns, &walk)) != NULL) {
        if (tcp->host != host)
            continue;
        found++;
        fn(tcp, arg);
    }
    return found;
}

void cr__tcp_each(struct cr__host *host, void (*fn)(struct cr__tcp *tcp, void *arg), void *arg)
{
    some(host, UINT32_MAX, UINT64_MAX, fn, arg);
}

uint32_t cr__tcp_some(struct cr__host *host, uint32_t most, void (*fn)(struct cr__tcp *tcp, void *arg), void *arg)
{
    return some(host, most, SOME_LOOKS + (uint64_t)most, fn, arg);
}
