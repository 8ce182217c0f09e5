/* Not an interface: what cr_co_resume and cr_co_yield need in order to be inlined into their callers, where the
 * compiler saves only what is live across the switch. Include crore/co.h.
 *
 * A suspended context is one pointer, its stack pointer; on top of that stack lies the address at which it goes
 * on. Whoever arrives there finds two values in registers: the one that travels, and the "note" (see below).
 * Everything else the compiler is told to consider lost; docs/switch.md says why that is enough, ISA by ISA.
 *
 * Which vector registers are lost is decided by what the file is compiled for. In a file with functions for more than that
 * (__attribute__((target("avx512f")))) which hold such registers across a switch, define CR_NO_INLINE.
 *
 * Inlining is left out where sanitizers must be told of each switch, and where CR_NO_INLINE is defined; the
 * functions of the same names in the library then do the work. */
#ifndef CRORE_CO_INLINE_H
#define CRORE_CO_INLINE_H

#include <crore/co.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CR__ALWAYS extern inline __attribute__((gnu_inline, always_inline))

struct cr__self;

/* The head of struct cr_co, as far as the inlined calls use it. */
struct cr__co_head {
    void *stack[2];       /* the library's */
    void *sp;             /* while it does not run */
    struct cr_co *below;  /* who is switched to when it yields */
    void *next;           /* the library's */
    uint16_t mode;        /* state in the low byte, attribute flags in the high one */
};

/* The head of the calling thread's own record. */
struct cr__self_head {
    struct cr_co *current; /* never NULL: the thread itself is a context, too */
};

#define CR__MODE(state, flags) ((uint16_t)((state) | (flags) << 8))
#define CR__CO_CHECKED (1u << 4) /* a flag: the library looks before each switch */
#define CR__STATE_SUSPENDED 1
#define CR__STATE_RUNNING 2
#define CR__NOTE_ENDED ((uint64_t)1 << 63) /* the sender has ended; the rest: its floating-point control words, 0: not told */

/* cr__self_get reads the thread's record by an access that the compiler can neither cache nor move across a
 * switch: a coroutine may be resumed by another thread than the one that it was suspended on. */

#if defined(__x86_64__)

CR__ALWAYS struct cr__self *cr__self_get(void)
{
    struct cr__self *self;
    __asm__ volatile("movq cr__self_tls@GOTTPOFF(%%rip), %0\n\tmovq %%fs:(%0), %0" : "=r"(self));
    return self;
}

/* Suspends into *save, goes on at `to`. The pushes would overwrite the red zone, in which a leaf function keeps its data: so whoever uses this
 * also contains a call, in one path at least, which is not a tail call (or is compiled with -mno-red-zone). */
CR__ALWAYS void *cr__switch(void **save, void *to, void *value, uint64_t *note)
{
    uint64_t n = *note;
    __asm__ volatile("pushq %%rbp\n\t"
                     "pushq %%rbx\n\t"
                     "leaq 1f(%%rip), %%rbx\n\t"
                     "pushq %%rbx\n\t"
                     "movq %%rsp, (%[save])\n\t"
                     "movq %[to], %%rsp\n\t"
                     "jmpq *(%%rsp)\n"
                     "1:\n\t"
                     "movq 8(%%rsp), %%rbx\n\t"
                     "movq 16(%%rsp), %%rbp\n\t"
                     "leaq 24(%%rsp), %%rsp\n\t"
                     : "+a"(value), "+d"(n), [save] "+D"(save), [to] "+S"(to)
                     :
                     : "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory",
                       "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#ifdef __AVX512F__
                       , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
                       "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#endif
#ifndef _SOFT_FLOAT
                       , "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"
#endif
#ifdef __MMX__
                       , "mm0", "mm1", "mm2", "mm3", "mm4", "mm5", "mm6", "mm7"
#endif
    );
    *note = n;
    return value;
}

#elif defined(__aarch64__)

CR__ALWAYS struct cr__self *cr__self_get(void)
{
    struct cr__self *self;
    uint64_t tmp;
    __asm__ volatile("mrs %1, tpidr_el0\n\t"
                     "adrp %0, :gottprel:cr__self_tls\n\t"
                     "ldr %0, [%0, #:gottprel_lo12:cr__self_tls]\n\t"
                     "ldr %0, [%1, %0]"
                     : "=&r"(self), "=&r"(tmp));
    return self;
}

CR__ALWAYS void *cr__switch(void **save, void *to, void *value, uint64_t *note)
{
    register void *x0 __asm__("x0") = value;
    register uint64_t x1 __asm__("x1") = *note;
    register void **x2 __asm__("x2") = save;
    register void *x3 __asm__("x3") = to;
    __asm__ volatile("sub sp, sp, #32\n\t"
                     "adr x4, 1f\n\t"
                     "stp x4, x29, [sp]\n\t"
                     "str x19, [sp, #16]\n\t"
                     "mov x4, sp\n\t"
                     "str x4, [x2]\n\t"
                     "mov sp, x3\n\t"
                     "ldr x4, [sp]\n\t"
                     "br x4\n"
                     "1:\n\t"
                     "hint #36\n\t" /* bti j: a landing place where branch targets are enforced */
                     "ldr x29, [sp, #8]\n\t"
                     "ldr x19, [sp, #16]\n\t"
                     "add sp, sp, #32\n\t"
                     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
                     :
                     : "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
                       "x18", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "cc", "memory",
                       "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
                       "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
                       "v28", "v29", "v30", "v31"
#ifdef __ARM_FEATURE_SVE
                       , "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13",
                       "p14", "p15", "ffr"
#endif
    );
    *note = x1;
    return x0;
}

#elif defined(__riscv) && __riscv_xlen == 64

CR__ALWAYS struct cr__self *cr__self_get(void)
{
    struct cr__self *self;
    __asm__ volatile("la.tls.ie %0, cr__self_tls\n\tadd %0, %0, tp\n\tld %0, 0(%0)" : "=r"(self));
    return self;
}

CR__ALWAYS void *cr__switch(void **save, void *to, void *value, uint64_t *note)
{
    register void *a0 __asm__("a0") = value;
    register uint64_t a1 __asm__("a1") = *note;
    register void **a2 __asm__("a2") = save;
    register void *a3 __asm__("a3") = to;
    __asm__ volatile("addi sp, sp, -32\n\t"
                     "lla t1, 1f\n\t" /* not t0: a jump by that is predicted as a return */
                     "sd t1, 0(sp)\n\t"
                     "sd s0, 8(sp)\n\t"
                     "sd s1, 16(sp)\n\t"
                     "sd sp, 0(a2)\n\t"
                     "mv sp, a3\n\t"
                     "ld t1, 0(sp)\n\t"
                     "jr t1\n"
                     "1:\n\t"
                     "ld s0, 8(sp)\n\t"
                     "ld s1, 16(sp)\n\t"
                     "addi sp, sp, 32\n\t"
                     : "+r"(a0), "+r"(a1), "+r"(a2), "+r"(a3)
                     :
                     : "ra", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "a4", "a5", "a6", "a7", "s2", "s3", "s4",
                       "s5", "s6", "s7", "s8", "s9", "s10", "s11", "memory", "ft0", "ft1", "ft2", "ft3", "ft4",
                       "ft5", "ft6", "ft7", "ft8", "ft9", "ft10", "ft11", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
                       "fa6", "fa7", "fs0", "fs1", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10",
                       "fs11"
#ifdef __riscv_vector
                       , "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13",
                       "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
                       "v27", "v28", "v29", "v30", "v31", "vl", "vtype"
#endif
    );
    *note = a1;
    return a0;
}

#else
#error "crore knows x86-64, aarch64 and riscv64"
#endif

/* The control words of floating point: rounding, exception masks, flush to zero. Whoever leaves keeps its own in its frame
 * (cr__fpu_leave) and finds them again when it comes back (cr__fpu_arrive); what is passed along with the switch lets the
 * other side see without looking that nothing differs. Sticky exception flags are not kept across a switch. */
#if defined(__x86_64__)

struct cr__fpu {
    uint32_t mxcsr;
    uint16_t x87;
};

/* Which is cheaper differs by maker: on Intel, a reload of MXCSR that differs in its sticky flags takes 34 ns, so look first;
 * on AMD, looking at what was just stored costs 2.3 ns, and a reload nothing. Set before main by the CPU's name. */
CR_API extern int cr__fpu_reload_blindly;

CR__ALWAYS uint64_t cr__fpu_leave(struct cr__fpu *mine)
{
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mine->mxcsr), "=m"(mine->x87));
    if (cr__fpu_reload_blindly)
        return 0;
    return (uint64_t)(mine->mxcsr & ~0x3fu) | (uint64_t)mine->x87 << 32;
}

CR__ALWAYS void cr__fpu_arrive(const struct cr__fpu *mine, uint64_t theirs)
{
    if (!cr__fpu_reload_blindly) {
        if (theirs == 0) {
            struct cr__fpu now;
            theirs = cr__fpu_leave(&now);
        }
        if (__builtin_expect(theirs == ((uint64_t)(mine->mxcsr & ~0x3fu) | (uint64_t)mine->x87 << 32), 1))
            return;
    }
    __asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mine->mxcsr), "m"(mine->x87));
}

#else /* one register, cheap to read, without sticky flags */

struct cr__fpu {
    uint64_t control;
};

CR__ALWAYS uint64_t cr__fpu_leave(struct cr__fpu *mine)
{
#if defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(mine->control));
#else
    __asm__ volatile("frrm %0" : "=r"(mine->control));
#endif
    mine->control |= (uint64_t)1 << 62; /* never 0 */
    return mine->control;
}

CR__ALWAYS void cr__fpu_arrive(const struct cr__fpu *mine, uint64_t theirs)
{
    struct cr__fpu now;
    if (theirs == 0)
        theirs = cr__fpu_leave(&now);
    if (__builtin_expect(theirs == mine->control, 1))
        return;
#if defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mine->control & 0xffffffffu));
#else
    __asm__ volatile("fsrm %0" : : "r"(mine->control & 7));
#endif
}

#endif

/* cr__switch by a context that keeps its own control words. Two switches rather than a test on either side of one: reading MXCSR
 * takes 3 ns, and the less waits behind it, the better. */
CR__ALWAYS void *cr__switch_with_fpu(void **save, void *to, void *value, uint64_t *note)
{
    struct cr__fpu fpu;
    *note |= cr__fpu_leave(&fpu);
    value = cr__switch(save, to, value, note);
    cr__fpu_arrive(&fpu, *note & ~CR__NOTE_ENDED);
    return value;
}

#ifndef CR_NO_INLINE
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define CR_NO_INLINE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define CR_NO_INLINE 1
#endif
#endif
#endif

#ifndef CR_NO_INLINE

/* The library's own functions, for what is not common: a first run, an error. */
CR_API int cr__co_resume_any(struct cr_co *co, void **value) __asm__("cr_co_resume");
CR_API int cr__co_yield_any(void **value) __asm__("cr_co_yield");

extern inline __attribute__((gnu_inline, always_inline)) int cr_co_resume(struct cr_co *co, void **value)
{
    struct cr__co_head *to = (struct cr__co_head *)co;
    struct cr__self_head *self = (struct cr__self_head *)cr__self_get();
    if (__builtin_expect(!self || (to->mode & CR__MODE(0xff, CR__CO_CHECKED)) != CR__STATE_SUSPENDED, 0)) {
        int r = cr__co_resume_any(co, value);
        __asm__ volatile("" : "+r"(r)); /* no tail call: see cr__switch */
        return r;
    }
    struct cr__co_head *from = (struct cr__co_head *)self->current;
    int own_fpu = !(to->mode & CR__MODE(0, CR_FPU_SHARED));
    uint64_t note = 0;
    to->mode += CR__STATE_RUNNING - CR__STATE_SUSPENDED;
    to->below = self->current;
    self->current = co;
    void *back = own_fpu ? cr__switch_with_fpu(&from->sp, to->sp, value ? *value : NULL, &note)
                         : cr__switch(&from->sp, to->sp, value ? *value : NULL, &note);
    if (value)
        *value = back;
    return (int)(note >> 63);
}

extern inline __attribute__((gnu_inline, always_inline)) int cr_co_yield(void **value)
{
    struct cr__self_head *self = (struct cr__self_head *)cr__self_get();
    struct cr__co_head *me = self ? (struct cr__co_head *)self->current : NULL;
    if (__builtin_expect(!me || (me->mode & 0xff) != CR__STATE_RUNNING, 0)) {
        int r = cr__co_yield_any(value);
        __asm__ volatile("" : "+r"(r)); /* no tail call: see cr__switch */
        return r;
    }
    int own_fpu = !(me->mode & CR__MODE(0, CR_FPU_SHARED));
    uint64_t note = 0;
    me->mode -= CR__STATE_RUNNING - CR__STATE_SUSPENDED;
    self->current = me->below;
    void *to_sp = ((struct cr__co_head *)me->below)->sp;
    void *back = own_fpu ? cr__switch_with_fpu(&me->sp, to_sp, value ? *value : NULL, &note)
                         : cr__switch(&me->sp, to_sp, value ? *value : NULL, &note);
    if (value)
        *value = back;
    return 0;
}

#endif

#ifdef __cplusplus
}
#endif
#endif
