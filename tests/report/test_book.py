"""The review book: pages that say what the verdicts say, link to one another, and work without a network."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from formal.arch import features as feat
from formal.arch.settings import controls
from formal.arch.sysregs import find
from formal.arch.traps import Access, Outcome, decide
from formal.commands.book import main
from formal.epochs import EPOCHS, Mode
from formal.matrix.configuration_run import Job, run
from formal.properties import CLAIMS
from formal.report.book import figures
from formal.report.book.content import Book
from formal.report.book.formula import formulas
from formal.report.book.write import write
from formal.scope.configuration import Configuration
from formal.scope.document import DOCUMENT
from formal.scope.manifest import Manifest
from formal.system import System
from tests.conftest import PROOFS, ROOT

CONFIGURATIONS = (Configuration("E3a", "vhe"), Configuration(list(EPOCHS)[-1], "vhe"))


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [v for k, v in attrs if k in ("href", "src") and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag not in ("meta", "link", "input", "br", "path", "rect"):
            self.stack.append(tag)
        assert tag != "img" or found.get("alt")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "rect"):
            return
        assert self.stack and self.stack.pop() == tag, tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = Manifest.read(PROOFS / "manifest.toml")
    reports = [run(Job(c, PROOFS / "traces", dict(manifest.expected(c)))) for c in CONFIGURATIONS]
    place = tmp_path_factory.mktemp("book")
    original = {DOCUMENT[0].place: "as <b>the file</b> has it"}
    tree = {"name": "tree", "mode": "vhe", "PROVED": 1, "VIOLATED": 0, "UNKNOWN": 0, "worse": [], "verdicts": {}}
    write(Book(reports, PROOFS, original), place, [tree])
    return place


def test_every_claim_has_a_page_and_every_link_leads_somewhere(folder: Path) -> None:
    pages = sorted(folder.rglob("*.html"))
    assert {p.stem for p in pages if p.parent.name == "claim"} == {c.name for c in CLAIMS}
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        assert len(set(page.ids)) == len(page.ids)
        for link in page.links:
            assert "//" not in link, f"{path.name} needs the network: {link}"
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or anchor in Page(target.read_text(encoding="utf-8")).ids


def test_verdicts_are_those_of_the_run(folder: Path) -> None:
    data = json.loads((folder / "book.json").read_text())
    manifest = Manifest.read(PROOFS / "manifest.toml")
    for c in CONFIGURATIONS:
        got = {
            p["name"]: cell["verdict"] for p in data["claims"] for cell in p["cells"] if cell["configuration"] == str(c)
        }
        expected = {name: v for name, v in manifest.expected(c).items() if name in {claim.name for claim in CLAIMS}}
        assert {n: v for n, v in got.items() if v != "n/a"} == {n: v for n, v in expected.items() if v != "n/a"}
    for page in data["claims"]:
        broken = [cell for cell in page["cells"] if cell["verdict"] == "VIOLATED"]
        assert bool(broken) == bool(page["violations"]), page["name"]
        proved = [cell for cell in page["cells"] if cell["verdict"] == "PROVED"]
        assert not proved or page["witness"], f"{page['name']} is PROVED, and nothing shows that it is not vacuous"


def test_what_the_reader_gave_is_quoted_and_escaped(folder: Path) -> None:
    text = (folder / "document.html").read_text(encoding="utf-8")
    assert "as &lt;b&gt;the file&lt;/b&gt; has it" in text
    for sentence in DOCUMENT:
        assert html.escape(sentence.says, quote=False) in text or html.escape(sentence.says) in text.replace(
            "&#39;", "&#x27;"
        )


def test_formulas_read_as_the_registers_are_named() -> None:
    by_name = {c.name: c for c in CLAIMS}
    k = EPOCHS["E8"].kernel(Mode.VHE)
    assert formulas(by_name["os_registers"], k)[1] == "hw_mdcr_el2.TDOSA"
    assert formulas(by_name["hpmn_preserved_in_guest"], k)[1] == "hw_mdcr_el2.HPMN = boot_mdcr_el2.HPMN"
    for claim in CLAIMS:
        if not claim.applies(k):
            assert all(formulas(claim, k))


def test_the_picture_in_the_readme_is_the_tools() -> None:
    system = System(list(EPOCHS.values())[-1].kernel(Mode.VHE))
    assert (ROOT / "docs" / "operations.svg").read_text(encoding="utf-8") == figures.picture(system), (
        "make it anew: python -m tests.report.test_book"
    )


def test_misuse_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["-o", str(tmp_path / "x"), "--document", str(tmp_path / "none")], ["-o", "/dev/null/x"]):
        assert main(argv) == 2
        assert capsys.readouterr().err.count("\n") == 1


# ---- in a browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
).split()


def dom(page: Path, profile: Path) -> tuple[str, str]:
    """The page as the browser has it once its scripts have run, and what the console says."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    command = [browser, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("value", [0, 0x84E66, 0x0000_0000_0B00_B100])
def test_the_trap_map_says_what_the_table_says(value: int, folder: Path, tmp_path: Path) -> None:
    page = folder / f"traps-{value:x}.html"
    page.write_text(
        (folder / "traps.html").read_text(encoding="utf-8").replace('value="0x84e66"', f'value="{value:#x}"')
    )
    shown, console = dom(page, tmp_path / "profile")
    page.unlink()
    assert not console
    listed = dict(re.findall(r"<li class=\"v \w+\"[^>]*>([^:<]+|[^<]*&lt;n&gt;[^:]*): (trapped|executes)</li>", shown))
    c = controls(value, {"CPTR_EL2.TTA": 1}, feat.WITHOUT_FGT)
    seen = 0
    for name, says in listed.items():
        register = find(html.unescape(name))
        if not feat.present(register.features, feat.WITHOUT_FGT) or register.name == "OSDLR_EL1":
            continue
        write = register.read.lowest_el is None
        outcome = decide(Access(register.name, write, 1, register.indices[0] if register.indices else None), c)[0]
        if outcome in (Outcome.EL2, Outcome.EXECUTED):
            assert (outcome is Outcome.EL2) == (says == "trapped"), name
            seen += 1
    assert seen > 100


def test_filters_work_without_errors(folder: Path, tmp_path: Path) -> None:
    page = folder / "filtered.html"
    script = (
        "<script>addEventListener('load', () => { const n = document.getElementById('name');"
        " n.value = 'HPMN'; n.dispatchEvent(new Event('input')); });</script>"
    )
    page.write_text((folder / "matrix.html").read_text(encoding="utf-8").replace("</body>", f"{script}</body>"))
    shown, console = dom(page, tmp_path / "profile")
    page.unlink()
    assert not console
    visible = re.findall(r'<tr data-name="([^"]+)">', shown)
    assert visible == [c.name for c in CLAIMS if "hpmn" in c.name]


def test_nothing_serious_is_found_by_axe(folder: Path, tmp_path: Path) -> None:
    axe = os.environ.get("AXE", "")
    if not Path(axe).is_file():
        pytest.skip("AXE does not name axe-core's axe.min.js (npm)")
    source = Path(axe).read_text(encoding="utf-8").replace("</script", "<\\/script")
    script = (
        f"<script>{source}</script><script>"
        "addEventListener('load', () => axe.run().then((r) => { const p = document.createElement('pre'); p.id = 'axe';"
        "p.textContent = JSON.stringify(r.violations.filter((v) => ['serious', 'critical'].includes(v.impact))"
        ".map((v) => v.id + ': ' + v.nodes[0].html)); document.body.append(p); }));</script>"
    )
    for name in [p.name for p in sorted(folder.glob("*.html"))] + [f"claim/{CLAIMS[0].name}.html"]:
        page = (folder / name).with_name("axe.html")
        page.write_text((folder / name).read_text(encoding="utf-8").replace("</body>", f"{script}</body>"))
        shown, _ = dom(page, tmp_path / "profile")
        page.unlink()
        found = re.search(r'<pre id="axe">(.*?)</pre>', shown, re.S)
        assert found, f"{name}: axe did not finish"
        assert json.loads(html.unescape(found[1])) == [], name


if __name__ == "__main__":
    newest = System(list(EPOCHS.values())[-1].kernel(Mode.VHE))
    (ROOT / "docs" / "operations.svg").write_text(figures.picture(newest), encoding="utf-8")
