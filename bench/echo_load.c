/* The load for echo servers, in a closed loop: each connection has one 64-byte message under way, always.
 *
 *     echo_load PORT CONNECTIONS SECONDS
 *
 * Connects, exchanges one message on each connection and prints "ready"; at a line on its input it loads the server
 * for that long, lets what is under way come back and prints "messages N seconds S"; at the end of its input it
 * resets all connections and exits. Every byte that comes back is checked. Not in it: latencies, open loops; `crore
 * swarm` has both. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "bench.h"

enum { MESSAGE_BYTES = 64, EVENTS = 256, CONNECT_AHEAD = 64, PER_SOURCE = 8192 };

struct connection {
    int fd;
    uint32_t sent;    /* messages */
    size_t got_bytes; /* of the answer to the last one */
};

static struct connection *connections;
static int count;
static uint64_t messages;

/* Words that differ from message to message and from connection to connection. */
static void fill(const struct connection *c, char message[MESSAGE_BYTES])
{
    uint64_t word = ((uint64_t)(c - connections) << 32 | c->sent) * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < MESSAGE_BYTES; i += sizeof word, word += i)
        memcpy(message + i, &word, sizeof word);
}

static void send_message(struct connection *c)
{
    char message[MESSAGE_BYTES];
    c->sent++;
    c->got_bytes = 0;
    fill(c, message);
    bench_need(send(c->fd, message, sizeof message, MSG_NOSIGNAL) == (ssize_t)sizeof message, "send");
}

/* Whether the answer is complete. */
static bool receive(struct connection *c)
{
    char expected[MESSAGE_BYTES], got[MESSAGE_BYTES + 1];
    ssize_t bytes = recv(c->fd, got, sizeof got - c->got_bytes, 0);
    if (bytes < 0 && errno == EAGAIN)
        return false;
    bench_need(bytes >= 0, "recv");
    fill(c, expected);
    if (bytes == 0 || c->got_bytes + (size_t)bytes > MESSAGE_BYTES ||
        memcmp(got, expected + c->got_bytes, (size_t)bytes) != 0) {
        fprintf(stderr, "echo_load: %s\n", bytes == 0 ? "the server closed a connection" : "a wrong answer");
        exit(1);
    }
    c->got_bytes += (size_t)bytes;
    return c->got_bytes == MESSAGE_BYTES;
}

/* From one of 127.0.0.2 and following, so that ports suffice; closing will reset, so that nothing stays in
 * TIME-WAIT. */
static void connect_one(struct connection *c, uint16_t port)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger reset = {.l_onoff = 1};
    int on = 1;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(c - connections) / PER_SOURCE);
    bench_need((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0, "socket");
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    bench_need(bind(c->fd, (struct sockaddr *)&from, sizeof from) == 0, "bind");
    bench_need(connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0, "connect");
}

/* Blocking, a few ahead of the server, so that its backlog never fills up. */
static void connect_all(uint16_t port)
{
    for (int i = 0; i < count + CONNECT_AHEAD; i++) {
        if (i >= CONNECT_AHEAD) {
            struct connection *answering = &connections[i - CONNECT_AHEAD];
            while (!receive(answering))
                ;
            fcntl(answering->fd, F_SETFL, O_NONBLOCK);
        }
        if (i < count) {
            connect_one(&connections[i], port);
            send_message(&connections[i]);
        }
    }
}

static int watch_all(void)
{
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bench_need(epoll_fd >= 0, "epoll_create1");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &connections[i]};
        bench_need(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connections[i].fd, &event) == 0, "epoll_ctl");
    }
    return epoll_fd;
}

static void load(int epoll_fd, double seconds)
{
    int64_t begin = bench_now_ns(), end = begin + (int64_t)(seconds * 1e9);
    bool over = false;
    for (int i = 0; i < count; i++)
        send_message(&connections[i]);
    for (int underway = count; underway > 0;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll_fd, events, EVENTS, 5000);
        if (ready == 0) {
            fprintf(stderr, "echo_load: %d answers are missing\n", underway);
            exit(1);
        }
        over = over || bench_now_ns() >= end;
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!receive(c))
                continue;
            messages++;
            if (over)
                underway--;
            else
                send_message(c);
        }
    }
    printf("messages %llu seconds %.6f\n", (unsigned long long)messages, (double)(bench_now_ns() - begin) / 1e9);
}

int main(int argc, char **argv)
{
    char line[16];
    bench_need(argc == 4, "usage: echo_load PORT CONNECTIONS SECONDS");
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    count = atoi(argv[2]);
    bench_need((connections = calloc((size_t)count, sizeof *connections)) != NULL, "calloc");
    connect_all((uint16_t)atoi(argv[1]));
    int epoll_fd = watch_all();
    printf("ready\n");
    while (fgets(line, sizeof line, stdin))
        load(epoll_fd, atof(argv[3]));
    return 0;
}
