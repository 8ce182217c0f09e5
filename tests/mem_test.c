/* Slabs and the stack pool, by behaviour. */
#include "mem/mem.h"
#include "stack/stack.h"
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
