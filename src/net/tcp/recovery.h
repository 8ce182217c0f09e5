/* Between scoreboard.c, sack.c, rack.c, rtt.c and recovery.c, and for nobody else: what one ACK has told, and who does what with it.
 *
 * Invariants (cr__recovery_check):
 *   1. A packet that was sent is in exactly one of three states: SACKed; lost and to be sent again (in the chain `lost`); under way (in the chain `order`). Without SACK none is
 *      SACKed.
 *   2. `order` is in order of the last sending. `lost` is in order of sequence numbers as far as losses were found in that order.
 *   3. sacked_bytes, lost_bytes and resent_bytes are the sums of what lies behind snd_una in packets with these flags; their pipe is never negative.
 *   4. No pointer of a flight's leads to a packet that has left the queue. */
#ifndef CR__TCP_RECOVERY_H
#define CR__TCP_RECOVERY_H

#include "net/tcp/tcp.h"

#define CR__DUPLICATES 3 /* DupThresh */

struct cr__ack {
    const struct cr__segment *seg;
    uint32_t fack_before;     /* the end of the highest that had been told of */
    uint32_t before_bytes;    /* pipe */
    uint32_t acked_bytes;     /* newly, cumulatively */
    uint32_t delivered_bytes; /* newly, either way */
    uint32_t losses_before;   /* flight->losses */
    uint32_t dsack_end;
    bool advanced;            /* SND.UNA */
    bool duplicate;           /* RFC 5681, 2 */
    bool dsack;
    bool resent_acked;        /* cumulatively, of what was sent more than once: no time is told by what came with it (Karn) */
    bool original_arrived;    /* of what was under way at the RTO, sent but once, and never told of before */
    int64_t oldest_ns, newest_ns; /* when the first and the last of what was newly told of, and sent but once, was sent; 0: none was */
};

static inline uint32_t cr__sent_end(const struct cr__sent *sent)
{
    return sent->seq + sent->payload_bytes;
}

/* The packet at so many packets' distance in the area; 0: none. And the other way round. */
static inline struct cr_packet *cr__sent_at(struct cr_packet *from, int32_t distance)
{
    return distance ? (struct cr_packet *)(void *)((char *)from + (ptrdiff_t)distance * CR_PACKET_BYTES) : NULL;
}

static inline int32_t cr__sent_distance(struct cr_packet *from, struct cr_packet *to)
{
    return to ? (int32_t)(((char *)to - (char *)from) / CR_PACKET_BYTES) : 0;
}

/* The next in its chain; of a SACKed one, a later one of its run. */
static inline struct cr_packet *cr__sent_after(struct cr_packet *packet)
{
    return cr__sent_at(packet, cr__sent_of(packet)->after);
}

/* scoreboard.c */
uint32_t cr__scoreboard_bytes(const struct cr__flight *flight, struct cr_packet *packet); /* of it that are not acknowledged */
void cr__scoreboard_acked(struct cr__tcp *tcp, struct cr__ack *ack);     /* cumulatively */
void cr__scoreboard_arrived(struct cr__tcp *tcp, struct cr__ack *ack, struct cr_packet *packet); /* as nothing had told before */
void cr__scoreboard_duplicate(struct cr__tcp *tcp, struct cr__ack *ack); /* without SACK: what duplicate ACKs let guess */
void cr__scoreboard_lose(struct cr__flight *flight, struct cr_packet *packet);
void cr__scoreboard_unlose(struct cr__flight *flight);                   /* what was to be sent again is under way after all */
void cr__scoreboard_sent(struct cr__tcp *tcp, struct cr_packet *packet);
void cr__scoreboard_sort(struct cr__flight *flight);                     /* `lost`, by sequence numbers: O(queue) */

/* sack.c */
void cr__sack_read(struct cr__tcp *tcp, struct cr__ack *ack); /* its blocks */
void cr__sack_read_late(struct cr__tcp *tcp, const struct cr__segment *seg); /* without a flight: that what was sent again has come twice may be told when all is acknowledged */

/* rack.c */
void cr__rack_heard(struct cr__tcp *tcp, struct cr__ack *ack, const struct cr__sent *sent); /* a packet that has arrived */
void cr__rack_dsack(struct cr__tcp *tcp);
void cr__rack_detect(struct cr__tcp *tcp);    /* marks what is lost, and sets reorder_ns */
void cr__rack_timeout(struct cr__tcp *tcp);   /* marks what an RTO makes lost */
void cr__rack_recovered(struct cr__tcp *tcp); /* a recovery is over */
int64_t cr__rack_probe_ns(const struct cr__tcp *tcp); /* when TLP is due; 0: never */
void cr__rack_probe_sent(struct cr__tcp *tcp, bool again);
bool cr__rack_probe_heard(struct cr__tcp *tcp, const struct cr__ack *ack); /* whether the probe has mended a loss */

/* rtt.c */
void cr__rtt_heard(struct cr__tcp *tcp, const struct cr__ack *ack);

#endif
