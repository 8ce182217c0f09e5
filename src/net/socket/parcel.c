/* What a transfer takes along that is made by a visitor, where it can't work with what is its caller's: a task, whose arguments are there again only when its leaf is called
 * again, or a coroutine on a shared stack, which is not kept while it waits (those who could end the wait may need that stack). A copy goes there, or comes back. What is received
 * gets memory when there is something to be received: who waits holds none. */
#include "net/socket/socket.h"

#include <string.h>

#define BYTES_MOST ((size_t)64 << 10) /* no datagram is longer, and of a stream the rest is another call's */

struct parcel {
    struct cr__visit visit;
    struct cr__transfer transfer;
    struct cr__cargo cargo;   /* what is in here, */
    struct iovec bytes;       /* that is on the heap: iov_base NULL: not yet there */
    struct cr_lent lent;
    struct cr_addr addr;
    ssize_t (*attempt)(void *of, const struct cr__cargo *cargo);
    ssize_t (*readable)(void *of, const struct cr__cargo *cargo);
};

static size_t size_of(const struct iovec *iov, int count)
{
    size_t size_bytes = 0;
    for (int i = 0; i < count && size_bytes < BYTES_MOST; i++)
        size_bytes += iov[i].iov_len < BYTES_MOST - size_bytes ? iov[i].iov_len : BYTES_MOST - size_bytes;
    return size_bytes;
}

/* Between bytes and what lies in pieces; as much as there is on either side. */
static void gather(char *to, size_t size_bytes, const struct iovec *iov)
{
    for (size_t n; size_bytes > 0; iov++, to += n, size_bytes -= n)
        memcpy(to, iov->iov_base, n = iov->iov_len < size_bytes ? iov->iov_len : size_bytes);
}

static void scatter(const char *from, size_t size_bytes, const struct iovec *iov)
{
    for (size_t n; size_bytes > 0; iov++, from += n, size_bytes -= n)
        memcpy(iov->iov_base, from, n = iov->iov_len < size_bytes ? iov->iov_len : size_bytes);
}

static bool get_room(struct parcel *p)
{
    p->bytes.iov_base = cr__mem_alloc(p->bytes.iov_len ? p->bytes.iov_len : 1, CR__MEM_BUFFERS);
    return p->bytes.iov_base != NULL;
}

static void drop(struct parcel *p)
{
    if (p->bytes.iov_base)
        cr__mem_free(p->bytes.iov_base, p->bytes.iov_len ? p->bytes.iov_len : 1, CR__MEM_BUFFERS);
    cr__mem_free(p, sizeof(*p), CR__MEM_OTHER);
}

/* There. */
static ssize_t try_parcel(void *of, const struct cr__cargo *cargo)
{
    struct parcel *p = CR__CONTAINER((struct cr__cargo *)cargo, struct parcel, cargo);
    if (cargo->iov && !p->bytes.iov_base) {
        ssize_t r = p->readable(of, NULL);
        if (r < 0)
            return r;
        if (!get_room(p))
            return -ENOMEM;
    }
    return p->attempt(of, cargo);
}

static const struct cr__conn_ops brought_ops;

/* NULL: no memory. */
static struct parcel *pack(const struct cr__visited *what, const struct cr__transfer *t, ssize_t (*there)(void *transfer), ssize_t (*readable)(void *, const struct cr__cargo *))
{
    const struct cr__cargo *cargo = t->cargo;
    struct parcel *p = cr__mem_alloc(sizeof(*p), CR__MEM_OTHER);
    if (!p)
        return NULL;
    *p = (struct parcel){.transfer = *t, .cargo = *cargo, .attempt = t->attempt, .readable = readable};
    p->visit = (struct cr__visit){.brought.conn = &brought_ops, .to = what->network->worker, .what = *what, .fn = there, .arg = &p->transfer, .deadline_ns = t->deadline_ns};
    p->transfer.attempt = try_parcel;
    p->transfer.cargo = &p->cargo;
    if (cargo->iov) {
        p->bytes.iov_len = size_of(cargo->iov, cargo->count);
        p->cargo.iov = &p->bytes;
        p->cargo.count = 1;
    }
    if (cargo->lent)
        p->cargo.lent = &p->lent;
    if (cargo->from)
        p->cargo.from = &p->addr;
    if (cargo->to) {
        p->addr = *cargo->to;
        p->cargo.to = &p->addr;
    }
    if (t->direction == CR__IN || !cargo->iov)
        return p;
    if (!get_room(p)) {
        drop(p);
        return NULL;
    }
    gather(p->bytes.iov_base, p->bytes.iov_len, cargo->iov);
    return p;
}

/* Hands over what has come of it, to whom it is for, and frees it. It has been held so far: so it can be asked whether what it came from has been closed. */
static ssize_t unpack(struct parcel *p, ssize_t n, const struct cr__cargo *to)
{
    const struct cr__visited what = p->visit.what;
    if (n >= 0 && cr__visited_closed(&what))
        n = -EBADF;
    if (n > 0 && p->transfer.direction == CR__IN && to->iov)
        scatter(p->bytes.iov_base, (size_t)n < p->bytes.iov_len ? (size_t)n : p->bytes.iov_len, to->iov);
    if (n >= 0 && to->lent)
        *to->lent = p->lent;
    if (n >= 0 && to->from)
        *to->from = p->addr;
    drop(p);
    cr__visits_drop(&what);
    return n;
}

static ssize_t transfer_parcel(const struct cr__visited *what, const struct cr__transfer *t, ssize_t (*there)(void *transfer),
                               ssize_t (*readable)(void *, const struct cr__cargo *))
{
    struct parcel *p = pack(what, t, there, readable);
    if (!p)
        return -ENOMEM;
    cr__visits_hold(what);
    ssize_t n = cr__visit_wait(&p->visit);
    return n == CR_WAITS ? n : unpack(p, n, t->cargo);
}

ssize_t cr__transfer_there(const struct cr__visited *what, struct cr__transfer *t, ssize_t (*there)(void *transfer), ssize_t (*readable)(void *of, const struct cr__cargo *cargo))
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || cr__on_shared_stack(w, me, t))
        return transfer_parcel(what, t, there, readable);
    return cr__visit_wait(&(struct cr__visit){.to = what->network->worker, .what = *what, .fn = there, .arg = t, .deadline_ns = t->deadline_ns});
}

/* ---- What a task's has brought --------------------------------------------------------------------------------------- */

static ssize_t brought(const struct cr__cargo *to)
{
    struct cr__visit *visit = cr__visit_brought();
    return unpack(CR__CONTAINER(visit, struct parcel, visit), visit->result, to);
}

static ssize_t brought_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    (void)conn;
    (void)deadline_ns;
    return brought(&(struct cr__cargo){.iov = iov, .count = count});
}

static ssize_t brought_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return brought_readv(conn, &(struct iovec){buf, size_bytes}, 1, deadline_ns);
}

static ssize_t brought_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    (void)conn;
    (void)deadline_ns;
    return brought(&(struct cr__cargo){.lent = lent});
}

static ssize_t brought_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from, int64_t deadline_ns)
{
    (void)conn;
    (void)deadline_ns;
    return brought(&(struct cr__cargo){.iov = &(struct iovec){buf, size_bytes}, .count = 1, .from = from});
}

/* What was sent is not looked at any more. */
static ssize_t brought_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    (void)conn;
    (void)iov;
    (void)count;
    (void)deadline_ns;
    return brought(&(struct cr__cargo){0});
}

static ssize_t brought_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    (void)buf;
    (void)size_bytes;
    return brought_writev(conn, NULL, 0, deadline_ns);
}

static ssize_t brought_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to, int64_t deadline_ns)
{
    (void)to;
    return brought_write(conn, buf, size_bytes, deadline_ns);
}

static int brought_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    (void)to_write;
    return (int)brought_writev(conn, NULL, 0, deadline_ns);
}

static const struct cr__conn_ops brought_ops = {
    .read = brought_read,
    .readv = brought_readv,
    .write = brought_write,
    .writev = brought_writev,
    .recv_lend = brought_recv_lend,
    .recv_from = brought_recv_from,
    .send_to = brought_send_to,
    .wait = brought_wait,
    .for_tasks = true,
};
