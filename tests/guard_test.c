/* What guards a stack on kernels of each kind, by behaviour. Kernels that are not this one are made by a seccomp filter, which the
 * test's process takes with it: it answers madvise(MADV_GUARD_INSTALL), or mprotect, in the kernel's place. (A kernel that has no
 * light guards, or an emulator, serves as it is.) */
#include <crore/co.h>
#include <sys/syscall.h>

#include "mem/mem.h"
#include "os/os.h"
#include "stack/stack.h"
#include "dig.h"
#include "kernel.h"
#include "test.h"

#ifndef TEST_SANITIZED
#define NEEDS_PLAIN_FAULTS (void)0
#else
#define NEEDS_PLAIN_FAULTS SKIP("sanitizers take the fault, and want mprotect, themselves")
#endif

static bool kernel_has_light_guards(void)
{
    char *page = cr__os_map(4096, PROT_READ | PROT_WRITE);
    bool has = cr__os_advise(page, 4096, MADV_GUARD_INSTALL) == 0 && cr__os_probe_write(page) == -EFAULT;
    cr__os_unmap(page, 4096);
    return has;
}

static void without_light_guards(void)
{
    if (kernel_has_light_guards())
        answer_for_kernel(SYS_madvise, MADV_GUARD_INSTALL, EINVAL);
}

static void with_light_guards_that_do_nothing(void)
{
    if (kernel_has_light_guards())
        answer_for_kernel(SYS_madvise, MADV_GUARD_INSTALL, 0);
}

struct map {
    char *low, *high;
    char permissions[5];
};

/* The mapping that addr lies in; returns how many there are. */
static int find_map(const char *addr, struct map *out)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps);
    memset(out, 0, sizeof(*out));
    for (; fgets(line, sizeof(line), maps); count++) {
        struct map map;
        CHECK_EQ(sscanf(line, "%p-%p %4s", (void **)&map.low, (void **)&map.high, map.permissions), 3);
        if (addr >= map.low && addr < map.high)
            *out = map;
    }
    fclose(maps);
    return count;
}

/* Takes stacks, uses them up to their guards, and looks at what is below. */
static void check_protected_guards(void)
{
    enum { MANY = 50 };
    struct cr__stack_pool pool;
    struct cr__stack stacks[MANY];
    struct map map;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &stacks[i]), 0);
        char *low = cr__stack_low(stacks[i]);
        memset(low, 1, (size_t)(stacks[i].top - low));
    }
    for (int i = 0; i < MANY; i++) {
        char *low = cr__stack_low(stacks[i]);
        find_map(low - 1, &map);
        CHECK_STR(map.permissions, "---p");
        CHECK(map.low <= low - CR__STACK_GUARD_BYTES && map.high == low);
        find_map(low, &map);
        CHECK_STR(map.permissions, "rw-p");
    }
    for (int i = 0; i < MANY; i++)
        cr__stack_put(&pool, stacks[i]);
    cr__stack_pool_fini(&pool);
}

TEST(on_a_kernel_without_light_guards_stacks_are_guarded_by_mprotect)
{
    without_light_guards();
    check_protected_guards();
}

TEST(light_guards_that_are_accepted_and_do_nothing_are_found_out)
{
    with_light_guards_that_do_nothing();
    check_protected_guards();
}

TEST(light_guards_take_no_mapping_of_their_own)
{
    enum { MANY = 50 };
    struct cr__stack_pool pool;
    struct cr__stack stack;
    struct map map;
    if (!kernel_has_light_guards())
        SKIP("the kernel has none");
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    CHECK_EQ(cr__stack_get(&pool, 16384, &stack), 0);
    int before = find_map(stack.top, &map);
    for (int i = 1; i < MANY; i++)
        CHECK_EQ(cr__stack_get(&pool, 16384, &stack), 0);
    CHECK(find_map(cr__stack_low(stack) - 1, &map) <= before + 2);
    CHECK_STR(map.permissions, "rw-p");
    cr__stack_pool_fini(&pool);
}

static void *yields_once(void *value)
{
    CHECK_EQ(cr_co_yield(NULL), 0);
    return value;
}

TEST(where_no_guard_is_to_be_had_there_is_no_stack)
{
    struct cr_co *co = NULL;
    NEEDS_PLAIN_FAULTS;
    without_light_guards();
    answer_for_kernel(SYS_mprotect, ANY, ENOMEM); /* as at vm.max_map_count */
    CHECK_EQ(cr_co_create(&co, yields_once, NULL), 0);
    CHECK_EQ(cr_co_resume(co, NULL), -ENOMEM);
    CHECK_EQ(cr_co_resume(co, NULL), -ENOMEM);
    CHECK_EQ(cr_co_status(co), CR_CO_NEW);
    cr_co_destroy(co);
}

static void overflow(void)
{
    struct cr_co *co = NULL;
    CHECK_EQ(cr_co_create(&co, digger, &(struct cr_attr){.name = "the digger", .stack_size_bytes = 16 << 10}), 0);
    CHECK_EQ(cr_co_resume(co, NULL), 1);
}

static void check_overflow(void)
{
    static char text[8192];
    int status = test_capture(overflow, text, sizeof(text));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_STR(text, "stack overflow");
    CHECK_STR(text, "the digger");
}

TEST(an_overflow_is_explained_without_light_guards_too)
{
    NEEDS_PLAIN_FAULTS;
    without_light_guards();
    check_overflow();
}

TEST(an_overflow_is_explained_where_light_guards_do_nothing_too)
{
    NEEDS_PLAIN_FAULTS;
    with_light_guards_that_do_nothing();
    check_overflow();
}
