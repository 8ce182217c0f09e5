#include "tool.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <crore/api.h>

void tool_fail(const char *format, ...)
{
    va_list args;
    fputs("crore: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

struct unit {
    const char *name;
    int64_t factor;
};

static int64_t parse(const char *text, const struct unit *units, size_t count, bool *good)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    *good = end != text && errno == 0;
    for (size_t i = 0; *good && i < count; i++) {
        int64_t product;
        if (strcmp(end, units[i].name) != 0)
            continue;
        *good = !__builtin_mul_overflow(n, units[i].factor, &product);
        return product;
    }
    *good = false;
    return 0;
}

static int64_t parse_between(const char *option, const char *text, const struct unit *units, size_t count, int64_t least, int64_t most)
{
    bool good;
    int64_t n = parse(text, units, count, &good);
    if (!good || n < least || n > most)
        tool_fail("%s: '%s' is not a number from %lld to %lld", option, text, (long long)least, (long long)most);
    return n;
}

int64_t tool_number(const char *option, const char *text, int64_t least, int64_t most)
{
    static const struct unit units[] = {{"", 1}, {"k", 1000}, {"K", 1000}, {"M", 1000000}, {"G", 1000000000}};
    return parse_between(option, text, units, sizeof(units) / sizeof(units[0]), least, most);
}

int64_t tool_size(const char *option, const char *text, int64_t least, int64_t most)
{
    static const struct unit units[] = {{"", 1}, {"k", 1 << 10}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}};
    return parse_between(option, text, units, sizeof(units) / sizeof(units[0]), least, most);
}

int64_t tool_duration(const char *option, const char *text)
{
    static const struct unit units[] = {{"", CR_SEC}, {"s", CR_SEC}, {"ms", CR_MS}, {"us", CR_US}, {"m", 60 * CR_SEC}, {"h", 3600 * CR_SEC}};
    bool good;
    int64_t n = parse(text, units, sizeof(units) / sizeof(units[0]), &good);
    if (!good || n <= 0 || n > 86400 * CR_SEC)
        tool_fail("%s: '%s' is not a duration such as 500ms, 10s or 2m, at most 24h", option, text);
    return n;
}

int64_t tool_raise_open_files(int64_t wanted)
{
    struct rlimit limit, more;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    more.rlim_cur = more.rlim_max = (rlim_t)wanted > limit.rlim_max ? (rlim_t)wanted : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &more) < 0) {
        more.rlim_cur = more.rlim_max = limit.rlim_max; /* raising the hard limit takes privilege */
        if (setrlimit(RLIMIT_NOFILE, &more) < 0)
            return (int64_t)limit.rlim_cur;
    }
    return more.rlim_cur > INT64_MAX ? INT64_MAX : (int64_t)more.rlim_cur;
}

void tool_pin(int64_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        tool_fail("--cpu: can't run on processor %lld: %s", (long long)cpu, strerror(errno));
}

FILE *tool_open_json(const char *path)
{
    FILE *file = !path ? NULL : strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
    if (path && !file)
        tool_fail("--json %s: %s", path, strerror(errno));
    return file;
}
