/* Runtimes under a seed: what follows from it, what it finds, and what it leaves alone. */
#include <crore/crore.h>
#include <pthread.h>
#include <time.h>

#include "os/os.h"
#include "test.h"

static int run(void (*fn)(void *), void *arg, uint64_t seed)
{
    struct cr_config config = {.workers = 1, .seed = seed};
    return cr_run(fn, arg, &config);
}

/* Without a seed, whatever the environment says: the order is that of arrival. */
static int run_plainly(void (*fn)(void *), void *arg)
{
    unsetenv("CR_SEED");
    return run(fn, arg, 0);
}

static void go(void (*fn)(void *), void *arg)
{
    CHECK_EQ(cr_go(fn, arg), 0);
}

static int64_t kernel_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- The same seed, the same run ----------------------------------------------------------------------------------- */

enum { MIXED = 8, ROUNDS = 20 };

struct mixed {
    struct cr_chan *chan;
    struct cr_mutex mutex;
    struct cr_waitgroup group;
    char order[MIXED * ROUNDS + 1];
    int used, number;
    uint64_t trace, seed;
    int64_t ended_ns;
};

static void talk(void *arg)
{
    struct mixed *m = arg;
    char me = (char)('a' + m->number++);
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t random;
        char item = me;
        CHECK_EQ(cr_random(&random, sizeof(random)), 0);
        CHECK_EQ(cr_mutex_lock(&m->mutex), 0);
        if (random % 4 == 0)
            CHECK_EQ(cr_sleep(random * CR_US), 0);
        cr_mutex_unlock(&m->mutex);
        int r = random % 2 ? cr_chan_send(m->chan, &item) : cr_chan_recv_until(m->chan, &item, cr_after(random * CR_US));
        CHECK(r == 0 || (r == -ETIMEDOUT && random % 2 == 0));
        m->order[m->used++] = me;
    }
    cr_waitgroup_done(&m->group);
}

static void drain(void *arg)
{
    struct mixed *m = arg;
    char item;
    while (cr_chan_recv(m->chan, &item) == 0)
        ;
}

static void mixed_app(void *arg)
{
    struct mixed *m = arg;
    struct cr_stats stats;
    CHECK_EQ(cr_chan_create(&m->chan, 1, 2), 0);
    cr_waitgroup_add(&m->group, MIXED);
    for (int i = 0; i < MIXED; i++)
        go(talk, m);
    go(drain, m);
    CHECK_EQ(cr_waitgroup_wait(&m->group), 0);
    cr_chan_close(m->chan);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_chan_destroy(m->chan);
    CHECK_EQ(cr_stats_get(&stats), 0);
    m->trace = stats.trace;
    m->seed = stats.seed;
    m->ended_ns = cr_now();
}

static struct mixed mixed(uint64_t seed)
{
    struct mixed m = {0};
    CHECK_EQ(run(mixed_app, &m, seed), 0);
    return m;
}

TEST(the_same_seed_gives_the_same_run)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct mixed one = mixed(seed), two = mixed(seed);
        CHECK_EQ(one.used, MIXED * ROUNDS);
        CHECK(strcmp(one.order, two.order) == 0);
        CHECK(one.trace == two.trace && one.trace != 0);
        CHECK_EQ(one.ended_ns, two.ended_ns);
        CHECK_EQ(one.seed, seed);
    }
}

static void say_trace(void)
{
    struct mixed m = mixed(7);
    fprintf(stderr, "%016llx %lld %s", (unsigned long long)m.trace, (long long)m.ended_ns, m.order);
}

static void say_trace_elsewhere(void)
{
    void *moves = malloc(12345); /* what is mapped, and where, is another thing now */
    CHECK_EQ(run_plainly(mixed_app, &(struct mixed){0}), 0);
    say_trace();
    free(moves);
}

TEST(another_process_repeats_it_although_its_addresses_are_others)
{
    char one[512], two[512];
    CHECK_EQ(test_capture(say_trace, one, sizeof(one)), 0);
    CHECK_EQ(test_capture(say_trace_elsewhere, two, sizeof(two)), 0);
    CHECK(strcmp(one, two) == 0 && strlen(one) > 100);
}

TEST(other_seeds_give_other_orders_and_other_times)
{
    enum { SEEDS = 50 };
    static struct mixed all[SEEDS];
    int same_orders = 0;
    for (int i = 0; i < SEEDS; i++) {
        all[i] = mixed((uint64_t)i + 1);
        for (int k = 0; k < i; k++) {
            same_orders += strcmp(all[i].order, all[k].order) == 0;
            CHECK(all[i].trace != all[k].trace);
        }
    }
    CHECK(same_orders < 5);
}

static char started[8];
static int started_count;
static void start_as(void *arg)
{
    started[started_count++] = *(char *)arg;
}

static void spawn_four(void *unused)
{
    static char names[] = "abcd";
    (void)unused;
    for (int i = 0; i < 4; i++)
        go(start_as, &names[i]);
}

TEST(of_four_that_are_spawned_most_orders_come_up)
{
    char seen[24][8] = {{0}};
    int distinct = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        int at = 0;
        started_count = 0;
        CHECK_EQ(run(spawn_four, NULL, seed), 0);
        CHECK_EQ(started_count, 4);
        while (at < distinct && strcmp(seen[at], started) != 0)
            at++;
        if (at == distinct)
            strcpy(seen[distinct++], started);
    }
    printf("# %d of 24 orders\n", distinct);
    CHECK(distinct >= 18);
}

static void draw_some(void *arg)
{
    CHECK_EQ(cr_random(arg, 1000), 0);
}

TEST(random_bytes_follow_from_the_seed)
{
    static char one[1000], two[1000], other[1000], plain[1000];
    CHECK_EQ(run(draw_some, one, 5), 0);
    CHECK_EQ(run(draw_some, two, 5), 0);
    CHECK_EQ(run(draw_some, other, 6), 0);
    CHECK_EQ(run_plainly(draw_some, plain), 0);
    CHECK(memcmp(one, two, sizeof(one)) == 0);
    CHECK(memcmp(one, other, sizeof(one)) != 0);
    CHECK(memcmp(one, plain, sizeof(one)) != 0);
}

static void with_random(void *arg)
{
    char bytes[64];
    CHECK_EQ(cr_random(bytes, sizeof(bytes)), 0);
    spawn_four(arg);
}

TEST(who_asks_for_more_random_bytes_changes_no_order)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        char without[8];
        started_count = 0;
        CHECK_EQ(run(spawn_four, NULL, seed), 0);
        strcpy(without, started);
        started_count = 0;
        CHECK_EQ(run(with_random, NULL, seed), 0);
        CHECK(strcmp(without, started) == 0);
    }
}

/* ---- What it finds --------------------------------------------------------------------------------------------------- */

enum { ADDERS = 3, ADDS = 5 };

struct account {
    struct cr_mutex mutex;
    int balance;
    bool right;
};

/* Wrong: it has read the balance before it has the lock. As long as nobody holds that, and no yield happens to fall between the two, nobody notices. */
static void add(void *arg)
{
    struct account *a = arg;
    for (int i = 0; i < ADDS; i++) {
        int balance = a->balance;
        CHECK_EQ(cr_mutex_lock(&a->mutex), 0);
        if (a->right)
            balance = a->balance;
        a->balance = balance + 1;
        cr_mutex_unlock(&a->mutex);
    }
}

static void add_all(void *arg)
{
    for (int i = 0; i < ADDERS; i++)
        go(add, arg);
}

static int lost(uint64_t seed, bool right)
{
    struct account a = {.right = right};
    CHECK_EQ(seed ? run(add_all, &a, seed) : run_plainly(add_all, &a), 0);
    return ADDERS * ADDS - a.balance;
}

TEST(a_lost_update_that_the_usual_order_never_shows_is_found_by_some_of_a_hundred_seeds)
{
    int found = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        CHECK_EQ(lost(0, false), 0);
        CHECK_EQ(lost(seed, true), 0);
        found += lost(seed, false) > 0;
    }
    printf("# by %d of 100\n", found);
    CHECK(found >= 5);
}

struct service {
    struct cr_chan *ready;
    bool set_up;
    bool used_too_early;
};

static void set_up(void *arg)
{
    struct service *s = arg;
    s->set_up = true;
}

/* Wrong: it takes for granted that the one spawned before it has run. */
static void use(void *arg)
{
    struct service *s = arg;
    s->used_too_early = !s->set_up;
}

static void start_service(void *arg)
{
    go(set_up, arg);
    go(use, arg);
}

TEST(who_relies_on_the_order_of_spawning_is_found_out)
{
    int found = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct service plain = {0}, seeded = {0};
        CHECK_EQ(run_plainly(start_service, &plain), 0);
        CHECK(!plain.used_too_early);
        CHECK_EQ(run(start_service, &seeded, seed), 0);
        found += seeded.used_too_early;
    }
    CHECK(found >= 10 && found <= 90);
}

/* ---- What is promised, whatever the seed -------------------------------------------------------------------------------- */

struct crowd {
    int turns[6];
    int number;
};

static void take_turns(void *arg)
{
    struct crowd *c = arg;
    int me = c->number++;
    for (int i = 0; i < 50; i++) {
        c->turns[me]++;
        CHECK_EQ(cr_yield(), 0);
    }
}

static void watch_crowd(void *arg)
{
    struct crowd *c = arg;
    for (int i = 0; i < 6; i++)
        go(take_turns, c);
    CHECK_EQ(cr_yield(), 0);
    CHECK_EQ(c->number, 6); /* all have begun */
    for (int i = 0; i < 40; i++) {
        int before[6];
        memcpy(before, c->turns, sizeof(before));
        CHECK_EQ(cr_yield(), 0);
        for (int k = 0; k < 6; k++)
            CHECK_EQ(c->turns[k], before[k] + 1);
    }
}

TEST(a_yield_lets_all_that_are_ready_run_once)
{
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct crowd c = {0};
        CHECK_EQ(run(watch_crowd, &c, seed), 0);
    }
}

struct line {
    struct cr_chan *chan;
    int arrivals, served;
};

static void queue_up(void *arg)
{
    struct line *l = arg;
    int item, me = l->arrivals++;
    CHECK_EQ(cr_chan_recv_until(l->chan, &item, CR_FOREVER), 0);
    CHECK_EQ(item, me);
    l->served++;
}

static void serve_line(void *arg)
{
    struct line *l = arg;
    CHECK_EQ(cr_chan_create(&l->chan, sizeof(int), 0), 0);
    for (int i = 0; i < 5; i++) {
        go(queue_up, l);
        CHECK_EQ(cr_sleep(CR_MS), 0); /* it waits */
    }
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_chan_send(l->chan, &i), 0);
    while (l->served < 5)
        CHECK_EQ(cr_yield(), 0);
    cr_chan_destroy(l->chan);
}

TEST(who_waits_at_a_channel_is_served_first_come_first_served)
{
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct line l = {0};
        CHECK_EQ(run(serve_line, &l, seed), 0);
    }
}

static void spin_on(void *arg)
{
    bool *end = arg;
    while (!*end)
        CHECK_EQ(cr_yield(), 0);
}

static void pass_ball(void *arg)
{
    struct cr_chan **chans = arg;
    int ball;
    while (cr_chan_recv(chans[0], &ball) == 0 && cr_chan_send(chans[1], &ball) == 0)
        ;
}

static void starve(void *unused)
{
    static bool end;
    static struct cr_chan *there, *back;
    (void)unused;
    end = false;
    CHECK_EQ(cr_chan_create(&there, sizeof(int), 1), 0);
    CHECK_EQ(cr_chan_create(&back, sizeof(int), 1), 0);
    static struct cr_chan *ends[2];
    ends[0] = there, ends[1] = back;
    go(pass_ball, ends);
    go(spin_on, &end);
    int64_t until_ns = cr_after(2 * CR_MS);
    for (int ball = 0; cr_now() < until_ns; ball++)
        CHECK(cr_chan_send(there, &ball) == 0 && cr_chan_recv(back, &ball) == 0);
    end = true;
    CHECK_EQ(cr_chan_close(there), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0); /* both have ended */
    CHECK_EQ(cr_chan_destroy(there), 0);
    CHECK_EQ(cr_chan_destroy(back), 0);
}

TEST(nobody_starves)
{
    for (uint64_t seed = 1; seed <= 20; seed++)
        CHECK_EQ(run(starve, NULL, seed), 0);
}

/* ---- Time ------------------------------------------------------------------------------------------------------------------ */

static void sleep_an_hour(void *unused)
{
    (void)unused;
    int64_t began_ns = cr_now();
    for (int i = 0; i < 60; i++)
        CHECK_EQ(cr_sleep(60 * CR_SEC), 0);
    int64_t slept_ns = cr_now() - began_ns;
    CHECK(slept_ns >= 3600 * CR_SEC && slept_ns < 3600 * CR_SEC + 10 * CR_MS);
}

TEST(an_hour_passes_in_no_time)
{
    int64_t began_ms = kernel_ms();
    CHECK_EQ(run(sleep_an_hour, NULL, 3), 0);
    printf("# %d ms\n", (int)(kernel_ms() - began_ms));
    CHECK(kernel_ms() - began_ms < 2000);
}

struct alarms {
    int64_t last_ns;
    int rung;
};

static void ring(void *arg)
{
    struct alarms *a = arg;
    uint32_t random;
    CHECK_EQ(cr_random(&random, sizeof(random)), 0);
    int64_t deadline_ns = cr_after(random % 1000 * CR_MS), woken_ns;
    CHECK_EQ(cr_sleep_until(deadline_ns), 0);
    woken_ns = cr_now();
    CHECK(woken_ns >= deadline_ns);
    CHECK(woken_ns < deadline_ns + CR_MS); /* nothing else keeps the worker */
    CHECK(deadline_ns / CR_MS >= a->last_ns / CR_MS); /* drawn in the same millisecond: no order among them */
    a->last_ns = deadline_ns;
    a->rung++;
}

static void set_alarms(void *arg)
{
    for (int i = 0; i < 200; i++)
        go(ring, arg);
}

TEST(deadlines_come_in_their_order_and_never_early)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct alarms a = {0};
        CHECK_EQ(run(set_alarms, &a, seed), 0);
        CHECK_EQ(a.rung, 200);
    }
}

static void look_at_the_clock(void *unused)
{
    (void)unused;
    int64_t deadline_ns = cr_after(5 * CR_MS);
    int looks = 0;
    while (cr_now() < deadline_ns)
        looks++;
    CHECK(looks > 2000 && looks < 51000);
}

TEST(a_loop_that_waits_for_a_deadline_ends)
{
    CHECK_EQ(run(look_at_the_clock, NULL, 1), 0);
}

static void count_turns(void *arg)
{
    int *yields = arg;
    while (*yields >= 0) {
        ++*yields;
        CHECK_EQ(cr_yield(), 0);
    }
}

static void sleep_among_busy(void *unused)
{
    static int yields;
    (void)unused;
    yields = 0;
    go(count_turns, &yields);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(yields > 100);
    yields = INT32_MIN;
}

TEST(a_turn_takes_time_so_who_sleeps_wakes_among_those_that_never_do)
{
    CHECK_EQ(run(sleep_among_busy, NULL, 1), 0);
}

static void *look_twice(void *arg)
{
    int64_t *looks_ns = arg;
    looks_ns[0] = cr_now();
    for (int i = 0; i < 1000; i++)
        looks_ns[1] = cr_now();
    char byte[8] = {0};
    CHECK_EQ(cr_random(byte, sizeof(byte)), 0);
    return NULL;
}

static void look_from_a_thread(void *arg)
{
    int64_t looks_ns[2], before_ns = cr_now();
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, look_twice, looks_ns), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(looks_ns[0], before_ns);
    CHECK_EQ(looks_ns[1], before_ns);
    *(int64_t *)arg = cr_now();
}

TEST(other_threads_read_the_clock_and_do_not_move_it)
{
    int64_t ended_ns;
    CHECK_EQ(run(look_from_a_thread, &ended_ns, 1), 0);
    int64_t began_ns = cr_now(), kernels_ns = cr__os_kernel_ns();
    CHECK(began_ns <= kernels_ns && kernels_ns - began_ns < CR_SEC); /* after the run it is the kernel's again */
}

/* ---- What comes from outside ------------------------------------------------------------------------------------------------- */

static void sleep_really(void *arg)
{
    usleep(3000);
    *(bool *)arg = true;
}

static void wait_for_the_pool(void *unused)
{
    static bool done;
    (void)unused;
    done = false;
    CHECK_EQ(cr_blocking(sleep_really, &done), 0);
    CHECK(done);
}

TEST(what_another_thread_does_is_waited_for)
{
    CHECK_EQ(run(wait_for_the_pool, NULL, 1), 0);
}

static void *write_later(void *arg)
{
    usleep(2000);
    CHECK_EQ(write(*(int *)arg, "x", 1), 1);
    return NULL;
}

static void read_from_outside(void *unused)
{
    static int ends[2];
    pthread_t thread;
    struct cr_conn *conn;
    char byte;
    (void)unused;
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_conn_from_fd(&conn, ends[0]), 0);
    CHECK_EQ(pthread_create(&thread, NULL, write_later, &ends[1]), 0);
    int64_t began_ns = cr_now();
    CHECK_EQ(cr_read_until(conn, &byte, 1, cr_after(CR_SEC)), 1);
    CHECK(cr_now() - began_ns < CR_MS); /* no time has passed */
    CHECK_EQ(cr_read_until(conn, &byte, 1, cr_after(CR_SEC)), -ETIMEDOUT); /* and here it has */
    CHECK(cr_now() - began_ns >= CR_SEC);
    pthread_join(thread, NULL);
    cr_close(conn);
    close(ends[1]);
}

TEST(data_from_outside_come_before_time_jumps_to_the_deadline)
{
    int64_t began_ms = kernel_ms();
    CHECK_EQ(run(read_from_outside, NULL, 1), 0);
    CHECK(kernel_ms() - began_ms < 900);
}

static void wait_for_the_end(void *unused)
{
    (void)unused;
    while (cr_sleep(CR_SEC) == 0)
        ;
}

TEST(a_runtime_of_its_own_thread_is_stopped_from_outside)
{
    struct cr_config config = {.workers = 1, .seed = 9};
    struct cr_rt *rt;
    CHECK_EQ(cr_rt_create(&rt, &config), 0);
    CHECK_EQ(cr_rt_start(rt, wait_for_the_end, NULL), 0);
    usleep(20000);
    CHECK_EQ(cr_rt_stop(rt), 0);
    cr_rt_destroy(rt);
}

/* ---- What is asked for, and what is refused ------------------------------------------------------------------------------------- */

static void say_seed(void *unused)
{
    struct cr_stats stats;
    (void)unused;
    CHECK_EQ(cr_stats_get(&stats), 0);
    fprintf(stderr, "seed %llu on %d\n", (unsigned long long)stats.seed, cr_worker_count());
}

static void run_as_wished(void)
{
    unsetenv("CR_WORKERS");
    setenv("CR_SEED", "42", 1);
    CHECK_EQ(cr_run(say_seed, NULL, NULL), 0);
    CHECK_EQ(run(say_seed, NULL, 43), 0); /* the program has chosen */
    setenv("CR_SEED", "0x2a", 1);
    CHECK_EQ(cr_run(say_seed, NULL, NULL), -EINVAL);
}

TEST(the_environment_may_ask_for_a_seed)
{
    char text[512];
    CHECK_EQ(test_capture(run_as_wished, text, sizeof(text)), 0);
    CHECK_STR(text, "seed 42 on 1\n");
    CHECK_STR(text, "seed 43 on 1\n");
    CHECK_STR(text, "crore: CR_SEED=0x2a: a number");
}

static void ask_for_two(void)
{
    struct cr_config config = {.workers = 2, .seed = 5};
    CHECK_EQ(cr_run(say_seed, NULL, &config), -EINVAL);
}

TEST(several_workers_are_refused)
{
    char text[512];
    CHECK_EQ(test_capture(ask_for_two, text, sizeof(text)), 0);
    CHECK_STR(text, "crore: under a seed (5) a runtime has one worker; 2 are asked for\n");
}

static void start_another(void *arg)
{
    struct cr_config config = {.workers = 1, .seed = *(uint64_t *)arg};
    struct cr_rt *rt;
    CHECK_EQ(cr_rt_create(&rt, &config), 0);
    CHECK_EQ(cr_rt_start(rt, say_seed, NULL), -EBUSY);
    cr_rt_destroy(rt);
}

static void run_two(void)
{
    uint64_t seed = 0;
    unsetenv("CR_SEED");
    CHECK_EQ(run(start_another, &seed, 5), 0);
    seed = 6;
    CHECK_EQ(run(start_another, &seed, 5), 0);
    CHECK_EQ(run(start_another, &seed, 0), 0);
    CHECK_EQ(run(say_seed, NULL, 7), 0); /* one after the other */
}

TEST(it_is_the_only_runtime_while_it_runs)
{
    char text[512];
    CHECK_EQ(test_capture(run_two, text, sizeof(text)), 0);
    CHECK_STR(text, "crore: a runtime under a seed is the only one of its process while it runs\n");
    CHECK_STR(text, "seed 7 on 1\n");
}

/* ---- How it is told --------------------------------------------------------------------------------------------------------------- */

#define REPEATS "CR_SEED=77 repeats it\n"

static void wait_for_ever(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_park(), -EPERM);
}

static void get_stuck(void)
{
    CHECK_EQ(run(wait_for_ever, NULL, 77), -EDEADLK);
}

static void abort_here(void *unused)
{
    (void)unused;
    abort();
}

static void run_to_abort(void)
{
    (void)run(abort_here, NULL, 77);
}

static void fault_here(void *unused)
{
    static volatile int *volatile nowhere;
    (void)unused;
    *nowhere = 1;
}

static void run_to_fault(void)
{
    (void)run(fault_here, NULL, 77);
}

static void exit_here(void *unused)
{
    (void)unused;
    exit(3);
}

static void run_to_exit(void)
{
    (void)run(exit_here, NULL, 77);
}

static void end_well(void)
{
    CHECK_EQ(run(sleep_an_hour, NULL, 77), 0);
    exit(4);
}

TEST(who_is_stuck_learns_the_seed)
{
    char text[2048];
    CHECK_EQ(test_capture(get_stuck, text, sizeof(text)), 0);
    CHECK_STR(text, "nothing can ever run again");
    CHECK_STR(text, REPEATS);
}

TEST(who_aborts_or_exits_learns_the_seed_and_who_ends_well_does_not)
{
    char text[4096];
    int status = test_capture(run_to_abort, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, REPEATS);
    CHECK_EQ(WEXITSTATUS(test_capture(run_to_exit, text, sizeof(text))), 3);
    CHECK_STR(text, REPEATS);
    CHECK_EQ(WEXITSTATUS(test_capture(end_well, text, sizeof(text))), 4);
    CHECK(strstr(text, "repeats") == NULL);
}

TEST(who_faults_learns_the_seed)
{
#ifdef TEST_SANITIZED
    SKIP("the sanitizer handles faults");
#endif
    char text[4096];
    int status = test_capture(run_to_fault, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK_STR(text, REPEATS);
}

static void dump_here(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_dump(STDERR_FILENO), 0);
}

static void run_to_dump(void)
{
    CHECK_EQ(run(dump_here, NULL, 77), 0);
}

TEST(a_dump_tells_the_seed)
{
    char text[4096];
    CHECK_EQ(test_capture(run_to_dump, text, sizeof(text)), 0);
    CHECK_STR(text, "under a seed: CR_SEED=77 repeats it\n");
}

static size_t traced(uint64_t seed, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/crore-sim-%d", (int)getpid());
    setenv("CR_SIM_TRACE", path, 1);
    unlink(path);
    CHECK_EQ(run(mixed_app, &(struct mixed){0}, seed), 0);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    size_t used = fread(text, 1, size - 1, file);
    text[used] = '\0';
    fclose(file);
    unlink(path);
    return used;
}

TEST(the_trace_is_the_same_byte_for_byte)
{
    enum { BYTES = 1 << 20 };
    char *one = malloc(BYTES), *two = malloc(BYTES), *other = malloc(BYTES);
    size_t used = traced(11, one, BYTES);
    CHECK_EQ(traced(11, two, BYTES), used);
    CHECK(memcmp(one, two, used) == 0);
    traced(12, other, BYTES);
    CHECK(strcmp(strchr(one, '\n'), strchr(other, '\n')) != 0);
    CHECK_STR(one, "# seed 11\n");
    CHECK_STR(one, " 1 begins in ");
    CHECK_STR(one, " - until ");
    CHECK_STR(one, "# ends with 0, trace ");
    free(one), free(two), free(other);
}

TEST(a_trace_that_can_not_be_written_ends_the_run_before_it_begins)
{
    setenv("CR_SIM_TRACE", "/nowhere/at/all", 1);
    CHECK_EQ(run(sleep_an_hour, NULL, 1), -ENOENT);
    unsetenv("CR_SIM_TRACE");
    CHECK_EQ(run(sleep_an_hour, NULL, 1), 0);
}
