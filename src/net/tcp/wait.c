/* TIME-WAIT: what a connection leaves behind, so that what is still on its way is not taken for another one's, and the peer's last FIN finds somebody who acknowledges it (RFC
 * 9293, 3.6.1; 3.10.7.4).
 *
 * All wait equally long, so they are a queue, with one timer for its head. There are at most CR__TCP_WAITS_MOST: beyond that the oldest goes early.
 *
 * RSTs are ignored (RFC 1337). A SYN that is newer than the old connection, by its timestamp or its sequence number, opens a new one at once (RFC 6191), whose ISN is beyond
 * the old one's. So does who dials by that name here, a second after the last FIN, if timestamps are in use. */
#include "net/tcp/tcp.h"

#define REUSE_MS 1000

static struct cr__tcp_wait *wait_at(uint32_t handle)
{
    return handle ? cr__mem_at(handle) : NULL;
}

static void unlink_wait(struct cr__tcp_layer *layer, struct cr__tcp_wait *wait)
{
    struct cr__tcp_wait *earlier = wait_at(wait->earlier), *later = wait_at(wait->later);
    *(earlier ? &earlier->later : &layer->wait_first) = wait->later;
    *(later ? &later->earlier : &layer->wait_last) = wait->earlier;
}

static void link_last(struct cr__host *host, struct cr__tcp_wait *wait)
{
    struct cr__tcp_layer *layer = host->tcp;
    uint32_t handle = cr__mem_handle(wait), time_ms = layer->config.time_wait_ms;
    struct cr__tcp_wait *last = wait_at(layer->wait_last);
    wait->due_ms = cr__tcp_ms(host) + time_ms;
    wait->earlier = layer->wait_last;
    wait->later = 0;
    *(last ? &last->later : &layer->wait_first) = handle;
    layer->wait_last = handle;
    if (!cr__timer_armed(&layer->wait_timer))
        cr__wheel_arm(&host->wheel, &layer->wait_timer, host->now_ns + (int64_t)time_ms * 1000000);
}

static void wait_drop(struct cr__host *host, struct cr__tcp_wait *wait)
{
    unlink_wait(host->tcp, wait);
    cr__tcp_remove(host, wait, CR__KIND_WAIT);
    host->tcp->waiting--;
    cr__slab_put(&host->tcp->waits, wait);
}

void cr__tcp_wait_enter(struct cr__tcp *tcp)
{
    struct cr__host *host = tcp->host;
    struct cr__tcp_layer *layer = host->tcp;
    if (layer->waiting >= CR__TCP_WAITS_MOST)
        wait_drop(host, wait_at(layer->wait_first));
    struct cr__tcp_wait *wait = cr__slab_get(&layer->waits);
    if (wait)
        *wait = (struct cr__tcp_wait){
            .peer = tcp->peer,
            .local_port = tcp->local_port,
            .peer_port = tcp->peer_port,
            .local = tcp->local,
            .flags = (uint8_t)(tcp->flags & CR__TCP_TIMESTAMPS),
            .window = (uint16_t)((tcp->rcv_edge - tcp->rcv_nxt) >> tcp->rcv_scale),
            .snd_nxt = tcp->snd_nxt,
            .rcv_nxt = tcp->rcv_nxt,
            .ts_recent = tcp->ts_recent,
            .ts_recent_ms = tcp->ts_recent_ms,
            .ts_offset = tcp->ts_offset,
        };
    cr__tcp_end(tcp, 0);
    if (!wait)
        return; /* no memory: nobody waits, as after a restart */
    cr__tcp_insert(host, wait, CR__KIND_WAIT);
    layer->waiting++;
    link_last(host, wait);
}

void cr__tcp_wait_due(struct cr__host *host)
{
    struct cr__tcp_layer *layer = host->tcp;
    struct cr__tcp_wait *wait;
    while ((wait = wait_at(layer->wait_first)) != NULL && (int32_t)(wait->due_ms - cr__tcp_ms(host)) <= 0)
        wait_drop(host, wait);
    if (wait)
        cr__wheel_arm(&host->wheel, &layer->wait_timer, host->now_ns + (int64_t)(int32_t)(wait->due_ms - cr__tcp_ms(host)) * 1000000);
}

static void wait_ack(struct cr__host *host, const struct cr__tcp_wait *wait)
{
    struct cr_packet *packet = cr__packet_get(host->packets);
    if (!packet) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return;
    }
    struct cr__segment seg = {
        .from_port = wait->local_port,
        .to_port = wait->peer_port,
        .seq = wait->snd_nxt,
        .ack = wait->rcv_nxt,
        .flags = CR__ACK,
        .window = wait->window,
        .has_timestamp = wait->flags & CR__TCP_TIMESTAMPS,
        .ts_value = cr__tcp_ms(host) + wait->ts_offset,
        .ts_echo = wait->ts_recent,
    };
    cr__tcp_transmit(host, packet, &seg, &host->config.addresses[wait->local].ip, &wait->peer, 0);
}

/* Beyond what could still be on its way, as Linux. */
static uint32_t isn_after(const struct cr__tcp_wait *wait)
{
    uint32_t isn = wait->snd_nxt + 65535 + 2;
    return isn ? isn : 1;
}

/* RFC 6191, 2. */
static bool may_reopen(const struct cr__tcp_wait *wait, const struct cr__segment *seg)
{
    if ((seg->flags & (CR__SYN | CR__ACK | CR__RST | CR__FIN)) != CR__SYN)
        return false;
    if ((wait->flags & CR__TCP_TIMESTAMPS) && seg->has_timestamp && seg->ts_value != wait->ts_recent)
        return cr__seq_before(wait->ts_recent, seg->ts_value);
    return cr__seq_before(wait->rcv_nxt, seg->seq);
}

static bool reopen(struct cr__host *host, struct cr__tcp_wait *wait, const struct cr__arrival *in, const struct cr__segment *seg)
{
    struct cr__tcp_listener *listener = may_reopen(wait, seg) ? cr__tcp_listener_of(host, &in->to, (const struct cr__tcp_name *)wait) : NULL;
    uint32_t isn = isn_after(wait);
    if (!listener)
        return false;
    wait_drop(host, wait);
    cr__tcp_listen_input(host, listener, in, seg, isn);
    return true;
}

/* RFC 6191, from the other side, as Linux' tcp_tw_reuse: what is still on its way has older timestamps than all that a new connection says, once the clock has gone on. */
bool cr__tcp_wait_may_end(const struct cr__host *host, uint32_t handle)
{
    if ((handle & 3u) != CR__KIND_WAIT)
        return false;
    const struct cr__tcp_wait *wait = cr__mem_at(handle & ~3u);
    uint32_t waited_ms = host->tcp->config.time_wait_ms - (wait->due_ms - cr__tcp_ms(host));
    return (wait->flags & CR__TCP_TIMESTAMPS) && waited_ms >= REUSE_MS;
}

uint32_t cr__tcp_wait_end(struct cr__host *host, uint32_t handle)
{
    struct cr__tcp_wait *wait = cr__mem_at(handle & ~3u);
    uint32_t isn = isn_after(wait);
    wait_drop(host, wait);
    return isn;
}

void cr__tcp_wait_input(struct cr__host *host, struct cr__tcp_wait *wait, const struct cr__arrival *in, const struct cr__segment *seg)
{
    if (reopen(host, wait, in, seg))
        return;
    bool old = (wait->flags & CR__TCP_TIMESTAMPS) && seg->has_timestamp && cr__seq_before(seg->ts_value, wait->ts_recent);
    bool again = (seg->flags & CR__FIN) && seg->seq + seg->payload_bytes + 1 == wait->rcv_nxt && !old;
    bool silent = (seg->flags & CR__RST) || (seg->seq == wait->rcv_nxt && cr__segment_length(seg) == 0); /* an ACK of ours that comes late */
    if (again) { /* our ACK was lost: from here on again */
        unlink_wait(host->tcp, wait);
        link_last(host, wait);
        wait_ack(host, wait);
    } else if (!silent && cr__tcp_may_answer(host, false)) {
        wait_ack(host, wait);
    }
    cr__host_drop(host, in->packet, CR__DROP_TCP_WINDOW);
}
