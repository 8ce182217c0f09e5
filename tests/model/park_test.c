/* sched/park.h, and the lock of base/spin.c: however waking, timing out, cancelling, ending and letting go meet, one of them wins, and the record is
 * touched by nobody who may not.
 *
 * What lies around it in sched.c and sync is copied here as shortly as possible: a queue of one under a lock. Being made ready goes by a run queue or
 * an inbox, which publish: model_unpark. */
#include "explorer.h"

#include "sched/park.h"

#define KIND 6u

struct record {
    cr__park_word word;
    int object;         /* plain: what it waits for */
    int value;          /* plain: handed over */
    bool queued;        /* under queue_lock */
    bool done;          /* under the word's lock */
    int joiner;         /* thread, under the word's lock; 0: none */
};

static struct record waiter;     /* of thread 0 */
static struct record *ending;    /* on the heap: whoever is last frees it */
static _Atomic uint8_t queue_lock;
static _Atomic bool armed;
static _Atomic int made_ready;
static int counter;
static bool cancels_come, wakes_come;

static void ready(void)
{
    model_assert(atomic_fetch_add_explicit(&made_ready, 1, memory_order_relaxed) == 0);
    model_unpark(0);
}

static void setup_waiter(void)
{
    waiter.word = CR__RUNNING | 5 * CR__WORKER;
    model_name(&waiter.word, "word");
    model_name(&queue_lock, "queue_lock");
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

/* As in sync: begins under the queue's lock, suspends, and leaves the queue itself if it wasn't woken. */
static void wait_in_queue(void *unused)
{
    (void)unused;
    cr__spin_lock(&queue_lock);
    waiter.object = 1;
    bool waits = cr__park_begin(&waiter.word, KIND, false);
    waiter.queued = waits;
    cr__spin_unlock(&queue_lock);
    if (!waits) {
        model_assert(cancels_come);
        return;
    }
    atomic_store_explicit(&armed, true, memory_order_release);
    model_park();
    enum cr__wait_state outcome = cr__park_state(&waiter.word);
    if (outcome == CR__WOKEN) {
        model_assert(waiter.value == 7);
    } else {
        cr__spin_lock(&queue_lock);
        waiter.queued = false;
        cr__spin_unlock(&queue_lock);
        model_assert(outcome > CR__WOKEN && waiter.value == 0);
    }
    waiter.object = 0; /* the next wait */
}

static void wake(void *unused)
{
    (void)unused;
    cr__spin_lock(&queue_lock);
    if (waiter.queued) {
        waiter.queued = false;
        if (cr__park_claim(&waiter.word, CR__WOKEN, false)) {
            waiter.value = 7;
            ready();
        }
    }
    cr__spin_unlock(&queue_lock);
}

/* By its worker's wheel: after it has suspended. */
static void time_out(void *unused)
{
    (void)unused;
    if (!atomic_load_explicit(&armed, memory_order_acquire))
        return;
    if (cr__park_claim(&waiter.word, CR__TIMED_OUT, false))
        ready();
}

/* From anywhere: knows the record, but no queue and no lock. */
static void cancel(void *unused)
{
    (void)unused;
    cr__park_cancel(&waiter.word, CR__CANCEL);
    if (cr__park_claim(&waiter.word, CR__CANCELLED, false)) {
        model_assert(waiter.object == 1); /* where it is to be sent: what it wrote before it began to wait */
        ready();
    }
}

static void cancel_by_scope(void *unused)
{
    (void)unused;
    cr__park_cancel(&waiter.word, CR__SCOPE_CANCEL);
    if (cr__park_claim(&waiter.word, CR__CANCELLED, false))
        ready();
}

static void wait_is_over(void)
{
    uint32_t word = waiter.word;
    enum cr__wait_state state = word & CR__STATE;
    model_assert(word / CR__WORKER == 5);
    model_assert(state == CR__RUNNING ? made_ready == 0 : state > CR__WAITING && made_ready == 1);
    model_assert(!waiter.queued);
    model_assert(!cancels_come || cr__park_cancelled(word));
}

static void waker_timer_canceller(void)
{
    setup_waiter();
    cancels_come = true;
    model_thread(wait_in_queue, NULL);
    model_thread(wake, NULL);
    model_thread(time_out, NULL);
    model_thread(cancel, NULL);
}

TEST(a_wait_is_ended_by_one_of_waker_timer_and_canceller)
{
    model_run(waker_timer_canceller, wait_is_over);
}

static void two_cancellers(void)
{
    setup_waiter();
    cancels_come = true;
    model_thread(wait_in_queue, NULL);
    model_thread(cancel, NULL);
    model_thread(cancel_by_scope, NULL);
}

TEST(no_cancellation_falls_between_looking_and_waiting)
{
    model_run(two_cancellers, wait_is_over);
}

/* As select does: may find, after it has begun to wait, that it needn't. */
static void wait_or_abandon(void *unused)
{
    (void)unused;
    cr__spin_lock(&queue_lock);
    waiter.queued = cr__park_begin(&waiter.word, KIND, false);
    cr__spin_unlock(&queue_lock);
    if (!cr__park_abandon(&waiter.word, false))
        model_park();
    cr__spin_lock(&queue_lock);
    waiter.queued = false;
    cr__spin_unlock(&queue_lock);
}

static void abandoner_and_waker(void)
{
    setup_waiter();
    model_thread(wait_or_abandon, NULL);
    model_thread(wake, NULL);
    model_thread(wake, NULL);
}

TEST(who_abandons_a_wait_that_was_claimed_is_made_ready)
{
    model_run(abandoner_and_waker, wait_is_over);
}

/* ---- Pinned ------------------------------------------------------------------------------------------------- */

/* Reads what it waits for, if it does: not by the queue, but as who looks for a cycle of mutexes. */
static void pin_and_read(void *unused)
{
    (void)unused;
    if (!cr__park_pin(&waiter.word, KIND))
        return;
    model_assert(waiter.object == 1);
    cr__park_unpin(&waiter.word);
}

static void pinned_and_woken(void)
{
    setup_waiter();
    cancels_come = wakes_come;
    model_thread(wait_in_queue, NULL);
    model_thread(pin_and_read, NULL);
    if (wakes_come)
        model_thread(cancel, NULL);
    else
        model_thread(time_out, NULL);
}

static void wake_whoever_waits(void *unused)
{
    (void)unused;
    model_wait(atomic_load_explicit(&armed, memory_order_acquire));
    time_out(NULL);
}

static void pinned_and_timed_out(void)
{
    setup_waiter();
    cancels_come = false;
    model_thread(wait_in_queue, NULL);
    model_thread(pin_and_read, NULL);
    model_thread(wake_whoever_waits, NULL);
}

TEST(what_is_pinned_keeps_waiting_for_the_same)
{
    model_run(pinned_and_timed_out, wait_is_over);
}

static void pinned_and_cancelled(void)
{
    wakes_come = true;
    pinned_and_woken();
}

TEST(a_canceller_waits_for_who_has_pinned)
{
    model_run(pinned_and_cancelled, wait_is_over);
}

/* ---- Migrating ---------------------------------------------------------------------------------------------- */

static int stack, woken_with, resumed; /* plain */

static void resume(void)
{
    model_assert(stack == 1 && woken_with == 1); /* it has left its stack, and the waker is done */
    resumed++;
}

static void leave(void *unused)
{
    (void)unused;
    stack = 1;
    if (cr__park_second(&waiter.word, CR__LEFT))
        resume();
}

static void wake_migrant(void *unused)
{
    (void)unused;
    woken_with = 1;
    if (cr__park_second(&waiter.word, CR__READY))
        resume();
}

static void cancel_without_claim(void *unused)
{
    (void)unused;
    cr__park_cancel(&waiter.word, CR__CANCEL);
}

static void leaver_and_waker(void)
{
    setup_waiter();
    model_thread(leave, NULL);
    model_thread(wake_migrant, NULL);
    model_thread(cancel_without_claim, NULL);
}

static void resumed_once(void)
{
    model_assert(resumed == 1);
}

TEST(one_that_migrates_is_resumed_by_the_second_of_two)
{
    model_run(leaver_and_waker, resumed_once);
}

static void move(void *to)
{
    cr__park_worker_set(&waiter.word, (unsigned)(uintptr_t)to);
    model_assert(cr__park_worker(&waiter.word) == (unsigned)(uintptr_t)to);
}

static void mover_and_others(void)
{
    setup_waiter();
    model_thread(move, (void *)9);
    model_thread(cancel_without_claim, NULL);
    model_thread(leave, NULL);
}

static void all_is_there(void)
{
    model_assert(waiter.word == (CR__RUNNING | CR__CANCEL | CR__LEFT | 9 * CR__WORKER));
}

TEST(flags_and_worker_share_the_word_without_loss)
{
    model_run(mover_and_others, all_is_there);
}

/* ---- Ending ------------------------------------------------------------------------------------------------- */

static void setup_ending(void)
{
    ending = malloc(sizeof(*ending));
    *ending = (struct record){.word = CR__RUNNING | CR__HELD};
    setup_waiter();
    model_name(&ending->word, "ending's word");
}

static void end(void *unused)
{
    (void)unused;
    ending->value = 3; /* its own until here */
    if (cr__park_unheld(&ending->word)) {
        free(ending);
        return;
    }
    cr__park_lock(&ending->word, false);
    bool held = cr__park_held(&ending->word);
    if (held) {
        ending->done = true;
        if (ending->joiner >= 0 && ending->queued && cr__park_claim(&waiter.word, CR__WOKEN, false))
            ready();
    }
    cr__park_unlock(&ending->word, 0, false);
    if (!held)
        free(ending);
}

static void detach(void *unused)
{
    (void)unused;
    cr__park_lock(&ending->word, false);
    bool done = ending->done;
    cr__park_unlock(&ending->word, CR__HELD, false);
    if (done)
        free(ending);
}

static void cancel_and_detach(void *unused)
{
    cr__park_lock(&ending->word, false);
    if (!ending->done)
        cr__park_cancel(&ending->word, CR__CANCEL);
    cr__park_unlock(&ending->word, 0, false);
    detach(unused);
}

static void join(void *unused)
{
    (void)unused;
    cr__park_lock(&ending->word, false);
    bool done = ending->done;
    if (!done) {
        model_assert(cr__park_begin(&waiter.word, KIND, false));
        ending->joiner = 0;
        ending->queued = true;
    }
    cr__park_unlock(&ending->word, 0, false);
    if (!done) {
        model_park();
        cr__park_lock(&ending->word, false);
        ending->queued = false;
        cr__park_unlock(&ending->word, 0, false);
    }
    model_assert(ending->value == 3);
    free(ending);
}

/* Gives up waiting: its end is somebody else's business. */
static void join_until(void *unused)
{
    cr__park_lock(&ending->word, false);
    bool done = ending->done;
    if (!done) {
        model_assert(cr__park_begin(&waiter.word, KIND, false));
        ending->queued = true;
    }
    cr__park_unlock(&ending->word, 0, false);
    if (!done) {
        atomic_store_explicit(&armed, true, memory_order_release);
        model_park();
        cr__park_lock(&ending->word, false);
        ending->queued = false;
        cr__park_unlock(&ending->word, 0, false);
        if (cr__park_state(&waiter.word) == CR__TIMED_OUT) {
            detach(unused);
            return;
        }
    }
    model_assert(ending->value == 3);
    free(ending);
}

static void ender_and_detacher(void)
{
    setup_ending();
    model_thread(cancel_and_detach, NULL);
    model_thread(end, NULL);
}

TEST(the_last_of_end_and_handle_puts_the_record_back)
{
    model_run(ender_and_detacher, NULL);
}

static void ender_and_joiner(void)
{
    setup_ending();
    model_thread(join, NULL);
    model_thread(end, NULL);
}

TEST(a_joiner_sees_what_the_ended_one_did)
{
    model_run(ender_and_joiner, NULL);
}

static void ender_and_impatient_joiner(void)
{
    setup_ending();
    model_thread(join_until, NULL);
    model_thread(end, NULL);
    model_thread(time_out, NULL);
}

TEST(a_joiner_that_gives_up_leaves_the_record_to_the_last_one)
{
    model_run(ender_and_impatient_joiner, NULL);
}

/* ---- Locks -------------------------------------------------------------------------------------------------- */

static void count_locked(void *unused)
{
    (void)unused;
    cr__spin_lock(&queue_lock);
    counter++;
    cr__spin_unlock(&queue_lock);
}

static void three_counters(void)
{
    for (int i = 0; i < 3; i++)
        model_thread(count_locked, NULL);
}

static void counted_three(void)
{
    model_assert(counter == 3);
}

TEST(a_spin_lock_lets_one_in)
{
    model_run(three_counters, counted_three);
}

static void count_by_word(void *unused)
{
    (void)unused;
    cr__park_lock(&waiter.word, false);
    counter++;
    cr__park_unlock(&waiter.word, 0, false);
}

static void three_counters_by_word(void)
{
    setup_waiter();
    for (int i = 0; i < 3; i++)
        model_thread(count_by_word, NULL);
}

TEST(a_words_lock_lets_one_in)
{
    model_run(three_counters_by_word, counted_three);
}
