/* What a connection and a listener are: a table of operations, and an address by URL. Who carries the bytes is a provider:
 * the kernel's sockets and files (io), and networks of our own later, which a caller names in its options.
 *
 * A provider's connection begins with struct cr_conn. The calls of crore/conn.h come here, check that they run in a coroutine,
 * and go on to the provider; an operation that a provider lacks answers -EOPNOTSUPP. */
#ifndef CR__CONN_H
#define CR__CONN_H

#include <crore/conn.h>

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

/* A network: where connections come from. */
struct cr__net_ops {
    int (*listen)(struct cr_net *net, struct cr_listener **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                  int64_t deadline_ns);
    int (*dial)(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                int64_t deadline_ns);
    int (*bind)(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns);
};

struct cr_net {
    const struct cr__net_ops *ops;
};

/* On an idle worker, while another one is stuck: accepts what waits at that one's listeners (server.c). */
void cr__server_take_over(struct cr__worker *here, struct cr__worker *stuck);

/* The network of those who name none; set before the first coroutine runs. */
void cr__conn_default_net(struct cr_net *net);

#endif
