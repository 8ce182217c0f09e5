/* Peer: an echo server written by hand around epoll, edge triggered: the limit that the kernel's sockets set.
 *
 *     peer_epoll PORT WORKERS
 *
 * Each worker has a listener, an epoll and one buffer for all its connections; nothing is kept for a connection but
 * its descriptor. It answers a message with the buffer that it was read into; a client that sends more than it
 * reads until the socket's buffers are full is cut off. */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "listen.h"

enum { EVENTS = 256, BUFFER_BYTES = 65536 };

struct worker {
    int epoll_fd, listen_fd;
    char buffer[BUFFER_BYTES];
};

static void watch(const struct worker *w, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    bench_need(epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static void accept_all(const struct worker *w)
{
    int fd;
    while ((fd = accept4(w->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        watch(w, fd);
}

/* A read that leaves room in the buffer has emptied the socket: no second one that only gets EAGAIN. */
static void echo(struct worker *w, int fd)
{
    ssize_t got;
    do {
        got = read(fd, w->buffer, sizeof w->buffer);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0 || write(fd, w->buffer, (size_t)got) != got) {
            close(fd);
            return;
        }
    } while (got == (ssize_t)sizeof w->buffer);
}

static void *serve(void *port)
{
    struct worker *w = malloc(sizeof *w);
    bench_need(w != NULL, "malloc");
    bench_need((w->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
    w->listen_fd = listen_on(*(uint16_t *)port, SOCK_NONBLOCK);
    watch(w, w->listen_fd);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(w->epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == w->listen_fd)
                accept_all(w);
            else
                echo(w, events[i].data.fd);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    return serve_on_threads(argc, argv, serve);
}
