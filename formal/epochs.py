"""Kernel releases as sets of named behaviours; ``releases.py`` has the data. No other file knows releases.

A ``Kernel`` says which behaviours a kernel has; an ``Epoch`` is a preset for neighbouring releases, or a stable series,
that have the same: computed from the rows. Transitions ask for behaviours, never for a release, because a real tree may
be a hybrid: ``formal.kernel`` resolves a tree to behaviours from its source. Taking a fix away again re-introduces the
bug that it fixed (``scope/bugs.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from enum import Enum
from typing import Any, Self, TypeVar

from formal.releases import CHANGES, FIRST, RELEASES, Change, Release, release

Step = TypeVar("Step", bound=Callable[..., object])


class Mode(Enum):
    """Where the host kernel runs."""

    VHE = "vhe"  # at EL2
    NVHE = "nvhe"  # at EL1, with a small hypervisor at EL2
    PROTECTED = "protected"  # likewise (pKVM), but the hypervisor runs copies of the vCPUs that it keeps from the host


HOSTS = (Mode.VHE, Mode.NVHE)  # what is booted, and what a tree is read for unless it is said


@dataclass(frozen=True)
class Kernel:
    """What a kernel does where kernels differ: ``CHANGES`` says of each behaviour since when."""

    mode: Mode
    # initialisation
    vhe_reads_boot_mdcr: bool = True
    first_run_init: bool = True
    mdcr_el2_bits: int = 64
    preserved_mdscr_bits: int = 32  # guest_debug_preserved.mdscr_el1 is u32 up to v6.13
    # what traps
    keeps_hpmn: bool = True
    traps_profiling: bool = True
    traps_trace_filter: bool = True
    traps_debug_for_use_hw: bool = True
    emulates_os_lock: bool = True
    # load and put, entry and exit
    vhe_traps_at_load: bool = True
    vhe_writes_changed_mdcr: bool = True
    saves_host_mdcr: bool = True
    returns_trace_buffer: bool = False
    sets_pmuserenr: bool = True
    saves_host_pmuserenr: bool = True
    guards_pmuserenr: bool = False
    # who has the debug registers
    tracks_debug_owner: bool = False
    vhe_saves_host_mdcr_first: bool = True
    reads_pmuv3p8_counters: bool = True
    # the host's single-step
    preserves_pstate_ss: bool = True
    keeps_step_pending: bool = True
    skip_advances_step: bool = True
    fakes_step_exit: bool = False
    defers_pc_adjustment: bool = True
    # emulation of trapped accesses
    indexes_trapped_banks: bool = True
    restores_debug_ptr: bool = True
    completes_mmio_once: bool = True
    skips_mmio_when_decoded: bool = False
    # protected mode, whose hypervisor has a copy of the vCPU (before v6.14 the copy leaves nothing of debug state out)
    hands_over_debug_owner: bool = True
    hands_over_external_mdscr: bool = True
    # guests that are hypervisors themselves
    nested_virtualization: bool = False
    applies_hypervisor_traps: bool = True
    forwards_debug_exceptions: bool = True
    forwards_debug_accesses: bool = True
    forwards_last_watchpoint: bool = True
    resets_virtual_hpmn: bool = True
    traps_redirected_mdscr: bool = True
    # what the kernel's comments promise
    documents_trace_traps: bool = True
    documents_os_lock: bool = True
    # size
    breakpoints: int = 16  # break- and watchpoints in a bank; a power of two up to 16

    @property
    def vhe(self) -> bool:
        """The host kernel runs at EL2."""
        return self.mode is Mode.VHE

    @property
    def nests(self) -> bool:
        """A guest may be a hypervisor: nested virtualization needs a host at EL2."""
        return self.nested_virtualization and self.vhe

    @property
    def copies_vcpu(self) -> bool:
        """The guest runs from a copy of the vCPU at EL2, which is handed debug state at each entry."""
        return self.mode is Mode.PROTECTED and self.tracks_debug_owner

    @property
    def traps_at_load(self) -> bool:
        """The traps are active from vcpu_load to vcpu_put, not just while a guest runs."""
        return self.vhe and self.vhe_traps_at_load

    def doing(self, function: str, by_hand: Step) -> Step:
        """A step of an operation: as the specification has it (a tree may bring its own)."""
        return by_hand

    def but(self, **changes: Any) -> Self:
        """This kernel with some behaviours changed."""
        return replace(self, **changes)


# ---- behaviours by release

ALWAYS = ("keeps_hpmn", "traps_debug_for_use_hw", "restores_debug_ptr")  # in each preset
_SIZES = {"mdcr_el2_bits": (32, 64)}  # of behaviours that are a number: without the change, and with it
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Kernel) if f.name != "mode"}


def behaviours(has: Callable[[Change], bool]) -> dict[str, Any]:
    """The behaviours of kernels for which ``has`` says which changes they have."""
    there = {c.behaviour for c in CHANGES if has(c)}
    found = {}
    for c in CHANGES:
        if not c.within or c.within in there:
            found[c.behaviour] = _SIZES.get(c.behaviour, (False, True))[c.behaviour in there]
    return found


def without(behaviour: str) -> Any:
    """What a kernel is that does not have it."""
    return _SIZES.get(behaviour, (False, True))[0]


# ---- epochs

# An epoch's name for good, by its first release or its stable series.
_NAMES = {
    "v4.3": "E0", "v4.6": "E1", "v4.10": "E2", "v4.16": "E2b", "v4.17": "E3a", "v4.20": "E3a2", "v5.0": "E3b",
    "v5.3": "E3c", "v5.6": "E4", "v5.10.y": "E4s", "v5.13": "E5", "v5.15": "E6", "v5.18": "E7", "v6.1": "E8",
    "v6.1.y": "E8s", "v6.4": "E8b", "v6.14": "E9", "v6.17": "E10", "v6.18": "E11", "v7.0": "E11b", "v7.1": "E12",
    "v7.3": "E13",
}  # fmt: skip
# Releases without a preset: the PC is adjusted at the next entry, but not before KVM_RUN returns (26778aaa134a, v5.13).
_LEFT_OUT = (release("v5.11"), release("v5.12"))
_OLDEST = "the first that debug guests; nVHE only, PMUSERENR_EL0 is the host's"


@dataclass(frozen=True)
class Epoch:
    """Releases whose debug-trap code behaves alike."""

    name: str
    releases: str
    says: str
    lacks: dict[str, Any]
    modes: tuple[Mode, ...] = HOSTS
    first: Release = FIRST
    last: Release = FIRST

    def kernel(self, mode: Mode) -> Kernel:
        """The behaviours of these releases, in one host mode."""
        return Kernel(mode, **self.lacks)


def _modes(first: Release, has: dict[str, Any]) -> tuple[Mode, ...]:
    # VHE came with v4.6. Until v6.13 protected mode is as nVHE for debug state: v6.1 runs the host's own vCPU, and
    # later the copy gets all of it at each entry, debug_ptr to the host's registers included.
    if first < release("v4.6"):
        return (Mode.NVHE,)
    return tuple(Mode) if has["tracks_debug_owner"] else HOSTS


def _says(before: Release, first: Release, stable: str, has: dict[str, Any]) -> str:
    """What begins with these releases, and what ends, since the modelled ones before."""
    shown = [c for c in CHANGES if (not c.within or has[c.within]) and not c.behaviour.startswith("documents_")]
    if stable:
        return f"{first} with later fixes: " + "; ".join(c.says for c in shown if stable in c.stable)
    if first == FIRST:
        return _OLDEST
    begins = [c for c in shown if c.covers(first) and not c.covers(before)]
    ends = [f"no longer: {c.says}" for c in shown if c.covers(before) and not c.covers(first)]
    owners = {c.behaviour for c in begins}  # what came with these releases, without what later belongs to it
    missing = [c.lacking for c in shown if c.within in owners and c.bug and not c.covers(first)]
    return "; ".join([*(c.says for c in begins), *ends, *(f"but {text}" for text in missing)])


def _span(first: Release, last: Release) -> str:
    numbers = RELEASES.index(last) - RELEASES.index(first)
    return str(first) if not numbers else f"{first} {'and' if numbers == 1 else 'to'} {last}"


def _epoch(before: Release, first: Release, last: Release, stable: str = "") -> Epoch:
    has = behaviours(lambda c: c.covers(first) or stable in c.stable)
    lacks = {name: value for name, value in has.items() if value != _DEFAULTS[name]}
    name = _NAMES[stable or str(first)]
    return Epoch(
        name, stable or _span(first, last), _says(before, first, stable, has), lacks, _modes(first, has), first, last
    )


def _computed() -> Iterator[Epoch]:
    """The presets, oldest first, stable series after the release that they come from."""
    modelled = [r for r in RELEASES if r not in _LEFT_OUT]
    has = [behaviours(lambda c, r=r: c.covers(r)) for r in modelled]  # type: ignore[misc]
    alike = [(h, _modes(r, h)) for r, h in zip(modelled, has, strict=True)]
    starts = [0, *(n for n in range(1, len(modelled)) if alike[n] != alike[n - 1])]
    for n, after in zip(starts, [*starts[1:], len(modelled)], strict=True):
        yield _epoch(modelled[max(n - 1, 0)], modelled[n], modelled[after - 1])
        for series in sorted({s for c in CHANGES for s in c.stable}):
            if modelled[n] <= (base := release(series)) <= modelled[after - 1]:
                yield _epoch(base, base, base, series)


EPOCHS: dict[str, Epoch] = {e.name: e for e in _computed()}


class NoEpochError(ValueError):
    """No preset has that name or release; the message says why, and what may have been meant."""


def of_release(text: str) -> tuple[Epoch, ...]:
    """The presets that a tree of this release (6.1.170) may be: of the release, and of a stable series of it."""
    try:
        mainline = epoch_of(f"v{text}")
    except NoEpochError:
        return ()
    found = re.fullmatch(r"(\d+\.\d+)\.[1-9]\d*", text)
    return (mainline, *(e for e in EPOCHS.values() if found and e.releases == f"v{found[1]}.y"))


def epoch_of(text: str) -> Epoch:
    """The preset by its name (E8), a release of it (v6.1, 6.1.20) or its stable series (v5.10.y).

    Raises:
        NoEpochError: if there is none.
    """
    by_name = {name.lower(): e for name, e in EPOCHS.items()} | {e.releases: e for e in EPOCHS.values()}
    if found := by_name.get(text.lower()) or by_name.get(f"v{text.lower()}"):
        return found
    asked = Release.parse(text)
    if asked is None:
        names = [*EPOCHS, *map(str, RELEASES)]
        like = get_close_matches(text, names, 1)
        meant = f"did you mean {like[0]}?" if like else f"there are {', '.join(EPOCHS)}"
        raise NoEpochError(f"no epoch {text}; {meant}")
    if asked < FIRST:
        raise NoEpochError(f"no epoch {text}: {FIRST} is the first release that debugs guests; did you mean {FIRST}?")
    if asked > RELEASES[-1]:
        raise NoEpochError(
            f"no epoch {text}: {RELEASES[-1]} is the last that is modelled; did you mean {RELEASES[-1]}?"
        )
    if asked not in RELEASES or asked in _LEFT_OUT:
        near = max(r for r in RELEASES if r < asked and r not in _LEFT_OUT)
        why = "is not modelled" if asked in _LEFT_OUT else "was never released"
        raise NoEpochError(f"no epoch {text}: {asked} {why}; did you mean {near}?")
    return next(e for e in EPOCHS.values() if e.first <= asked <= e.last and not e.releases.endswith(".y"))
