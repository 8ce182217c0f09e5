/* The io_uring poller: a ring per worker. One system call per turn of the loop submits what has gathered, waits, and brings what has come.
 *
 * Readiness is told by multishot polls, one per fd, as by an edge-triggered epoll. What makes the ring worth having is that it does the work
 * itself: it receives into buffers that it is given beforehand and accepts sockets (ahead.h), transfers files without blocking the worker, and sends what many
 * coroutines have to send in one call.
 *
 * Not in it: what a pollable is and how it is waited for (pollable.c), and what becomes of what came ahead (ahead.c). Without liburing this file is not
 * built; where the kernel refuses a ring, epoll is used (pollable.c says so).
 *
 * Invariants:
 *   1. Only its own worker's thread touches a ring. Others post what they want of it.
 *   2. What a request is about is told by its user data: an address, its kind in the lowest bits, and for pollables the generation in the highest. A
 *      completion of another generation brings nothing to anybody; its buffer goes back, its socket is closed.
 *   3. A bit of `watched` is set from the moment a request is made until its last completion (without F_MORE). Who waits and finds it not set makes one.
 *   4. The fd that a submitted-later request names is closed by this worker, and only after the request has been submitted: so no number is
 *      reused under it.
 *   5. A request with a coroutine's memory is waited for until it completes: neither cancelled nor timed out.
 *   6. A buffer is with the ring, on a pollable, or in the slab. The slot of one that has come is filled again when one is free, or when the ring runs
 *      low; not when BUFFERS_OUT_MAX are out.
 *
 * Rejected: IORING_OP_MSG_RING to kick (it needs a turn of the sender's ring, and threads outside have none); waiting for readiness of the
 * epoll's own fd (two calls for each event); SQPOLL (a processor that spins). */
#include <errno.h>
#include <liburing.h>
#include <string.h>

#include "os/os.h"
#include "poll/poller.h"

#define SUBMISSIONS 256   /* more go in several calls; the ring is walked in turns, so more of them would only be colder */
#define COMPLETIONS 2048
#define GIVEN 256         /* buffers that the ring holds: a power of two */
#define GROUP 0
#define BUFFERS_OUT_MAX 4096 /* of a worker's, the ring's own included */
#define LATE_MAX 4
#define TRANSFER_MAX (1u << 30)
#define EDGES (POLLIN | POLLOUT | POLLRDHUP | POLLPRI)

enum kind { BOTH, WATCH, RECEIVE, ACCEPT, ONCE_IN, OUT_ONLY, FILED, SENT, KINDS };
#define NOBODY ((uint64_t)SENT) /* without an address */
#define ADDRESS_BITS 48

struct poller {
    struct cr__poller common;
    struct io_uring ring;
    unsigned under_way;               /* requests whose last completion is yet to come */
    struct cr__record *senders, *last_sender; /* coroutines whose sends the next submission completes, linked by their nodes */
    bool deferred;                    /* the kernel's part of completions runs when we ask */
    bool ending;                      /* pollables are gone */
    bool looking;                     /* from a coroutine: watches are called later */
    unsigned late_count;
    struct cr__poll_watch *late[LATE_MAX];
    struct cr__poll_watch kick_watch;
    int foreign;                      /* an epoll that tells which foreign fds the kernel can poll, and knows them again. Open from the beginning: when fds run out is when
                                         it would be wanted most */

    struct io_uring_buf_ring *ring_of_buffers;
    unsigned missing_count;           /* slots that nothing has been given for */
    uint16_t missing[GIVEN];
    struct cr__buffer *given[GIVEN];  /* by slot */
};

static uint64_t tag_of(const void *address, unsigned generation, enum kind kind)
{
    return (uint64_t)(uintptr_t)address | (uint64_t)generation << ADDRESS_BITS | kind;
}

static uint64_t tag_of_pollable(const struct cr__pollable *p, enum kind kind)
{
    return tag_of(p, atomic_load_explicit(&p->generation, memory_order_relaxed), kind);
}

static void *address_of(uint64_t tag)
{
    return (void *)(uintptr_t)(tag & (((uint64_t)1 << ADDRESS_BITS) - KINDS));
}

/* ---- Requests ----------------------------------------------------------------------------------------------- */

/* An entry to fill in. It is submitted with the next turn, or earlier if there are many. */
static struct io_uring_sqe *request(struct poller *poller)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&poller->ring);
    while (CR__UNLIKELY(!sqe)) {
        int r = io_uring_submit(&poller->ring);
        if (r == -EAGAIN || r == -EBUSY)
            io_uring_get_events(&poller->ring);
        sqe = io_uring_get_sqe(&poller->ring);
    }
    return sqe;
}

static void flush(struct poller *poller)
{
    if (io_uring_sq_ready(&poller->ring) > 0)
        io_uring_submit(&poller->ring);
}

static void prepare_poll(struct poller *poller, int fd, unsigned events, uint64_t tag)
{
    struct io_uring_sqe *sqe = request(poller);
    io_uring_prep_poll_multishot(sqe, fd, events);
    sqe->user_data = tag;
    poller->under_way++;
}

static void prepare_cancel(struct poller *poller, uint64_t tag)
{
    struct io_uring_sqe *sqe = request(poller);
    io_uring_prep_cancel64(sqe, tag, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = NOBODY;
}

/* ---- Buffers that the ring receives into -------------------------------------------------------------------- */

static bool has_free(struct cr__buffers *buffers)
{
    return buffers->slab.free || atomic_load_explicit(&buffers->slab.returned, memory_order_relaxed);
}

/* Memory that was never used is only taken when the ring runs low: what came in this turn may be back before the next. */
static void give_buffers(struct poller *poller)
{
    struct cr__buffers *buffers = &poller->common.buffers;
    bool low = poller->missing_count >= GIVEN / 2;
    int given = 0;
    while (poller->missing_count > 0 && (low || has_free(buffers)) &&
           atomic_load_explicit(&buffers->out, memory_order_relaxed) < BUFFERS_OUT_MAX) {
        struct cr__buffer *buffer = cr__buffer_get(buffers);
        if (!buffer)
            break; /* who wants to receive finds less, or none, and asks the kernel */
        uint16_t slot = poller->missing[--poller->missing_count];
        poller->given[slot] = buffer;
        io_uring_buf_ring_add(poller->ring_of_buffers, buffer->bytes, CR__BUFFER_BYTES, slot, io_uring_buf_ring_mask(GIVEN), given++);
    }
    if (given > 0)
        io_uring_buf_ring_advance(poller->ring_of_buffers, given);
}

static struct cr__buffer *buffer_of(struct poller *poller, const struct io_uring_cqe *cqe)
{
    if (!(cqe->flags & IORING_CQE_F_BUFFER))
        return NULL;
    uint16_t slot = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    struct cr__buffer *buffer = poller->given[slot];
    poller->given[slot] = NULL;
    poller->missing[poller->missing_count++] = slot;
    buffer->at = 0;
    buffer->end = cqe->res > 0 ? (uint16_t)cqe->res : 0;
    return buffer;
}

/* ---- Watching ----------------------------------------------------------------------------------------------- */

static void mark(struct cr__pollable *p, unsigned bits)
{
    atomic_fetch_or_explicit(&p->watched, (uint8_t)bits, memory_order_relaxed);
}

static void arm_ahead(struct poller *poller, struct cr__pollable *p)
{
    struct io_uring_sqe *sqe = request(poller);
    if (p->ahead == CR__AHEAD_SOCKETS) {
        io_uring_prep_multishot_accept(sqe, p->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        sqe->user_data = tag_of_pollable(p, ACCEPT);
    } else {
        io_uring_prep_recv_multishot(sqe, p->fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = GROUP;
        sqe->user_data = tag_of_pollable(p, RECEIVE);
    }
    poller->under_way++;
    mark(p, CR__WATCHED_IN | CR__AHEAD);
}

static void arm_here(struct poller *poller, struct cr__pollable *p, enum cr__direction d)
{
    if (p->ahead == CR__AHEAD_NOTHING) {
        prepare_poll(poller, p->fd, EDGES, tag_of_pollable(p, BOTH));
        mark(p, CR__WATCHED_IN | CR__WATCHED_OUT);
    } else if (d == CR__OUT) {
        prepare_poll(poller, p->fd, POLLOUT, tag_of_pollable(p, OUT_ONLY));
        mark(p, CR__WATCHED_OUT);
    } else if (p->ahead == CR__AHEAD_BYTES && (!p->wanted || poller->missing_count == GIVEN)) {
        struct io_uring_sqe *sqe = request(poller); /* without buffers the reader receives by itself, and next time we see */
        io_uring_prep_poll_add(sqe, p->fd, POLLIN | POLLRDHUP | POLLPRI);
        sqe->user_data = tag_of_pollable(p, ONCE_IN);
        poller->under_way++;
        atomic_fetch_and_explicit(&p->watched, (uint8_t)~CR__AHEAD, memory_order_relaxed);
        mark(p, CR__WATCHED_IN);
    } else {
        arm_ahead(poller, p);
    }
}

/* Another worker wants a direction watched of what is watched here. */
struct wish {
    struct cr__post post;
    struct cr__pollable *p;
    uint16_t generation;
    uint8_t direction;
};

static void on_wish(struct cr__worker *worker, struct cr__post *post)
{
    struct wish *wish = CR__CONTAINER(post, struct wish, post);
    struct cr__pollable *p = wish->p;
    cr__lock(worker, &p->lock);
    if (atomic_load_explicit(&p->generation, memory_order_relaxed) == wish->generation)
        arm_here(worker->poller, p, wish->direction);
    cr__unlock(worker, &p->lock);
    cr__mem_free(wish, sizeof(*wish), CR__MEM_OTHER);
}

/* By any worker; p->worker says whose ring it is. */
static int arm(struct cr__worker *worker, struct cr__pollable *p, enum cr__direction d)
{
    if (p->worker == worker->index) {
        arm_here(worker->poller, p, d);
        return 0;
    }
    struct wish *wish = cr__mem_alloc(sizeof(*wish), CR__MEM_OTHER);
    if (!wish)
        return -ENOMEM;
    *wish = (struct wish){.post.fn = on_wish, .p = p, .generation = p->generation, .direction = (uint8_t)d};
    /* it will be; until then nobody else receives, since that would be in another order */
    mark(p, d == CR__IN && p->ahead != CR__AHEAD_NOTHING ? CR__WATCHED_IN | CR__AHEAD : CR__WATCHED_IN << d);
    cr__post(worker->sched->workers[p->worker], &wish->post);
    return 0;
}

static int watch(struct cr__worker *worker, struct cr__poll_watch *w)
{
    prepare_poll(worker->poller, w->fd, POLLIN, tag_of(w, 0, WATCH));
    return 0;
}

/* io_uring takes what can't be polled for ready, once; epoll says so, and knows what was added before. */
static int add(struct cr__worker *worker, struct cr__pollable *p)
{
    struct poller *poller = worker->poller;
    struct epoll_event none = {0};
    int r = cr__os_epoll_ctl(poller->foreign, EPOLL_CTL_ADD, p->fd, &none);
    return r == -ENOSPC ? -ENOMEM : r;
}

/* ---- Closing ------------------------------------------------------------------------------------------------ */

/* The requests of a generation that is over. Returns whether there are any. */
static bool cancel_all(struct poller *poller, struct cr__pollable *p)
{
    unsigned watched = atomic_load_explicit(&p->watched, memory_order_relaxed);
    unsigned generation = (uint16_t)(atomic_load_explicit(&p->generation, memory_order_relaxed) - 1);
    if (watched & CR__AHEAD)
        prepare_cancel(poller, tag_of(p, generation, p->ahead == CR__AHEAD_SOCKETS ? ACCEPT : RECEIVE));
    else if (watched & CR__WATCHED_IN)
        prepare_cancel(poller, tag_of(p, generation, p->ahead == CR__AHEAD_NOTHING ? BOTH : ONCE_IN));
    if ((watched & CR__WATCHED_OUT) && p->ahead != CR__AHEAD_NOTHING)
        prepare_cancel(poller, tag_of(p, generation, OUT_ONLY));
    return watched != 0;
}

/* A request holds the socket open; so they are cancelled at once, in the call that closes it. */
static void close_here(struct cr__worker *worker, struct cr__pollable *p)
{
    struct poller *poller = worker->poller;
    if (cr__poll_unpollable(p) || !cancel_all(poller, p)) {
        flush(poller);
        cr__os_close(p->fd);
    } else {
        struct io_uring_sqe *sqe = request(poller);
        io_uring_prep_close(sqe, p->fd);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = NOBODY;
        io_uring_submit_and_get_events(&poller->ring);
    }
    cr__poll_released(worker, p);
}

static void on_close(struct cr__worker *worker, struct cr__post *post)
{
    close_here(worker, CR__CONTAINER(post, struct cr__pollable, closing));
}

static void close_fd(struct cr__worker *worker, struct cr__pollable *p)
{
    bool elsewhere = atomic_load_explicit(&p->watched, memory_order_relaxed) != 0 && !cr__poll_unpollable(p) && p->worker != worker->index;
    if (!elsewhere) {
        close_here(worker, p);
        return;
    }
    p->closing = (struct cr__post){.fn = on_close};
    cr__post(worker->sched->workers[p->worker], &p->closing);
}

/* ---- Requests that a coroutine waits for -------------------------------------------------------------------- */

/* The result is put into the node of the record, which is in no queue meanwhile: twice the number plus one. Until then there is what was asked for, times two. */
static void result_set(struct cr__record *record, int result)
{
    record->node.prev = (struct cr__wait_node *)((intptr_t)result * 2 + 1);
}

static bool has_result(const struct cr__record *record)
{
    return ((uintptr_t)record->node.prev & 1) != 0;
}

/* Neither cancelling nor a deadline ends this: the kernel has the caller's memory. */
static ssize_t await(struct cr__worker *worker, struct cr__record *me, enum cr__wait_kind kind, const void *object)
{
    struct cr__mask mask = cr__mask(me, CR_FOREVER);
    cr__wait_outside(worker, 1);
    while (!has_result(me)) {
        if (cr__wait_begin(worker, me, kind, object, CR_FOREVER) == 0)
            (void)cr__wait_suspend(worker, me, CR_FOREVER);
        worker = cr__worker_here();
    }
    cr__wait_outside(worker, -1);
    cr__unmask(me, mask);
    return ((intptr_t)me->node.prev - 1) / 2;
}

/* Submitted at once. */
static ssize_t transfer_at(struct cr__worker *worker, struct cr__record *me, int fd, enum cr__direction d, void *buf, size_t size_bytes,
                           int64_t offset)
{
    struct poller *poller = worker->poller;
    size_t most = cr__on_shared_stack(worker, me, buf) ? CR__BOUNCED_MAX_BYTES : TRANSFER_MAX;
    unsigned size = (unsigned)(size_bytes < most ? size_bytes : most);
    void *memory = cr__bounce_begin(worker, me, buf, size);
    if (!memory)
        return -ENOMEM;
    struct io_uring_sqe *sqe = request(poller);
    if (d == CR__IN)
        io_uring_prep_read(sqe, fd, memory, size, (uint64_t)offset);
    else
        io_uring_prep_write(sqe, fd, memory, size, (uint64_t)offset);
    sqe->user_data = tag_of(me, 0, FILED);
    poller->under_way++;
    me->node.prev = NULL;
    io_uring_submit(&poller->ring);
    ssize_t n = await(worker, me, CR__WAIT_BLOCKING, NULL);
    cr__bounce_end(memory, buf, d == CR__IN && n > 0 ? (size_t)n : 0);
    return n;
}

/* Of a request at the file's position the kernel moves that only if it ends at once, and not if its device tells of the end: past the page cache, which is a file system's choice as well as O_DIRECT's.
 * So it is told where, and the position is moved here. What has no position (a FIFO) is at -1. */
static ssize_t transfer(struct cr__worker *worker, struct cr__record *me, int fd, enum cr__direction d, void *buf, size_t size_bytes,
                        int64_t offset)
{
    if (offset >= 0)
        return transfer_at(worker, me, fd, d, buf, size_bytes, offset);
    int64_t position = cr__os_seek(fd, 0, SEEK_CUR);
    ssize_t n = transfer_at(worker, me, fd, d, buf, size_bytes, position < 0 ? -1 : position);
    if (n > 0 && position >= 0)
        cr__os_seek(fd, position + n, SEEK_SET);
    return n;
}

/* Goes out with the next turn, in one call with all others'. It is done by then: MSG_DONTWAIT. Only what failed, or was cut, tells (MSG_WAITALL makes the latter a
 * failure, too). */
static ssize_t send_later(struct cr__worker *worker, struct cr__record *me, struct cr__pollable *p, const void *buf, size_t size_bytes)
{
    struct poller *poller = worker->poller;
    if ((!worker->ready.head && !poller->senders) || cr__on_shared_stack(worker, me, buf))
        return -EOPNOTSUPP; /* alone, a send of its own is as good; and what lies on a shared stack goes before we leave that */
    struct io_uring_sqe *sqe = request(poller);
    size_t size = size_bytes < TRANSFER_MAX ? size_bytes : TRANSFER_MAX;
    io_uring_prep_send(sqe, p->fd, buf, size, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = tag_of(me, 0, SENT);
    me->node.prev = (struct cr__wait_node *)(size << 1);
    me->node.next = NULL;
    if (poller->senders)
        poller->last_sender->node.next = (void *)me;
    else
        poller->senders = me;
    poller->last_sender = me;
    return await(worker, me, CR__WAIT_WRITABLE, p);
}

/* ---- Completions -------------------------------------------------------------------------------------------- */

static void polled(struct cr__worker *worker, uint64_t tag, int res, bool last)
{
    struct cr__pollable *p = address_of(tag);
    enum kind kind = tag % KINDS;
    unsigned events = 0, gone = 0, bits = kind == BOTH ? CR__WATCHED_IN | CR__WATCHED_OUT : kind == OUT_ONLY ? CR__WATCHED_OUT : CR__WATCHED_IN;
    if (res > 0 && (res & (POLLRDHUP | POLLHUP | POLLERR | POLLPRI)))
        events |= CR__EVENT_IN | CR__EVENT_END;
    if (res > 0 && (res & POLLIN))
        events |= CR__EVENT_IN;
    if (res > 0 && (res & (POLLOUT | POLLHUP | POLLERR)))
        events |= CR__EVENT_OUT;
    if (last) { /* who waits tries, and watches anew if need be */
        gone = bits;
        events |= bits & CR__WATCHED_IN ? CR__EVENT_IN : 0;
        events |= bits & CR__WATCHED_OUT ? CR__EVENT_OUT : 0;
    }
    cr__poll_deliver(worker, p, (uint16_t)(tag >> ADDRESS_BITS), events, gone);
}

/* Of what is received, or accepted, ahead: a request that ends, or should. */
static void after_ahead(struct poller *poller, struct cr__pollable *p, uint64_t tag, bool last, bool full)
{
    unsigned watched = atomic_load_explicit(&p->watched, memory_order_relaxed);
    if (last)
        atomic_store_explicit(&p->watched, (uint8_t)(watched & ~(CR__WATCHED_IN | CR__AHEAD | CR__STOPPING)), memory_order_relaxed);
    else if (CR__UNLIKELY(full) && !(watched & CR__STOPPING)) {
        mark(p, CR__STOPPING);
        prepare_cancel(poller, tag);
    }
}

static bool of_this_generation(const struct cr__pollable *p, uint64_t tag)
{
    return atomic_load_explicit(&p->generation, memory_order_relaxed) == (uint16_t)(tag >> ADDRESS_BITS);
}

/* An end comes as the last completion, without data: the reader asks the kernel, which says so again. */
static void note_end(struct cr__pollable *p, int res)
{
    if (res == 0)
        atomic_store_explicit(&p->end, true, memory_order_relaxed);
    else if (res < 0 && res != -ENOBUFS && res != -ECANCELED && res != -EINTR && res != -EAGAIN && res != -ENOMEM)
        p->error = (uint8_t)-res;
}

static void received(struct cr__worker *worker, const struct io_uring_cqe *cqe, bool last)
{
    struct poller *poller = worker->poller;
    struct cr__pollable *p = address_of(cqe->user_data);
    struct cr__buffer *buffer = buffer_of(poller, cqe), *unused = buffer;
    if (poller->ending)
        return;
    cr__lock(worker, &p->lock);
    if (CR__LIKELY(of_this_generation(p, cqe->user_data))) {
        cr__count(&worker->counters.events, 1);
        if (CR__LIKELY(buffer && cqe->res > 0)) {
            cr__ahead_push(p, buffer);
            unused = NULL;
        } else {
            note_end(p, cqe->res);
        }
        after_ahead(poller, p, cqe->user_data, last, p->held >= CR__HELD_MAX);
        cr__poll_edge(worker, p, CR__IN);
    }
    cr__unlock(worker, &p->lock);
    if (unused)
        cr__buffer_put(&poller->common.buffers, unused);
}

/* An error is no more than an edge: who accepts asks the kernel, which says it again. */
static void accepted(struct cr__worker *worker, const struct io_uring_cqe *cqe, bool last)
{
    struct poller *poller = worker->poller;
    struct cr__pollable *p = address_of(cqe->user_data);
    bool kept = cqe->res < 0;
    if (!poller->ending) {
        cr__lock(worker, &p->lock);
        if (of_this_generation(p, cqe->user_data)) {
            cr__count(&worker->counters.events, 1);
            kept = kept || cr__ahead_push_socket(p, cqe->res);
            after_ahead(poller, p, cqe->user_data, last, p->accepted->count >= CR__ACCEPTED_MAX);
            cr__poll_edge(worker, p, CR__IN);
        }
        cr__unlock(worker, &p->lock);
    }
    if (!kept)
        cr__os_close(cqe->res);
}

static void filed(struct cr__worker *worker, struct cr__record *record, int res)
{
    result_set(record, res);
    cr__wake(worker, record, CR__WOKEN);
}

static void watched(struct poller *poller, struct cr__poll_watch *w, bool last)
{
    if (last && !poller->ending)
        prepare_poll(poller, w->fd, POLLIN, tag_of(w, 0, WATCH));
    if (!poller->looking && !poller->ending)
        w->fn(w->arg);
    else if (poller->late_count < LATE_MAX)
        poller->late[poller->late_count++] = w;
}

static void complete(struct cr__worker *worker, const struct io_uring_cqe *cqe)
{
    struct poller *poller = worker->poller;
    bool last = !(cqe->flags & IORING_CQE_F_MORE);
    enum kind kind = cqe->user_data % KINDS;
    if (last && kind != SENT)
        poller->under_way--;
    switch (kind) {
    case RECEIVE:
        received(worker, cqe, last);
        break;
    case ACCEPT:
        accepted(worker, cqe, last);
        break;
    case FILED:
        if (!poller->ending)
            filed(worker, address_of(cqe->user_data), cqe->res);
        break;
    case SENT: /* not all of it; else, without an address: a cancellation that came too late */
        if (cqe->user_data != NOBODY && !poller->ending)
            result_set(address_of(cqe->user_data), cqe->res);
        break;
    case WATCH:
        watched(poller, address_of(cqe->user_data), last);
        break;
    case BOTH:
    case ONCE_IN:
    case OUT_ONLY:
        if (!poller->ending)
            polled(worker, cqe->user_data, cqe->res, last);
        break;
    case KINDS:
        break;
    }
}

/* All sends have been submitted, and so they are done: those that failed, or were cut, have said so. */
static void wake_senders(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    struct cr__record *sender = poller->senders;
    if (!sender || io_uring_sq_ready(&poller->ring) > 0)
        return;
    poller->senders = NULL;
    while (sender) {
        struct cr__record *next = (struct cr__record *)(void *)sender->node.next;
        if (!has_result(sender))
            result_set(sender, (int)((uintptr_t)sender->node.prev >> 1));
        cr__wake(worker, sender, CR__WOKEN);
        sender = next;
    }
}

static void reap(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&poller->ring, head, cqe)
    {
        complete(worker, cqe);
        count++;
    }
    io_uring_cq_advance(&poller->ring, count);
    wake_senders(worker);
}

/* ---- A turn ------------------------------------------------------------------------------------------------- */

static void call_late(struct poller *poller)
{
    while (poller->late_count > 0) {
        struct cr__poll_watch *w = poller->late[--poller->late_count];
        w->fn(w->arg);
    }
}

/* Whether the kernel has something to do for us. */
static bool anything(const struct poller *poller)
{
    return io_uring_sq_ready(&poller->ring) > 0 || !poller->deferred ||
           (IO_URING_READ_ONCE(*poller->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static int enter(struct poller *poller, int64_t timeout_ns)
{
    struct io_uring_cqe *unused;
    if (timeout_ns == 0 || poller->senders)
        return anything(poller) ? io_uring_submit_and_get_events(&poller->ring) : 0;
    if (timeout_ns < 0)
        return io_uring_submit_and_wait(&poller->ring, 1);
    struct __kernel_timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return io_uring_submit_and_wait_timeout(&poller->ring, &unused, 1, &timeout, NULL);
}

static int turn(struct cr__worker *worker, int64_t timeout_ns)
{
    struct poller *poller = worker->poller;
    if (CR__UNLIKELY(poller->late_count > 0))
        call_late(poller);
    give_buffers(poller);
    int r = enter(poller, timeout_ns);
    reap(worker);
    return r >= 0 || r == -EINTR || r == -ETIME || r == -EAGAIN || r == -EBUSY ? 0 : r;
}

static void look(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    poller->looking = true;
    give_buffers(poller);
    enter(poller, 0);
    reap(worker);
    poller->looking = false;
}

static void kick(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    uint64_t one = 1;
    cr__os_write(poller->kick_watch.fd, &one, sizeof(one)); /* each write is an edge: nobody reads it */
}

static void kicked(void *arg)
{
    (void)arg; /* the loop looks around by itself */
}

/* ---- Its life ----------------------------------------------------------------------------------------------- */

/* Closing the ring would leave requests to the kernel, and with them sockets open, for a while. */
static void end_requests(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    poller->ending = true;
    struct io_uring_sqe *sqe = request(poller);
    io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = NOBODY;
    for (int i = 0; i < 100 && poller->under_way > 0; i++) {
        enter(poller, 10 * CR_MS);
        reap(worker);
    }
}

static void close_ring(struct poller *poller)
{
    io_uring_queue_exit(&poller->ring);
    if (poller->ring_of_buffers)
        cr__mem_unmap(poller->ring_of_buffers, GIVEN * sizeof(struct io_uring_buf), CR__MEM_BUFFERS);
    cr__slab_fini(&poller->common.buffers.slab);
    if (poller->foreign >= 0)
        cr__os_close(poller->foreign);
    if (poller->kick_watch.fd >= 0)
        cr__os_close(poller->kick_watch.fd);
}

static void fini(struct cr__worker *worker)
{
    struct poller *poller = worker->poller;
    end_requests(worker);
    close_ring(poller);
    cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
}

static const struct cr__poll_ops ops = {
    .loop = {.poll = turn, .kick = kick},
    .fini = fini,
    .watch = watch,
    .add = add,
    .arm = arm,
    .close = close_fd,
    .look = look,
    .transfer = transfer,
    .send = send_later,
};

/* A ring with as much as the kernel has: since 6.1, since 5.19, before. */
static int open_ring(struct poller *poller)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        0,
    };
    int r = -EINVAL;
    for (size_t i = 0; r == -EINVAL && i < CR__COUNT(flags); i++) {
        struct io_uring_params params = {.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, .cq_entries = COMPLETIONS};
        r = io_uring_queue_init_params(SUBMISSIONS, &poller->ring, &params);
        poller->deferred = i == 0;
    }
    return r;
}

/* Multishot polls (5.13), and completions that are skipped (5.17). */
static bool has_what_is_needed(const struct poller *poller)
{
    const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP | IORING_FEAT_RW_CUR_POS;
    return (poller->ring.features & needed) == needed;
}

/* What comes ahead needs rings of buffers and multishot accepting (5.19), and multishot receiving, which came before DEFER_TASKRUN (6.1). */
static int open_ahead(struct poller *poller)
{
    if (!poller->deferred)
        return 0;
    poller->ring_of_buffers = cr__mem_map(GIVEN * sizeof(struct io_uring_buf), CR__MEM_BUFFERS);
    if (!poller->ring_of_buffers)
        return -ENOMEM;
    struct io_uring_buf_reg registration = {.ring_addr = (uintptr_t)poller->ring_of_buffers, .ring_entries = GIVEN, .bgid = GROUP};
    if (io_uring_register_buf_ring(&poller->ring, &registration, 0) < 0)
        return 0;
    for (unsigned i = 0; i < GIVEN; i++)
        poller->missing[poller->missing_count++] = (uint16_t)(GIVEN - 1 - i);
    poller->common.ahead = true;
    return 0;
}

static int open_rest(struct cr__worker *worker, struct poller *poller, const char **why)
{
    *why = "a kernel since 5.17 is needed";
    if (!has_what_is_needed(poller))
        return -ENOSYS;
    *why = NULL;
    int r = open_ahead(poller);
    if (r < 0)
        return r;
    io_uring_register_ring_fd(&poller->ring); /* without it a call takes a little longer */
    *why = "epoll_create1";
    poller->foreign = cr__os_epoll_create();
    if (poller->foreign < 0)
        return poller->foreign;
    *why = "eventfd";
    poller->kick_watch = (struct cr__poll_watch){.fd = cr__os_eventfd(), .fn = kicked};
    if (poller->kick_watch.fd < 0)
        return poller->kick_watch.fd;
    worker->poller = poller;
    worker->poller_ops = &ops.loop;
    return watch(worker, &poller->kick_watch);
}

static int open_poller(struct cr__worker *worker, struct poller *poller, const char **why)
{
    *why = "io_uring_setup";
    int r = open_ring(poller);
    if (r < 0)
        return r;
    poller->foreign = poller->kick_watch.fd = -1;
    cr__slab_init(&poller->common.buffers.slab, sizeof(struct cr__buffer), CR__MEM_BUFFERS);
    r = open_rest(worker, poller, why);
    if (r < 0)
        close_ring(poller);
    return r;
}

int cr__uring_init(struct cr__worker *worker, const char **why)
{
    *why = NULL;
    struct poller *poller = cr__mem_alloc_aligned(sizeof(*poller), CR__MEM_OTHER);
    if (!poller)
        return -ENOMEM;
    int r = open_poller(worker, poller, why);
    if (r < 0)
        cr__mem_free(poller, sizeof(*poller), CR__MEM_OTHER);
    return r;
}
