/* The memory of the program under test, as far as the explorer must know it.
 *
 * Plain accesses go to real memory, and atomic ones leave there the newest value that this execution has written so far. Threads
 * are run in an order that agrees with what happens before what, so a plain read finds what it must, unless there is a race; and that is found,
 * by the vector clocks of FastTrack (Flanagan and Freund, PLDI 2009), with all of the last accesses kept.
 *
 * Memory is reused: frames of functions, what was freed, a node that is initialised anew. A plain write to what has been accessed
 * atomically makes a new location of it, with a history of its own. All that was before must happen before (else there is a race), so each
 * thread counts the same.
 *
 * Not seen: what functions write that are not compiled with -fsanitize=thread, but for memcpy and the like (abi.c). */
#include "internal.h"

#include <stdlib.h>

/* The last accesses of one kind by one thread to some bytes of a cell. */
struct access {
    struct access *next;
    const void *pc;
    uint16_t stamp;  /* how many events the thread had before */
    uint8_t thread, bytes, kind;
};

/* An atomic object; in a cell, since none is larger or crosses one. */
struct atom {
    struct atom *next;
    const volatile void *addr;
    unsigned size;
    struct model__history history; /* valid while touched */
    uint32_t epoch;
    unsigned touched_in, epoch_in; /* number of the execution */
};

/* Eight bytes, aligned. */
struct cell {
    uintptr_t number;  /* address / 8 */
    unsigned run;      /* the execution in which accesses are valid */
    struct access *accesses;
    struct atom *atoms;
};

struct location {
    const volatile void *addr;
    uint32_t epoch, next; /* next: of the same hash */
};

struct undo {
    void *addr;
    uint64_t value;
    unsigned size;
};

#define CELLS (1u << 16)
#define ACCESSES 200000

static struct cell cells[CELLS];
static unsigned cells_used;
static struct access accesses[ACCESSES];
static unsigned accesses_used;
static unsigned run;
static struct location *locations;
static uint32_t locations_used, locations_room;
static uint32_t location_hash[CELLS];
static struct undo *undos;
static size_t undos_used, undos_room;

static void *grown(void *array, size_t used, size_t *room, size_t size)
{
    if (used < *room)
        return array;
    *room = *room ? 2 * *room : 1024;
    array = realloc(array, *room * size);
    if (!array)
        abort();
    return array;
}

void model__memory_init(void)
{
    if (!locations)
        locations_used = 1; /* 0 ends a chain */
    undos_used = 0;
    model__heap_init();
}

void model__memory_reset(void)
{
    while (undos_used > 0) {
        const struct undo *undo = &undos[--undos_used];
        __builtin_memcpy(undo->addr, &undo->value, undo->size);
    }
    accesses_used = 0;
    run++;
    model__heap_reset();
}

uint64_t model__peek(const volatile void *addr, unsigned size)
{
    uint64_t value = 0;
    __builtin_memcpy(&value, (const void *)(uintptr_t)addr, size);
    return value;
}

static void note(const volatile void *addr, size_t size)
{
    if (model__on_stack(addr)) /* of what is over by the next execution */
        return;
    for (size_t at = 0; at < size; at += 8) {
        undos = grown(undos, undos_used, &undos_room, sizeof(*undos));
        struct undo *undo = &undos[undos_used++];
        undo->addr = (char *)(uintptr_t)addr + at;
        undo->size = size - at < 8 ? (unsigned)(size - at) : 8;
        undo->value = model__peek(undo->addr, undo->size);
    }
}

void model__poke(volatile void *addr, unsigned size, uint64_t value)
{
    note(addr, size);
    __builtin_memcpy((void *)(uintptr_t)addr, &value, size);
}

static struct cell *cell_of(uintptr_t number)
{
    for (uintptr_t i = number * 0x9e3779b97f4a7c15u >> 48;; i++) {
        struct cell *cell = &cells[i % CELLS];
        if (cell->number == 0) {
            if (++cells_used > CELLS / 2) {
                fprintf(stderr, "model: the test touches too much memory\n");
                abort();
            }
            cell->number = number;
        }
        if (cell->number == number) {
            if (cell->run != run) {
                cell->run = run;
                cell->accesses = NULL;
            }
            return cell;
        }
    }
}

/* ---- Locations ---------------------------------------------------------------------------------------------- */

static uint32_t location_of(const volatile void *addr, uint32_t epoch)
{
    uint32_t *first = &location_hash[((uintptr_t)addr + 8191 * epoch) * 0x9e3779b97f4a7c15u >> 48];
    for (uint32_t i = *first; i; i = locations[i].next)
        if (locations[i].addr == addr && locations[i].epoch == epoch)
            return i;
    size_t room = locations_room;
    locations = grown(locations, locations_used, &room, sizeof(*locations));
    locations_room = (uint32_t)room;
    locations[locations_used] = (struct location){addr, epoch, *first};
    return *first = locations_used++;
}

const volatile void *model__location_addr(uint32_t location)
{
    return locations[location].addr;
}

struct model__history *model__touch(struct model__place place)
{
    struct cell *cell = cell_of((uintptr_t)place.addr / 8);
    struct atom *atom = cell->atoms;
    for (; atom; atom = atom->next) {
        if (atom->addr == place.addr && atom->size == place.size)
            break;
        uintptr_t start = (uintptr_t)place.addr, other = (uintptr_t)atom->addr;
        if (atom->touched_in == run && start < other + atom->size && other < start + place.size)
            model__fail(MODEL_MISUSE, "atomic accesses of different sizes to one location are not modelled");
    }
    if (!atom) {
        atom = calloc(1, sizeof(*atom));
        if (!atom)
            abort();
        atom->addr = place.addr;
        atom->size = place.size;
        atom->next = cell->atoms;
        cell->atoms = atom;
    }
    if (atom->epoch_in != run) {
        atom->epoch_in = run;
        atom->epoch = 0;
    }
    if (atom->touched_in != run) {
        atom->touched_in = run;
        atom->history.newest = MODEL_INITIAL;
        atom->history.initial = model__peek(place.addr, place.size);
        atom->history.location = location_of(place.addr, atom->epoch);
    }
    return &atom->history;
}

/* A plain write: what was accessed atomically there belongs to the past. */
static void forget(struct cell *cell, uintptr_t start, uintptr_t end)
{
    for (struct atom *atom = cell->atoms; atom; atom = atom->next) {
        uintptr_t addr = (uintptr_t)atom->addr;
        if (atom->touched_in == run && addr < end && start < addr + atom->size) {
            atom->epoch++;
            atom->touched_in = 0;
        }
    }
}

/* ---- Races -------------------------------------------------------------------------------------------------- */

static const char *const access_name[] = {"plain read", "plain write", "atomic read", "atomic write"};

static void race(const struct access *before, enum model__access access, const volatile void *addr, const void *pc)
{
    char name[128], first[64], second[64];
    struct model__line old = model__line(before->pc), new = model__line(pc);
    model__fail(MODEL_RACE, "data race on %s: %s by %s at %s (%s), and %s by %s at %s (%s)",
                model__addr_name(addr, name, sizeof(name)), access_name[before->kind],
                model__thread_name(before->thread, first, sizeof(first)), old.where, old.function, access_name[access],
                model__thread_name(model__run.current, second, sizeof(second)), new.where, new.function);
}

static void access_cell(struct cell *cell, uint8_t bytes, enum model__access access, const volatile void *addr, const void *pc)
{
    int me = model__run.current;
    const struct model__clock *now = model__now();
    struct access *mine = NULL;
    for (struct access *other = cell->accesses; other; other = other->next) {
        if (other->thread == me) {
            if (other->bytes == bytes && other->kind == access)
                mine = other;
        } else if ((other->bytes & bytes) && ((other->kind | access) & 1) && (other->kind < 2 || access < 2) &&
                   now->at[other->thread] <= other->stamp) {
            race(other, access, addr, pc);
        }
    }
    if (!mine) {
        if (accesses_used == ACCESSES)
            model__fail(MODEL_ENDLESS, "too many plain accesses");
        mine = &accesses[accesses_used++];
        mine->next = cell->accesses;
        mine->thread = (uint8_t)me;
        mine->bytes = bytes;
        mine->kind = (uint8_t)access;
        cell->accesses = mine;
    }
    mine->pc = pc;
    mine->stamp = me == MODEL_CHECKER ? 0 : (uint16_t)(model__run.threads[me].done - (access >= MODEL_ATOMIC_READ));
}

void model__access(const volatile void *addr, size_t size, enum model__access access, const void *pc)
{
    const char *wrong = model__heap_check(addr, size);
    if (wrong) {
        char name[64];
        struct model__line line = model__line(pc);
        model__fail(MODEL_MEMORY, "%s, %s by %s at %s (%s)", wrong, access_name[access],
                    model__thread_name(model__run.current, name, sizeof(name)), line.where, line.function);
    }
    if (access == MODEL_PLAIN_WRITE)
        note(addr, size);
    uintptr_t start = (uintptr_t)addr, end = start + size;
    for (uintptr_t number = start / 8; number * 8 < end; number++) {
        uintptr_t from = start > number * 8 ? start - number * 8 : 0, to = end < number * 8 + 8 ? end - number * 8 : 8;
        struct cell *cell = cell_of(number);
        if (!model__run.probing)
            access_cell(cell, (uint8_t)((1u << to) - (1u << from)), access, addr, pc);
        if (access == MODEL_PLAIN_WRITE)
            forget(cell, start, end);
    }
}
