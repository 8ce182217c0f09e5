/* What is known of paths that take less than the link (RFC 1191, 8201). A table of sets of four: who came first makes room. What is known is forgotten after ten minutes, so a
 * path that has become wider is found again; it never grows by what an ICMP says. Whether an ICMP is believed the transport decides (RFC 5927). */
#include "net/ip/ip.h"

static struct cr__path *set_of(struct cr__host *host, const struct cr__ip *to)
{
    return &host->ip->paths[cr__host_hash(host, to, sizeof(*to)) % (CR__PATHS / CR__PATH_SET) * CR__PATH_SET];
}

uint16_t cr__path_mtu(struct cr__host *host, const struct cr__ip *to, int64_t *until_ns)
{
    const struct cr__path *set = set_of(host, to);
    *until_ns = INT64_MAX;
    for (unsigned i = 0; i < CR__PATH_SET; i++) {
        if (set[i].until_ns > host->now_ns && cr__ip_equal(&set[i].to, to)) {
            *until_ns = set[i].until_ns;
            return set[i].mtu_bytes;
        }
    }
    return host->config.mtu_bytes;
}

void cr__ip_too_big(struct cr__host *host, const struct cr__ip *to, uint16_t mtu_bytes)
{
    struct cr__path *set = set_of(host, to), *path = &set[0];
    uint16_t least = cr__ip_is_v4(to) ? CR__PATH_LEAST4 : CR__PATH_LEAST6;
    int64_t until_ns;
    mtu_bytes = mtu_bytes < least ? least : mtu_bytes;
    if (mtu_bytes >= cr__path_mtu(host, to, &until_ns))
        return;
    for (unsigned i = 0; i < CR__PATH_SET; i++) {
        if (cr__ip_equal(&set[i].to, to)) {
            path = &set[i];
            break;
        }
        if (set[i].until_ns < path->until_ns)
            path = &set[i];
    }
    *path = (struct cr__path){.to = *to, .until_ns = host->now_ns + CR__PATH_NS, .mtu_bytes = mtu_bytes};
    cr__way_forget_all(host->ip);
}

uint16_t cr__path_plateau(uint16_t total_bytes)
{
    static const uint16_t plateaus[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, CR__PATH_LEAST4};
    for (unsigned i = 0; i < CR__COUNT(plateaus); i++)
        if (plateaus[i] < total_bytes)
            return plateaus[i];
    return CR__PATH_LEAST4;
}
