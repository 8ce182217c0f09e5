/* The public calls on packets: with the cache of the worker on which they are called. */
#include <crore/packet.h>

#include "sched/sched.h"

static struct cr__packet_cache *cache_here(void)
{
    struct cr__worker *worker = cr__worker_here();
    CR__ASSERT(worker != NULL); /* packets are for workers' threads */
    return &worker->packets;
}

struct cr_packet *cr_packet_get(void)
{
    return cr__packet_get(cache_here());
}

struct cr_packet *cr_packet_hold(struct cr_packet *packet)
{
    return cr__packet_hold(packet);
}

void cr_packet_put(struct cr_packet *packet)
{
    if (packet)
        cr__packet_put(cache_here(), packet);
}

struct cr_packet *cr_packet_copy(const struct cr_packet *packet)
{
    return cr__packet_copy(cache_here(), packet);
}
