/* Scripts: the user's calls. */
#ifndef CR_TEST_SCRIPT_CALLS_H
#define CR_TEST_SCRIPT_CALLS_H

#include "script_words.h"

struct args {
    uint32_t numbers[4];
    unsigned count;
    uint32_t flow, from, port;
    struct cr__ip to;
    bool more;
    struct cr__tcp_opts opts;
};

static void arguments(const char **at, struct args *args)
{
    *args = (struct args){.flow = 1, .port = LOCAL_PORT, .to = remote_ip};
    must(at, "(");
    while (!take(at, ")")) {
        static const struct {
            const char *name;
            size_t offset;
        } named[] = {{"flow=", offsetof(struct args, flow)}, {"from=", offsetof(struct args, from)}, {"port=", offsetof(struct args, port)}, {"backlog=", offsetof(struct args, opts.backlog)},
                     {"recv=", offsetof(struct args, opts.recv_limit_bytes)}, {"send=", offsetof(struct args, opts.send_limit_bytes)},
                     {"keepalive_ms=", offsetof(struct args, opts.keepalive_ms)}, {"user_timeout_ms=", offsetof(struct args, opts.user_timeout_ms)}};
        bool found = true;
        if (take(at, "...") || take(at, "SHUT_WR") || take(at, "SOCK_STREAM") || take(at, "IPPROTO_TCP")) {
        } else if (take(at, "more")) {
            args->more = true;
        } else if (take(at, "to_broadcast")) {
            args->to = cr__ip_v4(htonl(script.net4 | 0xff));
        } else if (take(at, "to_multicast")) {
            args->to = cr__ip_v4(htonl(0xe0000001));
        } else if (take(at, "to_nobody")) {
            args->to = cr__ip_v4(0);
        } else if (take(at, "nagle")) {
            args->opts.nagle = true;
        } else {
            found = false;
            for (size_t i = 0; i < CR__COUNT(named) && !found; i++) {
                found = take(at, named[i].name);
                if (found) {
                    uint32_t value = number(at);
                    memcpy((char *)args + named[i].offset, &value, sizeof(value));
                }
            }
            if (!found && take(at, "keepalive"))
                found = args->opts.keepalive = true;
        }
        if (!found && args->count < CR__COUNT(args->numbers))
            args->numbers[args->count++] = number(at);
        take(at, ",");
    }
    if (args->opts.keepalive_ms)
        args->opts.keepalive = true;
}

static int errno_of(const char *name)
{
    for (int code = 1; code < 134; code++) {
        const char *known = strerrorname_np(code);
        if (known && strcmp(known, name) == 0)
            return code;
    }
    fail("no error: %s", name);
}

static const char *name_of(long long result, char *text, size_t size)
{
    const char *known = result < 0 ? strerrorname_np((int)-result) : NULL;
    snprintf(text, size, known ? "%lld (%s)" : "%lld", result, known);
    return text;
}

static long long events_of(const char **at)
{
    long long events = 0;
    char name[32];
    do {
        word(at, name, sizeof(name));
        events |= strcmp(name, "OPENED") == 0     ? CR__TCP_OPENED
                  : strcmp(name, "READABLE") == 0 ? CR__TCP_READABLE
                  : strcmp(name, "WRITABLE") == 0 ? CR__TCP_WRITABLE
                  : strcmp(name, "ENDED") == 0    ? CR__TCP_ENDED
                  : strcmp(name, "NOTHING") == 0  ? 0
                                                  : (fail("no event: %s", name), 0);
    } while (take(at, "|"));
    return events;
}

static struct user *user_of(const struct args *args)
{
    if (args->count == 0 || args->numbers[0] >= FDS)
        fail("a call needs a descriptor below %d", FDS);
    return &script.users[args->numbers[0]];
}

static struct cr__tcp *tcp_of(struct user *user)
{
    if (!user->tcp)
        fail("no connection of that number");
    script.current = user;
    return user->tcp;
}

static long long accept_one(struct user *user, uint32_t fd)
{
    if (!user->listener)
        fail("not a listener");
    struct cr__tcp *tcp = cr__tcp_accept(user->listener);
    if (!tcp)
        return -EAGAIN;
    if (fd >= FDS)
        fail("accept = a number below %d", FDS);
    script.users[fd] = (struct user){.tcp = tcp, .written = 1, .read = 1};
    tcp->user[0] = &script.users[fd];
    script.current = &script.users[fd];
    return fd;
}

static long long dial(struct user *user, const struct args *args)
{
    *user = (struct user){.written = 1, .read = 1};
    int rc = cr__tcp_dial(&host, &user->tcp, NULL, (uint16_t)args->from, &args->to, (uint16_t)(REMOTE_PORT + args->flow), &args->opts);
    if (rc == 0) {
        user->tcp->user[0] = user;
        script.current = user;
        script.flows[args->flow].local_port = user->tcp->local_port;
    } else {
        user->tcp = NULL;
    }
    return rc;
}

static long long write_some(struct user *user, size_t size, bool more)
{
    struct cr__tcp *tcp = tcp_of(user);
    if (size > sizeof(stream))
        fail("too much at once");
    fill(stream, user->written, size);
    struct iovec iov = {stream, size};
    ssize_t n = cr__tcp_send(tcp, &iov, 1, more);
    user->written += n > 0 ? (uint32_t)n : 0;
    return n;
}

static long long read_some(struct user *user, size_t size)
{
    struct cr__tcp *tcp = tcp_of(user);
    struct iovec iov = {stream, size < sizeof(stream) ? size : sizeof(stream)};
    ssize_t n = cr__tcp_recv(tcp, &iov, 1);
    if (n > 0) {
        check_stream(stream, user->read, (size_t)n);
        user->read += (uint32_t)n;
    }
    return n;
}

static long long lend(struct user *user)
{
    if (user->lent_count == CR__COUNT(user->lent))
        fail("too many lent");
    struct cr__tcp *tcp = tcp_of(user);
    struct cr_packet *packet;
    ssize_t n = cr__tcp_recv_lend(tcp, &packet);
    if (n > 0) {
        check_stream(packet->data, user->read, (size_t)n);
        user->read += (uint32_t)n;
        user->lent[user->lent_count++] = packet;
    }
    return n;
}

static long long give_back(struct user *user)
{
    struct cr__tcp *tcp = tcp_of(user);
    while (user->lent_count)
        cr__tcp_recv_return(tcp, user->lent[--user->lent_count]);
    return 0;
}

static long long gone(struct user *user, void (*how)(struct cr__tcp *tcp))
{
    if (user->listener) {
        cr__tcp_unlisten(user->listener);
        user->listener = NULL;
        return 0;
    }
    give_back(user);
    struct cr__tcp *tcp = tcp_of(user);
    tcp->user[0] = NULL;
    user->tcp = NULL;
    how(tcp);
    return 0;
}

static void call(const char **at)
{
    char name[32], text[2][64];
    struct args args;
    word(at, name, sizeof(name));
    arguments(at, &args);
    struct user *user = user_of(&args);
    bool said = take(at, "=");
    const char *result = *at;
    skip(&result);
    long long wanted = 0, came = 0;
    if (said && strcmp(name, "events") == 0)
        wanted = events_of(at);
    else if (said && isdigit((unsigned char)*result))
        wanted = number(at);
    else if (said) {
        char code[32];
        take(at, "-1");
        take(at, "-");
        word(at, code, sizeof(code));
        wanted = -errno_of(code);
    }
    if (strcmp(name, "listen") == 0) {
        args.opts.backlog = args.count > 1 ? (int)args.numbers[1] : args.opts.backlog;
        came = cr__tcp_listen(&host, &user->listener, NULL, (uint16_t)args.port, &args.opts);
    } else if (strcmp(name, "accept") == 0) {
        came = accept_one(user, (uint32_t)wanted);
    } else if (strcmp(name, "connect") == 0 || strcmp(name, "dial") == 0) {
        came = dial(user, &args);
    } else if (strcmp(name, "write") == 0) {
        wanted = said ? wanted : args.numbers[1];
        came = write_some(user, args.numbers[1], args.more);
    } else if (strcmp(name, "read") == 0) {
        wanted = said ? wanted : args.numbers[1];
        came = read_some(user, args.numbers[1]);
    } else if (strcmp(name, "lend") == 0) {
        came = lend(user);
    } else if (strcmp(name, "give") == 0) {
        came = give_back(user);
    } else if (strcmp(name, "shutdown") == 0) {
        came = cr__tcp_shutdown(tcp_of(user));
    } else if (strcmp(name, "close") == 0) {
        came = gone(user, cr__tcp_close);
    } else if (strcmp(name, "abort") == 0) {
        came = gone(user, cr__tcp_abort);
    } else if (strcmp(name, "events") == 0) {
        came = user->events;
        user->events = 0;
    } else if (strcmp(name, "error") == 0) {
        came = -(long long)tcp_of(user)->error;
    } else if (strcmp(name, "socket") != 0 && strcmp(name, "bind") != 0) {
        fail("no call: %s", name);
    }
    if (came != wanted)
        fail("expected: %s\n#   came:     %s", name_of(wanted, text[0], sizeof(text[0])), name_of(came, text[1], sizeof(text[1])));
}

#endif
