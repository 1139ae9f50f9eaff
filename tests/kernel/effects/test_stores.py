"""A write is found whatever its spelling, by its types; a read, or a write of something else, is not reported."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from formal.kernel.effects import files
from formal.kernel.effects.reading import Reader
from formal.kernel.effects.solve import Solver
from formal.kernel.effects.types import ALL, Effect, Facts
from formal.kernel.model.binding import UNMODELLED, flags_of, modelled
from formal.kernel.source.tree import KVM, KernelTree
from tests.kernel.conftest import tree_path

FILE = f"{KVM}/debug.c"  # a file of the host; the functions of a test are added to it
V = "vcpu->arch."
REGS = f"{V}ctxt.sys_regs"
PSTATE = f"{V}ctxt.regs.pstate"
BANKS = {f"{V}vcpu_debug_state", f"{V}external_debug_state", f"{V}host_debug_state.regs"}
DIRTY = f"{V}iflags#debug_dirty"

STORES: dict[str, set[str]] = {
    "v->arch.mdcr_el2 = 0;": {f"{V}mdcr_el2"},
    "v->arch.mdcr_el2 |= 1;": {f"{V}mdcr_el2"},
    "(v->arch.mdcr_el2) |= 1;": {f"{V}mdcr_el2"},
    "v->guest_debug++;": {"vcpu->guest_debug"},
    "--v->guest_debug;": {"vcpu->guest_debug"},
    "WRITE_ONCE(v->guest_debug, 0);": {"vcpu->guest_debug"},
    "smp_store_release(&v->guest_debug, 0);": {"vcpu->guest_debug"},
    "xchg(&v->arch.mdcr_el2, 0);": {f"{V}mdcr_el2"},
    "swap(x, v->guest_debug);": {"vcpu->guest_debug"},
    "__clear_bit(0, (unsigned long *)&v->guest_debug);": {"vcpu->guest_debug"},
    "set_bit(0, (unsigned long *)&v->arch.mdcr_el2);": {f"{V}mdcr_el2"},
    "u64 *r = &v->arch.mdcr_el2; *r = 0;": {f"{V}mdcr_el2"},
    "u64 *r = &v->arch.mdcr_el2; r[0] |= 4;": {f"{V}mdcr_el2"},
    "keep = &v->arch.mdcr_el2; *keep = 1;": {f"{V}mdcr_el2"},
    "poke(&v->arch.mdcr_el2);": {f"{V}mdcr_el2"},
    "poke((u64 *)((char *)v + offsetof(struct kvm_vcpu, arch.mdcr_el2)));": {f"{V}mdcr_el2"},
    "*place(v) = 0;": {f"{V}mdcr_el2"},
    "get_user(v->arch.mdcr_el2, (u64 __user *)x);": {f"{V}mdcr_el2"},
    "memset(&v->arch, 0, sizeof(v->arch));": {f"{V}mdcr_el2", PSTATE, DIRTY},
    "whole(&v->arch);": {f"{V}mdcr_el2", PSTATE, DIRTY},
    "kvm_read_guest(v->kvm, x, vcpu_gp_regs(v), 280);": {PSTATE},
    "copy_from_user(&v->arch.ctxt, (void __user *)x, x);": {PSTATE, f"{REGS}[MDSCR_EL1]"},
    "v->arch.ctxt = *other;": {PSTATE, f"{REGS}[MDSCR_EL1]"},
    "*other = v->arch.ctxt;": {PSTATE, f"{REGS}[MDSCR_EL1]"},
    "v->arch.ctxt.regs = old;": {PSTATE},
    "((union other_name *)&v->arch.mdcr_el2)->low = 0;": {f"{V}mdcr_el2"},
    "struct unrelated *u = (void *)v; u->all[x] = 0;": {f"{V}mdcr_el2"},
    "((struct unrelated *)&v->arch)->all[x] = 0;": {f"{V}mdcr_el2"},
    "u64 *u = given(v); u[x] = 0;": {f"{V}mdcr_el2"},
    "TRAPS(v) = 0;": {f"{V}mdcr_el2"},
    "PASTED(v, mdcr) = 0;": {f"{V}mdcr_el2"},
    "v->arch.external_debug_state.dbg_bcr[x] = 0;": {f"{V}external_debug_state"},
    "v->arch.debug_ptr->dbg_bcr[x] = 0;": BANKS,
    "v->arch.debug_ptr = NULL;": {f"{V}debug_ptr"},
    "vcpu_write_sys_reg(v, x, MDSCR_EL1);": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_write_sys_reg(v, x, MDSCR_EL1 + 0);": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_write_sys_reg(v, x, which(x));": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_write_sys_reg(v, x, x ? ESR_EL1 : MDSCR_EL1);": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_write_sys_reg(v, x, (u8)(which(x) + 256));": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_write_sys_reg(v, x, any(x));": {f"{REGS}[MDSCR_EL1]", f"{REGS}[OSLSR_EL1]"},
    "vcpu_write_sys_reg(v, x, (int)x);": {f"{REGS}[MDSCR_EL1]", f"{REGS}[OSLSR_EL1]"},
    "ctxt_sys_reg(&v->arch.ctxt, MDSCR_EL1) |= x;": {f"{REGS}[MDSCR_EL1]"},
    "v->arch.ctxt.sys_regs[(int)x] = x;": {f"{REGS}[MDSCR_EL1]", f"{REGS}[OSLSR_EL1]"},
    "u64 *r = v->arch.ctxt.sys_regs; r[x] = 0;": {f"{REGS}[MDSCR_EL1]"},
    "vcpu_clear_flag(v, DEBUG_DIRTY);": {DIRTY},
    "v->arch.iflags = 0;": {DIRTY},
    "v->arch.iflags |= 1 << 4;": {DIRTY},
    "struct kvm_vcpu_arch *a = &v->arch; a->sflags &= ~BIT(5);": {f"{V}sflags#ss_active_pending"},
    "*vcpu_cpsr(v) |= DBG_SPSR_SS;": {PSTATE},
    "unsigned long *p = vcpu_cpsr(v); *p = x;": {PSTATE},
    "*vcpu_pc(v) += 4;": {f"{V}ctxt.regs.pc"},
    "this_cpu_write(mdcr_el2, 0);": {"percpu.mdcr_el2"},
    "write_sysreg(x, mdcr_el2);": {"hw.mdcr_el2"},
    "write_sysreg_s(x, SYS_MDSCR_EL1);": {"hw.mdscr_el1"},
    "write_sysreg_s(x, sys_reg(3, 4, 1, 1, 1));": {"hw.mdcr_el2"},
    "write_sysreg_s(x, sys_reg(2, 0, 0, 15, 7));": {"hw.dbgwcr15_el1"},
    "write_sysreg(x, S2_0_C0_C2_2);": {"hw.mdscr_el1"},
    "sysreg_clear_set(mdscr_el1, 1, 2);": {"hw.mdscr_el1"},
    "WRAPPED(mdcr_el2, x);": {"hw.mdcr_el2"},
    'asm volatile("msr mdscr_el1, %0" : : "r" (x));': {"hw.mdscr_el1"},
    'asm("nop\\n\\tmsr S3_4_C1_C1_1, xzr");': {"hw.mdcr_el2"},
    'asm volatile("str %0, [%1]" : : "r" (x), "r" (&v->arch.mdcr_el2) : "memory");': {f"{V}mdcr_el2"},
    "through(v, poke);": {f"{V}mdcr_el2"},
    "sort(&v->arch.ctxt, 1, sizeof(v->arch.ctxt), NULL, NULL);": {PSTATE},
}  # fmt: skip
READS = [
    "x = v->arch.mdcr_el2;",
    "x = v->arch.mdcr_el2 & v->guest_debug;",
    "x = vcpu_read_sys_reg(v, MDSCR_EL1);",
    "vcpu_write_sys_reg(v, x, SCTLR_EL1);",
    "vcpu_write_sys_reg(v, x, esr_or_far(x));",
    "vcpu_write_sys_reg(v, x, x ? ESR_EL1 : FAR_EL1);",
    "v->arch.ctxt.sys_regs[SCTLR_EL1] = x;",
    "v->arch.ctxt.sys_regs[PMEVCNTR0_EL0 + (x & 31)] = x;",
    "x = *vcpu_cpsr(v) & 1;",
    "x = read_sysreg(mdcr_el2);",
    "v->arch.iflags |= 1 << 7;",
    "v->kvm->arch.flags |= ~0UL;",
    "v->arch.fault.esr_el2 = 0;",
    "/* v->arch.mdcr_el2 = 0; */",
    'asm volatile("mrs %0, mdcr_el2" : "=r" (x));',
    'asm volatile("msr daifset, #2");',
    "write_sysreg_s(x, sys_reg(3, 0, 5, 1, 0));",
    "struct kvm_vcpu_arch *a = kzalloc(sizeof(*a), GFP_KERNEL); x = a->mdcr_el2;",
    "struct kvm_cpu_context own; own.regs.pstate = x;",
    "u64 own = v->arch.mdcr_el2; poke(&own);",
    "look(&v->arch.mdcr_el2);",
    "request_irq(1, looks, 0, NULL, v);",
    "request_threaded_irq(1, looks, looks, 0, NULL, v);",
    "memset(&v->arch.ctxt.fp_regs, 0, sizeof(v->arch.ctxt.fp_regs));",
    "memcpy(&x, &v->arch.mdcr_el2, 8);",
    "mutex_lock(&v->mutex);",
    "kfree(v);",
    "struct unrelated *u = given(v); u->all[x] = 0;",
]
LEVEL = [
    "*vcpu_cpsr(v) &= ~(u64)PSR_MODE_MASK;",
    "u64 mode = x & PSR_MODE_MASK; switch (mode) { case PSR_MODE_EL1t: mode = PSR_MODE_EL2t; break; }"
    " *vcpu_cpsr(v) &= ~(u64)PSR_MODE_MASK; *vcpu_cpsr(v) |= mode;",
    "*vcpu_cpsr(v) = (*vcpu_cpsr(v) & ~(u64)PSR_MODE_MASK) | PSR_MODE_EL1h;",
]  # which change PSTATE.EL
INCLUDES = "".join(f"#include <linux/{name}.h>\n" for name in ("interrupt", "slab", "smp", "sort"))
HELPERS = """
union other_name { u64 all; u32 low; };
static u64 *keep;
#define TRAPS(v) ((v)->arch.mdcr_el2)
#define PASTED(v, r) ((v)->arch.r ## _el2)
#define WRAPPED(r, x) write_sysreg((x) | 1, r)
static noinline void poke(u64 *at) { *at = 1; }
static noinline u64 look(const u64 *at) { return *at; }
static noinline u64 *place(struct kvm_vcpu *v) { return &v->arch.mdcr_el2; }
static noinline int esr_or_far(u64 x) { if (x) return ESR_EL1; return FAR_EL1; }
static noinline int which(u64 x) { return x ? esr_or_far(x) : MDSCR_EL1; }
static noinline int any(u64 x) { return x ? ESR_EL1 : (int)x; }
struct unrelated { u64 all[4000]; };
static noinline void *given(void *at) { return at; }
static noinline void whole(void *at) { memset(at, 0, 8000); }
static irqreturn_t stores(int irq, void *at) { *(u64 *)at = 0; return IRQ_HANDLED; }
static irqreturn_t looks(int irq, void *at) { return *(u64 *)at ? IRQ_HANDLED : IRQ_NONE; }
static void told(void *at) { *(u64 *)at = 0; }
static void told_number(unsigned long at) { *(u64 *)at = 0; }
extern void later(void (*function)(unsigned long), unsigned long data);
static noinline void through(struct kvm_vcpu *v, void (*f)(u64 *)) { f(&v->arch.mdcr_el2); }
"""


@cache
def reader(release: str) -> Reader:
    tree = KernelTree(tree_path(release))
    tree.prepare()
    lvalues = modelled({**flags_of(tree), **flags_of(tree, UNMODELLED)})
    made = Reader(tree.path, files.flags(tree, "host"), "host", lvalues, tree.scratch)
    made.tree = tree  # type: ignore[attr-defined]  # which owns the scratch folder
    return made


@cache
def primitives(release: str) -> dict[str, Facts]:
    """The functions of sys_regs.c, which has vcpu_write_sys_reg()."""
    return reader(release).read(f"{KVM}/sys_regs.c").functions


def effects(statement: str, release: str = "6.1", by: str = "added") -> Iterator[Effect]:
    """What a function with one statement, or another beside it, may write, with the functions that it calls."""
    read, shared = reader(release), primitives(release)
    text = (tree_path(release) / FILE).read_text()
    function = "void added(struct kvm_vcpu *v, u64 x, struct kvm_cpu_context *other, struct user_pt_regs old)"
    read.seen.clear()
    summary = read.read(FILE, f"{text}\n{INCLUDES}{HELPERS}\n{function}\n{{\n{statement}\n}}\n")
    assert summary.errors == ()
    solved = Solver({**shared, **summary.functions}, summary.ranges).solve()
    keys, seen = [k for k in summary.functions if k.startswith(f"{by}@")], set[str]()
    while keys:
        key = keys.pop()
        if key not in seen:
            seen.add(key)
            keys += solved.calls.get(key, ())
            yield from solved.effects.get(key, ())


@pytest.mark.parametrize("statement", STORES)
def test_a_write_is_found(statement: str) -> None:
    assert {e.target for e in effects(statement)} >= STORES[statement]


@pytest.mark.parametrize(
    ("by", "statement"),
    [
        ("stores", "request_irq(1, stores, 0, NULL, &v->arch.mdcr_el2);"),
        ("stores", "request_threaded_irq(1, looks, stores, 0, NULL, &v->arch.mdcr_el2);"),
        ("told", "smp_call_function_single(0, told, &v->arch.mdcr_el2, 1);"),
        ("told_number", "later(told_number, (unsigned long)&v->arch.mdcr_el2);"),
    ],
)
def test_what_is_handed_over_beside_a_function_is_given_to_it(by: str, statement: str) -> None:
    assert {e.target for e in effects(statement, by=by)} == {f"{V}mdcr_el2"}


@pytest.mark.parametrize("statement", READS)
def test_what_does_not_write_modelled_bits_is_not_reported(statement: str) -> None:
    assert list(effects(statement)) == []


def test_an_error_costs_what_calls_its_function(tmp_path: Path) -> None:
    """A body of a header that is not understood is of no account where nothing in the file calls it."""
    read, text = reader("6.1"), (tree_path("6.1") / FILE).read_text()
    header = tmp_path / "odd.h"
    header.write_text('static inline void strange(void) { asm volatile("" : : : "%rax"); }\n')
    for calls in (False, True):
        read.seen.clear()
        does = "strange();" if calls else ""
        found = read.read(FILE, f'{text}\n#include "{header}"\nvoid added(void) {{ {does} }}\n')
        assert any("rax" in error for error in found.errors) is calls


def test_the_bits_that_change_are_told() -> None:
    assert {e.bits for e in effects("v->arch.mdcr_el2 |= 0x300;")} == {0x300}
    assert {e.bits for e in effects("v->arch.mdcr_el2 &= ~0x300ul;")} == {0x300}
    assert {e.bits for e in effects("v->arch.mdcr_el2 = (v->arch.mdcr_el2 & ~0xfful) | (x & 0x1f);")} == {0xFF}
    assert {e.bits for e in effects("v->arch.mdcr_el2 &= ~0x300;")} == {0x300}, (
        "a mask of int is extended with its sign"
    )
    assert {e.bits for e in effects("v->arch.mdcr_el2 &= ~0x300u;")} == {ALL & ~0xFFFFFCFF}
    assert {e.bits for e in effects("v->arch.mdcr_el2 |= (int)x;")} == {ALL}


@pytest.mark.parametrize("statement", LEVEL)
def test_the_mode_in_pstate_is_its_exception_level(statement: str) -> None:
    assert {(e.target, e.bits) for e in effects(statement)} == {(PSTATE, 0b1100)}


def test_an_address_at_el2_is_of_the_object_that_was_given() -> None:
    """What converts an address is called with many, and gives the one that it got."""
    found = effects("u64 *p = kern_hyp_va(place(v)), *q = kern_hyp_va(&v->arch.ctxt.regs.pstate); *p = q != NULL;")
    assert {e.target for e in found} == {f"{V}mdcr_el2"}


def test_another_vcpu_is_not_the_same() -> None:
    """What is kept of another vCPU's register is not kept."""
    found = effects("struct kvm_vcpu *w = (void *)x; v->arch.mdcr_el2 = w->arch.mdcr_el2 & ~1ul;")
    assert {e.bits for e in found} == {ALL}
