/* The public calls on connections: each checks that it runs in a coroutine and hands over to the provider. What the
 * providers have in common (write_all) is here as well. */
#include "conn/conn.h"

#include <stdatomic.h>

#include "sched/budget.h"

static struct cr_net *_Atomic default_net; /* each runtime sets the same */

void cr__conn_default_net(struct cr_net *net)
{
    atomic_store_explicit(&default_net, net, memory_order_relaxed);
}

static bool in_coroutine(void)
{
    struct cr__worker *worker;
    return cr__running(&worker) != NULL;
}

static const struct cr_conn_opts no_opts;

/* Finds the network and takes the URL apart. */
static int prepare(const char *text, const struct cr_conn_opts **opts, struct cr__url *url, struct cr_net **net)
{
    if (!in_coroutine())
        return -EPERM;
    if (!*opts)
        *opts = &no_opts;
    if ((*opts)->flags & CR__OWN_FLAGS)
        return -EINVAL;
    *net = (*opts)->net ? (*opts)->net : atomic_load_explicit(&default_net, memory_order_relaxed);
    return cr__url_parse(url, text);
}

int cr_listen_until(struct cr_listener **out, const char *text, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__url url;
    struct cr_net *net;
    int r = prepare(text, &opts, &url, &net);
    return r < 0 ? r : net->ops->listen(net, out, &url, opts, deadline_ns);
}

int cr__listen(struct cr_listener **out, const char *text, const struct cr_conn_opts *opts, unsigned own_flags)
{
    struct cr__url url;
    struct cr_net *net;
    int r = prepare(text, &opts, &url, &net);
    if (r < 0)
        return r;
    struct cr_conn_opts with = *opts;
    with.flags |= own_flags;
    return net->ops->listen(net, out, &url, &with, CR_FOREVER);
}

int cr_listen(struct cr_listener **out, const char *text, const struct cr_conn_opts *opts)
{
    return cr_listen_until(out, text, opts, CR_FOREVER);
}

int cr_dial_until(struct cr_conn **out, const char *text, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__url url;
    struct cr_net *net;
    int r = prepare(text, &opts, &url, &net);
    return r < 0 ? r : net->ops->dial(net, out, &url, opts, deadline_ns);
}

int cr_dial(struct cr_conn **out, const char *text, const struct cr_conn_opts *opts)
{
    return cr_dial_until(out, text, opts, CR_FOREVER);
}

int cr_bind_until(struct cr_conn **out, const char *text, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__url url;
    struct cr_net *net;
    int r = prepare(text, &opts, &url, &net);
    return r < 0 ? r : net->ops->bind(net, out, &url, opts, deadline_ns);
}

int cr_bind(struct cr_conn **out, const char *text, const struct cr_conn_opts *opts)
{
    return cr_bind_until(out, text, opts, CR_FOREVER);
}

int cr_accept_until(struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    return cr__budget_reached(w) ? -ENOMEM : l->ops->accept(l, out, deadline_ns);
}

int cr_accept(struct cr_listener *l, struct cr_conn **out)
{
    return cr_accept_until(l, out, CR_FOREVER);
}

void cr_listener_close(struct cr_listener *l)
{
    if (l && cr__worker_here())
        l->ops->close(l);
}

int cr_listener_url(const struct cr_listener *l, char *buf, size_t size_bytes)
{
    return l->ops->url(l, buf, size_bytes);
}

/* In a checked build: the list, and all buffers. */
#ifdef CR__CHECKED
static void check_vector_handed(const struct iovec *iov, int iov_count, const char *call)
{
    cr__check_handed(iov, call);
    for (int i = 0; i < iov_count; i++)
        cr__check_handed(iov[i].iov_base, call);
}
#define cr__handed_vector(iov, iov_count) check_vector_handed(iov, iov_count, __func__)
#else
#define cr__handed_vector(iov, iov_count) ((void)0)
#endif

/* The provider's operation, or why it can't be called. */
#define CALL(conn, op, ...) \
    (!in_coroutine() ? -EPERM : CR__UNLIKELY(!(conn)->ops->op) ? -EOPNOTSUPP : (conn)->ops->op(conn, __VA_ARGS__))

ssize_t cr_read_until(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    cr__handed(buf);
    return CALL(conn, read, buf, size_bytes, deadline_ns);
}

ssize_t cr_read(struct cr_conn *conn, void *buf, size_t size_bytes)
{
    cr__handed(buf);
    return cr_read_until(conn, buf, size_bytes, CR_FOREVER);
}

ssize_t cr_readv_until(struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns)
{
    cr__handed_vector(iov, iov_count);
    return CALL(conn, readv, iov, iov_count, deadline_ns);
}

ssize_t cr_readv(struct cr_conn *conn, const struct iovec *iov, int iov_count)
{
    cr__handed_vector(iov, iov_count);
    return cr_readv_until(conn, iov, iov_count, CR_FOREVER);
}

ssize_t cr_write_until(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    cr__handed(buf);
    return CALL(conn, write, buf, size_bytes, deadline_ns);
}

ssize_t cr_write(struct cr_conn *conn, const void *buf, size_t size_bytes)
{
    cr__handed(buf);
    return cr_write_until(conn, buf, size_bytes, CR_FOREVER);
}

ssize_t cr_writev_until(struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns)
{
    cr__handed_vector(iov, iov_count);
    return CALL(conn, writev, iov, iov_count, deadline_ns);
}

ssize_t cr_writev(struct cr_conn *conn, const struct iovec *iov, int iov_count)
{
    cr__handed_vector(iov, iov_count);
    return cr_writev_until(conn, iov, iov_count, CR_FOREVER);
}

ssize_t cr_write_all_until(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    cr__handed(buf);
    size_t sent = 0;
    do {
        ssize_t n = cr_write_until(conn, (const char *)buf + sent, size_bytes - sent, deadline_ns);
        if (n < 0)
            return n;
        sent += (size_t)n;
    } while (sent < size_bytes);
    return (ssize_t)size_bytes;
}

ssize_t cr_write_all(struct cr_conn *conn, const void *buf, size_t size_bytes)
{
    cr__handed(buf);
    return cr_write_all_until(conn, buf, size_bytes, CR_FOREVER);
}

ssize_t cr_sendfile_until(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes, int64_t deadline_ns)
{
    return CALL(conn, sendfile, file, offset, size_bytes, deadline_ns);
}

ssize_t cr_sendfile(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes)
{
    return cr_sendfile_until(conn, file, offset, size_bytes, CR_FOREVER);
}

ssize_t cr_recv_lend_until(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    cr__handed(lent);
    return CALL(conn, recv_lend, lent, deadline_ns);
}

ssize_t cr_recv_lend(struct cr_conn *conn, struct cr_lent *lent)
{
    cr__handed(lent);
    return cr_recv_lend_until(conn, lent, CR_FOREVER);
}

void cr_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    cr__handed(lent);
    if (lent->_owner)
        conn->ops->recv_return(conn, lent);
    *lent = (struct cr_lent){0};
}

ssize_t cr_recv_from_until(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from, int64_t deadline_ns)
{
    cr__handed(buf);
    cr__handed(from);
    return CALL(conn, recv_from, buf, size_bytes, from, deadline_ns);
}

ssize_t cr_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from)
{
    cr__handed(buf);
    cr__handed(from);
    return cr_recv_from_until(conn, buf, size_bytes, from, CR_FOREVER);
}

ssize_t cr_send_to_until(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to, int64_t deadline_ns)
{
    cr__handed(buf);
    cr__handed(to);
    return CALL(conn, send_to, buf, size_bytes, to, deadline_ns);
}

ssize_t cr_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to)
{
    cr__handed(buf);
    cr__handed(to);
    return cr_send_to_until(conn, buf, size_bytes, to, CR_FOREVER);
}

int cr_wait_readable_until(struct cr_conn *conn, int64_t deadline_ns)
{
    return CALL(conn, wait, false, deadline_ns);
}

int cr_wait_readable(struct cr_conn *conn)
{
    return cr_wait_readable_until(conn, CR_FOREVER);
}

int cr_wait_writable_until(struct cr_conn *conn, int64_t deadline_ns)
{
    return CALL(conn, wait, true, deadline_ns);
}

int cr_wait_writable(struct cr_conn *conn)
{
    return cr_wait_writable_until(conn, CR_FOREVER);
}

ssize_t cr_pread(struct cr_conn *file, void *buf, size_t size_bytes, int64_t offset)
{
    cr__handed(buf);
    return CALL(file, pread, buf, size_bytes, offset);
}

ssize_t cr_pwrite(struct cr_conn *file, const void *buf, size_t size_bytes, int64_t offset)
{
    cr__handed(buf);
    return CALL(file, pwrite, buf, size_bytes, offset);
}

int cr_close_write(struct cr_conn *conn)
{
    struct cr__worker *worker;
    if (!cr__acting(&worker))
        return -EPERM;
    return conn->ops->close_write ? conn->ops->close_write(conn) : -EOPNOTSUPP;
}

void cr_close(struct cr_conn *conn)
{
    if (conn && cr__worker_here())
        conn->ops->close(conn, CR__CLOSE);
}

void cr_close_reset(struct cr_conn *conn)
{
    if (conn && cr__worker_here())
        conn->ops->close(conn, CR__CLOSE_RESET);
}

int cr_local_url(const struct cr_conn *conn, char *buf, size_t size_bytes)
{
    return conn->ops->url ? conn->ops->url(conn, CR__LOCAL, buf, size_bytes) : -EOPNOTSUPP;
}

int cr_peer_url(const struct cr_conn *conn, char *buf, size_t size_bytes)
{
    return conn->ops->url ? conn->ops->url(conn, CR__PEER, buf, size_bytes) : -EOPNOTSUPP;
}

int cr_conn_fd(const struct cr_conn *conn)
{
    return conn->ops->fd ? conn->ops->fd(conn) : -EOPNOTSUPP;
}

/* ---- For tasks ---------------------------------------------------------------------------------------------- */

int cr__conn_turn(struct cr_task *task, int64_t deadline_ns, const struct cr__brought **brought)
{
    static const uint32_t kinds = CR__KIND_BIT(CR__WAIT_READABLE) | CR__KIND_BIT(CR__WAIT_WRITABLE) | CR__KIND_BIT(CR__WAIT_NET_READABLE) | CR__KIND_BIT(CR__WAIT_NET_WRITABLE) |
                                  CR__KIND_BIT(CR__WAIT_JOIN);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, kinds);
    *brought = NULL;
    if (leaf.turn == CR__BEGINS)
        return 0;
    int r = leaf.turn == CR__BREATHES ? CR_WAITS : cr__leaf_finish(&leaf, deadline_ns);
    if (CR__UNLIKELY(r == CR__BROUGHT))
        *brought = (const struct cr__brought *)(void *)leaf.me->node.next;
    return r == -ETIMEDOUT || r == CR__BROUGHT ? 0 : r;
}

#define LEAF(task, conn, op, ...)                                                                                      \
    const struct cr__brought *brought;                                                                                 \
    int turn = cr__conn_turn(task, deadline_ns, &brought);                                                             \
    if (turn != 0)                                                                                                     \
        return turn;                                                                                                   \
    const struct cr__conn_ops *ops = CR__UNLIKELY(brought != NULL) ? brought->conn : (conn)->ops;                      \
    if (!ops->op || !ops->for_tasks)                                                                                   \
        return -EOPNOTSUPP;                                                                                            \
    return ops->op(conn, __VA_ARGS__)

ssize_t cr_task_read(struct cr_task *task, struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    cr__handed(buf);
    LEAF(task, conn, read, buf, size_bytes, deadline_ns);
}

ssize_t cr_task_readv(struct cr_task *task, struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns)
{
    cr__handed_vector(iov, iov_count);
    LEAF(task, conn, readv, iov, iov_count, deadline_ns);
}

ssize_t cr_task_write(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    cr__handed(buf);
    LEAF(task, conn, write, buf, size_bytes, deadline_ns);
}

ssize_t cr_task_writev(struct cr_task *task, struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns)
{
    cr__handed_vector(iov, iov_count);
    LEAF(task, conn, writev, iov, iov_count, deadline_ns);
}

ssize_t cr_task_recv_lend(struct cr_task *task, struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    cr__handed(lent);
    LEAF(task, conn, recv_lend, lent, deadline_ns);
}

ssize_t cr_task_recv_from(struct cr_task *task, struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from, int64_t deadline_ns)
{
    cr__handed(buf);
    cr__handed(from);
    LEAF(task, conn, recv_from, buf, size_bytes, from, deadline_ns);
}

ssize_t cr_task_send_to(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to,
                        int64_t deadline_ns)
{
    cr__handed(buf);
    cr__handed(to);
    LEAF(task, conn, send_to, buf, size_bytes, to, deadline_ns);
}

int cr_task_wait_readable(struct cr_task *task, struct cr_conn *conn, int64_t deadline_ns)
{
    LEAF(task, conn, wait, false, deadline_ns);
}

int cr_task_wait_writable(struct cr_task *task, struct cr_conn *conn, int64_t deadline_ns)
{
    LEAF(task, conn, wait, true, deadline_ns);
}

int cr_task_accept(struct cr_task *task, struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns)
{
    const struct cr__brought *brought;
    int turn = cr__conn_turn(task, deadline_ns, &brought);
    if (turn != 0)
        return turn;
    return CR__UNLIKELY(brought != NULL) ? brought->listener->accept(l, out, deadline_ns) : l->ops->accept(l, out, deadline_ns);
}

/* One round after the other, as far as they go without waiting; the first one may have been made already. */
static ssize_t write_on(struct cr_conn *conn, const struct cr__brought *brought, const void *buf, size_t size_bytes, size_t *sent, int64_t deadline_ns)
{
    do {
        const struct cr__conn_ops *ops = CR__UNLIKELY(brought != NULL) ? brought->conn : conn->ops;
        if (!ops->write || !ops->for_tasks)
            return -EOPNOTSUPP;
        ssize_t n = ops->write(conn, (const char *)buf + *sent, size_bytes - *sent, deadline_ns);
        if (n < 0)
            return n;
        *sent += (size_t)n;
        brought = NULL;
    } while (*sent < size_bytes);
    return (ssize_t)size_bytes;
}

ssize_t cr_task_write_all(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes, size_t *sent, int64_t deadline_ns)
{
    cr__handed(buf);
    cr__handed(sent);
    const struct cr__brought *brought;
    ssize_t n = cr__conn_turn(task, deadline_ns, &brought);
    if (n == 0)
        n = write_on(conn, brought, buf, size_bytes, sent, deadline_ns);
    if (n != CR_WAITS)
        *sent = 0;
    return n;
}
