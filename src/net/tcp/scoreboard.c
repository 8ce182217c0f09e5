/* What is known of each packet that was sent: which have arrived, which are under way, which are lost. What SACK blocks say of them is sack.c's; nothing here decides: rack.c and
 * recovery.c do.
 *
 * The send queue is in order of sequence numbers and is linked one way. So that an ACK costs what it is about, not the window, there are two chains through the packets, linked
 * both ways: `order`, those under way, by when they were last sent (what RACK walks), and `lost`, those to be sent again. A packet enters and leaves them at once. Only a
 * timeout, undoing, and forgetting SACK walk the queue, and they come once in an RTO or a recovery.
 *
 * Links are 32 bits: packets lie in one area, at multiples of their size, so they are named by their distance. */
#include "net/tcp/recovery.h"

/* ---- Chains ------------------------------------------------------------------------------------------------- */

/* Before `at`; NULL: at the end. */
static void chain_insert(struct cr__chain *chain, struct cr_packet *packet, struct cr_packet *at)
{
    struct cr_packet *prev = at ? cr__sent_at(at, cr__sent_of(at)->before) : chain->last;
    struct cr__sent *sent = cr__sent_of(packet);
    sent->before = cr__sent_distance(packet, prev);
    sent->after = cr__sent_distance(packet, at);
    if (prev)
        cr__sent_of(prev)->after = cr__sent_distance(prev, packet);
    else
        chain->first = packet;
    if (at)
        cr__sent_of(at)->before = cr__sent_distance(at, packet);
    else
        chain->last = packet;
}

static void chain_remove(struct cr__chain *chain, struct cr_packet *packet)
{
    struct cr__sent *sent = cr__sent_of(packet);
    struct cr_packet *prev = cr__sent_at(packet, sent->before), *next = cr__sent_at(packet, sent->after);
    if (prev)
        cr__sent_of(prev)->after = cr__sent_distance(prev, next);
    else
        chain->first = next;
    if (next)
        cr__sent_of(next)->before = cr__sent_distance(next, prev);
    else
        chain->last = prev;
    sent->before = sent->after = 0;
}

static bool waits(const struct cr__sent *sent)
{
    return (sent->flags & (CR__SENT_SACKED | CR__SENT_LOST | CR__SENT_RESENT)) == CR__SENT_LOST;
}

static bool under_way(const struct cr__sent *sent)
{
    return sent->times > 0 && !(sent->flags & CR__SENT_SACKED) && !waits(sent);
}

static void leave(struct cr__flight *flight, struct cr_packet *packet)
{
    struct cr__sent *sent = cr__sent_of(packet);
    if (waits(sent))
        chain_remove(&flight->lost, packet);
    else if (under_way(sent))
        chain_remove(&flight->order, packet);
}

/* Into `order`, to its place by time. *at: where the last one went, of a row that is mostly in order of time already. */
static void put_back(struct cr__flight *flight, struct cr_packet *packet, struct cr_packet **at)
{
    int64_t sent_ns = cr__sent_of(packet)->sent_ns;
    if (!*at || cr__sent_of(*at)->sent_ns > sent_ns)
        *at = flight->order.first;
    while (*at && cr__sent_of(*at)->sent_ns <= sent_ns)
        *at = cr__sent_after(*at);
    chain_insert(&flight->order, packet, *at);
    *at = packet;
}

/* ---- Counts ------------------------------------------------------------------------------------------------- */

uint32_t cr__scoreboard_bytes(const struct cr__flight *flight, struct cr_packet *packet)
{
    return cr__sent_of(packet)->payload_bytes - (packet == flight->send.first ? flight->head_acked_bytes : 0);
}

/* Without SACK, sacked_bytes is a guess; it must not make the pipe negative. */
static void limit_guess(struct cr__flight *flight)
{
    uint32_t most = flight->out_bytes + flight->resent_bytes - flight->lost_bytes;
    if (flight->sacked_bytes > most)
        flight->sacked_bytes = most;
}

void cr__scoreboard_lose(struct cr__flight *flight, struct cr_packet *packet)
{
    struct cr__sent *sent = cr__sent_of(packet);
    uint32_t bytes = cr__scoreboard_bytes(flight, packet);
    if (!under_way(sent))
        return;
    chain_remove(&flight->order, packet);
    if (sent->flags & CR__SENT_RESENT)
        flight->resent_bytes -= bytes;
    if (!(sent->flags & CR__SENT_LOST))
        flight->lost_bytes += bytes;
    sent->flags = (sent->flags & ~CR__SENT_RESENT) | CR__SENT_LOST;
    struct cr_packet *first = flight->lost.first;
    chain_insert(&flight->lost, packet, first && cr__seq_before(sent->seq, cr__sent_of(first)->seq) ? first : NULL);
    flight->losses++;
    limit_guess(flight);
}

void cr__scoreboard_unlose(struct cr__flight *flight)
{
    struct cr_packet *at = NULL, *packet;
    while ((packet = flight->lost.first) != NULL) {
        chain_remove(&flight->lost, packet);
        cr__sent_of(packet)->flags &= ~CR__SENT_LOST;
        flight->lost_bytes -= cr__scoreboard_bytes(flight, packet);
        put_back(flight, packet, &at);
    }
}

void cr__scoreboard_sort(struct cr__flight *flight)
{
    flight->lost = (struct cr__chain){0};
    for (struct cr_packet *packet = flight->send.first; packet && cr__sent_of(packet)->times > 0; packet = cr__sent_next(packet)) {
        if (waits(cr__sent_of(packet)))
            chain_insert(&flight->lost, packet, NULL);
    }
}

void cr__scoreboard_sent(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__sent *sent = cr__sent_of(packet);
    unsigned times = sent->times, flags = sent->flags;
    CR__ASSERT(!(flags & CR__SENT_SACKED));
    if (CR__LIKELY(times == 0)) {
        flags &= CR__SENT_PUSH;
        flight->sent_last = packet;
        flight->out_bytes += sent->payload_bytes;
    } else {
        leave(flight, packet);
        if (!(flags & CR__SENT_RESENT))
            flight->resent_bytes += cr__scoreboard_bytes(flight, packet);
        flags = (flags & ~CR__SENT_FORGOTTEN) | CR__SENT_RESENT;
    }
    sent->times = times < 31 ? times + 1 : times; /* one after the other: they share a word, which to read between two stores would wait for the first */
    sent->flags = flags;
    sent->sent_ns = tcp->host->now_ns > flight->last_sent_ns ? tcp->host->now_ns : flight->last_sent_ns + 1;
    flight->last_sent_ns = sent->sent_ns;
    chain_insert(&flight->order, packet, NULL);
}

/* The rest of what was sent has been sent with it. */
void cr__recovery_split(struct cr__tcp *tcp, struct cr_packet *packet, struct cr_packet *rest)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__sent *sent = cr__sent_of(packet), *more = cr__sent_of(rest);
    if (!flight || sent->times == 0)
        return;
    more->flags = (more->flags & CR__SENT_PUSH) | (sent->flags & ~CR__SENT_PUSH);
    more->times = sent->times;
    more->sent_ns = sent->sent_ns;
    more->before = more->after = 0;
    if (sent->flags & CR__SENT_SACKED)
        flight->sacked_count++;
    else
        chain_insert(waits(sent) ? &flight->lost : &flight->order, rest, cr__sent_after(packet));
    if (flight->sent_last == packet)
        flight->sent_last = rest;
}

/* ---- What has arrived --------------------------------------------------------------------------------------- */

/* So many bytes of a packet count as lost or sent again no longer. */
static void uncount(struct cr__flight *flight, const struct cr__sent *sent, uint32_t bytes)
{
    if (sent->flags & CR__SENT_SACKED)
        flight->sacked_bytes -= bytes;
    if (sent->flags & CR__SENT_LOST)
        flight->lost_bytes -= bytes;
    if (sent->flags & CR__SENT_RESENT)
        flight->resent_bytes -= bytes;
}

void cr__scoreboard_arrived(struct cr__tcp *tcp, struct cr__ack *ack, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__sent *sent = cr__sent_of(packet);
    uint32_t bytes = cr__scoreboard_bytes(flight, packet);
    leave(flight, packet);
    uncount(flight, sent, bytes);
    sent->flags &= ~(CR__SENT_LOST | CR__SENT_RESENT);
    ack->delivered_bytes += bytes;
    if (sent->flags & CR__SENT_FORGOTTEN)
        return;
    if (sent->times == 1) {
        if (!ack->oldest_ns || sent->sent_ns < ack->oldest_ns)
            ack->oldest_ns = sent->sent_ns;
        if (sent->sent_ns > ack->newest_ns)
            ack->newest_ns = sent->sent_ns;
        ack->original_arrived |= flight->recovery == CR__LOSS && cr__seq_not_after(cr__sent_end(sent), flight->recover);
    }
    if (tcp->flags & CR__TCP_SACK)
        cr__rack_heard(tcp, ack, sent);
}

/* The first packet of the queue is acknowledged whole. */
static void take_first(struct cr__tcp *tcp, struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    struct cr_packet *packet = flight->send.first;
    struct cr__sent *sent = cr__sent_of(packet);
    uint32_t bytes = cr__scoreboard_bytes(flight, packet);
    ack->acked_bytes += bytes;
    ack->resent_acked |= sent->times > 1;
    if (sent->flags & CR__SENT_SACKED) {
        uncount(flight, sent, bytes);
        flight->sacked_count--;
    } else {
        cr__scoreboard_arrived(tcp, ack, packet);
    }
    if (flight->sack_at == packet)
        flight->sack_at = NULL;
    if (flight->sent_last == packet)
        flight->sent_last = NULL;
    cr__sendq_pop(&flight->send);
    flight->head_acked_bytes = 0;
    cr__packet_put(tcp->host->packets, packet);
}

void cr__scoreboard_acked(struct cr__tcp *tcp, struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    struct cr_packet *packet;
    while ((packet = flight->send.first) != NULL && cr__sent_of(packet)->times > 0 && cr__seq_not_after(cr__sent_end(cr__sent_of(packet)), ack->seg->ack))
        take_first(tcp, ack);
    if (packet && cr__sent_of(packet)->times > 0 && cr__seq_before(cr__sent_of(packet)->seq + flight->head_acked_bytes, ack->seg->ack)) {
        uint32_t part = ack->seg->ack - cr__sent_of(packet)->seq - flight->head_acked_bytes;
        uncount(flight, cr__sent_of(packet), part);
        if (!(cr__sent_of(packet)->flags & CR__SENT_SACKED))
            ack->delivered_bytes += part;
        ack->acked_bytes += part;
        flight->head_acked_bytes += part;
    }
    flight->send_bytes -= ack->acked_bytes;
    flight->out_bytes -= ack->acked_bytes;
}

/* What was SACKed is under way, and of a time that tells nothing. */
void cr__recovery_forget_sack(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    struct cr_packet *at = NULL;
    if (!flight)
        return;
    for (struct cr_packet *packet = flight->send.first; packet && cr__sent_of(packet)->times > 0; packet = cr__sent_next(packet)) {
        struct cr__sent *sent = cr__sent_of(packet);
        if (!(sent->flags & CR__SENT_SACKED))
            continue;
        sent->flags = (sent->flags & ~CR__SENT_SACKED) | CR__SENT_FORGOTTEN;
        put_back(flight, packet, &at);
    }
    flight->sacked_bytes = flight->sacked_count = 0;
    flight->sack_seen_count = 0;
    flight->sack_at = NULL;
}

void cr__recovery_drop(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    flight->sent_last = flight->sack_at = NULL;
    flight->order = flight->lost = (struct cr__chain){0};
    flight->out_bytes = flight->sacked_bytes = flight->sacked_count = flight->lost_bytes = flight->resent_bytes = 0;
    flight->sack_seen_count = 0;
    flight->recovery = CR__OPEN;
    flight->must = CR__MUST_NOTHING;
    flight->tlp_out = CR__TLP_NONE;
    flight->undo_is_set = false;
    flight->resend_ns = flight->reorder_ns = 0;
    flight->resend_kind = CR__RESEND_NOTHING;
}

/* ---- Without SACK ------------------------------------------------------------------------------------------- */

/* Whether a duplicate ACK is to be believed: up to the third; and in recovery, as many as there were packets when it began. So a flood of them lets out no more than one window. */
static bool guess_is_fair(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (flight->recovery == CR__OPEN)
        return flight->duplicate_acks <= CR__DUPLICATES;
    return flight->sacked_bytes + 2u * tcp->mss_bytes <= flight->recover - tcp->snd_una;
}

/* Each duplicate ACK says that one more segment has arrived, but not which (RFC 6582): so pipe falls by one, and the window needs no inflating; before the third it lets new
 * segments out (RFC 3042). An ACK that advances takes with it what was guessed of, but for the one that was missing. */
void cr__scoreboard_duplicate(struct cr__tcp *tcp, struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    uint32_t mss_bytes = tcp->mss_bytes;
    if (flight->recovery == CR__LOSS) {
        flight->sacked_bytes = 0;
        return;
    }
    if (ack->advanced) {
        uint32_t guessed = ack->acked_bytes > mss_bytes ? ack->acked_bytes - mss_bytes : 0;
        if (guessed > flight->sacked_bytes)
            guessed = flight->sacked_bytes;
        flight->sacked_bytes -= guessed;
        ack->delivered_bytes -= guessed < ack->delivered_bytes ? guessed : ack->delivered_bytes;
        flight->duplicate_acks = 0;
        limit_guess(flight);
    } else if (ack->duplicate) {
        uint32_t before = flight->sacked_bytes;
        if (flight->duplicate_acks < UINT8_MAX)
            flight->duplicate_acks++;
        flight->sacked_bytes += guess_is_fair(tcp) ? mss_bytes : 0;
        limit_guess(flight);
        ack->delivered_bytes += flight->sacked_bytes > before ? flight->sacked_bytes - before : 0;
    }
}

/* ---- For tests ---------------------------------------------------------------------------------------------- */

static uint32_t chain_count(const struct cr__chain *chain, bool (*belongs)(const struct cr__sent *sent), bool by_time)
{
    uint32_t count = 0;
    struct cr_packet *prev = NULL;
    for (struct cr_packet *packet = chain->first; packet; prev = packet, packet = cr__sent_after(packet), count++) {
        CR__ASSERT(belongs(cr__sent_of(packet)) && cr__sent_at(packet, cr__sent_of(packet)->before) == prev);
        CR__ASSERT(!by_time || !prev || cr__sent_of(prev)->sent_ns <= cr__sent_of(packet)->sent_ns);
    }
    CR__ASSERT(chain->last == prev);
    return count;
}

void cr__recovery_check(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (!flight)
        return;
    uint32_t out = 0, sacked = 0, sacked_count = 0, lost = 0, resent = 0, waiting = 0, moving = 0, queued = 0;
    struct cr_packet *last = NULL;
    bool sack_at_is_there = !flight->sack_at;
    for (struct cr_packet *packet = flight->send.first; packet; packet = cr__sent_next(packet)) {
        struct cr__sent *sent = cr__sent_of(packet);
        uint32_t bytes = cr__scoreboard_bytes(flight, packet);
        queued += bytes;
        sack_at_is_there |= packet == flight->sack_at;
        if (sent->times == 0)
            continue;
        last = packet;
        out += bytes;
        CR__ASSERT(!(sent->flags & CR__SENT_SACKED) || !(sent->flags & (CR__SENT_LOST | CR__SENT_RESENT)));
        sacked += sent->flags & CR__SENT_SACKED ? bytes : 0;
        sacked_count += sent->flags & CR__SENT_SACKED ? 1 : 0;
        lost += sent->flags & CR__SENT_LOST ? bytes : 0;
        resent += sent->flags & CR__SENT_RESENT ? bytes : 0;
        waiting += waits(sent);
        moving += under_way(sent);
    }
    CR__ASSERT(queued == flight->send_bytes && out == flight->out_bytes);
    CR__ASSERT(last == flight->sent_last);
    CR__ASSERT(sack_at_is_there);
    CR__ASSERT(lost == flight->lost_bytes && resent == flight->resent_bytes && sacked_count == flight->sacked_count);
    CR__ASSERT(sacked == flight->sacked_bytes || !(tcp->flags & CR__TCP_SACK));
    CR__ASSERT(flight->sacked_bytes + lost <= flight->out_bytes + resent);
    CR__ASSERT(chain_count(&flight->lost, waits, false) == waiting && chain_count(&flight->order, under_way, true) == moving);
}
