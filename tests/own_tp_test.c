/* Coroutines with a thread pointer of their own (x86-64: the FS base), as code brings that was built for another libc: the
 * runtime's per-thread record is found through whatever thread pointer is set, once cr__self_install has put it there.
 *
 * The switch leaves the thread pointer alone. So whoever comes back from one sets its own again, here by hand, before anything
 * touches thread-local storage; and a guest checks nothing by itself, since CHECK prints. */
#include <asm/prctl.h>
#include <crore/crore.h>
#include <sys/syscall.h>

#include "co/co.h"
#include "test.h"

#ifdef TEST_SANITIZED
#define NEEDS_PLAIN_THREADS SKIP("sanitizers keep their own state in thread-local storage")
#else
#define NEEDS_PLAIN_THREADS (void)0
#endif

#define TLS_BYTES 65536 /* more than this program's */
#define TCB_BYTES 1024

struct guest {
    _Alignas(64) char tls[TLS_BYTES]; /* zeroed: nothing of the host's thread is found here */
    _Alignas(64) char tcb[TCB_BYTES]; /* where its thread pointer points to */
};

static void *host_tp;
__thread volatile int of_the_host = 1; /* read by name in assembly, hence not static */

__attribute__((always_inline)) static inline void *tp_get(void)
{
    void *tp;
    __asm__ volatile("movq %%fs:0, %0" : "=r"(tp));
    return tp;
}

__attribute__((always_inline)) static inline void tp_set(void *tp)
{
    long nr = SYS_arch_prctl;
    __asm__ volatile("syscall" : "+a"(nr) : "D"(ARCH_SET_FS), "S"(tp) : "rcx", "r11", "memory");
}

/* The host's thread control block (stack canary, pointer guard), but for the pointers to itself; and empty TLS. */
static void *guest_tp(struct guest *guest)
{
    host_tp = tp_get();
    memcpy(guest->tcb, host_tp, sizeof(guest->tcb));
    void **tcb = (void **)(void *)guest->tcb;
    tcb[0] = tcb[2] = guest->tcb;
    return guest->tcb;
}

static int read_of_the_host(void)
{
    int value;
    __asm__ volatile("movl %%fs:of_the_host@TPOFF, %0" : "=r"(value));
    return value;
}

/* ---- Bare ---------------------------------------------------------------------------------------------------- */

static struct guest guest;
static struct {
    int before, after[3], tls[3];
    struct cr_co *current[3];
} saw;

static void *guest_bare(void *value)
{
    void *tp = value;
    struct cr__self *self = cr__self_get();
    tp_set(tp);
    saw.before = cr_co_yield(NULL); /* finds no record: it is not the host's that is looked at */
    cr__self_install(tp, self);
    for (int i = 0; i < 3; i++) {
        saw.tls[i] = read_of_the_host();
        saw.current[i] = cr_co_current();
        value = (void *)(intptr_t)i;
        saw.after[i] = cr_co_yield(&value);
        tp_set(tp);
    }
    return NULL;
}

TEST(a_bare_coroutine_with_a_thread_pointer_of_its_own_yields_and_goes_on)
{
    struct cr_co *co = NULL;
    NEEDS_PLAIN_THREADS;
    void *value = guest_tp(&guest);
    CHECK_EQ(cr_co_create(&co, guest_bare, NULL), 0);
    for (int i = 0; i < 4; i++) {
        int r = cr_co_resume(co, &value);
        void *came_with = tp_get();
        tp_set(host_tp);
        CHECK(came_with == guest.tcb);
        CHECK_EQ(r, i == 3);
        CHECK_EQ((intptr_t)value, i == 3 ? 0 : i);
        CHECK(cr_co_current() == NULL);
        CHECK_EQ(of_the_host, 1);
    }
    CHECK_EQ(saw.before, -EPERM);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(saw.tls[i], 0);
        CHECK_EQ(saw.after[i], 0);
        CHECK(saw.current[i] == co);
    }
    cr_co_destroy(co);
}

/* ---- Scheduled ----------------------------------------------------------------------------------------------- */

#define ROUNDS 10 /* of two switches each: fewer than a chain's budget, so the worker's loop sees only the host's */

static int rounds, refused, host_rounds, spawned;
static bool ended;

static void spawned_by_guest(void *unused)
{
    (void)unused;
    tp_set(host_tp);
    spawned++;
}

static void guest_scheduled(void *arg)
{
    void *tp = arg;
    struct cr__self *self = cr__self_get();
    tp_set(tp);
    refused = cr_yield();
    cr__self_install(tp, self);
    for (rounds = 0; rounds < ROUNDS; rounds++) {
        if (cr_yield() != 0 || cr_co_current() == NULL)
            break;
        tp_set(tp);
    }
    if (cr_go(spawned_by_guest, NULL) == 0)
        cr_yield();
    tp_set(host_tp);
    ended = true;
}

static void host_scheduled(void *unused)
{
    struct cr_co *co;
    (void)unused;
    CHECK_EQ(cr_spawn(&co, guest_scheduled, guest_tp(&guest), NULL), 0);
    while (!ended) {
        int r = cr_yield();
        tp_set(host_tp);
        CHECK_EQ(r, 0);
        CHECK_EQ(of_the_host, 1);
        host_rounds++;
    }
    CHECK_EQ(cr_join(co), 0);
}

TEST(a_scheduled_coroutine_with_a_thread_pointer_of_its_own_takes_its_turns)
{
    NEEDS_PLAIN_THREADS;
    CHECK_EQ(cr_run(host_scheduled, NULL, NULL), 0);
    CHECK_EQ(refused, -EPERM);
    CHECK_EQ(rounds, ROUNDS);
    CHECK_EQ(spawned, 1);
    CHECK(host_rounds >= ROUNDS);
}
