/* The same calls to the kernel's sockets and to ours: the answers are the same. */
#include "networks.h"

/* Either provider, and what it has answered to one call after the other. */
struct provider {
    struct cr_conn_opts dialling, listening;
    const char *where, *other_family; /* to listen; a source to dial from */
    char url[128], here[64];
    struct cr_listener *listener;
    ssize_t answers[64];
    const char *calls[64];
    size_t count;
};

#define ANSWERS(provider, call) ((provider)->calls[(provider)->count] = #call, (provider)->answers[(provider)->count++] = (call))

static void connect_by(struct provider *p, struct cr_conn **client, struct cr_conn **server)
{
    CHECK_EQ(cr_dial(client, p->url, &p->dialling), 0);
    CHECK_EQ(cr_accept_until(p->listener, server, cr_after(CR_SEC)), 0);
}

static void pause_a_bit(void)
{
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
}

static void try_what_has_ended(struct provider *p)
{
    struct cr_conn *client, *server;
    char buf[8];
    connect_by(p, &client, &server);
    cr_close(server), pause_a_bit(); /* his end, and then a reset, for what he can't read any more */
    ANSWERS(p, cr_write(client, "x", 1)), pause_a_bit();
    ANSWERS(p, cr_write(client, "x", 1)), ANSWERS(p, cr_read(client, buf, 8)), ANSWERS(p, cr_read(client, buf, 8));
    cr_close(client);
    connect_by(p, &client, &server);
    cr_close_reset(server), pause_a_bit();
    ANSWERS(p, cr_read(client, buf, 8)), ANSWERS(p, cr_read(client, buf, 8)), ANSWERS(p, cr_write(client, "x", 1));
    cr_close(client);
    connect_by(p, &client, &server);
    cr_close_reset(server), pause_a_bit();
    ANSWERS(p, cr_write(client, "x", 1)), ANSWERS(p, cr_write(client, "x", 1)), ANSWERS(p, cr_read(client, buf, 8));
    cr_close(client);
    connect_by(p, &client, &server);
    ANSWERS(p, cr_write(client, "unread", 6)), pause_a_bit();
    cr_close(server), pause_a_bit();
    ANSWERS(p, cr_read(client, buf, 8)), ANSWERS(p, cr_write(client, "x", 1));
    cr_close(client);
}

static void try_counts(struct provider *p)
{
    static struct iovec many[1025];
    struct cr_conn *client, *server;
    char c;
    for (size_t i = 0; i < sizeof(many) / sizeof(*many); i++)
        many[i] = (struct iovec){(void *)"x", 1};
    connect_by(p, &client, &server);
    ANSWERS(p, cr_writev(client, many, 1024)), ANSWERS(p, cr_writev(client, many, 1025)), ANSWERS(p, cr_writev(client, many, -1)), ANSWERS(p, cr_writev(client, many, 0));
    CHECK_EQ(cr_wait_readable(server), 0);
    for (size_t i = 0; i < sizeof(many) / sizeof(*many); i++)
        many[i] = (struct iovec){&c, 1};
    ANSWERS(p, cr_readv(server, many, 1025)), ANSWERS(p, cr_readv(server, many, -1)), ANSWERS(p, cr_readv(server, many, 1));
    cr_close(client), cr_close(server);
}

/* A port of its own that is free. */
static void note_free_port(struct provider *p)
{
    struct cr_conn *client, *server;
    char text[64];
    connect_by(p, &client, &server);
    CHECK(cr_local_url(client, text, sizeof(text)) > 0);
    CHECK(snprintf(p->here, sizeof(p->here), "%s", text + strlen("tcp://")) > 0);
    cr_close_reset(client), cr_close_reset(server);
}

static void try_sources(struct provider *p)
{
    struct cr_conn *client, *server, *second;
    struct cr_conn_opts from = p->dialling;
    from.source = p->here;
    int r = -EADDRINUSE;
    for (int tries = 0; tries < 20 && r == -EADDRINUSE; tries++) { /* the kernel's ports are everybody's: somebody may have been quicker */
        note_free_port(p);
        r = cr_dial(&client, p->url, &from);
    }
    ANSWERS(p, r), ANSWERS(p, cr_accept_until(p->listener, &server, cr_after(CR_SEC)));
    ANSWERS(p, cr_dial(&second, p->url, &from));
    cr_close_reset(client), cr_close_reset(server);
    from.source = p->other_family;
    ANSWERS(p, cr_dial_until(&client, p->url, &from, cr_after(CR_SEC)));
}

static void try_dials(struct provider *p)
{
    struct cr_conn *client;
    char nowhere[128];
    strcpy(nowhere, p->url);
    strcpy(strrchr(nowhere, ':'), ":0");
    ANSWERS(p, cr_dial_until(&client, nowhere, &p->dialling, cr_after(CR_SEC)));
    ANSWERS(p, cr_dial_until(&client, p->url, &p->dialling, 0));
}

static void try_listening_twice(struct provider *p)
{
    struct cr_listener *first, *second, *third;
    struct cr_conn_opts shares = p->listening;
    char text[128];
    shares.flags = CR_REUSE_PORT;
    ANSWERS(p, cr_listen(&third, p->url, &p->listening)), ANSWERS(p, cr_listen(&third, p->url, &shares));
    ANSWERS(p, cr_listen(&first, p->where, &shares));
    CHECK(cr_listener_url(first, text, sizeof(text)) > 0);
    ANSWERS(p, cr_listen(&second, text, &shares)), ANSWERS(p, cr_listen(&third, text, &p->listening));
    cr_listener_close(first), cr_listener_close(second);
}

static void try_all(struct provider *p)
{
    CHECK_EQ(cr_listen(&p->listener, p->where, &p->listening), 0);
    CHECK(cr_listener_url(p->listener, p->url, sizeof(p->url)) > 0);
    try_what_has_ended(p);
    try_counts(p);
    try_sources(p);
    try_dials(p);
    try_listening_twice(p);
    cr_listener_close(p->listener);
}

TEST_CO(what_fails_fails_as_it_does_over_the_kernels_sockets)
{
    static struct provider kernel = {.where = "tcp://127.0.0.1:0", .other_family = "[::1]"};
    static struct provider own = {.where = "tcp://10.0.0.2:0", .other_family = "[fd00::1]"};
    open_both();
    own.dialling.net = left;
    own.listening.net = right;
    try_all(&kernel);
    try_all(&own);
    CHECK_EQ(own.count, kernel.count);
    for (size_t i = 0; i < own.count; i++) {
        if (own.answers[i] != kernel.answers[i])
            printf("# %zu: %s is %zd, the kernel has %zd\n", i, own.calls[i], own.answers[i], kernel.answers[i]);
        CHECK_EQ(own.answers[i], kernel.answers[i]);
    }
    close_both();
}

TEST_CO(a_source_of_the_other_family_is_refused_at_once)
{
    struct cr_conn *conn;
    struct cr_net_stats stats;
    open_both();
    CHECK_EQ(cr_dial(&conn, "tcp://10.0.0.2:80", &(struct cr_conn_opts){.net = left, .source = "[fd00::1]:9"}), -EAFNOSUPPORT);
    CHECK_EQ(cr_dial(&conn, "tcp://[fd00::2]:80", &(struct cr_conn_opts){.net = left, .source = "10.0.0.1"}), -EAFNOSUPPORT);
    CHECK_EQ(cr_dial(&conn, "udp://10.0.0.2:80", &(struct cr_conn_opts){.net = left, .source = "[fd00::1]:9"}), -EAFNOSUPPORT);
    CHECK_EQ(cr_dial(&conn, "udp://[fd00::2]:80", &(struct cr_conn_opts){.net = left, .source = "10.0.0.1"}), -EAFNOSUPPORT);
    CHECK_EQ(cr_net_stats_get(left, &stats), 0);
    CHECK_EQ(stats.sent, 0);
    close_both();
}

TEST_CO(who_dials_an_address_that_nobody_has_is_told_after_three_seconds)
{
    struct cr_conn *conn;
    open_both();
    int64_t begin_ns = cr_now();
    CHECK_EQ(cr_dial_until(&conn, "tcp://10.0.0.9:80", &at_left, cr_after(30 * CR_SEC)), -EHOSTUNREACH);
    CHECK(cr_now() - begin_ns < 10 * CR_SEC);
    close_both();
}

TEST_CO(a_socket_for_datagrams_shares_its_port_with_nobody)
{
    struct cr_conn *conn;
    open_both();
    CHECK_EQ(cr_bind(&conn, "udp://10.0.0.2:53", &(struct cr_conn_opts){.net = right, .flags = CR_REUSE_PORT}), -EOPNOTSUPP);
    close_both();
}
