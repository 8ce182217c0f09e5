/* Scripts (script_test.c): the host that is driven, in virtual time, what has left it, and what a script knows of both. */
#ifndef CR_TEST_SCRIPT_HOST_H
#define CR_TEST_SCRIPT_HOST_H

#include <ctype.h>
#include <stdarg.h>

#include "capture.h"
#include "frames.h"
#include "net/tcp/tcp.h"
#include "test.h"
#include <crore/net.h>

#define START_NS 1000000000000ll /* of the host's clock; the script begins when what a host does after its start is over */
#define SETTLE_NS 10000000000ll
#define PATIENCE_NS 10000000000000ll /* `*` */
#define FLOWS 64
#define FDS 64
#define LOCAL_PORT 8080
#define REMOTE_PORT 40000 /* of flow 0; the others are above */

/* A 4-tuple, as the script sees it: sequence numbers and timestamps begin at 0, or where it says. */
struct flow {
    bool begun, has_timestamps;
    uint32_t local_isn, remote_isn, timestamps;
    uint16_t local_port;
};

struct user {
    struct cr__tcp_listener *listener;
    struct cr__tcp *tcp;
    uint32_t written, read; /* positions in the streams: 1 is the first byte */
    unsigned events;
    struct cr_packet *lent[16];
    unsigned lent_count;
};

/* What has left the host and has not been expected yet. */
struct emitted {
    int64_t at_ns;
    size_t size;
    uint8_t bytes[2048];
};

static struct {
    const char *file;
    int line;
    char text[512];
    int64_t now_ns, begin_ns, last_ns; /* last: when the line before happened */
    int64_t tolerance_ns;
    bool v6, two_addresses;
    uint32_t net4; /* of IPv4 */
    uint32_t remote_isn;
    struct flow flows[FLOWS];
    struct user users[FDS];
    struct user *current; /* of whom assertions speak */
    struct emitted emitted[256];
    unsigned emitted_first, emitted_count;
} script;
static struct cr__host host;
static struct cr__packet_cache cache;
static struct cr__host_config host_config;
static struct cr__tcp_config tcp_config;
static struct cr__ip local_ip, remote_ip;
static const uint8_t local_ethernet[6] = {2, 0, 0, 0, 0, 1}, remote_ethernet[6] = {2, 0, 0, 0, 0, 2};
static uint8_t stream[4 << 20];

/* ---- Saying what is wrong ---- */

static double seconds(int64_t at_ns)
{
    return (double)(at_ns - script.begin_ns) * 1e-9;
}

__attribute__((noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("# %s:%d: %s\n#   at %.6f: ", script.file, script.line, script.text, seconds(script.now_ns));
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    _exit(1);
}

/* The byte at a position of a stream. */
static uint8_t pattern(uint32_t position)
{
    return (uint8_t)(position * 7 + (position >> 8) * 13 + (position >> 16));
}

static void fill(uint8_t *to, uint32_t position, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = pattern(position + (uint32_t)i);
}

static void check_stream(const uint8_t *bytes, uint32_t position, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != pattern(position + (uint32_t)i))
            fail("the byte at %u of the stream is not what was sent there", position + (uint32_t)i);
}

/* ---- The host's side ---- */

static void event(struct cr__tcp *tcp, unsigned events)
{
    struct user *user = tcp->user[0];
    if (user)
        user->events |= events;
}

static void accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
}

static void inject(const uint8_t *bytes, size_t size)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    if (!packet || size > cr_packet_back(packet))
        fail("no packet for that");
    memcpy(packet->data, bytes, size);
    packet->size_bytes = (uint16_t)size;
    capture_frame(packet, script.now_ns);
    if (getenv("CR_TRACE")) {
        struct frame f;
        char text[512];
        if (frame_parse(&f, bytes, size)) {
            const struct flow *flow = &script.flows[(unsigned)(f.from_port - REMOTE_PORT) % FLOWS];
            frame_print(text, sizeof(text), &f, flow->remote_isn, flow->local_isn, 0, flow->timestamps);
            printf("# %.6f < %s\n", seconds(script.now_ns), text);
        }
    }
    cr__host_input(&host, packet, script.now_ns);
}

static struct flow *flow_of(const struct frame *f)
{
    unsigned flow = (unsigned)(f->to_port - REMOTE_PORT);
    return flow < FLOWS ? &script.flows[flow] : &script.flows[0];
}

/* Where the timestamp's value is among options; NULL: nowhere. */
static uint8_t *timestamp_in(const uint8_t *options, size_t bytes)
{
    for (size_t i = 0; i + 10 <= bytes; i += options[i] == 1 ? 1 : options[i + 1]) {
        if (options[i] == 8)
            return (uint8_t *)options + i + 2;
        if (options[i] == 0 || (options[i] > 1 && options[i + 1] < 2))
            break;
    }
    return NULL;
}

/* What the first SYN, and the first timestamp, say of a flow. */
static void learn(const struct frame *f)
{
    struct flow *flow = flow_of(f);
    if (f->flags & F_SYN) {
        if (!flow->begun || flow->local_isn != f->seq || flow->local_port != f->from_port)
            flow->has_timestamps = false;
        flow->begun = true;
        flow->local_isn = f->seq;
        flow->local_port = f->from_port;
    }
    const uint8_t *stamp = timestamp_in(f->options, f->options_bytes);
    if (stamp && !flow->has_timestamps) {
        flow->timestamps = frame_get32(stamp);
        flow->has_timestamps = true;
    }
}

static void print_emitted(char *text, size_t size, const struct emitted *emitted)
{
    struct frame f;
    if (!frame_parse(&f, emitted->bytes, emitted->size)) {
        snprintf(text, size, "a malformed frame");
        return;
    }
    const struct flow *flow = flow_of(&f);
    char body[400], name[16] = "";
    frame_print(body, sizeof(body), &f, flow->local_isn, flow->remote_isn, flow->timestamps, 0);
    if (flow != &script.flows[1])
        snprintf(name, sizeof(name), "(%d) ", (int)(flow - script.flows));
    snprintf(text, size, "%.6f > %s%s", seconds(emitted->at_ns), name, body);
}

static void check_all(void)
{
    for (int i = 0; i < FDS; i++)
        if (script.users[i].tcp)
            cr__tcp_check(script.users[i].tcp);
}

/* Takes away what leaves: who asks for the peer's address is answered, segments wait to be expected. */
static void collect(void)
{
    struct cr_packet *packet;
    while ((packet = cr__host_pop(&host))) {
        struct frame f;
        uint8_t bytes[2048];
        size_t size = packet->size_bytes;
        capture_frame(packet, script.now_ns);
        memcpy(bytes, packet->data, size);
        cr__packet_put(&cache, packet);
        if (!frame_parse(&f, bytes, size))
            fail("a malformed frame left");
        if ((f.kind == FRAME_ARP_REQUEST || f.kind == FRAME_SOLICIT) && cr__ip_equal(&f.to, &remote_ip)) {
            size = frame_answer_neighbour(&f, bytes, remote_ethernet);
            inject(bytes, size);
        }
        if (f.kind != FRAME_TCP)
            continue;
        if (!f.sums_right)
            fail("a wrong checksum left");
        if (!script.v6 && (bytes[20] & 0x40) == 0)
            fail("a segment left without DF");
        if (!cr__ip_equal(&f.from, &local_ip))
            fail("a segment left from another address of the host's than the one that is on the peer's network");
        learn(&f);
        if (script.emitted_count == CR__COUNT(script.emitted))
            fail("%u packets have left that nobody expects", script.emitted_count);
        struct emitted *emitted = &script.emitted[(script.emitted_first + script.emitted_count++) % CR__COUNT(script.emitted)];
        emitted->at_ns = script.now_ns;
        emitted->size = size;
        memcpy(emitted->bytes, bytes, size);
        if (getenv("CR_TRACE")) {
            char text[512];
            print_emitted(text, sizeof(text), emitted);
            printf("# %s\n", text);
        }
    }
}

/* Lets time pass until then, or, if a packet is awaited, until there is one. */
static void advance(int64_t until_ns, bool awaited)
{
    for (;;) {
        int64_t due_ns = cr__host_tick(&host, script.now_ns);
        collect();
        check_all();
        if ((awaited && script.emitted_count) || script.now_ns >= until_ns)
            return;
        if (!awaited && script.emitted_count && until_ns > script.now_ns + script.tolerance_ns) {
            char text[512];
            print_emitted(text, sizeof(text), &script.emitted[script.emitted_first]);
            fail("before this nobody expects what came: %s", text);
        }
        due_ns = due_ns <= script.now_ns ? script.now_ns + 1 : due_ns;
        script.now_ns = due_ns < until_ns ? due_ns : until_ns;
    }
}

#endif
