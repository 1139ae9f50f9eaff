"""Under VHE the host masks its own debug exceptions around the guest's run: by whatever function, in its assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from formal.kernel.belongs import ENTERS, EXITS
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.expressions import stands_for_assembly
from formal.kernel.model.passage import RUN, passage, whole
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, children
from formal.kernel.recognition.rules import WATCHED, Reader, Rule
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM, sources
from formal.logic.terms import FALSE, Not, Or, Term

_MASKS = re.compile(r"\bmsr\s+daifset\s*,\s*#(0x[0-9a-f]+|\d+)", re.I)
_UNMASKS = re.compile(r"\bmsr\s+(daifclr|daif)\b", re.I)
_CLEARS = re.compile(r"\bmsr\s+daif(?:clr\s*,\s*#(0x[0-9a-f]+|\d+))?\b", re.I)
_DEBUG = 8  # PSTATE.D in DAIFSet
# Before v4.17 a debug exception of the host's own is taken while its state is there, whose copies are outdated then, or
# ends all in hyp_panic(), by EL2's vectors; from the guest's exit on they are masked (Arm ARM D1.3.1).
_SAVED = frozenset(("host_ctxt_mdscr_el1", "host_debug_state"))


class Masked(Reader):
    """Rules of the function that runs the guest under VHE."""

    def groups(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]]:
        """All rules, with the operations that they are about."""
        if self.k.vhe:
            yield (ENTERS, EXITS), self._masked

    def _masked(self) -> Iterator[Rule]:
        """Under VHE all exceptions are masked around the guest's run, debug exceptions too (a hypervisor's own are)."""
        run, inner = self.outer, "__kvm_vcpu_run_vhe"
        if not self.program.defines(run, self.mode):
            return
        if whole(self.program, self.mode):  # before v4.17
            inner = RUN
        if inner == RUN or self.enters_itself:  # as before v5.8
            run = "kvm_arch_vcpu_ioctl_run"
        unit, function = self.program.resolver.find(run, self.mode)
        called = [c for c in clang.preorder(function) if c.kind == Kind.CALL_EXPR and c.referenced is not None]
        names = {c.referenced.spelling: c for c in called}
        f = skeleton(self.program, run, self.mode, {*WATCHED, *names})
        entered = next((c for c in f.calls if c.name == inner), None)
        before = f.calls[: f.calls.index(entered)] if entered is not None else ()
        masks = [n for n, c in enumerate(before) if entered is not None and c.loops == entered.loops
                 and self._masks(names.get(c.name))]  # fmt: skip
        opens = [c for c in before[masks[-1] if masks else 0 :] if self._unmasks(names.get(c.name), unit.file)]
        masked: Term = FALSE
        if masks and entered is not None and not opens:
            masked = Or(Not(entered.guard), before[masks[-1]].guard)
        spoils = _SAVED if inner == RUN and self._panics() and not self._unmasked_at_el2() else None
        yield Rule(f"{f.function}() masks exceptions with PSTATE.DAIF before the guest runs", f.file, f.line, masked,
                   writes=spoils)  # fmt: skip

    def _panics(self) -> bool:
        """Whether the hypervisor's vectors are in place before anything of the guest's debug state is."""
        stored = [event.lvalue for event in passage(self.program, self.mode).enters.events]
        guests = [n for n, lvalue in enumerate(stored) if lvalue == "hw.mdscr_el1" or lvalue.startswith("hw.dbg")]
        return "hw.vbar_el1" in stored[: min(guests, default=0)]

    def _unmasked_at_el2(self) -> bool:
        """Whether code of the hypervisor may unmask debug exceptions, which taking one to EL2 has masked."""
        tree = self.program.tree
        texts = (tree.read(tree.relative(str(path))) for path in sources(tree.path / KVM / "hyp", (".c", ".h", ".S")))
        return any(not bits or int(bits, 0) & _DEBUG for text in texts for bits in _CLEARS.findall(text))

    def _masks(self, call: Cursor | None) -> bool:
        """Whether a function that is called masks debug exceptions."""
        return any(int(number, 0) & _DEBUG for number in self._assembly(call, _MASKS))

    def _unmasks(self, call: Cursor | None, file: str) -> bool:
        """Whether a function that is called may clear bits of PSTATE.DAIF."""
        if self._assembly(call, _UNMASKS) or call is None:
            return call is not None
        with suppress(NotUnderstoodError):  # its assembly is looked at, whatever else is in it
            return "hw.daif" in self.program.lift(str(call.referenced.spelling), self.mode, file).writes
        return False

    def _assembly(self, call: Cursor | None, wanted: re.Pattern[str], depth: int = 3) -> list[str]:
        """What is found in the assembly of a function that is called, and of those that it calls."""
        if call is None or call.referenced is None or call.referenced.kind != Kind.FUNCTION_DECL or depth == 0:
            return []
        body = self.program.resolver.definition(call.referenced, call, self.mode)
        found: list[str] = []
        for c in clang.preorder(body) if body is not None else ():
            if c.kind == Kind.ASM_STMT:
                found += wanted.findall(self.program.resolver.spelled(c))
            elif c.kind == Kind.ARRAY_SUBSCRIPT_EXPR and stands_for_assembly(children(c)[0]):
                texts = (str(inner.spelling) for inner in clang.preorder(c) if inner.kind == Kind.STRING_LITERAL)
                found += (word for text in texts for word in wanted.findall(text.replace("\\t", " ")))
            elif c.kind == Kind.CALL_EXPR:
                found += self._assembly(c, wanted, depth - 1)
        return found
