/* impair:K=V,...,LINK: a bad line in front of another link, in the direction of sending. What happens to a packet is decided when it is sent, by a pseudo-random number generator with a seed: the same packets sent at the same times meet the
 * same fate.
 *
 * What is decided, in this order: it is dropped; it finds the queue in front of the line full (rate, queue), and is dropped; a bit of it is flipped; it leaves the line at some time (rate, delay, jitter), later ones not before it; or it is held back,
 * so that later ones overtake it (reorder); a second one follows it at the same time (dup). What has not left yet lies in a heap, by time and then in order of sending; it leaves in calls on this link (send, recv, arm), when its time has come:
 * due_ns says when that will be.
 *
 * CR_LINK_NO_CHECKSUMS is not passed on: whoever stands on this link fills in checksums, so that a flipped bit is found.
 *
 * Bounds: `queue` packets wait for the line; HELD_MOST are on their way, then send takes no more. */
#include <string.h>

#include "net/link/kinds.h"

#define HELD_MOST 32768u
#define HELD_BACK_LEAST_NS (1000ll * 1000) /* a packet that is to be overtaken is held back by up to a quarter of the delay, or this */
#define QUEUE_DEFAULT 1000u
#define QUEUE_MOST 65536u
#define CERTAIN ((uint64_t)1 << 32)

struct held {
    int64_t due_ns;
    uint64_t number; /* in order of sending */
    struct cr_packet *packet;
};

struct wishes {
    uint64_t drop, dup, corrupt, reorder; /* probabilities, of CERTAIN */
    uint64_t delay_ns, jitter_ns, rate_bits, queue, seed;
};

struct impair {
    struct cr_link link;
    struct cr_link *inner;
    struct wishes wishes;
    uint64_t random;
    uint64_t number;
    int64_t line_free_ns;  /* when what is queued will have gone over the line */
    int64_t ordered_ns;    /* what is in order leaves no earlier than this */
    int64_t *starts_ns;    /* of those queued: when each begins to go over the line; a ring of `queue` */
    uint32_t starts_first, starts_count;
    uint32_t held_count;
    struct held held[HELD_MOST + 1]; /* a heap: the earliest first. One more, for a second one that follows */
};

static struct impair *impair_of(const struct cr_link *link)
{
    return CR__CONTAINER(link, struct impair, link);
}

/* SplitMix64. */
static uint64_t random_next(struct impair *impair)
{
    uint64_t z = impair->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool happens(struct impair *impair, uint64_t probability)
{
    return (random_next(impair) >> 32) < probability;
}

/* Up to `most`, included. */
static int64_t random_up_to(struct impair *impair, uint64_t most)
{
    return (int64_t)(random_next(impair) % (most + 1));
}

/* ---- The heap ------------------------------------------------------------------------------------------------ */

static bool earlier(const struct held *a, const struct held *b)
{
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->number < b->number);
}

static void held_push(struct impair *impair, struct held item)
{
    uint32_t i = impair->held_count++;
    for (; i > 0 && earlier(&item, &impair->held[(i - 1) / 2]); i = (i - 1) / 2)
        impair->held[i] = impair->held[(i - 1) / 2];
    impair->held[i] = item;
}

/* The first one goes. */
static void held_pop(struct impair *impair)
{
    struct held last = impair->held[--impair->held_count];
    uint32_t i = 0, n = impair->held_count;
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && earlier(&impair->held[child + 1], &impair->held[child]))
            child++;
        if (!earlier(&impair->held[child], &last))
            break;
        impair->held[i] = impair->held[child];
    }
    impair->held[i] = last;
}

/* What is due leaves; what the inner link does not take stays due. */
static void let_go(struct impair *impair)
{
    int64_t now_ns = impair->link.now_ns(&impair->link);
    while (impair->held_count > 0 && impair->held[0].due_ns <= now_ns) {
        struct cr_packet *packet = impair->held[0].packet;
        if (impair->inner->ops->send(impair->inner, &packet, 1) != 1)
            return;
        held_pop(impair);
    }
}

/* ---- What happens to a packet -------------------------------------------------------------------------------- */

/* When the line has been through with it; negative: too many wait for the line. */
static int64_t over_the_line(struct impair *impair, size_t size_bytes, int64_t now_ns)
{
    const struct wishes *wishes = &impair->wishes;
    if (wishes->rate_bits == 0)
        return now_ns;
    while (impair->starts_count > 0 && impair->starts_ns[impair->starts_first] <= now_ns) {
        impair->starts_first = (impair->starts_first + 1) % (uint32_t)wishes->queue;
        impair->starts_count--;
    }
    int64_t start_ns = now_ns > impair->line_free_ns ? now_ns : impair->line_free_ns;
    if (start_ns > now_ns) {
        if (impair->starts_count == wishes->queue)
            return -1;
        impair->starts_ns[(impair->starts_first + impair->starts_count++) % (uint32_t)wishes->queue] = start_ns;
    }
    impair->line_free_ns = start_ns + (int64_t)(size_bytes * 8 * 1000000000 / wishes->rate_bits);
    return impair->line_free_ns;
}

static int64_t due_of(struct impair *impair, int64_t left_ns)
{
    const struct wishes *wishes = &impair->wishes;
    int64_t due_ns = left_ns + (int64_t)wishes->delay_ns + random_up_to(impair, 2 * wishes->jitter_ns) - (int64_t)wishes->jitter_ns;
    uint64_t held_back_ns = wishes->delay_ns / 4 > HELD_BACK_LEAST_NS ? wishes->delay_ns / 4 : HELD_BACK_LEAST_NS;
    due_ns = due_ns > left_ns ? due_ns : left_ns;
    due_ns = due_ns > impair->ordered_ns ? due_ns : impair->ordered_ns;
    if (happens(impair, wishes->reorder))
        return due_ns + 1 + random_up_to(impair, held_back_ns);
    return impair->ordered_ns = due_ns;
}

static void flip_a_bit(struct impair *impair, struct cr_packet *packet)
{
    uint64_t bit = random_next(impair) % ((uint64_t)packet->size_bytes * 8);
    packet->data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    packet->flags &= (uint16_t)~CR_PACKET_CHECKED;
}

/* The packet is the callee's. */
static void pass(struct impair *impair, struct cr_packet *packet, int64_t now_ns)
{
    const struct wishes *wishes = &impair->wishes;
    int64_t left_ns = happens(impair, wishes->drop) ? -1 : over_the_line(impair, packet->size_bytes, now_ns);
    packet = left_ns < 0 ? packet : cr__link_take(&impair->link, packet);
    if (!packet)
        return;
    if (left_ns < 0) {
        cr__link_drop(&impair->link, packet);
        return;
    }
    if (happens(impair, wishes->corrupt) && packet->size_bytes > 0)
        flip_a_bit(impair, packet);
    int64_t due_ns = due_of(impair, left_ns);
    struct cr_packet *second = happens(impair, wishes->dup) ? cr__packet_copy(impair->link.packets, packet) : NULL;
    held_push(impair, (struct held){due_ns, impair->number++, packet});
    if (second)
        held_push(impair, (struct held){due_ns, impair->number++, second});
    impair->link.told.sent++;
}

/* ---- The link's functions ------------------------------------------------------------------------------------- */

static int impair_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    struct impair *impair = impair_of(link);
    int64_t now_ns = link->now_ns(link);
    int n = 0;
    let_go(impair);
    for (; n < count && impair->held_count < HELD_MOST; n++)
        pass(impair, packets[n], now_ns);
    let_go(impair);
    return n;
}

static int impair_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    struct impair *impair = impair_of(link);
    let_go(impair);
    int n = impair->inner->ops->recv(impair->inner, packets, most);
    link->told.received += (unsigned)n;
    return n;
}

static bool impair_arm(struct cr_link *link)
{
    struct impair *impair = impair_of(link);
    let_go(impair);
    return impair->inner->ops->arm(impair->inner);
}

/* What is due, and did not leave, waits for room in the inner link: it is looked after a bit later. */
static int64_t impair_due_ns(const struct cr_link *link)
{
    struct impair *impair = impair_of(link);
    int64_t due_ns = impair->inner->ops->due_ns(impair->inner);
    if (impair->held_count > 0 && impair->held[0].due_ns < due_ns) {
        int64_t now_ns = impair->link.now_ns(&impair->link), again_ns = now_ns + 100000;
        due_ns = impair->held[0].due_ns > now_ns ? impair->held[0].due_ns : again_ns < due_ns ? again_ns : due_ns;
    }
    return due_ns;
}

static void impair_info(const struct cr_link *link, struct cr_link_info *out)
{
    struct cr_link_info inner;
    const struct impair *impair = impair_of(link);
    impair->inner->ops->info(impair->inner, &inner);
    *out = link->told;
    out->up = inner.up;
    out->flags |= inner.flags & CR_LINK_OVER;
    out->dropped += inner.dropped;
}

static void impair_free(struct impair *impair)
{
    cr__mem_free(impair->starts_ns, impair->wishes.queue * sizeof(*impair->starts_ns), CR__MEM_OTHER);
    cr__mem_unmap(impair, sizeof(*impair), CR__MEM_OTHER);
}

static void impair_close(struct cr_link *link)
{
    struct impair *impair = impair_of(link);
    for (uint32_t i = 0; i < impair->held_count; i++)
        cr__packet_put(link->packets, impair->held[i].packet);
    cr__link_close(impair->inner);
    cr__packet_flush(&link->own_packets);
    impair_free(impair);
}

static const struct cr__link_ops ops = {
    .recv = impair_recv,
    .send = impair_send,
    .arm = impair_arm,
    .due_ns = impair_due_ns,
    .info = impair_info,
    .close = impair_close,
};

/* ---- Opening -------------------------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit times[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}, {NULL, 0}};
static const struct unit rates[] = {{"", 1}, {"k", 1000}, {"M", 1000000}, {"G", 1000000000}, {NULL, 0}};
static const struct unit shares[] = {{"", CERTAIN}, {"%", CERTAIN / 100}, {NULL, 0}};
static const struct unit plain[] = {{"", 1}, {NULL, 0}};

static const struct option {
    const char *name;
    const struct unit *units;
    size_t offset;
    uint64_t least, most;
    const char *wants;
} options[] = {
    {"drop=", shares, offsetof(struct wishes, drop), 0, CERTAIN, "drop= wants 0 to 1, or 0% to 100%"},
    {"dup=", shares, offsetof(struct wishes, dup), 0, CERTAIN, "dup= wants 0 to 1, or 0% to 100%"},
    {"corrupt=", shares, offsetof(struct wishes, corrupt), 0, CERTAIN, "corrupt= wants 0 to 1, or 0% to 100%"},
    {"reorder=", shares, offsetof(struct wishes, reorder), 0, CERTAIN, "reorder= wants 0 to 1, or 0% to 100%"},
    {"delay=", times, offsetof(struct wishes, delay_ns), 0, 60000000000, "delay= wants 0s to 60s, with ns, us, ms or s"},
    {"jitter=", times, offsetof(struct wishes, jitter_ns), 0, 60000000000, "jitter= wants 0s to 60s, with ns, us, ms or s"},
    {"rate=", rates, offsetof(struct wishes, rate_bits), 1000, 1000000000000, "rate= wants bits a second, 1k to 1000G"},
    {"queue=", plain, offsetof(struct wishes, queue), 1, QUEUE_MOST, "queue= wants 1 to 65536"},
    {"seed=", plain, offsetof(struct wishes, seed), 0, UINT64_MAX, "seed= wants a number below 2^64"},
};

/* A number of that length, with up to nine digits behind a point: times factor. False: it is none, or too large. */
static bool parse_number(const char *text, size_t length, uint64_t factor, uint64_t *out)
{
    unsigned __int128 value = 0, scale = 1;
    bool point = false;
    size_t digits = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.' && !point) {
            point = true;
            continue;
        }
        if (text[i] < '0' || text[i] > '9' || ++digits > 20 || scale == 1000000000)
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
        scale *= point ? 10 : 1;
    }
    value = value * factor / scale;
    *out = (uint64_t)value;
    return digits > 0 && value <= UINT64_MAX;
}

/* A value with its unit. */
static int parse_value(const struct option *option, const char *text, size_t length, struct wishes *wishes)
{
    size_t number = 0;
    while (number < length && ((text[number] >= '0' && text[number] <= '9') || text[number] == '.'))
        number++;
    for (const struct unit *unit = option->units; unit->name; unit++) {
        uint64_t value;
        if (strlen(unit->name) != length - number || strncmp(text + number, unit->name, length - number) != 0)
            continue;
        if (!parse_number(text, number, unit->factor, &value) || value < option->least || value > option->most)
            return -EINVAL;
        memcpy((char *)wishes + option->offset, &value, sizeof(value));
        return 0;
    }
    return -EINVAL;
}

/* One K=V. 0; -EINVAL; 1: it is none of them. */
static int parse_option(const char *text, size_t length, struct wishes *wishes)
{
    for (size_t i = 0; i < CR__COUNT(options); i++) {
        size_t name = strlen(options[i].name);
        if (length >= name && strncmp(text, options[i].name, name) == 0)
            return parse_value(&options[i], text + name, length - name, wishes);
    }
    return 1;
}

/* Where the inner link begins; NULL: there is none, or something before it is wrong, and *wrong says where. */
static const char *parse(const char *text, struct wishes *wishes, const char **wrong)
{
    *wishes = (struct wishes){.queue = QUEUE_DEFAULT, .seed = 1};
    for (;;) {
        size_t length = strcspn(text, ",");
        int r = parse_option(text, length, wishes);
        *wrong = text;
        if (r != 0)
            return r > 0 ? text : NULL;
        text += length;
        *wrong = text;
        if (!*text++)
            return NULL;
    }
}

static struct impair *impair_make(const struct wishes *wishes, struct cr__worker *worker)
{
    struct impair *impair = cr__mem_map(sizeof(*impair), CR__MEM_OTHER); /* of the heap what is never used takes no memory */
    if (!impair)
        return NULL;
    cr__link_begin(&impair->link, &ops, worker);
    impair->wishes = *wishes;
    impair->random = wishes->seed;
    impair->starts_ns = cr__mem_alloc(wishes->queue * sizeof(*impair->starts_ns), CR__MEM_OTHER);
    if (!impair->starts_ns) {
        cr__mem_unmap(impair, sizeof(*impair), CR__MEM_OTHER);
        return NULL;
    }
    return impair;
}

int cr__link_impair_open(struct cr_link **out, const char *text, struct cr__worker *worker)
{
    struct wishes wishes;
    const char *wrong, *spec = parse(text, &wishes, &wrong);
    if (!spec)
        return -EINVAL;
    struct impair *impair = impair_make(&wishes, worker);
    if (!impair)
        return -ENOMEM;
    int r = cr__link_open(&impair->inner, spec, worker);
    if (r < 0) {
        impair_free(impair);
        return r;
    }
    cr__link_wrap(&impair->link, impair->inner);
    *out = &impair->link;
    return 0;
}

const char *cr__link_impair_wrong(const char *text)
{
    struct wishes wishes;
    const char *wrong, *spec = parse(text, &wishes, &wrong);
    if (spec)
        return cr__link_wrong(spec);
    for (size_t i = 0; *wrong && i < CR__COUNT(options); i++) {
        if (strncmp(wrong, options[i].name, strlen(options[i].name)) == 0)
            return options[i].wants;
    }
    return "no link follows its options";
}
