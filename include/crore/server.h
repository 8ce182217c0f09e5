/* Serving: a listener on each worker, and a coroutine for each connection.
 *
 *     static void session(struct cr_conn *conn, void *arg) { ... cr_close(conn); }
 *     ...
 *     struct cr_server *server;
 *     if (cr_serve(&server, "tcp://127.0.0.1:7000", session, NULL, NULL) < 0)
 *         return;
 *
 * The listeners share the port (SO_REUSEPORT), so the kernel deals connections out to the workers, and no two workers compete for one. Where the kernel
 * can't (unix:/PATH), one worker accepts for all. When a worker is stuck in a coroutine that does not suspend, an idle one accepts what waits at its
 * listener meanwhile. Outside of a coroutine all but the snapshots return -EPERM. */
#ifndef CRORE_SERVER_H
#define CRORE_SERVER_H

#include <crore/conn.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_server;

enum cr_placement {
    CR_PLACE_DEFAULT = 0,      /* on the worker that has accepted it; stolen by one that is idle before it begins. With one listener for all: least loaded */
    CR_PLACE_HERE = 1,         /* on the worker that has accepted it, whatever comes */
    CR_PLACE_LEAST_LOADED = 2, /* on the worker that has the fewest sessions of this server */
};

/* Zeroed means default, field by field. Read during the call only, but for full's argument. */
struct cr_serve_opts {
    struct cr_conn_opts conn;    /* of the listeners */
    const struct cr_attr *attr;  /* of the sessions; NULL: default */
    enum cr_placement placement;
    /* Asked by a worker before it accepts: 0, or why nothing more is to be accepted now (-EMFILE, say); it is asked again some milliseconds later, and what
     * waits stays in the backlog. May be called by several workers at the same time; must not suspend. NULL: never full. (At the runtime's memory budget
     * nothing is accepted either, as if it had said -ENOMEM.) */
    int (*full)(void *arg);
    /* Told when accepting pauses on a worker (why < 0: what full said, or what accepting failed with), and when it goes on (0). NULL: written to the
     * runtime's report_fd. As full. */
    void (*paused)(void *arg, int why);
};

/* Listens (-EADDRINUSE where another one does already, unless conn.flags has CR_REUSE_PORT), and has session(conn, arg) run for each connection; session closes conn. full and paused get the same arg.
 * Returns 0 when all listen, or what cr_listen returned (then nothing listens). Suspends only to look a name up. */
CR_API CR_CHECKED int cr_serve(struct cr_server **out, const char *url, void (*session)(struct cr_conn *conn, void *arg), void *arg,
                               const struct cr_serve_opts *opts);

/* Stops listening; its sessions go on, and cr_server_sessions counts them still: to wait for them. Called by one coroutine at a time. Suspends until no worker
 * accepts any more, whatever deadline or cancellation. NULL, and one that is stopped, is ignored. Returns 0 or -EPERM. */
CR_API int cr_server_stop(struct cr_server *server);

/* The same, and frees the server; its sessions go on. */
CR_API int cr_server_close(struct cr_server *server);

/* The URL that it listens on, with the port that it got. Returns the length, -ENOBUFS. Does not suspend. */
CR_API int cr_server_url(const struct cr_server *server, char *buf, size_t size_bytes);

/* How many sessions run, on all workers or on one. A snapshot. Does not suspend. */
CR_API int64_t cr_server_sessions(const struct cr_server *server);
CR_API int64_t cr_server_sessions_on(const struct cr_server *server, unsigned worker);

#ifdef __cplusplus
}
#endif
#endif
