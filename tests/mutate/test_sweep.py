"""Every edit of the modelled C is told, refused, or proved to change nothing modelled: a sample here, all with
``python -m formal.mutate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formal.commands import mutate
from formal.common.exit_codes import ExitCode
from formal.epochs import Mode
from formal.kernel.model.binding import Binding
from formal.kernel.source.tree import KVM
from formal.logic.terms import FALSE, TRUE
from formal.mutate import sweep as sweep_module
from formal.mutate import unmodelled
from formal.mutate.operators import Edit
from formal.mutate.sweep import Outcome, Site, Sweep, _equalities, sample, sites
from tests.kernel.conftest import tree_path


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep(tree_path("6.1"), Mode.VHE) as made:
        yield made


def site_of(sweep: Sweep, text: str) -> Site:
    """The last site whose text ends like this."""
    return [site for site in sites(sweep.tree, sweep.mode) if str(site).endswith(text)][-1]


def edited(sweep: Sweep, file: str, function: str, old: str, new: str) -> Outcome:
    """What becomes of an edit that no operator makes."""
    text = sweep.tree.read(f"{KVM}/{file}")
    assert text.count(old) == 1
    at = text.index(old)
    return sweep.outcome(Site(f"{KVM}/{file}", Edit("by hand", function, text.count("\n", 0, at) + 1, at, old, new)))


def test_no_edit_of_a_sample_goes_unseen(sweep: Sweep) -> None:
    files = ("/debug.c", "/debug-sr.h", "/handle_exit.c", "/guest.c", "/arm.c")
    found = list(sweep.run(sample([s for s in sites(sweep.tree, sweep.mode) if s.file.endswith(files)], 24)))
    assert [str(site) for site, outcome in found if outcome.kind == "unexplained"] == []
    assert len([outcome for _, outcome in found if outcome.told]) >= len(found) // 3
    assert all(outcome.reason for _, outcome in found)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("name in kvm_arm_setup_mdcr_el2: mdcr_el2 -> mdcr_el2_host", "equivalent", "the same terms"),  # only traced
        ("statement deleted in kvm_arm_setup_debug: vcpu_set_flag(vcpu, DEBUG_DIRTY); -> ;", "differs", "debug_dirty"),
        ("statement deleted in kvm_arch_vcpu_ioctl_run: local_irq_enable(); -> ;", "unmodelled", "the rules about"),
        ("statement deleted in __debug_save_state: ctxt_sys_reg(ctxt, MDCCINT_EL1) = read_sysreg(mdccint_el1); -> ;",
         "differs", "the host finds MDCCINT_EL1"),
        ("name in kvm_vcpu_load_sysregs_vhe: vcpu_set_flag -> vcpu_clear_flag", "unmodelled", "other bits of"),
        ("statement deleted in kvm_handle_guest_debug: run->debug.arch.hsr = lower_32_bits(esr); -> ;", "differs",
         "tells user space the syndrome"),
        ("vcpu->arch.debug_ptr != &vcpu->arch.vcpu_debug_state); -> ;", "equivalent", "the same terms"),  # a BUG_ON
        ("constant in a table: 0 -> 1", "differs", "exception class 0x0 is handled by nothing"),
    ],
)  # fmt: skip
def test_what_becomes_of_an_edit(sweep: Sweep, text: str, kind: str, reason: str) -> None:
    outcome = sweep.outcome(site_of(sweep, text))
    assert outcome.kind == kind and reason in outcome.reason, outcome


def test_what_nobody_has_looked_at_is_unexplained(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: a lifted function, and one that is read by its calls."""
    texts = ("statement deleted in synchronize_vcpu_pstate: write_sysreg_el2(*vcpu_cpsr(vcpu), SYS_SPSR); -> ;",
             "statement deleted in cpu_hyp_reinit: cpu_hyp_init_context(); -> ;")  # fmt: skip
    assert [sweep.outcome(site_of(sweep, text)).kind for text in texts] == ["unmodelled", "unmodelled"]
    monkeypatch.setattr(unmodelled, "REVIEWED", {})
    found = [sweep.outcome(site_of(sweep, text)) for text in texts]
    assert [outcome.kind for outcome in found] == ["unexplained", "unexplained"]
    assert [outcome.reason for outcome in found] == [
        "differs in synchronize_vcpu_pstate: vcpu->arch.ctxt.regs.pstate",
        "not lifted, and reaches cpu_hyp_init_context",
    ]


def test_a_modelled_flag_of_a_word_is_not_one_of_its_other_bits(sweep: Sweep) -> None:
    """SYSREGS_ON_CPU is not modelled; the next bit of the word stands for one that is."""
    outcome = edited(sweep, "hyp/vhe/sysreg-sr.c", "kvm_vcpu_load_sysregs_vhe",
                     "vcpu_set_flag(vcpu, SYSREGS_ON_CPU);",
                     "vcpu_set_flag(vcpu, SYSREGS_ON_CPU); vcpu->guest_debug = 0;")  # fmt: skip
    assert outcome.told, outcome


def test_a_new_store_in_a_function_that_is_not_lifted_is_not_passed_over(sweep: Sweep) -> None:
    outcome = edited(sweep, "arm.c", "cpu_hyp_reinit", "cpu_hyp_init_context();\n\tcpu_hyp_init_features",
                     "cpu_hyp_init_context(); write_sysreg(0, mdcr_el2);\n\tcpu_hyp_init_features")  # fmt: skip
    assert outcome.kind in ("refused", "differs", "unexplained"), outcome


def test_a_fault_of_the_tool_is_unexplained(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(sweep_module, "compare", fails)
    (site,) = sample(sites(sweep.tree, sweep.mode), 1)
    assert sweep.outcome(site) == Outcome("unexplained", "internal error: ZeroDivisionError: oops")


def test_reviewed_places_are_of_functions_that_are_modelled() -> None:
    functions = {name for listed in sweep_module.MODELLED.values() for name in listed.split()}
    for place, why in unmodelled.REVIEWED.items():
        names = place.partition(": ")[0].split(", ")
        assert functions.issuperset(names) and why, place


def test_a_term_that_differs_is_not_equivalent(sweep: Sweep) -> None:
    (before,) = [f for name, f in sweep._lifted.items() if name.startswith("kvm_arm_clear_debug ")]
    lvalue = next(iter(before.writes))
    other = replace(before, writes={**before.writes, lvalue: ~before.reads[lvalue]})
    binding = Binding.of(sweep.program)
    found = dict(_equalities(before, other, binding))
    assert found[lvalue] is not TRUE
    assert [name for name, equal in found.items() if equal is not TRUE] == [lvalue]
    assert all(equal is TRUE for _, equal in _equalities(before, before, binding))
    assert [n for n, equal in _equalities(before, replace(before, returns=FALSE), binding) if equal is FALSE] == [
        "when it returns"
    ]


def test_the_copy_is_as_before_afterwards(sweep: Sweep) -> None:
    (site,) = sample(sites(sweep.tree, sweep.mode), 1, seed=3)
    before = sweep.tree.read(site.file)
    first, second = sweep.outcome(site), sweep.outcome(site)
    assert first == second
    assert sweep.tree.read(site.file) == before
    assert not (sweep.tree.path / site.file).is_symlink()


def test_the_sample_is_always_the_same() -> None:
    numbers = list(range(100))
    assert sample(numbers, 5) == sample(numbers, 5) == sorted(sample(numbers, 5))  # type: ignore[arg-type, type-var]


def test_what_is_no_tree_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutate.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"formal.mutate: {tmp_path}/nowhere: no such directory\n"


def test_processes_share_the_edits_and_the_rows_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many rows as edits, in the order of the files, whoever made them; what cannot be explained is exit 1."""
    path = tmp_path / "edits.json"
    arguments = [str(tree_path("6.1")), "--file", "hyp/exception.c", "--sample", "6", "--json", str(path)]
    assert mutate.main([*arguments, "-j", "2", "--all"]) == ExitCode.OK
    out = capsys.readouterr().out.splitlines()
    rows = json.loads(path.read_text())["edits"]
    assert len(rows) == 6 == len(out) - 1
    assert out[-1].startswith("6 edits: ") and out[-1].endswith(", 0 unexplained")
    assert sorted(f"{row['kind']}: {row['edit']} ({row['reason']})" for row in rows) == sorted(out[:-1])
    chosen = sample([s for s in sites(sweep_module.KernelTree(tree_path("6.1")), Mode.VHE)
                     if "hyp/exception.c" in s.file], 6)  # fmt: skip
    assert [row["edit"] for row in rows] == [str(site) for site in chosen]


def test_an_unexplained_edit_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unexplained(self: Sweep, site: Site) -> Outcome:
        return Outcome("unexplained", "nobody knows")

    monkeypatch.setattr(Sweep, "outcome", unexplained)
    monkeypatch.setattr(Sweep, "__init__", lambda self, tree, mode: None)
    monkeypatch.setattr(Sweep, "__exit__", lambda *_: None)
    assert mutate.main([str(tree_path("6.1")), "--sample", "1"]) == ExitCode.WRONG
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("unexplained: ") and out[0].endswith(" (nobody knows)")
    assert out[1] == "1 edit: 0 differs, 0 refused, 0 equivalent, 0 unmodelled, 1 unexplained"
