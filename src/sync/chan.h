/* Within the room: channels as select sees them. */
#ifndef CR__CHAN_H
#define CR__CHAN_H

#include "sync/sync.h"

struct cr_chan {
    unsigned spin;
    bool closed;
    size_t item_size_bytes, capacity;
    size_t first, length; /* of the ring */
    struct cr_waiters receivers, senders;
    size_t leaving; /* taken out of these, but too late to be woken: they will still look here */
    char *items;
};

/* One of a select's waits. Its owner's record is in node.object, with the lowest bit set. */
struct cr__select_node {
    struct cr__wait_node node;
    void *value;
    int index;
    uint32_t received_bytes; /* copied back to the case's item if that is not `value` */
};

#define CR__WOULD_WAIT 1

/* What can be done at once: 0, -EPIPE, or CR__WOULD_WAIT. The lock is held, and given back if anything was done. */
int cr__chan_send_now(struct cr__worker *w, struct cr_chan *chan, const void *item);
int cr__chan_recv_now(struct cr__worker *w, struct cr_chan *chan, void *item);

/* Takes a node out of the queue in which it was, unless somebody has; not one by which its owner was woken: then the channel may be gone. */
void cr__chan_leave(struct cr__worker *w, struct cr_chan *chan, enum cr_case_op op, struct cr__wait_node *node);

/* Whether cr__chan_send_now or _recv_now would find nothing to do, as things are, for a select of me's, which does not
 * meet itself. The lock is held. */
bool cr__chan_idle(const struct cr_chan *chan, enum cr_case_op op, const struct cr__record *me);

static inline struct cr_waiters *cr__chan_queue(struct cr_chan *chan, enum cr_case_op op)
{
    return op == CR_SEND ? &chan->senders : &chan->receivers;
}

#endif
