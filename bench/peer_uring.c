/* Peer: an echo server written by hand around io_uring: the limit that the kernel's completions set.
 *
 *     peer_uring PORT WORKERS
 *
 * Each worker has a ring of its own, which it alone enters. One request accepts all connections into the ring's
 * file table, and one per connection receives all that comes, into buffers that the worker provides. What was
 * received is sent from the buffer that it came in. As with peer_epoll, a client that doesn't read is cut off:
 * sending never waits. So the kernel is done with the buffers when the call that submits has returned; only failed
 * sends complete visibly. */
#include <errno.h>
#include <liburing.h>
#include "listen.h"

/* The kernel takes the buffers in turns, and completes a few dozen requests a call: more of them would only be
 * colder. A buffer is an odd number of cache lines, so that the first ones, which most messages fit in, are spread
 * over the cache. */
enum { BUFFERS = 256, BUFFER_BYTES = 33 * 64, SUBMISSIONS = 1024, COMPLETIONS = 16384, FILES = 16384 };

enum operation { ACCEPT, RECEIVE, SEND, SHUT_DOWN, CLOSE };

struct worker {
    struct io_uring ring;
    struct io_uring_buf_ring *provided;
    int listen_fd;
    int lent_count; /* buffers of which sends have been prepared since the last submission */
    unsigned short lent[BUFFERS];
    char buffers[BUFFERS][BUFFER_BYTES];
};

static void give_back_lent(struct worker *w)
{
    for (int i = 0; i < w->lent_count; i++)
        io_uring_buf_ring_add(w->provided, w->buffers[w->lent[i]], BUFFER_BYTES, w->lent[i],
                              io_uring_buf_ring_mask(BUFFERS), i);
    io_uring_buf_ring_advance(w->provided, w->lent_count);
    w->lent_count = 0;
}

static void submit(struct worker *w, unsigned completions)
{
    int submitted = io_uring_submit_and_wait(&w->ring, completions);
    bench_need(submitted >= 0 || submitted == -EINTR, "io_uring_submit_and_wait");
    give_back_lent(w);
}

static struct io_uring_sqe *next_entry(struct worker *w)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&w->ring);
    if (entry)
        return entry;
    submit(w, 0);
    return io_uring_get_sqe(&w->ring);
}

/* Completions say what they are about: the file above the operation. */
static void mark(struct io_uring_sqe *entry, enum operation operation, int file)
{
    io_uring_sqe_set_data64(entry, (uint64_t)file << 8 | operation);
}

static void prepare_accept(struct worker *w)
{
    struct io_uring_sqe *entry = next_entry(w);
    io_uring_prep_multishot_accept_direct(entry, w->listen_fd, NULL, NULL, 0);
    mark(entry, ACCEPT, 0);
}

static void prepare_receive(struct worker *w, int file)
{
    struct io_uring_sqe *entry = next_entry(w);
    io_uring_prep_recv_multishot(entry, file, NULL, 0, 0);
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT);
    entry->buf_group = 0;
    mark(entry, RECEIVE, file);
}

static void prepare_send(struct worker *w, int file, unsigned short buffer, int bytes)
{
    struct io_uring_sqe *entry = next_entry(w);
    io_uring_prep_send(entry, file, w->buffers[buffer], (size_t)bytes, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS);
    mark(entry, SEND, file);
    w->lent[w->lent_count++] = buffer;
}

/* Ends the request that receives; its last completion closes. */
static void prepare_shutdown(struct worker *w, int file)
{
    struct io_uring_sqe *entry = next_entry(w);
    io_uring_prep_shutdown(entry, file, SHUT_RDWR);
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS);
    mark(entry, SHUT_DOWN, file);
}

static void prepare_close(struct worker *w, int file)
{
    struct io_uring_sqe *entry = next_entry(w);
    io_uring_prep_close_direct(entry, (unsigned)file);
    io_uring_sqe_set_flags(entry, IOSQE_CQE_SKIP_SUCCESS);
    mark(entry, CLOSE, file);
}

static void accepted(struct worker *w, const struct io_uring_cqe *done)
{
    if (done->res >= 0)
        prepare_receive(w, done->res);
    if (!(done->flags & IORING_CQE_F_MORE))
        prepare_accept(w);
}

/* Without a free buffer, or when the kernel has had enough of it, the request ends and is made again. */
static void received(struct worker *w, const struct io_uring_cqe *done, int file)
{
    if (done->res > 0)
        prepare_send(w, file, (unsigned short)(done->flags >> IORING_CQE_BUFFER_SHIFT), done->res);
    if (done->flags & IORING_CQE_F_MORE)
        return;
    if (done->res > 0 || done->res == -ENOBUFS)
        prepare_receive(w, file);
    else
        prepare_close(w, file);
}

static void completed(struct worker *w, const struct io_uring_cqe *done)
{
    int file = (int)(done->user_data >> 8);
    switch ((enum operation)(done->user_data & 0xff)) {
    case ACCEPT:
        accepted(w, done);
        break;
    case RECEIVE:
        received(w, done, file);
        break;
    case SEND:
        prepare_shutdown(w, file);
        break;
    case SHUT_DOWN: /* was closed already */
    case CLOSE:
        break;
    }
}

static void provide_buffers(struct worker *w)
{
    size_t bytes = BUFFERS * sizeof(struct io_uring_buf);
    struct io_uring_buf_reg registration = {.ring_entries = BUFFERS};
    w->provided = aligned_alloc(4096, bytes);
    bench_need(w->provided != NULL, "aligned_alloc");
    memset(w->provided, 0, bytes);
    registration.ring_addr = (uintptr_t)w->provided;
    bench_need(io_uring_register_buf_ring(&w->ring, &registration, 0) == 0, "io_uring_register_buf_ring");
    for (w->lent_count = 0; w->lent_count < BUFFERS; w->lent_count++)
        w->lent[w->lent_count] = (unsigned short)w->lent_count;
    give_back_lent(w);
}

static void *serve(void *port)
{
    struct worker *w = calloc(1, sizeof *w);
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                              IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                                     .cq_entries = COMPLETIONS};
    bench_need(w != NULL, "calloc");
    errno = -io_uring_queue_init_params(SUBMISSIONS, &w->ring, &params);
    bench_need(errno == 0, "io_uring_queue_init_params");
    bench_need(io_uring_register_ring_fd(&w->ring) == 1, "io_uring_register_ring_fd");
    bench_need(io_uring_register_files_sparse(&w->ring, FILES) == 0, "io_uring_register_files_sparse");
    provide_buffers(w);
    w->listen_fd = listen_on(*(uint16_t *)port, 0);
    prepare_accept(w);
    for (;;) {
        struct io_uring_cqe *done;
        unsigned head, count = 0;
        submit(w, 1);
        io_uring_for_each_cqe(&w->ring, head, done)
        {
            completed(w, done);
            count++;
        }
        io_uring_cq_advance(&w->ring, count);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    return serve_on_threads(argc, argv, serve);
}
