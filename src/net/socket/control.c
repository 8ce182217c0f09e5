/* What `crore net PID` asks: a thread of the process's that listens on the abstract Unix socket @crore-net-PID and writes a dump (cr_dump) to each who connects, if he is the user
 * that the process runs as, or root. It is there only where the environment says CR_NET_CONTROL=1 when the first network is opened; it calls nothing of a network, and so disturbs
 * it no more than a dump does: each worker tells of its own.
 *
 * Who has taken the name before (any user may) keeps it, and then there is no such thread: so who asks looks at whom he has reached. An abstract socket is seen within one network
 * namespace only; there is no file that would have to be removed.
 *
 * Rejected: a coroutine in place of the thread (it would keep its runtime from ending, and be stuck where that is), and SIGQUIT (which writes to the report fd: a log, not to who
 * asks). */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/socket/socket.h"
#include "os/os.h"

#define STACK_BYTES ((size_t)256 << 10)
#define PAUSE_US 100000 /* after an accept that failed: no fd is left, say */

static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool is_allowed(int fd)
{
    struct ucred who;
    socklen_t size_bytes = sizeof(who);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size_bytes) == 0 && (who.uid == geteuid() || who.uid == 0);
}

/* One after the other: each gets what he reads within the 5 s that cr_dump gives him. */
static void *answer(void *arg)
{
    int listener = (int)(intptr_t)arg;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            usleep(PAUSE_US);
            continue;
        }
        if (is_allowed(fd))
            (void)!cr_dump(fd); /* if no runtime runs there is nothing to tell */
        cr__os_close(fd);
    }
    return NULL;
}

static int listen_as(const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(addr.sun_path + 1, name, length);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) == 0 && listen(fd, 4) == 0)
        return fd;
    if (fd >= 0)
        cr__os_close(fd);
    return -1;
}

/* Where it can't be had the network goes on without. All signals are for the program's own threads. */
static void start(void)
{
    char name[32];
    snprintf(name, sizeof(name), "crore-net-%d", (int)getpid());
    int fd = listen_as(name);
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    if (fd < 0 || pthread_attr_init(&attr) != 0)
        return;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, &attr, answer, (void *)(intptr_t)fd) != 0)
        cr__os_close(fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
}

void cr__control_start(void)
{
    const char *wish = getenv("CR_NET_CONTROL");
    if (wish && strcmp(wish, "1") == 0)
        pthread_once(&once, start);
}
