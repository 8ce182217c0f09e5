/* A peer made by hand: host a has TCP, and whatever it sends to b is kept as it stands there; segments to a are put together by the test. */
#ifndef CR_TEST_BY_HAND_H
#define CR_TEST_BY_HAND_H

#define PAIR_NET capture_net()

#include "net/tcp/tcp.h"
#include "pair.h"
#include <crore/net.h>

#define HAND_MOST 4096
#define HAND_PEER_PORT 4000
#define HAND_PORT 80
#define HAND_ISN 0xfffffff0u   /* of a's connections */
#define HAND_PEER_ISN 0xffffff00u

static struct {
    struct cr__segment segments[HAND_MOST];
    char payload[HAND_MOST][64];
    unsigned first, count;
} hand;

static inline void hand_take(struct cr__host *host, const struct cr__arrival *in)
{
    unsigned at = (hand.first + hand.count) % HAND_MOST;
    CHECK(hand.count++ < HAND_MOST);
    struct cr__segment *seg = &hand.segments[at];
    CHECK_EQ(cr__segment_parse(seg, in->packet->data, in->packet->size_bytes), 0);
    size_t n = seg->payload_bytes < 63 ? seg->payload_bytes : 63;
    memset(hand.payload[at], 0, 64);
    memcpy(hand.payload[at], in->packet->data + in->packet->size_bytes - seg->payload_bytes, n);
    cr__packet_put(host->packets, in->packet);
}

static inline void hand_start(struct pair *pair, const struct cr__tcp_config *config)
{
    struct cr__tcp_config own = *config;
    memset(&hand, 0, sizeof(hand));
    pair_init(pair, 7);
    own.isn_is_fixed = true;
    own.isn_for_tests = HAND_ISN;
    CHECK_EQ(cr__tcp_init(&pair->a, &own), 0);
    pair->b.above.tcp = hand_take;
    pair_run(pair, 3 * PAIR_SECOND);
}

static inline void hand_finish(struct pair *pair)
{
    cr__tcp_fini(&pair->a);
    pair_fini(pair);
}

/* Sends it from b, ports filled in where there are none; then a has had it, and has answered. */
static inline void hand_send(struct pair *pair, struct cr__segment seg, const char *text)
{
    struct cr_packet *packet = cr__packet_get(&pair->packets);
    struct cr__ip from = pair_ip4(2), to = pair_ip4(1);
    CHECK(packet != NULL);
    size_t n = text ? strlen(text) : 0;
    memcpy(packet->data, text ? text : "", n);
    packet->size_bytes = (uint16_t)n;
    seg.from_port = seg.from_port ? seg.from_port : HAND_PEER_PORT;
    seg.to_port = seg.to_port ? seg.to_port : HAND_PORT;
    CHECK_EQ(cr__tcp_transmit(&pair->b, packet, &seg, &from, &to, 0), 0);
    pair_run(pair, 0);
}

static inline void hand_flags(struct pair *pair, uint8_t flags, uint32_t seq, uint32_t ack, const char *text)
{
    hand_send(pair, (struct cr__segment){.flags = flags, .seq = seq, .ack = ack, .window = 20000}, text);
}

/* The next that a has sent. */
static inline struct cr__segment hand_next(const char **text)
{
    CHECK(hand.count > 0);
    unsigned at = hand.first;
    hand.first = (hand.first + 1) % HAND_MOST;
    hand.count--;
    if (text)
        *text = hand.payload[at];
    return hand.segments[at];
}

#define HAND_EXPECT(wanted_flags, wanted_seq, wanted_ack)                                                              \
    do {                                                                                                               \
        struct cr__segment hand_seg = hand_next(NULL);                                                                 \
        CHECK_EQ(hand_seg.flags, wanted_flags);                                                                        \
        CHECK_EQ(hand_seg.seq, (uint32_t)(wanted_seq));                                                                \
        CHECK_EQ(hand_seg.ack, (uint32_t)(wanted_ack));                                                                \
    } while (0)

#define HAND_QUIET() CHECK_EQ(hand.count, 0)

#endif
