/* The ground floor: what the compiler should know, assertions, intrusive lists, bits. No state, no kernel. */
#ifndef CR__BASE_H
#define CR__BASE_H

#include <errno.h> /* the codes only: nothing here reads or writes errno */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CR__LIKELY(x) __builtin_expect(!!(x), 1)
#define CR__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define CR__NOINLINE __attribute__((noinline))
#define CR__COLD __attribute__((cold, noinline))
#define CR__PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define CR__CACHE_LINE 64

#define CR__CONTAINER(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define CR__COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CR__TEXT_OF(token) #token
#define CR__TEXT(macro) CR__TEXT_OF(macro) /* what it stands for, as a string */

#if defined(__SANITIZE_ADDRESS__)
#define CR__ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define CR__TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CR__ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define CR__TSAN 1
#endif
#endif

/* Fetches a line to be written: with one transfer from another core's cache, where a load and then a store take two. */
static inline void cr__fetch_to_write(const void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line)); /* compilers that aim at all processors turn a prefetch into one to read */
#else
    __builtin_prefetch(line, 1);
#endif
}

/* Stays on in release: a broken invariant ends the program with a line that says which. */
#define CR__ASSERT(cond) (CR__LIKELY(cond) ? (void)0 : cr__panic("%s:%d: broken: %s", __FILE__, __LINE__, #cond))

/* Writes "crore: " and the message to standard error, and aborts. */
__attribute__((noreturn)) CR__COLD void cr__panic(const char *format, ...) CR__PRINTF(1, 2);

/* A circular list through nodes inside their owners. An initialised head points to itself. */
struct cr__list {
    struct cr__list *next, *prev;
};

static inline void cr__list_init(struct cr__list *head)
{
    head->next = head->prev = head;
}

static inline bool cr__list_empty(const struct cr__list *head)
{
    return head->next == head;
}

static inline void cr__list_push_back(struct cr__list *head, struct cr__list *node)
{
    node->next = head;
    node->prev = head->prev;
    head->prev->next = node;
    head->prev = node;
}

static inline void cr__list_remove(struct cr__list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
}

/* n must not be 0. */
static inline unsigned cr__bits_lowest(uint64_t n)
{
    return (unsigned)__builtin_ctzll(n);
}

static inline unsigned cr__bits_highest(uint64_t n)
{
    return 63u - (unsigned)__builtin_clzll(n);
}

static inline size_t cr__round_up(size_t n, size_t power_of_two)
{
    return (n + power_of_two - 1) & ~(power_of_two - 1);
}

#endif
