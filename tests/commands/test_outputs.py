"""Every option that writes a file, with every kind of file: what is there stays what it is, and gets the text."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from formal.common import files
from formal.common.exit_codes import ExitCode
from tests.commands.commands import COMMANDS, Command

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Place:
    """What an option names, and how what was written there is read."""

    name: str
    read: Callable[[], str]
    stays: Callable[[], bool]


def _regular(folder: Path, capfd: Capture) -> Place:
    path = folder / "regular"
    path.write_text("old")
    path.chmod(0o640)
    return Place(str(path), path.read_text, lambda: path.stat().st_mode == stat.S_IFREG | 0o640)


def _new(folder: Path, capfd: Capture) -> Place:
    path = folder / "new" / "below" / "file"
    return Place(str(path), path.read_text, lambda: os.listdir(path.parent) == ["file"])


def _link(folder: Path, capfd: Capture) -> Place:
    path = folder / "link"
    (folder / "target").write_text("old")
    path.symlink_to("target")
    return Place(str(path), (folder / "target").read_text, path.is_symlink)


def _pipe(folder: Path, capfd: Capture) -> Place:
    path = folder / "pipe"
    os.mkfifo(path)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()), daemon=True)
    reader.start()

    def text() -> str:
        reader.join(20)
        return got[0]

    return Place(str(path), text, lambda: stat.S_ISFIFO(path.stat().st_mode))


def _descriptor(folder: Path, capfd: Capture) -> Place:
    """As a shell's ``3>file`` with ``/dev/fd/3``: what was written before stays."""
    path = folder / "descriptor"
    opened = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(opened, b"before\n")
    inode = path.stat().st_ino

    def text() -> str:
        before, _, after = path.read_text().partition("\n")
        assert before == "before"
        return after

    return Place(f"/dev/fd/{opened}", text, lambda: path.stat().st_ino == inode)


def _standard(name: str) -> Callable[[Path, Capture], Place]:
    def place(folder: Path, capfd: Capture) -> Place:
        before = os.stat("/dev/stdout")
        there = lambda: capfd.readouterr().out  # noqa: E731
        return Place(name, there, lambda: os.path.samestat(before, os.stat("/dev/stdout")) and not Path("-").exists())

    return place


KINDS = {
    "regular": _regular,
    "new": _new,
    "link": _link,
    "pipe": _pipe,
    "descriptor": _descriptor,
    "minus": _standard("-"),
    "/dev/stdout": _standard("/dev/stdout"),
}
WRITING = [(c, o) for c in COMMANDS for o in c.writes]
FILLING = [(c, o) for c in COMMANDS for o in c.fills]


def _ids(cases: Sequence[tuple[Command, str]]) -> list[str]:
    return [f"{command.name} {option}" for command, option in cases]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Command], None]:
    """Replaces what takes long in a command, and runs it in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda command: command.prepare(monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("command", "option"), WRITING, ids=_ids(WRITING))
def test_what_is_there_stays_and_gets_the_text(
    command: Command, option: str, kind: str, tmp_path: Path, prepared: Callable[[Command], None], capfd: Capture
) -> None:
    prepared(command)
    place = KINDS[kind](tmp_path, capfd)
    code = command.run(option, place.name)
    text = place.read()
    assert code == ExitCode.OK, capfd.readouterr().err
    assert text and command.writes[option](text), text[:200]
    assert place.stays()


@pytest.mark.parametrize(("command", "option"), WRITING, ids=_ids(WRITING))
def test_a_device_stays_one(
    command: Command, option: str, tmp_path: Path, prepared: Callable[[Command], None], capfd: Capture
) -> None:
    prepared(command)
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("w").close()
    except OSError:
        pytest.skip("no device can be made here")
    assert command.run(option, str(path)) == ExitCode.OK
    assert stat.S_ISCHR(path.stat().st_mode)


@pytest.mark.parametrize(("command", "option"), WRITING, ids=_ids(WRITING))
def test_a_full_disk_does_not_hide_what_was_found(
    command: Command, option: str, prepared: Callable[[Command], None], capfd: Capture
) -> None:
    prepared(command)
    before = os.stat("/dev/full")
    assert command.run(option, "/dev/full") == ExitCode.NOT_WRITTEN
    out, err = capfd.readouterr()
    assert err == f"formal.{command.name}: /dev/full: No space left on device: {option} was not written\n"
    assert command.says in out
    assert os.stat("/dev/full").st_rdev == before.st_rdev


@pytest.mark.parametrize("what", ["a directory", "below a file", "a full disk", "an empty name"])
@pytest.mark.parametrize(("command", "option"), WRITING + FILLING, ids=_ids(WRITING + FILLING))
def test_what_cannot_be_written_is_refused_before_the_work(
    command: Command,
    option: str,
    what: str,
    tmp_path: Path,
    prepared: Callable[[Command], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    prepared(command)
    command.must_not_work(monkeypatch)
    (tmp_path / "file").write_text("")
    place = {"a directory": tmp_path, "below a file": tmp_path / "file" / "out"}.get(what, tmp_path / "out")
    if option in command.fills and what in ("a directory", "an empty name"):
        place = tmp_path / "file"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "a full disk":
        monkeypatch.setattr(files, "_write_all", full)
    name = "" if what == "an empty name" and option in command.writes else str(place)
    assert command.run(option, name) == ExitCode.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"formal.{command.name}: {name or '.'}: ") and err.count("\n") == 1
    assert "out" not in os.listdir(tmp_path) or not os.listdir(tmp_path / "out")


@pytest.mark.parametrize(("command", "option"), FILLING, ids=_ids(FILLING))
def test_a_folder_is_filled(
    command: Command, option: str, tmp_path: Path, prepared: Callable[[Command], None], capfd: Capture
) -> None:
    prepared(command)
    assert command.run(option, str(tmp_path / "new" / "folder")) == ExitCode.OK, capfd.readouterr().err
    assert os.listdir(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new").rglob(".*"))
    assert command.run(option, "-") == ExitCode.USAGE
    assert "a folder is needed" in capfd.readouterr().err


@pytest.mark.parametrize(("command", "option"), WRITING, ids=_ids(WRITING))
def test_json_is_alone_on_the_standard_output(
    command: Command, option: str, prepared: Callable[[Command], None], capfd: Capture
) -> None:
    if option != "--json":
        pytest.skip("not JSON")
    prepared(command)
    assert command.run(option, "-") == ExitCode.OK
    out, err = capfd.readouterr()
    json.loads(out)
    assert command.says in err, "what people read goes to the standard error"
