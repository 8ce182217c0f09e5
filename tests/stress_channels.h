/* Steps of stress_test.c's coroutines: channels, select, broadcasts. */
#ifndef CR_TEST_STRESS_CHANNELS_H
#define CR_TEST_STRESS_CHANNELS_H

#include "stress.h"

static void lock_slot(struct slot *slot)
{
    while (atomic_flag_test_and_set_explicit(&slot->lock, memory_order_acquire))
        sched_yield();
}

static void unlock_slot(struct slot *slot)
{
    atomic_flag_clear_explicit(&slot->lock, memory_order_release);
}

static struct box *box_new(uint64_t random)
{
    static const size_t capacities[] = {0, 0, 1, 2, 16};
    struct box *box = malloc(sizeof(*box));
    CHECK(box);
    CHECK_EQ(cr_chan_create(&box->chan, sizeof(uint64_t), capacities[random % 5]), 0);
    atomic_init(&box->users, 1);
    return box;
}

static struct box *box_get(struct slot *slot)
{
    lock_slot(slot);
    struct box *box = slot->box;
    atomic_fetch_add(&box->users, 1);
    unlock_slot(slot);
    return box;
}

/* The last one counts what nobody has received. On a worker. */
static void box_put(struct box *box)
{
    uint64_t item;
    if (atomic_fetch_sub(&box->users, 1) > 1)
        return;
    while (cr_chan_recv_try(box->chan, &item) == 0)
        sum_add(&g.dropped, item);
    CHECK_EQ(cr_chan_destroy(box->chan), 0);
    free(box);
}

static void count_transfer(enum cr_case_op op, int64_t r, uint64_t item)
{
    if (r == 0)
        sum_add(op == CR_SEND ? &g.sent : &g.received, item);
    else if (r == -EPIPE && op == CR_RECV)
        CHECK(item == 0);
}

static void step_chan(struct self *me)
{
    struct box *box = box_get(&g.slots[below(me, CHANS)]);
    uint64_t item = rnd(me), before = item;
    int64_t until_ns = deadline(me);
    enum cr_case_op op = one_in(me, 2) ? CR_SEND : CR_RECV;
    bool tries = one_in(me, 4);
    int r;
    if (tries)
        r = op == CR_SEND ? cr_chan_send_try(box->chan, &item) : cr_chan_recv_try(box->chan, &item);
    else
        r = op == CR_SEND ? cr_chan_send_until(box->chan, &item, until_ns) : cr_chan_recv_until(box->chan, &item, until_ns);
    if (r != -EPIPE && !(tries && r == -EAGAIN))
        check_answer(r, until_ns, 0);
    if (op == CR_SEND || (r < 0 && r != -EPIPE))
        CHECK(item == before); /* nothing was taken */
    count_transfer(op, r, item);
    box_put(box);
}

static void step_select(struct self *me)
{
    struct cr_case cases[CASES];
    struct box *boxes[CASES];
    uint64_t items[CASES], before[CASES];
    int count = 1 + (int)below(me, CASES);
    for (int i = 0; i < count; i++) {
        boxes[i] = i > 0 && one_in(me, 8) ? NULL : box_get(&g.slots[below(me, CHANS)]);
        items[i] = before[i] = rnd(me);
        cases[i] = (struct cr_case){one_in(me, 2) ? CR_SEND : CR_RECV, boxes[i] ? boxes[i]->chan : NULL, &items[i], 1};
    }
    int64_t until_ns = deadline(me);
    bool tries = one_in(me, 6);
    int r = tries ? cr_select_try(cases, count) : cr_select_until(cases, count, until_ns);
    CHECK(r < count);
    if (!(tries && r == -EAGAIN))
        check_answer(r, until_ns, 0);
    if (r >= 0) {
        CHECK(cases[r].chan && (cases[r].result == 0 || cases[r].result == -EPIPE));
        count_transfer(cases[r].op, cases[r].result, items[r]);
    }
    for (int i = 0; i < count; i++) {
        CHECK(items[i] == before[i] || (i == r && cases[i].op == CR_RECV));
        if (boxes[i])
            box_put(boxes[i]);
    }
}

static void step_replace(struct self *me)
{
    struct slot *slot = &g.slots[below(me, CHANS)];
    struct box *new = box_new(rnd(me));
    lock_slot(slot);
    struct box *old = slot->box;
    slot->box = new;
    unlock_slot(slot);
    CHECK_EQ(cr_chan_close(old->chan), 0);
    box_put(old);
}

static void step_broadcast(struct self *me)
{
    if (one_in(me, 3)) {
        if (cr_mutex_lock(&g.broadcast_lock) != 0)
            return;
        for (unsigned i = below(me, 6); i > 0; i--) {
            uint64_t number = g.broadcast_next++;
            CHECK_EQ(cr_broadcast_send(g.broadcast, &number), 0);
        }
        CHECK_EQ(cr_mutex_unlock(&g.broadcast_lock), 0);
        return;
    }
    struct cr_subscriber s;
    cr_broadcast_subscribe(g.broadcast, &s);
    uint64_t next = s.next, got = 0;
    int64_t r = 0, until_ns = deadline(me);
    for (unsigned i = below(me, 6); i > 0 && r >= 0; i--) {
        r = cr_broadcast_recv_until(&s, &got, until_ns);
        check_answer(r, until_ns, 0);
        if (r == 0)
            CHECK(got == next);
        next += r == 0 ? 1 : r > 0 ? (uint64_t)r : 0;
    }
}

#endif
