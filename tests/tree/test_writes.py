"""What a place that the search by names finds may write: less than its name says, never less than it does."""

from __future__ import annotations

import pytest

from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gaps
from formal.kernel.recognition.scan import check
from formal.kernel.recognition.writers import knows
from formal.kernel.source.tree import KVM
from formal.properties import CLAIMS
from formal.tree.writes import Effects, places
from tests.kernel.edited import Copy, copy_of

ARM = f"{KVM}/arm.c"
END = '\nearly_param("kvm-arm.mode"'
ALL = tuple(claim.name for claim in CLAIMS)
# a function of one statement: what it may change of the state
WRITES: dict[str, set[str]] = {
    "v->arch.mdcr_el2 = x;": {"mdcr_el2"},
    "poke(&v->arch.mdcr_el2);": {"mdcr_el2"},
    "poke((u64 *)((unsigned long)&v->arch.mdcr_el2 + 0));": {"mdcr_el2"},
    "poke_at((u64)&v->arch.mdcr_el2);": {"mdcr_el2"},
    "smp_call_function_single(0, called, &v->arch.mdcr_el2, 1);": {"mdcr_el2"},
    "*vcpu_cpsr(v) |= DBG_SPSR_SS;": {"pstate.SS"},
    "*vcpu_cpsr(v) = x;": {"pstate.SS", "pstate.D"},
    "unsigned long *p = vcpu_cpsr(v); *p = x;": {"pstate.SS", "pstate.D"},
    "memset(&v->arch.ctxt, 0, sizeof(v->arch.ctxt));": {"mdscr_el1", "pstate.SS", "steps"},
    "*vcpu_pc(v) += 4;": {"steps", "guest_pstate_ss"},
    "kvm_skip_instr(v);": {"steps", "guest_pstate_ss", "pstate.SS"},
    "kvm_incr_pc(v);": {"adjust_pc"},
    "v->arch.iflags = x;": {"debug_dirty", "adjust_pc"},
    "write_sysreg(x, mdcr_el2);": {"hw_mdcr_el2"},
    "vcpu_write_sys_reg(v, x, (int)x);": {"mdscr_el1", "oslsr_el1"},
    "vcpu_write_sys_reg(v, x, PMEVCNTR0_EL0 + (int)x);": {"mdscr_el1", "oslsr_el1"},
    "poke(&v->arch.ctxt.sys_regs[x]);": {"mdscr_el1", "oslsr_el1"},
    "poke(&v->arch.ctxt.sys_regs[MDSCR_EL1]);": {"mdscr_el1"},
    "poke(v->arch.ctxt.sys_regs + x);": {"mdscr_el1", "oslsr_el1"},
    "struct kvm_cpu_context *c = &v->arch.ctxt; poke(&c->sys_regs[x]);": {"mdscr_el1", "oslsr_el1"},
    "struct kvm_cpu_context *c = &v->arch.ctxt; poke(c->sys_regs + x);": {"mdscr_el1", "oslsr_el1"},
    "struct kvm_cpu_context *c = &v->arch.ctxt; u64 *r = c->sys_regs; r[x] = 1;": {"mdscr_el1", "oslsr_el1"},
    "kept = &v->arch.ctxt; poke((u64 *)kept + x); SAVE(kept->sys_regs, APIA);": {"mdscr_el1", "oslsr_el1"},
    "memset(v->arch.ctxt.sys_regs, 0, x);": {"mdscr_el1", "oslsr_el1"},
    "u64 *r = &v->arch.ctxt.sys_regs[x]; *r = x;": {"mdscr_el1", "oslsr_el1"},
    "rest(&v->arch, &v->arch.ctxt.sys_regs[x]);": {"mdscr_el1", "oslsr_el1"},
    "(*vcpu_cpsr(v)) = x;": {"pstate.SS", "pstate.D"},
    "WRITE_ONCE(__vcpu_sys_reg(v, MDSCR_EL1), x);": {"mdscr_el1"},
    "STORE(v->arch.mdcr_el2, x);": {"mdcr_el2"},
    "STORE(__vcpu_sys_reg(v, x), x);": {"mdscr_el1", "oslsr_el1"},
    "++v->arch.iflags;": {"debug_dirty", "adjust_pc"},
    "MINE(v) = x;": {"mdcr_el2"},
    "PUT(w, x);\n\tv->arch.mdcr_el2 = x;": {"mdcr_el2"},
    "if (!is_protected_kvm_enabled()) v->arch.mdcr_el2 = x;": {"mdcr_el2"},
}
# the same, and nothing else
ONLY: dict[str, set[str]] = {
    "*vcpu_cpsr(v) &= ~(u64)PSR_MODE_MASK;": {"pstate.EL"},
    "*vcpu_cpsr(v) = (*vcpu_cpsr(v) & ~(u64)0x1f) | (x & 0x1f);": {"pstate.EL", "pstate.nRW"},
    "set_bit(0, &v->kvm->arch.flags);": set(),
    "w->pstate = x;": set(),
    "w->mdcr_el2 = x; poke(&w->mdcr_el2);": set(),
    "__vcpu_sys_reg(v, PMEVCNTR0_EL0 + (x & 31)) = x;": set(),
    "SAVE(v->arch.ctxt.sys_regs, APIA); kept = &v->arch.ctxt;": set(),
    "OTHER(w) = x;": set(),
    "PUT(w, x);": set(),
    "if (is_protected_kvm_enabled()) v->arch.mdcr_el2 = x;": set(),
}
STATEMENTS = {**WRITES, **ONLY}
HELPERS = """
struct other_state { u64 pstate, mdcr_el2; };
#define MINE(v) ((v)->arch.mdcr_el2)
#define OTHER(v) ((v)->mdcr_el2)
#define SAVE(regs, key) (regs[key ## KEYLO_EL1] = 1)
static struct kvm_cpu_context *kept;
#define STORE(at, x) ((at) = (x))
#define PUT(v, x) ((v)->mdcr_el2 = (x))
static noinline void poke(u64 *at) { *at = 1; }
static noinline void rest(struct kvm_vcpu_arch *a, u64 *at) { at[0] = 1; }
static noinline void poke_at(u64 at) { *(u64 *)at = 1; }
static void called(void *at) { *(u64 *)at = 1; }
"""


def added(number: int, statement: str) -> str:
    arguments = "struct kvm_vcpu *v, u64 x, struct other_state *w"
    return f"void added{number}({arguments})\n{{\n\t{statement}\n}}\n"


TEXT = HELPERS + "".join(added(number, statement) for number, statement in enumerate(STATEMENTS))


@pytest.fixture(scope="module")
def copy() -> Copy:
    return copy_of("6.1")


@pytest.fixture(scope="module")
def written(copy: Copy) -> dict[str, frozenset[str]]:
    """What each of the functions may write, by its statement, as far as any gap is in it."""
    found: dict[str, frozenset[str]] = {}
    with copy.edited(ARM, {END: f"{TEXT}{END}"}):
        gaps = Gaps(noted=True)
        check(copy.tree, knows, (DEBUG_C,), gaps=gaps)
        report = copy.read(Mode.VHE)
        assert report.system is not None
        effects = Effects.of(copy.tree, Mode.VHE, has=report.system.state().values)
        assert effects.typed is not None
        names = {f"added{number}": statement for number, statement in enumerate(STATEMENTS)}
        names |= {"macro MINE": "MINE(v) = x;", "macro OTHER": "OTHER(w) = x;", "macro PUT": "PUT(w, x);"}
        for gap in gaps.found:
            (function,) = gap.of
            statement = names[function]
            found[statement] = found.get(statement, frozenset()) | effects.at(gap)
    return found


@pytest.mark.parametrize("statement", WRITES)
def test_a_place_may_write_what_it_writes(written: dict[str, frozenset[str]], statement: str) -> None:
    assert written[statement] >= WRITES[statement]


@pytest.mark.parametrize("statement", ONLY)
def test_a_place_of_another_name_is_none(written: dict[str, frozenset[str]], statement: str) -> None:
    assert written.get(statement, frozenset()) == ONLY[statement]


def test_another_structure_with_such_a_member_costs_nothing(copy: Copy) -> None:
    edits = {END: f"{HELPERS}{added(1, 'w->pstate = x; w->mdcr_el2 = x;')}{END}"}
    report = copy.report(ARM, edits, Mode.VHE, ALL)
    assert not report.gaps and not [row for row in report.rows if row.verdict == "UNKNOWN"]


def test_the_level_of_the_guest_is_its_own(copy: Copy) -> None:
    """A function that changes PSTATE's mode loses no claim; one that changes SS as well loses those about steps."""
    mode, step = "*vcpu_cpsr(v) &= ~(u64)PSR_MODE_MASK;", "*vcpu_cpsr(v) &= ~(u64)(PSR_MODE_MASK | DBG_SPSR_SS);"
    before = copy.report(ARM, {END: END}, Mode.VHE, ALL)
    levels = copy.report(ARM, {END: f"{HELPERS}{added(1, mode)}{END}"}, Mode.VHE, ALL)
    assert levels.gaps
    assert {r.check: r.verdict for r in levels.rows} == {r.check: r.verdict for r in before.rows}
    steps = copy.report(ARM, {END: f"{HELPERS}{added(1, step)}{END}"}, Mode.VHE, ALL)
    lost = {r.check for r in steps.rows if r.verdict == "UNKNOWN"}
    assert "one_step_one_instruction_if_undisturbed" in lost and "os_registers" not in lost


def test_state_that_is_kept_elsewhere_is_taken_by_name(copy: Copy, written: dict[str, frozenset[str]]) -> None:
    """A place that is called like a variable which this tree does not keep where it is known to be."""
    effects = Effects.of(copy.tree, Mode.VHE)
    assert "debug_owner" in effects._elsewhere and "mdcr_el2" not in effects._elsewhere
    assert places("debug_owner") >= {"debug_owner"}
