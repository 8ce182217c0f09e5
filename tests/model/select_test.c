/* sync/select.c with sync/chan.c: of a select's cases exactly one is done, each value that was sent is received once, nobody stays in a queue, and nobody
 * waits for ever.
 *
 * Two selects may each see the other one's node, abandon, and begin anew, as often as they do so in step: from some time on coroutine 0
 * goes on only when no other one is within a select that does not wait. Hence select.c is included, with two calls replaced. */
#include "coroutines.h"

#include "sync/chan.h"

static _Atomic bool selects[COROUTINES]; /* and does not wait */
static int abandoned, patience;          /* plain: of coroutine 0 */

static bool nobody_selects(void)
{
    for (int i = 1; i < COROUTINES; i++) {
        if (atomic_load_explicit(&selects[i], memory_order_relaxed))
            return false;
    }
    return true;
}

static bool abandon(cr__park_word *word, bool alone)
{
    bool did = cr__park_abandon(word, alone);
    if (did && word == &records[0].word && ++abandoned > patience)
        model_wait(nobody_selects());
    return did;
}

static int suspend(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    atomic_store_explicit(&selects[w->index], false, memory_order_relaxed);
    int r = cr__wait_suspend(w, me, deadline_ns);
    atomic_store_explicit(&selects[w->index], true, memory_order_relaxed);
    return r;
}

#define cr__park_abandon abandon
#define cr__wait_suspend suspend
#include "../../src/sync/select.c"

/* ---- What they call besides --------------------------------------------------------------------------------- */

void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind)
{
    (void)kind;
    return calloc(1, size_bytes);
}

void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind)
{
    (void)size_bytes, (void)kind;
    free(object);
}

int cr__sched_tell(struct cr__sched *s, struct cr__post *post)
{
    (void)s, (void)post;
    return -ESHUTDOWN;
}

struct cr__co_cold *cr__co_cold_make(void)
{
    return NULL;
}

int cr__spawn_with(struct cr__worker *worker, struct cr__worker *placed, struct cr_co **out, void (*fn)(void *), void *arg,
                   const struct cr_attr *attr, struct cr__co_cold *cold, struct cr_co **where)
{
    (void)worker, (void)placed, (void)out, (void)fn, (void)arg, (void)attr, (void)cold, (void)where;
    return -ENOMEM;
}

static struct cr__co_cold colds[COROUTINES];
static struct cr__extra extras[COROUTINES];

struct cr__extra *cr__extra_of(struct cr_co *co)
{
    int i = (int)(cr__record_of(co) - records);
    colds[i].bound_ns = CR_FOREVER;
    colds[i].above = &extras[i].above;
    co->cold = &colds[i];
    return &extras[i];
}

/* ---- Coroutines, each with a select, or a plain call, or both ----------------------------------------------- */

#define NUMBERS 8

struct value {
    int64_t number, twice;
};

/* One case: the channel's index, and the number that is sent, 0: one is received. */
struct way {
    int chan, number;
};

/* One case is a plain call, two are a select. */
struct call {
    struct way ways[2];
    int count;
};

struct plan {
    struct call calls[2];
    int count;
};

static struct cr_chan *chans[2];
static struct plan plans[COROUTINES];
static int sent[NUMBERS], received[NUMBERS]; /* by number; plain: each is one's */
static int refused;                          /* plain: by coroutine 0 */
static bool closes_come, cancels_come;

static int call_plain(const struct way *way, struct value *value)
{
    return way->number ? cr_chan_send(chans[way->chan], value) : cr_chan_recv(chans[way->chan], value);
}

static int call_select(const struct way *ways, struct value *values, int *r)
{
    struct cr_case cases[2];
    for (int i = 0; i < 2; i++)
        cases[i] = (struct cr_case){ways[i].number ? CR_SEND : CR_RECV, chans[ways[i].chan], &values[i], 1};
    cr__worker_here()->random = model_choose(2) ? 1000 : 0; /* which of two is tried first */
    int won = cr_select(cases, 2);
    atomic_store_explicit(&selects[cr__worker_here()->index], false, memory_order_relaxed);
    model_assert(won >= 0 || won == -ECANCELED);
    *r = won < 0 ? won : cases[won].result;
    for (int i = 0; i < 2; i++)
        model_assert(i == won || cases[i].result == 1);
    return won < 0 ? 0 : won;
}

/* Its result. */
static int make_call(const struct call *call)
{
    struct value values[2];
    int r, won = 0;
    for (int i = 0; i < 2; i++)
        values[i] = (struct value){call->ways[i].number, 2 * call->ways[i].number};
    if (call->count == 1)
        r = call_plain(&call->ways[0], &values[0]);
    else
        won = call_select(call->ways, values, &r);
    model_assert(r == 0 || (r == -EPIPE && closes_come) || (r == -ECANCELED && cancels_come));
    for (int i = 0; i < call->count; i++) {
        if (call->ways[i].number)
            model_assert(values[i].number == call->ways[i].number);
        else if (i != won || r != 0)
            model_assert(values[i].number == 0);
    }
    if (r == 0) {
        int64_t number = values[won].number;
        model_assert(number > 0 && values[won].twice == 2 * number);
        model_assert((call->ways[won].number ? sent : received)[number]++ == 0);
    }
    return r;
}

static void run(void *which)
{
    int me = (int)(intptr_t)which;
    for (int i = 0; i < plans[me].count; i++) {
        int r = make_call(&plans[me].calls[i]);
        if (me == 0)
            refused += r != 0;
    }
    if (cancels_come && me == 0) { /* whether it was, or not: nobody else comes */
        model_assert(cr_chan_close(chans[0]) == 0);
        model_assert(!chans[1] || cr_chan_close(chans[1]) == 0);
    }
}

static void make(int n, size_t capacity)
{
    for (int i = 0; i < n; i++)
        model_assert(cr_chan_create(&chans[i], sizeof(struct value), capacity) == 0);
    model_name(&chans[0]->spin, "lock 0");
    if (n > 1)
        model_name(&chans[1]->spin, "lock 1");
}

static void start(int n)
{
    patience = 1;
    for (int i = 1; i < n; i++)
        selects[i] = plans[i].calls[0].count == 2;
    coroutines(n, run);
}

static int passed(void)
{
    int n = 0;
    for (int i = 1; i < NUMBERS; i++) {
        model_assert(sent[i] == received[i]);
        n += sent[i];
    }
    for (int i = 0; i < 2 && chans[i]; i++) {
        model_assert(!chans[i]->receivers._first && !chans[i]->senders._first && chans[i]->length == 0);
        model_assert(cr_chan_destroy(chans[i]) == 0);
    }
    return n;
}

static void one_passed(void)
{
    model_assert(passed() == 1);
}

static void two_passed(void)
{
    model_assert(passed() == 2);
}

static void passed_or_refused(void)
{
    int n = passed();
    model_assert(n + refused >= 1);
}

/* ---- Select meets select ------------------------------------------------------------------------------------ */

#define SEND(chan, number) {chan, number}
#define RECV(chan) {chan, 0}
#define SELECT(...) {{__VA_ARGS__}, 2}
#define PLAIN(...) {{__VA_ARGS__}, 1}

static void over_one(void)
{
    make(1, 0);
    plans[0] = (struct plan){{SELECT(SEND(0, 1), RECV(0))}, 1};
    plans[1] = (struct plan){{SELECT(SEND(0, 2), RECV(0))}, 1};
    start(2);
    patience = 0;
}

TEST(two_that_would_both_send_or_receive)
{
    model_run(over_one, one_passed);
}

static void same_order(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(SEND(0, 1), RECV(1))}, 1};
    plans[1] = (struct plan){{SELECT(RECV(0), SEND(1, 2))}, 1};
    start(2);
}

TEST(two_that_meet_over_two_channels)
{
    model_run(same_order, one_passed);
}

static void crosswise(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(SEND(0, 1), RECV(1))}, 1};
    plans[1] = (struct plan){{SELECT(SEND(1, 2), RECV(0))}, 1};
    start(2);
}

TEST(two_that_meet_crosswise)
{
    model_run(crosswise, one_passed);
}

static void over_one_of_two(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(SEND(0, 1), SEND(1, 2))}, 1};
    plans[1] = (struct plan){{SELECT(RECV(1), RECV(0))}, 1};
    start(2);
}

TEST(one_that_sends_by_either_and_one_that_receives_by_either)
{
    model_run(over_one_of_two, one_passed);
}

/* ---- Select meets plain calls ------------------------------------------------------------------------------- */

static void one_plain(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(RECV(0), SEND(1, 1))}, 1};
    plans[1] = (struct plan){{PLAIN(SEND(0, 2))}, 1};
    start(2);
}

TEST(a_select_meets_a_sender)
{
    model_run(one_plain, one_passed);
}

static void one_plain_receiver(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(RECV(0), SEND(1, 1))}, 1};
    plans[1] = (struct plan){{PLAIN(RECV(1))}, 1};
    start(2);
}

TEST(a_select_meets_a_receiver)
{
    model_run(one_plain_receiver, one_passed);
}

/* One of the two wins; the other one is served by the second call. */
static void two_plain(void)
{
    make(2, 0);
    plans[0] = (struct plan){{SELECT(RECV(0), RECV(1)), SELECT(RECV(0), RECV(1))}, 2};
    plans[1] = (struct plan){{PLAIN(SEND(0, 1))}, 1};
    plans[2] = (struct plan){{PLAIN(SEND(1, 2))}, 1};
    start(3);
}

TEST(a_select_that_two_claim_takes_from_one_and_then_from_the_other)
{
    model_run(two_plain, two_passed);
}

static void by_the_ring(void)
{
    make(2, 1);
    plans[0] = (struct plan){{SELECT(RECV(0), RECV(1)), SELECT(RECV(0), RECV(1))}, 2};
    plans[1] = (struct plan){{PLAIN(SEND(0, 1)), PLAIN(SEND(0, 2))}, 2};
    start(2);
}

TEST(also_by_way_of_the_ring)
{
    model_run(by_the_ring, two_passed);
}

/* ---- Closing, cancelling ------------------------------------------------------------------------------------ */

static void close_first(void *unused)
{
    (void)unused;
    model_assert(cr_chan_close(chans[0]) == 0);
}

static void run_or_close(void *which)
{
    if (which == (void *)0)
        run(which);
    else
        close_first(which);
}

static void select_and_close(void)
{
    make(2, 0);
    closes_come = true;
    plans[0] = (struct plan){{SELECT(RECV(0), SEND(1, 1))}, 1};
    coroutines(2, run_or_close);
}

static void refused_once(void)
{
    model_assert(passed() == 0 && refused == 1);
}

TEST(closing_ends_a_select)
{
    model_run(select_and_close, refused_once);
}

static void run_run_close(void *which)
{
    if (which == (void *)2)
        close_first(which);
    else
        run(which);
}

static void select_sender_close(void)
{
    make(2, 0);
    closes_come = true;
    plans[0] = (struct plan){{SELECT(RECV(0), SEND(1, 1))}, 1};
    plans[1] = (struct plan){{PLAIN(SEND(0, 2))}, 1};
    coroutines(3, run_run_close);
}

TEST(closing_and_a_sender_at_once)
{
    model_run(select_sender_close, passed_or_refused);
}

static void cancel_first(void *unused)
{
    (void)unused;
    cr__park_cancel(&records[0].word, CR__CANCEL);
    if (cr__park_claim(&records[0].word, CR__CANCELLED, false))
        model_unpark(0);
}

static void select_sender_cancel(void)
{
    make(1, 0);
    closes_come = cancels_come = true;
    plans[0] = (struct plan){{SELECT(RECV(0), SEND(0, 1))}, 1};
    plans[1] = (struct plan){{PLAIN(SEND(0, 2))}, 1};
    start(2);
    model_thread(cancel_first, NULL);
}

TEST(what_a_cancelled_select_has_received_was_not_sent_in_vain)
{
    model_run(select_sender_cancel, passed_or_refused);
}

/* Either ends: the other one by the first one's value, or since the first one has closed both. */
static void two_selects_cancel(void)
{
    make(2, 0);
    closes_come = cancels_come = true;
    plans[0] = (struct plan){{SELECT(SEND(0, 1), RECV(1))}, 1};
    plans[1] = (struct plan){{SELECT(SEND(1, 2), RECV(0))}, 1};
    start(2);
    patience = 0;
    model_thread(cancel_first, NULL);
}

TEST(who_meets_a_cancelled_select_is_not_forgotten)
{
    model_run_with(&(struct model_options){.unmutated = true}, two_selects_cancel, passed_or_refused);
}
