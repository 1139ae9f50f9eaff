"""A trace as a pytest file of its own, which replays it and compares every step with what is written down in it."""

from __future__ import annotations

import json
from typing import Any

from formal.evidence.runs.replay import Replay, Seen
from formal.evidence.runs.traces import Trace, encode, to_json
from formal.scope.configuration import Configuration

TEMPLATE = '''"""A run of {configuration} after which {check} is false:

{says}

Written by `python -m formal.prove --explain`. Run it with pytest where this project can be
imported; no solver takes part.
"""

import json

from formal.scope.configuration import Configuration
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import encode, from_json
from formal.system import System
from formal.evidence.runs.witnesses import known_checks

CONFIGURATION = Configuration({name!r}, {mode!r})
BREAKPOINTS = {breakpoints}
CHECK = {check!r}
BROKEN_AT = {broken_at}  # after this step
TRACE = json.loads(
    r"""
{trace}
"""
)
CHANGES = json.loads(  # what each step changes
    r"""
{changes}
"""
)


def replay():
    return Replay(System(CONFIGURATION.kernel(BREAKPOINTS)))


def test_the_run_breaks_the_claim():
    assert replay().violates(from_json(TRACE), known_checks(CONFIGURATION)[CHECK]) == BROKEN_AT


def test_every_step_does_what_is_written_down():
    runs = [seen for seen in replay().run(from_json(TRACE)) if seen.step is not None]
    found = [{{n: encode(v) for n, v in seen.after.items() if v != seen.before[n]}} for seen in runs]
    assert found == CHANGES
'''


def test_file(configuration: Configuration, check: str, says: str, replay: Replay, trace: Trace, broken_at: int) -> str:
    """The text of the file, for a trace that breaks a check after a step; later steps are left out.

    Raises:
        ReplayError, TraceError: if the trace is no run of the system.
    r"""
    short = Trace(trace.initial, trace.steps[:broken_at])
    changes = [_changes(seen) for seen in replay.run(short) if seen.step is not None]
    return TEMPLATE.format(
        configuration=configuration,
        name=configuration.name,
        mode=configuration.mode,
        breakpoints=replay.system.kernel.breakpoints,
        check=check,
        says=says,
        broken_at=broken_at,
        trace=json.dumps(to_json(short), indent=1),
        changes=json.dumps(changes, indent=1, sort_keys=True),
    )


def _changes(seen: Seen) -> dict[str, Any]:
    return {name: encode(v) for name, v in seen.after.items() if v != seen.before[name]}
