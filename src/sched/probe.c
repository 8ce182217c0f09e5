/* What runs on a worker, seen from another thread.
 *
 * Which coroutine it is: copied by the kernel (cr__os_peek: nothing that is gone can fault, and it is no access of ours), and believed if the worker has not switched
 * meanwhile, which its counters show.
 *
 * Its backtrace only its own thread can make: in a signal handler, on the alternate stack that stack/overflow.c has set up, since a coroutine's stack need not hold a
 * signal frame. The signal is the highest real-time one, below SIGRTMAX itself, that the program leaves at its default disposition when the first runtime starts: programs
 * count from SIGRTMIN up, valgrind and some debuggers use SIGRTMAX. The handler stays for good, since nothing says who is about to send it last. It asks libunwind,
 * which allocates nothing but waits for the loader's lock: as a profiler does.
 *
 * A signal ends some system calls with EINTR even though SA_RESTART is set (signal(7)); a program that blocks all signals on its workers may not expect that. So a
 * thread that is inside a system call is left alone, unless it is one that the kernel restarts. */
#include "sched/monitor.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

#include "obs/obs.h"
#include "os/os.h"

#define PROBE_FRAMES 64
#define PATIENCE_NS (250ll * 1000000)
#define STEP_NS (1ll * 1000000)
#define INNER_MAX 64 /* bare coroutines inside one another */

/* ---- Which coroutine ---------------------------------------------------------------------------------------- */

static void moves(struct cr__worker *w, uint64_t *turns, int *budget)
{
    *turns = atomic_load_explicit(&w->turns, memory_order_relaxed);
    *budget = atomic_load_explicit(&w->budget, memory_order_relaxed);
}

static bool moved(struct cr__worker *w, const struct cr__sight *sight)
{
    uint64_t turns;
    int budget;
    moves(w, &turns, &budget);
    return turns != sight->turns || budget != sight->budget;
}

/* The scheduled coroutine inside which `at` runs. */
static bool peek_scheduled(const struct cr_co *at, struct cr_co *co)
{
    for (int i = 0; i < INNER_MAX && cr__os_peek(co, at, sizeof(*co)) == 0; i++) {
        if (cr__co_state(co) == CR__CO_SCHEDULED)
            return true;
        if (cr__co_state(co) != CR__CO_RUNNING)
            return false;
        at = co->below;
    }
    return false;
}

/* Of a task only what is its own: in front of that lies another one. */
static bool peek_running(struct cr__worker *w, struct cr_co *co)
{
    struct cr_co *current, *task;
    if (cr__os_peek(&current, &w->self->current, sizeof(current)) != 0 || cr__os_peek(&task, &w->self->task, sizeof(task)) != 0)
        return false;
    if (!task)
        return current != &w->loop && peek_scheduled(current, co);
    return cr__os_peek((char *)co + CR__CO_STACKFUL_BYTES, (const char *)task + CR__CO_STACKFUL_BYTES,
                       sizeof(*co) - CR__CO_STACKFUL_BYTES) == 0;
}

void cr__sight_take(struct cr__worker *w, struct cr__sight *out)
{
    struct cr_co co;
    memset(out, 0, sizeof(*out));
    moves(w, &out->turns, &out->budget);
    atomic_thread_fence(memory_order_seq_cst);
    if (cr__worker_asleep(w) || !peek_running(w, &co))
        return;
    out->id = co.id;
    out->entry = co.entry;
    if (co.cold && cr__os_peek(out->name, co.cold, sizeof(out->name)) != 0) /* a cold part begins with the name */
        out->name[0] = '\0';
    out->name[sizeof(out->name) - 1] = '\0';
    atomic_thread_fence(memory_order_seq_cst);
    out->coroutine = !moved(w, out);
}

/* ---- Its backtrace ------------------------------------------------------------------------------------------ */

struct asked {
    int tid;
    unsigned count;
    _Atomic bool done;
    void *pcs[PROBE_FRAMES];
};

static pthread_mutex_t probing = PTHREAD_MUTEX_INITIALIZER; /* one at a time in the process */
static _Atomic(struct asked *) asked;
static pthread_once_t chosen = PTHREAD_ONCE_INIT;
static int signo;

/* Whoever takes `asked` away, the handler or who gave up waiting, has it. */
static void on_probe(int number, siginfo_t *info, void *ucontext)
{
    (void)number;
    (void)info;
    struct asked *a = atomic_load_explicit(&asked, memory_order_acquire);
    if (!a || !atomic_compare_exchange_strong_explicit(&asked, &a, NULL, memory_order_acquire, memory_order_relaxed))
        return;
    const ucontext_t *context = ucontext;
    int saved = errno; /* libunwind's calls may change it */
    if (a->tid == cr__os_tid() && !(context->uc_stack.ss_flags & SS_DISABLE))
        a->count = cr__unwind_interrupted(ucontext, a->pcs, PROBE_FRAMES);
    errno = saved;
    atomic_store_explicit(&a->done, true, memory_order_release);
}

static bool is_default(int number)
{
    struct sigaction present;
    return sigaction(number, NULL, &present) == 0 && !(present.sa_flags & SA_SIGINFO) && present.sa_handler == SIG_DFL;
}

static void choose(void)
{
#if defined(CR__TSAN) || !defined(CR__HAVE_LIBUNWIND)
    return; /* ThreadSanitizer calls handlers later, when the thread does something else */
#endif
#ifdef CR__HAVE_VALGRIND
    if (RUNNING_ON_VALGRIND)
        return;
#endif
    int number = SIGRTMAX - 1;
    while (number > SIGRTMIN && !is_default(number))
        number--;
    struct sigaction action = {.sa_sigaction = on_probe, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigfillset(&action.sa_mask);
    if (number > SIGRTMIN && sigaction(number, &action, NULL) == 0)
        signo = number;
}

int cr__probe_signal(void)
{
    pthread_once(&chosen, choose);
    return signo;
}

static bool still_ours(void)
{
    struct sigaction present;
    return cr__probe_signal() != 0 && sigaction(signo, NULL, &present) == 0 && (present.sa_flags & SA_SIGINFO) &&
           present.sa_sigaction == on_probe;
}

static bool restarted(long number)
{
    static const long calls[] = {SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_openat, SYS_flock, SYS_fcntl,
                                 SYS_fsync, SYS_fdatasync, SYS_wait4, SYS_waitid, SYS_sendfile, SYS_copy_file_range};
    for (size_t i = 0; i < CR__COUNT(calls); i++) {
        if (calls[i] == number)
            return true;
    }
    return false;
}

static ssize_t read_task(int tid, const char *file, char *text, size_t size_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, file);
    int fd = cr__os_open(path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    ssize_t n = cr__os_read(fd, text, size_bytes - 1);
    cr__os_close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n;
}

/* Whether a signal would do no harm; it reads "running", or the call's number and arguments. Without /proc: no. */
static bool may_be_interrupted(int tid)
{
    char text[256];
    long number;
    if (read_task(tid, "syscall", text, sizeof(text)) <= 0) {
        if (read_task(tid, "stat", text, sizeof(text)) <= 0)
            return false;
        const char *state = strrchr(text, ')');
        return state && state[1] == ' ' && state[2] == 'R';
    }
    return strncmp(text, "running", 7) == 0 || (sscanf(text, "%ld", &number) == 1 && restarted(number));
}

static unsigned ask(int tid, void **pcs, unsigned most)
{
    struct asked a = {.tid = tid};
    atomic_store_explicit(&asked, &a, memory_order_release);
    bool sent = cr__os_tgkill(tid, signo) == 0;
    _Atomic uint32_t nobody = 0;
    for (int64_t waited_ns = 0; sent && waited_ns < PATIENCE_NS && !atomic_load_explicit(&a.done, memory_order_acquire);
         waited_ns += STEP_NS)
        cr__os_futex_wait(&nobody, 0, STEP_NS);
    struct asked *mine = &a;
    if (!atomic_compare_exchange_strong(&asked, &mine, NULL)) { /* the handler has it: it is about to be done */
        while (!atomic_load_explicit(&a.done, memory_order_acquire))
            cr__os_futex_wait(&nobody, 0, STEP_NS);
    }
    unsigned count = a.count < most ? a.count : most;
    memcpy(pcs, a.pcs, count * sizeof(pcs[0]));
    return count;
}

unsigned cr__sight_frames(struct cr__worker *w, const struct cr__sight *sight, void **pcs, unsigned most, const char **why)
{
    unsigned count = 0;
    *why = "none can be made here";
    if (!still_ours())
        return 0;
    *why = "it is in a system call that a signal would end";
    if (!may_be_interrupted(w->tid))
        return 0;
    cr__unwind_prepare(); /* not before it is needed: libunwind keeps a pipe from then on */
    pthread_mutex_lock(&probing);
    if (!moved(w, sight))
        count = ask(w->tid, pcs, most);
    pthread_mutex_unlock(&probing);
    *why = "it went on";
    return moved(w, sight) ? 0 : count;
}
