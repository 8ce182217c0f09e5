/* Segments: taken apart, and put together. */
#include "net/tcp/tcp.h"
#include "test.h"

/* A header with those bytes of options, and so much payload. */
static size_t make(uint8_t *at, uint8_t flags, const uint8_t *options, size_t options_bytes, size_t payload_bytes)
{
    memset(at, 0, 20);
    cr__wire_put16(at, 1234);
    cr__wire_put16(at + 2, 80);
    cr__wire_put32(at + 4, 0xfffffff0);
    cr__wire_put32(at + 8, 0x01020304);
    at[12] = (uint8_t)((20 + options_bytes) / 4 << 4);
    at[13] = flags;
    cr__wire_put16(at + 14, 5000);
    if (options_bytes)
        memcpy(at + 20, options, options_bytes);
    memset(at + 20 + options_bytes, 'x', payload_bytes);
    return 20 + options_bytes + payload_bytes;
}

/* In memory that ends where the segment does, so that a look beyond it is found by ASan. */
static int parse(struct cr__segment *seg, uint8_t flags, const uint8_t *options, size_t options_bytes, size_t payload_bytes)
{
    uint8_t *bytes = malloc(20 + options_bytes + payload_bytes);
    size_t size = make(bytes, flags, options, options_bytes, payload_bytes);
    memset(seg, 0xee, sizeof(*seg));
    int r = cr__segment_parse(seg, bytes, size);
    free(bytes);
    return r;
}

#define PARSE(seg, flags, ...) parse(seg, flags, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), 0)

TEST(fields_are_where_rfc_9293_has_them)
{
    struct cr__segment seg;
    CHECK_EQ(parse(&seg, CR__ACK | CR__PSH, NULL, 0, 7), 0);
    CHECK_EQ(seg.from_port, 1234);
    CHECK_EQ(seg.to_port, 80);
    CHECK_EQ(seg.seq, 0xfffffff0u);
    CHECK_EQ(seg.ack, 0x01020304);
    CHECK_EQ(seg.flags, CR__ACK | CR__PSH);
    CHECK_EQ(seg.window, 5000);
    CHECK_EQ(seg.payload_bytes, 7);
    CHECK(!seg.has_timestamp && !seg.has_scale && !seg.sack_permitted && seg.mss_bytes == 0 && seg.sack_count == 0);
}

TEST(a_header_that_is_cut_or_overruns_is_refused)
{
    struct cr__segment seg;
    uint8_t *bytes = malloc(64);
    size_t size = make(bytes, CR__ACK, NULL, 0, 0);
    for (size_t n = 0; n < 20; n++) {
        uint8_t *cut = malloc(n + 1);
        memcpy(cut, bytes, n);
        CHECK_EQ(cr__segment_parse(&seg, cut, n), -EINVAL);
        free(cut);
    }
    CHECK_EQ(cr__segment_parse(&seg, bytes, size), 0);
    for (unsigned words = 0; words < 16; words++) {
        bytes[12] = (uint8_t)(words << 4);
        CHECK_EQ(cr__segment_parse(&seg, bytes, 20), words == 5 ? 0 : -EINVAL);
    }
    free(bytes);
}

TEST(options_of_a_syn_are_read)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7), 0);
    CHECK_EQ(seg.mss_bytes, 1460);
    CHECK(seg.sack_permitted && seg.has_timestamp && seg.has_scale);
    CHECK_EQ(seg.ts_value, 1);
    CHECK_EQ(seg.ts_echo, 2);
    CHECK_EQ(seg.scale, 7);
}

TEST(a_scale_above_14_counts_as_14)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 3, 3, 255, 0), 0);
    CHECK_EQ(seg.scale, 14);
}

TEST(what_only_a_syn_may_say_is_ignored_elsewhere)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__ACK, 2, 4, 5, 0xb4, 4, 2, 1, 1, 3, 3, 7, 0), 0);
    CHECK(seg.mss_bytes == 0 && !seg.sack_permitted && !seg.has_scale);
}

TEST(the_usual_timestamp_is_read_wherever_it_stands)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__ACK, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8), 0);
    CHECK(seg.has_timestamp && seg.ts_value == 0x01020304 && seg.ts_echo == 0x05060708);
    CHECK_EQ(PARSE(&seg, CR__ACK, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0), 0);
    CHECK(seg.has_timestamp && seg.ts_value == 0x01020304 && seg.ts_echo == 0x05060708);
}

TEST(sack_blocks_are_read_up_to_four)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__ACK, 1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4), 0);
    CHECK_EQ(seg.sack_count, 2);
    CHECK(seg.sack[0].from == 1 && seg.sack[0].to == 2 && seg.sack[1].from == 3 && seg.sack[1].to == 4);
    uint8_t four[36] = {1, 1, 5, 34};
    CHECK_EQ(parse(&seg, CR__ACK, four, 36, 3), 0);
    CHECK_EQ(seg.sack_count, 4);
    CHECK_EQ(seg.payload_bytes, 3);
}

TEST(options_after_the_end_of_options_are_not_read)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 0, 2, 4, 5, 0, 8, 0, 0), 0);
    CHECK(seg.mss_bytes == 0 && !seg.has_timestamp);
}

TEST(an_option_that_overruns_is_refused)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 1, 1, 1, 2), -EINVAL);    /* no length */
    CHECK_EQ(PARSE(&seg, CR__SYN, 2, 5, 5, 0xb4), -EINVAL); /* beyond the header */
    CHECK_EQ(PARSE(&seg, CR__SYN, 2, 0, 5, 0xb4), -EINVAL); /* would go on for ever */
    CHECK_EQ(PARSE(&seg, CR__SYN, 2, 1, 5, 0xb4), -EINVAL);
    CHECK_EQ(PARSE(&seg, CR__SYN, 254, 255, 0, 0), -EINVAL);
    CHECK_EQ(PARSE(&seg, CR__ACK, 8, 10, 0, 0, 0, 0, 0, 0), -EINVAL);
}

TEST(an_option_of_the_wrong_length_is_skipped)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 2, 3, 5, 3, 4, 7, 7, 1, 4, 3, 0, 2, 4, 5, 0xb4, 0), 0);
    CHECK_EQ(seg.mss_bytes, 1460); /* the one that is right */
    CHECK(!seg.has_scale && !seg.sack_permitted);
    CHECK_EQ(PARSE(&seg, CR__ACK, 5, 9, 0, 0, 0, 0, 0, 0, 0, 1, 8, 4, 0, 0, 1, 1), 0);
    CHECK(seg.sack_count == 0 && !seg.has_timestamp);
}

TEST(an_unknown_option_is_skipped_by_its_length)
{
    struct cr__segment seg;
    CHECK_EQ(PARSE(&seg, CR__SYN, 254, 6, 1, 2, 3, 4, 2, 4, 2, 0x18, 1, 0), 0);
    CHECK_EQ(seg.mss_bytes, 536);
}

TEST(any_bytes_at_all_are_taken_or_refused)
{
    uint64_t state = 1;
    for (int i = 0; i < 200000; i++) {
        uint8_t options[40];
        for (size_t at = 0; at < sizeof(options); at++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            options[at] = (uint8_t)((state >> 60) > 3 ? (state >> 40) % 11 : state >> 33);
        }
        struct cr__segment seg;
        int r = parse(&seg, (uint8_t)(state >> 20), options, (state >> 50) % 11 * 4, 1);
        CHECK(r == 0 || r == -EINVAL);
        CHECK(r != 0 || (seg.sack_count <= CR__SACK_BLOCKS && seg.scale <= 14 && seg.payload_bytes == 1));
    }
}

/* ---- Putting together ------------------------------------------------------------------------------------------ */

static struct cr__packet_cache cache;

/* Puts it together, and compares the options' bytes. */
static void expect_options(const struct cr__segment *seg, const uint8_t *options, size_t options_bytes)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    memcpy(packet->data, "text", 4);
    packet->size_bytes = 4;
    CHECK_EQ(cr__segment_push(packet, seg), 20 + options_bytes);
    CHECK_EQ(packet->size_bytes, 24 + options_bytes);
    CHECK(memcmp(packet->data + 20, options, options_bytes) == 0);
    CHECK(memcmp(packet->data + 20 + options_bytes, "text", 4) == 0);
    struct cr__segment again;
    CHECK_EQ(cr__segment_parse(&again, packet->data, packet->size_bytes), 0);
    CHECK(again.seq == seg->seq && again.ack == seg->ack && again.flags == seg->flags && again.window == seg->window && again.from_port == seg->from_port && again.to_port == seg->to_port);
    CHECK(again.mss_bytes == seg->mss_bytes && again.has_timestamp == seg->has_timestamp && again.sack_count == seg->sack_count && again.sack_permitted == seg->sack_permitted);
    cr__packet_put(&cache, packet);
}

#define EXPECT_OPTIONS(seg, ...) expect_options(seg, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

TEST(a_syn_has_linux_options_in_linux_order)
{
    struct cr__segment seg = {.flags = CR__SYN, .seq = 1, .window = 64240, .from_port = 1, .to_port = 2, .mss_bytes = 1460, .sack_permitted = true, .has_timestamp = true, .ts_value = 0x01020304,
                              .has_scale = true, .scale = 7};
    EXPECT_OPTIONS(&seg, 2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7);
    seg.has_timestamp = false;
    EXPECT_OPTIONS(&seg, 2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7);
    seg.sack_permitted = false;
    EXPECT_OPTIONS(&seg, 2, 4, 5, 0xb4, 1, 3, 3, 7);
    seg.has_timestamp = true;
    seg.has_scale = false;
    EXPECT_OPTIONS(&seg, 2, 4, 5, 0xb4, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0);
}

TEST(data_and_acks_have_nop_nop_timestamp_and_then_sack)
{
    struct cr__segment seg = {.flags = CR__ACK, .seq = 1, .ack = 0xfffffffe, .window = 1, .from_port = 1, .to_port = 2, .has_timestamp = true, .ts_value = 1, .ts_echo = 2};
    EXPECT_OPTIONS(&seg, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2);
    seg.sack_count = 1;
    seg.sack[0].from = 3;
    seg.sack[0].to = 4;
    EXPECT_OPTIONS(&seg, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 10, 0, 0, 0, 3, 0, 0, 0, 4);
    seg.has_timestamp = false;
    EXPECT_OPTIONS(&seg, 1, 1, 5, 10, 0, 0, 0, 3, 0, 0, 0, 4);
}
