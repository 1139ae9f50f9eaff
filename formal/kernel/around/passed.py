"""What is passed on around a run: requests to a vCPU, what its run returned, the syndrome, the reason of an exit.

PSCI CPU_ON asks another vCPU to reset itself; what arrives at EL2 goes through EL2's answer to the host, the run loop
and handle_exit to the handler of its class, and the handler's reason back to user space. Nothing of it may be lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from formal.kernel.around.lookup import HANDLE_EXIT
from formal.kernel.belongs import ENTERS, EXITS, GUEST_DEBUG, HANDLING, RESET
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.model import passage
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.recognition.rules import ARM_C, ENTRIES, OUTER, Reader, Rule, nonzero, parameters, succeeds, truth
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM, sources
from formal.kernel.text.forms import without_comments
from formal.kernel.text.tokens import kept
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.terms import FALSE, And, Eq, Implies, Not, Or, Term

_KVM_HOST = "include/linux/kvm_host.h"
_CPU_ON, _WORK, _RESETS = "kvm_psci_vcpu_on", "check_vcpu_requests", "kvm_reset_vcpu"
_MAKES, _MAKES_INNER, _ASKS = "kvm_make_request", "__kvm_make_request", "kvm_check_request"
_TESTS, _CLEARS, _PENDING = "kvm_test_request", "kvm_clear_request", "kvm_request_pending"
_BITS = {_MAKES: ("set_bit",), _CLEARS: ("clear_bit",),  # what bitops.h makes of test_bit
         _TESTS: ("test_bit", "generic_test_bit", "arch_test_bit", "const_test_bit", "_test_bit")}  # fmt: skip
_NUMBER = (7, 0)  # of a request; above are flags (KVM_REQUEST_MASK)
_RUN, _EXIT_REQUEST, _INNER = "kvm_arch_vcpu_ioctl_run", "kvm_vcpu_exit_request", "handle_trap_exceptions"
_AARCH32 = re.compile(r"vcpu_mode_is_(bad_)?32bit\(\)")
_HOST_CALL, _ANSWER = "handle___kvm_vcpu_run", re.compile(r"regs\.regs\[\d+\]$")
_REASON, _HANDLER = re.compile(r"run->exit_reason$"), "*arm_exit_handlers"
# stores to the syndrome and the address of an exit, and whatever is given the place of either
_SYNDROME = re.compile(r"\barch\.fault(?:\.(?:esr_el2|far_el2)\s*(?:[-+|&^]|<<|>>)?=(?!=)|\s*=(?!=))"
                       r"|&[^;,=&|]*\barch\.fault(?:\.(?:esr_el2|far_el2))?\b(?!\.)")  # fmt: skip


class Passed(Reader):
    """Rules of what is passed on."""

    def groups(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]]:
        """All rules, with the operations that they are about."""
        yield (RESET,), self._reset
        yield (ENTERS, EXITS, *HANDLING), self._returned
        yield HANDLING, self._syndrome
        yield (GUEST_DEBUG,), self._reason
        if not self.k.vhe and self.program.defines(_HOST_CALL, self.mode):  # from v5.9 on
            yield (ENTERS, EXITS, *HANDLING), self._answer

    # ---- requests

    def _reset(self) -> Iterator[Rule]:
        """PSCI CPU_ON asks the vCPU that it switches on to reset itself, which it does before it runs."""
        f = skeleton(self.program, _CPU_ON, self.mode, {_MAKES, _RESETS})
        made = [c for c in f.named(_MAKES) if c.arguments[1:2] == ("kvm_mpidr_to_vcpu()",)]
        if f.named(_RESETS):  # before v5.0 it resets the vCPU itself
            return
        done = Or(*(c.guard for c in made))
        yield Rule(f"{_CPU_ON}() asks the vCPU to reset itself", f.file, made[0].line if made else f.line,
                   Implies(succeeds(f), done))  # fmt: skip
        for call in made:
            yield from self._heard(call.values[0])
        yield from self._bits()

    def _heard(self, number: Term | None) -> Iterator[Rule]:
        """The request is asked for in check_vcpu_requests, which the run loop calls, and never in vain."""
        f = self._asking(_WORK, ARM_C)
        asked = [c for c in f.named(_ASKS) if number is not None and c.values[0] is number]
        pending = And(*(truth(c) for c in f.named(_PENDING)))
        goes_on = f.returns if f.result is None else And(f.returns, t.slt(t.const(0, t.width(f.result)), f.result))
        yield Rule(f"{_WORK}() asks for what CPU_ON requests", f.file, asked[0].line if asked else f.line,
                   Implies(And(goes_on, pending), Or(*(c.guard for c in asked))))  # fmt: skip
        for name, file in sorted({(_WORK, ARM_C), *self._callers()}):
            f = self._asking(name, file)
            for call in f.named(_ASKS):
                if number is not None and call.values[0] is number:
                    yield Rule(f"{name}() resets the vCPU that was asked to", f.file, call.line,
                               Implies(truth(call), Or(*(c.guard for c in f.named(_RESETS)))))  # fmt: skip
        loop, entered, _ = self._loop()
        called = Or(*(c.guard for c in loop.named(_WORK) if c.loops == entered.loops))
        yield Rule(f"{_RUN}() calls {_WORK}() before it enters the guest", entered.file, entered.line,
                   Implies(entered.guard, called))  # fmt: skip

    def _asking(self, name: str, file: str) -> Skeleton:
        return skeleton(self.program, name, self.mode, {_ASKS, _PENDING, _RESETS}, file)

    def _callers(self) -> Iterator[tuple[str, str]]:
        """The functions that ask for a request and reset a vCPU."""
        for file, text in self._files((".c",)):
            words = kept(text) if _ASKS in text and _RESETS in text else ()
            of = [{w.function for w in words if w.text == name and w.function} for name in (_ASKS, _RESETS)]
            yield from ((name, file) for name in of[0] & of[1] if name not in (_ASKS, _RESETS))

    def _bits(self) -> Iterator[Rule]:
        """A request is a bit: set when it is made, and cleared when it is asked for."""
        for name, does in _BITS.items():
            f = skeleton(self.program, name, self.mode, set(does), _KVM_HOST, inside=(_MAKES_INNER,))
            calls = f.named(*does)
            right: Term = FALSE
            if len(calls) == 1 and (number := calls[0].values[0]) is not None:
                given = [v for v in nodes((number,)) if v.op == "var"]
                if [str(v.data) for v in given] == parameters(self.program, name, self.mode, _KVM_HOST)[:1]:
                    same = Eq(t.extract(number, *_NUMBER), t.extract(given[0], *_NUMBER))
                    right = And(calls[0].guard, same)
                if name == _TESTS:
                    says = nonzero(calls[0].result) if calls[0].result is not None else FALSE
                    right = And(right, Eq(nonzero(f.result), says)) if f.result is not None else FALSE
            yield Rule(f"{name}() is about the request's bit", f.file, f.line, right)
        f = skeleton(self.program, _ASKS, self.mode, {_TESTS, _CLEARS}, _KVM_HOST)
        tested, cleared = f.named(_TESTS), f.named(_CLEARS)
        right = FALSE
        if len(tested) == len(cleared) == 1 and f.result is not None:
            one = t.boolean(tested[0].values[0] is cleared[0].values[0])
            right = And(one, Eq(nonzero(f.result), truth(tested[0])), Implies(truth(tested[0]), cleared[0].guard))
        yield Rule(f"{_ASKS}() says whether there is a request, and clears it", f.file, f.line, right)

    # ---- what a run returns

    def _loop(self) -> tuple[Skeleton, Call, Call]:
        """The run loop, the call in it that runs the guest, and the one that handles the exit."""
        f = skeleton(self.program, _RUN, self.mode, {*ENTRIES, "handle_exit", _WORK}, ARM_C, _REASON,
                     inside=(_EXIT_REQUEST,))  # fmt: skip
        entered, handled = f.named(*ENTRIES), f.named("handle_exit")
        if not entered or not handled:
            raise NotUnderstoodError(f.file, f.line, f"{_RUN}() runs no guest, or handles no exit")
        return f, entered[0], handled[0]

    def _returned(self) -> Iterator[Rule]:
        """handle_exit gets what the run returned, of a guest in AArch64 state."""
        _, entered, handled = self._loop()
        value = handled.values[-1]
        right: Term = FALSE
        if value is not None and entered.result is not None:
            plain = {str(v.data): FALSE for v in nodes((value,)) if v.op == "var" and _AARCH32.match(str(v.data))}
            right = Implies(handled.guard, Eq(substitute(value, plain), entered.result))
        yield Rule(f"{_RUN}() gives handle_exit() what the run returned", handled.file, handled.line, right)
        apart = self.k.vhe and not passage.whole(self.program, self.mode)
        for outer in (ENTRIES[0], *(OUTER if apart else ())):
            if self.program.defines(outer, self.mode):
                g = skeleton(self.program, outer, self.mode, {*ENTRIES} - {outer})
                for call in g.named(*({*ENTRIES} - {outer})):
                    same = FALSE if g.result is None or call.result is None else Eq(g.result, call.result)
                    yield Rule(f"{outer}() returns what {call.name}() does", call.file, call.line, same)

    def _answer(self) -> Iterator[Rule]:
        """From v5.9 on the host finds in x1 what the run at EL2 returned."""
        f = skeleton(self.program, _HOST_CALL, self.mode, {"__kvm_vcpu_run"}, None, _ANSWER)
        given = [c for c in f.calls if c.name.startswith("= ") and c.name.endswith("regs.regs[1]")]
        runs = f.named("__kvm_vcpu_run")
        for run in runs:
            right: Term = FALSE
            if len(given) == 1 and given[0].result is not None and run.result is not None:
                same = Eq(t.extract(given[0].result, t.width(run.result) - 1, 0), run.result)
                right = Implies(run.guard, And(given[0].guard, same))
            yield Rule(f"{_HOST_CALL}() gives the host what the run returned", run.file, run.line, right)
        if not runs:
            yield Rule(f"{_HOST_CALL}() runs the vCPU", f.file, f.line, FALSE)

    # ---- what the handler gets, and says

    def _syndrome(self) -> Iterator[Rule]:
        """Outside of EL2 nothing is stored to the syndrome and the address of an exit."""
        for file, text in self._files((".c", ".h")):
            for store in _SYNDROME.finditer(text) if "/hyp/" not in file else ():
                line = text[: store.start()].count("\n") + 1
                yield Rule("the syndrome of an exit is as EL2 found it", file, line, FALSE)

    def _reason(self) -> Iterator[Rule]:
        """What a handler gives as the reason of an exit is what user space gets."""
        f, _, handled = self._loop()
        for store in f.calls[f.calls.index(handled) :]:
            if store.name.startswith("= "):
                yield Rule(f"{_RUN}() keeps the handler's reason", store.file, store.line, Not(store.guard))
        for name in ("handle_exit", _INNER):
            if self.program.defines(name, self.mode, HANDLE_EXIT):
                g = skeleton(self.program, name, self.mode, {_INNER, _HANDLER} - {name}, HANDLE_EXIT, _REASON)
                handles = Or(*(c.guard for c in g.calls if not c.name.startswith("= ")))
                stores = [c for c in g.calls if c.name.startswith("= ")]
                yield from (Rule(f"{name}() keeps the handler's reason", c.file, c.line, Not(And(c.guard, handles)))
                            for c in stores)  # fmt: skip

    def _files(self, kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for folder in (KVM, "virt/kvm"):
            for path in sources(self.program.tree.path / folder, kinds):
                file = self.program.tree.relative(str(path))
                yield file, without_comments(self.program.tree.read(file))
