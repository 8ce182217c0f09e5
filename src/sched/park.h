/* Parking: one word per record decides how a wait ends.
 *
 *        RUNNING --begin--> WAITING --claim, by whoever comes first--> WOKEN | TIMED_OUT | CANCELLED | CLOSED
 *           ^                                                                        |
 *           +---------------- the outcome counts as RUNNING: the next wait begins with it ------+
 *
 * A waker claims the wait, hands over what was waited for, and then makes the coroutine ready. Between claim and ready the coroutine
 * can't run, so what is handed over may be written into its variables.
 *
 * A coroutine that stays on its worker is resumed by that worker only, which has left the coroutine's stack by then. One that may
 * migrate could be resumed by another worker before it has left its stack: it is resumed by the second of two, the waker that says READY and
 * the worker that says LEFT.
 *
 * Invariants:
 *   1. WAITING is left by one claim; whoever loses touches nothing.
 *   2. Whoever claims holds what keeps the record from being used for another wait: the lock of the queue in which it found it (a waiter leaves
 *      the queue, under that lock, before it goes on), a handle, the wheel of its worker.
 *   3. A cancellation is in the word, so it can't fall between a look at a flag and the beginning of a wait.
 *   4. Between pin and unpin nobody claims: so what it waits for is still there (one does not free a lock in whose queue somebody waits).
 *   5. `alone` (a runtime of one worker): only that worker's thread touches the word, and nothing need be atomic. */
#ifndef CR__PARK_H
#define CR__PARK_H

#include <stdatomic.h>

#include "base/spin.h"

enum cr__wait_state {
    CR__FREE, /* no coroutine */
    CR__RUNNING,
    CR__WAITING,
    CR__WOKEN,
    CR__TIMED_OUT,
    CR__CANCELLED,
    CR__CLOSED,
};

enum cr__park_flag {
    CR__STATE = 7u,
    CR__CANCEL = 1u << 3,       /* cancelled: each wait fails */
    CR__SCOPE_CANCEL = 1u << 4, /* by a scope of its own, until it closes that */
    CR__MASKED = 1u << 5,       /* not now: it cleans up. Set and cleared by itself */
    CR__READY = 1u << 6,        /* of one that may migrate: its waker is done with it */
    CR__LEFT = 1u << 7,         /* it has left its stack */
    CR__LOCKED = 1u << 8,       /* somebody looks at, or changes, its handle, joiner and end */
    CR__HELD = 1u << 9,         /* somebody holds a handle. Once gone, it never comes back */
    CR__PINNED = 1u << 10,      /* of one that waits: somebody reads what it waits for; it is not to be woken just now */
    CR__KIND = 1u << 11,        /* times what it waits for: five bits */
    CR__KINDS = 31 * CR__KIND,
    CR__WORKER = 1u << 16,      /* times the index of the worker that it is on: the upper half but for the highest bit, */
    CR__TOKEN = 1u << 31,       /* which says that somebody has unparked it before it parked (cr_unpark) */
};

typedef _Atomic uint32_t cr__park_word;

static inline enum cr__wait_state cr__park_state(const cr__park_word *word)
{
    return atomic_load_explicit(word, memory_order_relaxed) & CR__STATE;
}

/* What it waits for, or has last waited for: of enum cr__wait_kind. */
static inline unsigned cr__park_kind(uint32_t value)
{
    return (value & CR__KINDS) / CR__KIND;
}

/* By the running coroutine. */
static inline void cr__park_kind_clear(cr__park_word *word)
{
    atomic_fetch_and_explicit(word, ~(uint32_t)CR__KINDS, memory_order_relaxed);
}

static inline bool cr__park_cancelled(uint32_t value)
{
    return (value & (CR__CANCEL | CR__SCOPE_CANCEL)) != 0 && !(value & CR__MASKED);
}

/* By the running coroutine: from here on it may be woken. Returns whether it waits: false if it is cancelled. */
static inline bool cr__park_begin(cr__park_word *word, unsigned kind, bool alone)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed), new;
    do {
        if (CR__UNLIKELY(cr__park_cancelled(old)))
            return false;
        new = (old & ~(CR__STATE | CR__READY | CR__LEFT | CR__KINDS)) | CR__WAITING | kind * CR__KIND;
        if (alone) {
            atomic_store_explicit(word, new, memory_order_relaxed);
            return true;
        }
        /* release: a canceller, who knows it from no queue, reads the record; pairs with the acquire in claim */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_release, memory_order_relaxed));
    return true;
}

/* By the coroutine, before it has suspended: it needn't wait after all. False if somebody has claimed the wait: then it must suspend. */
static inline bool cr__park_abandon(cr__park_word *word, bool alone)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed);
    do {
        if ((old & CR__STATE) != CR__WAITING)
            return false;
        if (alone) {
            atomic_store_explicit(word, (old & ~CR__STATE) | CR__RUNNING, memory_order_relaxed);
            return true;
        }
    } while (!atomic_compare_exchange_weak_explicit(word, &old, (old & ~CR__STATE) | CR__RUNNING, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* Ends a wait, if nobody else has. Returns whether it did: then the caller makes the coroutine ready. */
static inline bool cr__park_claim(cr__park_word *word, enum cr__wait_state outcome, bool alone)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed);
    do {
        while (CR__UNLIKELY(old & CR__PINNED)) { /* for some loads */
            cr__spin_hint();
            old = atomic_load_explicit(word, memory_order_relaxed);
        }
        if ((old & CR__STATE) != CR__WAITING || (outcome == CR__CANCELLED && !cr__park_cancelled(old)))
            return false;
        if (alone) {
            atomic_store_explicit(word, (old & ~CR__STATE) | outcome, memory_order_relaxed);
            return true;
        }
        /* acquire: see begin. Not release: who is made ready sees what was done before that through the queue that it goes by */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, (old & ~CR__STATE) | outcome, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

/* Keeps one that waits for a thing of that kind waiting until _unpin. Returns whether it does wait for one. */
static inline bool cr__park_pin(cr__park_word *word, unsigned kind)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed);
    do {
        if ((old & (CR__STATE | CR__KINDS)) != (CR__WAITING | kind * CR__KIND) || (old & CR__PINNED))
            return false;
        /* acquire: what it waits for; pairs with the release in begin */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, old | CR__PINNED, memory_order_acquire, memory_order_relaxed));
    return true;
}

static inline void cr__park_unpin(cr__park_word *word)
{
    atomic_fetch_and_explicit(word, ~(uint32_t)CR__PINNED, memory_order_release); /* we have read, before it goes on and changes that */
}

/* Sets flags of cancellation on what lives. Returns the word as it was. */
static inline uint32_t cr__park_cancel(cr__park_word *word, uint32_t flag)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed);
    while ((old & CR__STATE) != CR__FREE &&
           !atomic_compare_exchange_weak_explicit(word, &old, old | flag, memory_order_relaxed, memory_order_relaxed))
        ;
    return old;
}

/* The two that meet over one that may migrate: `flag` is READY or LEFT. Whoever comes second resumes it, and sees what the first did (acquire), who
 * had it published (release). */
static inline bool cr__park_second(cr__park_word *word, uint32_t flag)
{
    uint32_t other = CR__READY | CR__LEFT;
    other &= ~flag;
    return (atomic_fetch_or_explicit(word, flag, memory_order_acq_rel) & other) != 0;
}

/* By whoever wakes one from cr_park: claims that wait and returns true, as claim does, or leaves a token for the next one. */
static inline bool cr__park_unpark(cr__park_word *word, unsigned kind, bool alone)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed), new;
    bool waits;
    do {
        while (CR__UNLIKELY(old & CR__PINNED)) {
            cr__spin_hint();
            old = atomic_load_explicit(word, memory_order_relaxed);
        }
        waits = (old & (CR__STATE | CR__KINDS)) == (CR__WAITING | kind * CR__KIND);
        new = waits ? (old & ~CR__STATE) | CR__WOKEN : old | CR__TOKEN;
        if (alone) {
            atomic_store_explicit(word, new, memory_order_relaxed);
            return waits;
        }
        /* acquire: see begin. Release: who takes the token sees what was done before it was left; pairs with the acquire in take_token */
    } while (!atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_acq_rel, memory_order_relaxed));
    return waits;
}

/* By the coroutine itself: whether there was a token. */
static inline bool cr__park_take_token(cr__park_word *word)
{
    if (CR__LIKELY(!(atomic_load_explicit(word, memory_order_relaxed) & CR__TOKEN)))
        return false;
    return (atomic_fetch_and_explicit(word, ~(uint32_t)CR__TOKEN, memory_order_acquire) & CR__TOKEN) != 0;
}

/* Which worker it is on. What has not started is on the one that spawned it, or onto which it was. */
static inline unsigned cr__park_worker_in(uint32_t value)
{
    return (value & ~(uint32_t)CR__TOKEN) / CR__WORKER;
}

static inline unsigned cr__park_worker(const cr__park_word *word)
{
    return cr__park_worker_in(atomic_load_explicit(word, memory_order_relaxed));
}

/* By that worker. */
static inline void cr__park_worker_set(cr__park_word *word, unsigned index)
{
    uint32_t old = atomic_load_explicit(word, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(word, &old, (old & (CR__TOKEN | (CR__WORKER - 1))) + index * CR__WORKER, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

static inline void cr__park_lock(cr__park_word *word, bool alone)
{
    /* acquire: pairs with the release in unlock */
    while (!alone && (atomic_fetch_or_explicit(word, CR__LOCKED, memory_order_acquire) & CR__LOCKED))
        sched_yield();
}

/* Clears `flags`, too, in the same step: who sees that the handle is gone sees that nobody looks any more. */
static inline void cr__park_unlock(cr__park_word *word, uint32_t flags, bool alone)
{
    if (alone)
        atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) & ~flags, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(word, ~(flags | CR__LOCKED), memory_order_release);
}

static inline bool cr__park_held(const cr__park_word *word)
{
    return (atomic_load_explicit(word, memory_order_relaxed) & CR__HELD) != 0;
}

/* Nobody holds a handle, nor looks at it for a last time; acquire: pairs with the release in unlock. */
static inline bool cr__park_unheld(const cr__park_word *word)
{
    return (atomic_load_explicit(word, memory_order_acquire) & (CR__HELD | CR__LOCKED)) == 0;
}

#endif
