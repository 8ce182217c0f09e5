/* The scheduler of one worker: run queue, parking, timers, policies.
 *
 * A coroutine's way. cr__spawn makes a record and appends it to the run queue. When its turn comes it gets a stack (or waits
 * in `starved` for one), runs, and stops in one of three ways: it yields (stays ready, goes to the queue's end), parks (waits for
 * something), or ends. Each of them switches to the next ready coroutine ("chain") or to the worker's loop ("star"); the
 * chain returns to the loop, too, when nothing is ready or its budget of switches is used up. The loop polls, fires timers,
 * and starts the next chain.
 *
 * Parking. One word per record decides who ends a wait:
 *
 *        RUNNING --wait_begin--> WAITING --one CAS by whoever comes first--> WOKEN | TIMED_OUT | CANCELLED | CLOSED
 *           ^                                                                   |
 *           +---------------------- cr__wait_suspend returns -------------------+
 *
 * Invariants:
 *   1. Whoever moves the word from WAITING makes the coroutine ready, once; all others lose and touch nothing.
 *   2. After anything but WOKEN nothing was taken from what was waited for.
 *   3. What others hold while a coroutine waits (its node, its timer) lies in its record, never on its stack.
 *   4. `live` counts coroutines that have not ended; each is running, in the run queue, in `starved`, or WAITING.
 *   5. A record is put back when its coroutine has ended and no handle to it is left.
 *
 * Rejected: a run queue of pointers in an array (bounded, as stealing will want it): with one worker it has nothing over links in the
 * record, and needs an answer for when it is full. */
#ifndef CR__SCHED_H
#define CR__SCHED_H

#include <crore/rt.h>
#include <stdatomic.h>

#include "co/co.h"
#include "mem/mem.h"
#include "sched/wheel.h"

enum cr__wait_state { CR__RUNNING, CR__WAITING, CR__WOKEN, CR__TIMED_OUT, CR__CANCELLED, CR__CLOSED };

/* What a coroutine waits for, in reports. */
enum cr__wait_kind {
    CR__WAIT_NONE,
    CR__WAIT_SLEEP,
    CR__WAIT_JOIN,
    CR__WAIT_READABLE,
    CR__WAIT_WRITABLE,
    CR__WAIT_STACK,
    CR__WAIT_KINDS
};

enum cr__sched_flag {
    CR__HANDLE = 1u << 0,    /* somebody holds a handle */
    CR__CANCEL = 1u << 1,    /* cancelled: each wait fails */
};

/* A scheduled coroutine: 128 bytes, of which the second half is what others touch while it is parked. */
struct cr__record {
    struct cr_co co;
    struct cr__list node;        /* for a queue of waiters, while it is in one: never on the stack */
    struct cr__timer timer;
    void *wait_object;           /* what it waits for; cleared by who takes that away */
    struct cr__record *joiner;   /* who waits for its end */
    _Atomic uint32_t wait_word;  /* of enum cr__wait_state */
    uint32_t stack_bytes;
};
#if !defined(CR__ASAN) && !defined(CR__TSAN)
_Static_assert(sizeof(struct cr__record) == 128, "the budget of a coroutine record");
#endif

struct cr__worker;

/* Where outside events come from; filled in by `poll`. */
struct cr__poller_ops {
    /* Waits up to timeout_ns (negative: without end; 0: looks) and makes ready whoever waited for what came. 0 or -errno. */
    int (*poll)(struct cr__worker *worker, int64_t timeout_ns);
    /* How many coroutines wait for something that may still come. */
    uint64_t (*waiters)(const struct cr__worker *worker);
};

/* First in, first out, linked through cr_co.next. */
struct cr__queue {
    struct cr_co *head, *tail; /* head NULL: empty, and tail means nothing; the tail's next means nothing */
};

static inline void cr__queue_push(struct cr__queue *queue, struct cr_co *co)
{
    if (CR__LIKELY(queue->head != NULL))
        queue->tail->next = co;
    else
        queue->head = co;
    queue->tail = co;
}

/* The queue must not be empty. */
static inline struct cr_co *cr__queue_pop(struct cr__queue *queue)
{
    struct cr_co *co = queue->head;
    queue->head = co == queue->tail ? NULL : co->next;
    return co;
}

struct cr__worker {
    /* read and written at each switch */
    struct cr__queue ready;
    int budget;                  /* switches left before the chain returns to the loop */
    int io_budget;               /* calls that did not suspend, left before one yields */
    bool chain;
    struct cr_co loop;           /* the worker's own stack as a context */
    struct cr_co *outside;       /* what ran on this thread before, and will again */

    /* at spawn and end */
    struct cr__slab records;
    struct cr__stack_pool stacks;
    struct cr__queue starved[CR__STACK_CLASSES]; /* started in their turn, and no stack of that class was left */
    unsigned starving;           /* how many */
    uint64_t live;
    uint32_t last_id;
    uint32_t default_stack_bytes;

    /* at each turn of the loop */
    int64_t now_ns;              /* when the loop last looked at the clock */
    struct cr__wheel wheel;
    const struct cr__poller_ops *poller_ops;
    void *poller;                /* poll's */
    void *io;                    /* io's */
    void *rt;                    /* rt's: signals */
    const void *owner;           /* the runtime that it is of */
    bool stoppable;              /* from another thread: then there is always something that may still come */
    bool reported;               /* that nothing can run any more: once is enough */
    int chain_budget;            /* what a chain starts with: adapts to how long the coroutines run */
    bool used_up;                /* the last one's was */
    bool stopping;               /* everything is being cancelled, and so is what comes */
    int report_fd;
    struct cr_stats stats;
};

/* The worker of the calling thread, NULL if it is none; never keep it across a suspension. */
static inline struct cr__worker *cr__worker_here(void)
{
    struct cr__self *self = cr__self_get();
    return self ? self->worker : NULL;
}

/* The scheduled coroutine that co is, or inside which it runs; NULL if it runs on the thread's own stack. */
static inline struct cr__record *cr__record_around(struct cr_co *co)
{
    while (cr__co_state(co) == CR__CO_RUNNING)
        co = co->below;
    return CR__LIKELY(cr__co_state(co) == CR__CO_SCHEDULED) ? CR__CONTAINER(co, struct cr__record, co) : NULL;
}

/* The running scheduled coroutine and its worker; NULL, and *worker untouched, outside of any. */
static inline struct cr__record *cr__running(struct cr__worker **worker)
{
    struct cr__self *self = cr__self_get();
    if (CR__UNLIKELY(!self) || CR__UNLIKELY(!self->worker))
        return NULL;
    *worker = self->worker;
    return cr__record_around(self->current);
}

/* Makes the calling thread a worker. config has been checked. */
void cr__worker_init(struct cr__worker *worker, const struct cr_config *config);

/* Drops the coroutines that have not ended: their names and local storage are freed, by destructors that may still close connections. */
void cr__worker_drop(struct cr__worker *worker);

/* Frees everything. */
void cr__worker_fini(struct cr__worker *worker);

/* Runs until no coroutine is live. 0; -EDEADLK after a report; what polling failed with. */
int cr__worker_run(struct cr__worker *worker);

/* Cancels all live coroutines, and all that will be spawned. */
void cr__worker_cancel_all(struct cr__worker *worker);

/* Spawns onto worker, which is the calling thread's. As cr_spawn. */
int cr__spawn(struct cr__worker *worker, struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr);

/* Begins a wait: from here on the running coroutine may be woken. Follow with putting it where the waker finds it, a last
 * look whether waiting is needed, and cr__wait_suspend or cr__wait_abandon. */
static inline void cr__wait_begin(struct cr__record *me, enum cr__wait_kind kind, void *object)
{
    me->co.sched_wait = (uint8_t)kind;
    me->wait_object = object;
    atomic_store_explicit(&me->wait_word, CR__WAITING, memory_order_relaxed); /* published by what links it to the waker */
}

static inline void cr__wait_abandon(struct cr__record *me)
{
    me->co.sched_wait = CR__WAIT_NONE;
    atomic_store_explicit(&me->wait_word, CR__RUNNING, memory_order_relaxed);
}

/* Suspends until woken. 0; -ETIMEDOUT; -ECANCELED; -EBADF when what it waited for was closed (wait_object is NULL then). */
int cr__wait_suspend(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns);

/* Ends a wait, if nobody else has: makes the coroutine ready. Returns whether it did. */
bool cr__wake(struct cr__worker *worker, struct cr__record *record, enum cr__wait_state outcome);

/* Called by calls that could go on without suspending: every 64th yields, lest one coroutine keep the worker. */
static inline void cr__breathe(struct cr__worker *worker)
{
    if (CR__UNLIKELY(--worker->io_budget <= 0))
        cr_yield();
}

/* Writes what is parked, grouped by function and by what is waited for. */
void cr__worker_report(struct cr__worker *worker, int fd);

#endif
