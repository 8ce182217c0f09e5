/* What is told when a run under a seed ends badly: the seed. A result below 0; a broken assertion, the program's or ours, and what else raises SIGABRT, SIGFPE or SIGILL and is
 * at its default; a fault (`stack` calls, whose handler it is); exit() in the midst of the run with anything but 0. Not told: _exit, and signals that somebody sends. */
#include "sim/sim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "os/os.h"
#include "stack/stack.h"

static const int fatal[] = {SIGABRT, SIGFPE, SIGILL};

static struct {
    _Atomic bool due; /* by whoever takes it away */
    int fd;
    int length;
    pid_t process;    /* a child of fork has not failed */
    struct cr__trace *trace;
    char text[96];
} words;

/* On a stack that may be almost used up, in a signal handler: so without printf. */
static void say(void)
{
    if (!atomic_load_explicit(&words.due, memory_order_relaxed) || words.process != getpid() || !atomic_exchange_explicit(&words.due, false, memory_order_relaxed))
        return;
    (void)!cr__os_write(words.fd, words.text, (size_t)words.length);
    cr__trace_flush(words.trace);
}

/* With SA_RESETHAND: it is raised once more, and ends the program as it would have. */
static void on_fatal(int number)
{
    say();
    raise(number);
}

#ifdef __GLIBC__
static void on_leave(int status, void *unused)
{
    (void)unused;
    if (status != 0)
        say();
}
#endif

static bool is_default(int number)
{
    struct sigaction present;
    return sigaction(number, NULL, &present) == 0 && !(present.sa_flags & SA_SIGINFO) && present.sa_handler == SIG_DFL;
}

static bool is_ours(int number)
{
    struct sigaction present;
    return sigaction(number, NULL, &present) == 0 && !(present.sa_flags & SA_SIGINFO) && present.sa_handler == on_fatal;
}

void cr__words_enter(uint64_t seed, int report_fd, struct cr__trace *trace)
{
    words.fd = report_fd;
    words.trace = trace;
    words.process = getpid();
    words.length = snprintf(words.text, sizeof(words.text), "crore: this was a run under a seed: CR_SEED=%llu repeats it\n", (unsigned long long)seed);
    atomic_store(&words.due, true);
    struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_ONSTACK | SA_RESETHAND | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < CR__COUNT(fatal); i++) {
        if (is_default(fatal[i]))
            sigaction(fatal[i], &action, NULL);
    }
    atomic_store(&cr__stack_last_words, say);
#ifdef __GLIBC__
    static bool watched;
    if (!watched)
        watched = on_exit(on_leave, NULL) == 0;
#endif
}

/* What the program has put there meanwhile stays. */
void cr__words_leave(int result)
{
    if (result < 0)
        say();
    atomic_store(&words.due, false);
    atomic_store(&cr__stack_last_words, NULL);
    for (unsigned i = 0; i < CR__COUNT(fatal); i++) {
        if (is_ours(fatal[i]))
            signal(fatal[i], SIG_DFL);
    }
}
