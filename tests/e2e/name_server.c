/* A name server for net_test.py, on a network of our own, and an echo server at port 80:
 *
 *     name_server SPEC
 *
 * Says "ready", and ends when it is killed. The names that it knows: tests/net/name_server.h. */
#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond) ((cond) ? (void)0 : (void)(fprintf(stderr, "not so: %s\n", #cond), abort()))
#define CHECK_EQ(a, b) CHECK((a) == (b))
#include "net/name_server.h"

static struct name_server server;

static void session(struct cr_conn *conn, void *unused)
{
    char buf[4096];
    ssize_t n;
    (void)unused;
    while ((n = cr_read(conn, buf, sizeof(buf))) > 0 && cr_write_all(conn, buf, (size_t)n) > 0)
        ;
    cr_close(conn);
}

static void app(void *spec)
{
    static struct cr_net *net;
    static struct cr_server *echo;
    CHECK_EQ(cr_net_open(&net, spec), 0);
    name_server_open(&server, net, 1);
    CHECK_EQ(cr_serve(&echo, "tcp://:80", session, NULL, &(struct cr_serve_opts){.conn.net = net}), 0);
    printf("ready\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    return cr_run(app, argv[1], &(struct cr_config){.workers = 1}) < 0;
}
