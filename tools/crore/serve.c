/* `crore serve`: options, listening, accepting, signals, draining. What is said on a connection is in http.c. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "tool.h"

#define MOST_RESERVED_FILES 16

struct serve_options serve_options = {
    .dir_fd = -1,
    .max_header_bytes = 8 << 10,
    .max_body_bytes = 1 << 20,
    .max_connections = 1000000,
    .header_timeout_ns = 10 * CR_SEC,
    .idle_timeout_ns = 60 * CR_SEC,
    .write_timeout_ns = 60 * CR_SEC,
    .drain_timeout_ns = 10 * CR_SEC,
};
bool serve_draining;

static struct session *sessions;
static int64_t session_count;
static int64_t high_files;   /* fds from this number on are for files */
static int64_t high_count;   /* sessions that have one all the same */
static struct cr_listener *listeners[16];
static int exit_status;

/* ---- Sessions ----------------------------------------------------------------------------------------------- */

static void session_add(struct session *s)
{
    s->next = sessions;
    s->link = &sessions;
    if (sessions)
        sessions->link = &s->next;
    sessions = s;
    session_count++;
    high_count += s->high;
}

static void session_end(struct session *s)
{
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    session_count--;
    high_count -= s->high;
    if (!s->taken)
        cr_close(s->conn);
    free(s);
}

static void echo(struct session *s)
{
    struct cr_lent data;
    s->idle = true;
    while (cr_recv_lend(s->conn, &data) > 0) {
        if (cr_write_all(s->conn, data.bytes, data.size_bytes) < 0)
            break;
        cr_recv_return(s->conn, &data);
    }
}

static void serve_session(void *arg)
{
    struct session *s = arg;
    if (serve_options.echo)
        echo(s);
    else
        http_serve(s);
    session_end(s);
}

/* ---- Accepting ---------------------------------------------------------------------------------------------- */

static void say(bool *paused, const char *why)
{
    if ((why != NULL) != *paused && !serve_options.quiet)
        fprintf(stderr, why ? "crore: accepting pauses: %s\n" : "crore: accepting resumes\n", why);
    *paused = why != NULL;
}

/* 0; or why no session could be begun, nothing lost: the connection is still in the backlog, or was closed for want of memory. */
static int accept_one(struct cr_listener *l, int64_t deadline_ns)
{
    struct cr_conn *conn;
    int r = cr_accept_until(l, &conn, deadline_ns);
    if (r < 0)
        return r;
    struct session *s = calloc(1, sizeof(*s));
    if (s) {
        s->conn = conn;
        s->high = cr_conn_fd(conn) >= high_files;
        session_add(s);
        r = cr_go(serve_session, s);
        if (r == 0)
            return 0;
        session_end(s);
        return r;
    }
    cr_close(conn);
    return -ENOMEM;
}

/* Why no further connection is to be accepted now, or NULL. Numbers of fds are handed out from the lowest free one, so a high one tells
 * that few are left; those are for the files that the open connections ask for. */
static const char *full(void)
{
    if (session_count >= serve_options.max_connections)
        return "--max-connections reached";
    if (high_count == 0)
        return NULL;
    errno = 0;
    int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (lowest >= 0)
        close(lowest);
    return lowest >= high_files || errno == EMFILE ? strerror(EMFILE) : NULL;
}

/* Accepts until the listener fails. A pause ends when all who waited have been accepted, lest each one be announced. */
static void acceptor(void *listener)
{
    bool paused = false;
    while (!serve_draining) {
        int r = -EMFILE;
        const char *why = full();
        if (!why) {
            r = accept_one(listener, paused ? 0 : CR_FOREVER);
            why = strerror(-r);
        }
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS) {
            say(&paused, why);
            cr_sleep(10 * CR_MS); /* something may be closed meanwhile, by us or by others */
        } else if (r == -ETIMEDOUT) {
            say(&paused, NULL);
        } else if (r < 0) {
            if (!serve_draining)
                fprintf(stderr, "crore: accepting ends: %s\n", strerror(-r));
            return;
        }
    }
}

/* ---- Ending ------------------------------------------------------------------------------------------------- */

static void drain(void)
{
    serve_draining = true;
    for (int i = 0; i < serve_options.url_count; i++)
        cr_listener_close(listeners[i]);
    for (struct session *s = sessions; s; s = s->next) {
        if (s->idle && !s->taken) {
            s->taken = true;
            cr_close(s->conn); /* its coroutine finds that out */
        }
    }
    int64_t deadline_ns = cr_after(serve_options.drain_timeout_ns);
    while (session_count > 0 && cr_now() < deadline_ns)
        cr_sleep(5 * CR_MS);
    if (session_count > 0)
        fprintf(stderr, "crore: %lld connections were still busy after the drain timeout\n", (long long)session_count);
    http_log_flush();
    exit(exit_status);
}

static void drainer(void *unused)
{
    (void)unused;
    drain();
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
static void take_signals(void *arg)
{
    struct cr_conn *signals = arg;
    struct signalfd_siginfo info;
    if (cr_read(signals, &info, sizeof(info)) > 0 && cr_go(drainer, NULL) == 0 &&
        cr_read(signals, &info, sizeof(info)) > 0)
        _exit(1);
    cr_close(signals);
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

static struct cr_conn *adopt(int fd)
{
    struct cr_conn *conn;
    int r = fd < 0 ? -errno : cr_conn_from_fd(&conn, fd);
    if (r < 0)
        tool_fail("serve: %s", strerror(-r));
    return conn;
}

static void app(void *unused)
{
    char url[160];
    (void)unused;
    sigset_t set = ending_signals();
    struct cr_conn *signals = adopt(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    for (int i = 0; i < serve_options.url_count; i++) {
        int r = cr_listen(&listeners[i], serve_options.urls[i], NULL);
        if (r < 0)
            fail_listen(serve_options.urls[i], r);
        if (!serve_options.quiet && cr_listener_url(listeners[i], url, sizeof(url)) > 0)
            printf("crore: serving %s on %s\n", serve_options.echo ? "echo" : serve_options.dir ? serve_options.dir : "--return", url);
    }
    fflush(stdout);
    for (int i = 0; i < serve_options.url_count; i++) {
        if (cr_go(acceptor, listeners[i]) < 0)
            tool_fail("out of memory");
    }
    if (cr_go(take_signals, signals) < 0 || (serve_options.access_log && cr_go(flush_log, NULL) < 0))
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
           "  --cpu N                 run on that processor only\n"
           "  --quiet                 say nothing but errors\n"
           "  --help\n");
}

enum { OPT_LISTEN = 256, OPT_LOG, OPT_FOLLOW, OPT_CONNECTIONS, OPT_HEADER, OPT_BODY, OPT_HEADER_T, OPT_IDLE_T, OPT_WRITE_T,
       OPT_DRAIN_T, OPT_CPU, OPT_QUIET, OPT_ECHO, OPT_RETURN, OPT_HELP };

static const struct option long_options[] = {
    {"listen", 1, NULL, OPT_LISTEN},           {"access-log", 1, NULL, OPT_LOG},
    {"follow-symlinks", 0, NULL, OPT_FOLLOW},  {"max-connections", 1, NULL, OPT_CONNECTIONS},
    {"max-header-bytes", 1, NULL, OPT_HEADER}, {"max-body-bytes", 1, NULL, OPT_BODY},
    {"header-timeout", 1, NULL, OPT_HEADER_T}, {"idle-timeout", 1, NULL, OPT_IDLE_T},
    {"write-timeout", 1, NULL, OPT_WRITE_T},   {"drain-timeout", 1, NULL, OPT_DRAIN_T},
    {"cpu", 1, NULL, OPT_CPU},                 {"quiet", 0, NULL, OPT_QUIET},
    {"echo", 0, NULL, OPT_ECHO},               {"return", 1, NULL, OPT_RETURN},
    {"help", 0, NULL, OPT_HELP},               {NULL, 0, NULL, 0},
};

static void take_option(int option, char **argv)
{
    struct serve_options *o = &serve_options;
    switch (option) {
    case OPT_LISTEN:
        if (o->url_count == 16)
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
    case OPT_CPU: tool_pin(tool_number("--cpu", optarg, 0, 1023)); break;
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
        o->urls[o->url_count++] = "tcp://127.0.0.1:8080";
    if (o->access_log && http_log_open(o->access_log) < 0)
        tool_fail("--access-log %s: %s", o->access_log, strerror(errno));
}

int serve_main(int argc, char **argv)
{
    take_options(argc, argv);
    int64_t files = tool_raise_open_files(0);
    high_files = files - (files / 8 < MOST_RESERVED_FILES ? files / 8 : MOST_RESERVED_FILES);
    sigset_t set = ending_signals();
    sigprocmask(SIG_BLOCK, &set, NULL); /* they come by signalfd */
    static const struct cr_config config = {.workers = 1}; /* its sessions share what is not locked */
    int r = cr_run(app, NULL, &config);
    if (r < 0)
        tool_fail("serve: %s", strerror(-r));
    return 0;
}
