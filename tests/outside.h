/* What tests of threads, processes and blocking calls have in common. */
#ifndef CR_TEST_OUTSIDE_H
#define CR_TEST_OUTSIDE_H

#include <crore/crore.h>
#include <pthread.h>
#include <stdatomic.h>

#include "test.h"

static _Atomic long counter __attribute__((unused));

static const struct cr_config two __attribute__((unused)) = {.workers = 2};

static inline void nothing(void *unused)
{
    (void)unused;
}

static inline void check_nothing_leaked(const struct cr_mem_stats *before)
{
    struct cr_mem_stats after;
    cr_mem_stats_get(&after);
    CHECK_EQ(after.records_bytes, before->records_bytes);
    CHECK_EQ(after.stacks_bytes, before->stacks_bytes);
    CHECK_EQ(after.conns_bytes, before->conns_bytes);
    CHECK_EQ(after.buffers_bytes, before->buffers_bytes);
    CHECK_EQ(after.other_bytes, before->other_bytes);
}

/* What is made once per process is made. */
static inline void measure(struct cr_mem_stats *before)
{
    CHECK_EQ(cr_run(nothing, NULL, NULL), 0);
    cr_mem_stats_get(before);
}

static inline void counts(void *unused)
{
    (void)unused;
    atomic_fetch_add(&counter, 1);
}

static inline void sleeps_until_cancelled(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(100 * CR_SEC), -ECANCELED);
}

static inline sigset_t set_of(int signo)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signo);
    return set;
}

#endif
