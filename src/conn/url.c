#include "conn/conn.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

static int parse_port(const char *text, uint16_t *port)
{
    unsigned n = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 5 || text[digits] != '\0')
        return -EINVAL;
    for (size_t i = 0; i < digits; i++)
        n = n * 10 + (unsigned)(text[i] - '0');
    if (n > 65535)
        return -EINVAL;
    *port = (uint16_t)n;
    return 0;
}

static int copy_host(struct cr__url *url, const char *from, size_t length)
{
    if (length >= sizeof(url->host) || memchr(from, '/', length))
        return -EINVAL;
    memcpy(url->host, from, length);
    url->host[length] = '\0';
    return 0;
}

int cr__url_parse_authority(struct cr__url *url, const char *text, bool port_needed)
{
    const char *after;
    int r;
    if (*text == '[') {
        const char *close = strchr(text, ']');
        if (!close)
            return -EINVAL;
        r = copy_host(url, text + 1, (size_t)(close - text - 1));
        after = close + 1;
    } else {
        after = text + strcspn(text, ":");
        r = copy_host(url, text, (size_t)(after - text));
    }
    if (r < 0)
        return r;
    if (*after == ':')
        return parse_port(after + 1, &url->port);
    url->port = 0;
    return *after || port_needed ? -EINVAL : 0;
}

static int parse_unix(struct cr__url *url, const char *path)
{
    if (path[0] == '/' && path[1] == '/') /* unix:///tmp/x is the same as unix:/tmp/x */
        path += 2;
    size_t length = strlen(path);
    if ((*path != '/' && *path != '@') || length < 2 || length >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -EINVAL;
    memcpy(url->host, path, length + 1);
    url->port = 0;
    return 0;
}

int cr__url_parse(struct cr__url *url, const char *text)
{
    if (!text)
        return -EINVAL;
    if (strncmp(text, "unix:", 5) == 0) {
        url->scheme = CR__UNIX;
        return parse_unix(url, text + 5);
    }
    if (strncmp(text, "tcp://", 6) == 0)
        url->scheme = CR__TCP;
    else if (strncmp(text, "udp://", 6) == 0)
        url->scheme = CR__UDP;
    else
        return strchr(text, ':') ? -EPROTONOSUPPORT : -EINVAL;
    return cr__url_parse_authority(url, text + 6, true);
}

static int format_unix(const struct cr_addr *addr, char *buf, size_t size_bytes)
{
    const struct sockaddr_un *un = (const void *)&addr->sa;
    int length = (int)(addr->size_bytes - offsetof(struct sockaddr_un, sun_path));
    if (length <= 0) /* an unnamed socket: the dialling side's */
        return snprintf(buf, size_bytes, "unix:");
    if (un->sun_path[0] == '\0')
        return snprintf(buf, size_bytes, "unix:@%.*s", length - 1, un->sun_path + 1);
    return snprintf(buf, size_bytes, "unix:%.*s", (int)strnlen(un->sun_path, (size_t)length), un->sun_path);
}

int cr__url_format(enum cr__scheme scheme, const struct cr_addr *addr, char *buf, size_t size_bytes)
{
    const char *name = scheme == CR__UDP ? "udp" : "tcp";
    char host[INET6_ADDRSTRLEN];
    int length;
    switch (addr->sa.ss_family) {
    case AF_INET: {
        const struct sockaddr_in *in = (const void *)&addr->sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        length = snprintf(buf, size_bytes, "%s://%s:%u", name, host, ntohs(in->sin_port));
        break;
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in6 = (const void *)&addr->sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        length = snprintf(buf, size_bytes, "%s://[%s]:%u", name, host, ntohs(in6->sin6_port));
        break;
    }
    case AF_UNIX:
        length = format_unix(addr, buf, size_bytes);
        break;
    default:
        return -EOPNOTSUPP;
    }
    return (size_t)length < size_bytes ? length : -ENOBUFS;
}
