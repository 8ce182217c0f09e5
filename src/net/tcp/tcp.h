/* TCP (RFC 9293) as a function of state, arrival or call, and time: it calls no scheduler, looks at no clock (host->now_ns is what time it is) and takes memory from its own slabs
 * and the area of packets only. What is not in it: waiting, deadlines, URLs, which are the socket layer's.
 *
 * Files, from the bottom:
 *     segment.c    a segment's header and options: taken apart, and put together
 *     table.c      connections by 4-tuple, listeners by port; ISNs (RFC 6528) and ephemeral ports (RFC 6056)
 *     congestion.c the window: CUBIC (RFC 9438), NewReno (RFC 5681, 6582), ECN (RFC 3168)
 *     rtt.c        RTT and RTO (RFC 6298)
 *     scoreboard.c what has arrived, what is under way, what is lost (RFC 6675)
 *     sack.c       what SACK blocks say (RFC 2018, 2883)
 *     rack.c       RACK-TLP (RFC 8985)
 *     recovery.c   what an ACK and a timeout change: fast recovery (RFC 6582, 9937), RTO, undoing what was spurious (RFC 4015, 5682)
 *     output.c     what to send and when: segmentation, Nagle, silly windows, probes of a closed window, delayed ACKs
 *     arrive.c     whom a segment is for (RFC 9293, 3.10.7.1); SYN-SENT
 *     input.c      RFC 9293, 3.10.7.4: what a segment does to a connection
 *     receive.c    text and FIN: the queues of what has arrived
 *     early.c      what has arrived out of order
 *     life.c       a connection's beginning and end
 *     listen.c     listeners; half.c: half-open connections; cookie.c: SYN cookies (RFC 4987)
 *     wait.c       TIME-WAIT (RFC 1337, 6191)
 *     timers.c     what is due
 *     trouble.c    what ICMP says (RFC 5927, 1191, 8201)
 *     tcp.c        calls of the user's; setting up
 *     info.c       what is told of a connection, and what must be true of it
 *
 * A connection's memory. struct cr__tcp is all that an idle one has. While it has anything queued, in flight or to be recovered it has a struct cr__flight beside it, which goes
 * back when the last of that is gone. A connection that waits in TIME-WAIT is a struct cr__tcp_wait; one that is half open at a listener, a struct cr__tcp_half.
 *
 * The send queue is a list of packets, each one segment's payload, with room for headers in front: a write copies into them (filling the last one, if it has not been sent, up to
 * the MSS), and sending one writes headers in front and hands a reference to ip. It stays queued until it is acknowledged. One that is to be sent again while somebody below still
 * holds a reference is copied first. The receive queue is a list of packets as they arrived, headers taken off; what came out of order waits in another, in order of sequence
 * numbers, without overlaps.
 *
 * Sequence numbers are compared with cr__seq_before and its kin, never with <.
 *
 * Invariants (cr__tcp_check asserts them; tests call it after each step):
 *   1. snd_una <= snd_nxt <= snd_una + what is queued + SYN and FIN. Packets of the send queue tile [snd_una's packet, end) without gaps.
 *   2. rcv_nxt never goes back; what is acknowledged is in the receive queue or has been read, and is never dropped (RFC 9293: a receiver must not renege on what it has ACKed).
 *   3. rcv_nxt + advertised window never moves left.
 *   4. Whatever is in flight has a timer: so a connection is never stuck. A closed window of the peer's with data to send has one, too.
 *   5. An idle connection has no flight, and no packet. */
#ifndef CR__TCP_H
#define CR__TCP_H

#include "conn/conn.h"
#include "net/ip/host.h"
#include "net/wire/wire.h"

enum cr__tcp_state {
    CR__TCP_CLOSED, /* over: all that it still has is what the user has not read, and its error */
    CR__TCP_SYN_SENT,
    CR__TCP_SYN_RECEIVED, /* after a simultaneous open only: what comes to a listener is a struct cr__tcp_half */
    CR__TCP_ESTABLISHED,
    CR__TCP_FIN_WAIT_1,
    CR__TCP_FIN_WAIT_2,
    CR__TCP_CLOSE_WAIT,
    CR__TCP_CLOSING,
    CR__TCP_LAST_ACK,
    CR__TCP_TIME_WAIT, /* said by cr__tcp_info of nobody: such a connection is gone, and an entry in its place */
};

/* What the layer above is told, once for each change; bits. */
enum cr__tcp_event {
    CR__TCP_OPENED = 1u << 0,   /* a dialled one is established */
    CR__TCP_READABLE = 1u << 1, /* data, or the peer's end */
    CR__TCP_WRITABLE = 1u << 2, /* there is room again, after a send that found none */
    CR__TCP_ENDED = 1u << 3,    /* its error is in `error`: reset, timed out, unreachable; both directions are over */
};

enum cr__tcp_flag {
    /* negotiated */
    CR__TCP_TIMESTAMPS = 1u << 0,
    CR__TCP_SACK = 1u << 1,
    CR__TCP_SCALED = 1u << 2,
    CR__TCP_ECN = 1u << 3,
    /* wished by the user */
    CR__TCP_NAGLE = 1u << 4,
    CR__TCP_KEEPALIVE = 1u << 5,
    CR__TCP_NEWRENO = 1u << 6,      /* instead of CUBIC */
    /* of the moment */
    CR__TCP_ACK_NOW = 1u << 7,      /* an ACK is to leave with this turn */
    CR__TCP_FIN_QUEUED = 1u << 8,   /* the user has no more to send */
    CR__TCP_FIN_SENT = 1u << 9,
    CR__TCP_FIN_RECEIVED = 1u << 10,
    CR__TCP_ORPHAN = 1u << 11,      /* the user has closed: nobody reads any more; freed when it is over */
    CR__TCP_WANTS_ROOM = 1u << 12,  /* a send found no room: WRITABLE is to be told */
    CR__TCP_ECHO_CE = 1u << 13,     /* RFC 3168: ECE until CWR comes */
    CR__TCP_SEND_CWR = 1u << 14,
    CR__TCP_QUICK_ACK = 1u << 15,   /* not delayed for now */
    CR__TCP_PASSIVE = 1u << 16,     /* came through a listener */
    CR__TCP_WAITS = 1u << 17,       /* to be accepted: nobody above knows of it yet, and user[] is the queue's */
    CR__TCP_MORE = 1u << 18,        /* the user has said that more is to come: no partial segment for now */
    CR__TCP_REORDERED = 1u << 19,   /* the path has been seen to reorder (RACK.reordering_seen, RFC 8985) */
    CR__TCP_SOFT = 1u << 20,        /* `error` is what ICMP has said, not yet the end (RFC 5927; 9293, 3.9.2.2) */
    CR__TCP_NO_PACKET = 1u << 21,   /* a send found no packet: due_ns is when to tell WRITABLE */
};

struct cr__flight;
struct cr__tcp_listener;

/* A connection. On lines of its own: handles of what lies on lines have two bits to spare, in which the table keeps what they are of. */
struct cr__tcp {
    /* what finds it, and who uses it */
    struct cr_conn conn;         /* of the socket layer, which hands this out as the connection */
    struct cr__host *host;
    void *user[2];               /* the socket layer's: who waits to receive, and to send */
    struct cr__flight *flight;   /* NULL: idle */
    struct cr__ip peer;
    uint32_t next;               /* in its chain of the table, or among those that wait to be accepted: a handle (cr__mem_handle); 0: none */
    uint16_t local_port, peer_port; /* in the order of this machine */
    uint8_t local;               /* which of the host's addresses */
    uint8_t state;               /* of enum cr__tcp_state */
    uint8_t snd_scale, rcv_scale;
    uint32_t flags;              /* of enum cr__tcp_flag */
    /* sending */
    uint32_t snd_una, snd_nxt, snd_wnd, snd_wl1, snd_wl2;
    uint32_t snd_max_wnd;        /* the largest window that the peer has ever offered (RFC 9293, 3.8.6.2.1) */
    uint32_t snd_limit_bytes;    /* of the send queue */
    uint16_t mss_bytes;          /* payload of a full segment now: peer's MSS and path, less options (RFC 9293, 3.7.1) */
    uint16_t peer_mss_bytes;
    /* receiving */
    uint32_t rcv_nxt;
    uint32_t rcv_edge;           /* rcv_nxt + window, as last advertised */
    uint32_t rcv_limit_bytes;    /* of what is queued for the user */
    uint32_t ts_recent, ts_recent_ms; /* RFC 7323, 4.3; when that came */
    uint32_t ts_offset;          /* what is added to the clock in our timestamps: of each connection its own */
    uint32_t last_ack_sent;
    /* the path */
    uint32_t cwnd_bytes, ssthresh_bytes;
    uint32_t w_max_bytes;        /* CUBIC's, of the last time that the window was reduced; 0: not since a timeout */
    uint32_t srtt_us, rttvar_us; /* RFC 6298; 0: no sample yet */
    uint32_t rto_us;             /* not doubled yet: cr__recovery_rto_us does that by `backoff`; 0: a second */
    uint32_t min_rtt_us, min_rtt_ms; /* the shortest of the last minutes, and when that came, by cr__tcp_ms; 0: none */
    uint32_t last_sent_ms, last_heard_ms; /* host's time, cut to 32 bits: keep-alive, restart after idle */
    uint16_t error;              /* errno, after ENDED */
    uint8_t probes;              /* keep-alives without an answer */
    uint8_t backoff;             /* times that the RTO has been doubled; of a SYN, that it has been sent again */
    uint32_t keepalive_ms, user_timeout_ms; /* 0: the default; no limit of its own (RFC 5482) */
    struct cr__timer timer;      /* for the earliest of what is due (timers.c) */
    int64_t due_ns;              /* what needs no flight: SYN to be sent again, the end of an orphan's FIN-WAIT-2, WRITABLE after -ENOBUFS. 0: nothing */
    uint32_t retransmits;        /* in all: what flights that are gone have counted */
    uint32_t answered_ms;        /* when an empty segment was last answered that was not acceptable */
    uint16_t rcv_mss_bytes;      /* the largest segment that has come: two of those are acknowledged at once */
    uint8_t quick_acks;          /* segments that are still acknowledged at once, at the beginning; 0 from the first answer on */
    uint8_t rack_more, rack_persist; /* RACK.reo_wnd_mult - 1, RACK.reo_wnd_persist (RFC 8985, 6.2, step 4) */
    _Atomic uint32_t visits;     /* the socket layer's: calls by coroutines of other workers that are under way (socket/visit.c) */
    void *errand;                /* the socket layer's: what its user has it do from another worker; in the network's list of those */
    struct cr_packet *lent;      /* the socket layer's: the first of what its user has borrowed (struct cr__borrowed) */
} __attribute__((aligned(CR__CACHE_LINE)));
_Static_assert(sizeof(struct cr__tcp) <= 256, "the budget of an idle connection, handle included");

#define CR__SACK_BLOCKS 4
#define CR__QUICK_ACKS 16 /* as Linux */

/* What a packet of the send queue says of itself: in its `own`. Who queues one sets seq, payload_bytes, payload_at, and 0 but for CR__SENT_PUSH elsewhere; the rest is
 * recovery's. */
struct cr__sent {
    uint32_t seq;          /* of its first byte; FIN and SYN have none: they are not queued */
    unsigned payload_bytes : 11;
    unsigned payload_at : 11; /* offset of the payload from the packet's beginning: data moves while headers are in front */
    unsigned times : 5;    /* sent; 31: so often or more */
    unsigned flags : 5;    /* of enum cr__sent_flag */
    int64_t sent_ns;       /* last time, and after all that were sent before it: a nanosecond at least; 0: never */
    int32_t before, after; /* its neighbours in one of the flight's chains, as so many packets further on in the area; 0: none (scoreboard.c) */
    struct cr_packet *next; /* in the send queue: packet->next is that of whoever below holds the other reference */
};
_Static_assert(CR_PACKET_BYTES <= 1u << 11, "fits in payload_at");
_Static_assert(sizeof(struct cr__sent) <= 32, "fits in struct cr_packet's own");

/* What a packet of the send queue counts towards its bound at least. The peer says how long a segment may be, and the user how much he writes at once: without this, segments of 52
 * bytes would hold forty times the bound. */
#define CR__SENT_LEAST_BYTES 256

/* The send queue: as struct cr__packets, but chained through cr__sent.next. */
struct cr__sendq {
    struct cr_packet *first, *last; /* last means nothing while first is NULL */
    uint32_t count;
};

enum cr__sent_flag {
    CR__SENT_SACKED = 1u << 0,
    CR__SENT_LOST = 1u << 1,
    CR__SENT_RESENT = 1u << 2,    /* since it was last held lost, or as a probe: under way again */
    CR__SENT_PUSH = 1u << 3,
    CR__SENT_FORGOTTEN = 1u << 4, /* was SACKed before a timeout: what is heard of it now tells no time */
};

/* Packets of the send queue in an order of their own. */
struct cr__chain {
    struct cr_packet *first, *last;
};

enum cr__recovery { CR__OPEN, CR__RECOVERY, CR__LOSS };
enum cr__tlp { CR__TLP_NONE, CR__TLP_WANTED, CR__TLP_NEW, CR__TLP_AGAIN }; /* a probe: is to be sent; is out, as new data; is out, as data sent again */
enum cr__must { CR__MUST_NOTHING, CR__MUST_FIRST, CR__MUST_PROBE };     /* what cr__recovery_next gives whatever the window is: after an RTO the left edge (RFC 2018, 8); a probe */

/* CUBIC's, of one stage of congestion avoidance (congestion.c). */
struct cr__cubic {
    int64_t epoch_ns;     /* when it began; 0: it has yet to */
    int64_t last_ns;      /* of the last ACK */
    uint32_t k_ms;
    uint32_t origin_bytes; /* W_max: where the curve is flat */
    uint32_t prior_bytes; /* cwnd_prior */
    uint32_t friendly_bytes; /* W_est */
    uint64_t grown, friendly_grown; /* what is not yet a whole byte */
};


/* What a packet of the receive queues says of itself. */
#define CR__EARLY_LEVELS 5 /* four to the power of that: as many as wait */
struct cr__received {
    uint32_t seq;
    uint16_t fin; /* behind its last byte */
    int32_t up[CR__EARLY_LEVELS]; /* early.c: later ones, as so many packets further on in the area; 0: none */
};
_Static_assert(sizeof(struct cr__received) <= 32, "fits in struct cr_packet's own");

/* Of a connection that is at work. What each segment needs comes first, on lines that are fetched ahead of it (cr__tcp_foresee). */
struct cr__flight {
    /* queues */
    struct cr__sendq send;        /* from snd_una on, sent and unsent */
    struct cr_packet *unsent;     /* the first that was never sent; NULL: all were */
    struct cr__packets receive;   /* in order, for the user */
    uint32_t send_bytes;          /* payload in `send` that is not acknowledged */
    uint32_t head_acked_bytes;    /* of the first packet's payload */
    /* ---- a line ---- */
    uint32_t receive_bytes;
    unsigned lent;                /* packets that the user has borrowed: they count towards the window until they come back */
    uint32_t lent_bytes;
    uint32_t early_bytes;
    struct cr__packets early;     /* out of order (early.c) */
    /* what is due; 0: nothing */
    int64_t resend_ns;            /* RTO, TLP, or a closed window's probe: resend_kind says which */
    int64_t ack_ns;               /* a delayed ACK */
    int64_t hold_ns;              /* output is to be tried again, and what is held back (`more`, silly windows, no packet) to be sent; 0: never */
    /* ---- a line ---- */
    int64_t reorder_ns;           /* RACK's */
    struct cr_packet *sent_last;  /* scoreboard.c: the last of what was ever sent; NULL: all of that is acknowledged */
    struct cr__chain order;       /* under way: sent, and neither SACKed nor lost since; in order of their last sending */
    struct cr__chain lost;        /* to be sent again */
    int64_t last_sent_ns;         /* the latest cr__sent.sent_ns */
    int64_t since_ns;             /* first time that what is at snd_una was sent: the user timeout goes by it */
    /* ---- a line ---- */
    uint32_t out_bytes;           /* sent, and not acknowledged */
    uint32_t sacked_bytes, lost_bytes, resent_bytes; /* pipe = out - sacked - lost + resent (RFC 6675). Without SACK, sacked is a guess by duplicate ACKs */
    uint32_t losses;              /* packets that were held lost, in all */
    uint32_t retransmits;         /* in all: for cr_tcp_info */
    uint32_t outstanding_bytes;   /* before the present ACK: what ssthresh goes by */
    int64_t rto_from_ns, pto_from_ns; /* rtt.c: what RTO and PTO are counted from */
    uint8_t recovery;             /* of enum cr__recovery */
    uint8_t must;                 /* of enum cr__must */
    uint8_t tlp_out;              /* of enum cr__tlp */
    uint8_t resend_kind;          /* of enum cr__resend */
    uint8_t sack_count, sack_seen_count;
    uint8_t duplicate_acks;
    bool rack_dsack_is_set;
    bool tlp_needs_sample;        /* no probe before an RTT was measured (RFC 8985, 7.2) */
    bool recover_is_set, undo_is_set, undo_ts_is_set;
    bool timeout_is_new;          /* nothing has been heard since the RTO that tells whether it was spurious (RFC 5682) */
    bool rtt_end_is_set, limited_is_set;
    /* ---- a line ---- */
    struct { uint32_t from, to; } duplicate; /* D-SACK that is to be said (RFC 2883); from == to: none */
    int64_t rack_sent_ns;         /* RACK.xmit_ts; 0: none */
    uint32_t rack_end, rack_rtt_us, rack_dsack_round;
    uint32_t sacked_count;        /* packets */
    uint32_t rtt_end;             /* the next sample of RTO's is of this on */
    uint32_t limited_end;         /* until that is acknowledged the window counts as used */
    uint32_t hystart_end, hystart_last_us, hystart_now_us;
    bool hystart_is_set, cwr_is_set;
    uint8_t hystart_css_rounds, hystart_samples; /* RFC 9406; css_rounds > 0: in CSS */
    bool after_timeout;           /* slow start after an RTO */
    /* ---- what is needed where something was lost, or is out of order; and where the window has been reduced ---- */
    struct cr__cubic cubic, undo_cubic;
    struct cr_packet *early_up[CR__EARLY_LEVELS]; /* the first ones on the levels above (early.c) */
    struct cr_packet *sack_at;    /* where the last look for a SACK block has ended */
    struct { uint32_t from, to; } sack_seen[CR__SACK_BLOCKS]; /* of the last ACK: nothing new is in them */
    struct { uint32_t from, to; } sack[CR__SACK_BLOCKS];      /* that we send: the most recent first */
    uint32_t high_sacked;         /* the end of the highest SACKed; means something while sacked_bytes > 0 */
    uint32_t recover;             /* RFC 6582: recovery ends when this is acknowledged */
    uint32_t prr_delivered, prr_out, prr_flight_bytes; /* RFC 9937 */
    uint32_t undo_resent;         /* packets sent again, less those of which D-SACK has said that it was for nothing */
    uint32_t undo_end;            /* that recovery is over; when this is acknowledged, what is heard is not about it any more */
    uint32_t undo_ts_ms;          /* when the first of them was sent */
    uint32_t undo_cwnd_bytes, undo_ssthresh_bytes, undo_w_max_bytes; /* of before a recovery that was none (RFC 8985; Eifel, RFC 4015) */
    uint32_t timeout_una;         /* snd_una at the last RTO */
    uint32_t timeouts, timeouts_una; /* RTOs in a row in which it did not move; where it was */
    uint32_t tlp_end, hystart_base_us;
    uint32_t cwr_end;             /* RFC 3168: one reduction a window */
};
#define CR__FLIGHT_HOT_BYTES 320
_Static_assert(offsetof(struct cr__flight, cubic) <= CR__FLIGHT_HOT_BYTES, "what each segment needs");
enum cr__resend { CR__RESEND_NOTHING, CR__RESEND_RTO, CR__RESEND_TLP, CR__RESEND_PROBE };

/* A segment, taken apart. */
enum cr__segment_flag { CR__FIN = 1, CR__SYN = 2, CR__RST = 4, CR__PSH = 8, CR__ACK = 16, CR__URG = 32, CR__ECE = 64, CR__CWR = 128 };
struct cr__segment {
    uint16_t from_port, to_port;
    uint32_t seq, ack;
    uint32_t payload_bytes;
    uint16_t window;             /* as it stands there */
    uint8_t flags;
    /* options */
    bool has_timestamp, has_scale, sack_permitted;
    uint8_t scale;               /* 14 at most */
    uint16_t mss_bytes;          /* 0: not said */
    uint32_t ts_value, ts_echo;
    uint8_t sack_count;
    struct { uint32_t from, to; } sack[CR__SACK_BLOCKS];
};

#define CR__SYN_ACK_TRIES 5 /* RFC 9293, 3.8.3 has R2 of a SYN at three minutes at least; this is a minute, as Linux has it: what is spent is ours */

static inline bool cr__seq_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

static inline bool cr__seq_not_after(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) <= 0;
}

static inline uint32_t cr__seq_later(uint32_t a, uint32_t b)
{
    return cr__seq_before(a, b) ? b : a;
}

/* How much of its bound the send queue takes. */
static inline uint32_t cr__send_used(const struct cr__flight *flight)
{
    uint32_t least = flight->send.count * CR__SENT_LEAST_BYTES;
    return flight->send_bytes > least ? flight->send_bytes : least;
}

static inline struct cr__sent *cr__sent_of(struct cr_packet *packet)
{
    return (struct cr__sent *)(void *)&packet->own;
}

static inline struct cr_packet *cr__sent_next(struct cr_packet *packet)
{
    return cr__sent_of(packet)->next;
}

static inline void cr__sendq_push(struct cr__sendq *queue, struct cr_packet *packet)
{
    cr__sent_of(packet)->next = NULL;
    if (queue->first)
        cr__sent_of(queue->last)->next = packet;
    else
        queue->first = packet;
    queue->last = packet;
    queue->count++;
}

/* NULL: none. The caller has the queue's reference now. */
static inline struct cr_packet *cr__sendq_pop(struct cr__sendq *queue)
{
    struct cr_packet *packet = queue->first;
    if (packet) {
        queue->first = cr__sent_next(packet);
        queue->count--;
    }
    return packet;
}

static inline struct cr__received *cr__received_of(struct cr_packet *packet)
{
    return (struct cr__received *)(void *)&packet->own;
}

/* ---- For the socket layer, and for tests ----------------------------------------------------------------------- */

/* Told while the core works, by a call or an arrival: must not call back into it, but note what there is to do. */
struct cr__tcp_above {
    void (*event)(struct cr__tcp *tcp, unsigned events);   /* of enum cr__tcp_event */
    void (*accepted)(struct cr__tcp_listener *listener);   /* one more waits to be accepted */
};

struct cr__tcp_config {
    struct cr__tcp_above above;
    uint32_t send_limit_bytes, recv_limit_bytes; /* 0: 256 KiB, 1 MiB */
    uint32_t half_open_most;    /* in all: beyond that, cookies. 0: 4096 */
    bool no_timestamps, no_sack, no_scaling, no_delayed_acks; /* for tests and comparisons */
    bool ecn;                   /* asks for it when dialling; accepts it always */
    bool newreno;
    uint32_t initial_window;    /* segments; 0: 10 (RFC 6928) */
    uint32_t time_wait_ms;      /* 0: 60,000, as Linux */
    uint32_t isn_for_tests;     /* with isn_is_fixed: every ISN */
    bool isn_is_fixed;
};

/* A listener. */
struct cr__tcp_listener {
    struct cr__host *host;
    struct cr__tcp_listener *next;   /* in its chain, by port */
    void *user;                      /* the socket layer's */
    struct cr__ip ip;
    bool any;                        /* all addresses, */
    bool shares;                     /* the port, with others that do */
    uint8_t families;                /* of these: of enum cr__tcp_families */
    uint16_t port;
    uint32_t backlog, waiting;       /* how many may wait to be accepted, and do */
    struct cr__tcp *first, *last;    /* of those, chained through user[0] */
    uint32_t send_limit_bytes, recv_limit_bytes, keepalive_ms, user_timeout_ms, flags; /* what those who come get */
};

int cr__tcp_init(struct cr__host *host, const struct cr__tcp_config *config); /* after cr__host_init; sets host->above. 0, -ENOMEM */
void cr__tcp_fini(struct cr__host *host); /* before cr__host_fini: drops all, says nothing to peers */

enum cr__tcp_families { CR__TCP_BOTH, CR__TCP_IP4_ONLY, CR__TCP_IP6_ONLY };

struct cr__tcp_opts {
    uint32_t send_limit_bytes, recv_limit_bytes; /* 0: the host's */
    uint32_t keepalive_ms, user_timeout_ms;
    bool nagle, keepalive;
    bool shares;                /* of a listener: its port, with others that do; which of them gets a connection is a hash's choice */
    int backlog;                /* of a listener; 0: 4096 */
    enum cr__tcp_families families; /* of a listener on all addresses */
    void *user;                 /* of a listener: the caller's (cr__tcp_listener_user) */
};

/* ip NULL: all addresses. 0; -EADDRINUSE, -EADDRNOTAVAIL, -ENOMEM. Port 0: any free one. */
int cr__tcp_listen(struct cr__host *host, struct cr__tcp_listener **out, const struct cr__ip *ip, uint16_t port, const struct cr__tcp_opts *opts);
void cr__tcp_unlisten(struct cr__tcp_listener *listener); /* resets who waits to be accepted */
uint16_t cr__tcp_listener_port(const struct cr__tcp_listener *listener);
void *cr__tcp_listener_user(const struct cr__tcp_listener *listener);
struct cr__tcp *cr__tcp_accept(struct cr__tcp_listener *listener); /* NULL: nobody waits */

/* Begins to connect: OPENED or ENDED comes later. from may be NULL, from_port 0. 0; -EAFNOSUPPORT (from and to are of different families), -ENETUNREACH, -EADDRNOTAVAIL (also: no
 * port was free among those tried, or there is a connection from that one to there), -EADDRINUSE (somebody listens on from_port), -ECONNREFUSED (to_port is 0), -ENOMEM. */
int cr__tcp_dial(struct cr__host *host, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, uint16_t to_port,
                 const struct cr__tcp_opts *opts);

/* Queues what there is room for: bytes taken; -EAGAIN (none now; WRITABLE is told), -EPIPE (after shutdown), -ENOTCONN (not yet open), -ENOBUFS (no packet; WRITABLE is told when
 * there may be), or the connection's error, negative: once, here or when receiving; from then on -EPIPE. more: do not send a partial segment yet; no bytes, and none to follow: what
 * was held back for them goes. */
ssize_t cr__tcp_send(struct cr__tcp *tcp, const struct iovec *iov, int count, bool more);
size_t cr__tcp_send_room(const struct cr__tcp *tcp);

/* Takes received bytes: how many; 0: the peer's end; -EAGAIN: none now; or the connection's error after what came before it: once,
 * here or when sending; from then on 0. */
ssize_t cr__tcp_recv(struct cr__tcp *tcp, const struct iovec *iov, int count);
bool cr__tcp_readable(const struct cr__tcp *tcp);

/* The same without copying: the packet's data is what was received. It is lent until it is returned. Bytes, 0, -EAGAIN, error. */
ssize_t cr__tcp_recv_lend(struct cr__tcp *tcp, struct cr_packet **out);
void cr__tcp_recv_return(struct cr__tcp *tcp, struct cr_packet *packet);

int cr__tcp_shutdown(struct cr__tcp *tcp); /* FIN after what is queued. 0, -ENOTCONN */
void cr__tcp_close(struct cr__tcp *tcp);   /* the user is done with it: FIN, or RST if something was not read (RFC 9293, 3.6.1; 2525). tcp is the core's */
void cr__tcp_abort(struct cr__tcp *tcp);   /* RST. tcp is gone */

/* Calls fn for each connection, those included that are orphans or wait to be accepted; fn makes none, and frees none but that one. For reports, and for the end of a host. */
void cr__tcp_each(struct cr__host *host, void (*fn)(struct cr__tcp *tcp, void *arg), void *arg);

/* The same for some of them, `most` at most: of where connections lie, or have lain, no more is looked at than takes a moment. How many that was. */
uint32_t cr__tcp_some(struct cr__host *host, uint32_t most, void (*fn)(struct cr__tcp *tcp, void *arg), void *arg);

struct cr_tcp_info;
void cr__tcp_info(const struct cr__tcp *tcp, struct cr_tcp_info *out);

/* Asserts what must be true of it, for tests. */
void cr__tcp_check(const struct cr__tcp *tcp);

/* ---- Within the room ------------------------------------------------------------------------------------------- */

/* What the table keeps of who is in it. Begins a half-open connection and a TIME-WAIT entry, and lies so in struct cr__tcp, too, from `peer` on. */
struct cr__tcp_name {
    struct cr__ip peer;
    uint32_t next; /* in the chain: a handle, and what it is of in the lowest two bits */
    uint16_t local_port, peer_port;
    uint8_t local;
} __attribute__((may_alias));
_Static_assert(offsetof(struct cr__tcp, next) - offsetof(struct cr__tcp, peer) == offsetof(struct cr__tcp_name, next), "found as one");
_Static_assert(offsetof(struct cr__tcp, local_port) - offsetof(struct cr__tcp, peer) == offsetof(struct cr__tcp_name, local_port), "found as one");
_Static_assert(offsetof(struct cr__tcp, local) - offsetof(struct cr__tcp, peer) == offsetof(struct cr__tcp_name, local), "found as one");

enum cr__tcp_kind { CR__KIND_CONN, CR__KIND_WAIT, CR__KIND_HALF };

/* Half open at a listener: a SYN has come, SYN+ACK has been sent. */
struct cr__tcp_half {
    struct cr__ip peer;
    uint32_t next;
    uint16_t local_port, peer_port;
    uint8_t local;
    uint8_t snd_scale, rcv_scale, tries;
    uint32_t flags;           /* what is negotiated, of enum cr__tcp_flag */
    uint32_t iss, irs, ts_recent, ts_offset;
    uint32_t window_bytes;    /* that SYN+ACK has offered */
    uint16_t peer_mss_bytes;
    uint16_t peer_window;
    struct cr__host *host;
    struct cr__timer timer;   /* SYN+ACK again */
} __attribute__((aligned(CR__CACHE_LINE)));

struct cr__tcp_wait {
    struct cr__ip peer;
    uint32_t next;
    uint16_t local_port, peer_port;
    uint8_t local;
    uint8_t flags;            /* the lowest of enum cr__tcp_flag */
    uint16_t window;          /* as it was last said */
    uint32_t snd_nxt, rcv_nxt, ts_recent, ts_recent_ms, ts_offset;
    uint32_t due_ms;
    uint32_t earlier, later;  /* in the order in which they end: handles */
} __attribute__((aligned(CR__CACHE_LINE)));
_Static_assert(sizeof(struct cr__tcp_wait) <= 64, "TIME-WAIT is what a server has most of");

/* Chains by a keyed hash of the 4-tuple. While it grows, the chains of `old` from `moved` on are still there. */
struct cr__tcp_table {
    uint32_t *slots, *old;
    uint32_t mask, old_mask, moved;
    uint32_t count;
};

#define CR__TCP_LISTENER_CHAINS 64
#define CR__TCP_WAITS_MOST (1u << 20) /* 64 MiB of TIME-WAIT */
#define CR__TCP_ANSWERS_A_SECOND 200 /* RSTs and challenge ACKs (RFC 5961, 7): each has as many */

/* What waits when packets run out, by how many sixteenths of them are left (cr__packets_left). Arrivals need packets, too: if queues could take all of them, the ACKs that empty
 * the queues would find none. And neither those who send nor those who receive may take what the others need to go on: from CR__LEFT_LITTLE on each connection has
 * CR__LITTLE_PACKETS each way. */
enum cr__left {
    CR__LEFT_NO_TEXT = 0, /* no text is kept */
    CR__LEFT_NO_SEND = 1, /* no more is taken from users: -ENOBUFS, and WRITABLE when there may be some */
    CR__LEFT_NO_SYN = 2,  /* SYNs find nobody: they come again. Text is kept of who has little only, though it had been offered room */
    CR__LEFT_LITTLE = 4,  /* windows do not move on, but for who has nothing; users send little */
    CR__LEFT_NO_EARLY = 5, /* what is out of order is not kept: it has not been acknowledged */
};
#define CR__LITTLE_PACKETS 2

struct cr__tcp_layer {
    struct cr__tcp_config config;
    struct cr__slab conns, flights, halves, waits, listeners_slab;
    struct cr__tcp_table table;  /* connections, TIME-WAIT entries, half-open ones: a name is in it once */
    struct cr__tcp_listener *listeners[CR__TCP_LISTENER_CHAINS];
    uint32_t connections;        /* as many as cr__tcp_each calls fn for */
    uint32_t half_open, waiting, orphans; /* how many there are: half open, in TIME-WAIT, closed by their users but not over */
    uint32_t wait_first, wait_last;       /* TIME-WAIT entries in the order of their ends: handles */
    struct cr__timer wait_timer;
    uint32_t port_counter;       /* RFC 6056, 3.3.3 */
    uint32_t reset_tokens, challenge_tokens; /* what may be sent until limit_ns */
    int64_t limit_ns;
    int64_t cookie_ns;           /* when the last cookie was sent; 0: never */
    uint64_t opened, accepted, retransmits, cookies_sent, cookies_good, resets_sent, challenges;
};

/* segment.c. 0, or -EINVAL (lengths, options that overrun). The checksum is the caller's. */
int cr__segment_parse(struct cr__segment *out, const uint8_t *bytes, size_t size_bytes);

/* Writes header and options in front of the packet's bytes, in Linux' order; the checksum is left 0. The header's length. */
size_t cr__segment_push(struct cr_packet *packet, const struct cr__segment *seg);

static inline uint32_t cr__segment_length(const struct cr__segment *seg) /* in sequence numbers */
{
    return seg->payload_bytes + (seg->flags & CR__FIN) + (seg->flags & CR__SYN) / CR__SYN;
}

/* table.c. Who is looked for, by what a segment says of it: a handle with its kind, 0: nobody. */
uint32_t cr__tcp_find(struct cr__tcp_layer *layer, const struct cr__host *host, const struct cr__tcp_name *name);
/* Frames that are about to come, up to CR__TCP_FORESEEN: fetches what their segments will need. Believes nothing of what they say, and changes nothing. */
#define CR__TCP_FORESEEN 16
void cr__tcp_foresee(struct cr__host *host, struct cr_packet **frames, unsigned count);
void cr__tcp_insert(struct cr__host *host, void *object, enum cr__tcp_kind kind);
void cr__tcp_remove(struct cr__host *host, void *object, enum cr__tcp_kind kind);
int cr__tcp_table_init(struct cr__tcp_table *table);
void cr__tcp_table_fini(struct cr__tcp_table *table);
struct cr__tcp_listener *cr__tcp_listener_find(struct cr__host *host, const struct cr__ip *to, uint16_t port); /* one of those, where several share it */
struct cr__tcp_listener *cr__tcp_listener_of(struct cr__host *host, const struct cr__ip *to, const struct cr__tcp_name *name); /* whose connection that would be */
int cr__tcp_local(const struct cr__host *host, const struct cr__ip *ip); /* which address of the host's; -1: none */
uint32_t cr__tcp_isn(struct cr__host *host, const struct cr__tcp_name *name);       /* RFC 6528 */
uint32_t cr__tcp_ts_offset(struct cr__host *host, const struct cr__tcp_name *name); /* of two addresses: so it grows from one connection to the next (RFC 6191) */
uint16_t cr__tcp_port(struct cr__host *host, struct cr__tcp_name *name);            /* RFC 6056; 0: among 2,048 none was free */

/* wait.c. */
void cr__tcp_wait_enter(struct cr__tcp *tcp); /* an entry in place of tcp, which is over */
void cr__tcp_wait_input(struct cr__host *host, struct cr__tcp_wait *wait, const struct cr__arrival *in, const struct cr__segment *seg);
void cr__tcp_wait_due(struct cr__host *host); /* those whose time is up go */
bool cr__tcp_wait_may_end(const struct cr__host *host, uint32_t handle); /* whether that one, found in the table, makes way for one who dials by its name; of others false */
uint32_t cr__tcp_wait_end(struct cr__host *host, uint32_t handle);       /* then it goes: the ISN that the new one begins with */

/* listen.c. _make: an established one, that is not in the table yet, NULL: no room among those that wait, no memory; _begin: it waits to be accepted, and has its first segment,
 * whose packet is the callee's. */
struct cr__tcp *cr__tcp_make(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__tcp_half *half);
void cr__tcp_begin(struct cr__tcp_listener *listener, struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg);
void cr__tcp_listen_input(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg, uint32_t isn_after);

/* cookie.c */
void cr__tcp_cookie_send(struct cr__host *host, struct cr__tcp_half *half); /* SYN+ACK with one; half is the caller's, and of no use after that */
/* false: it is none, and the packet is the caller's */
bool cr__tcp_cookie_input(struct cr__host *host, struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg);

/* half.c */
/* What a SYN says, and is answered, but for the ISN. */
struct cr__tcp_half cr__tcp_half_of(struct cr__host *host, const struct cr__tcp_listener *listener, const struct cr__arrival *in, const struct cr__segment *seg);
bool cr__tcp_half_keep(struct cr__host *host, const struct cr__tcp_half *half);
void cr__tcp_syn_ack(struct cr__host *host, const struct cr__tcp_half *half, uint32_t ts_value);
void cr__tcp_half_input(struct cr__host *host, struct cr__tcp_half *half, const struct cr__arrival *in, const struct cr__segment *seg);
void cr__tcp_half_due(struct cr__tcp_half *half);
void cr__tcp_half_drop(struct cr__host *host, struct cr__tcp_half *half);

/* arrive.c */
void cr__tcp_input(struct cr__host *host, const struct cr__arrival *in); /* what ip hands up */
struct cr_packet *cr__tcp_syn_sent(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg); /* the packet, unless it was taken */
uint32_t cr__tcp_negotiate(const struct cr__tcp_config *config, const struct cr__segment *seg); /* what a SYN's options and ours agree to, of enum cr__tcp_flag */
uint16_t cr__tcp_peer_mss(const struct cr__ip *peer, const struct cr__segment *seg);
void cr__tcp_after_syn(struct cr__tcp *tcp, int64_t rtt_ns, bool again); /* our SYN has been acknowledged; again: it had to be sent more than once */

/* input.c */
void cr__tcp_segment(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg); /* for that connection; the packet is the callee's */

/* receive.c */
struct cr_packet *cr__tcp_text(struct cr__tcp *tcp, const struct cr__arrival *in, const struct cr__segment *seg); /* the packet, unless it was taken */
void cr__tcp_note_duplicate(struct cr__tcp *tcp, uint32_t from, uint32_t to); /* for D-SACK */

/* early.c. _insert takes the packet, whose seq and fin are set, and whose bytes are within the window; false: there was no room. _pop: the first, of which there is one. */
bool cr__early_insert(struct cr__tcp *tcp, struct cr_packet *packet);
struct cr_packet *cr__early_pop(struct cr__tcp *tcp);
void cr__early_drop(struct cr__tcp *tcp); /* all */

/* recovery.c (with scoreboard.c, sack.c, rack.c, rtt.c).
 *
 * _ack: an ACK that is acceptable (SND.UNA <= SEG.ACK <= SND.NXT), before SND.WND is updated by it (what a duplicate ACK is, without SACK, depends on that): sets snd_una; takes
 * acknowledged packets off the send queue (send_bytes and head_acked_bytes are kept with it); notes SACK, RTT and losses; moves cwnd; arms. Returns how many bytes of payload were
 * newly acknowledged. What is lost is marked, and sent by the next cr__tcp_output. Without a flight it sets snd_una, and hears D-SACK, only.
 *
 * _sent: the packet of the queue itself, even if what left was a copy of it. Whether `unsent` and snd_nxt have been moved on already does not matter. It arms, too.
 *
 * _arm may be called at any time, and again: when RTO and TLP are due depends on when what they are counted from has happened, not on when it is called. It leaves a PROBE alone
 * while nothing is in flight. With only SYN or FIN in flight it arms RTO, and for a FIN a probe, from the time when it was first called for it. Who calls _timeout, _probe,
 * _reorder needs not clear resend_ns and reorder_ns before. */
uint32_t cr__recovery_ack(struct cr__tcp *tcp, const struct cr__segment *seg);
void cr__recovery_sent(struct cr__tcp *tcp, struct cr_packet *packet);           /* has just been handed to ip */
/* packet was cut (it may have been sent), and the rest put into the queue behind it, with seq, payload_* and PUSH of its own */
void cr__recovery_split(struct cr__tcp *tcp, struct cr_packet *packet, struct cr_packet *rest);
struct cr_packet *cr__recovery_next(struct cr__tcp *tcp);                        /* what is to be sent again now, and may be by the window; NULL: nothing */
uint32_t cr__recovery_in_flight(const struct cr__tcp *tcp);                      /* RFC 6675's pipe, in bytes of payload; new data is sent while this and it fit into cwnd_bytes */
void cr__recovery_arm(struct cr__tcp *tcp);                                      /* sets resend_ns: TLP, else RTO, as what is in flight needs it */
void cr__recovery_timeout(struct cr__tcp *tcp);                                  /* the RTO has come */
void cr__recovery_probe(struct cr__tcp *tcp);                                    /* TLP's: marks what to send; for one new packet _in_flight leaves room */
void cr__recovery_reorder(struct cr__tcp *tcp);                                  /* RACK's timer */
void cr__recovery_rtt(struct cr__tcp *tcp, uint32_t rtt_us);                     /* a sample (RFC 6298) */
uint32_t cr__recovery_timeouts(const struct cr__tcp *tcp);                       /* RTOs since anything was acknowledged; `backoff` outlives that, until a sample (RFC 6298, 5.7) */
uint32_t cr__recovery_rto_us(const struct cr__tcp *tcp);                         /* as it is now, doubled `backoff` times */
void cr__recovery_forget_sack(struct cr__tcp *tcp);                              /* the peer may have reneged: RFC 2018, 8. _timeout does it */
void cr__recovery_drop(struct cr__tcp *tcp);                                     /* the send queue was emptied, whatever of it was in flight */
void cr__recovery_check(const struct cr__tcp *tcp);                              /* asserts that chains and counts are what a recount says; tests, and cr__tcp_check */

/* congestion.c */
void cr__congestion_init(struct cr__tcp *tcp);                                   /* the initial window */
/* before: in flight before this ACK: a window that was not used does not grow (RFC 9438, 5.8; 7661) */
void cr__congestion_acked(struct cr__tcp *tcp, uint32_t acked_bytes, uint32_t before_bytes);
void cr__congestion_lost(struct cr__tcp *tcp);                                   /* recovery begins */
void cr__congestion_timeout(struct cr__tcp *tcp);                                /* to one segment */
void cr__congestion_rtt(struct cr__tcp *tcp, uint32_t rtt_us);                   /* of each ACK that tells one: HyStart++ (RFC 9406) */
void cr__congestion_ecn(struct cr__tcp *tcp);                                    /* ECE */
void cr__congestion_undo(struct cr__tcp *tcp);                                   /* it was none */
void cr__congestion_idle(struct cr__tcp *tcp, uint32_t idle_us);                 /* restart after idle (RFC 5681, 4.1) */

/* output.c */
void cr__tcp_output(struct cr__tcp *tcp);                                        /* sends whatever may be sent now, data or ACK */
void cr__tcp_ack(struct cr__tcp *tcp);                                           /* one ACK now */
void cr__tcp_reset(struct cr__host *host, const struct cr__arrival *in, const struct cr__segment *seg); /* RFC 9293, 3.5.2; rate limited */
int cr__tcp_send_empty(struct cr__tcp *tcp, uint8_t flags, uint32_t seq);        /* SYN, FIN, RST, probes, keep-alives. 0, what ip answered, or -ENOBUFS */
uint32_t cr__tcp_window(const struct cr__tcp *tcp);                              /* what may be advertised (RFC 9293, 3.8.6.2.2) */
void cr__tcp_challenge(struct cr__tcp *tcp);                                     /* an ACK, by the rate limit (RFC 5961) */
void cr__tcp_resend_big(struct cr__tcp *tcp);                                    /* those in flight that are longer than mss_bytes */
void cr__tcp_probe(struct cr__tcp *tcp);                                         /* of a closed window */
bool cr__tcp_may_answer(struct cr__host *host, bool reset);                      /* by the rate limit; counts */
/* Header in front of what is in packet, checksum, off to ip. The packet is the callee's. */
int cr__tcp_transmit(struct cr__host *host, struct cr_packet *packet, const struct cr__segment *seg, const struct cr__ip *from, const struct cr__ip *to, uint8_t tos);

/* timers.c: arms tcp->timer for the earliest of what is due. */
void cr__tcp_arm(struct cr__tcp *tcp);
void cr__tcp_due(struct cr__tcp *tcp);

struct cr__flight *cr__tcp_flight(struct cr__tcp *tcp);                          /* made on demand; NULL: no memory */
void cr__tcp_settle(struct cr__tcp *tcp);                                        /* idle: gives the flight back */
void cr__tcp_end(struct cr__tcp *tcp, int error);                                /* both directions are over: tells above. An orphan is freed by cr__tcp_finish */
/* Last of what an arrival, a timer or a call does: sends what there is to send, arms, settles; false: tcp was an orphan, and is gone. */
bool cr__tcp_finish(struct cr__tcp *tcp);
struct cr__tcp *cr__tcp_new(struct cr__host *host, const struct cr__tcp_name *name); /* with defaults, in no table; NULL: no memory */
void cr__tcp_set_mss(struct cr__tcp *tcp);                                       /* by path, peer and options */
uint8_t cr__tcp_rcv_scale(const struct cr__tcp_layer *layer, uint32_t limit_bytes);
uint16_t cr__tcp_our_mss(const struct cr__host *host, const struct cr__ip *peer); /* what our SYN says (RFC 6691) */
void cr__tcp_told(struct cr__tcp *tcp, unsigned events);                         /* above, unless it does not know it */
void cr__tcp_free(struct cr__tcp *tcp);                                          /* what is over */
void cr__tcp_fin_wait(struct cr__tcp *tcp);                                      /* an orphan does not stay in FIN-WAIT-2 for ever */
void cr__tcp_sent_drop(struct cr__tcp *tcp);                                     /* empties the send queue */

/* The order of events: trouble from ICMP (trouble.c). */
void cr__tcp_error(struct cr__host *host, const struct cr__ip_error *error);

static inline uint32_t cr__tcp_least(uint64_t a, uint32_t b)
{
    return a < b ? (uint32_t)a : b;
}

static inline uint32_t cr__tcp_ms(const struct cr__host *host)
{
    return (uint32_t)(host->now_ns / 1000000);
}

static inline const struct cr__ip *cr__tcp_local_ip(const struct cr__tcp *tcp)
{
    return &tcp->host->config.addresses[tcp->local].ip;
}

#endif
