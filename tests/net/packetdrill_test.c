/* libcrore-packetdrill.so as packetdrill uses it: loaded, and driven through its interface, with packets made here. */
#include <dlfcn.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>

#include "frames.h"
#include "packetdrill.h"
#include "test.h"

#define LOCAL "192.168.0.1"
#define REMOTE "192.0.2.1"
#define LOCAL6 "fd3d:fa7b:d17d::1"
#define REMOTE6 "2001:db8::1"
#define PORT 8080
#define PEER_PORT 40000
#define PEER_ISN 0xffffff00u

static struct packetdrill_interface drill;
static struct cr__ip local, remote;

static struct cr__ip ip_of(const char *text)
{
    struct cr__ip ip;
    struct in_addr in;
    if (inet_pton(AF_INET, text, &in) == 1)
        return cr__ip_v4(in.s_addr);
    CHECK_EQ(inet_pton(AF_INET6, text, ip.bytes), 1);
    return ip;
}

static void load(const char *flags, int family)
{
    const char *path = getenv("CR_PACKETDRILL");
#ifdef TEST_SANITIZED
    int how = RTLD_NOW | RTLD_LOCAL; /* sanitizers refuse the rest */
#else
    int how = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE | RTLD_DEEPBIND; /* as the tool does */
#endif
    void *handle = dlopen(path ? path : "tests/libcrore-packetdrill.so", how);
    if (!handle)
        printf("# %s\n", dlerror());
    CHECK(handle != NULL);
    void *found = dlsym(handle, "packetdrill_interface_init");
    CHECK(found != NULL);
    packetdrill_interface_init_fn *init;
    memcpy(&init, &found, sizeof(init));
    init(flags, &drill);
    local = ip_of(family == AF_INET ? LOCAL : LOCAL6);
    remote = ip_of(family == AF_INET ? REMOTE : REMOTE6);
}

static struct sockaddr *address(const struct cr__ip *ip, uint16_t port, socklen_t *size)
{
    static struct sockaddr_in in;
    static struct sockaddr_in6 in6;
    if (cr__ip_is_v4(ip)) {
        in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = ip->parts[3]};
        *size = sizeof(in);
        return (struct sockaddr *)&in;
    }
    in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&in6.sin6_addr, ip->bytes, 16);
    *size = sizeof(in6);
    return (struct sockaddr *)&in6;
}

/* From the peer. */
static void send_segment(uint8_t flags, uint16_t to_port, uint32_t seq, uint32_t ack, const char *text)
{
    uint8_t bytes[2048];
    struct frame f = {.from = remote, .to = local, .from_port = PEER_PORT, .to_port = to_port, .seq = seq, .ack = ack, .flags = flags, .window = 20000};
    f.payload = (const uint8_t *)text;
    f.payload_bytes = text ? strlen(text) : 0;
    size_t size = frame_write_tcp(&f, bytes, 0);
    CHECK_EQ(drill.netdev_send(drill.userdata, bytes + 14, size - 14), 0);
}

/* What leaves next; false: nothing does. Points into a buffer of its own. */
static bool receive_packet(struct frame *out, long long *time_us)
{
    static uint8_t bytes[2048];
    size_t size = sizeof(bytes) - 14;
    CHECK_EQ(drill.netdev_receive(drill.userdata, bytes + 14, &size, time_us), 0);
    if (size == 0)
        return false;
    memset(bytes, 0, 14);
    frame_put16(bytes + 12, bytes[14] >> 4 == 6 ? 0x86dd : 0x0800);
    CHECK(frame_parse(out, bytes, size + 14));
    CHECK(out->sums_right);
    return true;
}

static struct frame receive_segment(uint8_t flags, uint32_t ack, const char *text)
{
    struct frame f;
    long long time_us;
    CHECK(receive_packet(&f, &time_us));
    CHECK_EQ(f.kind, FRAME_TCP);
    CHECK_EQ(f.flags, flags);
    CHECK_EQ(f.ack, ack);
    CHECK_EQ(f.payload_bytes, text ? strlen(text) : 0);
    CHECK(!text || memcmp(f.payload, text, strlen(text)) == 0);
    return f;
}

static int listening(int family)
{
    socklen_t size;
    int fd = drill.socket(drill.userdata, family, SOCK_STREAM, IPPROTO_TCP), one = 1;
    CHECK(fd > 2);
    CHECK_EQ(drill.setsockopt(drill.userdata, fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    struct sockaddr *to = address(&local, PORT, &size);
    CHECK_EQ(drill.bind(drill.userdata, fd, to, size), 0);
    CHECK_EQ(drill.listen(drill.userdata, fd, 1), 0);
    return fd;
}

/* Returns the ISN of the stack's. */
static uint32_t shake_hands(void)
{
    send_segment(F_SYN, PORT, PEER_ISN, 0, NULL);
    uint32_t isn = receive_segment(F_SYN | F_ACK, PEER_ISN + 1, NULL).seq;
    send_segment(F_ACK, PORT, PEER_ISN + 1, isn + 1, NULL);
    return isn;
}

static int64_t now_us(void)
{
    struct timeval tv;
    CHECK_EQ(drill.gettimeofday(drill.userdata, &tv, NULL), 0);
    return tv.tv_sec * 1000000ll + tv.tv_usec;
}

static void a_whole_connection(int family)
{
    char text[64];
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    load(NULL, family);
    int listener = listening(family);
    uint32_t isn = shake_hands();
    int fd = drill.accept(drill.userdata, listener, (struct sockaddr *)&peer, &size);
    CHECK(fd > 2 && fd != listener);
    CHECK_EQ(peer.ss_family, family);
    CHECK_EQ(ntohs(((struct sockaddr_in *)&peer)->sin_port), PEER_PORT);
    send_segment(F_PSH | F_ACK, PORT, PEER_ISN + 1, isn + 1, "question");
    receive_segment(F_ACK, PEER_ISN + 9, NULL); /* at once, at its beginning */
    CHECK_EQ(drill.read(drill.userdata, fd, text, sizeof(text)), 8);
    CHECK(memcmp(text, "question", 8) == 0);
    struct iovec iov[2] = {{(char *)"ans", 3}, {(char *)"wer", 3}};
    CHECK_EQ(drill.writev(drill.userdata, fd, iov, 2), 6);
    CHECK_EQ(receive_segment(F_PSH | F_ACK, PEER_ISN + 9, "answer").seq, isn + 1);
    send_segment(F_FIN | F_ACK, PORT, PEER_ISN + 9, isn + 7, NULL);
    CHECK_EQ(drill.recv(drill.userdata, fd, text, sizeof(text), 0), 0);
    CHECK_EQ(drill.close(drill.userdata, fd), 0);
    uint8_t flags = F_FIN | F_ACK;
    struct frame f;
    long long time_us;
    CHECK(receive_packet(&f, &time_us));
    if (!(f.flags & F_FIN)) /* the peer's is acknowledged before, or with ours */
        f = receive_segment(flags, PEER_ISN + 10, NULL);
    CHECK_EQ(f.seq, isn + 7);
    CHECK_EQ(f.ack, PEER_ISN + 10);
    send_segment(F_ACK, PORT, PEER_ISN + 10, isn + 8, NULL);
    CHECK_EQ(drill.close(drill.userdata, listener), 0);
    drill.free(drill.userdata);
}

TEST(a_connection_is_accepted_carries_data_and_is_closed)
{
    a_whole_connection(AF_INET);
}

TEST(the_same_over_ipv6)
{
    a_whole_connection(AF_INET6);
}

TEST(a_connection_is_dialled_without_waiting_and_told_of_by_poll)
{
    int error = -1;
    struct tcp_info info;
    socklen_t size;
    load("addr=" LOCAL " mtu=1400", AF_INET);
    int fd = drill.socket(drill.userdata, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr *to = address(&remote, PEER_PORT, &size);
    CHECK_EQ(drill.connect(drill.userdata, fd, to, size), -1);
    CHECK_EQ(errno, EINPROGRESS);
    CHECK_EQ(drill.connect(drill.userdata, fd, to, size), -1);
    CHECK_EQ(errno, EALREADY);
    struct frame syn = receive_segment(F_SYN, 0, NULL);
    CHECK_EQ(frame_get16(syn.options + 2), 1360); /* MSS, by the MTU */
    struct pollfd poll = {.fd = fd, .events = POLLIN | POLLOUT};
    CHECK_EQ(drill.poll(drill.userdata, &poll, 1, 0), 0);
    send_segment(F_SYN | F_ACK, syn.from_port, PEER_ISN, syn.seq + 1, NULL);
    receive_segment(F_ACK, PEER_ISN + 1, NULL);
    CHECK_EQ(drill.poll(drill.userdata, &poll, 1, 0), 1);
    CHECK_EQ(poll.revents, POLLOUT);
    size = sizeof(error);
    CHECK_EQ(drill.getsockopt(drill.userdata, fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    CHECK_EQ(error, 0);
    size = sizeof(info);
    CHECK_EQ(drill.getsockopt(drill.userdata, fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    CHECK_EQ(info.tcpi_state, TCP_ESTABLISHED);
    CHECK_EQ(info.tcpi_snd_cwnd, 10);
    drill.free(drill.userdata);
}

TEST(a_reset_refuses_who_dials)
{
    int error = 0;
    socklen_t size;
    load(NULL, AF_INET);
    int fd = drill.socket(drill.userdata, AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(drill.fcntl(drill.userdata, fd, F_SETFL, O_RDWR | O_NONBLOCK), 0);
    struct sockaddr *to = address(&remote, PEER_PORT, &size);
    CHECK_EQ(drill.connect(drill.userdata, fd, to, size), -1);
    struct frame syn = receive_segment(F_SYN, 0, NULL);
    send_segment(F_RST | F_ACK, syn.from_port, 0, syn.seq + 1, NULL);
    size = sizeof(error);
    CHECK_EQ(drill.getsockopt(drill.userdata, fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    CHECK_EQ(error, ECONNREFUSED);
    drill.free(drill.userdata);
}

TEST(time_is_virtual_and_goes_on_to_what_is_due)
{
    struct frame f;
    long long first_us, again_us;
    load(NULL, AF_INET);
    int listener = listening(AF_INET);
    uint32_t isn = shake_hands();
    int fd = drill.accept(drill.userdata, listener, NULL, NULL);
    int64_t before_us = now_us();
    CHECK_EQ(drill.usleep(drill.userdata, 3600u * 1000000u), 0); /* an hour */
    CHECK(now_us() - before_us >= 3600ll * 1000000 && now_us() - before_us < 3601ll * 1000000);
    CHECK_EQ(drill.send(drill.userdata, fd, "lost", 4, 0), 4);
    CHECK(receive_packet(&f, &first_us));
    CHECK(receive_packet(&f, &again_us)); /* nobody acknowledges it */
    CHECK_EQ(f.seq, isn + 1);
    CHECK(again_us - first_us >= 1000 && again_us - first_us <= 3000000);
    CHECK(now_us() >= again_us);
    drill.free(drill.userdata);
}

static void *accepts_and_reads(void *arg)
{
    static char text[8];
    int fd = drill.accept(drill.userdata, *(int *)arg, NULL, NULL);
    CHECK(fd > 2);
    CHECK_EQ(drill.read(drill.userdata, fd, text, sizeof(text)), 5);
    return text;
}

TEST(calls_that_block_wait_on_a_thread_of_their_own)
{
    pthread_t thread;
    void *text;
    load(NULL, AF_INET);
    int listener = listening(AF_INET);
    CHECK_EQ(pthread_create(&thread, NULL, accepts_and_reads, &listener), 0);
    drill.usleep(drill.userdata, 1000);
    uint32_t isn = shake_hands();
    drill.usleep(drill.userdata, 100000);
    send_segment(F_PSH | F_ACK, PORT, PEER_ISN + 1, isn + 1, "hello");
    CHECK_EQ(pthread_join(thread, &text), 0);
    CHECK(memcmp(text, "hello", 5) == 0);
    drill.free(drill.userdata);
}

TEST(a_call_for_which_nothing_will_ever_come_does_not_hang)
{
    load(NULL, AF_INET);
    int listener = listening(AF_INET);
    CHECK_EQ(drill.accept(drill.userdata, listener, NULL, NULL), -1);
    CHECK_EQ(errno, EDEADLK);
    struct frame f;
    long long time_us;
    CHECK(!receive_packet(&f, &time_us));
    drill.free(drill.userdata);
}

TEST(datagrams_arrive_and_leave)
{
    uint8_t bytes[128], out[2048];
    char text[16];
    struct sockaddr_in from;
    socklen_t size, from_size = sizeof(from);
    load(NULL, AF_INET);
    int fd = drill.socket(drill.userdata, AF_INET, SOCK_DGRAM, 0);
    struct sockaddr *to = address(&local, PORT, &size);
    CHECK_EQ(drill.bind(drill.userdata, fd, to, size), 0);
    struct frame f = {.from = remote, .to = local};
    uint8_t *udp = frame_write_ip(&f, bytes, 17, 12);
    memcpy(udp, (const uint8_t[]){PEER_PORT >> 8, PEER_PORT & 255, PORT >> 8, PORT & 255, 0, 12, 0, 0, 'p', 'i', 'n', 'g'}, 12);
    frame_put16(udp + 6, frame_transport_sum(&remote, &local, 17, udp, 12));
    CHECK_EQ(drill.netdev_send(drill.userdata, bytes + 14, (size_t)(udp - bytes) + 12 - 14), 0);
    CHECK_EQ(drill.recvfrom(drill.userdata, fd, text, sizeof(text), 0, (struct sockaddr *)&from, &from_size), 4);
    CHECK(memcmp(text, "ping", 4) == 0 && ntohs(from.sin_port) == PEER_PORT);
    CHECK_EQ(drill.sendto(drill.userdata, fd, "pong!", 5, 0, (struct sockaddr *)&from, from_size), 5);
    size_t out_size = sizeof(out);
    long long time_us;
    CHECK_EQ(drill.netdev_receive(drill.userdata, out, &out_size, &time_us), 0);
    CHECK_EQ(out_size, 20 + 8 + 5);
    CHECK(memcmp(out + 28, "pong!", 5) == 0);
    CHECK_EQ(frame_get16(out + 22), PEER_PORT);
    CHECK_EQ(drill.recv(drill.userdata, fd, text, sizeof(text), MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EAGAIN);
    drill.free(drill.userdata);
}

TEST(options_are_kept_and_what_is_not_there_says_so)
{
    int value = 1;
    socklen_t size = sizeof(value);
    load(NULL, AF_INET);
    int fd = drill.socket(drill.userdata, AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(drill.getsockopt(drill.userdata, fd, IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
    CHECK_EQ(value, 0);
    value = 1;
    CHECK_EQ(drill.setsockopt(drill.userdata, fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value)), 0);
    value = 0;
    CHECK_EQ(drill.getsockopt(drill.userdata, fd, IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(drill.setsockopt(drill.userdata, fd, IPPROTO_IP, IP_TTL, &value, sizeof(value)), -1);
    CHECK_EQ(errno, ENOPROTOOPT);
    CHECK_EQ(drill.write(drill.userdata, fd, "x", 1), -1);
    CHECK_EQ(errno, EPIPE);
    CHECK_EQ(drill.shutdown(drill.userdata, fd, SHUT_WR), -1);
    CHECK_EQ(errno, ENOTCONN);
    CHECK_EQ(drill.read(drill.userdata, 3, &value, 1), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_EQ(drill.epoll_create(drill.userdata, 1), -1);
    CHECK_EQ(errno, ENOSYS);
    CHECK_EQ(drill.close(drill.userdata, fd), 0);
    CHECK_EQ(drill.close(drill.userdata, fd), -1);
    drill.free(drill.userdata);
}
