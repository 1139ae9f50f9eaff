"""``python -m formal.prove``: proves the claims, compares with the expected verdicts, reports. See ``--help``.

The command itself is ``formal.commands.prove``; here is only what must work before it is loaded: an interruption
while Z3 and the rest are being imported ends the command as any other does.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

INTERRUPTED = 130


def _interrupted(*_: object) -> None:
    os.write(2, b"formal.prove: interrupted; nothing was written\n")
    os._exit(INTERRUPTED)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    from formal.commands import prove

    return prove.main(argv)


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # terms are many, and in no cycles: the default would look through them often
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    from formal.commands import prove  # loaded under the handlers above

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = prove.main()
    with suppress(BrokenPipeError):  # whoever read the output has had enough
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()  # temporary directories go
    os._exit(code)  # taking Z3's memory apart term by term takes as long as importing it
