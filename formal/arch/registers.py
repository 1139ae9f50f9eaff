"""The system registers that the model reads or writes: names and positions only, no behaviour beside them.

Source: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter D24, "AArch64 System Register Descriptions",
and the machine-readable register description of March 2025. Fields that no modelled mechanism touches are declared
too, so that a value with nothing outside named fields can be told from one with RES0 bits set.
"""

from formal.arch.bits import Register, bit, bits


class MDCR_EL2(Register):
    """Monitor Debug Configuration Register, EL2 (Arm ARM D24.3)."""

    EnSTEPOP = bit(50, "do not trap MDSTEPOP_EL1 (FEAT_STEP2)")
    EBWE = bit(43, "extended breakpoint and watchpoint numbering (FEAT_Debugv8p9)")
    PMEE = bits(41, 40, "PMU profiling exception routing (FEAT_EBEP)")
    HPMFZS = bit(36, "freeze the EL2 event counters on a profiling event")
    PMSSE = bits(31, 30, "PMU snapshot routing (FEAT_PMUv3_SS)")
    HPMFZO = bit(29, "freeze the EL2 event counters on overflow")
    MTPME = bit(28, "multi-threaded PMU events")
    TDCC = bit(27, "trap the debug communications channel (FEAT_FGT)")
    HLP = bit(26, "the EL2 event counters overflow at 64 bits")
    E2TB = bits(25, 24, "owner of the trace buffer; 0b00 is EL2")
    HCCD = bit(23, "the cycle counter does not count at EL2")
    TTRF = bit(19, "trap trace filter controls")
    HPMD = bit(17, "the guest's event counters do not count at EL2")
    EnSPM = bit(15, "do not trap the system PMU registers (FEAT_SPMU)")
    TPMS = bit(14, "trap statistical profiling controls")
    E2PB = bits(13, 12, "owner of the profiling buffer; 0b00 is EL2")
    TDRA = bit(11, "trap debug ROM address registers")
    TDOSA = bit(10, "trap OS lock, double lock and power-down registers")
    TDA = bit(9, "trap the remaining debug registers")
    TDE = bit(8, "route debug exceptions to EL2; TDRA, TDOSA and TDA then act as 1")
    HPME = bit(7, "the EL2 event counters count")
    TPM = bit(6, "trap performance monitors")
    TPMCR = bit(5, "trap PMCR_EL0")
    HPMN = bits(4, 0, "event counters the guest may use")


class MDSCR_EL1(Register):
    """Monitor Debug System Control Register, EL1 (Arm ARM D24.3)."""

    EnSTEPOP = bit(50, "enable MDSTEPOP_EL1 (FEAT_STEP2)")
    EHBWE = bit(35, "extended halting breakpoint numbering")
    EnSPM = bit(34, "EL0 may reach the system PMU registers")
    TTA = bit(33, "save and restore of EDSCR2.TTA")
    EMBWE = bit(32, "extended breakpoint and watchpoint numbering (FEAT_Debugv8p9)")
    TFO = bit(31, "save and restore of EDSCR.TFO")
    RXfull = bit(30, "save and restore of EDSCR.RXfull")
    TXfull = bit(29, "save and restore of EDSCR.TXfull")
    RXO = bit(27, "save and restore of EDSCR.RXO")
    TXU = bit(26, "save and restore of EDSCR.TXU")
    INTdis = bits(23, 22, "save and restore of EDSCR.INTdis")
    TDA = bit(21, "save and restore of EDSCR.TDA")
    SC2 = bit(19, "save and restore of EDSCR.SC2")
    MDE = bit(15, "breakpoint and watchpoint exceptions enabled")
    HDE = bit(14, "save and restore of EDSCR.HDE")
    KDE = bit(13, "debug exceptions from the current EL enabled")
    TDCC = bit(12, "trap EL0 accesses of the debug communications channel to EL1")
    ERR = bit(6, "save and restore of EDSCR.ERR")
    SS = bit(0, "software step enabled")


class PSTATE(Register):
    """The fields of SPSR_ELx that debug needs; KVM keeps the guest's in vcpu->arch.ctxt.regs.pstate (Arm ARM C5.2)."""

    SS = bit(21, "software step: the next instruction has not run yet")
    D = bit(9, "debug exceptions masked at the current EL")
    nRW = bit(4, "AArch32")
    EL = bits(3, 2, "exception level")


class OSLSR_EL1(Register):
    """OS Lock Status Register (Arm ARM D24.3)."""

    OSLM1 = bit(3, "OS lock model, high bit")
    nTT = bit(2, "32-bit access needed; RAZ")
    OSLK = bit(1, "OS lock is locked")
    OSLM0 = bit(0, "OS lock model, low bit")


class OSLAR_EL1(Register):
    """OS Lock Access Register (Arm ARM D24.3)."""

    OSLK = bit(0, "value for OSLSR_EL1.OSLK")


class PMCR_EL0(Register):
    """Performance Monitors Control Register; only N is modelled (Arm ARM D24.5)."""

    N = bits(15, 11, "number of implemented event counters")


class PMUSERENR_EL0(Register):
    """Performance Monitors User Enable Register (Arm ARM D24.5)."""

    TID = bit(6, "EL0 reads of the PMU identification trapped (FEAT_PMUv3p9)")
    IR = bit(5, "EL0 reads of the instruction counter enabled (FEAT_PMUv3_ICNTR)")
    UEN = bit(4, "fine-grained user access (FEAT_PMUv3p9)")
    ER = bit(3, "EL0 reads of event counters and writes of PMSELR_EL0 enabled")
    CR = bit(2, "EL0 reads of the cycle counter enabled")
    SW = bit(1, "EL0 writes of PMSWINC_EL0 enabled")
    EN = bit(0, "EL0 access enabled")


class HCR_EL2(Register):
    """Hypervisor Configuration Register; only what debug traps depend on (Arm ARM D24.2)."""

    E2H = bit(34, "EL2 hosts an operating system (FEAT_VHE)")
    TGE = bit(27, "exceptions from EL0 go to EL2; debug traps act as if TDE were 1")


class CPACR_EL1(Register):
    """Architectural Feature Access Control Register; only TTA is modelled (Arm ARM D24.2)."""

    TTA = bit(28, "trap trace registers to EL1")


class CPTR_EL2(Register):
    """Architectural Feature Trap Register, EL2, as it is laid out while HCR_EL2.E2H is 1 (Arm ARM D24.2)."""

    TTA = bit(28, "trap trace registers; bit 20 while HCR_EL2.E2H is 0")


class PMSELR_EL0(Register):
    """Performance Monitors Event Counter Selection Register (Arm ARM D24.5)."""

    SEL = bits(4, 0, "event counter that PMXEVCNTR_EL0 and PMXEVTYPER_EL0 mean; 31 is the cycle counter")


class DBGBCR_EL1(Register):
    """Breakpoint Control Register; only the enable bit is modelled (Arm ARM D24.3)."""

    E = bit(0, "breakpoint enabled")


class DBGWCR_EL1(Register):
    """Watchpoint Control Register; only the enable bit is modelled (Arm ARM D24.3)."""

    E = bit(0, "watchpoint enabled")


class KVM_GUESTDBG(Register):
    """struct kvm_guest_debug.control (include/uapi/linux/kvm.h and arch/arm64/include/uapi/asm/kvm.h)."""

    USE_HW = bit(17, "user space uses the break- and watchpoint registers")
    USE_SW_BP = bit(16, "user space has put breakpoint instructions into the guest")
    SINGLESTEP = bit(1, "user space steps the guest")
    ENABLE = bit(0, "guest debugging is on")
