/* Names for code addresses: libunwind knows all of the program's symbols, static functions included; where it was not
 * built in, dladdr knows the exported ones. */
#include "obs/obs.h"

#include <dlfcn.h>
#include <stdio.h>

#ifdef CR__HAVE_LIBUNWIND
#define UNW_LOCAL_ONLY
#include <libunwind.h>
#endif

static bool name_of(const void *addr, char *buf, size_t size_bytes, size_t *offset)
{
#ifdef CR__HAVE_LIBUNWIND
    unw_context_t context;
    unw_cursor_t cursor;
    unw_word_t off = 0;
    cr__unwind_prepare();
    if (unw_getcontext(&context) == 0 && unw_init_local(&cursor, &context) == 0 &&
        unw_set_reg(&cursor, UNW_REG_IP, (unw_word_t)(uintptr_t)addr) == 0 &&
        unw_get_proc_name(&cursor, buf, size_bytes, &off) == 0) {
        *offset = off;
        return true;
    }
#endif
    Dl_info info;
    if (!dladdr(addr, &info) || !info.dli_sname)
        return false;
    snprintf(buf, size_bytes, "%s", info.dli_sname);
    *offset = (size_t)((const char *)addr - (const char *)info.dli_saddr);
    return true;
}

const char *cr__symbol_at(const void *addr, char *buf, size_t size_bytes)
{
    char name[128];
    size_t offset = 0;
    if (name_of(addr, name, sizeof(name), &offset))
        snprintf(buf, size_bytes, "%s+0x%zx", name, offset);
    else
        snprintf(buf, size_bytes, "%p", addr);
    return buf;
}

const char *cr__symbol_of(const void *entry, char *buf, size_t size_bytes)
{
    size_t offset = 0;
    /* one byte in: libunwind takes an address for a return address, which may belong to the function before */
    if (!name_of((const char *)entry + 1, buf, size_bytes, &offset) || offset > 1)
        snprintf(buf, size_bytes, "%p", entry);
    return buf;
}

#ifdef CR__HAVE_LIBUNWIND

#define STEPS_MAX 100000 /* of a deep recursion; a stack that has been written over may lead on for ever */

void cr__lines_backtrace(struct cr__lines *lines, void *ucontext, unsigned max_frames)
{
    unw_cursor_t cursor;
    if (unw_init_local2(&cursor, ucontext, UNW_INIT_SIGNAL_FRAME) != 0)
        return;
    unw_word_t last = 0;
    unsigned repeats = 0;
    for (unsigned frames = 0, steps = 0; frames < max_frames && steps < STEPS_MAX; steps++) {
        unw_word_t ip = 0;
        if (unw_get_reg(&cursor, UNW_REG_IP, &ip) != 0 || ip == 0)
            return;
        if (ip == last) { /* not named again: that takes a millisecond */
            repeats++;
        } else {
            char where[160];
            if (repeats)
                cr__lines_put(lines, "           ... %u times more\n", repeats);
            cr__lines_put(lines, "    %s %s\n", frames ? "from" : "  in", cr__symbol_at((void *)(uintptr_t)ip, where, sizeof(where)));
            repeats = 0;
            last = ip;
            frames++;
        }
        if (unw_step(&cursor) <= 0)
            break;
    }
    if (repeats)
        cr__lines_put(lines, "           ... %u times more\n", repeats);
}

#else

#include <ucontext.h>

void cr__lines_backtrace(struct cr__lines *lines, void *ucontext, unsigned max_frames)
{
    const ucontext_t *context = ucontext;
#if defined(__x86_64__)
    const void *pc = (void *)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    const void *pc = (void *)context->uc_mcontext.pc;
#else
    const void *pc = (void *)context->uc_mcontext.__gregs[REG_PC];
#endif
    char where[160];
    if (max_frames)
        cr__lines_put(lines, "      in %s\n", cr__symbol_at(pc, where, sizeof(where)));
}

#endif
