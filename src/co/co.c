/* What bare and scheduled coroutines share: attributes, the first context, and how a coroutine describes itself. */
#include "co/co.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#ifdef CR__ASAN
#include <sanitizer/asan_interface.h>
extern void __sanitizer_start_switch_fiber(void **fake_stack_save, const void *bottom, size_t size);
extern void __sanitizer_finish_switch_fiber(void *fake_stack_save, const void **bottom_old, size_t *size_old);
#endif
#ifdef CR__TSAN
extern void *__tsan_create_fiber(unsigned flags);
extern void __tsan_destroy_fiber(void *fiber);
extern void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#endif
#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

int cr__attr_check(const struct cr_attr *attr, size_t default_stack_bytes, unsigned *flags, uint32_t *stack_bytes)
{
    static const struct cr_attr zero;
    if (!attr)
        attr = &zero;
    if (attr->stack > CR_STACK_STATIC || (attr->flags & ~(unsigned)CR_FPU_SHARED) != 0)
        return -EINVAL;
    *flags = attr->flags;
    *stack_bytes = cr__stack_size(attr->stack_size_bytes ? attr->stack_size_bytes : default_stack_bytes);
    return *stack_bytes ? 0 : -EINVAL;
}

int cr__co_prepare(struct cr_co *co, struct cr__stack_pool *pool, uint32_t stack_bytes,
                   void (*fn)(void *co, void *value, uint64_t note))
{
    int r = cr__stack_get(pool, stack_bytes, &co->stack);
    if (r < 0)
        return r;
    co->sp = cr__arch_prepare(co->stack.top, fn, co);
    cr__san_start(co);
    return 0;
}

/* The control words that the program began with: what every coroutine with its own starts from. */
static struct cr__fpu initial_fpu;

#if defined(__x86_64__)
int cr__fpu_reload_blindly;

static void choose_reload(void)
{
    uint32_t a = 0, b = 0, c = 0, d = 0;
    __cpuid(0, a, b, c, d);
    cr__fpu_reload_blindly = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}
#else
static void choose_reload(void)
{
}
#endif

__attribute__((constructor)) static void remember_fpu(void)
{
    choose_reload();
    cr__fpu_leave(&initial_fpu);
}

void cr__co_arrive(struct cr_co *co, uint64_t note)
{
    cr__san_arrive(co);
    if (cr__co_own_fpu(co))
        cr__fpu_arrive(&initial_fpu, note & ~CR__NOTE_ENDED);
}

bool cr__co_describe(struct cr__stack_user *out)
{
    struct cr__self *self = cr__self_get();
    if (!self || cr__co_state(self->current) == CR__CO_ROOT)
        return false;
    struct cr_co *co = self->current;
    *out = (struct cr__stack_user){.name = cr__co_name(co), .id = co->id, .entry = (void *)co->entry};
    return true;
}

#if defined(CR__ASAN) || defined(CR__TSAN)

/* A thread's own stack bounds are learned from the first switch away from it. */
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

#ifdef CR__TSAN
static __thread void *buried; /* a fiber can't be destroyed while it runs: the next one to end does it */
#endif

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
static __thread const void *root_bottom;
static __thread size_t root_size;
static __thread bool left_root;
#endif

__attribute__((no_sanitize("thread"))) void cr__san_leave(struct cr_co *from, struct cr_co *to, bool dies)
{
#ifdef CR__ASAN
    const void *bottom = root_bottom;
    size_t size = root_size;
    if (to->stack.top) {
        bottom = cr__stack_low(to->stack);
        size = (size_t)(to->stack.top - (const char *)bottom);
    }
    left_root = cr__co_state(from) == CR__CO_ROOT;
    __sanitizer_start_switch_fiber(dies ? NULL : &from->fake_stack, bottom, size);
#endif
#ifdef CR__TSAN
    (void)from;
    (void)dies;
    __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
}

__attribute__((no_sanitize("thread"))) void cr__san_arrive(struct cr_co *me)
{
#ifdef CR__ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(me->fake_stack, &bottom, &size);
    if (left_root) {
        root_bottom = bottom;
        root_size = size;
        left_root = false;
    }
#else
    (void)me;
#endif
}

#endif
