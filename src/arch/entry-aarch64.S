/* The first instructions on a fresh stack. On arrival sp points to { this address, life, arg }; x0 holds the value
 * that travels, x1 its note. The return address is declared undefined: unwinders stop here. */
        .text
        .globl  cr__arch_entry
        .hidden cr__arch_entry
        .type   cr__arch_entry, %function
        .align  4
cr__arch_entry:
        .cfi_startproc
        .cfi_undefined x30
        hint    #36                     /* bti j */
        mov     x2, x1                  /* note */
        mov     x1, x0                  /* value */
        ldr     x0, [sp, #16]           /* arg */
        ldr     x19, [sp, #8]           /* life: what is called keeps it */
        mov     x29, xzr
        mov     x30, xzr
        ldr     x3, [x19]
        blr     x3                      /* begin: what to call is in x0, and with what in x1 */
        mov     x3, x0
        mov     x0, x1
        blr     x3
        ldr     x3, [x19, #8]
        blr     x3                      /* end */
        brk     #1                      /* it must not return */
        .cfi_endproc
        .size   cr__arch_entry, .-cr__arch_entry

/* Where a context goes on whose live bytes are not on its stack (co.h). On arrival sp points to { this address, who puts them back }, on
 * the mover's stack. */
        .globl  cr__arch_bring
        .hidden cr__arch_bring
        .type   cr__arch_bring, %function
        .align  4
cr__arch_bring:
        .cfi_startproc
        .cfi_undefined x30
        hint    #36                     /* bti j */
        stp     x0, x1, [sp, #-16]!
        ldr     x3, [sp, #24]
        blr     x3                      /* the stack pointer of what runs next */
        mov     x4, x0
        ldp     x0, x1, [sp]
        mov     sp, x4
        ldr     x4, [sp]
        br      x4
        .cfi_endproc
        .size   cr__arch_bring, .-cr__arch_bring
        .section .note.GNU-stack, "", %progbits
