/* mem/packet.c's depot: a magazine is taken by one, with what its packets' last user did; one that has been taken and brought back meanwhile is not mistaken for itself. */
#include "explorer.h"

#include "mem/packet.c"

#define MAGAZINES 4

static _Alignas(CR_PACKET_BYTES) char memory[MAGAZINES * CR_PACKET_BYTES];
static int taken[MAGAZINES]; /* plain: of whoever has it */
static int made;

/* What fresh packets need: none are wanted here. */
void *cr__os_map(size_t size_bytes, int protection)
{
    (void)size_bytes, (void)protection;
    return NULL;
}

bool cr__block_open(char *block)
{
    (void)block;
    return false;
}

void cr__mem_count(enum cr__mem_kind kind, size_t size_bytes)
{
    (void)kind, (void)size_bytes;
}

void cr__mem_count_call(void)
{
}

bool cr__mem_fails_by_injection(void)
{
    return true;
}

void cr__panic(const char *format, ...)
{
    model_failed(__FILE__, __LINE__, format);
    abort();
}

/* So many magazines of one packet each; the last one is on top. */
static void depot_of(int n)
{
    area = memory;
    made = n;
    model_name(&depot, "depot");
    for (int i = 0; i < n; i++) {
        packet_at((uint32_t)i)->_index = (uint32_t)i;
        model_name(below(packet_at((uint32_t)i)), (const char *[]){"below 0", "below 1", "below 2", "below 3"}[i]);
        push(packet_at((uint32_t)i), 1);
    }
}

static struct cr_packet *take(void)
{
    uint32_t count = 0;
    struct cr_packet *packet = pop(&count);
    if (packet) {
        model_assert(count == 1 && taken[packet->_index]++ == 0);
        packet->next = packet; /* as one that is used */
    }
    return packet;
}

static void give(struct cr_packet *packet)
{
    packet->next = NULL;
    model_assert(--taken[packet->_index] == 0);
    push(packet, 1);
}

static void takes_one(void *unused)
{
    (void)unused;
    take();
}

static void takes_two_and_gives_the_first(void *unused)
{
    (void)unused;
    struct cr_packet *first = take(), *second = take();
    if (first)
        give(first);
    (void)second;
}

static void takes_one_and_gives_it(void *unused)
{
    (void)unused;
    struct cr_packet *packet = take();
    if (packet)
        give(packet);
}

/* What nobody has is in the depot, once. */
static void all_are_there(void)
{
    while (take())
        ;
    for (int i = 0; i < made; i++)
        model_assert(taken[i] == 1);
    model_assert(in_depot == 0);
}

static void one_is_brought_back(void)
{
    depot_of(3);
    model_thread(takes_one, NULL);
    model_thread(takes_two_and_gives_the_first, NULL);
}

TEST(one_that_was_brought_back_meanwhile_is_another_one)
{
    model_run(one_is_brought_back, all_are_there);
}

static void all_take_and_give(void)
{
    depot_of(2);
    model_thread(takes_one_and_gives_it, NULL);
    model_thread(takes_one_and_gives_it, NULL);
    model_thread(takes_one, NULL);
}

TEST(each_is_taken_by_one_with_what_was_done_to_it_before)
{
    model_run(all_take_and_give, all_are_there);
}
