"""Writes to what a structure with modelled members holds, without its members: for ``formal.kernel.recognition.scan``.

A pointer is known by its declaration, whatever its name: what it points to is assigned or filled as a whole, or it
becomes a pointer to numbers, after which nothing tells the member. A member of a union is written by its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from formal.kernel.text.tokens import NUMBERS, Token, arguments_of, chain_end, closing

STRUCTURES = frozenset(("kvm_vcpu", "kvm_vcpu_arch", "kvm_cpu_context", "kvm_host_data"))
_HELD = frozenset(("arch", "ctxt"))  # members that are such structures


def stores(
    words: Sequence[Token], members: Collection[str], fillers: Collection[str], assign: Collection[str]
) -> Iterator[tuple[Token, str, str]]:
    """The tokens at which such a write is, the place that it may write, and how.

    Args:
        members: the modelled members.
        fillers: functions whose first argument is filled.
        assign: the operators that write their left operand.
    """
    pointers = _pointers(words)
    blocks: list[bool] = []  # outside functions: whether each open block, or one around it, is a union
    for i, word in enumerate(words):
        if not word.function:
            if word.text == "{":
                blocks.append(any(w.text == "union" for w in words[max(i - 2, 0) : i]) or True in blocks)
            elif word.text == "}" and blocks:
                blocks.pop()
            elif word.text in members and True in blocks and words[i + 1].text in (";", "[", ","):
                yield word, word.text, "union"
        elif word.text in pointers and words[i - 1].text not in (".", "->"):
            yield from _through(words, i, assign)
        elif word.text == "(" and (end := _cast(words, i)):
            yield from _made_numbers(words, i, end, pointers)
        elif word.text in fillers and words[i + 1].text == "(":
            target = arguments_of(words, i + 1)[0]
            if len(target) == 1 and target[0].text in pointers:
                yield word, target[0].text, "store"


def _pointers(words: Sequence[Token]) -> frozenset[str]:
    """The variables and parameters of a file that are declared as pointers to one of the structures."""
    found = set()
    for i, word in enumerate(words[:-2]):
        if word.text in STRUCTURES and words[i - 1].text == "struct" and words[i + 1].text == "*":
            name = words[i + 3 if words[i + 2].text == "const" else i + 2]
            found |= {name.text} if name.text.isidentifier() else set()
    return frozenset(found)


def _through(words: Sequence[Token], i: int, assign: Collection[str]) -> Iterator[tuple[Token, str, str]]:
    """``*pointer = value``, ``pointer[i] = value``."""
    end = closing(words, i + 1) if words[i + 1].text == "[" else i
    starts = words[i - 1].text == "*" and words[i - 2].text in (";", "{", "}", ")")
    if words[end + 1].text in assign and (end > i or starts):
        yield words[i], words[i].text, "store"


def _cast(words: Sequence[Token], i: int) -> int:
    """The end of a cast to a pointer to numbers, or to nothing; 0 if that is none."""
    end = next((j for j in range(i + 1, min(i + 6, len(words))) if words[j].text == ")"), 0)
    inner = [word.text for word in words[i + 1 : end] if word.text not in ("const", "volatile", "__force")]
    return end if len(inner) > 1 and inner[-1] == "*" and {*inner[:-1]} <= {*NUMBERS, "void"} else 0


def _made_numbers(
    words: Sequence[Token], start: int, end: int, pointers: Collection[str]
) -> Iterator[tuple[Token, str, str]]:
    """A cast of such a pointer, or of the address of such a member; of ``void *``, what is counted on or kept."""
    operand = end + 2 if words[end + 1].text == "(" else end + 1
    address = words[operand].text == "&"
    last = chain_end(words, operand + 1) if address else operand
    following = words[last + 1].text if last + 1 < len(words) else ""
    named = words[last].text in (_HELD if address else pointers) and following not in (".", "->", "[", "(")
    numbers = "void" not in {word.text for word in words[start + 1 : end]}
    if named and (numbers or following in ("+", "-") or words[start - 1].text == "="):
        yield words[last], words[last].text, "address"
