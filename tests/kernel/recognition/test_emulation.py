"""What is read of an access that is skipped as soon as it is decoded, before v5.0, on C of our own."""

from __future__ import annotations

import pytest

from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import EPOCHS, Mode
from formal.kernel.lift.snippet import snippet
from formal.kernel.recognition.emulation import Emulation
from formal.kernel.recognition.rules import REQUESTS, SETUP
from formal.kernel.recognition.runloop import RunLoop
from formal.kernel.recognition.skeleton import skeleton
from formal.logic.terms import Not

KERNEL = EPOCHS["E3a"].kernel(Mode.NVHE)
SKIPS = "if (!valid(vcpu)) return 1; kvm_skip_instr(vcpu); return 0;"
ABORT = (
    "int ret = decode_hsr(vcpu); if (ret) return ret; if (bus(vcpu)) return 0; kvm_handle_mmio_return(vcpu); return 1;"
)


def broken(decode: str = SKIPS, abort: str = ABORT) -> list[str]:
    """The rules that functions with these bodies break."""
    text = f"""
    struct kvm_vcpu {{ int x; }};
    int valid(struct kvm_vcpu *vcpu); int bus(struct kvm_vcpu *vcpu); int kvm_handle_mmio_return(struct kvm_vcpu *vcpu);
    void kvm_skip_instr(struct kvm_vcpu *vcpu);
    static int decode_hsr(struct kvm_vcpu *vcpu) {{ {decode} }}
    int io_mem_abort(struct kvm_vcpu *vcpu) {{ {abort} }}
    """
    rules = Emulation(snippet(text), KERNEL, {})._decoded("kvm_skip_instr")
    return [rule.says for rule in rules if Z3Solver(Z3Terms()).satisfiable(Not(rule.holds))]


def test_it_is_skipped_exactly_if_it_can_be_decoded() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    ("edit", "says"),
    [({"decode": "if (!valid(vcpu)) return 1; return 0;"}, "it calls nothing"),
     ({"decode": "kvm_skip_instr(vcpu); if (!valid(vcpu)) return 1; return 0;"}, "under the condition"),
     ({"decode": SKIPS.replace("kvm_skip_instr(vcpu);", "if (vcpu->x) kvm_skip_instr(vcpu);")}, "under the condition"),
     ({"abort": f"kvm_skip_instr(vcpu); {ABORT}"}, "io_mem_abort() calls"),
     ({"abort": ABORT.replace("if (ret) return ret;", "")}, "only for what is decoded"),
     ({"abort": ABORT.replace("return ret;", "return 1;")}, "the answer of decode_hsr()")],
)  # fmt: skip
def test_a_wrong_one_is_told(edit: dict[str, str], says: str) -> None:
    assert any(says in line for line in broken(**edit))


FINDS = """r = find_reg(params, own, n); if (!r) r = find_reg(params, sys_reg_descs, 9);
if (r) { if (r->access(vcpu, params, r)) { kvm_skip_instr(vcpu); return 1; } } kvm_inject_undefined(vcpu); return 1;"""


def broken_access(body: str) -> list[str]:
    """The rules that a function breaks which looks for an entry and accesses the register."""
    text = f"""
    struct kvm_vcpu {{ int x; }}; struct sys_reg_params {{ int is_write; }};
    struct sys_reg_desc {{
        _Bool (*access)(struct kvm_vcpu *, struct sys_reg_params *, const struct sys_reg_desc *);
    }};
    static const struct sys_reg_desc sys_reg_descs[9], others[9];
    const struct sys_reg_desc *find_reg(struct sys_reg_params *, const struct sys_reg_desc *, unsigned n);
    void kvm_skip_instr(struct kvm_vcpu *vcpu); void kvm_inject_undefined(struct kvm_vcpu *vcpu);
    int perform_access(struct kvm_vcpu *vcpu, struct sys_reg_params *params, const struct sys_reg_desc *own, unsigned n)
    {{ const struct sys_reg_desc *r; {body} }}
    """
    rules = Emulation(snippet(text), KERNEL, {})._accesses("kvm_skip_instr")
    return [rule.says for rule in rules if Z3Solver(Z3Terms()).satisfiable(Not(rule.holds))]


def test_what_looks_for_an_entry_may_access_it() -> None:
    assert broken_access(FINDS) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("if (r->access(vcpu, params, r))", "r->access(vcpu, params, r); if (vcpu->x)", "calls kvm_skip_instr()"),
     ("kvm_skip_instr(vcpu); return 1;", "kvm_skip_instr(vcpu);", "calls kvm_inject_undefined()"),
     ("kvm_skip_instr(vcpu); return 1;", "return 1;", "calls *access"),
     ("if (r) {", "if (r && vcpu->x) {", "calls *access()"),
     ("sys_reg_descs, 9", "others, 9", "of the entry that is found")],
)  # fmt: skip
def test_a_wrong_access_is_told(old: str, new: str, says: str) -> None:
    assert any(says in line for line in broken_access(FINDS.replace(old, new)))


KEEPS = "struct kvm_vcpu_arch { _Bool power_off; }; struct kvm_vcpu { struct kvm_vcpu_arch arch; int x; };"


@pytest.mark.parametrize(
    ("before", "holds"),
    [("if (vcpu->arch.power_off) return 0;", True), ("if (vcpu->arch.power_off && vcpu->x) return 0;", False),
     ("if (kvm_request_pending(vcpu)) return 0;", True), ("if (vcpu->x) return 0;", False), ("", False),
     ("kvm_request_pending(vcpu); if (vcpu->arch.power_off) return 0;", False)],
)  # fmt: skip
def test_what_keeps_from_an_entry(before: str, holds: bool) -> None:
    """A request; where none is asked for, that the vCPU is turned off."""
    text = f"""{KEEPS} int kvm_request_pending(struct kvm_vcpu *vcpu); void kvm_arm_setup_debug(struct kvm_vcpu *vcpu);
    int kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *vcpu) {{ {before} kvm_arm_setup_debug(vcpu); return 1; }}"""
    program = snippet(text)
    f = skeleton(program, "kvm_arch_vcpu_ioctl_run", "nvhe", {*REQUESTS, SETUP})
    rule = RunLoop(program, KERNEL, {})._asked(f, f.named(SETUP)[0])
    assert Z3Solver(Z3Terms()).satisfiable(Not(rule.holds)) is not holds
