/* The runtime: scheduled coroutines, time, and the program's way in and out.
 *
 * Calls marked "suspends" give the processor to other coroutines until what they wait for has come.
 * Each has an _until form whose deadline is absolute, in nanoseconds of cr_now(); CR_FOREVER waits
 * without end, and with a deadline in the past the call tries, does not suspend, and fails if the
 * thing is not there. After
 * -ETIMEDOUT or -ECANCELED nothing was consumed. A call made outside a scheduled coroutine returns
 * -EPERM. Objects must not be NULL where it is not said that they may. */
#ifndef CRORE_RT_H
#define CRORE_RT_H

#include <crore/co.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_rt;

enum cr_policy {
    CR_POLICY_DEFAULT = 0, /* chain */
    CR_POLICY_CHAIN = 1,   /* a coroutine that stops switches straight to the next ready one */
    CR_POLICY_STAR = 2,    /* every switch goes through the worker's loop */
};

/* How the kernel is asked what has come. io_uring takes liburing when crore is built, and Linux 5.17 (all of it: 6.1) that does not refuse it; else
 * a line on report_fd says why, and epoll is used. */
enum cr_poller {
    CR_POLLER_DEFAULT = 0, /* what the environment's CR_POLLER says ("epoll" or "uring"), else epoll */
    CR_POLLER_EPOLL = 1,
    CR_POLLER_URING = 2,
};

#define CR_WORKERS_MAX 1024

/* Zeroed means default, field by field. Read during the call only. */
struct cr_config {
    unsigned workers;        /* kernel threads that run coroutines, up to CR_WORKERS_MAX. 0: what the environment's CR_WORKERS says, else one for each
                                processor that the process may use (its affinity, and its cgroup's cpu.max, rounded up: cgroups of version 2 only) */
    enum cr_policy policy;
    enum cr_stack_kind stack; /* of coroutines that do not ask for another; CR_STACK_DEFAULT: what the environment's CR_STACK says ("static", "virtual" or
                                "shared"), else static. With CR_STACK_CENSUS=1 in the environment a run reports which kind and size would do (docs/stacks.md) */
    unsigned shared_stacks;  /* how many CR_STACK_SHARED coroutines of a worker take turns on, of each size, that is 64, 128 and 256 KiB; 0: what the
                                environment's CR_SHARED_STACKS says, else 4 */
    int64_t freeze_after_ns; /* a virtual stack whose coroutine has been parked for so long is frozen, about a quarter of a second later at most, or, among very many, when its turn comes; 0: what the
                                environment's CR_FREEZE_AFTER_NS says, else 1 s; negative: never. It takes Linux 6.13 and userfaultfd; where that is refused, a
                                line on report_fd says so */
    size_t stack_size_bytes; /* of coroutines that do not ask for another; 0: 64 KiB */
    size_t guard_size_bytes; /* below each stack, at least; 0: 32 KiB */
    size_t max_stacks_bytes; /* bound on the address space of static and shared stacks, and as much again of virtual ones, guards included, packed ones not; 0: none. Each worker
                                has an equal share; at the bound, ones that have not started wait for a stack of their size */
    uint64_t memory_budget_bytes; /* bound on what the runtime holds by its own books (struct cr_mem_stats, of the process), 0: none. Each static or virtual stack in use, and
                                each coroutine that has not started, counts a page and 256 bytes of page tables, however much of it was touched; a packed one half of that; a frozen one
                                256 bytes and its image (also after somebody else has touched it, until it has run, though it has a page or more again); one that has started on a shared stack its image. When little is left, virtual stacks are frozen at once. At the bound spawning
                                returns -ENOMEM, and so does cr_accept; servers leave connections in the backlog until there is room. What has begun goes on, and may
                                take a little more: up to 256 KiB a worker, and what it needs to go on (buffers, images) */
    unsigned max_blocking_threads; /* for cr_blocking and for files; 0: 64. Made when there is work for them, ended after some idle seconds */
    enum cr_poller poller;
    int report_fd;           /* where it is told that nothing can ever run again, which coroutine runs for too long, and what all of them do at SIGQUIT; 0: standard
                                error. (Overflows and broken invariants are told on standard error) */
    int64_t slow_ns;         /* a coroutine that runs for longer without suspending is counted (`slow` in struct cr_stats) and, once per function, reported with its
                                backtrace; nanoseconds, as precise as 10 ms; 0: 100 ms; negative: none is. The backtrace is asked for by a signal: the
                                highest real-time signal below SIGRTMAX that the program has left at its default when the first runtime starts. Nobody else should
                                use that one. A coroutine that is inside a system call which a signal would end is not asked */
    unsigned flags;          /* of enum cr_config_flags */
    uint64_t seed;           /* not 0: time, random numbers, and the order of what is ready follow from this number, so a run can be repeated (docs/sim.md); 0: what the
                                environment's CR_SEED says, else none. Such a runtime has one worker (with several asked for: -EINVAL), and is the only one of the process while it runs:
                                else -EBUSY */
};

enum cr_config_flags {
    CR_NO_SIGQUIT = 1u << 0, /* SIGQUIT stays what it is */
};

/* Runs fn(arg) as the first coroutine, and returns when every coroutine has ended. The calling thread is worker 0; the others get threads of their own.
 * Asynchronous signals are blocked meanwhile and taken between coroutines, on the thread's own stack, with
 * whatever disposition the program gave them; on another worker's, if a coroutine keeps the first one from that for more than some 10 ms. What the program has no
 * handler for, the monitor has the kernel do then, with one worker, too (not with one and a negative slow_ns: it has no monitor). Threads made by a coroutine inherit the mask; of child processes crore/outside.h tells.
 * Returns 0; -EBUSY inside a runtime; -EINVAL (config); -ENOMEM; -EAGAIN (a worker's thread could not be made); -EDEADLK when nothing can ever run again, after a
 * report that lists the parked coroutines (their stacks and records are given back, their frames are
 * not unwound); or what opening the poller returned; -EPERM in a child process forked inside of a runtime. */
CR_API CR_CHECKED int cr_run(void (*fn)(void *arg), void *arg, const struct cr_config *config);

/* The same in three steps, for programs that keep their main loop: cr_rt_start runs fn(arg) on worker
 * threads of the runtime's own and returns. One start per runtime. Called from any thread but a worker, by one at a
 * time. When nothing can run any more it waits: another thread may still send, spawn or stop.
 * Returns as cr_run, plus -EALREADY (started before) and what creating the thread returned. */
CR_API CR_CHECKED int cr_rt_create(struct cr_rt **out, const struct cr_config *config);
CR_API CR_CHECKED int cr_rt_start(struct cr_rt *rt, void (*fn)(void *arg), void *arg);

/* Cancels every coroutine, waits until all have ended, and ends the worker: blocks the calling thread.
 * A coroutine that ignores -ECANCELED delays it as long as it goes on. Returns what cr_run would have; -EINVAL if not started;
 * -EPERM from a coroutine of that runtime (there, use cr_shutdown). */
CR_API int cr_rt_stop(struct cr_rt *rt);

/* Waits until all coroutines have ended by themselves, and ends the worker. Returns as cr_rt_stop. */
CR_API int cr_rt_wait(struct cr_rt *rt);

/* Frees a runtime that was stopped, waited for, or never started. NULL is ignored. */
CR_API void cr_rt_destroy(struct cr_rt *rt);

/* From a coroutine: cancels all others and itself; their next waits return -ECANCELED. Does not suspend.
 * Returns 0 or -EPERM. */
CR_API int cr_shutdown(void);

/* Spawns a coroutine that nobody waits for. It starts later, in its turn, on whichever worker is free first, and stays there (but see CR_MIGRATABLE);
 * the caller goes on.
 * Returns 0, -EPERM, -ENOMEM (also at memory_budget_bytes). Does not suspend. */
CR_API CR_CHECKED int cr_go(void (*fn)(void *arg), void *arg);

/* The same with attributes, and with a handle if out is not NULL. A handle must be given back: with cr_join or
 * cr_detach, once. Returns 0, -EPERM, -EINVAL, -ENOMEM; on an error nothing was spawned. Does not suspend. */
CR_API CR_CHECKED int cr_spawn(struct cr_co **out, void (*fn)(void *arg), void *arg, const struct cr_attr *attr);

/* The same onto a certain worker, from 0 to cr_worker_count() - 1: it is not stolen. Return also -EINVAL (no such worker). */
CR_API CR_CHECKED int cr_go_on(unsigned worker, void (*fn)(void *arg), void *arg);
CR_API CR_CHECKED int cr_spawn_on(struct cr_co **out, unsigned worker, void (*fn)(void *arg), void *arg, const struct cr_attr *attr);

/* The calling worker's number, and how many there are; -EPERM outside of a runtime. Do not suspend. */
CR_API int cr_worker_index(void);
CR_API int cr_worker_count(void);

/* Waits until co has ended, and gives back its handle. Suspends. One joiner at a time.
 * Returns 0 (handle gone); -ETIMEDOUT, -ECANCELED (handle still valid); -EDEADLK (co is the caller), -EBUSY (another
 * one joins it), -EPERM. */
CR_API CR_CHECKED int cr_join(struct cr_co *co);
CR_API CR_CHECKED int cr_join_until(struct cr_co *co, int64_t deadline_ns);

/* Gives the handle back without waiting. Returns 0, -EBUSY (another one joins it), -EPERM. Does not suspend. */
CR_API int cr_detach(struct cr_co *co);

/* Asks co to end: its present wait and each later one return -ECANCELED. Needs a handle, or oneself.
 * Returns 0, also if it had ended; -EPERM. Does not suspend. */
CR_API int cr_cancel(struct cr_co *co);

/* Lets the other ready coroutines run once. Returns 0 or -EPERM. Suspends (stays ready). */
CR_API int cr_yield(void);

/* Waits for a duration, or until a point in time. Suspends.
 * Returns 0 when the time has come; -ECANCELED; -EPERM. */
CR_API int cr_sleep(int64_t duration_ns);
CR_API int cr_sleep_until(int64_t deadline_ns);

/* Waits until another one calls cr_unpark for the running coroutine. One such call that comes earlier is not lost: the next cr_park returns at once, once
 * (several count as one). Needs no memory. Suspends. Return 0; -ETIMEDOUT; -ECANCELED; -EPERM. */
CR_API CR_CHECKED int cr_park(void);
CR_API CR_CHECKED int cr_park_until(int64_t deadline_ns);

/* Ends co's cr_park, or its next one. Needs a handle. Returns 0, also if it had ended; -EPERM. Does not suspend; from coroutines of co's runtime.
 * _many: the same for several, whose memory it fetches ahead: when many have been parked for long, a wake costs a fraction of what it does one by one.
 * From some dozens to some hundreds at a time are best, and then a cr_yield, which runs them. -EPERM: of at least one; the others are done. */
CR_API int cr_unpark(struct cr_co *co);
CR_API int cr_unpark_many(struct cr_co *const *cos, size_t count);

/* Runs fn(arg) on another thread while the coroutine waits: for calls that block the thread (getaddrinfo, fsync, a C library), which would
 * hold up all coroutines of the worker. Such threads are the runtime's, up to max_blocking_threads of its configuration; beyond that calls wait for one,
 * first come, first served. What fn finds out it writes to *arg, which may lie on the caller's stack: once fn has begun, the call returns
 * when fn has, and 0. Only before that is a cancellation heeded, or the deadline, which so bounds the wait for a free thread.
 * fn must not call what is for coroutines (it gets -EPERM), and leaves the thread's signal mask (asynchronous ones are blocked) and its other
 * attributes as they were. Suspends.
 * Returns 0 (fn has run); and, fn not run: -ETIMEDOUT, -ECANCELED, -EAGAIN (there is no thread, and none could be made), -ENOMEM, -EINVAL, -EPERM. */
CR_API CR_CHECKED int cr_blocking(void (*fn)(void *arg), void *arg);
CR_API CR_CHECKED int cr_blocking_until(void (*fn)(void *arg), void *arg, int64_t deadline_ns);

/* Monotonic time in nanoseconds, and that time plus a duration (saturating): a deadline.
 * Any thread, never suspends. */
CR_API int64_t cr_now(void);
CR_API int64_t cr_after(int64_t duration_ns);

/* Fills buf with random bytes: the kernel's (getrandom), or, in a runtime under a seed, ones that follow from that, on its own thread. Any thread. Never suspends (but the kernel
 * blocks while it has none yet, early after the machine was started). 0 or -errno. */
CR_API CR_CHECKED int cr_random(void *buf, size_t size_bytes);

/* Writes to fd what all coroutines of the runtime do: how many, in which function, what they wait for and who holds that, since when, whether with a deadline, and one
 * backtrace for all that are at the same place (x86-64, with libunwind); circles of coroutines that wait for each other; what runs on a worker that does not answer
 * within a second. The coroutines run on meanwhile, so it is no picture of one moment; memory is bounded, however many there are: what fits no group is
 * counted. A name that another coroutine is just being given may be shown half.
 * From a coroutine: suspends until it is written. From a thread that runs none: of all runtimes of the process, and blocks the thread. If nobody reads from
 * fd, the rest is dropped after 5 s.
 * Returns 0; -ECANCELED (it is written nevertheless, in a moment); -EBADF, -EMFILE (of a duplicate of fd); -ENOMEM, -EAGAIN (no thread to do it); -ESRCH: no runtime
 * runs; -EPERM in a signal handler on a worker, and in a child of fork.
 *
 * SIGQUIT (Ctrl-\) does the same to report_fd while a runtime runs, and ends nothing: if it had its default disposition when the runtime started, and the flags do not
 * say CR_NO_SIGQUIT. Where the program handles, ignores or blocks it, it is the program's: set that before the runtime starts. */
CR_API int cr_dump(int fd);

/* Counters of the calling thread's runtime since its start, all workers together. Returns 0 or -EPERM. Does not suspend. */
struct cr_stats {
    uint64_t spawned, ended;  /* coroutines */
    uint64_t switches;        /* from one coroutine to another, or to the worker's loop */
    uint64_t parks, timeouts; /* waits, and how many of them ended by their deadline */
    uint64_t polls, events;   /* calls of the poller, and events that they brought */
    uint64_t stack_waits;     /* times that a coroutine had to wait for a stack, or to get back onto it */
    uint64_t steals, sent;    /* coroutines that another worker took, and that one worker made ready for another */
    uint64_t slow;            /* times that a coroutine ran too long without suspending */
    uint64_t seed, trace;     /* under a seed: that, and a number made of which coroutine had its turn when: the same for the same turns; else 0 */
    uint64_t frozen, thawed;  /* virtual stacks, by all runtimes of the process: thawed for their coroutine, or since somebody touched them */
};
CR_API int cr_stats_get(struct cr_stats *out);

/* Memory in use, in bytes by kind (but of stacks: addresses), of the whole process's runtimes; what the application allocates itself is not among it. Kinds that are made of many small objects
 * count in steps of 256 KiB for each worker. Any thread. Never suspends; page_tables_bytes takes a read of /proc/self/status, some tens of microseconds. */
struct cr_mem_stats {
    uint64_t records_bytes; /* coroutine records, hot and cold parts */
    uint64_t frames_bytes;  /* tasks: their frames and records (crore/task.h) */
    uint64_t stacks_bytes;  /* address space of stacks, guards included, of which only the kernel knows how much is memory: a page costs none before its first touch, nor while its stack is
                               frozen. Packed stacks have no guards, and are memory */
    uint64_t conns_bytes;   /* connections and listeners */
    uint64_t buffers_bytes; /* lent buffers, in use or pooled */
    uint64_t images_bytes;  /* live bytes of stacks, while they are not on them */
    uint64_t packets_bytes; /* packet buffers (crore/packet.h), as many as were ever in use at once: these do not go back */
    uint64_t other_bytes;   /* workers, tables */
    uint64_t spare_bytes;   /* held back for any of these but guarded stacks: what is not wanted for about a second goes back to the system */
    uint64_t transparent_bytes; /* of what is above, and of what has gone back: addresses for which the kernel was asked for huge pages (transparent ones), */
    uint64_t hugetlb_bytes;     /* and for which it has given some of its pool (hugetlb) */
    uint64_t page_tables_bytes; /* of the whole process, as the kernel says; 0: it does not */
    uint64_t kernel_calls;  /* mmap, munmap, mprotect and madvise made so far, several ranges dropped at once among them (not what looks and freezes: mincore, process_madvise for guards, UFFDIO_COPY) */
    uint64_t frozen;        /* virtual stacks, so far: how often one was frozen, */
    uint64_t thawed, touched; /* thawed for its coroutine to go on, and by another one's touch */
};
CR_API void cr_mem_stats_get(struct cr_mem_stats *out);

/* Gives memory that is not in use back to the system: at once what the process holds back and what the calling thread's worker has left over (some 30 us a MiB), and what other
 * workers have left over with their next turn. All this happens by itself, too, some at a time, about a second after it was last in use; so this is for who knows that a peak is
 * over; stacks three seconds after, and slower while there is work. (Free stacks take 2 us each.) Any thread. Never suspends. */
CR_API void cr_mem_trim(void);

#ifdef __cplusplus
}
#endif

#include <crore/rt_inline.h>

#endif
