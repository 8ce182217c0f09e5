/* A runtime under a seed: its clock, its random numbers, and what the scheduler draws.
 *
 * The clock stands still but for three reasons. It is looked at, or a coroutine gets its turn, on the runtime's own thread: that takes some 100 to 2000 ns, drawn, so a loop that
 * waits for a deadline sees it come, and no two runs by different seeds have the same times. And when nothing is ready, it jumps to what is due next.
 * Other threads read it, and do not move it.
 *
 * One at a time in a process, since the clock is the process's. All here is written by the thread that runs the worker.
 *
 * Invariants:
 *   1. What is drawn, and when, follows from the seed and from what the program does: no address, no kernel's number and no kernel's time gets into it.
 *   2. cr__os_world is set from open to close, and not in a child of fork.
 *
 * Rejected: time that passes as the kernel's does, by some factor (no two runs would be alike); a step of the same length always (what races with a deadline would always end
 * the same way). */
#include "sim/sim.h"

#include <pthread.h>
#include <string.h>

#include "os/os.h"
#include "sched/sched.h"

#define LEAST_STEP_NS 100
#define MOST_STEP_NS 2000

static struct {
    _Atomic int64_t now_ns;
    struct cr__sched *_Atomic sched; /* whose runtime it is: its worker is the one that moves time */
    struct cr__draws order, steps, bytes;
    struct cr__trace trace;
} sim;

/* ---- Draws ---------------------------------------------------------------------------------------------------- */

/* Steele, Lea and Flood 2014: SplitMix64. */
uint64_t cr__draw(struct cr__draws *draws)
{
    uint64_t z = draws->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint32_t draw_below(struct cr__draws *draws, uint32_t n)
{
    return (uint32_t)((cr__draw(draws) >> 32) * n >> 32); /* Lemire 2019, without his rejection: the bias is below n / 2^32 */
}

static uint32_t below(uint32_t n)
{
    return draw_below(&sim.order, n);
}

/* ---- The clock -------------------------------------------------------------------------------------------------- */

static int64_t now(void)
{
    return atomic_load_explicit(&sim.now_ns, memory_order_relaxed);
}

static void move_to(int64_t now_ns)
{
    atomic_store_explicit(&sim.now_ns, now_ns, memory_order_relaxed);
}

static int64_t step(void)
{
    int64_t now_ns = now() + LEAST_STEP_NS + draw_below(&sim.steps, MOST_STEP_NS - LEAST_STEP_NS);
    move_to(now_ns);
    return now_ns;
}

/* Whether the calling thread is the one that runs what is simulated. */
static bool is_inside(void)
{
    struct cr__worker *worker = cr__worker_here();
    return worker && worker->sched == atomic_load_explicit(&sim.sched, memory_order_relaxed);
}

static int64_t world_now(void)
{
    return is_inside() ? step() : now();
}

static int world_random(void *buf, size_t size_bytes)
{
    if (!is_inside())
        return cr__os_kernel_random(buf, size_bytes);
    for (size_t at = 0; at < size_bytes; at += sizeof(uint64_t)) {
        uint64_t drawn = cr__draw(&sim.bytes);
        memcpy((char *)buf + at, &drawn, size_bytes - at < sizeof(drawn) ? size_bytes - at : sizeof(drawn));
    }
    return (int)size_bytes;
}

static const struct cr__os_world world = {.now_ns = world_now, .random = world_random};

/* ---- What the scheduler tells ------------------------------------------------------------------------------------ */

static void turn(const struct cr__record *record)
{
    cr__trace_turn(&sim.trace, step(), record->co.id, cr__co_started(&record->co) ? NULL : (void *)record->co.entry);
}

static void pass(int64_t until_ns)
{
    int64_t now_ns = now();
    if (until_ns <= now_ns)
        return;
    cr__trace_pass(&sim.trace, now_ns, until_ns);
    move_to(until_ns);
}

static uint64_t trace(void)
{
    return sim.trace.hash;
}

/* ---- A run -------------------------------------------------------------------------------------------------------- */

/* It has no runtime, and its time is the kernel's. */
static void in_child(void)
{
    atomic_store_explicit(&cr__os_world, NULL, memory_order_relaxed);
}

static void care_for_children(void)
{
    (void)!pthread_atfork(NULL, NULL, in_child);
}

static int open_run(struct cr__sched *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct cr__draws seeds = {s->seed};
    int r = cr__trace_open(&sim.trace, s->seed, s->report_fd);
    if (r < 0)
        return r;
    pthread_once(&once, care_for_children);
    sim.order.state = cr__draw(&seeds);
    sim.steps.state = cr__draw(&seeds);
    sim.bytes.state = cr__draw(&seeds);
    move_to(CR__SIM_EPOCH_NS);
    atomic_store_explicit(&sim.sched, s, memory_order_relaxed);
    cr__words_enter(s->seed, s->report_fd, &sim.trace);
    atomic_store_explicit(&cr__os_world, &world, memory_order_relaxed);
    return 0;
}

static void close_run(struct cr__sched *s, int result)
{
    (void)s;
    atomic_store_explicit(&cr__os_world, NULL, memory_order_relaxed);
    atomic_store_explicit(&sim.sched, NULL, memory_order_relaxed);
    cr__words_leave(result);
    cr__trace_close(&sim.trace, result);
}

const struct cr__fate cr__fate = {.open = open_run, .close = close_run, .below = below, .turn = turn, .pass = pass, .trace = trace};
