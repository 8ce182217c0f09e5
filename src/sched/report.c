/* What a worker tells of its coroutines when nothing can run any more. */
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
        .joins = record->co.sched_wait == CR__WAIT_JOIN ? record->wait_object : NULL,
    };
}

void cr__worker_report(struct cr__worker *w, int fd)
{
    struct groups groups = {0};
    char function[128];
    cr__slab_each(&w->records, gather, &groups);
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
