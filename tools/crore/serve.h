/* `crore serve`: what its parts share. One worker, so plain variables do. */
#ifndef CRORE_SERVE_H
#define CRORE_SERVE_H

#include <crore/crore.h>
#include <stdbool.h>
#include <time.h>

struct serve_options {
    const char *urls[16];
    int url_count;
    const char *dir;            /* NULL with --echo and --return */
    int dir_fd;
    const char *text;           /* --return; NULL: none */
    size_t text_bytes;
    const char *access_log;     /* NULL: none; "-": standard output */
    bool echo, follow_symlinks, quiet;
    int64_t max_header_bytes, max_body_bytes, max_connections;
    int64_t header_timeout_ns, idle_timeout_ns, write_timeout_ns, drain_timeout_ns;
};

extern struct serve_options serve_options;
extern bool serve_draining; /* answer what has begun, begin nothing */

/* A connection being served. On the heap, not on the coroutine's stack: draining looks at it. */
struct session {
    struct session *next, **link; /* among all */
    struct cr_conn *conn;
    bool idle;                    /* between requests: draining closes it */
    bool taken;                   /* closed by draining: conn is gone */
    bool high;                    /* has one of the last fds */
};

/* Serves HTTP, or echoes, until the connection is done. */
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
int http_head(char *buf, size_t size_bytes, int status, const struct http_request *request);

const char *http_date(time_t when, char buf[32]);

/* The file or folder that the target names. */
struct http_result http_serve_file(struct session *session, const struct http_request *request);

/* By the name's ending; "application/octet-stream" if unknown. */
const char *http_mime_type(const char *name);

/* The access log, in combined format. */
int http_log_open(const char *path);
void http_log(struct session *session, const struct http_request *request, const struct http_result *result);
void http_log_flush(void);

#endif
