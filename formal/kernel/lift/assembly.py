"""Inline assembly as text: its template as instructions, its operands, and what the kernel patches in it.

    found = parse('"mrs %0, " "mdcr_el2" : "=r" (x)')
    found.steps        # ("mrs %0, mdcr_el2",)

What is patched is told by the sections that the template fills: ``.altinstructions`` (one of two sequences, by a CPU
capability, or what a callback writes) and ``__jump_table`` (a branch or none, by a static key).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from formal.kernel.text.numbers import number

_STRING = r'"(?:\\.|[^"\\])*"'
_TOKEN = re.compile(rf"{_STRING}|'(?:\\.|[^'\\])*'|[()\[\]{{}}]|[:,]|[^\"'()\[\]{{}}:,]+")
_OPERAND = re.compile(rf"\s*(?:\[\s*(\w+)\s*\])?\s*((?:{_STRING}\s*)+)\((.*)\)\s*", re.S)
_UNEXPANDED = re.compile(rf"\s*ALTERNATIVE\(\s*({_STRING})\s*,\s*({_STRING})\s*,[^()]*\)\s*")  # as the source has it
_LABEL = re.compile(r"\s*([\w.$]+)\s*:(?!:)\s*(.*)", re.S)
_NO_SYMBOL = re.compile(r"\(?[A-Za-z_]\w* == 0\)?")  # whether there is no callback: a symbol is never 0
_SILENT = frozenset(
    ".purgem .equ .set .arch .arch_extension .cpu .org .align .balign .p2align .global .type .size".split()
)


@dataclass(frozen=True)
class Operand:
    """An operand: its symbolic name, or nothing, and its constraint."""

    name: str
    constraint: str

    @property
    def in_memory(self) -> bool:
        """Whether the instructions get its address, not its value."""
        return not set(self.constraint) & set("rxwiInJKLMSYZX0123456789") and bool(set(self.constraint) & set("QmoV"))


@dataclass(frozen=True)
class Patched:
    """Instructions in whose place others may stand: ``new`` with a CPU capability, or what a callback writes."""

    old: tuple[Step, ...]
    new: tuple[Step, ...]
    capability: str  # an expression
    callback: str  # a function, or nothing


@dataclass(frozen=True)
class KeyBranch:
    """A branch that is taken if a static key differs from the lowest bit of its entry (include/linux/jump_label.h)."""

    label: str
    key: str  # the operand that holds the key's address, plus 1 or 0


Step = str | Patched | KeyBranch


@dataclass(frozen=True)
class Assembly:
    """One assembly statement."""

    steps: tuple[Step, ...]
    outputs: tuple[Operand, ...] = ()
    inputs: tuple[Operand, ...] = ()
    clobbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # section: what the template puts there

    def index(self, reference: str) -> int | None:
        """The number of the operand that the template calls ``%0``, ``%w[name]`` and the like."""
        found = re.fullmatch(r"%[a-zA-Z]?(?:(\d+)|\[(\w+)\])", reference.strip())
        if found is None:
            return None
        operands = [*self.outputs, *self.inputs]
        if found[2]:
            return next((n for n, operand in enumerate(operands) if operand.name == found[2]), None)
        return int(found[1]) if int(found[1]) < len(operands) else None

    def label(self, reference: str) -> str | None:
        """The label of C that the template calls ``%l[name]`` or ``%l2``."""
        found = re.fullmatch(r"%l(?:\[(\w+)\]|(\d+))", reference.strip())
        if found is None:
            return None
        number = int(found[2]) - len(self.outputs) - len(self.inputs) if found[2] else -1
        name = found[1] if found[1] else self.labels[number] if 0 <= number < len(self.labels) else ""
        return name if name in self.labels else None


def unquoted(literal: str) -> str:
    """The characters of a string literal of C."""
    return literal.strip()[1:-1].encode("latin-1", "replace").decode("unicode_escape")


def _split(text: str, separator: str) -> list[str]:
    """The parts of C text between separators outside brackets and literals."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}") if len(token) == 1 else 0
        if token == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


@lru_cache(maxsize=4096)
def parse(text: str) -> Assembly | None:
    """An assembly statement from what stands in its parentheses, macros expanded; ``None`` if it is not understood."""
    template, *sections = _split(text, ":")
    if either := _UNEXPANDED.fullmatch(template):
        old, new = (tuple(_statements(unquoted(either[n]))) for n in (1, 2))
        return None if sections else Assembly((Patched(old, new, "", ""),))
    if re.sub(_STRING, "", template).strip():
        return None
    operands: list[tuple[Operand, ...]] = []
    for section in sections[:2]:
        found = [_OPERAND.fullmatch(part) for part in _split(section, ",") if part.strip()]
        if not all(found):
            return None
        operands.append(
            tuple(Operand(m[1] or "", "".join(map(unquoted, re.findall(_STRING, m[2])))) for m in found if m)
        )
    operands += [()] * (2 - len(operands))
    clobbers = tuple(map(unquoted, re.findall(_STRING, sections[2]))) if len(sections) > 2 else ()
    labels = tuple(part.strip() for part in _split(sections[3], ",")) if len(sections) > 3 else ()
    steps, tables = _steps("".join(map(unquoted, re.findall(_STRING, template))))
    if steps is None:
        return None
    return Assembly(steps, operands[0], operands[1], clobbers, labels, tables)


@dataclass
class _Alternative:
    """One entry of .altinstructions, and where its instructions start and end."""

    start: int
    end: int
    replacement: str  # the label of the new instructions, or the callback
    capability: str


def _statements(template: str) -> Iterable[str]:
    for line in re.split(r"[\n;]", re.sub(r"/\*.*?\*/|//[^\n]*", " ", template, flags=re.S)):
        while found := _LABEL.fullmatch(line):
            yield f"{found[1]}:"
            line = found[2]
        if line.strip():
            yield " ".join(line.split())


def _steps(template: str) -> tuple[tuple[Step, ...] | None, dict[str, tuple[str, ...]]]:
    main: list[Step] = []
    others: dict[str, list[str]] = {}
    stack, live, skipped = [""], [True], ""
    marks: dict[str, int] = {}  # label: its place in main
    entries: list[_Alternative] = []
    keys: list[KeyBranch | None] = []
    for line in _statements(template):
        word, _, rest = line.partition(" ")
        if skipped:
            skipped = "" if word == skipped else skipped
        elif word == ".if":
            value = 0 if _NO_SYMBOL.fullmatch(rest) else number(rest)
            if value is None:
                return None, {}
            live.append(bool(value))
        elif word == ".else":
            live[-1] = not live[-1]
        elif word == ".endif" and len(live) > 1:
            live.pop()
        elif not all(live):
            continue
        elif word in (".macro", ".irp", ".rept"):
            skipped = ".endm" if word == ".macro" else ".endr"
        elif word in (".pushsection", ".section", ".subsection"):
            stack.append(rest.split(",")[0].strip() if word != ".subsection" else ".subsection")
        elif word in (".popsection", ".previous") and len(stack) > 1:
            stack.pop()
        elif word in _SILENT:
            continue
        elif stack[-1]:
            others.setdefault(stack[-1], []).append(line)
            if stack[-1] == ".altinstructions" and word == ".byte" and (entry := _entry(others[stack[-1]], marks)):
                entries.append(entry)
            if stack[-1] == "__jump_table" and word == ".quad":
                keys.append(_key(others[stack[-1]]))
        elif word.endswith(":"):
            marks[word[:-1]] = len(main)
        else:
            main.append(line)
    if any(key is None for key in keys) or len(keys) > 1 or (keys and len(main) != 1):
        return None, {}
    if keys:
        return tuple(key for key in keys if key is not None), {}
    for entry in reversed(entries):
        body = others.get(".subsection") or others.get(".altinstr_replacement") or []
        new = _between(body, entry.replacement)
        callback = "" if new is not None else entry.replacement
        patched = Patched(tuple(main[entry.start : entry.end]), tuple(new or ()), entry.capability, callback)
        main[entry.start : entry.end] = [patched]
    if len(entries) != sum(line.startswith(".byte") for line in others.get(".altinstructions", ())) // 2:
        return None, {}
    return tuple(main), {name: tuple(lines) for name, lines in others.items()}


def _entry(lines: list[str], marks: Mapping[str, int]) -> _Alternative | None:
    """The entry whose last line was just read, if it is complete: two addresses, a capability, two lengths."""
    directives = [line.partition(" ") for line in lines]
    words = [rest for word, _, rest in directives if word in (".word", ".long")]
    sizes = [rest for word, _, rest in directives if word == ".byte"]
    numbers = [rest for word, _, rest in directives if word in (".hword", ".short", ".2byte")]
    if len(sizes) % 2 or len(words) < 2 or not numbers:
        return None
    old, size = re.match(r"(\w+)b", words[-2]), re.match(r"(\w+)b\s*-\s*\(?(\w+)b", sizes[-2])
    new = re.match(r"\(?([\w.$]+?)\s*-", words[-1])
    if not (old and size and new and old[1] == size[2] and {old[1], size[1]} <= marks.keys()):
        return None
    return _Alternative(marks[old[1]], marks[size[1]], new[1], numbers[-1])


def _key(lines: list[str]) -> KeyBranch | None:
    target = [re.search(r"%l\w*(?:\[\w+\])?", line) for line in lines]
    labels = [found[0] for found in target if found]
    key = re.match(r"\.quad \(?(%\w?(?:\d+|\[\w+\]))", lines[-1])
    return KeyBranch(labels[-1], key[1]) if labels and key else None


def _between(lines: list[str], label: str) -> list[str] | None:
    """The instructions after a local label such as ``663f``, up to the next label."""
    if not re.fullmatch(r"\d+f", label) or f"{label[:-1]}:" not in lines:
        return None
    rest = lines[lines.index(f"{label[:-1]}:") + 1 :]
    end = next((n for n, line in enumerate(rest) if line.endswith(":")), len(rest))
    return rest[:end]
