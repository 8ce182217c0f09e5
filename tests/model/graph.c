#include "graph.h"

#include <stdlib.h>
#include <string.h>

void model__graph_load(struct model__graph *g, const struct model__event *events, int n)
{
    g->n = n;
    g->slots = 0;
    memset(g->count, 0, sizeof(g->count));
    if (n > 0)
        memcpy(g->events, events, (size_t)n * sizeof(*events));
    for (int i = 0; i < n; i++) {
        struct model__event *e = &g->events[i];
        g->at[e->thread][++g->count[e->thread]] = (int16_t)i;
        if ((e->kind == MODEL_READ || e->kind == MODEL_WRITE) && e->slot >= g->slots)
            g->slots = e->slot + 1;
    }
}

static bool touches(const struct model__event *e, int slot)
{
    return (e->kind == MODEL_READ || e->kind == MODEL_WRITE) && e->slot == slot;
}

int model__graph_slot(const struct model__graph *g, uint32_t location)
{
    for (int i = 0; i < g->n; i++)
        if ((g->events[i].kind == MODEL_READ || g->events[i].kind == MODEL_WRITE) && g->events[i].location == location)
            return g->events[i].slot;
    return g->slots;
}

/* ---- Adding and taking away --------------------------------------------------------------------------------- */

void model__graph_look(struct model__graph *g, int event)
{
    struct model__event *e = &g->events[event];
    static const struct model__clock none;
    const struct model__event *before = e->index > 1 ? &g->events[g->at[e->thread][e->index - 1]] : NULL;
    e->clock = before ? before->clock : none;
    e->cause = before ? before->cause : none;
    e->fenced = before ? before->fenced : none;
    e->heard = before ? before->heard : none;
    e->clock.at[e->thread] = e->cause.at[e->thread] = e->index;
    unsigned order = model__order(e);
    if (e->kind == MODEL_READ && e->from != MODEL_INITIAL) {
        const struct model__event *write = &g->events[e->from];
        model__join(&e->cause, &write->cause);
        model__join(&e->heard, &write->carries);
        if (model__acquires(order))
            model__join(&e->clock, &write->carries);
    } else if (e->kind == MODEL_FENCE) {
        if (model__acquires(order))
            model__join(&e->clock, &e->heard);
        if (model__releases(order))
            e->fenced = e->clock;
    } else if (e->kind == MODEL_WRITE) {
        e->carries = model__releases(order) ? e->clock : e->fenced;
        if ((e->flags & MODEL_UPDATES) && before->from != MODEL_INITIAL)
            model__join(&e->carries, &g->events[before->from].carries); /* the release sequence goes on */
    }
}

int model__graph_add(struct model__graph *g, const struct model__event *event, int place)
{
    int id = g->n;
    if (event->kind == MODEL_WRITE)
        for (int i = 0; i < id; i++)
            if (g->events[i].kind == MODEL_WRITE && g->events[i].slot == event->slot && g->events[i].place >= place)
                g->events[i].place++;
    struct model__event *e = &g->events[g->n++];
    *e = *event;
    e->place = (int16_t)place;
    e->index = ++g->count[e->thread];
    g->at[e->thread][e->index] = (int16_t)id;
    if ((e->kind == MODEL_READ || e->kind == MODEL_WRITE) && e->slot >= g->slots)
        g->slots = e->slot + 1;
    model__graph_look(g, id);
    return id;
}

void model__graph_pop(struct model__graph *g)
{
    struct model__event *e = &g->events[--g->n];
    g->count[e->thread]--;
    if (e->kind == MODEL_WRITE)
        for (int i = 0; i < g->n; i++)
            if (g->events[i].kind == MODEL_WRITE && g->events[i].slot == e->slot && g->events[i].place > e->place)
                g->events[i].place--;
}

/* ---- Coherence ---------------------------------------------------------------------------------------------- */

int model__graph_writes(const struct model__graph *g, int slot)
{
    int writes = 0;
    for (int i = 0; i < g->n; i++)
        writes += g->events[i].kind == MODEL_WRITE && g->events[i].slot == slot;
    return writes;
}

int model__graph_write_at(const struct model__graph *g, int slot, int place)
{
    for (int i = 0; i < g->n; i++)
        if (g->events[i].kind == MODEL_WRITE && g->events[i].slot == slot && g->events[i].place == place)
            return i;
    return MODEL_INITIAL;
}

static int place_of(const struct model__graph *g, int write)
{
    return write == MODEL_INITIAL ? 0 : g->events[write].place;
}

/* The place of the write that it is, or has read. */
static int place_seen(const struct model__graph *g, const struct model__event *e)
{
    return e->kind == MODEL_WRITE ? e->place : place_of(g, e->from);
}

int model__graph_oldest(const struct model__graph *g, const struct model__clock *clock, int slot, int but)
{
    int oldest = 0;
    for (int i = 0; i < g->n; i++) {
        const struct model__event *e = &g->events[i];
        if (i != but && touches(e, slot) && clock->at[e->thread] >= e->index && place_seen(g, e) > oldest)
            oldest = place_seen(g, e);
    }
    return oldest;
}

bool model__graph_place_free(const struct model__graph *g, int slot, int place)
{
    int write = model__graph_write_at(g, slot, place);
    return write == MODEL_INITIAL || !(g->events[write].flags & MODEL_UPDATES);
}

/* A write of the read's thread behind the read, in the modification order before this one, excludes it by coherence. */
static bool excluded(const struct model__graph *g, const struct model__event *read, const struct model__event *write)
{
    for (int i = read->index + 1; i <= g->count[read->thread]; i++) {
        const struct model__event *own = &g->events[g->at[read->thread][i]];
        if (own->kind == MODEL_WRITE && own->slot == write->slot && own->place < write->place)
            return true;
    }
    return false;
}

int model__graph_buffered(const struct model__graph *g, int after)
{
    const struct model__event *write = &g->events[g->n - 1];
    for (int i = after + 1; i < g->n - 1; i++) {
        const struct model__event *read = &g->events[i];
        if (read->kind == MODEL_READ && read->slot == write->slot && read->thread != write->thread && model__causes(read, write) &&
            !model__before(read, write) && place_of(g, read->from) < write->place && !excluded(g, read, write))
            return i;
    }
    return -1;
}

/* ---- Sequential consistency --------------------------------------------------------------------------------- *
 *
 * psc of RC11, with hb: happens before; sb: program order; eco: from a location's earlier write, or its reader, to a later one.
 * Along a location, events have a rank: twice its place for a write, one more for its readers; eco is "has a lower rank".
 *     scb      = sb | sb to another location; hb; sb from another location | hb at one location | mo | fr
 *     psc_base = (SC event | SC fence; hb?); scb; (SC event | hb?; SC fence)
 *     psc_F    = SC fence; (hb | hb; eco; hb); SC fence
 * Around fences all of hb is part of it: whatever happened before begins with sb, or at one location. */

static bool is_sc(const struct model__event *e)
{
    return e->kind != MODEL_CHOICE && model__order(e) == __ATOMIC_SEQ_CST;
}

static int rank(const struct model__graph *g, const struct model__event *e)
{
    return 2 * place_seen(g, e) + (e->kind == MODEL_READ);
}

/* What can be seen from a fence: the lowest rank behind it, the highest rank, and the highest write, before it, by slot. */
struct horizon {
    int16_t behind[MODEL_EVENTS], before[MODEL_EVENTS], written[MODEL_EVENTS];
};

static void look_around(const struct model__graph *g, const struct model__event *fence, struct horizon *h)
{
    for (int s = 0; s < g->slots; s++) {
        h->behind[s] = INT16_MAX;
        h->before[s] = h->written[s] = -1;
    }
    for (int i = 0; i < g->n; i++) {
        const struct model__event *e = &g->events[i];
        if (e->kind != MODEL_READ && e->kind != MODEL_WRITE)
            continue;
        int16_t r = (int16_t)rank(g, e);
        if (model__before(fence, e) && r < h->behind[e->slot])
            h->behind[e->slot] = r;
        if (model__before(e, fence) && r > h->before[e->slot])
            h->before[e->slot] = r;
        if (model__before(e, fence) && e->kind == MODEL_WRITE && r > h->written[e->slot])
            h->written[e->slot] = r;
    }
}

static bool elsewhere(const struct model__event *a, const struct model__event *b)
{
    return a->kind == MODEL_FENCE || b->kind == MODEL_FENCE || a->kind == MODEL_CHOICE || b->kind == MODEL_CHOICE ||
           a->slot != b->slot;
}

/* The event of the same thread next to e, in the direction of step, that is not at e's location. */
static const struct model__event *neighbour_elsewhere(const struct model__graph *g, const struct model__event *e, int step)
{
    for (int i = e->index + step; i >= 1 && i <= g->count[e->thread]; i += step)
        if (elsewhere(e, &g->events[g->at[e->thread][i]]))
            return &g->events[g->at[e->thread][i]];
    return NULL;
}

/* scb between two accesses. */
static bool ordered(const struct model__graph *g, const struct model__event *a, const struct model__event *b)
{
    if (a->thread == b->thread)
        return a->index < b->index || (a->slot == b->slot && b->kind == MODEL_WRITE && rank(g, a) < rank(g, b));
    if (a->slot == b->slot && (model__before(a, b) || (b->kind == MODEL_WRITE && rank(g, a) < rank(g, b))))
        return true;
    if (!model__before(a, b))
        return false;
    const struct model__event *first = neighbour_elsewhere(g, a, 1), *last = neighbour_elsewhere(g, b, -1);
    return first && last && model__before(first, last);
}

static bool fences_ordered(const struct model__graph *g, const struct horizon *a, const struct horizon *b)
{
    for (int s = 0; s < g->slots; s++)
        if (a->behind[s] < b->before[s])
            return true;
    return false;
}

static bool must_precede(const struct model__graph *g, const struct model__event *a, const struct horizon *around_a,
                         const struct model__event *b, const struct horizon *around_b)
{
    if (!around_a && !around_b)
        return ordered(g, a, b);
    if (model__before(a, b))
        return true;
    if (around_a && around_b)
        return fences_ordered(g, around_a, around_b);
    if (around_a)
        return b->kind == MODEL_WRITE && around_a->behind[b->slot] < rank(g, b);
    return rank(g, a) < around_b->written[a->slot];
}

bool model__graph_sc_holds(const struct model__graph *g)
{
    static struct horizon horizons[MODEL_EVENTS];
    const struct horizon *around[MODEL_EVENTS];
    const struct model__event *sc[MODEL_EVENTS];
    int n = 0, left;
    for (int i = 0; i < g->n; i++) {
        if (!is_sc(&g->events[i]))
            continue;
        around[n] = NULL;
        sc[n] = &g->events[i];
        if (sc[n]->kind == MODEL_FENCE) {
            look_around(g, sc[n], &horizons[n]);
            around[n] = &horizons[n];
        }
        n++;
    }
    do { /* takes away, again and again, what nothing that is left must precede: a cycle stays */
        left = n;
        for (int i = 0; i < n; i++) {
            int j = 0;
            while (j < n && (j == i || !must_precede(g, sc[i], around[i], sc[j], around[j])))
                j++;
            if (j < n)
                continue;
            n--;
            sc[i] = sc[n];
            around[i] = around[n];
            i--;
        }
    } while (n > 0 && n < left);
    return n == 0;
}

/* ---- Revisiting --------------------------------------------------------------------------------------------- */

bool model__graph_was_newest(const struct model__graph *g, int read)
{
    const struct model__event *e = &g->events[read];
    for (int i = 0; i < read; i++)
        if (g->events[i].kind == MODEL_WRITE && g->events[i].slot == e->slot && g->events[i].place > place_seen(g, e))
            return false;
    return true;
}

/* Whether event e is what would have been added, had all been added with the newest choice, with only those there that were
 * before it, or are causes of a. */
static bool is_newest(const struct model__graph *g, int e, int a)
{
    const struct model__event *event = &g->events[e], *cause = &g->events[a];
    if (event->kind == MODEL_FENCE)
        return true;
    if (event->kind == MODEL_CHOICE)
        return event->value == 0;
    if (event->kind == MODEL_READ && (event->flags & MODEL_FAILS))
        return false;
    for (int i = 0; i < g->n; i++) {
        const struct model__event *other = &g->events[i];
        if (i == a || (i > e && !model__causes(other, cause)))
            continue;
        if (event->kind == MODEL_WRITE && other->kind == MODEL_READ && other->from == e)
            return false;
        if (other->kind == MODEL_WRITE && other->slot == event->slot && other->place > place_seen(g, event))
            return false;
    }
    return true;
}

bool model__graph_may_revisit(const struct model__graph *g, int r, int a)
{
    if (model__causes(&g->events[r], &g->events[a]) || !is_newest(g, r, a))
        return false;
    for (int e = r + 1; e < g->n; e++)
        if (!model__causes(&g->events[e], &g->events[a]) && !is_newest(g, e, a))
            return false;
    return true;
}

void model__graph_restrict(const struct model__graph *g, int *r, int a, struct model__graph *out)
{
    static struct model__event kept[MODEL_EVENTS];
    int16_t number[MODEL_EVENTS];
    int n = 0;
    for (int i = 0; i < g->n; i++) {
        number[i] = -1;
        if (i == a || (i > *r && !model__causes(&g->events[i], &g->events[a])))
            continue;
        number[i] = (int16_t)n;
        kept[n++] = g->events[i];
    }
    for (int i = 0; i < n; i++) {
        if (kept[i].kind == MODEL_READ && kept[i].from != MODEL_INITIAL)
            kept[i].from = number[kept[i].from]; /* of r itself, perhaps nothing: the caller gives it another */
        if (kept[i].kind == MODEL_WRITE) {
            int gone = 0;
            for (int j = 0; j < g->n; j++)
                gone += number[j] < 0 && g->events[j].kind == MODEL_WRITE && g->events[j].slot == kept[i].slot &&
                        g->events[j].place < kept[i].place;
            kept[i].place = (int16_t)(kept[i].place - gone);
        }
    }
    *r = number[*r];
    model__graph_load(out, kept, n);
}
