/* Packets: buffers that frames arrive in and leave in, from one area of memory that the whole process shares (what AF_XDP calls UMEM), so that none is copied on
 * its way between a link and whoever uses what is in it.
 *
 * A packet is 2,048 bytes: this head, then room. What it carries is [data, data + size_bytes), which may be moved within the room: headers are put in front, and taken off again.
 *
 * One reference is what a packet begins with. Who holds one may read; who holds the only one may write. A packet with more than one stays with its worker; the
 * only one may be handed to another worker. Putting one that is free already, or holding it, ends the program with a line. None of these calls suspends. Getting,
 * putting and copying are for threads of a runtime's workers: elsewhere they end the program with a line, too. */
#ifndef CRORE_PACKET_H
#define CRORE_PACKET_H

#include <crore/api.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CR_PACKET_BYTES 2048
#define CR_PACKET_HEAD_BYTES 64
#define CR_PACKET_ROOM_BYTES (CR_PACKET_BYTES - CR_PACKET_HEAD_BYTES)
#define CR_PACKET_FRONT_BYTES 128 /* of the room, before the data of a fresh one: for headers. 14 of Ethernet, 40 of IPv6, 60 of TCP */

enum cr_packet_flags {
    CR_PACKET_CHECKED = 1u << 0, /* arriving: the checksum of TCP or UDP has been verified; leaving: nobody will look at it, it is left out */
};

struct cr_packet {
    unsigned char *data;
    struct cr_packet *next; /* whose reference it is may chain it */
    uint16_t size_bytes;
    uint16_t flags;         /* of enum cr_packet_flags */
    uint32_t _references;
    uint32_t _index;
    uint32_t _reserved;
    union {                 /* of who holds the only reference, or has brought it into being */
        unsigned char bytes[32];
        uint64_t words[4];
    } own;
};

/* A packet with one reference, no bytes, and CR_PACKET_FRONT_BYTES in front. NULL: as many are in use as there may be (cr_packets_bound). */
CR_API struct cr_packet *cr_packet_get(void);

/* One more reference; returns packet. One less: the last one gives it back. NULL is ignored. */
CR_API struct cr_packet *cr_packet_hold(struct cr_packet *packet);
CR_API void cr_packet_put(struct cr_packet *packet);

/* A packet of its own with the same bytes, at the same place in its room, and the same flags; what is in `own` is not copied. NULL: none left. */
CR_API struct cr_packet *cr_packet_copy(const struct cr_packet *packet);

/* Room in front of the data, and behind it. */
static inline size_t cr_packet_front(const struct cr_packet *packet)
{
    return (size_t)(packet->data - (const unsigned char *)packet) - CR_PACKET_HEAD_BYTES;
}

static inline size_t cr_packet_back(const struct cr_packet *packet)
{
    return CR_PACKET_ROOM_BYTES - cr_packet_front(packet) - packet->size_bytes;
}

/* Puts size_bytes in front: where they begin. There must be room. And takes them off. */
static inline unsigned char *cr_packet_push(struct cr_packet *packet, size_t size_bytes)
{
    packet->data -= size_bytes;
    packet->size_bytes = (uint16_t)(packet->size_bytes + size_bytes);
    return packet->data;
}

static inline void cr_packet_pull(struct cr_packet *packet, size_t size_bytes)
{
    packet->data += size_bytes;
    packet->size_bytes = (uint16_t)(packet->size_bytes - size_bytes);
}

/* How many there may be in the process (of which each worker may keep up to 128 that it does not use): set before the first cr_packet_get, 0 is the default (131,072: 256 MiB of addresses, of which memory takes what was ever used at once). Returns 0, -EBUSY (there is an area already), -EINVAL. Any thread. */
CR_API CR_CHECKED int cr_packets_bound(size_t count);

#ifdef __cplusplus
}
#endif
#endif
