/*
 * Entry at EL2, the vectors of EL2 and EL1, and the trip to a lower Exception level and back.
 *
 * The code that runs below EL2 uses X0 and X1 only; an exception taken to AArch32 writes LR_svc or LR_und, which are X18
 * and X22, and the upper halves of all registers may change on the way from AArch32. Vector offsets: Arm ARM (DDI 0487)
 * D1.4.1, and G1.12.1 for AArch32; those lie where AArch64 has the vectors of SP_EL0 at EL1, which nothing here takes.
 */
	.arch armv8-a

#define HCR_RW (1 << 31)

	.section .text.start, "ax"
	.global _start
_start:
	ldr	x1, =stack_top
	mov	sp, x1
	ldr	x1, =vectors_el2
	msr	vbar_el2, x1
	ldr	x1, =vectors_el1
	msr	vbar_el1, x1
	mov	x1, #HCR_RW
	msr	hcr_el2, x1
	isb
	bl	probe
off:	ldr	x0, =0x84000008		// PSCI SYSTEM_OFF
	smc	#0
1:	wfe
	b	1b

// void enter(pc, spsr, x0, hcr, struct taken *): returns when an exception arrives at EL2
	.global enter
enter:
	stp	x19, x30, [sp, #-96]!
	stp	x20, x21, [sp, #16]
	stp	x22, x23, [sp, #32]
	stp	x24, x25, [sp, #48]
	stp	x26, x27, [sp, #64]
	stp	x28, x29, [sp, #80]
	mov	x19, x4
	msr	elr_el2, x0
	msr	spsr_el2, x1
	msr	hcr_el2, x3
	mov	x0, x2
	isb
	eret

from_lower:
	mrs	x1, esr_el2
	mrs	x2, elr_el2
	mrs	x3, spsr_el2
	mrs	x4, far_el2
	stp	x1, x2, [x19]
	stp	x3, x4, [x19, #16]
	mov	x5, #HCR_RW		// without E2H, names that end in _EL1 mean EL1
	msr	hcr_el2, x5
	isb
	mrs	x1, esr_el1
	mrs	x2, elr_el1
	mrs	x3, spsr_el1
	mrs	x4, far_el1
	stp	x1, x2, [x19, #32]
	stp	x3, x4, [x19, #48]
	stp	x18, x22, [x19, #64]
	ldp	x20, x21, [sp, #16]
	ldp	x22, x23, [sp, #32]
	ldp	x24, x25, [sp, #48]
	ldp	x26, x27, [sp, #64]
	ldp	x28, x29, [sp, #80]
	ldp	x19, x30, [sp], #96
	ret

// An UNDEFINED instruction at EL2 names a register that the CPU does not have: note it and skip it. Else give up.
from_el2:
	stp	x2, x3, [sp, #-16]!
	mrs	x2, esr_el2
	lsr	x3, x2, #26
	cbnz	x3, 1f
	ldr	x2, =undefined
	mov	x3, #1
	str	x3, [x2]
	mrs	x2, elr_el2
	add	x2, x2, #4
	msr	elr_el2, x2
	ldp	x2, x3, [sp], #16
	eret
1:	mrs	x0, esr_el2
	mrs	x1, elr_el2
	bl	broken
	b	off

	.macro	vector target
	b	\target
	.balign	128
	.endm

	.balign	2048
vectors_el2:
	.rept	8
	vector	from_el2
	.endr
	.rept	8
	vector	from_lower
	.endr

	.balign	2048
	.global vectors_el1
vectors_el1:
	.rept	8
	.word	0xe1402070		// HVC #0x200 in A32
	.endr
	.balign	128
	.rept	15
	hvc	#0x200			// TAKEN_TO_EL1
	.balign	128
	.endr

	.section .bss
	.balign	16
	.skip	16384
stack_top:
