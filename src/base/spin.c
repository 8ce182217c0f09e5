#include "base/spin.h"

/* Returns when the lock has been seen free. */
void cr__spin_wait(_Atomic uint8_t *lock)
{
    for (unsigned turn = 1; atomic_load_explicit(lock, memory_order_relaxed) != 0; turn++) {
        cr__spin_hint();
        if (turn % CR__SPIN_TURNS == 0)
            sched_yield();
    }
}
