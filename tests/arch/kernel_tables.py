"""Reads tables out of a Linux source tree, for the tests to compare with: encodings, fields, nested traps.

The trees are those under the directory that the environment variable KVM_TREES names (linux-source-5.10 and so on).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

Encoding = tuple[int, int, int, int, int]


def trees() -> list[Path]:
    """Every source tree that the environment offers; none if it offers none."""
    root = os.environ.get("KVM_TREES")
    return sorted(p for p in Path(root).glob("linux-source-*") if (p / "arch/arm64").is_dir()) if root else []


def tree(name: str) -> Path:
    """One tree by its directory name; skips the test if it is not there."""
    for path in trees():
        if path.name == name:
            return path
    pytest.skip(f"needs {name} in the directory that the environment variable KVM_TREES names")


def text(root: Path, path: str) -> str:
    """A file without its comments and with continued lines joined."""
    return re.sub(r"/\*.*?\*/", "", (root / path).read_text(), flags=re.S).replace("\\\n", " ")


def macros(*sources: str) -> dict[str, Any]:
    """The #defines of the sources that Python can evaluate, lazily: names to values, macros to functions."""
    raw: dict[str, tuple[list[str] | None, str]] = {}
    for source in sources:
        for name, args, body in re.findall(r"^#\s*define\s+(\w+)(\([\w, ]*\))?[ \t]+(.+)$", source, re.M):
            raw[name] = ([a.strip() for a in args[1:-1].split(",")] if args else None, body)

    class Names(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            args, body = raw[name]
            body = re.sub(r"\(u(?:8|16|32|64|nsigned)\)|(?<=[0-9a-fA-F])(?:ULL|UL|U)\b", "", body.strip())
            value = eval(f"lambda {', '.join(args)}: {body}" if args else body, self)
            self[name] = value
            return value

    names = Names(__builtins__={})
    names.update(
        sys_reg=lambda *fields: fields,
        UL=lambda n: n,
        BIT=lambda n: 1 << n,
        GENMASK=lambda hi, lo: (1 << (hi + 1)) - (1 << lo),
        _AC=lambda n, _: n,
    )
    names["UINT64_C"] = names["BIT_ULL"] = names["BIT"]
    return names


def sysreg_file(root: Path) -> tuple[dict[str, Encoding], dict[str, dict[str, tuple[int, int]]]]:
    """arch/arm64/tools/sysreg: encodings, and the fields of every register or set of fields."""
    encodings: dict[str, Encoding] = {}
    fields: dict[str, dict[str, tuple[int, int]]] = {}
    same: dict[str, str] = {}
    current = ""
    path = root / "arch/arm64/tools/sysreg"
    for line in path.read_text().splitlines() if path.exists() else ():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "Sysreg":
            current = words[1]
            encodings[current] = tuple(map(int, words[2:7]))  # type: ignore[assignment]
            fields[current] = {}
        elif words[0] == "SysregFields":
            current = words[1]
            fields[current] = {}
        elif words[0] == "Fields":
            same[current] = words[1]
        elif words[0] in ("Field", "Enum", "SignedEnum", "UnsignedEnum") and len(words) > 2:
            hi, _, lo = words[1].partition(":")
            fields[current][words[2]] = (int(hi), int(lo or hi))
    return encodings, {name: fields.get(same.get(name, name), {}) for name in fields}  # some name no block


def encodings(root: Path) -> Any:
    """SYS_* names to encodings, or to functions of an index, from sysreg.h and tools/sysreg."""
    names = macros(text(root, "arch/arm64/include/asm/sysreg.h"))
    names.update({f"SYS_{name}": encoding for name, encoding in sysreg_file(root)[0].items()})
    return names


def nested_traps(root: Path) -> tuple[dict[Encoding, set[str]], dict[Encoding, set[tuple[str, str, int]]]]:
    """emulate-nested.c, by encoding: coarse controls ("TDA", "E2PB=0", "TTA"), fine ones (group, bit, polarity)."""
    source = text(root, "arch/arm64/kvm/emulate-nested.c")
    names = encodings(root)
    control: dict[str, str] = {"CGT_CPTR_TTA": "TTA"}
    for cgt, body in re.findall(r"\[(CGT_MDCR_\w+)\]\s*=\s*\{(.*?)\}", source, re.S):
        value = re.search(r"\.value\s*=\s*([^,]+),", body)
        assert value is not None
        field = cgt.removeprefix("CGT_MDCR_")
        control[cgt] = f"{field}=0" if value[1].strip() == "0" else field
    groups = {cgt: {name} for cgt, name in control.items()}
    for cgt, members in re.findall(r"MCB\((CGT_MDCR_\w+),([^)]+)\)", source):
        groups[cgt] = {control[m.strip()] for m in members.split(",")}

    coarse: dict[Encoding, set[str]] = {}
    for register, cgt in re.findall(r"SR_TRAP\((SYS_\w+(?:\(\d+\))?),\s*(CGT_\w+)\)", source):
        if cgt in groups:
            coarse[eval(register, names)] = groups[cgt]
    for first, last, cgt in re.findall(r"SR_RANGE_TRAP\((sys_reg\([^)]*\)),\s*(sys_reg\([^)]*\)),\s*(\w+)\)", source):
        if cgt in groups:
            low, high = eval(first, names), eval(last, names)
            for crn in range(low[2], high[2] + 1):
                for rest in range(128):
                    encoding = (low[0], low[1], crn, rest >> 3, rest & 7)
                    if low <= encoding <= high:
                        coarse[encoding] = groups[cgt]
    fine: dict[Encoding, set[tuple[str, str, int]]] = {}
    for register, group, bit, polarity in re.findall(
        r"SR_FGT\((SYS_\w+(?:\(\d+\))?),\s*(HDFG\w+),\s*(\w+),\s*(\d)\)", source
    ):
        fine.setdefault(eval(register, names), set()).add((group, bit, int(polarity)))
    return coarse, fine
