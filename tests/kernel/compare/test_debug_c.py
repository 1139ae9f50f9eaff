"""debug.c of real trees: every function is lifted, and does what its documentation says on states picked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formal.epochs import HOSTS
from formal.epochs import Mode as EpochMode
from formal.kernel.compare.behaviours import resolve
from formal.kernel.lift.program import Lifted, Mode, Program
from formal.kernel.model.binding import Binding
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import read
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import BOOL, Value

MODES: tuple[Mode, ...] = ("vhe", "nvhe")


def at(lifted: Lifted, lvalue: str, **given: Value) -> Value:
    """The value of a written lvalue; variables that are not given (by a fragment of their name) are 0."""
    term = lifted.writes[lvalue]
    env: dict[str, Value] = {}
    for name in support(term):
        matching = [value for key, value in given.items() if key in name]
        env[name] = matching[0] if matching else False
    return evaluate(term, env)


@pytest.mark.parametrize("mode", MODES)
def test_every_function_is_lifted(program: Program, mode: Mode) -> None:
    for name in program.functions():
        lifted = program.lift(name, mode)
        assert lifted.file == "arch/arm64/kvm/debug.c"
        assert lifted.returns is t.TRUE or any(o.risk == "bug" for o in lifted.obligations)


@pytest.mark.parametrize("mode", MODES)
def test_mdcr_el2_of_a_guest_that_is_not_debugged(program: Program, mode: Mode) -> None:
    lifted = program.lift("kvm_arm_setup_mdcr_el2", mode)
    value = at(lifted, "vcpu->arch.mdcr_el2", percpu=0xFFFF_FFE6)
    assert value == 0x84C60 | 0x200 | 0x6  # TTRF, TPMS, TDOSA, TDRA, TPM, TPMCR; TDA; HPMN as it was
    debugged = at(lifted, "vcpu->arch.mdcr_el2", guest_debug=1)
    assert debugged == 0x84C60 | 0x200 | 0x100


def test_only_a_vhe_host_writes_the_register(program: Program) -> None:
    assert "hw.mdcr_el2" in program.lift("kvm_arm_setup_debug", "vhe").writes
    assert "hw.mdcr_el2" not in program.lift("kvm_arm_setup_debug", "nvhe").writes


@pytest.mark.parametrize("mode", MODES)
def test_the_boot_value_is_read_from_the_hardware(program: Program, mode: Mode) -> None:
    lifted = program.lift("kvm_arm_init_debug", mode)
    width = 32 if program.tree.version < (5, 15) else 64
    expected = t.var("hw.mdcr_el2", 64)
    assert lifted.writes == {"percpu.mdcr_el2": t.extract(expected, width - 1, 0)}


def test_widths_are_those_of_the_headers(program: Program) -> None:
    setup = program.lift("kvm_arm_setup_debug", "vhe")
    old = program.tree.version < (5, 15)
    assert setup.reads["vcpu->arch.mdcr_el2"].sort == (32 if old else 64)
    assert setup.reads["vcpu->arch.ctxt.sys_regs[MDSCR_EL1]"].sort == 64
    assert setup.reads["vcpu->arch.guest_debug_preserved.mdscr_el1"].sort == 32
    assert setup.reads["vcpu->guest_debug"].sort == 64
    if not old:
        assert setup.reads["vcpu->arch.guest_debug_preserved.pstate_ss"].sort == BOOL


def test_the_bug_on_is_an_obligation_with_its_line(program: Program) -> None:
    setup = program.lift("kvm_arm_setup_debug", "vhe")
    (bug,) = [o for o in setup.obligations if o.risk == "bug"]
    text = program.tree.read(bug.file).splitlines()
    assert "BUG_ON" in text[bug.line - 1]


def test_events_name_the_line_in_debug_c(program: Program) -> None:
    lifted = program.lift("kvm_arm_setup_debug", "vhe")
    text = program.tree.read("arch/arm64/kvm/debug.c").splitlines()
    for event in lifted.events:
        assert event.place.file == "arch/arm64/kvm/debug.c"
        if event.lvalue == "hw.mdcr_el2":
            assert "write_sysreg" in text[event.place.line - 1]


def test_debug_ptr_is_the_number_of_its_target(program: Program) -> None:
    reset = program.lift("kvm_arm_reset_debug_ptr", "vhe")
    assert reset.writes == {"vcpu->arch.debug_ptr": t.const(0, 2)}
    assert reset.pointer_writes == {"vcpu->arch.debug_ptr": ((t.TRUE, "vcpu->arch.vcpu_debug_state"),)}
    setup = program.lift("kvm_arm_setup_debug", "nvhe")
    assert at(setup, "vcpu->arch.debug_ptr", guest_debug=0x20001) == 1
    assert at(setup, "vcpu->arch.debug_ptr", guest_debug=0x1) == 0


def test_masks_are_those_of_the_headers(program: Program) -> None:
    assert program.constants["MDCR_EL2_HPMN_MASK"] == 0x1F
    assert program.constants["MDCR_EL2_TDA"] == 1 << 9
    assert program.constants["DBG_SPSR_SS"] == 1 << 21


@pytest.mark.parametrize("mode", HOSTS)
def test_a_setup_that_writes_no_mdcr_el2_has_the_behaviours_of_the_other_functions(
    program: Program, mode: EpochMode
) -> None:
    tree = program.tree
    assert isinstance(tree, KernelTree)
    functions = {name: program.lift(name, mode.value) for name in program.functions()}
    setup = functions["kvm_arm_setup_debug"]
    less = {name: value for name, value in setup.writes.items() if name != "vcpu->arch.mdcr_el2"}
    broken = {**functions, "kvm_arm_setup_debug": replace(setup, writes=less)}
    binding, signs = Binding.of(program), read(tree)
    right = resolve(tree, mode, functions, binding, signs)
    assert resolve(tree, mode, broken, binding, signs).kernel == right.kernel
