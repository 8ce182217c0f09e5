#include "net/wire/wire.h"

/* ---- Checksum ------------------------------------------------------------------------------------------------ */

typedef uint32_t words_of_16 __attribute__((vector_size(16))); /* what SSE2 and NEON add at once; elsewhere the compiler takes it apart */
typedef uint64_t sums_of_16 __attribute__((vector_size(16)));

#define VECTOR_FROM_BYTES 64

/* Words of 32 bits are added in lanes of 64, so no carry is lost before 2^32 of them: and it does not matter in which order bytes are, nor which lane a word is added in, as
 * long as it begins at an even place. The sum in this machine's order is that of the wire with its bytes swapped (RFC 1071, 2 B). */
static uint64_t sum_vectors(const uint8_t **bytes, size_t *size_bytes)
{
    sums_of_16 low = {0}, high = {0};
    const sums_of_16 mask = {0xffffffff, 0xffffffff};
    const uint8_t *at = *bytes, *end = at + (*size_bytes & ~(size_t)31);
    for (; at < end; at += 32) {
        sums_of_16 a, b;
        memcpy(&a, at, 16);
        memcpy(&b, at + 16, 16);
        low += (a & mask) + (b & mask);
        high += (a >> 32) + (b >> 32);
    }
    *bytes = at;
    *size_bytes &= 31;
    low += high;
    return low[0] + low[1];
}

/* The last 0 to 7 bytes as a word, zeroes behind. */
static uint64_t load_tail(const uint8_t *at, size_t size_bytes)
{
    uint64_t word = 0;
    if (size_bytes & 4) {
        uint32_t part;
        memcpy(&part, at, 4);
        word = part;
        at += 4;
    }
    if (size_bytes & 2) {
        uint16_t part;
        memcpy(&part, at, 2);
        word += part;
        at += 2;
    }
    if (size_bytes & 1)
        word += at[0]; /* the first one of a pair */
    return word;
}

uint32_t cr__wire_sum(uint32_t sum, const void *from, size_t size_bytes)
{
    const uint8_t *bytes = from;
    uint64_t all = size_bytes >= VECTOR_FROM_BYTES ? sum_vectors(&bytes, &size_bytes) : 0;
    for (; size_bytes >= 8; size_bytes -= 8, bytes += 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        all += (word & 0xffffffff) + (word >> 32);
    }
    all += load_tail(bytes, size_bytes);
    all = (all & 0xffffffff) + (all >> 32);
    all = (all & 0xffff) + (all >> 16);
    all = (all & 0xffff) + (all >> 16);
    all = (all & 0xffff) + (all >> 16);
    return sum + __builtin_bswap16((uint16_t)all);
}

/* ---- IPv4's options ------------------------------------------------------------------------------------------ */

#define IP_OPTION_END 0
#define IP_OPTION_NOTHING 1
#define IP_OPTION_LOOSE_ROUTE 131
#define IP_OPTION_STRICT_ROUTE 137

int cr__wire_options(const uint8_t *options, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes && options[at] != IP_OPTION_END;) {
        if (options[at] == IP_OPTION_NOTHING) {
            at++;
            continue;
        }
        if (size_bytes - at < 2 || options[at + 1] < 2 || options[at + 1] > size_bytes - at)
            return -EINVAL;
        if (options[at] == IP_OPTION_LOOSE_ROUTE || options[at] == IP_OPTION_STRICT_ROUTE)
            return -EPERM;
        at += options[at + 1];
    }
    return 0;
}

/* ---- IPv6's extension headers -------------------------------------------------------------------------------- */

#define IP_OPTION_PAD_1 0
#define IP_OPTION_PAD_N 1

enum { PROBLEM_HEADER = 0, PROBLEM_NEXT = 1, PROBLEM_OPTION = 2 };

static enum cr__walk_end problem(struct cr__walk *walk, uint8_t code, size_t at)
{
    walk->problem = code;
    walk->problem_at = at;
    return CR__WALK_PROBLEM;
}

/* An option that is not known: what its two highest bits want (RFC 8200, 4.2). */
static enum cr__walk_end unknown_option(struct cr__walk *walk, uint8_t kind, size_t at)
{
    switch (kind >> 6) {
    case 0:
        return CR__WALK_UPPER; /* to be skipped */
    case 1:
        return CR__WALK_DROP;
    default:
        walk->many = kind >> 6 == 2;
        return problem(walk, PROBLEM_OPTION, at);
    }
}

/* Those between at and end, which are there. CR__WALK_UPPER: well formed. */
static enum cr__walk_end walk_options(struct cr__walk *walk, const uint8_t *header, size_t at, size_t end)
{
    unsigned padding = 0;
    while (at < end) {
        if (header[at] == IP_OPTION_PAD_1) {
            at++;
            if (++padding > CR__WALK_PADDING_MOST)
                return CR__WALK_DROP;
            continue;
        }
        if (end - at < 2 || (size_t)header[at + 1] + 2 > end - at)
            return CR__WALK_DROP;
        if (header[at] == IP_OPTION_PAD_N) {
            padding += 2u + header[at + 1];
            if (padding > CR__WALK_PADDING_MOST)
                return CR__WALK_DROP;
        } else {
            padding = 0;
            enum cr__walk_end end_of_it = unknown_option(walk, header[at], at);
            if (end_of_it != CR__WALK_UPPER)
                return end_of_it;
        }
        at += 2u + header[at + 1];
    }
    return CR__WALK_UPPER;
}

/* One header of hop-by-hop options, destination options or a route. */
static enum cr__walk_end walk_one(struct cr__walk *walk, const uint8_t *header, size_t size_bytes)
{
    if (size_bytes - walk->at < 8)
        return CR__WALK_DROP;
    size_t length = 8u * (header[walk->at + 1] + 1u);
    if (length > size_bytes - walk->at)
        return CR__WALK_DROP;
    if (walk->next == CR__IP_ROUTING) {
        if (header[walk->at + 3] != 0) /* segments left: for somebody else, and no type is known (RFC 5095) */
            return problem(walk, PROBLEM_HEADER, walk->at + 2);
    } else {
        enum cr__walk_end end = walk_options(walk, header, walk->at + 2, walk->at + length);
        if (end != CR__WALK_UPPER)
            return end;
    }
    walk->next_at = walk->at;
    walk->next = header[walk->at];
    walk->at += length;
    return CR__WALK_UPPER;
}

enum cr__walk_end cr__wire_walk(struct cr__walk *walk, const uint8_t *header, size_t size_bytes)
{
    bool first = walk->at == CR__IP6_BYTES && !walk->fragmented;
    size_t begin = walk->at;
    if (walk->at > size_bytes)
        return CR__WALK_DROP;
    for (unsigned count = 0; count <= CR__WALK_HEADERS && walk->at - begin <= CR__WALK_BYTES_MOST; count++, first = false) {
        switch (walk->next) {
        case CR__IP_FRAGMENT:
            return walk->fragmented || size_bytes - walk->at < sizeof(struct cr__ip6_fragment) ? CR__WALK_DROP : CR__WALK_AT_FRAGMENT;
        case CR__IP_HOP_BY_HOP:
            if (!first) /* allowed at the beginning only (RFC 8200, 4.1) */
                return problem(walk, PROBLEM_NEXT, walk->next_at);
            break;
        case CR__IP_ROUTING:
        case CR__IP_DESTINATION:
            break;
        default:
            return CR__WALK_UPPER;
        }
        enum cr__walk_end end = walk_one(walk, header, size_bytes);
        if (end != CR__WALK_UPPER)
            return end;
    }
    return CR__WALK_DROP;
}

const uint8_t *cr__wire_ndp_option(const uint8_t *options, size_t size_bytes, enum cr__ndp_option kind, bool *malformed)
{
    const uint8_t *found = NULL;
    *malformed = false;
    for (size_t at = 0; at < size_bytes;) {
        size_t length = size_bytes - at < 2 ? 0 : 8u * options[at + 1];
        if (length == 0 || length > size_bytes - at) {
            *malformed = true;
            return NULL;
        }
        if (options[at] == kind && !found)
            found = options + at + 2;
        at += length;
    }
    return found;
}
