#include "obs/obs.h"

#include <stdarg.h>
#include <stdio.h>

#include "os/os.h"

static void write_whole(int fd, const char *text, size_t size_bytes)
{
    for (size_t sent = 0; sent < size_bytes;) {
        ssize_t n = cr__os_write(fd, text + sent, size_bytes - sent);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads reports there */
        sent += (size_t)n;
    }
}

/* What vsnprintf has written of a text of that length. */
static size_t written(int length, size_t size_bytes)
{
    return length <= 0 ? 0 : (size_t)length < size_bytes ? (size_t)length : size_bytes - 1;
}

void cr__report(int fd, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    write_whole(fd, text, written(length, sizeof(text)));
}

void cr__lines_put(struct cr__lines *lines, const char *format, ...)
{
    size_t room = sizeof(lines->text) - lines->used;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(lines->text + lines->used, room, format, args);
    va_end(args);
    lines->used += (unsigned)written(length, room);
}

void cr__lines_write(const struct cr__lines *lines, int fd)
{
    write_whole(fd, lines->text, lines->used);
}
