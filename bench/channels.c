/* Unbuffered channels: two coroutines that send a number to and fro, and one that selects among eight senders.
 *
 * channel-2: both may go on on either worker. channel-pinned-2: each stays on one of its own, so that every message
 * crosses from core to core. */
#include <crore/chan.h>
#include "runtime.h"

enum { ROUND_TRIPS = 20000, CHANNELS = 8, MESSAGES = 5000 };

static struct cr_chan *ping, *pong;

static struct cr_chan *new_channel(void)
{
    struct cr_chan *chan;
    bench_must(cr_chan_create(&chan, sizeof(int), 0), "cr_chan_create");
    return chan;
}

static void answer(void *unused)
{
    int value;
    (void)unused;
    for (int i = 0; i < ROUND_TRIPS; i++) {
        if (cr_chan_recv(ping, &value) != 0 || cr_chan_send(pong, &value) != 0)
            abort();
    }
}

static struct cr_co *spawn(void (*fn)(void *arg), void *arg)
{
    struct cr_attr attr = {.flags = CR_FPU_SHARED | CR_MIGRATABLE}; /* Go and Tokio keep no control words either */
    struct cr_co *co;
    bench_must(cr_spawn(&co, fn, arg, &attr), "cr_spawn");
    return co;
}

static void ask(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUND_TRIPS; i++) {
        int value;
        if (cr_chan_send(ping, &i) != 0 || cr_chan_recv(pong, &value) != 0 || value != i)
            abort();
    }
}

static void ping_pong(void)
{
    struct cr_co *answering = spawn(answer, NULL), *asking = spawn(ask, NULL);
    bench_must(cr_join(asking), "cr_join");
    bench_must(cr_join(answering), "cr_join");
}

static struct cr_co *spawn_on(unsigned worker, void (*fn)(void *arg))
{
    struct cr_attr attr = {.flags = CR_FPU_SHARED};
    struct cr_co *co;
    bench_must(cr_spawn_on(&co, worker, fn, NULL, &attr), "cr_spawn_on");
    return co;
}

static void ping_pong_across(void)
{
    struct cr_co *answering = spawn_on(1, answer), *asking = spawn_on(0, ask);
    bench_must(cr_join(asking), "cr_join");
    bench_must(cr_join(answering), "cr_join");
}

static void measure(void (*batch)(void))
{
    ping = new_channel();
    pong = new_channel();
    bench_batches(case_name, case_milliseconds, batch, 2.0 * ROUND_TRIPS);
    cr_chan_destroy(ping);
    cr_chan_destroy(pong);
}

static void measure_channel(void *unused)
{
    (void)unused;
    measure(ping_pong);
}

static void measure_pinned(void *unused)
{
    (void)unused;
    measure(ping_pong_across);
}

static void feed(void *to)
{
    int one = 1;
    for (int i = 0; i < MESSAGES; i++) {
        if (cr_chan_send(to, &one) != 0)
            abort();
    }
}

/* Each sender has to wait until it is chosen. */
static void select_among_all(void *unused)
{
    struct cr_case cases[CHANNELS];
    struct cr_co *senders[CHANNELS];
    int value, got = 0;
    (void)unused;
    for (int i = 0; i < CHANNELS; i++) {
        cases[i] = (struct cr_case){.op = CR_RECV, .chan = new_channel(), .item = &value};
        senders[i] = spawn(feed, cases[i].chan);
    }
    while (got < CHANNELS * MESSAGES) {
        if (cr_select(cases, CHANNELS) < 0)
            abort();
        got += value;
    }
    for (int i = 0; i < CHANNELS; i++) {
        bench_must(cr_join(senders[i]), "cr_join");
        cr_chan_destroy(cases[i].chan);
    }
}

static void selects(void)
{
    bench_must(cr_join(spawn(select_among_all, NULL)), "cr_join");
}

static void measure_select(void *unused)
{
    (void)unused;
    bench_batches(case_name, case_milliseconds, selects, (double)CHANNELS * MESSAGES);
}

static void run_channel(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_channel);
}

static void run_pinned(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_pinned);
}

static void run_select(const char *name, int milliseconds)
{
    bench_run(name, milliseconds, measure_select);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {{"channel-1", run_channel},       {"channel-2", run_channel},
                                              {"channel-pinned-2", run_pinned}, {"select-1", run_select},
                                              {"select-2", run_select},         {NULL, NULL}};
    return bench_main(argc, argv, cases);
}
