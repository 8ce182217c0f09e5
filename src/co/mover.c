/* The mover's stack, on which live bytes of stacks are moved. co.h tells how a switch gets here.
 *
 * A stack of its own is needed since those bytes may belong where the one that is left still stands. It holds one call at a time, and nothing between two. */
#include "co/co.h"

#include "mem/mem.h"
#include "os/os.h"

#define MOVER_BYTES ((size_t)32 << 10)
#define GUARD_BYTES ((size_t)4096)

void *cr__mover_here(void)
{
    struct cr__self *self = cr__self_here();
    if (self->mover)
        return self->mover;
    char *low = cr__mem_map(GUARD_BYTES + MOVER_BYTES, CR__MEM_STACKS);
    if (!low)
        return NULL;
    cr__mem_protect(low, GUARD_BYTES, PROT_NONE); /* a help when something here is wrong; without it all works */
    void **top = (void **)(void *)(low + GUARD_BYTES + MOVER_BYTES - 16);
    top[0] = (void *)cr__arch_bring;
    top[1] = (void *)cr__co_bring;
    return self->mover = top;
}

void cr__mover_free(void *mover)
{
    if (mover)
        cr__mem_unmap((char *)mover + 16 - MOVER_BYTES - GUARD_BYTES, GUARD_BYTES + MOVER_BYTES, CR__MEM_STACKS);
}
