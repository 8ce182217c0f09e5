/* Waiting for readiness, whichever poller tells of it. poll.h has the picture and the invariants. */
#include "poll/poll.h"

void cr__poll_add(struct cr__pollable *p, int fd, bool in, bool out)
{
    p->fd = fd;
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_relaxed);
    p->waiter[CR__IN] = p->waiter[CR__OUT] = NULL;
    p->seen[CR__IN] = p->seen[CR__OUT] = 0;
    p->tried[CR__IN] = p->tried[CR__OUT] = 0;
    atomic_store_explicit(&p->edges[CR__IN], in, memory_order_relaxed);
    atomic_store_explicit(&p->edges[CR__OUT], out, memory_order_relaxed);
    atomic_store_explicit(&p->watched, CR__UNWATCHED, memory_order_relaxed);
    atomic_store_explicit(&p->end, false, memory_order_relaxed);
}

static void edge(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction d)
{
    uint16_t edges = atomic_load_explicit(&p->edges[d], memory_order_relaxed);
    atomic_store_explicit(&p->edges[d], (uint16_t)(edges + 1), memory_order_release); /* pairs with the acquire in cr__poll_try */
    struct cr__record *waiter = p->waiter[d];
    p->waiter[d] = NULL;
    if (waiter)
        cr__wake(worker, waiter, CR__WOKEN);
}

void cr__poll_deliver(struct cr__worker *worker, struct cr__pollable *p, uint16_t generation, unsigned events)
{
    cr__lock(worker, &p->lock);
    if (atomic_load_explicit(&p->generation, memory_order_relaxed) != generation)
        events = 0; /* closed since the event was fetched */
    else
        cr__count(&worker->counters.events, 1);
    if (events & CR__EVENT_END)
        atomic_store_explicit(&p->end, true, memory_order_relaxed);
    if (events & CR__EVENT_IN)
        edge(worker, p, CR__IN);
    if (events & CR__EVENT_OUT)
        edge(worker, p, CR__OUT);
    cr__unlock(worker, &p->lock);
}

/* Takes place as the waiter of its direction. 0; 1: an event has come since the last try. */
static int enlist(struct cr__worker *worker, struct cr__record *me, struct cr__pollable *p, enum cr__direction d, int64_t deadline_ns)
{
    int r = 1;
    cr__lock(worker, &p->lock);
    if (p->waiter[d])
        r = -EBUSY;
    else if (atomic_load_explicit(&p->edges[d], memory_order_relaxed) == p->tried[d]) {
        r = cr__wait_begin(worker, me, d == CR__IN ? CR__WAIT_READABLE : CR__WAIT_WRITABLE, p, deadline_ns);
        if (r == 0)
            p->waiter[d] = me;
    }
    cr__unlock(worker, &p->lock);
    return r;
}

int cr__poll_wait(struct cr__pollable *p, enum cr__direction d, int64_t deadline_ns)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    if (CR__UNLIKELY(atomic_load_explicit(&p->watched, memory_order_relaxed) == CR__UNWATCHED)) {
        int r = cr__poll_register(worker, p);
        if (r < 0)
            return r;
    }
    uint16_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    int r = enlist(worker, me, p, d, deadline_ns);
    if (CR__UNLIKELY(r != 0)) {
        if (r < 0)
            cr__breathe(worker); /* whoever tries again and again must not keep the other one from running */
        return r < 0 ? r : 0;
    }
    cr__wait_outside(worker, 1);
    r = cr__wait_suspend(worker, me, deadline_ns);
    worker = cr__worker_here();
    cr__wait_outside(worker, -1);
    if (CR__UNLIKELY(r < 0)) {
        cr__lock(worker, &p->lock);
        if (p->waiter[d] == me)
            p->waiter[d] = NULL;
        cr__unlock(worker, &p->lock);
    }
    if (CR__UNLIKELY(atomic_load_explicit(&p->generation, memory_order_relaxed) != generation))
        return -EBADF; /* whatever came first: p is gone */
    return r;
}
