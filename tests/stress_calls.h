/* Steps of stress_test.c's coroutines: sleeping, yielding, blocking calls, sockets. */
#ifndef CR_TEST_STRESS_CALLS_H
#define CR_TEST_STRESS_CALLS_H

#include "stress.h"

static void step_sleep(struct self *me)
{
    int64_t until_ns = soon(me);
    int r = cr_sleep_until(until_ns);
    check_answer(r, until_ns, 0);
    if (r == 0)
        CHECK(cr_now() >= until_ns);
}

static void step_yield(struct self *me)
{
    for (unsigned i = below(me, 10); i > 0; i--)
        CHECK_EQ(cr_yield(), 0);
}

static void step_mask(struct self *me)
{
    bool before = me->masked;
    if (me->depth > DEEPEST)
        return;
    mask((int64_t)below(me, 3000) * CR_US);
    me->depth++;
    me->masked = true;
    steps(me, below(me, 3));
    me->masked = before;
    me->depth--;
    CHECK_EQ(cr_cancel_unmask(), 0);
}

static void adds_one(void *arg)
{
    ++*(unsigned *)arg;
}

static void step_blocking(struct self *me)
{
    unsigned ran = 0;
    int64_t until_ns = one_in(me, 2) ? CR_FOREVER : soon(me);
    int r = cr_blocking_until(adds_one, &ran, until_ns);
    check_answer(r, until_ns, 0);
    CHECK_EQ(ran, r == 0);
}

struct reader {
    struct cr_conn *conn;
    size_t got;
    int64_t r;
    bool begun, done;
};

static void reads(void *arg)
{
    struct reader *reader = arg;
    unsigned char bytes[300];
    reader->begun = true;
    while ((reader->r = cr_read(reader->conn, bytes, sizeof(bytes))) > 0) {
        for (ssize_t i = 0; i < reader->r; i++)
            CHECK_EQ(bytes[i], (reader->got + (size_t)i) % 251);
        reader->got += (size_t)reader->r;
    }
    reader->done = true;
}

static void fill(unsigned char *bytes, size_t size, size_t from)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)((from + i) % 251);
}

/* Both ends of a pair: what is read is what was written, in its order, as far as it came. The reader ends by the end of the stream, by being cancelled, or
 * since its end is closed under it: by its own worker, since else it might be just about to read. */
static void step_sockets(struct self *me)
{
    if (!may_spawn(me))
        return;
    int fds[2];
    struct cr_conn *a, *b;
    struct cr_scope *scope;
    CHECK(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0); /* a race detector that knows of the fds misses how they are closed */
    CHECK_EQ(cr_conn_from_fd(&a, fds[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&b, fds[1]), 0);
    CHECK_EQ(cr_scope_open(&scope, one_in(me, 2) ? soon(me) : CR_FOREVER), 0);
    struct reader on_stack, *reader = lend(&on_stack, sizeof(on_stack));
    reader->conn = b;
    struct cr_attr attr = {.flags = one_in(me, 2) ? CR_MIGRATABLE : 0};
    int spawned = cr_scope_spawn(scope, reads, reader, &attr);
    size_t sent = 0;
    ssize_t n = 0;
    unsigned char bytes[500];
    for (unsigned i = below(me, 8); i > 0 && n >= 0; i--) {
        int64_t until_ns = soon(me);
        fill(bytes, sizeof(bytes), sent);
        n = cr_write_until(a, bytes, 1 + below(me, sizeof(bytes)), until_ns);
        check_answer(n, until_ns, 0);
        sent += n > 0 ? (size_t)n : 0;
        dawdle(me);
    }
    bool ends = !one_in(me, 3), under_it = false;
    if (ends)
        CHECK_EQ(cr_close_write(a), 0);
    else if (g.workers == 1 && spawned == 0 && one_in(me, 2) && cr_sleep(100 * CR_US) == 0 && reader->begun && !reader->done && reader->got == sent)
        cr_close(b), under_it = true;
    else
        CHECK_EQ(cr_scope_cancel(scope), 0);
    (void)cr_scope_close(scope);
    if (spawned == 0) {
        CHECK(reader->got <= sent && reader->r <= 0);
        if (ends && reader->r == 0)
            CHECK_EQ(reader->got, sent);
        CHECK(reader->r == 0 ? ends : reader->r == -EBADF ? under_it : reader->r == -ECANCELED);
    }
    if (!under_it)
        cr_close(b);
    cr_close(a);
    lent_back(reader, &on_stack);
}

static void echoes(void *arg)
{
    struct cr_conn *conn = arg;
    unsigned char bytes[200];
    ssize_t n;
    while ((n = cr_read(conn, bytes, sizeof(bytes))) > 0) {
        if (cr_write_all(conn, bytes, (size_t)n) < 0)
            break;
    }
    cr_close(conn);
    CHECK_EQ(cr_waitgroup_done(&g.all), 0);
}

static void accepts(void *unused)
{
    (void)unused;
    struct cr_conn *conn;
    int r;
    while ((r = cr_accept(g.listener, &conn)) != -ECANCELED) {
        CHECK_EQ(r, 0);
        CHECK_EQ(cr_waitgroup_add(&g.all, 1), 0);
        CHECK_EQ(cr_go(echoes, conn), 0);
    }
    cr_listener_close(g.listener);
}

static void step_dial(struct self *me)
{
    struct cr_conn *conn;
    unsigned char bytes[150], back[150];
    int64_t until_ns = cr_after(CR_MS + (int64_t)(rnd(me) % (20 * CR_MS)));
    int r = cr_dial_until(&conn, g.url, NULL, until_ns);
    check_answer(r, until_ns, 0);
    if (r < 0)
        return;
    size_t sent = 0, got = 0;
    for (unsigned i = below(me, 4); i > 0; i--) {
        fill(bytes, sizeof(bytes), sent);
        ssize_t n = cr_write_until(conn, bytes, sizeof(bytes), until_ns);
        check_answer(n, until_ns, 0);
        if (n < 0)
            break;
        sent += (size_t)n;
        n = cr_read_until(conn, back, sizeof(back), until_ns);
        check_answer(n, until_ns, 0);
        CHECK(n != 0);
        for (ssize_t k = 0; k < n; k++)
            CHECK_EQ(back[k], (got + (size_t)k) % 251);
        got += n > 0 ? (size_t)n : 0;
    }
    CHECK(got <= sent);
    if (one_in(me, 2))
        cr_close(conn);
    else
        cr_close_reset(conn);
}

#endif
