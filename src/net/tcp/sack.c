/* What SACK blocks say (RFC 2018, 2883): which packets have arrived out of order.
 *
 * Finding a block's packets in a queue that is linked one way would take as many steps as there are packets before it. So
 *   - a packet that is SACKed, which is in none of the chains, uses its link to lead to a later packet of the same run of SACKed ones, as far as that is known: runs are skipped,
 *     and the skips grow longer by being used;
 *   - `sack_at` is where the last look for a block has ended: most blocks go on from there;
 *   - the last ACK's blocks are kept, of which nothing is new if they come again (and all but the first do). Looking for blocks takes STEPS steps at most in one ACK, besides one
 *     for each packet that is newly SACKed: a packet is that once, until a timeout. A peer that says many blocks far apart costs no more. Where the steps were used up the block
 *     goes on with the next ACK from there, if it comes again; SACK is advice, so leaving some out is harmless (RFC 2018, 8).
 *
 * A packet that is SACKed in part counts as not SACKed. Splitting it would save the peer from hearing some bytes twice, in a case that needs somebody on the way who cuts
 * segments anew. */
#include "net/tcp/recovery.h"

#define STEPS 256 /* each may be a line from memory. Honest blocks are next to where the last look has ended: only beyond a hole that is longer it takes several ACKs */

/* The last of the run that begins with that packet, as far as *steps lead. */
static struct cr_packet *run_last(struct cr_packet *packet, unsigned *steps)
{
    struct cr_packet *at = packet;
    while (*steps > 0) {
        struct cr_packet *further = cr__sent_of(at)->after ? cr__sent_after(at) : cr__sent_next(at);
        if (!further || !(cr__sent_of(further)->flags & CR__SENT_SACKED))
            break;
        at = further;
        --*steps;
    }
    cr__sent_of(packet)->after = cr__sent_distance(packet, at);
    return at;
}

static void sack(struct cr__tcp *tcp, struct cr__ack *ack, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__sent *sent = cr__sent_of(packet);
    cr__scoreboard_arrived(tcp, ack, packet);
    sent->flags |= CR__SENT_SACKED;
    flight->high_sacked = flight->sacked_bytes > 0 ? cr__seq_later(flight->high_sacked, cr__sent_end(sent)) : cr__sent_end(sent);
    flight->sacked_bytes += sent->payload_bytes;
    flight->sacked_count++;
}

/* Marks what lies in the block. False: the steps did not lead to its end. */
static bool sack_block(struct cr__tcp *tcp, struct cr__ack *ack, uint32_t from, uint32_t to, unsigned *steps)
{
    struct cr__flight *flight = tcp->flight;
    struct cr_packet *packet = flight->sack_at && cr__seq_not_after(cr__sent_of(flight->sack_at)->seq, from) ? flight->sack_at : flight->send.first;
    while (packet && cr__sent_of(packet)->times > 0 && cr__seq_before(cr__sent_of(packet)->seq, to)) {
        struct cr__sent *sent = cr__sent_of(packet);
        if (*steps == 0)
            return false;
        if (sent->flags & CR__SENT_SACKED) {
            packet = run_last(packet, steps);
            if (*steps > 0)
                --*steps;
        } else if (cr__seq_not_after(from, sent->seq) && cr__seq_not_after(cr__sent_end(sent), to)) {
            sack(tcp, ack, packet);
        } else {
            --*steps;
        }
        flight->sack_at = packet;
        packet = cr__sent_next(packet);
    }
    return true;
}

/* RFC 2883, 4: the first block is about what has come twice if it lies below the ACK, or within the second. What was never sent twice by us was doubled by somebody on the way,
 * and is none of ours. */
static bool first_is_duplicate(const struct cr__tcp *tcp, const struct cr__segment *seg)
{
    uint32_t from = seg->sack[0].from, to = seg->sack[0].to;
    if (seg->sack_count == 0 || !cr__seq_before(from, to))
        return false;
    bool within = seg->sack_count > 1 && cr__seq_not_after(seg->sack[1].from, from) && cr__seq_not_after(to, seg->sack[1].to);
    return cr__seq_not_after(to, seg->ack) || (within && cr__seq_not_after(to, tcp->snd_nxt));
}

static bool was_seen(const struct cr__flight *flight, uint32_t from, uint32_t to)
{
    for (unsigned i = 0; i < flight->sack_seen_count; i++) {
        if (cr__seq_not_after(flight->sack_seen[i].from, from) && cr__seq_not_after(to, flight->sack_seen[i].to))
            return true;
    }
    return false;
}

/* A block that is worth looking at: of what is outstanding. One that begins where the ACK ends contradicts it. */
static bool makes_sense(const struct cr__tcp *tcp, uint32_t from, uint32_t to)
{
    return cr__seq_before(tcp->snd_una, from) && cr__seq_before(from, to) && cr__seq_not_after(to, tcp->snd_nxt);
}

void cr__sack_read(struct cr__tcp *tcp, struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    const struct cr__segment *seg = ack->seg;
    bool duplicate = first_is_duplicate(tcp, seg);
    if (duplicate && flight->retransmits + tcp->retransmits > 0) {
        ack->dsack = true;
        ack->dsack_end = seg->sack[0].to;
    }
    unsigned steps = STEPS, seen = 0, count = seg->sack_count < CR__SACK_BLOCKS ? seg->sack_count : CR__SACK_BLOCKS;
    struct { uint32_t from, to; } blocks[CR__SACK_BLOCKS];
    for (unsigned i = duplicate ? 1 : 0; i < count; i++) {
        uint32_t from = seg->sack[i].from, to = seg->sack[i].to;
        if (!makes_sense(tcp, from, to))
            continue;
        if (was_seen(flight, from, to) || sack_block(tcp, ack, from, to, &steps)) {
            blocks[seen].from = from;
            blocks[seen++].to = to;
        }
    }
    for (unsigned i = 0; i < seen; i++) {
        flight->sack_seen[i].from = blocks[i].from;
        flight->sack_seen[i].to = blocks[i].to;
    }
    flight->sack_seen_count = (uint8_t)seen;
}

void cr__sack_read_late(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    if ((tcp->flags & CR__TCP_SACK) && tcp->retransmits > 0 && first_is_duplicate(tcp, seg))
        cr__rack_dsack(tcp);
}
