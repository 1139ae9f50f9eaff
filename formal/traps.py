"""``python -m formal.traps``: says what a value of MDCR_EL2 traps. See ``--help``."""

from __future__ import annotations

import sys

from formal.commands.traps import main

if __name__ == "__main__":
    sys.exit(main())
