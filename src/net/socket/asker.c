/* Sockets by number for who looks names up (struct cr__asker, conn/conn.h) with the network's own name servers: by its UDP and TCP, as a program's. What is not in it: anything
 * of DNS.
 *
 * Who asks is one coroutine on the network's worker (of one that is spread, the first's, which has UDP). It calls the core itself, which never waits; where nothing is ready, it
 * puts a hold that names it into the slot of each socket it waits for, so whichever is told of something first wakes it.
 *
 * Invariants:
 *   1. A hold is in a slot only while the asker's coroutine is in wait.
 *   2. An asker keeps its network (`handles`) until it is ended, which its coroutine does, also when its caller has given up.
 *
 * Rejected: a coroutine for each socket, which would wait with the calls that programs have (three spawns and their wake-ups for each name, for what is one place in a slot). */
#include "net/socket/socket.h"

#include <string.h>

#define SOCKETS 16 /* so many of the library's are waited for (ARES_GETSOCK_MAXNUM) */

struct socket {
    bool open, stream;
    struct cr__tcp *tcp;     /* of a stream that is connected, or being connected */
    struct cr__datagrams *d; /* of datagrams: NULL before it is connected */
    struct cr__slot_hold holds[2];
};

struct asking {
    struct cr__asker asker;
    struct cr__network *network;
    struct socket sockets[SOCKETS];
};

static struct asking *of(struct cr__asker *asker)
{
    return CR__CONTAINER(asker, struct asking, asker);
}

static struct socket *socket_at(struct asking *asking, int number)
{
    CR__ASSERT(number >= CR__ASKER_FIRST && number < CR__ASKER_FIRST + SOCKETS && asking->sockets[number - CR__ASKER_FIRST].open);
    return &asking->sockets[number - CR__ASKER_FIRST];
}

/* ---- Opening and closing --------------------------------------------------------------------------------------------- */

static int own_open(struct cr__asker *asker, int type)
{
    struct asking *asking = of(asker);
    for (int i = 0; i < SOCKETS; i++) {
        if (asking->sockets[i].open)
            continue;
        asking->sockets[i] = (struct socket){.open = true, .stream = type == SOCK_STREAM};
        return CR__ASKER_FIRST + i;
    }
    return -EMFILE;
}

static int own_connect(struct cr__asker *asker, int number, const struct cr_addr *to)
{
    struct asking *asking = of(asker);
    struct socket *s = socket_at(asking, number);
    struct cr__ip ip;
    uint16_t port;
    int r = cr__ip_of_addr(to, &ip, &port);
    if (r < 0)
        return r;
    if (!s->stream)
        return cr__datagram_begin(asking->network, &s->d, &ip, port);
    struct cr__tcp *tcp;
    r = cr__stream_begin(asking->network, &tcp, NULL, 0, &ip, port, &(struct cr__tcp_opts){0});
    if (r < 0)
        return r;
    s->tcp = tcp;
    return -EINPROGRESS;
}

static struct cr_conn *conn_of(const struct socket *s)
{
    return s->tcp ? &s->tcp->conn : s->d ? &s->d->conn : NULL;
}

static void own_close(struct cr__asker *asker, int number)
{
    struct socket *s = socket_at(of(asker), number);
    struct cr_conn *conn = conn_of(s);
    if (conn)
        conn->ops->close(conn, CR__CLOSE);
    *s = (struct socket){0};
}

static void own_end(struct cr__asker *asker)
{
    struct asking *asking = of(asker);
    struct cr__network *network = asking->network;
    for (int i = 0; i < SOCKETS; i++) {
        if (asking->sockets[i].open)
            own_close(asker, CR__ASKER_FIRST + i);
    }
    cr__mem_free(asking, sizeof(*asking), CR__MEM_OTHER);
    cr__net_put(network);
}

/* ---- Transfers, which never wait --------------------------------------------------------------------------------------- */

static int begin(struct asking *asking, const struct socket *s)
{
    if (asking->network->closed)
        return -EBADF;
    cr__net_now(asking->network);
    return conn_of(s) ? 0 : -ENOTCONN;
}

static ssize_t own_send(struct cr__asker *asker, int number, const struct iovec *iov, int count)
{
    struct asking *asking = of(asker);
    struct socket *s = socket_at(asking, number);
    int r = begin(asking, s);
    if (r < 0)
        return r;
    ssize_t n = s->tcp ? cr__tcp_send(s->tcp, iov, count, false) : cr__udp_send(s->d->udp, iov, count, NULL, 0, NULL);
    cr__net_touched(asking->network);
    return s->tcp && (n == -ENOBUFS || n == -ENOTCONN) ? -EAGAIN : n; /* there is a packet later; it is not open yet */
}

static ssize_t own_recv(struct cr__asker *asker, int number, void *buf, size_t size_bytes, struct cr_addr *from)
{
    struct asking *asking = of(asker);
    struct socket *s = socket_at(asking, number);
    struct iovec iov = {buf, size_bytes};
    struct cr__udp_from sender;
    int r = begin(asking, s);
    if (r < 0)
        return r;
    ssize_t n = s->tcp ? cr__tcp_recv(s->tcp, &iov, 1) : cr__udp_recv(s->d->udp, &iov, 1, &sender);
    if (n >= 0 && s->d && from)
        cr__ip_to_addr(&sender.from, sender.port, from);
    if (asking->network->host.out.count > 0)
        cr__net_touched(asking->network);
    return n;
}

static bool own_reaches(struct cr__asker *asker, const struct cr_addr *to)
{
    struct cr__ip ip, from;
    uint16_t port;
    return cr__ip_of_addr(to, &ip, &port) == 0 && cr__ip_source(&of(asker)->network->host, &ip, &from) == 0;
}

/* ---- Waiting ----------------------------------------------------------------------------------------------------------- */

static bool is_ready(const struct socket *s, enum cr__direction direction)
{
    if (s->tcp)
        return cr__stream_ready(s->tcp, direction == CR__OUT);
    return !s->d || direction == CR__OUT || cr__udp_readable(s->d->udp);
}

/* How many have something. */
static int look(struct asking *asking, struct pollfd *sockets, int count)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        const struct socket *s = socket_at(asking, sockets[i].fd);
        sockets[i].revents = 0;
        if ((sockets[i].events & POLLIN) && is_ready(s, CR__IN))
            sockets[i].revents |= POLLIN;
        if ((sockets[i].events & POLLOUT) && is_ready(s, CR__OUT))
            sockets[i].revents |= POLLOUT;
        n += sockets[i].revents != 0;
    }
    return n;
}

static void **slot_of(struct socket *s, enum cr__direction direction)
{
    return s->tcp ? &s->tcp->user[direction] : &s->d->slots[direction];
}

/* Those that are waited for are connected: others are ready. */
static void hold_all(struct asking *asking, const struct pollfd *sockets, int count, struct cr__record *waiter)
{
    for (int i = 0; i < count; i++) {
        struct socket *s = socket_at(asking, sockets[i].fd);
        for (enum cr__direction d = CR__IN; d <= CR__OUT; d++) {
            s->holds[d] = (struct cr__slot_hold){.waiter = waiter};
            cr__net_hold(slot_of(s, d), &s->holds[d]);
        }
    }
}

static void let_go_of_all(struct asking *asking, const struct pollfd *sockets, int count)
{
    for (int i = 0; i < count; i++) {
        struct socket *s = socket_at(asking, sockets[i].fd);
        for (enum cr__direction d = CR__IN; d <= CR__OUT; d++)
            *slot_of(s, d) = NULL; /* it was still there: nobody else closes these */
    }
}

static int own_wait(struct cr__asker *asker, struct pollfd *sockets, int count, int64_t deadline_ns)
{
    struct asking *asking = of(asker);
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    CR__ASSERT(me && w == asking->network->worker);
    int n = look(asking, sockets, count);
    if (n > 0)
        return n;
    hold_all(asking, sockets, count, me);
    int r = cr__net_wait_held(asking->network, asking, deadline_ns);
    let_go_of_all(asking, sockets, count);
    n = look(asking, sockets, count);
    return r < 0 && (r != -ETIMEDOUT || n == 0) ? r : n;
}

static const struct cr__asker_ops ops = {
    .open = own_open,
    .connect = own_connect,
    .send = own_send,
    .recv = own_recv,
    .close = own_close,
    .reaches = own_reaches,
    .wait = own_wait,
    .end = own_end,
};

/* ---- Beginning --------------------------------------------------------------------------------------------------------- */

struct call {
    struct cr__network *network;
    ssize_t (*fn)(struct cr__asker *asker, void *arg);
    void *arg;
};

static ssize_t ask_here(void *arg)
{
    const struct call *call = arg;
    struct cr__network *network = cr__spread_first(call->network);
    if (cr__spread_is_closing(network) || network->closed)
        return -EBADF;
    struct asking *asking = cr__mem_alloc(sizeof(*asking), CR__MEM_OTHER);
    if (!asking)
        return -ENOMEM;
    asking->asker = (struct cr__asker){&ops, network->name_servers};
    asking->network = network;
    cr__net_got(network);
    return call->fn(&asking->asker, call->arg);
}

/* It may take long: so nothing of it lies on the caller's stack. */
struct call_there {
    struct cr__visit visit;
    struct call call;
};

static ssize_t ask_there(struct cr__network *first, const struct call *call, int64_t deadline_ns)
{
    struct call_there *there = cr__mem_alloc(sizeof(*there), CR__MEM_OTHER);
    if (!there)
        return -ENOMEM;
    there->call = *call;
    there->visit = (struct cr__visit){.to = first->worker, .what = cr__net_visited(first), .fn = ask_here, .arg = &there->call, .deadline_ns = deadline_ns, .opens = true};
    ssize_t r = cr__visit_wait(&there->visit);
    cr__mem_free(there, sizeof(*there), CR__MEM_OTHER);
    return r;
}

ssize_t cr__asker_ask(struct cr_net *net, ssize_t (*fn)(struct cr__asker *asker, void *arg), void *arg, int64_t deadline_ns)
{
    struct call call = {CR__CONTAINER(net, struct cr__network, net), fn, arg};
    struct cr__network *network = call.network;
    if (!network->name_servers[0])
        return fn(NULL, arg);
    struct cr__network *first = cr__spread_first(network);
    return cr__net_here(first) ? ask_here(&call) : ask_there(first, &call, deadline_ns);
}
