/* What the files of this room owe each other: between a frame and a segment. What others may call is in host.h.
 *
 *     host.c       a host's life, random numbers, keyed hashes; which timer is whose
 *     ethernet.c   frames in, frames out
 *     route.c      our addresses; where something goes to, and from which address; the way there, remembered
 *     neighbour.c  who has which Ethernet address: ARP (RFC 826, 5227) and NDP (RFC 4861), in one table
 *     ip4.c ip6.c  headers: looked at, and written
 *     ip.c         what both have in common: sending, handing up, what a host sends to itself
 *     fragment.c   reassembly (RFC 815 in spirit, 5722, 6946), and fragments to be sent
 *     icmp.c       ICMP and ICMPv6: echo, errors in both directions
 *     path.c       path MTU (RFC 1191, 8201)
 *
 * All tables are arrays of a fixed size inside struct cr__ip_layer, so nothing here can run out of memory but packets.
 *
 * Invariants:
 *   1. A way (struct cr__way) is believed while its epoch is the layer's: whoever changes what ways are made of (a neighbour's address or state, a path's MTU, routes) begins a
 *      new epoch.
 *   2. What waits for a neighbour has its IP header in front, and no Ethernet header yet.
 *   3. Nothing above is called by what it has called itself: errors that IP finds on its own are told by timers, what a host sends to itself arrives by cr__host_tick or the
 *      next arrival. */
#ifndef CR__IP_H
#define CR__IP_H

#include "net/ip/host.h"
#include "net/wire/wire.h"

#define CR__SECOND_NS ((int64_t)1000000000)

/* ---- Neighbours ---------------------------------------------------------------------------------------------- */

#define CR__NEIGHBOURS 1024
#define CR__NEIGHBOUR_BUCKETS 1024
#define CR__NEIGHBOUR_WAITING 32         /* datagrams that wait for one's address: so many connections may open at once; the oldest makes room (RFC 1122, 2.3.2.2 wants the latest kept) */
#define CR__NEIGHBOURS_WAITING 1024      /* packets that wait, in all */
#define CR__NEIGHBOUR_RETRY_NS CR__SECOND_NS      /* RFC 4861, 10; ARP: 1122, 2.3.2.1 */
#define CR__NEIGHBOUR_TRIES 3
#define CR__NEIGHBOUR_DELAY_NS (5 * CR__SECOND_NS)
#define CR__NEIGHBOUR_REACHABLE_NS (30 * CR__SECOND_NS) /* times 0.5 to 1.5 */
#define CR__NEIGHBOUR_FAILED_NS (3 * CR__SECOND_NS)     /* for so long who has not answered is not asked again */
#define CR__NEIGHBOUR_STALE_NS (1200 * CR__SECOND_NS)   /* then it is forgotten */

enum cr__neighbour_state {
    CR__NEIGHBOUR_FREE,
    CR__NEIGHBOUR_INCOMPLETE, /* asked; its address is not known */
    CR__NEIGHBOUR_REACHABLE,
    CR__NEIGHBOUR_STALE,      /* known, but not whether it is still there: the next packet to it makes it DELAY */
    CR__NEIGHBOUR_DELAY,      /* something was sent: perhaps a layer above hears of it */
    CR__NEIGHBOUR_PROBE,      /* nobody has: asked, directly */
    CR__NEIGHBOUR_FAILED,
    CR__NEIGHBOUR_PERMANENT,  /* by configuration */
};

/* A datagram that waits: one packet, which somebody above may hold as well, or the fragments of one, chained. */
struct cr__waiting {
    struct cr_packet *packet;
    bool chain;
};

struct cr__neighbour {
    struct cr__ip ip;
    uint8_t ethernet[6];
    uint8_t state;            /* of enum cr__neighbour_state */
    uint8_t tries;
    bool touched;             /* used since it was last looked whether it may go */
    uint8_t waiting_count;
    struct cr__neighbour *next; /* in its bucket, or free */
    struct cr__list age;      /* in layer->ages: from who came first; permanent ones are in no list */
    struct cr__timer timer;
    int64_t confirmed_ns;     /* REACHABLE: when it was last heard of */
    struct cr__waiting waiting[CR__NEIGHBOUR_WAITING];
};

/* ---- Ways ---------------------------------------------------------------------------------------------------- */

#define CR__WAYS 64

/* How to send to one destination: what the last packet to it found out. */
struct cr__way {
    struct cr__ip to;
    struct cr__neighbour *neighbour; /* NULL: many (broadcast, multicast), or ourselves */
    int64_t until_ns;                /* what it knows of the path's MTU grows old */
    uint32_t epoch;
    uint16_t mtu_bytes;
    bool ours;                       /* to ourselves */
    uint8_t header[CR__ETHERNET_BYTES];
};

/* ---- Paths --------------------------------------------------------------------------------------------------- */

#define CR__PATHS 256
#define CR__PATH_SET 4                   /* looked at together */
#define CR__PATH_NS (600 * CR__SECOND_NS)
#define CR__PATH_LEAST4 552              /* RFC 1191 would have 68: smaller ones are a means of attack, and nobody's honest link */
#define CR__PATH_LEAST6 1280

struct cr__path {
    struct cr__ip to;
    int64_t until_ns;                    /* 0: free */
    uint16_t mtu_bytes;
};

/* ---- Reassembly ---------------------------------------------------------------------------------------------- */

#define CR__REASSEMBLIES 64
#define CR__REASSEMBLY_PACKETS 128       /* of one datagram: 65,535 bytes at the smallest MTU that there is */
#define CR__REASSEMBLY_PACKETS_SOURCE 256 /* packet buffers held, of 2 KiB each, whatever is in them */
#define CR__REASSEMBLY_PACKETS_HOST 1024
#define CR__REASSEMBLY_NS4 (30 * CR__SECOND_NS)
#define CR__REASSEMBLY_NS6 (60 * CR__SECOND_NS) /* RFC 8200, 4.5 */

/* A datagram of which fragments have come. */
struct cr__reassembly {
    bool used;
    bool spoiled;                 /* fragments overlapped: what still comes of it is dropped (RFC 5722) */
    uint8_t protocol, tos, hops;
    bool broadcast;
    uint32_t id;
    struct cr__ip from, to;
    struct cr_packet *first;      /* by offset, without overlaps */
    uint32_t count, got_bytes;
    uint32_t whole_bytes;         /* 0: the last one has not come */
    int64_t since_ns;
    struct cr__timer timer;
};

/* ---- The layer ----------------------------------------------------------------------------------------------- */

#define CR__LOOP_MOST 1024

/* How many may leave: one more each interval, up to a burst. */
struct cr__bucket {
    int64_t full_ns; /* when it will be, or was, full */
};

struct cr__ip_layer {
    uint32_t epoch;
    struct cr__way ways[CR__WAYS];
    uint16_t ids[256];                   /* of IPv4 datagrams that may be fragmented, by hash of source, destination and protocol (RFC 6864, 4.2) */
    uint64_t ids6;                       /* counts; what is sent is its hash */

    struct cr__neighbour *buckets[CR__NEIGHBOUR_BUCKETS], *neighbours_free;
    struct cr__list ages;
    uint32_t neighbours_used, neighbours_permanent, packets_waiting;

    struct cr__packets loop;             /* to ourselves: each the only reference */
    struct cr__timer loop_timer;

    uint32_t fragments_held;
    struct cr__bucket errors, echoes;

    struct cr__path paths[CR__PATHS];
    struct cr__reassembly reassemblies[CR__REASSEMBLIES];
    struct cr__neighbour neighbours[CR__NEIGHBOURS];
};

/* host.c */
uint64_t cr__siphash(const uint64_t key[2], const void *bytes, size_t size_bytes);
struct cr_packet *cr__host_packet(struct cr__host *host); /* NULL: none, counted */

/* ethernet.c */
void cr__ethernet_input(struct cr__host *host, struct cr_packet *frame);
void cr__ethernet_output(struct cr__host *host, struct cr_packet *packet, const uint8_t header[CR__ETHERNET_BYTES]);
void cr__ethernet_header(const struct cr__host *host, uint8_t out[CR__ETHERNET_BYTES], const uint8_t to[6], enum cr__ether_type type);
void cr__ethernet_many(const struct cr__ip *to, uint8_t out[6]); /* to: multicast, or IPv4's broadcast */

/* route.c */
bool cr__ip_joined(const struct cr__host *host, const struct cr__ip *group);
bool cr__ip_on_link(const struct cr__host *host, const struct cr__ip *ip);
int cr__ip_next_hop(const struct cr__host *host, const struct cr__ip *to, struct cr__ip *out); /* 0, -ENETUNREACH */
struct cr__ip cr__ip_solicited_node(const struct cr__ip *ip);
/* Finds the way, and remembers it if it may. out->neighbour may be one whose address is not known yet. 0, -ENETUNREACH, -EHOSTUNREACH. */
int cr__way_find(struct cr__host *host, const struct cr__ip *to, struct cr__way *out);

static inline struct cr__way *cr__way_slot(struct cr__ip_layer *ip, const struct cr__ip *to)
{
    uint64_t mixed = (to->halves[0] ^ to->halves[1]) * 0x9e3779b97f4a7c15u;
    return &ip->ways[mixed >> 58];
}
_Static_assert(CR__WAYS == 64, "as cr__way_slot has it");

static inline void cr__way_forget_all(struct cr__ip_layer *ip)
{
    ip->epoch++;
}

/* neighbour.c */
void cr__neighbour_init(struct cr__ip_layer *ip);
void cr__neighbour_fini(struct cr__host *host);
struct cr__neighbour *cr__neighbour_find(struct cr__host *host, const struct cr__ip *ip);
/* For who wants to send there: begins to ask where that is due. NULL: it has failed. */
struct cr__neighbour *cr__neighbour_use(struct cr__host *host, const struct cr__ip *ip);
bool cr__neighbour_known(const struct cr__neighbour *neighbour); /* its Ethernet address */
void cr__neighbour_wait(struct cr__host *host, struct cr__neighbour *neighbour, struct cr__waiting waiting);
void cr__neighbour_due(struct cr__host *host, struct cr__neighbour *neighbour);
int cr__neighbour_add(struct cr__host *host, const struct cr__ip *ip, const uint8_t ethernet[6]); /* permanent. 0, -ENOSPC. For tests, which so need no ARP */
void cr__arp_input(struct cr__host *host, struct cr_packet *packet);
void cr__ndp_input(struct cr__host *host, const struct cr__arrival *in);

/* ip.c, ip4.c, ip6.c. What is to be sent; hops 0: the default. */
struct cr__sending {
    struct cr__ip from, to;
    uint8_t protocol, tos, hops;
    bool fragment;
};
#define CR__IP_HOPS 64

void cr__ip4_input(struct cr__host *host, struct cr_packet *packet, bool to_many, bool loop);
void cr__ip6_input(struct cr__host *host, struct cr_packet *packet, bool to_many, bool loop);
/* The header in front. id and fragment: IPv4's two fields, in the order of this machine. */
void cr__ip4_push(struct cr_packet *packet, const struct cr__sending *what, uint16_t id, uint16_t fragment);
void cr__ip6_push(struct cr_packet *packet, const struct cr__sending *what);
int cr__ip_output(struct cr__host *host, struct cr_packet *packet, const struct cr__sending *what);
/* Of datagrams that are cut, or of IPv4 may be on their way, each has an identification that no other from and to the same places has had for long (RFC 6864, 4.2; 7739, 5.3).
 * Those that may not be cut need none. */
uint32_t cr__ip_id(struct cr__host *host, const struct cr__sending *what);
/* A packet with its IP header, on a way that has been found. */
void cr__ip_leave(struct cr__host *host, struct cr_packet *packet, const struct cr__way *way);
/* To whom a protocol belongs. next_at: where it is said, from the header on (ICMPv6's problems). */
void cr__ip_deliver(struct cr__host *host, const struct cr__arrival *in, uint8_t protocol, size_t next_at);
bool cr__ip_deliver_known(struct cr__host *host, const struct cr__arrival *in, uint8_t protocol); /* false: nobody's */
void cr__ip6_upper(struct cr__host *host, struct cr__arrival *in, struct cr__walk *walk, bool loop);
void cr__ip_loop(struct cr__host *host); /* what we have sent to ourselves arrives */

/* fragment.c */
struct cr__fragment {
    uint32_t id, offset_bytes;
    uint8_t protocol;
    bool more;
};
void cr__fragment_input(struct cr__host *host, const struct cr__arrival *in, const struct cr__fragment *fragment, bool loop);
/* Sends a chain as fragments; it is the callee's. way: found. 0, -EMSGSIZE. */
int cr__fragment_output(struct cr__host *host, struct cr_packet *chain, const struct cr__sending *what, const struct cr__way *way);
void cr__fragment_due(struct cr__host *host, struct cr__reassembly *reassembly);
void cr__fragment_fini(struct cr__host *host);

/* icmp.c */
void cr__icmp4_input(struct cr__host *host, const struct cr__arrival *in);
void cr__icmp6_input(struct cr__host *host, const struct cr__arrival *in);
/* An error about `in`, whose packet stays the caller's, if one may be sent at all. many: even if it went to many. */
void cr__icmp_error(struct cr__host *host, const struct cr__arrival *in, uint8_t type, uint8_t code, uint32_t value, bool many);
/* An error that was found here, about a packet of ours that begins with its IP header. */
void cr__icmp_found(struct cr__host *host, const struct cr_packet *packet, enum cr__ip_trouble trouble);
bool cr__bucket_take(struct cr__host *host, struct cr__bucket *bucket, int64_t interval_ns, unsigned burst);

/* path.c */
uint16_t cr__path_mtu(struct cr__host *host, const struct cr__ip *to, int64_t *until_ns);
uint16_t cr__path_plateau(uint16_t total_bytes); /* RFC 1191, 7.1: the next smaller one */

/* ---- Small ones ---------------------------------------------------------------------------------------------- */

static inline struct cr__ip cr__ip_read4(const uint8_t *at)
{
    uint32_t address;
    memcpy(&address, at, 4);
    return cr__ip_v4(address);
}

static inline struct cr__ip cr__ip_read6(const uint8_t *at)
{
    struct cr__ip ip;
    memcpy(ip.bytes, at, 16);
    return ip;
}

static inline bool cr__ip_is_zero(const struct cr__ip *ip)
{
    return ip->halves[0] == 0 && (ip->halves[1] == 0 || ip->halves[1] == cr__ip_v4(0).halves[1]);
}

#endif
