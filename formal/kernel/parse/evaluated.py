"""Integer expressions and conditions of the preprocessor, evaluated by clang with the kernel's headers for C."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import clang.cindex as ci

from formal.kernel.parse.preamble import Preamble
from formal.kernel.parse.units import collect

_FILE = "/front-end/evaluated.c"
_LITERAL = re.compile(r"(?<![\w.])(0[xX][0-9a-fA-F]+|\d+)(?![\w.])")
_ASSEMBLER = "#define __ASSEMBLY__ 1\n#define __ASSEMBLER__ 1"


def evaluated(
    preamble: Preamble, expressions: Iterable[str], conditions: Sequence[str] = (), chosen: Iterable[str] = ()
) -> dict[str, int]:
    """The values of those expressions that have one, in 64 bits; of conditions (as ``#if`` has them) 1 or 0.

    The conditions are asked as of an assembler file, with these symbols of the configuration chosen.
    """
    numbers = {f"e{i}": e for i, e in enumerate(sorted({*expressions}))}
    asked = {f"c{i}": c for i, c in enumerate(conditions)}
    kind = "static const unsigned long long __lift_constant_"
    wide = {name: _LITERAL.sub(r"\1LL", one) for name, one in numbers.items()}  # the assembler's have 64 bits
    lines = [f"{kind}{name} = (unsigned long long)({one});" for name, one in wide.items()]
    lines += [_ASSEMBLER, *(f"#ifndef {symbol}\n#define {symbol} 1\n#endif" for symbol in chosen)]
    lines += [*(f"#if {one}\n{kind}{name} = 1;\n#endif" for name, one in asked.items())]
    arguments = [*preamble.flags, "-include-pch", preamble.pch]
    unsaved = [(_FILE, "\n".join([*lines, ""])), *preamble.unsaved]
    handle = ci.Index.create(excludeDecls=True).parse(_FILE, args=arguments, unsaved_files=unsaved)
    constants = collect(_FILE, handle, frozenset()).constants
    return {e: constants[n] for n, e in numbers.items() if n in constants} | {
        c: constants.get(n, 0) for n, c in asked.items()
    }
