/* Peer: State Threads. It has no yield but st_usleep(0), which looks at the clock and polls; what is measured is
 * its cheapest way to hand over: each thread of a ring signals the condition of the next one, and waits for its
 * own. */
#include <st.h>
#include "bench.h"

enum { THREADS = 1000, ROUNDS = 200, SPAWNS = 1000, STACK_BYTES = 65536 };

static st_cond_t turn[THREADS], done;

static void *hand_over(void *arg)
{
    intptr_t me = (intptr_t)arg;
    for (;;) {
        st_cond_wait(turn[me]);
        st_cond_signal(turn[(me + 1) % THREADS]);
    }
    return NULL;
}

static void *first_hands_over(void *arg)
{
    (void)arg;
    for (int i = 1;; i++) {
        if (i % ROUNDS == 0)
            st_cond_signal(done);
        st_cond_signal(turn[1]);
        st_cond_wait(turn[0]);
    }
    return NULL;
}

static void yields(void)
{
    st_cond_wait(done);
}

static void run_yield(const char *name, int milliseconds)
{
    bench_need(st_init() == 0, "st_init");
    done = st_cond_new();
    for (intptr_t i = 0; i < THREADS; i++)
        turn[i] = st_cond_new();
    for (intptr_t i = 1; i < THREADS; i++)
        bench_need(st_thread_create(hand_over, (void *)i, 0, STACK_BYTES) != NULL, "st_thread_create");
    bench_need(st_thread_create(first_hands_over, NULL, 0, STACK_BYTES) != NULL, "st_thread_create");
    bench_batches(name, milliseconds, yields, (double)THREADS * ROUNDS);
}

static void *end_at_once(void *unused)
{
    return unused;
}

static void spawn_one_at_a_time(void)
{
    for (int i = 0; i < SPAWNS; i++)
        st_thread_join(st_thread_create(end_at_once, NULL, 1, STACK_BYTES), NULL);
}

static void run_one(const char *name, int milliseconds)
{
    bench_need(st_init() == 0, "st_init");
    bench_batches(name, milliseconds, spawn_one_at_a_time, SPAWNS);
}

static int running;

static void *count_down(void *unused)
{
    if (--running == 0)
        st_cond_signal(done);
    return unused;
}

static void spawn_in_batches(void)
{
    for (running = 0; running < SPAWNS; running++)
        bench_need(st_thread_create(count_down, NULL, 0, STACK_BYTES) != NULL, "st_thread_create");
    st_cond_wait(done);
}

static void run_batch(const char *name, int milliseconds)
{
    bench_need(st_init() == 0, "st_init");
    done = st_cond_new();
    bench_batches(name, milliseconds, spawn_in_batches, SPAWNS);
}

/* Parked at a condition, with 200 bytes of live locals. */
enum { LOCALS_BYTES = 200, PARKED_STACK_BYTES = 16384 };

static void *park(void *unused)
{
    char locals[LOCALS_BYTES];
    memset(locals, running, sizeof locals);
    running++;
    __asm__ volatile("" : : "r"(locals) : "memory");
    st_cond_wait(done);
    __asm__ volatile("" : : "r"(locals) : "memory");
    return unused;
}

static void run_parked(const char *name, int milliseconds)
{
    (void)milliseconds;
    int count = bench_count(name);
    bench_need(st_init() == 0, "st_init");
    done = st_cond_new();
    double before = bench_memory_bytes();
    for (int i = 0; i < count; i++) {
        bench_need(st_thread_create(park, NULL, 0, PARKED_STACK_BYTES) != NULL, "st_thread_create");
        if (i % THREADS == 0)
            st_usleep(0);
    }
    while (running < count)
        st_usleep(0);
    printf("%s %.4f\n", name, (bench_memory_bytes() - before) / count);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"yield", run_yield}, {"spawn-one", run_one}, {"spawn-batch", run_batch},
        {"parked-100000", run_parked}, {"parked-1000000", run_parked}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
