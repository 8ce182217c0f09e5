/* `crore net PID`: what the networks of a running program are doing. It connects to the program's control socket, and shows of the dump that it gets what is about networks. */
#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tool.h"

static void help(void)
{
    printf("usage: crore net PID\n\n"
           "Shows the networks of a running program, worker by worker: link, addresses, routes, neighbours, listeners, connections with the state of\n"
           "their TCP, and what was dropped, by cause. The program is one that was started with CR_NET_CONTROL=1 in its environment, or `crore serve`\n"
           "or `crore swarm` with --net, by the same user (or you are root).\n");
}

static int reach(int pid)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int length = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "crore-net-%d", pid);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct ucred who;
    socklen_t size = sizeof(who);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) < 0)
        tool_fail("net: process %d has no control socket (CR_NET_CONTROL=1): %s", pid, strerror(errno));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.pid != pid || (who.uid != geteuid() && geteuid() != 0))
        tool_fail("net: process %d, of user %u, has taken the name of that socket", (int)who.pid, (unsigned)who.uid);
    return fd;
}

/* The lines about a network are the one that names it and those below it that are indented. Returns how many networks there were. */
static int show(FILE *from)
{
    char *line = NULL;
    size_t room = 0;
    bool within = false;
    int count = 0;
    while (getline(&line, &room, from) > 0) {
        bool begins = strncmp(line, "network \"", 9) == 0;
        count += begins;
        within = begins || (within && strncmp(line, "  ", 2) == 0);
        if (within)
            fputs(line, stdout);
    }
    free(line);
    return count;
}

int net_main(int argc, char **argv)
{
    static const struct option long_options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    opterr = 0;
    int option = getopt_long(argc, argv, "", long_options, NULL);
    if (option == 'h') {
        help();
        return 0;
    }
    if (option >= 0 || optind + 1 != argc)
        tool_fail("net: name one PID; 'crore net --help' tells more");
    int fd = reach((int)tool_number("PID", argv[optind], 1, 1 << 30));
    FILE *from = fdopen(fd, "r");
    if (!from)
        tool_fail("out of memory");
    if (show(from) == 0) {
        fprintf(stderr, "crore: net: process %s has no network open, or did not let us see it\n", argv[optind]);
        return 1;
    }
    return 0;
}
