/* URLs: what is understood, and what is refused. */
#include "conn/conn.h"
#include "test.h"

#include <arpa/inet.h>

static struct cr__url url;

TEST(tcp_and_udp_urls_are_taken_apart)
{
    CHECK_EQ(cr__url_parse(&url, "tcp://127.0.0.1:7000"), 0);
    CHECK(url.scheme == CR__TCP && strcmp(url.host, "127.0.0.1") == 0 && url.port == 7000);
    CHECK_EQ(cr__url_parse(&url, "tcp://[::1]:80"), 0);
    CHECK(strcmp(url.host, "::1") == 0 && url.port == 80);
    CHECK_EQ(cr__url_parse(&url, "udp://example.org:53"), 0);
    CHECK(url.scheme == CR__UDP && strcmp(url.host, "example.org") == 0);
    CHECK_EQ(cr__url_parse(&url, "tcp://:0"), 0);
    CHECK(url.host[0] == '\0' && url.port == 0);
}

TEST(unix_urls_are_taken_apart)
{
    CHECK_EQ(cr__url_parse(&url, "unix:/tmp/s"), 0);
    CHECK(url.scheme == CR__UNIX && strcmp(url.host, "/tmp/s") == 0);
    CHECK_EQ(cr__url_parse(&url, "unix:///tmp/s"), 0);
    CHECK(strcmp(url.host, "/tmp/s") == 0);
    CHECK_EQ(cr__url_parse(&url, "unix:@name"), 0);
    CHECK(strcmp(url.host, "@name") == 0);
}

TEST(nonsense_is_refused)
{
    static const char *const bad[] = {"", "tcp", "tcp://", "tcp://host", "tcp://host:", "tcp://host:65536", "tcp://host:-1",
        "tcp://host:80x", "tcp://[::1", "tcp://[::1]80", "tcp://a/b:80", "unix:", "unix:relative", "unix:/", "127.0.0.1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        printf("# %s\n", bad[i]);
        CHECK_EQ(cr__url_parse(&url, bad[i]), -EINVAL);
    }
    CHECK_EQ(cr__url_parse(&url, NULL), -EINVAL);
    CHECK_EQ(cr__url_parse(&url, "http://host:80"), -EPROTONOSUPPORT);
    char long_path[300] = "unix:/";
    memset(long_path + 6, 'a', 200);
    CHECK_EQ(cr__url_parse(&url, long_path), -EINVAL);
    char long_host[400] = "tcp://";
    memset(long_host + 6, 'a', 300);
    memcpy(long_host + 306, ":80", 4);
    CHECK_EQ(cr__url_parse(&url, long_host), -EINVAL);
}

TEST(addresses_are_written_as_urls)
{
    char buf[128];
    struct cr_addr addr = {.size_bytes = sizeof(struct sockaddr_in)};
    struct sockaddr_in *in = (void *)&addr.sa;
    in->sin_family = AF_INET;
    in->sin_port = htons(80);
    in->sin_addr.s_addr = htonl(0x7f000001);
    CHECK_EQ(cr__url_format(CR__TCP, &addr, buf, sizeof(buf)), 18);
    CHECK(strcmp(buf, "tcp://127.0.0.1:80") == 0);
    CHECK_EQ(cr__url_format(CR__TCP, &addr, buf, 10), -ENOBUFS);
}
