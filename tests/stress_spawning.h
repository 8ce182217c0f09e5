/* Steps of stress_test.c's coroutines: spawning, joining, scopes. */
#ifndef CR_TEST_STRESS_SPAWNING_H
#define CR_TEST_STRESS_SPAWNING_H

#include "stress.h"

static void child_main(void *arg)
{
    struct child *child = arg;
    struct self me;
    atomic_fetch_add(&g.begun, 1);
    begin(&me, child->seed, child->depth, child->bounded);
    steps(&me, 1 + below(&me, 8));
    check_pattern(&me);
    struct cr_waitgroup *group = child->group;
    if (child->ended)
        atomic_fetch_add(child->ended, 1);
    if (child->on_heap)
        free(child);
    atomic_fetch_sub(&g.live, 1);
    atomic_fetch_add(&g.ended, 1);
    if (group)
        CHECK_EQ(cr_waitgroup_done(group), 0);
}

static struct cr_attr any_attr(struct self *me)
{
    return (struct cr_attr){.name = one_in(me, 4) ? "stressed" : NULL,
                            .stack = one_in(me, 4) ? one_in(me, 2) ? CR_STACK_STATIC : CR_STACK_VIRTUAL : CR_STACK_DEFAULT,
                            .flags = one_in(me, 3) ? CR_MIGRATABLE : one_in(me, 8) ? CR_FPU_SHARED : 0,
#ifndef TEST_SANITIZED
                            .stack_size_bytes = one_in(me, 3) ? 24 << 10 : 0,
#endif
    };
}

static void child_spawn(struct self *me, struct cr_co **out, struct child *child)
{
    struct cr_attr attr = any_attr(me);
    atomic_fetch_add(&g.live, 1);
    child->seed = rnd(me);
    child->depth = me->depth + 1;
    if (one_in(me, 3))
        CHECK_EQ(cr_spawn_on(out, below(me, (unsigned)g.workers), child_main, child, &attr), 0);
    else
        CHECK_EQ(cr_spawn(out, child_main, child, &attr), 0);
}

/* The group lies on the stack, and is gone as soon as its waiter has been told. */
static void step_group(struct self *me)
{
    if (!may_spawn(me) || me->masked)
        return;
    struct {
        struct cr_waitgroup group;
        struct child children[4];
    } on_stack, *here = lend(&on_stack, sizeof(on_stack));
    int n = 1 + (int)below(me, 4);
    CHECK_EQ(cr_waitgroup_add(&here->group, n), 0);
    for (int i = 0; i < n; i++) {
        here->children[i].group = &here->group;
        child_spawn(me, NULL, &here->children[i]);
    }
    int64_t until_ns = deadline(me);
    int r = cr_waitgroup_wait_until(&here->group, until_ns);
    check_answer(r, until_ns, 0);
    if (r < 0) {
        mask(CLEAN_UP_NS);
        CHECK_EQ(cr_waitgroup_wait(&here->group), 0);
        CHECK_EQ(cr_cancel_unmask(), 0);
    }
    memset(here, 0xa5, sizeof(*here));
    dawdle(me);
    for (size_t i = 0; i < sizeof(*here); i++)
        CHECK(((unsigned char *)here)[i] == 0xa5);
    lent_back(here, &on_stack);
}

/* Another one takes the handle over, or finds it there. */
static void share(struct self *me, struct cr_co *co)
{
    struct cr_co *before = atomic_exchange(&g.shared[below(me, SHARED)], co);
    if (before)
        CHECK_EQ(cr_detach(before), 0);
}

static void join_anyhow(struct cr_co *co)
{
    mask(CLEAN_UP_NS);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
}

static void step_handle(struct self *me)
{
    if (!may_spawn(me) || me->masked)
        return;
    struct cr_co *co;
    struct child *child = malloc(sizeof(*child));
    CHECK(child);
    *child = (struct child){.on_heap = true};
    child_spawn(me, &co, child);
    dawdle(me);
    if (one_in(me, 2))
        CHECK_EQ(cr_cancel(co), 0);
    if (one_in(me, 4)) {
        share(me, co);
    } else if (one_in(me, 4)) {
        CHECK_EQ(cr_detach(co), 0);
    } else {
        int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
        int r = cr_join_until(co, until_ns);
        check_answer(r, until_ns, 0);
        if (r < 0)
            join_anyhow(co);
    }
}

/* With a handle of somebody's: two that waited for each other's end would wait for ever, so only with a deadline. */
static void step_shared(struct self *me)
{
    struct cr_co *co = atomic_exchange(&g.shared[below(me, SHARED)], NULL);
    if (!co)
        return;
    if (one_in(me, 2))
        CHECK_EQ(cr_cancel(co), 0);
    int64_t until_ns = soon(me);
    int r = one_in(me, 2) ? cr_join_until(co, until_ns) : -ETIMEDOUT;
    if (r == -EDEADLK) { /* it is the caller */
        CHECK_EQ(cr_detach(co), 0);
        return;
    }
    if (r < 0)
        share(me, co);
}

static void step_scope(struct self *me)
{
    if (!may_spawn(me))
        return;
    struct cr_scope *scope;
    struct {
        struct child children[4];
        _Atomic int ended;
    } on_stack, *here = lend(&on_stack, sizeof(on_stack));
    int spawned = 0, wished = (int)below(me, 5);
    bool bounded = !one_in(me, 3), before = me->bounded, cancelled = false;
    int64_t until_ns = bounded ? soon(me) : CR_FOREVER;
    CHECK_EQ(cr_scope_open(&scope, until_ns), 0);
    me->bounded = bounded || before;
    for (int i = 0; i < wished; i++) {
        struct cr_attr attr = any_attr(me);
        here->children[i] = (struct child){.seed = rnd(me), .depth = me->depth + 1, .bounded = me->bounded, .ended = &here->ended};
        atomic_fetch_add(&g.live, 1);
        int r = cr_scope_spawn(scope, child_main, &here->children[i], &attr);
        if (r < 0) {
            atomic_fetch_sub(&g.live, 1);
            CHECK_EQ(r, -ECANCELED);
            CHECK(cr_cancelled() || cancelled);
        } else {
            spawned++;
        }
        if (one_in(me, 16)) {
            CHECK_EQ(cr_scope_cancel(scope), 0);
            cancelled = true;
        }
    }
    me->depth++;
    steps(me, below(me, 4));
    me->depth--;
    me->bounded = before;
    if (one_in(me, 3)) {
        int64_t wait_ns = soon(me);
        check_answer(cr_scope_wait_until(scope, wait_ns), wait_ns, 0);
    }
    if (one_in(me, 4)) {
        CHECK_EQ(cr_scope_cancel(scope), 0);
        cancelled = true;
    }
    int r = cr_scope_close(scope);
    CHECK(r == -ECANCELED || (r == 0 && !cancelled));
    CHECK_EQ(here->ended, spawned);
    lent_back(here, &on_stack);
}

#endif
