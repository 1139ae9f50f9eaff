"""One C file of the tree, parsed by libclang with the tree's real headers.

The file is included by a driver that first includes KVM's headers and the overlays (macros of assembly spelled as
calls). The driver proves to itself that the overlays are sound: every macro that they replace is compared with its
reviewed forms, and at the end of the file each is still the overlay's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources

import clang.cindex as ci

from formal.kernel import forms
from formal.kernel.clang import Cursor, Kind, Type, constant
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.tree import KVM, KernelTree

DRIVER = "/front-end/driver.c"
_BASE, _KVM = "/front-end/overlay_base.h", "/front-end/overlay_kvm.h"
_BASE_HEADERS = ("linux/kernel.h", "linux/bug.h", "linux/percpu.h", "linux/preempt.h", "asm/sysreg.h", "asm/barrier.h")
_KVM_HEADERS = ("linux/kvm_host.h", "asm/kvm_emulate.h", "asm/kvm_mmu.h", "asm/kvm_hyp.h", "asm/kvm_asm.h")
# Macros that the replaced ones are made of; reviewed with them, not replaced.
_RELIED = ("__mrs_s", "__msr_s", "read_sysreg_elx", "write_sysreg_elx", "raw_cpu_ptr", "raw_cpu_read", "raw_cpu_write",
           "SHIFT_PERCPU_PTR", "__READ_ONCE", "__WRITE_ONCE", "KVM_HOST_SMCCC_FUNC", "DO_ONCE_LITE_IF")  # fmt: skip
# Warnings that say that the text does not mean what it seems to; refused in KVM's own files, ignored elsewhere.
_WARNINGS = ("uninitialized", "sometimes-uninitialized", "implicit-int", "int-conversion",
             "incompatible-pointer-types", "return-type", "shift-count-overflow", "shift-count-negative",
             "constant-conversion", "array-bounds", "ignored-attributes", "div-by-zero")  # fmt: skip


@dataclass
class TranslationUnit:
    """A parsed file: its function definitions, types and enumerators, and the constants that were asked for."""

    file: str
    cursor: Cursor
    functions: dict[str, Cursor] = field(default_factory=dict)
    records: dict[str, Type] = field(default_factory=dict)
    enumerators: dict[str, int] = field(default_factory=dict)
    enums: dict[str, dict[int, str]] = field(default_factory=dict)
    tracepoints: set[str] = field(default_factory=set)
    constants: dict[str, int] = field(default_factory=dict)
    handle: Cursor = None  # keeps libclang's translation unit alive


def overlay_texts() -> dict[str, str]:
    """The overlays that come with this package, by the name under which the driver includes them."""
    package = resources.files("formal.kernel")
    return {path: package.joinpath(path.rsplit("/", 1)[1]).read_text(encoding="utf-8") for path in (_BASE, _KVM)}


def replaced_macros(text: str) -> dict[int, str]:
    """The macros that an overlay replaces, by line; names of its own start with ``__LIFT``."""
    found = ((n, re.match(r"#define (\w+)", line)) for n, line in enumerate(text.splitlines(), 1))
    return {n: match.group(1) for n, match in found if match and not match.group(1).startswith("__LIFT")}


def hyp_flags(tree: KernelTree, mode: str) -> tuple[str, ...]:
    """The macros that the Makefile of hyp/vhe or hyp/nvhe defines for each of its files."""
    makefile = tree.read(f"{KVM}/hyp/{mode}/Makefile").replace("\\\n", " ")
    lines = re.findall(r"(?m)^ccflags-y\s*[:+]?=\s*(.*)$", makefile)
    return tuple(word for line in lines for word in line.split() if word.startswith("-D"))


@dataclass(frozen=True)
class _Driver:
    """The text that is compiled, and the lines of it where a warning is an answer."""

    text: str
    relied: dict[int, str]  # lines that redefine a macro on which the overlays rely
    closing: int  # from this line on, the overlays' macros are redefined


def _driver(path: str, macros: Iterable[str], constants: Iterable[str]) -> _Driver:
    lines = [f"#include <{h}>" for h in _BASE_HEADERS]
    lines.append(f'#include "{_BASE}"')
    lines.extend(f"#include <{h}>" for h in _KVM_HEADERS)
    lines.append(f'#include "{_KVM}"')
    lines.append(f'#include "{path}"')
    for name in constants:
        declaration = f"static const unsigned long long __lift_constant_{name} = (unsigned long long)({name});"
        lines.extend([f"#ifdef {name}", declaration, "#endif"])
    relied: dict[int, str] = {}
    for name in _RELIED:
        lines.extend([f"#ifdef {name}", f"#define {name} __lift_closing_check", "#endif"])
        relied[len(lines) - 1] = name
    closing = len(lines)
    for name in macros:
        lines.extend([f"#ifdef {name}", f"#define {name} __lift_closing_check", "#endif"])
    return _Driver("\n".join([*lines, ""]), relied, closing)


def parse(
    tree: KernelTree, file: str, extra_flags: Iterable[str] = (), constants: Iterable[str] = ()
) -> TranslationUnit:
    """Parses one file of the tree.

    Args:
        file: its name below the tree.
        extra_flags: more compiler arguments (``hyp_flags`` for the hypervisor's files).
        constants: macros whose values are wanted; those that are not defined are left out of the result.

    Raises:
        NotUnderstoodError: at the first error or suspicious warning, or at a replaced macro that is not as known.
    """
    tree.read(file)
    path = str(tree.path / file)
    overlays = overlay_texts()
    macros = {(name, line): macro for name, text in overlays.items() for line, macro in replaced_macros(text).items()}
    driver = _driver(path, macros.values(), constants)
    arguments = [*tree.flags, *extra_flags, "-I", path.rsplit("/", 1)[0], "-Wno-everything", "-Wmacro-redefined"]
    arguments += [f"-W{name}" for name in _WARNINGS]
    try:
        handle = ci.Index.create().parse(
            DRIVER, args=arguments, unsaved_files=[(DRIVER, driver.text), *overlays.items()]
        )
    except ci.TranslationUnitLoadError as error:
        raise NotUnderstoodError(file, 0, "libclang cannot read it") from error
    _check_pragmas(tree, handle)
    _check_diagnostics(tree, file, handle, macros, driver)
    return collect(file, handle)


def _check_pragmas(tree: KernelTree, handle: Cursor) -> None:
    """Refuses pragmas with which a file could put a macro aside and back again unseen."""
    for name in {str(handle.spelling), *(str(i.include.name) for i in handle.get_includes())}:
        if f"/{KVM}/" in name:
            text = forms.without_comments(tree.read(tree.relative(name)))
            for number, line in enumerate(text.split("\n"), 1):
                if re.search(r"\b(push|pop)_macro\b", line):
                    raise NotUnderstoodError(tree.relative(name), number, "a pragma that replaces macros")


def _check_diagnostics(
    tree: KernelTree, file: str, handle: Cursor, macros: dict[tuple[str, int], str], driver: _Driver
) -> None:
    originals: dict[str, tuple[str, int]] = {}
    intact: set[str] = set()
    for diagnostic in handle.diagnostics:
        place = diagnostic.location
        where, line = (place.file.name if place.file else ""), place.line
        notes = [n.location for n in diagnostic.children if n.location.file and "previous definition" in n.spelling]
        previous = (notes[-1].file.name, notes[-1].line) if notes else ("", 0)
        if diagnostic.severity >= ci.Diagnostic.Error:
            shown = tree.relative(where) if where and where != DRIVER else file
            raise NotUnderstoodError(shown, line if where != DRIVER else 0, f"does not parse: {diagnostic.spelling}")
        if diagnostic.option == "-Wmacro-redefined":
            if (where, line) in macros:
                originals[macros[where, line]] = previous
                continue
            if where == DRIVER and line in driver.relied:
                _check_form(tree, driver.relied[line], *previous)
                continue
            if where == DRIVER and line > driver.closing and previous in macros:
                intact.add(macros[previous])
                continue
            if previous in macros:
                raise NotUnderstoodError(tree.relative(where), line, f"redefines {macros[previous]}, which is replaced")
        if f"/{KVM}/" in where:
            raise NotUnderstoodError(tree.relative(where), line, f"suspicious: {diagnostic.spelling}")
    for (_, _), macro in macros.items():
        if macro not in originals:
            if macro in ("tsb_csync", "host_data_ptr") and macro not in intact:
                continue  # younger than some trees
            raise NotUnderstoodError(file, 0, f"{macro} is no macro of this tree, or is defined after it is used")
        if macro not in intact:
            raise NotUnderstoodError(file, 0, f"{macro} is redefined by this file or by a header that it includes")
        _check_form(tree, macro, *originals[macro])


def _check_form(tree: KernelTree, macro: str, file: str, line: int) -> None:
    name = tree.relative(file)
    forms.known().check(macro, forms.macro_text(tree.read(name), line), name, line)


def collect(file: str, handle: Cursor) -> TranslationUnit:
    """What a parsed file declares."""
    unit = TranslationUnit(file, handle.cursor, handle=handle)
    for cursor in handle.cursor.get_children():
        kind = cursor.kind
        if kind == Kind.FUNCTION_DECL:
            if cursor.is_definition():
                unit.functions[cursor.spelling] = cursor
        elif kind == Kind.STRUCT_DECL:
            if cursor.is_definition():
                unit.records.setdefault(cursor.spelling, cursor.type)
        elif kind == Kind.ENUM_DECL:
            named = unit.enums.setdefault(cursor.spelling, {})
            for item in cursor.get_children():
                if item.kind == Kind.ENUM_CONSTANT_DECL:
                    unit.enumerators.setdefault(item.spelling, item.enum_value)
                    named.setdefault(item.enum_value, item.spelling)
        elif kind == Kind.VAR_DECL:
            name = cursor.spelling
            if name.startswith("__tracepoint_"):
                unit.tracepoints.add(name.removeprefix("__tracepoint_"))
            elif name.startswith("__lift_constant_"):
                value = constant(cursor)
                if value is not None:
                    unit.constants[name.removeprefix("__lift_constant_")] = value & ((1 << 64) - 1)
    return unit
