#include "mem/mem.h"

#include <string.h>

#define FINE_STEP 16u /* up to FINE_END */
#define FINE_END 512u
#define MIDDLE_STEP 64u
#define MIDDLE_END 1024u
#define FINE_CLASSES ((FINE_END - CR__IMAGE_MIN_BYTES) / FINE_STEP + 1)
#define MIDDLE_CLASSES ((MIDDLE_END - FINE_END) / MIDDLE_STEP)
#define MIDDLE_BITS 10

_Static_assert(CR__IMAGE_CLASSES == FINE_CLASSES + MIDDLE_CLASSES + 4 * 8, "1 KiB to 256 KiB are 8 powers of two");

struct class {
    unsigned index;
    uint32_t size_bytes;
};

/* size_bytes: up to CR__IMAGE_MAX_BYTES. */
static inline struct class class_of(size_t size_bytes)
{
    uint32_t size = size_bytes < CR__IMAGE_MIN_BYTES ? CR__IMAGE_MIN_BYTES : (uint32_t)size_bytes;
    if (size <= FINE_END) {
        unsigned steps = (size + FINE_STEP - 1) / FINE_STEP;
        return (struct class){steps - CR__IMAGE_MIN_BYTES / FINE_STEP, steps * FINE_STEP};
    }
    if (size <= MIDDLE_END) {
        unsigned steps = (size + MIDDLE_STEP - 1) / MIDDLE_STEP;
        return (struct class){FINE_CLASSES + steps - 1 - FINE_END / MIDDLE_STEP, steps * MIDDLE_STEP};
    }
    unsigned power = cr__bits_highest(size - 1), step_bits = power - 2;
    unsigned steps = ((size - 1) >> step_bits) + 1; /* 5 to 8 */
    return (struct class){FINE_CLASSES + MIDDLE_CLASSES + 4 * (power - MIDDLE_BITS) + steps - 5, steps << step_bits};
}

static inline struct cr__slab *slab_of(struct cr__images *images, struct class class)
{
    struct cr__slab *slab = &images->classes[class.index];
    if (CR__UNLIKELY(slab->object_size_bytes == 0)) {
        cr__slab_init(slab, class.size_bytes, CR__MEM_IMAGES);
        atomic_fetch_or_explicit(&images->used[class.index / 64], (uint64_t)1 << class.index % 64, memory_order_relaxed); /* whoever sees it reads `returned` only */
    }
    return slab;
}

void *cr__image_get(struct cr__images *images, size_t size_bytes)
{
    if (CR__UNLIKELY(size_bytes > CR__IMAGE_MAX_BYTES))
        return NULL;
    return cr__slab_get(slab_of(images, class_of(size_bytes)));
}

void cr__image_put(struct cr__images *images, void *image)
{
    cr__slab_put(slab_of(images, class_of(cr__image_room(image))), image);
}

void cr__images_init(struct cr__images *images)
{
    memset(images, 0, sizeof(*images));
}

/* The first class from that one on that has a slab; NULL: none. */
static struct cr__slab *class_from(struct cr__images *images, unsigned index)
{
    for (unsigned i = index / 64; i < CR__COUNT(images->used); i++) {
        uint64_t left = atomic_load_explicit(&images->used[i], memory_order_relaxed);
        if (i == index / 64)
            left = left >> index % 64 << index % 64;
        if (left)
            return &images->classes[64 * i + cr__bits_lowest(left)];
    }
    return NULL;
}

#define EACH_CLASS(slab, images) \
    struct cr__slab *slab = class_from(images, 0); slab; slab = class_from(images, (unsigned)(slab - (images)->classes) + 1)

void cr__images_flush(struct cr__images *images)
{
    for (EACH_CLASS(slab, images))
        cr__slab_flush(slab);
}

void cr__images_look(struct cr__images *images)
{
    for (EACH_CLASS(slab, images))
        cr__slab_look(slab);
}

bool cr__images_shrink(struct cr__images *images)
{
    bool more = false;
    for (EACH_CLASS(slab, images))
        more |= cr__slab_shrink(slab);
    return more;
}

bool cr__images_restless(const struct cr__images *images)
{
    for (EACH_CLASS(slab, (struct cr__images *)images)) {
        if (cr__slab_restless(slab))
            return true;
    }
    return false;
}

bool cr__images_returned(const struct cr__images *images)
{
    for (EACH_CLASS(slab, (struct cr__images *)images)) {
        if (cr__slab_returned(slab))
            return true;
    }
    return false;
}

void cr__images_trim(struct cr__images *images)
{
    for (EACH_CLASS(slab, images))
        cr__slab_trim(slab);
}

void cr__images_fini(struct cr__images *images)
{
    for (EACH_CLASS(slab, images))
        cr__slab_fini(slab);
    memset(images->used, 0, sizeof(images->used));
}
