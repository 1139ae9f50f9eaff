"""The lifter on C of our own: what each construct means, and what is refused."""

from __future__ import annotations

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Lifted, Mode
from formal.kernel.lift.snippet import snippet
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import Value

TYPES = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
struct bank { u64 cr[4]; };
struct inner { u32 a; _Bool flag; };
struct kvm_vcpu { u64 x, y; u32 w; u8 b; int s; struct inner in; struct bank own, other, *ptr;
  union { u64 wide; u32 half[2]; }; u64 bits : 3; };
"""


def lift(body: str, signature: str = "void f(struct kvm_vcpu *vcpu)", before: str = "") -> Lifted:
    return snippet(f"{TYPES}{before}{signature} {{ {body} }}").lift("f", "vhe")


def run(lifted: Lifted, lvalue: str, **given: int) -> Value:
    """The value that an lvalue ends with; ``x=1`` gives the start value of ``vcpu->x``, others are 0."""
    term = lifted.writes[lvalue]
    return evaluate(term, {name: given.get(name.removeprefix("vcpu->"), 0) for name in support(term)})


def test_assignment_truncates_and_extends() -> None:
    lifted = lift("vcpu->w = vcpu->x; vcpu->y = vcpu->b; vcpu->x = vcpu->s;")
    assert run(lifted, "vcpu->w", x=0x1_2345_6789) == 0x2345_6789
    assert run(lifted, "vcpu->y", b=0xFF) == 0xFF
    assert run(lifted, "vcpu->x", s=0x8000_0000) == 0xFFFF_FFFF_8000_0000


def test_usual_arithmetic_conversions() -> None:
    lifted = lift("vcpu->x = vcpu->w + vcpu->s; vcpu->y = vcpu->b - 1; vcpu->w = vcpu->s < vcpu->w;")
    assert run(lifted, "vcpu->x", w=1, s=0xFFFF_FFFF) == 0
    assert run(lifted, "vcpu->y", b=0) == (1 << 64) - 1
    assert run(lifted, "vcpu->w", s=0xFFFF_FFFF, w=1) == 0


def test_bool_is_zero_or_one() -> None:
    lifted = lift("vcpu->in.flag = vcpu->x; vcpu->y = vcpu->in.flag;")
    assert run(lifted, "vcpu->in.flag", x=0x100) is True
    assert run(lifted, "vcpu->y", x=0x100) == 1


def test_branches_returns_and_gotos() -> None:
    lifted = lift("if (vcpu->w) return; vcpu->x = 1; if (vcpu->b) goto out; vcpu->x = 2; out: vcpu->y = vcpu->x;")
    assert run(lifted, "vcpu->y", w=1, y=7) == 7
    assert run(lifted, "vcpu->y", b=1) == 1
    assert run(lifted, "vcpu->y") == 2
    assert lifted.returns is t.TRUE


def test_switch_falls_through() -> None:
    lifted = lift("switch (vcpu->w) { case 2: vcpu->x = 1; case 1: vcpu->y = 1; break; case 5 ... 7: vcpu->x = 5;"
                  " break; default: vcpu->x = 9; }")  # fmt: skip
    assert [run(lifted, "vcpu->x", w=w) for w in (0, 1, 2, 5, 7, 8)] == [9, 0, 1, 5, 5, 9]
    assert [run(lifted, "vcpu->y", w=w) for w in (0, 1, 2, 5)] == [0, 1, 1, 0]


def test_short_circuits_have_effects_only_where_evaluated() -> None:
    lifted = lift("vcpu->w = vcpu->x && ++vcpu->y; vcpu->s = vcpu->x || vcpu->b++;")
    assert run(lifted, "vcpu->y", x=0, y=3) == 3
    assert run(lifted, "vcpu->y", x=1, y=3) == 4
    assert run(lifted, "vcpu->b", x=1) == 0
    assert run(lifted, "vcpu->b", x=0) == 1


def test_calls_are_lifted_with_their_arguments() -> None:
    helper = "static u64 twice(u64 v) { if (!v) return 7; return v + v; }"
    lifted = lift("vcpu->x = twice(vcpu->w) + twice(vcpu->b);", before=helper)
    assert run(lifted, "vcpu->x", w=3, b=0) == 13


def test_statement_expressions() -> None:
    lifted = lift("vcpu->x = ({ u64 v = vcpu->y; v |= 4; v; });")
    assert run(lifted, "vcpu->x", y=1) == 5


def test_a_number_that_no_variable_changes_is_one() -> None:
    """Such as the size of a register, which is part of its number: the rest of that is any."""
    size = "1UL << (((vcpu->b << 14) | 0x6030000000000000ULL) >> 52 & 15)"
    copies = "unsigned long copy_from_user(void *to, const void *from, unsigned long n);"
    copy = f"if (copy_from_user(&vcpu->y, (void *)vcpu->x, {size})) return;"
    lifted = lift(f"{copy} vcpu->own.cr[(vcpu->b | 3) & 3] = 1;", before=copies)
    assert "vcpu->own.cr[3]" in lifted.writes and "vcpu->own.cr[2]" not in lifted.writes
    assert "from user space" in support(lifted.writes["vcpu->y"])
    with pytest.raises(NotUnderstoodError, match="of unknown or great size"):
        lift(copy.replace("14", "52"), before=copies)


def test_arrays_with_an_unknown_index_carry_an_obligation() -> None:
    lifted = lift("vcpu->own.cr[vcpu->w] = 9;")
    (bound,) = lifted.obligations
    assert bound.risk == "index"
    assert evaluate(bound.condition, {"vcpu->w": 4}) and not evaluate(bound.condition, {"vcpu->w": 3})
    assert run(lifted, "vcpu->own.cr[2]", w=2) == 9
    assert run(lifted, "vcpu->own.cr[1]", w=2, **{"own.cr[1]": 5}) == 5


@pytest.mark.parametrize("place", ["*(p + vcpu->w)", "p[vcpu->w]", "*(vcpu->w + p)"])
def test_a_pointer_moved_by_an_unknown_number_stays_in_its_array(place: str) -> None:
    lifted = lift(f"u64 *p = vcpu->b ? vcpu->own.cr : vcpu->other.cr + 1; {place} = 9;")
    assert [o.risk for o in lifted.obligations] == ["index", "index"]
    outside = [(b, w) for b in (0, 1) for w in range(5)
               if any(evaluate(o.condition, {"vcpu->w": w, "vcpu->b": b}) for o in lifted.obligations)]  # fmt: skip
    assert outside == [(0, 3), (0, 4), (1, 4)]
    assert run(lifted, "vcpu->own.cr[2]", w=2, b=1) == 9 and run(lifted, "vcpu->own.cr[2]", w=2, b=0) == 0
    assert run(lifted, "vcpu->other.cr[3]", w=2, b=0) == 9 and run(lifted, "vcpu->other.cr[2]", w=2, b=0) == 0


def test_a_pointer_moved_by_an_unknown_number_in_no_array_is_refused() -> None:
    with pytest.raises(NotUnderstoodError, match="unknown or great length"):
        lift("u64 *p = &vcpu->x; p[vcpu->w] = 9;")


def test_initialiser_lists_of_variables() -> None:
    lists = (
        "u64 *at[4] = {vcpu->own.cr, [3] = vcpu->other.cr}; u8 n[] = {7, vcpu->y}; struct inner in = {.a = vcpu->w};"
    )
    lifted = lift(f"{lists} at[3][0] = n[1]; vcpu->x = in.a + in.flag + n[0] + !at[1];")
    assert run(lifted, "vcpu->other.cr[0]", y=0x105) == 5
    assert run(lifted, "vcpu->x", w=3) == 11
    assert "vcpu->own.cr[0]" not in lifted.writes


def test_a_value_or_else_another() -> None:
    lifted = lift("vcpu->x = vcpu->s++ ?: vcpu->w; vcpu->y = (vcpu->b ?: 300) + 1;")
    assert [run(lifted, "vcpu->x", w=7, s=s) for s in (0, 3)] == [7, 3] and run(lifted, "vcpu->s", s=3) == 4
    assert [run(lifted, "vcpu->y", b=b) for b in (0, 255)] == [301, 256]


def test_loops_without_a_start_or_a_step() -> None:
    lifted = lift("int i = 4; for (; i-- > 1;) vcpu->own.cr[i] = i + (1); for (i = 0; i < 1;) vcpu->w = ++i;")
    assert run(lifted, "vcpu->own.cr[3]") == 4 and "vcpu->own.cr[0]" not in lifted.writes
    assert run(lifted, "vcpu->w") == 1


def test_a_call_through_a_pointer_calls_what_it_points_to() -> None:
    before = "static void one(u64 *x) { *x = 1; } static void two(u64 *x) { *x = 2; vcpu_s = 5; }"
    lifted = lift("(vcpu->w ? one : two)(&vcpu->x);", before=f"static int vcpu_s; {before}")
    assert run(lifted, "vcpu->x", w=1) == 1 and run(lifted, "vcpu->x", w=0) == 2
    assert run(lifted, "vcpu_s", w=0) == 5 and run(lifted, "vcpu_s", w=1) == 0
    lifted = lift("void (*f)(u64 *) = vcpu->w > 2 ? two : one; f(&vcpu->y);", before=f"static int vcpu_s; {before}")
    assert [run(lifted, "vcpu->y", w=w) for w in (2, 3)] == [1, 2]


def test_a_call_through_a_pointer_that_may_be_another_is_refused() -> None:
    with pytest.raises(NotUnderstoodError, match="a call through a pointer"):
        lift("(vcpu->w ? one : other)(&vcpu->x);", "void f(struct kvm_vcpu *vcpu, void (*other)(u64 *))",
             "static void one(u64 *x) { *x = 1; } ")  # fmt: skip


def test_a_pointer_and_a_number_in_one_place_are_refused() -> None:
    with pytest.raises(NotUnderstoodError):
        lift("void *p = (void *)(vcpu->w ? (unsigned long)&vcpu->x : 4); *(u64 *)p = 1;")


def test_pointers_to_known_places_and_copies() -> None:
    lifted = lift("struct bank *p = vcpu->w ? &vcpu->own : &vcpu->other; p->cr[0] = 1; vcpu->x = vcpu->own.cr[0];"
                  " vcpu->own = vcpu->other;")  # fmt: skip
    assert run(lifted, "vcpu->x", w=1) == 1
    assert run(lifted, "vcpu->x", w=0) == 0
    assert run(lifted, "vcpu->own.cr[0]", w=0) == 1
    assert run(lifted, "vcpu->own.cr[3]", **{"other.cr[3]": 8}) == 8


def test_an_unknown_pointer_must_not_be_null() -> None:
    lifted = lift("vcpu->ptr->cr[1] = 2;")
    assert [o.risk for o in lifted.obligations] == ["pointer"]
    assert "vcpu->ptr points to an object of its own" in lifted.notes
    assert list(lifted.writes) == ["vcpu->ptr->cr[1]"]


def test_bug_on_ends_the_path() -> None:
    lifted = lift("BUG_ON(vcpu->w); vcpu->x = 1;")
    assert [o.risk for o in lifted.obligations] == ["bug"]
    assert evaluate(lifted.returns, {"vcpu->w": 1}) is False


REGISTERS = """
#define read(r) ({ u64 v; asm volatile("mrs %0, " #r : "=r" (v)); v; })
#define write(v, r) do { u64 w = (v); asm volatile("msr " #r ", %x0" : : "rZ" (w)); } while (0)
#define write_s(v, r) do { u64 w = (v); asm volatile("msr_s " NAMED(r) ", %x0" : : "rZ" (w)); } while (0)
#define NAMED(r) NAMED_1(r)
#define NAMED_1(r) #r
#define ALTERNATIVE(old, new, cap) "661: " old "\\n662:\\n.pushsection .altinstructions,\\"a\\"\\n" \\
  ".word 661b - .\\n.word 663f - .\\n.hword " NAMED(cap) "\\n.byte 662b-661b\\n.byte 664f-663f\\n.popsection\\n" \\
  ".subsection 1\\n663:" new "\\n664:.org . - (664b-663b) + (662b-661b)\\n.previous\\n"
"""


def test_registers_per_cpu_and_once() -> None:
    lifted = lift("write(read(mdcr_el2) | 1, mdcr_el2); __this_cpu_write(mine, READ_ONCE(vcpu->x));",
                  before=f"{REGISTERS}static u32 mine;")  # fmt: skip
    assert lifted.writes["hw.mdcr_el2"] is t.bvor(t.var("hw.mdcr_el2", 64), t.const(1, 64))
    assert lifted.writes["percpu.mine"].sort == 32


def test_a_register_is_named_by_its_encoding() -> None:
    encoding = "((2) << 19 | (0) << 16 | (0x0UL) << 12 | ((2) << 8) | (2) << 5)"  # MDSCR_EL1
    lifted = lift("write_s(vcpu->x, SYS_WRONG_NAME);", before=f"{REGISTERS}#define SYS_WRONG_NAME {encoding}\n")
    assert list(lifted.writes) == ["hw.mdscr_el1"]


def test_the_zero_register_is_written() -> None:
    assert lift('asm volatile("msr mdscr_el1, xzr");').writes == {"hw.mdscr_el1": t.const(0, 64)}


def test_an_alternative_is_chosen_by_its_capability() -> None:
    body = 'asm volatile(ALTERNATIVE("mrs %0, mdcr_el2", "mrs %0, mdscr_el1", 7) : "=r" (vcpu->x));'
    text = f"{TYPES}{REGISTERS}void f(struct kvm_vcpu *vcpu) {{ {body} }}"
    lifted = snippet(text, {7: "ARM64_HAS_X"}).lift("f", "vhe")
    assert lifted.writes["vcpu->x"] is t.If(
        t.var("cap.ARM64_HAS_X", t.BOOL), t.var("hw.mdscr_el1", 64), t.var("hw.mdcr_el2", 64)
    )


SELECTOR = f"""{REGISTERS}
static u64 plain(struct kvm_vcpu *vcpu, u64 n) {{ vcpu->w = 1; return n; }}
static u64 other(struct kvm_vcpu *vcpu, u64 n) {{ vcpu->b = 2; return n + 1; }}
typedef u64 (*chosen_t)(struct kvm_vcpu *, u64);
static chosen_t chosen(void) {{
  chosen_t it = plain; asm volatile(ALTERNATIVE("nop", "mov %0, %1", 7) : "+r" (it) : "r" (other)); return it; }}
"""


@pytest.mark.parametrize(
    ("mode", "writes"), [("vhe", {"vcpu->x": 11, "vcpu->b": 2}), ("nvhe", {"vcpu->x": 10, "vcpu->w": 1})]
)
def test_a_function_that_a_capability_chooses_is_called(mode: Mode, writes: dict[str, int]) -> None:
    text = f"{TYPES}{SELECTOR}void f(struct kvm_vcpu *vcpu) {{ vcpu->x = chosen()(vcpu, 10); }}"
    lifted = snippet(text, {7: "ARM64_HAS_VIRT_HOST_EXTN"}).lift("f", mode)
    assert {name: t.value_of(value) for name, value in lifted.writes.items()} == writes


def test_one_of_two_functions_is_called_if_it_is_not_known_which() -> None:
    text = f"{TYPES}{SELECTOR}void f(struct kvm_vcpu *vcpu) {{ vcpu->x = chosen()(vcpu, vcpu->y); }}"
    lifted = snippet(text, {7: "ARM64_HAS_X"}).lift("f", "vhe")
    has, y = t.var("cap.ARM64_HAS_X", t.BOOL), t.var("vcpu->y", 64)
    assert lifted.writes["vcpu->x"] is t.If(has, y + t.const(1, 64), y)
    assert run(lifted, "vcpu->w", w=7, **{"cap.ARM64_HAS_X": True}) == 7
    assert run(lifted, "vcpu->w", w=7) == 1


def test_a_pointer_that_may_be_another_function_is_not_called() -> None:
    """One of memory, one that is computed, and one of which only the half is moved."""
    pointer = f"{SELECTOR}static u64 (*stored)(struct kvm_vcpu *, u64); void g(void *);"
    half = 'chosen_t it = plain; asm volatile("mov %w0, %w1" : "+r" (it) : "r" (other)); it(vcpu, 1);'
    for body in ("stored(vcpu, 1);", "chosen_t it = plain; g(&it); it(vcpu, 1);", half):
        with pytest.raises(NotUnderstoodError):
            lift(body, before=pointer)


def test_a_branch_that_a_capability_patches() -> None:
    before = f"""{REGISTERS}static inline _Bool has(void) {{
      asm goto(ALTERNATIVE("b %l[no]", "nop", %[cap]) : : [cap] "i" (7) : : no); return 1; no: return 0; }}"""
    lifted = snippet(f"{TYPES}{before}void f(struct kvm_vcpu *vcpu) {{ if (has()) vcpu->x = 1; }}", {7: "ARM64_HAS_X"})
    assert "cap.ARM64_HAS_X" in support(lifted.lift("f", "vhe").writes["vcpu->x"])


def test_a_static_key_branches() -> None:
    before = """struct key { int enabled; } a;
    static inline _Bool jumps(struct key *key, _Bool branch) {
      asm goto("1: nop\\n .pushsection __jump_table, \\"aw\\"\\n .align 3\\n .long 1b - ., %l[yes] - .\\n"
               " .quad %c0 - .\\n"
               ".popsection" : : "i" (&((char *)key)[branch]) : : yes); return 0; yes: return 1; }"""
    for inverted, expected in ((0, True), (1, False)):
        lifted = lift(f"vcpu->x = jumps(&a, {inverted});", before=before)
        assert evaluate(lifted.writes["vcpu->x"], {"key.a": True}) == expected


def test_a_loop_is_executed_round_by_round() -> None:
    lifted = lift(
        "for (int i = 0; i < 4; i++) { if (i == 1) continue; if (i == vcpu->w) break; vcpu->own.cr[i] = i + 1; }"
    )
    assert set(lifted.writes) == {"vcpu->own.cr[0]", "vcpu->own.cr[2]", "vcpu->own.cr[3]"}
    assert run(lifted, "vcpu->own.cr[3]", w=9) == 4
    assert run(lifted, "vcpu->own.cr[2]", w=2) == 0
    assert lifted.returns is t.TRUE


def test_what_a_loop_of_unknown_length_writes_is_unknown() -> None:
    body = "vcpu->y = 5; while (vcpu->w) { vcpu->w--; if (vcpu->b) { vcpu->x = 1; break; } }"
    with pytest.raises(NotUnderstoodError, match="a loop"):
        lift(body)
    lifted = snippet(f"{TYPES}void f(struct kvm_vcpu *vcpu) {{ {body} }}").lift("f", "vhe", unknowns=True)
    assert lifted.writes["vcpu->y"] is t.const(5, 64)
    assert {found.reason.split(" (in")[0] for found in lifted.unknowns_in(lifted.writes["vcpu->w"])} == {"a loop"}
    values = dict.fromkeys(support(lifted.writes["vcpu->w"]), 0)
    counters = [name for name in values if name.startswith("?") and "w" not in name]
    assert counters and evaluate(lifted.writes["vcpu->w"], values) == 0


OPAQUE = "struct s { u64 a; struct kvm_vcpu *owner; }; u64 other(struct s *s, u64 v); extern u64 apart;"


def test_a_function_that_is_not_known_writes_what_it_may_write() -> None:
    body = "struct s s = {}; u64 g = apart; vcpu->x = other(&s, 1); vcpu->y = s.a; vcpu->own.cr[1] = apart - g;"
    program = snippet(f"{TYPES}{OPAQUE}void f(struct kvm_vcpu *vcpu) {{ {body} }}")
    program.may_write = lambda callee, mode: {"vcpu->w"} if callee.spelling == "other" else None
    program.modelled = lambda lvalue: lvalue.startswith("vcpu->")
    lifted = program.lift("f", "vhe", unknowns=True)
    assert set(lifted.writes) == {"vcpu->x", "vcpu->y", "vcpu->w", "vcpu->own.cr[1]", "apart"}
    for lvalue in ("vcpu->x", "vcpu->y", "vcpu->w", "vcpu->own.cr[1]"):
        assert lifted.unknowns_in(lifted.writes[lvalue]), lvalue
    assert {u.line for u in lifted.unknowns.values()} and "other" in next(iter(lifted.unknowns.values())).where


def test_what_a_function_cannot_write_stays() -> None:
    """Locks and messages, told by types and attributes, and what is passed to be read only."""
    before = """struct mutex { int n; }; void take(struct mutex *m); struct mutex big;
    int say(const char *text, ...) __attribute__((__format__(printf, 1, 2)));"""
    lifted = lift('vcpu->x = 3; take(&big); say("%d", 1); vcpu->y = vcpu->x;', before=before)
    assert lifted.writes == {"vcpu->x": t.const(3, 64), "vcpu->y": t.const(3, 64)}


def test_cleanup_runs_on_every_way_out() -> None:
    before = """static struct kvm_vcpu *it; static void done(u64 *v) { it->x += *v; }
    """.replace("static struct kvm_vcpu *it; ", "struct guard { struct kvm_vcpu *v; u64 n; };").replace(
        "u64 *v) { it->x += *v; }", "struct guard *g) { g->v->x += g->n; }"
    )
    lifted = lift("struct guard g __attribute__((__cleanup__(done))); g.v = vcpu; g.n = 1; if (vcpu->w) return; "
                  "{ struct guard h __attribute__((__cleanup__(done))); h.v = vcpu; h.n = 10; if (vcpu->b) goto out; }"
                  " vcpu->x += 100; out: vcpu->y = vcpu->x;", before=before)  # fmt: skip
    assert run(lifted, "vcpu->x", w=1) == 1
    assert run(lifted, "vcpu->x", b=1) == 11 and run(lifted, "vcpu->y", b=1) == 10
    assert run(lifted, "vcpu->x") == 111 and run(lifted, "vcpu->y") == 110


def test_a_static_variable_holds_anything() -> None:
    lifted = lift("static int once; if (once++) return; vcpu->x = 1;")
    assert run(lifted, "vcpu->x") == 1
    assert "f.once" in support(lifted.writes["vcpu->x"])


def test_a_value_that_is_not_understood_is_unknown() -> None:
    lifted = lift("u64 v = vcpu->bits; vcpu->x = 1;")
    assert lifted.writes == {"vcpu->x": t.const(1, 64)}
    with pytest.raises(NotUnderstoodError, match="bit-field"):
        lift("vcpu->x = vcpu->bits;")


def test_what_assembly_computes_is_not_known() -> None:
    with pytest.raises(NotUnderstoodError, match="what this assembly gives"):
        lift('asm volatile("add %0, %1, #1" : "=r" (vcpu->x) : "r" (vcpu->y));')


def test_a_member_of_an_anonymous_union_has_its_own_place() -> None:
    """As sys_regs in struct kvm_cpu_context of v5.10: clang leaves the union out of the expression."""
    lifted = lift("vcpu->wide = 3;")
    assert lifted.writes == {"vcpu->wide": t.const(3, 64)}


def test_events_are_in_order_with_guards() -> None:
    lifted = lift("vcpu->x = 1; if (vcpu->w) vcpu->x = 2;")
    assert [(e.lvalue, e.value) for e in lifted.events] == [("vcpu->x", t.const(1, 64)), ("vcpu->x", t.const(2, 64))]
    assert support(lifted.events[1].guard) == {"vcpu->w"}


REFUSED = {
    'asm volatile("hvc #0");': "the instruction hvc",
    'asm volatile("msr mdcr_el2, x3");': "msr of x3",
    'asm volatile("bl f");': "the instruction bl",
    'asm volatile(".inst 0xd5110140");': "the instruction .inst",
    'asm volatile("str %1, [%0]" : : "r" (vcpu), "r" (vcpu->x) : "memory");': "the instruction str",
    "while (vcpu->w) vcpu->w--;": "a loop",
    "do { vcpu->w--; } while (vcpu->w);": "a loop",
    "*(u32 *)&vcpu->x = 0; vcpu->x = 1;": "different widths",
    "vcpu->half[0] = 1; vcpu->wide = 2;": "different widths",
    "vcpu->bits = 1;": "bit-field",
    "extern void g(void); g();": "not defined in the files read",
    "void (*p)(void) = 0; p();": "through a pointer|not known",
    "g();": "not defined in the files read",
    "u64 v; vcpu->x = v;": "before it is set",
    "u64 v; if (vcpu->w) v = 1; vcpu->x = v;": "before it is set",
    "again: vcpu->x++; if (vcpu->w) goto again;": "backwards",
    "vcpu->own.cr[4] = 1;": "index 4",
    "*(u64 *)0 = 1;": "NULL is dereferenced",
    "vcpu->x = 1 << 40;": "shift",
    "u64 a[2] = {[0 ... 1] = vcpu->x++}; vcpu->x = a[0];": "initialiser list",
    "u64 v __attribute__((cleanup(h))) = 1; vcpu->x = v;": "has an attribute",
    "f(vcpu);": "calls itself",
    "goto *&&l; l: vcpu->x = 1;": "not understood|INDIRECT",
    "vcpu->x = (u64)(double)vcpu->x;": "conversion",
    "vcpu->x = vcpu->y": "does not parse",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_is_not_understood_is_refused(body: str) -> None:
    with pytest.raises(NotUnderstoodError, match=REFUSED[body]):
        lift(body, before="void g(void); void h(u64 *p) { *p = 0; }\n")


@pytest.mark.parametrize("effect", ["vcpu->x = 0", "vcpu->x |= 2", "vcpu->x++", "--vcpu->x"])
def test_arguments_of_what_is_known_by_its_name_have_no_effects(effect: str) -> None:
    """Not all of them are evaluated: the effect would be lost."""
    before = "unsigned long copy_to_user(void *to, const void *from, unsigned long size);"
    assert "vcpu->y" in lift("u64 y = 0; vcpu->y = copy_to_user(0, &y, 8);", before=before).writes
    with pytest.raises(NotUnderstoodError, match=r"an assignment in the arguments of copy_to_user\(\)"):
        lift(f"u64 y = 0; vcpu->y = copy_to_user(0, &y, ({effect}, 8));", before=before)


def test_a_switch_inside_a_switch() -> None:
    inner = "switch (v->y) { case 2: v->z = 3; break; default: v->z = 4; }"
    body = f"switch (v->x) {{ case 1: {inner} break; case 5: v->z = 6; }}"
    lifted = snippet(f"struct kvm_vcpu {{ int x, y, z; }}; void f(struct kvm_vcpu *v) {{ {body} }}").lift("f", "vhe")
    for x, y, z in ((1, 2, 3), (1, 1, 4), (5, 2, 6), (0, 2, 9)):
        given = {"vcpu->x": x, "vcpu->y": y, "vcpu->z": 9}
        assert evaluate(lifted.writes["vcpu->z"], given) == z


def test_what_is_shared_with_user_space_is_the_vcpus() -> None:
    """Until v5.7 handlers get vcpu->run beside the vCPU: one object under one name."""
    types = "struct kvm_run { int exit_reason; };\nstruct kvm_vcpu { struct kvm_run *run; };\n"
    body = "run->exit_reason = 4; vcpu->run->exit_reason++;"
    program = snippet(f"{types}void f(struct kvm_vcpu *vcpu, struct kvm_run *run) {{ {body} }}")
    writes = program.lift("f", "vhe").writes
    assert set(writes) == {"vcpu->run->exit_reason"}
    assert evaluate(writes["vcpu->run->exit_reason"], {"vcpu->run != NULL": True}) == 5


# ---- copies of whole objects, and constants of the file

_COPIES = "void *memcpy(void *, const void *, unsigned long); void *memset(void *, int, unsigned long);"


@pytest.mark.parametrize(
    "copies",
    ["vcpu->own = vcpu->other;", "memcpy(&vcpu->own, &vcpu->other, sizeof(vcpu->own));",
     "memcpy(vcpu->own.cr, vcpu->other.cr, sizeof(vcpu->own.cr));"],
)  # fmt: skip
def test_a_copy_of_a_whole_object_is_an_assignment(copies: str) -> None:
    lifted = lift(copies, before=_COPIES)
    assert {n: str(lifted.writes[f"vcpu->own.cr[{n}]"].data) for n in range(4)} == {
        n: f"vcpu->other.cr[{n}]" for n in range(4)
    }
    assert len(lifted.writes) == 4


def test_memset_clears_a_whole_object_and_nothing_else() -> None:
    lifted = lift("vcpu->x = (u64)memset(&vcpu->own, 0, sizeof(vcpu->own)) != 0;", before=_COPIES)
    assert [run(lifted, f"vcpu->own.cr[{n}]") for n in range(4)] == [0] * 4
    assert lifted.writes.keys() == {f"vcpu->own.cr[{n}]" for n in range(4)} | {"vcpu->x"}


@pytest.mark.parametrize(
    "copies",
    ["memcpy(&vcpu->own, &vcpu->other, 8);", "memcpy(&vcpu->own, &vcpu->x, sizeof(vcpu->own));",
     "memset(&vcpu->own, 1, sizeof(vcpu->own));", "memcpy(&vcpu->own, &vcpu->other, vcpu->x);",
     "memset(vcpu, 0, sizeof(*vcpu));"],
)  # fmt: skip
def test_a_copy_of_anything_else_is_refused(copies: str) -> None:
    """Part of an object, something of another type, bytes other than 0, a size that is not known, bit-fields."""
    with pytest.raises(NotUnderstoodError):
        lift(copies, before=_COPIES)


_TABLE = """
static const u32 table[8] = { 1, [3] = 4, 5, [1] = 9 };
static const struct bank bank = { .cr[2] = 7 };
static const struct { struct inner in; u64 last; } record = { .in.a = 6, .last = 8 };
static const struct inner flat[2] = { { 1, 1 }, { .a = 2 } };
static u32 variable[2] = { 1, 2 };
"""


def test_constants_of_the_file_are_what_they_are_initialised_with() -> None:
    """As C has it: a designator moves on, a later one replaces an earlier one, what is left out is 0."""
    numbers = [f"table[{n}]" for n in range(8)] + ["record.in.a", "record.last", "flat[0].flag", "flat[1].a"]
    found = [run(lift(f"vcpu->x = {number};", before=_TABLE), "vcpu->x") for number in numbers]
    assert found == [1, 9, 0, 4, 5, 0, 0, 0, 6, 8, 1, 2]


def test_what_may_be_written_has_no_constant_value() -> None:
    assert support(lift("vcpu->x = variable[1];", before=_TABLE).writes["vcpu->x"]), "it is no constant"
    assert support(lift("vcpu->x = bank.cr[2];", before=_TABLE).writes["vcpu->x"]), "a form that is not known"


def test_constants_of_a_function_are_what_they_are_initialised_with() -> None:
    """One that is static and constant; what it may write itself is not."""
    bits = (
        "static %s u64 bits[] = { 1, 4, 16 }; u64 all = 0; for (int i = 0; i < 3; i++) all |= bits[i]; vcpu->x = all;"
    )
    assert run(lift(bits % "const"), "vcpu->x") == 21
    assert len(support(lift(bits % "").writes["vcpu->x"])) == 3


def test_a_table_in_place_of_conditions() -> None:
    lifted = lift("vcpu->x = table[vcpu->w & 7];", before=_TABLE)
    assert [run(lifted, "vcpu->x", w=n) for n in range(8)] == [1, 9, 0, 4, 5, 0, 0, 0]


def test_a_pointer_that_was_made_a_number_is_the_same_pointer() -> None:
    lifted = lift("u64 n = (u64)&vcpu->other; struct bank *p = (struct bank *)n; p->cr[1] = 5;")
    assert {k: t.value_of(v) for k, v in lifted.writes.items()} == {"vcpu->other.cr[1]": 5}


def test_this_cpus_instance_of_what_a_variable_points_to() -> None:
    """The host's contexts before v4.13: allocated, one for each CPU."""
    before = "struct ctx { u64 a; }; static struct ctx *kvm_host_cpu_state; static struct ctx *other;"
    store = "((struct ctx *)__lift_this_cpu_ptr((const void *)({0})))->a = vcpu->x;"
    lifted = lift(store.format("kvm_host_cpu_state"), before=before)
    assert run(lifted, "percpu.kvm_host_data.host_ctxt.a", x=7) == 7
    with pytest.raises(NotUnderstoodError):
        lift(store.format("other"), before=before)


def test_the_task_before_v4_10() -> None:
    """A message may name it; nothing that is modelled is reached through it."""
    before = ("struct task { int pid; }; struct thread_info { struct task *task; };"
              "struct thread_info *current_thread_info(void); int printk(const char *text, ...);")  # fmt: skip
    lifted = lift('printk("%d", current_thread_info()->task->pid); vcpu->x = 1;', before=before)
    assert run(lifted, "vcpu->x") == 1 and lifted.returns is t.TRUE


@pytest.mark.parametrize("name", ["read_sanitised_ftr_reg", "read_system_reg"])
def test_a_register_of_all_cpus(name: str) -> None:
    """ID_AA64DFR0_EL1 under the name of either release."""
    lifted = lift(f"vcpu->x = {name}(0x180500);", before=f"u64 {name}(u32 id);")
    assert {str(v) for v in support(lifted.writes["vcpu->x"])} == {"sanitised.s3_0_c0_c5_0"}
