/* What bare and scheduled coroutines share: attributes, the first context, and how a coroutine describes itself. */
#include "co/co.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

int cr__attr_check(const struct cr_attr *attr, enum cr_stack_kind default_kind, size_t default_stack_bytes, unsigned *flags, uint32_t *stack_bytes)
{
    static const struct cr_attr zero;
    if (!attr)
        attr = &zero;
    unsigned kind = attr->stack ? attr->stack : default_kind;
    uint32_t size_bytes = cr__stack_size(attr->stack_size_bytes ? attr->stack_size_bytes : default_stack_bytes);
    if (attr->stack > CR_STACK_SHARED || size_bytes == 0 || (attr->flags & ~(unsigned)(CR_FPU_SHARED | CR_MIGRATABLE)) != 0)
        return -EINVAL;
    if (kind == CR_STACK_SHARED && size_bytes > CR_STACK_SHARED_MOST_BYTES) {
        if (attr->stack)
            return -EINVAL;
        kind = CR_STACK_STATIC;
    }
#ifdef CR__ASAN
    if (kind == CR_STACK_SHARED) /* it would see bytes of others as variables out of scope */
        kind = CR_STACK_STATIC;
#endif
    unsigned own = kind == CR_STACK_SHARED ? attr->flags & ~(unsigned)CR_MIGRATABLE : attr->flags; /* its stack is a certain worker's */
    *flags = own | (kind - CR_STACK_STATIC) << CR__CO_KIND_SHIFT;
    if (attr->stack == CR_STACK_STATIC && attr->stack_size_bytes - 1 < CR__PACKED_BYTES) { /* by who says so, never by a default */
        *flags |= cr__packed_usable() ? CR__CO_CHECKED : 0;
        size_bytes = cr__packed_usable() ? CR__PACKED_BYTES : CR__PACKED_ELSE_BYTES;
    }
    *stack_bytes = size_bytes;
    return 0;
}

int cr__co_prepare(struct cr_co *co, struct cr__stack_pool *pool, uint32_t stack_bytes, const struct cr__arch_life *life)
{
    int r = cr__stack_get(pool, stack_bytes, &co->stack);
    if (r < 0)
        return r;
    co->sp = cr__arch_prepare(co->stack.top, life, co);
    cr__san_start(co);
    return 0;
}

int cr__co_prepare_packed(struct cr_co *co, struct cr__packed *packed, const struct cr__arch_life *life)
{
    char *top = cr__packed_get(packed);
    if (!top)
        return -ENOMEM;
    co->stack = (struct cr__stack){.top = top, .size_bytes = CR__PACKED_BYTES};
    co->sp = cr__arch_prepare(top, life, co);
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

const char *const cr__stack_kind_names[] = {[CR_STACK_STATIC] = "static", [CR_STACK_VIRTUAL] = "virtual", [CR_STACK_SHARED] = "shared"};

static struct cr__stack_user user_of(const struct cr_co *co)
{
    return (struct cr__stack_user){.top = co->stack.top,
                                   .size_bytes = cr__stack_bytes(co->stack),
                                   .name = cr__co_name(co),
                                   .kind = cr__stack_kind_names[cr__co_kind(co)],
                                   .id = co->id,
                                   .entry = (void *)co->entry};
}

/* Whether the record of one that runs may be what it was: who runs far off a packed stack writes over records, too. */
static bool makes_sense(const struct cr_co *co)
{
    unsigned state = cr__co_state(co);
    uint32_t size_bytes = cr__stack_bytes(co->stack);
    if (state != CR__CO_RUNNING && state != CR__CO_SCHEDULED)
        return false;
    if ((co->stack.size_bytes > CR__STACK_MAX_BYTES) != (cr__co_kind(co) == CR_STACK_SHARED)) /* which says it in another way */
        return false;
    return cr__co_is_packed(co) ? cr__mem_reserved(co->stack.top) : size_bytes > 0 && size_bytes % 4096 == 0 && size_bytes <= CR__STACK_MAX_BYTES;
}

bool cr__co_describe(struct cr__stack_user *out)
{
    struct cr__self *self = cr__self_get();
    if (!self || cr__co_state(self->current) == CR__CO_ROOT)
        return false;
    *out = makes_sense(self->current) ? user_of(self->current) : (struct cr__stack_user){.lost = true};
    return true;
}

void cr__co_overflowed(const struct cr_co *co)
{
    struct cr__stack_user user = user_of(co);
    cr__stack_overflowed(&co->stack, &user);
}
