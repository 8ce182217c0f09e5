/* One thread per runtime that looks at it from outside: whether its workers move (monitor.c), and what its coroutines do, when somebody asks (dump.c).
 *
 * It may touch of a worker what is atomic, and what cr__os_peek copies; for the rest it sends posts. It runs between cr__watch_start and cr__watch_stop, while all
 * workers are set up. */
#ifndef CR__MONITOR_H
#define CR__MONITOR_H

#include "sched/tally.h"

#define CR__SLOW_DEFAULT_NS (100ll * 1000000)

/* By worker 0, before the first coroutine runs; and when it has run the last one. An error (no memory, no thread) is not one: then nobody watches. */
void cr__watch_start(struct cr__sched *sched);
void cr__watch_stop(struct cr__sched *sched);

/* Has every runtime that SIGQUIT is to be told of write a dump to its report fd. Async-signal-safe. */
void cr__watch_quit(void);

/* How often the thread has looked so far; 0: there is none. */
uint64_t cr__watch_looks(const struct cr__sched *sched);

/* ---- Within the room ---------------------------------------------------------------------------------------- */

/* What runs on a worker, as seen from outside. */
struct cr__sight {
    bool coroutine; /* false: its loop, or not known */
    uint32_t id;
    void (*entry)(void);
    char name[32];
    uint64_t turns; /* of the worker when it was looked at */
    int budget;
};

/* Looks. The answer held at one moment of the call: the worker did not switch meanwhile. */
void cr__sight_take(struct cr__worker *worker, struct cr__sight *out);

/* The backtrace of that coroutine, if it still runs, and can be asked: returns how many frames, or 0 and why not in *why. Not async-signal-safe. */
unsigned cr__sight_frames(struct cr__worker *worker, const struct cr__sight *sight, void **pcs, unsigned most, const char **why);

/* The signal that asks a thread for its backtrace; 0: none is free. And its handler's way in (probe.c). Workers leave it unblocked. */
int cr__probe_signal(void);

static inline bool cr__worker_asleep(struct cr__worker *worker)
{
    return atomic_load_explicit(&worker->inbox.head, memory_order_relaxed) == CR__INBOX_ASLEEP;
}

/* How long the coroutine that the sight is of has run, as far as the monitor knows. */
int64_t cr__watch_ran_ns(struct cr__watch *watch, unsigned worker, const struct cr__sight *sight);

/* By the monitor's thread: looks at all workers, if it is time. Returns how long until it is again. */
int64_t cr__watch_look(struct cr__watch *watch);

/* Sends a post from the monitor's thread, promised; false: the runtime has ended. */
bool cr__post_from_outside(struct cr__sched *sched, struct cr__worker *to, struct cr__post *post);

/* Writes a dump to fd; waits for the workers, but not for those that do not answer. *hurry: not worth it any more. */
void cr__dump_conduct(struct cr__watch *watch, struct cr__sched *sched, int fd, const _Atomic bool *hurry);

/* Somebody wants a dump. Kept until it is done and nobody waits for it. */
struct cr__dump_request {
    struct cr__dump_request *next;
    struct cr__dump_request *callers_next; /* of those that one thread waits for */
    _Atomic int references;
    int fd;                     /* a duplicate */
    _Atomic uint32_t done;      /* a futex: for a thread that waits */
    _Atomic uint8_t lock;
    struct cr__record *waiter;  /* a coroutine that waits; under the lock */
    struct cr__worker *worker;  /* to which it is told */
    struct cr__post post;
};

void cr__dump_request_put(struct cr__dump_request *request);

#endif
