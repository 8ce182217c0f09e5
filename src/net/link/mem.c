/* mem:NAME: a wire between two ends in this process, of one worker or of two. No copy but of packets to which there are other references, no kernel call but to rouse a worker that
 * sleeps.
 *
 * A wire has two sides; a side is what belongs to whoever is that end at the time. It lives while one end is open, or a wake-up is under way to one. Who closes an end puts what
 * had come for it and had not been taken; what the other one adds in the same moment lies in the ring until somebody opens that end again, or the wire goes.
 *
 * Waking up: the consumer sets `armed`, then looks at the ring; the producer fills the ring, then looks at `armed`; a fence between the two steps on either side, so one of them
 * sees the other. Who takes `armed` away calls `ready`: at once, where the other end is the same worker's (or nobody's, in virtual time), else by a post. One post is under way at
 * most (`posted`), since whoever gets it looks at the ring anyway.
 *
 * Invariants:
 *   1. `end`, `posted` and the post are under the side's lock; so an end that is found there is not closed before its worker has been told. (That may be a kick of a sleeping
 *      worker: the only call under such a lock.)
 *   2. A wire's list, its count of users and who may become which end are under `lock`. */
#include <string.h>

#include "base/spin.h"
#include "net/link/kinds.h"
#include "net/link/ring.h"
#include "sched/monitor.h"

struct end {
    struct cr_link link;
    struct wire *wire;
    struct side *mine, *other;
};

struct side {
    struct cr__ring ring; /* what comes to this end */
    _Alignas(CR__CACHE_LINE) _Atomic bool armed;
    _Atomic bool open;
    _Atomic uint8_t lock;
    bool posted;
    struct wire *wire;
    struct end *end;
    struct cr__post post;
};

struct wire {
    struct wire *next;
    unsigned users; /* ends and posts */
    bool taken[2];
    char name[CR__LINK_NAME_MOST + 1];
    struct side sides[2];
};

static _Atomic uint8_t lock;
static struct wire *wires;

/* ---- Wires -------------------------------------------------------------------------------------------------- */

static void drain(struct side *side, struct cr__packet_cache *packets)
{
    struct cr_packet *packet;
    while (cr__ring_pop(&side->ring, &packet, 1) > 0)
        cr__packet_put(packets, packet);
}

static void wire_free(struct wire *wire, struct cr__packet_cache *packets)
{
    drain(&wire->sides[0], packets);
    drain(&wire->sides[1], packets);
    cr__mem_free(wire, sizeof(*wire), CR__MEM_OTHER);
}

static void wire_hold(struct wire *wire)
{
    cr__spin_lock(&lock);
    wire->users++;
    cr__spin_unlock(&lock);
}

/* side: which end is given up; negative: a post has arrived. */
static void wire_put(struct wire *wire, int side, struct cr__packet_cache *packets)
{
    cr__spin_lock(&lock);
    if (side >= 0)
        wire->taken[side] = false;
    bool last = --wire->users == 0;
    if (last) {
        struct wire **at = &wires;
        while (*at != wire)
            at = &(*at)->next;
        *at = wire->next;
    }
    cr__spin_unlock(&lock);
    if (last)
        wire_free(wire, packets);
}

/* Under the lock. */
static struct wire *find_locked(const char *name)
{
    struct wire *wire = wires;
    while (wire && strcmp(wire->name, name) != 0)
        wire = wire->next;
    return wire;
}

/* An end of the wire of that name: of `made`, if there is none yet. Its number; -EADDRINUSE. */
static int wire_join(struct wire *made, const char *name, struct wire **out)
{
    int side = -EADDRINUSE;
    cr__spin_lock(&lock);
    struct wire *wire = find_locked(name);
    if (!wire) {
        wire = made;
        wire->next = wires;
        wires = wire;
    }
    if (!wire->taken[0] || !wire->taken[1])
        side = wire->taken[0];
    if (side >= 0) {
        wire->taken[side] = true;
        wire->users++;
    }
    cr__spin_unlock(&lock);
    *out = wire;
    return side;
}

static struct wire *wire_make(const char *name)
{
    struct wire *wire = cr__mem_alloc_aligned(sizeof(*wire), CR__MEM_OTHER);
    if (!wire)
        return NULL;
    strcpy(wire->name, name);
    wire->sides[0].wire = wire->sides[1].wire = wire;
    return wire;
}

/* ---- Waking the other end ----------------------------------------------------------------------------------- */

static void on_post(struct cr__worker *worker, struct cr__post *post);

/* The other end's runtime is at its end, and about to close it: nobody is left there who could be told. The wire has other users. */
static void post_forgone_locked(struct side *side)
{
    side->posted = false;
    cr__spin_lock(&lock);
    side->wire->users--;
    cr__spin_unlock(&lock);
}

/* Under the side's lock; the worker is another one. */
static void post_locked(struct side *side, struct cr__worker *to)
{
    struct cr__worker *here = cr__worker_here();
    side->posted = true;
    side->post.fn = on_post;
    side->post.promised = false;
    wire_hold(side->wire);
    if (here && here->sched == to->sched)
        cr__post(to, &side->post);
    else if (!cr__post_from_outside(to->sched, to, &side->post))
        post_forgone_locked(side);
}

static void on_post(struct cr__worker *worker, struct cr__post *post)
{
    struct side *side = CR__CONTAINER(post, struct side, post);
    struct wire *wire = side->wire;
    cr__spin_lock(&side->lock);
    struct end *end = side->end;
    side->posted = false;
    if (end && end->link.worker != worker) { /* the end that it was for has been closed, and opened again elsewhere */
        post_locked(side, end->link.worker);
        end = NULL;
    }
    cr__spin_unlock(&side->lock);
    if (end && end->link.ready) /* only this thread closes it */
        end->link.ready(&end->link);
    wire_put(wire, -1, &worker->packets);
}

static CR__NOINLINE void wake(struct end *from, struct side *side)
{
    struct end *here = NULL;
    cr__spin_lock(&side->lock);
    struct cr__worker *to = side->end ? side->end->link.worker : NULL;
    if (side->end && (to == from->link.worker || !to))
        here = side->end;
    else if (side->end && !side->posted)
        post_locked(side, to);
    cr__spin_unlock(&side->lock);
    if (here && here->link.ready)
        here->link.ready(&here->link);
}

/* ---- The link's functions ------------------------------------------------------------------------------------ */

static struct end *end_of(const struct cr_link *link)
{
    return CR__CONTAINER(link, struct end, link);
}

static bool is_up(const struct end *end)
{
    return atomic_load_explicit(&end->other->open, memory_order_relaxed); /* nothing rests on it: what is said of the ring is said by its indices */
}

static int mem_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    int n = (int)cr__ring_pop(&end_of(link)->mine->ring, packets, (unsigned)most);
    link->told.received += (unsigned)n;
    return n;
}

static int drop_all(struct cr_link *link, struct cr_packet **packets, int count)
{
    for (int i = 0; i < count; i++)
        cr__link_drop(link, packets[i]);
    return count;
}

static int mem_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    struct end *end = end_of(link);
    struct cr__ring *ring = &end->other->ring;
    if (CR__UNLIKELY(!is_up(end)))
        return drop_all(link, packets, count);
    unsigned room = cr__ring_room(ring, (unsigned)count), filled = 0;
    int n = room < (unsigned)count ? (int)room : count;
    for (int i = 0; i < n; i++) {
        struct cr_packet *packet = cr__link_take(link, packets[i]);
        if (CR__LIKELY(packet != NULL))
            *cr__ring_slot(ring, filled++) = packet;
    }
    if (filled == 0)
        return n;
    cr__ring_publish(ring, filled);
    link->told.sent += filled;
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in mem_arm: we see it armed, or it sees what we have filled */
    if (atomic_load_explicit(&end->other->armed, memory_order_relaxed) && atomic_exchange_explicit(&end->other->armed, false, memory_order_relaxed))
        wake(end, end->other);
    return n;
}

static bool mem_arm(struct cr_link *link)
{
    struct side *mine = end_of(link)->mine;
    if (!cr__ring_empty(&mine->ring))
        return true;
    atomic_store_explicit(&mine->armed, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in mem_send */
    if (cr__ring_empty(&mine->ring))
        return false;
    atomic_store_explicit(&mine->armed, false, memory_order_relaxed); /* who has taken it away already calls `ready` once more */
    return true;
}

static int64_t mem_due_ns(const struct cr_link *link)
{
    (void)link;
    return INT64_MAX;
}

static void mem_info(const struct cr_link *link, struct cr_link_info *out)
{
    *out = link->told;
    out->up = is_up(end_of(link));
}

static void mem_close(struct cr_link *link)
{
    struct end *end = end_of(link);
    struct side *mine = end->mine;
    struct wire *wire = end->wire;
    atomic_store_explicit(&mine->open, false, memory_order_relaxed); /* what is sent nevertheless stays in the ring */
    cr__spin_lock(&mine->lock);
    mine->end = NULL;
    cr__spin_unlock(&mine->lock);
    drain(mine, link->packets);
    wire_put(wire, mine == &wire->sides[1], link->packets);
    cr__packet_flush(&link->own_packets);
    cr__mem_free(end, sizeof(*end), CR__MEM_OTHER);
}

static const struct cr__link_ops ops = {
    .recv = mem_recv,
    .send = mem_send,
    .arm = mem_arm,
    .due_ns = mem_due_ns,
    .info = mem_info,
    .close = mem_close,
};

/* What was for whoever was this end before, and what that one wanted to be told, is nobody's. */
static void settle(struct end *end, struct wire *wire, int side)
{
    end->wire = wire;
    end->mine = &wire->sides[side];
    end->other = &wire->sides[!side];
    drain(end->mine, end->link.packets);
    atomic_store_explicit(&end->mine->armed, false, memory_order_relaxed);
    cr__spin_lock(&end->mine->lock);
    end->mine->end = end;
    cr__spin_unlock(&end->mine->lock);
    atomic_store_explicit(&end->mine->open, true, memory_order_relaxed);
}

int cr__link_mem_open(struct cr_link **out, const char *text, struct cr__worker *worker)
{
    char name[CR__LINK_NAME_MOST + 1];
    uint16_t mtu_bytes;
    int r = cr__link_name_parse(text, name, CR__LINK_NAME_MOST, &mtu_bytes);
    if (r < 0)
        return r;
    struct end *end = cr__mem_alloc(sizeof(*end), CR__MEM_OTHER);
    struct wire *made = end ? wire_make(name) : NULL, *wire = NULL;
    int side = made ? wire_join(made, name, &wire) : -ENOMEM;
    if (wire != made)
        cr__mem_free(made, sizeof(*made), CR__MEM_OTHER);
    if (side < 0) {
        cr__mem_free(end, sizeof(*end), CR__MEM_OTHER);
        return side;
    }
    cr__link_begin(&end->link, &ops, worker);
    end->link.told.flags = CR_LINK_NO_CHECKSUMS;
    end->link.told.mtu_bytes = mtu_bytes;
    cr__link_address(end->link.told.address, name, (unsigned)side);
    settle(end, wire, side);
    *out = &end->link;
    return 0;
}
