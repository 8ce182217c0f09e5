/* A switch as the last thing that a function does: its frame is gone by then, and what lies on the stack while it is suspended is what it must find
 * again, and nothing else. For functions in which very many contexts are parked; the inlined switch leaves a frame of the compiler's below its own.
 *
 * CR__ARCH_SUSPEND(name, then), once in a file, defines
 *     int name(void **save, void *to, uint64_t kept, uint64_t note);
 * which suspends into *save and goes on at `to`, as cr__switch does (what travels is NULL, and note). When the context is switched to again, name's caller gets its
 * registers back, and is returned to by
 *     int then(uint64_t kept, uint64_t note);
 * which is visible to the linker, and gets kept, and the note of whoever came. What lies on top of the stack begins as a cr__switch's does, for who unwinds it (obs/unwind.c).
 *
 * On x86-64 registers that are all zero are not kept but made zero again: they are so at the entry (entry-x86_64.S), and stay so in what uses few. That is 40 bytes of 72. */
#ifndef CR__SUSPEND_H
#define CR__SUSPEND_H

#include "arch/arch.h"

#define CR__ARCH_FUNCTION(name, type, body) \
    __asm__(".text\n\t.globl " name "\n\t.hidden " name "\n\t.type " name ", " type "function\n\t.balign 16\n" name ":\n\t.cfi_startproc\n\t" body \
            ".cfi_endproc\n\t.size " name ", .-" name "\n")

#if defined(__x86_64__)

#define CR__ARCH_SUSPEND(name, then) \
    CR__ARCH_FUNCTION(name, "@", \
        "movq %r12, %rax\n\torq %r13, %rax\n\torq %r14, %rax\n\torq %r15, %rax\n\torq %rdx, %rax\n\tjnz 3f\n\t" \
        "pushq %rbp\n\tpushq %rbx\n\tleaq 2f(%rip), %rbx\n\tpushq %rbx\n\t" \
        "movq %rsp, (%rdi)\n\t" \
        "movq %rcx, %rdx\n\t" \
        "movq %rsi, %rsp\n\tjmpq *(%rsp)\n" \
        "2:\n\tmovq 8(%rsp), %rbx\n\tmovq 16(%rsp), %rbp\n\tleaq 24(%rsp), %rsp\n\t" \
        "xorl %r12d, %r12d\n\txorl %r13d, %r13d\n\txorl %r14d, %r14d\n\txorl %r15d, %r15d\n\t" \
        "xorl %edi, %edi\n\tmovq %rdx, %rsi\n\t" \
        "jmp " then "\n" \
        "3:\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\tpushq %rdx\n\t" \
        ".cfi_def_cfa_offset 48\n\t" \
        ".cfi_offset %r12, -16\n\t.cfi_offset %r13, -24\n\t.cfi_offset %r14, -32\n\t.cfi_offset %r15, -40\n\t" \
        "pushq %rbp\n\tpushq %rbx\n\tleaq 1f(%rip), %rbx\n\tpushq %rbx\n\t" \
        "movq %rsp, (%rdi)\n\t" \
        "movq %rcx, %rdx\n\txorl %eax, %eax\n\t" \
        "movq %rsi, %rsp\n\tjmpq *(%rsp)\n" \
        "1:\n\tmovq 8(%rsp), %rbx\n\tmovq 16(%rsp), %rbp\n\tleaq 24(%rsp), %rsp\n\t" \
        "popq %rdi\n\tmovq %rdx, %rsi\n\t" \
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\t" \
        ".cfi_def_cfa_offset 8\n\t" \
        "jmp " then "\n\t")

#elif defined(__aarch64__)

#define CR__ARCH_SUSPEND(name, then) \
    CR__ARCH_FUNCTION(name, "%", \
        "hint #34\n\t" /* bti c */ \
        "sub sp, sp, #160\n\t.cfi_def_cfa_offset 160\n\t" \
        "stp d8, d9, [sp]\n\tstp d10, d11, [sp, #16]\n\tstp d12, d13, [sp, #32]\n\tstp d14, d15, [sp, #48]\n\t" \
        "stp x20, x21, [sp, #64]\n\tstp x22, x23, [sp, #80]\n\tstp x24, x25, [sp, #96]\n\tstp x26, x27, [sp, #112]\n\t" \
        "stp x28, x30, [sp, #128]\n\tstr x2, [sp, #144]\n\t" \
        ".cfi_offset x20, -96\n\t.cfi_offset x21, -88\n\t.cfi_offset x22, -80\n\t.cfi_offset x23, -72\n\t.cfi_offset x24, -64\n\t" \
        ".cfi_offset x25, -56\n\t.cfi_offset x26, -48\n\t.cfi_offset x27, -40\n\t.cfi_offset x28, -32\n\t.cfi_offset x30, -24\n\t" \
        "sub sp, sp, #32\n\tadr x4, 1f\n\tstp x4, x29, [sp]\n\tstr x19, [sp, #16]\n\tmov x4, sp\n\tstr x4, [x0]\n\t" \
        "mov x4, x1\n\tmov x0, xzr\n\tmov x1, x3\n\t" \
        "mov sp, x4\n\tldr x4, [sp]\n\tbr x4\n" \
        "1:\n\thint #36\n\t" /* bti j */ \
        "ldr x29, [sp, #8]\n\tldr x19, [sp, #16]\n\tadd sp, sp, #32\n\t" \
        "ldp d8, d9, [sp]\n\tldp d10, d11, [sp, #16]\n\tldp d12, d13, [sp, #32]\n\tldp d14, d15, [sp, #48]\n\t" \
        "ldp x20, x21, [sp, #64]\n\tldp x22, x23, [sp, #80]\n\tldp x24, x25, [sp, #96]\n\tldp x26, x27, [sp, #112]\n\t" \
        "ldp x28, x30, [sp, #128]\n\tldr x0, [sp, #144]\n\tadd sp, sp, #160\n\t.cfi_def_cfa_offset 0\n\t" \
        "b " then "\n\t")

#else /* riscv64 */

#define CR__ARCH_SUSPEND(name, then) \
    CR__ARCH_FUNCTION(name, "@", \
        "addi sp, sp, -192\n\t.cfi_def_cfa_offset 192\n\t" \
        "sd ra, 184(sp)\n\tsd s2, 176(sp)\n\tsd s3, 168(sp)\n\tsd s4, 160(sp)\n\tsd s5, 152(sp)\n\tsd s6, 144(sp)\n\t" \
        "sd s7, 136(sp)\n\tsd s8, 128(sp)\n\tsd s9, 120(sp)\n\tsd s10, 112(sp)\n\tsd s11, 104(sp)\n\tsd a2, 96(sp)\n\t" \
        ".cfi_offset ra, -8\n\t.cfi_offset s2, -16\n\t.cfi_offset s3, -24\n\t.cfi_offset s4, -32\n\t.cfi_offset s5, -40\n\t.cfi_offset s6, -48\n\t" \
        ".cfi_offset s7, -56\n\t.cfi_offset s8, -64\n\t.cfi_offset s9, -72\n\t.cfi_offset s10, -80\n\t.cfi_offset s11, -88\n\t" \
        "fsd fs0, 88(sp)\n\tfsd fs1, 80(sp)\n\tfsd fs2, 72(sp)\n\tfsd fs3, 64(sp)\n\tfsd fs4, 56(sp)\n\tfsd fs5, 48(sp)\n\t" \
        "fsd fs6, 40(sp)\n\tfsd fs7, 32(sp)\n\tfsd fs8, 24(sp)\n\tfsd fs9, 16(sp)\n\tfsd fs10, 8(sp)\n\tfsd fs11, 0(sp)\n\t" \
        "addi sp, sp, -32\n\tlla t1, 1f\n\tsd t1, 0(sp)\n\tsd s0, 8(sp)\n\tsd s1, 16(sp)\n\tsd sp, 0(a0)\n\t" \
        "mv t2, a1\n\tli a0, 0\n\tmv a1, a3\n\t" \
        "mv sp, t2\n\tld t1, 0(sp)\n\tjr t1\n" \
        "1:\n\tld s0, 8(sp)\n\tld s1, 16(sp)\n\taddi sp, sp, 32\n\t" \
        "ld ra, 184(sp)\n\tld s2, 176(sp)\n\tld s3, 168(sp)\n\tld s4, 160(sp)\n\tld s5, 152(sp)\n\tld s6, 144(sp)\n\t" \
        "ld s7, 136(sp)\n\tld s8, 128(sp)\n\tld s9, 120(sp)\n\tld s10, 112(sp)\n\tld s11, 104(sp)\n\tld a0, 96(sp)\n\t" \
        "fld fs0, 88(sp)\n\tfld fs1, 80(sp)\n\tfld fs2, 72(sp)\n\tfld fs3, 64(sp)\n\tfld fs4, 56(sp)\n\tfld fs5, 48(sp)\n\t" \
        "fld fs6, 40(sp)\n\tfld fs7, 32(sp)\n\tfld fs8, 24(sp)\n\tfld fs9, 16(sp)\n\tfld fs10, 8(sp)\n\tfld fs11, 0(sp)\n\t" \
        "addi sp, sp, 192\n\t.cfi_def_cfa_offset 0\n\t" \
        "tail " then "\n\t")

#endif

#endif
