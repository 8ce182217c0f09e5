/* Tasks, coroutines without a stack.
 *
 * resume: one that is called by hand, and awaits something of its own: the protocol alone, to compare with a bare switch.
 * yield: among a thousand, through the run queue.
 * spawn-one, spawn-batch: as of coroutines (scheduled.c).
 * parked-0, parked-200: bytes for each of a million that wait, page tables included, by the number of bytes of locals. Spawning and parking one, and waking and ending it, in
 * ns, are two more lines. */
#include <crore/crore.h>
#include "bench.h"

enum { RESUMES = 1000000, TASKS = 1000, YIELDS = 1000, SPAWNS = 20000, PARKED = 1000000 };

static const char *name;
static int milliseconds;

struct little {
    struct cr_task task;
    int i, r;
};

static int once_more(bool *asked)
{
    *asked = !*asked;
    return *asked ? CR_WAITS : 0;
}

static bool asked;

static int resumed_often(struct cr_task *task)
{
    struct little *me = (struct little *)task;
    CR_TASK_BEGIN(task, resumed_often);
    for (;;)
        CR_AWAIT(me->r, once_more(&asked));
}

static void resume_by_hand(void)
{
    static struct little frame;
    asked = false;
    frame.task = CR_TASK(resumed_often);
    for (int i = 0; i < RESUMES; i++) {
        if (frame.task.at->next(&frame.task) != CR_WAITS)
            abort();
    }
}

static void run_resume(const char *n, int ms)
{
    bench_batches(n, ms, resume_by_hand, RESUMES);
}

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
struct parked {
    struct cr_task task;
    char locals[200];
};

static struct cr_sem gate;
static size_t frame_bytes;

/* Not kept: what comes of it is the same to all. */
static int parks(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, parks);
    CR_AWAIT(r, cr_task_sem_wait(task, &gate, CR_FOREVER));
    running--;
    return r;
}

/* RSS and page tables of the process. */
static double resident_bytes(void)
{
    char line[128];
    double kilobytes = 0, value;
    FILE *file = fopen("/proc/self/status", "r");
    bench_need(file != NULL, "/proc/self/status");
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "VmRSS: %lf", &value) == 1 || sscanf(line, "VmPTE: %lf", &value) == 1)
            kilobytes += value;
    }
    fclose(file);
    return kilobytes * 1024;
}

static void measure_parked(void *unused)
{
    (void)unused;
    static struct parked frame;
    frame.task = CR_TASK(parks);
    double before = resident_bytes();
    int64_t begin_ns = bench_now_ns();
    for (running = 0; running < PARKED; running++)
        bench_need(cr_task_go(&frame.task, frame_bytes) == 0, "cr_task_go");
    cr_yield();
    cr_sleep(1);
    int64_t parked_ns = bench_now_ns();
    double after = resident_bytes();
    cr_sem_post(&gate, PARKED);
    while (running > 0)
        cr_yield();
    printf("%s %.4f\n", name, (after - before) / PARKED);
    printf("%s-spawn %.4f\n", name, (double)(parked_ns - begin_ns) / PARKED);
    printf("%s-wake %.4f\n", name, (double)(bench_now_ns() - parked_ns) / PARKED);
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
    frame_bytes = sizeof(struct cr_task) + (size_t)atoi(strrchr(n, '-') + 1);
    run(n, ms, measure_parked);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"resume", run_resume},    {"yield", run_yield},        {"spawn-one", run_one},
                                              {"spawn-batch", run_batch}, {"parked-0", run_parked}, {"parked-200", run_parked},
                                              {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
