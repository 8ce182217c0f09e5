/* What the servers written by hand share: threads that each listen on the same port, among which the kernel divides
 * the connections. */
#ifndef LISTEN_H
#define LISTEN_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include "bench.h"

/* Sockets that it accepts send at once: they inherit that. */
static inline int listen_on(uint16_t port, int flags)
{
    struct sockaddr_in here = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    bench_need(fd >= 0, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bench_need(bind(fd, (struct sockaddr *)&here, sizeof here) == 0, "bind");
    bench_need(listen(fd, SOMAXCONN) == 0, "listen");
    return fd;
}

/* Runs serve(&port) on that many threads, of which the caller's is one. */
static inline int serve_on_threads(int argc, char **argv, void *(*serve)(void *port))
{
    static uint16_t port;
    bench_need(argc == 3, "usage: PROGRAM PORT WORKERS");
    port = (uint16_t)atoi(argv[1]);
    for (int i = 1; i < atoi(argv[2]); i++) {
        pthread_t thread;
        bench_need(pthread_create(&thread, NULL, serve, &port) == 0, "pthread_create");
    }
    serve(&port);
    return 1;
}

#endif
