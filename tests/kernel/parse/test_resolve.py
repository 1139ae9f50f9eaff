"""What one question leaves behind for the next: nothing of another file."""

from __future__ import annotations

from formal.kernel.lift.snippet import snippet
from formal.kernel.parse.resolve import Resolver


def resolver() -> Resolver:
    return snippet("int outer(int x) { return x; }").resolver


def test_a_tracepoint_of_another_file_is_none_of_this_one() -> None:
    """Otherwise a function of that name would be taken for nothing, once the other file has been parsed."""
    one, other = resolver(), resolver().unit("")
    here = one.unit("").functions["outer"]
    assert not one.is_tracepoint("kvm_exit", here)
    other.tracepoints.add("kvm_exit")
    one.note(other, None)
    assert one.is_tracepoint("kvm_exit", other.functions["outer"])
    assert not one.is_tracepoint("kvm_exit", here)
