/* Readiness of file descriptors, by epoll: edge triggered, one registration for an fd's life.
 *
 * A pollable lies inside its connection. `ready` remembers the edges: a bit is set by an event and cleared by who found out
 * that the kernel has nothing more (-EAGAIN, or a short receive). So the common call makes no system call but the one that moves data.
 *
 * Invariants:
 *   1. At most one coroutine waits per direction; waiter[d] points to it from before it suspends until it is woken.
 *   2. A waiter whose wait_object is NULL after waking finds the pollable gone, and touches it no more.
 *   3. An event carries the address and the generation: one that was already fetched when its fd was closed is told by
 *      the generation, and dropped. */
#ifndef CR__POLL_H
#define CR__POLL_H

#include "sched/sched.h"

enum cr__direction { CR__IN = 0, CR__OUT = 1 };

enum cr__ready {
    CR__READY_IN = 1u << 0,
    CR__READY_OUT = 1u << 1,
    CR__READY_END = 1u << 2, /* end, error or urgent data seen: a short receive does not mean that there is no more */
};

struct cr__pollable {
    int fd;
    uint16_t generation;
    uint8_t ready;    /* of enum cr__ready */
    bool watched;     /* registered with epoll; false: the kernel can't poll it, so it is always ready */
    struct cr__record *waiter[2];
};

/* Opens the worker's poller and makes it its own; fini closes it. 0 or -errno. */
int cr__poll_init(struct cr__worker *worker);
void cr__poll_fini(struct cr__worker *worker);

/* Begins to watch fd; `ready` says what is assumed before the first event. The pollable's memory must be zeroed once, and be used for
 * pollables only. 0, also where the kernel can't poll fd; -ENOMEM; -EEXIST. */
int cr__poll_add(struct cr__worker *worker, struct cr__pollable *p, int fd, unsigned ready);

/* Stops watching, and wakes who waits with -EBADF. The fd is the caller's to close. */
void cr__poll_remove(struct cr__worker *worker, struct cr__pollable *p);

/* Waits for an event of that direction, whatever `ready` says. 0; -ETIMEDOUT, -ECANCELED; -EBUSY; -EBADF (p is gone). */
int cr__poll_wait(struct cr__pollable *p, enum cr__direction direction, int64_t deadline_ns);

/* An fd of the runtime's own: calls fn(arg) on the worker's stack for each edge of readability. Not counted as something to wait
 * for. 0 or -errno. */
struct cr__poll_watch {
    int fd;
    void (*fn)(void *arg);
    void *arg;
};
int cr__poll_watch(struct cr__worker *worker, struct cr__poll_watch *watch);

#endif
