/* Peer: an echo server written by hand around epoll, edge triggered: the limit that the kernel's sockets set.
 *
 *     peer_epoll PORT
 *
 * One thread, one buffer for all connections, nothing kept for a connection but its descriptor. It answers a
 * message with the buffer that it was read into; a client that sends more than it reads until the socket's buffers
 * are full is cut off. */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/tcp.h>
#include <unistd.h>
#include "bench.h"

enum { EVENTS = 256, BUFFER_BYTES = 65536 };

static int epoll_fd, listen_fd;

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    bench_need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static void accept_all(void)
{
    int fd, on = 1;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd);
    }
}

/* A read that leaves room in the buffer has emptied the socket: no second one that only gets EAGAIN. */
static void echo(int fd)
{
    static char buffer[BUFFER_BYTES];
    ssize_t got;
    do {
        got = read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0 || write(fd, buffer, (size_t)got) != got) {
            close(fd);
            return;
        }
    } while (got == (ssize_t)sizeof buffer);
}

int main(int argc, char **argv)
{
    bench_need(argc == 2, "usage: peer_epoll PORT");
    struct sockaddr_in here = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(argv[1])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    bench_need((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
    bench_need((listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) >= 0, "socket");
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bench_need(bind(listen_fd, (struct sockaddr *)&here, sizeof here) == 0, "bind");
    bench_need(listen(listen_fd, SOMAXCONN) == 0, "listen");
    watch(listen_fd);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listen_fd)
                accept_all();
            else
                echo(events[i].data.fd);
        }
    }
}
