"""C text without comments, and its preprocessing tokens."""

from __future__ import annotations

import re
from functools import lru_cache

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')", re.S)
TOKEN = re.compile(
    r"""[A-Za-z_]\w*|\.?\d(?:[eEpP][+-]|[\w.])*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"""|\.\.\.|<<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|\S"""
)


@lru_cache(maxsize=512)  # several rules read the same files
def without_comments(text: str) -> str:
    """C text with each comment replaced by as many line ends as it had, or a blank; literals are left alone."""
    return _COMMENT.sub(lambda m: m.group(1) or "\n" * m.group(0).count("\n") or " ", text)


def tokens(text: str) -> list[str]:
    """The preprocessing tokens of C text, comments and line continuations removed."""
    return TOKEN.findall(without_comments(text.replace("\\\n", " ")))
