/* Services: turns on a worker's own stack, by poke and by time; and that a runtime which waits for one is not taken for stuck. */
#include <crore/crore.h>
#include <pthread.h>

#include "sched/sched.h"
#include "test.h"

struct counted {
    struct cr__service service;
    unsigned turns, ended, released;
    unsigned pokes_itself;          /* in each of that many turns */
    struct cr__service *pokes;      /* in each turn; NULL: none */
    struct cr__record *wakes;       /* in its next turn */
    bool in_coroutine;
};

static void turn(struct cr__worker *w, struct cr__service *service)
{
    struct counted *c = CR__CONTAINER(service, struct counted, service);
    struct cr__worker *here;
    c->turns++;
    c->in_coroutine |= cr__running(&here) != NULL;
    service->due_ns = CR_FOREVER;
    if (c->pokes_itself > 0) {
        c->pokes_itself--;
        cr__service_poke(service);
    }
    if (c->pokes)
        cr__service_poke(c->pokes);
    if (c->wakes)
        cr__wake(w, c->wakes, CR__WOKEN);
    c->wakes = NULL;
}

static void end(struct cr__worker *w, struct cr__service *service)
{
    (void)w;
    CR__CONTAINER(service, struct counted, service)->ended++;
    cr__service_close(service);
}

static void tell(struct cr__service *service, char *text, size_t size_bytes)
{
    snprintf(text, size_bytes, "a service that has had %u turns\nits second line\n", CR__CONTAINER(service, struct counted, service)->turns);
}

static void released(struct cr__service *service)
{
    CR__CONTAINER(service, struct counted, service)->released++;
}

static void open_counted(struct counted *c)
{
    c->service.turn = turn;
    c->service.end = end;
    c->service.released = released;
    c->service.tell = tell;
    c->service.due_ns = CR_FOREVER;
    cr__service_open(cr__worker_here(), &c->service);
}

/* Waits for what comes from outside, as who receives from a network does. */
static int wait_outside(int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    int r = cr__wait_begin(w, me, CR__WAIT_NET_READABLE, NULL, deadline_ns);
    if (r < 0)
        return r;
    cr__wait_outside(w, 1);
    r = cr__wait_suspend(w, me, deadline_ns);
    cr__wait_outside(cr__worker_here(), -1);
    return r;
}

TEST_CO(one_that_is_opened_or_poked_has_a_turn_outside_of_any_coroutine)
{
    static struct counted c;
    open_counted(&c);
    CHECK_EQ(c.turns, 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(c.turns, 1);
    cr__service_poke(&c.service);
    cr__service_poke(&c.service);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(c.turns, 2);
    CHECK(!c.in_coroutine);
    cr__service_close(&c.service);
    CHECK_EQ(c.released, 1);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(c.turns, 2);
    CHECK_EQ(c.ended, 0);
}

TEST_CO(one_that_is_closed_before_the_turn_that_it_was_poked_for_has_none)
{
    static struct counted c;
    open_counted(&c);
    cr__service_close(&c.service);
    CHECK_EQ(cr_sleep(CR_MS), 0); /* and the runtime sleeps, and ends, as ever */
    CHECK_EQ(c.turns, 0);
}

TEST_CO(one_that_nobody_pokes_has_no_turn)
{
    static struct counted c;
    open_counted(&c);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_sleep(CR_MS / 4), 0);
    CHECK_EQ(c.turns, 1);
}

TEST_CO(a_time_that_it_names_bounds_the_workers_sleep)
{
    static struct counted c;
    open_counted(&c);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    int64_t due_ns = cr_after(20 * CR_MS);
    c.service.due_ns = due_ns;
    struct cr__worker *w;
    c.wakes = cr__running(&w);
    CHECK_EQ(wait_outside(cr_after(5 * CR_SEC)), 0);
    CHECK(cr_now() >= due_ns);
    CHECK(cr_now() < due_ns + CR_SEC);
}

TEST_CO(one_that_pokes_itself_keeps_neither_coroutines_nor_timers_waiting)
{
    static struct counted c;
    c.pokes_itself = 1u << 30;
    open_counted(&c);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cr_yield(), 0);
    for (int i = 0; i < 1000 && c.turns <= 10; i++)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK(c.turns > 10);
    c.pokes_itself = 0;
}

TEST_CO(a_turn_that_pokes_another_one_is_followed_by_that_ones)
{
    static struct counted a, b;
    a.pokes = &b.service;
    open_counted(&b);
    open_counted(&a);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    unsigned before = b.turns;
    cr__service_poke(&a.service);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(b.turns, before + 1);
}

static void *poke_from_thread(void *arg)
{
    cr__service_poke_remote(&((struct counted *)arg)->service);
    return NULL;
}

static void has_a_thread_poke(void *arg)
{
    pthread_t thread;
    open_counted(arg);
    CHECK_EQ(pthread_create(&thread, NULL, poke_from_thread, arg), 0);
    pthread_join(thread, NULL);
}

static void run_with_a_thread(void)
{
    static struct counted c;
    (void)!cr_run(has_a_thread_poke, &c, NULL);
}

TEST(a_poke_by_who_is_no_worker_of_the_runtime_ends_the_program)
{
    static char text[4096];
    int status = test_capture(run_with_a_thread, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "broken: here && here->sched == to->sched") != NULL);
}

static void poke_once(void *arg)
{
    cr__service_poke_remote(&((struct counted *)arg)->service);
}

TEST_CO_CONFIG(a_poke_by_another_worker_arrives_and_one_that_is_closed_meanwhile_is_released_afterwards, &(struct cr_config){.workers = 2})
{
    static struct counted c;
    struct cr__worker *w;
    struct cr_co *co;
    open_counted(&c);
    for (int i = 0; i < 100; i++) {
        c.wakes = cr__running(&w);
        unsigned before = c.turns;
        CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), poke_once, &c, NULL), 0);
        CHECK_EQ(wait_outside(cr_after(5 * CR_SEC)), 0);
        CHECK_EQ(cr_join(co), 0);
        CHECK(c.turns > before);
    }
    CHECK_EQ(cr_spawn_on(&co, !cr_worker_index(), poke_once, &c, NULL), 0);
    while (!atomic_load(&c.service.posted))
        ; /* on the other worker: what it sends stays in our inbox as long as we don't suspend */
    cr__service_close(&c.service);
    CHECK_EQ(c.released, 0);
    CHECK_EQ(cr_join(co), 0);
    for (int i = 0; i < 1000 && c.released == 0; i++)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(c.released, 1);
}

static struct counted *left_open;

static void leaves_one_open(void *unused)
{
    (void)unused;
    open_counted(left_open);
}

TEST(one_that_is_left_open_does_not_keep_the_runtime_and_is_told_of_its_end)
{
    static struct counted c;
    left_open = &c;
    CHECK_EQ(cr_run(leaves_one_open, NULL, NULL), 0);
    CHECK_EQ(c.ended, 1);
    CHECK_EQ(c.released, 1);
}

static void waits_for_nothing(void *unused)
{
    (void)unused;
    open_counted(left_open);
    CHECK_EQ(cr_park(), 0);
}

static void run_stuck(void)
{
    if (cr_run(waits_for_nothing, NULL, NULL) != -EDEADLK)
        _exit(1);
}

TEST(a_runtime_with_one_is_stuck_as_others_are_if_nobody_waits_for_what_it_brings)
{
    static struct counted c;
    static char text[4096];
    left_open = &c;
    CHECK_EQ(test_capture(run_stuck, text, sizeof(text)), 0);
}

static void waits_long(void *unused)
{
    (void)unused;
    struct cr__worker *w;
    left_open->wakes = NULL;
    open_counted(left_open);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    left_open->service.due_ns = cr_after(30 * CR_MS);
    left_open->wakes = cr__running(&w);
    CHECK_EQ(wait_outside(CR_FOREVER), 0); /* no timer of a coroutine's is armed: but for the service it would be stuck */
}

TEST(a_runtime_that_waits_for_one_is_not_stuck)
{
    static struct counted c;
    left_open = &c;
    CHECK_EQ(cr_run(waits_long, NULL, NULL), 0);
}

TEST_CO(a_dump_has_them_tell_of_themselves)
{
    static struct counted c;
    char text[4096] = "";
    FILE *file = tmpfile();
    CHECK(file != NULL);
    open_counted(&c);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_dump(fileno(file)), 0);
    rewind(file);
    CHECK(fread(text, 1, sizeof(text) - 1, file) > 0);
    CHECK_STR(text, "a service that has had 1 turns\nits second line\n");
    fclose(file);
}
