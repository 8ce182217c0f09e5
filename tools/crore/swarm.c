/* `crore swarm`: the command around swarm_run.c. */
#include "swarm.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#include <crore/rt.h>

static struct swarm_options options = {
    .connections = 100, .rate = 1000, .size_bytes = 64, .duration_ns = 10 * CR_SEC, .dials = 128, .workers = 1};
static const char *json_path;
static bool quiet;

static void help(void)
{
    printf("usage: crore swarm [OPTION ...] URL\n\n"
           "Opens connections to an echo server, sends on them, measures each answer from when its message\n"
           "was due, and compares every byte that comes back.\n\n"
           "  --connections N      opened first, then held; from 127.0.0.2 on if URL is on loopback (100)\n"
           "  --rate R             messages a second over all connections; 0: each connection sends as soon\n"
           "                       as it has its answer (1000)\n"
           "  --size BYTES         of a message, up to 64k (64)\n"
           "  --duration T         of sending (10s)\n"
           "  --connect-rate R     connections opened a second; 0: as fast as it goes (0)\n"
           "  --dials N            connections being opened at the same time, up to 1024 (128)\n"
           "  --workers N          threads that share the connections (1)\n"
           "  --net SPEC           over a TCP/IP stack of its own: a link and addresses, as in crore/net.h;\n"
           "                       \"shm:/run/link addr=10.0.0.1/24\". With one worker (none: the kernel's)\n"
           "  --json FILE          the figures, with a time series; - is standard output\n"
           "  --cpu N              run on that processor only\n"
           "  --quiet              no live line\n"
           "  --help\n\n"
           "Exit status: 0 if all was opened, held and came back right; 1 if not; 2 for bad usage.\n");
}

enum { OPT_CONNECTIONS = 256, OPT_RATE, OPT_SIZE, OPT_DURATION, OPT_CONNECT_RATE, OPT_DIALS, OPT_WORKERS, OPT_JSON, OPT_NET, OPT_CPU, OPT_QUIET, OPT_HELP };

static const struct option long_options[] = {
    {"connections", 1, NULL, OPT_CONNECTIONS}, {"rate", 1, NULL, OPT_RATE},   {"size", 1, NULL, OPT_SIZE},
    {"duration", 1, NULL, OPT_DURATION},       {"json", 1, NULL, OPT_JSON},   {"connect-rate", 1, NULL, OPT_CONNECT_RATE},
    {"dials", 1, NULL, OPT_DIALS},             {"workers", 1, NULL, OPT_WORKERS}, {"cpu", 1, NULL, OPT_CPU},     {"quiet", 0, NULL, OPT_QUIET},
    {"help", 0, NULL, OPT_HELP},               {"net", 1, NULL, OPT_NET}, {NULL, 0, NULL, 0},
};

static void take_option(int option, char **argv)
{
    switch (option) {
    case OPT_CONNECTIONS: options.connections = tool_number("--connections", optarg, 1, 100000000); break;
    case OPT_RATE: options.rate = tool_number("--rate", optarg, 0, 1000000000); break;
    case OPT_SIZE: options.size_bytes = tool_size("--size", optarg, 1, 65536); break;
    case OPT_DURATION: options.duration_ns = tool_duration("--duration", optarg); break;
    case OPT_CONNECT_RATE: options.connect_rate = tool_number("--connect-rate", optarg, 0, 1000000000); break;
    case OPT_DIALS: options.dials = tool_number("--dials", optarg, 1, 1024); break;
    case OPT_WORKERS: options.workers = (unsigned)tool_number("--workers", optarg, 1, CR_WORKERS_MAX); break;
    case OPT_JSON: json_path = optarg; break;
    case OPT_NET: options.net = optarg; break;
    case OPT_CPU: tool_pin(tool_number("--cpu", optarg, 0, 1023)); break;
    case OPT_QUIET: quiet = true; break;
    case OPT_HELP: help(); exit(0);
    default: tool_fail("swarm: '%s' is unknown or lacks its argument; 'crore swarm --help' lists the options", argv[optind - 1]);
    }
}

static void live_line(struct swarm_sample *s, void *unused)
{
    (void)unused;
    if (quiet)
        return;
    fprintf(stderr, "%s%5.1f s  %lld connections  %.0f messages/s  p50 %.0f us  p99 %.0f us%s", isatty(2) ? "\r" : "", s->seconds,
            (long long)s->open, s->messages_per_second, (double)s->p50_ns / 1e3, (double)s->p99_ns / 1e3, isatty(2) ? "   " : "\n");
}

static _Noreturn void fail_url(void)
{
    tool_fail("swarm: '%s' is not a URL such as tcp://127.0.0.1:7000 or unix:/run/echo.sock", options.url);
}

int swarm_main(int argc, char **argv)
{
    static struct swarm_result result;
    int option;
    opterr = 0; /* one line is enough, and it is ours */
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0)
        take_option(option, argv);
    if (optind + 1 != argc)
        tool_fail("swarm: name one URL");
    options.url = argv[optind];
    if (options.net && options.workers > 1 && !strstr(options.net, "workers=all"))
        tool_fail("swarm: a --net is one worker's, but for one with workers=all");
    if (strncmp(options.url, "tcp://", 6) != 0 && strncmp(options.url, "unix:", 5) != 0)
        fail_url(); /* datagrams may be lost */
    FILE *json = tool_open_json(json_path);
    tool_raise_open_files(options.connections + 100);
    int r = swarm_run(&options, &result, live_line, NULL);
    if (r == -EINVAL || r == -EPROTONOSUPPORT)
        fail_url();
    if (r < 0)
        tool_fail("swarm: %s", strerror(-r));
    if (!quiet && isatty(2))
        fputc('\n', stderr);
    swarm_print_table(json == stdout ? stderr : stdout, &options, &result);
    if (json) {
        swarm_print_json(json, &options, &result);
        fclose(json);
    }
    return swarm_good(&options, &result) ? 0 : 1;
}
