/* A flood of SYNs at a server on a network of our own, with the work that it takes: what it leaves of the throughput of who is connected, and whether who comes gets in. One processor does all of it.
 *
 *     client's network --mem:near-- the wire --mem:far-- server's network
 *                                       ^
 *                                 the flooder
 *
 * The wire hands on what comes, up to a burst each way, then the flooder fills what room the link to the server has left: so it is full at each turn, and the server never gets to the end of it. Frames of the flood
 * were made before, each from another address and port; the server's answers to them go no further than the wire. Connections together want WANTED_BITS a second, and each millisecond a new one is dialled: of
 * processor time, of which all is used, so that what else the machine does changes little.
 *
 *     syns           bytes that arrive in the time, as a part of those that do without a flood: the flooder's own time counts as the flood's
 *     syns-new       of those that were dialled in the flood, the part that was answered (within a second); syns-new-count: how many they were
 *     syns-rate      SYNs a second that the server has handled, of the time that was not the flooder's own
 *     syns-own       the flooder's own time, as a part of all */
#include "bench.h"

#include <crore/crore.h>

#define WANTED_BITS 1000000000 /* less than what could be handled: the rest is the flood's to take */
#define CONNECTIONS 16
#define SHARE_BYTES (WANTED_BITS / 8 / 1000 / CONNECTIONS) /* of each, in a millisecond */
#define BEHIND_MOST 10 /* milliseconds */
#define FRAMES 65536
#define FRAME_BYTES 58 /* Ethernet, IPv4, TCP with an MSS */
#define CLIENT "10.0.0.1"
#define SERVER "10.0.0.2"

static struct cr_net *client, *server;
static struct cr_link *near, *far; /* the wire's ends */
static struct cr_listener *listener;
static char url[64];
static unsigned char frames[FRAMES][FRAME_BYTES];
static bool flooding, stop;
static struct cr_co *the_wire;
static int64_t arrived_bytes, own_ns, dialled, answered;
static int running; /* who stops by itself when it is over */

/* Who is told of each millisecond. */
static struct cr_co *ticked[CONNECTIONS + 2];
static size_t ticked_count;
static int ticks;

/* How many milliseconds have begun since it was last asked; 0: the time is over. What somebody is behind for longer is not made up for. */
static int next_ticks(int *seen)
{
    while (!stop && *seen == ticks && cr_park() == 0)
        ;
    int passed = stop ? 0 : ticks - *seen;
    *seen = ticks;
    return passed < BEHIND_MOST ? passed : BEHIND_MOST;
}

/* ---- The flooder ------------------------------------------------------------------------------------------------- */

static void put16(unsigned char *at, unsigned value)
{
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

static void sum_ip(unsigned char *ip)
{
    unsigned sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += (unsigned)ip[i] << 8 | ip[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    put16(ip + 10, ~(sum + (sum >> 16)) & 0xffff);
}

/* From addresses beyond the gateway, which is the client's; mem: verifies no checksum of TCP. */
static void make_frames(const unsigned char *to, unsigned port)
{
    static const unsigned char ip[20] = {0x45, 0, 0, FRAME_BYTES - 14, 0, 0, 0, 0, 64, 6, 0, 0, 11, 0, 0, 0, 10, 0, 0, 2};
    static const unsigned char tcp[24] = {[12] = 0x60, [13] = 2, [14] = 4, [20] = 2, [21] = 4, [22] = 5, [23] = 0xb4};
    for (unsigned i = 0; i < FRAMES; i++) {
        unsigned char *frame = frames[i];
        uint64_t random = bench_random();
        memcpy(frame, to, 6);
        memcpy(frame + 6, (const unsigned char[]){2, 0, 0, 0, 0, 9, 8, 0}, 8);
        memcpy(frame + 14, ip, sizeof(ip));
        memcpy(frame + 27, &random, 3);
        sum_ip(frame + 14);
        memcpy(frame + 34, tcp, sizeof(tcp));
        put16(frame + 34, 1024 + (unsigned)(random >> 32) % 60000);
        put16(frame + 36, port);
        memcpy(frame + 38, &random, 4);
    }
}

/* Whether the link has taken all of a burst. (There are packets for more than both links hold.) */
static bool flood_burst(void)
{
    static unsigned at;
    struct cr_packet *burst[CR_LINK_BURST];
    int count = 0, sent;
    while (count < CR_LINK_BURST && (burst[count] = cr_packet_get()) != NULL) {
        struct cr_packet *packet = burst[count++];
        memcpy(packet->data, frames[at % FRAMES], FRAME_BYTES);
        packet->data[35] ^= (unsigned char)(at++ / FRAMES); /* from another port each time around */
        packet->size_bytes = FRAME_BYTES;
        packet->flags = CR_PACKET_CHECKED;
    }
    sent = cr_link_send(far, burst, count);
    for (int i = sent; i < count; i++)
        cr_packet_put(burst[i]);
    return sent == CR_LINK_BURST;
}

/* ---- The wire ---------------------------------------------------------------------------------------------------- */

struct way {
    struct cr_link *from, *to;
    struct cr_packet *packets[CR_LINK_BURST];
    int count;
};

/* Answers to the flood are for nobody. */
static bool is_for_client(const struct cr_packet *frame)
{
    return frame->size_bytes < 34 || memcmp(frame->data + 12, "\x08\0", 2) != 0 || memcmp(frame->data + 30, (const unsigned char[]){10, 0, 0, 1}, 4) == 0;
}

/* A burst; what there was no room for is handed on first, next time. Whether there may be more. */
static bool hand_on(struct way *way)
{
    int came = 0;
    if (way->count == 0) {
        came = cr_link_recv(way->from, way->packets, CR_LINK_BURST);
        for (int i = 0; i < came; i++) {
            if (way->to == far || is_for_client(way->packets[i]))
                way->packets[way->count++] = way->packets[i];
            else
                cr_packet_put(way->packets[i]);
        }
    }
    int sent = cr_link_send(way->to, way->packets, way->count);
    way->count -= sent;
    memmove(way->packets, way->packets + sent, (size_t)way->count * sizeof(way->packets[0]));
    return came == CR_LINK_BURST && way->count == 0;
}

static void tick(void)
{
    static int64_t due_ns;
    int64_t now_ns = bench_cpu_ns();
    if (now_ns < due_ns)
        return;
    for (due_ns = due_ns ? due_ns : now_ns; due_ns <= now_ns; due_ns += CR_MS)
        ticks++;
    cr_unpark_many(ticked, ticked_count);
}

static void wire(void *unused)
{
    struct way to_server = {.from = near, .to = far}, to_client = {.from = far, .to = near};
    (void)unused;
    while (!stop || running > 0) {
        for (bool room = true; room;) {
            hand_on(&to_server);
            while (hand_on(&to_client))
                ;
            int64_t begin_ns = flooding ? bench_now_ns() : 0;
            room = flooding && flood_burst();
            own_ns += flooding ? bench_now_ns() - begin_ns : 0;
        }
        tick();
        cr_yield();
    }
}

/* ---- Who is connected, and who comes ---------------------------------------------------------------------------- */

/* One byte alone is a newcomer's, and is answered. */
static void serves(void *arg)
{
    struct cr_lent data;
    ssize_t n;
    while ((n = cr_recv_lend(arg, &data)) > 0) {
        arrived_bytes += n;
        if (n == 1 && cr_write(arg, data.bytes, 1) < 0)
            break;
        cr_recv_return(arg, &data);
    }
    cr_close(arg);
}

static void accepts(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    while (cr_accept(listener, &conn) == 0)
        bench_need(cr_go(serves, conn) == 0, "cr_go");
}

static void sends(void *arg)
{
    static char much[SHARE_BYTES];
    for (int seen = ticks, passed; (passed = next_ticks(&seen)) > 0;) {
        while (passed-- > 0)
            bench_need(cr_write_all(arg, much, sizeof(much)) > 0, "cr_write_all");
    }
    cr_close_reset(arg);
    running--;
}

static void comes(void *arg)
{
    struct cr_conn_opts opts = {.net = client};
    struct cr_conn *conn;
    char c = '?';
    bool counts = flooding;
    int64_t deadline_ns = cr_after(CR_SEC);
    (void)arg;
    dialled += counts;
    if (cr_dial_until(&conn, url, &opts, deadline_ns) == 0) {
        answered += cr_write_until(conn, &c, 1, deadline_ns) == 1 && cr_read_until(conn, &c, 1, deadline_ns) == 1 && counts;
        cr_close(conn);
    }
    running--;
}

static void newcomers(void *unused)
{
    (void)unused;
    for (int seen = ticks, passed; (passed = next_ticks(&seen)) > 0; running += passed) {
        for (int i = 0; i < passed; i++)
            bench_need(cr_go(comes, NULL) == 0, "cr_go");
    }
    running--;
}

/* ---- The run ----------------------------------------------------------------------------------------------------- */

static void begin_ticked(void (*fn)(void *arg), void *arg)
{
    bench_need(cr_spawn(&ticked[ticked_count++], fn, arg, NULL) == 0, "cr_spawn");
    running++;
}

static void begin(void)
{
    struct cr_conn_opts at_client = {.net = client}, at_server = {.net = server};
    struct cr_net_stats stats;
    bench_need(cr_listen(&listener, "tcp://" SERVER ":0", &at_server) == 0, "cr_listen");
    bench_need(cr_listener_url(listener, url, sizeof(url)) > 0, "cr_listener_url");
    bench_need(cr_net_stats_get(server, &stats) == 0, "cr_net_stats_get");
    make_frames(stats.link.address, (unsigned)atoi(strrchr(url, ':') + 1));
    bench_need(cr_spawn(&the_wire, wire, NULL, NULL) == 0 && cr_go(accepts, NULL) == 0, "cr_go");
    for (int i = 0; i < CONNECTIONS; i++) {
        struct cr_conn *conn;
        bench_need(cr_dial(&conn, url, &at_client) == 0, "cr_dial");
        begin_ticked(sends, conn);
    }
    begin_ticked(newcomers, NULL);
}

static void pass(int milliseconds)
{
    for (int until = ticks + milliseconds; ticks < until;)
        cr_yield();
}

/* Bytes a second that arrive. */
static double throughput(int milliseconds)
{
    pass(milliseconds / 4);
    int64_t before = arrived_bytes, begin_ns = bench_cpu_ns();
    pass(milliseconds * 3 / 4);
    return (double)(arrived_bytes - before) * 1e9 / (double)(bench_cpu_ns() - begin_ns);
}

static void syns(const char *name, int milliseconds)
{
    struct cr_net_stats before, after;
    begin();
    double without = throughput(milliseconds / 2);
    flooding = true;
    int64_t begin_ns = bench_cpu_ns();
    bench_need(cr_net_stats_get(server, &before) == 0, "cr_net_stats_get");
    double with = throughput(milliseconds / 2);
    bench_need(cr_net_stats_get(server, &after) == 0, "cr_net_stats_get");
    double took_ns = (double)(bench_cpu_ns() - begin_ns), own = (double)own_ns;
    stop = true;
    bench_need(cr_join(the_wire) == 0, "cr_join"); /* the flood goes on until all who came have their answers, or their time is up */
    printf("%s %.3f\n", name, with / without);
    printf("%s-new %.3f\n", name, (double)answered / (double)dialled);
    printf("%s-new-count %lld\n", name, (long long)answered);
    printf("%s-rate %.0f\n", name, (double)(after.cookies_sent - before.cookies_sent) * 1e9 / (took_ns - own));
    printf("%s-own %.3f\n", name, own / took_ns);
}

static int milliseconds;
static const char *what;

static void app(void *unused)
{
    (void)unused;
    bench_need(cr_net_open(&client, "mem:near addr=" CLIENT "/24") == 0 && cr_net_open(&server, "mem:far addr=" SERVER "/24 gw=" CLIENT) == 0, "cr_net_open");
    bench_need(cr_link_open(&near, "mem:near") == 0 && cr_link_open(&far, "mem:far") == 0, "cr_link_open");
    syns(what, milliseconds);
    cr_link_close(near);
    cr_link_close(far);
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
