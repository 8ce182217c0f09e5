/* Scheduled coroutines: cr_yield among a thousand, and spawning ones that end at once, whose stacks come from the
 * pool. */
#include <crore/crore.h>
#include "bench.h"

enum { COROUTINES = 1000, YIELDS = 1000, SPAWNS = 20000 };

static const char *name;
static int milliseconds;

static void yield_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < YIELDS; i++) {
        if (cr_yield() != 0)
            abort();
    }
}

static unsigned yield_flags;

static void yields(void)
{
    static struct cr_co *all[COROUTINES];
    struct cr_attr attr = {.flags = yield_flags};
    for (int i = 0; i < COROUTINES; i++)
        bench_need(cr_spawn(&all[i], yield_often, NULL, &attr) == 0, "cr_spawn");
    for (int i = 0; i < COROUTINES; i++)
        bench_need(cr_join(all[i]) == 0, "cr_join");
}

static void measure_yields(void *unused)
{
    (void)unused;
    bench_batches(name, milliseconds, yields, (double)COROUTINES * YIELDS);
}

static void end_at_once(void *unused)
{
    (void)unused;
}

static void spawn_one_at_a_time(void)
{
    for (int i = 0; i < SPAWNS; i++) {
        struct cr_co *co;
        if (cr_spawn(&co, end_at_once, NULL, NULL) != 0 || cr_join(co) != 0)
            abort();
    }
}

static void measure_one(void *unused)
{
    (void)unused;
    bench_batches(name, milliseconds, spawn_one_at_a_time, SPAWNS);
}

static int running;

static void count_down(void *unused)
{
    (void)unused;
    running--;
}

static void spawn_in_batches(void)
{
    for (int i = 0; i < SPAWNS; i += COROUTINES) {
        for (running = 0; running < COROUTINES; running++) {
            if (cr_go(count_down, NULL) != 0)
                abort();
        }
        while (running > 0)
            cr_yield();
    }
}

static void measure_batches(void *unused)
{
    (void)unused;
    bench_batches(name, milliseconds, spawn_in_batches, SPAWNS);
}

static void run(const char *case_name, int case_milliseconds, void (*measure)(void *unused), enum cr_policy policy)
{
    struct cr_config config = {.workers = 1, .policy = policy};
    name = case_name;
    milliseconds = case_milliseconds;
    bench_need(cr_run(measure, NULL, &config) == 0, "cr_run");
}

static void run_yield(const char *n, int ms)
{
    run(n, ms, measure_yields, CR_POLICY_DEFAULT);
}

static void run_yield_shared(const char *n, int ms)
{
    yield_flags = CR_FPU_SHARED;
    run(n, ms, measure_yields, CR_POLICY_DEFAULT);
}

static void run_chain(const char *n, int ms)
{
    run(n, ms, measure_yields, CR_POLICY_CHAIN);
}

static void run_star(const char *n, int ms)
{
    run(n, ms, measure_yields, CR_POLICY_STAR);
}

static void run_one(const char *n, int ms)
{
    run(n, ms, measure_one, CR_POLICY_DEFAULT);
}

static void run_batch(const char *n, int ms)
{
    run(n, ms, measure_batches, CR_POLICY_DEFAULT);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"yield", run_yield},   {"yield-shared", run_yield_shared}, {"chain", run_chain}, {"star", run_star},
        {"spawn-one", run_one}, {"spawn-batch", run_batch},         {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
