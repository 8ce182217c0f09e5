/* Serving with a listener and an accepting coroutine on each worker.
 *
 * A server is used by its acceptors, its sessions and its owner; the last one frees it. Listeners belong to their acceptors, which close them; `lock` is for
 * whoever accepts in a stuck worker's place, its stand-in: under it a listener is either still there, or NULL. A place has one stand-in at most. Who stops the
 * server joins acceptors and stand-ins: afterwards nobody asks `full`, and no session begins. */
#include "conn/conn.h"

#include <crore/server.h>
#include <stdio.h>
#include <string.h>

#include "obs/obs.h"
#include "sched/budget.h"

#define URL_BYTES 300
#define PAUSE_NS (10 * CR_MS)
#define STUCK_NS (2 * CR_MS) /* between two looks at a stuck worker's listener */

struct place {
    _Alignas(CR__CACHE_LINE) struct cr_server *server;
    struct cr_listener *listener; /* NULL: none on this worker, or closed; changed under the server's lock */
    struct cr_co *acceptor;
    struct cr_co *stand_in; /* accepts while the worker is stuck. Who takes it from here, under the server's lock, gives the handle back */
    bool paused;
    _Atomic int64_t sessions;
};

struct cr_server {
    struct cr__sched *sched;
    void (*session)(struct cr_conn *conn, void *arg);
    void *arg;
    struct cr_serve_opts opts;
    struct cr_attr attr;
    char name[CR__NAME_BYTES];
    char url[URL_BYTES];
    bool one_for_all; /* one listener for all workers */
    _Atomic int64_t users;
    _Atomic uint8_t lock;
    struct cr_server *next, **link; /* of all servers of the process that listen; link NULL: not among them */
    struct place *places;
};

static _Atomic uint8_t servers_lock;
static struct cr_server *servers;

static size_t places_bytes(const struct cr_server *server)
{
    return server->sched->count * sizeof(struct place);
}

static void put(struct cr_server *server)
{
    if (atomic_fetch_sub_explicit(&server->users, 1, memory_order_acq_rel) > 1)
        return;
    cr__mem_free(server->places, places_bytes(server), CR__MEM_CONNS);
    cr__mem_free(server, sizeof(*server), CR__MEM_CONNS);
}

static void get(struct cr_server *server)
{
    atomic_fetch_add_explicit(&server->users, 1, memory_order_relaxed);
}

/* ---- Sessions ----------------------------------------------------------------------------------------------- */

/* A session's argument is its connection; the place that it counts for goes with it. */
struct start {
    struct place *place;
    struct cr_conn *conn;
};

static void run_session(void *arg)
{
    struct start start = *(struct start *)arg;
    struct cr_server *server = start.place->server;
    cr__mem_free(arg, sizeof(start), CR__MEM_CONNS);
    server->session(start.conn, server->arg);
    atomic_fetch_sub_explicit(&start.place->sessions, 1, memory_order_relaxed);
    put(server);
}

static unsigned least_loaded(const struct cr_server *server)
{
    unsigned best = 0;
    for (unsigned i = 1; i < server->sched->count; i++) {
        if (atomic_load_explicit(&server->places[i].sessions, memory_order_relaxed) <
            atomic_load_explicit(&server->places[best].sessions, memory_order_relaxed))
            best = i;
    }
    return best;
}

static enum cr_placement placement_of(const struct cr_server *server)
{
    bool chosen = server->opts.placement != CR_PLACE_DEFAULT;
    if (!chosen && server->opts.conn.net)
        return CR_PLACE_HERE; /* its connections are this worker's */
    return chosen || !server->one_for_all ? server->opts.placement : CR_PLACE_LEAST_LOADED;
}

/* Begins a session; on an error the connection is closed. */
static int begin_session(struct cr_server *server, struct cr_conn *conn, enum cr_placement placement)
{
    int here = cr_worker_index();
    unsigned where = placement == CR_PLACE_LEAST_LOADED ? least_loaded(server) : (unsigned)here;
    struct start *start = cr__mem_alloc(sizeof(*start), CR__MEM_CONNS);
    int r = start ? 0 : -ENOMEM;
    if (r == 0) {
        *start = (struct start){&server->places[where], conn};
        get(server);
        atomic_fetch_add_explicit(&start->place->sessions, 1, memory_order_relaxed);
        cr__budget_exceed(cr__worker_here()); /* its connection has been accepted while the acceptor waited */
        r = placement == CR_PLACE_DEFAULT ? cr_spawn(NULL, run_session, start, &server->attr)
                                          : cr_spawn_on(NULL, where, run_session, start, &server->attr);
        if (r < 0) {
            atomic_fetch_sub_explicit(&start->place->sessions, 1, memory_order_relaxed);
            put(server);
            cr__mem_free(start, sizeof(*start), CR__MEM_CONNS);
        }
    }
    if (r < 0)
        cr_close(conn);
    return r;
}

/* ---- Accepting ---------------------------------------------------------------------------------------------- */

static void tell(struct place *place, int why)
{
    const struct cr_server *server = place->server;
    if ((why < 0) == place->paused)
        return;
    place->paused = why < 0;
    if (server->opts.paused)
        server->opts.paused(server->arg, why);
    else
        cr__report(server->sched->report_fd, "crore: accepting on %s %s%s%s\n", server->url, why < 0 ? "pauses" : "goes on",
                   why < 0 ? ": " : "", why < 0 ? strerror(-why) : "");
}

static bool passes(int r)
{
    return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* Also where there is always one more to accept, so that no wait says it. */
static bool is_cancelled(void)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    return cr__park_cancelled(atomic_load_explicit(&me->word, memory_order_relaxed));
}

/* 0: there is room for one more; else why not. */
static int full(const struct cr_server *server)
{
    struct cr__worker *w = cr__worker_here();
    if (cr__budget_reached(w))
        return -ENOMEM;
    return server->opts.full ? server->opts.full(server->arg) : 0;
}

/* A pause ends when all who waited have been accepted, lest each one be announced. */
static void accept_all(struct place *place)
{
    struct cr_server *server = place->server;
    for (;;) {
        struct cr_conn *conn;
        int why = full(server);
        int r = why ? 0 : cr_accept_until(place->listener, &conn, place->paused ? 0 : CR_FOREVER);
        if (why == 0 && r == 0)
            r = begin_session(server, conn, placement_of(server));
        if (r == -ECANCELED || is_cancelled())
            return;
        if (why < 0 || passes(r)) {
            tell(place, why < 0 ? why : r);
            if (cr_sleep(PAUSE_NS) == -ECANCELED)
                return;
        } else if (r == -ETIMEDOUT) {
            tell(place, 0);
        } else if (r < 0) {
            tell(place, r);
            return;
        }
    }
}

static void acceptor(void *arg)
{
    struct place *place = arg;
    struct cr_server *server = place->server;
    accept_all(place);
    cr__spin_lock(&server->lock);
    struct cr_listener *listener = place->listener;
    place->listener = NULL;
    cr__spin_unlock(&server->lock);
    cr_listener_close(listener);
    put(server);
}

/* ---- In a stuck worker's place ------------------------------------------------------------------------------ */

static struct cr_conn *accept_at(struct place *place)
{
    struct cr_conn *conn = NULL;
    cr__spin_lock(&place->server->lock);
    if (!place->listener || !place->listener->ops->accept_now || place->listener->ops->accept_now(place->listener, &conn) < 0)
        conn = NULL;
    cr__spin_unlock(&place->server->lock);
    return conn;
}

static struct cr_co *take_stand_in(struct place *place)
{
    cr__spin_lock(&place->server->lock);
    struct cr_co *stand_in = place->stand_in;
    place->stand_in = NULL;
    cr__spin_unlock(&place->server->lock);
    return stand_in;
}

struct takeover {
    struct cr_server *server;
    struct cr__worker *stuck;
    uint64_t turns; /* of its loop: as long as they stand still, so does it */
};

static bool is_stuck(const struct takeover *t)
{
    return atomic_load_explicit(&t->stuck->turns, memory_order_relaxed) == t->turns;
}

static void accept_in_its_place(void *arg)
{
    struct takeover t = *(struct takeover *)arg;
    struct cr_server *server = t.server;
    struct place *place = &server->places[t.stuck->index];
    cr__mem_free(arg, sizeof(t), CR__MEM_CONNS);
    do {
        struct cr_conn *conn;
        while (full(server) == 0 && (conn = accept_at(place)) != NULL) {
            if (begin_session(server, conn, CR_PLACE_HERE) < 0)
                break;
        }
    } while (is_stuck(&t) && cr_sleep(STUCK_NS) == 0);
    struct cr_co *me = take_stand_in(place); /* NULL: who stops the server joins us */
    if (me)
        cr_detach(me);
    put(server);
}

/* It runs here, so not before this returns. */
static int spawn_stand_in(struct cr__worker *here, struct place *place, struct takeover *t)
{
    static const struct cr_attr attr = {.name = "accepts for another"};
    cr__spin_lock(&place->server->lock);
    int r = place->stand_in ? -EBUSY : cr__spawn(here, here, &place->stand_in, accept_in_its_place, t, &attr);
    cr__spin_unlock(&place->server->lock);
    return r;
}

static void take_over(struct cr_server *server, struct cr__worker *here, struct cr__worker *stuck)
{
    struct takeover *t = cr__mem_alloc(sizeof(*t), CR__MEM_CONNS);
    if (!t)
        return; /* what waits goes on waiting */
    *t = (struct takeover){server, stuck, atomic_load_explicit(&stuck->turns, memory_order_relaxed)};
    get(server);
    if (spawn_stand_in(here, &server->places[stuck->index], t) < 0) {
        put(server);
        cr__mem_free(t, sizeof(*t), CR__MEM_CONNS);
    }
}

void cr__server_take_over(struct cr__worker *here, struct cr__worker *stuck)
{
    cr__spin_lock(&servers_lock);
    for (struct cr_server *server = servers; server; server = server->next) {
        if (server->sched == here->sched)
            take_over(server, here, stuck);
    }
    cr__spin_unlock(&servers_lock);
}

/* ---- Beginning and ending ----------------------------------------------------------------------------------- */

static void enlist(struct cr_server *server)
{
    cr__spin_lock(&servers_lock);
    server->next = servers;
    server->link = &servers;
    if (servers)
        servers->link = &server->next;
    servers = server;
    cr__spin_unlock(&servers_lock);
}

static void delist(struct cr_server *server)
{
    cr__spin_lock(&servers_lock);
    *server->link = server->next;
    if (server->next)
        server->next->link = server->link;
    server->link = NULL;
    cr__spin_unlock(&servers_lock);
}

/* Whether several listeners may share the URL: where the kernel deals out what comes. A network of our own is one worker's, or deals out what comes itself. */
static bool may_share(const struct cr_server *server, const char *url)
{
    return strncmp(url, "tcp:", 4) == 0 && !server->opts.conn.net;
}

/* One that is on all workers by itself. */
static void share_with_all(struct cr_server *server, unsigned here)
{
    struct cr_listener *listener = server->places[here].listener;
    for (unsigned i = 0; listener->ops->share && i < server->sched->count; i++) {
        if (i != here)
            listener->ops->share(listener);
        server->places[i].listener = listener;
        server->one_for_all = false;
    }
}

/* The first listener finds the port, which must be free (unless CR_REUSE_PORT says otherwise), the others share it. All are opened here; each is watched
 * where it is first waited for. */
static int listen_all(struct cr_server *server, const char *url)
{
    unsigned here = (unsigned)cr_worker_index(), count = server->sched->count;
    struct cr_conn_opts opts = server->opts.conn;
    unsigned ahead = server->opts.full || server->sched->budget_bytes ? CR__NOT_AHEAD : 0; /* what was accepted ahead is there, however full it is */
    server->one_for_all = !may_share(server, url) && count > 1;
    bool first = may_share(server, url) && count > 1 && !(opts.flags & CR_REUSE_PORT);
    int r = cr__listen(&server->places[here].listener, url, &opts, ahead | (first ? CR__FIRST_ON_PORT : 0));
    opts.flags |= CR_REUSE_PORT;
    if (r == 0 && server->one_for_all)
        share_with_all(server, here);
    if (r == 0)
        r = cr_listener_url(server->places[here].listener, server->url, sizeof(server->url));
    for (unsigned i = 0; may_share(server, url) && i < count && r >= 0; i++) {
        if (i != here)
            r = cr__listen(&server->places[i].listener, server->url, &opts, ahead);
    }
    return r < 0 ? r : 0;
}

/* With or without acceptors: those that there are end, and close their listeners. Whatever deadline or cancellation. */
static void stop(struct cr_server *server)
{
    struct cr__worker *w = NULL;
    struct cr__record *me = cr__running(&w);
    struct cr__mask mask = cr__mask(me, CR_FOREVER);
    for (unsigned i = 0; i < server->sched->count; i++) {
        struct place *place = &server->places[i];
        if (place->acceptor)
            cr_cancel(place->acceptor);
        else if (place->listener)
            cr_listener_close(place->listener);
    }
    for (unsigned i = 0; i < server->sched->count; i++) {
        if (server->places[i].acceptor)
            (void)!cr_join(server->places[i].acceptor);
        server->places[i].acceptor = NULL;
    }
    for (unsigned i = 0; i < server->sched->count; i++) { /* which find no listener any more */
        struct cr_co *stand_in = take_stand_in(&server->places[i]);
        if (stand_in) {
            cr_cancel(stand_in);
            (void)!cr_join(stand_in);
        }
    }
    cr__unmask(me, mask);
}

static int start_all(struct cr_server *server)
{
    static const struct cr_attr attr = {.name = "acceptor"};
    for (unsigned i = 0; i < server->sched->count; i++) {
        struct place *place = &server->places[i];
        if (!place->listener)
            continue;
        get(server);
        int r = cr_spawn_on(&place->acceptor, i, acceptor, place, &attr);
        if (r < 0) {
            put(server);
            return r;
        }
    }
    return 0;
}

static struct cr_server *make(struct cr__sched *sched, const struct cr_serve_opts *opts)
{
    struct cr_server *server = cr__mem_alloc(sizeof(*server), CR__MEM_CONNS);
    if (!server)
        return NULL;
    server->sched = sched;
    server->opts = opts ? *opts : (struct cr_serve_opts){0};
    server->attr = server->opts.attr ? *server->opts.attr : (struct cr_attr){0};
    if (server->attr.name)
        server->attr.name = memcpy(server->name, server->attr.name, strnlen(server->attr.name, CR__NAME_BYTES - 1));
    server->places = cr__mem_alloc_aligned(places_bytes(server), CR__MEM_CONNS);
    if (!server->places) {
        cr__mem_free(server, sizeof(*server), CR__MEM_CONNS);
        return NULL;
    }
    for (unsigned i = 0; i < sched->count; i++)
        server->places[i].server = server;
    atomic_store_explicit(&server->users, 1, memory_order_relaxed);
    return server;
}

int cr_serve(struct cr_server **out, const char *url, void (*session)(struct cr_conn *, void *), void *arg, const struct cr_serve_opts *opts)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    if (!url || !session || (opts && opts->placement > CR_PLACE_LEAST_LOADED))
        return -EINVAL;
    struct cr_server *server = make(w->sched, opts);
    if (!server)
        return -ENOMEM;
    server->session = session;
    server->arg = arg;
    int r = listen_all(server, url);
    if (r == 0)
        r = start_all(server);
    if (r < 0) {
        stop(server);
        put(server);
        return r;
    }
    enlist(server);
    *out = server;
    return 0;
}

int cr_server_stop(struct cr_server *server)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    if (!server || !server->link)
        return 0;
    delist(server);
    stop(server);
    return 0;
}

int cr_server_close(struct cr_server *server)
{
    int r = cr_server_stop(server);
    if (r == 0 && server)
        put(server);
    return r;
}

int cr_server_url(const struct cr_server *server, char *buf, size_t size_bytes)
{
    int n = snprintf(buf, size_bytes, "%s", server->url);
    return n >= 0 && (size_t)n < size_bytes ? n : -ENOBUFS;
}

int64_t cr_server_sessions_on(const struct cr_server *server, unsigned worker)
{
    return worker < server->sched->count ? atomic_load_explicit(&server->places[worker].sessions, memory_order_relaxed) : 0;
}

int64_t cr_server_sessions(const struct cr_server *server)
{
    int64_t sum = 0;
    for (unsigned i = 0; i < server->sched->count; i++)
        sum += cr_server_sessions_on(server, i);
    return sum;
}
