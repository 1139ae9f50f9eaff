"""What changed between releases, as data: one row a behaviour of KVM's debug code, with the releases that have it.

The presets (``epochs.py``), the bugs that can be brought back (``scope/bugs.py``) and the release notes are computed
from these rows. Commit ids are those of mainline; where there is none, the release was seen in source trees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Release:
    """A mainline release, say v6.1."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Release | None:
        """The release that a text names (v6.1, 6.1, v6.1.20, v6.1-rc3: the series counts); None for any other text."""
        found = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(?:\d+|y))?(?:-rc\d+)?", text)
        return cls(int(found[1]), int(found[2])) if found else None

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}"


def release(text: str) -> Release:
    """The release that a text surely names."""
    found = Release.parse(text)
    assert found is not None, text
    return found


_LAST = {4: 20, 5: 19, 6: 19, 7: 3}  # the last minor number of each major one; of the last, what is modelled
FIRST = Release(4, 3)  # the first that debugs guests
RELEASES = tuple(r for major, last in _LAST.items() for r in (Release(major, n) for n in range(last + 1)) if r >= FIRST)


@dataclass(frozen=True)
class Change:
    """A behaviour that some releases have: from ``since`` on, up to the one before ``until``, and in ``stable`` series.

    ``within`` another behaviour it makes a difference; where that is missing, it is left as ``Kernel`` has it. To lack
    it was a bug if ``bug`` has its name (``bugs.py``).
    """

    behaviour: str  # a field of Kernel
    since: str
    commit: str
    says: str  # what these releases do
    until: str = ""
    stable: tuple[str, ...] = ()
    within: str = ""
    bug: str = ""
    lacking: str = ""  # what releases without it do, if that was a bug

    def covers(self, other: Release) -> bool:
        """Whether a mainline release has it."""
        return release(self.since) <= other and not (self.until and release(self.until) <= other)

    @property
    def source(self) -> str:
        """Commit and release."""
        return f"{self.commit} ({self.since})" if self.commit else self.since


CHANGES: tuple[Change, ...] = (
    Change(
        "skips_mmio_when_decoded",
        str(FIRST),
        "",
        "an access that user space completes is skipped when it is decoded",
        until="v5.0",  # 0d640732dbeb
    ),
    Change(
        "sets_pmuserenr",
        "v4.6",
        "d692b8ad6ec4",
        "PMUSERENR_EL0 lets EL0 accesses of the PMU trap to EL2",
        bug="B24",
        lacking="the guest runs with the host's PMUSERENR_EL0",
    ),
    Change(
        "traps_profiling",
        "v4.10",
        "f85279b4bd48",
        "statistical profiling trapped, its buffer given back at exits",
    ),
    Change(
        "fakes_step_exit",
        "v4.16",
        "696673d192d8",
        "a step is reported after any exit that KVM has handled",
        until="v5.0",
    ),
    Change("vhe_traps_at_load", "v4.17", "", "VHE activates the traps at vcpu_load, not at every entry"),
    Change(
        "vhe_reads_boot_mdcr",
        "v4.20",
        "da5a3ce66b8b",
        "VHE reads the boot value of MDCR_EL2 too",
        bug="B0",
        lacking="under VHE the boot value of MDCR_EL2 is never read",
    ),
    Change(
        "skip_advances_step",
        "v5.0",
        "bd7d95cafb49",
        "skipping an instruction clears PSTATE.SS",
        bug="B7",
        lacking="an emulated instruction does not count as a step",
    ),
    Change(
        "indexes_trapped_banks",
        str(FIRST),
        "",
        "trapped accesses of breakpoint registers go to their number",
        until="v5.3",  # 03fdfb269009
    ),
    Change(
        "completes_mmio_once",
        "v5.3",
        "2113c5f62b74",
        "an access that user space completes is done once",
    ),
    Change(
        "vhe_writes_changed_mdcr",
        "v5.6",
        "4942dc6638b0",
        "VHE also writes MDCR_EL2 when setup changed it",
        bug="B1",
        lacking="under VHE MDCR_EL2 is written at vcpu_load only, from the value of the run before",
    ),
    Change("defers_pc_adjustment", "v5.11", "cdb5e02ed133", "the PC is adjusted at the next entry"),
    Change(
        "traps_trace_filter",
        "v5.12",
        "a354a64d91ee",
        "the trace filter trapped",
        stable=("v5.10.y",),
        bug="B3",
        lacking="the guest reaches the trace filter controls",
    ),
    Change("documents_trace_traps", "v5.12", "a354a64d91ee", "comments promise the trace traps", stable=("v5.10.y",)),
    Change(
        "first_run_init",
        "v5.13",
        "263d6287da14",
        "mdcr_el2 is computed before the first vcpu_load",
        stable=("v5.10.y",),
        bug="B2",
        lacking="the first vcpu_load under VHE writes 0 to MDCR_EL2, a reserved HPMN",
    ),
    Change(
        "indexes_trapped_banks",
        "v5.13",
        "cb853ded1d25",
        "trapped accesses of breakpoint registers go to their number again",
        stable=("v5.10.y",),
        bug="B4",
        lacking="every trapped access of a breakpoint register goes to number 0",
    ),
    Change(
        "returns_trace_buffer",
        "v5.13",
        "a1319260bf62",
        "nVHE gives EL1 the trace buffer at every exit",
        until="v5.15",
    ),
    Change(
        "saves_host_mdcr",
        "v5.15",
        "1460b4b25fde",
        "the host's MDCR_EL2 saved, not rebuilt from the guest's",
        bug="B10",
        lacking="the host's MDCR_EL2 is rebuilt from the guest's",
    ),
    Change(
        "mdcr_el2_bits",
        "v5.15",
        "d6c850dd6ce9",
        "MDCR_EL2 kept in 64 bits",
        bug="B11",
        lacking="MDCR_EL2 is kept in 32 bits",
    ),
    Change(
        "emulates_os_lock",
        "v5.18",
        "7dabf02f43a1",
        "the guest's OS lock emulated",
        bug="B12",
        lacking="the guest's OS lock does nothing",
    ),
    Change("documents_os_lock", "v5.18", "7dabf02f43a1", "comments speak of the OS lock"),
    Change(
        "preserves_pstate_ss",
        "v6.1",
        "34fbdee086cf",
        "the guest's PSTATE.SS kept while user space steps",
        bug="B5",
        lacking="single-stepping leaves PSTATE.SS set in the guest",
    ),
    Change(
        "keeps_step_pending",
        "v6.1",
        "370531d1e95b",
        "a pending step kept over exits",
        bug="B6",
        lacking="an interrupt between an instruction and its step exception loses the step",
    ),
    Change(
        "saves_host_pmuserenr",
        "v6.4",
        "8681f7175948",
        "the host's PMUSERENR_EL0 saved, not zeroed",
        stable=("v6.1.y",),
    ),
    Change(
        "guards_pmuserenr",
        "v6.4",
        "0c2f9acf6ae7",
        "perf leaves PMUSERENR_EL0 alone while a vCPU is loaded",
        bug="B23",
        lacking="under VHE perf changes PMUSERENR_EL0 while a vCPU is loaded",
    ),
    Change("tracks_debug_owner", "v6.14", "", "debug_owner, decided at vcpu_load, in place of DEBUG_DIRTY"),
    Change(
        "hands_over_debug_owner",
        "v6.14",
        "0f1a6c5c9784",
        "protected mode hands over debug_owner with the registers of the owner",
        within="tracks_debug_owner",
        bug="B17",
        lacking="protected mode does not hand debug_owner to the hypervisor",
    ),
    Change(
        "vhe_saves_host_mdcr_first",
        "v6.17",
        "da2e743419cb",
        "VHE saves the host's MDCR_EL2 before it writes the guest's",
        within="tracks_debug_owner",
        bug="B15",
        lacking="under VHE the host's MDCR_EL2 is saved after the guest's is written",
    ),
    Change("nested_virtualization", "v6.18", "3af1105c4fa3", "guest hypervisors (what was before is not modelled)"),
    Change(
        "applies_hypervisor_traps",
        "v6.18",
        "3af1105c4fa3",
        "a guest hypervisor's MDCR_EL2 traps what its own guests do",
        within="nested_virtualization",
        bug="B18a",
        lacking="the traps in a guest hypervisor's MDCR_EL2 have no effect on its guests",
    ),
    Change(
        "forwards_debug_exceptions",
        "v6.14",
        "b0ee51033ae3",
        "debug exceptions go to the guest hypervisor that asked for them",
        within="nested_virtualization",
        bug="B18c",
        lacking="debug exceptions that a guest hypervisor has asked for (TDE) go to user space",
    ),
    Change(
        "forwards_debug_accesses",
        "v6.6",
        "",
        "accesses that a guest hypervisor traps go to it",
        within="nested_virtualization",
    ),
    Change(
        "resets_virtual_hpmn",
        "v6.16",
        "c8823e51b534",
        "a guest hypervisor's HPMN is all counters at reset",
        within="nested_virtualization",
        bug="B18b",
        lacking="a guest hypervisor's MDCR_EL2.HPMN is 0 after a reset",
    ),
    Change(
        "traps_redirected_mdscr",
        "v6.18",
        "e0b5a7967dec",
        "a guest hypervisor's own writes of MDSCR_EL1 trap, which FEAT_NV2 would send to memory",
        within="nested_virtualization",
        bug="B18d",
        lacking="a guest hypervisor's writes of MDSCR_EL1 go to memory and have no effect",
    ),
    Change(
        "forwards_last_watchpoint",
        "v7.0",
        "",
        "accesses of DBGWCR15_EL1 that a guest hypervisor traps go to it too",
        within="nested_virtualization",
        bug="B21",
        lacking="KVM itself emulates accesses of DBGWCR15_EL1 that a guest hypervisor traps",
    ),
    Change(
        "reads_pmuv3p8_counters",
        "v7.1",
        "",
        "the event counters of CPUs from PMUv3p8 on are read too",
        within="tracks_debug_owner",
        bug="B20",
        lacking="CPUs from PMUv3p8 on are taken for CPUs without a PMU: HPMN is 0",
    ),
    Change(
        "hands_over_external_mdscr",
        "v7.3",
        "",
        "protected mode hands over MDSCR_EL1 as KVM needs it",
        within="tracks_debug_owner",
        bug="B22",
        lacking="protected mode does not hand MDSCR_EL1 to the hypervisor as KVM needs it",
    ),
)


def between(older: Release, newer: Release) -> Iterator[tuple[Release, bool, Change]]:
    """What changed after one release up to another: the release, whether the behaviour begins there, and the row."""
    found = []
    for number, c in enumerate(CHANGES):
        for text, begins in ((c.since, True), (c.until, False)):
            if text and older < release(text) <= newer:
                found.append((release(text), number, begins, c))
    yield from ((at, begins, c) for at, _, begins, c in sorted(found, key=lambda f: f[:2]))
