/* What has happened in a run under a seed: a number made of it, and a text for people, a line per turn, if CR_SIM_TRACE names a file:
 *
 *     # seed 7
 *     3600000001873 1 begins in app       coroutine 1 gets its first turn,
 *     3600000004511 2                     coroutine 2 goes on,
 *     3600000004511 - until 3600001005568 and nothing happens until then
 *     # ends with 0, trace 5be0cd19137e2179
 *
 * Two of them are compared with diff. Two runs of one process write to the file one after the other. */
#include "sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "obs/obs.h"
#include "os/os.h"

#define LINE_BYTES 256

/* Each number moves all bits of what follows. */
static void mix(struct cr__trace *trace, uint64_t number)
{
    struct cr__draws draws = {trace->hash ^ number};
    trace->hash = cr__draw(&draws);
}

void cr__trace_flush(struct cr__trace *trace)
{
    size_t used = trace->used;
    trace->used = 0;
    for (size_t sent = 0; trace->fd >= 0 && sent < used;) {
        ssize_t n = cr__os_write(trace->fd, trace->text + sent, used - sent);
        if (n <= 0 && n != -EINTR)
            return; /* nobody can be told: the run goes on */
        sent += n > 0 ? (size_t)n : 0;
    }
}

static CR__COLD void line(struct cr__trace *trace, const char *format, ...) CR__PRINTF(2, 3);

static void line(struct cr__trace *trace, const char *format, ...)
{
    if (trace->used + LINE_BYTES > sizeof(trace->text))
        cr__trace_flush(trace);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(trace->text + trace->used, LINE_BYTES, format, args);
    va_end(args);
    trace->used += length < 0 ? 0 : length < LINE_BYTES ? (size_t)length : LINE_BYTES - 1;
}

int cr__trace_open(struct cr__trace *trace, uint64_t seed, int report_fd)
{
    static bool begun; /* the file, by an earlier run of this process */
    const char *path = getenv("CR_SIM_TRACE");
    trace->hash = trace->used = 0;
    trace->fd = -1;
    mix(trace, seed);
    if (!path || !*path)
        return 0;
    int fd = cr__os_open(path, O_WRONLY | O_CREAT | (begun ? O_APPEND : O_TRUNC), 0666);
    if (fd < 0) {
        cr__report(report_fd, "crore: CR_SIM_TRACE=%s: can't be written to (error %d)\n", path, -fd);
        return fd;
    }
    begun = true;
    trace->fd = fd;
    line(trace, "# seed %llu\n", (unsigned long long)seed);
    return 0;
}

void cr__trace_turn(struct cr__trace *trace, int64_t now_ns, uint32_t id, void *begins)
{
    mix(trace, (uint64_t)now_ns);
    mix(trace, id);
    if (CR__LIKELY(trace->fd < 0))
        return;
    char function[LINE_BYTES / 2];
    if (begins)
        line(trace, "%lld %u begins in %s\n", (long long)now_ns, id, cr__symbol_of(begins, function, sizeof(function)));
    else
        line(trace, "%lld %u\n", (long long)now_ns, id);
}

void cr__trace_pass(struct cr__trace *trace, int64_t now_ns, int64_t until_ns)
{
    mix(trace, (uint64_t)until_ns);
    if (trace->fd >= 0)
        line(trace, "%lld - until %lld\n", (long long)now_ns, (long long)until_ns);
}

void cr__trace_close(struct cr__trace *trace, int result)
{
    if (trace->fd < 0)
        return;
    line(trace, "# ends with %d, trace %016llx\n", result, (unsigned long long)trace->hash);
    cr__trace_flush(trace);
    cr__os_close(trace->fd);
    trace->fd = -1;
}
