"""What becomes of an lvalue in C text: it is written where it stands, its address is taken, or neither."""

from __future__ import annotations

from formal.kernel.text.tokens import Token, arguments_of, closing, ends_operand

ASSIGN = frozenset(("=", "|=", "&=", "^=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "++", "--"))
STORES = frozenset(  # their first argument is written
    "WRITE_ONCE smp_store_release smp_store_mb xchg xchg_relaxed cmpxchg cmpxchg_relaxed try_cmpxchg "
    "set_mask_bits swap get_user __get_user unsafe_get_user put_unaligned".split()
    + [
        f"{kind}this_cpu_{does}"
        for kind in ("", "__", "raw_")
        for does in "write inc dec add sub and or xchg cmpxchg add_return".split()
    ]
    + [f"raw_cpu_{does}" for does in "write inc dec add sub and or xchg cmpxchg".split()]
)
_GROUPING = frozenset(("return", "case", "else", "do"))  # a parenthesis after these is of no call


def use(words: list[Token], start: int, end: int) -> str:
    """How the expression of the tokens from ``start`` to ``end`` is used: ``store``, ``address``, or ``""`` (neither).

    Parentheses around it and dereferences before it count as nothing: ``(*x) = 1`` and ``&(x)`` are seen. Also a store
    are the first argument of a macro that writes it (``STORES``; both of ``swap``), and an output operand of inline
    assembly.
    """
    while True:
        if _text(words, start - 1) == "*" and not ends_operand(words, start - 2):
            start -= 1
        elif _text(words, start - 1) == "(" and _text(words, end + 1) == ")" and _groups(words, start - 1):
            start, end = start - 1, end + 1
        else:
            break
    before = _text(words, start - 1)
    if _text(words, end + 1) in ASSIGN or before in ("++", "--"):
        return "store"
    if before == "&" and not ends_operand(words, start - 2):
        return "address"
    if before == "(" and _text(words, start - 2)[:1] == '"' and _text(words, end + 1) == ")":
        return "store" if _text(words, start - 2)[1:2] in ("=", "+") else ""
    return "store" if _is_target(words, start, end) else ""


def stored_by(words: list[Token], i: int) -> list[Token]:
    """What the call of a macro of ``STORES`` at ``i`` may write: its first argument; of ``swap``, both."""
    arguments = arguments_of(words, i + 1)
    return [word for argument in arguments[: 2 if words[i].text == "swap" else 1] for word in argument]


def _is_target(words: list[Token], start: int, end: int) -> bool:
    """Whether the expression is a whole argument that a macro of ``STORES`` writes."""
    before, following = _text(words, start - 1), _text(words, end + 1)
    if before == "(" and following in (",", ")"):
        return _text(words, start - 2) in STORES
    if before == "," and following == ")":  # the second of swap(a, b)
        opened = next((j for j in range(start - 2, -1, -1) if closing(words, j) == end + 1), 0)
        return _text(words, opened - 1) == "swap"
    return False


def _groups(words: list[Token], i: int) -> bool:
    """Whether the parenthesis at ``i`` only groups: it holds no arguments, and nothing that a keyword asks about."""
    before = _text(words, i - 1)
    return before in _GROUPING or not (before.isidentifier() or before[:1] == '"')


def _text(words: list[Token], i: int) -> str:
    return words[i].text if 0 <= i < len(words) else ""
