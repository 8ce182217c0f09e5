/* Peer: a hundred threads and the C library's mutex, on one processor or two. */
#include <pthread.h>
#include <sched.h>
#include "bench.h"

enum { CONTENDERS = 100, LOCKED_PER_LOOK = 256, STACK_BYTES = 65536 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t counter, end_ns, shares[CONTENDERS];

/* A look at the clock costs more than a lock. */
static void *contend(void *share)
{
    int64_t mine = 0;
    while (bench_now_ns() < end_ns) {
        for (int i = 0; i < LOCKED_PER_LOOK; i++) {
            pthread_mutex_lock(&mutex);
            counter++;
            pthread_mutex_unlock(&mutex);
        }
        mine += LOCKED_PER_LOOK;
    }
    *(int64_t *)share = mine;
    return NULL;
}

static void use_processors(int count)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu = 0; cpu < count; cpu++)
        CPU_SET(cpu, &set);
    bench_need(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

static void run(const char *name, int milliseconds, int processors)
{
    pthread_t threads[CONTENDERS];
    pthread_attr_t attr;
    use_processors(processors);
    bench_need(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, STACK_BYTES) == 0, "pthread_attr");
    int64_t begin_ns = bench_now_ns();
    end_ns = begin_ns + milliseconds * INT64_C(1000000);
    for (int i = 0; i < CONTENDERS; i++)
        bench_need(pthread_create(&threads[i], &attr, contend, &shares[i]) == 0, "pthread_create");
    for (int i = 0; i < CONTENDERS; i++)
        pthread_join(threads[i], NULL);
    bench_shares(name, bench_now_ns() - begin_ns, shares, CONTENDERS, counter);
}

static void run_one(const char *name, int milliseconds)
{
    run(name, milliseconds, 1);
}

static void run_two(const char *name, int milliseconds)
{
    run(name, milliseconds, 2);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"mutex-1", run_one}, {"mutex-2", run_two}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
