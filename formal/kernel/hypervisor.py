"""The hypervisor's functions that operations are made of: which C function each component of the specification is.

They are compared on every state, without lemmas. A tree in which one of them differs from its description is one that
the hand-written part of the specification does not describe: nothing is PROVED about it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from formal import terms as t
from formal.epochs import Kernel
from formal.kernel.binding import BANKS, Binding
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.front import Argument, Lifted, Program
from formal.kernel.front import Mode as FrontMode
from formal.state import State
from formal.terms import Eq, Term
from formal.transitions import (
    activate_traps,
    deactivate_traps,
    debug_switch_to_guest,
    debug_switch_to_host,
    restore_guest_mdscr,
    save_host_mdscr,
)

_HOST_CONTEXT = "percpu.kvm_host_data.host_ctxt"


@dataclass(frozen=True)
class Component:
    """A function of the specification and the C functions that may be it; the first one that the tree has is taken."""

    by_hand: Callable[[State, Kernel], State]
    names: Callable[[Kernel], tuple[str, ...]]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


def _deactivating(k: Kernel) -> tuple[str, ...]:
    if k.saves_host_mdcr:
        return ("__deactivate_traps_common",)
    return ("deactivate_traps_vhe_put",) if k.vhe else ("__deactivate_traps",)


COMPONENTS: tuple[Component, ...] = (
    Component(activate_traps, lambda k: ("__activate_traps_common",)),
    Component(deactivate_traps, _deactivating),
    Component(lambda s, k: debug_switch_to_guest(s), lambda k: ("__debug_switch_to_guest",)),
    Component(lambda s, k: debug_switch_to_host(s), lambda k: ("__debug_switch_to_host",)),
    Component(lambda s, k: save_host_mdscr(s), lambda k: ("__sysreg_save_common_state",), {"ctxt": _HOST_CONTEXT}),
    Component(
        lambda s, k: restore_guest_mdscr(s), lambda k: ("__sysreg_restore_common_state",), {"ctxt": "vcpu->arch.ctxt"}
    ),
)


def lifted(program: Program, k: Kernel) -> Iterator[tuple[Component, Lifted]]:
    """Each component with its C function.

    Raises:
        NotUnderstoodError: if the tree has none, or one that is not understood.
    """
    mode: FrontMode = "vhe" if k.vhe else "nvhe"
    for component in COMPONENTS:
        yield component, program.lift(component.names(k)[0], mode, arguments=component.arguments)


def equalities(
    component: Component, function: Lifted, binding: Binding, s: State, k: Kernel
) -> Iterator[tuple[str, Term]]:
    """What must hold for a component and its C function to be equal, by state variable.

    Other bits of the flags words are left out: there the hypervisor keeps flags that are not modelled.
    """
    after, effect = component.by_hand(s, k), binding.after(function, s)
    for name in s.values:
        if binding.decides(name):
            yield name, Eq(effect.values.get(name, s.values[name]), after.values[name])
    for bank in ("hw_bank", *BANKS):
        before, wanted = s.values[bank], after.values[bank]
        assert isinstance(before.sort, tuple)
        same = []
        for n in range(1 << before.sort[0]):
            index = t.const(n, before.sort[0])
            got = effect.elements.get((bank, n), t.select(before, index))
            same.append(Eq(got, t.select(wanted, index)))
        yield bank, t.And(*same)


def refuse_unfit(function: Lifted) -> None:
    """A function that does not return, or returns something, is not what the component describes.

    Raises:
        NotUnderstoodError: if it does not always return.
    """
    if function.returns is not t.TRUE:
        raise NotUnderstoodError(function.file, function.line, f"{function.name}() does not return on every path")
