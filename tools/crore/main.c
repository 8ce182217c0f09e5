/* The `crore` command: a table of subcommands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <crore/api.h>

#include "tool.h"

static const struct {
    const char *name, *what;
    int (*main)(int argc, char **argv);
} commands[] = {
    {"serve", "an HTTP/1.1 server for a folder, or an echo server", serve_main},
    {"swarm", "opens and holds many connections, sends, measures, verifies", swarm_main},
    {"lookup", "looks a name up, also with the name servers of a network of its own", lookup_main},
    {"net", "shows the networks of a running program, and their connections", net_main},
    {"demo", "serves and swarms on this machine, as many connections as it allows", demo_main},
};

static void help(FILE *to)
{
    fprintf(to, "usage: crore COMMAND [OPTION ...]\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(to, "  crore %-6s %s\n", commands[i].name, commands[i].what);
    fprintf(to, "\n'crore COMMAND --help' lists a command's options; 'man crore' tells more.\n");
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a log, a table whose reader has gone is no reason to end */
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].main(argc - 1, argv + 1);
    }
    if (strcmp(name, "--version") == 0) {
        printf("crore %s\n", cr_version());
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        help(stdout);
        return 0;
    }
    if (!*name) {
        help(stderr);
        return 2;
    }
    tool_fail("unknown command '%s'; 'crore --help' lists them", name);
}
