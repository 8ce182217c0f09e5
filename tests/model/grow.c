/* New events, and all that they could have been besides: that is pushed, to be explored later.
 *     a read      reads from the newest write; pushed: each other one that coherence allows
 *     a write     becomes the newest; pushed: each other place; and each graph in which an earlier read, which was too early to
 *                 see it, reads from it ("revisits")
 * explorer.c says why these are all executions, and each of them once. */
#include "internal.h"

/* ---- Revisits ----------------------------------------------------------------------------------------------- */

/* Pushes the graphs in which r reads from the last event, a. */
static void revisit(int r, int a)
{
    static struct model__graph out;
    model__graph_restrict(&model__run.graph, &r, a, &out);
    struct model__event write = model__run.graph.events[a];
    int writes = model__graph_writes(&out, write.slot), first, last;
    if (write.flags & MODEL_UPDATES) {
        int from = model__last(&out, write.thread)->from;
        first = last = from == MODEL_INITIAL ? 1 : out.events[from].place + 1;
    } else {
        first = model__graph_oldest(&out, model__now(), write.slot, -1) + 1;
        last = writes + 1;
    }
    for (int place = first; place <= last; place++) {
        if (!model__graph_place_free(&out, write.slot, place))
            continue;
        int id = model__graph_add(&out, &write, place);
        struct model__event *read = &out.events[r];
        read->from = (int16_t)id;
        read->value = write.value;
        model__graph_look(&out, r);
        if (place >= model__graph_oldest(&out, &read->clock, write.slot, r) && model__graph_sc_holds(&out))
            model__push(&out);
        model__graph_pop(&out);
    }
}

static void revisit_all(int a)
{
    struct model__graph *g = &model__run.graph;
    for (int r = 0; r < a; r++)
        if (g->events[r].kind == MODEL_READ && g->events[r].slot == g->events[a].slot && model__graph_may_revisit(g, r, a))
            revisit(r, a);
}

/* ---- New events --------------------------------------------------------------------------------------------- */

uint64_t model__changed(enum model__update update, uint64_t old, uint64_t operand, unsigned size)
{
    switch (update) {
    case MODEL_ADD: old += operand; break;
    case MODEL_SUB: old -= operand; break;
    case MODEL_AND: old &= operand; break;
    case MODEL_OR: old |= operand; break;
    case MODEL_XOR: old ^= operand; break;
    case MODEL_NAND: old = ~(old & operand); break;
    default: old = operand;
    }
    return size == 8 ? old : old & (((uint64_t)1 << 8 * size) - 1);
}

/* The write that would follow this read, the graph's last event, has no place: another RMW has read the same. But with it, others could read from it. */
static void revisit_without_place(const struct model__event *read, enum model__update update, uint64_t operand)
{
    struct model__graph *g = &model__run.graph;
    struct model__event write = *read;
    write.kind = MODEL_WRITE;
    write.flags = MODEL_UPDATES;
    write.value = model__changed(update, read->value, operand, read->size);
    revisit_all(model__graph_add(g, &write, model__graph_writes(g, write.slot) + 1));
    model__graph_pop(g);
}

void model__push_failure(struct model__event *read)
{
    struct model__graph *g = &model__run.graph;
    if (!(read->flags & MODEL_WEAK) || !model__options->weak_fails || model__run.script)
        return;
    for (int i = 1; i < read->index; i++)
        if (g->events[g->at[read->thread][i]].flags & MODEL_FAILS)
            return;
    for (int fails = 1; fails >= 0; fails--) {
        read->flags ^= MODEL_FAILS;
        model__graph_look(g, (int)(read - g->events));
        if (fails && model__graph_sc_holds(g))
            model__push(g);
    }
}

static void read_from(struct model__event *read, int place, const struct model__history *history)
{
    const struct model__graph *g = &model__run.graph;
    read->from = (int16_t)model__graph_write_at(g, read->slot, place);
    read->value = read->from == MODEL_INITIAL ? history->initial : g->events[read->from].value;
}

int model__add_read(struct model__event read, const struct model__history *history, enum model__update update, uint64_t operand)
{
    struct model__graph *g = &model__run.graph;
    int newest = model__graph_writes(g, read.slot), oldest = model__graph_oldest(g, model__now(), read.slot, -1);
    if (model__run.choice >= 0) {
        int place = newest - model__run.choice;
        read_from(&read, place < oldest ? oldest : place, history);
        return model__graph_add(g, &read, 0);
    }
    for (int place = newest - 1; place >= oldest; place--) {
        read_from(&read, place, history);
        int id = model__graph_add(g, &read, 0);
        if (model__graph_sc_holds(g)) {
            if (!model__succeeds(&g->events[id]) || model__graph_place_free(g, read.slot, place + 1)) {
                model__push(g);
            } else {
                model__push_failure(&g->events[id]);
                revisit_without_place(&g->events[id], update, operand);
            }
        }
        model__graph_pop(g);
    }
    read_from(&read, newest, history);
    return model__graph_add(g, &read, 0);
}

/* The last event is a write. Reads that don't see it only for lack of load buffering: mutate.c wants to know. */
static void note_buffered(void)
{
    const struct model__graph *g = &model__run.graph;
    for (int read = -1; (read = model__graph_buffered(g, read)) >= 0;)
        model__buffered(g->events[read].pc, g->events[g->n - 1].pc);
}

int model__add_write(struct model__event write)
{
    struct model__graph *g = &model__run.graph;
    int newest = model__graph_writes(g, write.slot), place = newest + 1, id;
    if (write.flags & MODEL_UPDATES) {
        int from = model__last(g, write.thread)->from;
        place = from == MODEL_INITIAL ? 1 : g->events[from].place + 1;
    } else if (model__run.choice >= 0) {
        place = newest + 1 - model__run.choice;
    } else {
        int oldest = model__graph_oldest(g, model__now(), write.slot, -1);
        for (int earlier = newest; earlier > oldest; earlier--) {
            if (!model__graph_place_free(g, write.slot, earlier))
                continue;
            model__graph_add(g, &write, earlier);
            note_buffered();
            if (model__graph_sc_holds(g))
                model__push(g);
            model__graph_pop(g);
        }
    }
    id = model__graph_add(g, &write, place);
    note_buffered();
    if (model__run.choice < 0)
        revisit_all(id);
    return id; /* consistent: if it is not the newest it is of an RMW, and adds no order that its read has not */
}
