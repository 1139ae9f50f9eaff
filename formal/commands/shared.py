"""Options that several commands share."""

from __future__ import annotations

import argparse

from formal.common.options import Rule, UsageError, add_where
from formal.epochs import EPOCHS, Mode, NoEpochError, epoch_of
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS

ONLY = Rule("--only", "names configurations", without=("--epoch", "--mode"))


def add_configurations(parser: argparse.ArgumentParser) -> None:
    """``--only``, ``--epoch`` and ``--mode``: which configurations of the manifest."""
    add_where(parser, EPOCHS, [m.value for m in Mode])
    parser.add_argument("--only", metavar="E8-vhe", action="append", default=[], help="one configuration; repeatable")


def epoch_asked(text: str | None) -> str | None:
    """The name of the epoch that an option names, by its name or by a release of it.

    Raises:
        UsageError: if there is none.
    """
    try:
        return epoch_of(text).name if text else None
    except NoEpochError as error:
        raise UsageError(str(error)) from error


def chosen(args: argparse.Namespace) -> list[str]:
    """The configurations that the options ask for, by their names in ``proofs/``; none if they ask for all.

    Raises:
        UsageError: if there is none.
    """
    epoch = epoch_asked(args.epoch)
    if not (epoch or args.mode):
        return list(args.only)
    everything = EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS
    found = [c.stem for c in everything if epoch in (None, c.name) and args.mode in (None, c.mode)]
    if not found:
        raise UsageError(f"{args.epoch} does not exist in mode {args.mode}")
    return found
