/* Captures of what tests have on the wire, for whoever wants to look at it with Wireshark, and for e2e/tshark_test.py:
 *
 *     CR_PCAP=DIR tests/net_tcp_test      DIR/tcp-TEST.pcap, and TEST-2, TEST-3 ... where a test begins anew
 *
 * The first frames of both sides, as they leave, so before a line that is bad on purpose has done anything to them, in virtual time. Nothing is written without CR_PCAP. */
#ifndef CR_TEST_CAPTURE_H
#define CR_TEST_CAPTURE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/link/kinds.h"
#include "test.h"

#define CAPTURE_MOST_FRAMES 2000u /* of a file: some tests send for minutes */

static struct {
    FILE *file;
    unsigned frames;
    unsigned number; /* of the test's files, from 1 on; 0: it has not begun any */
} capture;

static inline const char *capture_folder(void)
{
    static const char *folder;
    static bool looked; /* once: this is asked of each frame */
    if (!looked)
        folder = getenv("CR_PCAP");
    looked = true;
    return folder && *folder ? folder : NULL;
}

/* What comes from here on is another world's: a file of its own, where there is anything to be in it. */
static inline void capture_begin(void)
{
    if (capture.file)
        fclose(capture.file);
    capture.file = NULL;
    capture.frames = 0;
    capture.number++;
}

/* Of the file that is being begun, or would be by capture_begin; size: of text. False: there are to be no captures. */
static inline bool capture_path(char *text, size_t size)
{
    const char *folder = capture_folder(), *program = program_invocation_short_name;
    if (!folder)
        return false;
    program = strncmp(program, "net_", 4) == 0 ? program + 4 : program;
    char more[16] = "";
    if (capture.number > 1)
        snprintf(more, sizeof(more), "-%u", capture.number);
    int n = snprintf(text, size, "%s/%.*s-%s%s.pcap", folder, (int)strcspn(program, "_"), program, test_current->name, more);
    CHECK(n > 0 && (size_t)n < size);
    return true;
}

static inline bool capture_open(void)
{
    char path[512];
    unsigned char head[CR__PCAP_HEAD_BYTES];
    if (capture.file || !capture_path(path, sizeof(path)))
        return capture.file != NULL;
    capture.file = fopen(path, "w");
    if (!capture.file) {
        printf("# %s: %s\n", path, strerror(errno));
        test_fail(__FILE__, __LINE__, "the capture can be written");
    }
    cr__pcap_head(head);
    setvbuf(capture.file, NULL, _IONBF, 0); /* also of a test that crashes */
    fwrite(head, 1, sizeof(head), capture.file);
    return true;
}

/* A frame leaves. */
static inline void capture_frame(const struct cr_packet *frame, int64_t now_ns)
{
    unsigned char record[CR__PCAP_RECORD_MOST_BYTES];
    if (capture.frames >= CAPTURE_MOST_FRAMES || !capture_open())
        return;
    fwrite(record, 1, cr__pcap_record(record, frame, (uint64_t)now_ns), capture.file);
    capture.frames++;
}

/* For addresses: a number of the test that is running, so that captures of several may be read as one, in which each has connections of its own. 0 where there are none. */
static inline unsigned capture_net(void)
{
    static unsigned number;
    static const struct test *of;
    if (!capture_folder() || of == test_current)
        return number;
    number = 1;
    of = test_current;
    for (const struct test *test = test_first; test != of; test = test->next)
        number++;
    return number;
}

#endif
