/* What the compiler makes of the code under test with -fsanitize=thread: a call for each atomic operation, and one before each plain access that
 * others could see. The names are those of ThreadSanitizer's interface (LLVM, compiler-rt/lib/tsan/rtl/tsan_interface_atomic.h); its
 * runtime isn't linked. Outside of a simulated thread all of them do the plain thing. Besides, by the linker's --wrap: memcpy and
 * the like, which the compiler may not instrument; malloc and free; and sched_yield. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define HERE __builtin_extract_return_addr(__builtin_return_address(0))

/* The hook's own work is not the program's. */
static bool enter(void)
{
    if (model__user != MODEL_THREAD)
        return false;
    model__user = MODEL_OUTSIDE;
    return true;
}

static void leave(void)
{
    model__user = MODEL_THREAD;
}

static struct model__place place(const volatile void *addr, unsigned size, const void *pc)
{
    return (struct model__place){(volatile void *)(uintptr_t)addr, size, pc};
}

/* ---- Plain accesses ----------------------------------------------------------------------------------------- */

static void plain(const volatile void *addr, size_t size, enum model__access access, const void *pc)
{
    if (size == 0 || !enter())
        return;
    model__access(addr, size, access, pc);
    leave();
}

#define PLAIN(name, size, access)                                                                                      \
    void __tsan_##name(void *addr);                                                                                    \
    void __tsan_##name(void *addr)                                                                                     \
    {                                                                                                                  \
        plain(addr, size, access, HERE);                                                                               \
    }
#define PLAINS(size)                                                                                                   \
    PLAIN(read##size, size, MODEL_PLAIN_READ)                                                                          \
    PLAIN(write##size, size, MODEL_PLAIN_WRITE)                                                                        \
    PLAIN(unaligned_read##size, size, MODEL_PLAIN_READ)                                                                \
    PLAIN(unaligned_write##size, size, MODEL_PLAIN_WRITE)                                                              \
    PLAIN(volatile_read##size, size, MODEL_PLAIN_READ)                                                                 \
    PLAIN(volatile_write##size, size, MODEL_PLAIN_WRITE)                                                               \
    PLAIN(read_write##size, size, MODEL_PLAIN_WRITE)                                                                   \
    PLAIN(unaligned_read_write##size, size, MODEL_PLAIN_WRITE)

PLAINS(1)
PLAINS(2)
PLAINS(4)
PLAINS(8)
PLAINS(16)

void __tsan_read_range(void *addr, size_t size);
void __tsan_read_range(void *addr, size_t size)
{
    plain(addr, size, MODEL_PLAIN_READ, HERE);
}

void __tsan_write_range(void *addr, size_t size);
void __tsan_write_range(void *addr, size_t size)
{
    plain(addr, size, MODEL_PLAIN_WRITE, HERE);
}

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
    (void)pc;
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

/* Calls that clang's headers make, since it can't be told that this is no sanitizer build (base/base.h). */
void *__tsan_get_current_fiber(void);
void *__tsan_get_current_fiber(void)
{
    return NULL;
}

void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags)
{
    (void)fiber, (void)flags;
}

/* ---- Atomic operations -------------------------------------------------------------------------------------- */

/* An order comes with hints in its upper bits. */
#define ORDER(op, order) model__site(HERE, op, (unsigned)(order) & 7)

#define CHANGE(bits, type, name, update, plainly)                                                                      \
    type __tsan_atomic##bits##_##name(volatile type *addr, type operand, int order);                                   \
    type __tsan_atomic##bits##_##name(volatile type *addr, type operand, int order)                                    \
    {                                                                                                                  \
        if (!enter()) {                                                                                                \
            type old = *addr;                                                                                          \
            *addr = (type)(plainly);                                                                                   \
            return old;                                                                                                \
        }                                                                                                              \
        type old = (type)model__change(place(addr, sizeof(type), HERE), update, operand, ORDER(MODEL_OP_UPDATE, order)); \
        leave();                                                                                                       \
        return old;                                                                                                    \
    }

static bool compare(volatile void *addr, unsigned size, void *expected, uint64_t desired, unsigned order, unsigned order_failed,
                    enum model__update update, const void *pc)
{
    uint64_t old = model__peek(expected, size), was = old;
    bool succeeds = model__compare(place(addr, size, pc), &old, desired, order, order_failed, update);
    if (!succeeds) {
        if (old != was || update == MODEL_COMPARE_WEAK)
            model__access(expected, size, MODEL_PLAIN_WRITE, pc);
        __builtin_memcpy(expected, &old, size);
    }
    leave();
    return succeeds;
}

#define COMPARE(bits, type, name, update)                                                                              \
    int __tsan_atomic##bits##_compare_exchange_##name(volatile type *addr, type *expected, type desired, int order, int failed); \
    int __tsan_atomic##bits##_compare_exchange_##name(volatile type *addr, type *expected, type desired, int order, int failed)  \
    {                                                                                                                  \
        if (!enter()) {                                                                                                \
            if (*addr != *expected) {                                                                                  \
                *expected = *addr;                                                                                     \
                return 0;                                                                                              \
            }                                                                                                          \
            *addr = desired;                                                                                           \
            return 1;                                                                                                  \
        }                                                                                                              \
        return compare(addr, sizeof(type), expected, desired, ORDER(MODEL_OP_COMPARE, order),                          \
                       ORDER(MODEL_OP_FAILED_COMPARE, failed), update, HERE);                                          \
    }

#define ATOMICS(bits, type)                                                                                            \
    type __tsan_atomic##bits##_load(const volatile type *addr, int order);                                             \
    type __tsan_atomic##bits##_load(const volatile type *addr, int order)                                              \
    {                                                                                                                  \
        if (!enter())                                                                                                  \
            return *addr;                                                                                              \
        type value = (type)model__load(place(addr, sizeof(type), HERE), ORDER(MODEL_OP_LOAD, order));                  \
        leave();                                                                                                       \
        return value;                                                                                                  \
    }                                                                                                                  \
    void __tsan_atomic##bits##_store(volatile type *addr, type value, int order);                                      \
    void __tsan_atomic##bits##_store(volatile type *addr, type value, int order)                                       \
    {                                                                                                                  \
        if (!enter()) {                                                                                                \
            *addr = value;                                                                                             \
            return;                                                                                                    \
        }                                                                                                              \
        model__store(place(addr, sizeof(type), HERE), value, ORDER(MODEL_OP_STORE, order));                            \
        leave();                                                                                                       \
    }                                                                                                                  \
    CHANGE(bits, type, exchange, MODEL_EXCHANGE, operand)                                                              \
    CHANGE(bits, type, fetch_add, MODEL_ADD, old + operand)                                                            \
    CHANGE(bits, type, fetch_sub, MODEL_SUB, old - operand)                                                            \
    CHANGE(bits, type, fetch_and, MODEL_AND, old & operand)                                                            \
    CHANGE(bits, type, fetch_or, MODEL_OR, old | operand)                                                              \
    CHANGE(bits, type, fetch_xor, MODEL_XOR, old ^ operand)                                                            \
    CHANGE(bits, type, fetch_nand, MODEL_NAND, ~(old & operand))                                                       \
    COMPARE(bits, type, strong, MODEL_COMPARE)                                                                         \
    COMPARE(bits, type, weak, MODEL_COMPARE_WEAK)                                                                      \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *addr, type expected, type desired, int order, int failed); \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *addr, type expected, type desired, int order, int failed)  \
    {                                                                                                                  \
        if (!enter()) {                                                                                                \
            type old = *addr;                                                                                          \
            if (old == expected)                                                                                       \
                *addr = desired;                                                                                       \
            return old;                                                                                                \
        }                                                                                                              \
        uint64_t old = expected;                                                                                       \
        (void)model__compare(place(addr, sizeof(type), HERE), &old, desired, ORDER(MODEL_OP_COMPARE, order),           \
                             ORDER(MODEL_OP_FAILED_COMPARE, failed), MODEL_COMPARE);                                   \
        leave();                                                                                                       \
        return (type)old;                                                                                              \
    }

ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    if (!enter())
        return;
    unsigned really = ORDER(MODEL_OP_FENCE, order);
    if (really != __ATOMIC_RELAXED)
        model__fence(really, HERE);
    leave();
}

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
    (void)order; /* is for the compiler */
}

/* ---- libc --------------------------------------------------------------------------------------------------- */

void *__real_memcpy(void *to, const void *from, size_t size);
void *__real_memmove(void *to, const void *from, size_t size);
void *__real_memset(void *to, int byte, size_t size);
int __real_memcmp(const void *a, const void *b, size_t size);
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *block);
int __real_sched_yield(void);

void *__wrap_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size)
{
    plain(from, size, MODEL_PLAIN_READ, HERE);
    plain(to, size, MODEL_PLAIN_WRITE, HERE);
    return __real_memcpy(to, from, size);
}

void *__wrap_memmove(void *to, const void *from, size_t size);
void *__wrap_memmove(void *to, const void *from, size_t size)
{
    plain(from, size, MODEL_PLAIN_READ, HERE);
    plain(to, size, MODEL_PLAIN_WRITE, HERE);
    return __real_memmove(to, from, size);
}

void *__wrap_memset(void *to, int byte, size_t size);
void *__wrap_memset(void *to, int byte, size_t size)
{
    plain(to, size, MODEL_PLAIN_WRITE, HERE);
    return __real_memset(to, byte, size);
}

int __wrap_memcmp(const void *a, const void *b, size_t size);
int __wrap_memcmp(const void *a, const void *b, size_t size)
{
    plain(a, size, MODEL_PLAIN_READ, HERE);
    plain(b, size, MODEL_PLAIN_READ, HERE);
    return __real_memcmp(a, b, size);
}

static void *allocate(size_t size, size_t alignment)
{
    enum model__user user = model__user;
    if (user == MODEL_THREAD)
        model__user = MODEL_OUTSIDE;
    void *block = model__heap_alloc(size, alignment);
    model__user = user;
    return block;
}

void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return model__user == MODEL_OUTSIDE ? __real_malloc(size) : allocate(size, 16);
}

void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
    if (model__user == MODEL_OUTSIDE)
        return __real_calloc(n, size);
    void *block = allocate(n * size, 16);
    return __wrap_memset(block, 0, n * size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return model__user == MODEL_OUTSIDE ? __real_aligned_alloc(alignment, size) : allocate(size, alignment);
}

void __wrap_free(void *block);
void __wrap_free(void *block)
{
    enum model__user user = model__user;
    if (user == MODEL_OUTSIDE && !model__heap_has(block)) {
        __real_free(block);
        return;
    }
    model__user = user == MODEL_SETUP ? user : MODEL_OUTSIDE;
    model__heap_free(block, HERE);
    model__user = user;
}

void *__wrap_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size)
{
    if (model__user == MODEL_OUTSIDE)
        return __real_realloc(block, size);
    void *new = allocate(size, 16);
    if (block)
        __wrap_memcpy(new, block, model__heap_size(block) < size ? model__heap_size(block) : size);
    __wrap_free(block);
    return new;
}

int __wrap_sched_yield(void);
int __wrap_sched_yield(void)
{
    if (!enter())
        return __real_sched_yield();
    model__spin(HERE);
    leave();
    return 0;
}

/* ---- The test's own ----------------------------------------------------------------------------------------- */

void model_failed(const char *file, int line, const char *what)
{
    model__user = MODEL_OUTSIDE;
    model__fail(MODEL_ASSERTION, "%s:%d: not so: %s", strstr(file, "tests/") ? strstr(file, "tests/") : file, line, what);
}

int model_self(void)
{
    return model__run.current;
}

static void park(unsigned order, const void *pc)
{
    uint64_t permit = 1;
    if (!enter())
        return;
    (void)model__compare(place(&model__permits[model__run.current], 4, pc), &permit, 0, order, __ATOMIC_RELAXED, MODEL_TAKE);
    leave();
}

void model_park(void)
{
    park(__ATOMIC_ACQUIRE, HERE);
}

void model_park_relaxed(void)
{
    park(__ATOMIC_RELAXED, HERE);
}

static void unpark(int thread, unsigned order, const void *pc)
{
    if (!enter()) {
        model__permits[thread] = 1;
        return;
    }
    (void)model__change(place(&model__permits[thread], 4, pc), MODEL_EXCHANGE, 1, order);
    leave();
}

void model_unpark(int thread)
{
    unpark(thread, __ATOMIC_RELEASE, HERE);
}

void model_unpark_relaxed(int thread)
{
    unpark(thread, __ATOMIC_RELAXED, HERE);
}

void model_spin(void)
{
    if (!enter())
        return;
    model__spin(HERE);
    leave();
}

int model_choose(int n)
{
    if (!enter())
        return 0;
    n = model__choose(n, HERE);
    leave();
    return n;
}
