/* What packetdrill wants of a shared object that it is to test (its gtests/net/packetdrill/packetdrill.h, as of 2015 on): the object exports packetdrill_interface_init, which fills
 * in this. Fields and their order are the tool's; calls are those of the manual, with what is in `userdata` in front, and give -1 and errno. */
#ifndef CR_TEST_PACKETDRILL_H
#define CR_TEST_PACKETDRILL_H

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct packetdrill_interface {
    void *userdata;
    void (*free)(void *userdata);
    int (*socket)(void *userdata, int domain, int type, int protocol);
    int (*bind)(void *userdata, int fd, const struct sockaddr *address, socklen_t size);
    int (*listen)(void *userdata, int fd, int backlog);
    int (*accept)(void *userdata, int fd, struct sockaddr *address, socklen_t *size);
    int (*connect)(void *userdata, int fd, const struct sockaddr *address, socklen_t size);
    ssize_t (*read)(void *userdata, int fd, void *to, size_t count);
    ssize_t (*readv)(void *userdata, int fd, const struct iovec *iov, int count);
    ssize_t (*recv)(void *userdata, int fd, void *to, size_t size, int flags);
    ssize_t (*recvfrom)(void *userdata, int fd, void *to, size_t size, int flags, struct sockaddr *address, socklen_t *address_size);
    ssize_t (*recvmsg)(void *userdata, int fd, struct msghdr *message, int flags);
    ssize_t (*write)(void *userdata, int fd, const void *from, size_t count);
    ssize_t (*writev)(void *userdata, int fd, const struct iovec *iov, int count);
    ssize_t (*send)(void *userdata, int fd, const void *from, size_t size, int flags);
    ssize_t (*sendto)(void *userdata, int fd, const void *from, size_t size, int flags, const struct sockaddr *address, socklen_t address_size);
    ssize_t (*sendmsg)(void *userdata, int fd, const struct msghdr *message, int flags);
    int (*fcntl)(void *userdata, int fd, int command, ...);
    int (*ioctl)(void *userdata, int fd, unsigned long request, ...);
    int (*close)(void *userdata, int fd);
    int (*shutdown)(void *userdata, int fd, int how);
    int (*getsockopt)(void *userdata, int fd, int level, int option, void *value, socklen_t *size);
    int (*setsockopt)(void *userdata, int fd, int level, int option, const void *value, socklen_t size);
    int (*poll)(void *userdata, struct pollfd *fds, nfds_t count, int timeout_ms);
    /* A packet of IP for the stack. 0 or -1. */
    int (*netdev_send)(void *userdata, const void *packet, size_t size);
    /* The next packet that leaves the stack, and when it did. *size: of the buffer, then of the packet; 0: there is none. 0 or -1. */
    int (*netdev_receive)(void *userdata, void *packet, size_t *size, long long *time_us);
    int (*usleep)(void *userdata, useconds_t us);
    int (*gettimeofday)(void *userdata, struct timeval *time, struct timezone *zone);
    int (*epoll_create)(void *userdata, int size);
    int (*epoll_ctl)(void *userdata, int epoll_fd, int operation, int fd, struct epoll_event *event);
    int (*epoll_wait)(void *userdata, int epoll_fd, struct epoll_event *events, int most, int timeout_ms);
    int (*pipe)(void *userdata, int fds[2]);
    int (*splice)(void *userdata, int from_fd, loff_t *from_offset, int to_fd, loff_t *to_offset, size_t size, unsigned flags);
};

typedef void packetdrill_interface_init_fn(const char *flags, struct packetdrill_interface *out);

#endif
