/* The kernel's network: listening, accepting, dialling. */
#include "io/io.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "os/os.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define DEFAULT_BACKLOG 4096
#define MAX_ADDRESSES 16
#define KEEPALIVE_MOST_S 32767 /* the kernel's */
#define KEEPALIVE_AGAIN_S 75   /* as on networks of our own (net/tcp/timers.c) */
#define KEEPALIVE_TRIES 9

static const struct cr__listener_ops listener_ops;

static struct cr_addr unix_addr(const struct cr__url *url)
{
    struct cr_addr addr = {0};
    struct sockaddr_un *un = (void *)&addr.sa;
    size_t length = strlen(url->host);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, url->host, length + 1);
    if (url->host[0] == '@') {
        un->sun_path[0] = '\0';
        addr.size_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    } else {
        addr.size_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    }
    return addr;
}

/* The addresses to listen on or to dial; an empty host is every address of this machine. */
static int addresses(const struct cr__url *url, struct cr_addr *addrs, int count, int64_t deadline_ns)
{
    if (url->scheme == CR__UNIX) {
        addrs[0] = unix_addr(url);
        return 1;
    }
    if (url->host[0] != '\0')
        return cr_resolve_until(url->host, url->port, addrs, count, deadline_ns);
    int n = cr_resolve_until("::", url->port, addrs, 1, deadline_ns);
    return n < 0 ? n : n + cr_resolve_until("0.0.0.0", url->port, addrs + 1, 1, deadline_ns);
}

/* When a silent peer is given up; accepted sockets inherit it. The kernel counts keep-alives in seconds. */
static int set_patience(int fd, const struct cr_conn_opts *opts)
{
    int r = 0;
    if (opts->user_timeout_ms)
        r = cr__os_sockopt_set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, opts->user_timeout_ms);
    if (r < 0 || !opts->keepalive_ms)
        return r;
    int seconds = opts->keepalive_ms / 1000 + (opts->keepalive_ms % 1000 > 0);
    const int sets[][3] = {
        {IPPROTO_TCP, TCP_KEEPIDLE, seconds < KEEPALIVE_MOST_S ? seconds : KEEPALIVE_MOST_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, seconds < KEEPALIVE_AGAIN_S ? seconds : KEEPALIVE_AGAIN_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_TRIES},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
    };
    for (size_t i = 0; i < sizeof(sets) / sizeof(*sets) && r == 0; i++)
        r = cr__os_sockopt_set(fd, sets[i][0], sets[i][1], sets[i][2]);
    return r;
}

static int set_options(int fd, int family, const struct cr__url *url, const struct cr_conn_opts *opts)
{
    if (url->scheme == CR__TCP && !(opts->flags & CR_NAGLE))
        cr__os_sockopt_set(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* accepted sockets inherit it */
    if (family == AF_INET6)
        cr__os_sockopt_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, (opts->flags & CR_V6_ONLY) != 0);
    if (opts->send_buffer_bytes)
        cr__os_sockopt_set(fd, SOL_SOCKET, SO_SNDBUF, opts->send_buffer_bytes);
    if (opts->recv_buffer_bytes)
        cr__os_sockopt_set(fd, SOL_SOCKET, SO_RCVBUF, opts->recv_buffer_bytes);
    int r = url->scheme == CR__TCP ? set_patience(fd, opts) : 0;
    return r == 0 && (opts->flags & CR_REUSE_PORT) ? cr__os_sockopt_set(fd, SOL_SOCKET, SO_REUSEPORT, 1) : r;
}

static bool opts_make_sense(const struct cr_conn_opts *opts)
{
    return !(opts->flags & ~(unsigned)(CR_REUSE_PORT | CR_V6_ONLY | CR_NAGLE | CR__FIRST_ON_PORT | CR__NOT_AHEAD)) && opts->backlog >= 0 &&
           opts->send_buffer_bytes >= 0 && opts->recv_buffer_bytes >= 0 && opts->keepalive_ms >= 0 && opts->user_timeout_ms >= 0;
}

static int open_socket(const struct cr_addr *addr, const struct cr__url *url, const struct cr_conn_opts *opts)
{
    int type = url->scheme == CR__UDP ? SOCK_DGRAM : SOCK_STREAM;
    int fd = cr__os_socket(addr->sa.ss_family, type);
    if (fd < 0)
        return fd;
    int r = set_options(fd, addr->sa.ss_family, url, opts);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    return fd;
}

static enum cr__fd_kind kind_of(const struct cr__url *url)
{
    return url->scheme == CR__TCP ? CR__FD_TCP : CR__FD_SOCKET;
}

static const struct cr__conn_ops *ops_of(const struct cr__url *url)
{
    return url->scheme == CR__UDP ? &cr__datagram_ops : &cr__stream_ops;
}

/* ---- Listening ---------------------------------------------------------------------------------------------- */

/* A socket file that nobody listens on any more is in the way only. */
static bool remove_stale(const struct cr_addr *addr, const char *path)
{
    mode_t mode;
    if (cr__os_lstat_mode(path, &mode) < 0 || !S_ISSOCK(mode))
        return false;
    int fd = cr__os_socket(AF_UNIX, SOCK_STREAM);
    if (fd < 0)
        return false;
    int r = cr__os_connect(fd, (const struct sockaddr *)&addr->sa, addr->size_bytes);
    cr__os_close(fd);
    return r == -ECONNREFUSED && cr__os_unlink(path) == 0;
}

static bool has_file(const struct cr__url *url)
{
    return url->scheme == CR__UNIX && url->host[0] == '/';
}

static int bind_socket(int fd, const struct cr_addr *addr, const struct cr__url *url, const struct cr_conn_opts *opts)
{
    if (url->scheme == CR__TCP)
        cr__os_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, 1); /* ports in TIME-WAIT */
    int r = cr__os_bind(fd, (const struct sockaddr *)&addr->sa, addr->size_bytes);
    if (r == -EADDRINUSE && has_file(url) && remove_stale(addr, url->host))
        r = cr__os_bind(fd, (const struct sockaddr *)&addr->sa, addr->size_bytes);
    if (r == 0 && (opts->flags & CR__FIRST_ON_PORT))
        r = cr__os_sockopt_set(fd, SOL_SOCKET, SO_REUSEPORT, 1); /* not before: it would share the port with listeners of others */
    if (r == 0 && has_file(url) && opts->mode) {
        r = cr__os_chmod(url->host, opts->mode);
        if (r < 0)
            cr__os_unlink(url->host);
    }
    return r;
}

/* Opens a socket that is bound to the first of the URL's addresses that there is. */
static int bind_any(const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr_addr addrs[MAX_ADDRESSES];
    int count = addresses(url, addrs, MAX_ADDRESSES, deadline_ns);
    int r = count;
    for (int i = 0; i < count; i++) {
        int fd = r = open_socket(&addrs[i], url, opts);
        if (fd < 0)
            continue;
        r = bind_socket(fd, &addrs[i], url, opts);
        if (r == 0)
            return fd;
        cr__os_close(fd);
        if (r == -EADDRINUSE || r == -EACCES)
            return r;
    }
    return r;
}

static int kernel_listen(struct cr_net *net, struct cr_listener **out, const struct cr__url *url,
                         const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    (void)net;
    if (url->scheme == CR__UDP || !opts_make_sense(opts))
        return -EINVAL;
    int fd = bind_any(url, opts, deadline_ns);
    if (fd < 0)
        return fd;
    struct cr__fd_conn *c = NULL;
    int r = cr__os_listen(fd, opts->backlog ? opts->backlog : DEFAULT_BACKLOG);
    if (r == 0)
        r = cr__fd_conn_open(&c, fd, kind_of(url), NULL, true, false);
    if (r < 0) {
        cr__os_close(fd);
        if (has_file(url))
            cr__os_unlink(url->host);
        return r;
    }
    c->listener.ops = &listener_ops;
    c->poll.scheme = (uint8_t)url->scheme;
    c->poll.unlink_path = has_file(url);
    if (!(opts->flags & CR__NOT_AHEAD))
        cr__ahead_allow(cr__worker_here(), &c->poll, CR__AHEAD_SOCKETS, opts->backlog ? (unsigned)opts->backlog : DEFAULT_BACKLOG);
    *out = &c->listener;
    return 0;
}

static struct cr__fd_conn *of_listener(const struct cr_listener *l)
{
    return CR__CONTAINER(l, struct cr__fd_conn, listener);
}

/* Errors of the connection itself, which died while it waited to be accepted: the next one is meant. */
static bool accept_again(int r)
{
    switch (r) {
    case -EINTR:
    case -ECONNABORTED:
    case -EPROTO:
    case -ENETDOWN:
    case -EHOSTDOWN:
    case -EHOSTUNREACH:
    case -ENETUNREACH:
        return true;
    default:
        return false;
    }
}

/* Accepts only if there is memory for the connection: else it stays in the backlog. */
static ssize_t try_accept(struct cr__fd_conn *listener, void *unused)
{
    struct cr__worker *worker = cr__worker_here();
    struct cr__io *io = worker->io;
    void *room = cr__slab_get(&io->conns);
    (void)unused;
    if (!room)
        return -ENOMEM;
    cr__slab_put(&io->conns, room);
    int fd = -EINVAL;
    if (listener->poll.ahead)
        fd = cr__ahead_accept(worker, &listener->poll);
    if (fd != -EINVAL)
        return fd;
    do
        fd = cr__os_accept(listener->poll.fd);
    while (fd < 0 && accept_again(fd));
    return fd;
}

/* Makes a connection of what was accepted, or closes it. */
static int accepted(struct cr_conn **out, int fd, enum cr__fd_kind kind, uint8_t scheme)
{
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, kind, &cr__stream_ops, false, true);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    c->poll.scheme = scheme;
    cr__ahead_allow(cr__worker_here(), &c->poll, CR__AHEAD_BYTES, 0);
    *out = &c->conn;
    return 0;
}

static int listener_accept(struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__fd_conn *lc = of_listener(l);
    enum cr__fd_kind kind = lc->poll.kind;
    uint8_t scheme = lc->poll.scheme;
    int fd = (int)cr__transfer(lc, CR__IN, deadline_ns, try_accept, NULL);
    return fd < 0 ? fd : accepted(out, fd, kind, scheme);
}

static int listener_accept_now(struct cr_listener *l, struct cr_conn **out)
{
    struct cr__fd_conn *lc = of_listener(l);
    int fd = (int)try_accept(lc, NULL);
    if (fd == -EAGAIN) /* a poller that accepts ahead does so only while its worker is not stuck */
        fd = cr__os_accept(lc->poll.fd);
    return fd < 0 ? fd : accepted(out, fd, lc->poll.kind, lc->poll.scheme);
}

static int listener_url(const struct cr_listener *l, char *buf, size_t size_bytes)
{
    const struct cr__fd_conn *c = of_listener(l);
    struct cr_addr addr = {.size_bytes = sizeof(addr.sa)};
    int r = cr__os_sockname(c->poll.fd, (struct sockaddr *)&addr.sa, &addr.size_bytes);
    return r < 0 ? r : cr__url_format(c->poll.scheme, &addr, buf, size_bytes);
}

static void listener_close(struct cr_listener *l)
{
    struct cr__fd_conn *c = of_listener(l);
    char url[sizeof(struct sockaddr_un) + 8];
    if (c->poll.unlink_path && listener_url(l, url, sizeof(url)) > 0)
        cr__os_unlink(url + strlen("unix:"));
    cr__fd_conn_close(c);
}

static const struct cr__listener_ops listener_ops = {
    .accept = listener_accept, .accept_now = listener_accept_now, .close = listener_close, .url = listener_url};

static int kernel_bind(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                       int64_t deadline_ns)
{
    (void)net;
    if (url->scheme != CR__UDP || !opts_make_sense(opts))
        return -EINVAL;
    int fd = bind_any(url, opts, deadline_ns);
    if (fd < 0)
        return fd;
    struct cr__fd_conn *c;
    int r = cr__fd_conn_open(&c, fd, CR__FD_SOCKET, &cr__datagram_ops, false, true);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    c->poll.scheme = CR__UDP;
    *out = &c->conn;
    return 0;
}

/* ---- Dialling ----------------------------------------------------------------------------------------------- */

/* Binds to the address that the caller wants to come from; the kernel chooses the port when it knows the peer's. */
static int bind_source(int fd, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__url source = {.scheme = url->scheme};
    struct cr_addr addr;
    int r = cr__url_parse_authority(&source, opts->source, false);
    if (r < 0)
        return r;
    r = cr_resolve_until(source.host, source.port, &addr, 1, deadline_ns);
    if (r < 0)
        return r;
    if (source.port == 0)
        cr__os_sockopt_set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    else
        cr__os_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    return cr__os_bind(fd, (const struct sockaddr *)&addr.sa, addr.size_bytes);
}

/* Begins to connect; then the socket is watched, so that the answer is an edge. Closes fd on an error. */
static int connect_until(struct cr__fd_conn **out, int fd, const struct cr_addr *addr, const struct cr__url *url,
                         int64_t deadline_ns)
{
    int connected = cr__os_connect(fd, (const struct sockaddr *)&addr->sa, addr->size_bytes);
    int r = connected;
    if (connected == 0 || connected == -EINPROGRESS)
        r = cr__fd_conn_open(out, fd, kind_of(url), ops_of(url), false, connected == 0);
    if (r >= 0 && url->scheme != CR__UDP)
        cr__ahead_allow(cr__worker_here(), &(*out)->poll, CR__AHEAD_BYTES, 0);
    if (r < 0)
        cr__os_close(fd); /* a Unix socket whose backlog is full says -EAGAIN: the caller may try again */
    if (r < 0 || connected == 0)
        return r;
    struct cr__fd_conn *c = *out;
    r = cr__poll_wait(&c->poll, CR__OUT, deadline_ns);
    int error = 0;
    if (r == 0)
        r = cr__os_sockopt_get(fd, SOL_SOCKET, SO_ERROR, &error);
    if (r == 0 && error == 0)
        return 0;
    cr__fd_conn_close(c);
    return r < 0 ? r : -error;
}

static int dial_one(struct cr__fd_conn **out, const struct cr_addr *addr, const struct cr__url *url,
                    const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    int fd = open_socket(addr, url, opts);
    if (fd < 0)
        return fd;
    int r = opts->source ? bind_source(fd, url, opts, deadline_ns) : 0;
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    return connect_until(out, fd, addr, url, deadline_ns);
}

/* A deadline for the first of so many attempts: one that is not answered must leave time for the others. */
static int64_t share_of(int64_t deadline_ns, int attempts)
{
    int64_t now_ns = cr_now();
    return deadline_ns == CR_FOREVER || deadline_ns <= now_ns ? deadline_ns : now_ns + (deadline_ns - now_ns) / attempts;
}

static int kernel_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts,
                       int64_t deadline_ns)
{
    (void)net;
    if (!opts_make_sense(opts) || (url->scheme != CR__UNIX && url->host[0] == '\0'))
        return -EINVAL;
    struct cr_addr addrs[MAX_ADDRESSES];
    int count = addresses(url, addrs, MAX_ADDRESSES, deadline_ns);
    int r = count;
    for (int i = 0; i < count; i++) {
        struct cr__fd_conn *c;
        r = dial_one(&c, &addrs[i], url, opts, share_of(deadline_ns, count - i));
        if (r == 0) {
            c->poll.scheme = (uint8_t)url->scheme;
            *out = &c->conn;
            return 0;
        }
        if (r == -ETIMEDOUT && deadline_ns != CR_FOREVER && cr_now() >= deadline_ns)
            break;
        if (r == -ECANCELED || r == -EMFILE || r == -ENFILE || r == -ENOMEM)
            break;
    }
    return r;
}

static const struct cr__net_ops kernel_ops = {.listen = kernel_listen, .dial = kernel_dial, .bind = kernel_bind};

struct cr_net cr__kernel_net = {.ops = &kernel_ops};
