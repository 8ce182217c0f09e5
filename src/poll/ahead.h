/* What has come to a pollable before anybody asked for it: bytes in buffers, accepted sockets. Part of poll.h.
 *
 * A pollable's buffers form a ring, oldest first, of those that are held (nobody has taken their bytes yet) and of those that are lent. Who receives
 * takes what is held first. When nothing is, either more is under way (AHEAD), or the kernel is to be asked.
 *
 * Bounds: a connection whose owner does not read is no longer received for when CR__HELD_MAX buffers are held: TCP's window then pushes the peer back.
 * (What one turn of the ring brings on top may be as much as the worker has given to the ring.) A listener's queue stops in the same way at
 * CR__ACCEPTED_MAX. An idle connection holds nothing.
 *
 * Rejected: an object beside each connection that receives ahead (128 bytes more for each idle one); to receive for foreign fds, too (whoever else holds
 * the socket would miss what was taken ahead). */
#ifndef CR__AHEAD_H
#define CR__AHEAD_H

#include <sys/uio.h>

#include "poll/buffer.h"
#include "poll/poll.h"

#define CR__HELD_MAX 8
#define CR__ACCEPTED_MAX 64 /* sockets; a burst may bring as many more as the kernel's backlog held */

struct cr__accepted {
    unsigned first, count, room;
    int fds[];
};

/* From now on it may be received ahead for a connection just opened; nothing happens where the poller can't. backlog: a listener's. */
void cr__ahead_allow(struct cr__worker *worker, struct cr__pollable *p, enum cr__ahead what, unsigned backlog);

/* 0: nothing is held, and the kernel is to be asked. -EAGAIN: nothing is held, but more is under way; another error: it came after the bytes. More: what
 * was taken. read copies; take hands over the oldest buffer, as lent. */
ssize_t cr__ahead_read(struct cr__worker *worker, struct cr__pollable *p, const struct iovec *iov, int count);
ssize_t cr__ahead_take(struct cr__worker *worker, struct cr__pollable *p, struct cr__buffer **out);

/* The same, without taking anything: 1. */
int cr__ahead_look(struct cr__worker *worker, struct cr__pollable *p);

/* A socket that was accepted ahead; -EAGAIN: it is waited for one; -EINVAL: the kernel is to be asked. */
int cr__ahead_accept(struct cr__worker *worker, struct cr__pollable *p);

/* A buffer that the caller has received into, which goes out to the user; and back. Returning one that is not out is ignored. */
struct cr__buffer *cr__lent_get(struct cr__worker *worker);
void cr__lent_put(struct cr__worker *worker, struct cr__buffer *buffer); /* one that has not gone out */
void cr__lent_add(struct cr__worker *worker, struct cr__pollable *p, struct cr__buffer *buffer);
void cr__lent_return(struct cr__worker *worker, struct cr__pollable *p, const void *buffer);

/* Drops all that is held and lent; closes sockets that nobody has taken. */
void cr__ahead_drop(struct cr__worker *worker, struct cr__pollable *p);

/* Has what the kernel has by now brought, where it is this worker's to ask: for who must not wait. */
void cr__ahead_fetch(struct cr__worker *worker, struct cr__pollable *p);

/* Within the room, with p->lock held: adds what has come. False: no room (a socket). */
void cr__ahead_push(struct cr__pollable *p, struct cr__buffer *buffer);
bool cr__ahead_push_socket(struct cr__pollable *p, int fd);

#endif
