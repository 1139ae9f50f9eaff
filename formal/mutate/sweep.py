"""Every edit of the modelled C of a tree, and what becomes of it.

    with Sweep(Path("linux-source-6.1"), Mode.VHE) as sweep:
        for site, outcome in sweep.run(sites(sweep.tree, sweep.mode)): ...

The edits are made in a copy of the tree (links, but for one file at a time), and only what is made from the edited
function is lifted again. No claim is checked: an edit that is told from the original is ``differs`` or ``refused``. One
that is not is ``equivalent`` if the terms of all functions that it may change are proved to be the original's on every
state (but for a BUG less). It is ``unmodelled`` if they differ only in places that no state variable stands for, or if
its function is read by its calls, what the specification asks of these still holds, and the edit reaches nothing else
modelled; in both cases but for what a reader has looked at (``formal.mutate.unmodelled``). Else it is ``unexplained``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from formal.common.files import NotWrittenError
from formal.common.lifetime import Scratch
from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.compare import hypervisor, protected
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Lifted, files_for, load, side_of
from formal.kernel.model.binding import Binding
from formal.kernel.recognition import scan, writers
from formal.kernel.recognition.callers import Mentions
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text import signs
from formal.kernel.text.signs import read
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE, Eq, Not, Or, Term, boolean
from formal.mutate import unmodelled
from formal.mutate.operators import Edit, edits, reach
from formal.tree.verdicts import TreeReport, compare

TIMEOUT = 60.0  # seconds for a solver question
# file: the functions that the specification describes, and tables (in brackets)
MODELLED: dict[str, str] = {
    f"{KVM}/debug.c": "save_guest_debug_regs restore_guest_debug_regs kvm_arm_init_debug kvm_arm_setup_mdcr_el2 "
    "kvm_arm_vcpu_init_debug kvm_arm_reset_debug_ptr kvm_arm_setup_debug kvm_arm_clear_debug kvm_init_host_debug_data "
    "setup_external_mdscr kvm_vcpu_load_debug kvm_vcpu_put_debug kvm_debug_set_guest_ownership kvm_debug_handle_oslar",
    f"{KVM}/sys_regs.c": "access_mdcr reset_mdcr "
    "trap_debug_regs reg_to_dbg dbg_to_reg trap_bvr set_bvr get_bvr reset_bvr trap_bcr set_bcr "
    "get_bcr reset_bcr trap_wvr set_wvr get_wvr reset_wvr trap_wcr set_wcr get_wcr reset_wcr trap_oslar_el1 "
    "demux_wb_reg trap_dbg_wb_reg set_dbg_wb_reg get_dbg_wb_reg reset_dbg_wb_reg "
    "trap_oslsr_el1 set_oslsr_el1 perform_access emulate_sys_reg kvm_handle_sys_reg",
    f"{KVM}/handle_exit.c": "kvm_handle_guest_debug handle_trap_exceptions handle_exit [arm_exit_handlers]",
    f"{KVM}/guest.c": "kvm_arch_vcpu_ioctl_set_guest_debug core_reg_addr",
    f"{KVM}/arm.c": "kvm_arch_vcpu_create kvm_arch_vcpu_run_pid_change kvm_vcpu_first_run_init kvm_arch_vcpu_load "
    "kvm_arch_vcpu_put kvm_arch_vcpu_ioctl_run kvm_arm_vcpu_enter_exit cpu_hyp_init_features cpu_hyp_reinit",
    f"{KVM}/reset.c": "kvm_reset_vcpu",
    f"{KVM}/mmio.c": "kvm_handle_mmio_return",
    f"{KVM}/pmu.c": "kvm_set_pmuserenr",
    f"{KVM}/hyp/exception.c": "__kvm_adjust_pc",
    f"{KVM}/hyp/include/hyp/adjust_pc.h": "kvm_skip_instr __kvm_skip_instr",
    f"{KVM}/hyp/include/hyp/debug-sr.h": "__debug_save_state __debug_restore_state __debug_switch_to_guest_common "
    "__debug_switch_to_host_common __vcpu_debug_regs",
    f"{KVM}/hyp/include/hyp/switch.h": "__activate_traps_common __deactivate_traps_common synchronize_vcpu_pstate",
    f"{KVM}/hyp/include/hyp/sysreg-sr.h": "__sysreg_save_common_state __sysreg_restore_common_state "
    "__sysreg_save_el2_return_state __sysreg_restore_el2_return_state ctxt_mdscr_el1",
    f"{KVM}/hyp/vhe/switch.c": "__activate_traps __deactivate_traps __vcpu_load_activate_traps "
    "__vcpu_put_deactivate_traps activate_traps_vhe_load deactivate_traps_vhe_put fixup_guest_exit __kvm_vcpu_run_vhe "
    "__kvm_vcpu_run kvm_vcpu_load_vhe kvm_vcpu_put_vhe",
    f"{KVM}/hyp/vhe/sysreg-sr.c": "sysreg_save_host_state_vhe sysreg_save_guest_state_vhe "
    "sysreg_restore_host_state_vhe sysreg_restore_guest_state_vhe kvm_vcpu_load_sysregs_vhe kvm_vcpu_put_sysregs_vhe",
    f"{KVM}/hyp/nvhe/switch.c": "__activate_traps __deactivate_traps fixup_guest_exit __kvm_vcpu_run",
    f"{KVM}/hyp/nvhe/sysreg-sr.c": "__sysreg_save_state_nvhe __sysreg_restore_state_nvhe",
    f"{KVM}/nested.c": "kvm_nested_setup_mdcr_el2",
    f"{KVM}/emulate-nested.c": "forward_debug_exception forward_mdcr_traps __forward_traps kvm_inject_nested "
    "kvm_inject_el2_exception kvm_emulate_nested_eret",
    protected.HYP_MAIN: "flush_debug_state sync_debug_state flush_hyp_vcpu sync_hyp_vcpu handle___kvm_vcpu_run",
}
# files of the other modes' hypervisors
_ELSEWHERE: dict[Mode, tuple[str, ...]] = {
    Mode.VHE: ("/nvhe/",),
    Mode.NVHE: ("/vhe/", protected.HYP_MAIN),
    Mode.PROTECTED: ("/vhe/",),
}
_NESTED = ("access_mdcr", "reset_mdcr")  # of nested virtualization, with what lies in its own files


@dataclass(frozen=True)
class Site:
    """An edit of a file."""

    file: str
    edit: Edit

    def __str__(self) -> str:
        return f"{self.file.removeprefix(f'{KVM}/')}:{self.edit}"


Kind = Literal["differs", "refused", "equivalent", "unmodelled", "unexplained"]


@dataclass(frozen=True)
class Outcome:
    """What became of an edit, and why."""

    kind: Kind
    reason: str

    @property
    def told(self) -> bool:
        """Whether the edit was told from the original."""
        return self.kind in ("differs", "refused")


def sites(tree: KernelTree, mode: Mode) -> list[Site]:
    """Every operator at every place of the modelled C of a tree, in the order of the files."""
    found = []
    nests = mode is Mode.VHE and signs.nesting(tree).value
    for file, listed in MODELLED.items():
        elsewhere = any(part in file for part in _ELSEWHERE[mode]) or (not nests and file.endswith("nested.c"))
        if elsewhere or not (tree.path / file).is_file():
            continue
        names = listed.split()
        tables = [name.strip("[]") for name in names if name.startswith("[")]
        functions = [name for name in names if not name.startswith("[") and (nests or name not in _NESTED)]
        found += [Site(file, edit) for edit in edits(tree.read(file), functions, tables)]
    return found


class Sweep:
    """A copy of a tree in which one edit at a time is made and compared. A context manager: it removes its copy."""

    def __init__(self, tree: Path, mode: Mode) -> None:
        self.mode = mode
        KernelTree(tree)  # refuses what is no kernel tree before anything is copied
        self._directory = Scratch("mutants-")
        self.tree = KernelTree(_copied(tree, self._directory.path))
        self._searched: scan.Found = {}
        scan.check(self.tree, writers.knows, (DEBUG_C,), self._searched)
        self._original = dict(self._searched)
        mentions = Mentions()
        for _, _, bodies in self._original.values():
            mentions.merge(bodies)
        self._modelled = frozenset(  # names that stand for something modelled, wherever they are
            mentions.leading() | scan.MEMBERS | scan.BANKS | scan.FLAGS | scan.GUEST_REGISTERS
        )
        self.program = load(self.tree, files_for(self.tree, side_of(mode)))
        self._questions = Questions(TIMEOUT)
        self._unchanged = self._compared()
        self._lifted = self._all_lifted(self._unchanged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._directory.remove()

    def run(self, chosen: Iterable[Site]) -> Iterator[tuple[Site, Outcome]]:
        """What becomes of each edit."""
        for site in chosen:
            yield site, self.outcome(site)

    def outcome(self, site: Site) -> Outcome:
        """What becomes of one edit; the copy is as before afterwards."""
        path = self.tree.path / site.file
        text = path.read_text(encoding="utf-8")
        functions = (site.edit.function,) if site.edit.function else None
        path.write_text(site.edit.apply(text), encoding="utf-8")
        self.program.forget(site.file, functions)
        try:
            return self._told(self._compared(scanned=True), site, text)
        except NotUnderstoodError as error:
            return Outcome("refused", str(error))
        except (OSError, NotWrittenError):  # of this machine, not of the edit
            raise
        except Exception as error:
            return Outcome("unexplained", f"internal error: {type(error).__name__}: {error}")
        finally:
            path.write_text(text, encoding="utf-8")
            self.program.forget(site.file, functions)

    def _compared(self, *, scanned: bool = False) -> TreeReport:
        if scanned:
            scan.check(self.tree, writers.knows, (DEBUG_C,), self._searched)
        binding = Binding.of(self.program)
        return compare(self.program, binding, read(self.tree), self.mode, self._questions)

    def _all_lifted(self, report: TreeReport) -> dict[str, Lifted]:
        """Every function that was compared as terms, by its name and place."""
        found = [c.lifted for c in report.compared if c.lifted is not None]
        found += [c.lifted for c in report.counterparts.values()]
        found += [lifted for _, lifted in hypervisor.lifted(self.program, report.resolved.kernel)]
        return {f"{f.name} {f.file}": f for f in found}

    def _told(self, report: TreeReport, site: Site, text: str) -> Outcome:
        if report.resolved.kernel != self._unchanged.resolved.kernel:
            return Outcome("differs", f"another kernel: {', '.join(report.resolved.differs)}")
        for gap in report.gaps:
            if not gap.broken:
                return Outcome("refused", str(gap))
        for problem in (*report.misdescribed, *report.omitted.values(), *report.lacking, *report.problems):
            return Outcome("differs", problem)
        for c in report.compared:
            if not c.equal:
                return Outcome("differs", f"{c.function} ({c.place}) differs in {', '.join(c.differs_in)}")
        for name, counterpart in report.counterparts.items():
            if not {*counterpart.lifted.obligations} <= {*self._unchanged.counterparts[name].lifted.obligations}:
                return Outcome(
                    "differs", f"{counterpart.lifted.name} has other obligations, which are claims of their own"
                )
        using = [name for name, f in self._lifted.items() if site.edit.function in f.functions]
        return self._lifted_again(report, using) if using else self._read_by_its_calls(site, text)

    def _lifted_again(self, report: TreeReport, using: Iterable[str]) -> Outcome:
        """What is known of an edit whose functions are lifted: ``equivalent`` is proved, on every state."""
        assert report.binding is not None
        now, binding = self._all_lifted(report), report.binding
        same: list[tuple[str, Term]] = []
        for name in using:
            before, after = self._lifted[name], now[name]
            same += [(f"{before.name}: {what}", equal) for what, equal in _equalities(before, after, binding)]
        if all(equal is TRUE for _, equal in same):
            return Outcome("equivalent", "the same terms")
        other = self._questions.differing(same)
        if not other:
            return Outcome("equivalent", "terms proved equal")
        parts = [(place, place.partition(": ")[2]) for place in other]
        named = [place for place, part in parts if part in _WHOLE or binding.models(part)]
        unknown = [place for place in named if unmodelled.why(place) is None]
        if unknown:
            return Outcome("unexplained", f"differs in {', '.join(unknown)}")
        return Outcome("unmodelled", f"differs only in {', '.join(other)}")

    def _read_by_its_calls(self, site: Site, text: str) -> Outcome:
        """What is known of an edit whose function is not lifted: the rules about its watched calls still hold."""
        function = site.edit.function
        if not function:
            return Outcome("unexplained", "an entry of a table")
        touched = reach(text, site.edit)
        looked_at = [key for key, found in self.program.kept("skeleton").items() if found.function == function]
        watched = {name for key in looked_at for name in key[4]}
        stored_to = [key[5] for key in looked_at]
        names = set(touched.names & self._modelled - {function} - watched)
        stores, now = (found[site.file][1] for found in (self._original, self._searched))
        names |= {store.lvalue for store in stores if touched.first <= store.line <= touched.last}
        names |= {store.lvalue for store in {*stores} ^ {*now}}
        names = {name for name in names if unmodelled.why(f"{function}: {name}") is None}
        names -= _ENDS_STEP
        names = {name for name in names if not any(pattern.search(f"->{name}") for pattern in stored_to)}
        if names:
            return Outcome("unexplained", f"not lifted, and reaches {', '.join(sorted(names))}")
        return Outcome("unmodelled", "not lifted: the rules about its calls hold, and it reaches nothing else modelled")


# searched for since they end a step; of their values there are no state variables, but rules (emulation.py)
_ENDS_STEP = {"pc", "hw.elr_el2", "INCREMENT_PC", "KVM_ARM64_INCREMENT_PC"}
_RETURNS, _RESULT, _TARGETS = _WHOLE = ("when it returns", "its result", "what its pointers point to")


def _equalities(before: Lifted, after: Lifted, binding: Binding) -> Iterator[tuple[str, Term]]:
    """What must hold for two liftings of a function to be one: a place or part of it, and a term.

    The second has to return where the first did; where that meets a BUG, which is a claim of its own, it may do better.
    """
    reads = {**before.reads, **after.reads}
    for lvalue in dict.fromkeys((*before.writes, *after.writes)):
        old, new = before.writes.get(lvalue, reads[lvalue]), after.writes.get(lvalue, reads[lvalue])
        flags = sum(1 << flag.bit for flag in binding.flags.values() if flag.lvalue == lvalue)
        if old.sort != new.sort:
            yield lvalue, FALSE
        elif flags:
            mask = t.const(flags, t.width(old))
            yield lvalue, Eq(old & mask, new & mask)
            yield f"other bits of {lvalue}", Eq(old & ~mask, new & ~mask)
        else:
            yield lvalue, Eq(old, new)
    yield _RETURNS, Or(Not(before.returns), after.returns)
    results = [f.result for f in (before, after) if f.result is not None]
    if len(results) == 2:
        yield _RESULT, Eq(*results) if results[0].sort == results[1].sort else FALSE
    elif results:
        yield _RESULT, FALSE
    targets = [{k: [x for _, x in v] for k, v in f.pointer_writes.items()} for f in (before, after)]
    yield _TARGETS, boolean(targets[0] == targets[1])


def _copied(tree: Path, copy: Path) -> Path:
    """A copy by links, with files of its own where edits are made."""
    own = {Path(file).parts for file in MODELLED if (tree / file).is_file()}
    _link(tree.resolve(), copy, own)
    return copy


def _link(source: Path, target: Path, own: set[tuple[str, ...]]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        inside = {parts[1:] for parts in own if parts[0] == entry.name}
        if not inside:
            (target / entry.name).symlink_to(entry)
        elif inside == {()}:
            (target / entry.name).write_bytes(entry.read_bytes())
        else:
            _link(entry, target / entry.name, inside)


def sample(sites: Sequence[Site], size: int, seed: int = 0) -> list[Site]:
    """Some of the sites, always the same for a seed, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(sites)), min(size, len(sites))))
    return [sites[i] for i in chosen]
