/* A sender made by hand around recovery and congestion control, and, for who wants one, a receiver and a path of a given delay between the two: all in virtual time. No ip, no
 * segments on a wire.
 *
 * Packets are counted from 0; each is MSS bytes long. Sequence numbers begin shortly before they wrap. */
#ifndef CR_TEST_PATH_H
#define CR_TEST_PATH_H

#include <stdlib.h>

#include "net/tcp/tcp.h"
#include "test.h"

#define MSS 1000u
#define SACK_TS (CR__TCP_SACK | CR__TCP_TIMESTAMPS)
#define MS 1000000ll
#define BEGIN 0xfffff000u
#define EVENTS_MOST 8192
#define RANGES_MOST 1024
#define LOG_MOST 4096

struct event {
    int64_t at_ns;
    uint64_t number; /* order among those of one moment */
    bool is_ack, doubled;
    uint32_t seq, bytes, ts;
    struct cr__segment seg;
};

struct path {
    struct cr__host host;
    struct cr__tcp_layer layer;
    struct cr__tcp tcp;
    struct cr__flight flight;
    uint32_t written; /* end of the queue */

    /* what was sent, in order: packets; -1 - n: packet n again */
    int log[LOG_MOST];
    int logged;
    uint64_t sent_packets, resent_packets, timeouts, probes, reorders;

    /* the way */
    int64_t delay_ns; /* one way; 0: nothing arrives, the test says what is heard */
    int64_t gap_ns;   /* of a bottleneck: from one packet to the next */
    int64_t free_ns;
    int (*fate)(struct path *path, int packet, unsigned times); /* of a packet: < 0: lost; else nanoseconds of delay beyond the usual */
    bool endless;     /* there is always more to send */
    struct event *events;
    int event_count;
    uint64_t numbers;
    uint64_t seed;
    unsigned checks_each, checks_skipped; /* a recount takes as long as the queue: long runs do it now and then */

    /* the receiver */
    uint32_t rcv_nxt, ts_recent, last_ack;
    struct { uint32_t from, to; } ranges[RANGES_MOST]; /* the most recent first */
    int range_count;
    uint64_t received_bytes;
    bool no_dsack;
};

/* ---- The sender ---------------------------------------------------------------------------------------------- */

static inline uint32_t seq_of(int packet)
{
    return BEGIN + (uint32_t)packet * MSS;
}

static inline int packet_of(uint32_t seq)
{
    return (int)((seq - BEGIN) / MSS);
}

static inline struct path *path_open(uint32_t flags)
{
    struct path *path = calloc(1, sizeof(*path));
    CHECK(path);
    path->events = calloc(EVENTS_MOST, sizeof(*path->events));
    CHECK(path->events);
    path->host.now_ns = 1000 * MS;
    path->host.tcp = &path->layer;
    path->host.packets = &path->host.own_packets;
    path->tcp = (struct cr__tcp){
        .host = &path->host,
        .flight = &path->flight,
        .flags = flags,
        .state = CR__TCP_ESTABLISHED,
        .snd_una = BEGIN,
        .snd_nxt = BEGIN,
        .snd_wnd = 1u << 30,
        .mss_bytes = MSS,
        .ts_offset = 0x12345678,
    };
    path->written = path->rcv_nxt = path->last_ack = BEGIN;
    path->seed = 1;
    cr__congestion_init(&path->tcp);
    return path;
}

static inline void path_close(struct path *path)
{
    struct cr_packet *packet;
    while ((packet = cr__sendq_pop(&path->flight.send)) != NULL)
        cr__packet_put(path->host.packets, packet);
    cr__packet_flush(path->host.packets);
    CHECK_EQ(cr__packets_in_use(), 0);
    free(path->events);
    free(path);
}

static inline void check(struct path *path)
{
    if (++path->checks_skipped < path->checks_each)
        return;
    path->checks_skipped = 0;
    cr__recovery_check(&path->tcp);
    if (path->flight.sent_last)
        CHECK(path->flight.resend_ns >= path->flight.rto_from_ns && path->flight.resend_ns > 0); /* what is in flight has a timer */
}

static inline struct cr_packet *packet_new(struct path *path)
{
    struct cr_packet *packet = cr__packet_get(path->host.packets);
    CHECK(packet);
    memset(&packet->own, 0x5a, sizeof(packet->own)); /* anything may be in there */
    return packet;
}

static inline void write_bytes(struct path *path, uint32_t bytes)
{
    struct cr_packet *packet = packet_new(path);
    struct cr__sent *sent = cr__sent_of(packet);
    *sent = (struct cr__sent){.seq = path->written, .payload_bytes = bytes};
    cr__sendq_push(&path->flight.send, packet);
    if (!path->flight.unsent)
        path->flight.unsent = packet;
    path->flight.send_bytes += bytes;
    path->written += bytes;
}

static inline void write_packets(struct path *path, int count)
{
    for (int i = 0; i < count; i++)
        write_bytes(path, MSS);
}

static inline void put_event(struct path *path, struct event event)
{
    CHECK(path->event_count < EVENTS_MOST);
    event.number = path->numbers++;
    int i = path->event_count++;
    while (i > 0 && path->events[(i - 1) / 2].at_ns > event.at_ns) {
        path->events[i] = path->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    path->events[i] = event;
}

static inline bool is_earlier(const struct event *a, const struct event *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->number < b->number);
}

static inline struct event take_event(struct path *path)
{
    struct event first = path->events[0], last = path->events[--path->event_count];
    int i = 0;
    for (;;) {
        int child = 2 * i + 1;
        if (child >= path->event_count)
            break;
        if (child + 1 < path->event_count && is_earlier(&path->events[child + 1], &path->events[child]))
            child++;
        if (!is_earlier(&path->events[child], &last))
            break;
        path->events[i] = path->events[child];
        i = child;
    }
    path->events[i] = last;
    return first;
}

static inline void onto_the_way(struct path *path, const struct cr__sent *sent)
{
    int packet = packet_of(sent->seq);
    int more_ns = path->fate ? path->fate(path, packet, sent->times) : 0;
    if (path->delay_ns == 0 || more_ns < 0)
        return;
    int64_t at_ns = path->host.now_ns + path->delay_ns + more_ns;
    if (path->gap_ns) {
        path->free_ns = path->free_ns > path->host.now_ns ? path->free_ns + path->gap_ns : path->host.now_ns + path->gap_ns;
        at_ns = path->free_ns + path->delay_ns + more_ns;
    }
    put_event(path, (struct event){.at_ns = at_ns, .seq = sent->seq, .bytes = sent->payload_bytes, .ts = cr__tcp_ms(&path->host) + path->tcp.ts_offset});
}

/* As output.c does it. */
static inline void send_one(struct path *path, struct cr_packet *packet)
{
    struct cr__sent *sent = cr__sent_of(packet);
    bool again = sent->times > 0;
    if (packet == path->flight.unsent) {
        path->flight.unsent = cr__sent_next(packet);
        path->tcp.snd_nxt = sent->seq + sent->payload_bytes;
    }
    cr__recovery_sent(&path->tcp, packet);
    if (path->logged < LOG_MOST)
        path->log[path->logged++] = again ? -1 - packet_of(sent->seq) : packet_of(sent->seq);
    path->sent_packets++;
    path->resent_packets += again;
    onto_the_way(path, sent);
    check(path);
}

/* All that may be sent now; returns how many packets were. */
static inline int output(struct path *path)
{
    int count = 0;
    struct cr_packet *packet;
    while ((packet = cr__recovery_next(&path->tcp)) != NULL) {
        send_one(path, packet);
        count++;
    }
    for (;;) {
        if (path->endless && !path->flight.unsent)
            write_packets(path, 64);
        packet = path->flight.unsent;
        if (!packet)
            break;
        struct cr__sent *sent = cr__sent_of(packet);
        bool in_window = cr__seq_not_after(sent->seq + sent->payload_bytes, path->tcp.snd_una + path->tcp.snd_wnd);
        if (!in_window || cr__recovery_in_flight(&path->tcp) + sent->payload_bytes > path->tcp.cwnd_bytes)
            break;
        send_one(path, packet);
        count++;
    }
    return count;
}

/* Writes and sends, whatever the window. */
static inline void send_packets(struct path *path, int count)
{
    write_packets(path, count);
    while (path->flight.unsent)
        send_one(path, path->flight.unsent);
}

static inline void pass(struct path *path, int64_t ns)
{
    path->host.now_ns += ns;
}

/* An ACK of all before packet `acked`, with SACK blocks [blocks[2i], blocks[2i + 1]) of packets: {-1} ends them. echo_ms: milliseconds since the echoed timestamp; -1: no
 * timestamps. Returns bytes newly acknowledged. */
static inline uint32_t hear_at(struct path *path, int acked, const int *blocks, int64_t echo_ms)
{
    struct cr__segment seg = {.ack = seq_of(acked), .flags = CR__ACK, .window = (uint16_t)path->tcp.snd_wnd};
    path->tcp.snd_wnd = seg.window; /* so that it is the same window each time */
    for (int i = 0; blocks && blocks[2 * i] >= 0; i++) {
        seg.sack[i].from = seq_of(blocks[2 * i]);
        seg.sack[i].to = seq_of(blocks[2 * i + 1]);
        seg.sack_count++;
    }
    if (echo_ms >= 0) {
        seg.has_timestamp = true;
        seg.ts_echo = cr__tcp_ms(&path->host) + path->tcp.ts_offset - (uint32_t)echo_ms;
    }
    uint32_t bytes = cr__recovery_ack(&path->tcp, &seg);
    path->tcp.snd_wnd = 1u << 30;
    check(path);
    return bytes;
}

#define HEAR(path, acked, ...) hear_at(path, acked, (const int[]){__VA_ARGS__, -1}, -1)
#define HEAR_PLAIN(path, acked) hear_at(path, acked, NULL, -1)

/* A connection that knows its path's RTT: 10 ms. The next packet is 1. */
static inline struct path *path_known(uint32_t flags)
{
    struct path *path = path_open(flags);
    send_packets(path, 1);
    pass(path, 10 * MS);
    hear_at(path, 1, NULL, flags & CR__TCP_TIMESTAMPS ? 10 : -1);
    CHECK_EQ(path->tcp.srtt_us, 10000);
    CHECK_EQ(path->tcp.min_rtt_us, 10000);
    return path;
}

/* So many packets, from 1 on, have been under way for a round trip. */
static inline struct path *path_flying(uint32_t flags, int count)
{
    struct path *path = path_known(flags);
    send_packets(path, count);
    pass(path, 10 * MS);
    return path;
}

/* So many, from 1 on, are under way, and the RTO has come. */
static inline struct path *path_timed_out(uint32_t flags, int count)
{
    struct path *path = path_known(flags);
    send_packets(path, count);
    pass(path, 300 * MS);
    cr__recovery_timeout(&path->tcp);
    check(path);
    return path;
}

static inline struct cr__sent *sent_at(struct path *path, int number)
{
    for (struct cr_packet *packet = path->flight.send.first; packet; packet = cr__sent_next(packet)) {
        if (cr__sent_of(packet)->seq == seq_of(number))
            return cr__sent_of(packet);
    }
    CHECK(!"that packet is in the queue");
    return NULL;
}

static inline bool is_marked(struct path *path, int number, enum cr__sent_flag flag)
{
    return sent_at(path, number)->flags & flag;
}

/* ---- The receiver -------------------------------------------------------------------------------------------- */

static inline void send_ack(struct path *path, uint32_t dsack_from, uint32_t dsack_to)
{
    struct event event = {.at_ns = path->host.now_ns + path->delay_ns, .is_ack = true};
    struct cr__segment *seg = &event.seg;
    *seg = (struct cr__segment){.ack = path->rcv_nxt, .flags = CR__ACK};
    if (path->tcp.flags & CR__TCP_TIMESTAMPS) {
        seg->has_timestamp = true;
        seg->ts_echo = path->ts_recent;
    }
    if (path->tcp.flags & CR__TCP_SACK) {
        unsigned most = seg->has_timestamp ? 3 : 4;
        if (dsack_from != dsack_to && !path->no_dsack) {
            seg->sack[0].from = dsack_from;
            seg->sack[0].to = dsack_to;
            seg->sack_count = 1;
        }
        for (int i = 0; i < path->range_count && seg->sack_count < most; i++, seg->sack_count++) {
            seg->sack[seg->sack_count].from = path->ranges[i].from;
            seg->sack[seg->sack_count].to = path->ranges[i].to;
        }
    }
    path->last_ack = path->rcv_nxt;
    put_event(path, event);
}

static inline void drop_range(struct path *path, int i)
{
    memmove(&path->ranges[i], &path->ranges[i + 1], (size_t)(path->range_count - i - 1) * sizeof(path->ranges[0]));
    path->range_count--;
}

static inline void take_data(struct path *path, const struct event *event)
{
    uint32_t from = event->seq, to = event->seq + event->bytes;
    if (cr__seq_not_after(from, path->last_ack) && !cr__seq_before(event->ts, path->ts_recent))
        path->ts_recent = event->ts;
    if (cr__seq_not_after(to, path->rcv_nxt)) {
        send_ack(path, from, to);
        return;
    }
    for (int i = 0; i < path->range_count; i++) {
        if (cr__seq_not_after(path->ranges[i].from, from) && cr__seq_not_after(to, path->ranges[i].to)) {
            send_ack(path, from, to);
            return;
        }
    }
    for (int i = 0; i < path->range_count; i++) { /* grown together with its neighbours, and the most recent */
        if (path->ranges[i].from == to || path->ranges[i].to == from) {
            if (path->ranges[i].from == to)
                to = path->ranges[i].to;
            else
                from = path->ranges[i].from;
            drop_range(path, i--);
        }
    }
    if (from == path->rcv_nxt) {
        path->received_bytes += to - from;
        path->rcv_nxt = to;
    } else {
        CHECK(path->range_count < RANGES_MOST);
        memmove(&path->ranges[1], &path->ranges[0], (size_t)path->range_count * sizeof(path->ranges[0]));
        path->ranges[0].from = from;
        path->ranges[0].to = to;
        path->range_count++;
    }
    send_ack(path, 0, 0);
}

/* ---- Time ---------------------------------------------------------------------------------------------------- */

static inline void due(struct path *path)
{
    struct cr__flight *flight = &path->flight;
    if (flight->reorder_ns && flight->reorder_ns <= path->host.now_ns) {
        path->reorders++;
        cr__recovery_reorder(&path->tcp);
    }
    if (flight->resend_ns && flight->resend_ns <= path->host.now_ns) {
        if (flight->resend_kind == CR__RESEND_RTO) {
            path->timeouts++;
            cr__recovery_timeout(&path->tcp);
        } else if (flight->resend_kind == CR__RESEND_TLP) {
            path->probes++;
            cr__recovery_probe(&path->tcp);
        }
    }
    check(path);
    output(path);
}

static inline int64_t sooner(int64_t a_ns, int64_t b_ns)
{
    return b_ns && b_ns < a_ns ? b_ns : a_ns;
}

/* Lets time go on until then, or until nothing happens any more. */
static inline void run_until(struct path *path, int64_t until_ns)
{
    output(path);
    for (;;) {
        int64_t at_ns = sooner(sooner(INT64_MAX, path->flight.resend_ns), path->flight.reorder_ns);
        if (path->event_count > 0)
            at_ns = sooner(at_ns, path->events[0].at_ns);
        if (at_ns > until_ns || at_ns == INT64_MAX)
            break;
        if (at_ns > path->host.now_ns)
            path->host.now_ns = at_ns;
        if (path->event_count > 0 && path->events[0].at_ns <= path->host.now_ns) {
            struct event event = take_event(path);
            if (event.is_ack) {
                if (cr__seq_not_after(path->tcp.snd_una, event.seg.ack)) {
                    event.seg.window = (uint16_t)path->tcp.snd_wnd;
                    uint32_t wnd = path->tcp.snd_wnd;
                    path->tcp.snd_wnd = event.seg.window;
                    cr__recovery_ack(&path->tcp, &event.seg);
                    path->tcp.snd_wnd = wnd;
                }
                check(path);
                output(path);
            } else {
                take_data(path, &event);
            }
        }
        due(path);
    }
    if (until_ns != INT64_MAX)
        path->host.now_ns = until_ns;
}

/* Between 0 and 1: xorshift64*, by the seed. */
static inline double chance(struct path *path)
{
    path->seed ^= path->seed >> 12;
    path->seed ^= path->seed << 25;
    path->seed ^= path->seed >> 27;
    return (double)((path->seed * 0x2545f4914f6cdd1dull) >> 11) / 9007199254740992.0;
}

#endif
