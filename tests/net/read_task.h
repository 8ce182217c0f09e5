/* A task that reads once from a connection, and ends with what that has returned. */
#ifndef READ_TASK_H
#define READ_TASK_H

#include "networks.h"

struct read_task {
    struct cr_task task;
    struct cr_conn *conn;
    int64_t deadline_ns;
    ssize_t n;
    char buf[16];
};

static inline int reads_as_task(struct cr_task *task)
{
    struct read_task *me = (struct read_task *)task;
    CR_TASK_BEGIN(task, reads_as_task);
    CR_AWAIT(me->n, cr_task_read(task, me->conn, me->buf, sizeof(me->buf), me->deadline_ns));
    return (int)me->n;
}

#endif
