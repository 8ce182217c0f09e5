/* What the explorer's own files share. None of it is compiled with -fsanitize=thread.
 *
 *     graph.c    what an execution is, and which are allowed
 *     explorer.c all executions, one by one
 *     threads.c  simulated threads
 *     steps.c    an operation of a thread: the event that it is, or becomes
 *     grow.c     new events, and what they could have been besides
 *     abi.c      what -fsanitize=thread makes of the code under test
 *     memory.c   races, what to undo, which address is which location
 *     heap.c     malloc and free of the code under test
 *     report.c   what people are told
 *     mutate.c   sites, mutants, main */
#ifndef MODEL_INTERNAL_H
#define MODEL_INTERNAL_H

#include <stddef.h>
#include <stdio.h>

#define MODEL_INSIDE
#include "explorer.h"
#include "graph.h"

struct model__history;

/* Whose code runs. Hooks do nothing outside, and are outside themselves. */
enum model__user { MODEL_OUTSIDE, MODEL_SETUP, MODEL_THREAD };
extern enum model__user model__user;

#define MODEL_CHECKER MODEL_THREADS /* the thread that runs `check` */

/* ---- explorer.c --------------------------------------------------------------------------------------------- */

enum model__state {
    MODEL_READY,    /* runs as soon as it is resumed */
    MODEL_WAITS,    /* replay: for the write that it reads */
    MODEL_FRONTIER, /* its next event is a new one */
    MODEL_PARKED,
    MODEL_SPINS,
    MODEL_DOOMED,   /* blocked for ever, though what it waits for may be there to be seen: nothing comes of this execution */
    MODEL_PROGRESS, /* when probed: would not have spun for ever */
    MODEL_DONE,
    MODEL_FAILED,
};

struct model__thread {
    void (*fn)(void *arg);
    void *arg;
    void *co;
    const void *frame;   /* where its stack is: the same in each execution, since pointers to it are values */
    enum model__state state;
    int done;            /* how many of its events this execution has gone through */
    bool daemon, started;
    int rounds[2];       /* `done` when it was in model_spin last, and the time before */
    const void *spins_at; /* and where that was; NULL: it spins without */
    int reads_probed;
    bool news;           /* one of them read something else than before */
    const void *pc;      /* where it is stuck */
};

/* One execution. */
struct model__run {
    struct model__graph graph;
    struct model__thread threads[MODEL_THREADS + 1];
    int threads_used;
    int current;                  /* thread */
    int quota;                    /* how many new events may be added; negative: any number */
    bool probing, checking;
    const char *script;           /* of --repeat: what is left */
    int choice;                   /* the script's, for the next event; negative: none */
    int log[MODEL_EVENTS], logged; /* events in the order in which they were gone through */
};
extern struct model__run model__run;
extern const struct model_options *model__options;
extern struct model_result *model__result;

/* Ends the execution, and the exploration, by a failure. From a thread it does not return; from the loop it does. */
void model__fail(int outcome, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A graph that is still to be explored. */
void model__push(const struct model__graph *g);

/* That model_spin's rounds are not all alike: after the first, another must be like it. */
void model__spin_counts(const void *pc);
bool model__spin_is_counting(const void *pc);
extern unsigned model__spin_rounds;

/* Explores. script: one execution only. */
void model__explore(const struct model_options *options, void (*setup)(void), void (*check)(void), const char *script,
                    bool with_trace, struct model_result *result);

/* ---- threads.c ---------------------------------------------------------------------------------------------- */

/* All threads of the run at their beginning, and stopped. */
void model__threads_begin(void);

/* Before memory is put back: drops those that have not ended; all: for good. */
void model__threads_drop(bool all);

/* From the loop to a thread. */
void model__resume(int thread);

/* From a thread to the loop; returns when the thread is resumed. */
void model__leave(enum model__state state);

/* The clock that says what happened before what the running thread does now. */
const struct model__clock *model__now(void);

/* Whether that is in a simulated thread's stack. */
bool model__on_stack(const volatile void *addr);

/* ---- steps.c ------------------------------------------------------------------------------------------------ */

enum model__update {
    MODEL_EXCHANGE, MODEL_ADD, MODEL_SUB, MODEL_AND, MODEL_OR, MODEL_XOR, MODEL_NAND,
    MODEL_COMPARE, MODEL_COMPARE_WEAK, MODEL_TAKE /* a permit */
};

struct model__place {
    volatile void *addr;
    unsigned size;
    const void *pc;
};

uint64_t model__load(struct model__place place, unsigned order);
void model__store(struct model__place place, uint64_t value, unsigned order);
uint64_t model__change(struct model__place place, enum model__update update, uint64_t operand, unsigned order);
bool model__compare(struct model__place place, uint64_t *expected, uint64_t desired, unsigned order, unsigned order_failed,
                    enum model__update update);
void model__fence(unsigned order, const void *pc);
int model__choose(int n, const void *pc);
void model__spin(const void *pc);
extern uint32_t model__permits[MODEL_THREADS];

/* ---- grow.c ------------------------------------------------------------------------------------------------- */

/* Of the running thread: where the event is, all but what it reads, or at which place it writes, being filled in. Return its number. The
 * operation is what follows a read of an RMW. */
int model__add_read(struct model__event read, const struct model__history *history, enum model__update update, uint64_t operand);
int model__add_write(struct model__event write);

/* A weak compare-and-swap that would succeed might have failed as well. */
void model__push_failure(struct model__event *read);

/* What an RMW makes of a value. */
uint64_t model__changed(enum model__update update, uint64_t old, uint64_t operand, unsigned size);

/* ---- memory.c ----------------------------------------------------------------------------------------------- */

enum model__access { MODEL_PLAIN_READ = 0, MODEL_PLAIN_WRITE = 1, MODEL_ATOMIC_READ = 2, MODEL_ATOMIC_WRITE = 3 };

/* Before each execution: memory is as setup left it. */
void model__memory_reset(void);

/* Before each exploration. */
void model__memory_init(void);

/* The running thread does this to memory; it may be a race. Of plain writes, what was there is noted. */
void model__access(const volatile void *addr, size_t size, enum model__access access, const void *pc);

/* What memory keeps of an atomic object, since the last plain write to it. */
struct model__history {
    uint32_t location; /* a number that no other object has */
    uint64_t initial;  /* what was there before the first atomic access of this execution */
    int newest;        /* event; what is in memory. MODEL_INITIAL: `initial` is */
};
struct model__history *model__touch(struct model__place place);

uint64_t model__peek(const volatile void *addr, unsigned size);
void model__poke(volatile void *addr, unsigned size, uint64_t value);

const volatile void *model__location_addr(uint32_t location);

/* ---- heap.c ------------------------------------------------------------------------------------------------- */

void model__heap_init(void);
void model__heap_reset(void);
void *model__heap_alloc(size_t size, size_t alignment);
void model__heap_free(void *block, const void *pc);
size_t model__heap_size(const void *block); /* of what is allocated */
/* NULL, or what is wrong with touching this. */
const char *model__heap_check(const volatile void *addr, size_t size);
bool model__heap_has(const volatile void *addr);

/* ---- report.c ----------------------------------------------------------------------------------------------- */

/* Names for code addresses: "src/sched/runq.h:64", and the function. */
struct model__line {
    char where[96], function[64];
};
void model__lines(const void *const *pcs, int n, struct model__line *out);
struct model__line model__line(const void *pc);

/* What the present execution did, step by step, and how to repeat it. */
void model__trace(char *out, size_t size);
const char *model__order_name(unsigned order);

/* A location's or address' name. */
const char *model__addr_name(const volatile void *addr, char *buf, size_t size);

/* "thread 1 (reader)". */
const char *model__thread_name(int thread, char *buf, size_t size);

/* ---- mutate.c ----------------------------------------------------------------------------------------------- */

enum model__op { MODEL_OP_LOAD, MODEL_OP_STORE, MODEL_OP_UPDATE, MODEL_OP_COMPARE, MODEL_OP_FAILED_COMPARE, MODEL_OP_FENCE };

/* A read at the first could see a write at the second, were loads buffered. */
void model__buffered(const void *read, const void *write);

/* Notes that there is such an operation; returns the order that it is to have. */
unsigned model__site(const void *pc, enum model__op op, unsigned order);

#endif
