/* The test program's main, and mutants: the same test with one memory order weakened.
 *
 * A site is an atomic operation of the code under test with an order stronger than relaxed: file, function, operation, order. Where
 * it has been inlined several times, that is one site. --mutate explores each test once as it is, and then, in a child process, with each site it has come by
 * made weaker: acquire and release to relaxed, acq_rel to either half, seq_cst to acq_rel (of a load: acquire; of a store: release) and on. A
 * mutant is killed if something is found. One line for each, which mutants.py collects:
 *
 *     # mutant TAB killed|survived|unknown TAB file TAB function TAB operation TAB nth in that function TAB order TAB weaker TAB line TAB how
 *
 * What a test does itself is no site: nothing below tests/, but for sample.h, which is there to be mutated. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

#define SITES 1024
#define BUFFERED 256
#define SECONDS 900
#define MUTANT_SECONDS 300
#define CRASHED 99
#define SKIPPED 77 /* as in test.h */

extern int test_main(int argc, char **argv);
extern bool model__symbols;

struct site {
    const void *pc;
    uint8_t op, order, weakened;
    struct model__line line;
    int nth; /* 0: no site of the code under test */
};

static struct site sites[SITES]; /* a hash table by pc, op and order */
static const char *repeat;
static bool mutating;

static const char *const op_name[] = {"load", "store", "update", "compare", "failed compare", "fence"};
static const char *const outcome_name[] = {"holds", "assertion", "race", "deadlock", "memory", "endless", "limit", "misuse",
                                           "load buffering"};

unsigned model__site(const void *pc, enum model__op op, unsigned order)
{
    if (model__run.checking)
        return order;
    for (uintptr_t i = ((uintptr_t)pc * 64 + op * 8 + order) * 0x9e3779b97f4a7c15u >> 32;; i++) {
        struct site *site = &sites[i % SITES];
        if (site->pc == pc && site->op == op && site->order == order) /* compilers merge calls that differ in the order only */
            return site->weakened;
        if (!site->pc) {
            *site = (struct site){.pc = pc, .op = (uint8_t)op, .order = (uint8_t)order, .weakened = (uint8_t)order};
            return order;
        }
    }
}

/* ---- Load buffering ----------------------------------------------------------------------------------------- */

static struct {
    const void *read, *write;
} buffered[BUFFERED];
static int buffered_used;
static bool buffered_fails; /* what is new is a failure */

void model__buffered(const void *read, const void *write)
{
    for (int i = 0; i < buffered_used; i++)
        if (buffered[i].read == read && buffered[i].write == write)
            return;
    if (buffered_fails)
        model__fail(MODEL_BUFFERED, "a load may see a store that depends on it");
    if (buffered_used == BUFFERED)
        return;
    buffered[buffered_used].read = read;
    buffered[buffered_used++].write = write;
}

/* ---- One run ------------------------------------------------------------------------------------------------ */

struct model_result model_explore(const struct model_options *options, void (*setup)(void), void (*check)(void))
{
    static struct model_result result;
    model__symbols = true;
    model__explore(options, setup, check, NULL, true, &result);
    return result;
}

static void print_lines(const char *text)
{
    while (*text) {
        int n = (int)strcspn(text, "\n");
        printf("# %.*s\n", n, text);
        text += n + (text[n] == '\n');
    }
}

static void print_failure(const char *name, const struct model_result *result)
{
    printf("# %s: %s\n", outcome_name[result->outcome], result->what);
    print_lines(result->trace);
    printf("# to see it again: %s %s --repeat=CHOICES\n", program_invocation_short_name, name);
    fflush(stdout);
}

/* ---- Mutants ------------------------------------------------------------------------------------------------ */

static int by_line(const void *a, const void *b)
{
    const struct site *x = *(struct site *const *)a, *y = *(struct site *const *)b;
    int r = strcmp(x->line.function, y->line.function);
    r = r ? r : x->op - y->op;
    r = r ? r : x->order - y->order;
    return r ? r : strverscmp(x->line.where, y->line.where);
}

static bool alike(const struct site *a, const struct site *b)
{
    return a->op == b->op && a->order == b->order && strcmp(a->line.function, b->line.function) == 0;
}

/* The sites worth weakening, sorted and numbered. */
static int collect(struct site **out)
{
    static const void *pcs[SITES];
    static struct model__line lines[SITES];
    int n = 0;
    for (int i = 0; i < SITES; i++)
        if (sites[i].pc && sites[i].order != __ATOMIC_RELAXED) {
            pcs[n] = sites[i].pc;
            out[n++] = &sites[i];
        }
    model__lines(pcs, n, lines);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        out[i]->line = lines[i];
        if (strncmp(lines[i].where, "tests/", 6) != 0 || strstr(lines[i].where, "/sample.h:"))
            out[kept++] = out[i];
    }
    qsort(out, (size_t)kept, sizeof(*out), by_line);
    for (int i = 0; i < kept; i++) {
        struct site *before = i && alike(out[i - 1], out[i]) ? out[i - 1] : NULL;
        out[i]->nth = !before ? 1 : before->nth + (strcmp(before->line.where, out[i]->line.where) != 0);
    }
    return kept;
}

/* The orders that are weaker, the strongest of them first; ends with -1. */
static void weaker(enum model__op op, unsigned order, int out[4])
{
    bool reads = op == MODEL_OP_LOAD || op == MODEL_OP_FAILED_COMPARE;
    int n = 0;
    if (order == __ATOMIC_SEQ_CST && !reads && op != MODEL_OP_STORE)
        out[n++] = __ATOMIC_ACQ_REL;
    if ((order == __ATOMIC_SEQ_CST && op != MODEL_OP_STORE && !reads) || order == __ATOMIC_ACQ_REL ||
        (order == __ATOMIC_SEQ_CST && reads))
        out[n++] = __ATOMIC_ACQUIRE;
    if ((order == __ATOMIC_SEQ_CST && !reads) || order == __ATOMIC_ACQ_REL)
        out[n++] = __ATOMIC_RELEASE;
    if (n == 0 || (order == __ATOMIC_SEQ_CST && (reads || op == MODEL_OP_STORE)))
        out[n++] = __ATOMIC_RELAXED;
    out[n] = -1;
}

struct verdict {
    const char *word, *how;
};

/* Explores with all that are alike weakened. */
static struct verdict try(struct site *const *same, int n, int order, const struct model_options *options, void (*setup)(void),
                          void (*check)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        static struct model_result result;
        alarm(MUTANT_SECONDS);
        model__symbols = false;
        buffered_fails = true;
        for (int i = 0; i < n; i++)
            same[i]->weakened = (uint8_t)order;
        model__explore(options, setup, check, NULL, false, &result);
        _exit((int)result.outcome);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGALRM ? (struct verdict){"unknown", "took too long"} : (struct verdict){"killed", "crash"};
    int outcome = WEXITSTATUS(status);
    if (outcome == CRASHED)
        return (struct verdict){"killed", "crash"};
    if (outcome == MODEL_LIMIT || outcome == MODEL_MISUSE)
        return (struct verdict){"unknown", outcome_name[outcome]};
    return (struct verdict){outcome == MODEL_HOLDS ? "survived" : "killed", outcome_name[outcome]};
}

static void mutate(const struct model_options *options, void (*setup)(void), void (*check)(void))
{
    static struct site *found[SITES];
    int n = collect(found), same, orders[4];
    for (int i = 0; i < n; i += same) {
        const struct site *site = found[i];
        for (same = 1; i + same < n && alike(site, found[i + same]) && found[i + same]->nth == site->nth; same++)
            ;
        weaker(site->op, site->order, orders);
        struct verdict verdict = {"survived", ""};
        for (int j = 0; orders[j] >= 0; j++) {
            if (j == 0 || site->order != __ATOMIC_SEQ_CST || strcmp(verdict.word, "killed") != 0)
                verdict = try(&found[i], same, orders[j], options, setup, check);
            const char *line = strchr(site->line.where, ':');
            printf("# mutant\t%s\t%.*s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", verdict.word, (int)strcspn(site->line.where, ":"),
                   site->line.where, site->line.function, op_name[site->op], site->nth, model__order_name(site->order),
                   model__order_name((unsigned)orders[j]), line ? line + 1 : "?", verdict.how);
        }
    }
}

/* ---- A test's run ------------------------------------------------------------------------------------------- */

void model__run_test(const char *name, const struct model_options *options, void (*setup)(void), void (*check)(void))
{
    static struct model_result result;
    if (RUNNING_ON_VALGRIND) {
        printf("# skipped: under valgrind this takes too long, and finds nothing more\n");
        fflush(stdout);
        _exit(SKIPPED);
    }
    if (mutating && options && options->unmutated)
        return;
    alarm(mutating ? 0 : SECONDS);
    model__symbols = true;
    model__explore(options, setup, check, repeat, true, &result);
    if (repeat && result.outcome == MODEL_HOLDS) {
        model__trace(result.trace, sizeof(result.trace));
        print_lines(result.trace);
    }
    printf("# %s: %lu executions, %lu cut short, up to %u events, %.2f s\n", name, result.executions, result.cut, result.events_max,
           result.seconds);
    if (result.outcome != MODEL_HOLDS) {
        print_failure(name, &result);
        _exit(1);
    }
    for (int i = 0; getenv("MODEL_BUFFERED") && i < buffered_used; i++)
        printf("# no order but by dependency: load at %s, store at %s\n", model__line(buffered[i].read).where, model__line(buffered[i].write).where);
    if (mutating)
        mutate(options, setup, check);
}

/* The code under test has broken down. */
static void on_crash(int number)
{
    static volatile sig_atomic_t once;
    if (model__run.current < 0 || once++) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (model__symbols) {
        char name[64];
        model__user = MODEL_OUTSIDE;
        model__trace(model__result->trace, sizeof(model__result->trace));
        printf("# crash: signal %d in %s\n", number, model__thread_name(model__run.current, name, sizeof(name)));
        print_lines(model__result->trace);
        fflush(stdout);
    }
    _exit(CRASHED);
}

int main(int argc, char **argv)
{
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--mutate") == 0)
            mutating = true;
        else if (strncmp(argv[i], "--repeat=", 9) == 0)
            repeat = argv[i] + 9;
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof(crashes) / sizeof(*crashes); i++)
        sigaction(crashes[i], &(struct sigaction){.sa_handler = on_crash, .sa_flags = SA_ONSTACK | SA_NODEFER}, NULL);
    return test_main(kept, argv);
}
