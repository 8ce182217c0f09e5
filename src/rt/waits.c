/* What reports say of the waits of the rooms below this one: the fd, the link, and who holds a lock. */
#include "rt/rt.h"

#include <stdio.h>

#include "net/link/link.h"
#include "os/os.h"
#include "poll/poll.h"
#include "sync/sync.h"

#define READERS_LOOKED_AT 64

/* Who closes the connection wakes, under the pollable's lock, who waits: so while it waits the fd is what it was. */
static void describe_fd(const struct cr__record *waits, char *text, size_t size_bytes)
{
    struct cr__pollable *p = (struct cr__pollable *)waits->node.object;
    cr__spin_lock(&p->lock);
    bool still = cr__park_state(&waits->word) == CR__WAITING;
    int fd = still ? p->fd : -1;
    cr__spin_unlock(&p->lock);
    if (fd >= 0)
        snprintf(text, size_bytes, "fd %d", fd);
    else
        snprintf(text, size_bytes, "closed");
}

/* Its worker alone closes it, and is where we are, or sleeps. */
static void describe_link(const struct cr__record *waits, char *text, size_t size_bytes)
{
    const struct cr_link *link = (const struct cr_link *)waits->node.object;
    snprintf(text, size_bytes, "%s", link ? link->told.name : "closed");
}

/* The number of a coroutine that may end meanwhile, and whose record may become another's: copied by the kernel, and worth what a second look at the lock says. */
static bool number_of(struct cr_co *co, struct cr__holder *out)
{
    return co && cr__os_peek(&out->id, &co->id, sizeof(out->id)) == 0;
}

static bool mutex_holder_pinned(struct cr_mutex *mutex, struct cr__holder *out)
{
    struct cr_co *_Atomic *owner = (struct cr_co *_Atomic *)(void *)&mutex->_owner;
    struct cr_co *co = atomic_load_explicit(owner, memory_order_relaxed);
    return number_of(co, out) && atomic_load_explicit(owner, memory_order_relaxed) == co;
}

/* Under a lock, which is only tried: who has it may be about to wake the one that we have pinned. */
static bool once_holder_pinned(struct cr_once *once, struct cr__holder *out)
{
    if (!cr__spin_try(cr__spin_of(&once->_spin)))
        return false;
    bool known = number_of(once->_runner, out);
    cr__spin_unlock(cr__spin_of(&once->_spin));
    return known;
}

/* The same. Of several readers, one that waits for a lock itself tells most. */
static bool rwlock_holder_pinned(struct cr_rwlock *lock, struct cr__holder *out)
{
    if (!cr__spin_try(cr__spin_of(&lock->_spin)))
        return false;
    struct cr_co *co = lock->_writer;
    unsigned looked = 0;
    for (struct cr__hold *hold = lock->_readers; hold && looked < READERS_LOOKED_AT; hold = hold->next, looked++) {
        if (!co || cr__waits_for_lock(hold->who))
            co = &hold->who->co;
    }
    bool known = number_of(co, out);
    out->others = lock->_holders > 1 ? (uint32_t)lock->_holders - 1 : 0;
    cr__spin_unlock(cr__spin_of(&lock->_spin));
    return known;
}

/* While it is pinned, it waits, and what it waits for is there. */
static bool lock_holder(const struct cr__record *waits, struct cr__holder *out)
{
    cr__park_word *word = (cr__park_word *)(uintptr_t)&waits->word;
    unsigned kind = cr__waits_for(waits);
    void *object = (void *)waits->node.object;
    bool known = false;
    if (!cr__park_pin(word, kind))
        return false;
    if (kind == CR__WAIT_MUTEX) {
        known = mutex_holder_pinned(object, out);
    } else if (kind == CR__WAIT_ONCE) {
        known = once_holder_pinned(object, out);
    } else {
        known = rwlock_holder_pinned(object, out);
    }
    cr__park_unpin(word);
    return known;
}

static const struct cr__wait_ops fd_ops = {.describe = describe_fd};
static const struct cr__wait_ops link_ops = {.describe = describe_link};
static const struct cr__wait_ops lock_ops = {.holder = lock_holder};

void cr__waits_describe(void)
{
    cr__holder_of(CR__WAIT_READABLE, &fd_ops);
    cr__holder_of(CR__WAIT_WRITABLE, &fd_ops);
    cr__holder_of(CR__WAIT_PACKET, &link_ops);
    cr__holder_of(CR__WAIT_MUTEX, &lock_ops);
    cr__holder_of(CR__WAIT_READ_LOCK, &lock_ops);
    cr__holder_of(CR__WAIT_WRITE_LOCK, &lock_ops);
    cr__holder_of(CR__WAIT_ONCE, &lock_ops);
}
