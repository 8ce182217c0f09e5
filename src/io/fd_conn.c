/* Streams, pipes and files over file descriptors: the operations, and the lent buffers. */
#include "io/io.h"

#include <netinet/in.h>

#include "os/os.h"

#define CONN_CHUNK_BYTES (64u << 10)
#define BUFFER_BYTES (16u << 10)
#define BUFFER_CHUNK_BYTES ((256u << 10) + 64)

struct cr__lent_buffer {
    struct cr__lent_buffer *next; /* of its connection's */
    void *spare;
    char bytes[BUFFER_BYTES - 16];
};
_Static_assert(sizeof(struct cr__lent_buffer) == BUFFER_BYTES, "a slab object");

int cr__io_init(struct cr__worker *worker)
{
    struct cr__io *io = cr__mem_alloc(sizeof(*io), CR__MEM_OTHER);
    if (!io)
        return -ENOMEM;
    cr__slab_init(&io->conns, sizeof(struct cr__fd_conn), CONN_CHUNK_BYTES, CR__MEM_CONNS);
    cr__slab_init(&io->buffers, BUFFER_BYTES, BUFFER_CHUNK_BYTES, CR__MEM_BUFFERS);
    worker->io = io;
    return 0;
}

/* What coroutines that will never run again have left open. */
static void close_left_open(void *object, void *arg)
{
    struct cr__fd_conn *c = object;
    (void)arg;
    if (c->poll.fd >= 0)
        cr__os_close(c->poll.fd);
}

void cr__io_fini(struct cr__worker *worker)
{
    struct cr__io *io = worker->io;
    cr__slab_each(&io->conns, close_left_open, NULL);
    cr__slab_fini(&io->conns);
    cr__slab_fini(&io->buffers);
    cr__mem_free(io, sizeof(*io), CR__MEM_OTHER);
    worker->io = NULL;
}

static struct cr__fd_conn *of(const struct cr_conn *conn)
{
    return CR__CONTAINER(conn, struct cr__fd_conn, conn);
}

int cr__fd_conn_open(struct cr__fd_conn **out, int fd, enum cr__fd_kind kind, const struct cr__conn_ops *ops, unsigned ready)
{
    struct cr__worker *worker = cr__worker_here();
    struct cr__io *io = worker->io;
    struct cr__fd_conn *c = cr__slab_get(&io->conns);
    if (!c)
        return -ENOMEM;
    c->conn.ops = ops;
    c->lent = NULL;
    c->kind = (uint8_t)kind;
    c->scheme = CR__TCP;
    c->unlink_path = false;
    int r = cr__poll_add(worker, &c->poll, fd, ready);
    if (r < 0) {
        c->poll.fd = -1;
        cr__slab_put(&io->conns, c);
        return r;
    }
    *out = c;
    return 0;
}

static void return_all(struct cr__io *io, struct cr__fd_conn *c)
{
    while (c->lent) {
        struct cr__lent_buffer *buffer = c->lent;
        c->lent = buffer->next;
        cr__slab_put(&io->buffers, buffer);
    }
}

void cr__fd_conn_close(struct cr__fd_conn *c)
{
    struct cr__worker *worker = cr__worker_here();
    struct cr__io *io = worker->io;
    cr__poll_remove(worker, &c->poll);
    cr__os_close(c->poll.fd);
    c->poll.fd = -1;
    return_all(io, c);
    cr__slab_put(&io->conns, c);
}

/* ---- Receiving ---------------------------------------------------------------------------------------------- */

/* Whether to try now; if not, waits first. 1: try; or a negative code. */
static inline int may_try(struct cr__fd_conn *c, enum cr__direction direction, int64_t deadline_ns)
{
    if (CR__LIKELY(c->poll.ready & (1u << direction)))
        return 1;
    int r = cr__poll_wait(&c->poll, direction, deadline_ns);
    return r < 0 ? r : 1;
}

/* Whether an attempt's answer is final. If the kernel has nothing, or was interrupted, it is not. */
static inline bool is_final(struct cr__fd_conn *c, enum cr__direction direction, ssize_t n)
{
    if (n == -EAGAIN)
        c->poll.ready &= (uint8_t)~(1u << direction);
    return n != -EAGAIN && n != -EINTR;
}

/* After a receive: TCP that gave less than asked has no more, and will tell (an edge) when it has; not so if the end, or urgent
 * data, is among what it still has to tell. */
static inline void note_received(struct cr__fd_conn *c, ssize_t n, size_t size_bytes)
{
    if (n > 0 && (size_t)n < size_bytes && c->kind == CR__FD_TCP && !(c->poll.ready & CR__READY_END))
        c->poll.ready &= (uint8_t)~CR__READY_IN;
}

static ssize_t stream_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__IN, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = c->kind == CR__FD_OTHER ? cr__os_read(c->poll.fd, buf, size_bytes)
                                            : cr__os_recv(c->poll.fd, buf, size_bytes);
        if (!is_final(c, CR__IN, n))
            continue;
        note_received(c, n, size_bytes);
        cr__breathe(cr__worker_here());
        return n;
    }
}

static ssize_t stream_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__IN, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = cr__os_readv(c->poll.fd, iov, count);
        if (!is_final(c, CR__IN, n))
            continue;
        cr__breathe(cr__worker_here());
        return n;
    }
}

static ssize_t stream_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    *lent = (struct cr_lent){0};
    for (;;) {
        int r = may_try(c, CR__IN, deadline_ns);
        if (r < 0)
            return r;
        struct cr__io *io = cr__io_here();
        struct cr__lent_buffer *buffer = cr__slab_get(&io->buffers);
        if (!buffer)
            return -ENOMEM;
        ssize_t n = c->kind == CR__FD_OTHER ? cr__os_read(c->poll.fd, buffer->bytes, sizeof(buffer->bytes))
                                            : cr__os_recv(c->poll.fd, buffer->bytes, sizeof(buffer->bytes));
        if (n <= 0)
            cr__slab_put(&io->buffers, buffer);
        if (!is_final(c, CR__IN, n))
            continue;
        if (n > 0) {
            note_received(c, n, sizeof(buffer->bytes));
            buffer->next = c->lent;
            c->lent = buffer;
            *lent = (struct cr_lent){buffer->bytes, (size_t)n, buffer};
        }
        cr__breathe(cr__worker_here());
        return n;
    }
}

static void stream_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    struct cr__lent_buffer **link = &of(conn)->lent;
    while (*link != lent->_owner) {
        if (!*link)
            return; /* a copy of what was returned before */
        link = &(*link)->next;
    }
    struct cr__lent_buffer *buffer = *link;
    *link = buffer->next;
    cr__slab_put(&cr__io_here()->buffers, buffer);
}

/* ---- Sending ------------------------------------------------------------------------------------------------ */

static ssize_t stream_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__OUT, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = c->kind == CR__FD_OTHER ? cr__os_write(c->poll.fd, buf, size_bytes)
                                            : cr__os_send(c->poll.fd, buf, size_bytes);
        if (!is_final(c, CR__OUT, n))
            continue;
        cr__breathe(cr__worker_here());
        return n;
    }
}

static ssize_t raw_writev(struct cr__fd_conn *c, const struct iovec *iov, int count)
{
    if (c->kind == CR__FD_OTHER)
        return cr__os_writev(c->poll.fd, iov, count);
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    return cr__os_sendmsg(c->poll.fd, &msg);
}

static ssize_t stream_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__OUT, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = raw_writev(c, iov, count);
        if (!is_final(c, CR__OUT, n))
            continue;
        cr__breathe(cr__worker_here());
        return n;
    }
}

static ssize_t stream_sendfile(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes,
                               int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    if (file->ops != &cr__file_ops)
        return -EINVAL;
    size_t sent = 0;
    while (sent < size_bytes) {
        int r = may_try(c, CR__OUT, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = cr__os_sendfile(c->poll.fd, of(file)->poll.fd, &offset, size_bytes - sent);
        if (!is_final(c, CR__OUT, n))
            continue;
        if (n < 0)
            return n;
        if (n == 0)
            break; /* the file ends here */
        sent += (size_t)n;
    }
    cr__breathe(cr__worker_here());
    return (ssize_t)sent;
}

/* ---- The rest ----------------------------------------------------------------------------------------------- */

/* A direction that was ready may have been emptied by others since: ask the kernel. */
static int stream_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    enum cr__direction direction = to_write ? CR__OUT : CR__IN;
    for (;;) {
        int r = may_try(c, direction, deadline_ns);
        if (r < 0)
            return r;
        if (!c->poll.watched || cr__os_poll_now(c->poll.fd, to_write ? POLLOUT : POLLIN | POLLRDHUP))
            return 0;
        c->poll.ready &= (uint8_t)~(1u << direction);
    }
}

static int stream_close_write(struct cr_conn *conn)
{
    int r = cr__os_shutdown(of(conn)->poll.fd, SHUT_WR);
    return r == -ENOTSOCK ? -EOPNOTSUPP : r;
}

static void stream_close(struct cr_conn *conn, enum cr__how how)
{
    struct cr__fd_conn *c = of(conn);
    if (how == CR__CLOSE_RESET && c->kind == CR__FD_TCP)
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
    return cr__url_format(c->scheme, &addr, buf, size_bytes);
}

static int stream_fd(const struct cr_conn *conn)
{
    return of(conn)->poll.fd;
}

static ssize_t datagram_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from,
                                  int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__IN, deadline_ns);
        if (r < 0)
            return r;
        struct iovec iov = {buf, size_bytes};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (from) {
            msg.msg_name = &from->sa;
            msg.msg_namelen = sizeof(from->sa);
        }
        ssize_t n = cr__os_recvmsg(c->poll.fd, &msg, MSG_TRUNC);
        if (!is_final(c, CR__IN, n))
            continue;
        if (from)
            from->size_bytes = msg.msg_namelen;
        cr__breathe(cr__worker_here());
        return n;
    }
}

static ssize_t datagram_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to,
                                int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    for (;;) {
        int r = may_try(c, CR__OUT, deadline_ns);
        if (r < 0)
            return r;
        struct iovec iov = {(void *)buf, size_bytes};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (to) {
            msg.msg_name = (void *)&to->sa;
            msg.msg_namelen = to->size_bytes;
        }
        ssize_t n = cr__os_sendmsg(c->poll.fd, &msg);
        if (!is_final(c, CR__OUT, n))
            continue;
        cr__breathe(cr__worker_here());
        return n;
    }
}

/* ---- Regular files ------------------------------------------------------------------------------------------ */

static ssize_t file_pread(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t offset)
{
    ssize_t n;
    do
        n = cr__os_pread(of(conn)->poll.fd, buf, size_bytes, offset);
    while (n == -EINTR);
    cr__breathe(cr__worker_here());
    return n;
}

static ssize_t file_pwrite(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t offset)
{
    ssize_t n;
    do
        n = cr__os_pwrite(of(conn)->poll.fd, buf, size_bytes, offset);
    while (n == -EINTR);
    cr__breathe(cr__worker_here());
    return n;
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
};

const struct cr__conn_ops cr__file_ops = {
    .read = stream_read, /* the kernel keeps the position */
    .readv = stream_readv,
    .write = stream_write,
    .writev = stream_writev,
    .recv_lend = stream_recv_lend,
    .recv_return = stream_recv_return,
    .wait = stream_wait,
    .close = stream_close,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .fd = stream_fd,
};

int cr_file_open(struct cr_conn **out, const char *path, int flags, mode_t mode)
{
    struct cr__worker *worker;
    if (!cr__running(&worker))
        return -EPERM;
    int fd = cr__os_open(path, flags, mode);
    if (fd < 0)
        return fd;
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, CR__FD_OTHER, &cr__file_ops, CR__READY_IN | CR__READY_OUT);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    *out = &c->conn;
    return 0;
}

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
    if (!cr__running(&worker))
        return -EPERM;
    enum cr__fd_kind kind;
    enum cr__scheme scheme;
    const struct cr__conn_ops *ops = ops_of_fd(fd, &kind, &scheme);
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, kind, ops, CR__READY_IN | CR__READY_OUT);
    if (r < 0)
        return r;
    c->scheme = (uint8_t)scheme;
    if (!c->poll.watched)
        c->conn.ops = &cr__file_ops; /* the kernel can't poll it: a regular file, or like one */
    else
        cr__os_set_nonblocking(fd);
    *out = &c->conn;
    return 0;
}
