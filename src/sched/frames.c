/* Slabs of tasks, by size; frames.h has the layout. */
#include "sched/frames.h"

#include "sched/sched.h"

#define HEAD_BYTES (sizeof(struct cr__record) - CR__CO_STACKFUL_BYTES)

_Static_assert(HEAD_BYTES % 16 == 0, "a frame whose size is a multiple of 16 is aligned to that, so one that wants to be is");
_Static_assert(CR__FRAME_CLASSES <= UINT8_MAX, "used[] names them");

static void *object_of(struct cr__record *record)
{
    return (char *)record + CR__CO_STACKFUL_BYTES;
}

static struct cr__record *record_at(void *object)
{
    return (struct cr__record *)(void *)((char *)object - CR__CO_STACKFUL_BYTES);
}

/* Above the fine ones: by the highest bit, and the two below it, of the last byte that must fit. */
static unsigned class_of(size_t size_bytes)
{
    if (size_bytes <= CR__FRAME_FINE_BYTES)
        return (unsigned)(size_bytes + 7) / 8;
    unsigned last = (unsigned)size_bytes - 1, octave = cr__bits_highest(last);
    return CR__FRAME_FINE_CLASSES + 4 * (octave - 10) + ((last >> (octave - 2)) & 3);
}

static uint32_t class_bytes(unsigned class)
{
    if (class < CR__FRAME_FINE_CLASSES)
        return 8 * class;
    unsigned octave = 10 + (class - CR__FRAME_FINE_CLASSES) / 4, quarter = (class - CR__FRAME_FINE_CLASSES) % 4;
    return (5 + quarter) << (octave - 2);
}

static unsigned used_count(const struct cr__frames *frames)
{
    return atomic_load_explicit(&frames->used_count, memory_order_acquire);
}

static struct cr__slab *slab_of_class(struct cr__frames *frames, unsigned class)
{
    struct cr__slab *slab = &frames->slabs[class];
    if (CR__UNLIKELY(slab->object_size_bytes == 0)) {
        cr__slab_init(slab, (uint32_t)HEAD_BYTES + class_bytes(class), CR__MEM_FRAMES);
        unsigned count = used_count(frames);
        frames->used[count] = (uint8_t)class;
        atomic_store_explicit(&frames->used_count, count + 1, memory_order_release); /* pairs with the acquire in used_count */
    }
    return slab;
}

struct cr__record *cr__frames_get(struct cr__frames *frames, size_t size_bytes)
{
    void *object = cr__slab_get(slab_of_class(frames, class_of(size_bytes)));
    return object ? record_at(object) : NULL;
}

void cr__frames_put(struct cr__frames *frames, struct cr__record *record)
{
    void *object = object_of(record);
    size_t frame_bytes = cr__slab_of(object)->object_size_bytes - HEAD_BYTES;
    cr__slab_put(slab_of_class(frames, class_of(frame_bytes)), object);
}

void cr__frames_flush(struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++)
        cr__slab_flush(&frames->slabs[frames->used[i]]);
}

void cr__frames_look(struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++)
        cr__slab_look(&frames->slabs[frames->used[i]]);
}

bool cr__frames_shrink(struct cr__frames *frames)
{
    bool more = false;
    for (unsigned i = 0; i < used_count(frames); i++)
        more |= cr__slab_shrink(&frames->slabs[frames->used[i]]);
    return more;
}

void cr__frames_trim(struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++)
        cr__slab_trim(&frames->slabs[frames->used[i]]);
}

bool cr__frames_restless(const struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++) {
        if (cr__slab_restless(&frames->slabs[frames->used[i]]))
            return true;
    }
    return false;
}

bool cr__frames_returned(const struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++) {
        if (cr__slab_returned(&frames->slabs[frames->used[i]]))
            return true;
    }
    return false;
}

struct each {
    void (*fn)(void *record, void *arg);
    void *arg;
};

static void call(void *object, void *arg)
{
    struct each *each = arg;
    each->fn(record_at(object), each->arg);
}

void cr__frames_each(struct cr__frames *frames, void (*fn)(void *record, void *arg), void *arg)
{
    struct each each = {fn, arg};
    for (unsigned i = 0; i < used_count(frames); i++)
        cr__slab_each(&frames->slabs[frames->used[i]], call, &each);
}

void cr__frames_fini(struct cr__frames *frames)
{
    for (unsigned i = 0; i < used_count(frames); i++)
        cr__slab_fini(&frames->slabs[frames->used[i]]);
    frames->used_count = 0;
}

struct cr__frames *cr__frames_of(const struct cr__record *record)
{
    struct cr__slab *slab = cr__slab_of((const char *)record + CR__CO_STACKFUL_BYTES);
    return CR__CONTAINER(slab - class_of(slab->object_size_bytes - HEAD_BYTES), struct cr__frames, slabs);
}
