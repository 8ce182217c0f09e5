/* A program for gdb_test.py to look at: coroutines in each state, parked some frames deep. With the argument "wait" it sleeps
 * at the end, so that a debugger may attach; with "abort" it leaves a core file where it stops first. With "kinds", or "kinds-abort", they are one
 * of each kind of stack, frozen or away where that is possible. */
#include <crore/crore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __clang__
#define DEEP __attribute__((noinline))
#else
#define DEEP __attribute__((noinline, noclone))
#endif

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            abort();                                                                                                   \
    } while (0)

volatile int after; /* keeps calls from being the last thing a function does */
struct cr_co *sleeper, *bare_inlined, *bare_called, *bare_new, *bare_ended;
static int (*volatile yield_of_the_library)(void **value);
static int ends[2];
static const char *how = "";

DEEP void sleeps_inner(void)
{
    cr_sleep(3600 * CR_SEC);
    after++;
}

DEEP void sleeps_outer(void)
{
    sleeps_inner();
    after++;
}

static void sleeper_main(void *unused)
{
    (void)unused;
    sleeps_outer();
    after++;
}

static void joiner_main(void *unused)
{
    (void)unused;
    (void)!cr_join(sleeper);
    after++;
}

static void reader_main(void *unused)
{
    struct cr_conn *conn;
    char c;
    (void)unused;
    MUST(cr_conn_from_fd(&conn, ends[0]));
    (void)!cr_read(conn, &c, 1);
    cr_close(conn);
}

DEEP void yields_inlined(int depth)
{
    if (depth > 0)
        yields_inlined(depth - 1);
    else
        (void)!cr_co_yield(NULL);
    after++;
}

static void *bare_inlined_main(void *unused)
{
    yields_inlined(2);
    after++;
    return unused;
}

DEEP void yields_by_call(void)
{
    (void)!yield_of_the_library(NULL);
    after++;
}

static void *bare_called_main(void *unused)
{
    yields_by_call();
    after++;
    return unused;
}

static void *bare_ended_main(void *unused)
{
    return unused;
}

/* Waits within a bare coroutine of its own. */
static void *inside_main(void *unused)
{
    sleeps_outer();
    after++;
    return unused;
}

DEEP void resumes(struct cr_co *co)
{
    (void)!cr_co_resume(co, NULL);
    after++;
}

static void outside_main(void *unused)
{
    struct cr_co *inside;
    (void)unused;
    MUST(cr_co_create(&inside, inside_main, NULL));
    resumes(inside);
    cr_co_destroy(inside);
}

static void ready_main(void *unused)
{
    (void)unused;
    while (!after)
        cr_yield();
    after++;
}

static void new_main(void *unused)
{
    (void)unused;
}

DEEP void stop_here(void)
{
    __asm__ volatile("");
}

DEEP void runs_inner(void)
{
    stop_here();
    if (strstr(how, "abort"))
        abort();
    after++;
}

static void *runs_bare_main(void *unused)
{
    runs_inner();
    return unused;
}

static void runner_main(void *unused)
{
    struct cr_co *bare;
    (void)unused;
    MUST(cr_sleep(50 * CR_MS));
    MUST(cr_go(new_main, NULL));
    runs_inner();
    MUST(cr_co_create(&bare, runs_bare_main, NULL));
    resumes(bare);
    cr_co_destroy(bare);
    if (strcmp(how, "wait") == 0) {
        puts("waiting");
        fflush(stdout);
        cr_sleep(3600 * CR_SEC);
    }
    puts("ends well");
    cr_shutdown();
}

struct waiting {
    struct cr_task task;
    struct inner {
        struct cr_task task;
    } inner;
    int r;
};

static int sleeps_task(struct cr_task *task)
{
    int r;
    CR_TASK_BEGIN(task, sleeps_task);
    CR_AWAIT(r, cr_task_sleep(task, cr_after(3600 * CR_SEC)));
    return r;
}

static int calls_task(struct cr_task *task)
{
    struct waiting *me = (struct waiting *)task;
    CR_TASK_BEGIN(task, calls_task);
    me->inner.task = CR_TASK(sleeps_task);
    CR_AWAIT(me->r, cr_task_call(task, &me->inner.task));
    return me->r;
}

static void all(void *unused)
{
    struct waiting task = {.task = CR_TASK(calls_task)};
    (void)unused;
    MUST(cr_spawn(&sleeper, sleeper_main, NULL, &(struct cr_attr){.name = "the sleeper"}));
    MUST(cr_go(joiner_main, NULL));
    MUST(cr_go(reader_main, NULL));
    MUST(cr_go(outside_main, NULL));
    MUST(cr_go(ready_main, NULL));
    MUST(cr_go(runner_main, NULL));
    MUST(cr_task_go(&task.task, sizeof(task)));
}

/* ---- Each kind of stack, and what is not on one ---------------------------------------------------------------- */

static volatile int *touched;

/* Its frame is as large as its argument says: so it finds it by a frame pointer. */
DEEP void keeps(int number)
{
    volatile int numbers[number % 10];
    touched = numbers;
    numbers[0] = number;
    cr_sleep(3600 * CR_SEC);
    numbers[0]++;
}

DEEP void keeps_more(int number)
{
    volatile int kept = number + 1000;
    keeps(number);
    after += kept;
}

static void keeper_main(void *arg)
{
    keeps_more((int)(intptr_t)arg);
    after++;
}

static void keeper(int number, const char *name, enum cr_stack_kind kind, size_t size_bytes)
{
    MUST(cr_spawn(NULL, keeper_main, (void *)(intptr_t)number, &(struct cr_attr){.name = name, .stack = kind, .stack_size_bytes = size_bytes}));
    MUST(cr_yield());
}

static uint64_t frozen(void)
{
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    return stats.frozen;
}

static int ends_task(struct cr_task *task)
{
    (void)task;
    return 7;
}

static void kinds(void *unused)
{
    struct cr_co *ended, *ended_task;
    struct waiting task = {.task = CR_TASK(calls_task)};
    struct cr_task ends = CR_TASK(ends_task);
    volatile int *of_virtual;
    (void)unused;
    keeper(15, "a static one", CR_STACK_STATIC, 0);
    keeper(25, "a packed one", CR_STACK_STATIC, CR_STACK_PACKED_BYTES);
    keeper(35, "a virtual one", CR_STACK_VIRTUAL, 0);
    keeper(45, "a touched one", CR_STACK_VIRTUAL, 0);
    of_virtual = touched;
    MUST(cr_spawn(&ended, new_main, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED}));
    MUST(cr_task_spawn(&ended_task, &ends, sizeof(ends), NULL));
    keeper(55, "an absent one", CR_STACK_SHARED, 0);
    keeper(65, "a present one", CR_STACK_SHARED, 0);
    MUST(cr_task_go(&task.task, sizeof(task)));
    for (int i = 0; i < 100 && frozen() < 2; i++)
        MUST(cr_sleep(10 * CR_MS));
    printf("%d frozen\n", (int)frozen());
    fflush(stdout);
    after = *of_virtual;
    MUST(cr_spawn(NULL, new_main, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED}));
    MUST(cr_task_go(&task.task, sizeof(task)));
    runs_inner();
    puts("ends well");
    cr_detach(ended);
    cr_detach(ended_task);
    cr_shutdown();
}

int main(int argc, char **argv)
{
    if (argc > 1)
        how = argv[1];
    if (strncmp(how, "kinds", 5) == 0)
        return cr_run(kinds, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .shared_stacks = 1, .freeze_after_ns = CR_MS}) == 0 ? 0 : 1;
    yield_of_the_library = cr_co_yield;
    MUST(cr_co_create(&bare_inlined, bare_inlined_main, NULL));
    MUST(cr_co_create(&bare_called, bare_called_main, NULL));
    MUST(cr_co_create(&bare_new, bare_ended_main, NULL));
    MUST(cr_co_create(&bare_ended, bare_ended_main, NULL));
    MUST(cr_co_resume(bare_inlined, NULL));
    MUST(cr_co_resume(bare_called, NULL));
    MUST(cr_co_resume(bare_ended, NULL));
    MUST(pipe(ends));
    return cr_run(all, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC}) == 0 ? 0 : 1;
}
