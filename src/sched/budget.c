#include "sched/budget.h"

#define ALLOWANCE_MAX_BYTES ((int64_t)256 << 10)

void cr__budget_tell(struct cr__worker *w)
{
    if (w->sched->budget_bytes == 0)
        return;
    int64_t stacks = (int64_t)cr__stack_pool_in_use(&w->stacks) + (int64_t)cr__stack_pool_in_use(&w->virtuals) +
                     w->packed.in_use / CR__BUDGET_PACKED_IN_ONE + w->unstarted;
    int64_t now = stacks * CR__BUDGET_STACK_BYTES - (int64_t)w->frozen * CR__BUDGET_FROZEN_BYTES;
    if (now != w->stacks_told_bytes)
        atomic_fetch_add_explicit(&w->sched->stacks_promised_bytes, now - w->stacks_told_bytes, memory_order_relaxed);
    w->stacks_told_bytes = now;
}

/* What is left; negative: it is exceeded. */
static int64_t left(const struct cr__sched *s)
{
    int64_t used = atomic_load_explicit(&s->stacks_promised_bytes, memory_order_relaxed);
    for (int kind = 0; kind < CR__MEM_KINDS; kind++) {
        if (kind != CR__MEM_STACKS) /* addresses */
            used += (int64_t)cr__mem_bytes(kind);
    }
    return (int64_t)s->budget_bytes - used;
}

bool cr__budget_has_room(const struct cr__sched *s)
{
    return s->budget_bytes == 0 || left(s) >= CR__BUDGET_SPAWN_BYTES;
}

bool cr__budget_renew(struct cr__worker *w, int64_t bytes)
{
    w->allowance_bytes = INT64_MAX;
    if (w->sched->budget_bytes == 0)
        return true;
    cr__budget_tell(w);
    int64_t all = left(w->sched), share = all / (2 * (int64_t)w->sched->count);
    w->allowance_bytes = 0;
    if (all < bytes)
        return false;
    share = share < ALLOWANCE_MAX_BYTES ? share : ALLOWANCE_MAX_BYTES;
    if (share > bytes)
        w->allowance_bytes = share - bytes;
    return true;
}

bool cr__budget_tight(const struct cr__worker *w)
{
    int64_t budget = (int64_t)w->sched->budget_bytes;
    return budget > 0 && left(w->sched) < budget / 8;
}
