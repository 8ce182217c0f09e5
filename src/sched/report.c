/* What a runtime tells of its coroutines when nothing can run any more. */
#include "sched/sched.h"

#include <string.h>

#include "obs/obs.h"

#define GROUPS 16

static const char *const wait_names[CR__WAIT_KINDS] = {
    [CR__WAIT_NONE] = "nothing (it is ready)",
    [CR__WAIT_SLEEP] = "a point in time",
    [CR__WAIT_JOIN] = "the end of another coroutine",
    [CR__WAIT_READABLE] = "something to read",
    [CR__WAIT_WRITABLE] = "room to write",
    [CR__WAIT_STACK] = "a stack (see max_stacks_bytes in struct cr_config)",
    [CR__WAIT_MUTEX] = "a mutex",
    [CR__WAIT_COND] = "a condition variable",
    [CR__WAIT_READ_LOCK] = "a readers-writer lock, to read",
    [CR__WAIT_WRITE_LOCK] = "a readers-writer lock, to write",
    [CR__WAIT_SEM] = "a semaphore",
    [CR__WAIT_GROUP] = "a wait group",
    [CR__WAIT_ONCE] = "another one's cr_once",
    [CR__WAIT_BARRIER] = "others at a barrier",
    [CR__WAIT_SEND] = "room in a channel",
    [CR__WAIT_RECV] = "a value from a channel",
    [CR__WAIT_SELECT] = "one of several channels",
    [CR__WAIT_BROADCAST] = "a broadcast",
    [CR__WAIT_SCOPE] = "the coroutines of its scope",
    [CR__WAIT_BLOCKING] = "a blocking call on another thread",
    [CR__WAIT_SIGNAL] = "a signal",
    [CR__WAIT_CHILD] = "the end of a child process",
    [CR__WAIT_EVENT] = "an event",
};

struct group {
    void (*entry)(void);
    unsigned kind;
    uint64_t count;
    uint32_t example;   /* id */
    const char *name;   /* of the example, or NULL */
    struct cr__record *joins;
};

struct groups {
    struct group list[GROUPS];
    unsigned used;
    uint64_t live, left_out;
};

static void gather(void *object, void *arg)
{
    struct cr__record *record = object;
    struct groups *groups = arg;
    if (cr__co_state(&record->co) != CR__CO_SCHEDULED)
        return;
    groups->live++;
    for (unsigned i = 0; i < groups->used; i++) {
        struct group *g = &groups->list[i];
        if (g->entry == record->co.entry && g->kind == record->co.sched_wait) {
            g->count++;
            return;
        }
    }
    if (groups->used == GROUPS) {
        groups->left_out++;
        return;
    }
    groups->list[groups->used++] = (struct group){
        .entry = record->co.entry,
        .kind = record->co.sched_wait,
        .count = 1,
        .example = record->co.id,
        .name = cr__co_name(&record->co),
        .joins = record->co.sched_wait == CR__WAIT_JOIN ? (struct cr__record *)record->node.object : NULL,
    };
}

void cr__sched_report(struct cr__sched *s)
{
    struct groups groups = {0};
    char function[128];
    int fd = s->report_fd;
    for (unsigned i = 0; i < s->count; i++)
        cr__slab_each(&s->workers[i]->records, gather, &groups);
    cr__report(fd, "crore: nothing can ever run again: %llu coroutine%s parked\n", (unsigned long long)groups.live,
               groups.live == 1 ? "" : "s");
    for (unsigned i = 0; i < groups.used; i++) {
        const struct group *g = &groups.list[i];
        cr__symbol_of((void *)g->entry, function, sizeof(function));
        cr__report(fd, "  %llu in %s wait%s for %s; one is coroutine %u%s%s%s\n", (unsigned long long)g->count, function,
                   g->count == 1 ? "s" : "", wait_names[g->kind], g->example, g->name ? " \"" : "",
                   g->name ? g->name : "", g->name ? "\"" : "");
        if (g->joins)
            cr__report(fd, "    which joins coroutine %u\n", g->joins->co.id);
    }
    if (groups.left_out)
        cr__report(fd, "  and %llu in other functions\n", (unsigned long long)groups.left_out);
}
