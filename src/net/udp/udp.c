#include "net/udp/udp.h"

#include "net/wire/wire.h"

#define HEADER_BYTES ((size_t)sizeof(struct cr__udp_header))
#define DEFAULT_LIMIT_BYTES ((uint32_t)512 << 10)
#define PIECE_BYTES ((size_t)(CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES) & ~(size_t)7) /* of a chain: even, so sums of pieces add up */

static const struct cr__ip none;

static bool is_none(const struct cr__ip *ip)
{
    return cr__ip_equal(ip, &none);
}

#define LEFT_LEAST 5 /* sixteenths of all packets: what is left then is for those who may not lose any */

static struct cr__datagram *datagram_of(struct cr_packet *packet)
{
    return (struct cr__datagram *)(void *)&packet->own;
}

static void drop(struct cr__host *host, struct cr_packet *chain, enum cr__drop cause)
{
    cr__host_count(host, cause);
    cr__host_put(host, chain);
}

/* ---- Sockets by port ----------------------------------------------------------------------------------------- */

static struct cr__udp **bucket_of(struct cr__host *host, uint16_t port)
{
    return &host->udp->buckets[port % CR__UDP_BUCKETS];
}

/* Two that could get the same datagram: both hear everybody (peer_port 0), or the same peer. Who is connected gets its peer's before others do, so it is in nobody's way else. */
static bool is_taken(struct cr__host *host, const struct cr__ip *ip, uint16_t port, const struct cr__ip *peer, uint16_t peer_port)
{
    for (const struct cr__udp *udp = *bucket_of(host, port); udp; udp = udp->next)
        if (udp->local_port == port && udp->peer_port == peer_port && cr__ip_equal(&udp->peer, peer) && (is_none(&udp->local) || is_none(ip) || cr__ip_equal(&udp->local, ip)))
            return true;
    return false;
}

/* Begins at a place that is not to be guessed, and takes the next one that is free for who hears everybody, and for who talks to that peer (RFC 6056, 3.3.2). 0: none. */
static uint16_t choose_port(struct cr__host *host, const struct cr__ip *ip, const struct cr__ip *peer, uint16_t peer_port)
{
    uint64_t count = ++host->udp->ports_chosen, at = cr__host_hash(host, &count, sizeof(count)) % CR__UDP_PORTS;
    for (uint32_t i = 0; i < CR__UDP_PORTS; i++, at = (at + 1) % CR__UDP_PORTS) {
        uint16_t port = (uint16_t)(CR__UDP_PORT_FIRST + at);
        if (!is_taken(host, ip, port, &none, 0) && (peer_port == 0 || !is_taken(host, ip, port, peer, peer_port)))
            return port;
    }
    return 0;
}

static void put_into_bucket(struct cr__udp *udp)
{
    struct cr__udp **bucket = bucket_of(udp->host, udp->local_port);
    udp->next = *bucket;
    *bucket = udp;
}

static void take_from_bucket(struct cr__udp *udp)
{
    struct cr__udp **link = bucket_of(udp->host, udp->local_port);
    while (*link != udp)
        link = &(*link)->next;
    *link = udp->next;
}

int cr__udp_open(struct cr__host *host, struct cr__udp **out, const struct cr__ip *ip, uint16_t port)
{
    struct cr__udp_layer *layer = host->udp;
    if (ip && !cr__ip_is_ours(host, ip))
        return -EADDRNOTAVAIL;
    ip = ip ? ip : &none;
    bool chosen = port == 0;
    if (chosen && (port = choose_port(host, ip, &none, 0)) == 0)
        return -EADDRNOTAVAIL;
    if (is_taken(host, ip, port, &none, 0))
        return -EADDRINUSE;
    struct cr__udp *udp = cr__slab_get(&layer->sockets);
    if (!udp)
        return -ENOMEM;
    *udp = (struct cr__udp){.host = host, .local = *ip, .local_port = port, .port_is_chosen = chosen, .limit_bytes = layer->config.recv_limit_bytes};
    put_into_bucket(udp);
    layer->count++;
    *out = udp;
    return 0;
}

static void drop_queue(struct cr__udp *udp)
{
    for (struct cr_packet *packet = udp->first; packet;) {
        struct cr_packet *next = datagram_of(packet)->next;
        cr__host_put(udp->host, packet);
        packet = next;
    }
    udp->first = udp->last = NULL;
    udp->held_bytes = 0;
}

void cr__udp_close(struct cr__udp *udp)
{
    struct cr__udp_layer *layer = udp->host->udp;
    take_from_bucket(udp);
    drop_queue(udp);
    layer->count--;
    cr__slab_put(&layer->sockets, udp);
}

/* Nobody else may have the same two ends. A port that nobody asked for gives way to another one. */
static int make_way(struct cr__udp *udp, const struct cr__ip *local, const struct cr__ip *to, uint16_t port)
{
    if (!is_taken(udp->host, local, udp->local_port, to, port))
        return 0;
    uint16_t other = udp->port_is_chosen ? choose_port(udp->host, local, to, port) : 0;
    if (other == 0)
        return -EADDRINUSE;
    take_from_bucket(udp);
    udp->local_port = other;
    put_into_bucket(udp);
    return 0;
}

int cr__udp_connect(struct cr__udp *udp, const struct cr__ip *to, uint16_t port)
{
    struct cr__ip from;
    if (udp->local_is_peers) {
        udp->local = none;
        udp->local_is_peers = false;
    }
    udp->peer = none;
    udp->peer_port = 0;
    if (!to)
        return 0;
    if (!is_none(&udp->local) && cr__ip_is_v4(&udp->local) != cr__ip_is_v4(to))
        return -EAFNOSUPPORT;
    if (port == 0)
        return -EINVAL;
    int error = cr__ip_source(udp->host, to, &from);
    if (error == 0)
        error = make_way(udp, is_none(&udp->local) ? &from : &udp->local, to, port);
    if (error)
        return error;
    drop_queue(udp);
    if (is_none(&udp->local)) {
        udp->local = from;
        udp->local_is_peers = true;
    }
    udp->peer = *to;
    udp->peer_port = port;
    return 0;
}

/* ---- Sending ------------------------------------------------------------------------------------------------- */

static int take_error(struct cr__udp *udp)
{
    int error = udp->error;
    udp->error = 0;
    return -error;
}

/* Where in what the user gives, or wants, the next byte is. */
struct place {
    const struct iovec *iov;
    int count;
    size_t at;
};

/* The next stretch of up to `most` bytes there; 0: the end. */
static size_t stretch(struct place *place, uint8_t **out, size_t most)
{
    while (place->count > 0 && place->at == place->iov->iov_len) {
        place->iov++;
        place->count--;
        place->at = 0;
    }
    if (place->count == 0)
        return 0;
    size_t size_bytes = place->iov->iov_len - place->at;
    size_bytes = size_bytes < most ? size_bytes : most;
    *out = (uint8_t *)place->iov->iov_base + place->at;
    place->at += size_bytes;
    return size_bytes;
}

static void fill(struct cr_packet *packet, struct place *place, size_t size_bytes)
{
    uint8_t *from;
    for (size_t some; size_bytes > 0 && (some = stretch(place, &from, size_bytes)) > 0; size_bytes -= some) {
        memcpy(packet->data + packet->size_bytes, from, some);
        packet->size_bytes = (uint16_t)(packet->size_bytes + some);
    }
}

/* The payload in packets: one, if it fits. NULL: there are none. */
static struct cr_packet *pack(struct cr__host *host, struct place place, size_t size_bytes)
{
    struct cr_packet *first = NULL, **link = &first;
    do {
        size_t some = size_bytes < PIECE_BYTES ? size_bytes : PIECE_BYTES;
        struct cr_packet *packet = cr__packet_get(host->packets);
        if (!packet) {
            cr__host_count(host, CR__DROP_NO_PACKET);
            cr__host_put(host, first);
            return NULL;
        }
        packet->next = NULL;
        fill(packet, &place, some);
        *link = packet;
        link = &packet->next;
        size_bytes -= some;
    } while (size_bytes > 0);
    return first;
}

static uint32_t sum_of(const struct cr_packet *chain, uint32_t sum)
{
    for (; chain; chain = chain->next) {
        sum = cr__wire_sum(sum, chain->data, chain->size_bytes);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* `size_bytes` of payload, whose packets are at hand. */
static int send(struct cr__udp *udp, struct cr_packet *chain, size_t size_bytes, const struct cr__ip *from, const struct cr__ip *to, uint16_t port)
{
    struct cr__host *host = udp->host;
    struct cr__udp_header *header = (struct cr__udp_header *)cr_packet_push(chain, HEADER_BYTES);
    *header = (struct cr__udp_header){0};
    cr__wire_put16(header->from_port, udp->local_port);
    cr__wire_put16(header->to_port, port);
    cr__wire_put16(header->length, (uint16_t)(size_bytes + HEADER_BYTES));
    if (host->config.no_checksums && !chain->next && cr__ip_is_v4(to)) {
        chain->flags |= CR_PACKET_CHECKED; /* in one piece nobody spoils it, and 0 says that there is none */
    } else {
        uint16_t checksum = cr__wire_checksum(sum_of(chain, cr__ip_pseudo_sum(from, to, CR__IP_UDP, (uint32_t)(size_bytes + HEADER_BYTES))));
        cr__wire_put16(header->checksum, checksum ? checksum : 0xffff);
    }
    return cr__ip_send(host, chain, from, to, CR__IP_UDP, 0, true);
}

/* From where; 0 or why not. */
static int source(struct cr__udp *udp, const struct cr__ip *to, const struct cr__ip *from, struct cr__ip *out)
{
    if (from || !is_none(&udp->local)) {
        *out = from ? *from : udp->local;
        if (from && !cr__ip_is_ours(udp->host, from))
            return -EADDRNOTAVAIL;
        return cr__ip_is_v4(out) == cr__ip_is_v4(to) ? 0 : -EAFNOSUPPORT;
    }
    return cr__ip_source(udp->host, to, out);
}

ssize_t cr__udp_send(struct cr__udp *udp, const struct iovec *iov, int count, const struct cr__ip *to, uint16_t port, const struct cr__ip *from)
{
    struct cr__ip chosen;
    size_t size_bytes = 0;
    if (udp->error)
        return take_error(udp);
    if (!to && udp->peer_port == 0)
        return -EDESTADDRREQ;
    if (!to) {
        to = &udp->peer;
        port = udp->peer_port;
    }
    if (port == 0)
        return -EINVAL;
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len > CR__UDP_MOST6 - size_bytes)
            return -EMSGSIZE;
        size_bytes += iov[i].iov_len;
    }
    if (cr__ip_is_v4(to) && size_bytes > CR__UDP_MOST4)
        return -EMSGSIZE;
    int error = source(udp, to, from, &chosen);
    if (error)
        return error;
    struct cr_packet *chain = pack(udp->host, (struct place){iov, count, 0}, size_bytes);
    if (!chain)
        return -ENOBUFS;
    udp->last_to = *to;
    error = send(udp, chain, size_bytes, &chosen, to, port);
    if (error)
        return error;
    udp->sent++;
    return (ssize_t)size_bytes;
}

/* ---- Arriving ------------------------------------------------------------------------------------------------ */

/* Whom it is for, of those at that port: who is connected to the sender, else who has the address, else who has none. */
static struct cr__udp *find(struct cr__host *host, const struct cr__ip *local, uint16_t local_port, const struct cr__ip *peer, uint16_t peer_port)
{
    struct cr__udp *best = NULL;
    int best_fit = -1;
    for (struct cr__udp *udp = *bucket_of(host, local_port); udp; udp = udp->next) {
        if (udp->local_port != local_port)
            continue;
        int fit = 0;
        if (!is_none(&udp->local)) {
            if (!cr__ip_equal(&udp->local, local))
                continue;
            fit = 1;
        }
        if (udp->peer_port != 0) {
            if (udp->peer_port != peer_port || !cr__ip_equal(&udp->peer, peer))
                continue;
            fit += 2;
        }
        if (fit > best_fit) {
            best = udp;
            best_fit = fit;
        }
    }
    return best;
}

static void tell(struct cr__udp *udp, unsigned events)
{
    if (udp->host->udp->config.event)
        udp->host->udp->config.event(udp, events);
}

static uint32_t buffers_bytes(const struct cr_packet *chain)
{
    uint32_t size_bytes = 0;
    for (; chain; chain = chain->next)
        size_bytes += CR_PACKET_BYTES;
    return size_bytes;
}

static uint8_t address_index(const struct cr__host *host, const struct cr__ip *ip)
{
    for (unsigned i = 0; i < host->config.address_count; i++)
        if (cr__ip_equal(&host->config.addresses[i].ip, ip))
            return (uint8_t)i;
    return CR__UDP_TO_MANY;
}

/* The chain's data is the payload. It is the callee's. */
static void queue(struct cr__udp *udp, struct cr_packet *chain, const struct cr__datagram *what)
{
    uint32_t buffers = buffers_bytes(chain);
    if (udp->held_bytes + buffers > udp->limit_bytes || CR__UNLIKELY(cr__packets_left(udp->host->packets) <= LEFT_LEAST)) {
        udp->full++;
        drop(udp->host, chain, CR__DROP_UDP_FULL);
        return;
    }
    bool was_empty = !udp->first;
    *datagram_of(chain) = *what;
    if (udp->first)
        datagram_of(udp->last)->next = chain;
    else
        udp->first = chain;
    udp->last = chain;
    udp->held_bytes += buffers;
    udp->received++;
    if (was_empty)
        tell(udp, CR__UDP_READABLE);
}

/* To each that is open for all addresses: all but the last get a copy. */
static void queue_many(struct cr__host *host, const struct cr__arrival *in, uint16_t to_port, const struct cr__datagram *what)
{
    struct cr__udp *last = NULL;
    for (struct cr__udp *udp = *bucket_of(host, to_port); udp; udp = udp->next) {
        if (udp->local_port != to_port || !is_none(&udp->local))
            continue;
        if (last) {
            struct cr_packet *copy = in->packet->next ? NULL : cr__packet_copy(host->packets, in->packet);
            if (copy) {
                copy->next = NULL;
                queue(last, copy, what);
            } else {
                cr__host_count(host, CR__DROP_NO_PACKET);
            }
        }
        last = udp;
    }
    if (last)
        queue(last, in->packet, what);
    else
        drop(host, in->packet, CR__DROP_UDP_NO_PORT);
}

/* Whether its checksum is right, or it may go without. */
static bool is_sound(const struct cr__arrival *in, const struct cr__udp_header *header, size_t length_bytes)
{
    bool v4 = cr__ip_is_v4(&in->from);
    if (in->packet->flags & CR_PACKET_CHECKED)
        return true;
    if (cr__wire_get16(header->checksum) == 0)
        return v4; /* RFC 8200, 8.1 */
    return cr__wire_checksum(sum_of(in->packet, cr__ip_pseudo_sum(&in->from, &in->to, CR__IP_UDP, (uint32_t)length_bytes))) == 0;
}

static void arrived(struct cr__host *host, const struct cr__arrival *in)
{
    struct cr_packet *packet = in->packet;
    const struct cr__udp_header *header = (const struct cr__udp_header *)packet->data;
    size_t length_bytes = packet->size_bytes < HEADER_BYTES ? 0 : cr__wire_get16(header->length), there_bytes = packet->next ? cr__chain_bytes(packet) : packet->size_bytes;
    if (length_bytes < HEADER_BYTES || length_bytes > there_bytes || (packet->next && length_bytes != there_bytes) || cr__wire_get16(header->to_port) == 0) {
        drop(host, packet, CR__DROP_UDP_MALFORMED);
        return;
    }
    if (!packet->next)
        packet->size_bytes = (uint16_t)length_bytes;
    if (!is_sound(in, header, length_bytes)) {
        drop(host, packet, CR__DROP_UDP_CHECKSUM);
        return;
    }
    struct cr__datagram what = {
        .from = in->from,
        .port = cr__wire_get16(header->from_port),
        .to = CR__UDP_TO_MANY,
        .tos = in->tos,
        .size_bytes = (uint32_t)(length_bytes - HEADER_BYTES),
    };
    uint16_t to_port = cr__wire_get16(header->to_port);
    if (in->broadcast) {
        cr_packet_pull(packet, HEADER_BYTES);
        queue_many(host, in, to_port, &what);
        return;
    }
    struct cr__udp *udp = find(host, &in->to, to_port, &in->from, what.port);
    if (!udp) {
        cr__icmp_unreachable(host, in, CR__PORT_UNREACHABLE);
        drop(host, packet, CR__DROP_UDP_NO_PORT);
        return;
    }
    what.to = address_index(host, &in->to);
    cr_packet_pull(packet, HEADER_BYTES);
    queue(udp, packet, &what);
}

/* RFC 1122, 4.1.3.3. Who is not connected would not know which of his datagrams it is about; that a path is too narrow is noted for him all the same. */
static void failed(struct cr__host *host, const struct cr__ip_error *error)
{
    static const uint16_t codes[] = {
        [CR__NET_UNREACHABLE] = ENETUNREACH, [CR__HOST_UNREACHABLE] = EHOSTUNREACH, [CR__PORT_UNREACHABLE] = ECONNREFUSED, [CR__PROTOCOL_UNREACHABLE] = ENOPROTOOPT,
        [CR__PROHIBITED] = EHOSTUNREACH,     [CR__TIME_EXCEEDED] = EHOSTUNREACH,
    };
    const struct cr__udp_header *header = (const struct cr__udp_header *)error->transport;
    struct cr__udp *udp = find(host, &error->from, cr__wire_get16(header->from_port), &error->to, cr__wire_get16(header->to_port));
    if (!udp || !cr__ip_equal(&udp->last_to, &error->to))
        return;
    if (error->trouble == CR__TOO_BIG) {
        cr__ip_too_big(host, &error->to, error->mtu_bytes);
        return;
    }
    if (udp->peer_port == 0)
        return;
    udp->error = codes[error->trouble];
    tell(udp, CR__UDP_ERROR);
}

/* ---- Receiving ----------------------------------------------------------------------------------------------- */

ssize_t cr__udp_recv_lend(struct cr__udp *udp, struct cr_packet **out, struct cr__udp_from *from)
{
    struct cr_packet *chain = udp->first;
    if (udp->error)
        return take_error(udp);
    if (!chain)
        return -EAGAIN;
    struct cr__datagram *what = datagram_of(chain);
    uint32_t size_bytes = what->size_bytes;
    if (from) {
        *from = (struct cr__udp_from){.from = what->from, .port = what->port, .tos = what->tos, .size_bytes = size_bytes};
        if (what->to != CR__UDP_TO_MANY)
            from->to = udp->host->config.addresses[what->to].ip;
    }
    udp->first = what->next;
    udp->held_bytes -= buffers_bytes(chain);
    *out = chain;
    return (ssize_t)size_bytes;
}

void cr__udp_recv_return(struct cr__host *host, struct cr_packet *chain)
{
    cr__host_put(host, chain);
}

ssize_t cr__udp_recv(struct cr__udp *udp, const struct iovec *iov, int count, struct cr__udp_from *from)
{
    struct cr_packet *chain;
    ssize_t r = cr__udp_recv_lend(udp, &chain, from);
    if (r < 0)
        return r;
    struct place place = {iov, count, 0};
    size_t copied = 0;
    for (const struct cr_packet *packet = chain; packet; packet = packet->next) {
        uint8_t *to;
        size_t at = 0;
        for (size_t some; at < packet->size_bytes && (some = stretch(&place, &to, packet->size_bytes - at)) > 0; at += some)
            memcpy(to, packet->data + at, some);
        copied += at;
    }
    cr__host_put(udp->host, chain);
    return (ssize_t)copied;
}

/* ---- Life ---------------------------------------------------------------------------------------------------- */

int cr__udp_init(struct cr__host *host, const struct cr__udp_config *config)
{
    struct cr__udp_layer *layer = cr__mem_alloc_aligned(sizeof(*layer), CR__MEM_OTHER);
    if (!layer)
        return -ENOMEM;
    layer->config = *config;
    if (layer->config.recv_limit_bytes == 0)
        layer->config.recv_limit_bytes = DEFAULT_LIMIT_BYTES;
    cr__slab_init(&layer->sockets, sizeof(struct cr__udp), CR__MEM_CONNS);
    host->udp = layer;
    host->above.udp = arrived;
    host->above.udp_error = failed;
    return 0;
}

void cr__udp_fini(struct cr__host *host)
{
    struct cr__udp_layer *layer = host->udp;
    if (!layer)
        return;
    for (unsigned i = 0; i < CR__UDP_BUCKETS; i++)
        while (layer->buckets[i])
            cr__udp_close(layer->buckets[i]);
    cr__slab_fini(&layer->sockets);
    cr__mem_free(layer, sizeof(*layer), CR__MEM_OTHER);
    host->udp = NULL;
    host->above.udp = NULL;
    host->above.udp_error = NULL;
}
