/* The kernel as we call it: one function per call that crore makes, each answering 0 or more, or -errno. This is
 * the door for time, entropy, memory and files: a room above that calls libc for one of them bypasses the
 * seam by which they can be replaced. None of these allocates, and none touches errno. */
#ifndef CR__OS_H
#define CR__OS_H

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "os/syscall.h"

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

/* Where time and entropy come from, if not from the kernel: filled in by `sim` while a runtime runs under a seed. Both functions may be called on any thread. */
struct cr__os_world {
    int64_t (*now_ns)(void);
    int (*random)(void *buf, size_t size_bytes);
};

/* NULL: from the kernel. Relaxed: what it points to never changes, and who sees it late sees the kernel's for that long. */
extern const struct cr__os_world *_Atomic cr__os_world;

static inline const struct cr__os_world *cr__os_world_now(void)
{
    return atomic_load_explicit(&cr__os_world, memory_order_relaxed);
}

/* Monotonic nanoseconds, by the kernel's clock: for what watches, or waits for, the kernel's threads. */
static inline int64_t cr__os_kernel_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* vDSO; can't fail for this clock */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Monotonic nanoseconds: the time that coroutines live by. */
static inline int64_t cr__os_now_ns(void)
{
    const struct cr__os_world *world = cr__os_world_now();
    return CR__UNLIKELY(world != NULL) ? world->now_ns() : cr__os_kernel_ns();
}

static inline int cr__os_kernel_random(void *buf, size_t size_bytes)
{
    return (int)cr__syscall3(SYS_getrandom, buf, size_bytes, 0);
}

/* size_bytes, or fewer beyond 256; or -errno. */
static inline int cr__os_random(void *buf, size_t size_bytes)
{
    const struct cr__os_world *world = cr__os_world_now();
    return CR__UNLIKELY(world != NULL) ? world->random(buf, size_bytes) : cr__os_kernel_random(buf, size_bytes);
}

/* Memory. Only `mem` calls these: it keeps the books. cr__os_map returns NULL on failure. */
void *cr__os_map(size_t size_bytes, int protection);
void *cr__os_map_shared(int fd, size_t size_bytes);
int cr__os_unmap(void *addr, size_t size_bytes);
int cr__os_protect(void *addr, size_t size_bytes, int protection);
int cr__os_advise(void *addr, size_t size_bytes, int advice);
int cr__os_resident(void *addr, size_t size_bytes, unsigned char *pages); /* for each page 1 if it is there, else 0 */
void *cr__os_map_hugetlb(size_t size_bytes);                  /* whole huge pages of 2 MiB, reserved; NULL: there are none */
int cr__os_map_over(void *addr, size_t size_bytes);           /* fresh memory in place of what is mapped there */
int cr__os_move(void *from, void *to, size_t size_bytes);     /* a mapping, in place of what is mapped at `to` */

/* What the process's page tables take, 0 if the kernel does not say. */
uint64_t cr__os_page_tables_bytes(void);

/* The same advice on several ranges, own_pidfd: of this process, or CR__OS_SELF (since Linux 6.14). How many bytes it has been taken for, counted from the first one; or -errno, if for none. */
#define CR__OS_SELF (-10001) /* PIDFD_SELF_THREAD_GROUP, which headers may not have yet */
static inline ssize_t cr__os_advise_many(int own_pidfd, const struct iovec *ranges, size_t count, int advice)
{
    return cr__syscall5(SYS_process_madvise, own_pidfd, ranges, count, advice, 0);
}

static inline int cr__os_pidfd_self(void)
{
    return (int)cr__syscall2(SYS_pidfd_open, getpid(), 0);
}

static inline int cr__os_userfaultfd(int flags)
{
    return (int)cr__syscall1(SYS_userfaultfd, flags);
}

static inline int cr__os_ioctl(int fd, unsigned long what, void *arg)
{
    return (int)cr__syscall3(SYS_ioctl, fd, what, arg);
}

/* Has the kernel write 16 bytes at addr: 0, or -EFAULT where the program itself would fault. */
static inline int cr__os_probe_write(void *addr)
{
    return (int)cr__syscall3(SYS_clock_gettime, CLOCK_MONOTONIC, addr, 0);
}

/* Files and sockets. */
/* Takes back a SIGPIPE that the calling thread, which blocks it, has brought upon itself. */
void cr__os_take_sigpipe(void);

static inline ssize_t cr__os_read(int fd, void *buf, size_t size_bytes)
{
    return cr__syscall3(SYS_read, fd, buf, size_bytes);
}

static inline ssize_t cr__os_write(int fd, const void *buf, size_t size_bytes)
{
    return cr__syscall3(SYS_write, fd, buf, size_bytes);
}

static inline ssize_t cr__os_readv(int fd, const struct iovec *iov, int count)
{
    return cr__syscall3(SYS_readv, fd, iov, count);
}

static inline ssize_t cr__os_writev(int fd, const struct iovec *iov, int count)
{
    return cr__syscall3(SYS_writev, fd, iov, count);
}

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

/* Offset -1: the file's position. Flags: RWF_ of preadv2(2). */
static inline ssize_t cr__os_preadv(int fd, const struct iovec *iov, int count, int64_t offset, int flags)
{
    return cr__syscall6(SYS_preadv2, fd, (long)iov, count, offset, 0, flags);
}

static inline ssize_t cr__os_pwritev(int fd, const struct iovec *iov, int count, int64_t offset, int flags)
{
    return cr__syscall6(SYS_pwritev2, fd, (long)iov, count, offset, 0, flags);
}

static inline int cr__os_fd_flags(int fd)
{
    return (int)cr__syscall3(SYS_fcntl, fd, F_GETFL, 0);
}

/* Moves the file's position, and answers it. */
static inline int64_t cr__os_seek(int fd, int64_t offset, int whence)
{
    return cr__syscall3(SYS_lseek, fd, offset, whence);
}

/* Whether what fd names never waits for a device: it lies in memory, or is a character device. */
bool cr__os_is_in_memory(int fd);

static inline ssize_t cr__os_recv(int fd, void *buf, size_t size_bytes)
{
    return cr__syscall6(SYS_recvfrom, fd, (long)buf, (long)size_bytes, 0, 0, 0);
}

static inline ssize_t cr__os_send(int fd, const void *buf, size_t size_bytes)
{
    return cr__syscall6(SYS_sendto, fd, (long)buf, (long)size_bytes, MSG_NOSIGNAL, 0, 0);
}

static inline ssize_t cr__os_recvmsg(int fd, struct msghdr *msg, int flags)
{
    return cr__syscall3(SYS_recvmsg, fd, msg, flags);
}

static inline ssize_t cr__os_sendmsg(int fd, const struct msghdr *msg)
{
    return cr__syscall3(SYS_sendmsg, fd, msg, MSG_NOSIGNAL);
}

static inline ssize_t cr__os_sendfile(int to, int from, int64_t *offset, size_t size_bytes)
{
    return cr__syscall4(SYS_sendfile, to, from, offset, size_bytes);
}

static inline int cr__os_open(const char *path, int flags, mode_t mode)
{
    return (int)cr__syscall4(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

static inline int cr__os_close(int fd)
{
    return (int)cr__syscall1(SYS_close, fd);
}

static inline int cr__os_unlink(const char *path)
{
    return (int)cr__syscall3(SYS_unlinkat, AT_FDCWD, path, 0);
}

/* Nanoseconds since 1970, by the clock that people set. */
static inline int64_t cr__os_wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Takes a lock on an open file; -EWOULDBLOCK: somebody has it. It goes with the fd. */
static inline int cr__os_lock_try(int fd)
{
    return (int)cr__syscall2(SYS_flock, fd, 2 | 4 /* LOCK_EX | LOCK_NB */);
}

/* Memory with an fd, of that size for good: whoever else maps it need not fear that it shrinks. */
int cr__os_memfd(const char *name, size_t size_bytes);

/* Whether fd is such memory, of that size. */
bool cr__os_memfd_is(int fd, size_t size_bytes);

static inline int cr__os_chmod(const char *path, mode_t mode)
{
    return (int)cr__syscall3(SYS_fchmodat, AT_FDCWD, path, mode);
}

int cr__os_lstat_mode(const char *path, mode_t *mode);
int cr__os_set_nonblocking(int fd);

static inline int cr__os_socket(int family, int type)
{
    return (int)cr__syscall3(SYS_socket, family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static inline int cr__os_bind(int fd, const struct sockaddr *addr, socklen_t size_bytes)
{
    return (int)cr__syscall3(SYS_bind, fd, addr, size_bytes);
}

static inline int cr__os_listen(int fd, int backlog)
{
    return (int)cr__syscall2(SYS_listen, fd, backlog);
}

static inline int cr__os_accept(int fd)
{
    return (int)cr__syscall4(SYS_accept4, fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static inline int cr__os_connect(int fd, const struct sockaddr *addr, socklen_t size_bytes)
{
    return (int)cr__syscall3(SYS_connect, fd, addr, size_bytes);
}

static inline int cr__os_shutdown(int fd, int how)
{
    return (int)cr__syscall2(SYS_shutdown, fd, how);
}

static inline int cr__os_sockname(int fd, struct sockaddr *addr, socklen_t *size_bytes)
{
    return (int)cr__syscall3(SYS_getsockname, fd, addr, size_bytes);
}

static inline int cr__os_peername(int fd, struct sockaddr *addr, socklen_t *size_bytes)
{
    return (int)cr__syscall3(SYS_getpeername, fd, addr, size_bytes);
}

static inline int cr__os_sockopt_set(int fd, int level, int name, int value)
{
    return (int)cr__syscall5(SYS_setsockopt, fd, level, name, &value, sizeof(value));
}

static inline int cr__os_sockopt_get(int fd, int level, int name, int *value)
{
    socklen_t size = sizeof(*value);
    return (int)cr__syscall5(SYS_getsockopt, fd, level, name, value, &size);
}

/* Closing drops what was not sent, and resets the peer. */
static inline int cr__os_linger_none(int fd)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    return (int)cr__syscall5(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

/* Waiting. */
static inline int cr__os_epoll_create(void)
{
    return (int)cr__syscall1(SYS_epoll_create1, EPOLL_CLOEXEC);
}

static inline int cr__os_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    return (int)cr__syscall4(SYS_epoll_ctl, epoll, op, fd, event);
}

/* Waits at most timeout_ns, or without end if that is negative. */
int cr__os_epoll_wait(int epoll, struct epoll_event *events, int count, int64_t timeout_ns);

static inline int cr__os_eventfd(void)
{
    return (int)cr__syscall2(SYS_eventfd2, 0, O_NONBLOCK | O_CLOEXEC);
}

/* Sleeps while *word is `value`, up to timeout_ns (negative: without end). */
static inline int cr__os_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return (int)cr__syscall4(SYS_futex, word, 128 /* FUTEX_WAIT_PRIVATE */, value, timeout_ns < 0 ? NULL : &timeout);
}

static inline int cr__os_futex_wake_all(_Atomic uint32_t *word)
{
    return (int)cr__syscall3(SYS_futex, word, 129 /* FUTEX_WAKE_PRIVATE */, INT32_MAX);
}

/* Copies memory of this process that others change, or that may be gone: 0, or -errno. What was copied is worth what can be said about those others. */
static inline int cr__os_peek(void *to, const void *from, size_t size_bytes)
{
    struct iovec local = {to, size_bytes}, remote = {(void *)(uintptr_t)from, size_bytes};
    long n = cr__syscall6(SYS_process_vm_readv, cr__syscall0(SYS_getpid), (long)&local, 1, (long)&remote, 1, 0);
    return n == (long)size_bytes ? 0 : n < 0 ? (int)n : -EFAULT;
}

/* The calling thread's number, and a signal for a certain thread of this process. */
static inline int cr__os_tid(void)
{
    return (int)cr__syscall0(SYS_gettid);
}

static inline int cr__os_tgkill(int tid, int signo)
{
    return (int)cr__syscall3(SYS_tgkill, cr__syscall0(SYS_getpid), tid, signo);
}

/* Waits until fd can be written to. 1; 0: not within timeout_ns; -errno. */
static inline int cr__os_poll_out(int fd, int64_t timeout_ns)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return (int)cr__syscall5(SYS_ppoll, &p, 1, &timeout, 0, 8);
}

/* A duplicate, closed on exec. */
static inline int cr__os_dup(int fd)
{
    return (int)cr__syscall3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
}

/* Whether one of these poll events is there now; errors count. */
static inline bool cr__os_poll_now(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct timespec none = {0, 0};
    return cr__syscall5(SYS_ppoll, &p, 1, &none, 0, 8) != 0;
}

/* A signalfd for all signals in the set. */
static inline int cr__os_signalfd(const sigset_t *set)
{
    return (int)cr__syscall4(SYS_signalfd4, -1, set, 8, O_NONBLOCK | O_CLOEXEC);
}

/* Takes a pending signal of the set: its number, or -EAGAIN. */
static inline int cr__os_take_signal(const sigset_t *set, siginfo_t *info)
{
    struct timespec none = {0, 0};
    return (int)cr__syscall4(SYS_rt_sigtimedwait, set, info, &none, 8);
}

/* Child processes. */
#ifndef SYS_pidfd_open /* Linux 5.3 */
#define SYS_pidfd_open 434
#endif

static inline int cr__os_pidfd(pid_t pid)
{
    return (int)cr__syscall2(SYS_pidfd_open, pid, 0);
}

/* Reaps the child behind a pidfd, if it has ended; info->si_pid is 0 if not. */
static inline int cr__os_reap(int pidfd, siginfo_t *info)
{
    enum { BY_PIDFD = 3 };
    info->si_pid = 0;
    return (int)cr__syscall5(SYS_waitid, BY_PIDFD, pidfd, info, WEXITED | WNOHANG, 0);
}

#endif
