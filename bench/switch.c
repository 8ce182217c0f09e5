/* Bare coroutines: one switch, there or back, in a loop of resume and yield. */
#include <crore/co.h>
#include "bench.h"

enum { ROUNDS = 1000000 };

static struct cr_co *co;

static void *yield_forever(void *unused)
{
    while (cr_co_yield(NULL) == 0)
        ;
    return unused;
}

static void resume_all_rounds(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        if (cr_co_resume(co, NULL) != 0)
            abort();
    }
}

static void run(const char *name, int milliseconds, unsigned flags)
{
    struct cr_attr attr = {.flags = flags};
    bench_need(cr_co_create(&co, yield_forever, &attr) == 0, "cr_co_create");
    bench_batches(name, milliseconds, resume_all_rounds, 2.0 * ROUNDS);
    cr_co_destroy(co);
}

static void run_inline(const char *name, int milliseconds)
{
    run(name, milliseconds, CR_FPU_SHARED);
}

static void run_saved(const char *name, int milliseconds)
{
    run(name, milliseconds, 0);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"inline", run_inline}, {"saved", run_saved}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
