"""``python -m formal.prove``: proves the claims, compares with the expected verdicts, reports. See ``--help``.

The command itself is ``formal.command``; here is only what must work before it is loaded: an interruption while Z3 and
the rest are being imported ends the command as any other does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def _interrupted(*_: object) -> None:
    os.write(2, b"formal.prove: interrupted; nothing was written\n")
    os._exit(INTERRUPTED)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    from formal import command

    return command.main(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    from formal import command  # loaded under the handlers above

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(command.main())
