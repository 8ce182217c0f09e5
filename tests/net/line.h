/* A bad line between two hosts, in virtual time, by a seed: it drops, duplicates, reorders, delays and corrupts frames, marks them for ECN, limits the rate, and is cut off now and then.
 * A direction of it is one of these; both share the random numbers. */
#ifndef CR_TEST_LINE_H
#define CR_TEST_LINE_H

#include "frames.h"

/* SplitMix64: the test's own, so that the stack's use of random numbers is not what decides the line's. */
static inline uint64_t dice_roll(uint64_t *dice)
{
    uint64_t x = (*dice += 0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* From 0 on, below `below`. */
static inline uint32_t dice(uint64_t *state, uint32_t below)
{
    return below ? (uint32_t)(dice_roll(state) % below) : 0;
}

static inline bool dice_permille(uint64_t *state, unsigned permille)
{
    return permille && dice(state, 1000) < permille;
}

#define LINE_MOST 4096

struct line {
    unsigned drop, duplicate, reorder, corrupt, mark; /* in a thousand */
    int64_t delay_ns, jitter_ns;
    int64_t ns_per_byte;        /* 0: as fast as they come */
    int64_t queue_ns;           /* what would wait longer for its turn is dropped */
    int64_t cut_from_ns, cut_to_ns;
    uint64_t *dice;
    struct cr__packet_cache *cache;
    int64_t free_ns;            /* when what is being sent has been */
    uint64_t order;
    struct cr_packet *heap[LINE_MOST]; /* by own.words: when it arrives, and its number */
    unsigned count;
};

static inline bool line_before(const struct cr_packet *a, const struct cr_packet *b)
{
    return a->own.words[0] != b->own.words[0] ? a->own.words[0] < b->own.words[0] : a->own.words[1] < b->own.words[1];
}

static inline void line_swap(struct line *line, unsigned a, unsigned b)
{
    struct cr_packet *packet = line->heap[a];
    line->heap[a] = line->heap[b];
    line->heap[b] = packet;
}

static inline void line_put(struct line *line, struct cr_packet *packet, int64_t due_ns)
{
    if (line->count == LINE_MOST) {
        cr__packet_put(line->cache, packet);
        return;
    }
    packet->own.words[0] = (uint64_t)due_ns;
    packet->own.words[1] = line->order++;
    unsigned at = line->count++;
    line->heap[at] = packet;
    for (; at && line_before(line->heap[at], line->heap[(at - 1) / 2]); at = (at - 1) / 2)
        line_swap(line, at, (at - 1) / 2);
}

/* When the next frame arrives; INT64_MAX: none is under way. */
static inline int64_t line_due_ns(const struct line *line)
{
    return line->count ? (int64_t)line->heap[0]->own.words[0] : INT64_MAX;
}

/* What has arrived by then; NULL: nothing. */
static inline struct cr_packet *line_take(struct line *line, int64_t now_ns)
{
    if (line_due_ns(line) > now_ns)
        return NULL;
    struct cr_packet *packet = line->heap[0];
    line->heap[0] = line->heap[--line->count];
    for (unsigned at = 0;;) {
        unsigned least = at;
        for (unsigned child = 2 * at + 1; child <= 2 * at + 2 && child < line->count; child++)
            if (line_before(line->heap[child], line->heap[least]))
                least = child;
        if (least == at)
            break;
        line_swap(line, at, least);
        at = least;
    }
    memset(&packet->own, 0xa5, sizeof(packet->own)); /* what who receives it must not rely on */
    return packet;
}

/* One bit, which no checksum misses; not in ARP, which has none. */
static inline void line_corrupt(struct line *line, struct cr_packet *packet)
{
    if (packet->size_bytes > 14 && frame_get16(packet->data + 12) != 0x0806)
        packet->data[14 + dice(line->dice, packet->size_bytes - 14u)] ^= (uint8_t)(1u << dice(line->dice, 8));
}

/* A router that is congested says so to whom it may. */
static inline void line_mark(struct cr_packet *packet)
{
    struct frame f;
    if (!frame_parse(&f, packet->data, packet->size_bytes) || f.kind != FRAME_TCP || (f.tos & 3) == 0)
        return;
    uint8_t *ip = packet->data + 14;
    if (ip[0] >> 4 == 6) {
        ip[1] |= 0x30;
    } else {
        ip[1] |= 3;
        frame_put16(ip + 10, 0);
        frame_put16(ip + 10, frame_fold(frame_sum(0, ip, 20)));
    }
}

static inline void line_send_one(struct line *line, struct cr_packet *packet, int64_t now_ns)
{
    if ((now_ns >= line->cut_from_ns && now_ns < line->cut_to_ns) || dice_permille(line->dice, line->drop) || line->free_ns > now_ns + line->queue_ns) {
        cr__packet_put(line->cache, packet);
        return;
    }
    if (dice_permille(line->dice, line->corrupt))
        line_corrupt(line, packet);
    if (dice_permille(line->dice, line->mark))
        line_mark(packet);
    int64_t leaves_ns = line->free_ns > now_ns ? line->free_ns : now_ns;
    line->free_ns = leaves_ns + line->ns_per_byte * packet->size_bytes;
    int64_t due_ns = line->free_ns + line->delay_ns + dice(line->dice, (uint32_t)line->jitter_ns);
    if (dice_permille(line->dice, line->reorder))
        due_ns += dice(line->dice, (uint32_t)(2 * line->delay_ns + 1000000));
    line_put(line, packet, due_ns);
}

/* Takes a frame from a host. What somebody else still refers to is copied: it may be changed here, and is written into there. */
static inline void line_send(struct line *line, struct cr_packet *packet, int64_t now_ns)
{
    struct cr_packet *copy = cr__packet_copy(line->cache, packet);
    cr__packet_put(line->cache, packet);
    if (!copy)
        return;
    if (dice_permille(line->dice, line->duplicate)) {
        struct cr_packet *second = cr__packet_copy(line->cache, copy);
        if (second)
            line_send_one(line, second, now_ns);
    }
    line_send_one(line, copy, now_ns);
}

static inline void line_fini(struct line *line)
{
    while (line->count)
        cr__packet_put(line->cache, line->heap[--line->count]);
}

#endif
