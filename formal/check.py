"""``python -m formal.check``: checks all evidence. See ``--help``."""

from __future__ import annotations

import gc
import sys

from formal.commands.check import main

if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # as formal/prove.py
    sys.exit(main())
