#include "poll/poll.h"

#include "mem/mem.h"
#include "os/os.h"

#define EVENTS 512
#define EDGES (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)

/* What an event carries: a pollable's address, below 2^48, and its generation above; a watch is told by its lowest bit. */
#define ADDRESS_BITS 48
#define WATCH_BIT 1u

struct poller {
    int epoll;
    uint64_t waiters;
    struct epoll_event events[EVENTS];
};

static uint64_t tag_of(const struct cr__pollable *p)
{
    return (uint64_t)(uintptr_t)p | (uint64_t)p->generation << ADDRESS_BITS;
}

static struct cr__pollable *pollable_of(uint64_t tag)
{
    return (struct cr__pollable *)(uintptr_t)(tag & (((uint64_t)1 << ADDRESS_BITS) - 1));
}

static void wake(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction direction)
{
    if (p->waiter[direction])
        cr__wake(worker, p->waiter[direction], CR__WOKEN);
}

static void deliver(struct cr__worker *worker, const struct epoll_event *event)
{
    uint64_t tag = event->data.u64;
    if (tag & WATCH_BIT) {
        struct cr__poll_watch *watch = (struct cr__poll_watch *)(uintptr_t)(tag & ~(uint64_t)WATCH_BIT);
        watch->fn(watch->arg);
        return;
    }
    struct cr__pollable *p = pollable_of(tag);
    if (tag != tag_of(p))
        return; /* closed since the event was fetched */
    worker->stats.events++;
    uint32_t bits = event->events;
    if (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
        p->ready |= CR__READY_END;
    if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) {
        p->ready |= CR__READY_IN;
        wake(worker, p, CR__IN);
    }
    if (bits & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        p->ready |= CR__READY_OUT;
        wake(worker, p, CR__OUT);
    }
}

static void prefetch_waiter(uint64_t tag)
{
    if (tag & WATCH_BIT)
        return;
    const struct cr__record *waiter = pollable_of(tag)->waiter[CR__IN];
    __builtin_prefetch(waiter);
    __builtin_prefetch((const char *)waiter + CR__CACHE_LINE);
}

static int poll_events(struct cr__worker *worker, int64_t timeout_ns)
{
    struct poller *poller = worker->poller;
    int n = cr__os_epoll_wait(poller->epoll, poller->events, EVENTS, timeout_ns);
    if (n < 0)
        return n == -EINTR ? 0 : n;
    for (int i = 0; i < n; i++)
        __builtin_prefetch(pollable_of(poller->events[i].data.u64));
    for (int i = 0; i < n; i++) {
        if (i + 2 < n)
            prefetch_waiter(poller->events[i + 2].data.u64);
        deliver(worker, &poller->events[i]);
    }
    return 0;
}

static uint64_t waiters(const struct cr__worker *worker)
{
    return ((const struct poller *)worker->poller)->waiters;
}

static const struct cr__poller_ops ops = {.poll = poll_events, .waiters = waiters};

int cr__poll_init(struct cr__worker *worker)
{
    struct poller *poller = cr__mem_alloc(sizeof(*poller), CR__MEM_OTHER);
    if (!poller)
        return -ENOMEM;
    poller->epoll = cr__os_epoll_create();
    if (poller->epoll < 0) {
        int r = poller->epoll;
        cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
        return r;
    }
    worker->poller = poller;
    worker->poller_ops = &ops;
    return 0;
}

void cr__poll_fini(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    cr__os_close(poller->epoll);
    cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
    worker->poller = NULL;
}

int cr__poll_add(struct cr__worker *worker, struct cr__pollable *p, int fd, unsigned ready)
{
    struct poller *poller = worker->poller;
    p->fd = fd;
    p->generation++;
    p->ready = (uint8_t)ready;
    p->waiter[CR__IN] = p->waiter[CR__OUT] = NULL;
    struct epoll_event event = {.events = EDGES, .data.u64 = tag_of(p)};
    int r = cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_ADD, fd, &event);
    p->watched = r == 0;
    if (r == -EPERM) { /* a regular file, a directory: always ready */
        p->ready = CR__READY_IN | CR__READY_OUT | CR__READY_END;
        return 0;
    }
    return r == -ENOSPC ? -ENOMEM : r; /* fs.epoll.max_user_watches */
}

void cr__poll_remove(struct cr__worker *worker, struct cr__pollable *p)
{
    struct poller *poller = worker->poller;
    if (p->watched) {
        /* closing would do it, if no one holds a duplicate of the fd */
        struct epoll_event none = {0};
        cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_DEL, p->fd, &none);
    }
    p->generation++;
    for (int d = CR__IN; d <= CR__OUT; d++) {
        struct cr__record *waiter = p->waiter[d];
        if (!waiter)
            continue;
        poller->waiters--;
        p->waiter[d] = NULL;
        waiter->wait_object = NULL;
        cr__wake(worker, waiter, CR__CLOSED);
    }
}

int cr__poll_wait(struct cr__pollable *p, enum cr__direction direction, int64_t deadline_ns)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    if (CR__UNLIKELY(p->waiter[direction] != NULL)) {
        cr__breathe(worker); /* whoever tries again and again must not keep the other one from running */
        return -EBUSY;
    }
    cr__wait_begin(me, direction == CR__IN ? CR__WAIT_READABLE : CR__WAIT_WRITABLE, p);
    p->waiter[direction] = me;
    struct poller *poller = worker->poller;
    poller->waiters++;
    int r = cr__wait_suspend(worker, me, deadline_ns);
    if (CR__UNLIKELY(!me->wait_object))
        return -EBADF; /* whatever came first: p is gone */
    p->waiter[direction] = NULL;
    worker = cr__worker_here();
    ((struct poller *)worker->poller)->waiters--;
    return r;
}

int cr__poll_watch(struct cr__worker *worker, struct cr__poll_watch *watch)
{
    struct poller *poller = worker->poller;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)watch | WATCH_BIT};
    return cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_ADD, watch->fd, &event);
}
