/* An echo server: each connection is served by a coroutine that reads and writes as if it blocked.
 *     echo [URL]        default tcp://127.0.0.1:7000; try it with: nc 127.0.0.1 7000 */
#include <crore/crore.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void session(void *arg)
{
    struct cr_conn *conn = arg;
    struct cr_lent data;
    while (cr_recv_lend(conn, &data) > 0) {
        if (cr_write_all(conn, data.bytes, data.size_bytes) < 0)
            break;
        cr_recv_return(conn, &data);
    }
    cr_close(conn); /* gives back what is still lent */
}

static void app(void *arg)
{
    const char *url = arg;
    struct cr_listener *l;
    int r = cr_listen(&l, url, NULL);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", url, strerror(-r));
        return;
    }
    for (;;) {
        struct cr_conn *conn;
        r = cr_accept(l, &conn);
        if (r == -ECANCELED)
            break;
        if (r < 0)
            cr_sleep(10 * CR_MS); /* out of files or memory: those who wait stay in the backlog */
        else if (cr_go(session, conn) < 0)
            cr_close(conn);
    }
    cr_listener_close(l);
}

int main(int argc, char **argv)
{
    return cr_run(app, argc > 1 ? argv[1] : "tcp://127.0.0.1:7000", NULL) < 0;
}
