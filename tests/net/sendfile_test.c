/* Files over a network of our own: how they are cut into segments. In virtual time, in which what is held back would be late. */
#include <crore/crore.h>

#include "test.h"

#define RECORDING_MOST (4 << 20)
#define FILE_BYTES (3 * 65536) /* as many pieces, of which none is a multiple of a segment */
#define TIMES 8
#define HEADERS_BYTES (14 + 20 + 32) /* Ethernet, IP, TCP with timestamps */

static struct cr_net *near, *far;
static struct cr_conn *client, *server, *file;
static char recording[64];

static void open_all(void)
{
    static char bytes[FILE_BYTES], spec[256];
    struct cr_listener *l;
    int fd = test_file("/tmp");
    CHECK_EQ(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    CHECK_EQ(cr_conn_from_fd(&file, fd), 0);
    snprintf(recording, sizeof(recording), "/tmp/crore-sendfile-%d.pcap", (int)getpid());
    snprintf(spec, sizeof(spec), "pcap:%s,mem:a addr=10.0.0.1/24 sndbuf=1M", recording);
    CHECK_EQ(cr_net_open(&near, spec), 0);
    CHECK_EQ(cr_net_open(&far, "mem:a addr=10.0.0.2/24"), 0);
    CHECK_EQ(cr_listen(&l, "tcp://10.0.0.2:7", &(struct cr_conn_opts){.net = far}), 0);
    CHECK_EQ(cr_dial(&client, "tcp://10.0.0.2:7", &(struct cr_conn_opts){.net = near}), 0);
    CHECK_EQ(cr_accept(l, &server), 0);
    cr_listener_close(l);
}

static void close_all(void)
{
    cr_close(file), cr_close(client), cr_close(server);
    cr_net_close(near);
    cr_net_close(far);
}

static void receive_all(void)
{
    static char bytes[65536];
    ssize_t n;
    for (ssize_t got = 0; got < FILE_BYTES; got += n)
        CHECK((n = cr_read(server, bytes, sizeof(bytes))) > 0);
}

/* Segments with text (SYNs have options only) from near that are not as long as they may be. */
static int partial_segments(void)
{
    static unsigned char bytes[RECORDING_MOST];
    FILE *in = fopen(recording, "rb");
    CHECK(in != NULL);
    size_t size = fread(bytes, 1, sizeof(bytes), in);
    fclose(in);
    CHECK_EQ(unlink(recording), 0);
    int partial = 0, whole = 0;
    for (size_t at = 24; at < size;) {
        uint32_t frame_bytes;
        memcpy(&frame_bytes, bytes + at + 8, sizeof(frame_bytes));
        const unsigned char *frame = bytes + at + 16;
        bool has_text = frame[12] == 8 && frame[13] == 0 && frame[14 + 9] == 6 && frame[14 + 15] == 1 && !(frame[47] & 2) && frame_bytes > HEADERS_BYTES;
        whole += has_text && frame_bytes == 14 + 1500;
        partial += has_text && frame_bytes < 14 + 1500;
        at += 16 + frame_bytes;
    }
    CHECK(whole >= FILE_BYTES / 1460);
    return partial;
}

static void sends_in_whole_segments(size_t size_bytes)
{
    open_all();
    for (int i = 0; i < TIMES; i++) { /* until the window has room for more than a piece */
        int64_t begun_ns = cr_now();
        CHECK_EQ(cr_sendfile(client, file, 0, size_bytes), FILE_BYTES);
        receive_all();
        CHECK(cr_now() - begun_ns < 150 * CR_MS); /* nothing was held back */
    }
    close_all();
    CHECK_EQ(partial_segments(), TIMES);
}

TEST_CO_CONFIG(a_file_leaves_in_whole_segments_but_for_its_last, (&(struct cr_config){.seed = 1, .slow_ns = -1}))
{
    sends_in_whole_segments(FILE_BYTES);
}

TEST_CO_CONFIG(and_so_does_one_that_ends_before_as_much_has_been_sent_as_was_asked_for, (&(struct cr_config){.seed = 1, .slow_ns = -1}))
{
    sends_in_whole_segments(FILE_BYTES + 1);
}
