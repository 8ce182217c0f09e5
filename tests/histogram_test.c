/* The histogram of crore swarm, against sorting all values. */
#include "histogram.h"

#include "test.h"

#define MANY 20000
#define ERROR 0.016

static struct histogram h;
static int64_t values[MANY];

static uint64_t random_next(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The value that a fraction of all are not above. */
static int64_t sorted_quantile(int count, double fraction)
{
    int rank = (int)(fraction * count + 0.999999);
    return values[(rank < 1 ? 1 : rank) - 1];
}

static void check_against_sorted(int count)
{
    static const double fractions[] = {0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1};
    histogram_reset(&h);
    int64_t sum = 0;
    for (int i = 0; i < count; i++) {
        histogram_add(&h, values[i]);
        sum += values[i];
    }
    qsort(values, (size_t)count, sizeof(values[0]), by_value);
    CHECK_EQ(h.count, count);
    CHECK_EQ(h.sum, sum);
    CHECK_EQ(h.max, values[count - 1]);
    for (size_t i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++) {
        int64_t exact = sorted_quantile(count, fractions[i]), got = histogram_quantile(&h, fractions[i]);
        if (got < exact || (double)(got - exact) > ERROR * (double)exact)
            printf("# at %f of %d: %lld, not %lld\n", fractions[i], count, (long long)got, (long long)exact);
        CHECK(got >= exact); /* never better than it was */
        CHECK((double)(got - exact) <= ERROR * (double)exact);
    }
    CHECK_EQ(histogram_quantile(&h, 1), h.max);
}

TEST(quantiles_are_those_of_the_sorted_values_to_1_6_percent_and_never_below)
{
    static const int counts[] = {1, 2, 3, 10, 99, 100, 101, 1000, MANY};
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        for (int i = 0; i < counts[c]; i++)
            values[i] = (int64_t)(random_next() % 1000000); /* evenly */
        check_against_sorted(counts[c]);
        for (int i = 0; i < counts[c]; i++)
            values[i] = (int64_t)(random_next() >> (20 + random_next() % 44)); /* over all magnitudes */
        check_against_sorted(counts[c]);
        for (int i = 0; i < counts[c]; i++)
            values[i] = i % 100 == 7 ? 1000000000 + i : 50000 + i; /* with a tail far away */
        check_against_sorted(counts[c]);
    }
}

TEST(each_value_is_known_to_1_6_percent_at_every_magnitude)
{
    for (int bit = 0; bit < 63; bit++) {
        for (int64_t near = -70; near <= 70; near++) {
            int64_t value = ((int64_t)1 << bit) + near * ((int64_t)1 << (bit > 8 ? bit - 8 : 0));
            if (value < 0)
                continue;
            histogram_reset(&h);
            histogram_add(&h, value);
            histogram_add(&h, INT64_MAX); /* else the maximum gives it away */
            int64_t got = histogram_quantile(&h, 0.5);
            CHECK(got >= value && (double)(got - value) <= ERROR * (double)value);
        }
    }
}

TEST(values_below_128_are_exact)
{
    for (int64_t value = 0; value < 128; value++) {
        histogram_reset(&h);
        histogram_add(&h, value);
        histogram_add(&h, 1000000);
        CHECK_EQ(histogram_quantile(&h, 0.5), value);
    }
}

TEST(extremes_have_their_buckets)
{
    histogram_reset(&h);
    CHECK_EQ(histogram_quantile(&h, 0.5), 0);
    CHECK_EQ(histogram_quantile(&h, 1), 0);
    histogram_add(&h, -5); /* counts as 0 */
    CHECK_EQ(h.sum, 0);
    CHECK_EQ(histogram_quantile(&h, 1), 0);
    histogram_add(&h, INT64_MAX);
    CHECK_EQ(h.count, 2);
    CHECK_EQ(histogram_quantile(&h, 0.5), 0);
    CHECK_EQ(histogram_quantile(&h, 1), INT64_MAX);
    histogram_reset(&h);
    CHECK_EQ(h.count, 0);
    CHECK_EQ(histogram_quantile(&h, 1), 0);
}

TEST(a_single_slow_one_in_a_thousand_shows_beyond_that_fraction_only)
{
    histogram_reset(&h);
    for (int i = 0; i < 999; i++)
        histogram_add(&h, 100);
    histogram_add(&h, 1000000);
    CHECK_EQ(histogram_quantile(&h, 0.999), 100);
    CHECK_EQ(histogram_quantile(&h, 0.9991), 1000000);
}
