/* What AddressSanitizer and ThreadSanitizer must be told: which stack is about to be switched to, and that it has been. Empty in
 * an ordinary build. Valgrind finds out by itself, once it knows the stacks (stack/static.c). */
#include "co/co.h"

#if defined(CR__ASAN) || defined(CR__TSAN)

#define THREAD_LOCAL __thread __attribute__((tls_model("initial-exec"))) /* no call on a small stack to find it */

#ifdef CR__TSAN
extern void *__tsan_create_fiber(unsigned flags);
extern void __tsan_destroy_fiber(void *fiber);
static THREAD_LOCAL void *buried; /* a fiber can't be destroyed while it runs: the next one to end does it */
#endif

void cr__san_start(struct cr_co *co)
{
    co->fake_stack = NULL;
#ifdef CR__TSAN
    co->tsan_fiber = __tsan_create_fiber(0);
#endif
}

void cr__san_end(struct cr_co *co)
{
    (void)co;
#ifdef CR__TSAN
    if (co->tsan_fiber)
        __tsan_destroy_fiber(co->tsan_fiber);
    co->tsan_fiber = NULL;
#endif
}

void cr__san_bury(struct cr_co *co)
{
    (void)co;
#ifdef CR__TSAN
    if (buried)
        __tsan_destroy_fiber(buried);
    buried = co->tsan_fiber;
    co->tsan_fiber = NULL;
#endif
}

#ifdef CR__ASAN

extern void __sanitizer_start_switch_fiber(void **fake_stack_save, const void *bottom, size_t size);
extern void __sanitizer_finish_switch_fiber(void *fake_stack_save, const void **bottom_old, size_t *size_old);

/* A thread's own stack's bounds are learned from the first switch away from it. */
static THREAD_LOCAL const void *root_bottom;
static THREAD_LOCAL size_t root_size;
static THREAD_LOCAL bool left_root;

void cr__san_leave(struct cr_co *from, struct cr_co *to, bool dies)
{
    const void *bottom = root_bottom;
    size_t size = root_size;
    if (to->stack.top) {
        bottom = cr__stack_low(to->stack);
        size = (size_t)(to->stack.top - (const char *)bottom);
    }
    left_root = cr__co_state(from) == CR__CO_ROOT && !from->stack.top;
    __sanitizer_start_switch_fiber(dies ? NULL : &from->fake_stack, bottom, size);
}

void cr__san_arrive(struct cr_co *me)
{
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(me->fake_stack, &bottom, &size);
    if (left_root) {
        root_bottom = bottom;
        root_size = size;
        left_root = false;
    }
}

#endif

#endif
