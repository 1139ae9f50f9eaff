"""Release notes: what changed in KVM's debug code between two releases, and in the verdicts on it."""

from __future__ import annotations

from collections.abc import Iterator

from formal.epochs import EPOCHS, Epoch, epoch_of
from formal.releases import Change, Release, between
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest


def epochs() -> str:
    """All presets with their releases, in one line."""
    return ", ".join(f"{e.name} {e.releases}" for e in EPOCHS.values())


def markdown(older: Release, newer: Release, manifest: Manifest) -> Iterator[str]:
    """The notes, line by line."""
    yield f"# {older} to {newer}"
    at = None
    for release, begins, change in between(older, newer):
        if release != at:
            yield from ("", f"## {release}", "")
            at = release
        yield f"- {_sentence(begins, change)}"
    before, after = epoch_of(str(older)), epoch_of(str(newer))
    lines = list(_verdicts(before, after, manifest))
    yield from ("", f"## Verdicts: {before.name} to {after.name}", "")
    yield from lines or ["The same."]


def _sentence(begins: bool, change: Change) -> str:
    text = change.says if begins else f"no longer: {change.says}"
    if begins and change.bug:
        text += f"; before, {change.lacking} (--bug {change.bug})"
    return f"{text}{f' [{change.commit}]' if begins and change.commit else ''}"


def _verdicts(before: Epoch, after: Epoch, manifest: Manifest) -> Iterator[str]:
    for mode in after.modes:
        if mode not in before.modes:
            yield f"- {mode.value}: not there before"
            continue
        old, new = (manifest.expected(Configuration(e.name, mode.value)) for e in (before, after))
        for name in sorted(old.keys() & new.keys()):
            if old[name] != new[name] and " " not in name:
                yield f"- {mode.value}: `{name}` {old[name]} -> {new[name]}"
