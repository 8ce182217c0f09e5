/* Very many coroutines on one worker or several.
 *
 * skynet: a tree with a million leaves, in which each coroutine spawns ten and adds up what they have found.
 * steal: one coroutine spawns a million, each of which works for a microsecond: other workers have to fetch theirs.
 * sleepers: a million sleep at once, for one to two seconds each; milliseconds of processor time for spawning,
 * sleeping and ending. The first round, in which memory is taken, does not count. */
#include <crore/sync.h>
#include "runtime.h"

enum { LEAVES = 1000000, FAN_OUT = 10 };
enum { JOBS = 1000000, JOB_NS = 1000 };
enum { SLEEPERS = 1000000, SLEEP_LEAST_NS = 1000000000 };

#define NS_PER_MS 1e6

/* Go and Tokio keep no control words either. */
static struct cr_attr attr = {.flags = CR_FPU_SHARED, .stack_size_bytes = 8192};

/* Skynet. */
struct node {
    int64_t first, leaves; /* what it sums up: first to first + leaves - 1 */
    int64_t sum;
};

static void sum_up(void *arg)
{
    struct node *node = arg, children[FAN_OUT];
    struct cr_co *running[FAN_OUT];
    if (node->leaves == 1) {
        node->sum = node->first;
        return;
    }
    for (int i = 0; i < FAN_OUT; i++) {
        int64_t part = node->leaves / FAN_OUT;
        children[i] = (struct node){.first = node->first + i * part, .leaves = part};
        bench_must(cr_spawn(&running[i], sum_up, &children[i], &attr), "cr_spawn");
    }
    node->sum = 0;
    for (int i = 0; i < FAN_OUT; i++) {
        bench_must(cr_join(running[i]), "cr_join");
        node->sum += children[i].sum;
    }
}

static void skynet(void)
{
    struct node root = {.leaves = LEAVES};
    sum_up(&root);
    if (root.sum != (int64_t)LEAVES * (LEAVES - 1) / 2)
        abort();
}

static void measure_skynet(void *unused)
{
    (void)unused;
    bench_batches(case_name, case_milliseconds, skynet, NS_PER_MS);
}

/* Stealing, and sleeping. */
static struct cr_waitgroup running;

static void spawn_into_group(void (*fn)(void *arg), void *arg)
{
    bench_must(cr_spawn(NULL, fn, arg, &attr), "cr_spawn");
}

static void work(void *unused)
{
    (void)unused;
    for (int64_t begin_ns = bench_now_ns(); bench_now_ns() - begin_ns < JOB_NS;)
        ;
    cr_waitgroup_done(&running);
}

static void work_all(void)
{
    cr_waitgroup_add(&running, JOBS);
    for (int i = 0; i < JOBS; i++)
        spawn_into_group(work, NULL);
    bench_must(cr_waitgroup_wait(&running), "cr_waitgroup_wait");
}

static void measure_steal(void *unused)
{
    (void)unused;
    bench_batches(case_name, case_milliseconds, work_all, NS_PER_MS);
}

static void sleep_once(void *span_ns)
{
    bench_must(cr_sleep((intptr_t)span_ns), "cr_sleep");
    cr_waitgroup_done(&running);
}

static void sleep_all(void)
{
    cr_waitgroup_add(&running, SLEEPERS);
    for (int i = 0; i < SLEEPERS; i++)
        spawn_into_group(sleep_once, (void *)(SLEEP_LEAST_NS + bench_random() % SLEEP_LEAST_NS));
    bench_must(cr_waitgroup_wait(&running), "cr_waitgroup_wait");
}

static void measure_sleepers(void *unused)
{
    (void)unused;
    sleep_all();
    int64_t cpu_ns = bench_cpu_ns();
    sleep_all();
    printf("%s %.4f\n", case_name, (double)(bench_cpu_ns() - cpu_ns) / NS_PER_MS);
}

static void run_skynet(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_skynet);
}

static void run_steal(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_steal);
}

static void run_sleepers(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_sleepers);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"skynet-1", run_skynet},
                                              {"skynet-2", run_skynet},
                                              {"steal-1", run_steal},
                                              {"steal-2", run_steal},
                                              {"sleepers-random-1", run_sleepers},
                                              {"sleepers-random-2", run_sleepers},
                                              {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
