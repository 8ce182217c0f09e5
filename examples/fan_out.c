/* Fan-out and fan-in: numbers go through a channel to some workers, results come back through another, all within two seconds.
 *     fan_out [N]       sums up the lengths of the Collatz sequences of 1 to N, default 100000 */
#include <crore/crore.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKERS = 4 };

struct result {
    long first, count, steps; /* a batch of numbers, and the sum of their lengths */
};

struct pipeline {
    long last;
    struct cr_chan *batches, *results;
    struct cr_waitgroup working;
};

/* Feeds: sends what is to be done, and closes the channel behind it. */
static void produce(void *arg)
{
    struct pipeline *p = arg;
    for (long n = 1; n <= p->last; n += 1000) {
        struct result batch = {.first = n, .count = p->last - n < 999 ? p->last - n + 1 : 1000};
        if (cr_chan_send(p->batches, &batch) < 0)
            break; /* -ECANCELED: the deadline */
    }
    cr_chan_close(p->batches);
}

/* Works, until there is nothing left; on whichever processor is free. */
static void work(void *arg)
{
    struct pipeline *p = arg;
    struct result batch;
    while (cr_chan_recv(p->batches, &batch) == 0) {
        for (long i = 0; i < batch.count; i++) {
            for (long x = batch.first + i; x != 1; batch.steps++)
                x = x % 2 ? 3 * x + 1 : x / 2;
        }
        if (cr_chan_send(p->results, &batch) < 0)
            break;
    }
    cr_waitgroup_done(&p->working);
}

/* Closes the results when the last worker has ended. */
static void finish(void *arg)
{
    struct pipeline *p = arg;
    if (cr_waitgroup_wait(&p->working) == 0)
        cr_chan_close(p->results);
}

static void tick(void *arg)
{
    struct cr_chan *ticks = arg;
    while (cr_sleep(200 * CR_MS) == 0 && cr_chan_send(ticks, NULL) == 0)
        ;
}

/* Whichever comes first: a result, or the time to say how far it is. 0: all has come; or why not. */
static int collect(struct pipeline *p, struct cr_chan *ticks, long *sum)
{
    struct result result;
    long numbers = 0;
    for (;;) {
        struct cr_case cases[] = {{CR_RECV, p->results, &result, 0}, {CR_RECV, ticks, NULL, 0}};
        int which = cr_select(cases, 2);
        if (which < 0)
            return which; /* -ECANCELED: the scope's deadline bounds this wait, too */
        if (which == 1) {
            printf("%ld of %ld\n", numbers, p->last);
        } else if (cases[0].result < 0) {
            return 0; /* closed, and empty */
        } else {
            numbers += result.count;
            *sum += result.steps;
        }
    }
}

static void app(void *arg)
{
    struct pipeline p = {.last = *(long *)arg};
    struct cr_chan *ticks = NULL;
    struct cr_scope *scope;
    long sum = 0;
    if (cr_chan_create(&p.batches, sizeof(struct result), WORKERS) < 0 || cr_chan_create(&p.results, sizeof(struct result), 0) < 0 ||
        cr_chan_create(&ticks, 0, 0) < 0 || cr_scope_open(&scope, cr_after(2 * CR_SEC)) < 0)
        exit(1);
    bool begun = cr_scope_go(scope, produce, &p) == 0 && cr_scope_go(scope, tick, ticks) == 0;
    for (int i = 0; i < WORKERS && begun; i++) {
        cr_waitgroup_add(&p.working, 1);
        begun = cr_scope_go(scope, work, &p) == 0;
    }
    begun = begun && cr_scope_go(scope, finish, &p) == 0;
    int r = begun ? collect(&p, ticks, &sum) : -1;
    cr_scope_cancel(scope); /* tick never ends by itself */
    cr_scope_close(scope);  /* from here on nobody uses p */
    cr_chan_destroy(p.batches);
    cr_chan_destroy(p.results);
    cr_chan_destroy(ticks);
    printf(r == 0 ? "%ld steps\n" : "not done in time\n", sum);
}

int main(int argc, char **argv)
{
    long last = argc > 1 ? atol(argv[1]) : 100000;
    return cr_run(app, &last, NULL) < 0;
}
