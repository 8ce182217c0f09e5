/* Files and folders over HTTP: from a request's target to a path, conditions, ranges, sendfile, listings.
 *
 * A path is resolved by the kernel below DIR (openat2 with RESOLVE_BENEATH): neither "..", nor a symlink, nor a race between a
 * check and its use leads out. Where the kernel lacks openat2 (before 5.6), the path is walked part by part, and every symlink is refused. */
#include "serve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPEN_WAIT_NS (5 * CR_SEC)
#define STEP_BYTES (256 << 10) /* of a body */

/* ---- From target to path ------------------------------------------------------------------------------------ */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "/a%20b?query" or "http://host/a%20b" to "a b"; "." for the root. NULL for what can be no file's name. From malloc. */
static char *path_of(const struct http_text *target)
{
    const char *at = target->bytes, *end = at + target->size_bytes;
    if (target->size_bytes > 7 && strncasecmp(at, "http://", 7) == 0) {
        at = memchr(at + 7, '/', target->size_bytes - 7);
        if (!at)
            return strdup(".");
    }
    if (at == end || *at != '/')
        return NULL;
    while (at < end && *at == '/')
        at++;
    char *path = malloc((size_t)(end - at) + 2);
    if (!path)
        return NULL;
    size_t length = 0;
    for (; at < end && *at != '?' && *at != '#'; at++) {
        int c = (unsigned char)*at;
        if (c == '%') {
            int high = end - at > 2 ? hex(at[1]) : -1, low = end - at > 2 ? hex(at[2]) : -1;
            c = high < 0 || low < 0 ? 0 : high << 4 | low;
            at += 2;
            if (c == '/')
                c = 0; /* a slash within a name */
        }
        if (c == 0) {
            free(path);
            return NULL;
        }
        path[length++] = (char)c;
    }
    if (length == 0)
        path[length++] = '.';
    path[length] = '\0';
    return path;
}

static bool climbs(const char *path)
{
    for (const char *part = path; *part;) {
        size_t length = strcspn(part, "/");
        if (length == 2 && part[0] == '.' && part[1] == '.')
            return true;
        part += length;
        part += strspn(part, "/");
    }
    return false;
}

/* Without openat2: opens part after part, no symlink among them. An fd, or -1 and errno. */
static int open_part_by_part(const char *path, int flags)
{
    int dir = openat(serve_options.dir_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    while (dir >= 0) {
        char part[NAME_MAX + 1];
        size_t length = strcspn(path, "/"), behind = length + strspn(path + length, "/");
        bool last = path[behind] == '\0';
        int fd = -1;
        errno = ENOENT;
        if (length <= NAME_MAX) {
            memcpy(part, path, length);
            part[length] = '\0';
            fd = openat(dir, part, (last ? flags : O_PATH | O_DIRECTORY | O_CLOEXEC) | (last && behind > length ? O_DIRECTORY : 0) | O_NOFOLLOW);
        }
        int error = errno;
        close(dir);
        errno = error;
        if (last)
            return fd;
        dir = fd;
        path += behind;
    }
    return -1;
}

/* Opens below DIR; an fd or -errno. */
static int try_open_below(const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                           .resolve = serve_options.follow_symlinks ? 0 : RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    if (climbs(path))
        return -ENOENT;
    long fd = syscall(SYS_openat2, serve_options.dir_fd, path, &how, sizeof(how));
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* EPERM: a sandbox that does not know it */
        fd = serve_options.follow_symlinks ? openat(serve_options.dir_fd, path, (int)how.flags) : open_part_by_part(path, (int)how.flags);
    return fd < 0 ? -errno : (int)fd;
}

/* Accepting leaves some fds alone (serve.c), but more connections than that may want one at the same time: they wait their turn. */
static int open_below(const char *path)
{
    int fd = try_open_below(path);
    for (int64_t deadline_ns = cr_after(OPEN_WAIT_NS); (fd == -EMFILE || fd == -ENFILE) && cr_now() < deadline_ns; fd = try_open_below(path)) {
        if (cr_sleep(5 * CR_MS) < 0)
            break;
    }
    return fd;
}

/* fstat(2) by a name that ThreadSanitizer does not know: it does not see the library close fds either, and would take numbers that are used anew for races. */
static int stat_file(int fd, struct stat *info)
{
    return fstatat(fd, "", info, AT_EMPTY_PATH);
}

static int status_of(int error)
{
    switch (-error) {
    case EACCES:
    case EPERM:
        return 403;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return 503;
    default:
        return 404;
    }
}

/* ---- Conditions and ranges ---------------------------------------------------------------------------------- */

struct range {
    int64_t first, size;
    bool partial;
};

static bool parse_digits(const char **at, const char *end, int64_t *n)
{
    const char *begin = *at;
    *n = 0;
    while (*at < end && **at >= '0' && **at <= '9') {
        if (*n > INT64_MAX / 10 - 10)
            return false;
        *n = *n * 10 + (**at - '0');
        ++*at;
    }
    return *at > begin;
}

/* One range of bytes (RFC 9110 14.1.2). 0: none, or one to be ignored (several, another unit, malformed): the whole is sent; 206; 416. */
static int parse_range(const struct http_text *text, int64_t file_size, struct range *range)
{
    const char *at = text->bytes, *end = at + text->size_bytes;
    int64_t first, last = file_size - 1;
    if (text->size_bytes < 7 || strncasecmp(at, "bytes=", 6) != 0)
        return 0;
    at += 6;
    if (*at == '-') {
        at++;
        if (!parse_digits(&at, end, &first) || at != end)
            return 0;
        if (first == 0)
            return 416;
        first = first < file_size ? file_size - first : 0;
    } else {
        if (!parse_digits(&at, end, &first) || at == end || *at++ != '-')
            return 0;
        if (at != end && (!parse_digits(&at, end, &last) || at != end || last < first))
            return 0;
        if (last >= file_size)
            last = file_size - 1;
    }
    if (first >= file_size)
        return 416;
    *range = (struct range){first, last - first + 1, true};
    return 206;
}

static bool same_text(const struct http_text *text, const char *other)
{
    return text->size_bytes == strlen(other) && memcmp(text->bytes, other, text->size_bytes) == 0;
}

/* One of the tags in a list such as "a", W/"b", or a star. */
static bool tag_listed(const struct http_text *list, const char *tag)
{
    size_t length = strlen(tag);
    if (list->size_bytes == 1 && *list->bytes == '*')
        return true;
    for (size_t i = 0; i + length <= list->size_bytes; i++) {
        if (memcmp(list->bytes + i, tag, length) == 0)
            return true;
    }
    return false;
}

static bool not_modified(const struct http_request *request, const char *tag, time_t modified)
{
    if (request->if_none_match.bytes)
        return tag_listed(&request->if_none_match, tag); /* the other one is then ignored: RFC 9110 13.1.3 */
    if (!request->if_modified_since.bytes || request->if_modified_since.size_bytes > 40)
        return false;
    char text[48];
    struct tm tm = {0};
    memcpy(text, request->if_modified_since.bytes, request->if_modified_since.size_bytes);
    text[request->if_modified_since.size_bytes] = '\0';
    const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return end && *end == '\0' && modified <= timegm(&tm);
}

/* ---- A file ------------------------------------------------------------------------------------------------- */

/* In steps, each with its own deadline: a slow client is no dead one. How much went; less than asked if the client is gone, or the file has
 * shrunk, which only closing can say. */
static int64_t send_body(struct session *s, struct cr_conn *file, const struct range *range)
{
    int64_t sent = 0;
    while (sent < range->size) {
        int64_t step = range->size - sent < STEP_BYTES ? range->size - sent : STEP_BYTES;
        ssize_t n = cr_sendfile_until(s->conn, file, range->first + sent, (size_t)step, cr_after(serve_options.write_timeout_ns));
        if (n <= 0)
            break;
        sent += n;
    }
    return sent;
}

static struct http_result send_file(struct session *s, const struct http_request *request, struct cr_conn *file,
                                    const struct stat *info, const char *name)
{
    char head[768], tag[64], modified[32];
    struct range range = {0, info->st_size, false};
    snprintf(tag, sizeof(tag), "\"%llx-%llx\"", (unsigned long long)info->st_mtim.tv_sec * 1000000000 + (unsigned long long)info->st_mtim.tv_nsec,
             (unsigned long long)info->st_size);
    http_date(info->st_mtime, modified);
    int status = 200;
    if (not_modified(request, tag, info->st_mtime))
        status = 304;
    else if (request->range.bytes && !request->head && (!request->if_range.bytes || same_text(&request->if_range, tag) || same_text(&request->if_range, modified)))
        status = parse_range(&request->range, info->st_size, &range);
    if (status == 0)
        status = 200;
    if (status == 416) {
        snprintf(head, sizeof(head), "Content-Range: bytes */%lld\r\n", (long long)info->st_size);
        return http_error(s, request, 416, head);
    }
    int size = http_head(s, head, sizeof(head), status, request);
    size += snprintf(head + size, sizeof(head) - (size_t)size, "Last-Modified: %s\r\nETag: %s\r\n", modified, tag);
    if (status != 304)
        size += snprintf(head + size, sizeof(head) - (size_t)size, "Accept-Ranges: bytes\r\nContent-Type: %s\r\nContent-Length: %lld\r\n",
                         http_mime_type(name), (long long)range.size);
    if (status == 206)
        size += snprintf(head + size, sizeof(head) - (size_t)size, "Content-Range: bytes %lld-%lld/%lld\r\n", (long long)range.first,
                         (long long)(range.first + range.size - 1), (long long)info->st_size);
    size += snprintf(head + size, sizeof(head) - (size_t)size, "\r\n");
    int64_t body = status != 304 && !request->head ? range.size : 0, sent = 0;
    bool alive = http_send(s, head, (size_t)size);
    if (alive && body > 0)
        sent = send_body(s, file, &range);
    return (struct http_result){status, sent, alive && sent == body && request->keep_alive};
}

/* ---- A folder ----------------------------------------------------------------------------------------------- */

struct text {
    char *bytes;
    size_t size, capacity;
    bool failed;
};

static void append(struct text *t, const char *bytes, size_t size)
{
    if (t->size + size > t->capacity) {
        size_t capacity = (t->capacity + size) * 2;
        char *more = realloc(t->bytes, capacity);
        if (!more) {
            t->failed = true;
            return;
        }
        t->bytes = more;
        t->capacity = capacity;
    }
    memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void append_html(struct text *t, const char *from)
{
    for (; *from; from++) {
        const char *as = *from == '<' ? "&lt;" : *from == '>' ? "&gt;" : *from == '&' ? "&amp;" : *from == '"' ? "&quot;" : NULL;
        if (as)
            append(t, as, strlen(as));
        else
            append(t, from, 1);
    }
}

static void append_url(struct text *t, const char *from)
{
    char code[4];
    for (; *from; from++) {
        unsigned char c = (unsigned char)*from;
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-._~", c);
        snprintf(code, sizeof(code), plain ? "%c" : "%%%02X", c);
        append(t, code, strlen(code));
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, sorted, folders with a slash behind; hidden ones left out. From malloc; the count, or -1. */
static int read_names(int fd, char ***names)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;
    int count = 0, capacity = 0;
    *names = NULL;
    if (!dir) {
        close(fd);
        return -1;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        if (count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            char **more = realloc(*names, (size_t)capacity * sizeof(*more));
            if (!more)
                break;
            *names = more;
        }
        char *name = malloc(strlen(entry->d_name) + 2);
        if (!name)
            break;
        strcpy(name, entry->d_name);
        if (entry->d_type == DT_DIR)
            strcat(name, "/");
        (*names)[count++] = name;
    }
    closedir(dir);
    if (count)
        qsort(*names, (size_t)count, sizeof(**names), by_name);
    return count;
}

static struct http_result send_listing(struct session *s, const struct http_request *request, int fd, const char *path)
{
    static const char style[] = "<style>body{font:16px/1.6 system-ui,sans-serif;margin:3em auto;max-width:46em;padding:0 1em}"
                                "a{text-decoration:none}a:hover{text-decoration:underline}li{list-style:none}</style>";
    struct text page = {0};
    char **names, head[512];
    int count = read_names(fd, &names);
    append(&page, "<!doctype html><meta charset=utf-8><title>", 42);
    append_html(&page, strcmp(path, ".") == 0 ? "/" : path);
    append(&page, "</title>", 8);
    append(&page, style, sizeof(style) - 1);
    append(&page, "<h1>", 4);
    append_html(&page, strcmp(path, ".") == 0 ? "/" : path);
    append(&page, "</h1><ul>", 9);
    if (strcmp(path, ".") != 0)
        append(&page, "<li><a href=\"../\">../</a>", 25);
    for (int i = 0; i < count; i++) {
        size_t length = strlen(names[i]);
        bool folder = names[i][length - 1] == '/';
        append(&page, "<li><a href=\"./", 15); /* "./", lest a colon in the name make it a scheme */
        if (folder)
            names[i][length - 1] = '\0';
        append_url(&page, names[i]);
        append(&page, folder ? "/\">" : "\">", folder ? 3 : 2);
        append_html(&page, names[i]);
        append(&page, folder ? "/</a>" : "</a>", folder ? 5 : 4);
        free(names[i]);
    }
    free(names);
    append(&page, "</ul>\n", 6);
    struct http_result result;
    if (page.failed || count < 0) {
        result = http_error(s, request, 503, "");
    } else {
        int size = http_head(s, head, sizeof(head), 200, request);
        size += snprintf(head + size, sizeof(head) - (size_t)size, "Content-Type: text/html; charset=utf-8\r\nContent-Length: %zu\r\n\r\n", page.size);
        bool sent = http_send(s, head, (size_t)size) && (request->head || http_send(s, page.bytes, page.size));
        result = (struct http_result){200, request->head ? 0 : (int64_t)page.size, sent && request->keep_alive};
    }
    free(page.bytes);
    return result;
}

/* To the same folder with a slash behind, so that relative links in it work. */
static struct http_result redirect(struct session *s, const struct http_request *request, const char *path)
{
    struct text line = {0};
    append(&line, "Location: ", 10);
    for (const char *part = path; *part;) {
        size_t length = strcspn(part, "/");
        char *name = strndup(part, length);
        append(&line, "/", 1);
        append_url(&line, name ? name : "");
        free(name);
        part += length;
        part += strspn(part, "/");
    }
    append(&line, "/", 1);
    const char *query = memchr(request->target.bytes, '?', request->target.size_bytes);
    if (query)
        append(&line, query, (size_t)(request->target.bytes + request->target.size_bytes - query));
    append(&line, "\r\n", 3); /* its NUL, too */
    struct http_result result = line.failed || line.size > HTTP_ERROR_HEADERS_BYTES ? http_error(s, request, 404, "") : http_error(s, request, 301, line.bytes);
    free(line.bytes);
    return result;
}

static struct http_result serve_folder(struct session *s, const struct http_request *request, int fd, const char *path)
{
    size_t length = strlen(path);
    if (strcmp(path, ".") != 0 && path[length - 1] != '/') {
        close(fd);
        return redirect(s, request, path);
    }
    char *index = malloc(length + sizeof("/index.html"));
    if (!index) {
        close(fd);
        return http_error(s, request, 503, "");
    }
    sprintf(index, "%s/index.html", path);
    int index_fd = open_below(index);
    free(index);
    struct stat info;
    struct cr_conn *file;
    if (index_fd >= 0 && stat_file(index_fd, &info) == 0 && S_ISREG(info.st_mode) && cr_conn_from_fd(&file, index_fd) == 0) {
        close(fd);
        struct http_result result = send_file(s, request, file, &info, "index.html");
        cr_close(file);
        return result;
    }
    if (index_fd >= 0)
        close(index_fd);
    return send_listing(s, request, fd, path);
}

struct http_result http_serve_file(struct session *s, const struct http_request *request)
{
    char *path = path_of(&request->target);
    if (!path)
        return http_error(s, request, 404, "");
    struct stat info;
    struct cr_conn *file;
    struct http_result result;
    int fd = open_below(path);
    if (fd < 0) {
        result = http_error(s, request, status_of(fd), "");
    } else if (stat_file(fd, &info) < 0 || !(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) {
        close(fd);
        result = http_error(s, request, 404, ""); /* a device, a pipe, a socket */
    } else if (S_ISDIR(info.st_mode)) {
        result = serve_folder(s, request, fd, path);
    } else if (cr_conn_from_fd(&file, fd) < 0) {
        close(fd);
        result = http_error(s, request, 503, "");
    } else {
        result = send_file(s, request, file, &info, path);
        cr_close(file);
    }
    free(path);
    return result;
}
