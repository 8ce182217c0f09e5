/* Networks of our own: TCP/IP in user space, on a link (crore/link.h).
 *
 *     struct cr_net *net;
 *     cr_net_open(&net, "mem:a addr=10.0.0.1/24");
 *     cr_listen(&l, "tcp://10.0.0.1:80", &(struct cr_conn_opts){.net = net});
 *
 * From there on the calls of crore/conn.h are the same as on the kernel's network, with the same errors, deadlines and rules (but cr_bind with CR_REUSE_PORT is refused,
 * -EOPNOTSUPP: datagrams' ports are not shared). A network belongs to the worker that opened it, and
 * its connections are fastest there: the calls of coroutines and tasks on other workers, and of migratable ones, are made there for them, which costs a spawn and two messages each.
 * Who waits so keeps no stack from others. Closing, and giving back what was lent, suspends nobody there either: it is done a little later, whether there is memory or not. So is
 * half closing in a task there, which answers 0 or -ENOMEM before that.
 * Until its turn there has come, such a call heeds its deadline and being cancelled, however busy that worker is, and then nothing has happened. Where the deadline has passed, or the
 * caller is cancelled, when it is made, it waits for its turn, and tries. It needs memory, so it may answer -ENOMEM (nothing has happened); at the memory budget it goes on, unless
 * it opens something. To another runtime's coroutines all calls answer -EXDEV, but those that only the own worker may make: -EPERM.
 *
 * With workers=all it is on all workers of the runtime: a connection that is dialled belongs to the worker that dials (or, if its own port is named, to any), one that comes
 * to the worker that a hash of its two ends chooses. A listener is on all of them: cr_accept takes what came to its own worker first, then what came to others; a server
 * (cr_serve) accepts on each what came there, and serves it there. The link, and UDP, stay with the worker that opened it: datagram sockets are
 * opened and used from any, each call from another one than that at the price of a visit. What is for the network's own worker alone is that one's: closing, and asking what is
 * known. What is opened in it, or asked of it, while it is being closed answers -EBADF.
 *
 * Names: with dns= they are looked up by asking those name servers over the network, by UDP, and by TCP where an answer is too long for that; by all calls that name the network, and
 * by cr_resolve_on. As with cr_resolve, this machine's hosts file is looked at first, and its resolv.conf says which domains are tried, and how patiently. The kernel's network is
 * asked nothing then, also if nobody answers. Without dns= names are looked up by the kernel's network. */
#ifndef CRORE_NET_H
#define CRORE_NET_H

#include <stdint.h>

#include <crore/conn.h>
#include <crore/link.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Linux' numbers, so that tables made for those can be used. */
enum cr_tcp_state {
    CR_TCP_ESTABLISHED = 1,
    CR_TCP_SYN_SENT,
    CR_TCP_SYN_RECV,
    CR_TCP_FIN_WAIT1,
    CR_TCP_FIN_WAIT2,
    CR_TCP_TIME_WAIT,
    CR_TCP_CLOSE,
    CR_TCP_CLOSE_WAIT,
    CR_TCP_LAST_ACK,
    CR_TCP_LISTEN,
    CR_TCP_CLOSING,
};

enum cr_tcp_ca_state { CR_TCP_CA_OPEN, CR_TCP_CA_DISORDER, CR_TCP_CA_CWR, CR_TCP_CA_RECOVERY, CR_TCP_CA_LOSS };

enum cr_tcp_options { CR_TCP_OPT_TIMESTAMPS = 1, CR_TCP_OPT_SACK = 2, CR_TCP_OPT_WSCALE = 4, CR_TCP_OPT_ECN = 8 };

/* What is known of a connection: the fields of Linux' struct tcp_info (its first edition, and the later ones' that are states), without the prefix, and with units where those leave them out. Left out is what would have to
 * be counted for each connection, the idle ones, too, which have 256 bytes in all: bytes and segments in and out, what was delivered and at what rate, how long it was busy or held up. */
struct cr_tcp_info {
    uint8_t state;                /* of enum cr_tcp_state */
    uint8_t ca_state;             /* of enum cr_tcp_ca_state */
    uint8_t retransmits;          /* of what is oldest in flight, so far: times that the RTO has come */
    uint8_t probes;               /* keep-alives, and probes of a closed window, without an answer */
    uint8_t backoff;
    uint8_t options;              /* of enum cr_tcp_options */
    uint8_t snd_wscale, rcv_wscale;
    uint32_t rto_us, ato_us;      /* ato: until a delayed ACK leaves; 0: none is owed */
    uint32_t snd_mss_bytes, rcv_mss_bytes, advmss_bytes, pmtu_bytes;
    uint32_t unacked, sacked, lost, retrans; /* segments in flight; of those: SACKed, taken for lost, sent again */
    uint32_t last_data_sent_ms, last_data_recv_ms; /* ago; last_data_recv_ms: any segment */
    uint32_t rtt_us, rttvar_us, min_rtt_us;
    uint32_t snd_ssthresh, snd_cwnd; /* segments; ssthresh 0x7fffffff: none yet */
    uint32_t reordering;             /* segments */
    uint32_t rcv_space_bytes;        /* the most that may be queued for the user */
    uint32_t total_retrans;
    uint32_t notsent_bytes;          /* queued, never sent */
    uint32_t snd_wnd_bytes, rcv_wnd_bytes; /* the peer's window; ours as last advertised */
    uint32_t rcv_ooo_bytes;          /* out of order, waiting */
    uint32_t rcv_queued_bytes;       /* in order, for the user */
};

/* Opens a network. spec: the link, and then, in any order, separated by spaces:
 *
 *     addr=IP/BITS        an address, and how many bits of it are the link's own net; up to 7. One at least. A host's own: no net's, broadcast, multicast or loopback address
 *     mac=XX:XX:XX:XX:XX:XX  the Ethernet address; the link's own. For who is to be taken for one that was here before: of a recording that is replayed, or at a shm: that starts anew
 *     gw=IP               the gateway of its family: where all that is not on the link goes. Another host, on the link
 *     route=IP/BITS,IP    what goes by another gateway
 *     dns=IP[:PORT]       a name server; port 53; an IPv6 address in brackets, if a port follows. Up to 3, asked in that order
 *     mtu=BYTES           the link's by default, up to 1500; 1280 to 1800
 *     cc=cubic|newreno    congestion control; cubic
 *     ecn=0|1             asks for explicit congestion notification when dialling; 0
 *     workers=all|one     whether it is on all workers of the runtime; one
 *     sndbuf=N rcvbuf=N   bytes that a connection may queue, with K, M or G behind, up to 1G; 256K and 1M
 *
 * Returns 0; -EINVAL (what is wrong with which word is said on the report fd, in one line), -EPERM (no coroutine; with workers=all also: one that may migrate), -ENOMEM, -EIO (the kernel gave no random
 * numbers), and what opening the link answers. After an error nothing is left open. May suspend, to open the link; with workers=all it does, until it is on each of them. */
CR_API CR_CHECKED int cr_net_open(struct cr_net **out, const char *spec);

/* Closes a network, by its own worker (on another one this does nothing, and it stays open): peers get resets, coroutines that wait -EBADF, as does each call from then on on its
 * connections and listeners, which are still to be closed. To have what was written arrive, wait for the peer's end before. One that is left open is closed with its runtime, which a
 * shm: link keeps from ending. NULL is ignored. Needs no memory. Does not suspend, but for one on all workers: until the
 * others have closed theirs, whatever deadline or cancellation; so that is for coroutines, and in a task does nothing. */
CR_API void cr_net_close(struct cr_net *net);

/* What is known of a network. By its own worker: 0, -EPERM (by another), or -EBADF (closed). Does not suspend, but for one on all workers, whose sums are asked for in turn: then also
 * -ENOMEM, and -EPERM in a task; the same goes for the next ones. */
struct cr_net_stats {
    struct cr_link_info link;
    uint64_t received, sent;             /* packets */
    uint64_t dropped;                    /* of those received, or to be sent, for whatever cause */
    uint64_t opened, accepted;           /* connections, so far */
    uint64_t retransmits, resets_sent, cookies_sent, cookies_good, challenges;
    uint32_t connections, listeners;     /* now: those that wait to be accepted, or whose user is gone, included */
    uint32_t half_open, time_wait;
};
CR_API CR_CHECKED int cr_net_stats_get(const struct cr_net *net, struct cr_net_stats *out);

/* Packets that were dropped, or events of that kind, by cause: numbered from 0 on. Returns the cause's name, NULL beyond the last one, and on another
 * worker than its own; count may be NULL. Of one on all workers count is the sum of those that could be asked, in a task the first one's. */
CR_API const char *cr_net_cause(const struct cr_net *net, unsigned cause, uint64_t *count);

/* What is known of a TCP connection of such a network. 0; -EOPNOTSUPP (another kind of connection), -EPERM (not by its own worker; of a network on all workers, coroutines on any may ask),
 * -EBADF (closed). On another worker than its own it suspends, and there is -ENOMEM. */
CR_API CR_CHECKED int cr_tcp_info_get(const struct cr_conn *conn, struct cr_tcp_info *out);

/* Writes all that to fd, for people: link, addresses, routes, causes of drops, connections (up to so many; 0: 1,000). By its own worker: 0; -EPERM, -EBADF (closed),
 * -ENOMEM (part of it may have been written). Suspends as cr_net_stats_get does. Blocks the worker while who reads fd lets it wait. */
CR_API int cr_net_tell(const struct cr_net *net, int fd, unsigned connections);

#ifdef __cplusplus
}
#endif
#endif
