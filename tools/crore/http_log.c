/* The access log, in combined format; gathered, and written once a second or when much has come together.
 *
 * A line is made in its worker's own room, and then copied to what all workers gather, under `lock`, so that lines stay whole and in order. There are two
 * buffers: while one is written, under `writing`, the other fills. Who finds it full writes, or waits until it is written; the worker stands still
 * then, as with each write to a file. */
#include "serve.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int log_fd = -1;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER; /* taken in this order */
static struct buffer {
    size_t size;
    char bytes[64 << 10];
} buffers[2], *filling = &buffers[0];

int http_log_open(const char *path)
{
    log_fd = strcmp(path, "-") == 0 ? STDOUT_FILENO : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    return log_fd;
}

static void write_out(const struct buffer *buffer)
{
    size_t written = 0;
    while (written < buffer->size) {
        ssize_t n = write(log_fd, buffer->bytes + written, buffer->size - written);
        if (n <= 0)
            break; /* a full disk must not end the service */
        written += (size_t)n;
    }
}

void http_log_flush(void)
{
    pthread_mutex_lock(&writing);
    pthread_mutex_lock(&lock);
    struct buffer *full = filling;
    filling = full == &buffers[0] ? &buffers[1] : &buffers[0];
    filling->size = 0;
    pthread_mutex_unlock(&lock);
    write_out(full);
    pthread_mutex_unlock(&writing);
}

static bool gather(const char *line, size_t size)
{
    pthread_mutex_lock(&lock);
    bool fits = sizeof(filling->bytes) - filling->size >= size;
    if (fits) {
        memcpy(filling->bytes + filling->size, line, size);
        filling->size += size;
    }
    pthread_mutex_unlock(&lock);
    return fits;
}

/* What a client sent, made harmless: no quotes, no control characters, and not endless. */
static int quote(char *to, size_t size, const struct http_text *text)
{
    size_t used = 0;
    for (size_t i = 0; i < text->size_bytes && used + 5 < size && i < 1024; i++) {
        unsigned char c = (unsigned char)text->bytes[i];
        if (c < ' ' || c == '"' || c == '\\' || c >= 127)
            used += (size_t)snprintf(to + used, size - used, "\\x%02x", c);
        else
            to[used++] = (char)c;
    }
    if (used == 0)
        to[used++] = '-';
    return (int)used;
}

/* "tcp://127.0.0.1:4711" to "127.0.0.1". */
static void peer_host(struct session *s, char *host, size_t size)
{
    char url[128];
    if (cr_peer_url(s->conn, url, sizeof(url)) <= 0 || strncmp(url, "tcp://", 6) != 0) {
        snprintf(host, size, "-");
        return;
    }
    *strrchr(url, ':') = '\0';
    snprintf(host, size, "%.*s", (int)size - 1, url + 6);
}

void http_log(struct session *s, const struct http_request *request, const struct http_result *result)
{
    if (log_fd < 0)
        return;
    char host[64], when[40];
    time_t now = time(NULL);
    struct tm tm;
    peer_host(s, host, sizeof(host));
    localtime_r(&now, &tm);
    strftime(when, sizeof(when), "%d/%b/%Y:%H:%M:%S %z", &tm);
    char *line = s->worker->line, *at = line, *end = line + HTTP_LOG_LINE_BYTES;
    at += snprintf(at, (size_t)(end - at), "%s - - [%s] \"", host, when);
    at += quote(at, 32, &request->method);
    *at++ = ' ';
    at += quote(at, 2100, &request->target);
    at += snprintf(at, (size_t)(end - at), " HTTP/%u.%u\" %d %lld \"", request->version_major, request->version_minor, result->status, (long long)result->body_bytes);
    at += quote(at, 2100, &request->referer);
    at += snprintf(at, (size_t)(end - at), "\" \"");
    at += quote(at, 2100, &request->user_agent);
    at += snprintf(at, (size_t)(end - at), "\"\n");
    while (!gather(line, (size_t)(at - line)))
        http_log_flush();
}
