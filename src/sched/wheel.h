/* Timers on a hierarchical wheel: arming, cancelling and firing take constant time, whatever their number.
 *
 * Eight levels of 64 slots; a slot of level L spans 64^L ticks of 2^14 ns (16.4 µs). A timer goes to the level of the highest bit in which its
 * tick differs from the wheel's present one, so a slot of level 0 holds one tick's timers, and a slot of a higher level is spread over the levels
 * below when its time begins. A word per level says which slots are not empty, so finding the next one skips idle time.
 *
 * A slot is eight chains, filled and walked in turns: with a million timers each step along a chain is a miss of all caches, and so eight of them
 * are under way at the same time.
 *
 * Timers lie inside what waits, linked in no order; a timer never fires before its deadline, and at most one tick and the worker's delay after.
 *
 * Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7. Not a heap: its operations grow with the
 * number of timers, and most deadlines are cancelled long before they come. */
#ifndef CR__WHEEL_H
#define CR__WHEEL_H

#include "base/base.h"

#define CR__TICK_SHIFT 14
#define CR__WHEEL_LEVELS 8 /* 2^48 ticks: 146 years after the machine was started; what is later waits until then */
#define CR__WHEEL_SLOTS 64
#define CR__WHEEL_CHAINS 8

struct cr__timer {
    struct cr__timer *next;
    struct cr__timer **link; /* what points here; NULL: not armed */
    int64_t deadline_ns;
};

struct cr__wheel {
    uint64_t tick; /* all timers of earlier ticks have fired */
    uint64_t armed;
    uint64_t occupied[CR__WHEEL_LEVELS];
    unsigned turn; /* chain for the next timer */
    struct cr__timer *slots[CR__WHEEL_LEVELS][CR__WHEEL_SLOTS][CR__WHEEL_CHAINS];
};

void cr__wheel_init(struct cr__wheel *wheel, int64_t now_ns);

/* Arms a timer that is not armed. A deadline in the past fires with the next tick. */
void cr__wheel_arm(struct cr__wheel *wheel, struct cr__timer *timer, int64_t deadline_ns);

/* Disarms one that is armed. */
void cr__wheel_cancel(struct cr__wheel *wheel, struct cr__timer *timer);

static inline bool cr__timer_armed(const struct cr__timer *timer)
{
    return __atomic_load_n(&timer->link, __ATOMIC_RELAXED) != NULL; /* another worker may look; others' timers move, too, when one goes */
}

/* Disarms all whose deadline has come, and calls fire for each; fire may arm and cancel timers of this wheel. */
void cr__wheel_fire(struct cr__wheel *wheel, int64_t now_ns, void (*fire)(struct cr__timer *timer, void *arg), void *arg);

/* Nanoseconds from now until cr__wheel_fire has something to do (perhaps only to spread a slot): 0 if it has already, -1 if
 * no timer is armed. */
int64_t cr__wheel_next(const struct cr__wheel *wheel, int64_t now_ns);

#endif
