/* A network on all workers of its runtime. Each has a struct cr__network of its own: a host with the same addresses, connections, neighbours, listeners, and a service that drives
 * it; so nothing is shared on the way of a segment, and no lock taken. The link stays with the worker that opened it, the first; the others' link is a lane, two rings between them
 * and it:
 *
 *     link --> first: whose is it? ---- its own: host        first's host --> out --> link
 *                                  \--- lane's `in` --> that worker's host --> lane's `out` --gathered into first's out--^
 *
 * Whose a segment is, is a keyed hash of its two ends (cr__share_of), the same for both directions; so a connection stays where its first segment came to, and who dials chooses a
 * port whose answers come to him (cr__tcp_port). An ICMP error goes where what it is about goes. Answers of ARP and NDP go to all, since each knows its neighbours for itself. All
 * else is the first one's: UDP, echoes, requests for a neighbour's address, and fragments, of which TCP's, once they are whole, go on to whom they are for (cr__spread_arrival).
 *
 * Handing over is a burst's work: rings are filled, then published, then who got something is poked, once. A poke finds its turn, and the turn looks at the ring, so a lane need
 * not be armed. A packet that changes workers has one reference: of those that arrive that is so, and of those that leave cr__link_take sees to it (a link would have copied them
 * as well).
 *
 * Invariants:
 *   1. Only the first touches `filled`, and the heads of `out` rings; only its worker touches a part. `parts` is written while it is opened, before anybody else has the network.
 *   2. Nobody is poked whose service may be closed: all parts fall silent before the first service is closed (cr__spread_each, twice).
 *   3. `users` counts parts, and listeners (everywhere.c). A lane stays until the last is gone: another one's turn may still look at it; and so does a part's memory, in which it
 *      says that it is closed.
 *
 * Rejected: a table of flows at the first, so that a listener's connections could all go to the worker that accepts (it would be read for each segment, and written for each
 * connection, where a hash needs nothing). Who wants his connections on one worker has that as long as the network is not spread. Datagrams dealt out by port, each socket at home
 * on the worker that opened it: of a long one only the first fragment says the port, and what is put together at the first is a chain of packets, which a ring does not carry. */
#include "net/link/kinds.h"
#include "net/link/ring.h"
#include "net/socket/socket.h"
#include "os/os.h"

struct lane {
    struct cr_link link; /* the part's */
    struct cr__spread *spread;
    unsigned filled; /* of `in`, not yet published */
    struct cr__ring in, out;
};

struct part {
    struct cr__network *network;
    struct lane *lane; /* NULL: the first's */
};

struct cr__spread {
    _Atomic unsigned users;
    unsigned count, first;
    bool opened;         /* all parts are there */
    bool closing;        /* nothing is dealt out any more */
    bool odd;            /* what the host of the first is working on may be somebody else's after all */
    _Atomic bool over;   /* the runtime has ended */
    struct part parts[]; /* by worker */
};

enum { EVERYBODY = -1 };

static size_t spread_bytes(unsigned count)
{
    return sizeof(struct cr__spread) + count * sizeof(struct part);
}

unsigned cr__spread_count(const struct cr__spread *spread)
{
    return spread->count;
}

struct cr__network *cr__spread_at(const struct cr__spread *spread, unsigned worker)
{
    return spread->parts[worker].network;
}

struct cr__network *cr__spread_first(struct cr__network *network)
{
    return network->spread ? network->spread->parts[network->spread->first].network : network;
}

bool cr__spread_is_closing(const struct cr__network *network)
{
    return network->spread && network->spread->closing;
}

struct cr__network *cr__spread_here(struct cr__network *network)
{
    struct cr__worker *w = cr__worker_here();
    return network->spread && w && w->sched == network->worker->sched ? network->spread->parts[w->index].network : network;
}

struct cr__network *cr__spread_whose(struct cr__network *network, const struct cr__ip *local, uint16_t port, const struct cr__ip *peer, uint16_t peer_port)
{
    return network->spread ? network->spread->parts[cr__share_of(&network->host.config.share, local, port, peer, peer_port)].network : network;
}

struct cr__share cr__spread_share(unsigned count, unsigned mine)
{
    struct cr__share share = {.count = count, .mine = mine};
    if (cr__os_random(share.key, sizeof(share.key)) != (int)sizeof(share.key))
        share.count = 0;
    return share;
}

/* ---- A lane as its part's link ------------------------------------------------------------------------------------ */

static struct lane *lane_of(const struct cr_link *link)
{
    return CR__CONTAINER(link, struct lane, link);
}

static int lane_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    int n = (int)cr__ring_pop(&lane_of(link)->in, packets, (unsigned)most);
    link->told.received += (unsigned)n;
    return n;
}

static int lane_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    struct lane *lane = lane_of(link);
    struct cr__spread *spread = lane->spread;
    if (CR__UNLIKELY(atomic_load_explicit(&spread->over, memory_order_relaxed))) {
        for (int i = 0; i < count; i++)
            cr__link_drop(link, packets[i]);
        return count;
    }
    unsigned room = cr__ring_room(&lane->out, (unsigned)count), filled = 0;
    int n = room < (unsigned)count ? (int)room : count;
    for (int i = 0; i < n; i++) {
        struct cr_packet *packet = cr__link_take(link, packets[i]);
        if (CR__LIKELY(packet != NULL))
            *cr__ring_slot(&lane->out, filled++) = packet;
    }
    link->told.sent += filled;
    cr__ring_publish(&lane->out, filled);
    cr__service_poke_remote(&spread->parts[spread->first].network->service);
    return n;
}

static bool lane_arm(struct cr_link *link)
{
    return !cr__ring_empty(&lane_of(link)->in);
}

static void lane_info(const struct cr_link *link, struct cr_link_info *out)
{
    *out = link->told;
    out->up = true;
}

static const struct cr__link_ops lane_ops = {.recv = lane_recv, .send = lane_send, .arm = lane_arm, .info = lane_info};

/* ---- Whose is it? ------------------------------------------------------------------------------------------------- */

/* A packet as far as it is looked at. */
struct view {
    const uint8_t *bytes;
    size_t size_bytes;
};

static int whose_ports(const struct cr__share *share, const struct cr__ip *from, const struct cr__ip *to, struct view ports)
{
    if (ports.size_bytes < 4)
        return (int)share->mine;
    return (int)cr__share_of(share, from, cr__wire_get16(ports.bytes), to, cr__wire_get16(ports.bytes + 2));
}

static struct view behind(struct view view, size_t size_bytes)
{
    return (struct view){view.bytes + size_bytes, view.size_bytes - size_bytes};
}

static struct cr__ip ip4_of(const uint8_t bytes[4])
{
    uint32_t address;
    memcpy(&address, bytes, sizeof(address));
    return cr__ip_v4(address);
}

static bool is_error4(uint8_t type)
{
    return type == CR__ICMP_UNREACHABLE || type == CR__ICMP_TIME_EXCEEDED || type == CR__ICMP_PROBLEM;
}

/* An IPv4 packet; quoted: by an ICMP error. */
static int whose4(struct cr__spread *spread, const struct cr__share *share, struct view view, bool quoted)
{
    const struct cr__ip4_header *header = (const struct cr__ip4_header *)(const void *)view.bytes;
    if (view.size_bytes < CR__IP4_BYTES)
        return (int)share->mine;
    size_t header_bytes = (size_t)(header->version_words & 15) * 4;
    if (header_bytes < CR__IP4_BYTES || header_bytes > view.size_bytes)
        return (int)share->mine;
    bool fragment = (cr__wire_get16(header->fragment) & (CR__IP4_MORE | CR__IP4_OFFSET)) != 0;
    struct view rest = behind(view, header_bytes);
    if (CR__UNLIKELY(fragment && !quoted)) {
        spread->odd |= header->protocol == CR__IP_TCP;
        return (int)share->mine;
    }
    if (CR__LIKELY(header->protocol == CR__IP_TCP)) {
        struct cr__ip from = ip4_of(header->from), to = ip4_of(header->to);
        return whose_ports(share, &from, &to, rest);
    }
    if (header->protocol == CR__IP_ICMP && !quoted && rest.size_bytes > sizeof(struct cr__icmp_header) && is_error4(rest.bytes[0]))
        return whose4(spread, share, behind(rest, sizeof(struct cr__icmp_header)), true);
    return (int)share->mine;
}

static int whose6(struct cr__spread *spread, const struct cr__share *share, struct view view, bool quoted)
{
    const struct cr__ip6_header *header = (const struct cr__ip6_header *)(const void *)view.bytes;
    if (view.size_bytes < CR__IP6_BYTES)
        return (int)share->mine;
    struct view rest = behind(view, CR__IP6_BYTES);
    if (CR__LIKELY(header->next == CR__IP_TCP)) {
        struct cr__ip from, to;
        memcpy(&from, header->from, sizeof(from));
        memcpy(&to, header->to, sizeof(to));
        return whose_ports(share, &from, &to, rest);
    }
    if (header->next != CR__IP_ICMP6) {
        spread->odd |= !quoted && header->next != CR__IP_UDP; /* what is behind other headers, and fragments */
        return (int)share->mine;
    }
    if (rest.size_bytes > 0 && rest.bytes[0] == CR__NDP_ADVERTISEMENT && !quoted)
        return EVERYBODY;
    if (rest.size_bytes > sizeof(struct cr__icmp_header) && !quoted && rest.bytes[0] >= CR__ICMP6_UNREACHABLE && rest.bytes[0] <= CR__ICMP6_PROBLEM)
        return whose6(spread, share, behind(rest, sizeof(struct cr__icmp_header)), true);
    return (int)share->mine;
}

/* A worker, or EVERYBODY. What is malformed is the first's to drop. */
static int whose(struct cr__spread *spread, const struct cr__share *share, const struct cr_packet *frame)
{
    const struct cr__ethernet_header *header = (const struct cr__ethernet_header *)(const void *)frame->data;
    struct view rest = {frame->data + CR__ETHERNET_BYTES, frame->size_bytes - (size_t)CR__ETHERNET_BYTES};
    if (frame->size_bytes < CR__ETHERNET_BYTES)
        return (int)share->mine;
    switch (cr__wire_get16(header->type)) {
    case CR__ETHER_IP4:
        return whose4(spread, share, rest, false);
    case CR__ETHER_IP6:
        return whose6(spread, share, rest, false);
    case CR__ETHER_ARP:
        return rest.size_bytes >= sizeof(struct cr__arp) && cr__wire_get16(rest.bytes + 6) == CR__ARP_REPLY ? EVERYBODY : (int)share->mine;
    default:
        return (int)share->mine;
    }
}

/* ---- Dealing out -------------------------------------------------------------------------------------------------- */

/* Nobody sees it yet. A worker that does not keep up loses what does not fit, as it would if it had a link of its own. */
static void put_into(struct cr__network *network, struct lane *lane, struct cr_packet *packet)
{
    if (CR__UNLIKELY(cr__ring_room(&lane->in, lane->filled + 1) <= lane->filled)) {
        cr__host_drop(&network->host, packet, CR__DROP_LINK_FULL);
        return;
    }
    *cr__ring_slot(&lane->in, lane->filled++) = packet;
}

static void publish(struct cr__spread *spread)
{
    for (unsigned i = 0; i < spread->count; i++) {
        struct lane *lane = spread->parts[i].lane;
        if (!lane || lane->filled == 0)
            continue;
        cr__ring_publish(&lane->in, lane->filled);
        lane->filled = 0;
        cr__service_poke_remote(&spread->parts[i].network->service);
    }
}

static void copy_to_others(struct cr__network *network, const struct cr_packet *packet)
{
    struct cr__spread *spread = network->spread;
    for (unsigned i = 0; i < spread->count; i++) {
        struct cr_packet *copy = spread->parts[i].lane ? cr__packet_copy(network->host.packets, packet) : NULL;
        if (copy)
            put_into(network, spread->parts[i].lane, copy);
        else if (spread->parts[i].lane)
            cr__host_count(&network->host, CR__DROP_NO_PACKET);
    }
}

int cr__spread_deal(struct cr__network *network, struct cr_packet **frames, int count)
{
    struct cr__spread *spread = network->spread;
    const struct cr__share *share = &network->host.config.share;
    int kept = 0;
    spread->odd = false;
    if (CR__UNLIKELY(!spread->opened || spread->closing))
        return count;
    for (int i = 0; i < count; i++) {
        if (i + 2 < count)
            __builtin_prefetch(frames[i + 2]->data);
        int who = whose(spread, share, frames[i]);
        if (who == EVERYBODY)
            copy_to_others(network, frames[i]);
        if (who == EVERYBODY || who == (int)spread->first)
            frames[kept++] = frames[i];
        else
            put_into(network, spread->parts[who].lane, frames[i]);
    }
    publish(spread);
    return kept;
}

/* What has become whole at the first, or was behind headers that _deal does not look at: goes on as a frame that it might have been from the beginning. */
void cr__spread_arrival(struct cr__host *host, const struct cr__arrival *in)
{
    struct cr__network *network = cr__network_of(host);
    struct cr__spread *spread = network->spread;
    struct cr_packet *packet = in->packet;
    if (CR__LIKELY(!spread->odd) || spread->closing || in->broadcast || packet->next || cr__ip_is_ours(host, &in->from)) {
        cr__tcp_input(host, in);
        return;
    }
    int who = whose_ports(&host->config.share, &in->from, &in->to, (struct view){packet->data, packet->size_bytes});
    if (who == (int)spread->first || !cr__ip_frame_again(host, in, CR__IP_TCP)) {
        cr__tcp_input(host, in);
        return;
    }
    put_into(network, spread->parts[who].lane, packet);
    publish(spread);
}

bool cr__spread_gather(struct cr__network *network)
{
    struct cr__spread *spread = network->spread;
    struct cr__outgoing *out = &network->host.out;
    bool more = false;
    for (unsigned i = 0; i < spread->count && spread->opened; i++) {
        struct lane *lane = spread->parts[i].lane;
        struct cr_packet *packets[CR_LINK_BURST];
        unsigned room = CR__HOST_OUT_MOST - out->count, most = room < CR_LINK_BURST ? room : CR_LINK_BURST;
        unsigned n = lane && most > 0 ? cr__ring_pop(&lane->out, packets, most) : 0;
        for (unsigned k = 0; k < n; k++)
            out->packets[(out->first + out->count++) & (CR__HOST_OUT_MOST - 1)] = packets[k];
        more |= lane && !cr__ring_empty(&lane->out);
    }
    return more;
}

/* ---- Beginning and end -------------------------------------------------------------------------------------------- */

struct opening {
    struct cr__network *first;
    struct part *part;
    struct cr_link_info told; /* of the first's link, which is at work meanwhile */
    int (*open_part)(struct cr__network **out, struct cr_link *link, void *arg);
    void *arg;
};

static ssize_t open_here(void *arg)
{
    const struct opening *o = arg;
    struct lane *lane = cr__mem_alloc_aligned(sizeof(*lane), CR__MEM_OTHER);
    if (!lane)
        return -ENOMEM;
    cr__link_begin(&lane->link, &lane_ops, cr__worker_here());
    lane->link.told = o->told;
    lane->link.told.received = lane->link.told.sent = lane->link.told.dropped = 0;
    lane->spread = o->first->spread;
    int r = o->open_part(&o->part->network, &lane->link, o->arg);
    if (r < 0)
        cr__mem_free(lane, sizeof(*lane), CR__MEM_OTHER);
    else
        o->part->lane = lane;
    return r;
}

int cr__spread_open(struct cr__network *network, int (*open_part)(struct cr__network **out, struct cr_link *link, void *arg), void *arg)
{
    struct cr__sched *sched = network->worker->sched;
    struct cr__spread *spread = cr__mem_alloc(spread_bytes(sched->count), CR__MEM_OTHER);
    if (!spread)
        return -ENOMEM;
    spread->count = sched->count;
    spread->first = network->worker->index;
    spread->parts[spread->first].network = network;
    atomic_store_explicit(&spread->users, 1, memory_order_relaxed);
    network->spread = spread;
    int r = 0;
    for (unsigned i = 0; i < sched->count && r == 0; i++) {
        struct opening o = {.first = network, .part = &spread->parts[i], .open_part = open_part, .arg = arg};
        network->link->ops->info(network->link, &o.told);
        if (i != spread->first)
            r = (int)cr__visit_worker(sched->workers[i], open_here, &o);
        if (i != spread->first && r == 0)
            atomic_fetch_add_explicit(&spread->users, 1, memory_order_relaxed);
    }
    spread->opened = true;
    return r;
}

void cr__spread_each(struct cr__spread *spread, ssize_t (*fn)(void *part))
{
    for (unsigned i = 0; i < spread->count; i++) {
        struct cr__network *network = spread->parts[i].network;
        if (network && spread->parts[i].lane)
            cr__visit_surely(network, fn, network);
    }
}

bool cr__spread_closing(struct cr__spread *spread)
{
    bool was = spread->closing;
    spread->closing = true;
    return !was;
}

void cr__spread_over(struct cr__spread *spread)
{
    atomic_store_explicit(&spread->over, true, memory_order_relaxed); /* each sees it of its own thread, which stores it before it looks */
}

static void drain(struct cr__ring *ring, struct cr__packet_cache *packets)
{
    struct cr_packet *packet;
    while (cr__ring_pop(ring, &packet, 1) > 0)
        cr__packet_put(packets, packet);
}

void cr__spread_get(struct cr__spread *spread)
{
    atomic_fetch_add_explicit(&spread->users, 1, memory_order_relaxed);
}

void cr__spread_put(struct cr__spread *spread, struct cr__packet_cache *packets)
{
    if (atomic_fetch_sub_explicit(&spread->users, 1, memory_order_acq_rel) > 1)
        return;
    for (unsigned i = 0; i < spread->count; i++) {
        struct lane *lane = spread->parts[i].lane;
        cr__mem_free(spread->parts[i].network, sizeof(struct cr__network), CR__MEM_OTHER);
        if (!lane)
            continue;
        drain(&lane->in, packets);
        drain(&lane->out, packets);
        cr__packet_flush(&lane->link.own_packets);
        cr__mem_free(lane, sizeof(*lane), CR__MEM_OTHER);
    }
    cr__mem_free(spread, spread_bytes(spread->count), CR__MEM_OTHER);
}
