/* A model checker for small concurrent programs: what a test of tests/model includes. README.md here says how to write one; explorer.c how
 * it works.
 *
 *     static _Atomic int flag;
 *     static int data;
 *
 *     static void writer(void *unused)
 *     {
 *         data = 1;
 *         atomic_store_explicit(&flag, 1, memory_order_release);
 *     }
 *
 *     static void reader(void *unused)
 *     {
 *         if (atomic_load_explicit(&flag, memory_order_acquire))
 *             model_assert(data == 1);
 *     }
 *
 *     static void setup(void)
 *     {
 *         model_thread(writer, NULL);
 *         model_thread(reader, NULL);
 *     }
 *
 *     TEST(what_is_written_before_a_release_is_seen_behind_an_acquire)
 *     {
 *         model_run(setup, NULL);
 *     }
 *
 * Options of a test program, besides those of ../test.h: --mutate weakens each memory order in turn; NAME --repeat=CHOICES shows one
 * execution, step by step, as a failure printed it. */
#ifndef MODEL_EXPLORER_H
#define MODEL_EXPLORER_H

#ifndef MODEL_INSIDE /* the explorer's own files */
#define main test_main /* ours is in mutate.c */
#include "../test.h"
#undef main
#endif

#include <stdatomic.h>
#include <stdbool.h>

/* ---- In setup ----------------------------------------------------------------------------------------------- */

/* Adds a simulated thread; all start when setup has returned, and see what it wrote. Returns its number, from 0; up to 8. */
int model_thread(void (*fn)(void *arg), void *arg);

/* That thread may still be parked, or spin, when all others have ended. */
void model_daemon(int thread);

/* fn(thread) is called whenever another simulated thread goes on, by the explorer: thread-local variables of the code under test, which would
 * be one for all, are given that thread's values there. */
void model_on_switch(void (*fn)(int thread));

/* How a location is called in traces; without, it is SYMBOL+OFFSET. */
void model_name(const volatile void *addr, const char *name);

/* ---- In threads --------------------------------------------------------------------------------------------- */

/* Must hold in every execution. In check, too. */
#define model_assert(cond) ((cond) ? (void)0 : model_failed(__FILE__, __LINE__, #cond))
void model_failed(const char *file, int line, const char *what);

/* The number of the running thread. */
int model_self(void);

/* A binary semaphore for each thread: park waits until there is a permit, and takes it; unpark gives it one, if it has none. What was
 * before unpark is seen behind the park; not so with the relaxed ones, which only wake: as a kernel's sleep does, if nothing may be built on it. */
void model_park(void);
void model_park_relaxed(void);
void model_unpark(int thread);
void model_unpark_relaxed(int thread);

/* Between two looks at something that another thread will change: the next round would be like the last one, were nothing new to be seen.
 * Counters of rounds must not matter. sched_yield, and on x86-64 the pause instruction, are this already. */
void model_spin(void);
#define model_wait(cond)                                                                                               \
    while (!(cond))                                                                                                    \
    model_spin()

/* 0 to n - 1: each is explored. */
int model_choose(int n);

/* ---- Running ------------------------------------------------------------------------------------------------ */

struct model_options {
    unsigned long executions_max; /* 0: 20 million. More are a failure, and nothing is shown */
    unsigned spin_rounds;         /* so many equal rounds of mere reads, without a model_spin, are a loop that spins; 0: 8 */
    bool weak_fails;              /* weak compare-and-swaps fail for no reason, too: at most once per thread and execution */
    bool unmutated;             /* takes too long to be run for each mutant: smaller tests do that */
    bool heap_reuses;             /* a thread's malloc gives what that thread freed last. Else nothing is used again, and what is freed is not touched */
};

enum model_outcome {
    MODEL_HOLDS,
    MODEL_ASSERTION, /* model_assert; or a crash */
    MODEL_RACE,      /* two accesses, at least one of them a write and at least one plain, neither of which happens before the other */
    MODEL_DEADLOCK,  /* parked or spinning threads that nobody will ever release */
    MODEL_MEMORY,    /* used after it was freed; beyond what was allocated */
    MODEL_ENDLESS,   /* more than MODEL_EVENTS (graph.h) atomic operations in one execution */
    MODEL_LIMIT,     /* executions_max */
    MODEL_MISUSE,    /* of the explorer */
    MODEL_BUFFERED,  /* mutants only: a load could see a store that it leads to, on hardware that buffers loads */
};

struct model_result {
    enum model_outcome outcome;
    unsigned long executions; /* distinct ones that went to their end */
    unsigned long cut;        /* that stopped before: a thread spun, or was parked, though what it waited for was there to be seen */
    unsigned events_max;
    double seconds;
    char what[512];           /* the failure, in a line */
    char trace[32768];        /* the choices, and step by step what happened; cut if long */
};

/* Explores all executions: setup once; in each the threads, and then check, which may be NULL. Prints how many there are. A failure is printed step by
 * step, and ends the test. One per TEST. */
#define model_run(setup, check) model__run_test(__func__, NULL, setup, check)
#define model_run_with(options, setup, check) model__run_test(__func__, options, setup, check)
void model__run_test(const char *name, const struct model_options *options, void (*setup)(void), void (*check)(void));

/* The same, but returns what was found: for tests of the explorer. */
struct model_result model_explore(const struct model_options *options, void (*setup)(void), void (*check)(void));

#endif
