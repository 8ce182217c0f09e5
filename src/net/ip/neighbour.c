/* Who has which Ethernet address. One state machine for both families, RFC 4861's (7.3.2); what is asked and answered differs: ARP (RFC 826) and NDP.
 *
 * An entry is made by who wants to send, or by who asks for us: never by what is heard otherwise, so nobody fills the table by shouting. It is bounded all the same: who has not
 * been used for longest goes first, as far as a look at a few entries tells.
 *
 * Not here: duplicate address detection (RFC 4862, 5.4; a conflict is counted), router solicitation and advertisement, redirects, MLD. Addresses and routes come by
 * configuration. */
#include "net/ip/ip.h"

#include <string.h>

#define EVICTION_LOOKS 8 /* at entries that have been used, until one must go all the same */

/* ---- The table ----------------------------------------------------------------------------------------------- */

void cr__neighbour_init(struct cr__ip_layer *ip)
{
    cr__list_init(&ip->ages);
    for (unsigned i = CR__NEIGHBOURS; i-- > 0;) {
        ip->neighbours[i].next = ip->neighbours_free;
        ip->neighbours_free = &ip->neighbours[i];
    }
}

static struct cr__neighbour **bucket_of(struct cr__host *host, const struct cr__ip *ip)
{
    return &host->ip->buckets[cr__host_hash(host, ip, sizeof(*ip)) % CR__NEIGHBOUR_BUCKETS];
}

struct cr__neighbour *cr__neighbour_find(struct cr__host *host, const struct cr__ip *ip)
{
    struct cr__neighbour *neighbour = *bucket_of(host, ip);
    while (neighbour && !cr__ip_equal(&neighbour->ip, ip))
        neighbour = neighbour->next;
    return neighbour;
}

bool cr__neighbour_known(const struct cr__neighbour *neighbour)
{
    return neighbour->state >= CR__NEIGHBOUR_REACHABLE && neighbour->state != CR__NEIGHBOUR_FAILED;
}

static uint32_t packets_of(const struct cr__waiting *waiting)
{
    uint32_t count = 1;
    for (const struct cr_packet *packet = waiting->packet; waiting->chain && packet->next; packet = packet->next)
        count++;
    return count;
}

static void drop_datagram(struct cr__host *host, const struct cr__waiting *waiting, enum cr__drop cause)
{
    host->drops[cause] += packets_of(waiting);
    if (waiting->chain)
        cr__host_put(host, waiting->packet);
    else
        cr__packet_put(host->packets, waiting->packet);
}

/* All that wait, oldest first: how many. They are the caller's. */
static unsigned take_waiting(struct cr__host *host, struct cr__neighbour *neighbour, struct cr__waiting out[CR__NEIGHBOUR_WAITING])
{
    unsigned count = neighbour->waiting_count;
    for (unsigned i = 0; i < count; i++) {
        out[i] = neighbour->waiting[i];
        host->ip->packets_waiting -= packets_of(&out[i]);
    }
    neighbour->waiting_count = 0;
    return count;
}

static void drop_waiting(struct cr__host *host, struct cr__neighbour *neighbour)
{
    struct cr__waiting waiting[CR__NEIGHBOUR_WAITING];
    unsigned count = take_waiting(host, neighbour, waiting);
    for (unsigned i = 0; i < count; i++)
        drop_datagram(host, &waiting[i], CR__DROP_NEIGHBOUR_FAILED);
}

static void forget(struct cr__host *host, struct cr__neighbour *neighbour)
{
    struct cr__neighbour **link = bucket_of(host, &neighbour->ip);
    while (*link != neighbour)
        link = &(*link)->next;
    *link = neighbour->next;
    drop_waiting(host, neighbour);
    if (cr__timer_armed(&neighbour->timer))
        cr__wheel_cancel(&host->wheel, &neighbour->timer);
    cr__list_remove(&neighbour->age);
    neighbour->state = CR__NEIGHBOUR_FREE;
    neighbour->next = host->ip->neighbours_free;
    host->ip->neighbours_free = neighbour;
    host->ip->neighbours_used--;
    cr__way_forget_all(host->ip);
}

/* Second chance: who was used since the last look goes to the end. */
static void make_room(struct cr__host *host)
{
    struct cr__list *ages = &host->ip->ages;
    for (unsigned look = 0;; look++) {
        struct cr__neighbour *oldest = CR__CONTAINER(ages->next, struct cr__neighbour, age);
        if (!oldest->touched || look >= EVICTION_LOOKS) {
            forget(host, oldest);
            return;
        }
        oldest->touched = false;
        cr__list_remove(&oldest->age);
        cr__list_push_back(ages, &oldest->age);
    }
}

static struct cr__neighbour *make_neighbour(struct cr__host *host, const struct cr__ip *ip)
{
    if (!host->ip->neighbours_free)
        make_room(host);
    struct cr__neighbour *neighbour = host->ip->neighbours_free, **bucket = bucket_of(host, ip);
    host->ip->neighbours_free = neighbour->next;
    host->ip->neighbours_used++;
    *neighbour = (struct cr__neighbour){.ip = *ip, .next = *bucket};
    *bucket = neighbour;
    cr__list_push_back(&host->ip->ages, &neighbour->age);
    return neighbour;
}

void cr__neighbour_fini(struct cr__host *host)
{
    struct cr__list *ages = &host->ip->ages;
    while (!cr__list_empty(ages))
        forget(host, CR__CONTAINER(ages->next, struct cr__neighbour, age));
}

/* ---- Asking and answering ------------------------------------------------------------------------------------ */

static void send_arp(struct cr__host *host, enum cr__arp_operation operation, const uint8_t *from_ip, const uint8_t *to_ip, const uint8_t *to_ethernet)
{
    uint8_t header[CR__ETHERNET_BYTES];
    struct cr_packet *packet = cr__host_packet(host);
    if (!packet)
        return;
    struct cr__arp *arp = (struct cr__arp *)cr_packet_push(packet, sizeof(*arp));
    uint64_t kind = __builtin_bswap64(CR__ARP_KIND | (uint64_t)operation);
    memcpy(arp->kind, &kind, 8);
    memcpy(arp->from_ethernet, host->config.ethernet, 6);
    memcpy(arp->from_ip, from_ip, 4);
    memset(arp->to_ethernet, 0, 6);
    if (to_ethernet)
        memcpy(arp->to_ethernet, to_ethernet, 6);
    memcpy(arp->to_ip, to_ip, 4);
    cr__ethernet_header(host, header, to_ethernet ? to_ethernet : (const uint8_t[6]){0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, CR__ETHER_ARP);
    cr__ethernet_output(host, packet, header);
}

/* to_ethernet: to whom the frame goes; NULL: to whom IP sends it, who perhaps has to be asked for first. */
static void send_ndp(struct cr__host *host, uint8_t type, uint32_t flags, const struct cr__ip *target, const struct cr__ip *from, const struct cr__ip *to,
                     const uint8_t to_ethernet[6])
{
    uint8_t header[CR__ETHERNET_BYTES];
    struct cr_packet *packet = cr__host_packet(host);
    if (!packet)
        return;
    uint8_t *option = cr_packet_push(packet, 8);
    option[0] = type == CR__NDP_SOLICITATION ? CR__NDP_SOURCE_ADDRESS : CR__NDP_TARGET_ADDRESS;
    option[1] = 1;
    memcpy(option + 2, host->config.ethernet, 6);
    struct cr__ndp *ndp = (struct cr__ndp *)cr_packet_push(packet, sizeof(*ndp));
    *ndp = (struct cr__ndp){.icmp = {.type = type}};
    cr__wire_put32(ndp->icmp.value, flags);
    memcpy(ndp->target, target->bytes, 16);
    uint32_t sum = cr__ip_pseudo_sum(from, to, CR__IP_ICMP6, packet->size_bytes);
    cr__wire_put16(ndp->icmp.checksum, cr__wire_checksum(cr__wire_sum(sum, packet->data, packet->size_bytes)));
    struct cr__sending what = {.from = *from, .to = *to, .protocol = CR__IP_ICMP6, .hops = 255};
    if (!to_ethernet) {
        cr__ip_output(host, packet, &what);
        return;
    }
    cr__ip6_push(packet, &what);
    cr__ethernet_header(host, header, to_ethernet, CR__ETHER_IP6);
    cr__ethernet_output(host, packet, header);
}

/* Asks everybody, or, if the address is known, whether he is still there. */
static void ask(struct cr__host *host, struct cr__neighbour *neighbour)
{
    bool directly = neighbour->state == CR__NEIGHBOUR_PROBE;
    struct cr__ip from;
    neighbour->tries++;
    if (cr__ip_source(host, &neighbour->ip, &from))
        return; /* we have no address in that family: who waits is told when the tries are over */
    if (cr__ip_is_v4(&neighbour->ip)) {
        send_arp(host, CR__ARP_REQUEST, from.bytes + 12, neighbour->ip.bytes + 12, directly ? neighbour->ethernet : NULL);
        return;
    }
    uint8_t many[6];
    struct cr__ip group = cr__ip_solicited_node(&neighbour->ip);
    cr__ethernet_many(&group, many);
    send_ndp(host, CR__NDP_SOLICITATION, 0, &neighbour->ip, &from, directly ? &neighbour->ip : &group, directly ? neighbour->ethernet : many);
}

/* ---- States -------------------------------------------------------------------------------------------------- */

static void enter(struct cr__host *host, struct cr__neighbour *neighbour, enum cr__neighbour_state state, int64_t for_ns)
{
    if (neighbour->state == CR__NEIGHBOUR_REACHABLE && state != CR__NEIGHBOUR_REACHABLE)
        cr__way_forget_all(host->ip); /* the next packet is to be noticed */
    neighbour->state = (uint8_t)state;
    if (cr__timer_armed(&neighbour->timer))
        cr__wheel_cancel(&host->wheel, &neighbour->timer);
    cr__wheel_arm(&host->wheel, &neighbour->timer, host->now_ns + for_ns);
}

static void enter_reachable(struct cr__host *host, struct cr__neighbour *neighbour)
{
    int64_t half = CR__NEIGHBOUR_REACHABLE_NS / 2;
    neighbour->confirmed_ns = host->now_ns;
    enter(host, neighbour, CR__NEIGHBOUR_REACHABLE, half + (int64_t)(cr__host_random(host) % (uint64_t)(2 * half)));
}

struct cr__neighbour *cr__neighbour_use(struct cr__host *host, const struct cr__ip *ip)
{
    struct cr__neighbour *neighbour = cr__neighbour_find(host, ip);
    if (!neighbour) {
        neighbour = make_neighbour(host, ip);
        enter(host, neighbour, CR__NEIGHBOUR_INCOMPLETE, CR__NEIGHBOUR_RETRY_NS);
        ask(host, neighbour);
    }
    neighbour->touched = true;
    if (neighbour->state == CR__NEIGHBOUR_STALE)
        enter(host, neighbour, CR__NEIGHBOUR_DELAY, CR__NEIGHBOUR_DELAY_NS);
    return neighbour->state == CR__NEIGHBOUR_FAILED ? NULL : neighbour;
}

void cr__neighbour_wait(struct cr__host *host, struct cr__neighbour *neighbour, struct cr__waiting waiting)
{
    uint32_t count = packets_of(&waiting);
    if (neighbour->waiting_count == CR__NEIGHBOUR_WAITING) {
        host->ip->packets_waiting -= packets_of(&neighbour->waiting[0]);
        drop_datagram(host, &neighbour->waiting[0], CR__DROP_NEIGHBOUR_FULL);
        memmove(neighbour->waiting, neighbour->waiting + 1, (CR__NEIGHBOUR_WAITING - 1) * sizeof(neighbour->waiting[0]));
        neighbour->waiting_count--;
    }
    if (host->ip->packets_waiting + count > CR__NEIGHBOURS_WAITING) {
        drop_datagram(host, &waiting, CR__DROP_NEIGHBOUR_FULL);
        return;
    }
    host->ip->packets_waiting += count;
    neighbour->waiting[neighbour->waiting_count++] = waiting;
}

static void send_waiting(struct cr__host *host, struct cr__neighbour *neighbour)
{
    struct cr__waiting waiting[CR__NEIGHBOUR_WAITING];
    uint8_t header[CR__ETHERNET_BYTES];
    cr__ethernet_header(host, header, neighbour->ethernet, cr__ip_is_v4(&neighbour->ip) ? CR__ETHER_IP4 : CR__ETHER_IP6);
    unsigned count = take_waiting(host, neighbour, waiting);
    for (unsigned i = 0; i < count; i++) {
        for (struct cr_packet *packet = waiting[i].packet, *next; packet; packet = next) {
            next = waiting[i].chain ? packet->next : NULL;
            cr__ethernet_output(host, packet, header);
        }
    }
}

/* He has not answered: those above are told of each datagram that waits, which goes then. What they send meanwhile is refused, as he is FAILED already. */
static void fail(struct cr__host *host, struct cr__neighbour *neighbour)
{
    struct cr__waiting waiting[CR__NEIGHBOUR_WAITING];
    unsigned count = take_waiting(host, neighbour, waiting);
    enter(host, neighbour, CR__NEIGHBOUR_FAILED, CR__NEIGHBOUR_FAILED_NS);
    for (unsigned i = 0; i < count; i++) {
        cr__icmp_found(host, waiting[i].packet, CR__HOST_UNREACHABLE);
        drop_datagram(host, &waiting[i], CR__DROP_NEIGHBOUR_FAILED);
    }
}

static void probe(struct cr__host *host, struct cr__neighbour *neighbour)
{
    neighbour->tries = 0;
    enter(host, neighbour, CR__NEIGHBOUR_PROBE, CR__NEIGHBOUR_RETRY_NS);
    ask(host, neighbour);
}

void cr__neighbour_due(struct cr__host *host, struct cr__neighbour *neighbour)
{
    switch ((enum cr__neighbour_state)neighbour->state) {
    case CR__NEIGHBOUR_INCOMPLETE:
        if (neighbour->tries >= CR__NEIGHBOUR_TRIES) {
            fail(host, neighbour);
            return;
        }
        enter(host, neighbour, CR__NEIGHBOUR_INCOMPLETE, CR__NEIGHBOUR_RETRY_NS);
        ask(host, neighbour);
        return;
    case CR__NEIGHBOUR_REACHABLE:
        if (host->now_ns - neighbour->confirmed_ns < CR__NEIGHBOUR_REACHABLE_NS / 2) /* heard of since */
            enter(host, neighbour, CR__NEIGHBOUR_REACHABLE, CR__NEIGHBOUR_REACHABLE_NS / 2);
        else
            enter(host, neighbour, CR__NEIGHBOUR_STALE, CR__NEIGHBOUR_STALE_NS);
        return;
    case CR__NEIGHBOUR_DELAY:
        probe(host, neighbour);
        return;
    case CR__NEIGHBOUR_PROBE:
        if (neighbour->tries >= CR__NEIGHBOUR_TRIES) {
            forget(host, neighbour); /* perhaps he has another address now: who sends next asks everybody (RFC 4861, 7.3.3) */
            return;
        }
        enter(host, neighbour, CR__NEIGHBOUR_PROBE, CR__NEIGHBOUR_RETRY_NS);
        ask(host, neighbour);
        return;
    case CR__NEIGHBOUR_STALE:
    case CR__NEIGHBOUR_FAILED:
        forget(host, neighbour);
        return;
    case CR__NEIGHBOUR_FREE:
    case CR__NEIGHBOUR_PERMANENT:
        break;
    }
    CR__ASSERT(!"a timer of a neighbour that has none");
}

void cr__ip_reachable(struct cr__host *host, const struct cr__ip *to)
{
    struct cr__way *way = cr__way_slot(host->ip, to);
    if (CR__LIKELY(way->epoch == host->ip->epoch && cr__ip_equal(&way->to, to))) {
        if (way->neighbour)
            way->neighbour->confirmed_ns = host->now_ns;
        return;
    }
    struct cr__ip hop;
    struct cr__neighbour *neighbour;
    if (cr__ip_next_hop(host, to, &hop) || !(neighbour = cr__neighbour_find(host, &hop)))
        return;
    neighbour->confirmed_ns = host->now_ns;
    if (neighbour->state == CR__NEIGHBOUR_STALE || neighbour->state == CR__NEIGHBOUR_DELAY || neighbour->state == CR__NEIGHBOUR_PROBE)
        enter_reachable(host, neighbour);
}

void cr__ip_doubt(struct cr__host *host, const struct cr__ip *to)
{
    struct cr__ip hop;
    struct cr__neighbour *neighbour;
    if (cr__ip_next_hop(host, to, &hop) || !(neighbour = cr__neighbour_find(host, &hop)))
        return;
    if (neighbour->state == CR__NEIGHBOUR_REACHABLE || neighbour->state == CR__NEIGHBOUR_STALE || neighbour->state == CR__NEIGHBOUR_DELAY)
        probe(host, neighbour);
}

int cr__neighbour_add(struct cr__host *host, const struct cr__ip *ip, const uint8_t ethernet[6])
{
    struct cr__neighbour *neighbour = cr__neighbour_find(host, ip);
    if (!neighbour || neighbour->state != CR__NEIGHBOUR_PERMANENT) {
        if (host->ip->neighbours_permanent == CR__NEIGHBOURS / 2)
            return -ENOSPC;
        if (!neighbour)
            neighbour = make_neighbour(host, ip);
        host->ip->neighbours_permanent++;
        cr__list_remove(&neighbour->age);
        cr__list_init(&neighbour->age);
    }
    if (cr__timer_armed(&neighbour->timer))
        cr__wheel_cancel(&host->wheel, &neighbour->timer);
    memcpy(neighbour->ethernet, ethernet, 6);
    neighbour->state = CR__NEIGHBOUR_PERMANENT;
    cr__way_forget_all(host->ip);
    send_waiting(host, neighbour);
    return 0;
}

/* ---- What is heard ------------------------------------------------------------------------------------------- */

static void set_ethernet(struct cr__host *host, struct cr__neighbour *neighbour, const uint8_t ethernet[6])
{
    if (memcmp(neighbour->ethernet, ethernet, 6) == 0)
        return;
    memcpy(neighbour->ethernet, ethernet, 6);
    cr__way_forget_all(host->ip);
}

/* His address, said by himself. answer: to what we have asked; else it may be old news, so he is not known to hear us. */
static void heard(struct cr__host *host, struct cr__neighbour *neighbour, const uint8_t ethernet[6], bool answer)
{
    bool other = memcmp(neighbour->ethernet, ethernet, 6) != 0;
    if (neighbour->state == CR__NEIGHBOUR_PERMANENT)
        return;
    set_ethernet(host, neighbour, ethernet);
    if (answer)
        enter_reachable(host, neighbour);
    else if (other || !cr__neighbour_known(neighbour))
        enter(host, neighbour, neighbour->waiting_count ? CR__NEIGHBOUR_DELAY : CR__NEIGHBOUR_STALE, neighbour->waiting_count ? CR__NEIGHBOUR_DELAY_NS : CR__NEIGHBOUR_STALE_NS);
    send_waiting(host, neighbour);
}

/* Who asks for us will be sent to next: he gets an entry if he has none. */
static void heard_asking(struct cr__host *host, const struct cr__ip *ip, const uint8_t ethernet[6])
{
    struct cr__neighbour *neighbour = cr__neighbour_find(host, ip);
    if (!neighbour)
        neighbour = make_neighbour(host, ip);
    heard(host, neighbour, ethernet, false);
}

static bool is_somebody(const struct cr__host *host, const struct cr__ip *ip)
{
    return !cr__ip_is_zero(ip) && !cr__ip_is_multicast(ip) && !cr__ip_is_broadcast(host, ip) && cr__ip_on_link(host, ip);
}

/* RFC 826, "Packet reception"; 5227 for what says that our address is its own. */
static void arp_heard(struct cr__host *host, const struct cr__arp *arp, uint16_t operation)
{
    struct cr__ip from = cr__ip_read4(arp->from_ip), to = cr__ip_read4(arp->to_ip);
    bool for_us = cr__ip_is_ours(host, &to), probe = cr__ip_is_zero(&from);
    if (cr__ip_is_ours(host, &from)) {
        if (memcmp(arp->from_ethernet, host->config.ethernet, 6) != 0)
            cr__host_count(host, CR__DROP_ARP_CONFLICT);
        return;
    }
    if (!probe && !is_somebody(host, &from))
        return;
    if (operation == CR__ARP_REQUEST && for_us) {
        if (!probe)
            heard_asking(host, &from, arp->from_ethernet);
        send_arp(host, CR__ARP_REPLY, arp->to_ip, arp->from_ip, arp->from_ethernet);
        return;
    }
    struct cr__neighbour *known = probe ? NULL : cr__neighbour_find(host, &from);
    if (known)
        heard(host, known, arp->from_ethernet, operation == CR__ARP_REPLY && for_us);
}

void cr__arp_input(struct cr__host *host, struct cr_packet *packet)
{
    const struct cr__arp *arp = (const struct cr__arp *)packet->data;
    uint64_t kind = 0;
    if (packet->size_bytes >= sizeof(*arp))
        memcpy(&kind, arp->kind, 8);
    kind = __builtin_bswap64(kind);
    uint16_t operation = (uint16_t)kind;
    if ((kind & ~(uint64_t)0xffff) != CR__ARP_KIND || (operation != CR__ARP_REQUEST && operation != CR__ARP_REPLY) || (arp->from_ethernet[0] & 1)) {
        cr__host_drop(host, packet, CR__DROP_ARP_MALFORMED);
        return;
    }
    arp_heard(host, arp, operation);
    cr__packet_put(host->packets, packet);
}

/* RFC 4861, 7.2.3 and 7.2.4. */
static bool solicited(struct cr__host *host, const struct cr__arrival *in, const struct cr__ndp *ndp, size_t options_bytes)
{
    struct cr__ip target = cr__ip_read6(ndp->target), from = in->from, all = {.bytes = {0xff, 2, [15] = 1}};
    bool malformed, probe = cr__ip_is_zero(&in->from);
    const uint8_t *ethernet = cr__wire_ndp_option((const uint8_t *)(ndp + 1), options_bytes, CR__NDP_SOURCE_ADDRESS, &malformed);
    struct cr__ip group = cr__ip_solicited_node(&target);
    if (malformed || cr__ip_is_multicast(&target) || (probe && (ethernet || !cr__ip_equal(&in->to, &group))) || (ethernet && (ethernet[0] & 1)))
        return false;
    if (!cr__ip_is_ours(host, &target))
        return true;
    if (probe) {
        uint8_t many[6];
        cr__ethernet_many(&all, many);
        send_ndp(host, CR__NDP_ADVERTISEMENT, CR__NDP_OVERRIDE, &target, &target, &all, many);
        return true;
    }
    if (ethernet && is_somebody(host, &from))
        heard_asking(host, &from, ethernet);
    send_ndp(host, CR__NDP_ADVERTISEMENT, CR__NDP_SOLICITED | CR__NDP_OVERRIDE, &target, &target, &from, ethernet);
    return true;
}

/* RFC 4861, 7.2.5. */
static void advertised_known(struct cr__host *host, struct cr__neighbour *neighbour, const uint8_t *ethernet, uint32_t flags)
{
    bool answer = flags & CR__NDP_SOLICITED, override = flags & CR__NDP_OVERRIDE;
    if (!cr__neighbour_known(neighbour)) {
        if (ethernet)
            heard(host, neighbour, ethernet, answer);
        return;
    }
    bool other = ethernet && memcmp(neighbour->ethernet, ethernet, 6) != 0;
    if (other && !override) {
        if (neighbour->state == CR__NEIGHBOUR_REACHABLE)
            enter(host, neighbour, CR__NEIGHBOUR_STALE, CR__NEIGHBOUR_STALE_NS);
        return;
    }
    heard(host, neighbour, ethernet ? ethernet : neighbour->ethernet, answer);
}

static bool advertised(struct cr__host *host, const struct cr__arrival *in, const struct cr__ndp *ndp, size_t options_bytes)
{
    struct cr__ip target = cr__ip_read6(ndp->target);
    uint32_t flags = cr__wire_get32(ndp->icmp.value);
    bool malformed;
    const uint8_t *ethernet = cr__wire_ndp_option((const uint8_t *)(ndp + 1), options_bytes, CR__NDP_TARGET_ADDRESS, &malformed);
    if (malformed || cr__ip_is_multicast(&target) || (cr__ip_is_multicast(&in->to) && (flags & CR__NDP_SOLICITED)) || (ethernet && (ethernet[0] & 1)))
        return false;
    if (cr__ip_is_ours(host, &target)) {
        cr__host_count(host, CR__DROP_ARP_CONFLICT);
        return true;
    }
    struct cr__neighbour *neighbour = cr__neighbour_find(host, &target);
    if (neighbour)
        advertised_known(host, neighbour, ethernet, flags);
    return true;
}

/* A solicitation or an advertisement, its checksum verified. The packet stays the caller's. */
void cr__ndp_input(struct cr__host *host, const struct cr__arrival *in)
{
    const struct cr__ndp *ndp = (const struct cr__ndp *)in->packet->data;
    bool fine = in->packet->size_bytes >= sizeof(*ndp) && in->hops == 255 && ndp->icmp.code == 0; /* from 255 nobody has counted down: so it comes from this link */
    if (fine) {
        size_t options_bytes = in->packet->size_bytes - sizeof(*ndp);
        fine = ndp->icmp.type == CR__NDP_SOLICITATION ? solicited(host, in, ndp, options_bytes) : advertised(host, in, ndp, options_bytes);
    }
    if (!fine)
        cr__host_count(host, CR__DROP_NDP_MALFORMED);
}

/* ---- What is told of them ------------------------------------------------------------------------------------- */

void cr__host_neighbours(const struct cr__host *host, unsigned most, void (*fn)(const struct cr__neighbour_told *neighbour, void *arg), void *arg)
{
    static const char *const names[] = {
        [CR__NEIGHBOUR_INCOMPLETE] = "asked for", [CR__NEIGHBOUR_REACHABLE] = "reachable", [CR__NEIGHBOUR_STALE] = "stale",         [CR__NEIGHBOUR_DELAY] = "in delay",
        [CR__NEIGHBOUR_PROBE] = "probed",         [CR__NEIGHBOUR_FAILED] = "failed",       [CR__NEIGHBOUR_PERMANENT] = "permanent",
    };
    for (unsigned i = 0, told = 0; i < CR__NEIGHBOURS && told < most; i++) {
        const struct cr__neighbour *n = &host->ip->neighbours[i];
        if (n->state == CR__NEIGHBOUR_FREE)
            continue;
        struct cr__neighbour_told neighbour = {.ip = n->ip, .state = names[n->state]};
        memcpy(neighbour.ethernet, n->ethernet, sizeof(neighbour.ethernet));
        fn(&neighbour, arg);
        told++;
    }
}
