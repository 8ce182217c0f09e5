/* Files: whole, whatever the page cache has of them, by one or by several. */
#include "outside.h"

static char path[64];

static void make_file(const char *folder)
{
    snprintf(path, sizeof(path), "%s/crore-file-%d", folder, (int)getpid());
}

static void drop_from_the_cache(struct cr_conn *file)
{
    CHECK_EQ(fdatasync(cr_conn_fd(file)), 0);
    CHECK_EQ(posix_fadvise(cr_conn_fd(file), 0, 0, POSIX_FADV_DONTNEED), 0);
}

#define FILE_BYTES (1 << 20)

static char written[FILE_BYTES], back[FILE_BYTES];

/* Part of it in the page cache, part not. */
static void reads_what_it_wrote(void *folder)
{
    struct cr_conn *file;
    struct cr_lent lent;
    make_file(folder);
    for (int i = 0; i < FILE_BYTES; i++)
        written[i] = (char)(i * 7 + i / 4096);
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(unlink(path), 0);
    struct iovec parts[3] = {{written, 5000}, {written + 5000, 0}, {written + 5000, 3000}};
    CHECK_EQ(cr_writev(file, parts, 3), 8000);
    CHECK_EQ(cr_write_all(file, written + 8000, FILE_BYTES - 8000), FILE_BYTES - 8000);
    for (int warm = 0; warm < 5; warm++) {
        drop_from_the_cache(file);
        for (int i = 0; i < warm; i++)
            CHECK_EQ(cr_pread(file, back, 4096, i * 200000), 4096);
        memset(back, 0, sizeof(back));
        CHECK_EQ(cr_pread(file, back, FILE_BYTES, 0), FILE_BYTES);
        CHECK(memcmp(written, back, FILE_BYTES) == 0);
        CHECK_EQ(cr_pread(file, back, FILE_BYTES, FILE_BYTES - 10), 10);
        CHECK_EQ(cr_pread(file, back, 1, FILE_BYTES), 0);
        drop_from_the_cache(file);
        memset(back, 0, sizeof(back));
        if (warm)
            CHECK_EQ(cr_pread(file, back, 4096, 4096), 4096);
        CHECK_EQ(lseek(cr_conn_fd(file), 0, SEEK_SET), 0);
        struct iovec into[3] = {{back, 10000}, {back + 10000, 700000}, {back + 710000, FILE_BYTES - 710000}};
        CHECK_EQ(cr_readv(file, into, 3), FILE_BYTES);
        CHECK(memcmp(written, back, FILE_BYTES) == 0);
        CHECK_EQ(cr_read(file, back, 1), 0);
    }
    CHECK_EQ(cr_pwrite(file, "abc", 3, 10), 3);
    CHECK_EQ(lseek(cr_conn_fd(file), 10, SEEK_SET), 10);
    CHECK(cr_recv_lend(file, &lent) > 3);
    CHECK( memcmp(lent.bytes, "abc", 3) == 0);
    cr_recv_return(file, &lent);
    CHECK_EQ(cr_wait_readable(file), 0);
    CHECK_EQ(cr_pread(file, back, 1, -1), -EINVAL);
    cr_close(file);
    CHECK_EQ(cr_file_open(&file, "/nowhere/at/all", O_RDONLY, 0), -ENOENT);
}

TEST(files_are_read_and_written_whole_whatever_the_page_cache_has)
{
    CHECK_EQ(cr_run(reads_what_it_wrote, "/tmp", NULL), 0);
    CHECK_EQ(cr_run(reads_what_it_wrote, "/dev/shm", NULL), 0);
    CHECK_EQ(cr_run(reads_what_it_wrote, ".", &two), 0);
}

TEST_CO(what_the_page_cache_has_is_read_without_a_thread)
{
    struct cr_stats before, after;
    struct cr_conn *file;
    char bytes[4096] = {1};
    make_file(".");
    CHECK_EQ(cr_file_open(&file, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(cr_pwrite(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_pread(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_stats_get(&before), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(cr_pread(file, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
    CHECK_EQ(cr_stats_get(&after), 0);
    cr_close(file);
    if (after.parks - before.parks == 1000)
        SKIP("this file system does not know RWF_NOWAIT");
    CHECK_EQ(after.parks, before.parks);
}

static struct cr_conn *shared;

static void writes_in_pieces(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++)
        CHECK_EQ(cr_pwrite(shared, written, 100000, i * 100000), 100000);
    counts(NULL);
}

static void have_it_written(void *unused)
{
    (void)unused;
    for (int round = 0; round < 20; round++) {
        struct cr_co *writers[4];
        long before = counter;
        make_file("/tmp");
        CHECK_EQ(cr_file_open(&shared, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
        CHECK_EQ(unlink(path), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_spawn(&writers[i], writes_in_pieces, NULL, NULL), 0);
        while (counter == before)
            CHECK_EQ(cr_sleep(100 * CR_US), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(cr_join(writers[i]), 0);
        cr_close(shared);
    }
}

TEST(several_write_one_file)
{
    CHECK_EQ(cr_run(have_it_written, NULL, NULL), 0);
    CHECK_EQ(cr_run(have_it_written, NULL, &two), 0);
}

static void writes_once(void *arg)
{
    *(ssize_t *)arg = cr_pwrite(shared, written, FILE_BYTES, 0);
}

TEST_CO_CONFIG(closing_leaves_the_fd_to_what_has_begun, &two)
{
    for (int round = 0; round < 20; round++) {
        struct cr_co *writer;
        static ssize_t result;
        make_file("/tmp");
        CHECK_EQ(cr_file_open(&shared, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
        int fd = cr_conn_fd(shared);
        CHECK_EQ(cr_spawn_on(&writer, (unsigned)cr_worker_index(), writes_once, &result, NULL), 0);
        cr_yield(); /* it waits for its thread now */
        cr_close(shared);
        CHECK_EQ(cr_join(writer), 0);
        CHECK_EQ(result, FILE_BYTES);
        CHECK_EQ(fcntl(fd, F_GETFD), -1);
        CHECK_EQ(unlink(path), 0);
    }
}
