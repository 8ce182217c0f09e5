/* All executions of a small program, one by one.
 *
 * The program's threads are coroutines (crore/co.h). Compiled with -fsanitize=thread, each of its atomic operations is a call, which
 * lands in steps.c by abi.c; the sanitizer's own runtime is not there. An execution is a graph (graph.h): which write each read has
 * read from, and in which order the writes of each location come. Those are explored, not interleavings: two interleavings that no thread
 * could tell from each other are one graph.
 *
 * The algorithm is TruSt (Kokologiannakis, Marmanis, Gladstein and Vafeiadis, "Truly Stateless, Optimal Dynamic Partial Order
 * Reduction", POPL 2022). A graph grows by the next event of the first thread that can go on. Where there is a choice, the newest is taken,
 * and the other graphs are pushed. A write may come too late for a read that was added before: then the read is *revisited*. In a copy of
 * the graph it reads from the write, and whatever was added after the read, without the write depending on it, is taken away; it will be added again,
 * by its thread, which may now do something else. Several graphs lead to the same copy; the one is taken in which all that
 * is taken away had made the newest choice (model__graph_may_revisit). So each consistent graph is met exactly once, and nothing need be
 * remembered but a stack of graphs.
 *
 * From a graph back to a state of the program: memory is put back to what setup left, the threads begin anew, and the graph tells each read
 * what it gets, until the graph's events are used up ("frontier").
 *
 * Invariants:
 *   1. While an execution is made again, a thread passes a read only when the thread that wrote what it reads has passed the write. So plain accesses
 *      come in an order that agrees with happens-before.
 *   2. Which thread goes next, and whether one spins, follows from the graph.
 *   3. The first choice of a read (the newest write) and of a write (the end) is always a consistent one.
 *   4. An RMW's write is added right after its read, and then always consistent, too: it adds no order to that of the read.
 *
 * Blocked threads. One that is parked, or spins, has read what doesn't let it go on. It just has no next event; if a later write changes what it
 * reads, that is a revisit. If what it has read was old when it was read, there will be none, and nothing of interest comes of this graph. When no thread can go on and not all have ended, then either somebody is blocked only because he has read something old: then
 * there is another graph in which he hasn't, and this one is dropped ("cut"). Or all that are blocked would be for ever: a deadlock. To
 * tell, each is probed: it runs on, and reads what is newest, until it either spins again or does something else.
 *
 * Not modelled: load buffering (a read of what a later write of the same thread caused); consume (is acquire); volatile; signal handlers and
 * signal fences; mixed sizes; what optimisations between atomic accesses do beyond what C11 allows to be seen.
 *
 * Rejected: interleavings with dynamic partial order reduction, sleep sets and a view per thread. Simpler to imagine, but many interleavings are one
 * graph, stale reads multiply them, the modification order is then the order of execution (2+2W is missed), and sequentially consistent accesses
 * become an approximation. A preemption bound is of no use to graphs. */
#include "internal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#define EXECUTIONS_MAX 20000000ul
#define SPIN_ROUNDS 8
#define SPIN_ROUNDS_MAX 64
#define COUNTING_MAX 32

struct pending {
    struct pending *below;
    int n;
    struct model__event events[];
};

enum model__user model__user;
struct model__run model__run;
const struct model_options *model__options;
struct model_result *model__result;
unsigned model__spin_rounds;

static struct pending *pending;
static void (*check_fn)(void);
static bool with_trace, again;
static const void *counting[COUNTING_MAX]; /* calls of model_spin whose rounds are not all alike */
static int counting_used;

static bool failed(void)
{
    return model__result->outcome != MODEL_HOLDS;
}

/* ---- Failing ------------------------------------------------------------------------------------------------ */

void model__fail(int outcome, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(model__result->what, sizeof(model__result->what), format, args);
    va_end(args);
    if (model__user == MODEL_SETUP) {
        printf("# model: in setup: %s\n", model__result->what);
        fflush(stdout);
        abort();
    }
    model__user = MODEL_OUTSIDE;
    model__result->outcome = outcome;
    if (with_trace)
        model__trace(model__result->trace, sizeof(model__result->trace));
    while (model__run.current >= 0)
        model__leave(MODEL_FAILED);
}

/* ---- Spinning ----------------------------------------------------------------------------------------------- */

bool model__spin_is_counting(const void *pc)
{
    for (int i = 0; i < counting_used; i++)
        if (counting[i] == pc)
            return true;
    return false;
}

/* It read nothing new, and yet did something else: the rounds were not alike. All begins again, with less taken for spinning. */
static void trust_less(const struct model__thread *t)
{
    again = true;
    if (t->spins_at && !model__spin_is_counting(t->spins_at) && counting_used < COUNTING_MAX) {
        counting[counting_used++] = t->spins_at;
    } else if (!t->spins_at && model__spin_rounds < SPIN_ROUNDS_MAX) {
        model__spin_rounds *= 2;
    } else {
        again = false;
        struct model__line line = model__line(t->pc);
        model__fail(MODEL_MISUSE, "a loop at %s (%s) ends after many rounds in which nothing changes", line.where, line.function);
    }
}

/* Whether t, which is blocked, would be for ever. */
static bool probe(int index)
{
    struct model__thread *t = &model__run.threads[index];
    if (t->state == MODEL_PARKED)
        return model__permits[index] == 0; /* in memory is the newest */
    model__run.probing = true;
    model__resume(index);
    model__run.probing = false;
    if (t->state == MODEL_SPINS)
        return true;
    if (t->state != MODEL_FAILED && !t->news)
        trust_less(t);
    return false;
}

/* ---- One execution ------------------------------------------------------------------------------------------ */

/* Resumes; returns false if there is no use in going on. */
static bool go_on(int thread)
{
    model__resume(thread);
    return !failed() && model__run.threads[thread].state != MODEL_DOOMED;
}

/* Up to where all threads are at their frontier, blocked or done. */
static bool replay(void)
{
    bool moves = true, waits = true;
    model__run.quota = 0;
    while (waits && moves) {
        waits = moves = false;
        for (int i = 0; i < model__run.threads_used; i++) {
            struct model__thread *t = &model__run.threads[i];
            if (t->state != MODEL_READY && t->state != MODEL_WAITS)
                continue;
            int done = t->done;
            bool fresh = t->state == MODEL_READY;
            if (!go_on(i))
                return false;
            moves = moves || fresh || t->done > done || t->state != MODEL_WAITS;
            waits = waits || t->state == MODEL_WAITS;
        }
    }
    if (waits)
        model__fail(MODEL_MISUSE, "the test does not do the same each time");
    return !waits;
}

/* The thread whose RMW has read, and not yet written; or -1. */
static int in_the_middle(void)
{
    for (int i = 0; i < model__run.threads_used; i++) {
        const struct model__event *last = model__last(&model__run.graph, (unsigned)i);
        if (last && last->kind == MODEL_READ && model__succeeds(last))
            return i;
    }
    return -1;
}

static bool extend(void)
{
    int first = in_the_middle();
    model__run.quota = 1;
    if (first >= 0 && !go_on(first))
        return false;
    model__run.quota = -1;
    for (int i = 0; i < model__run.threads_used; i++)
        if (model__run.threads[i].state == MODEL_FRONTIER && !go_on(i))
            return false;
    return true;
}

/* A choice for each event: the thread's letter, and a number if it isn't 0. */
static bool follow_script(void)
{
    const char *at = model__run.script;
    while (*at) {
        int index = *at++ - 'a';
        model__run.choice = 0;
        while (*at >= '0' && *at <= '9')
            model__run.choice = 10 * model__run.choice + (*at++ - '0');
        if (index < 0 || index >= model__run.threads_used || model__run.threads[index].state != MODEL_FRONTIER) {
            model__fail(MODEL_MISUSE, "these choices are not of this test");
            return false;
        }
        model__run.quota = 1;
        if (!go_on(index))
            return false;
    }
    return true;
}

static void end_execution(void)
{
    bool stuck = true, ended = true;
    for (int i = 0; i < model__run.threads_used; i++) {
        struct model__thread *t = &model__run.threads[i];
        if (t->state == MODEL_DONE)
            continue;
        ended = ended && t->daemon;
        stuck = stuck && probe(i);
        if (failed() || again)
            return;
    }
    if (!stuck) {
        model__result->cut++;
        return;
    }
    model__result->executions++;
    if (!ended) {
        char text[400] = "", name[64];
        size_t used = 0;
        for (int i = 0; i < model__run.threads_used; i++) {
            const struct model__thread *t = &model__run.threads[i];
            struct model__line line = model__line(t->pc);
            if (t->state != MODEL_DONE && used < sizeof(text))
                used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %s at %s (%s)", used ? ", " : "",
                                         model__thread_name(i, name, sizeof(name)), t->state == MODEL_PARKED ? "is parked" : "spins",
                                         line.where, line.function);
        }
        model__fail(MODEL_DEADLOCK, "nobody will ever go on: %s", text);
        return;
    }
    if (check_fn) {
        model__run.checking = true;
        model__run.threads[MODEL_CHECKER].state = MODEL_READY;
        model__resume(MODEL_CHECKER);
        model__run.checking = false;
    }
}

static void execute(void)
{
    model__threads_drop(false);
    model__memory_reset();
    model__threads_begin();
    model__run.logged = 0;
    model__run.choice = model__run.script ? 0 : -1;
    model__run.current = -1;
    if (replay() && (model__run.script ? follow_script() : extend()))
        end_execution();
    else if (!failed())
        model__result->cut++;
    if ((unsigned)model__run.graph.n > model__result->events_max)
        model__result->events_max = (unsigned)model__run.graph.n;
}

/* ---- All of them -------------------------------------------------------------------------------------------- */

void model__push(const struct model__graph *g)
{
    struct pending *top = malloc(sizeof(*top) + (size_t)g->n * sizeof(*g->events));
    if (!top)
        abort();
    top->n = g->n;
    __builtin_memcpy(top->events, g->events, (size_t)g->n * sizeof(*g->events));
    top->below = pending;
    pending = top;
}

static void explore_all(const char *script)
{
    unsigned long most = model__options->executions_max ? model__options->executions_max : EXECUTIONS_MAX;
    model__graph_load(&model__run.graph, NULL, 0);
    model__run.script = script;
    model__push(&model__run.graph);
    while (pending && !failed() && !again) {
        struct pending *top = pending;
        pending = top->below;
        model__graph_load(&model__run.graph, top->events, top->n);
        free(top);
        execute();
        if (model__result->executions + model__result->cut > most && !failed())
            model__fail(MODEL_LIMIT, "more than %lu executions", most);
    }
    while (pending) {
        struct pending *top = pending;
        pending = top->below;
        free(top);
    }
    if (!failed() && !again && model__result->executions == 0)
        model__fail(MODEL_MISUSE, "no execution came to its end: a loop in which model_spin is called goes on by itself");
}

static void run_check(void *unused)
{
    (void)unused;
    check_fn();
}

void model__explore(const struct model_options *options, void (*setup)(void), void (*check)(void), const char *script,
                    bool trace, struct model_result *result)
{
    static const struct model_options defaults;
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    model__options = options ? options : &defaults;
    model__result = result;
    check_fn = check;
    with_trace = trace;
    model__spin_rounds = model__options->spin_rounds ? model__options->spin_rounds : SPIN_ROUNDS;
    counting_used = 0;
    model_on_switch(NULL);
    *result = (struct model_result){0};
    model__memory_init();
    __builtin_memset(&model__run, 0, sizeof(model__run));
    model__run.current = -1;
    __builtin_memset(model__permits, 0, sizeof(model__permits));
    model__user = MODEL_SETUP;
    setup();
    model__user = MODEL_OUTSIDE;
    if (check)
        model__run.threads[MODEL_CHECKER].fn = run_check;
    do {
        again = false;
        result->executions = result->cut = 0;
        explore_all(script);
    } while (again);
    model__threads_drop(true);
    model__memory_reset();
    clock_gettime(CLOCK_MONOTONIC, &end);
    result->seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
}
