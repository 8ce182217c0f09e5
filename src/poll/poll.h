/* Readiness of file descriptors: what a connection's calls wait for.
 *
 * A pollable lies inside its connection. It belongs to no worker until somebody has to wait on it; then it is registered with that
 * one's poller, for the fd's life. So a connection that is accepted here and served there is watched there. Any worker may use it.
 *
 * `edges` counts, per direction, the events that the poller has brought; `seen` is what that number was before the kernel was found to have nothing
 * more. They are equal: nothing has come since; no call is made before the next edge. So the common call makes no system call but the one that moves
 * data, and an edge that comes between the call that found nothing and the wait is not lost.
 *
 * Invariants:
 *   1. At most one coroutine waits per direction; waiter[d] points to it until it is woken, or leaves. Under the lock.
 *   2. `edges` is written under the lock; `seen` and `tried` by the one coroutine that uses this direction.
 *   3. An event carries the address and the generation: one that was already fetched when its fd was closed is told by
 *      the generation, and dropped. */
#ifndef CR__POLL_H
#define CR__POLL_H

#include "sched/sched.h"

enum cr__direction { CR__IN = 0, CR__OUT = 1 };

enum cr__watched {
    CR__UNWATCHED, /* nobody has had to wait yet */
    CR__WATCHED,
    CR__UNPOLLABLE, /* the kernel can't: always ready */
};

struct cr__pollable {
    int fd;
    _Atomic uint16_t generation;
    _Atomic uint8_t lock;
    _Atomic uint8_t watched;      /* of enum cr__watched */
    struct cr__record *waiter[2];
    _Atomic uint16_t edges[2];
    uint16_t seen[2], tried[2];
    uint16_t worker;              /* with whose poller it is registered */
    _Atomic bool end;             /* end, error or urgent data seen: a short receive does not mean that there is no more */
};

/* Opens the worker's poller and makes it its own; fini closes it. 0 or -errno. */
int cr__poll_init(struct cr__worker *worker);
void cr__poll_fini(struct cr__worker *worker);

/* Begins to use fd; `in`, `out`: whether it is worth a try before the first event. The pollable's memory must be zeroed once, and be used for
 * pollables only. */
void cr__poll_add(struct cr__pollable *p, int fd, bool in, bool out);

/* Registers it now, with the calling worker's poller; else the first wait does. 0, also where the kernel can't poll fd; -ENOMEM; -EEXIST. */
int cr__poll_register(struct cr__worker *worker, struct cr__pollable *p);

/* Stops watching, and wakes who waits with -EBADF. The fd is the caller's to close. */
void cr__poll_remove(struct cr__worker *worker, struct cr__pollable *p);

/* Before a call on the fd: whether there may be something. */
static inline bool cr__poll_try(struct cr__pollable *p, enum cr__direction d)
{
    /* acquire: `end` was set before; pairs with the release in the poller */
    p->tried[d] = atomic_load_explicit(&p->edges[d], memory_order_acquire);
    return p->tried[d] != p->seen[d] || atomic_load_explicit(&p->watched, memory_order_relaxed) == CR__UNPOLLABLE;
}

/* After it: the kernel had nothing more. */
static inline void cr__poll_drained(struct cr__pollable *p, enum cr__direction d)
{
    p->seen[d] = p->tried[d];
}

/* Waits for an event of that direction that came after the last try. 0; -ETIMEDOUT, -ECANCELED; -EBUSY; -EBADF (p is gone); -ENOMEM. */
int cr__poll_wait(struct cr__pollable *p, enum cr__direction direction, int64_t deadline_ns);

/* An fd of the runtime's own: calls fn(arg) on the worker's stack for each edge of readability. Not counted as something to wait
 * for. 0 or -errno. */
struct cr__poll_watch {
    int fd;
    void (*fn)(void *arg);
    void *arg;
};
int cr__poll_watch(struct cr__worker *worker, struct cr__poll_watch *watch);

/* ---- Within the room: what pollers share (pollable.c) ------------------------------------------------------- */

enum cr__events { CR__EVENT_IN = 1, CR__EVENT_OUT = 2, CR__EVENT_END = 4 };

/* What has come for p, if it is still of that generation. */
void cr__poll_deliver(struct cr__worker *worker, struct cr__pollable *p, uint16_t generation, unsigned events);

#endif
