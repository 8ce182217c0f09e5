/* Calls by coroutines of other workers than the network's, by tasks there, and by whoever may migrate: made by a visitor, who is spawned there for the one call, while the caller
 * waits for its end. That costs a spawn and two messages; who wants it fast stays with the network.
 *
 * Who may wait for what. A visitor is a task (sched/task.h): so it needs no stack, however many of them wait, and those that would end their wait never lack one. What it works
 * with lies on the caller's stack only where the call does not wait, or where that stack is the caller's own; a shared one is kept in place that short while. Calls that wait have
 * theirs on the heap (struct cr__visit, parcel.c), if their caller is on a shared stack, or is a task, which has none. Opening is made by a coroutine, since names are looked up
 * and several addresses tried, one after the other; so is looking them up (asker.c): its waits end by themselves, whoever else gets a turn.
 *
 * A task's visit is begun by its leaf, and its end is what the leaf waits for, whatever comes meanwhile, as with cr_task_run. What it brings is handed over when the leaf is called
 * again (struct cr__brought): not before, since that is when the arguments are there that it goes to.
 *
 * What need not wait is no visit but an errand: closing, and giving back what was lent. It is put into a list of the network's, linked through what it is about, so it needs no
 * memory, and can't be lost for want of it.
 *
 * Until a visitor has had a turn his visit may be withdrawn: so a caller comes back at his deadline, or when he is cancelled, however long the network's worker is busy, or lacks a
 * stack for who opens something. Closing a network that is on all workers must be done, and waited for: that goes by posts that lie on the closer's stack (cr__visit_surely).
 *
 * Rejected, for now: to queue the operation itself in the slot. (It would save the spawn, and a deadline and a cancellation would each need a way of their own to take it out
 * again.) Visitors with stacks: when the last one of the pool waited with it, nobody could be spawned who would have woken him. */
#include "net/socket/socket.h"

#include <string.h>

#include "sched/budget.h"

/* ---- What may be closed meanwhile ----------------------------------------------------------------------------------- */

/* The word counts visits, from before they are sent until they have ended there; its highest bit says that the thing is closed. The caller has looked at the thing before it
 * counted itself: so that is a release, of which the closer's look is the acquire, and what the closer then does to the thing comes after. The one that takes the count of what is
 * closed to 0 has seen all that the others did. */
#define CLOSED (1u << 31)

bool cr__visits_closed(_Atomic uint32_t *visits)
{
    if (CR__LIKELY(atomic_load_explicit(visits, memory_order_acquire) == 0)) /* pairs with the releases in cr__visits_hold and leave */
        return true;
    return atomic_fetch_or_explicit(visits, CLOSED, memory_order_acq_rel) == 0;
}

bool cr__visits_are_over(const _Atomic uint32_t *visits)
{
    return atomic_load_explicit(visits, memory_order_acquire) == CLOSED;
}

bool cr__visited_closed(const struct cr__visited *what)
{
    return what->visits && (atomic_load_explicit(what->visits, memory_order_acquire) & CLOSED);
}

void cr__visits_hold(const struct cr__visited *what)
{
    if (what->visits)
        atomic_fetch_add_explicit(what->visits, 1, memory_order_release); /* pairs with the acquires in cr__visits_closed */
}

/* Whether it was the last one at something closed. */
static bool leave(const struct cr__visited *what)
{
    return what->visits && atomic_fetch_sub_explicit(what->visits, 1, memory_order_acq_rel) == (CLOSED | 1);
}

void cr__visits_leave(const struct cr__visited *what)
{
    if (leave(what))
        what->over(what->thing);
}

void cr__visits_drop(const struct cr__visited *what)
{
    if (leave(what))
        cr__errand(what->network, what->close, what->thing);
}

/* ---- The visitor ----------------------------------------------------------------------------------------------------- */

/* A visit is PENDING until the visitor has his turn there, then BEGUN; or its caller has WITHDRAWN it, at his deadline or cancelled: then the visitor finds nothing to do, and does not look
 * at what was the caller's. Who only tries is waited for: his is BEGUN at once. */
enum { PENDING, BEGUN, WITHDRAWN };

/* Both look at it: so it lies behind the record of a task, for which the caller has a handle, or on the heap: it is freed by the caller of a visit that has ended, or by the visitor of one that
 * was withdrawn. */
struct cr__ticket {
    struct cr__visit *visit;
    struct cr__visited what;
    _Atomic uint8_t state;
};

struct visitor {
    struct cr_task task;
    struct cr__ticket ticket;
};

static bool decide(struct cr__ticket *ticket, uint8_t state)
{
    uint8_t pending = PENDING;
    return atomic_compare_exchange_strong_explicit(&ticket->state, &pending, state, memory_order_acq_rel, memory_order_acquire); /* the other one's pairs with it */
}

static bool begin(struct cr__ticket *ticket)
{
    return atomic_load_explicit(&ticket->state, memory_order_relaxed) == BEGUN || decide(ticket, BEGUN);
}

/* By the caller. Returns whether the visit will never begin, and its visitor is nobody's any more. */
static bool withdraw(struct cr__visit *visit)
{
    if (!decide(visit->ticket, WITHDRAWN))
        return false;
    (void)!cr_detach(visit->visitor);
    return true;
}

static int visits_a_network(struct cr_task *task)
{
    struct cr__ticket *ticket = &((struct visitor *)(void *)task)->ticket;
    if (!begin(ticket)) {
        cr__visits_leave(&ticket->what);
        return 0;
    }
    struct cr__visit *visit = ticket->visit;
    const struct cr__brought *brought;
    int turn = cr__conn_turn(task, visit->deadline_ns, &brought);
    if (turn == CR_WAITS)
        return CR_WAITS;
    ssize_t r = turn;
    if (turn == 0 && brought)
        r = brought->listener->accept(NULL, visit->accepted, visit->deadline_ns);
    else if (turn == 0)
        r = cr__visited_closed(&visit->what) ? -EBADF : visit->fn(visit->arg);
    if (r == CR_WAITS)
        return CR_WAITS;
    visit->result = r;
    cr__visits_leave(&visit->what);
    if (visit->unawaited)
        cr__mem_free(visit, sizeof(*visit), CR__MEM_OTHER);
    return 0;
}

static void visits_to_open(void *arg)
{
    struct cr__ticket *ticket = arg;
    if (!begin(ticket)) {
        cr__visits_leave(&ticket->what);
        cr__mem_free(ticket, sizeof(*ticket), CR__MEM_OTHER);
        return;
    }
    struct cr__visit *visit = ticket->visit;
    visit->result = cr__visited_closed(&visit->what) ? -EBADF : visit->fn(visit->arg);
    cr__visits_leave(&visit->what);
}

/* A call at what is open has begun, so to speak, with that: the budget does not refuse it. */
static int send_task(struct cr__worker *here, struct cr__visit *visit, uint8_t state)
{
    struct visitor frame = {CR_TASK(visits_a_network), {visit, visit->what, state}};
    struct cr_co **out = visit->unawaited ? NULL : &visit->visitor;
    cr__budget_exceed(here);
    int r = cr__task_spawn(here, visit->to, out, &frame.task, sizeof(frame), NULL, NULL, NULL);
    if (r == 0 && out) /* else it may be gone */
        visit->ticket = &((struct visitor *)(void *)cr__task_root(cr__record_of(visit->visitor)))->ticket;
    return r;
}

static int send_coroutine(struct cr__visit *visit, uint8_t state)
{
    static const struct cr_attr attr = {.name = "visits a network", .stack = CR_STACK_STATIC};
    struct cr__ticket *ticket = cr__mem_alloc(sizeof(*ticket), CR__MEM_OTHER);
    if (!ticket)
        return -ENOMEM;
    *ticket = (struct cr__ticket){visit, visit->what, state};
    visit->ticket = ticket;
    int r = cr_spawn_on(&visit->visitor, visit->to->index, visits_to_open, ticket, &attr);
    if (r < 0)
        cr__mem_free(ticket, sizeof(*ticket), CR__MEM_OTHER);
    return r;
}

/* It counts itself until it has ended. */
static int send_visitor(struct cr__worker *here, struct cr__visit *visit, uint8_t state)
{
    if (here->sched != visit->to->sched)
        return -EXDEV; /* another runtime's */
    cr__visits_hold(&visit->what);
    int r = visit->opens ? send_coroutine(visit, state) : send_task(here, visit, state);
    if (r < 0)
        cr__visits_drop(&visit->what);
    return r;
}

/* ---- Waiting for it -------------------------------------------------------------------------------------------------- */

/* Whether the call only tries, as what does not wait does, and what is made with a deadline that has passed, or by who is cancelled already. */
static bool tries(const struct cr__worker *w, const struct cr__record *me, int64_t deadline_ns)
{
    return cr__bounded(me, deadline_ns) <= w->now_ns || cr__park_cancelled(atomic_load_explicit(&me->word, memory_order_relaxed));
}

/* 0: it is over; or it was withdrawn, and why. Once it has begun, being cancelled ends the call there, not the wait here: it works with what is ours. Its deadline it has itself. */
static int join_visitor(struct cr__record *me, struct cr__visit *visit)
{
    int r = cr_join_until(visit->visitor, visit->until_ns);
    if (r < 0 && withdraw(visit))
        return r;
    if (r == -ETIMEDOUT)
        r = cr_join(visit->visitor);
    if (r == 0)
        return 0;
    cr_cancel(visit->visitor);
    struct cr__mask before = cr__mask(me, CR_FOREVER);
    do
        r = cr_join(visit->visitor);
    while (r == -ECANCELED || r == -ETIMEDOUT);
    cr__unmask(me, before);
    return 0;
}

static int finish_visit(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns);

/* The same in a task, which has waited already; r: how that has ended, 0: not yet. 0, or CR_WAITS, after which comes finish_visit. */
static int await_visitor(struct cr__worker *w, struct cr__record *me, struct cr__visit *visit, int r)
{
    struct cr__record *visitor = cr__record_of(visit->visitor);
    struct cr__leaf leaf = {.worker = w, .me = me};
    bool done;
    do {
        if (r < 0 && withdraw(visit)) {
            visit->result = r;
            return 0;
        }
        if (r < 0)
            visit->until_ns = CR_FOREVER;
        if (r < 0 && r != -ETIMEDOUT) {
            cr_cancel(visit->visitor);
            if (!cr__leaf_is_stubborn(me))
                cr__leaf_stubborn(me); /* so the next wait begins */
        }
        r = cr__join_begin(w, me, visitor, visit->until_ns, &done);
    } while (r < 0);
    if (!done) {
        me->node.next = (struct cr__wait_node *)(void *)visit;
        cr__leaf_finish_set(me, finish_visit);
        return cr__leaf_wait(&leaf, visit->until_ns);
    }
    cr__leaf_relent(me);
    return cr__join_take(w, visitor, NULL);
}

static int finish_visit(struct cr__worker *w, struct cr__record *me, int64_t deadline_ns)
{
    struct cr__visit *visit = (struct cr__visit *)(void *)me->node.next;
    int r = cr__wait_arrive(me, visit->until_ns);
    (void)deadline_ns;
    cr__join_end(w, cr__record_of(visit->visitor));
    if (r < 0 && await_visitor(w, me, visit, r) == CR_WAITS)
        return CR_WAITS;
    if (r == 0) {
        cr__leaf_relent(me);
        cr__join_take(w, cr__record_of(visit->visitor), NULL);
    }
    me->node.next = (struct cr__wait_node *)(void *)visit;
    return CR__BROUGHT;
}

struct cr__visit *cr__visit_brought(void)
{
    struct cr__worker *w;
    return (struct cr__visit *)(void *)cr__acting(&w)->node.next;
}

ssize_t cr__visit_wait(struct cr__visit *visit)
{
    struct cr__worker *w;
    struct cr__record *me = cr__acting(&w);
    if (!me)
        return -EPERM;
    bool is_task = !cr__running(&w), only_tries = tries(w, me, visit->deadline_ns);
    int r = send_visitor(w, visit, only_tries ? BEGUN : PENDING);
    if (r < 0)
        return r;
    visit->until_ns = only_tries ? CR_FOREVER : visit->deadline_ns;
    if (is_task)
        return await_visitor(w, me, visit, 0) == CR_WAITS ? CR_WAITS : visit->result;
    r = join_visitor(me, visit);
    if (r == 0 && visit->opens)
        cr__mem_free(visit->ticket, sizeof(*visit->ticket), CR__MEM_OTHER);
    return r < 0 ? r : visit->result;
}

/* Whatever is on the caller's stack is kept there. */
static ssize_t visit_shortly(struct cr__visit *visit)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM;
    cr__pin_stacks(w, me);
    ssize_t r = cr__visit_wait(visit);
    cr__unpin_stacks(cr__worker_here(), me);
    return r;
}

ssize_t cr__visit_worker(struct cr__worker *to, ssize_t (*fn)(void *arg), void *arg)
{
    return visit_shortly(&(struct cr__visit){.to = to, .fn = fn, .arg = arg});
}

ssize_t cr__visit(struct cr__network *network, ssize_t (*fn)(void *arg), void *arg)
{
    return cr__visit_worker(network->worker, fn, arg);
}

ssize_t cr__visit_at(const struct cr__visited *what, ssize_t (*fn)(void *arg), void *arg)
{
    return visit_shortly(&(struct cr__visit){.to = what->network->worker, .what = *what, .fn = fn, .arg = arg});
}

int cr__visit_unawaited(const struct cr__visited *what, ssize_t (*fn)(void *arg), void *arg)
{
    struct cr__worker *w = cr__worker_here();
    struct cr__visit *visit = cr__mem_alloc(sizeof(*visit), CR__MEM_OTHER);
    if (!visit)
        return -ENOMEM;
    *visit = (struct cr__visit){.to = what->network->worker, .what = *what, .fn = fn, .arg = arg, .unawaited = true};
    int r = send_visitor(w, visit, BEGUN);
    if (r < 0)
        cr__mem_free(visit, sizeof(*visit), CR__MEM_OTHER);
    return r;
}

/* ---- Without memory ---------------------------------------------------------------------------------------------------- */

struct call {
    struct cr__post post;
    ssize_t (*fn)(void *arg);
    void *arg;
    struct cr__record *caller;
    ssize_t result;
};

static void call_there(struct cr__worker *w, struct cr__post *post)
{
    struct call *call = CR__CONTAINER(post, struct call, post);
    struct cr__record *caller = call->caller;
    call->result = call->fn(call->arg);
    cr__wake(w, caller, CR__WOKEN); /* after this it is gone */
}

ssize_t cr__visit_surely(struct cr__network *network, ssize_t (*fn)(void *arg), void *arg)
{
    struct cr__worker *w;
    struct cr__record *me = cr__running(&w);
    if (cr__net_here(network))
        return fn(arg);
    struct call call = {.post = {.fn = call_there, .promised = true}, .fn = fn, .arg = arg, .caller = me};
    cr__pin_stacks(w, me);
    struct cr__mask before = cr__mask(me, CR_FOREVER);
    int r = cr__wait_begin(w, me, CR__WAIT_BLOCKING, NULL, CR_FOREVER);
    CR__ASSERT(r == 0);
    cr__sched_promise(w->sched);
    cr__post(network->worker, &call.post);
    (void)!cr__wait_suspend(w, me, CR_FOREVER);
    cr__unmask(me, before);
    cr__unpin_stacks(cr__worker_here(), me);
    return call.result;
}

/* ---- To open something ------------------------------------------------------------------------------------------------ */

/* All that an opening is about, which may lie on the caller's stack. */
struct copied {
    struct cr__visit visit;
    struct cr__opening opening;
    struct cr__url url;
    struct cr_conn_opts opts;
    char source[CR__HOST_BYTES + 16];
    void *opened;
};

ssize_t cr__visit_to_open(const struct cr__opening *o, ssize_t (*fn)(void *arg))
{
    if (o->opts->source && strlen(o->opts->source) >= sizeof(((struct copied *)0)->source))
        return -EINVAL;
    struct copied *copied = cr__mem_alloc(sizeof(*copied), CR__MEM_OTHER);
    if (!copied)
        return -ENOMEM;
    *copied = (struct copied){.opening = *o, .url = *o->url, .opts = *o->opts};
    copied->opening.url = &copied->url;
    copied->opening.opts = &copied->opts;
    copied->opening.out = &copied->opened;
    if (o->opts->source)
        copied->opts.source = strcpy(copied->source, o->opts->source);
    copied->visit = (struct cr__visit){.to = o->network->worker, .what = cr__net_visited(o->network), .fn = fn, .arg = &copied->opening, .deadline_ns = o->deadline_ns, .opens = true};
    ssize_t r = cr__visit_wait(&copied->visit);
    if (r == 0)
        *o->out = copied->opened;
    cr__mem_free(copied, sizeof(*copied), CR__MEM_OTHER);
    return r;
}

/* ---- Errands ----------------------------------------------------------------------------------------------------------- */

/* A list, newest first: many put, the network's worker takes all at once. Who finds it empty posts; so one post is under way at most, and whoever put something in after that
 * touches nothing afterwards: it may be done, and the network gone with it, at once. In the lowest bits of a link it says what is to be done with what it leads to. */
#define WHAT ((uintptr_t)7)

static const struct cr__errand_kind *const kinds[] = {
    [CR__STREAM_CLOSE] = &cr__stream_closes,     [CR__STREAM_RESET] = &cr__stream_resets,       [CR__STREAM_RETURN] = &cr__stream_returns,
    [CR__LISTENER_CLOSE] = &cr__listener_closes, [CR__DATAGRAMS_CLOSE] = &cr__datagrams_closes, [CR__DATAGRAM_RETURN] = &cr__datagram_returns,
    [CR__NETWORK_LEFT] = &cr__network_left,
};
_Static_assert(sizeof(kinds) / sizeof(*kinds) <= WHAT + 1, "fits in a link's lowest bits");

/* Of whatever type it is. */
static void link_set(enum cr__errand what, void *thing, void *link)
{
    memcpy((char *)thing + kinds[what]->link_at, &link, sizeof(link));
}

static void *link_of(enum cr__errand what, const void *thing)
{
    void *link;
    memcpy(&link, (const char *)thing + kinds[what]->link_at, sizeof(link));
    return link;
}

void cr__errand(struct cr__network *network, enum cr__errand what, void *thing)
{
    void *first = atomic_load_explicit(&network->errands, memory_order_relaxed);
    do
        link_set(what, thing, first);
    while (!atomic_compare_exchange_weak_explicit(&network->errands, &first, (void *)((uintptr_t)thing | what), memory_order_acq_rel, memory_order_relaxed));
    if (!first)
        cr__post(network->worker, &network->errands_post); /* whose link the worker has left alone by then: pairs, by the list, with the exchange in cr__errands_do */
}

/* In the order in which they were sent. */
static void *reversed(void *list)
{
    void *in_order = NULL;
    while (list) {
        enum cr__errand what = (enum cr__errand)((uintptr_t)list & WHAT);
        void *thing = (void *)((uintptr_t)list & ~WHAT), *next = link_of(what, thing);
        link_set(what, thing, in_order);
        in_order = list;
        list = next;
    }
    return in_order;
}

void cr__errands_do(struct cr__worker *w, struct cr__post *post)
{
    struct cr__network *network = CR__CONTAINER(post, struct cr__network, errands_post);
    void *list = atomic_exchange_explicit(&network->errands, NULL, memory_order_acq_rel); /* pairs with the one in cr__errand: what was put in, and that the post is free again */
    (void)w;
    for (list = reversed(list); list;) {
        enum cr__errand what = (enum cr__errand)((uintptr_t)list & WHAT);
        void *thing = (void *)((uintptr_t)list & ~WHAT);
        list = link_of(what, thing);
        kinds[what]->fn(thing); /* the last one may be the end of the network */
    }
}
