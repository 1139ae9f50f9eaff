"""C text as tokens with lines, and the function that each lies in; for files that are searched, not parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from formal.kernel.forms import TOKEN, without_comments

_DIRECTIVE = re.compile(r"\s*#(?:\s*define\s+(\w+))?")


class Token(NamedTuple):
    """A token, its line, and the function or macro that it lies in ('' outside)."""

    text: str
    line: int
    function: str


def _plain(text: str) -> Iterator[tuple[str, int, str]]:
    """Tokens with their lines and the macro that is being defined; other preprocessor lines are left out."""
    line = 0
    lines = without_comments(text).split("\n")
    while line < len(lines):
        first = line
        parts = [lines[line]]
        while lines[line].endswith("\\") and line + 1 < len(lines):
            line += 1
            parts.append(lines[line])
        directive = _DIRECTIVE.match(parts[0]) if "#" in parts[0] else None
        if directive is None or directive.group(1):
            macro = f"macro {directive.group(1)}" if directive else ""
            for number, part in enumerate(parts, first + 1):
                for word in TOKEN.findall(part.removesuffix("\\")):
                    yield word, number, macro
        line += 1


def tokens(text: str) -> list[Token]:
    """The tokens of a C file. A function is named by the identifier before the parameters that precede its block."""
    found: list[Token] = []
    depth = nesting = 0
    candidate = function = ""
    last_word = ""
    for word, line, macro in _plain(text):
        if macro:
            found.append(Token(word, line, macro))
            continue
        if depth == 0:
            if word == "(":
                nesting += 1
                if nesting == 1 and last_word not in ("__printf", "__attribute__", "__section", "__aligned"):
                    candidate = candidate or last_word
            elif word == ")":
                nesting -= 1
            elif word in (";", "=", ",") and nesting == 0:
                candidate = ""
            elif word == "{" and nesting == 0:
                function = candidate
        if word.isidentifier():
            last_word = word
        elif word == "{" and nesting == 0:
            depth += 1
        elif word == "}" and nesting == 0:
            depth = max(0, depth - 1)
        elif depth > 0 and word in "()":
            nesting = 0
        found.append(Token(word, line, function if depth or word == "}" else ""))
        if depth == 0 and word == "}":
            candidate = function = ""
    return found


def closing(words: list[Token], start: int) -> int:
    """The position of the bracket that closes the one at ``start``; the end of the list if there is none."""
    depth = 0
    for i in range(start, len(words)):
        if words[i].text in ("(", "[", "{"):
            depth += 1
        elif words[i].text in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                return i
    return len(words) - 1


def opening(words: list[Token], end: int) -> int:
    """The position of the bracket that opens the one closed at ``end``; 0 if there is none."""
    depth = 0
    for i in range(end, -1, -1):
        if words[i].text in (")", "]", "}"):
            depth += 1
        elif words[i].text in ("(", "[", "{"):
            depth -= 1
            if depth == 0:
                return i
    return 0
