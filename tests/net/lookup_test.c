/* Names that are looked up with a network's own name servers (dns=): two networks with a mem: link between, a name server on the right one, and who asks on the left. */
#include <dirent.h>
#include <netinet/in.h>

#include "networks.h"
#include "name_server.h"

#define LONGEST (4 * CR_SEC) /* nothing here takes as long, also on a busy machine; and a resolver that was not told of something does not look by itself before 5 s */
#define PATIENT "retrans:20000 retry:2" /* c-ares asks again after so many ms, and each server so often */
#define HASTY "retrans:150 retry:2"

static struct name_server server;
static struct cr_addr addrs[64];
static const char *options = PATIENT;

static void open_nets(const char *left_spec, const char *right_spec)
{
    setenv("RES_OPTIONS", options, 1);
    setenv("LOCALDOMAIN", "search.example", 1);
    open_both_as(left_spec, right_spec);
}

static void open_with(const char *dns)
{
    char spec[256];
    snprintf(spec, sizeof(spec), LEFT " %s", dns);
    open_nets(spec, RIGHT);
    name_server_open(&server, right, 1);
}

static void close_all(void)
{
    name_server_close(&server);
    close_both();
}

static int look_up(const char *name)
{
    return cr_resolve_on_until(left, name, 80, addrs, 64, cr_after(LONGEST));
}

static const char *address(int i)
{
    static char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const void *)&addrs[i].sa;
    const struct sockaddr_in6 *in6 = (const void *)&addrs[i].sa;
    const void *ip = in->sin_family == AF_INET ? (const void *)&in->sin_addr : &in6->sin6_addr;
    CHECK(inet_ntop(in->sin_family, ip, text, sizeof(text)) != NULL);
    return text;
}

static void check_address(int i, const char *wanted)
{
    CHECK_STR(address(i), wanted);
    CHECK_EQ(strlen(address(i)), strlen(wanted));
    CHECK_EQ(ntohs(((struct sockaddr_in *)&addrs[i].sa)->sin_port), 80); /* in6 has it in the same place */
}

/* ---- The line of text -------------------------------------------------------------------------------------------- */

TEST_CO(name_servers_are_words_of_a_networks_line)
{
    static const char *const right_ones[] = {"dns=10.0.0.53", "dns=10.0.0.53:5353", "dns=fd00::53", "dns=[fd00::53]", "dns=[fd00::53]:5353",
                                             "dns=10.0.0.1 dns=[fd00::1]:54 dns=10.0.0.3"};
    char spec[256];
    for (size_t i = 0; i < sizeof(right_ones) / sizeof(*right_ones); i++) {
        snprintf(spec, sizeof(spec), LEFT " %s mtu=1400", right_ones[i]);
        CHECK_EQ(cr_net_open(&left, spec), 0);
        cr_net_close(left);
    }
}

static void open_wrong_ones(void *unused)
{
    static const char *const wrong[] = {
        "dns=",           "dns=10.0.0",     "dns=10.0.0.53:", "dns=10.0.0.53:0",  "dns=10.0.0.53:70000",                      "dns=ns.example",
        "dns=ns.example:53", "dns=[fd00::53", "dns=[fd00::53]53", "dns=0.0.0.0",    "dns=::", "dns=ff02::1", "dns=10.0.0.1 dns=10.0.0.2 dns=10.0.0.3 dns=10.0.0.4",
    };
    char spec[256];
    (void)unused;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        snprintf(spec, sizeof(spec), LEFT " %s", wrong[i]);
        CHECK_EQ(cr_net_open(&left, spec), -EINVAL);
    }
}

static void run_wrong_ones(void)
{
    if (cr_run(open_wrong_ones, NULL, NULL) != 0)
        _exit(1);
}

TEST(what_is_wrong_with_a_name_server_is_said)
{
    static char text[8192];
    CHECK_EQ(test_capture(run_wrong_ones, text, sizeof(text)), 0);
    CHECK_STR(text, "\"dns=ns.example\": wants the form IP, IP:PORT or [IPV6]:PORT");
    CHECK_STR(text, "\"dns=ns.example:53\": not an address of IPv4 or IPv6");
    CHECK_STR(text, "\"dns=10.0.0.53:0\": 0 is no port");
    CHECK_STR(text, "\"dns=ff02::1\": no host has that address");
    CHECK_STR(text, "\"dns=10.0.0.4\": too many name servers");
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static void look_up_all(const char *dns, unsigned families)
{
    open_with(dns);
    CHECK_EQ(look_up("both.example"), 2);
    check_address(0, "fd00::2"), check_address(1, "10.0.0.2");
    CHECK_EQ(cr_resolve_on(left, "both.example", 80, addrs, 1), 1);
    CHECK_EQ(look_up("four.example"), 1);
    check_address(0, "10.0.0.2");
    CHECK_EQ(look_up("six.example"), 1);
    check_address(0, "fd00::2");
    CHECK_EQ(look_up("neither.example"), -ENOENT);
    CHECK_EQ(look_up("nobody.example"), -ENOENT);
    CHECK_EQ(look_up("short"), 1); /* short.search.example: the search rules are c-ares' */
    CHECK_EQ(server.families, families);
    CHECK_EQ(server.tcp_questions, 0);
    close_all();
}

TEST_CO(names_are_looked_up_with_the_networks_own_name_servers)
{
    look_up_all("dns=10.0.0.2", 1);
}

TEST_CO(the_same_by_ipv6)
{
    look_up_all("dns=[fd00::2]:53", 2);
}

TEST_CO(what_needs_nobody_is_not_asked_for)
{
    open_with("dns=10.0.0.2");
    CHECK_EQ(look_up("10.0.0.7"), 1);
    check_address(0, "10.0.0.7");
    CHECK_EQ(look_up("fd00::7"), 1);
    CHECK_EQ(look_up("localhost"), 2);
    CHECK_EQ(look_up(""), -EINVAL);
    CHECK_EQ(server.udp_questions, 0);
    close_all();
}

TEST_CO(what_can_not_be_reached_comes_last)
{
    open_with("dns=10.0.0.2");
    CHECK_EQ(look_up("far.example"), 2);
    check_address(0, "10.0.0.2"), check_address(1, "2001:db8::1");
    close_all();
}

static void look_up_long(const char *dns)
{
    open_with(dns);
    CHECK_EQ(look_up("long.example"), LONG_ADDRESSES);
    for (int i = 0; i < LONG_ADDRESSES; i++) {
        char wanted[32];
        snprintf(wanted, sizeof(wanted), "10.0.1.%d", i + 1);
        check_address(i, wanted);
    }
    CHECK(server.tcp_questions > 0);
    close_all();
}

TEST_CO(an_answer_that_was_truncated_comes_whole_by_tcp)
{
    look_up_long("dns=10.0.0.2");
}

TEST_CO(the_same_over_ipv6)
{
    look_up_long("dns=fd00::2");
}

TEST_CO(noise_before_an_answer_does_no_harm)
{
    open_with("dns=10.0.0.2");
    CHECK_EQ(look_up("noisy.example"), 1);
    check_address(0, "10.0.0.2");
    close_all();
}

TEST_CO(an_answer_that_is_cut_is_none)
{
    open_with("dns=10.0.0.2");
    CHECK_EQ(look_up("broken.example"), -EAGAIN);
    CHECK_EQ(look_up("four.example"), 1);
    close_all();
}

/* ---- Who does not answer ----------------------------------------------------------------------------------------- */

TEST_CO(a_deadline_ends_a_lookup_that_nobody_answers)
{
    open_with("dns=10.0.0.2");
    int64_t begin_ns = cr_now();
    CHECK_EQ(cr_resolve_on_until(left, "silent.example", 80, addrs, 64, cr_after(50 * CR_MS)), -ETIMEDOUT);
    CHECK(cr_now() - begin_ns >= 50 * CR_MS);
    CHECK(cr_now() - begin_ns < 10 * CR_SEC);
    for (int64_t ns = 50 * CR_MS; server.tcp_questions == 0; ns *= 2) /* in the middle of TCP */
        CHECK_EQ(cr_resolve_on_until(left, "stalls.example", 80, addrs, 64, cr_after(ns)), -ETIMEDOUT);
    CHECK_EQ(cr_resolve_on_until(left, "four.example", 80, addrs, 64, cr_now() - CR_SEC), -ETIMEDOUT);
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    CHECK_EQ(look_up("four.example"), 1);
    close_all();
}

TEST_CO(without_a_deadline_it_ends_when_c_ares_has_asked_often_enough)
{
    options = HASTY;
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_resolve_on(left, "silent.example", 80, addrs, 64), -EAGAIN);
    CHECK(server.udp_questions >= 4); /* both types, twice */
    close_all();
}

TEST_CO(a_name_server_that_is_not_there_leaves_it_to_the_next)
{
    open_with("dns=10.0.0.2:54 dns=192.168.0.1 dns=[fd00::2]"); /* refused; no way there */
    CHECK_EQ(look_up("four.example"), 1);
    CHECK_EQ(server.families, 2);
    close_all();
}

TEST_CO(where_no_name_server_is_there_nobody_else_is_asked)
{
    open_with("dns=10.0.0.2:54");
    CHECK_EQ(look_up("four.example"), -EAGAIN);
    CHECK_EQ(server.udp_questions, 0);
    close_all();
}

TEST_CO(an_answer_that_is_too_long_where_tcp_is_refused_is_none)
{
    open_nets(LEFT " dns=10.0.0.2", RIGHT);
    name_server_open(&server, right, 0);
    CHECK_EQ(look_up("long.example"), -EAGAIN);
    CHECK_EQ(look_up("four.example"), 1);
    close_all();
}

static _Atomic int result;

static void looks_up(void *name)
{
    static struct cr_addr own[64];
    result = cr_resolve_on(left, name, 80, own, 64);
}

/* How many fds there are. */
static int count_fds(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

TEST_CO(while_its_name_servers_are_asked_the_kernel_has_no_socket_of_it)
{
    struct cr_co *co;
    open_with("dns=10.0.0.2");
    CHECK_EQ(look_up("four.example"), 1); /* whatever is opened once is open */
    int before = count_fds();
    CHECK_EQ(cr_spawn(&co, looks_up, "silent.example", NULL), 0);
    for (unsigned asked = server.udp_questions; server.udp_questions == asked;)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(count_fds(), before);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(result, -ECANCELED);
    close_all();
}

static void cancel_one_of(const char *name, unsigned worker)
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn_on(&co, worker, looks_up, (void *)name, NULL), 0);
    for (unsigned asked = server.udp_questions + server.tcp_questions; server.udp_questions + server.tcp_questions == asked;)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(result, -ECANCELED);
}

TEST_CO(being_cancelled_ends_a_lookup)
{
    open_with("dns=10.0.0.2");
    cancel_one_of("silent.example", (unsigned)cr_worker_index());
    cancel_one_of("stalls.example", (unsigned)cr_worker_index());
    CHECK_EQ(look_up("four.example"), 1);
    close_all();
}

TEST_CO(closing_the_network_ends_a_lookup)
{
    static const char *const silent_ones[] = {"silent.example", "stalls.example"};
    for (int i = 0; i < 2; i++) {
        struct cr_co *co;
        open_with("dns=10.0.0.2");
        CHECK_EQ(cr_spawn_on(&co, (unsigned)cr_worker_index(), looks_up, (void *)silent_ones[i], NULL), 0);
        while (i == 0 ? server.udp_questions == 0 : server.tcp_questions == 0)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        cr_net_close(left);
        CHECK_EQ(cr_join_until(co, cr_after(LONGEST)), 0);
        CHECK_EQ(result, -EBADF);
        name_server_close(&server);
        cr_net_close(right);
    }
}

static void closes_when_warned(void *unused)
{
    struct cr_conn *conn;
    char buf[8];
    (void)unused;
    CHECK_EQ(cr_bind(&conn, "udp://:999", &at_left), 0);
    CHECK(cr_read(conn, buf, sizeof(buf)) > 0);
    cr_net_close(left);
    cr_close(conn);
}

/* The resolver has been woken, and runs after who closes. */
TEST_CO(closing_the_network_when_the_answer_is_there_ends_a_lookup_too)
{
    struct cr_co *closer, *co;
    unsigned here = (unsigned)cr_worker_index();
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_spawn_on(&closer, here, closes_when_warned, NULL, NULL), 0);
    CHECK_EQ(cr_spawn_on(&co, here, looks_up, "warned.example", NULL), 0);
    CHECK_EQ(cr_join_until(closer, cr_after(LONGEST)), 0);
    CHECK_EQ(cr_join_until(co, cr_after(LONGEST)), 0);
    CHECK(result == -EBADF || (result == 2 && test_under_seed())); /* under a seed it may run first */
    name_server_close(&server);
    cr_net_close(right);
}

/* ---- Calls that name a network ----------------------------------------------------------------------------------- */

static void accept_one(void *listener)
{
    struct cr_conn *conn;
    CHECK_EQ(cr_accept(listener, &conn), 0);
    CHECK_EQ(cr_write_all(conn, "here", 4), 4);
    cr_close(conn);
}

static void dial_by_name(const char *url)
{
    struct cr_conn *conn;
    char buf[8];
    CHECK_EQ(cr_dial_until(&conn, url, &at_left, cr_after(LONGEST)), 0);
    CHECK_EQ(cr_read_until(conn, buf, sizeof(buf), cr_after(LONGEST)), 4);
    cr_close(conn);
}

static void dials(void *url)
{
    dial_by_name(url);
}

TEST_CO(a_name_can_be_dialled)
{
    struct cr_listener *l;
    static const char *const urls[] = {"tcp://both.example:80", "tcp://four.example:80", "tcp://six.example:80", "tcp://far.example:80"};
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_listen(&l, "tcp://:80", &at_right), 0);
    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
        CHECK_EQ(cr_go(accept_one, l), 0);
        dial_by_name(urls[i]);
    }
    struct cr_conn *conn;
    CHECK_EQ(cr_dial(&conn, "tcp://nobody.example:80", &at_left), -ENOENT);
    CHECK_EQ(cr_dial_until(&conn, "tcp://silent.example:80", &at_left, cr_after(30 * CR_MS)), -ETIMEDOUT);
    cr_listener_close(l);
    close_all();
}

TEST_CO(datagrams_go_to_names_and_sockets_are_named)
{
    struct cr_conn *conn;
    struct cr_listener *l;
    char url[64];
    options = HASTY;
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_dial(&conn, "udp://four.example:9", &at_left), 0);
    CHECK(cr_peer_url(conn, url, sizeof(url)) > 0);
    CHECK_STR(url, "udp://10.0.0.2:9");
    cr_close(conn);
    CHECK_EQ(cr_listen(&l, "tcp://four.example:80", &at_left), -EADDRNOTAVAIL); /* it is another's */
    CHECK_EQ(cr_bind(&conn, "udp://silent.example:80", &at_left), -EAGAIN);
    close_all();
}

/* ---- From other workers ------------------------------------------------------------------------------------------ */

static void dials_in_vain(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    result = cr_dial(&conn, "tcp://silent.example:80", &at_left);
}

static void looks_up_elsewhere(void *unused)
{
    (void)unused;
    CHECK_EQ(look_up("both.example"), 2);
    CHECK_EQ(look_up("long.example"), LONG_ADDRESSES);
    CHECK_EQ(look_up("nobody.example"), -ENOENT);
    CHECK_EQ(cr_resolve_on_until(left, "silent.example", 80, addrs, 64, cr_after(30 * CR_MS)), -ETIMEDOUT);
    dial_by_name("tcp://both.example:80");
}

static void from_another_worker(const char *left_spec, const char *right_spec)
{
    struct cr_listener *l;
    struct cr_co *co, *acceptor;
    open_nets(left_spec, right_spec);
    name_server_open(&server, right, 1);
    unsigned here = (unsigned)cr_worker_index();
    CHECK_EQ(cr_listen(&l, "tcp://:80", &at_right), 0);
    CHECK_EQ(cr_spawn_on(&acceptor, here, accept_one, l, NULL), 0);
    CHECK_EQ(cr_spawn_on(&co, !here, looks_up_elsewhere, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cancel_one_of("silent.example", !here);
    cancel_one_of("stalls.example", !here);
    cr_listener_close(l);
    close_all();
}

TEST_CO_CONFIG(coroutines_of_other_workers_look_names_up_too, &(struct cr_config){.workers = 2})
{
    from_another_worker(LEFT " dns=10.0.0.2", RIGHT);
}

TEST_CO_CONFIG(the_same_of_one_that_is_on_all_workers, &(struct cr_config){.workers = 3})
{
    from_another_worker(LEFT " dns=fd00::2 workers=all", RIGHT);
}

TEST_CO_CONFIG(closing_one_that_is_on_all_workers_ends_lookups_of_each, &(struct cr_config){.workers = 2})
{
    for (unsigned worker = 0; worker < 2; worker++) {
        struct cr_co *co;
        open_nets(LEFT " dns=10.0.0.2 workers=all", RIGHT);
        name_server_open(&server, right, 1);
        CHECK_EQ(cr_spawn_on(&co, worker, dials_in_vain, NULL, NULL), 0);
        while (server.udp_questions == 0)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        cr_net_close(left);
        CHECK_EQ(cr_join_until(co, cr_after(LONGEST)), 0);
        CHECK_EQ(result, -EBADF);
        name_server_close(&server);
        cr_net_close(right);
    }
}

static const struct cr_config one_shared_stack = {.workers = 2, .shared_stacks = 1};

TEST_CO_CONFIG(who_looks_up_elsewhere_leaves_the_shared_stack_to_others, &one_shared_stack)
{
    static const struct cr_attr on_shared = {.stack = CR_STACK_SHARED};
    struct cr_co *in_vain, *other;
    unsigned there = !cr_worker_index();
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_spawn_on(&in_vain, there, looks_up, "silent.example", &on_shared), 0);
    while (server.udp_questions == 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_spawn_on(&other, there, looks_up, "four.example", &on_shared), 0);
    CHECK_EQ(cr_join_until(other, cr_after(LONGEST)), 0);
    CHECK_EQ(result, 1);
    CHECK_EQ(cr_cancel(in_vain), 0);
    CHECK_EQ(cr_join(in_vain), 0);
    CHECK_EQ(result, -ECANCELED);
    close_all();
}

static void looks_up_impatiently(void *unused)
{
    (void)unused;
    result = cr_resolve_on_until(left, "four.example", 80, addrs, 64, cr_after(20 * CR_MS));
}

static const struct cr_config not_watched = {.workers = 2, .slow_ns = -1}; /* the network's worker is kept busy on purpose */

TEST_CO_CONFIG(a_lookup_from_elsewhere_ends_at_its_deadline_though_it_has_had_no_turn, &not_watched)
{
    struct cr_co *co;
    open_with("dns=10.0.0.2");
    result = 1000;
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), looks_up_impatiently, NULL, NULL), 0);
    for (int64_t until_ns = cr_now() + 5 * CR_SEC; result == 1000 && cr_now() < until_ns;)
        ;
    CHECK_EQ(result, -ETIMEDOUT);
    cr_net_close(left); /* before the visitor has had his turn */
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    name_server_close(&server);
    cr_net_close(right);
}

TEST_CO(a_migratable_coroutine_may_look_names_up)
{
    struct cr_co *co;
    struct cr_listener *l;
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_listen(&l, "tcp://:80", &at_right), 0);
    CHECK_EQ(cr_go(accept_one, l), 0);
    CHECK_EQ(cr_spawn(&co, dials, "tcp://four.example:80", (&(struct cr_attr){.flags = CR_MIGRATABLE})), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_listener_close(l);
    close_all();
}

#define ASKERS 60

static void asks_for_something(void *arg)
{
    static const char *const some[] = {"both.example", "silent.example", "long.example", "stalls.example", "nobody.example", "four.example"};
    static struct cr_addr own[ASKERS][4];
    size_t i = (size_t)(uintptr_t)arg;
    int r = cr_resolve_on_until(left, some[i % 6], 80, own[i], 4, cr_after((int64_t)(5 + i % 50) * CR_MS));
    CHECK(r > 0 || r == -ENOENT || r == -ETIMEDOUT || r == -EBADF || r == -ECANCELED || r == -EAGAIN);
}

/* Many at once, on both workers, some of which are in the middle when the network is closed, by whoever. */
static void asks_for_much(void *close)
{
    struct cr_co *askers[ASKERS];
    unsigned workers = (unsigned)cr_worker_count();
    options = HASTY;
    open_with("dns=10.0.0.2 dns=[fd00::2]");
    for (unsigned i = 0; i < ASKERS; i++)
        CHECK_EQ(cr_spawn_on(&askers[i], i % workers, asks_for_something, (void *)(uintptr_t)i, NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    for (unsigned i = 0; i < ASKERS; i++) {
        if (i % 7 == 0)
            cr_cancel(askers[i]);
        if (workers > 1 || !close)
            CHECK_EQ(cr_join(askers[i]), 0);
    }
    if (close)
        cr_net_close(left);
    for (unsigned i = 0; i < ASKERS && workers == 1 && close; i++)
        CHECK_EQ(cr_join(askers[i]), 0);
    name_server_close(&server);
    if (close)
        cr_net_close(right);
}

static void leave_nothing(unsigned workers)
{
    static char yes;
    uint64_t before = 0;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(cr_run(asks_for_much, i % 2 ? &yes : NULL, (&(struct cr_config){.workers = workers})), 0);
        CHECK_EQ(cr__packets_in_use(), 0);
        CHECK_EQ(cr__mem_bytes(CR__MEM_CONNS), 0);
        before = i == 0 ? cr__mem_bytes(CR__MEM_OTHER) : before;
        CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER), before);
    }
}

TEST(lookups_leave_nothing_behind_however_they_end)
{
    leave_nothing(1);
}

TEST(the_same_from_two_workers)
{
    SKIP_SEVERAL_UNDER_SEED();
    leave_nothing(2);
}

/* ---- Without memory ---------------------------------------------------------------------------------------------- */

static void asks_without_memory(void *failures)
{
    CHECK_EQ(look_up("long.example"), LONG_ADDRESSES);
    for (unsigned n = 1; n < 12; n++) {
        cr__mem_fail_after(n);
        int r = look_up("long.example");
        cr__mem_fail_after(0);
        CHECK(r == LONG_ADDRESSES || r == -ENOMEM);
        *(int *)failures += r == -ENOMEM;
    }
    CHECK_EQ(look_up("long.example"), LONG_ADDRESSES);
}

static void looks_up_without_memory(void *failures)
{
    struct cr_co *co;
    open_with("dns=10.0.0.2");
    CHECK_EQ(cr_spawn_on(&co, (unsigned)cr_worker_count() - 1, asks_without_memory, failures, NULL), 0); /* elsewhere, where there are two */
    CHECK_EQ(cr_join(co), 0);
    close_all();
}

TEST(without_memory_a_lookup_is_an_error_and_nothing_leaks)
{
    static int failures;
    CHECK_EQ(cr_run(looks_up_without_memory, &failures, (&(struct cr_config){.workers = 1})), 0);
    CHECK(failures > 2);
    CHECK_EQ(cr__packets_in_use(), 0);
    CHECK_EQ(cr__mem_bytes(CR__MEM_CONNS), 0);
}

TEST(the_same_elsewhere)
{
    static int failures;
    SKIP_SEVERAL_UNDER_SEED();
    CHECK_EQ(cr_run(looks_up_without_memory, &failures, (&(struct cr_config){.workers = 2})), 0);
    CHECK(failures > 3);
    CHECK_EQ(cr__packets_in_use(), 0);
    CHECK_EQ(cr__mem_bytes(CR__MEM_CONNS), 0);
}

/* ---- What is told ------------------------------------------------------------------------------------------------ */

TEST_CO(a_network_tells_its_name_servers)
{
    static char text[4096];
    int fd = test_file("/tmp");
    open_with("dns=10.0.0.2 dns=[fd00::2]:5353");
    CHECK_EQ(cr_net_tell(left, fd, 0), 0);
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    CHECK(n > 0);
    CHECK_STR(text, "  name servers 10.0.0.2:53,[fd00::2]:5353\n");
    close(fd);
    close_all();
}
