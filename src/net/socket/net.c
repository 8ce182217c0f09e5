/* A network: opened, driven in turns of its worker's loop, closed. And what streams and datagrams have in common: who waits, and addresses. */
#include "net/socket/socket.h"

#include <netinet/in.h>
#include <string.h>

#include "os/os.h"

#define TURN_BURSTS 8                 /* received in one turn, before coroutines have theirs */
#define FULL_PAUSE_NS (100 * CR_US)   /* a link that takes no more says not when it does again: then it is tried */
#define FULL_AT_ONCE 4                /* so often before that with the next turn: who is to make room may be on this worker */

/* ---- Driving it -------------------------------------------------------------------------------------------------- */

/* Hands what is to leave to the link. Returns whether all of it was taken. */
static bool send_out(struct cr__network *network)
{
    struct cr__host *host = &network->host;
    while (host->out.count > 0) {
        uint32_t count;
        struct cr_packet **frames = cr__host_peek(host, &count);
        int burst = count < CR_LINK_BURST ? (int)count : CR_LINK_BURST;
        int taken = network->link->ops->send(network->link, frames, burst);
        if (taken > 0)
            cr__host_taken(host, (uint32_t)taken);
        if (taken < burst)
            return false;
    }
    return true;
}

/* Returns whether there may be more than it has taken. */
static bool receive(struct cr__network *network, int64_t now_ns)
{
    struct cr_packet *frames[CR_LINK_BURST];
    for (int burst = 0; burst < TURN_BURSTS; burst++) {
        int count = network->link->ops->recv(network->link, frames, CR_LINK_BURST);
        int ours = CR__UNLIKELY(network->deals) ? cr__spread_deal(network, frames, count) : count;
        for (int i = 0; i < ours; i++) {
            int left = ours - i;
            if (i % CR__TCP_FORESEEN == 0 && left > 1)
                cr__tcp_foresee(&network->host, frames + i, left < CR__TCP_FORESEEN ? (unsigned)left : CR__TCP_FORESEEN);
            cr__host_input(&network->host, frames[i], now_ns);
        }
        if (count < CR_LINK_BURST)
            return false;
        if (!send_out(network))
            return true; /* what has come will be answered, for which there is no room */
    }
    return true;
}

static int64_t link_due_ns(const struct cr_link *link)
{
    return link->ops->due_ns ? link->ops->due_ns(link) : INT64_MAX;
}

/* What only one that is on several workers has to do. Whether that is all, because it is about to be closed. */
static bool begin_spread_turn(struct cr__network *network)
{
    network->service.due_ns = CR_FOREVER;
    for (struct cr__listening *l = network->listeners; l && !network->closed; l = l->next)
        cr__everywhere_told(l);
    return network->closed;
}

static void turn(struct cr__worker *w, struct cr__service *service)
{
    struct cr__network *network = CR__CONTAINER(service, struct cr__network, service);
    if (CR__UNLIKELY(network->spread != NULL) && begin_spread_turn(network))
        return;
    bool more = receive(network, w->now_ns);
    int64_t due_ns = cr__host_tick(&network->host, w->now_ns);
    bool more_out = CR__UNLIKELY(network->deals) && cr__spread_gather(network);
    bool sent = send_out(network);
    more |= more_out && sent; /* else it is tried again as is said below */
    int64_t link_ns = link_due_ns(network->link);
    due_ns = link_ns < due_ns ? link_ns : due_ns;
    if (more || network->link->ops->arm(network->link))
        cr__service_poke(service);
    if (sent) {
        network->full = 0;
    } else if (network->full < FULL_AT_ONCE) {
        network->full++;
        cr__service_poke(service);
    } else {
        int64_t again_ns = w->now_ns + FULL_PAUSE_NS;
        due_ns = again_ns < due_ns ? again_ns : due_ns;
    }
    service->due_ns = due_ns;
}

static void on_link_ready(struct cr_link *link)
{
    cr__service_poke(&((struct cr__network *)link->user)->service);
}

/* What leaves is gathered. (Handing each frame to the link at once costs 13 to 25 % more for an echo over 1,000 connections of mem:, 1.96 to 2.31 us of 1.73 to 1.78.) */
void cr__net_touched(struct cr__network *network)
{
    if (CR__UNLIKELY(network->closed))
        return;
    if (network->host.out.count >= CR_LINK_BURST && network->full == 0)
        send_out(network);
    cr__service_poke(&network->service);
}

/* ---- Its end ------------------------------------------------------------------------------------------------------ */

static void free_if_over(struct cr__network *network)
{
    if (!network->closed || !network->released || network->handles > 0)
        return;
    cr__stream_drop_all(network);
    cr__datagram_drop_all(network);
    cr__udp_fini(&network->host);
    cr__tcp_fini(&network->host);
    cr__host_fini(&network->host);
    if (network->spread)
        cr__spread_put(network->spread, &network->worker->packets);
    else
        cr__mem_free(network, sizeof(*network), CR__MEM_OTHER);
}

static void released(struct cr__service *service)
{
    struct cr__network *network = CR__CONTAINER(service, struct cr__network, service);
    network->released = true;
    free_if_over(network);
}

void cr__net_got(struct cr__network *network)
{
    network->handles++;
}

void cr__net_put(struct cr__network *network)
{
    CR__ASSERT(network->handles > 0);
    network->handles--;
    free_if_over(network);
}

ssize_t cr__net_held(const struct cr__opening *o, ssize_t (*fn)(const struct cr__opening *o))
{
    if (o->network->closed)
        return -EBADF;
    cr__net_got(o->network);
    ssize_t r = fn(o);
    cr__net_put(o->network);
    return r;
}

/* From here on nothing happens in it, but that users close what they have. */
static void fall_silent(struct cr__network *network)
{
    cr__net_now(network);
    cr__stream_close_all(network);
    cr__datagram_close_all(network);
    send_out(network);
    network->closed = true;
}

static void left(void *network)
{
    cr__net_put(network);
}

const struct cr__errand_kind cr__network_left = {offsetof(struct cr__network, errand), left};

struct cr__visited cr__net_visited(struct cr__network *network)
{
    return (struct cr__visited){network, &network->visits, left, CR__NETWORK_LEFT, network};
}

static void let_go(struct cr__network *network)
{
    if (!cr__visits_closed(&network->visits))
        cr__net_got(network); /* theirs, until the last one has left */
    if (!network->spread || network->deals) /* another part's is a lane, which stays until the last is gone */
        cr_link_close(network->link);
    network->link = NULL;
    cr__service_close(&network->service); /* may free it */
}

static void close_network(struct cr__network *network)
{
    fall_silent(network);
    let_go(network);
}

static ssize_t fall_silent_there(void *part)
{
    fall_silent(part);
    return 0;
}

static ssize_t let_go_there(void *part)
{
    let_go(part);
    return 0;
}

static ssize_t begin_to_close(void *network)
{
    return cr__spread_closing(((struct cr__network *)network)->spread);
}

static ssize_t send_rest(void *network)
{
    while (cr__spread_gather(network) && send_out(network))
        ;
    return 0;
}

static ssize_t close_there(void *network)
{
    close_network(network);
    return 0;
}

/* In a coroutine, wherever that is. */
static void close_spread(struct cr__network *network)
{
    if (!cr__visit_surely(network, begin_to_close, network))
        return; /* somebody else is at it */
    cr__spread_each(network->spread, fall_silent_there);
    cr__visit_surely(network, send_rest, network);
    cr__spread_each(network->spread, let_go_there);
    cr__visit_surely(network, close_there, network);
}

/* The runtime has ended. First all networks say so to their peers; of one that is on all workers each part puts that where the first one finds it. */
static void fall_silent_at_last(struct cr__worker *w, struct cr__service *service)
{
    (void)w;
    fall_silent(CR__CONTAINER(service, struct cr__network, service));
}

/* Nobody uses his handles any more. */
static void end(struct cr__worker *w, struct cr__service *service)
{
    struct cr__network *network = CR__CONTAINER(service, struct cr__network, service);
    (void)w;
    network->handles = 0;
    atomic_store_explicit(&network->visits, 0, memory_order_relaxed);
    if (network->spread)
        cr__spread_over(network->spread);
    while (network->deals && cr__spread_gather(network) && send_out(network))
        ;
    send_out(network);
    let_go(network);
}

void cr_net_close(struct cr_net *net)
{
    struct cr__network *network = CR__CONTAINER(net, struct cr__network, net);
    struct cr__worker *w;
    if (!net || cr__worker_here() != network->worker || network->closed)
        return;
    if (!network->spread)
        close_network(network);
    else if (cr__running(&w))
        close_spread(network);
}

/* ---- Opening ------------------------------------------------------------------------------------------------------ */

static const struct cr__net_ops net_ops;

static int open_host(struct cr__network *network, struct cr__wish *wish)
{
    struct cr_link_info info;
    network->link->ops->info(network->link, &info);
    if (!wish->has_mac)
        memcpy(wish->host.ethernet, info.address, sizeof(info.address));
    unsigned most = info.mtu_bytes < 1500 ? info.mtu_bytes : 1500;
    wish->host.mtu_bytes = (uint16_t)(wish->mtu_bytes ? wish->mtu_bytes : most);
    wish->host.no_checksums = (info.flags & CR_LINK_NO_CHECKSUMS) != 0;
    wish->host.packets = &network->worker->packets;
    if (cr__os_random(wish->host.seed, sizeof(wish->host.seed)) != (int)sizeof(wish->host.seed))
        return -EIO;
    if (wish->host.mtu_bytes > info.mtu_bytes)
        return cr__wish_refuse(network->worker, network->spec, "mtu=", "more than the link carries");
    int r = cr__host_init(&network->host, &wish->host, network->worker->now_ns);
    if (r == -EINVAL) /* all else has been looked at */
        return cr__wish_refuse(network->worker, network->spec, wish->words, "carries too little: IPv4 needs 576 bytes, IPv6 1280");
    if (r < 0)
        return r;
    wish->tcp.above = cr__stream_above;
    r = cr__tcp_init(&network->host, &wish->tcp);
    if (network->deals)
        network->host.above.tcp = cr__spread_arrival;
    if (r == 0) {
        r = cr__udp_init(&network->host, &(struct cr__udp_config){.event = cr__datagram_event});
        if (r < 0)
            cr__tcp_fini(&network->host);
    }
    if (r < 0)
        cr__host_fini(&network->host);
    return r;
}

static int open_network(struct cr__network *network, struct cr__wish *wish)
{
    int r = cr__link_open(&network->link, wish->words, network->worker); /* closed by the network's service, not by one of its own */
    if (r == -EINVAL)
        return cr__wish_refuse(network->worker, network->spec, wish->words, cr__link_wrong(wish->words));
    if (r < 0)
        return r;
    network->worker = cr__worker_here();
    network->deals = wish->on_all_workers && network->worker->sched->count > 1;
    if (network->deals)
        wish->host.share = cr__spread_share(network->worker->sched->count, network->worker->index);
    r = network->deals && wish->host.share.count == 0 ? -EIO : open_host(network, wish);
    if (r < 0) {
        cr_link_close(network->link);
        return r;
    }
    network->link->user = network;
    network->link->ready = on_link_ready;
    return 0;
}

static void begin_service(struct cr__network *network)
{
    network->errands_post.fn = cr__errands_do;
    network->service = (struct cr__service){.turn = turn, .fall_silent = fall_silent_at_last, .end = end, .released = released, .tell = cr__net_tell_dump, .due_ns = CR_FOREVER};
    cr__service_open(network->worker, &network->service);
}

struct parting {
    struct cr__network *first;
    struct cr__wish *wish;
};

/* The same on another worker, which this is. */
static int open_part(struct cr__network **out, struct cr_link *link, void *arg)
{
    const struct parting *p = arg;
    struct cr__network *network = cr__mem_alloc_aligned(sizeof(*network), CR__MEM_OTHER);
    if (!network)
        return -ENOMEM;
    strcpy(network->spec, p->first->spec);
    strcpy(network->name_servers, p->first->name_servers);
    network->net.ops = &net_ops;
    network->worker = cr__worker_here();
    network->link = link;
    network->spread = p->first->spread;
    p->wish->host.share.mine = network->worker->index;
    int r = open_host(network, p->wish);
    if (r < 0) {
        cr__mem_free(network, sizeof(*network), CR__MEM_OTHER);
        return r;
    }
    begin_service(network);
    *out = network;
    return 0;
}

/* Opened on its own worker, it goes on the others. */
static int spread(struct cr__network *network, struct cr__wish *wish)
{
    struct parting parting = {network, wish};
    int r = cr__spread_open(network, open_part, &parting);
    if (r < 0 && network->spread)
        close_spread(network);
    else if (r < 0)
        close_network(network);
    return r;
}

int cr_net_open(struct cr_net **out, const char *spec)
{
    struct cr__worker *w;
    if (!cr__running(&w))
        return -EPERM;
    if (!spec)
        return -EINVAL;
    struct cr__wish *wish = cr__mem_alloc(sizeof(*wish), CR__MEM_OTHER);
    struct cr__network *network = wish ? cr__mem_alloc_aligned(sizeof(*network), CR__MEM_OTHER) : NULL;
    int r = network ? cr__wish_parse(w, wish, spec) : -ENOMEM;
    if (r == 0 && wish->on_all_workers && cr__migrates(w, &cr__running(&w)->co))
        r = -EPERM; /* it may be elsewhere when it has been opened, and only its own worker may close it */
    if (r == 0) {
        strcpy(network->spec, spec);
        strcpy(network->name_servers, wish->name_servers);
        network->worker = w;
        network->net.ops = &net_ops;
        r = open_network(network, wish);
    }
    if (r < 0) {
        cr__mem_free(wish, sizeof(*wish), CR__MEM_OTHER);
        cr__mem_free(network, sizeof(*network), CR__MEM_OTHER);
        return r;
    }
    cr__control_start();
    begin_service(network);
    if (network->deals)
        r = spread(network, wish);
    cr__mem_free(wish, sizeof(*wish), CR__MEM_OTHER);
    if (r == 0)
        *out = &network->net;
    return r;
}

/* ---- As a provider ------------------------------------------------------------------------------------------------ */

bool cr__net_opts_good(const struct cr_conn_opts *opts)
{
    return !(opts->flags & ~(unsigned)(CR_REUSE_PORT | CR_V6_ONLY | CR_NAGLE | CR__FIRST_ON_PORT | CR__NOT_AHEAD)) && opts->backlog >= 0 && opts->send_buffer_bytes >= 0 &&
           opts->recv_buffer_bytes >= 0 && opts->keepalive_ms >= 0 && opts->user_timeout_ms >= 0;
}

static int net_listen(struct cr_net *net, struct cr_listener **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    return url->scheme == CR__TCP ? cr__stream_listen(net, out, url, opts, deadline_ns) : url->scheme == CR__UNIX ? -EPROTONOSUPPORT : -EINVAL;
}

static int net_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    if (url->scheme == CR__UNIX)
        return -EPROTONOSUPPORT;
    return (url->scheme == CR__TCP ? cr__stream_dial : cr__datagram_dial)(net, out, url, opts, deadline_ns);
}

static int net_bind(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    return url->scheme == CR__UDP ? cr__datagram_bind(net, out, url, opts, deadline_ns) : -EINVAL;
}

static const struct cr__net_ops net_ops = {.listen = net_listen, .dial = net_dial, .bind = net_bind, .ask = cr__asker_ask};

/* ---- Addresses ---------------------------------------------------------------------------------------------------- */

int cr__ip_of_addr(const struct cr_addr *addr, struct cr__ip *ip, uint16_t *port)
{
    if (addr->sa.ss_family == AF_INET && addr->size_bytes >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, &addr->sa, sizeof(in));
        *ip = cr__ip_v4(in.sin_addr.s_addr);
        *port = ntohs(in.sin_port);
        return 0;
    }
    if (addr->sa.ss_family == AF_INET6 && addr->size_bytes >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &addr->sa, sizeof(in6));
        memcpy(ip->bytes, &in6.sin6_addr, sizeof(ip->bytes));
        *port = ntohs(in6.sin6_port);
        return 0;
    }
    return -EAFNOSUPPORT;
}

void cr__ip_to_addr(const struct cr__ip *ip, uint16_t port, struct cr_addr *out)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = ip->parts[3]};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&in6.sin6_addr, ip->bytes, sizeof(ip->bytes));
    memset(out, 0, sizeof(*out));
    if (cr__ip_is_v4(ip))
        memcpy(&out->sa, &in, out->size_bytes = sizeof(in));
    else
        memcpy(&out->sa, &in6, out->size_bytes = sizeof(in6));
}

/* Numeric ones at once: cr_resolve_on_until does not suspend for them. */
int cr__net_addresses(struct cr__network *network, const struct cr__url *url, struct cr__ip *ips, int count, int64_t deadline_ns)
{
    struct cr_addr addrs[CR__NET_ADDRESSES];
    uint16_t port;
    int n = cr_resolve_on_until(&network->net, url->host, url->port, addrs, count < CR__NET_ADDRESSES ? count : CR__NET_ADDRESSES, deadline_ns);
    for (int i = 0; i < n; i++) {
        int r = cr__ip_of_addr(&addrs[i], &ips[i], &port);
        if (r < 0)
            return r;
    }
    return n;
}

int cr__net_source(struct cr__network *network, const struct cr__url *url, const struct cr_conn_opts *opts, struct cr__ip *ip, uint16_t *port, int64_t deadline_ns)
{
    struct cr__url source = {.scheme = url->scheme};
    int r = cr__url_parse_authority(&source, opts->source, false);
    if (r == 0)
        r = cr__net_addresses(network, &source, ip, 1, deadline_ns);
    if (r < 0)
        return r;
    *port = source.port;
    return cr__ip_is_ours(&network->host, ip) ? 0 : -EADDRNOTAVAIL;
}

/* ---- Waiting ------------------------------------------------------------------------------------------------------ */

/* Takes place in the slot. */
static int take_slot(struct cr__worker *w, struct cr__record *me, void **slot, enum cr__wait_kind kind, int64_t deadline_ns)
{
    if (*slot)
        return -EBUSY;
    int r = cr__wait_begin(w, me, kind, slot, deadline_ns);
    if (r < 0)
        return r;
    *slot = me;
    cr__wait_outside(w, 1);
    return 0;
}

/* It goes on: leaves the slot, if that is still there. */
static int leave_slot(struct cr__worker *w, struct cr__record *me, int r)
{
    void **slot = (void **)me->node.object;
    cr__wait_outside(w, -1);
    if (!slot)
        return -EBADF; /* whatever came first */
    *slot = NULL;
    return r;
}

/* A task's. After -ETIMEDOUT conn.c calls the operation once more, which looks, and finds that it is too late to wait. */
int cr__net_finish(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    return leave_slot(w, me, cr__wait_arrive(me, deadline_ns));
}

static CR__NOINLINE int begin_for_task(void **slot, enum cr__wait_kind kind, int64_t deadline_ns)
{
    struct cr__leaf leaf;
    leaf.me = cr__acting(&leaf.worker);
    if (!leaf.me)
        return -EPERM;
    int r = take_slot(leaf.worker, leaf.me, slot, kind, deadline_ns);
    if (r < 0)
        return r;
    cr__leaf_finish_set(leaf.me, cr__net_finish);
    return cr__leaf_wait(&leaf, deadline_ns);
}

int cr__net_wait(struct cr__network *network, void **slot, enum cr__wait_kind kind, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (CR__UNLIKELY(network->closed))
        return -EBADF;
    if (CR__UNLIKELY(!me))
        return begin_for_task(slot, kind, deadline_ns);
    int r = take_slot(w, me, slot, kind, deadline_ns);
    if (CR__UNLIKELY(r < 0)) {
        cr__breathe(w); /* whoever tries again and again must not keep the other one from running */
        return r;
    }
    r = leave_slot(w, me, cr__wait_suspend_here(w, me, deadline_ns)); /* it stays on its worker: cr__net_here */
    return r == -ETIMEDOUT ? CR__NET_TOO_LATE : r;
}

int cr__net_wait_held(struct cr__network *network, const void *object, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (network->closed)
        return -EBADF;
    int r = cr__wait_begin(w, me, CR__WAIT_NET_READABLE, object, deadline_ns);
    if (r < 0) {
        cr__breathe(w);
        return r;
    }
    cr__wait_outside(w, 1);
    r = cr__wait_suspend_here(w, me, deadline_ns); /* it stays on its worker */
    cr__wait_outside(w, -1);
    return r;
}

/* In the slot while it yields, as if it waited: so it is told if that goes. Who finds it occupied has somebody beside him who waits, and need not yield for his sake. */
int cr__net_breathe(struct cr__network *network, void **slot, int64_t deadline_ns)
{
    struct cr__worker *w = network->worker;
    struct cr__record *me;
    if (CR__LIKELY(--w->io_budget > 0) || deadline_ns <= w->now_ns || *slot || !(me = cr__running(&w)))
        return 0;
    me->node.object = (uintptr_t)slot;
    *slot = me;
    cr_yield();
    if (!me->node.object)
        return -EBADF;
    *slot = NULL;
    return 0;
}

void cr__net_hold(void **slot, struct cr__slot_hold *hold)
{
    CR__ASSERT(!*slot);
    *slot = (void *)((uintptr_t)hold | 1);
}

void cr__net_evict(struct cr__network *network, void **slot)
{
    void *in = *slot;
    *slot = NULL;
    if (!in)
        return;
    if ((uintptr_t)in & 1) {
        ((struct cr__slot_hold *)((uintptr_t)in - 1))->gone = true;
        return;
    }
    struct cr__record *record = in;
    record->node.object = 0;
    cr__wake(network->worker, record, CR__CLOSED);
}
