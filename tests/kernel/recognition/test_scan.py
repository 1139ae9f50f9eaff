"""Stores are found whatever the spelling; reads are not reported."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.recognition import indirect, scan
from formal.kernel.recognition.callers import CALLERS, Mentions
from formal.kernel.recognition.scan import check, helpers, scan_assembly, scan_text
from formal.kernel.recognition.writers import OPERATIONS, knows
from formal.kernel.source.tree import KVM
from formal.kernel.text.tokens import tokens

STORES = {
    "vcpu->arch.mdcr_el2 = 0;": ("mdcr_el2", "store"),
    "vcpu->arch.mdcr_el2 |= X;": ("mdcr_el2", "store"),
    "vcpu->guest_debug++;": ("guest_debug", "store"),
    "--v->guest_debug;": ("guest_debug", "store"),
    "u64 *r = &vcpu->arch.mdcr_el2;": ("mdcr_el2", "address"),
    "f(&vcpu->arch.external_debug_state);": ("external_debug_state", "address"),
    "return &v->arch.debug_ptr;": ("debug_ptr", "address"),
    "vcpu->arch.external_debug_state.dbg_bcr[i] = v;": ("external_debug_state", "store"),
    "copy(dst, dbg->dbg_wvr);": ("dbg_wvr", "address"),
    "v[3]->arch.debug_ptr = p;": ("debug_ptr", "store"),
    "vcpu_write_sys_reg(vcpu, x, MDSCR_EL1);": ("sys_regs[MDSCR_EL1]", "store"),
    "vcpu_write_sys_reg(vcpu, f(x, y), r->reg);": ("sys_regs[*]", "store"),
    "__vcpu_sys_reg(vcpu, OSLSR_EL1) &= ~x;": ("sys_regs[OSLSR_EL1]", "store"),
    "u64 *p = &ctxt_sys_reg(ctxt, MDSCR_EL1);": ("sys_regs[MDSCR_EL1]", "address"),
    "vcpu_clear_flag(vcpu, DEBUG_DIRTY);": ("DEBUG_DIRTY", "store"),
    "vcpu->arch.flags |= KVM_ARM64_DEBUG_DIRTY;": ("arch.flags", "store"),
    "vcpu->arch.iflags = 0;": ("arch.iflags", "store"),
    "*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;": ("pstate", "store"),
    "unsigned long *p = vcpu_cpsr(vcpu);": ("pstate", "address"),
    "write_sysreg(x, mdcr_el2);": ("hw.mdcr_el2", "register"),
    "write_sysreg_s(x, SYS_MDSCR_EL1);": ("hw.SYS_MDSCR_EL1", "register"),
    "sysreg_clear_set(mdscr_el1, a, b);": ("hw.mdscr_el1", "register"),
    'asm volatile("msr mdscr_el1, %0" : : "r" (x));': ("hw.mdscr_el1", "assembly"),
    'asm volatile("msr\\tmdcr_el2, %0" : : "r" (x));': ("hw.mdcr_el2", "assembly"),
    'asm("nop\\n\\tmsr S3_4_C1_C1_1, xzr");': ("hw.mdcr_el2", "assembly"),
    'asm(__msr_s(SYS_OSLAR_EL1, "%x0") : : "r" (x));': ("hw.sys_oslar_el1", "assembly"),
    'asm("msr_s " __stringify(SYS_MDSCR_EL1) ", %0" : : "r" (x));': ("hw.sys_mdscr_el1", "assembly"),
    "write_sysreg_s(x, sys_reg(3, 4, 1, 1, 1));": ("hw.mdcr_el2", "register"),
    "write_sysreg_s(x, sys_reg(2, 0, 0, 15, 7));": ("hw.dbgwcr15_el1", "register"),
    "write_sysreg_s(x, sys_reg(op0, op1, crn, crm, op2));": ("hw.sys_reg(op0,op1,crn,crm,op2)", "register"),
    "write_sysreg(x, S2_0_C0_C2_2);": ("hw.mdscr_el1", "register"),
    "memset(&vcpu->arch, 0, sizeof(vcpu->arch));": ("arch", "store"),
    "memcpy(&vcpu->arch.ctxt.regs, x, n);": ("regs", "store"),
    "memcpy(ctxt->sys_regs, x, n);": ("sys_regs", "store"),
    "memset(guest_ctxt, 0, sizeof(*guest_ctxt));": ("guest_ctxt", "store"),
    "vcpu->arch.ctxt = *saved;": ("ctxt", "store"),
    "vcpu->arch.ctxt.regs = old;": ("regs", "store"),
    "ctxt->sys_regs[MDSCR_EL1] |= x;": ("sys_regs[MDSCR_EL1]", "store"),
    "ctxt->sys_regs[i] = x;": ("sys_regs[*]", "store"),
    "__vcpu_assign_sys_reg(vcpu, MDSCR_EL1, 0);": ("sys_regs[MDSCR_EL1]", "store"),
    "__vcpu_rmw_sys_reg(vcpu, r->reg, |=, 1);": ("sys_regs[*]", "store"),
    "*host_data_ptr(host_debug_state.mdcr_el2) = 0;": ("mdcr_el2", "store"),
    "u64 *p = host_data_ptr(host_debug_state.mdcr_el2);": ("mdcr_el2", "address"),
    "x = base + offsetof(struct kvm_vcpu, arch.mdcr_el2);": ("mdcr_el2", "address"),
    "WRITE_ONCE(vcpu->arch.debug_owner, 0);": ("debug_owner", "store"),
    "smp_store_release(&vcpu->guest_debug, 0);": ("guest_debug", "store"),
    "swap(x, vcpu->guest_debug);": ("guest_debug", "store"),
    "__this_cpu_write(mdcr_el2, 0);": ("mdcr_el2", "store"),
    "u64 *regs = c->sys_regs;": ("sys_regs[*]", "address"),
    "(vcpu->arch.mdcr_el2) |= X;": ("mdcr_el2", "store"),
    "__clear_bit(0, (unsigned long *)&v->guest_debug);": ("guest_debug", "address"),
    "this_cpu_inc(kvm_host_data.nr_event_counters);": ("nr_event_counters", "store"),
    "*___ctxt_sys_reg(ctxt, MDSCR_EL1) = 0;": ("sys_regs[MDSCR_EL1]", "store"),
    "u64 *p = __ctxt_sys_reg(ctxt, MDSCR_EL1);": ("sys_regs[MDSCR_EL1]", "address"),
    "vcpu_write_sys_reg(vcpu, 0, MDSCR_EL1 + 0);": ("sys_regs[*]", "store"),
    "__vcpu_rmw_sys_reg(vcpu, (MDSCR_EL1), |=, 1);": ("sys_regs[*]", "store"),
    "arch->sflags &= ~BIT(5);": ("arch.sflags", "store"),
    "WRITE_ONCE(vcpu->arch.sflags, 0);": ("sflags", "store"),
    "__vcpu_set_flag(vcpu, sflags, BIT(4), BIT(4));": ("flags", "store"),
    "*ctxt = saved;": ("ctxt", "store"),
    "memzero_explicit(&vcpu->arch.ctxt, n);": ("ctxt", "store"),
    "memset(this_cpu_ptr(&kvm_host_data), 0, n);": ("kvm_host_data", "store"),
    "write_sysreg_el2(x & ~DBG_SPSR_SS, SYS_SPSR);": ("hw.spsr_el2", "register"),
    "write_pmuserenr(x);": ("hw.pmuserenr_el0", "register"),
    "vcpu_clear_flag(vcpu, PMUSERENR_ON_CPU);": ("PMUSERENR_ON_CPU", "store"),
    "*vcpu_pc(vcpu) += 4;": ("pc", "store"),
    "unsigned long *at = vcpu_pc(vcpu);": ("pc", "store"),
    "ctxt->regs.pc = x;": ("pc", "store"),
    "write_sysreg_el2(read_sysreg_el2(SYS_ELR) + 4, SYS_ELR);": ("hw.elr_el2", "register"),
    'asm volatile(".inst 0xd51c113f");': ("hw.mdcr_el2", "assembly"),
    'asm("nop\\n\\t.word 0xd5100240");': ("hw.mdscr_el1", "assembly"),
    'asm volatile(".inst 0xd51c" "113f");': ("hw.mdcr_el2", "assembly"),
    'asm volatile("msr mdcr_" "el2, xzr");': ("hw.mdcr_el2", "assembly"),
    "asm volatile(__emit_inst(0xd51c113f));": ("hw.mdcr_el2", "assembly"),
    'asm volatile(".inst 0xd51c1120 | 31");': ("hw.mdcr_el2", "assembly"),
    'asm volatile(".inst %c0" : : "i" (0xd51c1120 | 31));': ("hw.any", "assembly"),
    'asm volatile(".inst 0xd5000000 | (%c0 << 5)" : : "i" (REG));': ("hw.any", "assembly"),
    "asm volatile(__emit_inst(0xd5000000 | REG | 31));": ("hw.any", "assembly"),
    'asm volatile("msr " REG ", %0" : : "r" (x));': ("hw.any", "assembly"),
    "struct kvm_vcpu_arch *a = &vcpu->arch;\t*a = (struct kvm_vcpu_arch){ };": ("a", "store"),
    "struct kvm_cpu_context *const c = f();\tmemcpy(c, x, n);": ("c", "store"),
    "struct kvm_vcpu *v = f();\tv[0] = *w;": ("v", "store"),
    "((u64 *)vcpu)[300] = 0;": ("vcpu", "address"),
    "*(u64 *)((void *)vcpu + n) = 0;": ("vcpu", "address"),
    "char *p = (void *)vcpu;": ("vcpu", "address"),
    "unsigned long *p = (unsigned long *)&vcpu->arch.ctxt;": ("ctxt", "address"),
}
READS = [
    "x = vcpu->arch.mdcr_el2;",
    "if (vcpu->guest_debug == 3) return;",
    "x = a & vcpu->guest_debug;",
    "x = (a) & vcpu->guest_debug;",
    "x = vcpu_read_sys_reg(vcpu, MDSCR_EL1);",
    "vcpu_write_sys_reg(vcpu, x, SCTLR_EL1);",
    "x = __vcpu_sys_reg(vcpu, OSLSR_EL1) == 2;",
    "x = *vcpu_cpsr(vcpu) & 1;",
    "x = read_sysreg(mdcr_el2);",
    "/* vcpu->arch.mdcr_el2 = 0; */",
    'puts("vcpu->arch.mdcr_el2 = 0;");',
    "x = dbg->dbg_bcr[3];",
    'asm("mrs %0, mdcr_el2" : "=r" (x));',
    'asm("msr daifset, #2");',
    "write_sysreg_s(x, sys_reg(3, 0, 5, 1, 0));",
    "x = *host_data_ptr(host_debug_state.mdcr_el2);",
    "ctxt->sys_regs[SCTLR_EL1] = x;",
    "mmu->arch = &kvm->arch;",
    "x = READ_ONCE(vcpu->arch.debug_owner);",
    "WRITE_ONCE(vcpu->mode, vcpu->guest_debug);",
    "x = *vcpu_pc(vcpu);",
    "x = read_sysreg_el2(SYS_ELR);",
    "x = ctxt->regs.pc;",
    "memset(&vcpu->arch.ctxt.fp_regs, 0, n);",
    'asm(".inst 0xd53c1120");',  # MRS X0, MDCR_EL2
    'asm(".inst 0xd5181000");',  # MSR SCTLR_EL1, X0
    "struct kvm_vcpu *v = f();\tx = *v->run;",
    "struct kvm_vcpu *v = f();\tcallback((void *)v, (u64)v);",
    "struct kvm_vcpu *v = f();\tcopy(x, (void *)v->arch.sve_state + n);",
]


# an lvalue of what is modelled, and what the search calls it
PLACES = {
    "v->arch.mdcr_el2": "mdcr_el2",
    "v->arch.iflags": "iflags",
    "v->arch.external_debug_state.dbg_bcr[i]": "external_debug_state",
    "ctxt->sys_regs[MDSCR_EL1]": "sys_regs[MDSCR_EL1]",
    "ctxt->sys_regs[r->reg]": "sys_regs[*]",
    "__vcpu_sys_reg(v, OSLSR_EL1)": "sys_regs[OSLSR_EL1]",
    "__vcpu_sys_reg(v, r->reg)": "sys_regs[*]",
    "*__ctxt_sys_reg(ctxt, MDSCR_EL1)": "sys_regs[MDSCR_EL1]",
    "*vcpu_cpsr(v)": "pstate",
    "ctxt->regs.pstate": "pstate",
    "*vcpu_pc(v)": "pc",
    "ctxt->regs.pc": "pc",
    "*host_data_ptr(host_debug_state.mdcr_el2)": "mdcr_el2",
}
WAYS = (
    "{} = x;", "{} |= f(x);", "({}) = x;", "(({})) &= x;", "++{};", "--({});", "({})++;", "p = &{};", "p = &({});",
    "f(x, &{});", "return &{};", "*&{} = x;", "*(u64 *)&{} = x;", "if (c) ({}) = x;", "if (c) {} = x;",
    "for ({} = 0; c; x++) f();", "x = ({} = y);", "WRITE_ONCE({}, x);", "WRITE_ONCE(({}), x);",
    "get_user({}, p);", "swap({}, x);", "swap(x, {});", 'asm("" : "=m" ({}));', 'asm("" : [a] "+Q" ({}) : "r" (x));',
    "smp_store_release(&{}, x);", "xchg(&({}), x);", "return ({} = x);", "x = c ? ({} = y) : 0;",
    "OWN({}, x);", "OWN(({}), x);", "HANDS(x, {});", "x = TAKES({});",
)  # fmt: skip
MACROS = """
#define OWN(x, v)\t\t\\
	do {\t\t\t\\
		(x) = (v);\t\\
	} while (0)
#define HANDS(v, x) OWN(x, v)
#define TAKES(x) ({ typeof(x) *at_ = &(x); give(at_); })
#define READS(x, y) ((x) + (y) + (y)->member + f(&(y)->other))
"""
READING = (
    "x = {};", "x = ({}) + 1;", "if ({}) ++x;", "if ({} == 3) f();", "f({});", "x = f(y, {}, z);", "return {};",
    "x = y & {};", "x = (y) & ({});", "x = {} ? 1 : 2;", "switch ({}) {{ }}", "WRITE_ONCE(x, {});",
    'asm("" : : "r" ({}));', "x = y * ({});", "x[{}] = y;", "x = sizeof({});",
    "OWN(x, {});", "x = READS({}, y);", "x = READS(y, {});",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_written_is_found_in_whatever_way(place: str, way: str) -> None:
    found = scan_text("f.c", f"{MACROS}void f(struct kvm_vcpu *v)\n{{\n\t{way.format(place)}\n}}\n")
    assert PLACES[place] in {store.lvalue.removeprefix("arch.") for store in found}


@pytest.mark.parametrize("way", READING)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_read_is_not_reported(place: str, way: str) -> None:
    assert scan_text("f.c", f"{MACROS}void f(struct kvm_vcpu *v)\n{{\n\t{way.format(place)}\n}}\n") == []


@pytest.mark.parametrize("statement", STORES)
def test_a_store_is_found(statement: str) -> None:
    lvalue, how = STORES[statement]
    found = scan_text("f.c", f"static void f(struct kvm_vcpu *vcpu)\n{{\n\t{statement}\n}}\n")
    assert [(s.line, s.function) for s in found] == [(3, "f")] * len(found)
    assert (lvalue, how) in [(s.lvalue, s.how) for s in found]


@pytest.mark.parametrize("statement", READS)
def test_a_read_is_not_reported(statement: str) -> None:
    assert scan_text("f.c", f"void f(void)\n{{\n\t{statement}\n}}\n") == []


def test_macros_and_continuation_lines() -> None:
    (store,) = scan_text("f.h", "#define POKE(v)\t\\\n\t((v)->arch.mdcr_el2 = \\\n\t 0)\n")
    assert (store.line, store.function) == (2, "macro POKE")


@pytest.mark.parametrize(
    ("text", "lvalue", "how"),
    [
        ("#define trap(v, r) ((v)->arch.r ## _el2)\n", "r##_el2", "pasted"),
        ("#define reg(n) dbg ## n\n", "dbg##n", "pasted"),
        ("#define PMU_SYSREG MDSCR_EL1\n", "MDSCR_EL1", "renamed"),
        ("#define TRAPS mdcr_el2\n", "mdcr_el2", "renamed"),
        ("#define vcpu_mdcr(v) ((v)->arch.mdcr_el2)\n", "mdcr_el2", "renamed"),
        ("enum { STATE = MDSCR_EL1 };\n", "MDSCR_EL1", "renamed"),
        ('#define POKE "nop\\n\\tmsr mdcr_el2, %0"\n', "hw.mdcr_el2", "assembly"),
        ('#define POKE "msr mdcr_" \\\n\t"el2, %0"\n#define OTHER "msr tcr_el2, %0"\n', "hw.mdcr_el2", "assembly"),
        ('#define POKE ".inst 0xd51c1120"\n', "hw.mdcr_el2", "assembly"),
        ("#define REG mdscr_el1\n", "hw.mdscr_el1", "renamed"),
        ("#define REG S3_4_C1_C1_1\nint x;\n", "hw.S3_4_C1_C1_1", "renamed"),
        ("#define REG SYS_DBGBCRn_EL1(0)\n", "hw.SYS_DBGBCRn_EL1", "renamed"),
    ],
)
def test_other_names_for_what_is_modelled(text: str, lvalue: str, how: str) -> None:
    assert [(s.lvalue, s.how) for s in scan_text("f.h", text)] == [(lvalue, how)]


@pytest.mark.parametrize("outer", ["union { %s; u64 x; };", "union name { struct { %s; } a; u64 x; };"])
def test_a_member_of_a_union_is_written_by_its_neighbours(outer: str) -> None:
    found = scan_text("f.h", f"struct kvm_vcpu_arch {{\n{outer % 'u64 mdcr_el2'}\nu64 guest_debug;\n}};\n")
    assert [(s.line, s.lvalue, s.how) for s in found] == [(2, "mdcr_el2", "union")]


def test_names_that_only_look_like_it_are_no_other_names() -> None:
    assert scan_text("f.h", "#define mdcr_el2_x(v) ((v)->arch.mdcr_el2 & 1)\n#define A(r) SYS_ ## r ## _X\n") == []


def test_a_function_may_write_what_it_is_known_for_and_nothing_else() -> None:
    """Of operations the C is compared: there it is the comparison that tells."""
    assert knows(f"{KVM}/pmu-emul.c", "kvm_pmu_set_pmc_value", "sys_regs[*]")
    assert not knows(f"{KVM}/pmu-emul.c", "kvm_pmu_set_pmc_value", "mdcr_el2")
    assert knows(f"{KVM}/debug.c", "kvm_arm_setup_debug", "mdcr_el2")
    assert knows("arch/arm64/kernel/debug-monitors.c", "mdscr_write", "hw.mdscr_el1")
    assert not knows("arch/arm64/kernel/smp.c", "mdscr_write", "hw.mdscr_el1")


def test_assembler_files() -> None:
    found = scan_assembly("f.S", "SYM_FUNC_START(enter)\n\tmsr\tmdcr_el2, x0\n\tmrs\tx0, mdscr_el1\n")
    assert [(s.line, s.function, s.lvalue) for s in found] == [(2, "enter", "hw.mdcr_el2")]


def test_no_word_is_passed_over() -> None:
    """The words at which the search looks at all are those that it tells apart."""
    told = set()
    for module, function in ((scan, scan._at), (indirect, indirect.at)):
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "text":
                if ast.unparse(node.comparators[0]) == "stores":
                    continue  # the macros of the tree, which scan_tokens() looks for besides
                words = eval(compile(ast.Expression(node.comparators[0]), "_at", "eval"), vars(module))
                told |= {words} if isinstance(words, str) else set(words)
    assert len(told) > 40
    assert told == scan._TELLING


def test_every_store_of_a_real_tree_is_accounted_for(program: Program) -> None:
    stores = check(program.tree, knows, (f"{KVM}/debug.c",))
    assert {s.function for s in stores} > {"kvm_arm_setup_debug", "kvm_arm_clear_debug", "trap_debug_regs"}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_callers_of_an_operation_are_known(name: str) -> None:
    assert name in CALLERS


CALLS = {
    "a new caller": ("static void g(struct kvm_vcpu *v)\n{\n\tkvm_arm_clear_debug(v);\n}\n", "in g()"),
    "a pointer": ("void (*f)(struct kvm_vcpu *) = kvm_arm_setup_mdcr_el2;\n", "outside a function"),
    "a macro": ("#define UNTRAP(v) kvm_arm_reset_debug_ptr(v)\n", "in macro UNTRAP()"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_new_call_of_an_operation_is_refused(case: str) -> None:
    text, where = CALLS[case]
    with pytest.raises(NotUnderstoodError, match=re.escape(f"may be called {where}, which the specification")):
        Mentions().add("f.c", tokens(text))
    whole = Mentions(whole=("f.c",))
    if where == "outside a function":  # a table is no function that is lifted
        with pytest.raises(NotUnderstoodError):
            whole.add("f.c", tokens(text))
    else:
        whole.add("f.c", tokens(text))


def test_declarations_and_known_calls_are_no_new_ones() -> None:
    Mentions().add("f.h", tokens("void kvm_arm_clear_debug(struct kvm_vcpu *vcpu);\n"))
    Mentions().add("f.c", tokens("int kvm_arch_vcpu_ioctl_run(void)\n{\n\tkvm_arm_clear_debug(v);\n}\n"))


@pytest.mark.parametrize("deep", [False, True])
def test_what_the_run_loop_calls_must_not_lead_to_an_operation(deep: bool) -> None:
    """check_vcpu_requests() may reset a vCPU, and the rules know when; another function that calls it may not."""
    mentions = Mentions()
    inner = "int check_vcpu_requests(void)\n{\n\tkvm_reset_vcpu(v);\n}\n"
    text = inner + "void g(void)\n{\n\tcheck_vcpu_requests();\n}\nvoid h(void)\n{\n\tg();\n}\n"
    called = "h" if deep else "check_vcpu_requests"
    mentions.add("f.c", tokens(text + f"int kvm_arch_vcpu_ioctl_run(void)\n{{\n\t{called}();\n}}\n"))
    if not deep:
        mentions.check()
        return
    with pytest.raises(NotUnderstoodError, match=r"^f.c:15: kvm_arch_vcpu_ioctl_run\(\) calls h\(\), which may change"):
        mentions.check()


HELPERS = {
    "static void g(int x)\n{\n}\nvoid f(void)\n{\n\tg(1);\n}\n": {"g"},
    "static void g(int x);\nvoid f(void)\n{\n\tg(1);\n}\nstatic void g(int x)\n{\n}\n": {"g"},
    "void g(int x)\n{\n}\nvoid f(void)\n{\n\tg(1);\n}\n": set(),
    "static void g(int x)\n{\n}\nvoid (*p)(int) = g;\n": set(),
    "static void g(int x)\n{\n}\nvoid f(void)\n{\n\tcall(g);\n}\n": set(),
    "static void g(int x)\n{\n}\n#define G(x) g(x)\n": set(),
    "static void g(int x)\n{\n}\nEXPORT_SYMBOL_GPL(g);\n": set(),
}


@pytest.mark.parametrize("text", HELPERS)
def test_helpers_are_static_and_only_called(text: str) -> None:
    assert helpers(text) == HELPERS[text]


def test_what_an_initialiser_gives_is_no_store() -> None:
    """At the level of a file, that is: in a function, a record may be made and stored at once."""
    text = "static const struct kvm_regs start = {\n\t.regs.pstate = 0x3c5,\n};\nvoid f(void)\n{\n\tuse = 0;\n}\n"
    assert not scan_text("a.c", text)
    inside = "void f(struct kvm_vcpu *v)\n{\n\tv->arch.ctxt.regs = (struct user_pt_regs){ .pstate = 1 };\n}\n"
    assert {store.lvalue for store in scan_text("a.c", inside)} == {"regs", "pstate"}


@pytest.mark.parametrize("start", ["ENTRY(cpu_do_resume)", "SYM_FUNC_START(cpu_do_resume)", "cpu_do_resume:"])
def test_a_function_of_assembler_begins_at_its_label(start: str) -> None:
    (store,) = scan_assembly("proc.S", f"{start}\n\tmsr\tmdscr_el1, x10\n")
    assert (store.function, store.lvalue) == ("cpu_do_resume", "hw.mdscr_el1")
