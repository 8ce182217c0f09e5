#include "os/os.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#ifdef CR__TSAN /* it must see them: an address that libc's mmap had before us would else be a race */

void *cr__os_map(size_t size_bytes, int protection)
{
    void *addr = mmap(NULL, size_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return addr == MAP_FAILED ? NULL : addr;
}

int cr__os_unmap(void *addr, size_t size_bytes)
{
    return munmap(addr, size_bytes) < 0 ? -ENOMEM : 0;
}

#else

void *cr__os_map(size_t size_bytes, int protection)
{
    long addr = cr__syscall6(SYS_mmap, 0, (long)size_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return addr < 0 && addr > -4096 ? NULL : (void *)addr;
}

int cr__os_unmap(void *addr, size_t size_bytes)
{
    return (int)cr__syscall2(SYS_munmap, addr, size_bytes);
}

#endif

void *cr__os_map_hugetlb(size_t size_bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26 /* MAP_HUGE_2MB */;
    long addr = cr__syscall6(SYS_mmap, 0, (long)size_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return addr < 0 && addr > -4096 ? NULL : (void *)addr;
}

int cr__os_map_over(void *addr, size_t size_bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    long r = cr__syscall6(SYS_mmap, (long)addr, (long)size_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return r < 0 && r > -4096 ? (int)r : 0;
}

int cr__os_move(void *from, void *to, size_t size_bytes)
{
    long r = cr__syscall5(SYS_mremap, from, size_bytes, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    return r < 0 && r > -4096 ? (int)r : 0;
}

int cr__os_protect(void *addr, size_t size_bytes, int protection)
{
    return (int)cr__syscall3(SYS_mprotect, addr, size_bytes, protection);
}

int cr__os_advise(void *addr, size_t size_bytes, int advice)
{
    return (int)cr__syscall3(SYS_madvise, addr, size_bytes, advice);
}

uint64_t cr__os_page_tables_bytes(void)
{
    char text[2048];
    int fd = cr__os_open("/proc/self/status", O_RDONLY, 0);
    ssize_t n = fd >= 0 ? cr__os_read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        cr__os_close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strstr(text, "VmPTE:");
    uint64_t kib = 0;
    for (at = at ? at + strlen("VmPTE:") : ""; *at == ' ' || *at == '\t'; at++)
        ;
    for (; *at >= '0' && *at <= '9'; at++)
        kib = kib * 10 + (uint64_t)(*at - '0');
    return kib * 1024;
}

int cr__os_lstat_mode(const char *path, mode_t *mode)
{
    struct statx info;
    long r = cr__syscall5(SYS_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_MODE, &info);
    if (r < 0)
        return (int)r;
    *mode = info.stx_mode;
    return 0;
}

bool cr__os_is_in_memory(int fd)
{
    enum { TMPFS = 0x01021994, RAMFS = 0x858458f6u, PROC = 0x9fa0, SYSFS = 0x62656572 };
    struct statx info;
    struct statfs system;
    if (cr__syscall5(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &info) == 0 && S_ISCHR(info.stx_mode))
        return true;
    if (cr__syscall2(SYS_fstatfs, fd, &system) < 0)
        return false;
    unsigned long type = (unsigned long)system.f_type & 0xffffffff;
    return type == TMPFS || type == RAMFS || type == PROC || type == SYSFS;
}

void cr__os_take_sigpipe(void)
{
    static const uint64_t set = (uint64_t)1 << (SIGPIPE - 1); /* the kernel's own kind of set */
    static const struct timespec at_once;
    cr__syscall4(SYS_rt_sigtimedwait, &set, 0, &at_once, sizeof(set));
}

int cr__os_set_nonblocking(int fd)
{
    long flags = cr__syscall3(SYS_fcntl, fd, F_GETFL, 0);
    if (flags < 0)
        return (int)flags;
    return (int)cr__syscall3(SYS_fcntl, fd, F_SETFL, flags | O_NONBLOCK);
}

int cr__os_epoll_wait(int epoll, struct epoll_event *events, int count, int64_t timeout_ns)
{
    static _Atomic bool no_pwait2; /* kernels before 5.11, and sandboxes; any thread may find out, all write the same */
    if (timeout_ns != 0 && !atomic_load_explicit(&no_pwait2, memory_order_relaxed)) {
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        long n = cr__syscall6(SYS_epoll_pwait2, epoll, (long)events, count, timeout_ns < 0 ? 0 : (long)&timeout, 0, 0);
        if (n != -ENOSYS && n != -EPERM)
            return (int)n;
        atomic_store_explicit(&no_pwait2, true, memory_order_relaxed);
    }
    int64_t timeout_ms = timeout_ns <= 0 ? timeout_ns : (timeout_ns + 999999) / 1000000;
    if (timeout_ms > INT32_MAX)
        timeout_ms = INT32_MAX;
    return (int)cr__syscall6(SYS_epoll_pwait, epoll, (long)events, count, timeout_ms < 0 ? -1 : timeout_ms, 0, 8);
}
