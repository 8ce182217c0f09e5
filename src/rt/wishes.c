/* What the environment wishes: it counts only where the program leaves the choice open. A wish that makes no sense is told on standard error, and nothing begins. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obs/obs.h"
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

/* If *number is 0, the program leaves it open: what is wished, between least and most, if something is. 0 or -EINVAL. */
static int wish_number(const char *variable, int64_t least, int64_t most, const char *meant, int64_t *number)
{
    const char *wish = *number ? NULL : wish_of(variable);
    if (!wish)
        return 0;
    char *end;
    errno = 0;
    *number = strtoll(wish, &end, 10);
    return *end == '\0' && errno == 0 && *number >= least && *number <= most ? 0 : refuse(variable, wish, meant);
}

/* The same of the index of a name; 0 has none. */
static int wish_name(const char *variable, const char *const *names, int count, const char *meant, int *index)
{
    const char *wish = *index ? NULL : wish_of(variable);
    for (int i = 1; wish && i < count; i++) {
        if (strcmp(wish, names[i]) == 0)
            *index = i;
    }
    return wish && *index == 0 ? refuse(variable, wish, meant) : 0;
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
    int64_t n = config->workers;
    int r = wish_number("CR_WORKERS", 1, CR_WORKERS_MAX, "a number from 1 to " CR__TEXT(CR_WORKERS_MAX) " is", &n);
    if (r == 0 && config->seed && n > 1) {
        cr__report(config->report_fd ? config->report_fd : STDERR_FILENO, "crore: under a seed (%llu) a runtime has one worker; %lld are asked for\n",
                   (unsigned long long)config->seed, (long long)n);
        return -EINVAL;
    }
    config->workers = n ? (unsigned)n : config->seed ? 1 : processors();
    return r;
}

/* Before the workers are chosen. */
static int choose_seed(struct cr_config *config)
{
    int64_t seed = (int64_t)config->seed;
    int r = wish_number("CR_SEED", 1, INT64_MAX, "a number from 1 to 9223372036854775807 is", &seed);
    config->seed = (uint64_t)seed;
    return r;
}

static int choose_poller(struct cr_config *config)
{
    static const char *const names[] = {[CR_POLLER_EPOLL] = "epoll", [CR_POLLER_URING] = "uring"};
    int poller = (int)config->poller, r = wish_name("CR_POLLER", names, CR__COUNT(names), "epoll or uring is", &poller);
    config->poller = (enum cr_poller)poller;
    return r;
}

static int choose_stack(struct cr_config *config)
{
    int kind = (int)config->stack, r = wish_name("CR_STACK", cr__stack_kind_names, CR_STACK_SHARED + 1, "static, virtual or shared is", &kind);
    config->stack = kind ? (enum cr_stack_kind)kind : CR_STACK_STATIC;
    return r;
}

static int choose_shared_stacks(struct cr_config *config)
{
    int64_t n = config->shared_stacks;
    int r = wish_number("CR_SHARED_STACKS", 1, CR__SHARED_STACKS_MAX, "a number from 1 to " CR__TEXT(CR__SHARED_STACKS_MAX) " is", &n);
    config->shared_stacks = (unsigned)n;
    return r;
}

static int choose_freezing(struct cr_config *config)
{
    return wish_number("CR_FREEZE_AFTER_NS", INT64_MIN, INT64_MAX, "a number of nanoseconds, or a negative one for never, is", &config->freeze_after_ns);
}

static int choose_census(bool *wanted)
{
    static const char *const names[] = {NULL, "0", "1"};
    int answer = 0, r = wish_name("CR_STACK_CENSUS", names, CR__COUNT(names), "0 or 1 is", &answer);
    *wanted = answer == 2;
    return r;
}

int cr__wishes(struct cr_config *config, bool *takes_census)
{
    int (*const choose[])(struct cr_config *) = {choose_seed, choose_workers, choose_poller, choose_stack, choose_shared_stacks, choose_freezing};
    int r = 0;
    for (unsigned i = 0; r == 0 && i < CR__COUNT(choose); i++)
        r = choose[i](config);
    return r == 0 ? choose_census(takes_census) : r;
}
