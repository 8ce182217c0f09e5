/* sync/mutex.c: the mutex and the condition variable, as they are. */
#include "coroutines.h"

#include "obs/obs.h"

static struct cr_mutex mutex, other;
static struct cr_cond cond;
static int held, entered; /* plain: the mutex's */
static bool condition;    /* the mutex's */
static bool cycles_come;  /* may be told */

/* ---- What mutex.c calls besides ----------------------------------------------------------------------------- */

struct cr__mask cr__mask(struct cr__record *me, int64_t bound_ns)
{
    (void)me, (void)bound_ns;
    return (struct cr__mask){0};
}

void cr__unmask(struct cr__record *me, struct cr__mask before)
{
    (void)me, (void)before;
}

/* Of a cycle. */
void cr__report(int fd, const char *format, ...)
{
    (void)fd, (void)format;
    model_assert(cycles_come);
}

void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind)
{
    (void)kind;
    return calloc(1, size_bytes);
}

void cr__mem_free(void *p, size_t size_bytes, enum cr__mem_kind kind)
{
    (void)size_bytes, (void)kind;
    free(p);
}

const char *cr__symbol_of(const void *entry, char *buf, size_t size_bytes)
{
    (void)entry, (void)size_bytes;
    *buf = '\0';
    return buf;
}

const char *cr_name_get(const struct cr_co *co, char *buf, size_t size_bytes)
{
    (void)co, (void)size_bytes;
    *buf = '\0';
    return buf;
}

static void names(void)
{
    model_name(&mutex._word, "mutex");
    model_name(&mutex._spin, "mutex's lock");
    model_name(&mutex._owner, "mutex's owner");
    model_name(&other._word, "other");
    model_name(&other._spin, "other's lock");
    model_name(&other._owner, "other's owner");
}

static void inside(void)
{
    model_assert(held++ == 0);
    entered++;
    model_assert(--held == 0);
}

static void all_free(void)
{
    model_assert(mutex._word == 0 && mutex._spin == 0 && !mutex._owner && !mutex._waiters._first);
    model_assert(other._word == 0 && other._spin == 0 && !other._owner && !other._waiters._first);
    model_assert(cond._spin == 0 && !cond._waiters._first);
}

/* ---- Locking ------------------------------------------------------------------------------------------------ */

static void lock_once(void *unused)
{
    (void)unused;
    model_assert(cr_mutex_lock(&mutex) == 0);
    inside();
    model_assert(cr_mutex_unlock(&mutex) == 0);
}

static void once_or_twice(void *which)
{
    lock_once(which);
    if (which)
        lock_once(which);
}

static void two(void)
{
    names();
    coroutines(2, lock_once);
}

static void two_and_one_again(void)
{
    names();
    coroutines(2, once_or_twice);
}

static void three_starving(void)
{
    names();
    coroutines(3, lock_once);
    suspended_ns = 2 * CR_MS;
}

static void two_entered(void)
{
    all_free();
    model_assert(entered == 2);
}

static void three_entered(void)
{
    all_free();
    model_assert(entered == 3);
}

TEST(one_at_a_time_holds_it_and_nobody_waits_for_ever)
{
    model_run(two, two_entered);
}

TEST(also_if_one_comes_back_at_once)
{
    model_run(two_and_one_again, three_entered);
}

TEST(who_starves_has_it_handed_over)
{
    model_run_with(&(struct model_options){.unmutated = true}, three_starving, three_entered);
}

/* ---- Giving up ---------------------------------------------------------------------------------------------- */

static void lock_or_give_up(void *which)
{
    int r = cr_mutex_lock_until(&mutex, which ? CR_FOREVER : 1 * CR_SEC);
    model_assert(r == 0 || (!which && r == -ETIMEDOUT));
    if (r < 0)
        return;
    inside();
    model_assert(cr_mutex_unlock(&mutex) == 0);
}

static void first_times_out(void *unused)
{
    (void)unused;
    time_out(0);
}

static void two_and_a_timer(void)
{
    names();
    coroutines(2, lock_or_give_up);
    model_thread(first_times_out, NULL);
}

TEST(who_gives_up_leaves_nothing_behind)
{
    model_run(two_and_a_timer, all_free);
}

/* ---- Freeing ------------------------------------------------------------------------------------------------ */

static struct shared {
    struct cr_mutex mutex;
    int references; /* the mutex's */
} *shared;

/* The last one frees it. The first one's patience comes to an end at times; it tries again. */
static void drops_reference(void *which)
{
    int r;
    do
        r = cr_mutex_lock_until(&shared->mutex, which ? CR_FOREVER : 1 * CR_SEC);
    while (r == -ETIMEDOUT && !which);
    model_assert(r == 0);
    bool last = --shared->references == 0;
    model_assert(cr_mutex_unlock(&shared->mutex) == 0);
    if (last)
        free(shared);
}

static void two_share_and_a_timer(void)
{
    shared = malloc(sizeof(*shared));
    *shared = (struct shared){.references = 2};
    coroutines(2, drops_reference);
    model_thread(first_times_out, NULL);
}

TEST(who_knows_that_he_is_the_last_may_free_it)
{
    model_run(two_share_and_a_timer, NULL);
}

/* ---- Cycles ------------------------------------------------------------------------------------------------- */

static void lock_both(void *which)
{
    struct cr_mutex *first = which ? &other : &mutex, *second = which ? &mutex : &other;
    model_assert(cr_mutex_lock(first) == 0);
    int r = cr_mutex_lock(second);
    model_assert(r == 0 || r == -EDEADLK);
    if (r == 0)
        model_assert(cr_mutex_unlock(second) == 0);
    model_assert(cr_mutex_unlock(first) == 0);
}

static void crosswise(void)
{
    names();
    cycles_come = true;
    coroutines(2, lock_both);
}

TEST(whoever_closes_a_cycle_is_refused)
{
    model_run(crosswise, all_free);
}

/* ---- Condition variable ------------------------------------------------------------------------------------- */

static void wait_or_signal(void *which)
{
    model_assert(cr_mutex_lock(&mutex) == 0);
    if (which) {
        condition = true;
        cr_cond_signal(&cond);
    } else {
        while (!condition)
            model_assert(cr_cond_wait(&cond, &mutex) == 0);
    }
    inside();
    model_assert(cr_mutex_unlock(&mutex) == 0);
}

static void waiter_and_signaller(void)
{
    names();
    coroutines(2, wait_or_signal);
}

TEST(no_signal_falls_between_looking_and_waiting)
{
    model_run(waiter_and_signaller, two_entered);
}
