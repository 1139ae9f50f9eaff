"""Headers that the kernel's build derives from tables: system register fields and CPU capabilities.

Formats: arch/arm64/tools/sysreg and arch/arm64/tools/cpucaps, read by gen-sysreg.awk and gen-cpucaps.awk (v5.13 and
v5.19 on). A line that is not understood refuses the tree.
"""

from __future__ import annotations

import re
from pathlib import Path

from formal.kernel.errors import NotUnderstoodError

_BITS = re.compile(r"(\d+)(?::(\d+))?$")


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    numbered = ((n, line.split("#")[0].split()) for n, line in enumerate(text.splitlines(), 1))
    return [(n, words) for n, words in numbered if words]


def cpucaps(path: Path) -> str:
    """The capability numbers: one name a line, numbered from 0."""
    out: list[str] = []
    for n, words in _lines(path):
        if len(words) != 1 or not re.fullmatch(r"[vA-Z0-9_]+", words[0]):
            raise NotUnderstoodError("arch/arm64/tools/cpucaps", n, f"not a capability name: {' '.join(words)}")
        out.append(f"#define ARM64_{words[0]} {len(out)}")
    return "\n".join([*out, f"#define ARM64_NCAPS {len(out)}", ""])


class _Block:
    """A register (or a set of fields shared by registers) being read, most significant field first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next_bit = 63
        self.masks: dict[str, list[str]] = {"RES0": [], "RES1": [], "UNKN": []}
        self.shared = False  # its fields are those of another block
        self.outer: _Block | None = None  # of a prefix: the register whose fields it gives once more

    def ending(self) -> list[str]:
        if self.shared:
            return []
        parts = {kind: " | ".join(["UL(0)", *masks]) for kind, masks in self.masks.items()}
        return [f"#define {self.name}_{kind} ({value})" for kind, value in parts.items()]


def sysreg_defs(path: Path) -> str:
    """The macros of every register of the table: encoding, and per field its mask, shift, width and values.

    The macro set is that of the newest generator (an older one lacks ``_UNKN`` and ``_SIGNED``), a superset.
    """
    out: list[str] = []
    block: _Block | None = None
    enum = ""
    for n, words in _lines(path):
        kind, rest = words[0], words[1:]

        def bad(reason: str, line: int = n) -> NotUnderstoodError:
            return NotUnderstoodError("arch/arm64/tools/sysreg", line, reason)

        if enum:
            if kind == "EndEnum":
                enum = ""
            elif re.fullmatch(r"0b[01]+", kind) and len(rest) == 1:
                out.append(f"#define {enum}_{rest[0]} UL({kind})")
            else:
                raise bad(f"unexpected {kind} in the values of {enum}")
        elif block is None:
            if kind == "Sysreg" and len(rest) == 6:
                block = _Block(rest[0])
                op0, op1, crn, crm, op2 = rest[1:]
                out.append(f"#define REG_{block.name} S{op0}_{op1}_C{crn}_C{crm}_{op2}")
                out.append(f"#define SYS_{block.name} sys_reg({op0}, {op1}, {crn}, {crm}, {op2})")
                parts = zip(("Op0", "Op1", "CRn", "CRm", "Op2"), rest[1:], strict=True)
                out.extend(f"#define SYS_{block.name}_{part} {value}" for part, value in parts)
            elif kind == "SysregFields" and len(rest) == 1:
                block = _Block(rest[0])
            else:
                raise bad(f"unexpected {kind}")
        elif kind == "Prefix" and len(rest) == 1 and block.outer is None and block.next_bit == 63:  # 7.x
            inner = _Block(f"{rest[0]}_{block.name}")
            inner.outer, block = block, inner
        elif kind in ("EndSysreg", "EndSysregFields", "EndPrefix"):
            if (kind == "EndPrefix") != (block.outer is not None):
                raise bad(f"unexpected {kind} in {block.name}")
            if block.next_bit > 0:
                raise bad(f"bits {block.next_bit}:0 of {block.name} are missing")
            out.extend(block.ending())
            block = block.outer
        elif kind in ("Fields", "Mapping") and len(rest) == 1:
            block.shared, block.next_bit = True, 0
        elif kind in ("Res0", "Res1", "Unkn", "Raz", "Field", "Enum", "SignedEnum", "UnsignedEnum") and rest:
            bits = _BITS.match(rest[0])
            high = int(bits.group(1)) if bits else -1
            low = int(bits.group(2) or high) if bits else -1
            if high != block.next_bit or not 0 <= low <= high:
                raise bad(f"bits {rest[0]} of {block.name} where bit {block.next_bit} is next")
            block.next_bit = low - 1
            if kind.upper() in block.masks:
                block.masks[kind.upper()].append(f"GENMASK_ULL({high}, {low})")
            elif kind != "Raz":
                if len(rest) != 2:
                    raise bad(f"a field of {block.name} without a name")
                name = f"{block.name}_{rest[1]}"
                out.append(f"#define {name} GENMASK({high}, {low})")
                out.append(f"#define {name}_MASK GENMASK({high}, {low})")
                out.append(f"#define {name}_SHIFT {low}")
                out.append(f"#define {name}_WIDTH {high - low + 1}")
                if kind in ("SignedEnum", "UnsignedEnum"):
                    out.append(f"#define {name}_SIGNED {'true' if kind == 'SignedEnum' else 'false'}")
                if kind.endswith("Enum"):
                    enum = name
        else:
            raise bad(f"unexpected {kind} in {block.name}")
    if block is not None or enum:
        raise NotUnderstoodError("arch/arm64/tools/sysreg", 0, f"{enum or (block and block.name)} has no end")
    return "\n".join([*out, ""])
