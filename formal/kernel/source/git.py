"""A kernel in a git repository: the files of a commit that the front end reads, put into a directory of their own.

Only ``git rev-parse``, ``rev-list``, ``ls-tree``, ``log`` and ``cat-file`` are run: they read objects, and leave the
user's checkout and index alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from formal.common.lifetime import run
from formal.kernel.errors import TreeError

_FOLDERS = ("include/", "virt/", "arch/arm64/", "arch/arm/kvm/", "arch/arm/include/", "drivers/perf/",
            "drivers/hwtracing/", "drivers/firmware/psci/")  # fmt: skip
_BESIDES = ("arch/arm64/boot/", "arch/arm64/crypto/")
_LINK = "120000"


def is_read(name: str) -> bool:
    """Whether the front end may read a file of a kernel tree: its name below the root."""
    if name.startswith(_FOLDERS) and not name.startswith(_BESIDES):
        return True
    file = name.rpartition("/")[2]
    return name == "Makefile" or file.startswith("Kconfig") or name.startswith("scripts/Kconfig")


@dataclass(frozen=True)
class Commit:
    """A commit by its hash, and the first line of its message."""

    hash: str
    subject: str

    def __str__(self) -> str:
        return f"{self.hash[:12]} ({self.subject})"


class Repository:
    """A git repository with a kernel at its root.

    Raises:
        TreeError: if the path is none, or git cannot be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise TreeError(f"{path}: no such directory")
        bare = self._text("rev-parse", "--is-bare-repository").strip() == "true"
        if not bare and (below := self._text("rev-parse", "--show-prefix").strip()):
            raise TreeError(f"{path}: not the root of a git repository, but its folder {below}")

    def commit(self, revision: str) -> Commit:
        """The commit that a revision names.

        Raises:
            TreeError: if it names none.
        """
        try:
            name = self._text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
        except TreeError as error:
            raise TreeError(f"{self.path}: no revision {revision!r}") from error
        return Commit(name, self._text("log", "-1", "--format=%s", name).strip())

    def series(self, first: str, last: str) -> list[Commit]:
        """The commit that ``first..last`` starts from, then its commits, oldest first; a merge counts as one.

        Raises:
            TreeError: if the range is empty, or its first commit has no parent.
        """
        a, b = self.commit(first or "HEAD"), self.commit(last or "HEAD")
        found = self._text("rev-list", "--reverse", "--first-parent", b.hash, f"^{a.hash}").split()
        if not found:
            raise TreeError(f"{self.path}: there are no commits in {first}..{last}")
        return [self.commit(f"{found[0]}^"), *(self.commit(name) for name in found)]

    @cache  # noqa: B019  # a repository lives as long as the run
    def files(self, commit: Commit) -> Mapping[str, tuple[str, str]]:
        """The files of a commit that the front end reads: mode and object, by name."""
        found = {}
        for entry in self._run("ls-tree", "-r", "-z", "--full-tree", commit.hash).split(b"\0"):
            head, _, raw = entry.partition(b"\t")
            name = os.fsdecode(raw)
            if head and is_read(name):
                mode, kind, blob = head.decode().split()
                if kind == "blob":
                    found[name] = (mode, blob)
        return found

    def export(self, commit: Commit, folder: Path) -> Path:
        """Writes the files of a commit into a folder that is empty; links that lead out of it are left out."""
        files = self.files(commit)
        for (name, (mode, _)), content in zip(files.items(), self._contents(b for _, b in files.values()), strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if mode != _LINK:
                target.write_bytes(content)
                continue
            to = os.path.normpath(os.path.join(os.path.dirname(name), os.fsdecode(content)))
            if not os.path.isabs(to) and not to.startswith(".."):
                target.symlink_to(os.fsdecode(content))
        return folder

    def _contents(self, blobs: Iterator[str]) -> Iterator[bytes]:
        wanted = "".join(f"{blob}\n" for blob in blobs).encode()
        answer = memoryview(self._run("cat-file", "--batch", "--buffer", stdin=wanted))
        at = 0
        while at < len(answer):
            end = at + bytes(answer[at : at + 200]).index(b"\n")
            header = bytes(answer[at:end]).decode().split()
            if len(header) != 3:
                raise TreeError(f"{self.path}: git has no object {header[0]}")
            size = int(header[2])
            yield bytes(answer[end + 1 : end + 1 + size])
            at = end + 1 + size + 1

    def _text(self, *arguments: str) -> str:
        return self._run(*arguments).decode(errors="replace")

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        environment = {n: v for n, v in os.environ.items() if n not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
        command = ["git", "-C", str(self.path), *arguments]
        try:
            done = run(command, input=stdin, capture_output=True, env=environment, check=False)
        except OSError as error:
            raise TreeError(f"{self.path}: git cannot be run: {error.strerror}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
            raise TreeError(f"{self.path}: git: {said[0]}")
        return bytes(done.stdout)
