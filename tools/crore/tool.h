/* What the subcommands of `crore` share: options with units, limits, and one clear line when something is wrong. */
#ifndef CRORE_TOOL_H
#define CRORE_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

int serve_main(int argc, char **argv);
int swarm_main(int argc, char **argv);
int demo_main(int argc, char **argv);
int net_main(int argc, char **argv);
int lookup_main(int argc, char **argv);

/* Prints "crore: ..." to standard error and exits with status 2: the caller's input makes no sense. */
__attribute__((noreturn, format(printf, 1, 2))) void tool_fail(const char *format, ...);

/* A count between least and most: "12", "10k" is 10,000, also M and G; fails with the option's name. */
int64_t tool_number(const char *option, const char *text, int64_t least, int64_t most);

/* The same in bytes: "64k" is 65,536, also M and G. */
int64_t tool_size(const char *option, const char *text, int64_t least, int64_t most);

/* "500ms", "10s", "2m", a bare number is seconds; in nanoseconds, at most a day. */
int64_t tool_duration(const char *option, const char *text);

/* Raises the soft limit on open files to the hard one, and the hard one to `wanted` where that is more and may be done. Returns how many
 * may be open. */
int64_t tool_raise_open_files(int64_t wanted);

/* Where --json's figures go: "-" is standard output; NULL: nowhere. Fails if it can't be opened. */
FILE *tool_open_json(const char *path);

/* Runs on that processor only. */
void tool_pin(int64_t cpu);

#endif
