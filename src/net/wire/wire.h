/* What headers look like on the wire, and the Internet checksum. Pure functions of bytes: they look at no state, and never beyond the size that they are given. */
#ifndef CR__WIRE_H
#define CR__WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/base.h"

static inline uint16_t cr__wire_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t cr__wire_get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return __builtin_bswap32(value);
}

static inline void cr__wire_put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void cr__wire_put32(uint8_t *at, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(at, &value, sizeof(value));
}

/* ---- Headers: arrays of bytes only, so they may lie at any address ---------------------------------------------- */

#define CR__ETHERNET_BYTES 14
#define CR__IP4_BYTES 20
#define CR__IP6_BYTES 40

enum cr__ether_type { CR__ETHER_IP4 = 0x0800, CR__ETHER_ARP = 0x0806, CR__ETHER_IP6 = 0x86dd };

struct cr__ethernet_header {
    uint8_t to[6], from[6], type[2];
};

enum cr__arp_operation { CR__ARP_REQUEST = 1, CR__ARP_REPLY = 2 };
#define CR__ARP_KIND 0x0001080006040000 /* Ethernet, IPv4, 6 and 4 bytes; the last 16 bits are the operation */

struct cr__arp {
    uint8_t kind[8];
    uint8_t from_ethernet[6], from_ip[4], to_ethernet[6], to_ip[4];
};

enum cr__ip_protocol {
    CR__IP_HOP_BY_HOP = 0,
    CR__IP_ICMP = 1,
    CR__IP_TCP = 6,
    CR__IP_UDP = 17,
    CR__IP_ROUTING = 43,
    CR__IP_FRAGMENT = 44,
    CR__IP_ICMP6 = 58,
    CR__IP_NOTHING = 59,
    CR__IP_DESTINATION = 60,
};

#define CR__IP4_DONT_FRAGMENT 0x4000
#define CR__IP4_MORE 0x2000
#define CR__IP4_OFFSET 0x1fff

struct cr__ip4_header {
    uint8_t version_words, tos, length[2]; /* length: of all */
    uint8_t id[2], fragment[2];
    uint8_t ttl, protocol, checksum[2];
    uint8_t from[4], to[4];
};

struct cr__ip6_header {
    uint8_t version_class_flow[4], length[2]; /* length: of what comes behind */
    uint8_t next, hops;
    uint8_t from[16], to[16];
};

struct cr__ip6_fragment {
    uint8_t next, reserved, offset[2], id[4]; /* offset: in bytes, its lowest bit says that there is more */
};

enum cr__icmp_type {
    CR__ICMP_ECHO_REPLY = 0,
    CR__ICMP_UNREACHABLE = 3,
    CR__ICMP_ECHO = 8,
    CR__ICMP_TIME_EXCEEDED = 11,
    CR__ICMP_PROBLEM = 12,
    CR__ICMP6_UNREACHABLE = 1,
    CR__ICMP6_TOO_BIG = 2,
    CR__ICMP6_TIME_EXCEEDED = 3,
    CR__ICMP6_PROBLEM = 4,
    CR__ICMP6_ECHO = 128,
    CR__ICMP6_ECHO_REPLY = 129,
    CR__NDP_ROUTER_SOLICITATION = 133,
    CR__NDP_ROUTER_ADVERTISEMENT = 134,
    CR__NDP_SOLICITATION = 135,
    CR__NDP_ADVERTISEMENT = 136,
    CR__NDP_REDIRECT = 137,
};
#define CR__ICMP6_INCOMPLETE 3 /* code of a problem: a first fragment has not all headers up to the one above IP (RFC 7112, 5) */

struct cr__icmp_header {
    uint8_t type, code, checksum[2], value[4];
};

/* Neighbour solicitation and advertisement: behind it come options of 8 bytes, and multiples. */
struct cr__ndp {
    struct cr__icmp_header icmp; /* value: flags, of an advertisement */
    uint8_t target[16];
};
#define CR__NDP_ROUTER 0x80000000
#define CR__NDP_SOLICITED 0x40000000
#define CR__NDP_OVERRIDE 0x20000000
enum cr__ndp_option { CR__NDP_SOURCE_ADDRESS = 1, CR__NDP_TARGET_ADDRESS = 2 };

struct cr__udp_header {
    uint8_t from_port[2], to_port[2], length[2], checksum[2];
};

_Static_assert(sizeof(struct cr__ethernet_header) == CR__ETHERNET_BYTES && sizeof(struct cr__ip4_header) == CR__IP4_BYTES &&
                   sizeof(struct cr__ip6_header) == CR__IP6_BYTES, "as on the wire");
_Static_assert(sizeof(struct cr__arp) == 28 && sizeof(struct cr__ndp) == 24 && sizeof(struct cr__udp_header) == 8 && sizeof(struct cr__ip6_fragment) == 8, "as on the wire");

/* ---- Extension headers (RFC 8200, 4) ----------------------------------------------------------------------------- */

#define CR__WALK_HEADERS 8         /* more than that, or longer, is nobody's honest packet (RFC 8504, 5.3) */
#define CR__WALK_BYTES_MOST 512
#define CR__WALK_PADDING_MOST 7    /* of one kind in a row */

enum cr__walk_end {
    CR__WALK_UPPER,                /* `next` is the protocol of what begins at `at` */
    CR__WALK_AT_FRAGMENT,          /* `at` is a fragment header, whole */
    CR__WALK_DROP,                 /* malformed, or an option says so */
    CR__WALK_PROBLEM,              /* and the sender is to be told: `problem` is the code, `problem_at` the pointer */
};

struct cr__walk {
    uint8_t next;
    uint8_t problem;
    bool many;                     /* whether it may be told of a packet that went to many, too */
    bool fragmented;               /* a fragment header was passed: there is one at most */
    size_t at;                     /* from where on to walk, counted from IPv6's header; where it ended */
    size_t next_at;                /* where `next` was read: what a problem with it points at */
    size_t problem_at;
};

/* The first walk begins with next, next_at of IPv6's header and at = 40; one behind a fragment header, with what that says. */
enum cr__walk_end cr__wire_walk(struct cr__walk *walk, const uint8_t *header, size_t size_bytes);

/* The first option of that kind among those of a neighbour message: where its value begins, 6 bytes at least. NULL: there is none. *malformed: they don't fit, or one is empty. */
const uint8_t *cr__wire_ndp_option(const uint8_t *options, size_t size_bytes, enum cr__ndp_option kind, bool *malformed);

/* Whether the options of an IPv4 header are well formed (0), would have it go by another way (-EPERM), or are not (-EINVAL). */
int cr__wire_options(const uint8_t *options, size_t size_bytes);

/* ---- The checksum (RFC 1071) --------------------------------------------------------------------------------------- */

/* Adds bytes to a sum in the order of the wire (RFC 1071); of several parts all but the last have an even number. */
uint32_t cr__wire_sum(uint32_t sum, const void *bytes, size_t size_bytes);

/* Folded and complemented: what goes into the header (cr__wire_put16). Of what includes a correct checksum: 0. */
static inline uint16_t cr__wire_checksum(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

#endif
