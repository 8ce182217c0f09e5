#include "net/ip/ip.h"

#define LEAST4 576
#define MOST 1800

/* ---- Numbers ------------------------------------------------------------------------------------------------- */

static inline uint64_t rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

/* Aumasson and Bernstein 2012: two rounds for each word, four at the end. */
static inline void sip_rounds(uint64_t v[4], unsigned count)
{
    while (count-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

uint64_t cr__siphash(const uint64_t key[2], const void *bytes, size_t size_bytes)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    const uint8_t *at = bytes;
    uint64_t word;
    for (size_t left = size_bytes; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, 8);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    word = (uint64_t)size_bytes << 56;
    for (size_t i = 0; i < (size_bytes & 7); i++)
        word |= (uint64_t)at[i] << (8 * i);
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t cr__host_hash(const struct cr__host *host, const void *bytes, size_t size_bytes)
{
    return cr__siphash(host->secret, bytes, size_bytes);
}

/* Blackman and Vigna 2018. */
uint64_t cr__host_random(struct cr__host *host)
{
    uint64_t a = host->random[0], b = host->random[1], value = a + b;
    b ^= a;
    host->random[0] = rotate(a, 24) ^ b ^ (b << 16);
    host->random[1] = rotate(b, 37);
    return value;
}

/* The state of the random numbers can be told from what they were: so it comes from the secret by what cannot be turned round. */
static void seed(struct cr__host *host)
{
    memcpy(host->secret, host->config.seed, sizeof(host->secret));
    host->random[0] = cr__host_hash(host, "random, first", 13) | 1; /* never all zeroes */
    host->random[1] = cr__host_hash(host, "random, second", 14);
}

/* ---- Packets ------------------------------------------------------------------------------------------------- */

struct cr_packet *cr__host_packet(struct cr__host *host)
{
    struct cr_packet *packet = cr__packet_get(host->packets);
    if (!packet) {
        cr__host_count(host, CR__DROP_NO_PACKET);
        return NULL;
    }
    packet->next = NULL;
    return packet;
}

/* Of a chain each has one reference, as far as it has a next. */
void cr__host_put(struct cr__host *host, struct cr_packet *chain)
{
    while (chain) {
        struct cr_packet *next = chain->next;
        cr__packet_put(host->packets, chain);
        chain = next;
    }
}

void cr__host_drop(struct cr__host *host, struct cr_packet *packet, enum cr__drop cause)
{
    cr__host_count(host, cause);
    cr__packet_put(host->packets, packet);
}

/* ---- Life ---------------------------------------------------------------------------------------------------- */

/* RFC 4862, 5.3; the identifier is the Ethernet address's (RFC 4291, appendix A). */
static void add_link_local(struct cr__host_config *config)
{
    const uint8_t *e = config->ethernet;
    struct cr__ip ip = {.bytes = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, e[0] ^ 2, e[1], e[2], 0xff, 0xfe, e[3], e[4], e[5]}};
    for (unsigned i = 0; i < config->address_count; i++)
        if (cr__ip_is_link_local(&config->addresses[i].ip))
            return;
    config->addresses[config->address_count++] = (struct cr__host_address){.ip = ip, .prefix_bits = 64};
}

static bool is_address(const struct cr__host_address *address)
{
    return !cr__ip_is_zero(&address->ip) && !cr__ip_is_multicast(&address->ip) && address->prefix_bits <= 128 && (!cr__ip_is_v4(&address->ip) || address->prefix_bits >= 96);
}

static bool is_route(const struct cr__host_route *route)
{
    bool v4 = cr__ip_is_v4(&route->to);
    return route->prefix_bits <= 128 && (!v4 || route->prefix_bits >= 96) && (!route->via || cr__ip_is_v4(&route->gateway) == v4);
}

static int check_config(struct cr__host_config *config)
{
    if (config->mtu_bytes == 0)
        config->mtu_bytes = 1500;
    if (config->mtu_bytes < LEAST4 || config->mtu_bytes > MOST || (config->ethernet[0] & 1))
        return -EINVAL;
    if (config->address_count >= CR__HOST_ADDRESSES || config->route_count > CR__HOST_ROUTES)
        return -EINVAL;
    for (unsigned i = 0; i < config->address_count; i++)
        if (!is_address(&config->addresses[i]) || (!cr__ip_is_v4(&config->addresses[i].ip) && config->mtu_bytes < CR__PATH_LEAST6))
            return -EINVAL;
    for (unsigned i = 0; i < config->route_count; i++)
        if (!is_route(&config->routes[i]))
            return -EINVAL;
    if (config->mtu_bytes >= CR__PATH_LEAST6) /* below there is no IPv6 */
        add_link_local(config);
    return 0;
}

int cr__host_init(struct cr__host *host, const struct cr__host_config *config, int64_t now_ns)
{
    struct cr__host_config checked = *config;
    int error = check_config(&checked);
    if (error)
        return error;
    memset(host, 0, sizeof(*host));
    host->config = checked;
    host->now_ns = now_ns;
    host->packets = config->packets ? config->packets : &host->own_packets;
    cr__wheel_init(&host->wheel, now_ns);
    seed(host);
    host->ip = cr__mem_alloc(sizeof(*host->ip), CR__MEM_OTHER);
    if (!host->ip)
        return -ENOMEM;
    host->ip->epoch = 1;
    for (size_t i = 0; i < CR__COUNT(host->ip->ids); i++)
        host->ip->ids[i] = (uint16_t)cr__host_random(host);
    cr__neighbour_init(host->ip);
    return 0;
}

void cr__host_fini(struct cr__host *host)
{
    if (!host->ip)
        return;
    cr__neighbour_fini(host);
    cr__fragment_fini(host);
    cr__host_put(host, host->ip->loop.first);
    for (struct cr_packet *frame; (frame = cr__host_pop(host)) != NULL;)
        cr__packet_put(host->packets, frame);
    if (host->packets == &host->own_packets)
        cr__packet_flush(host->packets);
    cr__mem_free(host->ip, sizeof(*host->ip), CR__MEM_OTHER);
    host->ip = NULL;
}

/* ---- Time ---------------------------------------------------------------------------------------------------- */

static void is_now(struct cr__host *host, int64_t now_ns)
{
    CR__ASSERT(now_ns >= host->now_ns);
    host->now_ns = now_ns;
}

void cr__host_input(struct cr__host *host, struct cr_packet *frame, int64_t now_ns)
{
    is_now(host, now_ns);
    host->received++;
    frame->next = NULL;
    cr__ethernet_input(host, frame);
    if (CR__UNLIKELY(host->ip->loop.first))
        cr__ip_loop(host);
}

static bool within(const void *at, const void *begin, size_t size_bytes)
{
    return (uintptr_t)at - (uintptr_t)begin < size_bytes;
}

static void fire(struct cr__timer *timer, void *arg)
{
    struct cr__host *host = arg;
    struct cr__ip_layer *ip = host->ip;
    if (!within(timer, ip, sizeof(*ip))) {
        if (host->above.due)
            host->above.due(host, timer);
    } else if (within(timer, ip->neighbours, sizeof(ip->neighbours))) {
        cr__neighbour_due(host, CR__CONTAINER(timer, struct cr__neighbour, timer));
    } else if (within(timer, ip->reassemblies, sizeof(ip->reassemblies))) {
        cr__fragment_due(host, CR__CONTAINER(timer, struct cr__reassembly, timer));
    } else {
        cr__ip_loop(host);
    }
}

int64_t cr__host_tick(struct cr__host *host, int64_t now_ns)
{
    is_now(host, now_ns);
    cr__wheel_fire(&host->wheel, now_ns, fire, host);
    int64_t wait_ns = cr__wheel_next(&host->wheel, now_ns);
    return wait_ns < 0 ? INT64_MAX : now_ns + wait_ns;
}
