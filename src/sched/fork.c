/* A child of fork while a runtime runs. It has one thread, which may be a worker's, in the midst of a coroutine; the others, and who holds which lock,
 * are gone. So it has no runtime: the thread is no worker any more, whose calls refuse for that reason, and what would begin or end a runtime
 * refuses, too. Its signals are the program's again, so what it execs starts with these. */
#include <pthread.h>
#include <stdatomic.h>

#include "sched/sched.h"

static _Atomic unsigned runtimes;
static _Atomic bool forked;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int watch_result;

static void in_child(void)
{
    if (atomic_load_explicit(&runtimes, memory_order_relaxed) == 0)
        return;
    atomic_store_explicit(&forked, true, memory_order_relaxed);
    struct cr__worker *worker = cr__worker_here();
    struct cr__sched *sched = worker ? worker->sched : cr__pool_here();
    if (worker)
        cr__self_get()->worker = NULL;
    if (sched)
        pthread_sigmask(SIG_SETMASK, &sched->program_mask, NULL);
}

static void watch(void)
{
    watch_result = -pthread_atfork(NULL, NULL, in_child);
}

int cr__fork_watch(void)
{
    pthread_once(&once, watch);
    if (watch_result == 0)
        atomic_fetch_add_explicit(&runtimes, 1, memory_order_relaxed);
    return watch_result;
}

void cr__fork_unwatch(void)
{
    atomic_fetch_sub_explicit(&runtimes, 1, memory_order_relaxed);
}

bool cr__forked(void)
{
    return atomic_load_explicit(&forked, memory_order_relaxed);
}
