/* One host for a fuzzer, in virtual time: begun for each input, ended after it, and nothing may be left of it then. */
#ifndef CR_FUZZ_HOST_H
#define CR_FUZZ_HOST_H

#include <stdlib.h>

#include "frames.h"
#include "net/tcp/tcp.h"

#define FUZZ_START_NS 1000000000000ll
#define FUZZ_PORT 80
#define FUZZ_USERS 8

/* What an input is read from, byte by byte; zeroes when it is at its end. */
struct fuzz_input {
    const uint8_t *at, *end;
};

static inline uint8_t fuzz_byte(struct fuzz_input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

static inline uint16_t fuzz_word(struct fuzz_input *input)
{
    uint8_t high = fuzz_byte(input);
    return (uint16_t)(high << 8 | fuzz_byte(input));
}

struct fuzz_host {
    struct cr__host host;
    struct cr__packet_cache cache;
    int64_t now_ns;
    struct cr__tcp_listener *listener;
    struct cr__tcp *users[FUZZ_USERS];  /* connections that are the user's */
    void (*leaves)(const struct frame *f); /* is told of each segment that leaves */
};

static struct fuzz_host fuzz;
static const uint8_t fuzz_ethernet[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

static inline struct cr__ip fuzz_ip(unsigned who, bool v6)
{
    return v6 ? (struct cr__ip){.bytes = {0xfd, 0, [15] = (uint8_t)(who + 1)}} : cr__ip_v4(htonl(0x0a000001 + who));
}

static inline void fuzz_inject(const uint8_t *bytes, size_t size)
{
    struct cr_packet *packet = size <= CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES ? cr__packet_get(&fuzz.cache) : NULL;
    if (!packet)
        return;
    memcpy(packet->data, bytes, size);
    packet->size_bytes = (uint16_t)size;
    cr__host_input(&fuzz.host, packet, fuzz.now_ns);
}

/* Takes what has left: it must be well formed. Who is looked for is found. */
static inline void fuzz_drain(void)
{
    struct cr_packet *packet;
    while ((packet = cr__host_pop(&fuzz.host))) {
        struct frame f;
        uint8_t bytes[2048];
        size_t size = packet->size_bytes;
        memcpy(bytes, packet->data, size);
        cr__packet_put(&fuzz.cache, packet);
        if (!frame_parse(&f, bytes, size) || (f.kind == FRAME_TCP && !f.sums_right))
            abort();
        if ((f.kind == FRAME_ARP_REQUEST || f.kind == FRAME_SOLICIT) && (f.to.bytes[15] == 2)) {
            uint8_t answer[128];
            fuzz_inject(answer, frame_answer_neighbour(&f, answer, fuzz_ethernet[1]));
        }
        if (f.kind == FRAME_TCP && fuzz.leaves)
            fuzz.leaves(&f);
    }
}

static inline void fuzz_wait(int64_t ns)
{
    int64_t until_ns = fuzz.now_ns + ns;
    for (;;) {
        int64_t due_ns = cr__host_tick(&fuzz.host, fuzz.now_ns);
        fuzz_drain();
        if (fuzz.now_ns >= until_ns)
            return;
        due_ns = due_ns <= fuzz.now_ns ? fuzz.now_ns + 1 : due_ns;
        fuzz.now_ns = due_ns < until_ns ? due_ns : until_ns;
    }
}

static inline void fuzz_check(void)
{
    for (unsigned i = 0; i < FUZZ_USERS; i++)
        if (fuzz.users[i])
            cr__tcp_check(fuzz.users[i]);
}

static inline void fuzz_event(struct cr__tcp *tcp, unsigned events)
{
    (void)tcp;
    (void)events;
}

static inline void fuzz_accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
}

static inline void fuzz_begin(const struct cr__tcp_config *config)
{
    struct cr__host_config host = {.ethernet = {2, 0, 0, 0, 0, 1}, .packets = &fuzz.cache, .address_count = 2, .seed = {1, 2}};
    struct cr__tcp_config tcp = *config;
    struct cr__tcp_opts opts = {.backlog = 4};
    memset(&fuzz.users, 0, sizeof(fuzz.users));
    fuzz.leaves = NULL;
    fuzz.now_ns = FUZZ_START_NS;
    host.addresses[0] = (struct cr__host_address){fuzz_ip(0, false), 96 + 24};
    host.addresses[1] = (struct cr__host_address){fuzz_ip(0, true), 64};
    tcp.above = (struct cr__tcp_above){fuzz_event, fuzz_accepted};
    tcp.isn_is_fixed = true;
    tcp.isn_for_tests = 0xfffffe00;
    if (cr__host_init(&fuzz.host, &host, fuzz.now_ns) != 0 || cr__tcp_init(&fuzz.host, &tcp) != 0 || cr__tcp_listen(&fuzz.host, &fuzz.listener, NULL, FUZZ_PORT, &opts) != 0)
        abort();
    fuzz_wait(5000000000ll);
}

static inline void fuzz_end(void)
{
    for (unsigned i = 0; i < FUZZ_USERS; i++)
        if (fuzz.users[i])
            cr__tcp_abort(fuzz.users[i]);
    cr__tcp_unlisten(fuzz.listener);
    fuzz_drain();
    cr__tcp_fini(&fuzz.host);
    cr__host_fini(&fuzz.host);
    cr__packet_flush(&fuzz.cache);
    if (cr__packets_in_use())
        abort();
}

#endif
