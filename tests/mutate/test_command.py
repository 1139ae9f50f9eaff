"""``python -m formal.mutate``: what is wrong with a command line is one line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from formal.commands import mutate
from formal.common.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the following arguments are required: TREE"),
        (("TREE", "--sample", "0"), "argument --sample: 0 is no number from 1 up"),
        (("TREE", "--sample", "-3"), "argument --sample: -3 is no number from 1 up"),
        (("TREE", "--sampel", "3"), "unrecognized arguments: --sampel 3"),
        (("TREE",), "none"),
    ],
)
def test_bad_command_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert mutate.main([str(tmp_path / "none") if a == "TREE" else a for a in arguments]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("formal.mutate: ") and err.count("\n") == 1
    assert says in err


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mutate, "KernelTree", interrupted)
    assert mutate.main(["tree"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "formal.mutate: interrupted; nothing was written\n"
