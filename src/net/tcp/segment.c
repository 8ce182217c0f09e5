/* A segment's header and options (RFC 9293, 3.1 and 3.2; 7323, 2.2 and 3.2; 2018, 2 and 3): bytes to struct cr__segment, and back. Pure: no state, no checksum.
 *
 * An option that is not known is skipped by its length; one whose length is wrong ends the segment, for nobody can say what would follow (RFC 9293, 3.2: a length must be
 * at least two, and must not overrun). Of an option that is known with another length than it may have, only that option is ignored, as Linux does. Options that mean something
 * only with SYN are read of SYNs only. */
#include "net/tcp/tcp.h"

#define HEADER_BYTES 20

enum option { OPTION_END, OPTION_NOP, OPTION_MSS, OPTION_SCALE, OPTION_SACK_PERMITTED, OPTION_SACK, OPTION_TIMESTAMP = 8 };

/* The usual options of a segment that is no SYN: NOP NOP timestamp, in one word. */
#define ALIGNED_TIMESTAMP ((uint32_t)OPTION_NOP << 24 | (uint32_t)OPTION_NOP << 16 | (uint32_t)OPTION_TIMESTAMP << 8 | 10)

static void parse_sack(struct cr__segment *out, const uint8_t *at, size_t size_bytes)
{
    size_t count = size_bytes / 8;
    if (size_bytes % 8 != 0 || count > CR__SACK_BLOCKS)
        return;
    for (size_t i = 0; i < count; i++) {
        out->sack[i].from = cr__wire_get32(at + 8 * i);
        out->sack[i].to = cr__wire_get32(at + 8 * i + 4);
    }
    out->sack_count = (uint8_t)count;
}

static void parse_option(struct cr__segment *out, uint8_t kind, const uint8_t *at, size_t size_bytes)
{
    bool syn = out->flags & CR__SYN;
    switch (kind) {
    case OPTION_MSS:
        if (syn && size_bytes == 2)
            out->mss_bytes = cr__wire_get16(at);
        break;
    case OPTION_SCALE:
        if (syn && size_bytes == 1) {
            out->has_scale = true;
            out->scale = at[0] > 14 ? 14 : at[0]; /* RFC 7323, 2.3 */
        }
        break;
    case OPTION_SACK_PERMITTED:
        if (syn && size_bytes == 0)
            out->sack_permitted = true;
        break;
    case OPTION_SACK:
        parse_sack(out, at, size_bytes);
        break;
    case OPTION_TIMESTAMP:
        if (size_bytes == 8) {
            out->has_timestamp = true;
            out->ts_value = cr__wire_get32(at);
            out->ts_echo = cr__wire_get32(at + 4);
        }
        break;
    default:
        break;
    }
}

static int parse_options(struct cr__segment *out, const uint8_t *at, size_t size_bytes)
{
    while (size_bytes > 0) {
        if (at[0] == OPTION_END)
            return 0;
        size_t length = 1;
        if (at[0] != OPTION_NOP) {
            if (size_bytes < 2 || at[1] < 2 || at[1] > size_bytes)
                return -EINVAL;
            length = at[1];
            parse_option(out, at[0], at + 2, length - 2);
        }
        at += length;
        size_bytes -= length;
    }
    return 0;
}

int cr__segment_parse(struct cr__segment *out, const uint8_t *bytes, size_t size_bytes)
{
    if (size_bytes < HEADER_BYTES)
        return -EINVAL;
    size_t header_bytes = (size_t)(bytes[12] >> 4) * 4;
    if (header_bytes < HEADER_BYTES || header_bytes > size_bytes)
        return -EINVAL;
    out->from_port = cr__wire_get16(bytes);
    out->to_port = cr__wire_get16(bytes + 2);
    out->seq = cr__wire_get32(bytes + 4);
    out->ack = cr__wire_get32(bytes + 8);
    out->flags = bytes[13];
    out->window = cr__wire_get16(bytes + 14);
    out->payload_bytes = (uint32_t)(size_bytes - header_bytes);
    out->has_timestamp = out->has_scale = out->sack_permitted = false;
    out->scale = 0;
    out->mss_bytes = 0;
    out->sack_count = 0;
    out->ts_value = out->ts_echo = 0;
    if (header_bytes == HEADER_BYTES)
        return 0;
    if (CR__LIKELY(header_bytes == HEADER_BYTES + 12 && cr__wire_get32(bytes + HEADER_BYTES) == ALIGNED_TIMESTAMP)) {
        out->has_timestamp = true;
        out->ts_value = cr__wire_get32(bytes + HEADER_BYTES + 4);
        out->ts_echo = cr__wire_get32(bytes + HEADER_BYTES + 8);
        return 0;
    }
    return parse_options(out, bytes + HEADER_BYTES, header_bytes - HEADER_BYTES);
}

/* ---- Putting together ---------------------------------------------------------------------------------------- */

static size_t options_bytes(const struct cr__segment *seg)
{
    size_t bytes = 0;
    if (seg->mss_bytes)
        bytes += 4;
    if (seg->has_timestamp)
        bytes += 12;
    else if (seg->sack_permitted)
        bytes += 4;
    if (seg->has_scale)
        bytes += 4;
    if (seg->sack_count > 0)
        bytes += 4 + 8u * seg->sack_count;
    return bytes;
}

/* Two bytes in front of an option that is not a multiple of four long: another one that fits there, or NOPs. */
static uint8_t *put_pair(uint8_t *at, bool sack_permitted)
{
    *at++ = sack_permitted ? OPTION_SACK_PERMITTED : OPTION_NOP;
    *at++ = sack_permitted ? 2 : OPTION_NOP;
    return at;
}

static uint8_t *put_sack(uint8_t *at, const struct cr__segment *seg)
{
    at = put_pair(at, false);
    *at++ = OPTION_SACK;
    *at++ = (uint8_t)(2 + 8 * seg->sack_count);
    for (int i = 0; i < seg->sack_count; i++) {
        cr__wire_put32(at, seg->sack[i].from);
        cr__wire_put32(at + 4, seg->sack[i].to);
        at += 8;
    }
    return at;
}

static void put_options(uint8_t *at, const struct cr__segment *seg)
{
    if (seg->mss_bytes) {
        *at++ = OPTION_MSS;
        *at++ = 4;
        cr__wire_put16(at, seg->mss_bytes);
        at += 2;
    }
    if (seg->has_timestamp) {
        at = put_pair(at, seg->sack_permitted);
        *at++ = OPTION_TIMESTAMP;
        *at++ = 10;
        cr__wire_put32(at, seg->ts_value);
        cr__wire_put32(at + 4, seg->ts_echo);
        at += 8;
    } else if (seg->sack_permitted) {
        at = put_pair(put_pair(at, false), true);
    }
    if (seg->has_scale) {
        *at++ = OPTION_NOP;
        *at++ = OPTION_SCALE;
        *at++ = 3;
        *at++ = seg->scale;
    }
    if (seg->sack_count > 0)
        put_sack(at, seg);
}

size_t cr__segment_push(struct cr_packet *packet, const struct cr__segment *seg)
{
    size_t header_bytes = HEADER_BYTES + options_bytes(seg);
    CR__ASSERT(header_bytes <= 60);
    uint8_t *at = cr_packet_push(packet, header_bytes);
    cr__wire_put16(at, seg->from_port);
    cr__wire_put16(at + 2, seg->to_port);
    cr__wire_put32(at + 4, seg->seq);
    cr__wire_put32(at + 8, seg->ack);
    at[12] = (uint8_t)(header_bytes / 4 << 4);
    at[13] = seg->flags;
    cr__wire_put16(at + 14, seg->window);
    cr__wire_put32(at + 16, 0); /* checksum; urgent pointer */
    put_options(at + HEADER_BYTES, seg);
    return header_bytes;
}
