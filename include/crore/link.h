/* Links: what carries frames of Ethernet. A network (crore/net.h) stands on one; a program may also handle packets itself.
 *
 *     mem:NAME            one of two ends in this process, of one runtime, or two (of cr_rt_create: one of cr_run takes itself for stuck when all in it wait); whoever opens the same name next is the other one. mem:NAME?mtu=N: its MTU, 68 to 1970 (1500)
 *     shm:PATH            the same between two processes: memory that the one who comes first hands to the other over the Unix socket at PATH
 *                         (up to 100 bytes; a file PATH.lock stays there). When one goes, or dies, another may come; a third one waits for that. shm:PATH?mtu=N as above
 *     pcap:FILE,LINK      LINK, recording what passes into FILE (libpcap's format, in nanoseconds; written within a second of waiting, and when it is closed)
 *     pcap:FILE           replays FILE: what it holds arrives in the rhythm in which it was recorded; what is sent is dropped
 *     impair:K=V,...,LINK LINK over a bad line, in the direction of sending: drop=1% dup=1% corrupt=1% reorder=1% delay=10ms jitter=1ms rate=100M queue=1000 seed=1
 *
 * Of impair: shares are percents, or fractions (0.01), times in ns, us, ms or s, the rate in bit/s (k, M, G: times 10^3, 10^6, 10^9), with a fraction, if need be. queue: packets that wait for a line with a rate; further ones are dropped. What
 * is reordered is held back, by up to a quarter of the delay or a millisecond; jitter (more or less than the delay) reorders nothing. What is delayed leaves in calls on the link, waiting included, and is lost when it is closed.
 * Of pcap: the file is read and written on the worker's thread, which waits for it as long as that takes: for a disk that is slow, and for who is at the other end of a FIFO or a terminal.
 * Links that wrap others have no CR_LINK_NO_CHECKSUMS. A specification is up to 512 bytes long; a NAME up to 63, without `?` and `,`.
 *
 * A link belongs to the worker that opened it, and all calls on it are that one's, in a coroutine (not one that is CR_MIGRATABLE, to wait). One that
 * is left open is closed with its runtime, which a shm: link keeps from ending. */
#ifndef CRORE_LINK_H
#define CRORE_LINK_H

#include <stdbool.h>

#include <crore/packet.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cr_link;

enum cr_link_flags {
    CR_LINK_OVER = 1u << 1,         /* a recording that has ended: nothing will ever come any more */
    CR_LINK_NO_CHECKSUMS = 1u << 0, /* can't spoil what it carries: checksums of TCP and UDP may be left out (CR_PACKET_CHECKED) */
};

#define CR_LINK_BURST 64 /* at most so many packets with one call */

struct cr_link_info {
    char name[64];            /* as given to cr_link_open, cut */
    unsigned flags;           /* of enum cr_link_flags */
    unsigned char address[6]; /* suggested Ethernet address of this end; unicast, locally administered where there is no hardware */
    uint16_t mtu_bytes;       /* the most that a frame carries, without Ethernet's 14 */
    bool up;                  /* there is somebody at the other end */
    uint64_t received, sent;  /* packets */
    uint64_t dropped;         /* by the link: sent while its queue was full, or nobody was there */
};

/* Opens a link. Returns 0; -EINVAL (spec), -EPERM (no coroutine; shm: one that is CR_MIGRATABLE), -EADDRINUSE (both ends are open), -ENOMEM, and what opening a file or a socket answers. May suspend (shm:). */
CR_API CR_CHECKED int cr_link_open(struct cr_link **out, const char *spec);

/* Closes it, and what it wraps. A coroutine that waits gets -EBADF. By its own worker, or the program ends with a line. NULL is ignored. Does not suspend. */
CR_API void cr_link_close(struct cr_link *link);

/* Takes up to `most` packets that have arrived (at most CR_LINK_BURST), each with the only reference to it. Returns how many; 0: none just now; -EPERM:
 * not by a coroutine of the link's worker. Does not suspend. */
CR_API CR_CHECKED int cr_link_recv(struct cr_link *link, struct cr_packet **packets, int most);

/* Sends packets, in order. Those taken are the link's: one to which there is another reference is copied, or held until it has left. Returns how many were taken; fewer: the
 * link's queue is full, and the rest stays the caller's; -EPERM as above: all do. Does not suspend. */
CR_API CR_CHECKED int cr_link_send(struct cr_link *link, struct cr_packet **packets, int count);

/* Waits until there is something to receive. 0; -ENODATA: nothing will ever come any more (CR_LINK_OVER); -ETIMEDOUT, -ECANCELED, -EBUSY (another coroutine waits, or a network stands on it), -EBADF (closed meanwhile), -EPERM. Suspends. */
CR_API CR_CHECKED int cr_link_wait(struct cr_link *link);
CR_API CR_CHECKED int cr_link_wait_until(struct cr_link *link, int64_t deadline_ns);

/* What is known of it. By its own worker. Does not suspend. */
CR_API void cr_link_info_get(const struct cr_link *link, struct cr_link_info *out);

#ifdef __cplusplus
}
#endif
#endif
