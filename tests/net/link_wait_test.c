/* Links as coroutines use them: waiting, waking, other workers. */
#include "links.h"

/* ---- In coroutines ------------------------------------------------------------------------------------------- */

TEST(calls_outside_of_coroutines_are_refused)
{
    struct cr_link *link = NULL;
    CHECK_EQ(cr_link_open(&link, "mem:x"), -EPERM);
    link = open_link("mem:x");
    struct cr_packet *packets[1] = {frame(1, 60)};
    CHECK_EQ(cr_link_send(link, packets, 1), -EPERM);
    CHECK_EQ(cr_link_recv(link, packets, 1), -EPERM);
    CHECK_EQ(cr_link_wait(link), -EPERM);
    cr_link_close(link);
    cr_link_close(NULL);
}

static uint32_t pings = 3000;

static void answer(void *name)
{
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, name), 0);
    for (uint32_t i = 1; i <= pings; i++) {
        CHECK_EQ(wait_number(link), i);
        send_number(link, i + 1000000);
    }
    CHECK_EQ(cr_link_wait_until(link, cr_now() + CR_MS), -ETIMEDOUT); /* what is still on the line leaves */
    cr_link_close(link);
}

static void ask(const char *name)
{
    struct cr_link *link;
    struct cr_link_info info = {0};
    CHECK_EQ(cr_link_open(&link, name), 0);
    while (!info.up) {
        cr_yield();
        cr_link_info_get(link, &info);
    }
    for (uint32_t i = 1; i <= pings; i++) {
        send_number(link, i);
        CHECK_EQ(wait_number(link), i + 1000000);
    }
    cr_link_close(link);
}

static void asks(void *name)
{
    ask(name);
}

TEST_CO(two_coroutines_of_a_worker_talk)
{
    CHECK_EQ(cr_go(answer, "mem:talk"), 0);
    ask("mem:talk");
}

TEST_CO(they_talk_over_a_slow_line)
{
    pings = 20;
    int64_t before_ns = cr_now();
    CHECK_EQ(cr_go(answer, "impair:delay=500us,mem:talk"), 0);
    ask("impair:delay=500us,mem:talk");
    CHECK(cr_now() - before_ns >= 20 * CR_MS);
}

TEST_CO_CONFIG(two_workers_talk, (&(struct cr_config){.workers = 2}))
{
    struct cr_co *other;
    CHECK_EQ(cr_spawn_on(&other, !cr_worker_index(), answer, "mem:talk", NULL), 0);
    ask("mem:talk");
    CHECK_EQ(cr_join(other), 0);
}

TEST_CO(a_recording_is_replayed_in_its_rhythm)
{
    struct cr_link *a, *b, *replay;
    CHECK_EQ(cr_link_open(&a, spec_of("mem:x")), 0);
    CHECK_EQ(cr_link_open(&b, "mem:x"), 0);
    for (uint32_t i = 1; i <= 5; i++) {
        send_number(a, i);
        cr_sleep(2 * CR_MS);
    }
    cr_link_close(a);
    cr_link_close(b);
    CHECK_EQ(cr_link_open(&replay, spec_of(NULL)), 0);
    int64_t before_ns = cr_now();
    for (uint32_t i = 1; i <= 5; i++)
        CHECK_EQ(wait_number(replay), i);
    CHECK(cr_now() - before_ns >= 8 * CR_MS);
    cr_link_close(replay);
    forget_recording();
}

/* A reader of the file sees what has passed, though nothing else does. */
TEST_CO(who_waits_for_a_recording_that_has_ended_is_told)
{
    struct cr_link *link;
    char spec[400];
    snprintf(spec, sizeof(spec), "impair:delay=1ms,%s", spec_of(NULL));
    write_recording((const uint32_t[]){0xa1b23c4d, 0x00040002, 0, 0, 65535, 1}, 24);
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        CHECK_EQ(cr_link_open(&link, wrapped ? spec : spec_of(NULL)), 0);
        CHECK_EQ(cr_link_wait(link), -ENODATA);
        cr_link_close(link);
    }
    forget_recording();
}

/* As a recording has it of one that is not here any more. */
TEST_CO(a_network_has_the_ethernet_address_that_it_is_told)
{
    static const unsigned char who_has[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1};
    struct cr_link *link;
    struct cr_net *net;
    struct cr_packet *packet = cr_packet_get(), *answer;
    CHECK_EQ(cr_net_open(&net, "mem:m addr=10.0.0.1/24 mac=02:0a:0b:0c:0d"), -EINVAL);
    CHECK_EQ(cr_net_open(&net, "mem:m addr=10.0.0.1/24 mac=03:0a:0b:0c:0d:0e"), -EINVAL);
    CHECK_EQ(cr_net_open(&net, "mem:m addr=10.0.0.1/24 mac=02:0a:0b:0c:0d:0e"), 0);
    CHECK_EQ(cr_link_open(&link, "mem:m"), 0);
    memcpy(packet->data, who_has, sizeof(who_has));
    packet->size_bytes = sizeof(who_has);
    CHECK_EQ(cr_link_send(link, &packet, 1), 1);
    do {
        CHECK_EQ(cr_link_wait(link), 0);
        CHECK_EQ(cr_link_recv(link, &answer, 1), 1);
        if (answer->data[0] == 2)
            break;
        cr_packet_put(answer); /* of its own accord */
    } while (true);
    CHECK(memcmp(answer->data + 6, "\x02\x0a\x0b\x0c\x0d\x0e", 6) == 0);
    cr_packet_put(answer);
    cr_link_close(link);
    cr_net_close(net);
}

TEST_CO(a_recording_gets_into_the_file_within_a_second_or_so)
{
    struct cr_link *a, *b;
    static unsigned char bytes[1000];
    CHECK_EQ(cr_link_open(&a, spec_of("mem:x")), 0);
    CHECK_EQ(cr_link_open(&b, "mem:x"), 0);
    send_number(a, 1);
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24);
    CHECK_EQ(cr_link_wait_until(a, cr_now() + 1200 * CR_MS), -ETIMEDOUT);
    CHECK_EQ(recorded(bytes, sizeof(bytes)), 24 + 16 + 60);
    cr_link_close(a);
    cr_link_close(b);
    forget_recording();
}

/* Each end has a runtime of its own. */
TEST(two_runtimes_talk)
{
    struct cr_rt *a, *b;
    pings = 300;
    CHECK_EQ(cr_rt_create(&a, NULL), 0);
    CHECK_EQ(cr_rt_create(&b, NULL), 0);
    CHECK_EQ(cr_rt_start(a, answer, "mem:talk"), 0);
    CHECK_EQ(cr_rt_start(b, asks, "mem:talk"), 0);
    CHECK_EQ(cr_rt_wait(a), 0);
    CHECK_EQ(cr_rt_wait(b), 0);
    cr_rt_destroy(a);
    cr_rt_destroy(b);
    CHECK_EQ(cr__packets_in_use(), 0);
}

static _Atomic bool is_there;

static void takes_its_time(void *unused)
{
    (void)unused;
    usleep(50000);
}

/* Waits for what can't come, so its runtime ends; the destructor runs when that is done, and what it has opened not closed yet. */
static void waits_in_vain(void)
{
    static unsigned key;
    struct cr_link *silent;
    CHECK_EQ(cr_local_key(&key, takes_its_time), 0);
    CHECK_EQ(cr_local_set(key, &key), 0);
    CHECK_EQ(cr_link_open(&silent, "mem:silent"), 0);
    atomic_store(&is_there, true);
    (void)!cr_link_wait(silent);
}

static void leaves_a_network_open(void *unused)
{
    struct cr_net *net;
    (void)unused;
    CHECK_EQ(cr_net_open(&net, "mem:end addr=10.0.0.1/24"), 0);
    waits_in_vain();
}

static void leaves_a_link_open(void *unused)
{
    struct cr_link *left;
    (void)unused;
    CHECK_EQ(cr_link_open(&left, "mem:end"), 0);
    waits_in_vain();
}

static void sends_until_nobody_is_there(void *unused)
{
    struct cr_link *link;
    struct cr_link_info info;
    (void)unused;
    CHECK_EQ(cr_link_open(&link, "mem:end"), 0);
    while (!atomic_load(&is_there))
        CHECK_EQ(cr_sleep(CR_MS), 0);
    do {
        CHECK_EQ(cr_sleep(5 * CR_MS), 0);
        send_number(link, 1);
        cr_link_info_get(link, &info);
    } while (info.up);
    cr_link_close(link);
}

static void ends_while_another_one_sends(void (*fn)(void *unused))
{
    struct cr_rt *rt;
    int r = cr_rt_create(&rt, NULL);
    r = r == 0 ? cr_rt_start(rt, sends_until_nobody_is_there, NULL) : r;
    if (r != 0 || cr_run(fn, NULL, NULL) != -EDEADLK || cr_rt_wait(rt) != 0)
        _exit(3);
    cr_rt_destroy(rt);
    if (cr__packets_in_use() != 0)
        _exit(4);
}

static void ends_with_a_network(void)
{
    ends_while_another_one_sends(leaves_a_network_open);
}

static void ends_with_a_link(void)
{
    ends_while_another_one_sends(leaves_a_link_open);
}

TEST(a_runtime_may_end_while_another_one_sends_to_its_network)
{
    char text[8000];
    CHECK_EQ(test_capture(ends_with_a_network, text, sizeof(text)), 0);
}

TEST(a_runtime_may_end_while_another_one_sends_to_its_link)
{
    char text[8000];
    CHECK_EQ(test_capture(ends_with_a_link, text, sizeof(text)), 0);
}

/* What it leaves open is closed with the runtime: both ends are free again, and so is what was on its way. */
static void leaves_links_open(void *unused)
{
    struct cr_link *a, *b, *slow;
    (void)unused;
    CHECK_EQ(cr_link_open(&a, "mem:left"), 0);
    CHECK_EQ(cr_link_open(&b, "mem:left"), 0);
    CHECK_EQ(cr_link_open(&slow, "impair:delay=1s,mem:slow"), 0);
    send_number(a, 1);
    send_number(slow, 1);
    (void)!cr_link_wait(a);
}

static void leaves_links_open_twice(void)
{
    for (int i = 0; i < 2; i++)
        if (cr_run(leaves_links_open, NULL, NULL) != -EDEADLK || cr__packets_in_use() != 0)
            _exit(3);
}

TEST(what_is_left_open_is_closed_with_the_runtime)
{
    char text[8000];
    CHECK_EQ(test_capture(leaves_links_open_twice, text, sizeof(text)), 0);
}

static struct cr_link *theirs;
static int how_it_ended;

static void waits(void *unused)
{
    (void)unused;
    how_it_ended = cr_link_wait(theirs);
}

TEST_CO(a_wait_ends_with_its_deadline_by_cancelling_or_when_the_link_is_closed)
{
    struct cr_link *other;
    struct cr_co *co;
    CHECK_EQ(cr_link_open(&theirs, "mem:x"), 0);
    CHECK_EQ(cr_link_open(&other, "mem:x"), 0);
    int64_t before_ns = cr_now();
    CHECK_EQ(cr_link_wait_until(theirs, before_ns + 5 * CR_MS), -ETIMEDOUT);
    CHECK(cr_now() >= before_ns + 5 * CR_MS);
    send_number(other, 1);
    CHECK_EQ(cr_link_wait_until(theirs, 0), 0); /* there is something, however late it is */
    CHECK_EQ(wait_number(theirs), 1);

    CHECK_EQ(cr_spawn(&co, waits, NULL, NULL), 0);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_link_wait(theirs), -EBUSY);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(how_it_ended, -ECANCELED);

    CHECK_EQ(cr_spawn(&co, waits, NULL, NULL), 0);
    CHECK_EQ(cr_yield(), 0);
    cr_link_close(theirs);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(how_it_ended, -EBADF);

    CHECK_EQ(cr_link_open(&theirs, "mem:x"), 0);
    CHECK_EQ(cr_spawn(&co, waits, NULL, NULL), 0);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_cancel(co), 0);
    cr_link_close(theirs); /* it has been cancelled, and has not gone on yet */
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(how_it_ended, -EBADF);
    cr_link_close(other);
}

TEST_CO(a_network_that_stands_on_a_link_is_who_waits)
{
    CHECK_EQ(cr_link_open(&theirs, "mem:x"), 0);
    theirs->ready = count_ready;
    CHECK_EQ(cr_link_wait(theirs), -EBUSY);
    cr_link_close(theirs);
}

static void tries_anothers(void *unused)
{
    (void)unused;
    struct cr_packet *packet = numbered(1);
    CHECK_EQ(cr_link_send(theirs, &packet, 1), -EPERM);
    CHECK_EQ(cr_link_recv(theirs, &packet, 1), -EPERM);
    CHECK_EQ(cr_link_wait(theirs), -EPERM);
    cr_packet_put(packet);
}

TEST_CO_CONFIG(a_link_is_for_the_worker_that_opened_it, (&(struct cr_config){.workers = 2}))
{
    struct cr_co *co;
    CHECK_EQ(cr_link_open(&theirs, "mem:x"), 0);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), tries_anothers, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_link_close(theirs);
}

static void waits_for_nobody(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_link_open(&theirs, "mem:x"), 0);
    (void)!cr_link_wait(theirs);
}

static void runs_into_silence(void)
{
    if (cr_run(waits_for_nobody, NULL, NULL) != -EDEADLK)
        _exit(3);
}

TEST(who_waits_where_nobody_can_send_is_told_of)
{
    char text[4000];
    CHECK_EQ(test_capture(runs_into_silence, text, sizeof(text)), 0);
    CHECK_STR(text, "a packet from a link");
    CHECK_STR(text, "mem:x");
}

/* Ends that come and go on two workers while the other side sends: nobody is lost track of. */
static void comes_and_goes(void *unused)
{
    (void)unused;
    for (int i = 0; i < 300; i++) {
        struct cr_link *link;
        struct cr_packet *packet;
        CHECK_EQ(cr_link_open(&link, "mem:x"), 0);
        int r = cr_link_wait_until(link, cr_now() + CR_MS / 10);
        CHECK(r == 0 || r == -ETIMEDOUT);
        for (int n = 0; n < 3 && cr_link_recv(link, &packet, 1) == 1; n++)
            cr_packet_put(packet);
        cr_link_close(link);
        cr_yield();
    }
}

static void keeps_sending(void *co)
{
    struct cr_link *link;
    uint32_t number = 0;
    CHECK_EQ(cr_link_open(&link, "mem:x"), 0);
    while (cr_join_until(co, cr_now() + CR_MS / 20) == -ETIMEDOUT)
        send_number(link, ++number);
    cr_link_close(link);
}

static void sends_to_comers(void *unused)
{
    (void)unused;
    struct cr_co *co;
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), comes_and_goes, NULL, NULL), 0);
    keeps_sending(co);
}

TEST(ends_may_come_and_go_while_the_other_worker_sends)
{
    CHECK_EQ(cr_run(sends_to_comers, NULL, (&(struct cr_config){.workers = 2})), 0);
    CHECK_EQ(cr__packets_in_use(), 0);
}
