/* Bare coroutines: the public calls of crore/co.h. Their stacks come from one pool for the whole process, under a mutex,
 * since a coroutine may be made on one thread and destroyed on another; no coroutine ever holds it across a switch. */
#include "co/co.h"

#include <pthread.h>
#include <stdatomic.h>

#include "mem/mem.h"

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cr__stack_pool pool;
static struct cr__packed packed;
static bool pool_ready;
static _Atomic uint32_t last_id;

struct bare {
    struct cr_co co;
    uint32_t stack_bytes;
    struct cr__self *home; /* of one with a shared stack: the thread that it is bound to */
};

int cr_co_create(struct cr_co **out, void *(*fn)(void *), const struct cr_attr *attr)
{
    unsigned flags;
    uint32_t stack_bytes;
    if (!fn || cr__attr_check(attr, CR_STACK_STATIC, 0, &flags, &stack_bytes) < 0)
        return -EINVAL;
    struct bare *bare = cr__mem_alloc(sizeof(*bare), CR__MEM_RECORDS);
    if (!bare)
        return -ENOMEM;
    bare->co.mode = CR__MODE(CR__CO_NEW, flags);
    bare->co.id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
    bare->co.entry = (void (*)(void))fn;
    bare->stack_bytes = stack_bytes;
    if (cr__co_kind(&bare->co) == CR_STACK_SHARED)
        bare->co.mode |= CR__MODE(0, CR__CO_CHECKED);
    if (attr && attr->name && cr__co_name_set(&bare->co, attr->name) < 0) {
        cr__mem_free(bare, sizeof(*bare), CR__MEM_RECORDS);
        return -ENOMEM;
    }
    *out = &bare->co;
    return 0;
}

/* The first frame of every bare coroutine. */
__attribute__((noreturn)) static void run(void *arg, void *value, uint64_t note)
{
    struct cr_co *co = arg;
    cr__co_arrive(co, note);
    value = ((void *(*)(void *))co->entry)(value);

    struct cr__self *self = cr__self_get(); /* after the user's code: perhaps another thread */
    cr__co_state_set(co, CR__CO_ENDED);
    if (cr__co_is_packed(co))
        cr__co_check_packed(co, __builtin_frame_address(0));
    if (cr__co_kind(co) == CR_STACK_SHARED)
        cr__shared_end(co);
    self->current = co->below;
    note = CR__NOTE_ENDED;
    cr__co_switch(co, co->below, cr__co_own_fpu(co), value, &note);
    cr__panic("coroutine %u was resumed after its end", co->id);
}

static int shared_prepare(struct bare *bare);

static int prepare(struct cr_co *co)
{
    struct bare *bare = CR__CONTAINER(co, struct bare, co);
    if (cr__co_kind(co) == CR_STACK_SHARED)
        return shared_prepare(bare);
    pthread_mutex_lock(&pool_lock);
    if (!pool_ready) {
        cr__stack_pool_init(&pool, CR__STACK_GUARD_BYTES, 0);
        cr__packed_init(&packed);
        pool_ready = true;
    }
    int r = bare->stack_bytes == CR__PACKED_BYTES ? cr__co_prepare_packed(co, &packed, run) : cr__co_prepare(co, &pool, bare->stack_bytes, run);
    pthread_mutex_unlock(&pool_lock);
    return r;
}

/* What a thread that is no worker needs for shared stacks; it stays as long as the program, since its coroutines may outlive it. */
struct outside {
    struct cr__shared shared;
    struct cr__images images;
    struct cr__stack_pool pool;
};

static struct cr__shared *shared_here(struct cr__self *self)
{
    if (self->shared)
        return self->shared;
    struct outside *outside = cr__mem_alloc(sizeof(*outside), CR__MEM_OTHER);
    if (!outside)
        return NULL;
    cr__images_init(&outside->images);
    cr__stack_pool_init(&outside->pool, CR__STACK_GUARD_BYTES, 0);
    cr__shared_init(&outside->shared, &outside->images, &outside->pool, CR__SHARED_STACKS);
    return self->shared = &outside->shared;
}

static int shared_prepare(struct bare *bare)
{
    struct cr__self *self = cr__self_here();
    struct cr__shared *shared = shared_here(self);
    if (!shared)
        return -ENOMEM;
    bare->home = self;
    return cr__shared_start(shared, &bare->co, bare->stack_bytes, run, NULL);
}

/* Of kinds of stack about which something is to be looked at before each switch. 0; -EXDEV: begun on another thread; -ENOMEM; -EBUSY. */
static int check_stack(struct cr__self *self, struct cr_co *to)
{
    const struct bare *bare = CR__CONTAINER(to, struct bare, co);
    if (cr__co_is_packed(to))
        cr__co_check_packed(to, to->sp);
    if (cr__co_kind(to) != CR_STACK_SHARED)
        return 0;
    if (bare->home != self)
        return -EXDEV;
    return cr__co_flags(to) & CR__CO_AWAY ? cr__shared_reserve(self, to) : 0;
}

/* Why co can't be switched to now, or 0. */
static int check_target(const struct cr_co *co)
{
    switch (cr__co_state(co)) {
    case CR__CO_NEW:
    case CR__CO_SUSPENDED:
        return 0;
    case CR__CO_RUNNING:
        return -EBUSY;
    case CR__CO_ENDED:
        return -EINVAL;
    default: /* the runtime's */
        return -EPERM;
    }
}

CR__COLD static int check_and_prepare(struct cr_co *to)
{
    int r = check_target(to);
    if (r == 0 && cr__co_state(to) == CR__CO_NEW)
        r = prepare(to);
    return r == 0 ? check_stack(cr__self_here(), to) : r;
}

int cr_co_resume(struct cr_co *co, void **value)
{
    struct cr__self *self = cr__self_here();
    if (CR__UNLIKELY((co->mode & CR__MODE(0xff, CR__CO_CHECKED)) != CR__CO_SUSPENDED)) {
        int r = check_and_prepare(co);
        if (r < 0)
            return r;
    }
    struct cr_co *from = self->current;
    uint64_t note = 0;
    cr__co_state_set(co, CR__CO_RUNNING);
    co->below = from;
    self->current = co;
    void *back = cr__co_switch(from, co, cr__co_own_fpu(co), value ? *value : NULL, &note);
    if (value)
        *value = back;
    return (int)(note >> 63);
}

int cr_co_yield(void **value)
{
    struct cr__self *self = cr__self_get();
    if (!self || cr__co_state(self->current) != CR__CO_RUNNING)
        return -EPERM;
    struct cr_co *me = self->current;
    uint64_t note = 0;
    cr__co_state_set(me, CR__CO_SUSPENDED);
    self->current = me->below;
    void *back = cr__co_switch(me, me->below, cr__co_own_fpu(me), value ? *value : NULL, &note);
    if (value)
        *value = back;
    return 0;
}

int cr_co_yield_to(struct cr_co *to, void **value)
{
    struct cr__self *self = cr__self_get();
    if (!self || cr__co_state(self->current) != CR__CO_RUNNING)
        return -EPERM;
    struct cr_co *me = self->current;
    if (to == me)
        return 0;
    if (CR__UNLIKELY((to->mode & CR__MODE(0xff, CR__CO_CHECKED)) != CR__CO_SUSPENDED)) {
        int r = check_and_prepare(to);
        if (r < 0)
            return r;
    }
    uint64_t note = 0;
    cr__co_state_set(me, CR__CO_SUSPENDED);
    cr__co_state_set(to, CR__CO_RUNNING);
    to->below = me->below;
    self->current = to;
    void *back = cr__co_switch(me, to, cr__co_own_fpu(me), value ? *value : NULL, &note);
    if (value)
        *value = back;
    return 0;
}

enum cr_co_status cr_co_status(const struct cr_co *co)
{
    switch (cr__co_state(co) & ~(unsigned)CR__CO_TASK) {
    case CR__CO_NEW:
        return CR_CO_NEW;
    case CR__CO_SUSPENDED:
        return CR_CO_SUSPENDED;
    case CR__CO_RUNNING:
        return CR_CO_RUNNING;
    case CR__CO_SCHEDULED:
        return CR_CO_SCHEDULED;
    default:
        return CR_CO_ENDED;
    }
}

struct cr_co *cr_co_current(void)
{
    struct cr__self *self = cr__self_get();
    if (!self)
        return NULL;
    return cr__co_state(self->current) != CR__CO_ROOT ? self->current : self->task;
}

int cr_co_destroy(struct cr_co *co)
{
    if (!co)
        return 0;
    if (cr__co_state(co) == CR__CO_RUNNING)
        return -EBUSY;
    if (cr__co_state(co) > CR__CO_ENDED) /* the runtime's */
        return -EPERM;
    struct bare *bare = CR__CONTAINER(co, struct bare, co);
    if (bare->home && bare->home != cr__self_here())
        return -EXDEV;
    cr__co_cold_free(co);
    if (bare->home) {
        cr__san_end(co);
        if (co->stack.image) /* else it has ended */
            cr__shared_end(co);
    } else if (co->stack.top) {
        cr__san_end(co);
        pthread_mutex_lock(&pool_lock);
        if (cr__co_is_packed(co))
            cr__packed_put(&packed, co->stack.top);
        else
            cr__stack_put(&pool, co->stack);
        pthread_mutex_unlock(&pool_lock);
    }
    cr__mem_free(bare, sizeof(*bare), CR__MEM_RECORDS);
    return 0;
}
