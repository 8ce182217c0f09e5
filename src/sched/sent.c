/* What is sent to workers: by each other, into an inbox, and by threads outside, to one of them or to whoever comes by.
 *
 * What is promised is done before the runtime ends; who is inside has the workers there until he has left. Both begin under end_lock, where the end is declared, so one that begins is
 * seen by the end, or sees it. */
#include <sched.h>

#include "sched/idle.h"

/* ---- What others have sent ---------------------------------------------------------------------------------- */

static void receive(struct cr__worker *w, uintptr_t item)
{
    if (item & CR__INBOX_TAGS) {
        struct cr_co *co = CR__CONTAINER((void *)(item & ~CR__INBOX_TAGS), struct cr_co, next);
        cr__queue_push(&w->ready, co);
    } else {
        struct cr__post *post = CR__CONTAINER((void *)item, struct cr__post, link);
        bool promised = post->promised;
        post->fn(w, post);
        if (promised)
            cr__sched_promise_kept(w->sched);
    }
}

bool cr__worker_receive(struct cr__worker *w)
{
    uintptr_t item = cr__inbox_take(&w->inbox), oldest = 0;
    if (item == 0)
        return false;
    while (item) { /* it came newest first */
        struct cr__inbox_link *link = (void *)(item & ~CR__INBOX_TAGS);
        uintptr_t older = link->next;
        link->next = oldest;
        oldest = item;
        item = older;
    }
    while (oldest) {
        struct cr__inbox_link *link = (void *)(oldest & ~CR__INBOX_TAGS);
        uintptr_t newer = link->next;
        receive(w, oldest);
        oldest = newer;
    }
    return true;
}

void cr__post(struct cr__worker *to, struct cr__post *post)
{
    if (cr__inbox_push(&to->inbox, &post->link, 0))
        to->poller_ops->kick(to);
}

void cr__worker_rouse(struct cr__worker *w)
{
    if (cr__inbox_rouse(&w->inbox))
        w->poller_ops->kick(w);
}

/* ---- From outside ------------------------------------------------------------------------------------------- */

int cr__sched_enter(struct cr__sched *s)
{
    if (cr__forked())
        return -EPERM;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed);
    if (!done)
        atomic_fetch_add_explicit(&s->inside, 1, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    return done ? -ESHUTDOWN : 0;
}

/* Under the lock, which is the last that is touched: who frees the runtime has taken it after us (cr__sched_abandon). */
void cr__sched_leave(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    atomic_fetch_sub_explicit(&s->inside, 1, memory_order_release); /* pairs with the acquire in cr__worker_drain */
    cr__spin_unlock(&s->end_lock);
}

/* Under end_lock. Returns whether it is the first one, for which somebody is to be roused. */
static bool append_told_locked(struct cr__sched *s, struct cr__post *post)
{
    post->link.next = 0;
    if (s->told)
        s->told_last->link.next = (uintptr_t)post;
    else
        s->told = post;
    s->told_last = post;
    bool first = s->open && !atomic_load_explicit(&s->any_told, memory_order_relaxed);
    if (first)
        atomic_store_explicit(&s->any_told, true, memory_order_relaxed);
    return first;
}

/* If nobody sleeps, the next one that comes by its loop takes it. */
static void rouse_one(struct cr__sched *s)
{
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in cr__worker_fall_asleep: it sees any_told, or we see it asleep */
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__inbox_rouse(&s->workers[i]->inbox)) {
            s->workers[i]->poller_ops->kick(s->workers[i]);
            return;
        }
    }
}

int cr__sched_tell(struct cr__sched *s, struct cr__post *post)
{
    if (cr__forked())
        return -EPERM;
    post->promised = true;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed), first = false;
    if (!done) {
        cr__sched_promise(s);
        first = append_told_locked(s, post);
    }
    if (first)
        atomic_fetch_add_explicit(&s->inside, 1, memory_order_relaxed); /* the workers are there until we have kicked one */
    cr__spin_unlock(&s->end_lock);
    if (first) {
        rouse_one(s);
        cr__sched_leave(s);
    }
    return done ? -ESHUTDOWN : 0;
}

bool cr__post_from_outside(struct cr__sched *s, struct cr__worker *to, struct cr__post *post)
{
    post->promised = true;
    cr__spin_lock(&s->end_lock);
    bool done = atomic_load_explicit(&s->done, memory_order_relaxed);
    if (!done) {
        cr__sched_promise(s);
        cr__post(to, post); /* under the lock: so it is there before the worker leaves its loop, and is drained */
    }
    cr__spin_unlock(&s->end_lock);
    return !done;
}

void cr__sched_promise_kept(struct cr__sched *s)
{
    atomic_fetch_sub_explicit(&s->promised, 1, memory_order_release); /* pairs with the acquire in cr__worker_drain */
}

static struct cr__post *take_told(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    struct cr__post *first = s->told;
    s->told = NULL;
    atomic_store_explicit(&s->any_told, false, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    return first;
}

void cr__sched_do_told(struct cr__sched *s, struct cr__worker *w)
{
    for (struct cr__post *post = take_told(s), *next; post; post = next) {
        next = (struct cr__post *)post->link.next;
        post->fn(w, post);
        cr__sched_promise_kept(s);
    }
}

void cr__sched_open(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    s->open = true;
    atomic_store_explicit(&s->any_told, s->told != NULL, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
}

void cr__sched_abandon(struct cr__sched *s)
{
    cr__spin_lock(&s->end_lock);
    atomic_store_explicit(&s->done, true, memory_order_relaxed);
    cr__spin_unlock(&s->end_lock);
    cr__sched_do_told(s, NULL);
}

/* All workers have stopped: what was still under way to this one. Afterwards nobody outside is about to touch a worker. */
void cr__worker_drain(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    cr__worker_receive(w);
    cr__sched_do_told(s, w);
    while (atomic_load_explicit(&s->promised, memory_order_acquire) > 0 || atomic_load_explicit(&s->inside, memory_order_acquire) > 0) {
        sched_yield();
        cr__worker_receive(w);
    }
}
