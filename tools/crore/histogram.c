#include "histogram.h"

#include <string.h>

void histogram_reset(struct histogram *h)
{
    memset(h, 0, sizeof(*h));
}

/* Values below 2^7 have buckets of their own; above, the 6 bits behind the highest choose among 64. */
static unsigned bucket_of(uint64_t value)
{
    if (value < (2u << HISTOGRAM_SUB_BITS))
        return (unsigned)value;
    unsigned shift = 63 - HISTOGRAM_SUB_BITS - (unsigned)__builtin_clzll(value);
    return (shift << HISTOGRAM_SUB_BITS) + (unsigned)(value >> shift);
}

static int64_t upper_end(unsigned bucket)
{
    if (bucket < (2u << HISTOGRAM_SUB_BITS))
        return bucket;
    unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t low = ((uint64_t)(bucket & ((1u << HISTOGRAM_SUB_BITS) - 1)) | 1u << HISTOGRAM_SUB_BITS) << shift;
    return (int64_t)(low + ((uint64_t)1 << shift) - 1);
}

void histogram_add(struct histogram *h, int64_t value)
{
    if (value < 0)
        value = 0;
    h->count++;
    if (__builtin_add_overflow(h->sum, value, &h->sum))
        h->sum = INT64_MAX;
    if (value > h->max)
        h->max = value;
    h->buckets[bucket_of((uint64_t)value)]++;
}

void histogram_merge(struct histogram *h, const struct histogram *other)
{
    h->count += other->count;
    if (__builtin_add_overflow(h->sum, other->sum, &h->sum))
        h->sum = INT64_MAX;
    if (other->max > h->max)
        h->max = other->max;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        h->buckets[i] += other->buckets[i];
}

int64_t histogram_quantile(const struct histogram *h, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)h->count + 0.999999);
    uint64_t seen = 0;
    if (wanted < 1)
        wanted = 1;
    for (unsigned i = 0; h->count > 0 && i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= wanted)
            return upper_end(i) < h->max ? upper_end(i) : h->max;
    }
    return h->max;
}
