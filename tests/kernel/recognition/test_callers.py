"""Who names whom: functions that choose between others, and names that something else keeps."""

from __future__ import annotations

from formal.kernel.errors import Gaps
from formal.kernel.recognition.callers import Mentions
from formal.kernel.text.tokens import tokens

TEXT = """
static void one(int n) { }
static void other(int n) { }
static hyp_alternate_select(chosen, one, other, ARM64_HAS_X);
static void uses(int n) { chosen()(n); }
void uses(int n);
static void (*const kept[])(int) = { uses };
"""


def mentions(text: str) -> Mentions:
    found = Mentions(gaps=Gaps(noted=True))
    found.add("f.c", tokens(text))
    return found


def test_a_selector_names_what_it_chooses() -> None:
    found = mentions(TEXT)
    assert set(found.bodies["chosen"]) == {"one", "other", "ARM64_HAS_X"}
    assert "chosen" in found.bodies["uses"]


def test_a_name_in_a_table_is_kept_and_one_that_is_chosen_is_not() -> None:
    """What is declared or defined is not kept either; where it stands in a table besides, it is."""
    assert {"uses"} == mentions(TEXT).kept & {"one", "other", "chosen", "uses"}
    assert "one" in mentions(TEXT.replace("{ uses }", "{ one }")).kept
