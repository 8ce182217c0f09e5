/* The first instructions on a fresh stack. On arrival sp points to { this address, fn, arg }; a0 holds the value
 * that travels, a1 its note. The return address is declared undefined: unwinders stop here. */
        .text
        .globl  cr__arch_entry
        .hidden cr__arch_entry
        .type   cr__arch_entry, @function
        .align  2
cr__arch_entry:
        .cfi_startproc
        .cfi_undefined ra
        mv      a2, a1                  /* note */
        mv      a1, a0                  /* value */
        ld      a0, 16(sp)              /* arg */
        ld      t1, 8(sp)
        li      s0, 0
        li      ra, 0
        jalr    t1
        ebreak                          /* fn must not return */
        .cfi_endproc
        .size   cr__arch_entry, .-cr__arch_entry

/* Where a context goes on whose live bytes are not on its stack (co.h). On arrival sp points to { this address }, on the mover's stack. */
        .globl  cr__arch_bring
        .hidden cr__arch_bring
        .type   cr__arch_bring, @function
        .align  2
cr__arch_bring:
        .cfi_startproc
        .cfi_undefined ra
        addi    sp, sp, -16
        sd      a0, 0(sp)
        sd      a1, 8(sp)
        call    cr__co_bring            /* the stack pointer of what runs next */
        mv      t2, a0
        ld      a0, 0(sp)
        ld      a1, 8(sp)
        mv      sp, t2
        ld      t1, 0(sp)
        jr      t1
        .cfi_endproc
        .size   cr__arch_bring, .-cr__arch_bring
        .section .note.GNU-stack, "", @progbits
