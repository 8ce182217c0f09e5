/* The epoll poller: edge triggered, one registration for an fd's life, on the first wait. */
#include "os/os.h"
#include "poll/poller.h"

#define EVENTS 512
#define EDGES (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)

/* What an event carries: a pollable's address, below 2^48, and its generation above; a watch is told by its lowest bit. */
#define ADDRESS_BITS 48
#define WATCH_BIT 1u

struct poller {
    struct cr__poller common;
    int epoll;
    struct cr__poll_watch kick_watch;
    struct epoll_event events[EVENTS];
};

static uint64_t tag_of(struct cr__pollable *p)
{
    return (uint64_t)(uintptr_t)p | (uint64_t)atomic_load_explicit(&p->generation, memory_order_relaxed) << ADDRESS_BITS;
}

static struct cr__pollable *pollable_of(uint64_t tag)
{
    return (struct cr__pollable *)(uintptr_t)(tag & (((uint64_t)1 << ADDRESS_BITS) - 1));
}

static void deliver(struct cr__worker *worker, const struct epoll_event *event)
{
    uint64_t tag = event->data.u64;
    if (tag & WATCH_BIT) {
        struct cr__poll_watch *watch = (struct cr__poll_watch *)(uintptr_t)(tag & ~(uint64_t)WATCH_BIT);
        watch->fn(watch->arg);
        return;
    }
    unsigned events = 0;
    if (event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
        events |= CR__EVENT_IN | CR__EVENT_END;
    if (event->events & EPOLLIN)
        events |= CR__EVENT_IN;
    if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        events |= CR__EVENT_OUT;
    cr__poll_deliver(worker, pollable_of(tag), (uint16_t)(tag >> ADDRESS_BITS), events, 0);
}

static void prefetch_waiter(uint64_t tag)
{
    if (tag & WATCH_BIT)
        return;
    const struct cr__record *waiter = pollable_of(tag)->waiter[CR__IN]; /* a hint: others may change it */
    if (!waiter)
        return;
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
        if (i + 2 < n && worker->alone)
            prefetch_waiter(poller->events[i + 2].data.u64);
        deliver(worker, &poller->events[i]);
    }
    return 0;
}

static void kick(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    uint64_t one = 1;
    cr__os_write(poller->kick_watch.fd, &one, sizeof(one)); /* each write is an edge: nobody reads it */
}

static void kicked(void *arg)
{
    (void)arg; /* the loop looks around by itself */
}

/* ---- Its functions ------------------------------------------------------------------------------------------ */

static int watch(struct cr__worker *worker, struct cr__poll_watch *w)
{
    struct poller *poller = worker->poller;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)(uintptr_t)w | WATCH_BIT};
    return cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_ADD, w->fd, &event);
}

static int add(struct cr__worker *worker, struct cr__pollable *p)
{
    struct poller *poller = worker->poller;
    struct epoll_event event = {.events = EDGES, .data.u64 = tag_of(p)};
    int r = cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_ADD, p->fd, &event);
    if (r == 0)
        atomic_store_explicit(&p->watched, CR__WATCHED_IN | CR__WATCHED_OUT, memory_order_relaxed);
    return r == -ENOSPC ? -ENOMEM : r; /* fs.epoll.max_user_watches */
}

/* Both directions at once: so nothing of p is watched yet. What the kernel can't poll was told apart when it was added. */
static int arm(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction d)
{
    (void)d;
    return add(worker, p);
}

static void close_fd(struct cr__worker *worker, struct cr__pollable *p)
{
    if (atomic_load_explicit(&p->watched, memory_order_relaxed) & CR__WATCHED_IN && !cr__poll_unpollable(p)) {
        /* closing would do it, if no one holds a duplicate of the fd */
        struct poller *poller = worker->sched->workers[p->worker]->poller;
        struct epoll_event none = {0};
        cr__os_epoll_ctl(poller->epoll, EPOLL_CTL_DEL, p->fd, &none);
    }
    cr__os_close(p->fd);
    cr__poll_released(worker, p);
}

static void fini(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    cr__slab_fini(&poller->common.buffers.slab);
    cr__os_close(poller->kick_watch.fd);
    cr__os_close(poller->epoll);
    cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
}

static const struct cr__poll_ops ops = {
    .loop = {.poll = poll_events, .kick = kick},
    .fini = fini,
    .watch = watch,
    .add = add,
    .arm = arm,
    .close = close_fd,
};

static int open_poller(struct cr__worker *worker, struct poller *poller)
{
    poller->epoll = cr__os_epoll_create();
    if (poller->epoll < 0)
        return poller->epoll;
    cr__slab_init(&poller->common.buffers.slab, sizeof(struct cr__buffer), CR__MEM_BUFFERS);
    worker->poller = poller;
    worker->poller_ops = &ops.loop;
    int fd = cr__os_eventfd();
    poller->kick_watch = (struct cr__poll_watch){.fd = fd, .fn = kicked};
    int r = fd < 0 ? fd : watch(worker, &poller->kick_watch);
    if (r < 0 && fd >= 0)
        cr__os_close(fd);
    if (r < 0)
        cr__os_close(poller->epoll);
    return r;
}

int cr__epoll_init(struct cr__worker *worker)
{
    struct poller *poller = cr__mem_alloc_aligned(sizeof(*poller), CR__MEM_OTHER);
    if (!poller)
        return -ENOMEM;
    int r = open_poller(worker, poller);
    if (r < 0)
        cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
    return r;
}
