"""Releases as data: rows about behaviours that exist, presets computed from them, epochs found by name and release."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise

import pytest

from formal.commands import prove
from formal.epochs import ALWAYS, EPOCHS, HOSTS, Kernel, Mode, NoEpochError, epoch_of, of_release
from formal.releases import CHANGES, FIRST, RELEASES, Change, Release, between
from formal.scope.bugs import BUGS

NO_CHANGE = {"mode", "breakpoints", "preserved_mdscr_bits", *ALWAYS}


def test_every_behaviour_has_a_row_or_never_changed() -> None:
    assert {c.behaviour for c in CHANGES} == {f.name for f in fields(Kernel)} - NO_CHANGE


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c.behaviour} {c.since}")
def test_a_row_is_whole(change: Change) -> None:
    since = Release.parse(change.since)
    assert since in RELEASES and str(since) == change.since
    assert re.fullmatch(r"[0-9a-f]{12}|", change.commit)
    assert change.says and change.says[-1] not in ".;"
    assert not change.within or change.within in {c.behaviour for c in CHANGES}
    assert bool(change.bug) == bool(change.lacking)
    if change.until:
        until = Release.parse(change.until)
        assert until in RELEASES and since is not None and until is not None and since < until
    for series in change.stable:
        base = Release.parse(series)
        assert base is not None and series == f"{base}.y" and not change.covers(base), "that has it anyway"


def test_the_rows_of_one_behaviour_do_not_overlap() -> None:
    for name in {c.behaviour for c in CHANGES}:
        for release in RELEASES:
            assert sum(c.covers(release) for c in CHANGES if c.behaviour == name) <= 1, (name, release)


def test_every_bug_of_the_rows_can_be_brought_back() -> None:
    assert {c.bug for c in CHANGES if c.bug} == BUGS.keys()
    assert len([c for c in CHANGES if c.bug]) == len(BUGS)


def test_epochs_cover_the_releases_one_after_the_other() -> None:
    mainline = [e for e in EPOCHS.values() if not e.releases.endswith(".y")]
    assert (mainline[0].first, mainline[-1].last) == (FIRST, RELEASES[-1])
    for a, b in pairwise(mainline):
        left_out = RELEASES[RELEASES.index(a.last) + 1 : RELEASES.index(b.first)]
        for release in left_out:
            with pytest.raises(NoEpochError, match="is not modelled"):
                epoch_of(str(release))
        differ = a.modes != b.modes or any(a.kernel(m) != b.kernel(m) for m in a.modes)
        assert differ, f"{a.name} and {b.name} are one"


@pytest.mark.parametrize("epoch", EPOCHS.values(), ids=lambda e: e.name)
def test_an_epoch_says_what_is_new(epoch: object) -> None:
    assert epoch.says and "  " not in epoch.says  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("release", "mode", "behaviours"),
    [
        ("v4.5", Mode.NVHE, {"sets_pmuserenr": False, "mdcr_el2_bits": 32}),
        ("v4.16", Mode.VHE, {"fakes_step_exit": True, "vhe_traps_at_load": False}),
        ("v4.20", Mode.VHE, {"skips_mmio_when_decoded": True, "skip_advances_step": False, "fakes_step_exit": True}),
        ("v5.0", Mode.VHE, {"skips_mmio_when_decoded": False, "skip_advances_step": True, "fakes_step_exit": False}),
        ("v5.2", Mode.VHE, {"indexes_trapped_banks": True, "completes_mmio_once": False}),
        ("v5.3", Mode.VHE, {"indexes_trapped_banks": False, "completes_mmio_once": True}),
        ("v5.10", Mode.VHE, {"traps_trace_filter": False, "first_run_init": False}),
        ("v5.10.y", Mode.VHE, {"traps_trace_filter": True, "first_run_init": True, "indexes_trapped_banks": True}),
        ("v5.14", Mode.NVHE, {"returns_trace_buffer": True, "saves_host_mdcr": False}),
        ("v5.15", Mode.NVHE, {"returns_trace_buffer": False, "saves_host_mdcr": True, "mdcr_el2_bits": 64}),
        ("v6.3", Mode.VHE, {"saves_host_pmuserenr": False, "guards_pmuserenr": False}),
        ("v6.1.y", Mode.VHE, {"saves_host_pmuserenr": True, "guards_pmuserenr": False}),
        ("v6.12", Mode.VHE, {"saves_host_pmuserenr": True, "guards_pmuserenr": True}),
        ("v6.16", Mode.VHE, {"vhe_saves_host_mdcr_first": False, "reads_pmuv3p8_counters": False}),
        ("v6.19", Mode.VHE, {"nested_virtualization": True, "forwards_last_watchpoint": False}),
        ("v7.0", Mode.VHE, {"forwards_last_watchpoint": True, "reads_pmuv3p8_counters": False}),
        ("v7.2", Mode.PROTECTED, {"reads_pmuv3p8_counters": True, "hands_over_external_mdscr": False}),
        ("v7.3", Mode.PROTECTED, {"hands_over_external_mdscr": True}),
    ],
)
def test_presets_are_what_the_kernels_are(release: str, mode: Mode, behaviours: dict[str, object]) -> None:
    kernel = epoch_of(release).kernel(mode)
    assert {name: getattr(kernel, name) for name in behaviours} == behaviours


@pytest.mark.parametrize(
    ("text", "name"),
    [("v6.1", "E8"), ("6.1", "E8"), ("6.1.20", "E8"), ("v6.1-rc3", "E8"), ("E8", "E8"), ("e8s", "E8s"),
     ("v6.1.y", "E8s"), ("5.10.y", "E4s"), ("v5.10", "E4"), ("v4.9", "E1"), ("v7.3", "E13"), ("v6.6.y", "E8b")],
)  # fmt: skip
def test_an_epoch_is_found_by_name_and_release(text: str, name: str) -> None:
    assert epoch_of(text).name == name


def test_every_release_finds_its_epoch() -> None:
    for e in EPOCHS.values():
        if not e.releases.endswith(".y"):
            assert epoch_of(str(e.first)) is epoch_of(str(e.last)) is e
        assert epoch_of(e.name) is e


@pytest.mark.parametrize(
    ("release", "names"),
    [("6.1.0", ["E8"]), ("6.1.170", ["E8", "E8s"]), ("5.10.223", ["E4", "E4s"]), ("6.12.95", ["E8b"]), ("5.12.0", []),
     ("7.4.0", []), ("7.3.4", ["E13"])],
)  # fmt: skip
def test_what_a_tree_of_a_release_may_be(release: str, names: list[str]) -> None:
    assert [e.name for e in of_release(release)] == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v4.2", "no epoch v4.2: v4.3 is the first release that debugs guests; did you mean v4.3?"),
        ("v7.4", "no epoch v7.4: v7.3 is the last that is modelled; did you mean v7.3?"),
        ("v5.11", "no epoch v5.11: v5.11 is not modelled; did you mean v5.10?"),
        ("v5.25", "no epoch v5.25: v5.25 was never released; did you mean v5.19?"),
        ("E99", "no epoch E99; did you mean E9?"),
        ("v6.1y", "no epoch v6.1y; did you mean v6.1?"),
    ],
)
def test_what_is_no_epoch_is_refused_with_the_nearest(text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoEpochError) as caught:
        epoch_of(text)
    assert str(caught.value) == says
    assert prove.main(["--epoch", text]) == 2
    assert capsys.readouterr().err == f"formal.prove: {says}\n"


def test_what_changed_between_two_releases() -> None:
    found = [(str(r), begins, c.behaviour) for r, begins, c in between(Release(5, 13), Release(5, 15))]
    assert found == [
        ("v5.15", False, "returns_trace_buffer"),
        ("v5.15", True, "saves_host_mdcr"),
        ("v5.15", True, "mdcr_el2_bits"),
    ]
    assert not list(between(Release(6, 1), Release(6, 1)))


def test_the_release_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["--notes", "v7.1..v7.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# v7.0 to v7.1"
    assert any(line.endswith("HPMN is 0 (--bug B20)") for line in lines)
    assert "- vhe: `event_counters_read_before_use` VIOLATED -> PROVED" in lines
    for wrong in ("v7.0", "v7.0..", "v7.0..v9.9", "a..b"):
        assert prove.main(["--notes", wrong]) == 2


def test_modes_by_release() -> None:
    assert epoch_of("v4.5").modes == (Mode.NVHE,)
    assert epoch_of("v6.13").modes == HOSTS
    assert epoch_of("v6.14").modes == tuple(Mode)
