/* UDP for programs: sockets that are bound, or dialled. What is sent leaves at once or not at all, so only receiving waits. What is lent
 * is the packet itself, or, of a long datagram, which is a chain of packets, a copy in one piece. */
#include "net/socket/socket.h"

#include <string.h>

/* What a lent datagram's first packet says of itself. */
struct cr__datagram_lent {
    struct cr__datagram_lent *next, **at;
    struct copy *copy; /* NULL: it is the packet's own bytes */
    struct cr__datagrams *of;
};
_Static_assert(sizeof(struct cr__datagram_lent) <= 32, "fits in struct cr_packet's own");

struct copy {
    size_t size_bytes; /* of all of this */
    char bytes[];
};

static const struct cr__conn_ops datagram_ops;

static struct cr__datagrams *of(const struct cr_conn *conn)
{
    return CR__CONTAINER(conn, struct cr__datagrams, conn);
}

void cr__datagram_event(struct cr__udp *udp, unsigned events)
{
    struct cr__datagrams *d = udp->user[0];
    (void)events; /* data, or an error that the next call returns: either way there is something to receive */
    if (d)
        cr__net_wake(d->network, &d->slots[CR__IN]);
}

/* ---- Transfers --------------------------------------------------------------------------------------------------- */

static ssize_t try_once(const struct cr__transfer *t)
{
    struct cr__datagrams *d = t->of;
    struct cr__network *network = d->network;
    if (CR__UNLIKELY(network->closed))
        return -EBADF;
    cr__net_now(network);
    ssize_t n = t->attempt(d, t->cargo);
    if (t->direction == CR__OUT || network->host.out.count > 0) /* what waits for a neighbour's address has a timer */
        cr__net_touched(network);
    return n;
}

static ssize_t transfer_here(void *arg)
{
    const struct cr__transfer *t = arg;
    struct cr__datagrams *d = t->of;
    struct cr__network *network = d->network;
    void **slot = &d->slots[t->direction];
    int r = cr__net_breathe(network, slot, t->deadline_ns);
    while (r == 0) {
        ssize_t n = try_once(t);
        if (n != -EAGAIN)
            return n;
        r = cr__net_wait(network, slot, CR__WAIT_NET_READABLE, t->deadline_ns);
    }
    if (r != CR__NET_TOO_LATE)
        return r;
    ssize_t n = try_once(t);
    return n == -EAGAIN ? -ETIMEDOUT : n;
}

static struct cr__visited visited(struct cr__datagrams *d);
static ssize_t try_readable(void *of, const struct cr__cargo *none);

static ssize_t transfer(struct cr_conn *conn, enum cr__direction direction, int64_t deadline_ns, ssize_t (*attempt)(void *of, const struct cr__cargo *cargo),
                        const struct cr__cargo *cargo)
{
    struct cr__transfer t = {of(conn), direction, deadline_ns, attempt, cargo};
    if (CR__LIKELY(cr__net_here(of(conn)->network)))
        return transfer_here(&t);
    struct cr__visited what = visited(t.of);
    return cr__transfer_there(&what, &t, transfer_here, try_readable);
}

/* In `from` the datagram's length is the result, also where it was cut. */
static ssize_t try_recv(void *of, const struct cr__cargo *to)
{
    const struct cr__datagrams *d = of;
    struct cr__udp_from from;
    ssize_t n = cr__udp_recv(d->udp, to->iov, to->count, &from);
    if (n >= 0 && to->from)
        cr__ip_to_addr(&from.from, from.port, to->from);
    return n >= 0 && to->from ? (ssize_t)from.size_bytes : n;
}

static ssize_t udp_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    if (CR__UNLIKELY(!cr__net_iov_good(count)))
        return -EINVAL;
    return transfer(conn, CR__IN, deadline_ns, try_recv, &(struct cr__cargo){.iov = iov, .count = count});
}

static ssize_t udp_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return udp_readv(conn, &(struct iovec){buf, size_bytes}, 1, deadline_ns);
}

static ssize_t udp_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from, int64_t deadline_ns)
{
    struct iovec iov = {buf, size_bytes};
    struct cr_addr unwanted;
    return transfer(conn, CR__IN, deadline_ns, try_recv, &(struct cr__cargo){.iov = &iov, .count = 1, .from = from ? from : &unwanted});
}

static struct cr_packet *packet_of(struct cr__datagram_lent *lent)
{
    return CR__CONTAINER((void *)lent, struct cr_packet, own);
}

static void take_back(struct cr__network *network, struct cr__datagram_lent *lent)
{
    *lent->at = lent->next;
    if (lent->next)
        lent->next->at = lent->at;
    if (lent->copy)
        cr__mem_free(lent->copy, lent->copy->size_bytes, CR__MEM_BUFFERS);
    cr__udp_recv_return(&network->host, packet_of(lent));
}

static void take_all_back(struct cr__datagrams *d)
{
    while (d->lent)
        take_back(d->network, d->lent);
}

/* For the next datagram, if that is in pieces. 0; -ENOMEM. */
static int make_copy(const struct cr__udp *udp, struct copy **out)
{
    *out = NULL;
    if (CR__LIKELY(!udp->first || !udp->first->next || udp->error))
        return 0;
    size_t size_bytes = sizeof(struct copy) + ((const struct cr__datagram *)(const void *)&udp->first->own)->size_bytes;
    *out = cr__mem_alloc(size_bytes, CR__MEM_BUFFERS);
    if (!*out)
        return -ENOMEM;
    (*out)->size_bytes = size_bytes;
    return 0;
}

static void fill_copy(struct copy *copy, const struct cr_packet *chain)
{
    size_t at = 0;
    for (; chain; chain = chain->next) {
        memcpy(copy->bytes + at, chain->data, chain->size_bytes);
        at += chain->size_bytes;
    }
}

static ssize_t try_recv_lend(void *of, const struct cr__cargo *to)
{
    struct cr__datagrams *d = of;
    struct copy *copy;
    struct cr_packet *chain;
    int r = make_copy(d->udp, &copy);
    ssize_t n = r < 0 ? r : cr__udp_recv_lend(d->udp, &chain, NULL);
    if (n == 0)
        cr__udp_recv_return(&d->network->host, chain); /* an empty datagram: there is nothing to lend */
    if (n <= 0)
        return n;
    if (copy)
        fill_copy(copy, chain);
    struct cr__datagram_lent *lent = (struct cr__datagram_lent *)(void *)&chain->own;
    *lent = (struct cr__datagram_lent){.next = d->lent, .at = &d->lent, .copy = copy, .of = d};
    if (d->lent)
        d->lent->at = &lent->next;
    d->lent = lent;
    *to->lent = (struct cr_lent){copy ? copy->bytes : (char *)chain->data, (size_t)n, lent};
    return n;
}

static ssize_t udp_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    *lent = (struct cr_lent){0};
    return transfer(conn, CR__IN, deadline_ns, try_recv_lend, &(struct cr__cargo){.lent = lent});
}

static void return_errand(void *thing)
{
    struct cr_packet *packet = thing;
    struct cr__datagram_lent *lent = (struct cr__datagram_lent *)(void *)&packet->own;
    struct cr__visited what = visited(lent->of);
    take_back(what.network, lent);
    cr__visits_leave(&what);
}

/* The link is in the packet's room, of which nothing is needed any more. */
const struct cr__errand_kind cr__datagram_returns = {CR_PACKET_HEAD_BYTES, return_errand};

static void udp_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    struct cr__visited what = visited(of(conn));
    if (CR__LIKELY(cr__worker_here() == what.network->worker)) {
        take_back(what.network, lent->_owner);
        return;
    }
    cr__visits_hold(&what);
    cr__errand(what.network, CR__DATAGRAM_RETURN, packet_of(lent->_owner));
}

static ssize_t try_send(void *of, const struct cr__cargo *from)
{
    const struct cr__datagrams *d = of;
    struct cr__ip ip;
    uint16_t port = 0;
    int r = from->to ? cr__ip_of_addr(from->to, &ip, &port) : 0;
    return r < 0 ? r : cr__udp_send(d->udp, from->iov, from->count, from->to ? &ip : NULL, port, NULL);
}

static ssize_t udp_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    if (CR__UNLIKELY(!cr__net_iov_good(count)))
        return -EMSGSIZE;
    return transfer(conn, CR__OUT, deadline_ns, try_send, &(struct cr__cargo){.iov = iov, .count = count});
}

static ssize_t udp_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return udp_writev(conn, &(struct iovec){(void *)buf, size_bytes}, 1, deadline_ns);
}

static ssize_t udp_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to, int64_t deadline_ns)
{
    struct iovec iov = {(void *)buf, size_bytes};
    return transfer(conn, CR__OUT, deadline_ns, try_send, &(struct cr__cargo){.iov = &iov, .count = 1, .to = to});
}

static ssize_t try_readable(void *of, const struct cr__cargo *none)
{
    const struct cr__datagrams *d = of;
    (void)none;
    return cr__udp_readable(d->udp) ? 0 : -EAGAIN;
}

static ssize_t try_nothing(void *of, const struct cr__cargo *none)
{
    (void)of;
    (void)none;
    return 0;
}

static int udp_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    return (int)transfer(conn, to_write ? CR__OUT : CR__IN, deadline_ns, to_write ? try_nothing : try_readable, &(struct cr__cargo){0});
}

/* ---- Closing, names ---------------------------------------------------------------------------------------------- */

/* When nobody is under way to it any more. */
static void part_with(void *thing)
{
    struct cr__datagrams *d = thing;
    struct cr__network *network = d->network;
    take_all_back(d);
    *d->at = d->next;
    if (d->next)
        d->next->at = d->at;
    cr__udp_close(d->udp);
    cr__mem_free(d, sizeof(*d), CR__MEM_CONNS);
    cr__net_put(network);
}

static struct cr__visited visited(struct cr__datagrams *d)
{
    return (struct cr__visited){d->network, &d->visits, part_with, CR__DATAGRAMS_CLOSE, d};
}

static void close_here(struct cr__datagrams *d)
{
    bool alone = cr__visits_closed(&d->visits);
    cr__net_evict(d->network, &d->slots[CR__IN]);
    cr__net_evict(d->network, &d->slots[CR__OUT]);
    if (alone)
        part_with(d);
}

static void close_errand(void *thing)
{
    struct cr__datagrams *d = thing;
    if (cr__visits_are_over(&d->visits))
        part_with(d);
    else
        close_here(d);
}

const struct cr__errand_kind cr__datagrams_closes = {offsetof(struct cr__datagrams, errand), close_errand};

static void udp_close(struct cr_conn *conn, enum cr__how how)
{
    struct cr__datagrams *d = of(conn);
    (void)how;
    if (CR__LIKELY(cr__worker_here() == d->network->worker))
        close_here(d);
    else
        cr__errand(d->network, CR__DATAGRAMS_CLOSE, d);
}

static int udp_url(const struct cr_conn *conn, enum cr__side side, char *buf, size_t size_bytes)
{
    const struct cr__udp *udp = of(conn)->udp;
    struct cr_addr addr;
    if (side == CR__PEER && udp->peer_port == 0)
        return -ENOTCONN;
    if (side == CR__LOCAL)
        cr__ip_to_addr(&udp->local, udp->local_port, &addr);
    else
        cr__ip_to_addr(&udp->peer, udp->peer_port, &addr);
    return cr__url_format(CR__UDP, &addr, buf, size_bytes);
}

static const struct cr__conn_ops datagram_ops = {
    .read = udp_read,
    .readv = udp_readv,
    .write = udp_write,
    .writev = udp_writev,
    .recv_lend = udp_recv_lend,
    .recv_return = udp_recv_return,
    .recv_from = udp_recv_from,
    .send_to = udp_send_to,
    .wait = udp_wait,
    .close = udp_close,
    .url = udp_url,
    .for_tasks = true,
};

void cr__datagram_close_all(struct cr__network *network)
{
    for (struct cr__datagrams *d = network->datagrams; d; d = d->next) {
        for (int direction = CR__IN; direction <= CR__OUT; direction++)
            cr__net_wake_with(network, &d->slots[direction], CR__CLOSED);
    }
}

/* The network is freed, its users gone: what they have left. */
void cr__datagram_drop_all(struct cr__network *network)
{
    for (struct cr__datagrams *d = network->datagrams, *next; d; d = next) {
        next = d->next;
        take_all_back(d);
        cr__mem_free(d, sizeof(*d), CR__MEM_CONNS);
    }
}

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

/* ip NULL: all addresses. */
static int open_socket(struct cr__network *network, struct cr__datagrams **out, const struct cr__ip *ip, uint16_t port)
{
    if (network->closed)
        return -EBADF;
    struct cr__datagrams *d = cr__mem_alloc(sizeof(*d), CR__MEM_CONNS);
    if (!d)
        return -ENOMEM;
    cr__net_now(network);
    int r = cr__udp_open(&network->host, &d->udp, ip, port);
    if (r < 0) {
        cr__mem_free(d, sizeof(*d), CR__MEM_CONNS);
        return r;
    }
    d->conn.ops = &datagram_ops;
    d->network = network;
    d->udp->user[0] = d;
    d->next = network->datagrams;
    d->at = &network->datagrams;
    if (d->next)
        d->next->at = &d->next;
    network->datagrams = d;
    cr__net_got(network);
    *out = d;
    return 0;
}

int cr__datagram_begin(struct cr__network *network, struct cr__datagrams **out, const struct cr__ip *to, uint16_t port)
{
    struct cr__datagrams *d;
    int r = open_socket(network, &d, NULL, 0);
    if (r < 0)
        return r;
    r = cr__udp_connect(d->udp, to, port);
    if (r < 0)
        close_here(d);
    else
        *out = d;
    return r;
}

static ssize_t bind_on(const struct cr__opening *o)
{
    struct cr__datagrams *d;
    struct cr__ip ip = {.halves = {0, 0}}, none = ip, none4 = cr__ip_v4(0);
    int r = o->url->host[0] ? cr__net_addresses(o->network, o->url, &ip, 1, o->deadline_ns) : 0;
    if (r < 0)
        return r;
    bool all = cr__ip_equal(&ip, &none) || cr__ip_equal(&ip, &none4);
    r = open_socket(o->network, &d, all ? NULL : &ip, o->url->port);
    if (r == 0)
        *o->out = &d->conn;
    return r;
}

static ssize_t dial_on(const struct cr__opening *o)
{
    struct cr__ip ips[CR__NET_ADDRESSES], from;
    uint16_t from_port = 0;
    struct cr__datagrams *d;
    int r = o->opts->source ? cr__net_source(o->network, o->url, o->opts, &from, &from_port, o->deadline_ns) : 0;
    int count = r < 0 ? r : cr__net_addresses(o->network, o->url, ips, CR__NET_ADDRESSES, o->deadline_ns);
    if (count < 0)
        return count;
    r = open_socket(o->network, &d, o->opts->source ? &from : NULL, from_port);
    if (r < 0)
        return r;
    r = -ENETUNREACH;
    for (int i = 0; i < count && r < 0; i++)
        r = cr__udp_connect(d->udp, &ips[i], o->url->port);
    if (r < 0)
        close_here(d);
    else
        *o->out = &d->conn;
    return r;
}

static ssize_t bind_here(void *opening)
{
    return cr__net_held(opening, bind_on);
}

static ssize_t dial_here(void *opening)
{
    return cr__net_held(opening, dial_on);
}

static int open_by(ssize_t (*fn)(void *arg), struct cr__opening *o)
{
    if (!cr__net_opts_good(o->opts))
        return -EINVAL;
    return (int)(cr__net_here(o->network) ? fn(o) : cr__visit_to_open(o, fn));
}

int cr__datagram_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__opening o = {CR__CONTAINER(net, struct cr__network, net), (void **)out, url, opts, deadline_ns};
    return url->host[0] == '\0' ? -EINVAL : open_by(dial_here, &o);
}

int cr__datagram_bind(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__opening o = {CR__CONTAINER(net, struct cr__network, net), (void **)out, url, opts, deadline_ns};
    return opts->flags & CR_REUSE_PORT ? -EOPNOTSUPP : open_by(bind_here, &o);
}
