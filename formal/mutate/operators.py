"""Small edits of C text, each at one place: the mistakes that people make, and that a comparison must not miss.

    for edit in edits(text, functions):          # every operator at every site inside these functions
        edit.apply(text)

An edit keeps the lines as they are. Whether the result compiles is not looked at; what does not is refused later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|\d\w*|<<=|>>=|->|\+\+|--|<<|>>|[<>=!&|^+*/%-]=|&&|\|\||\S'
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_DIRECTIVE = re.compile(r"(?m)^[ \t]*#[^\n]*(?:\\\n[^\n]*)*")
_PAIRS = {"&&": ("||",), "||": ("&&",), "==": ("!=",), "!=": ("==",), "<": ("<=", ">="), ">": (">=", "<="),
          "<=": ("<", ">"), ">=": (">", "<"), "|=": ("=", "&="), "&=": ("=", "|="), "+=": ("-=", "="), "-=": ("+=",),
          "<<": (">>",), ">>": ("<<",), "^": ("|",)}  # fmt: skip
# names that are easily taken for one another: each is replaced by the next of its group
_SIBLINGS = tuple(group.split() for group in (
    "MDCR_EL2_TPM MDCR_EL2_TPMS MDCR_EL2_TTRF MDCR_EL2_TPMCR MDCR_EL2_TDRA MDCR_EL2_TDOSA MDCR_EL2_TDE MDCR_EL2_TDA",
    "DBG_MDSCR_SS DBG_MDSCR_KDE DBG_MDSCR_MDE", "KVM_GUESTDBG_ENABLE KVM_GUESTDBG_SINGLESTEP KVM_GUESTDBG_USE_HW",
    "dbg_bcr dbg_bvr dbg_wcr dbg_wvr", "vcpu_debug_state external_debug_state", "vcpu_set_flag vcpu_clear_flag",
    "DEBUG_DIRTY DBG_SS_ACTIVE_PENDING", "INCREMENT_PC PENDING_EXCEPTION", "MDSCR_EL1 OSLSR_EL1 MDCCINT_EL1",
    "host_ctxt guest_ctxt", "mdcr_el2 mdcr_el2_host", "mdscr_el1 mdcr_el2", "pmuserenr_el0 pmselr_el0",
    "SYS_ELR SYS_SPSR SYS_ESR", "save_guest_debug_regs restore_guest_debug_regs", "is_write is_aarch32", "true false",
    "ESR_ELx_EC_SOFTSTP_LOW ESR_ELx_EC_WATCHPT_LOW ESR_ELx_EC_BREAKPT_LOW ESR_ELx_EC_BRK64",
    "trap_bvr trap_bcr trap_wvr trap_wcr", "set_bvr set_bcr set_wvr set_wcr", "reset_bvr reset_bcr reset_wvr reset_wcr",
    "trap_debug_regs trap_raz_wi", "trap_oslar_el1 trap_oslsr_el1", "kvm_arm_setup_debug kvm_arm_clear_debug",
    "VCPU_DEBUG_FREE VCPU_DEBUG_HOST_OWNED VCPU_DEBUG_GUEST_OWNED", "HOST_SS_ACTIVE_PENDING GUEST_SS_ACTIVE_PENDING",
    "MDSCR_EL1_SS MDSCR_EL1_KDE MDSCR_EL1_MDE", "kvm_host_owns_debug_regs kvm_guest_owns_debug_regs", "BRPs WRPs",
    "kvm_vcpu_load_debug kvm_vcpu_put_debug", "kvm_arch_vcpu_load kvm_arch_vcpu_put", "CRm Op2 CRn", "pstate pc",
    "regval val",
))  # fmt: skip
_NEXT = [(name, group[(i + 1) % len(group)]) for group in _SIBLINGS for i, name in enumerate(group)]
_NO_STATEMENT = frozenset(  # words with which a simple statement does not start
    "if else for while do switch case default return goto break continue static const struct int bool unsigned long "
    "void char u8 u16 u32 u64 enum union typedef __u32 __u64 size_t".split()
)


@dataclass(frozen=True)
class Edit:
    """One change: ``old`` at an offset becomes ``new``."""

    operator: str
    function: str  # that it lies in; empty: outside functions
    line: int
    offset: int
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The changed text."""
        assert text.startswith(self.old, self.offset)
        return text[: self.offset] + self.new + text[self.offset + len(self.old) :]

    def __str__(self) -> str:
        old, new = (" ".join(part.split()) for part in (self.old, self.new))
        return f"{self.line}: {self.operator} in {self.function or 'a table'}: {old} -> {new or 'nothing'}"


@dataclass(frozen=True)
class _Word:
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def edits(text: str, functions: Collection[str], tables: Collection[str] = ()) -> Iterator[Edit]:
    """Every operator at every site inside the named functions, and of the elements of the named tables."""
    for name, words in _bodies(text, (*functions, *tables)):
        for operator, start, end, new in _in_body(text, words, name in functions):
            line = text.count("\n", 0, start) + 1
            kept = "\n" * text.count("\n", start, end)
            padded = new if "\n" in new or not kept else new + kept
            yield Edit(operator, name if name in functions else "", line, start, text[start:end], padded)


@dataclass(frozen=True)
class Reach:
    """What an edit may change by itself: the statements it lies in, those that they govern, and what a jump skips."""

    first: int  # line
    last: int
    names: frozenset[str]  # the identifiers there, and those that the edit brings


def reach(text: str, edit: Edit) -> Reach:
    """The reach of an edit inside a function: a jump out of a loop or to a label has that of the whole function.

    Args:
        text: the file as it was before the edit.
    """
    body = next(words for _, words in _bodies(text, (edit.function,)) if words[0].start <= edit.offset < words[-1].end)
    end = edit.offset + len(edit.old)
    first = last = _start(body, next(i for i, word in enumerate(body) if word.end > edit.offset))
    while body[last - 1].end < end:
        last = _end(body, last)
    words = {word.text for word in body[first:last]}
    if "return" in words:
        last = len(body)
    if not words.isdisjoint(("goto", "break", "continue")):
        first, last = 0, len(body)
    lines = [text.count("\n", 0, at) + 1 for at in (body[first].start, body[last - 1].end)]
    names = {word.text for word in body[first:last]} | set(_TOKEN.findall(edit.new))
    return Reach(lines[0], lines[1], frozenset(name for name in names if name.isidentifier()))


def _start(words: list[_Word], i: int) -> int:
    """Where the statement around a word starts."""
    i = _outside_parentheses(words, i)
    depth = 0
    while i and (depth > 0 or words[i - 1].text not in (";", "{", "}")):
        i -= 1
        depth = max(0, depth + {")": 1, "(": -1}.get(words[i].text, 0))
    return i


def _outside_parentheses(words: list[_Word], i: int) -> int:
    """The outermost parenthesis around a word, within its block; the word itself if there is none."""
    blocks = depth = 0
    for j in range(i - 1, -1, -1):
        blocks += {"}": 1, "{": -1}.get(words[j].text, 0)
        if blocks < 0:
            break
        if blocks == 0 and words[j].text in ("(", ")"):
            depth += 1 if words[j].text == ")" else -1
            if depth < 0:
                i, depth = j, 0
    return i


def _end(words: list[_Word], i: int) -> int:
    """Where the statement that starts at a word ends, with all that it governs."""
    if i >= len(words):
        return i
    if words[i].text == "{":
        depth = 0
        for j in range(i, len(words)):
            depth += {"{": 1, "}": -1}.get(words[j].text, 0)
            if depth == 0:
                return j + 1
        return len(words)
    if words[i].text in ("else", "do"):
        return _end(words, i + 1)
    if words[i].text in ("if", "for", "while", "switch"):
        end = _end(words, _closing(words, i + 1) + 1)
        return _end(words, end + 1) if end < len(words) and words[end].text == "else" else end
    while i < len(words) and words[i].text not in (";", "{", "}"):
        i = _closing(words, i) + 1 if words[i].text == "(" else i + 1
    return min(i + 1, len(words))


def _blank(text: str) -> str:
    """The text with comments and directives blanked, so that offsets stay."""
    for pattern in (_COMMENT, _DIRECTIVE):
        text = pattern.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    return text


def _bodies(text: str, names: Collection[str]) -> Iterator[tuple[str, list[_Word]]]:
    """The words of each definition between its outermost braces."""
    blanked = _blank(text)
    for name in names:
        for found in re.finditer(rf"(?m)^[A-Za-z_][^;{{}}=]*?\b{name}\s*(?:\([^;{{]*\)\s*|\[\]\s*=\s*)\{{", blanked):
            depth, at = 1, found.end()
            while depth and at < len(blanked):
                depth += {"{": 1, "}": -1}.get(blanked[at], 0)
                at += 1
            inside = _TOKEN.finditer(blanked, found.end(), at - 1)
            yield name, [_Word(m[0], m.start()) for m in inside]


def _in_body(text: str, words: list[_Word], statements: bool) -> Iterator[tuple[str, int, int, str]]:
    for i, word in enumerate(words):
        before = words[i - 1].text if i else ""
        for other in _PAIRS.get(word.text, ()):
            if not (word.text in "<>" and before == "#"):
                yield "operator", word.start, word.end, other
        if word.text == "!" and words[i + 1].text != "=":
            yield "negation dropped", word.start, word.end, ""
        if word.text == "~":
            yield "complement dropped", word.start, word.end, ""
        if re.fullmatch(r"0|[1-9]\d*|0x[0-9a-fA-F]+", word.text):
            yield "constant", word.start, word.end, str(int(word.text, 0) + 1)
        for name, other in _NEXT:
            if word.text == name:
                yield "name", word.start, word.end, other
        if word.text == "if" and words[i + 1].text == "(":
            end = _closing(words, i + 1)
            yield (
                "condition negated",
                words[i + 1].end,
                words[end].start,
                f"!({text[words[i + 1].end : words[end].start]})",
            )
    if statements:
        yield from _statements(text, words)


def _statements(text: str, words: list[_Word]) -> Iterator[tuple[str, int, int, str]]:
    """Simple statements deleted, and swapped with the next one of the same block."""
    previous: tuple[int, int] | None = None
    i = 0
    while i < len(words):
        starts = i == 0 or words[i - 1].text in ("{", "}", ";", "else", ":") or _closes_condition(words, i - 1)
        if starts and words[i].text not in _NO_STATEMENT and words[i].text not in ("{", "}", ";"):
            end = i
            while end < len(words) and words[end].text not in (";", "{", "}"):
                end = _closing(words, end) + 1 if words[end].text == "(" else end + 1
            if end < len(words) and words[end].text == ";" and not _declares(words, i, end):
                start, stop = words[i].start, words[end].end
                yield "statement deleted", start, stop, ";"
                between = text[previous[1] : start] if previous else ""
                if previous and not between.strip() and text[previous[0] : previous[1]] != text[start:stop]:
                    swapped = text[start:stop] + between + text[previous[0] : previous[1]]
                    yield "statements swapped", previous[0], stop, swapped
                previous = (start, stop)
                i = end + 1
                continue
        previous = None
        i += 1


def _closes_condition(words: list[_Word], i: int) -> bool:
    """Whether a parenthesis closes the condition of an ``if``."""
    if words[i].text != ")":
        return False
    depth = 0
    for j in range(i, -1, -1):
        depth += {")": 1, "(": -1}.get(words[j].text, 0)
        if depth == 0:
            return j > 0 and words[j - 1].text == "if"
    return False


def _declares(words: list[_Word], start: int, end: int) -> bool:
    """Whether words are a declaration: two names, or a name and a star, in a row at the start."""
    first, second = words[start].text, words[start + 1].text if start + 1 < end else ""
    return first.isidentifier() and (second.isidentifier() or (second == "*" and words[start + 2].text.isidentifier()))


def _closing(words: list[_Word], i: int) -> int:
    depth = 0
    for j in range(i, len(words)):
        depth += {"(": 1, ")": -1}.get(words[j].text, 0)
        if depth == 0:
            return j
    return len(words) - 1
