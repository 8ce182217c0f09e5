/* UDP (RFC 768; 1122, 4.1; 8085) as a function of state, arrival or call, and time, in the manner of tcp.h: it calls no scheduler, and takes memory from its own slab and the
 * area of packets only.
 *
 * A socket has an address and a port of its own, and, if it is connected, those of its peer: then nobody else's datagrams get to it, and it is told of errors. What arrives
 * waits in a queue whose bound counts buffers, not payload: a byte in a packet keeps all of that from others. What is sent leaves at once, or not at all: there is no room to
 * wait for.
 *
 * Datagrams have up to 65,507 bytes (IPv6: 65,527), in both directions: long ones leave as fragments, and arrive as a chain of packets.
 *
 * A datagram to many (broadcast, all hosts, all nodes) gets to each socket of that port that is open for all addresses. Groups cannot be joined. */
#ifndef CR__UDP_H
#define CR__UDP_H

#include <sys/uio.h>

#include "net/ip/host.h"

#define CR__UDP_MOST4 65507
#define CR__UDP_MOST6 65527

/* What the layer above is told; bits. It must not call back into the core, but note what there is to do. */
enum cr__udp_event {
    CR__UDP_READABLE = 1u << 0, /* there was nothing to receive, and now there is */
    CR__UDP_ERROR = 1u << 1,    /* the next call returns it, and forgets it */
};

/* A socket. */
struct cr__udp {
    struct cr__host *host;
    void *user[2];               /* the socket layer's */
    struct cr__udp *next;        /* in its bucket */
    struct cr__ip local, peer;   /* all zeroes: all addresses; not connected */
    struct cr__ip last_to;       /* where the last datagram went: errors about others are none of ours */
    uint16_t local_port, peer_port; /* in the order of this machine; peer_port 0: not connected */
    uint16_t error;              /* errno that the next call returns; 0: none */
    bool local_is_peers;         /* the local address was chosen for the peer: it goes when that does */
    bool port_is_chosen;         /* nobody asked for this port: connecting may take another one */
    struct cr_packet *first, *last; /* what has arrived: chained by struct cr__datagram */
    uint32_t held_bytes;         /* of buffers */
    uint32_t limit_bytes;
    uint64_t received, sent, full; /* datagrams; those that found no room */
};

/* Whose a datagram is, that has been received. */
struct cr__udp_from {
    struct cr__ip from, to;      /* to: the address of ours that it was sent to; for what went to many, all zeroes */
    uint16_t port;
    uint8_t tos;
    uint32_t size_bytes;         /* the whole of it, also where it was cut */
};

struct cr__udp_config {
    void (*event)(struct cr__udp *udp, unsigned events);
    uint32_t recv_limit_bytes;   /* of a socket's, in buffers of CR_PACKET_BYTES each; 0: 512 KiB */
};

int cr__udp_init(struct cr__host *host, const struct cr__udp_config *config); /* after cr__host_init; sets host->above. 0, -ENOMEM */
void cr__udp_fini(struct cr__host *host);                                     /* before cr__host_fini: closes all */

/* ip NULL: all addresses. Port 0: any free one, which nobody guesses (RFC 6056). 0; -EADDRINUSE, -EADDRNOTAVAIL (not ours, no port left), -ENOMEM. */
int cr__udp_open(struct cr__host *host, struct cr__udp **out, const struct cr__ip *ip, uint16_t port);
void cr__udp_close(struct cr__udp *udp); /* udp is gone, and what it has received */

/* What waits is dropped. to NULL: no peer any more. 0; -EADDRINUSE (another socket is connected to that peer from the same address and port), -ENETUNREACH, -EADDRNOTAVAIL, -EINVAL
 * (port 0), -EAFNOSUPPORT (an address of the other family than the socket's). A port that was not asked for may become another one, so that there is none such. */
int cr__udp_connect(struct cr__udp *udp, const struct cr__ip *to, uint16_t port);

/* One datagram. to NULL: to the peer. from NULL: from the socket's address, else the one that fits best; else an address of the host's, for who answers (RFC 1122, 4.1.3.5);
 * crore/conn.h has no call that says so: who has several addresses binds a socket to each.
 * Its bytes; -EDESTADDRREQ, -EMSGSIZE, -ENETUNREACH, -EHOSTUNREACH, -EADDRNOTAVAIL, -EAFNOSUPPORT, -EINVAL, -ENOBUFS (no packet), or the error that an ICMP has told. That it was dropped later
 * nobody says. */
ssize_t cr__udp_send(struct cr__udp *udp, const struct iovec *iov, int count, const struct cr__ip *to, uint16_t port, const struct cr__ip *from);

/* The oldest datagram. How many of its bytes have been copied: what does not fit is lost, and from->size_bytes says how long it was. from may be NULL. -EAGAIN, or an error that
 * was told. */
ssize_t cr__udp_recv(struct cr__udp *udp, const struct iovec *iov, int count, struct cr__udp_from *from);

/* The same without copying: a chain of packets (mostly one), whose data is what was sent. It is the caller's until it is returned, which need not be before udp is closed. */
ssize_t cr__udp_recv_lend(struct cr__udp *udp, struct cr_packet **out, struct cr__udp_from *from);
void cr__udp_recv_return(struct cr__host *host, struct cr_packet *chain);

static inline bool cr__udp_readable(const struct cr__udp *udp)
{
    return udp->first || udp->error;
}

/* ---- Within the room ------------------------------------------------------------------------------------------- */

#define CR__UDP_BUCKETS 4096
#define CR__UDP_PORT_FIRST 32768 /* of those that are given to who asks for none: as Linux has it */
#define CR__UDP_PORTS 28232

/* What the first packet of a datagram says of it while it waits: in its `own`. */
struct cr__datagram {
    struct cr_packet *next;
    struct cr__ip from;
    uint16_t port;
    uint8_t to;                  /* which of the host's addresses; CR__UDP_TO_MANY */
    uint8_t tos;
    uint32_t size_bytes;
};
#define CR__UDP_TO_MANY 255
_Static_assert(sizeof(struct cr__datagram) <= 32, "fits in struct cr_packet's own");

struct cr__udp_layer {
    struct cr__udp_config config;
    struct cr__slab sockets;
    uint64_t ports_chosen;
    uint32_t count;
    struct cr__udp *buckets[CR__UDP_BUCKETS];
};

#endif
