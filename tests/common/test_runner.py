"""How a command begins where something that it needs is not installed."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

WITHOUT = (
    "import sys; sys.modules['z3'] = None; from formal.commands.door import start_command; start_command('prove', [])"
)


def test_a_package_that_is_not_installed_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"formal.prove: z3 is not installed for {sys.executable}: README.md, Start\n"
