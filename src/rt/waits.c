/* What reports say of the waits of the rooms below this one. */
#include "rt/rt.h"

#include <stdio.h>

#include "poll/poll.h"

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

static const struct cr__wait_ops fd_ops = {.describe = describe_fd};

void cr__waits_describe(void)
{
    cr__holder_of(CR__WAIT_READABLE, &fd_ops);
    cr__holder_of(CR__WAIT_WRITABLE, &fd_ops);
}
