/* What a connection and a listener are: a table of operations, and an address by URL. Who carries the bytes is a provider:
 * the kernel's sockets and files (io), and networks of our own (net), which a caller names in its options.
 *
 * A provider's connection begins with struct cr_conn. The calls of crore/conn.h come here, check that they run in a coroutine,
 * and go on to the provider; an operation that a provider lacks answers -EOPNOTSUPP. */
#ifndef CR__CONN_H
#define CR__CONN_H

#include <crore/conn.h>

#include <poll.h>

#include "sched/sched.h"
#include "sched/task.h"

enum cr__how { CR__CLOSE, CR__CLOSE_RESET };
enum cr__side { CR__LOCAL, CR__PEER };

struct cr__conn_ops {
    ssize_t (*read)(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns);
    ssize_t (*readv)(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns);
    ssize_t (*write)(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns);
    ssize_t (*writev)(struct cr_conn *conn, const struct iovec *iov, int count, int64_t deadline_ns);
    ssize_t (*sendfile)(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes, int64_t deadline_ns);
    ssize_t (*recv_lend)(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns);
    void (*recv_return)(struct cr_conn *conn, struct cr_lent *lent);
    ssize_t (*recv_from)(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from, int64_t deadline_ns);
    ssize_t (*send_to)(struct cr_conn *conn, const void *buf, size_t size_bytes, const struct cr_addr *to, int64_t deadline_ns);
    int (*wait)(struct cr_conn *conn, bool to_write, int64_t deadline_ns);
    int (*close_write)(struct cr_conn *conn);
    void (*close)(struct cr_conn *conn, enum cr__how how);
    int (*url)(const struct cr_conn *conn, enum cr__side side, char *buf, size_t size_bytes);
    ssize_t (*pread)(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t offset);
    ssize_t (*pwrite)(struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t offset);
    int (*fd)(const struct cr_conn *conn);
    bool for_tasks; /* those that wait may be called by a task: they say CR_WAITS, and are called again after cr__leaf_finish (sched/task.h) */
};

struct cr_conn {
    const struct cr__conn_ops *ops;
};

struct cr__listener_ops {
    int (*accept)(struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns);
    int (*accept_now)(struct cr_listener *l, struct cr_conn **out); /* by whoever, also while its own acceptor waits: 0, or why not */
    void (*close)(struct cr_listener *l);
    void (*share)(struct cr_listener *l); /* accepts on each worker what came for that one: it is to be closed once more. NULL: it does not */
    int (*url)(const struct cr_listener *l, char *buf, size_t size_bytes);
};

struct cr_listener {
    const struct cr__listener_ops *ops;
};

/* A URL, taken apart. */
enum cr__scheme { CR__TCP, CR__UDP, CR__UNIX };

#define CR__HOST_BYTES 256 /* the longest DNS name is 253 */

struct cr__url {
    enum cr__scheme scheme;
    uint16_t port;
    char host[CR__HOST_BYTES]; /* of unix: the path, '@' first for the abstract namespace */
};

/* 0; -EINVAL; -EPROTONOSUPPORT (an unknown scheme). */
int cr__url_parse(struct cr__url *url, const char *text);

/* "HOST", "HOST:PORT", "[V6]:PORT"; without a port: 0, unless port_needed. */
int cr__url_parse_authority(struct cr__url *url, const char *text, bool port_needed);

/* Formats an address as a URL of that scheme. The length, or -ENOBUFS; -EOPNOTSUPP for an unknown family. */
int cr__url_format(enum cr__scheme scheme, const struct cr_addr *addr, char *buf, size_t size_bytes);

/* Beside enum cr_conn_flags, of the first of several listeners on one port: it is refused where somebody listens already, and then the others (CR_REUSE_PORT)
 * may join it. */
#define CR__FIRST_ON_PORT (1u << 31)
#define CR__NOT_AHEAD (1u << 30) /* of a listener: accepts when it is asked to, not before */
#define CR__OWN_FLAGS (CR__FIRST_ON_PORT | CR__NOT_AHEAD) /* a program that sets them is refused */

/* cr_listen with such flags. */
int cr__listen(struct cr_listener **out, const char *url, const struct cr_conn_opts *opts, unsigned own_flags);

/* A network's own name servers, and sockets to ask them, by number, as the library wants them that looks names up (io/names.c). One coroutine has it all, on the network's worker,
 * where it stays. None but wait suspends; errors are -errno. */
#define CR__ASKER_FIRST (1 << 30) /* the lowest number: no fd is that high, so whoever takes one for an fd gets EBADF */

struct cr__asker {
    const struct cr__asker_ops *ops;
    const char *servers; /* IP:PORT or [IP]:PORT, with commas between */
};

struct cr__asker_ops {
    int (*open)(struct cr__asker *asker, int type);                                  /* SOCK_DGRAM or SOCK_STREAM: its number; -EMFILE */
    int (*connect)(struct cr__asker *asker, int number, const struct cr_addr *to);   /* 0; -EINPROGRESS: it can be written to when that is over */
    ssize_t (*send)(struct cr__asker *asker, int number, const struct iovec *iov, int count);                 /* -EAGAIN */
    ssize_t (*recv)(struct cr__asker *asker, int number, void *buf, size_t size_bytes, struct cr_addr *from); /* -EAGAIN; from is a datagram's, and may be NULL */
    void (*close)(struct cr__asker *asker, int number);
    bool (*reaches)(struct cr__asker *asker, const struct cr_addr *to);              /* whether the network has a way there */
    int (*wait)(struct cr__asker *asker, struct pollfd *sockets, int count, int64_t deadline_ns); /* as poll(2): how many are ready, perhaps none. -ETIMEDOUT, -ECANCELED, -EBADF */
    void (*end)(struct cr__asker *asker);                                            /* closes what is open, and frees it */
};

/* A network: where connections come from. */
struct cr__net_ops {
    int (*listen)(struct cr_net *net, struct cr_listener **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                  int64_t deadline_ns);
    int (*dial)(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                int64_t deadline_ns);
    int (*bind)(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);

    /* Has fn(asker, arg) called where the network's own name servers can be asked, by a coroutine that stays there, and waits for it. arg does not lie on a stack. asker is fn's,
     * to be ended, by whichever coroutine of that worker; NULL: there are none, so the kernel's are to be asked, as of a network without `ask`. What fn returns, which has
     * its deadline itself; -EBADF (closed), -ENOMEM; -ETIMEDOUT, -ECANCELED: it has not been called. */
    ssize_t (*ask)(struct cr_net *net, ssize_t (*fn)(struct cr__asker *asker, void *arg), void *arg, int64_t deadline_ns);
};

struct cr_net {
    const struct cr__net_ops *ops;
};

/* What a task's wait has brought, where somebody else has made the call for it: its cr__finish answers CR__BROUGHT, and node.next of its record says with what operations it is handed
 * over. They are called in place of the connection's, which may be closed by then: so they do not look at it. */
#define CR__BROUGHT 1
struct cr__brought {
    const struct cr__conn_ops *conn;
    const struct cr__listener_ops *listener;
};

/* Begins a leaf that waits for a connection or a listener, or ends its wait. 0: the operation is to be called, *brought's if that is not NULL, also at the deadline, when it tries for
 * the last time. Else what the leaf answers. */
int cr__conn_turn(struct cr_task *task, int64_t deadline_ns, const struct cr__brought **brought);

/* On an idle worker, while another one is stuck: accepts what waits at that one's listeners (server.c). */
void cr__server_take_over(struct cr__worker *here, struct cr__worker *stuck);

/* The network of those who name none; set before the first coroutine runs. */
void cr__conn_default_net(struct cr_net *net);

#endif
