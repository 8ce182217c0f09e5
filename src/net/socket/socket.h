/* A network as programs use it: a provider of conn (conn/conn.h) that stands on a host (net/ip/host.h) and a link (net/link/link.h). What is not in it: any protocol.
 *
 *     spec.c      the line of text that opens a network
 *     net.c       a network: opened, driven by a service (sched), closed; addresses; who waits
 *     stream.c    TCP: the operations of a connection; listener.c, dial.c: where they come from
 *     datagram.c  UDP
 *     asker.c     sockets for who looks names up with the network's own name servers
 *     visit.c     calls by others than coroutines of the network's worker; parcel.c: what they transfer
 *     spread.c    a network on all workers: what arrives is dealt out to them, what leaves is gathered; everywhere.c: its listeners
 *     stats.c     what is told of it; control.c: to `crore net`
 *
 * A network belongs to the worker that opened it, and so do its connections: everything below runs on that worker's thread, and takes no lock. The call of a coroutine that is not
 * there, or might leave, is made by a visitor that is spawned there (visit.c). One that is spread is a struct cr__network for each worker, each with a host, connections and
 * listeners of its own; the link, UDP and the user's handle are the first one's (spread.c).
 *
 *     a coroutine's call --> tries: the core (tcp.h, udp.h) --frames--> host->out --64, or the service's turn--> the link
 *                              | -EAGAIN: takes its place in the slot, parks
 *     the service's turn: the link --bursts--> cr__host_input --event--> wakes who is in the slot;  cr__host_tick;  host->out --> the link
 *
 * The core tells of events while it works and must not be called then: all that the callbacks do is to claim a wait, which runs nothing.
 *
 * Who waits. Each direction of a connection has a slot, a word in which the record of its waiter stands from when its wait begins until it goes on; the record's node.object is
 * the slot's address. Who closes the connection clears both, so whoever goes on later, however it was woken, finds 0 in its own record, says -EBADF, and does not look at what
 * may be gone. So neither generations nor references are needed, all on one thread.
 *
 * Data is copied by the coroutine itself, between the caller's memory and packets, while it runs, or lent in place. Nobody else ever touches the caller's memory, so it may lie
 * on any kind of stack, and nothing is bounced (but for visits).
 *
 * Invariants:
 *   1. A slot holds at most one record, and that one's node.object is the slot's address; or a struct cr__slot_hold, with the lowest bit set (sendfile; asker.c, which waits in
 *      several at once).
 *   2. After a call of the core's that may have put anything into host->out, or armed a timer, the service is poked: so it is sent, and due, before the worker sleeps.
 *   3. `handles` counts what users hold: connections, listeners, lookups under way. A network that is closed is freed with the last of them, or with its runtime. */
#ifndef CR__SOCKET_H
#define CR__SOCKET_H

#include <crore/net.h>

#include "net/link/link.h"
#include "net/tcp/tcp.h"
#include "net/udp/udp.h"
#include "sched/sched.h"
#include "sched/task.h"

#define CR__NET_SPEC_BYTES 512
#define CR__NET_IOV_MOST 1024 /* the kernel's UIO_MAXIOV */
#define CR__NET_ADDRESSES 16 /* of a name that are tried */
#define CR__NET_NAME_SERVERS 3
#define CR__NET_NAMES_BYTES (CR__NET_NAME_SERVERS * sizeof("[0000:0000:0000:0000:0000:0000:000.000.000.000]:65535,"))

struct cr__listening;
struct cr__datagrams;
struct cr__spread;
struct cr__everywhere;

struct cr__network {
    struct cr_net net;
    struct cr__worker *worker;
    struct cr_link *link;            /* NULL: closed */
    struct cr__service service;
    struct cr__listening *listeners;
    struct cr__datagrams *datagrams; /* sockets of UDP */
    uint32_t handles;
    bool closed;                     /* by the user: all calls answer -EBADF */
    bool released;                   /* by sched */
    bool deals;                      /* it is spread, and this is the one that has the link */
    struct cr__spread *spread;       /* NULL: it is on one worker */
    uint8_t full;                    /* turns in a row at whose end the link took no more */
    struct cr__post errands_post;
    void *_Atomic errands;           /* what other workers want done (visit.c) */
    _Atomic uint32_t visits;         /* by who opens something in it, or asks what is known; if it is closed meanwhile, they have a handle */
    void *errand;
    char spec[CR__NET_SPEC_BYTES];
    char name_servers[CR__NET_NAMES_BYTES]; /* IP:PORT or [IP]:PORT, with commas between; "": it has none of its own */
    struct cr__host host;
};

/* A listener. */
struct cr__listening {
    struct cr_listener listener;
    struct cr__network *network;
    struct cr__tcp_listener *tcp;
    void *slot;
    struct cr__ip ip;
    bool all;                        /* addresses */
    uint16_t port;
    _Atomic uint32_t visits;
    void *errand;
    struct cr__everywhere *shared;   /* of which it is one; NULL: it is a user's */
    struct cr__listening *next, **at;
};

/* A socket of UDP. */
struct cr__datagrams {
    struct cr_conn conn;
    struct cr__network *network;
    struct cr__udp *udp;
    void *slots[2]; /* CR__IN: who receives; CR__OUT: who breathes while he sends */
    struct cr__datagram_lent *lent;
    _Atomic uint32_t visits;
    void *errand;
    struct cr__datagrams *next, **at;
};

/* What a lent packet says of itself, beside the core's first word. */
struct cr__borrowed {
    uint64_t core;
    void *by;                        /* the connection */
    struct cr_packet *prev, *next;   /* among what that one's user has borrowed */
};
_Static_assert(sizeof(struct cr__borrowed) <= 32, "fits in struct cr_packet's own");

static inline struct cr__borrowed *cr__borrowed_of(struct cr_packet *packet)
{
    return (struct cr__borrowed *)(void *)&packet->own;
}

static inline struct cr__network *cr__network_of(struct cr__host *host)
{
    return CR__CONTAINER(host, struct cr__network, host);
}

static inline struct cr__tcp *cr__tcp_of(const struct cr_conn *conn)
{
    return CR__CONTAINER(conn, struct cr__tcp, conn);
}

/* ---- spec.c ------------------------------------------------------------------------------------------------------ */

/* What the line wishes. */
struct cr__wish {
    struct cr__host_config host;
    struct cr__tcp_config tcp;
    unsigned mtu_bytes; /* 0: not said */
    bool on_all_workers, has_mac;
    unsigned name_server_count;
    char name_servers[CR__NET_NAMES_BYTES];
    const char *word;                         /* that is being looked at: in words */
    const char *route_words[CR__HOST_ROUTES]; /* which said what route */
    char words[CR__NET_SPEC_BYTES];
};

/* Leaves the link in wish->words. 0; -EINVAL: what is wrong has been said on the report fd, as _refuse says it, which answers that. */
int cr__wish_parse(struct cr__worker *w, struct cr__wish *wish, const char *spec);
int cr__wish_refuse(struct cr__worker *w, const char *spec, const char *word, const char *why);

/* ---- net.c ------------------------------------------------------------------------------------------------------- */

/* Whether the caller may call the core: runs on the network's worker, and stays there. */
static inline bool cr__net_here(const struct cr__network *network)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    return CR__LIKELY(w == network->worker) && CR__LIKELY(!me || !cr__migrates(w, &me->co));
}

/* How many pieces a transfer may have: as the kernel has it. */
static inline bool cr__net_iov_good(int count)
{
    return (unsigned)count <= CR__NET_IOV_MOST;
}

/* Before the core is called: what time it is. */
static inline void cr__net_now(struct cr__network *network)
{
    network->host.now_ns = network->worker->now_ns;
}

/* After it: invariant 2. */
void cr__net_touched(struct cr__network *network);

/* The calls that may go on without suspending: every 64th yields, unless its deadline has passed. 0; -EBADF: what the slot belongs to was closed meanwhile. */
int cr__net_breathe(struct cr__network *network, void **slot, int64_t deadline_ns);

/* Takes the slot and waits to be woken. 0; CR__NET_TOO_LATE: the deadline came while it waited, so it may look once more; or, and then the slot may be gone: -ETIMEDOUT (it was
 * too late already), -ECANCELED, -EBUSY (somebody else is in the slot), -EBADF (closed meanwhile), in a task CR_WAITS. */
#define CR__NET_TOO_LATE 1
int cr__net_wait(struct cr__network *network, void **slot, enum cr__wait_kind kind, int64_t deadline_ns);
int cr__net_finish(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns); /* what a task's ends with, which may be set anew (cr__leaf_finish_set) */

/* For who keeps others from using the slot across waits of its own, for other things: `gone` is set when what it belongs to is closed. Must not lie on a stack. */
struct cr__slot_hold {
    bool gone;
    struct cr__record *waiter; /* who waits for several, of which this is one (cr__net_wait_held); NULL: nobody is to be woken */
};
void cr__net_hold(void **slot, struct cr__slot_hold *hold);

/* Wakes who waits there, if anybody does: with CR__WOKEN, or CR__CLOSED. */
static inline void cr__net_wake_with(struct cr__network *network, void **slot, enum cr__wait_state outcome)
{
    struct cr__record *record = *slot;
    if (CR__UNLIKELY((uintptr_t)record & 1))
        record = ((struct cr__slot_hold *)((uintptr_t)record - 1))->waiter;
    if (record)
        cr__wake(network->worker, record, outcome);
}

static inline void cr__net_wake(struct cr__network *network, void **slot)
{
    cr__net_wake_with(network, slot, CR__WOKEN);
}

/* Waits, not in any slot, but to be woken by way of holds that name the caller as their waiter, which he has put into slots, and then takes out again. 0; -ETIMEDOUT, -ECANCELED,
 * -EBADF (the network is closed). object: what it is for, to be told. */
int cr__net_wait_held(struct cr__network *network, const void *object, int64_t deadline_ns);

/* What the slot belongs to is closed: who waits gets -EBADF. */
void cr__net_evict(struct cr__network *network, void **slot);

/* One more, one less in users' hands; the last one of a closed network frees it. */
void cr__net_got(struct cr__network *network);
void cr__net_put(struct cr__network *network);

/* What a visit to it is told of a network, which may be closed meanwhile. */
struct cr__visited;
struct cr__visited cr__net_visited(struct cr__network *network);

/* Whether options make sense here. */
bool cr__net_opts_good(const struct cr_conn_opts *opts);

/* 0; -EAFNOSUPPORT. And the reverse; the scope of a link-local address is not kept. */
int cr__ip_of_addr(const struct cr_addr *addr, struct cr__ip *ip, uint16_t *port);
void cr__ip_to_addr(const struct cr__ip *ip, uint16_t port, struct cr_addr *out);

/* The URL's addresses in the order to try them; how many, or as cr_resolve_on. */
int cr__net_addresses(struct cr__network *network, const struct cr__url *url, struct cr__ip *ips, int count, int64_t deadline_ns);

/* opts->source: 0; -EINVAL, -EADDRNOTAVAIL, as cr_resolve_on. */
int cr__net_source(struct cr__network *network, const struct cr__url *url, const struct cr_conn_opts *opts, struct cr__ip *ip, uint16_t *port, int64_t deadline_ns);

/* ---- stream.c ---------------------------------------------------------------------------------------------------- */

extern const struct cr__tcp_above cr__stream_above;
extern const struct cr__conn_ops cr__tcp_conn_ops;

/* What a visit to it is told of a connection. */
struct cr__visited cr__stream_visited(struct cr__tcp *tcp);

/* The network is being closed: says RST to all peers, and -EBADF to who waits. */
void cr__stream_close_all(struct cr__network *network);
void cr__stream_drop_all(struct cr__network *network);

struct cr__tcp_opts cr__stream_opts(const struct cr_conn_opts *opts);

/* Whether a transfer makes sense now: it moves bytes, or says what has become of the connection. If not, its slot is woken when that changes. */
bool cr__stream_ready(struct cr__tcp *tcp, bool to_write);

/* ---- listener.c, dial.c ------------------------------------------------------------------------------------------- */

/* One on this network's worker, which the caller runs on; ip of all zeroes: all addresses. cr__tcp_listen's answers. And the end of it. */
int cr__stream_listen_at(struct cr__network *network, struct cr__listening **out, const struct cr__ip *ip, uint16_t port, const struct cr_conn_opts *opts);
void cr__stream_unlisten(struct cr__listening *l);
int cr__stream_accept(struct cr__listening *l, struct cr_conn **out); /* 0, -EAGAIN */

int cr__stream_listen(struct cr_net *net, struct cr_listener **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);
int cr__stream_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);

/* Begins to connect, as cr__tcp_dial, without waiting for what becomes of it. The connection is a user's, to be closed. Also -EBADF. */
int cr__stream_begin(struct cr__network *network, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, uint16_t to_port,
                     const struct cr__tcp_opts *opts);

/* ---- everywhere.c ---------------------------------------------------------------------------------------------------- */

/* A listener of a network that is spread: one on each worker. Runs on the first one's worker. */
int cr__everywhere_listen(struct cr__network *network, struct cr_listener **out, const struct cr__ip *ip, uint16_t port, const struct cr_conn_opts *opts);
void cr__everywhere_arrived(struct cr__listening *l); /* one waits to be accepted there: somebody is woken */
void cr__everywhere_told(struct cr__listening *l);    /* by the worker that was poked for it */
void cr__everywhere_gone(struct cr__listening *l);    /* l is freed */
void cr__everywhere_unlisten(struct cr__listening *l);

/* ---- spread.c ---------------------------------------------------------------------------------------------------- */

struct cr__share cr__spread_share(unsigned count, unsigned mine); /* with a fresh key; count 0: there was none to be had */

/* Puts the network, which is open, on all other workers: open_part is called there, with its link, and returns what is there then. May suspend. 0, or what open_part says. */
int cr__spread_open(struct cr__network *network, int (*open_part)(struct cr__network **out, struct cr_link *link, void *arg), void *arg);

/* The one that has the link; of one that is not spread: itself. And, on that one's worker, whether it is about to be closed. */
struct cr__network *cr__spread_first(struct cr__network *network);
bool cr__spread_is_closing(const struct cr__network *network);

unsigned cr__spread_count(const struct cr__spread *spread);
struct cr__network *cr__spread_at(const struct cr__spread *spread, unsigned worker);
struct cr__network *cr__spread_here(struct cr__network *network);  /* the one of the worker that this runs on; of one that is not spread: itself */
struct cr__network *cr__spread_whose(struct cr__network *network, const struct cr__ip *local, uint16_t port, const struct cr__ip *peer, uint16_t peer_port);

/* For the one that has the link. _deal: hands what is others' to them; how many are left, of its own. _gather: into host->out what others have; whether there may be more. */
int cr__spread_deal(struct cr__network *network, struct cr_packet **frames, int count);
bool cr__spread_gather(struct cr__network *network);
void cr__spread_arrival(struct cr__host *host, const struct cr__arrival *in); /* above.tcp */

/* The end: calls fn(part) on the worker of each but the first, as cr__visit_surely does. _closing: no more is dealt out; false: that was so already.
 * _over: the runtime has ended, so nobody is poked. _get, _put: one part, or listener, more or less; the last frees it, and the memory of
 * its networks, which stays until then: so whoever finds one by cr__spread_at sees whether it is closed. */
void cr__spread_each(struct cr__spread *spread, ssize_t (*fn)(void *part));
bool cr__spread_closing(struct cr__spread *spread);
void cr__spread_over(struct cr__spread *spread);
void cr__spread_get(struct cr__spread *spread);
void cr__spread_put(struct cr__spread *spread, struct cr__packet_cache *packets);

/* ---- datagram.c -------------------------------------------------------------------------------------------------- */

int cr__datagram_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);
int cr__datagram_begin(struct cr__network *network, struct cr__datagrams **out, const struct cr__ip *to, uint16_t port); /* dialled, on the network's worker; also -EBADF */
void cr__datagram_event(struct cr__udp *udp, unsigned events);
void cr__datagram_close_all(struct cr__network *network);
void cr__datagram_drop_all(struct cr__network *network);
int cr__datagram_bind(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);

/* ---- asker.c ----------------------------------------------------------------------------------------------------- */

ssize_t cr__asker_ask(struct cr_net *net, ssize_t (*fn)(struct cr__asker *asker, void *arg), void *arg, int64_t deadline_ns); /* of struct cr__net_ops */

/* ---- stats.c ----------------------------------------------------------------------------------------------------- */

/* For the service: what a dump says of it. */
void cr__net_tell_dump(struct cr__service *service, char *text, size_t size_bytes);

/* ---- control.c --------------------------------------------------------------------------------------------------- */

void cr__control_start(void); /* if the environment wishes it; once */

/* ---- visit.c ----------------------------------------------------------------------------------------------------- */

enum cr__errand { CR__STREAM_CLOSE, CR__STREAM_RESET, CR__STREAM_RETURN, CR__LISTENER_CLOSE, CR__DATAGRAMS_CLOSE, CR__DATAGRAM_RETURN, CR__NETWORK_LEFT };

/* Something of a network's that may be closed before the turn of a call comes, or while it lasts. `visits` is a word of that thing's, which begins as 0. Who closes it asks
 * cr__visits_closed first; if that says false, the last visit calls over(thing), on the network's worker: thing stays until then. A visit that finds it closed answers -EBADF. It
 * must have begun before the thing is closed. `close` is the errand that calls `over`, too, if cr__visits_are_over. */
struct cr__visited {
    struct cr__network *network;
    _Atomic uint32_t *visits; /* NULL: nothing can be closed */
    void (*over)(void *thing);
    enum cr__errand close;
    void *thing;
};

bool cr__visits_closed(_Atomic uint32_t *visits); /* by the network's worker: whether no visit is under way, so that it may go at once */
bool cr__visits_are_over(const _Atomic uint32_t *visits);
bool cr__visited_closed(const struct cr__visited *what);

/* Who is under way to it, and is no visitor, or is so before or after that. _leave: by the network's worker; _drop: by another. */
void cr__visits_hold(const struct cr__visited *what);
void cr__visits_leave(const struct cr__visited *what);
void cr__visits_drop(const struct cr__visited *what);

/* Has fn(arg) called on the network's worker, and waits for it. fn does not wait; arg may lie on the caller's stack, of whatever kind. What fn returns; -ENOMEM; -EXDEV: that is
 * another runtime's; -EPERM in a task. */
ssize_t cr__visit(struct cr__network *network, ssize_t (*fn)(void *arg), void *arg);
ssize_t cr__visit_worker(struct cr__worker *to, ssize_t (*fn)(void *arg), void *arg);
ssize_t cr__visit_at(const struct cr__visited *what, ssize_t (*fn)(void *arg), void *arg);

/* The same without waiting for its end. 0, -ENOMEM, -EXDEV. */
int cr__visit_unawaited(const struct cr__visited *what, ssize_t (*fn)(void *arg), void *arg);

/* The same as the first, and it can't fail: it needs no memory, and heeds neither deadline nor cancellation. fn is called by that worker's loop. In a coroutine of this runtime. */
ssize_t cr__visit_surely(struct cr__network *network, ssize_t (*fn)(void *arg), void *arg);

/* A call that may wait. Where it is called by a task, or on a shared stack, neither this nor what fn works with may lie on a stack. */
struct cr__visit {
    struct cr__brought brought;  /* by which a task is handed what has come of it */
    struct cr__worker *to;
    struct cr__visited what;
    ssize_t (*fn)(void *arg);    /* called by a task: what it waits for are leaves of the network's (cr__net_wait) */
    void *arg;
    int64_t deadline_ns;         /* of those, and of waiting for its turn; 0, or passed: it is waited for */
    struct cr_conn **accepted;   /* of an accept that visits others in its turn */
    bool opens;                  /* fn is called by a coroutine, and may wait for anything */
    bool unawaited;              /* nobody waits for its end: it frees itself */
    struct cr_co *visitor;
    struct cr__ticket *ticket;   /* by which it is withdrawn */
    int64_t until_ns;            /* how long it is waited for */
    ssize_t result;
};

/* What fn returns, and as the others; -ETIMEDOUT, -ECANCELED also: it had not begun, and is withdrawn. Being cancelled later is handed on to the visitor. In a task CR_WAITS: then
 * brought's operation is called when it is over, and finds it by _brought. */
ssize_t cr__visit_wait(struct cr__visit *visit);
struct cr__visit *cr__visit_brought(void);

/* What opens something, and is told by URL. */
struct cr__opening {
    struct cr__network *network;
    void **out;
    const struct cr__url *url;
    const struct cr_conn_opts *opts;
    int64_t deadline_ns;
};
ssize_t cr__visit_to_open(const struct cr__opening *o, ssize_t (*fn)(void *opening));

/* What fn returns, during which the network is there: while names are looked up, and from one attempt to the next. -EBADF: it is closed. By its worker. */
ssize_t cr__net_held(const struct cr__opening *o, ssize_t (*fn)(const struct cr__opening *o));

/* What does not wait, and can't fail: done by the network's worker some time soon, in the order in which it was told. `thing` has a link for that, which nobody else uses
 * meanwhile. By another worker of the runtime. */
void cr__errand(struct cr__network *network, enum cr__errand what, void *thing);
void cr__errands_do(struct cr__worker *worker, struct cr__post *post);

struct cr__errand_kind {
    size_t link_at; /* offset of a pointer in `thing` */
    void (*fn)(void *thing);
};
extern const struct cr__errand_kind cr__stream_closes, cr__stream_resets, cr__stream_returns, cr__listener_closes, cr__datagrams_closes, cr__datagram_returns, cr__network_left;

/* ---- parcel.c ---------------------------------------------------------------------------------------------------- */

/* What a transfer works with: each as far as it has it. */
struct cr__cargo {
    const struct iovec *iov;
    int count;
    struct cr_lent *lent;
    struct cr_addr *from;
    const struct cr_addr *to;
    bool more; /* sending: is to follow, so a partial segment waits for it */
};

enum cr__direction { CR__IN, CR__OUT };

/* A call that transfers something, by streams and datagrams alike. */
struct cr__transfer {
    void *of;
    enum cr__direction direction;
    int64_t deadline_ns;
    ssize_t (*attempt)(void *of, const struct cr__cargo *cargo); /* -EAGAIN: it is to wait */
    const struct cr__cargo *cargo;
};

/* Has there(t) called by a visitor. readable(of): 0, or -EAGAIN: there is nothing to be received. In a task, or on a shared stack, what it works with is a copy, and what comes of
 * it copied back. What it answers; -ENOMEM; in a task CR_WAITS. */
ssize_t cr__transfer_there(const struct cr__visited *what, struct cr__transfer *t, ssize_t (*there)(void *transfer), ssize_t (*readable)(void *of, const struct cr__cargo *cargo));

#endif
