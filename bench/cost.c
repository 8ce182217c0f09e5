/* What the design rests on: the prices of the machine and its kernel that a switch in user space saves. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

enum { CALLS = 100000, PAGES = 4096, PAGE_BYTES = 4096, HANDOVERS = 2000 };

static void system_calls(void)
{
    for (int i = 0; i < CALLS; i++)
        syscall(SYS_getppid);
}

static void run_syscall(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, system_calls, CALLS);
}

static int epoll_fd;

static void empty_waits(void)
{
    struct epoll_event event;
    for (int i = 0; i < CALLS; i++)
        epoll_wait(epoll_fd, &event, 1, 0);
}

static void run_epoll_wait(const char *name, int milliseconds)
{
    bench_need((epoll_fd = epoll_create1(0)) >= 0, "epoll_create1");
    bench_batches(name, milliseconds, empty_waits, CALLS);
}

enum { ADDITIONS = 3000000 };

/* In six chains of their own, so that only the core's width bounds them: with a neighbour on the core's other thread, as virtual machines have them, they take up to twice as long, and so does whatever else keeps the core busy. */
static void additions(void)
{
    unsigned long a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
    for (int i = 0; i < ADDITIONS; i += 6) {
        a += 3, b += 5, c += 7, d += 9, e += 11, f += 13;
        __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
    }
}

static void run_additions(const char *name, int milliseconds)
{
    bench_batches(name, milliseconds, additions, ADDITIONS);
}

/* First touches of fresh pages; mapping and unmapping them is outside the time. */
static void run_page_fault(const char *name, int milliseconds)
{
    size_t bytes = (size_t)PAGES * PAGE_BYTES;
    int64_t took = 0, touched = 0;
    while (took < milliseconds * INT64_C(1000000)) {
        char *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        bench_need(pages != MAP_FAILED, "mmap");
        madvise(pages, bytes, MADV_NOHUGEPAGE);
        int64_t begin = bench_now_ns();
        for (size_t i = 0; i < PAGES; i++)
            ((volatile char *)pages)[i * PAGE_BYTES] = 1;
        took += bench_now_ns() - begin;
        touched += PAGES;
        munmap(pages, bytes);
    }
    printf("%s %.4f\n", name, (double)took / (double)touched);
}

/* Two threads that hand a turn to and fro; each sleeps in the kernel until it is its own. */
static _Atomic uint32_t turn;

static void wait_for_turn(uint32_t mine)
{
    uint32_t now;
    while ((now = atomic_load_explicit(&turn, memory_order_acquire)) !=
           mine) /* pairs with the release in give_turn */
        syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

static void give_turn(uint32_t to)
{
    atomic_store_explicit(&turn, to, memory_order_release); /* pairs with the acquire in wait_for_turn */
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    bench_need(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

static void *answer(void *cpu)
{
    pin(*(int *)cpu);
    for (;;) {
        wait_for_turn(1);
        give_turn(0);
    }
    return NULL;
}

static void hand_overs(void)
{
    for (int i = 0; i < HANDOVERS; i += 2) {
        give_turn(1);
        wait_for_turn(0);
    }
}

static void run_futex(const char *name, int milliseconds, int other_cpu)
{
    static int cpu;
    pthread_t thread;
    cpu = other_cpu;
    pin(0);
    bench_need(pthread_create(&thread, NULL, answer, &cpu) == 0, "pthread_create");
    bench_batches(name, milliseconds, hand_overs, HANDOVERS);
}

static void run_futex_one_core(const char *name, int milliseconds)
{
    run_futex(name, milliseconds, 0);
}

static void run_futex_two_cores(const char *name, int milliseconds)
{
    run_futex(name, milliseconds, 1);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"syscall", run_syscall},
                                              {"additions", run_additions},
                                              {"futex-one-core", run_futex_one_core},
                                              {"futex-two-cores", run_futex_two_cores},
                                              {"page-fault", run_page_fault},
                                              {"epoll-wait", run_epoll_wait},
                                              {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
