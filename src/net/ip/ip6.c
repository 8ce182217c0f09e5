#include "net/ip/ip.h"

void cr__ip6_push(struct cr_packet *packet, const struct cr__sending *what)
{
    uint16_t payload_bytes = packet->size_bytes;
    struct cr__ip6_header *header = (struct cr__ip6_header *)cr_packet_push(packet, CR__IP6_BYTES);
    cr__wire_put32(header->version_class_flow, (uint32_t)6 << 28 | (uint32_t)what->tos << 20);
    cr__wire_put16(header->length, payload_bytes);
    header->next = what->protocol;
    header->hops = what->hops ? what->hops : CR__IP_HOPS;
    memcpy(header->from, what->from.bytes, 16);
    memcpy(header->to, what->to.bytes, 16);
}

/* Multicast, ourselves, loopback, or an IPv4 address in disguise: that one would be taken for IPv4 everywhere above (RFC 4942, 2.2). No address at all is for neighbour
 * solicitations only. */
static bool from_nobody6(const struct cr__host *host, const struct cr__ip *from)
{
    static const struct cr__ip self = {.bytes = {[15] = 1}};
    return from->bytes[0] == 0xff || cr__ip_equal(from, &self) || cr__ip_is_v4(from) || cr__ip_is_ours(host, from);
}

static enum cr__drop check_addresses6(const struct cr__host *host, struct cr__arrival *in, bool to_many, bool loop)
{
    if (cr__ip_is_multicast(&in->to)) {
        in->broadcast = true;
        if (!cr__ip_joined(host, &in->to))
            return CR__DROP_IP_OTHERS;
    } else if (!cr__ip_is_ours(host, &in->to) || to_many || cr__ip_is_v4(&in->to)) {
        return CR__DROP_IP_OTHERS;
    }
    return !loop && from_nobody6(host, &in->from) ? CR__DROP_IP_SOURCE : CR__DROPS;
}

/* From where the walk has ended on; the data begins there. */
static void fragment(struct cr__host *host, struct cr__arrival *in, struct cr__walk *walk, bool loop)
{
    const struct cr__ip6_fragment *header = (const struct cr__ip6_fragment *)in->packet->data;
    uint16_t offset = cr__wire_get16(header->offset);
    struct cr__fragment piece = {.id = cr__wire_get32(header->id), .offset_bytes = offset & 0xfff8u, .protocol = header->next, .more = offset & 1};
    cr_packet_pull(in->packet, sizeof(*header));
    if (piece.offset_bytes == 0 && !piece.more) { /* RFC 6946: whole, whatever else comes with its identification */
        walk->fragmented = true;
        walk->next_at = walk->at;
        walk->next = piece.protocol;
        walk->at += sizeof(*header);
        cr__ip6_upper(host, in, walk, loop);
        return;
    }
    if (piece.more && in->packet->size_bytes % 8 != 0) { /* RFC 8200, 4.5 */
        cr__icmp_error(host, in, CR__ICMP6_PROBLEM, 0, offsetof(struct cr__ip6_header, length), false);
        cr__host_drop(host, in->packet, CR__DROP_IP_HEADER);
        return;
    }
    cr__fragment_input(host, in, &piece, loop);
}

/* Extension headers from walk->at on, counted from in->header, and what comes behind them. */
void cr__ip6_upper(struct cr__host *host, struct cr__arrival *in, struct cr__walk *walk, bool loop)
{
    struct cr_packet *packet = in->packet;
    size_t size_bytes = (size_t)(packet->data + packet->size_bytes - in->header);
    enum cr__walk_end end = cr__wire_walk(walk, in->header, size_bytes);
    if (CR__UNLIKELY(end == CR__WALK_DROP || end == CR__WALK_PROBLEM)) {
        if (end == CR__WALK_PROBLEM)
            cr__icmp_error(host, in, CR__ICMP6_PROBLEM, walk->problem, (uint32_t)walk->problem_at, walk->many);
        cr__host_count(host, end == CR__WALK_PROBLEM ? CR__DROP_IP_OPTIONS : CR__DROP_IP_HEADER);
        cr__host_put(host, packet);
        return;
    }
    cr_packet_pull(packet, (size_t)(in->header + walk->at - packet->data));
    if (CR__UNLIKELY(cr__ip_is_zero(&in->from) && walk->next != CR__IP_ICMP6)) {
        cr__host_count(host, CR__DROP_IP_SOURCE);
        cr__host_put(host, packet);
    } else if (CR__UNLIKELY(end == CR__WALK_AT_FRAGMENT)) {
        fragment(host, in, walk, loop);
    } else {
        cr__ip_deliver(host, in, walk->next, walk->next_at);
    }
}

void cr__ip6_input(struct cr__host *host, struct cr_packet *packet, bool to_many, bool loop)
{
    const struct cr__ip6_header *header = (const struct cr__ip6_header *)packet->data;
    size_t payload_bytes = packet->size_bytes < CR__IP6_BYTES ? 0 : cr__wire_get16(header->length);
    if (packet->size_bytes < CR__IP6_BYTES || header->version_class_flow[0] >> 4 != 6 || payload_bytes > packet->size_bytes - (size_t)CR__IP6_BYTES) {
        cr__host_drop(host, packet, CR__DROP_IP_HEADER);
        return;
    }
    struct cr__arrival in = {
        .packet = packet,
        .from = cr__ip_read6(header->from),
        .to = cr__ip_read6(header->to),
        .tos = (uint8_t)(cr__wire_get32(header->version_class_flow) >> 20),
        .hops = header->hops,
        .header = packet->data,
    };
    enum cr__drop drop = check_addresses6(host, &in, to_many, loop);
    if (CR__UNLIKELY(drop != CR__DROPS)) {
        cr__host_drop(host, packet, drop);
        return;
    }
    packet->size_bytes = (uint16_t)(CR__IP6_BYTES + payload_bytes);
    cr_packet_pull(packet, CR__IP6_BYTES);
    struct cr__walk walk = {.next = header->next, .at = CR__IP6_BYTES, .next_at = offsetof(struct cr__ip6_header, next)};
    cr__ip6_upper(host, &in, &walk, loop);
}
