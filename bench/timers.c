/* Timers: the wheel's own operations, and coroutines that do nothing but sleep.
 *
 * The wheel is driven by a clock of the program's own. With N timers armed, deadlines lie within the next N
 * microseconds, so that a thousand and a million expire at the same rate and only what must be kept differs.
 *
 * Sleepers: each of N coroutines wakes once in a round of 5 N microseconds, at a point of its own. What counts is
 * the processor time of a sleep, kernel included, once every coroutine has slept before: the first round, in which
 * also those come in step that slept while others were spawned, does not count. With a million, the nanoseconds of
 * one sleep are also the milliseconds that all of them take for one. The price of precision is in it: Go 1.19 waits
 * in whole milliseconds and wakes late for many at once, where ours wakes for each tick of 16 µs. */
#include <crore/crore.h>
#include "sched/wheel.h"
#include "bench.h"

enum { OPERATIONS = 200000, SLEEP_SHARE_NS = 5000, LOOK_NS = 10000000 };

/* The wheel. */
static struct cr__wheel wheel;
static struct cr__timer *timers;
static uint64_t timer_count;
static int64_t wheel_now;
static int fired;

static void arm_ahead(struct cr__timer *timer)
{
    cr__wheel_arm(&wheel, timer, wheel_now + (int64_t)(bench_random() % (timer_count * 1000)));
}

static void arm_again(struct cr__timer *timer, void *unused)
{
    (void)unused;
    fired++;
    arm_ahead(timer);
}

static void fire_and_arm(void)
{
    for (fired = 0; fired < OPERATIONS;) {
        wheel_now += cr__wheel_next(&wheel, wheel_now);
        cr__wheel_fire(&wheel, wheel_now, arm_again, NULL);
    }
}

static void cancel_and_arm(void)
{
    for (int i = 0; i < OPERATIONS; i++) {
        struct cr__timer *timer = &timers[bench_random() % timer_count];
        cr__wheel_cancel(&wheel, timer);
        arm_ahead(timer);
    }
}

static void run_wheel(const char *name, int milliseconds, void (*batch)(void), uint64_t count)
{
    timer_count = count;
    bench_need((timers = calloc(count, sizeof *timers)) != NULL, "calloc");
    cr__wheel_init(&wheel, wheel_now);
    for (uint64_t i = 0; i < count; i++)
        arm_ahead(&timers[i]);
    bench_batches(name, milliseconds, batch, OPERATIONS);
}

static void run_fire_1000(const char *name, int milliseconds)
{
    run_wheel(name, milliseconds, fire_and_arm, 1000);
}

static void run_fire_1000000(const char *name, int milliseconds)
{
    run_wheel(name, milliseconds, fire_and_arm, 1000000);
}

static void run_cancel_1000(const char *name, int milliseconds)
{
    run_wheel(name, milliseconds, cancel_and_arm, 1000);
}

static void run_cancel_1000000(const char *name, int milliseconds)
{
    run_wheel(name, milliseconds, cancel_and_arm, 1000000);
}

/* Sleepers. */
struct sleepers {
    const char *name;
    int milliseconds;
    int64_t count, round_ns;
    int64_t waiting;  /* have started, and wait for begin_ns to be told */
    int64_t begin_ns; /* of the first round; 0: not yet told */
    int64_t sleeps;
    int over;
};

static struct sleepers s;

static void sleep_on(void *arg)
{
    int64_t share_ns = (intptr_t)arg * SLEEP_SHARE_NS;
    s.waiting++;
    while (s.begin_ns == 0)
        cr_sleep(s.round_ns);
    for (int64_t round_ns = s.begin_ns; !s.over; round_ns += s.round_ns) {
        cr_sleep_until(round_ns + share_ns);
        s.sleeps++;
    }
}

static void measure_sleepers(void *unused)
{
    (void)unused;
    struct cr_attr attr = {.stack_size_bytes = 4096, .flags = CR_FPU_SHARED};
    for (intptr_t i = 0; i < s.count; i++)
        bench_need(cr_spawn(NULL, sleep_on, (void *)i, &attr) == 0, "cr_spawn");
    while (s.waiting < s.count)
        cr_sleep(LOOK_NS);
    s.begin_ns = cr_now();
    int64_t measured_ns = s.begin_ns + s.round_ns;
    int64_t rounds = 1 + (s.milliseconds * CR_MS - 1) / s.round_ns;
    cr_sleep_until(measured_ns);
    int64_t cpu_ns = bench_cpu_ns(), sleeps = s.sleeps;
    cr_sleep_until(measured_ns + rounds * s.round_ns);
    cpu_ns = bench_cpu_ns() - cpu_ns;
    sleeps = s.sleeps - sleeps;
    printf("%s %.4f\n", s.name, (double)cpu_ns / (double)sleeps);
    s.over = 1;
}

static void run_sleepers(const char *name, int milliseconds, int64_t count)
{
    struct cr_config config = {.workers = 1};
    s = (struct sleepers){
        .name = name, .milliseconds = milliseconds, .count = count, .round_ns = count * SLEEP_SHARE_NS};
    bench_need(cr_run(measure_sleepers, NULL, &config) == 0, "cr_run");
}

static void run_sleepers_1000(const char *name, int milliseconds)
{
    run_sleepers(name, milliseconds, 1000);
}

static void run_sleepers_100000(const char *name, int milliseconds)
{
    run_sleepers(name, milliseconds, 100000);
}

static void run_sleepers_1000000(const char *name, int milliseconds)
{
    run_sleepers(name, milliseconds, 1000000);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"fire-1000", run_fire_1000},
                                              {"fire-1000000", run_fire_1000000},
                                              {"cancel-1000", run_cancel_1000},
                                              {"cancel-1000000", run_cancel_1000000},
                                              {"sleepers-1000", run_sleepers_1000},
                                              {"sleepers-100000", run_sleepers_100000},
                                              {"sleepers-1000000", run_sleepers_1000000},
                                              {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
