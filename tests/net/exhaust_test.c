/* No more packets, no more memory: windows close, users and new connections wait, nothing that was acknowledged is lost, and all goes on when there is some again. */
#include "field.h"

#include <crore/crore.h>

#include "mem/mem.h"
#include "net/udp/udp.h"

#define PACKETS 1024
#define MANY 4096 /* so that what a cache keeps is little */

static const struct cr__tcp_config none;

/* Packets that somebody else has. */
static struct cr_packet *hostages[MANY];
static unsigned hostage_count;

static void take_all_but(unsigned left)
{
    struct cr_packet *packet;
    while (hostage_count < MANY && (packet = cr__packet_get(&field.pair.packets)) != NULL)
        hostages[hostage_count++] = packet;
    while (left-- > 0 && hostage_count > 0)
        cr__packet_put(&field.pair.packets, hostages[--hostage_count]);
    cr__packet_flush(&field.pair.packets);
}

static void free_hostages(void)
{
    while (hostage_count > 0)
        cr__packet_put(&field.pair.packets, hostages[--hostage_count]);
}

static void check_both(void)
{
    cr__tcp_check(field.a);
    cr__tcp_check(field.b);
}

TEST(how_many_packets_are_left_is_told_in_sixteenths_once_there_are_few)
{
    static struct cr__packet_cache cache, others;
    CHECK_EQ(cr_packets_bound(PACKETS), 0);
    CHECK_EQ(cr__packets_left(&cache), 16);
    for (unsigned i = 0; i < PACKETS; i++) {
        unsigned left = (PACKETS - i) / (PACKETS / 16);
        CHECK(cr__packets_left(&cache) == 16 || cr__packets_left(&cache) == left);
        CHECK(cr__packets_left(&others) == 16 || cr__packets_left(&others) <= left);
        CHECK(cr__packets_left(&others) == 16 || cr__packets_left(&others) + 1 >= left); /* a magazine that another one has counts as used */
        hostages[i] = cr__packet_get(&cache);
        CHECK(hostages[i] != NULL);
    }
    CHECK_EQ(cr__packets_left(&cache), 0);
    CHECK(!cr__packet_get(&cache));
    for (unsigned i = 0; i < PACKETS; i++)
        cr__packet_put(&cache, hostages[i]);
    cr__packet_flush(&cache);
    CHECK_EQ(cr__packets_left(&cache), 16);
}

TEST(without_packets_nothing_is_lost_and_all_goes_on_when_there_are_some)
{
    CHECK_EQ(cr_packets_bound(PACKETS), 0);
    field_start(&none);
    field.rate_bytes = 4 * 1448;
    field_connect(true, NULL);
    for (unsigned round = 0; round < 30; round++) {
        uint64_t read = field.read;
        field_run(100);
        CHECK(field.read > read);
        take_all_but(round * 11 % 64);
        field_run(2000);
        check_both();
        free_hostages();
        for (unsigned ms = 0; ms < 20000 && field.read - read < 500000; ms += 100)
            field_run(100);
        check_both();
        CHECK_EQ(field.a->state, CR__TCP_ESTABLISHED);
        CHECK_EQ(field.b->state, CR__TCP_ESTABLISHED);
    }
    CHECK(field.pair.a.drops[CR__DROP_NO_PACKET] + field.pair.b.drops[CR__DROP_NO_PACKET] > 0);
    field_settle();
    field_finish();
}

/* More connections write than there are packets for. If all were queued, no ACK would find one. */
TEST(users_that_write_more_than_there_are_packets_for_wait_and_all_arrives)
{
    enum { CONNS = 50, BYTES = 200000 };
    static struct { struct cr__tcp *a, *b; size_t written, read; } conns[CONNS];
    static uint8_t bytes[BYTES], got[BYTES];
    CHECK_EQ(cr_packets_bound(PACKETS), 0);
    field_start(&none);
    field_connect(true, NULL);
    struct cr__ip to = pair_ip4(2);
    for (unsigned i = 0; i < CONNS; i++) {
        CHECK_EQ(cr__tcp_dial(&field.pair.a, &conns[i].a, NULL, 0, &to, FIELD_PORT, NULL), 0);
        field_run(5);
        conns[i].b = cr__tcp_accept(field.listener);
        CHECK(conns[i].b != NULL);
    }
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = field_pattern(i);
    size_t done = 0;
    bool refused = false;
    for (unsigned ms = 0; done < (size_t)CONNS * BYTES && ms < 100000; ms++) {
        for (unsigned i = 0; i < CONNS; i++) {
            ssize_t n = conns[i].written < BYTES ? cr__tcp_send(conns[i].a, &(struct iovec){bytes + conns[i].written, BYTES - conns[i].written}, 1, false) : 0;
            CHECK(n >= 0 || n == -EAGAIN || n == -ENOBUFS);
            refused |= n == -ENOBUFS;
            conns[i].written += n > 0 ? (size_t)n : 0;
            cr__tcp_check(conns[i].a);
        }
        field_run(1);
        for (unsigned i = 0; ms > 1000 && i < CONNS; i++) { /* for a second nobody reads */
            ssize_t n;
            while ((n = cr__tcp_recv(conns[i].b, &(struct iovec){got, sizeof(got)}, 1)) > 0) {
                CHECK(memcmp(got, bytes + conns[i].read, (size_t)n) == 0);
                conns[i].read += (size_t)n;
                done += (size_t)n;
            }
            CHECK_EQ(n, -EAGAIN);
            cr__tcp_check(conns[i].b);
        }
    }
    CHECK(refused);
    CHECK_EQ(done, (size_t)CONNS * BYTES);
    field_finish();
}

TEST(a_window_does_not_move_on_while_few_packets_are_left_and_what_it_has_offered_is_taken)
{
    CHECK_EQ(cr_packets_bound(MANY), 0);
    field_start(&(struct cr__tcp_config){.recv_limit_bytes = 256 << 10});
    field.rate_bytes = 10 * 1448;
    field_connect(true, NULL);
    field_run(100);
    field.stall = true;
    field_run(5);
    take_all_but(MANY * 7 / 32);
    field_run(1);
    uint32_t edge = field.b->rcv_edge;
    for (unsigned ms = 0; ms < 2000; ms++) { /* read slowly, so there is room, and always something that waits */
        uint8_t bytes[60];
        CHECK_EQ(cr__tcp_recv(field.b, &(struct iovec){bytes, sizeof(bytes)}, 1), sizeof(bytes));
        for (unsigned i = 0; i < sizeof(bytes); i++)
            CHECK_EQ(bytes[i], field_pattern(field.read++));
        field_run(1);
        CHECK_EQ(field.b->rcv_edge, edge);
    }
    CHECK(edge - field.b->rcv_nxt < 1448); /* all of it, but no more */
    check_both();
    field.stall = false;
    free_hostages();
    field_run(3000);
    CHECK(cr__seq_before(edge, field.b->rcv_edge));
    field_settle();
    field_finish();
}

TEST(new_connections_wait_while_few_packets_are_left_and_get_in_afterwards)
{
    CHECK_EQ(cr_packets_bound(PACKETS), 0);
    field_start(&none);
    field_connect(true, NULL);
    take_all_but(100);
    struct cr__tcp *dialled;
    struct cr__ip to = pair_ip4(2);
    uint64_t dropped = field.pair.b.drops[CR__DROP_NO_PACKET];
    CHECK_EQ(cr__tcp_dial(&field.pair.a, &dialled, NULL, 0, &to, FIELD_PORT, NULL), 0);
    field_run(100);
    CHECK_EQ(dialled->state, CR__TCP_SYN_SENT);
    CHECK(field.pair.b.drops[CR__DROP_NO_PACKET] > dropped);
    CHECK_EQ(field.pair.b.tcp->half_open, 0);
    free_hostages();
    field_run(2000);
    CHECK_EQ(dialled->state, CR__TCP_ESTABLISHED);
    field_finish();
}

static void flood_of_datagrams(struct field *unused)
{
    (void)unused;
    for (unsigned i = 0; i < 100; i++) {
        const uint8_t datagram[9] = {0x10, 0, 0, 53, 0, 9};
        field_queue(pair_frame(&field.pair.packets, FIELD_ATTACKER, 2, true, CR__IP_UDP, datagram, sizeof(datagram), 6));
    }
}

TEST(datagrams_that_nobody_reads_leave_packets_for_connections)
{
    CHECK_EQ(cr_packets_bound(MANY), 0);
    field_start(&none);
    CHECK_EQ(cr__udp_init(&field.pair.b, &(struct cr__udp_config){.recv_limit_bytes = MANY * CR_PACKET_BYTES}), 0);
    struct cr__udp *udp;
    CHECK_EQ(cr__udp_open(&field.pair.b, &udp, NULL, 53), 0);
    field.rate_bytes = 10 * 1448;
    field_connect(true, NULL);
    double before = field_rate(500);
    field.flood = flood_of_datagrams;
    field_run(100);
    CHECK(field_rate(500) >= 0.8 * before);
    CHECK(field.pair.b.drops[CR__DROP_UDP_FULL] > 1000);
    CHECK(cr__packets_left(field.pair.a.packets) > CR__LEFT_LITTLE);
    field_settle();
    cr__udp_fini(&field.pair.b);
    field_finish();
}

/* From the first allocation on, from the second, and so on: through opening, sending, and closing. */
static bool life_without_memory_after(unsigned n)
{
    field_start(&none);
    struct cr__tcp *dialled = NULL, *accepted = NULL;
    struct cr__ip to = pair_ip4(2);
    static char text[100000], got[100000];
    size_t written = 0, read = 0;
    bool failed = false;
    CHECK_EQ(cr__tcp_listen(&field.pair.b, &field.listener, NULL, FIELD_PORT, NULL), 0);
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)field_pattern(i);
    cr__mem_fail_after(n);
    for (unsigned ms = 0; read < sizeof(text) && ms < 300000; ms += 10) {
        if (ms == 5000) { /* there is memory again */
            failed = cr__mem_fails_by_injection();
            cr__mem_fail_after(0);
        }
        if (!dialled) {
            int error = cr__tcp_dial(&field.pair.a, &dialled, NULL, 0, &to, FIELD_PORT, NULL);
            CHECK(error == 0 || (error == -ENOMEM && ms < 5000));
        }
        if (dialled && written < sizeof(text)) {
            ssize_t sent = cr__tcp_send(dialled, &(struct iovec){text + written, sizeof(text) - written}, 1, false);
            CHECK(sent > 0 || sent == -EAGAIN || sent == -ENOBUFS || sent == -ENOTCONN);
            written += sent > 0 ? (size_t)sent : 0;
            cr__tcp_check(dialled);
        }
        field_run(10);
        if (!accepted)
            accepted = cr__tcp_accept(field.listener);
        ssize_t more = accepted ? cr__tcp_recv(accepted, &(struct iovec){got + read, sizeof(got) - read}, 1) : -EAGAIN;
        CHECK(more > 0 || more == -EAGAIN);
        read += more > 0 ? (size_t)more : 0;
        if (accepted)
            cr__tcp_check(accepted);
    }
    cr__mem_fail_after(0);
    CHECK_EQ(read, sizeof(text));
    CHECK(memcmp(got, text, sizeof(text)) == 0);
    cr__mem_fail_after(n % 3 == 0 ? 1 : 0); /* closing without any */
    cr__tcp_close(dialled);
    cr__tcp_close(accepted);
    field_run(1000);
    cr__mem_fail_after(0);
    field_run(200000);
    CHECK_EQ(field.pair.a.tcp->orphans + field.pair.b.tcp->orphans, 0);
    CHECK_EQ(field.pair.a.tcp->table.count + field.pair.b.tcp->table.count, 0);
    CHECK_EQ(field_packets(), 0);
    field_finish();
    return failed;
}

TEST(whichever_allocation_fails_what_is_written_arrives_and_nothing_is_left)
{
    unsigned n = 1;
    while (life_without_memory_after(n))
        n++;
    printf("# %u allocations\n", n - 1);
    CHECK(n > 5);
}

/* ---- A whole program ---------------------------------------------------------------------------------------------- */

#define FEW_PACKETS 128 /* no more than a worker's cache may hold */
#define PROGRAM_CONNS 40
#define PROGRAM_BYTES 20000

static struct cr_conn_opts at_a, at_b;
static uint64_t program_read;

static void program_reads(void *conn)
{
    char buf[8192];
    ssize_t n;
    while ((n = cr_read(conn, buf, sizeof(buf))) > 0)
        program_read += (uint64_t)n;
    CHECK_EQ(n, 0);
    cr_close(conn);
}

static void program_accepts(void *listener)
{
    struct cr_conn *conn;
    for (int i = 0; i < PROGRAM_CONNS; i++) {
        CHECK_EQ(cr_accept(listener, &conn), 0);
        CHECK_EQ(cr_go(program_reads, conn), 0);
    }
}

static void program_writes(void *unused)
{
    static const char much[PROGRAM_BYTES];
    struct cr_conn *conn;
    (void)unused;
    CHECK_EQ(cr_dial_until(&conn, "tcp://10.0.0.2:7", &at_a, cr_after(60 * CR_SEC)), 0);
    CHECK_EQ(cr_write_all(conn, much, sizeof(much)), (ssize_t)sizeof(much));
    cr_close(conn);
}

static void program(void *unused)
{
    struct cr_listener *listener;
    (void)unused;
    CHECK_EQ(cr_net_open(&at_a.net, "mem:few addr=10.0.0.1/24"), 0);
    CHECK_EQ(cr_net_open(&at_b.net, "mem:few addr=10.0.0.2/24"), 0);
    CHECK_EQ(cr_listen(&listener, "tcp://10.0.0.2:7", &at_b), 0);
    CHECK_EQ(cr_go(program_accepts, listener), 0);
    for (int i = 0; i < PROGRAM_CONNS; i++)
        CHECK_EQ(cr_go(program_writes, NULL), 0);
    for (int ms = 0; ms < 60000 && program_read < PROGRAM_CONNS * PROGRAM_BYTES; ms += 10)
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    CHECK_EQ(program_read, PROGRAM_CONNS * PROGRAM_BYTES);
    cr_listener_close(listener);
    cr_net_close(at_a.net);
    cr_net_close(at_b.net);
}

TEST(a_program_goes_on_with_fewer_packets_than_its_worker_keeps_in_reserve)
{
    CHECK_EQ(cr_packets_bound(FEW_PACKETS), 0);
    CHECK_EQ(cr_run(program, NULL, (&(struct cr_config){.workers = 1})), 0);
}
