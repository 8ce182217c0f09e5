/* Common stacks, on which coroutines take turns, by behaviour. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "stacks.h"

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
#ifdef CR__ASAN
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
        if (i % 2 == 0) /* first, when all images are still to come */
            cr__mem_fail_after(1);
        CHECK_EQ(cr_sleep(2 * CR_MS), 0);
        cr__mem_fail_after(0);
        CHECK_EQ(cr_yield(), 0);
    }
    CHECK_EQ(cr_stats_get(&stats), 0);
    printf("# %llu waits for a stack\n", (unsigned long long)stats.stack_waits);
#ifndef CR__ASAN
    CHECK(stats.stack_waits > 0);
#endif
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

static void hands_over(void *attr)
{
    for (size_t capacity = 0; capacity < 3; capacity += 2) {
        struct cr_co *cos[8];
        received = 0;
        CHECK_EQ(cr_chan_create(&chan, ITEM_BYTES, capacity), 0);
        CHECK_EQ(cr_chan_create(&second, ITEM_BYTES, 0), 0);
        for (uintptr_t i = 0; i < 4; i++) {
            CHECK_EQ(cr_spawn(&cos[i], receives_into_a_local, (void *)(i % 2), attr), 0);
            CHECK_EQ(cr_spawn(&cos[4 + i], sends_a_local, (void *)(i % 2), attr), 0);
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

TEST(channels_and_select_deliver_into_locals_on_shared_stacks_and_on_frozen_ones)
{
    CHECK_EQ(cr_run(hands_over, (void *)(uintptr_t)&on_shared, &one_shared), 0);
    CHECK_EQ(cr_run(hands_over, (void *)(uintptr_t)&on_virtual, &at_once), 0); /* the sender writes there */
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
    struct cr_co *cos[10];
    (void)unused;
    int fd = test_file("/var/tmp");
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

TEST(files_are_read_into_locals_on_shared_stacks_by_threads)
{
    CHECK_EQ(cr_run(reads_by_many, NULL, &one_shared), 0);
}

TEST(files_are_read_into_locals_on_shared_stacks_by_io_uring)
{
    run_over_uring(reads_by_many, one_shared);
}

static char fifo[64];

static void reads_from_fifo(void *unused)
{
    char bytes[8] = "";
    struct cr_conn *end;
    (void)unused;
    CHECK_EQ(cr_file_open(&end, fifo, O_RDONLY, 0), 0);
    CHECK_EQ(cr_read(end, bytes, sizeof(bytes)), 4);
    CHECK(memcmp(bytes, "late", 4) == 0);
    cr_close(end);
}

static void writes_to_fifo(void *unused)
{
    char path[64], bytes[] = "late";
    struct cr_conn *end;
    (void)unused;
    strcpy(path, fifo);
    CHECK_EQ(cr_file_open(&end, path, O_WRONLY, 0), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0); /* the reader waits by now */
    CHECK_EQ(cr_write(end, bytes, 4), 4);
    cr_close(end);
}

static void uses_both_ends(void *unused)
{
    struct cr_co *reader, *writer;
    (void)unused;
    snprintf(fifo, sizeof(fifo), "/tmp/crore-fifo-%d", (int)getpid());
    CHECK_EQ(mkfifo(fifo, 0600), 0);
    CHECK_EQ(cr_spawn(&reader, reads_from_fifo, NULL, &on_shared), 0);
    CHECK_EQ(cr_spawn(&writer, writes_to_fifo, NULL, &on_shared), 0);
    int64_t until = cr_after(10 * CR_SEC);
    int r = cr_join_until(reader, until);
    unlink(fifo);
    CHECK_EQ(r, 0);
    CHECK_EQ(cr_join(writer), 0);
}

TEST(two_on_one_shared_stack_use_the_ends_of_a_fifo)
{
    CHECK_EQ(cr_run(uses_both_ends, NULL, &one_shared), 0);
}

TEST(over_io_uring_two_on_one_shared_stack_use_the_ends_of_a_fifo)
{
    run_over_uring(uses_both_ends, one_shared);
}

/* ---- Bare coroutines and their thread ------------------------------------------------------------------------ */

static void *yields(void *unused)
{
    unsigned char bytes[500];
    fill(bytes, sizeof(bytes), 9);
    while (cr_co_yield(NULL) == 0)
        check_filled(bytes, sizeof(bytes), 9);
    return unused;
}

static struct cr_co *bound[CR__SHARED_STACKS + 1]; /* so the first one has made room for the last one */

static void *binds(void *unused)
{
    for (int i = 0; i <= CR__SHARED_STACKS; i++) {
        CHECK_EQ(cr_co_create(&bound[i], yields, &on_shared), 0);
        CHECK_EQ(cr_co_resume(bound[i], NULL), 0);
    }
    return unused;
}

static void run_on_a_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static void *is_refused(void *unused)
{
    struct cr_co *own;
    CHECK_EQ(cr_co_resume(bound[0], NULL), -EXDEV);
    CHECK_EQ(cr_co_create(&own, yields, &on_shared), 0);
    CHECK_EQ(cr_co_resume(own, NULL), 0);
    for (int i = 0; i <= CR__SHARED_STACKS; i++)
        CHECK_EQ(cr_co_resume(bound[i], NULL), -EXDEV);
    CHECK_EQ(cr_co_resume(own, NULL), 0);
    CHECK_EQ(cr_co_destroy(own), 0);
    return unused;
}

TEST(a_bare_one_on_a_shared_stack_is_refused_by_a_thread_that_takes_the_place_of_its_own)
{
    NEEDS_SHARED();
    run_on_a_thread(binds, NULL);
    run_on_a_thread(is_refused, NULL); /* its records lie where the first one's did */
}

static pthread_barrier_t meeting;

static void *binds_and_stays(void *unused)
{
    (void)binds(unused);
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
    return unused;
}

static void *destroys_every_other(void *first)
{
    pthread_barrier_wait(&meeting);
    for (uintptr_t i = (uintptr_t)first; i <= CR__SHARED_STACKS; i += 2)
        CHECK_EQ(cr_co_destroy(bound[i]), 0);
    return NULL;
}

static void check_equal(struct cr_mem_stats a, struct cr_mem_stats b)
{
    CHECK_EQ(a.images_bytes, b.images_bytes);
    CHECK_EQ(a.other_bytes, b.other_bytes);
    CHECK_EQ(a.records_bytes, b.records_bytes);
    CHECK_EQ(a.stacks_bytes, b.stacks_bytes);
}

TEST(bare_ones_that_outlive_their_thread_may_be_destroyed_by_any_and_the_last_one_takes_all_along)
{
    NEEDS_SHARED();
    pthread_t home, others[2];
    struct cr_mem_stats before = counts_now();
    CHECK_EQ(pthread_barrier_init(&meeting, NULL, 2), 0);
    CHECK_EQ(pthread_create(&home, NULL, binds_and_stays, NULL), 0);
    pthread_barrier_wait(&meeting);
    for (int i = 0; i <= CR__SHARED_STACKS; i++)
        CHECK_EQ(cr_co_destroy(bound[i]), -EXDEV);
    pthread_barrier_wait(&meeting);
    CHECK_EQ(pthread_join(home, NULL), 0);
    CHECK_EQ(cr_co_resume(bound[0], NULL), -EXDEV);
    for (uintptr_t i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&others[i], NULL, destroys_every_other, (void *)i), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(others[i], NULL), 0);
    struct cr_mem_stats after = counts_now();
    CHECK_EQ(after.stacks_bytes, before.stacks_bytes);
    CHECK_EQ(after.images_bytes, before.images_bytes);
}

static void *uses_one(void *unused)
{
    struct cr_co *co;
    CHECK_EQ(cr_co_create(&co, yields, &on_shared), 0);
    CHECK_EQ(cr_co_resume(co, NULL), 0);
    CHECK_EQ(cr_co_destroy(co), 0);
    return unused;
}

static pthread_key_t later;

static void uses(void *unused)
{
    (void)uses_one(unused);
}

static void *uses_one_and_another_when_it_leaves(void *unused)
{
    (void)uses_one(unused);
    CHECK_EQ(pthread_setspecific(later, &later), 0);
    return unused;
}

TEST(a_thread_that_has_used_bare_ones_on_shared_stacks_leaves_nothing_behind)
{
    (void)uses_one(NULL);
    CHECK_EQ(pthread_key_create(&later, uses), 0); /* after the runtime's own */
    run_on_a_thread(uses_one, NULL);
    struct cr_mem_stats before = counts_now();
    for (int i = 0; i < 3; i++) {
        run_on_a_thread(uses_one, NULL);
        check_equal(counts_now(), before);
        run_on_a_thread(uses_one_and_another_when_it_leaves, NULL);
        check_equal(counts_now(), before);
    }
}

static void uses_one_on_each_worker(void *unused)
{
    struct cr_co *co;
    (void)unused;
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(cr_spawn_on(&co, i, uses, NULL, NULL), 0);
        CHECK_EQ(cr_join(co), 0);
    }
}

TEST(workers_that_have_used_bare_ones_on_shared_stacks_leave_nothing_behind)
{
    CHECK_EQ(cr_run(uses_one_on_each_worker, NULL, &at_once_on_three), 0);
    struct cr_mem_stats before = counts_now();
    CHECK_EQ(cr_run(uses_one_on_each_worker, NULL, &at_once_on_three), 0);
    check_equal(counts_now(), before);
}

/* ---- A stack that is kept ------------------------------------------------------------------------------------ */

static _Atomic bool go_on;

static void waits_for_the_sign(void *unused)
{
    (void)unused;
    while (!go_on)
        usleep(1000);
}

/* One more than a thread has stacks: the first and the last are on the same. */
static struct cr_co *of_one_stack[CR__SHARED_STACKS + 1];
static _Atomic bool is_writing;

static void writes_late(void *part)
{
    is_writing = true;
    waits_for_the_sign(NULL);
    fill(part, 300, 5);
}

static void *has_it_written(void *unused)
{
    unsigned char bytes[2000];
    fill(bytes, sizeof(bytes), 1);
    CHECK_EQ(cr_blocking(writes_late, bytes + 1000), 0);
    check_filled(bytes, 1000, 1);
    check_filled(bytes + 1000, 300, 5);
    return unused;
}

static void *waits_meanwhile(void *unused)
{
    unsigned char bytes[2000];
    fill(bytes, sizeof(bytes), 2);
    while (!is_writing)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0); /* when its turn comes the other one is there, and stays */
    check_filled(bytes, sizeof(bytes), 2);
    return unused;
}

static void *is_there(void *unused)
{
    while (cr_co_yield(NULL) == 0)
        ;
    return unused;
}

static void resumes(void *co)
{
    CHECK_EQ(cr_co_resume(co, NULL), 1);
}

static void keeps_and_waits(void *unused)
{
    struct cr_co *inside[2];
    (void)unused;
    for (unsigned i = 0; i <= CR__SHARED_STACKS; i++) {
        void *(*fn)(void *) = i == 0 ? waits_meanwhile : i < CR__SHARED_STACKS ? is_there : has_it_written;
        CHECK_EQ(cr_co_create(&of_one_stack[i], fn, &on_shared), 0);
        if (i % CR__SHARED_STACKS != 0) {
            CHECK_EQ(cr_co_resume(of_one_stack[i], NULL), 0);
            continue;
        }
        CHECK_EQ(cr_spawn(&inside[i / CR__SHARED_STACKS], resumes, of_one_stack[i], &(struct cr_attr){.stack = CR_STACK_STATIC}), 0);
        CHECK_EQ(cr_yield(), 0);
    }
    for (uint64_t before = stack_waits(); stack_waits() < before + 3;) /* so often its turn has come, and the other one was there */
        CHECK_EQ(cr_sleep(CR_MS), 0);
    go_on = true;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(cr_join(inside[i]), 0);
}

TEST(a_bare_one_waits_for_its_stack_while_another_ones_call_writes_there)
{
    NEEDS_SHARED();
    CHECK_EQ(cr_run(keeps_and_waits, NULL, &one_shared), 0);
}

static void *keeps_its_stack(void *unused)
{
    CHECK_EQ(cr_blocking(waits_for_the_sign, NULL), 0);
    return unused;
}

static void resumes_in_vain(void *unused)
{
    struct cr_co *keepers[CR__SHARED_STACKS], *inside[CR__SHARED_STACKS], *co;
    (void)unused;
    go_on = false;
    for (int i = 0; i < CR__SHARED_STACKS; i++) {
        CHECK_EQ(cr_co_create(&keepers[i], keeps_its_stack, &on_shared), 0);
        CHECK_EQ(cr_spawn(&inside[i], resumes, keepers[i], &(struct cr_attr){.stack = CR_STACK_STATIC}), 0);
        CHECK_EQ(cr_yield(), 0);
    }
    CHECK_EQ(cr_co_create(&co, is_there, &on_shared), 0);
    struct cr_mem_stats before = counts_now();
    for (int i = 0; i < 10000; i++)
        CHECK_EQ(cr_co_resume(co, NULL), -EBUSY);
    CHECK_EQ(cr_co_status(co), CR_CO_NEW);
    CHECK_EQ(counts_now().images_bytes, before.images_bytes);
    go_on = true;
    for (int i = 0; i < CR__SHARED_STACKS; i++) {
        CHECK_EQ(cr_join(inside[i]), 0);
        CHECK_EQ(cr_co_destroy(keepers[i]), 0);
    }
    CHECK_EQ(cr_co_resume(co, NULL), 0);
    CHECK_EQ(cr_co_destroy(co), 0);
}

TEST(a_first_resume_that_is_refused_takes_no_more_however_often_it_is_tried)
{
    NEEDS_SHARED();
    CHECK_EQ(cr_run(resumes_in_vain, NULL, &one_shared), 0);
}

/* ---- Where they run, and how large they are ------------------------------------------------------------------ */

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
    NEEDS_SHARED();
    CHECK_EQ(cr_run(spawns_wanderers, NULL, &at_once_on_three), 0);
    CHECK_EQ(moved, 0);
}

enum { TO_STEAL = 40 };
static _Atomic int started_on[2], through;

/* Of those that run on the same worker: they have one stack. */
static void check_top(int here)
{
#ifndef CR__ASAN
    static char *_Atomic top_on[2];
    char *first = NULL, *top = cr_co_current()->stack.top;
    CHECK(atomic_compare_exchange_strong(&top_on[here], &first, top) || first == top);
#else
    (void)here;
#endif
}

static void takes_turns(void *arg)
{
    unsigned char bytes[300];
    uintptr_t number = (uintptr_t)arg;
    int here = cr_worker_index();
    fill(bytes, sizeof(bytes), (unsigned)number);
    check_top(here);
    started_on[here]++;
    for (int i = 0; i < 20 || (number == TO_STEAL && through < TO_STEAL); i++) {
        CHECK_EQ(i % 5 ? cr_yield() : cr_sleep(100 * CR_US), 0);
        CHECK_EQ(cr_worker_index(), here);
        check_filled(bytes, sizeof(bytes), (unsigned)number);
    }
    through++;
}

static void has_some_stolen(void *unused)
{
    struct cr_co *cos[TO_STEAL + 1];
    int thief = 1 - cr_worker_index();
    (void)unused;
    CHECK_EQ(cr_spawn_on(&cos[TO_STEAL], (unsigned)thief, takes_turns, (void *)TO_STEAL, &on_shared), 0);
    while (started_on[thief] == 0)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (uintptr_t i = 0; i < TO_STEAL; i++)
        CHECK_EQ(cr_spawn(&cos[i], takes_turns, (void *)i, &on_shared), 0);
    while (started_on[thief] == 1) /* nobody starts here meanwhile */
        usleep(1000);
    CHECK_EQ(started_on[1 - thief], 0);
    for (int i = 0; i <= TO_STEAL; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
    printf("# %d of %d were stolen\n", started_on[thief] - 1, TO_STEAL);
    CHECK_EQ(started_on[0] + started_on[1], TO_STEAL + 1);
}

TEST(not_started_yet_they_are_stolen_and_take_turns_with_those_on_the_shared_stacks_of_the_thief)
{
    CHECK_EQ(cr_run(has_some_stolen, NULL, &(struct cr_config){.workers = 2, .stack = CR_STACK_STATIC, .shared_stacks = 1}), 0);
}

static int ran;

static void runs(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_yield(), 0);
    ran++;
}

static void asks_beyond_the_bound(void *unused)
{
    (void)unused;
    ran = 0;
    CHECK_EQ(cr_spawn(NULL, runs, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED, .stack_size_bytes = 150 << 10}), -EINVAL);
    CHECK_EQ(cr_spawn(NULL, runs, NULL, &(struct cr_attr){.stack = CR_STACK_SHARED, .stack_size_bytes = 20 << 10}), 0);
}

TEST(a_shared_stack_that_can_never_be_had_is_refused)
{
    NEEDS_SHARED();
    /* of 256 KiB, since those in between do not exist */
    CHECK_EQ(cr_run(asks_beyond_the_bound, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_STATIC, .max_stacks_bytes = 260 << 10}), 0);
    CHECK_EQ(ran, 1);
}

static void fills_a_shared_stack(void *full)
{
    unsigned char bytes[CR_STACK_SHARED_MOST_BYTES - 8192];
    fill(bytes, sizeof(bytes), 3);
    *(bool *)full = true;
    CHECK_EQ(cr_park(), 0);
    check_filled(bytes, sizeof(bytes), 3);
}

static bool is_full;

static void needs_a_full_stack(void *unused)
{
    const struct cr_attr largest = {.stack = CR_STACK_SHARED, .stack_size_bytes = CR_STACK_SHARED_MOST_BYTES};
    struct cr_co *cos[2];
    (void)unused;
    CHECK_EQ(cr_spawn(&cos[0], fills_a_shared_stack, &is_full, &largest), 0);
    while (!is_full)
        CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(cr_spawn(&cos[1], runs, NULL, &largest), 0);
    CHECK_EQ(cr_join(cos[1]), 0);
    CHECK_EQ(cr_unpark(cos[0]), 0);
    CHECK_EQ(cr_join(cos[0]), 0);
}

TEST(who_has_filled_a_shared_stack_makes_room_too)
{
    CHECK_EQ(cr_run(needs_a_full_stack, NULL, &one_shared), 0);
}

/* ---- What an image keeps ------------------------------------------------------------------------------------- */

static struct cr_mutex kept;

static void takes_the_place(void *taken)
{
    char bytes[512];
    memset(bytes, 0x5a, sizeof(bytes));
    __asm__ volatile("" : "+m"(bytes));
    *(bool *)taken = true;
}

static void ends_with_what_it_took_before(void *unused)
{
    static bool taken;
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&kept), 0);
    CHECK_EQ(cr_spawn(NULL, takes_the_place, &taken, &on_shared), 0);
    while (!taken)
        CHECK_EQ(cr_yield(), 0);
}

static void runs_who_keeps_a_lock(void)
{
    (void)!cr_run(ends_with_what_it_took_before, NULL, &(struct cr_config){.workers = 1, .stack = CR_STACK_SHARED, .shared_stacks = 1});
}

TEST(which_lock_it_has_taken_last_is_known_though_it_has_been_away_since)
{
    char text[512], wanted[64];
    int status = test_capture(runs_who_keeps_a_lock, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    snprintf(wanted, sizeof(wanted), "the last one that it took is the mutex at %p", (void *)&kept);
    CHECK_STR(text, wanted);
}

enum { THRIFTY = 20000 };
static int thrifty_parked;

/* Apart, so that whose frame holds them needs no registers for it. */
static __attribute__((noinline)) void fill_words(uint64_t *words, uint64_t first)
{
    for (uint64_t i = 0; i < 25; i++)
        words[i] = first + i;
}

static __attribute__((noinline)) void check_words(const uint64_t *words, uint64_t first)
{
    for (uint64_t i = 0; i < 25; i++)
        CHECK_EQ(words[i], first + i);
}

static void parks_with_200_bytes(void *number)
{
    uint64_t words[25];
    fill_words(words, (uintptr_t)number);
    thrifty_parked++;
    CHECK_EQ(cr_park(), 0);
    check_words(words, (uintptr_t)number);
}

static void weighs_images(void *unused)
{
    static struct cr_co *cos[THRIFTY];
    const struct cr_attr thrifty = {.flags = CR_FPU_SHARED, .stack = CR_STACK_SHARED};
    struct cr_mem_stats before = counts_now();
    (void)unused;
    for (uintptr_t i = 0; i < THRIFTY; i++)
        CHECK_EQ(cr_spawn(&cos[i], parks_with_200_bytes, (void *)i, &thrifty), 0);
    while (thrifty_parked < THRIFTY)
        CHECK_EQ(cr_yield(), 0);
    uint64_t each = (counts_now().images_bytes - before.images_bytes) / THRIFTY;
    printf("# %llu bytes each\n", (unsigned long long)each);
#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(TEST_SANITIZED)
    CHECK(each < 200 + 120); /* two return addresses, where it goes on, up to five registers, the classes' step, and 13 for the chunk in which the first images lay; four registers more are 32, and a word */
#endif
    CHECK_EQ(cr_unpark_many(cos, THRIFTY), 0);
    for (int i = 0; i < THRIFTY; i++)
        CHECK_EQ(cr_join(cos[i]), 0);
}

TEST(an_image_has_no_room_for_registers_that_nobody_uses)
{
    NEEDS_SHARED();
    CHECK_EQ(cr_run(weighs_images, NULL, &one_shared), 0);
}
