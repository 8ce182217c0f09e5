/* sync/chan.c: what is sent arrives once, whole, or not at all; nobody waits for ever. Values are structs of two words, plain. */
#include "coroutines.h"

#include "sync/chan.h"

struct value {
    int64_t number, twice;
};

static struct cr_chan *chan;
static int received[8];      /* by number; plain: by who has received it */
static _Atomic int sent, refused;
static int wanted;

/* ---- What chan.c calls besides ------------------------------------------------------------------------------ */

void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind)
{
    (void)kind;
    return calloc(1, size_bytes);
}

void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind)
{
    (void)size_bytes, (void)kind;
    free(object);
}

int cr__sched_tell(struct cr__sched *s, struct cr__post *post)
{
    (void)s, (void)post;
    return -ESHUTDOWN;
}

struct cr__co_cold *cr__co_cold_make(void)
{
    return NULL;
}

int cr__spawn_with(struct cr__worker *worker, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where)
{
    (void)worker, (void)placed, (void)out, (void)fn, (void)arg, (void)attr, (void)cold, (void)where;
    return -ENOMEM;
}

static void make(size_t capacity)
{
    model_assert(cr_chan_create(&chan, sizeof(struct value), capacity) == 0);
    model_name(&chan->spin, "the channel's lock");
}

/* ---- Coroutines --------------------------------------------------------------------------------------------- */

static int send(int64_t number, int64_t deadline_ns)
{
    const struct value value = {number, 2 * number};
    int r = cr_chan_send_until(chan, &value, deadline_ns);
    atomic_fetch_add_explicit(r == 0 ? &sent : &refused, 1, memory_order_relaxed);
    return r;
}

static int receive(void)
{
    struct value value;
    int r = cr_chan_recv(chan, &value);
    model_assert(r == 0 || r == -EPIPE);
    if (r == 0) {
        model_assert(value.twice == 2 * value.number);
        model_assert(received[value.number]++ == 0);
    } else {
        model_assert(value.number == 0);
    }
    return r;
}

/* 0 receives what the others send. */
static void all_to_one(void *which)
{
    int me = (int)(intptr_t)which;
    if (me > 0)
        model_assert(send(me, CR_FOREVER) == 0);
    for (int i = 0; me == 0 && i < wanted; i++)
        model_assert(receive() == 0);
}

/* 1 sends all, the others receive one each. */
static void one_to_all(void *which)
{
    int me = (int)(intptr_t)which;
    if (me != 1)
        model_assert(receive() == 0);
    for (int i = 0; me == 1 && i < wanted; i++)
        model_assert(send(i + 1, CR_FOREVER) == 0);
}

static void all_received(void)
{
    for (int i = 1; i <= wanted; i++)
        model_assert(received[i] == 1);
    model_assert(cr_chan_length(chan) == 0);
    model_assert(cr_chan_destroy(chan) == 0);
}

/* ---- Sending and receiving ---------------------------------------------------------------------------------- */

static void two_unbuffered(void)
{
    make(0);
    wanted = 1;
    coroutines(2, all_to_one);
}

TEST(a_value_goes_from_variable_to_variable)
{
    model_run(two_unbuffered, all_received);
}

static void senders_unbuffered(void)
{
    make(0);
    wanted = 2;
    coroutines(3, all_to_one);
}

TEST(two_senders_both_get_rid_of_theirs)
{
    model_run(senders_unbuffered, all_received);
}

static void senders_buffered(void)
{
    make(1);
    wanted = 2;
    coroutines(3, all_to_one);
}

TEST(also_by_way_of_the_ring)
{
    model_run(senders_buffered, all_received);
}

static void three_senders(void)
{
    make(1);
    wanted = 3;
    coroutines(4, all_to_one);
}

TEST(three_senders_and_one_place)
{
    model_run(three_senders, all_received);
}

static void receivers_buffered(void)
{
    make(1);
    wanted = 2;
    coroutines(3, one_to_all);
}

TEST(two_receivers_get_one_each)
{
    model_run(receivers_buffered, all_received);
}

/* ---- Closing, giving up ------------------------------------------------------------------------------------- */

/* 0 receives until the end, 1 sends, 2 closes. */
static void until_closed(void *which)
{
    if (which == (void *)0) {
        while (receive() == 0)
            ;
    } else if (which == (void *)1) {
        int r = send(1, CR_FOREVER);
        model_assert(r == 0 || r == -EPIPE);
    } else {
        model_assert(cr_chan_close(chan) == 0);
    }
}

static void three_and_the_end(void)
{
    make(0);
    coroutines(3, until_closed);
}

static void three_and_the_end_buffered(void)
{
    make(1);
    coroutines(3, until_closed);
}

static void sent_is_received(void)
{
    model_assert(received[1] == sent && sent + refused == 1);
}

TEST(closing_ends_it_for_both_and_loses_nothing_that_was_sent)
{
    model_run(three_and_the_end, sent_is_received);
}

TEST(also_with_a_ring)
{
    model_run(three_and_the_end_buffered, sent_is_received);
}

static void receive_or_give_up(void *which)
{
    if (which) {
        for (int r = receive(); r == 0; r = receive())
            ;
        return;
    }
    int r = send(1, 1 * CR_SEC);
    model_assert(r == 0 || r == -ETIMEDOUT);
    model_assert(cr_chan_close(chan) == 0);
}

static void sender_times_out(void *unused)
{
    (void)unused;
    time_out(0);
}

static void impatient_sender(void)
{
    make(0);
    coroutines(2, receive_or_give_up);
    model_thread(sender_times_out, NULL);
}

TEST(a_send_that_timed_out_was_not_received)
{
    model_run(impatient_sender, sent_is_received);
}
