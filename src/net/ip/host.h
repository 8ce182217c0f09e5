/* A host, in the sense of RFC 1122: one instance of the protocols, on one link, with addresses, routes and neighbours of its own. A network (crore/net.h) is one host for
 * each worker; nothing is shared between them.
 *
 * It calls no scheduler and looks at no clock: who drives it says what time it is, hands it what has arrived, and takes away what is to leave. So it runs as well in a test, in
 * virtual time, from one seed, with the same trace each time.
 *
 *     cr__host_input(host, packet, now)     what has arrived       } each may put packets into host->out, and change what
 *     cr__host_tick(host, now)              what is due            } sockets see, of which the layer above is told by
 *     calls of tcp.h, udp.h                 what the user wants    } the tables in host->above
 *
 * From the wire up: wire.h says what headers look like; ip.h is what lies between a frame and a segment (Ethernet, ARP, NDP, IPv4, IPv6, ICMP, reassembly, path MTU); tcp.h and
 * udp.h stand on it.
 *
 * Invariants:
 *   1. Every packet that is handed in is put, kept in a queue that has a bound, or in host->out; none is lost without being counted by its cause (enum cr__drop).
 *   2. Memory comes from slabs and the area of packets only; where there is none the packet is dropped and counted.
 *   3. now_ns never goes back. */
#ifndef CR__HOST_H
#define CR__HOST_H

#include <crore/packet.h>

#include "mem/mem.h"
#include "mem/packet.h"
#include "sched/wheel.h"

/* An address of either family; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct cr__ip {
    union {
        uint8_t bytes[16];
        uint32_t parts[4];
        uint64_t halves[2];
    };
};

static inline bool cr__ip_equal(const struct cr__ip *a, const struct cr__ip *b)
{
    return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static inline bool cr__ip_is_v4(const struct cr__ip *ip)
{
    return ip->halves[0] == 0 && ip->parts[2] == __builtin_bswap32(0xffff);
}

/* Bytes in the order of the wire. */
static inline struct cr__ip cr__ip_v4(uint32_t address)
{
    return (struct cr__ip){.halves = {0, (uint64_t)address << 32 | __builtin_bswap32(0xffff)}}; /* written as it is read: else who reads waits for the stores */
}

/* Why a packet was dropped, or what else happened that somebody may want to know: names in socket/stats.c. Others are added as they come to be needed. */
enum cr__drop {
    CR__DROP_FRAME_SHORT,      /* ethernet */
    CR__DROP_FRAME_TYPE,
    CR__DROP_FRAME_OTHERS,     /* not to our address */
    CR__DROP_IP_HEADER,        /* malformed: version, lengths, options */
    CR__DROP_IP_CHECKSUM,
    CR__DROP_IP_OTHERS,        /* not to an address of ours */
    CR__DROP_IP_SOURCE,        /* a source that can be nobody's: multicast, broadcast, our own (LAND) */
    CR__DROP_IP_PROTOCOL,
    CR__DROP_NO_ROUTE,
    CR__DROP_NEIGHBOUR_FULL,   /* too many wait for one neighbour's address */
    CR__DROP_NEIGHBOUR_FAILED, /* who did not answer */
    CR__DROP_FRAGMENT_OVERLAP,
    CR__DROP_FRAGMENT_TINY,
    CR__DROP_FRAGMENT_LIMIT,
    CR__DROP_FRAGMENT_TIMEOUT,
    CR__DROP_ARP_MALFORMED,
    CR__DROP_ARP_CONFLICT,     /* somebody else says that he has an address of ours (RFC 5227); the same of NDP */
    CR__DROP_NDP_MALFORMED,    /* hop limit that is not 255, options */
    CR__DROP_IP_OPTIONS,       /* a source route, a routing header, an option that asks to be dropped where it is not known */
    CR__DROP_FRAGMENT_LONG,    /* put together it would be more than fits: a packet's room, but for UDP */
    CR__DROP_ICMP_MALFORMED,
    CR__DROP_ICMP_TYPE,        /* one that a host has no use for */
    CR__DROP_ICMP_LIMIT,       /* an answer that was not sent, by the rate limit */
    CR__DROP_UDP_MALFORMED,
    CR__DROP_UDP_CHECKSUM,
    CR__DROP_UDP_NO_PORT,
    CR__DROP_UDP_FULL,
    CR__DROP_TCP_MALFORMED,
    CR__DROP_TCP_CHECKSUM,
    CR__DROP_TCP_NO_PORT,
    CR__DROP_TCP_WINDOW,       /* outside of the window */
    CR__DROP_TCP_PAWS,
    CR__DROP_TCP_ACK,          /* an ACK of what was never sent, or a blind one */
    CR__DROP_TCP_DUPLICATE,
    CR__DROP_TCP_FULL,         /* no room: beyond the receive buffer, no memory */
    CR__DROP_TCP_BACKLOG,
    CR__DROP_TCP_COOKIE,       /* a bad one */
    CR__DROP_TCP_LIMIT,        /* an answer that was not sent, by the rate limit: RST, challenge ACK */
    CR__DROP_TCP_ORPHAN,       /* a connection whose user has closed it was given up: what was left to send, its FIN at least, may not have arrived */
    CR__DROP_NO_PACKET,        /* no packet buffer was to be had */
    CR__DROP_LINK_FULL,        /* host->out or the link was full */
    CR__DROPS
};

/* What IP hands up: the packet's data is the header of TCP or UDP, and its size ends where that ends. Of UDP what was put together from fragments may be a chain (packet->next). */
struct cr__arrival {
    struct cr_packet *packet; /* the callee's */
    struct cr__ip from, to;   /* to: an address of the host's, or, for UDP, multicast or broadcast */
    uint8_t tos;              /* with ECN's two bits */
    uint8_t hops;             /* TTL or hop limit as it came */
    bool broadcast;           /* came, by frame or address, to many */
    const uint8_t *header;    /* IP's, in front of the data in the same packet: what an ICMP error quotes. NULL: there is none to be quoted */
};

/* What ICMP hands up: an error about a packet that this host, by its own account, has sent. Which it was is to be checked (RFC 5927). */
enum cr__ip_trouble { CR__NET_UNREACHABLE, CR__HOST_UNREACHABLE, CR__PORT_UNREACHABLE, CR__PROTOCOL_UNREACHABLE, CR__PROHIBITED, CR__TOO_BIG, CR__TIME_EXCEEDED };
struct cr__ip_error {
    enum cr__ip_trouble trouble;
    bool found;                 /* by this host itself: it is no ICMP's word, which anybody may send */
    uint16_t mtu_bytes;         /* of TOO_BIG; already within sense */
    struct cr__ip from, to;     /* of the packet that it is about: from is ours */
    uint8_t protocol;
    const uint8_t *transport;   /* the first bytes of its TCP or UDP header: at least 8 */
    size_t transport_bytes;
};

struct cr__host;

/* Who takes what IP hands up; NULL: such a protocol there is not. Filled in by tcp.c, udp.c, and by tests. */
struct cr__host_above {
    void (*tcp)(struct cr__host *host, const struct cr__arrival *in);
    void (*udp)(struct cr__host *host, const struct cr__arrival *in);
    void (*tcp_error)(struct cr__host *host, const struct cr__ip_error *error);
    void (*udp_error)(struct cr__host *host, const struct cr__ip_error *error);
    /* A timer of host->wheel has fired that is not ip's: whose it is its slab tells (cr__slab_of). Called by cr__host_tick alone. */
    void (*due)(struct cr__host *host, struct cr__timer *timer);
};

/* Packets in order. */
struct cr__packets {
    struct cr_packet *first, *last; /* last means nothing while first is NULL */
    uint32_t count;
};

static inline void cr__packets_push(struct cr__packets *list, struct cr_packet *packet)
{
    packet->next = NULL;
    if (list->first)
        list->last->next = packet;
    else
        list->first = packet;
    list->last = packet;
    list->count++;
}

/* NULL: none. */
static inline struct cr_packet *cr__packets_pop(struct cr__packets *list)
{
    struct cr_packet *packet = list->first;
    if (packet) {
        list->first = packet->next;
        list->count--;
    }
    return packet;
}

struct cr__host_address {
    struct cr__ip ip;
    uint8_t prefix_bits; /* of 128: an IPv4's are 96 more */
};

struct cr__host_route {
    struct cr__ip to;
    uint8_t prefix_bits;
    bool via;            /* by a gateway; else the net is on the link */
    struct cr__ip gateway;
};

/* Of a host that is one of several on one link, with the same addresses: one for each worker. Whose a connection is, is a keyed hash of its two ends, the same from either side. */
struct cr__share {
    uint64_t key[2];
    unsigned count, mine;        /* count 0: it is alone */
};

static inline uint64_t cr__share_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline unsigned cr__share_of(const struct cr__share *share, const struct cr__ip *a, uint16_t a_port, const struct cr__ip *b, uint16_t b_port)
{
    uint64_t one = cr__share_mix(a->halves[0] ^ share->key[0], a->halves[1] ^ (a_port + 1u) * 0x9e3779b97f4a7c15u ^ share->key[1]);
    uint64_t two = cr__share_mix(b->halves[0] ^ share->key[0], b->halves[1] ^ (b_port + 1u) * 0x9e3779b97f4a7c15u ^ share->key[1]);
    return (unsigned)((cr__share_mix((one + two) ^ share->key[1], 0x9e3779b97f4a7c15u ^ share->key[0]) >> 32) * share->count >> 32);
}

#define CR__HOST_ADDRESSES 8 /* the last one is kept for the link-local address of IPv6, which cr__host_init adds to config.addresses */
#define CR__HOST_ROUTES 16
#define CR__HOST_OUT_MOST 4096 /* packets that may wait for the link; a power of two */

struct cr__host_config {
    uint8_t ethernet[6];
    uint16_t mtu_bytes;        /* 0: 1500; 576 (IPv4) or 1280 at least, 1800 at most */
    bool no_checksums;         /* the link's CR_LINK_NO_CHECKSUMS */
    unsigned address_count, route_count;
    struct cr__host_address addresses[CR__HOST_ADDRESSES];
    struct cr__host_route routes[CR__HOST_ROUTES]; /* on-link ones of the addresses' own prefixes need not be named */
    struct cr__packet_cache *packets; /* the worker's; NULL: the host has one of its own */
    struct cr__share share;    /* which connections are its own */
    uint64_t seed[2];          /* of the host's random numbers and secrets: from the kernel's entropy, or a test's seed */
};

/* Frames that wait for the link. Not chained through packet->next: a segment that waits here is in its connection's send queue as well, and chained there. */
struct cr__outgoing {
    struct cr_packet *packets[CR__HOST_OUT_MOST];
    uint32_t first, count;
};

struct cr__ip_layer;  /* ip/ip.h */
struct cr__tcp_layer; /* tcp/tcp.h */
struct cr__udp_layer; /* udp/udp.h */

struct cr__host {
    int64_t now_ns;                 /* what it was told last */
    struct cr__outgoing out;          /* frames for the link, in order; emptied by who drives the host */
    struct cr__wheel wheel;         /* all timers of the host's: ip's own lie in host->ip, the others are told by above.due */
    struct cr__packet_cache *packets, own_packets;
    struct cr__host_above above;
    struct cr__host_config config;
    struct cr__ip_layer *ip;
    struct cr__tcp_layer *tcp;
    struct cr__udp_layer *udp;
    uint64_t random[2];             /* state of cr__host_random */
    uint64_t secret[2];             /* key of the hashes that an outsider must not guess */
    uint64_t drops[CR__DROPS];
    uint64_t received, sent;
};

/* A host that lives at the caller's place; fini puts all packets and frees all it has. 0, -EINVAL, -ENOMEM. */
int cr__host_init(struct cr__host *host, const struct cr__host_config *config, int64_t now_ns);
void cr__host_fini(struct cr__host *host);

/* A frame, whose only reference is the callee's from here on. */
void cr__host_input(struct cr__host *host, struct cr_packet *frame, int64_t now_ns);

/* Fires what is due. Returns when it is to be called again, at the latest; INT64_MAX: when something has happened. */
int64_t cr__host_tick(struct cr__host *host, int64_t now_ns);

/* The next frame for the link, whose reference is the caller's from here on; NULL: none. */
static inline struct cr_packet *cr__host_pop(struct cr__host *host)
{
    struct cr__outgoing *out = &host->out;
    if (out->count == 0)
        return NULL;
    struct cr_packet *frame = out->packets[out->first];
    out->first = (out->first + 1) & (CR__HOST_OUT_MOST - 1);
    out->count--;
    return frame;
}

/* The same for many, as cr_link_send takes them: where the next ones lie, *count of them, one at least while there are any; and that so many of them were taken. */
static inline struct cr_packet **cr__host_peek(struct cr__host *host, uint32_t *count)
{
    struct cr__outgoing *out = &host->out;
    *count = out->count < CR__HOST_OUT_MOST - out->first ? out->count : CR__HOST_OUT_MOST - out->first;
    return out->packets + out->first;
}

static inline void cr__host_taken(struct cr__host *host, uint32_t count)
{
    host->out.first = (host->out.first + count) & (CR__HOST_OUT_MOST - 1);
    host->out.count -= count;
}

static inline void cr__host_count(struct cr__host *host, enum cr__drop cause)
{
    host->drops[cause]++;
}

/* Counts, and puts the packet. */
void cr__host_drop(struct cr__host *host, struct cr_packet *packet, enum cr__drop cause);

/* Of a datagram in pieces, chained through `next`: puts all of them; and their sizes together. */
void cr__host_put(struct cr__host *host, struct cr_packet *chain);
size_t cr__chain_bytes(const struct cr_packet *chain);

/* Pseudo-random, by the seed (xoroshiro128+): for jitter, not for secrets. */
uint64_t cr__host_random(struct cr__host *host);

/* SipHash-2-4 of some bytes under host->secret: ISNs, ports, cookies, tables. */
uint64_t cr__host_hash(const struct cr__host *host, const void *bytes, size_t size_bytes);

/* ---- What is told of it (neighbour.c) -------------------------------------------------------------------------- */

struct cr__neighbour_told {
    struct cr__ip ip;
    uint8_t ethernet[6]; /* zeroes: not known */
    const char *state;
};

/* Calls fn for each neighbour, `most` at most. */
void cr__host_neighbours(const struct cr__host *host, unsigned most, void (*fn)(const struct cr__neighbour_told *neighbour, void *arg), void *arg);

/* ---- What ip gives to the protocols above (ip.c) -------------------------------------------------------------- */

/* Sends a packet whose data is the header of TCP or UDP, checksum included. It is the callee's from here on: the link gets it, or a neighbour's queue, or it is dropped and
 * counted; if others hold references too, headers are written in front of its data all the same. from: an address of the host's. tos: with ECN's bits. Needs room for 54 bytes
 * in front. Fragments what does not fit, if that is allowed (`fragment`: UDP); else IPv4's DF is set.
 * 0; -EMSGSIZE (too long, and not to be fragmented), -ENETUNREACH (no route), -EHOSTUNREACH (who is to take it did not answer, not long ago): then it has been put, too. */
int cr__ip_send(struct cr__host *host, struct cr_packet *packet, const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, uint8_t tos, bool fragment);

/* What fits into one packet to there, IP header included: the link's, or what has been learned of the path (RFC 1191, 8201). */
uint16_t cr__ip_mtu(struct cr__host *host, const struct cr__ip *to);

/* Notes what a TOO_BIG says of the path. By TCP and UDP, once they have found the error to be about something that they have in flight (RFC 5927): ip itself believes none. */
void cr__ip_too_big(struct cr__host *host, const struct cr__ip *to, uint16_t mtu_bytes);

/* The address to send from (RFC 6724, in short: same family, longest prefix in common with what it goes to). -ENETUNREACH, -EADDRNOTAVAIL. */
int cr__ip_source(struct cr__host *host, const struct cr__ip *to, struct cr__ip *out);
bool cr__ip_is_ours(const struct cr__host *host, const struct cr__ip *ip);
bool cr__ip_is_multicast(const struct cr__ip *ip);
bool cr__ip_is_link_local(const struct cr__ip *ip);
unsigned cr__ip_common_bits(const struct cr__ip *a, const struct cr__ip *b); /* how many from the first on are the same */
bool cr__ip_is_broadcast(const struct cr__host *host, const struct cr__ip *ip); /* IPv4: limited, or directed to a net of ours */

/* Puts headers in front of an arrival's packet, IP's and Ethernet's: a frame again, from nobody in particular, that another host of the same addresses can be given. False: there is no
 * room for them, and nothing is done. */
bool cr__ip_frame_again(const struct cr__host *host, const struct cr__arrival *in, uint8_t protocol);

/* That who is there has answered us just now, so need not be probed (RFC 4861, 7.3.1). */
void cr__ip_reachable(struct cr__host *host, const struct cr__ip *to);

/* The opposite: who is there has not answered for long (RFC 9293, 3.8.3: R1). Who is next on the way to there is asked at once whether he still is, instead of when he has not been heard of for half a minute. */
void cr__ip_doubt(struct cr__host *host, const struct cr__ip *to);

/* The sum of the pseudo header (RFC 9293, 3.1; 8200, 8.1), not yet folded nor complemented: for cr__wire_checksum. */
uint32_t cr__ip_pseudo_sum(const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, uint32_t size_bytes);

/* An ICMP error about `in`, whose packet stays the caller's: port unreachable (rate limited, and none where none may be sent: RFC 1122, 3.2.2; 4443, 2.4). */
void cr__icmp_unreachable(struct cr__host *host, const struct cr__arrival *in, enum cr__ip_trouble trouble);

#endif
