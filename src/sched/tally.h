/* What coroutines do, counted: groups of those that do the same at the same place, and who waits for whom. Dumps (dump.c) make one per worker and add them up;
 * the final report (report.c) makes one of all.
 *
 * A group is: function, state, what is waited for, backtrace. Unwinding takes tens of microseconds, so it is done once per group: a group remembers where on the
 * stack its return addresses lie, and a coroutine that has the same ones at the same places belongs to it. Groups that differ in these places only become one when
 * they are added up.
 *
 * Memory is bounded: what finds no group any more is counted in `others`, and is not unwound. */
#ifndef CR__TALLY_H
#define CR__TALLY_H

#include "sched/sched.h"

#define CR__TALLY_GROUPS 256
#define CR__TALLY_SLOTS (2 * CR__TALLY_GROUPS)
#define CR__TALLY_FRAMES 24
#define CR__TALLY_NAMED 6   /* coroutines of a group that are remembered by id */
#define CR__TALLY_EDGES 8192

enum cr__doing {
    CR__DOING_PARKED,
    CR__DOING_READY,
    CR__DOING_NEW,    /* not started */
    CR__DOING_SILENT, /* on a worker that does not answer */
};

struct cr__group {
    void (*entry)(void); /* NULL: not known */
    uint8_t doing;       /* of enum cr__doing */
    uint8_t kind;        /* what it waits for, if it is parked */
    uint16_t worker;     /* if it is silent */
    uint8_t frames;
    bool task;           /* its backtrace is of points (crore/task.h), not of return addresses */
    bool objects_differ, holders_differ;
    void (*inner)(void); /* the bare coroutine inside it whose stack this is, or NULL */
    void *pcs[CR__TALLY_FRAMES];
    uint32_t offsets[CR__TALLY_FRAMES];

    uint64_t count, with_deadline, with_since;
    uint32_t longest, shortest; /* waits, in units of 2^CR__SINCE_SHIFT ns */
    uint32_t holder;            /* of the first one: id, 0: nobody known */
    uint32_t holder_others;     /* beside that one */
    uintptr_t object;
    char object_name[64];
    uint32_t named;
    uint32_t ids[CR__TALLY_NAMED];
    char names[CR__TALLY_NAMED][32];
};

/* One that waits for something that another one holds. */
struct cr__edge {
    uint32_t from, to;
    uint32_t since;
    uint8_t kind;
    bool deadline; /* it will end by itself */
    uint16_t worker;
    struct cr__record *record;
    uintptr_t object;
    void (*entry)(void);
    char name[32];
};

struct cr__tally {
    struct cr__group *groups;
    unsigned used, capacity;
    uint16_t slots[CR__TALLY_SLOTS]; /* index of a group, plus 1 */
    uint64_t live, others;
    struct cr__edge *edges;
    unsigned edges_used, edges_capacity;
    uint64_t edges_lost;
    unsigned unwound;
    uint32_t now; /* in units of 2^CR__SINCE_SHIFT ns */
};

/* Needs no memory yet; what does not fit later is counted in `others`. */
void cr__tally_init(struct cr__tally *tally, int64_t now_ns);
void cr__tally_fini(struct cr__tally *tally);

/* Counts one that has started, and that nobody resumes meanwhile: parked, or ready. `here` is the worker that it is on. */
void cr__tally_look(struct cr__tally *tally, struct cr__worker *here, struct cr__record *record, bool parked);

/* Counts `count` of which no more is known. */
void cr__tally_plain(struct cr__tally *tally, void (*entry)(void), uint32_t id, enum cr__doing doing, unsigned worker, uint64_t count);

/* The same for one that waits for a stack. */
void cr__tally_starving(struct cr__tally *tally, void (*entry)(void), uint32_t id);

/* Adds another one's. */
void cr__tally_add(struct cr__tally *tally, const struct cr__tally *other);

/* Sorts the edges, and calls fn for each cycle: its edges in order, each `to` the next one's `from`, the last one's the first one's. */
void cr__tally_cycles(struct cr__tally *tally, void (*fn)(const struct cr__edge *const *edges, unsigned count, void *arg), void *arg);

/* ---- Told to people (report.c) ------------------------------------------------------------------------------ */

/* Text on its way to fd: gathered, and written in pieces that do not block for long. */
struct cr__out {
    int fd;
    unsigned used;
    bool failed;                 /* nobody reads there: the rest is dropped */
    const _Atomic bool *hurry;   /* true: not worth waiting for any more; or NULL */
    char text[4096];
};

void cr__out_init(struct cr__out *out, int fd, const _Atomic bool *hurry);
void cr__out_put(struct cr__out *out, const char *format, ...) CR__PRINTF(2, 3);
void cr__out_flush(struct cr__out *out);

/* The groups, the largest first; afterwards the tally can only be freed. And a cycle. */
void cr__tally_tell(struct cr__tally *tally, struct cr__out *out);
void cr__out_cycle(struct cr__out *out, const struct cr__edge *const *edges, unsigned count);

/* A line of the process's memory by kind, and of what pages it is (memory.c). */
void cr__memory_tell(struct cr__out *out);

/* Lines of a backtrace, without the runtime's own frames at both ends. */
void cr__out_frames(struct cr__out *out, void *const *pcs, unsigned count, bool interrupted);

/* A task's, the innermost frame first. */
struct cr_point;
void cr__out_points(struct cr__out *out, const struct cr_point *const *points, unsigned count);

/* 'coroutine 17 "x"'. */
void cr__out_who(struct cr__out *out, uint32_t id, const char *name);

#endif
