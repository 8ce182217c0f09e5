/* What both families have in common: sending, handing up, and what a host sends to itself. */
#include "net/ip/ip.h"

uint32_t cr__ip_pseudo_sum(const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, uint32_t size_bytes)
{
    uint32_t sum = protocol + (size_bytes >> 16) + (size_bytes & 0xffff);
    if (cr__ip_is_v4(from)) {
        const uint16_t *a = (const uint16_t *)(const void *)&from->parts[3], *b = (const uint16_t *)(const void *)&to->parts[3];
        return sum + __builtin_bswap16(a[0]) + __builtin_bswap16(a[1]) + __builtin_bswap16(b[0]) + __builtin_bswap16(b[1]);
    }
    return cr__wire_sum(cr__wire_sum(sum, from->bytes, 16), to->bytes, 16);
}

/* ---- Sending ------------------------------------------------------------------------------------------------- */

/* To ourselves. Who sent it may still look at it, or send it again: then the one that arrives is a copy. */
static void leave_to_self(struct cr__host *host, struct cr_packet *packet)
{
    struct cr__ip_layer *ip = host->ip;
    if (ip->loop.count >= CR__LOOP_MOST) {
        cr__host_drop(host, packet, CR__DROP_LINK_FULL);
        return;
    }
    if (packet->_references > 1) {
        struct cr_packet *copy = cr__packet_copy(host->packets, packet);
        cr__packet_put(host->packets, packet);
        packet = copy;
        if (!packet) {
            cr__host_count(host, CR__DROP_NO_PACKET);
            return;
        }
    }
    cr__packets_push(&ip->loop, packet);
    if (!cr__timer_armed(&ip->loop_timer))
        cr__wheel_arm(&host->wheel, &ip->loop_timer, host->now_ns);
}

void cr__ip_leave(struct cr__host *host, struct cr_packet *packet, const struct cr__way *way)
{
    if (CR__UNLIKELY(way->ours))
        leave_to_self(host, packet);
    else if (CR__LIKELY(!way->neighbour || cr__neighbour_known(way->neighbour)))
        cr__ethernet_output(host, packet, way->header);
    else
        cr__neighbour_wait(host, way->neighbour, (struct cr__waiting){.packet = packet});
}

uint32_t cr__ip_id(struct cr__host *host, const struct cr__sending *what)
{
    if (!cr__ip_is_v4(&what->to)) {
        uint64_t count = ++host->ip->ids6;
        return (uint32_t)cr__host_hash(host, &count, sizeof(count));
    }
    struct {
        struct cr__ip from, to;
        uint64_t protocol;
    } who = {what->from, what->to, what->protocol};
    return host->ip->ids[cr__host_hash(host, &who, sizeof(who)) % CR__COUNT(host->ip->ids)]++;
}

/* What may not be cut is one packet; it may be in a queue above, whose link `next` is then. */
static void put(struct cr__host *host, struct cr_packet *packet, bool chain)
{
    if (chain)
        cr__host_put(host, packet);
    else
        cr__packet_put(host->packets, packet);
}

int cr__ip_output(struct cr__host *host, struct cr_packet *packet, const struct cr__sending *what)
{
    struct cr__ip_layer *ip = host->ip;
    struct cr__way *way = cr__way_slot(ip, &what->to), found;
    bool v4 = cr__ip_is_v4(&what->to);
    if (CR__UNLIKELY(way->epoch != ip->epoch || !cr__ip_equal(&way->to, &what->to) || way->until_ns <= host->now_ns)) {
        int error = cr__way_find(host, &what->to, &found);
        if (error) {
            cr__host_count(host, error == -EHOSTUNREACH ? CR__DROP_NEIGHBOUR_FAILED : CR__DROP_NO_ROUTE);
            put(host, packet, what->fragment);
            return error;
        }
        way = &found;
    }
    size_t size_bytes = packet->size_bytes;
    if (CR__UNLIKELY(what->fragment && packet->next))
        size_bytes = cr__chain_bytes(packet);
    if (CR__UNLIKELY(size_bytes + (v4 ? CR__IP4_BYTES : CR__IP6_BYTES) > way->mtu_bytes)) {
        if (what->fragment)
            return cr__fragment_output(host, packet, what, way);
        cr__packet_put(host->packets, packet);
        return -EMSGSIZE;
    }
    if (CR__UNLIKELY(what->fragment && packet->next))
        return cr__fragment_output(host, packet, what, way); /* would fit, but lies in pieces */
    if (v4)
        cr__ip4_push(packet, what, what->fragment ? (uint16_t)cr__ip_id(host, what) : 0, what->fragment ? 0 : CR__IP4_DONT_FRAGMENT);
    else
        cr__ip6_push(packet, what);
    cr__ip_leave(host, packet, way);
    return 0;
}

int cr__ip_send(struct cr__host *host, struct cr_packet *packet, const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, uint8_t tos, bool fragment)
{
    return cr__ip_output(host, packet, &(struct cr__sending){.from = *from, .to = *to, .protocol = protocol, .tos = tos, .fragment = fragment});
}

uint16_t cr__ip_mtu(struct cr__host *host, const struct cr__ip *to)
{
    struct cr__way *way = cr__way_slot(host->ip, to);
    int64_t until_ns;
    if (CR__LIKELY(way->epoch == host->ip->epoch && cr__ip_equal(&way->to, to) && way->until_ns > host->now_ns))
        return way->mtu_bytes;
    return cr__path_mtu(host, to, &until_ns);
}

/* ---- Handing up ---------------------------------------------------------------------------------------------- */

bool cr__ip_deliver_known(struct cr__host *host, const struct cr__arrival *in, uint8_t protocol)
{
    bool v4 = cr__ip_is_v4(&in->to);
    if (protocol == CR__IP_TCP && host->above.tcp) {
        if (CR__UNLIKELY(in->broadcast || in->packet->next)) { /* RFC 9293, 3.9.2.3: MUST-57; and no segment is longer than a packet */
            cr__host_count(host, in->broadcast ? CR__DROP_IP_OTHERS : CR__DROP_FRAGMENT_LONG);
            cr__host_put(host, in->packet);
        } else {
            host->above.tcp(host, in);
        }
    } else if (protocol == CR__IP_UDP && host->above.udp) {
        host->above.udp(host, in);
    } else if (protocol == (v4 ? CR__IP_ICMP : CR__IP_ICMP6)) {
        (v4 ? cr__icmp4_input : cr__icmp6_input)(host, in);
    } else {
        return false;
    }
    return true;
}

void cr__ip_deliver(struct cr__host *host, const struct cr__arrival *in, uint8_t protocol, size_t next_at)
{
    if (CR__LIKELY(cr__ip_deliver_known(host, in, protocol)))
        return;
    if (cr__ip_is_v4(&in->to))
        cr__icmp_error(host, in, CR__ICMP_UNREACHABLE, 2, 0, false);
    else if (protocol != CR__IP_NOTHING)
        cr__icmp_error(host, in, CR__ICMP6_PROBLEM, 1, (uint32_t)next_at, false);
    cr__host_count(host, CR__DROP_IP_PROTOCOL);
    cr__host_put(host, in->packet);
}

/* What is there now: what is sent to ourselves by what arrives comes the next time. */
void cr__ip_loop(struct cr__host *host)
{
    struct cr__packets *loop = &host->ip->loop;
    for (uint32_t count = loop->count; count > 0; count--) {
        struct cr_packet *packet = cr__packets_pop(loop);
        packet->next = NULL;
        if (packet->data[0] >> 4 == 4)
            cr__ip4_input(host, packet, false, true);
        else
            cr__ip6_input(host, packet, false, true);
    }
    if (loop->first && !cr__timer_armed(&host->ip->loop_timer))
        cr__wheel_arm(&host->wheel, &host->ip->loop_timer, host->now_ns);
}

bool cr__ip_frame_again(const struct cr__host *host, const struct cr__arrival *in, uint8_t protocol)
{
    struct cr__sending as_sent = {.from = in->from, .to = in->to, .protocol = protocol, .tos = in->tos, .hops = in->hops};
    bool v4 = cr__ip_is_v4(&in->to);
    if (cr_packet_front(in->packet) < CR__ETHERNET_BYTES + CR__IP6_BYTES)
        return false;
    if (v4)
        cr__ip4_push(in->packet, &as_sent, 0, 0);
    else
        cr__ip6_push(in->packet, &as_sent);
    struct cr__ethernet_header *header = (struct cr__ethernet_header *)(void *)cr_packet_push(in->packet, CR__ETHERNET_BYTES);
    memcpy(header->to, host->config.ethernet, sizeof(header->to));
    memset(header->from, 0, sizeof(header->from));
    cr__wire_put16(header->type, v4 ? CR__ETHER_IP4 : CR__ETHER_IP6);
    return true;
}
