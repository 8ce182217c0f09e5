/* pcap:FILE,LINK records what passes through LINK, both ways; pcap:FILE replays a recording.
 *
 * The format is libpcap's classic one (pcap-savefile(5)), written with timestamps in nanoseconds; read with either kind of timestamp, in either order of bytes. (pcapng is not read.) Written here, and not by libpcap: that is 24 bytes
 * before all frames and 16 before each, and its calls go through stdio, which writes when it likes, on the coroutine's stack.
 *
 * Recording. Records gather in a buffer that goes to the file when it is nearly full, a second after the last time (when somebody calls, or waits), and when the link is closed. What send was offered and the inner link did not take is taken back out of the
 * buffer; so before a burst there must be room for all of it. A checksum that was left out (CR_PACKET_CHECKED: the other end need not know of the recording) is filled in in the record. If the file can't be written to, recording ends, which is
 * said on standard error, and the link goes on.
 *
 * Time is the link's clock, moved by what lies between that and the time of day when recording begins; in virtual time, as it is. */
#include <string.h>

#include "net/link/kinds.h"
#include "obs/obs.h"
#include "os/os.h"

#define MAGIC_NS 0xa1b23c4du
#define MAGIC_US 0xa1b2c3d4u
#define SNAP_BYTES 262144u
#define TYPE_ETHERNET 1u
#define FILE_HEAD_BYTES CR__PCAP_HEAD_BYTES
#define RECORD_HEAD_BYTES 16
#define RECORD_MOST_BYTES CR__PCAP_RECORD_MOST_BYTES
_Static_assert(RECORD_MOST_BYTES == RECORD_HEAD_BYTES + CR_PACKET_ROOM_BYTES, "the head, and the longest frame");
#define BUFFER_BYTES ((size_t)256 << 10)
#define WRITE_EVERY_NS 1000000000ll
#define PATH_MOST 255
_Static_assert(CR_LINK_BURST * RECORD_MOST_BYTES <= BUFFER_BYTES / 2, "a burst fits");

struct pcap {
    struct cr_link link;
    struct cr_link *inner; /* NULL: replays */
    int fd;
    bool begun;            /* offset_ns is known */
    bool ended;            /* the file is at its end, or cannot be written to */
    int64_t offset_ns;     /* from the link's clock to the file's */
    size_t used;           /* of the buffer: what is to be written; or what has been read, */
    size_t at;             /* and this far used */
    int64_t written_ns;
    /* replaying */
    bool swapped, micro;   /* how the file says numbers, and time */
    bool have_next;        /* next_ns and next_bytes are of a record whose frame is to be read next */
    int64_t next_ns;
    uint32_t next_bytes, next_whole_bytes;
    unsigned char buffer[BUFFER_BYTES];
};

static struct pcap *pcap_of(const struct cr_link *link)
{
    return CR__CONTAINER(link, struct pcap, link);
}

static void pcap_free(struct pcap *pcap)
{
    if (pcap->fd >= 0)
        cr__os_close(pcap->fd);
    cr__mem_unmap(pcap, sizeof(*pcap), CR__MEM_OTHER);
}

/* ---- Recording: what is left out ------------------------------------------------------------------------------ */

/* Addresses, and all that follows the header of IP; at: TCP's or UDP's header. */
static void fill_transport(unsigned char *at, size_t size_bytes, const unsigned char *addresses, size_t addresses_bytes, unsigned protocol)
{
    size_t field = protocol == 6 ? 16 : 6;
    if ((protocol != 6 && protocol != 17) || size_bytes < field + 2)
        return;
    memset(at + field, 0, 2);
    uint32_t sum = cr__wire_sum((uint32_t)protocol + (uint32_t)size_bytes, addresses, addresses_bytes);
    uint16_t checksum = cr__wire_checksum(cr__wire_sum(sum, at, size_bytes));
    cr__wire_put16(at + field, protocol == 17 && checksum == 0 ? 0xffff : checksum);
}

/* Of a frame of IPv4, or IPv6 without extensions; of another one nothing is left out. A fragment stays as it is: UDP's checksum over all of the datagram was left out before it was cut, and 0 says so. */
static void fill_checksum(unsigned char *frame, size_t size_bytes)
{
    unsigned char *ip = frame + CR__ETHERNET_BYTES;
    if (size_bytes < CR__ETHERNET_BYTES + 20)
        return;
    size_t rest = size_bytes - CR__ETHERNET_BYTES;
    unsigned type = cr__wire_get16(frame + 12);
    if (type == 0x0800) {
        size_t head = (ip[0] & 15u) * 4, whole = cr__wire_get16(ip + 2);
        bool fragment = (cr__wire_get16(ip + 6) & (CR__IP4_MORE | CR__IP4_OFFSET)) != 0;
        if (head >= 20 && whole >= head && whole <= rest && !fragment)
            fill_transport(ip + head, whole - head, ip + 12, 8, ip[9]);
    } else if (type == 0x86dd && rest >= 40 && cr__wire_get16(ip + 4) <= rest - 40) {
        fill_transport(ip + 40, cr__wire_get16(ip + 4), ip + 8, 32, ip[6]);
    }
}

/* ---- The format ----------------------------------------------------------------------------------------------- */

void cr__pcap_head(unsigned char *at)
{
    struct {
        uint32_t magic;
        uint16_t major, minor;
        uint32_t zone, accuracy, snap, type;
    } head = {MAGIC_NS, 2, 4, 0, 0, SNAP_BYTES, TYPE_ETHERNET};
    _Static_assert(sizeof(head) == FILE_HEAD_BYTES, "as it is in the file");
    memcpy(at, &head, sizeof(head));
}

size_t cr__pcap_record(unsigned char *at, const struct cr_packet *packet, uint64_t stamp_ns)
{
    uint32_t head[4] = {(uint32_t)(stamp_ns / 1000000000), (uint32_t)(stamp_ns % 1000000000), packet->size_bytes, packet->size_bytes};
    _Static_assert(sizeof(head) == RECORD_HEAD_BYTES, "as it is in the file");
    memcpy(at, head, sizeof(head));
    memcpy(at + sizeof(head), packet->data, packet->size_bytes);
    if (packet->flags & CR_PACKET_CHECKED)
        fill_checksum(at + sizeof(head), packet->size_bytes);
    return sizeof(head) + packet->size_bytes;
}

/* ---- Recording ------------------------------------------------------------------------------------------------ */

static int write_all(int fd, const unsigned char *bytes, size_t size_bytes)
{
    for (size_t done = 0; done < size_bytes;) {
        ssize_t n = cr__os_write(fd, bytes + done, size_bytes - done);
        if (n <= 0 && n != -EINTR)
            return n < 0 ? (int)n : -EIO;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static void write_out(struct pcap *pcap, int64_t now_ns)
{
    int r = pcap->ended ? 0 : write_all(pcap->fd, pcap->buffer, pcap->used);
    pcap->used = 0;
    pcap->written_ns = now_ns;
    if (r == 0)
        return;
    pcap->ended = true;
    cr__report(STDERR_FILENO, "crore: recording of %s ends: %s\n", pcap->link.told.name, strerrordesc_np(-r));
}

/* Before a burst. Returns what time it is. */
static int64_t make_room(struct pcap *pcap)
{
    int64_t now_ns = pcap->link.now_ns(&pcap->link);
    if (!pcap->begun) {
        pcap->begun = true;
        pcap->offset_ns = pcap->link.worker ? cr__os_wall_ns() - now_ns : 0;
        pcap->written_ns = now_ns;
    }
    if (pcap->used > BUFFER_BYTES / 2 || (pcap->used > 0 && now_ns - pcap->written_ns >= WRITE_EVERY_NS))
        write_out(pcap, now_ns);
    return now_ns;
}

static void record(struct pcap *pcap, const struct cr_packet *packet, int64_t now_ns)
{
    pcap->used += cr__pcap_record(pcap->buffer + pcap->used, packet, (uint64_t)(now_ns + pcap->offset_ns));
}

static int record_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    struct pcap *pcap = pcap_of(link);
    int64_t now_ns = make_room(pcap);
    size_t begun = pcap->used;
    uint16_t sizes[CR_LINK_BURST];
    count = count < CR_LINK_BURST ? count : CR_LINK_BURST;
    for (int i = 0; i < count; i++) {
        sizes[i] = packets[i]->size_bytes;
        record(pcap, packets[i], now_ns);
    }
    int n = pcap->inner->ops->send(pcap->inner, packets, count);
    pcap->used = begun;
    for (int i = 0; i < n; i++)
        pcap->used += RECORD_HEAD_BYTES + (size_t)sizes[i];
    link->told.sent += (unsigned)n;
    return n;
}

static int record_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    struct pcap *pcap = pcap_of(link);
    int n = pcap->inner->ops->recv(pcap->inner, packets, most < CR_LINK_BURST ? most : CR_LINK_BURST);
    int64_t now_ns = make_room(pcap);
    for (int i = 0; i < n; i++)
        record(pcap, packets[i], now_ns);
    link->told.received += (unsigned)n;
    return n;
}

static bool record_arm(struct cr_link *link)
{
    struct pcap *pcap = pcap_of(link);
    make_room(pcap);
    return pcap->inner->ops->arm(pcap->inner);
}

/* In virtual time nobody waits to read along. */
static int64_t record_due_ns(const struct cr_link *link)
{
    const struct pcap *pcap = pcap_of(link);
    int64_t inner_ns = pcap->inner->ops->due_ns(pcap->inner), write_ns = pcap->written_ns + WRITE_EVERY_NS;
    return link->worker && pcap->used > 0 && write_ns < inner_ns ? write_ns : inner_ns;
}

static void record_info(const struct cr_link *link, struct cr_link_info *out)
{
    struct cr_link_info inner;
    const struct pcap *pcap = pcap_of(link);
    pcap->inner->ops->info(pcap->inner, &inner);
    *out = link->told;
    out->up = inner.up;
    out->flags |= inner.flags & CR_LINK_OVER;
    out->sent = inner.sent;
    out->dropped = inner.dropped;
}

static void record_close(struct cr_link *link)
{
    struct pcap *pcap = pcap_of(link);
    write_out(pcap, pcap->written_ns);
    cr__link_close(pcap->inner);
    cr__packet_flush(&link->own_packets);
    pcap_free(pcap);
}

static const struct cr__link_ops record_ops = {
    .recv = record_recv,
    .send = record_send,
    .arm = record_arm,
    .due_ns = record_due_ns,
    .info = record_info,
    .close = record_close,
};

/* ---- Replaying ------------------------------------------------------------------------------------------------ */

/* The next bytes of the file; to NULL: they are passed over. False: there are not as many. */
static bool read_bytes(struct pcap *pcap, void *to, size_t size_bytes)
{
    while (size_bytes > 0) {
        if (pcap->at == pcap->used) {
            ssize_t n = cr__os_read(pcap->fd, pcap->buffer, BUFFER_BYTES);
            if (n <= 0)
                return false;
            pcap->at = 0;
            pcap->used = (size_t)n;
        }
        size_t part = pcap->used - pcap->at < size_bytes ? pcap->used - pcap->at : size_bytes;
        if (to) {
            memcpy(to, pcap->buffer + pcap->at, part);
            to = (char *)to + part;
        }
        pcap->at += part;
        size_bytes -= part;
    }
    return true;
}

static uint32_t number_in(const struct pcap *pcap, uint32_t word)
{
    return pcap->swapped ? __builtin_bswap32(word) : word;
}

static void end_in_the_middle(struct pcap *pcap, const char *why)
{
    pcap->ended = true;
    cr__report(STDERR_FILENO, "crore: replaying %s ends: %s\n", pcap->link.told.name, why);
}

/* Looks at the head of the next record. What is wrong with it ends the file. */
static void look_ahead(struct pcap *pcap)
{
    uint32_t head[4];
    if (pcap->have_next || pcap->ended)
        return;
    pcap->ended = !read_bytes(pcap, head, sizeof(head));
    if (!pcap->ended && number_in(pcap, head[2]) > SNAP_BYTES)
        end_in_the_middle(pcap, "a record says that it is longer than any");
    if (pcap->ended)
        return;
    int64_t stamp_ns = (int64_t)number_in(pcap, head[0]) * 1000000000 + (int64_t)number_in(pcap, head[1]) * (pcap->micro ? 1000 : 1);
    if (!pcap->begun) {
        pcap->begun = true;
        pcap->offset_ns = stamp_ns - pcap->link.now_ns(&pcap->link);
    }
    int64_t due_ns;
    if (__builtin_sub_overflow(stamp_ns, pcap->offset_ns, &due_ns)) {
        end_in_the_middle(pcap, "a record says that it is of later than there is time");
        return;
    }
    pcap->next_ns = due_ns > pcap->next_ns ? due_ns : pcap->next_ns; /* in order, whatever it says */
    pcap->next_bytes = number_in(pcap, head[2]);
    pcap->next_whole_bytes = number_in(pcap, head[3]);
    pcap->have_next = true;
}

static bool is_due(struct pcap *pcap)
{
    look_ahead(pcap);
    return pcap->have_next && pcap->next_ns <= pcap->link.now_ns(&pcap->link);
}

/* The frame of the record that has been looked at. NULL: it has been dropped: too long, recorded in part, or there is no packet left. */
static struct cr_packet *take_next(struct pcap *pcap)
{
    struct cr_packet *packet = NULL;
    pcap->have_next = false;
    if (pcap->next_bytes <= CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES && pcap->next_bytes == pcap->next_whole_bytes)
        packet = cr__packet_get(pcap->link.packets);
    if (packet)
        packet->size_bytes = (uint16_t)pcap->next_bytes;
    if (packet && read_bytes(pcap, packet->data, pcap->next_bytes))
        return packet;
    if (packet || !read_bytes(pcap, NULL, pcap->next_bytes))
        end_in_the_middle(pcap, "a record is cut short");
    cr__link_drop(&pcap->link, packet);
    return NULL;
}

static int replay_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    struct pcap *pcap = pcap_of(link);
    int n = 0;
    for (int looked = 0; looked < most && is_due(pcap); looked++) { /* of the dropped ones, too, no more at once */
        packets[n] = take_next(pcap);
        n += packets[n] != NULL;
    }
    link->told.received += (unsigned)n;
    return n;
}

static int replay_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    for (int i = 0; i < count; i++)
        cr__link_drop(link, packets[i]);
    return count;
}

static bool replay_arm(struct cr_link *link)
{
    return is_due(pcap_of(link));
}

static int64_t replay_due_ns(const struct cr_link *link)
{
    struct pcap *pcap = pcap_of(link);
    look_ahead(pcap);
    return pcap->have_next ? pcap->next_ns : INT64_MAX;
}

static void replay_info(const struct cr_link *link, struct cr_link_info *out)
{
    struct pcap *pcap = pcap_of(link);
    look_ahead(pcap);
    *out = link->told;
    out->up = !pcap->ended;
    out->flags |= pcap->ended ? CR_LINK_OVER : 0;
}

static void replay_close(struct cr_link *link)
{
    cr__packet_flush(&link->own_packets);
    pcap_free(pcap_of(link));
}

static const struct cr__link_ops replay_ops = {
    .recv = replay_recv,
    .send = replay_send,
    .arm = replay_arm,
    .due_ns = replay_due_ns,
    .info = replay_info,
    .close = replay_close,
};

/* ---- Opening --------------------------------------------------------------------------------------------------- */

/* The inner link first: a file is not overwritten for nothing. */
static int begin_recording(struct pcap *pcap, const char *path, const char *spec)
{
    unsigned char head[FILE_HEAD_BYTES];
    int r = cr__link_open(&pcap->inner, spec, pcap->link.worker);
    if (r < 0)
        return r;
    cr__link_wrap(&pcap->link, pcap->inner);
    cr__pcap_head(head);
    pcap->fd = cr__os_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    r = pcap->fd < 0 ? pcap->fd : write_all(pcap->fd, head, sizeof(head));
    if (r < 0)
        cr__link_close(pcap->inner);
    return r;
}

static int begin_replay(struct pcap *pcap, const char *path)
{
    uint32_t head[FILE_HEAD_BYTES / 4];
    pcap->fd = cr__os_open(path, O_RDONLY, 0);
    if (pcap->fd < 0)
        return pcap->fd;
    if (!read_bytes(pcap, head, sizeof(head)))
        return -EINVAL;
    pcap->swapped = head[0] == __builtin_bswap32(MAGIC_NS) || head[0] == __builtin_bswap32(MAGIC_US);
    uint32_t magic = number_in(pcap, head[0]);
    pcap->micro = magic == MAGIC_US;
    if ((magic != MAGIC_NS && magic != MAGIC_US) || (number_in(pcap, head[5]) & 0xffff) != TYPE_ETHERNET)
        return -EINVAL;
    pcap->link.told.mtu_bytes = CR__LINK_MTU_DEFAULT;
    pcap->next_ns = INT64_MIN;
    cr__link_address(pcap->link.told.address, path, 0);
    return 0;
}

static struct pcap *pcap_make(const struct cr__link_ops *ops, struct cr__worker *worker)
{
    struct pcap *pcap = cr__mem_map(sizeof(*pcap), CR__MEM_OTHER);
    if (!pcap)
        return NULL;
    cr__link_begin(&pcap->link, ops, worker);
    pcap->fd = -1;
    return pcap;
}

int cr__link_pcap_open(struct cr_link **out, const char *text, struct cr__worker *worker)
{
    char path[PATH_MOST + 1];
    size_t length = strcspn(text, ",");
    bool records = text[length] == ',';
    if (length == 0 || length > PATH_MOST)
        return -EINVAL;
    memcpy(path, text, length);
    path[length] = '\0';
    struct pcap *pcap = pcap_make(records ? &record_ops : &replay_ops, worker);
    if (!pcap)
        return -ENOMEM;
    int r = records ? begin_recording(pcap, path, text + length + 1) : begin_replay(pcap, path);
    if (r < 0) {
        pcap_free(pcap);
        return r;
    }
    *out = &pcap->link;
    return 0;
}

const char *cr__link_pcap_wrong(const char *text)
{
    size_t length = strcspn(text, ",");
    if (length == 0)
        return "it names no file";
    if (length > PATH_MOST)
        return "its file's name is too long";
    return text[length] ? cr__link_wrong(text + length + 1) : "its file is no recording of Ethernet frames, and no link follows that it could record";
}
