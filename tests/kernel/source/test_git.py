"""Commits of a kernel repository: what is read of them, written out whole, with nothing of the checkout touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from formal.kernel.errors import TreeError
from formal.kernel.lift.program import Program
from formal.kernel.source.git import Repository, is_read
from formal.kernel.source.tree import KernelTree

FILES = {
    "Makefile": "VERSION = 6\n",
    "arch/arm64/kvm/debug.c": "int x;\n",
    "arch/arm64/boot/dts/a.dts": "/ {};\n",
    "drivers/a/Kconfig": "config A\n",
    "drivers/a/Kconfig.debug": "config B\n",
    "drivers/a/a.c": "int y;\n",
    "include/a b\n.h": "int z;\r\n",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=master", *arguments],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    folder.mkdir()
    git(folder, "init", "-q")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    (folder / "include/link.h").symlink_to("a b\n.h")
    (folder / "include/out.h").symlink_to("../../../../etc/hostname")
    (folder / "include/abs.h").symlink_to("/etc/hostname")
    commit(folder, "first\n\nbody")
    return folder


def test_a_commit_is_written_out_as_it_is(repository: Path, tmp_path: Path) -> None:
    r = Repository(repository)
    out = tmp_path / "out"
    out.mkdir()
    r.export(r.commit("HEAD"), out)
    written = {str(p.relative_to(out)): p.read_bytes().decode() for p in out.rglob("*") if p.is_file()}
    expected = {name: text for name, text in FILES.items() if is_read(name)}
    assert written == expected | {"include/link.h": "int z;\r\n"}
    assert set(FILES) - set(expected) == {"arch/arm64/boot/dts/a.dts", "drivers/a/a.c"}


def test_neither_checkout_nor_index_is_touched(repository: Path, tmp_path: Path) -> None:
    (repository / "Makefile").write_text("changed\n")
    (repository / "new").write_text("")
    git(repository, "add", "new")
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(repository.rglob("*"))}
    out = tmp_path / "out"
    out.mkdir()
    r = Repository(repository)
    r.export(r.commit("master"), out)
    assert (out / "Makefile").read_text() == FILES["Makefile"]
    assert {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(repository.rglob("*"))} == before


def test_git_of_a_hook_does_not_lead_elsewhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git sets these for its hooks; they must not name another repository than the one asked for."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert Repository(repository).commit("HEAD").subject == "first"


def test_series(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD").strip()
    names = []
    for n in range(3):
        (repository / "Makefile").write_text(f"VERSION = {n}\n")
        names.append(commit(repository, f"change {n}"))
    r = Repository(repository)
    assert [c.hash for c in r.series(first, "master")] == [first, *names]
    assert [c.hash for c in r.series(names[0], "")] == names
    assert [c.subject for c in r.series("HEAD~1", "HEAD")] == ["change 1", "change 2"]
    assert r.files(r.commit(names[0])) != r.files(r.commit(names[1]))
    with pytest.raises(TreeError, match=r"there are no commits in HEAD\.\.master$"):
        r.series("HEAD", "master")


@pytest.mark.parametrize("revision", ["nonsense", "HEAD~7", "--all", "HEAD:Makefile", ""])
def test_what_is_no_revision(revision: str, repository: Path) -> None:
    with pytest.raises(TreeError, match="no revision") as error:
        Repository(repository).commit(revision)
    assert "\n" not in str(error.value)


def test_what_is_no_repository(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TreeError, match="no such directory"):
        Repository(tmp_path / "nowhere")
    with pytest.raises(TreeError, match="git: fatal: not a git repository"):
        Repository(tmp_path)
    with pytest.raises(TreeError, match=r"not the root of a git repository, but its folder arch/arm64/"):
        Repository(repository / "arch/arm64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TreeError, match="git cannot be run: No such file"):
        Repository(repository)


def test_a_bare_repository(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare")
    assert Repository(tmp_path / "bare").commit("HEAD").subject == "first"


def test_everything_that_the_front_end_reads_is_taken(program: Program) -> None:
    """Of each release: every file that libclang opened lies among those that a commit is written out with."""
    tree = program.tree
    assert isinstance(tree, KernelTree)
    opened = {os.path.realpath(name) for name in program.resolver.opened}
    inside = [os.path.relpath(name, tree.path) for name in opened if name.startswith(f"{tree.path}/")]
    assert len(inside) > 500
    assert not [name for name in inside if not is_read(name)]
