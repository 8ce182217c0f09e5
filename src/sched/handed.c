/* What a checked build finds: a pointer to a local of a coroutine on a shared stack, in the hands of another one. By the time that it is used, the memory may be somebody else's.
 *
 * Only addresses are known: if the running coroutine has something of its own at that address, by now, nothing is found. */
#include "sched/sched.h"

#ifdef CR__CHECKED

#include <stdio.h>

#include "obs/obs.h"

static const char *who(uint32_t id, const char *name, void (*entry)(void), char *text, size_t size_bytes)
{
    char function[128];
    snprintf(text, size_bytes, "coroutine %u%s%s%s in %s", id, *name ? " \"" : "", name, *name ? "\"" : "", cr__symbol_of((void *)entry, function, sizeof(function)));
    return text;
}

static const char *who_runs(char *text, size_t size_bytes)
{
    char name[CR__NAME_BYTES];
    const struct cr_co *co = cr_co_current();
    if (!co)
        return "the runtime";
    return who(co->id, cr_name_get(co, name, sizeof(name)), co->entry, text, size_bytes);
}

void cr__check_handed(const void *ptr, const char *call)
{
    struct cr__self *self = cr__self_get();
    struct cr__shared_owner owner;
    char me[256], other[256];
    if (!self || !self->worker || !cr__shared_foreign(self, ptr, &owner))
        return;
    if (owner.known)
        cr__panic("%s has handed %p to %s: that lies on a shared stack, among the locals of %s. Nobody else may have a pointer to those", who_runs(me, sizeof(me)), ptr, call,
                  who(owner.id, owner.name, owner.entry, other, sizeof(other)));
    cr__panic("%s has handed %p to %s: that lies on a shared stack, where nobody has anything now", who_runs(me, sizeof(me)), ptr, call);
}

#endif
