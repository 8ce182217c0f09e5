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
    struct cr__home *home; /* of one with a shared stack: its thread's. (Not the thread's record: the next thread's may lie where that was) */
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
    if (attr && attr->name && cr_name_set(&bare->co, attr->name) < 0) {
        cr__mem_free(bare, sizeof(*bare), CR__MEM_RECORDS);
        return -ENOMEM;
    }
    *out = &bare->co;
    return 0;
}

/* What runs on a bare coroutine's stack. */
static struct cr__arch_call begin(void *arg, void *value, uint64_t note)
{
    struct cr_co *co = arg;
    cr__co_arrive(co, note);
    return (struct cr__arch_call){(void *(*)(void *))co->entry, value};
}

static void end(void *result)
{
    struct cr__self *self = cr__self_get(); /* after the user's code: perhaps another thread */
    struct cr_co *co = self->current;
    cr__co_state_set(co, CR__CO_ENDED);
    if (cr__co_is_packed(co))
        cr__co_check_packed(co, __builtin_frame_address(0));
    if (cr__co_kind(co) == CR_STACK_SHARED)
        cr__shared_end(co);
    self->current = co->below;
    uint64_t note = CR__NOTE_ENDED;
    cr__co_switch(co, co->below, cr__co_own_fpu(co), result, &note);
    cr__panic("coroutine %u was resumed after its end", co->id);
}

static const struct cr__arch_life life = {begin, end};

static int shared_prepare(struct bare *bare);

/* Gives it its stack. */
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
    int r = bare->stack_bytes == CR__PACKED_BYTES ? cr__co_prepare_packed(co, &packed, &life) : cr__co_prepare(co, &pool, bare->stack_bytes, &life);
    pthread_mutex_unlock(&pool_lock);
    return r;
}

/* What a thread's bare coroutines on shared stacks need. They may outlive the thread: who is the last of them and it frees this. Only the thread
 * works with it, without a lock; when it has left, whoever destroys one of them, under the pool's. */
struct cr__home {
    struct cr__shared shared;
    struct cr__images images;
    struct cr__stack_pool pool;
    uint32_t users; /* the thread, until it leaves, and the coroutines that are bound to it: under the pool's lock */
    _Atomic bool left;
};

static struct cr__home *home_here(struct cr__self *self)
{
    if (self->home)
        return self->home;
    struct cr__home *home = cr__mem_alloc(sizeof(*home), CR__MEM_OTHER);
    if (!home)
        return NULL;
    cr__images_init(&home->images);
    cr__stack_pool_init(&home->pool, CR__STACK_GUARD_BYTES, 0);
    cr__shared_init(&home->shared, &home->images, &home->pool, CR__SHARED_STACKS);
    home->users = 1;
    return self->home = home;
}

static void home_put_locked(struct cr__home *home)
{
    if (--home->users > 0)
        return;
    cr__shared_fini(&home->shared);
    cr__images_fini(&home->images);
    cr__stack_pool_fini(&home->pool);
    cr__mem_free(home, sizeof(*home), CR__MEM_OTHER);
}

void cr__bare_leave(struct cr__self *self)
{
    struct cr__home *home = self->home;
    if (!home)
        return;
    self->home = NULL;
    atomic_store(&home->left, true); /* pairs with the load in is_elsewhere */
    pthread_mutex_lock(&pool_lock);
    home_put_locked(home);
    pthread_mutex_unlock(&pool_lock);
}

static int shared_prepare(struct bare *bare)
{
    struct cr__home *home = home_here(cr__self_here());
    int r = home ? cr__shared_start(&home->shared, &bare->co, bare->stack_bytes, &life, NULL) : -ENOMEM;
    if (r < 0)
        return r;
    pthread_mutex_lock(&pool_lock);
    home->users++;
    pthread_mutex_unlock(&pool_lock);
    bare->home = home;
    return 0;
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

CR__COLD static int prepare_target(struct cr_co *to)
{
    int r = check_target(to);
    return r == 0 && !to->stack.top ? prepare(to) : r; /* else it was prepared before, and then refused */
}

/* As check, of one that is suspended. */
static inline int check_shared(struct cr__self *self, struct cr_co *to)
{
    if (CR__UNLIKELY(CR__CONTAINER(to, struct bare, co)->home != self->home))
        return -EXDEV;
    return cr__co_flags(to) & CR__CO_AWAY ? cr__shared_reserve(self, to) : 0;
}

/* What has not begun, can't be switched to, or is packed. */
static CR__NOINLINE int check_others(struct cr__self *self, struct cr_co *to)
{
    if (cr__co_state(to) != CR__CO_SUSPENDED) {
        int r = prepare_target(to);
        if (r < 0)
            return r;
    }
    if (cr__co_kind(to) == CR_STACK_SHARED)
        return check_shared(self, to);
    if (cr__co_is_packed(to))
        cr__co_check_packed(to, to->sp);
    return 0;
}

/* Before a switch to `to`: 0 if it can be switched to; -EXDEV: begun on another thread; -EBUSY, -EINVAL, -EPERM, -ENOMEM. */
static inline int check(struct cr__self *self, struct cr_co *to)
{
    const unsigned suspended = CR__MODE(CR__CO_SUSPENDED, 0), looked_at = CR__MODE(0xff, CR__CO_CHECKED);
    if (CR__LIKELY((to->mode & looked_at) == suspended))
        return 0;
    if ((to->mode & (looked_at | CR__MODE(0, CR__CO_SHARED))) == (suspended | CR__MODE(0, CR__CO_CHECKED | CR__CO_SHARED)))
        return check_shared(self, to);
    return check_others(self, to);
}

int cr_co_resume(struct cr_co *co, void **value)
{
    struct cr__self *self = cr__self_here();
    int r = check(self, co);
    if (CR__UNLIKELY(r < 0))
        return r;
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
    int r = check(self, to);
    if (CR__UNLIKELY(r < 0))
        return r;
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

/* Whether it is bound to another thread, which may use what it lies on. */
static bool is_elsewhere(const struct bare *bare)
{
    return bare->home && bare->home != cr__self_here()->home && !atomic_load(&bare->home->left); /* pairs with the store in cr__bare_leave */
}

static void stack_back(struct bare *bare)
{
    struct cr_co *co = &bare->co;
    pthread_mutex_lock(&pool_lock);
    if (bare->home) {
        if (co->stack.image) /* else it has ended */
            cr__shared_end(co);
        home_put_locked(bare->home);
    } else if (cr__co_is_packed(co)) {
        cr__packed_put(&packed, co->stack.top);
    } else {
        cr__stack_put(&pool, co->stack);
    }
    pthread_mutex_unlock(&pool_lock);
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
    if (is_elsewhere(bare))
        return -EXDEV;
    if (cr__co_is_packed(co)) /* what it has done to others' since it was last resumed */
        cr__co_check_packed(co, co->sp);
    cr__co_cold_free(co);
    if (co->stack.top) {
        cr__san_end(co);
        stack_back(bare);
    }
    cr__mem_free(bare, sizeof(*bare), CR__MEM_RECORDS);
    return 0;
}
