/* sched/runq.h with four slots: an owner that pushes and pops while thieves steal. Nobody gets lost, nobody is taken twice, and who takes one
 * sees what was written to it before it was pushed. */
#include "explorer.h"

#include "sched/runq.h"

#define COS 6
#define NEAR_WRAP (UINT16_MAX - 1) /* where the ends begin: they wrap in each test */

struct cr_co {
    int made;  /* plain: before it is pushed */
    int taken; /* plain: by who has it */
};

static struct cr__runq owned, stolen, stolen_again, other;
static struct cr_co cos[COS];
static int pushed;

static void reset(void)
{
    struct cr__runq *const rings[] = {&owned, &stolen, &stolen_again, &other};
    for (int i = 0; i < 4; i++) {
        uint16_t begin = (uint16_t)(NEAR_WRAP + i);
        rings[i]->ends = cr__runq_pack((struct cr__runq_ends){.oldest = begin, .next = begin, .version = UINT32_MAX - 2});
    }
    model_name(&owned.ends, "owned.ends");
    model_name(&stolen.ends, "stolen.ends");
    pushed = 0;
}

/* A new one. The owner's. */
static bool push_one(void)
{
    cos[pushed].made = pushed + 1;
    if (!cr__runq_push(&owned, &cos[pushed]))
        return false;
    pushed++;
    return true;
}

static void take(struct cr_co *co)
{
    model_assert(co->made == co - cos + 1);
    model_assert(co->taken == 0);
    co->taken = 1;
}

static bool pop_from(struct cr__runq *q)
{
    struct cr_co *co = cr__runq_pop(q);
    if (co)
        take(co);
    return co != NULL;
}

static void all_taken_once(void)
{
    while (pop_from(&owned) || pop_from(&stolen) || pop_from(&stolen_again) || pop_from(&other))
        ;
    for (int i = 0; i < pushed; i++)
        model_assert(cos[i].taken == 1);
}

/* ---- Threads ------------------------------------------------------------------------------------------------ */

static void push_two_pop_two(void *unused)
{
    (void)unused;
    model_assert(push_one() && push_one());
    pop_from(&owned);
    pop_from(&owned);
}

static void push_three_pop_one(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++)
        model_assert(push_one());
    pop_from(&owned);
}

static void push_pop_in_turns(void *unused)
{
    (void)unused;
    for (int i = 0; i < 2; i++) {
        model_assert(push_one() && push_one());
        pop_from(&owned);
    }
    pop_from(&owned);
}

/* More than fit at once: slots are used again, those first that a thief may be reading. */
static void fill_and_refill(void *unused)
{
    (void)unused;
    for (int i = 0; i < COS; i++)
        if (!push_one())
            return;
}

static void fill_and_make_room(void *unused)
{
    struct cr_co *some[CR__RUNQ_SLOTS / 2];
    (void)unused;
    push_one();
    push_one();
    unsigned n = cr__runq_pop_oldest(&owned, some, CR__RUNQ_SLOTS / 2);
    for (unsigned i = 0; i < n; i++)
        take(some[i]);
    push_one();
}

/* Both ends are where they were, and in the slot between them is another one. */
static void pop_and_push_another(void *unused)
{
    (void)unused;
    pop_from(&owned);
    push_one();
}

/* Into slots of its own from which thieves may still be reading. */
static void make_room_and_steal(void *unused)
{
    struct cr_co *some[2];
    (void)unused;
    unsigned n = cr__runq_pop_oldest(&owned, some, 2);
    for (unsigned i = 0; i < n; i++)
        take(some[i]);
    if (cr__runq_length(&owned) == 0)
        cr__runq_steal(&owned, &other);
}

static void steal(void *unused)
{
    (void)unused;
    unsigned n = cr__runq_steal(&stolen, &owned);
    model_assert(n == cr__runq_length(&stolen));
    for (; n > 0; n--)
        model_assert(pop_from(&stolen));
}

/* What it steals may be stolen from it. */
static void steal_and_keep(void *unused)
{
    (void)unused;
    cr__runq_steal(&stolen, &owned);
    pop_from(&stolen);
}

static void steal_from_the_thief(void *unused)
{
    (void)unused;
    cr__runq_steal(&stolen_again, &stolen);
    pop_from(&stolen_again);
}

static void steal_too(void *unused)
{
    (void)unused;
    cr__runq_steal(&stolen_again, &owned);
    pop_from(&stolen_again);
}

/* ---- Tests -------------------------------------------------------------------------------------------------- */

static void owner_and_thief(void)
{
    reset();
    model_thread(push_two_pop_two, NULL);
    model_thread(steal, NULL);
}

TEST(owner_and_thief_share_what_is_there)
{
    model_run(owner_and_thief, all_taken_once);
}

static void owner_and_two_thieves(void)
{
    reset();
    model_thread(push_three_pop_one, NULL);
    model_thread(steal, NULL);
    model_thread(steal_too, NULL);
}

TEST(two_thieves_do_not_take_the_same)
{
    model_run(owner_and_two_thieves, all_taken_once);
}

static void busy_owner_and_two_thieves(void)
{
    reset();
    model_thread(push_pop_in_turns, NULL);
    model_thread(steal, NULL);
    model_thread(steal_too, NULL);
}

TEST(two_thieves_and_an_owner_that_goes_on_do_not_take_the_same)
{
    model_run(busy_owner_and_two_thieves, all_taken_once);
}

static void refilled(void)
{
    reset();
    for (int i = 0; i < 2; i++)
        push_one();
    model_thread(fill_and_refill, NULL);
    model_thread(steal, NULL);
}

TEST(a_slot_is_not_filled_again_while_a_thief_reads_it)
{
    model_run(refilled, all_taken_once);
}

static void made_room(void)
{
    reset();
    push_one();
    push_one();
    model_thread(fill_and_make_room, NULL);
    model_thread(steal, NULL);
}

TEST(making_room_takes_what_no_thief_has)
{
    model_run(made_room, all_taken_once);
}

static void thief_of_a_thief(void)
{
    reset();
    push_one();
    push_one();
    model_thread(steal_and_keep, NULL);
    model_thread(steal_from_the_thief, NULL);
    model_thread(push_two_pop_two, NULL);
}

TEST(what_was_stolen_may_be_stolen_again)
{
    model_run(thief_of_a_thief, all_taken_once);
}

static void another_in_its_place(void)
{
    reset();
    push_one();
    model_thread(pop_and_push_another, NULL);
    model_thread(steal, NULL);
}

TEST(what_a_thief_has_copied_counts_only_if_nothing_has_changed)
{
    model_run(another_in_its_place, all_taken_once);
}

static void stealing_thief_is_stolen_from(void)
{
    reset();
    for (int i = 0; i < 4; i++)
        push_one();
    cos[pushed].made = pushed + 1;
    model_assert(cr__runq_push(&other, &cos[pushed]));
    pushed++;
    model_thread(make_room_and_steal, NULL);
    model_thread(steal, NULL);
}

TEST(stolen_ones_are_not_put_where_another_thief_reads)
{
    model_run(stealing_thief_is_stolen_from, all_taken_once);
}
