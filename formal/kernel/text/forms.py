"""The forms of a macro or inline function that the front end was written for.

Where the front end replaces a definition of the kernel by its own meaning, it first compares the tree's definition,
token by token, with the definitions that a person has read (``forms.toml``: a hash of the tokens, and what was read).
A definition that nobody has read refuses the tree. Comments and white space do not count.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from formal.kernel.errors import NotUnderstoodError

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')", re.S)
TOKEN = re.compile(
    r"""[A-Za-z_]\w*|\.?\d(?:[eEpP][+-]|[\w.])*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"""|\.\.\.|<<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|\S"""
)


def without_comments(text: str) -> str:
    """C text with each comment replaced by as many line ends as it had, or a blank; literals are left alone."""
    return _COMMENT.sub(lambda m: m.group(1) or "\n" * m.group(0).count("\n") or " ", text)


def tokens(text: str) -> list[str]:
    """The preprocessing tokens of C text, comments and line continuations removed."""
    return TOKEN.findall(without_comments(text.replace("\\\n", " ")))


def fingerprint(text: str) -> str:
    """A hash of the tokens of a definition."""
    return hashlib.sha256("\x00".join(tokens(text)).encode()).hexdigest()[:20]


def macro_text(text: str, line: int) -> str:
    """The ``#define`` that starts at a line, with its continuation lines, from the macro's name on."""
    lines = text.split("\n")[line - 1 :]
    taken: list[str] = []
    for part in lines:
        taken.append(part)
        if not part.endswith("\\"):
            break
    return re.sub(r"^\s*#\s*define\s+", "", "\n".join(taken))


@dataclass(frozen=True)
class Known:
    """The reviewed definitions: name -> hash -> what the reader saw."""

    forms: Mapping[str, Mapping[str, str]]

    def check(self, name: str, text: str, file: str, line: int) -> None:
        """Refuses a definition that is not among those reviewed.

        Raises:
            NotUnderstoodError: at the definition.
        """
        if fingerprint(text) not in self.forms.get(name, {}):
            raise NotUnderstoodError(file, line, f"{name} is not defined as in the kernels known ({fingerprint(text)})")


@lru_cache(maxsize=1)
def known() -> Known:
    """The table that comes with this package."""
    text = resources.files("formal.kernel.text").joinpath("forms.toml").read_text(encoding="utf-8")
    return Known(tomllib.loads(text))
