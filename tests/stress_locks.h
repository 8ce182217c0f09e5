/* Steps of stress_test.c's coroutines: locks, and other things that are waited for. */
#ifndef CR_TEST_STRESS_LOCKS_H
#define CR_TEST_STRESS_LOCKS_H

#include "stress.h"

static int lock_somehow(struct self *me, struct cr_mutex *m)
{
    int64_t until_ns = soon(me);
    switch (below(me, 3)) {
    case 0: until_ns = CR_FOREVER; break; /* who holds it will give it back */
    case 1: {
        int r = cr_mutex_lock_try(m);
        CHECK(r == 0 || r == -EBUSY);
        return r;
    }
    }
    int r = cr_mutex_lock_until(m, until_ns);
    check_answer(r, until_ns, 0);
    return r;
}

static void add_guarded(struct self *me, int i)
{
    uint64_t before = g.guarded[i];
    dawdle(me);
    CHECK(g.guarded[i] == before);
    g.guarded[i] = before + 1;
}

static void step_mutex(struct self *me)
{
    int i = (int)below(me, MUTEXES), j = (int)below(me, MUTEXES);
    if (lock_somehow(me, &g.mutex[i]) != 0)
        return;
    add_guarded(me, i);
    if (j > i && lock_somehow(me, &g.mutex[j]) == 0) {
        add_guarded(me, j);
        CHECK_EQ(cr_mutex_unlock(&g.mutex[j]), 0);
    }
    CHECK_EQ(cr_mutex_unlock(&g.mutex[i]), 0);
}

static void give_token(struct self *me)
{
    bool inside = one_in(me, 2), all = one_in(me, 4);
    g.tokens++;
    g.tokens_made++;
    if (!inside)
        CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
    if (all)
        cr_cond_broadcast(&g.tokens_come);
    else
        cr_cond_signal(&g.tokens_come);
    if (inside)
        CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
}

static void step_cond(struct self *me)
{
    if (lock_somehow(me, &g.tokens_lock) != 0)
        return;
    if (one_in(me, 2)) {
        give_token(me);
        return;
    }
    int64_t until_ns = deadline(me);
    int r = 0;
    while (g.tokens == 0 && r == 0)
        r = cr_cond_wait_until(&g.tokens_come, &g.tokens_lock, until_ns);
    check_answer(r, until_ns, 0);
    if (g.tokens > 0) {
        g.tokens--;
        g.tokens_taken++;
    }
    CHECK_EQ(cr_mutex_unlock(&g.tokens_lock), 0);
}

static void step_rwlock(struct self *me)
{
    int i = (int)below(me, RWLOCKS);
    bool writes = one_in(me, 3), tries = one_in(me, 4);
    struct cr_rwlock *l = &g.rwlock[i];
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = tries ? (writes ? cr_rwlock_wrlock_try(l) : cr_rwlock_rdlock_try(l))
                  : (writes ? cr_rwlock_wrlock_until(l, until_ns) : cr_rwlock_rdlock_until(l, until_ns));
    if (tries)
        CHECK(r == 0 || r == -EBUSY);
    else
        check_answer(r, until_ns, 0);
    if (r != 0)
        return;
    CHECK(g.left[i] == g.right[i]);
    if (writes)
        g.left[i]++;
    dawdle(me);
    if (writes)
        g.right[i]++;
    CHECK(g.left[i] == g.right[i]);
    CHECK_EQ(cr_rwlock_unlock(l), 0);
}

static void step_sem(struct self *me)
{
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = one_in(me, 4) ? cr_sem_wait_try(&g.sem) : cr_sem_wait_until(&g.sem, until_ns);
    if (r != -EBUSY)
        check_answer(r, until_ns, 0);
    if (r != 0)
        return;
    CHECK(atomic_fetch_add(&g.inside, 1) < PERMITS);
    dawdle(me);
    atomic_fetch_sub(&g.inside, 1);
    CHECK_EQ(cr_sem_post(&g.sem, 1), 0);
}

static void runs_once(void *arg)
{
    unsigned *runs = arg;
    ++*runs;
    cr_yield();
}

static void step_once(struct self *me)
{
    unsigned i = below(me, ONCES);
    int64_t until_ns = soon(me);
    int r = cr_once_until(&g.once[i], runs_once, &g.once_runs[i], until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        CHECK_EQ(g.once_runs[i], 1);
}

static void step_barrier(struct self *me)
{
    int64_t until_ns = deadline(me);
    int r = cr_barrier_wait_until(&g.barrier, PARTIES, until_ns);
    check_answer(r, until_ns, 0);
    if (r == 1)
        atomic_fetch_add(&g.last_ones, 1);
    if (r == 0)
        atomic_fetch_add(&g.other_ones, 1);
}

static void step_event(struct self *me)
{
    if (one_in(me, 4)) {
        CHECK_EQ(cr_event_set(&g.event), 0);
        return;
    }
    int64_t until_ns = deadline(me);
    int r = cr_event_wait_until(&g.event, until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        cr_event_clear(&g.event);
}

#endif
