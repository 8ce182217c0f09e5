#include "net/ip/ip.h"

/* The checksum over a header without options, as it lies there: five words, no carry lost. In this machine's order: to be stored as it is. */
static inline uint16_t checksum_of(const uint32_t words[5])
{
    uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

static inline uint16_t header_checksum(const uint8_t *header)
{
    uint32_t words[5];
    memcpy(words, header, sizeof(words));
    return checksum_of(words);
}

/* Put together in registers: to read back for the checksum what has just been stored byte by byte would wait for the stores. */
void cr__ip4_push(struct cr_packet *packet, const struct cr__sending *what, uint16_t id, uint16_t fragment)
{
    uint32_t total_bytes = packet->size_bytes + (uint32_t)CR__IP4_BYTES, hops = what->hops ? what->hops : CR__IP_HOPS;
    uint32_t words[5] = {
        __builtin_bswap32((uint32_t)0x45 << 24 | (uint32_t)what->tos << 16 | total_bytes),
        __builtin_bswap32((uint32_t)id << 16 | fragment),
        __builtin_bswap32(hops << 24 | (uint32_t)what->protocol << 16),
        what->from.parts[3],
        what->to.parts[3],
    };
    words[2] |= (uint32_t)checksum_of(words) << 16;
    memcpy(cr_packet_push(packet, CR__IP4_BYTES), words, sizeof(words));
}

/* RFC 1122, 3.2.1.3: what can be nobody's address. */
static bool from_nobody4(const struct cr__host *host, const struct cr__ip *from)
{
    uint8_t first = from->bytes[12];
    return first == 0 || first == 127 || first >= 224 || cr__ip_is_broadcast(host, from) || cr__ip_is_ours(host, from);
}

/* 0, or why not: what a header says of itself. */
static enum cr__drop check_header(const struct cr_packet *packet, size_t *header_bytes, size_t *total_bytes)
{
    const struct cr__ip4_header *header = (const struct cr__ip4_header *)packet->data;
    if (packet->size_bytes < CR__IP4_BYTES || header->version_words >> 4 != 4)
        return CR__DROP_IP_HEADER;
    *header_bytes = 4u * (header->version_words & 0xf);
    *total_bytes = cr__wire_get16(header->length);
    if (*header_bytes < CR__IP4_BYTES || *total_bytes < *header_bytes || *total_bytes > packet->size_bytes)
        return CR__DROP_IP_HEADER;
    if (CR__LIKELY(*header_bytes == CR__IP4_BYTES))
        return header_checksum(packet->data) == 0 ? CR__DROPS : CR__DROP_IP_CHECKSUM;
    if (cr__wire_checksum(cr__wire_sum(0, packet->data, *header_bytes)) != 0)
        return CR__DROP_IP_CHECKSUM;
    int error = cr__wire_options(packet->data + CR__IP4_BYTES, *header_bytes - CR__IP4_BYTES);
    return error == -EPERM ? CR__DROP_IP_OPTIONS : error ? CR__DROP_IP_HEADER : CR__DROPS;
}

/* Whether it is for us. to_many: by its frame. */
static enum cr__drop check_addresses4(const struct cr__host *host, struct cr__arrival *in, bool to_many, bool loop)
{
    if (cr__ip_is_ours(host, &in->to)) {
        if (to_many)
            return CR__DROP_IP_OTHERS; /* RFC 1122, 3.3.6 */
    } else {
        in->broadcast = cr__ip_is_broadcast(host, &in->to) || (cr__ip_is_multicast(&in->to) && cr__ip_joined(host, &in->to));
        if (!in->broadcast)
            return CR__DROP_IP_OTHERS;
    }
    const struct cr__way *way = cr__way_slot(host->ip, &in->from);
    if (CR__LIKELY(way->epoch == host->ip->epoch && way->neighbour && cr__ip_equal(&way->to, &in->from)))
        return CR__DROPS; /* one to whom we send, by a neighbour: somebody, and not us */
    return !loop && from_nobody4(host, &in->from) ? CR__DROP_IP_SOURCE : CR__DROPS;
}

void cr__ip4_input(struct cr__host *host, struct cr_packet *packet, bool to_many, bool loop)
{
    const struct cr__ip4_header *header = (const struct cr__ip4_header *)packet->data;
    size_t header_bytes, total_bytes;
    enum cr__drop drop = check_header(packet, &header_bytes, &total_bytes);
    if (CR__UNLIKELY(drop != CR__DROPS)) {
        cr__host_drop(host, packet, drop);
        return;
    }
    struct cr__arrival in = {.packet = packet, .from = cr__ip_read4(header->from), .to = cr__ip_read4(header->to), .tos = header->tos, .hops = header->ttl, .header = packet->data};
    drop = check_addresses4(host, &in, to_many, loop);
    if (CR__UNLIKELY(drop != CR__DROPS)) {
        cr__host_drop(host, packet, drop);
        return;
    }
    packet->size_bytes = (uint16_t)total_bytes; /* the rest is Ethernet's padding */
    cr_packet_pull(packet, header_bytes);
    uint16_t fragment = cr__wire_get16(header->fragment);
    if (CR__UNLIKELY(fragment & (CR__IP4_MORE | CR__IP4_OFFSET))) {
        struct cr__fragment piece = {
            .id = cr__wire_get16(header->id),
            .offset_bytes = 8u * (fragment & CR__IP4_OFFSET),
            .protocol = header->protocol,
            .more = fragment & CR__IP4_MORE,
        };
        cr__fragment_input(host, &in, &piece, loop);
        return;
    }
    cr__ip_deliver(host, &in, header->protocol, offsetof(struct cr__ip4_header, protocol));
}
