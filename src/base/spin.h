/* A lock for a few instructions, one byte, usable from zeroed memory. Who holds it neither suspends nor calls the kernel; who waits for long
 * lets other threads run, since the holder may have been preempted. */
#ifndef CR__SPIN_H
#define CR__SPIN_H

#include <sched.h>
#include <stdatomic.h>

#include "base/base.h"

#define CR__SPIN_TURNS 64

static inline void cr__spin_hint(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most; this waits some ten cycles */
#else
    __asm__ volatile("" ::: "memory");
#endif
}

CR__COLD void cr__spin_wait(_Atomic uint8_t *lock);

static inline bool cr__spin_try(_Atomic uint8_t *lock)
{
    /* acquire: pairs with the release in cr__spin_unlock */
    return atomic_exchange_explicit(lock, 1, memory_order_acquire) == 0;
}

static inline void cr__spin_lock(_Atomic uint8_t *lock)
{
    while (CR__UNLIKELY(!cr__spin_try(lock)))
        cr__spin_wait(lock);
}

static inline void cr__spin_unlock(_Atomic uint8_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

#endif
