/* Names to addresses: numeric ones and localhost at once; others by c-ares, in a coroutine of its own, since c-ares wants a deep stack
 * and its callers have shallow ones. */
#include "io/io.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <string.h>
#include <sys/time.h>

#include "os/os.h"

#define RESOLVER_STACK_BYTES ((size_t)256 << 10)
#define LOOKUP_ADDRESSES 32

/* Shared by the caller and its resolver: the caller may have given up. */
struct lookup {
    char host[CR__HOST_BYTES];
    uint16_t port;
    bool done;
    _Atomic int users;
    int status; /* when done: how many addresses, or -errno */
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

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
    struct lookup *lookup = arg;
    (void)timeouts;
    lookup->done = true;
    if (status != ARES_SUCCESS) {
        lookup->status = code_of(status);
        return;
    }
    int n = 0;
    for (struct ares_addrinfo_node *node = info->nodes; node && n < LOOKUP_ADDRESSES; node = node->ai_next) {
        struct cr_addr *addr = &lookup->addrs[n];
        if (node->ai_family != AF_INET && node->ai_family != AF_INET6)
            continue;
        memcpy(&addr->sa, node->ai_addr, addr->size_bytes = (socklen_t)node->ai_addrlen);
        if (node->ai_family == AF_INET)
            ((struct sockaddr_in *)&addr->sa)->sin_port = htons(lookup->port);
        else
            ((struct sockaddr_in6 *)&addr->sa)->sin6_port = htons(lookup->port);
        n++;
    }
    lookup->status = n > 0 ? n : -ENOENT;
    ares_freeaddrinfo(info);
}

/* An epoll that is readable when one of the channel's sockets has something: an fd to wait for. */
static int gather(ares_channel channel, ares_socket_t *sockets)
{
    unsigned wanted = (unsigned)ares_getsock(channel, sockets, ARES_GETSOCK_MAXNUM);
    int epoll = cr__os_epoll_create();
    for (int i = 0; epoll >= 0 && i < ARES_GETSOCK_MAXNUM; i++) {
        struct epoll_event event = {0};
        if (wanted >> i & 1) /* c-ares' own macros shift into the sign bit */
            event.events |= EPOLLIN;
        if (wanted >> (i + ARES_GETSOCK_MAXNUM) & 1)
            event.events |= EPOLLOUT;
        event.data.fd = i;
        if (event.events && cr__os_epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[i], &event) < 0) {
            cr__os_close(epoll);
            return -ENOMEM;
        }
    }
    return epoll;
}

/* Waits for one of the channel's sockets, or its next timeout, and lets it go on. */
static int turn(ares_channel channel)
{
    ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
    int epoll = gather(channel, sockets);
    if (epoll < 0)
        return epoll;
    struct cr_conn *waiter;
    int r = cr_conn_from_fd(&waiter, epoll);
    if (r < 0) {
        cr__os_close(epoll);
        return r;
    }
    struct timeval most = {5, 0}, left, *timeout = ares_timeout(channel, &most, &left);
    r = cr_wait_readable_until(waiter, cr_after(timeout->tv_sec * CR_SEC + timeout->tv_usec * CR_US));
    struct epoll_event events[ARES_GETSOCK_MAXNUM];
    int n = r == 0 ? cr__os_epoll_wait(epoll, events, ARES_GETSOCK_MAXNUM, 0) : 0;
    cr_close(waiter);
    if (r < 0 && r != -ETIMEDOUT)
        return r;
    for (int i = 0; i < n; i++) {
        ares_socket_t s = sockets[events[i].data.fd];
        ares_process_fd(channel, events[i].events & ~(uint32_t)EPOLLOUT ? s : ARES_SOCKET_BAD,
                        events[i].events & ~(uint32_t)EPOLLIN ? s : ARES_SOCKET_BAD);
    }
    if (n <= 0)
        ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* timeouts */
    return 0;
}

static void init_library(void)
{
    ares_library_init(ARES_LIB_INIT_ALL);
}

static void resolve(void *arg)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct lookup *lookup = arg;
    ares_channel channel;
    pthread_once(&once, init_library);
    int status = ares_init(&channel);
    if (status != ARES_SUCCESS) {
        lookup->status = code_of(status);
        put(lookup);
        return;
    }
    struct ares_addrinfo_hints hints = {.ai_socktype = SOCK_STREAM};
    ares_getaddrinfo(channel, lookup->host, NULL, &hints, on_answer, lookup);
    int r = 0;
    while (!lookup->done && (r = turn(channel)) == 0)
        ;
    ares_destroy(channel); /* calls on_answer if there was none */
    if (r < 0)
        lookup->status = r;
    put(lookup);
}

static bool is_localhost(const char *host)
{
    size_t length = strlen(host), own = strlen("localhost");
    const char *end = length >= own ? host + length - own : "";
    return strcasecmp(end, "localhost") == 0 && (end == host || end[-1] == '.');
}

int cr_resolve_until(const char *host, uint16_t port, struct cr_addr *addrs, int count, int64_t deadline_ns)
{
    cr__handed(host);
    cr__handed(addrs);
    struct cr__worker *worker;
    if (!cr__running(&worker))
        return -EPERM;
    if (!host || !*host || strlen(host) >= CR__HOST_BYTES || count < 1)
        return -EINVAL;
    if (numeric(host, port, &addrs[0]))
        return 1;
    if (is_localhost(host)) { /* RFC 6761 6.3: never asked for elsewhere */
        numeric("127.0.0.1", port, &addrs[0]);
        return count > 1 && numeric("::1", port, &addrs[1]) ? 2 : 1;
    }
    struct lookup *lookup = cr__mem_alloc(sizeof(*lookup), CR__MEM_OTHER);
    if (!lookup)
        return -ENOMEM;
    strcpy(lookup->host, host);
    lookup->port = port;
    lookup->status = -EAGAIN;
    lookup->users = 2;
    static const struct cr_attr attr = {.name = "resolver", .stack_size_bytes = RESOLVER_STACK_BYTES};
    struct cr_co *resolver;
    int r = cr_spawn(&resolver, resolve, lookup, &attr);
    if (r < 0) {
        cr__mem_free(lookup, sizeof(*lookup), CR__MEM_OTHER);
        return r;
    }
    r = cr_join_until(resolver, deadline_ns);
    if (r == 0) {
        r = lookup->status < count ? lookup->status : count;
        if (r > 0)
            memcpy(addrs, lookup->addrs, (size_t)r * sizeof(*addrs));
    } else {
        cr_cancel(resolver);
        cr_detach(resolver);
    }
    put(lookup);
    return r;
}

int cr_resolve(const char *host, uint16_t port, struct cr_addr *addrs, int count)
{
    cr__handed(host);
    cr__handed(addrs);
    return cr_resolve_until(host, port, addrs, count, CR_FOREVER);
}
