/* Peer: swapcontext, which asks the kernel for the signal mask on each switch. */
#include <ucontext.h>
#include "bench.h"

enum { ROUNDS = 20000, STACK_BYTES = 65536 };

static ucontext_t here, there;
static char stack[STACK_BYTES];

static void swap_forever(void)
{
    for (;;)
        swapcontext(&there, &here);
}

static void swap_all_rounds(void)
{
    for (int i = 0; i < ROUNDS; i++)
        swapcontext(&here, &there);
}

static void run(const char *name, int milliseconds)
{
    bench_need(getcontext(&there) == 0, "getcontext");
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    makecontext(&there, swap_forever, 0);
    bench_batches(name, milliseconds, swap_all_rounds, 2.0 * ROUNDS);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"switch", run}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
