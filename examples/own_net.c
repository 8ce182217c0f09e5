/* Two networks of this program's own, with a wire of memory between them: no kernel takes part in what they say to each other. */
#include <crore/crore.h>
#include <stdio.h>
#include <string.h>

static struct cr_net *here, *there;

static void session(void *arg)
{
    struct cr_conn *conn = arg;
    struct cr_lent data;
    while (cr_recv_lend(conn, &data) > 0) { /* the packet itself, as it arrived */
        if (cr_write_all(conn, data.bytes, data.size_bytes) < 0)
            break;
        cr_recv_return(conn, &data);
    }
    cr_close(conn);
}

static void server(void *listener)
{
    struct cr_conn *conn;
    while (cr_accept(listener, &conn) == 0) {
        if (cr_go(session, conn) < 0)
            cr_close(conn);
    }
    cr_listener_close(listener);
}

static void app(void *unused)
{
    struct cr_listener *l;
    struct cr_conn *conn;
    char answer[64];
    (void)unused;
    if (cr_net_open(&here, "mem:wire addr=10.0.0.1/24") < 0 || cr_net_open(&there, "mem:wire addr=10.0.0.2/24") < 0)
        return;
    if (cr_listen(&l, "tcp://10.0.0.2:7", &(struct cr_conn_opts){.net = there}) < 0 || cr_go(server, l) < 0)
        return;
    if (cr_dial(&conn, "tcp://10.0.0.2:7", &(struct cr_conn_opts){.net = here}) < 0)
        return;
    ssize_t n = cr_write_all(conn, "hello", 5) == 5 ? cr_read(conn, answer, sizeof(answer)) : -1;
    printf("%.*s\n", n > 0 ? (int)n : 0, answer);
    fflush(stdout);
    cr_net_tell(here, 1, 0);
    cr_close(conn);
    cr_shutdown(); /* the server waits for more */
}

int main(void)
{
    return cr_run(app, NULL, &(struct cr_config){.workers = 1}) < 0;
}
