/* What link.c and the kinds of links want of each other: within the room, but for the lanes of a network on all workers, which are a kind of link, too (net/socket/spread.c). */
#ifndef CR__LINK_KINDS_H
#define CR__LINK_KINDS_H

#include "mem/mem.h"
#include "net/link/link.h"
#include "net/wire/wire.h"

#define CR__LINK_MTU_DEFAULT 1500
#define CR__LINK_MTU_LEAST 68 /* IPv4's (RFC 791) */
#define CR__LINK_MTU_MOST (CR_PACKET_ROOM_BYTES - CR__ETHERNET_BYTES)
#define CR__LINK_NAME_MOST 63

/* Each opens what its specification says behind the colon. 0 or -errno, and then nothing is left. */
int cr__link_mem_open(struct cr_link **out, const char *text, struct cr__worker *worker);
int cr__link_shm_open(struct cr_link **out, const char *text, struct cr__worker *worker);
int cr__link_pcap_open(struct cr_link **out, const char *text, struct cr__worker *worker);
int cr__link_impair_open(struct cr_link **out, const char *text, struct cr__worker *worker);

/* What is wrong with such a text, which open has refused. */
const char *cr__link_name_wrong(const char *text);
const char *cr__link_pcap_wrong(const char *text);
const char *cr__link_impair_wrong(const char *text);

/* What a kind calls for a new link: it is in zeroed memory. */
void cr__link_begin(struct cr_link *link, const struct cr__link_ops *ops, struct cr__worker *worker);

/* What outer says of itself is what inner does, without CR_LINK_NO_CHECKSUMS; inner goes by outer's clock, and what it has to tell is told to outer's `ready`. */
void cr__link_wrap(struct cr_link *outer, struct cr_link *inner);

/* An address for an end of what several know by that name: `side` tells them apart. */
void cr__link_address(unsigned char address[6], const char *name, unsigned side);

/* Splits NAME?mtu=N; name has room for most + 1 bytes. 0; -EINVAL: no name, one that does not fit, another option, an MTU that cannot be. */
int cr__link_name_parse(const char *text, char *name, size_t most, uint16_t *mtu_bytes);

/* What a recording begins with, and what stands there for a frame, with the checksum filled in that was left out (CR_PACKET_CHECKED): its length. Tests write with them, too. */
#define CR__PCAP_HEAD_BYTES 24
#define CR__PCAP_RECORD_MOST_BYTES (16 + CR_PACKET_ROOM_BYTES)
void cr__pcap_head(unsigned char *at);
size_t cr__pcap_record(unsigned char *at, const struct cr_packet *packet, uint64_t stamp_ns);

/* Puts packets that nobody will see, and counts them. */
static inline void cr__link_drop(struct cr_link *link, struct cr_packet *packet)
{
    cr__packet_put(link->packets, packet);
    link->told.dropped++;
}

/* Of a packet that goes away for good: itself, if that is the only reference, else a copy in its place. NULL: it is no frame of the link's, or there is no packet left; then it has
 * been dropped. */
static inline struct cr_packet *cr__link_take(struct cr_link *link, struct cr_packet *packet)
{
    struct cr_packet *mine = packet;
    if (CR__UNLIKELY(packet->size_bytes > link->told.mtu_bytes + CR__ETHERNET_BYTES)) {
        mine = NULL;
    } else if (packet->_references > 1) {
        mine = cr__packet_copy(link->packets, packet);
        if (mine)
            cr__packet_put(link->packets, packet);
    }
    if (CR__UNLIKELY(!mine))
        cr__link_drop(link, packet);
    return mine;
}

#endif
