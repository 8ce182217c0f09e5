#include "net/ip/ip.h"

void cr__ethernet_header(const struct cr__host *host, uint8_t out[CR__ETHERNET_BYTES], const uint8_t to[6], enum cr__ether_type type)
{
    struct cr__ethernet_header *header = (struct cr__ethernet_header *)out;
    memcpy(header->to, to, 6);
    memcpy(header->from, host->config.ethernet, 6);
    cr__wire_put16(header->type, (uint16_t)type);
}

/* RFC 1112, 6.4; 2464, 7. */
void cr__ethernet_many(const struct cr__ip *to, uint8_t out[6])
{
    if (!cr__ip_is_v4(to))
        memcpy(out, (const uint8_t[6]){0x33, 0x33, to->bytes[12], to->bytes[13], to->bytes[14], to->bytes[15]}, 6);
    else if (cr__ip_is_multicast(to))
        memcpy(out, (const uint8_t[6]){0x01, 0x00, 0x5e, to->bytes[13] & 0x7f, to->bytes[14], to->bytes[15]}, 6);
    else
        memset(out, 0xff, 6);
}

void cr__ethernet_output(struct cr__host *host, struct cr_packet *packet, const uint8_t header[CR__ETHERNET_BYTES])
{
    struct cr__outgoing *out = &host->out;
    memcpy(cr_packet_push(packet, CR__ETHERNET_BYTES), header, CR__ETHERNET_BYTES);
    if (CR__UNLIKELY(out->count == CR__HOST_OUT_MOST)) {
        cr__host_drop(host, packet, CR__DROP_LINK_FULL);
        return;
    }
    out->packets[(out->first + out->count++) & (CR__HOST_OUT_MOST - 1)] = packet;
    host->sent++;
}

void cr__ethernet_input(struct cr__host *host, struct cr_packet *frame)
{
    if (frame->size_bytes < CR__ETHERNET_BYTES) {
        cr__host_drop(host, frame, CR__DROP_FRAME_SHORT);
        return;
    }
    const struct cr__ethernet_header *header = (const struct cr__ethernet_header *)frame->data;
    bool to_many = header->to[0] & 1;
    if ((!to_many && memcmp(header->to, host->config.ethernet, 6) != 0) || (header->from[0] & 1)) {
        cr__host_drop(host, frame, CR__DROP_FRAME_OTHERS);
        return;
    }
    uint16_t type = cr__wire_get16(header->type);
    cr_packet_pull(frame, CR__ETHERNET_BYTES);
    switch (type) {
    case CR__ETHER_IP4:
        cr__ip4_input(host, frame, to_many, false);
        break;
    case CR__ETHER_IP6:
        cr__ip6_input(host, frame, to_many, false);
        break;
    case CR__ETHER_ARP:
        cr__arp_input(host, frame);
        break;
    default:
        cr__host_drop(host, frame, CR__DROP_FRAME_TYPE);
    }
}
