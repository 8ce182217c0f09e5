/* What all links have in common: opening by a specification, the public calls, and waiting. */
#include <string.h>

#include "net/link/kinds.h"
#include "os/os.h"

#define SPEC_MOST 512 /* bounds how many wrap each other, too: each opens the next one on the same stack */

/* ---- Opening and closing ------------------------------------------------------------------------------------ */

static int64_t real_now_ns(struct cr_link *link)
{
    (void)link;
    return cr__os_now_ns();
}

void cr__link_begin(struct cr_link *link, const struct cr__link_ops *ops, struct cr__worker *worker)
{
    link->ops = ops;
    link->worker = worker;
    link->now_ns = real_now_ns;
    link->packets = worker ? &worker->packets : &link->own_packets;
}

static int64_t outer_now_ns(struct cr_link *inner)
{
    struct cr_link *outer = inner->user;
    return outer->now_ns(outer);
}

static void tell_outer(struct cr_link *inner)
{
    struct cr_link *outer = inner->user;
    if (outer->ready)
        outer->ready(outer);
}

void cr__link_wrap(struct cr_link *outer, struct cr_link *inner)
{
    outer->told = inner->told;
    outer->told.name[0] = '\0';
    outer->told.flags &= ~(unsigned)CR_LINK_NO_CHECKSUMS;
    inner->user = outer;
    inner->now_ns = outer_now_ns;
    inner->ready = tell_outer;
}

void cr__link_address(unsigned char address[6], const char *name, unsigned side)
{
    uint32_t hash = 2166136261u; /* FNV-1a: the same in each process */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    address[0] = 2; /* unicast, locally administered */
    memcpy(address + 1, &hash, sizeof(hash));
    address[5] = (unsigned char)(side + 1);
}

static int parse_mtu(const char *text, uint16_t *mtu_bytes)
{
    uint32_t n = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && n <= CR__LINK_MTU_MOST; at++)
        n = n * 10 + (uint32_t)(*at - '0');
    if (at == text || *at || n < CR__LINK_MTU_LEAST || n > CR__LINK_MTU_MOST)
        return -EINVAL;
    *mtu_bytes = (uint16_t)n;
    return 0;
}

int cr__link_name_parse(const char *text, char *name, size_t most, uint16_t *mtu_bytes)
{
    size_t length = strcspn(text, "?");
    if (length == 0 || length > most || memchr(text, ',', length))
        return -EINVAL;
    memcpy(name, text, length);
    name[length] = '\0';
    *mtu_bytes = CR__LINK_MTU_DEFAULT;
    if (!text[length])
        return 0;
    return strncmp(text + length, "?mtu=", 5) == 0 ? parse_mtu(text + length + 5, mtu_bytes) : -EINVAL;
}

const char *cr__link_name_wrong(const char *text)
{
    size_t length = strcspn(text, "?");
    uint16_t mtu_bytes;
    if (length == 0)
        return "it has no name";
    if (memchr(text, ',', length))
        return "its name has a comma in it";
    if (text[length] && strncmp(text + length, "?mtu=", 5) != 0)
        return "behind a ? it takes mtu=BYTES only";
    if (text[length] && parse_mtu(text + length + 5, &mtu_bytes) < 0)
        return "its mtu= is not a number of 68 to as many bytes as a packet holds";
    return "its name is too long";
}

static const struct {
    const char *scheme;
    int (*open)(struct cr_link **out, const char *rest, struct cr__worker *worker);
    const char *(*wrong)(const char *rest);
} kinds[] = {
    {"mem:", cr__link_mem_open, cr__link_name_wrong},
    {"shm:", cr__link_shm_open, cr__link_name_wrong},
    {"pcap:", cr__link_pcap_open, cr__link_pcap_wrong},
    {"impair:", cr__link_impair_open, cr__link_impair_wrong},
};

const char *cr__link_wrong(const char *spec)
{
    if (strlen(spec) > SPEC_MOST)
        return "it is too long";
    for (size_t i = 0; i < CR__COUNT(kinds); i++) {
        size_t length = strlen(kinds[i].scheme);
        if (strncmp(spec, kinds[i].scheme, length) == 0)
            return kinds[i].wrong(spec + length);
    }
    return "no such link; there are mem:, shm:, pcap: and impair:";
}

int cr__link_open(struct cr_link **out, const char *spec, struct cr__worker *worker)
{
    if (strlen(spec) > SPEC_MOST)
        return -EINVAL;
    for (size_t i = 0; i < CR__COUNT(kinds); i++) {
        size_t length = strlen(kinds[i].scheme);
        if (strncmp(spec, kinds[i].scheme, length) != 0)
            continue;
        int r = kinds[i].open(out, spec + length, worker);
        if (r == 0)
            strncat((*out)->told.name, spec, sizeof((*out)->told.name) - 1); /* it is empty */
        return r;
    }
    return -EINVAL;
}

void cr__link_close(struct cr_link *link)
{
    struct cr__record *waiter = link->waiter;
    if (waiter) {
        waiter->node.object = 0; /* whatever ended its wait: the link is gone */
        cr__wake(link->worker, waiter, CR__CLOSED);
    }
    link->ops->close(link);
}

/* ---- A program's: closed with the runtime at the latest ------------------------------------------------------ */

static struct cr_link *link_of(struct cr__service *service)
{
    return CR__CONTAINER(service, struct cr_link, service);
}

static void turn(struct cr__worker *worker, struct cr__service *service)
{
    (void)worker;
    (void)service;
}

/* The other end, and what has been sent here, must not be left with a worker that is no more. */
static void end(struct cr__worker *worker, struct cr__service *service)
{
    (void)worker;
    link_of(service)->waiter = NULL; /* it has been dropped */
    cr__service_close(service);
}

static void released(struct cr__service *service)
{
    cr__link_close(link_of(service));
}

int cr_link_open(struct cr_link **out, const char *spec)
{
    struct cr__worker *worker;
    cr__handed(out);
    if (!cr__running(&worker))
        return -EPERM;
    int r = cr__link_open(out, spec, worker);
    if (r < 0)
        return r;
    (*out)->service = (struct cr__service){.turn = turn, .end = end, .released = released, .due_ns = CR_FOREVER};
    cr__service_open(worker, &(*out)->service);
    return 0;
}

void cr_link_close(struct cr_link *link)
{
    if (!link)
        return;
    CR__ASSERT(cr__worker_here() == link->worker); /* it belongs to the worker that opened it */
    if (link->service.released)
        cr__service_close(&link->service); /* nobody else pokes it: released at once */
    else
        cr__link_close(link);
}

/* ---- Packets ------------------------------------------------------------------------------------------------ */

/* The running coroutine, if it is one of the link's worker. */
static struct cr__record *user_of(const struct cr_link *link)
{
    struct cr__worker *worker;
    struct cr__record *me = cr__running(&worker);
    return worker == link->worker ? me : NULL;
}

static int within_burst(int count)
{
    return count < 0 ? 0 : count > CR_LINK_BURST ? CR_LINK_BURST : count;
}

int cr_link_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    if (!user_of(link))
        return -EPERM;
    return link->ops->recv(link, packets, within_burst(most));
}

int cr_link_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    if (!user_of(link))
        return -EPERM;
    return link->ops->send(link, packets, within_burst(count));
}

void cr_link_info_get(const struct cr_link *link, struct cr_link_info *out)
{
    link->ops->info(link, out);
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

static void wake_waiter(struct cr_link *link)
{
    struct cr__record *waiter = link->waiter;
    if (waiter)
        cr__wake(link->worker, waiter, CR__WOKEN);
}

/* Suspends until `ready` is called, or until then. -EBADF: the link is gone. */
static int wait_ready(struct cr_link *link, struct cr__record *me, int64_t until_ns)
{
    struct cr__worker *worker = link->worker;
    int r = cr__wait_begin(worker, me, CR__WAIT_PACKET, link, until_ns);
    if (r < 0)
        return r;
    link->waiter = me; /* nothing can have come since it was armed: `ready` is called on this thread */
    r = cr__wait_suspend(worker, me, until_ns);
    if (me->node.object != (uintptr_t)link) /* before anything else is looked at */
        return -EBADF;
    link->waiter = NULL;
    return r;
}

static bool is_over(const struct cr_link *link)
{
    struct cr_link_info info;
    link->ops->info(link, &info);
    return info.flags & CR_LINK_OVER;
}

static int wait_armed(struct cr_link *link, struct cr__record *me, int64_t deadline_ns)
{
    while (!link->ops->arm(link)) {
        int64_t due_ns = link->ops->due_ns(link), until_ns = due_ns < deadline_ns ? due_ns : deadline_ns;
        if (due_ns == INT64_MAX && is_over(link))
            return -ENODATA;
        int r = wait_ready(link, me, until_ns);
        if (r < 0 && (r != -ETIMEDOUT || until_ns == deadline_ns))
            return r;
    }
    return 0;
}

int cr_link_wait_until(struct cr_link *link, int64_t deadline_ns)
{
    struct cr__record *me = user_of(link);
    if (!me || cr__migrates(link->worker, &me->co)) /* that might go on elsewhere */
        return -EPERM;
    if (link->ready)
        return -EBUSY;
    link->ready = wake_waiter;
    int r = wait_armed(link, me, deadline_ns);
    if (r != -EBADF)
        link->ready = NULL;
    cr__breathe(cr__worker_here());
    return r;
}

int cr_link_wait(struct cr_link *link)
{
    return cr_link_wait_until(link, CR_FOREVER);
}
