/* RACK-TLP (RFC 8985): what was sent before something that has arrived, and has had a round trip and a reordering window's time, is lost; and where nothing arrives that could
 * tell, a probe is sent that makes the peer tell. Needs SACK; without it, three duplicate ACKs are what there is (recovery.c).
 *
 * Names as in the RFC: RACK.xmit_ts is rack_sent_ns, RACK.end_seq rack_end, RACK.rtt rack_rtt_us, RACK.reo_wnd_mult 1 + rack_more. What is known of the path's reordering
 * (that it was seen, reo_wnd_mult, reo_wnd_persist) is the connection's and outlives its flights; the round of a D-SACK ends with all that was sent, so it does not.
 *
 * An ACK costs as many steps as packets are found lost, and then looks at LOOKS more: RFC 8985 wants the timer at when the last of those would be late that were sent before the
 * newest that has arrived. With many of them in the window that is, but for microseconds, when that newest one itself would be late, which needs no walk.
 *
 * Fast recovery begins with what is found lost here, so limited transmit (RFC 3042) and early retransmit need nothing of their own: pipe falls with each SACK, and the probe is
 * what asks where there are too few. */
#include "net/tcp/recovery.h"

#define LOOKS 16
#define PERSIST 16 /* recoveries until a reordering window that D-SACK has widened is forgotten (RFC 8985, 6.2, step 4) */
#define PROBE_FIRST_US 1000000u
#define PEER_DELAY_US 200000u /* TLP.max_ack_delay: so long a peer may keep back the ACK of a single segment */
#define PROBE_LEAST_US 2000u  /* beyond two round trips: of a microsecond's RTT nobody can tell that it is late, and hosts look at their timers each millisecond or so. As Linux */

/* RACK_sent_after, the other way round. All that one burst makes us send has the same time on the clock, and what is sent again may come after new data: then the RFC's
 * tie-break, by sequence numbers, would find the former lost for having been sent, as it seems, before the latter. So times of sending differ by a nanosecond at least, and ties
 * are those of a packet that was cut. */
static bool sent_before(int64_t sent_ns, uint32_t end, const struct cr__flight *flight)
{
    return sent_ns < flight->rack_sent_ns || (sent_ns == flight->rack_sent_ns && cr__seq_before(end, flight->rack_end));
}

/* Whether it was the packet's first sending that has arrived: then the time since its last tells nothing (RFC 8985, 6.2, step 2). The timestamp tells only of what is
 * acknowledged cumulatively: an ACK that is sent for something out of order echoes what came last in order (RFC 7323, 4.3), so by the RFC's letter a probe that is SACKed would
 * never be believed. */
static bool is_about_earlier(const struct cr__tcp *tcp, const struct cr__ack *ack, const struct cr__sent *sent, uint32_t rtt_us)
{
    if (sent->times == 1)
        return false;
    bool is_told = (tcp->flags & CR__TCP_TIMESTAMPS) && ack->seg->has_timestamp && cr__seq_not_after(cr__sent_end(sent), ack->seg->ack);
    if (is_told && cr__seq_before(ack->seg->ts_echo - tcp->ts_offset, (uint32_t)(sent->sent_ns / 1000000)))
        return true;
    return rtt_us + 1ull < tcp->min_rtt_us; /* one is rounded down, the other to the nearest */
}

/* Steps 2 and 3. */
void cr__rack_heard(struct cr__tcp *tcp, struct cr__ack *ack, const struct cr__sent *sent)
{
    struct cr__flight *flight = tcp->flight;
    uint32_t end = cr__sent_end(sent);
    /* rounded down: what was sent with it must not seem younger than a round trip */
    int64_t rtt_us = tcp->host->now_ns > sent->sent_ns ? (tcp->host->now_ns - sent->sent_ns) / 1000 : 0;
    if (sent->times == 1 && cr__seq_before(end, ack->fack_before))
        tcp->flags |= CR__TCP_REORDERED;
    if (is_about_earlier(tcp, ack, sent, rtt_us < UINT32_MAX ? (uint32_t)rtt_us : UINT32_MAX))
        return;
    flight->rack_rtt_us = rtt_us < UINT32_MAX ? (uint32_t)rtt_us : UINT32_MAX;
    if (flight->rack_sent_ns == 0 || !sent_before(sent->sent_ns, end, flight)) {
        flight->rack_sent_ns = sent->sent_ns;
        flight->rack_end = end;
    }
}

/* Step 4: once a round trip in which D-SACK says that something was sent again for nothing, the window grows. */
void cr__rack_dsack(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (flight && flight->rack_dsack_is_set)
        return;
    if (flight) {
        flight->rack_dsack_is_set = true;
        flight->rack_dsack_round = tcp->snd_nxt;
    }
    if (tcp->rack_more < UINT8_MAX) /* the window is at most SRTT, whatever the multiple */
        tcp->rack_more++;
    tcp->rack_persist = PERSIST;
}

void cr__rack_recovered(struct cr__tcp *tcp)
{
    if (tcp->rack_persist > 0 && --tcp->rack_persist == 0)
        tcp->rack_more = 0;
}

static int64_t late_after_ns(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    uint64_t window_us = 0;
    if ((tcp->flags & CR__TCP_REORDERED) || (flight->recovery == CR__OPEN && flight->sacked_count < CR__DUPLICATES)) {
        window_us = (uint64_t)(1 + tcp->rack_more) * tcp->min_rtt_us / 4;
        if (window_us > tcp->srtt_us)
            window_us = tcp->srtt_us;
    }
    return (int64_t)(flight->rack_rtt_us + window_us) * 1000;
}

/* Step 5. */
void cr__rack_detect(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    flight->reorder_ns = 0;
    if (flight->rack_sent_ns == 0)
        return;
    int64_t now_ns = tcp->host->now_ns, late_ns = late_after_ns(tcp);
    int looks = 0;
    struct cr_packet *packet = flight->order.first, *next;
    for (; packet; packet = next) {
        struct cr__sent *sent = cr__sent_of(packet);
        next = cr__sent_after(packet);
        if (!sent_before(sent->sent_ns, cr__sent_end(sent), flight))
            return;
        if (now_ns - sent->sent_ns >= late_ns) {
            cr__scoreboard_lose(flight, packet);
            continue;
        }
        flight->reorder_ns = sent->sent_ns + late_ns;
        if (++looks == LOOKS) {
            flight->reorder_ns = flight->rack_sent_ns + late_ns;
            return;
        }
    }
}

/* RFC 8985, 6.3: the first one, and what has had its time. What was sent a moment ago, as a probe, may yet arrive. Before anything has arrived, all (RFC 6298, 5.4; there it is
 * done with slow start). */
void cr__rack_timeout(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    bool knows = (tcp->flags & CR__TCP_SACK) && flight->rack_sent_ns;
    int64_t late_ns = knows ? late_after_ns(tcp) : 0;
    for (struct cr_packet *packet = flight->send.first; packet && cr__sent_of(packet)->times > 0; packet = cr__sent_next(packet)) {
        if (packet == flight->send.first || tcp->host->now_ns - cr__sent_of(packet)->sent_ns >= late_ns)
            cr__scoreboard_lose(flight, packet);
    }
    cr__scoreboard_sort(flight);
}

/* ---- TLP ---------------------------------------------------------------------------------------------------- */

/* RFC 8985, 7.2: while nothing is out of order or lost, no probe is out, and the path's RTT is known by something since the last. A FIN that is out alone is a segment like
 * others. */
int64_t cr__rack_probe_ns(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (!(tcp->flags & CR__TCP_SACK) || flight->recovery != CR__OPEN || !(flight->sent_last || (tcp->flags & CR__TCP_FIN_SENT)))
        return 0;
    if (flight->tlp_out != CR__TLP_NONE || flight->tlp_needs_sample || flight->sacked_count > 0 || flight->lost.first)
        return 0;
    uint64_t pto_us = PROBE_FIRST_US;
    if (tcp->srtt_us)
        pto_us = 2 * (uint64_t)tcp->srtt_us + (flight->sent_last == flight->send.first ? PEER_DELAY_US : PROBE_LEAST_US);
    return flight->pto_from_ns + (int64_t)pto_us * 1000;
}

/* New data, if there is some that output will let go: the whole of a segment, or nothing that Nagle's algorithm or the user holds back. */
static bool has_new(const struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    if (!flight->unsent)
        return false;
    const struct cr__sent *sent = cr__sent_of(flight->unsent);
    if (cr__seq_before(tcp->snd_una + tcp->snd_wnd, cr__sent_end(sent)))
        return false;
    return sent->payload_bytes >= tcp->mss_bytes || !(tcp->flags & (CR__TCP_NAGLE | CR__TCP_MORE));
}

void cr__recovery_probe(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    if (!flight)
        return;
    flight->rto_from_ns = tcp->host->now_ns; /* RFC 8985, 7.3: RTO is what is armed now, whether or not there was something to send */
    flight->tlp_needs_sample = true;
    if (flight->sent_last) {
        flight->tlp_out = CR__TLP_WANTED;
        flight->must = has_new(tcp) ? CR__MUST_NOTHING : CR__MUST_PROBE;
    }
    cr__recovery_arm(tcp);
}

void cr__rack_probe_sent(struct cr__tcp *tcp, bool again)
{
    struct cr__flight *flight = tcp->flight;
    const struct cr__sent *last = cr__sent_of(flight->sent_last);
    flight->tlp_out = again ? CR__TLP_AGAIN : CR__TLP_NEW;
    flight->tlp_end = again ? tcp->snd_nxt : cr__sent_end(last);
}

/* RFC 8985, 7.4. A probe that was sent again has mended a loss if what it carried is acknowledged, and no second copy of it is told of: by D-SACK, or by an ACK that says nothing
 * else. */
bool cr__rack_probe_heard(struct cr__tcp *tcp, const struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    uint32_t end = flight->tlp_end, fin = tcp->flags & CR__TCP_FIN_SENT ? 1 : 0;
    if (flight->tlp_out < CR__TLP_NEW || cr__seq_before(ack->seg->ack, end))
        return false;
    bool again = flight->tlp_out == CR__TLP_AGAIN;
    bool mended = again && cr__seq_before(end, ack->seg->ack);
    if (again && ack->dsack && end - ack->dsack_end <= fin)
        mended = false;
    else if (again && !mended && !ack->duplicate)
        return false; /* the ACK of the probe or of the first copy: the next one tells */
    flight->tlp_out = CR__TLP_NONE;
    return mended;
}
