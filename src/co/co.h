/* Coroutines: a record, a stack taken at first run, and switching between them. No queues, no time, no I/O: the
 * scheduler is a user of this room like any other.
 *
 * Every context that can be switched to is a struct cr_co, threads included: each thread has a root, which is what
 * `current` points to while no coroutine runs there. Invariants:
 *   1. self->current is what runs on this thread; its sp is stale. Everyone else's sp is where it goes on; of one that is AWAY on a shared stack, the mover's.
 *   2. A bare coroutine that is RUNNING and not current has resumed another, and its chain of `below` leads from current to it.
 *   3. A stack belongs to one coroutine from its first run until it ends or is destroyed; a shared one to its occupant (shared.c).
 *
 * Per-thread state is reached through cr__self_get(): a pointer in initial-exec TLS, read by assembly. A coroutine with an FS
 * base (TP) of its own has static TLS of the same layout; cr__self_install puts the pointer there. */
#ifndef CR__CO_H
#define CR__CO_H

#include "arch/arch.h"

#include <crore/co.h>

#include "mem/mem.h"
#include "stack/stack.h"

/* States beyond those that the inlined calls know. */
enum cr__co_state {
    CR__CO_NEW = 0,
    CR__CO_SUSPENDED = CR__STATE_SUSPENDED,
    CR__CO_RUNNING = CR__STATE_RUNNING,
    CR__CO_ENDED = 3,
    CR__CO_SCHEDULED = 4, /* the runtime's: its own states are in sched.h */
    CR__CO_FREE = 5,      /* in a slab */
    CR__CO_ROOT = 6,      /* a thread's own stack */
    CR__CO_DONE = 7,      /* the runtime's, ended; somebody holds its handle */
    CR__CO_TASK = 8,      /* a bit beside SCHEDULED and DONE: it has no stack (sched/task.h) */
};

/* What a room above keeps with a coroutine: release is called when it has ended, or is dropped, after its local storage has gone. */
struct cr__co_above {
    void (*release)(struct cr_co *co, struct cr__co_above *above);
};

/* Made on demand. */
#define CR__NAME_BYTES 32
struct cr__co_cold {
    char name[CR__NAME_BYTES];
    void **locals;
    uint32_t locals_count;
    uint16_t site;    /* the census's (sched/census.h); 0: none */
    int64_t bound_ns; /* no wait goes beyond; CR_FOREVER: none */
    struct cr__co_above *above;
};

/* What has a stack comes first: a task has none, and its record begins behind that (CR__CO_STACKFUL_BYTES), with what a slab may overwrite. */
struct cr_co {
    struct cr__stack stack;
    void *sp;            /* before a scheduled one's first run: its argument */
    struct cr_co *below; /* bare: who resumed it. Scheduled: the innermost bare coroutine when it parked, mostly itself */
    struct cr_co *next;  /* in a queue of its owner's */
    uint16_t mode;       /* CR__MODE(state, attribute flags) */
    uint8_t sched_flags; /* the scheduler's */
    uint8_t locks;       /* of a scheduled one: how many it holds, modulo 256: so 256 are the least that it may end with unnoticed */
    uint32_t id;
    void (*entry)(void); /* the user's function, whatever its type: also the default name */
    struct cr__co_cold *cold;
#if defined(CR__ASAN) || defined(CR__TSAN)
    void *fake_stack, *tsan_fiber;
    void *unused[6]; /* keeps what embeds it on cache lines */
#endif
};

#if !defined(CR__ASAN) && !defined(CR__TSAN)
_Static_assert(sizeof(struct cr_co) == 64, "half of the coroutine record's budget");
#endif
#define CR__CO_STACKFUL_BYTES offsetof(struct cr_co, next)
_Static_assert(offsetof(struct cr_co, sp) == offsetof(struct cr__co_head, sp), "the inlined calls' view");
_Static_assert(offsetof(struct cr_co, below) == offsetof(struct cr__co_head, below), "the inlined calls' view");
_Static_assert(offsetof(struct cr_co, mode) == offsetof(struct cr__co_head, mode), "the inlined calls' view");

struct cr__self {
    struct cr_co *current;
    void *worker; /* the scheduler's, on its threads; else NULL */
    void *mover;  /* cr__mover_here; NULL: none yet */
    struct cr__home *home; /* of its bare coroutines on shared stacks (bare.c; a worker has something else for the others); NULL: none yet */
    struct cr_co *task; /* that runs on the worker's stack; NULL: none does. A bare coroutine that it has resumed may be current */
    struct cr_co root;
};

/* The calling thread's, made on first use. Never keep it across a switch. */
struct cr__self *cr__self_here(void);

/* A context whose live bytes are not on its stack (they are in an image, co->stack.image) has this as its sp: the top of a small stack of its
 * thread's, the mover's, on which lie the addresses of cr__arch_bring and cr__co_bring. Whoever switches to it thereby calls cr__co_bring, on the mover's stack, which
 * nobody else uses; self->current says for whom. So a switch need not look whether what it switches to is in place. NULL: no memory. */
void *cr__mover_here(void);
void cr__mover_free(void *mover);

/* The calling thread leaves: gives up what its bare coroutines on shared stacks needed, unless some remain. */
void cr__bare_leave(struct cr__self *self);

/* By cr__arch_bring: puts the live bytes of self->current back, and returns its sp. */
void *cr__co_bring(void);

/* ---- Shared stacks (shared.c) -------------------------------------------------------------------------------- */

#define CR__SHARED_STACKS 4 /* of a size, if nobody says otherwise */

struct cr__shared_set {
    uint32_t size_bytes; /* 0: nobody has wanted one of these yet */
    unsigned count;
    struct cr__shared_stack *turn; /* a ring of all */
};

#define CR__SHARED_SETS 3 /* up to 64 KiB, and each power of two from there to CR_STACK_SHARED_MOST_BYTES */

/* How large a stack is on which so many bytes are wished for. */
static inline uint32_t cr__shared_size(uint32_t size_bytes)
{
    return size_bytes <= 1u << 16 ? 1u << 16 : 2u << cr__bits_highest(size_bytes - 1);
}

/* Room for the live bytes of one that is away. */
struct cr__image {
    char *start; /* NULL: none */
    uint32_t room_bytes;
};

/* A thread's. */
struct cr__shared {
    struct cr__images *images;
    struct cr__stack_pool *pool;
    unsigned count; /* stacks in a set */
    struct cr__image spare;
    bool clears; /* for a census: what is copied out leaves zeroes behind */
    struct cr__shared_set sets[CR__SHARED_SETS];
};

void cr__shared_init(struct cr__shared *shared, struct cr__images *images, struct cr__stack_pool *pool, unsigned stacks_count);

/* Before the pool goes, and the images. */
void cr__shared_fini(struct cr__shared *shared);

/* In a checked build: whether addr lies on a shared stack of any thread's, and there not among what the running coroutine, or one that has resumed it, has in place. Then owner is whose live
 * bytes it lies among; the last one that was there, if there are several; NULL: nobody's that is known. Copied, since that one may go on meanwhile. */
struct cr__shared_owner {
    bool known;
    uint32_t id;
    void (*entry)(void);
    char name[CR__NAME_BYTES];
};
bool cr__shared_foreign(const struct cr__self *self, const void *addr, struct cr__shared_owner *owner);

/* Gives co a place on a stack of the calling thread's, at least stack_bytes large, and its first context, as cr__co_prepare does; shared: that thread's; word: what cr__co_top(co)->word will be. 0 or -ENOMEM. */
int cr__shared_start(struct cr__shared *shared, struct cr_co *co, uint32_t stack_bytes, const struct cr__arch_life *life, void *word);
void cr__shared_end(struct cr_co *co);

/* Before a switch to co, which is away: whoever is on its stack can make room. 0; -ENOMEM; -EBUSY: that one is pinned. */
int cr__shared_reserve(struct cr__self *self, struct cr_co *co);
void cr__shared_prefetch(const struct cr_co *co);

/* The running coroutine keeps its place on its stack, though it suspends. */
void cr__shared_pin(struct cr_co *co);
void cr__shared_unpin(struct cr_co *co);

/* The live bytes of one that is away, how many they are, and where they belong. */
const char *cr__shared_image(const struct cr_co *co, char **sp, size_t *live_bytes);

/* Makes a thread whose thread pointer is tp see self as its own (x86-64 FS base, aarch64 TPIDR_EL0, riscv tp). */
void cr__self_install(void *thread_pointer, struct cr__self *self);

static inline unsigned cr__co_state(const struct cr_co *co)
{
    return __atomic_load_n(&co->mode, __ATOMIC_RELAXED) & 0xff;
}

static inline unsigned cr__co_flags(const struct cr_co *co)
{
    return __atomic_load_n(&co->mode, __ATOMIC_RELAXED) >> 8;
}

/* Atomic, as is what reads it for a dump (sched/dump.c): whose turn it is may be another worker's. */
static inline void cr__co_state_set(struct cr_co *co, unsigned state)
{
    __atomic_store_n(&co->mode, CR__MODE(state, cr__co_flags(co)), __ATOMIC_RELAXED);
}

/* Flags beyond those of enum cr_attr_flags, for dumps: of a scheduled one, by the worker whose turn it is. */
enum { CR__CO_AWAY = 1u << 5, CR__CO_STARVES = 1u << 6, CR__CO_STARTED = 1u << 7 };

static inline void cr__co_flags_set(struct cr_co *co, unsigned flags)
{
    unsigned kept = cr__co_flags(co) & ~(unsigned)(CR__CO_STARVES | CR__CO_STARTED);
    __atomic_store_n(&co->mode, CR__MODE(cr__co_state(co), kept | flags), __ATOMIC_RELEASE); /* pairs with the acquire in sched/dump.c */
}

/* Whether a scheduled one has begun. By whoever has it in hand. */
static inline bool cr__co_started(const struct cr_co *co)
{
    return (cr__co_flags(co) & CR__CO_STARTED) != 0;
}

static inline bool cr__co_is_task(const struct cr_co *co)
{
    return (cr__co_state(co) & CR__CO_TASK) != 0;
}

/* Whether it has begun, and is on its stack, if it has one: who switches to it has nothing to prepare. One comparison, since each switch makes it. */
static inline bool cr__co_in_place(const struct cr_co *co)
{
    unsigned mode = __atomic_load_n(&co->mode, __ATOMIC_RELAXED);
    return (mode & CR__MODE(CR__CO_TASK, CR__CO_STARTED | CR__CO_AWAY)) == CR__MODE(0, CR__CO_STARTED);
}

static inline void cr__co_away_set(struct cr_co *co, bool away)
{
    unsigned mode = __atomic_load_n(&co->mode, __ATOMIC_RELAXED) & ~(unsigned)CR__MODE(0, CR__CO_AWAY);
    __atomic_store_n(&co->mode, (uint16_t)(mode | (away ? CR__MODE(0, CR__CO_AWAY) : 0u)), __ATOMIC_RELAXED);
}

/* The kind of its stack, of enum cr_stack_kind: two bits of the flags. */
#define CR__CO_KIND_SHIFT 2
#define CR__CO_KINDS (3u << CR__CO_KIND_SHIFT)

extern const char *const cr__stack_kind_names[CR_STACK_SHARED + 1]; /* of enum cr_stack_kind; NULL: the default */

#define CR__CO_SHARED ((unsigned)(CR_STACK_SHARED - CR_STACK_STATIC) << CR__CO_KIND_SHIFT) /* a bit that no other kind has */
_Static_assert((((CR_STACK_VIRTUAL - CR_STACK_STATIC) << CR__CO_KIND_SHIFT) & CR__CO_SHARED) == 0, "no other kind has it");

static inline unsigned cr__co_kind(const struct cr_co *co)
{
    return ((cr__co_flags(co) & CR__CO_KINDS) >> CR__CO_KIND_SHIFT) + CR_STACK_STATIC;
}

/* Whether nobody else runs on its stack. */
static inline bool cr__co_owns_stack(const struct cr_co *co)
{
    return !cr__co_is_task(co) && cr__co_kind(co) != CR_STACK_SHARED;
}

/* What a coroutine's attributes say, checked. 0 or -EINVAL. */
int cr__attr_check(const struct cr_attr *attr, enum cr_stack_kind default_kind, size_t default_stack_bytes, unsigned *flags, uint32_t *stack_bytes);

/* Gives co its stack and first context, in which life runs, with co as its argument. 0 or -ENOMEM. */
int cr__co_prepare(struct cr_co *co, struct cr__stack_pool *pool, uint32_t stack_bytes, const struct cr__arch_life *life);

/* The same with a packed stack. */
int cr__co_prepare_packed(struct cr_co *co, struct cr__packed *packed, const struct cr__arch_life *life);

static inline bool cr__co_is_packed(const struct cr_co *co)
{
    return co->stack.size_bytes == CR__PACKED_BYTES;
}

/* Ends the program if co has run off its packed stack. `frame`: where it is on it now, or, if it does not run, its stack pointer. */
__attribute__((noreturn)) CR__COLD void cr__co_overflowed(const struct cr_co *co);
static inline void cr__co_check_packed(const struct cr_co *co, const void *frame)
{
    if (CR__UNLIKELY(!cr__packed_whole(co->stack.top)) || CR__UNLIKELY((const char *)frame < cr__packed_low(co->stack.top)))
        cr__co_overflowed(co);
}

/* What lies at the top of a running coroutine's stack, where no frame overlaps it, for its owner; the coroutine's own business while it runs. */
struct cr__co_top {
    void *last_lock; /* that it took: after it has arrived, as is the next */
    void *reads;     /* what it holds for reading, if the stack is its own alone */
    void *word;      /* from cr__co_prepare on */
};
_Static_assert(sizeof(struct cr__co_top) <= CR__ARCH_TOP_BYTES, "what no frame overlaps; the first context lies there, too, until it has arrived (arch.h)");

static inline struct cr__co_top *cr__co_top(struct cr_co *co)
{
    return (struct cr__co_top *)(void *)(co->stack.top - sizeof(struct cr__co_top));
}

/* First thing on a fresh stack: sanitizers' bookkeeping, and the floating-point control words that every coroutine with
 * its own starts with. */
void cr__co_arrive(struct cr_co *co, uint64_t note);

/* The cold part, made if there is none; NULL: no memory. */
struct cr__co_cold *cr__co_cold_make(void);
struct cr__co_cold *cr__co_cold_of(struct cr_co *co);

/* Frees name and local storage, running the destructors. */
void cr__co_cold_free(struct cr_co *co);

const char *cr__co_name(const struct cr_co *co); /* or NULL */

/* Fills in the running coroutine, for the overflow message. */
bool cr__co_describe(struct cr__stack_user *out);

/* What sanitizers must be told of a switch (sanitizer.c); nothing elsewhere. */
#if defined(CR__ASAN) || defined(CR__TSAN)
void cr__san_start(struct cr_co *co);
void cr__san_end(struct cr_co *co);  /* of a coroutine that does not run */
void cr__san_bury(struct cr_co *co); /* of the running one, just before its last switch */
#else
#define cr__san_start(co) ((void)0)
#define cr__san_end(co) ((void)0)
#define cr__san_bury(co) ((void)0)
#endif

#if defined(CR__ASAN)
void cr__san_leave(struct cr_co *from, struct cr_co *to, bool dies);
void cr__san_arrive(struct cr_co *me);
#elif defined(CR__TSAN)
/* Inline: a function of its own would be entered on one fiber's shadow stack and left on another's. */
extern void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#define cr__san_leave(from, to, dies) __tsan_switch_to_fiber((to)->tsan_fiber, 0)
#define cr__san_arrive(me) ((void)0)
#else
#define cr__san_leave(from, to, dies) ((void)0)
#define cr__san_arrive(me) ((void)0)
#endif

/* From `from`, which runs, to `to`, which doesn't; returns the value that whoever comes back passes, and its note
 * in *note. The caller has set self->current. own_fpu: from finds its floating-point control words again. */
#ifdef CR__TSAN
__attribute__((no_sanitize("thread")))
#endif
__attribute__((always_inline)) static inline void *cr__co_switch(struct cr_co *from, struct cr_co *to, bool own_fpu,
                                                                 void *value, uint64_t *note)
{
    cr__san_leave(from, to, (*note & CR__NOTE_ENDED) != 0);
    value = own_fpu ? cr__switch_with_fpu(&from->sp, to->sp, value, note) : cr__switch(&from->sp, to->sp, value, note);
    cr__san_arrive(from);
    return value;
}

static inline bool cr__co_own_fpu(const struct cr_co *co)
{
    return !(cr__co_flags(co) & CR_FPU_SHARED);
}

#endif
