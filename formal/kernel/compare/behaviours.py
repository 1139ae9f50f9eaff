"""A tree as a ``Kernel``: widths from clang, behaviours from the lifted C, from signs, and from the comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from formal.arch.registers import MDCR_EL2
from formal.epochs import EPOCHS, Epoch, Kernel, Mode, of_release
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import ID_REGISTER, Binding
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text.signs import Sign
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import BOOL, Value

DEBUG_C = f"{KVM}/debug.c"
# the functions of debug.c without which there is no comparison: until v6.13, and from v6.14 on
OF_DIRTY = ("kvm_arm_init_debug", "kvm_arm_setup_debug", "kvm_arm_clear_debug")
_OF_COPY = ("hands_over_debug_owner", "hands_over_external_mdscr")  # matter in protected mode only
OF_OWNER = ("kvm_init_host_debug_data", "kvm_arm_setup_mdcr_el2", "kvm_vcpu_load_debug", "kvm_vcpu_put_debug",
            "kvm_debug_set_guest_ownership", "setup_external_mdscr")  # fmt: skip


@dataclass(frozen=True)
class Resolved:
    """What a tree is in one mode."""

    kernel: Kernel
    epoch: Epoch  # the nearest preset: what verdicts are compared with
    differs: tuple[str, ...]  # behaviours in which the tree is not that preset


def resolve(
    tree: KernelTree, mode: Mode, lifted: Mapping[str, Lifted], binding: Binding, signs: tuple[Sign, ...]
) -> Resolved:
    """The behaviours of a tree.

    Raises:
        NotUnderstoodError: if the C lacks a function, or has a shape that fits no behaviour.
    """
    found: dict[str, bool | int] = {s.behaviour: s.value for s in signs}
    if mode is Mode.PROTECTED and not found["tracks_debug_owner"]:
        raise NotUnderstoodError(DEBUG_C, 0, "before v6.14 protected mode is as nvhe, and is proved there")
    for needed in OF_OWNER if found["tracks_debug_owner"] else OF_DIRTY:
        if needed not in lifted:
            raise NotUnderstoodError(DEBUG_C, 0, f"{needed}() is not defined here, and the model needs it")
    found |= _of_owner(mode, lifted, binding) if found["tracks_debug_owner"] else _of_dirty(mode, lifted, binding)
    found |= _by_comment(tree)
    kernel = Kernel(mode, **found)  # type: ignore[arg-type]

    def unlike(e: Epoch) -> list[str]:
        preset = e.kernel(mode)
        return [n for n in mattering(kernel) if getattr(preset, n) != getattr(kernel, n)]

    # What is expected of a tree is what its release does, so that a bug of an older one is no excuse.
    own = [e for e in of_release(tree.release) if mode in e.modes]
    nearest = min(own or (e for e in EPOCHS.values() if mode in e.modes), key=lambda e: len(unlike(e)))
    return Resolved(kernel, nearest, tuple(f"{n}={getattr(kernel, n)}" for n in unlike(nearest)))


def mattering(k: Kernel) -> tuple[str, ...]:
    """The behaviours that make a difference in the mode of a kernel."""
    left_out = (() if k.copies_vcpu else _OF_COPY) + ("mode",)
    names = (f.name for f in fields(Kernel) if f.name not in left_out)
    return tuple(name for name in names if k.vhe or not name.startswith("vhe_"))


def _of_dirty(mode: Mode, lifted: Mapping[str, Lifted], binding: Binding) -> dict[str, bool | int]:
    return _by_width(lifted, binding) | _by_effect(mode, lifted, binding)


def _of_owner(mode: Mode, lifted: Mapping[str, Lifted], binding: Binding) -> dict[str, bool | int]:
    """What v6.14 left of the behaviours: the rest is as in the newest release, or compared with the C itself."""
    init, setup, load, put = (lifted[name] for name in OF_OWNER[:4])
    width = binding.width(setup, "vcpu->arch.mdcr_el2")
    if width is None:
        raise NotUnderstoodError(setup.file, setup.line, "mdcr_el2 is not used here")
    return {
        "mdcr_el2_bits": width,
        "traps_trace_filter": bool(_at_zero((setup,), "vcpu->arch.mdcr_el2") & MDCR_EL2.mask("TTRF")),
        "vhe_saves_host_mdcr_first": mode is not Mode.VHE or "mdcr_el2_host" in binding.stores(load)[0],
        "keeps_step_pending": "ss_active_pending" in binding.stores(put)[0],
        "reads_pmuv3p8_counters": _counts_for(8, init),
    }


def _counts_for(version: int, init: Lifted) -> bool:
    """Whether a number of event counters is kept for a CPU with this PMUVer that has all of them."""
    term = init.writes.get("percpu.kvm_host_data.nr_event_counters")
    if term is None:
        return False
    env: dict[str, Value] = {name: init.reads[name].sort == BOOL and False for name in support(term)}
    return bool(evaluate(term, env | {ID_REGISTER: version << 8, "hw.pmcr_el0": 31 << 11}))


def _by_width(lifted: Mapping[str, Lifted], binding: Binding) -> dict[str, int]:
    setup, init = lifted["kvm_arm_setup_debug"], lifted["kvm_arm_init_debug"]
    vcpu, cpu = binding.width(setup, "vcpu->arch.mdcr_el2"), binding.width(init, "percpu.mdcr_el2")
    preserved = binding.width(setup, "vcpu->arch.guest_debug_preserved.mdscr_el1")
    if vcpu is None or cpu is None or preserved is None:
        raise NotUnderstoodError(setup.file, setup.line, "mdcr_el2 or guest_debug_preserved.mdscr_el1 is not used here")
    if vcpu != cpu:
        raise NotUnderstoodError(init.file, init.line, f"mdcr_el2 has {cpu} bits per CPU and {vcpu} per vCPU")
    return {"mdcr_el2_bits": vcpu, "preserved_mdscr_bits": preserved}


def _by_effect(mode: Mode, lifted: Mapping[str, Lifted], binding: Binding) -> dict[str, bool]:
    setup, clear = lifted["kvm_arm_setup_debug"], lifted["kvm_arm_clear_debug"]
    stores, _ = binding.stores(setup)
    return {
        "first_run_init": "kvm_arm_vcpu_init_debug" in lifted,
        "traps_trace_filter": bool(_at_zero((setup, *lifted.values()), "vcpu->arch.mdcr_el2") & MDCR_EL2.mask("TTRF")),
        "vhe_writes_changed_mdcr": mode is not Mode.VHE or "hw_mdcr_el2" in stores,
        "preserves_pstate_ss": "preserved_pstate_ss" in stores,
        "keeps_step_pending": "ss_active_pending" in binding.stores(clear)[0],
    }


def _at_zero(functions: tuple[Lifted, ...], lvalue: str) -> int:
    """What the first function that stores there stores if everything that it reads is 0; 0 if none does."""
    writer = next((f for f in functions if lvalue in f.writes), None)
    if writer is None:
        return 0
    term, sorts = writer.writes[lvalue], {name: v.sort for name, v in writer.reads.items()}
    env: dict[str, Value] = {name: sorts.get(name) == BOOL and False for name in support(term)}
    return int(evaluate(term, env))  # type: ignore[arg-type]


def _by_comment(tree: KernelTree) -> dict[str, bool]:
    comments = " ".join(re.findall(r"/\*.*?\*/", tree.read(DEBUG_C), re.S))
    return {
        "documents_trace_traps": "MDCR_EL2_TTRF" in comments,
        "documents_os_lock": "OS Lock" in comments or "OS lock" in comments,
    }
