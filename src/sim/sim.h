/* The simulation: a runtime whose every choice follows from a seed. This is its first room: time, random numbers, and the order of what is ready. Nothing includes this door but
 * the room itself and its tests; others are reached by what they declare: cr__os_world (os), cr__fate (sched), cr__stack_last_words (stack). */
#ifndef CR__SIM_H
#define CR__SIM_H

#include "base/base.h"

/* Where the virtual clock begins with each run: the same for all, so that what is rounded is rounded alike. */
#define CR__SIM_EPOCH_NS (3600ll * 1000000000)

/* A stream of draws. Each purpose has its own, so that a program that asks for one more random number has not another order, too. */
struct cr__draws {
    uint64_t state;
};

uint64_t cr__draw(struct cr__draws *draws);

/* ---- What is told (trace.c) ---------------------------------------------------------------------------------- */

struct cr__trace {
    uint64_t hash;
    int fd;          /* of the file that CR_SIM_TRACE names; -1: none */
    size_t used;
    char text[8192];
};

int cr__trace_open(struct cr__trace *trace, uint64_t seed, int report_fd);
void cr__trace_turn(struct cr__trace *trace, int64_t now_ns, uint32_t id, void *begins); /* begins: its function, if it is its first turn */
void cr__trace_pass(struct cr__trace *trace, int64_t now_ns, int64_t until_ns);
void cr__trace_flush(struct cr__trace *trace); /* from a signal handler, too */
void cr__trace_close(struct cr__trace *trace, int result);

/* ---- The seed, when a run ends badly (words.c) ------------------------------------------------------------------ */

/* Until _leave: how to repeat the run is told, once, if a signal of a broken program ends it, or if it exits with anything but 0. */
void cr__words_enter(uint64_t seed, int report_fd, struct cr__trace *trace);
void cr__words_leave(int result); /* of the run: tells it, if that is negative */

#endif
