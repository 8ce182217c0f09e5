/* Stack overflow, explained: faults are taken on an alternate stack per thread, and one that hit a guard
 * ends the program with a message. A touch of a frozen stack thaws it (virtual.h). Other faults go to whoever handled them before. Stacks without a guard (packed.h) are looked at now and then, and what that finds
 * is told by the same handler; who runs off one without ever stopping writes over all that lies below in the reservation (mem/chunk.h), and faults
 * below that, or in whatever guard lies there, which is not its own.
 *
 * The process-wide handler is installed by the first thread that enters and removed by the last one that leaves,
 * under a mutex that no coroutine ever holds. */
#include "stack/stack.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <ucontext.h>

#include "mem/mem.h"
#include "obs/obs.h"
#include "os/os.h"

#define ALTERNATE_STACK_BYTES ((size_t)128 << 10) /* a signal frame takes up to 12 KiB; symbolising, most of the rest */

#define FRAMES 12
#define WAITS 100000 /* for another thread that looks at its fault: some hundredths of a second at least */
#define NEAR_BYTES CR__STACK_GUARD_BYTES /* so far below what it has run off a stack pointer may be when it is noticed */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned threads_inside;
static struct sigaction previous_segv, previous_bus;
static _Atomic(cr__stack_describe *) describe_user;
void (*_Atomic cr__stack_last_words)(void);

struct entry {
    stack_t previous;
    void *alternate; /* NULL: the thread had one already, which serves */
};

/* Who runs off a packed stack writes over records: what has become of a name may be anything. */
static bool is_readable(const char *name)
{
    if (!name || !*name)
        return false;
    for (; *name; name++) {
        if ((unsigned char)*name < ' ' || *name == 0x7f)
            return false;
    }
    return true;
}

/* What is told of a fault, by one thread at a time: it leaves at once, so nothing that another one says comes between. */
static struct {
    _Atomic int tid; /* who looks at its fault: 0: nobody */
    struct cr__lines lines;
} telling;

/* False: this thread is at it, and what it looks at (records and stacks that may have been written over) has faulted, too. */
static bool begin_telling(void)
{
    int me = cr__os_tid();
    for (unsigned patience = WAITS; patience > 0; patience--) {
        int nobody = 0;
        if (atomic_compare_exchange_strong(&telling.tid, &nobody, me)) {
            telling.lines.used = 0;
            return true;
        }
        if (nobody == me)
            return false;
        sched_yield(); /* what the other one has met may end the program */
    }
    atomic_store(&telling.tid, me); /* it was at it when this process was forked */
    telling.lines.used = 0;
    return true;
}

static void end_telling(void)
{
    atomic_store(&telling.tid, 0);
}

__attribute__((noreturn)) static void tell_and_abort(void)
{
    cr__lines_write(&telling.lines, STDERR_FILENO);
    abort();
}

/* found: when it was seen. */
static void explain(const struct cr__stack *stack, const struct cr__stack_user *user, const char *found, void *ucontext)
{
    char entry[128] = "?";
    if (user->entry)
        cr__symbol_of(user->entry, entry, sizeof(entry));
    cr__lines_put(&telling.lines, "crore: stack overflow: coroutine %u ", user->id);
    cr__lines_put(&telling.lines, "\"%s\" ran off its %s stack of %u bytes%s\n", is_readable(user->name) ? user->name : entry, user->kind ? user->kind : "static",
                  stack->size_bytes, found);
    cr__lines_backtrace(&telling.lines, ucontext, FRAMES);
    cr__lines_put(&telling.lines, "       give it more with struct cr_attr's stack_size_bytes\n");
}

/* Who runs, or nobody. */
static struct cr__stack_user who_runs(void)
{
    struct cr__stack_user user = {0};
    cr__stack_describe *describe = atomic_load(&describe_user);
    if (!describe || !describe(&user))
        user = (struct cr__stack_user){0};
    return user;
}

static void explain_guard(const struct cr__stack *stack, void *ucontext)
{
    struct cr__stack_user user = who_runs();
    explain(stack, &user, "", ucontext);
}

static uintptr_t stack_pointer(const void *ucontext)
{
    const mcontext_t *m = &((const ucontext_t *)ucontext)->uc_mcontext;
#if defined(__x86_64__)
    return (uintptr_t)m->gregs[REG_RSP];
#elif defined(__aarch64__)
    return (uintptr_t)m->sp;
#else
    return (uintptr_t)m->__gregs[REG_SP];
#endif
}

/* Whether the fault is one of who has run off a packed stack; then it is told. Nobody runs in the reservation but on such a stack. */
static bool explain_packed(bool in_guard, void *ucontext)
{
    uintptr_t sp = stack_pointer(ucontext);
    bool near = cr__mem_reserved((const void *)sp) || cr__mem_reserved((const void *)(sp + NEAR_BYTES));
    if (!near && !in_guard)
        return false;
    struct cr__stack_user user = who_runs();
    if (user.lost) {
        cr__lines_put(&telling.lines, "crore: stack overflow: a coroutine ran off its packed stack of %u bytes, and over its own record\n", CR__PACKED_BYTES);
        cr__lines_backtrace(&telling.lines, ucontext, FRAMES);
        return true;
    }
    if (user.size_bytes != CR__PACKED_BYTES || sp - (uintptr_t)cr__packed_low(user.top) < CR__PACKED_ROOM_BYTES)
        return false;
    explain(&(struct cr__stack){.top = user.top, .size_bytes = user.size_bytes}, &user, "", ucontext);
    return true;
}

/* What cr__stack_overflowed has found. On the stack that has been run off there is no room to say so: it sends its thread SIGSEGV. */
static struct {
    _Atomic int tid; /* whose it is: 0: nobody's yet */
    struct cr__stack stack;
    struct cr__stack_user user;
} found;

void cr__stack_overflowed(const struct cr__stack *stack, const struct cr__stack_user *user)
{
    int nobody = 0, me = cr__os_tid();
    if (atomic_compare_exchange_strong(&found.tid, &nobody, -1)) {
        found.stack = *stack;
        found.user = *user;
        atomic_store(&found.tid, me);
    } else {
        for (;;) /* another thread is about to end the program */
            pause();
    }
    cr__os_tgkill(me, SIGSEGV);
    abort(); /* the program handles SIGSEGV itself */
}

static void pass_on(int signo, siginfo_t *info, void *ucontext)
{
    const struct sigaction *previous = signo == SIGSEGV ? &previous_segv : &previous_bus;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signo, info, ucontext);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(signo);
    } else {
        void (*last_words)(void) = atomic_load(&cr__stack_last_words);
        if (last_words)
            last_words();
        signal(signo, SIG_DFL); /* the instruction faults again, now fatally and with the right core dump */
        if (info->si_code <= 0)
            raise(signo); /* somebody sent it: no instruction would */
    }
}

/* Whether it was about to execute what lies there: no guard's business. */
static bool executes(const void *addr, const void *ucontext)
{
    const mcontext_t *m = &((const ucontext_t *)ucontext)->uc_mcontext;
#if defined(__x86_64__)
    return (uintptr_t)m->gregs[REG_RIP] == (uintptr_t)addr;
#elif defined(__aarch64__)
    return (uintptr_t)m->pc == (uintptr_t)addr;
#else
    return (uintptr_t)m->__gregs[REG_PC] == (uintptr_t)addr;
#endif
}

static void on_fault(int signo, siginfo_t *info, void *ucontext)
{
    struct cr__stack stack;
    bool withheld = signo == SIGSEGV && (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR);
    if (withheld && !executes(info->si_addr, ucontext) && cr__virtual_fault(info->si_addr))
        return;
    if (!begin_telling()) {
        cr__lines_put(&telling.lines, "%s       what else is known of it can't be read\n", telling.lines.used > 0 ? "\n" : "crore: a fault\n");
        tell_and_abort();
    }
    bool in_guard = info->si_code > 0 && cr__stack_guard_hit(info->si_addr, &stack);
    if (info->si_code > 0 && explain_packed(in_guard, ucontext))
        tell_and_abort();
    if (in_guard) {
        explain_guard(&stack, ucontext);
        tell_and_abort();
    }
    if (info->si_code <= 0 && atomic_load(&found.tid) == cr__os_tid()) {
        explain(&found.stack, &found.user, ", as is seen here:", ucontext);
        tell_and_abort();
    }
    end_telling();
    pass_on(signo, info, ucontext);
}

int cr__overflow_enter(cr__stack_describe *describe, void **saved)
{
    struct entry *entry = cr__mem_alloc(sizeof(*entry), CR__MEM_OTHER);
    if (!entry)
        return -ENOMEM;
    sigaltstack(NULL, &entry->previous);
    if ((entry->previous.ss_flags & SS_DISABLE) || entry->previous.ss_size < ALTERNATE_STACK_BYTES / 4) {
        entry->alternate = cr__mem_map(ALTERNATE_STACK_BYTES, CR__MEM_OTHER);
        if (!entry->alternate) {
            cr__mem_free(entry, sizeof(*entry), CR__MEM_OTHER);
            return -ENOMEM;
        }
        stack_t alternate = {.ss_sp = entry->alternate, .ss_size = ALTERNATE_STACK_BYTES};
        sigaltstack(&alternate, NULL);
    }
    atomic_store(&describe_user, describe);

    pthread_mutex_lock(&lock);
    if (threads_inside++ == 0) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        sigemptyset(&action.sa_mask);
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    }
    pthread_mutex_unlock(&lock);
    *saved = entry;
    return 0;
}

/* Unless the program has put a handler of its own there meanwhile. */
static void restore(int signo, const struct sigaction *previous)
{
    struct sigaction present;
    sigaction(signo, NULL, &present);
    if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_fault)
        sigaction(signo, previous, NULL);
}

void cr__overflow_leave(void *saved)
{
    struct entry *entry = saved;
    pthread_mutex_lock(&lock);
    if (--threads_inside == 0) {
        restore(SIGSEGV, &previous_segv);
        restore(SIGBUS, &previous_bus);
    }
    pthread_mutex_unlock(&lock);
    if (entry->alternate) {
        stack_t present;
        sigaltstack(NULL, &present);
        if (present.ss_sp == entry->alternate)
            sigaltstack(&entry->previous, NULL);
        cr__mem_unmap(entry->alternate, ALTERNATE_STACK_BYTES, CR__MEM_OTHER);
    }
    cr__mem_free(entry, sizeof(*entry), CR__MEM_OTHER);
}
