/* Datagrams in pieces. Pieces wait sorted by where they belong; whoever overlaps another spoils the datagram, in both families: nobody honest sends such (RFC 5722), and what is
 * made of it is a matter of taste that attacks live on. The same piece twice, byte for byte, is a duplicate of the network's, and is dropped alone.
 *
 * Bounded: in datagrams, in packets of one, of one source, of all. At the bound of all the oldest datagram goes; at that of a source what it sends is dropped, so it hurts
 * itself alone.
 *
 * A whole datagram that fits into one packet is handed up as one; a longer one as a chain, if it is UDP's, and else dropped: no segment of TCP is so long, and no ping of an
 * honest mind. */
#include "net/ip/ip.h"

#define MOST_BYTES 65535

/* What a packet says of itself while it waits: in its `own`. */
struct piece {
    uint32_t offset_bytes;
    uint32_t header_back_bytes; /* from the data back to IP's header */
};

static struct piece *piece_of(struct cr_packet *packet)
{
    return (struct piece *)(void *)&packet->own;
}

static uint32_t piece_end(struct cr_packet *packet)
{
    return piece_of(packet)->offset_bytes + packet->size_bytes;
}

size_t cr__chain_bytes(const struct cr_packet *chain)
{
    size_t size_bytes = 0;
    for (; chain; chain = chain->next)
        size_bytes += chain->size_bytes;
    return size_bytes;
}

/* ---- The table ----------------------------------------------------------------------------------------------- */

static void release(struct cr__host *host, struct cr__reassembly *r)
{
    if (cr__timer_armed(&r->timer))
        cr__wheel_cancel(&host->wheel, &r->timer);
    host->ip->fragments_held -= r->count;
    r->used = false;
    r->first = NULL;
    r->count = 0;
}

static void drop_pieces(struct cr__host *host, struct cr__reassembly *r, enum cr__drop cause)
{
    host->drops[cause] += r->count;
    cr__host_put(host, r->first);
    host->ip->fragments_held -= r->count;
    r->first = NULL;
    r->count = 0;
}

static void give_up(struct cr__host *host, struct cr__reassembly *r, enum cr__drop cause)
{
    drop_pieces(host, r, cause);
    release(host, r);
}

void cr__fragment_fini(struct cr__host *host)
{
    for (unsigned i = 0; i < CR__REASSEMBLIES; i++)
        if (host->ip->reassemblies[i].used)
            give_up(host, &host->ip->reassemblies[i], CR__DROP_FRAGMENT_TIMEOUT);
}

static struct cr__reassembly *oldest(struct cr__host *host, const struct cr__reassembly *but)
{
    struct cr__reassembly *found = NULL;
    for (unsigned i = 0; i < CR__REASSEMBLIES; i++) {
        struct cr__reassembly *r = &host->ip->reassemblies[i];
        if (r->used && r != but && (!found || r->since_ns < found->since_ns))
            found = r;
    }
    return found;
}

static struct cr__reassembly *find_reassembly(struct cr__host *host, const struct cr__arrival *in, const struct cr__fragment *fragment)
{
    struct cr__reassembly *vacant = NULL;
    for (unsigned i = 0; i < CR__REASSEMBLIES; i++) {
        struct cr__reassembly *r = &host->ip->reassemblies[i];
        if (!r->used)
            vacant = vacant ? vacant : r;
        else if (r->id == fragment->id && cr__ip_equal(&r->from, &in->from) && cr__ip_equal(&r->to, &in->to) && (r->protocol == fragment->protocol || !cr__ip_is_v4(&in->to)))
            return r; /* IPv6 has the first one's protocol, whatever the others say (RFC 8200, 4.5) */
    }
    if (!vacant) {
        vacant = oldest(host, NULL);
        give_up(host, vacant, CR__DROP_FRAGMENT_LIMIT);
    }
    *vacant = (struct cr__reassembly){.used = true, .id = fragment->id, .from = in->from, .to = in->to, .protocol = fragment->protocol, .since_ns = host->now_ns};
    vacant->broadcast = in->broadcast;
    cr__wheel_arm(&host->wheel, &vacant->timer, host->now_ns + (cr__ip_is_v4(&in->to) ? CR__REASSEMBLY_NS4 : CR__REASSEMBLY_NS6));
    return vacant;
}

static uint32_t held_of_source(const struct cr__host *host, const struct cr__ip *from)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < CR__REASSEMBLIES; i++)
        if (host->ip->reassemblies[i].used && cr__ip_equal(&host->ip->reassemblies[i].from, from))
            count += host->ip->reassemblies[i].count;
    return count;
}

/* Makes room for one more packet; false: it may not have any. */
static bool within_limits(struct cr__host *host, struct cr__reassembly *r)
{
    if (r->count >= CR__REASSEMBLY_PACKETS || held_of_source(host, &r->from) >= CR__REASSEMBLY_PACKETS_SOURCE)
        return false;
    while (host->ip->fragments_held >= CR__REASSEMBLY_PACKETS_HOST)
        give_up(host, oldest(host, r), CR__DROP_FRAGMENT_LIMIT);
    return true;
}

void cr__fragment_due(struct cr__host *host, struct cr__reassembly *r)
{
    struct cr_packet *first = r->first;
    if (first && piece_of(first)->offset_bytes == 0) { /* RFC 1122, 3.3.2; 8200, 4.5: only if the first one has come */
        bool v4 = cr__ip_is_v4(&r->from);
        struct cr__arrival in = {.packet = first, .from = r->from, .to = r->to, .broadcast = r->broadcast, .header = first->data - piece_of(first)->header_back_bytes};
        cr__icmp_error(host, &in, v4 ? CR__ICMP_TIME_EXCEEDED : CR__ICMP6_TIME_EXCEEDED, 1, 0, false);
    }
    give_up(host, r, CR__DROP_FRAGMENT_TIMEOUT);
}

/* ---- A whole one --------------------------------------------------------------------------------------------- */

/* One packet, if it has the room. */
static void gather_pieces(struct cr__host *host, struct cr_packet *first, uint32_t whole_bytes)
{
    if (whole_bytes > first->size_bytes + cr_packet_back(first))
        return;
    for (struct cr_packet *packet = first->next; packet; packet = packet->next) {
        memcpy(first->data + first->size_bytes, packet->data, packet->size_bytes);
        first->size_bytes = (uint16_t)(first->size_bytes + packet->size_bytes);
    }
    cr__host_put(host, first->next);
    first->next = NULL;
}

/* The header as it would have come, had nobody cut the datagram: directly in front. */
static const uint8_t *write_header(const struct cr__reassembly *r, struct cr_packet *first)
{
    const uint8_t *old = first->data - piece_of(first)->header_back_bytes;
    uint8_t *header;
    if (cr__ip_is_v4(&r->to)) {
        header = first->data - CR__IP4_BYTES;
        memmove(header, old, CR__IP4_BYTES);
        struct cr__ip4_header *ip = (struct cr__ip4_header *)header;
        ip->version_words = 0x45;
        cr__wire_put16(ip->length, (uint16_t)(r->whole_bytes + CR__IP4_BYTES));
        cr__wire_put16(ip->fragment, 0);
        cr__wire_put16(ip->checksum, 0);
        cr__wire_put16(ip->checksum, cr__wire_checksum(cr__wire_sum(0, header, CR__IP4_BYTES)));
    } else {
        header = first->data - CR__IP6_BYTES;
        memmove(header, old, CR__IP6_BYTES);
        ((struct cr__ip6_header *)header)->next = r->protocol;
        cr__wire_put16(((struct cr__ip6_header *)header)->length, (uint16_t)r->whole_bytes);
    }
    return header;
}

static void whole(struct cr__host *host, struct cr__reassembly *r, bool loop)
{
    struct cr_packet *first = r->first;
    struct cr__arrival in = {.packet = first, .from = r->from, .to = r->to, .tos = r->tos, .hops = r->hops, .broadcast = r->broadcast};
    uint32_t whole_bytes = r->whole_bytes, count = r->count;
    uint8_t protocol = r->protocol;
    bool v4 = cr__ip_is_v4(&in.to);
    in.header = write_header(r, first);
    for (struct cr_packet *packet = first->next; packet; packet = packet->next)
        first->flags &= packet->flags; /* verified only if each was */
    release(host, r);
    gather_pieces(host, first, whole_bytes);
    if (first->next && protocol != CR__IP_UDP) {
        host->drops[CR__DROP_FRAGMENT_LONG] += count;
        cr__host_put(host, first);
    } else if (v4) {
        cr__ip_deliver(host, &in, protocol, 0);
    } else {
        struct cr__walk walk = {.next = protocol, .at = CR__IP6_BYTES, .next_at = offsetof(struct cr__ip6_header, next), .fragmented = true};
        in.hops = in.hops == 255 ? 254 : in.hops; /* RFC 6980: no neighbour message comes in fragments */
        cr__ip6_upper(host, &in, &walk, loop);
    }
}

/* ---- A piece ------------------------------------------------------------------------------------------------- */

static size_t least_of(uint8_t protocol)
{
    return protocol == CR__IP_TCP ? 20 : protocol == CR__IP_UDP || protocol == CR__IP_ICMP || protocol == CR__IP_ICMP6 ? 8 : 0;
}

/* Whether it hides from who looks at first fragments only (RFC 1858, 3128): no whole header above IP in the first one, or a part of TCP's in the second. */
static bool is_tiny(const struct cr__arrival *in, const struct cr__fragment *fragment)
{
    if (in->packet->size_bytes == 0)
        return true;
    if (fragment->offset_bytes > 0)
        return fragment->protocol == CR__IP_TCP && fragment->offset_bytes < 20;
    return cr__ip_is_v4(&in->to) && in->packet->size_bytes < least_of(fragment->protocol);
}

/* Whether a walk has ended because the packet does, not because of what stands there. */
static bool ends_before(const struct cr__walk *walk, const uint8_t *header, size_t size_bytes)
{
    return size_bytes - walk->at < 8 || 8u * (header[walk->at + 1] + 1u) > size_bytes - walk->at;
}

/* IPv6's first one has all headers up to the one above IP, whole (RFC 7112), else its sender is told (8200, 4.5). CR__DROPS: it is well. */
static enum cr__drop check_first6(struct cr__host *host, const struct cr__arrival *in, const struct cr__fragment *fragment)
{
    size_t at = (size_t)(in->packet->data - in->header), size_bytes = at + in->packet->size_bytes;
    struct cr__walk walk = {.next = fragment->protocol, .at = at, .next_at = at - sizeof(struct cr__ip6_fragment), .fragmented = true};
    enum cr__walk_end end = cr__wire_walk(&walk, in->header, size_bytes);
    if (end == CR__WALK_UPPER && size_bytes - walk.at >= least_of(walk.next))
        return CR__DROPS;
    if (end == CR__WALK_PROBLEM) {
        cr__icmp_error(host, in, CR__ICMP6_PROBLEM, walk.problem, (uint32_t)walk.problem_at, walk.many);
        return CR__DROP_IP_OPTIONS;
    }
    if (end == CR__WALK_DROP && !ends_before(&walk, in->header, size_bytes))
        return CR__DROP_IP_HEADER;
    cr__icmp_error(host, in, CR__ICMP6_PROBLEM, CR__ICMP6_INCOMPLETE, 0, false);
    return CR__DROP_FRAGMENT_TINY;
}

enum place { PLACED, DUPLICATE, OVERLAP };

static bool same(struct cr_packet *a, struct cr_packet *b)
{
    return piece_of(a)->offset_bytes == piece_of(b)->offset_bytes && a->size_bytes == b->size_bytes && memcmp(a->data, b->data, a->size_bytes) == 0;
}

static enum place place(struct cr__reassembly *r, struct cr_packet *packet)
{
    uint32_t begin = piece_of(packet)->offset_bytes, end = piece_end(packet);
    struct cr_packet **link = &r->first, *before = NULL;
    while (*link && piece_of(*link)->offset_bytes < begin) {
        before = *link;
        link = &(*link)->next;
    }
    if (*link && same(*link, packet))
        return DUPLICATE;
    if ((before && piece_end(before) > begin) || (*link && piece_of(*link)->offset_bytes < end) || (r->whole_bytes && end > r->whole_bytes))
        return OVERLAP;
    packet->next = *link;
    *link = packet;
    r->got_bytes += packet->size_bytes;
    return PLACED;
}

/* The last one says how long it is; nothing may lie behind it, and there is one only. */
static bool ends_well(struct cr__reassembly *r, struct cr_packet *packet, const struct cr__fragment *fragment)
{
    if (fragment->more)
        return true;
    if ((r->whole_bytes && r->whole_bytes != piece_end(packet)) || packet->next)
        return false;
    r->whole_bytes = piece_end(packet);
    return true;
}

static void take(struct cr__host *host, struct cr__reassembly *r, const struct cr__arrival *in, const struct cr__fragment *fragment)
{
    struct cr_packet *packet = in->packet;
    enum place where = place(r, packet);
    if (where == DUPLICATE) {
        cr__host_drop(host, packet, CR__DROP_FRAGMENT_OVERLAP);
        return;
    }
    if (where == PLACED) {
        r->count++;
        host->ip->fragments_held++;
    }
    if (where == OVERLAP || !ends_well(r, packet, fragment)) {
        if (where == OVERLAP)
            cr__host_drop(host, packet, CR__DROP_FRAGMENT_OVERLAP);
        drop_pieces(host, r, CR__DROP_FRAGMENT_OVERLAP);
        r->spoiled = true; /* until its time is over */
    }
}

/* The data begins behind the header of the fragment. */
void cr__fragment_input(struct cr__host *host, const struct cr__arrival *in, const struct cr__fragment *fragment, bool loop)
{
    struct cr_packet *packet = in->packet;
    bool v4 = cr__ip_is_v4(&in->to);
    bool beyond = fragment->offset_bytes + packet->size_bytes + (v4 ? CR__IP4_BYTES : 0u) > MOST_BYTES; /* IPv4's length counts the header */
    if (CR__UNLIKELY(beyond && !v4)) { /* the sender is told, by where the offset lies (RFC 8200, 4.5) */
        size_t at = (size_t)(packet->data - in->header) - sizeof(struct cr__ip6_fragment) + offsetof(struct cr__ip6_fragment, offset);
        cr__icmp_error(host, in, CR__ICMP6_PROBLEM, 0, (uint32_t)at, false);
    }
    if (beyond || (fragment->more && packet->size_bytes % 8 != 0)) {
        cr__host_drop(host, packet, CR__DROP_IP_HEADER);
        return;
    }
    if (is_tiny(in, fragment)) {
        cr__host_drop(host, packet, CR__DROP_FRAGMENT_TINY);
        return;
    }
    enum cr__drop drop = v4 || fragment->offset_bytes > 0 ? CR__DROPS : check_first6(host, in, fragment);
    if (CR__UNLIKELY(drop != CR__DROPS)) {
        cr__host_drop(host, packet, drop);
        return;
    }
    struct cr__reassembly *r = find_reassembly(host, in, fragment);
    if (r->spoiled || !within_limits(host, r)) {
        cr__host_drop(host, packet, r->spoiled ? CR__DROP_FRAGMENT_OVERLAP : CR__DROP_FRAGMENT_LIMIT);
        return;
    }
    *piece_of(packet) = (struct piece){.offset_bytes = fragment->offset_bytes, .header_back_bytes = (uint32_t)(packet->data - in->header)};
    if (fragment->offset_bytes == 0) {
        r->protocol = fragment->protocol;
        r->hops = in->hops;
        r->tos = (uint8_t)((in->tos & 0xfc) | (r->tos & 3) | (in->tos & 3));
    }
    if ((in->tos & 3) == 3)
        r->tos |= 3; /* RFC 3168, 5.3: congestion that one has met, the datagram has */
    take(host, r, in, fragment);
    if (r->whole_bytes && r->got_bytes == r->whole_bytes && !r->spoiled)
        whole(host, r, loop);
}

/* ---- Sending ------------------------------------------------------------------------------------------------- */

/* Where in a chain the next byte comes from. */
struct cursor {
    const struct cr_packet *packet;
    size_t at;
};

static void copy_chain(struct cursor *cursor, uint8_t *to, size_t size_bytes)
{
    while (size_bytes > 0) {
        size_t some = cursor->packet->size_bytes - cursor->at;
        some = some < size_bytes ? some : size_bytes;
        memcpy(to, cursor->packet->data + cursor->at, some);
        to += some;
        size_bytes -= some;
        cursor->at += some;
        if (cursor->at == cursor->packet->size_bytes)
            *cursor = (struct cursor){.packet = cursor->packet->next};
    }
}

static void push_headers(struct cr_packet *packet, const struct cr__sending *what, uint32_t id, size_t offset_bytes, bool more)
{
    if (cr__ip_is_v4(&what->to)) {
        cr__ip4_push(packet, what, (uint16_t)id, (uint16_t)((more ? CR__IP4_MORE : 0) | offset_bytes / 8));
        return;
    }
    struct cr__sending outer = *what;
    if (more || offset_bytes > 0) {
        struct cr__ip6_fragment *header = (struct cr__ip6_fragment *)cr_packet_push(packet, sizeof(*header));
        *header = (struct cr__ip6_fragment){.next = what->protocol};
        cr__wire_put16(header->offset, (uint16_t)(offset_bytes | more));
        cr__wire_put32(header->id, id);
        outer.protocol = CR__IP_FRAGMENT;
    }
    cr__ip6_push(packet, &outer);
}

/* The pieces of a chain, with their headers, `most` bytes of payload in each. Fewer than all: there was no packet left. */
static void cut_piece(struct cr__host *host, const struct cr_packet *chain, size_t total_bytes, size_t most, const struct cr__sending *what, struct cr__packets *out)
{
    struct cursor cursor = {.packet = chain};
    uint32_t id = cr__ip_id(host, what);
    for (size_t at = 0; at < total_bytes; at += most) {
        size_t some = total_bytes - at < most ? total_bytes - at : most;
        struct cr_packet *packet = cr__host_packet(host);
        if (!packet)
            return; /* the rest could not be put together anyway */
        copy_chain(&cursor, packet->data, some);
        packet->size_bytes = (uint16_t)some;
        packet->flags = chain->flags;
        push_headers(packet, what, id, at, at + some < total_bytes);
        cr__packets_push(out, packet);
    }
}

int cr__fragment_output(struct cr__host *host, struct cr_packet *chain, const struct cr__sending *what, const struct cr__way *way)
{
    bool v4 = cr__ip_is_v4(&what->to);
    size_t total_bytes = cr__chain_bytes(chain), most = way->mtu_bytes - (size_t)(v4 ? CR__IP4_BYTES : CR__IP6_BYTES);
    struct cr__packets pieces = {0};
    if (total_bytes > most)
        most = (most - (v4 ? 0 : sizeof(struct cr__ip6_fragment))) & ~(size_t)7;
    if (total_bytes + (v4 ? CR__IP4_BYTES : 0) > MOST_BYTES) {
        cr__host_put(host, chain);
        return -EMSGSIZE;
    }
    cut_piece(host, chain, total_bytes, most, what, &pieces);
    cr__host_put(host, chain);
    if (pieces.first && way->neighbour && !cr__neighbour_known(way->neighbour)) {
        cr__neighbour_wait(host, way->neighbour, (struct cr__waiting){.packet = pieces.first, .chain = true}); /* all of it, or nothing */
        return 0;
    }
    for (struct cr_packet *packet; (packet = cr__packets_pop(&pieces)) != NULL;)
        cr__ip_leave(host, packet, way);
    return 0;
}
