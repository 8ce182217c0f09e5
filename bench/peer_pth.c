/* Peer: GNU Portable Threads. */
#include <pth.h>
#include "bench.h"

enum { THREADS = 1000, YIELDS = 10, SPAWNS = 1000, STACK_BYTES = 65536 };

static pth_attr_t joinable, detached;

static void *yield_often(void *unused)
{
    for (int i = 0; i < YIELDS; i++)
        pth_yield(NULL);
    return unused;
}

static void yields(void)
{
    static pth_t all[THREADS];
    for (int i = 0; i < THREADS; i++)
        bench_need((all[i] = pth_spawn(joinable, yield_often, NULL)) != NULL, "pth_spawn");
    for (int i = 0; i < THREADS; i++)
        pth_join(all[i], NULL);
}

static void *end_at_once(void *unused)
{
    return unused;
}

static void spawn_one_at_a_time(void)
{
    for (int i = 0; i < SPAWNS; i++)
        pth_join(pth_spawn(joinable, end_at_once, NULL), NULL);
}

static int running;

static void *count_down(void *unused)
{
    running--;
    return unused;
}

static void spawn_in_batches(void)
{
    for (running = 0; running < SPAWNS; running++)
        bench_need(pth_spawn(detached, count_down, NULL) != NULL, "pth_spawn");
    while (running > 0)
        pth_yield(NULL);
}

static pth_attr_t new_attr(int is_joinable)
{
    pth_attr_t attr = pth_attr_new();
    pth_attr_set(attr, PTH_ATTR_STACK_SIZE, STACK_BYTES);
    pth_attr_set(attr, PTH_ATTR_JOINABLE, is_joinable);
    return attr;
}

static void run(const char *name, int milliseconds, void (*batch)(void), double operations)
{
    bench_need(pth_init(), "pth_init");
    joinable = new_attr(TRUE);
    detached = new_attr(FALSE);
    bench_batches(name, milliseconds, batch, operations);
}

static void run_yield(const char *name, int milliseconds)
{
    run(name, milliseconds, yields, (double)THREADS * YIELDS);
}

static void run_one(const char *name, int milliseconds)
{
    run(name, milliseconds, spawn_one_at_a_time, SPAWNS);
}

static void run_batch(const char *name, int milliseconds)
{
    run(name, milliseconds, spawn_in_batches, SPAWNS);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"yield", run_yield}, {"spawn-one", run_one}, {"spawn-batch", run_batch}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
