/* Bare coroutines, by behaviour. Runs on every ISA, and without the runtime. */
#include <crore/co.h>
#include <fenv.h>
#include <pthread.h>
#include <sys/socket.h>

#include "arch/suspend.h"
#include "co/co.h"
#include "dig.h"
#include "test.h"

static void *squares(void *first)
{
    for (intptr_t n = (intptr_t)first;; n++) {
        void *value = (void *)(n * n);
        if (cr_co_yield(&value) < 0)
            return NULL;
    }
}

static struct cr_co *make(void *(*fn)(void *), const struct cr_attr *attr)
{
    struct cr_co *co = NULL;
    CHECK_EQ(cr_co_create(&co, fn, attr), 0);
    return co;
}

TEST(a_generator_yields_a_value_at_each_resume)
{
    struct cr_co *co = make(squares, NULL);
    for (intptr_t n = 3; n < 10; n++) {
        void *value = (void *)(intptr_t)3;
        CHECK_EQ(cr_co_resume(co, &value), 0);
        CHECK_EQ((intptr_t)value, n * n);
    }
    CHECK_EQ(cr_co_destroy(co), 0);
}

static void *adder(void *value)
{
    intptr_t sum = 0;
    while (value) {
        sum += (intptr_t)value;
        value = (void *)sum;
        if (cr_co_yield(&value) < 0)
            return NULL;
    }
    return (void *)sum;
}

TEST(values_travel_both_ways_and_the_last_is_what_the_function_returns)
{
    struct cr_co *co = make(adder, NULL);
    intptr_t sum = 0;
    for (intptr_t n = 1; n <= 10; n++) {
        void *value = (void *)n;
        CHECK_EQ(cr_co_resume(co, &value), 0);
        CHECK_EQ((intptr_t)value, sum += n);
    }
    void *value = NULL;
    CHECK_EQ(cr_co_resume(co, &value), 1);
    CHECK_EQ((intptr_t)value, 55);
    CHECK_EQ(cr_co_status(co), CR_CO_ENDED);
    CHECK_EQ(cr_co_resume(co, &value), -EINVAL);
    CHECK_EQ((intptr_t)value, 55);
    cr_co_destroy(co);
}

static struct cr_co *self_seen;

static void *see_self(void *unused)
{
    self_seen = cr_co_current();
    CHECK_EQ(cr_co_status(self_seen), CR_CO_RUNNING);
    CHECK_EQ(cr_co_resume(self_seen, NULL), -EBUSY);
    CHECK_EQ(cr_co_destroy(self_seen), -EBUSY);
    CHECK_EQ(cr_co_yield_to(self_seen, NULL), 0);
    return unused;
}

TEST(status_and_current_tell_who_runs)
{
    CHECK(cr_co_current() == NULL);
    struct cr_co *co = make(see_self, NULL);
    CHECK_EQ(cr_co_status(co), CR_CO_NEW);
    CHECK_EQ(cr_co_resume(co, NULL), 1);
    CHECK(self_seen == co);
    CHECK(cr_co_current() == NULL);
    cr_co_destroy(co);
}

TEST(yielding_outside_a_coroutine_is_refused)
{
    void *value = &value;
    CHECK_EQ(cr_co_yield(&value), -EPERM);
    struct cr_co *co = make(squares, NULL);
    CHECK_EQ(cr_co_yield_to(co, NULL), -EPERM);
    cr_co_destroy(co);
    CHECK_EQ(cr_local_set(0, &value), -EINVAL);
    CHECK_EQ(cr_co_create(&co, NULL, NULL), -EINVAL);
    struct cr_attr absurd = {.stack_size_bytes = SIZE_MAX};
    CHECK_EQ(cr_co_create(&co, squares, &absurd), -EINVAL);
    absurd = (struct cr_attr){.flags = 1u << 20};
    CHECK_EQ(cr_co_create(&co, squares, &absurd), -EINVAL);
}

static struct cr_co *ping, *pong;
static int rallies;

static void *player(void *value)
{
    struct cr_co **other = value;
    while (rallies++ < 1000)
        CHECK_EQ(cr_co_yield_to(*other, &(void *){other == &pong ? (void *)&ping : (void *)&pong}), 0);
    return NULL;
}

TEST(yield_to_goes_straight_to_another_which_inherits_the_resumer)
{
    ping = make(player, NULL);
    pong = make(player, NULL);
    CHECK_EQ(cr_co_resume(ping, &(void *){(void *)&pong}), 1);
    CHECK(rallies >= 1000);
    /* one of the two has ended, the other one is suspended for good */
    CHECK_EQ((cr_co_status(ping) == CR_CO_ENDED) + (cr_co_status(pong) == CR_CO_ENDED), 1);
    cr_co_destroy(ping);
    cr_co_destroy(pong);
}

static void *nested(void *depth)
{
    intptr_t n = (intptr_t)depth;
    if (n == 0)
        return (void *)(intptr_t)1;
    struct cr_co *inner = make(nested, NULL);
    void *value = (void *)(n - 1);
    CHECK_EQ(cr_co_resume(inner, &value), 1);
    cr_co_destroy(inner);
    return (void *)((intptr_t)value + 1);
}

TEST(a_coroutine_may_resume_others_to_any_depth)
{
    struct cr_co *co = make(nested, NULL);
    void *value = (void *)(intptr_t)50;
    CHECK_EQ(cr_co_resume(co, &value), 1);
    CHECK_EQ((intptr_t)value, 51);
    cr_co_destroy(co);
}

static volatile double sink;

/* Uses as many registers as the compiler will give, across switches. */
static void *register_hog(void *first)
{
    long a = (long)first, b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
    double x = (double)a, y = x + 0.5, z = x + 0.25;
    for (int i = 0; i < 100; i++) {
        if (cr_co_yield(NULL) < 0)
            return NULL;
        a += b, b += c, c += d, d += e, e += f, f += g, g += h, h += i;
        x += y, y += z, z += 1;
    }
    sink = x;
    return (void *)(a + b + c + d + e + f + g + h + (long)(x + y + z));
}

TEST(registers_survive_a_switch)
{
    enum { MANY = 8 };
    struct cr_co *cos[MANY];
    long alone[MANY], together[MANY];
    for (int i = 0; i < MANY; i++) {
        struct cr_co *co = make(register_hog, NULL);
        void *value = (void *)(intptr_t)i;
        while (cr_co_resume(co, &value) == 0)
            ;
        alone[i] = (long)(intptr_t)value;
        cr_co_destroy(co);
    }
    for (int i = 0; i < MANY; i++)
        cos[i] = make(register_hog, i % 2 ? &(struct cr_attr){.flags = CR_FPU_SHARED} : NULL);
    for (int round = 0; round <= 100; round++) {
        for (int i = 0; i < MANY; i++) {
            void *value = (void *)(intptr_t)i;
            CHECK_EQ(cr_co_resume(cos[i], &value), round == 100);
            together[i] = (long)(intptr_t)value;
        }
    }
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(together[i], alone[i]);
        cr_co_destroy(cos[i]);
    }
}

#ifdef FE_UPWARD
static void *rounds_up(void *unused)
{
    CHECK_EQ(fegetround(), FE_TONEAREST);
    fesetround(FE_UPWARD);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cr_co_yield(NULL), 0);
        CHECK_EQ(fegetround(), FE_UPWARD);
    }
    return unused;
}

/* Sums whose parts stay in registers across the switch, x87's among them. */
static void *sums(void *value)
{
    double x = (double)(intptr_t)value, plain = x;
    long double extended = (long double)x + 0x1p-40L;
    for (int i = 0; i < 100; i++) {
        if (cr_co_yield(NULL) < 0)
            return NULL;
        plain += x;
        extended += (long double)x;
    }
    return (void *)(intptr_t)(plain == 101 * x && extended - 101 * (long double)x == 0x1p-40L);
}

TEST(floating_point_values_survive_a_switch)
{
    struct cr_co *a = make(sums, NULL), *b = make(sums, &(struct cr_attr){.flags = CR_FPU_SHARED});
    long double here = 0.1L;
    for (int i = 0; i <= 100; i++) {
        void *value_a = (void *)(intptr_t)3, *value_b = (void *)(intptr_t)5;
        int r = cr_co_resume(a, &value_a);
        here += 0.1L;
        CHECK_EQ(cr_co_resume(b, &value_b), r);
        here -= 0.1L;
        CHECK_EQ(r, i == 100);
        CHECK(r == 0 || (value_a && value_b));
    }
    CHECK(here > 0.09L && here < 0.11L);
    cr_co_destroy(a);
    cr_co_destroy(b);
}

TEST(each_coroutine_keeps_its_rounding_mode)
{
    struct cr_co *a = make(rounds_up, NULL), *b = make(rounds_up, NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(cr_co_resume(a, NULL) >= 0);
        CHECK_EQ(fegetround(), FE_TONEAREST);
        CHECK(cr_co_resume(b, NULL) >= 0);
        CHECK_EQ(fegetround(), FE_TONEAREST);
    }
    cr_co_destroy(a);
    cr_co_destroy(b);
}

static void *sets_upward(void *unused)
{
    fesetround(FE_UPWARD);
    CHECK_EQ(cr_co_yield(NULL), 0);
    return unused;
}

TEST(with_shared_control_words_the_resumer_sees_the_change)
{
    struct cr_co *co = make(sets_upward, &(struct cr_attr){.flags = CR_FPU_SHARED});
    CHECK_EQ(cr_co_resume(co, NULL), 0);
    CHECK_EQ(fegetround(), FE_UPWARD);
    fesetround(FE_TONEAREST);
    cr_co_destroy(co);
}
#endif

static unsigned key;
static int destroyed;

static void destroy_local(void *value)
{
    destroyed += (int)(intptr_t)value;
}

static void *keeps_local(void *value)
{
    CHECK(cr_local_get(key) == NULL);
    CHECK_EQ(cr_local_set(key, value), 0);
    CHECK_EQ(cr_co_yield(NULL), 0);
    CHECK(cr_local_get(key) == value);
    return NULL;
}

TEST(local_storage_is_each_coroutines_own_and_is_destroyed_with_it)
{
    CHECK_EQ(cr_local_key(&key, destroy_local), 0);
    struct cr_co *a = make(keeps_local, NULL), *b = make(keeps_local, NULL);
    CHECK_EQ(cr_co_resume(a, &(void *){(void *)1}), 0);
    CHECK_EQ(cr_co_resume(b, &(void *){(void *)10}), 0);
    CHECK(cr_local_get(key) == NULL);
    CHECK_EQ(cr_co_resume(a, NULL), 1);
    cr_co_destroy(a);
    CHECK_EQ(destroyed, 1);
    cr_co_destroy(b); /* never finished */
    CHECK_EQ(destroyed, 11);
    unsigned more;
    int r = 0;
    for (int i = 0; i < CR_LOCAL_MAX + 1 && r == 0; i++)
        r = cr_local_key(&more, NULL);
    CHECK_EQ(r, -EAGAIN);
}

TEST(names_are_copied_and_cut)
{
    char name[64], mine[] = "first";
    struct cr_co *co = make(squares, &(struct cr_attr){.name = mine});
    mine[0] = 'x';
    CHECK(strcmp(cr_name_get(co, name, sizeof(name)), "first") == 0);
    CHECK_EQ(cr_name_set(co, "a name of more than thirty-one characters"), 0);
    CHECK(strcmp(cr_name_get(co, name, sizeof(name)), "a name of more than thirty-one ") == 0);
    cr_co_destroy(co);
    CHECK_EQ(cr_co_destroy(NULL), 0);
}

static void *resume_elsewhere(void *co)
{
    void *value = NULL;
    CHECK_EQ(cr_co_resume(co, &value), 0);
    return value;
}

TEST(a_coroutine_may_go_on_on_another_thread)
{
    struct cr_co *co = make(squares, NULL);
    void *value = (void *)2;
    CHECK_EQ(cr_co_resume(co, &value), 0);
    for (intptr_t n = 3; n < 6; n++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, resume_elsewhere, co), 0);
        pthread_join(thread, &value);
        CHECK_EQ((intptr_t)value, n * n);
    }
    cr_co_destroy(co);
}

/* By frames that valgrind does not take for another stack. Returns how many. */
static __attribute__((noinline)) intptr_t go_down_to(const char *low)
{
    volatile char part[4096];
    part[0] = 1;
    part[sizeof(part) - 1] = 1;
    return (const char *)(uintptr_t)part > low ? part[0] + go_down_to(low) : 1;
}

static void *touch_deep(void *bytes)
{
    return (void *)go_down_to((char *)__builtin_frame_address(0) - (size_t)bytes);
}

TEST(stacks_are_as_large_as_asked)
{
    static const size_t sizes[] = {16 << 10, 64 << 10, 100 << 10, 1 << 20, 8 << 20};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct cr_co *co = make(touch_deep, &(struct cr_attr){.stack_size_bytes = sizes[i]});
        void *value = (void *)(sizes[i] - (8 << 10));
        CHECK_EQ(cr_co_resume(co, &value), 1);
        CHECK((intptr_t)value >= (intptr_t)((sizes[i] - (8 << 10)) / 8192)); /* a sanitizer's frames are larger */
        cr_co_destroy(co);
    }
}

TEST(ten_thousand_at_once)
{
    enum { MANY = 10000 };
    static struct cr_co *cos[MANY];
#ifdef TEST_SANITIZED
    const size_t stack_size_bytes = 16 << 10; /* a lazily bound call into the sanitizer takes more than 3 KiB */
#else
    const size_t stack_size_bytes = 4096;
#endif
    for (int i = 0; i < MANY; i++)
        cos[i] = make(squares, &(struct cr_attr){.stack_size_bytes = stack_size_bytes});
    for (int round = 0; round < 3; round++) {
        for (intptr_t i = 0; i < MANY; i++) {
            void *value = (void *)i;
            CHECK_EQ(cr_co_resume(cos[i], &value), 0);
            CHECK_EQ((intptr_t)value, (i + round) * (i + round));
        }
    }
    for (int i = 0; i < MANY; i++)
        cr_co_destroy(cos[i]);
}

static void overflow_a_bare_coroutine(void)
{
    struct cr_co *co = make(digger, &(struct cr_attr){.name = "the digger", .stack_size_bytes = 16 << 10});
    CHECK_EQ(cr_co_resume(co, NULL), 1);
}

TEST(an_overflow_ends_the_program_and_says_who_where_and_how_large)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192];
    int status = test_capture(overflow_a_bare_coroutine, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "stack overflow");
    CHECK_STR(text, "the digger");
    CHECK_STR(text, "16384 bytes");
#ifdef CR_TEST_SYMBOLS
    CHECK_STR(text, "dig+0x");
#endif
}

TEST(an_overflow_is_told_in_one_write_so_that_nothing_comes_between)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192];
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0); /* each write is a message */
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        overflow_a_bare_coroutine();
    }
    CHECK(recv(ends[0], text, sizeof(text) - 1, 0) > 0);
    CHECK_STR(text, "stack overflow: coroutine ");
    CHECK_STR(text, "  in ");
    CHECK_STR(text, "give it more");
    CHECK_EQ(waitpid(child, NULL, 0), child);
}

static void overflow_with_a_spoiled_record(void)
{
    struct cr_co *co = make(digger, &(struct cr_attr){.name = "the digger", .stack_size_bytes = 16 << 10});
    co->cold = (void *)16;
    CHECK_EQ(cr_co_resume(co, NULL), 1);
}

TEST(an_overflow_of_which_nothing_can_be_told_ends_the_program_with_that)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192];
    int status = test_capture(overflow_with_a_spoiled_record, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "crore: a fault\n");
    CHECK_STR(text, "what else is known of it can't be read");
}

static void plain_fault(void)
{
    signal(SIGSEGV, SIG_DFL);
    struct cr_co *co = make(squares, NULL);
    void *value = NULL;
    CHECK_EQ(cr_co_resume(co, &value), 0); /* installs the handler */
    volatile int *volatile nowhere = (volatile int *)16;
    *nowhere = 1;
}

TEST(another_fault_is_still_a_segmentation_fault)
{
#ifdef TEST_SANITIZED
    SKIP("sanitizers take the fault themselves");
#endif
    static char text[8192];
    int status = test_capture(plain_fault, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(!strstr(text, "overflow"));
}

/* ---- A switch as the last thing that a function does (arch/suspend.h) ---------------------------------------- */

CR__ARCH_SUSPEND("test_left", "test_arrived");
int test_left(void **save, void *to, uint64_t kept, uint64_t note);
__attribute__((used)) int test_arrived(uint64_t kept, uint64_t note);

static void *here, *there; /* the test's context, and the other one */
static volatile int one = 1;

int test_arrived(uint64_t kept, uint64_t note)
{
    return (int)(10 * kept + note);
}

/* Its values need registers that a call keeps, of both sorts. */
static void *leaves_in_turns(void *turns)
{
    int64_t a = one, b = 2 * one, c = 3 * one, d = 4 * one, e = 5 * one, f = 6 * one;
    double x = one / 2.0, y = one / 4.0, z = one / 8.0;
    for (int i = 0; i < (int)(intptr_t)turns; i++) {
        CHECK_EQ(test_left(&there, here, (uint64_t)(i + 1), 7), 10 * (i + 1) + 5);
        a += b, b += c, c += d, d += e, e += f, f += a;
        x += y, y += z, z += x;
    }
    for (int i = 0; i < (int)(intptr_t)turns; i++) { /* and backwards: exact, with few bits */
        z -= x, y -= z, x -= y;
        f -= a, e -= f, d -= e, c -= d, b -= c, a -= b;
    }
    CHECK(a == 1 && b == 2 && c == 3 && d == 4 && e == 5 && f == 6);
    CHECK(x == 0.5 && y == 0.25 && z == 0.125);
    return NULL;
}

static struct cr__arch_call begins_to_leave(void *arg, void *value, uint64_t note)
{
    CHECK(value == NULL && note == 5);
    return (struct cr__arch_call){leaves_in_turns, arg};
}

static void goes_for_good(void *result)
{
    uint64_t note = 99;
    CHECK(result == NULL);
    (void)cr__switch(&there, here, NULL, &note);
}

TEST(who_suspends_last_finds_its_registers_again)
{
    enum { TURNS = 9, STACK_BYTES = 65536 };
#ifdef TEST_SANITIZED
    SKIP("a sanitizer is not told of these switches");
#endif
    static _Alignas(16) char stack[STACK_BYTES];
    static const struct cr__arch_life life = {begins_to_leave, goes_for_good};
    there = cr__arch_prepare(stack + STACK_BYTES, &life, (void *)(intptr_t)TURNS);
    for (int i = 0; i < TURNS; i++) {
        uint64_t note = 5;
        CHECK(cr__switch(&here, there, NULL, &note) == NULL);
        CHECK_EQ(note, 7);
    }
    uint64_t note = 5;
    (void)cr__switch(&here, there, NULL, &note);
    CHECK_EQ(note, 99);
}
