/* TCP for programs: listeners of one worker's network; everywhere.c makes one of several. */
#include "net/socket/socket.h"

struct acceptance {
    struct cr__listening *l;
    struct cr_conn **out;
    int64_t deadline_ns;
};

int cr__stream_accept(struct cr__listening *l, struct cr_conn **out)
{
    struct cr__network *network = l->network;
    cr__net_now(network);
    struct cr__tcp *tcp = cr__tcp_accept(l->tcp);
    if (!tcp)
        return -EAGAIN;
    tcp->conn.ops = &cr__tcp_conn_ops;
    tcp->user[CR__IN] = tcp->user[CR__OUT] = NULL;
    cr__net_got(network);
    *out = &tcp->conn;
    return 0;
}

static ssize_t accept_here(void *arg)
{
    const struct acceptance *a = arg;
    struct cr__listening *l = a->l;
    struct cr__network *network = l->network;
    int r = cr__net_breathe(network, &l->slot, a->deadline_ns);
    while (r == 0) {
        if (CR__UNLIKELY(network->closed))
            return -EBADF;
        r = cr__stream_accept(l, a->out);
        if (r != -EAGAIN)
            return r;
        r = cr__net_wait(network, &l->slot, CR__WAIT_NET_READABLE, a->deadline_ns);
    }
    if (r != CR__NET_TOO_LATE)
        return r;
    r = network->closed ? -EBADF : cr__stream_accept(l, a->out);
    return r == -EAGAIN ? -ETIMEDOUT : r;
}

static void listener_free(void *thing)
{
    struct cr__listening *l = thing;
    struct cr__network *network = l->network;
    *l->at = l->next;
    if (l->next)
        l->next->at = l->at;
    if (l->shared)
        cr__everywhere_gone(l);
    cr__mem_free(l, sizeof(*l), CR__MEM_CONNS);
    cr__net_put(network);
}

static struct cr__visited visited(struct cr__listening *l)
{
    return (struct cr__visited){l->network, &l->visits, listener_free, CR__LISTENER_CLOSE, l};
}

/* An accept by a visitor, who works with what is in here: its caller's stack is not kept while it waits. */
struct accepting {
    struct cr__visit visit;
    struct acceptance acceptance;
    struct cr_conn *conn;
};

static int accepted(struct accepting *a, ssize_t r, struct cr_conn **out)
{
    if (r == 0)
        *out = a->conn;
    cr__mem_free(a, sizeof(*a), CR__MEM_OTHER);
    return (int)r;
}

static int brought_accept(struct cr_listener *listener, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__visit *visit = cr__visit_brought();
    (void)listener;
    (void)deadline_ns;
    return accepted(CR__CONTAINER(visit, struct accepting, visit), visit->result, out);
}

static int accept_by_visit(struct cr__listening *l, struct cr_conn **out, int64_t deadline_ns)
{
    static const struct cr__listener_ops brought_ops = {.accept = brought_accept};
    struct accepting *a = cr__mem_alloc(sizeof(*a), CR__MEM_OTHER);
    if (!a)
        return -ENOMEM;
    a->acceptance = (struct acceptance){l, &a->conn, deadline_ns};
    a->visit = (struct cr__visit){.brought.listener = &brought_ops, .to = l->network->worker, .what = visited(l), .fn = accept_here, .deadline_ns = deadline_ns};
    a->visit.arg = &a->acceptance;
    ssize_t r = cr__visit_wait(&a->visit);
    return r == CR_WAITS ? CR_WAITS : accepted(a, r, out);
}

static int listener_accept(struct cr_listener *listener, struct cr_conn **out, int64_t deadline_ns)
{
    struct cr__listening *l = CR__CONTAINER(listener, struct cr__listening, listener);
    struct acceptance a = {l, out, deadline_ns};
    return cr__net_here(l->network) ? (int)accept_here(&a) : accept_by_visit(l, out, deadline_ns);
}

void cr__stream_unlisten(struct cr__listening *l)
{
    struct cr__network *network = l->network;
    bool alone = cr__visits_closed(&l->visits);
    cr__net_evict(network, &l->slot);
    cr__net_now(network);
    cr__tcp_unlisten(l->tcp);
    cr__net_touched(network);
    if (alone)
        listener_free(l);
}

static void unlisten_errand(void *thing)
{
    struct cr__listening *l = thing;
    if (cr__visits_are_over(&l->visits))
        listener_free(l);
    else if (l->shared)
        cr__everywhere_unlisten(l);
    else
        cr__stream_unlisten(l);
}

const struct cr__errand_kind cr__listener_closes = {offsetof(struct cr__listening, errand), unlisten_errand};

static void listener_close(struct cr_listener *listener)
{
    struct cr__listening *l = CR__CONTAINER(listener, struct cr__listening, listener);
    if (cr__worker_here() == l->network->worker)
        cr__stream_unlisten(l);
    else
        cr__errand(l->network, CR__LISTENER_CLOSE, l);
}

static int listener_url(const struct cr_listener *listener, char *buf, size_t size_bytes)
{
    const struct cr__listening *l = CR__CONTAINER(listener, const struct cr__listening, listener);
    struct cr_addr addr;
    cr__ip_to_addr(&l->ip, l->port, &addr);
    return cr__url_format(CR__TCP, &addr, buf, size_bytes);
}

/* No accept_now: by that another worker takes what waits at one that is stuck. But these connections are at home there; nobody else may touch them, nor could drive them. */
static const struct cr__listener_ops listener_ops = {.accept = listener_accept, .close = listener_close, .url = listener_url};

static const struct cr__ip none;

/* An empty host, and the unspecified address of IPv6, are all addresses of both families, unless CR_V6_ONLY says otherwise; that of IPv4 is all of its own. */
static bool is_all(const struct cr__ip *ip)
{
    struct cr__ip none4 = cr__ip_v4(0);
    return cr__ip_equal(ip, &none) || cr__ip_equal(ip, &none4);
}

static enum cr__tcp_families families_of(const struct cr__ip *ip, const struct cr_conn_opts *opts)
{
    return !cr__ip_equal(ip, &none) ? CR__TCP_IP4_ONLY : opts->flags & CR_V6_ONLY ? CR__TCP_IP6_ONLY : CR__TCP_BOTH;
}

int cr__stream_listen_at(struct cr__network *network, struct cr__listening **out, const struct cr__ip *ip, uint16_t port, const struct cr_conn_opts *conn_opts)
{
    if (network->closed)
        return -EBADF;
    struct cr__listening *l = cr__mem_alloc(sizeof(*l), CR__MEM_CONNS);
    if (!l)
        return -ENOMEM;
    struct cr__tcp_opts opts = cr__stream_opts(conn_opts);
    opts.user = l;
    opts.families = families_of(ip, conn_opts);
    *l = (struct cr__listening){.listener.ops = &listener_ops, .network = network, .ip = *ip, .all = is_all(ip)};
    cr__net_now(network);
    int r = cr__tcp_listen(&network->host, &l->tcp, l->all ? NULL : ip, port, &opts);
    if (r < 0) {
        cr__mem_free(l, sizeof(*l), CR__MEM_CONNS);
        return r;
    }
    l->port = cr__tcp_listener_port(l->tcp);
    l->next = network->listeners;
    l->at = &network->listeners;
    if (l->next)
        l->next->at = &l->next;
    network->listeners = l;
    cr__net_got(network);
    *out = l;
    return 0;
}

static ssize_t listen_on(const struct cr__opening *o)
{
    struct cr__listening *l;
    struct cr__ip ip = {.halves = {0, 0}};
    int r = o->url->host[0] ? cr__net_addresses(o->network, o->url, &ip, 1, o->deadline_ns) : 0;
    if (r < 0)
        return r;
    if (o->network->spread)
        return cr__everywhere_listen(o->network, (struct cr_listener **)o->out, &ip, o->url->port, o->opts);
    r = cr__stream_listen_at(o->network, &l, &ip, o->url->port, o->opts);
    if (r == 0)
        *o->out = &l->listener;
    return r;
}

/* The network is there as long as its name is looked up. */
static ssize_t listen_here(void *arg)
{
    const struct cr__opening *o = arg;
    if (o->network->closed)
        return -EBADF;
    cr__net_got(o->network);
    ssize_t r = listen_on(o);
    cr__net_put(o->network);
    return r;
}

int cr__stream_listen(struct cr_net *net, struct cr_listener **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__opening o = {CR__CONTAINER(net, struct cr__network, net), (void **)out, url, opts, deadline_ns};
    if (!cr__net_opts_good(opts))
        return -EINVAL;
    return (int)(cr__net_here(o.network) ? listen_here(&o) : cr__visit_to_open(&o, listen_here));
}
