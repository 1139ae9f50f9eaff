"""What the boot code leaves in MDCR_EL2: the trees do as the model has it, edits are told, other spellings are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from formal.engines.equality import Questions
from formal.epochs import Kernel
from formal.kernel.around import boot
from formal.kernel.around.a64 import Execution, expressions
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.text.assembler import Assembler
from formal.kernel.text.numbers import number
from formal.logic import terms as t
from tests.kernel.edited import copy_of

SETUP, HEAD, STUB = "arch/arm64/include/asm/el2_setup.h", "arch/arm64/kernel/head.S", "arch/arm64/kernel/hyp-stub.S"
_HPMN, _FREE, _OWNER = "sets MDCR_EL2.HPMN", "traps nothing of the host's", "gives the profiling buffer to EL1"
_WAY = "the way to EL2"
EDITS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "a trap is left set": (
        "7.3 6.1", SETUP, {"\tmsr\tmdcr_el2, x2": "\torr\tx2, x2, #0x200\n\tmsr\tmdcr_el2, x2"}, _FREE),
    "a trap is left set before the split": (
        "5.10", HEAD, {"\tmsr\tmdcr_el2, x3": "\torr\tx3, x3, #(1 << 9)\n\tmsr\tmdcr_el2, x3"}, _FREE),
    "four bits of PMCR_EL0.N": ("7.3 6.1", SETUP, {"ubfx\tx0, x0, #11, #5": "ubfx\tx0, x0, #11, #4"}, _HPMN),
    "the counters are read without a PMU only": (
        "6.1", SETUP, {"csel\tx2, xzr, x0, lt": "csel\tx2, xzr, x0, ge"}, _HPMN),
    "the register is not written": ("7.3 6.1", SETUP, {"\tmsr\tmdcr_el2, x2": "\tisb"}, _HPMN),
    "the macro is not used": ("7.3", SETUP, {"\t__init_el2_debug\n": ""}, "writes MDCR_EL2"),
    "EL1 does not get the buffer": (
        "7.3", SETUP, {"\tmov\tx0, #MDCR_EL2_E2PB_MASK\n": "\tmov\tx0, #MDCR_EL2_E2TB_MASK\n"}, _OWNER),
    "a value that is not known": ("7.3", SETUP, {"\tmsr\tmdcr_el2, x2": "\trbit\tx2, x2\n\tmsr\tmdcr_el2, x2"}, _HPMN),
    "the way to EL2 does not write": ("7.3 6.1", STUB, {"\tmsr\tmdcr_el2, x0\n": ""}, _WAY),
    "the way to EL2 clears the counters": (
        "7.3 6.1", STUB, {"\tmsr\tmdcr_el2, x0\n": "\tbic\tx0, x0, #0x1f\n\tmsr\tmdcr_el2, x0\n"}, _WAY),
    "the way to EL2 keeps the trace buffer": ("7.3", STUB, {"\tbic\tx0, x0, #MDCR_EL2_E2TB_MASK\n": ""}, _WAY),
    "a function that nobody calls": ("7.3 6.1", HEAD, {
        "\tinit_el2_state\n": "\tnop\n", "SYM_FUNC_START_LOCAL(set_cpu_boot_mode_flag)":
        "SYM_FUNC_START_LOCAL(unused)\n\tinit_el2_state\n\tret\nSYM_FUNC_END(unused)\n\n"
        "SYM_FUNC_START_LOCAL(set_cpu_boot_mode_flag)"}, "finds out the level"),
    "a CPU that starts without it": (
        "5.10 6.1", HEAD, {"secondary_entry)\n\tbl\t": "secondary_entry)\n\tadr_l\tx1, "}, "secondary_entry calls"),
    "the first CPU starts without it": (
        "5.10 6.1", HEAD, {"preserve_boot_args\n\tbl\t": "preserve_boot_args\n\tadr_l\tx1, "}, "primary_entry calls"),
    "some CPUs start without it": ("6.1", HEAD, {
        "preserve_boot_args\n\tbl\tinit_kernel_el": "preserve_boot_args\n\tcbz\tx5, 1f\n\tbl\tinit_kernel_el\n1:"},
        "primary_entry calls"),
    "not assembled": ("6.1", HEAD, {"\tinit_el2_state\n": ".if 0\n\tinit_el2_state\n.endif\n"}, "a directive"),
    "another name of the register": (
        "6.1", HEAD, {"1:\tstr\tw0, [x1]\t": "1:\tmsr\tS3_4_C1_C1_1, xzr\n\tstr\tw0, [x1]\t"}, _HPMN),
    "flags of another comparison": (
        "6.1", HEAD, {"#CurrentEL_EL2\n\tb.eq": "#CurrentEL_EL2\n\tcmn\tx5, x6\n\tb.eq"}, _HPMN),
    "the stub writes": (
        "6.1", STUB, {"1:\tcmp\tx0, #HVC_FINALISE": "1:\tmsr\tmdcr_el2, xzr\n\tcmp\tx0, #HVC_FINALISE"}, _WAY),
    "outside of a function": ("6.1", HEAD, {
        "SYM_FUNC_START(init_kernel_el)": "stray:\n\tmsr\tmdcr_el2, xzr\nSYM_FUNC_START(init_kernel_el)"}, "outside"),
    "a trap on CPUs that could be VHE's": ("7.3", SETUP, {
        "\tmsr\tmdcr_el2, x2": "\tmrs\tx0, id_aa64mmfr1_el1\n\tubfx\tx0, x0, #8, #4\n\tcbz\tx0, .Lno_\\@\n"
                               "\torr\tx2, x2, #(1 << 14)\n.Lno_\\@:\n\tmsr\tmdcr_el2, x2"}, _FREE),
    # harmless
    "called on both ways": ("6.1", HEAD, {
        "preserve_boot_args\n\tbl\tinit_kernel_el": "preserve_boot_args\n\tcbz\tx5, 1f\n\tbl\tinit_kernel_el\n\tb\t2f\n"
                                                  "1:\tbl\tinit_kernel_el\n2:"}, ""),
    "another register": ("7.3", SETUP, {"\tmsr\tmdcr_el2, x2": "\tmov\tx5, x2\n\tmsr\tmdcr_el2, x5"}, ""),
    "a mask instead of a field": (
        "6.1", SETUP, {"\tubfx\tx0, x0, #11, #5": "\tand\tx0, x0, #(0x1f << 11)\n\tubfx\tx0, x0, #11, #5"}, ""),
    "a macro of its own": (
        "7.3", SETUP, {"\tmsr\tmdcr_el2, x2": "\t__write_debug mdcr_el2, x2",
                       ".macro __init_el2_debug": ".macro __write_debug name, value\n\tmsr\t\\name, \\value\n.endm\n"
                                                  ".macro __init_el2_debug"}, ""),
    "branches around": ("7.3", SETUP, {"\tmsr\tmdcr_el2, x2": "\tb\t.Lhere_\\@\n\tmov\tx2, #0x200\n.Lhere_\\@:\n"
                                                              "\tmsr\tmdcr_el2, x2"}, ""),
}  # fmt: skip


def broken(version: str, vhe: bool) -> list[str]:
    """The rules that do not hold of a tree, and what is not understood."""
    gaps, ask = Gaps(noted=True), Questions(60.0)
    k = cast(Kernel, SimpleNamespace(vhe=vhe, traps_profiling=True))
    rules = list(boot.rules(copy_of(version).program, k, gaps))
    assert rules or gaps.found
    return [*(rule.says for rule in rules if ask.differing([(rule.says, rule.holds)])), *map(str, gaps.found)]


@pytest.mark.parametrize("version", ["5.10", "6.1", "7.3"])
def test_trees(version: str) -> None:
    """The trees do what the model takes for granted."""
    for vhe in (True, False):
        assert broken(version, vhe) == []
    said = "".join(boot.assumed(copy_of(version).program))
    assert ("PMUVer is less than 8" in said) == (version != "7.3"), "the field was read as signed up to v6.13"


@pytest.mark.parametrize(("version", "edit"), [(v, e) for e, (vs, *_) in EDITS.items() for v in vs.split()])
def test_edits(version: str, edit: str) -> None:
    """Another value is told, another way to the same value is not."""
    _, file, edits, rule = EDITS[edit]
    with copy_of(version).edited(file, edits):
        found = [what for vhe in (True, False) for what in broken(version, vhe)]
    assert any(rule in what for what in found) if rule else not found, found


def executed(text: str) -> Execution:
    """A function of an assembler text, whose conditions all hold."""
    source = Assembler(lambda name: text if name == "x.S" else "", lambda asked: dict.fromkeys(asked, True))
    _, lines = source.functions("x.S").values()
    numbers = {e: number(e) for e in expressions(lines)}
    return Execution(lines, {e: value for e, value in numbers.items() if value is not None})


def left(body: str, name: str = "mdcr_el2") -> t.Term:
    """What a text leaves in a register at its only end."""
    (end,) = executed(f"SYM_FUNC_START(f)\n{body}\nret\nSYM_FUNC_END(f)\n").ends
    return end.system(name)


X, Y = t.var("asm.x1", 64), t.var("asm.x2", 64)
N = t.var("hw.pmcr_el0", 64)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("msr mdcr_el2, x1", X),
        ("msr S3_4_C1_C1_1, x1", X),
        ("mov x0, #5\nmsr mdcr_el2, x0", t.const(5, 64)),
        ("mov w0, w1\nmsr mdcr_el2, x0", t.zero_extend(t.extract(X, 31, 0), 64)),
        ("mrs x3, pmcr_el0\nubfx x3, x3, #11, #5\nmsr mdcr_el2, x3", t.zero_extend(t.extract(N, 15, 11), 64)),
        ("mrs x3, pmcr_el0\nsbfx x3, x3, #11, #5\nmsr mdcr_el2, x3", t.sign_extend(t.extract(N, 15, 11), 64)),
        ("cmp x1, x2\ncsel x3, x1, x2, lo\nmsr mdcr_el2, x3", t.If(t.ult(X, Y), X, Y)),
        ("cmp x1, #0\nccmp x2, #0, #4, ne\ncsel x3, x1, xzr, eq\nmsr mdcr_el2, x3",
         t.If(t.Or(t.Eq(X, t.const(0, 64)), t.Eq(Y, t.const(0, 64))), X, t.const(0, 64))),
        ("cbz x1, 1f\nmov x2, #7\n1: msr mdcr_el2, x2", t.If(t.Eq(X, t.const(0, 64)), Y, t.const(7, 64))),
        ("tbnz x1, #3, 1f\nmov x2, #7\n1: msr mdcr_el2, x2",
         t.If(t.Eq(t.extract(X, 3, 3), t.const(1, 1)), Y, t.const(7, 64))),
        ("tst x1, #6\nb.ne 1f\nmov x2, #7\n1: msr mdcr_el2, x2",
         t.If(t.Eq(X & t.const(6, 64), t.const(0, 64)), t.const(7, 64), Y)),
        ("bic x1, x1, x2\nmsr mdcr_el2, x1", X & ~Y),
        ("b 1f\nmov x1, #3\n1:\nmsr mdcr_el2, x1", X),
        ("#ifdef CONFIG_X\nmsr mdcr_el2, x1\n#else\nmsr mdcr_el2, x2\n#endif", X),
    ],
)  # fmt: skip
def test_instructions(body: str, expected: t.Term) -> None:
    """What instructions of our own leave, on every value."""
    assert not Questions(60.0).differing([("", t.Eq(left(body), expected))])


@pytest.mark.parametrize(
    "body",
    ["bl f\nmsr mdcr_el2, x1", "rbit x1, x1\nmsr mdcr_el2, x1", "ldp x2, x1, [x0]\nmsr mdcr_el2, x1",
     "alternative_if X\nmov x1, #0\nalternative_else_nop_endif\nmsr mdcr_el2, x1", "msr mdcr_el2, x1\n.inst 0xd51c1120",
     "mov x1, #NAME\nmsr mdcr_el2, x1"],
)  # fmt: skip
def test_unknown(body: str) -> None:
    """What is not known leaves any value, not the one before."""
    assert Questions(60.0).differing([("", t.Eq(left(body), X))])
    assert Questions(60.0).differing([("", t.Not(t.Eq(left(body), X)))])


def test_macros() -> None:
    """Parameters, defaults, names that are made anew with each use; what has .if may do anything to what it names."""
    macro = ".macro put reg, value=x1\ncbz x2, .Lend_\\@\nmsr \\reg, \\value\n.Lend_\\@:\n.endm\n"
    choice = ".macro some reg\n.if \\reg\nmov \\reg, #1\n.endif\n.endm\n"
    body = "put mdcr_el2\nput mdcr_el2, x3\nsome x4\nmsr vbar_el2, x5\nmsr tpidr_el2, x4\nret"
    (end,) = executed(f"{macro}{choice}SYM_FUNC_START(f)\n{body}\nSYM_FUNC_END(f)\n").ends
    three = t.var("asm.x3", 64)
    wanted = t.If(t.Eq(Y, t.const(0, 64)), t.var("hw.mdcr_el2", 64), three)
    assert not Questions(60.0).differing([("", t.Eq(end.system("mdcr_el2"), wanted))])
    assert end.system("vbar_el2") is t.var("asm.x5", 64)
    assert end.system("tpidr_el2") is not t.var("asm.x4", 64)


@pytest.mark.parametrize(
    ("use", "number"),
    [
        ("pick nvhe", 1), ("pick vhe", 2), ("pick vhe, x1", 3), ("pick nvhe, x1", 1),
        ("other a", 2), ("other b", 1), ("inner nvhe", 1), ("inner vhe", 4),
    ],
)  # fmt: skip
def test_what_the_assembler_chooses_by_text(use: str, number: int) -> None:
    """Texts that are the same or blank, with and without a branch for others, also one inside another."""
    macros = (
        '.macro pick mode tmp\n.ifeqs "\\mode", "nvhe"\nmov x1, #1\n.else\n.ifb \\tmp\nmov x1, #2\n.else\nmov x1, #3\n'
        ".endif\n.endif\n.endm\n"
        ".macro other op\n.ifnc \\op, a\nmov x1, #1\n.endif\n.ifc \\op,a\nmov x1, #2\n.endif\n.endm\n"
        '.macro inner mode\n.ifnes "\\mode", "nvhe"\n.if 1\nmov x1, #5\n.endif\nmov x1, #4\n.else\n'
        "pick \\mode\n.endif\n.endm\n"
    )
    body = f"{use}\nmsr mdcr_el2, x1\nret"
    (end,) = executed(f"{macros}SYM_FUNC_START(f)\n{body}\nSYM_FUNC_END(f)\n").ends
    known = end.system("mdcr_el2") is t.const(number, 64)
    assert known or use == "inner vhe"  # which has what is not chosen by text: anything
    assert not (known and use == "inner vhe")


def test_loops() -> None:
    """A branch backwards is not understood."""
    with pytest.raises(NotUnderstoodError, match="backwards"):
        left("1: msr mdcr_el2, x1\nsub x1, x1, #1\ncbnz x1, 1b")


def test_conditions() -> None:
    """Expressions and conditions are clang's, with the tree's headers and configuration, and what is chosen."""
    asked = ["defined(CONFIG_ARM64)", "defined(CONFIG_NEVER)", "defined(__ASSEMBLY__)", "1 +"]
    evaluated = copy_of("6.1").program.resolver.evaluated
    assert [evaluated((), asked)[one] for one in asked] == [1, 0, 1, 0]
    assert evaluated(["1 << 40", "no such name", "CurrentEL_EL2"]) == {"1 << 40": 1 << 40, "CurrentEL_EL2": 8}
    assert evaluated((), ["defined(CONFIG_NEVER)"], ("CONFIG_NEVER",)) == {"defined(CONFIG_NEVER)": 1}
