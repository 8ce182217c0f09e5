/* What all HTTP responses have in common: sending, status line, date, the headers that each carries, and error pages. */
#include "serve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool http_send(struct session *s, const void *bytes, size_t size_bytes)
{
    ssize_t n = cr_write_until(s->conn, bytes, size_bytes, 0); /* nearly always there is room: no clock is read */
    if (n == (ssize_t)size_bytes)
        return true;
    if (n < 0 && n != -ETIMEDOUT)
        return false;
    size_t sent = n > 0 ? (size_t)n : 0;
    int64_t deadline_ns = cr_after(serve_options.write_timeout_ns);
    return cr_write_all_until(s->conn, (const char *)bytes + sent, size_bytes - sent, deadline_ns) > 0;
}

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 416: return "Range Not Satisfiable";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
    }
}

const char *http_date(time_t when, char buf[32])
{
    struct tm tm;
    gmtime_r(&when, &tm);
    strftime(buf, 32, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return buf;
}

/* The present date, formatted once a second. */
static const char *date_now(struct serve_worker *w)
{
    time_t now = time(NULL);
    if (now != w->date_second) {
        w->date_second = now;
        http_date(now, w->date);
    }
    return w->date;
}

int http_head(struct session *s, char *buf, size_t size_bytes, int status, const struct http_request *request)
{
    const char *connection = "";
    if (!request->keep_alive)
        connection = "Connection: close\r\n";
    else if (request->version_minor == 0)
        connection = "Connection: keep-alive\r\n";
    return snprintf(buf, size_bytes, "HTTP/1.1 %d %s\r\nServer: crore\r\nDate: %s\r\n%s", status, reason(status),
                    date_now(s->worker), connection);
}

struct http_result http_error(struct session *s, const struct http_request *request, int status, const char *headers)
{
    char response[HTTP_ERROR_HEADERS_BYTES + 512], type[96] = "", body[64] = "";
    size_t body_size = 0;
    if (status != 304) {
        body_size = (size_t)snprintf(body, sizeof(body), "%d %s\n", status, reason(status));
        snprintf(type, sizeof(type), "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n", body_size);
    }
    if (request->head)
        body_size = 0;
    if (strlen(headers) > HTTP_ERROR_HEADERS_BYTES)
        return (struct http_result){.status = status}; /* closes: a mistake of ours */
    size_t size = (size_t)http_head(s, response, sizeof(response), status, request);
    size += (size_t)snprintf(response + size, sizeof(response) - size, "%s%s\r\n%.*s", headers, type, (int)body_size, body);
    bool sent = http_send(s, response, size);
    return (struct http_result){status, (int64_t)body_size, sent && request->keep_alive};
}
