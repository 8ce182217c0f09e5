#include "stack/packed.h"

#ifdef CR__HAVE_VALGRIND
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

_Static_assert(CR__PACKED_ROOM_BYTES / CR__CACHE_LINE % 2 == 1 && CR__PACKED_ROOM_BYTES % CR__CACHE_LINE == 0, "an odd number of lines");
_Static_assert(CR__PACKED_ROOM_BYTES <= CR__PACKED_BYTES, "it costs no more than it says");

void cr__packed_init(struct cr__packed *packed)
{
    *packed = (struct cr__packed){0};
    cr__slab_init(&packed->slab, CR__PACKED_ROOM_BYTES, CR__MEM_STACKS);
}

void cr__packed_fini(struct cr__packed *packed)
{
    cr__slab_fini(&packed->slab);
}

bool cr__packed_usable(void)
{
#if defined(CR__ASAN) || defined(CR__TSAN) || !defined(__OPTIMIZE__)
    return false;
#else
    return !RUNNING_ON_VALGRIND;
#endif
}
