/* A server for tests of connections: a coroutine that accepts, and one for each connection that sends back what comes. */
#ifndef ECHO_H
#define ECHO_H

#include <crore/crore.h>

#include "test.h"

static inline void echoes(void *arg)
{
    struct cr_conn *conn = arg;
    struct cr_lent data;
    while (cr_recv_lend(conn, &data) > 0) {
        CHECK_EQ(cr_write_all(conn, data.bytes, data.size_bytes), (ssize_t)data.size_bytes);
        cr_recv_return(conn, &data);
        CHECK(data.bytes == NULL && data.size_bytes == 0);
    }
    cr_close(conn);
}

static inline void accepts(void *listener)
{
    struct cr_conn *conn;
    while (cr_accept(listener, &conn) == 0)
        CHECK_EQ(cr_go(echoes, conn), 0);
}

#endif
