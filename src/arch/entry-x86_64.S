/* The first instructions on a fresh stack. On arrival rsp points to { this address, life, arg }; rax holds the value
 * that travels, rdx its note. The return address is declared undefined: unwinders stop here. */
        .text
        .globl  cr__arch_entry
        .hidden cr__arch_entry
        .type   cr__arch_entry, @function
        .align  16
cr__arch_entry:
        .cfi_startproc
        .cfi_undefined rip
        xorl    %ebp, %ebp
        xorl    %r12d, %r12d            /* so that a context that uses few registers keeps few (suspend.h) */
        xorl    %r13d, %r13d
        xorl    %r14d, %r14d
        xorl    %r15d, %r15d
        movq    8(%rsp), %rbx           /* life: what is called keeps it */
        movq    16(%rsp), %rdi          /* arg */
        movq    %rax, %rsi              /* value; note is in rdx already */
        call    *(%rbx)                 /* begin: what to call is in rax, and with what in rdx */
        movq    %rdx, %rdi
        call    *%rax
        movq    %rax, %rdi
        call    *8(%rbx)                /* end */
        ud2                             /* it must not return */
        .cfi_endproc
        .size   cr__arch_entry, .-cr__arch_entry

/* Where a context goes on whose live bytes are not on its stack (co.h). On arrival rsp points to { this address, who puts them back }, on
 * the mover's stack. */
        .text
        .globl  cr__arch_bring
        .hidden cr__arch_bring
        .type   cr__arch_bring, @function
        .align  16
cr__arch_bring:
        .cfi_startproc
        .cfi_undefined rip
        pushq   %rax
        pushq   %rdx
        call    *24(%rsp)               /* the stack pointer of what runs next */
        popq    %rdx
        popq    %rcx
        movq    %rax, %rsp
        movq    %rcx, %rax
        jmpq    *(%rsp)
        .cfi_endproc
        .size   cr__arch_bring, .-cr__arch_bring
        .section .note.GNU-stack, "", @progbits
