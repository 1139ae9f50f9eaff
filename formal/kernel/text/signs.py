"""What a tree is, where its C is not lifted: behaviours told by signs in the source, each with its place.

A behaviour that the lifted functions decide is not looked up here: there the C itself is compared. A sign is a token
that a named function contains, or a function that is there; a tree without the named function is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from formal.kernel.belongs import (
    EMULATES,
    ENTERS,
    HANDLING,
    INIT,
    MMIO,
    PERF,
    REENTERS,
    RESETS,
    RUN_RETURNS,
    SET_BANK,
    SET_OSLSR,
    SKIPPING,
    TRAP_BANK,
    TRAP_OSLAR,
)
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.source.tree import KVM, KernelTree, Sources

KVM_HOST = "arch/arm64/include/asm/kvm_host.h"
_SWITCH = f"{KVM}/hyp/include/hyp/switch.h"
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_MACRO = re.compile(r"(?m)^[ \t]*#[ \t]*define[ \t]+(\w+)\((?:.*\\\n)*.*")
_BEFORE = re.compile(r"[\w \t*]*")  # what precedes the name of a function that is declared
_BRACE = re.compile("[{}]")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)


@dataclass(frozen=True)
class Sign:
    """Where a behaviour was read off."""

    behaviour: str
    value: bool
    file: str
    line: int


def source(tree: Sources, name: str) -> str | None:
    """The text of a file, comments blanked; None if the tree has none."""
    if not (tree.path / name).is_file():
        return None
    return _blanked(tree.read(name))


@lru_cache(maxsize=512)  # many signs are looked for in the same files
def _blanked(text: str) -> str:
    return _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def body(text: str, function: str) -> tuple[str, int] | None:
    """The definition of a function in text without comments, and its line."""
    for found in re.finditer(rf"\b{function}\s*\(", text):
        if _BEFORE.fullmatch(text, text.rfind("\n", 0, found.start()) + 1, found.start()) is None:
            continue  # a call
        brace, semicolon = text.find("{", found.end()), text.find(";", found.end())
        if brace < 0 or 0 <= semicolon < brace:
            continue  # a declaration
        depth = 0
        for one in _BRACE.finditer(text, brace):
            depth += 1 if one[0] == "{" else -1
            if depth == 0:
                return text[brace : one.end()], text[: found.start()].count("\n") + 1
    return None


def _with_called(text: str, name: str, inside: str) -> str:
    """A body, and those of the functions and macros of the same text that it calls, and so on."""
    macros = {found[1]: found[0].partition(")")[2] for found in _MACRO.finditer(text)}
    bodies = {name: inside}
    while called := {n for b in bodies.values() for n in _CALL.findall(b)} - bodies.keys():
        bodies |= {n: macros.get(n) or (body(text, n) or ("", 0))[0] for n in called}
    return "\n".join(bodies.values())


class _Reader:
    def __init__(self, tree: KernelTree) -> None:
        self.tree = tree

    def function(self, files: tuple[str, ...], *names: str) -> tuple[str, str, int]:
        """File, body and line of the first of some functions that there is: in one of the files, or elsewhere.

        With the body come those of the file's functions that it calls: a helper hides no sign.

        Raises:
            NotUnderstoodError: if there is none.
        """
        for name in names:
            for file in (*files, *self.tree.definitions.places(name)):
                text = source(self.tree, file)
                found = body(text, name) if text is not None else None
                if text is not None and found:
                    return file, _with_called(text, name, found[0]), found[1]
        raise NotUnderstoodError(files[0], 0, f"{names[0]}() is not defined here, and the model needs it")

    def body(self, file: str, name: str) -> tuple[str, int] | None:
        """The body and line of a function, if the file defines it."""
        text = source(self.tree, file)
        return body(text, name) if text is not None else None

    def defined(self, file: str, name: str) -> tuple[bool, str, int]:
        """Whether a function is defined, in a file or elsewhere, and where."""
        try:
            found, _, line = self.function((file,), name)
        except NotUnderstoodError:
            return False, file, 0
        return True, found, line


def _field(tree: KernelTree, pattern: str) -> int | None:
    """The line of KVM's main header in which a pattern is found, comments left out."""
    text = source(tree, KVM_HOST) or ""
    found = re.search(pattern, text)
    return text[: found.start()].count("\n") + 1 if found else None


NESTING = ((f"{KVM}/nested.c", "kvm_nested_setup_mdcr_el2"), (f"{KVM}/debug.c", "kvm_nested_setup_mdcr_el2"),
           (f"{KVM}/config.c", "__compute_hdfgwtr"))  # fmt: skip


def nesting(tree: Sources) -> Sign:
    """Whether nested virtualization is as from v6.18 on: one of the functions that it brought is named."""
    for file, name in NESTING:
        text = source(tree, file) or ""
        if found := re.search(rf"\b{name}\s*\(", text):
            return Sign("nested_virtualization", True, file, text[: found.start()].count("\n") + 1)
    return Sign("nested_virtualization", False, NESTING[0][0], 0)


# what is not what is said if a behaviour cannot be told; that of parts and lifted functions the C itself says
_DECIDES: dict[str, tuple[str, ...]] = {
    "guards_pmuserenr": (PERF,),
    "defers_pc_adjustment": (*SKIPPING, ENTERS, RUN_RETURNS),
    "skip_advances_step": (*SKIPPING, ENTERS, RUN_RETURNS, REENTERS),
    "fakes_step_exit": HANDLING,
    "indexes_trapped_banks": (TRAP_BANK, SET_BANK, *RESETS),
    "completes_mmio_once": (MMIO,),
    "skips_mmio_when_decoded": (EMULATES, MMIO),
    "emulates_os_lock": (TRAP_OSLAR, SET_OSLSR, *RESETS),
    "vhe_reads_boot_mdcr": (INIT,),
}


def read(tree: KernelTree, gaps: Gaps | None = None) -> tuple[Sign, ...]:
    """The behaviours of a tree that its lifted functions do not decide.

    Raises:
        NotUnderstoodError: if the source has neither sign, and that is not noted.
    """
    r, gaps = _Reader(tree), gaps or Gaps()
    signs: list[Sign] = []

    def contains(behaviour: str, files: tuple[str, ...], function: str, *tokens: str) -> None:
        with gaps.at(*_DECIDES.get(behaviour, ("activate traps", "deactivate traps"))):
            file, body, line = r.function(files, function)
            signs.append(Sign(behaviour, any(re.search(token, body) for token in tokens), file, line))

    def exists(behaviour: str, file: str, function: str) -> None:
        there, found, line = r.defined(file, function)
        signs.append(Sign(behaviour, there, found, line))

    activate = ((_SWITCH,), "__activate_traps_common", "__activate_traps")  # the latter does it all before v4.17
    owner = _field(tree, r"\bdebug_owner;")
    signs.append(Sign("tracks_debug_owner", owner is not None, KVM_HOST, owner or 0))
    saves = (activate, ((f"{KVM}/hyp/nvhe/switch.c",), "__activate_traps")) if owner is not None else (activate,)
    with gaps.at("activate traps", "deactivate traps"):
        places = [r.function(*place) for place in saves]
        saved = [p for p in places if re.search(r"read_sysreg\(mdcr_el2\)", p[1])] or places
        signs.append(Sign("saves_host_mdcr", saved is not places, saved[0][0], saved[0][2]))
        file, text, line = r.function(*activate)
        signs.append(Sign("saves_host_pmuserenr", "read_sysreg(pmuserenr_el0)" in text, file, line))
    exists("guards_pmuserenr", f"{KVM}/pmu.c", "kvm_set_pmuserenr")
    exists("defers_pc_adjustment", f"{KVM}/hyp/exception.c", "__kvm_adjust_pc")
    skip = (f"{KVM}/hyp/include/hyp/adjust_pc.h", "arch/arm64/include/asm/kvm_emulate.h")
    contains("skip_advances_step", skip, "kvm_skip_instr", r"\bDBG_SPSR_SS\b")
    exists("fakes_step_exit", f"{KVM}/handle_exit.c", "kvm_arm_handle_step_debug")
    bank = "demux_wb_reg" if owner is not None else "trap_bvr"
    contains("indexes_trapped_banks", (f"{KVM}/sys_regs.c",), bank, r"->\s*CRm\b")
    if tree.version < (5, 4):  # the fix is of v5.3, and of stable series; a later tree without it has lost it
        contains("completes_mmio_once", (f"{KVM}/mmio.c",), "kvm_handle_mmio_return", r"\bmmio_needed\b")
    if r.defined(f"{KVM}/mmio.c", "decode_hsr")[0]:  # which skips it before v5.0
        contains("skips_mmio_when_decoded", (f"{KVM}/mmio.c",), "decode_hsr", r"\bkvm_skip_instr\b")
    exists("emulates_os_lock", f"{KVM}/sys_regs.c", "trap_oslar_el1")
    with gaps.at(*_DECIDES["vhe_reads_boot_mdcr"]):
        file, body, line = r.function((f"{KVM}/arm.c",), "cpu_init_hyp_mode")
        signs.append(Sign("vhe_reads_boot_mdcr", "kvm_arm_init_debug" not in body, file, line))
    signs.append(nesting(tree))
    if owner is not None:  # protected mode: what its hypervisor takes over of the host's copy at each entry
        flush = r.body(f"{KVM}/hyp/nvhe/hyp-main.c", "flush_debug_state")
        for behaviour, member in (("debug_owner", "debug_owner"), ("external_mdscr", "external_mdscr_el1")):
            taken = flush is not None and re.search(rf"arch\.{member}\s*=[^=]", flush[0]) is not None
            place = flush[1] if flush is not None else 0
            signs.append(Sign(f"hands_over_{behaviour}", taken, f"{KVM}/hyp/nvhe/hyp-main.c", place))
    return tuple(signs)
