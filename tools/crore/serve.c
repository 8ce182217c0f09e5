/* `crore serve`: options, sessions, when to accept, signals, draining. What is said on a connection is in http.c. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tool.h"

#define MOST_RESERVED_FILES 16
#define MOST_URLS 16

struct serve_options serve_options = {
    .dir_fd = -1,
    .max_header_bytes = 8 << 10,
    .max_body_bytes = 1 << 20,
    .max_connections = 1000000,
    .header_timeout_ns = 10 * CR_SEC,
    .idle_timeout_ns = 60 * CR_SEC,
    .write_timeout_ns = 60 * CR_SEC,
    .drain_timeout_ns = 10 * CR_SEC,
    .cpu = -1,
};
_Atomic bool serve_draining;

static struct serve_worker *workers;
static struct cr_net *net; /* NULL: the kernel's */
static int worker_count;
static _Atomic(struct cr_server *) servers[MOST_URLS];
static _Atomic int64_t session_count; /* that have begun, those that wait for their turn included */
static int64_t high_files;            /* fds from this number on are for files */
static struct cr_sem turns;           /* for sessions beyond --max-connections */

/* ---- Sessions ----------------------------------------------------------------------------------------------- */

static void session_add(struct session *s)
{
    struct serve_worker *w = s->worker;
    s->next = w->sessions;
    s->link = &w->sessions;
    if (w->sessions)
        w->sessions->link = &s->next;
    w->sessions = s;
    atomic_fetch_add(&w->served, 1);
}

static void session_end(struct session *s)
{
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    if (!s->taken)
        cr_close(s->conn);
    free(s);
}

/* Each listener may have accepted one more than --max-connections, having looked before another one accepted: such sessions wait here until others have
 * ended, so no more than that are served. False when there is nothing to be begun any more. */
static bool turn_begins(struct session *s)
{
    if (atomic_fetch_add(&session_count, 1) < serve_options.max_connections)
        return true;
    s->idle = true;
    int r = cr_sem_wait(&turns);
    s->idle = false;
    return r == 0 && !s->taken;
}

static void turn_ends(void)
{
    if (atomic_fetch_sub(&session_count, 1) > serve_options.max_connections)
        cr_sem_post(&turns, 1);
}

static void echo(struct session *s)
{
    struct cr_lent data;
    s->idle = !serve_draining;
    while (s->idle && cr_recv_lend(s->conn, &data) > 0) {
        if (cr_write_all(s->conn, data.bytes, data.size_bytes) < 0)
            break;
        cr_recv_return(s->conn, &data);
    }
}

static void session_main(struct cr_conn *conn, void *unused)
{
    (void)unused;
    struct session *s = calloc(1, sizeof(*s));
    if (!s) {
        cr_close(conn);
        return;
    }
    s->conn = conn;
    s->worker = &workers[cr_worker_index()];
    session_add(s);
    if (turn_begins(s)) {
        if (serve_options.echo)
            echo(s);
        else
            http_serve(s);
    }
    turn_ends();
    session_end(s);
}

/* ---- Accepting ---------------------------------------------------------------------------------------------- */

/* Accepted, and not yet done with; more than have begun. */
static int64_t accepted_count(void)
{
    int64_t count = 0;
    for (int i = 0; i < serve_options.url_count; i++) {
        struct cr_server *server = atomic_load(&servers[i]);
        count += server ? cr_server_sessions(server) : 0;
    }
    return count;
}

/* More than the runtime and its listeners have. */
static int64_t own_files(void)
{
    return 64 + (8 + serve_options.url_count) * worker_count;
}

/* Why no further connection is to be accepted now, or 0. Numbers of fds are handed out from the lowest free one, so a high one tells that few are left;
 * those are for the files that the open connections ask for. As long as it could not be high (a connection has a folder and a file open at most), nobody looks. */
static int full(void *unused)
{
    (void)unused;
    int64_t accepted = accepted_count();
    if (accepted >= serve_options.max_connections)
        return -EUSERS;
    if (3 * accepted + own_files() < high_files)
        return 0;
    int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    int error = lowest < 0 ? errno : 0;
    if (lowest >= 0)
        syscall(SYS_close, lowest); /* as the library closes: ThreadSanitizer, which sees libc's calls only, would take numbers that are used anew for races */
    return lowest >= high_files || error == EMFILE ? -EMFILE : 0;
}

/* The listeners of all workers are as one here: told when the first pauses, and when the last goes on. */
static void paused(void *unused, int why)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int count;
    (void)unused;
    pthread_mutex_lock(&lock);
    bool first = why < 0 && count++ == 0, last = why == 0 && --count == 0;
    if (first && !serve_options.quiet)
        fprintf(stderr, "crore: accepting pauses: %s\n", why == -EUSERS ? "--max-connections reached" : strerror(-why));
    if (last && !serve_options.quiet)
        fprintf(stderr, "crore: accepting resumes\n");
    pthread_mutex_unlock(&lock);
}

/* ---- Ending ------------------------------------------------------------------------------------------------- */

static _Atomic bool stopped;

/* Apart, since it waits for each acceptor, whatever a worker is busy with. */
static void stop_servers(void *unused)
{
    (void)unused;
    for (int i = 0; i < serve_options.url_count; i++)
        cr_server_stop(servers[i]);
    stopped = true;
}

/* On that worker. Sessions that begin later see that all ends. */
static void close_idle(void *worker)
{
    for (struct session *s = ((struct serve_worker *)worker)->sessions; s; s = s->next) {
        if (s->idle && !s->taken) {
            s->taken = true;
            cr_close(s->conn); /* its coroutine finds that out */
        }
    }
}

static void say_what_was_served(void)
{
    int64_t sum = 0;
    for (int i = 0; i < worker_count; i++)
        sum += workers[i].served;
    printf("crore: served %lld connections", (long long)sum);
    for (int i = 0; i < worker_count && worker_count > 1; i++)
        printf("%s%lld", i ? ", " : ", by worker: ", (long long)workers[i].served);
    printf("\n");
}

static void drain(void *unused)
{
    (void)unused;
    int64_t deadline_ns = cr_after(serve_options.drain_timeout_ns);
    serve_draining = true;
    bool begun = cr_go(stop_servers, NULL) == 0;
    for (int i = 0; i < worker_count; i++)
        begun &= cr_go_on((unsigned)i, close_idle, &workers[i]) == 0;
    cr_sem_post(&turns, UINT_MAX / 2); /* whoever waits for its turn ends */
    while (begun && (!stopped || accepted_count() > 0) && cr_now() < deadline_ns)
        cr_sleep(5 * CR_MS);
    int64_t left = accepted_count();
    if (left > 0)
        fprintf(stderr, "crore: %lld connections were still busy after the drain timeout\n", (long long)left);
    http_log_flush();
    if (!serve_options.quiet)
        say_what_was_served();
    cr_net_close(net); /* what has been closed says so to its peer */
    exit(0);
}

static sigset_t ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}

/* The first signal drains, a second one ends at once. */
static void take_signals(void *unused)
{
    sigset_t set = ending_signals();
    (void)unused;
    if (cr_signal_wait(&set, NULL) > 0 && cr_go(drain, NULL) == 0 && cr_signal_wait(&set, NULL) > 0)
        _exit(1);
}

static void flush_log(void *unused)
{
    (void)unused;
    while (cr_sleep(CR_SEC) == 0)
        http_log_flush();
}

/* ---- Beginning ---------------------------------------------------------------------------------------------- */

static void fail_listen(const char *url, int r)
{
    switch (-r) {
    case EPROTONOSUPPORT:
        tool_fail("--listen %s: unknown kind of URL; tcp://HOST:PORT and unix:/PATH are known", url);
    case EINVAL:
        tool_fail("--listen %s: not a URL such as tcp://127.0.0.1:8080 or unix:/run/crore.sock", url);
    case EADDRINUSE:
        tool_fail("--listen %s: somebody listens there already", url);
    default:
        tool_fail("--listen %s: %s", url, strerror(-r));
    }
}

static void serve_url(int i)
{
    static const struct cr_attr attr = {.name = "session"};
    struct cr_serve_opts opts = {.conn.net = net, .attr = &attr, .placement = serve_options.placement, .full = full, .paused = paused};
    struct cr_server *server;
    char url[160];
    int r = cr_serve(&server, serve_options.urls[i], session_main, NULL, &opts);
    if (r < 0)
        fail_listen(serve_options.urls[i], r);
    atomic_store(&servers[i], server);
    if (!serve_options.quiet && cr_server_url(server, url, sizeof(url)) > 0)
        printf("crore: serving %s on %s\n", serve_options.echo ? "echo" : serve_options.dir ? serve_options.dir : "--return", url);
}

static void app(void *unused)
{
    (void)unused;
    worker_count = cr_worker_count();
    workers = aligned_alloc(_Alignof(struct serve_worker), (size_t)worker_count * sizeof(*workers));
    if (!workers)
        tool_fail("out of memory");
    memset(workers, 0, (size_t)worker_count * sizeof(*workers));
    if (serve_options.net)
        setenv("CR_NET_CONTROL", "1", 0); /* for `crore net` */
    int r = serve_options.net ? cr_net_open(&net, serve_options.net) : 0;
    if (r < 0)
        tool_fail("--net %s: %s", serve_options.net, strerror(-r));
    for (int i = 0; i < serve_options.url_count; i++)
        serve_url(i);
    fflush(stdout);
    if (cr_go(take_signals, NULL) < 0 || (serve_options.access_log && cr_go(flush_log, NULL) < 0))
        tool_fail("out of memory");
}

static void help(void)
{
    printf("usage: crore serve [OPTION ...] DIR\n"
           "       crore serve [OPTION ...] --echo | --return TEXT\n\n"
           "Serves the files below DIR by HTTP/1.1; or sends back what it receives; or answers TEXT.\n\n"
           "  --listen URL            tcp://HOST:PORT or unix:/PATH; up to 16 times (tcp://127.0.0.1:8080)\n"
           "  --access-log FILE       combined format; - is standard output (none)\n"
           "  --follow-symlinks       also those that lead out of DIR\n"
           "  --max-connections N     accepting pauses there (1000000)\n"
           "  --max-header-bytes N    larger request heads get 431 (8k)\n"
           "  --max-body-bytes N      larger request bodies get 413 (1M)\n"
           "  --header-timeout T      a request's head must be complete by then, else 408 (10s)\n"
           "  --idle-timeout T        a connection without a request is closed (60s)\n"
           "  --write-timeout T       a client that does not take its response is closed (60s)\n"
           "  --drain-timeout T       on SIGTERM or SIGINT, what has begun may take as long (10s)\n"
           "  --workers N             threads that serve (one for each processor; with --cpu one)\n"
           "  --placement WHERE       a connection is served by the worker that has accepted it, or by an idle one: any;\n"
           "                          by the one that has accepted it: here; by the one with the fewest: least-loaded\n"
           "  --net SPEC              over a TCP/IP stack of its own: a link and addresses, as in crore/net.h, such as\n"
           "                          \"shm:/run/link addr=10.0.0.2/24\"; with one worker, and --listen tcp://:80 by default\n"
           "  --cpu N                 run on that processor only\n"
           "  --quiet                 say nothing but errors\n"
           "  --help\n");
}

enum { OPT_LISTEN = 256, OPT_LOG, OPT_FOLLOW, OPT_CONNECTIONS, OPT_HEADER, OPT_BODY, OPT_HEADER_T, OPT_IDLE_T, OPT_WRITE_T,
       OPT_DRAIN_T, OPT_WORKERS, OPT_PLACEMENT, OPT_CPU, OPT_QUIET, OPT_ECHO, OPT_RETURN, OPT_NET, OPT_HELP };

static const struct option long_options[] = {
    {"listen", 1, NULL, OPT_LISTEN},           {"access-log", 1, NULL, OPT_LOG},
    {"follow-symlinks", 0, NULL, OPT_FOLLOW},  {"max-connections", 1, NULL, OPT_CONNECTIONS},
    {"max-header-bytes", 1, NULL, OPT_HEADER}, {"max-body-bytes", 1, NULL, OPT_BODY},
    {"header-timeout", 1, NULL, OPT_HEADER_T}, {"idle-timeout", 1, NULL, OPT_IDLE_T},
    {"write-timeout", 1, NULL, OPT_WRITE_T},   {"drain-timeout", 1, NULL, OPT_DRAIN_T},
    {"workers", 1, NULL, OPT_WORKERS},         {"placement", 1, NULL, OPT_PLACEMENT},
    {"cpu", 1, NULL, OPT_CPU},                 {"quiet", 0, NULL, OPT_QUIET},
    {"echo", 0, NULL, OPT_ECHO},               {"return", 1, NULL, OPT_RETURN},
    {"net", 1, NULL, OPT_NET},
    {"help", 0, NULL, OPT_HELP},               {NULL, 0, NULL, 0},
};

static enum cr_placement placement(const char *name)
{
    static const char *const names[] = {[CR_PLACE_DEFAULT] = "any", [CR_PLACE_HERE] = "here", [CR_PLACE_LEAST_LOADED] = "least-loaded"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum cr_placement)i;
    }
    tool_fail("--placement: '%s' is neither any, here nor least-loaded", name);
}

static void take_option(int option, char **argv)
{
    struct serve_options *o = &serve_options;
    switch (option) {
    case OPT_LISTEN:
        if (o->url_count == MOST_URLS)
            tool_fail("--listen: at most 16 times");
        o->urls[o->url_count++] = optarg;
        break;
    case OPT_LOG: o->access_log = optarg; break;
    case OPT_FOLLOW: o->follow_symlinks = true; break;
    case OPT_CONNECTIONS: o->max_connections = tool_number("--max-connections", optarg, 1, 100000000); break;
    case OPT_HEADER: o->max_header_bytes = tool_size("--max-header-bytes", optarg, 128, 1 << 20); break;
    case OPT_BODY: o->max_body_bytes = tool_size("--max-body-bytes", optarg, 0, INT64_C(1) << 40); break;
    case OPT_HEADER_T: o->header_timeout_ns = tool_duration("--header-timeout", optarg); break;
    case OPT_IDLE_T: o->idle_timeout_ns = tool_duration("--idle-timeout", optarg); break;
    case OPT_WRITE_T: o->write_timeout_ns = tool_duration("--write-timeout", optarg); break;
    case OPT_DRAIN_T: o->drain_timeout_ns = tool_duration("--drain-timeout", optarg); break;
    case OPT_WORKERS: o->workers = (unsigned)tool_number("--workers", optarg, 1, CR_WORKERS_MAX); break;
    case OPT_PLACEMENT: o->placement = placement(optarg); break;
    case OPT_CPU: tool_pin(o->cpu = tool_number("--cpu", optarg, 0, 1023)); break;
    case OPT_NET: o->net = optarg; break;
    case OPT_QUIET: o->quiet = true; break;
    case OPT_ECHO: o->echo = true; break;
    case OPT_RETURN: o->text = optarg; o->text_bytes = strlen(optarg); break;
    case OPT_HELP: help(); exit(0);
    default: tool_fail("serve: '%s' is unknown or lacks its argument; 'crore serve --help' lists the options", argv[optind - 1]);
    }
}

static void take_options(int argc, char **argv)
{
    struct serve_options *o = &serve_options;
    int option;
    opterr = 0; /* one line is enough, and it is ours */
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0)
        take_option(option, argv);
    if (optind < argc)
        o->dir = argv[optind++];
    if (optind < argc)
        tool_fail("serve: one DIR, please: '%s' is too many", argv[optind]);
    if ((o->dir != NULL) + o->echo + (o->text != NULL) != 1)
        tool_fail("serve: name a DIR, or --echo, or --return TEXT");
    if (o->dir && (o->dir_fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        tool_fail("%s: %s", o->dir, strerror(errno));
    if (o->url_count == 0)
        o->urls[o->url_count++] = o->net ? "tcp://:80" : "tcp://127.0.0.1:8080";
    if (o->net && o->workers > 1 && !strstr(o->net, "workers=all"))
        tool_fail("serve: a --net is one worker's, but for one with workers=all");
    if (o->access_log && http_log_open(o->access_log) < 0)
        tool_fail("--access-log %s: %s", o->access_log, strerror(errno));
}

int serve_main(int argc, char **argv)
{
    take_options(argc, argv);
    http_init();
    int64_t files = tool_raise_open_files(0);
    high_files = files - (files / 8 < MOST_RESERVED_FILES ? files / 8 : MOST_RESERVED_FILES);
    sigset_t set = ending_signals();
    sigprocmask(SIG_BLOCK, &set, NULL); /* they are waited for */
    struct cr_config config = {.workers = serve_options.workers};
    if (config.workers == 0 && (serve_options.cpu >= 0 || serve_options.net))
        config.workers = 1;
    int r = cr_run(app, NULL, &config);
    if (r < 0)
        tool_fail("serve: %s", strerror(-r));
    return 0;
}
