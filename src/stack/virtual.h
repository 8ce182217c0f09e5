/* Virtual stacks: each has a wide range of addresses of its own, with memory where it has been touched. One whose coroutine has been parked for long is
 * frozen: its live bytes move into an image, its pages go back to the system, and the range is guarded. Whoever touches it, its coroutine or
 * another one through a pointer, finds it thawed. Part of stack.h.
 *
 *     IN_PLACE --its worker: write-protects, copies, guards--> FREEZING --> FROZEN --its worker, or whoever touches it--> THAWING --> IN_PLACE
 *
 * All of them lie in one reservation of addresses, registered with userfaultfd for write protection only, so that a first touch stays an ordinary fault.
 *
 * Three traps, and what is done about them. A write between the copy and the guard would be lost: so the range is write-protected before it is
 * copied; who writes meanwhile gets SIGBUS, waits in its handler until it is frozen, and thaws it. MADV_GUARD_INSTALL drops the pages before it installs guards: who
 * reads in between would get zeroes, and writes to them: so the range has no access at all while it is at work (mprotect), and who touches it then gets
 * SIGSEGV, and waits as well. After a guard has been removed the page reads as zero until it is filled: so it is filled over the guard, by UFFDIO_COPY, which
 * replaces the one by the other in one step.
 *
 * Invariants:
 *   1. FREEZING and THAWING are locks: who made that state alone changes the range, and makes the next one. Nothing in between waits for anybody.
 *   2. What is above the lowest live byte is in the image while FROZEN; what is below reads as anything.
 *   3. An image is its coroutine's worker's; others read it while THAWING.
 *
 * A system call that is handed a pointer into a frozen stack fails with EFAULT, without a signal: the runtime's own calls touch it (cr__virtual_touch) and try again.
 * After fork the child's copy has guards but nobody to fill them: touching a frozen stack there is a fault. */
#ifndef CR__VIRTUAL_H
#define CR__VIRTUAL_H

#include "mem/mem.h"

enum cr__slot_state { CR__IN_PLACE, CR__FREEZING, CR__FROZEN, CR__THAWING };

/* A stack's, beside its chunk. */
struct cr__slot {
    void *owner; /* its coroutine's record; NULL: nobody's. Its worker's */
    uint32_t image;
    _Atomic uint8_t state;
};

struct cr__stack_chunk;

/* Whether stacks can be frozen here; else why not. Any thread; finds out once. */
bool cr__virtual_freezes(const char **why);

/* Address space for a chunk, from the reservation; unmap gives pages and page tables back. NULL: none left. */
void *cr__virtual_map(size_t size_bytes, struct cr__stack_chunk *chunk);
void cr__virtual_unmap(void *addr, size_t size_bytes);

/* The chunk at that address; NULL: none of ours. Async-signal-safe. */
struct cr__stack_chunk *cr__virtual_chunk(const void *addr);

/* Freezing several at once, which share the price of the system calls. */
#define CR__FREEZE_MOST 128
struct cr__freezing {
    struct cr__images *images;
    unsigned count;
    struct {
        struct cr__slot *slot;
        char *low, *sp, *top;
    } stacks[CR__FREEZE_MOST];
};

/* Adds a stack whose live bytes are [sp, top), in the order of their addresses. False: no memory, or somebody thaws it just now. */
bool cr__freeze_add(struct cr__freezing *f, struct cr__slot *slot, char *low, char *sp, char *top);

/* Freezes those; returns how many: fewer if the kernel lacks memory, and then the others are as they were. */
unsigned cr__freeze(struct cr__freezing *f);

/* By its worker: puts it back in place, if nobody has, and frees the image. 0 or -ENOMEM. */
int cr__thaw(struct cr__slot *slot, struct cr__images *images, char *low, char *top);

/* By the fault handler: whether the fault at addr is over, by thawing, and the instruction is to be tried again. */
bool cr__virtual_fault(const void *addr);

/* After a system call that failed with -EFAULT: thaws what of the range lies on virtual stacks. Whether there was any: then it is worth another try. */
bool cr__virtual_touch(const void *buf, size_t size_bytes);

/* The live bytes of one that is frozen, by its worker. */
const char *cr__frozen_bytes(const struct cr__slot *slot, size_t *live_bytes);

/* In a child of fork. */
void cr__virtual_forget(void);

/* How many have been frozen, and thawed, in this process. */
struct cr__freeze_counts {
    _Atomic uint64_t frozen, resumed, touched;
};
extern struct cr__freeze_counts cr__freeze_counts;

#endif
