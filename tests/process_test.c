/* Signals that the program takes itself, child processes, and fork. */
#include "outside.h"

/* ---- Signals ------------------------------------------------------------------------------------------------ */

static void waits_for_signals(void *unused)
{
    sigset_t usr1 = set_of(SIGUSR1), usr2 = set_of(SIGUSR2), kill_set = set_of(SIGKILL), mask;
    siginfo_t info;
    (void)unused;
    CHECK_EQ(cr_signal_wait_until(&usr1, &info, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 7}), 0);
    CHECK_EQ(cr_signal_wait(&usr1, &info), SIGUSR1);
    CHECK_EQ(info.si_pid, getpid());
    CHECK_EQ(info.si_value.sival_int, 7);
    CHECK_EQ(cr_signal_wait_until(&usr1, NULL, 0), -ETIMEDOUT);
    CHECK_EQ(cr_signal_wait(&usr2, NULL), -EINVAL); /* not blocked */
    CHECK_EQ(cr_signal_wait(&kill_set, NULL), -EINVAL);
    CHECK_EQ(cr_signal_mask(&mask), 0);
    CHECK(sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGTERM));
}

static void sends_one_later(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
}

static void takes_one(void *unused)
{
    sigset_t usr1 = set_of(SIGUSR1);
    (void)unused;
    int r = cr_signal_wait(&usr1, NULL);
    if (r == SIGUSR1) {
        counts(NULL);
        CHECK_EQ(cr_shutdown(), 0);
    } else {
        CHECK_EQ(r, -ECANCELED);
    }
}

static void several_wait_for_signals(void *unused)
{
    (void)unused;
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cr_go(takes_one, NULL), 0);
    CHECK_EQ(cr_go(sends_one_later, NULL), 0);
}

TEST(signals_that_the_program_blocks_are_waited_for)
{
    sigset_t usr1 = set_of(SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);
    CHECK_EQ(cr_run(waits_for_signals, NULL, NULL), 0);
    CHECK_EQ(cr_run(waits_for_signals, NULL, &two), 0);
    CHECK_EQ(cr_run(several_wait_for_signals, NULL, NULL), 0);
    CHECK_EQ(counter, 1);
    CHECK_EQ(cr_run(several_wait_for_signals, NULL, &two), 0);
    CHECK_EQ(counter, 2);
}

/* ---- Child processes ---------------------------------------------------------------------------------------- */

static pid_t child_that_sleeps(unsigned ms, int code)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        usleep(ms * 1000);
        _exit(code);
    }
    return pid;
}

static void waits_for_children(void *unused)
{
    int status = -1;
    (void)unused;
    pid_t pid = child_that_sleeps(500, 3);
    CHECK_EQ(cr_child_wait_until(pid, &status, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(status, -1);
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    CHECK_EQ(cr_child_wait(pid, &status), -ECHILD);
    pid = child_that_sleeps(10000, 0);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK_EQ(cr_child_wait(getppid(), NULL), -ECHILD);
    CHECK_EQ(cr_child_wait(0, NULL), -EINVAL);
}

static void waits_for_child(void *pid)
{
    CHECK_EQ(cr_child_wait((pid_t)(intptr_t)pid, NULL), -ECANCELED);
}

TEST_CO(a_child_is_waited_for)
{
    waits_for_children(NULL);
}

TEST_CO_CONFIG(a_child_is_waited_for_with_several_workers, &two)
{
    waits_for_children(NULL);
}

TEST_CO(a_cancelled_wait_reaps_no_child)
{
    struct cr_co *waiter;
    int status;
    pid_t pid = child_that_sleeps(500, 5);
    CHECK_EQ(cr_spawn(&waiter, waits_for_child, (void *)(intptr_t)pid, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(waiter), 0);
    CHECK_EQ(cr_join(waiter), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(WEXITSTATUS(status), 5);
}

/* ---- fork --------------------------------------------------------------------------------------------------- */

static int exit_code_of(pid_t pid)
{
    int status = -1;
    CHECK_EQ(cr_child_wait(pid, &status), 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void executes(void *unused)
{
    (void)unused;
    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            /* dies of the signal, if that is not blocked */
            execl("/bin/sh", "sh", "-c", "kill -TERM $$; exit 1", (char *)NULL);
            _exit(99);
        }
        CHECK_EQ(exit_code_of(pid), 128 + SIGTERM);
        CHECK_EQ(cr_sleep(100 * CR_US), 0);
    }
    counts(NULL);
}

static void many_execute(void *unused)
{
    (void)unused;
    for (int i = 0; i < 6; i++)
        CHECK_EQ(cr_go(executes, NULL), 0);
}

TEST(fork_and_exec_work_from_any_coroutine_with_the_programs_signals)
{
    CHECK_EQ(cr_run(many_execute, NULL, NULL), 0);
    CHECK_EQ(cr_run(many_execute, NULL, &(struct cr_config){.workers = 3}), 0);
    CHECK_EQ(counter, 12);
}

static void forks_to_exec(void *arg)
{
    *(pid_t *)arg = fork();
    if (*(pid_t *)arg == 0) {
        execl("/bin/sh", "sh", "-c", "kill -TERM $$; exit 1", (char *)NULL);
        _exit(99);
    }
}

TEST_CO(fork_and_exec_work_in_a_blocking_call)
{
    pid_t pid;
    CHECK_EQ(cr_blocking(forks_to_exec, &pid), 0);
    CHECK_EQ(exit_code_of(pid), 128 + SIGTERM);
}

#define REFUSED(call) ((call) == -EPERM ? 0 : (printf("# not refused: %s\n", #call), fflush(stdout), _exit(1)))

static void uses_the_runtime(struct cr_conn *conn, struct cr_co *co, struct cr_rt *other)
{
    char byte;
    struct cr_event event = {0};
    struct cr_conn *out;
    struct cr_rt *rt;
    struct cr_stats stats;
    struct cr_chan *chan;
    sigset_t set = set_of(SIGUSR1);
    CHECK_EQ(cr_chan_create(&chan, 1, 1), 0);
    REFUSED(cr_yield());
    REFUSED(cr_sleep(0));
    REFUSED(cr_go(counts, NULL));
    REFUSED(cr_go_on(0, counts, NULL));
    REFUSED(cr_join(co));
    REFUSED(cr_detach(co));
    REFUSED(cr_cancel(co));
    REFUSED(cr_shutdown());
    REFUSED(cr_blocking(counts, NULL));
    REFUSED((int)cr_read(conn, &byte, 1));
    REFUSED((int)cr_write(conn, &byte, 1));
    REFUSED(cr_dial(&out, "tcp://127.0.0.1:1", NULL));
    REFUSED(cr_file_open(&out, "/dev/null", O_RDONLY, 0));
    REFUSED(cr_stats_get(&stats));
    REFUSED(cr_worker_index());
    REFUSED(cr_run(counts, NULL, NULL));
    REFUSED(cr_rt_create(&rt, NULL));
    REFUSED(cr_rt_stop(other));
    REFUSED(cr_rt_wait(other));
    REFUSED(cr_go_remote(other, counts, NULL));
    REFUSED(cr_event_wait(&event));
    REFUSED(cr_event_set(&event));
    REFUSED(cr_event_set_remote(other, &event));
    REFUSED(cr_signal_wait(&set, NULL));
    REFUSED(cr_child_wait(1, NULL));
    REFUSED(cr_chan_send(chan, &byte));
    REFUSED(cr_chan_send_remote(other, chan, &byte));
    REFUSED(cr_chan_close_remote(other, chan));
    REFUSED(cr_dump(STDOUT_FILENO));
    cr_close(conn); /* ignored */
    cr_rt_destroy(other);
    _exit(7);
}

static void forks_without_exec(void *other)
{
    int pair[2];
    struct cr_conn *conn;
    struct cr_co *co;
    CHECK_EQ(pipe(pair), 0);
    CHECK_EQ(cr_conn_from_fd(&conn, pair[0]), 0);
    CHECK_EQ(cr_spawn(&co, sleeps_until_cancelled, NULL, NULL), 0);
    pid_t pid = fork();
    if (pid == 0)
        uses_the_runtime(conn, co, other);
    CHECK_EQ(exit_code_of(pid), 7);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
    cr_close(conn);
    close(pair[1]);
}

TEST(a_child_that_uses_the_runtime_is_refused)
{
    struct cr_rt *other;
    CHECK_EQ(cr_rt_create(&other, NULL), 0);
    CHECK_EQ(cr_rt_start(other, sleeps_until_cancelled, NULL), 0);
    CHECK_EQ(cr_run(forks_without_exec, other, NULL), 0);
    CHECK_EQ(cr_run(forks_without_exec, other, &two), 0);
    int status;
    pid_t pid = fork(); /* not from a worker */
    if (pid == 0)
        uses_the_runtime(NULL, NULL, other);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 7 << 8);
    CHECK_EQ(cr_rt_stop(other), 0);
    cr_rt_destroy(other);
}

static int error_text[2];

static void returns_in_the_child(void *unused)
{
    (void)unused;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(error_text[1], STDERR_FILENO);
        return;
    }
    CHECK_EQ(exit_code_of(pid), 128 + SIGABRT);
}

TEST(a_coroutine_that_returns_in_a_child_ends_it_with_a_message)
{
    char text[256] = "";
    CHECK_EQ(pipe(error_text), 0);
    CHECK_EQ(cr_run(returns_in_the_child, NULL, NULL), 0);
    CHECK(read(error_text[0], text, sizeof(text) - 1) > 0);
    CHECK_STR(text, "in a child of fork()");
}

TEST(a_child_forked_while_no_runtime_runs_may_use_one)
{
    int status;
#ifdef TEST_SANITIZED
    SKIP("ThreadSanitizer makes no threads in a child of a process that has had several");
#endif
    CHECK_EQ(cr_run(counts, NULL, NULL), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(cr_run(counts, NULL, NULL) == 0 ? 0 : 1);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}
