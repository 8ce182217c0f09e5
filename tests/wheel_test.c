/* The timer wheel against a plain model: nothing early, nothing late, nothing lost. */
#include "sched/wheel.h"
#include "test.h"

#define TICK ((int64_t)1 << CR__TICK_SHIFT)

struct probe {
    struct cr__timer timer;
    int64_t deadline;
    int fired;
};

static int64_t now;
static int fired_total;

static void on_fire(struct cr__timer *timer, void *arg)
{
    struct probe *probe = CR__CONTAINER(timer, struct probe, timer);
    (void)arg;
    CHECK(probe->deadline <= now);
    CHECK(now < probe->deadline + 3 * TICK || probe->deadline < 0);
    probe->fired++;
    fired_total++;
}

static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

TEST(timers_fire_once_never_early_and_within_a_tick)
{
    enum { MANY = 20000 };
    static struct probe probes[MANY];
    struct cr__wheel wheel;
    now = 123456789012345;
    cr__wheel_init(&wheel, now);
    for (int i = 0; i < MANY; i++) {
        unsigned bits = next_random() % 36; /* from nanoseconds to a minute */
        probes[i].deadline = now + (int64_t)(next_random() & (((uint64_t)1 << bits) - 1));
        cr__wheel_arm(&wheel, &probes[i].timer, probes[i].deadline);
    }
    while (wheel.armed) {
        int64_t wait = cr__wheel_next(&wheel, now);
        CHECK(wait >= 0);
        now += wait > 0 ? wait : TICK / 3;
        cr__wheel_fire(&wheel, now, on_fire, NULL);
    }
    CHECK_EQ(fired_total, MANY);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(probes[i].fired, 1);
    CHECK_EQ(cr__wheel_next(&wheel, now), -1);
}

TEST(a_cancelled_timer_does_not_fire)
{
    enum { MANY = 5000 };
    static struct probe probes[MANY];
    struct cr__wheel wheel;
    now = 0;
    cr__wheel_init(&wheel, now);
    for (int i = 0; i < MANY; i++) {
        probes[i].deadline = (int64_t)(next_random() % (uint64_t)2000000000);
        cr__wheel_arm(&wheel, &probes[i].timer, probes[i].deadline);
    }
    for (int i = 0; i < MANY; i += 2)
        cr__wheel_cancel(&wheel, &probes[i].timer);
    for (now = 0; wheel.armed; now += TICK)
        cr__wheel_fire(&wheel, now, on_fire, NULL);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(probes[i].fired, i % 2);
}

TEST(deadlines_long_past_and_far_ahead_work)
{
    struct probe past = {.deadline = -5}, far = {.deadline = INT64_MAX - 1};
    struct cr__wheel wheel;
    now = 1000 * TICK;
    cr__wheel_init(&wheel, now);
    cr__wheel_arm(&wheel, &past.timer, past.deadline);
    cr__wheel_arm(&wheel, &far.timer, far.deadline);
    now += 2 * TICK;
    cr__wheel_fire(&wheel, now, on_fire, NULL);
    CHECK_EQ(past.fired, 1);
    CHECK_EQ(far.fired, 0);
    CHECK(cr__wheel_next(&wheel, now) > 0);
    cr__wheel_cancel(&wheel, &far.timer);
    CHECK_EQ(cr__wheel_next(&wheel, now), -1);
}

static struct cr__wheel *rearm_wheel;

static void rearm(struct cr__timer *timer, void *arg)
{
    struct probe *probe = CR__CONTAINER(timer, struct probe, timer);
    (void)arg;
    if (++probe->fired < 100) {
        probe->deadline = now + TICK / 2;
        cr__wheel_arm(rearm_wheel, timer, probe->deadline);
    }
}

TEST(firing_may_arm_again)
{
    struct cr__wheel wheel;
    struct probe probe = {.deadline = 10};
    rearm_wheel = &wheel;
    now = 0;
    cr__wheel_init(&wheel, now);
    cr__wheel_arm(&wheel, &probe.timer, probe.deadline);
    for (; wheel.armed; now += TICK)
        cr__wheel_fire(&wheel, now, rearm, NULL);
    CHECK_EQ(probe.fired, 100);
    CHECK(now < 210 * TICK);
}

TEST(long_idle_times_are_skipped_in_few_steps)
{
    struct cr__wheel wheel;
    struct probe probe = {.deadline = (int64_t)3600 * 1000000000};
    now = 12345;
    cr__wheel_init(&wheel, now);
    cr__wheel_arm(&wheel, &probe.timer, probe.deadline);
    int steps = 0;
    while (wheel.armed) {
        now += cr__wheel_next(&wheel, now);
        cr__wheel_fire(&wheel, now, on_fire, NULL);
        steps++;
    }
    CHECK(steps <= 10);
}
