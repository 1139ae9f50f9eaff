"""``python -m formal.export``: writes the transition systems for other model checkers. See ``--help``."""

from __future__ import annotations

import sys

from formal.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
