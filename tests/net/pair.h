/* Two hosts back to back in virtual time: what leaves one arrives at the other, a while later.
 *
 *     struct pair pair;
 *     pair_init(&pair, 1);                      10.0.0.1, 2001:db8::1 and 10.0.0.2, 2001:db8::2, on one link
 *     ... cr__tcp_init(&pair.a, ...)
 *     pair_run(&pair, 10 * PAIR_MS);            ten milliseconds go by
 *     pair_fini(&pair); */
#ifndef CR_PAIR_H
#define CR_PAIR_H

#include <stdlib.h>
#include <time.h>

#include "capture.h"
#include "net/ip/host.h"
#include "net/wire/wire.h"
#include "test.h"

#define PAIR_MS ((int64_t)1000000)
#define PAIR_SECOND (1000 * PAIR_MS)
#define PAIR_FLIGHT_MOST 8192

/* What is on its way from one host to the other. */
struct pair_line {
    struct {
        struct cr_packet *frame;
        int64_t due_ns;
    } flight[PAIR_FLIGHT_MOST];
    unsigned first, count;
};

struct pair {
    struct cr__host a, b;
    int64_t now_ns;
    int64_t delay_ns;                /* one way; 0: what leaves arrives with the next step */
    /* Looks at each frame that leaves, before it is on the line; false: it is lost. NULL: none is. May change it if it is the only one who has it. */
    bool (*passes)(struct pair *pair, struct cr__host *from, struct cr_packet *frame);
    void *user;
    uint64_t frames, lost;
    struct cr__packet_cache packets; /* of both */
    struct pair_line to_a, to_b;
};

/* Which 10.0.N.0/24, and 2001:db8:N::/64. Who defines PAIR_NET as capture_net() says no addresses in figures. */
#ifndef PAIR_NET
#define PAIR_NET 0
#endif

static inline struct cr__ip pair_ip4(uint8_t last)
{
    return (struct cr__ip){.bytes = {[10] = 0xff, [11] = 0xff, [12] = 10, [14] = (uint8_t)PAIR_NET, [15] = last}};
}

static inline struct cr__ip pair_ip6(uint8_t last)
{
    return (struct cr__ip){.bytes = {0x20, 0x01, 0x0d, 0xb8, [5] = (uint8_t)PAIR_NET, [15] = last}};
}

/* Of the host with that number: 1 and 2 are a's and b's. */
static inline struct cr__host_config pair_config(uint8_t number, uint64_t seed)
{
    return (struct cr__host_config){
        .ethernet = {2, 0, 0, 0, 0, number},
        .address_count = 2,
        .addresses = {{pair_ip4(number), 96 + 24}, {pair_ip6(number), 64}},
        .seed = {seed, number},
    };
}

static inline void pair_init_with(struct pair *pair, const struct cr__host_config *a, const struct cr__host_config *b, int64_t now_ns)
{
    struct cr__host_config config_a = *a, config_b = *b;
    memset(pair, 0, sizeof(*pair));
    capture_begin();
    pair->now_ns = now_ns;
    config_a.packets = config_b.packets = &pair->packets;
    CHECK_EQ(cr__host_init(&pair->a, &config_a, now_ns), 0);
    CHECK_EQ(cr__host_init(&pair->b, &config_b, now_ns), 0);
}

static inline void pair_init(struct pair *pair, uint64_t seed)
{
    struct cr__host_config a = pair_config(1, seed), b = pair_config(2, seed);
    pair_init_with(pair, &a, &b, PAIR_SECOND);
}

static inline void pair_line_empty(struct pair *pair, struct pair_line *line)
{
    for (; line->count > 0; line->count--, line->first = (line->first + 1) % PAIR_FLIGHT_MOST)
        cr__packet_put(&pair->packets, line->flight[line->first].frame);
}

/* The layers above go first (cr__tcp_fini). No packet may be left. */
static inline void pair_fini(struct pair *pair)
{
    pair_line_empty(pair, &pair->to_a);
    pair_line_empty(pair, &pair->to_b);
    cr__host_fini(&pair->a);
    cr__host_fini(&pair->b);
    cr__packet_flush(&pair->packets);
    CHECK_EQ(cr__packets_in_use(), 0);
}

/* The next frame that leaves, for who looks at it himself. NULL: none. */
static inline struct cr_packet *pair_pop(struct pair *pair, struct cr__host *from)
{
    struct cr_packet *frame = cr__host_pop(from);
    if (frame)
        capture_frame(frame, pair->now_ns);
    return frame;
}

static inline void pair_leave(struct pair *pair, struct cr__host *from, struct pair_line *line)
{
    for (struct cr_packet *frame; (frame = pair_pop(pair, from)) != NULL; pair->frames++) {
        if (pair->passes && !pair->passes(pair, from, frame)) {
            pair->lost++;
            cr__packet_put(&pair->packets, frame);
            continue;
        }
        struct cr_packet *own = cr__packet_copy(&pair->packets, frame); /* as a link does for what its sender still holds */
        cr__packet_put(&pair->packets, frame);
        CHECK(own && line->count < PAIR_FLIGHT_MOST);
        unsigned at = (line->first + line->count++) % PAIR_FLIGHT_MOST;
        line->flight[at].frame = own;
        line->flight[at].due_ns = pair->now_ns + pair->delay_ns;
    }
}

static inline bool pair_arrive(struct pair *pair, struct pair_line *line, struct cr__host *to)
{
    unsigned count = line->count;
    for (; count > 0 && line->flight[line->first].due_ns <= pair->now_ns; count--) {
        struct cr_packet *frame = line->flight[line->first].frame;
        line->first = (line->first + 1) % PAIR_FLIGHT_MOST;
        line->count--;
        cr__host_input(to, frame, pair->now_ns);
    }
    return count < line->count || line->count == 0;
}

static inline int64_t pair_earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* All that happens now. Returns when something happens next; INT64_MAX: nothing ever, of itself. */
static inline int64_t pair_step(struct pair *pair)
{
    int64_t next_ns;
    for (unsigned rounds = 0;; rounds++) {
        CHECK(rounds < 100000); /* they never come to an end */
        next_ns = pair_earlier(cr__host_tick(&pair->a, pair->now_ns), cr__host_tick(&pair->b, pair->now_ns));
        pair_leave(pair, &pair->a, &pair->to_b);
        pair_leave(pair, &pair->b, &pair->to_a);
        if (pair->to_a.count > 0)
            next_ns = pair_earlier(next_ns, pair->to_a.flight[pair->to_a.first].due_ns);
        if (pair->to_b.count > 0)
            next_ns = pair_earlier(next_ns, pair->to_b.flight[pair->to_b.first].due_ns);
        if (next_ns > pair->now_ns)
            return next_ns;
        pair_arrive(pair, &pair->to_a, &pair->a);
        pair_arrive(pair, &pair->to_b, &pair->b);
    }
}

/* So long, with whatever happens meanwhile. */
static inline void pair_run(struct pair *pair, int64_t for_ns)
{
    int64_t until_ns = pair->now_ns + for_ns;
    for (;;) {
        int64_t next_ns = pair_step(pair);
        if (next_ns > until_ns)
            break;
        pair->now_ns = next_ns;
    }
    pair->now_ns = until_ns;
    pair_step(pair);
}

/* ---- Packets by hand ------------------------------------------------------------------------------------------- */

/* A packet with the bytes that hex digits say; blanks are for the eye. */
static inline struct cr_packet *pair_hex(struct cr__packet_cache *packets, const char *hex)
{
    struct cr_packet *packet = cr__packet_get(packets);
    CHECK(packet != NULL);
    packet->next = NULL;
    packet->size_bytes = 0;
    packet->flags = 0;
    for (; *hex; hex++) {
        unsigned byte;
        if (*hex == ' ' || *hex == '\n')
            continue;
        CHECK(sscanf(hex, "%2x", &byte) == 1);
        packet->data[packet->size_bytes++] = (uint8_t)byte;
        hex++;
    }
    return packet;
}

/* Whether the packet's bytes are those; says which they are if not. Puts it. */
static inline bool pair_is(struct cr__packet_cache *packets, struct cr_packet *packet, const char *hex)
{
    struct cr_packet *wanted = pair_hex(packets, hex);
    bool equal = packet && packet->size_bytes == wanted->size_bytes && memcmp(packet->data, wanted->data, wanted->size_bytes) == 0;
    if (!equal) {
        printf("# wanted %s\n# got    ", hex);
        for (unsigned i = 0; packet && i < packet->size_bytes; i++)
            printf("%02x", packet->data[i]);
        printf("\n");
    }
    cr__packet_put(packets, packet);
    cr__packet_put(packets, wanted);
    return equal;
}

/* A frame with Ethernet's and IP's headers in front of `size_bytes` of payload, from the host with that number, with the checksum of TCP, UDP or ICMP
 * at `checksum_at` filled in (-1: none). */
static inline struct cr_packet *pair_frame(struct cr__packet_cache *packets, uint8_t from, uint8_t to, bool v4, uint8_t protocol, const void *payload,
                                           size_t size_bytes, int checksum_at)
{
    struct cr_packet *packet = cr__packet_get(packets);
    CHECK(packet != NULL);
    packet->next = NULL;
    packet->flags = 0;
    packet->size_bytes = (uint16_t)size_bytes;
    memcpy(packet->data, payload, size_bytes);
    struct cr__ip source = v4 ? pair_ip4(from) : pair_ip6(from), target = v4 ? pair_ip4(to) : pair_ip6(to);
    if (checksum_at >= 0) {
        uint32_t pseudo = v4 && protocol == CR__IP_ICMP ? 0 : cr__ip_pseudo_sum(&source, &target, protocol, (uint32_t)size_bytes);
        memset(packet->data + checksum_at, 0, 2);
        cr__wire_put16(packet->data + checksum_at, cr__wire_checksum(cr__wire_sum(pseudo, packet->data, size_bytes)));
    }
    if (v4) {
        struct cr__ip4_header *ip = (struct cr__ip4_header *)cr_packet_push(packet, sizeof(*ip));
        *ip = (struct cr__ip4_header){.version_words = 0x45, .ttl = 64, .protocol = protocol};
        cr__wire_put16(ip->length, packet->size_bytes);
        memcpy(ip->from, &source.parts[3], 4);
        memcpy(ip->to, &target.parts[3], 4);
        cr__wire_put16(ip->checksum, cr__wire_checksum(cr__wire_sum(0, ip, sizeof(*ip))));
    } else {
        struct cr__ip6_header *ip = (struct cr__ip6_header *)cr_packet_push(packet, sizeof(*ip));
        *ip = (struct cr__ip6_header){.version_class_flow = {0x60}, .next = protocol, .hops = 64};
        cr__wire_put16(ip->length, (uint16_t)size_bytes);
        memcpy(ip->from, source.bytes, 16);
        memcpy(ip->to, target.bytes, 16);
    }
    struct cr__ethernet_header *ethernet = (struct cr__ethernet_header *)cr_packet_push(packet, sizeof(*ethernet));
    *ethernet = (struct cr__ethernet_header){.to = {2, 0, 0, 0, 0, to}, .from = {2, 0, 0, 0, 0, from}};
    cr__wire_put16(ethernet->type, v4 ? CR__ETHER_IP4 : CR__ETHER_IP6);
    return packet;
}

#endif
