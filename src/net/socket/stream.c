/* TCP for programs: the operations of a connection. Each tries, and waits only where the core has nothing (-EAGAIN), as those over the kernel's sockets do (io/fd_conn.c). Where
 * connections come from: listener.c, dial.c. */
#include "net/socket/socket.h"

#include <string.h>

#define SENDFILE_BYTES ((size_t)64 << 10)

/* A connection that has a user has these operations; of others the slots are none. */
static struct cr__network *network_of(const struct cr__tcp *tcp)
{
    return cr__network_of(tcp->host);
}

/* ---- What the core tells -------------------------------------------------------------------------------------------- */

static void on_event(struct cr__tcp *tcp, unsigned events)
{
    struct cr__network *network = network_of(tcp);
    if (tcp->conn.ops != &cr__tcp_conn_ops)
        return; /* nobody's: it waits to be accepted, and its slots are the core's, or its user has closed it */
    if (events & (CR__TCP_READABLE | CR__TCP_OPENED | CR__TCP_ENDED))
        cr__net_wake(network, &tcp->user[CR__IN]);
    if (events & (CR__TCP_WRITABLE | CR__TCP_OPENED | CR__TCP_ENDED))
        cr__net_wake(network, &tcp->user[CR__OUT]);
}

static void on_accepted(struct cr__tcp_listener *tcp)
{
    struct cr__listening *l = cr__tcp_listener_user(tcp);
    if (l->shared)
        cr__everywhere_arrived(l);
    else
        cr__net_wake(l->network, &l->slot);
}

const struct cr__tcp_above cr__stream_above = {on_event, on_accepted};

/* ---- The one loop of all transfers ---------------------------------------------------------------------------------- */

/* What is received makes room, of which the peer is told at once; or, where no packet was left for that, a timer is armed by which it is tried again: mostly neither. */
static void touched_by_receiving(struct cr__network *network, const struct cr__tcp *tcp)
{
    if (network->host.out.count > 0 || (cr__timer_armed(&tcp->timer) && tcp->timer.deadline_ns < network->service.due_ns))
        cr__net_touched(network);
}

static ssize_t try_once(const struct cr__transfer *t)
{
    struct cr__tcp *tcp = t->of;
    struct cr__network *network = network_of(tcp);
    cr__net_now(network);
    ssize_t n = t->attempt(tcp, t->cargo);
    if (t->direction == CR__OUT)
        cr__net_touched(network);
    else
        touched_by_receiving(network, tcp);
    return n == -ENOBUFS ? -EAGAIN : n; /* no packet was left: there is room when one comes back */
}

static ssize_t transfer_here(const struct cr__transfer *t)
{
    struct cr__tcp *tcp = t->of;
    struct cr__network *network = network_of(tcp);
    void **slot = &tcp->user[t->direction];
    int r = cr__net_breathe(network, slot, t->deadline_ns);
    while (r == 0) {
        if (CR__UNLIKELY(network->closed))
            return -EBADF;
        ssize_t n = try_once(t);
        if (CR__LIKELY(n != -EAGAIN))
            return n;
        r = cr__net_wait(network, slot, t->direction == CR__IN ? CR__WAIT_NET_READABLE : CR__WAIT_NET_WRITABLE, t->deadline_ns);
    }
    if (r != CR__NET_TOO_LATE)
        return r;
    ssize_t n = network->closed ? -EBADF : try_once(t);
    return n == -EAGAIN ? -ETIMEDOUT : n;
}

static ssize_t transfer_there(void *t)
{
    return transfer_here(t);
}

static ssize_t try_readable(void *of, const struct cr__cargo *none);

static CR__NOINLINE ssize_t transfer_by_visit(struct cr__transfer *t)
{
    struct cr__visited what = cr__stream_visited(t->of);
    return cr__transfer_there(&what, t, transfer_there, try_readable);
}

static inline ssize_t transfer(struct cr_conn *conn, enum cr__direction direction, int64_t deadline_ns, ssize_t (*attempt)(void *of, const struct cr__cargo *cargo),
                               const struct cr__cargo *cargo)
{
    struct cr__transfer t = {cr__tcp_of(conn), direction, deadline_ns, attempt, cargo};
    struct cr__network *network = network_of(t.of);
    return CR__LIKELY(cr__net_here(network)) ? transfer_here(&t) : transfer_by_visit(&t);
}

/* ---- Receiving ------------------------------------------------------------------------------------------------------ */

static ssize_t try_readv(void *of, const struct cr__cargo *to)
{
    return cr__tcp_recv(of, to->iov, to->count);
}

static ssize_t tcp_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    if (CR__UNLIKELY(!cr__net_iov_good(count)))
        return -EINVAL; /* readv(2)'s word, -EMSGSIZE is sendmsg(2)'s */
    return transfer(conn, CR__IN, deadline_ns, try_readv, &(struct cr__cargo){.iov = iov, .count = count});
}

static ssize_t tcp_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return tcp_readv(conn, &(struct iovec){buf, size_bytes}, 1, deadline_ns);
}

/* Into the connection's list of what is lent, by which it comes back when that is closed. */
static void note_lent(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__borrowed *borrowed = cr__borrowed_of(packet);
    borrowed->by = tcp;
    borrowed->prev = NULL;
    borrowed->next = tcp->lent;
    if (tcp->lent)
        cr__borrowed_of(tcp->lent)->prev = packet;
    tcp->lent = packet;
}

static void take_back(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__borrowed *borrowed = cr__borrowed_of(packet);
    if (borrowed->prev)
        cr__borrowed_of(borrowed->prev)->next = borrowed->next;
    else
        tcp->lent = borrowed->next;
    if (borrowed->next)
        cr__borrowed_of(borrowed->next)->prev = borrowed->prev;
    cr__tcp_recv_return(tcp, packet);
}

static ssize_t try_recv_lend(void *of, const struct cr__cargo *to)
{
    struct cr_packet *packet;
    ssize_t n = cr__tcp_recv_lend(of, &packet);
    if (n > 0) {
        note_lent(of, packet);
        *to->lent = (struct cr_lent){(char *)packet->data, (size_t)n, packet};
    }
    return n;
}

static ssize_t tcp_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    *lent = (struct cr_lent){0};
    return transfer(conn, CR__IN, deadline_ns, try_recv_lend, &(struct cr__cargo){.lent = lent});
}

static void return_here(struct cr__tcp *tcp, struct cr_packet *packet)
{
    struct cr__network *network = network_of(tcp);
    cr__net_now(network);
    take_back(tcp, packet);
    touched_by_receiving(network, tcp);
}

static void return_errand(void *thing)
{
    struct cr_packet *packet = thing;
    struct cr__tcp *tcp = cr__borrowed_of(packet)->by;
    struct cr__visited what = cr__stream_visited(tcp);
    return_here(tcp, packet);
    cr__visits_leave(&what);
}

const struct cr__errand_kind cr__stream_returns = {offsetof(struct cr_packet, next), return_errand};

/* Of a connection that is closed meanwhile what is lent comes back when nobody is under way any more. */
static void tcp_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    struct cr__tcp *tcp = cr__tcp_of(conn);
    if (CR__LIKELY(cr__worker_here() == network_of(tcp)->worker)) {
        return_here(tcp, lent->_owner);
        return;
    }
    struct cr__visited what = cr__stream_visited(tcp);
    cr__visits_hold(&what);
    cr__errand(what.network, CR__STREAM_RETURN, lent->_owner);
}

/* ---- Sending -------------------------------------------------------------------------------------------------------- */

static ssize_t try_writev(void *of, const struct cr__cargo *from)
{
    return cr__tcp_send(of, from->iov, from->count, from->more);
}

static ssize_t tcp_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    if (CR__UNLIKELY(!cr__net_iov_good(count)))
        return -EMSGSIZE;
    return transfer(conn, CR__OUT, deadline_ns, try_writev, &(struct cr__cargo){.iov = iov, .count = count});
}

static ssize_t tcp_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return tcp_writev(conn, &(struct iovec){(void *)buf, size_bytes}, 1, deadline_ns);
}

/* Between file and packets, a piece after the other. The connection may be closed while the file is waited for. */
struct piece {
    struct cr__slot_hold hold;
    char bytes[SENDFILE_BYTES];
};

static ssize_t read_piece(struct cr__tcp *tcp, struct piece *piece, struct cr_conn *file, int64_t offset, size_t size_bytes)
{
    bool here = cr__net_here(network_of(tcp)); /* elsewhere the slot is not ours to look at, and whether it is closed the visit says that sends the piece */
    if (here && tcp->user[CR__OUT])
        return -EBUSY;
    if (here)
        cr__net_hold(&tcp->user[CR__OUT], &piece->hold);
    ssize_t n = file->ops->pread(file, piece->bytes, size_bytes < SENDFILE_BYTES ? size_bytes : SENDFILE_BYTES, offset);
    if (here && piece->hold.gone)
        return -EBADF;
    if (here)
        tcp->user[CR__OUT] = NULL;
    return n;
}

/* The last one may be empty: there is no more after all. */
static ssize_t send_piece(struct cr_conn *conn, char *bytes, size_t size_bytes, bool more, int64_t deadline_ns)
{
    size_t sent = 0;
    do {
        struct iovec iov = {bytes + sent, size_bytes - sent};
        ssize_t n = transfer(conn, CR__OUT, deadline_ns, try_writev, &(struct cr__cargo){.iov = &iov, .count = 1, .more = more});
        if (n < 0)
            return n;
        sent += (size_t)n;
    } while (sent < size_bytes);
    return 0;
}

static ssize_t send_pieces(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes, int64_t deadline_ns)
{
    struct piece *piece = cr__mem_alloc(sizeof(*piece), CR__MEM_BUFFERS);
    size_t done = 0;
    ssize_t n = piece ? 1 : -ENOMEM;
    while (n > 0 && done < size_bytes) {
        n = read_piece(cr__tcp_of(conn), piece, file, offset + (int64_t)done, size_bytes - done);
        if (n < 0 || done + (size_t)n == 0)
            break;
        done += (size_t)n; /* 0: the file ends here */
        int r = (int)send_piece(conn, piece->bytes, (size_t)n, n > 0 && done < size_bytes, deadline_ns);
        n = r < 0 ? r : n;
    }
    cr__mem_free(piece, sizeof(*piece), CR__MEM_BUFFERS);
    return n < 0 ? n : (ssize_t)done;
}

/* The file is read here, wherever that is. */
static ssize_t tcp_sendfile(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes, int64_t deadline_ns)
{
    struct cr__visited what = cr__stream_visited(cr__tcp_of(conn));
    bool here = cr__net_here(what.network); /* and will be when it has waited */
    if (!file->ops->pread)
        return -EINVAL;
    if (!here)
        cr__visits_hold(&what);
    ssize_t n = send_pieces(conn, file, offset, size_bytes, deadline_ns);
    if (!here)
        cr__visits_drop(&what);
    return n;
}

/* ---- Waiting, closing, names ---------------------------------------------------------------------------------------- */

static ssize_t try_readable(void *of, const struct cr__cargo *none)
{
    const struct cr__tcp *tcp = of;
    (void)none;
    return cr__tcp_readable(tcp) || tcp->state == CR__TCP_CLOSED ? 0 : -EAGAIN;
}

static ssize_t try_writable(void *of, const struct cr__cargo *none)
{
    struct cr__tcp *tcp = of;
    (void)none;
    if (cr__tcp_send_room(tcp) > 0 || tcp->state == CR__TCP_CLOSED || (tcp->flags & CR__TCP_FIN_QUEUED))
        return 0;
    tcp->flags |= CR__TCP_WANTS_ROOM;
    return -EAGAIN;
}

bool cr__stream_ready(struct cr__tcp *tcp, bool to_write)
{
    if (tcp->state == CR__TCP_SYN_SENT || tcp->state == CR__TCP_SYN_RECEIVED)
        return false;
    return (to_write ? try_writable : try_readable)(tcp, NULL) == 0;
}

static int tcp_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    return (int)transfer(conn, to_write ? CR__OUT : CR__IN, deadline_ns, to_write ? try_writable : try_readable, &(struct cr__cargo){0});
}

static ssize_t close_write_here(void *arg)
{
    struct cr__tcp *tcp = arg;
    struct cr__network *network = network_of(tcp);
    if (network->closed)
        return -EBADF;
    cr__net_now(network);
    int r = cr__tcp_shutdown(tcp);
    cr__net_touched(network);
    return r;
}

/* In a task elsewhere it is said that it will be done: a task does not wait for what is no leaf. */
static int tcp_close_write(struct cr_conn *conn)
{
    struct cr__tcp *tcp = cr__tcp_of(conn);
    struct cr__visited what = cr__stream_visited(tcp);
    struct cr__worker *w;
    if (CR__LIKELY(cr__net_here(what.network)))
        return (int)close_write_here(tcp);
    return (int)(cr__running(&w) ? cr__visit_at(&what, close_write_here, tcp) : cr__visit_unawaited(&what, close_write_here, tcp));
}

/* The core's part of closing, when nobody is under way to it any more: after this tcp may be gone. user[0]: whether with a reset. */
static void part_with(void *thing)
{
    struct cr__tcp *tcp = thing;
    struct cr__network *network = network_of(tcp);
    cr__net_now(network);
    while (tcp->lent)
        take_back(tcp, tcp->lent);
    if (!tcp->user[0] && !network->closed)
        cr__tcp_close(tcp);
    else
        cr__tcp_abort(tcp);
    cr__net_touched(network);
    cr__net_put(network);
}

struct cr__visited cr__stream_visited(struct cr__tcp *tcp)
{
    return (struct cr__visited){network_of(tcp), &tcp->visits, part_with, CR__STREAM_CLOSE, tcp};
}

static void close_here(struct cr__tcp *tcp, enum cr__how how)
{
    struct cr__network *network = network_of(tcp);
    bool alone = cr__visits_closed(&tcp->visits); /* before anything is changed that who has come meanwhile has looked at */
    cr__net_evict(network, &tcp->user[CR__IN]);
    cr__net_evict(network, &tcp->user[CR__OUT]);
    tcp->conn.ops = NULL;
    tcp->user[0] = how == CR__CLOSE_RESET ? tcp : NULL;
    if (CR__LIKELY(alone))
        part_with(tcp);
}

static void close_errand(void *thing)
{
    struct cr__tcp *tcp = thing;
    if (cr__visits_are_over(&tcp->visits))
        part_with(tcp);
    else
        close_here(tcp, CR__CLOSE);
}

static void reset_errand(void *thing)
{
    close_here(thing, CR__CLOSE_RESET);
}

const struct cr__errand_kind cr__stream_closes = {offsetof(struct cr__tcp, errand), close_errand}, cr__stream_resets = {offsetof(struct cr__tcp, errand), reset_errand};

/* It does not suspend, so elsewhere it is done a bit later. */
static void tcp_close(struct cr_conn *conn, enum cr__how how)
{
    struct cr__tcp *tcp = cr__tcp_of(conn);
    struct cr__network *network = network_of(tcp);
    if (CR__LIKELY(cr__worker_here() == network->worker))
        close_here(tcp, how);
    else
        cr__errand(network, how == CR__CLOSE_RESET ? CR__STREAM_RESET : CR__STREAM_CLOSE, tcp);
}

/* What it looks at does not change while the connection is open. */
static int tcp_url(const struct cr_conn *conn, enum cr__side side, char *buf, size_t size_bytes)
{
    const struct cr__tcp *tcp = cr__tcp_of(conn);
    struct cr_addr addr;
    if (side == CR__LOCAL)
        cr__ip_to_addr(&tcp->host->config.addresses[tcp->local].ip, tcp->local_port, &addr);
    else
        cr__ip_to_addr(&tcp->peer, tcp->peer_port, &addr);
    return cr__url_format(CR__TCP, &addr, buf, size_bytes);
}

const struct cr__conn_ops cr__tcp_conn_ops = {
    .read = tcp_read,
    .readv = tcp_readv,
    .write = tcp_write,
    .writev = tcp_writev,
    .sendfile = tcp_sendfile,
    .recv_lend = tcp_recv_lend,
    .recv_return = tcp_recv_return,
    .wait = tcp_wait,
    .close_write = tcp_close_write,
    .close = tcp_close,
    .url = tcp_url,
    .for_tasks = true,
};

/* What its user has a say in: for listener.c and dial.c. */
struct cr__tcp_opts cr__stream_opts(const struct cr_conn_opts *opts)
{
    return (struct cr__tcp_opts){
        .send_limit_bytes = (uint32_t)opts->send_buffer_bytes,
        .recv_limit_bytes = (uint32_t)opts->recv_buffer_bytes,
        .nagle = (opts->flags & CR_NAGLE) != 0,
        .keepalive = opts->keepalive_ms > 0,
        .keepalive_ms = (uint32_t)opts->keepalive_ms,
        .user_timeout_ms = (uint32_t)opts->user_timeout_ms,
        .backlog = opts->backlog,
        .shares = (opts->flags & CR_REUSE_PORT) != 0,
    };
}

/* ---- The network's end ---------------------------------------------------------------------------------------------- */

static void say_reset(struct cr__tcp *tcp, void *arg)
{
    struct cr__network *network = arg;
    if (tcp->state > CR__TCP_SYN_SENT && tcp->state < CR__TCP_TIME_WAIT)
        cr__tcp_send_empty(tcp, CR__RST | CR__ACK, tcp->snd_nxt);
    cr__net_touched(network); /* there may be more of them than wait for the link */
    for (int d = CR__IN; d <= CR__OUT && tcp->conn.ops == &cr__tcp_conn_ops; d++)
        cr__net_wake_with(network, &tcp->user[d], CR__CLOSED); /* he stays in his slot, which stays: he leaves it when he goes on */
}

static void drop_lent(struct cr__tcp *tcp, void *network)
{
    for (struct cr_packet *packet = tcp->lent, *next; packet; packet = next) {
        next = cr__borrowed_of(packet)->next;
        cr__packet_put(((struct cr__network *)network)->host.packets, packet);
    }
}

/* The network is freed, its users gone: what they have left. */
void cr__stream_drop_all(struct cr__network *network)
{
    cr__tcp_each(&network->host, drop_lent, network);
    for (struct cr__listening *l = network->listeners, *next; l; l = next) {
        next = l->next;
        if (l->shared)
            cr__everywhere_gone(l);
        cr__mem_free(l, sizeof(*l), CR__MEM_CONNS);
    }
}

void cr__stream_close_all(struct cr__network *network)
{
    cr__tcp_each(&network->host, say_reset, network);
    for (struct cr__listening *l = network->listeners; l; l = l->next) {
        if (l->slot)
            cr__wake(network->worker, l->slot, CR__CLOSED);
    }
}
