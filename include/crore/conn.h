/* Connections: what bytes and datagrams come through, named by URL.
 *
 *     tcp://HOST:PORT      HOST a name, an IPv4 address, or an IPv6 address in brackets; empty when
 *                          listening: all addresses. PORT a number; 0 when listening: any free one
 *     unix:/PATH           a Unix stream socket; unix:@NAME: in the abstract namespace
 *     udp://HOST:PORT      datagrams
 *
 * One coroutine at a time may receive on a connection, and one (the same or another) may send: a second one
 * gets -EBUSY. Calls return bytes or 0, or a negative errno code; besides those named below, what the kernel
 * answered: -ECONNRESET, -EPIPE, -ENETUNREACH, … Why a connection broke is told once, to who receives or sends first; from then on the
 * one gets 0, the other -EPIPE. All are for scheduled coroutines (those that
 * transfer or wait return -EPERM elsewhere; closing does nothing there) and, unless said otherwise, suspend. SIGPIPE is never
 * raised. */
#ifndef CRORE_CONN_H
#define CRORE_CONN_H

#include <sys/socket.h>
#include <sys/uio.h>

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_conn;
struct cr_listener;
struct cr_net; /* a network of our own: crore/net.h */

enum cr_conn_flags {
    CR_REUSE_PORT = 1u << 0, /* several listeners on one port, if each says so (SO_REUSEPORT): a hash of its two ends says whose a connection is */
    CR_V6_ONLY = 1u << 1,    /* a listener on [::] does not take IPv4 */
    CR_NAGLE = 1u << 2,      /* let TCP gather small writes; off by default (TCP_NODELAY) */
};

/* Zeroed means default, field by field. Read during the call only. */
struct cr_conn_opts {
    struct cr_net *net;    /* NULL: the kernel's network */
    unsigned flags;        /* of enum cr_conn_flags */
    int backlog;           /* of a listener; 0: 4096 (the kernel cuts it to net.core.somaxconn) */
    int send_buffer_bytes; /* the socket's; 0: the kernel's default */
    int recv_buffer_bytes;
    const char *source;    /* dial from here: "127.0.0.2" or "127.0.0.2:4000" or "[::1]:4000" */
    unsigned mode;         /* permissions of a listening unix:/PATH; 0: what umask leaves */

    /* Of TCP, where others would wait for a peer that is gone: the connection ends, and calls on it return -ETIMEDOUT, or -EHOSTUNREACH and
     * its kin if that was told. Those that a listener accepts have its own.
     * keepalive_ms: when nothing has been heard for so long (a second at least; the kernel counts in seconds, rounded up, to 32,767 of them), and nothing is on its way, the peer is asked whether it
     *     is there, and asked again each 75 s, or as often if that is less; nine times without an answer end it, or, with a user timeout, that much silence. 0: it is never asked
     * user_timeout_ms: how long what is sent may stay without an acknowledgement, be it a dial's SYN, or wait for a peer whose window is closed (RFC 5482). 0: what TCP takes, some 15 minutes; while
     *     the peer says that its window is closed, for ever */
    int keepalive_ms;
    int user_timeout_ms;
};

/* Listens. An existing unix:/PATH is replaced only if it is a socket on which nobody listens.
 * Returns 0; -EINVAL (URL, options), -EPROTONOSUPPORT (scheme), -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, -ENOENT (name
 * unknown), -EMFILE, -ENOMEM, -EPERM. On an error nothing is left open. Suspends only to look a name up: then also
 * -ETIMEDOUT, -ECANCELED. */
CR_API CR_CHECKED int cr_listen(struct cr_listener **out, const char *url, const struct cr_conn_opts *opts);
CR_API CR_CHECKED int cr_listen_until(struct cr_listener **out, const char *url, const struct cr_conn_opts *opts,
                                      int64_t deadline_ns);

/* Waits for the next connection. Returns 0; -EMFILE, -ENFILE, -ENOMEM (also at the memory budget), -ENOBUFS (the connection stays in the backlog; try
 * again when something was closed. Only where epoll itself has no memory, -ENOMEM, it is closed), -ETIMEDOUT,
 * -ECANCELED, -EBADF (closed meanwhile), -EBUSY (another one waits there already; of a network on all workers: on this
 * worker), -EPERM. */
CR_API CR_CHECKED int cr_accept(struct cr_listener *l, struct cr_conn **out);
CR_API CR_CHECKED int cr_accept_until(struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns);

/* Closes; a coroutine that waits in cr_accept gets -EBADF. Removes the file of a unix:/PATH. NULL is ignored.
 * Does not suspend. */
CR_API void cr_listener_close(struct cr_listener *l);

/* The URL it listens on, with the port that it got. Returns the length, -ENOBUFS. Does not suspend. */
CR_API int cr_listener_url(const struct cr_listener *l, char *buf, size_t size_bytes);

/* Connects; all addresses of a name in turn. udp:// gives a socket that talks to that peer only.
 * Returns 0; -EINVAL, -EPROTONOSUPPORT, -ENOENT (name unknown), -EAGAIN (no name server answered), -ECONNREFUSED and its kin (from the
 * last address tried): -EHOSTUNREACH (after some 3 s, where nobody on the link has the address), -ENETUNREACH, -EAFNOSUPPORT (the source is of
 * the other family), -EADDRNOTAVAIL (no such source, or a connection from there to there exists), -EADDRINUSE (the source's port is somebody
 * else's; of udp:// also: it talks to that peer already, which the kernel does not mind); -ETIMEDOUT (also if the deadline has passed already), -ECANCELED, -EMFILE, -ENOMEM. On an
 * error nothing is left open. */
CR_API CR_CHECKED int cr_dial(struct cr_conn **out, const char *url, const struct cr_conn_opts *opts);
CR_API CR_CHECKED int cr_dial_until(struct cr_conn **out, const char *url, const struct cr_conn_opts *opts,
                                    int64_t deadline_ns);

/* Receives up to size_bytes. Returns the number of bytes, 0 at the end of the stream. */
CR_API CR_CHECKED ssize_t cr_read(struct cr_conn *conn, void *buf, size_t size_bytes);
CR_API CR_CHECKED ssize_t cr_read_until(struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_readv(struct cr_conn *conn, const struct iovec *iov, int iov_count);
CR_API CR_CHECKED ssize_t cr_readv_until(struct cr_conn *conn, const struct iovec *iov, int iov_count,
                                         int64_t deadline_ns);

/* Sends: at least one byte, up to all. Returns the number of bytes taken. More than 1,024 pieces: -EMSGSIZE (receiving: -EINVAL). */
CR_API CR_CHECKED ssize_t cr_write(struct cr_conn *conn, const void *buf, size_t size_bytes);
CR_API CR_CHECKED ssize_t cr_write_until(struct cr_conn *conn, const void *buf, size_t size_bytes,
                                         int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_writev(struct cr_conn *conn, const struct iovec *iov, int iov_count);
CR_API CR_CHECKED ssize_t cr_writev_until(struct cr_conn *conn, const struct iovec *iov, int iov_count,
                                          int64_t deadline_ns);

/* Sends all. Returns size_bytes; after an error part of it may have been sent: the stream is of no use any more. */
CR_API CR_CHECKED ssize_t cr_write_all(struct cr_conn *conn, const void *buf, size_t size_bytes);
CR_API CR_CHECKED ssize_t cr_write_all_until(struct cr_conn *conn, const void *buf, size_t size_bytes,
                                             int64_t deadline_ns);

/* Sends size_bytes of file (from cr_file_open) from offset on, without passing them through user memory.
 * Returns the number of bytes sent, less than asked only at the file's end; after an error as cr_write_all. */
CR_API CR_CHECKED ssize_t cr_sendfile(struct cr_conn *conn, struct cr_conn *file, int64_t offset, size_t size_bytes);
CR_API CR_CHECKED ssize_t cr_sendfile_until(struct cr_conn *conn, struct cr_conn *file, int64_t offset,
                                            size_t size_bytes, int64_t deadline_ns);

/* Receives into a buffer that the runtime lends at the moment there is data: a waiting connection holds none.
 *   lent: bytes and size_bytes are filled in; the bytes may be changed in place. Valid until cr_recv_return or cr_close.
 *         May be copied, but returned once
 * Returns the number of bytes, 0 at the end of the stream (nothing lent), -ENOMEM (nothing received). */
struct cr_lent {
    char *bytes;
    size_t size_bytes;
    void *_owner; /* the runtime's */
};
CR_API CR_CHECKED ssize_t cr_recv_lend(struct cr_conn *conn, struct cr_lent *lent);
CR_API CR_CHECKED ssize_t cr_recv_lend_until(struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns);

/* Gives it back; lent is zeroed. What has been returned or is empty is ignored. Does not suspend, nor needs memory, on
 * whichever worker: elsewhere than on a network's own one (crore/net.h) it is back a little later. */
CR_API void cr_recv_return(struct cr_conn *conn, struct cr_lent *lent);

/* Waits until a receive, or a send, would not wait: there is data, room, an end or an error. Takes nothing.
 * Returns 0, -ETIMEDOUT, -ECANCELED, -EBUSY, -EBADF (closed meanwhile). */
CR_API CR_CHECKED int cr_wait_readable(struct cr_conn *conn);
CR_API CR_CHECKED int cr_wait_readable_until(struct cr_conn *conn, int64_t deadline_ns);
CR_API CR_CHECKED int cr_wait_writable(struct cr_conn *conn);
CR_API CR_CHECKED int cr_wait_writable_until(struct cr_conn *conn, int64_t deadline_ns);

/* Half close: the peer reads an end, and receiving goes on. Returns 0, -ENOTCONN (not connected, or no longer), -EOPNOTSUPP (no
 * socket; a datagram socket of a network of our own), -EPERM (neither in a coroutine nor in a task); of a network of our own
 * also -EBADF (that is closed). Does not suspend, but for a coroutine elsewhere than on such a network's own worker: then also
 * -ENOMEM, -EXDEV. A task elsewhere is told 0 when it is under way, not what has come of it. */
CR_API int cr_close_write(struct cr_conn *conn);

/* Closes, gives back what is still lent, and frees conn. A coroutine that waits on it gets -EBADF. NULL is ignored.
 * Does not suspend. */
CR_API void cr_close(struct cr_conn *conn);

/* Closes with a reset (TCP): what was not yet sent is dropped, and no TIME-WAIT stays. Otherwise as cr_close. */
CR_API void cr_close_reset(struct cr_conn *conn);

/* The local and the peer's address as a URL. Return the length; -ENOTCONN, -ENOBUFS, -EOPNOTSUPP. Do not suspend. */
CR_API int cr_local_url(const struct cr_conn *conn, char *buf, size_t size_bytes);
CR_API int cr_peer_url(const struct cr_conn *conn, char *buf, size_t size_bytes);

/* Datagrams: a socket bound to udp://HOST:PORT that talks to anyone. Errors as cr_listen. */
struct cr_addr {
    struct sockaddr_storage sa; /* a sockaddr of its family */
    socklen_t size_bytes;
};
CR_API CR_CHECKED int cr_bind(struct cr_conn **out, const char *url, const struct cr_conn_opts *opts);
CR_API CR_CHECKED int cr_bind_until(struct cr_conn **out, const char *url, const struct cr_conn_opts *opts,
                                    int64_t deadline_ns);

/* One datagram; one longer than size_bytes is cut, and the number returned is then its whole length.
 *   from: receives the sender; may be NULL. to: NULL on a dialled socket */
CR_API CR_CHECKED ssize_t cr_recv_from(struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from);
CR_API CR_CHECKED ssize_t cr_recv_from_until(struct cr_conn *conn, void *buf, size_t size_bytes,
                                             struct cr_addr *from, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_send_to(struct cr_conn *conn, const void *buf, size_t size_bytes,
                                     const struct cr_addr *to);
CR_API CR_CHECKED ssize_t cr_send_to_until(struct cr_conn *conn, const void *buf, size_t size_bytes,
                                           const struct cr_addr *to, int64_t deadline_ns);

/* Looks a name up: numeric addresses and localhost (RFC 6761) at once, others with c-ares (hosts file, then DNS).
 *   addrs, count: receives up to count addresses with that port, in the order to try them
 * Returns how many; -EINVAL, -ENOENT (unknown name), -EAGAIN (no server answered), -ETIMEDOUT, -ECANCELED, -ENOMEM. */
CR_API CR_CHECKED int cr_resolve(const char *host, uint16_t port, struct cr_addr *addrs, int count);
CR_API CR_CHECKED int cr_resolve_until(const char *host, uint16_t port, struct cr_addr *addrs, int count,
                                       int64_t deadline_ns);

/* The same on a network, as the calls do it that name it in their options (NULL: the kernel's). If it has name servers of its own (dns=, crore/net.h), those are asked instead, over
 * it and nothing else; then addresses to which it has no way come last, and else IPv6 before IPv4. Returns also -EBADF (it was closed meanwhile). From any worker of its runtime. */
CR_API CR_CHECKED int cr_resolve_on(struct cr_net *net, const char *host, uint16_t port, struct cr_addr *addrs, int count);
CR_API CR_CHECKED int cr_resolve_on_until(struct cr_net *net, const char *host, uint16_t port, struct cr_addr *addrs, int count, int64_t deadline_ns);

/* Any fd of the caller's: pipe, terminal, signalfd, eventfd, socket of whatever kind. Set non-blocking where the kernel can
 * poll it; otherwise (regular files) as what cr_file_open opens.
 * Takes the fd over: cr_close closes it. Returns 0, -EBADF, -EEXIST (already taken over), -ENOMEM, -EPERM; on an error
 * the fd stays the caller's. */
CR_API CR_CHECKED int cr_conn_from_fd(struct cr_conn **out, int fd);

/* The fd behind it: still conn's; for setsockopt and the like. -EOPNOTSUPP if there is none. Does not suspend. */
CR_API int cr_conn_fd(const struct cr_conn *conn);

/* Regular files, as connections: cr_read and cr_write go on from where the last one stopped; several at once on one file should say where (cr_pread, cr_pwrite). flags and mode as open(2). What the page cache has is read
 * at once; what would wait for the disk is done on a thread of cr_blocking's, as are opening and, mostly, writing. Closing does not take the
 * fd away from a transfer that has begun; it goes on to its end. Deadlines bound the wait for a thread. All suspend.
 * Return as open, pread and pwrite, and what cr_blocking does: -ETIMEDOUT, -ECANCELED, -EAGAIN, -ENOMEM (nothing was done). */
CR_API CR_CHECKED int cr_file_open(struct cr_conn **out, const char *path, int flags, mode_t mode);
CR_API CR_CHECKED ssize_t cr_pread(struct cr_conn *file, void *buf, size_t size_bytes, int64_t offset);
CR_API CR_CHECKED ssize_t cr_pwrite(struct cr_conn *file, const void *buf, size_t size_bytes, int64_t offset);

#ifdef __cplusplus
}
#endif
#endif
