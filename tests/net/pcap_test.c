/* Links that record and replay, in virtual time. */
#include "links.h"

/* ---- pcap: --------------------------------------------------------------------------------------------------- */

/* By the bytes of the format (pcap-savefile(5)), in virtual time. */
TEST(what_passes_is_recorded_in_libpcaps_format)
{
    struct cr_link *a = open_link(spec_of("mem:wire")), *b = open_link("mem:wire");
    static unsigned char bytes[4096];
    CHECK_EQ(info_of(a).flags & CR_LINK_NO_CHECKSUMS, 0);
    now_ns = 5000000007;
    CHECK(sends(a, frame(1, 60)));
    now_ns += 1000000000;
    CHECK(sends(b, frame(2, 70)));
    CHECK_EQ(next_number(b), 1);
    CHECK_EQ(next_number(a), 2);
    cr__link_close(a);
    cr__link_close(b);
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24 + 16 + 60 + 16 + 70);
    uint32_t words[6], one[4], two[4];
    memcpy(words, bytes, sizeof(words));
    memcpy(one, bytes + 24, sizeof(one));
    memcpy(two, bytes + 24 + 16 + 60, sizeof(two));
    CHECK_EQ(words[0], 0xa1b23c4d);
    CHECK_EQ(words[1], 2 | 4 << 16);
    CHECK_EQ(words[5], 1);
    CHECK(one[0] == 5 && one[1] == 7 && one[2] == 60 && one[3] == 60);
    CHECK(two[0] == 6 && two[1] == 7 && two[2] == 70 && two[3] == 70);
    CHECK(bytes[40] == 1 && bytes[44] == 0x5a && bytes[24 + 16 + 60 + 16] == 2);
    forget_recording();
    check_none_lost();
}

TEST(what_is_replayed_arrives_as_it_was_recorded)
{
    struct cr_link *a = open_link(spec_of("mem:wire")), *b = open_link("mem:wire");
    for (uint32_t i = 1; i <= 5000; i++) { /* more than a buffer */
        CHECK(sends(a, frame(i, 60 + i % 1000)));
        now_ns += 1000 + i % 7;
        CHECK_EQ(next_number(b), i);
    }
    cr__link_close(a);
    cr__link_close(b);
    now_ns += 77777;
    struct cr_link *replay = open_link(spec_of(NULL));
    CHECK(info_of(replay).up);
    for (uint32_t i = 1; i <= 5000; i++) {
        CHECK_EQ(replay->ops->due_ns(replay), now_ns);
        CHECK(replay->ops->arm(replay));
        struct cr_packet *packet = receives(replay);
        CHECK(packet && number_of(packet) == i && packet->size_bytes == 60 + i % 1000);
        CHECK(packet->data[packet->size_bytes - 1] == 0x5a);
        cr__packet_put(&cache, packet);
        CHECK(i == 5000 || !replay->ops->arm(replay));
        now_ns += 1000 + i % 7;
    }
    CHECK_EQ(replay->ops->due_ns(replay), INT64_MAX);
    CHECK(receives(replay) == NULL);
    CHECK(!info_of(replay).up);
    CHECK(sends(replay, frame(1, 60)));
    CHECK_EQ(info_of(replay).dropped, 1);
    CHECK_EQ(info_of(replay).received, 5000);
    cr__link_close(replay);
    forget_recording();
    check_none_lost();
}

TEST(what_the_inner_link_did_not_take_is_not_recorded)
{
    struct cr_link *a = open_link(spec_of("mem:wire")), *b = open_link("mem:wire");
    struct cr_packet *packets[50];
    uint32_t sent = 0;
    int n = 50;
    while (n == 50) {
        for (uint32_t i = 0; i < 50; i++)
            packets[i] = frame(sent + i + 1, 60);
        n = a->ops->send(a, packets, 50);
        sent += (uint32_t)n;
    }
    while (n < 50)
        cr__packet_put(&cache, packets[n++]);
    CHECK_EQ(sent, 1024);
    CHECK_EQ(info_of(a).sent, 1024);
    cr__link_close(a);
    cr__link_close(b);
    static unsigned char bytes[100000];
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24 + 1024 * 76);
    forget_recording();
    check_none_lost();
}

/* A datagram of UDP over IPv4, and one over IPv6, as RFC 768 wants them: summed up with what is in the field they give all ones. */
TEST(a_checksum_that_was_left_out_is_filled_in_in_the_recording)
{
    static const unsigned char v4[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9, 0, 11, 0xab, 0xcd, 'a', 'b', 'c', 0, 0, 0};
    static const unsigned char v6[] = {2, 0, 0, 0, 0, 1, 2,    0,    0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 11, 17, 64, 0xfe, 0x80, 0, 0,  0, 0, 0,    0,    0,   0,   0,   0, 0,
                                       0, 0, 1, 0xfe, 0x80, 0, 0, 0, 0, 0,    0,    0,    0, 0, 0, 0, 0, 0,  2,  0,    7,    0, 9, 0, 11, 0, 0, 'x', 'y', 'z'};
    struct cr_link *a = open_link(spec_of("mem:wire")), *b = open_link("mem:wire");
    struct cr_packet *packet = frame(0, sizeof(v4));
    memcpy(packet->data, v4, sizeof(v4));
    packet->flags = CR_PACKET_CHECKED;
    CHECK(sends(b, packet)); /* the other end is not recorded, so may leave it out */
    packet = frame(0, sizeof(v6));
    memcpy(packet->data, v6, sizeof(v6));
    packet->flags = CR_PACKET_CHECKED;
    CHECK(sends(b, packet));
    for (int i = 0; i < 2; i++) {
        packet = receives(a);
        CHECK(packet && packet->flags == CR_PACKET_CHECKED);
        cr__packet_put(&cache, packet);
    }
    cr__link_close(a);
    cr__link_close(b);
    static unsigned char bytes[1000];
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24 + 16 + sizeof(v4) + 16 + sizeof(v6));
    const unsigned char *ip4 = bytes + 24 + 16 + 14, *ip6 = ip4 + sizeof(v4) + 16;
    uint32_t sum4 = 17 + 11, sum6 = 17 + 11;
    for (int i = 12; i < 20 + 11; i++)
        sum4 += i % 2 ? ip4[i] : (uint32_t)ip4[i] << 8;
    for (int i = 8; i < 40 + 11; i++)
        sum6 += i % 2 ? ip6[i] : (uint32_t)ip6[i] << 8;
    CHECK_EQ((sum4 & 0xffff) + (sum4 >> 16), 0xffff);
    CHECK_EQ((sum6 & 0xffff) + (sum6 >> 16), 0xffff);
    CHECK(memcmp(bytes + 24 + 16, v4, 40) == 0);
    forget_recording();
    check_none_lost();
}

/* Both fragments of a datagram that left without a checksum, as UDP makes them on a link that can't spoil them: 0 in the first one's field, and the second is bytes of the user's throughout. */
TEST(fragments_are_recorded_as_they_are)
{
    static const unsigned char first[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 36, 0, 5, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9, 0, 24, 0, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'};
    static const unsigned char second[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 5, 0, 2, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p'};
    struct cr_link *a = open_link(spec_of("mem:wire")), *b = open_link("mem:wire");
    for (int i = 0; i < 2; i++) {
        size_t size_bytes = i == 0 ? sizeof(first) : sizeof(second);
        struct cr_packet *packet = frame(0, size_bytes);
        memcpy(packet->data, i == 0 ? first : second, size_bytes);
        packet->flags = CR_PACKET_CHECKED;
        CHECK(sends(b, packet));
        packet = receives(a);
        CHECK(packet != NULL);
        cr__packet_put(&cache, packet);
    }
    cr__link_close(a);
    cr__link_close(b);
    static unsigned char bytes[1000];
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24 + 16 + sizeof(first) + 16 + sizeof(second));
    CHECK(memcmp(bytes + 24 + 16, first, sizeof(first)) == 0);
    CHECK(memcmp(bytes + 24 + 16 + sizeof(first) + 16, second, sizeof(second)) == 0);
    forget_recording();
    check_none_lost();
}

TEST(recordings_of_other_machines_are_replayed)
{
    uint32_t words[] = {__builtin_bswap32(0xa1b2c3d4), 0x04000200, 0, 0, 0x00000400, __builtin_bswap32(1), /* microseconds, the other order */
                        __builtin_bswap32(100), __builtin_bswap32(999999), __builtin_bswap32(4), __builtin_bswap32(4), 11,
                        __builtin_bswap32(101), __builtin_bswap32(1), __builtin_bswap32(4), __builtin_bswap32(4), 12,
                        __builtin_bswap32(90), __builtin_bswap32(0), __builtin_bswap32(4), __builtin_bswap32(5), 13, /* cut */
                        __builtin_bswap32(90), __builtin_bswap32(0), __builtin_bswap32(4), __builtin_bswap32(4), 14};
    write_recording(words, sizeof(words));
    struct cr_link *replay = open_link(spec_of(NULL));
    CHECK_EQ(next_number(replay), 11);
    CHECK_EQ(next_number(replay), 0);
    CHECK_EQ(replay->ops->due_ns(replay), now_ns + 2000);
    now_ns += 2000;
    CHECK_EQ(next_number(replay), 12);
    CHECK_EQ(next_number(replay), 0); /* the cut one */
    CHECK_EQ(info_of(replay).dropped, 1);
    CHECK_EQ(next_number(replay), 14); /* whose time says that it was before */
    CHECK_EQ(next_number(replay), 0);
    cr__link_close(replay);
    forget_recording();
    check_none_lost();
}

TEST(files_that_are_no_recordings_are_refused_and_broken_ones_end)
{
    struct cr_link *link = NULL;
    static const uint32_t good[] = {0xa1b23c4d, 0x00040002, 0, 0, 65535, 1, 1, 0, 4, 4, 21, 2, 0, 0xffffffff, 0xffffffff, 5};
    uint32_t words[16];
    spec_of(NULL);
    CHECK_EQ(cr__link_open(&link, spec_of(NULL), NULL), -ENOENT);
    CHECK_EQ(cr__link_open(&link, "pcap:", NULL), -EINVAL);
    CHECK_EQ(cr__link_open(&link, "pcap:/tmp/no/such/folder,mem:x", NULL), -ENOENT);
    CHECK_EQ(cr__link_open(&link, spec_of("nonsense"), NULL), -EINVAL);
    CHECK_EQ(access(recording, F_OK), -1); /* nothing was made */
    write_recording(good, 20);
    CHECK_EQ(cr__link_open(&link, spec_of(NULL), NULL), -EINVAL);
    memcpy(words, good, sizeof(good));
    words[5] = 101; /* not Ethernet */
    write_recording(words, sizeof(words));
    CHECK_EQ(cr__link_open(&link, spec_of(NULL), NULL), -EINVAL);
    words[5] = 1;
    words[0] = 0x0a0d0d0a; /* pcapng */
    write_recording(words, sizeof(words));
    CHECK_EQ(cr__link_open(&link, spec_of(NULL), NULL), -EINVAL);
    write_recording(good, sizeof(good));
    link = open_link(spec_of(NULL));
    CHECK_EQ(next_number(link), 21);
    CHECK(!info_of(link).up);
    CHECK_EQ(link->ops->due_ns(link), INT64_MAX);
    cr__link_close(link);
    for (size_t cut = 25; cut < 44; cut++) {
        write_recording(good, cut);
        link = open_link(spec_of(NULL));
        CHECK(receives(link) == NULL);
        CHECK(!info_of(link).up && (info_of(link).flags & CR_LINK_OVER));
        cr__link_close(link);
    }
    forget_recording();
    check_none_lost();
}

/* By a seed: a good recording with some bytes changed, cut somewhere. */
TEST(whatever_a_recording_holds_is_replayed_or_refused)
{
    uint64_t random = 1;
    for (int round = 0; round < 3000; round++) {
        uint32_t words[64] = {0xa1b23c4d, 0x00040002, 0, 0, 65535, 1};
        for (int i = 6; i + 9 < 64; i += 9) /* five words of a frame each */
            words[i] = (uint32_t)i, words[i + 2] = words[i + 3] = 20;
        for (int i = 0; i < 1 + round % 5; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            ((unsigned char *)words)[(random >> 33) % sizeof(words)] = (unsigned char)(random >> 24);
        }
        write_recording(words, sizeof(words) - (random >> 40) % 100);
        struct cr_link *link = NULL;
        int r = cr__link_open(&link, spec_of(NULL), NULL), frames = 0;
        CHECK(r == 0 || r == -EINVAL);
        if (r < 0)
            continue;
        link->now_ns = virtual_now_ns;
        for (int64_t due_ns; (due_ns = link->ops->due_ns(link)) < INT64_MAX; frames++) {
            now_ns = due_ns > now_ns ? due_ns : now_ns;
            CHECK(link->ops->arm(link));
            cr__packet_put(&cache, receives(link));
            CHECK(frames < 64);
        }
        CHECK(!info_of(link).up);
        cr__link_close(link);
    }
    forget_recording();
    check_none_lost();
}

/* And specifications: pieces of good ones, in any order. */
TEST(whatever_a_specification_says_is_opened_or_refused)
{
    static const char *const pieces[] = {"mem:", "impair:", "drop=", "1", "%", ",", "x", "?mtu=", "999", "delay=", "ms", "rate=", "M", ".", "seed=", "queue=", "shm:", "=", ":", "5", "dup=1%,", "impair:seed=3,", "mem:a"};
    uint64_t random = 1;
    int opened = 0;
    for (int round = 0; round < 20000; round++) {
        char spec[1000] = "";
        for (int i = 0; i < 1 + round % 12; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            strcat(spec, round % 2 && i == 0 ? "impair:" : pieces[(random >> 33) % CR__COUNT(pieces)]);
        }
        struct cr_link *link = NULL;
        int r = cr__link_open(&link, spec, NULL);
        CHECK(r == 0 || r == -EINVAL);
        if (r < 0)
            continue;
        opened++;
        CHECK(sends(link, frame(1, 60)));
        cr__link_close(link);
    }
    CHECK(opened > 100);
    char deep[520] = "";
    while (strlen(deep) < 490)
        strcat(deep, "impair:dup=0,");
    strcat(deep, "mem:x");
    struct cr_link *link = open_link(deep);
    cr__link_close(link);
    memset(deep + 490, 'x', 28);
    CHECK_EQ(cr__link_open(&link, deep, NULL), -EINVAL);
    check_none_lost();
}
