/* A hundred coroutines that do nothing but lock one mutex, count and unlock, for a fixed time. */
#include <crore/sync.h>
#include "runtime.h"

enum { CONTENDERS = 100, LOCKED_PER_LOOK = 256 };

static struct cr_mutex mutex;
static int64_t counter, end_ns, shares[CONTENDERS];

/* A look at the clock costs more than a lock. */
static void contend(void *share)
{
    int64_t mine = 0;
    while (bench_now_ns() < end_ns) {
        for (int i = 0; i < LOCKED_PER_LOOK; i++) {
            if (cr_mutex_lock(&mutex) != 0)
                abort();
            counter++;
            cr_mutex_unlock(&mutex);
        }
        mine += LOCKED_PER_LOOK;
    }
    *(int64_t *)share = mine;
}

static void measure(void *unused)
{
    struct cr_co *all[CONTENDERS];
    (void)unused;
    int64_t begin_ns = bench_now_ns();
    end_ns = begin_ns + case_milliseconds * INT64_C(1000000);
    for (int i = 0; i < CONTENDERS; i++) {
        struct cr_attr attr = {.flags = CR_FPU_SHARED}; /* Go and Tokio keep no control words either */
        bench_must(cr_spawn(&all[i], contend, &shares[i], &attr), "cr_spawn");
    }
    for (int i = 0; i < CONTENDERS; i++)
        bench_must(cr_join(all[i]), "cr_join");
    bench_shares(case_name, bench_now_ns() - begin_ns, shares, CONTENDERS, counter);
}

static void run(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"mutex-1", run}, {"mutex-2", run}, {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
