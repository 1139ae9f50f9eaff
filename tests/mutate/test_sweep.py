"""Every edit of the modelled C is told, refused or equivalent: a sample here, all with ``python -m formal.mutate``."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formal.epochs import Mode
from formal.mutate.__main__ import main
from formal.mutate.sweep import Site, Sweep, _equalities, sample
from formal.terms import FALSE, TRUE
from tests.kernel.conftest import tree_path

SURVIVORS: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text())["survivor"]
Key = tuple[str, str, str, int]


def keys(sites: list[Site]) -> dict[Key, Site]:
    """Sites by file, function, operator, and number among their like."""
    count: Counter[tuple[str, str, str]] = Counter()
    found = {}
    for site in sites:
        like = site.file.rpartition("/kvm/")[2], site.edit.function, site.edit.operator
        found[(*like, count[like])] = site
        count[like] += 1
    return found


def reviewed() -> dict[Key, str]:
    """The edits that were read and found to change nothing that is modelled, with the reason."""
    return {(s["file"], s["function"], s["operator"], n): s["why"] for s in SURVIVORS for n in s["ordinals"]}


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep(tree_path("6.1"), Mode.VHE) as made:
        yield made


def test_no_edit_of_a_sample_goes_unseen(sweep: Sweep) -> None:
    sites = [s for s in sweep.sites() if s.file.endswith(("/debug.c", "/debug-sr.h", "/handle_exit.c", "/guest.c"))]
    found = list(sweep.run(sample(sites, 14)))
    known = {str(site) for key, site in keys(sweep.sites()).items() if key in reviewed()}
    unseen = [str(site) for site, o in found if o.kind == "equal" and not o.reason.startswith("equivalent: ")]
    assert [text for text in unseen if text not in known] == []
    told = [outcome for _, outcome in found if outcome.kind != "equal"]
    assert len(told) >= len(found) // 2
    assert all(outcome.reason for outcome in told)


def test_reviewed_survivors_are_edits_that_survive(sweep: Sweep) -> None:
    """Each is a place that there is, with a reason; two of them are made again."""
    sites, why = keys(sweep.sites()), reviewed()
    assert why.keys() <= sites.keys()
    assert len(why) == sum(len(s["ordinals"]) for s in SURVIVORS) and all(why.values())
    for key in list(why)[:: len(why) // 2][:2]:
        outcome = sweep.outcome(sites[key])
        assert outcome.kind == "equal" and not outcome.reason.startswith("equivalent: "), (key, outcome)


def test_what_is_known_of_an_edit_that_is_not_told(sweep: Sweep) -> None:
    """Traced values are not terms; the flag is set again further down; a loop is not lifted; the host's saved value."""
    wanted = {
        "name in kvm_arm_setup_mdcr_el2: mdcr_el2 -> mdcr_el2_host": "equivalent: the same terms",
        "statement deleted in kvm_arm_setup_debug: vcpu_set_flag(vcpu, DEBUG_DIRTY); -> ;": "equivalent: terms proved",
        "statement deleted in kvm_arch_vcpu_ioctl_run: local_irq_enable(); -> ;": "not lifted: ",
    }
    for text, reason in wanted.items():
        site = [s for s in sweep.sites() if str(s).endswith(text)][-1 if "mdcr_el2_host" in text else 0]
        outcome = sweep.outcome(site)
        assert outcome.kind == "equal" and outcome.reason.startswith(reason), (site, outcome)


def test_a_term_that_differs_is_not_equivalent(sweep: Sweep) -> None:
    (before,) = [f for name, f in sweep._lifted.items() if name.startswith("kvm_arm_clear_debug ")]
    lvalue = next(iter(before.writes))
    other = replace(before, writes={**before.writes, lvalue: ~before.reads[lvalue]})
    found = dict(_equalities(before, other))
    assert found[lvalue] is not TRUE
    assert [name for name, equal in found.items() if equal is not TRUE] == [lvalue]
    assert all(equal is TRUE for _, equal in _equalities(before, before))
    assert [n for n, equal in _equalities(before, replace(before, returns=FALSE)) if equal is FALSE] == [
        "when it returns"
    ]


def test_the_copy_is_as_before_afterwards(sweep: Sweep) -> None:
    (site,) = sample(sweep.sites(), 1, seed=3)
    before = sweep.tree.read(site.file)
    first, second = sweep.outcome(site), sweep.outcome(site)
    assert first == second
    assert sweep.tree.read(site.file) == before
    assert not (sweep.tree.path / site.file).is_symlink()


def test_the_sample_is_always_the_same() -> None:
    numbers = list(range(100))
    assert sample(numbers, 5) == sample(numbers, 5) == sorted(sample(numbers, 5))  # type: ignore[arg-type, type-var]


def test_what_is_no_tree_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"formal.mutate: {tmp_path}/nowhere: no such directory\n"
