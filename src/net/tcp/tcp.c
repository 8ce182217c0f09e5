/* Calls of the user's, and setting up. Each does what it has to do to the queues and leaves the rest to cr__tcp_finish. None of them waits. */
#include "net/tcp/tcp.h"

#include <string.h>

#define SEND_LIMIT_BYTES ((uint32_t)256 << 10)
#define RECV_LIMIT_BYTES ((uint32_t)1 << 20)
#define HALF_OPEN_MOST 4096
#define INITIAL_WINDOW 10
#define TIME_WAIT_MS 60000
#define ORPHANS_MOST 65536
#define RETRY_NS 10000000 /* after -ENOBUFS */

/* ---- Setting up ------------------------------------------------------------------------------------------------------ */

static void timer_due(struct cr__host *host, struct cr__timer *timer)
{
    struct cr__tcp_layer *layer = host->tcp;
    if (timer == &layer->wait_timer) {
        cr__tcp_wait_due(host);
        return;
    }
    const struct cr__slab *slab = cr__slab_of(timer);
    if (slab == &layer->conns)
        cr__tcp_due(CR__CONTAINER(timer, struct cr__tcp, timer));
    else if (slab == &layer->halves)
        cr__tcp_half_due(CR__CONTAINER(timer, struct cr__tcp_half, timer));
}

static void defaults(struct cr__tcp_config *config)
{
    if (!config->send_limit_bytes)
        config->send_limit_bytes = SEND_LIMIT_BYTES;
    if (!config->recv_limit_bytes)
        config->recv_limit_bytes = RECV_LIMIT_BYTES;
    if (!config->half_open_most)
        config->half_open_most = HALF_OPEN_MOST;
    if (!config->initial_window)
        config->initial_window = INITIAL_WINDOW;
    if (!config->time_wait_ms)
        config->time_wait_ms = TIME_WAIT_MS;
}

int cr__tcp_init(struct cr__host *host, const struct cr__tcp_config *config)
{
    struct cr__tcp_layer *layer = cr__mem_alloc_aligned(sizeof(*layer), CR__MEM_CONNS);
    if (!layer)
        return -ENOMEM;
    memset(layer, 0, sizeof(*layer));
    if (cr__tcp_table_init(&layer->table) != 0) {
        cr__mem_free(layer, sizeof(*layer), CR__MEM_CONNS);
        return -ENOMEM;
    }
    layer->config = *config;
    defaults(&layer->config);
    layer->port_counter = (uint32_t)cr__host_random(host);
    cr__slab_init(&layer->conns, sizeof(struct cr__tcp), CR__MEM_CONNS);
    cr__slab_init(&layer->flights, (uint32_t)cr__round_up(sizeof(struct cr__flight), CR__CACHE_LINE), CR__MEM_BUFFERS);
    cr__slab_init(&layer->halves, sizeof(struct cr__tcp_half), CR__MEM_CONNS);
    cr__slab_init(&layer->waits, sizeof(struct cr__tcp_wait), CR__MEM_CONNS);
    cr__slab_init(&layer->listeners_slab, (uint32_t)cr__round_up(sizeof(struct cr__tcp_listener), 16), CR__MEM_CONNS);
    host->tcp = layer;
    host->above.tcp = cr__tcp_input;
    host->above.tcp_error = cr__tcp_error;
    host->above.due = timer_due;
    return 0;
}

static void drop_conn(struct cr__tcp *tcp, void *arg)
{
    (void)arg;
    tcp->flags |= CR__TCP_WAITS; /* nobody is told */
    if (tcp->state != CR__TCP_CLOSED)
        cr__tcp_end(tcp, 0);
    cr__tcp_free(tcp);
}

static void drop_half(void *object, void *arg)
{
    struct cr__host *host = arg;
    struct cr__tcp_half *half = object;
    if (half->host == host)
        cr__tcp_half_drop(host, half);
}

void cr__tcp_fini(struct cr__host *host)
{
    struct cr__tcp_layer *layer = host->tcp;
    if (!layer)
        return;
    cr__tcp_each(host, drop_conn, NULL);
    cr__slab_each(&layer->halves, drop_half, host);
    if (cr__timer_armed(&layer->wait_timer))
        cr__wheel_cancel(&host->wheel, &layer->wait_timer);
    cr__slab_fini(&layer->conns);
    cr__slab_fini(&layer->flights);
    cr__slab_fini(&layer->halves);
    cr__slab_fini(&layer->waits);
    cr__slab_fini(&layer->listeners_slab);
    cr__tcp_table_fini(&layer->table);
    cr__mem_free(layer, sizeof(*layer), CR__MEM_CONNS);
    host->tcp = NULL;
    host->above.tcp = NULL;
    host->above.tcp_error = NULL;
    host->above.due = NULL;
}

/* ---- Dialling ---------------------------------------------------------------------------------------------------------- */

static int name_of(struct cr__host *host, struct cr__tcp_name *name, const struct cr__ip *from, uint16_t from_port)
{
    struct cr__ip source;
    static const struct cr__ip nobody;
    struct cr__ip nobody4 = cr__ip_v4(0);
    if (from && cr__ip_is_v4(from) != cr__ip_is_v4(&name->peer))
        return -EAFNOSUPPORT;
    if (cr__ip_is_multicast(&name->peer) || cr__ip_is_broadcast(host, &name->peer) || cr__ip_equal(&name->peer, &nobody) || cr__ip_equal(&name->peer, &nobody4))
        return -ENETUNREACH; /* RFC 9293, 3.9.2.3 */
    int error = from ? 0 : cr__ip_source(host, &name->peer, &source);
    if (error)
        return error;
    int local = cr__tcp_local(host, from ? from : &source);
    if (local < 0)
        return -EADDRNOTAVAIL;
    if (!name->peer_port)
        return -ECONNREFUSED; /* nobody listens there */
    name->local = (uint8_t)local;
    name->local_port = from_port;
    if (!from_port)
        return cr__tcp_port(host, name) ? 0 : -EADDRNOTAVAIL;
    if (cr__tcp_listener_find(host, from ? from : &source, from_port))
        return -EADDRINUSE;
    uint32_t handle = cr__tcp_find(host->tcp, host, name);
    return handle && !cr__tcp_wait_may_end(host, handle) ? -EADDRNOTAVAIL : 0; /* as Linux: the port may be had, but not to there */
}

static void take_opts(struct cr__tcp *tcp, const struct cr__tcp_opts *opts)
{
    if (!opts)
        return;
    if (opts->send_limit_bytes)
        tcp->snd_limit_bytes = opts->send_limit_bytes;
    if (opts->recv_limit_bytes)
        tcp->rcv_limit_bytes = opts->recv_limit_bytes;
    tcp->keepalive_ms = opts->keepalive_ms;
    tcp->user_timeout_ms = opts->user_timeout_ms;
    tcp->flags |= (opts->nagle ? CR__TCP_NAGLE : 0) | (opts->keepalive ? CR__TCP_KEEPALIVE : 0);
}

int cr__tcp_dial(struct cr__host *host, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, uint16_t to_port,
                 const struct cr__tcp_opts *opts)
{
    struct cr__tcp_name name = {.peer = *to, .peer_port = to_port};
    int error = name_of(host, &name, from, from_port);
    if (error)
        return error;
    struct cr__tcp *tcp = cr__tcp_new(host, &name);
    if (!tcp)
        return -ENOMEM;
    take_opts(tcp, opts);
    tcp->state = CR__TCP_SYN_SENT;
    uint32_t old = cr__tcp_find(host->tcp, host, &name); /* in TIME-WAIT: name_of has looked */
    tcp->snd_una = old ? cr__tcp_wait_end(host, old) : cr__tcp_isn(host, &name);
    tcp->snd_nxt = tcp->snd_una + 1;
    tcp->ts_offset = cr__tcp_ts_offset(host, &name);
    tcp->rcv_scale = cr__tcp_rcv_scale(host->tcp, tcp->rcv_limit_bytes);
    tcp->due_ns = host->now_ns + (int64_t)tcp->rto_us * 1000;
    cr__tcp_insert(host, tcp, CR__KIND_CONN);
    host->tcp->opened++;
    cr__tcp_send_empty(tcp, host->tcp->config.ecn ? CR__SYN | CR__ECE | CR__CWR : CR__SYN, tcp->snd_una);
    if ((tcp->flags & CR__TCP_SOFT) && tcp->error == ENETUNREACH) {
        tcp->flags |= CR__TCP_WAITS; /* nobody has it yet who could be told */
        cr__tcp_end(tcp, ENETUNREACH);
        cr__tcp_free(tcp);
        return -ENETUNREACH;
    }
    cr__tcp_arm(tcp);
    *out = tcp;
    return 0;
}

/* ---- Sending ----------------------------------------------------------------------------------------------------------- */

/* What is still to be copied of an iovec. */
struct source {
    const struct iovec *iov;
    int count;
    size_t done_bytes; /* of the first */
};

static void copy_from(struct source *source, unsigned char *to, size_t size_bytes)
{
    while (size_bytes > 0) {
        size_t left = source->iov->iov_len - source->done_bytes, n = left < size_bytes ? left : size_bytes;
        memcpy(to, (const char *)source->iov->iov_base + source->done_bytes, n);
        to += n;
        size_bytes -= n;
        source->done_bytes += n;
        if (source->done_bytes == source->iov->iov_len) {
            source->iov++;
            source->done_bytes = 0;
        }
    }
}

static size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* While there are packets for it. */
static bool may_queue(const struct cr__tcp *tcp)
{
    uint32_t left = cr__packets_left(tcp->host->packets);
    if (CR__LIKELY(left > CR__LEFT_LITTLE))
        return true;
    return left > CR__LEFT_NO_SEND && (!tcp->flight || tcp->flight->send.count < CR__LITTLE_PACKETS);
}

/* The last of the send queue, if it has not left and has room; else a new one. NULL: no packet, or as many as the bound takes. */
static struct cr_packet *packet_to_fill(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    struct cr_packet *packet = flight->unsent ? flight->send.last : NULL;
    if (packet && cr__sent_of(packet)->payload_bytes < tcp->mss_bytes)
        return packet;
    bool full = flight->send.count * CR__SENT_LEAST_BYTES >= tcp->snd_limit_bytes;
    packet = full || !may_queue(tcp) ? NULL : cr__packet_get(tcp->host->packets);
    if (!packet)
        return NULL;
    uint32_t begin = flight->send.first ? cr__sent_of(flight->send.first)->seq : tcp->snd_una;
    if (flight->send.first) {
        const struct cr__sent *last = cr__sent_of(flight->send.last);
        begin = last->seq + last->payload_bytes;
    }
    *cr__sent_of(packet) = (struct cr__sent){.seq = begin, .payload_at = (uint16_t)(packet->data - (unsigned char *)packet)};
    cr__sendq_push(&flight->send, packet);
    if (!flight->unsent)
        flight->unsent = packet;
    return packet;
}

static size_t queue_bytes(struct cr__tcp *tcp, struct source *source, size_t size_bytes)
{
    size_t taken = 0;
    while (taken < size_bytes) {
        struct cr_packet *packet = packet_to_fill(tcp);
        if (!packet)
            break;
        struct cr__sent *sent = cr__sent_of(packet);
        size_t n = tcp->mss_bytes - (size_t)sent->payload_bytes;
        n = n < size_bytes - taken ? n : size_bytes - taken;
        copy_from(source, (unsigned char *)packet + sent->payload_at + sent->payload_bytes, n);
        sent->payload_bytes = (uint16_t)(sent->payload_bytes + n);
        packet->size_bytes = sent->payload_bytes;
        taken += n;
    }
    tcp->flight->send_bytes += (uint32_t)taken;
    return taken;
}

static ssize_t no_packet(struct cr__tcp *tcp)
{
    cr__host_count(tcp->host, CR__DROP_NO_PACKET);
    tcp->flags |= CR__TCP_NO_PACKET | CR__TCP_WANTS_ROOM;
    tcp->due_ns = tcp->host->now_ns + RETRY_NS;
    cr__tcp_finish(tcp);
    return -ENOBUFS;
}

size_t cr__tcp_send_room(const struct cr__tcp *tcp)
{
    uint32_t used = tcp->flight ? cr__send_used(tcp->flight) : 0;
    return used < tcp->snd_limit_bytes ? tcp->snd_limit_bytes - used : 0;
}

/* Why it ended is told once, to who sends or receives first, as by Linux' sockets. 0: for no reason, or it has been told. */
static int take_error(struct cr__tcp *tcp)
{
    int error = tcp->error;
    tcp->error = 0;
    return -error;
}

static int may_send(struct cr__tcp *tcp)
{
    if (tcp->state == CR__TCP_CLOSED)
        return tcp->error ? take_error(tcp) : -EPIPE;
    if (tcp->state < CR__TCP_ESTABLISHED)
        return -ENOTCONN;
    return tcp->flags & CR__TCP_FIN_QUEUED ? -EPIPE : 0;
}

ssize_t cr__tcp_send(struct cr__tcp *tcp, const struct iovec *iov, int count, bool more)
{
    int refused = may_send(tcp);
    if (refused)
        return refused;
    size_t size_bytes = iov_bytes(iov, count), room = cr__tcp_send_room(tcp);
    if (size_bytes == 0) {
        if (!more && (tcp->flags & CR__TCP_MORE)) {
            tcp->flags &= ~(uint32_t)CR__TCP_MORE;
            cr__tcp_finish(tcp);
        }
        return 0;
    }
    if (room == 0) {
        tcp->flags |= CR__TCP_WANTS_ROOM;
        return -EAGAIN;
    }
    if (!may_queue(tcp) || !cr__tcp_flight(tcp))
        return no_packet(tcp);
    struct source source = {.iov = iov, .count = count};
    while (source.iov->iov_len == 0)
        source.iov++;
    size_t taken = queue_bytes(tcp, &source, size_bytes < room ? size_bytes : room);
    if (taken == 0)
        return no_packet(tcp);
    if (more) {
        tcp->flags |= CR__TCP_MORE;
    } else {
        tcp->flags &= ~(uint32_t)CR__TCP_MORE;
        cr__sent_of(tcp->flight->send.last)->flags |= CR__SENT_PUSH;
    }
    cr__tcp_finish(tcp);
    return (ssize_t)taken;
}

/* ---- Receiving ---------------------------------------------------------------------------------------------------------- */

bool cr__tcp_readable(const struct cr__tcp *tcp)
{
    return (tcp->flight && tcp->flight->receive_bytes > 0) || (tcp->flags & CR__TCP_FIN_RECEIVED) || tcp->state == CR__TCP_CLOSED;
}

/* Why there is nothing to be read. After the peer's end there is nothing else to be told, whatever came then. */
static ssize_t nothing(struct cr__tcp *tcp)
{
    if (tcp->flags & CR__TCP_FIN_RECEIVED)
        return 0;
    if (tcp->state == CR__TCP_CLOSED)
        return take_error(tcp);
    return tcp->state < CR__TCP_ESTABLISHED ? -ENOTCONN : -EAGAIN;
}

/* Whether the peer is to be told now of room that has come to be. By RFC 9293, 3.8.6.2.2, two full segments or half the buffer are worth telling; while the window is wide that can wait for the next ACK, as
 * with Linux: then it must be twice what it was, or a quarter of the buffer more. */
static bool is_worth_an_ack(const struct cr__tcp *tcp)
{
    uint32_t offered = tcp->rcv_edge - tcp->rcv_nxt, limit = tcp->rcv_limit_bytes;
    if (tcp->state == CR__TCP_CLOSED || (tcp->flags & CR__TCP_FIN_RECEIVED) || offered > limit - limit / 4)
        return false;
    uint32_t window = cr__tcp_window(tcp), gain = window > offered ? window - offered : 0;
    uint32_t worth = 2u * tcp->mss_bytes < limit / 2 ? 2u * tcp->mss_bytes : limit / 2;
    return gain >= worth && (gain >= offered || gain >= limit / 4);
}

static void made_room(struct cr__tcp *tcp)
{
    if (is_worth_an_ack(tcp)) {
        tcp->flags |= CR__TCP_ACK_NOW;
        cr__tcp_finish(tcp);
    } else {
        cr__tcp_settle(tcp);
    }
}

static size_t copy_out(struct cr_packet *packet, size_t from, struct iovec *to)
{
    size_t left = packet->size_bytes - from, n = left < to->iov_len ? left : to->iov_len;
    memcpy(to->iov_base, packet->data + from, n);
    to->iov_base = (char *)to->iov_base + n;
    to->iov_len -= n;
    return n;
}

ssize_t cr__tcp_recv(struct cr__tcp *tcp, const struct iovec *iov, int count)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight || flight->receive_bytes == 0)
        return nothing(tcp);
    struct cr_packet *packet;
    size_t taken = 0;
    int i = 0;
    struct iovec to = {0};
    while ((packet = flight->receive.first) != NULL) {
        while (to.iov_len == 0 && i < count)
            to = iov[i++];
        if (to.iov_len == 0)
            break;
        size_t n = copy_out(packet, 0, &to);
        taken += n;
        if (n == packet->size_bytes)
            cr__packet_put(tcp->host->packets, cr__packets_pop(&flight->receive));
        else
            cr_packet_pull(packet, n);
    }
    flight->receive_bytes -= (uint32_t)taken;
    made_room(tcp);
    return (ssize_t)taken;
}

ssize_t cr__tcp_recv_lend(struct cr__tcp *tcp, struct cr_packet **out)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight || flight->receive_bytes == 0)
        return nothing(tcp);
    struct cr_packet *packet = cr__packets_pop(&flight->receive);
    cr__received_of(packet)->seq = packet->size_bytes; /* what counts as lent, whatever the borrower does with it */
    flight->receive_bytes -= packet->size_bytes;
    flight->lent_bytes += packet->size_bytes;
    flight->lent++;
    *out = packet;
    return packet->size_bytes;
}

void cr__tcp_recv_return(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    CR__ASSERT(flight && flight->lent > 0);
    flight->lent_bytes -= cr__received_of(packet)->seq;
    flight->lent--;
    cr__packet_put(tcp->host->packets, packet);
    made_room(tcp);
}

/* ---- Ending ------------------------------------------------------------------------------------------------------------- */

/* No more to send (RFC 9293, 3.10.4): the FIN leaves after what is queued. */
static void queue_fin(struct cr__tcp *tcp)
{
    tcp->flags = (tcp->flags | CR__TCP_FIN_QUEUED) & ~(uint32_t)CR__TCP_MORE;
    if (tcp->state == CR__TCP_ESTABLISHED)
        tcp->state = CR__TCP_FIN_WAIT_1;
    else if (tcp->state == CR__TCP_CLOSE_WAIT)
        tcp->state = CR__TCP_LAST_ACK;
    if (!cr__tcp_flight(tcp)) { /* by the timer, then */
        tcp->flags |= CR__TCP_NO_PACKET;
        tcp->due_ns = tcp->host->now_ns + RETRY_NS;
    }
}

int cr__tcp_shutdown(struct cr__tcp *tcp)
{
    if (tcp->state == CR__TCP_CLOSED || tcp->state < CR__TCP_ESTABLISHED)
        return -ENOTCONN;
    if (!(tcp->flags & CR__TCP_FIN_QUEUED))
        queue_fin(tcp);
    cr__tcp_finish(tcp);
    return 0;
}

void cr__tcp_abort(struct cr__tcp *tcp)
{
    tcp->flags |= CR__TCP_ORPHAN;
    tcp->host->tcp->orphans++;
    if (tcp->state >= CR__TCP_SYN_RECEIVED && tcp->state != CR__TCP_TIME_WAIT)
        cr__tcp_send_empty(tcp, CR__RST | CR__ACK, tcp->snd_nxt);
    if (tcp->state != CR__TCP_CLOSED)
        cr__tcp_end(tcp, ECONNABORTED);
    cr__tcp_finish(tcp);
}

void cr__tcp_close(struct cr__tcp *tcp)
{
    bool unread = tcp->flight && (tcp->flight->receive_bytes > 0 || tcp->flight->early.first);
    bool over = tcp->state == CR__TCP_CLOSED || tcp->state == CR__TCP_SYN_SENT;
    bool many = tcp->host->tcp->orphans >= ORPHANS_MOST;
    if (many && !over && !unread)
        cr__host_count(tcp->host, CR__DROP_TCP_ORPHAN);
    if (over || unread || many) {
        cr__tcp_abort(tcp); /* sends a RST if there is a peer who knows of it */
        return;
    }
    tcp->flags |= CR__TCP_ORPHAN;
    tcp->host->tcp->orphans++;
    if (!(tcp->flags & CR__TCP_FIN_QUEUED))
        queue_fin(tcp);
    cr__tcp_fin_wait(tcp);
    cr__tcp_finish(tcp);
}
