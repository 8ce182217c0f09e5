/* Scripts: segments and ICMP, which arrive, and segments that are expected. */
#ifndef CR_TEST_SCRIPT_SEGMENTS_H
#define CR_TEST_SCRIPT_SEGMENTS_H

#include "script_words.h"

/* A segment of the script: the fields, and which of them it names. */
struct said {
    struct frame f; /* seq and ack: relative */
    struct flow *flow;
    uint8_t options[80];
    char options_text[256];
    bool has_window, options_any, bad_sum, land, broadcast, multicast, ip_options, source_route;
    uint32_t from4; /* of IPv4, as on the wire; 0: the peer */
    unsigned head_words;
};

static uint8_t flags_of(const char **at)
{
    static const char letters[] = "FSRPAUEW";
    uint8_t flags = 0;
    skip(at);
    if (**at == '-') {
        ++*at;
        return 0;
    }
    for (; **at && !isspace((unsigned char)**at); ++*at) {
        const char *found = strchr(letters, **at == '.' ? 'A' : **at);
        if (!found)
            fail("no flag: %c", **at);
        flags |= (uint8_t)(1u << (found - letters));
    }
    return flags;
}

/* Options into bytes, as whoever reads them sees them: blocks of SACK are relative to `sack`, a timestamp to `ts`, its echo to `echo`. Also with blanks made uniform, to be compared. */
static void options_of(const char **at, struct said *said, uint32_t sack, uint32_t ts, uint32_t echo)
{
    uint8_t *to = said->options;
    if (take(at, "...")) {
        said->options_any = true;
        must(at, ">");
        return;
    }
    while (!take(at, ">")) {
        if (to > said->options + 40)
            fail("too many options");
        if (take(at, "nop")) {
            *to++ = 1;
        } else if (take(at, "eol")) {
            *to++ = 0;
        } else if (take(at, "mss")) {
            *to++ = 2, *to++ = 4;
            frame_put16(to, number(at));
            to += 2;
        } else if (take(at, "wscale")) {
            *to++ = 3, *to++ = 3;
            *to++ = (uint8_t)number(at);
        } else if (take(at, "sackOK")) {
            *to++ = 4, *to++ = 2;
        } else if (take(at, "TS")) {
            *to++ = 8, *to++ = 10;
            must(at, "val");
            frame_put32(to, number(at) + ts);
            must(at, "ecr");
            uint32_t ecr = number(at);
            frame_put32(to + 4, ecr ? ecr + echo : 0);
            to += 8;
        } else if (take(at, "sack")) {
            uint8_t *length = to + 1;
            *to = 5;
            to += 2;
            while (number_comes(at)) {
                frame_put32(to, number(at) + sack);
                must(at, ":");
                frame_put32(to + 4, number(at) + sack);
                to += 8;
            }
            *length = (uint8_t)(to - length + 1);
        } else if (take(at, "raw")) {
            skip(at);
            while (isxdigit((unsigned char)**at)) {
                char digits[3] = {(*at)[0], (*at)[1], 0};
                *to++ = (uint8_t)strtoul(digits, NULL, 16);
                *at += 2;
                skip(at);
            }
        } else {
            fail("no option: %s", *at);
        }
        take(at, ",");
    }
    said->f.options_bytes = (size_t)(to - said->options);
}

/* In brackets: what is said of the packet beneath. */
static void traits_of(const char **at, struct said *said)
{
    while (!take(at, "]")) {
        if (take(at, "ect0"))
            said->f.tos = 2;
        else if (take(at, "ect1"))
            said->f.tos = 1;
        else if (take(at, "ce"))
            said->f.tos = 3;
        else if (take(at, "noecn"))
            said->f.tos = 0;
        else if (take(at, "badsum"))
            said->bad_sum = true;
        else if (take(at, "land"))
            said->land = true;
        else if (take(at, "broadcast"))
            said->broadcast = true;
        else if (take(at, "from_broadcast"))
            said->from4 = htonl(script.net4 | 0xff);
        else if (take(at, "from_multicast"))
            said->from4 = htonl(0xe0000001);
        else if (take(at, "from_loopback"))
            said->from4 = htonl(0x7f000001);
        else if (take(at, "multicast"))
            said->multicast = true;
        else if (take(at, "ip_options"))
            said->ip_options = true;
        else if (take(at, "source_route"))
            said->source_route = true;
        else if (take(at, "doff"))
            said->head_words = number(at);
        else
            fail("not to be said in brackets: %s", *at);
        take(at, ",");
    }
}

static struct flow *flow_number(const char **at)
{
    unsigned flow = 1;
    if (take(at, "(")) {
        flow = number(at);
        must(at, ")");
    }
    if (flow >= FLOWS)
        fail("flows are 0 to %d", FLOWS - 1);
    return &script.flows[flow];
}

static void segment_of(const char **at, struct said *said, bool leaves)
{
    struct flow *flow = said->flow;
    if (take(at, "["))
        traits_of(at, said);
    said->f.flags = flags_of(at);
    said->f.seq = number(at);
    must(at, ":");
    uint32_t end = number(at);
    must(at, "(");
    said->f.payload_bytes = number(at);
    must(at, ")");
    if (said->f.seq + said->f.payload_bytes != end)
        fail("%u + %zu is not %u", said->f.seq, said->f.payload_bytes, end);
    if (take(at, "ack")) {
        said->f.ack = number(at);
        if (!(said->f.flags & F_ACK))
            fail("ack without the flag");
    }
    said->f.window = 65535;
    if (take(at, "win")) {
        said->f.window = (uint16_t)number(at);
        said->has_window = true;
    }
    if (take(at, "urg"))
        said->f.urgent = (uint16_t)number(at);
    if (take(at, "<")) {
        if (leaves)
            options_of(at, said, flow->remote_isn, flow->timestamps, 0);
        else
            options_of(at, said, flow->local_isn, 0, flow->timestamps);
    }
    said->f.options = said->options;
}

/* Four bytes of IPv4's options. */
static size_t insert_options(uint8_t *frame, size_t size, const char *options)
{
    memmove(frame + 38, frame + 34, size - 34);
    memcpy(frame + 34, options, 4);
    frame[14] = 0x46;
    frame_put16(frame + 16, (uint32_t)size + 4 - 14);
    frame_put16(frame + 24, 0);
    frame_put16(frame + 24, frame_fold(frame_sum(0, frame + 14, 24)));
    return size + 4;
}

static void arrive(const struct said *said)
{
    uint8_t bytes[4096], payload[2048];
    struct frame f = said->f;
    if (f.payload_bytes > sizeof(payload))
        fail("too long for a packet");
    fill(payload, f.seq, f.payload_bytes);
    f.payload = payload;
    f.from = said->land ? local_ip : said->from4 ? cr__ip_v4(said->from4) : remote_ip;
    f.to = local_ip;
    if (said->broadcast)
        f.to = cr__ip_v4(htonl(script.net4 | 0xff));
    if (said->multicast)
        f.to = cr__ip_v4(htonl(0xe0000001)); /* all hosts' */
    const uint8_t for_all[6] = {255, 255, 255, 255, 255, 255}, for_many[6] = {1, 0, 0x5e, 0, 0, 1};
    memcpy(f.to_ethernet, said->broadcast ? for_all : said->multicast ? for_many : local_ethernet, 6);
    memcpy(f.from_ethernet, remote_ethernet, 6);
    f.from_port = (uint16_t)(said->land ? said->flow->local_port : REMOTE_PORT + (said->flow - script.flows));
    f.to_port = said->flow->local_port;
    f.seq += said->flow->remote_isn;
    if (f.flags & F_ACK)
        f.ack += said->flow->local_isn;
    struct said padded = *said;
    while (f.options_bytes % 4)
        padded.options[f.options_bytes++] = 0;
    f.options = padded.options;
    size_t size = frame_write_tcp(&f, bytes, said->head_words);
    if (said->ip_options || said->source_route)
        size = insert_options(bytes, size, said->ip_options ? "\x5e\x04\0\0" : "\x83\x03\x04\0"); /* of no meaning; a loose route of nobody more */
    if (said->bad_sum)
        bytes[size - 1] ^= 1;
    inject(bytes, size);
}

static void arrive_icmp(const char **at, struct flow *flow)
{
    static const struct {
        const char *name;
        uint8_t type4, code4, type6, code6;
    } troubles[] = {{"net", 3, 0, 1, 0},        {"host", 3, 1, 1, 3},        {"protocol", 3, 2, 4, 1}, {"port", 3, 3, 1, 4},
                    {"frag_needed", 3, 4, 2, 0}, {"prohibited", 3, 13, 1, 1}, {"ttl", 11, 0, 3, 0},     {"quench", 4, 0, 100, 0}};
    struct frame quoted = {.from = local_ip, .to = remote_ip}, f = {.from = remote_ip, .to = local_ip};
    quoted.seq = number(at) + flow->local_isn;
    must(at, ":");
    number(at);
    must(at, "(");
    quoted.payload_bytes = 0;
    uint32_t length = number(at);
    must(at, ")");
    must(at, "]");
    must(at, "icmp");
    take(at, "unreachable");
    char name[32];
    word(at, name, sizeof(name));
    uint32_t mtu = take(at, "mtu") ? number(at) : 0;
    quoted.from_port = flow->local_port;
    quoted.to_port = (uint16_t)(REMOTE_PORT + (flow - script.flows));
    quoted.flags = F_ACK;
    memcpy(f.to_ethernet, local_ethernet, 6);
    memcpy(f.from_ethernet, remote_ethernet, 6);
    uint8_t inner[256], bytes[512];
    size_t size = frame_write_tcp(&quoted, inner, 0) - 14;
    if (!script.v6) {
        frame_put16(inner + 16, (uint32_t)size + length);
        frame_put16(inner + 24, 0);
        frame_put16(inner + 24, frame_fold(frame_sum(0, inner + 14, 20)));
        size = 28;
    } else {
        frame_put16(inner + 18, 20 + length);
    }
    for (size_t i = 0; i < CR__COUNT(troubles); i++)
        if (strcmp(troubles[i].name, name) == 0) {
            size = frame_write_icmp(&f, bytes, script.v6 ? troubles[i].type6 : troubles[i].type4, script.v6 ? troubles[i].code6 : troubles[i].code4, mtu, inner + 14, size);
            inject(bytes, size);
            return;
        }
    fail("no trouble: %s", name);
}

/* Compares what has left with what is expected: as text, so that the message shows both. */
static void expect(struct said *said, const struct span *span)
{
    char wanted[512], came[512], shown[512];
    struct emitted *emitted = &script.emitted[script.emitted_first];
    struct frame got, want = said->f;
    script.emitted_first = (script.emitted_first + 1) % CR__COUNT(script.emitted);
    script.emitted_count--;
    print_emitted(shown, sizeof(shown), emitted);
    frame_parse(&got, emitted->bytes, emitted->size);
    const struct flow *flow = flow_of(&got);
    if (flow != said->flow)
        fail("expected: of flow %d\n#   came:     %s", (int)(said->flow - script.flows), shown);
    uint8_t *stamp = timestamp_in(said->options, want.options_bytes);
    const uint8_t *stamped = timestamp_in(got.options, got.options_bytes);
    if (stamp && stamped && (got.flags & F_SYN)) { /* what it says is where this flow's begin */
        script.flows[flow - script.flows].timestamps += frame_get32(stamped) - frame_get32(stamp);
        frame_put32(stamp, frame_get32(stamped));
    }
    if (!said->has_window)
        want.window = got.window;
    if (said->options_any) {
        want.options = got.options;
        want.options_bytes = got.options_bytes;
    }
    want.kind = FRAME_TCP;
    want.ack += flow->remote_isn;
    frame_print(wanted, sizeof(wanted), &want, 0, flow->remote_isn, flow->timestamps, 0);
    frame_print(came, sizeof(came), &got, flow->local_isn, flow->remote_isn, flow->timestamps, 0);
    if (strcmp(wanted, came) != 0)
        fail("\n#   expected: %s\n#   came:     %s", wanted, shown);
    if (emitted->at_ns < span->from_ns - script.tolerance_ns || emitted->at_ns > span->to_ns + script.tolerance_ns)
        fail("it came at %.6f, not from %.6f to %.6f", seconds(emitted->at_ns), seconds(span->from_ns), seconds(span->to_ns));
    check_stream(got.payload, got.seq - flow->local_isn, got.payload_bytes);
    script.last_ns = emitted->at_ns > script.last_ns ? emitted->at_ns : script.last_ns;
}

#endif
