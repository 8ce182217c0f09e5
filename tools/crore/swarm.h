/* The load side: opens connections, sends on a schedule, measures from when each message was due, verifies what comes back. */
#ifndef CRORE_SWARM_H
#define CRORE_SWARM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "histogram.h"

#define SWARM_ERRNOS 160

struct swarm_options {
    const char *url;
    const char *net;          /* dials from a network of its own, opened by that line; NULL: from the kernel's */
    int64_t connections;
    int64_t rate;             /* messages a second over all connections; 0: each sends as soon as it has its answer */
    int64_t size_bytes;
    int64_t duration_ns;      /* of sending, after all connections are open */
    int64_t connect_rate;     /* connections opened a second; 0: as fast as it goes */
    int64_t dials;            /* at the same time */
    unsigned workers;         /* threads that share the connections; at most as many as there are connections, and dials */
};

/* What one interval saw. */
struct swarm_sample {
    double seconds;           /* since the start */
    bool sending;             /* false while connections are being opened */
    int64_t open;
    double messages_per_second;
    int64_t p50_ns, p99_ns, max_ns;
    double user_bytes_per_connection; /* of the server; the demo fills it in; 0: unknown */
};

struct swarm_result {
    int64_t opened, lost;             /* connections; those that ended before they should */
    int64_t sent, received, late;     /* messages; late: due while the one before was still out for a whole period */
    int64_t received_bytes, wrong;    /* wrong: messages that came back changed */
    int64_t dial_errors[SWARM_ERRNOS], io_errors[SWARM_ERRNOS]; /* by errno */
    double open_seconds, send_seconds;
    bool interrupted;
    struct histogram latency;
    struct swarm_sample *samples;     /* from malloc */
    int sample_count;
};

/* Runs it; tick gets each sample as it is taken, and may change it. 0; -EINVAL or -EPROTONOSUPPORT
 * (the URL), or another -errno (nothing could be begun). */
int swarm_run(const struct swarm_options *options, struct swarm_result *result,
              void (*tick)(struct swarm_sample *sample, void *arg), void *arg);

/* Whether every connection was opened and held to the end, and every message came back as it was sent. */
bool swarm_good(const struct swarm_options *options, const struct swarm_result *result);

void swarm_print_table(FILE *to, const struct swarm_options *options, const struct swarm_result *result);
void swarm_print_json(FILE *to, const struct swarm_options *options, const struct swarm_result *result);

#endif
