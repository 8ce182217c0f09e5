/* What a call costs, as the number of instructions that it executes: the same on a busy machine as on an idle one, so that costs are compared without room for noise.
 *
 * The call is made in a child, one instruction at a time, in the way of debuggers. So what it changes is the child's, and each call finds things as they were for the one before it. */
#ifndef CR_TEST_INSTRUCTIONS_H
#define CR_TEST_INSTRUCTIONS_H

#include "test.h"

#include <sys/ptrace.h>

#define INSTRUCTIONS_MOST 1000000 /* what takes more is not to be counted, but to be mended */

/* The child stops by itself before fn and after it. */
__attribute__((noreturn)) static inline void instructions_child(void (*fn)(void *arg), void *arg)
{
    alarm(TEST_SECONDS);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(TEST_SKIPPED);
    raise(SIGSTOP);
    fn(arg);
    raise(SIGSTOP);
    _exit(0);
}

/* false: it did not, but before fn because it can't be traced, or behind fn. */
static inline bool instructions_stopped_by(pid_t child, int sig)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED)
        return false;
    CHECK(WIFSTOPPED(status));
    if (sig == SIGTRAP && WSTOPSIG(status) == SIGSTOP)
        return false;
    CHECK_EQ(WSTOPSIG(status), sig); /* nothing else is to happen to it */
    return true;
}

/* Skips the test where they can't be counted: where ptrace is refused, and under valgrind. */
static inline uint64_t test_instructions(void (*fn)(void *arg), void *arg)
{
    uint64_t count = 0;
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind's instructions are others");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        instructions_child(fn, arg);
    CHECK(child > 0);
    if (!instructions_stopped_by(child, SIGSTOP))
        SKIP("ptrace is refused here");
    do {
        CHECK(++count < INSTRUCTIONS_MOST);
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
    } while (instructions_stopped_by(child, SIGTRAP));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return count;
}

#endif
