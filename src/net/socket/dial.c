/* TCP for programs: dialling, one of a name's addresses after the other. */
#include "net/socket/socket.h"

/* Waits for what becomes of it. Nobody else knows it yet. */
static int await_open(struct cr__network *network, struct cr__tcp *tcp, int64_t deadline_ns)
{
    if (deadline_ns != CR_FOREVER && deadline_ns <= cr_now())
        return -ETIMEDOUT; /* waiting yields all the same, and in that turn the answer may come */
    while (tcp->state == CR__TCP_SYN_SENT || tcp->state == CR__TCP_SYN_RECEIVED) {
        int r = cr__net_wait(network, &tcp->user[CR__OUT], CR__WAIT_NET_WRITABLE, deadline_ns);
        if (r != 0 && tcp->state <= CR__TCP_SYN_RECEIVED && tcp->state != CR__TCP_CLOSED)
            return r == CR__NET_TOO_LATE ? -ETIMEDOUT : r;
    }
    return tcp->state == CR__TCP_CLOSED ? -(int)tcp->error : network->closed ? -EBADF : 0;
}

int cr__stream_begin(struct cr__network *network, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, uint16_t to_port,
                     const struct cr__tcp_opts *opts)
{
    if (network->closed)
        return -EBADF;
    cr__net_now(network);
    int r = cr__tcp_dial(&network->host, out, from, from_port, to, to_port, opts);
    if (r < 0)
        return r;
    (*out)->conn.ops = &cr__tcp_conn_ops;
    (*out)->user[CR__IN] = (*out)->user[CR__OUT] = NULL;
    cr__net_touched(network);
    cr__net_got(network);
    return 0;
}

static int dial_one(const struct cr__opening *o, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, int64_t deadline_ns)
{
    struct cr__network *network = o->network;
    struct cr__tcp_opts opts = cr__stream_opts(o->opts);
    int r = cr__stream_begin(network, out, from, from_port, to, o->url->port, &opts); /* the network is there as long as this waits */
    if (r < 0)
        return r;
    r = await_open(network, *out, deadline_ns);
    if (r < 0) {
        cr__tcp_abort(*out);
        cr__net_touched(network);
        cr__net_put(network);
        return r;
    }
    return 0;
}

/* By a visitor, of whom the caller's stack is none of the business: this waits. */
struct attempt_there {
    struct cr__visit visit;
    struct cr__opening opening;
    struct cr__url url;
    struct cr_conn_opts opts;
    struct cr__tcp *tcp;
    struct cr__ip from, to;
    uint16_t from_port;
};

static ssize_t dial_there(void *arg)
{
    struct attempt_there *t = arg;
    return dial_one(&t->opening, &t->tcp, &t->from, t->from_port, &t->to, t->opening.deadline_ns);
}

static int dial_by_visit(const struct cr__opening *o, struct cr__network *network, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to)
{
    struct attempt_there *t = cr__mem_alloc(sizeof(*t), CR__MEM_OTHER);
    if (!t)
        return -ENOMEM;
    *t = (struct attempt_there){.opening = *o, .url = *o->url, .opts = *o->opts, .from = *from, .to = *to, .from_port = from_port};
    t->opening.network = network;
    t->opening.url = &t->url;
    t->opening.opts = &t->opts;
    t->visit = (struct cr__visit){.to = network->worker, .fn = dial_there, .arg = t, .deadline_ns = o->deadline_ns, .opens = true};
    int r = (int)cr__visit_wait(&t->visit);
    *out = t->tcp;
    cr__mem_free(t, sizeof(*t), CR__MEM_OTHER);
    return r;
}

/* Who names his port gets a connection of the worker that its answers come to. */
static int dial_from_port(const struct cr__opening *o, struct cr__tcp **out, const struct cr__ip *from, uint16_t from_port, const struct cr__ip *to, int64_t deadline_ns)
{
    struct cr__opening until = *o;
    struct cr__network *network = cr__spread_whose(o->network, from, from_port, to, o->url->port);
    until.deadline_ns = deadline_ns;
    return network == o->network ? dial_one(&until, out, from, from_port, to, deadline_ns) : dial_by_visit(&until, network, out, from, from_port, to);
}

/* A deadline for the first of so many attempts: one that is not answered must leave time for the others. */
static int64_t share_of(int64_t deadline_ns, int attempts)
{
    int64_t now_ns = cr_now();
    return deadline_ns == CR_FOREVER || deadline_ns <= now_ns ? deadline_ns : now_ns + (deadline_ns - now_ns) / attempts;
}

static bool is_last_word(int r, int64_t deadline_ns)
{
    if (r == -ETIMEDOUT)
        return deadline_ns != CR_FOREVER && cr_now() >= deadline_ns;
    return r == 0 || r == -ECANCELED || r == -ENOMEM || r == -EBADF;
}

static ssize_t dial_all(const struct cr__opening *o)
{
    struct cr__ip ips[CR__NET_ADDRESSES], from;
    uint16_t from_port = 0;
    int r = o->opts->source ? cr__net_source(o->network, o->url, o->opts, &from, &from_port, o->deadline_ns) : 0;
    if (r < 0)
        return r;
    int count = r = cr__net_addresses(o->network, o->url, ips, CR__NET_ADDRESSES, o->deadline_ns);
    for (int i = 0; i < count; i++) {
        struct cr__tcp *tcp;
        int64_t until_ns = share_of(o->deadline_ns, count - i);
        r = from_port ? dial_from_port(o, &tcp, &from, from_port, &ips[i], until_ns) : dial_one(o, &tcp, o->opts->source ? &from : NULL, 0, &ips[i], until_ns);
        if (r == 0)
            *o->out = &tcp->conn;
        if (is_last_word(r, o->deadline_ns))
            break;
    }
    return r;
}

static ssize_t dial_here(void *opening)
{
    return cr__net_held(opening, dial_all);
}

int cr__stream_dial(struct cr_net *net, struct cr_conn **out, const struct cr__url *url, const struct cr_conn_opts *opts, int64_t deadline_ns)
{
    struct cr__opening o = {CR__CONTAINER(net, struct cr__network, net), (void **)out, url, opts, deadline_ns};
    if (!cr__net_opts_good(opts) || url->host[0] == '\0')
        return -EINVAL;
    o.network = cr__spread_here(o.network);
    return (int)(cr__net_here(o.network) ? dial_here(&o) : cr__visit_to_open(&o, dial_here));
}
