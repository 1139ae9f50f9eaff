"""Where things lie: the evidence, and what is kept from run to run."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from formal.common import places
from formal.common.files import write_file


def test_the_evidence_of_the_repository_and_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (places.proofs_folder() / "manifest.toml").is_file()
    monkeypatch.setattr(places, "FORMAL", tmp_path / "formal")
    assert places.proofs_folder() == tmp_path / "proofs"
    (tmp_path / "formal" / "proofs").mkdir(parents=True)
    assert places.proofs_folder() == tmp_path / "formal" / "proofs"


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number for which there is no name."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert places.cache_folder() == Path("/home/somebody/.cache")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(OSError):
        write_file(places.cache_folder() / "x", "x")
    assert not os.path.isdir(os.devnull)
