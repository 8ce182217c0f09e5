/* Scopes, cancellation, masks, on one worker and on several. */
#include <crore/crore.h>
#include <stdatomic.h>

#include "test.h"

static const struct cr_config several = {.workers = 4};

static _Atomic long done, cancelled;

static void works(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10; i++)
        cr_yield();
    done++;
}

static void sleeps(void *unused)
{
    (void)unused;
    int r = cr_sleep(100 * CR_SEC);
    CHECK_EQ(r, -ECANCELED);
    CHECK_EQ(cr_sleep(CR_SEC), -ECANCELED); /* and again */
    CHECK(cr_cancelled());
    cancelled++;
}

TEST_BOTH(leaving_a_scope_joins_what_is_in_it)
{
    for (int round = 1; round <= 20; round++) {
        struct cr_scope *scope;
        CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
        for (int i = 0; i < 20; i++)
            CHECK_EQ(cr_scope_go(scope, works, NULL), 0);
        if (round % 2)
            CHECK_EQ(cr_scope_wait(scope), 0);
        CHECK_EQ(cr_scope_close(scope), 0);
        CHECK_EQ(done, round * 20);
    }
}

static void has_a_name_and_a_large_stack(void *unused)
{
    char name[32], large[100 * 1024];
    (void)unused;
    memset(large, 1, sizeof(large));
    __asm__ volatile("" ::"r"(large) : "memory");
    CHECK(strcmp(cr_name_get(cr_co_current(), name, sizeof(name)), "member") == 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    done++;
}

TEST_BOTH(a_scope_spawns_with_attributes)
{
    struct cr_scope *scope;
    const struct cr_attr attr = {.name = "member", .stack_size_bytes = 256 * 1024}, wrong = {.flags = 1u << 31};
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_scope_spawn(scope, has_a_name_and_a_large_stack, NULL, &attr), 0);
    CHECK_EQ(cr_scope_spawn(scope, works, NULL, NULL), 0); /* as cr_scope_go */
    CHECK_EQ(cr_scope_spawn(scope, works, NULL, &wrong), -EINVAL);
    CHECK_EQ(cr_scope_close(scope), 0);
    CHECK_EQ(done, 21);
}

TEST_BOTH(cancelling_a_scope_ends_each_wait_in_it)
{
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_scope_go(scope, sleeps, NULL), 0);
    CHECK_EQ(cr_scope_wait_until(scope, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_scope_cancel(scope), 0);
    CHECK_EQ(cr_sleep(CR_MS), -ECANCELED); /* its owner's, too */
    CHECK_EQ(cr_scope_go(scope, works, NULL), -ECANCELED);
    CHECK_EQ(cr_scope_close(scope), -ECANCELED);
    CHECK_EQ(cancelled, 20);
    CHECK_EQ(cr_sleep(CR_US), 0); /* no longer */
}

static _Atomic int nested;

static void nests(void *unused)
{
    (void)unused;
    struct cr_scope *inner;
    CHECK_EQ(cr_scope_open(&inner, CR_FOREVER), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_scope_go(inner, sleeps, NULL), 0);
    nested++;
    CHECK_EQ(cr_scope_close(inner), -ECANCELED);
    done++;
}

TEST_BOTH(cancellation_reaches_nested_scopes)
{
    struct cr_scope *outer;
    CHECK_EQ(cr_scope_open(&outer, CR_FOREVER), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_scope_go(outer, nests, NULL), 0);
    while (nested < 5)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_scope_cancel(outer), 0);
    CHECK_EQ(cr_scope_close(outer), -ECANCELED);
    CHECK_EQ(done, 5);
    CHECK_EQ(cancelled, 25);
}

TEST_BOTH(a_deadline_bounds_the_scope_and_those_inside)
{
    struct cr_scope *outer, *inner;
    int64_t begin = cr_now();
    CHECK_EQ(cr_scope_open(&outer, cr_after(100 * CR_MS)), 0);
    CHECK_EQ(cr_scope_open(&inner, cr_after(100 * CR_SEC)), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_scope_go(inner, sleeps, NULL), 0);
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED);
    CHECK_EQ(cr_scope_close(inner), -ECANCELED);
    CHECK_EQ(cr_scope_close(outer), -ECANCELED);
    CHECK(cr_now() - begin >= 100 * CR_MS);
    CHECK(cr_now() - begin < 50 * CR_SEC);
    CHECK_EQ(cancelled, 5);
    CHECK_EQ(cr_sleep(CR_US), 0);
}

TEST_BOTH(an_earlier_deadline_of_a_call_is_a_timeout)
{
    struct cr_scope *scope;
    struct cr_chan *chan;
    int item;
    CHECK_EQ(cr_chan_create(&chan, sizeof(item), 0), 0);
    CHECK_EQ(cr_scope_open(&scope, cr_after(100 * CR_SEC)), 0);
    CHECK_EQ(cr_chan_recv_until(chan, &item, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_sleep(CR_US), 0);
    CHECK_EQ(cr_scope_close(scope), 0);
    CHECK_EQ(cr_chan_destroy(chan), 0);
}

static struct cr_scope *foreign;

static void misuses(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_scope_close(foreign), -EPERM);
    CHECK_EQ(cr_scope_wait(foreign), -EPERM);
    CHECK_EQ(cr_scope_go(foreign, works, NULL), 0); /* any coroutine in it may */
    done++;
}

TEST_BOTH(only_its_owner_leaves_a_scope_and_in_order)
{
    struct cr_scope *inner;
    CHECK_EQ(cr_scope_open(&foreign, CR_FOREVER), 0);
    CHECK_EQ(cr_scope_go(foreign, misuses, NULL), 0);
    CHECK_EQ(cr_scope_wait(foreign), 0);
    CHECK_EQ(done, 2);
    CHECK_EQ(cr_scope_open(&inner, CR_FOREVER), 0);
    CHECK_EQ(cr_scope_close(foreign), -EBUSY);
    CHECK_EQ(cr_scope_close(inner), 0);
    CHECK_EQ(cr_scope_close(foreign), 0);
    CHECK_EQ(cr_cancel_unmask(), -EPERM);
}

static void cleans_up(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED);
    CHECK_EQ(cr_cancel_mask(5 * CR_MS), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel_mask(100 * CR_SEC), 0); /* the outermost counts */
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED); /* the grace is over */
    CHECK_EQ(cr_cancel_unmask(), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
    CHECK_EQ(cr_sleep(CR_MS), -ECANCELED);
    done++;
}

TEST_BOTH(clean_up_is_masked_for_a_bounded_time)
{
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_scope_go(scope, cleans_up, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_scope_cancel(scope), 0);
    CHECK_EQ(cr_scope_close(scope), -ECANCELED);
    CHECK_EQ(done, 8);
}

static void owner_is_cancelled(void *unused)
{
    (void)unused;
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cr_scope_go(scope, sleeps, NULL), 0);
    CHECK_EQ(cr_scope_close(scope), -ECANCELED);
    done++;
}

TEST_BOTH(an_owner_that_is_cancelled_passes_it_on)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, owner_is_cancelled, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cancelled, 4);
}

static void forgets_its_scope(void *unused)
{
    (void)unused;
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    (void)!cr_name_set(cr_co_current(), "forgetful");
}

static void run_forgetful(void)
{
    CHECK_EQ(cr_run(forgets_its_scope, NULL, NULL), 0);
}

TEST(who_ends_with_an_open_scope_is_named)
{
    char text[1024];
    int status = test_capture(run_forgetful, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "coroutine 1 forgetful has ended without closing the scope"));
}

static void spawns_random_tree(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, depth % 2 ? cr_after(3 * CR_MS) : CR_FOREVER), 0);
    for (int i = 0; depth > 0 && i < 3; i++) {
        int r = cr_scope_go(scope, spawns_random_tree, (void *)(depth - 1));
        CHECK(r == 0 || r == -ECANCELED);
    }
    (void)!cr_sleep((depth + 1) * 100 * CR_US);
    if (depth == 2)
        (void)!cr_scope_cancel(scope);
    int r = cr_scope_close(scope);
    CHECK(r == 0 || r == -ECANCELED);
    done++;
}

TEST_BOTH(trees_of_scopes_come_and_go)
{
    for (int i = 0; i < 20; i++)
        spawns_random_tree((void *)(intptr_t)4);
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK_EQ(stats.spawned - stats.ended, 1);
}

TEST_CO(a_scope_that_is_closed_under_a_mask_bounds_nothing_any_more)
{
    struct cr_scope *scope;
    CHECK_EQ(cr_scope_open(&scope, cr_after(CR_MS)), 0);
    CHECK_EQ(cr_cancel_mask(10 * CR_SEC), 0);
    (void)cr_scope_close(scope);
    CHECK_EQ(cr_sleep(2 * CR_MS), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);

    CHECK_EQ(cr_cancel_mask(10 * CR_SEC), 0);
    CHECK_EQ(cr_scope_open(&scope, cr_after(CR_MS)), 0);
    CHECK_EQ(cr_sleep(2 * CR_MS), -ECANCELED);
    CHECK_EQ(cr_scope_close(scope), -ECANCELED);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel_unmask(), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
}
