/* A small harness for tests by behaviour. Each TEST runs in a child process with a time limit, so that a crash or a hang fails that
 * test alone; the program prints TAP.
 *
 *     TEST(what_it_shows) { CHECK(1 + 1 == 2); }
 *     TEST_CO(what_it_shows_in_a_coroutine) { CHECK(cr_yield() == 0); }
 *
 * Options: a name runs that test only; --list; --no-fork runs all in this process (for debuggers and valgrind). */
#ifndef CR_TEST_H
#define CR_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif

/* First thing in a test that looks at what the system says of memory, or makes very many coroutines: ThreadSanitizer has memory, and mappings, of its own for each. */
#if defined(__SANITIZE_THREAD__)
#define TEST_THREADS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_THREADS_SANITIZED 1
#endif
#endif
#ifdef TEST_THREADS_SANITIZED
#define SKIP_WITH_THREAD_SANITIZER() SKIP("ThreadSanitizer has memory of its own for each coroutine")
#else
#define SKIP_WITH_THREAD_SANITIZER() ((void)0)
#endif

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

/* Whether that is the kind of stack of coroutines that ask for none. With shared ones a test keeps elsewhere what it hands to others. */
static inline bool test_stacks_are(const char *kind)
{
    const char *said = getenv("CR_STACK");
    return strcmp(said && *said ? said : "static", kind) == 0;
}

/* Whether virtual stacks are frozen all the time, so that what a parked coroutine takes, and what the kernel is asked, means nothing. */
static inline bool test_freezes(void)
{
    return test_stacks_are("virtual") && getenv("CR_FREEZE_AFTER_NS");
}

/* First thing in a test of what is in use at the budget, or goes back after a peak: stacks of this kind give back what they don't need as soon as they are parked. */
#define SKIP_WHILE_FREEZING()                                                                                          \
    do {                                                                                                               \
        if (test_freezes())                                                                                            \
            SKIP("parked stacks give back their pages");                                                               \
    } while (0)

/* Whether the environment has runtimes run under a seed (docs/sim.md), so that the order of what is ready is not that of arrival. */
static inline bool test_under_seed(void)
{
    const char *seed = getenv("CR_SEED");
    return seed && *seed;
}

/* First thing in a test of several workers. */
#define SKIP_SEVERAL_UNDER_SEED()                                                                                      \
    do {                                                                                                               \
        if (test_under_seed())                                                                                         \
            SKIP("under a seed there is one worker");                                                                  \
    } while (0)

/* First thing in a test of the usual order. */
#define SKIP_UNDER_SEED()                                                                                              \
    do {                                                                                                               \
        if (test_under_seed())                                                                                         \
            SKIP("the order is the seed's");                                                                           \
    } while (0)

#define TEST_SECONDS 60
#define TEST_SKIPPED 77

struct test {
    const char *name;
    void (*fn)(void);
    struct test *next;
};

static struct test *test_first, **test_last = &test_first;
static const struct test *test_current __attribute__((unused)); /* the one that runs: several may have the same function */

static inline void test_add(struct test *test)
{
    *test_last = test;
    test_last = &test->next;
}

#define TEST(test_name)                                                                                                \
    static void test_name(void);                                                                                       \
    static struct test test_of_##test_name = {#test_name, test_name, NULL};                                            \
    __attribute__((constructor)) static void test_add_##test_name(void)                                                \
    {                                                                                                                  \
        test_add(&test_of_##test_name);                                                                                \
    }                                                                                                                  \
    static void test_name(void)

/* The body runs as the first coroutine of a runtime, which must end well. Needs crore/rt.h. */
#define TEST_CO_CONFIG(test_name, config)                                                                              \
    static void body_of_##test_name(void *unused);                                                                     \
    TEST(test_name)                                                                                                    \
    {                                                                                                                  \
        const struct cr_config *test_config = config;                                                                  \
        if (test_config && test_config->workers > 1)                                                                   \
            SKIP_SEVERAL_UNDER_SEED();                                                                                 \
        CHECK_EQ(cr_run(body_of_##test_name, NULL, test_config), 0);                                                   \
    }                                                                                                                  \
    static void body_of_##test_name(void *unused __attribute__((unused)))
#define TEST_CO(test_name) TEST_CO_CONFIG(test_name, NULL)

/* Twice: as TEST_CO, and on several workers, as many as the file's `several` says. */
#define TEST_BOTH(name)                                                                                                \
    static void name(void *unused);                                                                                    \
    TEST(name##_on_one_worker)                                                                                         \
    {                                                                                                                  \
        CHECK_EQ(cr_run(name, NULL, NULL), 0);                                                                         \
    }                                                                                                                  \
    TEST(name##_on_several)                                                                                            \
    {                                                                                                                  \
        SKIP_SEVERAL_UNDER_SEED();                                                                                     \
        CHECK_EQ(cr_run(name, NULL, &several), 0);                                                                     \
    }                                                                                                                  \
    static void name(void *unused __attribute__((unused)))

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            test_fail(__FILE__, __LINE__, #cond);                                                                      \
    } while (0)

#define CHECK_EQ(a, b)                                                                                                 \
    do {                                                                                                               \
        long long test_a = (long long)(a), test_b = (long long)(b);                                                    \
        if (test_a != test_b) {                                                                                        \
            printf("# %s is %lld, %s is %lld\n", #a, test_a, #b, test_b);                                              \
            test_fail(__FILE__, __LINE__, #a " == " #b);                                                               \
        }                                                                                                              \
    } while (0)

#define CHECK_STR(text, part)                                                                                          \
    do {                                                                                                               \
        if (!strstr(text, part)) {                                                                                     \
            printf("# in: %s\n", text);                                                                                \
            test_fail(__FILE__, __LINE__, "contains " #part);                                                          \
        }                                                                                                              \
    } while (0)

#define SKIP(why)                                                                                                      \
    do {                                                                                                               \
        printf("# skipped: %s\n", why);                                                                                \
        fflush(stdout);                                                                                                \
        _exit(TEST_SKIPPED);                                                                                           \
    } while (0)

__attribute__((noreturn)) static inline void test_fail(const char *file, int line, const char *what)
{
    printf("# %s:%d: not so: %s\n", file, line, what);
    if (test_under_seed())
        printf("# under CR_SEED=%s\n", getenv("CR_SEED"));
    fflush(stdout);
    _exit(1);
}

/* An empty file without a name, in that folder. */
static inline int test_file(const char *folder)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/crore-test-%d", folder, (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600); /* O_TMPFILE is not for all file systems */
    CHECK(fd >= 0);
    CHECK(unlink(path) == 0);
    return fd;
}

/* Runs fn in a child. Its standard error goes to text; returns its wait status. */
static inline int test_capture(void (*fn)(void), char *text, size_t size)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t n;
    while (used < size - 1 && (n = read(ends[0], text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED)
        SKIP("what its child needs is not here");
    return status;
}

/* Whether the kernel has no io_uring for us. */
static inline bool test_uring_refused(void)
{
    char params[256] = {0}; /* zeroes: the least that can be asked for */
    long fd = syscall(SYS_io_uring_setup, 1, params);
    if (fd >= 0)
        close((int)fd);
    return fd < 0;
}

static inline int test_run_forked(const struct test *test)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(TEST_SECONDS);
        test->fn();
        exit(0); /* leak checkers look here */
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

int main(int argc, char **argv)
{
    bool forks = true;
    setenv("CR_WORKERS", "1", 0); /* tests share plain variables between coroutines; those of several workers ask for them */
    signal(SIGQUIT, SIG_DFL); /* a shell without job control starts what runs in the background with it ignored */
    const char *only = NULL, *poller = getenv("CR_POLLER");
    if (poller && strcmp(poller, "uring") == 0 && test_uring_refused()) {
        printf("1..0 # SKIP io_uring is refused here\n");
        return 0;
    }
    int number = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-fork") == 0)
            forks = false;
        else if (strcmp(argv[i], "--list") == 0)
            only = "";
        else
            only = argv[i];
    }
    for (struct test *test = test_first; test; test = test->next) {
        if (only && !*only)
            printf("%s\n", test->name);
        if (only && strcmp(only, test->name) != 0)
            continue;
        number++;
        test_current = test;
        int status = 0;
        if (forks)
            status = test_run_forked(test);
        else
            test->fn();
        if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED) {
            printf("ok %d - %s # SKIP\n", number, test->name);
        } else if (status == 0) {
            printf("ok %d - %s\n", number, test->name);
        } else {
            failed++;
            if (WIFSIGNALED(status))
                printf("# killed by signal %d%s\n", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": took too long" : "");
            printf("not ok %d - %s\n", number, test->name);
        }
    }
    if (!(only && !*only))
        printf("1..%d\n", number);
    return failed != 0;
}

#endif
