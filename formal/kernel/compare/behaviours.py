"""A tree as a ``Kernel``: widths from clang, behaviours from the lifted C, from signs, and from the comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from formal.arch.registers import MDCR_EL2
from formal.epochs import EPOCHS, Epoch, Kernel, Mode, of_release
from formal.kernel.errors import Gaps, NotUnderstoodError
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
    tree: KernelTree,
    mode: Mode,
    lifted: Mapping[str, Lifted],
    binding: Binding,
    signs: tuple[Sign, ...],
    gaps: Gaps | None = None,
) -> Resolved:
    """The behaviours of a tree. What is not told is as in the release that the tree says it is.

    Raises:
        NotUnderstoodError: if the C lacks a function, or has a shape that fits no behaviour, and that is not noted.
    """
    gaps = gaps or Gaps()
    told: dict[str, bool | int] = {s.behaviour: s.value for s in signs}
    if mode is Mode.PROTECTED and not told["tracks_debug_owner"]:
        raise NotUnderstoodError(
            DEBUG_C, 0, "before v6.14 protected mode is not modelled: it is as nvhe, but for what runs only there"
        )
    missed = {name for gap in gaps.found for name in gap.of or (*OF_OWNER, *OF_DIRTY)}  # none: all is missed
    for needed in OF_OWNER if told["tracks_debug_owner"] else OF_DIRTY:
        if needed not in lifted and needed not in missed:
            with gaps.at(needed):
                raise NotUnderstoodError(DEBUG_C, 0, f"{needed}() is not defined here, and the model needs it")
    found: dict[str, bool | int] = dict(_released(tree.version, mode).lacks) | told
    known = {**dict.fromkeys(missed), **lifted}
    of = _of_owner if told["tracks_debug_owner"] else _of_dirty
    found |= of(mode, known, binding, gaps) | _by_comment(tree)
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


def _released(version: tuple[int, int, int], mode: Mode) -> Epoch:
    """The newest preset that had begun with a release."""
    there = [e for e in EPOCHS.values() if mode in e.modes]
    begun = [e for e in there if (e.first.major, e.first.minor) <= version[:2]]
    return max(begun or there[:1], key=lambda e: e.first)


_Known = Mapping[str, Lifted | None]  # the functions of debug.c; None for those that are not understood


def _of_dirty(mode: Mode, known: _Known, binding: Binding, gaps: Gaps) -> dict[str, bool | int]:
    return _by_width(known, binding, gaps) | _by_effect(mode, known, binding)


def _of_owner(mode: Mode, known: _Known, binding: Binding, gaps: Gaps) -> dict[str, bool | int]:
    """What v6.14 left of the behaviours: the rest is as in the newest release, or compared with the C itself."""
    found = _width("mdcr_el2_bits", "vcpu->arch.mdcr_el2", known, binding, gaps)
    init, setup, load, put = (known.get(name) for name in OF_OWNER[:4])
    if setup is not None:
        found["traps_trace_filter"] = bool(_at_zero((setup,), "vcpu->arch.mdcr_el2") & MDCR_EL2.mask("TTRF"))
    if load is not None or mode is not Mode.VHE:
        late = load is not None and "mdcr_el2_host" not in binding.stores(load)[0]
        found["vhe_saves_host_mdcr_first"] = mode is not Mode.VHE or not late
    if put is not None:
        found["keeps_step_pending"] = "ss_active_pending" in binding.stores(put)[0]
    if init is not None:
        found["reads_pmuv3p8_counters"] = _counts_for(8, init)
    return found


def _counts_for(version: int, init: Lifted) -> bool:
    """Whether a number of event counters is kept for a CPU with this PMUVer that has all of them."""
    term = init.writes.get("percpu.kvm_host_data.nr_event_counters")
    if term is None:
        return False
    env: dict[str, Value] = {name: init.reads[name].sort == BOOL and False for name in support(term)}
    return bool(evaluate(term, env | {ID_REGISTER: version << 8, "hw.pmcr_el0": 31 << 11}))


def _width(behaviour: str, lvalue: str, known: _Known, binding: Binding, gaps: Gaps) -> dict[str, bool | int]:
    """The width of an lvalue, from the first function that uses it."""
    functions = [f for f in known.values() if f is not None]
    widths = [width for f in functions if (width := binding.width(f, lvalue)) is not None]
    if widths:
        return {behaviour: widths[0]}
    if len(functions) == len(known):
        with gaps.at("kvm_arm_setup_mdcr_el2"):
            raise NotUnderstoodError(DEBUG_C, 0, f"{lvalue} is not used here")
    return {}


def _by_width(known: _Known, binding: Binding, gaps: Gaps) -> dict[str, bool | int]:
    vcpu = _width("mdcr_el2_bits", "vcpu->arch.mdcr_el2", known, binding, gaps)
    cpu = _width("mdcr_el2_bits", "percpu.mdcr_el2", known, binding, gaps)
    if vcpu and cpu and vcpu != cpu:
        with gaps.at("kvm_arm_init_debug", "kvm_arm_setup_mdcr_el2"):
            bits = [of["mdcr_el2_bits"] for of in (cpu, vcpu)]
            raise NotUnderstoodError(DEBUG_C, 0, f"mdcr_el2 has {bits[0]} bits per CPU and {bits[1]} per vCPU")
    preserved = "vcpu->arch.guest_debug_preserved.mdscr_el1"
    return cpu | vcpu | _width("preserved_mdscr_bits", preserved, known, binding, gaps)


def _by_effect(mode: Mode, known: _Known, binding: Binding) -> dict[str, bool | int]:
    setup, clear = known.get("kvm_arm_setup_debug"), known.get("kvm_arm_clear_debug")
    found: dict[str, bool | int] = {"first_run_init": "kvm_arm_vcpu_init_debug" in known}
    if setup is not None:
        stores, _ = binding.stores(setup)
        functions = (setup, *(f for f in known.values() if f is not None))
        found["traps_trace_filter"] = bool(_at_zero(functions, "vcpu->arch.mdcr_el2") & MDCR_EL2.mask("TTRF"))
        found["vhe_writes_changed_mdcr"] = mode is not Mode.VHE or "hw_mdcr_el2" in stores
        found["preserves_pstate_ss"] = "preserved_pstate_ss" in stores
    if clear is not None:
        found["keeps_step_pending"] = "ss_active_pending" in binding.stores(clear)[0]
    return found


def _at_zero(functions: tuple[Lifted, ...], lvalue: str) -> int:
    """What the first function that stores there stores if everything that it reads is 0; 0 if none does."""
    writer = next((f for f in functions if lvalue in f.writes), None)
    if writer is None:
        return 0
    term, sorts = writer.writes[lvalue], {name: v.sort for name, v in writer.reads.items()}
    env: dict[str, Value] = {name: sorts.get(name) == BOOL and False for name in support(term)}
    return int(evaluate(term, env))  # type: ignore[arg-type]


def _by_comment(tree: KernelTree) -> dict[str, bool]:
    """What debug.c promises, in a comment or by doing it: a comment that is left out takes nothing back."""
    text = tree.read(DEBUG_C)
    return {
        "documents_trace_traps": "MDCR_EL2_TTRF" in text,
        "documents_os_lock": re.search(r"\bOS [Ll]ock|\bkvm_vcpu_os_lock_enabled\(", text) is not None,
    }
