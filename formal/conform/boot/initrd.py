"""What the machine starts with: our first process and its script, as an initial RAM file system.

Source of the format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel ("newc" cpio).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_DIRECTORY, _FILE, _CHARACTER_DEVICE = 0o040000, 0o100000, 0o020000


@dataclass(frozen=True)
class Entry:
    """One file of the archive: its path, mode with type bits, contents, and device number."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    """A directory that everybody may read."""
    return Entry(name, _DIRECTORY | 0o755)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, _FILE | mode, data)


def character_device(name: str, major: int, minor: int) -> Entry:
    """A character device, such as /dev/console."""
    return Entry(name, _CHARACTER_DEVICE | 0o600, device=(major, minor))


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive."""
    members = [*entries, Entry("TRAILER!!!", 0)]
    return b"".join(_member(number, entry) for number, entry in enumerate(members, 1))


def _member(number: int, e: Entry) -> bytes:
    name = e.name.encode() + b"\0"
    fields = (number, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, *e.device, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % f for f in fields)
    return _padded(head + name) + _padded(e.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
