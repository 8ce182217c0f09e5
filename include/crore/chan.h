/* Channels, select over them, and broadcast: how coroutines pass values.
 *
 *     struct cr_chan *numbers;
 *     if (cr_chan_create(&numbers, sizeof(int), 0) < 0)
 *         return;
 *     ...
 *     int n = 7;
 *     if (cr_chan_send(numbers, &n) < 0)    in one coroutine
 *         return;
 *     ...
 *     while (cr_chan_recv(numbers, &n) == 0)   in another: until the channel is closed, and empty
 *         use(n);
 *
 * Values are copied, item_size_bytes each. For the coroutines of one runtime, on whichever workers; calls that end in _remote are for
 * threads that run none. Calls that wait return, besides what is named: -ETIMEDOUT, -ECANCELED (nothing was sent, or taken), -EPERM
 * outside a scheduled coroutine; their _try form never suspends, and returns -EAGAIN where it would. Waiters are served first come,
 * first served. Objects must not be NULL where it is not said that they may.
 *
 * Source: Hoare, "Communicating Sequential Processes", CACM 1978; closing and select behave as in Go. */
#ifndef CRORE_CHAN_H
#define CRORE_CHAN_H

#include <crore/rt.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_chan;

/* Makes a channel.
 *   item_size_bytes: of each value; 0 for a channel of bare signals (items may then be NULL)
 *   capacity:        how many values it holds that nobody has received yet; 0: unbuffered, a send waits for its receiver
 * Returns 0, -EINVAL (capacity times size above 1 GiB), -ENOMEM. Any thread. */
CR_API CR_CHECKED int cr_chan_create(struct cr_chan **out, size_t item_size_bytes, size_t capacity);

/* Frees it. Nobody may wait on it: -EBUSY then, and it stays; also as long as one whose deadline has come, or who was cancelled, is on its way out. Who was
 * woken by closing does not count. Values in it are dropped. NULL is ignored. Any thread. */
CR_API int cr_chan_destroy(struct cr_chan *chan);

/* Sends *item. Suspends while the channel is full, or unbuffered and nobody receives.
 * Returns 0; -EPIPE: it is, or was meanwhile, closed (the item was not sent). */
CR_API CR_CHECKED int cr_chan_send(struct cr_chan *chan, const void *item);
CR_API CR_CHECKED int cr_chan_send_until(struct cr_chan *chan, const void *item, int64_t deadline_ns);
CR_API CR_CHECKED int cr_chan_send_try(struct cr_chan *chan, const void *item);

/* Receives into *item. Suspends while there is nothing.
 * Returns 0; -EPIPE: closed, and all that was sent has been received (*item is zeroed). */
CR_API CR_CHECKED int cr_chan_recv(struct cr_chan *chan, void *item);
CR_API CR_CHECKED int cr_chan_recv_until(struct cr_chan *chan, void *item, int64_t deadline_ns);
CR_API CR_CHECKED int cr_chan_recv_try(struct cr_chan *chan, void *item);

/* Closes: receivers get what is left and then -EPIPE, senders -EPIPE at once. Returns 0; -EPIPE if it was closed before; -EPERM. Does not
 * suspend. */
CR_API int cr_chan_close(struct cr_chan *chan);

/* How many values wait in it, and how many it holds. A snapshot: others may change it at once. */
CR_API size_t cr_chan_length(const struct cr_chan *chan);
CR_API size_t cr_chan_capacity(const struct cr_chan *chan);

/* From threads that are no worker of a runtime: sends to, and closes, a channel of rt's coroutines. cr_chan_send_remote blocks the thread until the
 * item is sent, or closed means it never will be. Returns as cr_chan_send; -EPERM from a worker; -ENOMEM; -ESHUTDOWN when the runtime ended.
 *
 * A thread that is yet to send keeps no runtime going: if all coroutines wait, and none for what may come from outside, cr_run ends with -EDEADLK. A
 * runtime of cr_rt_start waits on. In one of cr_run, let a coroutine wait for an event (crore/outside.h) that the thread sets when it will send no more,
 * or for the thread itself, by cr_blocking. */
CR_API CR_CHECKED int cr_chan_send_remote(struct cr_rt *rt, struct cr_chan *chan, const void *item);
CR_API CR_CHECKED int cr_chan_close_remote(struct cr_rt *rt, struct cr_chan *chan);

/* ---- Select ------------------------------------------------------------------------------------------------- */

enum cr_case_op { CR_RECV, CR_SEND };

struct cr_case {
    enum cr_case_op op;
    struct cr_chan *chan; /* NULL: this case never comes */
    void *item;           /* CR_RECV: receives; CR_SEND: is sent, not changed */
    int result;           /* of the case that came: 0, or -EPIPE (closed; as cr_chan_send and _recv say) */
};

/* Waits for one of `count` sends and receives to be possible, and does it: exactly one, by chance among those that are possible at
 * once. The same channel may occur more than once.
 * Returns the index of the case that came; -EINVAL: nothing to wait for (count 0, or all channels NULL); -ENOMEM (none is possible at once,
 * and there is no memory to wait for them; what a coroutine has waited with is kept for its next select); -EAGAIN (_try: none is possible: the default). */
CR_API CR_CHECKED int cr_select(struct cr_case *cases, int count);
CR_API CR_CHECKED int cr_select_until(struct cr_case *cases, int count, int64_t deadline_ns);
CR_API CR_CHECKED int cr_select_try(struct cr_case *cases, int count);

/* ---- Broadcast ---------------------------------------------------------------------------------------------- */

/* Each subscriber receives each item that is sent after it subscribed. Sending never waits: the last `capacity` items are kept, and a
 * subscriber that falls behind further loses the oldest, and is told how many. */
struct cr_broadcast;
struct cr_subscriber {
    struct cr_broadcast *broadcast;
    uint64_t next; /* number of the item that comes next */
};

/* Returns 0, -EINVAL (capacity 0, or too large, as above), -ENOMEM. */
CR_API CR_CHECKED int cr_broadcast_create(struct cr_broadcast **out, size_t item_size_bytes, size_t capacity);

/* Frees it; -EBUSY while somebody waits in it, or was woken and has not returned yet. */
CR_API int cr_broadcast_destroy(struct cr_broadcast *broadcast);

/* Sends to all subscribers. Returns 0; -EPIPE (closed); -EPERM. Does not suspend. */
CR_API CR_CHECKED int cr_broadcast_send(struct cr_broadcast *broadcast, const void *item);

/* Closes: subscribers get what is left, and then -EPIPE. Returns 0; -EPIPE if it was closed before; -EPERM. */
CR_API int cr_broadcast_close(struct cr_broadcast *broadcast);

/* Makes *subscriber, which is the caller's to keep and needs no clean-up, receive what is sent from now on. Does not suspend. */
CR_API void cr_broadcast_subscribe(struct cr_broadcast *broadcast, struct cr_subscriber *subscriber);

/* Receives the next item. One coroutine at a time per subscriber. Returns 0; n > 0: n items were lost, *item is untouched, and the next call gets the
 * oldest that is left; -EPIPE (closed, and nothing left). */
CR_API CR_CHECKED int64_t cr_broadcast_recv(struct cr_subscriber *subscriber, void *item);
CR_API CR_CHECKED int64_t cr_broadcast_recv_until(struct cr_subscriber *subscriber, void *item, int64_t deadline_ns);
CR_API CR_CHECKED int64_t cr_broadcast_recv_try(struct cr_subscriber *subscriber, void *item);

#ifdef __cplusplus
}
#endif
#endif
