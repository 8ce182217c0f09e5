/* The line of text that opens a network (crore/net.h): taken apart, word by word. */
#include "net/socket/socket.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obs/obs.h"

#define ENTRY_BITS 128
#define DNS_PORT 53

/* A decimal number up to most; -1: none. */
static long number_of(const char *text, long most)
{
    char *end;
    long n = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
    return n >= 0 && n <= most && *end == '\0' ? n : -1;
}

static const char *parse_ip(struct cr__ip *ip, const char *text)
{
    struct in_addr in;
    if (inet_pton(AF_INET, text, &in) == 1) {
        *ip = cr__ip_v4(in.s_addr);
        return NULL;
    }
    return inet_pton(AF_INET6, text, ip->bytes) == 1 ? NULL : "not an address of IPv4 or IPv6";
}

static const char *parse_prefix(struct cr__ip *ip, uint8_t *bits, char *text)
{
    char *slash = strchr(text, '/');
    if (!slash)
        return "wants the form IP/BITS";
    *slash = '\0';
    const char *wrong = parse_ip(ip, text);
    if (wrong)
        return wrong;
    int before = cr__ip_is_v4(ip) ? 96 : 0;
    long n = number_of(slash + 1, ENTRY_BITS - before);
    *bits = (uint8_t)(n + before);
    return n < 0 ? "so many bits an address does not have" : NULL;
}

/* The part of an address of IPv4 that says which host: all of it where the link's net has no bits. */
static uint32_t host_mask(unsigned prefix_bits)
{
    return prefix_bits == 128 ? 0 : UINT32_MAX >> (prefix_bits - 96);
}

/* Why a host can't have that address; NULL: it can. Nets of one or two addresses have none for themselves, or for all (RFC 3021). */
static const char *unfit(const struct cr__host_address *address)
{
    static const struct cr__ip none, loopback = {.bytes = {[15] = 1}};
    const struct cr__ip *ip = &address->ip;
    uint32_t bits = ntohl(ip->parts[3]), mask = cr__ip_is_v4(ip) ? host_mask(address->prefix_bits) : 0;
    if (cr__ip_is_multicast(ip))
        return "is a multicast address";
    if (cr__ip_is_v4(ip) ? bits >> 24 == 127 : cr__ip_equal(ip, &loopback))
        return "is a loopback address, which there is on no link";
    if (cr__ip_is_v4(ip) ? bits >> 24 == 0 || bits >> 28 == 15 : cr__ip_equal(ip, &none))
        return "is no host's address";
    if (mask > 1 && (bits & mask) == 0)
        return "is its net's own address";
    return mask > 1 && (bits & mask) == mask ? "is its net's broadcast address" : NULL;
}

static bool is_own(const struct cr__wish *wish, const struct cr__ip *ip)
{
    for (unsigned i = 0; i < wish->host.address_count; i++) {
        if (cr__ip_equal(&wish->host.addresses[i].ip, ip))
            return true;
    }
    return false;
}

static const char *take_addr(struct cr__wish *wish, char *value)
{
    struct cr__host_address address;
    const char *wrong = parse_prefix(&address.ip, &address.prefix_bits, value);
    if (!wrong)
        wrong = unfit(&address);
    if (!wrong && is_own(wish, &address.ip))
        wrong = "is there already";
    if (!wrong && wish->host.address_count == CR__HOST_ADDRESSES - 1)
        wrong = "too many addresses";
    if (!wrong)
        wish->host.addresses[wish->host.address_count++] = address;
    return wrong;
}

static const char *add_route(struct cr__wish *wish, const struct cr__host_route *route)
{
    for (unsigned i = 0; i < wish->host.route_count; i++) {
        const struct cr__host_route *other = &wish->host.routes[i];
        if (cr__ip_equal(&other->to, &route->to) && other->prefix_bits == route->prefix_bits)
            return "there is a gateway to there already";
    }
    if (wish->host.route_count == CR__HOST_ROUTES)
        return "too many routes";
    wish->route_words[wish->host.route_count] = wish->word;
    wish->host.routes[wish->host.route_count++] = *route;
    return NULL;
}

/* Why nothing can go by that gateway, now that all addresses are known; NULL: it can. */
static const char *unfit_gateway(const struct cr__wish *wish, const struct cr__ip *gateway)
{
    static const char not_one[] = "the gateway is no host's address";
    if (is_own(wish, gateway))
        return "the gateway is this host itself";
    if (unfit(&(struct cr__host_address){*gateway, 128}))
        return not_one;
    for (unsigned i = 0; i < wish->host.address_count; i++) {
        const struct cr__host_address *address = &wish->host.addresses[i];
        struct cr__host_address there = {*gateway, address->prefix_bits};
        if (cr__ip_is_v4(&address->ip) == cr__ip_is_v4(gateway) && cr__ip_common_bits(&address->ip, gateway) >= address->prefix_bits)
            return unfit(&there) ? not_one : NULL;
    }
    return cr__ip_is_link_local(gateway) ? NULL : "the gateway is not on the link";
}

int cr__wish_refuse(struct cr__worker *w, const char *spec, const char *word, const char *why)
{
    bool is_long = strlen(spec) >= CR__NET_SPEC_BYTES; /* a report's line ends somewhere: what is wrong is to be on it */
    cr__report(w->sched->report_fd, "crore: network \"%.*s%s\": \"%.128s\": %s\n", is_long ? CR__NET_SPEC_BYTES / 4 : CR__NET_SPEC_BYTES, spec, is_long ? "..." : "", word, why);
    return -EINVAL;
}

static int check_routes(struct cr__worker *w, const struct cr__wish *wish, const char *spec)
{
    for (unsigned i = 0; i < wish->host.route_count; i++) {
        const char *wrong = unfit_gateway(wish, &wish->host.routes[i].gateway);
        if (wrong)
            return cr__wish_refuse(w, spec, wish->route_words[i], wrong);
    }
    return 0;
}

static const char *take_gw(struct cr__wish *wish, char *value)
{
    struct cr__host_route route = {.via = true};
    const char *wrong = parse_ip(&route.gateway, value);
    if (!wrong && cr__ip_is_v4(&route.gateway)) {
        route.to = cr__ip_v4(0);
        route.prefix_bits = 96;
    }
    return wrong ? wrong : add_route(wish, &route);
}

static const char *take_route(struct cr__wish *wish, char *value)
{
    struct cr__host_route route = {.via = true};
    char *comma = strchr(value, ',');
    if (!comma)
        return "wants the form IP/BITS,GATEWAY";
    *comma = '\0';
    const char *wrong = parse_prefix(&route.to, &route.prefix_bits, value);
    if (!wrong)
        wrong = parse_ip(&route.gateway, comma + 1);
    if (!wrong && cr__ip_is_v4(&route.to) != cr__ip_is_v4(&route.gateway))
        wrong = "net and gateway are of different families";
    return wrong ? wrong : add_route(wish, &route);
}

/* IP, IP:PORT, [IP] or [IP]:PORT. */
static const char *parse_server(struct cr__ip *ip, uint16_t *port, char *text)
{
    struct cr__url url;
    size_t length = strlen(text);
    *port = DNS_PORT;
    if (text[0] == '[' && text[length - 1] == ']') {
        text[length - 1] = '\0';
        return parse_ip(ip, text + 1);
    }
    if (!parse_ip(ip, text))
        return NULL;
    if (cr__url_parse_authority(&url, text, true) < 0)
        return "wants the form IP, IP:PORT or [IPV6]:PORT";
    *port = url.port;
    return *port == 0 ? "0 is no port" : parse_ip(ip, url.host);
}

static const char *take_dns(struct cr__wish *wish, char *value)
{
    char *names = wish->name_servers, place[sizeof("udp://[]:65535") + INET6_ADDRSTRLEN];
    size_t used = strlen(names), room = sizeof(wish->name_servers) - used;
    struct cr__ip ip, none = {.halves = {0, 0}}, none4 = cr__ip_v4(0);
    struct cr_addr addr;
    uint16_t port;
    if (wish->name_server_count++ == CR__NET_NAME_SERVERS)
        return "too many name servers";
    const char *wrong = parse_server(&ip, &port, value);
    if (wrong)
        return wrong;
    if (cr__ip_equal(&ip, &none) || cr__ip_equal(&ip, &none4) || cr__ip_is_multicast(&ip))
        return "no host has that address";
    cr__ip_to_addr(&ip, port, &addr);
    cr__url_format(CR__UDP, &addr, place, sizeof(place));
    int n = snprintf(names + used, room, "%s%s", used ? "," : "", place + strlen("udp://"));
    CR__ASSERT(n > 0 && (size_t)n < room);
    return NULL;
}

static const char *take_mtu(struct cr__wish *wish, char *value)
{
    long n = number_of(value, 1800);
    wish->mtu_bytes = (unsigned)n;
    return n < 1280 ? "wants 1280 to 1800" : NULL;
}

static const char *take_cc(struct cr__wish *wish, char *value)
{
    wish->tcp.newreno = strcmp(value, "newreno") == 0;
    return wish->tcp.newreno || strcmp(value, "cubic") == 0 ? NULL : "wants cubic or newreno";
}

static const char *take_ecn(struct cr__wish *wish, char *value)
{
    wish->tcp.ecn = strcmp(value, "1") == 0;
    return wish->tcp.ecn || strcmp(value, "0") == 0 ? NULL : "wants 0 or 1";
}

static const char *parse_bytes(uint32_t *bytes, char *value)
{
    size_t length = strlen(value);
    char unit = length > 0 ? value[length - 1] : '\0';
    unsigned shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
    if (shift)
        value[length - 1] = '\0';
    long n = number_of(value, (long)(1u << 30 >> shift));
    *bytes = (uint32_t)n << shift;
    return n < 1 ? "wants a number of bytes, 1 to 1G" : NULL;
}

static const char *take_sndbuf(struct cr__wish *wish, char *value)
{
    return parse_bytes(&wish->tcp.send_limit_bytes, value);
}

static const char *take_rcvbuf(struct cr__wish *wish, char *value)
{
    return parse_bytes(&wish->tcp.recv_limit_bytes, value);
}

static const char *take_mac(struct cr__wish *wish, char *value)
{
    unsigned char *e = wish->host.ethernet;
    int used = 0;
    if (sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &e[0], &e[1], &e[2], &e[3], &e[4], &e[5], &used) != 6 || value[used] != '\0')
        return "wants the form 02:00:00:00:00:01";
    wish->has_mac = true;
    return e[0] & 1 ? "is an address of many" : NULL;
}

static const char *take_workers(struct cr__wish *wish, char *value)
{
    wish->on_all_workers = strcmp(value, "all") == 0;
    return wish->on_all_workers || strcmp(value, "one") == 0 ? NULL : "wants all or one";
}

static const struct {
    const char *key;
    const char *(*take)(struct cr__wish *wish, char *value); /* may change it; what is wrong, or NULL */
} keys[] = {
    {"addr=", take_addr}, {"mac=", take_mac}, {"gw=", take_gw}, {"route=", take_route}, {"dns=", take_dns}, {"mtu=", take_mtu}, {"cc=", take_cc},
    {"ecn=", take_ecn}, {"sndbuf=", take_sndbuf}, {"rcvbuf=", take_rcvbuf}, {"workers=", take_workers},
};

static const char *take_word(struct cr__wish *wish, const char *word)
{
    char text[CR__NET_SPEC_BYTES / 4];
    if (strlen(word) >= sizeof(text))
        return "too long";
    strcpy(text, word);
    wish->word = word;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        size_t length = strlen(keys[i].key);
        if (strncmp(text, keys[i].key, length) == 0)
            return keys[i].take(wish, text + length);
    }
    return "not known; known are addr=, mac=, gw=, route=, dns=, mtu=, cc=, ecn=, sndbuf=, rcvbuf=, workers=";
}

int cr__wish_parse(struct cr__worker *w, struct cr__wish *wish, const char *spec)
{
    if (strlen(spec) >= sizeof(wish->words))
        return cr__wish_refuse(w, spec, "", "more than 511 characters");
    strcpy(wish->words, spec);
    char *rest = wish->words, *word = strsep(&rest, " ");
    if (*word == '\0' || strchr(word, ':') == NULL)
        return cr__wish_refuse(w, spec, word, "not a link, with which a network begins");
    while ((word = strsep(&rest, " ")) != NULL) {
        const char *wrong = *word ? take_word(wish, word) : NULL;
        if (wrong)
            return cr__wish_refuse(w, spec, word, wrong);
    }
    return wish->host.address_count > 0 ? check_routes(w, wish, spec) : cr__wish_refuse(w, spec, "addr=", "it has no address");
}
