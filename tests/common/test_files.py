"""What is written where: regular files are replaced in one step, links kept, devices and pipes written to."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from formal.common import files
from formal.common.files import NotWrittenError, Outputs, check_folder, check_writable, read_file, write_file
from formal.common.options import UsageError
from tests.conftest import ROOT


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_file(path, "old\n")
    before = path.stat().st_ino
    check_writable(path)
    assert path.read_text() == "old\n" and path.stat().st_ino == before, "trying whether it can be written changes it"
    with path.open() as reader:
        write_file(path, b"new\n")
        assert reader.read() == "old\n", "who has it open sees the old one"
    assert path.read_text() == "new\n"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    write_file(path, "old\n")
    path.chmod(mode)
    write_file(path, "new\n")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_the_user_wants(tmp_path: Path, mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        write_file(tmp_path / "file", "new\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


MOMENTS = ["fchmod", "fsync", "link", "replace", "write"]


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interruption_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], moment: str, nameless: bool
) -> None:
    path = tmp_path / "file"
    write_file(path, "old\n")
    if not nameless:
        monkeypatch.delattr(files.os, "O_TMPFILE")

    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(files.os, moment, interrupted)
    if nameless or moment != "link":
        with pytest.raises(error):
            write_file(path, "new\n")
        assert path.read_text(encoding="utf-8") == "old\n"
    assert os.listdir(tmp_path) == ["file"], "no temporary file is left"


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "new \ud800")
    assert path.read_text(encoding="utf-8") == "old\n"
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from formal.common import files

files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_file(Path(sys.argv[1]), "new")
"""


def test_a_killed_writer_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old\n")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_points_to_is_written(tmp_path: Path, links: int, there: bool) -> None:
    target = tmp_path / "below" / "target"
    target.parent.mkdir()
    if there:
        target.write_text("old\n")
    names = [tmp_path / f"link{n}" for n in range(links)]
    for name, to in zip(names, [*names[1:], Path("below/target")], strict=True):
        name.symlink_to(to)
    check_writable(names[0])
    assert target.exists() == there
    write_file(names[0], "new\n")
    assert all(name.is_symlink() for name in names)
    assert target.read_text() == "new\n"
    assert os.listdir(target.parent) == ["target"]


def test_a_pipe_gets_the_text_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    check_writable(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_file(path, "x" * 100_000)
    reader.join(10)
    assert got == [b"x" * 100_000]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("w").close()
    except OSError:
        pytest.skip("no device can be made here")
    check_writable(path)
    write_file(path, "new\n")
    assert stat.S_ISCHR(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["null"]


def test_a_full_device_is_told() -> None:
    before = os.stat("/dev/full")
    check_writable(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_file(Path("/dev/full"), "new\n")
    assert raised.value.filename == "/dev/full"
    assert os.stat("/dev/full") == before


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_a_descriptor_is_written_where_it_stands(tmp_path: Path, name: str) -> None:
    """As a shell's redirection: what was written before stays, the file keeps its inode."""
    with (tmp_path / "file").open("w") as out:
        out.write("before\n")
        out.flush()
        path = Path(name.format(out.fileno()))
        if name == "link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{out.fileno()}")
        check_writable(path)
        write_file(path, "between\n")
        out.write("after\n")
    assert (tmp_path / "file").read_text() == "before\nbetween\nafter\n"


def test_the_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("-", "/dev/stdout", "/dev/fd/1"):
        check_writable(Path(path))
        assert files.is_standard(Path(path))
    print("before")
    write_file(Path("-"), "between\n")
    print("after")
    assert capfd.readouterr().out == "before\nbetween\nafter\n"
    assert not Path("-").exists()
    assert not files.is_standard(Path("/dev/stderr"))


def test_a_file_that_cannot_be_replaced_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was mounted alone into a container."""
    path = tmp_path / "file"
    path.write_text("a longer old text\n")

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(files.os, "replace", busy)
    write_file(path, "new\n")
    assert path.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(OSError, match="busy"):
        write_file(tmp_path / "other", "new\n")


def refused(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
    yield "Is a directory", tmp_path
    yield "Not a directory|File exists", tmp_path / "file" / "new"
    yield "Too many levels", tmp_path / "loop"
    yield "Is a socket|No such device", tmp_path / "socket"
    yield "Bad file descriptor", Path("/dev/fd/987")
    yield "No such file|Permission|not permitted|Read-only", Path("/proc/new")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for message, path in refused(tmp_path):
        for attempt in (check_writable, lambda p: write_file(p, "new")):
            with pytest.raises(OSError, match=message) as raised:
                attempt(path)
            assert raised.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop", "socket"]


def test_a_descriptor_for_reading_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as only, pytest.raises(OSError, match="not open for writing"):
        check_writable(Path(f"/dev/fd/{only.fileno()}"))


def test_folders(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "below")
    assert os.listdir(tmp_path / "new" / "below") == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", Path("-"), Path("/proc/new")):
        with pytest.raises(UsageError):
            check_folder(path)


def test_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"\xfftext")
    assert read_file(tmp_path / "file") == b"\xfftext"
    with (tmp_path / "file").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_file(Path("-")) == b"\xfftext"
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_one_file_that_fails_stops_no_other(tmp_path: Path) -> None:
    outputs = Outputs({"--json": Path("/dev/full"), "--junit": tmp_path / "r.xml", "--sarif": None})
    outputs.check()
    for option in outputs.files:
        outputs.write(option, "text")
    assert (tmp_path / "r.xml").read_text() == "text"
    with pytest.raises(NotWrittenError) as raised:
        outputs.finish()
    assert str(raised.value) == "/dev/full: No space left on device: --json was not written"


@pytest.mark.parametrize("names", [("-", "-"), ("-", "/dev/stdout"), ("a", "./a"), ("a", "link")])
def test_two_texts_for_one_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(UsageError, match="--json and --junit write different files"):
        Outputs(dict(zip(("--json", "--junit"), map(Path, names), strict=True))).check()


def test_text_for_people_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = Outputs({"--json": Path("-")})
    with outputs.kept_apart():
        print("for people")
        outputs.write("--json", "{}\n")
    outputs.finish()
    assert capsys.readouterr() == ("{}\n", "for people\n")
