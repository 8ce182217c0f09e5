/* Counting what coroutines do; tally.h says how. */
#include "sched/tally.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obs/obs.h"
#include "sched/task.h"

#define FIRST_GROUPS 16
#define FIRST_EDGES 64

void cr__tally_init(struct cr__tally *tally, int64_t now_ns)
{
    memset(tally, 0, sizeof(*tally));
    tally->now = (uint32_t)((uint64_t)now_ns >> CR__SINCE_SHIFT);
}

void cr__tally_fini(struct cr__tally *tally)
{
    cr__mem_free(tally->groups, tally->capacity * sizeof(*tally->groups), CR__MEM_OTHER);
    cr__mem_free(tally->edges, tally->edges_capacity * sizeof(*tally->edges), CR__MEM_OTHER);
    cr__tally_init(tally, 0);
}

/* Room for one more, or the array as it was. */
static void *grow(void *array, size_t item_bytes, unsigned used, unsigned *capacity, unsigned first, unsigned most)
{
    if (used < *capacity || *capacity == most)
        return array;
    unsigned wish = *capacity ? 2 * *capacity : first;
    void *larger = cr__mem_alloc(wish * item_bytes, CR__MEM_OTHER);
    if (!larger)
        return array;
    if (array)
        memcpy(larger, array, used * item_bytes);
    cr__mem_free(array, *capacity * item_bytes, CR__MEM_OTHER);
    *capacity = wish;
    return larger;
}

/* ---- Groups ------------------------------------------------------------------------------------------------- */

static uint32_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u; /* Fibonacci hashing, Knuth 6.4 */
    return (uint32_t)(hash >> 32);
}

static uint32_t hash_of(const struct cr__group *key, uint64_t place)
{
    uint32_t hash = mix((uintptr_t)key->entry, key->doing | (unsigned)key->kind << 8 | (unsigned)key->worker << 16);
    return mix(hash, place);
}

static bool same_kind(const struct cr__group *a, const struct cr__group *b)
{
    return a->entry == b->entry && a->task == b->task && a->inner == b->inner && a->doing == b->doing && a->kind == b->kind && a->worker == b->worker;
}

/* A new group like *key, in that slot; NULL: no room. */
static struct cr__group *found(struct cr__tally *t, const struct cr__group *key, uint32_t slot)
{
    t->groups = grow(t->groups, sizeof(*t->groups), t->used, &t->capacity, FIRST_GROUPS, CR__TALLY_GROUPS);
    if (t->used == t->capacity)
        return NULL;
    struct cr__group *group = &t->groups[t->used++];
    *group = *key;
    t->slots[slot] = (uint16_t)t->used;
    return group;
}

/* Where the bytes of a parked context are: on its stack, or in an image, while they belong at sp. */
struct parked {
    char *bytes, *sp;
    size_t live_bytes;
};

static struct parked parked_at(const struct cr_co *co)
{
    struct parked p = {co->sp, co->sp, (size_t)(co->stack.top - (char *)co->sp)};
    if (CR__LIKELY(!(cr__co_flags(co) & CR__CO_AWAY)))
        return p;
    if (cr__co_kind(co) == CR_STACK_SHARED) {
        p.bytes = (char *)cr__shared_image(co, &p.sp, &p.live_bytes);
        return p;
    }
    char *low, *top;
    const struct cr__slot *slot = cr__stack_slot(cr__virtual_chunk(co->stack.top - 1), co->stack.top - 1, &low, &top);
    if (atomic_load_explicit(&slot->state, memory_order_acquire) != CR__IN_PLACE) /* else somebody has touched it, and it stays until its turn */
        p.bytes = (char *)cr__frozen_bytes(slot, &p.live_bytes);
    return p;
}

/* An image is unwound in a copy, in which what points into the stack points into the copy. */
static unsigned unwind_image(const struct parked *p, void **pcs, uint32_t *offsets)
{
    uintptr_t *copy = cr__mem_alloc(p->live_bytes, CR__MEM_OTHER);
    if (!copy)
        return 0;
    memcpy(copy, p->bytes, p->live_bytes);
    for (size_t i = 0; i < p->live_bytes / sizeof(*copy); i++) {
        if (copy[i] - (uintptr_t)p->sp <= p->live_bytes)
            copy[i] += (uintptr_t)copy - (uintptr_t)p->sp;
    }
    unsigned frames = cr__unwind_parked(copy, (char *)copy + p->live_bytes, pcs, offsets, CR__TALLY_FRAMES);
    cr__mem_free(copy, p->live_bytes, CR__MEM_OTHER);
    return frames;
}

static unsigned unwind(const struct parked *p, void **pcs, uint32_t *offsets)
{
    return p->bytes == p->sp ? cr__unwind_parked(p->sp, p->sp + p->live_bytes, pcs, offsets, CR__TALLY_FRAMES) : unwind_image(p, pcs, offsets);
}

/* The group of those that are of *key's kind and whose stack looks like this, or a new one; NULL: no room. */
static struct cr__group *group_of_stack(struct cr__tally *t, struct cr__group *key, const struct parked *parked)
{
    uint32_t slot = hash_of(key, parked ? parked->live_bytes : 0) % CR__TALLY_SLOTS;
    for (; t->slots[slot] != 0; slot = (slot + 1) % CR__TALLY_SLOTS) {
        struct cr__group *group = &t->groups[t->slots[slot] - 1];
        if (same_kind(group, key) &&
            (group->frames == 0 || (parked && cr__unwind_same(parked->bytes, parked->bytes + parked->live_bytes, group->pcs, group->offsets, group->frames))))
            return group;
    }
    if (parked && t->used < CR__TALLY_GROUPS) {
        key->frames = (uint8_t)unwind(parked, key->pcs, key->offsets);
        t->unwound++;
    }
    return found(t, key, slot);
}

/* The group with *key's backtrace, wherever on the stack that lies. */
static struct cr__group *group_like(struct cr__tally *t, const struct cr__group *key)
{
    uint64_t place = 0;
    for (unsigned i = 0; i < key->frames; i++)
        place = mix(place, (uintptr_t)key->pcs[i]);
    uint32_t slot = hash_of(key, place) % CR__TALLY_SLOTS;
    for (; t->slots[slot] != 0; slot = (slot + 1) % CR__TALLY_SLOTS) {
        struct cr__group *group = &t->groups[t->slots[slot] - 1];
        if (same_kind(group, key) && group->frames == key->frames &&
            memcmp(group->pcs, key->pcs, key->frames * sizeof(key->pcs[0])) == 0)
            return group;
    }
    struct cr__group fresh = *key;
    fresh.count = 0;
    return found(t, &fresh, slot);
}

static void remember(struct cr__group *group, uint32_t id, const char *name)
{
    if (group->named == CR__TALLY_NAMED)
        return;
    group->ids[group->named] = id;
    strncpy(group->names[group->named++], name ? name : "", sizeof(group->names[0]) - 1);
}

void cr__tally_plain(struct cr__tally *t, void (*entry)(void), uint32_t id, enum cr__doing doing, unsigned worker, uint64_t count)
{
    struct cr__group key = {.entry = entry, .doing = (uint8_t)doing};
    if (doing == CR__DOING_SILENT)
        key.worker = (uint16_t)worker;
    t->live += count;
    struct cr__group *group = group_of_stack(t, &key, NULL);
    if (!group) {
        t->others += count;
        return;
    }
    group->count += count;
    if (id)
        remember(group, id, NULL);
}

void cr__tally_starving(struct cr__tally *t, void (*entry)(void), uint32_t id)
{
    struct cr__group key = {.entry = entry, .doing = CR__DOING_PARKED, .kind = CR__WAIT_STACK};
    t->live++;
    struct cr__group *group = group_of_stack(t, &key, NULL);
    if (!group) {
        t->others++;
        return;
    }
    group->count++;
    remember(group, id, NULL);
}

/* ---- What is waited for ------------------------------------------------------------------------------------- */

static _Atomic(const struct cr__wait_ops *) wait_ops[CR__WAIT_KINDS];

static bool join_holder(const struct cr__record *waits, struct cr__holder *out)
{
    const struct cr__record *target = (const struct cr__record *)waits->node.object;
    *out = (struct cr__holder){.id = target->co.id}; /* it is kept by the handle that is being joined */
    return true;
}

static void join_describe(const struct cr__record *waits, char *text, size_t size_bytes)
{
    const struct cr__record *target = (const struct cr__record *)waits->node.object;
    snprintf(text, size_bytes, "coroutine %u", target->co.id);
}

static const struct cr__wait_ops join_ops = {.holder = join_holder, .describe = join_describe};

void cr__holder_of(enum cr__wait_kind kind, const struct cr__wait_ops *ops)
{
    atomic_store_explicit(&wait_ops[kind], ops, memory_order_release);
}

static const struct cr__wait_ops *ops_of(unsigned kind)
{
    const struct cr__wait_ops *ops = atomic_load_explicit(&wait_ops[kind], memory_order_acquire);
    return ops ? ops : kind == CR__WAIT_JOIN ? &join_ops : NULL;
}

static void note_edge(struct cr__tally *t, struct cr__worker *here, struct cr__record *record, uint32_t to)
{
    t->edges = grow(t->edges, sizeof(*t->edges), t->edges_used, &t->edges_capacity, FIRST_EDGES, CR__TALLY_EDGES);
    if (t->edges_used == t->edges_capacity) {
        t->edges_lost++;
        return;
    }
    struct cr__edge *edge = &t->edges[t->edges_used++];
    *edge = (struct cr__edge){
        .from = record->co.id,
        .to = to,
        .since = record->since,
        .kind = (uint8_t)cr__waits_for(record),
        .deadline = cr__timer_armed(&record->timer),
        .worker = here->index,
        .record = record,
        .object = record->node.object,
        .entry = record->co.entry,
    };
    const char *name = cr__co_name(&record->co);
    strncpy(edge->name, name ? name : "", sizeof(edge->name) - 1);
}

static void note_wait(struct cr__tally *t, struct cr__worker *here, struct cr__record *record, struct cr__group *group)
{
    const struct cr__wait_ops *ops = ops_of(cr__waits_for(record));
    struct cr__holder holder = {0};
    if (ops && ops->holder && ops->holder(record, &holder))
        note_edge(t, here, record, holder.id);
    int32_t waited_or_less = (int32_t)(t->now - record->since); /* it may have begun since */
    uint32_t waited = waited_or_less > 0 ? (uint32_t)waited_or_less : 0;
    if (group->with_since == 0) {
        group->longest = group->shortest = waited;
        group->object = record->node.object;
        group->holder = holder.id;
        group->holder_others = holder.others;
        if (ops && ops->describe)
            ops->describe(record, group->object_name, sizeof(group->object_name));
    } else {
        group->longest = waited > group->longest ? waited : group->longest;
        group->shortest = waited < group->shortest ? waited : group->shortest;
        group->objects_differ |= group->object != record->node.object;
        group->holders_differ |= group->holder != holder.id;
    }
    group->with_since++;
    group->with_deadline += cr__timer_armed(&record->timer);
}

static struct cr__group *group_of_coroutine(struct cr__tally *t, struct cr__group *key, struct cr__record *record)
{
    struct cr_co *inner = record->co.below; /* a bare one inside it, or itself */
    key->inner = inner != &record->co ? inner->entry : NULL;
    struct parked at = parked_at(inner);
    return group_of_stack(t, key, &at);
}

static struct cr__group *group_of_task(struct cr__tally *t, struct cr__group *key, struct cr__record *record)
{
    const struct cr_point *points[CR__TALLY_FRAMES];
    key->task = true;
    key->frames = (uint8_t)cr__task_points(record, points, CR__TALLY_FRAMES);
    memcpy(key->pcs, points, key->frames * sizeof(points[0]));
    return group_like(t, key);
}

void cr__tally_look(struct cr__tally *t, struct cr__worker *here, struct cr__record *record, bool parked)
{
    struct cr__group key = {
        .entry = record->co.entry,
        .doing = parked ? CR__DOING_PARKED : CR__DOING_READY,
        .kind = parked ? (uint8_t)cr__waits_for(record) : CR__WAIT_NONE,
    };
    t->live++;
    struct cr__group *group = (cr__co_is_task(&record->co) ? group_of_task : group_of_coroutine)(t, &key, record);
    if (group) {
        group->count++;
        remember(group, record->co.id, cr__co_name(&record->co));
    } else {
        t->others++;
        group = &key; /* who holds what is worth knowing */
    }
    if (parked)
        note_wait(t, here, record, group);
}

/* ---- Adding up ---------------------------------------------------------------------------------------------- */

static void add_group(struct cr__group *into, const struct cr__group *from)
{
    if (from->with_since > 0) {
        into->longest = from->longest > into->longest ? from->longest : into->longest;
        into->shortest = from->shortest < into->shortest ? from->shortest : into->shortest;
        into->objects_differ |= from->objects_differ || from->object != into->object;
        into->holders_differ |= from->holders_differ || from->holder != into->holder;
        into->with_since += from->with_since;
        into->with_deadline += from->with_deadline;
    }
    into->count += from->count;
    for (unsigned i = 0; i < from->named; i++)
        remember(into, from->ids[i], from->names[i]);
}

void cr__tally_add(struct cr__tally *t, const struct cr__tally *other)
{
    t->live += other->live;
    t->others += other->others;
    t->edges_lost += other->edges_lost;
    for (unsigned i = 0; i < other->used; i++) {
        const struct cr__group *from = &other->groups[i];
        struct cr__group *into = group_like(t, from);
        if (!into)
            t->others += from->count;
        else if (into->count == 0)
            into->count = from->count;
        else
            add_group(into, from);
    }
    for (unsigned i = 0; i < other->edges_used; i++) {
        t->edges = grow(t->edges, sizeof(*t->edges), t->edges_used, &t->edges_capacity, FIRST_EDGES, CR__TALLY_EDGES);
        if (t->edges_used < t->edges_capacity)
            t->edges[t->edges_used++] = other->edges[i];
        else
            t->edges_lost++;
    }
}

/* ---- Who waits for whom ------------------------------------------------------------------------------------- */

static int by_from(const void *a, const void *b)
{
    const struct cr__edge *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

static struct cr__edge *edge_from(struct cr__tally *t, uint32_t from)
{
    struct cr__edge key = {.from = from};
    return bsearch(&key, t->edges, t->edges_used, sizeof(key), by_from);
}

/* Each coroutine waits for at most one, so a cycle is found by following: marks[i] is the walk that came by edge i first. */
void cr__tally_cycles(struct cr__tally *t, void (*fn)(const struct cr__edge *const *edges, unsigned count, void *arg), void *arg)
{
    if (t->edges_used == 0)
        return;
    size_t marks_bytes = t->edges_used * sizeof(uint32_t), cycle_bytes = t->edges_used * sizeof(struct cr__edge *);
    uint32_t *marks = cr__mem_alloc(marks_bytes, CR__MEM_OTHER);
    const struct cr__edge **cycle = cr__mem_alloc(cycle_bytes, CR__MEM_OTHER);
    qsort(t->edges, t->edges_used, sizeof(t->edges[0]), by_from);
    for (uint32_t walk = 1; marks && cycle && walk <= t->edges_used; walk++) {
        struct cr__edge *at = &t->edges[walk - 1];
        while (at && marks[at - t->edges] == 0) {
            marks[at - t->edges] = walk;
            at = edge_from(t, at->to);
        }
        if (!at || marks[at - t->edges] != walk)
            continue; /* it ends, or joins what an earlier walk has seen */
        const struct cr__edge *first = at;
        unsigned count = 0;
        do {
            cycle[count++] = at;
            at = edge_from(t, at->to);
        } while (at != first);
        fn(cycle, count, arg);
    }
    cr__mem_free(marks, marks_bytes, CR__MEM_OTHER);
    cr__mem_free(cycle, cycle_bytes, CR__MEM_OTHER);
}
