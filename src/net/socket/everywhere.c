/* A listener of a network that is spread: one on each worker, and a handle for all. Connections wait where they belong; cr_accept takes of its own worker's first, then of others'
 * that nobody there waits for (so that one acceptor is enough, wherever it is: what it takes from elsewhere is used by visits). A server has an acceptor on each worker, and takes
 * its own only.
 *
 * Who finds nothing says so in `wants`, looks at all of `ready` once more, and waits in his own worker's slot. Where a connection arrives, `ready` is set, then somebody looked
 * for: who waits there, else one of those who want. A fence between the two steps on either side, so one of them sees the other. Who has been told takes what he finds; if he goes
 * away instead, or leaves some, he tells the next.
 *
 * Each part (l, and its slot) is touched by its own worker only. What holds the handle's memory: its listeners, and each accept while it lasts. */
#include "net/socket/socket.h"

struct seat {
    struct cr__listening *l; /* NULL: closed */
    _Atomic uint32_t ready;  /* wait to be accepted, as last seen by its worker: others read it as a hint */
    _Atomic bool wants, told;
} __attribute__((aligned(CR__CACHE_LINE)));

struct cr__everywhere {
    struct cr_listener listener;
    struct cr__spread *spread;
    _Atomic uint32_t users, handles;
    _Atomic bool own_only; /* a server's */
    unsigned count;
    struct cr__ip ip;
    uint16_t port;
    struct seat seats[];
};

static size_t shared_bytes(unsigned count)
{
    return sizeof(struct cr__everywhere) + count * sizeof(struct seat);
}

static void get(struct cr__everywhere *shared)
{
    atomic_fetch_add_explicit(&shared->users, 1, memory_order_relaxed);
}

static void put_by(struct cr__worker *w, struct cr__everywhere *shared)
{
    if (atomic_fetch_sub_explicit(&shared->users, 1, memory_order_acq_rel) > 1)
        return;
    cr__spread_put(shared->spread, &w->packets);
    cr__mem_free(shared, shared_bytes(shared->count), CR__MEM_CONNS);
}

static void put(struct cr__everywhere *shared)
{
    put_by(cr__worker_here(), shared);
}

static struct seat *seat_of(struct cr__listening *l)
{
    return &l->shared->seats[l->network->worker->index];
}

/* ---- Telling ------------------------------------------------------------------------------------------------------- */

static void note_ready(struct cr__listening *l)
{
    atomic_store_explicit(&seat_of(l)->ready, l->tcp->waiting, memory_order_relaxed);
}

/* One of those who want something, on another worker than this. */
static void tell_another(struct cr__everywhere *shared, unsigned here)
{
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in found_after_all: it sees what is ready, or we see what it wants */
    for (unsigned i = 0; i < shared->count && !atomic_load_explicit(&shared->own_only, memory_order_relaxed); i++) {
        struct seat *seat = &shared->seats[i];
        if (i == here || !atomic_load_explicit(&seat->wants, memory_order_relaxed) || !atomic_exchange_explicit(&seat->wants, false, memory_order_relaxed))
            continue;
        atomic_store_explicit(&seat->told, true, memory_order_release); /* pairs with the exchange in told */
        cr__service_poke_remote(&cr__spread_at(shared->spread, i)->service);
        return;
    }
}

void cr__everywhere_arrived(struct cr__listening *l)
{
    note_ready(l);
    if (l->slot)
        cr__net_wake(l->network, &l->slot);
    else
        tell_another(l->shared, l->network->worker->index);
}

void cr__everywhere_told(struct cr__listening *l)
{
    struct seat *seat = seat_of(l);
    if (atomic_load_explicit(&seat->told, memory_order_relaxed) && atomic_exchange_explicit(&seat->told, false, memory_order_acquire)) /* pairs with the release in tell_another */
        cr__net_wake(l->network, &l->slot);
}

void cr__everywhere_gone(struct cr__listening *l)
{
    put_by(l->network->worker, l->shared);
}

/* ---- Accepting ----------------------------------------------------------------------------------------------------- */

struct acceptance {
    struct cr__everywhere *shared;
    unsigned from; /* whose connections */
    struct cr_conn **out;
    int64_t deadline_ns;
};

/* By the worker whose they are. */
static ssize_t take(void *arg)
{
    const struct acceptance *a = arg;
    struct cr__listening *l = a->shared->seats[a->from].l;
    if (!l || l->network->closed)
        return -EBADF;
    int r = cr__stream_accept(l, a->out);
    note_ready(l);
    if (l->tcp->waiting > 0 && !l->slot)
        tell_another(a->shared, a->from); /* the next one */
    return r;
}

static bool is_ready(struct cr__everywhere *shared, unsigned worker)
{
    return atomic_load_explicit(&shared->seats[worker].ready, memory_order_relaxed) > 0 &&
           !atomic_load_explicit(&shared->seats[worker].wants, memory_order_relaxed); /* else somebody waits there, who has been woken */
}

/* Taken elsewhere, by a visitor, for a task or a coroutine. */
struct taking {
    struct cr__visit visit;
    struct acceptance acceptance;
    struct cr_conn *conn;
};

static int taken(struct taking *t, ssize_t r, struct cr_conn **out)
{
    if (r == 0)
        *out = t->conn;
    put(t->acceptance.shared);
    cr__mem_free(t, sizeof(*t), CR__MEM_OTHER);
    return (int)r;
}

static const struct cr__listener_ops brought_ops;

/* fn, on the network's worker: `take`, or all of an accept. */
static int accept_by_visit(struct cr__network *network, const struct acceptance *a, ssize_t (*fn)(void *arg))
{
    struct taking *t = cr__mem_alloc(sizeof(*t), CR__MEM_OTHER);
    if (!t)
        return -ENOMEM;
    t->acceptance = *a;
    t->acceptance.from = network->worker->index;
    t->acceptance.out = &t->conn;
    t->visit = (struct cr__visit){.brought.listener = &brought_ops, .to = network->worker, .fn = fn, .arg = &t->acceptance, .deadline_ns = a->deadline_ns, .accepted = &t->conn};
    get(a->shared);
    ssize_t r = cr__visit_wait(&t->visit);
    return r == CR_WAITS ? CR_WAITS : taken(t, r, a->out);
}

/* Who goes away without having taken what he may have been told of tells the next one. */
static void pass_on(struct cr__everywhere *shared, unsigned here, int r)
{
    if (r == -ETIMEDOUT || r == -ECANCELED || r == -ENOMEM)
        tell_another(shared, here);
}

/* 0, -EAGAIN, -EBADF, CR_WAITS; -ETIMEDOUT, -ECANCELED (it had no turn there so far), -ENOMEM. */
static int take_elsewhere(const struct acceptance *mine)
{
    struct cr__everywhere *shared = mine->shared;
    int r = -EAGAIN;
    for (unsigned i = 0; i < shared->count && r == -EAGAIN; i++) {
        if (i != mine->from && is_ready(shared, i))
            r = accept_by_visit(cr__spread_at(shared->spread, i), mine, take);
    }
    pass_on(shared, mine->from, r);
    return r;
}

/* After it has been said that somebody wants something. */
static bool found_after_all(struct cr__everywhere *shared, unsigned here)
{
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in tell_another */
    for (unsigned i = 0; i < shared->count; i++) {
        if (i != here && is_ready(shared, i))
            return true;
    }
    return false;
}

/* Its wait is over; r: how. */
static void stop_wanting(struct cr__everywhere *shared, unsigned here, int r)
{
    struct seat *seat = &shared->seats[here];
    atomic_store_explicit(&seat->wants, false, memory_order_relaxed);
    if (r != 0 && seat->l && !seat->l->network->closed) /* else all are told of that */
        tell_another(shared, here);                     /* what we may have been told of */
}

/* A task's. */
static int finish(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    void **slot = (void **)me->node.object;
    int r = cr__net_finish(w, me, deadline_ns);
    if (slot)
        stop_wanting(CR__CONTAINER(slot, struct cr__listening, slot)->shared, w->index, r);
    return r;
}

static int wait_for_one(const struct acceptance *a, bool anywhere)
{
    struct cr__everywhere *shared = a->shared;
    struct seat *seat = &shared->seats[a->from];
    struct cr__listening *l = seat->l;
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w); /* of a task that waits nobody could say so */
    if (!l)
        return -EBADF;
    atomic_store_explicit(&seat->wants, anywhere, memory_order_relaxed);
    if (anywhere && found_after_all(shared, a->from)) {
        atomic_store_explicit(&seat->wants, false, memory_order_relaxed);
        return 0;
    }
    int r = cr__net_wait(l->network, &l->slot, CR__WAIT_NET_READABLE, a->deadline_ns);
    if (anywhere && r == CR_WAITS)
        cr__leaf_finish_set(me, finish);
    else if (anywhere && r != -EBUSY)
        stop_wanting(shared, a->from, r);
    return r;
}

static int take_any(const struct acceptance *a, bool anywhere)
{
    int r = (int)take((void *)a);
    return r == -EAGAIN && anywhere ? take_elsewhere(a) : r;
}

static ssize_t accept_here(void *arg)
{
    const struct acceptance *a = arg;
    bool anywhere = !atomic_load_explicit(&a->shared->own_only, memory_order_relaxed);
    struct cr__listening *l = a->shared->seats[a->from].l;
    int r = l ? cr__net_breathe(l->network, &l->slot, a->deadline_ns) : -EBADF;
    while (r == 0) {
        r = take_any(a, anywhere);
        if (r != -EAGAIN)
            return r;
        r = wait_for_one(a, anywhere);
    }
    if (r != CR__NET_TOO_LATE)
        return r;
    r = take_any(a, anywhere);
    return r == -EAGAIN ? -ETIMEDOUT : r;
}

/* From the beginning, for a task that comes back: what it holds meanwhile is what it waits for, or what its visit has. */
static int accept_at(struct cr__everywhere *shared, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__network *here = cr__spread_here(cr__spread_at(shared->spread, 0));
    struct acceptance a = {shared, here->worker->index, out, deadline_ns};
    get(shared);
    int r = cr__net_here(here) ? (int)accept_here(&a) : accept_by_visit(here, &a, accept_here);
    put(shared);
    return r;
}

static int shared_accept(struct cr_listener *listener, struct cr_conn **out, int64_t deadline_ns)
{
    return accept_at(CR__CONTAINER(listener, struct cr__everywhere, listener), out, deadline_ns);
}

/* A task's: another worker's, or somebody else was faster. */
static int brought_accept(struct cr_listener *listener, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__visit *visit = cr__visit_brought();
    struct taking *t = CR__CONTAINER(visit, struct taking, visit);
    struct cr__everywhere *shared = t->acceptance.shared;
    (void)listener;
    get(shared);
    int r = taken(t, visit->result, out);
    pass_on(shared, cr__worker_here()->index, r);
    if (r == -EAGAIN)
        r = accept_at(shared, out, deadline_ns);
    put(shared);
    return r;
}

static const struct cr__listener_ops brought_ops = {.accept = brought_accept};

/* ---- Closing, names ------------------------------------------------------------------------------------------------ */

void cr__everywhere_unlisten(struct cr__listening *l)
{
    seat_of(l)->l = NULL;
    cr__stream_unlisten(l);
}

static void close_all(struct cr__everywhere *shared)
{
    struct cr__worker *here = cr__worker_here();
    get(shared);
    for (unsigned i = 0; i < shared->count; i++) {
        struct cr__network *network = cr__spread_at(shared->spread, i);
        if (network->worker == here)
            cr__everywhere_unlisten(shared->seats[i].l);
        else
            cr__errand(network, CR__LISTENER_CLOSE, shared->seats[i].l);
    }
    put(shared);
}

static void shared_close(struct cr_listener *listener)
{
    struct cr__everywhere *shared = CR__CONTAINER(listener, struct cr__everywhere, listener);
    if (atomic_fetch_sub_explicit(&shared->handles, 1, memory_order_acq_rel) == 1)
        close_all(shared);
}

static void shared_share(struct cr_listener *listener)
{
    struct cr__everywhere *shared = CR__CONTAINER(listener, struct cr__everywhere, listener);
    atomic_store_explicit(&shared->own_only, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&shared->handles, 1, memory_order_relaxed);
}

static int shared_url(const struct cr_listener *listener, char *buf, size_t size_bytes)
{
    const struct cr__everywhere *shared = CR__CONTAINER(listener, const struct cr__everywhere, listener);
    struct cr_addr addr;
    cr__ip_to_addr(&shared->ip, shared->port, &addr);
    return cr__url_format(CR__TCP, &addr, buf, size_bytes);
}

static const struct cr__listener_ops shared_ops = {.accept = shared_accept, .close = shared_close, .url = shared_url, .share = shared_share};

/* ---- Opening ------------------------------------------------------------------------------------------------------- */

struct opening {
    struct cr__everywhere *shared;
    struct cr__network *network;
    const struct cr_conn_opts *opts;
};

static ssize_t open_seat(void *arg)
{
    const struct opening *o = arg;
    struct cr__everywhere *shared = o->shared;
    struct seat *seat = &shared->seats[o->network->worker->index];
    struct cr__listening *l;
    int r = cr__stream_listen_at(o->network, &l, &shared->ip, shared->port, o->opts);
    if (r < 0)
        return r;
    seat->l = l;
    l->shared = shared;
    get(shared);
    return 0;
}

/* Of those that have been opened. */
static void close_seats(struct cr__everywhere *shared, const struct cr__network *network)
{
    for (unsigned i = 0; i < shared->count; i++) {
        struct cr__listening *l = shared->seats[i].l;
        if (l && l->network == network)
            cr__everywhere_unlisten(l);
        else if (l)
            cr__errand(l->network, CR__LISTENER_CLOSE, l);
    }
}

static int open_seats(struct cr__everywhere *shared, struct cr__network *network, const struct cr_conn_opts *opts)
{
    int r = (int)open_seat(&(struct opening){shared, network, opts}); /* the first one's, which finds the port: so two that want one port meet here */
    if (r == 0)
        shared->port = shared->seats[network->worker->index].l->port;
    for (unsigned i = 0; i < shared->count && r == 0; i++) {
        struct opening o = {shared, cr__spread_at(shared->spread, i), opts};
        if (o.network != network)
            r = (int)cr__visit(o.network, open_seat, &o);
    }
    return r;
}

int cr__everywhere_listen(struct cr__network *network, struct cr_listener **out, const struct cr__ip *ip, uint16_t port, const struct cr_conn_opts *opts)
{
    unsigned count = cr__spread_count(network->spread);
    struct cr__everywhere *shared = cr__mem_alloc_aligned(shared_bytes(count), CR__MEM_CONNS);
    if (!shared)
        return -ENOMEM;
    shared->listener.ops = &shared_ops;
    shared->spread = network->spread;
    cr__spread_get(shared->spread);
    shared->count = count;
    shared->ip = *ip;
    shared->port = port;
    atomic_store_explicit(&shared->users, 1, memory_order_relaxed);
    atomic_store_explicit(&shared->handles, 1, memory_order_relaxed);
    int r = open_seats(shared, network, opts);
    if (r < 0)
        close_seats(shared, network);
    put(shared);
    if (r == 0)
        *out = &shared->listener;
    return r;
}
