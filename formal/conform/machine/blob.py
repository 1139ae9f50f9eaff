"""The block of memory through which Python tells the probe what to do, and reads what happened.

The layout is that of ``probe/probe.h``; ``tests/conform`` compares the two.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

from formal.conform.machine import asm

BLOB = 0x4020_0000  # where the block lies in the guest's memory
MAGIC = int.from_bytes(b"2LE-RCMD", "little")
DONE, BROKEN = 1, 2
HEADER = (
    "magic status broken_esr broken_elr watched n_ids ids n_states states accesses results".split()
)  # struct header
_IN_VECTORS = 0x4000


class X0(IntEnum):
    """What X0 holds when the code of an access runs."""

    ZERO = 0
    READ_BACK = 1
    OSLAR = 2
    WATCHED = 3


@dataclass(frozen=True)
class State:
    """What EL2 sets up: values of registers, 64 bits each (struct state)."""

    mdcr_el2: int = 0
    hcr_el2: int = 0
    cptr_el2: int = 0
    cpacr_el1: int = 0
    hstr_el2: int = 0
    mdscr_el1: int = 0
    pmuserenr_el0: int = 0
    pmselr_el0: int = 0
    hdfgrtr_el2: int = 0
    hdfgwtr_el2: int = 0
    hdfgrtr2_el2: int = 0
    hdfgwtr2_el2: int = 0
    oslar_el1: int = 0
    osdlr_el1: int = 0
    dbgbvr0_el1: int = 0
    dbgbcr0_el1: int = 0
    dbgwvr0_el1: int = 0
    dbgwcr0_el1: int = 0
    elr_el1: int = 0
    spsr_el1: int = 0


_STATE_FIELDS = [f.name for f in fields(State)]


@dataclass(frozen=True)
class Run:
    """One trip to EL1 or EL0: where the code begins, with which SPSR_EL2, and what X0 holds (struct access)."""

    code: int  # in instructions from the beginning of the code
    spsr: int
    x0: X0 = X0.ZERO
    reader: int = 0  # for READ_BACK: where MRS X0, <register>; RET is


@dataclass(frozen=True)
class Place:
    """Where an exception was taken from: instructions from the code's beginning, or from VBAR_EL1."""

    at: int
    in_vectors: bool = False

    def __str__(self) -> str:
        return f"VBAR_EL1+{4 * self.at:#x}" if self.in_vectors else f"instruction {self.at}"


@dataclass(frozen=True)
class Taken:
    """The exception that ended a run."""

    el: int  # taken to
    esr: int
    place: Place
    ss: bool  # SPSR_ELx.SS
    far_is_watched: bool = False

    @property
    def ec(self) -> int:
        """Exception class."""
        return self.esr >> 26

    @property
    def iss(self) -> int:
        """Instruction specific syndrome, 25 bits."""
        return self.esr & 0x1FF_FFFF

    def __str__(self) -> str:
        return f"to EL{self.el}, EC {self.ec:#04x}, ISS {self.iss:#x}, at {self.place}, SPSR.SS {self.ss:d}"


def decode(result: int) -> Taken:
    """One result of the probe."""
    where = result >> 32 & 0xFFFF
    if _IN_VECTORS <= where < _IN_VECTORS + 512:
        place = Place(where - _IN_VECTORS, in_vectors=True)
    else:
        place = Place(where - 0x1_0000 if where & 0x8000 else where)
    return Taken(result >> 48 & 3, result & 0xFFFF_FFFF, place, bool(result >> 50 & 1), bool(result >> 51 & 1))


class ProbeError(Exception):
    """The probe did not finish; the message says how far it came."""


class Blob:
    """One block: what to identify, the code, and the runs by state; then the results."""

    def __init__(self, ids: Sequence[int], code: Sequence[int], runs: Sequence[Run]) -> None:
        self.n_ids = len(ids)
        self._states: list[tuple[State, int, int]] = []
        self._ids = b"".join(struct.pack("<IIQQ", mrs, asm.RET, 0, 0) for mrs in ids)
        self.ids_at = 8 * len(HEADER)
        self.code_at = self.ids_at + len(self._ids)
        self._code = struct.pack(f"<{len(code)}I", *code)
        self._code += b"\0" * (-len(self._code) % 8)
        self._runs = b"".join(
            struct.pack("<4I", self.code_at + 4 * r.code, r.spsr, self.code_at + 4 * r.reader, r.x0) for r in runs
        )
        self.runs_at = self.code_at + len(self._code)
        self.n_results = 0

    def address(self, instruction: int) -> int:
        """Where an instruction of the code lies in the guest's memory."""
        return BLOB + self.code_at + 4 * instruction

    @property
    def watched(self) -> int:
        """The address of the double word that watchpoints watch."""
        return BLOB + 8 * HEADER.index("watched")

    def add(self, state: State, first: int, count: int) -> None:
        """Runs ``count`` accesses from ``first`` on under this state; their results follow those added before."""
        self._states.append((state, first, count))
        self.n_results += count

    def pack(self) -> bytes:
        """The block as the probe finds it."""
        states_at = self.runs_at + len(self._runs)
        states = b"".join(
            struct.pack(f"<{len(_STATE_FIELDS) + 2}Q", *(getattr(s, name) for name in _STATE_FIELDS), first, count)
            for s, first, count in self._states
        )
        self.results_at = states_at + len(states)
        header = struct.pack(
            f"<{len(HEADER)}Q",
            *(MAGIC, 0, 0, 0, 0, self.n_ids, self.ids_at, len(self._states), states_at, self.runs_at, self.results_at),
        )
        return header + self._ids + self._code + self._runs + states

    @property
    def size(self) -> int:
        """Bytes that the block takes, results included; known after ``pack``."""
        return self.results_at + 8 * self.n_results

    def unpack(self, memory: bytes) -> tuple[list[int | None], list[int]]:
        """The values of the identification registers (None if UNDEFINED), and the results, in the order of ``add``.

        Raises:
            ProbeError: if the probe has not run to its end.
        """
        head = dict(zip(HEADER, struct.unpack_from(f"<{len(HEADER)}Q", memory), strict=True))
        if head["status"] == BROKEN:
            raise ProbeError(
                f"unexpected exception at EL2: ESR_EL2 {head['broken_esr']:#x}, ELR_EL2 {head['broken_elr']:#x}"
            )
        if head["magic"] != MAGIC or head["status"] != DONE:
            raise ProbeError("the emulator ended before the probe did")
        values: list[int | None] = []
        for i in range(self.n_ids):
            _, _, value, undefined = struct.unpack_from("<IIQQ", memory, self.ids_at + 24 * i)
            values.append(None if undefined else value)
        return values, list(struct.unpack_from(f"<{self.n_results}Q", memory, self.results_at))
