/* sched/injection.h: each batch is taken once, whole, in the order in which it was put, with what was written to it; the look without the lock
 * loses none for ever. */
#include "explorer.h"

#include "sched/injection.h"

#define BATCHES 4
#define SIZE 2

static struct cr__injection injection;
static struct cr__record records[BATCHES][SIZE]; /* the last one of an even batch is not used */
static int payload[BATCHES];                     /* plain: before it is put */
static int takers[BATCHES];                      /* plain: of whoever takes it */
static _Atomic int taken;
static int wanted;

/* The real one, which has a loop, is tested in park_test.c. */
void cr__spin_wait(_Atomic uint8_t *lock)
{
    (void)lock;
    model_spin();
}

static int size_of(int batch)
{
    return batch % 2 ? SIZE : 1;
}

static void put(int batch)
{
    for (int i = 0; i < size_of(batch); i++)
        records[batch][i].co.next = i + 1 < size_of(batch) ? &records[batch][i + 1].co : NULL;
    payload[batch] = batch + 1;
    cr__injection_put(&injection, &records[batch][0]);
}

/* Its number, -1: none. */
static int take(void)
{
    struct cr__record *first = cr__injection_take(&injection);
    if (!first)
        return -1;
    int batch = (int)(first - &records[0][0]) / SIZE, n = 0;
    model_assert(first == &records[batch][0] && payload[batch] == batch + 1 && takers[batch]++ == 0);
    for (struct cr_co *co = &first->co; co; co = co->next)
        model_assert(co == &records[batch][n++].co);
    model_assert(n == size_of(batch));
    return batch;
}

static void put_one(void *which)
{
    put((int)(intptr_t)which);
}

static void put_two(void *which)
{
    put((int)(intptr_t)which);
    put((int)(intptr_t)which + 1);
}

/* Until all are taken, by whomever. 0 comes before 1, always, and 2 before 3. */
static void take_all(void *unused)
{
    int before[2] = {-1, -1};
    (void)unused;
    while (atomic_load_explicit(&taken, memory_order_relaxed) < wanted) {
        int batch = take();
        if (batch < 0) {
            model_spin();
            continue;
        }
        model_assert(batch > before[batch / 2]);
        before[batch / 2] = batch;
        atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed);
    }
}

/* Puts what others may take, and takes as many: what it has put itself it doesn't miss. */
static void put_and_take(void *which)
{
    put((int)(intptr_t)which);
    model_assert(take() >= 0);
}

static void empty(void)
{
    for (int i = 0; i < BATCHES; i++)
        model_assert(takers[i] == (payload[i] > 0));
    model_assert(take() == -1 && injection.batches == 0 && !injection.first && injection.lock == 0);
}

static void names(int n)
{
    wanted = n;
    model_name(&injection.lock, "lock");
    model_name(&injection.batches, "batches");
}

static void two_producers(void)
{
    names(2);
    model_thread(put_one, (void *)1);
    model_thread(put_one, (void *)2);
    model_thread(take_all, NULL);
}

TEST(each_batch_arrives_whole)
{
    model_run(two_producers, empty);
}

static void two_producers_of_three(void)
{
    names(3);
    model_thread(put_two, (void *)0);
    model_thread(put_one, (void *)2);
    model_thread(take_all, NULL);
}

TEST(in_the_order_in_which_they_were_put)
{
    model_run(two_producers_of_three, empty);
}

static void two_consumers(void)
{
    names(2);
    model_thread(put_two, (void *)0);
    model_thread(take_all, NULL);
    model_thread(take_all, NULL);
}

TEST(and_once)
{
    model_run(two_consumers, empty);
}

static void all_do_both(void)
{
    names(3);
    for (int i = 0; i < 3; i++)
        model_thread(put_and_take, (void *)(intptr_t)i);
}

TEST(as_many_as_were_put_are_found_by_who_put_them)
{
    model_run(all_do_both, empty);
}

/* One look only, at any time: what it misses is there afterwards, in order. */
static void look_once(void *unused)
{
    (void)unused;
    (void)take();
}

static void a_look(void)
{
    names(2);
    model_thread(put_two, (void *)0);
    model_thread(look_once, NULL);
}

static void the_rest_is_there(void)
{
    for (int i = 0; i < wanted; i++)
        model_assert(takers[i] || take() == i);
    empty();
}

TEST(what_a_look_has_missed_is_there_afterwards)
{
    model_run(a_look, the_rest_is_there);
}
