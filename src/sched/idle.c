/* What a worker does that has nothing to do, and how it is found when there is something again: searching, falling asleep, waking one, and noticing the end.
 *
 *     ready, or told --> runs --nothing--> searches --nothing--> idle --> asleep, in its poller --kick, event, timer--> up
 *
 * A worker that finds nothing ready searches: first the injection queue, then the others' rings, in turns, from a random one on. It does so for a bounded number of rounds, and not
 * if more search already than sleep. (Those that look at that at the same moment may be more. Nothing but the cost of searching depends on it.) Before it sleeps, it adds itself to
 * `idle` and looks once more. Who puts something into a ring looks at `idle` afterwards, but without a fence, which each spawn would pay for: one that falls asleep at that moment may
 * be missed, until the ring's owner offers again (cr__sched_offer).
 *
 * Each one that has fallen asleep, and sees all others idle, looks whether anything can happen any more. If no coroutine lives, the runtime ends. If coroutines live, but
 * all timers are unarmed and nobody waits for what comes from outside, nothing can ever run again. What it looks at is not of one moment: meanwhile one may get up, spawn onto another one, which
 * ends that and counts it. So `idle` also counts who has got up. If it is the same before and after, then nobody has, and all is as it was when the last one added itself.
 *
 * Invariants:
 *   1. A worker is in `idle` from before it becomes ASLEEP until it gets up. What it has done before, its count of coroutines included, is seen by whoever sees it there.
 *   2. Only who is up changes what the end is decided by, and what it changes is seen by nobody who does not see that it has got up. (A thread outside promises first, under end_lock. What a
 *      poller brings before its worker is up, coroutines that waited outside, is counted as waiting outside until those run.)
 *   3. Of those that fall asleep at the same time one sees all others asleep; likewise `done`, and what was told, are seen by who falls asleep, or it is seen asleep, and roused.
 *   4. ASLEEP is taken away once, by who has something, and then kicks. Who gets up sees why; `waking` is set only between the two.
 *   5. The end is declared under end_lock. Who comes second finds nobody asleep any more, or declares the same: that none lives.
 *
 * Rejected: to look at each one again whether it still sleeps (it may have been up meanwhile); to have the last one to sleep stop the others (they may have a timer). */
#include "sched/idle.h"

#include "sched/injection.h"

#define ONE_GOT_UP ((uint64_t)1 << 32) /* in `idle` */

#ifndef CR__SEARCH_ROUNDS
#define CR__SEARCH_ROUNDS 16
#define CR__SEARCH_PAUSES 32 /* between two rounds */
#endif
#define PUT_OFF_TRIES 200 /* so often in vain, while nothing else ran: nothing can ever run again */

/* ---- The injection queue ------------------------------------------------------------------------------------ */

void cr__inject(struct cr__sched *s, struct cr__record *first)
{
    cr__injection_put(&s->injection, first);
    cr__sched_offer(s);
}

/* Only into an empty ring: there it fits. */
bool cr__worker_take_injected(struct cr__worker *w)
{
    if (cr__runq_length(&w->stealable) > 0)
        return false;
    struct cr__record *first = cr__injection_take(&w->sched->injection);
    for (struct cr_co *co = first ? &first->co : NULL, *next; co; co = next) {
        next = co->next;
        cr__ready_here(w, cr__record_of(co));
    }
    return first != NULL;
}

/* ---- Searching ---------------------------------------------------------------------------------------------- */

static uint32_t random_next(struct cr__worker *w)
{
    uint32_t x = w->random; /* xorshift32, Marsaglia 2003 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return w->random = x;
}

static bool offers_wanderers(struct cr__worker *w)
{
    return atomic_load_explicit(&w->generous, memory_order_relaxed) && cr__runq_length(&w->wanderers) > 0;
}

static bool steal_from(struct cr__worker *w, struct cr__worker *victim)
{
    unsigned n = cr__runq_length(&victim->stealable) > 0 ? cr__runq_steal(&w->stealable, &victim->stealable) : 0;
    if (n > 0)
        w->elsewhere |= CR__IN_RING;
    else if (offers_wanderers(victim) && (n = cr__runq_steal(&w->wanderers, &victim->wanderers)) > 0)
        w->elsewhere |= CR__IN_WANDERERS;
    cr__count(&w->counters.steals, n);
    return n > 0;
}

static bool steal_from_any(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    unsigned first = random_next(w) % s->count;
    for (unsigned i = 0; i < s->count; i++) {
        struct cr__worker *victim = s->workers[(first + i) % s->count];
        if (victim != w && steal_from(w, victim))
            return true;
    }
    return false;
}

static bool may_search(struct cr__sched *s)
{
    unsigned idle = cr__sched_idle(s);
    unsigned searching = atomic_load_explicit(&s->searching, memory_order_relaxed);
    return s->count > 1 && searching <= idle;
}

bool cr__worker_search(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    bool found = cr__worker_take_injected(w);
    if (found || !may_search(s))
        return found;
    atomic_fetch_add_explicit(&s->searching, 1, memory_order_relaxed);
    for (int round = 0; round < CR__SEARCH_ROUNDS && !found; round++) {
        found = cr__worker_take_injected(w) || steal_from_any(w) || !cr__inbox_empty(&w->inbox);
        for (int i = 0; i < CR__SEARCH_PAUSES && !found; i++)
            cr__spin_hint();
    }
    atomic_fetch_sub_explicit(&s->searching, 1, memory_order_relaxed);
    return found;
}

CR__COLD void cr__sched_wake_one(struct cr__sched *s)
{
    if (atomic_exchange_explicit(&s->waking, true, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__inbox_rouse(&s->workers[i]->inbox)) {
            s->workers[i]->poller_ops->kick(s->workers[i]);
            return; /* it clears `waking` when it is up */
        }
    }
    atomic_store_explicit(&s->waking, false, memory_order_relaxed);
}

/* ---- Going to sleep, and ending ----------------------------------------------------------------------------- */

/* Under end_lock: who promises something sees it, or is seen. */
static void finish_locked(struct cr__sched *s, int result)
{
    atomic_store_explicit(&s->result, result, memory_order_relaxed);
    atomic_store_explicit(&s->done, true, memory_order_release); /* pairs with the acquire in cr__worker_run */
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in cr__worker_fall_asleep: it sees `done`, or we see it asleep */
    for (unsigned i = 0; i < s->count; i++)
        cr__worker_rouse(s->workers[i]);
}

static bool anything_to_steal(struct cr__sched *s)
{
    if (atomic_load_explicit(&s->injection.batches, memory_order_relaxed) > 0)
        return true;
    for (unsigned i = 0; i < s->count; i++) {
        if (cr__runq_length(&s->workers[i]->stealable) > 0 || offers_wanderers(s->workers[i]))
            return true;
    }
    return false;
}

/* Whether all workers sleep, and none of them has anything to wake up for but a call from a thread outside. One that has been roused, for a stack that came home say, but
 * is not up yet, will look for the end itself when it sleeps again. */
static bool all_hopeless(struct cr__sched *s)
{
    int64_t waits_outside = 0;
    for (unsigned i = 0; i < s->count; i++) {
        struct cr__worker *w = s->workers[i];
        if (!cr__inbox_asleep(&w->inbox) || !atomic_load_explicit(&w->hopeless, memory_order_relaxed))
            return false;
        waits_outside += atomic_load_explicit(&w->waits_outside, memory_order_relaxed);
    }
    return waits_outside == 0 && !anything_to_steal(s);
}

/* Since `idle` was that. If so, all that we have read meanwhile was so then. */
static bool nobody_got_up(struct cr__sched *s, uint64_t idle)
{
    atomic_thread_fence(memory_order_acquire); /* pairs with the one in leave_idle */
    return atomic_load_explicit(&s->idle, memory_order_relaxed) == idle;
}

/* By each worker that has fallen asleep and sees all others idle; so by the last one. */
static void look_for_the_end(struct cr__sched *s)
{
    bool hopeless = false;
    cr__spin_lock(&s->end_lock);
    uint64_t idle = atomic_load_explicit(&s->idle, memory_order_acquire); /* pairs with the release in cr__worker_fall_asleep, of all of them */
    if ((unsigned)idle == s->count && atomic_load_explicit(&s->promised, memory_order_relaxed) == 0) {
        bool none_lives = atomic_load_explicit(&s->live, memory_order_relaxed) == 0;
        bool over = none_lives || (!s->stoppable && all_hopeless(s)); /* stoppable: a thread may still send, spawn or stop */
        if (over && nobody_got_up(s, idle)) {
            hopeless = !none_lives;
            finish_locked(s, hopeless ? -EDEADLK : 0);
        }
    }
    cr__spin_unlock(&s->end_lock);
    if (hopeless)
        cr__sched_report(s); /* threads outside do not wait for this. The workers have run their last coroutine, and wait for us before they drop any */
}

void cr__sched_finish(struct cr__sched *s, int result)
{
    cr__spin_lock(&s->end_lock);
    finish_locked(s, result);
    cr__spin_unlock(&s->end_lock);
}

/* Not idle any more. The fence: whoever sees what we do from here on sees that we are up; pairs with the one in nobody_got_up. */
static void leave_idle(struct cr__sched *s)
{
    atomic_fetch_add_explicit(&s->idle, ONE_GOT_UP - 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

/* Whether those put off, if there are any, have tried in vain for long, and nothing else has run since that might have made room. */
static bool put_off_for_good(const struct cr__worker *w)
{
    return !w->put_off.head ||
           (w->put_off_in_vain > PUT_OFF_TRIES && atomic_load_explicit(&w->counters.switches, memory_order_relaxed) == w->put_off_switches);
}

bool cr__worker_fall_asleep(struct cr__worker *w)
{
    struct cr__sched *s = w->sched;
    atomic_store_explicit(&w->hopeless, w->wheel.armed == 0 && put_off_for_good(w), memory_order_relaxed);
    atomic_fetch_add_explicit(&s->live, w->live, memory_order_relaxed);
    w->live = 0;
    /* release: what we did is seen by who looks for the end. acquire: what was in a ring when others became idle is seen. What is put into one right now may be missed: cr__sched_offer
     * says why that does no harm */
    atomic_fetch_add_explicit(&s->idle, 1, memory_order_acq_rel);
    if (anything_to_steal(s) || !cr__inbox_sleep(&w->inbox)) {
        leave_idle(s);
        return false;
    }
    /* asleep comes before the look at the others, of whom one sees all asleep; at `done`: see finish_locked; and at stacks: see cr__send_stack_home */
    atomic_thread_fence(memory_order_seq_cst);
    if (CR__UNLIKELY(atomic_load_explicit(&w->starving, memory_order_relaxed) > 0) &&
        (cr__stack_any_returned(&w->stacks) || cr__stack_any_returned(&w->virtuals)))
        cr__worker_rouse(w); /* before the look for the end: one that is roused has something to do */
    if (cr__sched_anything_told(s)) {
        cr__worker_get_up(w);
        return false;
    }
    if (cr__sched_idle(s) == s->count)
        look_for_the_end(s);
    return true;
}

void cr__worker_get_up(struct cr__worker *w)
{
    (void)!cr__inbox_rouse(&w->inbox); /* if a timer woke us: nobody shall take us for asleep, and wake us instead of another one */
    atomic_thread_fence(memory_order_acquire); /* pairs with the release in cr__inbox_rouse: who has roused us set `waking` before we clear it */
    leave_idle(w->sched);
    atomic_store_explicit(&w->sched->waking, false, memory_order_relaxed);
}
