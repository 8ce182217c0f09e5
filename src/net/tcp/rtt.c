/* Round trip times: SRTT and RTO (RFC 6298), and the shortest one of the last minutes.
 *
 * RTO = SRTT + max(4 RTTVAR, 200 ms), at most 120 s; a second before there is a sample. RFC 6298 (2.4) has a second as the least, which is more than any network needs whose RTT
 * varies by milliseconds; and less than 200 ms can't be: so long may a peer keep an ACK back, and that shows in no sample as long as segments come in pairs. (Linux has the same,
 * so peers are used to it.) A timeout that came too early costs one packet: it is found out, and undone (recovery.c).
 *
 * The formulas of RFC 6298 are made for one sample a round trip. Each ACK tells one, so the others are left out (RFC 7323, 4.2, warns of a history that is too short otherwise),
 * unless the RTO is backed off and waits for one. A sample is the age of the oldest packet that is newly acknowledged, if it and all that were acknowledged with it were sent but
 * once (Karn). Where there is none such, timestamps tell it (RFC 7323, 4: only by ACKs that advance); they come second since they count milliseconds. */
#include "net/tcp/recovery.h"

#define RTO_FIRST_US 1000000u
#define RTO_AFTER_SYN_US 3000000u /* RFC 6298, 5.7 */
#define RTO_LEAST_VARIATION_US 200000u
#define RTO_MOST_US 120000000u
#define SHORTEST_FOR_MS 300000u

uint32_t cr__recovery_rto_us(const struct cr__tcp *tcp)
{
    uint64_t rto_us = tcp->rto_us ? tcp->rto_us : RTO_FIRST_US;
    return cr__tcp_least(rto_us << (tcp->backoff < 16 ? tcp->backoff : 16), RTO_MOST_US);
}

void cr__recovery_rtt(struct cr__tcp *tcp, uint32_t rtt_us)
{
    rtt_us = cr__tcp_least(rtt_us ? rtt_us : 1, RTO_MOST_US);
    if (!tcp->srtt_us) {
        tcp->srtt_us = rtt_us;
        tcp->rttvar_us = rtt_us / 2;
    } else {
        uint32_t off_us = tcp->srtt_us > rtt_us ? tcp->srtt_us - rtt_us : rtt_us - tcp->srtt_us;
        tcp->rttvar_us = (uint32_t)((3 * (uint64_t)tcp->rttvar_us + off_us) / 4);
        tcp->srtt_us = (uint32_t)((7 * (uint64_t)tcp->srtt_us + rtt_us) / 8);
        if (!tcp->srtt_us)
            tcp->srtt_us = 1;
    }
    uint64_t variation_us = 4 * (uint64_t)tcp->rttvar_us;
    tcp->rto_us = cr__tcp_least(tcp->srtt_us + (variation_us > RTO_LEAST_VARIATION_US ? variation_us : RTO_LEAST_VARIATION_US), RTO_MOST_US);
    tcp->backoff = 0;
}

/* What comes after five minutes takes the place of what was shorter, whatever it is: shorter ones follow soon if there are any. */
static void shortest(struct cr__tcp *tcp, uint32_t rtt_us)
{
    uint32_t now_ms = cr__tcp_ms(tcp->host);
    if (tcp->min_rtt_us && rtt_us > tcp->min_rtt_us && now_ms - tcp->min_rtt_ms < SHORTEST_FOR_MS)
        return;
    tcp->min_rtt_us = rtt_us;
    tcp->min_rtt_ms = now_ms;
}

static uint32_t age_us(const struct cr__tcp *tcp, int64_t since_ns)
{
    int64_t ns = tcp->host->now_ns > since_ns ? tcp->host->now_ns - since_ns : 0;
    uint32_t us = cr__tcp_least(((uint64_t)ns + 500) / 1000, RTO_MOST_US);
    return us ? us : 1;
}

/* By the timestamp that came back; 0: there is none that makes sense. */
static uint32_t echoed_us(const struct cr__tcp *tcp, const struct cr__ack *ack)
{
    if (!ack->advanced || !(tcp->flags & CR__TCP_TIMESTAMPS) || !ack->seg->has_timestamp)
        return 0;
    uint32_t ms = cr__tcp_ms(tcp->host) + tcp->ts_offset - ack->seg->ts_echo;
    return ms > RTO_MOST_US / 1000 ? 0 : ms ? ms * 1000 : 1000;
}

void cr__rtt_heard(struct cr__tcp *tcp, const struct cr__ack *ack)
{
    struct cr__flight *flight = tcp->flight;
    bool by_packet = ack->oldest_ns && !ack->resent_acked;
    uint32_t rtt_us = by_packet ? age_us(tcp, ack->oldest_ns) : echoed_us(tcp, ack);
    if (!rtt_us) {
        if (ack->advanced && !tcp->srtt_us && tcp->backoff) { /* the SYN was sent more than once, and nothing tells which has been answered */
            tcp->rto_us = RTO_AFTER_SYN_US;
            tcp->backoff = 0;
        }
        return;
    }
    flight->tlp_needs_sample = false;
    if (by_packet) {
        uint32_t newest_us = age_us(tcp, ack->newest_ns);
        shortest(tcp, newest_us);
        cr__congestion_rtt(tcp, newest_us);
    }
    if (flight->rtt_end_is_set && cr__seq_before(tcp->snd_una, flight->rtt_end) && !tcp->backoff && tcp->srtt_us)
        return;
    flight->rtt_end = tcp->snd_nxt;
    flight->rtt_end_is_set = true;
    cr__recovery_rtt(tcp, rtt_us);
}
