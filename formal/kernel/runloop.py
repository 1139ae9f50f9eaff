"""The order of the run loop, of initialisation and of the world switch, as the specification takes it."""

from __future__ import annotations

from collections.abc import Iterator

from formal.epochs import Kernel
from formal.kernel import order
from formal.kernel.front import Mode, Program
from formal.kernel.order import Call

ARM_C = "arch/arm64/kvm/arm.c"


def problems(program: Program, k: Kernel) -> Iterator[str]:
    """Where the tree's order of calls is not the specification's, one line each with its place."""
    mode: Mode = "vhe" if k.vhe else "nvhe"
    yield from _run_loop(program, mode)
    yield from _initialisation(program, mode)
    adjust = ["__kvm_adjust_pc"] if k.defers_pc_adjustment else []
    if k.vhe:
        before = ["sysreg_save_host_state_vhe", "__activate_traps", *adjust, "sysreg_restore_guest_state_vhe"]
        after = ["sysreg_save_guest_state_vhe", "__deactivate_traps", "sysreg_restore_host_state_vhe"]
        function = "__kvm_vcpu_run_vhe"
    else:
        before, after, function = [*adjust, "__activate_traps"], ["__deactivate_traps"], "__kvm_vcpu_run"
    around = ["__debug_switch_to_guest", "loop/__guest_enter", "loop/fixup_guest_exit"]
    expected = [*before, *around, *after, "__debug_switch_to_host"]
    yield from order.check_order(program, function, mode, expected)


def _run_loop(program: Program, mode: Mode) -> Iterator[str]:
    """kvm_arm_setup_debug, the entry and kvm_arm_clear_debug follow one another in the loop, on every path."""
    found = order.calls(program, "kvm_arch_vcpu_ioctl_run", mode)
    names = {call.name for call in found}
    entry = "kvm_arm_vcpu_enter_exit" if "kvm_arm_vcpu_enter_exit" in names else "__kvm_vcpu_run"
    chain = ("kvm_arm_setup_debug", entry, "kvm_arm_clear_debug")
    places = [_last(found, name) for name in chain]
    for name, place in zip(chain, places, strict=True):
        if place is None:
            yield f"{ARM_C}: kvm_arch_vcpu_ioctl_run does not call {name}"
        elif not any(kind == "loop" for kind, _ in place.nesting):
            yield f"{place.file}:{place.line}: {name} is not called in the run loop"
    if None in places:
        return
    first, middle, last = (p for p in places if p is not None)
    if not first.line < middle.line < last.line:
        yield f"{first.file}:{first.line}: kvm_arm_setup_debug, {entry}, kvm_arm_clear_debug are not in this order"
    if first.nesting != last.nesting:
        yield f"{last.file}:{last.line}: kvm_arm_clear_debug is not on the level of kvm_arm_setup_debug"
    for call in found:
        if call.is_jump and first.line < call.line < last.line:
            yield f"{call.file}:{call.line}: {call.name} leaves between kvm_arm_setup_debug and kvm_arm_clear_debug"


def _last(calls: list[Call], name: str) -> Call | None:
    return next((call for call in reversed(calls) if call.name == name and not call.is_jump), None)


def _initialisation(program: Program, mode: Mode) -> Iterator[str]:
    """kvm_arm_init_debug is called, outside any condition on the host's mode."""
    defined = program.functions(ARM_C)
    for function in ("cpu_hyp_init_features", "cpu_hyp_reinit"):
        if function in defined:
            call = _last(order.calls(program, function, mode), "kvm_arm_init_debug")
            if call is not None:
                if call.nesting:
                    yield f"{call.file}:{call.line}: kvm_arm_init_debug is called only under a condition"
                return
    yield f"{ARM_C}: hyp initialisation does not call kvm_arm_init_debug"
