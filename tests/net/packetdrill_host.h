/* For packetdrill.c: the host that the tool drives, the packets between the two, and the time, in which calls that block wait for each other. */
#ifndef CR_TEST_PACKETDRILL_HOST_H
#define CR_TEST_PACKETDRILL_HOST_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "frames.h"
#include "net/tcp/tcp.h"
#include "net/udp/udp.h"
#include "packetdrill.h"
#include <crore/net.h>

#define START_NS 1000000000000ll
#define SETTLE_NS 10000000000ll /* what a host does after its start is over */
#define FDS 256
#define FIRST_FD 1000           /* none of the tool's own */
#define OUT_MOST 1024
#define PACKET_MOST_BYTES 2048
#define NAP_NS 5000000          /* of real time: as long as others have to do something */
#define NAPS_MOST 200           /* without anything due: nobody will */
enum { DRIVES = 1, WAITS = 20 }; /* naps before a thread moves the clock: the one that looks for packets; one in a call that blocks, while which the other may be at work */

struct drill_socket {
    int domain, type;           /* type 0: not in use */
    bool blocks, lingers_not, corked, read_is_shut;
    struct cr__tcp_opts opts;
    struct cr__ip ip;           /* bound to; all zeroes: any */
    uint16_t port;
    int error;                  /* told to the next call */
    bool error_is_told;
    struct cr__tcp_listener *listener;
    struct cr__tcp *tcp;
    struct cr__udp *udp;
};

struct drill {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t changes;
    unsigned blocked;           /* threads in calls that wait */
    int64_t now_ns;
    struct cr__host host;
    struct cr__packet_cache cache;
    struct drill_socket sockets[FDS];
    struct {
        int64_t at_ns;
        size_t size;
        uint8_t bytes[PACKET_MOST_BYTES];
    } out[OUT_MOST];
    unsigned out_first, out_count;
};

static const uint8_t our_ethernet[6] = {2, 0, 0, 0, 0, 1}, their_ethernet[6] = {2, 0, 0, 0, 0, 2};

static inline void input_frame(struct drill *drill, const uint8_t *bytes, size_t size)
{
    struct cr_packet *packet = cr__packet_get(&drill->cache);
    if (!packet)
        return;
    memcpy(packet->data, bytes, size);
    packet->size_bytes = (uint16_t)size;
    packet->flags = 0;
    cr__host_input(&drill->host, packet, drill->now_ns);
}

/* What neighbours and routers say to each other, which is not in scripts. */
static inline bool is_of_ndp(const uint8_t *frame, size_t size)
{
    return size >= 14 + 41 && frame[12] == 0x86 && frame[20] == CR__IP_ICMP6 && frame[54] >= 133 && frame[54] <= 137;
}

static inline void collect_one(struct drill *drill, const uint8_t *bytes, size_t size)
{
    struct frame f;
    uint8_t answer[128];
    bool parsed = frame_parse(&f, bytes, size);
    if (parsed && (f.kind == FRAME_ARP_REQUEST || f.kind == FRAME_SOLICIT) && !cr__ip_is_ours(&drill->host, &f.to))
        input_frame(drill, answer, frame_answer_neighbour(&f, answer, their_ethernet));
    if (frame_get16(bytes + 12) == 0x0806 || is_of_ndp(bytes, size))
        return;
    if (drill->out_count == OUT_MOST) {
        fprintf(stderr, "crore-packetdrill: %d packets wait for the tool: one is lost\n", OUT_MOST);
        return;
    }
    unsigned at = (drill->out_first + drill->out_count++) % OUT_MOST;
    drill->out[at].at_ns = drill->now_ns;
    drill->out[at].size = size - 14;
    memcpy(drill->out[at].bytes, bytes + 14, size - 14);
}

static inline void collect(struct drill *drill)
{
    struct cr_packet *packet;
    while ((packet = cr__host_pop(&drill->host))) {
        uint8_t bytes[PACKET_MOST_BYTES];
        size_t size = packet->size_bytes;
        memcpy(bytes, packet->data, size);
        cr__packet_put(&drill->cache, packet);
        collect_one(drill, bytes, size);
    }
}

/* All that is due now. Returns when more is. */
static inline int64_t step(struct drill *drill)
{
    int64_t due_ns = cr__host_tick(&drill->host, drill->now_ns);
    collect(drill);
    return due_ns > drill->now_ns ? due_ns : drill->now_ns + 1;
}

static inline void advance(struct drill *drill, int64_t until_ns)
{
    for (;;) {
        int64_t due_ns = step(drill);
        if (due_ns > until_ns)
            break;
        drill->now_ns = due_ns;
    }
    drill->now_ns = until_ns > drill->now_ns ? until_ns : drill->now_ns;
    step(drill);
}

static inline struct drill *enter(void *userdata)
{
    struct drill *drill = userdata;
    pthread_mutex_lock(&drill->lock);
    return drill;
}

static inline void leave(struct drill *drill)
{
    collect(drill);
    drill->changes++;
    pthread_cond_broadcast(&drill->changed);
    pthread_mutex_unlock(&drill->lock);
}

static inline long long answer(struct drill *drill, long long result)
{
    leave(drill);
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

/* Lets others do something, in real time: whether they did. */
static inline bool nap(struct drill *drill)
{
    struct timespec until;
    uint64_t before = drill->changes;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += NAP_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (drill->changes == before && pthread_cond_timedwait(&drill->changed, &drill->lock, &until) == 0)
        ;
    return drill->changes != before;
}

/* A while, for somebody to try again. False: the deadline has come, or it would wait for ever. */
static inline bool await(struct drill *drill, int64_t deadline_ns, unsigned patience, unsigned *naps)
{
    if (drill->now_ns >= deadline_ns)
        return false;
    collect(drill);
    drill->blocked++;
    bool changed = nap(drill);
    drill->blocked--;
    if (changed) {
        *naps = 0;
        return true;
    }
    if (++*naps < patience)
        return true;
    int64_t due_ns = step(drill);
    due_ns = due_ns < deadline_ns ? due_ns : deadline_ns;
    if (due_ns == INT64_MAX)
        return *naps < NAPS_MOST;
    drill->now_ns = due_ns;
    step(drill);
    return true;
}

/* A packet of the tool's. */
static inline int drill_netdev_send(void *userdata, const void *bytes, size_t size)
{
    struct drill *drill = enter(userdata);
    uint8_t frame[PACKET_MOST_BYTES];
    if (size == 0 || size + 14 > CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES)
        return (int)answer(drill, -EMSGSIZE);
    memcpy(frame, our_ethernet, 6);
    memcpy(frame + 6, their_ethernet, 6);
    frame_put16(frame + 12, *(const uint8_t *)bytes >> 4 == 6 ? 0x86dd : 0x0800);
    memcpy(frame + 14, bytes, size);
    step(drill);
    input_frame(drill, frame, size + 14);
    step(drill);
    leave(drill);
    return 0;
}

static inline int drill_netdev_receive(void *userdata, void *bytes, size_t *size, long long *time_us)
{
    struct drill *drill = enter(userdata);
    unsigned naps = 0;
    step(drill);
    while (!drill->out_count && await(drill, INT64_MAX, DRIVES, &naps))
        ;
    size_t n = 0;
    if (drill->out_count) {
        unsigned at = drill->out_first;
        n = drill->out[at].size < *size ? drill->out[at].size : *size;
        memcpy(bytes, drill->out[at].bytes, n);
        *time_us = drill->out[at].at_ns / 1000;
        drill->out_first = (at + 1) % OUT_MOST;
        drill->out_count--;
    }
    *size = n;
    leave(drill);
    return 0;
}

static inline int drill_usleep(void *userdata, useconds_t us)
{
    struct drill *drill = enter(userdata);
    if (drill->blocked)
        nap(drill); /* what has arrived is theirs before time goes on */
    advance(drill, drill->now_ns + us * 1000ll);
    leave(drill);
    return 0;
}

static inline int drill_gettimeofday(void *userdata, struct timeval *time, struct timezone *zone)
{
    struct drill *drill = enter(userdata);
    (void)zone;
    advance(drill, drill->now_ns + 1000);
    time->tv_sec = drill->now_ns / 1000000000;
    time->tv_usec = drill->now_ns % 1000000000 / 1000;
    pthread_mutex_unlock(&drill->lock); /* a look is nothing that others wait for */
    return 0;
}

#endif
