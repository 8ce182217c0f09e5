#include "stack/virtual.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "mem/books.h"
#include "os/os.h"
#include "stack/stack.h"

#define MOST_BYTES ((size_t)4 << 40)
#define LEAST_BYTES ((size_t)16 << 30)
#define UNIT_BYTES ((size_t)2 << 20) /* what one page of page tables covers: chunks are whole ones, so that unmapping gives those back */
#define PAGE_BYTES ((size_t)4096)

struct image {
    size_t live_bytes;
    char bytes[];
};

struct cr__freeze_counts cr__freeze_counts;

/* The reservation: its chunks' addresses only grow, but for ranges that have been given back. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* nobody holds it across a switch */
static char *base;
static size_t size, used;
static _Atomic(struct cr__stack_chunk *) *chunks; /* one for each unit */
static _Atomic int uffd = -1;
static int pidfd = -1; /* our own: for one call that advises on several ranges */
static const char *why_not;

struct gap {
    struct gap *next;
    char *addr;
    size_t size_bytes;
};
static struct gap *gaps;

/* ---- Setting up ---------------------------------------------------------------------------------------------- */

static int register_range(int fd, void *addr, size_t size_bytes)
{
    struct uffdio_register range = {.range = {(uintptr_t)addr, size_bytes}, .mode = UFFDIO_REGISTER_MODE_WP};
    return cr__os_ioctl(fd, UFFDIO_REGISTER, &range);
}

static const char *open_uffd(void)
{
#ifdef CR__ASAN
    return "AddressSanitizer must see each touch itself";
#endif
    int fd = cr__os_userfaultfd(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return "userfaultfd is refused";
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    const char *why = NULL;
    if (cr__os_ioctl(fd, UFFDIO_API, &api) < 0)
        why = "userfaultfd knows no write protection";
    else if (register_range(fd, base, size) < 0)
        why = "the kernel does not register the reservation";
    else if (!cr__stack_guards_light(base))
        why = "the kernel has no lightweight guards (Linux 6.13)";
    else if ((pidfd = cr__os_pidfd_self()) < 0)
        why = "the process can't have a pidfd of its own";
    if (why)
        cr__os_close(fd);
    else
        atomic_store_explicit(&uffd, fd, memory_order_release);
    return why;
}

static void set_up(void)
{
    char *addr = NULL;
    size_t bytes = MOST_BYTES;
    while (bytes >= LEAST_BYTES && (addr = cr__os_map(bytes, PROT_READ | PROT_WRITE)) == NULL)
        bytes /= 4;
    if (addr)
        chunks = cr__os_map(bytes / UNIT_BYTES * sizeof(*chunks), PROT_READ | PROT_WRITE);
    if (!chunks) {
        why_not = "there is no address space";
        return;
    }
    base = (char *)cr__round_up((uintptr_t)addr, UNIT_BYTES);
    size = bytes - UNIT_BYTES;
    cr__mem_advise(base, size, MADV_NOHUGEPAGE);
    why_not = open_uffd();
}

bool cr__virtual_freezes(const char **why)
{
    pthread_once(&once, set_up);
    *why = why_not;
    return !why_not;
}

void cr__virtual_forget(void)
{
    int fd = atomic_exchange_explicit(&uffd, -1, memory_order_relaxed);
    if (fd >= 0)
        cr__os_close(fd); /* it would change the parent's memory */
    if (pidfd >= 0)
        cr__os_close(pidfd);
    pidfd = -1;
}

/* ---- Chunks -------------------------------------------------------------------------------------------------- */

static _Atomic(struct cr__stack_chunk *) *entry_of(const void *addr)
{
    size_t offset = (size_t)((const char *)addr - base);
    return offset < size ? &chunks[offset / UNIT_BYTES] : NULL;
}

struct cr__stack_chunk *cr__virtual_chunk(const void *addr)
{
    _Atomic(struct cr__stack_chunk *) *entry = entry_of(addr);
    return entry ? atomic_load_explicit(entry, memory_order_acquire) : NULL;
}

static void enter(char *addr, size_t size_bytes, struct cr__stack_chunk *chunk)
{
    for (size_t at = 0; at < size_bytes; at += UNIT_BYTES)
        atomic_store_explicit(entry_of(addr + at), chunk, memory_order_release);
}

static char *take_gap(size_t size_bytes)
{
    for (struct gap **link = &gaps, *gap; (gap = *link) != NULL; link = &gap->next) {
        if (gap->size_bytes != size_bytes)
            continue;
        char *addr = gap->addr;
        *link = gap->next;
        cr__mem_free(gap, sizeof(*gap), CR__MEM_OTHER);
        return addr;
    }
    return NULL;
}

void *cr__virtual_map(size_t size_bytes, struct cr__stack_chunk *chunk)
{
    size_bytes = cr__round_up(size_bytes, UNIT_BYTES);
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
    char *addr = take_gap(size_bytes);
    if (!addr && size > used && size - used >= size_bytes) {
        addr = base + used;
        used += size_bytes;
    }
    pthread_mutex_unlock(&lock);
    if (addr) {
        enter(addr, size_bytes, chunk);
        cr__mem_count(CR__MEM_STACKS, size_bytes);
    }
    return addr;
}

void cr__virtual_unmap(void *addr, size_t size_bytes)
{
    size_bytes = cr__round_up(size_bytes, UNIT_BYTES);
    enter(addr, size_bytes, NULL);
    struct gap *gap = cr__mem_alloc(sizeof(*gap), CR__MEM_OTHER);
    int r = cr__os_map_over(addr, size_bytes) /* without its page tables */;
    if (r == 0) {
        cr__mem_advise(addr, size_bytes, MADV_NOHUGEPAGE);
        if (!why_not)
            r = register_range(atomic_load_explicit(&uffd, memory_order_relaxed), addr, size_bytes);
    }
    cr__mem_uncount(CR__MEM_STACKS, size_bytes);
    if (r < 0 || !gap) { /* its addresses are lost: there are many */
        cr__mem_free(gap, sizeof(*gap), CR__MEM_OTHER);
        return;
    }
    *gap = (struct gap){.addr = addr, .size_bytes = size_bytes};
    pthread_mutex_lock(&lock);
    gap->next = gaps;
    gaps = gap;
    pthread_mutex_unlock(&lock);
}

/* ---- Freezing ------------------------------------------------------------------------------------------------ */

static char *page_of(char *addr)
{
    return (char *)((uintptr_t)addr & ~(PAGE_BYTES - 1));
}

static char *end_of(char *top)
{
    return (char *)cr__round_up((uintptr_t)top, PAGE_BYTES);
}

static bool take(struct cr__slot *slot, enum cr__slot_state from, enum cr__slot_state to)
{
    uint8_t state = (uint8_t)from;
    /* acquire: what the last holder did; pairs with the release in hand_on */
    return atomic_compare_exchange_strong_explicit(&slot->state, &state, (uint8_t)to, memory_order_acquire, memory_order_relaxed);
}

static void hand_on(struct cr__slot *slot, enum cr__slot_state state)
{
    atomic_store_explicit(&slot->state, (uint8_t)state, memory_order_release); /* pairs with the acquire in take */
}

bool cr__freeze_add(struct cr__freezing *f, struct cr__slot *slot, char *low, char *sp, char *top)
{
    size_t live_bytes = (size_t)(top - sp);
    struct image *image = cr__image_get(f->images, sizeof(*image) + live_bytes);
    if (!image)
        return false;
    image->live_bytes = live_bytes;
    if (!take(slot, CR__IN_PLACE, CR__FREEZING)) {
        cr__image_put(f->images, image);
        return false;
    }
    if (slot->image)
        cr__image_put(f->images, cr__mem_at(slot->image)); /* it was thawed by a touch, and has not run since */
    slot->image = cr__mem_handle(image);
    f->stacks[f->count].slot = slot;
    f->stacks[f->count].low = low;
    f->stacks[f->count].sp = sp;
    f->stacks[f->count++].top = top;
    return true;
}

static int protect(char *low, char *end, bool on)
{
    struct uffdio_writeprotect range = {.range = {(uintptr_t)low, (size_t)(end - low)}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return cr__os_ioctl(atomic_load_explicit(&uffd, memory_order_relaxed), UFFDIO_WRITEPROTECT, &range);
}

/* Neighbours in one call: between them lie guards only. Returns the index behind the run, and its range. */
static unsigned run_of(const struct cr__freezing *f, unsigned i, char **low, char **end)
{
    *low = f->stacks[i].low;
    do
        *end = end_of(f->stacks[i++].top);
    while (i < f->count && f->stacks[i].slot == f->stacks[i - 1].slot + 1);
    return i;
}

static void undo(struct cr__freezing *f, unsigned from)
{
    for (unsigned i = from; i < f->count; i++) {
        protect(f->stacks[i].low, end_of(f->stacks[i].top), false);
        cr__image_put(f->images, cr__mem_at(f->stacks[i].slot->image));
        f->stacks[i].slot->image = 0;
        hand_on(f->stacks[i].slot, CR__IN_PLACE);
    }
}

/* Only a page that is there can be protected: one that has never been touched is, once it has been read. */
__attribute__((no_sanitize("address", "thread"))) static void populate(char *sp, char *end)
{
    for (char *page = page_of(sp); page < end; page += PAGE_BYTES)
        (void)*(volatile char *)page;
}

__attribute__((no_sanitize("address", "thread"))) static void copy(char *to, const char *from, size_t bytes)
{
    __builtin_memcpy(to, from, bytes);
}

/* Guards the pages with live bytes; returns how many stacks are. What memory there was is gone with that. */
static unsigned guard_live(const struct cr__freezing *f)
{
    struct iovec live[CR__FREEZE_MOST];
    for (unsigned i = 0; i < f->count; i++) {
        char *first = page_of(f->stacks[i].sp);
        live[i] = (struct iovec){first, (size_t)(end_of(f->stacks[i].top) - first)};
    }
    ssize_t guarded = cr__os_advise_many(pidfd, live, f->count, MADV_GUARD_INSTALL);
    unsigned done = 0;
    while (done < f->count && guarded >= (ssize_t)live[done].iov_len)
        guarded -= (ssize_t)live[done++].iov_len;
    return done;
}

/* The other pages go back; guards stay. */
static void drop_rest(const struct cr__freezing *f, unsigned done)
{
    for (unsigned i = 0, next; i < done; i = next) {
        char *low, *end;
        next = run_of(f, i, &low, &end);
        if (next > done) { /* the kernel lacks memory: the last of them one by one */
            next = i + 1;
            end = page_of(f->stacks[i].sp);
        }
        if (low < end)
            cr__mem_advise(low, (size_t)(end - low), MADV_DONTNEED);
    }
}

unsigned cr__freeze(struct cr__freezing *f)
{
    for (unsigned i = 0; i < f->count; i++)
        populate(f->stacks[i].sp, f->stacks[i].top);
    for (unsigned i = 0, next; i < f->count; i = next) {
        char *low, *end;
        next = run_of(f, i, &low, &end);
        if (protect(low, end, true) < 0) {
            undo(f, 0);
            return 0;
        }
    }
    for (unsigned i = 0; i < f->count; i++) {
        struct image *image = cr__mem_at(f->stacks[i].slot->image);
        copy(image->bytes, f->stacks[i].sp, image->live_bytes);
    }
    unsigned done = guard_live(f);
    drop_rest(f, done);
    for (unsigned i = 0; i < done; i++)
        hand_on(f->stacks[i].slot, CR__FROZEN);
    undo(f, done);
    atomic_fetch_add_explicit(&cr__freeze_counts.frozen, done, memory_order_relaxed);
    return done;
}

/* ---- Thawing ------------------------------------------------------------------------------------------------- */

static int fill(char *page, const char *bytes)
{
    struct uffdio_copy copy = {.dst = (uintptr_t)page, .src = (uintptr_t)bytes, .len = PAGE_BYTES};
    int r;
    do
        r = cr__os_ioctl(atomic_load_explicit(&uffd, memory_order_relaxed), UFFDIO_COPY, &copy);
    while (r == -EAGAIN); /* the kernel was changing the mapping */
    return r == -EEXIST ? 0 : r; /* an attempt before that lacked memory for another page */
}

/* The state is THAWING. staged: a page. 0; -ENOMEM: all is as it was, or nearer to its place. */
static int thaw(struct cr__slot *slot, char *top, char *staged)
{
    const struct image *image = cr__mem_at(slot->image);
    char *sp = top - image->live_bytes;
    for (char *page = page_of(sp); page < top; page += PAGE_BYTES) {
        char *from = page < sp ? sp : page, *to = page + PAGE_BYTES < top ? page + PAGE_BYTES : top;
        memset(staged, 0, (size_t)(from - page));
        memcpy(staged + (from - page), image->bytes + (from - sp), (size_t)(to - from));
        memset(staged + (to - page), 0, PAGE_BYTES - (size_t)(to - page));
        int r = fill(page, staged);
        if (r < 0)
            return r;
    }
    return 0;
}

int cr__thaw(struct cr__slot *slot, struct cr__images *images, char *top, char *staged)
{
    while (!take(slot, CR__FROZEN, CR__THAWING)) {
        if (atomic_load_explicit(&slot->state, memory_order_acquire) == CR__IN_PLACE) /* pairs with the release in hand_on */
            break;
        sched_yield(); /* somebody touches it */
    }
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) == CR__THAWING) {
        int r = thaw(slot, top, staged);
        hand_on(slot, r < 0 ? CR__FROZEN : CR__IN_PLACE);
        if (r < 0)
            return -ENOMEM;
        atomic_fetch_add_explicit(&cr__freeze_counts.resumed, 1, memory_order_relaxed);
    }
    cr__image_put(images, cr__mem_at(slot->image));
    slot->image = 0;
    return 0;
}

bool cr__virtual_fault(const void *addr)
{
    struct cr__stack_chunk *chunk = cr__virtual_chunk(addr);
    char *low, *top;
    struct cr__slot *slot = chunk ? cr__stack_slot(chunk, addr, &low, &top) : NULL;
    if (!slot || (const char *)addr < low || atomic_load_explicit(&uffd, memory_order_acquire) < 0)
        return false;
    for (;;) {
        if (take(slot, CR__FROZEN, CR__THAWING)) {
            char staged[PAGE_BYTES];
            int r = thaw(slot, top, staged);
            hand_on(slot, r < 0 ? CR__FROZEN : CR__IN_PLACE);
            if (r == 0) {
                atomic_fetch_add_explicit(&cr__freeze_counts.touched, 1, memory_order_relaxed);
                return true;
            }
        } else if (atomic_load_explicit(&slot->state, memory_order_acquire) == CR__IN_PLACE) {
            return true;
        }
        sched_yield();
    }
}

bool cr__virtual_touch(const void *buf, size_t size_bytes)
{
    const char *end = (const char *)buf + size_bytes;
    bool any = false;
    for (const char *at = buf; at < end; at = (const char *)(((uintptr_t)at & ~(PAGE_BYTES - 1)) + PAGE_BYTES))
        any |= cr__virtual_fault(at);
    return any;
}

const char *cr__frozen_bytes(const struct cr__slot *slot, size_t *live_bytes)
{
    const struct image *image = cr__mem_at(slot->image);
    *live_bytes = image->live_bytes;
    return image->bytes;
}
