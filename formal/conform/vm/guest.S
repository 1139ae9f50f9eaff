// Guest programs, each loaded at GUEST_RAM by its name. They run at EL1 with the MMU off. A store to x10, where no memory is,
// is an exit with KVM_EXIT_MMIO; of 0xdead, the end. Registers that old assemblers do not know are written as S<op0>_...
    .arch armv8-a
    .section .rodata.guest, "a"

.macro program name
    .pushsection .rodata.names, "aMS", %progbits, 1
    .Lname_\name: .asciz "\name"
    .popsection
    .balign 4096
    .Lstart_\name:
    movz    x10, #0x0900, lsl #16
.endm

.macro end name
    report  0xdead
    b       .
    .Lend_\name:
    .pushsection programs, "aw"
    .quad   .Lname_\name, .Lstart_\name, .Lend_\name
    .popsection
.endm

.macro report value
    mov     w2, #\value
    str     w2, [x10]
.endm

// Exceptions taken to EL1 go to the label `handler`, 2 KiB aligned; the current-EL entries with SP_EL1 begin at 0x200.
.macro vectors label
    adr     x7, \label
    msr     vbar_el1, x7
    isb
.endm

.macro psci function_high, function_low, conduit
    movz    x0, #\function_high, lsl #16
    movk    x0, #\function_low
    \conduit #0
.endm

program generated                       // what the command `code` puts there
end generated

program plain
    mov     x0, #1
    add     x0, x0, #1
    add     x0, x0, #1
    report  1
    mov     x0, #2
end plain

program debug_registers
    mrs     x1, oslsr_el1
    msr     oslar_el1, xzr
    report  1
    mrs     x1, mdscr_el1
    msr     dbgbvr3_el1, x1
    mov     x3, #0xff0
    msr     dbgwvr1_el1, x3
    report  2
    msr     dbgwcr1_el1, xzr            // the second access in this run, the registers are not the guest's yet
    mrs     x4, dbgwvr1_el1
    mov     x1, #0x8000                 // MDE
    msr     mdscr_el1, x1
    report  3
    mrs     x1, mdscr_el1
    mrs     x4, dbgbvr3_el1
    msr     dbgbvr2_el1, x3
    report  4
    mrs     x4, dbgbvr2_el1
    msr     mdscr_el1, xzr
    report  5
    mrs     x1, mdscr_el1
    msr     mdccint_el1, xzr
end debug_registers

program reads_mdscr
    .rept   8
    mrs     x3, mdscr_el1
    .endr
    report  1
end reads_mdscr

program writes_and_reads_mdscr
    .rept   8
    msr     mdscr_el1, x9
    mrs     x3, mdscr_el1
    .endr
    report  1
end writes_and_reads_mdscr

program wide_mdscr                      // bits above 31 that the guest itself writes
    movz    x1, #1, lsl #32
    movk    x1, #0x1000                 // TDCC
    msr     mdscr_el1, x1
    report  1
    mrs     x3, mdscr_el1
    str     x3, [x10]
    report  2
end wide_mdscr

program os_lock
    mov     x1, #1
    msr     oslar_el1, x1
    mrs     x3, oslsr_el1
    mov     x1, #0x8000
    msr     mdscr_el1, x1
    report  1
    mrs     x1, mdscr_el1
    mrs     x4, dbgbvr0_el1
    msr     dbgbvr0_el1, x4
    report  2
    msr     oslar_el1, xzr
    report  3
    mrs     x1, mdscr_el1
    msr     mdscr_el1, xzr
    report  4
end os_lock

program brk
    report  1
    brk     #0x11
    report  2
end brk

program watched
    movz    x4, #0x4000, lsl #16
    movk    x4, #0x8000
    report  1
    str     x4, [x4]
    report  2
    ldr     x5, [x4]
    report  3
end watched

program pmu
    mrs     x1, pmcr_el0
    report  1
    msr     pmcr_el0, x1
    mrs     x1, pmselr_el0
    mrs     x1, pmccntr_el0
    mrs     x1, pmevcntr0_el0
    msr     pmuserenr_el0, xzr
    report  2
end pmu

program counts_at_el0                   // EL0 may use the PMU; x9 goes to PMCNTENSET_EL0; reports the syndrome of EL0's end
    vectors 1f
    mov     x1, #-1                     // their reset values are anything
    msr     pmcntenclr_el0, x1
    msr     pmintenclr_el1, x1
    msr     pmovsclr_el0, x1
    mov     x1, #1
    msr     pmuserenr_el0, x1           // EN
    msr     pmcr_el0, x1                // E
    report  1
    msr     pmcntenset_el0, x9
    adr     x1, 2f
    msr     elr_el1, x1
    msr     spsr_el1, xzr               // EL0t
    eret
2:  mrs     x3, pmccntr_el0
    svc     #0
    .balign 2048
1:  .skip   0x400                       // from EL0 in AArch64
    mrs     x6, esr_el1
    str     w6, [x10]
end counts_at_el0

program unusual                         // registers that are read-as-zero or UNDEFINED for the guest
    vectors 1f
    mrs     x1, mdrar_el1
    report  1
    mrs     x1, dbgauthstatus_el1
    mrs     x1, dbgclaimset_el1
    mrs     x1, mdccsr_el0
    mrs     x1, dbgdtrrx_el0
    mrs     x1, osdlr_el1
    mrs     x1, dbgprcr_el1
    mrs     x1, oseccr_el1
    report  2
    mrs     x1, pmcr_el0                // UNDEFINED without the PMU feature
    mrs     x1, S3_0_C1_C2_1            // TRFCR_EL1
    mrs     x1, S3_0_C9_C9_0            // PMSCR_EL1
    report  3
    b       2f
    .balign 2048
1:  .skip   0x200
    mrs     x6, elr_el1
    add     x6, x6, #4
    msr     elr_el1, x6
    eret
2:
end unusual

program steps_itself
    vectors 1f
    msr     oslar_el1, xzr
    report  1
    mov     x1, #0x2001                 // KDE, SS
    msr     mdscr_el1, x1
    report  2
    adr     x1, 2f
    msr     elr_el1, x1
    movz    x1, #0x00c5                 // EL1h, D clear
    movk    x1, #0x0020, lsl #16        // SS
    msr     spsr_el1, x1
    isb
    eret
2:  mov     x3, #1
    mov     x3, #2
    b       3f
    .balign 2048
1:  .skip   0x200
    mrs     x6, esr_el1
    str     w6, [x10]
    msr     mdscr_el1, xzr
    report  3
3:
end steps_itself

program steps_over_store                // steps itself over a store that user space completes; reports the ELR of its exception
    vectors 1f
    msr     oslar_el1, xzr
    mov     x1, #0x2001                 // KDE, SS
    msr     mdscr_el1, x1
    adr     x1, 2f
    msr     elr_el1, x1
    movz    x1, #0x00c5                 // EL1h, D clear
    movk    x1, #0x0020, lsl #16        // SS
    msr     spsr_el1, x1
    mov     w2, #1
    isb
    eret
2:  str     w2, [x10]
    brk     #0x11                       // a debugger's
    b       3f
    .balign 2048
1:  .skip   0x200
    mrs     x6, elr_el1
    msr     mdscr_el1, xzr
    str     w6, [x10]
3:
end steps_over_store

program steps_over_lock                 // steps itself over a write of x9 to OSLAR_EL1; reports SPSR_EL1 of what comes next
    vectors 1f
    msr     oslar_el1, xzr
    mov     x1, #0x2001                 // KDE, SS
    msr     mdscr_el1, x1
    adr     x1, 2f
    msr     elr_el1, x1
    movz    x1, #0x00c5                 // EL1h, D clear
    movk    x1, #0x0020, lsl #16        // SS
    msr     spsr_el1, x1
    isb
    eret
2:  msr     oslar_el1, x9
    mrs     x1, pmcr_el0                // UNDEFINED without the PMU feature, which KVM says
    b       3f
    .balign 2048
1:  .skip   0x200
    mrs     x6, spsr_el1
    msr     oslar_el1, xzr
    msr     mdscr_el1, xzr
    str     w6, [x10]
3:
end steps_over_lock

program breaks_itself                   // its own breakpoint, with KDE and MDE
    vectors 1f
    msr     oslar_el1, xzr
    adr     x1, 2f
    msr     dbgbvr0_el1, x1
    mov     x1, #0x1e7
    msr     dbgbcr0_el1, x1
    mov     x1, #0xa000                 // MDE, KDE
    msr     mdscr_el1, x1
    report  1
    msr     daifclr, #8
    isb
2:  mov     x3, #1
    b       3f
    .balign 2048
1:  .skip   0x200
    mrs     x6, esr_el1
    str     w6, [x10]
    msr     dbgbcr0_el1, xzr
    msr     mdscr_el1, xzr
    report  2
3:
end breaks_itself

program svc                             // an exception within the guest
    vectors 1f
    mov     x3, #1
    svc     #0
    mov     x3, #2
    report  1
    b       2f
    .balign 2048
1:  .skip   0x200
    mov     x3, #3
    eret
2:
end svc

program spins
    mov     x3, #0
1:  add     x3, x3, #1
    b       1b
end spins

program spins_emulated
1:  mrs     x3, mdscr_el1
    add     x4, x4, #1
    b       1b
end spins_emulated

program suspends                        // CPU_SUSPEND: KVM waits for an interrupt, here for a signal
    mov     x1, #0
    psci    0xc400, 0x0001, hvc
    mov     x3, #1
    mov     x3, #2
    mov     x3, #3
    report  1
end suspends

program suspends_then_spins
    mov     x1, #0
    psci    0xc400, 0x0001, hvc
1:  add     x3, x3, #1
    b       1b
end suspends_then_spins

program resets_system                   // SYSTEM_RESET
    psci    0x8400, 0x0009, hvc
    mov     x3, #1
    mov     x3, #2
    mov     x3, #3
    report  1
end resets_system

program asks_version                    // PSCI_VERSION by HVC, which needs no skip
    psci    0x8400, 0x0000, hvc
    mov     x3, #1
    report  1
end asks_version

program turns_off_by_smc                // CPU_OFF by SMC, which is skipped
    psci    0x8400, 0x0002, smc
    mov     x3, #1
end turns_off_by_smc

program turns_off_by_hvc
    psci    0x8400, 0x0002, hvc
    mov     x3, #1
end turns_off_by_hvc

program turns_on                        // CPU_ON of vCPU 0 at the address in x9
    mov     x1, #0
    mov     x2, x9
    mov     x3, #0
    psci    0xc400, 0x0003, hvc
    mov     x1, x0
    str     x1, [x10]
end turns_on
