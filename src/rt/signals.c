#include "rt/rt.h"

#include "os/os.h"
#include "poll/poll.h"

struct signals {
    sigset_t before, blocked;
    struct cr__poll_watch watch;
};

/* Opens the door for a moment. */
static void deliver(void *arg)
{
    struct signals *signals = arg;
    pthread_sigmask(SIG_SETMASK, &signals->before, NULL);
    pthread_sigmask(SIG_SETMASK, &signals->blocked, NULL);
}

static void asynchronous(sigset_t *set)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigfillset(set);
    for (size_t i = 0; i < CR__COUNT(faults); i++)
        sigdelset(set, faults[i]);
}

void cr__signals_block(sigset_t *before)
{
    sigset_t set;
    asynchronous(&set);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

int cr__signals_enter(struct cr__worker *worker)
{
    struct signals *signals = cr__mem_alloc(sizeof(*signals), CR__MEM_OTHER);
    if (!signals)
        return -ENOMEM;
    worker->rt = signals;
    sigset_t ours;
    asynchronous(&ours);
    cr__signals_block(&signals->before);
    pthread_sigmask(SIG_BLOCK, NULL, &signals->blocked);
    for (int s = 1; s < NSIG; s++) {
        if (sigismember(&signals->before, s) == 1)
            sigdelset(&ours, s);
    }
    signals->watch = (struct cr__poll_watch){.fd = cr__os_signalfd(&ours), .fn = deliver, .arg = signals};
    int r = signals->watch.fd < 0 ? signals->watch.fd : cr__poll_watch(worker, &signals->watch);
    if (r < 0)
        cr__signals_leave(worker);
    return r;
}

void cr__signals_leave(struct cr__worker *worker)
{
    struct signals *signals = worker->rt;
    if (signals->watch.fd >= 0)
        cr__os_close(signals->watch.fd);
    pthread_sigmask(SIG_SETMASK, &signals->before, NULL);
    cr__mem_free(signals, sizeof(*signals), CR__MEM_OTHER);
}
