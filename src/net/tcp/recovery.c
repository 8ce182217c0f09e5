/* What an ACK, a timeout and RACK's timer change: between open, fast recovery and recovery after an RTO.
 *
 *            lost: RACK, or 3 duplicate ACKs
 *     OPEN ----------------------------------> RECOVERY    rate by PRR (RFC 9937)
 *      | ^ <---------------------------------- /           `recover` acknowledged (RFC 6582, 6675), or it was spurious
 *  RTO | \ `recover` acknowledged, or spurious | RTO
 *      v  \                                    v
 *      LOSS <----------------------------------            slow start from one segment
 *
 * What is lost is sent again from the chain of lost packets, as far as cwnd leaves room in the pipe (cr__recovery_next). In RECOVERY cwnd is what PRR sets with each ACK: pipe,
 * and what may be sent now. In OPEN and LOSS it is the congestion control's.
 *
 * Spurious: what was sent again had not been lost. Told by
 *   - the ACK that follows bearing a timestamp from before it was sent again (Eifel: RFC 3522, 4015);
 *   - after an RTO, the arrival of something that was sent before it and only then (RFC 5682 with SACK, its step 3 at the first ACK already, as Linux does);
 *   - D-SACK for each packet that was sent again (RFC 3708): up to a round trip after the recovery, for that is when they come.
 * Then cwnd and ssthresh are as before, and what is not sent again yet is not.
 *
 * Rejected: keeping what is SACKed at an RTO, unless the first packet is SACKed, as Linux does. RFC 2018 (8) wants it forgotten; the next ACK says most of it again. */
#include "net/tcp/recovery.h"

#define BACKOFF_MOST 32

static bool has_sack(const struct cr__tcp *tcp)
{
    return tcp->flags & CR__TCP_SACK;
}

static int64_t ns_of(uint32_t us)
{
    return (int64_t)us * 1000;
}

/* ---- What may be sent --------------------------------------------------------------------------------------- */

static uint32_t pipe_of(const struct cr__flight *flight)
{
    return flight->out_bytes + flight->resent_bytes - flight->sacked_bytes - flight->lost_bytes;
}

uint32_t cr__recovery_in_flight(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (!flight)
        return 0;
    uint32_t pipe = pipe_of(flight);
    if (flight->tlp_out == CR__TLP_WANTED && flight->must == CR__MUST_NOTHING && flight->unsent) { /* a new packet as a probe goes whatever the window is */
        uint32_t bytes = cr__sent_of(flight->unsent)->payload_bytes, room_from = tcp->cwnd_bytes > bytes ? tcp->cwnd_bytes - bytes : 0;
        return pipe < room_from ? pipe : room_from;
    }
    return pipe;
}

struct cr_packet *cr__recovery_next(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight)
        return NULL;
    if (flight->must == CR__MUST_PROBE) {
        struct cr_packet *last = flight->sent_last;
        return last && cr__sent_of(last)->flags & CR__SENT_SACKED ? flight->order.last : last;
    }
    struct cr_packet *packet = flight->lost.first;
    if (!packet || flight->must == CR__MUST_FIRST)
        return packet;
    uint32_t pipe = pipe_of(flight);
    return pipe == 0 || pipe + cr__scoreboard_bytes(flight, packet) <= tcp->cwnd_bytes ? packet : NULL;
}

static void sent_again(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    flight->retransmits++;
    if (tcp->host->tcp)
        tcp->host->tcp->retransmits++;
    flight->undo_resent++;
    if (!flight->undo_ts_is_set && flight->recovery != CR__OPEN) {
        flight->undo_ts_is_set = true;
        flight->undo_ts_ms = cr__tcp_ms(tcp->host);
    }
    if (packet == flight->send.first)
        flight->rto_from_ns = tcp->host->now_ns; /* RFC 6675, 5: else the RTO may come before this one can be acknowledged */
}

void cr__recovery_sent(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__flight *flight = tcp->flight;
    bool again = cr__sent_of(packet)->times > 0;
    cr__scoreboard_sent(tcp, packet);
    if (again)
        sent_again(tcp, packet);
    else
        flight->pto_from_ns = tcp->host->now_ns;
    if (flight->recovery == CR__RECOVERY)
        flight->prr_out += cr__scoreboard_bytes(flight, packet);
    if (flight->tlp_out == CR__TLP_WANTED)
        cr__rack_probe_sent(tcp, again);
    flight->must = CR__MUST_NOTHING;
    cr__recovery_arm(tcp);
}

/* ---- Timers ------------------------------------------------------------------------------------------------- */

void cr__recovery_arm(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight)
        return;
    if (!flight->sent_last && tcp->snd_una == tcp->snd_nxt) {
        if (flight->resend_kind != CR__RESEND_PROBE) {
            flight->resend_kind = CR__RESEND_NOTHING;
            flight->resend_ns = 0;
        }
        return;
    }
    if (flight->resend_kind != CR__RESEND_RTO && flight->resend_kind != CR__RESEND_TLP)
        flight->rto_from_ns = flight->pto_from_ns = tcp->host->now_ns;
    flight->resend_kind = CR__RESEND_RTO;
    flight->resend_ns = flight->rto_from_ns + ns_of(cr__recovery_rto_us(tcp));
    int64_t probe_ns = cr__rack_probe_ns(tcp);
    if (probe_ns) { /* instead of the RTO, if that came sooner (RFC 8985, 7.2) */
        flight->resend_kind = CR__RESEND_TLP;
        if (probe_ns < flight->resend_ns)
            flight->resend_ns = probe_ns;
    }
}

/* ---- Recovery ----------------------------------------------------------------------------------------------- */

static void begin_undo(struct cr__flight *flight)
{
    flight->undo_is_set = true;
    flight->undo_ts_is_set = false;
    flight->undo_resent = 0;
}

static void enter_recovery(struct cr__tcp *tcp, uint32_t before_bytes)
{
    struct cr__flight *flight = tcp->flight;
    begin_undo(flight);
    cr__congestion_lost(tcp);
    flight->recovery = CR__RECOVERY;
    flight->recover = tcp->snd_nxt;
    flight->recover_is_set = true;
    flight->prr_delivered = flight->prr_out = 0;
    flight->prr_flight_bytes = before_bytes ? before_bytes : 1;
    flight->tlp_out = CR__TLP_NONE;
}

/* RFC 9937, 6. While the pipe is above ssthresh, what leaves is to what arrives as ssthresh is to what was in flight; below it, as much as arrives (CRB), and a segment more with
 * each ACK that advances and tells of no more losses (SSRB). The first packet goes at once, in any case. */
static void reduce_rate(struct cr__tcp *tcp, uint32_t delivered_bytes, bool is_safe)
{
    struct cr__flight *flight = tcp->flight;
    uint32_t pipe = pipe_of(flight);
    int64_t budget, goal = tcp->ssthresh_bytes;
    flight->prr_delivered += delivered_bytes;
    if (pipe > goal) {
        budget = (int64_t)(((uint64_t)flight->prr_delivered * (uint64_t)goal + flight->prr_flight_bytes - 1) / flight->prr_flight_bytes) - flight->prr_out;
    } else {
        budget = (int64_t)flight->prr_delivered - flight->prr_out;
        if (is_safe)
            budget = (budget > delivered_bytes ? budget : delivered_bytes) + tcp->mss_bytes;
        if (budget > goal - pipe)
            budget = goal - pipe;
    }
    if (budget < 0)
        budget = 0;
    if (flight->prr_out == 0 && flight->lost.first && budget < cr__scoreboard_bytes(flight, flight->lost.first))
        budget = cr__scoreboard_bytes(flight, flight->lost.first);
    tcp->cwnd_bytes = pipe + (uint32_t)budget;
    if (tcp->cwnd_bytes < tcp->mss_bytes)
        tcp->cwnd_bytes = tcp->mss_bytes; /* with an empty pipe nothing would arrive that lets more out */
}

static void leave_recovery(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (flight->recovery == CR__RECOVERY)
        tcp->cwnd_bytes = tcp->ssthresh_bytes;
    flight->recovery = CR__OPEN;
    flight->pto_from_ns = tcp->host->now_ns; /* in recovery there was none to be counted */
    flight->undo_end = tcp->snd_nxt;
    flight->duplicate_acks = 0;
    flight->timeout_is_new = false;
    if (!has_sack(tcp))
        flight->sacked_bytes = 0;
    cr__rack_recovered(tcp);
}

/* ---- Undoing ------------------------------------------------------------------------------------------------ */

/* Whether a packet that was sent again left after that ACK's timestamp had: then the ACK is of its first sending. */
static bool is_of_before(const struct cr__tcp *tcp, const struct cr__ack *ack)
{
    const struct cr__flight *flight = tcp->flight;
    return ack->advanced && flight->undo_ts_is_set && (tcp->flags & CR__TCP_TIMESTAMPS) && ack->seg->has_timestamp &&
           cr__seq_before(ack->seg->ts_echo - tcp->ts_offset, flight->undo_ts_ms);
}

static bool was_spurious(struct cr__tcp *tcp, const struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight->undo_is_set)
        return false;
    if (ack->dsack && flight->undo_resent > 0 && --flight->undo_resent == 0)
        return true;
    if (flight->recovery == CR__OPEN)
        return false;
    return is_of_before(tcp, ack) || (has_sack(tcp) && flight->recovery == CR__LOSS && flight->timeout_is_new && ack->original_arrived);
}

static void undo(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    cr__congestion_undo(tcp);
    cr__scoreboard_unlose(flight);
    if (flight->recovery != CR__OPEN) {
        flight->recovery = CR__LOSS; /* so that cwnd is left as it is */
        leave_recovery(tcp);
    }
    flight->undo_is_set = false;
}

/* ---- An ACK ------------------------------------------------------------------------------------------------- */

/* RFC 5681, 2. */
static bool is_duplicate(const struct cr__tcp *tcp, const struct cr__segment *seg)
{
    bool empty = seg->payload_bytes == 0 && !(seg->flags & (CR__SYN | CR__FIN));
    return seg->ack == tcp->snd_una && empty && (uint32_t)seg->window << tcp->snd_scale == tcp->snd_wnd && tcp->flight->sent_last;
}

/* RFC 6582, 3.2: the third duplicate ACK, unless it may be about what recovery has sent twice (step 1); and each ACK in recovery that leaves a hole: what follows it is lost,
 * too, and goes at once (step 5). */
static void detect_without_sack(struct cr__tcp *tcp, const struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight->sent_last)
        return;
    bool third = flight->recovery == CR__OPEN && flight->duplicate_acks >= CR__DUPLICATES && (!flight->recover_is_set || cr__seq_before(flight->recover, tcp->snd_una));
    bool partial = flight->recovery == CR__RECOVERY && ack->advanced && cr__seq_before(tcp->snd_una, flight->recover);
    if (third || partial)
        cr__scoreboard_lose(flight, flight->send.first);
    if (partial)
        flight->must = CR__MUST_FIRST;
}

static struct cr__ack ack_begin(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    struct cr__flight *flight = tcp->flight;
    struct cr__ack ack = {
        .seg = seg,
        .fack_before = flight->sacked_bytes > 0 && has_sack(tcp) ? cr__seq_later(flight->high_sacked, tcp->snd_una) : tcp->snd_una,
        .before_bytes = pipe_of(flight),
        .losses_before = flight->losses,
        .advanced = seg->ack != tcp->snd_una,
        .duplicate = is_duplicate(tcp, seg) && seg->sack_count == 0,
    };
    flight->outstanding_bytes = flight->out_bytes;
    if (flight->tlp_out == CR__TLP_WANTED) { /* it was not sent: this ACK makes it needless */
        flight->tlp_out = CR__TLP_NONE;
        flight->must = CR__MUST_NOTHING;
    }
    if (ack.advanced)
        flight->must = CR__MUST_NOTHING;
    return ack;
}

/* Takes in what the ACK says of packets. */
static void ack_read(struct cr__tcp *tcp, struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    cr__scoreboard_acked(tcp, ack);
    tcp->snd_una = ack->seg->ack;
    if (has_sack(tcp))
        cr__sack_read(tcp, ack);
    else
        cr__scoreboard_duplicate(tcp, ack);
    if (flight->recover_is_set && flight->recovery == CR__OPEN && cr__seq_before(flight->recover, tcp->snd_una))
        flight->recover_is_set = false;
    if (flight->undo_is_set && flight->recovery == CR__OPEN && cr__seq_before(flight->undo_end, tcp->snd_una))
        flight->undo_is_set = false;
    if (flight->rack_dsack_is_set && cr__seq_not_after(flight->rack_dsack_round, tcp->snd_una))
        flight->rack_dsack_is_set = false; /* before it means the future */
    cr__rtt_heard(tcp, ack);
}

static void ack_detect(struct cr__tcp *tcp, const struct cr__ack *ack)
{
    if (!has_sack(tcp)) {
        detect_without_sack(tcp, ack);
        return;
    }
    if (ack->dsack)
        cr__rack_dsack(tcp);
    cr__rack_detect(tcp);
    if (cr__rack_probe_heard(tcp, ack) && tcp->flight->recovery == CR__OPEN && !tcp->flight->lost.first) {
        cr__congestion_lost(tcp); /* and cwnd goes down at once: there is nothing to recover */
        tcp->flight->undo_is_set = false;
    }
}

uint32_t cr__recovery_ack(struct cr__tcp *tcp, const struct cr__segment *seg)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight) {
        tcp->snd_una = seg->ack;
        cr__sack_read_late(tcp, seg);
        return 0;
    }
    struct cr__ack ack = ack_begin(tcp, seg);
    ack_read(tcp, &ack);
    bool grows = ack.advanced && flight->recovery != CR__RECOVERY;
    if (was_spurious(tcp, &ack))
        undo(tcp);
    else if (ack.advanced || ack.delivered_bytes > 0)
        flight->timeout_is_new &= !ack.advanced; /* the first that advances decides */
    ack_detect(tcp, &ack);
    if (flight->recovery != CR__OPEN && cr__seq_not_after(flight->recover, tcp->snd_una))
        leave_recovery(tcp);
    bool entered = flight->recovery == CR__OPEN && flight->lost.first;
    if (entered)
        enter_recovery(tcp, ack.before_bytes);
    if (flight->recovery == CR__RECOVERY && (entered || ack.delivered_bytes > 0))
        reduce_rate(tcp, ack.delivered_bytes, ack.advanced && flight->losses == ack.losses_before);
    else if (grows && flight->recovery != CR__RECOVERY)
        cr__congestion_acked(tcp, ack.acked_bytes, ack.before_bytes);
    if (ack.advanced)
        flight->rto_from_ns = flight->pto_from_ns = tcp->host->now_ns; /* RFC 6298, 5.3; RFC 8985, 7.2 */
    cr__recovery_arm(tcp);
    return ack.acked_bytes;
}

/* ---- Timers that have come ---------------------------------------------------------------------------------- */

void cr__recovery_reorder(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight)
        return;
    uint32_t before_bytes = pipe_of(flight), losses = flight->losses;
    flight->outstanding_bytes = 0;
    cr__rack_detect(tcp);
    if (flight->losses != losses) {
        if (flight->recovery == CR__OPEN)
            enter_recovery(tcp, before_bytes);
        if (flight->recovery == CR__RECOVERY)
            reduce_rate(tcp, 0, false);
    }
    cr__recovery_arm(tcp);
}

/* RFC 5681, 3.1: ssthresh goes down once for a packet, however often its timer comes. */
static void timeout_window(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (flight->recovery == CR__LOSS && flight->timeout_una == tcp->snd_una) {
        tcp->cwnd_bytes = tcp->mss_bytes;
        return;
    }
    bool can_undo = flight->recovery == CR__OPEN; /* in a recovery already, what was before it is not known any more */
    flight->outstanding_bytes = 0;
    cr__congestion_timeout(tcp);
    begin_undo(flight);
    flight->undo_is_set = can_undo;
    flight->timeout_is_new = can_undo;
    flight->timeout_una = tcp->snd_una;
}

uint32_t cr__recovery_timeouts(const struct cr__tcp *tcp)
{
    return tcp->flight && tcp->flight->timeouts_una == tcp->snd_una ? tcp->flight->timeouts : 0;
}

void cr__recovery_timeout(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (tcp->backoff < BACKOFF_MOST)
        tcp->backoff++; /* RFC 6298, 5.5 */
    if (!flight)
        return;
    flight->timeouts = cr__recovery_timeouts(tcp) + 1u;
    flight->timeouts_una = tcp->snd_una;
    if (flight->sent_last) {
        timeout_window(tcp);
        cr__recovery_forget_sack(tcp);
        cr__rack_timeout(tcp);
        flight->recovery = CR__LOSS;
        flight->recover = tcp->snd_nxt;
        flight->recover_is_set = true;
        flight->duplicate_acks = 0;
        flight->reorder_ns = 0;
        flight->tlp_out = CR__TLP_NONE;
        flight->must = CR__MUST_FIRST;
    }
    flight->rto_from_ns = tcp->host->now_ns;
    cr__recovery_arm(tcp);
}
