/* Tasks: running them, and what they await of the scheduler. task.h has the picture; what else they await is beside the stackful calls, room by room. */
#include "sched/task.h"

#include "os/os.h"
#include "sched/tally.h"
#include "sched/worker.h"

/* ---- The end of a frame, and what must not be --------------------------------------------------------------- */

static int resumed_after_end(struct cr_task *task);

/* Where an ended frame is; its `caller` then says where it was last. */
static const struct cr_point ended = {.next = resumed_after_end, .function = "ended"};

static const struct cr_point *last_point(const struct cr_task *ended_frame)
{
    return (const struct cr_point *)(const void *)ended_frame->caller;
}

static int resumed_after_end(struct cr_task *task)
{
    const struct cr_point *last = last_point(task);
    cr__panic("task %s was resumed after its end (it was last at %s:%d)", last->function, last->file, last->line);
}

static void end_frame(struct cr_task *frame)
{
    frame->caller = (struct cr_task *)(uintptr_t)frame->at;
    frame->at = &ended;
}

static const struct cr_point *point_of(const struct cr_task *task)
{
    static const struct cr_point unknown = {.function = "?", .file = "?"};
    return task && task->at ? task->at : &unknown;
}

__attribute__((noreturn)) CR__COLD void cr__leaf_misused(struct cr_task *task)
{
    const struct cr_point *at = point_of(task);
    struct cr__self *self = cr__self_get();
    struct cr_co *co = self ? self->task : NULL;
    struct cr__worker *w = self ? self->worker : NULL;
    if (!co)
        cr__panic("%s (%s:%d) awaits something where no task runs: outside of one, or when it has said already that it waits", at->function, at->file,
                  at->line);
    if (!w)
        cr__panic("%s (%s:%d) awaits something in a child of fork(), where there is no runtime", at->function, at->file, at->line);
    struct cr_task *inner = cr__task_root(cr__record_of(co))->caller;
    if (inner != task)
        cr__panic("%s (%s:%d) awaits something, but is not the task that runs: that is %s (%s:%d)", at->function, at->file, at->line,
                  point_of(inner)->function, point_of(inner)->file, point_of(inner)->line);
    if (self->current != &w->loop)
        cr__panic("%s (%s:%d) awaits something inside a bare coroutine", at->function, at->file, at->line);
    cr__panic("%s (%s:%d) was resumed, and did not call again what it awaits", at->function, at->file, at->line);
}

/* After `frame` has run: what it says must be so. */
static void check_answer(const struct cr__self *self, const struct cr_task *frame, int answer)
{
    const struct cr_point *at = point_of(frame);
    if (CR__LIKELY((answer == CR_WAITS) == (self->task == NULL)))
        return;
    if (!self->worker)
        cr__panic("task %s returned in a child of fork(), where there is no runtime: exec or _exit was meant", at->function);
    if (answer == CR_WAITS)
        cr__panic("task %s (%s:%d) says that it waits, and awaits nothing", at->function, at->file, at->line);
    cr__panic("task %s (%s:%d) has ended while it waits", at->function, at->file, at->line);
}

/* ---- Running ------------------------------------------------------------------------------------------------ */

/* From the innermost frame outwards, until one waits. */
void cr__task_run(struct cr__worker *w, struct cr__record *me)
{
    struct cr__self *self = w->self;
    struct cr_task *root = cr__task_root(me), *frame = root->caller;
    self->task = &me->co;
    int answer = frame->at->next(frame);
    check_answer(self, frame, answer);
    while (answer != CR_WAITS && frame != root) {
        struct cr_task *caller = root->caller = frame->caller;
        end_frame(frame);
        me->co.sched_flags |= CR__RETURNED;
        me->since = (uint32_t)answer;
        frame = caller;
        answer = frame->at->next(frame);
        check_answer(self, frame, answer);
    }
    if (answer == CR_WAITS)
        return;
    me->since = (uint32_t)answer;
    end_frame(root);
    cr__task_end(w, me);
}

int cr_task_call(struct cr_task *task, struct cr_task *callee)
{
    cr__handed(callee);
    struct cr__self *self = cr__self_get();
    struct cr__record *me = self && self->task ? cr__record_of(self->task) : NULL;
    struct cr_task *root = me ? cr__task_root(me) : NULL;
    if (CR__UNLIKELY(!me || root->caller != task || (me->co.sched_flags & CR__AWAITS)))
        cr__leaf_misused(task);
    if (me->co.sched_flags & CR__RETURNED) {
        me->co.sched_flags &= (uint8_t)~CR__RETURNED;
        return (int)me->since;
    }
    if (CR__UNLIKELY(!callee || !callee->at))
        cr__panic("%s (%s:%d) calls a task whose frame does not say what it runs: make it with CR_TASK", task->at->function, task->at->file, task->at->line);
    if (CR__UNLIKELY(callee->caller && callee->at != &ended))
        cr__panic("%s (%s:%d) calls a task that has been called already, %s (%s:%d)", task->at->function, task->at->file, task->at->line,
                  callee->at->function, callee->at->file, callee->at->line);
    if (CR__LIKELY(callee->at != &ended)) {
        callee->caller = task;
        root->caller = callee;
    }
    int answer = callee->at->next(callee);
    check_answer(self, callee, answer);
    if (answer != CR_WAITS) {
        root->caller = task;
        end_frame(callee);
    }
    return answer;
}

/* ---- Spawning ----------------------------------------------------------------------------------------------- */

int cr_task_spawn(struct cr_co **out, const struct cr_task *frame, size_t size_bytes, const struct cr_attr *attr)
{
    cr__handed(frame);
    struct cr__worker *w = cr__worker_here();
    return w ? cr__task_spawn(w, NULL, out, frame, size_bytes, attr, NULL, NULL) : -EPERM;
}

int cr_task_spawn_on(struct cr_co **out, unsigned worker, const struct cr_task *frame, size_t size_bytes, const struct cr_attr *attr)
{
    cr__handed(frame);
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    if (worker >= w->sched->count)
        return -EINVAL;
    return cr__task_spawn(w, w->sched->workers[worker], out, frame, size_bytes, attr, NULL, NULL);
}

int cr_task_go(const struct cr_task *frame, size_t size_bytes)
{
    cr__handed(frame);
    return cr_task_spawn(NULL, frame, size_bytes, NULL);
}

/* ---- Time --------------------------------------------------------------------------------------------------- */

int cr_task_sleep(struct cr_task *task, int64_t deadline_ns)
{
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_SLEEP));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return cr__leaf_arrive(&leaf, deadline_ns);
    int r = cr__wait_begin(leaf.worker, leaf.me, CR__WAIT_SLEEP, NULL, deadline_ns);
    if (r == 0)
        return cr__leaf_wait(&leaf, deadline_ns);
    return r == -ETIMEDOUT ? 0 : r; /* the time had come before */
}

/* It has not waited, so there is nothing to arrive from. */
int cr_task_yield(struct cr_task *task)
{
    struct cr__leaf leaf = cr__leaf_enter(task, 0, CR__KIND_BIT(CR__WAIT_NONE));
    if (leaf.turn == CR__RESUMES) {
        leaf.me->co.sched_flags &= (uint8_t)~CR__AWAITS;
        return 0;
    }
    leaf.me->co.sched_flags |= CR__AWAITS;
    cr__park_kind_clear(&leaf.me->word); /* there may still be that of an earlier wait */
    return cr__leaf_yield(leaf.worker, leaf.me);
}

/* ---- Others ------------------------------------------------------------------------------------------------- */

int cr_task_join(struct cr_task *task, struct cr_co *co, int *result, int64_t deadline_ns)
{
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_JOIN));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (!co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    int r;
    if (leaf.turn == CR__RESUMES) {
        r = cr__leaf_arrive(&leaf, deadline_ns);
        cr__join_end(leaf.worker, target);
    } else if (target == leaf.me) {
        r = cr__park_held(&target->word) ? -EDEADLK : -EPERM;
    } else {
        bool done;
        r = cr__join_begin(leaf.worker, leaf.me, target, deadline_ns, &done);
        if (r == 0 && !done)
            return cr__leaf_wait(&leaf, deadline_ns);
    }
    return r < 0 ? r : cr__join_take(leaf.worker, target, result);
}

/* Begins to wait until it has ended. What runs has been given an argument that is the task's: whatever comes, it is waited for. */
static int run_wait(const struct cr__leaf *leaf, struct cr__record *target, int64_t deadline_ns)
{
    bool done;
    int r = cr__leaf_is_stubborn(leaf->me) ? -ECANCELED : cr__join_begin(leaf->worker, leaf->me, target, deadline_ns, &done);
    if (r < 0) {
        deadline_ns = CR_FOREVER;
        cr_cancel(&target->co);
        cr__leaf_stubborn(leaf->me);
        r = cr__join_begin(leaf->worker, leaf->me, target, deadline_ns, &done);
        CR__ASSERT(r == 0);
    }
    if (!done)
        return cr__leaf_wait(leaf, deadline_ns);
    cr__leaf_relent(leaf->me);
    return cr__join_take(leaf->worker, target, NULL);
}

static int run_begin(const struct cr__leaf *leaf, void (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    struct cr_co *co;
    if (cr__bounded(leaf->me, deadline_ns) <= leaf->worker->now_ns ||
        cr__park_cancelled(atomic_load_explicit(&leaf->me->word, memory_order_relaxed)))
        return cr__too_late(leaf->worker, leaf->me);
    int r = cr__spawn(leaf->worker, NULL, &co, fn, arg, NULL);
    return r < 0 ? r : run_wait(leaf, cr__record_of(co), deadline_ns);
}

int cr_task_run(struct cr_task *task, void (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_JOIN));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__BEGINS)
        return run_begin(&leaf, fn, arg, deadline_ns);
    struct cr__record *target = (struct cr__record *)leaf.me->node.object;
    int r = cr__leaf_arrive(&leaf, deadline_ns);
    cr__join_end(leaf.worker, target);
    if (r < 0)
        return run_wait(&leaf, target, deadline_ns);
    cr__leaf_relent(leaf.me);
    return cr__join_take(leaf.worker, target, NULL);
}

/* ---- The chain of awaits ------------------------------------------------------------------------------------ */

unsigned cr__task_points(struct cr__record *task, const struct cr_point **points, unsigned most)
{
    struct cr_task *root = cr__task_root(task), *frame = root->caller;
    unsigned count = 0;
    if (root->at == &ended) { /* its local storage is being destroyed */
        points[0] = last_point(root);
        return 1;
    }
    while (count < most && frame != root) {
        points[count++] = frame->at;
        frame = frame->caller;
    }
    if (count < most)
        points[count++] = root->at;
    return count;
}

int cr_task_backtrace(int fd)
{
    struct cr__worker *w;
    const struct cr_point *points[CR__TALLY_FRAMES];
    struct cr__record *me = cr__running(&w) ? NULL : cr__acting(&w);
    struct cr__out out;
    if (!me)
        return -EPERM;
    cr__out_init(&out, fd, NULL);
    cr__out_points(&out, points, cr__task_points(me, points, CR__TALLY_FRAMES));
    cr__out_flush(&out);
    return out.failed ? -EPIPE : 0;
}
