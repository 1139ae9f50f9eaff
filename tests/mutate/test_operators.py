"""The edits: where they are made, and that each changes one place only."""

from __future__ import annotations

from formal.mutate.operators import edits

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
