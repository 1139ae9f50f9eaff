"""Lifted functions as compiled ones: all of a tree's, on at least 100,000 states, under QEMU, bit by bit.

The comparison can fail: wrong operators in lifted terms and changes to the C are told.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from formal.epochs import HOSTS, Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.compiled.compiler import COMPILER, HarnessError
from formal.kernel.compiled.differential import QEMU, Bench, States, differing
from formal.kernel.compiled.drivers import Driver, Subject, subjects
from formal.kernel.lift.program import Program, load
from formal.kernel.source.tree import KVM, KernelTree
from formal.logic import terms as t
from formal.logic.compiled import straight
from formal.logic.evaluation import nodes, rebuild, substitute
from formal.logic.terms import BOOL, Term
from tests.kernel.conftest import RELEASES, tree_path
from tests.kernel.mutants import linked_copy

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(QEMU)), reason=f"needs {COMPILER} and {QEMU}"
)
FILES = tuple(f"{KVM}/{name}.c" for name in ("sys_regs", "debug", "guest", "handle_exit"))
STATES = 100_000


ALWAYS = {"kvm_handle_guest_debug", "kvm_arch_vcpu_ioctl_set_guest_debug", "trap_debug_regs"}
BY_DIRTY = {"kvm_arm_setup_debug", "kvm_arm_init_debug", "trap_bvr", "set_wcr", "__debug_switch_to_host"}
BY_OWNER = {
    "kvm_vcpu_load_debug", "kvm_vcpu_put_debug", "setup_external_mdscr", "kvm_arm_setup_mdcr_el2", "access_mdcr",
    "kvm_debug_set_guest_ownership", "kvm_init_host_debug_data", "trap_oslar_el1", "trap_dbg_wb_reg", "reset_mdcr",
    "set_dbg_wb_reg", "__vcpu_load_activate_traps", "__activate_traps", "kvm_inject_exception",
}  # fmt: skip


# what needs a privilege, or more than the first Armv8 has; and barriers, which are not needed
NOT_EVERYWHERE = set("mrs msr sys sysl at dc ic tlbi hint isb dsb dmb sb csdb wfe wfi hvc smc brk hlt eret udf".split())


def instructions(binary: Path) -> set[str]:
    """Their names, of a whole program."""
    tool = COMPILER.replace("gcc", "objdump")
    listing = subprocess.run(
        [tool, "-d", "--no-show-raw-insn", str(binary)], capture_output=True, check=True, text=True
    )
    return {line.split("\t")[1].split()[0] for line in listing.stdout.splitlines() if line.count("\t") >= 1}


@pytest.mark.parametrize("release", dict.fromkeys((*RELEASES, "7.3")))
def test_compiled_functions_do_what_is_lifted(release: str, tmp_path: Path) -> None:
    tree = KernelTree(tree_path(release))
    program = load(tree, FILES)
    chosen = [s for mode in HOSTS for s in subjects(program, tree, mode)]
    bench = Bench(program, tree, chosen, tmp_path)
    done, differences = {}, []
    for driver in bench.drivers:
        done[driver.number], found = bench.compare(driver, STATES // len(chosen) + 1)
        differences += found[:1]
    assert [str(d) for d in differences] == []
    whole = [d for d in bench.drivers if d.subject.name not in bench.not_compared]
    assert sum(done.values()) >= STATES - (STATES // len(chosen) + 1) * len(bench.not_compared)
    assert min(done[d.number] for d in whole) >= 1000
    assert len(bench.not_compared) <= len(chosen) // 10, bench.not_compared  # assembly of a younger point release
    assert not {name for binary in bench.binaries.values() for name in instructions(binary)} & NOT_EVERYWHERE
    names = {d.lifted.name for d in whole}
    assert names >= ALWAYS | (BY_OWNER if release == "7.3" else BY_DIRTY)
    inside = {name for d in bench.drivers for name in d.lifted.functions}
    assert "kvm_nested_setup_mdcr_el2" in inside or release != "7.3"
    assert any(driver.observed for driver in bench.drivers)


@pytest.fixture(scope="module")
def program() -> Program:
    return load(KernelTree(tree_path("6.1")), FILES)


@pytest.fixture(scope="module")
def tree(program: Program) -> KernelTree:
    assert isinstance(program.tree, KernelTree)
    return program.tree


@pytest.fixture(scope="module")
def chosen(program: Program, tree: KernelTree) -> list[Subject]:
    return [s for s in subjects(program, tree, Mode.VHE) if s.lifted.file == DEBUG_C]


@pytest.fixture(scope="module")
def bench(program: Program, tree: KernelTree, chosen: list[Subject], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(program, tree, chosen, tmp_path_factory.mktemp("bench"))


OTHERS = {
    "bvand": "bvor", "bvor": "bvand", "bvxor": "bvor", "bvadd": "bvsub", "bvsub": "bvadd", "bvult": "bvule",
    "bvule": "bvult", "bvslt": "bvult", "bvsle": "bvule", "and": "or", "or": "and", "bvshl": "bvlshr",
    "bvlshr": "bvshl",
}  # fmt: skip


def wrong(node: Term) -> Iterator[Term]:
    """A node with another operator, or with its branches exchanged."""
    if node.op in OTHERS:
        made: Term = t._term(OTHERS[node.op], node.args, node.sort)
        yield rebuild(made, node.args)
    elif node.op == "ite":
        yield t.If(node.args[0], node.args[2], node.args[1])
    elif node.op == "=":
        yield t.Ne(*node.args)
    elif node.op == "not":
        yield node.args[0]


def replaced(term: Term, old: Term, new: Term) -> Term:
    """A term in which one node is another."""
    return substitute(term, {}, {old: new})


def test_wrong_operators_in_lifted_terms_are_told(bench: Bench) -> None:
    """All of them that are no equivalent changes; those that are must be few."""
    told, missed = 0, []
    for driver in bench.drivers:
        states = States(driver, 1)
        rows = [states.one() for _ in range(400)]
        got = bench.run(driver, rows)
        assert not [d for row, left in zip(rows, got, strict=True) for d in differing(driver, row, left)]
        names = [c.name for c in (*driver.inputs, *driver.observed)]
        values = [[*row, *left[: len(driver.observed)]] for row, left in zip(rows, got, strict=True)]
        right = [driver.evaluate(v) for v in values]
        for node in nodes(tuple(driver.terms)):
            for new in wrong(node):
                changed = straight([replaced(term, node, new) for term in driver.terms], names)
                # what is undefined, or ends in BUG, is not compared
                if any(changed(v) != r for v, r in zip(values, right, strict=True) if not r[0] and not r[1]):
                    told += 1
                else:
                    missed.append(f"{driver.subject.name}: {node!r} as {new!r}")
    assert told > 50
    assert len(missed) <= told // 20, missed


def test_a_wrong_term_is_a_difference(bench: Bench, chosen: list[Subject], program: Program) -> None:
    """The whole way: a driver whose lifted function has a wrong operator."""
    setup = next(d for d in bench.drivers if d.lifted.name == "kvm_arm_setup_mdcr_el2")
    node = next(n for n in nodes(tuple(setup.outputs)) if n.op == "bvor")
    writes = {k: replaced(v, node, t.bvand(*node.args)) for k, v in setup.lifted.writes.items()}
    lifted = setup.lifted.__class__(**{**setup.lifted.__dict__, "writes": writes})
    damaged = Driver(Subject(lifted, Mode.VHE, DEBUG_C), program, setup.number)
    assert [c.name for c in damaged.inputs] == [c.name for c in setup.inputs]
    count, differences = bench.compare(damaged, 200)
    assert count == 200 and len(differences) > 100
    assert {d.what for d in differences} == {"vcpu->arch.mdcr_el2"}
    d = differences[0]
    assert str(d).startswith("kvm_arm_setup_mdcr_el2 (vhe): vcpu->arch.mdcr_el2 is 0x") and d.compiled != d.lifted
    assert set(d.state) == {c.name for c in damaged.inputs}


CHANGES = {
    "an operator": ("vcpu->arch.mdcr_el2 |= (MDCR_EL2_TPM |", "vcpu->arch.mdcr_el2 &= (MDCR_EL2_TPM |"),
    "a condition": ("if (vcpu->guest_debug ||", "if (vcpu->guest_debug &&"),
    "a store elsewhere": ("vcpu->arch.mdcr_el2 = __this", "vcpu->arch.vsesr_el2 = 1; vcpu->arch.mdcr_el2 = __this"),
}  # fmt: skip


def changed_tree(tree: KernelTree, copy: Path, old: str, new: str) -> KernelTree:
    """A copy of a tree with another debug.c."""
    file = linked_copy(tree.path, copy, DEBUG_C)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    changed = KernelTree(copy)
    changed.__dict__["autoconf"], changed.__dict__["_directory"] = tree.autoconf, tree._directory
    return changed


@pytest.mark.parametrize("change", CHANGES)
def test_changed_c_is_a_difference(
    change: str, chosen: list[Subject], program: Program, tree: KernelTree, tmp_path: Path
) -> None:
    """The lifted terms are the original's, what is compiled is not."""
    old, new = CHANGES[change]
    (tmp_path / "bench").mkdir()
    changed = changed_tree(tree, tmp_path / "tree", old, new)
    damaged = Bench(program, changed, chosen, tmp_path / "bench")
    found = {d.what for driver in damaged.drivers for d in damaged.compare(driver, 100)[1]}
    assert found
    assert ("words of memory changed besides" in found) == (change == "a store elsewhere")


def test_what_a_lifted_function_does_not_call_ends_the_program(
    chosen: list[Subject], program: Program, tree: KernelTree, tmp_path: Path
) -> None:
    (tmp_path / "bench").mkdir()
    copy = linked_copy(tree.path, tmp_path / "tree", DEBUG_C)
    text = copy.read_text()
    copy.write_text(
        text.replace(
            "void kvm_arm_clear_debug(struct kvm_vcpu *vcpu)\n{",
            "void kvm_arm_clear_debug(struct kvm_vcpu *vcpu)\n{\n\tkvm_vcpu_kick(vcpu);",
            1,
        )
    )
    changed = KernelTree(tmp_path / "tree")
    changed.__dict__["autoconf"], changed.__dict__["_directory"] = tree.autoconf, tree._directory
    damaged = Bench(program, changed, chosen, tmp_path / "bench")
    clear = next(d for d in damaged.drivers if d.lifted.name == "kvm_arm_clear_debug")
    with pytest.raises(HarnessError, match=r"kvm_arm_clear_debug \(vhe\): exit code 2: called: kvm_vcpu_kick"):
        damaged.compare(clear, 10)


def test_assembly_without_a_stand_in_is_told_by_function(
    chosen: list[Subject], program: Program, tree: KernelTree, tmp_path: Path
) -> None:
    """Any other function is compared as before, and so is this one where it does not get there."""
    (tmp_path / "bench").mkdir()
    old = "vcpu->arch.mdcr_el2 = __this"
    new = f'if (vcpu->guest_debug) asm volatile("isb\\nmrs x9, s3_3_c14_c0_5" ::: "x9"); {old}'
    damaged = Bench(program, changed_tree(tree, tmp_path / "tree", old, new), chosen, tmp_path / "bench")
    done = {d.lifted.name: damaged.compare(d, 300) for d in damaged.drivers}
    assert not [d for _, differences in done.values() for d in differences]
    setup = "kvm_arm_setup_mdcr_el2"
    assert damaged.not_compared.pop(f"{setup} (vhe)") == {"isb mrs x9, s3_3_c14_c0_5"}
    callers = {name.removesuffix(" (vhe)") for name in damaged.not_compared}
    assert callers == {d.lifted.name for d in damaged.drivers if setup in d.lifted.functions} - {setup}
    assert all(0 < done[name][0] < 300 for name in (setup, *callers))
    assert all(done[name][0] == 300 for name in done.keys() - callers - {setup})


def test_states_are_the_same_for_a_seed_and_reach_the_edges(bench: Bench) -> None:
    setup = next(d for d in bench.drivers if d.lifted.name == "kvm_arm_setup_debug")
    a, b = States(setup, 3), States(setup, 3)
    rows = [a.one() for _ in range(2000)]
    assert rows[:50] == [b.one() for _ in range(50)] != [States(setup, 4).one() for _ in range(50)]
    for cell, column in zip(setup.inputs, zip(*rows, strict=True), strict=True):
        seen, ones = set(column), (1 << cell.width) - 1
        assert {0, 1} <= seen
        if cell.sort != BOOL and cell.width > 2:
            assert ones in seen and sum(v.bit_count() == 1 for v in seen) >= cell.width * 0.8
            assert len(seen) > min(100, ones // 2)


def test_a_bug_is_reached_where_the_terms_say_so(bench: Bench) -> None:
    setup = next(d for d in bench.drivers if d.lifted.name == "kvm_arm_setup_debug")
    states = States(setup, 5)
    rows = [states.one() for _ in range(1500)]
    reached = [left[len(setup.observed)] for left in bench.run(setup, rows)]
    assert sum(reached) > 3
    assert [int(setup.evaluate(row)[1]) for row in rows] == reached


def test_no_compiler(
    program: Program, tree: KernelTree, chosen: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HarnessError, match=f"running compiled functions needs {COMPILER}"):
        Bench(program, tree, chosen, tmp_path)
