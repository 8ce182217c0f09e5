/* Child processes, waited for by pidfd: the pid can't have become another's meanwhile, and no SIGCHLD is needed. */
#include <crore/outside.h>

#include "io/io.h"
#include "os/os.h"
#include "rt/rt.h"

/* As waitpid has it. */
static int status_of(const siginfo_t *info)
{
    if (info->si_code == CLD_EXITED)
        return (info->si_status & 0xff) << 8;
    return (info->si_status & 0x7f) | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

static ssize_t try_reap(struct cr__fd_conn *c, void *arg)
{
    int *status = arg;
    siginfo_t info;
    int r = cr__os_reap(c->poll.fd, &info);
    if (r < 0)
        return r == -EINVAL ? -ENOSYS : r; /* Linux 5.3 has the fd, but can't reap by it */
    if (info.si_pid == 0)
        return -EAGAIN;
    if (status)
        *status = status_of(&info);
    return 0;
}

int cr_child_wait_until(pid_t pid, int *status, int64_t deadline_ns)
{
    cr__handed(status);
    struct cr__worker *worker;
    if (!cr__running(&worker))
        return -EPERM;
    if (pid < 1)
        return -EINVAL;
    int fd = cr__os_pidfd(pid);
    if (fd == -ESRCH)
        return -ECHILD;
    return (int)cr__fd_watch(fd, deadline_ns, try_reap, status);
}

int cr_child_wait(pid_t pid, int *status)
{
    cr__handed(status);
    return cr_child_wait_until(pid, status, CR_FOREVER);
}
