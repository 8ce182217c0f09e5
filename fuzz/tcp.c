/* TCP as a machine of states: an input is a program of segments, calls and waits. A segment's numbers are relative to where the connection is, so that what is interesting (the edges of
 * windows, what is acknowledged already, what was never sent) is a byte away. After each step cr__tcp_check must hold, and no packet may be lost in the end. */
#include "host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the peer knows of the flow that it talks on. */
static struct {
    uint16_t local_port;
    uint32_t sent, received; /* the end of what it has sent in order, and of what it has got */
    uint32_t ts;
} peer;

static void seen(const struct frame *f)
{
    uint32_t end = f->seq + (uint32_t)f->payload_bytes + ((f->flags & F_SYN) != 0) + ((f->flags & F_FIN) != 0);
    peer.local_port = f->from_port;
    peer.received = end;
    if (f->flags & F_ACK)
        peer.sent = f->ack;
    for (size_t i = 0; i + 10 <= f->options_bytes; i++)
        if (f->options[i] == 8 && f->options[i + 1] == 10)
            peer.ts = frame_get32(f->options + i + 2);
}

static int32_t offset(uint8_t byte)
{
    static const int32_t far[] = {100000, -100000, 1 << 20, -(1 << 20), 65535, -65535, INT32_MAX, INT32_MIN};
    return byte < 200 ? (int32_t)(int8_t)(byte - 100) : byte < 248 ? (byte - 224) * 1460 : far[byte - 248];
}

static size_t append(uint8_t *out, size_t used, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    memcpy(out + used, (uint8_t[]){a, b, c, d}, 4);
    return used + 4;
}

static size_t options(struct fuzz_input *input, uint8_t *out)
{
    uint8_t what = fuzz_byte(input);
    size_t used = 0;
    if (what & 1)
        used = append(out, used, 2, 4, 4, what & 0xf0);
    if (what & 2)
        used = append(out, used, 3, 3, fuzz_byte(input), 1);
    if (what & 4)
        used = append(out, used, 4, 2, 1, 1);
    if (what & 8) {
        used = append(out, used, 1, 1, 8, 10);
        frame_put32(out + used, 1000 + fuzz_word(input));
        frame_put32(out + used + 4, peer.ts);
        used += 8;
    }
    if (what & 16) {
        used = append(out, used, 1, 1, 5, 10);
        uint32_t from = peer.received + (uint32_t)offset(fuzz_byte(input));
        frame_put32(out + used, from);
        frame_put32(out + used + 4, from + (uint32_t)offset(fuzz_byte(input)));
        used += 8;
    }
    if (what & 32 && used <= 32)
        for (unsigned i = 0; i < 4; i++)
            out[used++] = fuzz_byte(input);
    return used;
}

static void segment(struct fuzz_input *input, bool v6)
{
    static uint8_t payload[1500];
    uint8_t frame[2048], opts[64], length = fuzz_byte(input);
    struct frame f = {.from = fuzz_ip(1, v6), .to = fuzz_ip(0, v6), .from_port = 5000, .payload = payload};
    memcpy(f.to_ethernet, fuzz_ethernet[0], 6);
    memcpy(f.from_ethernet, fuzz_ethernet[1], 6);
    f.to_port = peer.local_port ? peer.local_port : FUZZ_PORT;
    f.flags = fuzz_byte(input);
    f.seq = peer.sent + (uint32_t)offset(fuzz_byte(input));
    f.ack = peer.received + (uint32_t)offset(fuzz_byte(input));
    f.window = fuzz_word(input);
    f.tos = length & 3;
    f.payload_bytes = length < 64 ? 0 : length < 128 ? length - 64u : (length - 127u) * 11u;
    f.options_bytes = options(input, opts);
    f.options = opts;
    fuzz_inject(frame, frame_write_tcp(&f, frame, 0));
    if (f.seq == peer.sent)
        peer.sent += (uint32_t)f.payload_bytes;
}

static void trouble(struct fuzz_input *input)
{
    uint8_t inner[128], bytes[256];
    struct frame quoted = {.from = fuzz_ip(0, false), .to = fuzz_ip(1, false), .from_port = peer.local_port, .to_port = 5000, .flags = F_ACK}, f = {.from = fuzz_ip(1, false), .to = fuzz_ip(0, false)};
    memcpy(f.to_ethernet, fuzz_ethernet[0], 6);
    memcpy(f.from_ethernet, fuzz_ethernet[1], 6);
    quoted.seq = peer.received + (uint32_t)offset(fuzz_byte(input));
    frame_write_tcp(&quoted, inner, 0);
    uint8_t code = fuzz_byte(input);
    fuzz_inject(bytes, frame_write_icmp(&f, bytes, 3, code & 15, fuzz_word(input), inner + 14, 28));
}

static void call(struct fuzz_input *input, bool v6)
{
    static uint8_t buffer[1 << 16];
    uint8_t what = fuzz_byte(input);
    struct cr__tcp **user = &fuzz.users[what >> 5], *tcp = *user;
    struct iovec iov = {buffer, 1u + fuzz_byte(input) * 64u};
    struct cr_packet *lent;
    if (!tcp) {
        struct cr__ip to = fuzz_ip(1, v6);
        struct cr__tcp_opts opts = {.nagle = what & 1, .keepalive = what & 2, .keepalive_ms = 1000, .user_timeout_ms = what & 4 ? 5000 : 0};
        if (what & 8 || cr__tcp_dial(&fuzz.host, user, NULL, 0, &to, 5000, &opts) != 0)
            *user = cr__tcp_accept(fuzz.listener);
        return;
    }
    switch (what & 7) {
    case 0:
    case 1:
        (void)cr__tcp_send(tcp, &iov, 1, what & 8);
        break;
    case 2:
    case 3:
        (void)cr__tcp_recv(tcp, &iov, 1);
        break;
    case 4:
        if (cr__tcp_recv_lend(tcp, &lent) > 0)
            cr__tcp_recv_return(tcp, lent);
        break;
    case 5:
        (void)cr__tcp_shutdown(tcp);
        break;
    default:
        *user = NULL;
        if (what & 8)
            cr__tcp_abort(tcp);
        else
            cr__tcp_close(tcp);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, data + size};
    uint8_t how = fuzz_byte(&input);
    bool v6 = how & 1;
    memset(&peer, 0, sizeof(peer));
    fuzz_begin(&(struct cr__tcp_config){.no_timestamps = how & 2,
                                        .no_sack = how & 4,
                                        .ecn = how & 8,
                                        .newreno = how & 16,
                                        .half_open_most = how & 32 ? 1 : 0,
                                        .recv_limit_bytes = how & 64 ? 4000 : 0,
                                        .send_limit_bytes = how & 128 ? 4000 : 0});
    peer.received = 0xfffffe00;
    fuzz.leaves = seen;
    while (input.at < input.end) {
        uint8_t op = fuzz_byte(&input);
        if (op < 128)
            segment(&input, v6);
        else if (op < 200)
            call(&input, v6);
        else if (op < 208)
            trouble(&input);
        else
            fuzz_wait((int64_t)(op - 207) * (op & 1 ? 1000000 : 250000000));
        fuzz_drain();
        fuzz_check();
    }
    fuzz_end();
    return 0;
}
