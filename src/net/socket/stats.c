/* What is told of a network: in numbers, to a program; in text, to people, on an fd or as a part of a dump. By its own worker. */
#include "net/socket/socket.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sched/tally.h"

#define CONNECTIONS_TOLD 1000
#define CONNECTIONS_IN_DUMP 32
#define NEIGHBOURS_TOLD 32
#define LINE_BYTES 400
#define SPEC_TOLD 120 /* so the line fits: one that does not is left out of a dump */

static const char *const causes[CR__DROPS] = {
    [CR__DROP_FRAME_SHORT] = "frame too short",
    [CR__DROP_FRAME_TYPE] = "frame of an unknown type",
    [CR__DROP_FRAME_OTHERS] = "frame to somebody else",
    [CR__DROP_IP_HEADER] = "malformed IP header",
    [CR__DROP_IP_CHECKSUM] = "bad IP checksum",
    [CR__DROP_IP_OTHERS] = "to an address that is not ours",
    [CR__DROP_IP_SOURCE] = "from an address that can be nobody's",
    [CR__DROP_IP_PROTOCOL] = "unknown protocol",
    [CR__DROP_IP_OPTIONS] = "IP options that are refused",
    [CR__DROP_NO_ROUTE] = "no route",
    [CR__DROP_NEIGHBOUR_FULL] = "too many wait for a neighbour",
    [CR__DROP_NEIGHBOUR_FAILED] = "neighbour did not answer",
    [CR__DROP_FRAGMENT_OVERLAP] = "fragments overlap",
    [CR__DROP_FRAGMENT_TINY] = "fragment too small",
    [CR__DROP_FRAGMENT_LIMIT] = "too many fragments",
    [CR__DROP_FRAGMENT_TIMEOUT] = "fragments that did not come",
    [CR__DROP_FRAGMENT_LONG] = "fragments of too much",
    [CR__DROP_ARP_MALFORMED] = "malformed ARP",
    [CR__DROP_ARP_CONFLICT] = "somebody else has our address",
    [CR__DROP_NDP_MALFORMED] = "malformed NDP",
    [CR__DROP_ICMP_MALFORMED] = "malformed ICMP",
    [CR__DROP_ICMP_TYPE] = "ICMP of no use",
    [CR__DROP_ICMP_LIMIT] = "ICMP not sent, by the rate limit",
    [CR__DROP_UDP_MALFORMED] = "malformed UDP",
    [CR__DROP_UDP_CHECKSUM] = "bad UDP checksum",
    [CR__DROP_UDP_NO_PORT] = "no such UDP port",
    [CR__DROP_UDP_FULL] = "UDP queue full",
    [CR__DROP_TCP_MALFORMED] = "malformed TCP",
    [CR__DROP_TCP_CHECKSUM] = "bad TCP checksum",
    [CR__DROP_TCP_NO_PORT] = "no such TCP port",
    [CR__DROP_TCP_WINDOW] = "outside of the window",
    [CR__DROP_TCP_PAWS] = "old timestamp (PAWS)",
    [CR__DROP_TCP_ACK] = "ACK of what was not sent",
    [CR__DROP_TCP_DUPLICATE] = "duplicate",
    [CR__DROP_TCP_FULL] = "receive queue full",
    [CR__DROP_TCP_BACKLOG] = "backlog full",
    [CR__DROP_TCP_COOKIE] = "bad SYN cookie",
    [CR__DROP_TCP_LIMIT] = "TCP answer not sent, by the rate limit",
    [CR__DROP_TCP_ORPHAN] = "closed, and given up before all had arrived",
    [CR__DROP_NO_PACKET] = "no packet buffer",
    [CR__DROP_LINK_FULL] = "link full",
};

static const struct cr__network *network_of(const struct cr_net *net)
{
    return CR__CONTAINER(net, const struct cr__network, net);
}

/* ---- In numbers ---------------------------------------------------------------------------------------------------- */

static void fill(const struct cr__network *network, struct cr_net_stats *out)
{
    const struct cr__host *host = &network->host;
    const struct cr__tcp_layer *tcp = host->tcp;
    *out = (struct cr_net_stats){
        .received = host->received,
        .sent = host->sent,
        .opened = tcp->opened,
        .accepted = tcp->accepted,
        .retransmits = tcp->retransmits,
        .resets_sent = tcp->resets_sent,
        .cookies_sent = tcp->cookies_sent,
        .cookies_good = tcp->cookies_good,
        .challenges = tcp->challenges,
        .connections = tcp->connections,
        .half_open = tcp->half_open,
        .time_wait = tcp->waiting,
    };
    network->link->ops->info(network->link, &out->link);
    for (unsigned i = 0; i < CR__DROPS; i++)
        out->dropped += host->drops[i];
    for (const struct cr__listening *l = network->listeners; l; l = l->next)
        out->listeners++;
}

static int may_look(const struct cr__network *network)
{
    return cr__worker_here() != network->worker ? -EPERM : network->closed ? -EBADF : 0;
}

/* One that is spread is looked at on each worker, one after the other. */
struct look {
    struct cr__network *at;
    void (*fn)(const struct cr__network *network, void *arg);
    void *arg;
};

static ssize_t look_there(void *arg)
{
    const struct look *look = arg;
    if (look->at->closed)
        return -EBADF;
    look->fn(look->at, look->arg);
    return 0;
}

static int look_at_all(const struct cr__network *network, void (*fn)(const struct cr__network *network, void *arg), void *arg)
{
    int r = may_look(network);
    if (r < 0 || !network->spread) {
        if (r == 0)
            fn(network, arg);
        return r;
    }
    struct cr__spread *spread = network->spread;
    const struct cr__visited what = cr__net_visited((struct cr__network *)network);
    cr__visits_hold(&what); /* it is there until this is over, though it may be closed meanwhile */
    for (unsigned i = 0; i < cr__spread_count(spread) && r == 0; i++) {
        struct look look = {cr__spread_at(spread, i), fn, arg};
        r = (int)(cr__net_here(look.at) ? look_there(&look) : cr__visit(look.at, look_there, &look));
    }
    if (cr__worker_here() == what.network->worker)
        cr__visits_leave(&what);
    else
        cr__visits_drop(&what);
    return r;
}

static void add(const struct cr__network *network, void *arg)
{
    struct cr_net_stats *sum = arg, one;
    fill(network, &one);
    if (!network->spread || network->deals)
        sum->link = one.link;
    sum->received += one.received;
    sum->sent += one.sent;
    sum->dropped += one.dropped;
    sum->opened += one.opened;
    sum->accepted += one.accepted;
    sum->retransmits += one.retransmits;
    sum->resets_sent += one.resets_sent;
    sum->cookies_sent += one.cookies_sent;
    sum->cookies_good += one.cookies_good;
    sum->challenges += one.challenges;
    sum->connections += one.connections;
    sum->half_open += one.half_open;
    sum->time_wait += one.time_wait;
    if (!network->spread || network->deals)
        sum->listeners = one.listeners; /* the same on each */
}

int cr_net_stats_get(const struct cr_net *net, struct cr_net_stats *out)
{
    *out = (struct cr_net_stats){0};
    return look_at_all(network_of(net), add, out);
}

struct cause {
    unsigned cause;
    uint64_t count;
};

static void add_cause(const struct cr__network *network, void *arg)
{
    struct cause *cause = arg;
    cause->count += network->host.drops[cause->cause];
}

const char *cr_net_cause(const struct cr_net *net, unsigned cause, uint64_t *count)
{
    struct cause sum = {cause, 0};
    if (cause >= CR__DROPS || cr__worker_here() != network_of(net)->worker)
        return NULL;
    if (count && look_at_all(network_of(net), add_cause, &sum) == -EPERM)
        sum.count = network_of(net)->host.drops[cause]; /* a task: the first one's */
    if (count)
        *count = sum.count;
    return causes[cause] ? causes[cause] : "other";
}

struct info_look {
    const struct cr__tcp *tcp;
    struct cr_tcp_info *out;
};

static ssize_t info_there(void *arg)
{
    const struct info_look *look = arg;
    if (cr__network_of(look->tcp->host)->closed)
        return -EBADF;
    cr__tcp_info(look->tcp, look->out);
    return 0;
}

int cr_tcp_info_get(const struct cr_conn *conn, struct cr_tcp_info *out)
{
    if (conn->ops != &cr__tcp_conn_ops)
        return -EOPNOTSUPP;
    const struct cr__tcp *tcp = cr__tcp_of(conn);
    const struct cr__network *network = cr__network_of(tcp->host);
    struct info_look look = {tcp, out};
    if (cr__worker_here() != network->worker && !network->spread)
        return -EPERM;
    struct cr__visited what = cr__stream_visited((struct cr__tcp *)tcp);
    return (int)(cr__worker_here() == network->worker ? info_there(&look) : cr__visit_at(&what, info_there, &look));
}

/* ---- In text ------------------------------------------------------------------------------------------------------- */

/* To an fd, or into memory, of which the end is left out if it does not fit. */
struct text {
    struct cr__out *out; /* NULL: into memory */
    char *bytes;
    size_t size_bytes, used;
    unsigned most; /* connections that are still to be told */
};

static void CR__PRINTF(2, 3) put(struct text *text, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (text->out) {
        cr__out_put(text->out, "%s", line);
    } else if (length > 0 && (size_t)length < sizeof(line) && text->used + (size_t)length < text->size_bytes) {
        memcpy(text->bytes + text->used, line, (size_t)length + 1);
        text->used += (size_t)length;
    }
}

static const char *place(const struct cr__ip *ip, uint16_t port, char *buf, size_t size_bytes)
{
    struct cr_addr addr;
    cr__ip_to_addr(ip, port, &addr);
    int length = cr__url_format(CR__TCP, &addr, buf, size_bytes);
    return length < 0 ? "?" : buf + strlen("tcp://");
}

/* Without a port. */
static const char *ip_text(const struct cr__ip *ip, char *buf, size_t size_bytes)
{
    char *text = (char *)place(ip, 0, buf, size_bytes);
    char *colon = strrchr(text, ':');
    if (colon)
        *colon = '\0';
    return text;
}

static unsigned bits_told(const struct cr__ip *ip, uint8_t bits)
{
    return cr__ip_is_v4(ip) ? bits - 96u : bits;
}

static void tell_places(const struct cr__network *network, struct text *text)
{
    const struct cr__host_config *config = &network->host.config;
    char a[80], b[80];
    for (unsigned i = 0; i < config->address_count; i++)
        put(text, "  address %s/%u\n", ip_text(&config->addresses[i].ip, a, sizeof(a)), bits_told(&config->addresses[i].ip, config->addresses[i].prefix_bits));
    for (unsigned i = 0; i < config->route_count; i++) {
        const struct cr__host_route *route = &config->routes[i];
        bool v4 = cr__ip_is_v4(route->via ? &route->gateway : &route->to);
        put(text, "  route %s/%u%s%s\n", ip_text(&route->to, a, sizeof(a)), v4 ? route->prefix_bits - 96u : route->prefix_bits, route->via ? " by " : "",
            route->via ? ip_text(&route->gateway, b, sizeof(b)) : "");
    }
    if (network->name_servers[0])
        put(text, "  name servers %s\n", network->name_servers);
    for (const struct cr__listening *l = network->listeners; l; l = l->next)
        put(text, "  listens on %s\n", place(&l->ip, l->port, a, sizeof(a)));
}

static void tell_neighbour(const struct cr__neighbour_told *n, void *arg)
{
    char a[80];
    put(arg, "  neighbour %s at %02x:%02x:%02x:%02x:%02x:%02x: %s\n", ip_text(&n->ip, a, sizeof(a)), n->ethernet[0], n->ethernet[1], n->ethernet[2], n->ethernet[3], n->ethernet[4],
        n->ethernet[5], n->state);
}

static void tell_causes(const struct cr__network *network, struct text *text)
{
    for (unsigned i = 0; i < CR__DROPS; i++) {
        if (network->host.drops[i])
            put(text, "  dropped: %s: %llu\n", causes[i] ? causes[i] : "other", (unsigned long long)network->host.drops[i]);
    }
}

static const char *const states[] = {
    [CR_TCP_ESTABLISHED] = "established", [CR_TCP_SYN_SENT] = "SYN sent",      [CR_TCP_SYN_RECV] = "SYN received", [CR_TCP_FIN_WAIT1] = "FIN wait 1",
    [CR_TCP_FIN_WAIT2] = "FIN wait 2",    [CR_TCP_TIME_WAIT] = "TIME-WAIT",    [CR_TCP_CLOSE] = "closed",          [CR_TCP_CLOSE_WAIT] = "close wait",
    [CR_TCP_LAST_ACK] = "last ACK",       [CR_TCP_LISTEN] = "listens",         [CR_TCP_CLOSING] = "closing",
};

static void tell_connection(struct cr__tcp *tcp, void *arg)
{
    struct text *text = arg;
    struct cr_tcp_info info;
    char a[80], b[80];
    cr__tcp_info(tcp, &info);
    put(text, "  %s to %s: %s, cwnd %u, rtt %u.%03u ms, %u in flight, %u sent again, %u to be read, %u to be sent%s\n",
        place(&tcp->host->config.addresses[tcp->local].ip, tcp->local_port, a, sizeof(a)), place(&tcp->peer, tcp->peer_port, b, sizeof(b)),
        info.state < sizeof(states) / sizeof(*states) && states[info.state] ? states[info.state] : "?", info.snd_cwnd, info.rtt_us / 1000, info.rtt_us % 1000, info.unacked,
        info.total_retrans, info.rcv_queued_bytes, info.notsent_bytes, tcp->conn.ops ? "" : ", nobody's");
}

static void tell(const struct cr__network *network, struct text *text)
{
    struct cr_net_stats stats;
    fill(network, &stats);
    put(text, "network \"%.*s\" on worker %u: link %s, %llu received, %llu sent, %llu dropped there, %llu here\n", SPEC_TOLD, network->spec, network->worker->index,
        stats.link.up ? "up" : "down", (unsigned long long)stats.link.received, (unsigned long long)stats.link.sent, (unsigned long long)stats.link.dropped,
        (unsigned long long)stats.dropped);
    put(text, "  %u connections (%llu dialled, %llu accepted so far), %u half open, %u in TIME-WAIT, %llu segments sent again, %llu resets, %llu cookies of which %llu came back\n",
        stats.connections, (unsigned long long)stats.opened, (unsigned long long)stats.accepted, stats.half_open, stats.time_wait, (unsigned long long)stats.retransmits,
        (unsigned long long)stats.resets_sent, (unsigned long long)stats.cookies_sent, (unsigned long long)stats.cookies_good);
    tell_places(network, text);
    cr__host_neighbours(&network->host, NEIGHBOURS_TOLD, tell_neighbour, text);
    tell_causes(network, text);
    uint32_t told = cr__tcp_some((struct cr__host *)&network->host, text->most, tell_connection, text);
    text->most -= told;
    if (told < stats.connections)
        put(text, "  and %u more connections\n", stats.connections - told);
}

static void tell_all(const struct cr__network *network, void *arg)
{
    tell(network, arg);
}

int cr_net_tell(const struct cr_net *net, int fd, unsigned connections)
{
    int r = may_look(network_of(net));
    struct cr__out *out = r == 0 ? cr__mem_alloc(sizeof(*out), CR__MEM_OTHER) : NULL;
    if (!out)
        return r < 0 ? r : -ENOMEM;
    struct text text = {.out = out, .most = connections ? connections : CONNECTIONS_TOLD};
    cr__out_init(out, fd, NULL);
    r = look_at_all(network_of(net), tell_all, &text);
    cr__out_flush(out);
    cr__mem_free(out, sizeof(*out), CR__MEM_OTHER);
    return r;
}

void cr__net_tell_dump(struct cr__service *service, char *bytes, size_t size_bytes)
{
    struct cr__network *network = CR__CONTAINER(service, struct cr__network, service);
    struct text text = {.bytes = bytes, .size_bytes = size_bytes, .most = CONNECTIONS_IN_DUMP};
    tell(network, &text);
}
