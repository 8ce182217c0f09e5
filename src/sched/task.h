/* Tasks: coroutines without a stack. crore/task.h says what they are to a user.
 *
 * A task is a record of the scheduler's (CR__CO_TASK), without what has a stack, and right behind it the root frame (frames.h). It lies in the same queues, and is stolen, parked,
 * woken, joined and cancelled in the same ways. Its turn is a call: the worker's loop calls the innermost frame's `next`, on its own stack. So a coroutine that stops when a
 * task is next in the queue switches to the loop, which runs one task after the other, without a switch between them.
 *
 * A leaf is a public call that a task awaits. It is called twice: to begin its wait, upon which it answers CR_WAITS, and all of the task's functions return; and again when
 * the task has been made ready, to end it. CR__AWAITS in the record says which of the two it is. What lies between them lies in the record (kind, object, outcome), and what that
 * can't hold in what is waited for, or with the caller. The stackful call is made of the same two halves, with a switch between them.
 *
 * Invariants:
 *   1. self->task is the task from when the loop calls it until it has begun a wait, yielded or ended. Nobody else runs it, since the loop takes nothing
 *      from a queue before that call has returned; of one that may migrate, LEFT is said afterwards, as of a coroutine.
 *   2. The frames form a ring: `caller` of each is the frame that awaits it, and of the root the innermost one. So the record needs no word for that.
 *   3. A task whose CR__AWAITS is set does nothing before it has called a leaf that waits for that kind of thing.
 *
 * Rejected: going down again from the root at each resume (deep chains would pay for their depth each time); a flag in each frame (8 bytes). */
#ifndef CR__TASK_H
#define CR__TASK_H

#include <crore/task.h>

#include "sched/sched.h"

static inline struct cr_task *cr__task_root(struct cr__record *task)
{
    return (struct cr_task *)(void *)(task + 1);
}

/* Spawns a task; frame is copied. As cr__spawn_with. */
int cr__task_spawn(struct cr__worker *worker, struct cr__worker *placed, struct cr_co **out, const struct cr_task *frame, size_t size_bytes,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where);

/* Where each of its frames is, the innermost first; returns how many. By whose turn it is. */
unsigned cr__task_points(struct cr__record *task, const struct cr_point **points, unsigned most);

/* The two halves of a join: begin as cr__wait_begin, or *done; end when the wait is over, however; take gives the handle back. */
int cr__join_begin(struct cr__worker *worker, struct cr__record *me, struct cr__record *target, int64_t deadline_ns, bool *done);
void cr__join_end(struct cr__worker *worker, struct cr__record *target);
int cr__join_take(struct cr__worker *worker, struct cr__record *target, int *result);

/* ---- What leaves are made of -------------------------------------------------------------------------------- */

enum cr__turn {
    CR__BEGINS,
    CR__RESUMES,  /* the wait that it has begun is over: cr__leaf_arrive */
    CR__BREATHES, /* not now, it has had enough turns: it answers CR_WAITS, and is called again */
};

/* A leaf of a task, as it is called. */
struct cr__leaf {
    enum cr__turn turn;
    struct cr__worker *worker;
    struct cr__record *me;
};

/* Ends the program: `task` can't await anything now. */
__attribute__((noreturn)) CR__COLD void cr__leaf_misused(struct cr_task *task);

#define CR__KIND_BIT(kind) ((uint32_t)1 << (kind))
_Static_assert(CR__WAIT_KINDS <= 32, "a bit for each");

/* The task stops, waiting or ready; the loop goes on when all its functions have returned. */
static inline int cr__leaf_stop(struct cr__worker *w, struct cr__record *me)
{
    w->self->task = NULL;
    if (CR__UNLIKELY(cr__migrates(w, &me->co))) {
        w->leaving = &me->co;
        w->leaving_ready = false;
    }
    return CR_WAITS;
}

static inline int cr__leaf_yield(struct cr__worker *w, struct cr__record *me)
{
    cr__leaf_stop(w, me);
    if (CR__UNLIKELY(w->leaving != NULL))
        w->leaving_ready = true;
    else
        cr__queue_push(&w->ready, &me->co);
    return CR_WAITS;
}

/* Begins each leaf. kinds: bits of what this one waits for. */
static inline struct cr__leaf cr__leaf_enter(struct cr_task *task, int64_t deadline_ns, uint32_t kinds)
{
    struct cr__self *self = cr__self_get();
    struct cr_co *co = self ? self->task : NULL;
    struct cr__leaf leaf = {.turn = CR__BEGINS, .me = co ? cr__record_of(co) : NULL};
    if (CR__UNLIKELY(!co) || CR__UNLIKELY(cr__task_root(leaf.me)->caller != task))
        cr__leaf_misused(task);
    leaf.worker = self->worker;
    if (CR__UNLIKELY(!leaf.worker) || CR__UNLIKELY(self->current != &leaf.worker->loop))
        cr__leaf_misused(task);
    if (co->sched_flags & (CR__AWAITS | CR__RETURNED)) {
        leaf.turn = CR__RESUMES;
        if (CR__UNLIKELY((co->sched_flags & CR__RETURNED) != 0) || CR__UNLIKELY(!(CR__KIND_BIT(cr__waits_for(leaf.me)) & kinds)))
            cr__leaf_misused(task);
    } else if (CR__UNLIKELY(--leaf.worker->io_budget <= 0) && deadline_ns > leaf.worker->now_ns) {
        leaf.turn = CR__BREATHES;
        cr__leaf_yield(leaf.worker, leaf.me);
    }
    return leaf;
}

/* After cr__wait_begin, and being put where its waker finds it: CR_WAITS. Between the two the wait may have been claimed already. */
static inline int cr__leaf_wait(const struct cr__leaf *leaf, int64_t deadline_ns)
{
    leaf->me->co.sched_flags |= CR__AWAITS;
    cr__wait_arm(leaf->worker, leaf->me, deadline_ns);
    return cr__leaf_stop(leaf->worker, leaf->me);
}

/* The same, if r is CR_WAITS: what the first half of a call says when the wait has begun. Else r. */
static inline int cr__leaf_left(const struct cr__leaf *leaf, int r, int64_t deadline_ns)
{
    return r == CR_WAITS ? cr__leaf_wait(leaf, deadline_ns) : r;
}

/* The wait is over: how, as cr__wait_suspend says it. */
static inline int cr__leaf_arrive(const struct cr__leaf *leaf, int64_t deadline_ns)
{
    leaf->me->co.sched_flags &= (uint8_t)~CR__AWAITS;
    return cr__wait_arrive(leaf->me, deadline_ns);
}

/* As cr__mask without a bound, and cr__unmask; where the task stops in between. */
static inline void cr__leaf_stubborn(struct cr__record *me)
{
    bool masked = (cr__flag_set(me, CR__MASKED, true) & CR__MASKED) != 0;
    me->co.sched_flags |= (uint8_t)(CR__STUBBORN | (masked ? 0 : CR__UNMASKS));
}

static inline bool cr__leaf_is_stubborn(const struct cr__record *me)
{
    return (me->co.sched_flags & CR__STUBBORN) != 0;
}

static inline void cr__leaf_relent(struct cr__record *me)
{
    if (me->co.sched_flags & CR__UNMASKS)
        cr__flag_set(me, CR__MASKED, false);
    me->co.sched_flags &= (uint8_t)~(CR__STUBBORN | CR__UNMASKS);
}

/* A wait whose second half is not known by who called the first one: the call on a connection, for which the provider waits. It keeps what it needs in node.next; on its
 * return the object waited for may be gone. */
typedef int cr__finish(struct cr__worker *worker, struct cr__record *me, int64_t deadline_ns);

static inline void cr__leaf_finish_set(struct cr__record *me, cr__finish *finish)
{
    me->node.prev = (struct cr__wait_node *)(void *)finish;
}

static inline int cr__leaf_finish(const struct cr__leaf *leaf, int64_t deadline_ns)
{
    leaf->me->co.sched_flags &= (uint8_t)~CR__AWAITS;
    return ((cr__finish *)(void *)leaf->me->node.prev)(leaf->worker, leaf->me, deadline_ns);
}

#endif
