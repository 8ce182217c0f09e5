/* `crore demo`: `crore serve --echo` in a process of its own on one processor, the swarm in this one on another, as many connections as
 * the machine's limits allow. With --workers on several each. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "parked.h"
#include "report.h"
#include "swarm.h"
#include "tool.h"

#include <crore/rt.h>

#define MOST_CONNECTIONS 100000
#define MOST_PARKED 100000000
#define OTHER_FILES 100 /* open files that are not connections, generously */
#define KERNEL_BYTES_PER_PAIR 24576 /* both ends: about 5 KB of kernel slab each, and a page of stack each with its page table */

static struct {
    int64_t connections; /* 0: as many as the machine holds */
    int64_t duration_ns, size_bytes;
    int64_t rate; /* -1: each connection once a second, at most MOST_RATE together */
    unsigned workers; /* of each side; 1: each on a processor of its own */
    const char *report, *json;
    int64_t parked;    /* coroutines instead of connections; 0: no */
    const char *stack; /* of theirs */
    int no_freeze;
} options = {.workers = 1, .duration_ns = 12 * CR_SEC, .size_bytes = 64, .rate = -1};
#define MOST_RATE 25000

struct server {
    pid_t pid;
    char url[128];
    int64_t resident_bytes; /* without connections */
    double cpu_seconds;     /* when sending began */
    double sending_since;
};

static struct swarm_result result;
static char held_back[256]; /* why not more; "" if nothing */

/* ---- What the machine allows -------------------------------------------------------------------------------- */

static int64_t memory_available_bytes(void)
{
    long long kib = -1;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof(line), file) && sscanf(line, "MemAvailable: %lld", &kib) != 1)
        ;
    if (file)
        fclose(file);
    return kib < 0 ? INT64_MAX : kib * 1024;
}

/* As many connections as wanted and allowed; what is in the way goes to held_back. */
static int64_t connections_allowed(int64_t wanted)
{
    int64_t files = tool_raise_open_files(wanted + OTHER_FILES);
    int64_t by_memory = memory_available_bytes() / 2 / KERNEL_BYTES_PER_PAIR;
    int64_t allowed = wanted;
    if (files - OTHER_FILES < allowed) {
        allowed = files - OTHER_FILES;
        snprintf(held_back, sizeof(held_back), "a process may open %lld files here, hard limit (ulimit -Hn): %lld connections, not %lld",
                 (long long)files, (long long)allowed, (long long)wanted);
    }
    if (by_memory < allowed) {
        allowed = by_memory;
        snprintf(held_back, sizeof(held_back), "half of the available memory holds %lld connections, not %lld", (long long)allowed, (long long)wanted);
    }
    if (allowed < 1)
        tool_fail("demo: no room for even one connection: %s", held_back);
    return allowed;
}

/* The first two processors that may be used; the same one twice if there is no other. */
static void choose_processors(int processors[2])
{
    cpu_set_t set;
    int found = 0;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
        if (CPU_ISSET((size_t)cpu, &set))
            processors[found++] = cpu;
    }
    if (found < 2)
        processors[1] = processors[0];
}

/* ---- The server process ------------------------------------------------------------------------------------- */

static _Noreturn void become_server(int out, int cpu)
{
    char processor[16], workers[16];
    snprintf(processor, sizeof(processor), "%d", cpu);
    snprintf(workers, sizeof(workers), "%u", options.workers);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* not to outlive a demo that was killed */
    dup2(out, STDOUT_FILENO);
    execl("/proc/self/exe", "crore", "serve", "--echo", "--listen", "tcp://127.0.0.1:0", "--workers", workers,
          options.workers == 1 ? "--cpu" : NULL, processor, (char *)NULL);
    _exit(127);
}

static int64_t resident_bytes(pid_t pid)
{
    char path[64];
    long long size, resident = 0, shared = 0;
    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%lld %lld %lld", &size, &resident, &shared) != 3)
        resident = shared = 0;
    if (file)
        fclose(file);
    return (resident - shared) * sysconf(_SC_PAGESIZE);
}

/* Of all its threads. */
static double cpu_seconds(pid_t pid)
{
    clockid_t clock;
    struct timespec time = {0};
    if (clock_getcpuclockid(pid, &clock) == 0)
        clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void start_server(struct server *server, int cpu)
{
    int ends[2];
    char line[192];
    if (pipe2(ends, O_CLOEXEC) < 0 || (server->pid = fork()) < 0)
        tool_fail("demo: can't start the server: %s", strerror(errno));
    if (server->pid == 0)
        become_server(ends[1], cpu);
    close(ends[1]);
    FILE *out = fdopen(ends[0], "r");
    if (!out || !fgets(line, sizeof(line), out) || sscanf(line, "crore: serving echo on %127s", server->url) != 1)
        tool_fail("demo: the server did not start");
    fclose(out); /* it writes no more */
    server->resident_bytes = resident_bytes(server->pid);
}

/* Its exit status, or -1 if a signal ended it. */
static int stop_server(const struct server *server)
{
    int status;
    kill(server->pid, SIGTERM);
    if (waitpid(server->pid, &status, 0) < 0 || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* ---- What is shown ------------------------------------------------------------------------------------------ */

static void live_line(struct swarm_sample *sample, void *arg)
{
    struct server *server = arg;
    bool terminal = isatty(STDOUT_FILENO);
    if (sample->open > 0)
        sample->user_bytes_per_connection = (double)(resident_bytes(server->pid) - server->resident_bytes) / (double)sample->open;
    if (sample->sending && server->sending_since == 0) {
        server->sending_since = sample->seconds;
        server->cpu_seconds = cpu_seconds(server->pid);
    }
    printf("%s  %5.1f s  %6lld connections, %4.0f bytes each", terminal ? "\r" : "", sample->seconds, (long long)sample->open,
           sample->user_bytes_per_connection);
    if (sample->sending)
        printf("  %7.0f messages/s  p50 %6.2f ms  p99 %6.2f ms", sample->messages_per_second, (double)sample->p50_ns / 1e6,
               (double)sample->p99_ns / 1e6);
    fputs(terminal ? "   " : "\n", stdout);
    fflush(stdout);
}

/* The last sample in which all connections were open. */
static const struct swarm_sample *steady_sample(void)
{
    const struct swarm_sample *last = NULL;
    for (int i = 0; i < result.sample_count; i++) {
        if (result.samples[i].sending && (!last || result.samples[i].open >= last->open))
            last = &result.samples[i];
    }
    return last;
}

struct summary {
    double server_cpu;                /* of one processor, while messages were sent */
    double server_ns_per_message;
    double user_bytes_per_connection;
};

static struct summary summarise(const struct server *server, double cpu_at_end)
{
    struct summary s = {0};
    const struct swarm_sample *steady = steady_sample();
    double sending = result.open_seconds + result.send_seconds - server->sending_since, cpu = cpu_at_end - server->cpu_seconds;
    if (steady)
        s.user_bytes_per_connection = steady->user_bytes_per_connection;
    if (server->sending_since > 0 && sending > 0 && result.received > 0) {
        s.server_cpu = cpu / sending;
        s.server_ns_per_message = cpu / sending * result.send_seconds * 1e9 / (double)result.received;
    }
    return s;
}

static void print_summary(const struct swarm_options *o, const struct summary *s)
{
    printf("\n");
    swarm_print_table(stdout, o, &result);
    printf("  %-22s %12.0f   bytes a connection, in the server\n", "user memory", s->user_bytes_per_connection);
    printf("  %-22s %12.0f   %% of one processor, %.0f ns a message\n", "server's time", s->server_cpu * 100, s->server_ns_per_message);
    if (*held_back)
        printf("  held back: %s\n", held_back);
}

static void print_json(FILE *to, const struct swarm_options *o, const struct summary *s, const int processors[2])
{
    struct utsname name = {0};
    uname(&name);
    fprintf(to, "{\n\"version\": \"%s\", \"kernel\": \"%s\", \"machine\": \"%s\", \"processors\": [%d, %d],\n\"held_back\": \"%s\",\n", cr_version(),
            name.release, name.machine, processors[0], processors[1], held_back);
    fprintf(to, "\"server_cpu\": %.4f, \"server_ns_per_message\": %.0f, \"user_bytes_per_connection\": %.0f,\n\"swarm\": ", s->server_cpu,
            s->server_ns_per_message, s->user_bytes_per_connection);
    swarm_print_json(to, o, &result);
    fprintf(to, "}\n");
}

static void write_figures(const struct swarm_options *o, const struct summary *s, const int processors[2], FILE *file)
{
    char *json = NULL;
    size_t size;
    FILE *memory = open_memstream(&json, &size);
    if (!memory)
        tool_fail("out of memory");
    print_json(memory, o, s, processors);
    fclose(memory);
    int r = options.report ? report_write(options.report, json) : 0;
    if (r < 0)
        tool_fail("--report %s: %s", options.report, strerror(-r));
    if (options.report)
        printf("  report: %s/index.html\n", options.report);
    if (file && (fputs(json, file) < 0 || fflush(file) != 0))
        tool_fail("--json %s: %s", options.json, strerror(errno));
    free(json);
}

/* ---- The command -------------------------------------------------------------------------------------------- */

static void help(void)
{
    printf("usage: crore demo [OPTION ...]\n\n"
           "Serves echo on one processor, and holds connections to it from another: as many as this machine\n"
           "allows, up to %d. Prints a live line, a summary, and what held it back.\n\n"
           "  --connections N|max  (max)\n"
           "  --duration T         of sending, after all connections are open (12s)\n"
           "  --rate R             messages a second over all connections; 0: each sends as soon as it has its\n"
           "                       answer (each connection once a second, together at most %d)\n"
           "  --size BYTES         of a message, up to 64k (64)\n"
           "  --workers N          threads of each side; with more than one they are not bound to processors (1)\n"
           "  --report DIR         writes DIR/index.html, with plots\n"
           "  --json FILE          writes the figures; - is standard output, behind the summary\n"
           "  --help\n\n"
           "Or, with --parked, no connections, but as many parked coroutines, each with 200 bytes of live locals;\n"
           "each is woken once, in random order, and its locals are verified. Prints times and bytes of each.\n\n"
           "  --parked N           up to %d\n"
           "  --stack KIND         static (4 KiB), packed (static, 2 KiB), virtual, shared or stackless (shared)\n"
           "  --no-freeze          virtual stacks stay as they are while they are parked\n"
           "  --json FILE          as above\n\n"
           "Exit status: 0 if all connections were opened and held and every message came back right (every\n"
           "coroutine ended, and every local was right); 1 if not; 2 for bad usage.\n",
           MOST_CONNECTIONS, MOST_RATE, MOST_PARKED);
}

/* Up to OPT_REPORT they mean nothing to parked coroutines. */
enum { OPT_CONNECTIONS = 256, OPT_DURATION, OPT_RATE, OPT_SIZE, OPT_WORKERS, OPT_REPORT, OPT_JSON, OPT_PARKED, OPT_STACK, OPT_NO_FREEZE, OPT_HELP };

static const struct option long_options[] = {
    {"connections", 1, NULL, OPT_CONNECTIONS}, {"duration", 1, NULL, OPT_DURATION}, {"rate", 1, NULL, OPT_RATE}, {"size", 1, NULL, OPT_SIZE},
    {"workers", 1, NULL, OPT_WORKERS},         {"report", 1, NULL, OPT_REPORT},     {"json", 1, NULL, OPT_JSON},         {"parked", 1, NULL, OPT_PARKED},
    {"stack", 1, NULL, OPT_STACK},             {"no-freeze", 0, NULL, OPT_NO_FREEZE},    {"help", 0, NULL, OPT_HELP}, {NULL, 0, NULL, 0},
};

static void take_options(int argc, char **argv)
{
    int option, index = 0;
    const char *of_connections = NULL; /* the last such option */
    opterr = 0; /* one line is enough, and it is ours */
    while ((option = getopt_long(argc, argv, "", long_options, &index)) >= 0) {
        if (option >= OPT_CONNECTIONS && option <= OPT_REPORT)
            of_connections = long_options[index].name;
        switch (option) {
        case OPT_CONNECTIONS:
            options.connections = strcmp(optarg, "max") == 0 ? 0 : tool_number("--connections", optarg, 1, MOST_CONNECTIONS);
            break;
        case OPT_DURATION: options.duration_ns = tool_duration("--duration", optarg); break;
        case OPT_RATE: options.rate = tool_number("--rate", optarg, 0, 1000000000); break;
        case OPT_SIZE: options.size_bytes = tool_size("--size", optarg, 1, 65536); break;
        case OPT_WORKERS: options.workers = (unsigned)tool_number("--workers", optarg, 1, CR_WORKERS_MAX); break;
        case OPT_REPORT: options.report = optarg; break;
        case OPT_JSON: options.json = optarg; break;
        case OPT_PARKED: options.parked = tool_number("--parked", optarg, 1, MOST_PARKED); break;
        case OPT_NO_FREEZE: options.no_freeze = 1; break;
        case OPT_STACK: options.stack = optarg; break;
        case OPT_HELP: help(); exit(0);
        default: tool_fail("demo: '%s' is unknown or lacks its argument; 'crore demo --help' lists the options", argv[optind - 1]);
        }
    }
    if (optind != argc)
        tool_fail("demo: '%s' is not an option", argv[optind]);
    if (!options.parked && (options.stack || options.no_freeze))
        tool_fail("demo: %s goes with --parked", options.stack ? "--stack" : "--no-freeze");
    if (options.parked && of_connections)
        tool_fail("demo: --%s does not go with --parked, where there are no connections", of_connections);
}

int demo_main(int argc, char **argv)
{
    int processors[2];
    struct server server = {0};
    take_options(argc, argv);
    FILE *figures = tool_open_json(options.json); /* before the run, so that one is not made in vain */
    if (options.parked)
        return parked_run(options.parked, options.stack ? options.stack : "shared", options.no_freeze ? -1 : 20 * CR_MS, figures);
    int r = options.report ? report_prepare(options.report) : 0;
    if (r < 0)
        tool_fail("--report %s: %s", options.report, strerror(-r));
    struct swarm_options swarm = {.size_bytes = options.size_bytes, .duration_ns = options.duration_ns, .dials = 128, .workers = options.workers};
    swarm.connections = connections_allowed(options.connections ? options.connections : MOST_CONNECTIONS);
    swarm.rate = options.rate >= 0 ? options.rate : swarm.connections < MOST_RATE ? swarm.connections : MOST_RATE;
    choose_processors(processors);
    start_server(&server, processors[0]);
    swarm.url = server.url;
    printf("crore demo: %lld connections to %s; ", (long long)swarm.connections, server.url);
    if (options.workers > 1)
        printf("%u workers on each side\n", options.workers);
    else
        printf("the server on processor %d, this side on processor %d%s\n", processors[0], processors[1], processors[0] == processors[1] ? ", there is no other" : "");
    if (*held_back)
        printf("  held back: %s\n", held_back);
    fflush(stdout);
    if (options.workers == 1)
        tool_pin(processors[1]);
    r = swarm_run(&swarm, &result, live_line, &server);
    double cpu_at_end = cpu_seconds(server.pid);
    int status = stop_server(&server);
    if (r < 0)
        tool_fail("demo: %s", strerror(-r));
    struct summary summary = summarise(&server, cpu_at_end);
    print_summary(&swarm, &summary);
    write_figures(&swarm, &summary, processors, figures);
    if (status != 0)
        printf("  the server ended with status %d\n", status);
    return swarm_good(&swarm, &result) && status == 0 ? 0 : 1;
}
