/* What ICMP says of a segment of ours (RFC 5927, 9293 3.9.2.2). It is believed only of what is in flight, by its sequence number; and it ends no connection but one that is
 * being dialled, and that only where it says that nobody listens, or where we have found out ourselves that the next hop does not answer. What else it says is kept as the
 * reason, should the connection time out. That the path takes only smaller
 * packets makes the segments smaller, and those that were too big are sent again (RFC 1191, 6.4; 8201). */
#include "net/tcp/tcp.h"

static void too_big(struct cr__tcp *tcp, uint16_t mtu_bytes)
{
    uint16_t before = tcp->mss_bytes;
    cr__ip_too_big(tcp->host, &tcp->peer, mtu_bytes);
    if (tcp->state < CR__TCP_ESTABLISHED)
        return;
    cr__tcp_set_mss(tcp);
    if (tcp->mss_bytes < before && tcp->flight)
        cr__tcp_resend_big(tcp);
}

static int errno_of(enum cr__ip_trouble trouble)
{
    switch (trouble) {
    case CR__NET_UNREACHABLE:
        return ENETUNREACH;
    case CR__PORT_UNREACHABLE:
    case CR__PROTOCOL_UNREACHABLE:
        return ECONNREFUSED;
    default:
        return EHOSTUNREACH;
    }
}

static void unreachable(struct cr__tcp *tcp, int error, bool found)
{
    if (tcp->state == CR__TCP_SYN_SENT && (error == ECONNREFUSED || found)) {
        cr__tcp_end(tcp, error);
        return;
    }
    tcp->error = (uint16_t)error;
    tcp->flags |= CR__TCP_SOFT;
}

void cr__tcp_error(struct cr__host *host, const struct cr__ip_error *error)
{
    int local = cr__tcp_local(host, &error->from);
    if (error->transport_bytes < 8 || local < 0)
        return;
    struct cr__tcp_name name = {
        .peer = error->to,
        .local_port = cr__wire_get16(error->transport),
        .peer_port = cr__wire_get16(error->transport + 2),
        .local = (uint8_t)local,
    };
    uint32_t handle = cr__tcp_find(host->tcp, host, &name), seq = cr__wire_get32(error->transport + 4);
    if (!handle || (handle & 3u) != CR__KIND_CONN)
        return;
    struct cr__tcp *tcp = cr__mem_at(handle);
    if (cr__seq_before(seq, tcp->snd_una) || !cr__seq_before(seq, tcp->snd_nxt)) {
        cr__host_count(host, CR__DROP_TCP_WINDOW);
        return;
    }
    if (error->trouble == CR__TOO_BIG)
        too_big(tcp, error->mtu_bytes);
    else
        unreachable(tcp, errno_of(error->trouble), error->found);
    cr__tcp_finish(tcp);
}
