"""One C file of the tree, parsed by libclang after the preamble, with what makes the overlays sound checked at its end:
each replaced macro is still the overlay's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import clang.cindex as ci

from formal.kernel.errors import DOES_NOT_PARSE, NotUnderstoodError
from formal.kernel.parse.clang import Cursor
from formal.kernel.parse.preamble import Preamble, place_of
from formal.kernel.parse.units import TranslationUnit, collect, included
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text import forms

_DRIVER = "/front-end/driver.c"
# Warnings that say that the text does not mean what it seems to; refused in KVM's own files, ignored elsewhere.
_WARNINGS = ("uninitialized", "sometimes-uninitialized", "implicit-int", "int-conversion",
             "incompatible-pointer-types", "shift-count-overflow", "shift-count-negative",
             "constant-conversion", "array-bounds", "ignored-attributes", "div-by-zero")  # fmt: skip


@dataclass(frozen=True)
class _Driver:
    """The text that is compiled, and the lines of it where a warning is an answer."""

    text: str
    closing: int  # from this line on, the overlays' macros are redefined


def _driver(path: str, macros: Iterable[str], constants: Iterable[str]) -> _Driver:
    lines = [f'#include "{path}"']
    for name in constants:
        declaration = f"static const unsigned long long __lift_constant_{name} = (unsigned long long)({name});"
        lines.extend([f"#ifdef {name}", declaration, "#endif"])
    closing = len(lines)
    for name in macros:
        lines.extend([f"#ifdef {name}", f"#define {name} __lift_closing_check", "#endif"])
    return _Driver("\n".join([*lines, ""]), closing)


def parse(tree: KernelTree, preamble: Preamble, file: str, constants: Iterable[str] = ()) -> TranslationUnit:
    """Parses one file of the tree.

    Args:
        file: its name below the tree.
        constants: macros whose values are wanted; those that are not defined are left out of the result.

    Raises:
        NotUnderstoodError: at the first error or suspicious warning outside a function, or at a macro that is not as
            known; inside a function they cost that function (``TranslationUnit.broken``).
    """
    tree.read(file)
    path = str(tree.path / file)
    driver = _driver(path, preamble.macros.values(), constants)
    arguments = [*preamble.flags, "-include-pch", preamble.pch, "-I", path.rsplit("/", 1)[0]]
    arguments += [*(f"-W{name}" for name in _WARNINGS), "-Wno-return-type"]  # the lifter sees what is returned then
    unsaved = [(_DRIVER, driver.text), *preamble.unsaved]
    try:
        handle = ci.Index.create(excludeDecls=True).parse(_DRIVER, args=arguments, unsaved_files=unsaved)
    except ci.TranslationUnitLoadError as error:
        raise NotUnderstoodError(file, 0, "libclang cannot read it") from error
    includes = included(handle)
    _check_pragmas(tree, {str(handle.spelling), *includes})
    faults = _check_diagnostics(tree, file, handle, preamble, driver)
    unit, headers = collect(file, handle, includes | preamble.headers.includes), preamble.headers
    for fault in faults:
        unit.broken.setdefault(_function_of(tree, unit, fault), fault)
    unit.handles += headers.handles
    unit.functions = headers.functions | unit.functions
    unit.records = headers.records | unit.records
    unit.enumerators = headers.enumerators | unit.enumerators
    unit.enums = headers.enums | unit.enums
    unit.tracepoints |= headers.tracepoints
    return unit


def _check_pragmas(tree: KernelTree, names: Iterable[str]) -> None:
    """Refuses pragmas with which a file could put a macro aside and back again unseen."""
    for name in names:
        if "/kvm/" in name:
            text = forms.without_comments(tree.read(tree.relative(name)))
            for number, line in enumerate(text.split("\n"), 1):
                if re.search(r"\b(push|pop)_macro\b", line):
                    raise NotUnderstoodError(tree.relative(name), number, "a pragma that replaces macros")


def _function_of(tree: KernelTree, unit: TranslationUnit, error: NotUnderstoodError) -> str:
    """The function in whose definition an error lies; clang goes on after its end as if nothing had been."""
    for name, function in unit.functions.items():
        start, end = function.extent.start, function.extent.end
        inside = {tree.relative(str(at.file)) for at in (start, end)} == {error.file}  # it may never be closed
        if inside and start.line <= error.line <= end.line:
            return name
    raise error


def _check_diagnostics(
    tree: KernelTree, file: str, handle: Cursor, preamble: Preamble, driver: _Driver
) -> list[NotUnderstoodError]:
    """The errors and suspicious warnings of a file.

    Raises:
        NotUnderstoodError: if a macro that is replaced is defined anew.
    """
    macros = preamble.macros
    faults: list[NotUnderstoodError] = []
    intact: set[str] = set()
    for diagnostic in handle.diagnostics:
        where, line, previous = place_of(diagnostic)
        if diagnostic.severity >= ci.Diagnostic.Error:
            shown = tree.relative(where) if where and where != _DRIVER else file
            line = line if where != _DRIVER else 0
            faults.append(NotUnderstoodError(shown, line, f"{DOES_NOT_PARSE}{diagnostic.spelling}"))
            continue
        if diagnostic.option == "-Wmacro-redefined":
            if where == _DRIVER and line > driver.closing and previous in macros:
                intact.add(macros[previous])
                continue
            if previous in macros:
                raise NotUnderstoodError(tree.relative(where), line, f"redefines {macros[previous]}, which is replaced")
        if f"/{KVM}/" in where:
            faults.append(NotUnderstoodError(tree.relative(where), line, f"suspicious: {diagnostic.spelling}"))
    for macro in sorted(preamble.replaced - intact):
        raise NotUnderstoodError(file, 0, f"{macro} is redefined by this file or by a header that it includes")
    return faults
