/* What the benchmark programs share: clocks, the repetition of a batch, and the line that bench/run reads.
 *
 * Each program is called as PROGRAM CASE MILLISECONDS, and prints "CASE VALUE"; a case that measures two things
 * prints a second line. Where several workers are possible, the case ends with their number. A batch is run once to
 * warm up, then again and again for that time; the median of the batches is printed, so that what the machine does
 * besides disturbs little. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BENCH_BATCHES_MAX = 1001 };

static inline int64_t bench_clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static inline int64_t bench_now_ns(void)
{
    return bench_clock_ns(CLOCK_MONOTONIC);
}

static inline int64_t bench_cpu_ns(void)
{
    return bench_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* Marsaglia's xorshift: the same numbers in each run, and in each language. */
static inline uint64_t bench_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* What the process has: resident memory and page tables. */
static inline double bench_memory_bytes(void)
{
    long long kib, sum = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmRSS: %lld", &kib) == 1 || sscanf(line, "VmPTE: %lld", &kib) == 1)
            sum += kib;
    }
    if (file)
        fclose(file);
    return (double)sum * 1024;
}

/* Ends the program: a benchmark whose calls fail has nothing to say. */
static inline void bench_need(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static inline int bench_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints nanoseconds per operation of a batch that does that many. */
static inline void bench_batches(const char *name, int milliseconds, void (*batch)(void), double operations)
{
    static double took[BENCH_BATCHES_MAX];
    int count = 0;
    batch();
    int64_t end = bench_now_ns() + milliseconds * INT64_C(1000000);
    do {
        int64_t begin = bench_now_ns();
        batch();
        took[count++] = (double)(bench_now_ns() - begin);
    } while (bench_now_ns() < end && count < BENCH_BATCHES_MAX);
    qsort(took, (size_t)count, sizeof took[0], bench_by_value);
    printf("%s %.4f\n", name, took[count / 2] / operations);
}

/* How often each contender for one lock had it, and what they counted under it: prints nanoseconds per operation,
 * and NAME-share, the smallest share as a part of the fair one. */
static inline void bench_shares(const char *name, int64_t took_ns, const int64_t *shares, int count,
                                int64_t counted)
{
    int64_t least = shares[0], sum = 0;
    for (int i = 0; i < count; i++) {
        least = shares[i] < least ? shares[i] : least;
        sum += shares[i];
    }
    if (sum != counted) {
        fprintf(stderr, "%s: two held the lock at once\n", name);
        exit(1);
    }
    printf("%s %.4f\n", name, (double)took_ns / (double)sum);
    printf("%s-share %.4f\n", name, (double)least * count / (double)sum);
}

/* The number with which a case's name ends. */
static inline int bench_count(const char *name)
{
    const char *dash = strrchr(name, '-');
    return dash ? atoi(dash + 1) : 0;
}

struct bench_case {
    const char *name;
    void (*run)(const char *name, int milliseconds);
};

static inline int bench_main(int argc, char **argv, const struct bench_case *cases)
{
    for (; argc == 3 && cases->name; cases++) {
        if (strcmp(argv[1], cases->name) == 0) {
            cases->run(cases->name, atoi(argv[2]));
            return 0;
        }
    }
    fprintf(stderr, "usage: %s CASE MILLISECONDS\n", argv[0]);
    return 2;
}

#endif
