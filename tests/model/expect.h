/* What litmus_test.c and explorer_test.c share: short forms, and what is expected to be found. */
#ifndef MODEL_EXPECT_H
#define MODEL_EXPECT_H

#include "explorer.h"

#define RELAXED memory_order_relaxed
#define ACQUIRE memory_order_acquire
#define RELEASE memory_order_release
#define SEQ_CST memory_order_seq_cst
#define LOAD(x, order) atomic_load_explicit(&(x), order)
#define STORE(x, value, order) atomic_store_explicit(&(x), value, order)
#define ADD(x, n, order) atomic_fetch_add_explicit(&(x), n, order)

#define THREAD(name) static void name(void *arg __attribute__((unused)))
#define THREADS(name, ...)                                                                                             \
    static void name(void)                                                                                             \
    {                                                                                                                  \
        void (*const fns[])(void *) = {__VA_ARGS__};                                                                   \
        for (size_t i = 0; i < sizeof(fns) / sizeof(*fns); i++)                                                        \
            model_thread(fns[i], (void *)i);                                                                           \
    }

static _Atomic int x, y;
static int data, seen[8]; /* by thread, or read */

static struct model_result last;

static void expect_with(const struct model_options *options, enum model_outcome outcome, void (*setup)(void), void (*check)(void))
{
    last = model_explore(options, setup, check);
    if (last.outcome != outcome)
        printf("# found: %s\n%s", last.what, last.trace);
    CHECK_EQ(last.outcome, outcome);
}

static void expect(enum model_outcome outcome, void (*setup)(void), void (*check)(void))
{
    expect_with(NULL, outcome, setup, check);
}

#endif
