/* libcrore-packetdrill.so: one host of this stack as packetdrill (https://github.com/google/packetdrill) drives what it tests:
 *
 *     packetdrill --so_filename=build/tests/libcrore-packetdrill.so --so_flags="addr=192.168.0.1 addr=fd3d:fa7b:d17d::1" ... script.pkt
 *
 * --so_flags: addr=IP, up to 7 (those two are what there is without), mtu=BYTES, ecn, fixed_isn. Everybody else is on the link, and questions for an Ethernet address are answered
 * here: the tool's packets are IP's.
 *
 * Time is virtual. It goes on in usleep, in netdev_receive, to when something leaves, and by a microsecond with each look at the clock, since the tool spins on that. The tool makes
 * calls that block on a thread of their own, and goes on with its script on the other one. So a call that blocks first waits, in real time, for somebody else to do something; if
 * nobody does (it is the only thread) it moves the clock itself, and if nothing will ever be due it answers EDEADLK.
 *
 * Not there (ENOSYS): epoll, pipe, splice. What a socket cannot do is EOPNOTSUPP, ENOPROTOOPT. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>

#include "packetdrill_host.h"

/* ---- Sockets --------------------------------------------------------------------------------------------------- */

static struct drill_socket *socket_of(struct drill *drill, int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + FDS && drill->sockets[fd - FIRST_FD].type ? &drill->sockets[fd - FIRST_FD] : NULL;
}

static int new_fd(struct drill *drill, int domain, int type)
{
    for (int i = 0; i < FDS; i++)
        if (!drill->sockets[i].type) {
            drill->sockets[i] = (struct drill_socket){.domain = domain, .type = type, .blocks = true, .opts.nagle = true};
            return FIRST_FD + i;
        }
    return -EMFILE;
}

static int ip_of(const struct drill_socket *s, const struct sockaddr *address, socklen_t size, struct cr__ip *ip, uint16_t *port)
{
    if (!address || size < sizeof(sa_family_t) || address->sa_family != s->domain)
        return -EAFNOSUPPORT;
    if (s->domain == AF_INET && size >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const void *)address;
        *ip = in->sin_addr.s_addr == INADDR_ANY ? (struct cr__ip){.parts = {0}} : cr__ip_v4(in->sin_addr.s_addr);
        *port = ntohs(in->sin_port);
        return 0;
    }
    if (s->domain == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        memcpy(ip->bytes, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
        return 0;
    }
    return -EINVAL;
}

static void address_of(const struct drill_socket *s, const struct cr__ip *ip, uint16_t port, struct sockaddr *address, socklen_t *size)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = ip->parts[3]};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (!address || !size)
        return;
    memcpy(&in6.sin6_addr, ip->bytes, 16);
    socklen_t whole = s->domain == AF_INET ? sizeof(in) : sizeof(in6);
    memcpy(address, s->domain == AF_INET ? (void *)&in : (void *)&in6, *size < whole ? *size : whole);
    *size = whole;
}

static bool is_any(const struct cr__ip *ip)
{
    return !(ip->halves[0] | ip->halves[1]);
}

static bool is_opening(const struct cr__tcp *tcp)
{
    return tcp->state == CR__TCP_SYN_SENT || tcp->state == CR__TCP_SYN_RECEIVED;
}

static int open_udp(struct drill *drill, struct drill_socket *s)
{
    return s->udp ? 0 : cr__udp_open(&drill->host, &s->udp, is_any(&s->ip) ? NULL : &s->ip, s->port);
}

static int drill_socket(void *userdata, int domain, int type, int protocol)
{
    struct drill *drill = enter(userdata);
    int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (domain != AF_INET && domain != AF_INET6)
        return (int)answer(drill, -EAFNOSUPPORT);
    if ((kind != SOCK_STREAM || (protocol && protocol != IPPROTO_TCP)) && (kind != SOCK_DGRAM || (protocol && protocol != IPPROTO_UDP)))
        return (int)answer(drill, -EPROTONOSUPPORT);
    int fd = new_fd(drill, domain, kind);
    if (fd >= 0)
        socket_of(drill, fd)->blocks = !(type & SOCK_NONBLOCK);
    return (int)answer(drill, fd);
}

static int drill_bind(void *userdata, int fd, const struct sockaddr *address, socklen_t size)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    int rc = s ? ip_of(s, address, size, &s->ip, &s->port) : -EBADF;
    if (rc == 0 && !is_any(&s->ip) && !cr__ip_is_ours(&drill->host, &s->ip))
        rc = -EADDRNOTAVAIL;
    if (rc == 0 && s->type == SOCK_DGRAM)
        rc = open_udp(drill, s);
    return (int)answer(drill, rc);
}

static int drill_listen(void *userdata, int fd, int backlog)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    if (!s || s->type != SOCK_STREAM)
        return (int)answer(drill, s ? -EOPNOTSUPP : -EBADF);
    if (s->listener || s->tcp)
        return (int)answer(drill, s->listener ? 0 : -EINVAL);
    s->opts.backlog = backlog > 0 ? backlog : 1;
    return (int)answer(drill, cr__tcp_listen(&drill->host, &s->listener, is_any(&s->ip) ? NULL : &s->ip, s->port, &s->opts));
}

static int drill_accept(void *userdata, int fd, struct sockaddr *address, socklen_t *size)
{
    struct drill *drill = enter(userdata);
    unsigned naps = 0;
    for (;;) {
        struct drill_socket *s = socket_of(drill, fd);
        if (!s || !s->listener)
            return (int)answer(drill, s ? -EINVAL : -EBADF);
        struct cr__tcp *tcp = cr__tcp_accept(s->listener);
        if (tcp) {
            int accepted = new_fd(drill, s->domain, SOCK_STREAM);
            if (accepted < 0) {
                cr__tcp_abort(tcp);
                return (int)answer(drill, accepted);
            }
            struct drill_socket *a = socket_of(drill, accepted);
            a->tcp = tcp;
            a->opts = s->opts;
            address_of(a, &tcp->peer, tcp->peer_port, address, size);
            return (int)answer(drill, accepted);
        }
        if (!s->blocks || !await(drill, INT64_MAX, WAITS, &naps))
            return (int)answer(drill, s->blocks ? -EDEADLK : -EAGAIN);
    }
}

/* The connection's error, once, as sockets tell it. */
static int take_error(struct drill_socket *s)
{
    int error = s->error;
    s->error = 0;
    if (error == 0 && s->tcp && s->tcp->state == CR__TCP_CLOSED && s->tcp->error && !s->error_is_told) {
        s->error_is_told = true;
        error = s->tcp->error;
    }
    return error;
}

static int connect_tcp(struct drill *drill, int fd, const struct cr__ip *ip, uint16_t port)
{
    struct drill_socket *s = socket_of(drill, fd);
    unsigned naps = 0;
    if (s->tcp)
        return is_opening(s->tcp) ? -EALREADY : s->tcp->state == CR__TCP_CLOSED ? -(take_error(s) ?: ECONNABORTED) : -EISCONN;
    int rc = cr__tcp_dial(&drill->host, &s->tcp, is_any(&s->ip) ? NULL : &s->ip, s->port, ip, port, &s->opts);
    if (rc < 0)
        s->tcp = NULL;
    if (rc < 0 || !s->blocks)
        return rc < 0 ? rc : -EINPROGRESS;
    while ((s = socket_of(drill, fd)) && s->tcp && is_opening(s->tcp))
        if (!await(drill, INT64_MAX, WAITS, &naps))
            return -EDEADLK;
    return !s || !s->tcp ? -EBADF : -take_error(s);
}

static int drill_connect(void *userdata, int fd, const struct sockaddr *address, socklen_t size)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    struct cr__ip ip;
    uint16_t port;
    int rc = s ? ip_of(s, address, size, &ip, &port) : -EBADF;
    if (rc == 0 && s->type == SOCK_DGRAM) {
        rc = open_udp(drill, s);
        rc = rc < 0 ? rc : cr__udp_connect(s->udp, &ip, port);
    } else if (rc == 0) {
        rc = s->listener ? -EISCONN : connect_tcp(drill, fd, &ip, port);
    }
    return (int)answer(drill, rc);
}

/* ---- Data ------------------------------------------------------------------------------------------------------ */

static ssize_t receive_once(struct drill *drill, struct drill_socket *s, const struct iovec *iov, int count, struct sockaddr *address, socklen_t *size)
{
    struct cr__udp_from from;
    if (s->type == SOCK_STREAM) {
        if (!s->tcp || is_opening(s->tcp))
            return -ENOTCONN;
        ssize_t n = cr__tcp_recv(s->tcp, iov, count);
        if (size)
            *size = 0;
        if (n == -EAGAIN)
            return s->read_is_shut ? 0 : n;
        return n < 0 ? -take_error(s) : n;
    }
    int rc = open_udp(drill, s);
    ssize_t n = rc < 0 ? rc : cr__udp_recv(s->udp, iov, count, &from);
    if (n >= 0)
        address_of(s, &from.from, from.port, address, size);
    return n;
}

static ssize_t receive(void *userdata, int fd, const struct iovec *iov, int count, int flags, struct sockaddr *address, socklen_t *size)
{
    struct drill *drill = enter(userdata);
    unsigned naps = 0;
    if (flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL))
        return answer(drill, -EOPNOTSUPP);
    for (;;) {
        struct drill_socket *s = socket_of(drill, fd);
        ssize_t n = s ? receive_once(drill, s, iov, count, address, size) : -EBADF;
        if (n != -EAGAIN || !s->blocks || (flags & MSG_DONTWAIT))
            return answer(drill, n);
        if (!await(drill, INT64_MAX, WAITS, &naps))
            return answer(drill, -EDEADLK);
    }
}

static size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* What is left of iov behind `done` bytes, in rest: how many. */
static int iov_rest(const struct iovec *iov, int count, size_t done, struct iovec *rest)
{
    int left = 0;
    for (int i = 0; i < count; i++) {
        size_t skip = done < iov[i].iov_len ? done : iov[i].iov_len;
        done -= skip;
        if (skip < iov[i].iov_len)
            rest[left++] = (struct iovec){(char *)iov[i].iov_base + skip, iov[i].iov_len - skip};
    }
    return left;
}

static ssize_t send_once(struct drill *drill, struct drill_socket *s, const struct iovec *iov, int count, int flags, const struct sockaddr *address, socklen_t size)
{
    struct cr__ip ip;
    uint16_t port = 0;
    if (s->type == SOCK_STREAM) {
        if (!s->tcp || is_opening(s->tcp))
            return s->tcp ? -EAGAIN : -EPIPE;
        ssize_t n = cr__tcp_send(s->tcp, iov, count, s->corked || (flags & MSG_MORE));
        if (n == -ENOBUFS || n >= 0 || n == -EAGAIN || n == -EPIPE)
            return n == -ENOBUFS ? -EAGAIN : n;
        int error = take_error(s);
        return error ? -error : -EPIPE;
    }
    int rc = address ? ip_of(s, address, size, &ip, &port) : 0;
    rc = rc < 0 ? rc : open_udp(drill, s);
    return rc < 0 ? rc : cr__udp_send(s->udp, iov, count, address ? &ip : NULL, port, NULL);
}

static ssize_t transmit(void *userdata, int fd, const struct iovec *iov, int count, int flags, const struct sockaddr *address, socklen_t size)
{
    struct drill *drill = enter(userdata);
    unsigned naps = 0;
    size_t done = 0, whole = iov_bytes(iov, count);
    struct iovec rest[64];
    if ((flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)) || count > (int)CR__COUNT(rest))
        return answer(drill, -EOPNOTSUPP);
    for (;;) {
        struct drill_socket *s = socket_of(drill, fd);
        ssize_t n = s ? send_once(drill, s, rest, iov_rest(iov, count, done, rest), flags, address, size) : -EBADF;
        bool waits = s && s->blocks && !(flags & MSG_DONTWAIT);
        done += n > 0 ? (size_t)n : 0;
        if (done == whole && n >= 0)
            return answer(drill, (ssize_t)done);
        if ((n < 0 && n != -EAGAIN) || !waits)
            return answer(drill, done ? (ssize_t)done : n);
        if (n < 0 && !await(drill, INT64_MAX, WAITS, &naps))
            return answer(drill, -EDEADLK);
    }
}

static ssize_t drill_read(void *userdata, int fd, void *to, size_t count)
{
    return receive(userdata, fd, &(struct iovec){to, count}, 1, 0, NULL, NULL);
}

static ssize_t drill_readv(void *userdata, int fd, const struct iovec *iov, int count)
{
    return receive(userdata, fd, iov, count, 0, NULL, NULL);
}

static ssize_t drill_recv(void *userdata, int fd, void *to, size_t size, int flags)
{
    return receive(userdata, fd, &(struct iovec){to, size}, 1, flags, NULL, NULL);
}

static ssize_t drill_recvfrom(void *userdata, int fd, void *to, size_t size, int flags, struct sockaddr *address, socklen_t *address_size)
{
    return receive(userdata, fd, &(struct iovec){to, size}, 1, flags, address, address_size);
}

static ssize_t drill_recvmsg(void *userdata, int fd, struct msghdr *message, int flags)
{
    message->msg_controllen = 0;
    message->msg_flags = 0;
    return receive(userdata, fd, message->msg_iov, (int)message->msg_iovlen, flags, message->msg_name, message->msg_name ? &message->msg_namelen : NULL);
}

static ssize_t drill_write(void *userdata, int fd, const void *from, size_t count)
{
    return transmit(userdata, fd, &(struct iovec){(void *)from, count}, 1, 0, NULL, 0);
}

static ssize_t drill_writev(void *userdata, int fd, const struct iovec *iov, int count)
{
    return transmit(userdata, fd, iov, count, 0, NULL, 0);
}

static ssize_t drill_send(void *userdata, int fd, const void *from, size_t size, int flags)
{
    return transmit(userdata, fd, &(struct iovec){(void *)from, size}, 1, flags, NULL, 0);
}

static ssize_t drill_sendto(void *userdata, int fd, const void *from, size_t size, int flags, const struct sockaddr *address, socklen_t address_size)
{
    return transmit(userdata, fd, &(struct iovec){(void *)from, size}, 1, flags, address, address_size);
}

static ssize_t drill_sendmsg(void *userdata, int fd, const struct msghdr *message, int flags)
{
    return transmit(userdata, fd, message->msg_iov, (int)message->msg_iovlen, flags, message->msg_name, message->msg_namelen);
}

/* ---- The rest of a socket -------------------------------------------------------------------------------------- */

static int drill_fcntl(void *userdata, int fd, int command, ...)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    va_list args;
    va_start(args, command);
    int rc = -EINVAL;
    if (!s) {
        rc = -EBADF;
    } else if (command == F_GETFL) {
        rc = O_RDWR | (s->blocks ? 0 : O_NONBLOCK);
    } else if (command == F_SETFL) {
        s->blocks = !(va_arg(args, int) & O_NONBLOCK);
        rc = 0;
    }
    va_end(args);
    return (int)answer(drill, rc);
}

static int drill_ioctl(void *userdata, int fd, unsigned long request, ...)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    const struct cr__flight *flight = s && s->tcp ? s->tcp->flight : NULL;
    va_list args;
    va_start(args, request);
    int *out = va_arg(args, int *), rc = 0;
    va_end(args);
    if (!s)
        rc = -EBADF;
    else if (request == FIONREAD)
        *out = flight ? (int)flight->receive_bytes : 0;
    else if (request == SIOCOUTQ)
        *out = flight ? (int)flight->send_bytes : 0;
    else if (request == FIONBIO)
        s->blocks = !*out;
    else
        rc = -ENOTTY;
    return (int)answer(drill, rc);
}

static int drill_close(void *userdata, int fd)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    if (!s)
        return (int)answer(drill, -EBADF);
    if (s->listener)
        cr__tcp_unlisten(s->listener);
    if (s->tcp)
        (s->lingers_not ? cr__tcp_abort : cr__tcp_close)(s->tcp);
    if (s->udp)
        cr__udp_close(s->udp);
    *s = (struct drill_socket){.type = 0};
    return (int)answer(drill, 0);
}

static int drill_shutdown(void *userdata, int fd, int how)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    int rc = s ? 0 : -EBADF;
    if (s && (!s->tcp || is_opening(s->tcp)))
        rc = -ENOTCONN;
    if (rc == 0 && how != SHUT_WR)
        s->read_is_shut = true;
    if (rc == 0 && how != SHUT_RD)
        rc = cr__tcp_shutdown(s->tcp);
    return (int)answer(drill, rc);
}

/* As Linux has it, of what is known here. */
static void tell_info(const struct cr__tcp *tcp, struct tcp_info *out)
{
    struct cr_tcp_info info;
    memset(&info, 0, sizeof(info));
    cr__tcp_info(tcp, &info);
    *out = (struct tcp_info){
        .tcpi_state = info.state,
        .tcpi_ca_state = info.ca_state,
        .tcpi_retransmits = info.retransmits,
        .tcpi_probes = info.probes,
        .tcpi_backoff = info.backoff,
        .tcpi_options = info.options,
        .tcpi_snd_wscale = info.snd_wscale & 15,
        .tcpi_rcv_wscale = info.rcv_wscale & 15,
        .tcpi_rto = info.rto_us,
        .tcpi_ato = info.ato_us,
        .tcpi_snd_mss = info.snd_mss_bytes,
        .tcpi_rcv_mss = info.rcv_mss_bytes,
        .tcpi_unacked = info.unacked,
        .tcpi_sacked = info.sacked,
        .tcpi_lost = info.lost,
        .tcpi_retrans = info.retrans,
        .tcpi_last_data_sent = info.last_data_sent_ms,
        .tcpi_last_data_recv = info.last_data_recv_ms,
        .tcpi_pmtu = info.pmtu_bytes,
        .tcpi_rtt = info.rtt_us,
        .tcpi_rttvar = info.rttvar_us,
        .tcpi_snd_ssthresh = info.snd_ssthresh,
        .tcpi_snd_cwnd = info.snd_cwnd,
        .tcpi_advmss = info.advmss_bytes,
        .tcpi_reordering = info.reordering,
        .tcpi_rcv_space = info.rcv_space_bytes,
        .tcpi_total_retrans = info.total_retrans,
    };
}

static int number_option(struct drill_socket *s, int level, int option, int *out)
{
    switch (level << 16 | option) {
    case SOL_SOCKET << 16 | SO_ERROR: *out = take_error(s); return 0;
    case SOL_SOCKET << 16 | SO_TYPE: *out = s->type; return 0;
    case SOL_SOCKET << 16 | SO_KEEPALIVE: *out = s->opts.keepalive; return 0;
    case SOL_SOCKET << 16 | SO_SNDBUF: *out = (int)(s->tcp ? s->tcp->snd_limit_bytes : s->opts.send_limit_bytes); return 0;
    case SOL_SOCKET << 16 | SO_RCVBUF: *out = (int)(s->tcp ? s->tcp->rcv_limit_bytes : s->opts.recv_limit_bytes); return 0;
    case IPPROTO_TCP << 16 | TCP_NODELAY: *out = !s->opts.nagle; return 0;
    case IPPROTO_TCP << 16 | TCP_CORK: *out = s->corked; return 0;
    case IPPROTO_TCP << 16 | TCP_MAXSEG: *out = s->tcp ? s->tcp->mss_bytes : 536; return 0;
    case IPPROTO_TCP << 16 | TCP_KEEPIDLE: *out = (int)(s->opts.keepalive_ms ? s->opts.keepalive_ms / 1000 : 7200); return 0;
    case IPPROTO_TCP << 16 | TCP_USER_TIMEOUT: *out = (int)s->opts.user_timeout_ms; return 0;
    default: return -ENOPROTOOPT;
    }
}

static int drill_getsockopt(void *userdata, int fd, int level, int option, void *value, socklen_t *size)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    int number, rc;
    if (!s)
        return (int)answer(drill, -EBADF);
    if (level == IPPROTO_TCP && option == TCP_INFO) {
        struct tcp_info info = {.tcpi_state = s->listener ? TCP_LISTEN : TCP_CLOSE};
        if (s->tcp)
            tell_info(s->tcp, &info);
        *size = *size < sizeof(info) ? *size : sizeof(info);
        memcpy(value, &info, *size);
        return (int)answer(drill, 0);
    }
    rc = *size < sizeof(number) ? -EINVAL : number_option(s, level, option, &number);
    if (rc == 0) {
        memcpy(value, &number, sizeof(number));
        *size = sizeof(number);
    }
    return (int)answer(drill, rc);
}

/* To a connection that there is already. */
static void apply(struct drill_socket *s)
{
    struct cr__tcp *tcp = s->tcp;
    if (!tcp)
        return;
    tcp->flags &= ~(uint32_t)(CR__TCP_NAGLE | CR__TCP_KEEPALIVE);
    tcp->flags |= (s->opts.nagle ? CR__TCP_NAGLE : 0) | (s->opts.keepalive ? CR__TCP_KEEPALIVE : 0);
    tcp->keepalive_ms = s->opts.keepalive_ms;
    tcp->user_timeout_ms = s->opts.user_timeout_ms;
    if (tcp->state >= CR__TCP_ESTABLISHED)
        cr__tcp_output(tcp); /* what Nagle has held back */
    cr__tcp_arm(tcp);
}

static int set_number(struct drill_socket *s, int level, int option, int value)
{
    switch (level << 16 | option) {
    case SOL_SOCKET << 16 | SO_REUSEADDR:
    case SOL_SOCKET << 16 | SO_REUSEPORT: return 0; /* ports are free as soon as nobody listens */
    case SOL_SOCKET << 16 | SO_KEEPALIVE: s->opts.keepalive = value != 0; break;
    case SOL_SOCKET << 16 | SO_SNDBUF: s->opts.send_limit_bytes = (uint32_t)value; break;
    case SOL_SOCKET << 16 | SO_RCVBUF: s->opts.recv_limit_bytes = (uint32_t)value; break;
    case IPPROTO_TCP << 16 | TCP_NODELAY: s->opts.nagle = value == 0; break;
    case IPPROTO_TCP << 16 | TCP_KEEPIDLE: s->opts.keepalive_ms = (uint32_t)value * 1000; break;
    case IPPROTO_TCP << 16 | TCP_USER_TIMEOUT: s->opts.user_timeout_ms = (uint32_t)value; break;
    case IPPROTO_TCP << 16 | TCP_CORK:
        s->corked = value != 0;
        if (s->tcp && !s->corked)
            s->tcp->flags &= ~(uint32_t)CR__TCP_MORE;
        break;
    default: return -ENOPROTOOPT;
    }
    apply(s);
    return 0;
}

static int drill_setsockopt(void *userdata, int fd, int level, int option, const void *value, socklen_t size)
{
    struct drill *drill = enter(userdata);
    struct drill_socket *s = socket_of(drill, fd);
    int number = 0;
    if (!s || size < sizeof(number))
        return (int)answer(drill, s ? -EINVAL : -EBADF);
    if (level == SOL_SOCKET && option == SO_LINGER && size >= sizeof(struct linger)) {
        const struct linger *linger = value;
        s->lingers_not = linger->l_onoff && linger->l_linger == 0;
        return (int)answer(drill, 0);
    }
    memcpy(&number, value, sizeof(number));
    return (int)answer(drill, set_number(s, level, option, number));
}

static short ready_for(const struct drill_socket *s)
{
    if (s->listener)
        return s->listener->waiting ? POLLIN : 0;
    if (s->type == SOCK_DGRAM)
        return (short)(POLLOUT | (s->udp && cr__udp_readable(s->udp) ? POLLIN : 0));
    if (!s->tcp)
        return POLLOUT | POLLHUP;
    if (is_opening(s->tcp))
        return 0;
    short events = 0;
    if (cr__tcp_readable(s->tcp) || s->read_is_shut)
        events |= POLLIN;
    if (s->tcp->state == CR__TCP_CLOSED)
        return (short)(POLLIN | POLLOUT | POLLHUP | (s->tcp->error && !s->error_is_told ? POLLERR : 0));
    return (short)(events | (cr__tcp_send_room(s->tcp) ? POLLOUT : 0) | (s->tcp->flags & CR__TCP_FIN_RECEIVED ? POLLIN | POLLRDHUP : 0));
}

static int drill_poll(void *userdata, struct pollfd *fds, nfds_t count, int timeout_ms)
{
    struct drill *drill = enter(userdata);
    unsigned naps = 0;
    int64_t deadline_ns = timeout_ms < 0 ? INT64_MAX : drill->now_ns + timeout_ms * 1000000ll;
    for (;;) {
        int ready = 0;
        for (nfds_t i = 0; i < count; i++) {
            const struct drill_socket *s = socket_of(drill, fds[i].fd);
            fds[i].revents = (short)(s ? ready_for(s) & (fds[i].events | POLLERR | POLLHUP) : POLLNVAL);
            ready += fds[i].revents != 0;
        }
        if (ready || !await(drill, deadline_ns, WAITS, &naps))
            return (int)answer(drill, ready);
    }
}

/* ---- What there is not ----------------------------------------------------------------------------------------- */

static int nothing(void)
{
    errno = ENOSYS;
    return -1;
}

static int drill_epoll_create(void *userdata, int size)
{
    (void)userdata, (void)size;
    return nothing();
}

static int drill_epoll_ctl(void *userdata, int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    (void)userdata, (void)epoll_fd, (void)operation, (void)fd, (void)event;
    return nothing();
}

static int drill_epoll_wait(void *userdata, int epoll_fd, struct epoll_event *events, int most, int timeout_ms)
{
    (void)userdata, (void)epoll_fd, (void)events, (void)most, (void)timeout_ms;
    return nothing();
}

static int drill_pipe(void *userdata, int fds[2])
{
    (void)userdata, (void)fds;
    return nothing();
}

static int drill_splice(void *userdata, int from_fd, loff_t *from_offset, int to_fd, loff_t *to_offset, size_t size, unsigned flags)
{
    (void)userdata, (void)from_fd, (void)from_offset, (void)to_fd, (void)to_offset, (void)size, (void)flags;
    return nothing();
}

/* ---- Beginning and end ----------------------------------------------------------------------------------------- */

static struct drill the_drill;

static void no_event(struct cr__tcp *tcp, unsigned events)
{
    (void)tcp, (void)events;
}

static void no_accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
}

static void no_datagram(struct cr__udp *udp, unsigned events)
{
    (void)udp, (void)events;
}

__attribute__((noreturn)) static void refuse(const char *what)
{
    fprintf(stderr, "crore-packetdrill: %s\n", what);
    exit(1);
}

static void add_address(struct cr__host_config *config, const char *text)
{
    struct in_addr in;
    struct cr__ip ip;
    if (inet_pton(AF_INET, text, &in) == 1)
        ip = cr__ip_v4(in.s_addr);
    else if (inet_pton(AF_INET6, text, ip.bytes) != 1)
        refuse("an address in --so_flags is none");
    if (config->address_count == CR__HOST_ADDRESSES - 1)
        refuse("too many addresses in --so_flags");
    config->addresses[config->address_count++] = (struct cr__host_address){ip, cr__ip_is_v4(&ip) ? 96 + 16 : 64};
}

static void read_flags(const char *flags, struct cr__host_config *config, struct cr__tcp_config *tcp)
{
    char text[512], *rest = NULL;
    snprintf(text, sizeof(text), "%s", flags ? flags : "");
    for (char *word = strtok_r(text, " ,", &rest); word; word = strtok_r(NULL, " ,", &rest)) {
        if (strncmp(word, "addr=", 5) == 0)
            add_address(config, word + 5);
        else if (strncmp(word, "mtu=", 4) == 0)
            config->mtu_bytes = (uint16_t)atoi(word + 4);
        else if (strcmp(word, "ecn") == 0)
            tcp->ecn = true;
        else if (strcmp(word, "fixed_isn") == 0)
            tcp->isn_is_fixed = true;
        else
            refuse("--so_flags: addr=IP, mtu=BYTES, ecn, fixed_isn");
    }
    if (config->address_count == 0) { /* the tool's own defaults */
        add_address(config, "192.168.0.1");
        add_address(config, "fd3d:fa7b:d17d::1");
    }
}

static void drill_free(void *userdata)
{
    struct drill *drill = enter(userdata);
    cr__tcp_fini(&drill->host);
    cr__udp_fini(&drill->host);
    cr__host_fini(&drill->host);
    cr__packet_flush(&drill->cache);
    memset(drill->sockets, 0, sizeof(drill->sockets));
    pthread_mutex_unlock(&drill->lock);
}

__attribute__((visibility("default"))) void packetdrill_interface_init(const char *flags, struct packetdrill_interface *out);

void packetdrill_interface_init(const char *flags, struct packetdrill_interface *out)
{
    struct drill *drill = &the_drill;
    struct cr__host_config config = {.packets = &drill->cache, .seed = {1, 2}, .route_count = 2};
    struct cr__tcp_config tcp = {.above = {no_event, no_accepted}, .isn_for_tests = 0xfffffe00};
    struct cr__udp_config udp = {.event = no_datagram};
    memset(drill, 0, sizeof(*drill));
    pthread_mutex_init(&drill->lock, NULL);
    pthread_cond_init(&drill->changed, NULL);
    memcpy(config.ethernet, our_ethernet, 6);
    config.routes[0] = (struct cr__host_route){.to = cr__ip_v4(0), .prefix_bits = 96}; /* all are on the link */
    config.routes[1] = (struct cr__host_route){.prefix_bits = 0};
    read_flags(flags, &config, &tcp);
    drill->now_ns = START_NS;
    if (cr__host_init(&drill->host, &config, drill->now_ns) != 0 || cr__tcp_init(&drill->host, &tcp) != 0 || cr__udp_init(&drill->host, &udp) != 0)
        refuse("the host does not begin: see --so_flags");
    advance(drill, START_NS + SETTLE_NS);
    drill->out_count = 0;
    *out = (struct packetdrill_interface){
        .userdata = drill,
        .free = drill_free,
        .socket = drill_socket,
        .bind = drill_bind,
        .listen = drill_listen,
        .accept = drill_accept,
        .connect = drill_connect,
        .read = drill_read,
        .readv = drill_readv,
        .recv = drill_recv,
        .recvfrom = drill_recvfrom,
        .recvmsg = drill_recvmsg,
        .write = drill_write,
        .writev = drill_writev,
        .send = drill_send,
        .sendto = drill_sendto,
        .sendmsg = drill_sendmsg,
        .fcntl = drill_fcntl,
        .ioctl = drill_ioctl,
        .close = drill_close,
        .shutdown = drill_shutdown,
        .getsockopt = drill_getsockopt,
        .setsockopt = drill_setsockopt,
        .poll = drill_poll,
        .netdev_send = drill_netdev_send,
        .netdev_receive = drill_netdev_receive,
        .usleep = drill_usleep,
        .gettimeofday = drill_gettimeofday,
        .epoll_create = drill_epoll_create,
        .epoll_ctl = drill_epoll_ctl,
        .epoll_wait = drill_epoll_wait,
        .pipe = drill_pipe,
        .splice = drill_splice,
    };
}
