/* Streams and pipes over file descriptors: the operations. (Files: file.c.) */
#include "io/io.h"

#include <netinet/in.h>

#include "os/os.h"

static void release(struct cr__worker *worker, struct cr__pollable *p)
{
    p->fd = -1;
    cr__slab_put(&((struct cr__io *)worker->io)->conns, CR__CONTAINER(p, struct cr__fd_conn, poll));
}

int cr__io_init(struct cr__worker *worker)
{
    struct cr__io *io = cr__mem_alloc(sizeof(*io), CR__MEM_OTHER);
    if (!io)
        return -ENOMEM;
    cr__slab_init(&io->conns, sizeof(struct cr__fd_conn), CR__MEM_CONNS);
    cr__worker_keeps(worker, &io->conns);
    cr__poll_releases(worker, release);
    worker->io = io;
    return 0;
}

/* What coroutines that will never run again have left open. */
static void close_left_open(void *object, void *arg)
{
    struct cr__fd_conn *c = object;
    if (c->poll.fd >= 0) {
        cr__ahead_drop(arg, &c->poll);
        cr__os_close(c->poll.fd);
    }
}

void cr__io_fini(struct cr__worker *worker)
{
    struct cr__io *io = worker->io;
    cr__slab_each(&io->conns, close_left_open, worker);
    cr__slab_fini(&io->conns);
    cr__mem_free(io, sizeof(*io), CR__MEM_OTHER);
    worker->io = NULL;
}

static struct cr__fd_conn *of(const struct cr_conn *conn)
{
    return CR__CONTAINER(conn, struct cr__fd_conn, conn);
}

int cr__fd_conn_open(struct cr__fd_conn **out, int fd, enum cr__fd_kind kind, const struct cr__conn_ops *ops, bool in, bool out_ready)
{
    struct cr__fd_conn *c = cr__slab_get(&cr__io_here()->conns);
    if (!c)
        return -ENOMEM;
    c->conn.ops = ops;
    cr__poll_add(&c->poll, fd, in, out_ready);
    c->poll.kind = (uint8_t)kind;
    c->poll.scheme = CR__TCP;
    c->poll.unlink_path = false;
    *out = c;
    return 0;
}

/* Of one that was never registered: the fd stays open. */
static void forget(struct cr__fd_conn *c)
{
    c->poll.fd = -1;
    cr__slab_put(&cr__io_here()->conns, c);
}

void cr__fd_conn_close(struct cr__fd_conn *c)
{
    cr__poll_close(cr__worker_here(), &c->poll);
}

/* ---- The one loop of all transfers -------------------------------------------------------------------------- */

int cr__fd_breathe(struct cr__fd_conn *c, int64_t deadline_ns)
{
    struct cr__worker *worker = cr__worker_here();
    if (CR__LIKELY(--worker->io_budget > 0) || deadline_ns <= worker->now_ns)
        return 0;
    uint16_t generation = atomic_load_explicit(&c->poll.generation, memory_order_relaxed);
    cr_yield();
    return atomic_load_explicit(&c->poll.generation, memory_order_relaxed) == generation ? 0 : -EBADF;
}

ssize_t cr__transfer(struct cr__fd_conn *c, enum cr__direction direction, int64_t deadline_ns,
                     ssize_t (*attempt)(struct cr__fd_conn *c, void *arg), void *arg)
{
    int r = cr__fd_breathe(c, deadline_ns);
    while (r == 0) {
        if (!cr__poll_try(&c->poll, direction)) {
            r = cr__poll_wait(&c->poll, direction, deadline_ns);
            if (r < 0 && r != -ETIMEDOUT)
                break;
            if (CR__UNLIKELY(r < 0) && direction == CR__IN)
                cr__ahead_fetch(cr__worker_here(), &c->poll);
            cr__poll_try(&c->poll, direction);
        }
        ssize_t n;
        do
            n = attempt(c, arg);
        while (n == -EINTR);
        if (n != -EAGAIN)
            return n;
        cr__poll_drained(&c->poll, direction);
    }
    return r;
}

/* The result of a call that has no way to say that it wants no SIGPIPE: takes the blocked signal back. */
static ssize_t without_sigpipe(ssize_t n)
{
    if (CR__UNLIKELY(n == -EPIPE))
        cr__os_take_sigpipe();
    return n;
}

/* ---- Receiving ---------------------------------------------------------------------------------------------- */

struct bytes {
    void *at;
    size_t size_bytes;
    int64_t deadline_ns;
};

static inline ssize_t receive(struct cr__fd_conn *c, void *buf, size_t size_bytes)
{
    cr__io_hold(buf);
    ssize_t n = c->poll.kind == CR__FD_OTHER ? cr__os_read(c->poll.fd, buf, size_bytes) : cr__os_recv(c->poll.fd, buf, size_bytes);
    cr__io_let_go(buf);
    /* TCP that gave less than asked has no more, and will tell (an edge) when it has; not so if the end, or urgent data, is among what it
     * still has to tell */
    if (n > 0 && (size_t)n < size_bytes && c->poll.kind == CR__FD_TCP &&
        !atomic_load_explicit(&c->poll.end, memory_order_relaxed))
        cr__poll_drained(&c->poll, CR__IN);
    return n;
}

static ssize_t try_read(struct cr__fd_conn *c, void *arg)
{
    struct bytes *to = arg;
    if (c->poll.ahead) {
        ssize_t n = cr__ahead_read(cr__worker_here(), &c->poll, &(struct iovec){to->at, to->size_bytes}, 1);
        if (n != 0)
            return n;
    }
    return receive(c, to->at, to->size_bytes);
}

/* Who receives may have it done ahead. */
static struct cr__fd_conn *receiver(struct cr_conn *conn)
{
    struct cr__fd_conn *c = of(conn);
    c->poll.wanted = true;
    return c;
}

static ssize_t stream_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return cr__transfer(receiver(conn), CR__IN, deadline_ns, try_read, &(struct bytes){buf, size_bytes, deadline_ns});
}

struct vector {
    const struct iovec *iov;
    int count;
};

static ssize_t try_readv(struct cr__fd_conn *c, void *arg)
{
    struct vector *to = arg;
    if (c->poll.ahead) {
        ssize_t n = cr__ahead_read(cr__worker_here(), &c->poll, to->iov, to->count);
        if (n != 0)
            return n;
    }
    cr__io_hold_all(to->iov, to->count);
    ssize_t n = cr__os_readv(c->poll.fd, to->iov, to->count);
    cr__io_let_go_all(to->iov, to->count);
    return n;
}

static ssize_t stream_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    return cr__transfer(receiver(conn), CR__IN, deadline_ns, try_readv, &(struct vector){iov, count});
}

static ssize_t lend(struct cr_lent *lent, struct cr__buffer *buffer, ssize_t n)
{
    *lent = (struct cr_lent){buffer->bytes + buffer->at, (size_t)n, buffer};
    return n;
}

static ssize_t try_recv_lend(struct cr__fd_conn *c, void *arg)
{
    struct cr__worker *worker = cr__worker_here();
    struct cr__buffer *buffer;
    if (c->poll.ahead) {
        ssize_t n = cr__ahead_take(worker, &c->poll, &buffer);
        if (n != 0)
            return n > 0 ? lend(arg, buffer, n) : n;
    }
    buffer = cr__lent_get(worker);
    if (!buffer)
        return -ENOMEM;
    ssize_t n = receive(c, buffer->bytes, CR__BUFFER_BYTES);
    if (n <= 0) {
        cr__lent_put(worker, buffer);
        return n;
    }
    buffer->at = 0;
    cr__lent_add(worker, &c->poll, buffer);
    return lend(arg, buffer, n);
}

static ssize_t stream_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    *lent = (struct cr_lent){0};
    return cr__transfer(receiver(conn), CR__IN, deadline_ns, try_recv_lend, lent);
}

static void stream_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    cr__lent_return(cr__worker_here(), &of(conn)->poll, lent->_owner);
}

/* ---- Sending ------------------------------------------------------------------------------------------------ */

static ssize_t write_once(struct cr__fd_conn *c, const struct bytes *from)
{
    if (c->poll.ahead && from->deadline_ns > cr__worker_here()->now_ns) { /* else it is a try, which must not suspend */
        ssize_t n = cr__poll_send(&c->poll, from->at, from->size_bytes);
        if (n != -EOPNOTSUPP)
            return n;
    }
    return c->poll.kind == CR__FD_OTHER ? without_sigpipe(cr__os_write(c->poll.fd, from->at, from->size_bytes))
                                        : cr__os_send(c->poll.fd, from->at, from->size_bytes);
}

static ssize_t try_write(struct cr__fd_conn *c, void *arg)
{
    struct bytes *from = arg;
    cr__io_hold(from->at);
    ssize_t n = write_once(c, from);
    cr__io_let_go(from->at);
    return n;
}

static ssize_t stream_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return cr__transfer(of(conn), CR__OUT, deadline_ns, try_write, &(struct bytes){(void *)buf, size_bytes, deadline_ns});
}

static ssize_t writev_once(struct cr__fd_conn *c, const struct vector *from)
{
    if (c->poll.kind == CR__FD_OTHER)
        return without_sigpipe(cr__os_writev(c->poll.fd, from->iov, from->count));
    struct msghdr msg = {.msg_iov = (struct iovec *)from->iov, .msg_iovlen = (size_t)from->count};
    return cr__os_sendmsg(c->poll.fd, &msg);
}

static ssize_t try_writev(struct cr__fd_conn *c, void *arg)
{
    struct vector *from = arg;
    cr__io_hold_all(from->iov, from->count);
    ssize_t n = writev_once(c, from);
    cr__io_let_go_all(from->iov, from->count);
    return n;
}

static ssize_t stream_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    return cr__transfer(of(conn), CR__OUT, deadline_ns, try_writev, &(struct vector){iov, count});
}

struct piece {
    const struct cr__fd_conn *file;
    uint16_t generation; /* of the file, when the transfer began */
    int64_t offset;
    size_t size_bytes;
};

static ssize_t try_sendfile(struct cr__fd_conn *c, void *arg)
{
    struct piece *piece = arg;
    if (piece->file->poll.generation != piece->generation)
        return -EBADF; /* closed meanwhile */
    return without_sigpipe(cr__os_sendfile(c->poll.fd, piece->file->poll.fd, &piece->offset, piece->size_bytes));
}

static ssize_t stream_sendfile(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes,
                               int64_t deadline_ns)
{
    if (file->ops != &cr__file_ops)
        return -EINVAL;
    struct piece rest = {of(file), of(file)->poll.generation, offset, size_bytes};
    while (rest.size_bytes > 0) {
        ssize_t n = cr__transfer(of(conn), CR__OUT, deadline_ns, try_sendfile, &rest);
        if (n < 0)
            return n;
        if (n == 0)
            break; /* the file ends here */
        rest.size_bytes -= (size_t)n;
    }
    return (ssize_t)(size_bytes - rest.size_bytes);
}

/* ---- The rest ----------------------------------------------------------------------------------------------- */

/* A direction that was ready may have been emptied by others since: asks the kernel. */
static ssize_t try_nothing(struct cr__fd_conn *c, void *arg)
{
    short *events = arg;
    if (c->poll.ahead && (*events & POLLIN)) {
        int r = cr__ahead_look(cr__worker_here(), &c->poll);
        if (r != 0)
            return r > 0 ? 0 : r;
    }
    return cr__poll_unpollable(&c->poll) || cr__os_poll_now(c->poll.fd, *events) ? 0 : -EAGAIN;
}

static int stream_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    short events = to_write ? POLLOUT : POLLIN | POLLRDHUP;
    return (int)cr__transfer(of(conn), to_write ? CR__OUT : CR__IN, deadline_ns, try_nothing, &events);
}

static int stream_close_write(struct cr_conn *conn)
{
    int r = cr__os_shutdown(of(conn)->poll.fd, SHUT_WR);
    return r == -ENOTSOCK ? -EOPNOTSUPP : r;
}

static void stream_close(struct cr_conn *conn, enum cr__how how)
{
    struct cr__fd_conn *c = of(conn);
    /* the kernel resets, too, who closes without having read all; it doesn't know of what has been received ahead */
    if (c->poll.kind == CR__FD_TCP && (how == CR__CLOSE_RESET || (c->poll.ahead && cr__ahead_look(cr__worker_here(), &c->poll) == 1)))
        cr__os_linger_none(c->poll.fd);
    cr__fd_conn_close(c);
}

static int stream_url(const struct cr_conn *conn, enum cr__side side, char *buf, size_t size_bytes)
{
    const struct cr__fd_conn *c = of(conn);
    struct cr_addr addr = {.size_bytes = sizeof(addr.sa)};
    int r = side == CR__LOCAL ? cr__os_sockname(c->poll.fd, (struct sockaddr *)&addr.sa, &addr.size_bytes)
                              : cr__os_peername(c->poll.fd, (struct sockaddr *)&addr.sa, &addr.size_bytes);
    if (r < 0)
        return r == -ENOTSOCK ? -EOPNOTSUPP : r;
    return cr__url_format(c->poll.scheme, &addr, buf, size_bytes);
}

static int stream_fd(const struct cr_conn *conn)
{
    return of(conn)->poll.fd;
}

struct datagram {
    struct iovec iov;
    struct cr_addr *from;
    const struct cr_addr *to;
};

static ssize_t try_recv_from(struct cr__fd_conn *c, void *arg)
{
    struct datagram *d = arg;
    struct msghdr msg = {.msg_iov = &d->iov, .msg_iovlen = 1};
    if (d->from) {
        msg.msg_name = &d->from->sa;
        msg.msg_namelen = sizeof(d->from->sa);
    }
    cr__io_hold(d->iov.iov_base);
    cr__io_hold(d->from);
    ssize_t n = cr__os_recvmsg(c->poll.fd, &msg, MSG_TRUNC);
    cr__io_let_go(d->from);
    cr__io_let_go(d->iov.iov_base);
    if (n >= 0 && d->from)
        d->from->size_bytes = msg.msg_namelen;
    return n;
}

static ssize_t datagram_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from,
                                  int64_t deadline_ns)
{
    return cr__transfer(of(conn), CR__IN, deadline_ns, try_recv_from, &(struct datagram){.iov = {buf, size_bytes}, .from = from});
}

static ssize_t try_send_to(struct cr__fd_conn *c, void *arg)
{
    struct datagram *d = arg;
    struct msghdr msg = {.msg_iov = &d->iov, .msg_iovlen = 1};
    if (d->to) {
        msg.msg_name = (void *)&d->to->sa;
        msg.msg_namelen = d->to->size_bytes;
    }
    cr__io_hold(d->iov.iov_base);
    cr__io_hold(d->to);
    ssize_t n = cr__os_sendmsg(c->poll.fd, &msg);
    cr__io_let_go(d->to);
    cr__io_let_go(d->iov.iov_base);
    return n;
}

static ssize_t datagram_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to,
                                int64_t deadline_ns)
{
    return cr__transfer(of(conn), CR__OUT, deadline_ns, try_send_to, &(struct datagram){.iov = {(void *)buf, size_bytes}, .to = to});
}

const struct cr__conn_ops cr__stream_ops = {
    .read = stream_read,
    .readv = stream_readv,
    .write = stream_write,
    .writev = stream_writev,
    .sendfile = stream_sendfile,
    .recv_lend = stream_recv_lend,
    .recv_return = stream_recv_return,
    .wait = stream_wait,
    .close_write = stream_close_write,
    .close = stream_close,
    .url = stream_url,
    .fd = stream_fd,
    .for_tasks = true,
};

const struct cr__conn_ops cr__datagram_ops = {
    .read = stream_read,
    .readv = stream_readv,
    .write = stream_write,
    .writev = stream_writev,
    .recv_lend = stream_recv_lend,
    .recv_return = stream_recv_return,
    .recv_from = datagram_recv_from,
    .send_to = datagram_send_to,
    .wait = stream_wait,
    .close = stream_close,
    .url = stream_url,
    .fd = stream_fd,
    .for_tasks = true,
};

/* What kind of thing a foreign fd is. */
static const struct cr__conn_ops *ops_of_fd(int fd, enum cr__fd_kind *kind, enum cr__scheme *scheme)
{
    int type, protocol, domain;
    *scheme = CR__TCP;
    if (cr__os_sockopt_get(fd, SOL_SOCKET, SO_TYPE, &type) < 0) {
        *kind = CR__FD_OTHER;
        return &cr__stream_ops;
    }
    *kind = CR__FD_SOCKET;
    if (cr__os_sockopt_get(fd, SOL_SOCKET, SO_DOMAIN, &domain) == 0 && domain == AF_UNIX)
        *scheme = CR__UNIX;
    if (type != SOCK_STREAM) {
        if (*scheme != CR__UNIX)
            *scheme = CR__UDP;
        return &cr__datagram_ops;
    }
    if (cr__os_sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, &protocol) == 0 && protocol == IPPROTO_TCP)
        *kind = CR__FD_TCP;
    return &cr__stream_ops;
}

int cr_conn_from_fd(struct cr_conn **out, int fd)
{
    struct cr__worker *worker;
    if (!cr__acting(&worker))
        return -EPERM;
    enum cr__fd_kind kind;
    enum cr__scheme scheme;
    const struct cr__conn_ops *ops = ops_of_fd(fd, &kind, &scheme);
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, kind, ops, true, true);
    if (r < 0)
        return r;
    r = cr__poll_register(worker, &c->poll);
    if (r < 0) {
        forget(c);
        return r;
    }
    c->poll.scheme = (uint8_t)scheme;
    if (cr__poll_unpollable(&c->poll))
        c->conn.ops = &cr__file_ops; /* the kernel can't poll it: a regular file, or like one */
    else
        cr__os_set_nonblocking(fd);
    *out = &c->conn;
    return 0;
}
