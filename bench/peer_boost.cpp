/* Peers: Boost.Context's fcontext for bare switches, Boost.Fiber for scheduled ones. */
#include <boost/context/detail/fcontext.hpp>
#include <boost/fiber/all.hpp>
#include <memory>
#include <vector>
#include "bench.h"

namespace context = boost::context::detail;
namespace fibers = boost::fibers;

enum { ROUNDS = 1000000, FIBERS = 1000, YIELDS = 200, SPAWNS = 20000, ROUND_TRIPS = 20000, STACK_BYTES = 65536 };

static context::fcontext_t other;

static void jump_forever(context::transfer_t from)
{
    for (;;)
        from = context::jump_fcontext(from.fctx, nullptr);
}

static void jump_all_rounds()
{
    context::fcontext_t to = other;
    for (int i = 0; i < ROUNDS; i++)
        to = context::jump_fcontext(to, nullptr).fctx;
    other = to;
}

static void run_switch(const char *name, int milliseconds)
{
    static char stack[STACK_BYTES] __attribute__((aligned(16)));
    other = context::make_fcontext(stack + sizeof stack, sizeof stack, jump_forever);
    bench_batches(name, milliseconds, jump_all_rounds, 2.0 * ROUNDS);
}

static void yields()
{
    static fibers::pooled_fixedsize_stack stacks(STACK_BYTES);
    std::vector<fibers::fiber> all;
    all.reserve(FIBERS);
    for (int i = 0; i < FIBERS; i++) {
        all.emplace_back(std::allocator_arg, stacks, [] {
            for (int k = 0; k < YIELDS; k++)
                boost::this_fiber::yield();
        });
    }
    for (auto &fiber : all)
        fiber.join();
}

static void run_yield(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, yields, (double)FIBERS * YIELDS);
}

static void spawn_one_at_a_time()
{
    static fibers::pooled_fixedsize_stack stacks(STACK_BYTES);
    for (int i = 0; i < SPAWNS; i++)
        fibers::fiber(std::allocator_arg, stacks, [] {}).join();
}

static void run_one(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, spawn_one_at_a_time, SPAWNS);
}

static int running;

static void spawn_in_batches()
{
    static fibers::pooled_fixedsize_stack stacks(STACK_BYTES);
    for (int i = 0; i < SPAWNS; i += FIBERS) {
        for (running = 0; running < FIBERS; running++)
            fibers::fiber(std::allocator_arg, stacks, [] { running--; }).detach();
        while (running > 0)
            boost::this_fiber::yield();
    }
}

static void run_batch(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, spawn_in_batches, SPAWNS);
}

static void ping_pong()
{
    fibers::unbuffered_channel<int> ping, pong;
    fibers::fiber answering([&] {
        for (int value : ping)
            pong.push(value);
    });
    for (int i = 0; i < ROUND_TRIPS; i++) {
        ping.push(i);
        if (pong.value_pop() != i)
            abort();
    }
    ping.close();
    answering.join();
}

static void run_channel(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, ping_pong, 2.0 * ROUND_TRIPS);
}

/* Parked at a condition, with 200 bytes of live locals. */
enum { LOCALS_BYTES = 200, PARKED_STACK_BYTES = 16384 };

static void run_parked(const char *name, int)
{
    static fibers::pooled_fixedsize_stack stacks(PARKED_STACK_BYTES, 1024, 65536);
    static fibers::mutex lock;
    static fibers::condition_variable never;
    static int parked;
    int count = bench_count(name);
    double before = bench_memory_bytes();
    for (int i = 0; i < count; i++) {
        fibers::fiber(std::allocator_arg, stacks, [i] {
            char locals[LOCALS_BYTES];
            memset(locals, i, sizeof locals);
            std::unique_lock<fibers::mutex> held(lock);
            parked++;
            __asm__ volatile("" : : "r"(locals) : "memory");
            never.wait(held);
            __asm__ volatile("" : : "r"(locals) : "memory");
        }).detach();
        if (i % FIBERS == 0)
            boost::this_fiber::yield();
    }
    while (parked < count)
        boost::this_fiber::yield();
    printf("%s %.4f\n", name, (bench_memory_bytes() - before) / count);
    fflush(stdout);
    _Exit(0);
}

int main(int argc, char **argv)
{
    static const bench_case cases[] = {{"switch", run_switch},     {"yield", run_yield},
                                       {"spawn-one", run_one},     {"spawn-batch", run_batch},
                                       {"channel-1", run_channel}, {"parked-100000", run_parked}, {"parked-1000000", run_parked}, {nullptr, nullptr}};
    return bench_main(argc, argv, cases);
}
