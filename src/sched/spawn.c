/* A coroutine's beginning, and what its handle is good for: spawning, joining, detaching, cancelling. */
#include "sched/worker.h"

#include <string.h>

#include "sched/budget.h"
#include "sched/census.h"
#include "sched/task.h"

/* ---- Spawning ----------------------------------------------------------------------------------------------- */

__attribute__((always_inline)) static inline void word_init(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, struct cr__record *record)
{
    bool stopping = atomic_load_explicit(&w->sched->stopping, memory_order_relaxed);
    atomic_store_explicit(&record->word,
                          CR__RUNNING | (stopping ? CR__CANCEL : 0u) | (out ? CR__HELD : 0u) | (placed ? placed : w)->index * CR__WORKER,
                          memory_order_relaxed);
}

__attribute__((always_inline)) static inline void spawned(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, struct cr_co **where, struct cr__record *record)
{
    w->live++;
    cr__count(&w->counters.spawned, 1);
    if (out)
        *out = &record->co; /* before it can run, and end */
    if (where)
        *where = &record->co;
    if (placed && placed != w)
        cr__deliver(w, placed, record);
    else
        cr__ready_here(w, record);
}

static inline int attr_of(const struct cr__worker *w, const struct cr_attr *attr, unsigned *flags, uint32_t *stack_bytes)
{
    *flags = w->default_flags;
    *stack_bytes = w->default_stack_bytes;
    if (CR__UNLIKELY(attr != NULL) && cr__attr_check(attr, w->default_kind, w->default_stack_bytes, flags, stack_bytes) < 0)
        return -EINVAL;
    bool shared = (*flags & CR__CO_KINDS) == CR__CO_SHARED;
    return cr__stack_fits(&w->stacks, shared ? cr__shared_size(*stack_bytes) : *stack_bytes) ? 0 : -EINVAL;
}

int cr__spawn_with(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where)
{
    unsigned flags;
    uint32_t stack_bytes;
    if (CR__UNLIKELY(!fn) || CR__UNLIKELY(attr_of(w, attr, &flags, &stack_bytes) < 0))
        return -EINVAL;
    if (CR__UNLIKELY(!cr__budget_spend(w)))
        return -ENOMEM;
    struct cr__record *record = cr__slab_get(&w->records);
    if (CR__UNLIKELY(!record))
        return -ENOMEM;
    record->co = (struct cr_co){
        .below = &record->co,
        .mode = CR__MODE(CR__CO_SCHEDULED, flags),
        .sched_flags = placed ? CR__PLACED : 0,
        .id = w->last_id += w->sched->count,
        .entry = (void (*)(void))fn,
        .sp = arg,
        .stack.size_bytes = stack_bytes,
        .cold = cold,
    };
    record->timer.link = NULL;
    record->joiner = NULL;
    word_init(w, placed, out, record);
    if (CR__UNLIKELY(attr != NULL) && attr->name && cr_name_set(&record->co, attr->name) < 0) {
        record->co.cold = NULL; /* if there is one, it is the caller's */
        cr__record_free(w, record);
        return -ENOMEM;
    }
    if (CR__UNLIKELY(w->census != NULL))
        cr__census_spawned(w, &record->co);
    w->unstarted++;
    spawned(w, placed, out, where, record);
    return 0;
}

int cr__task_spawn(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, const struct cr_task *frame, size_t size_bytes,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where)
{
    unsigned flags = attr ? attr->flags : 0;
    if (!frame || !frame->at || !frame->at->next || frame->caller || size_bytes < sizeof(*frame) || size_bytes > CR__FRAME_MOST_BYTES ||
        (flags & ~(unsigned)(CR_FPU_SHARED | CR_MIGRATABLE)) != 0)
        return -EINVAL;
    if (CR__UNLIKELY(!cr__budget_spend_bytes(w, (int64_t)(sizeof(struct cr__record) + size_bytes))))
        return -ENOMEM;
    struct cr__record *record = cr__frames_get(&w->frames, size_bytes);
    if (!record)
        return -ENOMEM;
    record->co.sched_flags = placed ? CR__PLACED : 0;
    record->co.locks = 0;
    record->co.id = w->last_id += w->sched->count;
    record->co.entry = (void (*)(void))frame->at->next;
    record->co.cold = cold;
    __atomic_store_n(&record->co.mode, CR__MODE(CR__CO_SCHEDULED | CR__CO_TASK, flags), __ATOMIC_RELAXED);
    record->timer.link = NULL;
    record->joiner = NULL;
    memcpy(cr__task_root(record), frame, size_bytes);
    cr__task_root(record)->caller = cr__task_root(record);
    word_init(w, placed, out, record);
    if (attr && attr->name && cr_name_set(&record->co, attr->name) < 0) {
        record->co.cold = NULL; /* if there is one, it is the caller's */
        cr__record_free(w, record);
        return -ENOMEM;
    }
    spawned(w, placed, out, where, record);
    return 0;
}

int cr__spawn(struct cr__worker *w, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
              const struct cr_attr *attr)
{
    return cr__spawn_with(w, placed, out, fn, arg, attr, NULL, NULL);
}

/* Inlined, so that the caller's address is that of who spawns. */
__attribute__((always_inline)) static inline int spawn_here(struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    cr__spawns_from_caller(w);
    return cr__spawn(w, NULL, out, fn, arg, attr);
}

__attribute__((always_inline)) static inline int spawn_on(struct cr_co **out, unsigned worker, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    if (worker >= w->sched->count)
        return -EINVAL;
    cr__spawns_from_caller(w);
    return cr__spawn(w, w->sched->workers[worker], out, fn, arg, attr);
}

int cr_spawn(struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    return spawn_here(out, fn, arg, attr);
}

int cr_spawn_on(struct cr_co **out, unsigned worker, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    return spawn_on(out, worker, fn, arg, attr);
}

int cr_go(void (*fn)(void *), void *arg)
{
    return spawn_here(NULL, fn, arg, NULL);
}

int cr_go_on(unsigned worker, void (*fn)(void *), void *arg)
{
    return spawn_on(NULL, worker, fn, arg, NULL);
}

int cr_worker_index(void)
{
    struct cr__worker *w = cr__worker_here();
    return w ? w->index : -EPERM;
}

int cr_worker_count(void)
{
    struct cr__worker *w = cr__worker_here();
    return w ? (int)w->sched->count : -EPERM;
}

/* ---- Handles ------------------------------------------------------------------------------------------------ */

/* What keeps another coroutine from being joined or detached, or 0. Its word is locked. */
static int check_handle(const struct cr__record *target)
{
    if (!cr__park_held(&target->word))
        return -EPERM;
    return target->joiner ? -EBUSY : 0;
}

static inline int join_begin(struct cr__worker *w, struct cr__record *me, struct cr__record *target, int64_t deadline_ns, bool *done)
{
    cr__park_lock(&target->word, w->alone);
    int r = check_handle(target);
    *done = r == 0 && cr__record_ended(target);
    if (r == 0 && !*done)
        r = cr__wait_begin(w, me, CR__WAIT_JOIN, target, deadline_ns);
    if (r == 0 && !*done)
        target->joiner = me;
    cr__park_unlock(&target->word, 0, w->alone);
    return r;
}

static inline void join_end(struct cr__worker *w, struct cr__record *target)
{
    cr__park_lock(&target->word, w->alone); /* also after a wake: whoever woke us has let go of it */
    target->joiner = NULL;
    cr__park_unlock(&target->word, 0, w->alone);
}

static inline int join_take(struct cr__worker *w, struct cr__record *target, int *result)
{
    if (result)
        *result = cr__co_is_task(&target->co) ? (int)target->since : 0;
    cr__record_free(w, target);
    return 0;
}

int cr__join_begin(struct cr__worker *w, struct cr__record *me, struct cr__record *target, int64_t deadline_ns, bool *done)
{
    return join_begin(w, me, target, deadline_ns, done);
}

void cr__join_end(struct cr__worker *w, struct cr__record *target)
{
    join_end(w, target);
}

int cr__join_take(struct cr__worker *w, struct cr__record *target, int *result)
{
    return join_take(w, target, result);
}

/* Inlined, so that a backtrace names the call that was made. */
__attribute__((always_inline)) static inline int join(struct cr_co *co, int *result, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    if (target == me)
        return -EDEADLK;
    bool done;
    int r = join_begin(w, me, target, deadline_ns, &done);
    if (r < 0) {
        cr__breathe(w);
        return r;
    }
    if (!done) {
        r = cr__wait_suspend(w, me, deadline_ns);
        w = cr__worker_here();
        join_end(w, target);
    }
    return r < 0 ? r : join_take(w, target, result);
}

int cr_join_until(struct cr_co *co, int64_t deadline_ns)
{
    return join(co, NULL, deadline_ns);
}

int cr_join_task_until(struct cr_co *co, int *result, int64_t deadline_ns)
{
    return join(co, result, deadline_ns);
}

int cr_join_task(struct cr_co *co, int *result)
{
    return cr_join_task_until(co, result, CR_FOREVER);
}

int cr_join(struct cr_co *co)
{
    return cr_join_until(co, CR_FOREVER);
}

int cr_detach(struct cr_co *co)
{
    struct cr__worker *w = cr__worker_here();
    if (!w || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    cr__park_lock(&target->word, w->alone);
    int r = check_handle(target);
    bool done = r == 0 && cr__record_ended(target);
    cr__park_unlock(&target->word, r == 0 ? CR__HELD : 0, w->alone);
    if (done)
        cr__record_free(w, target);
    return r;
}

void cr__cancel(struct cr__worker *w, struct cr__record *record, uint32_t flag)
{
    cr__park_cancel(&record->word, flag);
    cr__wake(w, record, CR__CANCELLED);
}

int cr_cancel(struct cr_co *co)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me || !co)
        return -EPERM;
    struct cr__record *target = cr__record_of(co);
    if (target == me) {
        cr__park_cancel(&me->word, CR__CANCEL);
        return 0;
    }
    cr__park_lock(&target->word, w->alone);
    bool held = cr__park_held(&target->word);
    if (held && !cr__record_ended(target))
        cr__cancel(w, target, CR__CANCEL);
    cr__park_unlock(&target->word, 0, w->alone);
    return held ? 0 : -EPERM;
}

int cr_shutdown(void)
{
    struct cr__worker *w;
    if (!cr__acting(&w))
        return -EPERM;
    cr__sched_cancel_all(w->sched, w);
    return 0;
}
