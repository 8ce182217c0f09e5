/* Links of memory, and bad lines, by behaviour, in virtual time. */
#include "links.h"

/* ---- mem: ---------------------------------------------------------------------------------------------------- */

TEST(what_is_sent_at_one_end_arrives_at_the_other_in_order)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    for (uint32_t i = 1; i <= 100; i++)
        CHECK(sends(a, frame(i, 60)));
    for (uint32_t i = 1; i <= 50; i++)
        CHECK(sends(b, frame(1000 + i, 60)));
    for (uint32_t i = 1; i <= 100; i++)
        CHECK_EQ(next_number(b), i);
    CHECK_EQ(next_number(b), 0);
    CHECK_EQ(next_number(a), 1001);
    CHECK_EQ(info_of(a).sent, 100);
    CHECK_EQ(info_of(b).received, 100);
    CHECK_EQ(info_of(b).sent, 50);
    CHECK_EQ(info_of(a).received, 1);
    CHECK_EQ(info_of(a).dropped, 0);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(the_only_reference_travels_and_what_others_hold_is_copied)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    struct cr_packet *mine = frame(1, 100), *held = cr__packet_hold(frame(2, 100));
    mine->flags = CR_PACKET_CHECKED;
    CHECK(sends(a, mine) && sends(a, held));
    CHECK(receives(b) == mine);
    CHECK_EQ(mine->flags, CR_PACKET_CHECKED);
    struct cr_packet *copy = receives(b);
    CHECK(copy && copy != held);
    CHECK_EQ(number_of(copy), 2);
    CHECK_EQ(copy->size_bytes, 100);
    CHECK_EQ(held->_references, 1);
    cr__packet_put(&cache, held);
    cr__packet_put(&cache, mine);
    cr__packet_put(&cache, copy);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(what_does_not_fit_stays_the_senders)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    struct cr_packet *packets[50];
    uint32_t sent = 0;
    int n = 50;
    while (n == 50) {
        for (uint32_t i = 0; i < 50; i++)
            packets[i] = frame(sent + i + 1, 60);
        n = a->ops->send(a, packets, 50);
        sent += (uint32_t)n;
    }
    CHECK_EQ(sent, 1024); /* the last burst was taken in part */
    CHECK_EQ(a->ops->send(a, packets + n, 50 - n), 0);
    while (n < 50)
        cr__packet_put(&cache, packets[n++]);
    CHECK_EQ(info_of(a).dropped, 0);
    for (uint32_t i = 1; i <= 1024; i++)
        CHECK_EQ(next_number(b), i);
    struct cr_packet *more = frame(7, 60);
    CHECK(sends(a, more));
    CHECK_EQ(next_number(b), 7);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(a_frame_longer_than_the_mtu_is_dropped)
{
    struct cr_link *a = open_link("mem:wire?mtu=1000"), *b = open_link("mem:wire");
    CHECK_EQ(info_of(a).mtu_bytes, 1000);
    CHECK_EQ(info_of(b).mtu_bytes, 1500);
    CHECK(sends(a, frame(1, 1014)) && sends(a, frame(2, 1015)) && sends(a, frame(3, 60)));
    CHECK_EQ(next_number(b), 1);
    CHECK_EQ(next_number(b), 3);
    CHECK_EQ(info_of(a).dropped, 1);
    CHECK_EQ(info_of(a).sent, 2);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(a_wire_has_two_ends)
{
    struct cr_link *a = open_link("mem:one"), *b = open_link("mem:one"), *c = open_link("mem:another"), *d = NULL;
    CHECK_EQ(cr__link_open(&d, "mem:one", NULL), -EADDRINUSE);
    CHECK(info_of(a).up && info_of(b).up);
    CHECK(!info_of(c).up);
    CHECK_EQ(info_of(a).flags, CR_LINK_NO_CHECKSUMS);
    CHECK_STR(info_of(a).name, "mem:one");
    CHECK(memcmp(info_of(a).address, info_of(b).address, 6) != 0);
    CHECK(memcmp(info_of(a).address, info_of(c).address, 6) != 0);
    CHECK_EQ(info_of(a).address[0] & 3, 2); /* unicast, locally administered */
    cr__link_close(a);
    cr__link_close(b);
    cr__link_close(c);
}

TEST(when_an_end_closes_what_is_in_flight_arrives_and_what_comes_is_dropped)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    CHECK(sends(a, frame(1, 60)) && sends(b, frame(2, 60)));
    cr__link_close(b);
    CHECK(!info_of(a).up);
    CHECK(sends(a, frame(3, 60)));
    CHECK_EQ(info_of(a).dropped, 1);
    CHECK_EQ(next_number(a), 2);
    b = open_link("mem:wire");
    CHECK(info_of(a).up);
    CHECK_EQ(next_number(b), 0); /* what was for who is gone */
    CHECK(sends(a, frame(4, 60)) && sends(b, frame(5, 60)));
    CHECK_EQ(next_number(b), 4);
    CHECK_EQ(next_number(a), 5);
    CHECK(sends(a, frame(6, 60)) && sends(b, frame(7, 60)));
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
    a = open_link("mem:wire"); /* and the wire is a new one */
    CHECK_EQ(next_number(a), 0);
    cr__link_close(a);
    check_none_lost();
}

TEST(whoever_is_armed_is_told_once_and_only_if_there_was_nothing)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    b->ready = count_ready;
    CHECK(!b->ops->arm(b));
    CHECK_EQ(ready_count, 0);
    CHECK(sends(a, frame(1, 60)));
    CHECK_EQ(ready_count, 1);
    CHECK(sends(a, frame(2, 60)));
    CHECK_EQ(ready_count, 1);
    CHECK(b->ops->arm(b));
    CHECK_EQ(next_number(b), 1);
    CHECK_EQ(next_number(b), 2);
    CHECK(sends(a, frame(3, 60)));
    CHECK_EQ(ready_count, 1); /* it was not armed */
    CHECK_EQ(b->ops->due_ns(b), INT64_MAX);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

/* Neither a fresh packet, for which there is a lock, nor any other memory is to be had: all go round. */
TEST(in_steady_state_a_wire_takes_no_lock_and_makes_no_kernel_call)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    struct cr_packet *packets[64];
    uint64_t calls = 0;
    b->ready = count_ready;
    for (uint32_t round = 0; round < 2000; round++) {
        for (uint32_t i = 0; i < 64; i++)
            packets[i] = frame(round * 64 + i, 60);
        CHECK_EQ(a->ops->send(a, packets, 64), 64);
        CHECK_EQ(b->ops->recv(b, packets, 64), 64);
        CHECK(!b->ops->arm(b));
        for (uint32_t i = 0; i < 64; i++) {
            CHECK_EQ(number_of(packets[i]), round * 64 + i);
            cr__packet_put(&cache, packets[i]);
        }
        if (round == 10) {
            calls = cr__mem_kernel_calls();
            cr__mem_fail_after(1);
        }
    }
    CHECK_EQ(cr__mem_kernel_calls(), calls);
    CHECK_EQ(ready_count, 1999);
    cr__mem_fail_after(0);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(without_packets_a_copy_is_dropped_and_counted)
{
    struct cr_link *a = open_link("mem:wire"), *b = open_link("mem:wire");
    struct cr_packet *held = cr__packet_hold(frame(1, 60)), *taken[64];
    int n = 0;
    while ((taken[n] = cache.free ? cr__packet_get(&cache) : NULL))
        n++;
    cr__mem_fail_after(1);
    CHECK(sends(a, held));
    cr__mem_fail_after(0);
    CHECK_EQ(info_of(a).dropped, 1);
    CHECK_EQ(held->_references, 1);
    CHECK_EQ(next_number(b), 0);
    cr__packet_put(&cache, held);
    while (n > 0)
        cr__packet_put(&cache, taken[--n]);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(what_is_no_specification_is_refused)
{
    struct cr_link *link;
    static const char *const bad[] = {
        "", "mem", "mem:", "tap:x", "mem:x?mtu=", "mem:x?mtu=10", "mem:x?mtu=99999", "mem:x?mtu=1500x", "mem:x?up=1", "mem:?mtu=99", "mem:x?mtu=-1", "mem:x?mtu=2000", "MEM:x",
        "impair:", "impair:drop=1%", "impair:drop=1%,", "impair:drop=,mem:x", "impair:drop=101%,mem:x", "impair:drop=1.5,mem:x", "impair:drop=-1,mem:x", "impair:delay=10,mem:x", "impair:delay=1m,mem:x",
        "impair:delay=61s,mem:x", "impair:rate=0,mem:x", "impair:queue=0,mem:x", "impair:queue=1.5.1,mem:x", "impair:seed=18446744073709551616,mem:x", "impair:drop=1%,impair:", "impair:speed=1,mem:x"};
    for (size_t i = 0; i < CR__COUNT(bad); i++)
        CHECK_EQ(cr__link_open(&link, bad[i], NULL), -EINVAL);
    char text[200] = "mem:";
    memset(text + 4, 'x', 64);
    CHECK_EQ(cr__link_open(&link, text, NULL), -EINVAL);
    cr__mem_fail_after(1);
    CHECK_EQ(cr__link_open(&link, "mem:x", NULL), -ENOMEM);
    cr__mem_fail_after(2);
    CHECK_EQ(cr__link_open(&link, "mem:x", NULL), -ENOMEM);
    cr__mem_fail_after(0);
}

/* ---- impair: ------------------------------------------------------------------------------------------------- */

/* Sends frames over such a line, a microsecond apart, and writes down what arrives, and when, until nothing does any more. Returns how many. */
static int line_trace(const char *impair, int count, uint32_t *numbers, int64_t *at_ns, int most)
{
    char spec[200];
    snprintf(spec, sizeof(spec), "impair:%s,mem:wire", impair);
    struct cr_link *a = open_link(spec), *b = open_link("mem:wire");
    int sent = 0, n = 0;
    int64_t began_ns = now_ns, due_ns = now_ns;
    while (due_ns < INT64_MAX || sent < count) {
        if (sent < count) {
            CHECK(sends(a, frame((uint32_t)++sent, 125)));
            due_ns = now_ns + 1000;
        } else {
            CHECK(!a->ops->arm(a)); /* what is due leaves */
            due_ns = a->ops->due_ns(a);
        }
        for (uint32_t number; (number = next_number(b)) != 0; n++) {
            CHECK(n < most);
            numbers[n] = number;
            at_ns[n] = now_ns - began_ns;
        }
        CHECK(due_ns > now_ns);
        now_ns = due_ns < INT64_MAX ? due_ns : now_ns;
    }
    CHECK_EQ(info_of(b).received, n);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
    return n;
}

#define LINE_FRAMES 10000
static uint32_t numbers[2 * LINE_FRAMES], again[2 * LINE_FRAMES];
static int64_t at_ns[2 * LINE_FRAMES], again_ns[2 * LINE_FRAMES];

TEST(a_line_with_the_same_seed_does_the_same)
{
    const char *line = "drop=5%,dup=3%,reorder=4%,delay=1ms,jitter=300us,rate=2G,seed=7";
    int n = line_trace(line, LINE_FRAMES, numbers, at_ns, 2 * LINE_FRAMES);
    CHECK_EQ(line_trace(line, LINE_FRAMES, again, again_ns, 2 * LINE_FRAMES), n);
    CHECK(memcmp(numbers, again, (size_t)n * sizeof(*numbers)) == 0);
    CHECK(memcmp(at_ns, again_ns, (size_t)n * sizeof(*at_ns)) == 0);
    line = "drop=5%,dup=3%,reorder=4%,delay=1ms,jitter=300us,rate=2G,seed=8";
    int other = line_trace(line, LINE_FRAMES, again, again_ns, 2 * LINE_FRAMES);
    CHECK(other != n || memcmp(numbers, again, (size_t)n * sizeof(*numbers)) != 0);
}

TEST(a_line_drops_and_doubles_as_often_as_it_was_asked_to)
{
    int n = line_trace("drop=10%", LINE_FRAMES, numbers, at_ns, 2 * LINE_FRAMES);
    CHECK(n > LINE_FRAMES * 0.88 && n < LINE_FRAMES * 0.92);
    for (int i = 1; i < n; i++)
        CHECK(numbers[i] > numbers[i - 1]);
    n = line_trace("dup=0.1", LINE_FRAMES, numbers, at_ns, 2 * LINE_FRAMES);
    CHECK(n > LINE_FRAMES * 1.08 && n < LINE_FRAMES * 1.12);
    CHECK_EQ(line_trace("drop=100%", 100, numbers, at_ns, 1), 0);
    CHECK_EQ(line_trace("dup=100%", 100, numbers, at_ns, 200), 200);
    CHECK_EQ(line_trace("seed=1", 100, numbers, at_ns, 100), 100);
    CHECK_EQ(at_ns[99], 99000); /* a line that is as it should be takes no time */
}

TEST(what_is_delayed_arrives_in_order_not_before_its_time)
{
    int n = line_trace("delay=10ms,jitter=2ms", LINE_FRAMES, numbers, at_ns, LINE_FRAMES);
    CHECK_EQ(n, LINE_FRAMES);
    for (int i = 0; i < n; i++) {
        CHECK_EQ(numbers[i], i + 1);
        CHECK(at_ns[i] >= i * 1000 + 8000000 && at_ns[i] <= i * 1000 + 12000000);
    }
    CHECK(at_ns[0] != 10000000 || at_ns[n - 1] - at_ns[0] != (n - 1) * 1000);
}

TEST(some_are_overtaken)
{
    int n = line_trace("reorder=1%", LINE_FRAMES, numbers, at_ns, LINE_FRAMES), late = 0;
    uint32_t highest = 0;
    CHECK_EQ(n, LINE_FRAMES);
    for (int i = 0; i < n; i++) {
        late += numbers[i] < highest;
        highest = numbers[i] > highest ? numbers[i] : highest;
    }
    CHECK(late > LINE_FRAMES / 200 && late < LINE_FRAMES / 50);
}

TEST(a_corrupt_frame_differs_by_one_bit_and_is_not_taken_for_checked)
{
    struct cr_link *a = open_link("impair:corrupt=100%,mem:wire"), *b = open_link("mem:wire");
    CHECK_EQ(info_of(a).flags & CR_LINK_NO_CHECKSUMS, 0);
    CHECK_EQ(info_of(a).mtu_bytes, 1500);
    for (uint32_t i = 0; i < 1000; i++) {
        struct cr_packet *sent = frame(i, 100), *copy = cr__packet_copy(&cache, sent);
        cr__packet_hold(sent); /* what others hold is not written to */
        sent->flags = CR_PACKET_CHECKED;
        CHECK(sends(a, sent));
        CHECK(memcmp(sent->data, copy->data, 100) == 0);
        struct cr_packet *came = receives(b);
        CHECK(came && came->size_bytes == 100 && came->flags == 0);
        int bits = 0;
        for (int at = 0; at < 100; at++)
            bits += __builtin_popcount(came->data[at] ^ copy->data[at]);
        CHECK_EQ(bits, 1);
        cr__packet_put(&cache, came);
        cr__packet_put(&cache, copy);
        cr__packet_put(&cache, sent);
    }
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(a_slow_line_has_a_queue_with_a_bound)
{
    struct cr_link *a = open_link("impair:rate=1M,queue=10,mem:wire"), *b = open_link("mem:wire");
    for (uint32_t i = 1; i <= 20; i++) /* 125 bytes: a millisecond each. One goes over the line, ten wait */
        CHECK(sends(a, frame(i, 125)));
    CHECK_EQ(info_of(a).dropped, 9);
    for (uint32_t i = 1; i <= 11; i++) {
        CHECK_EQ(a->ops->due_ns(a), now_ns + 1000000);
        now_ns += 999999;
        CHECK(!a->ops->arm(a));
        CHECK_EQ(next_number(b), 0);
        now_ns += 1;
        CHECK(receives(a) == NULL); /* what is due leaves */
        CHECK_EQ(next_number(b), i);
    }
    CHECK_EQ(a->ops->due_ns(a), INT64_MAX);
    CHECK(sends(a, frame(1, 125)) && sends(a, frame(2, 125)));
    cr__link_close(a); /* with what it has not let go */
    cr__link_close(b);
    check_none_lost();
}

TEST(what_the_inner_link_does_not_take_leaves_later)
{
    struct cr_link *a = open_link("impair:delay=1us,mem:wire"), *b = open_link("mem:wire");
    for (uint32_t i = 1; i <= 1500; i++)
        CHECK(sends(a, frame(i, 60)));
    now_ns += 2000;
    CHECK(!a->ops->arm(a));
    CHECK(a->ops->due_ns(a) > now_ns && a->ops->due_ns(a) < INT64_MAX);
    for (uint32_t i = 1; i <= 1500; i++) {
        if (i == 1001)
            CHECK(!a->ops->arm(a));
        CHECK_EQ(next_number(b), i);
    }
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(more_than_may_be_on_the_way_is_not_taken)
{
    struct cr_link *a = open_link("impair:delay=1s,mem:wire"), *b = open_link("mem:wire");
    struct cr_packet *packet = frame(1, 60);
    uint32_t sent = 0;
    while (sends(a, packet)) {
        CHECK(++sent <= 40000);
        packet = frame(sent, 60);
    }
    CHECK_EQ(sent, 32768);
    cr__packet_put(&cache, packet);
    cr__link_close(a);
    cr__link_close(b);
    check_none_lost();
}

TEST(who_stands_on_a_wrapping_link_is_told_of_what_comes_to_the_inner_one)
{
    struct cr_link *a = open_link("impair:delay=1ms,impair:drop=0%,mem:wire"), *b = open_link("mem:wire");
    a->ready = count_ready;
    CHECK(!a->ops->arm(a));
    CHECK(sends(b, frame(1, 60)));
    CHECK_EQ(ready_count, 1);
    CHECK(a->ops->arm(a));
    CHECK_EQ(next_number(a), 1);
    CHECK(info_of(a).up);
    CHECK_STR(info_of(a).name, "impair:delay=1ms,");
    cr__link_close(b);
    CHECK(!info_of(a).up);
    cr__link_close(a);
    check_none_lost();
}
