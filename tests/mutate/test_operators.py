"""The edits: where they are made, and that each changes one place only."""

from __future__ import annotations

from formal.mutate.operators import Edit, edits, reach

TEXT = """\
static void other(void) { x = 1; }

/* f() { x |= 1; } */
static int f(struct s *s)
{
\tint n = 0;

\tif (!s->a && s->b == 2)
\t\ts->mdcr_el2 |= MDCR_EL2_TDA;
\tfirst(s);
\tsecond(s);
\treturn n;
}

static handler table[] = {
\t[0] = trap_bvr,
};
"""


def made(tables: tuple[str, ...] = ()) -> set[tuple[str, str, str]]:
    return {(e.operator, " ".join(e.old.split()), " ".join(e.new.split())) for e in edits(TEXT, ["f"], tables)}


def test_every_operator_has_its_sites() -> None:
    assert made() == {
        ("constant", "0", "1"),
        ("constant", "2", "3"),
        ("condition negated", "!s->a && s->b == 2", "!(!s->a && s->b == 2)"),
        ("negation dropped", "!", ""),
        ("operator", "&&", "||"),
        ("operator", "==", "!="),
        ("operator", "|=", "="),
        ("operator", "|=", "&="),
        ("name", "mdcr_el2", "mdcr_el2_host"),
        ("name", "mdcr_el2", "mdscr_el1"),
        ("name", "MDCR_EL2_TDA", "MDCR_EL2_TPM"),
        ("statement deleted", "s->mdcr_el2 |= MDCR_EL2_TDA;", ";"),
        ("statement deleted", "first(s);", ";"),
        ("statement deleted", "second(s);", ";"),
        ("statements swapped", "first(s); second(s);", "second(s); first(s);"),
        ("statements swapped", "s->mdcr_el2 |= MDCR_EL2_TDA; first(s);", "first(s); s->mdcr_el2 |= MDCR_EL2_TDA;"),
    }


def test_tables_have_sites_but_no_statements() -> None:
    assert made(("table",)) - made() == {("name", "trap_bvr", "trap_bcr"), ("constant", "0", "1")} - made()


def test_an_edit_changes_its_place_only_and_keeps_the_lines() -> None:
    for edit in edits(TEXT, ["f"]):
        changed = edit.apply(TEXT)
        assert changed != TEXT
        assert changed.count("\n") == TEXT.count("\n")
        assert changed.startswith(TEXT[: edit.offset])
        assert changed.endswith(TEXT[edit.offset + len(edit.old) :])
        assert f"{edit.line}: " in str(edit) and "in f" in str(edit)


FLOW = """\
static int g(struct s *s)
{
\tint err;

\tlock(s);
\tif (s->a) {
\t\tfirst(s);
\t} else if (s->b)
\t\tsecond(s);
\tthird(s);
\tfor (i = 0; i < 2; i++) {
\t\tif (s->c)
\t\t\tcontinue;
\t\tfourth(s);
\t}
\tif (s->d)
\t\treturn 1;
\tlast(s);
\treturn 0;
}
"""


def touched(old: str, new: str = "x") -> set[str]:
    at = FLOW.index(old)
    edit = Edit("by hand", "g", FLOW.count("\n", 0, at) + 1, at, old, new)
    found = reach(FLOW, edit)
    assert found.first <= edit.line <= found.last
    return set(found.names & {"lock", "first", "second", "third", "fourth", "last", "x"})


def test_an_edit_reaches_what_it_governs_and_no_more() -> None:
    assert touched("lock(s);") == {"lock", "x"}
    assert touched("s->a") == {"first", "second", "x"}
    assert touched("s->b") == touched("second(s);") == {"second", "x"}
    assert touched("third(s);", "") == {"third"}
    assert touched("lock(s);\n\tif (s->a) {\n\t\tfirst(s);\n\t} else if (s->b)\n\t\tsecond(s);", "") == {
        "lock", "first", "second",
    }  # fmt: skip


def test_a_jump_reaches_what_it_skips() -> None:
    """A return all that follows; a jump in a loop may lead anywhere."""
    assert touched("s->d") == {"last", "x"}
    assert touched("return 1;") == {"last", "x"}
    everything = {"lock", "first", "second", "third", "fourth", "last", "x"}
    assert touched("s->c") == touched("continue") == touched("i < 2") == everything
