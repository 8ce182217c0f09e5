/* net/link/ring.h, and who is told of what comes (mem_send and mem_arm of net/link/mem.c): packets arrive once, in order, with what was written to them; slots are not written anew before they have been read; and
 * who has armed its end, and sleeps, is told. */
#include "explorer.h"

#include "net/link/mem.c"

#define PACKETS 4

__thread struct cr__self *cr__self_tls __attribute__((tls_model("initial-exec")));
static struct wire wire;
static struct end ends[2];
static struct cr__packet_cache caches[2];
static struct cr_packet packets[PACKETS];
static int to_send;

/* What mem.c calls elsewhere: nothing of it is wanted here. */
void cr__panic(const char *format, ...)
{
    model_failed(__FILE__, __LINE__, format);
    abort();
}

void cr__spin_wait(_Atomic uint8_t *spin)
{
    (void)spin;
    model_spin();
}

#define UNUSED_HERE model_failed(__FILE__, __LINE__, __func__), abort()

struct cr_packet *cr__packet_get_slow(struct cr__packet_cache *cache)
{
    (void)cache;
    UNUSED_HERE;
}

void cr__packet_turn(struct cr__packet_cache *cache)
{
    (void)cache;
    UNUSED_HERE;
}

void cr__packet_flush(struct cr__packet_cache *cache)
{
    (void)cache;
    UNUSED_HERE;
}

struct cr_packet *cr__packet_copy(struct cr__packet_cache *cache, const struct cr_packet *packet)
{
    (void)cache, (void)packet;
    UNUSED_HERE;
}

void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind)
{
    (void)size_bytes, (void)kind;
    UNUSED_HERE;
}

void *cr__mem_alloc_aligned(size_t size_bytes, enum cr__mem_kind kind)
{
    (void)size_bytes, (void)kind;
    UNUSED_HERE;
}

void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind)
{
    (void)object, (void)size_bytes, (void)kind;
    UNUSED_HERE;
}

void cr__post(struct cr__worker *to, struct cr__post *post)
{
    (void)to, (void)post;
    UNUSED_HERE;
}

bool cr__post_from_outside(struct cr__sched *sched, struct cr__worker *to, struct cr__post *post)
{
    (void)sched, (void)to, (void)post;
    UNUSED_HERE;
}

void cr__link_begin(struct cr_link *link, const struct cr__link_ops *of, struct cr__worker *worker)
{
    (void)link, (void)of, (void)worker;
    UNUSED_HERE;
}

void cr__link_address(unsigned char address[6], const char *name, unsigned side)
{
    (void)address, (void)name, (void)side;
    UNUSED_HERE;
}

int cr__link_name_parse(const char *text, char *name, size_t most, uint16_t *mtu_bytes)
{
    (void)text, (void)name, (void)most, (void)mtu_bytes;
    UNUSED_HERE;
}

/* As a kick: it wakes, and nothing may be built on it. */
static void ready(struct cr_link *link)
{
    model_assert(link == &ends[1].link);
    model_unpark_relaxed(1);
}

static void sends(void *unused)
{
    (void)unused;
    for (int sent = 0; sent < to_send;) {
        struct cr_packet *burst[PACKETS];
        int n = 0, taken;
        for (; n < 2 && sent + n < to_send; n++) {
            burst[n] = &packets[sent + n];
            burst[n]->own.words[0] = (uint64_t)(sent + n) + 1; /* plain */
        }
        taken = mem_send(&ends[0].link, burst, n);
        model_assert(taken >= 0 && taken <= n);
        sent += taken;
        if (taken == 0)
            model_spin();
    }
}

static void receives(void *unused)
{
    (void)unused;
    for (int received = 0; received < to_send;) {
        struct cr_packet *burst[PACKETS];
        int n = mem_recv(&ends[1].link, burst, PACKETS);
        for (int i = 0; i < n; i++) {
            model_assert(burst[i] == &packets[received] && burst[i]->own.words[0] == (uint64_t)received + 1);
            burst[i]->own.words[0] = 0;
            received++;
        }
        if (n == 0 && !mem_arm(&ends[1].link))
            model_park_relaxed(); /* whoever is not told sleeps for ever */
    }
}

static void a_wire(int n)
{
    to_send = n;
    for (int i = 0; i < 2; i++) {
        struct side *side = &wire.sides[i];
        atomic_init(&side->ring.head, UINT32_MAX); /* they wrap */
        atomic_init(&side->ring.tail, UINT32_MAX);
        side->ring.head_seen = side->ring.tail_seen = UINT32_MAX;
        side->wire = &wire;
        side->end = &ends[i];
        atomic_init(&side->open, true);
        ends[i].wire = &wire;
        ends[i].mine = side;
        ends[i].other = &wire.sides[!i];
        ends[i].link.ready = ready;
        ends[i].link.packets = &caches[i];
        ends[i].link.told.mtu_bytes = 1500;
    }
    for (int i = 0; i < n; i++)
        packets[i]._references = 1;
    model_name(&wire.sides[1].ring.tail, "tail");
    model_name(&wire.sides[1].ring.head, "head");
    model_name(&wire.sides[1].armed, "armed");
    model_name(&wire.sides[1].lock, "lock");
    model_thread(sends, NULL);
    model_thread(receives, NULL);
}

static void all_arrived(void)
{
    model_assert(ends[1].link.told.received == (uint64_t)to_send && ends[0].link.told.sent == (uint64_t)to_send && ends[0].link.told.dropped == 0);
    model_assert(cr__ring_empty(&wire.sides[1].ring));
}

static void two_packets(void)
{
    a_wire(2);
}

TEST(who_sleeps_is_told_of_what_comes)
{
    model_run(two_packets, all_arrived);
}

static void more_than_fit(void)
{
    a_wire(3);
}

TEST(a_slot_is_filled_again_when_it_has_been_read)
{
    model_run(more_than_fit, all_arrived);
}
