/* Backtraces of contexts that are not this function's own: parked ones, and those that a signal interrupted.
 *
 * A parked context is a stack pointer, on top of which lies what crore/co_inline.h's switch has pushed; the code where it goes on is decoded, since a program may have
 * been compiled with another version of that header. Only x86-64 so far, and only with libunwind; elsewhere nothing is known. */
#include "obs/obs.h"

#include <pthread.h>
#include <string.h>

#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#else
#define VALGRIND_DISABLE_ERROR_REPORTING (void)0
#define VALGRIND_ENABLE_ERROR_REPORTING (void)0
#endif
/* libunwind asks the kernel whether memory is there by writing a byte of it into a pipe, whatever that byte is. */

#ifdef CR__HAVE_LIBUNWIND
#define UNW_LOCAL_ONLY
#include <libunwind.h>

static pthread_once_t prepared = PTHREAD_ONCE_INIT;

/* It sets itself up when first used, by whichever thread that is. */
static void prepare(void)
{
    unw_context_t context;
    unw_cursor_t cursor;
    if (unw_getcontext(&context) == 0 && unw_init_local(&cursor, &context) == 0)
        (void)!unw_step(&cursor);
}

void cr__unwind_prepare(void)
{
    VALGRIND_DISABLE_ERROR_REPORTING;
    pthread_once(&prepared, prepare);
    VALGRIND_ENABLE_ERROR_REPORTING;
}
#else
void cr__unwind_prepare(void)
{
}
#endif

#if defined(CR__HAVE_LIBUNWIND) && defined(__x86_64__)

#include <ucontext.h>

/* A word of a stack that does not run. Return addresses are nobody's variables, so no sanitizer has an opinion on them. */
__attribute__((no_sanitize("address", "thread"), noinline)) static uintptr_t word_at(const void *at)
{
    return *(const volatile uintptr_t *)at;
}

/* movq 8(%rsp), %rbx; movq 16(%rsp), %rbp; leaq N(%rsp), %rsp: fills in what they leave behind. */
static bool arrive(char *sp, unw_context_t *context)
{
    static const unsigned char moves[] = {0x48, 0x8b, 0x5c, 0x24, 0x08, 0x48, 0x8b, 0x6c, 0x24, 0x10, 0x48, 0x8d};
    const unsigned char *code = (const unsigned char *)word_at(sp);
    uint32_t taken, length;
    if (memcmp(code, moves, sizeof(moves)) != 0 || code[13] != 0x24)
        return false;
    if (code[12] == 0x64) {
        taken = code[14];
        length = 15;
    } else {
        memcpy(&taken, code + 14, sizeof(taken));
        length = 18;
    }
    memset(context, 0, sizeof(*context));
    context->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(code + length);
    context->uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)(sp + taken);
    context->uc_mcontext.gregs[REG_RBX] = (greg_t)word_at(sp + 8);
    context->uc_mcontext.gregs[REG_RBP] = (greg_t)word_at(sp + 16);
    return true;
}

static unsigned unwind(void *sp, const char *top, void **pcs, uint32_t *offsets, unsigned most)
{
    unw_context_t context;
    unw_cursor_t cursor;
    if (!arrive(sp, &context) || unw_init_local(&cursor, &context) != 0)
        return 0;
    unsigned count = 0;
    const char *at = sp; /* where the present frame's address lies */
    while (count < most) {
        unw_word_t pc = 0, frame = 0;
        if (unw_get_reg(&cursor, UNW_REG_IP, &pc) != 0 || pc == 0 || at >= top)
            break;
        pcs[count] = (void *)(uintptr_t)pc;
        offsets[count++] = (uint32_t)(top - at);
        if (unw_step(&cursor) <= 0 || unw_get_reg(&cursor, UNW_REG_SP, &frame) != 0)
            break;
        at = (const char *)(uintptr_t)frame - sizeof(void *); /* the caller's frame begins above the return address */
    }
    return count;
}

unsigned cr__unwind_parked(void *sp, const char *top, void **pcs, uint32_t *offsets, unsigned most)
{
    cr__unwind_prepare();
    VALGRIND_DISABLE_ERROR_REPORTING;
    unsigned count = unwind(sp, top, pcs, offsets, most);
    VALGRIND_ENABLE_ERROR_REPORTING;
    return count;
}

bool cr__unwind_same(void *sp, const char *top, void *const *pcs, const uint32_t *offsets, unsigned count)
{
    if (count == 0 || (uint32_t)(top - (char *)sp) != offsets[0])
        return false;
    uintptr_t first = (uintptr_t)pcs[0] - word_at(sp);
    if (first != 15 && first != 18) /* the way from where it goes on to what the unwinder was shown */
        return false;
    for (unsigned i = 1; i < count; i++) {
        if (word_at(top - offsets[i]) != (uintptr_t)pcs[i])
            return false;
    }
    return true;
}

#else

unsigned cr__unwind_parked(void *sp, const char *top, void **pcs, uint32_t *offsets, unsigned most)
{
    (void)sp, (void)top, (void)pcs, (void)offsets, (void)most;
    return 0;
}

bool cr__unwind_same(void *sp, const char *top, void *const *pcs, const uint32_t *offsets, unsigned count)
{
    (void)sp, (void)top, (void)pcs, (void)offsets;
    return count == 0;
}

#endif

#ifdef CR__HAVE_LIBUNWIND

unsigned cr__unwind_interrupted(void *ucontext, void **pcs, unsigned most)
{
    unw_cursor_t cursor;
    unsigned count = 0;
    if (unw_init_local2(&cursor, ucontext, UNW_INIT_SIGNAL_FRAME) != 0)
        return 0;
    do {
        unw_word_t pc = 0;
        if (count == most || unw_get_reg(&cursor, UNW_REG_IP, &pc) != 0 || pc == 0)
            break;
        pcs[count++] = (void *)(uintptr_t)pc;
    } while (unw_step(&cursor) > 0);
    return count;
}

#else

unsigned cr__unwind_interrupted(void *ucontext, void **pcs, unsigned most)
{
    (void)ucontext, (void)pcs, (void)most;
    return 0;
}

#endif
