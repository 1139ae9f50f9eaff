"""One C file, parsed for one program (host, vhe, nvhe): what its functions do, and those of headers that they call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import clang.cindex as ci

from formal.kernel.effects.body import Body
from formal.kernel.effects.places import Lvalue, Places
from formal.kernel.effects.types import Facts, Function, Summary
from formal.kernel.effects.unit import TABLE, Unit
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.kernel.parse.preamble import saved
from formal.kernel.source.tree import KVM

HEADERS = ("linux/kvm_host.h", "linux/perf_event.h", "asm/kvm_emulate.h", "asm/kvm_mmu.h", "asm/kvm_hyp.h",
           "asm/kvm_asm.h", "asm/kvm_nested.h", "linux/uaccess.h", "trace/events/kvm.h")  # fmt: skip
_FILE = "/front-end/effects.h"


class Reader:
    """Reads files for one program; its headers are parsed once."""

    def __init__(self, root: Path, flags: Iterable[str], side: str, lvalues: Iterable[Lvalue], scratch: str) -> None:
        self._root, self._side = root, side
        self._flags = [*flags, "-Wno-everything", "-ferror-limit=0"]
        self._places = Places(lvalues)
        self.seen: set[str] = set()  # the keys of the functions that were read
        self._made = _constants(root)
        self._pch, self._stored = self._headers(scratch)
        self._types: tuple[dict[str, Type], dict[str, Type], dict[str, int]] = ({}, {}, {})
        if self._stored is not None:
            self._learn(children(self._stored.cursor))
        self._included = self._includes(self._stored) if self._stored is not None else frozenset()

    def _headers(self, scratch: str) -> tuple[str, Cursor]:
        folders = [self._flags[i + 1] for i, word in enumerate(self._flags[:-1]) if word == "-I"]
        found = [h for h in HEADERS if any(os.path.isfile(f"{folder}/{h}") for folder in folders)]
        text = "".join(f"#include <{h}>\n" for h in found)
        options = ci.TranslationUnit.PARSE_INCOMPLETE
        arguments = [*self._flags, "-x", "c-header"]
        handle = ci.Index.create().parse(_FILE, args=arguments, unsaved_files=[(_FILE, text)], options=options)
        if any(d.severity >= ci.Diagnostic.Error for d in handle.diagnostics):
            return "", handle
        return saved(handle, scratch), handle

    def _learn(self, top: Iterable[Cursor]) -> None:
        records, variables, enumerators = self._types
        for c in top:
            if c.kind == Kind.STRUCT_DECL and c.is_definition():
                records.setdefault(c.spelling, c.type)
            elif c.kind == Kind.VAR_DECL:
                variables.setdefault(c.spelling, c.type)
            elif c.kind == Kind.ENUM_DECL:
                for item in (i for i in children(c) if i.kind == Kind.ENUM_CONSTANT_DECL):
                    enumerators.setdefault(item.spelling, item.enum_value)
        self._places.learn(records, variables, enumerators)

    def _includes(self, handle: Cursor) -> frozenset[str]:
        return frozenset(os.path.normpath(str(found.include.name)) for found in handle.get_includes())

    def read(self, file: str, text: str | None = None) -> Summary:
        """The functions of a file (or of another text in its place), and those of its headers not read before."""
        handle = self._parse(file, self._pch, text)
        if self._pch and (handle is None or _errors(handle)):
            handle = self._parse(file, "", text) or handle  # which wants its headers in another order
        if handle is None:
            return Summary(errors=(f"{file}: libclang cannot read it",))
        path = str(self._root / file)
        top = children(handle.cursor)
        self._learn(top)
        unit = Unit(str(self._root), self._side, self._places)
        summary = Summary(includes=self._includes(handle) | self._included | {path})
        tables: dict[str, Facts] = {}
        for c in top:
            if c.kind == Kind.FUNCTION_DECL and c.is_definition() and str(c.location.file) == path:
                unit.wanted.setdefault(unit.key(c), c)
            elif c.kind == Kind.VAR_DECL and str(c.location.file) == path:
                key = unit.table(c) or f"{TABLE} {c.spelling}/{self._side}"
                facts = tables.setdefault(key, Facts(Function(key, file, 0, self._side), unit.table(c) is None))
                Body(unit, handle.cursor, facts, key).table(c)
        needs: set[str] = set()
        while unit.wanted:
            key, definition = unit.wanted.popitem()
            needs.add(key)
            if key in self.seen:
                continue
            self.seen.add(key)
            place = definition.location
            function = Function(definition.spelling, unit.relative(str(place.file)), place.line, self._side)
            facts = Facts(function, definition.linkage.name == "EXTERNAL", definition.type.get_canonical().spelling)
            Body(unit, definition, facts, key).read()
            summary.functions[key] = facts
        summary.functions |= {key: facts for key, facts in tables.items() if _says_anything(facts)}
        summary.needs = frozenset(needs)
        bodies = [c for c in top if c.kind == Kind.FUNCTION_DECL and c.is_definition()] if _errors(handle) else []
        summary.errors = tuple(
            f"{unit.relative(str(d.location.file))}:{d.location.line}: {d.spelling}"
            for d in _errors(handle)
            if not any(_inside(d, c) and unit.key(c) not in needs for c in bodies)
        )
        summary.ranges = dict(self._places.ranges)
        return summary

    def _parse(self, file: str, pch: str, text: str | None) -> Cursor | None:
        path = str(self._root / file)
        arguments = [*self._flags, *(("-include-pch", pch) if pch else ()), "-I", path.rpartition("/")[0]]
        unsaved = [(_FILE, ""), *self._made, *([(path, text)] if text is not None else [])]
        try:
            return ci.Index.create(excludeDecls=bool(pch)).parse(path, args=arguments, unsaved_files=unsaved)
        except ci.TranslationUnitLoadError:
            return None


def _says_anything(facts: Facts) -> bool:
    return bool(facts.taken or facts.tables or facts.entries or facts.calls or facts.flows or facts.gives)


def _errors(handle: Cursor) -> list[Cursor]:
    return [d for d in handle.diagnostics if d.severity >= ci.Diagnostic.Error]


def _inside(diagnostic: Cursor, function: Cursor) -> bool:
    """Whether an error is in the body of a function: of no account where nothing calls it."""
    at, extent = diagnostic.location, function.extent
    bodies = [c for c in children(function) if c.kind == Kind.COMPOUND_STMT]
    here = str(at.file) == str(extent.start.file) and bool(bodies)
    return here and bodies[0].extent.start.offset < at.offset < extent.end.offset


def _constants(root: Path) -> list[tuple[str, str]]:
    """KVM's header of constants that the build works out; their values do not matter to who writes what."""
    source = root / KVM / "hyp/hyp-constants.c"
    if not source.is_file():
        return []
    names = re.findall(r"\bDEFINE\((\w+),", source.read_text(encoding="utf-8", errors="replace"))
    return [(str(root / KVM / "hyp_constants.h"), "".join(f"#define {name} 64\n" for name in names))]
