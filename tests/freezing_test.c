/* Freezing and thawing, by behaviour: whoever touches what is frozen, the kernel among them. That the whole suite runs while stacks are frozen is shown by running it so
 * (meson.build). */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>

#include "kernel.h"
#include "stacks.h"

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
    unsigned here = (unsigned)cr_worker_index();
    CHECK_EQ(cr_spawn_on(&co, here, holds_each_round, NULL, &on_virtual), 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(cr_spawn_on(&lookers[i], (here + 1 + i) % 3, looks_each_round, NULL, NULL), 0);
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
    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    CHECK_EQ(cr_conn_from_fd(&in, ends[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&out, ends[1]), 0);
    CHECK_EQ(cr_conn_from_fd(&file, test_file("/tmp")), 0);

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
}

TEST(over_io_uring_calls_of_the_runtime_take_buffers_on_frozen_stacks)
{
    needs_freezing();
    run_over_uring(moves_by_system_calls, at_once);
}

static void withholds_a_page_of_its_own(void *unused)
{
    char bytes[16384], *page = (char *)(((uintptr_t)bytes + 4095) & ~(uintptr_t)4095);
    (void)unused;
    page[0] = 1;
    CHECK_EQ(mprotect(page, 4096, PROT_READ), 0);
    *(volatile char *)page = 2;
    _exit(1);
}

static void spawns_who_withholds(void *unused)
{
    (void)unused;
    struct cr_co *co = hold();
    fill(held, HELD_BYTES, 2);
    let_go(co); /* some have been frozen and thawed */
    CHECK_EQ(cr_spawn(NULL, withholds_a_page_of_its_own, NULL, &on_virtual), 0);
}

static void crashes_by_itself(void)
{
    alarm(10);
    _exit(cr_run(spawns_who_withholds, NULL, &at_once));
}

TEST(a_page_that_the_program_itself_has_protected_is_its_own_crash)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[4096];
    needs_freezing();
    int status = test_capture(crashes_by_itself, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* What a coroutine lends of its locals to other coroutines' calls. */
struct lent {
    char before[4096], bytes[500], path[32], after[4096];
    uint64_t count;
    struct cr_addr addr;
    struct iovec list[2];
    sigset_t set;
    siginfo_t info;
};
static struct lent first; /* as it is when it is lent */
static struct lent *_Atomic lent;

static void lends(void *unused)
{
    struct lent mine = first;
    (void)unused;
    mine.list[0] = mine.list[1] = (struct iovec){mine.bytes, 4};
    atomic_store(&lent, &mine);
    CHECK_EQ(cr_park(), 0);
}

/* Frozen from here on, until somebody touches it. */
static struct cr_co *lend(void)
{
    struct cr_co *co;
    uint64_t before = counts_now().frozen;
    CHECK_EQ(cr_spawn(&co, lends, NULL, &on_virtual), 0);
    wait_until_frozen(before + 1);
    return co;
}

static int64_t soon(void)
{
    return cr_after(5 * CR_SEC);
}

static struct cr_conn *conn_of(int fd)
{
    struct cr_conn *conn;
    CHECK_EQ(cr_conn_from_fd(&conn, fd), 0);
    return conn;
}

/* A datagram that the kernel has taken, a count, an expiry, a signal, would be lost with a call that fails when it copies. */
static void takes_what_comes_once(void *unused)
{
    (void)unused;
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    struct cr_conn *in = conn_of(ends[0]);
    struct cr_co *co = lend();
    CHECK_EQ(write(ends[1], "one", 3), 3);
    CHECK_EQ(cr_read_until(in, lent->bytes, sizeof(lent->bytes), soon()), 3);
    CHECK(memcmp(lent->bytes, "one", 3) == 0);
    let_go(co);
    co = lend();
    CHECK_EQ(write(ends[1], "second", 6), 6);
    CHECK_EQ(cr_readv_until(in, lent->list, 2, soon()), 6);
    CHECK(memcmp(lent->bytes, "nd", 2) == 0);
    let_go(co);

    struct cr_conn *server, *client;
    char where[64];
    CHECK_EQ(cr_bind(&server, "udp://127.0.0.1:0", NULL), 0);
    CHECK(cr_local_url(server, where, sizeof(where)) > 0);
    CHECK_EQ(cr_dial(&client, where, NULL), 0);
    co = lend();
    CHECK_EQ(cr_write(client, "three", 5), 5);
    CHECK_EQ(cr_recv_from_until(server, lent->bytes, sizeof(lent->bytes), NULL, soon()), 5);
    let_go(co);
    co = lend();
    CHECK_EQ(cr_write(client, "four", 4), 4);
    CHECK_EQ(cr_recv_from_until(server, where, sizeof(where), &lent->addr, soon()), 4);
    first.addr = lent->addr; /* the client's */
    let_go(co);
    co = lend();
    CHECK_EQ(cr_send_to_until(server, lent->bytes, 5, NULL, soon()), -EDESTADDRREQ);
    let_go(co);
    co = lend();
    CHECK_EQ(cr_send_to_until(server, "back", 4, &lent->addr, soon()), 4);
    CHECK_EQ(cr_read_until(client, where, sizeof(where), soon()), 4);
    let_go(co);

    uint64_t five = 5;
    int fd = eventfd(0, 0);
    struct cr_conn *event = conn_of(fd);
    co = lend();
    CHECK_EQ(write(fd, &five, sizeof(five)), sizeof(five));
    CHECK_EQ(cr_read_until(event, &lent->count, sizeof(lent->count), soon()), sizeof(lent->count));
    CHECK_EQ(lent->count, 5);
    let_go(co);

    fd = timerfd_create(CLOCK_MONOTONIC, 0);
    CHECK_EQ(timerfd_settime(fd, 0, &(struct itimerspec){.it_value = {0, 1000}}, NULL), 0);
    struct cr_conn *timer = conn_of(fd);
    co = lend();
    CHECK_EQ(cr_read_until(timer, &lent->count, sizeof(lent->count), soon()), sizeof(lent->count));
    CHECK_EQ(lent->count, 1);
    let_go(co);

    sigaddset(&first.set, SIGUSR1);
    co = lend();
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(cr_signal_wait_until(&lent->set, NULL, soon()), SIGUSR1);
    let_go(co);
    co = lend();
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(cr_signal_wait_until(&first.set, &lent->info, soon()), SIGUSR1);
    CHECK_EQ(lent->info.si_signo, SIGUSR1);
    let_go(co);

    struct cr_conn *opened;
    strcpy(first.path, "/dev/null");
    co = lend();
    CHECK_EQ(cr_file_open(&opened, lent->path, O_RDONLY, 0), 0);
    let_go(co);
    struct cr_conn *conns[] = {in, server, client, event, timer, opened};
    for (size_t i = 0; i < sizeof(conns) / sizeof(conns[0]); i++)
        cr_close(conns[i]);
    close(ends[1]);
}

TEST(nothing_that_comes_once_is_lost_on_a_frozen_stack)
{
    needs_freezing();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    CHECK_EQ(cr_run(takes_what_comes_once, NULL, &at_once), 0);
}

static _Atomic bool enough_lent;

static void lends_again_and_again(void *unused)
{
    struct lent mine = first;
    (void)unused;
    atomic_store(&lent, &mine);
    while (!enough_lent)
        CHECK_EQ(cr_sleep(50 * CR_US), 0);
}

static void receives_many(void *unused)
{
    struct cr_co *co;
    int ends[2];
    (void)unused;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    struct cr_conn *in = conn_of(ends[0]);
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), lends_again_and_again, NULL, &on_virtual), 0);
    while (!lent)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (uint64_t number = 0; counts_now().frozen < 300; number++) {
        CHECK_EQ(write(ends[1], &number, sizeof(number)), sizeof(number));
        CHECK_EQ(cr_read_until(in, &lent->count, sizeof(number), soon()), sizeof(number));
        CHECK_EQ(lent->count, number);
    }
    enough_lent = true;
    CHECK_EQ(cr_join(co), 0);
    cr_close(in);
    close(ends[1]);
}

TEST(nor_while_another_worker_freezes_it_again_and_again)
{
    needs_freezing();
    CHECK_EQ(cr_run(receives_many, NULL, &(struct cr_config){.workers = 2, .stack = CR_STACK_STATIC, .freeze_after_ns = 1, .slow_ns = -1}), 0);
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
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void holds_for_the_kernel(void *unused)
{
    static char staged[CR__STAGED_BYTES];
    int ends[2];
    (void)unused;
    CHECK_EQ(pipe(ends), 0);
    struct cr_co *co = hold();
    struct cr_mem_stats before = counts_now();
    cr__virtual_hold(held, staged);
    CHECK_EQ(counts_now().touched, before.touched + 1);
    CHECK_EQ(write(ends[1], held, 1000), 1000);
    cr__virtual_let_go(held);
    fill(held, HELD_BYTES, 2);
    let_go(co);

    atomic_store(&held, NULL);
    CHECK_EQ(cr_spawn(&co, holds, NULL, &on_virtual), 0);
    while (!held)
        CHECK_EQ(cr_yield(), 0);
    cr__virtual_hold(held, staged);
    before = counts_now();
    for (int i = 0; i < 30; i++)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(counts_now().frozen, before.frozen);
    CHECK_EQ(read(ends[0], held, 1000), 1000);
    cr__virtual_let_go(held);
    wait_until_frozen(before.frozen + 1);
    fill(held, HELD_BYTES, 2);
    let_go(co);
}

TEST(a_stack_on_which_the_kernel_has_a_buffer_is_not_frozen)
{
    needs_freezing();
    CHECK_EQ(cr_run(holds_for_the_kernel, NULL, &at_once), 0);
}

static _Atomic bool blocked, go_on;

static void fills_slowly(void *bytes)
{
    blocked = true;
    while (!go_on)
        usleep(1000);
    fill(bytes, 1000, 4);
}

static void blocks(void *unused)
{
    unsigned char bytes[1000];
    (void)unused;
    CHECK_EQ(cr_blocking(fills_slowly, bytes), 0);
    check_filled(bytes, sizeof(bytes), 4);
}

static void sees_one_block(void *unused)
{
    struct cr_co *co;
    (void)unused;
    uint64_t before = counts_now().frozen;
    CHECK_EQ(cr_spawn(&co, blocks, NULL, &on_virtual), 0);
    while (!blocked)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    struct cr_co *other = hold(); /* frozen since, and the first one is not */
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(counts_now().frozen, before + 1);
    fill(held, HELD_BYTES, 2);
    let_go(other);
    go_on = true;
    CHECK_EQ(cr_join(co), 0);
}

TEST(a_coroutine_in_cr_blocking_is_not_frozen)
{
    needs_freezing();
    CHECK_EQ(cr_run(sees_one_block, NULL, &at_once), 0);
}

static void refuses_this_worker(void *unused)
{
    (void)unused;
    answer_for_kernel(SYS_ioctl, ANY, ENOMEM); /* of this thread only */
}

static _Atomic bool looked_at;

static void holds_until_looked_at(void *unused)
{
    unsigned char bytes[HELD_BYTES];
    (void)unused;
    fill(bytes, sizeof(bytes), 1);
    atomic_store(&held, bytes);
    CHECK_EQ(cr_park(), 0);
    check_filled(bytes, sizeof(bytes), 1);
    while (!looked_at)
        CHECK_EQ(cr_yield(), 0);
}

static void lacks_memory_to_thaw(void *unused)
{
    struct cr_co *co, *refuser;
    (void)unused;
    uint64_t before = counts_now().frozen;
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), holds_until_looked_at, NULL, &on_virtual), 0);
    wait_until_frozen(before + 1);
    CHECK_EQ(cr_spawn_on(&refuser, !cr_worker_index(), refuses_this_worker, NULL, NULL), 0);
    CHECK_EQ(cr_join(refuser), 0);
    before = stack_waits();
    CHECK_EQ(cr_unpark(co), 0);
    while (stack_waits() < before + 3)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    check_filled(held, HELD_BYTES, 1); /* thawed for us, on another worker */
    looked_at = true;
    CHECK_EQ(cr_join(co), 0);
}

static void lacks_memory(void)
{
    _exit(cr_run(lacks_memory_to_thaw, NULL, &(struct cr_config){.workers = 2, .stack = CR_STACK_STATIC, .freeze_after_ns = 1}) == 0 ? 42 : 1);
}

TEST(without_memory_to_thaw_it_gets_its_turn_later_and_loses_nothing)
{
    static char text[4096];
    needs_freezing();
    int status = test_capture(lacks_memory, text, sizeof(text));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

/* Of two chunks whose states are side by side only what was asked for is frozen. */
TEST(neighbours_are_stacks_of_one_chunk)
{
    enum { SIZE = 256 << 10, MOST = 64 };
    static struct cr__stack stacks[MOST];
    static char staged[CR__STAGED_BYTES];
    struct cr__stack_pool pool;
    struct cr__images images;
    struct cr__slot states[2] = {0};
    int last = 0;
    needs_freezing();
    cr__images_init(&images);
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    pool.is_virtual = true;
    do {
        CHECK(last < MOST);
        CHECK_EQ(cr__stack_get(&pool, SIZE, &stacks[last]), 0);
        fill((unsigned char *)stacks[last].top - LIVE_BYTES, LIVE_BYTES, (unsigned)last);
    } while (cr__virtual_chunk(stacks[last++].top - 1) == cr__virtual_chunk(stacks[0].top - 1));
    last--;
    struct cr__freezing f = {.images = &images};
    for (int i = 0; i < 2; i++) {
        char *top = stacks[i ? last : 0].top;
        CHECK(cr__freeze_add(&f, &states[i], cr__stack_low(stacks[i ? last : 0]), top - LIVE_BYTES, top));
    }
    CHECK_EQ(cr__freeze(&f), 2);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr__thaw(&states[i], &images, stacks[i ? last : 0].top, staged), 0);
    for (int i = 0; i <= last; i++)
        check_filled((unsigned char *)stacks[i].top - LIVE_BYTES, LIVE_BYTES, (unsigned)i);
    cr__stack_pool_fini(&pool);
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
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
#ifdef CR__ASAN
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
