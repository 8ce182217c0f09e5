/* Not an interface: cr_yield inlined into its caller, where the compiler saves only what is live across the switch. What to switch to is
 * the library's business. crore/co_inline.h has the switch, and says when nothing is inlined; include crore/rt.h. */
#ifndef CRORE_RT_INLINE_H
#define CRORE_RT_INLINE_H

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The running coroutine has been put at the end of the run queue: it is to suspend into *from, and go on at `to`. from NULL: nothing to
 * switch to, or it has been done already; `to` is then what cr_yield returns. */
struct cr__leave {
    struct cr__co_head *from;
    void *to;
};
CR_API struct cr__leave cr__yield_begin(void);

#ifndef CR_NO_INLINE

extern inline __attribute__((gnu_inline, always_inline)) int cr_yield(void)
{
    struct cr__leave leave = cr__yield_begin();
    if (__builtin_expect(!leave.from, 0))
        return (int)(intptr_t)leave.to;
    uint64_t note = 0;
    if (leave.from->mode & CR__MODE(0, CR_FPU_SHARED))
        cr__switch(&leave.from->sp, leave.to, NULL, &note);
    else
        cr__switch_with_fpu(&leave.from->sp, leave.to, NULL, &note);
    return 0;
}

#endif

#ifdef __cplusplus
}
#endif

#endif
