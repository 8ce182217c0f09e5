/* A coroutine's cold part: name and local storage, made when first wanted. */
#include "co/co.h"

#include <stdatomic.h>
#include <string.h>

#include "mem/mem.h"

#define FIRST_LOCALS 4

static _Atomic uint32_t keys_used;
static void (*_Atomic destructors[CR_LOCAL_MAX])(void *);

int cr_local_key(unsigned *key, void (*destroy)(void *value))
{
    uint32_t k = atomic_load(&keys_used);
    do {
        if (k == CR_LOCAL_MAX)
            return -EAGAIN;
    } while (!atomic_compare_exchange_weak(&keys_used, &k, k + 1));
    atomic_store(&destructors[k], destroy);
    *key = k;
    return 0;
}

struct cr__co_cold *cr__co_cold_make(void)
{
    struct cr__co_cold *cold = cr__mem_alloc(sizeof(*cold), CR__MEM_RECORDS);
    if (cold)
        cold->bound_ns = CR_FOREVER;
    return cold;
}

struct cr__co_cold *cr__co_cold_of(struct cr_co *co)
{
    if (!co->cold)
        co->cold = cr__co_cold_make();
    return co->cold;
}

void *cr_local_get(unsigned key)
{
    struct cr_co *co = cr_co_current();
    return co && co->cold && key < co->cold->locals_count ? co->cold->locals[key] : NULL;
}

static int locals_grow(struct cr__co_cold *cold, unsigned key)
{
    uint32_t count = cold->locals_count ? cold->locals_count : FIRST_LOCALS;
    while (count <= key)
        count *= 2;
    void **locals = cr__mem_alloc(count * sizeof(*locals), CR__MEM_RECORDS);
    if (!locals)
        return -ENOMEM;
    if (cold->locals)
        memcpy(locals, cold->locals, cold->locals_count * sizeof(*locals));
    cr__mem_free(cold->locals, cold->locals_count * sizeof(*locals), CR__MEM_RECORDS);
    cold->locals = locals;
    cold->locals_count = count;
    return 0;
}

int cr_local_set(unsigned key, void *value)
{
    if (key >= atomic_load(&keys_used))
        return -EINVAL;
    struct cr_co *co = cr_co_current();
    if (!co)
        return -EPERM;
    struct cr__co_cold *cold = cr__co_cold_of(co);
    if (!cold || (key >= cold->locals_count && locals_grow(cold, key) < 0))
        return -ENOMEM;
    cold->locals[key] = value;
    return 0;
}

/* Cut to fit. Not by snprintf, which takes 2 KiB of stack. */
static void copy_name(char *to, size_t size_bytes, const char *name)
{
    size_t length = name ? strnlen(name, size_bytes - 1) : 0;
    if (length)
        memcpy(to, name, length);
    to[length] = '\0';
}

int cr_name_set(struct cr_co *co, const char *name)
{
    struct cr__co_cold *cold = cr__co_cold_of(co);
    if (!cold)
        return -ENOMEM;
    copy_name(cold->name, sizeof(cold->name), name);
    return 0;
}

const char *cr__co_name(const struct cr_co *co)
{
    return co->cold && co->cold->name[0] ? co->cold->name : NULL;
}

const char *cr_name_get(const struct cr_co *co, char *buf, size_t size_bytes)
{
    if (size_bytes)
        copy_name(buf, size_bytes, cr__co_name(co));
    return buf;
}

/* A destructor that asks finds nothing; nor is what it sets, though it must not, destroyed. */
static void locals_destroy(struct cr__co_cold *cold)
{
    void **locals = cold->locals;
    uint32_t count = cold->locals_count;
    cold->locals = NULL;
    cold->locals_count = 0;
    for (uint32_t k = 0; k < count; k++) {
        void (*destroy)(void *) = atomic_load(&destructors[k % CR_LOCAL_MAX]);
        if (locals[k] && destroy)
            destroy(locals[k]);
    }
    cr__mem_free(locals, count * sizeof(*locals), CR__MEM_RECORDS);
}

void cr__co_cold_free(struct cr_co *co)
{
    struct cr__co_cold *cold = co->cold;
    if (!cold)
        return;
    locals_destroy(cold);
    if (cold->above)
        cold->above->release(co, cold->above);
    co->cold = NULL;
    cr__mem_free(cold->locals, cold->locals_count * sizeof(*cold->locals), CR__MEM_RECORDS);
    cr__mem_free(cold, sizeof(*cold), CR__MEM_RECORDS);
}
