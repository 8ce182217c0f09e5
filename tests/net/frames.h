/* Frames as tests see them: taken apart, put together, and printed in the language of the scripts (tests/net/scripts/README.md). Written against the RFCs' pictures alone,
 * and sharing no line with the stack, so that an error must be made twice to go unseen. */
#ifndef CR_TEST_FRAMES_H
#define CR_TEST_FRAMES_H

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "net/ip/host.h"

enum frame_kind { FRAME_OTHER, FRAME_TCP, FRAME_ARP_REQUEST, FRAME_SOLICIT };
enum { F_FIN = 1, F_SYN = 2, F_RST = 4, F_PSH = 8, F_ACK = 16, F_URG = 32, F_ECE = 64, F_CWR = 128 };

struct frame {
    enum frame_kind kind;
    uint8_t from_ethernet[6], to_ethernet[6];
    struct cr__ip from, to; /* ARP: of who asks, and who is asked for */
    uint8_t tos;
    bool sums_right;
    uint16_t from_port, to_port;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window, urgent;
    const uint8_t *options, *payload;
    size_t options_bytes, payload_bytes;
};

static inline uint16_t frame_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t frame_get32(const uint8_t *at)
{
    return (uint32_t)frame_get16(at) << 16 | frame_get16(at + 2);
}

static inline void frame_put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void frame_put32(uint8_t *at, uint32_t value)
{
    frame_put16(at, value >> 16);
    frame_put16(at + 2, value & 0xffff);
}

static inline uint32_t frame_sum(uint32_t sum, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    return sum;
}

static inline uint16_t frame_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Of what lies behind the IP header, with the pseudo header. 0: it is right as it stands. */
static inline uint16_t frame_transport_sum(const struct cr__ip *from, const struct cr__ip *to, uint8_t protocol, const uint8_t *bytes, size_t size)
{
    size_t skip = cr__ip_is_v4(from) ? 12 : 0;
    uint32_t sum = frame_sum(0, from->bytes + skip, 16 - skip);
    sum = frame_sum(sum, to->bytes + skip, 16 - skip) + protocol + (uint32_t)size;
    return frame_fold(frame_sum(sum, bytes, size));
}

static inline bool frame_parse_tcp(struct frame *out, const uint8_t *tcp, size_t size)
{
    size_t head = size >= 20 ? (size_t)(tcp[12] >> 4) * 4 : 0;
    if (head < 20 || head > size)
        return false;
    out->kind = FRAME_TCP;
    out->sums_right &= frame_transport_sum(&out->from, &out->to, 6, tcp, size) == 0;
    out->from_port = frame_get16(tcp);
    out->to_port = frame_get16(tcp + 2);
    out->seq = frame_get32(tcp + 4);
    out->ack = frame_get32(tcp + 8);
    out->flags = tcp[13];
    out->window = frame_get16(tcp + 14);
    out->urgent = frame_get16(tcp + 18);
    out->options = tcp + 20;
    out->options_bytes = head - 20;
    out->payload = tcp + head;
    out->payload_bytes = size - head;
    return true;
}

/* False: it is malformed. Points into bytes. */
static inline bool frame_parse(struct frame *out, const uint8_t *bytes, size_t size)
{
    memset(out, 0, sizeof(*out));
    if (size < 14)
        return false;
    memcpy(out->to_ethernet, bytes, 6);
    memcpy(out->from_ethernet, bytes + 6, 6);
    const uint8_t *ip = bytes + 14;
    size -= 14;
    uint16_t type = frame_get16(bytes + 12);
    uint32_t part;
    if (type == 0x0806) {
        if (size < 28)
            return false;
        out->kind = frame_get16(ip + 6) == 1 ? FRAME_ARP_REQUEST : FRAME_OTHER;
        memcpy(&part, ip + 14, 4);
        out->from = cr__ip_v4(part);
        memcpy(&part, ip + 24, 4);
        out->to = cr__ip_v4(part);
        return true;
    }
    if (type == 0x0800) {
        if (size < 20 || ip[0] != 0x45 || frame_get16(ip + 2) > size || frame_get16(ip + 2) < 20)
            return false;
        memcpy(&part, ip + 12, 4);
        out->from = cr__ip_v4(part);
        memcpy(&part, ip + 16, 4);
        out->to = cr__ip_v4(part);
        out->tos = ip[1];
        out->sums_right = frame_fold(frame_sum(0, ip, 20)) == 0;
        bool fragment = (frame_get16(ip + 6) & 0x3fff) != 0;
        return fragment || ip[9] != 6 || frame_parse_tcp(out, ip + 20, frame_get16(ip + 2) - 20u);
    }
    if (type != 0x86dd)
        return true;
    if (size < 40 || ip[0] >> 4 != 6 || frame_get16(ip + 4) + 40u > size)
        return false;
    memcpy(out->from.bytes, ip + 8, 16);
    memcpy(out->to.bytes, ip + 24, 16);
    out->tos = (uint8_t)(ip[0] << 4 | ip[1] >> 4);
    out->sums_right = true;
    size_t inner = frame_get16(ip + 4);
    if (ip[6] == 58 && inner >= 24 && ip[40] == 135) {
        out->kind = FRAME_SOLICIT;
        memcpy(out->to.bytes, ip + 48, 16);
    }
    return ip[6] != 6 || frame_parse_tcp(out, ip + 40, inner);
}

/* The IP header, and Ethernet's before it; returns where it ends. */
static inline uint8_t *frame_write_ip(const struct frame *f, uint8_t *out, uint8_t protocol, size_t inner)
{
    memcpy(out, f->to_ethernet, 6);
    memcpy(out + 6, f->from_ethernet, 6);
    uint8_t *ip = out + 14;
    if (cr__ip_is_v4(&f->to)) {
        frame_put16(out + 12, 0x0800);
        memset(ip, 0, 20);
        ip[0] = 0x45;
        ip[1] = f->tos;
        frame_put16(ip + 2, (uint32_t)inner + 20);
        frame_put16(ip + 6, 0x4000);
        ip[8] = 64;
        ip[9] = protocol;
        memcpy(ip + 12, f->from.bytes + 12, 4);
        memcpy(ip + 16, f->to.bytes + 12, 4);
        frame_put16(ip + 10, frame_fold(frame_sum(0, ip, 20)));
        return ip + 20;
    }
    frame_put16(out + 12, 0x86dd);
    memset(ip, 0, 8);
    ip[0] = (uint8_t)(0x60 | f->tos >> 4);
    ip[1] = (uint8_t)(f->tos << 4);
    frame_put16(ip + 4, (uint32_t)inner);
    ip[6] = protocol;
    ip[7] = protocol == 58 ? 255 : 64;
    memcpy(ip + 8, f->from.bytes, 16);
    memcpy(ip + 24, f->to.bytes, 16);
    return ip + 40;
}

/* Writes the whole frame of a segment; returns its size. head_words: what the header's length field says; 0: the truth. */
static inline size_t frame_write_tcp(const struct frame *f, uint8_t *out, unsigned head_words)
{
    size_t head = 20 + f->options_bytes, size = head + f->payload_bytes;
    uint8_t *tcp = frame_write_ip(f, out, 6, size);
    frame_put16(tcp, f->from_port);
    frame_put16(tcp + 2, f->to_port);
    frame_put32(tcp + 4, f->seq);
    frame_put32(tcp + 8, f->ack);
    tcp[12] = (uint8_t)((head_words ? head_words : head / 4) << 4);
    tcp[13] = f->flags;
    frame_put16(tcp + 14, f->window);
    frame_put16(tcp + 16, 0);
    frame_put16(tcp + 18, f->urgent);
    if (f->options_bytes)
        memcpy(tcp + 20, f->options, f->options_bytes);
    if (f->payload_bytes)
        memcpy(tcp + head, f->payload, f->payload_bytes);
    frame_put16(tcp + 16, frame_transport_sum(&f->from, &f->to, 6, tcp, size));
    return (size_t)(tcp - out) + size;
}

/* An error of ICMP about a packet whose header and first bytes are quoted. */
static inline size_t frame_write_icmp(const struct frame *f, uint8_t *out, uint8_t type, uint8_t code, uint32_t word, const uint8_t *quoted, size_t quoted_bytes)
{
    bool v4 = cr__ip_is_v4(&f->to);
    uint8_t *icmp = frame_write_ip(f, out, v4 ? 1 : 58, 8 + quoted_bytes);
    icmp[0] = type;
    icmp[1] = code;
    frame_put16(icmp + 2, 0);
    frame_put32(icmp + 4, word);
    memcpy(icmp + 8, quoted, quoted_bytes);
    uint16_t sum = v4 ? frame_fold(frame_sum(0, icmp, 8 + quoted_bytes)) : frame_transport_sum(&f->from, &f->to, 58, icmp, 8 + quoted_bytes);
    frame_put16(icmp + 2, sum);
    return (size_t)(icmp - out) + 8 + quoted_bytes;
}

/* What `ethernet` answers to a host that looks for its address. */
static inline size_t frame_answer_neighbour(const struct frame *asked, uint8_t *out, const uint8_t *ethernet)
{
    struct frame f = {.from = asked->to, .to = asked->from};
    memcpy(f.to_ethernet, asked->from_ethernet, 6);
    memcpy(f.from_ethernet, ethernet, 6);
    if (asked->kind == FRAME_ARP_REQUEST) {
        static const uint8_t fixed[] = {0, 1, 8, 0, 6, 4, 0, 2};
        memcpy(out, f.to_ethernet, 6);
        memcpy(out + 6, ethernet, 6);
        frame_put16(out + 12, 0x0806);
        memcpy(out + 14, fixed, 8);
        memcpy(out + 22, ethernet, 6);
        memcpy(out + 28, f.from.bytes + 12, 4);
        memcpy(out + 32, f.to_ethernet, 6);
        memcpy(out + 38, f.to.bytes + 12, 4);
        return 42;
    }
    uint8_t *icmp = frame_write_ip(&f, out, 58, 32);
    memset(icmp, 0, 32);
    icmp[0] = 136;
    icmp[4] = 0x60; /* solicited, override */
    memcpy(icmp + 8, f.from.bytes, 16);
    icmp[24] = 2;
    icmp[25] = 1;
    memcpy(icmp + 26, ethernet, 6);
    frame_put16(icmp + 2, frame_transport_sum(&f.from, &f.to, 58, icmp, 32));
    return (size_t)(icmp - out) + 32;
}

/* Options as text, in the order in which they stand there. What numbers in them are relative to is taken off: `sack` of SACK's blocks, `ts` of a timestamp's value, `echo` of its echo. */
static inline void frame_print_options(char *text, size_t size, const uint8_t *at, size_t bytes, uint32_t sack, uint32_t ts, uint32_t echo)
{
    size_t used = 0;
    *text = '\0';
    for (size_t i = 0; i < bytes && used + 64 < size;) {
        uint8_t kind = at[i], length = kind <= 1 ? 1 : (i + 1 < bytes ? at[i + 1] : 0);
        char *to = text + used + (used != 0);
        size_t room = size - used - 1;
        if (used)
            text[used] = ',';
        if (length == 0 || (kind > 1 && length < 2) || i + length > bytes) {
            used += (size_t)(used != 0) + (size_t)snprintf(to, room, "broken %u", kind);
            return;
        }
        int n;
        if (kind == 0)
            n = snprintf(to, room, "eol");
        else if (kind == 1)
            n = snprintf(to, room, "nop");
        else if (kind == 2 && length == 4)
            n = snprintf(to, room, "mss %u", frame_get16(at + i + 2));
        else if (kind == 3 && length == 3)
            n = snprintf(to, room, "wscale %u", at[i + 2]);
        else if (kind == 4 && length == 2)
            n = snprintf(to, room, "sackOK");
        else if (kind == 8 && length == 10) {
            uint32_t ecr = frame_get32(at + i + 6);
            n = snprintf(to, room, "TS val %u ecr %u", frame_get32(at + i + 2) - ts, ecr ? ecr - echo : 0);
        } else if (kind == 5 && length % 8 == 2) {
            n = snprintf(to, room, "sack ");
            for (size_t j = 2; j < length; j += 8)
                n += snprintf(to + n, room - (size_t)n, "%s%u:%u", j > 2 ? " " : "", frame_get32(at + i + j) - sack, frame_get32(at + i + j + 4) - sack);
        } else {
            n = snprintf(to, room, "kind %u", kind);
        }
        used += (size_t)n + (used != 0);
        i += length;
    }
}

static inline void frame_print_flags(char *text, uint8_t flags)
{
    static const struct {
        uint8_t flag;
        char letter;
    } letters[] = {{F_SYN, 'S'}, {F_FIN, 'F'}, {F_RST, 'R'}, {F_PSH, 'P'}, {F_URG, 'U'}, {F_ECE, 'E'}, {F_CWR, 'W'}, {F_ACK, '.'}};
    for (size_t i = 0; i < CR__COUNT(letters); i++)
        if (flags & letters[i].flag)
            *text++ = letters[i].letter;
    *text = '\0';
}

/* A segment, in the language of the scripts: relative to seq and ack, timestamps to ts and echo. */
static inline void frame_print(char *text, size_t size, const struct frame *f, uint32_t seq, uint32_t ack, uint32_t ts, uint32_t echo)
{
    static const char *const ecn[] = {"", "[ect1] ", "[ect0] ", "[ce] "};
    char flags[9], options[256], acked[32] = "", urgent[32] = "";
    if (f->kind != FRAME_TCP) {
        snprintf(text, size, "%s", f->kind == FRAME_ARP_REQUEST ? "arp who-has" : f->kind == FRAME_SOLICIT ? "neighbour solicitation" : "(not TCP)");
        return;
    }
    frame_print_flags(flags, f->flags);
    frame_print_options(options, sizeof(options), f->options, f->options_bytes, ack, ts, echo);
    if (f->flags & F_ACK)
        snprintf(acked, sizeof(acked), " ack %u", f->ack - ack);
    if (f->flags & F_URG)
        snprintf(urgent, sizeof(urgent), " urg %u", f->urgent);
    uint32_t from = f->seq - seq;
    snprintf(text, size, "%s%s %u:%u(%zu)%s win %u%s%s%s%s", ecn[f->tos & 3], flags, from, from + (uint32_t)f->payload_bytes, f->payload_bytes, acked, f->window, urgent,
             f->options_bytes ? " <" : "", options, f->options_bytes ? ">" : "");
}

#endif
