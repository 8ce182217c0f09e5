#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void cr__panic(const char *format, ...)
{
    static const char begin[] = "crore: ";
    char line[512]; /* leaves in one write: nothing that another thread says comes between */
    size_t used = sizeof(begin) - 1;
    memcpy(line, begin, used);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line + used, sizeof(line) - used, format, args);
    va_end(args);
    used += length < 0 ? 0 : (size_t)length;
    if (used > sizeof(line) - 1)
        used = sizeof(line) - 1;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        abort(); /* nobody to tell */
    abort();
}
