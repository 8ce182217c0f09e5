/* For models of src/sync: each simulated thread is a worker of its own, on which one coroutine runs. What sync calls below itself is here: suspending
 * is model_park, and being made ready, which goes by queues that publish, model_unpark. */
#ifndef MODEL_COROUTINES_H
#define MODEL_COROUTINES_H

#include "explorer.h"

#include "sync/sync.h"

#define COROUTINES 4

static struct cr__sched sched;
static struct cr__worker workers[COROUTINES];
static struct cr__record records[COROUTINES];
static struct cr__self selves[COROUTINES];
static struct cr__co_top tops[COROUTINES]; /* of stacks */
static _Atomic bool timer_armed[COROUTINES];
static int64_t suspended_ns; /* how long each suspension seems to last */

__thread struct cr__self *cr__self_tls __attribute__((tls_model("initial-exec")));
int cr__fpu_reload_blindly;

static void switch_self(int thread)
{
    cr__self_tls = thread < COROUTINES ? &selves[thread] : NULL;
}

/* Adds n coroutines, which all run fn. Threads that are added later are outside of the runtime. */
static void coroutines(int n, void (*fn)(void *arg))
{
    model_on_switch(switch_self);
    suspended_ns = 0;
    for (int i = 0; i < n; i++) {
        workers[i].sched = &sched;
        workers[i].index = (uint16_t)i;
        workers[i].io_budget = 1 << 20; /* never yields */
        records[i].co.mode = CR__MODE(CR__CO_SCHEDULED, 0);
        records[i].co.below = &records[i].co;
        records[i].co.stack.top = (char *)(&tops[i] + 1);
        records[i].word = CR__RUNNING | (uint32_t)i * CR__WORKER;
        records[i].node.prev = &records[i].node;
        selves[i].current = &records[i].co;
        selves[i].worker = &workers[i];
        workers[i].self = &selves[i];
        model_name(&records[i].word, (const char *[]){"word 0", "word 1", "word 2", "word 3"}[i]);
        model_thread(fn, (void *)(intptr_t)i);
    }
}

/* A worker's wheel: fires once the coroutine has suspended. */
static inline void time_out(int thread)
{
    if (atomic_load_explicit(&timer_armed[thread], memory_order_acquire) &&
        cr__park_claim(&records[thread].word, CR__TIMED_OUT, false))
        model_unpark(thread);
}

/* Nobody's stack is shared. */
char *cr__stack_low(struct cr__stack stack)
{
    return stack.top;
}

void *cr__bounce_copy(struct cr__worker *w, const void *buf, size_t size_bytes)
{
    (void)w, (void)buf, (void)size_bytes;
    return NULL;
}

void cr__bounce_back(void *copy, void *buf, size_t size_bytes)
{
    (void)copy, (void)buf, (void)size_bytes;
}

/* No switch, but a park, between the two. */
struct cr__hop cr__wait_leave(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    if (deadline_ns != CR_FOREVER)
        atomic_store_explicit(&timer_armed[w->index], true, memory_order_release);
    model_park();
    w->now_ns += suspended_ns;
    return (struct cr__hop){&me->co, &me->co};
}

int cr__wait_arrive(struct cr__record *me, int64_t deadline_ns)
{
    static const int answers[] = {
        [CR__WOKEN] = 0, [CR__TIMED_OUT] = -ETIMEDOUT, [CR__CANCELLED] = -ECANCELED, [CR__CLOSED] = -EBADF};
    (void)deadline_ns;
    model_assert(cr__park_state(&me->word) > CR__WAITING);
    return answers[cr__park_state(&me->word)];
}

int cr__wait_suspend(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    return cr__wait_suspend_here(w, me, deadline_ns);
}

void cr__ready(struct cr__worker *w, struct cr__record *record)
{
    (void)w;
    model_unpark((int)(record - records));
}

void cr__ready_next(struct cr__worker *w, struct cr__record *record)
{
    cr__ready(w, record);
}

/* Tasks are no part of the models. */
void cr__wait_arm(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    (void)w, (void)me, (void)deadline_ns;
}

void cr__leaf_misused(struct cr_task *task)
{
    (void)task;
    abort();
}

int cr__too_late(const struct cr__worker *w, const struct cr__record *me)
{
    (void)w, (void)me;
    return -ETIMEDOUT;
}

/* The real one, which has a loop, is tested in park_test.c. */
void cr__spin_wait(_Atomic uint8_t *lock)
{
    (void)lock;
    model_spin();
}

int cr_yield(void)
{
    return 0;
}

#endif
