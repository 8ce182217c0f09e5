/* Names to addresses: numeric ones and localhost at once; others by c-ares, in a coroutine of its own, since c-ares wants a deep stack
 * and its callers have shallow ones. What is asked, how often, and what the answer means is all c-ares'; who carries it is the kernel, whose sockets
 * c-ares has itself, or, where a network has name servers of its own, that one (struct cr__asker, conn/conn.h): then c-ares' calls for sockets come here. */
#include "io/io.h"

#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <string.h>
#include <sys/time.h>

#include "os/os.h"

#define RESOLVER_STACK_BYTES ((size_t)256 << 10)
#define LOOKUP_ADDRESSES 32
#define RANKS 4

/* Shared by the caller and its resolver: the caller may have given up. Nothing of it lies on the caller's stack, which may be another one's meanwhile. */
struct lookup {
    char host[CR__HOST_BYTES];
    uint16_t port;
    int64_t deadline_ns;
    bool done;
    int trouble;             /* -ENOMEM, -EBADF (the network is closed): what a socket has met with, and c-ares takes for a server that does not answer. 0: none */
    _Atomic int users;
    int status;              /* when done: how many addresses, or -errno */
    struct cr__asker *asker; /* the resolver's; NULL: the kernel carries */
    struct cr_addr addrs[LOOKUP_ADDRESSES];
};

static void put(struct lookup *lookup)
{
    if (atomic_fetch_sub(&lookup->users, 1) == 1)
        cr__mem_free(lookup, sizeof(*lookup), CR__MEM_OTHER);
}

static int numeric(const char *host, uint16_t port, struct cr_addr *addr)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memset(addr, 0, sizeof(*addr));
    if (inet_pton(AF_INET, host, &in.sin_addr) == 1) {
        memcpy(&addr->sa, &in, addr->size_bytes = sizeof(in));
        return 1;
    }
    if (inet_pton(AF_INET6, host, &in6.sin6_addr) == 1) {
        memcpy(&addr->sa, &in6, addr->size_bytes = sizeof(in6));
        return 1;
    }
    return 0;
}

/* ---- What c-ares says -------------------------------------------------------------------------------------------- */

static int code_of(int ares_status)
{
    switch (ares_status) {
    case ARES_ENOMEM:
        return -ENOMEM;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_ENONAME:
        return -ENOENT;
    case ARES_EBADNAME:
    case ARES_EBADSTR:
        return -EINVAL;
    default:
        return -EAGAIN;
    }
}

static bool take_address(struct cr_addr *addr, const struct ares_addrinfo_node *node, uint16_t port)
{
    if (node->ai_family != AF_INET && node->ai_family != AF_INET6)
        return false;
    memset(addr, 0, sizeof(*addr));
    memcpy(&addr->sa, node->ai_addr, addr->size_bytes = (socklen_t)node->ai_addrlen);
    if (node->ai_family == AF_INET)
        ((struct sockaddr_in *)&addr->sa)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)&addr->sa)->sin6_port = htons(port);
    return true;
}

/* The kernel's are in order already. Others c-ares can't put in order, since it would ask the kernel for the way there: of RFC 6724, rule 1 (what can't be reached is last), and
 * then IPv6 before IPv4 (rule 6, as its table has it for most). */
static int rank_of(const struct lookup *lookup, const struct cr_addr *addr)
{
    struct cr__asker *asker = lookup->asker;
    return !asker ? 0 : (asker->ops->reaches(asker, addr) ? 0 : 2) + (addr->sa.ss_family == AF_INET);
}

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
    struct lookup *lookup = arg;
    int n = 0;
    (void)timeouts;
    lookup->done = true;
    if (status != ARES_SUCCESS) {
        lookup->status = code_of(status);
        return;
    }
    for (int rank = 0; rank < RANKS; rank++) {
        for (struct ares_addrinfo_node *node = info->nodes; node && n < LOOKUP_ADDRESSES; node = node->ai_next) {
            struct cr_addr addr;
            if (take_address(&addr, node, lookup->port) && rank_of(lookup, &addr) == rank)
                lookup->addrs[n++] = addr;
        }
    }
    lookup->status = n > 0 ? n : -ENOENT;
    ares_freeaddrinfo(info);
}

/* ---- What c-ares asks for, of who carries ----------------------------------------------------------------------------- */

/* c-ares' functions wish for errno. Not inlined: so its address is not kept across a switch. */
static CR__NOINLINE int answer(struct lookup *lookup, ssize_t r)
{
    if (r == -ENOMEM || r == -EBADF)
        lookup->trouble = (int)r;
    if (r >= 0)
        return (int)r;
    errno = (int)-r;
    return -1;
}

static ares_socket_t on_socket(int family, int type, int protocol, void *arg)
{
    struct lookup *lookup = arg;
    (void)family;
    (void)protocol;
    return answer(lookup, lookup->asker->ops->open(lookup->asker, type));
}

static int on_close(ares_socket_t s, void *arg)
{
    struct lookup *lookup = arg;
    lookup->asker->ops->close(lookup->asker, s);
    return 0;
}

static int on_connect(ares_socket_t s, const struct sockaddr *to, ares_socklen_t size_bytes, void *arg)
{
    struct lookup *lookup = arg;
    struct cr_addr addr = {.size_bytes = (socklen_t)size_bytes};
    if ((size_t)size_bytes > sizeof(addr.sa))
        return answer(lookup, -EINVAL);
    memcpy(&addr.sa, to, (size_t)size_bytes);
    return answer(lookup, lookup->asker->ops->connect(lookup->asker, s, &addr));
}

static ares_ssize_t on_recv(ares_socket_t s, void *buf, size_t size_bytes, int flags, struct sockaddr *from, ares_socklen_t *from_bytes, void *arg)
{
    struct lookup *lookup = arg;
    struct cr_addr addr = {0};
    (void)flags;
    ssize_t n = lookup->asker->ops->recv(lookup->asker, s, buf, size_bytes, &addr);
    if (n >= 0 && from && from_bytes) {
        memcpy(from, &addr.sa, addr.size_bytes < *from_bytes ? addr.size_bytes : *from_bytes);
        *from_bytes = addr.size_bytes;
    }
    return answer(lookup, n);
}

static ares_ssize_t on_send(ares_socket_t s, const struct iovec *iov, int count, void *arg)
{
    struct lookup *lookup = arg;
    return answer(lookup, lookup->asker->ops->send(lookup->asker, s, iov, count));
}

/* 0; an ARES_ code. */
static int go_by_asker(ares_channel channel, struct lookup *lookup)
{
    static const struct ares_socket_functions functions = {on_socket, on_close, on_connect, on_recv, on_send};
    ares_set_socket_functions(channel, &functions, lookup);
    return ares_set_servers_ports_csv(channel, lookup->asker->servers);
}

/* ---- Waiting ---------------------------------------------------------------------------------------------------------- */

/* How many it wants to know of. */
static int wanted_of(ares_channel channel, struct pollfd *sockets)
{
    ares_socket_t numbers[ARES_GETSOCK_MAXNUM];
    unsigned wanted = (unsigned)ares_getsock(channel, numbers, ARES_GETSOCK_MAXNUM);
    int count = 0;
    for (int i = 0; i < ARES_GETSOCK_MAXNUM; i++) {
        short events = 0;
        if (wanted >> i & 1) /* c-ares' own macros shift into the sign bit */
            events |= POLLIN;
        if (wanted >> (i + ARES_GETSOCK_MAXNUM) & 1)
            events |= POLLOUT;
        if (events)
            sockets[count++] = (struct pollfd){.fd = numbers[i], .events = events};
    }
    return count;
}

/* An epoll that is readable when one of the sockets has something: an fd to wait for. */
static int gather(const struct pollfd *sockets, int count)
{
    int epoll = cr__os_epoll_create();
    for (int i = 0; epoll >= 0 && i < count; i++) {
        struct epoll_event event = {.events = (uint32_t)sockets[i].events, .data.fd = i}; /* the same bits */
        if (cr__os_epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[i].fd, &event) < 0) {
            cr__os_close(epoll);
            return -ENOMEM;
        }
    }
    return epoll;
}

/* As struct cr__asker_ops' wait, of the kernel's sockets. */
static int wait_for_fds(struct pollfd *sockets, int count, int64_t deadline_ns)
{
    int epoll = gather(sockets, count);
    if (epoll < 0)
        return epoll;
    struct cr_conn *waiter;
    int r = cr_conn_from_fd(&waiter, epoll);
    if (r < 0) {
        cr__os_close(epoll);
        return r;
    }
    r = cr_wait_readable_until(waiter, deadline_ns);
    struct epoll_event events[ARES_GETSOCK_MAXNUM];
    int n = r == 0 ? cr__os_epoll_wait(epoll, events, ARES_GETSOCK_MAXNUM, 0) : 0;
    cr_close(waiter);
    for (int i = 0; i < n; i++)
        sockets[events[i].data.fd].revents = (short)events[i].events;
    return r < 0 ? r : n > 0 ? n : 0;
}

/* Waits for one of the channel's sockets, or its next timeout, and lets it go on. */
static int turn(ares_channel channel, struct cr__asker *asker)
{
    struct pollfd sockets[ARES_GETSOCK_MAXNUM];
    int count = wanted_of(channel, sockets);
    struct timeval most = {5, 0}, left, *timeout = ares_timeout(channel, &most, &left);
    int64_t deadline_ns = cr_after(timeout->tv_sec * CR_SEC + timeout->tv_usec * CR_US);
    int n = asker ? asker->ops->wait(asker, sockets, count, deadline_ns) : wait_for_fds(sockets, count, deadline_ns);
    if (n < 0 && n != -ETIMEDOUT)
        return n;
    for (int i = 0; i < count; i++) {
        ares_socket_t s = sockets[i].fd;
        if (sockets[i].revents)
            ares_process_fd(channel, sockets[i].revents & ~POLLOUT ? s : ARES_SOCKET_BAD, sockets[i].revents & ~POLLIN ? s : ARES_SOCKET_BAD);
    }
    if (n <= 0)
        ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* timeouts */
    return 0;
}

/* ---- A lookup --------------------------------------------------------------------------------------------------------- */

static void init_library(void)
{
    ares_library_init(ARES_LIB_INIT_ALL);
}

/* Sets lookup->status. */
static void ask(struct lookup *lookup)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    ares_channel channel;
    pthread_once(&once, init_library);
    int status = ares_init(&channel);
    if (status != ARES_SUCCESS) {
        lookup->status = code_of(status);
        return;
    }
    status = lookup->asker ? go_by_asker(channel, lookup) : ARES_SUCCESS;
    if (status != ARES_SUCCESS) {
        lookup->status = code_of(status);
        ares_destroy(channel);
        return;
    }
    struct ares_addrinfo_hints hints = {.ai_socktype = SOCK_STREAM, .ai_flags = lookup->asker ? ARES_AI_NOSORT : 0};
    ares_getaddrinfo(channel, lookup->host, NULL, &hints, on_answer, lookup);
    int r = 0;
    while (!lookup->done && (r = turn(channel, lookup->asker)) == 0)
        ;
    ares_destroy(channel); /* calls on_answer if there was none */
    if (r < 0)
        lookup->status = r;
    else if (lookup->status == -EAGAIN && lookup->trouble)
        lookup->status = lookup->trouble;
}

static void resolve(void *arg)
{
    struct lookup *lookup = arg;
    ask(lookup);
    if (lookup->asker)
        lookup->asker->ops->end(lookup->asker);
    put(lookup);
}

static bool is_localhost(const char *host)
{
    size_t length = strlen(host), own = strlen("localhost");
    const char *end = length >= own ? host + length - own : "";
    return strcasecmp(end, "localhost") == 0 && (end == host || end[-1] == '.');
}

/* What needs nobody to be asked. How many; 0: somebody is to be; -errno. */
static int know(const char *host, uint16_t port, struct cr_addr *addrs, int count)
{
    struct cr__worker *worker;
    if (!cr__running(&worker))
        return -EPERM;
    if (!host || !*host || strlen(host) >= CR__HOST_BYTES || count < 1)
        return -EINVAL;
    if (numeric(host, port, &addrs[0]))
        return 1;
    if (!is_localhost(host)) /* RFC 6761 6.3: never asked for elsewhere */
        return 0;
    numeric("127.0.0.1", port, &addrs[0]);
    return count > 1 && numeric("::1", port, &addrs[1]) ? 2 : 1;
}

/* A resolver that asks by an asker is where that is, and stays there. */
static int spawn_resolver(struct cr_co **out, struct lookup *lookup)
{
    static const struct cr_attr attr = {.name = "resolver", .stack_size_bytes = RESOLVER_STACK_BYTES};
    atomic_fetch_add(&lookup->users, 1);
    int r = lookup->asker ? cr_spawn_on(out, (unsigned)cr_worker_index(), resolve, lookup, &attr) : cr_spawn(out, resolve, lookup, &attr);
    if (r < 0)
        atomic_fetch_sub(&lookup->users, 1);
    return r;
}

/* Perhaps for a caller on another worker. How many addresses it has found, or -errno. */
static ssize_t look_up(struct cr__asker *asker, void *arg)
{
    struct lookup *lookup = arg;
    struct cr_co *resolver;
    lookup->asker = asker;
    int r = spawn_resolver(&resolver, lookup);
    if (r < 0) {
        if (asker)
            asker->ops->end(asker);
        return r;
    }
    r = cr_join_until(resolver, lookup->deadline_ns);
    if (r == 0)
        return lookup->status;
    cr_cancel(resolver);
    cr_detach(resolver);
    return r;
}

int cr_resolve_on_until(struct cr_net *net, const char *host, uint16_t port, struct cr_addr *addrs, int count, int64_t deadline_ns)
{
    cr__handed(host);
    cr__handed(addrs);
    int n = know(host, port, addrs, count);
    if (n != 0)
        return n;
    struct lookup *lookup = cr__mem_alloc(sizeof(*lookup), CR__MEM_OTHER);
    if (!lookup)
        return -ENOMEM;
    strcpy(lookup->host, host);
    lookup->port = port;
    lookup->deadline_ns = deadline_ns;
    lookup->status = -EAGAIN;
    lookup->users = 1;
    n = (int)(net && net->ops->ask ? net->ops->ask(net, look_up, lookup, deadline_ns) : look_up(NULL, lookup));
    if (n > count)
        n = count;
    if (n > 0)
        memcpy(addrs, lookup->addrs, (size_t)n * sizeof(*addrs));
    put(lookup);
    return n;
}

int cr_resolve_on(struct cr_net *net, const char *host, uint16_t port, struct cr_addr *addrs, int count)
{
    cr__handed(host);
    cr__handed(addrs);
    return cr_resolve_on_until(net, host, port, addrs, count, CR_FOREVER);
}

int cr_resolve_until(const char *host, uint16_t port, struct cr_addr *addrs, int count, int64_t deadline_ns)
{
    cr__handed(host);
    cr__handed(addrs);
    return cr_resolve_on_until(NULL, host, port, addrs, count, deadline_ns);
}

int cr_resolve(const char *host, uint16_t port, struct cr_addr *addrs, int count)
{
    cr__handed(host);
    cr__handed(addrs);
    return cr_resolve_on_until(NULL, host, port, addrs, count, CR_FOREVER);
}
