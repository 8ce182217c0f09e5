/* Packed stacks: static ones of 2 KiB. What fits on them, who runs off one, and that their memory is put to use again. Linked with -z now, as programs that use them are. */
#include "test.h"

#include <sys/socket.h>

#include <crore/crore.h>

#include "sched/sched.h"

static const struct cr_attr packed = {.stack = CR_STACK_STATIC, .stack_size_bytes = 2048};

static void skip_unless_usable(void)
{
    if (!cr__packed_usable())
        SKIP("who asks for a packed stack gets a guarded one here");
}

static void spawn(struct cr_co **out, void (*fn)(void *), void *arg, const struct cr_attr *attr)
{
    CHECK_EQ(cr_spawn(out, fn, arg, attr), 0);
}

/* ---- Who gets one -------------------------------------------------------------------------------------------- */

static uint32_t size_seen;

static void tells_size(void *unused)
{
    (void)unused;
    size_seen = cr_co_current()->stack.size_bytes;
}

static uint32_t size_with(enum cr_stack_kind kind, size_t size_bytes)
{
    struct cr_co *co;
    spawn(&co, tells_size, NULL, &(struct cr_attr){.stack = kind, .stack_size_bytes = size_bytes});
    CHECK_EQ(cr_join(co), 0);
    return size_seen;
}

TEST_CO(who_asks_for_a_static_stack_of_up_to_2_kib_gets_a_packed_one)
{
    uint32_t small = cr__packed_usable() ? 2048 : 16384;
    CHECK_EQ(size_with(CR_STACK_STATIC, 2048), small);
    CHECK_EQ(size_with(CR_STACK_STATIC, 1), small);
    CHECK_EQ(size_with(CR_STACK_STATIC, 2049), 4096);
    CHECK_EQ(size_with(CR_STACK_STATIC, 4096), 4096);
}

static void size_by_default(void *unused)
{
    (void)unused;
    CHECK(size_with(CR_STACK_DEFAULT, 2048) >= 4096);
    CHECK_EQ(size_with(CR_STACK_STATIC, 0), 4096);
}

TEST(nobody_gets_a_packed_stack_by_default)
{
    struct cr_config config = {.stack = CR_STACK_STATIC, .stack_size_bytes = 2048};
    CHECK_EQ(cr_run(size_by_default, NULL, &config), 0);
}

/* ---- What fits ----------------------------------------------------------------------------------------------- */

#define PAINT 0x5aa55aa5c33cc33cu

static struct cr_chan *chan;
static struct cr_mutex mutex;
static struct cr_waitgroup group;
static struct cr_conn *ends[2];
static struct {
    const char *name;
    size_t bytes;
} depths[32];
static unsigned measured;

static volatile uint64_t *lowest(void)
{
    return (uint64_t *)(void *)cr__packed_low(cr_co_current()->stack.top) + CR__PACKED_CANARY_WORDS;
}

__attribute__((noinline)) static void paint(void)
{
    for (volatile uint64_t *at = lowest(); (char *)(uintptr_t)at < (char *)__builtin_frame_address(0) - 64; at++)
        *at = PAINT;
}

/* How far down from its caller's stack pointer what was painted has changed. The deepest of all calls of that name. */
__attribute__((noinline)) static void measure(const char *name)
{
    volatile uint64_t *at = lowest();
    while (*at == PAINT)
        at++;
    size_t bytes = (size_t)((char *)__builtin_frame_address(0) + 16 - (char *)(uintptr_t)at);
    if (measured == 0 || depths[measured - 1].name != name)
        depths[measured++].name = name;
    if (bytes > depths[measured - 1].bytes)
        depths[measured - 1].bytes = bytes;
}

#define MEASURE(name, call)                                                                                            \
    do {                                                                                                               \
        paint();                                                                                                       \
        if ((call) < 0)                                                                                                \
            abort();                                                                                                   \
        measure(name);                                                                                                 \
    } while (0)

static void does_nothing(void *unused)
{
    (void)unused;
}

static void measures_calls(void *unused)
{
    static struct cr_case cases[1];
    static char byte;
    static int value;
    struct cr_co *co;
    (void)unused;
    static struct cr_mem_stats stats;
    MEASURE("cr_yield", cr_yield());
    MEASURE("cr_name_set", cr_name_set(cr_co_current(), "measures"));
    CHECK(depths[measured - 1].bytes < 500);
    MEASURE("cr_mem_stats_get", (cr_mem_stats_get(&stats), 0));
    CHECK(depths[measured - 1].bytes < 500 && stats.page_tables_bytes > 0);
    MEASURE("cr_sleep", cr_sleep(CR_MS));
    cases[0] = (struct cr_case){.chan = chan, .op = CR_SEND, .item = &value};
    MEASURE("cr_select", cr_select(cases, 1));
    MEASURE("cr_chan_send", cr_chan_send(chan, &value));
    MEASURE("cr_chan_recv", cr_chan_recv(chan, &value));
    MEASURE("cr_mutex_lock", cr_mutex_lock(&mutex));
    MEASURE("cr_mutex_unlock", cr_mutex_unlock(&mutex));
    for (int i = 0; i < 600; i++) /* more than a ring holds, where there is one */
        MEASURE("cr_go", cr_go(does_nothing, NULL));
    MEASURE("cr_spawn", cr_spawn(&co, does_nothing, NULL, &packed));
    MEASURE("cr_join", cr_join(co));
    MEASURE("cr_waitgroup_wait", cr_waitgroup_wait(&group));
    MEASURE("cr_write", cr_write(ends[0], "x", 1));
    MEASURE("cr_read", cr_read(ends[1], &byte, 1));
    MEASURE("cr_read", cr_read_until(ends[1], &byte, 1, cr_after(10 * CR_MS)) == -ETIMEDOUT ? 0 : -1);
    MEASURE("cr_blocking", cr_blocking(does_nothing, NULL));
}

static void takes_the_item_and_holds_the_lock(void *unused)
{
    int value;
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_chan_recv(chan, &value), 0);
    CHECK_EQ(cr_chan_recv(chan, &value), 0);
    CHECK_EQ(cr_chan_send(chan, &value), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_waitgroup_done(&group), 0);
}

static void measure_all(void *unused)
{
    int fds[2];
    struct cr_co *co, *other;
    (void)unused;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_conn_from_fd(&ends[i], fds[i]), 0);
    CHECK_EQ(cr_chan_create(&chan, sizeof(int), 0), 0);
    CHECK_EQ(cr_waitgroup_add(&group, 1), 0);
    spawn(&other, takes_the_item_and_holds_the_lock, NULL, NULL);
    CHECK_EQ(cr_yield(), 0);
    spawn(&co, measures_calls, NULL, &packed);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_join(other), 0);
    cr_chan_destroy(chan);
    for (int i = 0; i < 2; i++)
        cr_close(ends[i]);
    for (unsigned i = 0; i < measured; i++) {
        printf("# %s: %zu bytes\n", depths[i].name, depths[i].bytes);
        CHECK(depths[i].bytes > 0 && depths[i].bytes < 1500); /* of 1,920 */
    }
    measured = 0;
}

TEST(the_usual_calls_fit_on_a_packed_stack)
{
    skip_unless_usable();
    CHECK_EQ(cr_run(measure_all, NULL, NULL), 0);
    CHECK_EQ(cr_run(measure_all, NULL, &(struct cr_config){.workers = 2}), 0);
}

/* ---- Many ---------------------------------------------------------------------------------------------------- */

enum { MANY = 5000, WORDS = 40 };
static _Atomic int good;

static void keeps_locals(void *number)
{
    volatile uint64_t locals[WORDS];
    for (uint64_t i = 0; i < WORDS; i++)
        locals[i] = (uintptr_t)number * 1000 + i;
    int r = cr_yield();
    r = r == 0 ? cr_sleep((int64_t)((uintptr_t)number % 7) * CR_MS) : r;
    r = r == 0 ? cr_yield() : r;
    for (uint64_t i = 0; i < WORDS; i++)
        r = locals[i] == (uintptr_t)number * 1000 + i ? r : -1;
    good += r == 0;
}

static void spawns_many(void *flags)
{
    struct cr_attr attr = packed;
    attr.flags = (unsigned)(uintptr_t)flags;
    for (uintptr_t i = 0; i < MANY; i++)
        spawn(NULL, keeps_locals, (void *)i, &attr);
}

static void check_many(unsigned workers, unsigned flags)
{
    struct cr_mem_stats before, after;
    good = 0;
    cr_mem_trim();
    cr_mem_stats_get(&before);
    CHECK_EQ(cr_run(spawns_many, (void *)(uintptr_t)flags, &(struct cr_config){.workers = workers}), 0);
    cr_mem_stats_get(&after);
    CHECK_EQ(good, MANY);
    CHECK_EQ(after.stacks_bytes, before.stacks_bytes);
}

TEST(each_keeps_its_locals_on_one_worker)
{
    check_many(1, 0);
    check_many(1, CR_FPU_SHARED);
}

TEST(each_keeps_its_locals_on_several_workers)
{
    check_many(3, 0);
}

TEST(those_that_migrate_keep_their_locals_and_their_stacks_go_home)
{
    check_many(3, CR_MIGRATABLE);
}

static struct cr_co *parked[MANY];

static void parks(void *unused)
{
    (void)unused;
    good += cr_park() == 0;
}

static void takes_little(void *unused)
{
    struct cr_mem_stats before, while_parked;
    (void)unused;
    cr_mem_stats_get(&before);
    for (int i = 0; i < MANY; i++)
        spawn(&parked[i], parks, NULL, &packed);
    CHECK_EQ(cr_yield(), 0);
    cr_mem_stats_get(&while_parked);
    CHECK((while_parked.stacks_bytes - before.stacks_bytes) / MANY < 2150);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(cr_unpark(parked[i]), 0);
        CHECK_EQ(cr_join(parked[i]), 0);
    }
    CHECK_EQ(good, MANY);
    cr_mem_trim();
    cr_mem_stats_get(&while_parked);
    CHECK(while_parked.stacks_bytes < before.stacks_bytes + 4 * CR__CHUNK_BYTES);
}

TEST(a_parked_one_takes_two_kib_and_gives_them_back)
{
    skip_unless_usable();
    CHECK_EQ(cr_run(takes_little, NULL, NULL), 0);
}

static void meets_a_lack_of_memory(void *unused)
{
    struct cr_stats stats;
    (void)unused;
    good = 0;
    for (int i = 0; i < 200; i++) /* their records, and no stack yet */
        spawn(&parked[i], parks, NULL, &packed);
    cr__mem_fail_after(1);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    cr__mem_fail_after(0);
    CHECK_EQ(cr_stats_get(&stats), 0);
    CHECK(stats.stack_waits > 0);
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(cr_unpark(parked[i]), 0);
        CHECK_EQ(cr_join(parked[i]), 0);
    }
    CHECK_EQ(good, 200);
}

TEST(without_memory_for_a_stack_a_coroutine_starts_later)
{
    skip_unless_usable();
    CHECK_EQ(cr_run(meets_a_lack_of_memory, NULL, NULL), 0);
}

static void spawns_within_a_budget(void *unused)
{
    int spawned = 0;
    (void)unused;
    while (spawned < MANY && cr_spawn(&parked[spawned], parks, NULL, &packed) == 0) {
        spawned++;
        CHECK_EQ(cr_yield(), 0);
    }
    printf("# %d within 8 MiB\n", spawned);
    CHECK(spawned < MANY);
    CHECK(spawned > 8 * 1024 / 4); /* a page each would be fewer */
    for (int i = 0; i < spawned; i++) {
        CHECK_EQ(cr_unpark(parked[i]), 0);
        CHECK_EQ(cr_join(parked[i]), 0);
    }
}

TEST(packed_stacks_count_half_a_page_of_a_budget)
{
    skip_unless_usable();
    CHECK_EQ(cr_run(spawns_within_a_budget, NULL, &(struct cr_config){.memory_budget_bytes = 8 << 20}), 0);
}

/* ---- Signals ------------------------------------------------------------------------------------------------- */

static char *volatile handler_frame;

static void on_alarm(int signo)
{
    (void)signo;
    handler_frame = __builtin_frame_address(0);
}

static void runs_until_a_signal_came(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10000 && !handler_frame; i++) {
        if (cr_sleep(CR_MS / 10) < 0)
            return;
    }
    const char *top = cr_co_current()->stack.top;
    good += handler_frame && !(handler_frame < top && handler_frame >= cr__packed_low(top));
}

static void meets_signals(void *unused)
{
    (void)unused;
    struct cr_co *co;
    good = 0;
    spawn(&co, runs_until_a_signal_came, NULL, &packed);
    signal(SIGUSR1, on_alarm);
    CHECK_EQ(cr_yield(), 0);
    kill(getpid(), SIGUSR1);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(good, 1);
}

TEST(handlers_of_signals_do_not_run_on_a_packed_stack)
{
    skip_unless_usable();
    CHECK_EQ(cr_run(meets_signals, NULL, NULL), 0);
}

/* ---- Overflow ------------------------------------------------------------------------------------------------ */

/* Writes to all of what it takes, and so past the low end. */
__attribute__((noinline)) static void write_much(int size_bytes)
{
    char much[size_bytes];
    for (volatile char *at = much + size_bytes; at > much;)
        *--at = 1;
}

static void overflows_and_sleeps(void *unused)
{
    (void)unused;
    write_much(2200);
    good += cr_sleep(CR_MS) == 0;
}

static void overflows_and_yields(void *unused)
{
    (void)unused;
    write_much(2200);
    good += cr_yield() == 0;
}

static void overflows_and_ends(void *unused)
{
    (void)unused;
    write_much(2200);
}

/* A frame that leaves the canary whole, and is below it when it stops. */
static void jumps_over_the_canary(void *unused)
{
    char much[2048 + 512];
    (void)unused;
    __asm__ volatile("" : : "r"(much) : "memory"); /* or a compiler leaves it out */
    (void)!cr_sleep(CR_MS);
    __asm__ volatile("" : : "r"(much) : "memory");
}

static void (*culprit)(void *);

static void spawns_the_culprit(void *unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++) /* whose stacks lie below */
        spawn(&parked[i], parks, NULL, &packed);
    CHECK_EQ(cr_yield(), 0);
    struct cr_attr attr = packed;
    attr.name = "too deep";
    spawn(NULL, culprit, NULL, &attr);
    CHECK_EQ(cr_yield(), 0);
    _exit(0);
}

static void run_the_culprit(void)
{
    _exit(cr_run(spawns_the_culprit, NULL, NULL) == 0 ? 0 : 1);
}

static void check_told(void (*fn)(void *), const char *function, const char *call)
{
    static char text[4096];
    skip_unless_usable();
    culprit = fn;
    int status = test_capture(run_the_culprit, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "\"too deep\" ran off its static stack of 2048 bytes");
#ifdef CR_TEST_SYMBOLS
    CHECK_STR(text, function);
    CHECK_STR(text, call);
#else
    (void)function, (void)call;
#endif
}

TEST(who_has_run_off_a_packed_stack_is_found_when_it_parks)
{
    check_told(overflows_and_sleeps, "overflows_and_sleeps+0x", "cr_sleep");
}

TEST(who_has_run_off_a_packed_stack_is_found_when_it_yields)
{
    check_told(overflows_and_yields, "overflows_and_yields+0x", "cr_yield");
}

TEST(who_has_run_off_a_packed_stack_is_found_when_it_ends)
{
    check_told(overflows_and_ends, "end_running", "cr__arch_entry");
}

TEST(who_is_below_its_packed_stack_is_found_though_the_canary_is_whole)
{
    check_told(jumps_over_the_canary, "jumps_over_the_canary+0x", "cr_sleep");
}

/* Never stops, so that nothing is seen before it faults. */
__attribute__((noinline)) static int recurses(int n)
{
    volatile char much[512];
    for (unsigned i = 0; i < sizeof(much); i++)
        much[i] = (char)n;
    int r = n < 0 ? 0 : recurses(n + 1);
    __asm__ volatile("" : "+r"(r));
    return r + much[3];
}

static void runs_away(void *unused)
{
    (void)unused;
    good += recurses(0);
}

static void check_runaway(void (*fn)(void))
{
    static char text[4096];
    skip_unless_usable();
    int status = test_capture(fn, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "crore: stack overflow: ");
    CHECK_STR(text, " stack of 2048 bytes");
#ifdef CR_TEST_SYMBOLS
    CHECK_STR(text, "recurses+0x");
    CHECK_STR(text, "times more");
#endif
}

TEST(who_runs_off_a_packed_stack_without_an_end_is_told)
{
    culprit = runs_away;
    check_runaway(run_the_culprit);
}

static void run_the_culprit_above_virtual_ones(void)
{
    _exit(cr_run(spawns_the_culprit, NULL, &(struct cr_config){.stack = CR_STACK_VIRTUAL}) == 0 ? 0 : 1);
}

/* The terabytes for which may lie right below. */
TEST(nor_does_that_one_fill_what_there_is_for_virtual_stacks)
{
    culprit = runs_away;
    check_runaway(run_the_culprit_above_virtual_ones);
}

/* ---- Bare ones ----------------------------------------------------------------------------------------------- */

static void *counts(void *unused)
{
    for (intptr_t i = 1; i <= 3; i++) {
        void *value = (void *)i;
        if (cr_co_yield(&value) < 0)
            return NULL;
    }
    return unused;
}

TEST(a_bare_coroutine_runs_on_a_packed_stack)
{
    struct cr_co *co[100];
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_co_create(&co[i], counts, &packed), 0);
    for (intptr_t turn = 1; turn <= 4; turn++) {
        for (int i = 0; i < 100; i++) {
            void *value = NULL;
            CHECK_EQ(cr_co_resume(co[i], &value), turn == 4);
            CHECK(turn == 4 || value == (void *)turn);
        }
    }
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_co_destroy(co[i]), 0);
}

static void *overflows_and_counts(void *unused)
{
    write_much(2200);
    return counts(unused);
}

static enum { RESUMED, DESTROYED } then;

static void meet_an_overflow(void)
{
    struct cr_co *below[8], *co;
    for (int i = 0; i < 8; i++)
        (void)!(cr_co_create(&below[i], counts, &packed) < 0 || cr_co_resume(below[i], NULL) < 0);
    struct cr_attr attr = packed;
    attr.name = "bare one";
    if (cr_co_create(&co, overflows_and_counts, &attr) == 0 && cr_co_resume(co, NULL) == 0)
        (void)!(then == RESUMED ? cr_co_resume(co, NULL) : cr_co_destroy(co));
}

static void check_found(void)
{
    static char text[4096];
    skip_unless_usable();
    int status = test_capture(meet_an_overflow, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "\"bare one\" ran off its static stack of 2048 bytes");
}

TEST(a_bare_one_that_has_run_off_its_packed_stack_is_found_when_it_is_resumed)
{
    then = RESUMED;
    check_found();
}

TEST(a_bare_one_that_has_run_off_its_packed_stack_is_found_when_it_is_destroyed)
{
    then = DESTROYED;
    check_found();
}

static void *recurses_bare(void *unused)
{
    good += recurses(0);
    return unused;
}

static void run_away_bare(void)
{
    struct cr_co *co;
    struct cr_attr attr = packed;
    attr.name = "bare one";
    if (cr_co_create(&co, recurses_bare, &attr) == 0)
        (void)!cr_co_resume(co, NULL);
}

TEST(so_is_a_bare_one)
{
    check_runaway(run_away_bare);
}
