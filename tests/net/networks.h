/* What tests of networks as programs use them share: two of them on one worker, with a mem: link between, and the calls of crore/conn.h. */
#ifndef NETWORKS_H
#define NETWORKS_H

#include <crore/crore.h>

#include "capture.h"
#include "mem/mem.h"
#include "mem/packet.h"
#include "net/socket/socket.h"
#include "echo.h"
#include "test.h"

#define LEFT "mem:a addr=10.0.0.1/24 addr=fd00::1/64"
#define RIGHT "mem:a addr=10.0.0.2/24 addr=fd00::2/64"

static struct cr_net *left, *right;
static struct cr_conn_opts at_left, at_right;

/* With CR_PCAP the left one records. */
static inline void open_left(const char *spec)
{
    char path[256], recording[512];
    capture_begin();
    if (!capture_path(path, sizeof(path))) {
        CHECK_EQ(cr_net_open(&left, spec), 0);
        return;
    }
    CHECK(snprintf(recording, sizeof(recording), "pcap:%s,%s", path, spec) < (int)sizeof(recording));
    CHECK_EQ(cr_net_open(&left, recording), 0);
}

static inline void open_both_as(const char *left_spec, const char *right_spec)
{
    open_left(left_spec);
    CHECK_EQ(cr_net_open(&right, right_spec), 0);
    at_left.net = left;
    at_right.net = right;
}

static inline void open_both(void)
{
    open_both_as(LEFT, RIGHT);
}

static inline void close_both(void)
{
    cr_net_close(left);
    cr_net_close(right);
}

static char url[128];

static inline struct cr_listener *listen_right(const char *where)
{
    struct cr_listener *l;
    CHECK_EQ(cr_listen(&l, where, &at_right), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    return l;
}

/* Both ends of a fresh connection. */
static inline void connect_pair_on(const char *where, struct cr_conn **client, struct cr_conn **server)
{
    struct cr_listener *l = listen_right(where);
    CHECK_EQ(cr_dial(client, url, &at_left), 0);
    CHECK_EQ(cr_accept(l, server), 0);
    cr_listener_close(l);
}

static inline void connect_pair(struct cr_conn **client, struct cr_conn **server)
{
    connect_pair_on("tcp://10.0.0.2:0", client, server);
}

static inline void read_exactly(struct cr_conn *conn, char *to, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = cr_read(conn, to + got, size - got);
        CHECK(n > 0);
        got += (size_t)n;
    }
}

static int done;

/* With who echoes. */
static inline void talk(struct cr_conn *conn, int number)
{
    char text[32], back[32];
    for (int i = 0; i < 20; i++) {
        int size = snprintf(text, sizeof(text), "%d says %d", number, i);
        CHECK_EQ(cr_write_all(conn, text, (size_t)size), size);
        read_exactly(conn, back, (size_t)size);
        CHECK(memcmp(text, back, (size_t)size) == 0);
    }
}

static inline void talks(void *number)
{
    struct cr_conn *conn;
    CHECK_EQ(cr_dial(&conn, url, &at_left), 0);
    talk(conn, (int)(intptr_t)number);
    cr_close(conn);
    done++;
}

static struct cr_conn *shared_conn;
static ssize_t read_result;

static inline void reads(void *unused)
{
    char buf[16];
    (void)unused;
    read_result = 1000;
    read_result = cr_read(shared_conn, buf, sizeof(buf));
    done++;
}

#endif
