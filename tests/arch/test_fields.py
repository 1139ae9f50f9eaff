"""Names, positions and features of register fields, against facts from Arm's register description of March 2025."""

import json
from pathlib import Path

import pytest

from formal.arch import features as feat
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import MDCR_EL2, MDSCR_EL1

FACTS = json.loads((Path(__file__).parent / "layout.json").read_text())
REGISTERS = [MDCR_EL2, MDSCR_EL1, HDFGRTR_EL2, HDFGWTR_EL2, HDFGRTR2_EL2, HDFGWTR2_EL2]


@pytest.mark.parametrize("register", REGISTERS, ids=lambda r: r.__name__)
def test_every_field_has_its_place(register):
    ours = {name: [f.hi, f.lo] for name, f in register.fields.items()}
    assert ours == {name: place[:2] for name, place in FACTS[register.__name__].items()}
    assert register.width == 64


@pytest.mark.parametrize("register", REGISTERS, ids=lambda r: r.__name__)
def test_one_bit_fields_are_booleans(register):
    assert [name for name, f in register.fields.items() if f.single is not (f.hi == f.lo)] == []


def test_what_no_field_names_is_res0():
    assert ~MDCR_EL2.mask() & (1 << 64) - 1 == int(FACTS["MDCR_EL2_RES0"], 16)


def test_features_of_mdcr_el2_fields():
    facts = {name: needs for name, (_, _, needs) in FACTS["MDCR_EL2"].items() if needs}
    facts["MTPME"] = facts["MTPME"].split()[0]  # "and no EL3", which is not modelled
    assert facts == feat.MDCR_EL2_FIELDS


def test_features_need_only_features():
    assert {n for needs, _ in feat.FEATURES.values() for n in needs} <= set(feat.FEATURES)
    assert not feat.WITHOUT_FGT & {"FEAT_FGT", "FEAT_FGT2", "FEAT_BRBE", "IMPDEF_OSDLR_EL1_TRAP"}
    assert feat.closure(["FEAT_EBEP"]) >= {"FEAT_PMUv3p9", "FEAT_PMUv3", "FEAT_FGT2", "FEAT_FGT"}
    assert set(feat.FEATURES) == feat.ALL


def test_an_unknown_feature_is_refused_with_a_proposal():
    with pytest.raises(KeyError, match="did you mean FEAT_FGT"):
        feat.closure(["FEAT_FTG"])
