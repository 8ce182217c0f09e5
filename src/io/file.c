/* Regular files, and what else the kernel can't poll. Reading and writing them may wait for a device, and then blocks whoever calls.
 *
 * So a transfer is first tried so that it fails rather than waits (RWF_NOWAIT): what the page cache has costs one system call, as ever. What it
 * has not, and what a file system won't try, is done by io_uring, if that is the poller, else on a thread of the pool (cr_blocking).
 * move alone decides.
 *
 * A thread works with the fd, which another coroutine may close meanwhile: it stays open, and the connection there, until the last transfer has
 * ended. What has begun succeeds or fails as if it had ended before.
 *
 * (sendfile reads on the worker: its callers serve what the page cache has.) */
#include "io/io.h"

#include <limits.h>
#include <string.h>

#include "os/os.h"

/* What poll.transfers says. How it may be read and written is found out at the first transfer. */
enum state {
    ONE = 1u,              /* a transfer elsewhere, for which the fd stays open; they are counted below all flags */
    KNOWN = 1u << 27,
    NEVER_WAITS = 1u << 28, /* tried without RWF_NOWAIT, which file systems in memory don't know */
    TRY_READ = 1u << 29,
    TRY_WRITE = 1u << 30,
    CLOSED = 1u << 31,     /* by the user: whose transfer ends last closes */
    COUNT = KNOWN - 1u,
};

struct transfer {
    int fd;
    unsigned what; /* TRY_READ or TRY_WRITE */
    const struct iovec *iov;
    int count;
    int64_t offset; /* -1: the file's position */
    ssize_t result;
};

static struct cr__fd_conn *of(const struct cr_conn *conn)
{
    return CR__CONTAINER(conn, struct cr__fd_conn, conn);
}

/* ---- One transfer ------------------------------------------------------------------------------------------- */

static size_t size_of(const struct iovec *iov, int count)
{
    size_t size_bytes = 0;
    for (int i = 0; i < count; i++)
        size_bytes += iov[i].iov_len;
    return size_bytes;
}

static ssize_t call(const struct transfer *t, int flags)
{
    ssize_t n;
    do
        n = t->what == TRY_READ ? cr__os_preadv(t->fd, t->iov, t->count, t->offset, flags)
                                : cr__os_pwritev(t->fd, t->iov, t->count, t->offset, flags);
    while (n == -EINTR);
    return n;
}

static void call_and_wait(void *arg)
{
    struct transfer *t = arg;
    t->result = call(t, 0);
}

/* Past the page cache (O_DIRECT), and down to the device (O_SYNC), "don't wait" waits nevertheless. */
static unsigned find_out(int fd)
{
    if (cr__os_is_in_memory(fd))
        return KNOWN | NEVER_WAITS;
    int flags = cr__os_fd_flags(fd);
    if (flags < 0 || (flags & O_DIRECT))
        return KNOWN;
    return KNOWN | TRY_READ | (flags & O_DSYNC ? 0 : TRY_WRITE);
}

/* -EAGAIN: it would wait, or one can't tell. */
static ssize_t try_now(struct cr__fd_conn *c, const struct transfer *t)
{
    unsigned how = atomic_load_explicit(&c->poll.transfers, memory_order_relaxed);
    if (CR__UNLIKELY(!(how & KNOWN))) {
        how = find_out(t->fd);
        atomic_fetch_or_explicit(&c->poll.transfers, how, memory_order_relaxed); /* whoever finds out at the same time finds the same */
    }
    if (how & NEVER_WAITS)
        return call(t, 0);
    if (!(how & t->what))
        return -EAGAIN;
    ssize_t n = call(t, RWF_NOWAIT);
    if (n != -EOPNOTSUPP && n != -ENOSYS)
        return n;
    atomic_fetch_and_explicit(&c->poll.transfers, ~t->what, memory_order_relaxed);
    return -EAGAIN;
}

static void hold(struct cr__fd_conn *c)
{
    atomic_fetch_add_explicit(&c->poll.transfers, ONE, memory_order_relaxed);
}

/* Returns whether it is still there. */
static bool let_go(struct cr__fd_conn *c)
{
    /* acquire and release: who closes does so after all that used it */
    uint32_t before = atomic_fetch_sub_explicit(&c->poll.transfers, ONE, memory_order_acq_rel);
    if ((before & (CLOSED | COUNT)) == (CLOSED | ONE))
        cr__fd_conn_close(c);
    return !(before & CLOSED);
}

/* What a thread works with when the caller's stack is a shared one, which others want meanwhile. */
struct detached {
    struct transfer transfer;
    struct iovec iov;
};

static ssize_t detached_call(struct cr__worker *worker, struct cr__record *me, const struct transfer *t, int64_t deadline_ns)
{
    void *buf = cr__bounce_begin(worker, me, t->iov->iov_base, t->iov->iov_len);
    if (!buf)
        return -ENOMEM;
    struct detached here = {*t, {buf, t->iov->iov_len}}, *there = cr__bounce_copy(worker, &here, sizeof(here));
    ssize_t n = -ENOMEM;
    if (there) {
        there->transfer.iov = &there->iov;
        n = cr__blocking_until(worker, me, call_and_wait, &there->transfer, deadline_ns);
        cr__bounce_back(there, &here, sizeof(here));
        n = n < 0 ? n : here.transfer.result;
    }
    cr__bounce_end(buf, t->iov->iov_base, t->what == TRY_READ && n > 0 ? (size_t)n : 0);
    return n;
}

static ssize_t on_thread(struct transfer *t, int64_t deadline_ns)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (!me)
        return -EPERM;
    if (cr__on_shared_stack(worker, me, t) && t->count == 1 && t->iov->iov_len <= CR__BOUNCED_MAX_BYTES)
        return detached_call(worker, me, t, deadline_ns);
    int r = cr_blocking_until(call_and_wait, t, deadline_ns);
    return r < 0 ? r : t->result;
}

/* By the poller, if it can, else on a thread. Where a write that appends has gone only the kernel knows, so the poller can't move the position: that is for a thread.
 * Asked each time, since it may be set at any. */
static ssize_t elsewhere(struct transfer *t, int64_t deadline_ns)
{
    bool appends = t->what == TRY_WRITE && t->offset < 0 && (cr__os_fd_flags(t->fd) & O_APPEND) != 0;
    ssize_t n = -EOPNOTSUPP;
    if (t->count == 1 && !appends)
        n = cr__poll_transfer(t->fd, t->what == TRY_READ ? CR__IN : CR__OUT, t->iov->iov_base, t->iov->iov_len, t->offset);
    return n != -EOPNOTSUPP ? n : on_thread(t, deadline_ns);
}

/* On the worker or elsewhere. */
static ssize_t move(struct cr__fd_conn *c, struct transfer *t, int64_t deadline_ns, bool *last)
{
    ssize_t n = try_now(c, t);
    *last = false;
    if (n != -EAGAIN)
        return n;
    if (deadline_ns <= cr__worker_here()->now_ns)
        return -ETIMEDOUT;
    hold(c);
    n = elsewhere(t, deadline_ns);
    *last = !let_go(c) || n <= 0 || (size_t)n < size_of(t->iov, t->count);
    return n;
}

/* Moves what it can. *last: no more is to be had by going on; c may be gone. */
static ssize_t transfer_once(struct cr__fd_conn *c, struct transfer *t, int64_t deadline_ns, bool *last)
{
    cr__io_hold_all(t->iov, t->count);
    ssize_t n = move(c, t, deadline_ns, last);
    cr__io_let_go_all(t->iov, t->count);
    return n;
}

/* ---- All of it ---------------------------------------------------------------------------------------------- */

/* What a try moved may end where the page cache did, and not the file: goes on from there. What was moved before an error counts. */
static ssize_t transfer_all(struct cr_conn *conn, unsigned what, const struct iovec *iov, int count, int64_t offset, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    struct transfer t = {.fd = c->poll.fd, .what = what, .iov = iov, .count = count, .offset = offset};
    struct iovec rest;
    size_t left = size_of(iov, count);
    ssize_t done = 0;
    int r = cr__fd_breathe(c, deadline_ns);
    if (r < 0)
        return r;
    for (;;) {
        bool last;
        ssize_t n = transfer_once(c, &t, deadline_ns, &last);
        if (n <= 0)
            return done > 0 ? done : n;
        done += n;
        left -= (size_t)n;
        if (left == 0 || last)
            return done;
        if (offset >= 0)
            t.offset = offset + done;
        size_t skip = (size_t)done; /* one buffer at a time from here on: rest is what is left of the present one */
        int i = 0;
        while (skip >= iov[i].iov_len)
            skip -= iov[i++].iov_len;
        rest = (struct iovec){(char *)iov[i].iov_base + skip, iov[i].iov_len - skip};
        t.iov = &rest;
        t.count = 1;
    }
}

static ssize_t file_read(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return transfer_all(conn, TRY_READ, &(struct iovec){buf, size_bytes}, 1, -1, deadline_ns);
}

static ssize_t file_readv(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    return transfer_all(conn, TRY_READ, iov, count, -1, deadline_ns);
}

static ssize_t file_write(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns)
{
    return transfer_all(conn, TRY_WRITE, &(struct iovec){(void *)buf, size_bytes}, 1, -1, deadline_ns);
}

static ssize_t file_writev(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns)
{
    return transfer_all(conn, TRY_WRITE, iov, count, -1, deadline_ns);
}

static ssize_t file_pread(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t offset)
{
    return offset < 0 ? -EINVAL : transfer_all(conn, TRY_READ, &(struct iovec){buf, size_bytes}, 1, offset, CR_FOREVER);
}

static ssize_t file_pwrite(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t offset)
{
    return offset < 0 ? -EINVAL : transfer_all(conn, TRY_WRITE, &(struct iovec){(void *)buf, size_bytes}, 1, offset, CR_FOREVER);
}

static ssize_t file_recv_lend(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns)
{
    struct cr__fd_conn *c = of(conn);
    struct cr__buffer *buffer = cr__lent_get(cr__worker_here());
    *lent = (struct cr_lent){0};
    if (!buffer)
        return -ENOMEM;
    hold(c);
    ssize_t n = file_read(conn, buffer->bytes, CR__BUFFER_BYTES, deadline_ns);
    if (!let_go(c))
        n = -EBADF; /* there is nothing left that it could be lent from */
    if (n <= 0) {
        cr__lent_put(cr__worker_here(), buffer);
        return n;
    }
    buffer->at = 0;
    cr__lent_add(cr__worker_here(), &c->poll, buffer);
    *lent = (struct cr_lent){buffer->bytes, (size_t)n, buffer};
    return n;
}

/* ---- The rest ----------------------------------------------------------------------------------------------- */

static void file_recv_return(struct cr_conn *conn, struct cr_lent *lent)
{
    cr__stream_ops.recv_return(conn, lent);
}

static int file_wait(struct cr_conn *conn, bool to_write, int64_t deadline_ns)
{
    (void)to_write; /* it is always ready, as poll(2) has it */
    return cr__fd_breathe(of(conn), deadline_ns);
}

static void file_close(struct cr_conn *conn, enum cr__how how)
{
    (void)how;
    if ((atomic_fetch_or_explicit(&of(conn)->poll.transfers, CLOSED, memory_order_acq_rel) & (CLOSED | COUNT)) == 0)
        cr__fd_conn_close(of(conn));
}

static int file_fd(const struct cr_conn *conn)
{
    return of(conn)->poll.fd;
}

const struct cr__conn_ops cr__file_ops = {
    .read = file_read, /* the kernel keeps the position */
    .readv = file_readv,
    .write = file_write,
    .writev = file_writev,
    .recv_lend = file_recv_lend,
    .recv_return = file_recv_return,
    .wait = file_wait,
    .close = file_close,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .fd = file_fd,
};

/* ---- Opening ------------------------------------------------------------------------------------------------ */

/* Beside the caller's stack: who opens one end of a FIFO waits for whom opens the other, and that one may want the same shared stack. */
struct opening {
    int flags;
    mode_t mode;
    int result;
    char path[];
};

static void open_and_wait(void *arg)
{
    struct opening *o = arg;
    o->result = cr__os_open(o->path, o->flags, o->mode);
}

static int open_on_thread(const char *path, int flags, mode_t mode)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (!me)
        return -EPERM;
    if (!path)
        return -EFAULT;
    size_t size_bytes = strnlen(path, PATH_MAX) + 1;
    if (size_bytes > PATH_MAX)
        return -ENAMETOOLONG;
    struct opening *o = cr__image_get(&worker->images, sizeof(*o) + size_bytes);
    if (!o)
        return -ENOMEM;
    *o = (struct opening){.flags = flags, .mode = mode};
    memcpy(o->path, path, size_bytes);
    int r = cr__blocking_until(worker, me, open_and_wait, o, CR_FOREVER);
    r = r < 0 ? r : o->result;
    cr__image_put(&cr__worker_here()->images, o);
    return r;
}

int cr_file_open(struct cr_conn **out, const char *path, int flags, mode_t mode)
{
    cr__handed(path);
    int fd = open_on_thread(path, flags, mode);
    if (fd < 0)
        return fd;
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, CR__FD_OTHER, &cr__file_ops, true, true);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    *out = &c->conn;
    return 0;
}
