/* The census of stacks: what the coroutines of each place that spawns some take of theirs, and which kind and size would do. Wanted by the environment (CR_STACK_CENSUS=1); without it
 * nothing here is called: what looks hangs on CR__CO_CHECKED, and on worker->census at a spawn.
 *
 * How deep. A fresh stack reads as zeroes. Each time a coroutine has stopped, and when it has ended, the worker's loop looks below its stack pointer for what does not, and zeroes it again: so
 * what is found is its own since it last stopped, also on a shared stack. Nothing has to be painted, and what was never touched costs no memory. Not seen: zeroes below the deepest word that
 * is none, of which there are few, since a return address is none; and what lies beyond 64 KiB of zeroes.
 *
 * How much is live: from its stack pointer to the top, when it has parked (not when it has yielded).
 *
 * During a census each coroutine that stops goes to the loop, so that what the runtime does between two turns is not taken for theirs; and nothing is frozen, since what is below a frozen
 * one's live bytes is lost.
 *
 * Sites are kept under one lock, which nobody holds across a switch. Memory is bounded: what comes from more than CR__CENSUS_SITES places is counted only. */
#ifndef CR__CENSUS_H
#define CR__CENSUS_H

#include "sched/sched.h"

#define CR__CENSUS_SITES 512
#define CR__CENSUS_FEW_BYTES ((uint64_t)16 << 20)
#define CR__CENSUS_COPY_BYTES 2048u

/* At a runtime's start, if the census is wanted; at its end: writes it to the runtime's report_fd. 0 or -ENOMEM. Where there can't be one it says so, once. */
int cr__census_open(struct cr__sched *sched);
void cr__census_close(struct cr__sched *sched);

/* A coroutine has been spawned, from w->spawned_from, and can't run yet. */
CR__COLD void cr__census_spawned(struct cr__worker *w, struct cr_co *co);

/* It has got its stack, on which nobody is yet. */
CR__COLD void cr__census_started(const struct cr_co *co);

/* By the loop: co has switched to it, and has parked, or only yielded. One has ended, on w->ended_stack: that has been put back, but nobody has been given it since. */
CR__COLD void cr__census_stopped(struct cr__worker *w, const struct cr_co *co, bool parked);
CR__COLD void cr__census_ended(struct cr__worker *w);

/* What it would recommend for coroutines that go so deep, have so much live when they are parked (median), and of which so many are there at once. */
struct cr__census_advice {
    enum cr_stack_kind kind;
    uint32_t size_bytes; /* CR__PACKED_BYTES: a packed one */
};
struct cr__census_advice cr__census_advise(uint32_t deepest_bytes, uint32_t live_bytes, uint64_t at_once);

#endif
