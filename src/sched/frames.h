/* Where tasks lie: each is one object of a slab, its record without what has a stack, and behind that its root frame. There is a slab for each multiple
 * of 8 bytes up to 1 KiB, where a wasted byte would count ten million times, and for four sizes in each power of two above.
 *
 * A record's address is that of its object minus CR__CO_STACKFUL_BYTES: those fields are another object's memory, and nobody touches them. */
#ifndef CR__FRAMES_H
#define CR__FRAMES_H

#include "co/co.h"
#include "mem/mem.h"

#define CR__FRAME_FINE_BYTES 1024u
#define CR__FRAME_MOST_BYTES (64u << 10)
#define CR__FRAME_FINE_CLASSES (CR__FRAME_FINE_BYTES / 8 + 1)
#define CR__FRAME_CLASSES (CR__FRAME_FINE_CLASSES + 4 * 6)

struct cr__frames {
    struct cr__slab slabs[CR__FRAME_CLASSES]; /* those without a size have never been used */
    uint8_t used[CR__FRAME_CLASSES];          /* which have, in the order of their first use */
    _Atomic unsigned used_count;              /* written by its owner */
};

/* A record with room for such a frame behind it; NULL: no memory. size_bytes: 1 to CR__FRAME_MOST_BYTES. */
struct cr__record *cr__frames_get(struct cr__frames *frames, size_t size_bytes);

/* Frees it; frames is the calling worker's, from which it need not be. */
void cr__frames_put(struct cr__frames *frames, struct cr__record *record);

/* As the slabs' calls of these names. */
void cr__frames_flush(struct cr__frames *frames);
void cr__frames_look(struct cr__frames *frames);
bool cr__frames_shrink(struct cr__frames *frames);
void cr__frames_trim(struct cr__frames *frames);
bool cr__frames_restless(const struct cr__frames *frames);

/* Whether something has been sent home. Any thread. */
bool cr__frames_returned(const struct cr__frames *frames);
void cr__frames_each(struct cr__frames *frames, void (*fn)(void *record, void *arg), void *arg);
void cr__frames_fini(struct cr__frames *frames);

/* The worker's frames that a task was made from. */
struct cr__frames *cr__frames_of(const struct cr__record *record);

#endif
