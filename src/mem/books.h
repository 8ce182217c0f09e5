/* Within the room: what is counted by kind, and faults for tests (mem.c). Any thread. */
#ifndef CR__BOOKS_H
#define CR__BOOKS_H

#include "mem/mem.h"

void cr__mem_count(enum cr__mem_kind kind, size_t size_bytes);
void cr__mem_uncount(enum cr__mem_kind kind, size_t size_bytes);
void cr__mem_count_call(void);
bool cr__mem_fails_by_injection(void);

#endif
