"""Where a claim stands in ``formal/properties.py``."""

from __future__ import annotations

import ast
from functools import cache

from formal.common.places import FORMAL

PROPERTIES = "formal/properties.py"


def line_of(name: str) -> int:
    """The line on which a claim, variant or scenario of this name is written; 0 if there is none."""
    return _lines().get(name, 0)


@cache
def _lines() -> dict[str, int]:
    tree = ast.parse((FORMAL / "properties.py").read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node.lineno for target in targets if isinstance(target, ast.Name)}
            texts = (n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
            found |= {str(n.value): n.lineno for n in texts if str(n.value) not in found}
    return found
