/* Handles packets itself: answers pings of both families, and who asks for the Ethernet address of its addresses (ARP, NDP); counts what it sees.
 *     packets LINK IPV4 IPV6     as in: packets shm:/tmp/wire 10.0.0.1 fd00::1, with a network at the other end; or packets pcap:out.pcap,pcap:in.pcap ..., for what was recorded */
#include <arpa/inet.h>
#include <crore/crore.h>
#include <stdio.h>
#include <string.h>

static struct cr_link_info info;
static unsigned char ours4[4], ours6[16];
static unsigned long seen, asked, pinged;

/* Puts words there, and has the checksum at `sum` follow (RFC 1624, modulo 65535). */
static void put(unsigned char *at, const void *words, size_t size_bytes, unsigned char *sum)
{
    uint32_t all = (uint32_t)(sum[0] << 8 | sum[1]);
    for (size_t i = 0; i < size_bytes; i++)
        all += (255u + at[i] - ((const unsigned char *)words)[i]) << (i % 2 ? 0 : 8);
    memcpy(at, words, size_bytes);
    memcpy(sum, &(uint16_t){htons((uint16_t)(all % 65535))}, 2);
}

/* Makes the frame its own answer: of ARP or IP, which begin at byte 14, then of Ethernet. Returns whether there is one. */
static int answer(unsigned char *frame, size_t size_bytes)
{
    unsigned char *ip = frame + 14, *icmp4 = ip + 20, *icmp6 = ip + 40, *sum6 = icmp6 + 2;
    int arp = size_bytes >= 42 && memcmp(frame + 12, "\x08\x06\0\x01\x08\0\x06\x04\0\x01", 10) == 0 && memcmp(ip + 24, ours4, 4) == 0;
    int ping4 = size_bytes >= 42 && memcmp(frame + 12, "\x08\0\x45", 3) == 0 && ip[9] == 1 && icmp4[0] == 8 && memcmp(ip + 16, ours4, 4) == 0;
    int ping6 = size_bytes >= 62 && memcmp(frame + 12, "\x86\xdd", 2) == 0 && ip[6] == 58 && icmp6[0] == 128 && memcmp(ip + 24, ours6, 16) == 0;
    int ask6 = size_bytes >= 86 && memcmp(frame + 12, "\x86\xdd", 2) == 0 && ip[6] == 58 && icmp6[0] == 135 && memcmp(icmp6 + 8, ours6, 16) == 0;
    if (arp) {
        ip[7] = 2;
        memcpy(ip + 18, ip + 8, 10); /* to who asked */
        memcpy(ip + 8, info.address, 6);
        memcpy(ip + 14, ours4, 4);
    } else if (ping4) {
        put(icmp4, "\0", 2, icmp4 + 2);
        memcpy(ip + 16, ip + 12, 4);
        memcpy(ip + 12, ours4, 4);
    } else if (ping6 || ask6) {
        put(icmp6, ping6 ? "\x81" : "\x88", 2, sum6);
        put(ip + 24, ip + 8, 16, sum6);
        put(ip + 8, ours6, 16, sum6);
    }
    if (ask6) { /* an advertisement, solicited, with our address in place of theirs */
        put(icmp6 + 4, "\x60", 2, sum6);
        put(icmp6 + 24, "\x02\x01", 2, sum6);
        put(icmp6 + 26, info.address, 6, sum6);
    }
    asked += arp || ask6;
    pinged += ping4 || ping6;
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, info.address, 6);
    return arp || ping4 || ping6 || ask6;
}

static void app(void *spec)
{
    struct cr_link *link;
    struct cr_packet *packets[CR_LINK_BURST];
    int r = cr_link_open(&link, spec);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", (char *)spec, strerror(-r));
        return;
    }
    cr_link_info_get(link, &info);
    for (info.up = true; info.up && cr_link_wait(link) == 0; cr_link_info_get(link, &info)) { /* until the other end has gone, or the recording is over */
        int n = cr_link_recv(link, packets, CR_LINK_BURST);
        for (int i = 0; i < n; i++, seen++) {
            if (!answer(packets[i]->data, packets[i]->size_bytes) || cr_link_send(link, &packets[i], 1) != 1)
                cr_packet_put(packets[i]);
        }
        fprintf(stderr, "\rseen %lu, asked for our addresses %lu times, pinged %lu times", seen, asked, pinged);
    }
    cr_link_close(link);
}

int main(int argc, char **argv)
{
    if (argc == 4 && inet_pton(AF_INET, argv[2], ours4) == 1 && inet_pton(AF_INET6, argv[3], ours6) == 1)
        return cr_run(app, argv[1], NULL) < 0;
    fprintf(stderr, "packets LINK IPV4 IPV6\n");
    return 2;
}
