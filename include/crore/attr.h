/* How a coroutine is made: the attributes that cr_co_create, cr_spawn and their kin share. */
#ifndef CRORE_ATTR_H
#define CRORE_ATTR_H

#include <crore/api.h>

/* What a parked coroutine costs, and nothing else; docs/stacks.md has figures, and what each forbids. */
enum cr_stack_kind {
    CR_STACK_DEFAULT = 0, /* what the runtime's configuration says; static without a runtime */
    CR_STACK_STATIC = 1,  /* of its own, from a pool, guarded; or, by a stack_size_bytes of at most CR_STACK_PACKED_BYTES, packed */
    CR_STACK_VIRTUAL = 2, /* of its own, with memory on demand; one that has been parked for long is frozen: its live bytes move into an image, and its
                             pages go back. Pointers to what lies on it stay valid */
    CR_STACK_SHARED = 3,  /* a few common ones per worker: live bytes are copied out when another coroutine needs the stack, and back before it goes
                             on. Nobody else may have a pointer to what lies on it. Bare ones: bound to the thread that first resumed them */
};

enum cr_attr_flags {
    /* Share the floating-point control words (rounding, exception masks, flush to zero) with whoever
     * switches to this coroutine, instead of keeping its own. Faster to switch; right for code that
     * never changes them, which is nearly all code. */
    CR_FPU_SHARED = 1u << 0,

    /* Once started, may go on on another worker after each call that suspends, and so be stolen when its worker is busy. Only for code that
     * keeps no thread's address across such a call: compilers do, of thread-local variables, errno among them. Others stay with the
     * worker on which they started. Means nothing to bare coroutines. */
    CR_MIGRATABLE = 1u << 1,
};

/* Packed stacks: static ones of 2 KiB, side by side, without a guard. For those who name both, CR_STACK_STATIC and a size from 1 to this, in the same struct cr_attr; who
 * leaves either to a default gets a page or more. Each time its coroutine parks or yields, and when it ends, it is seen whether it has run off its stack (a bare one: when it is
 * resumed the next time, and when it ends); then the program ends with a report. By then it may have overwritten another one's locals. So this is for code whose
 * depth is known: link with -z now, and see docs/stacks.md for what does not fit. Builds with sanitizers or without optimization, and valgrind, get 16 KiB, guarded. */
#define CR_STACK_PACKED_BYTES 2048

/* The largest stack_size_bytes, also that of a default, for who names CR_STACK_SHARED; -EINVAL beyond. (Who leaves the kind to a default gets a static one where the size is larger.) What lies that
 * deep is copied too dearly: CR_STACK_VIRTUAL is for it. */
#define CR_STACK_SHARED_MOST_BYTES (256 << 10)

/* Zeroed means default, field by field. Read during the call only; the caller may discard it after. */
struct cr_attr {
    const char *name;        /* for messages and dumps; copied, cut to 31 bytes. NULL: the entry function's symbol */
    enum cr_stack_kind stack;
    unsigned flags;          /* of enum cr_attr_flags */
    size_t stack_size_bytes; /* up to 1 GiB; 0: the default (64 KiB). Rounded up to pages, above 32 KiB to the next of four
                                sizes in a power of two; what is not touched takes no memory. With CR_STACK_STATIC: below a page, too (CR_STACK_PACKED_BYTES) */
};

#endif
