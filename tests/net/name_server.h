/* A name server for tests (who includes it has CHECK and CHECK_EQ), on a network of our own: UDP and TCP at port 53, a zone of a few names, each with manners of its own. What
 * c-ares makes of its answers is c-ares'; what is shown by it is that questions and answers get through, and what becomes of those that don't. */
#ifndef NAME_SERVER_H
#define NAME_SERVER_H

#include <arpa/inet.h>
#include <crore/crore.h>
#include <string.h>
#include <strings.h>

enum manners {
    PLAIN,
    LONG,     /* by UDP the answer says that it is truncated; by TCP it has LONG_ADDRESSES */
    SILENT,   /* never answers */
    STALLING, /* truncated, and by TCP silent in the middle of the answer */
    BROKEN,   /* an answer that ends in the middle of a record */
    WARNED,   /* before the answer goes a datagram to port 999 of who asks */
    NOISY,    /* before the answer come what is too short, and what answers another question */
};

#define LONG_ADDRESSES 30

struct name {
    const char *name, *ip4, *ip6; /* NULL: it has no such address */
    enum manners manners;
};

static const struct name names[] = {
    {"both.example", "10.0.0.2", "fd00::2", PLAIN},       {"four.example", "10.0.0.2", NULL, PLAIN},    {"six.example", NULL, "fd00::2", PLAIN},
    {"neither.example", NULL, NULL, PLAIN},               {"far.example", "10.0.0.2", "2001:db8::1", PLAIN}, {"long.example", "10.0.1.1", NULL, LONG},
    {"silent.example", NULL, NULL, SILENT},               {"stalls.example", "10.0.0.2", NULL, STALLING},    {"broken.example", "10.0.0.2", "fd00::2", BROKEN},
    {"warned.example", "10.0.0.2", "fd00::2", WARNED},
    {"noisy.example", "10.0.0.2", NULL, NOISY},           {"short.search.example", "10.0.0.2", NULL, PLAIN},
};

#define DNS_BYTES 1500
#define DNS_A 1
#define DNS_AAAA 28

struct message {
    uint8_t bytes[DNS_BYTES];
    size_t size_bytes;
};

struct name_server {
    struct cr_conn *datagrams;
    struct cr_listener *streams;
    struct cr_co *by_udp, *by_tcp;
    bool closed;
    unsigned udp_questions, tcp_questions, families; /* families: bits of those that asked */
};

static inline void put16(struct message *m, unsigned value)
{
    CHECK(m->size_bytes + 2 <= DNS_BYTES);
    m->bytes[m->size_bytes++] = (uint8_t)(value >> 8);
    m->bytes[m->size_bytes++] = (uint8_t)value;
}

/* What is asked: the name, and behind it where its type is. 0: that is no question. */
static inline size_t name_in(const struct message *question, char *text, size_t size)
{
    size_t at = 12, used = 0;
    while (at < question->size_bytes && question->bytes[at]) {
        size_t label = question->bytes[at++];
        if (label > 63 || at + label + 5 > question->size_bytes || used + label + 2 > size)
            return 0;
        if (used)
            text[used++] = '.';
        memcpy(text + used, question->bytes + at, label);
        used += label;
        at += label;
    }
    text[used] = '\0';
    return at + 5 <= question->size_bytes ? at + 1 : 0;
}

static inline void put_address(struct message *m, int family, const char *ip, unsigned last)
{
    uint8_t address[16];
    size_t bytes = family == AF_INET ? 4 : 16;
    CHECK_EQ(inet_pton(family, ip, address), 1);
    address[bytes - 1] = (uint8_t)(address[bytes - 1] + last);
    put16(m, 0xc00c); /* the name that was asked for */
    put16(m, family == AF_INET ? DNS_A : DNS_AAAA);
    put16(m, 1);
    put16(m, 0), put16(m, 60);
    put16(m, (unsigned)bytes);
    CHECK(m->size_bytes + bytes <= DNS_BYTES);
    memcpy(m->bytes + m->size_bytes, address, bytes);
    m->size_bytes += bytes;
}

/* What is to be said; manners: of the name. Nothing: to be ignored. */
static inline void answer(const struct message *question, struct message *out, enum manners *manners, bool by_tcp)
{
    char asked[256];
    size_t at = name_in(question, asked, sizeof(asked));
    const struct name *name = NULL;
    *manners = PLAIN;
    out->size_bytes = 0;
    if (at == 0)
        return;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcasecmp(names[i].name, asked) == 0)
            name = &names[i];
    }
    int family = question->bytes[at + 1] == DNS_A ? AF_INET : AF_INET6;
    const char *ip = !name ? NULL : family == AF_INET ? name->ip4 : name->ip6;
    if (name)
        *manners = name->manners;
    bool is_long = *manners == LONG || *manners == STALLING, truncated = is_long && !by_tcp && ip;
    unsigned count = !ip || truncated ? 0 : *manners == LONG ? LONG_ADDRESSES : 1;
    memcpy(out->bytes, question->bytes, 2);
    out->size_bytes = 2;
    put16(out, 0x8180u | (truncated ? 0x0200u : 0) | (name ? 0 : 3u)); /* an answer, recursion as wished; TC; NXDOMAIN */
    put16(out, 1), put16(out, count), put16(out, 0), put16(out, 0);
    memcpy(out->bytes + 12, question->bytes + 12, at + 4 - 12);
    out->size_bytes = at + 4;
    for (unsigned i = 0; i < count; i++)
        put_address(out, family, ip, i);
    if (*manners == BROKEN && count > 0)
        out->size_bytes -= 3;
}

static inline void make_noise(struct cr_conn *conn, const struct message *answer, const struct cr_addr *to)
{
    struct message other = *answer;
    CHECK_EQ(cr_send_to(conn, "?!", 2, to), 2);
    other.bytes[0] ^= 0x55;
    CHECK_EQ(cr_send_to(conn, other.bytes, other.size_bytes, to), (ssize_t)other.size_bytes);
}

static inline void warn(struct cr_conn *conn, const struct cr_addr *client)
{
    static struct cr_addr to;
    to = *client;
    if (to.sa.ss_family == AF_INET)
        ((struct sockaddr_in *)&to.sa)->sin_port = htons(999);
    else
        ((struct sockaddr_in6 *)&to.sa)->sin6_port = htons(999);
    CHECK_EQ(cr_send_to(conn, "now", 3, &to), 3);
}

static inline void serve_datagrams(void *arg)
{
    struct name_server *server = arg;
    static struct message question, said;
    static struct cr_addr from;
    ssize_t n;
    while (!server->closed && (n = cr_recv_from(server->datagrams, question.bytes, sizeof(question.bytes), &from)) >= 0) {
        enum manners manners;
        question.size_bytes = (size_t)n;
        server->udp_questions++;
        server->families |= from.sa.ss_family == AF_INET ? 1 : 2;
        answer(&question, &said, &manners, false);
        if (said.size_bytes == 0 || manners == SILENT)
            continue;
        if (manners == NOISY)
            make_noise(server->datagrams, &said, &from);
        if (manners == WARNED)
            warn(server->datagrams, &from);
        CHECK_EQ(cr_send_to(server->datagrams, said.bytes, said.size_bytes, &from), (ssize_t)said.size_bytes);
    }
    CHECK(server->closed);
}

static inline bool read_whole(struct cr_conn *conn, uint8_t *to, size_t size_bytes)
{
    for (size_t got = 0; got < size_bytes;) {
        ssize_t n = cr_read(conn, to + got, size_bytes - got);
        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

/* Questions of one client, each with its length before it. Answers leave in two pieces. */
static inline void serve_stream(struct name_server *server, struct cr_conn *conn)
{
    static struct message question, said;
    static uint8_t head[2];
    while (read_whole(conn, head, 2) && read_whole(conn, question.bytes, question.size_bytes = (size_t)(head[0] << 8 | head[1]))) {
        enum manners manners;
        server->tcp_questions++;
        answer(&question, &said, &manners, true);
        head[0] = (uint8_t)(said.size_bytes >> 8), head[1] = (uint8_t)said.size_bytes;
        size_t first = said.size_bytes / 2;
        if (cr_write_all(conn, head, 2) < 0 || cr_write_all(conn, said.bytes, first) < 0)
            break;
        if (manners == STALLING)
            continue;
        if (cr_yield() < 0 || cr_write_all(conn, said.bytes + first, said.size_bytes - first) < 0)
            break;
    }
}

static inline void serve_streams(void *arg)
{
    struct name_server *server = arg;
    struct cr_conn *conn;
    while (!server->closed && cr_accept(server->streams, &conn) == 0) {
        serve_stream(server, conn);
        cr_close(conn);
    }
    CHECK(server->closed);
}

/* On all addresses of that network. with_tcp 0: nobody listens there. */
static inline void name_server_open(struct name_server *server, struct cr_net *net, int with_tcp)
{
    struct cr_conn_opts opts = {.net = net};
    *server = (struct name_server){0};
    CHECK_EQ(cr_bind(&server->datagrams, "udp://:53", &opts), 0);
    CHECK_EQ(cr_spawn_on(&server->by_udp, (unsigned)cr_worker_index(), serve_datagrams, server, NULL), 0);
    if (!with_tcp)
        return;
    CHECK_EQ(cr_listen(&server->streams, "tcp://:53", &opts), 0);
    CHECK_EQ(cr_spawn_on(&server->by_tcp, (unsigned)cr_worker_index(), serve_streams, server, NULL), 0);
}

static inline void name_server_close(struct name_server *server)
{
    server->closed = true;
    cr_close(server->datagrams);
    CHECK_EQ(cr_join(server->by_udp), 0);
    if (!server->streams)
        return;
    cr_listener_close(server->streams);
    CHECK_EQ(cr_join(server->by_tcp), 0);
}

#endif
