"""C text as tokens with lines, and the function that each lies in; for files that are searched, not parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from formal.kernel.text.forms import TOKEN, without_comments

NUMBERS = frozenset("u8 u16 u32 u64 __u8 __u16 __u32 __u64 char short int long unsigned uintptr_t".split())
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


@lru_cache(maxsize=32)
def kept(text: str) -> tuple[Token, ...]:
    """The tokens of a C file that several searches read."""
    return tuple(tokens(text))


def closing(words: Sequence[Token], start: int) -> int:
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


def opening(words: Sequence[Token], end: int) -> int:
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


def chain_end(words: Sequence[Token], i: int) -> int:
    """The last token of the postfix expression that goes on from a member."""
    while i + 1 < len(words):
        following = words[i + 1].text
        if following == "[":
            i = closing(words, i + 1)
        elif following in (".", "->"):
            i += 2
        else:
            break
    return i


def chain_start(words: Sequence[Token], i: int) -> int:
    """The first token of the postfix expression that a member ends."""
    while i > 0 and words[i - 1].text in (".", "->"):
        i -= 2
        while i > 0 and words[i].text in (")", "]"):
            i = opening(words, i)
            if i > 0 and (words[i - 1].text.isidentifier() or words[i - 1].text in (")", "]")):
                i -= 1
    return max(i, 0)


def ends_operand(words: Sequence[Token], i: int) -> bool:
    """Whether the token ends an operand, so that an ``&`` after it is a binary operator; a cast does not."""
    if i > 0 and words[i].text == ")":
        start = next((j for j in range(i - 1, max(i - 5, -1), -1) if words[j].text not in NUMBERS), -1)
        if words[i - 1].text == "*" or (0 <= start < i - 1 and words[start].text == "("):
            return False
    return (
        i >= 0
        and (words[i].text in (")", "]") or words[i].text[0].isalnum() or words[i].text.isidentifier())
        and (words[i].text not in ("return", "case", "sizeof"))
    )


def arguments_of(words: Sequence[Token], start: int) -> list[list[Token]]:
    """The arguments of the call whose parenthesis is at ``start``."""
    end, depth = closing(words, start), 0
    arguments: list[list[Token]] = [[]]
    for word in words[start + 1 : end]:
        depth += (word.text in "([{") - (word.text in ")]}")
        if word.text == "," and depth == 0:
            arguments.append([])
        else:
            arguments[-1].append(word)
    return arguments
