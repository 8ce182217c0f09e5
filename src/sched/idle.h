/* Between the loop (loop.c), who has nothing to do (idle.c), and what is sent (sent.c). */
#ifndef CR__IDLE_H
#define CR__IDLE_H

#include "sched/worker.h"

/* There is something to steal: if somebody sleeps, and nobody searches, wakes one. (Who goes to sleep at this moment may be missed: the one whose
 * ring it is offers again when it takes the next, and who watches looks at the rings.) */
static inline void cr__sched_offer(struct cr__sched *sched)
{
    if (CR__UNLIKELY(cr__sched_idle(sched) > 0) &&
        atomic_load_explicit(&sched->searching, memory_order_relaxed) == 0)
        cr__sched_wake_one(sched);
}

/* Looks for work elsewhere. Returns whether there may be something to do now. */
bool cr__worker_search(struct cr__worker *worker);

/* Takes a batch of the injection queue, if its ring is empty. Not only for who has nothing else to do: else those that always yield keep what is there from starting. */
bool cr__worker_take_injected(struct cr__worker *worker);

/* Nothing is ready: returns whether the worker may sleep in its poller; if so, cr__worker_get_up is called when that has returned. */
bool cr__worker_fall_asleep(struct cr__worker *worker);
void cr__worker_get_up(struct cr__worker *worker);

/* What is in the inbox: makes ready, and does what is posted. Returns whether there was anything. */
bool cr__worker_receive(struct cr__worker *worker);

/* By worker 0: from now on somebody runs who does what is told; what came before that, too. */
void cr__sched_open(struct cr__sched *sched);

/* What threads outside have told, by whoever comes by. worker NULL: the runtime has ended. */
void cr__sched_do_told(struct cr__sched *sched, struct cr__worker *worker);

static inline bool cr__sched_anything_told(struct cr__sched *sched)
{
    return atomic_load_explicit(&sched->any_told, memory_order_relaxed);
}

#endif
