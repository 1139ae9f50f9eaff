"""``python -m formal.conform PART``: the model against the world, one part at a time."""

from __future__ import annotations

from formal.commands.door import start_command

if __name__ == "__main__":
    start_command("conform")
