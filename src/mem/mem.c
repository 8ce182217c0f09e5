/* Mapped memory and its books. The counters are the only state here that threads share; they are statistics, so
 * relaxed order does. */
#include "mem/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"

static _Atomic uint64_t bytes_by_kind[CR__MEM_KINDS];
static _Atomic uint64_t kernel_calls;
static _Atomic unsigned fail_after; /* 0: off; 1: fails now and from now on */

void cr__mem_count(enum cr__mem_kind kind, size_t size_bytes)
{
    atomic_fetch_add_explicit(&bytes_by_kind[kind], size_bytes, memory_order_relaxed);
}

void cr__mem_uncount(enum cr__mem_kind kind, size_t size_bytes)
{
    atomic_fetch_sub_explicit(&bytes_by_kind[kind], size_bytes, memory_order_relaxed);
}

void cr__mem_count_call(void)
{
    atomic_fetch_add_explicit(&kernel_calls, 1, memory_order_relaxed);
}

void cr__mem_fail_after(unsigned n)
{
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
}

/* Tests that inject faults use one thread; a lost decrement elsewhere would be harmless. */
bool cr__mem_fails_by_injection(void)
{
    unsigned n = atomic_load_explicit(&fail_after, memory_order_relaxed);
    if (CR__LIKELY(n == 0))
        return false;
    if (n == 1)
        return true;
    atomic_store_explicit(&fail_after, n - 1, memory_order_relaxed);
    return false;
}

void *cr__mem_map(size_t size_bytes, enum cr__mem_kind kind)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    cr__mem_count_call();
    void *addr = cr__os_map(size_bytes, PROT_READ | PROT_WRITE);
    if (addr)
        cr__mem_count(kind, size_bytes);
    return addr;
}

void *cr__mem_map_shared(int fd, size_t size_bytes, enum cr__mem_kind kind)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    cr__mem_count_call();
    void *addr = cr__os_map_shared(fd, size_bytes);
    if (addr)
        cr__mem_count(kind, size_bytes);
    return addr;
}

void cr__mem_unmap(void *addr, size_t size_bytes, enum cr__mem_kind kind)
{
    cr__mem_count_call();
    int r = cr__os_unmap(addr, size_bytes);
    if (r == -ENOMEM) /* it would split a mapping, and there are too many: the memory goes back, the addresses do not */
        r = cr__os_advise(addr, size_bytes, MADV_DONTNEED);
    CR__ASSERT(r == 0);
    cr__mem_uncount(kind, size_bytes);
}

int cr__mem_advise(void *addr, size_t size_bytes, int advice)
{
    cr__mem_count_call();
    return cr__os_advise(addr, size_bytes, advice);
}

void cr__mem_drop_many(const struct iovec *ranges, size_t count)
{
    cr__mem_count_call();
    ssize_t dropped = cr__os_advise_many(CR__OS_SELF, ranges, count, MADV_DONTNEED);
    for (size_t i = 0; i < count; i++) {
        if (dropped < (ssize_t)ranges[i].iov_len)
            cr__mem_advise(ranges[i].iov_base, ranges[i].iov_len, MADV_DONTNEED);
        dropped -= (ssize_t)ranges[i].iov_len;
    }
}

int cr__mem_protect(void *addr, size_t size_bytes, int protection)
{
    cr__mem_count_call();
    return cr__os_protect(addr, size_bytes, protection);
}

void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    void *object = calloc(1, size_bytes);
    if (object)
        cr__mem_count(kind, size_bytes);
    return object;
}

void *cr__mem_alloc_aligned(size_t size_bytes, enum cr__mem_kind kind)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    void *object = aligned_alloc(CR__CACHE_LINE, cr__round_up(size_bytes, CR__CACHE_LINE));
    if (!object)
        return NULL;
    memset(object, 0, size_bytes);
    cr__mem_count(kind, size_bytes);
    return object;
}

void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind)
{
    if (!object)
        return;
    free(object);
    cr__mem_uncount(kind, size_bytes);
}

uint64_t cr__mem_bytes(enum cr__mem_kind kind)
{
    return atomic_load_explicit(&bytes_by_kind[kind], memory_order_relaxed);
}

uint64_t cr__mem_kernel_calls(void)
{
    return atomic_load_explicit(&kernel_calls, memory_order_relaxed);
}
