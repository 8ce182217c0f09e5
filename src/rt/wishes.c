/* What the environment wishes: it counts only where the program leaves the choice open. A wish that makes no sense is told on standard error, and nothing begins. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rt/rt.h"

/* NULL: none. */
static const char *wish_of(const char *variable)
{
    const char *wish = getenv(variable);
    return wish && *wish ? wish : NULL;
}

static int refuse(const char *variable, const char *wish, const char *meant)
{
    fprintf(stderr, "crore: %s=%s: %s meant\n", variable, wish, meant);
    return -EINVAL;
}

/* 1: it wishes a number within these, which is in *number; 0: nothing; -EINVAL. */
static int wish_number(const char *variable, int64_t least, int64_t most, const char *meant, int64_t *number)
{
    const char *wish = wish_of(variable);
    if (!wish)
        return 0;
    char *end;
    errno = 0;
    *number = strtoll(wish, &end, 10);
    return *end == '\0' && errno == 0 && *number >= least && *number <= most ? 1 : refuse(variable, wish, meant);
}

/* The index of the name that it wishes; 0, which has none: nothing; -EINVAL. */
static int wish_name(const char *variable, const char *const *names, int count, const char *meant)
{
    const char *wish = wish_of(variable);
    if (!wish)
        return 0;
    for (int i = 1; i < count; i++) {
        if (strcmp(wish, names[i]) == 0)
            return i;
    }
    return refuse(variable, wish, meant);
}

static unsigned processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    unsigned allowed = n > 0 ? (unsigned)n : 1, quota = cr__cgroup_processors("/proc/self/cgroup", "/sys/fs/cgroup");
    allowed = quota > 0 && quota < allowed ? quota : allowed;
    return allowed < CR_WORKERS_MAX ? allowed : CR_WORKERS_MAX;
}

static int choose_workers(struct cr_config *config)
{
    int64_t n = 0;
    int r = config->workers ? 0 : wish_number("CR_WORKERS", 1, CR_WORKERS_MAX, "a number from 1 to " CR__TEXT(CR_WORKERS_MAX) " is", &n);
    if (r == 1)
        config->workers = (unsigned)n;
    if (config->workers == 0)
        config->workers = processors();
    return r < 0 ? r : 0;
}

static int choose_poller(struct cr_config *config)
{
    static const char *const names[] = {[CR_POLLER_EPOLL] = "epoll", [CR_POLLER_URING] = "uring"};
    int r = config->poller ? 0 : wish_name("CR_POLLER", names, CR__COUNT(names), "epoll or uring is");
    if (r > 0)
        config->poller = (enum cr_poller)r;
    return r < 0 ? r : 0;
}

static int choose_stack(struct cr_config *config)
{
    int r = config->stack ? 0 : wish_name("CR_STACK", cr__stack_kind_names, CR_STACK_SHARED + 1, "static, virtual or shared is");
    if (r > 0)
        config->stack = (enum cr_stack_kind)r;
    else if (config->stack == CR_STACK_DEFAULT)
        config->stack = CR_STACK_STATIC;
    return r < 0 ? r : 0;
}

static int choose_shared_stacks(struct cr_config *config)
{
    int64_t n = 0;
    int r = config->shared_stacks
                ? 0
                : wish_number("CR_SHARED_STACKS", 1, CR__SHARED_STACKS_MAX, "a number from 1 to " CR__TEXT(CR__SHARED_STACKS_MAX) " is", &n);
    if (r == 1)
        config->shared_stacks = (unsigned)n;
    return r < 0 ? r : 0;
}

static int choose_freezing(struct cr_config *config)
{
    int64_t ns = 0;
    int r = config->freeze_after_ns
                ? 0
                : wish_number("CR_FREEZE_AFTER_NS", INT64_MIN, INT64_MAX, "a number of nanoseconds, or a negative one for never, is", &ns);
    if (r == 1)
        config->freeze_after_ns = ns;
    return r < 0 ? r : 0;
}

static int choose_census(bool *wanted)
{
    static const char *const names[] = {NULL, "0", "1"};
    int r = wish_name("CR_STACK_CENSUS", names, CR__COUNT(names), "0 or 1 is");
    *wanted = r == 2;
    return r < 0 ? r : 0;
}

int cr__wishes(struct cr_config *config, bool *takes_census)
{
    int (*const choose[])(struct cr_config *) = {choose_workers, choose_poller, choose_stack, choose_shared_stacks, choose_freezing};
    int r = 0;
    for (unsigned i = 0; r == 0 && i < CR__COUNT(choose); i++)
        r = choose[i](config);
    return r == 0 ? choose_census(takes_census) : r;
}
