/* Slabs and the stack pool, by behaviour. */
#include "mem/mem.h"
#include "os/os.h"
#include "stack/stack.h"
#include "kernel.h"
#include "test.h"

TEST(what_is_freed_last_is_reused_first)
{
    struct cr__slab slab;
    cr__slab_init(&slab, 64, CR__MEM_OTHER);
    void *a = cr__slab_get(&slab), *b = cr__slab_get(&slab);
    CHECK(a && b && a != b);
    CHECK_EQ((uintptr_t)a % 64, 0);
    cr__slab_put(&slab, a);
    cr__slab_put(&slab, b);
    CHECK(cr__slab_get(&slab) == b);
    CHECK(cr__slab_get(&slab) == a);
    cr__slab_fini(&slab);
}

static void count(void *object, void *sum)
{
    *(long *)sum += ((long *)object)[1];
}

TEST(a_slab_grows_by_chunks_and_can_be_walked)
{
    struct cr__slab slab;
    uint64_t before = cr__mem_bytes(CR__MEM_OTHER);
    cr__slab_init(&slab, 64, CR__MEM_OTHER);
    long expected = 0, sum = 0;
    for (long i = 0; i < 1000; i++) {
        long *object = cr__slab_get(&slab);
        object[1] = i;
        expected += i;
    }
    cr__slab_each(&slab, count, &sum);
    CHECK_EQ(sum, expected);
    CHECK(cr__mem_bytes(CR__MEM_OTHER) - before >= 64000);
    cr__slab_fini(&slab);
    CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER), before);
}

TEST(a_slab_without_memory_says_so_and_works_again_after)
{
    struct cr__slab slab;
    cr__slab_init(&slab, 64, CR__MEM_OTHER);
    cr__mem_fail_after(1);
    CHECK(cr__slab_get(&slab) == NULL);
    cr__mem_fail_after(0);
    CHECK(cr__slab_get(&slab) != NULL);
    cr__slab_fini(&slab);
}

#ifdef CR__ASAN
extern int __asan_address_is_poisoned(const volatile void *);
#endif

TEST(with_address_sanitizer_what_is_free_and_what_lies_between_objects_is_poisoned)
{
#ifndef CR__ASAN
    SKIP("built without AddressSanitizer");
#else
    struct cr__slab slab;
    cr__slab_init(&slab, 256, CR__MEM_OTHER);
    char *object = cr__slab_get(&slab);
    CHECK(!__asan_address_is_poisoned(object) && !__asan_address_is_poisoned(object + 255));
    CHECK(__asan_address_is_poisoned(object + 256));
    cr__slab_put(&slab, object);
    CHECK(__asan_address_is_poisoned(object + CR__SLAB_READABLE_BYTES) && __asan_address_is_poisoned(object + 255));
    CHECK(cr__slab_get(&slab) == object);
    CHECK(!__asan_address_is_poisoned(object + 255));
    cr__slab_fini(&slab);
#endif
}

static void mark(void *object, void *arg)
{
    CHECK_EQ(((long *)object)[1], 7);
    ++*(long *)arg;
}

TEST(chunks_of_which_nothing_is_in_use_leave_the_slab)
{
    struct cr__slab slab;
    static long *objects[20000];
    uint64_t before = cr__mem_bytes(CR__MEM_OTHER);
    cr__slab_init(&slab, 128, CR__MEM_OTHER);
    for (int i = 0; i < 20000; i++) {
        objects[i] = cr__slab_get(&slab);
        objects[i][1] = 7;
    }
    uint64_t peak = cr__mem_bytes(CR__MEM_OTHER) - before;
    CHECK(peak >= 20000 * 128);
    for (int i = 0; i < 20000; i += 2)
        cr__slab_put(&slab, objects[i]);
    CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER) - before, peak); /* each chunk has some in use */
    long seen = 0;
    cr__slab_each(&slab, mark, &seen);
    CHECK_EQ(seen, 20000);
    for (int i = 1; i < 20000; i += 2)
        cr__slab_put(&slab, objects[i]);
    CHECK(cr__mem_bytes(CR__MEM_OTHER) - before <= 3 * CR__CHUNK_BYTES); /* what the magazines hold */
    seen = 0;
    cr__slab_each(&slab, mark, &seen);
    CHECK(seen <= 3 * 2048);
    cr__slab_trim(&slab);
    CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER), before);
    CHECK(cr__slab_get(&slab) != NULL);
    cr__slab_fini(&slab);
}

TEST(a_slab_at_rest_gives_everything_back_by_itself)
{
    struct cr__slab slab;
    void *objects[100];
    uint64_t before = cr__mem_bytes(CR__MEM_OTHER);
    cr__slab_init(&slab, 64, CR__MEM_OTHER);
    for (int i = 0; i < 100; i++)
        objects[i] = cr__slab_get(&slab);
    for (int i = 0; i < 100; i++)
        cr__slab_put(&slab, objects[i]);
    CHECK(cr__slab_restless(&slab));
    for (int i = 0; i < 10 && cr__slab_restless(&slab); i++)
        cr__slab_look(&slab);
    CHECK(!cr__slab_restless(&slab));
    CHECK_EQ(cr__mem_bytes(CR__MEM_OTHER), before);
    cr__slab_fini(&slab);
}

#define WAVE 20000

static void wave(struct cr__slab *slab)
{
    static void *objects[WAVE];
    for (int i = 0; i < WAVE; i++)
        objects[i] = cr__slab_get(slab);
    for (int i = 0; i < WAVE; i++)
        cr__slab_put(slab, objects[i]);
}

TEST(a_load_that_comes_and_goes_makes_no_kernel_calls)
{
    struct cr__slab slab;
    cr__slab_init(&slab, 128, CR__MEM_OTHER);
    wave(&slab);
    uint64_t calls = cr__mem_kernel_calls();
    for (int64_t now_ns = 0; now_ns < 60ll * 1000000000; now_ns += 100 * 1000000) {
        wave(&slab);
        cr__slab_look(&slab);
        cr__slab_shrink(&slab);
        cr__depot_tick(now_ns);
    }
    CHECK_EQ(cr__mem_kernel_calls(), calls);
    cr__slab_fini(&slab);
}

#ifdef CR__ASAN
#define CR_TEST_SHADOW 1 /* of memory that was once in use: stays */
#else
#define CR_TEST_SHADOW 0
#endif

static size_t resident_bytes(void)
{
    unsigned long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu %lu", &size, &resident) == 2);
    fclose(f);
    return resident * 4096 + cr__mem_pages_bytes(CR__PAGES_HUGETLB);
}

/* What the system says of memory says nothing of ours there. */
static void skip_where_memory_is_not_ours_alone(void)
{
    SKIP_WITH_THREAD_SANITIZER();
    if (RUNNING_ON_VALGRIND)
        SKIP("valgrind has memory of its own");
#ifdef CR_TEST_EMULATED
    SKIP("the emulator has memory of its own");
#endif
}

TEST(what_a_peak_leaves_behind_goes_back_to_the_system)
{
    skip_where_memory_is_not_ours_alone();
    enum { COUNT = 1000000 };
    struct cr__slab slab;
    void **objects = malloc(COUNT * sizeof(*objects));
    memset(objects, 0, COUNT * sizeof(*objects));
    cr__slab_init(&slab, 128, CR__MEM_OTHER);
    size_t before = resident_bytes();
    for (int i = 0; i < COUNT; i++)
        memset(objects[i] = cr__slab_get(&slab), 1, 128);
    size_t peak = resident_bytes() - before;
    CHECK(peak >= (size_t)COUNT * 128);
    for (int i = 0; i < COUNT; i++)
        cr__slab_put(&slab, objects[i]);
    int64_t now_ns = 1ll << 50;
    for (int i = 0; i < 4; i++, now_ns += 500 * 1000000) {
        cr__slab_look(&slab);
        cr__slab_shrink(&slab);
        while (cr__depot_tick(now_ns))
            ;
    }
    CHECK(!cr__depot_restless());
    CHECK(resident_bytes() < before + peak / (CR_TEST_SHADOW ? 4 : 10));
    CHECK(cr__mem_spare_bytes() <= CR__MEM_KINDS * CR__DEPOT_KEPT * CR__CHUNK_BYTES);
    void *again = cr__slab_get(&slab); /* and comes again */
    CHECK(again != NULL);
    memset(again, 0, 128);
    free(objects);
    cr__slab_fini(&slab);
}

TEST(the_place_of_an_object_that_is_gone_reads_as_one_of_its_kind_or_as_nothing)
{
    struct cr__slab slab, other;
    static uint64_t *objects[5000];
    cr__slab_init(&slab, 256, CR__MEM_CONNS);
    cr__slab_init(&other, 64, CR__MEM_OTHER);
    for (int i = 0; i < 5000; i++) {
        objects[i] = cr__slab_get(&slab);
        objects[i][1] = 42;
    }
    for (int i = 0; i < 5000; i++)
        cr__slab_put(&slab, objects[i]);
    cr__slab_trim(&slab);
    cr__depot_trim();
    for (int i = 0; i < 20000; i++)
        memset(cr__slab_get(&other), 1, 64);
    int gone = 0;
    for (int i = 0; i < 5000; i++) {
        CHECK(objects[i][1] == 42 || objects[i][1] == 0);
        gone += objects[i][1] == 0;
    }
    CHECK(gone > 0);
    cr__slab_fini(&slab);
    cr__slab_fini(&other);
}

TEST(what_another_one_frees_comes_home_and_is_reused)
{
    struct cr__slab mine, theirs;
    void *objects[1000];
    cr__slab_init(&mine, 128, CR__MEM_OTHER);
    cr__slab_init(&theirs, 128, CR__MEM_OTHER);
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 1000; i++)
            objects[i] = cr__slab_get(&mine);
        for (int i = 0; i < 1000; i++)
            cr__slab_put(&theirs, objects[i]);
        cr__slab_flush(&theirs);
    }
    uint32_t chunks = 0;
    for (uint32_t i = 0; i < cr__reserve.chunks; i++)
        chunks += cr__chunk_at(i)->slab == &mine;
    CHECK_EQ(chunks, 1);
    CHECK(cr__slab_restless(&mine)); /* somebody has sent something */
    cr__slab_trim(&mine);
    CHECK(!mine.current);
    cr__slab_fini(&theirs);
    cr__slab_fini(&mine);
}

TEST(objects_have_handles_of_32_bits)
{
    struct cr__slab slab;
    cr__slab_init(&slab, 48, CR__MEM_OTHER);
    for (int i = 0; i < 10000; i++) {
        void *object = cr__slab_get(&slab);
        CHECK_EQ((uintptr_t)object % 16, 0);
        CHECK(cr__mem_handle(object) != 0);
        CHECK(cr__mem_at(cr__mem_handle(object)) == object);
    }
    cr__slab_fini(&slab);
}

TEST(objects_may_be_of_any_multiple_of_eight)
{
    struct cr__slab slab;
    cr__slab_init(&slab, 312, CR__MEM_FRAMES);
    char *before = NULL;
    for (int i = 0; i < 2000; i++) {
        char *object = cr__slab_get(&slab);
        CHECK_EQ((uintptr_t)object % 8, 0);
        CHECK(!before || object >= before + 312 || object + 312 <= before);
        memset(object, 1, 312);
        before = object;
    }
    cr__slab_fini(&slab);
}

TEST(an_image_has_room_for_what_was_asked_and_little_more)
{
    struct cr__images images;
    cr__images_init(&images);
    uint64_t before = cr__mem_bytes(CR__MEM_IMAGES);
    for (size_t size = 1; size <= CR__IMAGE_MAX_BYTES; size += size < 5000 ? 1 : 997) {
        void *image = cr__image_get(&images, size);
        CHECK(image != NULL);
        CHECK_EQ((uintptr_t)image % 16, 0);
        size_t room = cr__image_room(image);
        CHECK(room >= size && room <= (size < 1024 ? size + 63 : size + size / 4));
        CHECK(size > 512 || size < 32 || room < size + 16);
        memset(image, 1, room);
        cr__image_put(&images, image);
        CHECK(cr__image_get(&images, room) == image); /* the same class */
        cr__image_put(&images, image);
    }
    CHECK(cr__image_get(&images, CR__IMAGE_MAX_BYTES + 1) == NULL);
    CHECK(cr__mem_bytes(CR__MEM_IMAGES) > before);
    cr__images_fini(&images);
    CHECK_EQ(cr__mem_bytes(CR__MEM_IMAGES), before);
}

TEST(an_image_is_aligned_as_its_size_is)
{
#ifdef CR__ASAN
    SKIP("AddressSanitizer has a gap between objects");
#endif
    struct cr__images images;
    cr__images_init(&images);
    for (size_t size = 512; size <= CR__IMAGE_MAX_BYTES; size += 512) {
        for (int i = 0; i < 3; i++) {
            uintptr_t image = (uintptr_t)cr__image_get(&images, size);
            CHECK(image != 0 && image % 512 == 0);
            CHECK(image % 4096 == 0 || size % 4096 != 0);
        }
    }
    cr__images_fini(&images);
}

TEST(an_image_that_another_worker_puts_goes_home)
{
    struct cr__images mine, theirs;
    cr__images_init(&mine);
    cr__images_init(&theirs);
    void *image = cr__image_get(&mine, 400), *again;
    cr__image_put(&theirs, image);
    CHECK((again = cr__image_get(&theirs, 400)) != image);
    cr__image_put(&theirs, again);
    cr__images_flush(&theirs);
    for (int i = 0; i < 1000 && again != image; i++)
        again = cr__image_get(&mine, 400);
    CHECK(again == image);
    cr__images_fini(&theirs);
    cr__images_fini(&mine);
}

TEST(a_stack_that_is_put_back_is_handed_out_again_without_a_kernel_call)
{
    struct cr__stack_pool pool;
    struct cr__stack stack, again;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    CHECK_EQ(cr__stack_get(&pool, 16384, &stack), 0);
    CHECK_EQ((uintptr_t)stack.top % 16, 0);
    cr__stack_put(&pool, stack);
    uint64_t calls = cr__mem_kernel_calls();
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &again), 0);
        CHECK(again.top == stack.top);
        cr__stack_put(&pool, again);
    }
    CHECK_EQ(cr__mem_kernel_calls(), calls);
    cr__stack_pool_fini(&pool);
}

static size_t address_bytes(void)
{
    unsigned long size = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu", &size) == 1);
    fclose(f);
    return size * 4096;
}

TEST(a_reservation_that_can_not_be_used_takes_no_addresses)
{
    skip_where_memory_is_not_ours_alone();
    struct cr__slab slab;
    answer_for_kernel(SYS_mprotect, PROT_READ | PROT_WRITE, ENOMEM);
    cr__slab_init(&slab, 64, CR__MEM_OTHER);
    size_t before = address_bytes();
    for (int i = 0; i < 3; i++)
        CHECK(cr__slab_get(&slab) == NULL);
    CHECK(address_bytes() < before + ((size_t)64 << 20));
}

/* A pool's only stack, used so deep, and put back. */
static char *use(struct cr__stack_pool *pool, size_t depth_bytes)
{
    struct cr__stack stack;
    CHECK_EQ(cr__stack_get(pool, 65536, &stack), 0);
    memset(stack.top - depth_bytes, 1, depth_bytes);
    cr__stack_put(pool, stack);
    return cr__stack_low(stack);
}

static size_t touched_bytes(char *low)
{
    unsigned char pages[16];
    size_t count = 0;
    CHECK_EQ(cr__os_resident(low, sizeof(pages) * 4096, pages), 0);
    for (size_t i = 0; i < sizeof(pages); i++)
        count += pages[i] & 1;
    return count * 4096;
}

static void pass_three_seconds(struct cr__stack_pool *pool)
{
    for (int i = 0; i <= CR__STACK_PAST; i++) {
        cr__stack_pool_look(pool);
        while (cr__stack_pool_shrink(pool))
            ;
    }
}

TEST(a_stack_that_was_deep_once_keeps_what_is_above_the_watermark)
{
    skip_where_memory_is_not_ours_alone();
    struct cr__stack_pool pool;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    char *low = use(&pool, 48 << 10);
    CHECK(cr__stack_pool_restless(&pool));
    CHECK(touched_bytes(low) >= 48 << 10);
    pass_three_seconds(&pool);
    CHECK_EQ(pool.trimmed, 1);
    CHECK_EQ(touched_bytes(low), CR__STACK_WATERMARK_BYTES);
    CHECK(!cr__stack_pool_restless(&pool));

    uint64_t calls = cr__mem_kernel_calls();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++)
            CHECK(use(&pool, 8 << 10) == low); /* the same one, found in whichever list */
        pass_three_seconds(&pool);
    }
    CHECK_EQ(pool.trimmed, 1);
    CHECK_EQ(cr__mem_kernel_calls(), calls);
    CHECK_EQ(touched_bytes(low), CR__STACK_WATERMARK_BYTES);

    CHECK(use(&pool, 48 << 10) == low);
    cr__stack_pool_hurry(&pool);
    CHECK(!cr__stack_pool_shrink(&pool));
    CHECK_EQ(touched_bytes(low), CR__STACK_WATERMARK_BYTES);
    cr__stack_pool_fini(&pool);
}

/* Who thaws brings a page into memory, and leaves it with its stack when it ends. Many that were frozen are no reason to keep as many warm. */
TEST(stacks_that_have_thawed_and_ended_are_not_kept_for_those_that_are_still_frozen)
{
    skip_where_memory_is_not_ours_alone();
    enum { COUNT = 2000, KEPT = 100 };
    static struct cr__stack stacks[COUNT];
    struct cr__stack_pool pool;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(cr__stack_get(&pool, 16384, &stacks[i]), 0);
    for (int i = 0; i < COUNT; i++)
        cr__stack_freezes(&pool, stacks[i]);
    CHECK_EQ(cr__stack_pool_in_use(&pool), COUNT);
    pass_three_seconds(&pool);
    cr__stack_pool_look(&pool);
    for (int i = 0; i < COUNT / 2; i++) {
        cr__stack_thaws(&pool, stacks[i]);
        cr__stack_put(&pool, stacks[i]);
    }
    CHECK_EQ(cr__stack_pool_in_use(&pool), COUNT / 2);
    cr__stack_pool_look(&pool);
    while (cr__stack_pool_shrink(&pool))
        ;
    CHECK(pool.classes[0].warm < KEPT);
    CHECK_EQ(pool.classes[0].cold_count + pool.classes[0].warm, COUNT / 2);
    cr__stack_pool_fini(&pool);
}

TEST(stacks_that_were_not_wanted_for_a_while_lose_their_pages_and_can_be_had_again)
{
    skip_where_memory_is_not_ours_alone();
    enum { COUNT = 2000 };
    static struct cr__stack stacks[COUNT];
    struct cr__stack_pool pool;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    size_t before = resident_bytes();
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &stacks[i]), 0);
        memset(stacks[i].top - 8192, 1, 8192);
    }
    CHECK(resident_bytes() - before > COUNT * 8192);
    CHECK_EQ(cr__stack_pool_in_use(&pool), COUNT);
    for (int i = 0; i < COUNT; i++)
        cr__stack_put(&pool, stacks[i]);
    uint64_t calls = cr__mem_kernel_calls();
    for (int i = 0; i <= CR__STACK_PAST; i++) {
        cr__stack_pool_look(&pool);
        CHECK(!cr__stack_pool_shrink(&pool)); /* they were all in use not long ago */
        CHECK_EQ(cr__mem_kernel_calls(), calls);
    }
    cr__stack_pool_look(&pool);
    while (cr__stack_pool_shrink(&pool))
        ;
    CHECK(!cr__stack_pool_restless(&pool));
    CHECK(CR_TEST_SHADOW || resident_bytes() < before + COUNT * 8192 / 10);
    CHECK_EQ(cr__stack_pool_in_use(&pool), 0);
    uint64_t mapped = cr__mem_bytes(CR__MEM_STACKS);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &stacks[i]), 0);
        memset(cr__stack_low(stacks[i]), 1, (size_t)(stacks[i].top - cr__stack_low(stacks[i])));
        for (int k = i < 50 ? 0 : i - 50; k < i; k++)
            CHECK(stacks[k].top != stacks[i].top);
    }
    CHECK_EQ(cr__mem_bytes(CR__MEM_STACKS), mapped);
    cr__stack_pool_fini(&pool);
}

TEST(stacks_lie_between_guards_that_the_fault_handler_finds)
{
    struct cr__stack_pool pool;
    struct cr__stack stack, hit;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &stack), 0);
        char *low = cr__stack_low(stack);
        CHECK(low < stack.top && stack.top - low <= 16384 && stack.top - low > 16384 - 1024);
        memset(low, 1, (size_t)(stack.top - low));
        CHECK(cr__stack_guard_hit(low - 1, &hit));
        CHECK_EQ(hit.size_bytes, 16384);
        CHECK(cr__stack_guard_hit(low - CR__STACK_GUARD_BYTES, &hit));
        CHECK(!cr__stack_guard_hit(low, &hit));
        CHECK(!cr__stack_guard_hit(&hit, &hit));
    }
    cr__stack_pool_fini(&pool);
    CHECK(!cr__stack_guard_hit(cr__stack_low(stack) - 1, &hit));
}

TEST(tops_are_coloured)
{
    struct cr__stack_pool pool;
    struct cr__stack stack;
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
    uint64_t offsets = 0;
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(cr__stack_get(&pool, 16384, &stack), 0);
        offsets |= (uint64_t)1 << ((uintptr_t)stack.top / 64 % 64);
    }
    CHECK_EQ(__builtin_popcountll(offsets), CR__STACK_COLOURS);
    cr__stack_pool_fini(&pool);
}

TEST(a_pool_keeps_to_its_bound)
{
    struct cr__stack_pool pool;
    struct cr__stack stacks[8], last;
    size_t slot = CR__STACK_GUARD_BYTES + 4096 + 16384; /* an odd number of pages */
    cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 8 * slot + 5000);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(cr__stack_get(&pool, 16384, &stacks[i]), 0);
    CHECK_EQ(cr__stack_get(&pool, 16384, &last), -ENOMEM);
    cr__stack_put(&pool, stacks[3]);
    CHECK_EQ(cr__stack_get(&pool, 16384, &last), 0);
    cr__stack_pool_fini(&pool);
}

TEST(sizes_are_rounded_up_to_pages_and_absurd_ones_refused)
{
    CHECK_EQ(cr__stack_size(0), CR__STACK_DEFAULT_BYTES);
    CHECK_EQ(cr__stack_size(1), 4096);
    CHECK_EQ(cr__stack_size(4097), 8192);
    CHECK_EQ(cr__stack_size((size_t)1 << 40), 0);
}

TEST(a_pool_serves_every_size)
{
    struct cr__stack_pool pool;
    struct cr__stack stack;
    cr__stack_pool_init(&pool, 4096, 0);
    uint32_t before = 0, sizes = 0;
    for (size_t wish = 1; wish <= CR__STACK_MAX_BYTES; wish += wish < (1 << 20) ? 4000 : wish / 9) {
        uint32_t size = cr__stack_size(wish);
        CHECK(size >= wish && size % 4096 == 0 && size >= before);
        CHECK(size <= 8 * 4096 ? size < wish + 4096 : size - wish <= wish / 4 + 4096);
        sizes += size != before;
        before = size;
        if (size <= 64 << 20) {
            CHECK_EQ(cr__stack_get(&pool, size, &stack), 0);
            stack.top[-1] = 1;
        }
    }
    CHECK_EQ(sizes, CR__STACK_CLASSES);
    cr__stack_pool_fini(&pool);
}
