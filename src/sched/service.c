/* Services: what a worker does beside running coroutines, such as driving a network. Each has turns on the worker's own stack, from its loop: when it was poked, or the time has
 * come that it has named. What is not in it: any waiting. Who waits for what a service brings is a coroutine like others, which counts itself among those that wait for what
 * comes from outside (cr__wait_outside), so a runtime whose coroutines wait for a network is not taken for stuck; and a service that nobody waits for does not keep a runtime
 * from ending.
 *
 * A poke by the service's own worker is a flag. Another worker's is a post, of which there is one: `posted` says that it is under way, and then the next poke is as good as done.
 * Threads that are no workers can't poke: by the time their post is refused, since the runtime has ended, the service may be gone.
 *
 * Invariants:
 *   1. A service that was poked has a turn before its worker sleeps.
 *   2. While `posted` is set the service's memory is not given back.
 *   3. A program without services pays one look at a pointer for each turn of the loop, and one before it sleeps.
 *
 * Rejected: a coroutine for each network (it would be woken and switched to for each burst, and be last in the queue behind those that wait for what it brings). */
#include "sched/idle.h"
#include "sched/monitor.h"

#define ROUNDS 4 /* one service's turn may poke another one, as two networks that talk to each other do: so often, before coroutines have their turn again */

void cr__service_open(struct cr__worker *w, struct cr__service *service)
{
    service->worker = w;
    service->next = w->services;
    w->services = service;
    cr__service_poke(service);
}

static void unlink_service(struct cr__worker *w, struct cr__service *service)
{
    struct cr__service **at = &w->services;
    while (*at != service)
        at = &(*at)->next;
    *at = service->next;
}

void cr__service_close(struct cr__service *service)
{
    struct cr__worker *w = service->worker;
    unlink_service(w, service);
    w->services_poked &= w->services != NULL; /* what the last one was poked for is nobody's */
    service->closed = true;
    if (!atomic_load_explicit(&service->posted, memory_order_relaxed)) /* nobody sets it any more */
        service->released(service);
}

/* ---- Poking from elsewhere ------------------------------------------------------------------------------------- */

static void arrive(struct cr__worker *w, struct cr__post *post)
{
    struct cr__service *service = CR__CONTAINER(post, struct cr__service, post);
    (void)w;
    /* acquire and release: before the turn that it is to bring about, which so sees what was done before a later poke that finds it set; pairs with the exchange in poke_remote */
    atomic_exchange_explicit(&service->posted, false, memory_order_acq_rel);
    if (service->closed)
        service->released(service);
    else
        cr__service_poke(service);
}

void cr__service_poke_remote(struct cr__service *service)
{
    struct cr__worker *to = service->worker, *here = cr__worker_here();
    CR__ASSERT(here && here->sched == to->sched);
    if (atomic_exchange_explicit(&service->posted, true, memory_order_acq_rel)) /* pairs with the one in arrive */
        return;
    service->post.fn = arrive;
    service->post.promised = false;
    cr__post(to, &service->post);
}

/* ---- Turns ------------------------------------------------------------------------------------------------------ */

static bool wants_turn(const struct cr__worker *w, const struct cr__service *service)
{
    return service->poked || service->due_ns <= w->now_ns;
}

void cr__services_turn(struct cr__worker *w)
{
    int round = 0;
    do {
        w->services_poked = false;
        for (struct cr__service *service = w->services, *next; service; service = next) {
            next = service->next;
            if (!wants_turn(w, service))
                continue;
            service->poked = false;
            service->turn(w, service);
        }
    } while (w->services_poked && ++round < ROUNDS && !w->ready.head);
}

int64_t cr__services_due_in(const struct cr__worker *w)
{
    int64_t due_ns = CR_FOREVER;
    for (const struct cr__service *service = w->services; service; service = service->next)
        due_ns = service->due_ns < due_ns ? service->due_ns : due_ns;
    if (due_ns == CR_FOREVER)
        return -1;
    return due_ns > w->now_ns ? due_ns - w->now_ns : 0;
}

void cr__services_fall_silent(struct cr__worker *w)
{
    for (struct cr__service *service = w->services; service; service = service->next) {
        if (service->fall_silent)
            service->fall_silent(w, service);
    }
}

void cr__services_end(struct cr__worker *w)
{
    while (w->services)
        w->services->end(w, w->services);
}
