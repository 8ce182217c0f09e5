/* What other threads have for a worker, and where it sleeps: one word.
 *
 *     empty --push--> a chain of links, newest first --take--> empty
 *     empty --sleep, by the owner--> ASLEEP --push or rouse, by anyone--> a chain, or empty: and whoever did that kicks the owner's poller
 *
 * Multi producer, single consumer. The look whether there is something, and going to sleep, are one step, so nothing can fall between
 * them. A kick that comes late, when the owner is awake again, costs it a look at its poller. */
#ifndef CR__INBOX_H
#define CR__INBOX_H

#include <stdatomic.h>

#include "base/base.h"

/* A link is the first word of what is sent; its owner says by the lowest bit of the item what it is. */
struct cr__inbox_link {
    uintptr_t next;
};

#define CR__INBOX_ASLEEP ((uintptr_t)2)
#define CR__INBOX_TAGS ((uintptr_t)1)

struct cr__inbox {
    _Atomic uintptr_t head;
};

/* Sends an item: a link's address, and perhaps a tag. Returns whether the owner sleeps: the caller kicks it then. */
static inline bool cr__inbox_push(struct cr__inbox *inbox, struct cr__inbox_link *link, uintptr_t tag)
{
    uintptr_t head = atomic_load_explicit(&inbox->head, memory_order_relaxed);
    do
        link->next = head == CR__INBOX_ASLEEP ? 0 : head;
    while (!atomic_compare_exchange_weak_explicit(&inbox->head, &head, (uintptr_t)link | tag, memory_order_release,
                                                  memory_order_relaxed)); /* pairs with the acquire in take */
    return head == CR__INBOX_ASLEEP;
}

/* By the owner: everything, newest first; 0: nothing. Awake afterwards. */
static inline uintptr_t cr__inbox_take(struct cr__inbox *inbox)
{
    if (atomic_load_explicit(&inbox->head, memory_order_relaxed) == 0)
        return 0;
    uintptr_t head = atomic_exchange_explicit(&inbox->head, 0, memory_order_acquire); /* pairs with the release in push */
    return head == CR__INBOX_ASLEEP ? 0 : head;
}

/* By the owner: from now on senders kick it. False if something has come. */
static inline bool cr__inbox_sleep(struct cr__inbox *inbox)
{
    uintptr_t empty = 0;
    return atomic_compare_exchange_strong_explicit(&inbox->head, &empty, CR__INBOX_ASLEEP, memory_order_relaxed, memory_order_relaxed);
}

/* Without sending anything: returns whether the owner slept, and is the caller's to kick. */
static inline bool cr__inbox_rouse(struct cr__inbox *inbox)
{
    uintptr_t asleep = CR__INBOX_ASLEEP;
    return atomic_load_explicit(&inbox->head, memory_order_relaxed) == CR__INBOX_ASLEEP &&
           atomic_compare_exchange_strong_explicit(&inbox->head, &asleep, 0, memory_order_release,
                                                   memory_order_relaxed); /* pairs with the fence in cr__worker_get_up */
}

/* By anyone. False also where the owner has been roused, and is not up yet. */
static inline bool cr__inbox_asleep(struct cr__inbox *inbox)
{
    return atomic_load_explicit(&inbox->head, memory_order_relaxed) == CR__INBOX_ASLEEP;
}

static inline bool cr__inbox_empty(struct cr__inbox *inbox)
{
    uintptr_t head = atomic_load_explicit(&inbox->head, memory_order_relaxed);
    return head == 0 || head == CR__INBOX_ASLEEP;
}

#endif
