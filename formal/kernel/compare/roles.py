"""Functions of a tree that stand where others are known by another name: they are read under the name that is known.

To rename a function throughout a program changes nothing, whatever it does, if no other thing has the new name. So how
a role is recognised need not be trusted: it is by the entry of a table, or by the functions that call it and that it
calls. All of the text, and what the compiler reads, has the known name then (``KernelTree.renamed``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from difflib import SequenceMatcher

from formal.kernel.compare.behaviours import OF_DIRTY, OF_OWNER
from formal.kernel.model.passage import FIXUP, GUEST, RUN
from formal.kernel.recognition.callers import CALLERS, READ, TABLE, Mentions
from formal.kernel.recognition.writers import OPERATIONS, named
from formal.kernel.source.tree import KVM, KernelTree, sources
from formal.kernel.text import signs
from formal.kernel.text.forms import without_comments

SYS_REGS, HANDLE_EXIT = f"{KVM}/sys_regs.c", f"{KVM}/handle_exit.c"
_FIELDS = ("access", "reset", "reg", "val", "get_user", "set_user")  # of an entry of sys_reg_descs, in its order
_HEADERS = ("include", "arch/arm64/include")  # where a name may be taken already
_NAME = re.compile(r"[A-Za-z_]\w*")
_EVENT = re.compile(r"\bTRACE_EVENT\w*\s*\(\s*\w+")  # its name is pasted to others, and is none itself
_ENTRY = re.compile(r"\{\s*SYS_DESC\s*\(\s*SYS_(\w+?)\s*(?:\(\s*n\s*\))?\s*\)([^{}]*)\}")
_CLASS = re.compile(r"\[\s*ESR_ELx_EC_(\w+)\s*\]\s*=\s*(\w+)")
_REGISTERS: Mapping[str, Mapping[str, str]] = {
    "MDSCR_EL1": {"access": "trap_debug_regs"}, "OSLAR_EL1": {"access": "trap_oslar_el1"},
    "OSLSR_EL1": {"access": "trap_oslsr_el1", "set_user": "set_oslsr_el1"}, "MDCR_EL2": {"access": "access_mdcr"},
}  # fmt: skip
_BANKS = {f"DBG{kind.upper()}n_EL1": kind for kind in ("bvr", "bcr", "wvr", "wcr")}
_CLASSES = {"SYS64": "kvm_handle_sys_reg", "ERET": "kvm_handle_eret"} | dict.fromkeys(
    ("BREAKPT_LOW", "WATCHPT_LOW", "SOFTSTP_LOW", "BRK64"), "kvm_handle_guest_debug"
)
_SHARED = frozenset("NULL trap_raz_wi reset_val reset_unknown undef_access".split())  # what many entries have
# names that only some trees have: what these have in KVM's main header, or some other file
_AGES: tuple[tuple[str, str, frozenset[str]], ...] = tuple((file, sign, frozenset(names)) for file, sign, names in (
    (signs.KVM_HOST, r"\bdebug_owner;", OF_OWNER),
    (signs.KVM_HOST, r"\bINCREMENT_PC\b|KVM_ARM64_INCREMENT_PC", (
        "__kvm_adjust_pc", "handle___kvm_adjust_pc", "kvm_incr_pc", "kvm_inject_exception")),
    (signs.KVM_HOST, r"\bstruct user_pt_regs\s+regs;", ("enter_exception64",)),
    (HANDLE_EXIT, r"\bkvm_handle_eret\b", (
        "kvm_emulate_nested_eret", "kvm_inject_nested", "kvm_nested_setup_mdcr_el2", "fixup_nv_guest_exit",
        "kvm_vcpu_load_fgt", "access_mdcr", "reset_mdcr")),
))  # fmt: skip
# names that functions had before v5.8, where the compiler was told of both hosts' hypervisors at once
_FORMER: Mapping[str, str] = {
    "kvm_vcpu_run_vhe": "__kvm_vcpu_run_vhe", "__kvm_vcpu_run_nvhe": "__kvm_vcpu_run",
    "kvm_vcpu_load_sysregs": "kvm_vcpu_load_sysregs_vhe", "kvm_vcpu_put_sysregs": "kvm_vcpu_put_sysregs_vhe",
    "sysreg_hidden_from_guest": "sysreg_hidden", "__skip_instr": "__kvm_skip_instr",
}  # fmt: skip
# names that no tree has whose world switch is one function
_PARTS = frozenset(name for name, of in CALLERS.items() if of & {RUN, f"{RUN}_vhe"}) - {GUEST, "__kvm_skip_instr"}
# one of these calls a function that is not searched for by its callers
_CALLED: Mapping[str, frozenset[str]] = {
    "handle_trap_exceptions": frozenset(("handle_exit",)),
    "perform_access": frozenset(("kvm_handle_sys_reg", "emulate_sys_reg")),
}
_KNOWN = frozenset(CALLERS) | frozenset(READ) | OPERATIONS | {n for names in CALLERS.values() for n in names} - {TABLE}


def strange(tree: KernelTree) -> bool:
    """Whether a table names a function that is not known where it stands, or the file of tables uses a former name."""
    former = re.search(rf"\b(?:{'|'.join(_FORMER)})\b", signs.source(tree, SYS_REGS) or "")
    return former is not None or any(here and here != known for here, known in _by_table(tree))


def renamed(
    tree: KernelTree, mentions: Mentions, unknown: AbstractSet[str], write: Callable[[], AbstractSet[str]]
) -> dict[str, str]:
    """The names of a tree's functions that stand where others are known: the tree's name, and the known one.

    Args:
        mentions: what the search for writers has found of the tree.
        unknown: the functions that it does not know.
        write: those of them that write something modelled by their types, too: asked of those that nothing but
            their callers speaks for, since a tree has many functions that others of its age do not have.
    """
    bodies = {name: set(names) for name, names in mentions.bodies.items()}
    taken = {name for names in bodies.values() for name in names} | bodies.keys() | _of_other_ages(tree)
    found: dict[str, str] = {}
    for here, known in (*_by_table(tree), *_FORMER.items()):
        if here != known and known not in taken and here in bodies and here not in found:
            found[here] = known
            _replace(bodies, here, known)
    while (pair := _by_calls(bodies, taken | {*found.values()}, unknown, write)) is not None:
        found[pair[0]] = pair[1]
        _replace(bodies, *pair)
    return _free(tree, found) if found else {}


def _replace(bodies: dict[str, set[str]], here: str, known: str) -> None:
    bodies[known] = bodies.pop(here)
    for names in bodies.values():
        if here in names:
            names.remove(here)
            names.add(known)


def _by_table(tree: KernelTree) -> Iterator[tuple[str, str]]:
    """What the tables say of the registers and exception classes that are modelled."""
    text = signs.source(tree, SYS_REGS) or ""
    entries = {name: dict(_cells(rest.replace("\\\n", " "))) for name, rest in _ENTRY.findall(text)}
    for name, roles in _REGISTERS.items():
        yield from ((entries.get(name, {}).get(field, ""), known) for field, known in roles.items())
    access = {entries.get(name, {}).get("access", "") for name in _BANKS}
    for name, kind in _BANKS.items():
        of = "dbg_wb_reg" if len(access) == 1 else kind
        for field, does in (("access", "trap"), ("reset", "reset"), ("get_user", "get"), ("set_user", "set")):
            yield entries.get(name, {}).get(field, ""), f"{does}_{of}"
    for name, handler in _CLASS.findall(signs.source(tree, HANDLE_EXIT) or ""):
        yield handler, _CLASSES.get(name, handler)


def _cells(text: str) -> Iterator[tuple[str, str]]:
    """The functions in an entry, by field."""
    at = 0
    for cell in text.split(",")[1:]:
        named = re.match(r"\s*\.(\w+)\s*=\s*(\w+)", cell)
        if named:
            yield named[1], named[2]
        elif (word := _NAME.search(cell)) is not None and at < len(_FIELDS) and word[0] not in _SHARED:
            yield _FIELDS[at], word[0]
        at += 0 if named else 1


def _by_calls(
    bodies: Mapping[str, set[str]],
    taken: Iterable[str],
    unknown: AbstractSet[str],
    write: Callable[[], AbstractSet[str]],
) -> tuple[str, str] | None:
    """A function that calls what only a function calls that this tree does not have, and is called where that is."""
    missing = _KNOWN - set(taken) - bodies.keys()
    callers: dict[str, set[str]] = {}
    for name, names in bodies.items():
        for called in names & bodies.keys():
            if called != name:
                callers.setdefault(called, set()).add(name)
    fits: list[tuple[int, float, str, str]] = []
    for here in bodies.keys() - _KNOWN:
        calls, outer = bodies[here] & CALLERS.keys(), callers.get(here, set())
        around = outer & _KNOWN
        if (not calls and not around) or named(here):
            continue
        if here not in unknown and all(here in CALLERS[name] for name in calls):
            continue
        for known in (name for name in missing if name not in _CALLED or outer & _CALLED[name]):
            if _fits(known, calls, around) and (calls or here in write()):
                alike = SequenceMatcher(None, here, known).ratio()
                fits.append((len({n for n in calls if known in CALLERS[n]}), alike, here, known))
    return max(fits)[2:] if fits else None  # of several the one that calls most of it, or is spelled most like it


def _of_other_ages(tree: KernelTree) -> frozenset[str]:
    """The names that this tree cannot have."""
    switch = signs.source(tree, f"{KVM}/hyp/switch.c") or ""
    found = _PARTS if signs.body(switch, RUN) is not None and FIXUP not in switch else frozenset[str]()
    for file, sign, names in _AGES:
        if re.search(sign, signs.source(tree, file) or "") is None:
            found |= names
        elif names >= set(OF_OWNER):
            found |= set(OF_DIRTY)
    return found


def _fits(known: str, calls: set[str], around: set[str]) -> bool:
    """Whether a name may call all that a function calls, and is called by all that call it."""
    if not all(known in CALLERS[name] for name in calls):
        return False
    own = CALLERS.get(known, frozenset())
    outer = {name for name, read in READ.items() if known in read} if around else set[str]()
    return (bool(around) and around <= (own | outer) and own != {TABLE}) or (known not in CALLERS and bool(calls))


def _free(tree: KernelTree, found: Mapping[str, str]) -> dict[str, str]:
    """Those of the names that nothing in the headers has."""
    left = dict(found)
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, found.values()))})\b|#\s*define\s+(?:{'|'.join(found)})\b")
    for folder in (*_HEADERS, KVM, "virt/kvm"):
        for path in sources(tree.path / folder, (".h", ".c", ".S")):
            text = path.read_text(encoding="utf-8", errors="replace")
            text = _EVENT.sub("", without_comments(text)) if words.search(text) else ""
            for word in words.findall(text):
                name = _NAME.findall(word)[-1]
                left = {here: known for here, known in left.items() if name not in (here, known)}
    return left
