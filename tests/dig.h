/* A coroutine that digs its stack until there is none: runs off it, unless something is wrong with the guard. */
#ifndef CR_TEST_DIG_H
#define CR_TEST_DIG_H

static volatile long dug;

__attribute__((noinline)) static long dig(volatile int *depth)
{
    volatile char frame[512];
    frame[0] = (char)(*depth += 1);
    return *depth == 0 ? 0 : dig(depth) + frame[0];
}

static void *digger(void *unused)
{
    volatile int depth = 0;
    dug = dig(&depth);
    return unused;
}

#endif
