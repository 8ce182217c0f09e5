/* What is due. A connection has one timer, for the earliest of: an RTO, a tail loss probe or a probe of a closed window (resend_ns), RACK's reordering (reorder_ns), a delayed
 * ACK (ack_ns), what is held back (hold_ns), and what needs no flight: SYNs and FIN-WAIT-2 (due_ns), keep-alives, the user timeout.
 *
 * Most deadlines move later with each ACK. Then the wheel is left alone: the timer fires at the earlier time, finds nothing, and is armed for what is due by then. So the
 * wheel is touched once in an RTO, not once for each segment. */
#include "net/tcp/tcp.h"

#define SYN_TRIES 6        /* R2 of a SYN (RFC 9293, 3.8.3): with an RTO of 1 s at first, 127 s */
#define DOUBT_TRIES 3      /* R1 (RFC 9293, 3.8.3) */
#define RESEND_TRIES 15    /* R2, as Linux: 15 minutes at least */
#define ORPHAN_TRIES 8     /* of a closed window, or of who is silent, if nobody waits for the end any more: as Linux, 100 s at least */
#define PROBE_TRIES 15     /* of a closed window that nobody answers */
#define SILENT_MS 120000u    /* of who has closed his window: two of the longest RTO's */
#define KEEPALIVE_MS (2 * 60 * 60 * 1000u)
#define KEEPALIVE_LEAST_MS 1000u /* more often than each half second Linux does not answer what is not acceptable, however alive it is */
#define KEEPALIVE_AGAIN_MS 75000u
#define KEEPALIVE_TRIES 9

/* Of two times the earlier one, where 0 is never; less one, so that never is the latest: without branches, which depend on what this connection has to do just now. */
static inline uint64_t sooner(uint64_t a_less_one, int64_t b_ns)
{
    uint64_t b_less_one = (uint64_t)b_ns - 1;
    return b_less_one < a_less_one ? b_less_one : a_less_one;
}

/* After how much silence the next keep-alive is due. */
static uint32_t keepalive_after_ms(const struct cr__tcp *tcp)
{
    uint32_t wanted_ms = tcp->keepalive_ms ? tcp->keepalive_ms : KEEPALIVE_MS, first_ms = wanted_ms > KEEPALIVE_LEAST_MS ? wanted_ms : KEEPALIVE_LEAST_MS;
    uint32_t again_ms = KEEPALIVE_AGAIN_MS < first_ms ? KEEPALIVE_AGAIN_MS : first_ms;
    return first_ms + tcp->probes * again_ms;
}

/* How long until a keep-alive is to be sent; only while nothing is in flight, which has timers of its own. */
static int64_t keepalive_ns(const struct cr__tcp *tcp)
{
    bool busy = tcp->flight && (tcp->snd_una != tcp->snd_nxt || tcp->flight->unsent);
    if (!(tcp->flags & CR__TCP_KEEPALIVE) || tcp->state < CR__TCP_ESTABLISHED || busy)
        return 0;
    uint32_t after_ms = keepalive_after_ms(tcp), idle_ms = cr__tcp_ms(tcp->host) - tcp->last_heard_ms;
    uint32_t left_ms = idle_ms < after_ms ? after_ms - idle_ms : 0;
    return tcp->host->now_ns + (int64_t)left_ms * 1000000;
}

static inline bool unanswered(const struct cr__tcp *tcp)
{
    return tcp->flight && (tcp->snd_una != tcp->snd_nxt || tcp->flight->resend_kind == CR__RESEND_PROBE) && tcp->state >= CR__TCP_ESTABLISHED;
}

/* RFC 5482: how long data may stay unacknowledged, or unsent since the peer has closed its window: without that, who never opens it again holds what is queued for ever (RFC 6429). */
static int64_t user_timeout_ns(const struct cr__tcp *tcp)
{
    if (!tcp->user_timeout_ms || !unanswered(tcp))
        return 0;
    return tcp->flight->since_ns + (int64_t)tcp->user_timeout_ms * 1000000;
}

void cr__tcp_arm(struct cr__tcp *tcp)
{
    const struct cr__flight *flight = tcp->flight;
    uint64_t at = sooner(UINT64_MAX, tcp->due_ns);
    if (flight) {
        at = sooner(at, flight->resend_ns);
        at = sooner(at, flight->reorder_ns);
        at = sooner(at, flight->ack_ns);
        at = sooner(at, flight->hold_ns);
    }
    if (CR__UNLIKELY(tcp->user_timeout_ms != 0))
        at = sooner(at, user_timeout_ns(tcp));
    if (CR__UNLIKELY(tcp->flags & CR__TCP_KEEPALIVE))
        at = sooner(at, keepalive_ns(tcp));
    if (cr__timer_armed(&tcp->timer)) {
        if ((uint64_t)tcp->timer.deadline_ns - 1 <= at)
            return; /* fires, and looks again */
        cr__wheel_cancel(&tcp->host->wheel, &tcp->timer);
    }
    if (at != UINT64_MAX)
        cr__wheel_arm(&tcp->host->wheel, &tcp->timer, (int64_t)at + 1);
}

/* ---- What needs no flight -------------------------------------------------------------------------------------------- */

static void syn_due(struct cr__tcp *tcp)
{
    bool dialling = tcp->state == CR__TCP_SYN_SENT;
    int64_t begun_us = (int64_t)tcp->rto_us << tcp->backoff;
    if (tcp->backoff >= (dialling ? SYN_TRIES : CR__SYN_ACK_TRIES) || (tcp->user_timeout_ms && begun_us / 1000 >= tcp->user_timeout_ms)) {
        cr__tcp_end(tcp, ETIMEDOUT);
        return;
    }
    tcp->backoff++;
    if (tcp->backoff == DOUBT_TRIES)
        cr__ip_doubt(tcp->host, &tcp->peer);
    tcp->due_ns = tcp->host->now_ns + (((int64_t)tcp->rto_us * 1000) << tcp->backoff);
    tcp->retransmits++;
    tcp->host->tcp->retransmits++;
    int error = cr__tcp_send_empty(tcp, dialling ? CR__SYN : CR__SYN | CR__ACK, tcp->snd_una); /* without ECN: perhaps that was why (RFC 3168, 6.1.1.1) */
    if (dialling && error == -EHOSTUNREACH)
        cr__tcp_end(tcp, EHOSTUNREACH); /* not ICMP's word: nobody on our own link answers to that address */
}

static void due(struct cr__tcp *tcp)
{
    tcp->due_ns = 0;
    if (tcp->state == CR__TCP_SYN_SENT || tcp->state == CR__TCP_SYN_RECEIVED) {
        syn_due(tcp);
    } else if (tcp->state == CR__TCP_FIN_WAIT_2 && (tcp->flags & CR__TCP_ORPHAN)) {
        cr__tcp_end(tcp, ETIMEDOUT); /* without a word: the FIN that may come yet is answered by a RST */
    } else if (tcp->flags & CR__TCP_NO_PACKET) {
        tcp->flags &= ~(uint32_t)(CR__TCP_NO_PACKET | CR__TCP_WANTS_ROOM);
        if (tcp->flags & CR__TCP_FIN_QUEUED)
            cr__tcp_flight(tcp);
        cr__tcp_told(tcp, CR__TCP_WRITABLE);
    }
}

/* The user timeout, where there is one, is for whose silence makes itself known by keep-alives, too, as Linux has it. */
static bool is_silent(const struct cr__tcp *tcp)
{
    if (tcp->user_timeout_ms && tcp->probes > 0 && cr__tcp_ms(tcp->host) - tcp->last_heard_ms >= tcp->user_timeout_ms)
        return true;
    return tcp->probes >= KEEPALIVE_TRIES;
}

static void keepalive(struct cr__tcp *tcp)
{
    int64_t at = keepalive_ns(tcp);
    if (!at || at > tcp->host->now_ns)
        return;
    if (is_silent(tcp)) {
        cr__tcp_send_empty(tcp, CR__RST | CR__ACK, tcp->snd_nxt);
        cr__tcp_end(tcp, ETIMEDOUT);
        return;
    }
    tcp->last_heard_ms = cr__tcp_ms(tcp->host) - keepalive_after_ms(tcp); /* what this is late by, because the worker was stuck, is not the peer's silence: each has its time for an answer */
    tcp->probes++;
    cr__tcp_send_empty(tcp, CR__ACK, tcp->snd_una - 1); /* not acceptable, so it is answered (RFC 9293, 3.8.4) */
}

/* ---- What is in flight --------------------------------------------------------------------------------------------------- */

/* Whether it has been tried long enough. A peer that has closed its window but answers is alive (RFC 9293, 3.8.6.1), unless nobody waits for the end of it any more. What nobody
 * waits for is tried as often as anything else while the peer is heard of: the user was told that it would arrive, and it is there to take it. */
static bool given_up(const struct cr__tcp *tcp)
{
    bool orphan = tcp->flags & CR__TCP_ORPHAN, probing = tcp->flight->resend_kind == CR__RESEND_PROBE;
    uint32_t silent_ms = cr__tcp_ms(tcp->host) - tcp->last_heard_ms;
    bool alone = orphan && (probing || silent_ms >= cr__recovery_rto_us(tcp) / 1000);
    uint32_t tries = probing ? tcp->probes : cr__recovery_timeouts(tcp), most = alone ? ORPHAN_TRIES : probing ? PROBE_TRIES : RESEND_TRIES;
    if (tries < most)
        return false;
    return orphan || tcp->snd_wnd > 0 || silent_ms > SILENT_MS;
}

static void resend(struct cr__tcp *tcp)
{
    struct cr__flight *flight = tcp->flight;
    enum cr__resend kind = flight->resend_kind;
    flight->resend_ns = 0;
    if (kind != CR__RESEND_TLP && given_up(tcp)) {
        if (tcp->flags & CR__TCP_ORPHAN) {
            cr__host_count(tcp->host, CR__DROP_TCP_ORPHAN);
            cr__tcp_send_empty(tcp, CR__RST | CR__ACK, tcp->snd_nxt);
        }
        cr__tcp_end(tcp, ETIMEDOUT);
        return;
    }
    if (kind == CR__RESEND_PROBE) {
        cr__tcp_probe(tcp);
        return;
    }
    if (tcp->snd_una == tcp->snd_nxt)
        return;
    if (kind == CR__RESEND_TLP)
        cr__recovery_probe(tcp);
    else
        cr__recovery_timeout(tcp);
    if (kind == CR__RESEND_RTO && cr__recovery_timeouts(tcp) == DOUBT_TRIES)
        cr__ip_doubt(tcp->host, &tcp->peer);
    if (!flight->send.first) { /* the FIN alone is out */
        tcp->host->tcp->retransmits++;
        flight->retransmits++;
        cr__tcp_send_empty(tcp, CR__FIN | CR__ACK, tcp->snd_nxt - 1);
    }
    cr__tcp_output(tcp);
    if (!flight->resend_ns)
        cr__recovery_arm(tcp);
}

static void flight_due(struct cr__tcp *tcp, int64_t now)
{
    struct cr__flight *flight = tcp->flight;
    if (flight->ack_ns && flight->ack_ns <= now) {
        flight->ack_ns = 0;
        tcp->flags |= CR__TCP_ACK_NOW;
    }
    if (flight->reorder_ns && flight->reorder_ns <= now) {
        flight->reorder_ns = 0;
        cr__recovery_reorder(tcp);
    }
    if (flight->resend_ns && flight->resend_ns <= now)
        resend(tcp);
}

void cr__tcp_due(struct cr__tcp *tcp)
{
    int64_t now = tcp->host->now_ns, until = user_timeout_ns(tcp);
    if (until && until <= now) {
        cr__tcp_send_empty(tcp, CR__RST | CR__ACK, tcp->snd_nxt);
        cr__tcp_end(tcp, ETIMEDOUT);
    }
    if (tcp->state != CR__TCP_CLOSED && tcp->due_ns && tcp->due_ns <= now)
        due(tcp);
    if (tcp->state != CR__TCP_CLOSED && tcp->flight)
        flight_due(tcp, now);
    if (tcp->state != CR__TCP_CLOSED)
        keepalive(tcp);
    cr__tcp_finish(tcp);
}
