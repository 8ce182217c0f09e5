/* The instruction set as we use it: switching between contexts, a first context on a fresh stack, and the
 * floating-point control words. The switch itself is inline and public (crore/co_inline.h); the entry of a fresh stack is
 * assembly, ISA by ISA, with unwind information that ends there. Nothing here knows what a coroutine is.
 *
 * A fresh stack's top holds CR__ARCH_TOP_BYTES that no frame ever overlaps:
 *     top - 32   address of cr__arch_entry       <- the context's stack pointer
 *     top - 24   what runs: a struct cr__arch_life
 *     top - 16   its argument
 *     top -  8   free for the stack's owner
 * so that a new context may be laid onto a stack whose last occupant still runs below (see stack.h). */
#ifndef CR__ARCH_H
#define CR__ARCH_H

#include <crore/co_inline.h>

#include "base/base.h"

#define CR__ARCH_TOP_BYTES 32

/* What runs in a fresh context: begin says which function is called, and with what; end gets what that returns, and must not return itself. Two
 * functions, since the frame of one that called in between would be there as long as the context is. */
struct cr__arch_call {
    void *(*fn)(void *arg);
    void *arg;
};

struct cr__arch_life {
    struct cr__arch_call (*begin)(void *arg, void *value, uint64_t note);
    void (*end)(void *result);
};

/* Where a fresh context starts. In entry-ISA.S. */
void cr__arch_entry(void);

/* Where one goes on whose live bytes are not on its stack: calls the function whose address lies above this one's, and goes on at the stack pointer that it returns. */
void cr__arch_bring(void);

/* Makes a context on a stack that ends at top (16-byte aligned); returns its stack pointer. */
static inline void *cr__arch_prepare(char *top, const struct cr__arch_life *life, void *arg)
{
    void **words = (void **)(void *)(top - CR__ARCH_TOP_BYTES);
    words[0] = (void *)cr__arch_entry;
    words[1] = (void *)(uintptr_t)life;
    words[2] = arg;
    return words;
}

#endif
