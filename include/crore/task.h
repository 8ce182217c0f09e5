/* Tasks: coroutines without a stack. What a task keeps while it waits is a frame, a struct that the user declares: a parked one costs 96 bytes and that (16 of which are struct cr_task, so 112 and its locals).
 *
 *     struct echo {
 *         struct cr_task task;      // first
 *         struct cr_conn *conn;
 *         struct cr_lent data;
 *         size_t sent;
 *         ssize_t n;
 *     };
 *
 *     static int echo(struct cr_task *task)
 *     {
 *         struct echo *me = (struct echo *)task;
 *         CR_TASK_BEGIN(task, echo);
 *         for (;;) {
 *             CR_AWAIT(me->n, cr_task_recv_lend(task, me->conn, &me->data, CR_FOREVER));
 *             if (me->n <= 0)
 *                 break;
 *             CR_AWAIT(me->n, cr_task_write_all(task, me->conn, me->data.bytes, me->data.size_bytes, &me->sent, CR_FOREVER));
 *             if (me->n < 0)
 *                 break;
 *             cr_recv_return(me->conn, &me->data);
 *         }
 *         cr_close(me->conn);
 *         return 0;
 *     }
 *     ...
 *     struct echo frame = {.task = CR_TASK(echo), .conn = conn};
 *     if (cr_task_go(&frame.task, sizeof(frame)) < 0)     copies the frame
 *         cr_close(conn);
 *
 * The protocol. `at` says where a task is: at->next(task) goes on from there, until the task awaits something (then it returns CR_WAITS, and whoever runs it calls
 * at->next again when that has come) or has ended (then it returns anything else: the result, and nobody calls at->next again: the runtime notices
 * who does so to a task that it ran, but to one that is driven by hand it is just another call). That is all; a function with a state variable in its frame does it as well as
 * the macros. What it may wait for are leaves, the calls below whose first parameter is `task`: a leaf answers CR_WAITS, which the function returns at
 * once; when it is resumed it calls the same leaf again, with the same arguments, and gets the result. A leaf that need not wait answers at once. Such a call is for the task
 * that runs, in its own function: elsewhere it ends the program with a message that names function, file and line.
 *
 * What must live across an await is in the frame: local variables begin anew at each resume. Arguments of the call in a CR_AWAIT are evaluated again when it is resumed, so a
 * deadline that is made there (cr_after) begins anew with that: keep one in the frame where it matters.
 *
 * Tasks and coroutines are the same to the scheduler: they wait in the same queues, lock the same locks, and end in the same scopes; a handle is a struct cr_co, for cr_join, cr_detach,
 * cr_cancel, cr_name_set. A task runs on its worker's own stack. What suspends a coroutine is no call for a task: it returns -EPERM there, as it does outside of
 * coroutines. What does not suspend works: spawning, unlocking, signalling, posting, closing, setting, cancelling, local storage, names, the _try forms of
 * crore/sync.h and crore/chan.h. A task may resume bare coroutines (crore/co.h), which may not await. For what has no leaf there is cr_task_run.
 *
 * All leaves return, besides what is named, what the stackful call of that name does: -ETIMEDOUT when the deadline has passed (CR_FOREVER: none; one in the past: a
 * try), -ECANCELED; after both nothing was consumed. Every now and then one lets others run first.
 *
 * The macros are for C (gcc and clang: they use labels as values), since C++ does not let a goto pass what it must construct.
 *
 * Source: the idea of a function that is called again to go on is Duff's ("Coroutines in C", Tatham, 2000; protothreads, Dunkels, 2006); labels instead of `switch` leave that
 * to the user. */
#ifndef CRORE_TASK_H
#define CRORE_TASK_H

#include <limits.h>

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is awaited is declared in crore/sync.h, chan.h, scope.h, outside.h and conn.h. */
struct cr_chan;
struct cr_case;
struct cr_subscriber;
struct cr_mutex;
struct cr_cond;
struct cr_rwlock;
struct cr_sem;
struct cr_waitgroup;
struct cr_once;
struct cr_barrier;
struct cr_event;
struct cr_scope;
struct cr_conn;
struct cr_listener;
struct cr_lent;
struct cr_addr;
struct iovec;

struct cr_task;

/* A place in a task's function: where it begins, or awaits. Static. */
struct cr_point {
    int (*next)(struct cr_task *task);
    const char *function, *file; /* for messages and backtraces */
    int line;
    void *label; /* the macros': where next goes on; NULL: at the beginning */
};

/* What each frame begins with. */
struct cr_task {
    const struct cr_point *at;
    struct cr_task *caller; /* the runtime's; NULL in a frame that has not begun */
};

/* What `next` and leaves return instead of a result. */
#define CR_WAITS INT_MIN

/* A frame's beginning: a task that will run `fn`. An expression, inside of functions. */
#define CR_TASK(fn)                                                                                                    \
    (__extension__({                                                                                                   \
        static const struct cr_point cr__point = {fn, #fn, __FILE__, __LINE__, NULL};                                  \
        (struct cr_task){&cr__point, NULL};                                                                            \
    }))

/* Goes on where `task` is. First in `fn`, behind the declarations of what is not kept. */
#define CR_TASK_BEGIN(task, fn)                                                                                        \
    struct cr_task *const cr__task = (task);                                                                           \
    static int (*const cr__next)(struct cr_task *) __attribute__((unused)) = fn;                                       \
    static void *const cr__first __attribute__((unused)) = &&cr__begin; /* clang wants one, if nothing is awaited */   \
    if (cr__task->at->label)                                                                                           \
        goto *cr__task->at->label;                                                                                     \
    cr__begin:

/* Awaits: result = call, when that has one. A statement; may stand in loops, in a `switch`, more than once in a line. `return value;` ends the task, from anywhere. */
#define CR_AWAIT(result, call)                                                                                         \
    do {                                                                                                               \
        __label__ cr__here;                                                                                            \
        static const struct cr_point cr__point = {cr__next, __func__, __FILE__, __LINE__, &&cr__here};                 \
        cr__task->at = &cr__point;                                                                                     \
    cr__here:;                                                                                                         \
        __typeof__(call) cr__result = (call);                                                                          \
        if (cr__result == CR_WAITS)                                                                                    \
            return CR_WAITS;                                                                                           \
        (result) = cr__result;                                                                                         \
    } while (0)

/* ---- Spawning and ending ------------------------------------------------------------------------------------ */

/* Spawns a task with a copy of a frame, that takes up to 64 KiB: what is larger belongs elsewhere. It costs one object of a slab. As cr_go and cr_spawn: it starts later, in its turn,
 * on whichever worker is free first, and stays there (but see CR_MIGRATABLE).
 *   frame:      its first member; made with CR_TASK, or by hand, with `caller` NULL; one that runs, or has ended, is refused (-EINVAL). A member that points into the frame would point into the caller's
 *   size_bytes: of the whole frame. What wants to be aligned to 16 bytes is
 *   attr:       NULL for defaults; what it says of stacks and control words means nothing here
 * Returns 0, -EPERM, -EINVAL, -ENOMEM; on an error nothing was spawned. Does not suspend; from coroutines and tasks. */
CR_API CR_CHECKED int cr_task_go(const struct cr_task *frame, size_t size_bytes);
CR_API CR_CHECKED int cr_task_spawn(struct cr_co **out, const struct cr_task *frame, size_t size_bytes, const struct cr_attr *attr);
CR_API CR_CHECKED int cr_task_spawn_on(struct cr_co **out, unsigned worker, const struct cr_task *frame, size_t size_bytes,
                                       const struct cr_attr *attr);

/* The same into a scope, as cr_scope_spawn. */
CR_API CR_CHECKED int cr_scope_spawn_task(struct cr_scope *scope, const struct cr_task *frame, size_t size_bytes, const struct cr_attr *attr);

/* For coroutines: as cr_join, with what the task has returned (of a coroutine: 0) in *result, if result is not NULL. */
CR_API CR_CHECKED int cr_join_task(struct cr_co *co, int *result);
CR_API CR_CHECKED int cr_join_task_until(struct cr_co *co, int *result, int64_t deadline_ns);

/* Writes to fd where the running task is: a line for each frame, the innermost first. (Of those that wait, cr_dump tells.) Returns 0, -EPERM outside of
 * a task, -EPIPE. */
CR_API int cr_task_backtrace(int fd);

/* ---- Leaves: other tasks and coroutines --------------------------------------------------------------------- */

/* Calls another task, and has its result. Its frame stays the caller's, and where it is, until then: mostly a member of the caller's frame. Once it has ended, it must
 * be made anew (CR_TASK) to be called again. A frame that has been called already, or does not say what it runs, ends the program with a message. */
CR_API CR_CHECKED int cr_task_call(struct cr_task *task, struct cr_task *callee);

/* Waits for the end of a coroutine or task, as cr_join_task. */
CR_API CR_CHECKED int cr_task_join(struct cr_task *task, struct cr_co *co, int *result, int64_t deadline_ns);

/* Runs fn(arg) on a coroutine of its own: for all that has no leaf (dialling, files, names, cr_blocking, signals). What it finds out it writes to *arg, which may lie in the frame: so
 * the call returns when fn has, whatever comes; at the deadline, and when the task is cancelled, that coroutine is cancelled.
 * Returns 0 (fn has run); -ETIMEDOUT, -ECANCELED, -EINVAL, -ENOMEM: it has not. */
CR_API CR_CHECKED int cr_task_run(struct cr_task *task, void (*fn)(void *arg), void *arg, int64_t deadline_ns);

/* Waits until a point in time: 0, -ECANCELED; lets the other ready ones run once: 0. */
CR_API CR_CHECKED int cr_task_sleep(struct cr_task *task, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_yield(struct cr_task *task);

/* ---- Leaves: what is shared --------------------------------------------------------------------------------- */

/* As the calls without _task in crore/sync.h, crore/chan.h, crore/scope.h and crore/outside.h. What is received is written to where `item` points while the task waits: into the frame,
 * or what else stays where it is. So are a select's cases. */
CR_API CR_CHECKED int cr_task_chan_send(struct cr_task *task, struct cr_chan *chan, const void *item, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_chan_recv(struct cr_task *task, struct cr_chan *chan, void *item, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_select(struct cr_task *task, struct cr_case *cases, int count, int64_t deadline_ns);
CR_API CR_CHECKED int64_t cr_task_broadcast_recv(struct cr_task *task, struct cr_subscriber *subscriber, void *item, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_mutex_lock(struct cr_task *task, struct cr_mutex *mutex, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_cond_wait(struct cr_task *task, struct cr_cond *cond, struct cr_mutex *mutex, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_rwlock_rdlock(struct cr_task *task, struct cr_rwlock *lock, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_rwlock_wrlock(struct cr_task *task, struct cr_rwlock *lock, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_sem_wait(struct cr_task *task, struct cr_sem *sem, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_waitgroup_wait(struct cr_task *task, struct cr_waitgroup *group, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_once(struct cr_task *task, struct cr_once *once, void (*fn)(void *arg), void *arg, int64_t deadline_ns); /* fn does not suspend */
CR_API CR_CHECKED int cr_task_barrier_wait(struct cr_task *task, struct cr_barrier *barrier, unsigned parties, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_event_wait(struct cr_task *task, struct cr_event *event, int64_t deadline_ns);

/* A scope is opened, spawned into and cancelled as by a coroutine, and left with this. */
CR_API CR_CHECKED int cr_task_scope_wait(struct cr_task *task, struct cr_scope *scope, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_scope_close(struct cr_task *task, struct cr_scope *scope);

/* ---- Leaves: connections ------------------------------------------------------------------------------------ */

/* As the calls without _task in crore/conn.h. Files (cr_file_open, and what else the kernel can't poll): -EOPNOTSUPP, since a disk is waited for elsewhere: cr_task_run. */
CR_API CR_CHECKED ssize_t cr_task_read(struct cr_task *task, struct cr_conn *conn, void *buf, size_t size_bytes, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_readv(struct cr_task *task, struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_write(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_writev(struct cr_task *task, struct cr_conn *conn, const struct iovec *iov, int iov_count, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_recv_lend(struct cr_task *task, struct cr_conn *conn, struct cr_lent *lent, int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_recv_from(struct cr_task *task, struct cr_conn *conn, void *buf, size_t size_bytes, struct cr_addr *from,
                                            int64_t deadline_ns);
CR_API CR_CHECKED ssize_t cr_task_send_to(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes,
                                          const struct cr_addr *to, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_wait_readable(struct cr_task *task, struct cr_conn *conn, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_wait_writable(struct cr_task *task, struct cr_conn *conn, int64_t deadline_ns);
CR_API CR_CHECKED int cr_task_accept(struct cr_task *task, struct cr_listener *l, struct cr_conn **out, int64_t deadline_ns);

/* sent: in the frame, 0 to begin with: how far it has come. 0 again when it has returned. */
CR_API CR_CHECKED ssize_t cr_task_write_all(struct cr_task *task, struct cr_conn *conn, const void *buf, size_t size_bytes, size_t *sent,
                                            int64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
