/* Packet memory, by behaviour. */
#include "mem/mem.h"
#include "net/link/ring.h"
#include "test.h"

#include <crore/crore.h>
#include <pthread.h>
#include <sched.h>

static struct cr__packet_cache cache;

TEST(a_fresh_packet_has_one_reference_no_bytes_and_room_in_front)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    CHECK(packet != NULL);
    CHECK_EQ(packet->size_bytes, 0);
    CHECK_EQ(packet->flags, 0);
    CHECK_EQ(packet->_references, 1);
    CHECK_EQ(cr_packet_front(packet), CR_PACKET_FRONT_BYTES);
    CHECK_EQ(cr_packet_back(packet), CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES);
    memset(packet->data, 1, cr_packet_back(packet)); /* all of it is there */
    CHECK(cr_packet_push(packet, 54) == packet->data);
    CHECK_EQ(packet->size_bytes, 54);
    CHECK_EQ(cr_packet_front(packet), CR_PACKET_FRONT_BYTES - 54);
    cr_packet_pull(packet, 14);
    CHECK_EQ(packet->size_bytes, 40);
    CHECK_EQ(cr_packet_front(packet) + packet->size_bytes + cr_packet_back(packet), CR_PACKET_ROOM_BYTES);
    cr__packet_put(&cache, packet);
}

TEST(what_is_put_last_is_got_first_and_nothing_is_left_of_its_last_use)
{
    struct cr_packet *a = cr__packet_get(&cache), *b = cr__packet_get(&cache);
    CHECK(a && b && a != b);
    cr_packet_push(a, 100);
    a->flags = CR_PACKET_CHECKED;
    cr__packet_put(&cache, b);
    cr__packet_put(&cache, a);
    CHECK(cr__packet_get(&cache) == a);
    CHECK_EQ(a->size_bytes, 0);
    CHECK_EQ(a->flags, 0);
    CHECK_EQ(cr_packet_front(a), CR_PACKET_FRONT_BYTES);
    CHECK(cr__packet_get(&cache) == b);
}

TEST(the_last_reference_gives_it_back)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    CHECK(cr__packet_hold(packet) == packet);
    cr__packet_put(&cache, packet);
    CHECK_EQ(packet->_references, 1);
    struct cr_packet *other = cr__packet_get(&cache);
    CHECK(other != packet);
    cr__packet_put(&cache, packet);
    CHECK(cr__packet_get(&cache) == packet);
    cr__packet_put(&cache, NULL);
}

TEST(a_copy_has_the_same_bytes_at_the_same_place)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    memcpy(packet->data, "hello", 5);
    packet->size_bytes = 5;
    memcpy(cr_packet_push(packet, 3), "oh ", 3);
    packet->flags = CR_PACKET_CHECKED;
    struct cr_packet *copy = cr__packet_copy(&cache, packet);
    CHECK(copy && copy != packet);
    CHECK_EQ(copy->size_bytes, 8);
    CHECK_EQ(copy->flags, CR_PACKET_CHECKED);
    CHECK_EQ(copy->_references, 1);
    CHECK_EQ(cr_packet_front(copy), cr_packet_front(packet));
    CHECK(memcmp(copy->data, "oh hello", 8) == 0);
    memcpy(copy->data, "no", 2);
    CHECK(memcmp(packet->data, "oh hello", 8) == 0);
}

TEST(there_are_as_many_as_the_bound_says)
{
    static struct cr_packet *packets[1500];
    CHECK_EQ(cr_packets_bound((size_t)1 << 40), -EINVAL);
    CHECK_EQ(cr_packets_bound(1500), 0);
    CHECK_EQ(cr_packets_bound(1500), 0); /* there is no area yet */
    for (int i = 0; i < 1500; i++) {
        packets[i] = cr__packet_get(&cache);
        CHECK(packets[i] != NULL);
    }
    CHECK(cr__packet_get(&cache) == NULL);
    CHECK(cr__packet_copy(&cache, packets[0]) == NULL);
    CHECK_EQ(cr_packets_bound(2000), -EBUSY);
    CHECK_EQ(cr__packets_in_use(), 1500);
    cr__packet_put(&cache, packets[700]);
    CHECK(cr__packet_get(&cache) == packets[700]);
    CHECK(cr__packet_get(&cache) == NULL);
    for (int i = 0; i < 1500; i++)
        cr__packet_put(&cache, packets[i]);
    cr__packet_flush(&cache);
    CHECK_EQ(cr__packets_in_use(), 0);
}

TEST(all_packets_lie_in_one_area_that_can_be_registered)
{
    size_t size_bytes;
    char *area = cr__packet_area(&size_bytes);
    CHECK(area != NULL);
    CHECK_EQ((uintptr_t)area % CR__BLOCK_BYTES, 0);
    CHECK_EQ(size_bytes % CR__BLOCK_BYTES, 0);
    CHECK(size_bytes >= (size_t)CR__PACKETS_DEFAULT * CR_PACKET_BYTES);
    for (int i = 0; i < 3000; i++) {
        char *packet = (char *)cr__packet_get(&cache);
        CHECK(packet >= area && packet + CR_PACKET_BYTES <= area + size_bytes);
        CHECK_EQ((packet - area) % CR_PACKET_BYTES, 0);
        CHECK_EQ(((struct cr_packet *)(void *)packet)->_index, i);
    }
}

TEST(what_was_ever_in_use_at_once_is_counted)
{
    struct cr_mem_stats before, after;
    cr_mem_stats_get(&before);
    CHECK_EQ(before.packets_bytes, 0);
    for (int i = 0; i < 1000; i++)
        cr__packet_put(&cache, cr__packet_get(&cache));
    cr_mem_stats_get(&after);
    CHECK_EQ(after.packets_bytes, CR__PACKET_MAGAZINE * CR_PACKET_BYTES);
    for (int i = 0; i < 1000; i++)
        CHECK(cr__packet_get(&cache) != NULL);
    cr_mem_stats_get(&after);
    CHECK(after.packets_bytes >= 1000 * CR_PACKET_BYTES && after.packets_bytes < 1000 * CR_PACKET_BYTES + CR__PACKET_MAGAZINE * CR_PACKET_BYTES);
}

TEST(without_memory_there_is_none_and_later_there_is)
{
    cr__mem_fail_after(1);
    CHECK(cr__packet_get(&cache) == NULL);
    cr__mem_fail_after(0);
    CHECK(cr__packet_get(&cache) != NULL);
}

/* Fresh packets alone need memory, or the lock; fresh ones fail here. */
TEST(in_steady_state_there_is_no_kernel_call_and_no_lock)
{
    static struct cr_packet *packets[500];
    struct cr__packet_cache giver = {0}, taker = {0};
    uint64_t calls = 0, counted = 0;
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 500; i++) {
            packets[i] = cr__packet_get(&giver);
            CHECK(packets[i] != NULL);
        }
        for (int i = 0; i < 500; i++) /* what is got here and put there goes round by the depot */
            cr__packet_put(&taker, packets[i]);
        if (round == 10) {
            calls = cr__mem_kernel_calls();
            counted = cr__mem_bytes(CR__MEM_PACKETS);
            cr__mem_fail_after(1);
        }
    }
    CHECK_EQ(cr__mem_kernel_calls(), calls);
    CHECK_EQ(cr__mem_bytes(CR__MEM_PACKETS), counted);
    CHECK(counted < (500 + 6 * CR__PACKET_MAGAZINE) * CR_PACKET_BYTES);
}

static void put_twice(void)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    cr__packet_put(&cache, packet);
    cr__packet_put(&cache, packet);
}

static void hold_free(void)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    cr__packet_put(&cache, packet);
    cr__packet_hold(packet);
}

TEST(putting_twice_or_holding_what_is_free_ends_the_program_with_a_line)
{
    char text[2000];
    CHECK(WIFSIGNALED(test_capture(put_twice, text, sizeof(text))));
    CHECK_STR(text, "_references > 0");
    CHECK(WIFSIGNALED(test_capture(hold_free, text, sizeof(text))));
    CHECK_STR(text, "_references > 0");
}

TEST(what_is_free_and_what_is_between_is_poisoned)
{
#ifdef CR__ASAN
    extern int __asan_address_is_poisoned(const volatile void *);
    struct cr_packet *packet = cr__packet_get(&cache);
    CHECK(!__asan_address_is_poisoned((char *)packet + CR_PACKET_BYTES - 1));
    CHECK(__asan_address_is_poisoned((char *)packet + CR_PACKET_BYTES)); /* the gap */
    CHECK(!__asan_address_is_poisoned(&packet->data));
    cr__packet_put(&cache, packet);
    CHECK(__asan_address_is_poisoned(&packet->data));
    CHECK(__asan_address_is_poisoned(&packet->own));
    CHECK(__asan_address_is_poisoned((char *)packet + CR_PACKET_HEAD_BYTES));
    CHECK(__asan_address_is_poisoned((char *)packet + CR_PACKET_BYTES - 1));
    CHECK(cr__packet_get(&cache) == packet);
    CHECK(!__asan_address_is_poisoned((char *)packet + CR_PACKET_HEAD_BYTES));
#else
    SKIP("no AddressSanitizer");
#endif
}

/* ---- Two threads -------------------------------------------------------------------------------------------- */

#define SENDS 300000
#define SENDS_BY_ROUND 40

static struct cr__ring ring;
static _Atomic bool sent_all;
static uint64_t sum_sent, sum_received;
static long count_sent, count_received;

static void churn(struct cr__packet_cache *own, unsigned n)
{
    static _Thread_local struct cr_packet *packets[300];
    for (unsigned i = 0; i < n; i++) {
        packets[i] = cr__packet_get(own);
        CHECK(packets[i] != NULL);
        packets[i]->own.words[0] = (uintptr_t)packets; /* mine while I have it */
    }
    for (unsigned i = 0; i < n; i++) {
        CHECK_EQ(packets[i]->own.words[0], (uintptr_t)packets);
        cr__packet_put(own, packets[i]);
    }
}

static void *sender(void *unused)
{
    static struct cr__packet_cache own;
    uint64_t number = 0;
    for (unsigned round = 0; number < SENDS; round++) {
        if (round % 8 == 0)
            churn(&own, round * 7 % 300);
        unsigned room = cr__ring_room(&ring, SENDS_BY_ROUND), n = room < SENDS_BY_ROUND ? room : SENDS_BY_ROUND;
        for (unsigned i = 0; i < n; i++) {
            struct cr_packet *packet = cr__packet_get(&own);
            CHECK(packet != NULL);
            packet->own.words[1] = ++number;
            sum_sent += number;
            count_sent++;
            *cr__ring_slot(&ring, i) = packet;
        }
        cr__ring_publish(&ring, n);
        if (n == 0)
            sched_yield();
    }
    atomic_store_explicit(&sent_all, true, memory_order_release);
    cr__packet_flush(&own);
    return unused;
}

static void *receiver(void *unused)
{
    static struct cr__packet_cache own;
    struct cr_packet *packets[64];
    uint64_t last = 0;
    for (unsigned round = 0;; round++) {
        bool all = atomic_load_explicit(&sent_all, memory_order_acquire);
        unsigned n = cr__ring_pop(&ring, packets, 1 + round % 64);
        if (n == 0 && all)
            break;
        for (unsigned i = 0; i < n; i++) {
            CHECK_EQ(packets[i]->own.words[1], ++last);
            sum_received += packets[i]->own.words[1];
            count_received++;
            cr__packet_put(&own, packets[i]);
        }
        if (round % 8 == 0)
            churn(&own, round % 299);
        if (n == 0)
            sched_yield();
    }
    cr__packet_flush(&own);
    return unused;
}

TEST(two_threads_lose_and_double_no_packet)
{
    pthread_t a, b;
    CHECK_EQ(pthread_create(&a, NULL, sender, NULL), 0);
    CHECK_EQ(pthread_create(&b, NULL, receiver, NULL), 0);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    CHECK(count_sent >= SENDS);
    CHECK_EQ(count_received, count_sent);
    CHECK_EQ(sum_received, sum_sent);
    CHECK_EQ(cr__packets_in_use(), 0);
    struct cr__packet_cache own = {0};
    uint64_t all = cr__mem_bytes(CR__MEM_PACKETS) / CR_PACKET_BYTES;
    CHECK_EQ(cr_packets_bound(1), -EBUSY);
    static unsigned char seen[CR__PACKETS_DEFAULT];
    cr__mem_fail_after(1); /* none but those of the depot */
    for (uint64_t i = 0; i < all; i++) {
        struct cr_packet *packet = cr__packet_get(&own);
        CHECK(packet != NULL && !seen[packet->_index]++);
    }
    CHECK(cr__packet_get(&own) == NULL);
}

/* ---- In coroutines ------------------------------------------------------------------------------------------ */

static void uses_some(void *unused)
{
    (void)unused;
    struct cr_packet *packet = cr_packet_get(), *more[10];
    CHECK(packet && cr_packet_hold(packet) == packet);
    struct cr_packet *copy = cr_packet_copy(packet);
    CHECK(copy && copy != packet);
    for (int i = 0; i < 10; i++)
        more[i] = cr_packet_get();
    for (int i = 0; i < 10; i++)
        cr_packet_put(more[i]);
    cr_packet_put(packet);
    cr_packet_put(packet);
    cr_packet_put(copy);
    cr_packet_put(NULL);
}

TEST(a_workers_packets_are_everybodys_when_it_ends)
{
    CHECK_EQ(cr_run(uses_some, NULL, NULL), 0);
    CHECK(cr__mem_bytes(CR__MEM_PACKETS) > 0);
    CHECK_EQ(cr__packets_in_use(), 0);
}
