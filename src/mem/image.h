/* Room for byte images: the live bytes of stacks that are not on them. Part of mem.h.
 *
 * A slab for each class of sizes: from 32 bytes in steps of 16 up to 512, of 64 up to 1 KiB, then four to a power of two, up to a chunk. What is
 * larger has no image: its stack stays where it is. A set belongs to one worker; what another worker puts goes home to where it came from. */
#ifndef CR__IMAGE_H
#define CR__IMAGE_H

#include "mem/slab.h"

#define CR__IMAGE_MIN_BYTES 32
#define CR__IMAGE_MAX_BYTES CR__CHUNK_BYTES
#define CR__IMAGE_CLASSES 71

struct cr__images {
    _Atomic uint64_t used[2]; /* classes that have a slab: each gets one when it is first wanted. Written by its owner */
    struct cr__slab classes[CR__IMAGE_CLASSES];
};

void cr__images_init(struct cr__images *images);

/* Gives everything back, images in use included. Nobody may put any more. */
void cr__images_fini(struct cr__images *images);

/* Aligned to 16 bytes, or as size_bytes is, up to a page (so that what O_DIRECT reads may go there), but under AddressSanitizer, which has gaps between; in it is whatever was; NULL: no memory, or more than CR__IMAGE_MAX_BYTES. */
void *cr__image_get(struct cr__images *images, size_t size_bytes);

/* Frees an image, of this set or another worker's. */
void cr__image_put(struct cr__images *images, void *image);

/* How many bytes it can hold. */
static inline size_t cr__image_room(const void *image)
{
    return cr__slab_of(image)->object_size_bytes;
}

/* What cr__slab_flush, _look, _shrink, _trim, _restless and _returned do, for all classes. */
void cr__images_flush(struct cr__images *images);
void cr__images_look(struct cr__images *images);
bool cr__images_shrink(struct cr__images *images);
bool cr__images_restless(const struct cr__images *images);
bool cr__images_returned(const struct cr__images *images);
void cr__images_trim(struct cr__images *images);

#endif
