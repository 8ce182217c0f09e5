/* Scopes, cancellation and its mask.
 *
 * A scope knows the coroutines in it (members, by what sync keeps with each: struct cr__extra) and the scopes opened inside it (by its owner, or by a
 * member), each list under the scope's lock. Cancelling goes down that tree: a lock is taken while that of the scope around it is held, never the other way.
 *
 * A scope's memory is given back by the last of its users: the owner until it closes, and each member until it has ended. (Members outlive the owner only
 * when the runtime gives up and drops everything.)
 *
 * A deadline needs no timer of the scope's: it is the bound of every wait in it (struct cr__co_cold.bound_ns), its members', and its owner's while it is open. */
#include "sync/chan.h"

#include <string.h>

#include "os/os.h"

struct cr_scope {
    _Atomic uint8_t lock;
    bool cancelled;
    bool masked;                           /* opened inside of its owner's mask */
    struct cr__extra *members;
    struct cr_scope *inner, *next, **link; /* scopes inside; this one's place in that list of the scope around it */
    struct cr_scope *around;               /* NULL: outermost */
    struct cr_scope *outer;                /* of the same owner, opened before */
    struct cr__record *owner;
    int64_t live;                          /* members */
    int64_t deadline_ns, owner_bound_ns;   /* the second: its owner's bound before */
    struct cr_waiters waiters;             /* its owner, when it waits */
    _Atomic int users;
};

static void put(struct cr_scope *scope)
{
    if (atomic_fetch_sub_explicit(&scope->users, 1, memory_order_acq_rel) == 1)
        cr__mem_free(scope, sizeof(*scope), CR__MEM_RECORDS);
}

/* ---- What is kept with a coroutine -------------------------------------------------------------------------- */

static void leave_scope(struct cr__worker *w, struct cr__extra *extra)
{
    struct cr_scope *scope = extra->member_of;
    cr__lock(w, &scope->lock);
    *extra->link = extra->next;
    if (extra->next)
        extra->next->link = extra->link;
    if (--scope->live == 0) {
        struct cr__record *owner = cr__waiters_claim(w, &scope->waiters, CR__WOKEN);
        if (owner)
            cr__ready(w, owner);
    }
    cr__unlock(w, &scope->lock);
    put(scope);
}

static void release(struct cr_co *co, struct cr__co_above *above)
{
    struct cr__extra *extra = (struct cr__extra *)above;
    struct cr__worker *w = cr__worker_here();
    bool dropped = atomic_load_explicit(&w->sched->done, memory_order_relaxed);
    char name[CR__NAME_BYTES];
    if (extra->innermost && !dropped)
        cr__panic("coroutine %u%s%s has ended without closing the scope that it opened: see cr_scope_close", co->id,
                  cr_name_get(co, name, sizeof(name))[0] ? " " : "", name);
    for (struct cr_scope *scope = extra->innermost, *outer; scope; scope = outer) {
        outer = scope->outer;
        put(scope);
    }
    if (extra->member_of)
        leave_scope(w, extra); /* also when dropped: others of the scope's may still run on another worker, and cancel what is listed */
    cr__mem_free(extra->cases, (size_t)extra->case_count * sizeof(*extra->cases), CR__MEM_RECORDS);
    cr__mem_free(extra, sizeof(*extra), CR__MEM_RECORDS);
}

static struct cr__extra *extra_make(void)
{
    struct cr__extra *extra = cr__mem_alloc(sizeof(*extra), CR__MEM_RECORDS);
    if (extra)
        extra->above.release = release;
    return extra;
}

struct cr__extra *cr__extra_of(struct cr_co *co)
{
    struct cr__co_cold *cold = cr__co_cold_of(co);
    if (!cold)
        return NULL;
    if (!cold->above) {
        struct cr__extra *extra = extra_make();
        if (!extra)
            return NULL;
        extra->co = co;
        cold->above = &extra->above;
    }
    return (struct cr__extra *)cold->above;
}

/* ---- Masking ------------------------------------------------------------------------------------------------ */

int cr_cancel_mask(int64_t grace_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return -EPERM;
    struct cr__extra *extra = cr__extra_of(&me->co);
    if (!extra)
        return -ENOMEM;
    if (extra->masks++ == 0)
        extra->mask = cr__mask(me, cr_after(grace_ns));
    return 0;
}

int cr_cancel_unmask(void)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    struct cr__extra *extra = me ? cr__extra_if_any(&me->co) : NULL;
    if (!extra || extra->masks == 0)
        return -EPERM;
    if (--extra->masks == 0)
        cr__unmask(me, extra->mask);
    return 0;
}

bool cr_cancelled(void)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return false;
    if (atomic_load_explicit(&me->word, memory_order_relaxed) & (CR__CANCEL | CR__SCOPE_CANCEL))
        return true;
    return me->co.cold && me->co.cold->bound_ns != CR_FOREVER && me->co.cold->bound_ns <= cr__os_now_ns();
}

/* ---- Opening, spawning, cancelling -------------------------------------------------------------------------- */

static void enter_around(struct cr__worker *w, struct cr_scope *scope)
{
    struct cr_scope *around = scope->around;
    cr__lock(w, &around->lock);
    scope->next = around->inner;
    scope->link = &around->inner;
    if (scope->next)
        scope->next->link = &scope->next;
    around->inner = scope;
    scope->cancelled = around->cancelled;
    cr__unlock(w, &around->lock);
}

int cr_scope_open(struct cr_scope **out, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return -EPERM;
    struct cr__extra *extra = cr__extra_of(&me->co);
    struct cr_scope *scope = extra ? cr__mem_alloc(sizeof(*scope), CR__MEM_RECORDS) : NULL;
    if (!scope)
        return -ENOMEM;
    struct cr__co_cold *cold = me->co.cold;
    scope->owner = me;
    scope->owner_bound_ns = cold->bound_ns;
    scope->deadline_ns = deadline_ns < cold->bound_ns ? deadline_ns : cold->bound_ns;
    cold->bound_ns = scope->deadline_ns;
    scope->masked = extra->masks > 0;
    scope->outer = extra->innermost;
    scope->around = extra->innermost ? extra->innermost : extra->member_of;
    atomic_store_explicit(&scope->users, 1, memory_order_relaxed);
    if (scope->around)
        enter_around(w, scope);
    extra->innermost = scope;
    *out = scope;
    return 0;
}

static bool is_over(const struct cr_scope *scope)
{
    return scope->deadline_ns != CR_FOREVER && scope->deadline_ns <= cr__os_now_ns();
}

/* Makes the cold part of a coroutine that is to be in the scope, and lists it. */
static int enroll(struct cr__worker *w, struct cr_scope *scope, struct cr__co_cold **out)
{
    struct cr__co_cold *cold = cr__co_cold_make();
    struct cr__extra *extra = cold ? extra_make() : NULL;
    if (!extra) {
        cr__mem_free(cold, sizeof(*cold), CR__MEM_RECORDS);
        return -ENOMEM;
    }
    cold->above = &extra->above;
    cold->bound_ns = scope->deadline_ns;
    extra->member_of = scope;
    atomic_fetch_add_explicit(&scope->users, 1, memory_order_relaxed);
    extra->next = scope->members;
    extra->link = &scope->members;
    if (extra->next)
        extra->next->link = &extra->next;
    scope->members = extra;
    scope->live++;
    (void)w;
    *out = cold;
    return 0;
}

static void withdraw(struct cr_scope *scope, struct cr__co_cold *cold)
{
    struct cr__extra *extra = (struct cr__extra *)cold->above;
    *extra->link = extra->next;
    if (extra->next)
        extra->next->link = extra->link;
    scope->live--;
    atomic_fetch_sub_explicit(&scope->users, 1, memory_order_relaxed); /* never the last: it is open */
    cr__mem_free(extra, sizeof(*extra), CR__MEM_RECORDS);
    cr__mem_free(cold, sizeof(*cold), CR__MEM_RECORDS);
}

/* What is to be spawned: a function and its argument, or a task's frame. */
struct body {
    void (*fn)(void *arg);
    void *arg;
    const struct cr_task *frame;
    size_t size_bytes;
};

static int spawn(struct cr_scope *scope, const struct body *body, const struct cr_attr *attr)
{
    struct cr__worker *w;
    struct cr__co_cold *cold;
    if (!cr__acting(&w))
        return -EPERM;
    cr__lock(w, &scope->lock); /* until it is spawned: who cancels finds its record, or finds it not listed yet */
    int r = scope->cancelled || is_over(scope) ? -ECANCELED : enroll(w, scope, &cold);
    if (r == 0) {
        struct cr__extra *extra = (struct cr__extra *)cold->above;
        if (body->frame)
            r = cr__task_spawn(w, NULL, NULL, body->frame, body->size_bytes, attr, cold, &extra->co);
        else
            r = cr__spawn_with(w, NULL, NULL, body->fn, body->arg, attr, cold, &extra->co);
        if (r < 0)
            withdraw(scope, cold);
    }
    cr__unlock(w, &scope->lock);
    return r;
}

/* Inlined, so that the census knows who spawns. */
__attribute__((always_inline)) static inline int spawn_from_here(struct cr_scope *scope, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (w)
        cr__spawns_from_caller(w);
    return spawn(scope, &(struct body){.fn = fn, .arg = arg}, attr);
}

int cr_scope_spawn(struct cr_scope *scope, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    return spawn_from_here(scope, fn, arg, attr);
}

int cr_scope_spawn_task(struct cr_scope *scope, const struct cr_task *frame, size_t size_bytes, const struct cr_attr *attr)
{
    cr__handed(frame);
    return frame ? spawn(scope, &(struct body){.frame = frame, .size_bytes = size_bytes}, attr) : -EINVAL;
}

int cr_scope_go(struct cr_scope *scope, void (*fn)(void *), void *arg)
{
    return spawn_from_here(scope, fn, arg, NULL);
}

/* All members, and down the tree. */
static void cancel_tree(struct cr__worker *w, struct cr_scope *scope)
{
    cr__lock(w, &scope->lock);
    if (!scope->cancelled) {
        scope->cancelled = true;
        for (struct cr__extra *member = scope->members; member; member = member->next)
            cr__cancel(w, cr__record_of(member->co), CR__CANCEL);
        for (struct cr_scope *inner = scope->inner; inner; inner = inner->next)
            cancel_tree(w, inner);
    }
    cr__unlock(w, &scope->lock);
}

int cr_scope_cancel(struct cr_scope *scope)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return -EPERM;
    cancel_tree(w, scope);
    if (scope->owner == me)
        cr__flag_set(me, CR__SCOPE_CANCEL, true);
    else
        cr__cancel(w, scope->owner, CR__SCOPE_CANCEL);
    return 0;
}

/* ---- Waiting and closing ------------------------------------------------------------------------------------ */

/* Until nobody is in it, in halves (sync.h). */
static int empty_begin(struct cr__worker *w, struct cr__record *me, struct cr_scope *scope, int64_t deadline_ns)
{
    cr__lock(w, &scope->lock);
    if (scope->live == 0) {
        cr__unlock(w, &scope->lock);
        return 0;
    }
    int r = cr__wait_begin(w, me, CR__WAIT_SCOPE, scope, deadline_ns);
    if (r == 0)
        cr__waiters_push(&scope->waiters, &me->node);
    cr__unlock(w, &scope->lock);
    return r < 0 ? r : CR_WAITS;
}

static int empty_end(struct cr__record *me, struct cr_scope *scope, int r)
{
    struct cr__worker *w = cr__worker_here();
    cr__lock(w, &scope->lock); /* also after a wake: whoever woke us has let go of it */
    cr__waiters_remove(&scope->waiters, &me->node);
    cr__unlock(w, &scope->lock);
    return r;
}

static int wait_empty(struct cr_scope *scope, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    int r = empty_begin(w, me, scope, deadline_ns);
    return r == CR_WAITS ? empty_end(me, scope, cr__wait_suspend(w, me, deadline_ns)) : r;
}

int cr_scope_wait_until(struct cr_scope *scope, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    return me && scope->owner == me ? wait_empty(scope, deadline_ns) : -EPERM;
}

int cr_scope_wait(struct cr_scope *scope)
{
    return cr_scope_wait_until(scope, CR_FOREVER);
}

int cr_task_scope_wait(struct cr_task *task, struct cr_scope *scope, int64_t deadline_ns)
{
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_SCOPE));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return empty_end(leaf.me, scope, cr__leaf_arrive(&leaf, deadline_ns));
    return scope->owner == leaf.me ? cr__leaf_left(&leaf, empty_begin(leaf.worker, leaf.me, scope, deadline_ns), deadline_ns) : -EPERM;
}

static void leave_around(struct cr__worker *w, struct cr_scope *scope)
{
    cr__lock(w, &scope->around->lock);
    *scope->link = scope->next;
    if (scope->next)
        scope->next->link = scope->link;
    cr__unlock(w, &scope->around->lock);
}

/* Those of its scopes that are still open say whether the owner's waits go on failing. */
static bool still_cancelled(struct cr__worker *w, const struct cr__extra *extra)
{
    bool cancelled = false;
    for (struct cr_scope *scope = extra->innermost; scope && !cancelled; scope = scope->outer) {
        cr__lock(w, &scope->lock);
        cancelled = scope->cancelled;
        cr__unlock(w, &scope->lock);
    }
    return cancelled;
}

/* What bounds the owner's waits is what it was before the scope: now, or, where a mask has been put on since, when that is taken off. (Where one has been
 * taken off since, it has been done.) */
static void restore_bound(const struct cr_scope *scope, struct cr__extra *extra, struct cr__co_cold *cold)
{
    bool masked = extra->masks > 0;
    if (masked == scope->masked)
        cold->bound_ns = scope->owner_bound_ns;
    else if (masked)
        extra->mask.bound_ns = scope->owner_bound_ns;
}

/* Why it can't be closed by me now, or 0. */
static int may_close(const struct cr__record *me, const struct cr_scope *scope)
{
    if (!me || scope->owner != me)
        return -EPERM;
    return cr__extra_if_any(&me->co)->innermost == scope ? 0 : -EBUSY;
}

/* Nobody is in it any more. */
static int leave(struct cr__worker *w, struct cr__record *me, struct cr_scope *scope)
{
    struct cr__extra *extra = cr__extra_if_any(&me->co);
    if (scope->around)
        leave_around(w, scope);
    int r = scope->cancelled || is_over(scope) ? -ECANCELED : 0;
    extra->innermost = scope->outer;
    restore_bound(scope, extra, me->co.cold);
    cr__flag_set(me, CR__SCOPE_CANCEL, false);
    if (still_cancelled(w, extra))
        cr__flag_set(me, CR__SCOPE_CANCEL, true);
    put(scope);
    return r;
}

int cr_scope_close(struct cr_scope *scope)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    int r = may_close(me, scope);
    if (r < 0)
        return r;
    if (wait_empty(scope, CR_FOREVER) < 0) { /* cancelled, or over: pass that on, and wait whatever comes */
        cancel_tree(cr__worker_here(), scope);
        struct cr__mask mask = cr__mask(me, CR_FOREVER);
        while (wait_empty(scope, CR_FOREVER) < 0)
            ;
        cr__unmask(me, mask);
    }
    return leave(cr__worker_here(), me, scope);
}

/* As cr_scope_close waits: r says how the last try went. */
static int close_begin(const struct cr__leaf *leaf, struct cr_scope *scope, int r)
{
    while (r < 0 && r != CR_WAITS) {
        if (!cr__leaf_is_stubborn(leaf->me)) {
            cancel_tree(leaf->worker, scope);
            cr__leaf_stubborn(leaf->me);
        }
        r = empty_begin(leaf->worker, leaf->me, scope, CR_FOREVER);
    }
    return cr__leaf_left(leaf, r, CR_FOREVER);
}

int cr_task_scope_close(struct cr_task *task, struct cr_scope *scope)
{
    struct cr__leaf leaf = cr__leaf_enter(task, CR_FOREVER, CR__KIND_BIT(CR__WAIT_SCOPE));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    int r = leaf.turn == CR__BEGINS ? may_close(leaf.me, scope) : 0;
    if (r < 0)
        return r;
    if (leaf.turn == CR__BEGINS)
        r = empty_begin(leaf.worker, leaf.me, scope, CR_FOREVER);
    else
        r = empty_end(leaf.me, scope, cr__leaf_arrive(&leaf, CR_FOREVER));
    if (close_begin(&leaf, scope, r) == CR_WAITS)
        return CR_WAITS;
    cr__leaf_relent(leaf.me);
    return leave(leaf.worker, leaf.me, scope);
}
