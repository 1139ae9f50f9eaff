"""``formal.prove --presets``: the presets held against a tree of their releases; the table of all that were."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from formal.common.exit_codes import ExitCode
from formal.common.options import UsageError
from formal.epochs import EPOCHS, Mode, of_release
from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.kernel.source.tree import KernelTree
from formal.report.grid import put
from formal.report.text import plural
from formal.tree import presets

TABLE = "presets.json"  # under proofs/


def main(args: argparse.Namespace) -> int:
    """Holds the tree that the options name against its presets, or prints the table; returns the exit code."""
    try:
        return _run(args)
    except TreeError as error:
        raise UsageError(str(error)) from error
    except NotUnderstoodError as error:
        print(f"formal.prove: {error}", file=sys.stderr)
        return ExitCode.NOT_UNDERSTOOD


def _run(args: argparse.Namespace) -> int:
    path = args.proofs / TABLE
    if not args.kernel:
        rows = presets.read(path)
        put([*lines(rows)])
        left = [f"{e.name} ({e.releases})" for e in EPOCHS.values() if e.name not in {row.preset for row in rows}]
        put([f"held against no tree: {', '.join(left) or 'none'}"])
        return ExitCode.OK
    modes = (Mode(args.mode),) if args.mode else tuple(Mode)
    tree = KernelTree(args.kernel, args.config)
    if not of_release(tree.release):
        raise NotUnderstoodError("Makefile", 0, f"there is no preset for {tree.release}")
    rows = list(presets.held(tree, modes, args.timeout))
    presets.merge(path, rows)
    put([*lines(rows)])
    if not any(row.equal or row.differ for row in rows):
        return ExitCode.NOT_UNDERSTOOD
    return ExitCode.WRONG if any(row.result == "differs" for row in rows) else ExitCode.OK


def lines(rows: Iterable[presets.Held]) -> Iterator[str]:
    """A line for each tree and mode, and below it what is not equal."""
    for row in rows:
        yield f"{row.preset:<4} {row.mode:<9} {row.release:<9} {row.result}: {plural(len(row.equal), 'function')} equal"
        if row.behaviours:
            yield f"     other behaviours: {', '.join(row.behaviours)}"
        for name, variables in row.differ.items():
            yield f"     {name} differs in {', '.join(variables)}"
        for name, why in row.unread.items():
            yield f"     {name}: not read: {why}"
