/* What the tests of links share: a clock and a cache of their own, frames that say their numbers, recordings. */
#ifndef LINKS_H
#define LINKS_H

#include "net/link/link.h"
#include "test.h"

#include <crore/crore.h>

static int64_t now_ns = 1000000000;
static struct cr__packet_cache cache;

static inline int64_t virtual_now_ns(struct cr_link *link)
{
    (void)link;
    return now_ns;
}

static inline struct cr_link *open_link(const char *spec)
{
    struct cr_link *link = NULL;
    CHECK_EQ(cr__link_open(&link, spec, NULL), 0);
    link->now_ns = virtual_now_ns;
    return link;
}

/* A frame of that many bytes that says its number. */
static inline struct cr_packet *frame(uint32_t number, size_t size_bytes)
{
    struct cr_packet *packet = cr__packet_get(&cache);
    CHECK(packet != NULL);
    memset(packet->data, 0x5a, size_bytes);
    memcpy(packet->data, &number, sizeof(number));
    packet->size_bytes = (uint16_t)size_bytes;
    return packet;
}

static inline uint32_t number_of(const struct cr_packet *packet)
{
    uint32_t number;
    memcpy(&number, packet->data, sizeof(number));
    return number;
}

/* Returns whether it was taken. */
static inline bool sends(struct cr_link *link, struct cr_packet *packet)
{
    int n = link->ops->send(link, &packet, 1);
    CHECK(n == 0 || n == 1);
    return n == 1;
}

/* NULL: nothing. */
static inline struct cr_packet *receives(struct cr_link *link)
{
    struct cr_packet *packet = NULL;
    int n = link->ops->recv(link, &packet, 1);
    CHECK_EQ(n, packet != NULL);
    if (packet)
        CHECK_EQ(packet->_references, 1);
    return packet;
}

/* Receives one, puts it, and returns its number; 0: nothing. */
static inline uint32_t next_number(struct cr_link *link)
{
    struct cr_packet *packet = receives(link);
    uint32_t number = packet ? number_of(packet) : 0;
    cr__packet_put(&cache, packet);
    return number;
}

static inline struct cr_link_info info_of(const struct cr_link *link)
{
    struct cr_link_info info;
    link->ops->info(link, &info);
    return info;
}

static inline void check_none_lost(void)
{
    cr__packet_flush(&cache);
    CHECK_EQ(cr__packets_in_use(), 0);
}

static int ready_count;

static inline void count_ready(struct cr_link *link)
{
    (void)link;
    ready_count++;
}

static inline struct cr_packet *numbered(uint32_t number)
{
    struct cr_packet *packet = cr_packet_get();
    CHECK(packet != NULL);
    memcpy(packet->data, &number, sizeof(number));
    packet->size_bytes = 60;
    return packet;
}

static inline void send_number(struct cr_link *link, uint32_t number)
{
    struct cr_packet *packet = numbered(number);
    int n;
    while ((n = cr_link_send(link, &packet, 1)) == 0)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(n, 1);
}

/* Waits for one, and puts it. */
static inline uint32_t wait_number(struct cr_link *link)
{
    struct cr_packet *packet;
    int n;
    while ((n = cr_link_recv(link, &packet, 1)) == 0)
        CHECK_EQ(cr_link_wait(link), 0);
    CHECK_EQ(n, 1);
    uint32_t number = number_of(packet);
    cr_packet_put(packet);
    return number;
}

static char recording[100];

static inline const char *spec_of(const char *inner)
{
    static char spec[300];
    if (!recording[0])
        snprintf(recording, sizeof(recording), "/tmp/crore-link-test-%d.pcap", (int)getpid());
    snprintf(spec, sizeof(spec), "pcap:%s%s%s", recording, inner ? "," : "", inner ? inner : "");
    return spec;
}

static inline size_t recorded(unsigned char *bytes, size_t most)
{
    FILE *file = fopen(recording, "rb");
    CHECK(file != NULL);
    size_t n = fread(bytes, 1, most, file);
    fclose(file);
    return n;
}

static inline void forget_recording(void)
{
    CHECK_EQ(unlink(recording), 0);
}

static inline void write_recording(const void *bytes, size_t size_bytes)
{
    spec_of(NULL);
    FILE *file = fopen(recording, "wb");
    CHECK(file && fwrite(bytes, 1, size_bytes, file) == size_bytes);
    fclose(file);
}

#endif
