/* Tasks, coroutines without a stack.
 *
 * yield: among a thousand, through the run queue.
 * spawn-one, spawn-batch: as of coroutines (scheduled.c).
 * parked: bytes for each of a million that wait, without locals, page tables included. (crore demo --parked has those with some.) */
#include <crore/crore.h>
#include "bench.h"

enum { TASKS = 1000, YIELDS = 1000, SPAWNS = 20000, PARKED = 1000000 };

static const char *name;
static int milliseconds;

struct little {
    struct cr_task task;
    int i, r;
};

static int yields_often(struct cr_task *task)
{
    struct little *me = (struct little *)task;
    CR_TASK_BEGIN(task, yields_often);
    for (me->i = 0; me->i < YIELDS; me->i++)
        CR_AWAIT(me->r, cr_task_yield(task));
    return 0;
}

static void yields(void)
{
    static struct cr_co *all[TASKS];
    struct little frame = {.task = CR_TASK(yields_often)};
    for (int i = 0; i < TASKS; i++)
        bench_need(cr_task_spawn(&all[i], &frame.task, sizeof(frame), NULL) == 0, "cr_task_spawn");
    for (int i = 0; i < TASKS; i++)
        bench_need(cr_join(all[i]) == 0, "cr_join");
}

static void measure_yields(void *unused)
{
    (void)unused;
    bench_batches(name, milliseconds, yields, (double)TASKS * YIELDS);
}

static int running;

static int ends_at_once(struct cr_task *task)
{
    (void)task;
    running--;
    return 0;
}

static void spawn_one_at_a_time(void)
{
    struct little frame = {.task = CR_TASK(ends_at_once)};
    for (int i = 0; i < SPAWNS; i++) {
        struct cr_co *co;
        if (cr_task_spawn(&co, &frame.task, sizeof(frame), NULL) != 0 || cr_join(co) != 0)
            abort();
    }
}

static void measure_one(void *unused)
{
    (void)unused;
    bench_batches(name, milliseconds, spawn_one_at_a_time, SPAWNS);
}

static void spawn_in_batches(void)
{
    struct little frame = {.task = CR_TASK(ends_at_once)};
    for (int i = 0; i < SPAWNS; i += TASKS) {
        for (running = 0; running < TASKS; running++) {
            if (cr_task_go(&frame.task, sizeof(frame)) != 0)
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

/* Parked. */
static struct cr_sem gate;

/* What comes of its wait is not kept: it is the same to all. */
static int parks(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, parks);
    CR_AWAIT(r, cr_task_sem_wait(task, &gate, CR_FOREVER));
    running--;
    return r;
}

static void measure_parked(void *unused)
{
    (void)unused;
    const struct cr_task frame = CR_TASK(parks);
    double before = bench_memory_bytes();
    for (running = 0; running < PARKED; running++)
        bench_need(cr_task_go(&frame, sizeof(frame)) == 0, "cr_task_go");
    cr_yield();
    cr_sleep(1);
    printf("%s %.4f\n", name, (bench_memory_bytes() - before) / PARKED);
    cr_sem_post(&gate, PARKED);
    while (running > 0)
        cr_yield();
}

static void run(const char *case_name, int case_milliseconds, void (*measure)(void *unused))
{
    struct cr_config config = {.workers = 1};
    name = case_name;
    milliseconds = case_milliseconds;
    bench_need(cr_run(measure, NULL, &config) == 0, "cr_run");
}

static void run_yield(const char *n, int ms)
{
    run(n, ms, measure_yields);
}

static void run_one(const char *n, int ms)
{
    run(n, ms, measure_one);
}

static void run_batch(const char *n, int ms)
{
    run(n, ms, measure_batches);
}

static void run_parked(const char *n, int ms)
{
    run(n, ms, measure_parked);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"yield", run_yield}, {"spawn-one", run_one}, {"spawn-batch", run_batch}, {"parked", run_parked}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
