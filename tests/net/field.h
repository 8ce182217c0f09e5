/* Two hosts that talk, and an attacker, made by hand, who reaches one of them: all in virtual time.
 *
 *     a (host 1) ----+
 *                    +---- b (host 2), which handles so many frames a millisecond, and before which so many wait; what is beyond is lost
 *     attacker ------+
 *
 * a dials b and sends; the attacker puts frames before b, from whatever address, and sees what b sends to others than a. */
#ifndef CR_TEST_FIELD_H
#define CR_TEST_FIELD_H

#include "net/ip/ip.h"
#include "net/tcp/tcp.h"
#include "pair.h"

#define FIELD_QUEUE 256         /* frames that wait before b */
#define FIELD_BUDGET 125        /* frames that b handles in a millisecond */
#define FIELD_PORT 80
#define FIELD_GATEWAY 254       /* who b takes for the way to everybody who is not on the link */
#define FIELD_ATTACKER 9        /* a peer on the link, of whom b knows the Ethernet address */
#define FIELD_ISN 0xfffffff0u   /* of all connections, if they are fixed */
#define FIELD_ANSWERS 64

struct field {
    struct pair pair;
    struct cr_packet *queue[FIELD_QUEUE];
    unsigned first, count;
    struct cr__tcp_listener *listener;
    struct cr__tcp *a, *b;       /* who talks */
    uint32_t rate_bytes;         /* that a's user writes in a millisecond, if there is room */
    uint64_t written, read;
    uint64_t lost;               /* before b, or for lack of a packet */
    uint64_t syn_acks, resets, others; /* b's, to others than a */
    struct cr__segment answers[FIELD_ANSWERS]; /* the last ones of these */
    uint64_t answer_count;
    uint64_t to_a;               /* frames */
    void (*flood)(struct field *field); /* before each millisecond; NULL: none */
    uint32_t numbers;            /* the flood's */
    bool stall;                  /* b's user does not read */
};

static struct field field;

static inline void field_event(struct cr__tcp *tcp, unsigned events)
{
    CHECK(tcp && events);
}

static inline uint8_t field_pattern(uint64_t at)
{
    return (uint8_t)(at * 7 + (at >> 8) * 3);
}

static inline void field_start(const struct cr__tcp_config *config)
{
    struct cr__host_config a = pair_config(1, 11), b = pair_config(2, 11);
    struct cr__tcp_config own = *config;
    memset(&field, 0, sizeof(field));
    b.route_count = 1;
    b.routes[0] = (struct cr__host_route){.to = cr__ip_v4(0), .prefix_bits = 96, .via = true, .gateway = pair_ip4(FIELD_GATEWAY)};
    pair_init_with(&field.pair, &a, &b, PAIR_SECOND);
    own.above.event = field_event;
    CHECK_EQ(cr__tcp_init(&field.pair.a, &own), 0);
    CHECK_EQ(cr__tcp_init(&field.pair.b, &own), 0);
    const uint8_t numbers[] = {FIELD_GATEWAY, FIELD_ATTACKER};
    for (unsigned i = 0; i < 2; i++) {
        struct cr__ip ip4 = pair_ip4(numbers[i]), ip6 = pair_ip6(numbers[i]);
        CHECK_EQ(cr__neighbour_add(&field.pair.b, &ip4, (const uint8_t[]){2, 0, 0, 0, 0, numbers[i]}), 0);
        CHECK_EQ(cr__neighbour_add(&field.pair.b, &ip6, (const uint8_t[]){2, 0, 0, 0, 0, numbers[i]}), 0);
    }
}

/* ---- Frames ------------------------------------------------------------------------------------------------------ */

/* A segment in a frame for b, from anybody. */
static inline struct cr_packet *field_forge(const struct cr__ip *from, struct cr__segment seg, const void *text, size_t size_bytes)
{
    uint8_t bytes[1600];
    bool v4 = cr__ip_is_v4(from);
    struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
    struct cr_packet *scratch = cr__packet_get(&field.pair.packets);
    if (!scratch)
        return NULL;
    memcpy(scratch->data, text ? text : "", size_bytes);
    scratch->size_bytes = (uint16_t)size_bytes;
    seg.to_port = seg.to_port ? seg.to_port : FIELD_PORT;
    cr__segment_push(scratch, &seg);
    size_t size = scratch->size_bytes;
    memcpy(bytes, scratch->data, size);
    cr__packet_put(&field.pair.packets, scratch);
    struct cr_packet *frame = pair_frame(&field.pair.packets, FIELD_ATTACKER, 2, v4, CR__IP_TCP, bytes, size, -1);
    uint8_t *ip = frame->data + 14, *tcp = ip + (v4 ? 20 : 40);
    if (v4) {
        memcpy(ip + 12, &from->parts[3], 4);
        memset(ip + 10, 0, 2);
        cr__wire_put16(ip + 10, cr__wire_checksum(cr__wire_sum(0, ip, 20)));
    } else {
        memcpy(ip + 8, from->bytes, 16);
    }
    cr__wire_put16(tcp + 16, cr__wire_checksum(cr__wire_sum(cr__ip_pseudo_sum(from, &to, CR__IP_TCP, (uint32_t)size), tcp, size)));
    return frame;
}

/* Before b, if there is room. */
static inline void field_queue(struct cr_packet *frame)
{
    if (!frame || field.count == FIELD_QUEUE) {
        field.lost++;
        cr__packet_put(&field.pair.packets, frame);
        return;
    }
    field.queue[(field.first + field.count++) % FIELD_QUEUE] = frame;
}

static inline void field_see(const struct cr_packet *frame)
{
    const uint8_t *ip = frame->data + 14;
    bool v4 = ip[0] >> 4 == 4;
    struct cr__segment seg;
    unsigned header = v4 ? 20 : 40;
    if (frame->size_bytes < 14 + header + 20 || (v4 ? ip[9] : ip[6]) != CR__IP_TCP) {
        field.others++;
        return;
    }
    CHECK_EQ(cr__segment_parse(&seg, ip + header, frame->size_bytes - 14 - header), 0);
    if (seg.flags & CR__RST)
        field.resets++;
    else if (seg.flags & CR__SYN)
        field.syn_acks++;
    else
        field.others++;
    field.answers[field.answer_count++ % FIELD_ANSWERS] = seg;
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

static inline struct cr_packet *field_own(struct cr_packet *frame)
{
    struct cr_packet *own = cr__packet_copy(&field.pair.packets, frame);
    cr__packet_put(&field.pair.packets, frame);
    return own;
}

/* What b has sent. */
static inline void field_collect(void)
{
    static const uint8_t ethernet_of_a[6] = {2, 0, 0, 0, 0, 1};
    for (struct cr_packet *frame; (frame = cr__host_pop(&field.pair.b)) != NULL;) {
        if ((frame->data[0] & 1) || memcmp(frame->data, ethernet_of_a, 6) == 0) {
            struct cr_packet *own = field_own(frame);
            field.lost += !own;
            field.to_a++;
            if (own)
                cr__host_input(&field.pair.a, own, field.pair.now_ns);
        } else {
            field_see(frame);
            cr__packet_put(&field.pair.packets, frame);
        }
    }
}

static inline void field_write(void)
{
    static uint8_t bytes[1 << 16];
    ssize_t n = 1;
    for (uint32_t left = field.b ? field.rate_bytes : 0; left > 0 && n > 0; left -= n > 0 ? (uint32_t)n : 0) {
        size_t size = left < sizeof(bytes) ? left : sizeof(bytes);
        for (size_t i = 0; i < size; i++)
            bytes[i] = field_pattern(field.written + i);
        n = cr__tcp_send(field.a, &(struct iovec){bytes, size}, 1, false);
        CHECK(n > 0 || n == -EAGAIN || n == -ENOBUFS);
        field.written += n > 0 ? (uint64_t)n : 0;
    }
}

static inline void field_read(void)
{
    static uint8_t bytes[1 << 16];
    ssize_t n;
    while (field.b && !field.stall && (n = cr__tcp_recv(field.b, &(struct iovec){bytes, sizeof(bytes)}, 1)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK_EQ(bytes[i], field_pattern(field.read + (uint64_t)i));
        field.read += (uint64_t)n;
    }
}

/* So many milliseconds. */
static inline void field_run(unsigned ms)
{
    for (; ms > 0; ms--) {
        struct pair *pair = &field.pair;
        pair->now_ns += PAIR_MS;
        if (field.flood)
            field.flood(&field);
        cr__host_tick(&pair->a, pair->now_ns);
        field_write();
        for (struct cr_packet *frame; (frame = cr__host_pop(&pair->a)) != NULL;)
            field_queue(field_own(frame));
        for (unsigned budget = FIELD_BUDGET; budget > 0 && field.count > 0; budget--) {
            struct cr_packet *frame = field.queue[field.first];
            field.first = (field.first + 1) % FIELD_QUEUE;
            field.count--;
            cr__host_input(&pair->b, frame, pair->now_ns);
            field_collect();
        }
        field_read();
        cr__host_tick(&pair->b, pair->now_ns);
        field_collect();
    }
}

/* One frame, now; then what b has to say to it has been said. */
static inline void field_inject(struct cr_packet *frame)
{
    CHECK(frame != NULL);
    cr__host_input(&field.pair.b, frame, field.pair.now_ns);
    field_collect();
}

/* Bytes in a millisecond that b reads, over so many of them. */
static inline double field_rate(unsigned ms)
{
    uint64_t before = field.read;
    field_run(ms);
    return (double)(field.read - before) / ms;
}

static inline const struct cr__segment *field_answer(void)
{
    CHECK(field.answer_count > 0);
    return &field.answers[(field.answer_count - 1) % FIELD_ANSWERS];
}

/* a and b are connected. */
static inline void field_connect(bool v4, const struct cr__tcp_opts *opts)
{
    struct cr__ip to = v4 ? pair_ip4(2) : pair_ip6(2);
    CHECK_EQ(cr__tcp_listen(&field.pair.b, &field.listener, NULL, FIELD_PORT, opts), 0);
    CHECK_EQ(cr__tcp_dial(&field.pair.a, &field.a, NULL, 0, &to, FIELD_PORT, opts), 0);
    field_run(10);
    CHECK_EQ(field.a->state, CR__TCP_ESTABLISHED);
    field.b = cr__tcp_accept(field.listener);
    CHECK(field.b && field.b->state == CR__TCP_ESTABLISHED);
}

static inline uint64_t field_drops(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < CR__DROPS; i++)
        sum += field.pair.b.drops[i];
    return sum;
}

static inline uint64_t field_packets(void)
{
    cr__packet_flush(&field.pair.packets);
    return cr__packets_in_use();
}

/* No packet is left. */
static inline void field_finish(void)
{
    while (field.count > 0) {
        cr__packet_put(&field.pair.packets, field.queue[field.first]);
        field.first = (field.first + 1) % FIELD_QUEUE;
        field.count--;
    }
    cr__tcp_fini(&field.pair.a);
    cr__tcp_fini(&field.pair.b);
    pair_fini(&field.pair);
}

/* Nothing is in flight any more; all that was written has been read. */
static inline void field_settle(void)
{
    uint32_t rate_bytes = field.rate_bytes;
    field.rate_bytes = 0;
    field.flood = NULL;
    for (unsigned ms = 0; field.read < field.written && ms < 60000; ms += 100)
        field_run(100);
    CHECK_EQ(field.read, field.written);
    field.rate_bytes = rate_bytes;
}

#endif
