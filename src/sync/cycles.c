/* Cycles of coroutines each of which waits for a lock that the next one holds.
 *
 * Who is about to wait follows the holders: of the lock that it waits for, of the locks that these wait for, and so on, breadth first, since a lock may have many
 * readers; a way that leads back to it closes a cycle. Waiters behind a writer wait for the readers before that one just as well, so holders are all that need be followed.
 *
 * Invariants:
 *   1. Who is found to wait is pinned (park.h) until the walk is over. So all of the cycle is true at the same time, and the locks are there.
 *   2. One walk at a time, in one table.
 *   3. Nobody waits for a lock's own one-byte lock while he has pinned somebody: who has that may be about to wake the pinned one. It is tried; if it is
 *      taken, all are unpinned, and the walk begins anew.
 *   4. Two that close a cycle at the same moment have both begun to wait before they look (a fence lies between), so one of them at least sees it. The first one to
 *      see it has stopped waiting before the other one looks: one is refused, not both. */
#include "sync/sync.h"

#include <sched.h>

#include "obs/obs.h"

/* Found to wait, and, but for the first one, pinned. It holds what steps[before] waits for. */
struct step {
    struct cr__record *who;
    int before;
};

static _Atomic uint8_t walk_lock;
static struct step steps[CR__CYCLE_MAX];
static int found;

enum look { OPEN, CLOSED, AGAIN };

static bool is_among_them(const struct cr__record *record)
{
    for (int i = 0; i < found; i++) {
        if (steps[i].who == record)
            return true;
    }
    return false;
}

/* One that holds what steps[at] waits for. */
static enum look look_at_holder(struct cr__record *holder, int at)
{
    if (holder == steps[0].who)
        return at == 0 ? OPEN : CLOSED; /* at 0: it has been handed over to us meanwhile */
    if (!cr__waits_for_lock(holder) || found == CR__CYCLE_MAX)
        return OPEN;
    if (cr__park_pin(&holder->word, cr__waits_for(holder))) {
        steps[found++] = (struct step){holder, at};
        return OPEN;
    }
    return is_among_them(holder) ? OPEN : AGAIN; /* who makes a dump has pinned it, for a moment; or it waits no more */
}

static enum look look_at_mutex(const struct cr_mutex *m, int at)
{
    struct cr_co *owner = cr__mutex_owner(m);
    int before = found;
    enum look look = owner ? look_at_holder(cr__record_of(owner), at) : OPEN;
    if (found > before && cr__mutex_owner(m) != owner)
        cr__park_unpin(&steps[--found].who->word); /* it held it when we looked, but waits for another by now */
    return look;
}

static enum look look_at_rwlock(const struct cr__worker *w, struct cr_rwlock *l, int at)
{
    if (!w->alone && !cr__spin_try(cr__spin_of(&l->_spin)))
        return AGAIN;
    enum look look = l->_writer ? look_at_holder(cr__record_of(l->_writer), at) : OPEN;
    for (struct cr__hold *hold = l->_readers; hold && look == OPEN; hold = hold->next)
        look = look_at_holder(hold->who, at);
    cr__unlock((struct cr__worker *)w, cr__spin_of(&l->_spin));
    return look;
}

/* *last: the step whose lock `me` holds, if that closes a cycle. */
static enum look walk(const struct cr__worker *w, struct cr__record *me, int *last)
{
    enum look look = OPEN;
    steps[0] = (struct step){me, -1};
    found = 1;
    for (int at = 0; at < found && look == OPEN; at++) {
        void *object = (void *)steps[at].who->node.object;
        look = cr__waits_for(steps[at].who) == CR__WAIT_MUTEX ? look_at_mutex(object, at) : look_at_rwlock(w, object, at);
        *last = at;
    }
    return look;
}

/* ---- Telling ------------------------------------------------------------------------------------------------ */

/* One of a cycle, as it is told: what may be gone by then is copied. */
struct link {
    uint32_t id;
    char name[CR__NAME_BYTES];
    void (*entry)(void);
    enum cr__wait_kind kind;
    const void *wanted;
};

struct cycle {
    struct link *links; /* NULL: no memory */
    int length;
};

static struct cycle copy_cycle(int last)
{
    struct cycle cycle = {0};
    for (int at = last; at >= 0; at = steps[at].before)
        cycle.length++;
    cycle.links = cr__mem_alloc((size_t)cycle.length * sizeof(*cycle.links), CR__MEM_OTHER);
    int i = cycle.length;
    for (int at = last; cycle.links && at >= 0; at = steps[at].before) {
        const struct cr__record *who = steps[at].who;
        struct link *link = &cycle.links[--i];
        *link = (struct link){.id = who->co.id, .entry = who->co.entry, .kind = cr__waits_for(who), .wanted = (const void *)who->node.object};
        cr_name_get(&who->co, link->name, sizeof(link->name));
    }
    return cycle;
}

static const char *name_of(enum cr__wait_kind kind)
{
    return kind == CR__WAIT_MUTEX ? "mutex" : kind == CR__WAIT_READ_LOCK ? "to read at readers-writer lock" : "to write at readers-writer lock";
}

/* Takes its time: nothing is locked, nobody pinned. */
static void tell_cycle(struct cr__worker *w, struct cycle cycle)
{
    char function[128];
    int fd = w->sched->report_fd;
    cr__report(fd, "crore: deadlock: a cycle of coroutines, each of which waits for a lock that the next one holds\n");
    for (int i = 0; cycle.links && i < cycle.length; i++) {
        const struct link *link = &cycle.links[i];
        const char *quote = link->name[0] ? "\"" : "";
        cr__symbol_of((void *)link->entry, function, sizeof(function));
        cr__report(fd, "  coroutine %u%s%s%s%s in %s waits %s%s %p, held by coroutine %u\n", link->id, *quote ? " " : "", quote, link->name, quote,
                   function, link->kind == CR__WAIT_MUTEX ? "for " : "", name_of(link->kind), link->wanted, cycle.links[i + 1 == cycle.length ? 0 : i + 1].id);
    }
    cr__mem_free(cycle.links, (size_t)cycle.length * sizeof(*cycle.links), CR__MEM_OTHER);
}

bool cr__closes_cycle(struct cr__worker *w, struct cr__record *me, enum cr__manner manner)
{
    enum look look;
    bool over = false;
    struct cycle cycle = {0};
    do {
        int last;
        cr__spin_lock(&walk_lock);
        look = walk(w, me, &last);
        if (look == CLOSED) {
            cycle = copy_cycle(last);
            over = manner == CR__YIELDING && cr__park_abandon(&me->word, w->alone); /* now: the next one to look finds it open */
        }
        while (found > 1)
            cr__park_unpin(&steps[--found].who->word);
        cr__spin_unlock(&walk_lock);
        if (look == AGAIN)
            sched_yield();
    } while (look == AGAIN && cr__park_state(&me->word) == CR__WAITING);
    if (look == CLOSED)
        tell_cycle(w, cycle);
    return over;
}
