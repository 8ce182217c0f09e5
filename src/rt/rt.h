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

/* Blocks all asynchronous signals on the calling thread: what is blocked before goes to *before. */
void cr__signals_block(sigset_t *before);

#endif
