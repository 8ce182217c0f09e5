/* Latencies in log-linear buckets: 64 to each power of two, so a value is known to 1.6 %; constant memory, O(1) to add. (Debian
 * packages HdrHistogram for Java and Go, not for C.) */
#ifndef CRORE_HISTOGRAM_H
#define CRORE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 6
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    uint64_t count;
    int64_t max, sum;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_reset(struct histogram *h);

/* Negative values count as 0. */
void histogram_add(struct histogram *h, int64_t value);

/* Adds all values of another one. */
void histogram_merge(struct histogram *h, const struct histogram *other);

/* The value that a fraction (0 to 1) of all are not above, as its bucket's upper end, never above the maximum; 0 when empty. */
int64_t histogram_quantile(const struct histogram *h, double fraction);

#endif
