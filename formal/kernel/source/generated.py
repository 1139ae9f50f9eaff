"""Headers that the kernel's build derives from tables: system register fields and CPU capabilities.

Formats: arch/arm64/tools/sysreg and arch/arm64/tools/cpucaps, read by gen-sysreg.awk and gen-cpucaps.awk (v5.13 and
v5.19 on). A line at which the kernel's generator would stop is left out, and noted: only what uses its macros has no
meaning then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    numbered = ((n, line.split("#")[0].split()) for n, line in enumerate(text.splitlines(), 1))
    return [(n, words) for n, words in numbered if words]


def cpucaps(path: Path, notes: list[str] | None = None) -> str:
    """The capability numbers: one name a line, numbered from 0; ``notes`` as for ``sysreg_defs``."""
    out: list[str] = []
    for n, words in _lines(path):
        if len(words) != 1 or not re.fullmatch(r"[vA-Z0-9_]+", words[0]):
            if notes is not None:
                notes.append(f"arch/arm64/tools/cpucaps:{n}: not a capability name: {' '.join(words)}")
            continue
        out.append(f"#define ARM64_{words[0]} {len(out)}")
    return "\n".join([*out, f"#define ARM64_NCAPS {len(out)}", ""])


@dataclass
class _Block:
    """What is being read: a register, a set of fields, a prefix in one of them, or the values of a field."""

    kind: str
    name: str = ""  # what its macros start with
    next_bit: int = 63  # fields are listed most significant first
    masks: dict[str, str] = field(default_factory=dict)  # the bits that no field has, as C


class _Table:
    """Reads arch/arm64/tools/sysreg by the grammar of the newest gen-sysreg.awk, which takes what older ones take.

    Where the generator would stop, the line is noted and left out: whoever uses its macros has no meaning then.
    """

    def __init__(self, *, names_shared_masks: bool) -> None:
        self.names_shared_masks = names_shared_masks  # v7.3
        self.out: list[str] = []
        self.blocks: list[_Block] = [_Block("Root")]

    def line(self, text: str, words: list[str]) -> None:
        """Reads one line.

        Raises:
            ValueError: if the kernel's generator would stop here, with the reason.
        """
        block, kind, rest = self.blocks[-1], words[0], words[1:]
        if kind in ("Sysreg", "SysregFields") and block.kind != "Root":
            del self.blocks[1:]
            self._top(kind, rest)
            raise ValueError(f"{block.name} has no end")
        if kind.startswith("End"):
            self._end(block, kind)
        elif block.kind == "Enum":
            if not re.search(r"0b[01]+", text):  # anywhere, as the generator has it: mainline has had 0b0002
                raise ValueError(f"unexpected {kind} in the values of {block.name}")
            self.out.append(f"#define {block.name}_{_only(rest)[0]} UL({kind})")
        elif block.kind == "Root":
            self._top(kind, rest)
        elif kind == "Prefix" and block.kind != "Prefix":
            if block.next_bit < 63:
                raise ValueError(f"the prefix {' '.join(rest)} comes after fields of {block.name}")
            self.blocks.append(_Block("Prefix", f"{_only(rest)[0]}_{block.name}", masks=_no_masks()))
        elif kind in ("Fields", "Mapping") and block.kind == "Sysreg":
            shared = _only(rest)[0]
            block.masks = {mask: f"{shared}_{mask}" for mask in _no_masks()} if self.names_shared_masks else {}
            block.next_bit = -1
        elif kind.upper() in _no_masks() or kind == "Raz":
            high, low = self._bits(block, _only(rest)[0])
            if kind.upper() in block.masks:
                block.masks[kind.upper()] += f" | GENMASK_ULL({high}, {low})"
        elif kind in ("Field", "Enum", "SignedEnum", "UnsignedEnum"):
            place, name = _only(rest, 2)
            self._field(block, kind, place, name)
        else:
            raise ValueError(f"unexpected {kind} in {block.name}")

    def _top(self, kind: str, rest: list[str]) -> None:
        if kind == "Sysreg":
            name, op0, op1, crn, crm, op2 = _only(rest, 6)
            self.out.append(f"#define REG_{name} S{op0}_{op1}_C{crn}_C{crm}_{op2}")
            self.out.append(f"#define SYS_{name} sys_reg({op0}, {op1}, {crn}, {crm}, {op2})")
            parts = zip(("Op0", "Op1", "CRn", "CRm", "Op2"), rest[1:], strict=True)
            self.out.extend(f"#define SYS_{name}_{part} {value}" for part, value in parts)
        elif kind == "SysregFields":
            (name,) = _only(rest)
        else:
            raise ValueError(f"unexpected {kind}")
        self.blocks.append(_Block(kind, name, masks=_no_masks()))

    def _field(self, block: _Block, kind: str, place: str, of_block: str) -> None:
        name = f"{block.name}_{of_block}"
        if kind.endswith("Enum"):
            self.blocks.append(_Block("Enum", name))
        high, low = self._bits(block, place)
        self.out.append(f"#define {name} GENMASK({high}, {low})")
        self.out.append(f"#define {name}_MASK GENMASK({high}, {low})")
        self.out.append(f"#define {name}_SHIFT {low}")
        self.out.append(f"#define {name}_WIDTH {high - low + 1}")
        if kind in ("SignedEnum", "UnsignedEnum"):
            self.out.append(f"#define {name}_SIGNED {'true' if kind == 'SignedEnum' else 'false'}")

    def _bits(self, block: _Block, place: str) -> tuple[int, int]:
        bits = re.fullmatch(r"(\d+)(?::(\d+))?", place)
        high = int(bits[1]) if bits else -1
        low = int(bits[2] or high) if bits else -1
        if not 0 <= low <= high <= 63:
            raise ValueError(f"bits {place} of {block.name}")
        expected, block.next_bit = block.next_bit, low - 1
        if high != expected:
            raise ValueError(f"bits {place} of {block.name} where bit {expected} is next")
        return high, low

    def _end(self, block: _Block, kind: str) -> None:
        if not kind.startswith(f"End{block.kind}"):  # so before v6.19: mainline has ended Sysreg with EndSysregFields
            there = [n for n, b in enumerate(self.blocks) if kind == f"End{b.kind}"]
            del self.blocks[there[-1] if there else len(self.blocks) :]
            raise ValueError(f"unexpected {kind} in {block.name or 'no block'}")
        self.blocks.pop()
        for mask, value in block.masks.items():
            self.out.append(f"#define {block.name}_{mask} ({value})")
        if block.kind != "Enum" and block.next_bit >= 0:
            raise ValueError(f"bits {block.next_bit}:0 of {block.name} are missing")


def _no_masks() -> dict[str, str]:
    return dict.fromkeys(("RES0", "RES1", "UNKN"), "UL(0)")


def _only(words: list[str], number: int = 1) -> list[str]:
    if len(words) != number:
        raise ValueError(f"{len(words)} words where {number} {'is' if number == 1 else 'are'} expected")
    return words


def sysreg_defs(path: Path, notes: list[str] | None = None) -> str:
    """The macros of every register of the table: encoding, and per field its mask, shift, width and values.

    The macro set is that of the newest generator (an older one lacks ``_UNKN`` and ``_SIGNED``), a superset.

    Args:
        notes: is given each line at which the kernel's generator would stop, and why.
    """
    generator = path.with_name("gen-sysreg.awk")
    text = generator.read_text(encoding="utf-8", errors="replace") if generator.exists() else ""
    table = _Table(names_shared_masks='$2 "_RES0"' in text)
    for n, words in _lines(path):
        try:
            table.line(" ".join(words), words)
        except ValueError as error:
            if notes is not None:
                notes.append(f"arch/arm64/tools/sysreg:{n}: the kernel's generator stops here: {error}")
    if len(table.blocks) > 1 and notes is not None:
        notes.append(f"arch/arm64/tools/sysreg: {table.blocks[-1].name} has no end")
    return "\n".join([*table.out, ""])
