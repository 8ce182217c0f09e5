/* Connections over kernel sockets, pipes and files, by behaviour. */
#include <crore/crore.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "echo.h"
#include "test.h"

static char url[128];

/* A name in the abstract namespace: another process may run the same test. */
static const char *own_name(void)
{
    static char name[64];
    snprintf(name, sizeof(name), "unix:@crore-test-%d", (int)getpid());
    return name;
}

static struct cr_listener *listen_on(const char *where)
{
    struct cr_listener *l;
    CHECK_EQ(cr_listen(&l, where, NULL), 0);
    CHECK(cr_listener_url(l, url, sizeof(url)) > 0);
    return l;
}

/* Both ends of a fresh connection. */
static void connect_pair(const char *where, struct cr_conn **client, struct cr_conn **server)
{
    struct cr_listener *l = listen_on(where);
    CHECK_EQ(cr_dial(client, url, NULL), 0);
    CHECK_EQ(cr_accept(l, server), 0);
    cr_listener_close(l);
}

static int done;

static void talks(void *arg)
{
    struct cr_conn *conn;
    char text[32], back[32];
    CHECK_EQ(cr_dial(&conn, url, NULL), 0);
    for (int i = 0; i < 20; i++) {
        int size = snprintf(text, sizeof(text), "%d says %d", (int)(intptr_t)arg, i);
        CHECK_EQ(cr_write_all(conn, text, (size_t)size), size);
        for (int got = 0; got < size;) {
            ssize_t n = cr_read(conn, back + got, (size_t)(size - got));
            CHECK(n > 0);
            got += (int)n;
        }
        CHECK(memcmp(text, back, (size_t)size) == 0);
    }
    cr_close(conn);
    done++;
}

static void echo_with_many(const char *where)
{
    struct cr_listener *l = listen_on(where);
    struct cr_co *acceptor;
    CHECK_EQ(cr_spawn(&acceptor, accepts, l, NULL), 0);
    for (int i = 0; i < 200; i++)
        CHECK_EQ(cr_go(talks, (void *)(intptr_t)i), 0);
    while (done < 200)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_cancel(acceptor), 0);
    CHECK_EQ(cr_join(acceptor), 0);
    cr_listener_close(l);
}

TEST_CO(two_hundred_clients_are_echoed_over_tcp)
{
    echo_with_many("tcp://127.0.0.1:0");
}

TEST_CO_CONFIG(the_same_with_the_star_policy, &(struct cr_config){.policy = CR_POLICY_STAR})
{
    echo_with_many("tcp://127.0.0.1:0");
}

TEST_CO(two_hundred_clients_are_echoed_over_ipv6)
{
    struct cr_listener *l;
    if (cr_listen(&l, "tcp://[::1]:0", NULL) < 0)
        SKIP("no IPv6 here");
    cr_listener_close(l);
    echo_with_many("tcp://[::1]:0");
}

TEST_CO(two_hundred_clients_are_echoed_over_a_unix_socket)
{
    echo_with_many(own_name());
}

TEST_CO(megabytes_arrive_whole_and_in_order)
{
    enum { SIZE = 8 << 20 };
    struct cr_conn *client, *server;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_go(echoes, server), 0);
    static unsigned char out[SIZE], in[65536];
    for (size_t i = 0; i < SIZE; i++)
        out[i] = (unsigned char)(i * 2654435761u >> 13);
    size_t sent = 0, got = 0;
    while (got < SIZE) {
        if (sent < SIZE) {
            ssize_t n = cr_write_until(client, out + sent, SIZE - sent, cr_after(CR_MS));
            CHECK(n > 0 || n == -ETIMEDOUT);
            sent += n > 0 ? (size_t)n : 0;
        }
        ssize_t n = cr_read_until(client, in, sizeof(in), cr_after(CR_MS));
        CHECK(n > 0 || n == -ETIMEDOUT);
        for (ssize_t i = 0; i < n; i++)
            CHECK(in[i] == out[got + (size_t)i]);
        got += n > 0 ? (size_t)n : 0;
    }
    cr_close(client);
}

TEST_CO(a_deadline_ends_a_read_and_nothing_is_lost)
{
    struct cr_conn *client, *server;
    char byte;
    struct cr_lent lent;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    int64_t before = cr_now();
    CHECK_EQ(cr_read_until(server, &byte, 1, before + 5 * CR_MS), -ETIMEDOUT);
    CHECK(cr_now() - before >= 5 * CR_MS);
    CHECK_EQ(cr_recv_lend_until(server, &lent, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_wait_readable_until(server, 0), -ETIMEDOUT);
    CHECK_EQ(cr_write_all(client, "x", 1), 1);
    CHECK_EQ(cr_read_until(server, &byte, 1, cr_after(CR_SEC)), 1);
    CHECK_EQ(byte, 'x');
    cr_close(client);
    CHECK_EQ(cr_read(server, &byte, 1), 0);
    CHECK_EQ(cr_read(server, &byte, 1), 0); /* an end stays an end */
    cr_close(server);
}

TEST_CO(half_close_lets_the_other_side_finish)
{
    struct cr_conn *client, *server;
    char buf[16];
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_write_all(client, "ask", 3), 3);
    CHECK_EQ(cr_close_write(client), 0);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), 3);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), 0);
    CHECK_EQ(cr_write_all(server, "answer", 6), 6);
    cr_close(server);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), 6);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), 0);
    CHECK(cr_write(client, "x", 1) < 0);
    cr_close(client);
}

TEST_CO(data_and_the_end_in_one_event_are_both_seen)
{
    for (int i = 0; i < 200; i++) {
        struct cr_conn *client, *server;
        char buf[16];
        connect_pair("tcp://127.0.0.1:0", &client, &server);
        CHECK_EQ(cr_write_all(client, "bye", 3), 3);
        cr_close(client);
        CHECK_EQ(cr_read_until(server, buf, sizeof(buf), cr_after(CR_SEC)), 3);
        CHECK_EQ(cr_read_until(server, buf, sizeof(buf), cr_after(CR_SEC)), 0);
        cr_close(server);
    }
}

TEST_CO(a_reset_is_an_error_and_does_not_kill_the_program)
{
    struct cr_conn *client, *server;
    char buf[4];
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    cr_close_reset(client);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), -ECONNRESET);
    CHECK_EQ(cr_write(server, "x", 1), -EPIPE);
    cr_close(server);
}

TEST_CO(vectors_are_gathered_and_scattered)
{
    struct cr_conn *client, *server;
    char a[3], b[8];
    connect_pair(own_name(), &client, &server);
    struct iovec out[] = {{"one", 3}, {"two", 3}}, in[] = {{a, 3}, {b, 8}};
    CHECK_EQ(cr_writev(client, out, 2), 6);
    CHECK_EQ(cr_readv(server, in, 2), 6);
    CHECK(memcmp(a, "one", 3) == 0 && memcmp(b, "two", 3) == 0);
    cr_close(client);
    cr_close(server);
}

static void reads_one(void *arg)
{
    char byte;
    ssize_t n = cr_read(arg, &byte, 1);
    done = n < 0 ? (int)-n : byte;
}

TEST_CO(a_second_reader_is_refused)
{
    struct cr_conn *client, *server;
    char byte;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_go(reads_one, server), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_read(server, &byte, 1), -EBUSY);
    CHECK_EQ(cr_write_all(client, "y", 1), 1);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(done, 'y');
    cr_close(client);
    cr_close(server);
}

TEST_CO(closing_wakes_who_waits)
{
    struct cr_conn *client, *server;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_go(reads_one, server), 0);
    cr_yield();
    cr_close(server);
    while (!done)
        cr_yield();
    CHECK_EQ(done, EBADF);
    cr_close(client);
    cr_close(NULL);
    cr_close_reset(NULL);
    cr_listener_close(NULL);
}

TEST_CO(cancel_ends_a_read_and_takes_nothing)
{
    struct cr_conn *client, *server;
    struct cr_co *reader;
    char byte;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_spawn(&reader, reads_one, server, NULL), 0);
    cr_yield();
    CHECK_EQ(cr_cancel(reader), 0);
    CHECK_EQ(cr_write_all(client, "z", 1), 1);
    CHECK_EQ(cr_join(reader), 0);
    CHECK_EQ(done, ECANCELED);
    CHECK_EQ(cr_read(server, &byte, 1), 1);
    CHECK_EQ(byte, 'z');
    cr_close(client);
    cr_close(server);
}

/* Cancelled, and before it has run again the connection is gone: it must not touch it. */
TEST_CO(cancel_and_close_together_are_safe)
{
    for (int i = 0; i < 100; i++) {
        struct cr_conn *client, *server;
        struct cr_co *reader;
        done = 0;
        connect_pair("tcp://127.0.0.1:0", &client, &server);
        CHECK_EQ(cr_spawn(&reader, reads_one, server, NULL), 0);
        cr_yield();
        CHECK_EQ(cr_cancel(reader), 0);
        cr_close(server);
        struct cr_conn *a, *b; /* most likely in the same place */
        connect_pair("tcp://127.0.0.1:0", &a, &b);
        CHECK_EQ(cr_join(reader), 0);
        CHECK_EQ(done, EBADF);
        cr_close(a);
        cr_close(b);
        cr_close(client);
    }
}

TEST_CO(lent_buffers_may_be_kept_and_close_gives_them_back)
{
    struct cr_conn *client, *server;
    struct cr_lent kept[4], none = {0};
    struct cr_mem_stats before, after;
    for (int round = 0; round < 100; round++) {
        if (round == 1) /* a poller may have taken a stock of them */
            cr_mem_stats_get(&before);
        connect_pair("tcp://127.0.0.1:0", &client, &server);
        for (int i = 0; i < 4; i++) {
            CHECK_EQ(cr_write_all(client, &"abcd"[i], 1), 1);
            CHECK_EQ(cr_recv_lend(server, &kept[i]), 1);
        }
        for (int i = 0; i < 4; i++)
            CHECK_EQ(kept[i].bytes[0], "abcd"[i]);
        cr_recv_return(server, &kept[1]);
        cr_recv_return(server, &kept[1]); /* nothing to give back any more */
        cr_recv_return(server, &none);
        cr_close(client);
        CHECK_EQ(cr_recv_lend(server, &kept[1]), 0);
        CHECK(kept[1].bytes == NULL);
        cr_close(server);
    }
    cr_mem_stats_get(&after);
    CHECK(after.buffers_bytes - before.buffers_bytes < (1 << 20));
}

TEST_CO(what_can_not_be_reached_says_why)
{
    struct cr_conn *conn;
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0"), *other;
    CHECK_EQ(cr_listen(&other, url, NULL), -EADDRINUSE);
    cr_listener_close(l);
    CHECK_EQ(cr_dial(&conn, url, NULL), -ECONNREFUSED);
    CHECK_EQ(cr_dial(&conn, "tcp://:80", NULL), -EINVAL);
    CHECK_EQ(cr_dial(&conn, "gopher://127.0.0.1:70", NULL), -EPROTONOSUPPORT);
    CHECK_EQ(cr_listen(&l, "udp://127.0.0.1:0", NULL), -EINVAL);
    CHECK_EQ(cr_dial(&conn, "unix:/nowhere/at/all", NULL), -ENOENT);
    CHECK_EQ(cr_listen(&l, "tcp://192.0.2.1:80", NULL), -EADDRNOTAVAIL);
    CHECK_EQ(cr_dial(&conn, url, &(struct cr_conn_opts){.source = "not an address:x"}), -EINVAL);
    CHECK_EQ(cr_dial(&conn, url, &(struct cr_conn_opts){.flags = 1u << 30}), -EINVAL);
}

TEST_CO(a_dial_may_choose_where_it_comes_from)
{
    struct cr_conn *conn, *server;
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0");
    char peer[64];
    CHECK_EQ(cr_dial(&conn, url, &(struct cr_conn_opts){.source = "127.0.0.9"}), 0);
    CHECK_EQ(cr_accept(l, &server), 0);
    CHECK(cr_peer_url(server, peer, sizeof(peer)) > 0);
    CHECK(strncmp(peer, "tcp://127.0.0.9:", 16) == 0);
    CHECK(cr_local_url(server, peer, sizeof(peer)) > 0);
    CHECK(strcmp(peer, url) == 0);
    CHECK_EQ(cr_peer_url(server, peer, 5), -ENOBUFS);
    cr_close(conn);
    cr_close(server);
    cr_listener_close(l);
}

TEST_CO(an_accept_may_time_out_and_closing_ends_it)
{
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0");
    struct cr_conn *conn;
    CHECK_EQ(cr_accept_until(l, &conn, cr_after(2 * CR_MS)), -ETIMEDOUT);
    struct cr_co *acceptor;
    CHECK_EQ(cr_spawn(&acceptor, accepts, l, NULL), 0);
    cr_yield();
    cr_listener_close(l);
    CHECK_EQ(cr_join(acceptor), 0);
}

TEST_CO(a_dead_unix_socket_is_replaced_a_living_one_is_not)
{
    struct cr_listener *l, *other;
    char where[64], path[48];
    snprintf(path, sizeof(path), "/tmp/crore-test-%d", (int)getpid());
    snprintf(where, sizeof(where), "unix:%s", path);
    CHECK_EQ(cr_listen(&l, where, &(struct cr_conn_opts){.mode = 0600}), 0);
    struct stat info;
    CHECK_EQ(stat(path, &info), 0);
    CHECK_EQ(info.st_mode & 0777, 0600);
    CHECK_EQ(cr_listen(&other, where, NULL), -EADDRINUSE);
    cr_listener_close(l);
    CHECK_EQ(stat(path, &info), -1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* leaves its file behind, as a killed server does */
    struct sockaddr {
        unsigned short family;
        char path[108];
    } addr = {AF_UNIX, {0}};
    memcpy(addr.path, path, strlen(path));
    CHECK_EQ(bind(fd, (void *)&addr, sizeof(addr)), 0);
    close(fd);
    CHECK_EQ(cr_listen(&l, where, NULL), 0);
    cr_listener_close(l);
}

TEST_CO(datagrams_keep_their_bounds_and_their_sender)
{
    struct cr_conn *server, *client;
    struct cr_addr from;
    char buf[8], where[64];
    CHECK_EQ(cr_bind(&server, "udp://127.0.0.1:0", NULL), 0);
    CHECK(cr_local_url(server, where, sizeof(where)) > 0);
    CHECK_EQ(cr_dial(&client, where, NULL), 0);
    CHECK_EQ(cr_send_to(client, "one", 3, NULL), 3);
    CHECK_EQ(cr_send_to(client, "a long datagram", 15, NULL), 15);
    CHECK_EQ(cr_recv_from(server, buf, sizeof(buf), &from), 3);
    CHECK_EQ(cr_recv_from(server, buf, sizeof(buf), NULL), 15);
    CHECK_EQ(cr_send_to(server, "back", 4, &from), 4);
    CHECK_EQ(cr_read(client, buf, sizeof(buf)), 4);
    CHECK_EQ(cr_recv_from_until(server, buf, sizeof(buf), NULL, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_bind(&server, "tcp://127.0.0.1:0", NULL), -EINVAL);
    cr_close(client);
    cr_close(server);
}

TEST_CO(any_fd_may_be_brought)
{
    int ends[2];
    struct cr_conn *in, *out, *event;
    char buf[8];
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_conn_from_fd(&in, ends[0]), 0);
    CHECK_EQ(cr_conn_from_fd(&out, ends[1]), 0);
    CHECK_EQ(cr_read_until(in, buf, sizeof(buf), cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_write_all(out, "pipe", 4), 4);
    CHECK_EQ(cr_wait_readable(in), 0);
    CHECK_EQ(cr_read(in, buf, sizeof(buf)), 4);
    CHECK_EQ(cr_close_write(in), -EOPNOTSUPP);
    CHECK_EQ(cr_peer_url(in, buf, sizeof(buf)), -EOPNOTSUPP);
    CHECK_EQ(cr_conn_fd(in), ends[0]);
    cr_close(out);
    CHECK_EQ(cr_read(in, buf, sizeof(buf)), 0);
    cr_close(in);
    uint64_t three = 3;
    CHECK_EQ(cr_conn_from_fd(&event, eventfd(0, 0)), 0);
    CHECK_EQ(cr_wait_readable_until(event, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_write(event, &three, 8), 8);
    CHECK_EQ(cr_read(event, &three, 8), 8);
    CHECK_EQ(three, 3);
    cr_close(event);
    CHECK_EQ(cr_conn_from_fd(&event, 9999), -EBADF);
}

TEST_CO(files_are_read_written_and_sent)
{
    char path[64], buf[16];
    struct cr_conn *file, *client, *server;
    snprintf(path, sizeof(path), "/tmp/crore-file-%d", (int)getpid());
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(cr_write_all(file, "0123456789", 10), 10);
    CHECK_EQ(cr_pread(file, buf, 4, 3), 4);
    CHECK(memcmp(buf, "3456", 4) == 0);
    CHECK_EQ(cr_pwrite(file, "X", 1, 0), 1);
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_sendfile(client, file, 0, 100), 10);
    CHECK_EQ(cr_read(server, buf, sizeof(buf)), 10);
    CHECK(memcmp(buf, "X123456789", 10) == 0);
    CHECK_EQ(cr_sendfile(client, server, 0, 1), -EINVAL);
    CHECK_EQ(cr_pread(client, buf, 1, 0), -EOPNOTSUPP);
    CHECK_EQ(cr_wait_readable(file), 0);
    cr_close(file);
    CHECK_EQ(cr_file_open(&file, "/nowhere/at/all", O_RDONLY, 0), -ENOENT);
    CHECK_EQ(cr_file_open(&file, NULL, O_RDONLY, 0), -EFAULT);
    CHECK_EQ(cr_file_open(&file, path, O_RDONLY, 0), 0);
    CHECK_EQ(cr_read(file, buf, 4), 4);
    CHECK_EQ(cr_read(file, buf + 4, 12), 6); /* goes on from there */
    CHECK_EQ(cr_read(file, buf, 4), 0);
    cr_close(file);
    unlink(path);
    cr_close(client);
    cr_close(server);
}

#define BLOCK 4096
#define BLOCKS 5

static int64_t position_of(const struct cr_conn *file)
{
    return lseek(cr_conn_fd(file), 0, SEEK_CUR);
}

/* Each block has its number in each byte. */
static void check_block(const char *bytes, int number)
{
    for (int i = 0; i < BLOCK; i++)
        CHECK_EQ(bytes[i], number);
}

static void goes_through_a_file(int flags)
{
    static char bytes[2 * BLOCK] __attribute__((aligned(BLOCK)));
    struct cr_conn *file;
    int fd = test_file("/var/tmp");
    if (fcntl(fd, F_SETFL, flags) < 0)
        SKIP("no O_DIRECT in /var/tmp");
    CHECK_EQ(cr_conn_from_fd(&file, fd), 0);
    for (int i = 0; i < BLOCKS; i++) {
        memset(bytes, i, BLOCK);
        CHECK_EQ(cr_write(file, bytes, BLOCK), BLOCK);
        CHECK_EQ(position_of(file), (i + 1) * BLOCK);
    }
    CHECK_EQ(fsync(fd), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);

    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    for (int i = 0; i < BLOCKS - 2; i++) {
        CHECK_EQ(cr_read(file, bytes, BLOCK), BLOCK);
        check_block(bytes, i);
        CHECK_EQ(position_of(file), (i + 1) * BLOCK);
    }
    CHECK_EQ(cr_pread(file, bytes, BLOCK, 0), BLOCK); /* moves nothing */
    CHECK_EQ(cr_readv(file, (struct iovec[]){{bytes, BLOCK}, {bytes + BLOCK, BLOCK}}, 2), 2 * BLOCK);
    check_block(bytes, BLOCKS - 2);
    check_block(bytes + BLOCK, BLOCKS - 1);
    CHECK_EQ(cr_read(file, bytes, BLOCK), 0);

    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(fcntl(fd, F_SETFL, flags | O_APPEND), 0);
    memset(bytes, BLOCKS, BLOCK);
    CHECK_EQ(cr_write(file, bytes, BLOCK), BLOCK);
    CHECK_EQ(position_of(file), (BLOCKS + 1) * BLOCK);
    CHECK_EQ(cr_pread(file, bytes, BLOCK, BLOCKS * BLOCK), BLOCK);
    check_block(bytes, BLOCKS);
    cr_close(file);
}

TEST_CO(a_file_is_read_and_written_from_where_the_last_call_stopped)
{
    goes_through_a_file(0);
}

TEST_CO(so_it_is_past_the_page_cache)
{
    goes_through_a_file(O_DIRECT);
}

TEST_CO(names_are_looked_up_and_numeric_addresses_are_not)
{
    struct cr_addr addrs[8];
    CHECK_EQ(cr_resolve("127.0.0.1", 80, addrs, 8), 1);
    CHECK_EQ(addrs[0].sa.ss_family, AF_INET);
    CHECK_EQ(cr_resolve("::1", 80, addrs, 8), 1);
    CHECK_EQ(addrs[0].sa.ss_family, AF_INET6);
    CHECK_EQ(cr_resolve("localhost", 80, addrs, 8), 2);
    CHECK_EQ(addrs[0].sa.ss_family, AF_INET);
    CHECK_EQ(addrs[1].sa.ss_family, AF_INET6);
    CHECK_EQ(ntohs(((struct sockaddr_in *)&addrs[0].sa)->sin_port), 80);
    CHECK_EQ(cr_resolve("A.LocalHost", 80, addrs, 1), 1);
    CHECK_EQ(cr_resolve("", 80, addrs, 8), -EINVAL);
    struct cr_listener *l = listen_on("tcp://localhost:0");
    struct cr_conn *conn;
    char by_name[64];
    snprintf(by_name, sizeof(by_name), "tcp://localhost:%s", strrchr(url, ':') + 1);
    CHECK_EQ(cr_dial_until(&conn, by_name, NULL, cr_after(5 * CR_SEC)), 0);
    cr_close(conn);
    cr_listener_close(l);
}

/* A name that the hosts file has beside localhost; false if there is none. */
static bool known_name(char *name)
{
    char line[512];
    FILE *hosts = fopen("/etc/hosts", "re");
    bool found = false;
    while (hosts && !found && fgets(line, sizeof(line), hosts))
        found = sscanf(line, "%*[0-9.] %63s", name) == 1 && !strstr(name, "localhost");
    if (hosts)
        fclose(hosts);
    return found;
}

TEST_CO(a_name_of_the_hosts_file_is_found)
{
    char name[64];
    struct cr_addr addr;
    if (!known_name(name))
        SKIP("/etc/hosts has no name beside localhost");
    CHECK_EQ(cr_resolve(name, 80, &addr, 1), 1);
    CHECK_EQ(addr.sa.ss_family, AF_INET);
    CHECK_EQ(ntohs(((struct sockaddr_in *)&addr.sa)->sin_port), 80);
}

TEST_CO(a_lookup_that_takes_too_long_is_given_up)
{
    struct cr_addr addr;
    int r = cr_resolve_until("no-such-host.invalid", 80, &addr, 1, cr_after(200 * CR_MS));
    CHECK(r == -ETIMEDOUT || r == -ENOENT || r == -EAGAIN);
    struct cr_listener *l;
    struct cr_conn *conn;
    int64_t begin_ns = cr_now();
    r = cr_listen_until(&l, "tcp://no-such-host.invalid:0", NULL, cr_after(200 * CR_MS));
    CHECK(r == -ETIMEDOUT || r == -ENOENT || r == -EAGAIN);
    r = cr_bind_until(&conn, "udp://no-such-host.invalid:0", NULL, cr_after(200 * CR_MS));
    CHECK(r == -ETIMEDOUT || r == -ENOENT || r == -EAGAIN);
    CHECK(cr_now() - begin_ns < 20 * CR_SEC);
}

TEST_CO(without_file_descriptors_accept_says_so_and_loses_nothing)
{
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind accepts, sees that the number is too high, and closes: the connection is lost");
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0");
    struct cr_conn *client, *server;
    CHECK_EQ(cr_dial(&client, url, NULL), 0);
    struct rlimit before, tight;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = 3;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    CHECK_EQ(cr_accept(l, &server), -EMFILE);
    CHECK_EQ(cr_accept(l, &server), -EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    CHECK_EQ(cr_accept(l, &server), 0);
    char byte;
    CHECK_EQ(cr_write_all(client, "q", 1), 1);
    CHECK_EQ(cr_read(server, &byte, 1), 1);
    cr_close(client);
    cr_close(server);
    cr_listener_close(l);
}

static void floods(void *arg)
{
    static char bytes[65536];
    while (cr_write(arg, bytes, sizeof(bytes)) > 0 && !done)
        ;
    cr_close(arg);
}

static void swallows(void *arg)
{
    static char bytes[65536];
    while (cr_read(arg, bytes, sizeof(bytes)) > 0)
        ;
    cr_close(arg);
}

TEST_CO(a_connection_that_is_always_ready_does_not_keep_the_worker)
{
    struct cr_conn *client, *server;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_go(floods, client), 0);
    CHECK_EQ(cr_go(swallows, server), 0);
    for (int i = 0; i < (test_under_seed() ? 2 : 20); i++) /* where a millisecond is a thousand turns, however long they take */
        CHECK_EQ(cr_sleep(CR_MS), 0);
    done = 1;
}

static void leaves_open(void *unused)
{
    struct cr_conn *client, *server;
    struct cr_co *co;
    (void)unused;
    connect_pair("tcp://127.0.0.1:0", &client, &server);
    CHECK_EQ(cr_spawn(&co, reads_one, server, NULL), 0);
    CHECK_EQ(cr_cancel(co), 0);
    CHECK_EQ(cr_join(co), 0);
}

static void says_nothing(void *unused)
{
    (void)unused;
}

static int count_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1000; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void closes_after_64_calls(void *conn)
{
    cr_close(conn); /* runs when the reader yields for fairness */
    done = true;
}

TEST_CO(closing_while_the_reader_yields_is_told_and_safe)
{
    struct cr_conn *client, *server;
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0");
    CHECK_EQ(cr_dial(&client, url, NULL), 0);
    CHECK_EQ(cr_accept(l, &server), 0);
    static char bytes[4096];
    CHECK_EQ(cr_write_all(client, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    CHECK_EQ(cr_go(closes_after_64_calls, server), 0);
    ssize_t n;
    char byte;
    done = false;
    int reads = 0;
    while ((n = cr_read(server, &byte, 1)) == 1)
        reads++;
    CHECK(done);
    CHECK_EQ(n, -EBADF);
    CHECK(reads < 64);
    cr_close(client);
    cr_listener_close(l);
}

TEST_CO(with_a_deadline_in_the_past_it_is_tried_once)
{
    struct cr_conn *client, *server;
    struct cr_listener *l = listen_on("tcp://127.0.0.1:0");
    char bytes[8];
    CHECK_EQ(cr_dial(&client, url, NULL), 0);
    CHECK_EQ(cr_write_all(client, "here", 4), 4);
    CHECK_EQ(cr_accept(l, &server), 0);
    CHECK_EQ(cr_wait_readable_until(server, 0), 0);
    CHECK_EQ(cr_read_until(server, bytes, sizeof(bytes), 0), 4);
    CHECK_EQ(cr_read_until(server, bytes, sizeof(bytes), 0), -ETIMEDOUT);
    CHECK_EQ(cr_wait_readable_until(server, 0), -ETIMEDOUT);
    cr_close(client);
    cr_close(server);
    cr_listener_close(l);
}

TEST_CO(writing_to_a_closed_pipe_is_an_error_and_no_signal)
{
    int ends[2];
    struct cr_conn *writer;
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_conn_from_fd(&writer, ends[1]), 0);
    close(ends[0]);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cr_write(writer, "x", 1), -EPIPE);
        CHECK_EQ(cr_writev(writer, &(struct iovec){(void *)"x", 1}, 1), -EPIPE);
        CHECK_EQ(cr_sleep(CR_MS), 0); /* where a pending one would be taken */
    }
    cr_close(writer);
}

static struct cr_conn *kept;

static void close_kept(void *value)
{
    CHECK(value == &kept);
    cr_close(kept);
    done = true;
}

static void sleeps_for_ever(void *unused)
{
    (void)unused;
    cr_sleep_until(CR_FOREVER);
}

static void waits_for_ever(void *unused)
{
    int ends[2];
    unsigned key;
    struct cr_co *other;
    (void)unused;
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_conn_from_fd(&kept, ends[0]), 0);
    CHECK_EQ(cr_local_key(&key, close_kept), 0);
    CHECK_EQ(cr_local_set(key, &kept), 0);
    CHECK_EQ(cr_spawn(&other, sleeps_for_ever, NULL, NULL), 0);
    CHECK(cr_join(other) < 0);
}

TEST(local_storage_of_what_never_ended_may_still_close_connections)
{
    int devnull = open("/dev/null", O_WRONLY);
    done = false;
    CHECK_EQ(cr_run(waits_for_ever, NULL, &(struct cr_config){.report_fd = devnull}), -EDEADLK);
    CHECK(done);
}

static struct cr_conn *elsewhere;

static void *uses_it_outside(void *unused)
{
    char byte;
    CHECK_EQ(cr_read(elsewhere, &byte, 1), -EPERM);
    CHECK_EQ(cr_write(elsewhere, &byte, 1), -EPERM);
    CHECK_EQ(cr_wait_readable(elsewhere), -EPERM);
    CHECK_EQ(cr_dial(&elsewhere, "tcp://127.0.0.1:1", NULL), -EPERM);
    CHECK_EQ(cr_yield(), -EPERM);
    CHECK_EQ(cr_sleep(1), -EPERM);
    cr_close(elsewhere); /* does nothing */
    return unused;
}

TEST_CO(outside_a_coroutine_calls_are_refused)
{
    pthread_t thread;
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(cr_conn_from_fd(&elsewhere, ends[0]), 0);
    CHECK_EQ(pthread_create(&thread, NULL, uses_it_outside, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    char byte;
    CHECK_EQ(cr_read(elsewhere, &byte, 1), 1);
    cr_close(elsewhere);
    close(ends[1]);
}

#define OPEN_BEFORE_IT 200
static struct cr_sem never;

static void borrows_for_ever(void *unused)
{
    struct cr_lent lent;
    (void)unused;
    CHECK_EQ(cr_recv_lend(elsewhere, &lent), 1);
    done = true;
    (void)!cr_sem_wait(&never);
}

/* The connection is this worker's, the buffer that hangs on it the other's. */
static void leaves_a_buffer_on_it(void *unused)
{
    struct cr_conn *before;
    int ends[2];
    (void)unused;
    for (int i = 0; i < OPEN_BEFORE_IT; i++)
        CHECK_EQ(cr_conn_from_fd(&before, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), 0);
    CHECK_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(close(ends[1]), 0);
    CHECK_EQ(cr_conn_from_fd(&elsewhere, ends[0]), 0);
    CHECK_EQ(cr_go_on(1 - (unsigned)cr_worker_index(), borrows_for_ever, NULL), 0);
    (void)!cr_sem_wait(&never);
}

TEST(a_buffer_that_hangs_on_another_workers_connection_goes_back_at_the_end)
{
    SKIP_SEVERAL_UNDER_SEED();
    int devnull = open("/dev/null", O_WRONLY);
    for (int round = 0; round < 30; round++) {
        done = false;
        memset(&never, 0, sizeof(never)); /* those of the last round have never left it */
        CHECK_EQ(cr_run(leaves_a_buffer_on_it, NULL, &(struct cr_config){.workers = 2, .report_fd = devnull}), -EDEADLK);
        CHECK(done);
    }
}

TEST(what_was_left_open_is_closed_with_the_runtime)
{
    CHECK_EQ(cr_run(says_nothing, NULL, NULL), 0); /* what freezes stacks is open for as long as the process */
    int before = count_fds();
    CHECK_EQ(cr_run(leaves_open, NULL, NULL), 0);
    CHECK_EQ(count_fds(), before);
}
