"""Macros, enumerators and members that a tree has under other names than the known ones: they are read under these.

To rename one throughout a program changes nothing if no other thing has the new name, so how it is recognised need not
be trusted: a flag of a vCPU is known by a function that uses it, an owner of the debug registers by the member's type,
a member by its type or by what is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_HEADER = "arch/arm64/include/asm/kvm_host.h"
_FOLDERS = ("arch/arm64/kvm", "arch/arm64/include", "include/kvm", "virt/kvm")  # where a name may be taken already
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_FLAG = re.compile(r"(?m)^#define[ \t]+(\w+)[ \t]+(?:__vcpu_single_flag\(\s*\w+,\s*BIT|\(\d+ << \d+\)|BIT\(\d+\))")
_OWNER = re.compile(r"\benum\s*(\w*)\s*(?:\{([^{}]*)\})?\s*debug_owner\s*;")
_OWNERS = ("VCPU_DEBUG_FREE", "VCPU_DEBUG_HOST_OWNED", "VCPU_DEBUG_GUEST_OWNED")
_TAKES = "arch/arm64/kvm/debug.c", "kvm_debug_set_guest_ownership"  # for the guest


_USES, _SETS = re.compile(r"([A-Za-z_]\w*)"), re.compile(r"(?:_set_flag\([^,;]*,\s*|\|=\s*)(\w+)")


class _Flag(NamedTuple):
    """A flag that one function uses (or sets), and another file, and no other flag that is not known by then."""

    names: tuple[str, ...]  # that it has in one release or another
    function: str
    file: str
    as_in: re.Pattern[str]
    also: str  # another file that names it
    owned: bool | None = None  # whether only trees have it that say who owns the debug registers, or only others

    def name(self, host: str) -> str:
        """The name that it has where KVM's main header is as this one."""
        newest = ("debug_owner;" if self.names[0].startswith("HOST") else "__vcpu_single_flag") in host
        return self.names[0 if newest else -1]


_ASM, _KVM = "arch/arm64/include/asm", "arch/arm64/kvm"
_LOADS = f"{_KVM}/hyp/vhe/sysreg-sr.c"
_FLAGS = (
    _Flag(("DEBUG_DIRTY", "KVM_ARM64_DEBUG_DIRTY"), "__debug_switch_to_guest_common",
          f"{_KVM}/hyp/include/hyp/debug-sr.h", _USES, f"{_KVM}/sys_regs.c", owned=False),
    _Flag(("INCREMENT_PC", "KVM_ARM64_INCREMENT_PC"), "kvm_incr_pc",
          f"{_ASM}/kvm_emulate.h", _SETS, f"{_KVM}/hyp/exception.c"),
    _Flag(("PENDING_EXCEPTION", "KVM_ARM64_PENDING_EXCEPTION"), "__kvm_adjust_pc",
          f"{_KVM}/hyp/exception.c", _USES, f"{_KVM}/arm.c"),
    _Flag(("HOST_SS_ACTIVE_PENDING", "DBG_SS_ACTIVE_PENDING"), "kvm_arch_vcpu_ioctl_set_guest_debug",
          f"{_KVM}/guest.c", _USES, f"{_KVM}/debug.c"),
    _Flag(("GUEST_SS_ACTIVE_PENDING",), "kvm_vcpu_put_debug", f"{_KVM}/debug.c", _USES, f"{_KVM}/debug.c", owned=True),
    _Flag(("SYSREGS_ON_CPU",), "__vcpu_load_switch_sysregs", _LOADS, _USES, f"{_KVM}/sys_regs.c"),
    _Flag(("SYSREGS_ON_CPU",), "kvm_vcpu_load_sysregs_vhe", _LOADS, _USES, f"{_KVM}/sys_regs.c"),
    _Flag(("PMUSERENR_ON_CPU",), "__activate_traps_common", f"{_KVM}/hyp/include/hyp/switch.h", _USES, f"{_KVM}/pmu.c"),
)  # fmt: skip


_WHOLE = "struct kvm_guest_debug_arch"  # all breakpoints and watchpoints


class _Member(NamedTuple):
    """A member that a pattern finds in one function of a file, or in the whole file."""

    name: str
    file: str
    function: str
    pattern: str  # its group is the name that it has


_MEMBERS = (
    _Member("debug_ptr", _HEADER, "", rf"\n\s*{_WHOLE}\s*\*\s*(\w+)\s*;"),
    _Member("guest_debug_preserved", _HEADER, "", r"\bstruct\s*\{[^{}]*\bmdscr_el1\s*;[^{}]*\}\s*(\w+)\s*;"),
    _Member("host_debug_state", _HEADER, "", rf"\bstruct\s*\{{\s*{_WHOLE}\s+regs\s*;[^{{}}]*\}}\s*(\w+)\s*;"),
    _Member("debug_owner", _HEADER, "", r"\bkvm_host_owns_debug_regs\(vcpu\)[\s\\]*\(\(vcpu\)->arch\.(\w+) =="),
    _Member("external_debug_state", f"{_KVM}/guest.c", "kvm_arch_vcpu_ioctl_set_guest_debug", r"->arch\.(\w+) = dbg->"),
    _Member("vcpu_debug_state", f"{_KVM}/debug.c", "kvm_arm_reset_debug_ptr", r"&vcpu->arch\.(\w+)"),
    _Member("vcpu_debug_state", f"{_KVM}/sys_regs.c", "demux_wb_reg", r"&vcpu->arch\.(\w+)"),
    _Member("external_mdscr_el1", f"{_KVM}/hyp/include/hyp/sysreg-sr.h", "ctxt_mdscr_el1", r"&vcpu->arch\.(\w+)"),
    _Member("nr_event_counters", f"{_KVM}/debug.c", "kvm_arm_setup_mdcr_el2", r"\bhost_data_ptr\((\w+)\)"),
    _Member("mdcr_el2_host", f"{_KVM}/hyp/include/hyp/switch.h", "__deactivate_traps_common",
            r"\bwrite_sysreg\(vcpu->arch\.(\w+), mdcr_el2\)"),
)  # fmt: skip


class Names(NamedTuple):
    """The known names by a tree's own."""

    macros: Mapping[str, str]
    enumerators: Mapping[str, str]
    members: Mapping[str, str]


def other_names(tree: Path, read: Callable[[str], str]) -> Names:
    """What is known by other names."""
    members = _members(tree, read)
    host = _plain(read(_HEADER)) if (tree / _HEADER).is_file() else ""
    host = re.sub(r"\w+", lambda word: members.get(word[0], word[0]), host)
    defined = set(_USES.findall(host))

    def used(file: str, function: str, as_in: re.Pattern[str] = _USES) -> set[str]:
        return set(as_in.findall(_body(_plain(read(file)), function))) if (tree / file).is_file() else set()

    flags, known = set(_FLAG.findall(host)), {name for flag in _FLAGS for name in flag.names}
    macros: dict[str, str] = {}
    for flag in _FLAGS:
        if not defined & {*flag.names} and flag.owned in (None, "debug_owner;" in host):
            there = used(flag.file, flag.function, flag.as_in) & flags - known - {*macros}
            left = there & set(_USES.findall(read(flag.also))) if (tree / flag.also).is_file() else there
            if len(left) == 1 and flag.name(host) not in macros.values():
                macros[left.pop()] = flag.name(host)
    enumerators = dict(_owners(host, used)) if defined.isdisjoint(_OWNERS[1:]) or not defined >= {*_OWNERS} else {}
    taken = _taken(tree, {*macros.values(), *enumerators.values()})
    free = [{old: new for old, new in of.items() if new not in taken} for of in (macros, enumerators)]
    return Names(free[0], free[1], members)


def _members(tree: Path, read: Callable[[str], str]) -> dict[str, str]:
    """The known members by the tree's own names, where one thing alone may be each, and nothing has the known name."""
    known, found = {member.name for member in _MEMBERS}, dict[str, str]()
    absent = known - _taken(tree, known)
    for member in _MEMBERS:
        if member.name in absent - {*found.values()} and (tree / member.file).is_file():
            text = _plain(read(member.file))
            own = {*re.findall(member.pattern, _body(text, member.function) if member.function else text)}
            if len(own) == 1 and own.isdisjoint(known | {*found}):
                found[own.pop()] = member.name
    return found


def _owners(host: str, used: Callable[[str, str], set[str]]) -> Iterator[tuple[str, str]]:
    """The enumerators of the member's type: that which is 0, that which a trapped access makes it, and the third."""
    member = _OWNER.search(host)
    if member is None:
        return
    listed = member[2] or next(iter(re.findall(rf"\benum\s+{member[1]}\s*\{{([^{{}}]*)\}}", host)), "")
    own = [part.split("=")[0].strip() for part in listed.split(",") if part.strip()]
    zero = next((part.split("=")[0].strip() for part in listed.split(",") if re.search(r"=\s*0\s*$", part)), own[:1])
    free = zero if isinstance(zero, str) else next(iter(zero), "")
    guest = {*own} - {free} & used(*_TAKES)
    if len(own) == 3 and len(guest) == 1:
        (host_owned,) = {*own} - {free} - guest
        yield from ((a, b) for a, b in zip((free, host_owned, *guest), _OWNERS, strict=True) if a != b)


def _plain(text: str) -> str:
    return _COMMENT.sub(" ", text)


def _body(text: str, function: str) -> str:
    """The first block after a function's name that is not a declaration's."""
    found = re.search(rf"\b{function}\s*\([^;{{]*\{{", text)
    if found is None:
        return ""
    depth, at = 1, found.end()
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[found.end() : at]


def _taken(tree: Path, wanted: set[str]) -> set[str]:
    """Those of some names that something in the tree has."""
    found, words = set[str](), re.compile(rf"\b(?:{'|'.join(sorted(wanted))})\b")
    for folder in _FOLDERS if wanted else ():
        for path in sorted((tree / folder).rglob("*.[chS]")):
            found |= set(words.findall(_plain(path.read_text(encoding="utf-8", errors="replace"))))
    return found
