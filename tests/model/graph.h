/* Execution graphs: what the atomic operations of one execution were, and what each read saw.
 *
 * An event is a read, a write or a fence by one thread; an RMW is a read and, right behind it, a write. A graph has the events of
 * each thread in program order, for each read the write that it reads from, and for each location the order of its writes (the
 * modification order). That is all there is to an execution: which interleaving it came from can't be seen by the program, so it
 * isn't kept. graph.c says which graphs are allowed: those of RC11 (Lahav, Vafeiadis, Kang, Hur and Dreyer, "Repairing
 * Sequential Consistency in C/C++11", PLDI 2017), with the release sequences of C++20: the RMWs that follow, not the thread's own
 * later writes.
 *
 * Invariants:
 *   1. Events are numbered in the order in which they were added. A thread's events have rising numbers; a read that was revisited
 *      (explorer.c) may read from a higher one.
 *   2. Program order and reads-from together have no cycle ("cause" is their closure).
 *   3. The places of a location's writes are 1, 2, 3, ...; 0 is the initial value. An RMW's write has the place behind that of
 *      the write which it read.
 *   4. The views of each event (clock and so on) are those that its cause gives it. */
#ifndef MODEL_GRAPH_H
#define MODEL_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_THREADS 8
#define MODEL_EVENTS 400 /* of an execution */
#define MODEL_INITIAL (-1)

enum model__kind { MODEL_READ, MODEL_WRITE, MODEL_FENCE, MODEL_CHOICE };

enum model__flag {
    MODEL_UPDATES = 1,  /* a read: of an RMW, whose write follows, if it succeeds. A write: of an RMW */
    MODEL_COMPARES = 2, /* a read: succeeds if it reads `expected` */
    MODEL_WEAK = 4,     /* may fail for no reason */
    MODEL_FAILS = 8,    /* did */
    MODEL_PARKS = 16,   /* a read: if it does not succeed, the thread waits until it would */
};

/* How many events of each thread. As a view: those happened before. */
struct model__clock {
    uint16_t at[MODEL_THREADS];
};

struct model__event {
    uint8_t thread, kind, flags, size;
    uint8_t order, order_failed; /* memory orders; the second of a compare-and-swap */
    uint16_t index;              /* in its thread, from 1 */
    uint16_t slot;               /* a small number for its location, in this graph; of no meaning to fences and choices */
    int16_t from;                /* a read: the event that it reads from, or MODEL_INITIAL */
    int16_t place;               /* a write: in the modification order */
    uint32_t location;           /* memory.c's number for it */
    uint64_t value;              /* read, written, or chosen */
    uint64_t expected;
    const void *pc;
    struct model__clock clock;   /* what happened before it, itself included */
    struct model__clock cause;   /* what it depends on: program order and reads-from, whether it synchronises or not */
    struct model__clock carries; /* a write: what happened before for those that read it with acquire */
    struct model__clock fenced;  /* the clock of the thread's last release fence */
    struct model__clock heard;   /* what its reads were told: an acquire fence makes it part of the clock */
};

struct model__graph {
    int n;
    int slots;
    uint16_t count[MODEL_THREADS];
    int16_t at[MODEL_THREADS][MODEL_EVENTS + 1]; /* by index: the event's number */
    struct model__event events[MODEL_EVENTS];
};

static inline bool model__acquires(unsigned order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static inline bool model__releases(unsigned order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static inline void model__join(struct model__clock *into, const struct model__clock *from)
{
    for (int t = 0; t < MODEL_THREADS; t++)
        if (into->at[t] < from->at[t])
            into->at[t] = from->at[t];
}

/* Whether a read is that of an RMW that succeeds, so that a write follows. */
static inline bool model__succeeds(const struct model__event *read)
{
    return (read->flags & MODEL_UPDATES) && !(read->flags & MODEL_FAILS) &&
           (!(read->flags & MODEL_COMPARES) || read->value == read->expected);
}

static inline unsigned model__order(const struct model__event *e)
{
    return (e->kind == MODEL_READ && (e->flags & MODEL_COMPARES) && !model__succeeds(e)) ? e->order_failed : e->order;
}

/* Whether a happened before b. */
static inline bool model__before(const struct model__event *a, const struct model__event *b)
{
    return a != b && b->clock.at[a->thread] >= a->index;
}

/* Whether b depends on a, or is a. */
static inline bool model__causes(const struct model__event *a, const struct model__event *b)
{
    return b->cause.at[a->thread] >= a->index;
}

/* The last event of a thread, NULL if it has none. */
static inline struct model__event *model__last(struct model__graph *g, unsigned thread)
{
    return g->count[thread] ? &g->events[g->at[thread][g->count[thread]]] : NULL;
}

/* Empty, or with n events copied from somewhere. */
void model__graph_load(struct model__graph *g, const struct model__event *events, int n);

/* The slot of a location, whether it has events already or not. */
int model__graph_slot(const struct model__graph *g, uint32_t location);

/* Appends an event to those of its thread: kind, flags, orders, slot, value, and so on are filled in, and of a read `from`; index and views
 * are added here. A write gets that place, and those behind it move on. Returns its number; the graph must have room. */
int model__graph_add(struct model__graph *g, const struct model__event *event, int place);

/* Takes the last event away again. */
void model__graph_pop(struct model__graph *g);

/* The views of an event whose `from`, order or success have changed; nothing may depend on it yet. */
void model__graph_look(struct model__graph *g, int event);

/* How many writes a slot has. */
int model__graph_writes(const struct model__graph *g, int slot);

/* The write at that place, or MODEL_INITIAL. */
int model__graph_write_at(const struct model__graph *g, int slot, int place);

/* The place that a read with this clock can't read before, and a write must come behind: coherence. `but` is left out. */
int model__graph_oldest(const struct model__graph *g, const struct model__clock *clock, int slot, int but);

/* Whether a write may be put at that place: not between an RMW and what it has read. */
bool model__graph_place_free(const struct model__graph *g, int slot, int place);

/* The first read after `after` that the last event, a write, depends on though it did not happen before it: RC11 says that it can't see
 * the write. Hardware that lets a load wait for a later store says so only if a dependency leads there. Or -1. */
int model__graph_buffered(const struct model__graph *g, int after);

/* Whether there is an order for the sequentially consistent events: RC11's psc has no cycle. */
bool model__graph_sc_holds(const struct model__graph *g);

/* Whether no newer write had been added before that read. */
bool model__graph_was_newest(const struct model__graph *g, int read);

/* Whether this graph is the one from which the read `r` is to be taken back, in order to read from the last event, the write `a`. */
bool model__graph_may_revisit(const struct model__graph *g, int r, int a);

/* The same graph without `a`, and without what came after `r` and is not a cause of `a`. *r becomes r's number there. */
void model__graph_restrict(const struct model__graph *g, int *r, int a, struct model__graph *out);

#endif
