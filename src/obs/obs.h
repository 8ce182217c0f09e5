/* What people are told: reports line by line, and names for code addresses. Nothing here suspends or locks;
 * cr__symbol_* may take long, and is for reports only. */
#ifndef CR__OBS_H
#define CR__OBS_H

#include "base/base.h"

/* Writes a formatted text to fd in one write; cut at 1,023 bytes. */
void cr__report(int fd, const char *format, ...) CR__PRINTF(2, 3);

/* The function that holds addr, as "name+0x12", or "0x..." when unknown. Returns buf. */
const char *cr__symbol_at(const void *addr, char *buf, size_t size_bytes);

/* The function that starts at addr, as "name". */
const char *cr__symbol_of(const void *entry, char *buf, size_t size_bytes);

/* Writes a backtrace, a line per frame, of the context in a signal handler's ucontext. */
void cr__backtrace_report(int fd, void *ucontext, unsigned max_frames);

#endif
