/* The swarm itself. First `dials` coroutines open all connections; then each connection gets a coroutine of its own, which sends its
 * messages when they are due:
 *
 *     message k of connection i is due at   start + (k + i / connections) * period,   period = connections / rate
 *
 * so the load is even. One message is out at a time. A slow answer delays the messages behind it, and they count from when they were
 * due, not from when they were at last sent: the delay is in the figures (no coordinated omission).
 *
 * Connection i belongs to worker i % parts: it is opened, used and closed there, and counted in that worker's part, so nothing of what is done for each
 * message is shared. What is sampled is taken from each part by a coroutine on its worker; the parts are added when all have ended.
 *
 * Payloads are a function of connection and message; nothing is kept to compare with, and no connection holds a buffer while it waits. */
#include "swarm.h"

#include <crore/crore.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define MAX_MESSAGE_BYTES 65536
#define MAX_DIALS 1024
#define PER_SOURCE 4000 /* connections from one address: the kernel looks for a free port ever longer as the 28,000 fill up */
#define ANSWER_TIMEOUT_NS (30 * CR_SEC)
#define FIRST_RUN_NS (20 * CR_US) /* a stack and its first page, for each coroutine before the first message is due */
#define INTERVAL_NS (500 * CR_MS)

struct part {
    _Alignas(64) int64_t next_to_dial;
    _Atomic int64_t open, active, last_answer_ns; /* read by others */
    int64_t opened, lost, sent, received, late, received_bytes, wrong;
    int64_t dial_errors[SWARM_ERRNOS], io_errors[SWARM_ERRNOS];
    struct histogram latency, interval, sampled; /* sampled: what interval was when it was last looked at */
    struct cr_co *sampler;
    uint8_t payload[MAX_MESSAGE_BYTES + 8];
};

static struct {
    const struct swarm_options *options;
    struct cr_net *net; /* NULL: the kernel's */
    struct swarm_result *result;
    void (*tick)(struct swarm_sample *, void *);
    void *arg;
    struct cr_conn **conns;       /* NULL where none could be opened */
    struct part *parts;
    int64_t part_count;
    int64_t begin_ns, start_ns, end_ns, period_ns;
    bool sending;                 /* of the app and the watcher, which share a worker */
    _Atomic bool giving_up, interrupted;
    _Atomic int bad_url;          /* -errno */
    struct histogram interval;    /* of all parts */
} run;

static struct part *part_of(int64_t connection)
{
    return &run.parts[connection % run.part_count];
}

static int64_t open_count(void)
{
    int64_t count = 0;
    for (int64_t i = 0; i < run.part_count; i++)
        count += run.parts[i].open;
    return count;
}

static int64_t active_count(void)
{
    int64_t count = 0;
    for (int64_t i = 0; i < run.part_count; i++)
        count += run.parts[i].active;
    return count;
}

/* Runs fn(&part) on each part's worker, and waits until all have ended. False if not all could be begun, or the wait was cancelled. */
static bool on_each(void (*fn)(void *part))
{
    bool good = true;
    for (int64_t i = 0; i < run.part_count; i++) {
        run.parts[i].sampler = NULL;
        good &= cr_spawn_on(&run.parts[i].sampler, (unsigned)i, fn, &run.parts[i], NULL) == 0;
    }
    for (int64_t i = 0; i < run.part_count; i++) {
        if (run.parts[i].sampler && cr_join(run.parts[i].sampler) < 0) {
            cr_detach(run.parts[i].sampler);
            good = false;
        }
    }
    return good;
}

/* ---- Messages ----------------------------------------------------------------------------------------------- */

/* The payload of a message, in a buffer that all of a worker's connections share: valid until the caller suspends. */
static const uint8_t *payload(int64_t connection, int64_t message)
{
    uint8_t *bytes = part_of(connection)->payload;
    uint64_t x = (uint64_t)connection * 0x9e3779b97f4a7c15u ^ ((uint64_t)message + 1) * 0xbf58476d1ce4e5b9u;
    for (int64_t at = 0; at < run.options->size_bytes; at += 8) {
        x ^= x >> 30;
        x *= 0x94d049bb133111ebu;
        x ^= x >> 27;
        memcpy(bytes + at, &x, 8);
        x += 0x9e3779b97f4a7c15u;
    }
    return bytes;
}

/* Sends a whole message. 0 or -errno. */
static int send_message(struct cr_conn *conn, int64_t connection, int64_t message, int64_t deadline_ns)
{
    int64_t size = run.options->size_bytes, sent = 0;
    while (sent < size) {
        ssize_t n = cr_write_until(conn, payload(connection, message) + sent, (size_t)(size - sent), 0);
        if (n == -ETIMEDOUT)
            n = cr_wait_writable_until(conn, deadline_ns);
        if (n < 0)
            return (int)n;
        sent += n;
    }
    return 0;
}

/* Receives one, and compares it. 0, -errno, -ECONNRESET at the end of the stream, 1 if it was another. */
static int receive_message(struct cr_conn *conn, int64_t connection, int64_t message, int64_t deadline_ns)
{
    int64_t size = run.options->size_bytes, got = 0;
    int wrong = 0;
    while (got < size) {
        struct cr_lent lent;
        ssize_t n = cr_recv_lend_until(conn, &lent, deadline_ns);
        if (n <= 0)
            return n < 0 ? (int)n : -ECONNRESET;
        wrong |= n > size - got || memcmp(lent.bytes, payload(connection, message) + got, (size_t)n) != 0;
        cr_recv_return(conn, &lent);
        got += n;
    }
    part_of(connection)->received_bytes += got;
    return wrong;
}

/* ---- A connection ------------------------------------------------------------------------------------------- */

static int64_t due_time(int64_t connection, int64_t message)
{
    return run.start_ns + message * run.period_ns + (int64_t)((double)run.period_ns * (double)connection / (double)run.options->connections);
}

/* One message there and back. 0 or -errno. */
static int exchange(struct cr_conn *conn, int64_t connection, int64_t message, int64_t due_ns)
{
    struct part *part = part_of(connection);
    int64_t deadline_ns = cr_after(ANSWER_TIMEOUT_NS);
    int r = send_message(conn, connection, message, deadline_ns);
    if (r < 0)
        return r;
    part->sent++;
    r = receive_message(conn, connection, message, deadline_ns);
    if (r < 0)
        return r;
    int64_t now_ns = cr_now(), latency_ns = now_ns - due_ns;
    atomic_store_explicit(&part->last_answer_ns, now_ns, memory_order_relaxed);
    part->received++;
    part->wrong += r;
    part->late += run.period_ns > 0 && latency_ns > run.period_ns;
    histogram_add(&part->latency, latency_ns);
    histogram_add(&part->interval, latency_ns);
    return 0;
}

/* Waits, with nothing on the way, until a point in time. 0; -ECONNRESET if the peer ends the connection meanwhile, -EPROTO if it sends
 * something unasked; -errno. */
static int idle_until(struct cr_conn *conn, int64_t connection, int64_t deadline_ns)
{
    struct cr_lent lent;
    ssize_t n = cr_recv_lend_until(conn, &lent, deadline_ns);
    if (n > 0) {
        part_of(connection)->wrong++;
        return -EPROTO;
    }
    return n == -ETIMEDOUT ? 0 : n == 0 ? -ECONNRESET : (int)n;
}

static int talk(struct cr_conn *conn, int64_t connection)
{
    int r = idle_until(conn, connection, run.start_ns);
    for (int64_t message = 0; r == 0; message++) {
        int64_t due_ns = run.period_ns > 0 ? due_time(connection, message) : cr_now();
        if (due_ns >= run.end_ns)
            return 0;
        if (run.period_ns > 0)
            r = idle_until(conn, connection, due_ns);
        if (r == 0)
            r = exchange(conn, connection, message, due_ns);
    }
    return r;
}

static void count_error(int64_t *errors, int r)
{
    errors[-r < SWARM_ERRNOS ? -r : 0]++;
}

static void drop(int64_t connection)
{
    if (!run.conns[connection])
        return;
    cr_close_reset(run.conns[connection]); /* else TIME-WAIT keeps the port for a minute */
    run.conns[connection] = NULL;
    part_of(connection)->open--;
}

static void connection_main(void *arg)
{
    int64_t connection = (int64_t)(intptr_t)arg;
    struct cr_conn *conn = run.conns[connection];
    int r = talk(conn, connection);
    if (r == 0)
        r = idle_until(conn, connection, run.end_ns); /* held until all have ended: closing many takes time that is not the server's */
    if (r < 0) {
        drop(connection);
        if (r != -ECANCELED) {
            part_of(connection)->lost++;
            count_error(part_of(connection)->io_errors, r);
        }
    }
    part_of(connection)->active--;
}

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static int dial(int64_t connection, struct cr_conn **conn)
{
    char source[32];
    struct cr_conn_opts opts = {.net = run.net};
    if (!run.net && strncmp(run.options->url, "tcp://127.", 10) == 0) {
        int64_t address = 2 + connection / PER_SOURCE;
        snprintf(source, sizeof(source), "127.0.%d.%d", (int)(address / 250), (int)(address % 250));
        opts.source = source;
    }
    return cr_dial_until(conn, run.options->url, &opts, cr_after(ANSWER_TIMEOUT_NS));
}

static void dialer(void *arg)
{
    struct part *part = arg;
    while (part->next_to_dial < run.options->connections && !run.giving_up) {
        int64_t connection = part->next_to_dial;
        part->next_to_dial += run.part_count;
        if (run.options->connect_rate > 0 &&
            cr_sleep_until(run.begin_ns + connection * CR_SEC / run.options->connect_rate) < 0)
            return;
        int r = dial(connection, &run.conns[connection]);
        if (r == 0) {
            part->open++;
            part->opened++;
            continue;
        }
        run.conns[connection] = NULL;
        if (r == -ECANCELED)
            return;
        if (r == -EINVAL || r == -EPROTONOSUPPORT) {
            run.giving_up = true;
            run.bad_url = r;
            return;
        }
        count_error(part->dial_errors, r);
        /* what will not get better by trying again, or never has worked */
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -EADDRNOTAVAIL || part->opened == 0)
            run.giving_up = true;
    }
}

static void open_all(void)
{
    struct cr_co *dialers[MAX_DIALS];
    int64_t count = run.options->dials < run.options->connections ? run.options->dials : run.options->connections;
    int64_t begun = 0;
    for (int64_t i = 0; i < run.part_count; i++)
        run.parts[i].next_to_dial = i;
    while (begun < count && cr_spawn_on(&dialers[begun], (unsigned)(begun % run.part_count), dialer, part_of(begun), NULL) == 0)
        begun++;
    for (int64_t i = 0; i < begun; i++) {
        if (cr_join(dialers[i]) < 0)
            cr_detach(dialers[i]);
    }
}

/* ---- Watching ----------------------------------------------------------------------------------------------- */

static void sample_part(void *arg)
{
    struct part *part = arg;
    part->sampled = part->interval;
    histogram_reset(&part->interval);
}

static void take_sample(double interval_seconds)
{
    if (!on_each(sample_part))
        return;
    histogram_reset(&run.interval);
    for (int64_t i = 0; i < run.part_count; i++)
        histogram_merge(&run.interval, &run.parts[i].sampled);
    struct swarm_result *r = run.result;
    struct swarm_sample *more = realloc(r->samples, (size_t)(r->sample_count + 1) * sizeof(*more));
    if (!more)
        return;
    r->samples = more;
    struct swarm_sample *sample = &more[r->sample_count++];
    *sample = (struct swarm_sample){
        .seconds = (double)(cr_now() - run.begin_ns) / 1e9,
        .sending = run.sending,
        .open = open_count(),
        .messages_per_second = (double)run.interval.count / interval_seconds,
        .p50_ns = histogram_quantile(&run.interval, 0.5),
        .p99_ns = histogram_quantile(&run.interval, 0.99),
        .max_ns = run.interval.max,
    };
    if (run.tick)
        run.tick(sample, run.arg);
}

static void watcher(void *unused)
{
    (void)unused;
    int64_t last_ns = cr_now();
    while (cr_sleep_until(last_ns + INTERVAL_NS) == 0) {
        int64_t now_ns = cr_now();
        if (run.sending && now_ns > run.end_ns)
            return; /* connections are being closed */
        take_sample((double)(now_ns - last_ns) / 1e9);
        last_ns = now_ns;
    }
}

static sigset_t ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

/* SIGINT or SIGTERM: everything ends now, and the table is printed. */
static void take_signals(void *unused)
{
    sigset_t set = ending_signals();
    (void)unused;
    if (cr_signal_wait(&set, NULL) > 0) {
        run.interrupted = true;
        run.giving_up = true;
        cr_shutdown();
    }
}

/* ---- All of it ---------------------------------------------------------------------------------------------- */

static void spawn_connections(void *arg)
{
    static const struct cr_attr attr = {.name = "connection", .stack_size_bytes = 16 << 10};
    struct part *part = arg;
    int here = cr_worker_index();
    for (int64_t i = part - run.parts; i < run.options->connections; i += run.part_count) {
        if (!run.conns[i])
            continue;
        part->active++;
        if (cr_spawn_on(NULL, (unsigned)here, connection_main, (void *)(intptr_t)i, &attr) < 0) {
            part->active--;
            part->lost++;
            return;
        }
    }
}

static int64_t last_answer_ns(void)
{
    int64_t last_ns = 0;
    for (int64_t i = 0; i < run.part_count; i++) {
        int64_t ns = run.parts[i].last_answer_ns;
        last_ns = ns > last_ns ? ns : last_ns;
    }
    return last_ns;
}

static void send_phase(void)
{
    run.start_ns = cr_now() + 50 * CR_MS + run.options->connections * FIRST_RUN_NS;
    run.end_ns = run.start_ns + run.options->duration_ns;
    run.period_ns = run.options->rate > 0 ? run.options->connections * CR_SEC / run.options->rate : 0;
    run.sending = true;
    on_each(spawn_connections);
    while (active_count() > 0 && cr_sleep(10 * CR_MS) == 0)
        ;
    int64_t now_ns = cr_now(), answer_ns = last_answer_ns();
    int64_t stop_ns = now_ns < run.end_ns ? now_ns : run.end_ns > answer_ns ? run.end_ns : answer_ns;
    run.result->send_seconds = (double)(stop_ns - run.start_ns) / 1e9;
}

static void close_part(void *arg)
{
    struct part *part = arg;
    for (int64_t i = part - run.parts; i < run.options->connections && part->active == 0; i += run.part_count)
        drop(i);
}

/* What a runtime that is being cancelled spawns waits in vain, but runs: closing does not wait. */
static void app(void *unused)
{
    struct cr_co *watching, *signals;
    unsigned here = (unsigned)cr_worker_index();
    (void)unused;
    if (run.options->net)
        setenv("CR_NET_CONTROL", "1", 0); /* for `crore net` */
    int r = run.options->net ? cr_net_open(&run.net, run.options->net) : 0;
    if (r < 0)
        tool_fail("--net %s: %s", run.options->net, strerror(-r));
    if (cr_spawn(&signals, take_signals, NULL, NULL) < 0 || cr_spawn_on(&watching, here, watcher, NULL, NULL) < 0)
        tool_fail("out of memory");
    run.begin_ns = cr_now();
    open_all();
    run.result->open_seconds = (double)(cr_now() - run.begin_ns) / 1e9;
    if (open_count() > 0 && !run.interrupted)
        send_phase();
    on_each(close_part);
    cr_cancel(signals);
    cr_detach(signals);
    cr_cancel(watching);
    if (cr_join(watching) < 0)
        cr_detach(watching); /* interrupted */
    cr_net_close(run.net); /* a link may have a coroutine of its own, which would keep the runtime */
}

static void add_parts(void)
{
    struct swarm_result *r = run.result;
    for (int64_t i = 0; i < run.part_count; i++) {
        const struct part *part = &run.parts[i];
        r->opened += part->opened;
        r->lost += part->lost;
        r->sent += part->sent;
        r->received += part->received;
        r->late += part->late;
        r->received_bytes += part->received_bytes;
        r->wrong += part->wrong;
        for (int e = 0; e < SWARM_ERRNOS; e++) {
            r->dial_errors[e] += part->dial_errors[e];
            r->io_errors[e] += part->io_errors[e];
        }
        histogram_merge(&r->latency, &part->latency);
    }
    r->interrupted = run.interrupted;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int swarm_run(const struct swarm_options *options, struct swarm_result *result,
              void (*tick)(struct swarm_sample *, void *), void *arg)
{
    sigset_t set = ending_signals();
    sigprocmask(SIG_BLOCK, &set, NULL);
    memset(result, 0, sizeof(*result));
    memset(&run, 0, sizeof(run));
    run.options = options;
    run.result = result;
    run.tick = tick;
    run.arg = arg;
    run.part_count = least(options->workers, least(options->connections, options->dials));
    size_t parts_bytes = (size_t)run.part_count * sizeof(struct part);
    run.conns = calloc((size_t)options->connections, sizeof(struct cr_conn *));
    run.parts = aligned_alloc(_Alignof(struct part), parts_bytes);
    int r = -ENOMEM;
    if (run.conns && run.parts) {
        memset(run.parts, 0, parts_bytes);
        r = cr_run(app, NULL, &(struct cr_config){.workers = (unsigned)run.part_count});
        add_parts();
    }
    free(run.conns);
    free(run.parts);
    return r < 0 ? r : run.bad_url;
}

bool swarm_good(const struct swarm_options *o, const struct swarm_result *r)
{
    return !r->interrupted && r->opened == o->connections && r->lost == 0 && r->wrong == 0 && r->received == r->sent;
}
