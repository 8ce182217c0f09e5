/* Connections over the kernel's file descriptors: sockets, pipes, terminals, files; and names. The kernel's network as a provider
 * of conn. Each call tries first, and waits only when the kernel has nothing (poll.h). */
#ifndef CR__IO_H
#define CR__IO_H

#include "conn/conn.h"
#include "poll/poll.h"

/* The worker's connections. Set up after the poller. 0 or -ENOMEM. */
int cr__io_init(struct cr__worker *worker);
void cr__io_fini(struct cr__worker *worker);

/* The kernel's network. */
extern struct cr_net cr__kernel_net;

/* ---- Within the room ---- */

enum cr__fd_kind {
    CR__FD_TCP,    /* a short receive means that there is no more for now */
    CR__FD_SOCKET, /* another socket */
    CR__FD_OTHER,  /* read and write, not recv and send */
};

/* Whatever is an fd; from `io`'s slab, in which only these live (a late event may still look at one's generation). */
struct cr__fd_conn {
    union {
        struct cr_conn conn;
        struct cr_listener listener;
    };
    struct cr__pollable poll; /* its kind: of enum cr__fd_kind; its scheme: of enum cr__scheme, what to call its addresses; unlink_path: a listener
                                 on unix:/PATH, to be removed at the end */
};
_Static_assert(sizeof(struct cr__fd_conn) <= 64, "an idle connection's budget");

struct cr__io {
    struct cr__slab conns;
};

static inline struct cr__io *cr__io_here(void)
{
    return cr__worker_here()->io;
}

/* Makes a connection of an open fd; on an error the fd stays open. */
int cr__fd_conn_open(struct cr__fd_conn **out, int fd, enum cr__fd_kind kind, const struct cr__conn_ops *ops, bool in, bool out_ready);

/* Tries, and waits when the kernel has nothing (attempt says -EAGAIN); at the deadline tries once more. What attempt says, or -ETIMEDOUT,
 * -ECANCELED, -EBUSY, -EBADF. */
ssize_t cr__transfer(struct cr__fd_conn *c, enum cr__direction direction, int64_t deadline_ns,
                     ssize_t (*attempt)(struct cr__fd_conn *c, void *arg), void *arg);

/* Called first by what may go on without suspending: every 64th call yields, unless the deadline has passed: such a call is a try. 0, or
 * -EBADF if c was closed meanwhile. After a transfer nothing suspends: what it gave stays true until the caller has it. */
int cr__fd_breathe(struct cr__fd_conn *c, int64_t deadline_ns);

/* Frees what it opened, the fd included. */
void cr__fd_conn_close(struct cr__fd_conn *c);

extern const struct cr__conn_ops cr__stream_ops, cr__datagram_ops, cr__file_ops;

/* Around each call by which the kernel gets memory of the user's, which may be another coroutine's local (virtual.h). NULL is nothing. */
static inline void cr__io_hold(const void *buf)
{
    cr__virtual_hold(buf, cr__worker_here()->staged);
}

static inline void cr__io_let_go(const void *buf)
{
    cr__virtual_let_go(buf);
}

/* The same of a list and all that is in it. */
static inline void cr__io_hold_all(const struct iovec *iov, int count)
{
    cr__io_hold(iov);
    for (int i = 0; i < count; i++)
        cr__io_hold(iov[i].iov_base);
}

static inline void cr__io_let_go_all(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++)
        cr__io_let_go(iov[i].iov_base);
    cr__io_let_go(iov);
}

#endif
