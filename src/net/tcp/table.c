/* Who a segment is for: a table of names (peer, both ports, which of the host's addresses), and listeners by port. And what names begin with: ISNs, timestamp offsets,
 * ephemeral ports.
 *
 * The table is one of chains, linked by handles of 32 bits through what is in it. Connections, TIME-WAIT entries and half-open ones share it: a name is in it once, so nothing
 * has to be asked twice. Which of the three a handle is of its two lowest bits say: all lie on cache lines, whose handles end in zeroes.
 *
 * The hash is three multiplications under the host's secret: an outsider who can choose names can't choose chains. What must not be guessed by somebody who sees the result
 * (ISNs, ports) is SipHash's.
 *
 * It doubles when there are as many entries as chains. The old chains are moved a few with each insertion, so none of those takes long, and ten million take no longer than
 * ten. It does not shrink. */
#include "net/tcp/tcp.h"

#include <string.h>

#define FIRST_CHAINS 1024 /* a page */
#define MOVED_AT_ONCE 4 /* chains; twice as many as come to be full meanwhile */

static struct cr__tcp_name *name_at(uint32_t handle)
{
    char *object = cr__mem_at(handle & ~3u);
    return (struct cr__tcp_name *)(void *)((handle & 3u) == CR__KIND_CONN ? object + offsetof(struct cr__tcp, peer) : object);
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Ports differ in few bits, so they are spread over a word before they are multiplied with what differs in all; else names in a row come to lie in few chains. */
static inline uint32_t hash_of(const struct cr__host *host, const struct cr__tcp_name *name)
{
    uint64_t rest = (uint64_t)name->local_port << 24 | (uint64_t)name->peer_port << 8 | name->local;
    uint64_t hash = mix(name->peer.halves[0] ^ host->secret[0], name->peer.halves[1] ^ host->secret[1]);
    return (uint32_t)mix(hash ^ host->secret[1], (rest + 1) * 0x9e3779b97f4a7c15u ^ host->secret[0]);
}

static inline bool same_name(const struct cr__tcp_name *a, const struct cr__tcp_name *b)
{
    return a->peer_port == b->peer_port && a->local_port == b->local_port && cr__ip_equal(&a->peer, &b->peer) && a->local == b->local;
}

/* ---- The table ------------------------------------------------------------------------------------------------ */

static uint32_t *chains_new(uint32_t count)
{
    return cr__mem_map(count * sizeof(uint32_t), CR__MEM_CONNS);
}

int cr__tcp_table_init(struct cr__tcp_table *table)
{
    *table = (struct cr__tcp_table){.slots = chains_new(FIRST_CHAINS), .mask = FIRST_CHAINS - 1};
    return table->slots ? 0 : -ENOMEM;
}

void cr__tcp_table_fini(struct cr__tcp_table *table)
{
    if (table->slots)
        cr__mem_unmap(table->slots, (table->mask + (size_t)1) * sizeof(uint32_t), CR__MEM_CONNS);
    if (table->old)
        cr__mem_unmap(table->old, (table->old_mask + (size_t)1) * sizeof(uint32_t), CR__MEM_CONNS);
    *table = (struct cr__tcp_table){0};
}

static inline uint32_t *chain_of(struct cr__tcp_table *table, uint32_t hash)
{
    if (CR__UNLIKELY(table->old != NULL) && (hash & table->old_mask) >= table->moved)
        return &table->old[hash & table->old_mask];
    return &table->slots[hash & table->mask];
}

static void move_chain(struct cr__host *host, struct cr__tcp_table *table, uint32_t handle)
{
    while (handle) {
        struct cr__tcp_name *name = name_at(handle);
        uint32_t next = name->next, *chain = &table->slots[hash_of(host, name) & table->mask];
        name->next = *chain;
        *chain = handle;
        handle = next;
    }
}

static void move_some(struct cr__host *host, struct cr__tcp_table *table)
{
    for (int i = 0; i < MOVED_AT_ONCE && table->moved <= table->old_mask; i++)
        move_chain(host, table, table->old[table->moved++]);
    if (table->moved <= table->old_mask)
        return;
    cr__mem_unmap(table->old, (table->old_mask + (size_t)1) * sizeof(uint32_t), CR__MEM_CONNS);
    table->old = NULL;
}

/* Where there is no memory for that, chains become longer instead. */
static void grow_table(struct cr__tcp_table *table)
{
    uint32_t *chains = table->mask < UINT32_MAX / 2 ? chains_new((table->mask + 1) * 2) : NULL;
    if (!chains)
        return;
    table->old = table->slots;
    table->old_mask = table->mask;
    table->moved = 0;
    table->slots = chains;
    table->mask = table->mask * 2 + 1;
}

uint32_t cr__tcp_find(struct cr__tcp_layer *layer, const struct cr__host *host, const struct cr__tcp_name *name)
{
    uint32_t handle = *chain_of(&layer->table, hash_of(host, name));
    while (handle) {
        const struct cr__tcp_name *other = name_at(handle);
        if (same_name(other, name))
            return handle;
        handle = other->next;
    }
    return 0;
}

/* ---- What is about to come ------------------------------------------------------------------------------------ */

static inline void fetch(const void *from, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes; at += CR__CACHE_LINE)
        __builtin_prefetch((const void *)((uintptr_t)from + at)); /* from may be NULL: that is fetched for nothing, and does no harm */
}

#define FROM_AT 26 /* in a frame of IPv4 without options: both addresses, both ports */

/* The chain of whom a frame's segment is for; NULL: it is none, or not as they usually are. */
static uint32_t *foreseen_chain(struct cr__host *host, const struct cr_packet *frame)
{
    const uint8_t *at = frame->data;
    struct cr__tcp_name name = {.local = 0};
    if (frame->size_bytes < FROM_AT + 12 || at[12] != 0x08 || at[13] != 0 || at[14] != 0x45 || at[23] != 6)
        return NULL;
    uint32_t from, to;
    memcpy(&from, at + FROM_AT, sizeof(from));
    memcpy(&to, at + FROM_AT + 4, sizeof(to));
    struct cr__ip ours = cr__ip_v4(to);
    int local = cr__tcp_local(host, &ours);
    if (local < 0)
        return NULL;
    name.peer = cr__ip_v4(from);
    name.peer_port = cr__wire_get16(at + FROM_AT + 8);
    name.local_port = cr__wire_get16(at + FROM_AT + 10);
    name.local = (uint8_t)local;
    return chain_of(&host->tcp->table, hash_of(host, &name));
}

/* From and to the same ones, as most are that come one after the other. */
static bool in_a_row(const struct cr_packet *a, const struct cr_packet *b)
{
    bool long_enough = a->size_bytes >= FROM_AT + 12 && b->size_bytes >= FROM_AT + 12;
    return long_enough && memcmp(a->data + FROM_AT, b->data + FROM_AT, 12) == 0;
}

/* Each step needs what the one before it has fetched: so they are taken for all frames, one after the other, and the misses of a step go on at the same time. */
void cr__tcp_foresee(struct cr__host *host, struct cr_packet **frames, unsigned count)
{
    uint32_t *chains[CR__TCP_FORESEEN];
    struct cr__tcp *conns[CR__TCP_FORESEEN];
    for (unsigned i = 0; i < count; i++)
        fetch(frames[i], 1);
    for (unsigned i = 0; i < count; i++)
        fetch(frames[i]->data, 2 * CR__CACHE_LINE);
    for (unsigned i = 0; i < count; i++) {
        chains[i] = i > 0 && in_a_row(frames[i - 1], frames[i]) ? NULL : foreseen_chain(host, frames[i]);
        fetch(chains[i], 1);
    }
    for (unsigned i = 0; i < count; i++) {
        uint32_t handle = chains[i] ? *chains[i] : 0; /* the first of the chain: most have no other */
        conns[i] = handle && (handle & 3u) == CR__KIND_CONN ? cr__mem_at(handle) : NULL;
        if (conns[i])
            fetch(conns[i], sizeof(*conns[i]));
    }
    for (unsigned i = 0; i < count; i++) {
        if (!conns[i])
            continue;
        fetch(conns[i]->user[0], 2 * CR__CACHE_LINE); /* who waits to receive */
        if (conns[i]->flight)
            fetch(conns[i]->flight, CR__FLIGHT_HOT_BYTES);
    }
    for (unsigned i = 0; i < count; i++) {
        if (conns[i] && conns[i]->flight)
            fetch(conns[i]->flight->send.first, 1); /* what is acknowledged */
    }
}

void cr__tcp_insert(struct cr__host *host, void *object, enum cr__tcp_kind kind)
{
    struct cr__tcp_table *table = &host->tcp->table;
    uint32_t handle = cr__mem_handle(object) | (uint32_t)kind;
    struct cr__tcp_name *name = name_at(handle);
    if (table->old)
        move_some(host, table);
    else if (table->count > table->mask)
        grow_table(table);
    uint32_t *chain = chain_of(table, hash_of(host, name));
    name->next = *chain;
    *chain = handle;
    table->count++;
}

void cr__tcp_remove(struct cr__host *host, void *object, enum cr__tcp_kind kind)
{
    struct cr__tcp_table *table = &host->tcp->table;
    uint32_t handle = cr__mem_handle(object) | (uint32_t)kind;
    struct cr__tcp_name *name = name_at(handle);
    uint32_t *link = chain_of(table, hash_of(host, name));
    while (*link != handle) {
        CR__ASSERT(*link != 0); /* it is in there */
        link = &name_at(*link)->next;
    }
    *link = name->next;
    name->next = 0;
    table->count--;
}

/* ---- Listeners ------------------------------------------------------------------------------------------------- */

static bool serves(const struct cr__tcp_listener *any, const struct cr__ip *to)
{
    return any->families == CR__TCP_BOTH || (any->families == CR__TCP_IP4_ONLY) == cr__ip_is_v4(to);
}

struct cr__tcp_listener *cr__tcp_listener_find(struct cr__host *host, const struct cr__ip *to, uint16_t port)
{
    struct cr__tcp_listener *found = NULL, *listener = host->tcp->listeners[port % CR__TCP_LISTENER_CHAINS];
    for (; listener; listener = listener->next) {
        if (listener->port != port)
            continue;
        if (listener->any)
            found = serves(listener, to) ? listener : found;
        else if (cr__ip_equal(&listener->ip, to))
            return listener; /* that address rather than any */
    }
    return found;
}

static bool is_for(const struct cr__tcp_listener *listener, const struct cr__tcp_listener *other, const struct cr__ip *to)
{
    return listener->port == other->port && listener->any == other->any && (listener->any ? serves(listener, to) : cr__ip_equal(&listener->ip, to));
}

/* Of those that share the port the one that a hash of the name says: the same one for each segment, as long as they are the same. */
struct cr__tcp_listener *cr__tcp_listener_of(struct cr__host *host, const struct cr__ip *to, const struct cr__tcp_name *name)
{
    struct cr__tcp_listener *found = cr__tcp_listener_find(host, to, name->local_port), *listener;
    if (!found || !found->shares)
        return found;
    struct cr__tcp_listener *first = host->tcp->listeners[found->port % CR__TCP_LISTENER_CHAINS];
    uint32_t count = 0;
    for (listener = first; listener; listener = listener->next)
        count += is_for(listener, found, to);
    uint32_t skip = hash_of(host, name) % count;
    for (listener = first; !is_for(listener, found, to) || skip-- > 0; listener = listener->next)
        ;
    return listener;
}

int cr__tcp_local(const struct cr__host *host, const struct cr__ip *ip)
{
    for (unsigned i = 0; i < host->config.address_count; i++) {
        if (cr__ip_equal(&host->config.addresses[i].ip, ip))
            return (int)i;
    }
    return -1;
}

/* ---- What an outsider must not guess --------------------------------------------------------------------------- */

struct named {
    struct cr__ip local, peer;
    uint16_t local_port, peer_port;
    uint32_t of; /* so that one hash says nothing of another */
};

static uint64_t hash_for(const struct cr__host *host, const struct cr__tcp_name *name, bool ports, uint32_t of)
{
    struct named named = {.local = host->config.addresses[name->local].ip, .peer = name->peer, .of = of};
    if (ports) {
        named.local_port = name->local_port;
        named.peer_port = name->peer_port;
    }
    return cr__host_hash(host, &named, sizeof(named));
}

uint32_t cr__tcp_isn(struct cr__host *host, const struct cr__tcp_name *name)
{
    const struct cr__tcp_config *config = &host->tcp->config;
    if (config->isn_is_fixed)
        return config->isn_for_tests;
    return (uint32_t)(host->now_ns / 4000) + (uint32_t)hash_for(host, name, true, 1); /* M + F: a clock of 4 µs (RFC 6528, 3) */
}

uint32_t cr__tcp_ts_offset(struct cr__host *host, const struct cr__tcp_name *name)
{
    return host->tcp->config.isn_is_fixed ? 0 : (uint32_t)hash_for(host, name, false, 2);
}

#define PORT_FIRST 1024u
#define PORTS (65536u - PORT_FIRST)

#define IN_A_ROW 16  /* ports that are tried one after the other; then here and there */
#define TRIES 2048   /* so that who dials where all are in use costs no more than that */

/* RFC 6056, 3.3.3: for each peer a place of its own to begin, and from there on. Where those are taken, others are drawn: if a hundredth of all is free one of them is found as
 * good as surely, if a thousandth is, in six of seven times. One that lies in TIME-WAIT, and may make way, is taken if none was free at once. */
uint16_t cr__tcp_port(struct cr__host *host, struct cr__tcp_name *name)
{
    name->local_port = 0;
    uint32_t offset = (uint32_t)hash_for(host, name, true, 3), handle;
    const struct cr__ip *local = &host->config.addresses[name->local].ip;
    const struct cr__share *share = &host->config.share;
    uint16_t waits = 0;
    for (uint32_t i = 0, tried = 0; i < PORTS && tried < TRIES && !(waits && tried >= IN_A_ROW); i++) {
        uint32_t at = tried < IN_A_ROW ? offset + host->tcp->port_counter++ : (uint32_t)cr__host_random(host);
        name->local_port = (uint16_t)(PORT_FIRST + at % PORTS);
        if (CR__UNLIKELY(share->count > 1) && cr__share_of(share, local, name->local_port, &name->peer, name->peer_port) != share->mine)
            continue; /* the answers would not come to us */
        tried++;
        if (cr__tcp_listener_find(host, local, name->local_port))
            continue;
        handle = cr__tcp_find(host->tcp, host, name);
        if (!handle)
            return name->local_port;
        if (!waits && cr__tcp_wait_may_end(host, handle))
            waits = name->local_port;
    }
    name->local_port = waits;
    return waits;
}
