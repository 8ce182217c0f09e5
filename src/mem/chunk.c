/* The reservation, its blocks, and the depot of free chunks.
 *
 * The reservation is made on first use, and never given up: handles and late looks rest on it. A block is made accessible when its first chunk is wanted. The first
 * few blocks of a kind are of small pages, so that a small program stays small; those after them of huge ones: of the system's pool if it has
 * some (hugetlb), else as the kernel finds them (transparent), if it does that at all.
 *
 * The depot has a list of warm and one of cold chunks for each kind. What was not wanted for a whole period goes cold: so many chunks as the list of warm ones was long
 * at its shortest, but for a few. So a load that comes and goes within a period makes no kernel calls, and what a peak leaves behind is gone one
 * or two periods later. Chunks go cold alone, but a block that is wholly free does so with one call, and one of the system's pool only so.
 *
 * Rejected: a time stamp per chunk (a list in order of time would make the coldest chunk the first to be used); returning chunks when they are freed (a
 * wave of spawns would fault in all its memory each time). */
#include "mem/mem.h"

#include <pthread.h>
#include <string.h>

#include "os/os.h"

#define BLOCK_BYTES CR__BLOCK_BYTES
#define BLOCK_CHUNKS ((uint32_t)(BLOCK_BYTES / CR__CHUNK_BYTES))
#define MARGIN_BYTES (2 * BLOCK_BYTES) /* to be aligned, with a block or more below that is never accessible: who runs off a packed stack would go on in what lies there */
#define RESERVE_MIN_BYTES (4 * BLOCK_BYTES)
#define SMALL_BLOCKS 2 /* of each kind */
#define PERIOD_NS (500ll * 1000000)
#define SLICE_CHUNKS 16

struct cr__reserve cr__reserve;

struct depot {
    struct cr__chunk *warm, *cold;
    unsigned warm_count;
    unsigned low;    /* the smallest warm_count since the last tick */
    unsigned doomed; /* so many are to go cold */
    unsigned blocks; /* that have been made for this kind */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below, and the reservation's making */
static struct depot depots[CR__MEM_KINDS];
static int64_t ticked_ns;
static uint32_t blocks_end; /* chunks before this one have been carved */
static enum { THP_UNKNOWN, THP_NEVER, THP_ASKED, THP_ALWAYS } transparent;
static bool no_hugetlb;

/* Read without the lock. */
static _Atomic unsigned spare_chunks;  /* warm */
static _Atomic unsigned excess_chunks; /* of these, what is more than is kept */
static _Atomic uint64_t bytes_by_pages[CR__PAGES_HUGETLB + 1];

uint64_t cr__mem_pages_bytes(enum cr__pages pages)
{
    return atomic_load_explicit(&bytes_by_pages[pages], memory_order_relaxed);
}

uint64_t cr__mem_spare_bytes(void)
{
    return (uint64_t)atomic_load_explicit(&spare_chunks, memory_order_relaxed) * CR__CHUNK_BYTES;
}

bool cr__depot_restless(void)
{
    return atomic_load_explicit(&excess_chunks, memory_order_relaxed) > 0;
}

/* ---- Blocks ------------------------------------------------------------------------------------------------- */

static char *map_addresses(size_t size_bytes)
{
    cr__mem_count_call();
    return cr__os_map(size_bytes + MARGIN_BYTES, PROT_NONE);
}

/* Where the process is limited, half of what can be had: stacks want addresses, too. */
static char *take_addresses(size_t *size_bytes)
{
    char *addr = NULL;
    for (*size_bytes = CR__RESERVE_MAX_BYTES; *size_bytes >= RESERVE_MIN_BYTES; *size_bytes /= 2) {
        addr = map_addresses(*size_bytes);
        if (addr)
            break;
    }
    if (!addr || *size_bytes == CR__RESERVE_MAX_BYTES || *size_bytes == RESERVE_MIN_BYTES)
        return addr;
    cr__os_unmap(addr, *size_bytes + MARGIN_BYTES);
    *size_bytes /= 2;
    return map_addresses(*size_bytes);
}

static bool reserve_locked(void)
{
    size_t size_bytes;
    char *addr = take_addresses(&size_bytes), *base = (char *)cr__round_up((uintptr_t)addr + BLOCK_BYTES, BLOCK_BYTES);
    size_t table_bytes = cr__round_up(size_bytes / CR__CHUNK_BYTES * sizeof(struct cr__chunk), BLOCK_BYTES);
    if (!addr)
        return false;
    if (cr__mem_protect(base, table_bytes, PROT_READ | PROT_WRITE) < 0) {
        cr__os_unmap(addr, size_bytes + MARGIN_BYTES);
        return false;
    }
    blocks_end = (uint32_t)(table_bytes / CR__CHUNK_BYTES);
    cr__reserve.base = base;
    atomic_store_explicit(&cr__reserve.size_bytes, size_bytes, memory_order_release);
    return true;
}

static void learn_transparent(void)
{
    char text[64] = "";
    int fd = cr__os_open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY, 0);
    if (fd >= 0) {
        ssize_t n = cr__os_read(fd, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        cr__os_close(fd);
    }
    transparent = strstr(text, "[always]") ? THP_ALWAYS : strstr(text, "[madvise]") ? THP_ASKED : THP_NEVER;
}

/* A page of the system's pool is mapped elsewhere, filled, since a first touch may find a limit and end the program, and then moved here. */
static bool hugetlb_block(char *block)
{
    if (no_hugetlb)
        return false;
    cr__mem_count_call();
    char *page = cr__os_map_hugetlb(BLOCK_BYTES);
    bool good = page && cr__mem_advise(page, BLOCK_BYTES, MADV_POPULATE_WRITE) == 0 && cr__os_move(page, block, BLOCK_BYTES) == 0;
    if (page && !good)
        cr__os_unmap(page, BLOCK_BYTES);
    no_hugetlb = !good;
    return good;
}

/* Makes a block accessible. Returns false if that fails; then it is as it was. */
static bool open_block(char *block, bool small, enum cr__pages *pages)
{
    *pages = CR__PAGES_SMALL;
    if (transparent == THP_UNKNOWN)
        learn_transparent();
    if (!small && hugetlb_block(block)) {
        *pages = CR__PAGES_HUGETLB;
        return true;
    }
    if (cr__mem_protect(block, BLOCK_BYTES, PROT_READ | PROT_WRITE) < 0)
        return false;
    if (!small && transparent != THP_NEVER && cr__mem_advise(block, BLOCK_BYTES, MADV_HUGEPAGE) == 0)
        *pages = CR__PAGES_TRANSPARENT;
    else if (small && transparent == THP_ALWAYS)
        cr__mem_advise(block, BLOCK_BYTES, MADV_NOHUGEPAGE);
    return true;
}

bool cr__block_open(char *block)
{
    enum cr__pages pages;
    pthread_mutex_lock(&lock);
    bool open = open_block(block, false, &pages);
    pthread_mutex_unlock(&lock);
    if (open)
        atomic_fetch_add_explicit(&bytes_by_pages[pages], BLOCK_BYTES, memory_order_relaxed);
    return open;
}

static struct cr__chunk *head_of(struct cr__chunk *chunk)
{
    return cr__chunk_at((uint32_t)(chunk - cr__chunk_at(0)) / BLOCK_CHUNKS * BLOCK_CHUNKS);
}

/* A new block: its chunks join the cold ones. */
static bool carve_locked(struct depot *depot, enum cr__mem_kind kind)
{
    enum cr__pages pages;
    if ((size_t)blocks_end * CR__CHUNK_BYTES == cr__reserve.size_bytes)
        return false;
    struct cr__chunk *head = cr__chunk_at(blocks_end);
    if (!open_block(cr__chunk_begin(head), depot->blocks < SMALL_BLOCKS, &pages))
        return false;
    depot->blocks++;
    blocks_end += BLOCK_CHUNKS;
    for (uint32_t i = BLOCK_CHUNKS; i-- > 0;) {
        head[i] = (struct cr__chunk){.next = depot->cold, .kind = (uint8_t)kind, .cold = true};
        depot->cold = &head[i];
    }
    head->block_pages = (uint8_t)pages;
    atomic_fetch_add_explicit(&bytes_by_pages[pages], BLOCK_BYTES, memory_order_relaxed);
    atomic_store_explicit(&cr__reserve.chunks, blocks_end, memory_order_release); /* pairs with the acquire in slab.c: the heads below that are there */
    return true;
}

/* ---- The depot ---------------------------------------------------------------------------------------------- */

static void count_warm(struct depot *depot, int n)
{
    unsigned before = depot->warm_count > CR__DEPOT_KEPT ? depot->warm_count - CR__DEPOT_KEPT : 0;
    depot->warm_count += (unsigned)n;
    unsigned after = depot->warm_count > CR__DEPOT_KEPT ? depot->warm_count - CR__DEPOT_KEPT : 0;
    if (depot->warm_count < depot->low)
        depot->low = depot->warm_count;
    atomic_fetch_add_explicit(&spare_chunks, (unsigned)n, memory_order_relaxed);
    atomic_fetch_add_explicit(&excess_chunks, after - before, memory_order_relaxed);
}

static void warm_add(struct depot *depot, struct cr__chunk *chunk)
{
    chunk->next = depot->warm;
    chunk->prev = NULL;
    if (chunk->next)
        chunk->next->prev = chunk;
    depot->warm = chunk;
    head_of(chunk)->block_warm++;
    count_warm(depot, 1);
}

static void warm_remove(struct depot *depot, struct cr__chunk *chunk)
{
    if (chunk->prev)
        chunk->prev->next = chunk->next;
    else
        depot->warm = chunk->next;
    if (chunk->next)
        chunk->next->prev = chunk->prev;
    head_of(chunk)->block_warm--;
    count_warm(depot, -1);
}

/* Objects of such a kind are looked at after they were freed: their place is not to become the middle of another one. */
static bool is_stable(enum cr__mem_kind kind)
{
    return kind == CR__MEM_RECORDS || kind == CR__MEM_CONNS;
}

static bool suits(const struct cr__chunk *chunk, const struct cr__slab *slab)
{
    return chunk->object_size_bytes == 0 || chunk->object_size_bytes == slab->object_size_bytes || !is_stable(slab->kind);
}

static struct cr__chunk *take_warm(struct depot *depot, const struct cr__slab *slab)
{
    struct cr__chunk *chunk = depot->warm;
    while (chunk && !suits(chunk, slab))
        chunk = chunk->next;
    if (chunk)
        warm_remove(depot, chunk);
    return chunk;
}

static struct cr__chunk *take_cold(struct depot *depot, const struct cr__slab *slab)
{
    struct cr__chunk **link = &depot->cold;
    while (*link && !suits(*link, slab))
        link = &(*link)->next;
    struct cr__chunk *chunk = *link;
    if (chunk)
        *link = chunk->next;
    return chunk;
}

static struct cr__chunk *get_locked(struct cr__slab *slab)
{
    struct depot *depot = &depots[slab->kind];
    if (!cr__reserve.base && !reserve_locked())
        return NULL;
    struct cr__chunk *chunk = take_warm(depot, slab);
    if (!chunk)
        chunk = take_cold(depot, slab);
    if (!chunk && carve_locked(depot, slab->kind))
        chunk = take_cold(depot, slab);
    return chunk;
}

struct cr__chunk *cr__chunk_get(struct cr__slab *slab)
{
    if (cr__mem_fails_by_injection())
        return NULL;
    pthread_mutex_lock(&lock);
    struct cr__chunk *chunk = get_locked(slab);
    pthread_mutex_unlock(&lock);
    if (!chunk)
        return NULL;
    chunk->object_size_bytes = slab->object_size_bytes;
    chunk->cold = false;
    chunk->free = NULL;
    chunk->used = 0;
    chunk->fresh = cr__chunk_begin(chunk);
    chunk->next = chunk->prev = NULL;
    atomic_store_explicit(&chunk->slab, slab, memory_order_relaxed);
    cr__mem_count(slab->kind, CR__CHUNK_BYTES);
    return chunk;
}

void cr__chunk_put(struct cr__chunk *chunk)
{
    atomic_store_explicit(&chunk->slab, NULL, memory_order_relaxed);
    chunk->place = CR__CHUNK_FREE;
    cr__mem_uncount(chunk->kind, CR__CHUNK_BYTES);
    pthread_mutex_lock(&lock);
    warm_add(&depots[chunk->kind], chunk);
    pthread_mutex_unlock(&lock);
}

/* ---- Giving back -------------------------------------------------------------------------------------------- */

/* Not under the lock: nobody else has these chunks. One of the system's pool goes back to it, and small or transparent ones take its place. */
static enum cr__pages cool(struct cr__chunk *first, uint32_t count)
{
    char *begin = cr__chunk_begin(first);
    enum cr__pages pages = head_of(first)->block_pages;
    if (pages != CR__PAGES_HUGETLB) {
        cr__mem_advise(begin, count * CR__CHUNK_BYTES, MADV_DONTNEED); /* can't fail; on locked memory it does, and nothing is lost */
        return pages;
    }
    cr__mem_count_call();
    if (cr__os_map_over(begin, BLOCK_BYTES) < 0)
        return pages;
    bool huge = transparent != THP_NEVER && cr__mem_advise(begin, BLOCK_BYTES, MADV_HUGEPAGE) == 0;
    return huge ? CR__PAGES_TRANSPARENT : CR__PAGES_SMALL;
}

/* Takes a chunk that may go, or the whole block around it: *count of them, no longer in any list. NULL: there is none. */
static struct cr__chunk *take_doomed_locked(struct depot *depot, uint32_t *count)
{
    struct cr__chunk *chunk = depot->warm;
    while (chunk && head_of(chunk)->block_pages == CR__PAGES_HUGETLB && head_of(chunk)->block_warm < BLOCK_CHUNKS)
        chunk = chunk->next;
    if (!chunk)
        return NULL;
    struct cr__chunk *head = head_of(chunk);
    if (head->block_warm < BLOCK_CHUNKS) {
        warm_remove(depot, chunk);
        *count = 1;
        return chunk;
    }
    for (uint32_t i = 0; i < BLOCK_CHUNKS; i++)
        warm_remove(depot, &head[i]);
    *count = BLOCK_CHUNKS;
    return head;
}

static void add_cold_locked(struct depot *depot, struct cr__chunk *first, uint32_t count, enum cr__pages pages)
{
    struct cr__chunk *head = head_of(first);
    if (pages != (enum cr__pages)head->block_pages) {
        atomic_fetch_sub_explicit(&bytes_by_pages[head->block_pages], BLOCK_BYTES, memory_order_relaxed);
        atomic_fetch_add_explicit(&bytes_by_pages[pages], BLOCK_BYTES, memory_order_relaxed);
        head->block_pages = (uint8_t)pages;
    }
    for (uint32_t i = count; i-- > 0;) {
        first[i].cold = true;
        first[i].next = depot->cold;
        depot->cold = &first[i];
    }
}

/* Some of what is doomed. Returns how many chunks. Under the lock, which is open meanwhile. */
static uint32_t give_back_locked(struct depot *depot)
{
    uint32_t count;
    struct cr__chunk *first = depot->doomed > 0 ? take_doomed_locked(depot, &count) : NULL;
    if (!first) {
        depot->doomed = 0;
        return 0;
    }
    depot->doomed -= count < depot->doomed ? count : depot->doomed;
    pthread_mutex_unlock(&lock);
    enum cr__pages pages = cool(first, count);
    pthread_mutex_lock(&lock);
    add_cold_locked(depot, first, count, pages);
    return count;
}

static void doom_locked(void)
{
    for (struct depot *depot = depots; depot < depots + CR__MEM_KINDS; depot++) {
        unsigned excess = depot->low > CR__DEPOT_KEPT ? depot->low - CR__DEPOT_KEPT : 0;
        if (depot->doomed < excess)
            depot->doomed = excess;
        depot->low = depot->warm_count - (depot->doomed < depot->warm_count ? depot->doomed : depot->warm_count);
    }
}

bool cr__depot_tick(int64_t now_ns)
{
    uint32_t given = 0;
    bool more = false;
    pthread_mutex_lock(&lock);
    if (now_ns - ticked_ns >= PERIOD_NS || now_ns < ticked_ns) { /* earlier: after a runtime under a seed, which had a clock of its own */
        ticked_ns = now_ns;
        doom_locked();
    }
    for (struct depot *depot = depots; depot < depots + CR__MEM_KINDS; depot++) {
        uint32_t n = 1;
        while (given < SLICE_CHUNKS && n > 0)
            given += n = give_back_locked(depot);
        more |= depot->doomed > 0;
    }
    pthread_mutex_unlock(&lock);
    return more;
}

static void doom_all(struct depot *depot)
{
    depot->doomed = depot->warm_count > CR__DEPOT_KEPT ? depot->warm_count - CR__DEPOT_KEPT : 0;
}

void cr__depot_hurry(void)
{
    pthread_mutex_lock(&lock);
    for (struct depot *depot = depots; depot < depots + CR__MEM_KINDS; depot++)
        doom_all(depot);
    pthread_mutex_unlock(&lock);
}

void cr__depot_trim(void)
{
    pthread_mutex_lock(&lock);
    for (struct depot *depot = depots; depot < depots + CR__MEM_KINDS; depot++) {
        do
            doom_all(depot);
        while (give_back_locked(depot) > 0);
    }
    pthread_mutex_unlock(&lock);
}
