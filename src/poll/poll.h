/* Readiness of file descriptors: what a connection's calls wait for; and, with a poller that can, what has arrived before anybody asked.
 *
 * A pollable lies inside its connection. It belongs to no worker until somebody has to wait on it; then it is watched by that
 * one's poller, for the fd's life. So a connection that is accepted here and served there is watched there. Any worker may use it.
 *
 * `edges` counts, per direction, the events that the poller has brought; `seen` is what that number was before the kernel was found to have nothing
 * more. They are equal: nothing has come since; no call is made before the next edge. So the common call makes no system call but the one that moves
 * data, and an edge that comes between the call that found nothing and the wait is not lost.
 *
 * There are two pollers: epoll (epoll.c) and io_uring (uring.c). What is theirs is a table of functions, struct cr__poll_ops in poller.h. The second
 * one also receives ahead (ahead.h): while somebody wants to receive, data goes into buffers that hang on the pollable, and accepted
 * sockets into a queue.
 *
 * Invariants:
 *   1. At most one coroutine waits per direction; waiter[d] points to it until it is woken, or leaves. Under the lock.
 *   2. `edges` is written under the lock; `seen` and `tried` by the one coroutine that uses this direction.
 *   3. An event carries the address and the generation, which is odd while the fd is open: one that was already fetched when its fd was closed is told by
 *      the generation, and dropped. Memory that the kernel has got back meanwhile reads as 0.
 *   4. `watched`, `error`, `held` and the list of buffers change under the lock.
 *   5. While AHEAD is set nobody but the ring receives from the fd: so nothing is reordered. When it is not, and nothing is held, the kernel has the
 *      next byte. */
#ifndef CR__POLL_H
#define CR__POLL_H

#include "sched/sched.h"

enum cr__direction { CR__IN = 0, CR__OUT = 1 };

enum cr__watched {
    CR__WATCHED_IN = 1u << 0,  /* an event of that direction will be told; not set: who wants to wait has it watched first */
    CR__WATCHED_OUT = 1u << 1,
    CR__AHEAD = 1u << 2,       /* the former by receiving, or accepting, ahead */
    CR__STOPPING = 1u << 3,    /* that has been cancelled, and may still bring something */
    CR__UNPOLLABLE = 1u << 4,  /* the kernel can't: always ready */
};

/* What may be received ahead. */
enum cr__ahead { CR__AHEAD_NOTHING, CR__AHEAD_BYTES, CR__AHEAD_SOCKETS };

struct cr__pollable {
    int fd;
    _Atomic uint16_t generation;
    _Atomic uint8_t lock;
    _Atomic uint8_t watched; /* of enum cr__watched */
    union {
        struct {
            struct cr__record *waiter[2];
            _Atomic uint16_t edges[2];
            uint16_t seen[2];
        };
        struct cr__post closing; /* on its way to the worker that watches it: it has no user any more */
    };
    union {
        uint16_t tried[2];
        _Atomic uint32_t transfers; /* UNPOLLABLE: its owner's */
    };
    uint16_t worker;         /* with whose poller it is watched */
    uint16_t held;           /* buffers that nobody has taken yet */
    _Atomic bool end;        /* end, error or urgent data seen: a short receive does not mean that there is no more */
    uint8_t ahead;           /* of enum cr__ahead */
    bool wanted;             /* somebody receives, and does not only wait for readability: then it is done ahead */
    uint8_t error;           /* errno that was received ahead: comes after what is held */
    uint8_t kind, scheme;    /* its owner's: for these there is room here */
    bool unlink_path;
    union {
        struct cr__buffer *buffers;     /* the newest of a ring of those that are held, or out with the user */
        struct cr__accepted *accepted;  /* CR__AHEAD_SOCKETS */
    };
};
_Static_assert(sizeof(struct cr__post) <= 24, "fits over what a pollable needs while it has a user");

/* Opens the worker's poller and makes it its own; fini closes it. `wish`: of enum cr_poller; one that the kernel refuses is said on the report fd, and
 * replaced by epoll. 0 or -errno. */
int cr__poll_init(struct cr__worker *worker, enum cr_poller wish);
void cr__poll_fini(struct cr__worker *worker);

/* Begins to use fd; `in`, `out`: whether it is worth a try before the first event. The pollable's memory must be zeroed once, and be used for
 * pollables only. */
void cr__poll_add(struct cr__pollable *p, int fd, bool in, bool out);

/* Registers a foreign fd now, with the calling worker's poller. 0, also where the kernel can't poll fd (UNPOLLABLE); -ENOMEM; -EEXIST. */
int cr__poll_register(struct cr__worker *worker, struct cr__pollable *p);

/* Stops watching, wakes who waits with -EBADF, drops what was received ahead, and closes the fd. When p's memory may be used anew, perhaps later and by
 * another worker, that one calls what it was told by cr__poll_releases. */
void cr__poll_close(struct cr__worker *worker, struct cr__pollable *p);
void cr__poll_releases(struct cr__worker *worker, void (*release)(struct cr__worker *worker, struct cr__pollable *p));

/* Before a call on the fd: whether there may be something. */
static inline bool cr__poll_try(struct cr__pollable *p, enum cr__direction d)
{
    /* acquire: `end` was set before; pairs with the release in the poller */
    p->tried[d] = atomic_load_explicit(&p->edges[d], memory_order_acquire);
    return p->tried[d] != p->seen[d] || (atomic_load_explicit(&p->watched, memory_order_relaxed) & CR__UNPOLLABLE) != 0;
}

/* After it: the kernel had nothing more. */
static inline void cr__poll_drained(struct cr__pollable *p, enum cr__direction d)
{
    p->seen[d] = p->tried[d];
}

/* Waits for an event of that direction that came after the last try. 0; -ETIMEDOUT, -ECANCELED; -EBUSY; -EBADF (p is gone); -ENOMEM. In a task: CR_WAITS when
 * the wait has begun; cr__leaf_finish says the rest. */
int cr__poll_wait(struct cr__pollable *p, enum cr__direction direction, int64_t deadline_ns);

/* Whether the kernel can poll it: cr__poll_register has found out. */
static inline bool cr__poll_unpollable(const struct cr__pollable *p)
{
    return (atomic_load_explicit(&p->watched, memory_order_relaxed) & CR__UNPOLLABLE) != 0;
}

/* An fd of the runtime's own: calls fn(arg) on the worker's stack for each edge of readability. Not counted as something to wait
 * for. 0 or -errno. */
struct cr__poll_watch {
    int fd;
    void (*fn)(void *arg);
    void *arg;
};
int cr__poll_watch(struct cr__worker *worker, struct cr__poll_watch *watch);

/* Reads from a regular file, or writes to it, without blocking the worker: the running coroutine waits, and neither a deadline nor cancelling ends that.
 * offset -1: where the last one stopped, but not for what appends. fd stays open until it returns. Suspends. As pread and pwrite; -EOPNOTSUPP where the poller can't. */
ssize_t cr__poll_transfer(int fd, enum cr__direction direction, void *buf, size_t size_bytes, int64_t offset);

/* Sends together with what others send, if that may be cheaper; then it suspends for a turn of the loop. As send; -EBADF: p was closed meanwhile;
 * -EOPNOTSUPP: the caller is to send by itself. */
ssize_t cr__poll_send(struct cr__pollable *p, const void *buf, size_t size_bytes);

#include "poll/ahead.h"

#endif
