"""Every edit of the modelled C of a tree, and what becomes of it.

    sweep = Sweep(Path("linux-source-6.1"), Mode.VHE)
    for edit, file, outcome in sweep.run(sweep.sites()): ...

The edits are made in a copy of the tree (links, but for one file at a time), and only what is made from the edited
function is lifted again. No claim is checked: an edit that is told from the original is ``differs`` or ``refused``; one
that is not is ``equal``, and the reason says what is known of it: ``equivalent`` if its terms are proved to be the
original's on every state, ``not modelled`` if they differ where the specification says nothing, or ``not lifted``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, Self

from formal.epochs import Mode
from formal.kernel import hypervisor, protected, scan, writers
from formal.kernel.binding import Binding, flags_of
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.front import Lifted, files_for, load, side_of
from formal.kernel.signs import read
from formal.kernel.tree import KVM, KernelTree
from formal.mutate.operators import Edit, edits
from formal.questions import Questions
from formal.terms import FALSE, TRUE, Eq, Term, boolean
from formal.treejob import TreeReport, compare

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
    Mode.NVHE: ("/vhe/", protected.HYP_MAIN, "nested.c"),
    Mode.PROTECTED: ("/vhe/", "nested.c"),
}


@dataclass(frozen=True)
class Site:
    """An edit of a file."""

    file: str
    edit: Edit

    def __str__(self) -> str:
        return f"{self.file.removeprefix(f'{KVM}/')}:{self.edit}"


@dataclass(frozen=True)
class Outcome:
    """What became of an edit, and why."""

    kind: Literal["differs", "refused", "equal"]
    reason: str


class Sweep:
    """A copy of a tree in which one edit at a time is made and compared. A context manager: it removes its copy."""

    def __init__(self, tree: Path, mode: Mode) -> None:
        self.mode = mode
        KernelTree(tree)  # refuses what is no kernel tree before anything is copied
        self._directory = TemporaryDirectory(prefix="mutants-")
        self.tree = KernelTree(_copied(tree, Path(self._directory.name)))
        scan.check(self.tree, writers.KNOWN)
        self.program = load(self.tree, files_for(side_of(mode)))
        self._questions = Questions(TIMEOUT)
        self._unchanged = self._compared()
        self._lifted = self._all_lifted(self._unchanged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._directory.cleanup()

    def sites(self) -> list[Site]:
        """Every operator at every place of the modelled C, in the order of the files."""
        found = []
        for file, listed in MODELLED.items():
            elsewhere = any(part in file for part in _ELSEWHERE[self.mode])
            if elsewhere or not (self.tree.path / file).is_file():
                continue
            names = listed.split()
            tables = [name.strip("[]") for name in names if name.startswith("[")]
            functions = [name for name in names if not name.startswith("[")]
            found += [Site(file, edit) for edit in edits(self.tree.read(file), functions, tables)]
        return found

    def run(self, sites: Iterable[Site]) -> Iterator[tuple[Site, Outcome]]:
        """What becomes of each edit."""
        for site in sites:
            yield site, self.outcome(site)

    def outcome(self, site: Site) -> Outcome:
        """What becomes of one edit; the copy is as before afterwards."""
        path = self.tree.path / site.file
        text = path.read_text(encoding="utf-8")
        functions = (site.edit.function,) if site.edit.function else None
        path.write_text(site.edit.apply(text), encoding="utf-8")
        self.program.forget(site.file, functions)
        try:
            return self._told(self._compared(scanned=True), site.edit.function)
        except NotUnderstoodError as error:
            return Outcome("refused", str(error))
        finally:
            path.write_text(text, encoding="utf-8")
            self.program.forget(site.file, functions)

    def _compared(self, *, scanned: bool = False) -> TreeReport:
        if scanned:
            scan.check(self.tree, writers.KNOWN)
        binding, signs = Binding(flags_of(self.tree)), read(self.tree)
        return compare(self.program, binding, signs, self.mode, self._questions)

    def _all_lifted(self, report: TreeReport) -> dict[str, Lifted]:
        """Every function that was compared as terms, by its name and place."""
        found = [c.lifted for c in report.compared if c.lifted is not None]
        found += [c.lifted for c in report.counterparts.values()]
        found += [lifted for _, lifted in hypervisor.lifted(self.program, report.resolved.kernel)]
        return {f"{f.name} {f.file}": f for f in found}

    def _why_equal(self, report: TreeReport, function: str) -> str:
        """What is known of an edit that is not told: ``equivalent`` is proved, on every state."""
        now = self._all_lifted(report)
        using = [name for name, f in self._lifted.items() if function in f.functions]
        if not using:
            return "not lifted: only the calls that it makes are looked at"
        same: list[tuple[str, Term]] = []
        for name in using:
            before, after = self._lifted[name], now[name]
            same += [(f"{before.name}: {what}", equal) for what, equal in _equalities(before, after)]
        if all(equal is TRUE for _, equal in same):
            return "equivalent: the same terms"
        if other := self._questions.differing(same):
            return f"not modelled: {', '.join(other)}"
        return "equivalent: terms proved equal"

    def _told(self, report: TreeReport, function: str) -> Outcome:
        if report.resolved.kernel != self._unchanged.resolved.kernel:
            return Outcome("differs", f"another kernel: {', '.join(report.resolved.differs)}")
        for problem in (*report.misdescribed, *report.omitted.values(), *report.problems):
            return Outcome("differs", problem)
        before = {c.function: c for c in self._unchanged.compared}
        for c in report.compared:
            if not c.equal:
                return Outcome("differs", f"{c.function} ({c.place}) differs in {', '.join(c.differs_in)}")
            if c.stores_besides != before[c.function].stores_besides:
                return Outcome("differs", f"{c.function} ({c.place}) stores to other places that are not modelled")
        for name, counterpart in report.counterparts.items():
            if counterpart.lifted.obligations != self._unchanged.counterparts[name].lifted.obligations:
                return Outcome(
                    "differs", f"{counterpart.lifted.name} has other obligations, which are claims of their own"
                )
        return Outcome("equal", self._why_equal(report, function))


def _equalities(before: Lifted, after: Lifted) -> Iterator[tuple[str, Term]]:
    """What must hold for two liftings of a function to be one: a place or part of it, and a term."""
    reads = {**before.reads, **after.reads}
    for lvalue in dict.fromkeys((*before.writes, *after.writes)):
        old, new = before.writes.get(lvalue, reads[lvalue]), after.writes.get(lvalue, reads[lvalue])
        yield lvalue, Eq(old, new) if old.sort == new.sort else FALSE
    yield "when it returns", Eq(before.returns, after.returns)
    results = [f.result for f in (before, after) if f.result is not None]
    if len(results) == 2:
        yield "its result", Eq(*results) if results[0].sort == results[1].sort else FALSE
    elif results:
        yield "its result", FALSE
    targets = [{k: [x for _, x in v] for k, v in f.pointer_writes.items()} for f in (before, after)]
    yield "what its pointers point to", boolean(targets[0] == targets[1])


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
