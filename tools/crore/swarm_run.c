/* The swarm itself. First `dials` coroutines open all connections; then each connection gets a coroutine of its own, which sends its
 * messages when they are due:
 *
 *     message k of connection i is due at   start + (k + i / connections) * period,   period = connections / rate
 *
 * so the load is even. One message is out at a time. A slow answer delays the messages behind it, and they count from when they were
 * due, not from when they were at last sent: the delay is in the figures (no coordinated omission).
 *
 * Payloads are a function of connection and message; nothing is kept to compare with, and no connection holds a buffer while it waits. */
#include "swarm.h"

#include <crore/crore.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

#include "tool.h"

#define MAX_MESSAGE_BYTES 65536
#define PER_SOURCE 4000 /* connections from one address: the kernel looks for a free port ever longer as the 28,000 fill up */
#define ANSWER_TIMEOUT_NS (30 * CR_SEC)
#define FIRST_RUN_NS (20 * CR_US) /* a stack and its first page, for each coroutine before the first message is due */
#define INTERVAL_NS (500 * CR_MS)

static struct {
    const struct swarm_options *options;
    struct swarm_result *result;
    void (*tick)(struct swarm_sample *, void *);
    void *arg;
    struct cr_conn **conns;       /* NULL where none could be opened */
    int64_t next_to_dial, open, active;
    int64_t begin_ns, start_ns, end_ns, period_ns, last_answer_ns;
    bool sending, giving_up;
    int bad_url;                  /* -errno */
    struct histogram interval;
    struct cr_conn *signals;
} run;

/* ---- Messages ----------------------------------------------------------------------------------------------- */

/* The payload of a message, in a buffer that all share: valid until the caller suspends. */
static const uint8_t *payload(int64_t connection, int64_t message)
{
    static uint8_t bytes[MAX_MESSAGE_BYTES + 8];
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
    run.result->received_bytes += got;
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
    int64_t deadline_ns = cr_after(ANSWER_TIMEOUT_NS);
    int r = send_message(conn, connection, message, deadline_ns);
    if (r < 0)
        return r;
    run.result->sent++;
    r = receive_message(conn, connection, message, deadline_ns);
    if (r < 0)
        return r;
    run.last_answer_ns = cr_now();
    int64_t latency_ns = run.last_answer_ns - due_ns;
    run.result->received++;
    run.result->wrong += r;
    run.result->late += run.period_ns > 0 && latency_ns > run.period_ns;
    histogram_add(&run.result->latency, latency_ns);
    histogram_add(&run.interval, latency_ns);
    return 0;
}

/* Waits, with nothing on the way, until a point in time. 0; -ECONNRESET if the peer ends the connection meanwhile, -EPROTO if it sends
 * something unasked; -errno. */
static int idle_until(struct cr_conn *conn, int64_t deadline_ns)
{
    struct cr_lent lent;
    ssize_t n = cr_recv_lend_until(conn, &lent, deadline_ns);
    if (n > 0) {
        run.result->wrong++;
        return -EPROTO;
    }
    return n == -ETIMEDOUT ? 0 : n == 0 ? -ECONNRESET : (int)n;
}

static int talk(struct cr_conn *conn, int64_t connection)
{
    int r = idle_until(conn, run.start_ns);
    for (int64_t message = 0; r == 0; message++) {
        int64_t due_ns = run.period_ns > 0 ? due_time(connection, message) : cr_now();
        if (due_ns >= run.end_ns)
            return 0;
        if (run.period_ns > 0)
            r = idle_until(conn, due_ns);
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
    run.open--;
}

static void connection_main(void *arg)
{
    int64_t connection = (int64_t)(intptr_t)arg;
    struct cr_conn *conn = run.conns[connection];
    int r = talk(conn, connection);
    if (r == 0)
        r = idle_until(conn, run.end_ns); /* held until all have ended: closing many takes time that is not the server's */
    if (r < 0) {
        drop(connection);
        if (r != -ECANCELED) {
            run.result->lost++;
            count_error(run.result->io_errors, r);
        }
    }
    run.active--;
}

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static int dial(int64_t connection, struct cr_conn **conn)
{
    char source[32];
    struct cr_conn_opts opts = {0};
    if (strncmp(run.options->url, "tcp://127.", 10) == 0) {
        int64_t address = 2 + connection / PER_SOURCE;
        snprintf(source, sizeof(source), "127.0.%d.%d", (int)(address / 250), (int)(address % 250));
        opts.source = source;
    }
    return cr_dial_until(conn, run.options->url, &opts, cr_after(ANSWER_TIMEOUT_NS));
}

static void dialer(void *unused)
{
    (void)unused;
    while (run.next_to_dial < run.options->connections && !run.giving_up) {
        int64_t connection = run.next_to_dial++;
        if (run.options->connect_rate > 0 &&
            cr_sleep_until(run.begin_ns + connection * CR_SEC / run.options->connect_rate) < 0)
            return;
        int r = dial(connection, &run.conns[connection]);
        if (r == 0) {
            run.open++;
            run.result->opened++;
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
        count_error(run.result->dial_errors, r);
        /* what will not get better by trying again, or never has worked */
        run.giving_up = r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -EADDRNOTAVAIL || run.result->opened == 0;
    }
}

static void open_all(void)
{
    struct cr_co *dialers[1024];
    int64_t count = run.options->dials < run.options->connections ? run.options->dials : run.options->connections;
    int64_t begun = 0;
    while (begun < count && cr_spawn(&dialers[begun], dialer, NULL, NULL) == 0)
        begun++;
    for (int64_t i = 0; i < begun; i++) {
        if (cr_join(dialers[i]) < 0)
            cr_detach(dialers[i]);
    }
}

/* ---- Watching ----------------------------------------------------------------------------------------------- */

static void take_sample(double interval_seconds)
{
    struct swarm_result *r = run.result;
    struct swarm_sample *more = realloc(r->samples, (size_t)(r->sample_count + 1) * sizeof(*more));
    if (!more)
        return;
    r->samples = more;
    struct swarm_sample *sample = &more[r->sample_count++];
    *sample = (struct swarm_sample){
        .seconds = (double)(cr_now() - run.begin_ns) / 1e9,
        .sending = run.sending,
        .open = run.open,
        .messages_per_second = (double)run.interval.count / interval_seconds,
        .p50_ns = histogram_quantile(&run.interval, 0.5),
        .p99_ns = histogram_quantile(&run.interval, 0.99),
        .max_ns = run.interval.max,
    };
    histogram_reset(&run.interval);
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

/* SIGINT or SIGTERM: everything ends now, and the table is printed. */
static void take_signals(void *unused)
{
    struct signalfd_siginfo info;
    (void)unused;
    if (cr_read(run.signals, &info, sizeof(info)) > 0) {
        run.result->interrupted = true;
        run.giving_up = true;
        cr_shutdown();
    }
}

/* ---- All of it ---------------------------------------------------------------------------------------------- */

static int spawn_connections(void)
{
    static const struct cr_attr attr = {.name = "connection", .stack_size_bytes = 16 << 10};
    for (int64_t i = 0; i < run.options->connections; i++) {
        if (!run.conns[i])
            continue;
        run.active++;
        int r = cr_spawn(NULL, connection_main, (void *)(intptr_t)i, &attr);
        if (r < 0) {
            run.active--;
            return r;
        }
    }
    return 0;
}

static void send_phase(void)
{
    run.start_ns = cr_now() + 50 * CR_MS + run.options->connections * FIRST_RUN_NS;
    run.end_ns = run.start_ns + run.options->duration_ns;
    run.period_ns = run.options->rate > 0 ? run.options->connections * CR_SEC / run.options->rate : 0;
    run.sending = true;
    if (spawn_connections() < 0)
        run.result->lost++;
    while (run.active > 0 && cr_sleep(10 * CR_MS) == 0)
        ;
    int64_t now_ns = cr_now(), stop_ns = now_ns < run.end_ns ? now_ns : run.end_ns > run.last_answer_ns ? run.end_ns : run.last_answer_ns;
    run.result->send_seconds = (double)(stop_ns - run.start_ns) / 1e9;
}

static void close_all(void)
{
    for (int64_t i = 0; i < run.options->connections && run.active == 0; i++)
        drop(i);
}

static void app(void *unused)
{
    sigset_t set;
    struct cr_co *watching;
    (void)unused;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    if (cr_conn_from_fd(&run.signals, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0 ||
        cr_go(take_signals, NULL) < 0 || cr_spawn(&watching, watcher, NULL, NULL) < 0)
        tool_fail("out of memory or of file descriptors");
    run.begin_ns = cr_now();
    open_all();
    run.result->open_seconds = (double)(cr_now() - run.begin_ns) / 1e9;
    if (run.open > 0 && !run.result->interrupted)
        send_phase();
    close_all();
    cr_close(run.signals);
    cr_cancel(watching);
    if (cr_join(watching) < 0)
        cr_detach(watching); /* interrupted */
}

int swarm_run(const struct swarm_options *options, struct swarm_result *result,
              void (*tick)(struct swarm_sample *, void *), void *arg)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    memset(result, 0, sizeof(*result));
    memset(&run, 0, sizeof(run));
    run.options = options;
    run.result = result;
    run.tick = tick;
    run.arg = arg;
    run.conns = calloc((size_t)options->connections, sizeof(struct cr_conn *));
    if (!run.conns)
        return -ENOMEM;
    static const struct cr_config config = {.workers = 1}; /* its sessions share what is not locked */
    int r = cr_run(app, NULL, &config);
    free(run.conns);
    return r < 0 ? r : run.bad_url;
}

bool swarm_good(const struct swarm_options *o, const struct swarm_result *r)
{
    return !r->interrupted && r->opened == o->connections && r->lost == 0 && r->wrong == 0 && r->received == r->sent;
}
