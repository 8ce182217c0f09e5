/* The parsers that are functions of bytes, or of text, alone; and recordings. Each is given a copy of exactly the input's size, so that a look beyond it is seen. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "net/link/link.h"
#include "net/socket/socket.h"
#include "net/tcp/tcp.h"
#include "net/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const uint8_t *bytes, size_t size)
{
    struct cr__walk at = {.next = bytes[6], .at = 40, .next_at = 6};
    enum cr__walk_end end = cr__wire_walk(&at, bytes, size);
    if (end != CR__WALK_DROP && at.at > size)
        abort();
}

static void parse_bytes(unsigned which, const uint8_t *bytes, size_t size)
{
    struct cr__segment segment;
    bool malformed;
    switch (which) {
    case 0:
        if (cr__segment_parse(&segment, bytes, size) == 0 && (segment.payload_bytes > size - 20 || segment.scale > 14 || segment.sack_count > CR__SACK_BLOCKS))
            abort();
        break;
    case 1:
        if (size >= 40)
            walk(bytes, size);
        break;
    case 2:
        (void)cr__wire_options(bytes, size > 40 ? 40 : size);
        break;
    default:
        (void)cr__wire_ndp_option(bytes, size, CR__NDP_SOURCE_ADDRESS, &malformed);
        break;
    }
}

/* The line of text that opens a network. */
static void parse_wish(const char *text)
{
    static struct cr__sched sched;
    static struct cr__worker worker = {.sched = &sched};
    static struct cr__wish wish;
    if (sched.report_fd == 0)
        sched.report_fd = open("/dev/null", O_WRONLY);
    memset(&wish, 0, sizeof(wish));
    int r = cr__wish_parse(&worker, &wish, text);
    if (r != 0 && r != -EINVAL)
        abort();
    if (r == -EINVAL && !cr__link_wrong(text))
        abort();
}

static int64_t now_ns;

static int64_t virtual_now_ns(struct cr_link *link)
{
    (void)link;
    return now_ns;
}

/* A recording is replayed to its end, whatever it holds. */
static void replay(const uint8_t *bytes, size_t size)
{
    static int fd = -1;
    static char spec[64];
    static struct cr__packet_cache cache;
    struct cr_link *link;
    struct cr_packet *packets[CR_LINK_BURST];
    if (fd < 0) {
        fd = memfd_create("recording", 0);
        snprintf(spec, sizeof(spec), "pcap:/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size || cr__link_open(&link, spec, NULL) != 0)
        return;
    link->now_ns = virtual_now_ns;
    now_ns = 0;
    for (size_t bursts = 0;; bursts++) {
        struct cr_link_info info;
        int n = link->ops->recv(link, packets, CR_LINK_BURST);
        for (int i = 0; i < n; i++)
            cr__packet_put(&cache, packets[i]);
        cr_link_info_get(link, &info);
        if (info.flags & CR_LINK_OVER)
            break;
        int64_t due_ns = link->ops->due_ns(link);
        now_ns = due_ns != INT64_MAX && due_ns > now_ns ? due_ns : now_ns;
        if (bursts > size / 16 + 1)
            abort(); /* a record has a head of 16 bytes */
    }
    cr__link_close(link);
}

static void parse_text(unsigned which, const uint8_t *bytes, size_t size)
{
    struct cr__url url;
    char *text = malloc(size + 1);
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (which == 0)
        (void)cr__url_parse(&url, text);
    else if (which == 1)
        (void)cr__url_parse_authority(&url, text, size % 2);
    else
        parse_wish(text);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    uint8_t *bytes = malloc(size - 1 + (size == 1));
    memcpy(bytes, data + 1, size - 1);
    unsigned which = data[0] % 4;
    if (data[0] < 0x80)
        parse_bytes(which, bytes, size - 1);
    else if (which < 3)
        parse_text(which, bytes, size - 1);
    else
        replay(bytes, size - 1);
    free(bytes);
    return 0;
}
