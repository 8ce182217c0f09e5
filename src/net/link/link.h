/* What a link is, to those who make one and to those who stand on one. Public side: crore/link.h.
 *
 * The kinds: mem.c (two ends in this process), shm.c (in two), pcap.c (records what passes through another one, or replays), impair.c (spoils what passes through another one). One
 * that wraps another stands on it as anybody does: it sets the inner one's `ready`, `user` and clock, and closes it. */
#ifndef CR__LINK_H
#define CR__LINK_H

#include <crore/link.h>

#include "sched/sched.h"

struct cr__link_ops {
    int (*recv)(struct cr_link *link, struct cr_packet **packets, int most);
    int (*send)(struct cr_link *link, struct cr_packet **packets, int count);
    /* Whether there is something to receive now; if not, `ready` of the link is called once, on its worker's thread, when there is. (Once more than it was armed is possible, too:
     * then there may be nothing.) */
    bool (*arm)(struct cr_link *link);
    /* When recv may have something that no other party brings (a delayed packet, a replayed one), or has something to do that nobody sees (what is delayed on its way out leaves in
     * recv, send and arm); INT64_MAX: never. */
    int64_t (*due_ns)(const struct cr_link *link);
    void (*info)(const struct cr_link *link, struct cr_link_info *out);
    void (*close)(struct cr_link *link); /* frees it */
};

/* Every kind of link begins with this. */
struct cr_link {
    const struct cr__link_ops *ops;
    struct cr__worker *worker;             /* whose it is; NULL: nobody's scheduler runs (tests in virtual time) */
    /* set by who stands on it, or by cr_link_wait. It marks, or wakes somebody, and calls nothing of a link: it may be called out of the other end's send */
    void (*ready)(struct cr_link *link);
    void *user;                            /* theirs */
    int64_t (*now_ns)(struct cr_link *link); /* the clock that it goes by; set by open, replaced by who has another one */

    /* of those who make links */
    struct cr__packet_cache *packets;      /* the worker's; without one, */
    struct cr__packet_cache own_packets;
    struct cr_link_info told;              /* what it says of itself, but for `up` */
    struct cr__record *waiter;             /* in cr_link_wait */
    struct cr__service service;            /* of one that is a program's (cr_link_open): has no turns, but sees the runtime's end */
};

/* As cr_link_open, for whom no scheduler need run: mem:, pcap: and impair: only then. spec need not live on. Who opens it so closes it, before its worker ends. */
int cr__link_open(struct cr_link **out, const char *spec, struct cr__worker *worker);

/* Of a specification that was refused with -EINVAL: what is wrong with it, as far as its text tells. */
const char *cr__link_wrong(const char *spec);

/* Closes one that cr__link_open has opened, on its worker's thread. (cr_link_close does, too.) */
void cr__link_close(struct cr_link *link);

#endif
