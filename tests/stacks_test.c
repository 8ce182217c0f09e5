/* What is special to the kinds of stack, by behaviour: freezing and thawing, whoever touches; taking turns on common stacks; what each says when it is run off. That
 * the whole suite runs on each of them is shown by running it so (meson.build). */
#include <crore/crore.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "mem/mem.h"
#include "sched/sched.h"
#include "dig.h"
#include "kernel.h"
#include "test.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

/* First thing in a test that must see stacks frozen. */
static void needs_freezing(void)
{
    const char *why;
    if (!cr__virtual_freezes(&why))
        SKIP(why);
}

static const struct cr_attr on_virtual = {.stack = CR_STACK_VIRTUAL}, on_shared = {.stack = CR_STACK_SHARED};
static const struct cr_config at_once = {.workers = 1, .stack = CR_STACK_STATIC, .freeze_after_ns = 1},
                              at_once_on_three = {.workers = 3, .stack = CR_STACK_STATIC, .freeze_after_ns = 1},
                              one_shared = {.workers = 1, .stack = CR_STACK_STATIC, .shared_stacks = 1};

static struct cr_mem_stats counts_now(void)
{
    struct cr_mem_stats stats;
    cr_mem_stats_get(&stats);
    return stats;
}

static void wait_until_frozen(uint64_t so_many)
{
    while (counts_now().frozen < so_many)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

static unsigned char byte_of(size_t i, unsigned seed)
{
    return (unsigned char)(i * 7 + i / 251 + seed);
}

static void fill(unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_of(i, seed);
}

static void check_filled(const unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(bytes[i], byte_of(i, seed));
}

/* ---- Touching what is frozen -------------------------------------------------------------------------------- */

#define HELD_BYTES 20000

static unsigned char *_Atomic held;

static void holds(void *unused)
{
    unsigned char bytes[HELD_BYTES];
    (void)unused;
    fill(bytes, sizeof(bytes), 1);
    atomic_store(&held, bytes);
    CHECK_EQ(cr_park(), 0);
    check_filled(bytes, sizeof(bytes), 2);
}

static struct cr_co *hold(void)
{
    struct cr_co *co;
    uint64_t before = counts_now().frozen;
    atomic_store(&held, NULL);
    CHECK_EQ(cr_spawn(&co, holds, NULL, &on_virtual), 0);
    wait_until_frozen(before + 1);
    return co;
}

static void let_go(struct cr_co *co)
{
    CHECK_EQ(cr_unpark(co), 0);
    CHECK_EQ(cr_join(co), 0);
}

static void reads_and_writes_it(void *unused)
{
    (void)unused;
    for (int round = 0; round < 10; round++) {
        struct cr_co *co = hold();
        uint64_t before = counts_now().touched;
        if (round % 2) { /* the first to touch it writes */
            held[HELD_BYTES / 2] = byte_of(HELD_BYTES / 2, 2);
            held[HELD_BYTES / 2] = byte_of(HELD_BYTES / 2, 1);
        }
        check_filled(held, HELD_BYTES, 1);
        CHECK_EQ(counts_now().touched, before + 1);
        fill(held, HELD_BYTES, 2);
        let_go(co);
    }
}

TEST(a_pointer_into_a_frozen_stack_reads_and_writes_what_lies_there)
{
    needs_freezing();
    CHECK_EQ(cr_run(reads_and_writes_it, NULL, &at_once), 0);
}

static void goes_on_by_itself(void *unused)
{
    (void)unused;
    struct cr_co *co = hold();
    fill(held, HELD_BYTES, 2);
    struct cr_mem_stats before = counts_now();
    CHECK_EQ(cr_unpark(co), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(counts_now().touched, before.touched);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(cr_spawn(&co, holds, NULL, &on_virtual), 0);
        before = counts_now();
        wait_until_frozen(before.frozen + 1);
        fill(held, HELD_BYTES, 2); /* thawed by a touch: who goes on finds it so */
        let_go(co);
    }
}

TEST(one_that_was_thawed_by_a_touch_goes_on)
{
    needs_freezing();
    CHECK_EQ(cr_run(goes_on_by_itself, NULL, &at_once), 0);
}

/* ---- Races -------------------------------------------------------------------------------------------------- */

#define HOLDERS 48
#define CELLS 6 /* on several pages */
#define CELL_STEP 1000

static _Atomic bool over;
static _Atomic(uint64_t) *_Atomic cells_of[HOLDERS];
static _Atomic uint64_t added[HOLDERS], ended;

static void holds_cells(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg;
    _Atomic(uint64_t) cells[CELLS * CELL_STEP];
    uint64_t sum = 0;
    for (int i = 0; i < CELLS; i++)
        atomic_init(&cells[i * CELL_STEP], 0);
    atomic_store(&cells_of[me], cells);
    while (!atomic_load(&over))
        CHECK_EQ(cr_sleep((int64_t)(1 + me % 5) * CR_MS), 0);
    while (cells_of[me] != NULL) /* whoever was just about to add has */
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 0; i < CELLS; i++)
        sum += cells[i * CELL_STEP];
    CHECK_EQ(sum, added[me]);
    atomic_fetch_add(&ended, 1);
}

static bool enough(const struct cr_mem_stats *before)
{
    struct cr_mem_stats now = counts_now();
    return now.frozen > before->frozen + 2000 && now.touched > before->touched + 500 && now.thawed > before->thawed + 500;
}

static void adds(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (unsigned i = 0; !atomic_load(&over); i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t whose = (size_t)(random >> 33) % HOLDERS, which = (size_t)(random >> 45) % CELLS;
        _Atomic(uint64_t) *cells = atomic_load(&cells_of[whose]);
        if (cells) {
            atomic_fetch_add(&cells[which * CELL_STEP], 1);
            atomic_fetch_add(&added[whose], 1);
        }
        if (i % 8 == 0)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
    }
    atomic_fetch_add(&ended, 1);
}

static void race(void *unused)
{
    (void)unused;
    struct cr_mem_stats before = counts_now();
    for (unsigned i = 0; i < HOLDERS; i++)
        CHECK_EQ(cr_spawn_on(NULL, i % 3, holds_cells, (void *)(uintptr_t)i, &(struct cr_attr){.stack = CR_STACK_VIRTUAL, .stack_size_bytes = 128 << 10}), 0);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(cr_go_on(i, adds, (void *)(uintptr_t)(i + 1)), 0);
    while (!enough(&before))
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
    atomic_store(&over, true);
    while (ended < 3)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (unsigned i = 0; i < HOLDERS; i++)
        atomic_store(&cells_of[i], NULL);
    while (ended < 3 + HOLDERS)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    struct cr_mem_stats now = counts_now();
    printf("# frozen %llu, thawed by their coroutine %llu, by a touch %llu\n", (unsigned long long)(now.frozen - before.frozen),
           (unsigned long long)(now.thawed - before.thawed), (unsigned long long)(now.touched - before.touched));
}

TEST(what_several_workers_add_to_stacks_that_are_frozen_and_thawed_is_not_lost)
{
    needs_freezing();
    CHECK_EQ(cr_run(race, NULL, &at_once_on_three), 0);
    CHECK_EQ(ended, 3 + HOLDERS);
}

static _Atomic unsigned round_now, seen;

static void looks_each_round(void *unused)
{
    (void)unused;
    for (unsigned mine = 1; mine <= 200; mine++) {
        while (atomic_load(&round_now) < mine)
            sched_yield();
        unsigned char *bytes = atomic_load(&held);
        for (size_t i = 0; i < HELD_BYTES; i += 100)
            CHECK_EQ(bytes[i], byte_of(i, 1));
        atomic_fetch_add(&seen, 1);
    }
}

static void holds_each_round(void *unused)
{
    unsigned char bytes[HELD_BYTES];
    (void)unused;
    fill(bytes, sizeof(bytes), 1);
    atomic_store(&held, bytes);
    for (unsigned mine = 1; mine <= 200; mine++) {
        CHECK_EQ(cr_park(), 0);
        check_filled(bytes, sizeof(bytes), 1);
        while (atomic_load(&seen) < 2 * mine)
            CHECK_EQ(cr_yield(), 0);
    }
}

/* Two workers touch it at the moment at which it goes on on the third. */
static void meets(void *unused)
{
    (void)unused;
    struct cr_co *co, *lookers[2];
    struct cr_mem_stats first = counts_now();
    CHECK_EQ(cr_spawn_on(&co, 0, holds_each_round, NULL, &on_virtual), 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(cr_spawn_on(&lookers[i], 1 + i, looks_each_round, NULL, NULL), 0);
    for (unsigned mine = 1; mine <= 200; mine++) {
        wait_until_frozen(first.frozen + mine);
        atomic_store(&round_now, mine);
        CHECK_EQ(cr_unpark(co), 0);
        while (atomic_load(&seen) < 2 * mine)
            CHECK_EQ(cr_sleep(CR_MS / 10), 0);
    }
    CHECK_EQ(cr_join(co), 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(cr_join(lookers[i]), 0);
    struct cr_mem_stats now = counts_now();
    CHECK(now.frozen - first.frozen >= 200);
    CHECK(now.touched + now.thawed - first.touched - first.thawed >= 200);
}

TEST(several_that_touch_one_at_once_and_its_own_coroutine_all_find_what_was_there)
{
    needs_freezing();
    CHECK_EQ(cr_run(meets, NULL, &(struct cr_config){.workers = 3, .stack = CR_STACK_STATIC, .freeze_after_ns = 1, .slow_ns = -1}), 0);
}

/* ---- The kernel and frozen stacks --------------------------------------------------------------------------- */

static void moves_by_system_calls(void *unused)
{
    (void)unused;
    enum { PART = 9000 };
    int ends[2];
    struct cr_conn *in, *out, *file;
    char path[] = "/tmp/crore-stacks-XXXXXX";
    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    CHECK_EQ(cr_conn_from_fd(&in, ends[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&out, ends[1]), 0);
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(cr_conn_from_fd(&file, fd), 0);

    struct cr_co *co = hold();
    CHECK(write(ends[1], held, PART) == -1 && errno == EFAULT); /* as the documentation says of calls that are not crore's */
    CHECK_EQ(cr_write_all(out, held, PART), PART);
    fill(held, HELD_BYTES, 2);
    let_go(co);

    co = hold();
    uint64_t before = counts_now().touched;
    fill(held, HELD_BYTES, 2);
    CHECK_EQ(counts_now().touched, before + 1);
    let_go(co);

    co = hold();
    before = counts_now().touched;
    for (size_t done = 0; done < PART;) {
        ssize_t n = cr_read(in, held + done, PART - done);
        CHECK(n > 0);
        done += (size_t)n;
    }
    CHECK_EQ(counts_now().touched, before + 1);
    check_filled(held, HELD_BYTES, 1);
    fill(held, HELD_BYTES, 2);
    let_go(co);

    co = hold();
    CHECK_EQ(cr_pwrite(file, held, HELD_BYTES, 0), HELD_BYTES);
    fill(held, HELD_BYTES, 2);
    let_go(co);
    co = hold();
    CHECK_EQ(cr_pread(file, held, HELD_BYTES, 0), HELD_BYTES);
    check_filled(held, HELD_BYTES, 1);
    fill(held, HELD_BYTES, 2);
    let_go(co);
    cr_close(file);
    cr_close(in);
    cr_close(out);
}

TEST(calls_of_the_runtime_take_buffers_on_frozen_stacks)
{
    needs_freezing();
    CHECK_EQ(cr_run(moves_by_system_calls, NULL, &at_once), 0);
    if (test_uring_refused())
        return;
    struct cr_config over_uring = at_once;
    over_uring.poller = CR_POLLER_URING;
    CHECK_EQ(cr_run(moves_by_system_calls, NULL, &over_uring), 0);
}

static void forks(void *unused)
{
    (void)unused;
    struct cr_co *co = hold();
    uint64_t frozen_before = counts_now().frozen;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(cr_yield() == -EPERM && cr_sleep(1) == -EPERM ? 42 : 1);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    child = fork();
    if (child == 0)
        _exit(held[0]); /* nobody thaws it there */
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(counts_now().frozen, frozen_before);
    check_filled(held, HELD_BYTES, 1);
    fill(held, HELD_BYTES, 2);
    let_go(co);
}

TEST(in_a_child_of_fork_frozen_stacks_are_guarded_and_the_parent_goes_on)
{
    needs_freezing();
    CHECK_EQ(cr_run(forks, NULL, &at_once), 0);
}

static void holds_until_frozen(void *unused)
{
    uint64_t before = counts_now().frozen;
    struct cr_co *co = hold();
    (void)unused;
    CHECK(counts_now().frozen > before);
    check_filled(held, HELD_BYTES, 1);
    fill(held, HELD_BYTES, 2);
    let_go(co);
}

static void freezes_in_a_child(void)
{
    _exit(cr_run(holds_until_frozen, NULL, &at_once) == 0 ? 42 : 1);
}

TEST(a_runtime_in_a_child_of_fork_freezes_its_own_stacks)
{
    static char text[4096];
    needs_freezing();
    CHECK_EQ(cr_run(holds_until_frozen, NULL, &at_once), 0);
    int status = test_capture(freezes_in_a_child, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK_EQ(cr_run(holds_until_frozen, NULL, &at_once), 0);
}

enum { BATCH = 3, LIVE_BYTES = 9000 };
static struct cr__stack batch[BATCH];
static _Atomic bool batch_is_over;

/* Touches what is being frozen: what it sees is right at any time, and no page of its own making gets in the way. */
static void *reads_the_batch(void *unused)
{
    void *saved;
    CHECK_EQ(cr__overflow_enter(cr__co_describe, &saved), 0);
    while (!batch_is_over) {
        for (int i = 0; i < BATCH; i++)
            check_filled((unsigned char *)batch[i].top - LIVE_BYTES, LIVE_BYTES, (unsigned)i);
    }
    cr__overflow_leave(saved);
    return unused;
}

static void freezes_without_guards(void)
{
    struct cr__stack_pool pool;
    struct cr__images images;
    pthread_t reader;
    needs_freezing(); /* this process, too */
    cr__images_init(&images);
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    pool.is_virtual = true;
    for (int i = 0; i < BATCH; i++) {
        CHECK_EQ(cr__stack_get(&pool, 65536, &batch[i]), 0);
        fill((unsigned char *)batch[i].top - LIVE_BYTES, LIVE_BYTES, (unsigned)i);
    }
    answer_for_kernel(SYS_process_madvise, ANY, ENOMEM);
    CHECK_EQ(pthread_create(&reader, NULL, reads_the_batch, NULL), 0);
    for (int round = 0; round < 300; round++) {
        struct cr__freezing f = {.images = &images};
        for (int i = 0; i < BATCH; i++) {
            char *low, *top;
            struct cr__slot *slot = cr__stack_slot(cr__virtual_chunk(batch[i].top - 1), batch[i].top - 1, &low, &top);
            CHECK(cr__freeze_add(&f, slot, low, batch[i].top - LIVE_BYTES, top));
        }
        CHECK_EQ(cr__freeze(&f), 0);
    }
    batch_is_over = true;
    CHECK_EQ(pthread_join(reader, NULL), 0);
    for (int i = 0; i < BATCH; i++)
        check_filled((unsigned char *)batch[i].top - LIVE_BYTES, LIVE_BYTES, (unsigned)i);
    _exit(42);
}

TEST(nothing_is_lost_where_guards_are_refused_at_the_last_moment)
{
    static char text[4096];
    needs_freezing();
    int status = test_capture(freezes_without_guards, text, sizeof(text));
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED)
        SKIP("no seccomp filters here");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void parks_a_while(void *unused)
{
    unsigned char bytes[3000];
    (void)unused;
    fill(bytes, sizeof(bytes), 3);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    check_filled(bytes, sizeof(bytes), 3);
}

static void spawns_virtual_ones(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < 40; i++)
        CHECK_EQ(cr_spawn_on(NULL, i % 2, parks_a_while, NULL, &on_virtual), 0);
}

static void runs_without_userfaultfd(void)
{
    answer_for_kernel(SYS_userfaultfd, ANY, EPERM);
    int r = cr_run(spawns_virtual_ones, NULL, &(struct cr_config){.workers = 2, .stack = CR_STACK_STATIC, .freeze_after_ns = 1});
    _exit(r == 0 && counts_now().frozen == 0 ? 42 : 1);
}

TEST(without_userfaultfd_virtual_stacks_are_not_frozen_and_it_is_said_once)
{
    static char text[4096];
    int status = test_capture(runs_without_userfaultfd, text, sizeof(text));
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED)
        SKIP("no seccomp filters here");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
#ifdef WITH_ASAN
    CHECK_STR(text, "crore: virtual stacks are not frozen: AddressSanitizer must see each touch itself\n");
#elif defined(TEST_THREADS_SANITIZED)
    CHECK_STR(text, "crore: virtual stacks are not frozen: ThreadSanitizer touches memory ");
#else
    CHECK_STR(text, "crore: virtual stacks are not frozen: userfaultfd is refused\n");
#endif
    CHECK(!strstr(strstr(text, "not frozen") + 1, "not frozen"));
}

static void dumps(void *unused)
{
    enum { MANY = 20 };
    static char text[16384];
    struct cr_co *cos[MANY];
    (void)unused;
    uint64_t before = counts_now().frozen;
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_spawn(&cos[i], holds, NULL, &on_virtual), 0);
    wait_until_frozen(before + MANY);
    struct cr_mem_stats then = counts_now();
    int fd = memfd_create("dump", MFD_CLOEXEC);
    CHECK_EQ(cr_dump(fd), 0);
    CHECK(pread(fd, text, sizeof(text) - 1, 0) > 0);
    close(fd);
    struct cr_mem_stats now = counts_now();
    CHECK_EQ(now.touched, then.touched);
    CHECK_EQ(now.thawed, then.thawed);
    CHECK_EQ(now.frozen, then.frozen);
    CHECK_STR(text, "20 in holds wait");
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_cancel(cos[i]), 0);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(cr_detach(cos[i]), 0);
    _exit(0); /* what they hold is not what they would look for */
}

TEST(a_dump_thaws_nothing)
{
    needs_freezing();
    CHECK_EQ(cr_run(dumps, NULL, &at_once), 0);
}

/* ---- The budget --------------------------------------------------------------------------------------------- */

static struct cr_waitgroup gate;
static int parked, gone;

static void waits_at_the_gate(void *arg)
{
    unsigned char bytes[200];
    fill(bytes, sizeof(bytes), (unsigned)(uintptr_t)arg);
    parked++;
    CHECK_EQ(cr_waitgroup_wait(&gate), 0);
    check_filled(bytes, sizeof(bytes), (unsigned)(uintptr_t)arg);
    gone++;
}

#define MANY_TIMES 12000
#define SMALL_BUDGET ((uint64_t)20 << 20) /* as static stacks they would count 54 MiB */

static void spawns_more_than_fit(void *attr)
{
    int refused = 0;
    CHECK_EQ(cr_waitgroup_add(&gate, 1), 0);
    for (int i = 0; i < MANY_TIMES; i++) {
        int r;
        while ((r = cr_spawn(NULL, waits_at_the_gate, (void *)(intptr_t)i, attr)) == -ENOMEM) {
            refused++;
            CHECK_EQ(cr_sleep(CR_MS), 0); /* those that there are begin, and park */
        }
        CHECK_EQ(r, 0);
    }
    while (parked < MANY_TIMES)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(refused > 0);
    CHECK_EQ(cr_waitgroup_done(&gate), 0);
    while (gone < MANY_TIMES)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

TEST(when_the_budget_is_nearly_used_up_parked_stacks_are_frozen_before_their_time)
{
    needs_freezing();
    CHECK_EQ(cr_run(spawns_more_than_fit, (void *)&on_virtual,
                    &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = SMALL_BUDGET, .freeze_after_ns = 3600 * CR_SEC}), 0);
    CHECK(counts_now().frozen > MANY_TIMES / 2);
}

TEST(parked_on_shared_stacks_they_count_their_images)
{
#ifdef WITH_ASAN
    SKIP("AddressSanitizer's builds have static stacks instead");
#endif
    CHECK_EQ(cr_run(spawns_more_than_fit, (void *)&on_shared, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .memory_budget_bytes = SMALL_BUDGET}), 0);
}

/* ---- Taking turns on shared stacks -------------------------------------------------------------------------- */

static char *_Atomic places[8];

static void shows_its_place(void *arg)
{
    char here = 0;
    places[(uintptr_t)arg] = &here;
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(here, 0);
}

static void compares_places(void *unused)
{
    (void)unused;
    struct cr_co *cos[8];
    for (uintptr_t i = 0; i < 8; i++)
        CHECK_EQ(cr_spawn(&cos[i], shows_its_place, (void *)i, &on_shared), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    for (int i = 1; i < 8; i++) {
#ifdef WITH_ASAN
        CHECK(places[i] != places[0]);
#else
        CHECK(places[i] == places[0]);
#endif
    }
}

TEST(shared_stacks_are_common_ones_and_static_with_address_sanitizer)
{
    CHECK_EQ(cr_run(compares_places, NULL, &one_shared), 0);
}

/* As deep as it likes, yielding on the way. */
static __attribute__((noinline)) void go_down(unsigned seed, unsigned depth)
{
    unsigned char bytes[300];
    fill(bytes, sizeof(bytes), seed);
    CHECK_EQ(cr_yield(), 0);
    check_filled(bytes, sizeof(bytes), seed);
    if (depth > 0)
        go_down(seed + 1, depth - 1);
    CHECK_EQ(cr_yield(), 0);
    check_filled(bytes, sizeof(bytes), seed);
}

static int arrived;

static void goes_up_and_down(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    for (unsigned i = 0; i < 20; i++)
        go_down(me + i, (me * 5 + i * 3) % 20);
    arrived++;
}

static void takes_memory_away(void *unused)
{
    enum { MANY = 30 };
    struct cr_stats stats;
    (void)unused;
    for (uintptr_t i = 0; i < MANY; i++)
        CHECK_EQ(cr_spawn(NULL, goes_up_and_down, (void *)i, &on_shared), 0);
    for (unsigned i = 0; arrived < MANY; i++) {
        if (i % 2)
            cr__mem_fail_after(1);
        CHECK_EQ(cr_sleep(2 * CR_MS), 0);
        cr__mem_fail_after(0);
        CHECK_EQ(cr_yield(), 0);
    }
    CHECK_EQ(cr_stats_get(&stats), 0);
    printf("# %llu waits for a stack\n", (unsigned long long)stats.stack_waits);
}

TEST(without_memory_for_images_they_get_their_turn_later_and_lose_nothing)
{
    for (unsigned stacks = 1; stacks <= 3; stacks++) {
        arrived = 0;
        CHECK_EQ(cr_run(takes_memory_away, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .shared_stacks = stacks}), 0);
        CHECK_EQ(arrived, 30);
    }
}

/* ---- What is handed over while they wait -------------------------------------------------------------------- */

#define ITEM_BYTES 150
#define ITEMS 200

static struct cr_chan *chan, *second;
static int received;

static void receives_into_a_local(void *selects)
{
    for (;;) {
        unsigned char item[ITEM_BYTES], other[ITEM_BYTES], around[100];
        memset(around, 0x77, sizeof(around));
        memset(other, 0x66, sizeof(other));
        struct cr_case cases[2] = {{CR_RECV, chan, item, 0}, {CR_RECV, second, other, 0}};
        int r = selects ? cr_select(cases, 2) : cr_chan_recv(chan, item);
        if (selects && r >= 0)
            r = cases[r].result;
        if (r == -EPIPE)
            return;
        CHECK(r >= 0);
        check_filled(item, sizeof(item), item[0]);
        for (size_t i = 0; i < sizeof(around); i++)
            CHECK_EQ(around[i], 0x77);
        for (size_t i = 0; i < sizeof(other); i++)
            CHECK_EQ(other[i], 0x66); /* nothing was sent there */
        received++;
    }
}

static void sends_a_local(void *selects)
{
    for (unsigned i = 0; i < ITEMS; i++) {
        unsigned char item[ITEM_BYTES];
        fill(item, sizeof(item), i);
        struct cr_case cases[1] = {{CR_SEND, chan, item, 0}};
        if (selects)
            CHECK_EQ(cr_select(cases, 1), 0);
        else
            CHECK_EQ(cr_chan_send(chan, item), 0);
        check_filled(item, sizeof(item), i);
    }
}

static void hands_over(void *unused)
{
    (void)unused;
    for (size_t capacity = 0; capacity < 3; capacity += 2) {
        struct cr_co *cos[8];
        received = 0;
        CHECK_EQ(cr_chan_create(&chan, ITEM_BYTES, capacity), 0);
        CHECK_EQ(cr_chan_create(&second, ITEM_BYTES, 0), 0);
        for (uintptr_t i = 0; i < 4; i++) {
            CHECK_EQ(cr_spawn(&cos[i], receives_into_a_local, (void *)(i % 2), &on_shared), 0);
            CHECK_EQ(cr_spawn(&cos[4 + i], sends_a_local, (void *)(i % 2), &on_shared), 0);
        }
        for (int i = 4; i < 8; i++)
            CHECK_EQ(cr_join(cos[i]), 0);
        CHECK_EQ(cr_chan_close(chan), 0);
        CHECK_EQ(cr_chan_close(second), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_join(cos[i]), 0);
        CHECK_EQ(received, 4 * ITEMS);
        CHECK_EQ(cr_chan_destroy(chan), 0);
        CHECK_EQ(cr_chan_destroy(second), 0);
    }
}

TEST(channels_and_select_deliver_into_locals_on_shared_stacks)
{
    CHECK_EQ(cr_run(hands_over, NULL, &one_shared), 0);
    struct cr_config on_virtual_ones = at_once; /* frozen: the sender writes there */
    CHECK_EQ(cr_run(hands_over, NULL, &on_virtual_ones), 0);
}

#define PART_BYTES 5000
static struct cr_conn *file;

static void reads_parts(void *arg)
{
    for (unsigned i = 0; i < 30; i++) {
        unsigned char part[PART_BYTES];
        size_t from = ((uintptr_t)arg * 37 + i * 11) % 40;
        posix_fadvise(cr_conn_fd(file), 0, 0, POSIX_FADV_DONTNEED);
        CHECK_EQ(cr_pread(file, part, sizeof(part), (int64_t)(from * PART_BYTES)), PART_BYTES);
        check_filled(part, sizeof(part), (unsigned)from);
        CHECK_EQ(cr_pwrite(file, part, sizeof(part), (int64_t)(from * PART_BYTES)), PART_BYTES);
        CHECK_EQ(cr_yield(), 0);
        check_filled(part, sizeof(part), (unsigned)from);
    }
}

static void reads_by_many(void *unused)
{
    char path[] = "/var/tmp/crore-stacks-XXXXXX";
    struct cr_co *cos[10];
    (void)unused;
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    for (unsigned i = 0; i < 40; i++) {
        unsigned char part[PART_BYTES];
        fill(part, sizeof(part), i);
        CHECK_EQ(write(fd, part, sizeof(part)), PART_BYTES);
    }
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(cr_conn_from_fd(&file, fd), 0);
    for (uintptr_t i = 0; i < 10; i++)
        CHECK_EQ(cr_spawn(&cos[i], reads_parts, (void *)i, &on_shared), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    cr_close(file);
}

TEST(files_are_read_into_locals_on_shared_stacks_by_threads_and_by_io_uring)
{
    CHECK_EQ(cr_run(reads_by_many, NULL, &one_shared), 0);
    if (test_uring_refused())
        return;
    struct cr_config over_uring = one_shared;
    over_uring.poller = CR_POLLER_URING;
    CHECK_EQ(cr_run(reads_by_many, NULL, &over_uring), 0);
}

/* ---- Bare coroutines inside others -------------------------------------------------------------------------- */

static void *counts_up(void *first)
{
    unsigned char bytes[400];
    uintptr_t n = (uintptr_t)first;
    fill(bytes, sizeof(bytes), (unsigned)n);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(i % 2 ? cr_sleep(CR_MS) : cr_yield(), 0);
        check_filled(bytes, sizeof(bytes), (unsigned)(uintptr_t)first);
        void *value = (void *)n++;
        CHECK_EQ(cr_co_yield(&value), 0);
    }
    return (void *)n;
}

static enum cr_stack_kind inner;

static void uses_bare_ones(void *arg)
{
    uintptr_t first = (uintptr_t)arg * 1000;
    unsigned char bytes[500];
    struct cr_co *a, *b;
    const struct cr_attr attr = {.stack = inner};
    fill(bytes, sizeof(bytes), (unsigned)first);
    CHECK_EQ(cr_co_create(&a, counts_up, &attr), 0);
    CHECK_EQ(cr_co_create(&b, counts_up, &attr), 0);
    for (uintptr_t i = 0; i <= 10; i++) {
        void *va = (void *)first, *vb = (void *)(first + 500);
        CHECK(cr_co_resume(a, &va) >= 0);
        CHECK(cr_co_resume(b, &vb) >= 0);
        CHECK_EQ((uintptr_t)va, first + i);
        CHECK_EQ((uintptr_t)vb, first + 500 + i);
        check_filled(bytes, sizeof(bytes), (unsigned)first);
    }
    CHECK_EQ(cr_co_status(a), CR_CO_ENDED);
    CHECK_EQ(cr_co_destroy(a), 0);
    CHECK_EQ(cr_co_destroy(b), 0);
    arrived++;
}

static void nests(void *attr)
{
    arrived = 0;
    for (uintptr_t i = 0; i < 12; i++)
        CHECK_EQ(cr_spawn(NULL, uses_bare_ones, (void *)i, attr), 0);
    while (arrived < 12)
        CHECK_EQ(cr_sleep(CR_MS), 0);
}

TEST(bare_coroutines_of_each_kind_inside_scheduled_ones_of_each_kind)
{
    for (inner = CR_STACK_STATIC; inner <= CR_STACK_SHARED; inner++) {
        for (enum cr_stack_kind outer = CR_STACK_STATIC; outer <= CR_STACK_SHARED; outer++) {
            struct cr_attr attr = {.stack = outer};
            CHECK_EQ(cr_run(nests, &attr, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .freeze_after_ns = 1, .shared_stacks = 2}), 0);
        }
    }
}

/* ---- Attributes --------------------------------------------------------------------------------------------- */

static _Atomic int moved;

static void stays(void *unused)
{
    int here = cr_worker_index();
    (void)unused;
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(i % 5 ? cr_yield() : cr_sleep(100 * CR_US), 0);
        moved += cr_worker_index() != here;
    }
}

static void spawns_wanderers(void *unused)
{
    struct cr_co *cos[100];
    (void)unused;
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_spawn(&cos[i], stays, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED, .flags = CR_MIGRATABLE}), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
}

TEST(once_started_on_a_shared_stack_one_that_may_migrate_stays)
{
#ifdef WITH_ASAN
    SKIP("AddressSanitizer's builds have static stacks instead");
#endif
    CHECK_EQ(cr_run(spawns_wanderers, NULL, &at_once_on_three), 0);
    CHECK_EQ(moved, 0);
}

static int ran;

static void runs(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_yield(), 0);
    ran++;
}

static void asks_for_all_sizes(void *unused)
{
    (void)unused;
    ran = 0;
    for (size_t size = 4096; size <= (size_t)64 << 20; size *= 2) {
        for (enum cr_stack_kind kind = CR_STACK_STATIC; kind <= CR_STACK_SHARED; kind++)
            CHECK_EQ(cr_spawn(NULL, runs, NULL, &(struct cr_attr){.stack = kind, .stack_size_bytes = size < 16384 ? 16384 : size + 1}), 0);
    }
    while (ran < 15 * 3)
        CHECK_EQ(cr_yield(), 0);
}

TEST(each_kind_has_any_size)
{
    CHECK_EQ(cr_run(asks_for_all_sizes, NULL, &one_shared), 0);
}

/* ---- Running off -------------------------------------------------------------------------------------------- */

static enum cr_stack_kind kind_to_run_off;

static void overflows(void *unused)
{
    CHECK_EQ(cr_yield(), 0);
    (void)digger(unused);
}

static void spawns_overflow(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_spawn(NULL, overflows, NULL, &(struct cr_attr){.name = "the digger", .stack = kind_to_run_off, .stack_size_bytes = 128 << 10}), 0);
}

static void runs_off(void)
{
    _exit(cr_run(spawns_overflow, NULL, &one_shared));
}

static void runs_off_a_bare_one(void)
{
    struct cr_co *co;
    CHECK_EQ(cr_co_create(&co, digger, &(struct cr_attr){.name = "the digger", .stack = kind_to_run_off, .stack_size_bytes = 128 << 10}), 0);
    _exit(cr_co_resume(co, NULL));
}

TEST(an_overflow_of_each_kind_is_named_with_kind_size_and_call)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192], said[128];
    static const char *const names[] = {[CR_STACK_STATIC] = "static", [CR_STACK_VIRTUAL] = "virtual", [CR_STACK_SHARED] = "shared"};
    for (kind_to_run_off = CR_STACK_STATIC; kind_to_run_off <= CR_STACK_SHARED; kind_to_run_off++) {
        snprintf(said, sizeof(said), "\"the digger\" ran off its %s stack of 131072 bytes", names[kind_to_run_off]);
        for (int bare = 0; bare < 2; bare++) {
            int status = test_capture(bare ? runs_off_a_bare_one : runs_off, text, sizeof(text));
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
            if (!strstr(text, said))
                printf("# in: %s\n", text);
            CHECK(strstr(text, said));
#ifdef CR_TEST_SYMBOLS
            CHECK_STR(text, "dig+0x");
#endif
        }
    }
}
