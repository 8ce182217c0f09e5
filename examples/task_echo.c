/* An echo server of tasks: each connection is a frame of 56 bytes and a record of 96, and no stack.
 *     task_echo [URL]        default tcp://127.0.0.1:7000; try it with: nc 127.0.0.1 7000 */
#include <crore/crore.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct session {
    struct cr_task task;
    struct cr_conn *conn;
    struct cr_lent data;
    size_t sent;
};

static int session(struct cr_task *task)
{
    struct session *me = (struct session *)task;
    ssize_t n; /* means nothing after an await but its result */
    CR_TASK_BEGIN(task, session);
    for (;;) {
        CR_AWAIT(n, cr_task_recv_lend(task, me->conn, &me->data, CR_FOREVER));
        if (n <= 0)
            break;
        CR_AWAIT(n, cr_task_write_all(task, me->conn, me->data.bytes, me->data.size_bytes, &me->sent, CR_FOREVER));
        if (n < 0)
            break;
        cr_recv_return(me->conn, &me->data);
    }
    cr_close(me->conn); /* gives back what is still lent */
    return 0;
}

/* Who accepts is one coroutine: it may as well have a stack. */
static void app(void *arg)
{
    const char *url = arg;
    struct cr_listener *l;
    int r = cr_listen(&l, url, NULL);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", url, strerror(-r));
        return;
    }
    struct session frame = {.task = CR_TASK(session)};
    while ((r = cr_accept(l, &frame.conn)) != -ECANCELED) {
        if (r < 0)
            cr_sleep(10 * CR_MS); /* out of files or memory: those who wait stay in the backlog */
        else if (cr_task_go(&frame.task, sizeof(frame)) < 0)
            cr_close(frame.conn);
    }
    cr_listener_close(l);
}

int main(int argc, char **argv)
{
    return cr_run(app, argc > 1 ? argv[1] : "tcp://127.0.0.1:7000", NULL) < 0;
}
