/* ICMP (RFC 792, 1122) and ICMPv6 (RFC 4443). Errors that arrive are handed up with what they quote, and believed by nobody here. Not here: redirects, router messages, timestamps,
 * and of parameter problems all but IPv6's unknown next header: they are counted as of no use. */
#include "net/ip/ip.h"

#define ERROR_INTERVAL_NS (CR__SECOND_NS / 1000) /* RFC 1812, 4.3.2.8; 4443, 2.4 f */
#define ERROR_BURST 50
#define ECHO_INTERVAL_NS (CR__SECOND_NS / 20000)
#define ECHO_BURST 1000
#define QUOTED4 (576 - CR__IP4_BYTES - 8)        /* RFC 1812, 4.3.2.3 */
#define QUOTED6 (1280 - CR__IP6_BYTES - 8)
#define QUOTED_LEAST 8                           /* of the transport's header: RFC 792 */

bool cr__bucket_take(struct cr__host *host, struct cr__bucket *bucket, int64_t interval_ns, unsigned burst)
{
    if (bucket->full_ns < host->now_ns)
        bucket->full_ns = host->now_ns;
    if (bucket->full_ns - host->now_ns > (burst - 1) * interval_ns) {
        cr__host_count(host, CR__DROP_ICMP_LIMIT);
        return false;
    }
    bucket->full_ns += interval_ns;
    return true;
}

/* ---- Sending ------------------------------------------------------------------------------------------------- */

/* A message whose header is in front, with type, code and value; the checksum is not. from: ours, or whom the asker has asked for. */
static void send_message(struct cr__host *host, struct cr_packet *packet, struct cr__sending *what)
{
    struct cr__icmp_header *icmp = (struct cr__icmp_header *)packet->data;
    bool v4 = cr__ip_is_v4(&what->to);
    if (!cr__ip_is_ours(host, &what->from) && cr__ip_source(host, &what->to, &what->from)) {
        cr__host_drop(host, packet, CR__DROP_NO_ROUTE);
        return;
    }
    what->protocol = v4 ? CR__IP_ICMP : CR__IP_ICMP6;
    cr__wire_put16(icmp->checksum, 0);
    uint32_t sum = v4 ? 0 : cr__ip_pseudo_sum(&what->from, &what->to, CR__IP_ICMP6, packet->size_bytes);
    cr__wire_put16(icmp->checksum, cr__wire_checksum(cr__wire_sum(sum, packet->data, packet->size_bytes)));
    if (cr__ip_output(host, packet, what) == -EMSGSIZE)
        cr__host_count(host, CR__DROP_IP_HEADER);
}

/* Whether what is quoted is an error itself, or, of IPv4, comes behind the first fragment. */
static bool is_about_error(const uint8_t *header, size_t size_bytes, bool v4)
{
    if (v4) {
        const struct cr__ip4_header *ip = (const struct cr__ip4_header *)header;
        size_t at = 4u * (ip->version_words & 0xf);
        if (cr__wire_get16(ip->fragment) & CR__IP4_OFFSET)
            return true;
        return ip->protocol == CR__IP_ICMP && (at >= size_bytes || (header[at] != CR__ICMP_ECHO && header[at] != CR__ICMP_ECHO_REPLY));
    }
    struct cr__walk walk = {.next = ((const struct cr__ip6_header *)header)->next, .at = CR__IP6_BYTES, .next_at = offsetof(struct cr__ip6_header, next)};
    enum cr__walk_end end = cr__wire_walk(&walk, header, size_bytes);
    if (end == CR__WALK_AT_FRAGMENT) {
        walk = (struct cr__walk){.next = header[walk.at], .at = walk.at + sizeof(struct cr__ip6_fragment), .fragmented = true};
        end = cr__wire_walk(&walk, header, size_bytes);
    }
    return end == CR__WALK_UPPER && walk.next == CR__IP_ICMP6 && (walk.at >= size_bytes || header[walk.at] < CR__ICMP6_ECHO || header[walk.at] == CR__NDP_REDIRECT);
}

void cr__icmp_error(struct cr__host *host, const struct cr__arrival *in, uint8_t type, uint8_t code, uint32_t value, bool many)
{
    bool v4 = cr__ip_is_v4(&in->from);
    if (!in->header || (in->broadcast && !many) || cr__ip_is_zero(&in->from) || cr__ip_is_multicast(&in->from))
        return;
    size_t size_bytes = (size_t)(in->packet->data + in->packet->size_bytes - in->header), most = v4 ? QUOTED4 : QUOTED6;
    if (is_about_error(in->header, size_bytes, v4) || !cr__bucket_take(host, &host->ip->errors, ERROR_INTERVAL_NS, ERROR_BURST))
        return;
    struct cr_packet *packet = cr__host_packet(host);
    if (!packet)
        return;
    packet->size_bytes = (uint16_t)(size_bytes < most ? size_bytes : most);
    memcpy(packet->data, in->header, packet->size_bytes);
    struct cr__icmp_header *icmp = (struct cr__icmp_header *)cr_packet_push(packet, sizeof(*icmp));
    *icmp = (struct cr__icmp_header){.type = type, .code = code};
    cr__wire_put32(icmp->value, value);
    send_message(host, packet, &(struct cr__sending){.from = in->to, .to = in->from});
}

void cr__icmp_unreachable(struct cr__host *host, const struct cr__arrival *in, enum cr__ip_trouble trouble)
{
    static const uint8_t codes4[] = {[CR__NET_UNREACHABLE] = 0, [CR__HOST_UNREACHABLE] = 1, [CR__PROTOCOL_UNREACHABLE] = 2, [CR__PORT_UNREACHABLE] = 3, [CR__PROHIBITED] = 13};
    static const uint8_t codes6[] = {[CR__NET_UNREACHABLE] = 0, [CR__HOST_UNREACHABLE] = 3, [CR__PROTOCOL_UNREACHABLE] = 4, [CR__PORT_UNREACHABLE] = 4, [CR__PROHIBITED] = 1};
    bool v4 = cr__ip_is_v4(&in->from);
    CR__ASSERT(trouble <= CR__PROHIBITED);
    cr__icmp_error(host, in, v4 ? CR__ICMP_UNREACHABLE : CR__ICMP6_UNREACHABLE, (v4 ? codes4 : codes6)[trouble], 0, false);
}

/* The request becomes the answer. To a broadcast of IPv4 none is given (RFC 1122, 3.2.2.6: it may be left out; it is how floods are made), to a multicast of IPv6 one is (RFC
 * 4443, 4.2). */
static void echo(struct cr__host *host, const struct cr__arrival *in, uint8_t type)
{
    if ((in->broadcast && cr__ip_is_v4(&in->to)) || cr__ip_is_zero(&in->from)) {
        cr__host_drop(host, in->packet, CR__DROP_ICMP_TYPE);
        return;
    }
    if (!cr__bucket_take(host, &host->ip->echoes, ECHO_INTERVAL_NS, ECHO_BURST)) {
        cr__packet_put(host->packets, in->packet);
        return;
    }
    ((struct cr__icmp_header *)in->packet->data)->type = type;
    send_message(host, in->packet, &(struct cr__sending){.from = in->to, .to = in->from, .tos = in->tos & 0xfc, .fragment = true});
}

/* ---- Errors that arrive -------------------------------------------------------------------------------------- */

/* What is quoted: whether it may be a packet of ours, and what is told above of it. */
static bool read_quoted4(struct cr__ip_error *out, const uint8_t *bytes, size_t size_bytes)
{
    const struct cr__ip4_header *ip = (const struct cr__ip4_header *)bytes;
    if (size_bytes < CR__IP4_BYTES + QUOTED_LEAST || ip->version_words >> 4 != 4)
        return false;
    size_t header_bytes = 4u * (ip->version_words & 0xf);
    if (header_bytes < CR__IP4_BYTES || header_bytes + QUOTED_LEAST > size_bytes || (cr__wire_get16(ip->fragment) & CR__IP4_OFFSET))
        return false;
    out->from = cr__ip_read4(ip->from);
    out->to = cr__ip_read4(ip->to);
    out->protocol = ip->protocol;
    out->transport = bytes + header_bytes;
    out->transport_bytes = size_bytes - header_bytes;
    return true;
}

static bool read_quoted6(struct cr__ip_error *out, const uint8_t *bytes, size_t size_bytes)
{
    const struct cr__ip6_header *ip = (const struct cr__ip6_header *)bytes;
    if (size_bytes < CR__IP6_BYTES + QUOTED_LEAST || ip->version_class_flow[0] >> 4 != 6)
        return false;
    struct cr__walk walk = {.next = ip->next, .at = CR__IP6_BYTES, .next_at = offsetof(struct cr__ip6_header, next)};
    enum cr__walk_end end = cr__wire_walk(&walk, bytes, size_bytes);
    if (end == CR__WALK_AT_FRAGMENT && (cr__wire_get16(bytes + walk.at + 2) & 0xfff8) == 0) {
        walk = (struct cr__walk){.next = bytes[walk.at], .at = walk.at + sizeof(struct cr__ip6_fragment), .fragmented = true};
        end = cr__wire_walk(&walk, bytes, size_bytes);
    }
    if (end != CR__WALK_UPPER || size_bytes - walk.at < QUOTED_LEAST)
        return false;
    out->from = cr__ip_read6(ip->from);
    out->to = cr__ip_read6(ip->to);
    out->protocol = walk.next;
    out->transport = bytes + walk.at;
    out->transport_bytes = size_bytes - walk.at;
    return true;
}

static bool read_quoted(const struct cr__host *host, struct cr__ip_error *out, const uint8_t *bytes, size_t size_bytes, bool v4)
{
    return (v4 ? read_quoted4 : read_quoted6)(out, bytes, size_bytes) && cr__ip_is_ours(host, &out->from) && !cr__ip_is_multicast(&out->to);
}

static void hand_up(struct cr__host *host, const struct cr__ip_error *error)
{
    if (error->protocol == CR__IP_TCP && host->above.tcp_error)
        host->above.tcp_error(host, error);
    else if (error->protocol == CR__IP_UDP && host->above.udp_error)
        host->above.udp_error(host, error);
}

void cr__icmp_found(struct cr__host *host, const struct cr_packet *packet, enum cr__ip_trouble trouble)
{
    struct cr__ip_error error = {.trouble = trouble, .found = true};
    if (read_quoted(host, &error, packet->data, packet->size_bytes, packet->data[0] >> 4 == 4))
        hand_up(host, &error);
}

/* RFC 792; 1122, 3.2.2.1; 1812, 5.2.7.1. */
static bool trouble4(const struct cr__icmp_header *icmp, enum cr__ip_trouble *out)
{
    static const uint8_t by_code[] = {
        CR__NET_UNREACHABLE, CR__HOST_UNREACHABLE, CR__PROTOCOL_UNREACHABLE, CR__PORT_UNREACHABLE, CR__TOO_BIG,          CR__HOST_UNREACHABLE, CR__NET_UNREACHABLE,
        CR__HOST_UNREACHABLE, CR__HOST_UNREACHABLE, CR__PROHIBITED,          CR__PROHIBITED,       CR__NET_UNREACHABLE,  CR__HOST_UNREACHABLE, CR__PROHIBITED,
    };
    if (icmp->type == CR__ICMP_TIME_EXCEEDED)
        *out = CR__TIME_EXCEEDED;
    else if (icmp->type == CR__ICMP_UNREACHABLE && icmp->code < CR__COUNT(by_code))
        *out = by_code[icmp->code];
    else
        return false;
    return true;
}

static bool trouble6(const struct cr__icmp_header *icmp, enum cr__ip_trouble *out)
{
    static const uint8_t by_code[] = {CR__NET_UNREACHABLE, CR__PROHIBITED, CR__NET_UNREACHABLE, CR__HOST_UNREACHABLE, CR__PORT_UNREACHABLE, CR__PROHIBITED, CR__PROHIBITED};
    if (icmp->type == CR__ICMP6_TIME_EXCEEDED)
        *out = CR__TIME_EXCEEDED;
    else if (icmp->type == CR__ICMP6_TOO_BIG)
        *out = CR__TOO_BIG;
    else if (icmp->type == CR__ICMP6_PROBLEM && icmp->code == 1)
        *out = CR__PROTOCOL_UNREACHABLE;
    else if (icmp->type == CR__ICMP6_UNREACHABLE && icmp->code < CR__COUNT(by_code))
        *out = by_code[icmp->code];
    else
        return false;
    return true;
}

/* What a TOO_BIG says, within sense; 0: it says nothing that can be used. What is quoted must be longer than what is said to fit. That may be known already: another connection
 * on the same path is told, too. */
static uint16_t sensible_mtu(struct cr__host *host, const struct cr__ip_error *error, const struct cr__icmp_header *icmp)
{
    const uint8_t *quoted = (const uint8_t *)(icmp + 1);
    bool v4 = cr__ip_is_v4(&error->to);
    uint32_t said = cr__wire_get32(icmp->value), sent;
    if (v4) {
        said &= 0xffff;
        sent = cr__wire_get16(quoted + offsetof(struct cr__ip4_header, length));
        if (said == 0) /* a router from before RFC 1191 */
            said = cr__path_plateau((uint16_t)sent);
        said = said < CR__PATH_LEAST4 ? CR__PATH_LEAST4 : said;
    } else {
        sent = CR__IP6_BYTES + (uint32_t)cr__wire_get16(quoted + offsetof(struct cr__ip6_header, length));
        if (said < CR__PATH_LEAST6) /* RFC 8201, 4 */
            return 0;
    }
    return said < sent && said <= cr__ip_mtu(host, &error->to) ? (uint16_t)said : 0;
}

static void error_input(struct cr__host *host, const struct cr__arrival *in)
{
    const struct cr__icmp_header *icmp = (const struct cr__icmp_header *)in->packet->data;
    bool v4 = cr__ip_is_v4(&in->to);
    struct cr__ip_error error = {0};
    if (!(v4 ? trouble4 : trouble6)(icmp, &error.trouble)) {
        cr__host_count(host, CR__DROP_ICMP_TYPE);
        return;
    }
    if (!read_quoted(host, &error, in->packet->data + sizeof(*icmp), in->packet->size_bytes - sizeof(*icmp), v4)) {
        cr__host_count(host, CR__DROP_ICMP_MALFORMED);
        return;
    }
    if (error.trouble == CR__TOO_BIG && (error.mtu_bytes = sensible_mtu(host, &error, icmp)) == 0) {
        cr__host_count(host, CR__DROP_ICMP_MALFORMED);
        return;
    }
    hand_up(host, &error);
}

/* ---- Arriving ------------------------------------------------------------------------------------------------ */

/* A message whose checksum is right, else it is gone. */
static bool check_message(struct cr__host *host, const struct cr__arrival *in, uint32_t pseudo_sum)
{
    struct cr_packet *packet = in->packet;
    if (packet->next || packet->size_bytes < sizeof(struct cr__icmp_header) || cr__wire_checksum(cr__wire_sum(pseudo_sum, packet->data, packet->size_bytes)) != 0) {
        cr__host_count(host, CR__DROP_ICMP_MALFORMED);
        cr__host_put(host, packet);
        return false;
    }
    return true;
}

void cr__icmp4_input(struct cr__host *host, const struct cr__arrival *in)
{
    if (!check_message(host, in, 0))
        return;
    switch (in->packet->data[0]) {
    case CR__ICMP_ECHO:
        echo(host, in, CR__ICMP_ECHO_REPLY);
        return;
    case CR__ICMP_UNREACHABLE:
    case CR__ICMP_TIME_EXCEEDED:
        error_input(host, in);
        break;
    default:
        cr__host_count(host, CR__DROP_ICMP_TYPE);
    }
    cr__packet_put(host->packets, in->packet);
}

void cr__icmp6_input(struct cr__host *host, const struct cr__arrival *in)
{
    if (!check_message(host, in, cr__ip_pseudo_sum(&in->from, &in->to, CR__IP_ICMP6, in->packet->size_bytes)))
        return;
    switch (in->packet->data[0]) {
    case CR__ICMP6_ECHO:
        echo(host, in, CR__ICMP6_ECHO_REPLY);
        return;
    case CR__NDP_SOLICITATION:
    case CR__NDP_ADVERTISEMENT:
        cr__ndp_input(host, in);
        break;
    case CR__ICMP6_UNREACHABLE:
    case CR__ICMP6_TOO_BIG:
    case CR__ICMP6_TIME_EXCEEDED:
    case CR__ICMP6_PROBLEM:
        error_input(host, in);
        break;
    default:
        cr__host_count(host, CR__DROP_ICMP_TYPE);
    }
    cr__packet_put(host->packets, in->packet);
}
