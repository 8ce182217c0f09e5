/* Two hosts in lockstep: joined by a bad line, in virtual time, with users that read, write, shut down, close and abort as a seed has it. What must hold whatever the seed:
 *
 *     1. Every byte arrives once, and in order: what is at a position of a stream follows from the position.
 *     2. Every connection ends, in order unless one of its users was rough.
 *     3. No packet buffer is lost, no connection is left over, and cr__tcp_check holds after each step.
 *     4. The right edge of a window never moves left, but for what scaling cuts off.
 *     5. The same seed gives the same frames at the same times.
 *
 *     CR_SEED=first CR_SEEDS=number      which seeds; 300 from 1 on
 *     CR_TRACE=1                         prints each frame and each call
 *     CR_PCAP=DIR                        each seed's frames as they leave, before the line spoils them: the first is DIR/lockstep-TEST.pcap
 *
 * A seed that fails prints the command that repeats it. */
#include <stdarg.h>

#include "capture.h"
#include "line.h"
#include "net/tcp/tcp.h"
#include "test.h"

#define SECOND_NS 1000000000ll
#define MS_NS 1000000ll
#define START_NS (1000 * SECOND_NS)
#define CONNS 6
#define PACKETS 4096 /* in the process: some seeds take nearly all of them away for a while */
#define PORT 80
#define STEPS_MOST 400000

enum manner { ORDERLY, ABORTS, CLOSES_EARLY };

/* One end of a connection, and its user. */
struct end {
    struct pair *pair;
    struct end *other;
    unsigned side;
    struct cr__tcp *tcp;          /* NULL: not yet, or no more */
    uint32_t to_send, sent, received;
    uint32_t rough_at;            /* bytes, received and sent, at which ABORTS and CLOSES_EARLY do */
    enum manner manner;
    bool opened, shut, ended_by_peer, done, dials;
    bool blocked_in, blocked_out; /* told that there is nothing, or no room: for who waits for events */
    int error;
    unsigned in_vain;             /* times in a row that it could neither read nor write: it looks less often then */
    int64_t act_ns;               /* when the user does something again */
    int64_t give_up_ns;
    struct cr_packet *lent[4];
    unsigned lent_count;
    uint32_t edge;                /* of the window that it has offered last */
    bool edge_is_set;
};

struct pair {
    struct end ends[2]; /* ends[0] dials */
    bool rough;
    unsigned number;
};

static struct {
    uint64_t seed, dice, hash;
    uint64_t steps, frames, bytes;
    int64_t now_ns;
    struct cr__host hosts[2];
    struct cr__packet_cache cache;
    struct cr__tcp_listener *listeners[2];
    struct line lines[2]; /* [0]: from host 0 to host 1 */
    struct cr__tcp_config config[2];
    struct cr__ip ips[2];
    struct pair pairs[CONNS];
    unsigned pair_count;
    bool by_events;       /* users wait to be told, and never just look */
    bool jumps, lossy;
    unsigned chunk_bytes; /* users write and read so many at a time, at most */
    int64_t pace_ns;
    struct cr_packet *hostages[PACKETS];
    unsigned hostage_count;
    int64_t take_ns, free_ns; /* when packets are taken away, and come back */
    bool trace;
} world;

static void say_seed(void)
{
    printf("# seed %" PRIu64 " fails at %.6f, after %" PRIu64 " steps; again, with a trace: CR_SEED=%" PRIu64 " CR_SEEDS=1 CR_TRACE=1 %s %s\n", world.seed,
           (double)(world.now_ns - START_NS) * 1e-9, world.steps, world.seed, "tests/net_lockstep_test", test_current->name);
}

__attribute__((noreturn)) static void fail(const struct end *end, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("# ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    for (unsigned i = 0; i < world.pair_count; i++)
        for (int e = 0; e < 2; e++) {
            const struct end *each = &world.pairs[i].ends[e];
            printf("# %s connection %u, %s end, on host %u: sent %u of %u, received %u,%s%s%s%s error %d", each == end ? "->" : "  ", i, e ? "accepting" : "dialling", each->side, each->sent,
                   each->to_send, each->received, each->opened ? " opened," : "", each->shut ? " shut," : "", each->ended_by_peer ? " at the peer's end," : "", each->done ? " done," : "", each->error);
            if (each->tcp)
                printf(", state %u, flags %x, una %x, nxt %x, rcv_nxt %x, edge %x, snd_wnd %u, cwnd %u, %s", each->tcp->state, each->tcp->flags, each->tcp->snd_una, each->tcp->snd_nxt, each->tcp->rcv_nxt,
                       each->tcp->rcv_edge, each->tcp->snd_wnd, each->tcp->cwnd_bytes, each->tcp->flight ? "flight" : "idle");
            printf("\n");
        }
    say_seed();
    fflush(stdout);
    _exit(1);
}

static void crashed(int number)
{
    signal(number, SIG_DFL);
    say_seed();
    fflush(stdout);
    raise(number);
}

static void trace(const char *format, ...)
{
    if (!world.trace)
        return;
    va_list args;
    va_start(args, format);
    printf("# %.6f ", (double)(world.now_ns - START_NS) * 1e-9);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static uint32_t roll(uint32_t below)
{
    return dice(&world.dice, below);
}

static uint8_t pattern(const struct end *end, uint32_t position)
{
    return (uint8_t)(position * 7 + (position >> 8) * 13 + (position >> 16) + end->pair->number * 31 + end->side * 101);
}

static void mix(uint64_t value)
{
    world.hash = (world.hash ^ value) * 0x9fb21c651e98df25;
    world.hash ^= world.hash >> 32;
}

static void mix_bytes(const uint8_t *bytes, size_t size)
{
    uint64_t word;
    for (; size >= sizeof(word); bytes += sizeof(word), size -= sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        mix(word);
    }
    for (; size; size--)
        mix(*bytes++);
}

/* ---- What the core tells ---- */

static void wake(struct end *end)
{
    int64_t soon_ns = world.now_ns + roll(1000) * 1000;
    if (soon_ns < end->act_ns)
        end->act_ns = soon_ns;
}

static void event(struct cr__tcp *tcp, unsigned events)
{
    struct end *end = tcp->user[0];
    if (!end)
        return;
    if (events & CR__TCP_OPENED)
        end->opened = true;
    if (events & (CR__TCP_READABLE | CR__TCP_ENDED))
        end->blocked_in = false;
    if (events & (CR__TCP_WRITABLE | CR__TCP_ENDED | CR__TCP_OPENED))
        end->blocked_out = false;
    trace("host %u, connection %u: told %x", end->side, end->pair->number, events);
    wake(end);
}

static void accepted(struct cr__tcp_listener *listener)
{
    (void)listener;
}

/* ---- Users ---- */

static void check_read(struct end *end, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++, end->received++)
        if (bytes[i] != pattern(end->other, end->received))
            fail(end, "the byte at %u is %u, not %u", end->received, bytes[i], pattern(end->other, end->received));
    if (end->received > end->other->sent)
        fail(end, "more has arrived than was sent");
    world.bytes += size;
}

static void give_back(struct end *end)
{
    while (end->lent_count)
        cr__tcp_recv_return(end->tcp, end->lent[--end->lent_count]);
}

static void finish(struct end *end, void (*how)(struct cr__tcp *tcp))
{
    trace("host %u, connection %u: %s", end->side, end->pair->number, how == cr__tcp_abort ? "abort" : "close");
    give_back(end);
    struct cr__tcp *tcp = end->tcp;
    tcp->user[0] = NULL;
    end->tcp = NULL;
    end->done = true;
    end->act_ns = INT64_MAX;
    how(tcp);
    if (end->pair->rough && !end->other->done && end->other->give_up_ns == INT64_MAX)
        end->other->give_up_ns = world.now_ns + 30 * SECOND_NS;
}

/* An error of the connection's; only rough users may cause one. */
static void broken(struct end *end, long long error)
{
    end->error = (int)-error;
    if (!end->pair->rough && !((error == -ETIMEDOUT || error == -EHOSTUNREACH) && world.lossy && !end->opened))
        fail(end, "connection %u ended with %s", end->pair->number, strerrorname_np((int)-error));
    end->pair->rough = true;
    finish(end, cr__tcp_close);
}

static bool write_some(struct end *end)
{
    static uint8_t buffer[1 << 16];
    uint32_t size = 1 + roll(world.chunk_bytes), left = end->to_send - end->sent;
    if (size > left)
        size = left;
    for (uint32_t i = 0; i < size; i++)
        buffer[i] = pattern(end, end->sent + i);
    size_t first = roll(size + 1);
    struct iovec iov[2] = {{buffer, first}, {buffer + first, size - first}};
    ssize_t n = cr__tcp_send(end->tcp, iov, 2, roll(8) == 0 && size < left);
    trace("host %u, connection %u: write %u = %zd", end->side, end->pair->number, size, n);
    if (n > (ssize_t)size || n == 0)
        fail(end, "of %u bytes %zd were taken", size, n);
    if (n > 0) {
        end->sent += (uint32_t)n;
        return true;
    }
    if (n == -EAGAIN || n == -ENOBUFS)
        end->blocked_out = true;
    else
        broken(end, n);
    return false;
}

static bool read_some(struct end *end)
{
    static uint8_t buffer[1 << 16];
    ssize_t n;
    if (end->lent_count && roll(2))
        give_back(end);
    if (roll(3) == 0 && end->lent_count < CR__COUNT(end->lent)) {
        struct cr_packet *packet;
        n = cr__tcp_recv_lend(end->tcp, &packet);
        if (n > 0) {
            end->lent[end->lent_count++] = packet;
            check_read(end, packet->data, (size_t)n);
        }
    } else {
        struct iovec iov = {buffer, 1 + roll(world.chunk_bytes)};
        n = cr__tcp_recv(end->tcp, &iov, 1);
        if (n > 0)
            check_read(end, buffer, (size_t)n);
    }
    trace("host %u, connection %u: read = %zd", end->side, end->pair->number, n);
    if (n > 0)
        return true;
    if (n == -EAGAIN) {
        end->blocked_in = true;
        give_back(end); /* or the window stays closed */
    } else if (n < 0) {
        broken(end, n);
    } else {
        end->ended_by_peer = true;
        if (!end->other->shut && !end->other->done)
            fail(end, "an end that the peer has not said");
        if (!end->pair->rough && end->received != end->other->to_send)
            fail(end, "the end came after %u bytes, of %u", end->received, end->other->to_send);
    }
    return false;
}

/* Shutting down, closing, aborting, when it is time. */
static bool conclude(struct end *end)
{
    if (end->manner != ORDERLY && end->sent + end->received >= end->rough_at) {
        end->pair->rough = true;
        finish(end, end->manner == ABORTS ? cr__tcp_abort : cr__tcp_close);
        return true;
    }
    if (end->sent == end->to_send && end->ended_by_peer) {
        finish(end, cr__tcp_close);
        return true;
    }
    if (end->sent == end->to_send && !end->shut) {
        int rc = cr__tcp_shutdown(end->tcp);
        trace("host %u, connection %u: shutdown = %d", end->side, end->pair->number, rc);
        if (rc == 0)
            end->shut = true;
        else if (!end->pair->rough)
            fail(end, "shutdown answers %d", rc);
    }
    return false;
}

static void act(struct end *end)
{
    end->act_ns = INT64_MAX;
    if (end->give_up_ns <= world.now_ns) {
        finish(end, cr__tcp_abort);
        return;
    }
    if (!end->opened) {
        if (end->tcp->state == CR__TCP_CLOSED)
            broken(end, -(long long)end->tcp->error);
        return;
    }
    bool moved = false;
    for (unsigned turns = 1 + roll(4); turns; turns--) {
        if (conclude(end))
            return;
        bool wrote = end->sent < end->to_send && (!world.by_events || !end->blocked_out) && write_some(end);
        if (end->done)
            return;
        bool read = !end->ended_by_peer && (!world.by_events || !end->blocked_in) && read_some(end);
        if (end->done)
            return;
        if (!wrote && !read)
            break;
        moved = true;
    }
    if (conclude(end))
        return;
    end->in_vain = moved ? 0 : end->in_vain + (end->in_vain < 8);
    bool waits = world.by_events && (end->blocked_in || end->ended_by_peer) && (end->blocked_out || end->sent == end->to_send);
    end->act_ns = waits ? end->give_up_ns : world.now_ns + 1000 + roll((uint32_t)world.pace_ns) + ((int64_t)(moved ? 0 : roll(20 * MS_NS)) << end->in_vain);
}

static void dial(struct end *end)
{
    struct cr__tcp_opts opts = {.nagle = roll(2), .keepalive = roll(4) == 0, .keepalive_ms = 1000 + roll(20000)};
    const struct cr__ip *to = &world.ips[!end->side];
    end->act_ns = INT64_MAX;
    int rc = cr__tcp_dial(&world.hosts[end->side], &end->tcp, NULL, 0, to, PORT, &opts);
    trace("host %u, connection %u: dial = %d", end->side, end->pair->number, rc);
    if (rc == -ENOBUFS || rc == -ENOMEM) {
        end->tcp = NULL;
        end->act_ns = world.now_ns + 100 * MS_NS;
        return;
    }
    if (rc != 0)
        fail(end, "dial answers %d", rc);
    end->tcp->user[0] = end;
}

/* Whose connection it is: the end that dialled from where it came. */
static void accept_all(unsigned side)
{
    struct cr__tcp *tcp;
    while ((tcp = cr__tcp_accept(world.listeners[side]))) {
        struct end *end = NULL;
        for (unsigned i = 0; i < world.pair_count; i++) {
            struct end *dialled = &world.pairs[i].ends[0];
            if (dialled->side != side && !dialled->other->tcp && !dialled->other->done && dialled->opened && dialled->tcp && dialled->tcp->local_port == tcp->peer_port)
                end = dialled->other;
        }
        trace("host %u accepts connection %d", side, end ? (int)end->pair->number : -1);
        if (!end) { /* who dialled it has gone already; or, ISNs being fixed, old segments have opened one anew that a rough user had left */
            cr__tcp_abort(tcp);
            for (unsigned i = 0; i < world.pair_count; i++)
                if (!world.pairs[i].rough && world.pairs[i].ends[0].tcp && world.pairs[i].ends[0].tcp->local_port == tcp->peer_port)
                    fail(&world.pairs[i].ends[0], "accepted before it was open");
            continue;
        }
        end->tcp = tcp;
        end->opened = true;
        tcp->user[0] = end;
        end->act_ns = world.now_ns + roll(1000000);
    }
}

/* ---- The world ---- */

static uint32_t one_of(const uint32_t *values, unsigned count)
{
    return values[roll(count)];
}
#define ONE_OF(...) one_of((const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void line_init(struct line *line)
{
    line->drop = ONE_OF(0, 0, 5, 20, 50, 120);
    line->duplicate = ONE_OF(0, 0, 10, 50);
    line->reorder = ONE_OF(0, 0, 10, 100);
    line->corrupt = ONE_OF(0, 0, 5, 30);
    line->mark = ONE_OF(0, 0, 20);
    line->delay_ns = ONE_OF(1, 10000, 100000, 1000000, 10000000, 80000000);
    line->jitter_ns = roll(4) ? 0 : line->delay_ns / 2;
    line->ns_per_byte = ONE_OF(0, 0, 0, 8, 80, 800); /* 1 Gbit/s to 10 Mbit/s */
    line->queue_ns = line->ns_per_byte ? ONE_OF(1000000, 10000000, 100000000) : INT64_MAX / 2;
    if (roll(8) == 0) {
        line->cut_from_ns = START_NS + 10 * SECOND_NS + roll(1000) * MS_NS;
        line->cut_to_ns = line->cut_from_ns + roll(5000) * MS_NS;
    }
    line->dice = &world.dice;
    line->cache = &world.cache;
    world.lossy |= line->drop || line->corrupt || line->cut_to_ns; /* enough for one that is dialled never to open: ARP asks three times */
}

static void host_init(unsigned side, bool v6)
{
    struct cr__host_config config = {.ethernet = {2, 0, 0, 0, 0, (uint8_t)(side + 1)}, .packets = &world.cache, .address_count = 1};
    struct cr__tcp_config *tcp = &world.config[side];
    world.ips[side] = v6 ? (struct cr__ip){.bytes = {0xfd, 0, [15] = (uint8_t)(side + 1)}} : cr__ip_v4(htonl(0x0a000001 + side));
    config.addresses[0] = (struct cr__host_address){world.ips[side], v6 ? 64 : 96 + 24};
    config.mtu_bytes = (uint16_t)ONE_OF(0, 0, 1500, 1280, v6 ? 1400 : 576, 1800);
    config.seed[0] = dice_roll(&world.dice);
    config.seed[1] = dice_roll(&world.dice);
    *tcp = (struct cr__tcp_config){.above = {event, accepted}, .time_wait_ms = 1000};
    tcp->send_limit_bytes = ONE_OF(0, 0, 3000, 10000, 65536);
    tcp->recv_limit_bytes = ONE_OF(0, 0, 3000, 10000, 65536);
    tcp->no_timestamps = roll(4) == 0;
    tcp->no_sack = roll(4) == 0;
    tcp->no_scaling = roll(4) == 0;
    tcp->no_delayed_acks = roll(4) == 0;
    tcp->ecn = roll(3) == 0;
    tcp->newreno = roll(3) == 0;
    tcp->isn_is_fixed = roll(2);
    tcp->isn_for_tests = 0 - roll(20000);
    if (cr__host_init(&world.hosts[side], &config, world.now_ns) != 0 || cr__tcp_init(&world.hosts[side], tcp) != 0)
        fail(NULL, "a host does not begin");
}

static uint32_t amount(void)
{
    return roll(8) == 0 ? 0 : roll(4) ? roll(3000) : roll(40) ? roll(60000) : roll(1000000);
}

static void world_init(uint64_t seed)
{
    memset(&world, 0, sizeof(world));
    capture_begin();
    world.seed = seed;
    world.dice = seed * 0x2545f4914f6cdd1d + 1;
    world.trace = getenv("CR_TRACE") != NULL;
    world.now_ns = START_NS;
    bool v6 = roll(2);
    for (unsigned side = 0; side < 2; side++) {
        line_init(&world.lines[side]);
        host_init(side, v6);
    }
    world.by_events = roll(2);
    world.jumps = roll(6) == 0;
    world.chunk_bytes = ONE_OF(1, 100, 1460, 5000, 20000);
    if (world.chunk_bytes == 1)
        world.chunk_bytes = roll(3) ? 100 : 1;
    world.pace_ns = ONE_OF(10000, 1000000, 20000000);
    world.take_ns = roll(8) == 0 ? START_NS + 10 * SECOND_NS + roll(300) * MS_NS : INT64_MAX;
    world.free_ns = INT64_MAX;
    world.pair_count = 1 + roll(CONNS);
    for (unsigned i = 0; i < world.pair_count; i++) {
        struct pair *pair = &world.pairs[i];
        pair->number = i;
        for (int e = 0; e < 2; e++) {
            struct end *end = &pair->ends[e];
            *end = (struct end){.pair = pair, .other = &pair->ends[!e], .act_ns = INT64_MAX, .give_up_ns = INT64_MAX};
            end->side = e ? !pair->ends[0].side : roll(2);
            end->to_send = world.chunk_bytes == 1 ? roll(500) : amount();
            end->manner = roll(12) == 0 ? ABORTS : roll(12) == 0 ? CLOSES_EARLY : ORDERLY;
            end->rough_at = roll(20000);
        }
        pair->ends[0].act_ns = START_NS + 10 * SECOND_NS + roll(500) * MS_NS;
        pair->ends[0].dials = true;
    }
}

static void trace_frame(unsigned side, const struct cr_packet *packet, const char *what)
{
    if (!world.trace)
        return;
    struct frame f;
    char text[512];
    if (!frame_parse(&f, packet->data, packet->size_bytes)) {
        trace("host %u %s a malformed frame", side, what);
        return;
    }
    const struct cr__tcp_config *own = &world.config[what[0] == '>' ? side : !side], *others = &world.config[what[0] == '>' ? !side : side];
    frame_print(text, sizeof(text), &f, own->isn_is_fixed ? own->isn_for_tests : 0, others->isn_is_fixed ? others->isn_for_tests : 0, 0, 0);
    trace("host %u %s %u>%u %s%s", side, what, f.from_port, f.to_port, text, f.kind == FRAME_TCP && !f.sums_right ? " (corrupt)" : "");
}

/* RFC 9293, 3.8.6 (SHLD-14). */
static void check_edge(unsigned side, const struct cr_packet *packet)
{
    struct frame f;
    if (!frame_parse(&f, packet->data, packet->size_bytes) || f.kind != FRAME_TCP || (f.flags & (F_SYN | F_RST | F_ACK)) != F_ACK)
        return;
    for (unsigned i = 0; i < world.pair_count; i++)
        for (int e = 0; e < 2; e++) {
            struct end *end = &world.pairs[i].ends[e];
            if (!end->tcp || end->side != side || end->tcp->local_port != f.from_port || end->tcp->peer_port != f.to_port)
                continue;
            uint32_t edge = f.ack + ((uint32_t)f.window << end->tcp->rcv_scale);
            if (end->edge_is_set && (int32_t)(end->edge - edge) >= 1 << end->tcp->rcv_scale)
                fail(end, "the right edge of the window has moved left by %u", end->edge - edge);
            end->edge = edge;
            end->edge_is_set = true;
        }
}

static void collect(unsigned side)
{
    struct cr_packet *packet;
    while ((packet = cr__host_pop(&world.hosts[side]))) {
        trace_frame(side, packet, ">");
        capture_frame(packet, world.now_ns);
        check_edge(side, packet);
        mix((uint64_t)world.now_ns ^ (uint64_t)side << 63);
        mix_bytes(packet->data, packet->size_bytes);
        world.frames++;
        line_send(&world.lines[side], packet, world.now_ns);
    }
}

static void take_hostages(void)
{
    unsigned leave = 1 + roll(60);
    while (world.hostage_count < PACKETS && (world.hostages[world.hostage_count] = cr__packet_get(&world.cache)))
        world.hostage_count++;
    while (leave-- && world.hostage_count)
        cr__packet_put(&world.cache, world.hostages[--world.hostage_count]);
    world.take_ns = INT64_MAX;
    world.free_ns = world.now_ns + roll(2000) * MS_NS;
    trace("%u packets are taken away", world.hostage_count);
}

static void free_hostages(void)
{
    trace("%u packets come back", world.hostage_count);
    while (world.hostage_count)
        cr__packet_put(&world.cache, world.hostages[--world.hostage_count]);
    world.free_ns = INT64_MAX;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void users_act(int64_t *next_ns)
{
    for (unsigned i = 0; i < world.pair_count; i++)
        for (int e = 0; e < 2; e++) {
            struct end *end = &world.pairs[i].ends[e];
            if (end->done)
                continue;
            if (end->act_ns <= world.now_ns || end->give_up_ns <= world.now_ns) {
                if (end->tcp)
                    act(end);
                else if (end->dials)
                    dial(end);
                else {
                    end->done = true; /* gave up before there was a connection */
                    continue;
                }
            }
            if (!end->done)
                *next_ns = least(*next_ns, least(end->act_ns, end->give_up_ns));
        }
}

/* All that is to happen now; then time goes on. False: nothing will ever happen again. */
static bool step(void)
{
    int64_t next_ns = least(world.take_ns, world.free_ns);
    struct cr_packet *packet;
    world.steps++;
    if (world.take_ns <= world.now_ns)
        take_hostages();
    if (world.free_ns <= world.now_ns)
        free_hostages();
    for (unsigned side = 0; side < 2; side++)
        while ((packet = line_take(&world.lines[!side], world.now_ns))) {
            trace_frame(side, packet, "<");
            cr__host_input(&world.hosts[side], packet, world.now_ns);
            collect(side);
        }
    for (unsigned side = 0; side < 2; side++) {
        (void)cr__host_tick(&world.hosts[side], world.now_ns); /* tells it what time it is, before its user calls */
        collect(side);
    }
    users_act(&next_ns);
    for (unsigned side = 0; side < 2; side++) {
        next_ns = least(next_ns, cr__host_tick(&world.hosts[side], world.now_ns));
        accept_all(side);
        collect(side);
    }
    for (unsigned i = 0; i < world.pair_count; i++)
        for (int e = 0; e < 2; e++) {
            const struct end *end = &world.pairs[i].ends[e];
            if (end->tcp)
                cr__tcp_check(end->tcp);
            if (!end->done) /* told meanwhile */
                next_ns = least(next_ns, end->act_ns);
        }
    next_ns = least(next_ns, least(least(line_due_ns(&world.lines[0]), line_due_ns(&world.lines[1])), least(world.take_ns, world.free_ns)));
    if (next_ns == INT64_MAX)
        return false;
    world.now_ns = next_ns > world.now_ns ? next_ns : world.now_ns + 1;
    if (world.jumps && roll(300) == 0)
        world.now_ns += roll(10000) * MS_NS;
    return true;
}

static bool all_done(void)
{
    for (unsigned i = 0; i < world.pair_count; i++)
        if (!world.pairs[i].ends[0].done || !(world.pairs[i].ends[1].done || (world.pairs[i].rough && !world.pairs[i].ends[1].tcp)))
            return false;
    return true;
}

static bool all_gone(void)
{
    for (unsigned side = 0; side < 2; side++)
        if (world.hosts[side].tcp->table.count || world.hosts[side].tcp->half_open)
            return false;
    return true;
}

/* Runs until all connections are over, then until nothing of them is left. Returns the hash of what was on the line, and when. */
static uint64_t run(uint64_t seed)
{
    world_init(seed);
    trace("seed %" PRIu64, seed);
    for (unsigned side = 0; side < 2; side++)
        if (cr__tcp_listen(&world.hosts[side], &world.listeners[side], NULL, PORT, NULL) != 0)
            fail(NULL, "listen fails");
    while (!all_done())
        if (!step() || world.now_ns > START_NS + 10000 * SECOND_NS || world.steps > STEPS_MOST)
            fail(NULL, "it does not end: %s", world.steps > STEPS_MOST ? "too many steps" : "nothing happens any more");
    trace("all users are done");
    while (!all_gone())
        if (!step() || world.now_ns > START_NS + 20000 * SECOND_NS || world.steps > 2 * STEPS_MOST)
            fail(NULL, "connections are left over: %u and %u, half open %u and %u", world.hosts[0].tcp->table.count, world.hosts[1].tcp->table.count, world.hosts[0].tcp->half_open, world.hosts[1].tcp->half_open);
    free_hostages();
    for (unsigned side = 0; side < 2; side++) {
        cr__tcp_unlisten(world.listeners[side]);
        collect(side);
    }
    for (unsigned side = 0; side < 2; side++) {
        line_fini(&world.lines[side]);
        cr__tcp_fini(&world.hosts[side]);
        cr__host_fini(&world.hosts[side]);
    }
    cr__packet_flush(&world.cache);
    if (cr__packets_in_use())
        fail(NULL, "%" PRIu64 " packets are lost", cr__packets_in_use());
    mix(world.bytes);
    return world.hash;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void prepare(void)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGALRM};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < CR__COUNT(signals); i++)
        signal(signals[i], crashed);
    CHECK_EQ(cr_packets_bound(PACKETS), 0);
    alarm(getenv("CR_SEEDS") ? 0 : TEST_SECONDS * 4);
}

TEST(every_byte_arrives_once_and_in_order_over_a_bad_line)
{
    uint64_t first = from_environment("CR_SEED", 1), count = from_environment("CR_SEEDS", 300);
    uint64_t frames = 0, bytes = 0;
    prepare();
    for (uint64_t seed = first; seed < first + count; seed++) {
        run(seed);
        frames += world.frames;
        bytes += world.bytes;
    }
    printf("# %" PRIu64 " seeds, %" PRIu64 " frames, %" PRIu64 " bytes\n", count, frames, bytes);
    CHECK(bytes > 0 || count < 10);
}

TEST(the_same_seed_gives_the_same_frames_at_the_same_times)
{
    uint64_t first = from_environment("CR_SEED", 1), count = from_environment("CR_SEEDS", 300) / 10 + 1;
    uint64_t before = 0;
    prepare();
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t once = run(seed), again = run(seed);
        if (once != again)
            fail(NULL, "two traces of seed %" PRIu64 ": %" PRIx64 " and %" PRIx64, seed, once, again);
        CHECK(once != before); /* and another seed gives others */
        before = once;
    }
}
