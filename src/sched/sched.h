/* The scheduler: workers, their run queues, parking, timers, policies.
 *
 * A coroutine's way. cr__spawn makes a record and puts it into the spawning worker's ring, from which idle workers may steal it (runq.h).
 * When its turn comes it gets a stack (or waits in `starved` for one, or tries again, if it is none of a pool's), and from then on it stays with that worker, unless it was
 * spawned CR_MIGRATABLE. It stops in one of three ways: it yields (stays ready, goes to the queue's end), parks (waits for something: park.h), or
 * ends. Each of them switches to the next ready coroutine ("chain") or to the worker's loop ("star"); the chain returns to the loop, too,
 * when nothing is ready or its budget of switches is used up. The loop (loop.c) polls, fires timers, takes what other workers have
 * sent (inbox.h), looks for work elsewhere when it has none, and sleeps in its poller when there is none.
 *
 * A task (task.h) is a coroutine without a stack: what is said of coroutines here is so of tasks, but for stacks and switching.
 *
 * Where a ready coroutine of a worker is:
 *     next      one, handed over by who woke it: runs next, but not more than NEXT_LIMIT times in a row while others are ready
 *     ready     started ones that stay: a list that only this worker touches
 *     stealable the ring: not started; what does not fit goes, in batches, to the runtime's injection queue. The owner takes the youngest
 *               (so a tree of spawns is worked off depth first), and every few milliseconds some of the oldest
 *     spawned, fresh, youngest..oldest: in a runtime of one worker, instead of the ring: batches of what has not started, the youngest batch first, each in its order
 *     wanderers another ring, first in, first out: started ones that may migrate. Stolen only while the worker is `generous`: who exchanges short messages with
 *               others is better off in their company than on a free processor
 *     inbox     made ready by another worker; moves to one of the others with the next turn of the loop
 * What has started goes before the ring, but not always, so that neither starves; every few milliseconds the oldest batch gets into the list. A runtime of one worker (`alone`) uses no ring, and no atomic step on its way.
 *
 * Invariants:
 *   1. Whoever claims a wait makes the coroutine ready, once (park.h).
 *   2. After anything but WOKEN nothing was taken from what was waited for.
 *   3. What others hold while a coroutine waits (its node, its timer) lies in its record, never on its stack.
 *   4. A coroutine that has started and may not migrate is resumed by the worker that its word names (cr__park_worker) only; so is one whose timer is armed.
 *   5. A record is put back when its coroutine has ended and no handle to it is left.
 *   6. The runtime ends when all its workers sleep, and the numbers of coroutines that they have spawned and ended are equal.
 *
 * Rejected: one list for all that is ready, with a lock (a thief would hold up its victim at each switch); coroutines that migrate by
 * default (compilers keep the addresses of thread-local variables across calls). */
#ifndef CR__SCHED_H
#define CR__SCHED_H

#include <crore/rt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/spin.h"
#include "co/co.h"
#include "mem/mem.h"
#include "sched/fate.h"
#include "sched/frames.h"
#include "sched/inbox.h"
#include "sched/park.h"
#include "sched/pool.h"
#include "sched/runq.h"
#include "sched/wheel.h"

/* What a coroutine waits for, in reports. */
enum cr__wait_kind {
    CR__WAIT_NONE,
    CR__WAIT_SLEEP,
    CR__WAIT_JOIN,
    CR__WAIT_READABLE,
    CR__WAIT_WRITABLE,
    CR__WAIT_STACK,
    CR__WAIT_MUTEX,
    CR__WAIT_COND,
    CR__WAIT_READ_LOCK,
    CR__WAIT_WRITE_LOCK,
    CR__WAIT_SEM,
    CR__WAIT_GROUP,
    CR__WAIT_ONCE,
    CR__WAIT_BARRIER,
    CR__WAIT_SEND,
    CR__WAIT_RECV,
    CR__WAIT_SELECT,
    CR__WAIT_BROADCAST,
    CR__WAIT_SCOPE,
    CR__WAIT_BLOCKING,
    CR__WAIT_SIGNAL,
    CR__WAIT_CHILD,
    CR__WAIT_EVENT,
    CR__WAIT_UNPARK,
    CR__WAIT_NET_READABLE, /* of a network of our own: the object is none of poll's */
    CR__WAIT_NET_WRITABLE,
    CR__WAIT_PACKET,
    CR__WAIT_KINDS
};

enum cr__sched_flag {
    CR__PLACED = 1u << 0, /* spawned onto a certain worker: not to be stolen */
    CR__TIMED = 1u << 1,  /* its present wait has a timer, on its worker's wheel; until that has fired, and ended the wait, it stays there */
    CR__STUBBORN = 1u << 2, /* nothing bounds its waits just now */
    /* a task's, and what follows in task.h */
    CR__AWAITS = 1u << 3,   /* it has stopped in a leaf, which is to go on when it is called again */
    CR__RETURNED = 1u << 4, /* what it called has ended, and `since` is the result */
    CR__UNMASKS = 1u << 5,  /* when it is stubborn no more */
    CR__LATE = 1u << 6,     /* cr_task_cond_wait: how its first wait ended, while it waits for the mutex */
    CR__CUT = 1u << 7,
    /* and a coroutine's, in the place of the first of these */
    CR__CURTAILED = CR__AWAITS, /* what bounds all its waits ends the present one before its own deadline */
};

/* A place in a queue of waiters. object: of a record's own node, what it waits for; of another, the record with the lowest bit set. */
struct cr__wait_node {
    struct cr__wait_node *next, *prev;
    uintptr_t object;
};

/* A scheduled coroutine: 128 bytes, of which the second half is what others touch while it is parked. */
struct cr__record {
    struct cr_co co;            /* co.next: while it waits, where the value is that it sends or receives (cr__record_value) */
    struct cr__wait_node node;  /* for a queue of waiters, while it is in one: never on the stack */
    struct cr__timer timer;     /* on the wheel of the worker that its word names */
    struct cr__record *joiner;  /* who waits for its end; under the word's lock */
    cr__park_word word;
    uint32_t since;             /* when the present wait began: CR__SINCE_SHIFT. Of a task that has ended: its result */
};
#if !defined(CR__ASAN) && !defined(CR__TSAN)
_Static_assert(sizeof(struct cr__record) == 128, "the budget of a coroutine record");
#endif
#define CR__PARKED_LINES 8 /* of the stack of one that comes back from a call that waited: its frames and the caller's */
#define CR__SINCE_SHIFT 20 /* in units of 2^20 ns, about a millisecond: wraps after 52 days */

struct cr__worker;
struct cr__census; /* census.h */
struct cr__watch; /* monitor.h */

/* Where outside events come from; filled in by `poll`. */
struct cr__poller_ops {
    /* Waits up to timeout_ns (negative: without end; 0: looks) and makes ready whoever waited for what came. 0 or -errno. */
    int (*poll)(struct cr__worker *worker, int64_t timeout_ns);
    /* Has a poll that waits, or the next one, return. From any thread. */
    void (*kick)(struct cr__worker *worker);
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

/* Something to be done on a worker, sent by another thread: fn(worker, post) is called on the worker's stack. The post is fn's from then on. */
struct cr__post {
    struct cr__inbox_link link;
    void (*fn)(struct cr__worker *worker, struct cr__post *post);
    bool promised; /* the runtime does not end before it has been done */
};

/* Something that a worker does beside running coroutines, in turns on its own stack: a network that is driven (service.c). It begins zeroed. */
struct cr__service {
    /* its owner's, before it is opened */
    void (*turn)(struct cr__worker *worker, struct cr__service *service); /* what there is to do, within bounds: it pokes itself if there is more. Opens and closes no service */
    void (*fall_silent)(struct cr__worker *worker, struct cr__service *service); /* the runtime ends: each is told before the first one's `end`, also other workers'. NULL: need not be */
    void (*end)(struct cr__worker *worker, struct cr__service *service);  /* the runtime ends, and it is still open: is to close it */
    void (*released)(struct cr__service *service); /* it has been closed: its memory is its owner's again */
    void (*tell)(struct cr__service *service, char *text, size_t size_bytes); /* lines for a dump, as many as fit, and a 0 behind them; between turns. NULL: none */
    /* changed between turns, and within its own */
    int64_t due_ns; /* when it wants its next turn, if nobody pokes it before; CR_FOREVER: then only */
    /* sched's */
    bool poked, closed;
    struct cr__worker *worker;
    struct cr__service *next;
    struct cr__post post; /* by which another thread pokes */
    _Atomic bool posted;
};

#define CR__HOLD_BYTES 48

enum cr__elsewhere {
    CR__IN_NEXT = 1,
    CR__IN_RING = 2,
    CR__IN_FRESH = 4,
    CR__IN_WANDERERS = 8,
    CR__FATED = 16, /* no place: the worker's fate decides what is left open, and is told of each turn (fate.h). Here, so that the short ways need not ask */
};

/* Statistics of a worker, which others may read. */
struct cr__counters {
    _Atomic uint64_t spawned, ended, switches, parks, timeouts, polls, events, stack_waits, steals, sent, slow;
};

static inline void cr__count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

struct cr__worker {
    /* read and written at each switch */
    struct cr__queue ready;
    _Atomic int budget;          /* switches left before the chain returns to the loop; another thread may look whether it changes */
    int io_budget;               /* calls that did not suspend, left before one yields, */
    int io_budget_next;          /* and what the next turn begins with */
    uint8_t elsewhere;           /* of enum cr__elsewhere: where else there may be something ready */
    bool chain;
    bool alone;                  /* the only worker of its runtime */
    uint8_t streak;              /* how many in a row have gone before others that wait */
    bool wanderers_turn;
    uint8_t passed_over;         /* alone: how many have gone before older batches */
    uint16_t index;
    uint16_t next_streak;
    struct cr_co *next;
    const struct cr__fate *fate; /* NULL: it is not under a seed */
    struct cr__queue spawned, fresh; /* alone: by the running coroutine; the newest batch before that, as far as it has not started */
    struct cr__wait_node *youngest, *oldest, *aged; /* batches before that (take_batch); the oldest one when it was last looked at */
    struct cr_co *leaving;       /* may migrate, or is looked at for the census, and has just switched to the loop. The loop itself: one that has ended is looked at */
    bool leaving_ready;          /* by yielding */
    struct cr__record *task;     /* whose turn it is: the loop runs it */
    struct cr_co loop;           /* the worker's own stack as a context */
    struct cr_co *outside;       /* what ran on this thread before, and will again */
    struct cr__sched *sched;

    /* at spawn and end */
    struct cr__slab records;
    struct cr__frames frames;    /* of tasks */
    struct cr__slab jobs;        /* the pool's */
    struct cr__slab holds;       /* sync's: who reads under which lock */
    struct cr__images images;    /* live bytes of stacks that are not on them */
    struct cr__stack_pool stacks, virtuals;
    struct cr__packed packed;
    struct cr__shared shared;
    int64_t freeze_after_ns;     /* negative: never */
    bool freezer_begun;
    int64_t round_ns;            /* when the freezer's hand last came round */
    struct cr__stack_chunk *hand; /* where it is; NULL: at the beginning */
    uint32_t hand_at;
    uint32_t hand_lost;          /* the pool's chunks_lost when the hand was put there */
    uint32_t frozen;             /* how many of its coroutines are */
    uint32_t on_virtual;         /* how many have a virtual stack */
    struct cr__queue put_off;    /* what they need to get back onto their stacks is lacking: with the next turn of the loop, or a bit later */
    struct cr__stack last_stack; /* of another worker's pool: goes home when nobody runs on it any more */
    struct cr__stack_pool *last_stack_home;
    struct cr__queue starved[CR__STACK_CLASSES]; /* started in their turn, and no stack of that class was left */
    _Atomic unsigned starving;   /* how many; who brings a stack home looks */
    int64_t allowance_bytes;     /* what may still be spawned before it looks at the budget (budget.h) */
    int64_t unstarted;           /* spawned here and not started, minus started here and spawned elsewhere: so only the sum says something */
    int64_t stacks_told_bytes;   /* of its stacks, among the runtime's stacks_promised_bytes */
    int64_t live;                /* spawned minus ended here, since it was last added to the runtime's */
    struct cr__census *census;   /* NULL: none is taken (census.h) */
    const void *spawned_from;    /* for that: where the call comes from that is about to spawn; */
    struct cr__stack ended_stack; /* and of which stack, and which site, the one is that has just ended */
    uint16_t ended_site;
    uint32_t last_id;
    uint32_t default_stack_bytes;
    enum cr_stack_kind default_kind;
    unsigned default_flags; /* what cr__attr_check says of no attributes */

    /* at each turn of the loop */
    int64_t now_ns;              /* when the loop last looked at the clock */
    int64_t put_off_ns;          /* when those put off last tried again */
    uint64_t put_off_switches;   /* how many there had been then */
    unsigned put_off_in_vain;    /* how often they have tried since anything ran */
    int64_t aged_ns;             /* when it last moved what had not started (cr__age) */
    struct cr__wheel wheel;
    const struct cr__poller_ops *poller_ops;
    void *poller;                /* poll's */
    void *io;                    /* io's */
    void *rt;                    /* rt's: signals */
    _Atomic int64_t waits_outside; /* coroutines that wait for what comes from outside of the runtime: begun minus ended here, so only the sum over all
                                    workers says something */
    int chain_budget;            /* what a chain starts with: adapts to how long the coroutines run */
    bool used_up;                /* the last one's was */
    _Atomic bool hopeless;       /* when it went to sleep: no timer armed, and nobody put off who may still succeed. Read by who looks for the end */
    uint32_t random;
    struct cr__service *services; /* that are open here */
    int64_t polled_ns;           /* when it last looked at its poller */
    bool services_poked;         /* one of them, since the last look */
    struct cr__slab *slabs;      /* its own, but for the images', linked by next: their foreign objects go home before it sleeps */
    int64_t shrunk_ns;           /* when it last looked what of its memory lies unused, or later: to pause (memory.c) */
    bool shrinks_on;             /* it has found more than it gives back in one turn */
    bool shrinks_fast;           /* until it is done: it was asked for */
    unsigned trim_seen;          /* calls of cr_mem_trim */
    struct cr__packet_cache packets;
    struct cr__post cancel_post;
    struct cr__counters counters;
    _Atomic uint64_t turns;      /* of the loop: who watches sees it move */
    struct cr__self *self;       /* of its thread, */
    int tid;                     /* as is this: for who looks from outside */

    struct cr__runq stealable;
    struct cr__runq wanderers;
    _Atomic bool generous;       /* others may take wanderers: it is busy, and they run long enough to be worth a journey; or it is stuck */
    _Alignas(CR__CACHE_LINE) struct cr__inbox inbox;
    char staged[CR__STAGED_BYTES]; /* what goes back onto a virtual stack */
};

/* A batch of coroutines that fits no ring: linked by cr_co.next; the first one's node links it to the next batch. */
struct cr__injection {
    _Atomic uint8_t lock;
    struct cr__record *first, *last;
    _Atomic unsigned batches;
};

/* A runtime's workers, together. */
struct cr__sched {
    struct cr__worker **workers;
    unsigned count;
    int report_fd;
    sigset_t program_mask;       /* the signals that the program blocks itself: rt's */
    bool stoppable;              /* from another thread: then there is always something that may still come */
    uint64_t seed;               /* 0: none; else fate decides what is left open, and there is one worker */
    const struct cr__fate *fate;
    int64_t slow_ns;             /* negative: nobody is told of slow coroutines */
    _Atomic bool told_not_frozen;
    uint64_t budget_bytes;       /* 0: none */
    struct cr__census *census;   /* of stacks: NULL: none is taken */
    bool tells_at_quit;          /* SIGQUIT has it write a dump */
    struct cr__watch *watch;     /* who looks at it from outside; NULL: nobody yet. This and what follows: monitor.c's, under its lock */
    bool watched;
    struct cr__sched *watched_next;
    /* Called on an idle worker when another one has been stuck for a while: what that one has to do, and `here` can, is `here`'s now. NULL: nothing. */
    void (*_Atomic take_over)(struct cr__worker *here, struct cr__worker *stuck);
    /* Called on the monitor's thread, at each look that finds worker 0 stuck: the process's signals, which come to that one, are taken elsewhere. NULL: nothing. */
    void (*_Atomic take_signals)(struct cr__sched *sched);

    _Alignas(CR__CACHE_LINE) _Atomic uint64_t idle; /* workers that sleep, or are about to; in the upper half, how often one has got up (idle.c) */
    _Atomic unsigned searching;  /* awake, without work, looking for some */
    _Atomic bool waking;         /* one has been roused, and has not begun to search yet */
    _Atomic bool stopping;       /* everything is being cancelled, and so is what comes */
    _Atomic bool any_told;       /* open, and something is in `told` */
    _Atomic bool done;           /* workers: return */
    _Atomic int result;

    _Alignas(CR__CACHE_LINE) _Atomic int64_t live; /* coroutines that have not ended, when all workers are idle */
    _Atomic int64_t stacks_promised_bytes; /* stacks in use, and to be used by coroutines that have not started: with a budget only */
    _Atomic int64_t promised;    /* what threads outside will still send: blocking jobs, remote calls under way */
    _Atomic unsigned inside;     /* threads outside that may touch workers right now */
    _Atomic uint8_t end_lock;
    bool open;                   /* worker 0 runs, or has run; under end_lock, as are: */
    struct cr__post *told, *told_last; /* what threads outside have told, linked by link.next; first in, first out */

    _Alignas(CR__CACHE_LINE) struct cr__injection injection;
    _Alignas(CR__CACHE_LINE) struct cr__pool pool;
};

/* How many workers sleep, or are about to. */
static inline unsigned cr__sched_idle(struct cr__sched *sched)
{
    return (unsigned)atomic_load_explicit(&sched->idle, memory_order_relaxed);
}

/* Whether anything may be ready in other places than the list. */
static inline bool cr__anything_elsewhere(const struct cr__worker *worker)
{
    return (worker->elsewhere & (uint8_t)~CR__FATED) != 0;
}

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

/* The running scheduled coroutine, and its thread's worker; NULL outside of any. */
static inline struct cr__record *cr__running(struct cr__worker **worker)
{
    struct cr__self *self = cr__self_get();
    *worker = CR__LIKELY(self != NULL) ? self->worker : NULL;
    return CR__LIKELY(*worker != NULL) ? cr__record_around(self->current) : NULL;
}

/* The coroutine or task in which the caller runs: for calls that do not suspend. The first is looked for first, it is the common one. */
static inline struct cr__record *cr__acting(struct cr__worker **worker)
{
    struct cr__record *me = cr__running(worker);
    if (CR__LIKELY(me != NULL) || !*worker)
        return me;
    struct cr_co *task = cr__self_get()->task;
    return task ? CR__CONTAINER(task, struct cr__record, co) : NULL;
}

/* The public handle of a runtime begins with this (rt.c). */
static inline struct cr__sched *cr__sched_of(struct cr_rt *rt)
{
    return (struct cr__sched *)(void *)rt;
}

static inline struct cr__record *cr__record_of(struct cr_co *co)
{
    return CR__CONTAINER(co, struct cr__record, co);
}

/* Of a slab's object, where nobody runs: whether it is a coroutine or task that has not ended. */
static inline bool cr__record_lives(const struct cr__record *record)
{
    return cr__park_state(&record->word) != CR__FREE && (cr__co_state(&record->co) & ~(unsigned)CR__CO_TASK) == CR__CO_SCHEDULED;
}

/* Whether it may go on on another worker after a wait. */
static inline bool cr__migrates(const struct cr__worker *worker, const struct cr_co *co)
{
    return (cr__co_flags(co) & CR_MIGRATABLE) != 0 && !worker->alone;
}

/* What it waits for, or has last waited for. */
static inline enum cr__wait_kind cr__waits_for(const struct cr__record *record)
{
    return (enum cr__wait_kind)cr__park_kind(atomic_load_explicit(&record->word, memory_order_relaxed));
}

/* The running coroutine has taken a lock, or given one back: it must not end with one. */
#define CR__LOCK_OF_MANY ((uintptr_t)1) /* added to the address of a readers-writer lock */
static inline void cr__lock_taken(struct cr__record *me, uintptr_t lock)
{
    if (CR__LIKELY(cr__co_in_place(&me->co))) /* a task has no such place, and one that is away is so for the sake of a bare one inside it */
        cr__co_top(&me->co)->last_lock = (void *)lock;
    me->co.locks++;
}

static inline void cr__lock_given(struct cr__record *me)
{
    me->co.locks--;
}

/* While it waits: where the value is. */
static inline void **cr__record_value(struct cr__record *record)
{
    return (void **)(void *)&record->co.next;
}

/* The lock of something that workers share; nothing to do where there is one worker. */
static inline void cr__lock(struct cr__worker *worker, _Atomic uint8_t *lock)
{
    if (!worker->alone)
        cr__spin_lock(lock);
}

static inline void cr__unlock(struct cr__worker *worker, _Atomic uint8_t *lock)
{
    if (!worker->alone)
        cr__spin_unlock(lock);
}

/* ---- A runtime's life (loop.c, idle.c, sent.c) ------------------------------------------------------------------------------ */

/* Makes the calling thread worker number `index`. config has been checked. */
void cr__worker_init(struct cr__worker *worker, struct cr__sched *sched, unsigned index, const struct cr_config *config);

/* From now on a slab of the worker's is flushed before it sleeps. */
void cr__worker_keeps(struct cr__worker *worker, struct cr__slab *slab);

/* Drops the coroutines that have not ended: their names and local storage are freed, by destructors that may still close connections. */
void cr__worker_drop(struct cr__worker *worker);

/* Frees everything. */
void cr__worker_fini(struct cr__worker *worker);

/* Runs until the runtime's last coroutine has ended. 0; -EDEADLK after a report; what polling failed with. */
int cr__worker_run(struct cr__worker *worker);

/* Cancels all live coroutines of the runtime, and all that will be spawned. */
void cr__sched_cancel_all(struct cr__sched *sched, struct cr__worker *here);

/* Ends the runtime: workers return from cr__worker_run. */
void cr__sched_finish(struct cr__sched *sched, int result);

/* Around a runtime's life: a child that is forked meanwhile has none (fork.c). 0 or -ENOMEM. */
int cr__fork_watch(void);
void cr__fork_unwatch(void);

/* Whether this process is such a child: no worker runs there, and what is sent to one would never be done. */
bool cr__forked(void);

/* Has post->fn called on whichever worker comes by first, in the order in which it was told; or, if the runtime ends before it began, with NULL. From any thread, while the runtime exists. 0; -ESHUTDOWN: it
 * has ended, and nothing happens; -EPERM in a child of fork. Between cr__sched_promise and _kept the runtime does not end, either. */
int cr__sched_tell(struct cr__sched *sched, struct cr__post *post);

/* Around what a thread outside does with a runtime's workers, and with what they hold: between enter (0; -ESHUTDOWN: it has ended; -EPERM in a child of fork) and leave they are
 * there. What is to be done before the runtime ends is promised inside, while a coroutine lives that waits for it. */
int cr__sched_enter(struct cr__sched *sched);
void cr__sched_leave(struct cr__sched *sched);

void cr__sched_promise_kept(struct cr__sched *sched);
void cr__sched_abandon(struct cr__sched *sched); /* it has ended, or never began */
void cr__worker_drain(struct cr__worker *worker);

static inline void cr__sched_promise(struct cr__sched *sched)
{
    atomic_fetch_add_explicit(&sched->promised, 1, memory_order_relaxed);
}

/* Has post->fn called on that worker. From a worker, or with a promise. */
void cr__post(struct cr__worker *to, struct cr__post *post);

/* Wakes a worker that sleeps, so that it looks around. From any thread. */
void cr__worker_rouse(struct cr__worker *worker);

/* One worker that sleeps, if there is one and none is being woken already: there is something to steal. */
CR__COLD void cr__sched_wake_one(struct cr__sched *sched);

/* ---- Services (service.c) ------------------------------------------------------------------------------------- */

/* From now on the calling worker gives it turns, the first one soon. Not from a turn. */
void cr__service_open(struct cr__worker *worker, struct cr__service *service);

/* By that worker: it gets no more turns. `released` is called when nobody touches it any more: at once, or when what another worker has sent has come. Who else might poke it has been told before. */
void cr__service_close(struct cr__service *service);

/* By its worker: there is something to do, so it gets a turn before that sleeps. */
static inline void cr__service_poke(struct cr__service *service)
{
    service->poked = true;
    service->worker->services_poked = true;
}

/* By any worker of the same runtime. */
void cr__service_poke_remote(struct cr__service *service);

/* When the runtime has ended: the services that are still open are told, in two steps, between which all workers have made the first. */
void cr__services_fall_silent(struct cr__worker *worker);
void cr__services_end(struct cr__worker *worker);

/* ---- Spawning (spawn.c) ------------------------------------------------------------------------------------- */

/* Spawns; `worker` is the calling thread's. As cr_spawn. `placed`: onto that worker, else NULL. */
int cr__spawn(struct cr__worker *worker, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
              const struct cr_attr *attr);

/* The same, with a cold part that it is to have, which stays the caller's on an error. *where, if where is not NULL, receives the coroutine before it can run. */
int cr__spawn_with(struct cr__worker *worker, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where);

/* In a public call that spawns: the census is to know from where. */
#define cr__spawns_from_caller(worker) \
    do { \
        if (CR__UNLIKELY((worker)->census != NULL)) \
            (worker)->spawned_from = __builtin_return_address(0); \
    } while (0)

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

/* A deadline within what bounds all waits of the coroutine: its scope's deadline, its grace. */
static inline int64_t cr__bounded(const struct cr__record *me, int64_t deadline_ns)
{
    const struct cr__co_cold *cold = me->co.cold;
    return CR__UNLIKELY(cold != NULL) && cold->bound_ns < deadline_ns && !(me->co.sched_flags & CR__STUBBORN) ? cold->bound_ns : deadline_ns;
}

/* Why a wait whose time is over fails: -ETIMEDOUT; -ECANCELED: it is cancelled, or the bound was what came first. */
int cr__too_late(const struct cr__worker *worker, const struct cr__record *me);

/* Begins a wait: from here on the running coroutine may be woken. 0; -ECANCELED, -ETIMEDOUT (the deadline has passed): it does not wait. After 0 follow: putting
 * it where its waker finds it, a last look whether waiting is needed (if all that is not under one lock), and
 * cr__wait_suspend or cr__park_abandon. Whoever gets an error leaves the locks that he holds, and breathes. */
static inline int cr__wait_begin(struct cr__worker *worker, struct cr__record *me, enum cr__wait_kind kind, const void *object,
                                 int64_t deadline_ns)
{
    deadline_ns = cr__bounded(me, deadline_ns);
    if (CR__UNLIKELY(deadline_ns <= worker->now_ns)) /* one that has passed since is found by the loop */
        return cr__too_late(worker, me);
    me->node.object = (uintptr_t)object; /* before: who sees that it waits sees for what */
    return CR__LIKELY(cr__park_begin(&me->word, kind, worker->alone)) ? 0 : -ECANCELED;
}

/* Suspends until woken. 0; -ETIMEDOUT; -ECANCELED; -EBADF when what it waited for was closed. */
int cr__wait_suspend(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns);

/* Around a wait for what comes from outside of the runtime: as long as there is one, something may still happen. */
static inline void cr__wait_outside(struct cr__worker *worker, int64_t n)
{
    atomic_store_explicit(&worker->waits_outside, atomic_load_explicit(&worker->waits_outside, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* A switch that is about to be made: from the running context to another; the same: none. */
struct cr__hop {
    struct cr_co *from, *to;
};

/* What cr__wait_suspend consists of: before the switch, of which the first part is all that a task needs, the switch, after it. */
void cr__wait_arm(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns);
struct cr__hop cr__wait_leave(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns);
int cr__wait_arrive(struct cr__record *me, int64_t deadline_ns);

/* Whether control words are kept where `inner`, which is me or a bare one inside it, stops: one that shares its own shares them with those inside it. */
static inline bool cr__own_fpu(const struct cr_co *inner, const struct cr__record *me)
{
    return cr__co_own_fpu(inner) || cr__co_own_fpu(&me->co);
}

/* Returns when me is switched to again. */
__attribute__((always_inline)) static inline void cr__hop(struct cr__record *me, struct cr__hop hop)
{
    uint64_t note = 0;
    if (CR__LIKELY(hop.to != hop.from)) /* else it was the only one ready */
        cr__co_switch(hop.from, hop.to, cr__own_fpu(hop.from, me), NULL, &note);
    me->co.below = &me->co;
}

/* The same, inlined: each return after a switch is one that the processor has predicted for another stack, so the fewer, the better. */
__attribute__((always_inline)) static inline int cr__wait_suspend_here(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns)
{
    cr__hop(me, cr__wait_leave(worker, me, deadline_ns));
    return cr__wait_arrive(me, deadline_ns);
}

/* Makes a coroutine ready whose wait the caller has claimed. */
void cr__ready(struct cr__worker *worker, struct cr__record *record);

/* The same; it runs as soon as the caller suspends, if nothing speaks against it. */
void cr__ready_next(struct cr__worker *worker, struct cr__record *record);

/* Ends a wait, if nobody else has. Returns whether it did. */
static inline bool cr__wake(struct cr__worker *worker, struct cr__record *record, enum cr__wait_state outcome)
{
    if (!cr__park_claim(&record->word, outcome, worker->alone))
        return false;
    cr__ready(worker, record);
    return true;
}

/* Cancels: sets the flag and ends the present wait. The caller holds what keeps the record alive. */
void cr__cancel(struct cr__worker *worker, struct cr__record *record, uint32_t flag);

/* From here on the running coroutine's waits don't fail for being cancelled, nor by their scope's deadline, but are bounded by bound_ns. Undo with
 * _unmask, in brackets. */
struct cr__mask {
    bool masked;
    int64_t bound_ns;
};
struct cr__mask cr__mask(struct cr__record *me, int64_t bound_ns);
void cr__unmask(struct cr__record *me, struct cr__mask before);

/* Sets or clears flags in the running coroutine's own word. Returns it as it was. */
static inline uint32_t cr__flag_set(struct cr__record *me, uint32_t flag, bool on)
{
    return on ? atomic_fetch_or_explicit(&me->word, flag, memory_order_relaxed)
              : atomic_fetch_and_explicit(&me->word, ~flag, memory_order_relaxed);
}

/* Called by calls that could go on without suspending: every 64th yields, lest one coroutine keep the worker. */
static inline void cr__breathe(struct cr__worker *worker)
{
    if (CR__UNLIKELY(--worker->io_budget <= 0))
        cr_yield();
}

/* ---- Pointers that calls are handed (handed.c) --------------------------------------------------------------- */

/* In a checked build: ends the program if it lies on a shared stack, where the running coroutine has nothing. First thing in a public call, for objects, and for
 * buffers; on threads that are no workers nothing is looked at. */
#ifdef CR__CHECKED
void cr__check_handed(const void *ptr, const char *call);
#define cr__handed(ptr) cr__check_handed(ptr, __func__)
#else
#define cr__handed(ptr) ((void)0)
#endif

/* ---- What lies on shared stacks (bounce.c) ------------------------------------------------------------------- */

/* Whether buf lies on the stack of me, which runs, or of a bare coroutine inside it, and that is a shared one. */
static inline bool cr__on_shared_stack(const struct cr__worker *worker, const struct cr__record *me, const void *buf)
{
    if (cr__co_is_task(&me->co))
        return false;
    for (const struct cr_co *co = worker->self->current;; co = co->below) {
        if (CR__UNLIKELY(cr__co_kind(co) == CR_STACK_SHARED) && (const char *)buf < co->stack.top && (const char *)buf >= cr__stack_low(co->stack))
            return true;
        if (CR__LIKELY(co == &me->co))
            return false;
    }
}

/* The shared stacks on which me, which runs, and bare coroutines inside it are in place keep them while it waits. */
void cr__pin_stacks(const struct cr__worker *worker, const struct cr__record *me);
void cr__unpin_stacks(const struct cr__worker *worker, const struct cr__record *me);

/* cr_blocking_until, for what works with nothing that lies on a shared stack: so it keeps none. */
int cr__blocking_until(struct cr__worker *worker, struct cr__record *me, void (*fn)(void *arg), void *arg, int64_t deadline_ns);

#define CR__BOUNCED_MAX_BYTES ((size_t)64 << 10) /* what is larger waits in parts, or in place */

/* Of the running coroutine, before it waits: buf, or, where others must not write to or read from that, a copy of it; NULL: no memory. When it has
 * waited: _end, which copies size_bytes back. */
void *cr__bounce_copy(struct cr__worker *worker, const void *buf, size_t size_bytes);
void cr__bounce_back(void *copy, void *buf, size_t size_bytes);

static inline void *cr__bounce_begin(struct cr__worker *worker, const struct cr__record *me, const void *buf, size_t size_bytes)
{
    return cr__on_shared_stack(worker, me, buf) ? cr__bounce_copy(worker, buf, size_bytes) : (void *)buf;
}

static inline void cr__bounce_end(void *bounced, const void *buf, size_t size_bytes)
{
    if (CR__UNLIKELY(bounced != buf))
        cr__bounce_back(bounced, (void *)buf, size_bytes);
}

/* ---- What is told of coroutines (tally.c, report.c, dump.c, monitor.c) -------------------------------------- */

/* Who holds what is waited for. */
struct cr__holder {
    uint32_t id;
    uint32_t others; /* that hold it, too */
};

/* What reports say of a kind of wait; rooms above fill it in. Both functions are called while nobody resumes `waits`, on its worker or while all
 * workers sleep; somebody may be about to wake it. They neither suspend nor wait for what is held for long. NULL: nothing to say. */
struct cr__wait_ops {
    bool (*holder)(const struct cr__record *waits, struct cr__holder *out); /* false: nobody, or not known */
    void (*describe)(const struct cr__record *waits, char *text, size_t size_bytes); /* else the object's address is told */
};

/* ops: static. Any thread, at any time; before the first coroutine waits for such a thing is best. */
void cr__holder_of(enum cr__wait_kind kind, const struct cr__wait_ops *ops);

/* Writes what is parked, grouped by function, what is waited for, and backtrace. All workers sleep. */
void cr__sched_report(struct cr__sched *sched);

#endif
