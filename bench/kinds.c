/* What the kinds of stack cost: a switch by kind, moving live bytes, freezing, thawing.
 *
 * switch-KIND: from one bare coroutine to another and so on, each on its own stack; "shared" keeps its stack (nobody else needs it).
 * copy-BYTES: two bare coroutines in turns on one shared stack, each with so many live bytes: a switch, a copy out, a copy in.
 * copy-BYTES-by-hand: a switch between two static ones and two memcpy of as many bytes as those have (of 128 there are more: the least that there can be).
 * freeze, freeze-calls: processor time in nanoseconds a stack, the least of some rounds, as are the next two, for freezing parked coroutines, and for the system calls alone over such ranges, in the same batches.
 * thaw-resume, thaw-touch: nanoseconds a stack, by its coroutine's turn, by another's pointer.
 * window: a common window of a page remapped at each switch, as some do: two system calls and a TLB flush. */
#include <alloca.h>
#include <crore/crore.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench.h"
#include "co/co.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum { ROUNDS = 200000, SHARED_STACKS = 4, STACKS = 8192, BATCH = 128, STACK_BYTES = 65536, GUARD_BYTES = 36864, PAGE = 4096 };

static void must(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(-result));
    exit(1);
}

/* ---- Switches by kind ---------------------------------------------------------------------------------------- */

static struct cr_co *co;

static void *yield_forever(void *unused)
{
    while (cr_co_yield(NULL) == 0)
        ;
    return unused;
}

static void resume_all(void)
{
    for (int i = 0; i < ROUNDS; i++)
        must(cr_co_resume(co, NULL), "cr_co_resume");
}

static void run_switch(const char *name, int milliseconds)
{
    struct cr_attr attr = {.flags = CR_FPU_SHARED};
    attr.stack = strcmp(name, "switch-static") == 0 ? CR_STACK_STATIC : strcmp(name, "switch-virtual") == 0 ? CR_STACK_VIRTUAL : CR_STACK_SHARED;
    must(cr_co_create(&co, yield_forever, &attr), "cr_co_create");
    bench_batches(name, milliseconds, resume_all, 2.0 * ROUNDS);
    cr_co_destroy(co);
}

/* ---- Copying ------------------------------------------------------------------------------------------------- */

static struct cr_co *pair[2];
static size_t padding_bytes;
static int turns;
static char *pictures[2], *scratch; /* by hand: where live bytes are, and the stack that they would be on */
static size_t by_hand_bytes;

static void hand_over_in_turns(int me)
{
    for (;;) {
        if (--turns <= 0) {
            if (cr_co_yield(NULL) < 0)
                return;
            continue;
        }
        if (by_hand_bytes) {
            memcpy(pictures[me], scratch, by_hand_bytes);
            memcpy(scratch, pictures[!me], by_hand_bytes);
        }
        if (cr_co_yield_to(pair[!me], NULL) < 0)
            return;
    }
}

static void *take_turns(void *me)
{
    char *padding = alloca(padding_bytes + 16);
    __asm__ volatile("" : : "r"(padding) : "memory");
    hand_over_in_turns((int)(intptr_t)me);
    return NULL;
}

static void turns_all(void)
{
    turns = ROUNDS;
    must(cr_co_resume(pair[0], NULL), "cr_co_resume");
}

/* So that both get the same of the thread's shared stacks: others take their turns in between. */
static void make_pair(enum cr_stack_kind kind)
{
    static struct cr_co *others[SHARED_STACKS - 1];
    struct cr_attr attr = {.flags = CR_FPU_SHARED, .stack = kind};
    for (int i = 0; i < 2; i++) {
        void *me = (void *)(intptr_t)i;
        must(cr_co_create(&pair[i], take_turns, &attr), "cr_co_create");
        turns = 0;
        must(cr_co_resume(pair[i], &me), "cr_co_resume");
        for (int k = 0; i == 0 && kind == CR_STACK_SHARED && k < SHARED_STACKS - 1; k++) {
            must(cr_co_create(&others[k], yield_forever, &attr), "cr_co_create");
            must(cr_co_resume(others[k], NULL), "cr_co_resume");
        }
    }
}

/* Those of pair[0], which is away when pair[1] has its place. */
static size_t live_bytes(void)
{
    char *sp;
    size_t count;
    cr__shared_image(pair[0], &sp, &count);
    return count;
}

/* Two with as many live bytes on one shared stack, or the least that there can be; how many these are. */
static size_t make_sharers(size_t wanted)
{
    make_pair(CR_STACK_SHARED);
    size_t least = live_bytes();
    if (wanted > least) { /* another pair, that has as many */
        padding_bytes = wanted - least;
        for (int k = 0; k < 2; k++) { /* alloca rounds */
            make_pair(CR_STACK_SHARED);
            padding_bytes -= live_bytes() > wanted && padding_bytes >= live_bytes() - wanted ? live_bytes() - wanted : 0;
        }
        make_pair(CR_STACK_SHARED);
    }
    return live_bytes();
}

static void run_copy(const char *name, int milliseconds)
{
    size_t live = make_sharers((size_t)atoi(name + strlen("copy-")));
    bench_batches(name, milliseconds, turns_all, ROUNDS);
    printf("%s-live %zu.0\n", name, live);
}

static void run_copy_by_hand(const char *name, int milliseconds)
{
    size_t live = make_sharers((size_t)atoi(name + strlen("copy-")));
    padding_bytes = 0;
    make_pair(CR_STACK_STATIC);
    by_hand_bytes = live;
    pictures[0] = calloc(1, by_hand_bytes);
    pictures[1] = calloc(1, by_hand_bytes);
    scratch = calloc(1, by_hand_bytes);
    bench_batches(name, milliseconds, turns_all, ROUNDS);
}

/* ---- Stackless ----------------------------------------------------------------------------------------------- */

struct counting {
    struct cr_task task;
    int n, waits;
};

static int next_number(struct cr_task *task)
{
    struct counting *me = (struct counting *)(void *)task;
    int result;
    CR_TASK_BEGIN(task, next_number);
    for (;;) {
        CR_AWAIT(result, (me->waits = !me->waits) ? CR_WAITS : 0);
        me->n += result + 1;
    }
    return 0;
}

static struct counting counting;

static void resume_task(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        if (counting.task.at->next(&counting.task) != CR_WAITS)
            abort();
    }
}

/* There and back, as a resume and a yield: two. */
static void run_stackless(const char *name, int milliseconds)
{
    counting.task = CR_TASK(next_number);
    bench_batches(name, milliseconds, resume_task, 2.0 * ROUNDS);
}

/* ---- Freezing and thawing ------------------------------------------------------------------------------------ */

static struct cr_co *frozen[STACKS];
static volatile char *locals_of[STACKS];
static const char *freeze_case;
static int freeze_milliseconds;
static int parked;

static void parks(void *number)
{
    char locals[200];
    memset(locals, (int)(intptr_t)number, sizeof(locals));
    locals_of[(intptr_t)number] = locals;
    parked++;
    must(cr_park(), "cr_park");
    if (locals[7] != (char)(intptr_t)number)
        abort();
}

static uint64_t frozen_now(void)
{
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    return stats.frozen;
}

static double spawn_and_freeze(void)
{
    struct cr_attr attr = {.stack = CR_STACK_VIRTUAL, .stack_size_bytes = STACK_BYTES};
    for (intptr_t i = 0; i < STACKS; i++)
        must(cr_spawn(&frozen[i], parks, (void *)i, &attr), "cr_spawn");
    uint64_t before = frozen_now();
    parked = 0;
    while (parked < STACKS) /* and none is frozen before all are */
        must(cr_yield(), "cr_yield");
    bench_need(frozen_now() == before, "parking them took too long");
    int64_t cpu_ns = bench_cpu_ns(), end = bench_now_ns() + 5 * CR_SEC;
    while (frozen_now() - before < STACKS && bench_now_ns() < end)
        must(cr_sleep(100 * CR_MS), "cr_sleep");
    cpu_ns = bench_cpu_ns() - cpu_ns;
    if (frozen_now() - before < STACKS) {
        fprintf(stderr, "%s: only %llu of %d were frozen\n", freeze_case, (unsigned long long)(frozen_now() - before), STACKS);
        exit(1);
    }
    return (double)cpu_ns / STACKS;
}

static void join_all(void)
{
    must(cr_unpark_many(frozen, STACKS), "cr_unpark_many");
    for (int i = 0; i < STACKS; i++)
        must(cr_join(frozen[i]), "cr_join");
}

struct freezing {
    double freeze, touch, resume;
};

static struct freezing measure_once(void)
{
    struct freezing ns = {.freeze = spawn_and_freeze()};
    int64_t begin = bench_now_ns();
    if (strcmp(freeze_case, "thaw-touch") == 0) {
        for (int i = 0; i < STACKS; i++)
            (void)*locals_of[i];
    }
    ns.touch = (double)(bench_now_ns() - begin) / STACKS;
    begin = bench_now_ns();
    join_all();
    ns.resume = (double)(bench_now_ns() - begin) / STACKS;
    return ns;
}

static double least(double a, double b)
{
    return b < a ? b : a;
}

static void measure_freezing(void *unused)
{
    (void)unused;
    struct freezing ns = measure_once();
    for (int64_t end = bench_now_ns() + freeze_milliseconds * CR_MS; bench_now_ns() < end;) {
        struct freezing once = measure_once();
        ns = (struct freezing){least(ns.freeze, once.freeze), least(ns.touch, once.touch), least(ns.resume, once.resume)};
    }
    printf("%s %.4f\n", freeze_case, strcmp(freeze_case, "freeze") == 0 ? ns.freeze : strcmp(freeze_case, "thaw-touch") == 0 ? ns.touch : ns.resume);
}

static void run_freezing(const char *name, int milliseconds)
{
    freeze_milliseconds = milliseconds;
    freeze_case = name;
    must(cr_run(measure_freezing, NULL, &(struct cr_config){.workers = 1, .freeze_after_ns = 600 * CR_MS}), "cr_run");
}

/* The same calls over such ranges (src/stack/virtual.c), as far apart: a page of each stack in use, guards between them. */
static void run_freeze_calls(const char *name, int milliseconds)
{
    size_t slot = STACK_BYTES + GUARD_BYTES, bytes = slot * STACKS;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    bench_need(fd >= 0, "userfaultfd");
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    bench_need(self >= 0, "pidfd_open");
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    bench_need(ioctl(fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
    double least_ns = 0;
    for (int64_t end = bench_now_ns() + milliseconds * CR_MS; least_ns == 0 || bench_now_ns() < end;) {
        char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        bench_need(base != MAP_FAILED, "mmap");
        madvise(base, bytes, MADV_NOHUGEPAGE);
        struct uffdio_register all = {.range = {(uintptr_t)base, bytes}, .mode = UFFDIO_REGISTER_MODE_WP};
        bench_need(ioctl(fd, UFFDIO_REGISTER, &all) == 0, "UFFDIO_REGISTER");
        for (size_t i = 0; i < STACKS; i++) {
            bench_need(madvise(base + i * slot, GUARD_BYTES, MADV_GUARD_INSTALL) == 0, "MADV_GUARD_INSTALL");
            base[i * slot + slot - 100] = 1;
        }
        int64_t cpu_ns = bench_cpu_ns();
        for (size_t i = 0; i < STACKS; i += BATCH) {
            char *low = base + i * slot + GUARD_BYTES;
            size_t length = BATCH * slot - GUARD_BYTES;
            bench_need(mprotect(low, length, PROT_READ) == 0 && mprotect(low, length, PROT_NONE) == 0, "mprotect");
            bench_need(madvise(low, length, MADV_DONTNEED) == 0, "MADV_DONTNEED");
            struct iovec live[BATCH];
            for (size_t k = 0; k < BATCH; k++)
                live[k] = (struct iovec){base + (i + k + 1) * slot - PAGE, PAGE};
            bench_need(syscall(SYS_process_madvise, self, live, BATCH, MADV_GUARD_INSTALL, 0) == BATCH * PAGE, "MADV_GUARD_INSTALL");
            bench_need(mprotect(low, length, PROT_READ | PROT_WRITE) == 0, "mprotect");
        }
        double each = (double)(bench_cpu_ns() - cpu_ns) / STACKS;
        least_ns = least_ns == 0 ? each : least(least_ns, each);
        munmap(base, bytes);
    }
    printf("%s %.4f\n", name, least_ns);
}

/* ---- One common window --------------------------------------------------------------------------------------- */

static char *window;
static int window_file;

static void remap_all(void)
{
    for (int i = 0; i < ROUNDS / 100; i++) {
        bench_need(mmap(window, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, window_file, (i % 2) * PAGE) == window, "mmap");
        window[PAGE - 8] = (char)i; /* the first use */
    }
}

static void run_window(const char *name, int milliseconds)
{
    window_file = memfd_create("window", MFD_CLOEXEC);
    bench_need(window_file >= 0 && ftruncate(window_file, 2 * PAGE) == 0, "memfd_create");
    window = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, window_file, 0);
    bench_need(window != MAP_FAILED, "mmap");
    bench_batches(name, milliseconds, remap_all, ROUNDS / 100);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"switch-static", run_switch},
                                              {"switch-virtual", run_switch},
                                              {"switch-shared", run_switch},
                                              {"switch-stackless", run_stackless},
                                              {"copy-128", run_copy},
                                              {"copy-512", run_copy},
                                              {"copy-2048", run_copy},
                                              {"copy-128-by-hand", run_copy_by_hand},
                                              {"copy-512-by-hand", run_copy_by_hand},
                                              {"copy-2048-by-hand", run_copy_by_hand},
                                              {"freeze", run_freezing},
                                              {"freeze-calls", run_freeze_calls},
                                              {"thaw-resume", run_freezing},
                                              {"thaw-touch", run_freezing},
                                              {"window", run_window},
                                              {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
