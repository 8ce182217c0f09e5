/* What the coroutines of stress_test.c share, and what each knows of itself. */
#ifndef CR_TEST_STRESS_H
#define CR_TEST_STRESS_H

#include <crore/crore.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "test.h"

#ifdef TEST_SANITIZED
#define STEPS 60000
#else
#define STEPS 300000
#endif
#define FIRST 100            /* coroutines, each of which is followed by another one when it ends */
#define MOST_LIVE 400
#define DEEPEST 3            /* spawns within spawns */
#define STUCK_SECONDS 20
#define CLEAN_UP_NS (100 * CR_SEC)

#define MUTEXES 4
#define RWLOCKS 2
#define PERMITS 3
#define ONCES 4096
#define PARTIES 3
#define CHANS 6
#define SHARED 8             /* handles that anybody may use */
#define CASES 6

/* Counts of items, and a sum that tells them apart. */
struct sum {
    _Atomic uint64_t count, sum;
};

static void sum_add(struct sum *sum, uint64_t item)
{
    atomic_fetch_add(&sum->count, 1);
    atomic_fetch_add(&sum->sum, item);
}

/* A channel that is replaced now and then: the last of its users destroys it. */
struct box {
    struct cr_chan *chan;
    _Atomic int users;
};

/* Freed by nobody but who takes the box out, so a flag is lock enough. */
struct slot {
    atomic_flag lock;
    struct box *box;
};

static struct {
    struct cr_mutex mutex[MUTEXES];
    uint64_t guarded[MUTEXES]; /* plain: a race detector sees when two are inside */
    struct cr_mutex tokens_lock;
    struct cr_cond tokens_come;
    uint64_t tokens, tokens_made, tokens_taken;
    struct cr_rwlock rwlock[RWLOCKS];
    uint64_t left[RWLOCKS], right[RWLOCKS]; /* equal whenever nobody writes */
    struct cr_sem sem;
    _Atomic int inside;
    struct cr_once once[ONCES];
    unsigned once_runs[ONCES];
    struct cr_barrier barrier;
    _Atomic uint64_t last_ones, other_ones;
    struct slot slots[CHANS];
    struct sum sent, received, dropped;
    struct cr_broadcast *broadcast;
    struct cr_mutex broadcast_lock;
    uint64_t broadcast_next;
    struct cr_event event;
    struct cr_co *_Atomic shared[SHARED];
    struct cr_waitgroup all;
    _Atomic int64_t steps_left;
    _Atomic uint64_t steps_done;
    _Atomic int live;
    _Atomic uint64_t begun, ended, remote_asked, remote_ran;
    _Atomic bool over, thread_over;
    struct cr_rt *rt;
    struct cr_listener *listener;
    char url[64];
    int workers;
} g;

/* Who does the steps. Lies on its stack. */
struct self {
    uint64_t random;
    int depth;
    bool bounded; /* in a scope with a deadline: may wait without one of its own */
    bool masked;  /* for a short time: cleaning up could not take longer */
    uint64_t pattern[16];
};

struct child {
    uint64_t seed;
    int depth;
    bool bounded;
    struct cr_waitgroup *group; /* NULL: the child is joined in another way */
    _Atomic int *ended;
    bool on_heap; /* is the child's to free */
};

static uint64_t first_seed;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u; /* splitmix64, Steele, Lea and Flood 2014 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t rnd(struct self *me)
{
    return mix(me->random++);
}

static unsigned below(struct self *me, unsigned n)
{
    return (unsigned)(rnd(me) % n);
}

static bool one_in(struct self *me, unsigned n)
{
    return below(me, n) == 0;
}

static int64_t soon(struct self *me)
{
    static const int64_t longest[] = {1, 20 * CR_US, 200 * CR_US, 3 * CR_MS};
    return cr_after((int64_t)(rnd(me) % (uint64_t)longest[below(me, 4)]));
}

/* Mostly soon; for ever where something else ends the wait. */
static int64_t deadline(struct self *me)
{
    return me->bounded && one_in(me, 3) ? CR_FOREVER : soon(me);
}

static void begin(struct self *me, uint64_t seed, int depth, bool bounded)
{
    *me = (struct self){.random = mix(seed), .depth = depth, .bounded = bounded};
    for (int i = 0; i < 16; i++)
        me->pattern[i] = mix(seed + (uint64_t)i);
    for (int i = 0; i < 16; i++)
        me->pattern[i] ^= (uint64_t)(uintptr_t)me;
    me->pattern[0] = seed;
}

static void check_pattern(const struct self *me)
{
    for (int i = 1; i < 16; i++)
        CHECK(me->pattern[i] == (mix(me->pattern[0] + (uint64_t)i) ^ (uint64_t)(uintptr_t)me));
}

/* What a call that waits may return besides success: that its time is over, which it then is; that it was cancelled, which it then was; or `other`. */
static void check_answer(int64_t r, int64_t deadline_ns, int other)
{
    if (r == -ETIMEDOUT)
        CHECK(deadline_ns <= cr_now());
    else if (r == -ECANCELED)
        CHECK(cr_cancelled());
    else if (r < 0)
        CHECK_EQ(r, other);
}

/* A pause while something is held. */
static void dawdle(struct self *me)
{
    switch (below(me, 4)) {
    case 0: cr_yield(); break;
    case 1: cr_sleep((int64_t)below(me, 100) * CR_US); break;
    default: break;
    }
}

static void mask(int64_t grace_ns)
{
    CHECK_EQ(cr_cancel_mask(grace_ns), 0);
}

static bool may_spawn(const struct self *me)
{
    return me->depth < DEEPEST && atomic_load(&g.live) < MOST_LIVE;
}

/* Room for what a coroutine hands to others: on its own stack, but with shared stacks on the heap. */
static void *lend(void *on_stack, size_t size)
{
    void *room = test_stacks_are("shared") ? malloc(size) : on_stack;
    CHECK(room);
    memset(room, 0, size);
    return room;
}

static void lent_back(void *room, const void *on_stack)
{
    if (room != on_stack)
        free(room);
}

/* So many, or fewer when all are done. */
static void steps(struct self *me, unsigned most);

#endif
