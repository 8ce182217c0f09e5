/* What a worker's memory does when it is not needed any more: by itself, a little at a time, from the worker's loop; and on demand.
 *
 * Slabs and the depot look twice a second what has lain unused since the last look (slab.h, chunk.c); pages of free stacks go by the last six (stack.h). A worker that has such things sleeps no longer than until its next look;
 * one that has none sleeps on. What comes home to a worker that sleeps without end is told to it by whoever looks after his own. */
#include "sched/worker.h"

#include "os/os.h"
#include "sched/tally.h"

#define LOOK_NS (500ll * 1000000)
#define PAUSE 10 /* times as long as a slice of it has taken, while something is ready: else it would keep a busy worker from its work, and what it takes would soon be wanted again */
#define SLICES_BEHIND 16 /* at once, without a pause, where stacks become free faster than that: millions that thaw and end would fill the memory before it could go back */

static _Atomic unsigned wish; /* counts cr_mem_trim; each worker follows in its next turn */

static bool restless(const struct cr__worker *w)
{
    for (const struct cr__slab *slab = w->slabs; slab; slab = slab->next) {
        if (cr__slab_restless(slab))
            return true;
    }
    return cr__images_restless(&w->images) || cr__frames_restless(&w->frames) || cr__stack_pool_restless(&w->stacks) ||
           cr__stack_pool_restless(&w->virtuals) || cr__depot_restless();
}

int64_t cr__worker_shrinks_in(const struct cr__worker *w)
{
    if (!restless(w))
        return -1;
    int64_t due_ns = w->shrunk_ns + LOOK_NS;
    return due_ns > w->now_ns ? due_ns - w->now_ns : 0;
}

/* By another worker. The list of slabs does not change once the workers run. */
static bool anything_came_home(const struct cr__worker *w)
{
    for (const struct cr__slab *slab = w->slabs; slab; slab = slab->next) {
        if (cr__slab_returned(slab))
            return true;
    }
    return cr__images_returned(&w->images) || cr__frames_returned(&w->frames) || cr__stack_any_returned(&w->stacks) || cr__stack_any_returned(&w->virtuals);
}

static void tell_sleepers(struct cr__worker *w)
{
    for (unsigned i = 0; i < w->sched->count; i++) {
        struct cr__worker *other = w->sched->workers[i];
        if (other != w && cr__inbox_asleep(&other->inbox) && anything_came_home(other))
            cr__worker_rouse(other);
    }
}

static void look_all(struct cr__worker *w)
{
    cr__stack_pool_look(&w->stacks);
    cr__stack_pool_look(&w->virtuals);
    cr__images_look(&w->images);
    cr__frames_look(&w->frames);
    for (struct cr__slab *slab = w->slabs; slab; slab = slab->next)
        cr__slab_look(slab);
    if (!w->alone)
        tell_sleepers(w);
}

static bool shrink_all(struct cr__worker *w)
{
    bool more = cr__stack_pool_shrink(&w->stacks);
    more |= cr__stack_pool_shrink(&w->virtuals);
    more |= cr__images_shrink(&w->images);
    more |= cr__frames_shrink(&w->frames);
    more |= cr__depot_tick(w->now_ns);
    for (struct cr__slab *slab = w->slabs; slab; slab = slab->next)
        more |= cr__slab_shrink(slab);
    return more;
}

static void trim_all(struct cr__worker *w)
{
    cr__stack_pool_hurry(&w->stacks);
    cr__stack_pool_hurry(&w->virtuals);
    cr__images_trim(&w->images);
    cr__frames_trim(&w->frames);
    for (struct cr__slab *slab = w->slabs; slab; slab = slab->next)
        cr__slab_trim(slab);
}

void cr__worker_shrink(struct cr__worker *w)
{
    unsigned wished = atomic_load_explicit(&wish, memory_order_relaxed);
    if (wished != w->trim_seen) {
        w->trim_seen = wished;
        w->shrinks_fast = true;
        trim_all(w);
        cr__depot_hurry();
    } else if (!w->shrinks_on) {
        w->shrinks_fast = false;
        look_all(w);
    }
    int64_t began_ns = cr__os_kernel_ns(); /* what it costs, even where coroutines have another clock */
    bool behind = cr__stack_pool_behind(&w->stacks) || cr__stack_pool_behind(&w->virtuals);
    unsigned slices = behind ? SLICES_BEHIND : 1;
    do
        w->shrinks_on = shrink_all(w);
    while (w->shrinks_on && --slices > 0);
    bool busy = !behind && !w->shrinks_fast && (w->ready.head || cr__anything_elsewhere(w));
    int64_t pause_ns = busy ? PAUSE * (cr__os_kernel_ns() - began_ns) : 0;
    w->shrunk_ns = w->shrinks_on ? w->now_ns + pause_ns - LOOK_NS : w->now_ns;
}

bool cr__worker_shrinks_now(const struct cr__worker *w)
{
    return w->now_ns - w->shrunk_ns >= LOOK_NS || atomic_load_explicit(&wish, memory_order_relaxed) != w->trim_seen;
}

void cr_mem_trim(void)
{
    struct cr__worker *w = cr__worker_here();
    unsigned wished = atomic_fetch_add_explicit(&wish, 1, memory_order_relaxed) + 1;
    if (w) {
        w->trim_seen = wished;
        trim_all(w);
        while (cr__stack_pool_shrink(&w->stacks) || cr__stack_pool_shrink(&w->virtuals))
            ;
    }
    cr__depot_trim();
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

void cr__memory_tell(struct cr__out *out)
{
    static const char *const names[CR__MEM_KINDS] = {"records", "addresses of stacks", "connections", "buffers", "images", "frames", "packets", "other"};
    cr__out_put(out, "  memory in MiB:");
    for (int kind = 0; kind < CR__MEM_KINDS; kind++) {
        if (cr__mem_bytes(kind) > 0)
            cr__out_put(out, " %s %.1f,", names[kind], mib(cr__mem_bytes(kind)));
    }
    uint64_t transparent = cr__mem_pages_bytes(CR__PAGES_TRANSPARENT), hugetlb = cr__mem_pages_bytes(CR__PAGES_HUGETLB);
    cr__out_put(out, " spare %.1f, page tables %.1f; ", mib(cr__mem_spare_bytes()), mib(cr__os_page_tables_bytes()));
    if (hugetlb > 0)
        cr__out_put(out, "huge pages from the system's pool for %.1f%s", mib(hugetlb), transparent ? ", " : "\n");
    if (transparent > 0)
        cr__out_put(out, "transparent huge pages asked for %.1f\n", mib(transparent));
    if (hugetlb == 0 && transparent == 0)
        cr__out_put(out, "no huge pages\n");
}

void cr_mem_stats_get(struct cr_mem_stats *out)
{
    *out = (struct cr_mem_stats){
        .records_bytes = cr__mem_bytes(CR__MEM_RECORDS),
        .stacks_bytes = cr__mem_bytes(CR__MEM_STACKS),
        .conns_bytes = cr__mem_bytes(CR__MEM_CONNS),
        .buffers_bytes = cr__mem_bytes(CR__MEM_BUFFERS),
        .images_bytes = cr__mem_bytes(CR__MEM_IMAGES),
        .frames_bytes = cr__mem_bytes(CR__MEM_FRAMES),
        .packets_bytes = cr__mem_bytes(CR__MEM_PACKETS),
        .other_bytes = cr__mem_bytes(CR__MEM_OTHER),
        .spare_bytes = cr__mem_spare_bytes(),
        .transparent_bytes = cr__mem_pages_bytes(CR__PAGES_TRANSPARENT),
        .hugetlb_bytes = cr__mem_pages_bytes(CR__PAGES_HUGETLB),
        .page_tables_bytes = cr__os_page_tables_bytes(),
        .kernel_calls = cr__mem_kernel_calls(),
        .frozen = atomic_load_explicit(&cr__freeze_counts.frozen, memory_order_relaxed),
        .thawed = atomic_load_explicit(&cr__freeze_counts.resumed, memory_order_relaxed),
        .touched = atomic_load_explicit(&cr__freeze_counts.touched, memory_order_relaxed),
    };
}
