/* Broadcast: a ring of the last items, numbered from 0; each subscriber knows the number of its next one. */
#include <string.h>

#include "sync/sync.h"

#define MAX_BYTES ((size_t)1 << 30)

struct cr_broadcast {
    unsigned spin;
    bool closed;
    size_t item_size_bytes, capacity;
    uint64_t sent;
    size_t receiving; /* who has begun to wait, and will look here again */
    struct cr_waiters waiters;
    char *items;
};

int cr_broadcast_create(struct cr_broadcast **out, size_t item_size_bytes, size_t capacity)
{
    size_t bytes;
    if (capacity == 0 || __builtin_mul_overflow(item_size_bytes, capacity, &bytes) || bytes > MAX_BYTES)
        return -EINVAL;
    struct cr_broadcast *b = cr__mem_alloc(sizeof(*b) + bytes, CR__MEM_OTHER);
    if (!b)
        return -ENOMEM;
    b->item_size_bytes = item_size_bytes;
    b->capacity = capacity;
    b->items = (char *)(b + 1);
    *out = b;
    return 0;
}

int cr_broadcast_destroy(struct cr_broadcast *b)
{
    if (!b)
        return 0;
    cr__spin_lock(cr__spin_of(&b->spin));
    bool busy = b->receiving > 0;
    cr__spin_unlock(cr__spin_of(&b->spin));
    if (busy)
        return -EBUSY;
    cr__mem_free(b, sizeof(*b) + b->item_size_bytes * b->capacity, CR__MEM_OTHER);
    return 0;
}

static void wake_all(struct cr__worker *w, struct cr_broadcast *b)
{
    struct cr__record *record;
    while ((record = cr__waiters_claim(w, &b->waiters, CR__WOKEN)) != NULL)
        cr__ready(w, record);
}

static void *place(const struct cr_broadcast *b, uint64_t number)
{
    return b->items + number % b->capacity * b->item_size_bytes;
}

int cr_broadcast_send(struct cr_broadcast *b, const void *item)
{
    cr__handed(item);
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    cr__lock(w, cr__spin_of(&b->spin));
    int r = b->closed ? -EPIPE : 0;
    if (r == 0) {
        if (b->item_size_bytes > 0)
            memcpy(place(b, b->sent), item, b->item_size_bytes);
        b->sent++;
        wake_all(w, b);
    }
    cr__unlock(w, cr__spin_of(&b->spin));
    return r;
}

int cr_broadcast_close(struct cr_broadcast *b)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    cr__lock(w, cr__spin_of(&b->spin));
    int r = b->closed ? -EPIPE : 0;
    b->closed = true;
    wake_all(w, b);
    cr__unlock(w, cr__spin_of(&b->spin));
    return r;
}

void cr_broadcast_subscribe(struct cr_broadcast *b, struct cr_subscriber *s)
{
    cr__handed(s);
    cr__spin_lock(cr__spin_of(&b->spin));
    *s = (struct cr_subscriber){b, b->sent};
    cr__spin_unlock(cr__spin_of(&b->spin));
}

/* What there is for the subscriber: 0, how many it has lost, -EPIPE; -EAGAIN: nothing yet. The lock is held. */
static int64_t receive(struct cr_broadcast *b, struct cr_subscriber *s, void *item)
{
    uint64_t oldest = b->sent > b->capacity ? b->sent - b->capacity : 0;
    if (s->next < oldest) {
        int64_t lost = (int64_t)(oldest - s->next);
        s->next = oldest;
        return lost;
    }
    if (s->next == b->sent)
        return b->closed ? -EPIPE : -EAGAIN;
    if (b->item_size_bytes > 0)
        memcpy(item, place(b, s->next), b->item_size_bytes);
    s->next++;
    return 0;
}

/* again: it has waited before. */
static int64_t recv_begin(struct cr__worker *w, struct cr__record *me, struct cr_subscriber *s, void *item, int64_t deadline_ns, bool again)
{
    struct cr_broadcast *b = s->broadcast;
    cr__lock(w, cr__spin_of(&b->spin));
    int64_t got = receive(b, s, item);
    if (got != -EAGAIN) {
        b->receiving -= again;
        cr__unlock(w, cr__spin_of(&b->spin));
        return got;
    }
    int r = cr__wait_begin(w, me, CR__WAIT_BROADCAST, b, deadline_ns);
    if (r == 0)
        cr__waiters_push(&b->waiters, &me->node);
    b->receiving += r == 0;
    b->receiving -= again;
    cr__unlock(w, cr__spin_of(&b->spin));
    return r < 0 ? r : CR_WAITS;
}

/* The wait is over. 0: to be begun again. */
static int recv_end(struct cr__record *me, struct cr_broadcast *b, int r)
{
    if (r < 0) {
        struct cr__worker *w = cr__worker_here();
        cr__lock(w, cr__spin_of(&b->spin));
        cr__waiters_remove(&b->waiters, &me->node);
        b->receiving--;
        cr__unlock(w, cr__spin_of(&b->spin));
    }
    return r;
}

int64_t cr_broadcast_recv_until(struct cr_subscriber *s, void *item, int64_t deadline_ns)
{
    cr__handed(s);
    cr__handed(item);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    int64_t got = recv_begin(w, me, s, item, deadline_ns, false);
    while (got == CR_WAITS) {
        int r = recv_end(me, s->broadcast, cr__wait_suspend(w, me, deadline_ns));
        w = cr__worker_here();
        got = r < 0 ? r : recv_begin(w, me, s, item, deadline_ns, true);
    }
    return got;
}

int64_t cr_task_broadcast_recv(struct cr_task *task, struct cr_subscriber *s, void *item, int64_t deadline_ns)
{
    cr__handed(s);
    cr__handed(item);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_BROADCAST));
    bool again = leaf.turn == CR__RESUMES;
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    int r = again ? recv_end(leaf.me, s->broadcast, cr__leaf_arrive(&leaf, deadline_ns)) : 0;
    int64_t got = r < 0 ? r : recv_begin(leaf.worker, leaf.me, s, item, deadline_ns, again);
    return got == CR_WAITS ? cr__leaf_wait(&leaf, deadline_ns) : got;
}

int64_t cr_broadcast_recv(struct cr_subscriber *s, void *item)
{
    cr__handed(s);
    cr__handed(item);
    return cr_broadcast_recv_until(s, item, CR_FOREVER);
}

int64_t cr_broadcast_recv_try(struct cr_subscriber *s, void *item)
{
    cr__handed(s);
    cr__handed(item);
    int64_t got = cr_broadcast_recv_until(s, item, CR__NOW);
    return got == -ETIMEDOUT || got == -ECANCELED ? -EAGAIN : got;
}
