/* Where a runtime is put together: a worker, its poller, its connections, its signals. Nothing below knows this room. */
#ifndef CR__RT_H
#define CR__RT_H

#include <signal.h>

#include "sched/sched.h"

/* Asynchronous signals: blocked while the worker runs; when one is pending (a signalfd tells), it is delivered to the program's own
 * handlers, or to its default action, on the worker's stack between two coroutines: a coroutine's stack need not hold a signal frame.
 * A signal that was blocked before stays blocked: it is the program's, for a signalfd of its own. 0 or -errno. */
int cr__signals_enter(struct cr__worker *worker);
void cr__signals_leave(struct cr__worker *worker);

/* Has those that are pending taken elsewhere than on worker 0, which is stuck. By the monitor's thread, on which all are blocked. */
void cr__signals_take_over(struct cr__sched *sched);

/* Has reports say more of waits that the rooms below know (waits.c). */
void cr__waits_describe(void);

/* Lets the signal through by which a worker is asked what it runs (sched/probe.c). */
void cr__signals_unblock_probe(void);

/* Blocks all asynchronous signals on the calling thread: what is blocked before goes to *before. */
void cr__signals_block(sigset_t *before);

/* Tries (attempt says -EAGAIN: not yet), and waits, until fd is readable, to try again; then closes fd. What attempt says, or -ETIMEDOUT,
 * -ECANCELED, -ENOMEM; fd itself, if it is negative. */
struct cr__fd_conn;
ssize_t cr__fd_watch(int fd, int64_t deadline_ns, ssize_t (*attempt)(struct cr__fd_conn *c, void *arg), void *arg);

/* The other way: cr__sched_of. */
struct cr_rt *cr__rt_of(struct cr__sched *sched);

#define CR__SHARED_STACKS_MAX 1024

/* Fills in what the program leaves open: what the environment wishes, or the default. 0; -EINVAL: it has been told what is wrong. */
int cr__wishes(struct cr_config *config, bool *takes_census);

/* The processors that the cgroup (version 2) of the process has a quota for, rounded up: the least of its own and those above it; 0: none.
 *   membership: the file that names it, as /proc/self/cgroup does
 *   root:       where the hierarchy is mounted, as at /sys/fs/cgroup */
unsigned cr__cgroup_processors(const char *membership, const char *root);

#endif
