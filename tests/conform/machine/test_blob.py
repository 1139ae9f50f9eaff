"""The block of memory that Python and the probe share."""

import re
import struct
from dataclasses import fields

import pytest

from formal.conform.machine import asm, blob
from formal.conform.machine.blob import Blob, Place, ProbeError, Run, State, decode
from formal.conform.machine.build import SOURCES

HEADER_FILE = (SOURCES / "probe.h").read_text()


def members(name):
    """The names of a struct's members in probe.h."""
    body = re.search(rf"struct {name} {{(.*?)}};", HEADER_FILE, re.S)[1]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    return [word for line in re.findall(r"u(?:32|64) ([^;]+);", body) for word in re.findall(r"\w+", line)]


def constant(name):
    """The value of a macro in probe.h."""
    return int(re.search(rf"#define {name} (\w+?)(?:UL)?\s", HEADER_FILE)[1], 0)


def test_layout_is_that_of_the_probe():
    assert members("header") == list(blob.HEADER)
    assert members("state") == [f.name for f in fields(State)] + ["first", "count"]
    assert members("access") == ["code", "spsr", "reader", "x0"]
    assert (constant("BLOB"), constant("MAGIC")) == (blob.BLOB, blob.MAGIC)
    assert (constant("DONE"), constant("BROKEN")) == (blob.DONE, blob.BROKEN)
    for x0 in blob.X0:
        assert constant(f"X0_{x0.name}") == x0


def test_decoding_a_result():
    esr = 0x18 << 26 | 1 << 25 | 0x240005
    taken = decode(1 << 50 | 2 << 48 | 3 << 32 | esr)
    assert (taken.el, taken.ec, taken.iss, taken.place, taken.ss) == (2, 0x18, 0x240005, Place(3), True)
    assert decode(0xFFFF << 32).place == Place(-1)
    assert decode(0x4100 << 32).place == Place(0x100, in_vectors=True)
    assert str(decode(1 << 48 | 0x4100 << 32)) == "to EL1, EC 0x00, ISS 0x0, at VBAR_EL1+0x400, SPSR.SS 0"


def finished(b, status=blob.DONE, ids=(), results=()):
    """The memory as the probe would leave it."""
    memory = bytearray(b.pack().ljust(b.size, b"\0"))
    struct.pack_into("<Q", memory, 8, status)
    for i, (value, undefined) in enumerate(ids):
        struct.pack_into("<QQ", memory, b.ids_at + 24 * i + 8, value, undefined)
    struct.pack_into(f"<{len(results)}Q", memory, b.results_at, *results)
    return bytes(memory)


def test_what_goes_in_and_comes_out():
    b = Blob([asm.mrs((3, 0, 0, 5, 0)), asm.mrs((3, 0, 0, 5, 2))], [asm.NOP, asm.NOP, asm.RET], [Run(1, 0x3C5)])
    b.add(State(mdcr_el2=6), 0, 1)
    packed = b.pack()
    assert struct.unpack_from("<4I", packed, b.runs_at) == (b.code_at + 4, 0x3C5, b.code_at, 0)
    assert b.address(1) == blob.BLOB + b.code_at + 4
    assert struct.unpack_from("<I", packed, b.code_at + 8) == (asm.RET,)
    assert b.unpack(finished(b, ids=[(0x10305106, 0), (0, 1)], results=[42])) == ([0x10305106, None], [42])


def test_a_probe_that_did_not_finish_is_refused():
    b = Blob([], [asm.NOP], [Run(0, 0)])
    with pytest.raises(ProbeError, match="ended before the probe did"):
        b.unpack(finished(b, status=0))
    with pytest.raises(ProbeError, match="unexpected exception at EL2: ESR_EL2 0x0, ELR_EL2 0x0"):
        b.unpack(finished(b, status=blob.BROKEN))
