/* What is special about io_uring: what has come before anybody asked, its bounds, who may touch the ring, and what happens where the kernel refuses it.
 * All else is the other tests', which run over both pollers. */
#include <crore/crore.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "test.h"

static const struct cr_config one = {.workers = 1, .poller = CR_POLLER_URING};
static const struct cr_config several = {.workers = 3, .poller = CR_POLLER_URING};

/* The body runs over io_uring, or is skipped. */
#define TEST_URING(test_name, config)                                                                                  \
    static void body_of_##test_name(void *unused);                                                                     \
    TEST(test_name)                                                                                                    \
    {                                                                                                                  \
        if (test_uring_refused())                                                                                      \
            SKIP("io_uring is refused here");                                                                          \
        CHECK_EQ(cr_run(body_of_##test_name, NULL, config), 0);                                                        \
    }                                                                                                                  \
    static void body_of_##test_name(void *unused __attribute__((unused)))

static struct cr_listener *listener;
static char url[128];

static void listen_anywhere(void)
{
    CHECK_EQ(cr_listen(&listener, "tcp://127.0.0.1:0", NULL), 0);
    CHECK(cr_listener_url(listener, url, sizeof(url)) > 0);
}

/* Both ends of a connection on which the server has received a byte: from now on it is received ahead. */
static void connect_pair(struct cr_conn **client, struct cr_conn **server)
{
    char byte;
    CHECK_EQ(cr_dial(client, url, NULL), 0);
    CHECK_EQ(cr_accept(listener, server), 0);
    CHECK_EQ(cr_read_until(*server, &byte, 1, cr_after(CR_US)), -ETIMEDOUT);
    CHECK_EQ(cr_write_all(*client, "!", 1), 1);
    CHECK_EQ(cr_read(*server, &byte, 1), 1);
}

static unsigned closes_listener;
static struct cr_sem listens_now, never;

static void close_listener(void *value)
{
    cr_listener_close(value);
}

/* From now on its socket is worker 1's to close. */
static void listens(void *unused)
{
    struct cr_conn *conn;
    (void)unused;
    listen_anywhere();
    CHECK_EQ(cr_accept_until(listener, &conn, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_sem_post(&listens_now, 1), 0);
}

static void never_closes_it(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sem_wait(&listens_now), 0);
    CHECK_EQ(cr_local_set(closes_listener, listener), 0);
    (void)!cr_sem_wait(&never);
}

static void leaves_it_to_the_end(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_go_on(0, never_closes_it, NULL), 0);
    CHECK_EQ(cr_go_on(1, listens, NULL), 0);
}

TEST(what_is_dropped_may_close_what_another_worker_watches)
{
    if (test_uring_refused())
        SKIP("io_uring is refused here");
    int devnull = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct cr_config config = several;
    config.report_fd = devnull;
    CHECK_EQ(cr_local_key(&closes_listener, close_listener), 0);
    for (int round = 0; round < 20; round++) {
        memset(&never, 0, sizeof(never)); /* that of the last round has never left it */
        CHECK_EQ(cr_run(leaves_it_to_the_end, NULL, &config), -EDEADLK);
    }
    CHECK_EQ(close(devnull), 0);
}

/* The byte of a stream at a place. */
static char byte_at(uint64_t place)
{
    return (char)((place * 0x9e3779b97f4a7c15u) >> 56);
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- Which poller ------------------------------------------------------------------------------------------- */

static void ends(void *unused)
{
    (void)unused;
    CHECK_EQ(cr_sleep(CR_US), 0);
}

static void asks_for_something_else(void)
{
    setenv("CR_POLLER", "kqueue", 1);
    CHECK_EQ(cr_run(ends, NULL, NULL), -EINVAL);
    CHECK_EQ(cr_run(ends, NULL, &(struct cr_config){.poller = CR_POLLER_EPOLL}), 0); /* the choice is not left open */
}

TEST(a_poller_that_there_is_not_is_an_error)
{
    char text[4096];
    CHECK_EQ(cr_run(ends, NULL, &(struct cr_config){.poller = 7}), -EINVAL);
    CHECK_EQ(test_capture(asks_for_something_else, text, sizeof(text)), 0);
    CHECK_STR(text, "CR_POLLER=kqueue: epoll or uring is meant");
}

static void exchanges(void *unused)
{
    struct cr_conn *client, *server;
    (void)unused;
    listen_anywhere();
    connect_pair(&client, &server);
    cr_close(client);
    cr_close(server);
    cr_listener_close(listener);
}

static void runs_without_io_uring(void)
{
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(steps) / sizeof(*steps), .filter = steps};
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    CHECK_EQ(cr_run(exchanges, NULL, &several), 0);
}

TEST(where_io_uring_is_refused_a_line_says_so_and_epoll_serves)
{
    char text[4096];
    CHECK_EQ(test_capture(runs_without_io_uring, text, sizeof(text)), 0);
    char *line = strstr(text, "crore: io_uring can't be used (");
    CHECK(line != NULL);
    CHECK(strstr(line + 1, "crore: io_uring") == NULL);
}

/* ---- Bounds ------------------------------------------------------------------------------------------------- */

static char block[1 << 16];

/* Writes the stream until the peer takes no more. Returns how much. */
static uint64_t fill(struct cr_conn *conn)
{
    uint64_t sent = 0;
    for (;;) {
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = byte_at(sent + i);
        ssize_t n = cr_write_until(conn, block, sizeof(block), cr_after(100 * CR_MS));
        if (n == -ETIMEDOUT)
            return sent;
        CHECK(n > 0);
        sent += (uint64_t)n;
    }
}

static void expect(struct cr_conn *conn, uint64_t from, uint64_t to)
{
    static char got[50000];
    while (from < to) {
        ssize_t n = cr_read(conn, got, sizeof(got));
        CHECK(n > 0 && (uint64_t)n <= to - from);
        for (ssize_t i = 0; i < n; i++)
            CHECK_EQ(got[i], byte_at(from + (uint64_t)i));
        from += (uint64_t)n;
    }
}

TEST_URING(who_does_not_read_pushes_the_peer_back_and_loses_nothing, &one)
{
    struct cr_conn *client, *server;
    struct cr_mem_stats stats;
    listen_anywhere();
    connect_pair(&client, &server);
    uint64_t sent = fill(client);
    cr_mem_stats_get(&stats);
    CHECK(stats.buffers_bytes < 10 << 20); /* the worker's stock, and once as much */
    expect(server, 0, sent);
    char byte;
    CHECK_EQ(cr_write_all(client, "x", 1), 1);
    CHECK_EQ(cr_read(server, &byte, 1), 1); /* and it goes on */
    CHECK_EQ(byte, 'x');
    cr_close(client);
    CHECK_EQ(cr_read(server, &byte, 1), 0);
    cr_close(server);
    cr_listener_close(listener);
}

#define CROWD 600 /* more than a worker has buffers with its ring */

TEST_URING(more_connections_than_buffers_are_all_served, &one)
{
    static struct cr_conn *clients[CROWD], *servers[CROWD];
    listen_anywhere();
    for (int i = 0; i < CROWD; i++)
        connect_pair(&clients[i], &servers[i]);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CROWD; i++) {
            char byte;
            CHECK_EQ(cr_read_until(servers[i], &byte, 1, cr_after(1)), -ETIMEDOUT); /* it is received for all */
        }
        for (int i = 0; i < CROWD; i++)
            CHECK_EQ(cr_write_all(clients[i], &i, sizeof(i)), sizeof(i));
        CHECK_EQ(cr_sleep(10 * CR_MS), 0);
        for (int i = 0; i < CROWD; i++) {
            int got = -1;
            CHECK_EQ(cr_read(servers[i], &got, sizeof(got)), sizeof(got));
            CHECK_EQ(got, i);
        }
    }
    for (int i = 0; i < CROWD; i++) {
        cr_close(clients[i]);
        cr_close(servers[i]);
    }
    cr_listener_close(listener);
}

/* ---- Closing ------------------------------------------------------------------------------------------------ */

TEST_URING(closing_with_data_that_nobody_read_resets_and_gives_the_buffers_back, &one)
{
    struct cr_mem_stats before = {0}, after;
    listen_anywhere();
    for (int i = 0; i < 1000; i++) {
        struct cr_conn *client, *server;
        char byte;
        if (i == 100)
            cr_mem_stats_get(&before);
        connect_pair(&client, &server);
        CHECK_EQ(cr_write_all(client, "unread", 6), 6);
        CHECK_EQ(cr_wait_readable(server), 0);
        cr_close(server);
        CHECK_EQ(cr_read(client, &byte, 1), -ECONNRESET);
        cr_close(client);
    }
    cr_mem_stats_get(&after);
    CHECK(after.buffers_bytes - before.buffers_bytes < 1 << 20);
    cr_listener_close(listener);
}

TEST_URING(who_only_waits_for_readability_finds_all_in_the_socket, &one)
{
    struct cr_conn *client, *server;
    char bytes[16];
    listen_anywhere();
    CHECK_EQ(cr_dial(&client, url, NULL), 0);
    CHECK_EQ(cr_accept(listener, &server), 0);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(cr_wait_readable_until(server, cr_after(CR_US)), -ETIMEDOUT);
        CHECK_EQ(cr_write_all(client, "straight", 8), 8);
        CHECK_EQ(cr_wait_readable(server), 0);
        CHECK_EQ(recv(cr_conn_fd(server), bytes, sizeof(bytes), MSG_DONTWAIT), 8);
    }
    cr_close(client);
    cr_close(server);
    cr_listener_close(listener);
}

TEST_URING(a_closed_connection_is_closed_for_its_peer_at_once, &one)
{
    struct cr_conn *client, *server;
    listen_anywhere();
    connect_pair(&client, &server);
    int fd = cr_conn_fd(client);
    cr_close(server);
    char byte;
    CHECK_EQ(recv(fd, &byte, 1, MSG_DONTWAIT), 0); /* though this coroutine has not suspended */
    cr_close(client);
    cr_listener_close(listener);
    struct cr_listener *again;
    CHECK_EQ(cr_listen(&again, url, NULL), 0); /* the port is free, too */
    cr_listener_close(again);
}

TEST_URING(accepted_sockets_that_nobody_took_are_closed_with_the_listener, &one)
{
    struct cr_conn *clients[20], *server;
    char byte;
    listen_anywhere();
    CHECK_EQ(cr_accept_until(listener, &server, cr_after(CR_US)), -ETIMEDOUT);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_dial(&clients[i], url, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(cr_accept(listener, &server), 0);
    cr_close(server);
    cr_listener_close(listener);
    for (int i = 0; i < 20; i++) {
        ssize_t n = cr_read(clients[i], &byte, 1);
        CHECK(n == 0 || n == -ECONNRESET);
        cr_close(clients[i]);
    }
}

TEST_URING(a_crowd_that_came_before_anybody_accepted_is_accepted_whole, &one)
{
    static struct cr_conn *clients[500];
    struct cr_conn *server;
    listen_anywhere();
    CHECK_EQ(cr_accept_until(listener, &server, cr_after(CR_US)), -ETIMEDOUT);
    for (int i = 0; i < 500; i++)
        CHECK_EQ(cr_dial(&clients[i], url, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 0; i < 500; i++) {
        CHECK_EQ(cr_accept(listener, &server), 0);
        cr_close(server);
    }
    CHECK_EQ(cr_accept_until(listener, &server, cr_after(CR_MS)), -ETIMEDOUT);
    for (int i = 0; i < 500; i++)
        cr_close(clients[i]);
    cr_listener_close(listener);
}

/* ---- Any mixture of calls, on any worker -------------------------------------------------------------------- */

#define STREAM_BYTES (6 << 20)

static struct cr_conn *sending, *receiving;
static _Atomic uint64_t place;
static _Atomic int finished;

static void sends(void *unused)
{
    static char bytes[40000];
    uint64_t sent = 0, state = 88172645463325252u;
    (void)unused;
    while (sent < STREAM_BYTES) {
        size_t size = 1 + random_next(&state) % (random_next(&state) % 4 ? 300 : sizeof(bytes));
        if (size > STREAM_BYTES - sent)
            size = STREAM_BYTES - sent;
        for (size_t i = 0; i < size; i++)
            bytes[i] = byte_at(sent + i);
        CHECK_EQ(cr_write_all(sending, bytes, size), (ssize_t)size);
        sent += size;
        if (random_next(&state) % 16 == 0)
            CHECK_EQ(cr_sleep((int64_t)(random_next(&state) % 200) * CR_US), 0);
    }
    CHECK_EQ(cr_close_write(sending), 0);
    atomic_fetch_add(&finished, 1);
}

static void check(const char *bytes, ssize_t n)
{
    uint64_t from = atomic_load(&place);
    for (ssize_t i = 0; i < n; i++)
        CHECK_EQ(bytes[i], byte_at(from + (uint64_t)i));
    if (n > 0)
        atomic_store(&place, from + (uint64_t)n);
}

static ssize_t receive_somehow(uint64_t *state)
{
    char bytes[3000];
    struct iovec iov[3] = {{bytes, 10}, {bytes + 10, 0}, {bytes + 10, 2000}};
    int64_t deadline_ns = random_next(state) % 3 ? CR_FOREVER : random_next(state) % 3 ? cr_after((int64_t)(random_next(state) % 100) * CR_US) : 0;
    ssize_t n;
    struct cr_lent lent;
    switch (random_next(state) % 4) {
    case 0:
        n = cr_read_until(receiving, bytes, 1 + random_next(state) % sizeof(bytes), deadline_ns);
        check(bytes, n);
        return n;
    case 1:
        n = cr_readv_until(receiving, iov, 3, deadline_ns);
        check(bytes, n);
        return n;
    case 2:
        n = cr_recv_lend_until(receiving, &lent, deadline_ns);
        check(lent.bytes, n);
        if (random_next(state) % 8) /* or it stays out until the end */
            cr_recv_return(receiving, &lent);
        return n;
    default:
        n = cr_wait_readable_until(receiving, deadline_ns);
        return n == 0 ? 1 : n;
    }
}

/* Receives for a while, and then hands over to another worker. */
static void receives(void *arg)
{
    uint64_t state = 1 + (uintptr_t)arg;
    ssize_t n = 1;
    for (int i = 0; i < 400 && n != 0; i++) {
        n = receive_somehow(&state);
        CHECK(n >= 0 || n == -ETIMEDOUT);
    }
    if (n == 0)
        atomic_fetch_add(&finished, 1);
    else
        CHECK_EQ(cr_go_on((unsigned)random_next(&state) % (unsigned)cr_worker_count(), receives, (void *)(state >> 1)), 0);
}

static void mix(void)
{
    listen_anywhere();
    CHECK_EQ(cr_dial(&sending, url, NULL), 0);
    CHECK_EQ(cr_accept(listener, &receiving), 0);
    CHECK_EQ(cr_go_on((unsigned)(cr_worker_count() - 1), sends, NULL), 0);
    CHECK_EQ(cr_go_on(0, receives, (void *)42), 0);
    while (finished < 2)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(place, STREAM_BYTES);
    cr_close(sending);
    cr_close(receiving);
    cr_listener_close(listener);
}

TEST_URING(no_byte_is_lost_or_reordered_in_any_mixture_of_calls, &one)
{
    mix();
}

TEST_URING(nor_when_the_reader_goes_from_worker_to_worker, &several)
{
    mix();
}

static void reads_in_vain(void *unused)
{
    char bytes[16];
    (void)unused;
    CHECK_EQ(cr_read(receiving, bytes, sizeof(bytes)), -ECANCELED);
}

TEST_URING(a_cancelled_reader_takes_nothing, &one)
{
    struct cr_co *reader;
    char bytes[16];
    listen_anywhere();
    connect_pair(&sending, &receiving);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(cr_spawn(&reader, reads_in_vain, NULL, NULL), 0);
        cr_yield();
        cr_cancel(reader);
        CHECK_EQ(cr_write_all(sending, "kept", 4), 4);
        CHECK_EQ(cr_join(reader), 0);
        CHECK_EQ(cr_read(receiving, bytes, sizeof(bytes)), 4);
    }
    cr_close(sending);
    cr_close(receiving);
    cr_listener_close(listener);
}

TEST_URING(a_reset_comes_after_the_data_that_came_before_it, &one)
{
    for (int i = 0; i < 100; i++) {
        char bytes[16];
        listen_anywhere();
        connect_pair(&sending, &receiving);
        CHECK_EQ(cr_read_until(receiving, bytes, 1, cr_after(1)), -ETIMEDOUT);
        CHECK_EQ(cr_write_all(sending, "last", 4), 4);
        CHECK_EQ(cr_wait_readable(receiving), 0); /* it has been received */
        cr_close_reset(sending);
        CHECK_EQ(cr_sleep(20 * CR_US), 0);
        CHECK_EQ(cr_read(receiving, bytes, sizeof(bytes)), 4);
        CHECK_EQ(cr_read(receiving, bytes, sizeof(bytes)), -ECONNRESET);
        cr_close(receiving);
        cr_listener_close(listener);
    }
}

static void closes(void *unused)
{
    (void)unused;
    cr_close(receiving);
    atomic_fetch_add(&finished, 1);
}

TEST_URING(a_connection_of_another_workers_ring_may_be_closed_here, &several)
{
    for (int i = 0; i < 200; i++) {
        char byte;
        finished = 0;
        listen_anywhere();
        connect_pair(&sending, &receiving);
        if (i % 2)
            CHECK_EQ(cr_write_all(sending, "unread", 6), 6);
        CHECK_EQ(cr_go_on((unsigned)i % 3, closes, NULL), 0);
        ssize_t n = cr_read(sending, &byte, 1);
        CHECK(n == 0 || n == -ECONNRESET);
        while (finished < 1)
            cr_yield();
        cr_close(sending);
        cr_listener_close(listener);
    }
}

/* ---- Files -------------------------------------------------------------------------------------------------- */

#define FILE_BYTES (1 << 20)

static struct cr_conn *file;
static char path[64];

static void create_file(void)
{
    static char bytes[FILE_BYTES];
    snprintf(path, sizeof(path), "/tmp/crore-uring-%d", (int)getpid());
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_TRUNC, 0600), 0);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = byte_at(i);
    CHECK_EQ(cr_pwrite(file, bytes + FILE_BYTES / 2, FILE_BYTES / 2, FILE_BYTES / 2), FILE_BYTES / 2);
    CHECK_EQ(cr_write(file, bytes, FILE_BYTES / 2), FILE_BYTES / 2);
    unlink(path);
}

/* Out of the page cache, where the file system can. */
static void forget_file(void)
{
    fsync(cr_conn_fd(file));
    posix_fadvise(cr_conn_fd(file), 0, 0, POSIX_FADV_DONTNEED);
}

static void reads_parts(void *arg)
{
    char small[3000];
    uint64_t state = 1 + (uintptr_t)arg;
    for (int i = 0; i < 200; i++) {
        uint64_t from = random_next(&state) % (FILE_BYTES + 100);
        ssize_t expected = from >= FILE_BYTES ? 0 : FILE_BYTES - from < sizeof(small) ? (ssize_t)(FILE_BYTES - from) : (ssize_t)sizeof(small);
        CHECK_EQ(cr_pread(file, small, sizeof(small), (int64_t)from), expected);
        for (ssize_t k = 0; k < expected; k++)
            CHECK_EQ(small[k], byte_at(from + (uint64_t)k));
    }
    atomic_fetch_add(&finished, 1);
}

TEST_URING(files_are_read_and_written_by_many_at_once, &several)
{
    create_file();
    forget_file();
    for (uintptr_t i = 0; i < 12; i++)
        CHECK_EQ(cr_go(reads_parts, (void *)i), 0);
    while (finished < 12)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    char bytes[2];
    CHECK_EQ(cr_read(file, bytes, 2), 2); /* goes on where writing stopped */
    CHECK_EQ(bytes[0], byte_at(FILE_BYTES / 2));
    CHECK_EQ(cr_pread(file, bytes, 2, -1), -EINVAL);
    cr_close(file);
    CHECK_EQ(cr_file_open(&file, "/tmp", O_RDONLY, 0), 0);
    CHECK_EQ(cr_pread(file, bytes, 2, 0), -EISDIR);
    CHECK_EQ(cr_pwrite(file, bytes, 2, 0), -EBADF);
    cr_close(file);
}

static void reads_though_cancelled(void *unused)
{
    static char bytes[FILE_BYTES];
    (void)unused;
    CHECK_EQ(cr_pread(file, bytes, sizeof(bytes), 0), FILE_BYTES);
    for (size_t i = 0; i < sizeof(bytes); i++)
        CHECK_EQ(bytes[i], byte_at(i));
    CHECK_EQ(cr_sleep(CR_US), -ECANCELED);
}

TEST_URING(a_transfer_that_has_begun_is_waited_for, &one)
{
    struct cr_co *reader;
    create_file();
    forget_file();
    CHECK_EQ(cr_spawn(&reader, reads_though_cancelled, NULL, NULL), 0);
    cr_yield();
    cr_cancel(reader);
    CHECK_EQ(cr_join(reader), 0);
    cr_close(file);
}

static void writes_to(void *arg)
{
    CHECK_EQ(cr_write_all(arg, "from one of many", 16), 16);
    atomic_fetch_add(&finished, 1);
}

/* What they send goes out in one call, or is cut off by a close; it never gets to another connection. */
TEST_URING(many_send_at_once_while_others_close, &one)
{
    struct cr_conn *clients[40], *servers[40];
    char bytes[17];
    listen_anywhere();
    for (int round = 0; round < 50; round++) {
        finished = 0;
        for (int i = 0; i < 40; i++)
            connect_pair(&clients[i], &servers[i]);
        for (int i = 0; i < 40; i += 2)
            CHECK_EQ(cr_go(writes_to, servers[i]), 0);
        cr_yield();
        for (int i = 1; i < 40; i += 2)
            cr_close(servers[i]);
        for (int i = 0; i < 40; i++)
            CHECK_EQ(cr_read(clients[i], bytes, sizeof(bytes)), i % 2 ? 0 : 16);
        while (finished < 20)
            cr_yield();
        for (int i = 0; i < 40; i++) {
            cr_close(clients[i]);
            if (i % 2 == 0)
                cr_close(servers[i]);
        }
    }
    cr_listener_close(listener);
}

static void fails_to_write(void *arg)
{
    ssize_t n;
    while ((n = cr_write(arg, block, sizeof(block))) > 0)
        ;
    CHECK(n == -ECONNRESET || n == -EPIPE || n == -EBADF);
    atomic_fetch_add(&finished, 1);
}

TEST_URING(sends_that_fail_say_why, &one)
{
    struct cr_conn *clients[10], *servers[10];
    listen_anywhere();
    for (int i = 0; i < 10; i++) {
        connect_pair(&clients[i], &servers[i]);
        CHECK_EQ(cr_go(fails_to_write, servers[i]), 0);
    }
    CHECK_EQ(cr_sleep(5 * CR_MS), 0);
    for (int i = 0; i < 10; i++)
        cr_close_reset(clients[i]);
    while (finished < 10)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    for (int i = 0; i < 10; i++)
        cr_close(servers[i]);
    cr_listener_close(listener);
}
