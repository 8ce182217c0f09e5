/* The calling thread's record: where per-thread state begins. */
#include "co/co.h"

#include <pthread.h>

#ifdef CR__TSAN
extern void *__tsan_get_current_fiber(void);
#endif

/* Read by cr__self_get() in assembly; hence visible, though no interface. */
CR_API __thread struct cr__self *cr__self_tls __attribute__((tls_model("initial-exec"), used)); /* used: what assembly alone reads, link-time optimisation would leave out */

static __thread struct cr__self this_thread __attribute__((tls_model("initial-exec")));
static __thread void *before_overflows __attribute__((tls_model("initial-exec"))); /* cr__overflow_enter's; NULL: overflows are bare faults on this thread */
static pthread_key_t leave_key;
static pthread_once_t leave_key_once = PTHREAD_ONCE_INIT;

static void leave(void *unused)
{
    (void)unused;
    if (before_overflows)
        cr__overflow_leave(before_overflows);
    before_overflows = NULL;
    cr__bare_leave(&this_thread);
    cr__mover_free(this_thread.mover);
    this_thread.mover = NULL;
    cr__self_tls = NULL; /* who uses coroutines in a destructor that comes later begins anew, and leaves again */
}

static void make_leave_key(void)
{
    int r = pthread_key_create(&leave_key, leave);
    CR__ASSERT(r == 0);
}

CR__NOINLINE struct cr__self *cr__self_here(void)
{
    struct cr__self *self = cr__self_get();
    if (CR__LIKELY(self != NULL))
        return self;
    self = &this_thread;
    self->current = &self->root;
    self->root.mode = CR__MODE(CR__CO_ROOT, 0);
#ifdef CR__TSAN
    self->root.tsan_fiber = __tsan_get_current_fiber();
#endif
    if (cr__overflow_enter(cr__co_describe, &before_overflows) < 0)
        before_overflows = NULL;
    pthread_once(&leave_key_once, make_leave_key);
    pthread_setspecific(leave_key, self);
    cr__self_tls = self;
    return self;
}

void cr__self_install(void *thread_pointer, struct cr__self *self)
{
    char *here;
#if defined(__x86_64__)
    __asm__("movq %%fs:0, %0" : "=r"(here));
#elif defined(__aarch64__)
    __asm__("mrs %0, tpidr_el0" : "=r"(here));
#else
    __asm__("mv %0, tp" : "=r"(here));
#endif
    ptrdiff_t offset = (char *)&cr__self_tls - here;
    *(struct cr__self **)(void *)((char *)thread_pointer + offset) = self;
}
