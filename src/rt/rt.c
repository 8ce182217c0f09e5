/* cr_run, and the runtime in three steps for programs with a main loop of their own.
 *
 * A started runtime has one thread, the worker's. From outside comes one wish, to cancel everything, by an eventfd that the worker
 * watches. The thread's result is read after it has been joined. */
#include "rt/rt.h"

#include <pthread.h>
#include <stdatomic.h>

#include "io/io.h"
#include "os/os.h"
#include "poll/poll.h"

#define MAX_GUARD_BYTES ((size_t)1 << 20)

struct cr_rt {
    struct cr_config config;
    void (*fn)(void *arg);
    void *arg;
    int result;
    bool started, running;
    pthread_t thread;
    int stop_fd;                   /* -1: none */
    struct cr__poll_watch stop_watch;
    struct cr__worker *worker;
};

static int check_config(const struct cr_config *config)
{
    bool good = config->workers <= 1 && config->policy <= CR_POLICY_STAR && cr__stack_size(config->stack_size_bytes) != 0 &&
                config->guard_size_bytes % 4096 == 0 && config->guard_size_bytes <= MAX_GUARD_BYTES &&
                config->report_fd >= 0;
    return good ? 0 : -EINVAL;
}

static void on_stop(void *arg)
{
    struct cr_rt *rt = arg;
    cr__worker_cancel_all(rt->worker);
}

/* Opens what a worker needs, in this order; `run_worker` closes it in the other. */
static int run_opened(struct cr_rt *rt, struct cr__worker *worker)
{
    if (rt->stop_fd >= 0) {
        rt->stop_watch = (struct cr__poll_watch){.fd = rt->stop_fd, .fn = on_stop, .arg = rt};
        int r = cr__poll_watch(worker, &rt->stop_watch);
        if (r < 0)
            return r;
    }
    int r = cr__signals_enter(worker);
    if (r < 0)
        return r;
    r = cr__spawn(worker, NULL, rt->fn, rt->arg, NULL);
    if (r == 0)
        r = cr__worker_run(worker);
    cr__signals_leave(worker);
    return r;
}

static int run_worker(struct cr_rt *rt)
{
    struct cr__worker *worker = cr__mem_alloc(sizeof(*worker), CR__MEM_OTHER);
    if (!worker)
        return -ENOMEM;
    rt->worker = worker;
    cr__conn_default_net(&cr__kernel_net);
    cr__worker_init(worker, &rt->config);
    worker->owner = rt;
    worker->stoppable = rt->stop_fd >= 0;
    int r = cr__poll_init(worker);
    if (r == 0) {
        r = cr__io_init(worker);
        if (r == 0) {
            r = run_opened(rt, worker);
            cr__worker_drop(worker);
            cr__io_fini(worker);
        }
        cr__poll_fini(worker);
    }
    cr__worker_fini(worker);
    cr__mem_free(worker, sizeof(*worker), CR__MEM_OTHER);
    return r;
}

int cr_run(void (*fn)(void *arg), void *arg, const struct cr_config *config)
{
    struct cr_rt rt = {.config = config ? *config : (struct cr_config){0}, .fn = fn, .arg = arg, .stop_fd = -1};
    if (cr__worker_here())
        return -EBUSY;
    if (!fn || check_config(&rt.config) < 0)
        return -EINVAL;
    return run_worker(&rt);
}

int cr_rt_create(struct cr_rt **out, const struct cr_config *config)
{
    struct cr_config zero = {0};
    if (check_config(config ? config : &zero) < 0)
        return -EINVAL;
    struct cr_rt *rt = cr__mem_alloc(sizeof(*rt), CR__MEM_OTHER);
    if (!rt)
        return -ENOMEM;
    rt->config = config ? *config : zero;
    rt->stop_fd = cr__os_eventfd();
    if (rt->stop_fd < 0) {
        int r = rt->stop_fd;
        cr__mem_free(rt, sizeof(*rt), CR__MEM_OTHER);
        return r;
    }
    *out = rt;
    return 0;
}

static void *thread_main(void *arg)
{
    struct cr_rt *rt = arg;
    rt->result = run_worker(rt);
    return NULL;
}

int cr_rt_start(struct cr_rt *rt, void (*fn)(void *arg), void *arg)
{
    if (!fn)
        return -EINVAL;
    if (rt->started)
        return -EALREADY;
    rt->fn = fn;
    rt->arg = arg;
    rt->started = rt->running = true; /* before: its first coroutine may ask */
    int r = pthread_create(&rt->thread, NULL, thread_main, rt);
    if (r != 0)
        rt->started = rt->running = false;
    return -r;
}

static bool is_inside(const struct cr_rt *rt)
{
    const struct cr__worker *here = cr__worker_here();
    return here && here->owner == rt;
}

int cr_rt_wait(struct cr_rt *rt)
{
    if (!rt->running)
        return -EINVAL;
    if (is_inside(rt))
        return -EPERM;
    pthread_join(rt->thread, NULL);
    rt->running = false;
    return rt->result;
}

int cr_rt_stop(struct cr_rt *rt)
{
    if (!rt->running)
        return -EINVAL;
    if (is_inside(rt))
        return -EPERM;
    uint64_t one = 1;
    cr__os_write(rt->stop_fd, &one, sizeof(one));
    return cr_rt_wait(rt);
}

void cr_rt_destroy(struct cr_rt *rt)
{
    if (!rt)
        return;
    CR__ASSERT(!rt->running);
    cr__os_close(rt->stop_fd);
    cr__mem_free(rt, sizeof(*rt), CR__MEM_OTHER);
}

#define TEXT(x) #x
#define VERSION(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *cr_version(void)
{
    return VERSION(CR_VERSION_MAJOR, CR_VERSION_MINOR, CR_VERSION_PATCH);
}
