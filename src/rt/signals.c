/* Asynchronous signals come to worker 0, between two coroutines. While that one is stuck in a coroutine, the monitor has them taken elsewhere: by another worker, if
 * the program has a handler for one, which is to run where coroutines do, never beside the only worker that there is; on the monitor's own thread, if
 * the kernel does what is to be done. So Ctrl-C ends a program whose coroutine never suspends. */
#include "rt/rt.h"

#include <crore/outside.h>

#include "io/io.h"
#include "os/os.h"
#include "poll/poll.h"
#include "sched/monitor.h"

struct signals {
    const sigset_t *before; /* what the program blocks */
    sigset_t blocked;
    struct cr__poll_watch watch;
    struct cr__post post; /* to another worker, while this one is stuck */
    _Atomic bool posted;
};

/* Opens the door for a moment. */
static void deliver(void *arg)
{
    struct signals *signals = arg;
    pthread_sigmask(SIG_SETMASK, signals->before, NULL);
    pthread_sigmask(SIG_SETMASK, &signals->blocked, NULL);
    if (CR__UNLIKELY(cr__forked()))
        cr__panic("a signal handler returned in a child of fork(), where there is no runtime: exec or _exit was meant");
}

static void asynchronous(sigset_t *set)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigfillset(set);
    for (size_t i = 0; i < CR__COUNT(faults); i++)
        sigdelset(set, faults[i]);
    if (cr__probe_signal())
        sigdelset(set, cr__probe_signal());
}

void cr__signals_unblock_probe(void)
{
    sigset_t probe;
    sigemptyset(&probe);
    if (cr__probe_signal())
        sigaddset(&probe, cr__probe_signal());
    pthread_sigmask(SIG_UNBLOCK, &probe, NULL);
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
    cr__signals_block(&worker->sched->program_mask);
    signals->before = &worker->sched->program_mask;
    cr__signals_unblock_probe();
    pthread_sigmask(SIG_BLOCK, NULL, &signals->blocked);
    for (int s = 1; s < NSIG; s++) {
        if (sigismember(signals->before, s) == 1)
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
    pthread_sigmask(SIG_SETMASK, signals->before, NULL);
    cr__mem_free(signals, sizeof(*signals), CR__MEM_OTHER);
}

/* ---- While worker 0 is stuck -------------------------------------------------------------------------------- */

/* On whichever worker. */
static void deliver_here(struct cr__worker *worker, struct cr__post *post)
{
    struct signals *signals = CR__CONTAINER(post, struct signals, post);
    sigset_t ours;
    atomic_store_explicit(&signals->posted, false, memory_order_relaxed);
    if (!worker)
        return;
    pthread_sigmask(SIG_SETMASK, signals->before, &ours);
    pthread_sigmask(SIG_SETMASK, &ours, NULL);
    if (CR__UNLIKELY(cr__forked()))
        cr__panic("a signal handler returned in a child of fork(), where there is no runtime: exec or _exit was meant");
}

static bool has_handler(int number)
{
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 &&
           ((action.sa_flags & SA_SIGINFO) || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN));
}

void cr__signals_take_over(struct cr__sched *sched)
{
    struct signals *signals = sched->workers[0]->rt;
    sigset_t pending, kernels, before;
    bool handled = false;
    sigemptyset(&kernels);
    sigpending(&pending);
    for (int s = 1; s < NSIG; s++) {
        if (sigismember(&pending, s) != 1 || sigismember(signals->before, s) == 1)
            continue;
        if (has_handler(s))
            handled = true;
        else
            sigaddset(&kernels, s);
    }
    pthread_sigmask(SIG_UNBLOCK, &kernels, &before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (handled && sched->count > 1 && !atomic_exchange_explicit(&signals->posted, true, memory_order_relaxed)) {
        signals->post.fn = deliver_here;
        (void)!cr__sched_tell(sched, &signals->post); /* if it has ended: they are the program's again at once */
    }
}

/* ---- For the program ---------------------------------------------------------------------------------------- */

int cr_signal_mask(sigset_t *set)
{
    struct cr__worker *worker;
    if (!cr__running(&worker))
        return -EPERM;
    *set = worker->sched->program_mask;
    return 0;
}

/* Of signals that the program has not blocked, its own handlers are to get hold. */
static bool are_the_programs(const struct cr__sched *sched, const sigset_t *set)
{
    bool any = false;
    for (int s = 1; s < NSIG; s++) {
        bool wanted = sigismember(set, s) == 1;
        if (wanted && sigismember(&sched->program_mask, s) != 1)
            return false;
        any |= wanted;
    }
    return any;
}

struct taking {
    sigset_t set;
    siginfo_t *info;
};

static ssize_t try_take(struct cr__fd_conn *c, void *arg)
{
    struct taking *taking = arg;
    (void)c; /* the signalfd only tells when */
    cr__io_hold(taking->info);
    int number = cr__os_take_signal(&taking->set, taking->info);
    cr__io_let_go(taking->info);
    return number;
}

ssize_t cr__fd_watch(int fd, int64_t deadline_ns, ssize_t (*attempt)(struct cr__fd_conn *c, void *arg), void *arg)
{
    struct cr__fd_conn *c;
    if (fd < 0)
        return fd;
    int r = cr__fd_conn_open(&c, fd, CR__FD_OTHER, &cr__stream_ops, true, false);
    if (r < 0) {
        cr__os_close(fd);
        return r;
    }
    ssize_t n = cr__transfer(c, CR__IN, deadline_ns, attempt, arg);
    cr__fd_conn_close(c);
    return n;
}

int cr_signal_wait_until(const sigset_t *set, siginfo_t *info, int64_t deadline_ns)
{
    cr__handed(set);
    cr__handed(info);
    struct cr__worker *worker;
    struct taking taking = {*set, info};
    if (!cr__running(&worker))
        return -EPERM;
    if (!are_the_programs(worker->sched, &taking.set))
        return -EINVAL;
    return (int)cr__fd_watch(cr__os_signalfd(&taking.set), deadline_ns, try_take, &taking);
}

int cr_signal_wait(const sigset_t *set, siginfo_t *info)
{
    cr__handed(set);
    cr__handed(info);
    return cr_signal_wait_until(set, info, CR_FOREVER);
}
