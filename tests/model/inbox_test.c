/* sched/inbox.h: whatever is sent arrives once, with what was written to it, and who sleeps is kicked. The kick itself, a write to an eventfd, carries
 * nothing here: model_unpark_relaxed. */
#include "explorer.h"

#include "sched/inbox.h"

#define ITEMS 4

struct item {
    struct cr__inbox_link link;
    int payload;  /* plain: before it is sent */
    int arrivals; /* plain: the owner's */
};

static struct cr__inbox inbox;
static struct item items[ITEMS];
static _Atomic bool stopping;
static int wanted, arrived;

static void send(int i, uintptr_t tag)
{
    items[i].payload = i + 1;
    if (cr__inbox_push(&inbox, &items[i].link, tag))
        model_unpark_relaxed(0);
}

static void send_one(void *which)
{
    send((int)(intptr_t)which, (uintptr_t)which & CR__INBOX_TAGS);
}

static void send_two(void *which)
{
    send((int)(intptr_t)which, 0);
    send((int)(intptr_t)which + 1, 1);
}

/* Something else that the worker is to see: whoever rouses it for that has the fence, and so has who goes to sleep. */
static void stop(void *unused)
{
    (void)unused;
    atomic_store_explicit(&stopping, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (cr__inbox_rouse(&inbox))
        model_unpark_relaxed(0);
}

/* All of a chain. */
static void receive(uintptr_t chain)
{
    while (chain) {
        struct item *item = (struct item *)(chain & ~CR__INBOX_TAGS);
        model_assert((chain & CR__INBOX_TAGS) == 0 || (item - items) % 2 == 1);
        model_assert(item->payload == item - items + 1);
        item->arrivals++;
        arrived++;
        chain = item->link.next;
    }
}

/* The worker's loop: takes what is there, sleeps when there is nothing. */
static void work(void *unused)
{
    (void)unused;
    while (arrived < wanted) {
        uintptr_t chain = cr__inbox_take(&inbox);
        receive(chain);
        if (!chain && arrived < wanted && cr__inbox_sleep(&inbox))
            model_park_relaxed();
    }
}

static void work_until_stopped(void *unused)
{
    bool stops = false;
    (void)unused;
    for (;;) {
        receive(cr__inbox_take(&inbox));
        stops = stops || atomic_load_explicit(&stopping, memory_order_relaxed);
        if (stops && arrived == wanted)
            return;
        if (!cr__inbox_sleep(&inbox))
            continue;
        atomic_thread_fence(memory_order_seq_cst);
        if (stops || !atomic_load_explicit(&stopping, memory_order_relaxed))
            model_park_relaxed();
    }
}

/* Whoever sees that it isn't empty may not read what is there, but sees that it is. */
static void look(void *unused)
{
    (void)unused;
    (void)cr__inbox_empty(&inbox);
}

static void each_arrived_once(void)
{
    receive(cr__inbox_take(&inbox));
    model_assert(arrived == wanted);
    for (int i = 0; i < wanted; i++)
        model_assert(items[i].arrivals == 1);
}

static void worker_and_two_senders(void)
{
    wanted = 2;
    model_thread(work, NULL);
    model_thread(send_one, (void *)0);
    model_thread(send_one, (void *)1);
}

TEST(who_sleeps_is_kicked_and_nothing_is_lost)
{
    model_run(worker_and_two_senders, each_arrived_once);
}

static void worker_and_long_sender(void)
{
    wanted = 3;
    model_thread(work, NULL);
    model_thread(send_two, (void *)0);
    model_thread(send_one, (void *)2);
}

TEST(chains_arrive_whole)
{
    model_run(worker_and_long_sender, each_arrived_once);
}

static void worker_stopper_sender(void)
{
    wanted = 1;
    model_thread(work_until_stopped, NULL);
    model_thread(stop, NULL);
    model_thread(send_one, (void *)0);
    model_thread(look, NULL);
}

TEST(a_sender_and_who_rouses_may_come_at_once)
{
    model_run(worker_stopper_sender, each_arrived_once);
}
