/* Simulated threads: bare coroutines of crore's own, which take turns as the explorer says. One that has ended waits to begin again; one
 * that is in the middle of something when its execution is over is dropped, and made anew. */
#include "internal.h"

#include <crore/co.h>
#include <stdlib.h>

#define STACK_BYTES (128u << 10)

static void (*switch_fn)(int thread);

void model__leave(enum model__state state)
{
    model__run.threads[model__run.current].state = state;
    if (cr_co_yield(NULL) < 0)
        abort();
}

static void *thread_body(void *index)
{
    struct model__thread *t = &model__run.threads[(intptr_t)index];
    if (!t->frame)
        t->frame = __builtin_frame_address(0);
    if (t->frame != __builtin_frame_address(0))
        abort();
    for (;;) {
        if (cr_co_yield(NULL) < 0)
            abort();
        model__user = MODEL_THREAD;
        t->fn(t->arg);
        model__user = MODEL_OUTSIDE;
        t->state = MODEL_DONE;
    }
}

bool model__on_stack(const volatile void *addr)
{
    for (int t = 0; t <= MODEL_CHECKER; t++)
        if (model__run.threads[t].frame && (uintptr_t)model__run.threads[t].frame - (uintptr_t)addr < STACK_BYTES)
            return true;
    return false;
}

void model__resume(int index)
{
    model__run.current = index;
    if (switch_fn && index != MODEL_CHECKER)
        switch_fn(index);
    if (cr_co_resume(model__run.threads[index].co, NULL) < 0)
        abort();
    model__run.current = -1;
    model__user = MODEL_OUTSIDE;
}

/* Stacks are handed out last in, first out: in this order, each thread gets the one that it had. */
void model__threads_drop(bool all)
{
    for (int i = MODEL_CHECKER; i >= 0; i--) {
        struct model__thread *t = &model__run.threads[i];
        if (t->co && (all || t->state != MODEL_DONE)) {
            cr_co_destroy(t->co);
            t->co = NULL;
        }
    }
}

void model__threads_begin(void)
{
    const struct cr_attr attr = {.stack_size_bytes = STACK_BYTES};
    for (int i = 0; i <= MODEL_CHECKER; i++) {
        struct model__thread *t = &model__run.threads[i];
        if (!t->fn)
            continue;
        t->done = 0;
        t->rounds[0] = t->rounds[1] = 0;
        t->reads_probed = 0;
        t->news = false;
        t->state = MODEL_READY;
        if (t->co)
            continue;
        struct cr_co *co;
        void *value = (void *)(intptr_t)i;
        if (cr_co_create(&co, thread_body, &attr) < 0 || cr_co_resume(co, &value) < 0)
            abort();
        t->co = co;
    }
}

void model_on_switch(void (*fn)(int thread))
{
    switch_fn = fn;
}

int model_thread(void (*fn)(void *), void *arg)
{
    if (model__run.threads_used == MODEL_THREADS || model__run.current >= 0)
        model__fail(MODEL_MISUSE, "model_thread: only in setup, and no more than %d", MODEL_THREADS);
    struct model__thread *t = &model__run.threads[model__run.threads_used];
    t->fn = fn;
    t->arg = arg;
    return model__run.threads_used++;
}

void model_daemon(int thread)
{
    model__run.threads[thread].daemon = true;
}

const struct model__clock *model__now(void)
{
    static const struct model__clock none;
    static const struct model__clock all = {{UINT16_MAX, UINT16_MAX, UINT16_MAX, UINT16_MAX, UINT16_MAX, UINT16_MAX,
                                             UINT16_MAX, UINT16_MAX}};
    if (model__run.checking)
        return &all;
    int done = model__run.threads[model__run.current].done;
    return done ? &model__run.graph.events[model__run.graph.at[model__run.current][done]].clock : &none;
}
