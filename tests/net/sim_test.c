/* Networks of our own in a runtime under a seed: two stacks, a bad line between them, and the scheduler, all by one number. */
#include <crore/crore.h>
#include <crore/net.h>

#include "test.h"

enum { BYTES = 60000 };

struct transfer {
    struct cr_net *left, *right;
    struct cr_conn_opts at_left, at_right;
    char url[64];
    uint64_t trace;
    int64_t ended_ns;
    bool sent;
};

static void send_all(void *arg)
{
    struct transfer *t = arg;
    static unsigned char bytes[BYTES];
    struct cr_conn *conn;
    for (int i = 0; i < BYTES; i++)
        bytes[i] = (unsigned char)(i * 7 + i / 251);
    CHECK_EQ(cr_dial(&conn, t->url, &t->at_left), 0);
    CHECK_EQ(cr_write_all(conn, bytes, BYTES), BYTES);
    cr_close(conn);
    t->sent = true;
}

static void receive_all(struct transfer *t, struct cr_conn *conn)
{
    static unsigned char bytes[4096];
    ssize_t n;
    int got = 0;
    while ((n = cr_read(conn, bytes, sizeof(bytes))) > 0) {
        for (int i = 0; i < n; i++, got++)
            CHECK_EQ(bytes[i], (unsigned char)(got * 7 + got / 251));
    }
    CHECK_EQ(n, 0);
    CHECK_EQ(got, BYTES);
    t->ended_ns = cr_now();
}

static void transfers(void *arg)
{
    struct transfer *t = arg;
    struct cr_listener *l;
    struct cr_conn *conn;
    struct cr_stats stats;
    CHECK_EQ(cr_net_open(&t->left, "impair:drop=3%,delay=2ms,jitter=1ms,seed=1,mem:a addr=10.0.0.1/24"), 0);
    CHECK_EQ(cr_net_open(&t->right, "impair:drop=3%,delay=2ms,jitter=1ms,seed=2,mem:a addr=10.0.0.2/24"), 0);
    t->at_left.net = t->left;
    t->at_right.net = t->right;
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:0", &t->at_right), 0);
    CHECK(cr_listener_url(l, t->url, sizeof(t->url)) > 0);
    CHECK_EQ(cr_go(send_all, t), 0);
    CHECK_EQ(cr_accept(l, &conn), 0);
    receive_all(t, conn);
    CHECK_EQ(cr_stats_get(&stats), 0);
    t->trace = stats.trace;
    cr_close(conn);
    cr_listener_close(l);
    while (!t->sent)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_net_close(t->left);
    cr_net_close(t->right);
}

static struct transfer transfer(uint64_t seed)
{
    struct transfer t = {.sent = false};
    CHECK_EQ(cr_run(transfers, &t, &(struct cr_config){.workers = 1, .seed = seed}), 0);
    return t;
}

TEST(a_transfer_over_a_bad_line_is_whole_and_the_same_seed_repeats_it)
{
    uint64_t before = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct transfer one = transfer(seed), two = transfer(seed);
        CHECK(one.trace == two.trace && one.trace != 0);
        CHECK_EQ(one.ended_ns, two.ended_ns);
        CHECK(one.trace != before);
        before = one.trace;
    }
}
