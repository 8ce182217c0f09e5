#include "net/ip/ip.h"

/* ---- Kinds of addresses -------------------------------------------------------------------------------------- */

bool cr__ip_is_multicast(const struct cr__ip *ip)
{
    return cr__ip_is_v4(ip) ? (ip->bytes[12] & 0xf0) == 0xe0 : ip->bytes[0] == 0xff;
}

bool cr__ip_is_link_local(const struct cr__ip *ip)
{
    return ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80;
}

unsigned cr__ip_common_bits(const struct cr__ip *a, const struct cr__ip *b)
{
    for (unsigned i = 0; i < 2; i++) {
        uint64_t differs = __builtin_bswap64(a->halves[i] ^ b->halves[i]);
        if (differs)
            return 64 * i + 63 - cr__bits_highest(differs);
    }
    return 128;
}

bool cr__ip_is_broadcast(const struct cr__host *host, const struct cr__ip *ip)
{
    if (!cr__ip_is_v4(ip))
        return false;
    if (ip->parts[3] == UINT32_MAX)
        return true;
    for (unsigned i = 0; i < host->config.address_count; i++) {
        const struct cr__host_address *own = &host->config.addresses[i];
        if (!cr__ip_is_v4(&own->ip) || own->prefix_bits > 126 || cr__ip_common_bits(&own->ip, ip) < own->prefix_bits) /* of 31 bits: RFC 3021 */
            continue;
        uint32_t rest = UINT32_MAX >> (own->prefix_bits - 96);
        if ((__builtin_bswap32(ip->parts[3]) & rest) == rest)
            return true;
    }
    return false;
}

bool cr__ip_is_ours(const struct cr__host *host, const struct cr__ip *ip)
{
    for (unsigned i = 0; i < host->config.address_count; i++)
        if (cr__ip_equal(&host->config.addresses[i].ip, ip))
            return true;
    return false;
}

/* RFC 4291, 2.7.1. */
struct cr__ip cr__ip_solicited_node(const struct cr__ip *ip)
{
    return (struct cr__ip){.bytes = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ip->bytes[13], ip->bytes[14], ip->bytes[15]}};
}

/* All hosts of the link, all nodes of the interface or the link, and who is asked for an address of ours. */
bool cr__ip_joined(const struct cr__host *host, const struct cr__ip *group)
{
    static const struct cr__ip all = {.bytes = {0xff, 2, [15] = 1}}, interface_all = {.bytes = {0xff, 1, [15] = 1}};
    if (cr__ip_is_v4(group))
        return group->parts[3] == __builtin_bswap32(0xe0000001);
    if (cr__ip_equal(group, &all) || cr__ip_equal(group, &interface_all))
        return true;
    for (unsigned i = 0; i < host->config.address_count; i++) {
        struct cr__ip solicited = cr__ip_solicited_node(&host->config.addresses[i].ip);
        if (!cr__ip_is_v4(&host->config.addresses[i].ip) && cr__ip_equal(&solicited, group))
            return true;
    }
    return false;
}

/* ---- Where to ------------------------------------------------------------------------------------------------ */

static bool covers(const struct cr__ip *net, unsigned prefix_bits, const struct cr__ip *ip)
{
    return cr__ip_is_v4(net) == cr__ip_is_v4(ip) && cr__ip_common_bits(net, ip) >= prefix_bits;
}

/* The next hop: the longest prefix wins; of equal ones the net that an address of ours is in, then who is named first. */
int cr__ip_next_hop(const struct cr__host *host, const struct cr__ip *to, struct cr__ip *out)
{
    const struct cr__host_config *config = &host->config;
    int longest = -1;
    for (unsigned i = 0; i < config->address_count; i++) {
        const struct cr__host_address *own = &config->addresses[i];
        if ((int)own->prefix_bits > longest && covers(&own->ip, own->prefix_bits, to)) {
            longest = own->prefix_bits;
            *out = *to;
        }
    }
    for (unsigned i = 0; i < config->route_count; i++) {
        const struct cr__host_route *route = &config->routes[i];
        if ((int)route->prefix_bits > longest && covers(&route->to, route->prefix_bits, to)) {
            longest = route->prefix_bits;
            *out = route->via ? route->gateway : *to;
        }
    }
    return longest < 0 ? -ENETUNREACH : 0;
}

bool cr__ip_on_link(const struct cr__host *host, const struct cr__ip *ip)
{
    struct cr__ip hop;
    return cr__ip_next_hop(host, ip, &hop) == 0 && cr__ip_equal(&hop, ip);
}

static bool leaves_to_many(const struct cr__host *host, const struct cr__ip *to)
{
    return cr__ip_is_multicast(to) || cr__ip_is_broadcast(host, to);
}

/* What never leaves a host: no address at all, and 127.0.0.0/8, ::1. */
static bool never_leaves(const struct cr__ip *to)
{
    static const struct cr__ip self = {.bytes = {[15] = 1}};
    return cr__ip_is_zero(to) || (cr__ip_is_v4(to) ? to->bytes[12] == 127 : cr__ip_equal(to, &self));
}

static bool has_family(const struct cr__host *host, bool v4)
{
    for (unsigned i = 0; i < host->config.address_count; i++)
        if (cr__ip_is_v4(&host->config.addresses[i].ip) == v4)
            return true;
    return false;
}

int cr__way_find(struct cr__host *host, const struct cr__ip *to, struct cr__way *out)
{
    bool v4 = cr__ip_is_v4(to);
    struct cr__ip hop;
    uint8_t ethernet[6];
    *out = (struct cr__way){.to = *to, .epoch = host->ip->epoch, .ours = cr__ip_is_ours(host, to)};
    if (never_leaves(to) || !has_family(host, v4))
        return -ENETUNREACH;
    out->mtu_bytes = cr__path_mtu(host, to, &out->until_ns);
    if (!out->ours && !leaves_to_many(host, to)) {
        int error = cr__ip_next_hop(host, to, &hop);
        if (error)
            return error;
        out->neighbour = cr__neighbour_use(host, &hop);
        if (!out->neighbour)
            return -EHOSTUNREACH;
        memcpy(ethernet, out->neighbour->ethernet, 6);
    } else {
        cr__ethernet_many(to, ethernet);
    }
    cr__ethernet_header(host, out->header, ethernet, v4 ? CR__ETHER_IP4 : CR__ETHER_IP6);
    out->epoch = host->ip->epoch; /* to use a neighbour may have begun a new one */
    if (!out->neighbour || out->neighbour->state == CR__NEIGHBOUR_REACHABLE || out->neighbour->state == CR__NEIGHBOUR_PERMANENT)
        *cr__way_slot(host->ip, to) = *out;
    return 0;
}

/* ---- Where from ---------------------------------------------------------------------------------------------- */

int cr__ip_source(struct cr__host *host, const struct cr__ip *to, struct cr__ip *out)
{
    bool v4 = cr__ip_is_v4(to), near = cr__ip_is_link_local(to) || (!v4 && to->bytes[0] == 0xff && (to->bytes[1] & 0xf) <= 2);
    int best = -1;
    struct cr__ip hop;
    if (never_leaves(to) || (!leaves_to_many(host, to) && cr__ip_next_hop(host, to, &hop)))
        return -ENETUNREACH;
    for (unsigned i = 0; i < host->config.address_count; i++) {
        const struct cr__ip *own = &host->config.addresses[i].ip;
        if (cr__ip_is_v4(own) != v4 || (!v4 && cr__ip_is_link_local(own) != near))
            continue; /* RFC 6724, 5, rule 2: of the scope that it goes to */
        int common = (int)cr__ip_common_bits(own, to);
        if (common > best) {
            best = common;
            *out = *own;
        }
    }
    return best < 0 ? -EADDRNOTAVAIL : 0;
}
