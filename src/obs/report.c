#include "obs/obs.h"

#include <stdarg.h>
#include <stdio.h>

#include "os/os.h"

void cr__report(int fd, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (length <= 0)
        return;
    size_t size = (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1;
    for (size_t sent = 0; sent < size;) {
        ssize_t n = cr__os_write(fd, text + sent, size - sent);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads reports there */
        sent += (size_t)n;
    }
}
