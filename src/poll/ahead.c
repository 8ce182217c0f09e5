#include "poll/ahead.h"

#include <string.h>

#include "os/os.h"
#include "poll/poller.h"

static struct cr__buffers *buffers_of(struct cr__worker *worker)
{
    return &((struct cr__poller *)worker->poller)->buffers;
}

void cr__ahead_allow(struct cr__worker *worker, struct cr__pollable *p, enum cr__ahead what, unsigned backlog)
{
    if (!((struct cr__poller *)worker->poller)->ahead)
        return;
    if (what == CR__AHEAD_SOCKETS) {
        unsigned room = CR__ACCEPTED_MAX + backlog;
        p->accepted = cr__mem_alloc(sizeof(*p->accepted) + room * sizeof(int), CR__MEM_OTHER);
        if (!p->accepted)
            return; /* it is accepted when somebody asks */
        p->accepted->room = room;
    }
    p->ahead = (uint8_t)what;
}

/* ---- The ring of buffers ------------------------------------------------------------------------------------ */

static void append(struct cr__pollable *p, struct cr__buffer *buffer)
{
    struct cr__buffer *newest = p->buffers;
    buffer->next = newest ? newest->next : buffer;
    if (newest)
        newest->next = buffer;
    p->buffers = buffer;
}

/* `before` is the one before it in the ring. */
static void unlink_after(struct cr__pollable *p, struct cr__buffer *before)
{
    struct cr__buffer *buffer = before->next;
    before->next = buffer->next;
    if (p->buffers == buffer)
        p->buffers = before == buffer ? NULL : before;
}

/* The one before the oldest that is held; NULL: none is. */
static struct cr__buffer *before_held(const struct cr__pollable *p)
{
    struct cr__buffer *before = p->buffers;
    if (p->held == 0)
        return NULL;
    while (before->next->state != CR__HELD_BACK)
        before = before->next;
    return before;
}

void cr__ahead_push(struct cr__pollable *p, struct cr__buffer *buffer)
{
    buffer->state = CR__HELD_BACK;
    append(p, buffer);
    p->held++;
}

static bool under_way(const struct cr__pollable *p)
{
    return (atomic_load_explicit(&p->watched, memory_order_relaxed) & CR__AHEAD) != 0;
}

/* Nothing is held; under the lock. */
static ssize_t why_nothing(struct cr__pollable *p)
{
    ssize_t error = -p->error;
    p->error = 0;
    return error != 0 ? error : under_way(p) ? -EAGAIN : 0;
}

/* Something was taken. If nothing is left, the next one waits without trying; under the lock. (An edge since `tried` is not lost: edges differ then.) */
static void taken(struct cr__pollable *p)
{
    if (p->held == 0 && p->error == 0 && under_way(p))
        cr__poll_drained(p, CR__IN);
}

/* Takes up to size_bytes of the oldest; under the lock. Returns how many. */
static size_t copy_out(struct cr__worker *worker, struct cr__pollable *p, char *to, size_t size_bytes)
{
    size_t copied = 0;
    struct cr__buffer *before;
    while (copied < size_bytes && (before = before_held(p))) {
        struct cr__buffer *buffer = before->next;
        size_t n = (size_t)(buffer->end - buffer->at) < size_bytes - copied ? (size_t)(buffer->end - buffer->at) : size_bytes - copied;
        memcpy(to + copied, buffer->bytes + buffer->at, n);
        copied += n;
        buffer->at = (uint16_t)(buffer->at + n);
        if (buffer->at == buffer->end) {
            unlink_after(p, before);
            p->held--;
            cr__buffer_put(buffers_of(worker), buffer);
        }
    }
    return copied;
}

ssize_t cr__ahead_read(struct cr__worker *worker, struct cr__pollable *p, const struct iovec *iov, int count)
{
    cr__lock(worker, &p->lock);
    ssize_t n = 0;
    if (p->held == 0) {
        n = why_nothing(p);
    } else {
        for (int i = 0; i < count && p->held > 0; i++)
            n += (ssize_t)copy_out(worker, p, iov[i].iov_base, iov[i].iov_len);
        taken(p);
    }
    cr__unlock(worker, &p->lock);
    return n;
}

ssize_t cr__ahead_take(struct cr__worker *worker, struct cr__pollable *p, struct cr__buffer **out)
{
    cr__lock(worker, &p->lock);
    ssize_t n;
    struct cr__buffer *before = before_held(p);
    if (!before) {
        n = why_nothing(p);
    } else {
        struct cr__buffer *buffer = before->next;
        buffer->state = CR__LENT;
        p->held--;
        n = buffer->end - buffer->at;
        *out = buffer;
        taken(p);
    }
    cr__unlock(worker, &p->lock);
    return n;
}

int cr__ahead_look(struct cr__worker *worker, struct cr__pollable *p)
{
    cr__lock(worker, &p->lock);
    int r = p->held > 0 || p->error != 0 ? 1 : under_way(p) ? -EAGAIN : 0;
    cr__unlock(worker, &p->lock);
    return r;
}

void cr__ahead_fetch(struct cr__worker *worker, struct cr__pollable *p)
{
    if (under_way(p) && p->worker == worker->index)
        cr__poll_ops(worker)->look(worker);
}

/* ---- Lending ------------------------------------------------------------------------------------------------ */

struct cr__buffer *cr__lent_get(struct cr__worker *worker)
{
    return cr__buffer_get(buffers_of(worker));
}

void cr__lent_put(struct cr__worker *worker, struct cr__buffer *buffer)
{
    cr__buffer_put(buffers_of(worker), buffer);
}

void cr__lent_add(struct cr__worker *worker, struct cr__pollable *p, struct cr__buffer *buffer)
{
    buffer->state = CR__LENT;
    cr__lock(worker, &p->lock);
    append(p, buffer);
    cr__unlock(worker, &p->lock);
}

void cr__lent_return(struct cr__worker *worker, struct cr__pollable *p, const void *which)
{
    struct cr__buffer *found = NULL;
    cr__lock(worker, &p->lock);
    struct cr__buffer *before = p->buffers;
    for (bool more = before != NULL; more; before = before->next, more = before != p->buffers) {
        if (before->next == which && before->next->state == CR__LENT) {
            found = before->next;
            unlink_after(p, before);
            break;
        }
    }
    cr__unlock(worker, &p->lock);
    if (found)
        cr__buffer_put(buffers_of(worker), found);
}

/* ---- Sockets ------------------------------------------------------------------------------------------------ */

bool cr__ahead_push_socket(struct cr__pollable *p, int fd)
{
    struct cr__accepted *a = p->accepted;
    if (a->count == a->room)
        return false;
    a->fds[(a->first + a->count++) % a->room] = fd;
    return true;
}

int cr__ahead_accept(struct cr__worker *worker, struct cr__pollable *p)
{
    int r = -EINVAL;
    cr__lock(worker, &p->lock);
    struct cr__accepted *a = p->accepted;
    if (a->count > 0) {
        r = a->fds[a->first];
        a->first = (a->first + 1) % a->room;
        a->count--;
        if (a->count == 0 && under_way(p))
            cr__poll_drained(p, CR__IN);
    } else if (under_way(p)) {
        r = -EAGAIN;
    }
    cr__unlock(worker, &p->lock);
    return r;
}

/* ---- The end ------------------------------------------------------------------------------------------------ */

static void drop_sockets(struct cr__pollable *p)
{
    struct cr__accepted *a = p->accepted;
    for (; a->count > 0; a->count--, a->first = (a->first + 1) % a->room)
        cr__os_close(a->fds[a->first]);
    cr__mem_free(a, sizeof(*a) + a->room * sizeof(int), CR__MEM_OTHER);
    p->accepted = NULL;
}

void cr__ahead_drop(struct cr__worker *worker, struct cr__pollable *p)
{
    if (p->ahead == CR__AHEAD_SOCKETS) {
        drop_sockets(p);
        return;
    }
    while (p->buffers) {
        struct cr__buffer *buffer = p->buffers->next;
        unlink_after(p, p->buffers);
        cr__buffer_put(buffers_of(worker), buffer);
    }
    p->held = 0;
}
