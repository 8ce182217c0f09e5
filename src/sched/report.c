/* How coroutines are told of: the groups of a tally, cycles of those who wait for each other, backtraces. And the report that a runtime makes of itself when nothing can
 * run any more. */
#include "sched/tally.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obs/obs.h"
#include "os/os.h"
#include "sched/task.h"

#define WRITE_PATIENCE_NS (5ll * 1000000000) /* nobody reads for that long: the rest is dropped */
#define WRITE_STEP_NS (50ll * 1000000)
#define ALL_NAMED 4 /* up to so many are told each by its number */

static const char *const wait_names[CR__WAIT_KINDS] = {
    [CR__WAIT_NONE] = "nothing",
    [CR__WAIT_SLEEP] = "a point in time",
    [CR__WAIT_JOIN] = "the end of another coroutine",
    [CR__WAIT_READABLE] = "something to read",
    [CR__WAIT_WRITABLE] = "room to write",
    [CR__WAIT_STACK] = "a stack (see max_stacks_bytes in struct cr_config; or no addresses are left for one: ulimit -v)",
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
    [CR__WAIT_UNPARK] = "being unparked",
    [CR__WAIT_NET_READABLE] = "something to read from a network",
    [CR__WAIT_NET_WRITABLE] = "room to write to a network",
    [CR__WAIT_PACKET] = "a packet from a link",
};

/* ---- Writing ------------------------------------------------------------------------------------------------ */

void cr__out_init(struct cr__out *out, int fd, const _Atomic bool *hurry)
{
    out->fd = fd;
    out->used = 0;
    out->failed = false;
    out->hurry = hurry;
}

/* Whether there is room for one more piece: a pipe that can be written to takes at least PIPE_BUF bytes without blocking. */
static bool wait_for_room(const struct cr__out *out)
{
    for (int64_t waited_ns = 0; waited_ns < WRITE_PATIENCE_NS; waited_ns += WRITE_STEP_NS) {
        int r = cr__os_poll_out(out->fd, WRITE_STEP_NS);
        if (r != 0 && r != -EINTR)
            return r > 0;
        if (out->hurry && atomic_load_explicit(out->hurry, memory_order_relaxed))
            return false;
    }
    return false;
}

void cr__out_flush(struct cr__out *out)
{
    for (unsigned sent = 0; sent < out->used && !out->failed;) {
        ssize_t n = wait_for_room(out) ? cr__os_write(out->fd, out->text + sent, out->used - sent) : -EPIPE;
        if (n > 0)
            sent += (unsigned)n;
        else if (n != -EINTR && n != -EAGAIN)
            out->failed = true;
    }
    out->used = 0;
}

void cr__out_put(struct cr__out *out, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (length <= 0)
        return;
    unsigned size = (size_t)length < sizeof(line) ? (unsigned)length : (unsigned)sizeof(line) - 1;
    if (out->used + size > sizeof(out->text))
        cr__out_flush(out);
    memcpy(out->text + out->used, line, size);
    out->used += size;
}

void cr__out_who(struct cr__out *out, uint32_t id, const char *name)
{
    bool named = name && *name;
    cr__out_put(out, "coroutine %u%s%s%s", id, named ? " \"" : "", named ? name : "", named ? "\"" : "");
}

/* ---- Backtraces --------------------------------------------------------------------------------------------- */

/* Of the runtime's own inside: tells nobody anything. */
static bool is_inside(const char *where)
{
    return strncmp(where, "cr__", 4) == 0 || strncmp(where, "yield_here+", strlen("yield_here+")) == 0;
}

void cr__out_frames(struct cr__out *out, void *const *pcs, unsigned count, bool interrupted)
{
    char where[160];
    bool begun = false;
    while (count > 1 && is_inside(cr__symbol_at(pcs[count - 1], where, sizeof(where))))
        count--;
    for (unsigned i = 0; i < count; i++) {
        cr__symbol_at(pcs[i], where, sizeof(where));
        if (!interrupted && is_inside(where) && (begun || i + 1 < count)) /* one at least is told */
            continue;
        cr__out_put(out, "    %s %s\n", begun ? "from" : "  in", where);
        begun = true;
    }
}

void cr__out_points(struct cr__out *out, const struct cr_point *const *points, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        cr__out_put(out, "    %s %s at %s:%d\n", i ? "from" : "  in", points[i]->function, points[i]->file, points[i]->line);
}

/* ---- Groups ------------------------------------------------------------------------------------------------- */

static int by_count(const void *a, const void *b)
{
    const struct cr__group *x = a, *y = b;
    return x->count > y->count ? -1 : x->count < y->count;
}

static double seconds(uint32_t units)
{
    return (double)((uint64_t)units << CR__SINCE_SHIFT) / 1e9;
}

static void tell_object(const struct cr__group *g, struct cr__out *out)
{
    if (g->object == 0)
        return;
    cr__out_put(out, " (");
    if (g->object_name[0])
        cr__out_put(out, "%s", g->object_name);
    else
        cr__out_put(out, "at %p", (void *)g->object);
    if (g->holder && g->kind != CR__WAIT_JOIN)
        cr__out_put(out, ", held by coroutine %u", g->holder);
    if (g->holder && g->holder_others)
        cr__out_put(out, " and %u more", g->holder_others);
    cr__out_put(out, "%s)", g->objects_differ ? ", and others" : "");
}

static void tell_since(const struct cr__group *g, struct cr__out *out)
{
    if (g->with_since == 0)
        return;
    if (g->longest == g->shortest)
        cr__out_put(out, ", for %.1f s", seconds(g->longest));
    else
        cr__out_put(out, ", for %.1f to %.1f s", seconds(g->shortest), seconds(g->longest));
    if (g->with_deadline == g->count)
        cr__out_put(out, g->count == 1 ? ", with a deadline" : ", all with a deadline");
    else if (g->with_deadline > 0)
        cr__out_put(out, ", %llu with a deadline", (unsigned long long)g->with_deadline);
}

static void tell_who(const struct cr__group *g, struct cr__out *out)
{
    if (g->named == 0)
        return;
    unsigned told = g->count <= ALL_NAMED && g->count == g->named ? g->named : 1;
    cr__out_put(out, told == g->count ? "; " : "; one is ");
    for (unsigned i = 0; i < told; i++) {
        cr__out_put(out, "%s", i ? ", " : "");
        cr__out_who(out, g->ids[i], g->names[i]);
    }
}

static void tell_group(const struct cr__group *g, struct cr__out *out)
{
    char function[128] = "";
    bool one = g->count == 1;
    if (g->entry)
        cr__symbol_of((void *)g->entry, function, sizeof(function));
    cr__out_put(out, "  %llu%s%s", (unsigned long long)g->count, g->entry ? " in " : "", function);
    if (g->doing == CR__DOING_READY)
        cr__out_put(out, one ? " is ready" : " are ready");
    else if (g->doing == CR__DOING_NEW)
        cr__out_put(out, one ? " has not started" : " have not started");
    else if (g->doing == CR__DOING_SILENT)
        cr__out_put(out, " on worker %u, which does not answer", g->worker);
    else {
        cr__out_put(out, " wait%s for %s", one ? "s" : "", wait_names[g->kind]);
        tell_object(g, out);
        tell_since(g, out);
    }
    tell_who(g, out);
    cr__out_put(out, "\n");
    if (g->inner) {
        cr__symbol_of((void *)g->inner, function, sizeof(function));
        cr__out_put(out, "    inside of it, in a bare coroutine that runs %s:\n", function);
    }
    if (g->task)
        cr__out_points(out, (const struct cr_point *const *)(const void *)g->pcs, g->frames);
    else if (g->frames > 0)
        cr__out_frames(out, g->pcs, g->frames, false);
    else if (g->doing == CR__DOING_PARKED && g->kind != CR__WAIT_STACK)
        cr__out_put(out, "    (no backtrace)\n");
}

void cr__tally_tell(struct cr__tally *t, struct cr__out *out)
{
    if (t->used > 0)
        qsort(t->groups, t->used, sizeof(t->groups[0]), by_count); /* its slots mean nothing any more */
    for (unsigned i = 0; i < t->used; i++)
        tell_group(&t->groups[i], out);
    if (t->others)
        cr__out_put(out, "  and %llu in other groups\n", (unsigned long long)t->others);
}

/* ---- Cycles ------------------------------------------------------------------------------------------------- */

#define CYCLE_TOLD 16

void cr__out_cycle(struct cr__out *out, const struct cr__edge *const *edges, unsigned count)
{
    char function[128];
    bool ends = false;
    for (unsigned i = 0; i < count; i++)
        ends |= edges[i]->deadline;
    cr__out_put(out, "  deadlock: %u coroutine%s wait%s for each other%s\n", count, count == 1 ? "" : "s", count == 1 ? "s" : "",
                ends ? ", until a deadline comes" : "");
    for (unsigned i = 0; i < count && i < CYCLE_TOLD; i++) {
        const struct cr__edge *e = edges[i];
        cr__out_put(out, "    ");
        cr__out_who(out, e->from, e->name);
        cr__symbol_of((void *)e->entry, function, sizeof(function));
        cr__out_put(out, " in %s waits for %s", function, wait_names[e->kind]);
        if (e->kind == CR__WAIT_JOIN)
            cr__out_put(out, ", coroutine %u\n", e->to);
        else
            cr__out_put(out, " at %p that coroutine %u holds\n", (void *)e->object, e->to);
    }
    if (count > CYCLE_TOLD)
        cr__out_put(out, "    and so on\n");
}

static void tell_cycle(const struct cr__edge *const *edges, unsigned count, void *arg)
{
    cr__out_cycle(arg, edges, count);
}

/* ---- Nothing can run any more ------------------------------------------------------------------------------- */

struct gathering {
    struct cr__tally tally;
    struct cr__worker *home;
};

static void gather(void *object, void *arg)
{
    struct gathering *g = arg;
    struct cr__record *record = object;
    if (!cr__record_lives(record))
        return;
    struct cr__sched *s = g->home->sched;
    if (cr__co_started(&record->co))
        cr__tally_look(&g->tally, s->workers[cr__park_worker(&record->word)], record, cr__park_state(&record->word) == CR__WAITING);
    else
        cr__tally_starving(&g->tally, record->co.entry, record->co.id);
}

void cr__sched_report(struct cr__sched *s)
{
    struct gathering g;
    struct cr__out out;
    cr__tally_init(&g.tally, cr__os_now_ns());
    for (unsigned i = 0; i < s->count; i++) {
        g.home = s->workers[i];
        cr__slab_each(&g.home->records, gather, &g);
        cr__frames_each(&g.home->frames, gather, &g);
    }
    cr__out_init(&out, s->report_fd, NULL);
    cr__out_put(&out, "crore: nothing can ever run again: %llu coroutine%s parked\n", (unsigned long long)g.tally.live,
                g.tally.live == 1 ? "" : "s");
    cr__tally_cycles(&g.tally, tell_cycle, &out);
    cr__tally_tell(&g.tally, &out);
    cr__out_flush(&out);
    cr__tally_fini(&g.tally);
}
