/* Links between two processes. */
#include "links.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- shm: ---------------------------------------------------------------------------------------------------- */

static char shm_spec[100];
static const char *shm_path;

static void choose_shm_path(void)
{
    snprintf(shm_spec, sizeof(shm_spec), "shm:/tmp/crore-link-test-%d", (int)getpid());
    shm_path = shm_spec + 4;
    unlink(shm_path);
}

static void forget_shm_path(void)
{
    char lock[120];
    snprintf(lock, sizeof(lock), "%s.lock", shm_path);
    CHECK_EQ(unlink(lock), 0);
    CHECK_EQ(access(shm_path, F_OK), -1); /* who listened last has taken it away, unless it was killed */
}

static int go[2]; /* a pipe */

/* Another process with a runtime of its own, that does fn, perhaps when it is told to. */
static pid_t fork_process(void (*fn)(void *), bool told)
{
    char byte;
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        if (told)
            CHECK_EQ(read(go[0], &byte, 1), 1);
        _exit(cr_run(fn, NULL, NULL) == 0 ? 0 : 1);
    }
    return child;
}

static pid_t other_process(void (*fn)(void *))
{
    return fork_process(fn, false);
}

static void ends_well(pid_t child)
{
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void wait_up(struct cr_link *link, bool up)
{
    struct cr_link_info info;
    for (int i = 0; i < 5000; i++) {
        cr_link_info_get(link, &info);
        if (info.up == up)
            return;
        CHECK_EQ(cr_sleep(CR_MS), 0);
    }
    CHECK(!"up, or down, within five seconds");
}

/* Sends back what comes until the other side goes. */
static void echoes(void *unused)
{
    (void)unused;
    struct cr_link *link;
    struct cr_packet *packets[8];
    struct cr_link_info info;
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    wait_up(link, true);
    do {
        int n = cr_link_recv(link, packets, 8);
        for (int i = 0; i < n; i++)
            while (cr_link_send(link, &packets[i], 1) == 0)
                CHECK_EQ(cr_yield(), 0);
        if (n == 0)
            (void)!cr_link_wait_until(link, cr_now() + 10 * CR_MS);
        cr_link_info_get(link, &info);
    } while (info.up);
    cr_link_close(link);
}

/* With whoever is at the other end, and echoes. */
static void pings_echo(struct cr_link *link, uint32_t count)
{
    for (uint32_t i = 1; i <= count; i++) {
        send_number(link, i);
        CHECK_EQ(wait_number(link), i);
    }
}

static void pings_as_the_first(void *unused)
{
    (void)unused;
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    wait_up(link, true);
    pings_echo(link, 2000);
    cr_link_close(link);
}

TEST(two_processes_talk_over_memory)
{
    choose_shm_path();
    pid_t child = other_process(echoes);
    CHECK_EQ(cr_run(pings_as_the_first, NULL, NULL), 0);
    ends_well(child);
    forget_shm_path();
    CHECK_EQ(cr__packets_in_use(), 0);
}

/* A burst that fills the ring arrives whole and in order; the sender is told when there is no room. */
static void sends_many(void *unused)
{
    (void)unused;
    struct cr_link *link;
    struct cr_packet *packets[64];
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    wait_up(link, true);
    uint32_t sent = 0;
    bool full = false;
    while (sent < 50000) {
        for (int i = 0; i < 64; i++)
            packets[i] = numbered(sent + (uint32_t)i + 1);
        int n = cr_link_send(link, packets, 64);
        full |= n < 64;
        sent += (uint32_t)n;
        for (int i = n; i < 64; i++)
            cr_packet_put(packets[i]);
        if (n < 64)
            CHECK_EQ(cr_sleep(CR_MS / 10), 0);
    }
    CHECK(full);
    wait_up(link, false); /* it has all */
    cr_link_close(link);
}

static void takes_many(void *unused)
{
    (void)unused;
    struct cr_link *link;
    struct cr_packet *packets[64];
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    CHECK_EQ(cr_sleep(20 * CR_MS), 0);
    for (uint32_t last = 0; last < 50000;) {
        int n = cr_link_recv(link, packets, 64);
        for (int i = 0; i < n; i++) {
            CHECK_EQ(number_of(packets[i]), ++last);
            cr_packet_put(packets[i]);
        }
        if (n == 0)
            CHECK_EQ(cr_link_wait(link), 0);
    }
    cr_link_close(link);
}

TEST(what_a_process_sends_arrives_whole_and_in_order)
{
    choose_shm_path();
    pid_t child = other_process(sends_many);
    CHECK_EQ(cr_run(takes_many, NULL, NULL), 0);
    ends_well(child);
    forget_shm_path();
    CHECK_EQ(cr__packets_in_use(), 0);
}

static pid_t victim, parent;

/* The other side is killed while it echoes; then another one comes. */
static void outlives(void *unused)
{
    (void)unused;
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    wait_up(link, true);
    pings_echo(link, 100);
    for (uint32_t i = 0; i < 50; i++)
        send_number(link, i);
    kill(victim, SIGKILL);
    wait_up(link, false);
    struct cr_packet *packet = numbered(1);
    CHECK_EQ(cr_link_send(link, &packet, 1), 1);
    struct cr_link_info info;
    cr_link_info_get(link, &info);
    CHECK(info.dropped >= 1);
    while (cr_link_recv(link, &packet, 1) == 1) /* what it had sent back is there */
        cr_packet_put(packet);
    CHECK_EQ(write(go[1], "!", 1), 1);
    wait_up(link, true);
    pings_echo(link, 100);
    cr_link_close(link);
}

static void wait_for_path(void)
{
    while (access(shm_path, F_OK) != 0)
        usleep(1000);
}

static void echoes_as_the_second(void *unused)
{
    wait_for_path();
    echoes(unused);
}

static void outlive(void (*fn)(void *))
{
    int status;
    choose_shm_path();
    CHECK_EQ(pipe(go), 0);
    victim = other_process(fn);
    if (fn == echoes)
        wait_for_path(); /* it is the first */
    pid_t next = fork_process(echoes, true);
    CHECK_EQ(cr_run(outlives, NULL, NULL), 0);
    CHECK_EQ(waitpid(victim, &status, 0), victim);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ends_well(next);
    forget_shm_path();
    CHECK_EQ(cr__packets_in_use(), 0);
}

static void opens_while_it_might_go_elsewhere(void *path)
{
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, path), -EPERM);
}

TEST_CO_CONFIG(who_might_go_on_elsewhere_opens_no_link_that_has_to_wait, (&(struct cr_config){.workers = 2}))
{
    struct cr_co *co;
    CHECK_EQ(cr_spawn(&co, opens_while_it_might_go_elsewhere, (void *)"shm:/tmp/never-there", &(struct cr_attr){.flags = CR_MIGRATABLE}), 0);
    CHECK_EQ(cr_join(co), 0);
}

TEST(who_came_first_outlives_the_second_and_takes_another)
{
    outlive(echoes_as_the_second);
}

TEST(who_came_second_outlives_the_first_and_takes_another)
{
    outlive(echoes);
}

static struct sockaddr_un shm_address(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", shm_path);
    return address;
}

static int bound_socket(void)
{
    struct sockaddr_un address = shm_address();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void opens_and_closes(void *unused)
{
    (void)unused;
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    CHECK_EQ(cr_link_wait_until(link, cr_now() + CR_MS), -ETIMEDOUT);
    cr_link_close(link);
    CHECK_EQ(cr_link_open(&link, shm_spec), 0); /* at once */
    cr_link_close(link);
    CHECK_EQ(cr_link_open(&link, "shm:/tmp/no/such/folder"), -ENOENT);
    CHECK_EQ(cr_link_open(&link, "shm:"), -EINVAL);
    CHECK_EQ(cr__link_open(&link, shm_spec, NULL), -EINVAL);
}

static void is_refused(void *unused)
{
    (void)unused;
    struct cr_link *link;
    CHECK_EQ(cr_link_open(&link, shm_spec), -EADDRINUSE);
}

/* So the first frame is not lost. */
TEST_CO(who_comes_second_has_been_greeted_when_his_link_is_open)
{
    struct cr_link *first, *second;
    struct cr_link_info info;
    CHECK(snprintf(shm_spec, sizeof(shm_spec), "shm:/tmp/crore-shm-%d-greeted", (int)getpid()) > 0);
    CHECK_EQ(cr_link_open(&first, shm_spec), 0);
    CHECK_EQ(cr_link_open(&second, shm_spec), 0);
    cr_link_info_get(second, &info);
    CHECK(info.up);
    cr_link_close(second);
    cr_link_close(first);
}

TEST(a_socket_that_nobody_listens_on_is_replaced_and_a_file_is_not)
{
    choose_shm_path();
    close(bound_socket());
    CHECK_EQ(access(shm_path, F_OK), 0);
    CHECK_EQ(cr_run(opens_and_closes, NULL, NULL), 0);
    forget_shm_path();
    int fd = open(shm_path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    CHECK_EQ(cr_run(is_refused, NULL, NULL), 0);
    CHECK_EQ(unlink(shm_path), 0);
    forget_shm_path();
}

/* As somebody does who looks for a place there, with the lock: whether he finds what he would replace, a socket that nobody listens on. */
static bool finds_a_dead_socket(int lock)
{
    struct sockaddr_un address = shm_address();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(flock(lock, LOCK_EX), 0);
    bool dead = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == ECONNREFUSED && access(shm_path, F_OK) == 0;
    CHECK_EQ(flock(lock, LOCK_UN), 0);
    close(fd);
    return dead;
}

static void looks_on(void)
{
    char path[120];
    snprintf(path, sizeof(path), "%s.lock", shm_path);
    int lock = open(path, O_RDWR | O_CREAT, 0666);
    while (getppid() == parent)
        if (finds_a_dead_socket(lock))
            _exit(1);
    _exit(0);
}

static void opens_and_closes_often(void *unused)
{
    (void)unused;
    struct cr_link *link;
    int status = 0;
    for (int i = 0; i < 200 && waitpid(victim, &status, WNOHANG) == 0; i++) {
        CHECK_EQ(cr_link_open(&link, shm_spec), 0);
        cr_link_close(link);
    }
    CHECK_EQ(status, 0);
}

/* Else who comes at that moment replaces it, and the one who goes takes away the new one's. */
TEST(who_goes_leaves_no_dead_socket_behind_even_for_a_moment)
{
    choose_shm_path();
    parent = getpid();
    fflush(stdout);
    victim = fork();
    if (victim == 0)
        looks_on();
    CHECK_EQ(cr_run(opens_and_closes_often, NULL, NULL), 0);
    int status;
    kill(victim, SIGKILL);
    CHECK_EQ(waitpid(victim, &status, 0), victim);
    CHECK(WIFSIGNALED(status));
    forget_shm_path();
}

/* A partner that writes nonsense over all that is shared, and then goes. */
static void scribbles(void)
{
    struct sockaddr_un address = shm_address();
    unsigned char hello[16], control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {hello, sizeof(hello)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    uint64_t random = 88172645463325252u;
    for (int life = 0; life < 10; life++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), memory;
        CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        msg.msg_controllen = sizeof(control);
        CHECK_EQ(recvmsg(fd, &msg, 0), sizeof(hello));
        memcpy(&memory, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(memory));
        off_t size_bytes = lseek(memory, 0, SEEK_END);
        CHECK(ftruncate(memory, 0) < 0); /* it can't be taken away */
        volatile uint32_t *words = mmap(NULL, (size_t)size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        CHECK((void *)words != MAP_FAILED);
        for (int i = 0; i < 20000 << (life % 3); i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            size_t ring = random % 2 ? (size_t)size_bytes / 8 : 0, count = (size_t)size_bytes / 4;
            size_t at = (random >> 8) % 4 ? ring + 16 * ((random >> 16) % 3) : (random >> 16) % count; /* indices above all */
            words[at] = (random >> 48) % 2 ? words[at] + (uint32_t)(random >> 40) % 70 : (uint32_t)(random >> 32);
            if (i % 100 == 0)
                (void)!send(fd, hello, 1 + i % 16, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        munmap((void *)(uintptr_t)words, (size_t)size_bytes);
        close(memory);
        close(fd);
    }
}

static void stands_scribbles(void *unused)
{
    (void)unused;
    struct cr_link *link;
    struct cr_packet *packets[64];
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    int status = 0;
    while (waitpid(victim, &status, WNOHANG) == 0) {
        for (int i = 0; i < 64; i++)
            packets[i] = numbered(7);
        int n = cr_link_send(link, packets, 64);
        CHECK(n >= 0 && n <= 64);
        for (int i = n; i < 64; i++)
            cr_packet_put(packets[i]);
        n = cr_link_recv(link, packets, 64);
        CHECK(n >= 0 && n <= 64);
        for (int i = 0; i < n; i++) {
            CHECK(packets[i]->size_bytes <= CR_PACKET_ROOM_BYTES);
            CHECK(cr_packet_front(packets[i]) + packets[i]->size_bytes <= CR_PACKET_ROOM_BYTES);
            cr_packet_put(packets[i]);
        }
        (void)!cr_link_wait_until(link, cr_now() + CR_MS / 10);
    }
    CHECK_EQ(status, 0);
    CHECK_EQ(write(go[1], "!", 1), 1); /* and somebody decent */
    wait_up(link, true);
    while (cr_link_recv(link, packets, 1) == 1)
        cr_packet_put(packets[0]);
    pings_echo(link, 100);
    cr_link_close(link);
}

TEST(a_partner_that_scribbles_over_the_memory_harms_nobody)
{
    choose_shm_path();
    fflush(stdout);
    victim = fork();
    if (victim == 0) {
        alarm(30);
        wait_for_path();
        usleep(10000);
        scribbles();
        _exit(0);
    }
    CHECK_EQ(pipe(go), 0);
    pid_t next = fork_process(echoes, true);
    CHECK_EQ(cr_run(stands_scribbles, NULL, NULL), 0);
    ends_well(next);
    forget_shm_path();
    CHECK_EQ(cr__packets_in_use(), 0);
}

/* A listener that hands over what is no memory for a link: nothing, another size, what may shrink. */
static void hands_over_nonsense(int fd, int kind)
{
    uint64_t hello[2] = {0x63726f7265736801u, 0};
    unsigned char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {hello, sizeof(hello)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int memory = memfd_create("nonsense", 0);
    hello[1] = 2 * (3 * 64 + 64 + 1024 * 2048) - 2 * 64;
    CHECK_EQ(ftruncate(memory, kind == 1 ? 4096 : (off_t)hello[1]), 0);
    if (kind > 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &memory, sizeof(memory));
    }
    CHECK_EQ(sendmsg(fd, &msg, 0), sizeof(hello));
    char byte;
    CHECK(recv(fd, &byte, 1, 0) <= 0); /* it has gone */
    close(memory);
    close(fd);
}

static void is_handed_nonsense(void *unused)
{
    (void)unused;
    struct cr_link *link;
    struct cr_link_info info;
    int status = 0;
    CHECK_EQ(cr_link_open(&link, shm_spec), 0);
    while (waitpid(victim, &status, WNOHANG) == 0) {
        cr_link_info_get(link, &info);
        CHECK(!info.up);
        CHECK_EQ(cr_sleep(CR_MS), 0);
    }
    CHECK_EQ(status, 0);
    cr_link_close(link);
}

TEST(memory_that_could_not_be_trusted_is_not_taken)
{
    choose_shm_path();
    int fd = bound_socket();
    CHECK_EQ(listen(fd, 5), 0);
    fflush(stdout);
    victim = fork();
    if (victim == 0) {
        alarm(30);
        for (int kind = 0; kind < 3; kind++)
            hands_over_nonsense(accept(fd, NULL, NULL), kind);
        _exit(0);
    }
    close(fd);
    CHECK_EQ(cr_run(is_handed_nonsense, NULL, NULL), 0);
    unlink(shm_path);
    forget_shm_path();
}
