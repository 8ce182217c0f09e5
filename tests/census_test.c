/* The census of stacks: what it says of coroutines whose depth and live bytes are known. */
#include "test.h"

#include <crore/crore.h>

#include "sched/census.h"

#define SKIP_WHERE_NONE_IS_TAKEN()                                                                                     \
    do {                                                                                                               \
        SKIP_SANITIZED();                                                                                              \
        if (RUNNING_ON_VALGRIND)                                                                                       \
            SKIP("no census is taken under valgrind");                                                                 \
    } while (0)
#ifdef TEST_SANITIZED
#define SKIP_SANITIZED() SKIP("no census is taken where sanitizers are")
#else
#define SKIP_SANITIZED() ((void)0)
#endif

/* ---- A run, and its report ----------------------------------------------------------------------------------- */

static char report[65536];

static void run_with_census(void (*fn)(void *), void *arg, unsigned workers)
{
    int fd = test_file("/tmp");
    setenv("CR_STACK_CENSUS", "1", 1);
    CHECK_EQ(cr_run(fn, arg, &(struct cr_config){.workers = workers, .report_fd = fd}), 0);
    ssize_t n = pread(fd, report, sizeof(report) - 1, 0);
    CHECK(n >= 0);
    report[n] = '\0';
    close(fd);
}

struct told {
    long long spawned, most, deepest, live, parks, size;
    char from[64], kind[16], advised_kind[16];
    long long advised_size;
    const char *rest; /* of the report */
};

/* What is said of the next place, from `at` on, that has spawned such coroutines. */
static bool find(const char *at, const char *function, struct told *told)
{
    char needle[128];
    *told = (struct told){0};
    snprintf(needle, sizeof(needle), " of %s, spawned ", function);
    const char *line = strstr(at, needle);
    if (!line)
        return false;
    told->rest = line + 1;
    const char *begin = line;
    while (begin > report && begin[-1] != '\n')
        begin--;
    CHECK_EQ(sscanf(begin, " %lld of", &told->spawned), 1);
    CHECK(sscanf(line + strlen(needle), "at %63[^:]: at most %lld at once", told->from, &told->most) == 2 ||
          sscanf(line + strlen(needle), "by the runtime: at most %lld at once", &told->most) == 1);
    line = strchr(line, '\n') + 1;
    CHECK(sscanf(line, " deepest %lld bytes; live when parked %lld bytes (median of %lld times)", &told->deepest, &told->live, &told->parks) >= 1);
    line = strchr(line, '\n') + 1;
    CHECK_EQ(sscanf(line, " %15s of %lld bytes; recommended: %15s of %lld bytes", told->kind, &told->size, told->advised_kind, &told->advised_size), 4);
    return true;
}

static struct told must_find(const char *function)
{
    struct told told;
    if (!find(report, function, &told)) {
        printf("# in: %s\n", report);
        CHECK(!"the report tells of it");
    }
    printf("# %s: %lld, at once %lld, deepest %lld, live %lld (%lld), %s %lld -> %s %lld\n", function, told.spawned, told.most, told.deepest, told.live,
           told.parks, told.kind, told.size, told.advised_kind, told.advised_size);
    return told;
}

/* ---- Known depths -------------------------------------------------------------------------------------------- */

/* Takes so many bytes, all written, and a frame. */
__attribute__((noinline)) static void go_deep(int size_bytes)
{
    char much[size_bytes];
    for (volatile char *at = much + size_bytes; at > much;)
        *--at = 1;
}

/* Parks with so many bytes live. */
__attribute__((noinline)) static int park_with(int size_bytes)
{
    char much[size_bytes];
    for (volatile char *at = much + size_bytes; at > much;)
        *--at = 1;
    int r = cr_park();
    __asm__ volatile("" : : "r"(much) : "memory");
    return r;
}

struct way {
    int depth_bytes, live_bytes;
    int parks; /* times */
};

static long long live_really; /* of the last one that was parked */
static _Atomic int arrived;

__attribute__((noinline)) static void follow(const struct way *way)
{
    if (way->depth_bytes)
        go_deep(way->depth_bytes);
    for (int i = 0; i < way->parks; i++) {
        arrived++;
        if (park_with(way->live_bytes) < 0)
            abort();
    }
}

static void goes_its_way(void *arg)
{
    follow(arg);
    __asm__ volatile("");
}

static void goes_another_way(void *arg)
{
    follow(arg);
    __asm__ volatile("" : : : "memory");
}

#define MOST 5000
static struct cr_co *handles[MOST];

static void all_go(void (*fn)(void *), struct way *way, int count, const struct cr_attr *attr)
{
    arrived = 0;
    for (int i = 0; i < count; i++)
        CHECK_EQ(cr_spawn(&handles[i], fn, way, attr), 0);
    for (int k = 0; k < way->parks; k++) {
        while (arrived < (k + 1) * count)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        if (!(cr__co_flags(handles[0]) & CR__CO_AWAY))
            live_really = handles[0]->stack.top - (char *)handles[0]->sp;
        for (int i = 0; i < count; i++)
            CHECK_EQ(cr_unpark(handles[i]), 0);
    }
    for (int i = 0; i < count; i++)
        CHECK_EQ(cr_join(handles[i]), 0);
}

static void all_their_way(struct way *way, int count, const struct cr_attr *attr)
{
    all_go(goes_its_way, way, count, attr);
}

/* What the runtime's own calls take, and frames between: measured some hundred bytes. */
#define ABOUT_BYTES 500

static void check_depths(const struct told *told, int depth_bytes, int live_bytes)
{
    CHECK(told->deepest >= depth_bytes && told->deepest <= depth_bytes + ABOUT_BYTES);
    CHECK(told->live >= live_bytes - live_bytes / 8 && told->live <= live_bytes + ABOUT_BYTES); /* a class's lower end is told: eighths of an octave (census.h) */
}

struct kind_run {
    enum cr_stack_kind kind;
    size_t size_bytes;
    const char *name;
};

static void goes_deep_on_a_kind(void *arg)
{
    const struct kind_run *run = arg;
    struct way way = {.depth_bytes = 20000, .live_bytes = 300, .parks = 3};
    if (run->size_bytes < 20000)
        way.depth_bytes = 1200;
    all_their_way(&way, 10, &(struct cr_attr){.stack = run->kind, .stack_size_bytes = run->size_bytes});
}

TEST(depth_and_live_bytes_are_found_on_each_kind)
{
    static const struct kind_run runs[] = {{CR_STACK_STATIC, 65536, "static"}, {CR_STACK_VIRTUAL, 65536, "virtual"}, {CR_STACK_SHARED, 65536, "shared"}, {CR_STACK_STATIC, 2048, "static"}};
    SKIP_WHERE_NONE_IS_TAKEN();
    for (size_t i = 0; i < CR__COUNT(runs); i++) {
        run_with_census(goes_deep_on_a_kind, (void *)(uintptr_t)&runs[i], 1);
        struct told told = must_find("goes_its_way");
        CHECK_EQ(told.spawned, 10);
        CHECK_EQ(told.most, 10);
        CHECK_EQ(told.parks, 30);
        CHECK(strcmp(told.kind, runs[i].name) == 0);
        check_depths(&told, runs[i].size_bytes < 20000 ? 1200 : 20000, 300);
        CHECK(live_really - told.live < 16 && live_really >= told.live);
        CHECK(strcmp(told.advised_kind, "static") == 0); /* ten: whatever they take is little */
    }
}

/* ---- Medians, stacks used by one after another ---------------------------------------------------------------- */

static void mixes_depths(void *unused)
{
    struct way often = {.live_bytes = 200, .parks = 5}, once = {.live_bytes = 6000, .parks = 4};
    (void)unused;
    all_their_way(&often, 2, NULL);
    all_their_way(&once, 2, NULL);
}

TEST(the_median_is_of_all_times_that_one_parks)
{
    SKIP_WHERE_NONE_IS_TAKEN();
    run_with_census(mixes_depths, NULL, 1);
    struct told told = must_find("goes_its_way");
    CHECK_EQ(told.parks, 18);
    CHECK(told.live >= 200 && told.live < 200 + ABOUT_BYTES);
    CHECK(told.deepest >= 6000);
}

static void shallow_after_deep(void *arg)
{
    struct way deep = {.depth_bytes = 30000, .live_bytes = 9000, .parks = 1}, shallow = {.depth_bytes = 1000, .live_bytes = 100, .parks = 1};
    all_their_way(&deep, 6, arg);
    all_go(goes_another_way, &shallow, 6, arg);
}

TEST(what_others_left_on_a_stack_is_not_taken_for_ones_own)
{
    static const enum cr_stack_kind kinds[] = {CR_STACK_STATIC, CR_STACK_VIRTUAL, CR_STACK_SHARED};
    SKIP_WHERE_NONE_IS_TAKEN();
    for (size_t i = 0; i < CR__COUNT(kinds); i++) {
        struct cr_attr attr = {.stack = kinds[i], .stack_size_bytes = 65536};
        run_with_census(shallow_after_deep, &attr, 1);
        struct told told = must_find("goes_its_way");
        check_depths(&told, 30000, 9000);
        told = must_find("goes_another_way");
        check_depths(&told, 1000, 100);
    }
}

static void both_in_turns(void *arg)
{
    struct way deep = {.live_bytes = 9000, .parks = 3}, shallow = {.live_bytes = 100, .parks = 3};
    struct cr_co *co[8];
    arrived = 0;
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_spawn(&co[i], i % 2 ? goes_its_way : goes_another_way, i % 2 ? &deep : &shallow, arg), 0);
    for (int k = 1; k <= 3; k++) {
        while (arrived < 8 * k)
            CHECK_EQ(cr_sleep(CR_MS), 0);
        for (int i = 0; i < 8; i++)
            CHECK_EQ(cr_unpark(co[i]), 0);
    }
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr_join(co[i]), 0);
}

TEST(those_that_take_turns_on_a_shared_stack_are_told_apart)
{
    SKIP_WHERE_NONE_IS_TAKEN();
    run_with_census(both_in_turns, &(struct cr_attr){.stack = CR_STACK_SHARED}, 1);
    struct told told = must_find("goes_its_way");
    check_depths(&told, 9000, 9000);
    told = must_find("goes_another_way");
    check_depths(&told, 100, 100);
}

/* ---- Sites --------------------------------------------------------------------------------------------------- */

static void does_nothing(void *unused)
{
    (void)unused;
}

__attribute__((noinline)) static void spawns_here(void)
{
    CHECK_EQ(cr_go(does_nothing, NULL), 0);
}

__attribute__((noinline)) static void spawns_there(void)
{
    struct cr_scope *scope;
    int count = 3;
    __asm__("" : "+r"(count)); /* or a compiler makes three places of it */
    for (int i = 0; i < count; i++)
        CHECK_EQ(cr_go(does_nothing, NULL), 0);
    CHECK_EQ(cr_scope_open(&scope, CR_FOREVER), 0);
    CHECK_EQ(cr_scope_go(scope, does_nothing, NULL), 0);
    CHECK_EQ(cr_scope_wait(scope), 0);
    CHECK_EQ(cr_scope_close(scope), 0);
}

static void spawns_everywhere(void *unused)
{
    (void)unused;
    spawns_here();
    spawns_there();
}

TEST(each_place_that_spawns_is_told_of_by_name)
{
    SKIP_WHERE_NONE_IS_TAKEN();
    for (unsigned workers = 1; workers <= 3; workers += 2) {
        run_with_census(spawns_everywhere, NULL, workers);
        CHECK_STR(report, "6 coroutines from 4 places");
        CHECK_STR(report, "1 of spawns_everywhere, spawned by the runtime");
#ifdef CR_TEST_SYMBOLS
        CHECK_STR(report, "1 of does_nothing, spawned at spawns_here+0x");
        CHECK_STR(report, "3 of does_nothing, spawned at spawns_there+0x");
        CHECK_STR(report, "1 of does_nothing, spawned at spawns_there+0x");
#endif
    }
}

static void spawns_on_all(void *unused)
{
    struct way way = {.depth_bytes = 5000, .live_bytes = 500, .parks = 2};
    (void)unused;
    all_their_way(&way, 300, &(struct cr_attr){.flags = CR_MIGRATABLE});
}

TEST(several_workers_count_together)
{
    SKIP_WHERE_NONE_IS_TAKEN();
    run_with_census(spawns_on_all, NULL, 3);
    struct told told = must_find("goes_its_way");
    CHECK_EQ(told.spawned, 300);
    CHECK(told.parks <= 600 && told.parks >= 300); /* one that is unparked before it parks does not */
    check_depths(&told, 5000, 500);
}

/* ---- What it recommends -------------------------------------------------------------------------------------- */

static void check_advice(uint32_t deepest, uint32_t live, uint64_t at_once, enum cr_stack_kind kind, uint32_t size)
{
    struct cr__census_advice advice = cr__census_advise(deepest, live, at_once);
    CHECK_EQ(advice.kind, kind);
    CHECK_EQ(advice.size_bytes, size);
}

TEST(the_rule_is_what_the_documentation_says)
{
    check_advice(600, 200, 10, CR_STACK_STATIC, 4096);           /* few: a page, guarded */
    check_advice(10000, 200, 100, CR_STACK_STATIC, 16384);       /* half as much again, and 1 KiB */
    check_advice(600, 200, 4096, CR_STACK_STATIC, 4096);         /* 16 MiB just so */
    check_advice(600, 200, 4097, CR_STACK_STATIC, 2048);         /* many, shallow: packed */
    check_advice(1562, 200, 1000000, CR_STACK_STATIC, 2048);
    check_advice(1563, 200, 1000000, CR_STACK_SHARED, 4096);     /* deeper, little live: copied */
    check_advice(3000, 2048, 1000000, CR_STACK_SHARED, 8192);
    check_advice(3000, 2049, 1000000, CR_STACK_VIRTUAL, 65536);  /* much live */
    check_advice(90000, 5000, 1000000, CR_STACK_VIRTUAL, 163840);
}

static void shallow_many(void *unused)
{
    struct way way = {.depth_bytes = 500, .live_bytes = 100, .parks = 1};
    (void)unused;
    all_their_way(&way, MOST, &(struct cr_attr){.stack_size_bytes = 16384});
}

static void deeper_many(void *unused)
{
    struct way way = {.depth_bytes = 5000, .live_bytes = 100, .parks = 1};
    (void)unused;
    all_their_way(&way, MOST, &(struct cr_attr){.stack_size_bytes = 16384});
}

static void heavy_many(void *unused)
{
    struct way way = {.depth_bytes = 5000, .live_bytes = 4000, .parks = 1};
    (void)unused;
    all_their_way(&way, MOST, &(struct cr_attr){.stack_size_bytes = 16384});
}

TEST(a_run_of_many_gets_the_advice_that_fits_them)
{
    SKIP_WHERE_NONE_IS_TAKEN();
    run_with_census(shallow_many, NULL, 1);
    struct told told = must_find("goes_its_way");
    CHECK_EQ(told.most, MOST);
    CHECK(strcmp(told.advised_kind, "static") == 0 && told.advised_size == 2048);
    run_with_census(deeper_many, NULL, 1);
    told = must_find("goes_its_way");
    CHECK(strcmp(told.advised_kind, "shared") == 0 && told.advised_size > 5000);
    CHECK_STR(report, "if nobody else has pointers to their locals");
    run_with_census(heavy_many, NULL, 1);
    told = must_find("goes_its_way");
    CHECK(strcmp(told.advised_kind, "virtual") == 0 && told.advised_size == 65536);
}

/* ---- Without ------------------------------------------------------------------------------------------------- */

static void asks_for_census(void *unused)
{
    (void)unused;
    CHECK(cr__worker_here()->census == NULL);
    CHECK(!(cr__co_flags(cr_co_current()) & CR__CO_CHECKED));
}

TEST(without_the_wish_nothing_is_looked_at)
{
    unsetenv("CR_STACK_CENSUS");
    CHECK_EQ(cr_run(asks_for_census, NULL, NULL), 0);
    setenv("CR_STACK_CENSUS", "0", 1);
    CHECK_EQ(cr_run(asks_for_census, NULL, NULL), 0);
    setenv("CR_STACK_CENSUS", "yes", 1);
    CHECK_EQ(cr_run(asks_for_census, NULL, NULL), -EINVAL);
}
