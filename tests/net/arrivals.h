/* Two hosts of IP that tell what is handed up to TCP and UDP. */
#ifndef ARRIVALS_H
#define ARRIVALS_H

#include "net/ip/ip.h"
#include "pair.h"

static struct {
    unsigned arrivals, errors;
    const struct cr_packet *packet; /* for comparison: it has been put */
    struct cr__ip from, to;
    uint8_t tos, hops;
    bool broadcast;
    char data[2048];
    size_t size_bytes;
    struct cr__ip_error error;
    uint8_t quoted[8];
    bool unreachable; /* what arrives is answered by an error */
} seen;

static inline void on_arrival(struct cr__host *host, const struct cr__arrival *in)
{
    seen.arrivals++;
    seen.packet = in->packet;
    seen.from = in->from;
    seen.to = in->to;
    seen.tos = in->tos;
    seen.hops = in->hops;
    seen.broadcast = in->broadcast;
    seen.size_bytes = in->packet->size_bytes;
    memcpy(seen.data, in->packet->data, in->packet->size_bytes);
    if (seen.unreachable)
        cr__icmp_unreachable(host, in, CR__PORT_UNREACHABLE);
    cr__host_put(host, in->packet);
}

static inline void on_error(struct cr__host *host, const struct cr__ip_error *error)
{
    (void)host;
    seen.errors++;
    seen.error = *error;
    CHECK(error->transport_bytes >= 8);
    memcpy(seen.quoted, error->transport, 8);
}

static inline void start(struct pair *pair)
{
    pair_init(pair, 7);
    pair->a.above = pair->b.above = (struct cr__host_above){.tcp = on_arrival, .udp = on_arrival, .tcp_error = on_error, .udp_error = on_error};
}

static inline int send(struct cr__host *host, const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, const void *bytes, size_t size_bytes, bool fragment)
{
    struct cr_packet *packet = cr__packet_get(host->packets);
    CHECK(packet != NULL);
    packet->next = NULL;
    packet->flags = 0;
    packet->size_bytes = (uint16_t)size_bytes;
    if (bytes)
        memcpy(packet->data, bytes, size_bytes);
    else
        memset(packet->data, 'x', size_bytes);
    return cr__ip_send(host, packet, from, to, protocol, 0, fragment);
}

/* Between a and b, by number. */
static inline int send_to_b(struct pair *pair, bool v4, uint8_t protocol, const void *bytes, size_t size_bytes)
{
    struct cr__ip from = v4 ? pair_ip4(1) : pair_ip6(1), to = v4 ? pair_ip4(2) : pair_ip6(2);
    return send(&pair->a, &from, &to, protocol, bytes, size_bytes, false);
}

static inline void input(struct pair *pair, struct cr__host *host, struct cr_packet *frame)
{
    cr__host_input(host, frame, pair->now_ns);
}

static inline uint64_t drops(const struct cr__host *host)
{
    uint64_t sum = 0;
    for (int i = 0; i < CR__DROPS; i++)
        sum += host->drops[i];
    return sum;
}

static inline struct cr__ip ip4(uint32_t address)
{
    return cr__ip_v4(__builtin_bswap32(address));
}

#endif
