/* System calls without errno: the kernel's own answer, -errno on failure. Part of os.h. */
#ifndef CR__SYSCALL_H
#define CR__SYSCALL_H

#include <sys/syscall.h>

#if defined(__x86_64__)

static inline long cr__syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

static inline long cr__syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}

#elif defined(__riscv)

static inline long cr__syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long a7 __asm__("a7") = nr;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
    return a0;
}

#endif

#define cr__syscall0(nr) cr__syscall6(nr, 0, 0, 0, 0, 0, 0)
#define cr__syscall1(nr, a) cr__syscall6(nr, (long)(a), 0, 0, 0, 0, 0)
#define cr__syscall2(nr, a, b) cr__syscall6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define cr__syscall3(nr, a, b, c) cr__syscall6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define cr__syscall4(nr, a, b, c, d) cr__syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define cr__syscall5(nr, a, b, c, d, e) cr__syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif
