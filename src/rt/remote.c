/* Other threads' calls: spawning, and events.
 *
 * An event lives as long as its users want, which may be no longer than it takes a waiter to see that it is set. So who sets it takes the waiters off it,
 * under its lock, and unlocks: that is the last time that it is touched. The waiters are then on a chain of their own, and a notice is on its way to
 * each of them. One that stops waiting (deadline, cancellation) and finds itself taken off waits for its notice, which is sure to come: nobody
 * holds on to a record whose coroutine has gone on.
 *
 * The chain belongs to the worker that delivers it. Per record, "the notice has come" is said and looked at under the lock of its word. */
#include <crore/outside.h>

#include "rt/rt.h"
#include "sched/budget.h"
#include "sched/task.h"

/* What a waiter's node.object says: the event, while it is in its list; then one of these. */
#define TAKEN_OFF ((uintptr_t)1 << 1)
#define NOTIFIED ((uintptr_t)2 << 1)

struct cr_rt *cr_rt_here(void)
{
    struct cr__worker *worker;
    return cr__acting(&worker) ? cr__rt_of(worker->sched) : NULL;
}

/* ---- Spawning ----------------------------------------------------------------------------------------------- */

struct go {
    struct cr__post post;
    void (*fn)(void *arg);
    void *arg;
};

/* Without memory for a record it tries again: who called has been told that it will run. */
static void on_go(struct cr__worker *worker, struct cr__post *post)
{
    struct go *go = CR__CONTAINER(post, struct go, post);
    if (worker && cr__spawn(worker, NULL, NULL, go->fn, go->arg, NULL) == -ENOMEM &&
        !atomic_load_explicit(&worker->sched->done, memory_order_relaxed)) {
        cr__sched_promise(worker->sched);
        cr__post(worker, post);
        return;
    }
    cr__mem_free(go, sizeof(*go), CR__MEM_OTHER);
}

int cr_go_remote(struct cr_rt *rt, void (*fn)(void *arg), void *arg)
{
    if (cr__forked())
        return -EPERM;
    if (!rt || !fn)
        return -EINVAL;
    if (atomic_load_explicit(&cr__sched_of(rt)->stopping, memory_order_relaxed))
        return -ESHUTDOWN; /* else whoever spawns faster than it ends would keep it from that */
    struct go *go = cr__budget_has_room(cr__sched_of(rt)) ? cr__mem_alloc(sizeof(*go), CR__MEM_OTHER) : NULL;
    if (!go)
        return -ENOMEM;
    *go = (struct go){.post.fn = on_go, .fn = fn, .arg = arg};
    int r = cr__sched_tell(cr__sched_of(rt), &go->post);
    if (r < 0)
        cr__mem_free(go, sizeof(*go), CR__MEM_OTHER);
    return r;
}

/* ---- Events: the list --------------------------------------------------------------------------------------- */

static void lock(struct cr_event *event)
{
    cr__spin_lock((_Atomic uint8_t *)(void *)&event->_lock);
}

static void unlock(struct cr_event *event)
{
    cr__spin_unlock((_Atomic uint8_t *)(void *)&event->_lock);
}

static void append_locked(struct cr_event *event, struct cr__record *me)
{
    struct cr__wait_node *last = event->_last;
    me->node.next = NULL;
    me->node.prev = last;
    if (last)
        last->next = &me->node;
    else
        event->_first = &me->node;
    event->_last = &me->node;
}

static void remove_locked(struct cr_event *event, struct cr__record *me)
{
    if (me->node.prev)
        me->node.prev->next = me->node.next;
    else
        event->_first = me->node.next;
    if (me->node.next)
        me->node.next->prev = me->node.prev;
    else
        event->_last = me->node.prev;
}

/* All of them, linked by node.next. */
static struct cr__wait_node *take_off_locked(struct cr_event *event)
{
    struct cr__wait_node *first = event->_first;
    for (struct cr__wait_node *node = first; node; node = node->next)
        node->object = TAKEN_OFF;
    event->_first = event->_last = NULL;
    event->_set = 1;
    return first;
}

/* ---- Events: waiting ---------------------------------------------------------------------------------------- */

static void notify(struct cr__worker *worker, struct cr__wait_node *first)
{
    for (struct cr__wait_node *node = first, *next; node; node = next) {
        struct cr__record *record = CR__CONTAINER(node, struct cr__record, node);
        next = node->next;
        cr__park_lock(&record->word, worker->alone);
        node->object = NOTIFIED;
        bool claimed = cr__park_claim(&record->word, CR__WOKEN, worker->alone);
        cr__park_unlock(&record->word, 0, worker->alone);
        if (claimed)
            cr__ready(worker, record);
    }
}

/* Returns whether it has to suspend for it. */
static bool await_notice(struct cr__worker *worker, struct cr__record *me)
{
    cr__park_lock(&me->word, worker->alone);
    bool wait = me->node.object != NOTIFIED && cr__wait_begin(worker, me, CR__WAIT_EVENT, (void *)TAKEN_OFF, CR_FOREVER) == 0;
    cr__park_unlock(&me->word, 0, worker->alone);
    return wait;
}

/* After a wait that was ended by something else. Returns whether it was still in the event's list, and no notice comes. */
static bool withdraw(struct cr__worker *worker, struct cr_event *event, struct cr__record *me)
{
    lock(event);
    cr__park_lock(&me->word, worker->alone);
    bool listed = me->node.object == (uintptr_t)event;
    cr__park_unlock(&me->word, 0, worker->alone);
    if (listed)
        remove_locked(event, me);
    unlock(event);
    return listed;
}

static int wait_suspended(struct cr__worker *worker, struct cr__record *me, struct cr_event *event, int64_t deadline_ns)
{
    int r = cr__wait_suspend(worker, me, deadline_ns);
    worker = cr__worker_here();
    if (r == 0 || withdraw(worker, event, me))
        return r;
    struct cr__mask mask = cr__mask(me, CR_FOREVER);
    while (await_notice(worker, me)) {
        (void)cr__wait_suspend(worker, me, CR_FOREVER);
        worker = cr__worker_here();
    }
    cr__unmask(me, mask);
    return 0;
}

/* CR_WAITS; 0: it is set. */
static int wait_begin(struct cr__worker *worker, struct cr__record *me, struct cr_event *event, int64_t deadline_ns)
{
    lock(event);
    int r = event->_set ? 1 : cr__wait_begin(worker, me, CR__WAIT_EVENT, event, deadline_ns);
    if (r == 0)
        append_locked(event, me);
    unlock(event);
    if (r != 0)
        return r < 0 ? r : 0;
    cr__wait_outside(worker, 1);
    return CR_WAITS;
}

int cr_event_wait_until(struct cr_event *event, int64_t deadline_ns)
{
    cr__handed(event);
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    if (!me)
        return -EPERM;
    int r = wait_begin(worker, me, event, deadline_ns);
    if (r != CR_WAITS) {
        cr__breathe(worker);
        return r;
    }
    r = wait_suspended(worker, me, event, deadline_ns);
    cr__wait_outside(cr__worker_here(), -1);
    return r;
}

/* The task waits no more, or for the notice alone, whatever else comes. */
static int leaf_arrived(const struct cr__leaf *leaf, struct cr_event *event, int r)
{
    if (!cr__leaf_is_stubborn(leaf->me)) {
        if (r == 0 || withdraw(leaf->worker, event, leaf->me))
            return r;
        cr__leaf_stubborn(leaf->me);
    }
    if (await_notice(leaf->worker, leaf->me))
        return CR_WAITS;
    cr__leaf_relent(leaf->me);
    return 0;
}

int cr_task_event_wait(struct cr_task *task, struct cr_event *event, int64_t deadline_ns)
{
    cr__handed(event);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_EVENT));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__BEGINS)
        return cr__leaf_left(&leaf, wait_begin(leaf.worker, leaf.me, event, deadline_ns), deadline_ns);
    int r = leaf_arrived(&leaf, event, cr__leaf_arrive(&leaf, deadline_ns));
    if (r == CR_WAITS)
        return cr__leaf_wait(&leaf, CR_FOREVER);
    cr__wait_outside(leaf.worker, -1);
    return r;
}

int cr_event_wait(struct cr_event *event)
{
    cr__handed(event);
    return cr_event_wait_until(event, CR_FOREVER);
}

/* ---- Events: setting ---------------------------------------------------------------------------------------- */

int cr_event_set(struct cr_event *event)
{
    cr__handed(event);
    struct cr__worker *worker;
    if (!cr__acting(&worker))
        return -EPERM;
    lock(event);
    struct cr__wait_node *first = take_off_locked(event);
    unlock(event);
    notify(worker, first);
    return 0;
}

struct notice {
    struct cr__post post;
    struct cr__wait_node *first;
};

static void on_notice(struct cr__worker *worker, struct cr__post *post)
{
    struct notice *notice = CR__CONTAINER(post, struct notice, post);
    notify(worker, notice->first);
    cr__mem_free(notice, sizeof(*notice), CR__MEM_OTHER);
}

static struct cr__worker *worker_of(struct cr__sched *sched, struct cr__wait_node *node)
{
    struct cr__record *record = CR__CONTAINER(node, struct cr__record, node);
    return sched->workers[cr__park_worker(&record->word)];
}

static bool is_of(struct cr__sched *sched, struct cr__wait_node *node)
{
    struct cr__record *record = CR__CONTAINER(node, struct cr__record, node);
    if (cr__co_is_task(&record->co))
        return CR__CONTAINER(cr__frames_of(record), struct cr__worker, frames)->sched == sched;
    return CR__CONTAINER(cr__slab_of(record), struct cr__worker, records)->sched == sched;
}

/* Sets it, if nobody waits, or there is a notice to send, which goes to *to. 0; -EAGAIN: there is none; -EINVAL. */
static int set_with(struct cr__sched *sched, struct cr_event *event, struct notice *notice, struct cr__worker **to)
{
    int r = 0;
    lock(event);
    if (!event->_first) {
        event->_set = 1;
    } else if (!is_of(sched, event->_first)) {
        r = -EINVAL;
    } else if (!notice) {
        r = -EAGAIN;
    } else {
        *to = worker_of(sched, event->_first);
        notice->first = take_off_locked(event);
    }
    unlock(event);
    return r;
}

static int set_inside(struct cr__sched *sched, struct cr_event *event)
{
    struct cr__worker *to = NULL;
    int r = set_with(sched, event, NULL, &to);
    if (r != -EAGAIN)
        return r;
    struct notice *notice = cr__mem_alloc(sizeof(*notice), CR__MEM_OTHER);
    if (!notice)
        return -ENOMEM;
    notice->post = (struct cr__post){.fn = on_notice, .promised = true};
    r = set_with(sched, event, notice, &to);
    if (!to) {
        cr__mem_free(notice, sizeof(*notice), CR__MEM_OTHER);
        return r;
    }
    cr__sched_promise(sched);
    cr__post(to, &notice->post);
    return 0;
}

int cr_event_set_remote(struct cr_rt *rt, struct cr_event *event)
{
    cr__handed(event);
    if (!rt || !event)
        return -EINVAL;
    int r = cr__sched_enter(cr__sched_of(rt));
    if (r < 0)
        return r;
    r = set_inside(cr__sched_of(rt), event);
    cr__sched_leave(cr__sched_of(rt));
    return r;
}

int cr_event_is_set(struct cr_event *event)
{
    cr__handed(event);
    lock(event);
    int set = (int)event->_set;
    unlock(event);
    return set;
}

void cr_event_clear(struct cr_event *event)
{
    cr__handed(event);
    lock(event);
    event->_set = 0;
    unlock(event);
}
