/* Listeners (RFC 9293, 3.10.7.2): from a SYN to a connection that waits to be accepted.
 *
 * A SYN makes a half-open entry (half.c), which becomes a connection by the ACK. When there are as many of those as may be, when as many wait to be accepted as may, or when
 * there is no memory, the answer is a cookie instead (cookie.c), and nothing is kept.
 *
 * A connection that can't wait because the queue is full stays half open: its ACK is dropped, and what the peer sends next asks again. */
#include "net/tcp/tcp.h"

#define BACKLOG 4096

/* ---- Calls ------------------------------------------------------------------------------------------------------------- */

static bool overlap(enum cr__tcp_families a, enum cr__tcp_families b)
{
    return a == CR__TCP_BOTH || b == CR__TCP_BOTH || a == b;
}

static bool taken(struct cr__host *host, const struct cr__ip *ip, uint16_t port, const struct cr__tcp_opts *opts)
{
    struct cr__tcp_listener *other = host->tcp->listeners[port % CR__TCP_LISTENER_CHAINS];
    for (; other; other = other->next) {
        bool meet = other->port == port && other->any == !ip && (ip ? cr__ip_equal(&other->ip, ip) : overlap(other->families, opts->families));
        if (meet && !(other->shares && opts->shares))
            return true;
    }
    return false;
}

static bool is_listened_on(const struct cr__host *host, uint16_t port)
{
    const struct cr__tcp_listener *other = host->tcp->listeners[port % CR__TCP_LISTENER_CHAINS];
    while (other && other->port != port)
        other = other->next;
    return other != NULL;
}

/* That nobody listens on at any address. 0: none. */
static uint16_t any_port(struct cr__host *host)
{
    for (int i = 0; i < 65536; i++) {
        uint16_t port = (uint16_t)(1024 + cr__host_random(host) % (65536 - 1024));
        if (!is_listened_on(host, port))
            return port;
    }
    return 0;
}

int cr__tcp_listen(struct cr__host *host, struct cr__tcp_listener **out, const struct cr__ip *ip, uint16_t port, const struct cr__tcp_opts *opts)
{
    struct cr__tcp_layer *layer = host->tcp;
    const struct cr__tcp_opts none = {0};
    opts = opts ? opts : &none;
    if (ip && cr__tcp_local(host, ip) < 0)
        return -EADDRNOTAVAIL;
    if (port == 0)
        port = any_port(host);
    if (port == 0 || taken(host, ip, port, opts))
        return -EADDRINUSE;
    struct cr__tcp_listener *listener = cr__slab_get(&layer->listeners_slab);
    if (!listener)
        return -ENOMEM;
    struct cr__tcp_listener **chain = &layer->listeners[port % CR__TCP_LISTENER_CHAINS];
    *listener = (struct cr__tcp_listener){
        .host = host,
        .next = *chain,
        .user = opts->user,
        .any = !ip,
        .shares = opts->shares,
        .families = (uint8_t)opts->families,
        .port = port,
        .backlog = opts->backlog > 0 ? (uint32_t)opts->backlog : BACKLOG,
        .send_limit_bytes = opts->send_limit_bytes ? opts->send_limit_bytes : layer->config.send_limit_bytes,
        .recv_limit_bytes = opts->recv_limit_bytes ? opts->recv_limit_bytes : layer->config.recv_limit_bytes,
        .keepalive_ms = opts->keepalive_ms,
        .user_timeout_ms = opts->user_timeout_ms,
        .flags = (opts->nagle ? CR__TCP_NAGLE : 0) | (opts->keepalive ? CR__TCP_KEEPALIVE : 0),
    };
    if (ip)
        listener->ip = *ip;
    *chain = listener;
    *out = listener;
    return 0;
}

uint16_t cr__tcp_listener_port(const struct cr__tcp_listener *listener)
{
    return listener->port;
}

void *cr__tcp_listener_user(const struct cr__tcp_listener *listener)
{
    return listener->user;
}

struct cr__tcp *cr__tcp_accept(struct cr__tcp_listener *listener)
{
    struct cr__tcp *tcp = listener->first;
    if (!tcp)
        return NULL;
    listener->first = tcp->user[0];
    listener->waiting--;
    tcp->user[0] = tcp->user[1] = NULL;
    tcp->flags &= ~(uint32_t)CR__TCP_WAITS;
    return tcp;
}

void cr__tcp_unlisten(struct cr__tcp_listener *listener)
{
    struct cr__tcp_layer *layer = listener->host->tcp;
    struct cr__tcp_listener **link = &layer->listeners[listener->port % CR__TCP_LISTENER_CHAINS];
    while (*link != listener)
        link = &(*link)->next;
    *link = listener->next;
    struct cr__tcp *tcp;
    while ((tcp = cr__tcp_accept(listener)) != NULL)
        cr__tcp_abort(tcp);
    cr__slab_put(&layer->listeners_slab, listener); /* who is half open finds nobody, when the ACK comes */
}

/* ---- Connections --------------------------------------------------------------------------------------------------------- */

/* An established one that waits to be accepted. NULL: no room, no memory. */
struct cr__tcp *cr__tcp_make(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__tcp_half *half)
{
    struct cr__tcp *tcp = listener->waiting < listener->backlog ? cr__tcp_new(host, (const struct cr__tcp_name *)half) : NULL;
    if (!tcp) {
        cr__host_count(host, CR__DROP_TCP_BACKLOG);
        return NULL;
    }
    tcp->state = CR__TCP_ESTABLISHED;
    tcp->flags |= CR__TCP_PASSIVE | CR__TCP_WAITS | half->flags | listener->flags;
    tcp->snd_limit_bytes = listener->send_limit_bytes;
    tcp->rcv_limit_bytes = listener->recv_limit_bytes;
    tcp->keepalive_ms = listener->keepalive_ms;
    tcp->user_timeout_ms = listener->user_timeout_ms;
    tcp->snd_scale = half->snd_scale;
    tcp->rcv_scale = half->rcv_scale;
    tcp->snd_una = tcp->snd_nxt = half->iss + 1;
    tcp->rcv_nxt = tcp->last_ack_sent = half->irs + 1;
    tcp->rcv_edge = tcp->rcv_nxt + half->window_bytes;
    tcp->snd_wnd = tcp->snd_max_wnd = half->peer_window;
    tcp->snd_wl1 = half->irs;
    tcp->snd_wl2 = half->iss + 1;
    tcp->ts_recent = half->ts_recent;
    tcp->ts_recent_ms = cr__tcp_ms(host);
    tcp->ts_offset = half->ts_offset;
    tcp->peer_mss_bytes = half->peer_mss_bytes;
    tcp->backoff = half->tries;
    cr__tcp_set_mss(tcp);
    cr__congestion_init(tcp);
    tcp->backoff = 0;
    return tcp;
}

static void enqueue(struct cr__tcp_listener *listener, struct cr__tcp *tcp)
{
    struct cr__tcp_layer *layer = listener->host->tcp;
    tcp->user[0] = NULL;
    if (listener->first)
        listener->last->user[0] = tcp;
    else
        listener->first = tcp;
    listener->last = tcp;
    listener->waiting++;
    layer->accepted++;
    cr__tcp_insert(listener->host, tcp, CR__KIND_CONN);
}

/* Its first segment, then: window, text. */
void cr__tcp_begin(struct cr__tcp_listener *listener, struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg)
{
    const struct cr__tcp_above *above = &listener->host->tcp->config.above;
    enqueue(listener, tcp);
    cr__tcp_segment(tcp, in, seg);
    if (above->accepted)
        above->accepted(listener);
}

/* ---- SYNs ------------------------------------------------------------------------------------------------------------------ */

static bool wants_cookie(const struct cr__tcp_layer *layer, const struct cr__tcp_listener *listener)
{
    return layer->half_open >= layer->config.half_open_most || listener->waiting >= listener->backlog;
}

static void take_first_syn(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg, uint32_t isn_after)
{
    if (CR__UNLIKELY(cr__packets_left(host->packets) <= CR__LEFT_NO_SYN)) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return;
    }
    struct cr__tcp_half half = cr__tcp_half_of(host, listener, in, seg);
    half.iss = cr__tcp_isn(host, (struct cr__tcp_name *)&half);
    if (isn_after && cr__seq_before(half.iss, isn_after))
        half.iss = isn_after;
    if (wants_cookie(host->tcp, listener) || !cr__tcp_half_keep(host, &half))
        cr__tcp_cookie_send(host, &half);
}

void cr__tcp_listen_input(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg, uint32_t isn_after)
{
    if ((seg->flags & (CR__ACK | CR__RST | CR__SYN)) == CR__ACK && cr__tcp_cookie_input(host, listener, in, seg))
        return; /* it has taken the packet */
    if (seg->flags & CR__RST)
        cr__host_count(host, CR__DROP_TCP_NO_PORT);
    else if (seg->flags & CR__ACK)
        cr__tcp_reset(host, in, seg);
    else if ((seg->flags & (CR__SYN | CR__FIN)) == CR__SYN) /* text in it is not taken: it comes again */
        take_first_syn(host, listener, in, seg, isn_after);
    else
        cr__host_count(host, CR__DROP_TCP_NO_PORT);
    cr__packet_put(host->packets, in->packet);
}
