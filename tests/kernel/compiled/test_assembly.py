"""What becomes of assembly in C that is compiled and run: none of it needs more than base instructions."""

from __future__ import annotations

import pytest

from formal.kernel.compiled.assembly import without_assembly


def _body(statement: str) -> tuple[str, list[str]]:
    known: list[str] = []
    text = without_assembly(f"int f(int x)\n{{\n\t{statement}\n\treturn x;\n}}\n", known)
    return text.split("{\n\t", 1)[1].split("\n\treturn")[0], known


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ('asm volatile("isb" : : : "memory");', 'asm volatile("" : : : "memory");'),
        ('asm volatile("hint #" "20" : : : "memory");', 'asm volatile("" : : : "memory");'),
        ('asm("" : "=r"(x) : "0"(x));', 'asm("" : "=r"(x) : "0"(x));'),
        ('__asm__ __volatile__ ("cmp %1, %2; sbc %0, xzr, xzr" : "=r"(x) : "r"(x), "Ir"(4) : "cc");',
         '__asm__ __volatile__ ("cmp %1, %2\\nsbc %0, xzr, xzr" : "=r"(x) : "r"(x), "Ir"(4) : "cc");'),
        ('asm("1:\\tldxr %w0, [%1]\\n\\tisb\\n\\tcbnz %w0, 1b" : "=&r"(x) : "r"(&x));',
         'asm("1:\tldxr %w0, [%1]\\n\\ncbnz %w0, 1b" : "=&r"(x) : "r"(&x));'),
        ('asm("661: nop\\n.pushsection .altinstructions, \\"a\\"\\n.popsection\\n.subsection 1\\nisb\\n");',
         'asm("");'),
        ('if (x) asm("isb"); else asm("dsb sy");', 'if (x) asm(""); else asm("");'),
        ('register int y asm("x3") = x;', 'register int y asm("x3") = x;'),
        ('char *text = "asm(isb)";', 'char *text = "asm(isb)";'),
    ],
)  # fmt: skip
def test_what_has_no_effect_on_values_goes_and_base_instructions_stay(statement: str, instead: str) -> None:
    assert _body(statement) == (instead, [])


@pytest.mark.parametrize(
    "assembly",
    [
        "mrs %0, cntpctss_el0", "msr mdscr_el1, %0", "isb\nmrs %0, cntvct_el0", ".inst 0xd50330ff", "hvc #0", "brk #1",
        "bl f", "br %0", "ldraa %0, [%1]", "ldadd %w0, %w0, [%1]", "msr s0_3_c1_c0_0, %0", "paciasp", "at s1e1r, %0",
        "unheard of", ".rept 3\nnop\n.endr\nmrs %0, midr_el1", "mov %0, 1; mrs %0, tpidr_el1", "dc cvac, %0",
        "661: nop\n.pushsection .altinstr_replacement\nmov %0, 1\n.popsection", "label: ; mrs_s %0, 1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["asm volatile", "asm", "__asm__ __volatile__", "if (x) asm", "else asm goto"])
def test_all_other_assembly_ends_the_function(assembly: str, start: str) -> None:
    text = assembly.replace("\n", '\\n"\n"\\t')
    instead, known = _body(f'{start} ("{text}" : "=r"(x) : "r"(&x));')
    assert instead == f"{start[: start.index('_') if start[0] == '_' else start.index('asm')]}harness_assembly(0);"
    assert known == [" ".join(assembly.split())]


def test_the_same_assembly_has_one_number_in_all_files() -> None:
    known: list[str] = []
    text = 'void f(void) { asm("wfx"); asm("mrs x0, x"); asm("wfx"); }'
    assert [n for n in without_assembly(text, known) if n.isdigit()] == ["0", "1", "0"]
    assert without_assembly('void g(void) { asm("mrs x0, x"); }', known) == "void g(void) { harness_assembly(1); }"
    assert known == ["wfx", "mrs x0, x"]


def test_outside_of_functions_no_code_is_made() -> None:
    names = 'extern int f(void) asm("g");\nregister unsigned long sp asm ("sp");\n'
    table = 'asm(".section \\"___kcrctab\\"\\n.weak __crc_f\\n.previous");\n'
    code = 'asm(".text\\nf: mov x0, 1\\nret");\n'
    assert without_assembly(names + table + code, []) == f"{names}{table};\n"


def test_a_text_that_is_no_plain_string_ends_the_function() -> None:
    assert _body('asm(UNKNOWN "isb");') == ("harness_assembly(0);", ['asm(UNKNOWN "isb")'])
    assert _body(r'asm("is\x62");') == ("harness_assembly(0);", [r'asm("is\x62")'])
