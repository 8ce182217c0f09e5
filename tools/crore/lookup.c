/* `crore lookup NAME`: the addresses of a name, as what names a host has them looked up; with --net by the name servers of a network of our own. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include <crore/conn.h>
#include <crore/net.h>
#include <crore/rt.h>

#include "tool.h"

#define MOST_ADDRESSES 32

static const char *spec, *name; /* spec NULL: the kernel's network */
static int64_t timeout_ns = 10 * CR_SEC;
static struct cr_addr addrs[MOST_ADDRESSES];
static int result; /* how many, or -errno */

static void help(void)
{
    printf("usage: crore lookup [OPTION ...] NAME\n\n"
           "Looks a name up, and prints its addresses in the order in which they would be tried, one on a line.\n\n"
           "  --net SPEC     by a TCP/IP stack of its own and its name servers: a link, addresses and dns=, as in crore/net.h;\n"
           "                 \"shm:/run/link addr=10.0.0.1/24 dns=10.0.0.53\" (the kernel's, and this machine's name servers)\n"
           "  --timeout T    gives up then (10s)\n"
           "  --help\n\n"
           "Exit status: 0 if it has an address; 1 if it has none, or no name server answered; 2 for bad usage.\n");
}

static void app(void *unused)
{
    struct cr_net *net = NULL;
    (void)unused;
    int r = spec ? cr_net_open(&net, spec) : 0;
    if (r < 0)
        tool_fail("--net %s: %s", spec, strerror(-r));
    result = cr_resolve_on_until(net, name, 0, addrs, MOST_ADDRESSES, cr_after(timeout_ns));
    cr_net_close(net);
}

static void print(const struct cr_addr *addr)
{
    char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const void *)&addr->sa;
    const struct sockaddr_in6 *in6 = (const void *)&addr->sa;
    puts(inet_ntop(addr->sa.ss_family, addr->sa.ss_family == AF_INET ? (const void *)&in->sin_addr : &in6->sin6_addr, text, sizeof(text)));
}

static const char *why(int r)
{
    return r == -ENOENT ? "no such name, or it has no address" : r == -EAGAIN ? "no name server has answered" : strerror(-r);
}

int lookup_main(int argc, char **argv)
{
    enum { OPT_NET = 256, OPT_TIMEOUT, OPT_HELP };
    static const struct option long_options[] = {{"net", 1, NULL, OPT_NET}, {"timeout", 1, NULL, OPT_TIMEOUT}, {"help", 0, NULL, OPT_HELP}, {NULL, 0, NULL, 0}};
    int option;
    opterr = 0; /* one line is enough, and it is ours */
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
        switch (option) {
        case OPT_NET: spec = optarg; break;
        case OPT_TIMEOUT: timeout_ns = tool_duration("--timeout", optarg); break;
        case OPT_HELP: help(); return 0;
        default: tool_fail("lookup: '%s' is unknown or lacks its argument; 'crore lookup --help' lists the options", argv[optind - 1]);
        }
    }
    if (optind + 1 != argc)
        tool_fail("lookup: name one NAME");
    if (spec && !strstr(spec, " dns="))
        tool_fail("lookup: a --net without dns= has no name servers");
    name = argv[optind];
    int r = cr_run(app, NULL, &(struct cr_config){.workers = 1});
    if (r < 0)
        tool_fail("lookup: %s", strerror(-r));
    if (result == -EINVAL)
        tool_fail("lookup: '%s' is no name", name);
    if (result < 0) {
        fprintf(stderr, "crore: %s: %s\n", name, why(result));
        return 1;
    }
    for (int i = 0; i < result; i++)
        print(&addrs[i]);
    return 0;
}
