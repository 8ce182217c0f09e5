/* What waits out of order: sorted, without overlaps, and found without a walk.
 *
 * Who is on the other side says in which order it comes, so neither the time that one segment takes nor the memory that it holds may be his to choose:
 *   - it is a skip list (Pugh 1990) whose levels are drawn by the host's random numbers: finding a place takes steps by the logarithm of what waits, in whatever order it comes. (A list that is walked was
 *     CVE-2018-5390.) The links above the lowest level lie in the packet's `own`, as distances in the area;
 *   - a segment goes into the room behind the one before it, if it follows it and fits, so bytes that come one by one do not hold 2 KiB each;
 *   - of packets there are so many as twice the receive buffer would take, and a few. What is beyond has not been acknowledged, and comes again.
 *
 * Rejected: a tree (more links than there is room for in `own`), a walk from where the last one went (the peer says where that is). */
#include "net/tcp/recovery.h"

#include <string.h>

#define PACKETS_LEAST 16 /* also where the buffer is small */

/* The last ones, level by level, that end before what is looked for; NULL: it would be the first. */
struct way {
    struct cr_packet *at[CR__EARLY_LEVELS + 1];
};

static inline uint32_t end_of(struct cr_packet *packet)
{
    return cr__received_of(packet)->seq + packet->size_bytes;
}

static inline struct cr_packet *next_on(const struct cr__flight *flight, struct cr_packet *packet, int level)
{
    if (level == 0)
        return packet ? packet->next : flight->early.first;
    return packet ? cr__sent_at(packet, cr__received_of(packet)->up[level - 1]) : flight->early_up[level - 1];
}

static inline void set_next(struct cr__flight *flight, struct cr_packet *packet, int level, struct cr_packet *next)
{
    if (level == 0)
        *(packet ? &packet->next : &flight->early.first) = next;
    else if (packet)
        cr__received_of(packet)->up[level - 1] = cr__sent_distance(packet, next);
    else
        flight->early_up[level - 1] = next;
}

static void find(const struct cr__flight *flight, struct way *way, uint32_t seq)
{
    struct cr_packet *at = NULL, *next;
    for (int level = CR__EARLY_LEVELS; level >= 0; level--) {
        while ((next = next_on(flight, at, level)) != NULL && cr__seq_not_after(end_of(next), seq))
            at = next;
        way->at[level] = at;
    }
}

/* Beyond the one that is next. */
static void step(const struct cr__flight *flight, struct way *way, struct cr_packet *next)
{
    for (int level = 0; level <= CR__EARLY_LEVELS; level++) {
        if (next_on(flight, way->at[level], level) == next)
            way->at[level] = next;
    }
}

/* The one that is next: it is the caller's. */
static void unlink_next(struct cr__flight *flight, struct way *way, struct cr_packet *next)
{
    for (int level = 0; level <= CR__EARLY_LEVELS; level++) {
        if (next_on(flight, way->at[level], level) == next)
            set_next(flight, way->at[level], level, next_on(flight, next, level));
    }
    if (flight->early.last == next)
        flight->early.last = way->at[0];
    flight->early.count--;
    flight->early_bytes -= next->size_bytes;
}

/* On how many levels above the lowest: on each a quarter of those below it. */
static int draw(struct cr__host *host)
{
    uint64_t random = cr__host_random(host) >> 32;
    int level = 0;
    while (level < CR__EARLY_LEVELS && (random & 3) == 0) {
        random >>= 2;
        level++;
    }
    return level;
}

static void link_here(struct cr__tcp *tcp, struct way *way, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    int most = draw(tcp->host);
    memset(cr__received_of(packet)->up, 0, sizeof(cr__received_of(packet)->up));
    for (int level = 0; level <= most; level++) {
        set_next(flight, packet, level, next_on(flight, way->at[level], level));
        set_next(flight, way->at[level], level, packet);
    }
    if (!packet->next)
        flight->early.last = packet;
    flight->early.count++;
    flight->early_bytes += packet->size_bytes;
}

/* Cuts off what those in the queue have already. false: all of it. */
static bool trim(struct cr__tcp *tcp, struct way *way, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__received *own = cr__received_of(packet);
    struct cr_packet *at = next_on(flight, way->at[0], 0);
    uint32_t end = end_of(packet);
    if (at && cr__seq_not_after(cr__received_of(at)->seq, own->seq)) {
        uint32_t has = end_of(at);
        cr__tcp_note_duplicate(tcp, own->seq, cr__seq_before(has, end) ? has : end);
        if (cr__seq_not_after(end, has)) {
            if (end == has)
                cr__received_of(at)->fin |= own->fin; /* that may be what is new of it */
            return false;
        }
        cr_packet_pull(packet, has - own->seq);
        own->seq = has;
        step(flight, way, at);
        at = at->next;
    }
    while (at && cr__seq_before(cr__received_of(at)->seq, end)) {
        if (cr__seq_before(end, end_of(at))) {
            cr__tcp_note_duplicate(tcp, cr__received_of(at)->seq, end);
            packet->size_bytes = (uint16_t)(cr__received_of(at)->seq - own->seq);
            own->fin = false; /* behind an end there is nothing: one of the two is not so, and the FIN comes again if it is */
            return packet->size_bytes > 0;
        }
        cr__tcp_note_duplicate(tcp, cr__received_of(at)->seq, end_of(at));
        own->fin |= cr__received_of(at)->fin;
        struct cr_packet *next = at->next;
        unlink_next(flight, way, at);
        cr__packet_put(tcp->host->packets, at);
        at = next;
    }
    return true;
}

/* Into the room behind the one before it. */
static bool gather(struct cr__tcp *tcp, struct cr_packet *prev, struct cr_packet *packet)
{
    uint16_t bytes = packet->size_bytes;
    if (!prev || bytes == 0 || end_of(prev) != cr__received_of(packet)->seq || cr__received_of(prev)->fin || bytes > cr_packet_back(prev))
        return false;
    memcpy(prev->data + prev->size_bytes, packet->data, bytes);
    prev->size_bytes = (uint16_t)(prev->size_bytes + bytes);
    cr__received_of(prev)->fin = cr__received_of(packet)->fin;
    tcp->flight->early_bytes += bytes;
    cr__packet_put(tcp->host->packets, packet);
    return true;
}

bool cr__early_insert(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    struct way way;
    find(flight, &way, cr__received_of(packet)->seq);
    if (!trim(tcp, &way, packet)) {
        cr__host_drop(tcp->host, packet, CR__DROP_TCP_DUPLICATE);
        return true;
    }
    if (gather(tcp, way.at[0], packet))
        return true;
    if (flight->early.count >= tcp->rcv_limit_bytes / (CR_PACKET_BYTES / 2) + PACKETS_LEAST || cr__packets_left(tcp->host->packets) <= CR__LEFT_NO_EARLY) {
        cr__host_drop(tcp->host, packet, CR__DROP_TCP_FULL);
        return false;
    }
    link_here(tcp, &way, packet);
    return true;
}

struct cr_packet *cr__early_pop(struct cr__tcp *tcp)
{
    struct way way = {0};
    struct cr_packet *first = tcp->flight->early.first;
    unlink_next(tcp->flight, &way, first);
    return first;
}

void cr__early_drop(struct cr__tcp *tcp)
{
    while (tcp->flight->early.first)
        cr__packet_put(tcp->host->packets, cr__early_pop(tcp));
    tcp->flight->sack_count = 0;
}
