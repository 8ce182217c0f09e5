/* For tests of the kinds of stack: what lies on a stack, and is looked for again; configurations; what is frozen. */
#ifndef STACKS_H
#define STACKS_H

#include <crore/crore.h>

#include "mem/mem.h"
#include "sched/sched.h"
#include "test.h"

/* First thing in a test that must see stacks frozen. */
static inline void needs_freezing(void)
{
    const char *why;
    if (!cr__virtual_freezes(&why))
        SKIP(why);
}

static const struct cr_attr on_virtual = {.stack = CR_STACK_VIRTUAL}, on_shared = {.stack = CR_STACK_SHARED};
static const struct cr_config at_once = {.workers = 1, .stack = CR_STACK_STATIC, .freeze_after_ns = 1},
                              at_once_on_three = {.workers = 3, .stack = CR_STACK_STATIC, .freeze_after_ns = 1},
                              one_shared = {.workers = 1, .stack = CR_STACK_STATIC, .shared_stacks = 1};

static inline struct cr_mem_stats counts_now(void)
{
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    return stats;
}

static inline void wait_until_frozen(uint64_t so_many)
{
    while (counts_now().frozen < so_many)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static inline uint64_t stack_waits(void)
{
    struct cr_stats stats;
    CHECK_EQ(cr_stats_get(&stats), 0);
    return stats.stack_waits;
}

static inline unsigned char byte_of(size_t i, unsigned seed)
{
    return (unsigned char)(i * 7 + i / 251 + seed);
}

static inline void fill(unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_of(i, seed);
}

static inline void check_filled(const unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(bytes[i], byte_of(i, seed));
}

/* Runs fn with a copy of config, over io_uring. */
static inline void run_over_uring(void (*fn)(void *), struct cr_config config)
{
    if (test_uring_refused())
        SKIP("io_uring is refused here");
    config.poller = CR_POLLER_URING;
    CHECK_EQ(cr_run(fn, NULL, &config), 0);
}

/* First thing in a test for which there must be shared stacks. */
#ifdef CR__ASAN
#define NEEDS_SHARED() SKIP("AddressSanitizer's builds have static stacks instead")
#else
#define NEEDS_SHARED() ((void)0)
#endif

#endif
