/* What pollers share: waiting for readiness, whichever one tells of it, and the choice among them. poll.h has the picture and the invariants. */
#include <string.h>

#include "obs/obs.h"
#include "poll/poller.h"
#include "sched/task.h"

/* ---- A worker's poller -------------------------------------------------------------------------------------- */

/* Once per runtime is enough: worker 0 says it; but memory may be short for one worker alone. */
static void say_refused(struct cr__worker *worker, const char *why, int r)
{
    if (worker->index == 0 || r == -ENOMEM)
        cr__report(worker->sched->report_fd, "crore: io_uring can't be used (%s: %s), epoll is\n", why, strerrordesc_np(-r));
}

static int open_poller(struct cr__worker *worker, enum cr_poller wish)
{
    if (wish == CR_POLLER_URING) {
        const char *why = "crore was built without liburing";
        int r = -ENOSYS;
#ifdef CR__HAVE_URING
        r = cr__uring_init(worker, &why);
#endif
        if (r == 0 || !why)
            return r;
        say_refused(worker, why, r);
    }
    return cr__epoll_init(worker);
}

int cr__poll_init(struct cr__worker *worker, enum cr_poller wish)
{
    int r = open_poller(worker, wish);
    if (r < 0)
        return r;
    struct cr__buffers *buffers = &((struct cr__poller *)worker->poller)->buffers;
    cr__worker_keeps(worker, &buffers->slab);
    return 0;
}

void cr__poll_fini(struct cr__worker *worker)
{
    cr__poll_ops(worker)->fini(worker);
    worker->poller = NULL;
}

void cr__poll_releases(struct cr__worker *worker, void (*release)(struct cr__worker *worker, struct cr__pollable *p))
{
    ((struct cr__poller *)worker->poller)->release = release;
}

int cr__poll_watch(struct cr__worker *worker, struct cr__poll_watch *watch)
{
    return cr__poll_ops(worker)->watch(worker, watch);
}

/* ---- A pollable's life -------------------------------------------------------------------------------------- */

/* The next odd one. Where there was nothing, or the kernel has had the memory meanwhile, it does not begin anew with the same one each time. */
static uint16_t generation_after(uint16_t generation)
{
    static _Atomic uint16_t first;
    if (CR__UNLIKELY(generation == 0))
        generation = atomic_fetch_add_explicit(&first, 2, memory_order_relaxed);
    return (uint16_t)(generation + 1);
}

void cr__poll_add(struct cr__pollable *p, int fd, bool in, bool out)
{
    p->fd = fd;
    uint16_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    atomic_store_explicit(&p->generation, generation_after(generation), memory_order_relaxed);
    p->waiter[CR__IN] = p->waiter[CR__OUT] = NULL;
    p->seen[CR__IN] = p->seen[CR__OUT] = 0;
    p->tried[CR__IN] = p->tried[CR__OUT] = 0;
    atomic_store_explicit(&p->edges[CR__IN], in, memory_order_relaxed);
    atomic_store_explicit(&p->edges[CR__OUT], out, memory_order_relaxed);
    atomic_store_explicit(&p->watched, 0, memory_order_relaxed);
    atomic_store_explicit(&p->end, false, memory_order_relaxed);
    p->ahead = CR__AHEAD_NOTHING;
    p->wanted = false;
    p->error = 0;
    p->held = 0;
    p->buffers = NULL;
}

int cr__poll_register(struct cr__worker *worker, struct cr__pollable *p)
{
    cr__lock(worker, &p->lock);
    p->worker = worker->index;
    int r = cr__poll_ops(worker)->add(worker, p);
    if (r == -EPERM) /* a regular file, a directory: always ready */
        atomic_store_explicit(&p->watched, CR__UNPOLLABLE | CR__WATCHED_IN | CR__WATCHED_OUT, memory_order_relaxed);
    cr__unlock(worker, &p->lock);
    return r == -EPERM ? 0 : r;
}

/* Whose poller watches it; of what nobody watches, the caller's. */
static struct cr__worker *keeper_of(struct cr__worker *worker, const struct cr__pollable *p)
{
    bool watched = atomic_load_explicit(&p->watched, memory_order_relaxed) != 0;
    return watched && !cr__poll_unpollable(p) ? worker->sched->workers[p->worker] : worker;
}

void cr__poll_close(struct cr__worker *worker, struct cr__pollable *p)
{
    cr__lock(worker, &p->lock);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_relaxed);
    for (int d = CR__IN; d <= CR__OUT; d++) {
        struct cr__record *waiter = p->waiter[d];
        p->waiter[d] = NULL;
        if (waiter)
            cr__wake(worker, waiter, CR__CLOSED);
    }
    cr__unlock(worker, &p->lock);
    cr__ahead_drop(worker, p);
    cr__poll_ops(keeper_of(worker, p))->close(worker, p);
}

/* ---- Events ------------------------------------------------------------------------------------------------- */

void cr__poll_edge(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction d)
{
    uint16_t edges = atomic_load_explicit(&p->edges[d], memory_order_relaxed);
    atomic_store_explicit(&p->edges[d], (uint16_t)(edges + 1), memory_order_release); /* pairs with the acquire in cr__poll_try */
    struct cr__record *waiter = p->waiter[d];
    p->waiter[d] = NULL;
    if (waiter)
        cr__wake(worker, waiter, CR__WOKEN);
}

void cr__poll_deliver(struct cr__worker *worker, struct cr__pollable *p, uint16_t generation, unsigned events, unsigned gone)
{
    cr__lock(worker, &p->lock);
    if (atomic_load_explicit(&p->generation, memory_order_relaxed) != generation) {
        events = 0; /* closed since the event was fetched */
    } else {
        cr__count(&worker->counters.events, 1);
        if (CR__UNLIKELY(gone))
            atomic_fetch_and_explicit(&p->watched, (uint8_t)~gone, memory_order_relaxed);
    }
    if (events & CR__EVENT_END)
        atomic_store_explicit(&p->end, true, memory_order_relaxed);
    if (events & CR__EVENT_IN)
        cr__poll_edge(worker, p, CR__IN);
    if (events & CR__EVENT_OUT)
        cr__poll_edge(worker, p, CR__OUT);
    cr__unlock(worker, &p->lock);
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

static bool is_watched(const struct cr__pollable *p, enum cr__direction d)
{
    return (atomic_load_explicit(&p->watched, memory_order_relaxed) & (CR__WATCHED_IN << d)) != 0;
}

/* Takes place as the waiter of its direction, and has that watched. 0; 1: an event has come since the last try. */
static int enlist(struct cr__worker *worker, struct cr__record *me, struct cr__pollable *p, enum cr__direction d, int64_t deadline_ns)
{
    int r = 1;
    cr__lock(worker, &p->lock);
    if (p->waiter[d])
        r = -EBUSY;
    else if (atomic_load_explicit(&p->edges[d], memory_order_relaxed) == p->tried[d]) {
        r = 0;
        if (CR__UNLIKELY(!is_watched(p, d)) && deadline_ns > worker->now_ns) {
            struct cr__worker *keeper = keeper_of(worker, p);
            p->worker = keeper->index;
            r = cr__poll_ops(keeper)->arm(worker, p, d);
        }
        if (CR__LIKELY(r == 0))
            r = cr__wait_begin(worker, me, d == CR__IN ? CR__WAIT_READABLE : CR__WAIT_WRITABLE, p, deadline_ns);
        if (r == 0)
            p->waiter[d] = me;
    }
    cr__unlock(worker, &p->lock);
    return r;
}

/* The wait is over. generation: p's, when it began. */
static inline int wait_end(struct cr__record *me, struct cr__pollable *p, enum cr__direction d, uint16_t generation, int r)
{
    struct cr__worker *worker = cr__worker_here();
    cr__wait_outside(worker, -1);
    if (CR__UNLIKELY(r < 0)) {
        cr__lock(worker, &p->lock);
        if (atomic_load_explicit(&p->generation, memory_order_relaxed) == generation && p->waiter[d] == me)
            p->waiter[d] = NULL;
        cr__unlock(worker, &p->lock);
    }
    if (CR__UNLIKELY(atomic_load_explicit(&p->generation, memory_order_relaxed) != generation))
        return -EBADF; /* whatever came first: p is gone */
    return r;
}

/* A task's, by what lies in its record. */
static int finish(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns)
{
    struct cr__pollable *p = (struct cr__pollable *)me->node.object;
    enum cr__direction d = cr__waits_for(me) == CR__WAIT_READABLE ? CR__IN : CR__OUT;
    (void)worker;
    return wait_end(me, p, d, (uint16_t)(uintptr_t)me->node.next, cr__wait_arrive(me, deadline_ns));
}

static CR__NOINLINE int begin_for_task(struct cr__pollable *p, enum cr__direction d, int64_t deadline_ns)
{
    struct cr__leaf leaf;
    leaf.me = cr__acting(&leaf.worker);
    if (!leaf.me)
        return -EPERM;
    uint16_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    int r = enlist(leaf.worker, leaf.me, p, d, deadline_ns);
    if (r != 0)
        return r < 0 ? r : 0;
    cr__wait_outside(leaf.worker, 1);
    leaf.me->node.next = (struct cr__wait_node *)(uintptr_t)generation;
    cr__leaf_finish_set(leaf.me, finish);
    return cr__leaf_wait(&leaf, deadline_ns);
}

int cr__poll_wait(struct cr__pollable *p, enum cr__direction d, int64_t deadline_ns)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (CR__UNLIKELY(!me))
        return begin_for_task(p, d, deadline_ns);
    uint16_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    int r = enlist(worker, me, p, d, deadline_ns);
    if (CR__UNLIKELY(r != 0)) {
        if (r < 0)
            cr__breathe(worker); /* whoever tries again and again must not keep the other one from running */
        return r < 0 ? r : 0;
    }
    cr__wait_outside(worker, 1);
    return wait_end(me, p, d, generation, cr__wait_suspend_here(worker, me, deadline_ns));
}

/* ---- What a poller may do by itself ------------------------------------------------------------------------- */

ssize_t cr__poll_transfer(int fd, enum cr__direction d, void *buf, size_t size_bytes, int64_t offset)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (!me)
        return -EPERM;
    const struct cr__poll_ops *ops = cr__poll_ops(worker);
    return ops->transfer ? ops->transfer(worker, me, fd, d, buf, size_bytes, offset) : -EOPNOTSUPP;
}

/* What is watched elsewhere may be closed there, while its fd waits here to be submitted. */
ssize_t cr__poll_send(struct cr__pollable *p, const void *buf, size_t size_bytes)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (!me || !is_watched(p, CR__IN) || p->worker != worker->index || !cr__poll_ops(worker)->send)
        return -EOPNOTSUPP;
    uint16_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    ssize_t n = cr__poll_ops(worker)->send(worker, me, p, buf, size_bytes);
    return atomic_load_explicit(&p->generation, memory_order_relaxed) == generation ? n : -EBADF;
}
