"""What a change of the C does to a function: equivalent, strengthened, weakened or incomparable, with a state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from formal.arch.registers import MDCR_EL2
from formal.epochs import EPOCHS, Mode
from formal.kernel.lift.program import Program, load
from formal.kernel.model.binding import Binding
from formal.kernel.model.counterparts import counterparts
from formal.kernel.source.tree import KVM, KernelTree
from formal.logic.terms import FALSE
from formal.system import System
from formal.transitions import OPERATIONS
from formal.tree.functions import MASK, TRAPS, Change, FunctionChange, compare
from formal.tree.verdicts import Compared, TreeReport
from tests.arch.test_trap_properties import TRAP_WHEN_SET
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import mutant

FILE = f"{KVM}/debug.c"
SETUP = "kvm_arm_setup_mdcr_el2"
TRAP_LIST = "\t\t\t\tMDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA);"


@pytest.fixture(scope="module")
def base() -> KernelTree:
    return KernelTree(tree_path("6.1"))


@pytest.fixture(scope="module")
def program(base: KernelTree) -> Program:
    return load(base)


def report(program: Program, names: tuple[str, ...] = (SETUP,)) -> TreeReport:
    """As treejob makes it, without proofs: no lemma is known."""
    lifted = {name: program.lift(name, "vhe", file=FILE) for name in names if name in program.functions(FILE)}
    assert isinstance(program.tree, KernelTree)
    binding = Binding.of(program)
    kernel = EPOCHS["E8"].kernel(Mode.VHE)
    found = TreeReport(Mode.VHE, SimpleNamespace(kernel=kernel))  # type: ignore[arg-type]
    found.binding, found.system = binding, System(kernel)
    found.counterparts = counterparts(OPERATIONS, lifted, binding)
    found.compared = [Compared(f.name, f"debug.c:{f.line}", True, lifted=f) for f in lifted.values()]
    return found


@pytest.fixture
def changed(base: KernelTree, program: Program, tmp_path: Path) -> Callable[[str, str], FunctionChange]:
    """The change of kvm_arm_setup_mdcr_el2 if a piece of debug.c reads otherwise."""

    def make(old: str, new: str) -> FunctionChange:
        (found,) = compare(report(program), report(mutant(base, tmp_path, FILE, old, new)), 60.0)
        return found

    return make


CHANGES: dict[str, tuple[str, str, Change, str]] = {
    "one trap less": (TRAP_LIST, "\t\t\t\tMDCR_EL2_TDRA);", Change.WEAKENED, "traps less: TDOSA"),
    "one trap more": (TRAP_LIST, TRAP_LIST[:-2] + " | (1 << 27));", Change.STRENGTHENED, "traps more: TDCC"),
    "one trap for another": (
        TRAP_LIST, "\t\t\t\tMDCR_EL2_TDRA | (1 << 27));", Change.INCOMPARABLE, "traps less: TDOSA"),
    "the same in another order": (
        TRAP_LIST, "\t\t\t\tMDCR_EL2_TDOSA |\n\t\t\t\tMDCR_EL2_TDRA);", Change.EQUIVALENT, ""),
    "fewer event counters": ("& MDCR_EL2_HPMN_MASK;", "& 0xf;", Change.INCOMPARABLE, "differs in what is not a trap"),
    "a trap less often": ("(vcpu->guest_debug & KVM_GUESTDBG_USE_HW) ||", "", Change.WEAKENED, "traps less: TDA"),
    "a trap more often": ("if (vcpu->guest_debug)\n", "if (1)\n", Change.STRENGTHENED, "traps more: TDE"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_traps(name: str, changed: Callable[[str, str], FunctionChange]) -> None:
    old, new, expected, says = CHANGES[name]
    found = changed(old, new)
    assert found.change is expected, found
    assert found.base_place.startswith(f"{FILE}:") and found.place.startswith(f"{FILE}:")
    assert [w.says for w in found.witnesses][:1] == ([says] if says else [])
    for witness in found.witnesses:
        assert witness.state and witness.base != witness.tree
        assert witness.base.keys() == witness.tree.keys() == {"mdcr_el2"}


def test_a_trap_for_another_shows_both(changed: Callable[[str, str], FunctionChange]) -> None:
    found = changed(*CHANGES["one trap for another"][:2])
    assert [w.says for w in found.witnesses] == ["traps less: TDOSA", "traps more: TDCC"]


def test_functions_that_come_and_go(base: KernelTree, program: Program, tmp_path: Path) -> None:
    names = ("kvm_arm_clear_debug", "kvm_arm_reset_debug_ptr", "a_new_one")
    new = "void a_new_one(void)\n{\n}\n\nvoid kvm_arm_reset_debug_ptr(struct kvm_vcpu *vcpu)"
    tree = mutant(base, tmp_path, FILE, "void kvm_arm_reset_debug_ptr(struct kvm_vcpu *vcpu)", new)
    there, back = (compare(report(a, names), report(b, names), 60.0) for a, b in ((program, tree), (tree, program)))
    assert {f.function: f.change for f in there} == {
        "kvm_arm_clear_debug": Change.EQUIVALENT,
        "kvm_arm_reset_debug_ptr": Change.EQUIVALENT,
        "a_new_one": Change.ADDED,
    }
    assert {f.function: f.change for f in back}["a_new_one"] is Change.REMOVED


def test_what_is_not_modelled_counts(base: KernelTree, program: Program, tmp_path: Path) -> None:
    """Another store, another target of a pointer, another flag of the same word: none of them goes unseen."""
    name = "kvm_arm_clear_debug"
    line = "\ttrace_kvm_arm_clear_debug(vcpu->guest_debug);\n"
    for number, (extra, seen) in enumerate((
        ("\tvcpu->arch.pause = true;\n", "vcpu->arch.pause"),
        ("\tvcpu_set_flag(vcpu, INCREMENT_PC);\n", "other bits of vcpu->arch.iflags"),
        ("\tvcpu->arch.debug_ptr = NULL;\n", "vcpu->arch.debug_ptr"),
        ("\tBUG_ON(vcpu->guest_debug);\n", "what must not happen"),
    )):  # fmt: skip
        tree = mutant(base, tmp_path / str(number), FILE, line, line + extra)
        (found,) = compare(report(program, (name,)), report(tree, (name,)), 60.0)
        assert found.change is Change.INCOMPARABLE, extra
        assert seen in found.differs_in, (extra, found.differs_in)


def test_a_function_that_the_base_never_runs_is_compared_all_the_same(
    base: KernelTree, program: Program, tmp_path: Path
) -> None:
    """Where no state is left, everything would be equivalent."""
    before, after = report(program), report(mutant(base, tmp_path, FILE, TRAP_LIST, "\t\t\t\tMDCR_EL2_TDRA);"))
    before.facts = (FALSE,)
    (found,) = compare(before, after, 60.0)
    assert found.change is Change.WEAKENED
    assert [w.says for w in found.witnesses] == ["traps less: TDOSA"]


def test_releases_with_other_widths_are_compared() -> None:
    """v5.10 keeps MDCR_EL2 in 32 bits, v6.1 in 64: no crash, and the trap of the trace filter is won."""
    reports = []
    for release, epoch in (("5.10", "E4s"), ("6.1", "E8s")):
        found = report(load(KernelTree(tree_path(release))), ("kvm_arm_setup_debug", "kvm_arm_clear_debug"))
        kernel = EPOCHS[epoch].kernel(Mode.VHE)
        found.resolved, found.system = SimpleNamespace(kernel=kernel), System(kernel)  # type: ignore[assignment]
        reports.append(found)
    kinds = {f.function: f for f in compare(reports[0], reports[1], 60.0)}
    assert kinds["kvm_arm_setup_debug"].change is Change.INCOMPARABLE
    assert {"mdcr_el2", "mdscr_el1"} & set(kinds["kvm_arm_setup_debug"].differs_in)


def test_the_trap_bits_are_those_that_only_ever_add_traps() -> None:
    """What makes "strengthened" mean what it says is checked of these bits against the trap table."""
    assert set(TRAPS) == set(TRAP_WHEN_SET)
    assert MDCR_EL2.mask(*TRAPS) == MASK
