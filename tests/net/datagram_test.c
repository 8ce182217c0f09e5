/* Datagrams of a network of our own: the calls of crore/conn.h over UDP. */
#include "networks.h"

/* ---- Datagrams -------------------------------------------------------------------------------------------------- */

TEST_CO(datagrams_keep_their_bounds_and_their_sender)
{
    static char much[20000], back[20000];
    struct cr_conn *bound, *dialled_one;
    struct cr_addr from;
    char buf[64];
    open_both();
    CHECK_EQ(cr_bind(&bound, "udp://10.0.0.2:0", &at_right), 0);
    CHECK(cr_local_url(bound, url, sizeof(url)) > 0);
    CHECK_STR(url, "udp://10.0.0.2:");
    CHECK_EQ(cr_peer_url(bound, buf, sizeof(buf)), -ENOTCONN);
    CHECK_EQ(cr_dial(&dialled_one, url, &at_left), 0);
    CHECK_EQ(cr_write(dialled_one, "first", 5), 5);
    CHECK_EQ(cr_write(dialled_one, "second, longer", 14), 14);
    CHECK_EQ(cr_recv_from(bound, buf, sizeof(buf), &from), 5);
    CHECK(memcmp(buf, "first", 5) == 0);
    CHECK_EQ(from.sa.ss_family, AF_INET);
    CHECK_EQ(cr_recv_from(bound, buf, 6, &from), 14); /* cut, and its whole length told */
    CHECK(memcmp(buf, "second", 6) == 0);
    CHECK_EQ(cr_send_to(bound, "answer", 6, &from), 6);
    CHECK_EQ(cr_read(dialled_one, buf, sizeof(buf)), 6);
    CHECK_EQ(cr_recv_from_until(bound, buf, sizeof(buf), NULL, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_wait_readable_until(dialled_one, cr_after(CR_MS)), -ETIMEDOUT);
    CHECK_EQ(cr_wait_writable(dialled_one), 0);
    for (size_t i = 0; i < sizeof(much); i++)
        much[i] = (char)(i * 31 >> 2);
    CHECK_EQ(cr_write(dialled_one, much, sizeof(much)), (ssize_t)sizeof(much)); /* in fragments */
    CHECK_EQ(cr_read(bound, back, sizeof(back)), (ssize_t)sizeof(much));
    CHECK(memcmp(much, back, sizeof(much)) == 0);
    CHECK_EQ(cr_close_write(bound), -EOPNOTSUPP);
    cr_close(bound), cr_close(dialled_one);
    close_both();
}

TEST_CO(datagrams_are_lent_whole_and_closing_gives_them_back)
{
    static char much[5000];
    struct cr_conn *to, *from;
    struct cr_lent one, two, three;
    uint64_t before = cr__packets_in_use();
    open_both();
    CHECK_EQ(cr_bind(&to, "udp://10.0.0.2:9", &at_right), 0);
    CHECK_EQ(cr_dial(&from, "udp://10.0.0.2:9", &at_left), 0);
    for (size_t i = 0; i < sizeof(much); i++)
        much[i] = (char)(i * 7 >> 3);
    CHECK_EQ(cr_write(from, "first", 5), 5); /* the way is found: more fragments than may wait for that */
    CHECK_EQ(cr_recv_lend(to, &one), 5);
    cr_recv_return(to, &one);
    CHECK_EQ(cr_write(from, much, sizeof(much)), (ssize_t)sizeof(much)); /* in fragments */
    CHECK_EQ(cr_write(from, "short", 5), 5);
    CHECK_EQ(cr_write(from, "", 0), 0);
    CHECK_EQ(cr_write(from, "kept", 4), 4);
    CHECK_EQ(cr_recv_lend(to, &one), (ssize_t)sizeof(much));
    CHECK(one.size_bytes == sizeof(much) && memcmp(one.bytes, much, sizeof(much)) == 0);
    CHECK_EQ(cr_recv_lend(to, &two), 5);
    CHECK(memcmp(two.bytes, "short", 5) == 0);
    CHECK_EQ(cr_recv_lend(to, &three), 0);
    CHECK(three.bytes == NULL);
    cr_recv_return(to, &three);
    CHECK_EQ(cr_recv_lend(to, &three), 4);
    CHECK_EQ(cr_recv_lend_until(to, &(struct cr_lent){0}, cr_after(CR_MS)), -ETIMEDOUT);
    cr_recv_return(to, &two); /* in any order */
    CHECK(one.bytes[4999] == much[4999] && memcmp(three.bytes, "kept", 4) == 0);
    cr_recv_return(to, &one);
    cr_close(to), cr_close(from);
    close_both();
    CHECK(cr__packets_in_use() <= before + 256); /* but for what this worker keeps to use again */
}

TEST_CO(datagrams_over_ipv6_and_to_nobody)
{
    struct cr_conn *bound, *dialled_one;
    char buf[64];
    open_both();
    CHECK_EQ(cr_bind(&bound, "udp://:5353", &at_right), 0);
    CHECK_EQ(cr_dial(&dialled_one, "udp://[fd00::2]:5353", &at_left), 0);
    CHECK_EQ(cr_write(dialled_one, "six", 3), 3);
    CHECK_EQ(cr_read(bound, buf, sizeof(buf)), 3);
    cr_close(bound);
    CHECK_EQ(cr_write(dialled_one, "lost", 4), 4);
    CHECK_EQ(cr_read_until(dialled_one, buf, sizeof(buf), cr_after(5 * CR_SEC)), -ECONNREFUSED);
    cr_close(dialled_one);
    close_both();
}

TEST_CO(closing_a_datagram_socket_wakes_who_waits)
{
    open_both();
    CHECK_EQ(cr_bind(&shared_conn, "udp://10.0.0.2:0", &at_right), 0);
    CHECK_EQ(cr_go(reads, NULL), 0);
    CHECK_EQ(cr_sleep(CR_MS), 0);
    cr_close(shared_conn);
    while (!done)
        CHECK_EQ(cr_sleep(CR_MS), 0);
    CHECK_EQ(read_result, -EBADF);
    close_both();
}
