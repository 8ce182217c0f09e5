/* The first instructions on a fresh stack. On arrival sp points to { this address, life, arg }; a0 holds the value
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
        ld      s1, 8(sp)               /* life: what is called keeps it */
        li      s0, 0
        li      ra, 0
        ld      t1, 0(s1)
        jalr    t1                      /* begin: what to call is in a0, and with what in a1 */
        mv      t1, a0
        mv      a0, a1
        jalr    t1
        ld      t1, 8(s1)
        jalr    t1                      /* end */
        ebreak                          /* it must not return */
        .cfi_endproc
        .size   cr__arch_entry, .-cr__arch_entry

/* Where a context goes on whose live bytes are not on its stack (co.h). On arrival sp points to { this address, who puts them back }, on
 * the mover's stack. */
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
        ld      t1, 24(sp)
        jalr    t1                      /* the stack pointer of what runs next */
        mv      t2, a0
        ld      a0, 0(sp)
        ld      a1, 8(sp)
        mv      sp, t2
        ld      t1, 0(sp)
        jr      t1
        .cfi_endproc
        .size   cr__arch_bring, .-cr__arch_bring
        .section .note.GNU-stack, "", @progbits
