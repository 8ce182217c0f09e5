/* The reservation is made on first use, and never given up: handles and late looks rest on it. Chunks are made accessible a block
 * at a time; a free one's memory goes back to the kernel, and its addresses wait in a list of its kind. */
#include "mem/mem.h"

#include "base/spin.h"
#include "mem/books.h"
#include "os/os.h"

#define BLOCK_BYTES ((size_t)2 << 20)
#define RESERVE_MIN_BYTES (4 * BLOCK_BYTES)

_Static_assert(sizeof(struct cr__chunk) <= CR__CACHE_LINE, "the table takes a small part of what it describes");

struct cr__reserve cr__reserve;

static _Atomic uint8_t lock; /* guards all below, and the reservation's making */
static char *carved, *usable_end;
static struct cr__chunk *free_chunks[CR__MEM_KINDS];

static char *reserve_some(size_t size_bytes)
{
    cr__mem_count_call();
    char *addr = cr__os_map(size_bytes + BLOCK_BYTES, PROT_NONE);
    return addr ? (char *)cr__round_up((uintptr_t)addr, BLOCK_BYTES) : NULL;
}

static bool reserve_locked(void)
{
    size_t size_bytes = CR__RESERVE_MAX_BYTES;
    char *base = NULL;
    while (size_bytes >= RESERVE_MIN_BYTES && !(base = reserve_some(size_bytes)))
        size_bytes /= 2;
    size_t table_bytes = cr__round_up(size_bytes / CR__CHUNK_BYTES * sizeof(struct cr__chunk), BLOCK_BYTES);
    if (!base || cr__mem_protect(base, table_bytes, PROT_READ | PROT_WRITE) < 0)
        return false;
    carved = usable_end = base + table_bytes;
    cr__reserve = (struct cr__reserve){base, size_bytes};
    return true;
}

static struct cr__chunk *carve_locked(void)
{
    if (carved == usable_end) {
        if (usable_end == cr__reserve.base + cr__reserve.size_bytes || cr__mem_protect(usable_end, BLOCK_BYTES, PROT_READ | PROT_WRITE) < 0)
            return NULL;
        usable_end += BLOCK_BYTES;
    }
    carved += CR__CHUNK_BYTES;
    return cr__chunk_of(carved - CR__CHUNK_BYTES);
}

struct cr__chunk *cr__chunk_get(struct cr__slab *slab)
{
    struct cr__chunk *chunk = NULL;
    if (cr__mem_fails_by_injection())
        return NULL;
    cr__spin_lock(&lock);
    if (cr__reserve.base || reserve_locked()) {
        chunk = free_chunks[slab->kind];
        if (chunk)
            free_chunks[slab->kind] = chunk->next;
        else
            chunk = carve_locked();
    }
    cr__spin_unlock(&lock);
    if (!chunk)
        return NULL;
    chunk->kind = (uint8_t)slab->kind;
    chunk->next = NULL;
    chunk->fresh = cr__chunk_begin(chunk);
    atomic_store_explicit(&chunk->slab, slab, memory_order_relaxed);
    cr__mem_count(slab->kind, CR__CHUNK_BYTES);
    return chunk;
}

void cr__chunk_put(struct cr__chunk *chunk)
{
    atomic_store_explicit(&chunk->slab, NULL, memory_order_relaxed);
    cr__mem_advise(cr__chunk_begin(chunk), CR__CHUNK_BYTES, MADV_DONTNEED);
    cr__mem_uncount(chunk->kind, CR__CHUNK_BYTES);
    cr__spin_lock(&lock);
    chunk->next = free_chunks[chunk->kind];
    free_chunks[chunk->kind] = chunk;
    cr__spin_unlock(&lock);
}
