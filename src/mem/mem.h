/* Memory that crore manages itself: mapped regions and slabs of equal objects, with bytes counted by kind. What
 * applications allocate stays malloc's.
 *
 * (Stacks are in stack.h, on top of regions.) The parts: chunks of one reservation (chunk.h), slabs (slab.h), images of stacks (image.h); packets, of an area of their own (packet.h). */
#ifndef CR__MEM_H
#define CR__MEM_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/base.h"

enum cr__mem_kind {
    CR__MEM_RECORDS,
    CR__MEM_STACKS,
    CR__MEM_CONNS,
    CR__MEM_BUFFERS,
    CR__MEM_IMAGES, /* live bytes of stacks that are not on them */
    CR__MEM_FRAMES, /* of tasks, with their records */
    CR__MEM_PACKETS, /* as far as they were ever in use at once */
    CR__MEM_OTHER,
    CR__MEM_KINDS
};

/* Maps zeroed, page-aligned memory, and counts it. NULL when there is none. Any thread. */
void *cr__mem_map(size_t size_bytes, enum cr__mem_kind kind);
void *cr__mem_map_shared(int fd, size_t size_bytes, enum cr__mem_kind kind); /* what others have mapped, too */
void cr__mem_unmap(void *addr, size_t size_bytes, enum cr__mem_kind kind);

/* madvise and mprotect on such memory; counted as kernel calls. 0 or -errno. */
int cr__mem_advise(void *addr, size_t size_bytes, int advice);
void cr__mem_drop_many(const struct iovec *ranges, size_t count); /* MADV_DONTNEED */
int cr__mem_protect(void *addr, size_t size_bytes, int protection);

/* Small objects of which there are few, from malloc, zeroed and counted. NULL when there is no memory. */
void *cr__mem_alloc(size_t size_bytes, enum cr__mem_kind kind);
void *cr__mem_alloc_aligned(size_t size_bytes, enum cr__mem_kind kind); /* on a cache line */
void cr__mem_free(void *object, size_t size_bytes, enum cr__mem_kind kind);

/* For memory that somebody else maps: the books, kernel calls, and whether an allocation is to fail (see below). */
void cr__mem_count(enum cr__mem_kind kind, size_t size_bytes);
void cr__mem_uncount(enum cr__mem_kind kind, size_t size_bytes);
void cr__mem_count_call(void);
bool cr__mem_fails_by_injection(void);

uint64_t cr__mem_bytes(enum cr__mem_kind kind);
uint64_t cr__mem_kernel_calls(void);

/* Fault injection for tests: the n-th allocation from now on (1: the next), and all after it, fail; 0: none. Counts mappings,
 * chunks, and cr__mem_alloc. Any thread. */
void cr__mem_fail_after(unsigned n);

#include "mem/chunk.h"
#include "mem/slab.h"
#include "mem/image.h"
#include "mem/packet.h"

#endif
