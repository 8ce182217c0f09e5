/* What a program does with an installed crore; compiled by install_test.py as C and as C++. */
#include <crore/crore.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int answers;

static void *doubles(void *value)
{
    for (;;) {
        intptr_t n = (intptr_t)value;
        value = (void *)(2 * n);
        if (cr_co_yield(&value) < 0)
            return NULL;
    }
}

static int bare(void)
{
    struct cr_co *co;
    if (cr_co_create(&co, doubles, NULL) < 0)
        return 1;
    for (intptr_t n = 1; n < 10; n++) {
        void *value = (void *)n;
        if (cr_co_resume(co, &value) != 0 || (intptr_t)value != 2 * n)
            return 1;
    }
    return cr_co_destroy(co);
}

static void answers_once(void *arg)
{
    struct cr_listener *l = (struct cr_listener *)arg;
    struct cr_conn *conn;
    struct cr_lent lent;
    if (cr_accept(l, &conn) < 0)
        return;
    ssize_t n = cr_recv_lend(conn, &lent);
    if (n > 0 && cr_write_all(conn, lent.bytes, (size_t)n) == n)
        answers++;
    cr_recv_return(conn, &lent);
    cr_close(conn);
}

static void app(void *arg)
{
    struct cr_listener *l;
    struct cr_conn *conn;
    char url[64], buf[8];
    struct cr_attr attr;
    struct cr_addr addr;
    (void)arg;
    memset(&attr, 0, sizeof(attr));
    attr.name = "server";
    if (cr_listen(&l, "tcp://127.0.0.1:0", NULL) < 0 || cr_listener_url(l, url, sizeof(url)) < 0 ||
        cr_spawn(NULL, answers_once, l, &attr) < 0 || cr_dial(&conn, url, NULL) < 0)
        return;
    if (cr_write_all(conn, "ping", 4) == 4 && cr_read(conn, buf, sizeof(buf)) == 4 && memcmp(buf, "ping", 4) == 0)
        answers++;
    cr_close(conn);
    cr_listener_close(l);
    if (cr_resolve("127.0.0.1", 80, &addr, 1) == 1 && cr_sleep(CR_MS) == 0)
        answers++;
}

int main(void)
{
    if (bare() != 0 || cr_run(app, NULL, NULL) != 0)
        return 1;
    printf("crore %s: %d\n", cr_version(), answers);
    return answers == 3 ? 0 : 1;
}
