/* Channels, select, broadcast, on one worker and on several. */
#include <crore/crore.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "sched/sched.h"
#include "test.h"

static const struct cr_config several = {.workers = 4};

static _Atomic long done, sum;
static struct cr_chan *chan, *other;

static void wait_done(long n)
{
    while (done < n)
        CHECK_EQ(cr_sleep(50 * CR_US), 0);
}

static struct cr_chan *make(size_t item_size_bytes, size_t capacity)
{
    struct cr_chan *made;
    CHECK_EQ(cr_chan_create(&made, item_size_bytes, capacity), 0);
    return made;
}

static void sends_hundred(void *arg)
{
    long base = (long)(intptr_t)arg * 100;
    for (long i = 0; i < 100; i++) {
        long item = base + i;
        CHECK_EQ(cr_chan_send(chan, &item), 0);
    }
    done++;
}

static void receives_all(void *unused)
{
    (void)unused;
    long item;
    int r;
    while ((r = cr_chan_recv(chan, &item)) == 0)
        sum += item;
    CHECK_EQ(r, -EPIPE);
    CHECK_EQ(item, 0); /* zeroed */
    done++;
}

static void many_to_many(size_t capacity)
{
    chan = make(sizeof(long), capacity);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(cr_go(sends_hundred, (void *)(intptr_t)i), 0);
        CHECK_EQ(cr_go(receives_all, NULL), 0);
    }
    wait_done(20);
    CHECK_EQ(cr_chan_close(chan), 0);
    wait_done(40);
    CHECK_EQ(sum, 2000L * 1999 / 2);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST_BOTH(every_item_is_received_once_unbuffered)
{
    many_to_many(0);
}

TEST_BOTH(every_item_is_received_once_buffered)
{
    many_to_many(7);
}

TEST_BOTH(a_buffered_channel_keeps_the_order_and_counts)
{
    int item;
    chan = make(sizeof(int), 3);
    for (int i = 1; i <= 3; i++)
        CHECK_EQ(cr_chan_send(chan, &i), 0);
    item = 4;
    CHECK_EQ(cr_chan_send_try(chan, &item), -EAGAIN);
    CHECK_EQ(cr_chan_send_until(chan, &item, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_chan_length(chan), 3);
    CHECK_EQ(cr_chan_capacity(chan), 3);
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(cr_chan_recv(chan, &item), 0);
        CHECK_EQ(item, i);
    }
    CHECK_EQ(cr_chan_recv_try(chan, &item), -EAGAIN);
    CHECK_EQ(cr_chan_recv_until(chan, &item, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST_BOTH(what_was_sent_before_closing_is_still_received)
{
    int item = 5;
    chan = make(sizeof(int), 2);
    CHECK_EQ(cr_chan_send(chan, &item), 0);
    CHECK_EQ(cr_chan_close(chan), 0);
    CHECK_EQ(cr_chan_close(chan), -EPIPE);
    CHECK_EQ(cr_chan_send(chan, &item), -EPIPE);
    item = 0;
    CHECK_EQ(cr_chan_recv(chan, &item), 0);
    CHECK_EQ(item, 5);
    CHECK_EQ(cr_chan_recv(chan, &item), -EPIPE);
    CHECK_EQ(item, 0);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

static void wait_until_it_waits(struct cr_co *co)
{
    while (cr__park_state(&cr__record_of(co)->word) != CR__WAITING)
        CHECK_EQ(cr_sleep(100 * CR_US), 0);
}

static void is_refused(void *unused)
{
    (void)unused;
    int item = 1;
    CHECK_EQ(cr_chan_send(chan, &item), -EPIPE);
    done++;
}

static void is_cancelled(void *unused)
{
    (void)unused;
    int item = 1;
    CHECK_EQ(cr_chan_recv(other, &item), -ECANCELED);
    CHECK_EQ(item, 1);
    done++;
}

TEST_BOTH(closing_and_cancelling_wake_those_who_wait)
{
    struct cr_co *sender, *receiver;
    chan = make(sizeof(int), 0);
    other = make(sizeof(int), 0);
    CHECK_EQ(cr_spawn(&sender, is_refused, NULL, NULL), 0);
    CHECK_EQ(cr_spawn(&receiver, is_cancelled, NULL, NULL), 0);
    wait_until_it_waits(sender);
    wait_until_it_waits(receiver);
    CHECK_EQ(cr_chan_destroy(chan), -EBUSY);
    CHECK_EQ(cr_chan_close(chan), 0);
    CHECK_EQ(cr_cancel(receiver), 0);
    CHECK_EQ(cr_join(receiver), 0);
    CHECK_EQ(cr_join(sender), 0);
    CHECK_EQ(done, 2);
    CHECK_EQ(cr_chan_destroy(chan), 0);
    CHECK_EQ(cr_chan_destroy(other), 0);
}

TEST_BOTH(items_of_no_size_are_signals)
{
    chan = make(0, 2);
    CHECK_EQ(cr_chan_send(chan, NULL), 0);
    CHECK_EQ(cr_chan_send(chan, NULL), 0);
    CHECK_EQ(cr_chan_send_try(chan, NULL), -EAGAIN);
    CHECK_EQ(cr_chan_recv(chan, NULL), 0);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST(channels_that_make_no_sense_are_refused)
{
    struct cr_chan *made;
    int item = 0;
    CHECK_EQ(cr_chan_create(&made, 1 << 20, 1 << 20), -EINVAL);
    CHECK_EQ(cr_chan_create(&made, ~(size_t)0, 2), -EINVAL);
    chan = make(sizeof(int), 1);
    CHECK_EQ(cr_chan_send(chan, &item), -EPERM);
    CHECK_EQ(cr_chan_recv_try(chan, &item), -EPERM);
    CHECK_EQ(cr_chan_close(chan), -EPERM);
    CHECK_EQ(cr_chan_destroy(chan), 0);
    CHECK_EQ(cr_chan_destroy(NULL), 0);
}

/* ---- Select ------------------------------------------------------------------------------------------------- */

static struct cr_chan *eight[8];

static void feeds(void *arg)
{
    intptr_t n = (intptr_t)arg;
    for (long i = 0; i < 200; i++)
        CHECK_EQ(cr_chan_send(eight[n], &i), 0);
    done++;
}

static void selects_many(void *arg)
{
    long item[8], count = (long)(intptr_t)arg;
    for (long i = 0; i < count; i++) {
        struct cr_case cases[8];
        for (int c = 0; c < 8; c++)
            cases[c] = (struct cr_case){.op = CR_RECV, .chan = eight[c], .item = &item[c]};
        int at = cr_select(cases, 8);
        CHECK(at >= 0 && at < 8);
        CHECK_EQ(cases[at].result, 0);
        sum += item[at];
    }
    done++;
}

TEST_BOTH(select_takes_each_item_once)
{
    for (int i = 0; i < 8; i++) {
        eight[i] = make(sizeof(long), (size_t)i % 3);
        CHECK_EQ(cr_go(feeds, (void *)(intptr_t)i), 0);
    }
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cr_go(selects_many, (void *)(intptr_t)400), 0);
    wait_done(12);
    CHECK_EQ(sum, 8 * 200L * 199 / 2);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_chan_destroy(eight[i]), 0);
}

static void selects_both_ways(void *arg)
{
    long mine = (long)(intptr_t)arg, theirs = 0;
    for (int i = 0; i < 500; i++) {
        struct cr_case cases[] = {{.op = CR_SEND, .chan = chan, .item = &mine},
                                  {.op = CR_RECV, .chan = chan, .item = &theirs},
                                  {.op = CR_RECV, .chan = other, .item = &theirs}};
        int at = cr_select(cases, 3);
        if (at == 2)
            break;
        CHECK(at == 0 || at == 1);
        CHECK_EQ(cases[at].result, 0);
        if (at == 1) {
            CHECK(theirs != mine);
            sum++;
        } else {
            sum--;
        }
    }
    done++;
}

TEST_BOTH(selects_meet_selects_but_not_themselves)
{
    chan = make(sizeof(long), 0);
    other = make(sizeof(long), 0);
    for (int i = 1; i <= 6; i++)
        CHECK_EQ(cr_go(selects_both_ways, (void *)(intptr_t)i), 0);
    while (done < 5)
        CHECK_EQ(cr_sleep(50 * CR_US), 0);
    CHECK_EQ(cr_chan_close(other), 0);
    wait_done(6);
    CHECK_EQ(sum, 0); /* as many sent as received */
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST_BOTH(select_over_nothing_is_an_error_and_nothing_ready_is_the_default)
{
    int item = 3;
    struct cr_case none = {.op = CR_RECV, .chan = NULL, .item = &item};
    CHECK_EQ(cr_select(NULL, 0), -EINVAL);
    CHECK_EQ(cr_select(&none, 1), -EINVAL);
    CHECK_EQ(cr_select_try(&none, 1), -EINVAL);
    chan = make(sizeof(int), 1);
    struct cr_case cases[] = {none, {.op = CR_RECV, .chan = chan, .item = &item}};
    CHECK_EQ(cr_select_try(cases, 2), -EAGAIN);
    CHECK_EQ(cr_select_until(cases, 2, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(item, 3);
    cases[1].op = CR_SEND;
    CHECK_EQ(cr_select(cases, 2), 1);
    cases[1].op = CR_RECV;
    item = 0;
    CHECK_EQ(cr_select(cases, 2), 1);
    CHECK_EQ(item, 3);
    CHECK_EQ(cr_chan_close(chan), 0);
    CHECK_EQ(cr_select(cases, 2), 1);
    CHECK_EQ(cases[1].result, -EPIPE);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST_BOTH(select_is_fair)
{
    int item = 0, count[3] = {0};
    for (int i = 0; i < 3; i++) {
        eight[i] = make(sizeof(int), 3000);
        for (int k = 0; k < 3000; k++)
            CHECK_EQ(cr_chan_send(eight[i], &item), 0);
    }
    for (int i = 0; i < 3000; i++) {
        struct cr_case cases[3];
        for (int c = 0; c < 3; c++)
            cases[c] = (struct cr_case){.op = CR_RECV, .chan = eight[c], .item = &item};
        count[cr_select(cases, 3)]++;
    }
    for (int i = 0; i < 3; i++) {
        CHECK(count[i] > 700);
        CHECK_EQ(cr_chan_destroy(eight[i]), 0);
    }
}

static void select_cancelled(void *unused)
{
    (void)unused;
    int item;
    struct cr_case cases[] = {{.chan = chan, .item = &item}, {.chan = other, .item = &item}};
    CHECK_EQ(cr_select(cases, 2), -ECANCELED);
    done++;
}

TEST_BOTH(who_is_cancelled_leaves_all_queues_of_its_select)
{
    struct cr_co *co;
    int item = 1;
    chan = make(sizeof(int), 0);
    other = make(sizeof(int), 0);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(cr_spawn(&co, select_cancelled, NULL, NULL), 0);
        CHECK_EQ(i % 2 ? cr_sleep(20 * CR_US) : cr_yield(), 0);
        CHECK_EQ(cr_cancel(co), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK_EQ(cr_chan_send_try(chan, &item), -EAGAIN);
        CHECK_EQ(cr_chan_send_try(other, &item), -EAGAIN);
    }
    CHECK_EQ(cr_chan_destroy(chan), 0);
    CHECK_EQ(cr_chan_destroy(other), 0);
}

/* ---- Broadcast ---------------------------------------------------------------------------------------------- */

static struct cr_broadcast *news;

static void reads_news(void *unused)
{
    (void)unused;
    struct cr_subscriber me;
    cr_broadcast_subscribe(news, &me);
    sum++;
    long item, received = 0, lost = 0;
    int64_t r;
    while ((r = cr_broadcast_recv(&me, &item)) >= 0) {
        lost += r;
        received += r == 0;
        if (r == 0)
            CHECK_EQ(item, received + lost - 1);
    }
    CHECK_EQ(r, -EPIPE);
    CHECK_EQ(received + lost, 1000);
    done++;
}

TEST_BOTH(each_subscriber_receives_each_item_or_is_told_what_it_lost)
{
    CHECK_EQ(cr_broadcast_create(&news, sizeof(long), 0), -EINVAL);
    CHECK_EQ(cr_broadcast_create(&news, sizeof(long), 16), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_go(reads_news, NULL), 0);
    while (sum < 10)
        CHECK_EQ(cr_sleep(50 * CR_US), 0);
    for (long i = 0; i < 1000; i++) {
        CHECK_EQ(cr_broadcast_send(news, &i), 0);
        if (i % 10 == 0)
            cr_yield();
    }
    CHECK_EQ(cr_broadcast_close(news), 0);
    CHECK_EQ(cr_broadcast_close(news), -EPIPE);
    CHECK_EQ(cr_broadcast_send(news, &sum), -EPIPE);
    wait_done(10);
    CHECK_EQ(cr_broadcast_destroy(news), 0);
}

TEST_BOTH(a_slow_subscriber_loses_the_oldest)
{
    struct cr_subscriber me;
    int item;
    CHECK_EQ(cr_broadcast_create(&news, sizeof(int), 4), 0);
    cr_broadcast_subscribe(news, &me);
    CHECK_EQ(cr_broadcast_recv_try(&me, &item), -EAGAIN);
    CHECK_EQ(cr_broadcast_recv_until(&me, &item, cr_after(CR_MS)), -ETIMEDOUT);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_broadcast_send(news, &i), 0);
    CHECK_EQ(cr_broadcast_recv(&me, &item), 6);
    for (int i = 6; i < 10; i++) {
        CHECK_EQ(cr_broadcast_recv(&me, &item), 0);
        CHECK_EQ(item, i);
    }
    CHECK_EQ(cr_broadcast_destroy(news), 0);
}

/* ---- From outside ------------------------------------------------------------------------------------------- */

static struct cr_rt *rt;

static void *sends_from_outside(void *arg)
{
    for (long i = 0; i < 50; i++) {
        long item = (long)(intptr_t)arg * 50 + i;
        CHECK_EQ(cr_chan_send_remote(rt, chan, &item), 0);
    }
    return NULL;
}

static void receives_four_hundred(void *unused)
{
    (void)unused;
    for (int i = 0; i < 400; i++) {
        long item;
        CHECK_EQ(cr_chan_recv(chan, &item), 0);
        sum += item;
    }
    CHECK_EQ(cr_chan_recv(chan, &(long){0}), -EPIPE);
}

static void remote(unsigned workers)
{
    pthread_t threads[8];
    chan = make(sizeof(long), 0);
    CHECK_EQ(cr_rt_create(&rt, &(struct cr_config){.workers = workers}), 0);
    CHECK_EQ(cr_rt_start(rt, receives_four_hundred, NULL), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, sends_from_outside, (void *)(intptr_t)i), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(cr_chan_close_remote(rt, chan), 0);
    CHECK_EQ(cr_rt_wait(rt), 0);
    CHECK_EQ(sum, 400L * 399 / 2);
    CHECK_EQ(cr_chan_send_remote(rt, chan, &(long){0}), -ESHUTDOWN);
    cr_rt_destroy(rt);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

TEST(threads_send_to_coroutines_of_one_worker)
{
    remote(1);
}

TEST(threads_send_to_coroutines_of_several)
{
    SKIP_SEVERAL_UNDER_SEED();
    remote(4);
}

static void *sends_one_too_many(void *result)
{
    *(int *)result = cr_chan_send_remote(rt, chan, &(long){2});
    return NULL;
}

struct hopeless {
    pthread_t thread;
    int result;
    struct cr_sem never;
};

/* The kernel's: under a seed cr_sleep takes none, and threads need some. */
static void lets_time_pass(void *unused)
{
    (void)unused;
    usleep(20000);
}

static void parks_beside_a_sender(void *arg)
{
    struct hopeless *hopeless = arg;
    rt = cr_rt_here();
    CHECK_EQ(cr_chan_send(chan, &(long){1}), 0);
    CHECK_EQ(pthread_create(&hopeless->thread, NULL, sends_one_too_many, &hopeless->result), 0);
    CHECK_EQ(cr_blocking(lets_time_pass, NULL), 0); /* it is in the channel's queue by now, or else comes too late */
    (void)!cr_sem_wait(&hopeless->never);
}

/* Whose channel nobody empties any more. */
static struct cr_chan *left[3]; /* coroutines that were dropped are in their queues: so they stay */

static void sends_to_the_hopeless(unsigned workers)
{
    struct hopeless hopeless = {0};
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    chan = left[workers] = make(sizeof(long), 1);
    CHECK_EQ(cr_run(parks_beside_a_sender, &hopeless, &(struct cr_config){.workers = workers, .report_fd = nowhere}), -EDEADLK);
    CHECK_EQ(pthread_join(hopeless.thread, NULL), 0);
    CHECK_EQ(hopeless.result, -ESHUTDOWN);
    CHECK_EQ(close(nowhere), 0);
}

TEST(a_thread_that_sends_returns_when_the_runtime_gives_up)
{
    sends_to_the_hopeless(1);
    if (!test_under_seed())
        sends_to_the_hopeless(2);
}

/* ---- Destroying --------------------------------------------------------------------------------------------- */

static void receives_until_it_is_over(void *unused)
{
    int item;
    (void)unused;
    CHECK_EQ(cr_chan_recv(chan, &item), -ECANCELED);
}

static void selects_until_it_is_over(void *unused)
{
    int item;
    (void)unused;
    struct cr_case cases[] = {{CR_RECV, chan, &item, 0}, {CR_RECV, other, &item, 0}};
    CHECK_EQ(cr_select(cases, 2), -ECANCELED);
}

static void check_destroyed_after(void (*fn)(void *))
{
    struct cr_co *co;
    chan = make(sizeof(int), 0);
    other = make(sizeof(int), 0);
    CHECK_EQ(cr_spawn(&co, fn, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_chan_close(chan), 0); /* throws out who is on its way */
    CHECK_EQ(cr_chan_destroy(chan), -EBUSY);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_chan_destroy(chan), 0);
    CHECK_EQ(cr_chan_destroy(other), 0);
}

TEST_CO(a_channel_is_not_destroyed_before_all_that_have_given_up_have_left_it)
{
    check_destroyed_after(receives_until_it_is_over);
    check_destroyed_after(selects_until_it_is_over);
}

static void receives_the_end(void *unused)
{
    int item;
    (void)unused;
    done++;
    CHECK_EQ(cr_chan_recv(chan, &item), -EPIPE);
    done++;
}

static void selects_the_end(void *unused)
{
    int item;
    (void)unused;
    done++;
    struct cr_case cases[] = {{CR_RECV, other, &item, 0}, {CR_RECV, chan, &item, 0}};
    CHECK_EQ(cr_select(cases, 2), 1);
    CHECK_EQ(cases[1].result, -EPIPE);
    done++;
}

/* With several workers an address sanitizer sees who still looks. */
TEST_BOTH(a_channel_may_be_destroyed_as_soon_as_it_is_closed)
{
    other = make(sizeof(int), 0);
    for (int i = 0; i < 20; i++) {
        done = 0;
        chan = make(sizeof(int), 0);
        CHECK_EQ(cr_go_on((unsigned)(cr_worker_count() - 1), i % 2 ? receives_the_end : selects_the_end, NULL), 0);
        wait_done(1);
        CHECK_EQ(cr_sleep(10 * CR_MS), 0); /* it waits by now */
        CHECK_EQ(cr_chan_close(chan), 0);
        CHECK_EQ(cr_chan_destroy(chan), 0);
        wait_done(2);
    }
    CHECK_EQ(cr_chan_destroy(other), 0);
}

static void hears_the_end(void *subscriber)
{
    int item;
    CHECK_EQ(cr_broadcast_recv(subscriber, &item), -EPIPE);
}

TEST_CO(a_broadcast_is_not_destroyed_before_all_have_heard_its_end)
{
    struct cr_broadcast *news;
    static struct cr_subscriber subscriber;
    CHECK_EQ(cr_broadcast_create(&news, sizeof(int), 4), 0);
    cr_broadcast_subscribe(news, &subscriber);
    CHECK_EQ(cr_go(hears_the_end, &subscriber), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_broadcast_close(news), 0);
    CHECK_EQ(cr_broadcast_destroy(news), -EBUSY);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_broadcast_destroy(news), 0);
}
