/* The explorer against the axioms: small random programs, of which all graphs are enumerated here, by brute force, and checked against
 * RC11 as it is written down: relations as matrices of bits, no clocks, no shortcuts. The explorer must meet exactly these graphs, each
 * once. Shares no code with graph.c. */
#include "explorer.h"

#include "internal.h"

#define OPS 8      /* of a program */
#define EVENTS 18  /* an operation is up to two; the initial writes come first */
#define PLACES 3
#define GRAPHS 200000

enum op_kind { LOAD, STORE, EXCHANGE, COMPARE, FENCE };

struct op {
    int thread, kind, place, order, failed;
    uint32_t value, expected; /* values differ, so that it is known what was read */
};

static struct op ops[OPS];
static int ops_used, threads;
static _Atomic uint32_t places[PLACES];

static uint64_t random_state;

static unsigned random_below(unsigned n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

/* ---- The axioms --------------------------------------------------------------------------------------------- */

typedef uint32_t row; /* bit j of row i: i is related to j */

struct relation {
    row rows[EVENTS];
};

struct event {
    int thread, index, kind /* MODEL_READ, ... */, place, order, op;
    bool updates;
};

static struct event events[EVENTS];
static int n, source[EVENTS], rank_of[EVENTS]; /* per read, where it reads from; per write, its number in the modification order */

static struct relation joined(struct relation a, struct relation b)
{
    for (int i = 0; i < n; i++)
        a.rows[i] |= b.rows[i];
    return a;
}

static struct relation then(struct relation a, struct relation b)
{
    struct relation out = {{0}};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (a.rows[i] >> j & 1)
                out.rows[i] |= b.rows[j];
    return out;
}

static struct relation closed(struct relation a)
{
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++)
            if (a.rows[i] >> k & 1)
                a.rows[i] |= a.rows[k];
    return a;
}

static bool irreflexive(struct relation a)
{
    for (int i = 0; i < n; i++)
        if (a.rows[i] >> i & 1)
            return false;
    return true;
}

static struct relation those(row which)
{
    struct relation out = {{0}};
    for (int i = 0; i < n; i++)
        out.rows[i] = which & (row)1 << i;
    return out;
}

static struct relation or_same(struct relation a)
{
    return joined(a, those(~(row)0));
}

static struct relation such_that(bool (*holds)(const struct event *a, const struct event *b))
{
    struct relation out = {{0}};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (i != j && holds(&events[i], &events[j]))
                out.rows[i] |= (row)1 << j;
    return out;
}

static struct relation both(struct relation a, struct relation b)
{
    for (int i = 0; i < n; i++)
        a.rows[i] &= b.rows[i];
    return a;
}

static row all_such(bool (*holds)(const struct event *e))
{
    row out = 0;
    for (int i = 0; i < n; i++)
        out |= (row)holds(&events[i]) << i;
    return out;
}

static bool is_init(const struct event *e) { return e->thread < 0; }
static bool is_read(const struct event *e) { return e->kind == MODEL_READ; }
static bool is_write(const struct event *e) { return e->kind == MODEL_WRITE; }
static bool is_fence(const struct event *e) { return e->kind == MODEL_FENCE; }
static bool is_acquire(const struct event *e) { return !is_write(e) && model__acquires((unsigned)e->order); }
static bool is_release(const struct event *e) { return !is_read(e) && model__releases((unsigned)e->order); }
static bool is_sc(const struct event *e) { return e->order == __ATOMIC_SEQ_CST; }
static bool is_update_write(const struct event *e) { return is_write(e) && e->updates; }

static bool in_program_order(const struct event *a, const struct event *b)
{
    return is_init(a) ? !is_init(b) : a->thread == b->thread && a->index < b->index;
}
static bool at_one_place(const struct event *a, const struct event *b)
{
    return !is_fence(a) && !is_fence(b) && a->place == b->place;
}
static bool reads_from(const struct event *a, const struct event *b)
{
    return is_read(b) && source[b - events] == a - events;
}
static bool in_modification_order(const struct event *a, const struct event *b)
{
    return is_write(a) && is_write(b) && at_one_place(a, b) && rank_of[a - events] < rank_of[b - events];
}
static bool is_one_update(const struct event *a, const struct event *b)
{
    return is_read(a) && is_update_write(b) && a->op == b->op;
}

static bool consistent(void)
{
    struct relation sb = such_that(in_program_order), rf = such_that(reads_from), mo = such_that(in_modification_order);
    struct relation rmw = such_that(is_one_update), at_one = such_that(at_one_place), fr = {{0}}, elsewhere = {{0}};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (is_read(&events[i]) && in_modification_order(&events[source[i]], &events[j]))
                fr.rows[i] |= (row)1 << j;
    if (!irreflexive(closed(joined(sb, rf))))
        return false;
    for (int i = 0; i < n; i++) /* atomicity: nothing between what an update reads and what it writes */
        for (int j = 0; j < n; j++)
            if ((rmw.rows[i] >> j & 1) && rank_of[j] != rank_of[source[i]] + 1)
                return false;
    struct relation release = those(all_such(is_release)), acquire = those(all_such(is_acquire)), fences = those(all_such(is_fence));
    struct relation writes = those(all_such(is_write)), reads = those(all_such(is_read));
    struct relation sequence = then(writes, or_same(closed(then(rf, rmw))));
    struct relation sw = then(then(then(release, or_same(then(fences, sb))), then(sequence, rf)),
                              then(then(reads, or_same(then(sb, fences))), acquire));
    struct relation hb = closed(joined(sb, sw)), eco = closed(joined(rf, joined(mo, fr)));
    if (!irreflexive(hb) || !irreflexive(then(hb, eco)))
        return false;
    for (int i = 0; i < n; i++)
        elsewhere.rows[i] = sb.rows[i] & ~at_one.rows[i];
    struct relation scb = joined(joined(sb, then(then(elsewhere, hb), elsewhere)), joined(both(hb, at_one), joined(mo, fr)));
    row sc = all_such(is_sc);
    struct relation sc_fences = those(sc & all_such(is_fence));
    struct relation base = then(then(joined(those(sc), then(sc_fences, or_same(hb))), scb),
                                joined(those(sc), then(or_same(hb), sc_fences)));
    struct relation strong = then(then(sc_fences, joined(hb, then(then(hb, eco), hb))), sc_fences);
    return irreflexive(closed(joined(base, strong)));
}

/* ---- Enumerating -------------------------------------------------------------------------------------------- */

static uint64_t expected_graphs[GRAPHS], found_graphs[GRAPHS];
static int expected_used, found_used;

static uint64_t mixed(uint64_t hash)
{
    hash = (hash ^ hash >> 31) * 0x7fb5d329728ea185u;
    return (hash ^ hash >> 27) * 0x81dadef4bc2dd44du;
}

/* The same for a read that reads from (thread, index), (0, 0) being an initial value, and a write at a place. */
static uint64_t part_of_hash(int thread, int index, int kind, int from_thread, int from_index, int place)
{
    return mixed(mixed((uint64_t)(thread * 1000 + index) * 8 + (uint64_t)kind) + mixed((uint64_t)(from_thread * 1000 + from_index) * 64 + (uint64_t)place));
}

static void keep(uint64_t *graphs, int *used, uint64_t hash)
{
    CHECK(*used < GRAPHS);
    graphs[(*used)++] = hash;
}

static void order_writes(int w)
{
    while (w < n && (!is_write(&events[w]) || is_init(&events[w])))
        w++;
    if (w == n) {
        uint64_t hash = 0;
        if (!consistent())
            return;
        for (int i = 0; i < n; i++) {
            const struct event *e = &events[i], *from = is_read(e) && !is_init(&events[source[i]]) ? &events[source[i]] : NULL;
            if (!is_init(e) && !is_fence(e))
                hash += part_of_hash(e->thread, e->index, e->kind, from ? from->thread : 0, from ? from->index : 0,
                                     is_write(e) ? rank_of[i] : 0);
        }
        keep(expected_graphs, &expected_used, hash);
        return;
    }
    int before = 0; /* writes there that are placed already */
    for (int i = 0; i < w; i++)
        before += is_write(&events[i]) && !is_init(&events[i]) && events[i].place == events[w].place;
    for (int rank = 1; rank <= before + 1; rank++) {
        for (int i = 0; i < w; i++)
            if (is_write(&events[i]) && !is_init(&events[i]) && events[i].place == events[w].place && rank_of[i] >= rank)
                rank_of[i]++;
        rank_of[w] = rank;
        order_writes(w + 1);
        for (int i = 0; i < w; i++)
            if (is_write(&events[i]) && !is_init(&events[i]) && events[i].place == events[w].place && rank_of[i] > rank)
                rank_of[i]--;
    }
}

static void add_event(int op, int kind, int order, bool updates)
{
    int index = 1;
    for (int i = 0; i < n; i++)
        index += events[i].thread == ops[op].thread;
    events[n++] = (struct event){ops[op].thread, index, kind, kind == MODEL_FENCE ? -1 : ops[op].place, order, op, updates};
}

static bool writes_there(int from, int place, const bool *succeeds)
{
    return from < 0 || (ops[from].place == place && (ops[from].kind == STORE || ops[from].kind == EXCHANGE ||
                                                     (ops[from].kind == COMPARE && succeeds[from])));
}

/* from[op]: the operation that it reads from, -1: the initial value. */
static void build(const int *from)
{
    bool succeeds[OPS];
    for (int i = 0; i < ops_used; i++)
        succeeds[i] = ops[i].kind == COMPARE && (from[i] < 0 ? 0 : ops[from[i]].value) == ops[i].expected;
    for (int i = 0; i < ops_used; i++)
        if (ops[i].kind != STORE && ops[i].kind != FENCE && !writes_there(from[i], ops[i].place, succeeds))
            return;
    n = 0;
    for (int place = 0; place < PLACES; place++) {
        rank_of[n] = 0;
        events[n++] = (struct event){-1, 0, MODEL_WRITE, place, __ATOMIC_RELAXED, -1, false};
    }
    for (int i = 0; i < ops_used; i++) {
        bool updates = ops[i].kind == EXCHANGE || succeeds[i];
        if (ops[i].kind == FENCE)
            add_event(i, MODEL_FENCE, ops[i].order, false);
        if (ops[i].kind != FENCE && ops[i].kind != STORE)
            add_event(i, MODEL_READ, ops[i].kind == COMPARE && !updates ? ops[i].failed : ops[i].order, updates);
        if (ops[i].kind == STORE || updates)
            add_event(i, MODEL_WRITE, ops[i].order, updates);
    }
    for (int i = 0; i < n; i++) {
        if (!is_read(&events[i]))
            continue;
        source[i] = events[i].place;
        for (int j = 0; j < n; j++)
            if (is_write(&events[j]) && events[j].op >= 0 && events[j].op == from[events[i].op])
                source[i] = j;
    }
    order_writes(0);
}

static void enumerate(int op, int *from)
{
    if (op == ops_used) {
        build(from);
        return;
    }
    from[op] = -1;
    enumerate(op + 1, from);
    if (ops[op].kind == STORE || ops[op].kind == FENCE)
        return;
    for (int i = 0; i < ops_used; i++) {
        if (i == op || ops[i].place != ops[op].place || ops[i].kind == LOAD || ops[i].kind == FENCE)
            continue;
        from[op] = i;
        enumerate(op + 1, from);
    }
}

/* ---- The explorer -------------------------------------------------------------------------------------------- */

static void run_op(const struct op *op)
{
    struct model__place at = {&places[op->place], 4, op};
    uint64_t expected = op->expected;
    enum model__user user = model__user;
    model__user = MODEL_OUTSIDE;
    if (op->kind == LOAD)
        (void)model__load(at, (unsigned)op->order);
    else if (op->kind == STORE)
        model__store(at, op->value, (unsigned)op->order);
    else if (op->kind == EXCHANGE)
        (void)model__change(at, MODEL_EXCHANGE, op->value, (unsigned)op->order);
    else if (op->kind == COMPARE)
        (void)model__compare(at, &expected, op->value, (unsigned)op->order, (unsigned)op->failed, MODEL_COMPARE);
    else
        model__fence((unsigned)op->order, op);
    model__user = user;
}

static void run_thread(void *number)
{
    for (int i = 0; i < ops_used; i++)
        if (ops[i].thread == (int)(intptr_t)number)
            run_op(&ops[i]);
}

static void setup(void)
{
    for (intptr_t i = 0; i < threads; i++)
        model_thread(run_thread, (void *)i);
}

static void note_graph(void)
{
    const struct model__graph *g = &model__run.graph;
    uint64_t hash = 0;
    model__user = MODEL_OUTSIDE;
    for (int i = 0; i < g->n; i++) {
        const struct model__event *e = &g->events[i], *from = e->kind == MODEL_READ && e->from >= 0 ? &g->events[e->from] : NULL;
        if (e->kind == MODEL_READ || e->kind == MODEL_WRITE)
            hash += part_of_hash(e->thread, e->index, e->kind, from ? from->thread : 0, from ? from->index : 0,
                                 e->kind == MODEL_WRITE ? e->place : 0);
    }
    keep(found_graphs, &found_used, hash);
    model__user = MODEL_THREAD;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_program(uint64_t seed)
{
    static const char *const kinds[] = {"load", "store", "exchange", "compare", "fence"};
    printf("# seed %llu: the axioms allow %d graphs, the explorer found %d\n", (unsigned long long)seed, expected_used, found_used);
    for (int i = 0; i < ops_used; i++)
        printf("#   thread %d: %s %c %s, value %u, expected %u, failed %s\n", ops[i].thread, kinds[ops[i].kind], 'x' + ops[i].place,
               model__order_name((unsigned)ops[i].order), ops[i].value, ops[i].expected, model__order_name((unsigned)ops[i].failed));
}

static int random_order(int kind, unsigned strong)
{
    static const int loads[] = {__ATOMIC_RELAXED, __ATOMIC_ACQUIRE}, stores[] = {__ATOMIC_RELAXED, __ATOMIC_RELEASE};
    static const int fences[] = {__ATOMIC_ACQUIRE, __ATOMIC_RELEASE, __ATOMIC_ACQ_REL};
    static const int updates[] = {__ATOMIC_RELAXED, __ATOMIC_ACQUIRE, __ATOMIC_RELEASE, __ATOMIC_ACQ_REL};
    if (random_below(100) < strong)
        return __ATOMIC_SEQ_CST;
    return kind == LOAD ? loads[random_below(2)] : kind == STORE ? stores[random_below(2)] :
           kind == FENCE ? fences[random_below(3)] : updates[random_below(4)];
}

static void make_program(uint64_t seed)
{
    random_state = seed * 7919 + 17;
    random_below(2);
    threads = 2 + (int)random_below(2);
    ops_used = 5 + (int)random_below(OPS - 4);
    unsigned strong = random_below(3) * 45, places_used = 2 + random_below(PLACES - 1), fences = random_below(2) * 3;
    for (int i = 0; i < ops_used; i++) {
        struct op *op = &ops[i];
        op->thread = (int)random_below((unsigned)threads);
        op->kind = random_below(10) < fences ? FENCE : random_below(10) < 6 ? (int)random_below(2) : (int)random_below(5);
        op->place = (int)random_below(places_used);
        op->order = random_order(op->kind, fences && op->kind != FENCE ? strong / 9 : strong);
        op->failed = random_order(LOAD, strong);
        op->value = (uint32_t)i + 1;
        op->expected = random_below((unsigned)ops_used + 1);
    }
}

/* Explores ops. Returns the number of graphs. */
static int compare_one(uint64_t seed)
{
    int from[OPS];
    expected_used = found_used = 0;
    enumerate(0, from);
    struct model_result result = model_explore(NULL, setup, note_graph);
    qsort(expected_graphs, (size_t)expected_used, sizeof(uint64_t), by_value);
    qsort(found_graphs, (size_t)found_used, sizeof(uint64_t), by_value);
    bool same = result.outcome == MODEL_HOLDS && expected_used == found_used &&
                memcmp(expected_graphs, found_graphs, (size_t)found_used * sizeof(uint64_t)) == 0;
    if (!same)
        print_program(seed);
    CHECK(same);
    for (int i = 1; i < found_used; i++)
        CHECK(found_graphs[i] != found_graphs[i - 1]); /* each once */
    return found_used;
}

TEST(exactly_the_graphs_that_the_axioms_allow_are_found_once_each)
{
    const char *programs = getenv("MODEL_PROGRAMS"), *first = getenv("MODEL_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0, to = from + (programs ? strtoull(programs, NULL, 0) : 1000);
    long graphs = 0;
    for (uint64_t seed = from; seed < to; seed++) {
        make_program(seed);
        graphs += compare_one(seed);
    }
    printf("# %llu programs, %ld graphs\n", (unsigned long long)(to - from), graphs);
}

/* What chance would rarely find. {thread, kind, place, order, order if it fails, value} */
static const struct op rare[][OPS] = {
    /* sequentially consistent accesses on both sides of a release and an acquire elsewhere */
    {{0, STORE, 0, __ATOMIC_SEQ_CST, 0, 1, 0}, {0, STORE, 1, __ATOMIC_RELEASE, 0, 2, 0}, {1, LOAD, 1, __ATOMIC_ACQUIRE, 0, 3, 0},
     {1, LOAD, 2, __ATOMIC_SEQ_CST, 0, 4, 0}, {2, STORE, 2, __ATOMIC_SEQ_CST, 0, 5, 0}, {2, LOAD, 0, __ATOMIC_SEQ_CST, 0, 6, 0}},
    /* from fence to fence through a write by a third thread */
    {{0, STORE, 1, 0, 0, 1, 0}, {0, FENCE, 0, __ATOMIC_SEQ_CST, 0, 2, 0}, {0, STORE, 0, 0, 0, 3, 0}, {1, LOAD, 0, 0, 0, 4, 0},
     {1, FENCE, 0, __ATOMIC_SEQ_CST, 0, 5, 0}, {1, LOAD, 1, 0, 0, 6, 0}, {2, STORE, 0, 0, 0, 7, 0}},
    /* the same from an access to a fence, which orders nothing */
    {{0, STORE, 1, __ATOMIC_SEQ_CST, 0, 1, 0}, {0, STORE, 0, __ATOMIC_SEQ_CST, 0, 2, 0}, {1, LOAD, 0, 0, 0, 3, 0},
     {1, FENCE, 0, __ATOMIC_SEQ_CST, 0, 4, 0}, {1, LOAD, 1, 0, 0, 5, 0}, {2, STORE, 0, 0, 0, 6, 0}},
    /* independent reads of independent writes */
    {{0, STORE, 0, __ATOMIC_SEQ_CST, 0, 1, 0}, {1, STORE, 1, __ATOMIC_SEQ_CST, 0, 2, 0}, {2, LOAD, 0, __ATOMIC_ACQUIRE, 0, 3, 0},
     {2, LOAD, 1, __ATOMIC_SEQ_CST, 0, 4, 0}, {3, LOAD, 1, __ATOMIC_ACQUIRE, 0, 5, 0}, {3, LOAD, 0, __ATOMIC_SEQ_CST, 0, 6, 0}},
    /* updates all the way */
    {{0, EXCHANGE, 0, 0, 0, 1, 0}, {1, EXCHANGE, 0, 0, 0, 2, 0}, {2, EXCHANGE, 0, 0, 0, 3, 0}, {3, EXCHANGE, 0, 0, 0, 4, 0},
     {0, COMPARE, 0, 0, 0, 5, 3}, {1, LOAD, 0, 0, 0, 6, 0}},
};

TEST(and_so_with_those_that_chance_would_rarely_make)
{
    for (size_t i = 0; i < sizeof(rare) / sizeof(*rare); i++) {
        memcpy(ops, rare[i], sizeof(ops));
        threads = 0;
        for (ops_used = 0; ops_used < OPS && ops[ops_used].value != 0; ops_used++)
            threads = ops[ops_used].thread >= threads ? ops[ops_used].thread + 1 : threads;
        int graphs = compare_one(i);
        printf("# program %d: %d graphs\n", (int)i, graphs);
    }
}
