/* HTTP/1.1 on one connection: receive, parse, answer, again. Parsing is http-parser's (docs/http.md says why); here is what it leaves
 * open: where the bytes are, limits, timeouts, and which requests are refused.
 *
 * While a connection waits for a request it holds no buffer. A request that arrives in one piece, nearly each, is parsed and
 * answered out of the lent buffer; one in pieces is gathered in a buffer of --max-header-bytes on the heap. */
#include "serve.h"

#include <errno.h>
#include <http_parser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TARGET_BYTES 4096
#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

/* Unparsed bytes: in a lent buffer, or gathered on the heap; never both. */
struct input {
    char *bytes;
    size_t used, size;   /* [used, size) are unparsed */
    struct cr_lent lent;
    char *gathered;
};

struct parse {
    http_parser parser;  /* first: callbacks get its address */
    struct http_request request;
    struct http_text *value; /* where the header's value goes that is being read; NULL: not wanted */
    struct http_text name, host, expect;
    int64_t body_bytes;
    int hosts, codings;  /* how many such headers */
    int refused;         /* a status that parsing led to */
    bool head_done, done, folded;
};

/* ---- Parsing ------------------------------------------------------------------------------------------------ */

static struct parse *of(http_parser *parser)
{
    return (struct parse *)parser;
}

static void extend(struct http_text *text, const char *at, size_t length)
{
    if (!text->bytes)
        text->bytes = at;
    text->size_bytes = (size_t)(at + length - text->bytes);
}

static int on_url(http_parser *parser, const char *at, size_t length)
{
    extend(&of(parser)->request.target, at, length);
    return 0;
}

static bool is(const struct http_text *text, const char *name)
{
    size_t length = strlen(name);
    return text->size_bytes == length && strncasecmp(text->bytes, name, length) == 0;
}

static int on_field(http_parser *parser, const char *at, size_t length)
{
    struct parse *p = of(parser);
    if (p->head_done)
        return 0; /* a trailer: says nothing about the request, and lies in a buffer that will be gone */
    if (p->value || p->folded) { /* a new name begins */
        p->name = (struct http_text){0};
        p->value = NULL;
        p->folded = false;
    }
    extend(&p->name, at, length);
    if (memchr(at, ' ', length)) { /* Debian's parser lets it pass, and heeds "Content-Length : 5" (RFC 9112 5.1) */
        p->refused = 400;
        return 1;
    }
    return 0;
}

static struct http_text *wanted(struct parse *p)
{
    struct http_request *r = &p->request;
    switch (p->name.size_bytes) {
    case 4: return is(&p->name, "Host") ? &p->host : NULL;
    case 5: return is(&p->name, "Range") ? &r->range : NULL;
    case 6: return is(&p->name, "Expect") ? &p->expect : NULL;
    case 7: return is(&p->name, "Referer") ? &r->referer : NULL;
    case 8: return is(&p->name, "If-Range") ? &r->if_range : NULL;
    case 10: return is(&p->name, "User-Agent") ? &r->user_agent : NULL;
    case 13: return is(&p->name, "If-None-Match") ? &r->if_none_match : NULL;
    case 17: return is(&p->name, "If-Modified-Since") ? &r->if_modified_since : NULL;
    default: return NULL;
    }
}

/* A value that comes in pieces was folded over lines, which RFC 9112 5.2 lets a server refuse. */
static int on_value(http_parser *parser, const char *at, size_t length)
{
    struct parse *p = of(parser);
    if (p->head_done)
        return 0;
    if (p->folded) {
        p->refused = 400;
        return 1;
    }
    p->value = wanted(p);
    p->folded = true;
    p->codings += is(&p->name, "Transfer-Encoding");
    p->hosts += p->value == &p->host;
    if (p->value)
        *p->value = (struct http_text){at, length};
    return 0;
}

/* HOST or HOST:PORT, by its characters (RFC 9112 3.2); may be empty. */
static bool host_makes_sense(const struct http_text *host)
{
    for (size_t i = 0; i < host->size_bytes; i++) {
        unsigned char c = (unsigned char)host->bytes[i];
        if (c <= ' ' || c >= 127 || strchr("/?#@\\,\"<>^`{|}", c))
            return false;
    }
    return true;
}

static int on_head(http_parser *parser)
{
    struct parse *p = of(parser);
    p->head_done = true;
    p->request.version_major = parser->http_major;
    p->request.version_minor = parser->http_minor;
    p->request.head = parser->method == HTTP_HEAD;
    p->request.keep_alive = http_should_keep_alive(parser) && !serve_draining;
    const char *method = http_method_str(parser->method);
    p->request.method = (struct http_text){method, strlen(method)};
    bool too_large = (parser->flags & F_CONTENTLENGTH) && parser->content_length > (uint64_t)serve_options.max_body_bytes;
    if (parser->http_major != 1)
        p->refused = 505;
    else if (p->hosts > 1 || (p->hosts == 0 && parser->http_minor >= 1) || !host_makes_sense(&p->host))
        p->refused = 400;
    else if (p->codings > 1 || (p->codings == 1 && parser->http_minor == 0))
        p->refused = 400; /* RFC 9112 6.1 */
    else if (parser->method != HTTP_GET && !p->request.head)
        p->refused = 405;
    else if (p->request.target.size_bytes > MAX_TARGET_BYTES)
        p->refused = 414;
    else if (too_large)
        p->refused = 413;
    return p->refused ? -1 : 0;
}

static int on_body(http_parser *parser, const char *at, size_t length)
{
    struct parse *p = of(parser);
    (void)at;
    p->body_bytes += (int64_t)length;
    if (p->body_bytes > serve_options.max_body_bytes)
        p->refused = 413;
    return p->refused != 0;
}

static int on_done(http_parser *parser)
{
    of(parser)->done = true;
    http_parser_pause(parser, 1); /* what follows is the next request's */
    return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_done,
};

static void parse_begin(struct parse *p)
{
    memset(p, 0, sizeof(*p));
    http_parser_init(&p->parser, HTTP_REQUEST);
}

/* Which status an error of the parser's means; 0: none so far. */
static int parse_error(const struct parse *p)
{
    enum http_errno e = HTTP_PARSER_ERRNO(&p->parser);
    if (p->refused)
        return p->refused;
    if (e == HPE_OK || e == HPE_PAUSED)
        return 0;
    return e == HPE_HEADER_OVERFLOW ? 431 : 400;
}

/* ---- Receiving ---------------------------------------------------------------------------------------------- */

static void input_drop(struct session *s, struct input *in)
{
    free(in->gathered);
    if (!s->taken)
        cr_recv_return(s->conn, &in->lent);
    *in = (struct input){0};
}

/* A deadline for what takes seconds: some milliseconds off, but a fraction of the price of the exact clock. */
static int64_t coarse_after(int64_t duration_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * CR_SEC + now.tv_nsec + duration_ns;
}

/* Waits for bytes when there are none. Positive, 0 at the end of the stream, or -errno. */
static ssize_t input_wait(struct session *s, struct input *in, int64_t deadline_ns)
{
    input_drop(s, in);
    s->idle = true;
    ssize_t n = cr_recv_lend_until(s->conn, &in->lent, deadline_ns);
    s->idle = false;
    if (n <= 0)
        return n;
    in->bytes = in->lent.bytes;
    in->size = (size_t)n;
    return n;
}

/* Adds to a request that has only come in part: gathers it on the heap. Positive, 0, -errno; -EMSGSIZE when it is full. */
static ssize_t input_more(struct session *s, struct input *in, int64_t deadline_ns)
{
    size_t capacity = (size_t)serve_options.max_header_bytes + 1;
    size_t have = in->size - in->used;
    if (have >= capacity)
        return -EMSGSIZE;
    if (!in->gathered || in->used > 0) {
        char *gathered = malloc(capacity);
        if (!gathered)
            return -ENOMEM;
        memcpy(gathered, in->bytes + in->used, have);
        input_drop(s, in);
        in->gathered = in->bytes = gathered;
        in->size = have;
    }
    ssize_t n = cr_read_until(s->conn, in->bytes + in->size, capacity - in->size, deadline_ns);
    if (n > 0)
        in->size += (size_t)n;
    return n;
}

/* Reads and drops the rest of a request's body. */
static ssize_t skip_body(struct session *s, struct parse *p, int64_t deadline_ns)
{
    while (!p->done) {
        struct cr_lent lent;
        ssize_t n = cr_recv_lend_until(s->conn, &lent, deadline_ns);
        if (n <= 0)
            return n;
        size_t parsed = http_parser_execute(&p->parser, &settings, lent.bytes, (size_t)n);
        cr_recv_return(s->conn, &lent);
        if (parse_error(p))
            return 1;
        if (p->done && parsed < (size_t)n)
            return -EMSGSIZE; /* pipelined behind a body: answered, then closed; no client that we know does it */
    }
    return 1;
}

/* ---- Answering ----------------------------------------------------------------------------------------------- */

/* Sends bytes that may change while this coroutine waits: what does not go at once is copied first. */
static bool send_shared(struct session *s, const char *bytes, size_t size_bytes)
{
    ssize_t n = cr_write_until(s->conn, bytes, size_bytes, 0);
    if (n == (ssize_t)size_bytes)
        return true;
    if (n < 0 && n != -ETIMEDOUT)
        return false;
    size_t sent = n > 0 ? (size_t)n : 0;
    char *rest = malloc(size_bytes - sent);
    if (!rest)
        return false;
    memcpy(rest, bytes + sent, size_bytes - sent);
    bool good = http_send(s, rest, size_bytes - sent);
    free(rest);
    return good;
}

/* The fixed response of --return: formatted once a second by each worker, sent in one call. */
static struct http_result serve_text(struct session *s, const struct http_request *request)
{
    struct serve_worker *w = s->worker;
    size_t text_size = serve_options.text_bytes;
    bool usual = request->keep_alive && request->version_minor > 0;
    time_t now = time(NULL);
    char own[512];
    if (usual && w->fixed.second == now) {
        bool sent = send_shared(s, w->fixed.bytes, request->head ? w->fixed.head : w->fixed.whole);
        return (struct http_result){200, request->head ? 0 : (int64_t)text_size, sent};
    }
    int head = http_head(s, own, sizeof(own), 200, request);
    head += snprintf(own + head, sizeof(own) - (size_t)head, "Content-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", text_size);
    char *bytes = realloc(usual ? w->fixed.bytes : NULL, (size_t)head + text_size);
    if (!bytes)
        return http_error(s, request, 503, "");
    memcpy(bytes, own, (size_t)head);
    memcpy(bytes + head, serve_options.text, text_size);
    if (usual) {
        w->fixed.bytes = bytes;
        w->fixed.head = (size_t)head;
        w->fixed.whole = (size_t)head + text_size;
        w->fixed.second = now;
        return serve_text(s, request);
    }
    bool sent = http_send(s, bytes, (size_t)head + (request->head ? 0 : text_size));
    free(bytes);
    return (struct http_result){200, request->head ? 0 : (int64_t)text_size, sent && request->keep_alive};
}

/* Refuses and closes: what follows on the connection can't be trusted to be a request. */
static void refuse(struct session *s, struct parse *p, int status)
{
    p->request.keep_alive = false;
    p->request.version_major = p->parser.http_major;
    p->request.version_minor = p->parser.http_minor;
    struct http_result result = http_error(s, &p->request, status, status == 405 ? "Allow: GET, HEAD\r\n" : "");
    http_log(s, &p->request, &result);
    /* closing with bytes unread would reset the connection, and the client might never see the answer */
    cr_close_write(s->conn);
    int64_t deadline_ns = cr_after(CR_SEC);
    char rest[256];
    for (int i = 0; i < 256 && cr_read_until(s->conn, rest, sizeof(rest), deadline_ns) > 0; i++)
        ;
}

/* ---- One request after the other ---------------------------------------------------------------------------- */

/* Parses the next request out of the input, receiving more as needed. 1; 0 when the client is done or gone; or the status to
 * refuse with. */
static int next_request(struct session *s, struct input *in, struct parse *p)
{
    if (in->used == in->size && input_wait(s, in, serve_draining ? 0 : coarse_after(serve_options.idle_timeout_ns)) <= 0)
        return 0;
    int64_t deadline_ns = 0;
    for (;;) {
        parse_begin(p);
        size_t size = in->size - in->used;
        size_t parsed = http_parser_execute(&p->parser, &settings, in->bytes + in->used, size);
        int status = parse_error(p);
        if (status)
            return status;
        if (p->head_done && parsed > (size_t)serve_options.max_header_bytes + (size_t)p->body_bytes && p->codings == 0)
            return 431; /* the parser counts less closely */
        if (p->head_done) {
            in->used += parsed;
            break;
        }
        if (deadline_ns == 0)
            deadline_ns = cr_after(serve_options.header_timeout_ns);
        ssize_t n = input_more(s, in, deadline_ns);
        if (n == 0)
            return 400; /* the end, in the middle of a request */
        if (n < 0)
            return n == -EMSGSIZE ? 431 : n == -ETIMEDOUT ? 408 : n == -ENOMEM ? 503 : 0;
    }
    if (p->done)
        return 1;
    if (p->request.version_minor > 0 && is(&p->expect, "100-continue") && !http_send(s, CONTINUE, sizeof(CONTINUE) - 1))
        return 0;
    ssize_t n = skip_body(s, p, cr_after(serve_options.header_timeout_ns));
    if (n == -EMSGSIZE)
        p->request.keep_alive = false;
    else if (n <= 0)
        return n == -ETIMEDOUT ? 408 : 0;
    return parse_error(p) ? parse_error(p) : 1;
}

static struct http_result answer(struct session *s, const struct http_request *request)
{
    return serve_options.text ? serve_text(s, request) : http_serve_file(s, request);
}

/* Answers one request; false when the connection is done. Apart, so that its frame is not there while the next is awaited. */
__attribute__((noinline)) static bool serve_one(struct session *s, struct input *in)
{
    struct parse p;
    int next = next_request(s, in, &p);
    if (next > 1)
        refuse(s, &p, next);
    if (next != 1)
        return false;
    struct http_result result = answer(s, &p.request);
    http_log(s, &p.request, &result);
    return result.alive && (!serve_draining || in->used < in->size); /* what has come of the next one has begun */
}

void http_init(void)
{
    http_parser_set_max_header_size((uint32_t)serve_options.max_header_bytes); /* of all parsers */
}

void http_serve(struct session *s)
{
    struct input in = {0};
    while (serve_one(s, &in))
        ;
    input_drop(s, &in);
}
