/* What people are told: reports line by line, and names for code addresses. Nothing here suspends or locks;
 * cr__symbol_* may take long, and is for reports only. */
#ifndef CR__OBS_H
#define CR__OBS_H

#include "base/base.h"

/* Writes a formatted text to fd in one write; cut at 1,023 bytes. */
void cr__report(int fd, const char *format, ...) CR__PRINTF(2, 3);

/* A report of several lines that leaves in one write, so that no other thread's comes between: as long as a pipe takes whole; the rest is cut off. In signal handlers, too. `used` is 0 at
 * first. */
struct cr__lines {
    unsigned used;
    char text[4096];
};
void cr__lines_put(struct cr__lines *lines, const char *format, ...) CR__PRINTF(2, 3);
void cr__lines_write(const struct cr__lines *lines, int fd);

/* The function that holds addr, as "name+0x12", or "0x..." when unknown. Returns buf. */
const char *cr__symbol_at(const void *addr, char *buf, size_t size_bytes);

/* The function that starts at addr, as "name". */
const char *cr__symbol_of(const void *entry, char *buf, size_t size_bytes);

/* A backtrace, a line per frame, of the context in a signal handler's ucontext. */
void cr__lines_backtrace(struct cr__lines *lines, void *ucontext, unsigned max_frames);

/* Where a parked context goes on, and its callers', innermost first (unwind.c). sp: as it was saved by a switch; top: the end of its stack. offsets[i]: at
 * top - offsets[i] lies the address that led to pcs[i]. By whoever keeps the context from being resumed. Returns how many, up to `most`; 0: not known here. */
unsigned cr__unwind_parked(void *sp, const char *top, void **pcs, uint32_t *offsets, unsigned most);

/* Whether another context has the same addresses at the same places. A stack of which that is true has the same backtrace. */
bool cr__unwind_same(void *sp, const char *top, void *const *pcs, const uint32_t *offsets, unsigned count);

/* Sets libunwind up, once: before cr__unwind_interrupted, and on whichever thread comes first. */
void cr__unwind_prepare(void);

/* Of the context in a signal handler's ucontext. Async-signal-safe as far as libunwind is: allocates nothing, but may wait for the dynamic loader. */
unsigned cr__unwind_interrupted(void *ucontext, void **pcs, unsigned most);

#endif
