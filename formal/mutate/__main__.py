"""``python -m formal.mutate TREE``: every small edit of the modelled C. See ``--help``."""

from __future__ import annotations

from formal.commands.door import start_command

if __name__ == "__main__":
    start_command("mutate")
