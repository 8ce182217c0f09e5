/* What the data path of a network of our own does not do in steady state: ask for memory, take locks, copy between link and TCP; and what an idle connection does not hold. */
#include <crore/crore.h>

#include "mem/mem.h"
#include "net/socket/socket.h"
#include "test.h"

static const struct cr_config one_worker = {.workers = 1};
static struct cr_net *left, *right;
static struct cr_conn *client, *server;

static struct cr__network *network_of(struct cr_net *net)
{
    return CR__CONTAINER(net, struct cr__network, net);
}

static void open_pair(void)
{
    struct cr_listener *listener;
    static char url[64];
    static struct cr_conn_opts at_left, at_right;
    CHECK_EQ(cr_net_open(&left, "mem:steady addr=10.0.0.1/24"), 0);
    CHECK_EQ(cr_net_open(&right, "mem:steady addr=10.0.0.2/24"), 0);
    at_left.net = left;
    at_right.net = right;
    CHECK_EQ(cr_listen(&listener, "tcp://10.0.0.2:0", &at_right), 0);
    CHECK(cr_listener_url(listener, url, sizeof(url)) > 0);
    CHECK_EQ(cr_dial(&client, url, &at_left), 0);
    CHECK_EQ(cr_accept(listener, &server), 0);
    cr_listener_close(listener);
}

static void close_pair(void)
{
    cr_close(client);
    cr_close(server);
    cr_net_close(left);
    cr_net_close(right);
}

/* ---- Memory and locks ------------------------------------------------------------------------------------------- */

/* From here on nothing is to be had that would need the kernel, or the locks behind which fresh memory lies: who asks for it gets none, and is counted. */
struct steady {
    uint64_t calls, packets_bytes, drops;
};

static uint64_t drops(void)
{
    return network_of(left)->host.drops[CR__DROP_NO_PACKET] + network_of(right)->host.drops[CR__DROP_NO_PACKET];
}

static struct steady begin_steady(void)
{
    struct steady steady = {cr__mem_kernel_calls(), cr__mem_bytes(CR__MEM_PACKETS), drops()};
    cr__mem_fail_after(1);
    return steady;
}

static void check_steady(const struct steady *steady)
{
    cr__mem_fail_after(0);
    CHECK_EQ(cr__mem_kernel_calls(), steady->calls);
    CHECK_EQ(cr__mem_bytes(CR__MEM_PACKETS), steady->packets_bytes);
    CHECK_EQ(drops(), steady->drops);
}

static void echoes(void *unused)
{
    struct cr_lent data;
    (void)unused;
    while (cr_recv_lend(server, &data) > 0) {
        CHECK_EQ(cr_write_all(server, data.bytes, data.size_bytes), data.size_bytes);
        cr_recv_return(server, &data);
    }
}

static void ask(int messages)
{
    static char text[64] = "sixty-four bytes", back[64];
    for (int i = 0; i < messages; i++) {
        CHECK_EQ(cr_write_all(client, text, sizeof(text)), sizeof(text));
        for (size_t got = 0; got < sizeof(back);) {
            ssize_t n = cr_read(client, back + got, sizeof(back) - got);
            CHECK(n > 0);
            got += (size_t)n;
        }
        CHECK(memcmp(text, back, sizeof(text)) == 0);
    }
}

TEST_CO_CONFIG(in_steady_state_echoes_need_no_memory_no_lock_and_no_kernel_call, &one_worker)
{
    struct cr_co *co;
    SKIP_WHILE_FREEZING();
    open_pair();
    CHECK_EQ(cr_spawn(&co, echoes, NULL, NULL), 0);
    ask(200);
    struct steady steady = begin_steady();
    ask(3000);
    check_steady(&steady);
    CHECK_EQ(cr_close_write(client), 0);
    CHECK_EQ(cr_join(co), 0);
    close_pair();
}

/* As many as can ever be in use by one connection: its send buffer, the ring of the link, its receive buffer. How many of them were in use so far is a matter of when who ran. */
static void touch_packets(void)
{
    static struct cr_packet *packets[4096];
    for (int i = 0; i < 4096; i++)
        CHECK((packets[i] = cr_packet_get()) != NULL);
    for (int i = 0; i < 4096; i++)
        cr_packet_put(packets[i]);
}

#define PIECE_BYTES 65536

static void drains(void *unused)
{
    struct cr_lent data;
    (void)unused;
    while (cr_recv_lend(server, &data) > 0)
        cr_recv_return(server, &data);
}

static void pour(int pieces)
{
    static char piece[PIECE_BYTES];
    for (int i = 0; i < pieces; i++)
        CHECK_EQ(cr_write_all(client, piece, sizeof(piece)), sizeof(piece));
}

TEST_CO_CONFIG(in_steady_state_a_stream_needs_no_memory_no_lock_and_no_kernel_call, &one_worker)
{
    struct cr_co *co;
    SKIP_WHILE_FREEZING();
    open_pair();
    CHECK_EQ(cr_spawn(&co, drains, NULL, NULL), 0);
    pour(500); /* until the window is as large as it gets */
    touch_packets();
    struct steady steady = begin_steady();
    pour(500);
    check_steady(&steady);
    CHECK_EQ(cr_close_write(client), 0);
    CHECK_EQ(cr_join(co), 0);
    close_pair();
}

/* ---- Copies ------------------------------------------------------------------------------------------------------- */

/* Between a network and its link: what passes. */
static struct cr__link_ops spied;
static const struct cr__link_ops *real;
static struct passed {
    struct cr_packet *packet;
    const unsigned char *data;
} passed[64]; /* that bore data: a slow machine may make some come twice */
static int passed_count;

#define HEADERS_BYTES (14 + 20 + 32)

static void note(struct cr_packet **packets, int count)
{
    for (int i = 0; i < count; i++) {
        if (packets[i]->size_bytes > HEADERS_BYTES && passed_count < 64)
            passed[passed_count++] = (struct passed){packets[i], packets[i]->data};
    }
}

/* Where the packet's bytes lay when it passed; NULL: it has not. */
static const unsigned char *where_passed(const struct cr_packet *packet)
{
    for (int i = 0; i < passed_count; i++) {
        if (passed[i].packet == packet)
            return passed[i].data;
    }
    return NULL;
}

static int spied_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    note(packets, count);
    return real->send(link, packets, count);
}

static int spied_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    int count = real->recv(link, packets, most);
    note(packets, count);
    return count;
}

static void spy_on_sending(struct cr_net *net)
{
    struct cr_link *link = network_of(net)->link;
    real = link->ops;
    spied = *real;
    spied.send = spied_send;
    link->ops = &spied;
}

static void spy_on_receiving(struct cr_net *net)
{
    struct cr_link *link = network_of(net)->link;
    real = link->ops;
    spied = *real;
    spied.recv = spied_recv;
    link->ops = &spied;
}

static void stop_spying(struct cr_net *net)
{
    network_of(net)->link->ops = real;
}

static bool is_acknowledged(void)
{
    const struct cr__flight *flight = cr__tcp_of(client)->flight;
    return !flight || !flight->send.first;
}

TEST_CO_CONFIG(the_packet_that_a_write_fills_is_the_one_that_the_link_gets, &one_worker)
{
    open_pair();
    spy_on_sending(left);
    for (int i = 0; i < 5; i++) {
        passed_count = 0;
        CHECK_EQ(cr_write_all(client, "some bytes", 10), 10);
        struct cr_packet *queued = cr__tcp_of(client)->flight->send.last;
        while (!is_acknowledged())
            CHECK_EQ(cr_sleep(CR_MS), 0);
        CHECK(where_passed(queued) != NULL);
    }
    stop_spying(left);
    close_pair();
}

TEST_CO_CONFIG(the_packet_that_the_link_brings_is_the_one_that_is_lent, &one_worker)
{
    open_pair();
    spy_on_receiving(right);
    for (int i = 0; i < 100; i++) {
        struct cr_lent data;
        passed_count = 0;
        CHECK_EQ(cr_write_all(client, "some bytes", 10), 10);
        CHECK_EQ(cr_recv_lend(server, &data), 10);
        CHECK(where_passed(data._owner) + HEADERS_BYTES == (unsigned char *)data.bytes); /* where they lay when they came */
        CHECK(memcmp(data.bytes, "some bytes", 10) == 0);
        cr_recv_return(server, &data);
    }
    stop_spying(right);
    close_pair();
}

/* ---- Idle --------------------------------------------------------------------------------------------------------- */

static void reads_until_the_end(void *unused)
{
    static char bytes[4096];
    (void)unused;
    while (cr_read(server, bytes, sizeof(bytes)) > 0)
        ;
}

TEST_CO_CONFIG(an_idle_connection_holds_no_packet_and_no_flight, &one_worker)
{
    struct cr_co *co;
    open_pair();
    CHECK_EQ(cr_spawn(&co, reads_until_the_end, NULL, NULL), 0);
    pour(2);
    CHECK(cr__tcp_of(client)->flight != NULL); /* what was written last is still to be acknowledged */
    while (cr__tcp_of(client)->flight || cr__tcp_of(server)->flight)
        CHECK_EQ(cr_sleep(CR_MS), 0); /* else it never ends */
    cr__packet_flush(&network_of(left)->worker->packets);
    CHECK_EQ(cr__packets_in_use(), 0);
    CHECK_EQ(cr_close_write(client), 0);
    CHECK_EQ(cr_join(co), 0);
    close_pair();
}

