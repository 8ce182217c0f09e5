/* For tests of tasks. */
#ifndef TASKS_H
#define TASKS_H

#include <crore/crore.h>

#include "test.h"

static const struct cr_config several = {.workers = 2};

#define GO(frame) CHECK_EQ(cr_task_go(&(frame).task, sizeof(frame)), 0)
#define SPAWN(co, frame) CHECK_EQ(cr_task_spawn(&(co), &(frame).task, sizeof(frame), NULL), 0)

/* Waits for a task; its result. */
static inline int result_of(struct cr_co *co)
{
    int result = -1;
    CHECK_EQ(cr_join_task(co, &result), 0);
    return result;
}

/* One that sleeps twice, and ends with 42. */
struct sleeper {
    struct cr_task task;
    int64_t deadline_ns;
    int i, r;
};

static inline int sleeps(struct cr_task *task)
{
    struct sleeper *me = (struct sleeper *)task;
    CR_TASK_BEGIN(task, sleeps);
    me->deadline_ns = cr_after(2 * CR_MS);
    CR_AWAIT(me->r, cr_task_sleep(task, me->deadline_ns));
    CHECK_EQ(me->r, 0);
    CHECK(cr_now() >= me->deadline_ns);
    CR_AWAIT(me->r, cr_task_sleep(task, 0));
    return me->r == 0 ? 42 : 0;
}

#endif
