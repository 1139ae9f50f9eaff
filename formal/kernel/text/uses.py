"""What becomes of an lvalue in C text: it is written where it stands, its address is taken, or neither."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from formal.kernel.text.tokens import Token, arguments_of, chain_end, closing, ends_operand, tokens

ASSIGN = frozenset(("=", "|=", "&=", "^=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "++", "--"))
_FIRST = frozenset((0,))
STORES: Mapping[str, frozenset[int]] = {  # the kernel's macros that write some of their arguments: which
    **dict.fromkeys(
        "WRITE_ONCE smp_store_release smp_store_mb xchg xchg_relaxed cmpxchg cmpxchg_relaxed try_cmpxchg "
        "set_mask_bits get_user __get_user unsafe_get_user put_unaligned".split()
        + [
            f"{kind}this_cpu_{does}"
            for kind in ("", "__", "raw_")
            for does in "write inc dec add sub and or xchg cmpxchg add_return".split()
        ]
        + [f"raw_cpu_{does}" for does in "write inc dec add sub and or xchg cmpxchg".split()],
        _FIRST,
    ),
    "swap": frozenset((0, 1)),
}
_MACRO = re.compile(r"(?m)^[ \t]*#[ \t]*define[ \t]+\w+\((?:.*\\\n)*.*")  # one that takes arguments
_GROUPING = frozenset(("return", "case", "else", "do"))  # a parenthesis after these is of no call


def use(words: Sequence[Token], start: int, end: int, stores: Mapping[str, frozenset[int]] = STORES) -> str:
    """How the expression of the tokens from ``start`` to ``end`` is used: ``store``, ``address``, or ``""`` (neither).

    Parentheses around it and dereferences before it count as nothing: ``(*x) = 1`` and ``&(x)`` are seen. Also a store
    are an argument that a macro writes, and an output operand of inline assembly.

    Args:
        stores: the macros that write arguments, and which.
    """
    while True:
        if _text(words, start - 1) == "*" and not ends_operand(words, start - 2):
            start -= 1
        elif _text(words, start - 1) == "(" and _text(words, end + 1) == ")" and _groups(words, start - 1):
            start, end = start - 1, end + 1
        elif _text(words, end + 1) == "[":
            end = closing(words, end + 1)
        else:
            break
    before = _text(words, start - 1)
    if _text(words, end + 1) in (".", "->"):
        return ""  # a member of it, which has a name of its own
    if _text(words, end + 1) in ASSIGN or before in ("++", "--"):
        return "store"
    if before == "&" and not ends_operand(words, start - 2):
        return "address"
    if before == "(" and _text(words, start - 2)[:1] == '"' and _text(words, end + 1) == ")":
        return "store" if _text(words, start - 2)[1:2] in ("=", "+") else ""
    called, position = _argument(words, start, end)
    return "store" if position in stores.get(called, ()) else ""


def stored_by(words: Sequence[Token], i: int, positions: Iterable[int]) -> list[Token]:
    """The tokens of some arguments of the call at ``i``."""
    arguments = arguments_of(words, i + 1)
    return [word for position in positions for word in (arguments[position] if position < len(arguments) else ())]


def storing(texts: Iterable[str]) -> dict[str, frozenset[int]]:
    """The macros that write arguments, or take their address, and which: the kernel's, and those of some C texts.

    One that hands an argument on to another such macro writes it, too.
    """
    found = dict(STORES)
    macros = [macro for text in texts for macro in _macros(text)]
    while True:
        before = dict(found)
        for macro in macros:
            if which := _written(macro, found):
                found[macro[0].text] = found.get(macro[0].text, frozenset()) | which
        if found == before:
            return found


@lru_cache(maxsize=1024)
def _macros(text: str) -> tuple[list[Token], ...]:
    """The macros with parameters of a text: each its name, its parameters, its body."""
    return tuple(tokens(macro[0])[2:] for macro in _MACRO.finditer(text))


def _written(macro: Sequence[Token], stores: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """Which parameters a macro writes: its name, its parameters, its body."""
    names = [argument[0].text if len(argument) == 1 else "" for argument in arguments_of(macro, 1)]
    found = set()
    for i in range(closing(macro, 1) + 1, len(macro)):
        if macro[i].text in names and not {".", "->", "##"} & {_text(macro, i - 1), _text(macro, i + 1)}:
            end = chain_end(macro, i)
            plain = not {".", "->"} & {word.text for word in macro[i : end + 1]}
            if plain and use(macro, i, end, stores):
                found.add(names.index(macro[i].text))
    return frozenset(found)


def _argument(words: Sequence[Token], start: int, end: int) -> tuple[str, int]:
    """What is called with the expression as a whole argument, and which argument that is; ``("", 0)`` if nothing is."""
    if _text(words, start - 1) not in ("(", ",") or _text(words, end + 1) not in (",", ")"):
        return "", 0
    depth = commas = 0
    for i in range(start - 1, -1, -1):
        text = words[i].text
        depth += (text in (")", "]", "}")) - (text in ("(", "[", "{"))
        if depth < 0:
            return (_text(words, i - 1), commas) if text == "(" else ("", 0)
        if text == ";":
            break
        commas += text == "," and depth == 0
    return "", 0


def _groups(words: Sequence[Token], i: int) -> bool:
    """Whether the parenthesis at ``i`` only groups: it holds no arguments, and nothing that a keyword asks about."""
    before = _text(words, i - 1)
    return before in _GROUPING or not (before.isidentifier() or before[:1] == '"')


def _text(words: Sequence[Token], i: int) -> str:
    return words[i].text if 0 <= i < len(words) else ""
