"""Records whose members are named as those of the record that they are in.

So are anonymous ones in C. So are those into which a tree puts members that are known one record further out: where a
thing lies is told by its name, and no other member has that.
"""

from __future__ import annotations

from formal.kernel.parse.clang import Cursor, is_record

# the members of these records that are known there, in one release or another
_KNOWN: dict[str, frozenset[str]] = {
    "struct kvm_vcpu_arch": frozenset(
        "mdcr_el2 mdcr_el2_host ctxt debug_owner debug_ptr vcpu_debug_state external_debug_state host_debug_state "
        "guest_debug_preserved external_mdscr_el1 host_cpu_context iflags sflags cflags".split()
    ),
    "struct kvm_host_data": frozenset("host_ctxt nr_event_counters debug_brps debug_wrps host_debug_state".split()),
}


def unnamed(member: Cursor) -> bool:
    """Whether a member of a record has no name."""
    return member.spelling == "" or "(" in member.spelling


def _inside(member: Cursor) -> set[str]:
    """The names in a record without one."""
    if not is_record(member.type):
        return set()
    fields = list(member.type.get_canonical().get_fields())
    return {f.spelling for f in fields}.union(*(_inside(f) for f in fields if unnamed(f)))


def inlaid(record: str, members: list[Cursor]) -> frozenset[str]:
    """The members of a record whose own members are known as its members, and are members of nothing else there."""
    known = _KNOWN.get(record, frozenset())
    inner = {m.spelling: {f.spelling for f in m.type.get_canonical().get_fields()} for m in members
             if known and m.spelling not in known and not unnamed(m) and is_record(m.type)}  # fmt: skip
    found = {name: own for name, own in inner.items() if own & known}
    here = {m.spelling for m in members} | {name for m in members if unnamed(m) for name in _inside(m)}
    taken = [name for own in found.values() for name in own] + sorted(here)
    return frozenset(found) if len(taken) == len({*taken}) else frozenset()
