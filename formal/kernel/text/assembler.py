"""Assembler files: their functions as lines of instructions, macros expanded.

What the assembler chooses by comparing text (``.ifeqs``) is chosen here. A macro whose text it chooses otherwise
(``.if``) is not expanded: its line stays, with the text behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from formal.kernel.text.forms import without_comments

ASM = "arch/arm64/include/asm"
OUTSIDE = ""
_MACRO = re.compile(r"\.macro\s+(\w+)[\s,]*(.*)")
_START = re.compile(r"(?:SYM_\w*START\w*|ENTRY)\(\s*(\w+)")
_INNER = re.compile(r"SYM_\w*LABEL\w*\(\s*(\w+)")
_END = re.compile(r"(?:SYM_\w*END\w*|ENDPROC|ENDPIPROC|END)\(\s*\w+\s*\)")
_LABEL = re.compile(r"([\w.$]+):(?!:)\s*(.*)")
_INCLUDE = re.compile(r'(?m)^\s*#\s*include\s+[<"](asm/[\w/-]+\.h)[>"]')
_CHOICE = re.compile(r"\s*\.(?:if\w*|rept|irpc?|altmacro)\b")
_TEXTS = re.compile(r"\.if(n?)(b|c|eqs|es)\b\s*(.*)")  # .ifb, .ifc, .ifeqs, and with n what is not: .ifnes
_WORDS = re.compile(r"(?<=[\w)])\s+(?=[\w(.\\#])")  # blanks between arguments of macros, which may do without commas
_DEPTH = 20  # of macros that use macros


@dataclass(frozen=True)
class Line:
    """One instruction, label (``name:``) or directive; ``behind`` is the text of a macro that it stands for."""

    text: str
    file: str
    number: int
    behind: str = ""


@dataclass
class _Macro:
    parameters: list[tuple[str, str]]  # names and defaults
    body: list[Line] = field(default_factory=list)


class Assembler:
    """The assembler text of a tree.

    Args:
        read: gives the text of a file below the tree, or nothing if there is none.
        holds: tells of conditions of the preprocessor, as ``#if`` has them, whether they hold.
    """

    def __init__(self, read: Callable[[str], str], holds: Callable[[list[str]], dict[str, bool]]) -> None:
        self._read, self._holds = read, holds
        self._macros: dict[str, _Macro] = {}
        self._seen: set[str] = set()
        self._uses = 0

    def functions(self, file: str) -> dict[str, list[Line]]:
        """The functions of a file, by name, macros expanded; and what stands in none (``OUTSIDE``)."""
        found: dict[str, list[Line]] = {OUTSIDE: []}
        own = found[OUTSIDE]
        for line in self.lines(file):
            start = _START.match(line.text)
            if start is not None:
                own = found.setdefault(start[1], [])
            elif _END.match(line.text):
                own = found[OUTSIDE]
            else:
                own.extend(self._expanded(line, 0))
        return found

    def expanded(self, file: str, but: re.Pattern[str]) -> list[Line]:
        """The lines of a file outside of macros, with macros expanded where they are used.

        Args:
            but: lines that stay, as those stay that would give a label.
        """
        found: list[Line] = []
        for line in self.lines(file):
            body = [line] if but.match(line.text) else [*self._expanded(line, 0)]
            named = any(one.text.endswith(":") and not one.text[:-1].isdigit() for one in body)
            found += [line] if named else [Line(one.text, file, line.number) for one in body]
        return found

    def lines(self, file: str) -> list[Line]:
        """The lines of a file outside of macros, those that the configuration keeps; its macros are noted."""
        text = self._read(file)
        for header in _INCLUDE.findall(text):
            name = f"{ASM}/{header.removeprefix('asm/')}"
            if name not in self._seen:
                self._seen.add(name)
                self.lines(name)
        if file.endswith(".h") and ".macro" not in text:
            return []
        lines: list[Line] = []
        macro: _Macro | None = None
        for line in self._chosen(file, without_comments(text.replace("\\\n", "\x01"))):
            started = _MACRO.match(line.text)
            if started is not None:
                names = [name for name in re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", started[2].strip())) if name]
                parameters = [(re.split(r"[:=]", n)[0], n.partition("=")[2]) for n in names]
                macro = self._macros[started[1]] = _Macro(parameters)
            elif line.text.startswith(".endm"):
                macro = None
            else:
                (lines if macro is None else macro.body).append(line)
        return lines

    def _chosen(self, file: str, text: str) -> Iterator[Line]:
        rows, number = [], 1
        for row in text.split("\n"):
            rows.append((number, row.replace("\x01", " ").strip()))
            number += 1 + row.count("\x01")
        asked = {why for _, row in rows if (why := _condition(row))}
        holds = self._holds(sorted(asked)) if asked else {}
        open_: list[tuple[bool, bool]] = []  # whether this branch is kept, and whether one was
        for number, row in rows:
            if row.startswith("#"):
                word = re.match(r"#\s*(\w*)", row)
                kind = word[1] if word else ""
                if kind in ("if", "ifdef", "ifndef"):
                    open_.append((holds[_condition(row)],) * 2)
                elif kind == "elif" and open_:
                    open_[-1] = (not open_[-1][1] and holds[_condition(row)], open_[-1][1] or holds[_condition(row)])
                elif kind == "else" and open_:
                    open_[-1] = (not open_[-1][1], True)
                elif kind == "endif" and open_:
                    open_.pop()
            elif all(kept for kept, _ in open_):
                for part in row.split(";"):
                    yield from _labelled(Line(" ".join(part.split()), file, number))

    def _expanded(self, line: Line, depth: int) -> Iterator[Line]:
        words = re.match(r"(\w+)(?:\s+(.*))?$", line.text)
        macro = self._macros.get(words[1]) if words else None
        if words is None or macro is None:
            yield line
            return
        self._uses += 1
        given = [word for one in operands(words[2] or "") for word in _WORDS.split(one)]
        body = [Line(self._filled(macro, given, inner.text), inner.file, inner.number) for inner in macro.body]
        chosen = _decided(body)
        if depth > _DEPTH or chosen is None:
            yield Line(line.text, line.file, line.number, "\n".join(inner.text for inner in body))
            return
        for inner in chosen:
            yield from self._expanded(inner, depth + 1)

    def _filled(self, macro: _Macro, given: list[str], text: str) -> str:
        values = dict(macro.parameters)
        named = {p for p, _ in macro.parameters}
        place = 0
        for one in given:
            name, sign, value = one.partition("=")
            if sign and name.strip() in named:
                values[name.strip()] = value.strip()
            elif place < len(macro.parameters):
                values[macro.parameters[place][0]] = one
                place += 1
        text = text.replace("\\@", str(self._uses))
        text = re.sub(r"\\(\w+)", lambda m: values.get(m[1], m[0]), text)
        return text.replace("\\()", "")


def _decided(body: list[Line]) -> list[Line] | None:
    """The lines of a macro that are kept, where that is chosen by comparing text; None if it is chosen otherwise."""
    kept: list[Line] = []
    open_: list[bool] = []
    for line in body:
        word = line.text.partition(" ")[0]
        if word.startswith(".if") and not all(open_):
            open_.append(False)
        elif (found := _TEXTS.match(line.text)) is not None:
            open_.append(_same(found[2], found[3]) != bool(found[1]))
        elif word == ".endif" and open_:
            open_.pop()
        elif word == ".else" and open_:
            open_[-1] = all(open_[:-1]) and not open_[-1]
        elif all(open_[:-1]) and (word.startswith((".else", ".endif")) or (all(open_) and _CHOICE.match(line.text))):
            return None
        elif all(open_):
            kept.append(line)
    return None if open_ else kept


def _same(how: str, text: str) -> bool:
    """Whether two texts are the same, or one is blank, as GNU as compares them (manual, 7.44)."""
    if how == "b":
        return not text.strip()
    one, _, other = text.partition(",")
    return one.strip() == other.strip()


def _condition(row: str) -> str:
    """What a directive asks, as ``#if`` has it; nothing if it asks nothing."""
    found = re.match(r"#\s*(if|ifdef|ifndef|elif)\b\s*(.*)", row)
    if found is None:
        return ""
    return {"ifdef": f"defined({found[2]})", "ifndef": f"!defined({found[2]})"}.get(found[1], found[2])


def _labelled(line: Line) -> Iterator[Line]:
    """The labels before an instruction, and the instruction."""
    inner, label = _INNER.match(line.text), _LABEL.match(line.text)
    if inner is not None:
        yield Line(f"{inner[1]}:", line.file, line.number)
    elif label is not None:
        yield Line(f"{label[1]}:", line.file, line.number)
        yield from _labelled(Line(label[2], line.file, line.number))
    elif line.text:
        yield line


def operands(text: str) -> list[str]:
    """What stands between commas that are in no parentheses."""
    found, depth = [""], 0
    for sign in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            found.append("")
        else:
            found[-1] += sign
    return [one.strip() for one in found if one.strip()]
