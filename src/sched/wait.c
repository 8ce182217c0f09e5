/* A coroutine's waits, from when it may be woken until it knows how that ended; sleeping and parking, which are nothing but that. park.h has the word that decides,
 * sched.c what runs meanwhile. */
#include <string.h>

#include "arch/suspend.h"
#include "os/os.h"
#include "sched/worker.h"

#define RANDOM_PIECE ((size_t)256) /* what getrandom(2) gives at once, whatever signals come */
#define RECORDS_AHEAD 12 /* misses that a processor has under way at once, about */

/* ---- A wait -------------------------------------------------------------------------------------------------- */

int cr__too_late(const struct cr__worker *w, const struct cr__record *me)
{
    bool bound = me->co.cold && me->co.cold->bound_ns <= w->now_ns;
    return bound || cr__park_cancelled(atomic_load_explicit(&me->word, memory_order_relaxed)) ? -ECANCELED : -ETIMEDOUT;
}

/* curtailed: what bounds it ends it before its deadline. */
static int answer(struct cr__record *me, bool curtailed)
{
    static const int16_t answers[] = {
        [CR__WOKEN] = 0, [CR__TIMED_OUT] = -ETIMEDOUT, [CR__CANCELLED] = -ECANCELED, [CR__CLOSED] = -EBADF};

    if (cr__timer_armed(&me->timer))
        cr__wheel_cancel(&cr__worker_here()->wheel, &me->timer); /* on the same worker: is_stealable says so */
    me->co.sched_flags &= (uint8_t)~CR__TIMED;
    enum cr__wait_state outcome = cr__park_state(&me->word);
    bool sleeps = cr__waits_for(me) == CR__WAIT_SLEEP;
    CR__ASSERT(outcome > CR__WAITING);
    if (CR__UNLIKELY(curtailed) && (outcome == CR__TIMED_OUT || (sleeps && outcome == CR__WOKEN)))
        return -ECANCELED; /* what bounds it came first */
    return answers[outcome];
}

int cr__wait_arrive(struct cr__record *me, int64_t deadline_ns)
{
    return answer(me, cr__bounded(me, deadline_ns) != deadline_ns);
}

#if defined(CR__ASAN) || defined(CR__TSAN)

__attribute__((always_inline)) static inline int suspend_last(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    return cr__wait_suspend_here(w, me, deadline_ns);
}

#else

CR__ARCH_SUSPEND("cr__wait_left", "cr__wait_arrived");
int cr__wait_left(void **save, void *to, uint64_t kept, uint64_t note);
__attribute__((used)) int cr__wait_arrived(uint64_t kept, uint64_t note);

struct kept {
    uint64_t fpu, note;
};

/* Apart: a compiler lets no function go whose locals' addresses it has seen. */
static CR__NOINLINE struct kept keep_fpu(void)
{
    struct cr__fpu fpu = {0};
    struct kept kept = {.note = cr__fpu_leave(&fpu)};
    memcpy(&kept.fpu, &fpu, sizeof(kept.fpu));
    return kept;
}

/* As cr__wait_suspend_here, at the end of a function, of which then nothing is left on the stack: neither me nor the deadline. */
__attribute__((always_inline)) static inline int suspend_last(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    struct kept kept = {0};
    me->co.sched_flags &= (uint8_t)~CR__CURTAILED;
    if (CR__UNLIKELY(cr__bounded(me, deadline_ns) != deadline_ns))
        me->co.sched_flags |= CR__CURTAILED;
    struct cr__hop hop = cr__wait_leave(w, me, deadline_ns);
    if (CR__UNLIKELY(hop.to == hop.from)) {
        me->co.below = &me->co;
        return cr__wait_arrive(me, deadline_ns);
    }
    if (cr__own_fpu(hop.from, me))
        kept = keep_fpu();
    return cr__wait_left(&hop.from->sp, hop.to->sp, kept.fpu, kept.note);
}

int cr__wait_arrived(uint64_t kept, uint64_t note)
{
    struct cr__self *self = cr__self_get();
    struct cr__record *me = cr__record_around(self->current);
    if (cr__own_fpu(self->current, me)) {
        struct cr__fpu fpu;
        memcpy(&fpu, &kept, sizeof(fpu));
        cr__fpu_arrive(&fpu, note & ~CR__NOTE_ENDED);
    }
    me->co.below = &me->co;
    return answer(me, (me->co.sched_flags & CR__CURTAILED) != 0);
}
_Static_assert(sizeof(struct cr__fpu) == sizeof(uint64_t), "what is kept");

#endif

int cr__wait_suspend(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    return suspend_last(w, me, deadline_ns);
}

/* ---- What bounds waits --------------------------------------------------------------------------------------- */

struct cr__mask cr__mask(struct cr__record *me, int64_t bound_ns)
{
    struct cr__co_cold *cold = me->co.cold; /* without one, there is no bound to lift */
    struct cr__mask before = {(cr__flag_set(me, CR__MASKED, true) & CR__MASKED) != 0, cold ? cold->bound_ns : CR_FOREVER};
    if (cold)
        cold->bound_ns = bound_ns;
    return before;
}

void cr__unmask(struct cr__record *me, struct cr__mask before)
{
    if (!before.masked)
        cr__flag_set(me, CR__MASKED, false);
    if (me->co.cold)
        me->co.cold->bound_ns = before.bound_ns;
}

/* ---- Sleeping, parking --------------------------------------------------------------------------------------- */

int cr_sleep_until(int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    int r = cr__wait_begin(w, me, CR__WAIT_SLEEP, NULL, deadline_ns);
    if (r == 0)
        return suspend_last(w, me, deadline_ns);
    cr__breathe(w);
    return r == -ETIMEDOUT ? 0 : r; /* the time had come before we slept */
}

int cr_sleep(int64_t duration_ns)
{
    return cr_sleep_until(cr_after(duration_ns));
}

int cr_park_until(int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    if (cr__park_take_token(&me->word)) {
        cr__breathe(w);
        return 0;
    }
    int r = cr__wait_begin(w, me, CR__WAIT_UNPARK, NULL, deadline_ns);
    if (r < 0) {
        cr__breathe(w);
        return r;
    }
    /* A token that was left since then; a later unpark claims the wait. */
    if (CR__UNLIKELY(atomic_load_explicit(&me->word, memory_order_relaxed) & CR__TOKEN) && cr__park_abandon(&me->word, w->alone)) {
        cr__park_take_token(&me->word);
        return 0;
    }
    return suspend_last(w, me, deadline_ns);
}

int cr_park(void)
{
    return cr_park_until(CR_FOREVER);
}

static int unpark(struct cr__worker *w, struct cr__record *target)
{
    cr__park_lock(&target->word, w->alone);
    bool held = cr__park_held(&target->word);
    if (held && !cr__record_ended(target) && cr__park_unpark(&target->word, CR__WAIT_UNPARK, w->alone))
        cr__ready(w, target);
    cr__park_unlock(&target->word, 0, w->alone);
    return held ? 0 : -EPERM;
}

int cr_unpark(struct cr_co *co)
{
    struct cr__worker *w = cr__worker_here();
    if (!w || !co)
        return -EPERM;
    return unpark(w, cr__record_of(co));
}

static void prefetch_parked(const struct cr_co *co)
{
    if (cr__co_in_place(co)) {
        for (int i = 0; i < CR__PARKED_LINES; i++)
            __builtin_prefetch((char *)co->sp + i * CR__CACHE_LINE);
    } else if (cr__co_kind(co) == CR_STACK_SHARED) {
        cr__shared_prefetch(co);
    }
}

/* Two misses after another lie between a handle and the first line that its coroutine needs: the record, then the image or stack that it names. Each is fetched
 * for several at once. */
int cr_unpark_many(struct cr_co *const *cos, size_t count)
{
    cr__handed(cos);
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return -EPERM;
    int result = 0;
    for (size_t i = 0; i < count + RECORDS_AHEAD; i++) {
        if (i < count) {
            __builtin_prefetch(&cr__record_of(cos[i])->co, 1);
            __builtin_prefetch(&cr__record_of(cos[i])->word, 1);
        }
        if (i < RECORDS_AHEAD)
            continue;
        struct cr_co *co = cos[i - RECORDS_AHEAD];
        if (cr__park_worker(&cr__record_of(co)->word) == w->index && cr__co_started(co)) /* another worker may move its own just now */
            prefetch_parked(co);
        if (unpark(w, cr__record_of(co)) < 0)
            result = -EPERM;
    }
    return result;
}

int64_t cr_now(void)
{
    return cr__os_now_ns();
}

int cr_random(void *buf, size_t size_bytes)
{
    for (char *to = buf; size_bytes > 0;) {
        int n = cr__os_random(to, size_bytes < RANDOM_PIECE ? size_bytes : RANDOM_PIECE);
        if (n < 0 && n != -EINTR)
            return n;
        to += n > 0 ? n : 0;
        size_bytes -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int64_t cr_after(int64_t duration_ns)
{
    int64_t deadline_ns;
    if (__builtin_add_overflow(cr__os_now_ns(), duration_ns, &deadline_ns))
        return duration_ns < 0 ? INT64_MIN : CR_FOREVER;
    return deadline_ns;
}
