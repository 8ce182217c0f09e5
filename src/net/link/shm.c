/* shm:PATH: a wire between two processes. Frames are copied into memory that both have mapped, and out of it; so either may die at any time, and the other one has all its packets.
 *
 * Whoever comes first listens on the Unix socket at PATH; who comes next connects to it, and is sent the memory: two rings, one for each direction. (A third one waits in the
 * listener's backlog until the second has gone.) A socket that nobody listens on any more is replaced; that two do so at once, a lock on PATH.lock prevents. What the sockets are
 * for afterwards: a byte wakes the other side's worker if it has said that it sleeps, and the end is the other side's end. (An eventfd for the former would be a bit cheaper, and a
 * second thing to watch; it is written only to who sleeps.)
 *
 * A coroutine of the link's, the keeper, meets partners, reads those bytes, and sees them go. When a listener's partner goes, the next one is accepted, with memory of its own;
 * when the listener goes, its partner looks for a place at PATH anew. What has come and was not taken before the partner went can still be received until the next one is there.
 *
 *     keeper: place (listen, or connect) > meet (accept and send, or receive) > attend (read bytes until the end) > meet or place again
 *
 * The other side is not trusted. Invariants:
 *   1. Where we are in a ring is in our own memory (`filled`, `taken`); of the shared one only the other side's index is read, once, and used within bounds: more than a ring's
 *      worth is nonsense, and ends the partnership.
 *   2. A frame's size is read once, and what is looked at is what has been copied.
 *   3. The memory can't shrink: the listener makes it so (seals), the other side sees to it.
 *   4. `side` and `shared` change only where the keeper meets somebody, on the link's worker's thread. */
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <crore/conn.h>

#include "net/link/kinds.h"
#include "os/os.h"

#define SLOTS 1024u
#define SLOT_BYTES 2048u
#define PATH_MOST 100 /* of the 107 that fit into an address: ".lock" is not one of the socket's */
#define MAGIC 0x63726f7265736801u /* its last byte is the layout's version */
#define RETRY_NS (20 * CR_MS)
#define LOCK_PATIENCE 250 /* tries */
#define GREETING_PATIENCE 25
#define LOCK_RETRY_NS (4 * CR_MS)
#define BACKLOG 8

struct slot {
    _Atomic uint32_t size_bytes;
    uint32_t flags;
    unsigned char bytes[SLOT_BYTES - 8];
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES && CR_PACKET_ROOM_BYTES <= sizeof(((struct slot *)0)->bytes), "a frame fits");

struct ring {
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t tail;  /* the sender's */
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t head;  /* the receiver's */
    _Alignas(CR__CACHE_LINE) _Atomic uint32_t armed; /* set by the receiver, taken away by the sender */
    _Alignas(CR__CACHE_LINE) struct slot slots[SLOTS];
};

struct shared {
    struct ring rings[2]; /* what comes to the listener, and to the other one */
};

struct shm {
    struct cr_link link;
    struct cr_co *keeper;
    struct cr_conn *listener; /* NULL: the other one listens */
    struct cr_conn *partner;  /* the socket to the other side; NULL: there is none, */
    bool up;                  /* or it has not been met yet */
    bool closed;              /* the link; the keeper frees it, */
    bool ended;               /* if there still is one: that has been cancelled with its runtime */
    bool wanted;              /* armed: `ready` is to be called */
    unsigned side;            /* 0: the listener */
    uint32_t filled, taken;   /* where we are in the ring to the other side, and in ours */
    struct shared *shared;    /* of the last partner */
    char path[PATH_MOST + 1];
};

struct hello {
    uint64_t magic, size_bytes;
};

static struct shm *shm_of(const struct cr_link *link)
{
    return CR__CONTAINER(link, struct shm, link);
}

static struct ring *ring_in(const struct shm *shm)
{
    return &shm->shared->rings[shm->side];
}

static struct ring *ring_out(const struct shm *shm)
{
    return &shm->shared->rings[!shm->side];
}

/* ---- The link's functions -------------------------------------------------------------------------------------- */

/* The keeper sees the end. */
static CR__COLD void break_off(struct shm *shm)
{
    shm->up = false;
    if (shm->partner)
        cr__os_shutdown(cr_conn_fd(shm->partner), SHUT_RDWR);
}

/* How many frames have come. */
static uint32_t arrived(struct shm *shm)
{
    if (!shm->shared)
        return 0;
    uint32_t n = atomic_load_explicit(&ring_in(shm)->tail, memory_order_acquire) - shm->taken; /* pairs with the release in shm_send */
    if (CR__LIKELY(n <= SLOTS))
        return n;
    break_off(shm);
    return 0;
}

/* NULL: no packet is left, or that is no frame. */
static struct cr_packet *copy_out(struct shm *shm, struct slot *slot)
{
    uint32_t size_bytes = atomic_load_explicit(&slot->size_bytes, memory_order_relaxed);
    struct cr_packet *packet = size_bytes <= CR_PACKET_ROOM_BYTES ? cr__packet_get(shm->link.packets) : NULL;
    if (!packet) {
        shm->link.told.dropped++;
        return NULL;
    }
    if (size_bytes > CR_PACKET_ROOM_BYTES - CR_PACKET_FRONT_BYTES)
        packet->data = (unsigned char *)packet + CR_PACKET_HEAD_BYTES;
    packet->size_bytes = (uint16_t)size_bytes;
    packet->flags = (uint16_t)(slot->flags & CR_PACKET_CHECKED);
    memcpy(packet->data, slot->bytes, size_bytes);
    return packet;
}

static int shm_recv(struct cr_link *link, struct cr_packet **packets, int most)
{
    struct shm *shm = shm_of(link);
    uint32_t come = arrived(shm), n = come < (uint32_t)most ? come : (uint32_t)most;
    int filled = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct cr_packet *packet = copy_out(shm, &ring_in(shm)->slots[(shm->taken + i) % SLOTS]);
        if (packet)
            packets[filled++] = packet;
    }
    if (n > 0) {
        shm->taken += n;
        atomic_store_explicit(&ring_in(shm)->head, shm->taken, memory_order_release); /* pairs with the acquire in room_for: the slots are free */
    }
    link->told.received += (unsigned)filled;
    return filled;
}

static uint32_t room_for(struct shm *shm)
{
    uint32_t used = shm->filled - atomic_load_explicit(&ring_out(shm)->head, memory_order_acquire); /* pairs with the release in shm_recv */
    if (CR__LIKELY(used <= SLOTS))
        return SLOTS - used;
    break_off(shm);
    return 0;
}

static bool copy_in(struct shm *shm, struct slot *slot, struct cr_packet *packet)
{
    if (packet->size_bytes > shm->link.told.mtu_bytes + CR__ETHERNET_BYTES) {
        cr__link_drop(&shm->link, packet);
        return false;
    }
    memcpy(slot->bytes, packet->data, packet->size_bytes);
    slot->flags = packet->flags;
    atomic_store_explicit(&slot->size_bytes, packet->size_bytes, memory_order_relaxed);
    cr__packet_put(shm->link.packets, packet);
    return true;
}

/* A byte: if there is no room for it, others are there that have not been read. */
static void rouse_partner(struct shm *shm)
{
    char byte = 0;
    cr__os_send(cr_conn_fd(shm->partner), &byte, 1);
}

static int shm_send(struct cr_link *link, struct cr_packet **packets, int count)
{
    struct shm *shm = shm_of(link);
    uint32_t room = shm->up ? room_for(shm) : 0, filled = 0;
    int n = 0;
    if (!shm->up) {
        for (; n < count; n++)
            cr__link_drop(link, packets[n]);
        return n;
    }
    for (; n < count && filled < room; n++)
        filled += copy_in(shm, &ring_out(shm)->slots[(shm->filled + filled) % SLOTS], packets[n]);
    if (filled == 0)
        return n;
    shm->filled += filled;
    link->told.sent += filled;
    atomic_store_explicit(&ring_out(shm)->tail, shm->filled, memory_order_release); /* pairs with the acquire in arrived */
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in shm_arm: we see it armed, or it sees what we have filled */
    if (atomic_load_explicit(&ring_out(shm)->armed, memory_order_relaxed) && atomic_exchange_explicit(&ring_out(shm)->armed, 0, memory_order_relaxed))
        rouse_partner(shm);
    return n;
}

static bool shm_arm(struct cr_link *link)
{
    struct shm *shm = shm_of(link);
    shm->wanted = false;
    if (arrived(shm) > 0)
        return true;
    shm->wanted = true;
    if (!shm->up)
        return false; /* who meets the next one looks after it */
    atomic_store_explicit(&ring_in(shm)->armed, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in shm_send */
    if (arrived(shm) == 0)
        return false;
    shm->wanted = false;
    return true;
}

static int64_t shm_due_ns(const struct cr_link *link)
{
    (void)link;
    return INT64_MAX;
}

static void shm_info(const struct cr_link *link, struct cr_link_info *out)
{
    *out = link->told;
    out->up = shm_of(link)->up;
}

/* By the keeper: after each wait the link may have been closed. */
static int wait_for(struct shm *shm, struct cr_conn *conn)
{
    int r = cr_wait_readable(conn);
    return shm->closed ? -ECANCELED : r;
}

/* ---- A place at PATH -------------------------------------------------------------------------------------------- */

/* While it still listens: else who comes in between finds it refused, and replaces it, and his is the one that is taken away. (He who comes before that finds us gone, and looks for a place anew.) */
static void unlink_path(struct shm *shm)
{
    cr__os_unlink(shm->path);
    cr_close(shm->listener);
    shm->listener = NULL;
}

static socklen_t address_of(const struct shm *shm, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(address->sun_path, shm->path);
    return sizeof(*address);
}

/* Nobody listens there: what lies there, if it is a socket, is somebody's who died. */
static int listen_at(struct shm *shm)
{
    struct sockaddr_un address;
    socklen_t size_bytes = address_of(shm, &address);
    mode_t mode;
    if (cr__os_lstat_mode(shm->path, &mode) == 0) {
        if (!S_ISSOCK(mode))
            return -EADDRINUSE;
        cr__os_unlink(shm->path);
    }
    int fd = cr__os_socket(AF_UNIX, SOCK_STREAM), r = fd;
    if (r >= 0)
        r = cr__os_bind(fd, (struct sockaddr *)&address, size_bytes);
    if (r == 0)
        r = cr__os_listen(fd, BACKLOG);
    if (r == 0)
        r = cr_conn_from_fd(&shm->listener, fd);
    if (r < 0 && fd >= 0)
        cr__os_close(fd);
    return r;
}

/* Under the lock. As the one who comes first, or next. */
static int place_locked(struct shm *shm)
{
    struct sockaddr_un address;
    socklen_t size_bytes = address_of(shm, &address);
    int fd = cr__os_socket(AF_UNIX, SOCK_STREAM);
    if (fd < 0)
        return fd;
    int r = cr__os_connect(fd, (struct sockaddr *)&address, size_bytes);
    if (r == 0)
        r = cr_conn_from_fd(&shm->partner, fd);
    if (r < 0)
        cr__os_close(fd);
    if (r == -EAGAIN) /* its backlog is full */
        return -EADDRINUSE;
    return r == -ECONNREFUSED || r == -ENOENT ? listen_at(shm) : r;
}

/* May suspend. */
static int place(struct shm *shm)
{
    char path[PATH_MOST + 6];
    strcpy(path, shm->path);
    strcat(path, ".lock");
    int fd = cr__os_open(path, O_RDWR | O_CREAT, 0666), r = fd < 0 ? fd : -EWOULDBLOCK;
    for (int tries = 0; r == -EWOULDBLOCK && tries < LOCK_PATIENCE; tries++) {
        r = cr__os_lock_try(fd);
        if (r == -EWOULDBLOCK && (cr_sleep(LOCK_RETRY_NS) == -ECANCELED || shm->closed))
            r = -ECANCELED;
    }
    if (r == 0)
        r = place_locked(shm);
    if (fd >= 0)
        cr__os_close(fd);
    return r == -EWOULDBLOCK ? -ETIMEDOUT : r;
}

/* ---- Meeting ----------------------------------------------------------------------------------------------------- */

/* From here on there is a partner, in that memory; who is armed is armed there. */
static void begin(struct shm *shm, unsigned side, struct shared *shared)
{
    if (shm->shared)
        cr__mem_unmap(shm->shared, sizeof(*shm->shared), CR__MEM_OTHER);
    shm->shared = shared;
    shm->side = side;
    shm->filled = shm->taken = 0;
    shm->up = true;
}

static int send_memory(int to, int memory)
{
    struct hello hello = {MAGIC, sizeof(struct shared)};
    struct iovec iov = {&hello, sizeof(hello)};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &memory, sizeof(memory));
    ssize_t n = cr__os_sendmsg(to, &msg);
    return n < 0 ? (int)n : n == sizeof(hello) ? 0 : -EPROTO;
}

/* Makes memory for two, and sends it to who has connected. */
static int greet(struct shm *shm)
{
    int memory = cr__os_memfd("crore-shm", sizeof(struct shared));
    if (memory < 0)
        return memory;
    struct shared *shared = cr__mem_map_shared(memory, sizeof(*shared), CR__MEM_OTHER);
    int r = shared ? send_memory(cr_conn_fd(shm->partner), memory) : -ENOMEM;
    cr__os_close(memory);
    if (r == 0)
        begin(shm, 0, shared);
    else if (shared)
        cr__mem_unmap(shared, sizeof(*shared), CR__MEM_OTHER);
    return r;
}

/* The fds of a message: the first one is kept, if there is one. */
static int fd_of(struct msghdr *msg)
{
    int kept = -EPROTO;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(msg); head; head = CMSG_NXTHDR(msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(fd));
            if (kept < 0)
                kept = fd;
            else
                cr__os_close(fd);
        }
    }
    return kept;
}

/* What the listener has sent: nothing of it is believed. */
static int receive_memory(int from)
{
    struct hello hello = {0};
    struct iovec iov = {&hello, sizeof(hello)};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n = cr__os_recvmsg(from, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0)
        return (int)n;
    int fd = fd_of(&msg);
    if (fd >= 0 && (n != sizeof(hello) || hello.magic != MAGIC || hello.size_bytes != sizeof(struct shared) || !cr__os_memfd_is(fd, sizeof(struct shared)))) {
        cr__os_close(fd);
        fd = -EPROTO;
    }
    return fd;
}

static int be_greeted(struct shm *shm)
{
    int r = wait_for(shm, shm->partner);
    if (r < 0)
        return r;
    int memory = receive_memory(cr_conn_fd(shm->partner));
    if (memory < 0)
        return memory;
    struct shared *shared = cr__mem_map_shared(memory, sizeof(*shared), CR__MEM_OTHER);
    cr__os_close(memory);
    if (!shared)
        return -ENOMEM;
    begin(shm, 1, shared);
    return 0;
}

static int accept_one(struct shm *shm)
{
    int fd = -EAGAIN;
    while ((fd = cr__os_accept(cr_conn_fd(shm->listener))) == -EAGAIN) {
        int r = wait_for(shm, shm->listener);
        if (r < 0)
            return r;
    }
    if (fd < 0)
        return fd;
    int r = cr_conn_from_fd(&shm->partner, fd);
    if (r < 0)
        cr__os_close(fd);
    return r;
}

/* ---- The keeper --------------------------------------------------------------------------------------------------- */

static int meet(struct shm *shm)
{
    int r = shm->partner || shm->listener ? 0 : place(shm);
    if (r == 0 && shm->listener) {
        r = accept_one(shm);
        return r == 0 ? greet(shm) : r;
    }
    return r == 0 ? be_greeted(shm) : r;
}

static void look(struct shm *shm)
{
    if (shm->wanted && shm_arm(&shm->link) && shm->link.ready)
        shm->link.ready(&shm->link);
}

/* Until the other side has gone, or the link is closed: then shm->partner is not touched any more. */
static int attend(struct shm *shm)
{
    char bytes[128];
    for (;;) {
        look(shm);
        ssize_t n = cr_read(shm->partner, bytes, sizeof(bytes));
        if (n <= 0 || shm->closed)
            return n < 0 ? (int)n : 0;
    }
}

static void part(struct shm *shm)
{
    shm->up = false;
    cr_close(shm->partner);
    shm->partner = NULL;
    look(shm); /* what it has sent last, without rousing us */
}

static void shm_free(struct shm *shm)
{
    if (shm->shared)
        cr__mem_unmap(shm->shared, sizeof(*shm->shared), CR__MEM_OTHER);
    cr__mem_free(shm, sizeof(*shm), CR__MEM_OTHER);
}

static void keep(void *arg)
{
    struct shm *shm = arg;
    int r = 0;
    while (!shm->closed && r != -ECANCELED) {
        r = meet(shm);
        bool met = r == 0;
        if (met)
            r = attend(shm);
        if (!shm->closed)
            part(shm);
        if (!met && !shm->closed && r != -ECANCELED) /* somebody strange, or no memory, or no place */
            r = cr_sleep(RETRY_NS);
    }
    shm->ended = true;
    if (shm->closed)
        shm_free(shm);
}

/* The keeper, wherever it waits, goes on and sees it. */
static void shm_close(struct cr_link *link)
{
    struct shm *shm = shm_of(link);
    struct cr_co *keeper = shm->keeper;
    shm->closed = true;
    shm->up = shm->wanted = false;
    cr_close(shm->partner);
    shm->partner = NULL;
    if (shm->listener)
        unlink_path(shm);
    if (!keeper || shm->ended)
        shm_free(shm);
    if (!keeper)
        return;
    cr_cancel(keeper);
    cr_detach(keeper);
}

static const struct cr__link_ops ops = {
    .recv = shm_recv,
    .send = shm_send,
    .arm = shm_arm,
    .due_ns = shm_due_ns,
    .info = shm_info,
    .close = shm_close,
};

/* An address of our own, whatever side we come to be: by the path, and the process. */
static void choose_address(struct shm *shm)
{
    uint32_t random = 0;
    cr__link_address(shm->link.told.address, shm->path, 0);
    cr__os_random(&random, sizeof(random));
    memcpy(shm->link.told.address + 2, &random, sizeof(random));
}

/* Who has found somebody there waits a moment for his greeting: what is sent before that is dropped, and the first frame asks who is there, again only a second later. */
static void await_greeting(const struct shm *shm)
{
    for (int tries = 0; shm->partner && !shm->up && tries < GREETING_PATIENCE; tries++) {
        if (cr_sleep(LOCK_RETRY_NS) < 0)
            return;
    }
}

int cr__link_shm_open(struct cr_link **out, const char *text, struct cr__worker *worker)
{
    struct cr__worker *here;
    struct cr__record *me = cr__running(&here);
    if (!worker)
        return -EINVAL; /* it waits for another process */
    if (!me || cr__migrates(here, &me->co))
        return -EPERM; /* that might go on elsewhere, when it has found its place */
    struct shm *shm = cr__mem_alloc(sizeof(*shm), CR__MEM_OTHER);
    if (!shm)
        return -ENOMEM;
    cr__link_begin(&shm->link, &ops, worker);
    shm->link.told.flags = CR_LINK_NO_CHECKSUMS;
    int r = cr__link_name_parse(text, shm->path, PATH_MOST, &shm->link.told.mtu_bytes);
    if (r == 0) {
        choose_address(shm);
        r = place(shm);
    }
    if (r == 0)
        r = cr_spawn_on(&shm->keeper, worker->index, keep, shm, &(struct cr_attr){.name = "keeper of a shm: link"});
    if (r < 0) {
        shm_close(&shm->link);
        return r;
    }
    await_greeting(shm);
    *out = &shm->link;
    return 0;
}
