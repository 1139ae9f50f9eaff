"""The world switch of one function, in C of our own: what is done on each side of the guest's run; what is refused."""

from __future__ import annotations

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.snippet import snippet
from formal.kernel.model.passage import CODE, Passage, passage, whole
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import Value

BEFORE = """
typedef unsigned int u32; typedef unsigned long long u64;
struct kvm_vcpu_arch { u64 mdcr_el2; u32 flags; u64 other; };
struct kvm_vcpu { struct kvm_vcpu_arch arch; u64 guest_debug; };
u64 __guest_enter(struct kvm_vcpu *vcpu);
u64 elsewhere(struct kvm_vcpu *vcpu);
static u64 get(void) { u64 v; asm volatile("mrs %0, mdcr_el2" : "=r" (v)); return v; }
static void set(u64 v) { asm volatile("msr mdcr_el2, %x0" : : "rZ" (v)); }
static void odd(u64 v) { asm volatile("frobnicate %0" : : "r" (v)); set(v); }
"""
ENTERS, RETURNS = "set(vcpu->arch.mdcr_el2);", "set(get() & 0x1f);"


def sides(before: str = ENTERS, loop: str = "", after: str = RETURNS, between: str = "") -> Passage:
    """The sides of a function that does this before the guest runs, in the rounds around it, and after it has run."""
    body = f"u64 code; {before} again: {between} code = __guest_enter(vcpu); {loop} {after} return code;"
    return passage(snippet(f"{BEFORE}u64 __kvm_vcpu_run(struct kvm_vcpu *vcpu) {{ {body} }}"), "nvhe")


def value(term: t.Term, **given: int) -> Value:
    """A term's value; what is not given is 0."""
    names = {"code": CODE, "here": "hw.mdcr_el2", "wanted": "vcpu->arch.mdcr_el2", "other": "vcpu->arch.other"}
    env = {names[name]: number for name, number in given.items()}
    return evaluate(term, {name: env.get(name, 0) for name in support(term)})


def test_each_side_does_its_own() -> None:
    found = sides(loop="if (code == 2 && vcpu->arch.other) goto again;")
    assert value(found.enters.writes["hw.mdcr_el2"], wanted=7, here=9) == 7
    assert value(found.returns.writes["hw.mdcr_el2"], wanted=7, here=0xFF) == 0x1F
    assert found.enters.returns is found.returns.returns is t.TRUE
    assert found.enters.functions == {"__kvm_vcpu_run", "set"}


def test_what_was_found_before_the_guest_ran_is_found_anew() -> None:
    """A value that a variable of the function holds outlives the guest's run; what memory held does not."""
    found = sides(before="u64 old = get(); set(vcpu->arch.mdcr_el2);", after="set(get() | 1);")
    assert value(found.returns.writes["hw.mdcr_el2"], wanted=7, here=8) == 9


def test_a_round_that_goes_back_is_looked_at_by_itself() -> None:
    found = sides(loop="if (code == 2) { set(0); goto again; }")
    assert found.stored == ("hw.mdcr_el2",)
    assert value(found.again.writes["hw.mdcr_el2"], here=5, code=2) == 0
    assert value(found.returns.writes["hw.mdcr_el2"], here=0xFF, code=2) == 0x1F
    plain = sides(loop="if (code == 2) goto again;")
    assert "hw.mdcr_el2" not in plain.again.writes or value(plain.again.writes["hw.mdcr_el2"], here=5, code=2) == 5


def test_what_is_not_understood_is_left_out_and_named() -> None:
    """It may do anything to what is not modelled; the search for writers says what else it may write."""
    found = sides(before=f"{ENTERS} vcpu->arch.other = 1; elsewhere(vcpu); odd(1); set(vcpu->arch.mdcr_el2);")
    assert found.enters.left_out == {"elsewhere", "odd"}
    assert "odd" not in found.enters.functions
    assert value(found.enters.writes["hw.mdcr_el2"], wanted=7) == 7
    assert found.enters.unknowns_in(found.enters.writes["vcpu->arch.other"])
    assert not found.enters.unknowns_in(found.enters.writes["hw.mdcr_el2"])


@pytest.mark.parametrize(
    ("edits", "says"),
    [({"between": "set(1);", "loop": "if (code) goto again;"}, "backwards"),
     ({"before": "if (vcpu->guest_debug) return 0;"}, "not always"),
     ({"loop": "if (code) code = __guest_enter(vcpu);"}, "not always"),
     ({"loop": "__guest_enter(vcpu);"}, "2 places"),
     ({"before": "struct kvm_vcpu mine; vcpu = &mine;"}, "another vCPU"),
     ({"before": "early: set(1);", "loop": "if (code) goto early;"}, "backwards")],
)  # fmt: skip
def test_what_is_no_world_switch_is_refused(edits: dict[str, str], says: str) -> None:
    with pytest.raises(NotUnderstoodError, match=says):
        sides(**edits)


def test_a_tree_with_a_function_for_rounds_is_not_read_like_this() -> None:
    run = "u64 __kvm_vcpu_run(struct kvm_vcpu *vcpu) { return __guest_enter(vcpu); }"
    assert whole(snippet(f"{BEFORE}{run}"), "vhe")
    assert not whole(
        snippet(f"{BEFORE}static _Bool fixup_guest_exit(struct kvm_vcpu *vcpu) {{ return 0; }}{run}"), "vhe"
    )
