/* Select: one of several sends and receives.
 *
 * First each case is tried, from a random one on. If none can be done, the wait begins, and a node goes into each channel's queue in turn; under each
 * channel's lock it is looked at once more. Only one lock is held at any time. If a case has become possible meanwhile, the wait is abandoned, which
 * fails if somebody has claimed it by a node that is in a queue already: then that one has won. After an abandoned wait all begins anew, since
 * others may have thrown nodes of ours away that they could not claim.
 *
 * Rejected: locking all channels in the order of their addresses, as Go does (with two workers each select would stop all of them). */
#include <string.h>

#include "sync/chan.h"

static int check_cases(const struct cr_case *cases, int count)
{
    for (int i = 0; i < count; i++) {
        if (cases[i].chan)
            return 0;
    }
    return -EINVAL; /* it would wait for ever */
}

static uint32_t random_below(struct cr__worker *w, uint32_t n)
{
    w->random = w->random * 1664525u + 1013904223u; /* Numerical Recipes' generator; the upper bits are good */
    return (uint32_t)((uint64_t)w->random * n >> 32);
}

/* Does the case, if that is possible at once. 0, -EPIPE, CR__WOULD_WAIT. */
static int try_case(struct cr__worker *w, struct cr_case *c)
{
    cr__lock(w, cr__spin_of(&c->chan->spin));
    int r = c->op == CR_SEND ? cr__chan_send_now(w, c->chan, c->item) : cr__chan_recv_now(w, c->chan, c->item);
    if (r == CR__WOULD_WAIT)
        cr__unlock(w, cr__spin_of(&c->chan->spin));
    return r;
}

/* The index of the case that was done, or -EAGAIN. */
static int try_all(struct cr__worker *w, struct cr_case *cases, int count)
{
    int first = (int)random_below(w, (uint32_t)count);
    for (int i = 0; i < count; i++) {
        int at = first + i < count ? first + i : first + i - count;
        if (!cases[at].chan)
            continue;
        int r = try_case(w, &cases[at]);
        if (r != CR__WOULD_WAIT) {
            cases[at].result = r;
            return at;
        }
    }
    return -EAGAIN;
}

static void values_end(struct cr__select_node *nodes, const struct cr_case *cases, int count, int won)
{
    for (int i = 0; i < count; i++)
        cr__bounce_end(nodes[i].value, cases[i].item, i == won ? nodes[i].received_bytes : 0);
}

static int make_nodes(struct cr__record *me, int count, struct cr__extra **out)
{
    struct cr__extra *extra = *out = cr__extra_of(&me->co);
    if (!extra)
        return -ENOMEM;
    if (count <= extra->case_count)
        return 0;
    struct cr__select_node *nodes = cr__mem_alloc((size_t)count * sizeof(*nodes), CR__MEM_RECORDS);
    if (!nodes)
        return -ENOMEM;
    cr__mem_free(extra->cases, (size_t)extra->case_count * sizeof(*nodes), CR__MEM_RECORDS);
    extra->cases = nodes;
    extra->case_count = count;
    return 0;
}

/* What the waker reads from, and writes to. False: no memory. */
static bool values_begin(struct cr__worker *w, struct cr__record *me, struct cr__select_node *nodes, const struct cr_case *cases, int count)
{
    for (int i = 0; i < count; i++) {
        size_t bytes = cases[i].chan ? cases[i].chan->item_size_bytes : 0;
        nodes[i].received_bytes = cases[i].op == CR_RECV ? (uint32_t)bytes : 0;
        nodes[i].value = cases[i].chan ? cr__bounce_begin(w, me, cases[i].item, bytes) : cases[i].item;
        if (CR__UNLIKELY(!nodes[i].value && cases[i].item)) {
            values_end(nodes, cases, i, -1);
            return false;
        }
    }
    return true;
}

/* Puts a node into the case's queue. False: the case is possible, or was. */
static bool enlist(struct cr__worker *w, struct cr__record *me, struct cr_case *c, struct cr__select_node *node)
{
    cr__lock(w, cr__spin_of(&c->chan->spin));
    bool idle = cr__chan_idle(c->chan, c->op, me);
    if (idle)
        cr__waiters_push(cr__chan_queue(c->chan, c->op), &node->node);
    cr__unlock(w, cr__spin_of(&c->chan->spin));
    return idle;
}

/* won: the case by which it was woken, -1 for none. */
static void delist(struct cr__worker *w, struct cr_case *cases, struct cr__select_node *nodes, int count, int won)
{
    for (int i = 0; i < count; i++) {
        if (cases[i].chan && i != won)
            cr__chan_leave(w, cases[i].chan, cases[i].op, &nodes[i].node);
    }
}

/* Begins to wait for one: CR_WAITS; -EAGAIN: something has become possible, try again; or why not. */
static int wait_begin(struct cr__worker *w, struct cr__record *me, struct cr__extra *extra, struct cr_case *cases, int count, int64_t deadline_ns)
{
    if (!values_begin(w, me, extra->cases, cases, count))
        return -ENOMEM;
    int r = cr__wait_begin(w, me, CR__WAIT_SELECT, extra, deadline_ns), enlisted = 0;
    if (r < 0) {
        values_end(extra->cases, cases, count, -1);
        return r;
    }
    bool waits = true;
    while (enlisted < count) {
        struct cr__select_node *node = &extra->cases[enlisted];
        node->node = (struct cr__wait_node){.object = (uintptr_t)me | 1};
        node->index = enlisted;
        if (cases[enlisted].chan && !(waits = enlist(w, me, &cases[enlisted], node)))
            break;
        enlisted++;
    }
    extra->cases_enlisted = enlisted;
    if (!waits && cr__park_abandon(&me->word, w->alone)) {
        delist(w, cases, extra->cases, enlisted, -1);
        values_end(extra->cases, cases, count, -1);
        return -EAGAIN;
    }
    return CR_WAITS;
}

/* The wait is over. The index, or why it gave up. */
static int wait_end(struct cr__extra *extra, struct cr_case *cases, int r)
{
    delist(cr__worker_here(), cases, extra->cases, extra->cases_enlisted, r < 0 ? -1 : extra->case_won);
    values_end(extra->cases, cases, extra->cases_enlisted, r < 0 ? -1 : extra->case_won);
    if (r < 0)
        return r;
    cases[extra->case_won].result = extra->case_result;
    return extra->case_won;
}

/* The index of one that is possible, CR_WAITS, or why not. */
static int begin(struct cr__worker *w, struct cr__record *me, struct cr_case *cases, int count, int64_t deadline_ns)
{
    int r = check_cases(cases, count);
    if (r < 0)
        return r;
    r = try_all(w, cases, count);
    if (r != -EAGAIN || deadline_ns <= w->now_ns)
        return r == -EAGAIN ? cr__too_late(w, me) : r;
    struct cr__extra *extra;
    r = make_nodes(me, count, &extra);
    if (r < 0)
        return r;
    do {
        r = wait_begin(w, me, extra, cases, count, deadline_ns);
        if (r == -EAGAIN)
            r = try_all(w, cases, count);
    } while (r == -EAGAIN);
    return r;
}

/* In a checked build: the list, and all items. */
#ifdef CR__CHECKED
static void check_cases_handed(const struct cr_case *cases, int count, const char *call)
{
    cr__check_handed(cases, call);
    for (int i = 0; i < count; i++)
        cr__check_handed(cases[i].item, call);
}
#define cr__handed_cases(cases, count) check_cases_handed(cases, count, __func__)
#else
#define cr__handed_cases(cases, count) ((void)0)
#endif

int cr_select_until(struct cr_case *cases, int count, int64_t deadline_ns)
{
    cr__handed_cases(cases, count);
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (!me)
        return -EPERM;
    int r = begin(w, me, cases, count, deadline_ns);
    return r == CR_WAITS ? wait_end(cr__extra_of(&me->co), cases, cr__wait_suspend(w, me, deadline_ns)) : r;
}

int cr_task_select(struct cr_task *task, struct cr_case *cases, int count, int64_t deadline_ns)
{
    cr__handed_cases(cases, count);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_SELECT));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return wait_end(cr__extra_of(&leaf.me->co), cases, cr__leaf_arrive(&leaf, deadline_ns));
    return cr__leaf_left(&leaf, begin(leaf.worker, leaf.me, cases, count, deadline_ns), deadline_ns);
}

int cr_select(struct cr_case *cases, int count)
{
    cr__handed_cases(cases, count);
    return cr_select_until(cases, count, CR_FOREVER);
}

int cr_select_try(struct cr_case *cases, int count)
{
    cr__handed_cases(cases, count);
    return cr__try(cr_select_until(cases, count, CR__NOW), -EAGAIN);
}
