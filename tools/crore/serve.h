/* `crore serve`: what its parts share.
 *
 * A session stays on the worker on which it has begun, so what the sessions of a worker share (struct serve_worker) needs no lock. What all share is
 * written before the first worker runs (serve_options), atomic, or behind a lock of its own (the log). */
#ifndef CRORE_SERVE_H
#define CRORE_SERVE_H

#include <crore/crore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

struct serve_options {
    const char *urls[16];
    int url_count;
    const char *net;            /* on a network of its own, opened by that line; NULL: on the kernel's */
    const char *dir;            /* NULL with --echo and --return */
    int dir_fd;
    const char *text;           /* --return; NULL: none */
    size_t text_bytes;
    const char *access_log;     /* NULL: none; "-": standard output */
    bool echo, follow_symlinks, quiet;
    int64_t max_header_bytes, max_body_bytes, max_connections;
    int64_t header_timeout_ns, idle_timeout_ns, write_timeout_ns, drain_timeout_ns;
    int64_t cpu;                /* -1: any */
    unsigned workers;           /* 0: as many as cr_run takes */
    enum cr_placement placement;
};

extern struct serve_options serve_options;
extern _Atomic bool serve_draining; /* answer what has begun, begin nothing */

#define HTTP_LOG_LINE_BYTES 8192

/* What the sessions of one worker share; touched by that worker only. */
struct serve_worker {
    _Alignas(64) struct session *sessions;
    _Atomic int64_t served; /* sessions so far; read by others */
    time_t date_second;     /* the second that `date` was made in */
    char date[32];
    struct {
        time_t second;
        char *bytes;
        size_t head, whole;
    } fixed;                /* the response of --return, as it is sent most of the time */
    char line[HTTP_LOG_LINE_BYTES];
};

/* A connection being served. On the heap, not on the coroutine's stack: draining looks at it. */
struct session {
    struct session *next, **link; /* among those of its worker */
    struct serve_worker *worker;
    struct cr_conn *conn;
    bool idle;                    /* between requests: draining closes it */
    bool taken;                   /* closed by draining: conn is gone */
};

/* Once, before anything is served. */
void http_init(void);

/* Serves HTTP until the connection is done. */
void http_serve(struct session *session);

/* Sends size bytes within the write timeout; false when the connection is of no use any more. */
bool http_send(struct session *session, const void *bytes, size_t size_bytes);

/* A request whose head has been understood; pointers into the receive buffer. */
struct http_text {
    const char *bytes;
    size_t size_bytes;
};

struct http_request {
    struct http_text method, target, range, if_range, if_modified_since, if_none_match, user_agent, referer;
    unsigned version_major, version_minor;
    bool head, keep_alive;
};

/* What a response said, for the log. */
struct http_result {
    int status;
    int64_t body_bytes;
    bool alive; /* the connection may go on */
};

/* A small response with an explanation in plain text. headers: further lines, each ending in CRLF, together at most that long; may be "". */
#define HTTP_ERROR_HEADERS_BYTES 1024
struct http_result http_error(struct session *session, const struct http_request *request, int status, const char *headers);

/* The head's status line and common headers into buf; returns the length. */
int http_head(struct session *session, char *buf, size_t size_bytes, int status, const struct http_request *request);

const char *http_date(time_t when, char buf[32]);

/* The file or folder that the target names. */
struct http_result http_serve_file(struct session *session, const struct http_request *request);

/* By the name's ending; "application/octet-stream" if unknown. */
const char *http_mime_type(const char *name);

/* The access log, in combined format. Lines are whole, and in the order of their responses' ends. */
int http_log_open(const char *path);
void http_log(struct session *session, const struct http_request *request, const struct http_result *result);
void http_log_flush(void);

#endif
