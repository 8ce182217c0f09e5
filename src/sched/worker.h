/* Within the room: what switching (sched.c), spawning (spawn.c), the loop (loop.c), who has nothing to do (idle.c) and what is sent (sent.c) want of each other. */
#ifndef CR__WORKER_H
#define CR__WORKER_H

#include "sched/sched.h"

#define CR__IO_BUDGET 64

/* Runs what is ready, until nothing is or the chain's budget is used up. */
void cr__run_ready(struct cr__worker *worker);

/* Ends a task that runs: as a coroutine's function does that returns. */
void cr__task_end(struct cr__worker *worker, struct cr__record *me);

/* Puts the record back of one that has ended. */
static inline void cr__record_free(struct cr__worker *worker, struct cr__record *record)
{
    bool task = cr__co_is_task(&record->co);
    cr__co_state_set(&record->co, CR__CO_FREE);
    atomic_store_explicit(&record->word, CR__FREE, memory_order_relaxed); /* a handle that is used once more is no handle */
    if (CR__UNLIKELY(task))
        cr__frames_put(&worker->frames, record);
    else
        cr__slab_put(&worker->records, record);
}

/* Of one whose handle somebody holds: whether it has ended. */
static inline bool cr__record_ended(const struct cr__record *record)
{
    return (cr__co_state(&record->co) & ~(unsigned)CR__CO_TASK) == CR__CO_DONE;
}

/* To another worker, which it is for. */
CR__COLD void cr__deliver(struct cr__worker *worker, struct cr__worker *to, struct cr__record *record);

/* Runs a task until it waits or ends (task.c). */
void cr__task_run(struct cr__worker *worker, struct cr__record *task);

/* Onto the worker's own list or ring; worker is the calling thread's. */
void cr__ready_here(struct cr__worker *worker, struct cr__record *record);

/* Every few milliseconds: what has waited longest to start gets into the list of what is ready. */
void cr__age(struct cr__worker *worker);

/* A stack of that class is free: the next one that waits is ready. Somebody does wait. */
CR__COLD void cr__feed(struct cr__worker *worker, unsigned class);

/* Gives back another worker's stack, on which nobody runs any more; nothing to do if there is none. */
CR__COLD void cr__send_stack_home(struct cr__worker *worker);

/* A batch for whoever has nothing to do, linked by cr_co.next. */
void cr__inject(struct cr__sched *sched, struct cr__record *first);

/* Gives back some of the memory that lies unused, when it is time; nanoseconds until there will be something to give back, negative: there won't (memory.c). */
bool cr__worker_shrinks_now(const struct cr__worker *worker);
void cr__worker_shrink(struct cr__worker *worker);
int64_t cr__worker_shrinks_in(const struct cr__worker *worker);

/* The turns of those services that have been poked or are due; and nanoseconds until one is: negative: never. Only where there are any. */
CR__COLD void cr__services_turn(struct cr__worker *worker);
CR__COLD int64_t cr__services_due_in(const struct cr__worker *worker);

/* ---- Freezing (freezer.c) ------------------------------------------------------------------------------------- */

/* At a turn of the loop: looks at some of the worker's virtual stacks. */
void cr__freezer_turn(struct cr__worker *w);

/* How long the worker may sleep before there is something to freeze; negative: there is nothing. */
int64_t cr__freezer_due_in(const struct cr__worker *w);

/* Its coroutine is about to go on. 0 or -ENOMEM. */
int cr__freezer_thaw(struct cr__worker *w, struct cr__record *record);

/* Its coroutine has taken its virtual stack, or is about to give it back. */
void cr__freezer_add(struct cr__worker *w, struct cr__record *record);
void cr__freezer_remove(struct cr__worker *w, struct cr__record *record);

#endif
