#include "sched/pool.h"

#include <time.h>

#include "os/os.h"
#include "sched/sched.h"

#define IDLE_NS (5 * CR_SEC)

enum state { QUEUED, BEGUN, DONE };

struct job {
    struct cr__post post;       /* sent when it is done */
    struct cr__list link;       /* while queued */
    void (*fn)(void *arg);
    void *arg;
    struct cr__record *record;  /* who waits */
    struct cr__worker *worker;  /* where it waits, or did when it began to */
    enum state state;
};

struct cr__pool_thread {
    struct cr__pool_thread *next; /* in pool->idle */
    pthread_cond_t wake;
    struct job *job;              /* given by who took it from there */
    bool joins;                   /* another one ended before */
    pthread_t before;
};

static __thread struct cr__sched *works_for;

struct cr__sched *cr__pool_here(void)
{
    return works_for;
}

/* Deadlines are of the monotonic clock. */
static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void cr__pool_init(struct cr__pool *pool, unsigned max_threads)
{
    *pool = (struct cr__pool){.max_threads = max_threads ? max_threads : CR__POOL_THREADS, .idle_ns = IDLE_NS};
    pthread_mutex_init(&pool->lock, NULL);
    init_cond(&pool->none_left);
    cr__list_init(&pool->queue);
}

void cr__pool_fini(struct cr__pool *pool)
{
    pthread_cond_destroy(&pool->none_left);
    pthread_mutex_destroy(&pool->lock);
}

void cr__pool_worker_init(struct cr__worker *worker)
{
    cr__slab_init(&worker->jobs, cr__round_up(sizeof(struct job), 16), CR__MEM_OTHER);
    cr__worker_keeps(worker, &worker->jobs);
}

/* ---- A thread ----------------------------------------------------------------------------------------------- */

/* On the job's worker. The coroutine may have been woken before that, to no avail: then it has yet to look. */
static void on_done(struct cr__worker *worker, struct cr__post *post)
{
    struct job *job = CR__CONTAINER(post, struct job, post);
    struct cr__pool *pool = &worker->sched->pool;
    struct cr__record *record = job->record;
    pthread_mutex_lock(&pool->lock);
    job->state = DONE;
    bool claimed = cr__park_claim(&record->word, CR__WOKEN, worker->alone);
    pthread_mutex_unlock(&pool->lock); /* from here on the job is the coroutine's */
    if (claimed)
        cr__ready(worker, record);
}

static void leave_idle(struct cr__pool *pool, struct cr__pool_thread *me)
{
    struct cr__pool_thread **link = &pool->idle;
    while (*link != me)
        link = &(*link)->next;
    *link = me->next;
}

/* Waits for a job as long as is worth while. The pool is locked. */
static struct job *idle_locked(struct cr__pool *pool, struct cr__pool_thread *me)
{
    int64_t until_ns = cr__os_kernel_ns() + pool->idle_ns;
    struct timespec until = {until_ns / CR_SEC, until_ns % CR_SEC};
    me->job = NULL;
    me->next = pool->idle;
    pool->idle = me;
    int r = 0;
    while (!me->job && !pool->closing && r == 0)
        r = pthread_cond_timedwait(&me->wake, &pool->lock, &until);
    if (!me->job)
        leave_idle(pool, me);
    return me->job;
}

/* The next job; NULL: the thread is to end, and nobody counts on it any more. */
static struct job *next_job(struct cr__pool *pool, struct cr__pool_thread *me)
{
    struct job *job = NULL;
    pthread_mutex_lock(&pool->lock);
    if (!cr__list_empty(&pool->queue)) {
        job = CR__CONTAINER(pool->queue.next, struct job, link);
        cr__list_remove(&job->link);
        job->state = BEGUN;
    } else if (!pool->closing) {
        job = idle_locked(pool, me);
    }
    if (!job) {
        me->joins = pool->some_ended;
        me->before = pool->last_ended;
        pool->some_ended = true;
        pool->last_ended = pthread_self();
        if (--pool->threads == 0)
            pthread_cond_signal(&pool->none_left);
    }
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *thread_main(void *arg)
{
    struct job *job = arg;
    struct cr__pool_thread me = {0};
    works_for = job->worker->sched;
    struct cr__pool *pool = &works_for->pool;
    init_cond(&me.wake);
    do {
        job->fn(job->arg);
        cr__post(job->worker, &job->post);
    } while ((job = next_job(pool, &me)) != NULL);
    pthread_cond_destroy(&me.wake);
    if (me.joins)
        pthread_join(me.before, NULL);
    return NULL;
}

/* Its asynchronous signals are blocked, as the worker's that makes it are. */
static bool make_thread_locked(struct cr__pool *pool, struct job *job)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_main, job) != 0)
        return false;
    pool->threads++;
    return true;
}

/* ---- On the worker ------------------------------------------------------------------------------------------ */

/* 1: it has begun; 0: it is queued; -EAGAIN: there is no thread at all, and none can be made. */
static int submit(struct cr__pool *pool, struct job *job)
{
    int r = 1;
    pthread_mutex_lock(&pool->lock);
    struct cr__pool_thread *idle = pool->idle;
    job->state = BEGUN;
    if (idle) {
        pool->idle = idle->next;
        idle->job = job;
        pthread_cond_signal(&idle->wake);
    } else if (pool->threads >= pool->max_threads || !make_thread_locked(pool, job)) {
        job->state = QUEUED;
        r = pool->threads > 0 ? 0 : -EAGAIN;
        if (r == 0)
            cr__list_push_back(&pool->queue, &job->link);
    }
    pthread_mutex_unlock(&pool->lock);
    return r;
}

/* Begins to wait, as is agreed under the lock with whoever will end it. 1: not needed any more; 0: suspend; -errno: the job is withdrawn. */
static int begin_wait(struct cr__worker *w, struct cr__record *me, struct job *job, int64_t deadline_ns)
{
    struct cr__pool *pool = &w->sched->pool;
    pthread_mutex_lock(&pool->lock);
    int r = job->state == DONE ? 1 : cr__wait_begin(w, me, CR__WAIT_BLOCKING, job, deadline_ns);
    if (r < 0 && job->state == QUEUED)
        cr__list_remove(&job->link);
    else if (r < 0)
        r = 1; /* it has begun: see wait_for */
    pthread_mutex_unlock(&pool->lock);
    return r;
}

/* Until it has begun (the caller can't see when): deadlines and cancellations count. Then, masked from them, until it is done. */
static int wait_for(struct cr__record *me, struct job *job, int64_t deadline_ns, bool begun)
{
    int r = 0;
    struct cr__worker *w = cr__worker_here();
    if (!begun) {
        while ((r = begin_wait(w, me, job, deadline_ns)) == 0) {
            r = cr__wait_suspend(w, me, deadline_ns);
            w = cr__worker_here();
            if (r == 0)
                return 0;
        }
        if (r < 0)
            return r;
    }
    struct cr__mask mask = cr__mask(me, CR_FOREVER);
    while (begin_wait(w, me, job, CR_FOREVER) == 0) {
        (void)cr__wait_suspend(w, me, CR_FOREVER);
        w = cr__worker_here();
    }
    cr__unmask(me, mask);
    return 0;
}

static bool is_cancelled(struct cr__worker *w, struct cr__record *me)
{
    if (!cr__park_cancelled(atomic_load_explicit(&me->word, memory_order_relaxed)))
        return false;
    cr__breathe(w);
    return true;
}

static int run_on_thread(struct cr__worker *w, struct cr__record *me, void (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    struct job *job = cr__slab_get(&w->jobs);
    if (!job)
        return -ENOMEM;
    *job = (struct job){.post = {.fn = on_done, .promised = true}, .fn = fn, .arg = arg, .record = me, .worker = w};
    cr__sched_promise(w->sched);
    int r = submit(&w->sched->pool, job);
    if (r >= 0)
        r = wait_for(me, job, deadline_ns, r > 0);
    w = cr__worker_here();
    if (r < 0)
        cr__sched_promise_kept(w->sched); /* nobody will tell of it */
    cr__slab_put(&w->jobs, job);
    return r;
}

int cr__blocking_until(struct cr__worker *w, struct cr__record *me, void (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    return is_cancelled(w, me) ? -ECANCELED : run_on_thread(w, me, fn, arg, deadline_ns);
}

int cr_blocking_until(void (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    cr__handed(arg);
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    if (!fn)
        return -EINVAL;
    if (is_cancelled(w, me))
        return -ECANCELED;
    cr__pin_stacks(w, me); /* fn may work with what lies on them */
    int r = run_on_thread(w, me, fn, arg, deadline_ns);
    cr__unpin_stacks(cr__worker_here(), me);
    return r;
}

int cr_blocking(void (*fn)(void *arg), void *arg)
{
    cr__handed(arg);
    return cr_blocking_until(fn, arg, CR_FOREVER);
}

/* ---- The end ------------------------------------------------------------------------------------------------ */

void cr__pool_close(struct cr__sched *s)
{
    struct cr__pool *pool = &s->pool;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    while (!cr__list_empty(&pool->queue)) {
        cr__list_remove(pool->queue.next);
        cr__sched_promise_kept(s);
    }
    for (struct cr__pool_thread *idle = pool->idle; idle; idle = idle->next)
        pthread_cond_signal(&idle->wake);
    while (pool->threads > 0)
        pthread_cond_wait(&pool->none_left, &pool->lock);
    pthread_t last = pool->last_ended;
    bool join = pool->some_ended;
    pthread_mutex_unlock(&pool->lock);
    if (join)
        pthread_join(last, NULL);
}
