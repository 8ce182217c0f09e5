/* A producer and a consumer around a bounded queue, without a scheduler: each hands the processor straight to the other with
 * cr_co_yield_to when it can't go on, the producer on a full queue, the consumer on an empty one. */
#include <crore/co.h>
#include <stdbool.h>
#include <stdio.h>

enum { ITEMS = 20, CAPACITY = 4 };

static struct cr_co *producer, *consumer;
static int queue[CAPACITY];
static unsigned head, tail; /* tail - head items are in it */
static bool finished;

static void *produce(void *unused)
{
    for (int item = 1; item <= ITEMS; item++) {
        while (tail - head == CAPACITY) {
            printf("full   -> consumer\n");
            if (cr_co_yield_to(consumer, NULL) < 0)
                return NULL;
        }
        queue[tail++ % CAPACITY] = item;
    }
    finished = true;
    if (cr_co_yield_to(consumer, NULL) < 0)
        return NULL;
    return unused;
}

static void *consume(void *unused)
{
    long sum = 0;
    for (;;) {
        if (tail != head) {
            int item = queue[head++ % CAPACITY];
            printf("item %d\n", item);
            sum += item;
        } else if (finished) {
            break;
        } else {
            printf("empty  -> producer\n");
            if (cr_co_yield_to(producer, NULL) < 0)
                break;
        }
    }
    printf("sum %ld\n", sum);
    return unused;
}

int main(void)
{
    if (cr_co_create(&producer, produce, NULL) < 0 || cr_co_create(&consumer, consume, NULL) < 0)
        return 1;
    /* Comes back when the consumer has ended: it inherited us as its resumer. The producer is suspended for good. */
    int r = cr_co_resume(producer, NULL);
    cr_co_destroy(producer);
    cr_co_destroy(consumer);
    return r == 1 ? 0 : 1;
}
