/* cr_run, and the runtime in three steps for programs with a main loop of their own.
 *
 * Worker 0 runs on the thread that called cr_run, or on one of the runtime's own (cr_rt_start); the others have threads of their own. They go through
 * the same steps together, since each may touch what is another's: all are set up before the first coroutine runs, all have stopped
 * before the first one is taken down. */
#include "rt/rt.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/io.h"
#include "obs/obs.h"
#include "os/os.h"
#include "poll/poll.h"
#include "sched/census.h"
#include "sched/monitor.h"

#define MAX_GUARD_BYTES ((size_t)1 << 20)

struct cr_rt {
    struct cr__sched sched; /* first: cr__sched_of */
    struct cr_config config;
    void (*fn)(void *arg);
    void *arg;
    int result;
    bool started, running, takes_census;
    pthread_t thread;
    pthread_mutex_t gate;          /* closed until all threads are there, */
    bool all_there;                /* or it is clear that they will not be */
    struct start *starts;          /* one per worker */
    pthread_barrier_t step;        /* all workers are here */
    _Atomic int setup_result;      /* of the first worker that failed */
    struct cr__post stop_post;
};

struct cr_rt *cr__rt_of(struct cr__sched *sched)
{
    return CR__CONTAINER(sched, struct cr_rt, sched);
}

static int check_config(const struct cr_config *config)
{
    bool good = config->workers <= CR_WORKERS_MAX && config->policy <= CR_POLICY_STAR && config->poller <= CR_POLLER_URING &&
                config->stack <= CR_STACK_SHARED && config->shared_stacks <= CR__SHARED_STACKS_MAX && cr__stack_size(config->stack_size_bytes) != 0 &&
                !(config->stack == CR_STACK_SHARED && config->stack_size_bytes > CR_STACK_SHARED_MOST_BYTES) &&
                config->guard_size_bytes % 4096 == 0 && config->guard_size_bytes <= MAX_GUARD_BYTES &&
                config->report_fd >= 0 && (config->flags & ~(unsigned)CR_NO_SIGQUIT) == 0;
    return good ? 0 : -EINVAL;
}

/* ---- A worker's life ---------------------------------------------------------------------------------------- */

static int open_worker(struct cr_rt *rt, struct cr__worker *worker, unsigned index)
{
    cr__worker_init(worker, &rt->sched, index, &rt->config);
    int r = cr__poll_init(worker, rt->config.poller);
    if (r < 0)
        return r;
    r = cr__io_init(worker);
    if (index > 0)
        cr__signals_unblock_probe();
    if (r == 0 && index == 0) {
        r = cr__signals_enter(worker);
        if (r < 0)
            cr__io_fini(worker);
    }
    if (r < 0)
        cr__poll_fini(worker);
    return r;
}

/* Step by step, since what one closes may hold another's buffers. */
static void close_worker(struct cr_rt *rt, struct cr__worker *worker, bool opened)
{
    if (opened && worker->index == 0)
        cr__signals_leave(worker);
    if (opened)
        cr__services_end(worker);
    if (opened)
        cr__io_fini(worker);
    pthread_barrier_wait(&rt->step);
    if (atomic_load(&rt->setup_result) == 0)
        cr__worker_drain(worker); /* what others' services have sent when they were closed */
    if (opened)
        cr__poll_fini(worker);
}

static int run_opened(struct cr_rt *rt, struct cr__worker *worker)
{
    int r = 0;
    if (worker->index == 0) {
        cr__watch_start(&rt->sched);
        r = cr__spawn(worker, NULL, NULL, rt->fn, rt->arg, NULL);
    }
    if (r == 0)
        r = cr__worker_run(worker);
    else
        cr__sched_finish(&rt->sched, r);
    if (worker->index == 0)
        cr__watch_stop(&rt->sched);
    pthread_barrier_wait(&rt->step); /* all have stopped; what is dropped may be another's */
    if (worker->index == 0)
        cr__pool_close(&rt->sched);
    cr__worker_drain(worker);
    cr__worker_drop(worker);
    pthread_barrier_wait(&rt->step);
    cr__worker_drain(worker); /* what others' destructors have sent: that an fd be closed here */
    cr__services_fall_silent(worker);
    return r;
}

/* All the steps of worker `index`, on its thread. The runtime's result, if it is worker 0's. */
static int run_worker(struct cr_rt *rt, unsigned index)
{
    struct cr__worker *worker = rt->sched.workers[index];
    int opened = open_worker(rt, worker, index), none = 0;
    if (opened < 0)
        atomic_compare_exchange_strong(&rt->setup_result, &none, opened);
    pthread_barrier_wait(&rt->step);
    int r = atomic_load(&rt->setup_result);
    if (r == 0)
        r = run_opened(rt, worker);
    pthread_barrier_wait(&rt->step);
    close_worker(rt, worker, opened == 0);
    pthread_barrier_wait(&rt->step); /* slabs last: others' objects were in them */
    cr__worker_fini(worker);
    return r;
}

struct start {
    struct cr_rt *rt;
    unsigned index;
    pthread_t thread;
};

static void *worker_main(void *arg)
{
    struct start *start = arg;
    struct cr_rt *rt = start->rt;
    pthread_mutex_lock(&rt->gate);
    bool go = rt->all_there;
    pthread_mutex_unlock(&rt->gate);
    if (go)
        run_worker(rt, start->index);
    return NULL;
}

/* Its asynchronous signals are worker 0's. */
static int start_thread(struct start *start)
{
    sigset_t before;
    cr__signals_block(&before);
    int r = pthread_create(&start->thread, NULL, worker_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

static int run_threads(struct cr_rt *rt, struct start *starts)
{
    unsigned made = 1;
    int r = 0;
    pthread_mutex_lock(&rt->gate);
    while (made < rt->sched.count && r == 0) {
        starts[made] = (struct start){.rt = rt, .index = made};
        r = start_thread(&starts[made]);
        made += r == 0;
    }
    rt->all_there = r == 0;
    pthread_mutex_unlock(&rt->gate);
    if (r == 0)
        r = run_worker(rt, 0);
    for (unsigned i = 1; i < made; i++)
        pthread_join(starts[i].thread, NULL);
    return r;
}

static int alloc_workers(struct cr__sched *s)
{
    s->workers = cr__mem_alloc(s->count * sizeof(*s->workers), CR__MEM_OTHER);
    for (unsigned i = 0; s->workers && i < s->count; i++) {
        s->workers[i] = cr__mem_alloc_aligned(sizeof(struct cr__worker), CR__MEM_OTHER);
        if (!s->workers[i])
            return -ENOMEM;
    }
    return s->workers ? 0 : -ENOMEM;
}

static void free_workers(struct cr__sched *s)
{
    for (unsigned i = 0; s->workers && i < s->count; i++)
        cr__mem_free(s->workers[i], sizeof(struct cr__worker), CR__MEM_OTHER);
    cr__mem_free(s->workers, s->count * sizeof(*s->workers), CR__MEM_OTHER);
    s->workers = NULL;
}

/* How many run, and whether one of them does under a seed. That one has the process's clock: so it runs by itself. */
static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned process_runs;
static bool process_has_seed;

static int enter_process(const struct cr_rt *rt)
{
    int r = cr__fork_watch();
    if (r < 0)
        return r;
    pthread_mutex_lock(&process_lock);
    bool alone = process_runs == 0 || !(process_has_seed || rt->config.seed);
    if (alone) {
        process_runs++;
        process_has_seed = rt->config.seed != 0;
    }
    pthread_mutex_unlock(&process_lock);
    if (alone)
        return 0;
    cr__fork_unwatch();
    cr__report(rt->sched.report_fd, "crore: a runtime under a seed is the only one of its process while it runs\n");
    return -EBUSY;
}

static void leave_process(void)
{
    pthread_mutex_lock(&process_lock);
    if (--process_runs == 0)
        process_has_seed = false;
    pthread_mutex_unlock(&process_lock);
    cr__fork_unwatch();
}

static int run_under_seed(struct cr_rt *rt, struct start *starts)
{
    struct cr__sched *s = &rt->sched;
    if (s->seed == 0)
        return run_threads(rt, starts);
    int r = cr__fate.open(s);
    if (r < 0)
        return r;
    s->fate = &cr__fate;
    r = run_threads(rt, starts);
    cr__fate.close(s, r);
    return r;
}

/* enter_process comes before. */
static int run(struct cr_rt *rt)
{
    struct cr__sched *s = &rt->sched;
    cr__conn_default_net(&cr__kernel_net);
    atomic_store_explicit(&s->take_over, cr__server_take_over, memory_order_relaxed);
    atomic_store_explicit(&s->take_signals, cr__signals_take_over, memory_order_relaxed);
    cr__waits_describe();
    int r = alloc_workers(s);
    if (r == 0 && rt->takes_census)
        r = cr__census_open(s);
    struct start *starts = rt->starts = r == 0 ? cr__mem_alloc(s->count * sizeof(*starts), CR__MEM_OTHER) : NULL;
    if (starts) {
        cr__pool_init(&s->pool, rt->config.max_blocking_threads);
        pthread_mutex_init(&rt->gate, NULL);
        pthread_barrier_init(&rt->step, NULL, s->count);
        r = run_under_seed(rt, starts);
        pthread_barrier_destroy(&rt->step);
        pthread_mutex_destroy(&rt->gate);
        cr__pool_fini(&s->pool);
        cr__mem_free(starts, s->count * sizeof(*starts), CR__MEM_OTHER);
    } else {
        r = -ENOMEM;
    }
    cr__census_close(s);
    cr__sched_abandon(s);
    free_workers(s);
    cr__depot_trim(); /* nobody's loop does it any more */
    leave_process();
    return r;
}

/* ---- The public calls --------------------------------------------------------------------------------------- */

static int init(struct cr_rt *rt, const struct cr_config *config)
{
    if (config)
        rt->config = *config;
    int r = check_config(&rt->config);
    if (r == 0)
        r = cr__wishes(&rt->config, &rt->takes_census);
    rt->sched.count = rt->config.workers;
    rt->sched.seed = rt->config.seed;
    rt->sched.budget_bytes = rt->config.memory_budget_bytes;
    rt->sched.slow_ns = rt->config.slow_ns ? rt->config.slow_ns : CR__SLOW_DEFAULT_NS;
    rt->sched.tells_at_quit = !(rt->config.flags & CR_NO_SIGQUIT);
    rt->sched.report_fd = rt->config.report_fd ? rt->config.report_fd : STDERR_FILENO;
    return r;
}

int cr_run(void (*fn)(void *arg), void *arg, const struct cr_config *config)
{
    if (cr__forked())
        return -EPERM;
    if (cr__worker_here())
        return -EBUSY;
    if (!fn)
        return -EINVAL;
    struct cr_rt *rt = cr__mem_alloc_aligned(sizeof(*rt), CR__MEM_OTHER);
    if (!rt)
        return -ENOMEM;
    int r = init(rt, config);
    rt->fn = fn;
    rt->arg = arg;
    if (r == 0)
        r = enter_process(rt);
    if (r == 0)
        r = run(rt);
    cr__mem_free(rt, sizeof(*rt), CR__MEM_OTHER);
    return r;
}

int cr_rt_create(struct cr_rt **out, const struct cr_config *config)
{
    if (cr__forked())
        return -EPERM;
    struct cr_rt *rt = cr__mem_alloc_aligned(sizeof(*rt), CR__MEM_OTHER);
    if (!rt)
        return -ENOMEM;
    int r = init(rt, config);
    if (r < 0) {
        cr__mem_free(rt, sizeof(*rt), CR__MEM_OTHER);
        return r;
    }
    rt->sched.stoppable = true;
    *out = rt;
    return 0;
}

static void *thread_main(void *arg)
{
    struct cr_rt *rt = arg;
    rt->result = run(rt);
    return NULL;
}

int cr_rt_start(struct cr_rt *rt, void (*fn)(void *arg), void *arg)
{
    if (cr__forked())
        return -EPERM;
    if (!fn)
        return -EINVAL;
    if (rt->started)
        return -EALREADY;
    int r = enter_process(rt);
    if (r < 0)
        return r;
    rt->fn = fn;
    rt->arg = arg;
    rt->started = rt->running = true; /* before: its first coroutine may ask */
    r = -pthread_create(&rt->thread, NULL, thread_main, rt);
    if (r < 0) {
        rt->started = rt->running = false;
        leave_process();
    }
    return r;
}

static bool is_inside(const struct cr_rt *rt)
{
    const struct cr__worker *here = cr__worker_here();
    return here && here->sched == &rt->sched;
}

int cr_rt_wait(struct cr_rt *rt)
{
    if (cr__forked())
        return -EPERM;
    if (!rt->running)
        return -EINVAL;
    if (is_inside(rt))
        return -EPERM;
    pthread_join(rt->thread, NULL);
    rt->running = false;
    return rt->result;
}

static void on_stop(struct cr__worker *worker, struct cr__post *post)
{
    (void)post;
    if (worker) /* else it has ended before its workers began */
        cr__sched_cancel_all(worker->sched, worker);
}

int cr_rt_stop(struct cr_rt *rt)
{
    if (cr__forked())
        return -EPERM;
    if (!rt->running)
        return -EINVAL;
    if (is_inside(rt))
        return -EPERM;
    rt->stop_post.fn = on_stop;
    cr__sched_tell(&rt->sched, &rt->stop_post); /* if it has ended meanwhile: all the better */
    return cr_rt_wait(rt);
}

void cr_rt_destroy(struct cr_rt *rt)
{
    if (!rt || cr__forked()) /* the threads are the parent's */
        return;
    CR__ASSERT(!rt->running);
    cr__sched_abandon(&rt->sched); /* what was sent to one that never ran */
    cr__mem_free(rt, sizeof(*rt), CR__MEM_OTHER);
}

#define TEXT(x) #x
#define VERSION(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *cr_version(void)
{
    return VERSION(CR_VERSION_MAJOR, CR_VERSION_MINOR, CR_VERSION_PATCH);
}
