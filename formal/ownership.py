"""Who has the debug registers, from v6.14 on: components of the operations that depend on debug_owner.

Before, kvm_arm_setup_debug prepared every entry and kvm_arm_clear_debug undid it (``formal/transitions.py``). Now the
owner is decided when the vCPU is loaded, MDSCR_EL1 as KVM needs it is kept beside the guest's own, and what the guest
does with its registers can only make it the owner. Places are those of v7.3 under arch/arm64/kvm. Comments say, in our
own words, what the kernel's comments ask for at that place.
"""

from __future__ import annotations

from formal.arch.registers import MDCR_EL2, MDSCR_EL1
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.terms import TRUE, And, If, Not, Or, Term
from formal.state import DebugOwner, State


def readable_event_counters(s: State, k: Kernel) -> Term:
    """PMCR_EL0.N as the host reads it: at EL2 what is implemented, at EL1 what MDCR_EL2.HPMN gives (Arm ARM D24.5)."""
    return s.event_counters if k.vhe else s.hw_mdcr_el2.HPMN


def looks_like_pmuv3(s: State, k: Kernel) -> Term:
    """Whether KVM sees that this CPU has PMUv3."""
    return TRUE if k.reads_pmuv3p8_counters else Not(s.pmuv3p8)


def init_host_debug_data(s: State, k: Kernel) -> State:
    """debug.c, kvm_init_host_debug_data: how many event counters this CPU has, for HPMN."""
    # PMCR_EL0 is there with PMUv3 only, which every CPU here has. Until v7.0 PMUVer is compared as a signed field, so
    # that from PMUv3p8 on it looks negative: the number stays what it was, 0.
    number = t.zero_extend(readable_event_counters(s, k), 32)
    return s.but(nr_event_counters=If(looks_like_pmuv3(s, k), number, s.nr_event_counters))


def setup_mdcr_el2_by_owner(s: State, k: Kernel) -> State:
    """debug.c, kvm_arm_setup_mdcr_el2, with preemption off; VHE also writes the register."""
    # The same traps as before v6.14. The debug registers trap unless the guest owns them.
    s = s.but(
        mdcr_el2=MDCR_EL2.of(
            TTRF=k.traps_trace_filter,
            TPMS=True,
            TDRA=True,
            TDOSA=True,
            TDA=Not(s.owned_by(DebugOwner.GUEST)),
            TDE=s.guest_debug.any(),
            TPM=True,
            TPMCR=True,
            HPMN=t.extract(s.nr_event_counters, 4, 0),
        )
    )
    if k.nests:
        s = nested_setup_mdcr_el2(s, k)
    return s.but(hw_mdcr_el2=s.mdcr_el2) if k.vhe else s


# The fields of MDCR_EL2 by which a guest hypervisor traps its guests (nested.c, NV_MDCR_GUEST_INCLUDE).
HYPERVISOR_TRAPS = ("TDE", "TDA", "TDRA", "TTRF", "TPMS", "TPM", "TPMCR", "TDCC", "TDOSA")


def hypervisor_traps(mdcr: MDCR_EL2) -> Term:
    """The trap bits of a guest hypervisor's MDCR_EL2, everything else 0."""
    return mdcr.raw & t.const(MDCR_EL2.mask(*HYPERVISOR_TRAPS), 64)


def nested_setup_mdcr_el2(s: State, k: Kernel) -> State:
    """nested.c, kvm_nested_setup_mdcr_el2: what a guest hypervisor adds to mdcr_el2 (v6.18)."""
    # A guest of the guest hypervisor runs with the traps of both. The buffers and HPMN stay KVM's.
    traps = If(s.in_nested, hypervisor_traps(s.virtual_mdcr_el2), t.const(0, 64))
    # The guest hypervisor's own writes of MDSCR_EL1 go to memory (FEAT_NV2), though it means the register: so they have
    # to trap, by TDA unless there are fine-grained traps for just that.
    redirected = And(s.in_hypervisor, Not(s.has_fgt), t.boolean(k.traps_redirected_mdscr))
    raw = s.mdcr_el2.raw | traps if k.applies_hypervisor_traps else s.mdcr_el2.raw
    return s.but(mdcr_el2=raw | If(redirected, t.const(MDCR_EL2.mask("TDA"), 64), t.const(0, 64)))


def external_mdscr(guest: MDSCR_EL1, s: State) -> MDSCR_EL1:
    """debug.c, setup_external_mdscr: MDSCR_EL1 for a guest whose debug registers KVM has taken."""
    # The guest's value, since other features are controlled there too; but SS only for the host's single-step, MDE and
    # KDE only for the host's break- and watchpoints. Without either, MDE is clear: that is the OS lock.
    use_hw = s.guest_debug.USE_HW
    return guest.but(SS=s.stepping, MDE=use_hw, KDE=use_hw)


def host_needs_registers(s: State) -> Term:
    """Whether KVM takes the debug registers: user space debugs, or the guest has locked its OS lock."""
    return Or(s.guest_debug.any(), s.os_lock)


def load_debug(s: State, k: Kernel) -> State:
    """debug.c, kvm_vcpu_load_debug: at vcpu_load, before VHE loads the rest."""
    if k.vhe and k.vhe_saves_host_mdcr_first:
        s = s.but(mdcr_el2_host=s.hw_mdcr_el2)
    taken = host_needs_registers(s)
    # The guest owns them if it has debug exceptions enabled, so that they are loaded at once; else nobody does.
    in_use = Or(s.mdscr_el1.KDE, s.mdscr_el1.MDE)
    owner = If(taken, _owner(DebugOwner.HOST), If(in_use, _owner(DebugOwner.GUEST), _owner(DebugOwner.FREE)))
    # A debugger that steps takes the guest's step state away, and puts in its own.
    stepping = And(taken, s.stepping)
    s = s.but(
        debug_owner=owner,
        external_mdscr_el1=If(taken, external_mdscr(s.mdscr_el1, s).raw, s.external_mdscr_el1.raw),
        guest_ss_pending=If(stepping, Not(s.pstate.SS), s.guest_ss_pending),
        pstate=If(stepping, s.pstate.but(SS=Not(s.ss_active_pending)).raw, s.pstate.raw),
        is_set_up=True,
    )
    return setup_mdcr_el2_by_owner(s, k)


def put_debug(s: State, k: Kernel) -> State:
    """debug.c, kvm_vcpu_put_debug: the host's MDCR_EL2, and the guest's step state before user space can see it."""
    if k.vhe and k.vhe_saves_host_mdcr_first:
        s = s.but(hw_mdcr_el2=s.mdcr_el2_host)
    return s.but(
        ss_active_pending=If(s.stepping, Not(s.pstate.SS), s.ss_active_pending),
        pstate=If(s.stepping, s.pstate.but(SS=Not(s.guest_ss_pending)).raw, s.pstate.raw),
        is_set_up=False,
    )


def set_guest_ownership(s: State, k: Kernel) -> State:
    """debug.c, kvm_debug_set_guest_ownership: after a trapped read or write; KVM's ownership is stronger."""
    mine = setup_mdcr_el2_by_owner(s.but(debug_owner=DebugOwner.GUEST), k)
    kept = s.owned_by(DebugOwner.HOST)
    names = ("debug_owner", "mdcr_el2", "hw_mdcr_el2")
    return s.but(**{name: If(kept, s.values[name], mine.values[name]) for name in names})


# ---- world switch


def in_use(s: State) -> Term:
    """kvm_host.h, kvm_debug_regs_in_use: the break- and watchpoint registers are switched."""
    return Not(s.owned_by(DebugOwner.FREE))


def owners_bank(s: State) -> Term:
    """hyp/include/hyp/debug-sr.h, __vcpu_debug_regs: user space's registers for KVM, else the guest's own."""
    return If(s.owned_by(DebugOwner.HOST), s.external_debug_state, s.vcpu_debug_state)


def restore_owned_mdscr(s: State) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_restore_common_state and ctxt_mdscr_el1: KVM's value, or the guest's."""
    return s.but(hw_mdscr_el1=If(s.owned_by(DebugOwner.HOST), s.external_mdscr_el1.raw, s.mdscr_el1.raw))


def save_owned_mdscr(s: State) -> State:
    """hyp/include/hyp/sysreg-sr.h, __sysreg_save_common_state: the register goes back to where it came from."""
    host = s.owned_by(DebugOwner.HOST)
    return s.but(
        external_mdscr_el1=If(host, s.hw_mdscr_el1.raw, s.external_mdscr_el1.raw),
        mdscr_el1=If(host, s.mdscr_el1.raw, s.hw_mdscr_el1.raw),
    )


def switch_bank_to_guest(s: State) -> State:
    """hyp/include/hyp/debug-sr.h, __debug_switch_to_guest_common: only if somebody owns the registers."""
    used = in_use(s)
    return s.but(
        host_debug_state=If(used, s.hw_bank, s.host_debug_state),
        hw_bank=If(used, owners_bank(s), s.hw_bank),
    )


def switch_bank_to_host(s: State) -> State:
    """hyp/include/hyp/debug-sr.h, __debug_switch_to_host_common: stores into the bank that was loaded."""
    used, host = in_use(s), s.owned_by(DebugOwner.HOST)
    return s.but(
        vcpu_debug_state=If(And(used, Not(host)), s.hw_bank, s.vcpu_debug_state),
        external_debug_state=If(host, s.hw_bank, s.external_debug_state),
        hw_bank=If(used, s.host_debug_state, s.hw_bank),
    )


# ---- protected mode: the world switch works on EL2's copy of the vCPU

# What the world switch reads of the vCPU and EL2 has a copy of. The banks are those of the owner that EL2 knows, handed
# over together with it; the rest of the context is the same for both whenever one of them uses it.
_COPIED = ("mdcr_el2", "debug_owner", "external_mdscr_el1")


def flush_hyp_vcpu(s: State, k: Kernel) -> State:
    """hyp/nvhe/hyp-main.c, flush_hyp_vcpu and flush_debug_state: from the host's vCPU to EL2's, before the entry."""
    # MDCR_EL2 is the host's for protected guests too: what pvm_init_traps_mdcr has chosen for them is lost here.
    s = s.but(hyp_mdcr_el2=s.mdcr_el2)
    if k.hands_over_debug_owner:
        s = s.but(hyp_debug_owner=s.debug_owner)
    if k.hands_over_external_mdscr:
        host = s.owned_by(DebugOwner.HOST)
        s = s.but(hyp_external_mdscr_el1=If(host, s.external_mdscr_el1.raw, s.hyp_external_mdscr_el1.raw))
    return s


def hyps_view(s: State) -> State:
    """The vCPU as the world switch sees it: EL2's copy in place of the host's."""
    return s.but(**{name: s.values[f"hyp_{name}"] for name in _COPIED})


def hosts_view(hyp: State, host: State) -> State:
    """The host's vCPU again, after the world switch has worked on EL2's copy."""
    own = {f"hyp_{name}": hyp.values[name] for name in _COPIED}
    return hyp.but(**own, **{name: host.values[name] for name in _COPIED})


def _owner(who: DebugOwner) -> Term:
    return t.const(who, 2)
