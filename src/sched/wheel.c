#include "sched/wheel.h"

#include <string.h>

/* The first tick at whose beginning the deadline has come: rounded up, so that nothing fires early. */
static uint64_t tick_of_deadline(int64_t deadline_ns)
{
    const uint64_t last = ((uint64_t)1 << (6 * CR__WHEEL_LEVELS)) - 1;
    if (deadline_ns <= 0)
        return 0;
    uint64_t tick = ((uint64_t)deadline_ns + (1u << CR__TICK_SHIFT) - 1) >> CR__TICK_SHIFT;
    return tick < last ? tick : last;
}

static uint64_t tick_of_now(int64_t now_ns)
{
    return (uint64_t)now_ns >> CR__TICK_SHIFT;
}

void cr__wheel_init(struct cr__wheel *wheel, int64_t now_ns)
{
    memset(wheel, 0, sizeof(*wheel));
    wheel->tick = tick_of_now(now_ns) + 1;
}

/* Atomic: see cr__timer_armed. */
static inline void link_set(struct cr__timer *timer, struct cr__timer **link)
{
    __atomic_store_n(&timer->link, link, __ATOMIC_RELAXED);
}

static void insert(struct cr__wheel *wheel, struct cr__timer *timer)
{
    uint64_t tick = tick_of_deadline(timer->deadline_ns);
    if (tick < wheel->tick)
        tick = wheel->tick;
    uint64_t differs = tick ^ wheel->tick;
    unsigned level = differs ? cr__bits_highest(differs) / 6 : 0;
    unsigned slot = (unsigned)(tick >> (6 * level)) & (CR__WHEEL_SLOTS - 1);
    struct cr__timer **head = &wheel->slots[level][slot][wheel->turn++ % CR__WHEEL_CHAINS];
    timer->next = *head;
    link_set(timer, head);
    if (timer->next)
        link_set(timer->next, &timer->next);
    *head = timer;
    wheel->occupied[level] |= (uint64_t)1 << slot;
}

void cr__wheel_arm(struct cr__wheel *wheel, struct cr__timer *timer, int64_t deadline_ns)
{
    CR__ASSERT(!cr__timer_armed(timer));
    timer->deadline_ns = deadline_ns;
    insert(wheel, timer);
    wheel->armed++;
}

static void unlink_timer(struct cr__timer *timer)
{
    *timer->link = timer->next;
    if (timer->next)
        link_set(timer->next, timer->link);
    link_set(timer, NULL);
}

/* Leaves its slot's bit set where it was the last one there: the bit is a hint, mended when the slot's time comes. */
void cr__wheel_cancel(struct cr__wheel *wheel, struct cr__timer *timer)
{
    unlink_timer(timer);
    wheel->armed--;
}

static void spread(struct cr__wheel *wheel, struct cr__timer **slot)
{
    struct cr__timer *chains[CR__WHEEL_CHAINS];
    memcpy(chains, slot, sizeof(chains));
    memset(slot, 0, sizeof(chains));
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < CR__WHEEL_CHAINS; i++) {
            struct cr__timer *timer = chains[i];
            if (!timer)
                continue;
            any = true;
            chains[i] = timer->next;
            __builtin_prefetch(timer->next); /* its turn comes after the other chains' */
            insert(wheel, timer);
        }
    }
}

/* Spreads the slots of higher levels whose span begins with the wheel's tick. */
static void cascade(struct cr__wheel *wheel)
{
    for (unsigned level = 1; level < CR__WHEEL_LEVELS; level++) {
        if (wheel->tick & (((uint64_t)1 << (6 * level)) - 1))
            return; /* no span of this level, nor of a higher one, begins now */
        unsigned slot = (unsigned)(wheel->tick >> (6 * level)) & (CR__WHEEL_SLOTS - 1);
        wheel->occupied[level] &= ~((uint64_t)1 << slot);
        spread(wheel, wheel->slots[level][slot]);
    }
}

/* Fires a slot of level 0, and what is armed meanwhile and is due already. */
static void fire_slot(struct cr__wheel *wheel, struct cr__timer **slot, void (*fire)(struct cr__timer *, void *), void *arg)
{
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < CR__WHEEL_CHAINS; i++) {
            struct cr__timer *timer = slot[i];
            if (!timer)
                continue;
            any = true;
            __builtin_prefetch(timer->next);
            unlink_timer(timer);
            wheel->armed--;
            fire(timer, arg);
        }
    }
}

/* The next tick, from the wheel's on, at which a slot may have to be fired or spread; UINT64_MAX: none. */
static uint64_t next_tick(const struct cr__wheel *wheel)
{
    for (unsigned level = 0; level < CR__WHEEL_LEVELS; level++) {
        unsigned here = (unsigned)(wheel->tick >> (6 * level)) & (CR__WHEEL_SLOTS - 1);
        /* at level 0 the present slot counts; above, it was spread when its span began */
        uint64_t ahead = level == 0 ? wheel->occupied[0] >> here << here
                                    : (here == CR__WHEEL_SLOTS - 1 ? 0 : wheel->occupied[level] >> (here + 1) << (here + 1));
        if (!ahead)
            continue;
        uint64_t base = level + 1 < CR__WHEEL_LEVELS ? wheel->tick >> (6 * (level + 1)) << (6 * (level + 1)) : 0;
        return base | (uint64_t)cr__bits_lowest(ahead) << (6 * level);
    }
    return UINT64_MAX;
}

void cr__wheel_fire(struct cr__wheel *wheel, int64_t now_ns, void (*fire)(struct cr__timer *, void *), void *arg)
{
    uint64_t now = tick_of_now(now_ns);
    while (wheel->tick <= now) {
        uint64_t next = wheel->armed ? next_tick(wheel) : UINT64_MAX;
        if (next > now) {
            wheel->tick = now + 1;
            cascade(wheel); /* the new tick may begin a span whose slot is due */
            return;
        }
        if (next != wheel->tick) {
            wheel->tick = next;
            cascade(wheel);
        }
        unsigned slot = (unsigned)wheel->tick & (CR__WHEEL_SLOTS - 1);
        fire_slot(wheel, wheel->slots[0][slot], fire, arg);
        wheel->occupied[0] &= ~((uint64_t)1 << slot);
        wheel->tick++;
        cascade(wheel);
    }
}

int64_t cr__wheel_next(const struct cr__wheel *wheel, int64_t now_ns)
{
    if (!wheel->armed)
        return -1;
    uint64_t next = next_tick(wheel);
    CR__ASSERT(next != UINT64_MAX);
    int64_t at = next >> (63 - CR__TICK_SHIFT) ? INT64_MAX : (int64_t)(next << CR__TICK_SHIFT);
    return at > now_ns ? at - now_ns : 0;
}
