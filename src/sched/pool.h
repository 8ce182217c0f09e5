/* Threads for calls that block: a bounded number per runtime, made when there is work for them, ended when there has been none for a while.
 *
 * A job is QUEUED until a thread is free, BEGUN from the moment at which it has one, DONE when its worker has been told. Who waits for it may
 * withdraw it while it is queued. Once it has begun, it is waited for, come what may: it works with what lies on the waiter's stack.
 *
 * Idle threads are taken last in, first out, so that those of which there are too many stay idle, and end. The last one to end joins the one that
 * ended before it, so at most one is left to be joined.
 *
 * Rejected: jobs taken from the queue by threads that are woken for it (a free thread would not mean that the job has begun, so a deadline could
 * come between); a pool for the process (a runtime's end would have to find its own jobs). */
#ifndef CR__POOL_H
#define CR__POOL_H

#include <pthread.h>

#include "base/base.h"

#define CR__POOL_THREADS 64 /* unless the configuration says otherwise */

struct cr__sched;
struct cr__worker;
struct cr__pool_thread;

struct cr__pool {
    pthread_mutex_t lock;         /* of all below, and of the jobs' states */
    struct cr__list queue;        /* jobs, first in, first out; only while no thread is idle */
    struct cr__pool_thread *idle;
    unsigned threads, max_threads;
    int64_t idle_ns;              /* how long a thread stays without work */
    bool closing;
    bool some_ended;              /* last_ended is to be joined */
    pthread_t last_ended;
    pthread_cond_t none_left;
};

void cr__pool_init(struct cr__pool *pool, unsigned max_threads);
void cr__pool_fini(struct cr__pool *pool);

/* The worker's part. */
void cr__pool_worker_init(struct cr__worker *worker);

/* Drops what is queued, waits for what has begun, and joins all threads. All workers have stopped, and still take what is sent to them. */
void cr__pool_close(struct cr__sched *sched);

/* The runtime that the calling thread blocks for; NULL if it is not of a pool. */
struct cr__sched *cr__pool_here(void);

#endif
