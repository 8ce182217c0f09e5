/* The Internet checksum against one that is obvious, and the walks through headers and options. */
#include "net/wire/wire.h"
#include <time.h>

#include "test.h"

static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint16_t naive(const uint8_t *bytes, size_t size_bytes, uint64_t sum)
{
    for (size_t i = 0; i < size_bytes; i++)
        sum += (uint64_t)bytes[i] << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

TEST(the_checksum_is_that_of_rfc_1071_at_all_sizes_and_alignments)
{
    static uint8_t bytes[2200];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)next_random();
    for (size_t at = 0; at < 33; at++)
        for (size_t size = 0; size <= 2048; size += size < 300 ? 1 : 13) {
            CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, bytes + at, size)), naive(bytes + at, size, 0));
            CHECK_EQ(cr__wire_checksum(cr__wire_sum(0x1fffe, bytes + at, size)), naive(bytes + at, size, 0x1fffe));
        }
}

TEST(carries_are_not_lost_when_all_bytes_are_255)
{
    static uint8_t bytes[65535];
    memset(bytes, 0xff, sizeof(bytes));
    for (size_t size = 0; size <= sizeof(bytes); size += size < 200 ? 1 : 997)
        CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, bytes, size)), naive(bytes, size, 0));
    CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, bytes, sizeof(bytes))), naive(bytes, sizeof(bytes), 0));
}

TEST(the_example_of_rfc_1071)
{
    const uint8_t bytes[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, bytes, 8)), (uint16_t)~0xddf2);
}

TEST(parts_add_up_to_the_sum_of_the_whole_and_an_odd_one_may_be_the_last)
{
    uint8_t bytes[700];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)next_random();
    for (int i = 0; i < 2000; i++) {
        size_t whole = next_random() % sizeof(bytes), first = next_random() % (whole + 1) & ~(size_t)1, second = next_random() % (whole - first + 1) & ~(size_t)1;
        uint32_t sum = cr__wire_sum(0, bytes, first);
        sum = cr__wire_sum(sum, bytes + first, second);
        sum = cr__wire_sum(sum, bytes + first + second, whole - first - second);
        CHECK_EQ(cr__wire_checksum(sum), naive(bytes, whole, 0));
    }
}

TEST(a_header_with_its_checksum_in_it_sums_up_to_nothing)
{
    const uint8_t header[] = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};
    CHECK_EQ(cr__wire_checksum(cr__wire_sum(0, header, sizeof(header))), 0);
}

TEST(numbers_lie_highest_byte_first_at_any_address)
{
    uint8_t bytes[9] = {0};
    cr__wire_put16(bytes + 1, 0x1234);
    cr__wire_put32(bytes + 3, 0xdeadbeef);
    CHECK(memcmp(bytes + 1, "\x12\x34\xde\xad\xbe\xef", 6) == 0);
    CHECK_EQ(cr__wire_get16(bytes + 1), 0x1234);
    CHECK_EQ(cr__wire_get32(bytes + 3), 0xdeadbeef);
}

TEST(options_of_ipv4_are_walked_and_source_routes_are_told_from_malformed_ones)
{
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x01\x01\x01\x00", 4), 0);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x94\x04\x00\x00", 4), 0); /* router alert */
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x83\x03\x04\x00", 4), -EPERM);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x89\x03\x04\x00", 4), -EPERM);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x94\x00\x00\x00", 4), -EINVAL);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x94\x01\x00\x00", 4), -EINVAL);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x94\x05\x00\x00", 4), -EINVAL);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x01\x01\x01\x94", 4), -EINVAL);
    CHECK_EQ(cr__wire_options((const uint8_t *)"\x00\x94\x63\x63", 4), 0); /* behind the end */
}

TEST(the_checksum_of_a_full_segment_costs_little)
{
    static uint8_t bytes[1460];
    for (size_t size = 20; size <= 1460; size = size == 20 ? 64 : size == 64 ? 1460 : 1461) {
        double best_ns = 1e9;
        uint32_t sum = 0;
        for (int round = 0; round < 50; round++) {
            struct timespec begin, end;
            clock_gettime(CLOCK_MONOTONIC, &begin);
            for (int i = 0; i < 1000; i++)
                sum = cr__wire_sum(sum & 0xffff, bytes, size);
            clock_gettime(CLOCK_MONOTONIC, &end);
            double ns = ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / 1000;
            best_ns = ns < best_ns ? ns : best_ns;
        }
        printf("# %zu bytes: %.1f ns\n", size, best_ns);
        CHECK_EQ(sum, 0);
    }
}

/* A packet of IPv6 with those extension headers. */
static enum cr__walk_end walk(struct cr__walk *walk, uint8_t next, const char *rest, size_t size_bytes)
{
    uint8_t bytes[1024] = {0x60, [6] = next};
    memcpy(bytes + 40, rest, size_bytes);
    *walk = (struct cr__walk){.next = next, .at = 40, .next_at = 6};
    return cr__wire_walk(walk, bytes, 40 + size_bytes);
}

TEST(extension_headers_are_walked_to_what_is_above)
{
    struct cr__walk w;
    CHECK_EQ(walk(&w, CR__IP_TCP, "", 0), CR__WALK_UPPER);
    CHECK_EQ(w.at, 40);
    CHECK_EQ(walk(&w, 0, "\x3c\x00\x05\x02\x00\x00\x01\x00" "\x11\x00\x01\x04\x00\x00\x00\x00" "udp", 19), CR__WALK_UPPER);
    CHECK_EQ(w.next, CR__IP_UDP);
    CHECK_EQ(w.at, 56);
    CHECK_EQ(w.next_at, 48);
    CHECK_EQ(walk(&w, 60, "\x2c\x00\x01\x04\x00\x00\x00\x00" "\x11\x00\x00\x01\x00\x00\x00\x07", 16), CR__WALK_AT_FRAGMENT);
    CHECK_EQ(w.at, 48);
}

TEST(a_routing_header_with_nothing_left_is_skipped_and_one_with_segments_left_is_a_problem)
{
    struct cr__walk w;
    CHECK_EQ(walk(&w, 43, "\x11\x00\x00\x00\x00\x00\x00\x00", 8), CR__WALK_UPPER);
    CHECK_EQ(walk(&w, 43, "\x11\x00\x00\x01\x00\x00\x00\x00", 8), CR__WALK_PROBLEM);
    CHECK_EQ(w.problem, 0);
    CHECK_EQ(w.problem_at, 42);
}

TEST(options_that_are_not_known_are_treated_as_their_highest_bits_say)
{
    struct cr__walk w;
    CHECK_EQ(walk(&w, 60, "\x11\x00\x1e\x04\x00\x00\x00\x00", 8), CR__WALK_UPPER);
    CHECK_EQ(walk(&w, 60, "\x11\x00\x5e\x04\x00\x00\x00\x00", 8), CR__WALK_DROP);
    CHECK_EQ(walk(&w, 60, "\x11\x00\x9e\x04\x00\x00\x00\x00", 8), CR__WALK_PROBLEM);
    CHECK(w.problem == 2 && w.problem_at == 42 && w.many);
    CHECK_EQ(walk(&w, 60, "\x11\x00\xde\x04\x00\x00\x00\x00", 8), CR__WALK_PROBLEM);
    CHECK(w.problem == 2 && w.problem_at == 42 && !w.many);
}

TEST(a_walk_ends_at_its_limits_and_never_leaves_the_packet)
{
    struct cr__walk w;
    char many[8 * 20];
    for (int i = 0; i < 20; i++)
        memcpy(many + 8 * i, i < 19 ? "\x3c\x00\x01\x04\x00\x00\x00\x00" : "\x11\x00\x01\x04\x00\x00\x00\x00", 8);
    CHECK_EQ(walk(&w, 60, many, sizeof(many)), CR__WALK_DROP);                            /* too many */
    CHECK_EQ(walk(&w, 60, many + sizeof(many) - 64, 64), CR__WALK_UPPER);                 /* as many as there may be */
    CHECK_EQ(walk(&w, 60, "\x11\x01\x01\x04\x00\x00\x00\x00", 8), CR__WALK_DROP);         /* longer than the packet */
    CHECK_EQ(walk(&w, 60, "\x11\x00\x01\x04", 4), CR__WALK_DROP);
    CHECK_EQ(walk(&w, 60, "\x11\x00\x01\x05\x00\x00\x00\x00", 8), CR__WALK_DROP);         /* an option longer than its header */
    CHECK_EQ(walk(&w, 60, "\x11\x01\x01\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 16), CR__WALK_DROP); /* padding that nobody needs */
    CHECK_EQ(walk(&w, 44, "\x11\x00\x00\x01", 4), CR__WALK_DROP);
    CHECK_EQ(walk(&w, 60, "\x00\x00\x01\x04\x00\x00\x00\x00" "\x11\x00\x01\x04\x00\x00\x00\x00", 16), CR__WALK_PROBLEM); /* hop-by-hop, not first */
    CHECK(w.problem == 1 && w.problem_at == 40);
}

TEST(hop_by_hop_options_are_known_at_the_beginning_only)
{
    struct cr__walk w;
    CHECK_EQ(walk(&w, 0, "\x3c\x00\x01\x04\x00\x00\x00\x00" "\x11\x00\x01\x04\x00\x00\x00\x00", 16), CR__WALK_UPPER);
    CHECK_EQ(walk(&w, 60, "\x00\x00\x01\x04\x00\x00\x00\x00" "\x11\x00\x01\x04\x00\x00\x00\x00", 16), CR__WALK_PROBLEM);
    CHECK(w.problem == 1 && w.problem_at == 40);
}

TEST(random_extension_headers_are_walked_within_the_packet)
{
    for (int i = 0; i < 200000; i++) {
        static const uint8_t kinds[] = {0, 43, 44, 60, 6, 17, 58, 59};
        size_t size = next_random() % 120;
        uint8_t *bytes = malloc(40 + size); /* exactly: a sanitizer sees a step beyond */
        for (size_t j = 0; j < 40 + size; j++)
            bytes[j] = j % 8 == 0 ? kinds[next_random() % 8] : (uint8_t)(next_random() % 5);
        struct cr__walk w = {.next = kinds[next_random() % 8], .at = 40, .next_at = 6};
        enum cr__walk_end end = cr__wire_walk(&w, bytes, 40 + size);
        CHECK(end == CR__WALK_DROP || end == CR__WALK_PROBLEM || w.at <= 40 + size);
        free(bytes);
    }
}

TEST(options_of_neighbour_messages_are_found_and_empty_ones_refused)
{
    bool malformed;
    const uint8_t options[] = {5, 1, 0, 0, 0, 0, 5, 0xdc, 1, 1, 2, 0, 0, 0, 0, 9};
    CHECK(cr__wire_ndp_option(options, 16, CR__NDP_SOURCE_ADDRESS, &malformed) == options + 10 && !malformed);
    CHECK(cr__wire_ndp_option(options, 16, CR__NDP_TARGET_ADDRESS, &malformed) == NULL && !malformed);
    CHECK(cr__wire_ndp_option(options, 15, CR__NDP_SOURCE_ADDRESS, &malformed) == NULL && malformed);
    CHECK(cr__wire_ndp_option((const uint8_t *)"\x01\x00\0\0\0\0\0\0", 8, CR__NDP_SOURCE_ADDRESS, &malformed) == NULL && malformed);
    CHECK(cr__wire_ndp_option((const uint8_t *)"\x01", 1, CR__NDP_SOURCE_ADDRESS, &malformed) == NULL && malformed);
}
