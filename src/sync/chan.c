/* Channels.
 *
 * A value goes the shortest way: from a sender's variable straight into a waiting receiver's, or back; into the ring only if nobody waits.
 * Invariants, under the lock:
 *   1. If a receiver waits, nothing is in the ring, and no sender waits. If a sender waits, the ring is full.
 *   2. A value is copied after its waiter's wait has been claimed, and before it is made ready.
 *   3. Who is in a queue is a record by its own node, or a select by one of its nodes (node.object says which).
 *   4. Who is in a queue, or `leaving`, keeps the channel from being destroyed. Who was woken, by closing too, touches it no more. */
#include "sync/chan.h"

#include <semaphore.h>
#include <string.h>

#define MAX_BYTES ((size_t)1 << 30)

int cr_chan_create(struct cr_chan **out, size_t item_size_bytes, size_t capacity)
{
    size_t bytes;
    if (__builtin_mul_overflow(item_size_bytes, capacity, &bytes) || bytes > MAX_BYTES || item_size_bytes > MAX_BYTES)
        return -EINVAL;
    struct cr_chan *chan = cr__mem_alloc(sizeof(*chan) + bytes, CR__MEM_OTHER);
    if (!chan)
        return -ENOMEM;
    chan->item_size_bytes = item_size_bytes;
    chan->capacity = capacity;
    chan->items = (char *)(chan + 1);
    *out = chan;
    return 0;
}

int cr_chan_destroy(struct cr_chan *chan)
{
    if (!chan)
        return 0;
    cr__spin_lock(cr__spin_of(&chan->spin)); /* from any thread, and after whoever sent last has let go */
    bool busy = !cr__waiters_empty(&chan->receivers) || !cr__waiters_empty(&chan->senders) || chan->leaving > 0;
    cr__spin_unlock(cr__spin_of(&chan->spin));
    if (busy)
        return -EBUSY;
    cr__mem_free(chan, sizeof(*chan) + chan->item_size_bytes * chan->capacity, CR__MEM_OTHER);
    return 0;
}

size_t cr_chan_length(const struct cr_chan *chan)
{
    return __atomic_load_n(&chan->length, __ATOMIC_RELAXED);
}

size_t cr_chan_capacity(const struct cr_chan *chan)
{
    return chan->capacity;
}

/* ---- The ring, and who waits -------------------------------------------------------------------------------- */

/* The most common sizes without a call. */
static inline void copy(const struct cr_chan *chan, void *to, const void *from)
{
    if (CR__LIKELY(chan->item_size_bytes == sizeof(void *)))
        memcpy(to, from, sizeof(void *));
    else if (chan->item_size_bytes == sizeof(int))
        memcpy(to, from, sizeof(int));
    else if (chan->item_size_bytes > 0)
        memcpy(to, from, chan->item_size_bytes);
}

static void length_set(struct cr_chan *chan, size_t length)
{
    __atomic_store_n(&chan->length, length, __ATOMIC_RELAXED); /* written under the lock; cr_chan_length looks without */
}

static char *place(const struct cr_chan *chan, size_t i)
{
    size_t at = chan->first + i;
    if (at >= chan->capacity)
        at -= chan->capacity;
    return chan->items + at * chan->item_size_bytes;
}

static void put(struct cr_chan *chan, const void *item)
{
    copy(chan, place(chan, chan->length), item);
    length_set(chan, chan->length + 1);
}

static void get(struct cr_chan *chan, void *item)
{
    copy(chan, item, place(chan, 0));
    chan->first = chan->first + 1 == chan->capacity ? 0 : chan->first + 1;
    length_set(chan, chan->length - 1);
}

/* Somebody whose wait has been claimed. */
struct partner {
    struct cr__record *record;
    void *value;
};

/* A select's node: it learns which case has come. */
static bool claim_select(struct cr__worker *w, struct cr__wait_node *node, int result, struct partner *p)
{
    struct cr__select_node *select = CR__CONTAINER(node, struct cr__select_node, node);
    p->record = (struct cr__record *)(node->object & ~(uintptr_t)1);
    if (!cr__park_claim(&p->record->word, CR__WOKEN, w->alone))
        return false;
    struct cr__extra *extra = (struct cr__extra *)p->record->co.cold->above;
    extra->case_won = select->index;
    extra->case_result = result;
    p->value = select->value;
    return true;
}

/* Claims the first one of the queue that still waits. result: what its call returns, 0 or -EPIPE. */
static inline bool claim(struct cr__worker *w, struct cr_chan *chan, enum cr_case_op op, int result, struct partner *p)
{
    struct cr__wait_node *node;
    for (; (node = cr__waiters_pop(cr__chan_queue(chan, op))) != NULL; chan->leaving++) {
        if (CR__UNLIKELY(node->object & 1)) {
            if (claim_select(w, node, result, p))
                return true;
            continue;
        }
        p->record = cr__waiter_of(node);
        if (CR__UNLIKELY(!cr__park_claim(&p->record->word, result == 0 ? CR__WOKEN : CR__CLOSED, w->alone)))
            continue;
        p->value = *cr__record_value(p->record);
        return true;
    }
    return false;
}

void cr__chan_leave(struct cr__worker *w, struct cr_chan *chan, enum cr_case_op op, struct cr__wait_node *node)
{
    cr__lock(w, cr__spin_of(&chan->spin));
    if (node->prev == node)
        chan->leaving--;
    else
        cr__waiters_remove(cr__chan_queue(chan, op), node);
    cr__unlock(w, cr__spin_of(&chan->spin));
}

/* Whether anybody but a select of this record's waits. */
static bool others_wait(const struct cr_waiters *q, const struct cr__record *me)
{
    const struct cr__wait_node *node = q->_first;
    while (node && node->object == ((uintptr_t)me | 1))
        node = node->next;
    return node != NULL;
}

bool cr__chan_idle(const struct cr_chan *chan, enum cr_case_op op, const struct cr__record *me)
{
    if (chan->closed)
        return false;
    if (op == CR_SEND)
        return !others_wait(&chan->receivers, me) && chan->length == chan->capacity;
    return chan->length == 0 && !others_wait(&chan->senders, me);
}

__attribute__((always_inline)) static inline int send_now(struct cr__worker *w, struct cr_chan *chan, const void *item)
{
    struct partner receiver;
    int r = 0;
    if (CR__UNLIKELY(chan->closed)) {
        r = -EPIPE;
    } else if (claim(w, chan, CR_RECV, 0, &receiver)) {
        copy(chan, receiver.value, item);
        cr__ready_next(w, receiver.record);
    } else if (chan->length < chan->capacity) {
        put(chan, item);
    } else {
        return CR__WOULD_WAIT;
    }
    cr__unlock(w, cr__spin_of(&chan->spin));
    return r;
}

__attribute__((always_inline)) static inline int recv_now(struct cr__worker *w, struct cr_chan *chan, void *item)
{
    struct partner sender;
    int r = 0;
    if (chan->length > 0) {
        get(chan, item);
        if (claim(w, chan, CR_SEND, 0, &sender)) {
            put(chan, sender.value);
            cr__ready(w, sender.record);
        }
    } else if (claim(w, chan, CR_SEND, 0, &sender)) {
        copy(chan, item, sender.value);
        cr__ready_next(w, sender.record);
    } else if (chan->closed) {
        memset(item, 0, chan->item_size_bytes);
        r = -EPIPE;
    } else {
        return CR__WOULD_WAIT;
    }
    cr__unlock(w, cr__spin_of(&chan->spin));
    return r;
}

int cr__chan_send_now(struct cr__worker *w, struct cr_chan *chan, const void *item)
{
    return send_now(w, chan, item);
}

int cr__chan_recv_now(struct cr__worker *w, struct cr_chan *chan, void *item)
{
    return recv_now(w, chan, item);
}

/* ---- The calls ---------------------------------------------------------------------------------------------- */

/* In halves, as sync.h says. The lock is held, and given back. */
__attribute__((always_inline)) static inline int wait_begin(struct cr__worker *w, struct cr__record *me, struct cr_chan *chan, enum cr_case_op op,
                                                            void *item, int64_t deadline_ns)
{
    *cr__record_value(me) = item;
    int r = cr__wait_begin(w, me, op == CR_SEND ? CR__WAIT_SEND : CR__WAIT_RECV, chan, deadline_ns);
    if (r == 0)
        cr__waiters_push(cr__chan_queue(chan, op), &me->node);
    cr__unlock(w, cr__spin_of(&chan->spin));
    return r < 0 ? r : CR_WAITS;
}

static inline int wait_end(struct cr__record *me, struct cr_chan *chan, enum cr_case_op op, int r)
{
    if (CR__LIKELY(r == 0))
        return 0;
    if (r == -EBADF)
        return -EPIPE;
    cr__chan_leave(cr__worker_here(), chan, op, &me->node);
    return r;
}

__attribute__((always_inline)) static inline int wait_for(struct cr__worker *w, struct cr__record *me, struct cr_chan *chan, enum cr_case_op op,
                                                          void *item, int64_t deadline_ns)
{
    void *value = cr__bounce_begin(w, me, item, chan->item_size_bytes);
    size_t received_bytes = op == CR_RECV ? chan->item_size_bytes : 0; /* asked for now, since then the channel may be gone */
    if (CR__UNLIKELY(!value && item)) {
        cr__unlock(w, cr__spin_of(&chan->spin));
        return -ENOMEM;
    }
    int r = wait_begin(w, me, chan, op, value, deadline_ns);
    if (CR__LIKELY(r == CR_WAITS))
        r = wait_end(me, chan, op, cr__wait_suspend_here(w, me, deadline_ns));
    cr__bounce_end(value, item, r == 0 || r == -EPIPE ? received_bytes : 0);
    return r;
}

__attribute__((always_inline)) static inline int send(struct cr_chan *chan, const void *item, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    cr__lock(w, cr__spin_of(&chan->spin));
    int r = send_now(w, chan, item);
    return r == CR__WOULD_WAIT ? wait_for(w, me, chan, CR_SEND, (void *)item, deadline_ns) : r;
}

__attribute__((always_inline)) static inline int receive(struct cr_chan *chan, void *item, int64_t deadline_ns)
{
    struct cr__worker *w;
    struct cr__record *me = cr__enter(&w, deadline_ns);
    if (CR__UNLIKELY(!me))
        return -EPERM;
    cr__lock(w, cr__spin_of(&chan->spin));
    int r = recv_now(w, chan, item);
    return r == CR__WOULD_WAIT ? wait_for(w, me, chan, CR_RECV, item, deadline_ns) : r;
}

int cr_chan_send_until(struct cr_chan *chan, const void *item, int64_t deadline_ns)
{
    cr__handed(item);
    return send(chan, item, deadline_ns);
}

int cr_chan_recv_until(struct cr_chan *chan, void *item, int64_t deadline_ns)
{
    cr__handed(item);
    return receive(chan, item, deadline_ns);
}

int cr_chan_send(struct cr_chan *chan, const void *item)
{
    cr__handed(item);
    return send(chan, item, CR_FOREVER);
}

int cr_chan_send_try(struct cr_chan *chan, const void *item)
{
    cr__handed(item);
    return cr__try(cr_chan_send_until(chan, item, CR__NOW), -EAGAIN);
}

int cr_chan_recv(struct cr_chan *chan, void *item)
{
    cr__handed(item);
    return receive(chan, item, CR_FOREVER);
}

int cr_chan_recv_try(struct cr_chan *chan, void *item)
{
    cr__handed(item);
    return cr__try(cr_chan_recv_until(chan, item, CR__NOW), -EAGAIN);
}

int cr_task_chan_send(struct cr_task *task, struct cr_chan *chan, const void *item, int64_t deadline_ns)
{
    cr__handed(item);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_SEND));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return wait_end(leaf.me, chan, CR_SEND, cr__leaf_arrive(&leaf, deadline_ns));
    cr__lock(leaf.worker, cr__spin_of(&chan->spin));
    int r = send_now(leaf.worker, chan, item);
    if (r == CR__WOULD_WAIT)
        r = wait_begin(leaf.worker, leaf.me, chan, CR_SEND, (void *)item, deadline_ns);
    return cr__leaf_left(&leaf, r, deadline_ns);
}

int cr_task_chan_recv(struct cr_task *task, struct cr_chan *chan, void *item, int64_t deadline_ns)
{
    cr__handed(item);
    struct cr__leaf leaf = cr__leaf_enter(task, deadline_ns, CR__KIND_BIT(CR__WAIT_RECV));
    if (leaf.turn == CR__BREATHES)
        return CR_WAITS;
    if (leaf.turn == CR__RESUMES)
        return wait_end(leaf.me, chan, CR_RECV, cr__leaf_arrive(&leaf, deadline_ns));
    cr__lock(leaf.worker, cr__spin_of(&chan->spin));
    int r = recv_now(leaf.worker, chan, item);
    if (r == CR__WOULD_WAIT)
        r = wait_begin(leaf.worker, leaf.me, chan, CR_RECV, item, deadline_ns);
    return cr__leaf_left(&leaf, r, deadline_ns);
}

int cr_chan_close(struct cr_chan *chan)
{
    struct cr__worker *w = cr__worker_here();
    struct partner p;
    if (!w)
        return -EPERM;
    cr__lock(w, cr__spin_of(&chan->spin));
    int r = chan->closed ? -EPIPE : 0;
    chan->closed = true;
    while (claim(w, chan, CR_RECV, -EPIPE, &p)) {
        memset(p.value, 0, chan->item_size_bytes);
        cr__ready(w, p.record);
    }
    while (claim(w, chan, CR_SEND, -EPIPE, &p))
        cr__ready(w, p.record);
    cr__unlock(w, cr__spin_of(&chan->spin));
    return r;
}

/* ---- From outside ------------------------------------------------------------------------------------------- */

/* On the stack of the thread that calls, which waits for `over`. */
struct remote {
    struct cr__post post;
    struct cr__co_above above; /* of the coroutine that sends for it, which needs nothing else that sync keeps with one */
    struct cr_chan *chan;
    const void *item; /* NULL, and no item has a size: or it is to be closed */
    bool close;
    int result;
    sem_t over;
};

static void finish(struct remote *remote, int result)
{
    remote->result = result;
    sem_post(&remote->over);
}

/* A coroutine, since it may have to wait. */
static void send_for(void *arg)
{
    struct remote *remote = arg;
    int r = cr_chan_send(remote->chan, remote->item);
    remote->result = r == -ECANCELED ? -ESHUTDOWN : r;
}

/* It has ended; or the runtime has, and it is dropped, perhaps before it began. */
static void has_sent(struct cr_co *co, struct cr__co_above *above)
{
    struct remote *remote = CR__CONTAINER(above, struct remote, above);
    (void)co;
    finish(remote, remote->result);
}

static int spawn_sender(struct cr__worker *w, struct remote *remote)
{
    static const struct cr_attr attr = {.name = "sends for a thread"};
    struct cr__co_cold *cold = cr__co_cold_make();
    if (!cold)
        return -ENOMEM;
    remote->result = -ESHUTDOWN;
    remote->above.release = has_sent;
    cold->above = &remote->above;
    int r = cr__spawn_with(w, NULL, NULL, send_for, remote, &attr, cold, NULL);
    if (r < 0)
        cr__mem_free(cold, sizeof(*cold), CR__MEM_RECORDS);
    return r;
}

static void on_remote(struct cr__worker *w, struct cr__post *post)
{
    struct remote *remote = CR__CONTAINER(post, struct remote, post);
    if (!w) {
        finish(remote, -ESHUTDOWN);
    } else if (remote->close) {
        finish(remote, cr_chan_close(remote->chan));
    } else {
        int r = spawn_sender(w, remote);
        if (r < 0)
            finish(remote, r);
    }
}

static int call_remote(struct cr_rt *rt, struct remote *remote)
{
    if (cr__worker_here())
        return -EPERM;
    remote->post.fn = on_remote;
    sem_init(&remote->over, 0, 0);
    int r = cr__sched_tell(cr__sched_of(rt), &remote->post);
    if (r == 0) {
        while (sem_wait(&remote->over) < 0)
            ; /* interrupted by a signal */
        r = remote->result;
    }
    sem_destroy(&remote->over);
    return r;
}

int cr_chan_send_remote(struct cr_rt *rt, struct cr_chan *chan, const void *item)
{
    struct remote remote = {.chan = chan, .item = item};
    return call_remote(rt, &remote);
}

int cr_chan_close_remote(struct cr_rt *rt, struct cr_chan *chan)
{
    struct remote remote = {.chan = chan, .close = true};
    return call_remote(rt, &remote);
}
