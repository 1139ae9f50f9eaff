"""The calls around debug.c: what a kernel does is accepted, and each wrong edit of it is told with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import EPOCHS, HOSTS, Kernel, Mode
from formal.kernel.compare import tables
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.lift.snippet import snippet
from formal.kernel.model.binding import UNMODELLED, flags_of
from formal.kernel.recognition.runloop import rules
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.logic.terms import Not
from formal.mutate.operators import Edit
from formal.mutate.sweep import Outcome, Site, Sweep
from tests.kernel.conftest import tree_path

ARM, SYS_REGS, HANDLE_EXIT = f"{KVM}/arm.c", f"{KVM}/sys_regs.c", f"{KVM}/handle_exit.c"
# name: file, what is replaced, by what, part of the sentence that tells it
BROKEN: dict[str, tuple[str, str, str, str]] = {
    "setup not called": (ARM, "\t\tkvm_arm_setup_debug(vcpu);\n", "", "kvm_arch_vcpu_ioctl_run() calls"),
    "setup only sometimes": (ARM, "\t\tkvm_arm_setup_debug(vcpu);",
                             "\t\tif (vcpu->cpu)\n\t\t\tkvm_arm_setup_debug(vcpu);",
                             "under the condition of"),
    "clear before the guest runs": (ARM, "\t\tkvm_arm_setup_debug(vcpu);",
                                    "\t\tkvm_arm_setup_debug(vcpu);\n\t\tkvm_arm_clear_debug(vcpu);", "calls"),
    "clear through a pointer": (
        ARM, "\t\tkvm_arm_setup_debug(vcpu);",
        "\t\tkvm_arm_setup_debug(vcpu);\n\t\t{ void (*f)(struct kvm_vcpu *) = kvm_arm_clear_debug; f(vcpu); }",
        "calls"),
    "setup between rounds": (ARM, "\twhile (ret > 0) {\n", "\tfor (; ret > 0; kvm_arm_setup_debug(vcpu)) {\n", "calls"),
    "syndrome not told": (HANDLE_EXIT, "\trun->debug.arch.hsr = lower_32_bits(esr);\n", "",
                          "tells user space the syndrome"),
    "half of the syndrome told twice": (HANDLE_EXIT, "hsr_high = upper_32_bits(esr)", "hsr_high = lower_32_bits(esr)",
                                        "tells user space the upper half of the syndrome"),
    "upper half not said to be valid": (HANDLE_EXIT, "\trun->flags = KVM_DEBUG_ARCH_HSR_HIGH_VALID;\n", "",
                                        "tells user space the upper half of the syndrome"),
    "address told of breakpoints": (HANDLE_EXIT, "case ESR_ELx_EC_WATCHPT_LOW:\n\t\trun",
                                    "case ESR_ELx_EC_BREAKPT_LOW:\n\t\trun", "the address that met a watchpoint"),
    "interrupts on": (ARM, "\t\tkvm_arm_setup_debug(vcpu);", "\t\tkvm_arm_setup_debug(vcpu);\n\t\tlocal_irq_enable();",
                      "interrupts are off"),
    "interrupts off only sometimes": (ARM, "\t\tlocal_irq_disable();",
                                      "\t\tif (vcpu->cpu)\n\t\t\tlocal_irq_disable();", "interrupts are off"),
    "interrupts on after all": (ARM, "\t\tkvm_pmu_flush_hwstate(vcpu);\n\n\t\tlocal_irq_disable();",
                                "\t\tlocal_irq_disable();\n\t\tif (vcpu->cpu)\n\t\t\tlocal_irq_enable();",
                                "interrupts are off"),
    "another vCPU from the second turn on": (ARM, "\t\tret = handle_exit(vcpu, ret);\n\t}",
                                             "\t\tret = handle_exit(vcpu, ret);\n\t\tvcpu = vcpu + 1;\n\t}",
                                             "kvm_arch_vcpu_ioctl_run() calls"),
    "entered in spite of a request": (ARM, "ret <= 0 || kvm_vcpu_exit_request(vcpu, &ret)",
                                      "ret <= 0 && kvm_vcpu_exit_request(vcpu, &ret)", "no request is pending"),
    "adjustment lost": (ARM, "\t\tkvm_call_hyp(__kvm_adjust_pc, vcpu);", "\t\t;", "commits a pending adjustment"),
    "debug_ptr not set": (ARM, "\tkvm_arm_reset_debug_ptr(vcpu);\n", "", "it calls nothing"),
    "first run skipped": (ARM, "if (likely(vcpu_has_run_once(vcpu)))", "if (unlikely(!vcpu_has_run_once(vcpu)))",
                          "before the first run"),
    "an answer to writes": (SYS_REGS, "\tif (!params.is_write)\n\t\tvcpu_set_reg(vcpu, Rt, params.regval);\n\treturn",
                            "\tif (params.is_write)\n\t\tvcpu_set_reg(vcpu, Rt, params.regval);\n\treturn",
                            "gives an answer"),
    "the access is not performed": (SYS_REGS, "\tif (likely(r)) {\n\t\tperform_access(vcpu, params, r);\n\t\treturn",
                                    "\tif (likely(r)) {\n\t\treturn", "performs the access"),
    "reset to another value": (f"{KVM}/sys_regs.h", "__vcpu_sys_reg(vcpu, r->reg) = r->val;",
                               "__vcpu_sys_reg(vcpu, r->reg) = r->val + 1;", "stores the entry's value"),
    "no put before the reset": (f"{KVM}/reset.c", "\tif (loaded)\n\t\tkvm_arch_vcpu_put(vcpu);", "\t;",
                                "kvm_reset_vcpu() calls"),
    "loaded twice": (f"{KVM}/reset.c", "\tif (loaded)\n\t\tkvm_arch_vcpu_load", "\tkvm_arch_vcpu_load",
                     "under the condition of"),
    "host saved as guest": (f"{KVM}/hyp/vhe/switch.c", "sysreg_save_host_state_vhe(host_ctxt);",
                            "sysreg_save_host_state_vhe(&vcpu->arch.ctxt);", "host_ctxt, always"),
    "not skipped": (SYS_REGS, "if (likely(r->access(vcpu, params, r)))\n\t\tkvm_incr_pc(vcpu);",
                    "r->access(vcpu, params, r);", "perform_access() calls"),
    "skipped when refused": (SYS_REGS, "if (likely(r->access", "if (unlikely(!r->access", "under the condition of"),
    "PC changed twice": (f"{KVM}/hyp/exception.c", "\t\tvcpu_clear_flag(vcpu, INCREMENT_PC);\n", "",
                         "clears what it has done"),
    "an exception is followed by a skip": (f"{KVM}/hyp/exception.c", "vcpu_clear_flag(vcpu, EXCEPT_MASK)",
                                           "vcpu_set_flag(vcpu, EXCEPT_MASK)", "clears what it has done"),
    "a register is not reset": (SYS_REGS, "vcpu_debug_state.dbg_bvr[rd->CRm] = rd->val;", "vcpu_debug_state;",
                                "reset_bvr() changes its own register"),
    "skipped though nothing was accessed": (f"{KVM}/mmio.c", "!vcpu->mmio_needed || ", "!vcpu->mmio_needed && ",
                                            "exactly when an access is completed"),
    "an access is completed again": (f"{KVM}/mmio.c", "\tvcpu->mmio_needed = 0;\n", "", "it calls kvm_incr_pc"),
    "an access stays pending": (f"{KVM}/mmio.c", "\tvcpu->mmio_needed = 0;", "\tvcpu->mmio_needed = 1;",
                                "an access is completed once"),
    "completed after other exits": (ARM, "run->exit_reason == KVM_EXIT_MMIO", "run->exit_reason != KVM_EXIT_MMIO",
                                    "exactly after KVM_EXIT_MMIO"),
    "a put vCPU counts as loaded": (ARM, "\tvcpu->cpu = -1;\n", "", "notes where the vCPU is loaded"),
}  # fmt: skip
TABLES: dict[str, tuple[str, str, str, str]] = {
    "MDSCR_EL1 ignored": (SYS_REGS, "SYS_MDSCR_EL1), trap_debug_regs", "SYS_MDSCR_EL1), trap_raz_wi", "access"),
    "MDCCINT_EL1 kept as MDSCR_EL1": (SYS_REGS, "trap_debug_regs, reset_val, MDCCINT_EL1",
                                      "trap_debug_regs, reset_val, MDSCR_EL1", "register of the model"),
    "wrong reset value": (SYS_REGS, "trap_debug_regs, reset_val, MDSCR_EL1, 0",
                          "trap_debug_regs, reset_val, MDSCR_EL1, 1",
                          "val = 1"),
    "wrong kind": (SYS_REGS, "trap_wcr, reset_wcr", "trap_wvr, reset_wcr", "access = trap_wvr"),
    "OS lock not checked": (SYS_REGS, ".set_user = set_oslsr_el1, }", "}", "set_user"),
    "step not reported": (HANDLE_EXIT, "[ESR_ELx_EC_SOFTSTP_LOW]= kvm_handle_guest_debug,", "", "software step"),
    "another exit reported": (HANDLE_EXIT, "[ESR_ELx_EC_WFx]\t= kvm_handle_wfx",
                              "[ESR_ELx_EC_WFx]\t= kvm_handle_guest_debug",
                              "exception class 0x1"),
}  # fmt: skip


def kernel_of(program: Program, mode: Mode) -> Kernel:
    """The behaviours that the rules depend on, which a test of the whole command resolves from the tree."""
    old = "PATCHLEVEL = 10" in program.tree.read("Makefile")
    kernel = EPOCHS["E4s" if old else "E8s"].kernel(mode)
    return kernel.but(guards_pmuserenr=program.defines("kvm_set_pmuserenr", mode.value, f"{KVM}/pmu.c"))


def broken(program: Program, mode: Mode) -> list[str]:
    """The rules that a tree breaks."""
    solver = Z3Solver(Z3Terms(), 60)
    flags = {**flags_of(program.tree), **flags_of(program.tree, UNMODELLED)}
    found = [r for r in rules(program, kernel_of(program, mode), flags) if solver.satisfiable(Not(r.holds))]
    return [f"{r.file}:{r.line}: {r.says}" for r in found]


@pytest.mark.parametrize("mode", HOSTS)
def test_every_rule_holds_in_a_real_kernel(program: Program, mode: Mode) -> None:
    assert broken(program, mode) == []


@pytest.mark.parametrize("mode", HOSTS)
def test_the_tables_are_as_the_specification_takes_them(program: Program, mode: Mode) -> None:
    assert tables.check(program, kernel_of(program, mode)) == []


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep(tree_path("6.1"), Mode.VHE) as made:
        yield made


def outcome(sweep: Sweep, file: str, old: str, new: str) -> Outcome:
    """What becomes of an edit of a function or table."""
    text = sweep.tree.read(file)
    offset = text.index(old)
    defined = re.findall(r"(?m)^[a-z_][\w *]*?\b(\w+)(?:\(|\[\] = )", text[: offset + len(old)])
    function = "" if text[:offset].rindex("\n}") < text[:offset].rfind("[] = {") else defined[-1]
    return sweep.outcome(Site(file, Edit("by hand", function, text.count("\n", 0, offset) + 1, offset, old, new)))


@pytest.mark.parametrize("name", BROKEN | TABLES)
def test_a_wrong_edit_is_told_with_its_place(name: str, sweep: Sweep) -> None:
    file, old, new, says = (BROKEN | TABLES)[name]
    found = outcome(sweep, file, old, new)
    assert found.kind == "differs" and says in found.reason, found
    assert re.match(r"arch/arm64/kvm/[\w/-]+\.[ch]:\d+: ", found.reason)


def test_a_table_that_is_gone_is_refused(sweep: Sweep) -> None:
    found = outcome(sweep, HANDLE_EXIT, "static exit_handle_fn arm_exit_handlers", "static exit_handle_fn other")
    assert found.kind == "refused" and "arm_exit_handlers" in found.reason


VCPU = "struct kvm_vcpu { int x; int y; }; void g(void); int h(struct kvm_vcpu *v); int i(int *p);\n"


def calls(body: str, watched: str = "g h") -> list[tuple[str, str]]:
    program = snippet(f"{VCPU}int f(struct kvm_vcpu *vcpu) {{ {body} return 0; }}")
    return [(c.name, str(c.guard)) for c in skeleton(program, "f", "vhe", watched.split()).calls]


def test_calls_have_conditions() -> None:
    assert calls("if (vcpu->x) g();") == [("g", "(not (= vcpu->x 0x0))")]
    assert calls("if (h(vcpu)) return 1; g();")[1] == ("g", "(= h()#2 0x0)")


def test_a_call_may_change_what_the_next_condition_reads() -> None:
    (_, first), (_, second) = calls("if (vcpu->x) g(); h(vcpu); if (vcpu->x) g();", "g")
    assert first != second


def test_a_local_variable_changes_only_if_its_address_is_given_away() -> None:
    (_, guard) = calls("int n = 1; h(vcpu); if (n) g();", "g")[0]
    assert guard == "True"
    (_, guard) = calls("int n = 1; i(&n); if (n) g();", "g")[0]
    assert guard != "True"


def test_loops_are_entered_from_any_state() -> None:
    (_, inside), (_, after) = calls(
        "int n = 0; while (n < 3) { if (n == 2) continue; g(); n++; } if (n == 0) g();", "g"
    )
    assert "n#" in inside and "n#" in after


def test_a_return_from_a_loop_is_no_way_to_what_follows() -> None:
    (_, guard) = calls("while (vcpu->x) { if (vcpu->y) return 1; } g();", "g")[0]
    assert guard != "True"


def test_what_is_not_understood_is_anything_unless_a_call_is_inside() -> None:
    assert calls("vcpu->x = (int){ 3 }; g();") == [("g", "True")]
    with pytest.raises(NotUnderstoodError):
        calls("vcpu->x = (int)(double)h(vcpu); again: g(); if (vcpu->x) goto again;")
