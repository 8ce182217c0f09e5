/* Locks and their kin, on one worker and on several. */
#include <crore/crore.h>
#include <stdatomic.h>

#include "test.h"

static const struct cr_config several = {.workers = 4};

static _Atomic long done;

static void wait_done(long n)
{
    while (done < n)
        CHECK_EQ(cr_sleep(50 * CR_US), 0);
}

/* ---- Mutex -------------------------------------------------------------------------------------------------- */

static struct cr_mutex mutex;
static long protected_count;

static void counts_under_lock(void *arg)
{
    for (int i = 0; i < (int)(intptr_t)arg; i++) {
        CHECK_EQ(cr_mutex_lock(&mutex), 0);
        long before = protected_count;
        if (i % 16 == 0)
            cr_yield();
        protected_count = before + 1;
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    }
    done++;
}

TEST_BOTH(a_mutex_lets_one_in_at_a_time)
{
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_go(counts_under_lock, (void *)(intptr_t)200), 0);
    wait_done(100);
    CHECK_EQ(protected_count, 20000);
}

static void tries_foreign_lock(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_mutex_lock_try(&mutex), -EBUSY);
    CHECK_EQ(cr_mutex_unlock(&mutex), -EPERM);
    CHECK_EQ(cr_mutex_lock_until(&mutex, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_mutex_lock_until(&mutex, 0), -ETIMEDOUT);
    done++;
}

TEST_BOTH(who_does_not_hold_a_mutex_can_not_unlock_it)
{
    CHECK_EQ(cr_mutex_unlock(&mutex), -EPERM);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), -EDEADLK);
    CHECK_EQ(cr_mutex_lock_try(&mutex), -EDEADLK);
    CHECK_EQ(cr_go(tries_foreign_lock, NULL), 0);
    wait_done(1);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_mutex_lock_try(&mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

/* ---- Ending with a lock ------------------------------------------------------------------------------------- */

static char text[4096];

static void locks_and_ends(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
}

static void runs_what_ends_with_a_mutex(void)
{
    struct cr_config config = {.workers = 1};
    (void)!cr_run(locks_and_ends, NULL, &config);
}

TEST(a_coroutine_that_ends_with_a_mutex_ends_the_program)
{
    char where[64];
    int status = test_capture(runs_what_ends_with_a_mutex, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    snprintf(where, sizeof(where), "mutex at %p", (void *)&mutex);
    CHECK_STR(text, "coroutine 1 in ");
    CHECK_STR(text, " has ended without unlocking 1 lock ");
    CHECK(strstr(text, where));
}

static void unlocks(void *m)
{
    CHECK_EQ(cr_mutex_unlock(m), 0);
}

static void leaves_it_to_a_destructor(void *key)
{
    CHECK_EQ(cr_local_set(*(unsigned *)key, &mutex), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
}

TEST_BOTH(what_local_storage_unlocks_is_not_held_at_the_end)
{
    static unsigned key;
    struct cr_co *co;
    CHECK_EQ(cr_local_key(&key, unlocks), 0);
    CHECK_EQ(cr_spawn(&co, leaves_it_to_a_destructor, &key, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_mutex_lock_try(&mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

static struct cr_mutex row[600];

TEST_BOTH(many_locks_may_be_held_at_once)
{
    for (int i = 0; i < 600; i++)
        CHECK_EQ(cr_mutex_lock(&row[i]), 0);
    for (int i = 0; i < 600; i++)
        CHECK_EQ(cr_mutex_unlock(&row[i]), 0);
}

/* ---- Cycles of holders -------------------------------------------------------------------------------------- */

static struct cr_mutex forks[3];
static _Atomic int deadlocks, hold_one;

static void takes_two(void *arg)
{
    int first = (int)(intptr_t)arg, second = (first + 1) % 3;
    CHECK_EQ(cr_mutex_lock(&forks[first]), 0);
    hold_one++;
    while (hold_one < 3)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    int r = cr_mutex_lock(&forks[second]);
    if (r == 0)
        CHECK_EQ(cr_mutex_unlock(&forks[second]), 0);
    else
        deadlocks++;
    CHECK(r == 0 || r == -EDEADLK);
    CHECK_EQ(cr_mutex_unlock(&forks[first]), 0);
    done++;
}

static void dine(void *unused)
{
    (void)unused;
    static const struct cr_attr attr = {.name = "philosopher"};
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cr_spawn(NULL, takes_two, (void *)(intptr_t)i, &attr), 0);
    wait_done(3);
}

static void check_dinner(unsigned workers)
{
    int ends[2];
    char text[4096] = "";
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_run(dine, NULL, &(struct cr_config){.workers = workers, .report_fd = ends[1]}), 0);
    CHECK(read(ends[0], text, sizeof(text) - 1) > 0);
    CHECK_EQ(deadlocks, 1);
    CHECK(strstr(text, "deadlock: a cycle"));
    CHECK(strstr(text, "\"philosopher\""));
    CHECK(strstr(text, "held by coroutine"));
}

TEST(a_cycle_of_holders_is_told_and_one_of_them_gets_the_error_on_one_worker)
{
    check_dinner(1);
}

TEST(a_cycle_of_holders_is_told_and_one_of_them_gets_the_error_on_several)
{
    SKIP_SEVERAL_UNDER_SEED();
    check_dinner(3);
}

static void locks_cancelled(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_mutex_lock(&mutex), -ECANCELED);
    done++;
}

TEST_BOTH(who_is_cancelled_or_late_leaves_the_queue_of_a_mutex)
{
    struct cr_co *waits[8];
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_spawn(&waits[i], locks_cancelled, NULL, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_cancel(waits[i]), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_join(waits[i]), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
}

/* ---- Condition variable ------------------------------------------------------------------------------------- */

static struct cr_cond cond;
static int tokens;

static void takes_tokens(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(cr_mutex_lock(&mutex), 0);
        while (tokens == 0)
            CHECK_EQ(cr_cond_wait(&cond, &mutex), 0);
        tokens--;
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    }
    done++;
}

TEST_BOTH(a_condition_variable_wakes_those_that_wait)
{
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_go(takes_tokens, NULL), 0);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(cr_mutex_lock(&mutex), 0);
        tokens++;
        cr_cond_signal(&cond);
        CHECK_EQ(cr_mutex_unlock(&mutex), 0);
        if (i % 10 == 0)
            cr_yield();
    }
    wait_done(20);
    CHECK_EQ(tokens, 0);
    CHECK_EQ(cr_cond_wait(&cond, &mutex), -EPERM);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_cond_wait_until(&cond, &mutex, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0); /* held again */
}

/* ---- Readers and writers ------------------------------------------------------------------------------------ */

static struct cr_rwlock rwlock;
static _Atomic int readers, writers;

static void reads_or_writes(void *arg)
{
    bool writes = (intptr_t)arg % 5 == 0;
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(writes ? cr_rwlock_wrlock(&rwlock) : cr_rwlock_rdlock(&rwlock), 0);
        if (writes) {
            CHECK_EQ(writers++, 0);
            CHECK_EQ(readers, 0);
        } else {
            CHECK_EQ(writers, 0);
            readers++;
        }
        cr_yield();
        if (writes)
            writers--;
        else
            readers--;
        CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    }
    done++;
}

static void reads_along(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), -EDEADLK);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), -EBUSY);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), -EPERM); /* others read, we do not */
}

TEST_BOTH(readers_share_and_writers_are_alone)
{
    for (int i = 0; i < 40; i++)
        CHECK_EQ(cr_go(reads_or_writes, (void *)(intptr_t)i), 0);
    wait_done(40);
    struct cr_co *other;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_spawn(&other, reads_along, NULL, NULL), 0);
    CHECK_EQ(cr_join(other), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), -EPERM);
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), -EDEADLK);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), -EDEADLK); /* we ourselves would be in the way */
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), -EDEADLK);
    CHECK_EQ(cr_rwlock_rdlock_try(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

/* Waits for a sign of each other by channels, so what is shown does not hang on time. */
static struct cr_chan *sign;

static void reads_twice(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_chan_send(sign, NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0); /* the writer waits by now */
    int r = cr_rwlock_rdlock_until(&rwlock, cr_after(10 * CR_SEC));
    CHECK(r == -EDEADLK || r == 0); /* 0: it did not, on a very busy machine */
    if (r == 0)
        CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

TEST_BOTH(who_reads_does_not_wait_behind_a_writer_that_waits_for_it)
{
    struct cr_co *co;
    CHECK_EQ(cr_chan_create(&sign, 0, 0), 0);
    CHECK_EQ(cr_spawn(&co, reads_twice, NULL, NULL), 0);
    CHECK_EQ(cr_chan_recv(sign, NULL), 0);
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_join(co), 0);
    CHECK_EQ(cr_chan_destroy(sign), 0);
}

static void reads_late(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock_until(&rwlock, cr_after(2 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_rwlock_rdlock_until(&rwlock, 0), -ETIMEDOUT);
    CHECK_EQ(cr_rwlock_rdlock_try(&rwlock), -EBUSY);
}

static void reads_a_little(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    cr_yield();
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    done++;
}

TEST_BOTH(reading_may_have_a_deadline)
{
    struct cr_co *co;
    CHECK_EQ(cr_rwlock_rdlock_until(&rwlock, cr_after(10 * CR_SEC)), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_wrlock(&rwlock), 0);
    CHECK_EQ(cr_spawn(&co, reads_late, NULL, NULL), 0);
    CHECK_EQ(cr_join(co), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_go(reads_a_little, NULL), 0);
    cr_yield();
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    wait_done(10);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), 0); /* who gave up has left nothing behind */
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

static void reads_and_ends(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
}

static void runs_what_ends_reading(void)
{
    (void)!cr_run(reads_and_ends, NULL, NULL);
}

TEST(a_coroutine_that_ends_reading_ends_the_program)
{
    int status = test_capture(runs_what_ends_reading, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "has ended without unlocking 1 lock that it holds; the last one that it took is the readers-writer lock at ");
}

static void writes_late(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_wrlock_until(&rwlock, cr_after(2 * CR_MS)), -ETIMEDOUT);
    done++;
}

static void reads_behind(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(CR_MS / 2), 0);
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    done++;
}

TEST_BOTH(a_writer_that_gives_up_lets_the_readers_behind_it_in)
{
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_go(writes_late, NULL), 0);
    CHECK_EQ(cr_go(reads_behind, NULL), 0);
    wait_done(2);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

/* ---- Cycles of all kinds of locks --------------------------------------------------------------------------- */

#define RING_MAX 200

enum how { LOCKS, READS, WRITES };

/* Each takes the first, waits for the others, and then asks for what the next one has. */
static struct ring {
    int length;
    enum how first[3], then[3]; /* of the i-th: i modulo 3 */
    struct cr_mutex mutexes[RING_MAX];
    struct cr_rwlock rwlocks[RING_MAX];
    struct cr_barrier all_have_one;
} ring;

static int take_one(enum how how, int i)
{
    int64_t until_ns = cr_after(30 * CR_SEC);
    return how == LOCKS ? cr_mutex_lock_until(&ring.mutexes[i], until_ns)
           : how == READS ? cr_rwlock_rdlock_until(&ring.rwlocks[i], until_ns)
                          : cr_rwlock_wrlock_until(&ring.rwlocks[i], until_ns);
}

static void give_one(enum how how, int i)
{
    CHECK_EQ(how == LOCKS ? cr_mutex_unlock(&ring.mutexes[i]) : cr_rwlock_unlock(&ring.rwlocks[i]), 0);
}

static void takes_its_own_and_the_next(void *arg)
{
    int i = (int)(intptr_t)arg, next = (i + 1) % ring.length;
    CHECK_EQ(take_one(ring.first[i % 3], i), 0);
    CHECK(cr_barrier_wait(&ring.all_have_one, (unsigned)ring.length) >= 0);
    int r = take_one(ring.then[i % 3], next);
    CHECK(r == 0 || r == -EDEADLK);
    if (r == 0)
        give_one(ring.then[i % 3], next);
    else
        deadlocks++;
    give_one(ring.first[i % 3], i);
    done++;
}

static void goes_round(void *unused)
{
    (void)unused;
    for (int i = 0; i < ring.length; i++)
        CHECK_EQ(cr_go(takes_its_own_and_the_next, (void *)(intptr_t)i), 0);
    wait_done(ring.length);
}

/* Exactly one is refused. */
static void check_ring(int length, const enum how first[3], const enum how then[3])
{
    for (unsigned workers = 1; workers <= (test_under_seed() ? 1 : 4); workers += 3) {
        int null = open("/dev/null", O_WRONLY);
        ring = (struct ring){.length = length};
        memcpy(ring.first, first, sizeof(ring.first));
        memcpy(ring.then, then, sizeof(ring.then));
        deadlocks = 0;
        done = 0;
        CHECK_EQ(cr_run(goes_round, NULL, &(struct cr_config){.workers = workers, .report_fd = null}), 0);
        CHECK_EQ(deadlocks, 1);
        close(null);
    }
}

TEST(a_cycle_of_mutexes_is_found_however_long)
{
    static const enum how locks[3] = {LOCKS, LOCKS, LOCKS};
    check_ring(2, locks, locks);
    check_ring(65, locks, locks);
    check_ring(RING_MAX, locks, locks);
}

TEST(a_cycle_of_writers_is_found)
{
    static const enum how writes[3] = {WRITES, WRITES, WRITES};
    check_ring(2, writes, writes);
    check_ring(RING_MAX, writes, writes);
}

TEST(a_cycle_of_writers_that_wait_for_readers_is_found)
{
    static const enum how reads[3] = {READS, READS, READS}, writes[3] = {WRITES, WRITES, WRITES};
    check_ring(2, reads, writes);
    check_ring(RING_MAX, reads, writes);
}

TEST(a_cycle_of_readers_that_wait_for_writers_is_found)
{
    static const enum how reads[3] = {READS, READS, READS}, writes[3] = {WRITES, WRITES, WRITES};
    check_ring(3, writes, reads);
}

TEST(a_cycle_of_mutexes_readers_and_writers_is_found)
{
    static const enum how first[3] = {LOCKS, READS, WRITES}, then[3] = {WRITES, READS, LOCKS};
    check_ring(3, first, then);
    check_ring(99, first, then);
}

/* Two readers, of whom the one that came first leads back. */
static struct cr_co *waits_for_ever;

static void reads_and_sleeps(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_chan_send(sign, NULL), 0);
    CHECK_EQ(cr_sleep(3600 * CR_SEC), -ECANCELED);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

static void reads_and_locks(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), 0);
    CHECK_EQ(cr_chan_send(sign, NULL), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
}

TEST_BOTH(any_reader_may_close_the_cycle)
{
    struct cr_co *locks;
    CHECK_EQ(cr_chan_create(&sign, 0, 0), 0);
    CHECK_EQ(cr_mutex_lock(&mutex), 0);
    CHECK_EQ(cr_spawn(&locks, reads_and_locks, NULL, NULL), 0);
    CHECK_EQ(cr_chan_recv(sign, NULL), 0);
    CHECK_EQ(cr_spawn(&waits_for_ever, reads_and_sleeps, NULL, NULL), 0);
    CHECK_EQ(cr_chan_recv(sign, NULL), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0); /* it waits for the mutex by now */
    CHECK_EQ(cr_rwlock_wrlock_until(&rwlock, cr_after(30 * CR_SEC)), -EDEADLK);
    CHECK_EQ(cr_mutex_unlock(&mutex), 0);
    CHECK_EQ(cr_cancel(waits_for_ever), 0);
    CHECK_EQ(cr_join(waits_for_ever), 0);
    CHECK_EQ(cr_join(locks), 0);
    CHECK_EQ(cr_rwlock_wrlock_try(&rwlock), 0);
    CHECK_EQ(cr_rwlock_unlock(&rwlock), 0);
    CHECK_EQ(cr_chan_destroy(sign), 0);
}

/* ---- Semaphore, wait group, once, barrier ------------------------------------------------------------------- */

static struct cr_sem sem;
static _Atomic int inside;

static void takes_permit(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(cr_sem_wait(&sem), 0);
        CHECK(++inside <= 3);
        cr_yield();
        inside--;
        CHECK_EQ(cr_sem_post(&sem, 1), 0);
    }
    done++;
}

TEST_BOTH(a_semaphore_has_so_many_permits)
{
    CHECK_EQ(cr_sem_wait_try(&sem), -EBUSY);
    CHECK_EQ(cr_sem_wait_until(&sem, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_sem_post(&sem, 3), 0);
    for (int i = 0; i < 30; i++)
        CHECK_EQ(cr_go(takes_permit, NULL), 0);
    wait_done(30);
    CHECK_EQ(sem.count, 3);
    CHECK_EQ(cr_sem_post(&sem, ~0u), -EOVERFLOW);
    CHECK_EQ(sem.count, 3);
}

static struct cr_waitgroup group;

static void works(void *unused)
{
    (void)unused;
    cr_yield();
    done++;
    CHECK_EQ(cr_waitgroup_done(&group), 0);
}

TEST_BOTH(a_wait_group_waits_for_all)
{
    for (int round = 1; round <= 10; round++) {
        CHECK_EQ(cr_waitgroup_add(&group, 50), 0);
        for (int i = 0; i < 50; i++)
            CHECK_EQ(cr_go(works, NULL), 0);
        CHECK_EQ(cr_waitgroup_wait(&group), 0);
        CHECK_EQ(done, round * 50);
    }
    CHECK_EQ(cr_waitgroup_done(&group), -EINVAL);
    CHECK_EQ(cr_waitgroup_add(&group, 1), 0);
    CHECK_EQ(cr_waitgroup_wait_try(&group), -EBUSY);
    CHECK_EQ(cr_waitgroup_wait_until(&group, cr_after(CR_MS)), -ETIMEDOUT);
}

static struct cr_once once;
static _Atomic int initialised;

static void initialises(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_once(&once, initialises, NULL), -EDEADLK);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    initialised++;
}

static void needs_it(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_once(&once, initialises, NULL), 0);
    CHECK_EQ(initialised, 1);
    done++;
}

static struct cr_chan *go_on;

static void initialises_when_told(void *unused)
{
    int unused_item;
    (void)unused;
    CHECK_EQ(cr_chan_recv(go_on, &unused_item), 0);
    initialised++;
}

static void runs_it(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_once_until(&once, initialises_when_told, NULL, cr_after(CR_MS)), 0); /* the deadline is that of others */
    done++;
}

TEST_BOTH(who_waits_for_a_cr_once_may_give_up)
{
    int item = 0;
    CHECK_EQ(cr_chan_create(&go_on, sizeof(int), 0), 0);
    CHECK_EQ(cr_go(runs_it, NULL), 0);
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(cr_once_until(&once, initialises, NULL, cr_after(2 * CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_once_until(&once, initialises, NULL, 0), -ETIMEDOUT);
    CHECK_EQ(cr_chan_send(go_on, &item), 0);
    CHECK_EQ(cr_once_until(&once, initialises, NULL, cr_after(10 * CR_SEC)), 0);
    CHECK_EQ(initialised, 1);
    CHECK_EQ(cr_once_until(&once, initialises, NULL, 0), 0); /* no wait */
    wait_done(1);
    CHECK_EQ(cr_chan_destroy(go_on), 0);
}

TEST_BOTH(once_is_once_and_the_others_wait_for_it)
{
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cr_go(needs_it, NULL), 0);
    wait_done(50);
    CHECK_EQ(initialised, 1);
}

static struct cr_barrier barrier;
static _Atomic int arrived, last_ones;

static void marches(void *unused)
{
    (void)unused;
    for (int round = 1; round <= 20; round++) {
        arrived++;
        int r = cr_barrier_wait(&barrier, 10);
        CHECK(r == 0 || r == 1);
        last_ones += r;
        CHECK(arrived >= 10 * round);
    }
    done++;
}

TEST_BOTH(a_barrier_holds_until_all_are_there)
{
    CHECK_EQ(cr_barrier_wait(&barrier, 0), -EINVAL);
    CHECK_EQ(cr_barrier_wait_until(&barrier, 2, cr_after(CR_MS)), -ETIMEDOUT);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(cr_go(marches, NULL), 0);
    wait_done(10);
    CHECK_EQ(last_ones, 20);
    CHECK_EQ(cr_barrier_wait(&barrier, 1), 1);
}

TEST(outside_a_coroutine_locks_are_refused)
{
    CHECK_EQ(cr_mutex_lock(&mutex), -EPERM);
    CHECK_EQ(cr_mutex_lock_try(&mutex), -EPERM);
    CHECK_EQ(cr_mutex_unlock(&mutex), -EPERM);
    CHECK_EQ(cr_cond_wait(&cond, &mutex), -EPERM);
    CHECK_EQ(cr_rwlock_rdlock(&rwlock), -EPERM);
    CHECK_EQ(cr_sem_wait(&sem), -EPERM);
    CHECK_EQ(cr_sem_post(&sem, 1), -EPERM);
    CHECK_EQ(cr_waitgroup_wait(&group), -EPERM);
    CHECK_EQ(cr_once(&once, initialises, NULL), -EPERM);
    CHECK_EQ(cr_barrier_wait(&barrier, 1), -EPERM);
    cr_cond_signal(&cond);
}
