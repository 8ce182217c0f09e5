/* The monitor: a thread that sees when a worker does not move, and has dumps made.
 *
 * A worker that runs shows it: its loop counts its turns, each switch changes the chain's budget. One whose two numbers have not changed since the last look, and that does not
 * sleep in its poller, runs one coroutine since then (or is in its loop, which the sight tells). What is stuck so
 *     for a look                has its ring emptied by others: one that sleeps is roused, to steal. What can't be taken from it: what it was about to run next (`next`),
 *                               what has started there and stays, what was sent to it, and what was placed on it. Of worker 0, the process's signals are taken, too
 *     for slow_ns               is counted, and reported, once per function
 *
 * Time counts only as far as the monitor itself was on time: if a debugger, or a machine that is overloaded, holds up the whole process, nobody is blamed for it.
 *
 * It looks every 10 ms while a worker is awake, and half as often with each look that finds all asleep, down to three times a second. A runtime of one worker of which
 * nobody wants to know what is slow, nor at SIGQUIT, has no such thread before somebody asks for a dump.
 *
 * SIGQUIT comes to this thread, if to no other: the workers may all be stuck. All other signals are blocked here. */
#include "sched/monitor.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "obs/obs.h"
#include "os/os.h"

#define LOOK_NS (10ll * 1000000)
#define SHORTEST_LOOK_NS (1ll * 1000000)
#define LONGEST_LOOK_NS (320ll * 1000000)
#define LATE_NS (20ll * 1000000) /* later than that, time does not count */
#define TOLD_MAX 64
#define STACK_BYTES ((size_t)512 << 10) /* symbols are looked up here */

struct seen {
    uint64_t turns;
    int budget;
    bool known;     /* the two are of the last look */
    bool counted;   /* as slow */
    bool taken_over;
    int64_t ran_ns; /* since the first look that found them so */
};

struct cr__watch {
    struct cr__sched *sched;
    pthread_t thread;
    pthread_mutex_t lock;
    struct cr__dump_request *requests, **requests_end;
    _Atomic bool stop;
    _Atomic uint64_t looks;
    unsigned quits;
    int64_t look_ns;        /* from one look to the next while somebody runs, */
    int64_t step_ns;        /* now, */
    int64_t before_ns;      /* and when the last one was */
    unsigned told;
    void (*told_of[TOLD_MAX])(void);
    struct seen seen[];
};

/* All monitors of the process wait for one bell: it rings seldom, and a signal handler can ring it. */
static _Atomic uint32_t bell;
static _Atomic unsigned quits;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cr__sched *list; /* all runtimes that run, by `watched_next` */
static unsigned quit_users;
static bool quit_installed;

static void ring(void)
{
    atomic_fetch_add_explicit(&bell, 1, memory_order_release);
    cr__os_futex_wake_all(&bell);
}

/* ---- Stuck workers ------------------------------------------------------------------------------------------ */

struct takeover {
    struct cr__post post;
    struct cr__worker *stuck;
};

static void do_takeover(struct cr__worker *here, struct cr__post *post)
{
    struct takeover *takeover = CR__CONTAINER(post, struct takeover, post);
    void (*fn)(struct cr__worker *, struct cr__worker *) = atomic_load(&here->sched->take_over);
    if (fn)
        fn(here, takeover->stuck);
    cr__mem_free(takeover, sizeof(*takeover), CR__MEM_OTHER);
}

/* Returns whether it was sent. */
static bool send_takeover(struct cr__sched *s, struct cr__worker *stuck)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (s->workers[i] == stuck || !cr__worker_asleep(s->workers[i]))
            continue;
        struct takeover *takeover = cr__mem_alloc(sizeof(*takeover), CR__MEM_OTHER);
        if (!takeover)
            return false;
        *takeover = (struct takeover){.post.fn = do_takeover, .stuck = stuck};
        bool sent = cr__post_from_outside(s, s->workers[i], &takeover->post);
        if (!sent)
            cr__mem_free(takeover, sizeof(*takeover), CR__MEM_OTHER);
        return sent;
    }
    return false;
}

static void help(struct cr__sched *s, struct cr__worker *stuck, struct seen *seen)
{
    if (s->count == 1 || cr__sched_idle(s) == 0)
        return;
    atomic_store_explicit(&stuck->generous, true, memory_order_relaxed); /* until its next turn */
    if (cr__runq_length(&stuck->stealable) > 0 || cr__runq_length(&stuck->wanderers) > 0 ||
        atomic_load_explicit(&s->injection.batches, memory_order_relaxed) > 0 || atomic_load_explicit(&s->any_told, memory_order_relaxed))
        cr__sched_wake_one(s);
    if (!seen->taken_over && atomic_load_explicit(&s->take_over, memory_order_relaxed))
        seen->taken_over = send_takeover(s, stuck);
}

static void take_signals(struct cr__sched *s, const struct cr__worker *stuck)
{
    void (*fn)(struct cr__sched *) = atomic_load_explicit(&s->take_signals, memory_order_relaxed);
    if (fn && stuck->index == 0)
        fn(s);
}

/* ---- Slow coroutines ---------------------------------------------------------------------------------------- */

/* Whether it is the first time that this function is told of; at most TOLD_MAX are. */
static bool first_time(struct cr__watch *watch, void (*entry)(void))
{
    for (unsigned i = 0; i < watch->told; i++) {
        if (watch->told_of[i] == entry)
            return false;
    }
    if (watch->told == TOLD_MAX)
        return false;
    watch->told_of[watch->told++] = entry;
    return true;
}

static void tell_slow(struct cr__watch *watch, struct cr__worker *w, const struct cr__sight *sight, int64_t ran_ns)
{
    void *pcs[CR__TALLY_FRAMES];
    char function[128];
    const char *why;
    struct cr__out out;
    unsigned frames = cr__sight_frames(w, sight, pcs, CR__TALLY_FRAMES, &why);
    cr__out_init(&out, watch->sched->report_fd, &watch->stop);
    cr__out_put(&out, "crore: ");
    cr__out_who(&out, sight->id, sight->name);
    cr__out_put(&out, " in %s has run for %.0f ms on worker %u without suspending; what else waits there is late\n",
                cr__symbol_of((void *)sight->entry, function, sizeof(function)), (double)ran_ns / 1e6, w->index);
    cr__out_frames(&out, pcs, frames, true);
    if (frames == 0)
        cr__out_put(&out, "    (no backtrace: %s)\n", why);
    cr__out_put(&out, "  of others in %s only the number is kept (slow in struct cr_stats)\n", function);
    cr__out_flush(&out);
}

static void look_at_slow(struct cr__watch *watch, struct cr__worker *w, struct seen *seen)
{
    struct cr__sight sight;
    cr__sight_take(w, &sight);
    if (!sight.coroutine || sight.turns != seen->turns || sight.budget != seen->budget)
        return;
    seen->counted = true;
    cr__count(&w->counters.slow, 1); /* nobody else does */
    if (first_time(watch, sight.entry))
        tell_slow(watch, w, &sight, seen->ran_ns);
}

/* ---- Looking ------------------------------------------------------------------------------------------------ */

/* Returns whether it is awake. */
static bool look_at(struct cr__watch *watch, struct cr__worker *w, struct seen *seen, int64_t passed_ns)
{
    struct cr__sched *s = watch->sched;
    uint64_t turns = atomic_load_explicit(&w->turns, memory_order_relaxed);
    int budget = atomic_load_explicit(&w->budget, memory_order_relaxed);
    if (cr__worker_asleep(w)) {
        seen->known = false;
        return false;
    }
    if (!seen->known || seen->turns != turns || seen->budget != budget) {
        *seen = (struct seen){.turns = turns, .budget = budget, .known = true};
        return true;
    }
    seen->ran_ns += passed_ns;
    help(s, w, seen);
    take_signals(s, w);
    if (s->slow_ns >= 0 && seen->ran_ns >= s->slow_ns && !seen->counted)
        look_at_slow(watch, w, seen);
    return true;
}

static bool look_at_all(struct cr__watch *watch, int64_t passed_ns)
{
    bool awake = false;
    for (unsigned i = 0; i < watch->sched->count; i++)
        awake |= look_at(watch, watch->sched->workers[i], &watch->seen[i], passed_ns);
    atomic_fetch_add_explicit(&watch->looks, 1, memory_order_relaxed);
    return awake;
}

int64_t cr__watch_look(struct cr__watch *watch)
{
    int64_t now_ns = cr__os_kernel_ns(), passed_ns = now_ns - watch->before_ns, step_ns = watch->step_ns;
    if (passed_ns < step_ns)
        return step_ns - passed_ns;
    bool awake = look_at_all(watch, passed_ns > step_ns + LATE_NS ? step_ns + LATE_NS : passed_ns);
    watch->before_ns = now_ns;
    watch->step_ns = awake ? watch->look_ns : 2 * step_ns < LONGEST_LOOK_NS ? 2 * step_ns : LONGEST_LOOK_NS;
    return watch->step_ns;
}

int64_t cr__watch_ran_ns(struct cr__watch *watch, unsigned worker, const struct cr__sight *sight)
{
    const struct seen *seen = &watch->seen[worker];
    return seen->known && seen->turns == sight->turns && seen->budget == sight->budget ? seen->ran_ns : 0;
}

/* ---- Requests ----------------------------------------------------------------------------------------------- */

void cr__dump_request_put(struct cr__dump_request *request)
{
    if (atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel) > 1)
        return;
    cr__os_close(request->fd);
    cr__mem_free(request, sizeof(*request), CR__MEM_OTHER);
}

/* On the worker of a coroutine that waits, or waited. */
static void wake_waiter(struct cr__worker *w, struct cr__post *post)
{
    struct cr__dump_request *request = CR__CONTAINER(post, struct cr__dump_request, post);
    cr__spin_lock(&request->lock);
    if (request->waiter)
        cr__wake(w, request->waiter, CR__WOKEN);
    request->waiter = NULL;
    cr__spin_unlock(&request->lock);
    cr__dump_request_put(request);
}

static void finish(struct cr__watch *watch, struct cr__dump_request *request)
{
    atomic_store_explicit(&request->done, 1, memory_order_release);
    cr__os_futex_wake_all(&request->done);
    request->post.fn = wake_waiter;
    if (!request->worker || !cr__post_from_outside(watch->sched, request->worker, &request->post))
        cr__dump_request_put(request);
}

static struct cr__dump_request *take_request(struct cr__watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    struct cr__dump_request *request = watch->requests;
    if (request) {
        watch->requests = request->next;
        if (!watch->requests)
            watch->requests_end = &watch->requests;
    }
    pthread_mutex_unlock(&watch->lock);
    return request;
}

static void serve(struct cr__watch *watch)
{
    struct cr__sched *s = watch->sched;
    unsigned now = atomic_load_explicit(&quits, memory_order_relaxed);
    if (now != watch->quits && s->tells_at_quit)
        cr__dump_conduct(watch, s, s->report_fd, &watch->stop);
    watch->quits = now;
    for (struct cr__dump_request *request; (request = take_request(watch)) != NULL;) {
        cr__dump_conduct(watch, s, request->fd, &watch->stop);
        finish(watch, request);
    }
}

/* ---- The thread --------------------------------------------------------------------------------------------- */

static bool watches(const struct cr__sched *s)
{
    return s->count > 1 || s->slow_ns >= 0;
}

static void *watch_main(void *arg)
{
    struct cr__watch *watch = arg;
    bool looks = watches(watch->sched);
    for (;;) {
        uint32_t heard = atomic_load_explicit(&bell, memory_order_acquire);
        if (atomic_load_explicit(&watch->stop, memory_order_acquire))
            return NULL;
        serve(watch);
        cr__os_futex_wait(&bell, heard, looks ? cr__watch_look(watch) : -1);
    }
}

void cr__watch_quit(void)
{
    atomic_fetch_add_explicit(&quits, 1, memory_order_relaxed);
    ring();
}

uint64_t cr__watch_looks(const struct cr__sched *s)
{
    return s->watch ? atomic_load_explicit(&s->watch->looks, memory_order_relaxed) : 0;
}

/* ---- SIGQUIT ------------------------------------------------------------------------------------------------ */

static void on_quit(int number)
{
    (void)number;
    cr__watch_quit();
}

/* Under list_lock. Whether SIGQUIT is ours: it was at its default when the first runtime that wants it began. */
static bool quit_enter_locked(void)
{
    struct sigaction present, ours = {.sa_handler = on_quit, .sa_flags = SA_RESTART};
    sigemptyset(&ours.sa_mask);
    sigaction(SIGQUIT, NULL, &present);
    bool free = !(present.sa_flags & SA_SIGINFO) && present.sa_handler == SIG_DFL;
    if (free)
        quit_installed = sigaction(SIGQUIT, &ours, NULL) == 0;
    else if (present.sa_handler != on_quit)
        return false;
    quit_users += quit_installed;
    return quit_installed;
}

static void quit_leave_locked(void)
{
    struct sigaction present;
    if (--quit_users > 0)
        return;
    sigaction(SIGQUIT, NULL, &present);
    if (!(present.sa_flags & SA_SIGINFO) && present.sa_handler == on_quit)
        signal(SIGQUIT, SIG_DFL);
    quit_installed = false;
}

/* ---- A child of fork ---------------------------------------------------------------------------------------- */

/* It has no monitor, nor a runtime. */
static void in_child(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    list_lock = fresh;
    list = NULL;
    if (quit_users > 0) {
        quit_users = 1;
        quit_leave_locked();
    }
}

static void care_for_children(void)
{
    (void)!pthread_atfork(NULL, NULL, in_child);
}

/* ---- A monitor's life --------------------------------------------------------------------------------------- */

static size_t watch_bytes(unsigned count)
{
    return sizeof(struct cr__watch) + count * sizeof(struct seen);
}

static int start_thread(struct cr__watch *watch)
{
    sigset_t all, before;
    pthread_attr_t attr;
    sigfillset(&all);
    if (watch->sched->tells_at_quit)
        sigdelset(&all, SIGQUIT);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&watch->thread, &attr, watch_main, watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -r;
}

static void watch_free(struct cr__watch *watch)
{
    pthread_mutex_destroy(&watch->lock);
    cr__mem_free(watch, watch_bytes(watch->sched->count), CR__MEM_OTHER);
}

/* Under list_lock. */
static int watch_start_locked(struct cr__sched *s)
{
    struct cr__watch *watch = cr__mem_alloc(watch_bytes(s->count), CR__MEM_OTHER);
    if (!watch)
        return -ENOMEM;
    watch->sched = s;
    watch->requests_end = &watch->requests;
    watch->quits = atomic_load_explicit(&quits, memory_order_relaxed);
    watch->look_ns = s->slow_ns >= 0 && s->slow_ns / 2 < LOOK_NS ? s->slow_ns / 2 : LOOK_NS;
    if (watch->look_ns < SHORTEST_LOOK_NS)
        watch->look_ns = SHORTEST_LOOK_NS;
    watch->step_ns = watch->look_ns;
    watch->before_ns = cr__os_kernel_ns();
    pthread_mutex_init(&watch->lock, NULL);
    int r = start_thread(watch);
    if (r < 0) {
        watch_free(watch);
        return r;
    }
    s->watch = watch;
    return 0;
}

void cr__watch_start(struct cr__sched *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, care_for_children);
    pthread_mutex_lock(&list_lock);
    if (s->tells_at_quit)
        s->tells_at_quit = quit_enter_locked();
    if (watches(s) || s->tells_at_quit)
        (void)!watch_start_locked(s);
    s->watched = true;
    s->watched_next = list;
    list = s;
    pthread_mutex_unlock(&list_lock);
}

void cr__watch_stop(struct cr__sched *s)
{
    pthread_mutex_lock(&list_lock);
    struct cr__watch *watch = s->watch;
    struct cr__sched **at = &list;
    while (*at != s)
        at = &(*at)->watched_next;
    *at = s->watched_next;
    s->watched = false;
    if (s->tells_at_quit)
        quit_leave_locked();
    s->tells_at_quit = false;
    pthread_mutex_unlock(&list_lock);
    if (!watch)
        return;
    atomic_store_explicit(&watch->stop, true, memory_order_release);
    ring();
    pthread_join(watch->thread, NULL);
    for (struct cr__dump_request *request; (request = take_request(watch)) != NULL;)
        finish(watch, request);
    s->watch = NULL;
    watch_free(watch);
}

/* ---- cr_dump ------------------------------------------------------------------------------------------------ */

static int request_make(int fd, struct cr__dump_request **out)
{
    int own = cr__os_dup(fd); /* the caller may close it, if it does not wait to the end */
    if (own < 0)
        return own;
    struct cr__dump_request *request = cr__mem_alloc(sizeof(*request), CR__MEM_OTHER);
    if (!request) {
        cr__os_close(own);
        return -ENOMEM;
    }
    request->references = 1;
    request->fd = own;
    *out = request;
    return 0;
}

/* Under list_lock, so that the monitor is not stopped meanwhile. */
static int submit_locked(struct cr__sched *s, struct cr__dump_request *request)
{
    int r = s->watched ? 0 : -ESRCH;
    if (r == 0 && !s->watch)
        r = watch_start_locked(s);
    if (r < 0)
        return r;
    struct cr__watch *watch = s->watch;
    atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
    pthread_mutex_lock(&watch->lock);
    request->next = NULL;
    *watch->requests_end = request;
    watch->requests_end = &request->next;
    pthread_mutex_unlock(&watch->lock);
    ring();
    return 0;
}

/* By a coroutine: suspends until it is done. Cancelled, it does not wait, but a dump is made. */
static int dump_inside(struct cr__worker *w, struct cr__record *me, struct cr__dump_request *request)
{
    pthread_mutex_lock(&list_lock);
    int begun = cr__wait_begin(w, me, CR__WAIT_BLOCKING, NULL, CR_FOREVER);
    if (begun == 0) {
        request->waiter = me;
        request->worker = w;
    }
    int r = submit_locked(w->sched, request);
    pthread_mutex_unlock(&list_lock);
    if (begun < 0)
        return r < 0 ? r : begun;
    if (r < 0 && cr__park_abandon(&me->word, w->alone))
        return r;
    cr__wait_outside(w, 1);
    int ended = cr__wait_suspend(w, me, CR_FOREVER);
    cr__wait_outside(cr__worker_here(), -1);
    cr__spin_lock(&request->lock);
    request->waiter = NULL;
    cr__spin_unlock(&request->lock);
    return r < 0 ? r : ended;
}

/* From a thread of nobody's: each runtime, one after the other. */
static int dump_from_outside(int fd)
{
    if (cr__forked())
        return -EPERM;
    struct cr__dump_request *waiting = NULL, *next;
    int r = -ESRCH;
    pthread_mutex_lock(&list_lock);
    for (struct cr__sched *s = list; s; s = s->watched_next) {
        struct cr__dump_request *request;
        r = request_make(fd, &request);
        if (r < 0)
            break;
        r = submit_locked(s, request);
        if (r < 0) {
            cr__dump_request_put(request);
            break;
        }
        request->callers_next = waiting;
        waiting = request;
    }
    pthread_mutex_unlock(&list_lock);
    for (struct cr__dump_request *request = waiting; request; request = next) {
        next = request->callers_next;
        while (atomic_load_explicit(&request->done, memory_order_acquire) == 0)
            cr__os_futex_wait(&request->done, 0, -1);
        cr__dump_request_put(request);
    }
    return r;
}

int cr_dump(int fd)
{
    struct cr__worker *w = cr__worker_here();
    if (!w)
        return dump_from_outside(fd);
    struct cr__record *me = cr__running(&w);
    if (!me)
        return -EPERM; /* a signal handler on the worker's own stack, which can not wait */
    struct cr__dump_request *request;
    int r = request_make(fd, &request);
    if (r < 0)
        return r;
    r = dump_inside(w, me, request);
    cr__dump_request_put(request);
    return r;
}
