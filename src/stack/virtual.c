#include "stack/virtual.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

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
static _Atomic size_t size; /* 0 until there is one; all that is handed to the kernel is looked at (entry_of) */
static size_t used;
static _Atomic uintptr_t *chunks; /* one for each unit: whose it is, or 0; of a range that has been given back, the first one has GAP, and the list's next */
static _Atomic int uffd = -1;
static int pidfd = -1; /* our own: for one call that advises on several ranges */
static bool forgotten; /* in a child of fork: these two are to be opened anew */
static const char *why_not;

#define GAP ((uintptr_t)1)
#define GAP_UNITS_SHIFT 32
static uint32_t gaps; /* the first one's unit + 1; 0: there is none */

/* ---- Setting up ---------------------------------------------------------------------------------------------- */

static int register_range(int fd, void *addr, size_t size_bytes)
{
    struct uffdio_register range = {.range = {(uintptr_t)addr, size_bytes}, .mode = UFFDIO_REGISTER_MODE_WP};
    return cr__os_ioctl(fd, UFFDIO_REGISTER, &range);
}

/* Where guards are tried: nobody has it yet, unless all addresses are taken. In a child of fork the first ones are. */
static char *page_to_try(void)
{
    return base + size - PAGE_BYTES;
}

static bool guards_many(void)
{
    struct iovec page = {page_to_try(), PAGE_BYTES};
    int fd = cr__os_pidfd_self();
    if (fd < 0)
        return false;
    if (cr__os_advise_many(fd, &page, 1, MADV_GUARD_INSTALL) == (ssize_t)PAGE_BYTES && cr__mem_advise(page.iov_base, PAGE_BYTES, MADV_GUARD_REMOVE) == 0) {
        pidfd = fd;
        return true;
    }
    cr__os_close(fd);
    return false;
}

static const char *open_uffd(void)
{
#ifdef CR__ASAN
    return "AddressSanitizer must see each touch itself";
#endif
#ifdef CR__TSAN
    return "ThreadSanitizer touches memory while it holds locks that the handler of the fault needs";
#endif
    int fd = cr__os_userfaultfd(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return "userfaultfd is refused";
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    const char *why = NULL;
    if (cr__os_ioctl(fd, UFFDIO_API, &api) < 0)
        why = "userfaultfd knows no write protection";
    else if (register_range(fd, base, size) < 0)
        why = "the kernel does not register the reservation";
    else if (!cr__stack_guards_light(page_to_try()))
        why = "the kernel has no lightweight guards (Linux 6.13)";
    else if (!guards_many())
        why = "the kernel does not guard several ranges by one call (process_madvise)";
    if (why)
        cr__os_close(fd);
    else
        atomic_store_explicit(&uffd, fd, memory_order_release);
    return why;
}

/* In a child of fork: the parent's descriptor would change the parent's memory. */
static void forget(void)
{
    int fd = atomic_exchange_explicit(&uffd, -1, memory_order_relaxed);
    if (fd >= 0)
        cr__os_close(fd);
    if (pidfd >= 0)
        cr__os_close(pidfd);
    pidfd = -1;
    forgotten = true;
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
        if (addr)
            cr__os_unmap(addr, bytes);
        why_not = "there is no address space";
        return;
    }
    base = (char *)cr__round_up((uintptr_t)addr, UNIT_BYTES);
    atomic_store_explicit(&size, bytes - UNIT_BYTES, memory_order_release); /* pairs with the acquire in entry_of */
    cr__mem_advise(base, size, MADV_NOHUGEPAGE);
    cr__mem_advise(base, size, MADV_DONTDUMP); /* the kernel looks at each page of what it dumps: a minute for a terabyte of none. Chunks are dumped */
    why_not = pthread_atfork(NULL, NULL, forget) == 0 ? open_uffd() : "there is no memory";
}

bool cr__virtual_freezes(const char **why)
{
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
    if (forgotten && base)
        why_not = open_uffd();
    forgotten = false;
    *why = why_not;
    pthread_mutex_unlock(&lock);
    return !*why;
}

/* ---- Chunks -------------------------------------------------------------------------------------------------- */

static _Atomic uintptr_t *entry_of(const void *addr)
{
    size_t bytes = atomic_load_explicit(&size, memory_order_acquire); /* pairs with the release in set_up: base is there */
    if (CR__UNLIKELY(bytes == 0))
        return NULL; /* and base may be just about to be written */
    size_t offset = (size_t)((const char *)addr - base);
    return offset < bytes ? &chunks[offset / UNIT_BYTES] : NULL;
}

struct cr__stack_chunk *cr__virtual_chunk(const void *addr)
{
    _Atomic uintptr_t *entry = entry_of(addr);
    uintptr_t chunk = entry ? atomic_load_explicit(entry, memory_order_acquire) : 0; /* pairs with the release in cr__virtual_enter: what the chunk says is there */
    return chunk & GAP ? NULL : (void *)chunk;
}

void cr__virtual_enter(char *addr, size_t size_bytes, struct cr__stack_chunk *chunk)
{
    for (size_t at = 0; at < size_bytes; at += UNIT_BYTES)
        atomic_store_explicit(entry_of(addr + at), (uintptr_t)chunk, memory_order_release); /* pairs with the acquire in cr__virtual_chunk */
}

static uint32_t gap_next(uint32_t gap)
{
    return (uint32_t)atomic_load_explicit(&chunks[gap - 1], memory_order_relaxed) >> 1;
}

static size_t gap_bytes(uint32_t gap)
{
    return (size_t)(atomic_load_explicit(&chunks[gap - 1], memory_order_relaxed) >> GAP_UNITS_SHIFT) * UNIT_BYTES;
}

static void gap_set(uint32_t gap, size_t size_bytes, uint32_t next)
{
    atomic_store_explicit(&chunks[gap - 1], (uintptr_t)(size_bytes / UNIT_BYTES) << GAP_UNITS_SHIFT | (uintptr_t)next << 1 | GAP, memory_order_relaxed);
}

static char *take_gap_locked(size_t size_bytes)
{
    for (uint32_t gap = gaps, before = 0; gap; before = gap, gap = gap_next(gap)) {
        if (gap_bytes(gap) != size_bytes)
            continue;
        if (before)
            gap_set(before, gap_bytes(before), gap_next(gap));
        else
            gaps = gap_next(gap);
        return base + (size_t)(gap - 1) * UNIT_BYTES;
    }
    return NULL;
}

static void add_gap_locked(const char *addr, size_t size_bytes)
{
    uint32_t gap = (uint32_t)((size_t)(addr - base) / UNIT_BYTES) + 1;
    gap_set(gap, size_bytes, gaps);
    gaps = gap;
}

void *cr__virtual_map(size_t size_bytes)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    size_bytes = cr__round_up(size_bytes, UNIT_BYTES);
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
    char *addr = take_gap_locked(size_bytes);
    if (!addr && size > used && size - used >= size_bytes) {
        addr = base + used;
        used += size_bytes;
    }
    pthread_mutex_unlock(&lock);
    if (addr) {
        cr__mem_advise(addr, size_bytes, MADV_DODUMP);
        cr__mem_count(CR__MEM_STACKS, size_bytes);
    }
    return addr;
}

void cr__virtual_unmap(void *addr, size_t size_bytes)
{
    size_bytes = cr__round_up(size_bytes, UNIT_BYTES);
    cr__virtual_enter(addr, size_bytes, NULL);
    cr__mem_count_call();
    int r = cr__os_map_over(addr, size_bytes) /* without its page tables */;
    if (r == 0) {
        cr__mem_advise(addr, size_bytes, MADV_NOHUGEPAGE);
        cr__mem_advise(addr, size_bytes, MADV_DONTDUMP);
        int fd = atomic_load_explicit(&uffd, memory_order_relaxed);
        if (fd >= 0)
            r = register_range(fd, addr, size_bytes);
    }
    cr__mem_uncount(CR__MEM_STACKS, size_bytes);
    if (r < 0)
        return; /* its addresses are lost: there are many */
    pthread_mutex_lock(&lock);
    add_gap_locked(addr, size_bytes);
    pthread_mutex_unlock(&lock);
}

/* ---- Whose fault it is ---------------------------------------------------------------------------------------- */

/* What is being frozen or thawed, and what has been. A fault on a stack in place comes from one of these that was over before the handler looked; or the program itself has withheld
 * the page. So such a fault is tried again, but not when nothing has begun since a look of this thread's at which nothing was under way. */
static _Atomic uint64_t begun, over;
static __thread uint64_t quiet __attribute__((tls_model("initial-exec"))); /* `begun` at that look, plus one */

static void change_begins(void)
{
    atomic_fetch_add(&begun, 1);
}

static void change_ends(void)
{
    atomic_fetch_add(&over, 1);
}

static bool may_be_ours(void)
{
    uint64_t over_now = atomic_load(&over), begun_now = atomic_load(&begun); /* in this order: if they are equal, nothing was under way */
    if (quiet == begun_now + 1)
        return false;
    if (over_now == begun_now)
        quiet = begun_now + 1;
    return true;
}

/* ---- A stack, and its live bytes ------------------------------------------------------------------------------ */

static char *page_of(const char *addr)
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
    /* acquire: what the last holder did; pairs with the release in hand_on. In the one order of all for cr__freeze_add */
    return atomic_compare_exchange_strong_explicit(&slot->state, &state, (uint8_t)to, memory_order_seq_cst, memory_order_relaxed);
}

static void hand_on(struct cr__slot *slot, enum cr__slot_state state)
{
    atomic_store_explicit(&slot->state, (uint8_t)state, memory_order_release); /* pairs with the acquire in take */
}

static int fill(char *page, const char *bytes)
{
    struct uffdio_copy copy = {.dst = (uintptr_t)page, .src = (uintptr_t)bytes, .len = PAGE_BYTES};
    int r;
    do
        r = cr__os_ioctl(atomic_load_explicit(&uffd, memory_order_relaxed), UFFDIO_COPY, &copy);
    while (r == -EAGAIN); /* the kernel was changing the mapping */
    return r == -EEXIST ? 0 : r; /* by an attempt before, which lacked memory for another page */
}

/* Puts live bytes back where the state is THAWING, or FREEZING. staged: a page. 0; -ENOMEM: all is as it was, or nearer to its place. */
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

/* ---- Freezing ------------------------------------------------------------------------------------------------ */

int cr__freeze_add(struct cr__freezing *f, struct cr__slot *slot, char *low, char *sp, char *top)
{
    if (atomic_load_explicit(&slot->held, memory_order_relaxed) > 0 || atomic_load_explicit(&slot->state, memory_order_relaxed) != CR__IN_PLACE)
        return 0; /* mostly seen here, before anything is taken */
    size_t live_bytes = (size_t)(top - sp);
    struct image *image = cr__image_get(f->images, sizeof(*image) + live_bytes);
    if (!image)
        return -ENOMEM;
    image->live_bytes = live_bytes;
    if (!take(slot, CR__IN_PLACE, CR__FREEZING)) {
        cr__image_put(f->images, image);
        return 0;
    }
    if (atomic_load(&slot->held) > 0) { /* after take, in the one order of all: either this sees cr__virtual_hold's count, or that one sees our state */
        hand_on(slot, CR__IN_PLACE);
        cr__image_put(f->images, image);
        return 0;
    }
    CR__ASSERT(slot->image == 0); /* one that was thawed by a touch is AWAY, for its scheduler, until it runs: so nobody adds it */
    slot->image = cr__mem_handle(image);
    f->stacks[f->count].slot = slot;
    f->stacks[f->count].low = low;
    f->stacks[f->count].sp = sp;
    f->stacks[f->count++].top = top;
    return 1;
}

/* Of one chunk: the states of two may be side by side, too. */
static bool are_neighbours(const struct cr__freezing *f, unsigned i)
{
    return f->stacks[i + 1].slot == f->stacks[i].slot + 1 && cr__virtual_chunk(f->stacks[i + 1].low) == cr__virtual_chunk(f->stacks[i].low);
}

/* Neighbours in one call: between them lie guards only. Returns the index behind the run, and its range. */
static unsigned run_of(const struct cr__freezing *f, unsigned i, char **low, size_t *size_bytes)
{
    *low = f->stacks[i].low;
    do
        *size_bytes = (size_t)(end_of(f->stacks[i++].top) - *low);
    while (i < f->count && are_neighbours(f, i - 1));
    return i;
}

static int protect_runs(const struct cr__freezing *f, int protection)
{
    char *low;
    size_t size_bytes;
    int r = 0;
    for (unsigned i = 0; i < f->count && r == 0;) {
        i = run_of(f, i, &low, &size_bytes);
        r = cr__mem_protect(low, size_bytes, protection);
    }
    return r;
}

/* Where access was withheld. It joins mappings, and lacks memory for a moment at most. */
static void open_runs(const struct cr__freezing *f)
{
    while (protect_runs(f, PROT_READ | PROT_WRITE) < 0)
        sched_yield();
}

static void drop_runs(const struct cr__freezing *f)
{
    char *low;
    size_t size_bytes;
    for (unsigned i = 0; i < f->count;) {
        i = run_of(f, i, &low, &size_bytes);
        cr__mem_advise(low, size_bytes, MADV_DONTNEED); /* guards stay */
    }
}

/* Guards the pages in which live bytes were; returns how many stacks' are. */
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

/* Of one that is not guarded, while nobody can touch it: a page that somebody had touched would stay as it is. What has been dropped is free memory, but another one may have taken it for
 * a moment. */
static CR__COLD void fill_again(struct cr__slot *slot, char *top)
{
    char staged[CR__STAGED_BYTES];
    while (thaw(slot, top, staged) < 0)
        sched_yield();
}

static void release(struct cr__freezing *f, struct cr__slot *slot)
{
    cr__image_put(f->images, cr__mem_at(slot->image));
    slot->image = 0;
    hand_on(slot, CR__IN_PLACE);
}

unsigned cr__freeze(struct cr__freezing *f)
{
    unsigned done = 0;
    change_begins();
    bool copied = protect_runs(f, PROT_READ) == 0;
    for (unsigned i = 0; copied && i < f->count; i++) {
        struct image *image = cr__mem_at(f->stacks[i].slot->image);
        memcpy(image->bytes, f->stacks[i].sp, image->live_bytes);
    }
    if (copied && protect_runs(f, PROT_NONE) == 0) {
        drop_runs(f);
        done = guard_live(f);
        for (unsigned i = done; i < f->count; i++)
            fill_again(f->stacks[i].slot, f->stacks[i].top);
    }
    open_runs(f);
    for (unsigned i = 0; i < done; i++)
        hand_on(f->stacks[i].slot, CR__FROZEN);
    for (unsigned i = done; i < f->count; i++)
        release(f, f->stacks[i].slot);
    change_ends();
    atomic_fetch_add_explicit(&cr__freeze_counts.frozen, done, memory_order_relaxed);
    return done;
}

/* ---- Thawing ------------------------------------------------------------------------------------------------- */

/* Of one that is THAWING. */
static int thaw_and_tell(struct cr__slot *slot, char *top, char *staged)
{
    change_begins();
    int r = thaw(slot, top, staged);
    hand_on(slot, r < 0 ? CR__FROZEN : CR__IN_PLACE);
    change_ends();
    return r;
}

int cr__thaw(struct cr__slot *slot, struct cr__images *images, char *top, char *staged)
{
    while (!take(slot, CR__FROZEN, CR__THAWING)) {
        if (atomic_load_explicit(&slot->state, memory_order_acquire) == CR__IN_PLACE) /* pairs with the release in hand_on */
            break;
        sched_yield(); /* somebody touches it */
    }
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) == CR__THAWING) {
        int r = thaw_and_tell(slot, top, staged);
        if (r < 0)
            return -ENOMEM;
        atomic_fetch_add_explicit(&cr__freeze_counts.resumed, 1, memory_order_relaxed);
    }
    cr__image_put(images, cr__mem_at(slot->image));
    slot->image = 0;
    return 0;
}

/* The stack there; NULL: there is none, or a guard. */
static struct cr__slot *slot_at(const void *addr, char **top)
{
    struct cr__stack_chunk *chunk = cr__virtual_chunk(addr);
    char *low;
    struct cr__slot *slot = chunk ? cr__stack_slot(chunk, addr, &low, top) : NULL;
    return slot && (const char *)addr >= low ? slot : NULL;
}

/* By who is not its worker: returns when it is in place, and whether it was this call that has thawed it. */
static bool put_in_place(struct cr__slot *slot, char *top, char *staged)
{
    for (;;) {
        if (take(slot, CR__FROZEN, CR__THAWING)) {
            if (thaw_and_tell(slot, top, staged) == 0) {
                atomic_fetch_add_explicit(&cr__freeze_counts.touched, 1, memory_order_relaxed);
                return true;
            }
        } else if (atomic_load_explicit(&slot->state, memory_order_acquire) == CR__IN_PLACE) {
            return false;
        }
        sched_yield();
    }
}

bool cr__virtual_fault(const void *addr)
{
    char staged[CR__STAGED_BYTES];
    char *top;
    struct cr__slot *slot = slot_at(addr, &top);
    if (!slot || atomic_load_explicit(&uffd, memory_order_acquire) < 0)
        return false;
    return put_in_place(slot, top, staged) || may_be_ours();
}

void cr__virtual_hold(const void *buf, char *staged)
{
    char *top;
    struct cr__slot *slot = slot_at(buf, &top);
    if (!slot)
        return;
    atomic_fetch_add(&slot->held, 1); /* before it looks: see cr__freeze_add */
    if (atomic_load(&slot->state) != CR__IN_PLACE && atomic_load_explicit(&uffd, memory_order_acquire) >= 0)
        (void)put_in_place(slot, top, staged);
}

void cr__virtual_let_go(const void *buf)
{
    char *top;
    struct cr__slot *slot = slot_at(buf, &top);
    if (slot)
        atomic_fetch_sub_explicit(&slot->held, 1, memory_order_release); /* what the kernel has written is there before it is frozen */
}

const char *cr__frozen_bytes(const struct cr__slot *slot, size_t *live_bytes)
{
    const struct image *image = cr__mem_at(slot->image);
    *live_bytes = image->live_bytes;
    return image->bytes;
}
