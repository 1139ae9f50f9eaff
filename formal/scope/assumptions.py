"""What every verdict takes for granted, and what is not modelled. Printed with each result."""

ASSUMED: tuple[str, ...] = (
    "Every CPU boots with MDCR_EL2.HPMN between 1 and PMCR_EL0.N, the same at each boot; CPUs may differ. (The "
    "kernel's own boot code leaves 0 on CPUs from PMUv3p8 on, in v6.8 and before; no longer in v6.12.)",
    "The host clears the OS lock of each CPU before KVM uses it; nobody attaches an external debugger.",
    "PMUv3 is implemented; a CPU without it answers PMU accesses with UNDEFINED and has HPMN 0.",
    "Interrupts stay off from kvm_arm_setup_debug to kvm_arm_clear_debug (from v6.14: from the last check before the "
    "entry to the exit); ioctls wait while KVM_RUN holds vcpu->mutex.",
    "PSTATE.D masks debug exceptions at EL2 while a guest's MDSCR_EL1 and breakpoints are in the registers, under VHE "
    "too: no instruction of the host hits what the guest, or a debugger of it, has set.",
    "A register holds what was last written: no side effects, no RES0 bits, context synchronised where KVM does it.",
    "A guest instruction is also counted when it takes an exception to EL1; a virtual interrupt counts as one.",
    "All CPUs implement the same number of break- and watchpoints, 16 of each; unimplemented ones are not looked at. "
    "(C that asks for the numbers is held to do the same to those that there are with fewer.)",
    "Fine-grained traps are off (the worst case), but for a guest hypervisor's writes of MDSCR_EL1; CPTR_EL2.TTA, "
    "which traps TRC*, is not part of the state.",
)

NOT_MODELLED: tuple[str, ...] = (
    "AArch32 guests, and 32-bit EL0.",
    "Protected mode (pKVM) before v6.14, where it is as nVHE but for what runs with ARM64_KVM_PROTECTED_MODE only (such"
    " code, and what follows pointers that only it sets, counts in no other mode); a host that attacks its protected "
    "guests; when the rest of a vCPU's context goes to its copy at EL2 and back (from v7.x on: on demand); which traps "
    "EL2 chooses for a protected guest before its first entry, and how it answers the trapped accesses of one.",
    "Nested virtualization before v6.18: there no vCPU of the VM has an EL2.",
    "The host's own BRK instructions: that no kprobe is placed where a guest's debug state is in the registers "
    "(NOKPROBE_SYMBOL) is not looked at.",
    "Of nested virtualization: a guest hypervisor's fine-grained traps, and its other EL2 registers, except that "
    "HCR_EL2 decides whether itself or its guest runs; the RES0 and RES1 bits of its registers. What FEAT_NV2 "
    "keeps in a page of its own is taken to be where ___ctxt_sys_reg says.",
    "MDCCINT_EL1, which is switched with the breakpoint registers, and what controls SPE, the trace and branch records "
    "under nVHE (PMSCR_EL1, PMBLIMITR_EL1, TRFCR_EL1, TRBLIMITR_EL1, BRBCR_EL1). No claim is about them; of a tree "
    "from v4.17 on it is checked that its world switch gives both sides their own back, and that nothing of the host's "
    "that is put aside is in the register while the guest runs; that what a CPU has of SPE, BRBE and (up to v6.13) "
    "TRBE is stopped, and left alone on others. Not looked at: that buffers are drained, in which order, and (from "
    "v6.14 on) what a driver says of the trace.",
    "PMSELR_EL0, which is 0 in the guest so that PMXEVCNTR_EL0 traps.",
    "What the host finds in PMUSERENR_EL0 after a guest has run: no claim says that it gets its own value back (up to "
    "v6.3, except in v6.1.y, it gets 0).",
    "Cortex-A510 erratum 2077057 (its workaround rewrites SPSR_EL2 while stepping).",
    "Contents of the GIC, timers, memory, and of all registers that formal/state.py does not name: the counters of the "
    "PMU and their controls (PMCR_EL0 and others) among them, which KVM's emulation must not write for a guest.",
    "An interrupt that is pending at an entry: from v5.3 on __guest_enter then returns without an ERET. That is an "
    "exit before the first instruction, except that PSTATE.SS stays as it was (formal.conform trace knows it).",
    "Reads by the guest as steps: claims about them ask whether the read would execute, and what it finds.",
)

TRUSTED: tuple[str, ...] = (
    "formal/arch (the Arm ARM) and the specification (formal/state.py, history.py, ownership.py, worldswitch.py, "
    "operations.py, environment.py, transitions.py, vocabulary.py, preconditions.py and properties.py) say what they "
    "mean;",
    "Z3 for PROVED; for VIOLATED only the evaluator of formal/logic/evaluation.py, which replays every trace without a "
    "solver.",
    "Of a tree: that no other code writes what is modelled is a search by names (formal/kernel/recognition/scan.py); "
    "it does not look below drivers/, and sees pointers to whole structures by their declarations only (a void pointer "
    "that becomes one to a structure points to such a structure). The value that asm/el2_setup.h computes for HPMN, "
    "and what macros for per-CPU variables, BUG and static keys do, are not read. What a pointer of the host points to "
    "is the same object at EL2: that its address is converted (kern_hyp_va) is not asked for. "
    "No C reaches out of the object that an address was made from (a neighbour of a member, an element past the end).",
)
