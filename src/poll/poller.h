/* Within the room: what a poller is to the rest of it. */
#ifndef CR__POLLER_H
#define CR__POLLER_H

#include "poll/buffer.h"
#include "poll/poll.h"

struct cr__poll_ops {
    struct cr__poller_ops loop; /* what the worker's loop calls; worker->poller_ops points here */
    void (*fini)(struct cr__worker *worker);
    int (*watch)(struct cr__worker *worker, struct cr__poll_watch *watch);

    /* As cr__poll_register. */
    int (*add)(struct cr__worker *worker, struct cr__pollable *p);

    /* Has that direction watched, and sets its bit in p->watched; p->lock is held. 0 or -errno. */
    int (*arm)(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction direction);

    /* Stops watching and closes the fd. Nobody uses p any more, and its generation is a new one. */
    void (*close)(struct cr__worker *worker, struct cr__pollable *p);

    /* Brings what the kernel has by now. By the worker itself, from a coroutine. */
    void (*look)(struct cr__worker *worker);

    /* Do it for the running coroutine, which waits until it is done: as pread, pwrite, send. NULL: can't. */
    ssize_t (*transfer)(struct cr__worker *worker, struct cr__record *me, int fd, enum cr__direction direction, void *buf, size_t size_bytes,
                        int64_t offset);
    ssize_t (*send)(struct cr__worker *worker, struct cr__record *me, struct cr__pollable *p, const void *buf, size_t size_bytes);
};

/* What each poller begins with. */
struct cr__poller {
    struct cr__buffers buffers;
    bool ahead; /* it can receive and accept ahead */
    void (*release)(struct cr__worker *worker, struct cr__pollable *p);
};

static inline const struct cr__poll_ops *cr__poll_ops(const struct cr__worker *worker)
{
    return CR__CONTAINER(worker->poller_ops, struct cr__poll_ops, loop);
}

/* Fill in worker->poller and worker->poller_ops. 0 or -errno. *why: what it was that failed, for people. */
int cr__epoll_init(struct cr__worker *worker);
int cr__uring_init(struct cr__worker *worker, const char **why);

enum cr__events { CR__EVENT_IN = 1, CR__EVENT_OUT = 2, CR__EVENT_END = 4 };

/* What has come for p, if it is still of that generation. gone: what is watched no more (of enum cr__watched). */
void cr__poll_deliver(struct cr__worker *worker, struct cr__pollable *p, uint16_t generation, unsigned events, unsigned gone);

/* An edge; p->lock is held. */
void cr__poll_edge(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction d);

/* By a poller that has closed a pollable's fd. */
static inline void cr__poll_released(struct cr__worker *worker, struct cr__pollable *p)
{
    ((struct cr__poller *)worker->poller)->release(worker, p);
}

#endif
