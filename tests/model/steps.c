/* One operation of a thread: an event that the graph has already (the execution is being made again up to where it differs), or a
 * new one (grow.c). When a blocked thread is probed, and in check, there are no events: operations go to memory, where the newest is. */
#include "internal.h"

uint32_t model__permits[MODEL_THREADS];

static struct model__thread *me(void)
{
    return &model__run.threads[model__run.current];
}

static bool direct(void)
{
    return model__run.probing || model__run.checking;
}

/* ---- Known events, and the way to new ones ------------------------------------------------------------------- */

static bool gone_through(const struct model__event *e)
{
    return model__run.threads[e->thread].done >= e->index;
}

/* The thread's next event, if the graph has it; waits until what it reads has been written. */
static struct model__event *known(void)
{
    struct model__graph *g = &model__run.graph;
    while (me()->done < g->count[model__run.current]) {
        struct model__event *e = &g->events[g->at[model__run.current][me()->done + 1]];
        if (e->kind != MODEL_READ || e->from == MODEL_INITIAL || gone_through(&g->events[e->from]))
            return e;
        model__leave(MODEL_WAITS);
    }
    return NULL;
}

/* Until the loop lets this thread add one. */
static void wait_at_frontier(const void *pc)
{
    me()->pc = pc;
    while (model__run.quota == 0)
        model__leave(MODEL_FRONTIER);
    if (model__run.quota > 0)
        model__run.quota--;
    if (model__run.graph.n > MODEL_EVENTS - 4)
        model__fail(MODEL_ENDLESS, "more than %d events in one execution", MODEL_EVENTS - 4);
}

static struct model__event *go_through(int id)
{
    model__run.log[model__run.logged++] = id;
    me()->done++;
    return &model__run.graph.events[id];
}

static void check_same(const struct model__event *e, enum model__kind kind, uint32_t location)
{
    if (e->kind != kind || ((kind == MODEL_READ || kind == MODEL_WRITE) && e->location != location))
        model__fail(MODEL_MISUSE, "thread %d does not do the same each time: it depends on something that the explorer does not control",
                    model__run.current);
}

static struct model__event event_at(struct model__place place, enum model__kind kind, uint32_t location, unsigned order)
{
    return (struct model__event){.thread = (uint8_t)model__run.current, .kind = (uint8_t)kind, .size = (uint8_t)place.size,
        .order = (uint8_t)order, .slot = (uint16_t)model__graph_slot(&model__run.graph, location), .location = location,
        .pc = place.pc};
}

/* ---- Spinning ----------------------------------------------------------------------------------------------- */

/* Whether n events of the thread, up to the one before `end`, are like the n before: and nothing but reads, or RMWs that change nothing. */
static bool same_round(int end, int n)
{
    const struct model__graph *g = &model__run.graph;
    if (n < 1 || end - 2 * n < 0)
        return false;
    for (int i = end; i > end - n; i--) {
        const struct model__event *e = &g->events[g->at[model__run.current][i]];
        const struct model__event *before = &g->events[g->at[model__run.current][i - n]];
        if (e->pc != before->pc || e->kind != before->kind || e->location != before->location || e->value != before->value)
            return false;
        if (e->kind == MODEL_WRITE &&
            (!(e->flags & MODEL_UPDATES) || g->events[g->at[model__run.current][i - 1]].value != e->value))
            return false;
    }
    return true;
}

/* Whether the thread's last read saw something older than what had been written when it came. Such a read is never revisited, nor
 * taken back (model__graph_may_revisit): it stays in all that becomes of this graph. */
static bool read_what_was_old(void)
{
    const struct model__graph *g = &model__run.graph;
    for (int i = me()->done; i > 0; i--) {
        int id = g->at[model__run.current][i];
        if (g->events[id].kind == MODEL_READ)
            return !model__graph_was_newest(g, id);
    }
    return false;
}

/* The thread goes no further in this execution. It may, if a later write changes what it has read. */
static void block(enum model__state state, const void *pc, const void *spins_at)
{
    me()->pc = pc;
    me()->spins_at = spins_at;
    if (read_what_was_old())
        model__leave(MODEL_DOOMED);
    do
        model__leave(state);
    while (!model__run.probing);
}

void model__spin(const void *pc)
{
    if (model__run.checking)
        return;
    if (model__run.probing) {
        model__leave(MODEL_SPINS);
        return;
    }
    int *rounds = me()->rounds, done = me()->done;
    if (model__spin_is_counting(pc) && !(done - rounds[0] == rounds[0] - rounds[1] && same_round(done, done - rounds[0]))) {
        rounds[1] = rounds[0];
        rounds[0] = done;
        return;
    }
    if (done < model__run.graph.count[model__run.current])
        return; /* known to have gone on */
    block(MODEL_SPINS, pc, pc);
}

/* A loop that reads the same again and again, without model_spin. */
static void check_for_spinning(const void *pc)
{
    int done = me()->done;
    if (done < model__run.graph.count[model__run.current])
        return;
    for (int n = 1; n <= 8; n++) {
        unsigned rounds = 0;
        while (rounds < model__spin_rounds && same_round(done - (int)rounds * n, n))
            rounds++;
        if (rounds == model__spin_rounds)
            block(MODEL_SPINS, pc, NULL);
    }
}

/* ---- Without events: when probing, and in check -------------------------------------------------------------- */

/* Whether that is something else than what the thread saw there last. What it has never read is no news: why does it now? */
static bool is_news(struct model__place place, uint64_t value)
{
    const struct model__graph *g = &model__run.graph;
    for (int i = me()->done; i > 0; i--) {
        const struct model__event *e = &g->events[g->at[model__run.current][i]];
        if ((e->kind == MODEL_READ || e->kind == MODEL_WRITE) && model__location_addr(e->location) == place.addr)
            return e->value != value;
    }
    return false;
}

static uint64_t read_directly(struct model__place place)
{
    uint64_t value = model__peek(place.addr, place.size);
    if (model__run.probing) {
        if (is_news(place, value))
            me()->news = true;
        if (++me()->reads_probed > 256)
            model__leave(MODEL_SPINS);
    }
    model__access(place.addr, place.size, MODEL_ATOMIC_READ, place.pc);
    return value;
}

static void write_directly(struct model__place place, uint64_t value, uint64_t old)
{
    if (model__run.probing && value != old)
        model__leave(MODEL_PROGRESS);
    model__access(place.addr, place.size, MODEL_ATOMIC_WRITE, place.pc);
    model__poke(place.addr, place.size, value);
}

/* ---- Operations --------------------------------------------------------------------------------------------- */

static const struct model__event *do_read(struct model__place place, unsigned order, unsigned order_failed, unsigned flags,
                                          uint64_t expected, enum model__update update, uint64_t operand)
{
    struct model__event *e = known();
    if (!e)
        wait_at_frontier(place.pc);
    const struct model__history *history = model__touch(place);
    if (!e) {
        struct model__event read = event_at(place, MODEL_READ, history->location, order);
        read.order_failed = (uint8_t)order_failed;
        read.flags = (uint8_t)flags;
        read.expected = expected;
        e = &model__run.graph.events[model__add_read(read, history, update, operand)];
    }
    check_same(e, MODEL_READ, history->location);
    go_through((int)(e - model__run.graph.events));
    model__access(place.addr, place.size, MODEL_ATOMIC_READ, place.pc);
    return e;
}

static void do_write(struct model__place place, uint64_t value, unsigned order, unsigned flags)
{
    struct model__graph *g = &model__run.graph;
    struct model__event *e = known();
    if (!e && !(model__run.script && flags))
        wait_at_frontier(place.pc);
    struct model__history *history = model__touch(place);
    if (!e) {
        struct model__event write = event_at(place, MODEL_WRITE, history->location, order);
        write.flags = (uint8_t)flags;
        write.value = value;
        e = &g->events[model__add_write(write)];
    }
    check_same(e, MODEL_WRITE, history->location);
    if (e->value != value)
        check_same(e, MODEL_READ, 0);
    go_through((int)(e - g->events));
    model__access(place.addr, place.size, MODEL_ATOMIC_WRITE, place.pc);
    if (history->newest == MODEL_INITIAL || g->events[history->newest].place < e->place) {
        history->newest = (int)(e - g->events);
        model__poke(place.addr, place.size, value);
    }
}

uint64_t model__load(struct model__place place, unsigned order)
{
    if (direct())
        return read_directly(place);
    uint64_t value = do_read(place, order, order, 0, 0, MODEL_EXCHANGE, 0)->value;
    check_for_spinning(place.pc);
    return value;
}

void model__store(struct model__place place, uint64_t value, unsigned order)
{
    if (direct())
        write_directly(place, value, ~value);
    else
        do_write(place, value, order, 0);
}

uint64_t model__change(struct model__place place, enum model__update update, uint64_t operand, unsigned order)
{
    if (direct()) {
        uint64_t old = read_directly(place);
        write_directly(place, model__changed(update, old, operand, place.size), old);
        return old;
    }
    uint64_t old = do_read(place, order, order, MODEL_UPDATES, 0, update, operand)->value;
    do_write(place, model__changed(update, old, operand, place.size), order, MODEL_UPDATES);
    check_for_spinning(place.pc);
    return old;
}

bool model__compare(struct model__place place, uint64_t *expected, uint64_t desired, unsigned order, unsigned order_failed,
                    enum model__update update)
{
    if (direct()) {
        uint64_t old = read_directly(place);
        bool same = old == *expected;
        if (same)
            write_directly(place, desired, old);
        else if (update == MODEL_TAKE)
            model__leave(MODEL_SPINS);
        *expected = old;
        return same;
    }
    unsigned flags = MODEL_UPDATES | MODEL_COMPARES | (update == MODEL_COMPARE_WEAK ? MODEL_WEAK : 0) |
                     (update == MODEL_TAKE ? MODEL_PARKS : 0);
    const struct model__event *read = do_read(place, order, order_failed, flags, *expected, update, desired);
    bool succeeds = model__succeeds(read);
    *expected = read->value;
    if (!succeeds && update == MODEL_TAKE)
        block(MODEL_PARKED, place.pc, NULL);
    if (succeeds) {
        if (me()->done == model__run.graph.count[model__run.current])
            model__push_failure(model__last(&model__run.graph, (unsigned)model__run.current));
        do_write(place, desired, order, MODEL_UPDATES);
    }
    check_for_spinning(place.pc);
    return succeeds;
}

void model__fence(unsigned order, const void *pc)
{
    if (direct())
        return;
    struct model__event *e = known();
    if (!e) {
        wait_at_frontier(pc);
        struct model__event fence = {.thread = (uint8_t)model__run.current, .kind = MODEL_FENCE, .order = (uint8_t)order, .pc = pc};
        e = &model__run.graph.events[model__graph_add(&model__run.graph, &fence, 0)];
    }
    check_same(e, MODEL_FENCE, 0);
    go_through((int)(e - model__run.graph.events));
}

int model__choose(int n, const void *pc)
{
    struct model__graph *g = &model__run.graph;
    if (model__run.checking)
        return 0;
    if (model__run.probing)
        model__leave(MODEL_PROGRESS);
    struct model__event *e = known();
    if (!e) {
        wait_at_frontier(pc);
        struct model__event choice = {.thread = (uint8_t)model__run.current, .kind = MODEL_CHOICE, .pc = pc};
        for (int i = 1; i < n && model__run.choice < 0; i++) {
            choice.value = (uint64_t)i;
            model__graph_add(g, &choice, 0);
            model__push(g);
            model__graph_pop(g);
        }
        choice.value = model__run.choice < 0 ? 0 : (uint64_t)model__run.choice;
        e = &g->events[model__graph_add(g, &choice, 0)];
    }
    check_same(e, MODEL_CHOICE, 0);
    return (int)go_through((int)(e - g->events))->value;
}
