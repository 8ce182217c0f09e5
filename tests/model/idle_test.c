/* sched/idle.c and sched/sent.c: workers that have nothing to do, and what comes meanwhile. Nothing that can run is left lying while all sleep; the end is
 * declared when nothing can run any more, not before, and always.
 *
 * A worker's loop is here, as short as can be (work); so are coroutines, which are functions that run to where they would suspend. The kick and the sleep in a poller
 * carry nothing: model_park_relaxed. A timer is a sleep that ends at any moment. */
#include "explorer.h"

#include "sched/idle.h"
#include "sched/monitor.h"

#define WORKERS 3
#define COROUTINES 3
#define POSTS 2

struct coroutine {
    struct cr__record record;
    void (*run)(struct cr__worker *w, struct coroutine *me); /* up to where it suspends, or ends */
    int made;  /* plain: before it is sent */
    int turns; /* plain: of whoever runs it */
    bool ended;
};

static struct cr__sched sched;
static struct cr__worker workers[WORKERS];
static struct cr__worker *worker_list[WORKERS];
static struct coroutine coroutines[COROUTINES];
static struct cr__post posts[POSTS];

static struct {
    bool sleeps[WORKERS];   /* when all begins */
    bool gone[WORKERS];     /* plain, as is what follows: its memory has been given back */
    int posted[POSTS];      /* before it is sent */
    int done[POSTS];        /* how often */
    int refused[POSTS];
    int reports;            /* there is one at most */
    _Atomic unsigned stopped;
} test;

/* ---- What lies below, and beside ----------------------------------------------------------------------------- */

/* The real one, which has a loop, is tested in park_test.c. */
void cr__spin_wait(_Atomic uint8_t *lock)
{
    (void)lock;
    model_spin();
}

bool cr__forked(void)
{
    return false;
}

void cr__sched_report(struct cr__sched *s)
{
    (void)s;
    test.reports++;
}

static void kick(struct cr__worker *w)
{
    model_assert(!test.gone[w->index]);
    model_unpark_relaxed(w->index);
}

static const struct cr__poller_ops poller_ops = {.kick = kick};

/* As in sched.c: a ring of its own, and an offer if there is more than the owner is about to take. */
void cr__ready_here(struct cr__worker *w, struct cr__record *record)
{
    w->elsewhere |= CR__IN_RING;
    model_assert(cr__runq_push(&w->stealable, &record->co));
    if (cr__runq_length(&w->stealable) > 1)
        cr__sched_offer(w->sched);
}

static struct cr_co *take_ready(struct cr__worker *w)
{
    if (w->ready.head)
        return cr__queue_pop(&w->ready);
    struct cr_co *co = w->elsewhere ? cr__runq_pop(&w->stealable) : NULL;
    if (!co)
        w->elsewhere = 0;
    else if (cr__runq_length(&w->stealable) > 0)
        cr__sched_offer(w->sched);
    return co;
}

static void run_ready(struct cr__worker *w)
{
    for (struct cr_co *co; (co = take_ready(w)) != NULL;) {
        struct coroutine *me = CR__CONTAINER(cr__record_of(co), struct coroutine, record);
        model_assert(me->made == me - coroutines + 1 && !me->ended);
        me->turns++;
        me->run(w, me);
    }
}

/* It is busy: others have it, or are about to. One more turn would be like this one until one of these changes. */
static bool worth_a_turn(struct cr__worker *w)
{
    unsigned n = atomic_load_explicit(&sched.injection.batches, memory_order_relaxed);
    for (unsigned i = 0; i < sched.count; i++)
        n += cr__runq_length(&workers[i].stealable);
    return n == 0 || !cr__inbox_empty(&w->inbox) || cr__sched_anything_told(&sched);
}

/* Until it is kicked, or its timer comes. */
static void sleep_and_get_up(struct cr__worker *w)
{
    if (!atomic_load_explicit(&sched.done, memory_order_relaxed) && w->wheel.armed == 0)
        model_park_relaxed();
    cr__worker_get_up(w);
    if (w->wheel.armed > 0) {
        w->wheel.armed = 0;
        cr__queue_push(&w->ready, &coroutines[w->index].record.co);
    }
}

static void work(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    if (test.sleeps[w->index])
        sleep_and_get_up(w);
    while (!atomic_load_explicit(&sched.done, memory_order_acquire)) {
        run_ready(w);
        cr__worker_receive(w);
        if (cr__sched_anything_told(&sched))
            cr__sched_do_told(&sched, w);
        if (w->ready.head || w->elsewhere)
            continue;
        if (cr__worker_fall_asleep(w))
            sleep_and_get_up(w);
        else
            model_wait(worth_a_turn(w));
    }
}

/* The same, to the runtime's end: when all have stopped, nobody else touches a worker that has drained. As in rt.c. */
static void work_and_go(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    if (w->index == 0)
        cr__sched_open(&sched);
    work(index);
    atomic_fetch_add_explicit(&test.stopped, 1, memory_order_acq_rel);
    model_wait(atomic_load_explicit(&test.stopped, memory_order_acquire) == sched.count);
    cr__worker_drain(w);
    test.gone[w->index] = true;
}

/* ---- What coroutines do -------------------------------------------------------------------------------------- */

static struct coroutine *made(struct cr__worker *w, int which)
{
    struct coroutine *co = &coroutines[which];
    co->made = which + 1;
    w->live++;
    return co;
}

static void end(struct cr__worker *w, struct coroutine *me)
{
    me->ended = true;
    w->live--;
}

static void send(struct cr__worker *to, struct coroutine *co)
{
    if (cr__inbox_push(&to->inbox, (struct cr__inbox_link *)(void *)&co->record.co.next, 1))
        to->poller_ops->kick(to);
}

static void waits_for_ever(struct cr__worker *w, struct coroutine *me)
{
    (void)w, (void)me;
}

/* ---- Setting up ---------------------------------------------------------------------------------------------- */

/* Workers, of which each is a thread that does what `loops` says: NULL: work. Threads that are added later are outside. */
static void runtime(unsigned count, void (*const loops[])(void *index))
{
    static const char *const inbox_names[] = {"inbox 0", "inbox 1", "inbox 2"}, *const ring_names[] = {"ring 0", "ring 1", "ring 2"};
    memset(&sched, 0, sizeof(sched));
    memset(workers, 0, sizeof(workers));
    memset(coroutines, 0, sizeof(coroutines));
    memset(posts, 0, sizeof(posts));
    memset(&test, 0, sizeof(test));
    sched.workers = worker_list;
    sched.count = count;
    sched.open = true;
    for (unsigned i = 0; i < count; i++) {
        worker_list[i] = &workers[i];
        workers[i].sched = &sched;
        workers[i].index = (uint16_t)i;
        workers[i].random = i + 1;
        workers[i].poller_ops = &poller_ops;
        model_name(&workers[i].inbox, inbox_names[i]);
        model_name(&workers[i].stealable.ends, ring_names[i]);
        model_thread(loops ? loops[i] : work, (void *)(intptr_t)i);
    }
    model_name(&sched.idle, "idle");
    model_name(&sched.searching, "searching");
    model_name(&sched.waking, "waking");
    model_name(&sched.live, "live");
    model_name(&sched.done, "done");
    model_name(&sched.promised, "promised");
    model_name(&sched.end_lock, "end_lock");
}

/* It is ready on worker w when all begins. */
static void begins(unsigned w, int which, void (*run)(struct cr__worker *w, struct coroutine *me))
{
    coroutines[which].run = run;
    cr__queue_push(&workers[w].ready, &made(&workers[w], which)->record.co);
}

/* It sleeps when all begins; `timer`: and coroutine number w, which has begun, is to go on some time. */
static void begins_asleep(unsigned w, struct coroutine *timer)
{
    test.sleeps[w] = true;
    sched.idle++;
    workers[w].inbox.head = CR__INBOX_ASLEEP;
    workers[w].hopeless = !timer;
    workers[w].wheel.armed = timer != NULL;
    sched.live += timer != NULL;
}

static void ended_well(void)
{
    model_assert(sched.done && sched.result == 0 && test.reports == 0 && sched.live == 0);
    for (int i = 0; i < COROUTINES; i++)
        model_assert(coroutines[i].ended == (coroutines[i].run != NULL));
    model_assert(sched.searching == 0 && cr__sched_idle(&sched) == 0);
}

static void stuck(void)
{
    model_assert(sched.done && sched.result == -EDEADLK && test.reports == 1);
}

/* ---- What is offered while somebody falls asleep -------------------------------------------------------------- */

static void sends_one(struct cr__worker *w, struct coroutine *me)
{
    send(&workers[1], made(w, 1));
    end(w, me);
}

static void a_message(void)
{
    runtime(2, NULL);
    coroutines[1].run = end;
    begins(0, 0, sends_one);
}

TEST(who_falls_asleep_finds_what_is_sent_to_it)
{
    model_run(a_message, ended_well);
}

static void spawns_two(struct cr__worker *w, struct coroutine *me)
{
    cr__ready_here(w, &made(w, 1)->record);
    cr__ready_here(w, &made(w, 2)->record);
    end(w, me);
}

static void runs(void *index)
{
    run_ready(&workers[(intptr_t)index]);
}

static void is_woken_and_helps(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    model_park_relaxed();
    cr__worker_get_up(w);
    (void)cr__worker_search(w);
    run_ready(w);
}

static void all_have_run(void)
{
    for (int i = 0; i < COROUTINES; i++)
        model_assert(coroutines[i].ended == (coroutines[i].run != NULL));
    model_assert(workers[0].live + workers[1].live == 0 && sched.searching == 0 && !sched.waking && cr__sched_idle(&sched) == 0);
}

static void a_ring(void)
{
    runtime(2, (void (*[])(void *)){runs, is_woken_and_helps});
    coroutines[1].run = coroutines[2].run = end;
    begins(0, 0, spawns_two);
    begins_asleep(1, NULL);
}

TEST(what_lies_in_a_ring_wakes_one)
{
    model_run(a_ring, all_have_run);
}

static void a_ring_at_dusk(void)
{
    runtime(2, NULL);
    coroutines[1].run = coroutines[2].run = end;
    begins(0, 0, spawns_two);
}

TEST(or_by_its_owner_if_the_other_falls_asleep)
{
    model_run(a_ring_at_dusk, ended_well);
}

static void injects(struct cr__worker *w, struct coroutine *me)
{
    cr__inject(w->sched, &made(w, 1)->record);
    end(w, me);
}

static void an_injection(void)
{
    runtime(2, (void (*[])(void *)){runs, is_woken_and_helps});
    coroutines[1].run = end;
    begins(0, 0, injects);
    begins_asleep(1, NULL);
}

TEST(what_is_injected_is_taken)
{
    model_run(an_injection, all_have_run);
}

/* ---- The end --------------------------------------------------------------------------------------------------- */

/* For something that it does not find, or which is another one's by then. */
static void rouses(void *index)
{
    cr__worker_rouse(&workers[(intptr_t)index]);
}

static void falls_asleep(void *index)
{
    (void)cr__worker_fall_asleep(&workers[(intptr_t)index]);
}

static void two_wait(void)
{
    runtime(2, NULL);
    begins(0, 0, waits_for_ever);
    begins(1, 1, waits_for_ever);
}

TEST(that_nothing_can_run_is_noticed)
{
    model_run(two_wait, stuck);
}

static void two_wait_and_one_is_roused(void)
{
    two_wait();
    model_thread(rouses, (void *)0);
}

TEST(also_if_one_is_woken_for_nothing)
{
    model_run(two_wait_and_one_is_roused, stuck);
}

static void one_of_three_waits(void)
{
    runtime(3, (void (*[])(void *)){falls_asleep, falls_asleep, falls_asleep});
    (void)made(&workers[0], 0);
}

TEST(by_one_of_several_that_fall_asleep_at_once)
{
    model_run(one_of_three_waits, stuck);
}

/* What another one would say now does not count any more. */
static void fails(void *index)
{
    (void)index;
    cr__sched_finish(&sched, -EIO);
}

static void one_fails(void)
{
    runtime(2, (void (*[])(void *)){work, fails});
    begins(0, 0, waits_for_ever);
    begins_asleep(1, NULL);
    workers[1].waits_outside = 1;
}

static void failed(void)
{
    model_assert(sched.done && sched.result == -EIO && test.reports == 0);
}

TEST(one_that_fails_ends_it_for_all)
{
    model_run(one_fails, failed);
}

static void sleeps_first(struct cr__worker *w, struct coroutine *me)
{
    if (me->turns == 1)
        w->wheel.armed = 1;
    else
        end(w, me);
}

static void a_timer(void)
{
    runtime(2, NULL);
    begins(0, 0, sleeps_first);
}

TEST(one_whose_time_comes_is_not_without_hope)
{
    model_run(a_timer, ended_well);
}

/* While the last one to fall asleep looks for the end, another one gets up, hands over to a third one, and goes on; the third one ends that, and falls asleep. */
static void one_gets_up_and_spawns(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    cr__worker_get_up(w);
    send(&workers[2], made(w, 1));
}

static void one_gets_up_and_ends(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    model_park_relaxed();
    cr__worker_get_up(w);
    model_assert(cr__worker_receive(w));
    run_ready(w);
    (void)cr__worker_fall_asleep(w);
}

static void three(void)
{
    runtime(3, (void (*[])(void *)){one_gets_up_and_spawns, falls_asleep, one_gets_up_and_ends});
    coroutines[0].made = 1; /* runs on worker 0, and will for long */
    coroutines[1].run = end;
    begins_asleep(0, &coroutines[0]);
    begins_asleep(2, NULL);
}

static void goes_on(void)
{
    model_assert(!sched.done && coroutines[1].ended);
}

TEST(what_others_have_ended_is_not_taken_for_all_that_lives)
{
    model_run(three, goes_on);
}

/* ---- One that is being woken ------------------------------------------------------------------------------------ */

static void offers(void *index)
{
    (void)index;
    cr__sched_offer(&sched);
}

/* Its time has come. */
static void gets_up(void *index)
{
    cr__worker_get_up(&workers[(intptr_t)index]);
}

static void may_be_woken(void)
{
    model_assert(!sched.waking && cr__sched_idle(&sched) == 0);
}

static void offer_and_timer(void)
{
    runtime(2, (void (*[])(void *)){offers, gets_up});
    begins_asleep(1, &coroutines[1]);
}

TEST(one_that_is_up_is_not_being_woken)
{
    model_run(offer_and_timer, may_be_woken);
}

/* ---- From outside ------------------------------------------------------------------------------------------------ */

/* Makes one ready that has waited for it. */
static void on_post(struct cr__worker *w, struct cr__post *post)
{
    intptr_t i = post - posts;
    model_assert(test.posted[i] == i + 1 && test.done[i]++ == 0);
    cr__queue_push(&w->ready, &coroutines[i].record.co);
}

/* Spawns. */
static void on_go(struct cr__worker *w, struct cr__post *post)
{
    intptr_t i = post - posts;
    model_assert(test.posted[i] == i + 1 && test.done[i]++ == 0);
    cr__ready_here(w, &made(w, 1 + (int)i)->record);
}

static void on_drained(struct cr__worker *w, struct cr__post *post)
{
    (void)w, (void)post;
    coroutines[0].turns++;
}

static void tells(void *which)
{
    intptr_t i = (intptr_t)which;
    test.posted[i] = (int)i + 1;
    test.refused[i] = cr__sched_tell(&sched, &posts[i]);
}

static void posts_to_first(void *which)
{
    intptr_t i = (intptr_t)which;
    test.posted[i] = (int)i + 1;
    test.refused[i] = cr__post_from_outside(&sched, &workers[0], &posts[i]) ? 0 : -ESHUTDOWN;
}

/* As who sets an event does. */
static void enters_and_posts(void *which)
{
    intptr_t i = (intptr_t)which;
    test.posted[i] = (int)i + 1;
    posts[i].promised = true;
    test.refused[i] = cr__sched_enter(&sched);
    if (test.refused[i] < 0)
        return;
    cr__sched_promise(&sched);
    cr__post(&workers[0], &posts[i]);
    cr__sched_leave(&sched);
}

/* Its turn comes when it has waited, too. */
static void waits_once(struct cr__worker *w, struct coroutine *me)
{
    if (me->turns == 2)
        end(w, me);
}

static void served(int n, void (*fn)(struct cr__worker *, struct cr__post *))
{
    sched.stoppable = true;
    for (int i = 0; i < n; i++)
        posts[i].fn = fn;
}

static void no_post_is_lost(void)
{
    model_assert(sched.done && sched.result == 0 && sched.live == 0 && sched.promised == 0 && sched.inside == 0 && !sched.told);
    for (int i = 0; i < POSTS; i++)
        model_assert(test.done[i] == (posts[i].fn && test.refused[i] == 0));
}

static void worker_and_teller(void)
{
    runtime(1, (void (*[])(void *)){work_and_go});
    served(1, on_post);
    begins(0, 0, waits_once);
    model_thread(tells, (void *)0);
}

static void that_waited_has_ended(void)
{
    no_post_is_lost();
    model_assert(coroutines[0].ended && test.refused[0] == 0);
}

TEST(what_is_told_is_done)
{
    model_run(worker_and_teller, that_waited_has_ended);
}

static void worker_and(void (*one_outside)(void *))
{
    runtime(1, (void (*[])(void *)){work_and_go});
    served(1, on_post);
    begins(0, 0, waits_once);
    model_thread(one_outside, (void *)0);
}

static void worker_and_poster(void)
{
    worker_and(posts_to_first);
}

TEST(and_what_is_posted)
{
    model_run(worker_and_poster, that_waited_has_ended);
}

static void worker_and_one_inside(void)
{
    worker_and(enters_and_posts);
}

TEST(and_by_whom_who_is_inside)
{
    model_run(worker_and_one_inside, that_waited_has_ended);
}

static void worker_that_ends_and_teller(void)
{
    runtime(1, (void (*[])(void *)){work_and_go});
    served(1, on_go);
    coroutines[1].run = end;
    begins(0, 0, end);
    model_thread(tells, (void *)0);
}

static void done_or_refused(void)
{
    no_post_is_lost();
    model_assert(coroutines[1].ended == (test.refused[0] == 0));
}

TEST(who_comes_too_late_is_told_so)
{
    model_run(worker_that_ends_and_teller, done_or_refused);
}

/* Both sleep, and a coroutine waits. */
static void two_workers_and_teller(void)
{
    runtime(2, NULL);
    served(1, on_post);
    coroutines[0] = (struct coroutine){.run = end, .made = 1};
    begins_asleep(0, NULL);
    begins_asleep(1, NULL);
    sched.live = 1;
    model_thread(tells, (void *)0);
}

TEST(whoever_comes_by_does_it)
{
    model_run(two_workers_and_teller, that_waited_has_ended);
}

static void tells_two(void *unused)
{
    (void)unused;
    tells((void *)0);
    tells((void *)1);
}

static void worker_and_two_told(void)
{
    runtime(1, NULL);
    served(2, on_post);
    begins(0, 0, waits_once);
    begins(0, 1, waits_once);
    model_thread(tells_two, NULL);
}

static void both_have_ended(void)
{
    no_post_is_lost();
    model_assert(coroutines[0].ended && coroutines[1].ended);
}

TEST(and_all_that_is_told)
{
    model_run(worker_and_two_told, both_have_ended);
}

/* Woken because of a ring at the moment when it has seen that something was told. */
static void falls_asleep_and_is_told(void *index)
{
    struct cr__worker *w = &workers[(intptr_t)index];
    if (cr__worker_fall_asleep(w)) {
        model_park_relaxed();
        cr__worker_get_up(w);
    }
}

static void offer_and_teller(void)
{
    runtime(2, (void (*[])(void *)){offers, falls_asleep_and_is_told});
    served(1, on_post);
    model_thread(tells, (void *)0);
}

TEST(nor_is_one_that_finds_something_told_being_woken)
{
    model_run(offer_and_teller, may_be_woken);
}

/* ---- What is still under way at the end -------------------------------------------------------------------------- */

/* Of several that have stopped each drains its own, and then drops coroutines, of which others may have woken some. */
static void drains(void *index)
{
    cr__worker_drain(&workers[(intptr_t)index]);
    coroutines[0].turns++;
}

static void drains_what_is_promised(void *index)
{
    cr__worker_drain(&workers[(intptr_t)index]);
}

static void two_drain(void)
{
    runtime(2, (void (*[])(void *)){drains, drains_what_is_promised});
    served(1, on_drained);
    posts[0].promised = true;
    cr__sched_promise(&sched);
    workers[1].inbox.head = (uintptr_t)&posts[0].link;
}

static void once_by_each(void)
{
    model_assert(coroutines[0].turns == 2 && sched.promised == 0);
}

TEST(who_has_drained_sees_what_was_promised)
{
    model_run(two_drain, once_by_each);
}
