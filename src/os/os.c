#include "os/os.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

const struct cr__os_world *_Atomic cr__os_world;

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

void *cr__os_map_shared(int fd, size_t size_bytes)
{
    void *addr = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return addr == MAP_FAILED ? NULL : addr;
}

#define SEALS (1 | 2 | 4) /* F_SEAL_SEAL, _SHRINK, _GROW; headers may lack them */
#define SEALS_ADD 1033
#define SEALS_GET 1034

int cr__os_memfd(const char *name, size_t size_bytes)
{
    int fd = (int)cr__syscall2(SYS_memfd_create, name, 1 | 2 /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
    if (fd < 0)
        return fd;
    long r = cr__syscall2(SYS_ftruncate, fd, size_bytes);
    if (r == 0)
        r = cr__syscall3(SYS_fcntl, fd, SEALS_ADD, SEALS);
    if (r < 0)
        cr__os_close(fd);
    return r < 0 ? (int)r : fd;
}

bool cr__os_memfd_is(int fd, size_t size_bytes)
{
    long seals = cr__syscall3(SYS_fcntl, fd, SEALS_GET, 0);
    return seals >= 0 && (seals & SEALS) == SEALS && cr__os_seek(fd, 0, SEEK_END) == (int64_t)size_bytes;
}

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

int cr__os_resident(void *addr, size_t size_bytes, unsigned char *pages)
{
    return (int)cr__syscall3(SYS_mincore, addr, size_bytes, pages);
}

/* The number behind a name in a file of the kernel's; 0: there is none. Read in pieces, since it may be wanted on a stack of 2 KiB. */
static uint64_t number_behind(int fd, const char *name)
{
    char piece[128];
    size_t matched = 0, length = strlen(name);
    uint64_t number = 0;
    bool begun = false;
    for (ssize_t n; (n = cr__os_read(fd, piece, sizeof(piece))) > 0;) {
        for (ssize_t i = 0; i < n; i++) {
            char c = piece[i];
            if (matched < length) {
                matched = c == name[matched] ? matched + 1 : c == name[0];
            } else if (c >= '0' && c <= '9') {
                number = number * 10 + (uint64_t)(c - '0');
                begun = true;
            } else if (begun) {
                return number;
            }
        }
    }
    return number;
}

uint64_t cr__os_page_tables_bytes(void)
{
    int fd = cr__os_open("/proc/self/status", O_RDONLY, 0);
    if (fd < 0)
        return 0;
    uint64_t kib = number_behind(fd, "VmPTE:");
    cr__os_close(fd);
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
