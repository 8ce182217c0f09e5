/* What struct cr_conn_opts says, on networks of our own and on the kernel's. */
#include <crore/crore.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "test.h"

#define NEAR "mem:near addr=10.0.0.1/24"
#define FAR "mem:far addr=10.0.0.2/24"

/* Most of it in virtual time. */
static const struct cr_config by_seed = {.seed = 1, .slow_ns = -1};

/* ---- Two networks with a wire between them that can be cut ----------------------------------------------------- */

static struct {
    struct cr_net *near, *far;
    struct cr_link *near_end, *far_end; /* of the wire */
    bool cut;
    struct cr_conn *dialled, *accepted; /* by near; by far, or the other way round */
} both;

static struct cr_conn_opts at(struct cr_net *net)
{
    return (struct cr_conn_opts){.net = net};
}

static void carry(struct cr_link *from, struct cr_link *to)
{
    struct cr_packet *packets[CR_LINK_BURST];
    while (cr_link_wait(from) == 0) {
        int n = cr_link_recv(from, packets, CR_LINK_BURST), taken = both.cut ? 0 : cr_link_send(to, packets, n);
        for (int i = taken; i < n; i++)
            cr_packet_put(packets[i]);
    }
}

static void carry_there(void *unused)
{
    (void)unused;
    carry(both.near_end, both.far_end);
}

static void carry_back(void *unused)
{
    (void)unused;
    carry(both.far_end, both.near_end);
}

static void open_networks_as(const char *near)
{
    both.cut = false;
    CHECK_EQ(cr_net_open(&both.near, near), 0);
    CHECK_EQ(cr_net_open(&both.far, FAR), 0);
    CHECK_EQ(cr_link_open(&both.near_end, "mem:near"), 0);
    CHECK_EQ(cr_link_open(&both.far_end, "mem:far"), 0);
    CHECK_EQ(cr_go(carry_there, NULL), 0);
    CHECK_EQ(cr_go(carry_back, NULL), 0);
}

static void open_networks(void)
{
    open_networks_as(NEAR);
}

static void close_networks(void)
{
    cr_net_close(both.near);
    cr_net_close(both.far);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_link_close(both.near_end);
    cr_link_close(both.far_end);
}

/* far's listener and near's dial have these options. */
static void connect_with(struct cr_conn_opts dials, struct cr_conn_opts listens)
{
    struct cr_listener *l;
    dials.net = both.near;
    listens.net = both.far;
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:7", &listens), 0);
    CHECK_EQ(cr_dial(&both.dialled, "tcp://10.0.0.2:7", &dials), 0);
    CHECK_EQ(cr_accept(l, &both.accepted), 0);
    cr_listener_close(l);
}

static void close_all(void)
{
    cr_close(both.dialled);
    cr_close(both.accepted);
    close_networks();
}

static bool carries(void)
{
    char byte = 'x';
    return cr_write(both.dialled, &byte, 1) == 1 && cr_read(both.accepted, &byte, 1) == 1;
}

/* ---- Keep-alives, user timeout ------------------------------------------------------------------------------------ */

/* How many seconds it takes until the connection, on which nothing is heard any more, has ended. Without a deadline: else it would end by that. */
static int64_t ends_after(struct cr_conn *conn, bool writes)
{
    char byte = 'x';
    CHECK_EQ(cr_sleep(100 * CR_MS), 0);
    both.cut = true;
    int64_t begun_ns = cr_now();
    if (writes)
        CHECK_EQ(cr_write(conn, &byte, 1), 1);
    ssize_t n = cr_read(conn, &byte, 1);
    CHECK(n == -ETIMEDOUT || n == -EHOSTUNREACH); /* the latter if the neighbour's address has been asked for in vain */
    return (cr_now() - begun_ns) / CR_SEC;
}

TEST_CO_CONFIG(keep_alives_that_are_not_answered_end_a_connection, &by_seed)
{
    open_networks();
    connect_with((struct cr_conn_opts){.keepalive_ms = 3000}, (struct cr_conn_opts){0});
    CHECK_EQ(ends_after(both.dialled, false), 3 + 9 * 3 - 1); /* it was silent before, for a moment */
    close_all();
}

TEST_CO_CONFIG(and_one_whose_listener_has_asked_for_them, &by_seed)
{
    open_networks();
    connect_with((struct cr_conn_opts){0}, (struct cr_conn_opts){.keepalive_ms = 4000});
    CHECK_EQ(ends_after(both.accepted, false), 4 + 9 * 4 - 1);
    close_all();
}

TEST_CO_CONFIG(what_is_not_acknowledged_within_the_user_timeout_ends_a_connection, &by_seed)
{
    open_networks();
    connect_with((struct cr_conn_opts){.user_timeout_ms = 5000}, (struct cr_conn_opts){0});
    CHECK_EQ(ends_after(both.dialled, true), 5);
    close_all();
}

TEST_CO_CONFIG(and_one_whose_listener_has_a_user_timeout, &by_seed)
{
    open_networks();
    connect_with((struct cr_conn_opts){0}, (struct cr_conn_opts){.user_timeout_ms = 7000});
    CHECK_EQ(ends_after(both.accepted, true), 7);
    close_all();
}

static uint64_t sent_by(struct cr_net *net)
{
    struct cr_net_stats stats;
    CHECK_EQ(cr_net_stats_get(net, &stats), 0);
    return stats.sent;
}

/* However short: the peer need not answer more often than each half second. */
TEST_CO_CONFIG(keep_alives_are_answered_by_who_is_there_and_sent_only_where_they_are_wanted, &by_seed)
{
    for (int keepalive_ms = 0; keepalive_ms < 3; keepalive_ms++) {
        open_networks();
        connect_with((struct cr_conn_opts){.keepalive_ms = keepalive_ms, .user_timeout_ms = 100}, (struct cr_conn_opts){0});
        CHECK_EQ(cr_sleep(500 * CR_MS), 0);
        uint64_t before = sent_by(both.near);
        CHECK_EQ(cr_sleep(12 * CR_SEC), 0);
        uint64_t sent = sent_by(both.near) - before;
        CHECK(keepalive_ms ? sent > 10 && sent < 16 : sent < 3); /* beside a request for the neighbour's address */
        CHECK(carries());
        close_all();
    }
}

TEST_CO_CONFIG(a_worker_that_was_stuck_does_not_take_its_peers_for_silent, &by_seed)
{
    open_networks_as("impair:delay=20ms," NEAR);
    connect_with((struct cr_conn_opts){.keepalive_ms = 1000}, (struct cr_conn_opts){0});
    for (int64_t until_ns = cr_now() + 20 * CR_SEC; cr_now() < until_ns;)
        ;
    CHECK_EQ(cr_sleep(100 * CR_MS), 0);
    CHECK(carries());
    close_all();
}

TEST_CO(two_are_not_dialled_to_one_peer_from_one_address_and_port)
{
    struct cr_conn *one, *two, *many[50];
    open_networks();
    struct cr_conn_opts anywhere = at(both.near), from = {.net = both.near, .source = "10.0.0.1:5000"};
    CHECK_EQ(cr_dial(&one, "udp://10.0.0.2:7", &from), 0);
    CHECK_EQ(cr_dial(&two, "udp://10.0.0.2:7", &from), -EADDRINUSE);
    CHECK_EQ(cr_dial(&two, "udp://10.0.0.2:8", &from), 0);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_dial(&many[i], "udp://10.0.0.2:7", &anywhere), 0);
    for (int i = 0; i < 50; i++)
        cr_close(many[i]);
    cr_close(one);
    cr_close(two);
    close_networks();
}

/* ---- The kernel's ------------------------------------------------------------------------------------------------ */

static int option_of(struct cr_conn *conn, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);
    CHECK_EQ(getsockopt(cr_conn_fd(conn), level, name, &value, &size), 0);
    return value;
}

static void has_patience(struct cr_conn *conn, int idle_s, int again_s, int user_timeout_ms)
{
    CHECK_EQ(option_of(conn, SOL_SOCKET, SO_KEEPALIVE), idle_s > 0);
    CHECK_EQ(option_of(conn, IPPROTO_TCP, TCP_USER_TIMEOUT), user_timeout_ms);
    if (idle_s == 0)
        return;
    CHECK_EQ(option_of(conn, IPPROTO_TCP, TCP_KEEPIDLE), idle_s);
    CHECK_EQ(option_of(conn, IPPROTO_TCP, TCP_KEEPINTVL), again_s);
    CHECK_EQ(option_of(conn, IPPROTO_TCP, TCP_KEEPCNT), 9);
}

TEST_CO(sockets_of_the_kernel_have_them_too_and_hand_them_on_to_who_is_accepted)
{
    struct cr_listener *l;
    struct cr_conn *dialled, *accepted, *plain;
    char url[64];
    CHECK_EQ(cr_listen(&l, "tcp://127.0.0.1:0", &(struct cr_conn_opts){.keepalive_ms = 90001, .user_timeout_ms = 4000}), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&dialled, url, &(struct cr_conn_opts){.keepalive_ms = 1500, .user_timeout_ms = 2500}), 0);
    CHECK_EQ(cr_accept(l, &accepted), 0);
    CHECK_EQ(cr_dial(&plain, url, NULL), 0);
    has_patience(dialled, 2, 2, 2500);
    has_patience(accepted, 91, 75, 4000);
    has_patience(plain, 0, 0, 0);
    cr_close(dialled), cr_close(plain);
    CHECK_EQ(cr_dial(&dialled, url, &(struct cr_conn_opts){.keepalive_ms = INT32_MAX}), 0);
    has_patience(dialled, 32767, 75, 0);
    cr_close(dialled), cr_close(accepted);
    cr_listener_close(l);
}

/* ---- Either --------------------------------------------------------------------------------------------------------- */

/* Who reads nothing closes his window; what waits for that waits no longer than the user timeout. */
static void gives_up_a_closed_window(const struct cr_conn_opts *near, const struct cr_conn_opts *far, const char *where)
{
    static char much[1 << 20];
    struct cr_listener *l;
    struct cr_conn *dialled, *accepted;
    struct cr_conn_opts opts = *near;
    char url[64];
    opts.user_timeout_ms = 300;
    CHECK_EQ(cr_listen(&l, where, far), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&dialled, url, &opts), 0);
    CHECK_EQ(cr_accept(l, &accepted), 0);
    ssize_t n;
    do
        n = cr_write(dialled, much, sizeof(much));
    while (n > 0);
    CHECK_EQ(n, -ETIMEDOUT);
    cr_close(dialled), cr_close(accepted);
    cr_listener_close(l);
}

TEST_CO(what_waits_for_a_closed_window_ends_by_the_user_timeout)
{
    open_networks();
    struct cr_conn_opts near = at(both.near), far = at(both.far);
    gives_up_a_closed_window(&near, &far, "tcp://10.0.0.2:0");
    close_networks();
}

TEST_CO(so_it_does_with_the_kernel)
{
    struct cr_conn_opts kernel = {0};
    gives_up_a_closed_window(&kernel, &kernel, "tcp://127.0.0.1:0");
}

TEST_CO(options_that_make_no_sense_are_refused_by_both)
{
    struct cr_listener *l;
    struct cr_conn *conn;
    open_networks();
    for (int own = 0; own < 2; own++) {
        struct cr_net *net = own ? both.near : NULL;
        const char *where = own ? "tcp://10.0.0.1:0" : "tcp://127.0.0.1:0";
        CHECK_EQ(cr_listen(&l, where, &(struct cr_conn_opts){.net = net, .keepalive_ms = -1}), -EINVAL);
        CHECK_EQ(cr_dial(&conn, "tcp://10.0.0.2:7", &(struct cr_conn_opts){.net = net, .user_timeout_ms = -1}), -EINVAL);
        CHECK_EQ(cr_bind(&conn, own ? "udp://10.0.0.1:0" : "udp://127.0.0.1:0", &(struct cr_conn_opts){.net = net, .user_timeout_ms = -1}), -EINVAL);
    }
    close_networks();
}
