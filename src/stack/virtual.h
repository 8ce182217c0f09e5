/* Virtual stacks: each has a wide range of addresses of its own, with memory where it has been touched. One whose coroutine has been parked for long is
 * frozen: its live bytes move into an image, its pages go back to the system, and those where live bytes were are guarded. Whoever touches these, its coroutine or
 * another one through a pointer, finds it thawed. Part of stack.h.
 *
 *     IN_PLACE --its worker: protects, copies, drops, guards--> FREEZING --> FROZEN --its worker, or whoever touches it--> THAWING --> IN_PLACE
 *     FREEZING --the kernel refuses: fills again--> IN_PLACE
 *
 * All of them lie in one reservation of addresses, registered with userfaultfd (for write protection, which is not used: so a first touch stays an ordinary fault).
 *
 * Three traps, and what is done about them. A write between the copy and the guard would be lost: so nobody can write from before the range is copied
 * (mprotect). MADV_GUARD_INSTALL drops pages before it installs guards, and a page that was touched in between would read as zero: so nobody can touch the range while pages go and guards
 * come. Who tries gets SIGSEGV, waits in its handler until the stack is frozen, and thaws it. After a guard has been removed the page reads as zero until it is
 * filled: so it is filled over the guard, by UFFDIO_COPY, which replaces the one by the other in one step.
 *
 * Rejected: write protection by userfaultfd, which does not take hold of pages that are not there, or, with a feature of Linux 6.4, of each of them; guarding the whole range,
 * which is one call for all neighbours: to take the guards of sixteen pages away again cost a thaw 21 us in a virtual machine; guarding pages that are still there: 6 us each, not 0.5.
 *
 * Invariants:
 *   1. FREEZING and THAWING are locks: who made that state alone changes the range, and makes the next one. Nothing in between waits for anybody, for memory at most.
 *   2. What is above the lowest live byte is in the image while FROZEN; what is below reads as anything, in pages of its own without a fault.
 *   3. An image is its coroutine's worker's; others read it while THAWING.
 *   4. Nothing is dropped from a stack on which a buffer is held: who freezes looks at `held` when it has made FREEZING, who holds looks at the state when it has counted.
 *
 * A system call that is handed a pointer into a frozen stack fails with EFAULT, without a signal, and one that takes before it copies (a datagram, an eventfd's count, a signal) has lost
 * that by then. So the runtime holds what it hands to the kernel (cr__virtual_hold). Rejected: touching it and trying again after EFAULT; only touching it before the call: one that is not
 * frozen yet may be, by its own worker, in between.
 * In a child of fork what was frozen is guarded, but nobody fills it: touching it there is a fault. A runtime that begins in the child freezes its own stacks. */
#ifndef CR__VIRTUAL_H
#define CR__VIRTUAL_H

#include "mem/mem.h"

enum cr__slot_state { CR__IN_PLACE, CR__FREEZING, CR__FROZEN, CR__THAWING };

/* A stack's, beside its chunk. */
struct cr__slot {
    void *owner; /* its coroutine's record; NULL: nobody's. Its worker's */
    uint32_t image;
    _Atomic uint16_t held; /* buffers in it that the kernel has: not frozen meanwhile */
    _Atomic uint8_t state;
};

struct cr__stack_chunk;

/* Whether stacks can be frozen here; else why not. Any thread; finds out once, and once more in a child of fork. */
bool cr__virtual_freezes(const char **why);

/* Address space for a chunk, from the reservation; unmap gives pages and page tables back. NULL: none left. _enter: when all that the chunk says is filled in, it can be found. */
void *cr__virtual_map(size_t size_bytes);
void cr__virtual_enter(char *addr, size_t size_bytes, struct cr__stack_chunk *chunk);
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

/* Adds a stack whose live bytes are [sp, top); those of one chunk in the order of their addresses, so that neighbours share calls. 1; 0: it is not
 * IN_PLACE, or the kernel has a buffer in it; -ENOMEM. */
int cr__freeze_add(struct cr__freezing *f, struct cr__slot *slot, char *low, char *sp, char *top);

/* Freezes those; returns how many: fewer if the kernel lacks memory, and then the others are as they were. */
unsigned cr__freeze(struct cr__freezing *f);

/* By its worker: puts it back in place, if nobody has, and frees the image. staged: CR__STAGED_BYTES, not on the caller's stack, which may belong to a coroutine that would
 * take a page more for it. 0 or -ENOMEM. */
#define CR__STAGED_BYTES 4096
int cr__thaw(struct cr__slot *slot, struct cr__images *images, char *top, char *staged);

/* By the fault handler: whether the fault at addr is over, by thawing, or since access was withheld for a moment only, and the instruction is to be tried again. False, too, of a
 * page that the program itself has withheld. */
bool cr__virtual_fault(const void *addr);

/* While the kernel has a buffer, for a call or for as long as it likes: the stack that it lies on, if it is a virtual one, is thawed, and not frozen until it is let go. Any thread;
 * staged as above. */
void cr__virtual_hold(const void *buf, char *staged);
void cr__virtual_let_go(const void *buf);

/* The live bytes of one that is frozen, by its worker. */
const char *cr__frozen_bytes(const struct cr__slot *slot, size_t *live_bytes);

/* How many have been frozen, and thawed, in this process. */
struct cr__freeze_counts {
    _Atomic uint64_t frozen, resumed, touched;
};
extern struct cr__freeze_counts cr__freeze_counts;

#endif
