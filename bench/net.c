/* A network of our own, two ends on one worker over mem:, beside the kernel's over loopback; one processor does all of it.
 *
 *     packets           data segments of 64 bytes a second, through both stacks: 64 connections, each write a segment of its own
 *     accept[-kernel]   ns of processor time for a connection that is opened, accepted, and closed by both ends
 *     echo[-kernel]     ns of processor time for a message of 64 bytes there and back, 1,000 connections
 *     bulk[-kernel]     Gbit a second through one connection
 *     bulk-bad-line     what one connection carries at 1 % loss and 10 ms, in the whole time, as a part of what its congestion control's equation says; -mbit: in Mbit a second
 *     memory[-COUNT]    bytes of each idle established connection (there are two to a pair), all counted: resident memory and page tables
 *     memory-shared[-COUNT]  the same with a coroutine on a shared stack at each, that waits to read
 *     memory-kernel[-COUNT]  the kernel's: what its slab allocator has grown by, too (-slab: that alone). As many as there may be files */
#include "bench.h"

#include <crore/crore.h>
#include <math.h>
#include <string.h>

#define PORTS 64 /* so that those in TIME-WAIT leave room for others */
#define BULK_BYTES 65536

static struct cr_conn_opts at_client, at_server; /* zeroed: the kernel's */
static const char *host = "127.0.0.1";
static char urls[PORTS][64];
static struct cr_listener *listeners[PORTS];
static int milliseconds;
static bool stop;

static void open_networks(const char *client, const char *server)
{
    char spec[128];
    snprintf(spec, sizeof(spec), "%s addr=10.0.0.1/24", client);
    bench_need(cr_net_open(&at_client.net, spec) == 0, "cr_net_open");
    snprintf(spec, sizeof(spec), "%s addr=10.0.0.2/24", server);
    bench_need(cr_net_open(&at_server.net, spec) == 0, "cr_net_open");
    host = "10.0.0.2";
}

static void listen_on(int ports)
{
    char any[64];
    snprintf(any, sizeof(any), "tcp://%s:0", host);
    for (int i = 0; i < ports; i++) {
        bench_need(cr_listen(&listeners[i], any, &at_server) == 0, "cr_listen");
        bench_need(cr_listener_url(listeners[i], urls[i], sizeof(urls[i])) > 0, "cr_listener_url");
    }
}

static void connect_pair(int port, struct cr_conn **client, struct cr_conn **server)
{
    bench_need(cr_dial(client, urls[port], &at_client) == 0, "cr_dial");
    bench_need(cr_accept(listeners[port], server) == 0, "cr_accept");
}

static int64_t end_ns = INT64_MAX;

/* The clock is looked at now and then. */
static bool is_over(void)
{
    static unsigned asked;
    if (++asked % 64 == 0)
        stop |= bench_now_ns() > end_ns;
    return stop;
}

/* ---- Echo --------------------------------------------------------------------------------------------------------- */

static int64_t messages;
static int running;

static void echoes(void *arg)
{
    struct cr_conn *conn = arg;
    struct cr_lent data;
    while (cr_recv_lend(conn, &data) > 0) {
        bench_need(cr_write_all(conn, data.bytes, data.size_bytes) > 0, "cr_write_all");
        cr_recv_return(conn, &data);
    }
    cr_close(conn);
    running--;
}

static void asks(void *arg)
{
    struct cr_conn *conn = arg;
    char text[64] = "sixty-four bytes";
    while (!is_over()) {
        bench_need(cr_write_all(conn, text, sizeof(text)) == sizeof(text), "cr_write_all");
        for (size_t got = 0; got < sizeof(text);) {
            ssize_t n = cr_read(conn, text + got, sizeof(text) - got);
            bench_need(n > 0, "cr_read");
            got += (size_t)n;
        }
        messages++;
    }
    cr_close(conn);
    running--;
}

static void echo(const char *name, int connections)
{
    listen_on(1);
    for (int i = 0; i < connections; i++) {
        struct cr_conn *client, *server;
        connect_pair(0, &client, &server);
        bench_need(cr_go(echoes, server) == 0 && cr_go(asks, client) == 0, "cr_go");
        running += 2;
    }
    end_ns = bench_now_ns() + (int64_t)milliseconds * 1000000;
    cr_sleep((int64_t)milliseconds * CR_MS / 4); /* warm */
    int64_t before = messages, cpu = bench_cpu_ns();
    cr_sleep((int64_t)milliseconds * CR_MS / 2);
    printf("%s %.1f\n", name, (double)(bench_cpu_ns() - cpu) / (double)(messages - before));
    while (running > 0)
        cr_sleep(CR_MS);
}

/* ---- Packets ------------------------------------------------------------------------------------------------------ */

static void sends(void *arg)
{
    struct cr_conn *conn = arg;
    char text[64] = "";
    while (!is_over()) {
        if (cr_write(conn, text, sizeof(text)) < 0)
            break;
    }
    cr_close(conn);
    running--;
}

static void takes(void *arg)
{
    struct cr_conn *conn = arg;
    struct cr_lent data;
    ssize_t n;
    while ((n = cr_recv_lend(conn, &data)) > 0) {
        messages += n / 64;
        cr_recv_return(conn, &data);
    }
    cr_close(conn);
    running--;
}

static void packets(const char *name, int connections)
{
    struct cr_net_stats before, after;
    listen_on(1);
    for (int i = 0; i < connections; i++) {
        struct cr_conn *client, *server;
        connect_pair(0, &client, &server);
        bench_need(cr_go(takes, server) == 0 && cr_go(sends, client) == 0, "cr_go");
        running += 2;
    }
    end_ns = bench_now_ns() + (int64_t)milliseconds * 1000000;
    cr_sleep((int64_t)milliseconds * CR_MS / 4);
    int64_t messages_before = messages, cpu = bench_cpu_ns();
    bench_need(cr_net_stats_get(at_client.net, &before) == 0, "cr_net_stats_get");
    cr_sleep((int64_t)milliseconds * CR_MS / 2);
    bench_need(cr_net_stats_get(at_client.net, &after) == 0, "cr_net_stats_get");
    double seconds = (double)(bench_cpu_ns() - cpu) / 1e9;
    printf("%s %.0f\n", name, (double)(after.sent - before.sent) / seconds);
    printf("%s-messages %.0f\n", name, (double)(messages - messages_before) / seconds);
    printf("%s-acks %.0f\n", name, (double)(after.received - before.received) / seconds);
    while (running > 0)
        cr_sleep(CR_MS);
}

/* ---- Opening and closing ------------------------------------------------------------------------------------------ */

static void accepts(void *listener)
{
    struct cr_conn *conn;
    char c;
    while (cr_accept(listener, &conn) == 0) {
        while (cr_read(conn, &c, 1) > 0)
            ;
        cr_close(conn);
    }
}

static void opens(void *arg)
{
    int at = (int)(intptr_t)arg;
    while (!is_over()) {
        struct cr_conn *conn;
        bench_need(cr_dial(&conn, urls[at++ % PORTS], &at_client) == 0, "cr_dial");
        cr_close(conn);
        messages++;
    }
    running--;
}

static void accept_and_close(const char *name)
{
    struct cr_co *acceptors[PORTS];
    listen_on(PORTS);
    for (int i = 0; i < PORTS; i++) {
        bench_need(cr_spawn(&acceptors[i], accepts, listeners[i], NULL) == 0, "cr_spawn");
        bench_need(cr_go(opens, (void *)(intptr_t)i) == 0, "cr_go");
        running++;
    }
    end_ns = bench_now_ns() + (int64_t)milliseconds * 1000000;
    int64_t cpu = bench_cpu_ns();
    while (running > 0)
        cr_sleep(CR_MS);
    printf("%s %.1f\n", name, (double)(bench_cpu_ns() - cpu) / (double)messages);
    for (int i = 0; i < PORTS; i++) {
        cr_cancel(acceptors[i]);
        bench_need(cr_join(acceptors[i]) == 0, "cr_join");
        cr_listener_close(listeners[i]);
    }
}

/* ---- Bulk --------------------------------------------------------------------------------------------------------- */

static void pours(void *arg)
{
    static char much[BULK_BYTES];
    while (!is_over())
        bench_need(cr_write_all(arg, much, sizeof(much)) > 0, "cr_write_all");
    cr_close(arg);
    running--;
}

static void drains(void *arg)
{
    struct cr_lent data;
    ssize_t n;
    while ((n = cr_recv_lend(arg, &data)) > 0) {
        messages += n;
        cr_recv_return(arg, &data);
    }
    cr_close(arg);
    running--;
}

static void begin_bulk(void)
{
    struct cr_conn *client, *server;
    listen_on(1);
    connect_pair(0, &client, &server);
    running = 2;
    end_ns = bench_now_ns() + (int64_t)milliseconds * 1000000;
    bench_need(cr_go(drains, server) == 0 && cr_go(pours, client) == 0, "cr_go");
    cr_sleep((int64_t)milliseconds * CR_MS / 4);
}

static void bulk(const char *name)
{
    begin_bulk();
    int64_t before = messages, cpu = bench_cpu_ns();
    cr_sleep((int64_t)milliseconds * CR_MS / 2);
    printf("%s %.2f\n", name, (double)(messages - before) * 8 / (double)(bench_cpu_ns() - cpu));
    while (running > 0)
        cr_sleep(CR_MS);
}

#define LOSS 0.01
#define RTT_S 0.010
#define MSS_BYTES 1448 /* with timestamps */

/* Segments in flight, in the mean: RFC 9438, 5.1, equation 5, or where that is more the Reno-friendly region's, which is AIMD(1, 1/2)'s (4.3). */
static double equation(void)
{
    double cubic = pow(0.4 * (3 + 0.7) / (4 * (1 - 0.7)), 0.25) * pow(RTT_S / LOSS, 0.75), reno = sqrt(1.5 / LOSS);
    return cubic > reno ? cubic : reno;
}

static void bulk_bad_line(const char *name)
{
    begin_bulk();
    int64_t before = messages, begin_ns = bench_now_ns();
    cr_sleep((int64_t)milliseconds * CR_MS / 2);
    double bytes_a_second = (double)(messages - before) / (double)(bench_now_ns() - begin_ns) * 1e9;
    printf("%s %.3f\n", name, bytes_a_second / (equation() * MSS_BYTES / RTT_S));
    printf("%s-mbit %.2f\n", name, bytes_a_second * 8 / 1e6);
    fflush(stdout);
    _Exit(0); /* what is under way need not arrive */
}

/* ---- Memory ------------------------------------------------------------------------------------------------------- */

static void reads_one(void *arg)
{
    char c;
    while (cr_read(arg, &c, 1) > 0)
        ;
}

static void open_pairs(int64_t pairs, bool with_coroutines)
{
    struct cr_attr shared = {.stack = CR_STACK_SHARED};
    for (int64_t i = 0; i < pairs; i++) {
        struct cr_conn *ends[2];
        connect_pair((int)(i % PORTS), &ends[0], &ends[1]);
        for (int end = 0; with_coroutines && end < 2; end++) {
            struct cr_co *co;
            bench_need(cr_spawn(&co, reads_one, ends[end], &shared) == 0 && cr_detach(co) == 0, "cr_spawn");
        }
    }
    cr_sleep(2 * CR_SEC); /* what was in flight goes back */
    cr_mem_trim();
    cr_sleep(CR_SEC);
}

/* What the kernel has for objects of its own, sockets among them. */
static double slab_bytes(void)
{
    long long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof(line), file) && sscanf(line, "Slab: %lld", &kib) != 1)
        ;
    if (file)
        fclose(file);
    return (double)kib * 1024;
}

static void memory(const char *name, int64_t pairs)
{
    bool shared = strstr(name, "-shared"), kernel = strstr(name, "-kernel");
    listen_on(PORTS);
    open_pairs(kernel ? 100 : 1000, shared); /* what one has once */
    double before = bench_memory_bytes(), slab = slab_bytes();
    open_pairs(pairs, shared);
    slab = slab_bytes() - slab;
    printf("%s %.1f\n", name, (bench_memory_bytes() - before + (kernel ? slab : 0)) / (double)(2 * pairs));
    if (kernel)
        printf("%s-slab %.1f\n", name, slab / (double)(2 * pairs));
    fflush(stdout);
    _Exit(0);
}

static const char *what;

/* Connections, not pairs, behind the last dash. */
static int64_t pairs_wanted(int64_t usual)
{
    int count = bench_count(what);
    return count > 0 ? count / 2 : usual;
}

static void app(void *unused)
{
    (void)unused;
    if (strcmp(what, "bulk-bad-line") == 0)
        open_networks("impair:drop=1%,delay=5ms,mem:a", "impair:delay=5ms,mem:a");
    else if (!strstr(what, "-kernel"))
        open_networks("mem:a", "mem:a");
    if (strncmp(what, "packets", 7) == 0)
        packets(what, 64);
    else if (strncmp(what, "accept", 6) == 0)
        accept_and_close(what);
    else if (strncmp(what, "echo", 4) == 0)
        echo(what, 1000);
    else if (strcmp(what, "bulk-bad-line") == 0)
        bulk_bad_line(what);
    else if (strncmp(what, "bulk", 4) == 0)
        bulk(what);
    else if (strncmp(what, "memory-kernel", 13) == 0)
        memory(what, pairs_wanted(9000));
    else if (strncmp(what, "memory", 6) == 0)
        memory(what, pairs_wanted(500000));
    cr_shutdown();
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    what = argv[1];
    milliseconds = atoi(argv[2]);
    return cr_run(app, NULL, &(struct cr_config){.workers = 1}) < 0;
}
