/* `crore demo --parked N --stack KIND`: N coroutines, each with 200 bytes of live locals, all parked at once; each is woken once, in random order, looks
 * whether its locals are what they were, and ends.
 *
 * One worker, so that the figures are a processor's. Beside the coroutines there is a list of where each of them is (4 bytes, counted as theirs). The random order
 * is a permutation that is computed (Feistel), not stored. They are spawned in batches, and run in between, so that what can be frozen is, while the
 * others are still being spawned. */
#include "parked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tool.h"

#include <crore/crore.h>
#include <crore/task.h>

#define LOCALS_WORDS 25 /* 200 bytes */
#define SPAWN_BATCH 1000
#define WAKE_BATCH 256
#define LIVE_NS (CR_SEC / 4)
#define SETTLE_NS (300 * CR_SEC) /* for the last ones to be frozen, at most */
#define STALL_NS (2 * CR_SEC)    /* if nothing has moved for so long, nothing will */
#define STACK_BYTES 65536        /* of addresses: what is touched counts */
#define STATIC_BYTES 4096
#define PACKED_BYTES 2048
#define HANDLE_STEP 8 /* bytes; handles lie within 16 GiB of the first one, in such steps */

static struct {
    int64_t count;
    const char *kind;
    bool frozen; /* those of virtual stacks are to be */
    struct cr_attr attr;
    char *first;  /* handle; */
    int32_t *far; /* and how far from it each is */
    int64_t parked, good, wrong; /* have begun to wait; have ended, their locals right; not so */
    int64_t failed_with;         /* a call that failed: -errno; */
    int64_t failed_after;        /* and for how many it had not */
    int64_t baseline_bytes;
    struct cr_mem_stats mem_before, mem_parked, mem_after;
    int64_t spawn_ns, settle_ns, wake_ns, resident_bytes, tables_bytes;
    bool live;
} parked;

/* ---- Memory, as the kernel sees it --------------------------------------------------------------------------- */

/* What that line of /proc/self/status says. */
static int64_t status_bytes(const char *name)
{
    long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, strlen(name)) == 0)
            kib = atoll(line + strlen(name));
    }
    if (file)
        fclose(file);
    return kib * 1024;
}

static int64_t resident_bytes(void)
{
    return status_bytes("VmRSS:");
}

static int64_t page_tables_bytes(void)
{
    return status_bytes("VmPTE:");
}

/* ---- A coroutine --------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    return x;
}

/* Apart from the coroutine's function, whose frame thereby holds its locals and little else. */
__attribute__((noinline)) static void fill(uint64_t *locals, uint64_t words, uint64_t number)
{
    for (uint64_t i = 0; i < words; i++)
        locals[i] = mix(number * LOCALS_WORDS + i);
}

__attribute__((noinline)) static void judge(const uint64_t *locals, uint64_t words, uint64_t number, int result)
{
    bool good = result == 0;
    for (uint64_t i = 0; i < words; i++)
        good &= locals[i] == mix(number * LOCALS_WORDS + i);
    *(good ? &parked.good : &parked.wrong) += 1;
}

/* LOCALS_WORDS in all, the number included. */
static void wait_on_stack(void *number)
{
    uint64_t locals[LOCALS_WORDS - 1];
    fill(locals, LOCALS_WORDS - 1, (uintptr_t)number);
    __asm__ volatile("" : "+m"(locals)); /* they are made, and lie in memory, */
    parked.parked++;
    int r = cr_park();
    __asm__ volatile("" : "+m"(locals)); /* until here */
    judge(locals, LOCALS_WORDS - 1, (uintptr_t)number, r);
}

/* All that it keeps are its locals: as many bytes as a stack's. */
#define FRAME_WORDS (LOCALS_WORDS - 2)
struct waiting {
    struct cr_task task;
    uint64_t number, locals[FRAME_WORDS];
    int64_t result;
};
_Static_assert(sizeof(struct waiting) == sizeof(struct cr_task) + LOCALS_WORDS * 8, "as many");

/* Parks by a sleep without end, and is woken by being cancelled. */
static int wait_in_frame(struct cr_task *task)
{
    struct waiting *me = (struct waiting *)(void *)task;
    CR_TASK_BEGIN(task, wait_in_frame);
    fill(me->locals, FRAME_WORDS, me->number);
    parked.parked++;
    CR_AWAIT(me->result, cr_task_sleep(task, CR_FOREVER));
    judge(me->locals, FRAME_WORDS, me->number, me->result == -ECANCELED ? 0 : (int)me->result);
    return 0;
}

static struct cr_co *handle_of(int64_t number)
{
    return (struct cr_co *)(void *)(parked.first + (intptr_t)parked.far[number] * HANDLE_STEP);
}

static void keep_handle(int64_t number, struct cr_co *co)
{
    if (number == 0)
        parked.first = (char *)co;
    parked.far[number] = (int32_t)(((char *)co - parked.first) / HANDLE_STEP);
    if (handle_of(number) != co)
        tool_fail("demo: coroutine %lld lies more than 16 GiB from the first one", (long long)number);
}

static int spawn_task(struct cr_co **out, int64_t number)
{
    struct waiting frame = {.task = CR_TASK(wait_in_frame), .number = (uint64_t)number};
    return cr_task_spawn(out, &frame.task, sizeof(frame), NULL);
}

static bool is_stackless(void)
{
    return strcmp(parked.kind, "stackless") == 0;
}

/* ---- Progress ------------------------------------------------------------------------------------------------ */

static void live_line(const char *what, int64_t done, int64_t began_ns)
{
    static int64_t last_ns;
    int64_t now_ns = cr_now();
    if (!parked.live || now_ns - last_ns < LIVE_NS)
        return;
    last_ns = now_ns;
    printf("\r\033[K  %s %lld of %lld, %.1f s, %lld MiB", what, (long long)done, (long long)parked.count, (double)(now_ns - began_ns) / CR_SEC,
           (long long)((resident_bytes() + page_tables_bytes()) >> 20));
    fflush(stdout);
}

static void live_end(void)
{
    if (parked.live)
        printf("\r\033[K");
}

/* ---- All of them --------------------------------------------------------------------------------------------- */

/* A permutation of 0 to count - 1: a Feistel network over the next power of four, walked until it falls within. */
static int64_t shuffled(int64_t i)
{
    unsigned half = 1;
    while (half < 31 && (INT64_C(1) << 2 * half) < parked.count)
        half++;
    uint64_t mask = (UINT64_C(1) << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix(right * 4 + round + 1) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)parked.count);
    return (int64_t)x;
}

static int64_t ended(void)
{
    return parked.good + parked.wrong;
}

/* Lets the others run until all have come, as far as `come` says. False if they have stopped coming: those that are left wait for a stack that there is not. */
static bool all_have_come(int64_t (*come)(void), const char *what, int64_t began_ns)
{
    int64_t count = come(), moved_ns = cr_now();
    while (count < parked.count) {
        cr_yield();
        live_line(what, come(), began_ns);
        if (come() != count)
            count = come(), moved_ns = cr_now();
        else if (cr_now() - moved_ns > STALL_NS)
            return false;
    }
    return true;
}

static int64_t have_parked(void)
{
    return parked.parked;
}

static bool spawn_all(void)
{
    int64_t began_ns = cr_now();
    for (int64_t i = 0; i < parked.count; i++) {
        struct cr_co *co;
        int r = is_stackless() ? spawn_task(&co, i) : cr_spawn(&co, wait_on_stack, (void *)(intptr_t)i, &parked.attr);
        if (r < 0) {
            parked.failed_with = r;
            parked.failed_after = parked.count = i;
            return false;
        }
        keep_handle(i, co);
        if (i % SPAWN_BATCH == SPAWN_BATCH - 1) {
            cr_yield();
            live_line("spawned", i + 1, began_ns);
        }
    }
    if (!all_have_come(have_parked, "parked", began_ns)) {
        parked.failed_with = -ENOMEM;
        parked.failed_after = parked.parked;
        return false;
    }
    parked.spawn_ns = cr_now() - began_ns;
    return true;
}

static void settle(void)
{
    int64_t began_ns = cr_now(), moved_ns = began_ns, frozen = 0;
    while (frozen < parked.count && cr_now() - began_ns < SETTLE_NS && cr_now() - moved_ns < 2 * CR_SEC) { /* where nothing can be frozen, nothing moves */
        struct cr_mem_stats stats;
        if (cr_sleep(10 * CR_MS) < 0)
            break;
        cr_mem_stats_get(&stats);
        if ((int64_t)(stats.frozen - parked.mem_before.frozen) > frozen)
            moved_ns = cr_now();
        frozen = (int64_t)(stats.frozen - parked.mem_before.frozen);
        live_line("frozen", frozen, began_ns);
    }
    parked.settle_ns = cr_now() - began_ns;
}

static void wake(struct cr_co **batch, size_t count)
{
    if (is_stackless()) {
        for (size_t i = 0; i < count; i++) {
            __builtin_prefetch((char *)batch[i], 1);
            __builtin_prefetch((char *)batch[i] + 64, 1);
        }
        for (size_t i = 0; i < count; i++)
            cr_cancel(batch[i]);
    } else if (cr_unpark_many(batch, count) < 0) {
        parked.failed_with = -EPERM;
    }
    for (size_t i = 0; i < count; i++)
        cr_detach(batch[i]);
    cr_yield();
}

static void wake_all(void)
{
    struct cr_co *batch[WAKE_BATCH];
    int64_t began_ns = cr_now();
    for (int64_t i = 0; i < parked.count;) {
        int64_t order[WAKE_BATCH];
        size_t n = 0;
        for (; n < WAKE_BATCH && i < parked.count; n++, i++) {
            order[n] = shuffled(i);
            __builtin_prefetch(&parked.far[order[n]]);
        }
        for (size_t k = 0; k < n; k++)
            batch[k] = handle_of(order[k]);
        wake(batch, n);
        live_line("woken", i, began_ns);
    }
    if (!all_have_come(ended, "ended", began_ns) && parked.failed_with == 0) {
        parked.failed_with = -ENOMEM;
        parked.failed_after = ended();
    }
    parked.wake_ns = cr_now() - began_ns;
}

static void run_all(void *unused)
{
    (void)unused;
    cr_mem_stats_get(&parked.mem_before);
    parked.baseline_bytes = resident_bytes() + page_tables_bytes();
    bool spawned = spawn_all();
    if (spawned && parked.frozen)
        settle();
    live_end();
    parked.resident_bytes = resident_bytes();
    parked.tables_bytes = page_tables_bytes();
    cr_mem_stats_get(&parked.mem_parked);
    if (spawned)
        printf("  parked: %lld, %.0f bytes each (RSS %lld MiB and page tables %lld MiB)\n", (long long)parked.count,
               (double)(parked.resident_bytes + parked.tables_bytes - parked.baseline_bytes) / (double)parked.count,
               (long long)(parked.resident_bytes >> 20), (long long)(parked.tables_bytes >> 20));
    fflush(stdout);
    wake_all();
    live_end();
    cr_mem_stats_get(&parked.mem_after);
}

/* ---- What came out ------------------------------------------------------------------------------------------- */

static double each(int64_t total)
{
    return (double)total / (double)parked.count;
}

static double bytes_each(void)
{
    return each(parked.resident_bytes + parked.tables_bytes - parked.baseline_bytes);
}

static void print_summary(bool good)
{
    printf("  spawn and park: %.0f ns each", each(parked.spawn_ns));
    if (parked.frozen)
        printf("; %llu frozen %.1f s later", (unsigned long long)(parked.mem_parked.frozen - parked.mem_before.frozen), (double)parked.settle_ns / CR_SEC);
    printf("\n  wake at random, verify and end: %.0f ns each\n", each(parked.wake_ns));
    printf("  frozen: %llu, thawed: %llu on resume, %llu by a touch\n", (unsigned long long)(parked.mem_after.frozen - parked.mem_before.frozen),
           (unsigned long long)(parked.mem_after.thawed - parked.mem_before.thawed), (unsigned long long)(parked.mem_after.touched - parked.mem_before.touched));
    printf("  kernel calls for memory: %llu while spawning, %llu while waking\n",
           (unsigned long long)(parked.mem_parked.kernel_calls - parked.mem_before.kernel_calls),
           (unsigned long long)(parked.mem_after.kernel_calls - parked.mem_parked.kernel_calls));
    printf("  %lld locals right, %lld wrong, %lld lost: %s\n", (long long)parked.good, (long long)parked.wrong,
           (long long)(parked.count - ended()), good ? "good" : "BAD");
}

static void write_json(FILE *file)
{
    fprintf(file,
            "{\"count\": %lld, \"stack\": \"%s\", \"spawn_ns\": %.1f, \"wake_ns\": %.1f, \"bytes\": %.1f, \"resident_bytes\": %lld, "
            "\"page_tables_bytes\": %lld, \"frozen\": %llu, \"thawed\": %llu, \"right\": %lld, \"wrong\": %lld}\n",
            (long long)parked.count, parked.kind, each(parked.spawn_ns), each(parked.wake_ns), bytes_each(), (long long)parked.resident_bytes,
            (long long)parked.tables_bytes, (unsigned long long)(parked.mem_after.frozen - parked.mem_before.frozen),
            (unsigned long long)(parked.mem_after.thawed - parked.mem_before.thawed), (long long)parked.good, (long long)parked.wrong);
}

static void choose_kind(const char *kind, bool frozen)
{
    parked.kind = kind;
    parked.attr = (struct cr_attr){.flags = CR_FPU_SHARED, .stack_size_bytes = STACK_BYTES};
    if (strcmp(kind, "static") == 0) {
        parked.attr.stack = CR_STACK_STATIC;
        parked.attr.stack_size_bytes = STATIC_BYTES;
    } else if (strcmp(kind, "packed") == 0) {
        parked.attr.stack = CR_STACK_STATIC;
        parked.attr.stack_size_bytes = PACKED_BYTES;
    } else if (strcmp(kind, "virtual") == 0) {
        parked.attr.stack = CR_STACK_VIRTUAL;
        parked.frozen = frozen;
    } else if (strcmp(kind, "shared") == 0) {
        parked.attr.stack = CR_STACK_SHARED;
    } else if (strcmp(kind, "stackless") != 0) {
        tool_fail("demo: --stack: '%s' is not static, packed, virtual, shared or stackless", kind);
    }
}

int parked_run(int64_t count, const char *kind, int64_t freeze_after_ns, FILE *json)
{
    choose_kind(kind, freeze_after_ns >= 0);
    parked.count = count;
    parked.live = isatty(STDOUT_FILENO);
    parked.far = mmap(NULL, (size_t)count * sizeof(*parked.far), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (parked.far == MAP_FAILED)
        tool_fail("demo: no memory for a list of %lld coroutines", (long long)count);
    printf("crore demo: %lld coroutines, %s, %d bytes of live locals each, on one worker\n", (long long)count, kind, LOCALS_WORDS * 8);
    fflush(stdout);
    int r = cr_run(run_all, NULL, &(struct cr_config){.workers = 1, .freeze_after_ns = freeze_after_ns});
    if (r < 0)
        tool_fail("demo: %s", strerror(-r));
    bool good = parked.failed_with == 0 && parked.wrong == 0 && parked.good == count;
    if (parked.failed_with < 0)
        printf("  after %lld of %lld: %s\n", (long long)parked.failed_after, (long long)count, strerror((int)-parked.failed_with));
    if (parked.count > 0) {
        print_summary(good);
        if (json)
            write_json(json);
    }
    if (json && fflush(json) != 0)
        tool_fail("--json: %s", strerror(errno));
    munmap(parked.far, (size_t)count * sizeof(*parked.far));
    return good ? 0 : 1;
}
