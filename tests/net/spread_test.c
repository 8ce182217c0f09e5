/* A network on all workers of its runtime, as who is at the other end of its link sees it: a peer made by hand. (With two whole networks: everywhere_test.) */
#include <crore/crore.h>

#include "frames.h"
#include "mem/mem.h"
#include "mem/packet.h"
#include "net/socket/socket.h"
#include "test.h"

#define SPEC "mem:a addr=10.0.0.1/24 addr=fd00::1/64 workers=all"
#define WORKERS 4
#define SYNS 64

static const uint8_t peer_ethernet[6] = {2, 0, 0, 0, 0, 9};
static struct cr_net *net;
static struct cr_link *wire;
static struct cr_conn_opts here;
static void (*respond)(const struct frame *f, const uint8_t *bytes, size_t size);
static uint8_t our_ethernet[6];
static int syn_acks, resets;
static _Atomic int ended;

static void send_bytes(const uint8_t *bytes, size_t size)
{
    struct cr_packet *packet = cr_packet_get();
    CHECK(packet != NULL);
    memcpy(packet->data, bytes, size);
    packet->size_bytes = (uint16_t)size;
    CHECK_EQ(cr_link_send(wire, &packet, 1), 1);
}

static void take(const uint8_t *bytes, size_t size)
{
    struct frame f;
    uint8_t out[256];
    CHECK(frame_parse(&f, bytes, size));
    memcpy(our_ethernet, f.from_ethernet, 6);
    if (f.kind == FRAME_ARP_REQUEST || f.kind == FRAME_SOLICIT)
        send_bytes(out, frame_answer_neighbour(&f, out, peer_ethernet));
    else if (respond)
        respond(&f, bytes, size);
}

static void peer(void *unused)
{
    struct cr_packet *packets[CR_LINK_BURST];
    (void)unused;
    while (cr_link_wait(wire) == 0) {
        for (int n; (n = cr_link_recv(wire, packets, CR_LINK_BURST)) > 0;) {
            for (int i = 0; i < n; i++) {
                take(packets[i]->data, packets[i]->size_bytes);
                cr_packet_put(packets[i]);
            }
        }
    }
}

static struct cr_co *peer_co;

static void begin(void)
{
    CHECK_EQ(cr_link_open(&wire, "mem:a"), 0);
    CHECK_EQ(cr_net_open(&net, SPEC), 0);
    here.net = net;
    CHECK_EQ(cr_spawn_on(&peer_co, (unsigned)cr_worker_index(), peer, NULL, NULL), 0);
}

static void finish(void)
{
    cr_net_close(net);
    cr_link_close(wire);
    CHECK_EQ(cr_join(peer_co), 0);
}

/* ---- What is about a connection goes where that is --------------------------------------------------------------- */

static void say_unreachable(const struct frame *f, const uint8_t *bytes, size_t size)
{
    uint8_t out[256];
    struct frame back = {.from = f->to, .to = f->from};
    bool v4 = cr__ip_is_v4(&f->to);
    size_t quoted = (v4 ? 20 : 40) + 8;
    if (!(f->flags & F_SYN))
        return;
    CHECK(size >= 14 + quoted);
    memcpy(back.to_ethernet, f->from_ethernet, 6);
    memcpy(back.from_ethernet, peer_ethernet, 6);
    send_bytes(out, frame_write_icmp(&back, out, v4 ? 3 : 1, v4 ? 3 : 4, 0, bytes + 14, quoted));
}

static void dials_in_vain(void *url)
{
    struct cr_conn *conn;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_dial_until(&conn, url, &here, cr_after(900 * CR_MS)), -ECONNREFUSED); /* before the SYN is sent again */
    ended++;
}

static void refuse_all(const char *url)
{
    respond = say_unreachable;
    begin();
    for (unsigned i = 0; i < WORKERS; i++) /* one after the other: each asks for the peer's address first, and that queue is short */
        CHECK_EQ(cr_go_on(i, dials_in_vain, (void *)url), 0);
    while (ended < WORKERS)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    finish();
}

TEST_CO_CONFIG(an_icmp_error_reaches_the_worker_whose_connection_it_is_about, &(struct cr_config){.workers = WORKERS})
{
    refuse_all("tcp://10.0.0.2:80");
}

TEST_CO_CONFIG(an_icmpv6_error_reaches_the_worker_whose_connection_it_is_about, &(struct cr_config){.workers = WORKERS})
{
    refuse_all("tcp://[fd00::2]:80");
}

/* ---- Fragments --------------------------------------------------------------------------------------------------- */

static void count_answers(const struct frame *f, const uint8_t *bytes, size_t size)
{
    (void)bytes;
    (void)size;
    syn_acks += f->kind == FRAME_TCP && f->flags == (F_SYN | F_ACK);
    resets += f->kind == FRAME_TCP && (f->flags & F_RST) != 0;
}

static void send_fragment(const uint8_t *whole, uint16_t id, size_t from, size_t to, bool more)
{
    uint8_t out[256], *ip = out + 14;
    memcpy(out, whole, 34);
    memcpy(out + 34, whole + 34 + from, to - from);
    frame_put16(ip + 2, (uint32_t)(20 + to - from));
    frame_put16(ip + 4, id);
    frame_put16(ip + 6, (uint32_t)(from / 8) | (more ? 0x2000 : 0));
    frame_put16(ip + 10, 0);
    frame_put16(ip + 10, frame_fold(frame_sum(0, ip, 20)));
    send_bytes(out, 34 + to - from);
}

static void send_syn_in_pieces(uint16_t from_port)
{
    uint8_t out[256];
    struct frame f = {.from = cr__ip_v4(htonl(0x0a000002)), .to = cr__ip_v4(htonl(0x0a000001)), .from_port = from_port, .to_port = 80, .seq = 7, .flags = F_SYN, .window = 60000,
                      .payload = (const uint8_t *)"sixteen bytes it", .payload_bytes = 16};
    memcpy(f.to_ethernet, our_ethernet, 6);
    memcpy(f.from_ethernet, peer_ethernet, 6);
    CHECK_EQ(frame_write_tcp(&f, out, 0), 70);
    send_fragment(out, from_port, 0, 24, true);
    send_fragment(out, from_port, 24, 36, false);
}

TEST_CO_CONFIG(a_segment_that_came_in_fragments_goes_on_to_the_worker_it_is_for, &(struct cr_config){.workers = WORKERS})
{
    struct cr_listener *l;
    struct cr_net_stats stats;
    struct cr_conn *conn;
    respond = say_unreachable;
    begin();
    CHECK_EQ(cr_dial_until(&conn, "tcp://10.0.0.2:80", &here, cr_after(900 * CR_MS)), -ECONNREFUSED); /* so the peer knows our address */
    respond = count_answers;
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.1:80", &here), 0);
    for (int i = 0; i < SYNS; i++) {
        send_syn_in_pieces((uint16_t)(2000 + i));
        CHECK_EQ(cr_sleep(CR_MS), 0);
    }
    for (int i = 0; i < 500 && syn_acks < SYNS; i++)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(syn_acks >= SYNS);
    CHECK_EQ(resets, 0);
    CHECK_EQ(cr_net_stats_get(net, &stats), 0);
    CHECK_EQ(stats.half_open, SYNS);
    for (unsigned i = 0; i < WORKERS; i++)
        CHECK(cr__spread_at(CR__CONTAINER(net, struct cr__network, net)->spread, i)->host.tcp->half_open > SYNS / WORKERS / 4);
    cr_listener_close(l);
    finish();
}

/* ---- Gathering ----------------------------------------------------------------------------------------------------- */

static _Atomic bool lane_is_full;

static void fills_its_lane(void *unused)
{
    struct cr__network *network = CR__CONTAINER(net, struct cr__network, net);
    struct cr_link *lane = cr__spread_at(network->spread, (unsigned)cr_worker_index())->link;
    struct cr_packet *packets[CR_LINK_BURST];
    (void)unused;
    for (int i = 0; i < CR_LINK_BURST; i++) {
        CHECK((packets[i] = cr_packet_get()) != NULL);
        packets[i]->size_bytes = 60;
        memset(packets[i]->data, 0, 60);
    }
    CHECK_EQ(lane->ops->send(lane, packets, CR_LINK_BURST), CR_LINK_BURST);
    lane_is_full = true;
}

TEST_CO_CONFIG(what_finds_no_room_among_what_is_to_leave_is_known_to_wait, &(struct cr_config){.workers = 2})
{
    struct cr_co *co;
    begin();
    struct cr__host *host = &CR__CONTAINER(net, struct cr__network, net)->host;
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(host->out.count, 0);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), fills_its_lane, NULL, NULL), 0);
    while (!lane_is_full)
        ; /* nothing else happens here */
    host->out.count = CR__HOST_OUT_MOST - 10;
    CHECK(cr__spread_gather(CR__CONTAINER(net, struct cr__network, net)));
    CHECK_EQ(host->out.count, CR__HOST_OUT_MOST);
    CHECK(cr__spread_gather(CR__CONTAINER(net, struct cr__network, net)));
    host->out.first = (host->out.first + CR__HOST_OUT_MOST - 10) & (CR__HOST_OUT_MOST - 1); /* what was not there has left */
    host->out.count = 10;
    CHECK(!cr__spread_gather(CR__CONTAINER(net, struct cr__network, net)));
    CHECK_EQ(host->out.count, CR_LINK_BURST);
    CHECK_EQ(cr_join(co), 0);
    finish();
}

/* ---- What makes no sense ----------------------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)random_state;
}

/* The beginning of something that might be one, spoiled, cut anywhere. */
static void send_nonsense(void)
{
    static const uint8_t protocols[] = {6, 1, 58, 17, 44, 0, 60};
    uint8_t bytes[200] = {0}, protocol = protocols[next_random() % sizeof(protocols)];
    struct frame f = {.from = cr__ip_v4(htonl(0x0a000002)), .to = cr__ip_v4(htonl(0x0a000001))};
    if (next_random() % 2)
        f.from.bytes[0] = f.to.bytes[0] = 0xfd;
    memcpy(f.to_ethernet, our_ethernet, 6);
    memcpy(f.from_ethernet, peer_ethernet, 6);
    size_t size = next_random() % sizeof(bytes);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)next_random();
    uint8_t *inner = frame_write_ip(&f, bytes, protocol, size > 54 ? size - 54 : 0);
    inner[0] = (uint8_t)(next_random() % 2 ? 3 : 1); /* an ICMP error, or the port of a listener */
    if (next_random() % 4 == 0)
        bytes[14 + next_random() % 40] ^= (uint8_t)(1u << next_random() % 8);
    send_bytes(bytes, size);
}

static void sends_nonsense(void *unused)
{
    (void)unused;
    struct cr_conn *conn;
    struct cr_net_stats stats;
    respond = say_unreachable;
    begin();
    CHECK_EQ(cr_dial_until(&conn, "tcp://10.0.0.2:80", &here, cr_after(900 * CR_MS)), -ECONNREFUSED);
    respond = NULL;
    for (int i = 0; i < 20000; i++) {
        send_nonsense();
        if (i % 50 == 0)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
    }
    CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    CHECK_EQ(cr_net_stats_get(net, &stats), 0);
    CHECK(stats.dropped > 10000);
    finish();
}

TEST(what_is_malformed_is_dropped_and_no_packet_is_lost)
{
    SKIP_SEVERAL_UNDER_SEED();
    uint64_t before = cr__packets_in_use();
    CHECK_EQ(cr_run(sends_nonsense, NULL, &(struct cr_config){.workers = WORKERS}), 0);
    CHECK_EQ(cr__packets_in_use(), before);
}
